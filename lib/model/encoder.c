/* Tokens of both modalities through their encoders, and through the joint encoder in the wanted streams (paper eq. 1 to
 * 6). Only visible tokens are ever embedded: gathering patches first gives the same as masking tokens afterwards. */
#include "network.h"

static cavmae__stack encoder_stack(const cavmae__network *n, int m) {
    const cavmae__options *o = &n->model->options;
    return (cavmae__stack){.first = n->pass.list->layers[m],
                           .depth = o->modality_depth,
                           .width = (int32_t)o->embed_dim,
                           .heads = (int32_t)o->num_heads,
                           .streams = &n->rows.encoder_streams[m],
                           .keep = n->encoder_keep[m]};
}

static cavmae__stack joint_stack(const cavmae__network *n) {
    const cavmae__options *o = &n->model->options;
    return (cavmae__stack){.first = n->pass.list->joint_layers,
                           .depth = o->joint_depth,
                           .width = (int32_t)o->embed_dim,
                           .heads = (int32_t)o->num_heads,
                           .streams = &n->rows.joint_streams,
                           .keep = n->joint_keep};
}

/* Final norms: norm, norm_a, norm_v. */
static void final_norms(const cavmae__network *n, int64_t norms[3]) {
    const cavmae__streams *streams = &n->rows.joint_streams;
    for (int32_t i = 0; i < streams->groups; i++) norms[i] = n->pass.list->norm[streams->stream[i]];
}

static float *encoded_rows(const cavmae__network *n, float *all, int m) {
    return all + (m ? n->rows.visible_rows[0] * n->model->options.embed_dim : 0);
}

/* The visible patches of modality m, into pass.wide. */
static cavmae_status gather_patches(const cavmae__network *n, int m) {
    const cavmae__patches patches = {.source = n->source[m],
                                     .rows = n->rows.visible_rows[m],
                                     .clip = n->rows.visible_clip[m],
                                     .token = n->rows.visible_token[m],
                                     .y_dtype = n->pass.dtype,
                                     .y = n->pass.wide};
    return n->pass.backend->ops->patches(n->pass.backend, &patches);
}

static cavmae_status encode_modality(cavmae__network *n, int m) {
    const cavmae__pass *pass = &n->pass;
    cavmae__stack stack = encoder_stack(n, m);
    float *out = encoded_rows(n, n->encoded, m), *x = cavmae__stack_input(pass, &stack, out);
    CAVMAE__TRY(gather_patches(n, m));
    CAVMAE__TRY(cavmae__apply_linear(pass, pass->list->patch_embed[m], n->rows.visible_rows[m], pass->wide, pass->dtype,
                                     NULL, x, CAVMAE_FLOAT32, NULL));
    const cavmae__place place = {.count = n->rows.visible_rows[m],
                                 .width = stack.width,
                                 .x = x,
                                 .table = m == CAVMAE__AUDIO && n->longer_positions
                                              ? n->longer_positions
                                              : pass->values[pass->list->positions[m]],
                                 .position = n->rows.visible_position[m],
                                 .vector = pass->values[pass->list->modality[m]],
                                 .out = x};
    CAVMAE__TRY(pass->backend->ops->place(pass->backend, &place));
    return cavmae__stack_forward(pass, &stack, out);
}

cavmae_status cavmae__network_encode(cavmae__network *n) {
    const cavmae__pass *pass = &n->pass;
    for (int m = 0; m < 2; m++)
        if (n->rows.visible_rows[m]) CAVMAE__TRY(encode_modality(n, m));
    cavmae__stack stack = joint_stack(n);
    const cavmae__combine copy = {.rows = n->rows.joint_rows,
                                  .width = stack.width,
                                  .x = n->encoded,
                                  .first = n->rows.joint_source,
                                  .y = cavmae__stack_input(pass, &stack, n->joint)};
    CAVMAE__TRY(pass->backend->ops->combine(pass->backend, &copy));
    CAVMAE__TRY(cavmae__stack_forward(pass, &stack, n->joint));
    int64_t norms[3];
    final_norms(n, norms);
    return cavmae__apply_norm(pass, norms, &n->rows.joint_streams, stack.width, n->joint, n->joint_normed,
                              CAVMAE_FLOAT32, n->joint_mean, n->joint_rstd);
}

