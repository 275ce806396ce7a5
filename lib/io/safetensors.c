#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "json.h"
#include "mapped_file.h"
#include "safetensors_format.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are used as they lie in the file");

typedef struct pair {
    const char *key, *value;
} pair;

/* Where a tensor lies in the data. */
typedef struct extent {
    size_t begin, end;
    int64_t entry;
} extent;

struct cavmae_safetensors {
    cavmae_context *context;
    atomic_int references;
    cavmae__mapped_file *map;
    const char *header, *data;
    size_t header_size, data_size;
    const char *header_crc; /* the 8 digits in the header; NULL: none */

    int64_t count, metadata_count;
    cavmae__entry *entries;        /* in the order of the header */
    const cavmae__entry **by_name; /* sorted */
    pair *metadata;                /* sorted by key */
    char *strings;                 /* names, keys and values, escapes resolved */
    char *strings_end;
};

/* ---- Reading the header ---- */

static int is_metadata(const cavmae__json_string *key) { return cavmae__json_is(key, CAVMAE__METADATA); }

static cavmae_status enter_header(const cavmae_safetensors *file, cavmae__json *json) {
    cavmae__json_open(json, file->header, file->header_size, file->map->path);
    return cavmae__json_enter(json, CAVMAE__JSON_OBJECT);
}

/* First walk: is it JSON, and how many entries are there? */
static cavmae_status count_entries(cavmae_safetensors *file) {
    cavmae__json json;
    cavmae__json_string string;
    int more, metadata = 0;
    CAVMAE__TRY(enter_header(file, &json));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &string, &more));
        if (!more) return cavmae__json_end(&json);
        if (!is_metadata(&string)) {
            file->count++;
            CAVMAE__TRY(cavmae__json_skip(&json));
            continue;
        }
        if (metadata++)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: the header has two " CAVMAE__METADATA, file->map->path);
        CAVMAE__TRY(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
        for (;;) {
            CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &string, &more));
            if (!more) break;
            CAVMAE__TRY(cavmae__json_string_value(&json, &string));
            file->metadata_count++;
        }
    }
}

/* Escapes only ever get shorter, and each string leaves two quotes behind for its zero: `strings` is as large as the
 * header. */
static cavmae_status keep_string(cavmae_safetensors *file, cavmae__json *json, const cavmae__json_string *string,
                                 const char **out) {
    size_t length;
    CAVMAE__TRY(cavmae__json_unescape(json, string, file->strings_end, &length));
    *out = file->strings_end;
    file->strings_end += length + 1;
    return CAVMAE_OK;
}

static cavmae_status read_metadata(cavmae_safetensors *file, cavmae__json *json) {
    cavmae__json_string key, value;
    int more;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (pair *p = file->metadata;; p++) {
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) return CAVMAE_OK;
        CAVMAE__TRY(cavmae__json_string_value(json, &value));
        CAVMAE__TRY(keep_string(file, json, &key, &p->key));
        CAVMAE__TRY(keep_string(file, json, &value, &p->value));
        if (strcmp(p->key, CAVMAE__HEADER_CRC) == 0)
            file->header_crc = value.length == CAVMAE__CRC_DIGITS ? value.text : "";
    }
}

/* An array of at most `limit` integers. */
static cavmae_status read_integers(cavmae__json *json, int64_t *out, int32_t limit, int32_t *count) {
    int more;
    *count = 0;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_ARRAY));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_ARRAY, NULL, &more));
        if (!more) return CAVMAE_OK;
        if (*count == limit) return cavmae__fail(CAVMAE_E_FORMAT, "an array has more than %d integers", (int)limit);
        CAVMAE__TRY(cavmae__json_i64(json, &out[(*count)++]));
    }
}

enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };

/* The description of a tensor: {"dtype": ..., "shape": ..., "data_offsets": ...} in any order. */
static cavmae_status read_description(cavmae__json *json, cavmae__entry *entry, int64_t offsets[2]) {
    cavmae__json_string key, dtype;
    int32_t count = 0;
    int more, seen = 0;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        int what = cavmae__json_is(&key, "dtype")          ? DTYPE
                   : cavmae__json_is(&key, "shape")        ? SHAPE
                   : cavmae__json_is(&key, "data_offsets") ? OFFSETS
                                                           : 0;
        if (seen & what) return cavmae__fail(CAVMAE_E_FORMAT, "dtype, shape or data_offsets is there twice");
        seen |= what;
        if (what == DTYPE) {
            CAVMAE__TRY(cavmae__json_string_value(json, &dtype));
            entry->dtype = cavmae__safetensors_dtype(&dtype);
            if (!entry->dtype)
                return cavmae__fail(CAVMAE_E_FORMAT, "unknown dtype %.*s", dtype.length < 32 ? (int)dtype.length : 32,
                                    dtype.text);
        } else if (what == SHAPE) {
            CAVMAE__TRY(read_integers(json, entry->shape, CAVMAE_MAX_DIMS, &entry->dims));
        } else if (what == OFFSETS) {
            CAVMAE__TRY(read_integers(json, offsets, 2, &count));
        } else {
            CAVMAE__TRY(cavmae__json_skip(json));
        }
    }
    if (seen != ALL) return cavmae__fail(CAVMAE_E_FORMAT, "dtype, shape or data_offsets is not there");
    return count == 2 ? CAVMAE_OK : cavmae__fail(CAVMAE_E_FORMAT, "data_offsets is not two integers");
}

static cavmae_status read_tensor(cavmae_safetensors *file, cavmae__json *json, cavmae__entry *entry, extent *place) {
    int64_t offsets[2];
    size_t bytes;
    CAVMAE__TRY(read_description(json, entry, offsets));
    CAVMAE__TRY(cavmae__tensor_bytes(entry->dtype, entry->dims, entry->shape, &bytes));
    if (offsets[0] < 0 || offsets[1] < offsets[0] || (uint64_t)offsets[1] > file->data_size)
        return cavmae__fail(CAVMAE_E_FORMAT, "data_offsets %lld and %lld are not within the %lld bytes of data",
                            (long long)offsets[0], (long long)offsets[1], (long long)file->data_size);
    if ((uint64_t)(offsets[1] - offsets[0]) != bytes)
        return cavmae__fail(CAVMAE_E_FORMAT, "shape and dtype make %lld bytes, data_offsets %lld", (long long)bytes,
                            (long long)(offsets[1] - offsets[0]));
    *place = (extent){(size_t)offsets[0], (size_t)offsets[1], entry - file->entries};
    entry->data = file->data + place->begin;
    return CAVMAE_OK;
}

/* Second walk, into memory that the first one measured. */
static cavmae_status read_entries(cavmae_safetensors *file, extent *places) {
    cavmae__json json;
    cavmae__json_string key;
    cavmae__entry *entry = file->entries;
    int more;
    CAVMAE__TRY(enter_header(file, &json));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) return CAVMAE_OK;
        if (is_metadata(&key)) {
            CAVMAE__TRY(read_metadata(file, &json));
            continue;
        }
        CAVMAE__TRY(keep_string(file, &json, &key, &entry->name));
        cavmae_status status = read_tensor(file, &json, entry, places++);
        if (status != CAVMAE_OK)
            return cavmae__fail_prefix(CAVMAE_E_FORMAT, "%s: tensor %s", file->map->path, entry->name);
        entry++;
    }
}

/* ---- Checks of the whole ---- */

