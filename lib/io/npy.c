#include <stdio.h>

#include "atomic_file.h"
#include "tensor.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "descr says '<'");

/* Magic, version 1.0, then the length of the text that follows; data starts at a multiple of 64. */
enum { PREFIX = 10, ALIGNMENT = 64, MAX_HEADER = 320 };

/* NumPy's type, as numpy.dtype.str; NULL: it has none. */
static const char *descr_of(int32_t dtype) {
    switch (dtype) {
    case CAVMAE_FLOAT32: return "<f4";
    case CAVMAE_FLOAT64: return "<f8";
    case CAVMAE_FLOAT16: return "<f2";
    case CAVMAE_INT64: return "<i8";
    case CAVMAE_INT32: return "<i4";
    case CAVMAE_INT16: return "<i2";
    case CAVMAE_INT8: return "|i1";
    case CAVMAE_UINT8: return "|u1";
    case CAVMAE_BOOL: return "|b1";
    default: return NULL;
    }
}

/* The whole header; its size. Eight dimensions of 20 characters fit. */
static size_t make_header(const cavmae_tensor *tensor, const char *descr, char out[MAX_HEADER]) {
    static const char magic[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0};
    const int64_t *shape = cavmae_tensor_shape(tensor);
    int32_t dims = cavmae_tensor_dims(tensor);
    int used = PREFIX;
    used +=
        snprintf(out + used, (size_t)(MAX_HEADER - used), "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int32_t i = 0; i < dims; i++)
        used += snprintf(out + used, (size_t)(MAX_HEADER - used), "%s%lld", i ? ", " : "", (long long)shape[i]);
    used += snprintf(out + used, (size_t)(MAX_HEADER - used), dims == 1 ? ",), }" : "), }");
    while ((used + 1) % ALIGNMENT != 0) out[used++] = ' ';
    out[used++] = '\n';
    for (int i = 0; i < (int)sizeof magic; i++) out[i] = magic[i];
    out[8] = (char)((used - PREFIX) & 0xFF);
    out[9] = (char)((used - PREFIX) >> 8);
    return (size_t)used;
}

cavmae_status cavmae_tensor_save_npy(const cavmae_tensor *tensor, const char *path) {
    cavmae__atomic_file file;
    char header[MAX_HEADER];
    cavmae_status status;
    if (!tensor || !path) return cavmae__fail(CAVMAE_E_ARG, "cavmae_tensor_save_npy: tensor or path is NULL");
    int32_t dtype = cavmae_tensor_dtype(tensor);
    const char *descr = descr_of(dtype);
    if (!descr)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: NumPy has no type for %s; save it as safetensors", path,
                            cavmae__dtype_name(dtype));

    size_t size = (size_t)cavmae_tensor_elements(tensor) * cavmae__dtype_size(dtype);
    CAVMAE__TRY(cavmae__atomic_file_open(&file, path));
    CAVMAE__TRY_OUT(cavmae__atomic_file_write(&file, header, make_header(tensor, descr, header)));
    CAVMAE__TRY_OUT(cavmae__atomic_file_write(&file, cavmae_tensor_data(tensor), size));
    return cavmae__atomic_file_commit(&file);
out:
    cavmae__atomic_file_abandon(&file);
    return status;
}
