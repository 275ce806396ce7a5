/* One batch through the network: inputs, masks, objective (paper eq. 7 to 10), gradients. */
#include <math.h>
#include <string.h>

#include "philox.h"
#include "trainer.h"

cavmae_status cavmae__trainer_check(cavmae_trainer *trainer, const cavmae_batch *batch) {
    static const char *const names[] = {"audio", "image"};
    const cavmae__options *o = &trainer->options;
    if (batch->count < 1 || batch->count > o->batch)
        return cavmae__fail(CAVMAE_E_SHAPE, "batch: %d clips; the trainer takes 1 to %lld (key batch)", batch->count,
                            (long long)o->batch);
    if (batch->frames > 1)
        return cavmae__fail(CAVMAE_E_ARG, "batch: %d frames of each clip; training takes one", batch->frames);
    const int uses[2] = {cavmae__trainer_uses(o, 0) && !batch->features,
                         cavmae__trainer_uses(o, 1) && !batch->features};
    for (int m = 0; m < 2; m++)
        if (uses[m] && !cavmae__has_input(batch, m))
            return cavmae__fail(CAVMAE_E_ARG, "batch: %s is NULL, and %s that modality", names[m],
                                o->classes ? "the mode uses" : "the model has");
    CAVMAE__TRY(cavmae__check_raw_inputs(o, batch, uses, "batch"));
    for (int32_t i = 0; i < batch->count; i++) {
        int64_t frames = cavmae__batch_frames(o, batch, i);
        if (uses[0] && (frames < o->patch_size || frames > o->audio_frames || frames % o->patch_size))
            return cavmae__fail(CAVMAE_E_SHAPE,
                                "batch: clip %d has %lld frames; a multiple of %lld up to %lld is needed", i,
                                (long long)frames, (long long)o->patch_size, (long long)o->audio_frames);
        trainer->columns[0][i] = uses[0] ? (int32_t)(frames / o->patch_size) : 0;
        trainer->columns[1][i] = uses[1] ? (int32_t)(o->image_size / o->patch_size) : 0;
    }
    return CAVMAE_OK;
}

static int32_t grid_rows(const cavmae__options *o, int m) {
    return (int32_t)((m ? o->image_size : o->mel_bins) / o->patch_size);
}

/* How many tokens stay, as the reference truncates: int(L * (1 - ratio)), in double. */
static int32_t kept_tokens(int32_t tokens, double ratio) { return (int32_t)((double)tokens * (1 - ratio)); }

/* Where masks come from: the caller, or a draw for all clips at once (equal grids), clip by clip, or over both
 * modalities together. Counts are known before anything is drawn, except in the last case. */
static cavmae_status count_given(cavmae_trainer *trainer, int m, const uint8_t *mask, int32_t clips, int64_t *removed) {
    for (int32_t i = 0; i < clips; i++) {
        int32_t tokens = trainer->columns[m][i] * grid_rows(&trainer->options, m), kept = 0;
        for (int32_t t = 0; t < tokens; t++) kept += mask[t] == 0;
        mask += tokens;
        trainer->kept[m][i] = kept;
        *removed += tokens - kept;
    }
    return CAVMAE_OK;
}

static cavmae_status draw_range(const cavmae_trainer *trainer, int m, int32_t first, int32_t clips, int32_t columns,
                                int64_t token, uint8_t *mask) {
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    double ratio = m ? o->mask_ratio_v : o->mask_ratio_a;
    const cavmae__draw_masks masks = {.seed = (uint64_t)o->seed,
                                      .step = &trainer->state->draw,
                                      .purpose = m ? CAVMAE__PURPOSE_MASK_V : CAVMAE__PURPOSE_MASK_A,
                                      .mode = (int32_t)(m ? o->mask_mode_v : o->mask_mode_a),
                                      .first = first,
                                      .clips = clips,
                                      .rows = grid_rows(o, m),
                                      .columns = columns,
                                      .keep = trainer->kept[m][first],
                                      .ratio = ratio,
                                      .mask = mask + token,
                                      .workspace = trainer->network->pass.workspace};
    return backend->ops->draw_masks(backend, &masks);
}

