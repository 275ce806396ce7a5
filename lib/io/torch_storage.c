#include "torch_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "printable.h"
#include "tensor.h"

enum { WHERE = 512 };

/* ---- Storages as the pickle tells of them ---- */

typedef struct storage_id {
    const char *key;
    size_t key_length, bytes;
    int32_t dtype;
    int64_t elements;
} storage_id;

/* ("storage", torch.FloatStorage, "0", "cpu", elements), and in the older form another None. */
static cavmae_status read_id(const cavmae__pickle *pickle, const cavmae__pickle_value *id, storage_id *out) {
    const cavmae__pickle_value *items = cavmae__pickle_items(pickle, id);
    if (id->type != CAVMAE__PICKLE_PERSISTENT || id->length < 5 || id->length > 6 ||
        !cavmae__pickle_is(pickle, &items[0], "storage") || items[1].type != CAVMAE__PICKLE_NAME ||
        cavmae__pickle_name_of(&items[1])->role != CAVMAE__ROLE_STORAGE || items[2].type != CAVMAE__PICKLE_STRING ||
        items[4].type != CAVMAE__PICKLE_INT)
        return cavmae__fail(CAVMAE_E_FORMAT, "a storage is not told by (\"storage\", type, key, device, elements)");
    if (id->length == 6 && items[5].type != CAVMAE__PICKLE_NONE)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "a storage that is a view of another, as before PyTorch 0.4");
    *out = (storage_id){.key = cavmae__pickle_text(pickle, &items[2]),
                        .key_length = items[2].length,
                        .dtype = cavmae__pickle_name_of(&items[1])->dtype,
                        .elements = items[4].at};
    return cavmae__tensor_bytes(out->dtype, 1, &out->elements, &out->bytes) == CAVMAE_OK
               ? CAVMAE_OK
               : cavmae__fail(CAVMAE_E_FORMAT, "a storage of %lld elements", (long long)out->elements);
}

static cavmae_status bad_storage(const storage_id *id, const char *what) {
    char key[CAVMAE__PRINTABLE];
    return cavmae__fail(CAVMAE_E_FORMAT, "storage %s %s", cavmae__printable(key, id->key, id->key_length), what);
}

/* ---- Zip archives ---- */

/* The member FOLDER/middle/name; NULL: none. */
static const cavmae__zip_member *find_member(const cavmae__torch_container *c, const char *middle, const char *name,
                                             size_t length) {
    char path[1024];
    size_t middle_length = strlen(middle), total = c->folder_length + middle_length + length;
    if (total > sizeof path) return NULL;
    memcpy(path, c->folder, c->folder_length);
    memcpy(path + c->folder_length, middle, middle_length);
    memcpy(path + c->folder_length + middle_length, name, length);
    return cavmae__zip_find(c->zip, path, total);
}

/* The folder is named after the file that torch.save was told to write. */
static const cavmae__zip_member *find_pickle(cavmae__torch_container *c) {
    static const char name[] = "data.pkl";
    for (int64_t i = 0; i < c->zip->count; i++) {
        const cavmae__zip_member *member = &c->zip->members[i];
        if (member->name_length < sizeof name - 1) continue;
        size_t folder = member->name_length - (sizeof name - 1);
        if (memcmp(member->name + folder, name, sizeof name - 1) != 0) continue;
        const char *slash = memchr(member->name, '/', member->name_length);
        if (slash ? folder != (size_t)(slash - member->name) + 1 : folder != 0) continue;
        c->folder = member->name;
        c->folder_length = folder;
        return member;
    }
    return NULL;
}

static cavmae_status check_byteorder(const cavmae__torch_container *c) {
    static const char little[] = "little", name[] = "byteorder";
    char order[8];
    const cavmae__zip_member *member = find_member(c, "", name, sizeof name - 1);
    if (!member) return CAVMAE_OK; /* before PyTorch 2.1 */
    if (member->size <= sizeof order) CAVMAE__TRY(cavmae__zip_read(c->zip, member, order));
    if (member->size == sizeof little - 1 && memcmp(order, little, sizeof little - 1) == 0) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: written on a machine whose numbers are not little-endian",
                        c->map->path);
}

static cavmae_status open_zip(cavmae__torch_container *c) {
    char where[WHERE], name[CAVMAE__PRINTABLE];
    size_t used;
    CAVMAE__TRY(cavmae__zip_open(c->context, c->map, &c->zip));
    const cavmae__zip_member *member = find_pickle(c);
    if (!member)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: a zip archive, but none of torch.save's: no data.pkl", c->map->path);
    CAVMAE__TRY(check_byteorder(c));
    snprintf(where, sizeof where, "%s: %s", c->map->path, cavmae__printable(name, member->name, member->name_length));
    if (member->size > CAVMAE__PICKLE_MAX_SIZE)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: a pickle of %zu bytes is none of a dictionary of tensors", where,
                            member->size);

    CAVMAE__TRY(CAVMAE__NEW(c->context, &c->pickle_bytes, member->size));
    CAVMAE__TRY(cavmae__zip_read(c->zip, member, c->pickle_bytes));
    CAVMAE__TRY(cavmae__pickle_load(c->context, c->pickle_bytes, member->size, where, &c->pickle, &used));
    c->count = c->zip->count;
    c->storages = cavmae__alloc_zero(c->context, (size_t)c->count * sizeof *c->storages);
    return c->storages ? CAVMAE_OK : CAVMAE_E_NOMEM;
}

