/* An allocator for a context's options that fails when told to, and knows how many blocks are in use: for tests that
 * walk through every allocation of a call. */
#ifndef CAVMAE_TEST_FAILING_ALLOCATOR_H
#define CAVMAE_TEST_FAILING_ALLOCATOR_H

#include <stdatomic.h>
#include <stdlib.h>

#include "device.h"

typedef struct failing_allocator {
    atomic_long calls;  /* allocations asked for */
    atomic_long blocks; /* in use */
    long fail_at;       /* the allocation that fails, from 1; 0: none */
    int fail_after;     /* 1: all later ones fail too */
} failing_allocator;

static inline void *failing_alloc(void *user, size_t size) {
    failing_allocator *a = user;
    long call = atomic_fetch_add(&a->calls, 1) + 1;
    if (a->fail_at && (call == a->fail_at || (a->fail_after && call > a->fail_at))) return NULL;
    void *memory = malloc(size);
    if (memory) atomic_fetch_add(&a->blocks, 1);
    return memory;
}

static inline void failing_free(void *user, void *memory) {
    failing_allocator *a = user;
    atomic_fetch_sub(&a->blocks, 1);
    free(memory);
}

static inline cavmae_context_options failing_options(failing_allocator *a) {
    cavmae_context_options options = test_options(0);
    options.alloc = failing_alloc;
    options.free = failing_free;
    options.alloc_user = a;
    return options;
}

#endif
