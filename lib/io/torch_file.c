#include "torch_file.h"

#include <stdlib.h>
#include <string.h>

#include "torch_storage.h"
#include "utf8.h"

typedef struct torch_tensor {
    cavmae__entry entry;
    int64_t strides[CAVMAE_MAX_DIMS]; /* in elements, as offset */
    int64_t offset, elements, storage_elements;
    const cavmae__storage *storage;
    int compact; /* row-major without gaps */
} torch_tensor;

/* A deflated storage's bytes, shared by the tensors in it. */
typedef struct inflated {
    cavmae_context *context;
    atomic_int references;
    const cavmae__storage *storage;
    char *data;
} inflated;

struct cavmae_torch {
    cavmae__torch_container container;
    int64_t count;
    torch_tensor *tensors;        /* in the order of the file */
    const torch_tensor **by_name; /* sorted */
    char *names;
    inflated *last; /* tensors of a storage mostly follow one another */
};

/* ---- The dictionary ---- */

/* The last value under the key, as Python would have it. */
static const cavmae__pickle_value *find_key(const cavmae__pickle *pickle, const cavmae__pickle_value *dict,
                                            const char *wanted) {
    const cavmae__pickle_value *found = NULL, *key, *value;
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(pickle, dict);
    while ((key = cavmae__pickle_next(pickle, &walk)) && (value = cavmae__pickle_next(pickle, &walk)))
        if (cavmae__pickle_is(pickle, key, wanted)) found = value;
    return found;
}

/* The next tensor with a name; 0 at the end. All else that a dictionary holds is passed over. */
static int next_tensor(const cavmae__pickle *pickle, cavmae__pickle_walk *walk, const cavmae__pickle_value **key,
                       const cavmae__pickle_value **value) {
    while ((*key = cavmae__pickle_next(pickle, walk)) && (*value = cavmae__pickle_next(pickle, walk)))
        if ((*key)->type == CAVMAE__PICKLE_STRING && (*value)->type == CAVMAE__PICKLE_CALL) return 1;
    return 0;
}

static int has_tensors(const cavmae__pickle *pickle, const cavmae__pickle_value *dict) {
    const cavmae__pickle_value *key, *value;
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(pickle, dict);
    return next_tensor(pickle, &walk, &key, &value);
}

static cavmae_status find_dictionary(const cavmae_torch *file, const cavmae__pickle_value **out) {
    static const char *const places[] = {"model", "state_dict", "model_state_dict"};
    const cavmae__pickle *pickle = file->container.pickle;
    const cavmae__pickle_value *top = cavmae__pickle_result(pickle);
    const char *path = file->container.map->path;
    if (top->type != CAVMAE__PICKLE_DICT)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: holds %s, not a dictionary of tensors", path,
                            cavmae__pickle_type_name(top));
    *out = top;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const cavmae__pickle_value *inner = find_key(pickle, top, places[i]);
        if (!inner || inner->type != CAVMAE__PICKLE_DICT || !has_tensors(pickle, inner)) continue;
        *out = inner;
        return CAVMAE_OK;
    }
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(pickle, top);
    if (has_tensors(pickle, top) || !cavmae__pickle_next(pickle, &walk)) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_FORMAT,
                        "%s: its dictionary has no tensors, nor those under \"model\" and \"state_dict\"", path);
}

/* ---- Tensors ---- */

/* A tuple of at most CAVMAE_MAX_DIMS integers that are not negative. */
static cavmae_status read_integers(const cavmae__pickle *pickle, const cavmae__pickle_value *tuple, const char *what,
                                   int64_t *out) {
    const cavmae__pickle_value *items = cavmae__pickle_items(pickle, tuple);
    if (tuple->type != CAVMAE__PICKLE_TUPLE)
        return cavmae__fail(CAVMAE_E_FORMAT, "its %s is %s, not a tuple", what, cavmae__pickle_type_name(tuple));
    if (tuple->length > CAVMAE_MAX_DIMS)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "it has %u dimensions, more than %d", (unsigned)tuple->length,
                            CAVMAE_MAX_DIMS);
    for (uint32_t i = 0; i < tuple->length; i++) {
        if (items[i].type != CAVMAE__PICKLE_INT || items[i].at < 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "its %s is not of integers from 0 up", what);
        out[i] = items[i].at;
    }
    return CAVMAE_OK;
}

