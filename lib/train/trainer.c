#include "trainer.h"

#include <math.h>
#include <string.h>

#include "extent.h"
#include "record.h"
#include "tensor.h"

/* Masks of evaluations never coincide with those of training steps. */
static const uint64_t evaluation_draws = (uint64_t)1 << 62;

void cavmae_trainer_free(cavmae_trainer *trainer) {
    if (!trainer) return;
    /* The optimizer may live on: what the step under way did to it counts. A failure is nobody's to hear. */
    (void)cavmae__trainer_finish(trainer);
    cavmae_model *model = trainer->model;
    cavmae_context *context = cavmae__context_ref(model->context);
    for (int i = 0; i < CAVMAE__TURNS; i++)
        for (int added = 0; added < 2; added++)
            model->backend->ops->repeat_free(model->backend, &trainer->repeats[i][added]);
    for (int i = 0; i < CAVMAE__TURNS; i++) cavmae__raw_inputs_free(&trainer->raw[i], model);
    cavmae__network_free(trainer->network);
    if (trainer->gradients) model->backend->ops->free(model->backend, trainer->gradients);
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < CAVMAE__TURNS; i++)
            if (trainer->input[i][m]) model->backend->ops->free(model->backend, trainer->input[i][m]);
        cavmae__free(context, trainer->columns[m]);
        cavmae__free(context, trainer->kept[m]);
    }
    cavmae__free(context, trainer->has_gradient);
    cavmae__free(context, trainer->mask_host);
    cavmae__free(context, trainer->shown);
    if (trainer->labels) model->backend->ops->free(model->backend, trainer->labels);
    if (trainer->state) model->backend->ops->free(model->backend, trainer->state);
    cavmae_optimizer_free(trainer->optimizer);
    cavmae_model_free(model);
    cavmae__free(context, trainer);
    cavmae__context_unref(context);
}

cavmae_status cavmae__trainer_reserve(cavmae_trainer *trainer, const cavmae__extent *extent) {
    cavmae__network *network;
    /* The old one goes first: both at once may be more than there is. A failure leaves none, and the next batch
     * tries again. */
    cavmae__network_free(trainer->network);
    trainer->network = NULL;
    trainer->generation++;
    CAVMAE__TRY(cavmae__network_create(trainer->model, extent, (int32_t)trainer->options.recompute, &network));
    trainer->network = network;
    trainer->extent = *extent;
    return CAVMAE_OK;
}

/* Room for a head's batches of features alone; the extent stays that of whole batches. */
static cavmae_status reserve_head(cavmae_trainer *trainer) {
    cavmae__extent extent = {.clips = trainer->extent.clips,
                             .pictures = 1,
                             .head = trainer->extent.head,
                             .head_backward = trainer->extent.head_backward};
    trainer->generation++;
    return cavmae__network_create(trainer->model, &extent, 0, &trainer->network);
}

