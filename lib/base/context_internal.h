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
    char *tuning_file;              /* or NULL */
    char device[24];                /* "cpu" or "cuda:N" */
    int32_t matmul, attention;      /* CAVMAE__MATMUL_*, CAVMAE__ATTENTION_* */
    cavmae__pool *pool;

    void *device_plugin; /* where the device needs one: opened with the context, and the backend with it */
    const struct cavmae__device_plugin *device_functions; /* its; NULL: not open */

    /* `lock` guards what follows: set on first use, by whichever thread comes first. */
    pthread_mutex_t lock;
    void *backend;
    void (*backend_close)(void *backend); /* called when the last reference goes, while the allocator still works */
    cavmae_decoder decoder;
    int decoder_set;
    void *media_plugin; /* closed with the context */
};

#endif
