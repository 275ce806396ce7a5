/* PyTorch files as torch.save writes them: a zip archive of stored members, their data at multiples of 64 bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "atomic_file.h"
#include "checksum.h"
#include "tensor.h"
#include "utf8.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie in memory");

enum { ALIGNMENT = 64, MAX_PATH = 48 };

/* ---- The pickle ---- */

/* Run twice: without `out` it only counts. */
typedef struct pickler {
    char *out;
    size_t used;
} pickler;

static void put(pickler *p, const void *data, size_t size) {
    if (p->out && size) memcpy(p->out + p->used, data, size);
    p->used += size;
}

static void put_text(pickler *p, const char *text) { put(p, text, strlen(text)); }

static void put_opcode(pickler *p, char opcode, const void *argument, size_t size) {
    put(p, &opcode, 1);
    put(p, argument, size);
}

static void put_int(pickler *p, int64_t number) {
    int32_t narrow = (int32_t)number;
    if (number >= 0 && number <= UINT8_MAX) {
        put_opcode(p, 'K', &number, 1); /* BININT1 */
    } else if (number == narrow) {
        put_opcode(p, 'J', &narrow, sizeof narrow); /* BININT */
    } else {
        put_text(p, "\x8a\x08"); /* LONG1 */
        put(p, &number, sizeof number);
    }
}

static void put_ints(pickler *p, const int64_t *numbers, int32_t count) {
    put_text(p, "("); /* MARK */
    for (int32_t i = 0; i < count; i++) put_int(p, numbers[i]);
    put_text(p, "t"); /* TUPLE */
}

/* BINUNICODE, in two parts. */
static void put_string(pickler *p, const char *prefix, const char *rest) {
    uint32_t length = (uint32_t)(strlen(prefix) + strlen(rest));
    put_opcode(p, 'X', &length, sizeof length);
    put_text(p, prefix);
    put_text(p, rest);
}

/* As FloatStorage for CAVMAE_FLOAT32; NULL: no such dtype. */
static const char *storage_name(int32_t dtype) {
    switch (dtype) {
    case CAVMAE_FLOAT32: return "Float";
    case CAVMAE_FLOAT64: return "Double";
    case CAVMAE_FLOAT16: return "Half";
    case CAVMAE_BFLOAT16: return "BFloat16";
    case CAVMAE_INT64: return "Long";
    case CAVMAE_INT32: return "Int";
    case CAVMAE_INT16: return "Short";
    case CAVMAE_INT8: return "Char";
    case CAVMAE_UINT8: return "Byte";
    case CAVMAE_BOOL: return "Bool";
    default: return NULL;
    }
}

/* What every tensor needs is written once, and put into the memo as number `memo`. */
static void put_shared(pickler *p, int first, char memo, const char *text, size_t size) {
    if (first) put(p, text, size);
    put_opcode(p, first ? 'q' : 'h', &memo, 1); /* BINPUT or BINGET */
}

enum { MEMO_DICT, MEMO_REBUILD, MEMO_STORAGE, MEMO_CPU };

/* torch._utils._rebuild_tensor_v2(("storage", torch.FloatStorage, "0", "cpu", n), 0, size, stride, False,
 * collections.OrderedDict()) */
static void put_tensor(pickler *p, const cavmae_tensor *tensor, int64_t key) {
    static const char rebuild[] = "ctorch._utils\n_rebuild_tensor_v2\n", storage[] = "X\7\0\0\0storage",
                      cpu[] = "X\3\0\0\0cpu";
    const int64_t *shape = cavmae_tensor_shape(tensor);
    int64_t strides[CAVMAE_MAX_DIMS], stride = 1;
    int32_t dims = cavmae_tensor_dims(tensor);
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)key);
    for (int32_t i = dims - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= shape[i] ? shape[i] : 1;
    }
    put_shared(p, key == 0, MEMO_REBUILD, rebuild, sizeof rebuild - 1);
    put_text(p, "(("); /* MARK */
    put_shared(p, key == 0, MEMO_STORAGE, storage, sizeof storage - 1);
    put_text(p, "ctorch\n"); /* GLOBAL */
    put_text(p, storage_name(cavmae_tensor_dtype(tensor)));
    put_text(p, "Storage\n");
    put_string(p, "", digits);
    put_shared(p, key == 0, MEMO_CPU, cpu, sizeof cpu - 1);
    put_int(p, cavmae_tensor_elements(tensor));
    put_text(p, "tQ"); /* TUPLE, BINPERSID */
    put_int(p, 0);
    put_ints(p, shape, dims);
    put_ints(p, strides, dims);
    put_text(p, "\x89"); /* NEWFALSE */
    put_shared(p, 0, MEMO_DICT, NULL, 0);
    put_text(p, ")RtR"); /* EMPTY_TUPLE, REDUCE, TUPLE, REDUCE */
}

