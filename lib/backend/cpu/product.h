/* A matrix product inside one thread: the inner part of the linear layers and of attention.
 * c[i, j] = (accumulate ? c[i, j] : 0) + sum over l of a[i, l] b[l, j], added in rising l, one fused multiply-add
 * each: an element's bits do not depend on m and n, nor on how a sum over l is cut into calls. */
#ifndef CAVMAE_BACKEND_CPU_PRODUCT_H
#define CAVMAE_BACKEND_CPU_PRODUCT_H

#include "cpu_backend.h"
#include "vec.h"

/* Columns of a panel of b: as many vectors as the kernel takes at once. */
#define CAVMAE__PANEL (VEC_WIDTH >= 16 ? 4 * VEC_WIDTH : 2 * VEC_WIDTH)

typedef struct cavmae__product {
    int64_t m, n, k; /* n a multiple of VEC_WIDTH: b and c are padded to it */
    const float *a;  /* element (i, l) at a[i * a_row + l * a_column] */
    int64_t a_row, a_column;
    const float *b;         /* column j of row l at b[j / PANEL * b_panel + l * b_row + j % PANEL] */
    int64_t b_row, b_panel; /* plain rows: b_panel is PANEL */
    float *c;
    int64_t c_row;
    int accumulate;
    /* Called as soon as a tile of c is done, which lies at `tile`: rows from i, columns from j. Or NULL. */
    void (*finish)(const void *arg, const float *tile, int64_t i, int64_t rows, int64_t j, int64_t columns);
    const void *finish_arg;
} cavmae__product;

void CAVMAE__SIMD(product)(const cavmae__product *p);

/* to[i, l] = from[l, i] for i in [0, rows), l in [0, columns): a transposed copy. */
void CAVMAE__SIMD(transpose)(const float *from, int64_t from_row, int64_t columns, int64_t rows, float *to,
                             int64_t to_row);

#endif
