/* Sums over a block and over what blocks left in the workspace, in orders that are always the same. */
#ifndef CAVMAE_KERNELS_SUMS_H
#define CAVMAE_KERNELS_SUMS_H

#include "cuda_kernel.h"

/* One number of each thread, added up; every thread gets the sum. All threads of the block call it, whole warps; the
 * shared memory may be given to the next call at once. */
typedef struct cavmae__sum_shared {
    double warp[CAVMAE__WARP];
} cavmae__sum_shared;

static __device__ __forceinline__ double cavmae__block_sum(cavmae__sum_shared *shared, double x) {
    const int warp = (int)threadIdx.x / CAVMAE__WARP, warps = (int)blockDim.x / CAVMAE__WARP;
    x = cavmae__warp_sum(x);
    __syncthreads(); /* the last call's sums have been read */
    if (threadIdx.x % CAVMAE__WARP == 0) shared->warp[warp] = x;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < warps; i++) sum += shared->warp[i];
    return sum;
}

/* The sum of part [count], by one block; every thread gets it. */
static __device__ __forceinline__ double cavmae__sum_parts(cavmae__sum_shared *shared, const double *part,
                                                           int64_t count) {
    double sum = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += part[i];
    return cavmae__block_sum(shared, sum);
}

/* Column sums of what blocks of rows left, part [parts, stride]: a block takes 32 columns, and of each 16 threads take
 * every 16th part. `part` points at the thread's column, `to` at where its sum goes (NULL: beyond the last column). */
enum { CAVMAE__PART_COLUMNS = 32, CAVMAE__PART_SLICES = 16, CAVMAE__PART_THREADS = 32 * 16 };
typedef struct cavmae__part_shared {
    float sum[CAVMAE__PART_SLICES][CAVMAE__PART_COLUMNS];
} cavmae__part_shared;

static __device__ __forceinline__ void cavmae__add_parts(cavmae__part_shared *shared, const float *part, int64_t stride,
                                                         int64_t parts, float *to, int accumulate) {
    const int column = (int)threadIdx.x % CAVMAE__PART_COLUMNS, slice = (int)threadIdx.x / CAVMAE__PART_COLUMNS;
    float sum = 0.0f;
    if (to) {
#pragma unroll 8
        for (int64_t p = slice; p < parts; p += CAVMAE__PART_SLICES) sum += part[p * stride];
    }
    shared->sum[slice][column] = sum;
    __syncthreads();
    if (slice == 0 && to) {
        for (int i = 1; i < CAVMAE__PART_SLICES; i++) sum += shared->sum[i][column];
        *to = accumulate ? *to + sum : sum;
    }
}

#endif
