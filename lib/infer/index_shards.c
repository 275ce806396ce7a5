/* {"cavmae.shards": 1, "kind": "audio", "dim": D, "clips": N, "shards": [{"file": "F", "first": i, "count": n}, ...]}:
 * files beside the manifest, each with a tensor named as kind, float32 [n, D]; clips in order and without a hole. */
#include "index_shards.h"

#include <string.h>

#include "json.h"
#include "safetensors.h"

enum { VERSION = 1, NAME_SIZE = 256 };

typedef struct shard {
    char name[NAME_SIZE];
    int64_t first, count;
} shard;

typedef struct manifest {
    cavmae_context *context;
    const char *path;
    char kind[NAME_SIZE];
    int64_t version, dim, clips;
    shard *shards;
    int64_t count, capacity;
} manifest;

int cavmae__is_shard_manifest(const cavmae__mapped_file *file) {
    size_t at = 0;
    while (at < file->size && strchr(" \t\r\n", file->data[at]) && file->data[at]) at++;
    return at < file->size && file->data[at] == '{' && !memchr(file->data, 0, file->size < 8 ? file->size : 8);
}

/* ---- Reading the manifest ---- */

/* A name that goes into paths and messages: neither empty nor with what would rewrite a terminal. */
static cavmae_status read_name(cavmae__json *json, const manifest *m, const char *what, char *out) {
    cavmae__json_string text;
    size_t length = 0, plain = 0;
    CAVMAE__TRY(cavmae__json_string_value(json, &text));
    if (text.length < NAME_SIZE) CAVMAE__TRY(cavmae__json_unescape(json, &text, out, &length));
    while (plain < length && (unsigned char)out[plain] >= ' ' && out[plain] != '\x7f') plain++;
    if (length == 0 || plain < length)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: %s must have 1 to %d bytes, and no control characters", m->path, what,
                            NAME_SIZE - 1);
    return CAVMAE_OK;
}

static cavmae_status read_shard(cavmae__json *json, manifest *m) {
    shard s = {.first = -1, .count = -1};
    cavmae__json_string key;
    int more;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        if (cavmae__json_is(&key, "file"))
            CAVMAE__TRY(read_name(json, m, "a shard's file", s.name));
        else if (cavmae__json_is(&key, "first"))
            CAVMAE__TRY(cavmae__json_i64(json, &s.first));
        else if (cavmae__json_is(&key, "count"))
            CAVMAE__TRY(cavmae__json_i64(json, &s.count));
        else
            CAVMAE__TRY(cavmae__json_skip(json));
    }
    const shard *last = m->count ? &m->shards[m->count - 1] : NULL;
    int64_t expected = last ? last->first + last->count : 0;
    if (!s.name[0] || strchr(s.name, '/'))
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: shard %lld has no file beside the manifest", m->path,
                            (long long)m->count);
    if (s.first != expected || s.count < 1 || s.count > INT64_MAX - expected)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: %s has %lld clips from %lld, must begin at %lld", m->path, s.name,
                            (long long)s.count, (long long)s.first, (long long)expected);
    if (m->count == m->capacity) {
        int64_t more_room = m->capacity ? 2 * m->capacity : 16;
        shard *grown = cavmae__realloc(m->context, m->shards, (size_t)m->capacity * sizeof *grown,
                                       (size_t)more_room * sizeof *grown);
        if (!grown) return CAVMAE_E_NOMEM;
        m->shards = grown;
        m->capacity = more_room;
    }
    m->shards[m->count++] = s;
    return CAVMAE_OK;
}

static cavmae_status read_shards(cavmae__json *json, manifest *m) {
    int more;
    if (m->count) return cavmae__fail(CAVMAE_E_FORMAT, "%s: \"shards\" is there twice", m->path);
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_ARRAY));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_ARRAY, NULL, &more));
        if (!more) return CAVMAE_OK;
        CAVMAE__TRY(read_shard(json, m));
    }
}