/* The last element must lie in the storage. Without elements nothing is read. */
static cavmae_status check_extent(const torch_tensor *t) {
    int64_t last = t->offset;
    if (t->elements == 0) return CAVMAE_OK;
    for (int32_t i = 0; i < t->entry.dims; i++) {
        int64_t step;
        if (__builtin_mul_overflow(t->entry.shape[i] - 1, t->strides[i], &step) ||
            __builtin_add_overflow(last, step, &last))
            return cavmae__fail(CAVMAE_E_FORMAT, "its strides lead past any storage");
    }
    if (last < t->storage_elements) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_FORMAT, "it reaches to element %lld of a storage of %lld", (long long)last,
                        (long long)t->storage_elements);
}

/* Strides of dimensions of size 1 mean nothing. */
static int is_compact(const torch_tensor *t) {
    int64_t stride = 1;
    for (int32_t i = t->entry.dims - 1; i >= 0; i--) {
        if (t->entry.shape[i] != 1 && t->strides[i] != stride) return 0;
        stride *= t->entry.shape[i];
    }
    return 1;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata), the last three perhaps not there;
 * metadata would say that the numbers are to be negated or conjugated. */
static cavmae_status read_arguments(cavmae_torch *file, const cavmae__pickle_value *arguments, torch_tensor *t) {
    const cavmae__pickle *pickle = file->container.pickle;
    const cavmae__pickle_value *items = cavmae__pickle_items(pickle, arguments);
    cavmae__storage *storage;
    size_t bytes;
    if (arguments->length < 4 || arguments->length > 7)
        return cavmae__fail(CAVMAE_E_FORMAT, "it is made of %u arguments", (unsigned)arguments->length);
    if (arguments->length == 7 && items[6].type != CAVMAE__PICKLE_NONE) {
        cavmae__pickle_walk walk;
        if (items[6].type == CAVMAE__PICKLE_DICT) walk = cavmae__pickle_walk_of(pickle, &items[6]);
        if (items[6].type != CAVMAE__PICKLE_DICT || cavmae__pickle_next(pickle, &walk))
            return cavmae__fail(CAVMAE_E_UNSUPPORTED, "it is negated or conjugated, or not of a plain kind");
    }
    CAVMAE__TRY(
        cavmae__torch_container_find(&file->container, &items[0], &storage, &t->entry.dtype, &t->storage_elements));
    t->storage = storage;
    if (items[1].type != CAVMAE__PICKLE_INT || items[1].at < 0)
        return cavmae__fail(CAVMAE_E_FORMAT, "its offset is no integer from 0 up");
    t->offset = items[1].at;
    CAVMAE__TRY(read_integers(pickle, &items[2], "size", t->entry.shape));
    CAVMAE__TRY(read_integers(pickle, &items[3], "stride", t->strides));
    if (items[2].length != items[3].length)
        return cavmae__fail(CAVMAE_E_FORMAT, "it has %u sizes and %u strides", (unsigned)items[2].length,
                            (unsigned)items[3].length);
    t->entry.dims = (int32_t)items[2].length;
    if (cavmae__tensor_bytes(t->entry.dtype, t->entry.dims, t->entry.shape, &bytes) != CAVMAE_OK)
        return cavmae__fail(CAVMAE_E_FORMAT, "its sizes make more bytes than memory has");
    t->elements = (int64_t)(bytes / cavmae__dtype_size(t->entry.dtype));
    CAVMAE__TRY(check_extent(t));
    t->compact = is_compact(t);
    if (t->elements && t->compact && storage->data)
        t->entry.data = storage->data + (size_t)t->offset * cavmae__dtype_size(t->entry.dtype);
    return CAVMAE_OK;
}

