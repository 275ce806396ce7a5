/* Attention by cuDNN, where it can be had: bfloat16, head_dim a multiple of 8 up to 128, segments of one length, or a
 * few runs of such (the joint layer's three streams). Plans are built when a shape is first seen, about a second each,
 * and kept. Same call, same bits: the backward pass takes the form that adds in a fixed order, which keeps all scores in
 * memory: count * heads * length^2 * 2 bytes, length rounded up to cuDNN's tiles. */
#ifndef CAVMAE_KERNELS_CUDNN_ATTENTION_H
#define CAVMAE_KERNELS_CUDNN_ATTENTION_H

#include "cuda_backend.h"

/* At the end of opening the backend, at the start of closing it. Sets cuda->cudnn; looks for cuDNN only when it is asked
 * for. close: NULL is fine. */
cavmae_status cavmae__cudnn_open(cavmae__cuda *cuda);
void cavmae__cudnn_close(cavmae__cuda *cuda);

/* OK: cavmae__cudnn_attention (backward 1: _grad) will compute it; builds the plans if need be. UNSUPPORTED: cuDNN is not
 * there, or cannot do this shape; STATE: a step is being recorded, and the shape was never seen before; NOMEM: no room
 * for its workspace. */
cavmae_status cavmae__cudnn_can(cavmae__backend *backend, const cavmae__attention *op, int32_t backward);

/* As cavmae__cudnn_can, and BACKEND. */
cavmae_status cavmae__cudnn_attention(cavmae__backend *backend, const cavmae__attention *op);
cavmae_status cavmae__cudnn_attention_grad(cavmae__backend *backend, const cavmae__attention *op);

/* Segments of one length that follow each other. Gives how many runs there are, -1 for more than CAVMAE__ATTENTION_RUNS. */
enum { CAVMAE__ATTENTION_RUNS = 4 };
typedef struct cavmae__attention_run {
    int64_t count, length, first; /* segments; rows of each; first row */
} cavmae__attention_run;
int32_t cavmae__attention_runs(const cavmae__attention *op, cavmae__attention_run run[CAVMAE__ATTENTION_RUNS]);

/* The plan of each of op's runs, as a decimal digit each, first run first: which of those that cuDNN offers is used.
 * Before anything is chosen all are 0, the one that cuDNN expects to be fastest; what is chosen for a run's shape stays.
 * measure: runs them all, on op's own tensors, whose results are overwritten, and chooses; waits for the device;
 * milliseconds: of those chosen, together. set_plans: chooses as measured before; nothing changes where the digits do not
 * fit. Not while a step is recorded. */
cavmae_status cavmae__cudnn_measure_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                          int32_t *plans, float *milliseconds);
cavmae_status cavmae__cudnn_set_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                      int32_t plans);

/* "cuDNN 9.19.0", or why there is none. */
void cavmae__cudnn_describe(cavmae__backend *backend, char *text, size_t size);

#endif
