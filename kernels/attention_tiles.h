/* Rows of one head in shared memory, and their products by tensor cores, for attention in bfloat16.
 *
 * A tile's rows are cut into chunks of 16 bytes, which are permuted within each 128 bytes, so that the 8 rows that one
 * matrix load takes at a time lie in different banks. Sums are in the layout of mma's d (tensor_core.h): a lane has two
 * columns of the rows lane / 4 and lane / 4 + 8 of each 16 x 8. */
#ifndef CAVMAE_KERNELS_ATTENTION_TILES_H
#define CAVMAE_KERNELS_ATTENTION_TILES_H

#include "attention_part.h"
#include "tensor_core.h"

enum { ATTENTION_THREADS = 128, ATTENTION_WARPS = 4, ATTENTION_ROWS = 64, ATTENTION_GROUPS = ATTENTION_ROWS / 16 };

static constexpr float LOG2_E = 1.4426950408889634f;

template <int dim, int rows> struct row_tile {
    enum { DIM = dim, ROWS = rows, CHUNKS = dim / 8 };
    uint4 chunk[rows][dim / 8];

    /* Chunk `column` of row `base` + `row`, base a multiple of 8 on which the permutation does not depend. */
    __device__ __forceinline__ uint4 *at(int base, int row, int column) {
        return &chunk[base + row][column ^ (row / (8 / CHUNKS) % CHUNKS)];
    }
};

/* The same register in all lanes, which the compiler would not know of threadIdx.x / 32. */
static __device__ __forceinline__ int warp_number() {
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / CAVMAE__WARP, 0);
}

/* Starts copying a head's rows from `first` into the tile; zeros beyond the segment's end. A segment's chunks are
 * counted in 32 bits: more of them could not be attended to in a lifetime. */
template <typename Tile>
static __device__ __forceinline__ void copy_rows(Tile *tile, const head_rows<const __nv_bfloat16> &from, int first,
                                                 int length) {
    const int row = (int)threadIdx.x / Tile::CHUNKS, column = (int)threadIdx.x % Tile::CHUNKS;
    const int stride = (int)(from.stride / 8), step = ATTENTION_THREADS / Tile::CHUNKS;
    const uint4 *source = reinterpret_cast<const uint4 *>(from.data);
#pragma unroll
    for (int base = 0; base < Tile::ROWS; base += step)
        cavmae__copy_async(tile->at(base, row, column), source + ((first + base + row) * stride + column),
                           first + base + row < length);
}

/* Rows row .. row + 15 as the left side of a product: a[k] has columns 16 k .. 16 k + 15. */
template <int dim, int rows>
static __device__ __forceinline__ void load_left(uint32_t a[dim / 16][4], row_tile<dim, rows> *tile, int row) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll
    for (int k = 0; k < dim / 16; k++) cavmae__load_tiles(a[k], tile->at(row, lane % 16, 2 * k + lane / 16));
}

/* sum[t] += a[t] b^T, b = the tile's rows row .. row + 15: 16 x 16 each, as two of 16 x 8. */
template <int count, int dim, int rows>
static __device__ __forceinline__ void multiply_rows(float sum[count][2][4], const uint32_t a[count][dim / 16][4],
                                                     row_tile<dim, rows> *tile, int row) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll
    for (int k = 0; k < dim / 16; k++) {
        uint32_t b[4];
        cavmae__load_tiles(b, tile->at(row, lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
        for (int t = 0; t < count; t++) {
            cavmae__mma_bf16(sum[t][0], a[t][k], b);
            cavmae__mma_bf16(sum[t][1], a[t][k], b + 2);
        }
    }
}

/* sum[t] += a[t] b, a 16 x 16, b = the tile's rows row .. row + 15, all columns. */
template <int count, int dim, int rows>
static __device__ __forceinline__ void multiply_columns(float sum[count][dim / 8][4], const uint32_t a[count][4],
                                                        row_tile<dim, rows> *tile, int row) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll
    for (int c = 0; c < dim / 8; c += 2) {
        uint32_t b[4];
        cavmae__load_tiles_transposed(b, tile->at(row, lane % 16, c + lane / 16));
#pragma unroll
        for (int t = 0; t < count; t++) {
            cavmae__mma_bf16(sum[t][c], a[t], b);
            cavmae__mma_bf16(sum[t][c + 1], a[t], b + 2);
        }
    }
}

/* A product's sums, 16 x 16, rounded: a lane holds the very elements that the next product wants of its left side. */
static __device__ __forceinline__ void as_left(uint32_t a[4], const float sum[2][4]) {
    a[0] = cavmae__pack_bf16(sum[0][0], sum[0][1]);
    a[1] = cavmae__pack_bf16(sum[0][2], sum[0][3]);
    a[2] = cavmae__pack_bf16(sum[1][0], sum[1][1]);
    a[3] = cavmae__pack_bf16(sum[1][2], sum[1][3]);
}

/* Writes a warp's `count` x 16 rows of sums, times a factor for each row (of the lane's rows, two a 16), to the head's
 * rows from `first`, as far as there are any: through the tile's rows from `row`, which are this warp's own by now. */
template <int count, int dim, int rows>
static __device__ __forceinline__ void store_sums(const head_rows<__nv_bfloat16> &to, int first, int length,
                                                  const float sum[count][dim / 8][4], const float factor[count][2],
                                                  row_tile<dim, rows> *tile, int row) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP, group = lane / 4, four = lane % 4;
    __syncwarp(0xffffffffu);
#pragma unroll
    for (int t = 0; t < count; t++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int c = 0; c < dim / 8; c++) {
                uint32_t *chunk = reinterpret_cast<uint32_t *>(tile->at(row + 16 * t + 8 * half, group, c));
                chunk[four] =
                    cavmae__pack_bf16(sum[t][c][2 * half] * factor[t][half], sum[t][c][2 * half + 1] * factor[t][half]);
            }
    __syncwarp(0xffffffffu);
    const int chunks = dim / 8;
    for (int i = lane; i < count * 16 * chunks; i += CAVMAE__WARP) {
        const int line = i / chunks, column = i % chunks;
        if (first + line >= length) continue;
        *reinterpret_cast<uint4 *>(to.data + (first + line) * to.stride + column * 8) = *tile->at(row, line, column);
    }
}

/* 16-row groups of a tile from `first` that have rows of the segment. */
static __device__ __forceinline__ int groups_of(int first, int length) {
    const int groups = (length - first + 15) / 16;
    return groups < ATTENTION_GROUPS ? groups : ATTENTION_GROUPS;
}

#endif
