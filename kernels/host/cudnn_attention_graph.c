#include "cudnn_attention_graph.h"

#ifdef CAVMAE__CUDNN

#include <math.h>

/* Ids of the tensors in memory. ROW_SUM: the backward's sum(d_o * o) of each row. */
enum { Q = 1, K, V, O, LSE, SCALE, D_O, D_Q, D_K, D_V, ROW_SUM, ONE };

enum { ALIGNMENT = 256 };

typedef cavmae__cudnn_graph graph_type;
typedef cavmae__cudnn_descriptor tensor_type;

/* ---- Tensors: every one is [count, heads, rows, columns] ---- */

/* One of q, k, v in rows of 3 * heads * head_dim (parts 3), or o in rows of a third (parts 1). */
static tensor_type of_rows(graph_type *graph, const cavmae__cudnn_shape *s, int64_t id, int64_t parts) {
    const int64_t row = parts * s->heads * s->head_dim;
    const int64_t dims[4] = {s->count, s->heads, s->length, s->head_dim};
    const int64_t strides[4] = {s->length * row, s->head_dim, row, 1};
    return cavmae__cudnn_tensor(graph, id, CUDNN_DATA_BFLOAT16, dims, strides);
}

/* k^T or v^T */
static tensor_type of_rows_transposed(graph_type *graph, const cavmae__cudnn_shape *s, int64_t id) {
    const int64_t row = 3 * s->heads * s->head_dim;
    const int64_t dims[4] = {s->count, s->heads, s->head_dim, s->length};
    const int64_t strides[4] = {s->length * row, s->head_dim, 1, row};
    return cavmae__cudnn_tensor(graph, id, CUDNN_DATA_BFLOAT16, dims, strides);
}

/* A float for every row of every head, by head. */
static tensor_type by_head(graph_type *graph, const cavmae__cudnn_shape *s, int64_t id) {
    const int64_t dims[4] = {s->count, s->heads, s->length, 1};
    const int64_t strides[4] = {s->heads * s->length, s->length, 1, 1};
    return cavmae__cudnn_tensor(graph, id, CUDNN_DATA_FLOAT, dims, strides);
}

/* lse as [rows, heads], forward only: going back, some kernels before cuDNN 9.26 ignore its strides. */
static tensor_type of_lse(graph_type *graph, const cavmae__cudnn_shape *s) {
    const int64_t dims[4] = {s->count, s->heads, s->length, 1};
    const int64_t strides[4] = {s->length * s->heads, 1, s->heads, 1};
    return cavmae__cudnn_tensor(graph, LSE, CUDNN_DATA_FLOAT, dims, strides);
}

/* Between operations. */
static tensor_type between(graph_type *graph, const cavmae__cudnn_shape *s, cudnnDataType_t type, int64_t rows,
                           int64_t columns) {
    const int64_t dims[4] = {s->count, s->heads, rows, columns};
    const int64_t strides[4] = {s->heads * rows * columns, rows * columns, columns, 1};
    return cavmae__cudnn_virtual(graph, type, dims, strides);
}

static tensor_type scores(graph_type *graph, const cavmae__cudnn_shape *s) {
    return between(graph, s, CUDNN_DATA_FLOAT, s->length, s->length);
}

static tensor_type row_values(graph_type *graph, const cavmae__cudnn_shape *s) {
    return between(graph, s, CUDNN_DATA_FLOAT, s->length, 1);
}

/* ---- Operations with a new tensor for the result ---- */

static tensor_type apply(graph_type *graph, const cavmae__cudnn_shape *s, cudnnPointwiseMode_t f, tensor_type x,
                         tensor_type b) {
    tensor_type y = scores(graph, s);
    cavmae__cudnn_pointwise(graph, f, x, b, y);
    return y;
}

static tensor_type reduce(graph_type *graph, const cavmae__cudnn_shape *s, cudnnReduceTensorOp_t f, tensor_type x) {
    tensor_type y = row_values(graph, s);
    cavmae__cudnn_reduce(graph, f, x, y);
    return y;
}

static tensor_type product(graph_type *graph, const cavmae__cudnn_shape *s, tensor_type a, tensor_type b) {
    tensor_type c = scores(graph, s);
    cavmae__cudnn_matmul(graph, a, b, c);
    return c;
}