/* Runs of clips with equal grids are drawn in one call. */
static cavmae_status draw_modality(const cavmae_trainer *trainer, int m, int32_t clips, uint8_t *mask) {
    int64_t token = 0;
    for (int32_t i = 0; i < clips;) {
        int32_t first = i, columns = trainer->columns[m][i];
        while (i < clips && trainer->columns[m][i] == columns) i++;
        CAVMAE__TRY(draw_range(trainer, m, first, i - first, columns, token, mask));
        token += (int64_t)(i - first) * columns * grid_rows(&trainer->options, m);
    }
    return CAVMAE_OK;
}

/* mask_domain joint: one draw over each clip's audio and visual tokens together, split into the two masks. */
static cavmae_status draw_joint(cavmae_trainer *trainer, int32_t clips, uint8_t *both) {
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    int64_t all[2] = {0, 0}, done[2] = {0, 0};
    for (int m = 0; m < 2; m++)
        for (int32_t i = 0; i < clips; i++) all[m] += trainer->columns[m][i] * grid_rows(o, m);
    uint8_t *scratch = both + all[0] + all[1];
    for (int32_t i = 0; i < clips; i++) {
        int32_t tokens[2] = {trainer->columns[0][i] * grid_rows(o, 0), trainer->columns[1][i] * grid_rows(o, 1)},
                sum = tokens[0] + tokens[1];
        const cavmae__draw_masks masks = {.seed = (uint64_t)o->seed,
                                          .step = &trainer->state->draw,
                                          .purpose = CAVMAE__PURPOSE_MASK_JOINT,
                                          .first = i,
                                          .clips = 1,
                                          .rows = 1,
                                          .columns = sum,
                                          .keep = kept_tokens(sum, o->mask_ratio_a),
                                          .ratio = o->mask_ratio_a,
                                          .mask = trainer->network->rows.mask[0],
                                          .workspace = trainer->network->pass.workspace};
        CAVMAE__TRY(backend->ops->draw_masks(backend, &masks));
        CAVMAE__TRY(backend->ops->download(backend, scratch, masks.mask, (size_t)sum));
        memcpy(both + done[0], scratch, (size_t)tokens[0]);
        memcpy(both + all[0] + done[1], scratch + tokens[0], (size_t)tokens[1]);
        for (int m = 0; m < 2; m++) done[m] += tokens[m];
    }
    return CAVMAE_OK;
}

/* Masks of modality m to the device, however they come about; counts in trainer->kept. removed[m]: of the whole
 * batch. */
static cavmae_status prepare_counts(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t removed[2]) {
    const cavmae__options *o = &trainer->options;
    const uint8_t *given[2] = {batch->mask_a, batch->mask_v};
    int64_t tokens[2] = {0, 0};
    removed[0] = removed[1] = 0;
    for (int m = 0; m < 2; m++)
        for (int32_t i = 0; i < batch->count; i++) tokens[m] += (int64_t)trainer->columns[m][i] * grid_rows(o, m);
    if (o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT && !given[0] && !given[1]) {
        CAVMAE__TRY(draw_joint(trainer, batch->count, trainer->mask_host));
        CAVMAE__TRY(count_given(trainer, 0, trainer->mask_host, batch->count, &removed[0]));
        return count_given(trainer, 1, trainer->mask_host + tokens[0], batch->count, &removed[1]);
    }
    for (int m = 0; m < 2; m++) {
        if (given[m]) {
            CAVMAE__TRY(count_given(trainer, m, given[m], batch->count, &removed[m]));
            continue;
        }
        for (int32_t i = 0; i < batch->count; i++)
            trainer->kept[m][i] =
                kept_tokens(trainer->columns[m][i] * grid_rows(o, m), m ? o->mask_ratio_v : o->mask_ratio_a);
        for (int32_t i = 0; i < batch->count; i++)
            removed[m] += trainer->columns[m][i] * grid_rows(o, m) - trainer->kept[m][i];
    }
    return CAVMAE_OK;
}

