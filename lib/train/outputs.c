/* What the last step left on the device, for the caller: predictions, masks, logits, gradients. */
#include "tensor.h"
#include "trainer.h"

static cavmae_status download_tensor(const cavmae_trainer *t, int32_t dtype, int32_t dims, const int64_t *shape,
                                     const void *device, cavmae_tensor **out) {
    cavmae_tensor *tensor;
    cavmae__backend *backend = t->model->backend;
    CAVMAE__TRY(cavmae_tensor_create(t->model->context, dtype, dims, shape, &tensor));
    cavmae_status status = backend->ops->download(backend, cavmae_tensor_data(tensor), device,
                                                  (size_t)cavmae_tensor_elements(tensor) * cavmae__dtype_size(dtype));
    if (status != CAVMAE_OK) {
        cavmae_tensor_free(tensor);
        return status;
    }
    *out = tensor;
    return CAVMAE_OK;
}

/* What a step left on the device, by number. */
typedef struct output {
    const void *data;
    int32_t dtype, dims;
    int64_t shape[3];
} output;

static output find_output(const cavmae_trainer *t, int32_t which) {
    const cavmae__network *n = t->network;
    const cavmae__options *o = &t->options;
    if (!n || !t->count) return (output){0};
    if (which == CAVMAE_OUT_LOGITS) return (output){n->logits, CAVMAE_FLOAT32, 2, {t->count, o->classes}};
    if (which == CAVMAE_OUT_FEATURES)
        return (output){n->features, CAVMAE_FLOAT32, 2, {t->count, cavmae__head_width(o)}};
    int m = (which - CAVMAE_OUT_PRED_A) % 2;
    int64_t patch = o->patch_size * o->patch_size * (m ? o->image_channels : 1);
    /* clips of different length cannot make a rectangle: their tokens come as one list */
    int64_t tokens = n->rows.token_rows[m], clips = t->count;
    if (tokens != (int64_t)n->rows.tokens[m].longest * clips) clips = 1;
    switch (which) {
    case CAVMAE_OUT_PRED_A:
    case CAVMAE_OUT_PRED_V: return (output){n->predicted[m], CAVMAE_FLOAT32, 3, {clips, tokens / clips, patch}};
    case CAVMAE_OUT_MASK_A:
    case CAVMAE_OUT_MASK_V: return (output){n->rows.mask[m], CAVMAE_UINT8, 2, {clips, tokens / clips}};
    default: return (output){n->pooled[1 + m], CAVMAE_FLOAT32, 2, {t->count, o->embed_dim}};
    }
}

cavmae_status cavmae_trainer_output(cavmae_trainer *t, int32_t which, cavmae_tensor **out) {
    if (!t || !out) return cavmae__fail(CAVMAE_E_ARG, "trainer or out is NULL");
    if (which < CAVMAE_OUT_PRED_A || which > CAVMAE_OUT_FEATURES)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: there is no output %d", which);
    CAVMAE__TRY(cavmae__trainer_finish(t));
    const output found = find_output(t, which);
    if (!found.data) return cavmae__fail(CAVMAE_E_NOT_FOUND, "trainer: the last step did not compute output %d", which);
    return download_tensor(t, found.dtype, found.dims, found.shape, found.data, out);
}

cavmae_status cavmae_trainer_gradient(cavmae_trainer *t, const char *name, cavmae_tensor **out) {
    if (!t || !name || !out) return cavmae__fail(CAVMAE_E_ARG, "trainer, name or out is NULL");
    CAVMAE__TRY(cavmae__trainer_finish(t));
    int64_t i = cavmae__parameters_find(&t->model->list, name);
    if (i < 0) return cavmae__fail(CAVMAE_E_NOT_FOUND, "trainer: no parameter is called '%s'", name);
    if (!t->has_gradient[i]) return cavmae__fail(CAVMAE_E_NOT_FOUND, "trainer: parameter '%s' has no gradient", name);
    if (t->exchange && t->optimizer->pieces.sharded)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "trainer: with shard_optimizer no rank has the gradient of '%s'",
                            name);
    const cavmae__parameter *p = &t->model->list.items[i];
    return download_tensor(t, CAVMAE_FLOAT32, p->dims, p->shape, t->gradients + p->offset, out);
}