/* The scores' transpose, as bfloat16 for the next product. */
static tensor_type transposed(graph_type *graph, const cavmae__cudnn_shape *s, tensor_type x) {
    const int64_t n = s->length;
    const int64_t dims[4] = {s->count, s->heads, n, n};
    const int64_t strides[4] = {s->heads * n * n, n * n, 1, n};
    tensor_type y = cavmae__cudnn_virtual(graph, CUDNN_DATA_BFLOAT16, dims, strides);
    cavmae__cudnn_reshape(graph, x, y);
    return y;
}

/* ---- Graphs ---- */

static void describe_forward(graph_type *graph, const cavmae__cudnn_shape *s) {
    tensor_type lse = s->stats ? of_lse(graph, s) : NULL;
    cavmae__cudnn_sdpa(graph, of_rows(graph, s, Q, 3), of_rows(graph, s, K, 3), of_rows(graph, s, V, 3),
                       cavmae__cudnn_scalar(graph, SCALE), of_rows(graph, s, O, 1), lse);
}

/* z = scale q k^T;  lse = max z + log sum exp(z - max z);  o = (exp(z - max z) / sum) v */
static void describe_composite_forward(graph_type *graph, const cavmae__cudnn_shape *s) {
    tensor_type z = product(graph, s, of_rows(graph, s, Q, 3), of_rows_transposed(graph, s, K));
    z = apply(graph, s, CUDNN_POINTWISE_MUL, z, cavmae__cudnn_scalar(graph, SCALE));
    tensor_type largest = reduce(graph, s, CUDNN_REDUCE_TENSOR_MAX, z);
    tensor_type e = apply(graph, s, CUDNN_POINTWISE_SUB, z, largest);
    e = apply(graph, s, CUDNN_POINTWISE_EXP, e, NULL);
    tensor_type sum = reduce(graph, s, CUDNN_REDUCE_TENSOR_ADD, e);
    if (s->stats) {
        tensor_type log_sum = row_values(graph, s);
        cavmae__cudnn_pointwise(graph, CUDNN_POINTWISE_LOG, sum, NULL, log_sum);
        cavmae__cudnn_pointwise(graph, CUDNN_POINTWISE_ADD, largest, log_sum, of_lse(graph, s));
    }
    tensor_type p = between(graph, s, CUDNN_DATA_BFLOAT16, s->length, s->length);
    cavmae__cudnn_pointwise(graph, CUDNN_POINTWISE_DIV, e, sum, p);
    cavmae__cudnn_matmul(graph, p, of_rows(graph, s, V, 3), of_rows(graph, s, O, 1));
}

/* p = exp(scale q k^T - lse);  dv = p^T d_o;  dz = scale p (d_o v^T - sum(d_o o));  dk = dz^T q;  dq = dz k
 * dq comes from one product as bfloat16. With a float32 sum of dq in memory, blocks would add to it in any order, in
 * other bits each time; so cuDNN keeps all of dz in its workspace instead. */
static void describe_backward(graph_type *graph, const cavmae__cudnn_shape *s) {
    tensor_type q = of_rows(graph, s, Q, 3), k = of_rows_transposed(graph, s, K), v = of_rows_transposed(graph, s, V);
    tensor_type o = of_rows(graph, s, O, 1), d_o = of_rows(graph, s, D_O, 1),
                scale = cavmae__cudnn_scalar(graph, SCALE);

    tensor_type d_o_o = between(graph, s, CUDNN_DATA_FLOAT, s->length, s->head_dim),
                row_sum = by_head(graph, s, ROW_SUM);
    cavmae__cudnn_pointwise(graph, CUDNN_POINTWISE_MUL, d_o, o, d_o_o);
    /* times 1: where dropout's factor would stand; without the operation cuDNN does not know the graph. */
    cavmae__cudnn_pointwise(graph, CUDNN_POINTWISE_MUL, reduce(graph, s, CUDNN_REDUCE_TENSOR_ADD, d_o_o),
                            cavmae__cudnn_scalar(graph, ONE), row_sum);

    tensor_type p = apply(graph, s, CUDNN_POINTWISE_MUL, product(graph, s, q, k), scale);
    p = apply(graph, s, CUDNN_POINTWISE_SUB, p, by_head(graph, s, LSE));
    p = apply(graph, s, CUDNN_POINTWISE_EXP, p, NULL);
    cavmae__cudnn_matmul(graph, transposed(graph, s, p), d_o, of_rows(graph, s, D_V, 3));

    tensor_type dz = apply(graph, s, CUDNN_POINTWISE_SUB, product(graph, s, d_o, v), row_sum);
    dz = apply(graph, s, CUDNN_POINTWISE_MUL, dz, p);
    dz = apply(graph, s, CUDNN_POINTWISE_MUL, dz, scale);
    cavmae__cudnn_matmul(graph, transposed(graph, s, dz), q, of_rows(graph, s, D_K, 3));

    const int64_t row = 3 * s->heads * s->head_dim;
    const int64_t dims[4] = {s->count, s->heads, s->length, s->head_dim};
    const int64_t strides[4] = {s->length * row, s->head_dim, row, 1};
    tensor_type k_rows = cavmae__cudnn_virtual(graph, CUDNN_DATA_BFLOAT16, dims, strides);
    cavmae__cudnn_reshape(graph, k, k_rows);
    cavmae__cudnn_matmul(graph, dz, k_rows, of_rows(graph, s, D_Q, 3));
}

