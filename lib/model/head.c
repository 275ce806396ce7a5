/* The head of a fine-tuned model: what it sees of the pooled streams, LayerNorm, linear. */
#include <string.h>

#include "network.h"

/* Weights of the streams (both, audio, visual) for each part of what the head sees. The modes "missing..." average the
 * unified stream, which then is of one modality alone, and that modality's own. */
static void clip_weights(const cavmae__options *o, int32_t mode, int shown, float weight[2][3]) {
    int audio = shown != CAVMAE__SHOW_VISUAL && cavmae__mode_uses(mode, CAVMAE__AUDIO);
    int visual = shown != CAVMAE__SHOW_AUDIO && cavmae__mode_uses(mode, CAVMAE__VISUAL);
    int second = o->head_input == CAVMAE__INPUT_CONCAT; /* the part that the visual stream goes to */
    memset(weight, 0, 2 * sizeof *weight);
    if (mode == CAVMAE_MODE_MISSING_AUDIO_ONLY || mode == CAVMAE_MODE_MISSING_VIDEO_ONLY) {
        weight[0][0] = weight[0][audio ? 1 : 2] = 0.5f;
    } else if (audio && visual && o->head_input == CAVMAE__INPUT_JOINT) {
        weight[0][0] = 1;
    } else {
        weight[0][1] = (float)audio;
        weight[second][2] = (float)visual;
    }
}

static cavmae_status upload_weights(cavmae__network *n, int32_t mode, const uint8_t *shown) {
    const cavmae__options *o = &n->model->options;
    int64_t rows = n->head_rows, parts = cavmae__head_width(o) / o->embed_dim;
    for (int64_t r = 0; r < rows; r++) {
        float weight[2][3];
        clip_weights(o, mode, shown ? shown[r] : CAVMAE__SHOW_BOTH, weight);
        for (int64_t part = 0; part < parts; part++)
            memcpy(n->mix_host + (part * rows + r) * 3, weight[part], sizeof weight[part]);
    }
    return n->pass.backend->ops->upload(n->pass.backend, n->mix, n->mix_host,
                                        (size_t)(3 * parts * rows) * sizeof(float));
}

static cavmae__mix make_mix(const cavmae__network *n) {
    const cavmae__options *o = &n->model->options;
    cavmae__mix mix = {.rows = n->head_rows,
                       .width = (int32_t)o->embed_dim,
                       .parts = (int32_t)(cavmae__head_width(o) / o->embed_dim),
                       .weight = n->mix,
                       .y = n->features};
    for (int s = 0; s < 3; s++) {
        if (!n->rows.stream_rows[s]) continue;
        mix.x[s] = n->pooled[s];
        mix.repeat[s] = (int32_t)(n->head_rows / n->rows.stream[s].count); /* a sound serves all pictures of its clip */
    }
    return mix;
}

cavmae_status cavmae__network_put_mode(cavmae__network *n, int32_t mode, const uint8_t *shown) {
    n->head_rows =
        cavmae__mode_uses(mode, CAVMAE__VISUAL) ? n->rows.visible[CAVMAE__VISUAL].count : n->rows.visible[0].count;
    return upload_weights(n, mode, shown);
}

cavmae_status cavmae__network_features(cavmae__network *n) {
    const cavmae__mix mix = make_mix(n);
    return n->pass.backend->ops->mix(n->pass.backend, &mix);
}

static cavmae__streams head_rows(const cavmae__network *n) {
    return (cavmae__streams){.rows = n->head_rows, .groups = 1, .group_rows = {n->head_rows}};
}

cavmae_status cavmae__network_logits(cavmae__network *n) {
    const cavmae__pass *pass = &n->pass;
    const cavmae__streams rows = head_rows(n);
    const float *x = n->features;
    if (pass->list->head_norm >= 0) {
        CAVMAE__TRY(cavmae__apply_norm(pass, &pass->list->head_norm, &rows,
                                       (int32_t)cavmae__head_width(&n->model->options), x, n->features_normed,
                                       CAVMAE_FLOAT32, n->head_mean, n->head_rstd));
        x = n->features_normed;
    }
    return cavmae__apply_linear(pass, pass->list->head, n->head_rows, x, CAVMAE_FLOAT32, NULL, n->logits,
                                CAVMAE_FLOAT32, NULL);
}

cavmae_status cavmae__head_backward(cavmae__network *n) {
    const cavmae__pass *pass = &n->pass;
    const cavmae__streams rows = head_rows(n);
    int normed = pass->list->head_norm >= 0;
    float *dx = n->d_normed_row;
    CAVMAE__TRY(cavmae__apply_linear_grad(pass, pass->list->head, n->head_rows,
                                          normed ? n->features_normed : n->features, CAVMAE_FLOAT32, n->d_logits,
                                          CAVMAE_FLOAT32, dx, CAVMAE_FLOAT32, NULL));
    if (normed) { /* into the normed rows, which are not needed any more */
        CAVMAE__TRY(cavmae__apply_norm_grad(pass, &pass->list->head_norm, &rows,
                                            (int32_t)cavmae__head_width(&n->model->options), n->features, n->head_mean,
                                            n->head_rstd, dx, CAVMAE_FLOAT32, NULL, n->features_normed));
        dx = n->features_normed;
    }
    if (!n->extent.backward) return CAVMAE_OK;
    cavmae__mix mix = make_mix(n);
    mix.dy = dx;
    for (int s = 0; s < 3; s++) mix.dx[s] = mix.x[s] ? n->d_pooled[s] : NULL;
    return pass->backend->ops->mix_grad(pass->backend, &mix);
}
