/* Attention by whoever is asked for, or is faster: our kernels or cuDNN. */
#include "attention.h"

#include "attention_choice.h"
#include "cudnn_attention.h"

cavmae_status cavmae__cuda_attention(cavmae__backend *backend, const cavmae__attention *op) {
    int32_t by;
    CAVMAE__TRY(cavmae__attention_choose(backend, op, 0, cavmae__cuda_own_attention, &by));
    return by == CAVMAE__ATTENTION_CUDNN ? cavmae__cudnn_attention(backend, op)
                                         : cavmae__cuda_own_attention(backend, op);
}

cavmae_status cavmae__cuda_attention_grad(cavmae__backend *backend, const cavmae__attention *op) {
    int32_t by;
    CAVMAE__TRY(cavmae__attention_choose(backend, op, 1, cavmae__cuda_own_attention_grad, &by));
    return by == CAVMAE__ATTENTION_CUDNN ? cavmae__cudnn_attention_grad(backend, op)
                                         : cavmae__cuda_own_attention_grad(backend, op);
}

/* Two floats for every query of the backward pass (attention_part.h); cuDNN's memory is its own. */
size_t cavmae__cuda_attention_workspace(const cavmae__limits *limits) {
    return limits->backward ? (size_t)limits->rows * (size_t)limits->heads * 2 * sizeof(float) : 0;
}