static void put_dictionary(pickler *p, int64_t count, const char *const *names, const cavmae_tensor *const *tensors,
                           const char *prefix) {
    static const char dict[] = "ccollections\nOrderedDict\n";
    put_text(p, "\x80\2"); /* PROTO 2 */
    put_shared(p, 1, MEMO_DICT, dict, sizeof dict - 1);
    put_text(p, ")R("); /* EMPTY_TUPLE, REDUCE, MARK */
    for (int64_t i = 0; i < count; i++) {
        put_string(p, prefix, names[i]);
        put_tensor(p, tensors[i], i);
    }
    put_text(p, "u."); /* SETITEMS, STOP */
}

/* ---- The archive ---- */

typedef struct member {
    const char *data;
    size_t size;
    uint32_t crc;
    uint64_t offset; /* of its header */
} member;

typedef struct archive {
    cavmae__atomic_file file;
    uint64_t at;
    int64_t tensors, count; /* members: the pickle, the byte order, a storage for each tensor, the version */
    member *members;
} archive;

/* The path in the archive; its length. */
static size_t path_of(const archive *a, int64_t index, char out[MAX_PATH]) {
    const char *name = index == 0 ? "data.pkl" : index == 1 ? "byteorder" : "version";
    if (index >= 2 && index - 2 < a->tensors)
        return (size_t)snprintf(out, MAX_PATH, "archive/data/%lld", (long long)(index - 2));
    return (size_t)snprintf(out, MAX_PATH, "archive/%s", name);
}

static cavmae_status emit(archive *a, const void *data, size_t size) {
    a->at += size;
    return cavmae__atomic_file_write(&a->file, data, size);
}

/* Little-endian numbers one after another. */
typedef struct record {
    char bytes[128];
    size_t used;
} record;

static void add(record *r, uint64_t number, size_t size) {
    memcpy(r->bytes + r->used, &number, size);
    r->used += size;
}

static uint64_t narrow32(uint64_t number) { return number < UINT32_MAX ? number : UINT32_MAX; }

/* What local and central records share, from the version needed to the name's length. */
static void add_common(record *r, const member *m, size_t path_length, int zip64) {
    add(r, zip64 ? 45 : 20, 2); /* version needed */
    add(r, 1 << 11, 2);         /* names are UTF-8 */
    add(r, 0, 2);               /* stored */
    add(r, 0, 4);               /* no time, so that equal tensors make equal files */
    add(r, m->crc, 4);
    add(r, zip64 ? UINT32_MAX : m->size, 4);
    add(r, zip64 ? UINT32_MAX : m->size, 4);
    add(r, path_length, 2);
}

/* The header ends with a field of its own ("FB", as PyTorch's) that is as long as it takes to align the data. */
static cavmae_status write_member(archive *a, int64_t index) {
    static const char zeros[ALIGNMENT];
    char path[MAX_PATH];
    record r = {.used = 0};
    member *m = &a->members[index];
    int zip64 = m->size >= UINT32_MAX;
    size_t path_length = path_of(a, index, path);
    size_t before = 30 + path_length + (zip64 ? 20 : 0) + 4, padding = ALIGNMENT - (a->at + before) % ALIGNMENT;
    m->offset = a->at;
    add(&r, 0x04034b50, 4);
    add_common(&r, m, path_length, zip64);
    add(&r, (zip64 ? 20 : 0) + 4 + padding, 2);
    CAVMAE__TRY(emit(a, r.bytes, r.used));
    CAVMAE__TRY(emit(a, path, path_length));
    r.used = 0;
    if (zip64) {
        add(&r, 1, 2);
        add(&r, 16, 2);
        add(&r, m->size, 8);
        add(&r, m->size, 8);
    }
    add(&r, 'F' | 'B' << 8, 2);
    add(&r, padding, 2);
    CAVMAE__TRY(emit(a, r.bytes, r.used));
    CAVMAE__TRY(emit(a, zeros, padding));
    return emit(a, m->data, m->size);
}

static cavmae_status write_record(archive *a, int64_t index) {
    char path[MAX_PATH];
    record r = {.used = 0}, extra = {.used = 4};
    const member *m = &a->members[index];
    int large = m->size >= UINT32_MAX, far = m->offset >= UINT32_MAX;
    size_t path_length = path_of(a, index, path);
    if (large) {
        add(&extra, m->size, 8);
        add(&extra, m->size, 8);
    }
    if (far) add(&extra, m->offset, 8);
    size_t extra_length = large || far ? extra.used : 0;
    extra.used = 0;
    add(&extra, 1, 2);
    add(&extra, extra_length - 4, 2);

    add(&r, 0x02014b50, 4);
    add(&r, large || far ? 45 : 20, 2); /* made by */
    add_common(&r, m, path_length, large);
    add(&r, extra_length, 2);
    add(&r, 0, 2); /* no comment */
    add(&r, 0, 2); /* disk */
    add(&r, 0, 2); /* attributes */
    add(&r, 0, 4);
    add(&r, narrow32(m->offset), 4);
    CAVMAE__TRY(emit(a, r.bytes, r.used));
    CAVMAE__TRY(emit(a, path, path_length));
    return emit(a, extra.bytes, extra_length);
}

