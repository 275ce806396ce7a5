/* A folder of media files in place of a manifest. */
#ifndef CAVMAE_DATA_FOLDER_H
#define CAVMAE_DATA_FOLDER_H

#include "context.h"

typedef struct cavmae__folder cavmae__folder;

/* The media files in `path` and the folders in it, in order of their path's bytes. Media files are known by their
 * names' endings; hidden files and folders are left out, and so are symbolic links to folders, which may go round in
 * circles. IO: a folder that cannot be read. FORMAT: no media file in it. */
cavmae_status cavmae__folder_open(cavmae_context *context, const char *path, cavmae__folder **out);
void cavmae__folder_free(cavmae__folder *folder); /* NULL is fine */

int64_t cavmae__folder_count(const cavmae__folder *folder);

/* Path relative to the folder. */
const char *cavmae__folder_name(const cavmae__folder *folder, int64_t index);

#endif
