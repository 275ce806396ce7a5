/* A search index from the inside, and searching it on a device. */
#ifndef CAVMAE_INFER_DEVICE_SEARCH_H
#define CAVMAE_INFER_DEVICE_SEARCH_H

#include <pthread.h>

#include "backend.h"

typedef struct cavmae__index_chunk {
    float *rows; /* [capacity, dim]; a mapped chunk has no room left, and is never written to */
    int64_t count, capacity;
    int32_t mapped;
    float *device;  /* [capacity, dim]: the device's copy, NULL before the first search there */
    int64_t copied; /* rows in it; chunks only ever grow */
} cavmae__index_chunk;

struct cavmae_index {
    cavmae_context *context;
    cavmae_safetensors *file; /* keeps mapped chunks alive; NULL: none */
    cavmae__index_chunk *chunks;
    int32_t chunk_count, chunk_capacity;
    int32_t dim;
    int64_t count;
    pthread_mutex_t lock; /* of the chunks' device copies: searches may run at once */
};

/* As cavmae_index_search, whose arguments it takes once they are looked at, on a backend with top_k. Rows that it does
 * not have yet are copied to the device first. */
cavmae_status cavmae__device_search(cavmae_index *index, cavmae__backend *backend, const float *queries, int64_t count,
                                    int32_t k, int64_t *ids, float *scores);

/* Frees what the chunk has on the device of its context. */
void cavmae__device_rows_free(cavmae_context *context, cavmae__index_chunk *chunk);

#endif
