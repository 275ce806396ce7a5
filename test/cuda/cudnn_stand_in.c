#include "cudnn_stand_in.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { ATTRIBUTES = 16, TENSORS = 128 };

typedef struct attribute {
    cudnnBackendAttributeName_t name;
    int64_t count;
    unsigned char *bytes;
} attribute;

/* What a cudnnBackendDescriptor_t, a void *, points to. */
typedef struct descriptor {
    cudnnBackendDescriptorType_t type;
    int attributes, finalized;
    attribute attribute[ATTRIBUTES];
} descriptor;

static int calls, alive, fail_at, fail_for;

static int fails(void) {
    calls++;
    return fail_at && calls >= fail_at && calls < fail_at + fail_for;
}

int stand_in_calls(void) { return calls; }
int stand_in_descriptors(void) { return alive; }

float stand_in_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- Descriptors ---- */

static const attribute *find(const descriptor *d, cudnnBackendAttributeName_t name) {
    for (int i = 0; i < d->attributes; i++)
        if (d->attribute[i].name == name) return &d->attribute[i];
    return NULL;
}

static size_t size_of(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR: return 8;
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_CHAR: return 1;
    default: return sizeof(int); /* an enumeration */
    }
}

static cudnnStatus_t create(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out) {
    if (fails()) return CUDNN_STATUS_INTERNAL_ERROR;
    descriptor *d = calloc(1, sizeof *d);
    d->type = type;
    alive++;
    *out = d;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t destroy(cudnnBackendDescriptor_t of) {
    descriptor *d = of;
    for (int i = 0; i < d->attributes; i++) free(d->attribute[i].bytes);
    free(d);
    alive--;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t keep(descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                          int64_t count, const void *values) {
    if (d->finalized || find(d, name) || d->attributes == ATTRIBUTES) return CUDNN_STATUS_BAD_PARAM;
    /* Descriptors may only be made of finished ones. */
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        for (int64_t i = 0; i < count; i++)
            if (!((descriptor *const *)values)[i]->finalized) return CUDNN_STATUS_BAD_PARAM;
    attribute *a = &d->attribute[d->attributes++];
    *a = (attribute){.name = name, .count = count, .bytes = malloc(size_of(type) * (size_t)count + 1)};
    memcpy(a->bytes, values, size_of(type) * (size_t)count);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t set(cudnnBackendDescriptor_t of, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    return fails() ? CUDNN_STATUS_BAD_PARAM : keep(of, name, type, count, values);
}

static cudnnStatus_t finalize(cudnnBackendDescriptor_t of) {
    descriptor *d = of;
    if (fails()) return CUDNN_STATUS_NOT_SUPPORTED;
    d->finalized = 1;
    return CUDNN_STATUS_SUCCESS;
}

static descriptor *part(const descriptor *d, cudnnBackendAttributeName_t name) {
    const attribute *a = find(d, name);
    descriptor *value = NULL;
    if (a) memcpy(&value, a->bytes, sizeof(void *));
    return value;
}

static int number(const descriptor *d, cudnnBackendAttributeName_t name) {
    int value;
    memcpy(&value, find(d, name)->bytes, sizeof value);
    return value;
}

static cudnnStatus_t get(cudnnBackendDescriptor_t const of, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t asked, int64_t *count, void *values) {
    const descriptor *d = of;
    (void)type;
    if (fails() || !d->finalized) return CUDNN_STATUS_BAD_PARAM;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
        /* A configuration knows its graph, as cuDNN's do inside. */
        descriptor *graph = part(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
        *count = asked < STAND_IN_PLANS ? asked : STAND_IN_PLANS;
        for (int64_t i = 0; i < *count; i++) {
            descriptor *configuration = ((descriptor **)values)[i];
            keep(configuration, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
            configuration->finalized = 1;
        }
        return CUDNN_STATUS_SUCCESS;
    }
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        *count = 1;
        *(int64_t *)values = STAND_IN_WORKSPACE;
        return CUDNN_STATUS_SUCCESS;
    }
    return CUDNN_STATUS_BAD_PARAM;
}

/* ---- Tensors ---- */

typedef struct tensor {
    int64_t id, dim[4], stride[4];
    int bf16;
    void *memory;  /* the caller's */
    float *values; /* of a virtual one */
} tensor;

static tensor tensors[TENSORS];
static int tensor_count;

static int64_t extent(const tensor *t) {
    int64_t last = 0;
    for (int i = 0; i < 4; i++) last += (t->dim[i] - 1) * t->stride[i];
    return last + 1;
}

static float read(const tensor *t, int64_t at) {
    if (t->values) return t->values[at];
    if (!t->bf16) return ((const float *)t->memory)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)t->memory)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void write(tensor *t, int64_t at, float x) {
    uint32_t bits;
    if (t->bf16) x = stand_in_bf16(x);
    memcpy(&bits, &x, sizeof bits);
    if (t->values)
        t->values[at] = x;
    else if (t->bf16)
        ((uint16_t *)t->memory)[at] = (uint16_t)(bits >> 16);
    else
        ((float *)t->memory)[at] = x;
}

/* Where element i stands, if a dimension of 1 is as long as need be. */
static int64_t place(const tensor *t, const int64_t i[4]) {
    int64_t at = 0;
    for (int d = 0; d < 4; d++) at += t->dim[d] == 1 ? 0 : i[d] * t->stride[d];
    return at;
}

static void *address_of(const descriptor *pack, int64_t id) {
    const attribute *ids = find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const attribute *addresses = find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (int64_t i = 0; i < ids->count; i++) {
        int64_t value;
        void *address;
        memcpy(&value, ids->bytes + 8 * i, 8);
        memcpy(&address, addresses->bytes + 8 * i, sizeof address);
        if (value == id) return address;
    }
    return NULL;
}

/* NULL: the pack has no address for it. */
static tensor *tensor_of(const descriptor *d, const descriptor *pack) {
    int64_t id;
    memcpy(&id, find(d, CUDNN_ATTR_TENSOR_UNIQUE_ID)->bytes, 8);
    for (int i = 0; i < tensor_count; i++)
        if (tensors[i].id == id) return &tensors[i];
    tensor *t = &tensors[tensor_count++];
    *t = (tensor){.id = id, .bf16 = number(d, CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_BFLOAT16};
    memcpy(t->dim, find(d, CUDNN_ATTR_TENSOR_DIMENSIONS)->bytes, sizeof t->dim);
    memcpy(t->stride, find(d, CUDNN_ATTR_TENSOR_STRIDES)->bytes, sizeof t->stride);
    if (*find(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL)->bytes)
        t->values = calloc((size_t)extent(t), sizeof(float));
    else
        t->memory = address_of(pack, id);
    return t->values || t->memory ? t : NULL;
}

#define EACH(t, i)                                                                                                     \
    for ((i)[0] = 0; (i)[0] < (t)->dim[0]; (i)[0]++)                                                                   \
        for ((i)[1] = 0; (i)[1] < (t)->dim[1]; (i)[1]++)                                                               \
            for ((i)[2] = 0; (i)[2] < (t)->dim[2]; (i)[2]++)                                                           \
                for ((i)[3] = 0; (i)[3] < (t)->dim[3]; (i)[3]++)

/* ---- Operations ---- */

static float apply(int f, float x, float b) {
    switch (f) {
    case CUDNN_POINTWISE_ADD: return x + b;
    case CUDNN_POINTWISE_SUB: return x - b;
    case CUDNN_POINTWISE_MUL: return x * b;
    case CUDNN_POINTWISE_DIV: return x / b;
    case CUDNN_POINTWISE_EXP: return expf(x);
    case CUDNN_POINTWISE_LOG: return logf(x);
    default: return NAN;
    }
}

static void pointwise(int f, const tensor *x, const tensor *b, tensor *y) {
    int64_t i[4];
    EACH(y, i) write(y, place(y, i), apply(f, read(x, place(x, i)), b ? read(b, place(b, i)) : 0));
}

static void reduce(int f, const tensor *x, tensor *y) {
    int64_t i[4], first[4];
    double *sums = calloc((size_t)extent(y), sizeof *sums);
    EACH(x, i) {
        const int64_t at = place(y, i);
        const double value = read(x, place(x, i));
        int begins = 1;
        for (int d = 0; d < 4; d++) begins &= y->dim[d] != 1 || i[d] == 0;
        sums[at] = f == CUDNN_REDUCE_TENSOR_ADD ? sums[at] + value : begins || value > sums[at] ? value : sums[at];
    }
    EACH(y, first) write(y, place(y, first), (float)sums[place(y, first)]);
    free(sums);
}

static void multiply(const tensor *a, const tensor *b, tensor *c) {
    int64_t i[4];
    EACH(c, i) {
        double sum = 0;
        for (int64_t k = 0; k < a->dim[3]; k++)
            sum += (double)read(a, place(a, (int64_t[4]){i[0], i[1], i[2], k})) *
                   read(b, place(b, (int64_t[4]){i[0], i[1], k, i[3]}));
        write(c, place(c, i), (float)sum);
    }
}

/* The same memory with other dimensions and strides. */
static void reshape(const tensor *x, tensor *y) {
    for (int64_t at = 0; at < extent(y); at++) write(y, at, read(x, at));
}

static void attention(const tensor *q, const tensor *k, const tensor *v, float scale, tensor *o, tensor *stats) {
    int64_t i[4];
    double *e = calloc((size_t)k->dim[2], sizeof *e);
    EACH(o, i) {
        double largest = -INFINITY, sum = 0, value = 0;
        for (int64_t j = 0; j < k->dim[2]; j++) {
            e[j] = 0;
            for (int64_t d = 0; d < q->dim[3]; d++)
                e[j] += (double)read(q, place(q, (int64_t[4]){i[0], i[1], i[2], d})) *
                        read(k, place(k, (int64_t[4]){i[0], i[1], j, d})) * scale;
            largest = fmax(largest, e[j]);
        }
        for (int64_t j = 0; j < k->dim[2]; j++) {
            sum += e[j] = exp(e[j] - largest);
            value += e[j] * read(v, place(v, (int64_t[4]){i[0], i[1], j, i[3]}));
        }
        write(o, place(o, i), (float)(value / sum));
        if (stats) write(stats, place(stats, (int64_t[4]){i[0], i[1], i[2], 0}), (float)(largest + log(sum)));
    }
    free(e);
}

#define TENSOR(name) (part(op, (name)) ? tensor_of(part(op, (name)), pack) : NULL)

static int compute(const descriptor *op, const descriptor *pack) {
    tensor *x, *y, *b;
    switch (op->type) {
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        x = TENSOR(CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
        y = TENSOR(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
        b = TENSOR(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        if (!x || !y || (part(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC) && !b)) return 0;
        pointwise(number(part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), CUDNN_ATTR_POINTWISE_MODE), x, b, y);
        return 1;
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        x = TENSOR(CUDNN_ATTR_OPERATION_REDUCTION_XDESC);
        y = TENSOR(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
        if (!x || !y) return 0;
        reduce(number(part(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC), CUDNN_ATTR_REDUCTION_OPERATOR), x, y);
        return 1;
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        x = TENSOR(CUDNN_ATTR_OPERATION_MATMUL_ADESC);
        b = TENSOR(CUDNN_ATTR_OPERATION_MATMUL_BDESC);
        y = TENSOR(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
        if (!x || !b || !y) return 0;
        multiply(x, b, y);
        return 1;
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        x = TENSOR(CUDNN_ATTR_OPERATION_RESHAPE_XDESC);
        y = TENSOR(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
        if (!x || !y) return 0;
        reshape(x, y);
        return 1;
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR: {
        tensor *q = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC), *k = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC),
               *v = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC), *o = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC),
               *scale = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC);
        if (!q || !k || !v || !o || !scale) return 0;
        tensor *stats = TENSOR(CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC);
        if (part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC) && !stats) return 0;
        attention(q, k, v, read(scale, 0), o, stats);
        return 1;
    }
    default: return 0;
    }
}

static cudnnStatus_t execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    const descriptor *graph =
        part(part(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    const attribute *operations = find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
    void *workspace;
    int good = 1;
    (void)handle;
    if (fails() || !((descriptor *)pack)->finalized) return CUDNN_STATUS_BAD_PARAM;
    memcpy(&workspace, find(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE)->bytes, sizeof workspace);
    memset(workspace, 0xFF, STAND_IN_WORKSPACE);
    tensor_count = 0;
    for (int64_t i = 0; good && i < operations->count; i++) {
        descriptor *op;
        memcpy(&op, operations->bytes + 8 * i, sizeof op);
        good = compute(op, pack);
    }
    for (int i = 0; i < tensor_count; i++) free(tensors[i].values);
    return good ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

/* ---- The table ---- */

static const char *error_string(cudnnStatus_t status) { return status ? "an error" : "no error"; }

static void last_error(char *text, size_t size) {
    if (size) text[0] = 0;
}

void stand_in_open(cavmae__cudnn_library *cudnn, int at, int times) {
    *cudnn = (cavmae__cudnn_library){.version = 91900,
                                     .GetErrorString = error_string,
                                     .GetLastErrorString = last_error,
                                     .BackendCreateDescriptor = create,
                                     .BackendDestroyDescriptor = destroy,
                                     .BackendSetAttribute = set,
                                     .BackendGetAttribute = get,
                                     .BackendFinalize = finalize,
                                     .BackendExecute = execute};
    calls = 0;
    fail_at = at;
    fail_for = times;
}

/* ---- As a library of its own ---- */

#ifdef STAND_IN_LIBRARY

size_t cudnnGetVersion(void) {
    const char *version = getenv("STAND_IN_VERSION");
    return version ? (size_t)atoi(version) : 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t status) { return error_string(status); }
void cudnnGetLastErrorString(char *text, size_t size) { last_error(text, size); }

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    alive++;
    *handle = malloc(1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    alive--;
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    (void)stream;
    return handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *out) {
    return create(type, out);
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t of) { return destroy(of); }
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t of) { return finalize(of); }

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t of, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    return set(of, name, type, count, values);
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const of, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t asked, int64_t *count, void *values) {
    return get(of, name, type, asked, count, values);
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    return execute(handle, plan, pack);
}

#endif
