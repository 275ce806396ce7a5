#include "safetensors_format.h"

static const char *const dtype_names[] = {
    [CAVMAE_FLOAT32] = "F32", [CAVMAE_FLOAT64] = "F64", [CAVMAE_FLOAT16] = "F16", [CAVMAE_BFLOAT16] = "BF16",
    [CAVMAE_INT64] = "I64",   [CAVMAE_INT32] = "I32",   [CAVMAE_INT16] = "I16",   [CAVMAE_INT8] = "I8",
    [CAVMAE_UINT8] = "U8",    [CAVMAE_BOOL] = "BOOL",
};

enum { DTYPE_END = (int)(sizeof dtype_names / sizeof dtype_names[0]) };

int32_t cavmae__safetensors_dtype(const cavmae__json_string *name) {
    for (int32_t dtype = 1; dtype < DTYPE_END; dtype++)
        if (cavmae__json_is(name, dtype_names[dtype])) return dtype;
    return 0;
}

const char *cavmae__safetensors_dtype_name(int32_t dtype) {
    return dtype > 0 && dtype < DTYPE_END ? dtype_names[dtype] : NULL;
}

int cavmae__parse_crc(const char *digits, uint32_t *crc) {
    *crc = 0;
    for (int i = 0; i < CAVMAE__CRC_DIGITS; i++) {
        char c = digits[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return 0;
        *crc = *crc << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return 1;
}