static cavmae_status check_counts(const cavmae_trainer *trainer, int32_t clips, const int64_t removed[2],
                                  int backward) {
    static const char *const names[] = {"audio", "visual"};
    const cavmae__options *o = &trainer->options;
    for (int m = 0; m < 2; m++) {
        if (!cavmae__has_modality(o, m)) continue;
        /* an evaluation may complete one modality from the whole of the other */
        if (o->mae_weight > 0 && removed[m] == 0 && (backward || removed[!m] == 0))
            return cavmae__fail(CAVMAE_E_ARG,
                                "batch: no %s token is masked, so there is nothing to reconstruct (mask_ratio_%c)",
                                names[m], names[m][0]);
        for (int32_t i = 0; i < clips && o->mask_domain == CAVMAE__MASK_DOMAIN_MODALITY; i++)
            if (trainer->kept[m][i] < 1)
                return cavmae__fail(CAVMAE_E_ARG, "batch: clip %d keeps no %s token", i, names[m]);
    }
    return CAVMAE_OK;
}

/* Room for the caller's masks, should they keep more than the plan was made for. */
static cavmae_status reserve(cavmae_trainer *trainer, int32_t clips) {
    cavmae__extent extent = trainer->extent;
    int grow = 0;
    for (int m = 0; m < 2; m++) {
        int64_t visible = 0;
        for (int32_t i = 0; i < clips; i++) visible += trainer->kept[m][i];
        if (visible > extent.visible[m]) {
            extent.visible[m] = visible;
            grow = 1;
        }
    }
    return grow ? cavmae__trainer_reserve(trainer, &extent) : CAVMAE_OK;
}

