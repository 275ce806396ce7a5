/* Which tokens a batch keeps: counts, which are known on the host before anything is drawn, and masks. A clip's mask is a
 * function of seed, step and its place in the batch of all ranks. */
#include <string.h>

#include "philox.h"
#include "trainer.h"

/* How many tokens stay, as the reference truncates: int(L * (1 - ratio)), in double. */
static int32_t kept_tokens(int32_t tokens, double ratio) { return (int32_t)((double)tokens * (1 - ratio)); }

/* Where masks come from: the caller, or a draw for all clips at once (equal grids), clip by clip, or over both
 * modalities together. Counts are known before anything is drawn, except in the last case. */
static cavmae_status count_given(cavmae_trainer *trainer, int m, const uint8_t *mask, int32_t clips, int64_t *removed) {
    for (int32_t i = 0; i < clips; i++) {
        int32_t tokens = trainer->columns[m][i] * cavmae__grid_rows(&trainer->options, m), kept = 0;
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
                                      .first = trainer->first + first,
                                      .clips = clips,
                                      .rows = cavmae__grid_rows(o, m),
                                      .columns = columns,
                                      .keep = trainer->kept[m][first],
                                      .ratio = ratio,
                                      .mask = mask + token,
                                      .workspace = trainer->network->pass.workspace};
    return backend->ops->draw_masks(backend, &masks);
}

/* Runs of clips with equal grids are drawn in one call. */
cavmae_status cavmae__draw_modality(const cavmae_trainer *trainer, int m, int32_t from, int32_t clips, uint8_t *mask) {
    int64_t token = 0;
    for (int32_t i = from; i < from + clips;) {
        int32_t first = i, columns = trainer->columns[m][i];
        while (i < from + clips && trainer->columns[m][i] == columns) i++;
        CAVMAE__TRY(draw_range(trainer, m, first, i - first, columns, token, mask));
        token += (int64_t)(i - first) * columns * cavmae__grid_rows(&trainer->options, m);
    }
    return CAVMAE_OK;
}

/* mask_domain joint: one draw over each clip's audio and visual tokens together, split into the two masks. */
static cavmae_status draw_joint(cavmae_trainer *trainer, int32_t clips, uint8_t *both) {
    const cavmae__options *o = &trainer->options;
    cavmae__backend *backend = trainer->model->backend;
    int64_t all[2] = {0, 0}, done[2] = {0, 0};
    for (int m = 0; m < 2; m++)
        for (int32_t i = 0; i < clips; i++) all[m] += trainer->columns[m][i] * cavmae__grid_rows(o, m);
    uint8_t *scratch = both + all[0] + all[1];
    for (int32_t i = 0; i < clips; i++) {
        int32_t tokens[2] = {trainer->columns[0][i] * cavmae__grid_rows(o, 0),
                             trainer->columns[1][i] * cavmae__grid_rows(o, 1)},
                sum = tokens[0] + tokens[1];
        const cavmae__draw_masks masks = {.seed = (uint64_t)o->seed,
                                          .step = &trainer->state->draw,
                                          .purpose = CAVMAE__PURPOSE_MASK_JOINT,
                                          .first = trainer->first + i,
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

cavmae_status cavmae__count_tokens(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t removed[2]) {
    const cavmae__options *o = &trainer->options;
    const uint8_t *given[2] = {batch->mask_a, batch->mask_v};
    int64_t tokens[2] = {0, 0};
    removed[0] = removed[1] = 0;
    for (int m = 0; m < 2; m++)
        for (int32_t i = 0; i < batch->count; i++)
            tokens[m] += (int64_t)trainer->columns[m][i] * cavmae__grid_rows(o, m);
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
                kept_tokens(trainer->columns[m][i] * cavmae__grid_rows(o, m), m ? o->mask_ratio_v : o->mask_ratio_a);
        for (int32_t i = 0; i < batch->count; i++)
            removed[m] += trainer->columns[m][i] * cavmae__grid_rows(o, m) - trainer->kept[m][i];
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__check_counts(const cavmae_trainer *trainer, int32_t clips, const int64_t removed[2],
                                   int backward) {
    static const char *const names[] = {"audio", "visual"};
    const cavmae__options *o = &trainer->options;
    for (int m = 0; m < 2; m++) {
        if (!cavmae__has_modality(o, m)) continue;
        /* an evaluation may complete one modality from the whole of the other; a world's other shares may have some */
        if (!trainer->world && o->mae_weight > 0 && removed[m] == 0 && (backward || removed[!m] == 0))
            return cavmae__fail(CAVMAE_E_ARG,
                                "batch: no %s token is masked, so there is nothing to reconstruct (mask_ratio_%c)",
                                names[m], names[m][0]);
        for (int32_t i = 0; i < clips && o->mask_domain == CAVMAE__MASK_DOMAIN_MODALITY; i++)
            if (trainer->kept[m][i] < 1)
                return cavmae__fail(CAVMAE_E_ARG, "batch: clip %d keeps no %s token", i, names[m]);
    }
    return CAVMAE_OK;
}
