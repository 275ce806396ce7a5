/* A whole file as read-only memory. The file may be replaced by rename or removed meanwhile; who cuts it short while it
 * is mapped makes the reader fault, as with any mapping. */
#ifndef CAVMAE_IO_MAPPED_FILE_H
#define CAVMAE_IO_MAPPED_FILE_H

#include <stdatomic.h>

#include "context.h"

typedef struct cavmae__mapped_file {
    cavmae_context *context;
    atomic_int references;
    char *path;       /* as it was given */
    const char *data; /* not zero-terminated */
    size_t size;
    void *map; /* NULL for an empty file */
} cavmae__mapped_file;

/* Regular files only. CAVMAE_E_IO names the file and says why. */
cavmae_status cavmae__mapped_file_open(cavmae_context *context, const char *path, cavmae__mapped_file **out);

/* Any thread. */
cavmae__mapped_file *cavmae__mapped_file_ref(cavmae__mapped_file *file);
void cavmae__mapped_file_unref(cavmae__mapped_file *file); /* NULL is fine */

#endif
