/* Model files: safetensors whose metadata "cavmae.config" is the configuration as JSON. */
#include <string.h>

#include "import.h"
#include "model.h"
#include "record.h"
#include "vision_mae.h"

/* A device's tensors on their way to a file, one at a time. */
typedef struct fetch {
    cavmae__backend *backend;
    const cavmae__entry *entries;
    float *host; /* as long as the longest */
} fetch;

static int64_t entry_elements(const cavmae__entry *entry) {
    int64_t elements = 1;
    for (int32_t i = 0; i < entry->dims; i++) elements *= entry->shape[i];
    return elements;
}

static cavmae_status fetch_entry(void *arg, int64_t index, const void **data) {
    const fetch *f = arg;
    const cavmae__entry *entry = &f->entries[index];
    *data = f->host;
    return f->backend->ops->download(f->backend, f->host, entry->data, (size_t)entry_elements(entry) * sizeof *f->host);
}

static cavmae_status write_fetched(const cavmae_model *model, const char *path, const cavmae__entry *entries,
                                   int64_t count, const char *const *keys, const char *const *values, int64_t pairs) {
    fetch f = {.backend = model->backend, .entries = entries};
    int64_t longest = 0;
    for (int64_t i = 0; i < count; i++)
        if (entry_elements(&entries[i]) > longest) longest = entry_elements(&entries[i]);
    CAVMAE__TRY(CAVMAE__NEW(model->context, &f.host, longest));
    cavmae_status status =
        cavmae__safetensors_write_made(model->context, path, entries, count, keys, values, pairs, fetch_entry, &f);
    cavmae__free(model->context, f.host);
    return status;
}

cavmae_status cavmae__model_write(const cavmae_model *model, const char *path, const cavmae__entry *extra,
                                  int64_t extra_count, const char *key, const char *value) {
    if (!model || !path) return cavmae__fail(CAVMAE_E_ARG, "model or path is NULL");
    const cavmae__parameters *list = &model->list;
    cavmae__entry *entries = NULL;
    char *json = NULL;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY_OUT(CAVMAE__NEW(model->context, &entries, list->count + extra_count));
    CAVMAE__TRY_OUT(cavmae__config_to_json(model->config, &json));
    memset(entries, 0, (size_t)list->count * sizeof *entries);
    for (int64_t i = 0; i < list->count; i++) {
        const cavmae__parameter *p = &list->items[i];
        entries[i].name = p->name;
        entries[i].data = model->values[i];
        entries[i].dtype = CAVMAE_FLOAT32;
        entries[i].dims = p->dims;
        memcpy(entries[i].shape, p->shape, (size_t)p->dims * sizeof p->shape[0]);
    }
    if (extra_count) memcpy(entries + list->count, extra, (size_t)extra_count * sizeof *extra);
    const char *const keys[] = {CAVMAE__CONFIG_KEY, key}, *const values[] = {json, value};
    const int64_t count = list->count + extra_count, pairs = key ? 2 : 1;
    status = model->backend->ops->host_memory
                 ? cavmae__safetensors_write(model->context, path, entries, count, keys, values, pairs)
                 : write_fetched(model, path, entries, count, keys, values, pairs);
out:
    cavmae__free(model->context, json);
    cavmae__free(model->context, entries);
    return status;
}

cavmae_status cavmae_model_save(const cavmae_model *model, const char *path) {
    return cavmae__model_write(model, path, NULL, 0, NULL, NULL);
}

/* Points the model at the file's tensors; 0 where the device cannot read them there, or they are not what it needs. */
static cavmae_status map_values(cavmae_model *model, const cavmae__import *import, int *mapped) {
    cavmae__origin origin;
    *mapped = 0;
    if (!model->backend->ops->host_memory) return CAVMAE_OK;
    for (int64_t i = 0; i < model->list.count; i++) {
        cavmae__import_origin(import, &model->list.items[i], &origin);
        if (!origin.weight || origin.how != CAVMAE__AS_IT_IS || origin.weight->dtype != CAVMAE_FLOAT32)
            return CAVMAE_OK;
    }
    for (int64_t i = 0; i < model->list.count; i++) {
        const void *data = NULL;
        cavmae__import_origin(import, &model->list.items[i], &origin);
        CAVMAE__TRY(cavmae__weights_view(import->weights, origin.weight, &data));
        model->values[i] = data;
    }
    model->file = cavmae__weights_ref(import->weights);
    *mapped = 1;
    return CAVMAE_OK;
}

