#include "weights.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapped_file.h"
#include "torch_file.h"
#include "widen.h"

struct cavmae__weights {
    cavmae_context *context;
    atomic_int references;
    char *path;
    int64_t size;                    /* of the file, in bytes; 0: not asked */
    cavmae_safetensors *safetensors; /* one of these two */
    cavmae_torch *torch;
    cavmae__weight *items;
    int64_t count;
};

static int compare_names(const void *a, const void *b) {
    const cavmae__weight *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static cavmae_status sort(cavmae__weights *weights) {
    qsort(weights->items, (size_t)weights->count, sizeof *weights->items, compare_names);
    for (int64_t i = 1; i < weights->count; i++)
        if (strcmp(weights->items[i - 1].name, weights->items[i].name) == 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor '%s' is there twice, with and without 'module.'",
                                weights->path, weights->items[i].name);
    return CAVMAE_OK;
}

static const char *without_module(const char *name) {
    static const char module[] = "module.";
    return strncmp(name, module, sizeof module - 1) == 0 ? name + sizeof module - 1 : name;
}

static cavmae_status list(cavmae__weights *weights) {
    const int64_t count =
        weights->torch ? cavmae_torch_count(weights->torch) : cavmae_safetensors_count(weights->safetensors);
    CAVMAE__TRY(CAVMAE__NEW(weights->context, &weights->items, count));
    weights->count = count;
    for (int64_t i = 0; i < count; i++) {
        const cavmae__entry *entry = weights->torch ? cavmae__torch_entry(weights->torch, i)
                                                    : cavmae__safetensors_entry(weights->safetensors, i);
        cavmae__weight *weight = &weights->items[i];
        *weight = (cavmae__weight){
            .name = without_module(entry->name), .key = entry->name, .dims = entry->dims, .dtype = entry->dtype};
        memcpy(weight->shape, entry->shape, sizeof weight->shape);
    }
    return sort(weights);
}

static cavmae_status create(cavmae_context *context, const char *path, cavmae__weights **out) {
    cavmae__weights *weights = cavmae__alloc_zero(context, sizeof *weights);
    if (!weights) return CAVMAE_E_NOMEM;
    weights->path = cavmae__strdup(context, path);
    if (!weights->path) {
        cavmae__free(context, weights);
        return CAVMAE_E_NOMEM;
    }
    weights->context = cavmae__context_ref(context);
    atomic_init(&weights->references, 1);
    *out = weights;
    return CAVMAE_OK;
}

/* A zip's local header starts with PK, a pickle with 0x80; either could be the length of a safetensors header, which
 * however always starts with a brace. */
static cavmae_status find_form(cavmae_context *context, const char *path, int *torch, int64_t *size) {
    cavmae__mapped_file *map;
    CAVMAE__TRY(cavmae__mapped_file_open(context, path, &map));
    const char *data = map->data;
    *torch = map->size >= 2 && (memcmp(data, "PK", 2) == 0 || data[0] == '\x80') && !(map->size > 8 && data[8] == '{');
    *size = (int64_t)map->size;
    cavmae__mapped_file_unref(map);
    return CAVMAE_OK;
}

cavmae_status cavmae__weights_open(cavmae_context *context, const char *path, cavmae__weights **out) {
    cavmae__weights *weights = NULL;
    int torch = 0;
    int64_t size = 0;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY(find_form(context, path, &torch, &size));
    CAVMAE__TRY(create(context, path, &weights));
    weights->size = size;
    if (torch)
        CAVMAE__TRY_OUT(cavmae_torch_open(context, path, &weights->torch));
    else
        CAVMAE__TRY_OUT(cavmae_safetensors_open(context, path, &weights->safetensors));
    CAVMAE__TRY_OUT(list(weights));
    *out = weights;
    return CAVMAE_OK;
out:
    cavmae__weights_free(weights);
    return status;
}

cavmae_status cavmae__weights_of(cavmae_context *context, cavmae_safetensors *file, const char *path,
                                 cavmae__weights **out) {
    cavmae__weights *weights = NULL;
    CAVMAE__TRY(create(context, path, &weights));
    weights->safetensors = cavmae__safetensors_ref(file);
    cavmae_status status = list(weights);
    if (status != CAVMAE_OK) {
        cavmae__weights_free(weights);
        return status;
    }
    *out = weights;
    return CAVMAE_OK;
}

cavmae__weights *cavmae__weights_ref(cavmae__weights *weights) {
    atomic_fetch_add(&weights->references, 1);
    return weights;
}

void cavmae__weights_free(cavmae__weights *weights) {
    if (!weights || atomic_fetch_sub(&weights->references, 1) != 1) return;
    cavmae_context *context = weights->context;
    for (int64_t i = 0; i < weights->count; i++) cavmae_tensor_free(weights->items[i].view);
    cavmae_safetensors_free(weights->safetensors);
    cavmae_torch_free(weights->torch);
    cavmae__free(context, weights->items);
    cavmae__free(context, weights->path);
    cavmae__free(context, weights);
    cavmae__context_unref(context);
}

const char *cavmae__weights_path(const cavmae__weights *weights) { return weights->path; }

int64_t cavmae__weights_size(const cavmae__weights *weights) { return weights->size; }

int64_t cavmae__weights_count(const cavmae__weights *weights) { return weights->count; }

cavmae__weight *cavmae__weights_at(const cavmae__weights *weights, int64_t index) { return &weights->items[index]; }

cavmae__weight *cavmae__weights_find(const cavmae__weights *weights, const char *name) {
    cavmae__weight key = {.name = name};
    return bsearch(&key, weights->items, (size_t)weights->count, sizeof key, compare_names);
}

const char *cavmae__weights_metadata(const cavmae__weights *weights, const char *key) {
    return cavmae_safetensors_metadata(weights->safetensors, key);
}

cavmae_status cavmae__weights_tensor(const cavmae__weights *weights, const cavmae__weight *weight,
                                     cavmae_tensor **out) {
    return weights->torch ? cavmae_torch_get(weights->torch, weight->key, out)
                          : cavmae_safetensors_get(weights->safetensors, weight->key, out);
}

cavmae_status cavmae__weights_view(const cavmae__weights *weights, cavmae__weight *weight, const void **data) {
    if (!weight->view) CAVMAE__TRY(cavmae__weights_tensor(weights, weight, &weight->view));
    *data = cavmae_tensor_data(weight->view);
    return CAVMAE_OK;
}

cavmae_status cavmae__weights_new(const cavmae__weights *weights, const cavmae__weight *weight, float **out) {
    cavmae_tensor *tensor = NULL;
    float *values = NULL;
    CAVMAE__TRY(cavmae__weights_tensor(weights, weight, &tensor));
    cavmae_status status = CAVMAE__NEW(weights->context, &values, cavmae_tensor_elements(tensor));
    if (status == CAVMAE_OK) {
        cavmae__widen(weight->dtype, cavmae_tensor_data(tensor), cavmae_tensor_elements(tensor), values);
        *out = values;
    }
    cavmae_tensor_free(tensor);
    return status;
}

cavmae_status cavmae__weights_read(const cavmae__weights *weights, const cavmae__weight *weight, float *out) {
    cavmae_tensor *tensor = NULL;
    CAVMAE__TRY(cavmae__weights_tensor(weights, weight, &tensor));
    cavmae__widen(weight->dtype, cavmae_tensor_data(tensor), cavmae_tensor_elements(tensor), out);
    cavmae_tensor_free(tensor);
    return CAVMAE_OK;
}

const char *cavmae__shape_text(int32_t dims, const int64_t *shape, char out[CAVMAE__SHAPE_TEXT]) {
    size_t n = (size_t)snprintf(out, CAVMAE__SHAPE_TEXT, "[");
    for (int32_t i = 0; i < dims; i++)
        n += (size_t)snprintf(out + n, CAVMAE__SHAPE_TEXT - n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(out + n, CAVMAE__SHAPE_TEXT - n, "]");
    return out;
}
