/* The simulator's twins of kernels/tensor_core.h, which says what each does: same names, same fragment layouts, written
 * down from the PTX ISA once more rather than shared, so that a mistake in one shows. */
#ifndef CUDASIM_TENSOR_CORE_H
#define CUDASIM_TENSOR_CORE_H

CUDASIM_HIDDEN void cudasim_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, const char *file, int line);
CUDASIM_HIDDEN void cudasim_load_tiles(uint32_t *r, const void *shared, int transposed, const char *file, int line);
CUDASIM_HIDDEN void cudasim_copy_async(void *shared, const void *global, int valid, const char *file, int line);
CUDASIM_HIDDEN void cudasim_copy_commit();
CUDASIM_HIDDEN void cudasim_copy_wait(int pending);

/* Products and sums in double, rounded to float once. */
static inline void cavmae__mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], CUDASIM_HERE) {
    cudasim_mma_bf16(d, a, b, file, line);
}

static inline void cavmae__load_tiles(uint32_t r[4], const void *shared, CUDASIM_HERE) {
    cudasim_load_tiles(r, shared, 0, file, line);
}

static inline void cavmae__load_tiles_transposed(uint32_t r[4], const void *shared, CUDASIM_HERE) {
    cudasim_load_tiles(r, shared, 1, file, line);
}

/* Copied by the wait, and not before: what reads without waiting finds old bytes. */
static inline void cavmae__copy_async(void *shared, const void *global, int valid, CUDASIM_HERE) {
    cudasim_copy_async(shared, global, valid, file, line);
}
static inline void cavmae__copy_commit() { cudasim_copy_commit(); }
template <int pending> static inline void cavmae__copy_wait() {
    static_assert(pending >= 0, "groups that may still be under way");
    cudasim_copy_wait(pending);
}

static inline float cavmae__exp2(float x) { return exp2f(x); }

#endif
