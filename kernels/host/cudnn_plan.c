#include "cudnn_plan.h"

#ifdef CAVMAE__CUDNN

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* ---- Descriptors ---- */

void cavmae__cudnn_graph_begin(cavmae__cudnn_graph *graph, const cavmae__cudnn_library *cudnn) {
    memset(graph, 0, sizeof *graph);
    graph->cudnn = cudnn;
    graph->virtual_id = 1000; /* ids must differ; the caller's lie below */
}

void cavmae__cudnn_graph_end(cavmae__cudnn_graph *graph) {
    while (graph->descriptors > 0) graph->cudnn->BackendDestroyDescriptor(graph->descriptor[--graph->descriptors]);
}

/* Notes the first failure. */
static void check(cavmae__cudnn_graph *graph, cudnnStatus_t status, const char *what) {
    if (status == CUDNN_STATUS_SUCCESS || graph->status != CAVMAE_OK) return;
    char detail[240] = "";
    graph->cudnn->GetLastErrorString(detail, sizeof detail);
    /* CUDNN_STATUS_NOT_SUPPORTED and its kinds are 3000 to 3999. */
    graph->status = status / 1000 == 3 ? CAVMAE_E_UNSUPPORTED : CAVMAE_E_BACKEND;
    snprintf(graph->why, sizeof graph->why, "cuDNN %d.%d.%d, %s: %s%s%s", graph->cudnn->version / 10000,
             graph->cudnn->version / 100 % 100, graph->cudnn->version % 100, what, graph->cudnn->GetErrorString(status),
             detail[0] ? "; " : "", detail);
}

static cavmae__cudnn_descriptor make(cavmae__cudnn_graph *graph, cudnnBackendDescriptorType_t type) {
    cavmae__cudnn_descriptor made = NULL;
    if (graph->status != CAVMAE_OK) return NULL;
    if (graph->descriptors == CAVMAE__CUDNN_DESCRIPTORS) {
        graph->status = CAVMAE_E_INTERNAL;
        snprintf(graph->why, sizeof graph->why, "a cuDNN graph has more than %d descriptors",
                 CAVMAE__CUDNN_DESCRIPTORS);
        return NULL;
    }
    check(graph, graph->cudnn->BackendCreateDescriptor(type, &made), "a new descriptor");
    if (graph->status == CAVMAE_OK) graph->descriptor[graph->descriptors++] = made;
    return made;
}

static void set(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor of, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    char what[40];
    if (graph->status != CAVMAE_OK) return;
    snprintf(what, sizeof what, "attribute %d", (int)name);
    check(graph, graph->cudnn->BackendSetAttribute(of, name, type, count, values), what);
}