static cavmae_status read_tensor(cavmae_torch *file, const cavmae__pickle_value *call, torch_tensor *t) {
    const cavmae__pickle *pickle = file->container.pickle;
    const cavmae__pickle_value *items = cavmae__pickle_items(pickle, call);
    if (cavmae__pickle_name_of(&items[0])->role == CAVMAE__ROLE_REBUILD_PARAMETER) {
        const cavmae__pickle_value *arguments = cavmae__pickle_items(pickle, &items[1]);
        if (items[1].length == 0 || arguments->type != CAVMAE__PICKLE_CALL)
            return cavmae__fail(CAVMAE_E_FORMAT, "a parameter that is made of no tensor");
        items = cavmae__pickle_items(pickle, arguments);
        if (cavmae__pickle_name_of(&items[0])->role != CAVMAE__ROLE_REBUILD_TENSOR)
            return cavmae__fail(CAVMAE_E_FORMAT, "a parameter that is made of a parameter");
    }
    return read_arguments(file, &items[1], t);
}

/* Names go one after another to `names`, with a zero after each. */
static cavmae_status keep_name(const cavmae_torch *file, const cavmae__pickle_value *key, char **names,
                               const char **out) {
    const char *text = cavmae__pickle_text(file->container.pickle, key);
    for (size_t at = 0, length; at < key->length; at += length) {
        length = cavmae__utf8_length(text + at, key->length - at);
        if (length == 0 || text[at] == '\0')
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: a tensor's name is not UTF-8, or has a zero in it",
                                file->container.map->path);
    }
    memcpy(*names, text, key->length);
    (*names)[key->length] = '\0';
    *out = *names;
    *names += key->length + 1;
    return CAVMAE_OK;
}

/* What torch.nn.DataParallel puts before every name. */
static void drop_prefix(cavmae_torch *file) {
    static const char prefix[] = "module.";
    size_t length = sizeof prefix - 1;
    for (int64_t i = 0; i < file->count; i++) {
        const char *name = file->tensors[i].entry.name;
        if (strncmp(name, prefix, length) != 0 || name[length] == '\0') return;
    }
    for (int64_t i = 0; i < file->count; i++) file->tensors[i].entry.name += length;
}

static int compare_names(const void *a, const void *b) {
    const torch_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->entry.name, (*y)->entry.name);
}

static cavmae_status sort_names(cavmae_torch *file) {
    for (int64_t i = 0; i < file->count; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);
    for (int64_t i = 1; i < file->count; i++)
        if (compare_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor %s is there twice", file->container.map->path,
                                file->by_name[i]->entry.name);
    return CAVMAE_OK;
}

static cavmae_status read_tensors(cavmae_torch *file) {
    const cavmae__pickle *pickle = file->container.pickle;
    const cavmae__pickle_value *dict = NULL, *key, *value;
    cavmae_context *context = file->container.context;
    size_t size = 0;
    CAVMAE__TRY(find_dictionary(file, &dict));
    cavmae__pickle_walk walk = cavmae__pickle_walk_of(pickle, dict);
    for (; next_tensor(pickle, &walk, &key, &value); file->count++) size += key->length + 1;
    file->tensors = cavmae__alloc_zero(context, (size_t)file->count * sizeof *file->tensors);
    if (!file->tensors) return CAVMAE_E_NOMEM;
    CAVMAE__TRY(CAVMAE__NEW(context, &file->by_name, file->count));
    CAVMAE__TRY(CAVMAE__NEW(context, &file->names, size));

    char *names = file->names;
    torch_tensor *t = file->tensors;
    walk = cavmae__pickle_walk_of(pickle, dict);
    for (; next_tensor(pickle, &walk, &key, &value); t++) {
        CAVMAE__TRY(keep_name(file, key, &names, &t->entry.name));
        cavmae_status status = read_tensor(file, value, t);
        if (status != CAVMAE_OK)
            return cavmae__fail_prefix(status, "%s: tensor %s", file->container.map->path, t->entry.name);
    }
    drop_prefix(file);
    return sort_names(file);
}