/* Model keys must be the model's own; a trainer's config may differ in objective, training and data only. */
static cavmae_status check_same_model(const cavmae__options *model, const cavmae__options *config) {
    static const struct {
        const char *name;
        size_t offset;
    } fields[] = {
#define FIELD(name) {#name, offsetof(cavmae__options, name)}
        FIELD(image_size),    FIELD(image_channels), FIELD(audio_frames),   FIELD(mel_bins),       FIELD(patch_size),
        FIELD(embed_dim),     FIELD(num_heads),      FIELD(modality_depth), FIELD(joint_depth),    FIELD(decoder_dim),
        FIELD(decoder_heads), FIELD(decoder_depth),  FIELD(mlp_ratio),      FIELD(layer_norm_eps), FIELD(trainable_pos),
        FIELD(modalities),    FIELD(dtype),          FIELD(classes),        FIELD(decoder),        FIELD(head),
        FIELD(head_input),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (memcmp((const char *)model + fields[i].offset, (const char *)config + fields[i].offset, 8) != 0)
            return cavmae__fail(CAVMAE_E_MISMATCH, "trainer: the config's %s is not the model's", fields[i].name);
    return CAVMAE_OK;
}

static cavmae_status allocate(cavmae_trainer *t) {
    const cavmae__options *o = &t->options;
    cavmae__backend *backend = t->model->backend;
    cavmae_context *context = t->model->context;
    void *memory;
    int64_t inputs[2] = {o->batch * o->audio_frames * o->mel_bins,
                         o->batch * o->image_channels * o->image_size * o->image_size};
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(CAVMAE__NEW(context, &t->columns[m], o->batch));
        CAVMAE__TRY(CAVMAE__NEW(context, &t->kept[m], o->batch));
        if (!t->extent.tokens[m]) continue;
        for (int32_t i = 0; i < t->turns; i++) {
            CAVMAE__TRY(backend->ops->alloc(backend, (size_t)inputs[m] * sizeof(float), &memory));
            t->input[i][m] = memory;
        }
    }
    CAVMAE__TRY(backend->ops->alloc(backend, sizeof *t->state, &memory));
    t->state = memory;
    CAVMAE__TRY(CAVMAE__NEW(context, &t->has_gradient, t->model->list.count));
    memset(t->has_gradient, 0, (size_t)t->model->list.count);
    if (o->classes) {
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)(o->batch * o->classes) * sizeof(float), &memory));
        t->labels = memory;
    }
    if (o->modality_dropout > 0) CAVMAE__TRY(CAVMAE__NEW(context, &t->shown, o->batch));
    if (!o->classes && o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT)
        CAVMAE__TRY(CAVMAE__NEW(context, &t->mask_host, 2 * (t->extent.tokens[0] + t->extent.tokens[1])));
    if (!t->optimizer) return CAVMAE_OK;
    size_t size = (size_t)t->model->list.flat_elements * sizeof(float);
    CAVMAE__TRY(cavmae__model_own(t->model));
    CAVMAE__TRY(backend->ops->alloc(backend, size, &memory));
    t->gradients = memory;
    return backend->ops->zero(backend, t->gradients, size); /* the padding between parameters stays zero */
}

cavmae_status cavmae_trainer_create(cavmae_model *model, cavmae_optimizer *optimizer, const cavmae_config *config,
                                    cavmae_trainer **out) {
    if (!model || !out) return cavmae__fail(CAVMAE_E_ARG, "trainer: model or out is NULL");
    if (optimizer && cavmae__context_choices(model->context).matmul == CAVMAE__MATMUL_FP8)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "trainer: the context's matmul is \"fp8\", which only embeds");
    if (optimizer && optimizer->model != model)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: the optimizer is of another model");
    cavmae__options options;
    cavmae__extent extent;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    CAVMAE__TRY(check_same_model(&model->options, &options));
    CAVMAE__TRY(options.classes
                    ? cavmae__finetune_extent(&options, (int32_t)options.batch, optimizer != NULL, &extent)
                    : cavmae__pretrain_extent(&options, (int32_t)options.batch, optimizer != NULL, &extent));
    cavmae_trainer *trainer = cavmae__alloc_zero(model->context, sizeof *trainer);
    if (!trainer) return CAVMAE_E_NOMEM;
    cavmae_status status = CAVMAE_OK;
    trainer->model = cavmae__model_ref(model);
    trainer->optimizer = optimizer ? cavmae__optimizer_ref(optimizer) : NULL;
    trainer->options = options;
    trainer->extent = extent;
    trainer->turns = cavmae__input_turns(model->backend);
    CAVMAE__TRY_OUT(allocate(trainer));
    /* A probe on features never needs the encoders' buffers: they wait for the first batch. */
    if (!options.freeze_base) CAVMAE__TRY_OUT(cavmae__trainer_reserve(trainer, &extent));
    *out = trainer;
    return CAVMAE_OK;
out:
    cavmae_trainer_free(trainer);
    return status;
}

/* The first of `count` tensors at `data` + offsets that has a NaN or an infinity is named in the error. */
static cavmae_status is_finite(cavmae_trainer *t, const float *data, int64_t count, int *finite) {
    cavmae__network *n = t->network;
    cavmae__backend *backend = t->model->backend;
    double sum;
    const cavmae__sum_squares squares = {
        .count = count, .x = data, .sum = n->scalars + CAVMAE__SUM_SQUARES, .workspace = n->pass.workspace};
    CAVMAE__TRY(backend->ops->sum_squares(backend, &squares));
    CAVMAE__TRY(backend->ops->download(backend, &sum, squares.sum, sizeof sum));
    *finite = isfinite(sum);
    return CAVMAE_OK;
}

