#include "tensor.h"

#include <stdatomic.h>
#include <string.h>

#include "dlpack_abi.h"

struct cavmae_tensor {
    cavmae_context *context;
    atomic_int references; /* the handle's, and one for each DLPack struct given away */
    int32_t dtype, dims;
    int64_t shape[CAVMAE_MAX_DIMS];
    int64_t elements;
    void *data;
    void (*release)(void *user); /* NULL: nothing to do */
    void *user;
    void *owned; /* data, where it is the context's memory */
};

static const struct {
    const char *name;
    uint8_t size, dlpack_code;
} dtypes[] = {
    [CAVMAE_FLOAT32] = {"float32", 4, DLPACK_FLOAT}, [CAVMAE_FLOAT64] = {"float64", 8, DLPACK_FLOAT},
    [CAVMAE_FLOAT16] = {"float16", 2, DLPACK_FLOAT}, [CAVMAE_BFLOAT16] = {"bfloat16", 2, DLPACK_BFLOAT},
    [CAVMAE_INT64] = {"int64", 8, DLPACK_INT},       [CAVMAE_INT32] = {"int32", 4, DLPACK_INT},
    [CAVMAE_INT16] = {"int16", 2, DLPACK_INT},       [CAVMAE_INT8] = {"int8", 1, DLPACK_INT},
    [CAVMAE_UINT8] = {"uint8", 1, DLPACK_UINT},      [CAVMAE_BOOL] = {"bool", 1, DLPACK_BOOL},
};

enum { DTYPE_END = (int)(sizeof dtypes / sizeof dtypes[0]) };

static int dtype_known(int32_t dtype) { return dtype > 0 && dtype < DTYPE_END; }

size_t cavmae__dtype_size(int32_t dtype) { return dtype_known(dtype) ? dtypes[dtype].size : 0; }

const char *cavmae__dtype_name(int32_t dtype) { return dtype_known(dtype) ? dtypes[dtype].name : "unknown dtype"; }

cavmae_status cavmae__tensor_bytes(int32_t dtype, int32_t dims, const int64_t *shape, size_t *bytes) {
    int64_t total = (int64_t)cavmae__dtype_size(dtype);
    int empty = 0;
    if (total == 0) return cavmae__fail(CAVMAE_E_ARG, "there is no dtype %d", (int)dtype);
    if (dims < 0 || dims > CAVMAE_MAX_DIMS)
        return cavmae__fail(CAVMAE_E_SHAPE, "a tensor has 0 to %d dimensions, not %d", CAVMAE_MAX_DIMS, (int)dims);
    for (int32_t i = 0; i < dims; i++) {
        if (shape[i] < 0)
            return cavmae__fail(CAVMAE_E_SHAPE, "dimension %d of a tensor is negative: %lld", (int)i,
                                (long long)shape[i]);
        empty |= shape[i] == 0;
        /* A 0 must not hide an overflow elsewhere: strides are products too. */
        if (__builtin_mul_overflow(total, shape[i] ? shape[i] : 1, &total) || total > PTRDIFF_MAX)
            return cavmae__fail(CAVMAE_E_SHAPE, "a tensor is too large: dimension %d is %lld", (int)i,
                                (long long)shape[i]);
    }
    *bytes = empty ? 0 : (size_t)total;
    return CAVMAE_OK;
}

/* A tensor without memory, with its size in bytes. */
static cavmae_status new_tensor(cavmae_context *context, int32_t dtype, int32_t dims, const int64_t *shape,
                                size_t *bytes, cavmae_tensor **out) {
    cavmae_tensor *tensor;
    if (!context || !out || (!shape && dims != 0))
        return cavmae__fail(CAVMAE_E_ARG, "a tensor's context, shape or out is NULL");
    CAVMAE__TRY(cavmae__tensor_bytes(dtype, dims, shape, bytes));
    tensor = cavmae__alloc_zero(context, sizeof *tensor);
    if (!tensor) return CAVMAE_E_NOMEM;
    tensor->context = cavmae__context_ref(context);
    atomic_init(&tensor->references, 1);
    tensor->dtype = dtype;
    tensor->dims = dims;
    tensor->elements = (int64_t)(*bytes / cavmae__dtype_size(dtype));
    if (dims) memcpy(tensor->shape, shape, (size_t)dims * sizeof *shape);
    *out = tensor;
    return CAVMAE_OK;
}

cavmae_status cavmae_tensor_create(cavmae_context *context, int32_t dtype, int32_t dims, const int64_t *shape,
                                   cavmae_tensor **out) {
    cavmae_tensor *tensor = NULL;
    size_t bytes = 0;
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_create: out is NULL");
    CAVMAE__TRY(new_tensor(context, dtype, dims, shape, &bytes, &tensor));
    tensor->data = tensor->owned = cavmae__alloc_zero(context, bytes);
    if (!tensor->data) {
        cavmae_tensor_free(tensor);
        return CAVMAE_E_NOMEM;
    }
    *out = tensor;
    return CAVMAE_OK;
}

cavmae_status cavmae_tensor_wrap(cavmae_context *context, void *data, int32_t dtype, int32_t dims, const int64_t *shape,
                                 void (*release)(void *user), void *user, cavmae_tensor **out) {
    cavmae_tensor *tensor = NULL;
    size_t bytes = 0;
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_wrap: out is NULL");
    CAVMAE__TRY(new_tensor(context, dtype, dims, shape, &bytes, &tensor));
    if (!data && bytes != 0) {
        cavmae_tensor_free(tensor);
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_wrap: data is NULL for a tensor of %zu bytes", bytes);
    }
    tensor->data = data;
    tensor->release = release;
    tensor->user = user;
    *out = tensor;
    return CAVMAE_OK;
}

