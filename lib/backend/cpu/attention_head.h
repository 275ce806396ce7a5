/* One head's rows inside qkv or o, and how attention copies them to and from scratch. */
#ifndef CAVMAE_BACKEND_CPU_ATTENTION_HEAD_H
#define CAVMAE_BACKEND_CPU_ATTENTION_HEAD_H

#include "product.h"

typedef struct head_rows {
    const void *data;
    int bf16;
    int64_t row;   /* elements from one row to the next */
    int64_t first; /* element where the first row's head starts */
    int64_t dim;
} head_rows;

/* which: 0 queries, 1 keys, 2 values, of the rows from `start`. */
static inline head_rows head_of(const cavmae__attention *op, int64_t start, int64_t head, int64_t which) {
    const int64_t width = (int64_t)op->heads * op->head_dim;
    return (head_rows){op->qkv, op->dtype == CAVMAE_BFLOAT16, 3 * width,
                       start * 3 * width + which * width + head * op->head_dim, op->head_dim};
}

VEC_INLINE void head_copy_as(const head_rows *h, int64_t first, int64_t rows, float scale, float *to, int64_t to_row,
                             int bf16) {
    const int64_t whole = h->dim - h->dim % VEC_WIDTH;
    const int part = (int)(h->dim - whole);
    for (int64_t i = 0; i < rows; i++, to += to_row) {
        const int64_t at = h->first + (first + i) * h->row;
        for (int64_t j = 0; j < whole; j += VEC_WIDTH) vec_store(to + j, vec_load_as(h->data, at + j, bf16) * scale);
        if (!part) continue;
        vec last = vec_load_part_as(h->data, at + whole, part, bf16) * scale;
        if (to_row > h->dim)
            vec_store(to + whole, last);
        else
            vec_store_part(to + whole, last, part);
    }
}

/* Rows as float32 times `scale`; to_row is dim, or dim padded to whole vectors, with zeros. */
static inline void head_copy(const head_rows *h, int64_t first, int64_t rows, float scale, float *to, int64_t to_row) {
    if (h->bf16)
        head_copy_as(h, first, rows, scale, to, to_row, 1);
    else
        head_copy_as(h, first, rows, scale, to, to_row, 0);
}

/* All rows transposed, as panels of a product's b: column j is row j; zeros beyond `rows`. */
static inline void head_panels(const head_rows *h, int64_t rows, float *to) {
    float wide[CAVMAE__PANEL * VEC_WIDTH];
    for (int64_t j = 0; j < rows; j += CAVMAE__PANEL, to += CAVMAE__PANEL * h->dim) {
        int64_t count = cavmae__smaller(CAVMAE__PANEL, rows - j);
        if (count < CAVMAE__PANEL) memset(to, 0, (size_t)(CAVMAE__PANEL * h->dim) * sizeof *to);
        if (!h->bf16) {
            CAVMAE__SIMD(transpose)
            ((const float *)h->data + h->first + j * h->row, h->row, count, h->dim, to, CAVMAE__PANEL);
            continue;
        }
        for (int64_t d = 0; d < h->dim; d += VEC_WIDTH) {
            const head_rows slice = {h->data, 1, h->row, h->first + d, cavmae__smaller(VEC_WIDTH, h->dim - d)};
            head_copy(&slice, j, count, 1.0f, wide, VEC_WIDTH);
            CAVMAE__SIMD(transpose)(wide, VEC_WIDTH, count, slice.dim, to + d * CAVMAE__PANEL, CAVMAE__PANEL);
        }
    }
}

/* Row i of `data`, which is laid out like h, = from * scale. */
static inline void head_store(const head_rows *h, void *data, int64_t i, const float *from, float scale) {
    const int64_t whole = h->dim - h->dim % VEC_WIDTH, at = h->first + i * h->row;
    const int part = (int)(h->dim - whole);
    if (h->bf16) {
        for (int64_t j = 0; j < whole; j += VEC_WIDTH) vec_store_as(data, at + j, vec_load(from + j) * scale, 1);
        if (part) vec_store_part_as(data, at + whole, vec_load_part(from + whole, part) * scale, part, 1);
    } else {
        for (int64_t j = 0; j < whole; j += VEC_WIDTH) vec_store_as(data, at + j, vec_load(from + j) * scale, 0);
        if (part) vec_store_part_as(data, at + whole, vec_load_part(from + whole, part) * scale, part, 0);
    }
}

/* x[j] = e^(x[j] - max) for a row padded to whole vectors, zeros in the padding; returns their sum.
 * lse: log of the sum of e^x, or NULL. */
static inline float softmax_row(float *x, int64_t count, float *lse) {
    const int64_t end = cavmae__round_up(count, VEC_WIDTH);
    for (int64_t j = count; j < end; j++) x[j] = -INFINITY;
    vec most = vec_load(x), sum = {0};
    for (int64_t j = VEC_WIDTH; j < end; j += VEC_WIDTH) most = vec_max(most, vec_load(x + j));
    const float largest = vec_largest(most);
    for (int64_t j = 0; j < end; j += VEC_WIDTH) {
        vec e = vec_exp(vec_load(x + j) - largest);
        vec_store(x + j, e);
        sum += e;
    }
    float total = vec_sum(sum);
    if (lse) *lse = largest + logf(total);
    return total;
}

#endif
