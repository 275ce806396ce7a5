#include "pickle_names.h"

#include <string.h>

/* What dictionaries of tensors are made of, and what else training scripts put beside them: options, schedules,
 * numbers. Of those nothing is kept but that they were there. */
static const cavmae__pickle_name names[] = {
    {"torch._utils", "_rebuild_tensor_v2", CAVMAE__ROLE_REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor", CAVMAE__ROLE_REBUILD_TENSOR, 0}, /* before PyTorch 0.4 */
    {"torch._utils", "_rebuild_parameter", CAVMAE__ROLE_REBUILD_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", CAVMAE__ROLE_REBUILD_PARAMETER, 0},

    {"torch", "FloatStorage", CAVMAE__ROLE_STORAGE, CAVMAE_FLOAT32},
    {"torch", "DoubleStorage", CAVMAE__ROLE_STORAGE, CAVMAE_FLOAT64},
    {"torch", "HalfStorage", CAVMAE__ROLE_STORAGE, CAVMAE_FLOAT16},
    {"torch", "BFloat16Storage", CAVMAE__ROLE_STORAGE, CAVMAE_BFLOAT16},
    {"torch", "LongStorage", CAVMAE__ROLE_STORAGE, CAVMAE_INT64},
    {"torch", "IntStorage", CAVMAE__ROLE_STORAGE, CAVMAE_INT32},
    {"torch", "ShortStorage", CAVMAE__ROLE_STORAGE, CAVMAE_INT16},
    {"torch", "CharStorage", CAVMAE__ROLE_STORAGE, CAVMAE_INT8},
    {"torch", "ByteStorage", CAVMAE__ROLE_STORAGE, CAVMAE_UINT8},
    {"torch", "BoolStorage", CAVMAE__ROLE_STORAGE, CAVMAE_BOOL},

    {"collections", "OrderedDict", CAVMAE__ROLE_DICT, 0},
    {"collections", "defaultdict", CAVMAE__ROLE_DICT, 0},
    {"__builtin__", "dict", CAVMAE__ROLE_DICT, 0},
    {"builtins", "dict", CAVMAE__ROLE_DICT, 0},

    {"collections", "Counter", CAVMAE__ROLE_OPAQUE, 0}, /* milestones of a schedule */
    {"argparse", "Namespace", CAVMAE__ROLE_OPAQUE, 0},  /* "args" */
    {"torch", "Size", CAVMAE__ROLE_OPAQUE, 0},
    {"torch", "device", CAVMAE__ROLE_OPAQUE, 0},
    {"_codecs", "encode", CAVMAE__ROLE_OPAQUE, 0}, /* bytes in protocol 2 */
    {"numpy.core.multiarray", "scalar", CAVMAE__ROLE_OPAQUE, 0},
    {"numpy._core.multiarray", "scalar", CAVMAE__ROLE_OPAQUE, 0},
    {"numpy", "dtype", CAVMAE__ROLE_OPAQUE, 0},
    {"__builtin__", "list", CAVMAE__ROLE_OPAQUE, 0},
    {"__builtin__", "set", CAVMAE__ROLE_OPAQUE, 0},
    {"__builtin__", "frozenset", CAVMAE__ROLE_OPAQUE, 0},
    {"__builtin__", "complex", CAVMAE__ROLE_OPAQUE, 0},
    {"__builtin__", "bytearray", CAVMAE__ROLE_OPAQUE, 0},
    {"builtins", "list", CAVMAE__ROLE_OPAQUE, 0},
    {"builtins", "set", CAVMAE__ROLE_OPAQUE, 0},
    {"builtins", "frozenset", CAVMAE__ROLE_OPAQUE, 0},
    {"builtins", "complex", CAVMAE__ROLE_OPAQUE, 0},
    {"builtins", "bytearray", CAVMAE__ROLE_OPAQUE, 0},

    {"torch", "float32", CAVMAE__ROLE_WORD, 0},
    {"torch", "float64", CAVMAE__ROLE_WORD, 0},
    {"torch", "float16", CAVMAE__ROLE_WORD, 0},
    {"torch", "bfloat16", CAVMAE__ROLE_WORD, 0},
    {"torch", "int64", CAVMAE__ROLE_WORD, 0},
    {"torch", "int32", CAVMAE__ROLE_WORD, 0},
    {"torch", "int16", CAVMAE__ROLE_WORD, 0},
    {"torch", "int8", CAVMAE__ROLE_WORD, 0},
    {"torch", "uint8", CAVMAE__ROLE_WORD, 0},
    {"torch", "bool", CAVMAE__ROLE_WORD, 0},
};

static int same(const char *word, const char *text, size_t length) {
    return strlen(word) == length && memcmp(word, text, length) == 0;
}

int32_t cavmae__pickle_find_name(const char *module, size_t module_length, const char *name, size_t name_length) {
    for (int32_t i = 0; i < (int32_t)(sizeof names / sizeof names[0]); i++)
        if (same(names[i].module, module, module_length) && same(names[i].name, name, name_length)) return i;
    return -1;
}

const cavmae__pickle_name *cavmae__pickle_name_at(int64_t row) { return &names[row]; }

const char *cavmae__pickle_refused_opcode(unsigned char opcode) {
    switch (opcode) {
    case 0x82: return "EXT1";
    case 0x83: return "EXT2";
    case 0x84: return "EXT4";
    case 0x92: return "NEWOBJ_EX";
    case 0x97: return "NEXT_BUFFER";
    case 0x98: return "READONLY_BUFFER";
    case 'o': return "OBJ";
    case 'P': return "PERSID";
    case '2': return "DUP";
    /* of protocols 0 and 1 */
    case 'F': return "FLOAT";
    case 'I': return "INT";
    case 'L': return "LONG";
    case 'S': return "STRING";
    case 'V': return "UNICODE";
    case 'd': return "DICT";
    case 'g': return "GET";
    case 'l': return "LIST";
    case 'p': return "PUT";
    default: return NULL;
    }
}
