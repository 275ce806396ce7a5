/* The mean of several models' parameters, one tensor at a time. */
#include <string.h>

#include "import.h"
#include "vision_mae.h"

typedef struct average {
    cavmae_context *context;
    cavmae__import *imports; /* [count] */
    int64_t count;
    cavmae__options options;
    cavmae__parameters list;
    double *sum; /* [elements of the largest parameter] */
    float *values;
} average;

/* The values of a file's parameter, in the file's own memory where they lie there as float32. */
static cavmae_status add_file(average *a, const cavmae__import *import, const cavmae__origin *origin,
                              const cavmae__parameter *p) {
    cavmae_tensor *tensor = NULL;
    const float *values = a->values;
    if (origin->how == CAVMAE__AS_IT_IS && origin->weight->dtype == CAVMAE_FLOAT32) {
        CAVMAE__TRY(cavmae__weights_tensor(import->weights, origin->weight, &tensor));
        values = cavmae_tensor_data(tensor);
    } else {
        CAVMAE__TRY(cavmae__import_read(import, origin, p, a->values));
    }
    for (int64_t i = 0; i < p->elements; i++) a->sum[i] += (double)values[i];
    cavmae_tensor_free(tensor);
    return CAVMAE_OK;
}

/* What no file has to have starts as in a new model, unless all have it. */
static cavmae_status make_mean(void *arg, int64_t index, const void **data) {
    average *a = arg;
    const cavmae__parameter *p = &a->list.items[index];
    CAVMAE__TRY(cavmae__check_cancel(a->context));
    cavmae__progress(a->context, "averaging", index, a->list.count);
    *data = a->values;
    memset(a->sum, 0, (size_t)p->elements * sizeof *a->sum);
    for (int64_t f = 0; f < a->count; f++) {
        cavmae__origin origin;
        cavmae__import_origin(&a->imports[f], p, &origin);
        if (!origin.weight) {
            cavmae__parameter_init(p, (uint64_t)a->options.seed, a->values);
            return CAVMAE_OK;
        }
        CAVMAE__TRY(add_file(a, &a->imports[f], &origin, p));
    }
    for (int64_t i = 0; i < p->elements; i++) a->values[i] = (float)(a->sum[i] / (double)a->count);
    return CAVMAE_OK;
}

static cavmae_status open_files(average *a, const char *const *paths) {
    cavmae_load_report counts;
    for (int64_t f = 0; f < a->count; f++) {
        cavmae_status status = cavmae__import_open(a->context, paths[f], 0, &a->imports[f]);
        if (status == CAVMAE_OK && f == 0) {
            status = cavmae__config_options(a->imports[0].config, &a->options);
            if (status != CAVMAE_OK) cavmae__fail_prefix(status, "%s", paths[0]);
        }
        CAVMAE__TRY(status);
        if (f == 0) CAVMAE__TRY(cavmae__parameters_create(a->context, &a->options, &a->list));
        CAVMAE__TRY(cavmae__import_compare(&a->imports[f], &a->options, &a->list, 0, &counts));
        if (f == 0) continue; /* whose configuration goes into the mean's file */
        cavmae_config_free(a->imports[f].config);
        a->imports[f].config = NULL;
    }
    return CAVMAE_OK;
}

static cavmae_status write_mean(average *a, cavmae__entry *entries, const char *path) {
    int64_t most = 0;
    char *json = NULL;
    for (int64_t i = 0; i < a->list.count; i++) {
        const cavmae__parameter *p = &a->list.items[i];
        entries[i] = (cavmae__entry){.name = p->name, .dtype = CAVMAE_FLOAT32, .dims = p->dims};
        memcpy(entries[i].shape, p->shape, (size_t)p->dims * sizeof p->shape[0]);
        if (p->elements > most) most = p->elements;
    }
    CAVMAE__TRY(CAVMAE__NEW(a->context, &a->sum, most));
    CAVMAE__TRY(CAVMAE__NEW(a->context, &a->values, most));
    CAVMAE__TRY(cavmae__config_to_json(a->imports[0].config, &json));
    const char *const keys[] = {CAVMAE__CONFIG_KEY}, *const values[] = {json};
    cavmae_status status =
        cavmae__safetensors_write_made(a->context, path, entries, a->list.count, keys, values, 1, make_mean, a);
    cavmae__free(a->context, json);
    return status;
}

cavmae_status cavmae_average_models(cavmae_context *context, const char *const *paths, int64_t count,
                                    const char *out_path) {
    if (!context || !paths || !out_path) return cavmae__fail(CAVMAE_E_ARG, "average: context, paths or path is NULL");
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "average: %lld files have no mean", (long long)count);
    for (int64_t f = 0; f < count; f++)
        if (!paths[f]) return cavmae__fail(CAVMAE_E_ARG, "average: path %lld is NULL", (long long)f);
    average a = {.context = context, .count = count};
    cavmae__entry *entries = NULL;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY(CAVMAE__NEW(context, &a.imports, count));
    memset(a.imports, 0, (size_t)count * sizeof *a.imports);
    CAVMAE__TRY_OUT(open_files(&a, paths));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &entries, a.list.count));
    CAVMAE__TRY_OUT(write_mean(&a, entries, out_path));
out:
    for (int64_t f = 0; f < count; f++) cavmae__import_close(&a.imports[f]);
    cavmae__parameters_free(context, &a.list);
    cavmae__free(context, entries);
    cavmae__free(context, a.imports);
    cavmae__free(context, a.sum);
    cavmae__free(context, a.values);
    return status;
}