static cavmae_status put_masks(cavmae__work *work, const cavmae_batch *batch) {
    const cavmae_trainer *trainer = work->trainer;
    cavmae__network *n = trainer->network;
    cavmae__backend *backend = trainer->model->backend;
    const uint8_t *host[2] = {batch->mask_a, batch->mask_v};
    if (trainer->options.mask_domain == CAVMAE__MASK_DOMAIN_JOINT && !host[0] && !host[1]) {
        host[0] = trainer->mask_host;
        host[1] = trainer->mask_host + n->rows.token_rows[0];
    }
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        work->drawn[m] = !host[m];
        if (host[m])
            CAVMAE__TRY(backend->ops->upload(backend, n->rows.mask[m], host[m], (size_t)n->rows.token_rows[m]));
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__trainer_put_inputs(cavmae_trainer *trainer, const cavmae_batch *batch) {
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    const float *host[2] = {batch->audio, batch->image};
    int64_t elements[2] = {0, batch->count * o->image_channels * o->image_size * o->image_size};
    if (batch->features) return CAVMAE_OK;
    for (int32_t i = 0; i < batch->count; i++) elements[0] += trainer->columns[0][i] * o->patch_size * o->mel_bins;
    for (int m = 0; m < 2; m++) {
        if (!elements[m] || !cavmae__trainer_uses(o, m)) continue;
        if (cavmae__is_raw(batch, m)) {
            CAVMAE__TRY(cavmae__raw_inputs_put(&trainer->raw[trainer->turn], trainer->model, batch, m, 0, batch->count,
                                               trainer->input[trainer->turn][m]));
            continue;
        }
        CAVMAE__TRY(backend->ops->upload_ahead(backend, trainer->input[trainer->turn][m], host[m],
                                               (size_t)elements[m] * sizeof(float)));
    }
    return CAVMAE_OK;
}

uint64_t cavmae__hash(uint64_t h, const void *data, size_t size) {
    for (size_t i = 0; i < size; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return h;
}

/* Batches of one key have the same rows in the same buffers. */
static uint64_t find_rows_key(const cavmae_trainer *trainer, const cavmae_batch *batch,
                              const int32_t *const visible[2]) {
    const size_t lists = (size_t)batch->count * sizeof(int32_t);
    uint64_t h = cavmae__hash(0xcbf29ce484222325u, &trainer->generation, sizeof trainer->generation);
    h = cavmae__hash(h, &batch->count, sizeof batch->count);
    for (int m = 0; m < 2; m++) {
        h = cavmae__hash(h, trainer->columns[m], lists);
        if (visible[m]) h = cavmae__hash(h, visible[m], lists);
    }
    return h;
}

cavmae_status cavmae__trainer_put_rows(cavmae_trainer *trainer, const cavmae_batch *batch,
                                       const int32_t *const visible[2], int backward) {
    const cavmae__options *o = &trainer->options;
    cavmae__network *n = trainer->network;
    n->pass.gradients = backward ? trainer->gradients : NULL;
    n->pass.has_gradient = trainer->has_gradient;
    n->pass.accumulate = trainer->accumulated > 0;
    for (int m = 0; m < 2; m++) n->source[m].data = trainer->input[trainer->turn][m];
    const uint64_t key = find_rows_key(trainer, batch, visible);
    if (key == trainer->rows_key) return CAVMAE_OK;
    trainer->rows_key = 0;
    cavmae__batch_rows rows = {.clips = batch->count, .pictures = 1};
    for (int m = 0; m < 2; m++) {
        rows.columns[m] = trainer->columns[m];
        rows.visible[m] = visible[m];
        rows.grid_rows[m] = grid_rows(o, m);
        rows.table_columns[m] = (int32_t)((m ? o->image_size : o->audio_frames) / o->patch_size);
    }
    rows.clip_stride[0] = o->patch_size * o->mel_bins;
    rows.clip_stride[1] = o->image_channels * o->image_size * o->patch_size;
    CAVMAE__TRY(cavmae__network_batch(n, &rows));
    trainer->rows_key = key;
    return CAVMAE_OK;
}

static cavmae_status contrast(const cavmae_trainer *trainer, int32_t clips) {
    cavmae__network *n = trainer->network;
    const cavmae__options *o = &trainer->options;
    const cavmae__contrastive loss = {.count = clips,
                                      .width = (int32_t)o->embed_dim,
                                      .direction = (int32_t)o->contrast_direction,
                                      .temperature = o->contrast_temperature,
                                      .weight = o->contrast_weight,
                                      .a = n->pooled[1],
                                      .v = n->pooled[2],
                                      .da = n->pass.gradients ? n->d_pooled[1] : NULL,
                                      .dv = n->pass.gradients ? n->d_pooled[2] : NULL,
                                      .loss = n->scalars + CAVMAE__LOSS_C,
                                      .accuracy = n->scalars + CAVMAE__ACCURACY,
                                      .workspace = n->pass.workspace};
    return n->pass.backend->ops->contrastive(n->pass.backend, &loss);
}

cavmae_status cavmae__pretrain_put(cavmae__work *work, const cavmae_batch *batch) {
    cavmae_trainer *trainer = work->trainer;
    CAVMAE__TRY(prepare_counts(trainer, batch, work->removed));
    CAVMAE__TRY(check_counts(trainer, batch->count, work->removed, work->backward));
    CAVMAE__TRY(reserve(trainer, batch->count));
    const int32_t *const kept[2] = {trainer->kept[0], trainer->kept[1]};
    CAVMAE__TRY(cavmae__trainer_put_rows(trainer, batch, kept, work->backward));
    return put_masks(work, batch);
}

cavmae_status cavmae__pretrain_compute(const cavmae__work *work) {
    const cavmae_trainer *trainer = work->trainer;
    const cavmae__options *o = &trainer->options;
    cavmae__network *n = trainer->network;
    for (int m = 0; m < 2; m++)
        if (work->drawn[m]) CAVMAE__TRY(draw_modality(trainer, m, work->count, n->rows.mask[m]));
    CAVMAE__TRY(cavmae__rows_index(&n->rows, &n->extent, &n->pass, 1));
    CAVMAE__TRY(cavmae__network_encode(n));
    if (n->extent.pool) {
        CAVMAE__TRY(cavmae__network_pool(n));
        CAVMAE__TRY(contrast(trainer, work->count));
    }
    if (n->extent.decode)
        CAVMAE__TRY(cavmae__network_decode(n, work->removed, o->mae_weight, (int32_t)o->norm_pix_loss));
    return work->backward ? cavmae__network_backward(n) : CAVMAE_OK;
}