/* ---- Opening ---- */

cavmae_status cavmae_torch_open(cavmae_context *context, const char *path, cavmae_torch **out) {
    cavmae_torch *file;
    cavmae_status status;
    if (!context || !path || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_open: an argument is NULL");
    file = cavmae__alloc_zero(context, sizeof *file);
    if (!file) return CAVMAE_E_NOMEM;
    CAVMAE__TRY_OUT(cavmae__torch_container_open(&file->container, context, path));
    CAVMAE__TRY_OUT(read_tensors(file));
    CAVMAE__TRY_OUT(cavmae__torch_container_finish(&file->container));
    *out = file;
    return CAVMAE_OK;

out:
    cavmae_torch_free(file);
    return status;
}

static void release_inflated(void *user) {
    inflated *bytes = user;
    if (!bytes || atomic_fetch_sub_explicit(&bytes->references, 1, memory_order_acq_rel) != 1) return;
    cavmae_context *context = bytes->context;
    cavmae__free(context, bytes->data);
    cavmae__free(context, bytes);
    cavmae__context_unref(context);
}

void cavmae_torch_free(cavmae_torch *file) {
    if (!file) return;
    cavmae_context *context = cavmae__context_ref(file->container.context);
    release_inflated(file->last);
    cavmae__torch_container_close(&file->container);
    cavmae__free(context, file->tensors);
    cavmae__free(context, file->by_name);
    cavmae__free(context, file->names);
    cavmae__free(context, file);
    cavmae__context_unref(context);
}

/* ---- Use ---- */

int64_t cavmae_torch_count(const cavmae_torch *file) { return file ? file->count : 0; }

const cavmae__entry *cavmae__torch_entry(const cavmae_torch *file, int64_t index) {
    return index >= 0 && index < file->count ? &file->tensors[index].entry : NULL;
}

const char *cavmae_torch_name(const cavmae_torch *file, int64_t index) {
    const cavmae__entry *entry = file ? cavmae__torch_entry(file, index) : NULL;
    return entry ? entry->name : NULL;
}

static const torch_tensor *find(const cavmae_torch *file, const char *name) {
    const torch_tensor wanted = {.entry = {.name = name}}, *key = &wanted, *const * found;
    found = bsearch(&key, file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);
    return found ? *found : NULL;
}

const cavmae__entry *cavmae__torch_find(const cavmae_torch *file, const char *name) {
    const torch_tensor *t = find(file, name);
    return t ? &t->entry : NULL;
}

/* Makes file->last the storage's bytes. */
static cavmae_status inflate_storage(cavmae_torch *file, const cavmae__storage *storage) {
    cavmae_context *context = file->container.context;
    if (file->last && file->last->storage == storage) return CAVMAE_OK;
    release_inflated(file->last);
    file->last = NULL;

    inflated *bytes = cavmae__alloc_zero(context, sizeof *bytes);
    if (!bytes) return CAVMAE_E_NOMEM;
    bytes->context = cavmae__context_ref(context);
    bytes->storage = storage;
    atomic_init(&bytes->references, 1);
    bytes->data = cavmae__alloc(context, storage->size);
    cavmae_status status = CAVMAE_E_NOMEM;
    if (bytes->data) status = cavmae__zip_read(file->container.zip, storage->member, bytes->data);
    if (status != CAVMAE_OK) {
        release_inflated(bytes);
        return status;
    }
    file->last = bytes;
    return CAVMAE_OK;
}

/* A row of elements that lie `step` bytes apart. */
static void copy_row(char *out, const char *in, int64_t count, size_t step, size_t size) {
#define COPY(type)                                                                                                     \
    for (int64_t i = 0; i < count; i++) memcpy(out + (size_t)i * sizeof(type), in + (size_t)i * step, sizeof(type))
    switch (size) { /* a memcpy of a known size is one load and one store */
    case 1: COPY(uint8_t); break;
    case 2: COPY(uint16_t); break;
    case 4: COPY(uint32_t); break;
    default: COPY(uint64_t); break;
    }
#undef COPY
}

/* In row-major order; at least one element, and one dimension. */
static void copy_strided(const torch_tensor *t, const char *in, char *out) {
    int64_t index[CAVMAE_MAX_DIMS] = {0};
    const int64_t *shape = t->entry.shape;
    int32_t inner = t->entry.dims - 1, d;
    size_t size = cavmae__dtype_size(t->entry.dtype);
    do {
        int64_t at = t->offset;
        for (d = 0; d < inner; d++) at += index[d] * t->strides[d];
        copy_row(out, in + (size_t)at * size, shape[inner], (size_t)t->strides[inner] * size, size);
        out += (size_t)shape[inner] * size;
        for (d = inner - 1; d >= 0 && ++index[d] == shape[d]; d--) index[d] = 0;
    } while (d >= 0);
}

static cavmae_status copy_tensor(const cavmae_torch *file, const torch_tensor *t, const char *storage,
                                 cavmae_tensor **out) {
    const cavmae__entry *entry = &t->entry;
    size_t size = cavmae__dtype_size(entry->dtype);
    cavmae_tensor *copy;
    if (t->elements > t->storage_elements) /* a few bytes could ask for all memory */
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: tensor %s is expanded: %lld elements of a storage of %lld",
                            file->container.map->path, entry->name, (long long)t->elements,
                            (long long)t->storage_elements);
    CAVMAE__TRY(cavmae_tensor_create(file->container.context, entry->dtype, entry->dims, entry->shape, &copy));
    char *to = cavmae_tensor_data(copy);
    if (t->compact)
        memcpy(to, storage + (size_t)t->offset * size, (size_t)t->elements * size);
    else
        copy_strided(t, storage, to);
    *out = copy;
    return CAVMAE_OK;
}

