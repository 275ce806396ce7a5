/* Two walks over the same layout code: the first, without memory, adds up the size; the second hands out places. */
#ifndef CAVMAE_MODEL_ARENA_H
#define CAVMAE_MODEL_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct cavmae__arena {
    char *base;  /* NULL in the first walk */
    size_t used; /* SIZE_MAX once a size overflowed */
} cavmae__arena;

/* count * size bytes at a multiple of 64; NULL in the first walk, and for a count of 0. */
static inline void *cavmae__arena_take(cavmae__arena *arena, int64_t count, size_t size) {
    size_t bytes;
    if (count == 0) return NULL;
    if (arena->used == SIZE_MAX || __builtin_mul_overflow((size_t)count, size, &bytes) ||
        bytes > SIZE_MAX / 2 - arena->used) {
        arena->used = SIZE_MAX;
        return NULL;
    }
    char *place = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + 63) / 64 * 64;
    return place;
}

#define CAVMAE__TAKE(arena, pointer, count) ((pointer) = cavmae__arena_take((arena), (count), sizeof *(pointer)))

#endif
