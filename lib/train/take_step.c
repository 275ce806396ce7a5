/* A step of training: what is computed, put under way, and waited for; and an evaluation, which is its first half. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "record.h"
#include "trainer.h"

/* Masks of evaluations never coincide with those of training steps. */
static const uint64_t evaluation_draws = (uint64_t)1 << 62;

static cavmae_step_result make_result(const cavmae_trainer *t, const double scalars[CAVMAE__SCALARS]) {
    const cavmae__options *o = &t->options;
    cavmae_step_result r = {0};
    r.loss_mae_a = scalars[CAVMAE__LOSS_MAE_A];
    r.loss_mae_v = scalars[CAVMAE__LOSS_MAE_V];
    r.loss_mae = o->mae_weight * (r.loss_mae_a + r.loss_mae_v);
    r.loss_c = o->contrast_weight * scalars[CAVMAE__LOSS_C];
    r.accuracy = scalars[CAVMAE__ACCURACY];
    r.loss = o->classes ? scalars[CAVMAE__LOSS_CLASS] : r.loss_mae + (t->extent.pool ? r.loss_c : 0);
    r.pairs = t->extent.pool && !o->classes ? cavmae__contrast_pairs(&t->contrast, t->world_count) : 0;
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
    const int head_alone = own->features || (!own->count && trainer->options.freeze_base);
    return head_alone ? cavmae__trainer_reserve_head(trainer) : cavmae__trainer_reserve(trainer, &extent);
}

/* ---- A step: what is computed, put under way, and waited for ---- */

/* What a gradient is multiplied by: the mean over accumulated batches; and the sum over shards, where that is wanted
 * instead of the mean over clips (loss_reduce). */
static double gradient_scale(const cavmae_trainer *t) {
    const cavmae__options *o = &t->options;
    const int64_t shards = o->contrast_shards ? o->contrast_shards : cavmae_world_size(t->world);
    return (o->loss_reduce == CAVMAE__LOSS_SUM ? (double)shards : 1) / (double)o->accumulate;
}

cavmae_status cavmae__trainer_put_totals(const cavmae__work *work, const double totals[CAVMAE__TOTALS]) {
    cavmae__backend *backend = work->trainer->model->backend;
    return backend->ops->upload(backend, work->trainer->network->totals, totals, CAVMAE__TOTALS * sizeof *totals);
}

/* The first collective of a step, by which ranks see that they take the same one. */
static cavmae_status add_totals(const cavmae__work *work) {
    cavmae_trainer *t = work->trainer;
    cavmae__collective c = {
        .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT64, .data = t->network->totals, .count = CAVMAE__TOTALS};
    if (!t->world) return CAVMAE_OK;
    if (work->backward)
        snprintf(c.what, sizeof c.what, "step %lld of %d clips, update %d, optimizer %x", (long long)t->step + 1,
                 (int)t->world_count, work->update, (unsigned)cavmae__optimizer_hash(t->optimizer));
    else
        snprintf(c.what, sizeof c.what, "step of evaluation %lld of %d clips",
                 (long long)(work->evaluation - evaluation_draws), (int)t->world_count);
    return cavmae__world_run(t->world, &c);
}

/* The first `count` scalars, over all ranks. */
static cavmae_status begin_scalars(const cavmae_trainer *t, int32_t count) {
    const cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE,
                                  .dtype = CAVMAE_FLOAT64,
                                  .data = t->network->scalars,
                                  .count = count,
                                  .what = "losses"};
    return t->world ? cavmae__world_begin(t->world, &c) : CAVMAE_OK;
}

/* Mean gradient over the accumulated batches, its norm, clipping, Adam; nothing of it where a number is not finite. In a
 * world that is where a number of any rank is not; with shards this rank's pieces alone have a norm, and are updated. */
