/* Attention, forward and backward, as graphs of cuDNN: count segments of one length, tensors as backend.h has them. */
#ifndef CAVMAE_KERNELS_CUDNN_ATTENTION_GRAPH_H
#define CAVMAE_KERNELS_CUDNN_ATTENTION_GRAPH_H

#include "backend.h"
#include "cudnn_plan.h"

#ifdef CAVMAE__CUDNN

typedef struct cavmae__cudnn_shape {
    int64_t count, length, heads, head_dim;
    int32_t backward;
    int32_t stats; /* forward: 1 where op->lse is wanted */
} cavmae__cudnn_shape;

/* Begins the graph and builds its plans. composite: forward from products and reductions, which cuDNN knows as
 * attention when it sees them, instead of the one operation that versions before 9.21 have; they give the same kernels
 * in 9.19. The caller ends the graph, whatever the status. */
cavmae_status cavmae__cudnn_attention_plan(cavmae__cudnn_graph *graph, const cavmae__cudnn_library *cudnn,
                                           cudnnHandle_t handle, const char *device_json,
                                           const cavmae__cudnn_shape *shape, int32_t composite);

/* Bytes of workspace for any plan of the graph. */
int64_t cavmae__cudnn_attention_bytes(const cavmae__cudnn_graph *graph, const cavmae__cudnn_shape *shape);

/* Where in the workspace lse [count, heads, length] of these segments has to be before going back. */
float *cavmae__cudnn_attention_lse(const cavmae__cudnn_shape *shape, void *workspace);

/* Starts plan `number` on the segments that begin at row `first` of op's tensors. */
cudnnStatus_t cavmae__cudnn_attention_run(const cavmae__cudnn_graph *graph, int32_t number, cudnnHandle_t handle,
                                          const cavmae__cudnn_shape *shape, const cavmae__attention *op, int64_t first,
                                          void *workspace);

#endif
#endif