/* Looks for where a NaN came from, from the inputs on: always fails, with the best sentence it has. */
static cavmae_status explain_not_finite(cavmae_trainer *t, const char *what, double value) {
    static const char *const inputs[] = {"audio of the batch", "image of the batch"};
    const cavmae__parameters *list = &t->model->list;
    const cavmae__options *o = &t->options;
    long long step = (long long)t->step + 1;
    int finite = 1;
    int64_t count[2] = {t->network->rows.token_rows[0] * o->patch_size * o->patch_size,
                        t->network->rows.token_rows[1] * o->patch_size * o->patch_size * o->image_channels};
    for (int m = 0; m < 2; m++) {
        if (!t->network->source[m].data) continue;
        CAVMAE__TRY(is_finite(t, t->network->source[m].data, count[m], &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g: there is a NaN or an infinity in the %s",
                                step, what, value, inputs[m]);
    }
    for (int64_t i = 0; i < list->count; i++) {
        CAVMAE__TRY(is_finite(t, t->model->values[i], list->items[i].elements, &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE,
                                "step %lld: %s is %g: there is a NaN or an infinity in parameter '%s'", step, what,
                                value, list->items[i].name);
    }
    for (int64_t i = 0; t->gradients && i < list->count; i++) {
        if (!t->has_gradient[i]) continue;
        CAVMAE__TRY(is_finite(t, t->gradients + list->items[i].offset, list->items[i].elements, &finite));
        if (!finite)
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g: the first such gradient is that of '%s'",
                                step, what, value, list->items[i].name);
    }
    return cavmae__fail(CAVMAE_E_NOT_FINITE, "step %lld: %s is %g, with finite inputs, parameters and gradients", step,
                        what, value);
}

static cavmae_step_result make_result(const cavmae_trainer *t, const double scalars[CAVMAE__SCALARS]) {
    const cavmae__options *o = &t->options;
    cavmae_step_result r = {0};
    r.loss_mae_a = scalars[CAVMAE__LOSS_MAE_A];
    r.loss_mae_v = scalars[CAVMAE__LOSS_MAE_V];
    r.loss_mae = o->mae_weight * (r.loss_mae_a + r.loss_mae_v);
    r.loss_c = o->contrast_weight * scalars[CAVMAE__LOSS_C];
    r.accuracy = scalars[CAVMAE__ACCURACY];
    r.loss = o->classes ? scalars[CAVMAE__LOSS_CLASS] : r.loss_mae + (t->extent.pool ? r.loss_c : 0);
    r.pairs = t->extent.pool && !o->classes ? t->count : 0;
    r.step = t->step;
    return r;
}

/* head: whether the call is one for models with a head. */
static cavmae_status read_arguments(cavmae_trainer *trainer, const cavmae_batch *batch, int head,
                                    cavmae_step_result *result, cavmae_batch *own) {
    cavmae_step_result unused;
    if ((trainer->options.classes > 0) != head)
        return cavmae__fail(CAVMAE_E_STATE, "trainer: the model has %s head: it is %s", head ? "no" : "a",
                            head ? "pretrained" : "fine-tuned");
    CAVMAE__TRY(cavmae__record_in(own, sizeof *own, batch));
    if (result) CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, result));
    CAVMAE__TRY(cavmae__trainer_check(trainer, own));
    if (trainer->network) return CAVMAE_OK;
    cavmae__extent extent = trainer->extent;
    return own->features ? reserve_head(trainer) : cavmae__trainer_reserve(trainer, &extent);
}

/* ---- A step: what is computed, put under way, and waited for ---- */