/* Copies the file's values into the model's own memory; what the file lacks is initialised. */
static cavmae_status copy_values(cavmae_model *model, const cavmae__import *import) {
    cavmae__backend *backend = model->backend;
    CAVMAE__TRY(cavmae__model_own(model));
    for (int64_t i = 0; i < model->list.count; i++) {
        const cavmae__parameter *p = &model->list.items[i];
        float *values = NULL;
        cavmae__origin origin;
        cavmae__import_origin(import, p, &origin);
        if (!origin.weight) {
            CAVMAE__TRY(cavmae__model_init(model, i));
            continue;
        }
        if (backend->ops->host_memory) {
            CAVMAE__TRY(cavmae__import_read(import, &origin, p, model->flat + p->offset));
            continue;
        }
        CAVMAE__TRY(CAVMAE__NEW(model->context, &values, p->elements));
        cavmae_status status = cavmae__import_read(import, &origin, p, values);
        if (status == CAVMAE_OK)
            status =
                backend->ops->upload(backend, model->flat + p->offset, values, (size_t)p->elements * sizeof(float));
        cavmae__free(model->context, values);
        CAVMAE__TRY(status);
    }
    return CAVMAE_OK;
}

static cavmae_status load(const cavmae__import *import, uint32_t flags, cavmae_load_report *report,
                          cavmae_model **out) {
    cavmae_model *model = NULL;
    cavmae_load_report counts = {0};
    int mapped = 0;
    cavmae_status status = cavmae__model_allocate(import->config, &model);
    if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "%s", cavmae__weights_path(import->weights));
    status = cavmae__import_compare(import, &model->options, &model->list, flags, &counts);
    if (report && (status == CAVMAE_OK || status == CAVMAE_E_MISMATCH)) {
        cavmae_status reported = cavmae__record_out(report, &counts, sizeof counts);
        if (status == CAVMAE_OK) status = reported;
    }
    if (status != CAVMAE_OK) goto out;
    CAVMAE__TRY_OUT(map_values(model, import, &mapped));
    if (!mapped) CAVMAE__TRY_OUT(copy_values(model, import));
    *out = model;
    model = NULL;
out:
    cavmae_model_free(model);
    return status;
}

cavmae_status cavmae_model_load(cavmae_context *context, const char *path, uint32_t flags, cavmae_load_report *report,
                                cavmae_model **out) {
    const uint32_t known = CAVMAE_LOAD_ALLOW_MISSING | CAVMAE_LOAD_ALLOW_UNEXPECTED | CAVMAE_LOAD_MEAN_COLOURS;
    cavmae__import import;
    cavmae_load_report unused;
    if (!context || !path || !out) return cavmae__fail(CAVMAE_E_ARG, "model: context, path or out is NULL");
    if (flags & ~known)
        return cavmae__fail(CAVMAE_E_ARG, "model: flags %#x has bits that this version does not know", (unsigned)flags);
    if (report) CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, report));
    CAVMAE__TRY(cavmae__import_open(context, path, flags, &import));
    cavmae_status status = load(&import, flags, report, out);
    cavmae__import_close(&import);
    return status;
}

cavmae_status cavmae__model_restore(cavmae_model *model, cavmae_safetensors *file, const char *path) {
    cavmae_load_report counts;
    cavmae__import import;
    CAVMAE__TRY(cavmae__import_of(model->context, file, path, &import));
    cavmae_status status = cavmae__import_compare(&import, &model->options, &model->list, 0, &counts);
    if (status == CAVMAE_OK) status = copy_values(model, &import);
    cavmae__import_close(&import);
    return status;
}
