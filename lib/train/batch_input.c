/* A batch on its way to the device: what it must be, its inputs, and the rows of the clips that are computed at once. */
#include <string.h>

#include "trainer.h"

/* The clips of rank r of the world's batch. */
static int32_t share_begin(const cavmae_trainer *t, int32_t rank) {
    return (int32_t)((int64_t)t->world_count * rank / cavmae_world_size(t->world));
}

static cavmae_status check_share(cavmae_trainer *t, const cavmae_batch *batch) {
    const int32_t rank = cavmae_world_rank(t->world), size = cavmae_world_size(t->world);
    const int64_t count = batch->world_count ? batch->world_count : (int64_t)batch->count * size;
    if (count < 1 || count > t->world_batch)
        return cavmae__fail(CAVMAE_E_SHAPE, "batch: %lld clips; the trainer takes 1 to %lld (key batch)",
                            (long long)count, (long long)t->world_batch);
    t->world_count = (int32_t)count;
    t->first = share_begin(t, rank);
    const int32_t share = share_begin(t, rank + 1) - t->first;
    if (batch->count != share)
        return cavmae__fail(CAVMAE_E_SHAPE, "batch: %d clips; of %d, rank %d of %d has %d", batch->count,
                            t->world_count, rank, size, share);
    return CAVMAE_OK;
}

cavmae_status cavmae__trainer_check(cavmae_trainer *trainer, const cavmae_batch *batch) {
    static const char *const names[] = {"audio", "image"};
    const cavmae__options *o = &trainer->options;
    if (batch->reserved) return cavmae__fail(CAVMAE_E_ARG, "batch: reserved is %d, not 0", batch->reserved);
    CAVMAE__TRY(check_share(trainer, batch));
    if (batch->frames > 1)
        return cavmae__fail(CAVMAE_E_ARG, "batch: %d frames of each clip; training takes one", batch->frames);
    if (!batch->count) return CAVMAE_OK;
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

/* Numbers of input that clips 0 .. clips - 1 have. */
static int64_t input_elements(const cavmae_trainer *t, int m, int32_t clips) {
    const cavmae__options *o = &t->options;
    int64_t columns = 0;
    if (m == CAVMAE__VISUAL) return clips * o->image_channels * o->image_size * o->image_size;
    for (int32_t i = 0; i < clips; i++) columns += t->columns[0][i];
    return columns * o->patch_size * o->mel_bins;
}

cavmae_status cavmae__trainer_put_inputs(cavmae_trainer *trainer, const cavmae_batch *batch) {
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    const float *host[2] = {batch->audio, batch->image};
    int64_t *elements = trainer->elements[trainer->turn];
    for (int m = 0; m < 2; m++) {
        elements[m] = batch->features || !cavmae__trainer_uses(o, m) ? 0 : input_elements(trainer, m, batch->count);
        if (!elements[m]) continue;
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

/* Ranges of one key have the same rows in the same buffers. */
static uint64_t find_rows_key(const cavmae_trainer *trainer, int32_t from, int32_t clips,
                              const int32_t *const visible[2]) {
    const size_t lists = (size_t)clips * sizeof(int32_t);
    const int32_t range[] = {trainer->first, from, clips}; /* the first is part of what masks are drawn from */
    uint64_t h = cavmae__hash(0xcbf29ce484222325u, &trainer->generation, sizeof trainer->generation);
    h = cavmae__hash(h, range, sizeof range);
    for (int m = 0; m < 2; m++) {
        h = cavmae__hash(h, trainer->columns[m] + from, lists);
        if (visible[m]) h = cavmae__hash(h, visible[m] + from, lists);
    }
    return h;
}

cavmae_status cavmae__trainer_put_rows(cavmae_trainer *trainer, int32_t from, int32_t clips,
                                       const int32_t *const visible[2], int backward) {
    const cavmae__options *o = &trainer->options;
    cavmae__network *n = trainer->network;
    n->pass.gradients = backward ? trainer->gradients : NULL;
    n->pass.has_gradient = trainer->has_gradient;
    n->pass.accumulate = trainer->accumulated > 0 || from > 0;
    for (int m = 0; m < 2; m++)
        n->source[m].data = trainer->input[trainer->turn][m]
                                ? trainer->input[trainer->turn][m] + input_elements(trainer, m, from)
                                : NULL;
    const uint64_t key = find_rows_key(trainer, from, clips, visible);
    if (key == trainer->rows_key) return CAVMAE_OK;
    trainer->rows_key = 0;
    cavmae__batch_rows rows = {.clips = clips, .pictures = 1};
    for (int m = 0; m < 2; m++) {
        rows.columns[m] = trainer->columns[m] + from;
        rows.visible[m] = visible[m] ? visible[m] + from : NULL;
        rows.grid_rows[m] = cavmae__grid_rows(o, m);
        rows.table_columns[m] = (int32_t)((m ? o->image_size : o->audio_frames) / o->patch_size);
    }
    rows.clip_stride[0] = o->patch_size * o->mel_bins;
    rows.clip_stride[1] = o->image_channels * o->image_size * o->patch_size;
    CAVMAE__TRY(cavmae__network_batch(n, &rows));
    trainer->rows_key = key;
    return CAVMAE_OK;
}