static cavmae_status read_manifest(const cavmae__mapped_file *file, manifest *m) {
    cavmae__json json;
    cavmae__json_string key;
    int more;
    cavmae__json_open(&json, file->data, file->size, file->path);
    CAVMAE__TRY(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
    for (;;) {
        CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        if (cavmae__json_is(&key, "cavmae.shards"))
            CAVMAE__TRY(cavmae__json_i64(&json, &m->version));
        else if (cavmae__json_is(&key, "kind"))
            CAVMAE__TRY(read_name(&json, m, "kind", m->kind));
        else if (cavmae__json_is(&key, "dim"))
            CAVMAE__TRY(cavmae__json_i64(&json, &m->dim));
        else if (cavmae__json_is(&key, "clips"))
            CAVMAE__TRY(cavmae__json_i64(&json, &m->clips));
        else if (cavmae__json_is(&key, "shards"))
            CAVMAE__TRY(read_shards(&json, m));
        else
            CAVMAE__TRY(cavmae__json_skip(&json));
    }
    CAVMAE__TRY(cavmae__json_end(&json));
    if (m->version != VERSION)
        return cavmae__fail(m->version > VERSION ? CAVMAE_E_UNSUPPORTED : CAVMAE_E_FORMAT,
                            "%s: \"cavmae.shards\" is %lld, must be %d", m->path, (long long)m->version, VERSION);
    if (!m->kind[0] || m->dim < 1 || m->dim > INT32_MAX)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: no kind, or dim %lld", m->path, (long long)m->dim);
    int64_t total = m->count ? m->shards[m->count - 1].first + m->shards[m->count - 1].count : 0;
    if (m->clips != total)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: %lld clips, but shards have %lld", m->path, (long long)m->clips,
                            (long long)total);
    return CAVMAE_OK;
}

/* ---- Reading shards ---- */

static cavmae_status add_rows(const manifest *m, const shard *s, const char *path, const cavmae_safetensors *file,
                              cavmae_index *index) {
    const cavmae__entry *entry = cavmae__safetensors_find(file, m->kind);
    if (!entry || entry->dtype != CAVMAE_FLOAT32 || entry->dims != 2 || entry->shape[0] != s->count ||
        entry->shape[1] != m->dim || (uintptr_t)entry->data % sizeof(float) != 0)
        return cavmae__fail(CAVMAE_E_MISMATCH, "%s: no aligned %s, float32 [%lld, %lld], as the manifest says", path,
                            m->kind, (long long)s->count, (long long)m->dim);
    cavmae_status status = cavmae_index_add(index, entry->data, s->count);
    return status == CAVMAE_E_ARG ? cavmae__fail_prefix(CAVMAE_E_FORMAT, "%s", path) : status;
}

static cavmae_status load_shard(const manifest *m, const shard *s, cavmae_index *index) {
    const char *slash = strrchr(m->path, '/');
    size_t folder = slash ? (size_t)(slash - m->path) + 1 : 0;
    char *path = cavmae__alloc_array(m->context, folder + NAME_SIZE, 1);
    cavmae_safetensors *file;
    if (!path) return CAVMAE_E_NOMEM;
    memcpy(path, m->path, folder);
    memcpy(path + folder, s->name, NAME_SIZE);
    cavmae_status status = cavmae_safetensors_open(m->context, path, &file);
    if (status == CAVMAE_OK) {
        status = add_rows(m, s, path, file, index);
        cavmae_safetensors_free(file);
    }
    cavmae__free(m->context, path);
    return status;
}

cavmae_status cavmae__index_load_shards(cavmae_context *context, const cavmae__mapped_file *file, int32_t part,
                                        int32_t parts, int64_t *first, cavmae_index **out) {
    manifest m = {.context = context, .path = file->path, .clips = -1};
    cavmae_index *index = NULL;
    cavmae_status status;
    CAVMAE__TRY_OUT(read_manifest(file, &m));
    int64_t from = m.count * part / parts, to = m.count * (part + 1) / parts;
    CAVMAE__TRY_OUT(cavmae_index_create(context, (int32_t)m.dim, &index));
    for (int64_t i = from; i < to; i++) {
        CAVMAE__TRY_OUT(cavmae__check_cancel(context));
        CAVMAE__TRY_OUT(load_shard(&m, &m.shards[i], index));
        cavmae__progress(context, "shards", i + 1 - from, to - from);
    }
    if (first) *first = from < m.count ? m.shards[from].first : m.clips;
    *out = index;
    index = NULL;
out:
    cavmae_index_free(index);
    cavmae__free(context, m.shards);
    return status;
}