static int compare_entries(const void *a, const void *b) {
    const cavmae__entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_pairs(const void *a, const void *b) {
    const pair *x = a, *y = b;
    return strcmp(x->key, y->key);
}

/* Tensors without elements lie before the one that starts where they do. */
static int compare_extents(const void *a, const void *b) {
    const extent *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return (x->entry > y->entry) - (x->entry < y->entry);
}

static cavmae_status sort_names(cavmae_safetensors *file) {
    const char *path = file->map->path;
    for (int64_t i = 0; i < file->count; i++) file->by_name[i] = &file->entries[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, compare_entries);
    for (int64_t i = 1; i < file->count; i++)
        if (compare_entries(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor %s is there twice", path, file->by_name[i]->name);

    qsort(file->metadata, (size_t)file->metadata_count, sizeof *file->metadata, compare_pairs);
    for (int64_t i = 1; i < file->metadata_count; i++)
        if (compare_pairs(&file->metadata[i - 1], &file->metadata[i]) == 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: metadata %s is there twice", path, file->metadata[i].key);
    return CAVMAE_OK;
}

static cavmae_status sort_places(const cavmae_safetensors *file, extent *places) {
    qsort(places, (size_t)file->count, sizeof *places, compare_extents);
    for (int64_t i = 1; i < file->count; i++)
        if (places[i].begin < places[i - 1].end)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensors %s and %s overlap", file->map->path,
                                file->entries[places[i - 1].entry].name, file->entries[places[i].entry].name);
    return CAVMAE_OK;
}

/* The header's own CRC is taken with zeros in its place. */
static cavmae_status check_header(const cavmae_safetensors *file) {
    uint32_t said, crc;
    if (!file->header_crc) return CAVMAE_OK;
    if (!cavmae__parse_crc(file->header_crc, &said))
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: metadata " CAVMAE__HEADER_CRC " is not 8 hexadecimal digits",
                            file->map->path);
    const char *after = file->header_crc + CAVMAE__CRC_DIGITS;
    crc = cavmae__crc32(0, file->header, (size_t)(file->header_crc - file->header));
    crc = cavmae__crc32(crc, CAVMAE__NO_CRC, CAVMAE__CRC_DIGITS);
    crc = cavmae__crc32(crc, after, (size_t)(file->header + file->header_size - after));
    if (crc == said) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: the header is damaged: its CRC-32 is %08x, not %08x", file->map->path,
                        (unsigned)crc, (unsigned)said);
}

static cavmae_status check_data(cavmae_safetensors *file, const extent *places) {
    const char *text = cavmae_safetensors_metadata(file, CAVMAE__DATA_CRC), *path = file->map->path;
    cavmae__checksum *sums;
    cavmae_status status;
    if (!text || file->count == 0) return CAVMAE_OK;
    CAVMAE__TRY(CAVMAE__NEW(file->context, &sums, file->count));
    for (int64_t i = 0; i < file->count; i++)
        sums[i] = (cavmae__checksum){file->data + places[i].begin, places[i].end - places[i].begin, 0};
    CAVMAE__TRY_OUT(cavmae__checksums(file->context, sums, file->count));

    for (int64_t i = 0; i < file->count; i++) {
        uint32_t said;
        char end = i + 1 < file->count ? ' ' : '\0';
        if (!cavmae__parse_crc(text, &said) || text[CAVMAE__CRC_DIGITS] != end) {
            status = cavmae__fail(
                CAVMAE_E_FORMAT, "%s: metadata " CAVMAE__DATA_CRC " is not 8 hexadecimal digits for each tensor", path);
            goto out;
        }
        text += CAVMAE__CRC_DIGITS + 1;
        if (sums[i].crc == said) continue;
        status = cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor %s is damaged: its CRC-32 is %08x, not %08x", path,
                              file->entries[places[i].entry].name, (unsigned)sums[i].crc, (unsigned)said);
        goto out;
    }
out:
    cavmae__free(file->context, sums);
    return status;
}

/* ---- Opening ---- */

static cavmae_status locate(cavmae_safetensors *file) {
    const cavmae__mapped_file *map = file->map;
    uint64_t size;
    if (map->size < sizeof size)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: too short for a safetensors file", map->path);
    memcpy(&size, map->data, sizeof size);
    if (size > CAVMAE__MAX_HEADER || size > map->size - sizeof size)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: not a safetensors file: a header of %llu bytes in a file of %lld",
                            map->path, (unsigned long long)size, (long long)map->size);
    file->header = map->data + sizeof size;
    file->header_size = (size_t)size;
    file->data = file->header + size;
    file->data_size = map->size - sizeof size - file->header_size;
    if (size == 0 || file->header[0] != '{')
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: not a safetensors file: its header is no JSON object", map->path);
    return CAVMAE_OK;
}

static cavmae_status read_header(cavmae_safetensors *file) {
    cavmae_context *context = file->context;
    extent *places = NULL;
    cavmae_status status;
    CAVMAE__TRY(locate(file));
    CAVMAE__TRY(count_entries(file));
    CAVMAE__TRY(CAVMAE__NEW(context, &file->entries, file->count));
    CAVMAE__TRY(CAVMAE__NEW(context, &file->by_name, file->count));
    CAVMAE__TRY(CAVMAE__NEW(context, &file->metadata, file->metadata_count));
    CAVMAE__TRY(CAVMAE__NEW(context, &file->strings, file->header_size));
    file->strings_end = file->strings;

    CAVMAE__TRY(CAVMAE__NEW(context, &places, file->count));
    CAVMAE__TRY_OUT(read_entries(file, places));
    CAVMAE__TRY_OUT(check_header(file));
    CAVMAE__TRY_OUT(sort_names(file));
    CAVMAE__TRY_OUT(sort_places(file, places));
    CAVMAE__TRY_OUT(check_data(file, places));
out:
    cavmae__free(context, places);
    return status;
}