/* Mean gradient over the accumulated batches, its norm, clipping, Adam; nothing of it where a number is not finite. */
static cavmae_status update(cavmae_trainer *t) {
    cavmae__backend *backend = t->model->backend;
    cavmae__network *n = t->network;
    const cavmae__sum_squares squares = {.count = t->model->list.flat_elements,
                                         .x = t->gradients,
                                         .sum = n->scalars + CAVMAE__SUM_SQUARES,
                                         .workspace = n->pass.workspace};
    const cavmae__adam adam = {.clip_norm = t->options.clip_norm,
                               .update = &t->state->update,
                               .sum_squares = squares.sum,
                               .guard = n->scalars,
                               .guards = CAVMAE__SCALARS};
    CAVMAE__TRY(backend->ops->sum_squares(backend, &squares));
    return cavmae__optimizer_update(t->optimizer, t->gradients, t->has_gradient, &adam);
}

static cavmae_status compute(void *arg) {
    const cavmae__work *work = arg;
    cavmae_trainer *t = work->trainer;
    cavmae__backend *backend = t->model->backend;
    CAVMAE__TRY(backend->ops->zero(backend, t->network->scalars, CAVMAE__SCALARS * sizeof *t->network->scalars));
    CAVMAE__TRY(t->options.classes ? cavmae__head_compute(work) : cavmae__pretrain_compute(work));
    return work->update ? update(t) : CAVMAE_OK;
}

static cavmae_status put_state(cavmae_trainer *t, uint64_t draw) {
    cavmae__backend *backend = t->model->backend;
    cavmae__step_state state = {.draw = draw};
    if (t->optimizer) {
        t->lr = cavmae_optimizer_lr(t->optimizer);
        state.update = (cavmae__update){
            .lr = t->lr, .grad_scale = 1.0 / (double)t->options.accumulate, .number = t->optimizer->updates + 1};
    }
    return backend->ops->upload(backend, t->state, &state, sizeof state);
}

/* Two steps of one key are the same operations on the same addresses. */
static uint64_t find_key(const cavmae__work *work) {
    const cavmae_trainer *t = work->trainer;
    const int flags[] = {work->update, work->drawn[0], work->drawn[1], work->features};
    const uint64_t key = cavmae__hash(t->rows_key, flags, sizeof flags);
    return cavmae__hash(key, &t->optimizer->groups_set, sizeof t->optimizer->groups_set);
}

/* Puts a batch on the device and its work under way. evaluation: keys an evaluation's masks. */
static cavmae_status start(cavmae_trainer *t, const cavmae_batch *batch, uint64_t evaluation, cavmae__work *work) {
    cavmae__backend *backend = t->model->backend;
    t->turn = (t->turn + 1) % t->turns;
    CAVMAE__TRY(cavmae__trainer_put_inputs(t, batch)); /* while the step before may be under way */
    CAVMAE__TRY(cavmae__trainer_finish(t));
    const uint64_t draw = work->backward ? (uint64_t)t->step : evaluation;
    work->update = work->backward && t->accumulated + 1 == t->options.accumulate;
    t->updating = work->update;
    t->count = 0; /* no outputs until all went well */
    CAVMAE__TRY(put_state(t, draw));
    CAVMAE__TRY(t->options.classes ? cavmae__head_put(work, batch, draw) : cavmae__pretrain_put(work, batch));
    CAVMAE__TRY(work->backward ? backend->ops->repeat(backend, &t->repeats[t->turn][t->accumulated > 0], find_key(work),
                                                      compute, work)
                               : compute(work));
    t->count = batch->count;
    return CAVMAE_OK;
}

/* The outcome of the last batch. */
static cavmae_status read_result(cavmae_trainer *t, cavmae_step_result *r) {
    cavmae__backend *backend = t->model->backend;
    double scalars[CAVMAE__SCALARS];
    CAVMAE__TRY(backend->ops->download(backend, scalars, t->network->scalars, sizeof scalars));
    *r = make_result(t, scalars);
    if (!isfinite(r->loss)) return explain_not_finite(t, "the loss", r->loss);
    const double norm = sqrt(scalars[CAVMAE__SUM_SQUARES]);
    if (t->updating && !isfinite(norm)) return explain_not_finite(t, "the gradient's norm", norm);
    if (!t->updating) return CAVMAE_OK;
    r->grad_norm = norm / (double)t->options.accumulate;
    r->lr = t->lr;
    r->updated = 1;
    return CAVMAE_OK;
}

