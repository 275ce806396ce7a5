/* What a context is made of. For the files that attach something to it: lib/base, the backend, and the media
 * decoder. */
#ifndef CAVMAE_BASE_CONTEXT_INTERNAL_H
#define CAVMAE_BASE_CONTEXT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "context.h"
#include "pool.h"

struct cavmae_context {
    atomic_int references;
    cavmae_context_options options; /* all defaults filled in; device and plugin_dir point into this struct */
    char *plugin_dir;               /* NULL: beside the library */
    char device[24];                /* "cpu" or "cuda:N" */
    cavmae__pool *pool;

    /* Found by context creation when the device needs a plug-in; for the backend to use. */
    void *device_plugin;
    void *device_symbol;

    /* `lock` guards what follows: set on first use, by whichever thread comes first. */
    pthread_mutex_t lock;
    void *backend;
    void (*backend_close)(void *backend); /* called when the last reference goes, while the allocator still works */
    cavmae_decoder decoder;
    int decoder_set;
    void *media_plugin; /* closed with the context */
};

#endif
