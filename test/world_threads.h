/* A world of threads: a function run on each rank. On a GPU (test/device.h) rank i is on device i, and NCCL is between
 * them. */
#ifndef CAVMAE_TEST_WORLD_THREADS_H
#define CAVMAE_TEST_WORLD_THREADS_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "device.h"

typedef void rank_body(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg);

typedef struct rank_thread {
    pthread_t thread;
    cavmae_world *world;
    cavmae_context *context;
    cavmae_world_options options;
    const uint8_t *id; /* of NCCL; NULL: the world is there */
    rank_body *body;
    void *arg;
} rank_thread;

static inline int ranks_on_gpus(void) {
    const char *device = getenv("CAVMAE_TEST_DEVICE");
    return device && strncmp(device, "cuda", 4) == 0;
}

/* NULL: there is no such device. */
static inline cavmae_context *rank_context(int32_t rank) {
    cavmae_context_options options = test_options(1);
    cavmae_context *context = NULL;
    char device[32];
    snprintf(device, sizeof device, "cuda:%d", (int)rank);
    if (ranks_on_gpus()) options.device = device;
    return cavmae_context_create(&options, &context) == CAVMAE_OK ? context : NULL;
}

static inline void *rank_main(void *argument) {
    rank_thread *r = argument;
    if (r->id && !CHECK_OK(cavmae_world_create_nccl(r->context, &r->options, r->id, &r->world))) exit(1);
    r->body(r->world, r->context, r->options.rank, r->arg);
    cavmae_world_free(r->world);
    return NULL;
}

/* Runs body on `size` threads, each with a context of one thread and a world, both freed afterwards; returns when all have
 * ended. options may be NULL. */
static inline void run_ranks(int32_t size, const cavmae_world_options *options, rank_body *body, void *arg) {
    if (size < 1) return;
    cavmae_context **contexts = calloc((size_t)size, sizeof *contexts);
    cavmae_world **worlds = calloc((size_t)size, sizeof *worlds);
    rank_thread *ranks = calloc((size_t)size, sizeof *ranks);
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    if (!contexts || !worlds || !ranks) exit(1);
    for (int32_t i = 0; i < size; i++)
        if (!CHECK(contexts[i] = rank_context(i))) exit(1);
    if (ranks_on_gpus() ? !CHECK_OK(cavmae_nccl_id(contexts[0], id))
                        : !CHECK_OK(cavmae_world_create_threads(contexts, size, options, worlds)))
        exit(1);
    for (int32_t i = 0; i < size; i++) {
        ranks[i] = (rank_thread){
            .world = worlds[i], .context = contexts[i], .id = ranks_on_gpus() ? id : NULL, .body = body, .arg = arg};
        if (options) ranks[i].options = *options;
        ranks[i].options.struct_size = sizeof ranks[i].options;
        ranks[i].options.rank = i;
        ranks[i].options.size = size;
        if (pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) != 0) exit(1);
    }
    for (int32_t i = 0; i < size; i++) pthread_join(ranks[i].thread, NULL);
    for (int32_t i = 0; i < size; i++) cavmae_context_free(contexts[i]);
    free(ranks);
    free(worlds);
    free(contexts);
}

#endif