static void release_map(void *user) { cavmae__mapped_file_unref(user); }

cavmae_status cavmae_torch_get(cavmae_torch *file, const char *name, cavmae_tensor **out) {
    if (!file || !name || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_torch_get: an argument is NULL");
    cavmae_context *context = file->container.context;
    const torch_tensor *t = find(file, name);
    if (!t) return cavmae__fail(CAVMAE_E_NOT_FOUND, "%s: no tensor %s", file->container.map->path, name);
    const cavmae__entry *entry = &t->entry;
    size_t size = cavmae__dtype_size(entry->dtype);
    if (t->elements == 0) return cavmae_tensor_create(context, entry->dtype, entry->dims, entry->shape, out);

    if (entry->data && (uintptr_t)entry->data % size == 0) {
        /* A tensor's data is not const, because most may be written to; this one lies in read-only pages. */
        cavmae__mapped_file *map = cavmae__mapped_file_ref(file->container.map);
        cavmae_status status = cavmae_tensor_wrap(context, (void *)(uintptr_t)entry->data, entry->dtype, entry->dims,
                                                  entry->shape, release_map, map, out);
        if (status != CAVMAE_OK) cavmae__mapped_file_unref(map);
        return status;
    }
    if (t->storage->data) return copy_tensor(file, t, t->storage->data, out);

    CAVMAE__TRY(inflate_storage(file, t->storage));
    if (!t->compact) return copy_tensor(file, t, file->last->data, out);
    inflated *bytes = file->last;
    atomic_fetch_add_explicit(&bytes->references, 1, memory_order_relaxed);
    cavmae_status status = cavmae_tensor_wrap(context, bytes->data + (size_t)t->offset * size, entry->dtype,
                                              entry->dims, entry->shape, release_inflated, bytes, out);
    if (status != CAVMAE_OK) release_inflated(bytes);
    return status;
}