cavmae_status cavmae_safetensors_open(cavmae_context *context, const char *path, cavmae_safetensors **out) {
    cavmae_safetensors *file;
    cavmae_status status;
    if (!context || !path || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_safetensors_open: an argument is NULL");
    file = cavmae__alloc_zero(context, sizeof *file);
    if (!file) return CAVMAE_E_NOMEM;
    file->context = cavmae__context_ref(context);
    atomic_init(&file->references, 1);
    CAVMAE__TRY_OUT(cavmae__mapped_file_open(context, path, &file->map));
    CAVMAE__TRY_OUT(read_header(file));
    *out = file;
    return CAVMAE_OK;

out:
    cavmae_safetensors_free(file);
    return status;
}

cavmae_safetensors *cavmae__safetensors_ref(cavmae_safetensors *file) {
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
    return file;
}

void cavmae_safetensors_free(cavmae_safetensors *file) {
    if (!file || atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1) return;
    cavmae_context *context = file->context;
    cavmae__mapped_file_unref(file->map);
    cavmae__free(context, file->entries);
    cavmae__free(context, file->by_name);
    cavmae__free(context, file->metadata);
    cavmae__free(context, file->strings);
    cavmae__free(context, file);
    cavmae__context_unref(context);
}

/* ---- Use ---- */

int64_t cavmae_safetensors_count(const cavmae_safetensors *file) { return file ? file->count : 0; }

const cavmae__entry *cavmae__safetensors_entry(const cavmae_safetensors *file, int64_t index) {
    return index >= 0 && index < file->count ? &file->entries[index] : NULL;
}

const char *cavmae_safetensors_name(const cavmae_safetensors *file, int64_t index) {
    const cavmae__entry *entry = file ? cavmae__safetensors_entry(file, index) : NULL;
    return entry ? entry->name : NULL;
}

const cavmae__entry *cavmae__safetensors_find(const cavmae_safetensors *file, const char *name) {
    cavmae__entry wanted = {.name = name};
    const cavmae__entry *key = &wanted, *const * found;
    found = bsearch(&key, file->by_name, (size_t)file->count, sizeof *file->by_name, compare_entries);
    return found ? *found : NULL;
}

const char *cavmae_safetensors_metadata(const cavmae_safetensors *file, const char *key) {
    pair wanted = {key, NULL};
    if (!file || !key) return NULL;
    const pair *found =
        bsearch(&wanted, file->metadata, (size_t)file->metadata_count, sizeof *file->metadata, compare_pairs);
    return found ? found->value : NULL;
}

static void release(void *user) { cavmae_safetensors_free(user); }

cavmae_status cavmae_safetensors_get(cavmae_safetensors *file, const char *name, cavmae_tensor **out) {
    const cavmae__entry *entry;
    cavmae_status status;
    if (!file || !name || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_safetensors_get: an argument is NULL");
    entry = cavmae__safetensors_find(file, name);
    if (!entry) return cavmae__fail(CAVMAE_E_NOT_FOUND, "%s: no tensor %s", file->map->path, name);

    size_t size = cavmae__dtype_size(entry->dtype);
    if ((uintptr_t)entry->data % size != 0) { /* the format aligns nothing */
        cavmae_tensor *copy;
        CAVMAE__TRY(cavmae_tensor_create(file->context, entry->dtype, entry->dims, entry->shape, &copy));
        memcpy(cavmae_tensor_data(copy), entry->data, (size_t)cavmae_tensor_elements(copy) * size);
        *out = copy;
        return CAVMAE_OK;
    }
    /* A tensor's data is not const, because most may be written to; this one lies in read-only pages. */
    status = cavmae_tensor_wrap(file->context, (void *)(uintptr_t)entry->data, entry->dtype, entry->dims, entry->shape,
                                release, cavmae__safetensors_ref(file), out);
    if (status != CAVMAE_OK) cavmae_safetensors_free(file);
    return status;
}