cavmae_status cavmae__cudnn_attention_plan(cavmae__cudnn_graph *graph, const cavmae__cudnn_library *cudnn,
                                           cudnnHandle_t handle, const char *device_json,
                                           const cavmae__cudnn_shape *shape, int32_t composite) {
    cavmae__cudnn_graph_begin(graph, cudnn);
    tensor_type device = cavmae__cudnn_device(graph, handle, device_json);
    if (shape->backward)
        describe_backward(graph, shape);
    else if (composite)
        describe_composite_forward(graph, shape);
    else
        describe_forward(graph, shape);
    return cavmae__cudnn_graph_plan(graph, device);
}

/* ---- Running ---- */

/* Going back, the workspace begins with two tensors of this size: ROW_SUM and LSE. */
static int64_t by_head_bytes(const cavmae__cudnn_shape *s) {
    const int64_t bytes = s->backward ? s->count * s->heads * s->length * (int64_t)sizeof(float) : 0;
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

float *cavmae__cudnn_attention_lse(const cavmae__cudnn_shape *shape, void *workspace) {
    return (float *)(void *)((char *)workspace + by_head_bytes(shape));
}

int64_t cavmae__cudnn_attention_bytes(const cavmae__cudnn_graph *graph, const cavmae__cudnn_shape *shape) {
    int64_t most = 0;
    for (int32_t i = 0; i < graph->plans; i++)
        if (graph->plan[i].workspace > most) most = graph->plan[i].workspace;
    return 2 * by_head_bytes(shape) + most;
}

cudnnStatus_t cavmae__cudnn_attention_run(const cavmae__cudnn_graph *graph, int32_t number, cudnnHandle_t handle,
                                          const cavmae__cudnn_shape *shape, const cavmae__attention *op, int64_t first,
                                          void *workspace) {
    const int64_t width = shape->heads * shape->head_dim, element = 2; /* bytes of bfloat16 */
    /* cuDNN takes addresses of what it only reads as void *, too. */
    char *qkv = (char *)(uintptr_t)op->qkv + first * 3 * width * element;
    char *o = (char *)op->o + first * width * element;
    float *lse = shape->backward ? cavmae__cudnn_attention_lse(shape, workspace)
                 : op->lse       ? op->lse + first * shape->heads
                                 : NULL;
    float scale = 1.0f / sqrtf((float)shape->head_dim), one = 1.0f; /* read before cudnnBackendExecute returns */
    int64_t id[12] = {Q, K, V, O, SCALE};
    void *address[12] = {qkv, qkv + width * element, qkv + 2 * width * element, o, &scale};
    int64_t count = 5;
    if (lse) {
        id[count] = LSE;
        address[count++] = lse;
    }
    if (shape->backward) {
        char *d_o = (char *)(uintptr_t)op->d_o + first * width * element;
        char *dqkv = (char *)op->dqkv + first * 3 * width * element;
        const int64_t more[6] = {D_O, D_Q, D_K, D_V, ROW_SUM, ONE};
        void *addresses[6] = {d_o, dqkv, dqkv + width * element, dqkv + 2 * width * element, workspace, &one};
        for (int i = 0; i < 6; i++) {
            id[count] = more[i];
            address[count++] = addresses[i];
        }
    }
    return cavmae__cudnn_graph_run(graph, number, handle, count, id, address,
                                   (char *)workspace + 2 * by_head_bytes(shape));
}

#endif