/* The zip64 records are always there, as in PyTorch's own files. */
static cavmae_status write_end(archive *a, uint64_t directory) {
    record r = {.used = 0};
    uint64_t count = (uint64_t)a->count, size = a->at - directory, at = a->at;
    add(&r, 0x06064b50, 4);
    add(&r, 44, 8); /* what follows of this record */
    add(&r, 45, 2);
    add(&r, 45, 2);
    add(&r, 0, 4);
    add(&r, 0, 4);
    add(&r, count, 8);
    add(&r, count, 8);
    add(&r, size, 8);
    add(&r, directory, 8);

    add(&r, 0x07064b50, 4);
    add(&r, 0, 4);
    add(&r, at, 8);
    add(&r, 1, 4);

    add(&r, 0x06054b50, 4);
    add(&r, 0, 4);
    add(&r, count < UINT16_MAX ? count : UINT16_MAX, 2);
    add(&r, count < UINT16_MAX ? count : UINT16_MAX, 2);
    add(&r, narrow32(size), 4);
    add(&r, narrow32(directory), 4);
    add(&r, 0, 2);
    return emit(a, r.bytes, r.used);
}

static cavmae_status write_archive(archive *a, const char *path) {
    cavmae_status status;
    CAVMAE__TRY(cavmae__atomic_file_open(&a->file, path));
    for (int64_t i = 0; i < a->count; i++) CAVMAE__TRY_OUT(write_member(a, i));
    uint64_t directory = a->at;
    for (int64_t i = 0; i < a->count; i++) CAVMAE__TRY_OUT(write_record(a, i));
    CAVMAE__TRY_OUT(write_end(a, directory));
    return cavmae__atomic_file_commit(&a->file);
out:
    cavmae__atomic_file_abandon(&a->file);
    return status;
}

/* ---- What to write ---- */

static int compare_strings(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static cavmae_status check_utf8(const char *text) {
    for (size_t left = strlen(text), length; left; text += length, left -= length) {
        length = cavmae__utf8_length(text, left);
        if (length == 0) return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_save: a name or the prefix is not UTF-8");
        if (left > UINT32_MAX / 4) return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_save: a name is too long");
    }
    return CAVMAE_OK;
}

static cavmae_status check_arguments(cavmae_context *context, int64_t count, const char *const *names,
                                     const cavmae_tensor *const *tensors, const char *prefix) {
    const char **sorted;
    cavmae_status status;
    for (int64_t i = 0; i < count; i++) {
        if (!names[i] || !tensors[i])
            return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_save: name or tensor %lld is NULL", (long long)i);
        CAVMAE__TRY(check_utf8(names[i]));
    }
    CAVMAE__TRY(check_utf8(prefix));
    CAVMAE__TRY(CAVMAE__NEW(context, &sorted, count));
    if (count) memcpy(sorted, names, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_strings);
    for (int64_t i = 1; i < count; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0) {
            status = cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_save: %s is there twice", sorted[i]);
            goto out;
        }
    status = CAVMAE_OK;
out:
    cavmae__free(context, sorted);
    return status;
}

static cavmae_status describe_members(cavmae_context *context, archive *a, const pickler *pickle,
                                      const cavmae_tensor *const *tensors) {
    cavmae__checksum *sums;
    cavmae_status status;
    CAVMAE__TRY(CAVMAE__NEW(context, &sums, a->count));
    sums[0] = (cavmae__checksum){pickle->out, pickle->used, 0};
    sums[1] = (cavmae__checksum){"little", 6, 0};
    for (int64_t i = 0; i < a->tensors; i++)
        sums[2 + i] = (cavmae__checksum){
            cavmae_tensor_data(tensors[i]),
            (size_t)cavmae_tensor_elements(tensors[i]) * cavmae__dtype_size(cavmae_tensor_dtype(tensors[i])), 0};
    sums[a->count - 1] = (cavmae__checksum){"3\n", 2, 0};
    CAVMAE__TRY_OUT(cavmae__checksums(context, sums, a->count));
    for (int64_t i = 0; i < a->count; i++) a->members[i] = (member){sums[i].data, sums[i].size, sums[i].crc, 0};
out:
    cavmae__free(context, sums);
    return status;
}

cavmae_status cavmae_torch_save(cavmae_context *context, const char *path, int64_t count, const char *const *names,
                                const cavmae_tensor *const *tensors, const char *prefix) {
    archive a = {.at = 0};
    pickler pickle = {NULL, 0};
    cavmae_status status;
    if (!context || !path || count < 0 || (count && (!names || !tensors)))
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_save: an argument is NULL, or count negative");
    if (!prefix) prefix = "";
    CAVMAE__TRY(check_arguments(context, count, names, tensors, prefix));

    put_dictionary(&pickle, count, names, tensors, prefix);
    CAVMAE__TRY(CAVMAE__NEW(context, &pickle.out, pickle.used));
    pickle.used = 0;
    put_dictionary(&pickle, count, names, tensors, prefix);
    a.tensors = count;
    a.count = count + 3;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &a.members, a.count));
    CAVMAE__TRY_OUT(describe_members(context, &a, &pickle, tensors));
    status = write_archive(&a, path);
out:
    cavmae__free(context, a.members);
    cavmae__free(context, pickle.out);
    return status;
}
