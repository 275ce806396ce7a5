/* The decoder (paper eq. 8): the joint encoder's visible tokens and mask tokens in all places, positions and modality
 * added, layers, and a prediction of every patch by its modality's own last layer. */
#include "network.h"

static cavmae__stack decoder_stack(const cavmae__network *n) {
    const cavmae__options *o = &n->model->options;
    return (cavmae__stack){.first = n->pass.list->decoder_layers,
                           .depth = o->decoder_depth,
                           .width = (int32_t)o->decoder_dim,
                           .heads = (int32_t)o->decoder_heads,
                           .streams = &n->rows.decoder_streams,
                           .keep = n->decoder_keep};
}

/* Rows of the visual tokens follow the audio tokens' in every list of tokens, and of encoder rows. */
static float *modality_rows(float *all, int64_t rows_before, int64_t width, int m) {
    return all + (m ? rows_before * width : 0);
}

static cavmae_status combine(const cavmae__network *n, int64_t rows, int64_t width, const float *x,
                             const int32_t *first, float *y) {
    const cavmae__combine copy = {.rows = rows, .width = (int32_t)width, .x = x, .first = first, .y = y};
    return n->pass.backend->ops->combine(n->pass.backend, &copy);
}

/* The decoded stream is the first of the joint rows: that of both, or a single-modality model's only one. */
static const int32_t *decoded_back(const cavmae__network *n) {
    return n->rows.joint_back[n->extent.streams & CAVMAE__STREAM_BOTH ? 0 : 1];
}

static const int32_t *decoder_rows_of(const cavmae__network *n, int m) {
    return n->rows.decoder_row + (m ? n->rows.token_rows[0] : 0);
}

static cavmae_status decoder_input(cavmae__network *n, float *out) {
    const cavmae__pass *pass = &n->pass;
    int64_t width = n->model->options.decoder_dim;
    CAVMAE__TRY(
        combine(n, n->rows.encoder_rows, n->model->options.embed_dim, n->joint_normed, decoded_back(n), n->decoder_in));
    CAVMAE__TRY(cavmae__apply_linear(pass, pass->list->decoder_embed, n->rows.encoder_rows, n->decoder_in,
                                     CAVMAE_FLOAT32, NULL, n->decoder_embedded, CAVMAE_FLOAT32, NULL));
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        const cavmae__place place = {.count = n->rows.token_rows[m],
                                     .width = (int32_t)width,
                                     .x = modality_rows(n->decoder_embedded, n->rows.visible_rows[0], width, m),
                                     .fill = pass->values[pass->list->mask_token],
                                     .table = pass->values[pass->list->decoder_positions[m]],
                                     .vector = pass->values[pass->list->decoder_modality[m]],
                                     .source = n->rows.token_row[m],
                                     .position = n->rows.token_position[m],
                                     .row = decoder_rows_of(n, m),
                                     .out = out};
        CAVMAE__TRY(pass->backend->ops->place(pass->backend, &place));
    }
    return CAVMAE_OK;
}

static cavmae_status reconstruction_loss(cavmae__network *n, int m, double weight, int32_t norm_pix) {
    const cavmae__mae_loss loss = {.source = n->source[m],
                                   .rows = n->rows.token_rows[m],
                                   .clip = n->rows.token_clip[m],
                                   .token = n->rows.token_token[m],
                                   .mask = n->rows.mask[m],
                                   .removed = n->totals + CAVMAE__TOTAL_REMOVED_A + m,
                                   .pred = n->predicted[m],
                                   .dpred = n->pass.gradients ? n->d_predicted[m] : NULL,
                                   .weight = weight,
                                   .norm_pix = norm_pix,
                                   .loss = n->scalars + CAVMAE__LOSS_MAE_A + m,
                                   .workspace = n->pass.workspace};
    return n->pass.backend->ops->mae_loss(n->pass.backend, &loss);
}

cavmae_status cavmae__network_decode(cavmae__network *n, const int64_t removed[2], double weight, int32_t norm_pix) {
    const cavmae__pass *pass = &n->pass;
    cavmae__stack stack = decoder_stack(n);
    CAVMAE__TRY(decoder_input(n, cavmae__stack_input(pass, &stack, n->decoded)));
    CAVMAE__TRY(cavmae__stack_forward(pass, &stack, n->decoded));
    CAVMAE__TRY(cavmae__apply_norm(pass, &pass->list->decoder_norm, &n->rows.decoder_streams, stack.width, n->decoded,
                                   n->decoded_normed, CAVMAE_FLOAT32, n->decoded_mean, n->decoded_rstd));
    CAVMAE__TRY(combine(n, n->rows.decoder_rows, stack.width, n->decoded_normed, n->rows.decoder_row, n->predictor_in));
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        const float *x = modality_rows(n->predictor_in, n->rows.token_rows[0], stack.width, m);
        CAVMAE__TRY(cavmae__apply_linear(pass, pass->list->decoder_pred[m], n->rows.token_rows[m], x, CAVMAE_FLOAT32,
                                         NULL, n->predicted[m], CAVMAE_FLOAT32, NULL));
        /* going back, clips without a masked token (of a batch that has some) have gradients of zero */
        if (removed[m] || n->pass.gradients) CAVMAE__TRY(reconstruction_loss(n, m, weight, norm_pix));
    }
    return CAVMAE_OK;
}

