/* Which rows of which head of which segment a block of attention works on, and where they lie in memory. */
#ifndef CAVMAE_KERNELS_ATTENTION_PART_H
#define CAVMAE_KERNELS_ATTENTION_PART_H

#include "attention.h"
#include "cuda_kernel.h"

struct attention_part {
    int64_t start; /* the segment's first row */
    int length, head;
    int first; /* of the block's rows, within the segment */
};

static __host__ __device__ __forceinline__ int attention_parts(const cavmae__attention &op, int rows_each) {
    return (op.segments.longest + rows_each - 1) / rows_each;
}

/* A block for every `rows_each` rows of the longest segment, for every head of every segment. */
static inline dim3 attention_blocks(const cavmae__attention &op, int rows_each) {
    return dim3((unsigned)op.segments.count * (unsigned)op.heads * (unsigned)attention_parts(op, rows_each));
}

/* False for a block behind the end of a short segment. Blocks of the same keys follow one another. */
static __device__ __forceinline__ bool attention_part_of(const cavmae__attention &op, int rows_each,
                                                         attention_part *part) {
    const int parts = attention_parts(op, rows_each), block = (int)blockIdx.x;
    const int segment = block / parts / op.heads;
    part->start = op.segments.start[segment];
    part->length = (int)(op.segments.start[segment + 1] - part->start);
    part->head = block / parts % op.heads;
    part->first = block % parts * rows_each;
    return part->first < part->length;
}

/* A head's elements of the segment's row i: data[i * stride], ... */
template <typename T> struct head_rows {
    T *data;
    int64_t stride;
};

/* which: 0 queries, 1 keys, 2 values. */
template <typename T>
static __device__ __forceinline__ head_rows<T> qkv_rows(T *qkv, const cavmae__attention &op, const attention_part &part,
                                                        int which) {
    const int64_t width = (int64_t)op.heads * op.head_dim;
    return {qkv + part.start * 3 * width + which * width + (int64_t)part.head * op.head_dim, 3 * width};
}

template <typename T>
static __device__ __forceinline__ head_rows<T> o_rows(T *o, const cavmae__attention &op, const attention_part &part) {
    const int64_t width = (int64_t)op.heads * op.head_dim;
    return {o + part.start * width + (int64_t)part.head * op.head_dim, width};
}

/* What the backward pass knows of a query: the workspace holds it by head, then row. */
struct query_sums {
    float minus_lse; /* -log of the sum of exponentials, times what the exponential's base asks for */
    float delta;     /* sum over a head's columns of d_o o */
};

static __device__ __forceinline__ query_sums *query_sums_of(const cavmae__attention &op, const attention_part &part,
                                                            int64_t rows) {
    return static_cast<query_sums *>(op.workspace) + part.head * rows + part.start;
}

#endif
