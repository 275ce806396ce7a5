/* Matrix products on a device: a thin layer over cuBLASLt. Everything is row-major; cuBLASLt, which is column-major,
 * computes the transpose of it all. What describes a product, and the algorithm for it, is made when a shape is first
 * seen and kept, so that later steps only launch. Where cuBLASLt has nothing for a combination (odd widths, addresses
 * that are not aligned), a plain kernel computes the product: any shape works. */
#ifndef CAVMAE_KERNELS_MATMUL_H
#define CAVMAE_KERNELS_MATMUL_H

#include "cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A dtype of operands beside CAVMAE_FLOAT32 and CAVMAE_BFLOAT16. */
enum { CAVMAE__E4M3 = 1000 };

enum {
    CAVMAE__ACTIVATION_NONE,
    CAVMAE__ACTIVATION_GELU,     /* d = gelu(d), tanh form; what it was before goes to aux unless that is NULL */
    CAVMAE__ACTIVATION_GELU_GRAD /* d *= gelu'(aux), tanh form */
};

/* d [m, n] = alpha op(a) op(b) + beta c, then + bias, then the activation. op(a) is [m, k]: a itself, or, transposed,
 * the transpose of a [k, m]; op(b) is [k, n]: b, or the transpose of b [n, k]. Row strides are in elements, 0: packed.
 * Zero in the other fields means: not wanted. */
typedef struct cavmae__matmul {
    int64_t m, n, k;
    int32_t a_transposed, b_transposed;
    int32_t dtype;   /* of a and b; CAVMAE__E4M3: a not transposed, b transposed, k and n multiples of 16 */
    int32_t d_dtype; /* of c, d and aux, and of bias (CAVMAE__E4M3: that is bfloat16). float32 operands: float32 */
    int32_t tf32;    /* float32 operands may be rounded to 10 bits of mantissa */
    int32_t activation;
    int64_t a_stride, b_stride, d_stride, aux_stride;
    float alpha, beta;
    const void *a, *b;
    const void *c; /* row stride of d; may be d; NULL: d. Not read where beta is 0 */
    void *d;
    const void *bias; /* [n] */
    void *aux;        /* [m, n] */
    float *
        a_sums; /* [m]: sums over k of op(a); a transposed and packed; with d_dtype float32 and no bias or activation */
    void *scratch; /* for a_sums: column_sums_workspace(k, m) bytes */
    const float *a_scale,
        *b_scale; /* CAVMAE__E4M3: [m], [n], what a row of op(a) and a column of op(b) are multiplied by */
} cavmae__matmul;

/* CAVMAE_E_UNSUPPORTED: CAVMAE__E4M3 on a device that cannot. */
cavmae_status cavmae__cuda_matmul(cavmae__backend *backend, const cavmae__matmul *op);

/* At the end of opening the backend (it allocates), at the start of closing it: cuda->matmuls, where NULL is fine. */
cavmae_status cavmae__matmuls_open(cavmae__cuda *cuda);
void cavmae__matmuls_close(cavmae__cuda *cuda);

/* kernels/matmul.cu. The product alone, by a plain kernel, strides filled in: not CAVMAE__E4M3. */
cavmae_status cavmae__cuda_matmul_plain(cavmae__backend *backend, const cavmae__matmul *op);
/* Bias and activation of a d that holds the product. */
cavmae_status cavmae__cuda_matmul_finish(cavmae__backend *backend, const cavmae__matmul *op);

/* kernels/convert.cu. Two float32 arrays to bfloat16 in one launch. */
cavmae_status cavmae__cuda_narrow(cavmae__backend *backend, const float *x0, void *y0, int64_t count0, const float *x1,
                                  void *y1, int64_t count1);
/* y += x. */
cavmae_status cavmae__cuda_add(cavmae__backend *backend, const float *x, float *y, int64_t count);
/* y [rows, columns] = x / scale as e4m3, scale [rows] = largest magnitude in the row / 448. */
cavmae_status cavmae__cuda_scale_rows(cavmae__backend *backend, const void *x, int32_t dtype, int64_t rows,
                                      int32_t columns, void *y, float *scale);

#ifdef __cplusplus
}
#endif

#endif