static cavmae_status find_in_zip(cavmae__torch_container *c, const storage_id *id, cavmae__storage **out) {
    const cavmae__zip_member *member = find_member(c, "data/", id->key, id->key_length);
    if (!member) return bad_storage(id, "is not in the archive");
    if (member->size != id->bytes) return bad_storage(id, "has another size in the archive than the pickle says");
    CAVMAE__TRY(cavmae__zip_check_readable(c->zip, member));
    cavmae__storage *storage = &c->storages[member - c->zip->members];
    storage->data = member->method == CAVMAE__ZIP_STORED ? member->data : NULL;
    storage->size = member->size;
    storage->member = member;
    *out = storage;
    return CAVMAE_OK;
}

/* ---- The older form ---- */

static int compare_keys(const void *a, const void *b) {
    const cavmae__storage *x = a, *y = b;
    int order = memcmp(x->key, y->key, x->key_length < y->key_length ? x->key_length : y->key_length);
    return order ? order : (x->key_length > y->key_length) - (x->key_length < y->key_length);
}

static cavmae__storage *find_key(const cavmae__torch_container *c, const char *key, size_t length) {
    cavmae__storage wanted = {.key = key, .key_length = length};
    return bsearch(&wanted, c->storages, (size_t)c->count, sizeof *c->storages, compare_keys);
}

/* All that the pickle tells of, also those that no tensor of ours is in: their sizes say where the others lie. */
static cavmae_status list_storages(cavmae__torch_container *c) {
    const cavmae__pickle_value *value;
    size_t told = 0;
    int64_t kept = 0;
    while (cavmae__pickle_persistent(c->pickle, told)) told++;
    CAVMAE__TRY(CAVMAE__NEW(c->context, &c->storages, told));
    for (size_t i = 0; (value = cavmae__pickle_persistent(c->pickle, i)); i++) {
        storage_id id;
        CAVMAE__TRY(read_id(c->pickle, value, &id));
        c->storages[i] = (cavmae__storage){
            .key = id.key, .key_length = id.key_length, .size = id.bytes, .dtype = id.dtype, .elements = id.elements};
    }
    qsort(c->storages, told, sizeof *c->storages, compare_keys);
    for (size_t i = 0; i < told; i++) {
        cavmae__storage *one = &c->storages[i], *last = &c->storages[kept - (kept > 0)];
        if (kept == 0 || compare_keys(last, one) != 0)
            c->storages[kept++] = *one;
        else if (last->dtype != one->dtype || last->elements != one->elements)
            return cavmae__fail(CAVMAE_E_FORMAT, "the same storage is told with two sizes");
    }
    c->count = kept;
    return CAVMAE_OK;
}

/* Each of the listed storages, from `at` on. */
static cavmae_status place_storages(cavmae__torch_container *c, const cavmae__pickle *keys, size_t at) {
    const cavmae__pickle_value *list = cavmae__pickle_result(keys), *key;
    if (list->type != CAVMAE__PICKLE_LIST)
        return cavmae__fail(CAVMAE_E_FORMAT, "the storages' keys are %s, not a list", cavmae__pickle_type_name(list));
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(keys, list);
    while ((key = cavmae__pickle_next(keys, &walk))) {
        int64_t elements;
        cavmae__storage *storage = NULL;
        if (key->type == CAVMAE__PICKLE_STRING) storage = find_key(c, cavmae__pickle_text(keys, key), key->length);
        if (!storage || storage->data)
            return cavmae__fail(CAVMAE_E_FORMAT, "the list of storages has one that no tensor is in, or one twice");
        const storage_id id = {.key = storage->key, .key_length = storage->key_length};
        if (c->map->size - at < sizeof elements) return bad_storage(&id, "is cut off");
        memcpy(&elements, c->map->data + at, sizeof elements);
        at += sizeof elements;
        if (elements != storage->elements) return bad_storage(&id, "has another size than the pickle says");
        if (c->map->size - at < storage->size) return bad_storage(&id, "is cut off");
        storage->data = c->map->data + at;
        at += storage->size;
    }
    return CAVMAE_OK;
}

/* The next pickle at *at, which then is the place behind it. */
static cavmae_status next_pickle(const cavmae__torch_container *c, const char *what, size_t *at, cavmae__pickle **out) {
    char where[WHERE];
    size_t used;
    snprintf(where, sizeof where, "%s: %s", c->map->path, what);
    CAVMAE__TRY(cavmae__pickle_load(c->context, c->map->data + *at, c->map->size - *at, where, out, &used));
    *at += used;
    return CAVMAE_OK;
}