/* Counts the step under way when it is known to be good. */
static cavmae_status finish(cavmae_trainer *t, cavmae_step_result *r) {
    t->under_way = 0;
    cavmae_status status = read_result(t, r);
    if (status != CAVMAE_OK) {
        t->accumulated = 0;
        return status;
    }
    t->accumulated = (t->accumulated + 1) % t->options.accumulate;
    if (t->updating) t->optimizer->updates++;
    r->step = ++t->step;
    t->last = *r;
    return CAVMAE_OK;
}

cavmae_status cavmae__trainer_finish(cavmae_trainer *t) {
    cavmae_step_result unused;
    return t->under_way ? finish(t, &unused) : CAVMAE_OK;
}

static cavmae_status take_step(cavmae_trainer *trainer, const cavmae_batch *batch, int head,
                               cavmae_step_result *result) {
    cavmae_batch own;
    cavmae_step_result r;
    cavmae_status status = CAVMAE_OK;
    if (!trainer) return cavmae__fail(CAVMAE_E_ARG, "trainer is NULL");
    if (!trainer->optimizer)
        return cavmae__fail(CAVMAE_E_STATE, "trainer: made without an optimizer, it only evaluates");
    CAVMAE__TRY_OUT(read_arguments(trainer, batch, head, result, &own));
    cavmae__work work = {.trainer = trainer, .count = own.count, .backward = 1};
    CAVMAE__TRY_OUT(start(trainer, &own, 0, &work));
    trainer->under_way = 1;
    if (!result && !trainer->model->backend->ops->host_memory) return CAVMAE_OK;
    CAVMAE__TRY_OUT(finish(trainer, &r));
    return result ? cavmae__record_out(result, &r, sizeof r) : CAVMAE_OK;
out:
    if (trainer->under_way) { /* the call itself was wrong; the step before it counts if it is good */
        const cavmae_status before = cavmae__trainer_finish(trainer);
        if (before != CAVMAE_OK) status = before;
    }
    trainer->accumulated = 0;
    return status;
}

static cavmae_status evaluate(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t batch_number, int head,
                              cavmae_step_result *result) {
    cavmae_batch own;
    cavmae_step_result r;
    if (!trainer) return cavmae__fail(CAVMAE_E_ARG, "trainer is NULL");
    CAVMAE__TRY(read_arguments(trainer, batch, head, result, &own));
    cavmae__work work = {.trainer = trainer, .count = own.count};
    CAVMAE__TRY(start(trainer, &own, evaluation_draws + (uint64_t)batch_number, &work));
    CAVMAE__TRY(read_result(trainer, &r));
    return result ? cavmae__record_out(result, &r, sizeof r) : CAVMAE_OK;
}

cavmae_status cavmae_pretrain_step(cavmae_trainer *trainer, const cavmae_batch *batch, cavmae_step_result *result) {
    return take_step(trainer, batch, 0, result);
}

cavmae_status cavmae_finetune_step(cavmae_trainer *trainer, const cavmae_batch *batch, cavmae_step_result *result) {
    return take_step(trainer, batch, 1, result);
}

cavmae_status cavmae_pretrain_evaluate(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t batch_number,
                                       cavmae_step_result *result) {
    return evaluate(trainer, batch, batch_number, 0, result);
}

cavmae_status cavmae_finetune_evaluate(cavmae_trainer *trainer, const cavmae_batch *batch, cavmae_step_result *result) {
    return evaluate(trainer, batch, 0, 1, result);
}

cavmae_status cavmae_trainer_result(cavmae_trainer *trainer, int32_t wait, cavmae_step_result *result) {
    cavmae_step_result unused;
    if (!trainer) return cavmae__fail(CAVMAE_E_ARG, "trainer is NULL");
    CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, result));
    if (wait) CAVMAE__TRY(cavmae__trainer_finish(trainer));
    return cavmae__record_out(result, &trainer->last, sizeof trainer->last);
}

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
    const cavmae__parameter *p = &t->model->list.items[i];
    return download_tensor(t, CAVMAE_FLOAT32, p->dims, p->shape, t->gradients + p->offset, out);
}
