/* Graphs of cuDNN's backend API, and the plans that compute them. Every function does nothing once one has failed, so
 * that a graph is written down as a list of operations and its status asked for once. */
#ifndef CAVMAE_KERNELS_CUDNN_PLAN_H
#define CAVMAE_KERNELS_CUDNN_PLAN_H

#include "cudnn_library.h"

#ifdef CAVMAE__CUDNN

enum { CAVMAE__CUDNN_DESCRIPTORS = 128, CAVMAE__CUDNN_OPERATIONS = 24, CAVMAE__CUDNN_PLANS = 8 };

typedef cudnnBackendDescriptor_t cavmae__cudnn_descriptor;

typedef struct cavmae__cudnn_plan {
    cavmae__cudnn_descriptor plan;
    int64_t workspace; /* bytes */
} cavmae__cudnn_plan;

typedef struct cavmae__cudnn_graph {
    const cavmae__cudnn_library *cudnn;
    cavmae_status status; /* UNSUPPORTED: cuDNN cannot do it; BACKEND: something else went wrong */
    char why[400];        /* a sentence, where status is not OK */
    int64_t virtual_id;
    int32_t descriptors, operations, plans;
    cavmae__cudnn_descriptor descriptor[CAVMAE__CUDNN_DESCRIPTORS]; /* all there are: they live as long as the graph */
    cavmae__cudnn_descriptor operation[CAVMAE__CUDNN_OPERATIONS];
    cavmae__cudnn_plan plan[CAVMAE__CUDNN_PLANS]; /* the one that cuDNN expects to be fastest first */
} cavmae__cudnn_graph;

void cavmae__cudnn_graph_begin(cavmae__cudnn_graph *graph, const cavmae__cudnn_library *cudnn);
void cavmae__cudnn_graph_end(cavmae__cudnn_graph *graph);

/* What the graph is computed on: `handle`'s device, or, for plans that will not be run, the one described in `json`. */
cavmae__cudnn_descriptor cavmae__cudnn_device(cavmae__cudnn_graph *graph, cudnnHandle_t handle, const char *json);

/* In memory, aligned to 16 bytes (CUDNN_DATA_FLOAT: to 4); known by id > 0 when the plan is run. */
cavmae__cudnn_descriptor cavmae__cudnn_tensor(cavmae__cudnn_graph *graph, int64_t id, cudnnDataType_t type,
                                              const int64_t dims[4], const int64_t strides[4]);
/* Between operations only. */
cavmae__cudnn_descriptor cavmae__cudnn_virtual(cavmae__cudnn_graph *graph, cudnnDataType_t type, const int64_t dims[4],
                                               const int64_t strides[4]);
/* One float, read from the host's memory when the plan is run. */
cavmae__cudnn_descriptor cavmae__cudnn_scalar(cavmae__cudnn_graph *graph, int64_t id);

/* y = f(x), or f(x, b); computed in float32 as all that follow. b NULL: f takes one. */
void cavmae__cudnn_pointwise(cavmae__cudnn_graph *graph, cudnnPointwiseMode_t f, cavmae__cudnn_descriptor x,
                             cavmae__cudnn_descriptor b, cavmae__cudnn_descriptor y);
/* y = the sum or maximum of x along the dimensions in which y has 1. */
void cavmae__cudnn_reduce(cavmae__cudnn_graph *graph, cudnnReduceTensorOp_t f, cavmae__cudnn_descriptor x,
                          cavmae__cudnn_descriptor y);
/* c = a b */
void cavmae__cudnn_matmul(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor a, cavmae__cudnn_descriptor b,
                          cavmae__cudnn_descriptor c);
/* y = x seen with y's dimensions and strides. */
void cavmae__cudnn_reshape(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor x, cavmae__cudnn_descriptor y);
/* o = softmax(scale q k^T) v in one operation; stats, if not NULL: log of the sum of exponentials. */
void cavmae__cudnn_sdpa(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor q, cavmae__cudnn_descriptor k,
                        cavmae__cudnn_descriptor v, cavmae__cudnn_descriptor scale, cavmae__cudnn_descriptor o,
                        cavmae__cudnn_descriptor stats);

/* Builds the plans, each in about half a second. */
cavmae_status cavmae__cudnn_graph_plan(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor device);

/* Starts plan `number` in the handle's stream. `address`: of the tensors `id` [count]. */
cudnnStatus_t cavmae__cudnn_graph_run(const cavmae__cudnn_graph *graph, int32_t number, cudnnHandle_t handle,
                                      int64_t count, const int64_t *id, void *const *address, void *workspace);

#endif
#endif