static cavmae_status update(cavmae_trainer *t) {
    cavmae__backend *backend = t->model->backend;
    cavmae__network *n = t->network;
    const cavmae__pieces *pieces = &t->optimizer->pieces;
    cavmae__sum_squares squares = {.count = pieces->total,
                                   .x = t->gradients,
                                   .sum = n->scalars + CAVMAE__SUM_SQUARES,
                                   .workspace = n->pass.workspace};
    const cavmae__adam adam = {.clip_norm = t->options.clip_norm,
                               .update = &t->state->update,
                               .sum_squares = squares.sum,
                               .guard = n->scalars,
                               .guards = CAVMAE__SCALARS};
    if (t->exchange) {
        if (!pieces->sharded) CAVMAE__TRY(begin_scalars(t, CAVMAE__SUM_SQUARES));
        CAVMAE__TRY(cavmae__exchange_finish(t->exchange));
        squares.x = cavmae__exchange_sums(t->exchange);
        /* what every rank has counts once */
        if (cavmae_world_rank(t->world) > 0 && pieces->sharded) squares.count = pieces->parts;
    }
    CAVMAE__TRY(backend->ops->sum_squares(backend, &squares));
    if (pieces->sharded) {
        CAVMAE__TRY(begin_scalars(t, CAVMAE__SCALARS));
        CAVMAE__TRY(cavmae__world_wait(t->world));
    }
    CAVMAE__TRY(cavmae__optimizer_update(t->optimizer, squares.x, t->has_gradient, &adam));
    return t->exchange ? cavmae__exchange_parameters(t->exchange) : CAVMAE_OK;
}

static cavmae_status compute_clips(cavmae__work *work) {
    return work->trainer->options.classes ? cavmae__head_compute(work) : cavmae__pretrain_compute(work);
}

static cavmae_status zero_gradients(const cavmae_trainer *t) {
    return t->model->backend->ops->zero(t->model->backend, t->gradients,
                                        (size_t)t->model->list.flat_elements * sizeof(float));
}

/* This rank's part in a batch of which it has no clips. */
static cavmae_status compute_nothing(const cavmae__work *work) {
    cavmae_trainer *t = work->trainer;
    if (work->backward && !t->accumulated) CAVMAE__TRY(zero_gradients(t));
    CAVMAE__TRY(cavmae__pretrain_without_clips(work));
    return work->update ? cavmae__exchange_without_pass(t->exchange) : CAVMAE_OK;
}

static cavmae_status compute(void *arg) {
    cavmae__work *work = arg;
    cavmae_trainer *t = work->trainer;
    cavmae__backend *backend = t->model->backend;
    CAVMAE__TRY(backend->ops->zero(backend, t->network->scalars, CAVMAE__SCALARS * sizeof *t->network->scalars));
    if (work->rehearsal) return compute_clips(work);
    CAVMAE__TRY(add_totals(work));
    if (work->update && t->exchange) cavmae__exchange_start(t->exchange, t->step + 1);
    CAVMAE__TRY(work->count ? compute_clips(work) : compute_nothing(work));
    if (work->update) return update(t);
    CAVMAE__TRY(begin_scalars(t, CAVMAE__SUM_SQUARES));
    return t->world ? cavmae__world_wait(t->world) : CAVMAE_OK;
}

