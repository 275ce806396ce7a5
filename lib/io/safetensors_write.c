#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "atomic_file.h"
#include "checksum.h"
#include "safetensors.h"
#include "safetensors_format.h"
#include "utf8.h"

enum { DATA_ALIGNMENT = 64 };

/* ---- The header's text ---- */

typedef struct text {
    cavmae_context *context;
    char *data;
    size_t used, capacity;
} text;

static cavmae_status append(text *t, const char *data, size_t size) {
    if (size > CAVMAE__MAX_HEADER - t->used)
        return cavmae__fail(CAVMAE_E_ARG, "names and metadata make a header of more than %d bytes", CAVMAE__MAX_HEADER);
    if (t->used + size > t->capacity) {
        size_t capacity = (t->used + size) * 2;
        char *grown = cavmae__realloc(t->context, t->data, t->used, capacity);
        if (!grown) return CAVMAE_E_NOMEM;
        t->data = grown;
        t->capacity = capacity;
    }
    memcpy(t->data + t->used, data, size);
    t->used += size;
    return CAVMAE_OK;
}

static cavmae_status append_text(text *t, const char *plain) { return append(t, plain, strlen(plain)); }

static cavmae_status append_i64(text *t, int64_t value) {
    char digits[24];
    return append(t, digits, (size_t)snprintf(digits, sizeof digits, "%lld", (long long)value));
}

static cavmae_status append_string(text *t, const char *string) {
    size_t left = strlen(string), length;
    char escaped[8];
    CAVMAE__TRY(append_text(t, "\""));
    for (; left; string += length, left -= length) {
        length = cavmae__utf8_length(string, left);
        if (length == 0) return cavmae__fail(CAVMAE_E_ARG, "a name, key or value is not UTF-8");
        if (*string == '"' || *string == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", *string);
        else if ((unsigned char)*string < 0x20)
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)*string);
        else
            escaped[0] = '\0';
        CAVMAE__TRY(escaped[0] ? append_text(t, escaped) : append(t, string, length));
    }
    return append_text(t, "\"");
}

static cavmae_status append_pair(text *t, const char *key, const char *value) {
    CAVMAE__TRY(append_string(t, key));
    CAVMAE__TRY(append_text(t, ":"));
    return append_string(t, value);
}

/* {"__metadata__":{...,"crc32":"...","crc32.header":"00000000"}; *header_crc is where the zeros are. */
static cavmae_status append_metadata(text *t, const char *const *keys, const char *const *values, int64_t count,
                                     const cavmae__checksum *sums, int64_t sum_count, size_t *header_crc) {
    CAVMAE__TRY(append_text(t, "{\"" CAVMAE__METADATA "\":{"));
    for (int64_t i = 0; i < count; i++) {
        CAVMAE__TRY(append_pair(t, keys[i], values[i]));
        CAVMAE__TRY(append_text(t, ","));
    }
    CAVMAE__TRY(append_text(t, "\"" CAVMAE__DATA_CRC "\":\""));
    for (int64_t i = 0; i < sum_count; i++) {
        char digits[CAVMAE__CRC_DIGITS + 2];
        snprintf(digits, sizeof digits, "%s%08x", i ? " " : "", (unsigned)sums[i].crc);
        CAVMAE__TRY(append_text(t, digits));
    }
    CAVMAE__TRY(append_text(t, "\",\"" CAVMAE__HEADER_CRC "\":\""));
    *header_crc = t->used;
    return append_text(t, CAVMAE__NO_CRC "\"}");
}