static cavmae_status table_gradients(cavmae__network *n, const float *dx) {
    const cavmae__pass *pass = &n->pass;
    const cavmae__parameters *list = pass->list;
    int32_t accumulate = pass->accumulate; /* the mask token's gradient adds up over modalities */
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        cavmae__table_grad grad = {.count = n->rows.token_rows[m],
                                   .width = (int32_t)n->model->options.decoder_dim,
                                   .table_rows = 1,
                                   .accumulate = accumulate,
                                   .dy = dx,
                                   .index = n->rows.token_removed[m],
                                   .row = decoder_rows_of(n, m),
                                   .dtable = cavmae__gradient(pass, list->mask_token),
                                   .workspace = pass->workspace};
        CAVMAE__TRY(pass->backend->ops->table_grad(pass->backend, &grad));
        accumulate = 1;
        grad.accumulate = pass->accumulate;
        grad.index = NULL;
        grad.dtable = cavmae__gradient(pass, list->decoder_modality[m]);
        CAVMAE__TRY(pass->backend->ops->table_grad(pass->backend, &grad));
        if (!list->items[list->decoder_positions[m]].trainable) continue;
        grad.table_rows = (int32_t)list->items[list->decoder_positions[m]].shape[1];
        grad.index = n->rows.token_position[m];
        grad.dtable = cavmae__gradient(pass, list->decoder_positions[m]);
        CAVMAE__TRY(pass->backend->ops->table_grad(pass->backend, &grad));
    }
    return CAVMAE_OK;
}

/* From d_predicted to d_normed, the gradient of the decoded stream's rows of joint_normed. */
static cavmae_status decoder_backward(cavmae__network *n, float *d_normed, float *dx) {
    const cavmae__pass *pass = &n->pass;
    cavmae__stack stack = decoder_stack(n);
    const cavmae__backend_ops *ops = pass->backend->ops;
    /* Buffers of the forward pass that are not needed any more take gradients of the same shape. */
    float *d_predictor_in = d_normed, *d_decoded_normed = n->decoded_normed;
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        CAVMAE__TRY(cavmae__apply_linear_grad(pass, pass->list->decoder_pred[m], n->rows.token_rows[m],
                                              modality_rows(n->predictor_in, n->rows.token_rows[0], stack.width, m),
                                              CAVMAE_FLOAT32, n->d_predicted[m], CAVMAE_FLOAT32,
                                              modality_rows(d_predictor_in, n->rows.token_rows[0], stack.width, m),
                                              CAVMAE_FLOAT32, NULL));
    }
    CAVMAE__TRY(combine(n, n->rows.decoder_rows, stack.width, d_predictor_in, n->rows.decoder_token, d_decoded_normed));
    CAVMAE__TRY(cavmae__apply_norm_grad(pass, &pass->list->decoder_norm, &n->rows.decoder_streams, stack.width,
                                        n->decoded, n->decoded_mean, n->decoded_rstd, d_decoded_normed, CAVMAE_FLOAT32,
                                        NULL, dx));
    CAVMAE__TRY(cavmae__stack_backward(pass, &stack, dx));
    CAVMAE__TRY(table_gradients(n, dx));
    for (int m = 0; m < 2; m++) {
        if (!n->rows.token_rows[m]) continue;
        const cavmae__place visible = {.count = n->rows.token_rows[m],
                                       .width = stack.width,
                                       .x = dx,
                                       .source = decoder_rows_of(n, m),
                                       .row = n->rows.token_row[m],
                                       .out =
                                           modality_rows(n->decoder_embedded, n->rows.visible_rows[0], stack.width, m)};
        CAVMAE__TRY(ops->place(pass->backend, &visible));
    }
    /* dx is as large as any stream: it takes the gradient of decoder_in now. */
    CAVMAE__TRY(cavmae__apply_linear_grad(pass, pass->list->decoder_embed, n->rows.encoder_rows, n->decoder_in,
                                          CAVMAE_FLOAT32, n->decoder_embedded, CAVMAE_FLOAT32, dx, CAVMAE_FLOAT32,
                                          NULL));
    return combine(n, n->rows.encoder_rows, n->model->options.embed_dim, dx, n->rows.joint_source, d_normed);
}

cavmae_status cavmae__network_backward(cavmae__network *n) {
    const cavmae__parameters *list = n->pass.list;
    if (n->extent.decode) {
        CAVMAE__TRY(decoder_backward(n, n->gradient[0], n->gradient[1]));
        /* from here to the end of the list */
        CAVMAE__TRY(cavmae__gradients_finished(&n->pass, list->decoder_embed, list->count - list->decoder_embed));
    }
    return cavmae__encoder_backward(n, n->gradient[0], n->gradient[1]);
}