void cavmae_tensor_free(cavmae_tensor *tensor) {
    cavmae_context *context;
    if (!tensor || atomic_fetch_sub_explicit(&tensor->references, 1, memory_order_acq_rel) != 1) return;
    context = tensor->context;
    if (tensor->release) tensor->release(tensor->user);
    cavmae__free(context, tensor->owned);
    cavmae__free(context, tensor);
    cavmae__context_unref(context);
}

void *cavmae_tensor_data(const cavmae_tensor *tensor) { return tensor ? tensor->data : NULL; }

int32_t cavmae_tensor_dtype(const cavmae_tensor *tensor) { return tensor ? tensor->dtype : 0; }

int32_t cavmae_tensor_dims(const cavmae_tensor *tensor) { return tensor ? tensor->dims : 0; }

const int64_t *cavmae_tensor_shape(const cavmae_tensor *tensor) { return tensor ? tensor->shape : NULL; }

int64_t cavmae_tensor_elements(const cavmae_tensor *tensor) { return tensor ? tensor->elements : 0; }

/* ---- DLPack ---- */

typedef struct exported {
    DLManagedTensor managed;
    cavmae_tensor *tensor;
    int64_t strides[CAVMAE_MAX_DIMS];
} exported;

static void exported_delete(DLManagedTensor *managed) {
    exported *e = managed->manager_ctx;
    cavmae_tensor *tensor = e->tensor;
    cavmae__free(tensor->context, e);
    cavmae_tensor_free(tensor);
}

cavmae_status cavmae_tensor_to_dlpack(cavmae_tensor *tensor, struct DLManagedTensor **out) {
    exported *e;
    int64_t stride = 1;
    if (!tensor || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_to_dlpack: tensor or out is NULL");
    e = cavmae__alloc_zero(tensor->context, sizeof *e);
    if (!e) return CAVMAE_E_NOMEM;
    /* Strides could be NULL, but not every receiver knows that. */
    for (int32_t i = tensor->dims - 1; i >= 0; i--) {
        e->strides[i] = stride;
        stride *= tensor->shape[i] ? tensor->shape[i] : 1;
    }
    atomic_fetch_add_explicit(&tensor->references, 1, memory_order_relaxed);
    e->tensor = tensor;
    e->managed.dl_tensor.data = tensor->data;
    e->managed.dl_tensor.device.device_type = DLPACK_CPU;
    e->managed.dl_tensor.ndim = tensor->dims;
    e->managed.dl_tensor.dtype.code = dtypes[tensor->dtype].dlpack_code;
    e->managed.dl_tensor.dtype.bits = (uint8_t)(dtypes[tensor->dtype].size * 8);
    e->managed.dl_tensor.dtype.lanes = 1;
    e->managed.dl_tensor.shape = tensor->shape;
    e->managed.dl_tensor.strides = e->strides;
    e->managed.manager_ctx = e;
    e->managed.deleter = exported_delete;
    *out = &e->managed;
    return CAVMAE_OK;
}

static void imported_release(void *user) {
    DLManagedTensor *managed = user;
    if (managed->deleter) managed->deleter(managed);
}

static int32_t dtype_from_dlpack(DLDataType dtype) {
    for (int32_t i = 1; i < DTYPE_END; i++)
        if (dtypes[i].dlpack_code == dtype.code && dtypes[i].size * 8 == dtype.bits && dtype.lanes == 1) return i;
    return 0;
}

/* Strides of dimensions of size 1, and of arrays without elements, mean nothing. */
static int is_compact(const DLTensor *source) {
    int64_t stride = 1;
    if (!source->strides) return 1;
    for (int32_t i = 0; i < source->ndim; i++)
        if (source->shape[i] == 0) return 1;
    for (int32_t i = source->ndim - 1; i >= 0; i--) {
        if (source->shape[i] != 1 && source->strides[i] != stride) return 0;
        stride *= source->shape[i];
    }
    return 1;
}

cavmae_status cavmae_tensor_from_dlpack(cavmae_context *context, struct DLManagedTensor *managed, cavmae_tensor **out) {
    const DLTensor *source;
    int32_t dtype;
    size_t bytes;
    if (!context || !managed || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_from_dlpack: an argument is NULL");
    source = &managed->dl_tensor;
    if (source->device.device_type != DLPACK_CPU)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "DLPack tensor: device type %d is not the CPU",
                            (int)source->device.device_type);
    dtype = dtype_from_dlpack(source->dtype);
    if (!dtype)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "DLPack tensor: no dtype for code %d, %d bits, %d lanes",
                            source->dtype.code, source->dtype.bits, source->dtype.lanes);
    if (source->ndim != 0 && !source->shape) return cavmae__fail(CAVMAE_E_ARG, "DLPack tensor: its shape is NULL");
    CAVMAE__TRY(cavmae__tensor_bytes(dtype, source->ndim, source->shape, &bytes)); /* before products of the shape */
    if (!is_compact(source))
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "DLPack tensor: not compact and row-major; copy it first");
    return cavmae_tensor_wrap(context, source->data ? (char *)source->data + source->byte_offset : NULL, dtype,
                              source->ndim, source->shape, imported_release, managed, out);
}