/* ,"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static cavmae_status append_entry(text *t, const cavmae__entry *entry, size_t begin, size_t end) {
    CAVMAE__TRY(append_text(t, ","));
    CAVMAE__TRY(append_string(t, entry->name));
    CAVMAE__TRY(append_text(t, ":{\"dtype\":\""));
    CAVMAE__TRY(append_text(t, cavmae__safetensors_dtype_name(entry->dtype)));
    CAVMAE__TRY(append_text(t, "\",\"shape\":["));
    for (int32_t i = 0; i < entry->dims; i++) {
        if (i) CAVMAE__TRY(append_text(t, ","));
        CAVMAE__TRY(append_i64(t, entry->shape[i]));
    }
    CAVMAE__TRY(append_text(t, "],\"data_offsets\":["));
    CAVMAE__TRY(append_i64(t, (int64_t)begin));
    CAVMAE__TRY(append_text(t, ","));
    CAVMAE__TRY(append_i64(t, (int64_t)end));
    return append_text(t, "]}");
}

static cavmae_status make_header(text *t, const cavmae__entry *entries, const cavmae__checksum *sums, int64_t count,
                                 const char *const *keys, const char *const *values, int64_t metadata_count) {
    size_t header_crc, at = 0;
    char digits[CAVMAE__CRC_DIGITS + 1];
    CAVMAE__TRY(append_metadata(t, keys, values, metadata_count, sums, count, &header_crc));
    for (int64_t i = 0; i < count; i++) {
        cavmae_status status = append_entry(t, &entries[i], at, at + sums[i].size);
        if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "tensor %s", entries[i].name);
        at += sums[i].size;
    }
    CAVMAE__TRY(append_text(t, "}"));
    while ((sizeof(uint64_t) + t->used) % DATA_ALIGNMENT != 0) CAVMAE__TRY(append_text(t, " "));
    snprintf(digits, sizeof digits, "%08x", (unsigned)cavmae__crc32(0, t->data, t->used));
    memcpy(t->data + header_crc, digits, CAVMAE__CRC_DIGITS);
    return CAVMAE_OK;
}

/* ---- Writing ---- */

static int compare_strings(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* Sorts `names`, the last of which are reserved. */
static cavmae_status check_unique(const char **names, int64_t count) {
    qsort(names, (size_t)count, sizeof *names, compare_strings);
    for (int64_t i = 1; i < count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return cavmae__fail(CAVMAE_E_ARG, "%s is there twice, or a reserved name", names[i]);
    return CAVMAE_OK;
}

static cavmae_status check_names(cavmae_context *context, const cavmae__entry *entries, int64_t count,
                                 const char *const *keys, int64_t metadata_count) {
    const char **names;
    cavmae_status status;
    CAVMAE__TRY(CAVMAE__NEW(context, &names, count + metadata_count + 2));
    for (int64_t i = 0; i < count; i++) names[i] = entries[i].name;
    names[count] = CAVMAE__METADATA;
    CAVMAE__TRY_OUT(check_unique(names, count + 1));

    for (int64_t i = 0; i < metadata_count; i++) names[i] = keys[i];
    names[metadata_count] = CAVMAE__DATA_CRC;
    names[metadata_count + 1] = CAVMAE__HEADER_CRC;
    CAVMAE__TRY_OUT(check_unique(names, metadata_count + 2));
out:
    cavmae__free(context, names);
    return status;
}

/* What is being written: the header, and where the tensors' bytes are and what they add up to. */
typedef struct writing {
    cavmae_context *context;
    const cavmae__entry *entries;
    const char *const *keys, *const *values;
    int64_t count, metadata_count;
    text header;
    cavmae__checksum *sums;
} writing;

static cavmae_status prepare(writing *w) {
    CAVMAE__TRY(check_names(w->context, w->entries, w->count, w->keys, w->metadata_count));
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->sums, w->count));
    for (int64_t i = 0; i < w->count; i++) {
        const cavmae__entry *entry = &w->entries[i];
        w->sums[i] = (cavmae__checksum){.data = entry->data};
        CAVMAE__TRY(cavmae__tensor_bytes(entry->dtype, entry->dims, entry->shape, &w->sums[i].size));
    }
    return CAVMAE_OK;
}

static cavmae_status update_header(writing *w) {
    w->header.used = 0;
    return make_header(&w->header, w->entries, w->sums, w->count, w->keys, w->values, w->metadata_count);
}

static cavmae_status write_header(const writing *w, cavmae__atomic_file *file) {
    uint64_t size = w->header.used;
    CAVMAE__TRY(cavmae__atomic_file_write(file, &size, sizeof size));
    return cavmae__atomic_file_write(file, w->header.data, w->header.used);
}

static cavmae_status write_file(const writing *w, const char *path) {
    cavmae__atomic_file file;
    cavmae_status status;
    CAVMAE__TRY(cavmae__atomic_file_open(&file, path));
    CAVMAE__TRY_OUT(write_header(w, &file));
    for (int64_t i = 0; i < w->count; i++)
        CAVMAE__TRY_OUT(cavmae__atomic_file_write(&file, w->sums[i].data, w->sums[i].size));
    return cavmae__atomic_file_commit(&file);
out:
    cavmae__atomic_file_abandon(&file);
    return status;
}

/* Checksums are known when all tensors are made. They have as many digits before as after, so the header only has to be
 * written again. */
