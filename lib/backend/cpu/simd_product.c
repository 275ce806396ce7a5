#include "product.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* As many accumulators as the registers hold beside one row of b and one element of a. */
enum { MOST_ROWS_OF_1 = VEC_WIDTH >= 16 ? 12 : 8, MOST_ROWS_OF_2 = VEC_WIDTH >= 16 ? 12 : VEC_WIDTH >= 8 ? 6 : 4,
       MOST_ROWS_OF_3 = 8, MOST_ROWS_OF_4 = 6 };

/* rows x (vectors * VEC_WIDTH) elements of c; both are constants where this is used. */
VEC_INLINE void tile(int rows, int vectors, int64_t k, const float *a, int64_t a_row, int64_t a_column, const float *b,
                     int64_t b_row, float *c, int64_t c_row, int accumulate) {
    vec sum[12][4];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) sum[i][j] = accumulate ? vec_load(c + i * c_row + j * VEC_WIDTH) : (vec){0};
    for (int64_t l = 0; l < k; l++) {
        vec right[4];
        UNROLL
        for (int j = 0; j < vectors; j++) right[j] = vec_load(b + j * VEC_WIDTH);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vec left = vec_set(a[i * a_row]);
            UNROLL
            for (int j = 0; j < vectors; j++) sum[i][j] += left * right[j];
        }
        a += a_column;
        b += b_row;
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) vec_store(c + i * c_row + j * VEC_WIDTH, sum[i][j]);
}

VEC_INLINE void columns(int most_rows, int vectors, const cavmae__product *p, const float *b, float *c) {
    int64_t i = 0;
#define TILES(rows)                                                                                                    \
    for (; i + (rows) <= p->m; i += (rows))                                                                            \
    tile((rows), vectors, p->k, p->a + i * p->a_row, p->a_row, p->a_column, b, p->b_row, c + i * p->c_row, p->c_row, p->accumulate)
    TILES(most_rows);
    if (most_rows > 4) TILES(4);
    if (most_rows > 2) TILES(2);
    TILES(1);
#undef TILES
}

void CAVMAE__SIMD(product)(const cavmae__product *p) {
    for (int64_t j = 0; j < p->n; j += CAVMAE__PANEL) {
        const float *b = p->b + j / CAVMAE__PANEL * p->b_panel;
        float *c = p->c + j;
        switch (cavmae__smaller(p->n - j, CAVMAE__PANEL) / VEC_WIDTH) {
        case 1: columns(MOST_ROWS_OF_1, 1, p, b, c); break;
        case 2: columns(MOST_ROWS_OF_2, 2, p, b, c); break;
#if VEC_WIDTH >= 16
        case 3: columns(MOST_ROWS_OF_3, 3, p, b, c); break;
        default: columns(MOST_ROWS_OF_4, 4, p, b, c); break;
#endif
        }
    }
}

void CAVMAE__SIMD(transpose)(const float *from, int64_t row, int64_t columns, int64_t rows, float *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t l = 0; l < columns; l++) to[i * to_row + l] = from[l * row + i];
}
