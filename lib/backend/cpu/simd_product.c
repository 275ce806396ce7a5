#include "product.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* As many accumulators as the registers hold beside one row of b and one element of a. */
enum {
    MOST_ROWS_OF_1 = VEC_WIDTH >= 16 ? 12 : 8,
    MOST_ROWS_OF_2 = VEC_WIDTH >= 16  ? 12
                     : VEC_WIDTH >= 8 ? 6
                                      : 4,
    MOST_ROWS_OF_3 = 8,
    MOST_ROWS_OF_4 = 6
};

/* ---- The product ---- */

/* rows x (vectors * VEC_WIDTH) elements of c; both are constants where this is used. */
VEC_INLINE void tile(int rows, int vectors, int64_t k, const float *a, int64_t a_row, int64_t a_column, const float *b,
                     int64_t b_row, float *c, int64_t c_row, int accumulate) {
    vec sum[12][4];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) sum[i][j] = accumulate ? vec_load(c + i * c_row + j * VEC_WIDTH) : (vec){0};
    }
    for (int64_t l = 0; l < k; l++) {
        vec right[4];
        UNROLL
        for (int j = 0; j < vectors; j++) right[j] = vec_load(b + j * VEC_WIDTH);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vec left = vec_set(a[i * a_row]);
            UNROLL
            for (int j = 0; j < vectors; j++) sum[i][j] = vec_multiply_add(left, right[j], sum[i][j]);
        }
        a += a_column;
        b += b_row;
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) vec_store(c + i * c_row + j * VEC_WIDTH, sum[i][j]);
    }
}

VEC_INLINE void columns(int most_rows, int vectors, const cavmae__product *p, int64_t j) {
    const float *b = p->b + j / CAVMAE__PANEL * p->b_panel;
    int64_t i = 0;
#define TILES(rows)                                                                                                    \
    for (; i + (rows) <= p->m; i += (rows)) {                                                                          \
        float *c = p->c + i * p->c_row + j;                                                                            \
        tile((rows), vectors, p->k, p->a + i * p->a_row, p->a_row, p->a_column, b, p->b_row, c, p->c_row,              \
             p->accumulate);                                                                                           \
        if (p->finish) p->finish(p->finish_arg, c, i, (rows), j, vectors *VEC_WIDTH);                                  \
    }
    TILES(most_rows)
    if (most_rows > 4) TILES(4)
    if (most_rows > 2) TILES(2)
    TILES(1)
#undef TILES
}

void CAVMAE__SIMD(product)(const cavmae__product *p) {
    for (int64_t j = 0; j < p->n; j += CAVMAE__PANEL) {
        switch (cavmae__smaller(p->n - j, CAVMAE__PANEL) / VEC_WIDTH) {
        case 1: columns(MOST_ROWS_OF_1, 1, p, j); break;
        case 2: columns(MOST_ROWS_OF_2, 2, p, j); break;
#if VEC_WIDTH >= 16
        case 3: columns(MOST_ROWS_OF_3, 3, p, j); break;
        default: columns(MOST_ROWS_OF_4, 4, p, j); break;
#endif
        }
    }
}

/* ---- Transposing: VEC_WIDTH x VEC_WIDTH elements at a time, in registers ---- */

/* Exchanges the off-diagonal h x h blocks of each 2h x 2h block. */
#define FIRST(i, h) ((i) & (h) ? VEC_WIDTH + (i) - (h) : (i))
#define SECOND(i, h) ((i) & (h) ? VEC_WIDTH + (i) : (i) + (h))
#define EXCHANGE(h)                                                                                                    \
    UNROLL                                                                                                             \
    for (int i = 0; i < VEC_WIDTH; i++) {                                                                              \
        if (i & (h)) continue;                                                                                         \
        vec first = __builtin_shufflevector(x[i], x[i + (h)], VEC_ALL(FIRST, h));                                      \
        x[i + (h)] = __builtin_shufflevector(x[i], x[i + (h)], VEC_ALL(SECOND, h));                                    \
        x[i] = first;                                                                                                  \
    }

VEC_INLINE void transpose_block(const float *from, int64_t from_row, float *to, int64_t to_row) {
    vec x[VEC_WIDTH];
    UNROLL
    for (int i = 0; i < VEC_WIDTH; i++) x[i] = vec_load(from + i * from_row);
#if VEC_WIDTH == 16
    EXCHANGE(8)
#endif
#if VEC_WIDTH >= 8
    EXCHANGE(4)
#endif
    EXCHANGE(2)
    EXCHANGE(1)
    UNROLL
    for (int i = 0; i < VEC_WIDTH; i++) vec_store(to + i * to_row, x[i]);
}

void CAVMAE__SIMD(transpose)(const float *from, int64_t from_row, int64_t columns, int64_t rows, float *to,
                             int64_t to_row) {
    const int64_t whole_columns = columns - columns % VEC_WIDTH, whole_rows = rows - rows % VEC_WIDTH;
    for (int64_t l = 0; l < whole_columns; l += VEC_WIDTH)
        for (int64_t i = 0; i < whole_rows; i += VEC_WIDTH)
            transpose_block(from + l * from_row + i, from_row, to + i * to_row + l, to_row);
    for (int64_t l = 0; l < columns; l++)
        for (int64_t i = l < whole_columns ? whole_rows : 0; i < rows; i++) to[i * to_row + l] = from[l * from_row + i];
}
