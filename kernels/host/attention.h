/* Attention by kernels of our own: any length, head_dim up to CAVMAE__ATTENTION_DIM. bfloat16 with head_dim 32 or 64
 * goes through tensor cores, everything else is exact to float32 sums. */
#ifndef CAVMAE_KERNELS_ATTENTION_H
#define CAVMAE_KERNELS_ATTENTION_H

#include "cuda_backend.h"

enum { CAVMAE__ATTENTION_DIM = 256 };

#ifdef __cplusplus
extern "C" {
#endif

cavmae_status cavmae__cuda_own_attention(cavmae__backend *backend, const cavmae__attention *op);
cavmae_status cavmae__cuda_own_attention_grad(cavmae__backend *backend, const cavmae__attention *op);

/* The float32 path of both (attention_exact.cu). */
cavmae_status cavmae__cuda_exact_attention(cavmae__backend *backend, const cavmae__attention *op);
cavmae_status cavmae__cuda_exact_attention_grad(cavmae__backend *backend, const cavmae__attention *op);

/* kernels/attention_lse.cu, for cuDNN going back: y [count, heads, length] = lse of count segments of `length` rows. */
cavmae_status cavmae__cuda_lse_by_head(cavmae__backend *backend, const float *lse, int64_t count, int64_t length,
                                       int32_t heads, float *y);

static inline int cavmae__attention_on_tensor_cores(const cavmae__attention *op) {
    return op->dtype == CAVMAE_BFLOAT16 && (op->head_dim == 32 || op->head_dim == 64);
}

#ifdef __cplusplus
}
#endif

#endif