/* Mean pooling; a stream's segments are parts of the joint rows. */
static cavmae_status pool(cavmae__network *n, int backward, float *joint) {
    const cavmae__backend_ops *ops = n->pass.backend->ops;
    for (int s = 0; s < 3; s++) {
        if (!n->rows.stream_rows[s] || !(n->extent.pool & 1 << s)) continue;
        cavmae__segment_mean mean = {.width = (int32_t)n->model->options.embed_dim, .segments = n->rows.stream[s]};
        if (backward) {
            mean.dy = n->d_pooled[s];
            mean.dx = joint;
            CAVMAE__TRY(ops->segment_mean_grad(n->pass.backend, &mean));
        } else {
            mean.x = joint;
            mean.y = n->pooled[s];
            CAVMAE__TRY(ops->segment_mean(n->pass.backend, &mean));
        }
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__network_pool(cavmae__network *n) { return pool(n, 0, n->joint_normed); }

/* The final norms lie behind the joint layers, and before the decoder or the head. */
static cavmae_status final_norms_finished(const cavmae__pass *pass) {
    const cavmae__parameters *list = pass->list;
    const int64_t ends[] = {list->decoder_embed, list->head_norm, list->head};
    int64_t first = list->norm[0], end = list->count;
    for (int s = 1; s < 3; s++)
        if (list->norm[s] >= 0 && list->norm[s] < first) first = list->norm[s];
    for (int i = 0; i < 3; i++)
        if (ends[i] >= 0 && ends[i] < end) end = ends[i];
    return cavmae__gradients_finished(pass, first, end - first);
}

/* From d_normed [joint, D], the gradient of joint_normed, to the encoders' outputs: encoded gets their gradient. */
static cavmae_status joint_backward(cavmae__network *n, float *d_normed, float *d_joint, float *d_encoded) {
    const cavmae__pass *pass = &n->pass;
    cavmae__stack stack = joint_stack(n);
    int64_t norms[3];
    final_norms(n, norms);
    CAVMAE__TRY(cavmae__apply_norm_grad(pass, norms, &n->rows.joint_streams, stack.width, n->joint, n->joint_mean,
                                        n->joint_rstd, d_normed, CAVMAE_FLOAT32, NULL, d_joint));
    CAVMAE__TRY(final_norms_finished(pass));
    CAVMAE__TRY(cavmae__stack_backward(pass, &stack, d_joint));
    const cavmae__combine add = {.rows = n->rows.encoder_rows,
                                 .width = stack.width,
                                 .x = d_joint,
                                 .first = n->rows.joint_back[0],
                                 .second = n->rows.joint_back[1],
                                 .y = d_encoded};
    return pass->backend->ops->combine(pass->backend, &add);
}

static cavmae_status encode_modality_backward(cavmae__network *n, int m, float *dx) {
    const cavmae__pass *pass = &n->pass;
    const cavmae__parameters *list = pass->list;
    cavmae__stack stack = encoder_stack(n, m);
    CAVMAE__TRY(cavmae__stack_backward(pass, &stack, dx));
    cavmae__table_grad grad = {.count = n->rows.visible_rows[m],
                               .width = stack.width,
                               .table_rows = 1,
                               .accumulate = pass->accumulate,
                               .dy = dx,
                               .dtable = cavmae__gradient(pass, list->modality[m]),
                               .workspace = pass->workspace};
    CAVMAE__TRY(pass->backend->ops->table_grad(pass->backend, &grad));
    if (list->items[list->positions[m]].trainable) {
        grad.table_rows = (int32_t)list->items[list->positions[m]].shape[1];
        grad.index = n->rows.visible_position[m];
        grad.dtable = cavmae__gradient(pass, list->positions[m]);
        CAVMAE__TRY(pass->backend->ops->table_grad(pass->backend, &grad));
    }
    CAVMAE__TRY(gather_patches(n, m));
    return cavmae__apply_linear_grad(pass, list->patch_embed[m], n->rows.visible_rows[m], pass->wide, pass->dtype, dx,
                                     CAVMAE_FLOAT32, NULL, CAVMAE_FLOAT32, NULL);
}

cavmae_status cavmae__encoder_backward(cavmae__network *n, float *d_normed, float *spare) {
    CAVMAE__TRY(pool(n, 1, d_normed));
    CAVMAE__TRY(joint_backward(n, d_normed, spare, d_normed));
    /* The visual one first: the audio encoder has more than twice its rows, so that its pass hides more of what a world
     * sends. One whose tokens are all masked gets gradients of zero, as in torch. */
    for (int m = 2; m-- > 0;)
        if (n->extent.visible[m]) CAVMAE__TRY(encode_modality_backward(n, m, encoded_rows(n, d_normed, m)));
    return CAVMAE_OK;
}
