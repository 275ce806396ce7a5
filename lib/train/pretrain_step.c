/* One batch through the network with masks: objective (paper eq. 7 to 10) and gradients; at once, or chunk by chunk. */
#include <string.h>

#include "trainer.h"

/* ---- Before: what a batch needs on the device ---- */

static int is_chunked(const cavmae__work *work) { return work->count > work->trainer->chunk; }

static int32_t chunk_end(const cavmae__work *work, int32_t from) {
    return work->count - from < work->trainer->chunk ? work->count : from + work->trainer->chunk;
}

/* Room for the caller's masks, should they keep more than the plan was made for. */
static cavmae_status reserve(const cavmae__work *work) {
    cavmae_trainer *trainer = work->trainer;
    cavmae__extent extent = trainer->extent;
    int grow = 0;
    for (int32_t from = 0; from < work->count; from = chunk_end(work, from)) {
        for (int m = 0; m < 2; m++) {
            int64_t visible = 0;
            for (int32_t i = from; i < chunk_end(work, from); i++) visible += trainer->kept[m][i];
            if (visible > extent.visible[m]) {
                extent.visible[m] = visible;
                grow = 1;
            }
        }
    }
    return grow ? cavmae__trainer_reserve(trainer, &extent) : CAVMAE_OK;
}

static int64_t tokens_before(const cavmae_trainer *t, int m, int32_t clip) {
    int64_t columns = 0;
    for (int32_t i = 0; i < clip; i++) columns += t->columns[m][i];
    return columns * cavmae__grid_rows(&t->options, m);
}

/* Masks that are known, of clips from `from` on; the others are drawn. */
static cavmae_status put_masks(cavmae__work *work, int32_t from) {
    const cavmae_trainer *trainer = work->trainer;
    cavmae__network *n = trainer->network;
    cavmae__backend *backend = trainer->model->backend;
    const uint8_t *host[2] = {work->batch->mask_a, work->batch->mask_v};
    if (trainer->options.mask_domain == CAVMAE__MASK_DOMAIN_JOINT && !host[0] && !host[1]) {
        host[0] = trainer->mask_host;
        host[1] = trainer->mask_host + tokens_before(trainer, 0, work->count);
    }
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        work->drawn[m] = !host[m];
        if (host[m])
            CAVMAE__TRY(backend->ops->upload(backend, n->rows.mask[m], host[m] + tokens_before(trainer, m, from),
                                             (size_t)n->rows.token_rows[m]));
    }
    return CAVMAE_OK;
}

static cavmae_status put_range(cavmae__work *work, int32_t from, int32_t end, int backward) {
    cavmae_trainer *trainer = work->trainer;
    const int32_t *const kept[2] = {trainer->kept[0], trainer->kept[1]};
    CAVMAE__TRY(cavmae__trainer_put_rows(trainer, from, end - from, kept, backward));
    return put_masks(work, from);
}

cavmae_status cavmae__pretrain_put(cavmae__work *work) {
    static const double none[CAVMAE__TOTALS] = {0};
    cavmae_trainer *trainer = work->trainer;
    if (trainer->extent.pool)
        CAVMAE__TRY(cavmae__contrast_put(&trainer->contrast, trainer->model, trainer->world_count));
    if (!work->count) return cavmae__trainer_put_totals(work, none);
    CAVMAE__TRY(cavmae__count_tokens(trainer, work->batch, work->removed));
    CAVMAE__TRY(cavmae__check_counts(trainer, work->count, work->removed, work->backward));
    CAVMAE__TRY(reserve(work));
    const double totals[CAVMAE__TOTALS] = {(double)work->removed[0], (double)work->removed[1], (double)work->count};
    CAVMAE__TRY(cavmae__trainer_put_totals(work, totals));
    return is_chunked(work) ? CAVMAE_OK : put_range(work, 0, work->count, work->backward);
}

/* ---- Computing ---- */

/* Encoders and means of clips from .. end - 1, whose rows are put. */
static cavmae_status encode(const cavmae__work *work, int32_t from, int32_t end) {
    const cavmae_trainer *trainer = work->trainer;
    cavmae__network *n = trainer->network;
    for (int m = 0; m < 2; m++)
        if (work->drawn[m]) CAVMAE__TRY(cavmae__draw_modality(trainer, m, from, end - from, n->rows.mask[m]));
    CAVMAE__TRY(cavmae__rows_index(&n->rows, &n->extent, &n->pass, 1));
    CAVMAE__TRY(cavmae__network_encode(n));
    return n->extent.pool ? cavmae__network_pool(n) : CAVMAE_OK;
}

