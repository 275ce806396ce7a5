/* One batch through a model with a head: inputs or features, loss of the classes, gradients. */
#include <string.h>

#include "philox.h"
#include "trainer.h"

static cavmae_status check_labels(const cavmae_trainer *trainer, const cavmae_batch *batch, int backward) {
    const cavmae__options *o = &trainer->options;
    if (!batch->labels) return cavmae__fail(CAVMAE_E_ARG, "batch: labels are NULL");
    if (batch->classes != o->classes)
        return cavmae__fail(CAVMAE_E_SHAPE, "batch: labels of %d classes; the model's head has %lld", batch->classes,
                            (long long)o->classes);
    if (batch->features && backward && !o->freeze_base)
        return cavmae__fail(CAVMAE_E_ARG, "batch: features train the head alone (key freeze_base)");
    return CAVMAE_OK;
}

/* Which clips lose a modality: as masks, a function of seed, step and place in the batch of all ranks. */
static void draw_shown(cavmae_trainer *trainer, uint64_t draw, int32_t clips) {
    const cavmae__options *o = &trainer->options;
    for (int32_t i = 0; i < clips; i++) {
        cavmae__philox random =
            cavmae__philox_key((uint64_t)o->seed, CAVMAE__PURPOSE_MODALITY, draw, (uint64_t)(trainer->first + i));
        int alone = (double)cavmae__philox_uniform(&random, 0) < o->modality_dropout;
        int visual = cavmae__philox_uniform(&random, 1) >= 0.5f;
        trainer->shown[i] = !alone ? CAVMAE__SHOW_BOTH : visual ? CAVMAE__SHOW_VISUAL : CAVMAE__SHOW_AUDIO;
    }
}

cavmae_status cavmae__head_put(cavmae__work *work, uint64_t draw) {
    static const int32_t *const all[2] = {NULL, NULL};
    static const double none[CAVMAE__TOTALS] = {0};
    cavmae_trainer *trainer = work->trainer;
    const cavmae_batch *batch = work->batch;
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    if (!work->count) return cavmae__trainer_put_totals(work, none);
    CAVMAE__TRY(check_labels(trainer, batch, work->backward));
    work->features = batch->features != NULL;
    if (!batch->features && !trainer->network->extent.streams) { /* so far there were features only */
        const cavmae__extent extent = trainer->extent;
        CAVMAE__TRY(cavmae__trainer_reserve(trainer, &extent));
    }
    cavmae__network *n = trainer->network;
    int drop = trainer->shown && work->backward;
    /* A frozen encoder keeps nothing to go back with; the head's gradients come after it. */
    CAVMAE__TRY(cavmae__trainer_put_rows(trainer, 0, batch->count, all, work->backward && n->extent.backward));
    const double totals[CAVMAE__TOTALS] = {0, 0, batch->count};
    CAVMAE__TRY(cavmae__trainer_put_totals(work, totals));
    CAVMAE__TRY(backend->ops->upload(backend, trainer->labels, batch->labels,
                                     (size_t)(batch->count * o->classes) * sizeof(float)));
    if (batch->features) {
        n->head_rows = batch->count;
        return backend->ops->upload(backend, n->features, batch->features,
                                    (size_t)(batch->count * cavmae__head_width(o)) * sizeof(float));
    }
    if (drop) draw_shown(trainer, draw, batch->count);
    return cavmae__network_put_mode(n, (int32_t)o->mode, drop ? trainer->shown : NULL);
}

static cavmae_status encode(cavmae__network *n) {
    CAVMAE__TRY(cavmae__rows_index(&n->rows, &n->extent, &n->pass, 0));
    CAVMAE__TRY(cavmae__network_encode(n));
    CAVMAE__TRY(cavmae__network_pool(n));
    return cavmae__network_features(n);
}

cavmae_status cavmae__head_compute(cavmae__work *work) {
    const cavmae_trainer *trainer = work->trainer;
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    cavmae__network *n = trainer->network;
    if (!work->features) CAVMAE__TRY(encode(n));
    n->pass.gradients = work->backward ? trainer->gradients : NULL;
    CAVMAE__TRY(cavmae__network_logits(n));
    const cavmae__class_loss loss = {.rows = work->count,
                                     .classes = (int32_t)o->classes,
                                     .kind = (int32_t)o->loss,
                                     .logits = n->logits,
                                     .labels = trainer->labels,
                                     .total = n->totals + CAVMAE__TOTAL_CLIPS,
                                     .dlogits = work->backward ? n->d_logits : NULL,
                                     .loss = n->scalars + CAVMAE__LOSS_CLASS,
                                     .accuracy = n->scalars + CAVMAE__ACCURACY,
                                     .workspace = n->pass.workspace};
    CAVMAE__TRY(backend->ops->class_loss(backend, &loss));
    if (!work->backward) return CAVMAE_OK;
    n->pass.sink = work->update || work->rehearsal ? cavmae__exchange_sink(trainer->exchange) : NULL;
    CAVMAE__TRY(cavmae__head_backward(n));
    const int64_t first = n->pass.list->head_norm >= 0 ? n->pass.list->head_norm : n->pass.list->head;
    CAVMAE__TRY(cavmae__gradients_finished(&n->pass, first, n->pass.list->count - first));
    return n->extent.backward ? cavmae__network_backward(n) : CAVMAE_OK;
}