static void set_descriptor(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor of, cudnnBackendAttributeName_t name,
                           cavmae__cudnn_descriptor value) {
    set(graph, of, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_int64(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor of, cudnnBackendAttributeName_t name,
                      int64_t count, const int64_t *values) {
    set(graph, of, name, CUDNN_TYPE_INT64, count, values);
}

static void finish(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor of, const char *what) {
    if (graph->status == CAVMAE_OK) check(graph, graph->cudnn->BackendFinalize(of), what);
}

/* ---- Devices and tensors ---- */

cavmae__cudnn_descriptor cavmae__cudnn_device(cavmae__cudnn_graph *graph, cudnnHandle_t handle, const char *json) {
    cavmae__cudnn_descriptor device = make(graph, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    if (json)
        set(graph, device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(json) + 1, json);
    else
        set(graph, device, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    finish(graph, device, "the device's description");
    return device;
}

static cavmae__cudnn_descriptor tensor(cavmae__cudnn_graph *graph, int64_t id, cudnnDataType_t type,
                                       const int64_t dims[4], const int64_t strides[4], bool is_virtual,
                                       bool by_value) {
    const int64_t alignment = type == CUDNN_DATA_FLOAT ? 4 : 16;
    cavmae__cudnn_descriptor made = make(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_int64(graph, made, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &id);
    set(graph, made, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set_int64(graph, made, CUDNN_ATTR_TENSOR_DIMENSIONS, 4, dims);
    set_int64(graph, made, CUDNN_ATTR_TENSOR_STRIDES, 4, strides);
    set_int64(graph, made, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment);
    set(graph, made, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(graph, made, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finish(graph, made, "a tensor");
    return made;
}

cavmae__cudnn_descriptor cavmae__cudnn_tensor(cavmae__cudnn_graph *graph, int64_t id, cudnnDataType_t type,
                                              const int64_t dims[4], const int64_t strides[4]) {
    return tensor(graph, id, type, dims, strides, false, false);
}

cavmae__cudnn_descriptor cavmae__cudnn_virtual(cavmae__cudnn_graph *graph, cudnnDataType_t type, const int64_t dims[4],
                                               const int64_t strides[4]) {
    return tensor(graph, graph->virtual_id++, type, dims, strides, true, false);
}

cavmae__cudnn_descriptor cavmae__cudnn_scalar(cavmae__cudnn_graph *graph, int64_t id) {
    const int64_t ones[4] = {1, 1, 1, 1};
    return tensor(graph, id, CUDNN_DATA_FLOAT, ones, ones, false, true);
}

/* ---- Operations ---- */

static const cudnnDataType_t float32 = CUDNN_DATA_FLOAT;

static void add(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor operation, const char *what) {
    finish(graph, operation, what);
    if (graph->status != CAVMAE_OK) return;
    if (graph->operations == CAVMAE__CUDNN_OPERATIONS) {
        graph->status = CAVMAE_E_INTERNAL;
        snprintf(graph->why, sizeof graph->why, "a cuDNN graph has more than %d operations", CAVMAE__CUDNN_OPERATIONS);
        return;
    }
    graph->operation[graph->operations++] = operation;
}

void cavmae__cudnn_pointwise(cavmae__cudnn_graph *graph, cudnnPointwiseMode_t f, cavmae__cudnn_descriptor x,
                             cavmae__cudnn_descriptor b, cavmae__cudnn_descriptor y) {
    cavmae__cudnn_descriptor how = make(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(graph, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &f);
    set(graph, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &float32);
    finish(graph, how, "a pointwise function");
    cavmae__cudnn_descriptor operation = make(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b) set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add(graph, operation, "a pointwise operation");
}

void cavmae__cudnn_reduce(cavmae__cudnn_graph *graph, cudnnReduceTensorOp_t f, cavmae__cudnn_descriptor x,
                          cavmae__cudnn_descriptor y) {
    cavmae__cudnn_descriptor how = make(graph, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(graph, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &f);
    set(graph, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &float32);
    finish(graph, how, "a reduction");
    cavmae__cudnn_descriptor operation = make(graph, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    add(graph, operation, "a reduction operation");
}

void cavmae__cudnn_matmul(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor a, cavmae__cudnn_descriptor b,
                          cavmae__cudnn_descriptor c) {
    cavmae__cudnn_descriptor how = make(graph, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(graph, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &float32);
    finish(graph, how, "a product");
    cavmae__cudnn_descriptor operation = make(graph, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    add(graph, operation, "a product operation");
}

void cavmae__cudnn_reshape(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor x, cavmae__cudnn_descriptor y) {
    cavmae__cudnn_descriptor operation = make(graph, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add(graph, operation, "a reshape operation");
}

void cavmae__cudnn_sdpa(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor q, cavmae__cudnn_descriptor k,
                        cavmae__cudnn_descriptor v, cavmae__cudnn_descriptor scale, cavmae__cudnn_descriptor o,
                        cavmae__cudnn_descriptor stats) {
    cavmae__cudnn_descriptor operation = make(graph, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, o);
    if (stats) set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, stats);
    add(graph, operation, "an attention operation");
}

/* ---- Plans ---- */

/* The configurations that cuDNN proposes, best first. */
static int64_t configurations(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor operations,
                              cavmae__cudnn_descriptor device, cavmae__cudnn_descriptor found[CAVMAE__CUDNN_PLANS]) {
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cavmae__cudnn_descriptor heuristic = make(graph, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(graph, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
    set(graph, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_descriptor(graph, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    finish(graph, heuristic, "the choice of engines");

    for (int32_t i = 0; i < CAVMAE__CUDNN_PLANS; i++) found[i] = make(graph, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t count = 0;
    if (graph->status != CAVMAE_OK) return 0;
    check(graph,
          graph->cudnn->BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                            CAVMAE__CUDNN_PLANS, &count, found),
          "the engines chosen");
    return count < CAVMAE__CUDNN_PLANS ? count : CAVMAE__CUDNN_PLANS;
}

/* One configuration that cannot be built is no failure while another can: it is left out. */
static void build(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor configuration, cavmae__cudnn_descriptor device) {
    cavmae__cudnn_plan *next = &graph->plan[graph->plans];
    int64_t count = 0;
    next->plan = make(graph, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_descriptor(graph, next->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    set_descriptor(graph, next->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    finish(graph, next->plan, "a plan");
    if (graph->status == CAVMAE_OK)
        check(graph,
              graph->cudnn->BackendGetAttribute(next->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                                1, &count, &next->workspace),
              "a plan's workspace");
    if (graph->status == CAVMAE_OK) graph->plans++;
}

cavmae_status cavmae__cudnn_graph_plan(cavmae__cudnn_graph *graph, cavmae__cudnn_descriptor device) {
    cavmae__cudnn_descriptor configuration[CAVMAE__CUDNN_PLANS];
    cavmae__cudnn_descriptor operations = make(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(graph, operations, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, graph->operations,
        graph->operation);
    finish(graph, operations, "the graph");
    const int64_t count = configurations(graph, operations, device, configuration);
    if (graph->status != CAVMAE_OK) return graph->status;

    for (int64_t i = 0; i < count; i++) {
        graph->status = CAVMAE_OK;
        build(graph, configuration[i], device);
    }
    if (graph->plans > 0) {
        graph->status = CAVMAE_OK;
    } else if (graph->status == CAVMAE_OK) {
        /* Without a driver or NVRTC it proposes nothing, and only its last words say why. */
        check(graph, CUDNN_STATUS_NOT_SUPPORTED, "no engine can do it");
    }
    return graph->status;
}

cudnnStatus_t cavmae__cudnn_graph_run(const cavmae__cudnn_graph *graph, int32_t number, cudnnHandle_t handle,
                                      int64_t count, const int64_t *id, void *const *address, void *workspace) {
    const cavmae__cudnn_library *cudnn = graph->cudnn;
    cavmae__cudnn_descriptor pack = NULL;
    cudnnStatus_t status = cudnn->BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    status = cudnn->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, id);
    if (status == CUDNN_STATUS_SUCCESS)
        status = cudnn->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count,
                                            address);
    if (status == CUDNN_STATUS_SUCCESS)
        status =
            cudnn->BackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS) status = cudnn->BackendFinalize(pack);
    if (status == CUDNN_STATUS_SUCCESS) status = cudnn->BackendExecute(handle, graph->plan[number].plan, pack);
    cudnn->BackendDestroyDescriptor(pack);
    return status;
}

#endif
