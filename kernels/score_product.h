/* Matrices of scores, each of these with each of those: computed some rows at a time, by products of float32 with all its
 * bits. */
#ifndef CAVMAE_KERNELS_SCORE_PRODUCT_H
#define CAVMAE_KERNELS_SCORE_PRODUCT_H

#include "matmul.h"

/* Elements of such a matrix at a time: 256 MiB of them. The simulator's are fewer, so that small matrices have parts. */
#ifndef CAVMAE__SCORES_MOST
#define CAVMAE__SCORES_MOST (64 << 20)
#endif

/* How many of `rows` rows at a time, of `columns` elements each. */
static inline int64_t cavmae__score_rows(int64_t rows, int64_t columns) {
    const int64_t room = CAVMAE__SCORES_MOST / columns, most = room > 1 ? room : 1;
    return rows < most ? rows : most;
}

/* Room for them, which does not fall when either number rises. */
static inline int64_t cavmae__score_room(int64_t rows, int64_t columns) {
    const int64_t most = CAVMAE__SCORES_MOST > columns ? CAVMAE__SCORES_MOST : columns;
    return rows * columns < most ? rows * columns : most;
}

/* A matrix as a product takes it. */
typedef struct cavmae__factor {
    const float *x; /* packed */
    int32_t transposed;
} cavmae__factor;

/* d [m, n] = a b, or with `accumulate` d + a b; a [m, k], b [k, n] after they are transposed. */
static inline cavmae_status cavmae__product(cavmae__backend *backend, cavmae__factor a, cavmae__factor b, float *d,
                                            int64_t m, int64_t n, int64_t k, int accumulate) {
    cavmae__matmul matmul = {};
    matmul.m = m;
    matmul.n = n;
    matmul.k = k;
    matmul.a_transposed = a.transposed;
    matmul.b_transposed = b.transposed;
    matmul.dtype = matmul.d_dtype = CAVMAE_FLOAT32;
    matmul.alpha = 1;
    matmul.beta = accumulate ? 1.0f : 0.0f;
    matmul.a = a.x;
    matmul.b = b.x;
    matmul.d = d;
    return cavmae__cuda_matmul(backend, &matmul);
}

#endif
