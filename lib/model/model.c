#include "model.h"

#include <string.h>

cavmae_model *cavmae__model_ref(cavmae_model *model) {
    atomic_fetch_add(&model->references, 1);
    return model;
}

void cavmae_model_free(cavmae_model *model) {
    if (!model || atomic_fetch_sub(&model->references, 1) != 1) return;
    cavmae_context *context = model->context;
    if (model->flat) model->backend->ops->free(model->backend, model->flat);
    cavmae__weights_free(model->file);
    cavmae__free(context, model->values);
    cavmae__parameters_free(context, &model->list);
    cavmae_config_free(model->config);
    cavmae__free(context, model);
    cavmae__context_unref(context);
}

cavmae_status cavmae__model_allocate(const cavmae_config *config, cavmae_model **out) {
    cavmae__options options;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    cavmae_context *context = cavmae__config_context(config);
    cavmae_model *model = cavmae__alloc_zero(context, sizeof *model);
    if (!model) return CAVMAE_E_NOMEM;
    cavmae_status status = CAVMAE_OK;
    atomic_init(&model->references, 1);
    model->context = cavmae__context_ref(context);
    model->options = options;
    CAVMAE__TRY_OUT(cavmae__context_backend(context, &model->backend));
    CAVMAE__TRY_OUT(cavmae_config_clone(config, &model->config));
    CAVMAE__TRY_OUT(cavmae_config_set_world(model->config, NULL)); /* a model is of one process */
    CAVMAE__TRY_OUT(cavmae__parameters_create(context, &options, &model->list));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &model->values, model->list.count));
    memset(model->values, 0, (size_t)model->list.count * sizeof *model->values);
    *out = model;
    return CAVMAE_OK;
out:
    cavmae_model_free(model);
    return status;
}

cavmae_status cavmae__model_own(cavmae_model *model) {
    if (model->flat) return CAVMAE_OK;
    cavmae__backend *backend = model->backend;
    const cavmae__parameters *list = &model->list;
    void *memory;
    size_t size = (size_t)list->flat_elements * sizeof(float);
    CAVMAE__TRY(backend->ops->alloc(backend, size, &memory));
    float *flat = memory;
    cavmae_status status = backend->ops->zero(backend, flat, size);
    for (int64_t i = 0; i < list->count && status == CAVMAE_OK; i++)
        if (model->values[i])
            status = backend->ops->upload(backend, flat + list->items[i].offset, model->values[i],
                                          (size_t)list->items[i].elements * sizeof(float));
    if (status != CAVMAE_OK) {
        backend->ops->free(backend, flat);
        return status;
    }
    for (int64_t i = 0; i < list->count; i++) model->values[i] = flat + list->items[i].offset;
    model->flat = flat;
    cavmae__weights_free(model->file);
    model->file = NULL;
    return CAVMAE_OK;
}

static cavmae_status upload_parameter(cavmae_model *model, int64_t index, const float *values) {
    const cavmae__parameter *p = &model->list.items[index];
    return model->backend->ops->upload(model->backend, model->flat + p->offset, values,
                                       (size_t)p->elements * sizeof(float));
}

cavmae_status cavmae__model_init(cavmae_model *model, int64_t index) {
    const cavmae__parameter *p = &model->list.items[index];
    float *values;
    CAVMAE__TRY(CAVMAE__NEW(model->context, &values, p->elements));
    cavmae__parameter_init(p, (uint64_t)model->options.seed, values);
    cavmae_status status = upload_parameter(model, index, values);
    cavmae__free(model->context, values);
    return status;
}

cavmae_status cavmae_model_create(const cavmae_config *config, cavmae_model **out) {
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "model: out is NULL");
    cavmae_model *model;
    CAVMAE__TRY(cavmae__model_allocate(config, &model));
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY_OUT(cavmae__model_own(model));
    for (int64_t i = 0; i < model->list.count; i++) {
        CAVMAE__TRY_OUT(cavmae__check_cancel(model->context));
        CAVMAE__TRY_OUT(cavmae__model_init(model, i));
    }
    *out = model;
    return CAVMAE_OK;
