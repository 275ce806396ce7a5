/* Model files: safetensors whose metadata "cavmae.config" is the configuration as JSON. */
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "record.h"

static const char config_key[] = "cavmae.config";
static const char training_prefix[] = "optimizer."; /* what checkpoints add, and a model does not need */

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
    const char *const keys[] = {config_key, key}, *const values[] = {json, value};
    CAVMAE__TRY_OUT(
        cavmae__safetensors_write(model->context, path, entries, list->count + extra_count, keys, values, key ? 2 : 1));
out:
    cavmae__free(model->context, json);
    cavmae__free(model->context, entries);
    return status;
}

cavmae_status cavmae_model_save(const cavmae_model *model, const char *path) {
    return cavmae__model_write(model, path, NULL, 0, NULL, NULL);
}

static int same_shape(const cavmae__entry *entry, const cavmae__parameter *p) {
    return entry->dtype == CAVMAE_FLOAT32 && entry->dims == p->dims &&
           memcmp(entry->shape, p->shape, (size_t)p->dims * sizeof p->shape[0]) == 0;
}

/* Compares the file's tensors with the model's. `first` is the sentence about the first that does not fit. */
static cavmae_status compare(const cavmae_model *model, const cavmae_safetensors *file, const char *path,
                             cavmae_load_report *report, char *first, size_t size) {
    cavmae_context *context = model->context;
    const cavmae__entry *entries = cavmae__safetensors_entry(file, 0);
    int64_t count = cavmae_safetensors_count(file);
    uint8_t *known = cavmae__alloc_zero(context, (size_t)count); /* the file's tensors that are the model's */
    if (!known) return CAVMAE_E_NOMEM;
    first[0] = 0;
#define NOTE(...)                                                                                                      \
    do {                                                                                                               \
        cavmae__log(context, CAVMAE_LOG_INFO, __VA_ARGS__);                                                            \
        if (!first[0]) snprintf(first, size, __VA_ARGS__);                                                             \
    } while (0)
    for (int64_t i = 0; i < model->list.count; i++) {
        const cavmae__parameter *p = &model->list.items[i];
        const cavmae__entry *entry = cavmae__safetensors_find(file, p->name);
        if (entry) known[entry - entries] = 1;
        if (!entry) {
            report->missing++;
            NOTE("%s: parameter '%s' is missing", path, p->name);
        } else if (!same_shape(entry, p)) {
            report->misshaped++;
            NOTE("%s: tensor '%s' is %s with %d dimensions of %lld, ... elements; the model's is float32 with %d of "
                 "%lld, ...",
                 path, p->name, cavmae__dtype_name(entry->dtype), entry->dims,
                 (long long)(entry->dims ? entry->shape[0] : 0), p->dims, (long long)p->shape[0]);
        } else {
            report->matched++;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        if (known[i] || strncmp(entries[i].name, training_prefix, sizeof training_prefix - 1) == 0) continue;
        report->unexpected++;
        NOTE("%s: tensor '%s' is none of the model's", path, entries[i].name);
    }
#undef NOTE
    cavmae__free(context, known);
    return CAVMAE_OK;
}

/* Counts over flags: a status for what is not allowed. */
static cavmae_status judge(const char *path, uint32_t flags, const cavmae_load_report *report, const char *first) {
    int refused = report->misshaped || (report->missing && !(flags & CAVMAE_LOAD_ALLOW_MISSING)) ||
                  (report->unexpected && !(flags & CAVMAE_LOAD_ALLOW_UNEXPECTED));
    if (!refused) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_MISMATCH,
                        "%s: %lld tensors match, %lld are missing, %lld unexpected, %lld of another shape; first: %s",
                        path, (long long)report->matched, (long long)report->missing, (long long)report->unexpected,
                        (long long)report->misshaped, first);
}

/* Points the model at the file's tensors where the device can read them there, else copies. */
static cavmae_status take_values(cavmae_model *model, cavmae_safetensors *file) {
    int all = 1;
    for (int64_t i = 0; i < model->list.count; i++) {
        const cavmae__entry *entry = cavmae__safetensors_find(file, model->list.items[i].name);
        model->values[i] = entry ? entry->data : NULL;
        /* a foreign writer may have put float32 at odd addresses */
        if (!entry || (uintptr_t)entry->data % sizeof(float)) all = 0;
    }
    if (all && model->backend->ops->host_memory) {
        model->file = cavmae__safetensors_ref(file);
        return CAVMAE_OK;
    }
    CAVMAE__TRY(cavmae__model_own(model));
    for (int64_t i = 0; i < model->list.count; i++)
        if (!cavmae__safetensors_find(file, model->list.items[i].name)) CAVMAE__TRY(cavmae__model_init(model, i));
    return CAVMAE_OK;
}

cavmae_status cavmae__model_read(cavmae_context *context, cavmae_safetensors *file, const char *path, uint32_t flags,
                                 cavmae_load_report *report, cavmae_model **out) {
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    cavmae_load_report counts = {0};
    char first[256];
    cavmae_status status = CAVMAE_OK;
    const char *json = cavmae_safetensors_metadata(file, config_key);
    if (!json)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: no metadata '%s': not a model file of this library", path,
                            config_key);
    status = cavmae__config_from_json(context, json, &config);
    if (status == CAVMAE_OK) status = cavmae__model_allocate(config, &model);
    if (status != CAVMAE_OK) {
        status = cavmae__fail_prefix(status, "%s", path);
        goto out;
    }
    CAVMAE__TRY_OUT(compare(model, file, path, &counts, first, sizeof first));
    if (report) CAVMAE__TRY_OUT(cavmae__record_out(report, &counts, sizeof counts));
    CAVMAE__TRY_OUT(judge(path, flags, &counts, first));
    CAVMAE__TRY_OUT(take_values(model, file));
    *out = model;
    model = NULL;
out:
    cavmae_model_free(model);
    cavmae_config_free(config);
    return status;
}

cavmae_status cavmae_model_load(cavmae_context *context, const char *path, uint32_t flags, cavmae_load_report *report,
                                cavmae_model **out) {
    cavmae_safetensors *file;
    cavmae_load_report unused;
    if (!context || !path || !out) return cavmae__fail(CAVMAE_E_ARG, "model: context, path or out is NULL");
    if (flags & ~(uint32_t)(CAVMAE_LOAD_ALLOW_MISSING | CAVMAE_LOAD_ALLOW_UNEXPECTED))
        return cavmae__fail(CAVMAE_E_ARG, "model: flags %#x has bits that this version does not know", (unsigned)flags);
    if (report) CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, report));
    CAVMAE__TRY(cavmae_safetensors_open(context, path, &file));
    cavmae_status status = cavmae__model_read(context, file, path, flags, report, out);
    cavmae_safetensors_free(file);
    return status;
}

cavmae_status cavmae__model_restore(cavmae_model *model, const cavmae_safetensors *file, const char *path) {
    cavmae_load_report counts = {0};
    char first[256];
    CAVMAE__TRY(compare(model, file, path, &counts, first, sizeof first));
    CAVMAE__TRY(judge(path, 0, &counts, first));
    CAVMAE__TRY(cavmae__model_own(model));
    for (int64_t i = 0; i < model->list.count; i++) {
        const cavmae__parameter *p = &model->list.items[i];
        const void *data = cavmae__safetensors_find(file, p->name)->data;
        CAVMAE__TRY(model->backend->ops->upload(model->backend, model->flat + p->offset, data,
                                                (size_t)p->elements * sizeof(float)));
    }
    return CAVMAE_OK;
}