/* Means of clips from .. end - 1 to where the loss wants them (gradient 0), or their gradients from there (1). */
static cavmae_status move_means(const cavmae__work *work, int32_t from, int32_t end, int gradient) {
    const cavmae_trainer *trainer = work->trainer;
    const cavmae__network *n = trainer->network;
    cavmae__backend *backend = trainer->model->backend;
    const int64_t width = trainer->options.embed_dim;
    for (int m = 0; m < 2; m++) {
        float *all = cavmae__contrast_own(&trainer->contrast, n, m, gradient) + from * width;
        float *range = gradient ? n->d_pooled[1 + m] : n->pooled[1 + m];
        const cavmae__convert copy = {.count = (end - from) * width,
                                      .x_dtype = CAVMAE_FLOAT32,
                                      .y_dtype = CAVMAE_FLOAT32,
                                      .x = gradient ? all : range,
                                      .y = gradient ? range : all};
        if (all != range) CAVMAE__TRY(backend->ops->convert(backend, &copy));
    }
    return CAVMAE_OK;
}

static cavmae_status contrast(const cavmae__work *work) {
    cavmae_trainer *trainer = work->trainer;
    if (!trainer->extent.pool) return CAVMAE_OK;
    return cavmae__contrast_compute(&trainer->contrast, trainer->network, &trainer->options, trainer->first,
                                    work->count, trainer->world_count, work->backward);
}

/* In a rehearsal a clip is contrasted with nothing. */
static cavmae_status zero_gradients_of_means(const cavmae__work *work) {
    cavmae__backend *backend = work->trainer->model->backend;
    const size_t size = (size_t)(work->count * work->trainer->options.embed_dim) * sizeof(float);
    for (int m = 0; m < 2; m++) CAVMAE__TRY(backend->ops->zero(backend, work->trainer->network->d_pooled[1 + m], size));
    return CAVMAE_OK;
}

/* From the encoders' outputs of a range on. */
static cavmae_status decode_and_back(const cavmae__work *work, const int64_t removed[2], int last) {
    const cavmae_trainer *trainer = work->trainer;
    const cavmae__options *o = &trainer->options;
    cavmae__network *n = trainer->network;
    if (n->extent.decode) CAVMAE__TRY(cavmae__network_decode(n, removed, o->mae_weight, (int32_t)o->norm_pix_loss));
    n->pass.sink = (work->update && last) || work->rehearsal ? cavmae__exchange_sink(trainer->exchange) : NULL;
    return work->backward ? cavmae__network_backward(n) : CAVMAE_OK;
}

static void count_removed(const cavmae_trainer *t, int32_t from, int32_t end, int64_t removed[2]) {
    for (int m = 0; m < 2; m++) {
        removed[m] = 0;
        for (int32_t i = from; i < end; i++)
            removed[m] += t->columns[m][i] * cavmae__grid_rows(&t->options, m) - t->kept[m][i];
    }
}

/* A contrastive batch in two passes: the means of all chunks first, without keeping anything to go back with; then, with
 * the loss's gradients of these, each chunk again, to the end. Masks are the same again, as they are drawn by the clip's
 * place in the batch. Without a loss over the means one pass is enough, as it is in an evaluation. */
static cavmae_status compute_chunks(cavmae__work *work) {
    cavmae_trainer *trainer = work->trainer;
    const int twice = trainer->extent.pool && work->backward;
    int64_t removed[2];
    for (int32_t from = 0, end; twice && from < work->count; from = end) {
        end = chunk_end(work, from);
        CAVMAE__TRY(put_range(work, from, end, 0));
        CAVMAE__TRY(encode(work, from, end));
        CAVMAE__TRY(move_means(work, from, end, 0));
    }
    if (twice) CAVMAE__TRY(contrast(work));
    for (int32_t from = 0, end; from < work->count; from = end) {
        end = chunk_end(work, from);
        CAVMAE__TRY(put_range(work, from, end, work->backward));
        CAVMAE__TRY(encode(work, from, end));
        if (trainer->extent.pool) CAVMAE__TRY(move_means(work, from, end, twice));
        count_removed(trainer, from, end, removed);
        CAVMAE__TRY(decode_and_back(work, removed, end == work->count));
    }
    return twice ? CAVMAE_OK : contrast(work);
}

cavmae_status cavmae__pretrain_compute(cavmae__work *work) {
    cavmae_trainer *trainer = work->trainer;
    if (is_chunked(work)) return compute_chunks(work);
    CAVMAE__TRY(encode(work, 0, work->count));
    if (trainer->extent.pool && work->rehearsal) {
        CAVMAE__TRY(zero_gradients_of_means(work));
    } else if (trainer->extent.pool) {
        CAVMAE__TRY(move_means(work, 0, work->count, 0));
        CAVMAE__TRY(contrast(work));
        if (work->backward) CAVMAE__TRY(move_means(work, 0, work->count, 1));
    }
    return decode_and_back(work, work->removed, 1);
}

cavmae_status cavmae__pretrain_without_clips(const cavmae__work *work) {
    return work->trainer->options.classes ? CAVMAE_OK : contrast(work);
}