static int is_magic(const cavmae__pickle *pickle, const cavmae__pickle_value *value) {
    static const char magic[] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    return value->type == CAVMAE__PICKLE_LONG && value->length == sizeof magic - 1 &&
           memcmp(cavmae__pickle_text(pickle, value), magic, sizeof magic - 1) == 0;
}

/* Magic number, version, description of the machine. */
static cavmae_status read_preamble(const cavmae__torch_container *c, size_t *at) {
    cavmae__pickle *pickle;
    CAVMAE__TRY(next_pickle(c, "magic number", at, &pickle));
    int good = is_magic(pickle, cavmae__pickle_result(pickle));
    cavmae__pickle_free(pickle);
    if (!good) return cavmae__fail(CAVMAE_E_FORMAT, "%s: a pickle, but none of torch.save's", c->map->path);

    CAVMAE__TRY(next_pickle(c, "version", at, &pickle));
    const cavmae__pickle_value *version = cavmae__pickle_result(pickle);
    good = version->type == CAVMAE__PICKLE_INT && version->at == 1001;
    cavmae__pickle_free(pickle);
    if (!good) return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: version of the file is not 1001", c->map->path);

    CAVMAE__TRY(next_pickle(c, "description", at, &pickle)); /* numbers are little-endian whatever it says */
    cavmae__pickle_free(pickle);
    return CAVMAE_OK;
}

static cavmae_status open_older(cavmae__torch_container *c) {
    cavmae__pickle *keys;
    size_t at = 0;
    cavmae_status status;
    CAVMAE__TRY(read_preamble(c, &at));
    CAVMAE__TRY(next_pickle(c, "object", &at, &c->pickle));
    CAVMAE__TRY(next_pickle(c, "keys", &at, &keys));
    CAVMAE__TRY_OUT(list_storages(c));
    CAVMAE__TRY_OUT(place_storages(c, keys, at));
out:
    cavmae__pickle_free(keys);
    if (status != CAVMAE_OK) cavmae__fail_prefix(status, "%s", c->map->path);
    return status;
}

static cavmae_status find_older(const cavmae__torch_container *c, const storage_id *id, cavmae__storage **out) {
    cavmae__storage *storage = find_key(c, id->key, id->key_length);
    if (!storage || !storage->data) return bad_storage(id, "is not in the file");
    *out = storage;
    return CAVMAE_OK;
}

/* ---- Both ---- */

cavmae_status cavmae__torch_container_open(cavmae__torch_container *c, cavmae_context *context, const char *path) {
    c->context = cavmae__context_ref(context);
    CAVMAE__TRY(cavmae__mapped_file_open(context, path, &c->map));
    if (cavmae__zip_is(c->map)) return open_zip(c);
    if (c->map->size && c->map->data[0] == '\x80') return open_older(c);
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: %s", path,
                        c->map->size ? "not a PyTorch file: neither a zip archive nor a pickle" : "the file is empty");
}

void cavmae__torch_container_close(cavmae__torch_container *c) {
    cavmae__pickle_free(c->pickle);
    cavmae__free(c->context, c->pickle_bytes);
    cavmae__free(c->context, c->storages);
    cavmae__zip_free(c->zip);
    cavmae__mapped_file_unref(c->map);
    cavmae__context_unref(c->context);
}

cavmae_status cavmae__torch_container_find(cavmae__torch_container *c, const cavmae__pickle_value *value,
                                           cavmae__storage **storage, int32_t *dtype, int64_t *elements) {
    storage_id id;
    CAVMAE__TRY(read_id(c->pickle, value, &id));
    CAVMAE__TRY(c->zip ? find_in_zip(c, &id, storage) : find_older(c, &id, storage));
    (*storage)->needed = 1;
    *dtype = id.dtype;
    *elements = id.elements;
    return CAVMAE_OK;
}

static cavmae_status check_storages(const cavmae__torch_container *c) {
    cavmae__checksum *sums;
    int64_t needed = 0, i = 0;
    cavmae_status status;
    CAVMAE__TRY(CAVMAE__NEW(c->context, &sums, c->count));
    for (const cavmae__storage *s = c->storages; s < c->storages + c->count; s++)
        if (s->needed && s->data) sums[needed++] = (cavmae__checksum){s->data, s->size, 0};
    CAVMAE__TRY_OUT(cavmae__checksums(c->context, sums, needed));
    for (const cavmae__storage *s = c->storages; s < c->storages + c->count; s++)
        if (s->needed && s->data) CAVMAE__TRY_OUT(cavmae__zip_check_crc(c->zip, s->member, sums[i++].crc));
out:
    cavmae__free(c->context, sums);
    return status;
}

cavmae_status cavmae__torch_container_finish(cavmae__torch_container *c) {
    if (c->zip) CAVMAE__TRY(check_storages(c));
    cavmae__pickle_free(c->pickle);
    cavmae__free(c->context, c->pickle_bytes);
    c->pickle = NULL;
    c->pickle_bytes = NULL;
    return CAVMAE_OK;
}