out:
    cavmae_model_free(model);
    return status;
}

cavmae_status cavmae_model_config(const cavmae_model *model, cavmae_config **out) {
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "model is NULL");
    return cavmae_config_clone(model->config, out);
}

cavmae_status cavmae_model_set_dtype(cavmae_model *model, int32_t dtype) {
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "model is NULL");
    if (dtype != CAVMAE_FLOAT32 && dtype != CAVMAE_BFLOAT16)
        return cavmae__fail(CAVMAE_E_ARG, "model: dtype %d is neither float32 nor bfloat16", dtype);
    CAVMAE__TRY(
        cavmae_config_set_str(model->config, CAVMAE_P_DTYPE, dtype == CAVMAE_BFLOAT16 ? "bfloat16" : "float32"));
    model->options.dtype = dtype;
    return CAVMAE_OK;
}

int64_t cavmae_model_parameter_count(const cavmae_model *model) { return model ? model->list.count : 0; }

const char *cavmae_model_parameter_name(const cavmae_model *model, int64_t index) {
    return model && index >= 0 && index < model->list.count ? model->list.items[index].name : NULL;
}

int64_t cavmae_model_elements(const cavmae_model *model, int32_t trainable) {
    if (!model) return 0;
    return trainable ? model->list.trainable_elements : model->list.elements;
}

static cavmae_status find_parameter(const cavmae_model *model, const char *name, int64_t *index) {
    if (!model || !name) return cavmae__fail(CAVMAE_E_ARG, "model or parameter name is NULL");
    *index = cavmae__parameters_find(&model->list, name);
    if (*index < 0) return cavmae__fail(CAVMAE_E_NOT_FOUND, "model: no parameter is called '%s'", name);
    return CAVMAE_OK;
}

static void release_model(void *model) { cavmae_model_free(model); }

static void release_file(void *file) { cavmae__weights_free(file); }

cavmae_status cavmae_model_parameter(cavmae_model *model, const char *name, cavmae_tensor **out) {
    int64_t index = 0;
    CAVMAE__TRY(find_parameter(model, name, &index));
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "model: out is NULL");
    const cavmae__parameter *p = &model->list.items[index];
    if (!model->backend->ops->host_memory) {
        cavmae_tensor *copy;
        CAVMAE__TRY(cavmae_tensor_create(model->context, CAVMAE_FLOAT32, p->dims, p->shape, &copy));
        cavmae_status status = model->backend->ops->download(model->backend, cavmae_tensor_data(copy),
                                                             model->values[index], (size_t)p->elements * sizeof(float));
        if (status == CAVMAE_OK)
            *out = copy;
        else
            cavmae_tensor_free(copy);
        return status;
    }
    /* A view of the model's memory; to a caller it is for reading, as the header says. */
    union {
        const float *read;
        void *view;
    } pointer = {.read = model->values[index]};
    if (model->file) { /* which the model lets go of when it is written to */
        CAVMAE__TRY(cavmae_tensor_wrap(model->context, pointer.view, CAVMAE_FLOAT32, p->dims, p->shape, release_file,
                                       model->file, out));
        cavmae__weights_ref(model->file);
        return CAVMAE_OK;
    }
    CAVMAE__TRY(
        cavmae_tensor_wrap(model->context, pointer.view, CAVMAE_FLOAT32, p->dims, p->shape, release_model, model, out));
    cavmae__model_ref(model);
    return CAVMAE_OK;
}

cavmae_status cavmae_model_set_parameter(cavmae_model *model, const char *name, const float *values, int64_t elements) {
    int64_t index = 0;
    CAVMAE__TRY(find_parameter(model, name, &index));
    if (!values) return cavmae__fail(CAVMAE_E_ARG, "model: values for '%s' are NULL", name);
    if (elements != model->list.items[index].elements)
        return cavmae__fail(CAVMAE_E_SHAPE, "model: '%s' has %lld elements, not %lld", name,
                            (long long)model->list.items[index].elements, (long long)elements);
    CAVMAE__TRY(cavmae__model_own(model));
    return upload_parameter(model, index, values);
}
