/* A file that is there whole or not at all: written under another name in the same directory, made durable, then
 * renamed over the old one. Needs no memory of a context, so that no write fails for want of it. */
#ifndef CAVMAE_IO_ATOMIC_FILE_H
#define CAVMAE_IO_ATOMIC_FILE_H

#include "status.h"

typedef struct cavmae__atomic_file {
    const char *path; /* the caller's, who keeps it until the end */
    const char *name; /* path without its directory */
    int directory, descriptor;
    char temporary[64]; /* name in the directory */
    size_t used;
    char buffer[16384];
} cavmae__atomic_file;

/* What stands at path must be a regular file, or nothing; a symbolic link is itself replaced. Then any number of
 * _write, and one of _commit and _abandon; _commit that fails has abandoned. Errors: IO, with path and reason. */
cavmae_status cavmae__atomic_file_open(cavmae__atomic_file *file, const char *path);
cavmae_status cavmae__atomic_file_write(cavmae__atomic_file *file, const void *data, size_t size);
/* Bytes that were written already, anew. */
cavmae_status cavmae__atomic_file_overwrite(cavmae__atomic_file *file, size_t offset, const void *data, size_t size);
cavmae_status cavmae__atomic_file_commit(cavmae__atomic_file *file);
void cavmae__atomic_file_abandon(cavmae__atomic_file *file);

#endif