static cavmae_status put_state(cavmae_trainer *t, uint64_t draw) {
    cavmae__backend *backend = t->model->backend;
    cavmae__step_state state = {.draw = draw};
    if (t->optimizer) {
        t->lr = cavmae_optimizer_lr(t->optimizer);
        state.update =
            (cavmae__update){.lr = t->lr, .grad_scale = gradient_scale(t), .number = t->optimizer->updates + 1};
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

/* Work of a world, and chunk by chunk, is more than operations on the device. */
static int can_repeat(const cavmae__work *work) {
    return work->backward && !work->trainer->world && work->count <= work->trainer->chunk;
}

/* Puts a batch on the device and its work under way. */
static cavmae_status start(cavmae__work *work) {
    cavmae_trainer *t = work->trainer;
    cavmae__backend *backend = t->model->backend;
    t->turn = (t->turn + 1) % t->turns;
    CAVMAE__TRY(cavmae__trainer_put_inputs(t, work->batch)); /* while the step before may be under way */
    CAVMAE__TRY(cavmae__trainer_finish(t));
    t->computed = t->turn;
    const uint64_t draw = work->backward ? (uint64_t)t->step : work->evaluation;
    work->update = work->backward && t->accumulated + 1 == t->options.accumulate;
    t->updating = work->update;
    t->count = 0; /* no outputs until all went well */
    CAVMAE__TRY(put_state(t, draw));
    CAVMAE__TRY(t->options.classes ? cavmae__head_put(work, draw) : cavmae__pretrain_put(work));
    CAVMAE__TRY(can_repeat(work) ? backend->ops->repeat(backend, &t->repeats[t->turn][t->accumulated > 0],
                                                        find_key(work), compute, work)
                                 : compute(work));
    t->count = work->count;
    return CAVMAE_OK;
}

/* A pass on a clip of zeros, of which nothing stays but what it shows: which parameters have gradients, and in which order
 * they are finished. In a world every rank has to know, before its first share, which may be without clips. */
cavmae_status cavmae__trainer_rehearse(cavmae_trainer *t) {
    cavmae_batch zeros;
    float *memory = NULL;
    cavmae__work work = {.trainer = t, .batch = &zeros, .count = 1, .backward = 1, .rehearsal = 1};
    if (!t->network) CAVMAE__TRY(cavmae__trainer_reserve_head(t));
    CAVMAE__TRY(cavmae__stand_in_create(t, &zeros, &memory));
    cavmae__exchange_rehearse(t->exchange);
    cavmae_status status = start(&work);
    cavmae__free(t->model->context, memory);
    t->count = 0;
    if (status == CAVMAE_OK) status = zero_gradients(t);
    memcpy(t->exchange->known_gradients, t->has_gradient, (size_t)t->model->list.count);
    return status;
}

/* The outcome of the last batch. */
static cavmae_status read_result(cavmae_trainer *t, cavmae_step_result *r) {
    cavmae__backend *backend = t->model->backend;
    double scalars[CAVMAE__SCALARS];
    CAVMAE__TRY(backend->ops->download(backend, scalars, t->network->scalars, sizeof scalars));
    if (t->world) CAVMAE__TRY(cavmae__world_check(t->world));
    *r = make_result(t, scalars);
    if (!isfinite(r->loss)) return cavmae__explain_not_finite(t, "the loss", r->loss);
    const double norm = sqrt(scalars[CAVMAE__SUM_SQUARES]);
    if (t->updating && !isfinite(norm)) return cavmae__explain_not_finite(t, "the gradient's norm", norm);
    if (!t->updating) return CAVMAE_OK;
    r->grad_norm = norm * gradient_scale(t);
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
    cavmae__world_new_step(trainer->world);
    if (!trainer->optimizer)
        CAVMAE__TRY_OUT(cavmae__fail(CAVMAE_E_STATE, "trainer: made without an optimizer, it only evaluates"));
    CAVMAE__TRY_OUT(read_arguments(trainer, batch, head, result, &own));
    cavmae__work work = {.trainer = trainer, .batch = &own, .count = own.count, .backward = 1};
    CAVMAE__TRY_OUT(start(&work));
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
    return cavmae__world_told(trainer->world, status);
}

static cavmae_status evaluate(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t batch_number, int head,
                              cavmae_step_result *result) {
    cavmae_batch own;
    cavmae_step_result r;
    if (!trainer) return cavmae__fail(CAVMAE_E_ARG, "trainer is NULL");
    cavmae__world_new_step(trainer->world);
    cavmae_status status = read_arguments(trainer, batch, head, result, &own);
    cavmae__work work = {
        .trainer = trainer, .batch = &own, .count = own.count, .evaluation = evaluation_draws + (uint64_t)batch_number};
    if (status == CAVMAE_OK) status = start(&work);
    if (status == CAVMAE_OK) status = read_result(trainer, &r);
    if (status != CAVMAE_OK) return cavmae__world_told(trainer->world, status);
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