static cavmae_status write_made(writing *w, const char *path, cavmae__make_entry *make, void *arg) {
    cavmae__atomic_file file;
    cavmae_status status;
    CAVMAE__TRY(cavmae__atomic_file_open(&file, path));
    CAVMAE__TRY_OUT(write_header(w, &file));
    for (int64_t i = 0; i < w->count; i++) {
        cavmae__checksum *sum = &w->sums[i];
        CAVMAE__TRY_OUT(make(arg, i, &sum->data));
        CAVMAE__TRY_OUT(cavmae__checksums(w->context, sum, 1));
        CAVMAE__TRY_OUT(cavmae__atomic_file_write(&file, sum->data, sum->size));
    }
    CAVMAE__TRY_OUT(update_header(w));
    CAVMAE__TRY_OUT(cavmae__atomic_file_overwrite(&file, sizeof(uint64_t), w->header.data, w->header.used));
    return cavmae__atomic_file_commit(&file);
out:
    cavmae__atomic_file_abandon(&file);
    return status;
}

static cavmae_status write_safetensors(writing *w, const char *path, cavmae__make_entry *make, void *arg) {
    cavmae_status status;
    w->header.context = w->context;
    CAVMAE__TRY_OUT(prepare(w));
    if (!make) CAVMAE__TRY_OUT(cavmae__checksums(w->context, w->sums, w->count));
    CAVMAE__TRY_OUT(update_header(w));
    status = make ? write_made(w, path, make, arg) : write_file(w, path);
out:
    cavmae__free(w->context, w->header.data);
    cavmae__free(w->context, w->sums);
    return status;
}

cavmae_status cavmae__safetensors_write(cavmae_context *context, const char *path, const cavmae__entry *entries,
                                        int64_t count, const char *const *keys, const char *const *values,
                                        int64_t metadata_count) {
    writing w = {.context = context,
                 .entries = entries,
                 .keys = keys,
                 .values = values,
                 .count = count,
                 .metadata_count = metadata_count};
    cavmae_status status = write_safetensors(&w, path, NULL, NULL);
    /* Write errors name the file themselves. */
    if (status != CAVMAE_OK && status != CAVMAE_E_IO) cavmae__fail_prefix(status, "%s", path);
    return status;
}

cavmae_status cavmae__safetensors_write_made(cavmae_context *context, const char *path, const cavmae__entry *entries,
                                             int64_t count, const char *const *keys, const char *const *values,
                                             int64_t metadata_count, cavmae__make_entry *make, void *arg) {
    writing w = {.context = context,
                 .entries = entries,
                 .keys = keys,
                 .values = values,
                 .count = count,
                 .metadata_count = metadata_count};
    return write_safetensors(&w, path, make, arg); /* errors of `make` name other files */
}

cavmae_status cavmae_safetensors_save(cavmae_context *context, const char *path, int64_t count,
                                      const char *const *names, const cavmae_tensor *const *tensors,
                                      int64_t metadata_count, const char *const *keys, const char *const *values) {
    cavmae__entry *entries;
    cavmae_status status;
    if (!context || !path || count < 0 || metadata_count < 0 || (count && (!names || !tensors)) ||
        (metadata_count && (!keys || !values)))
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_safetensors_save: an argument is NULL, or a count negative");
    for (int64_t i = 0; i < metadata_count; i++)
        if (!keys[i] || !values[i])
            return cavmae__fail(CAVMAE_E_ARG, "cavmae_safetensors_save: key or value %lld is NULL", (long long)i);

    CAVMAE__TRY(CAVMAE__NEW(context, &entries, count));
    for (int64_t i = 0; i < count; i++) {
        if (!names[i] || !tensors[i]) {
            status = cavmae__fail(CAVMAE_E_ARG, "cavmae_safetensors_save: name or tensor %lld is NULL", (long long)i);
            goto out;
        }
        entries[i] = (cavmae__entry){.name = names[i],
                                     .data = cavmae_tensor_data(tensors[i]),
                                     .dims = cavmae_tensor_dims(tensors[i]),
                                     .dtype = cavmae_tensor_dtype(tensors[i])};
        memcpy(entries[i].shape, cavmae_tensor_shape(tensors[i]), (size_t)entries[i].dims * sizeof entries[i].shape[0]);
    }
    status = cavmae__safetensors_write(context, path, entries, count, keys, values, metadata_count);
out:
    cavmae__free(context, entries);
    return status;
}
