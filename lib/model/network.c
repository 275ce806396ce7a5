/* Layout of a network's buffers, and how a batch is put on them. */
#include "network.h"

#include <string.h>

#include "tensor.h"

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

static void layout_stack(cavmae__arena *device, const cavmae__pass *pass, cavmae__activations *keep, int64_t depth,
                         int64_t rows, int64_t width, int64_t heads, const cavmae__activations *shared) {
    if (!rows) return;
    for (int64_t i = 0; i < depth; i++) {
        if (shared)
            keep[i] = *shared;
        else
            cavmae__layer_keep(device, pass, rows, width, heads, &keep[i]);
        CAVMAE__TAKE(device, keep[i].x1, rows * width);
    }
}

/* What is kept of one layer, an encoder's or a decoder's, in the same place: recomputation goes through it layer by
 * layer. */
static void layout_shared(cavmae__arena *device, const cavmae__pass *pass, const cavmae__options *o,
                          int64_t encoder_rows, int64_t decoder_rows, cavmae__activations shared[2]) {
    cavmae__arena encoder = {0}, decoder = {0};
    cavmae__layer_keep(&encoder, pass, encoder_rows, o->embed_dim, o->num_heads, &shared[0]);
    cavmae__layer_keep(&decoder, pass, decoder_rows, o->decoder_dim, o->decoder_heads, &shared[1]);
    char *base = cavmae__arena_take(device, 1, encoder.used > decoder.used ? encoder.used : decoder.used);
    encoder = decoder = (cavmae__arena){.base = base};
    cavmae__layer_keep(&encoder, pass, encoder_rows, o->embed_dim, o->num_heads, &shared[0]);
    cavmae__layer_keep(&decoder, pass, decoder_rows, o->decoder_dim, o->decoder_heads, &shared[1]);
}

static void layout_head(cavmae__network *n, const cavmae__options *o, cavmae__arena *device, cavmae__arena *host) {
    const cavmae__extent *e = &n->extent;
    int64_t rows = (int64_t)e->clips * e->pictures, width = cavmae__head_width(o);
    if (!e->head) return;
    CAVMAE__TAKE(device, n->mix, 3 * rows * (width / o->embed_dim));
    CAVMAE__TAKE(host, n->mix_host, 3 * rows * (width / o->embed_dim));
    CAVMAE__TAKE(device, n->features, rows * width);
    if (e->head == CAVMAE__FEATURES) return;
    CAVMAE__TAKE(device, n->features_normed, rows * width);
    CAVMAE__TAKE(device, n->head_mean, rows);
    CAVMAE__TAKE(device, n->head_rstd, rows);
    CAVMAE__TAKE(device, n->logits, rows * o->classes);
    if (!e->head_backward) return;
    CAVMAE__TAKE(device, n->d_logits, rows * o->classes);
    CAVMAE__TAKE(device, n->d_normed_row, rows * width);
}

static void layout(cavmae__network *n, const cavmae__options *o, cavmae__arena *device, cavmae__arena *host) {
    const cavmae__extent *e = &n->extent;
    const cavmae__pass *pass = &n->pass;
    size_t size = cavmae__dtype_size(pass->dtype);
    int64_t encoder = e->visible[0] + e->visible[1], joint = cavmae__joint_rows(e),
            decoder = e->decode ? e->tokens[0] + e->tokens[1] : 0;
    int64_t hidden = cavmae__hidden(o->embed_dim, o->mlp_ratio),
            decoder_hidden = cavmae__hidden(o->decoder_dim, o->mlp_ratio);
    int64_t patch = o->patch_size * o->patch_size, channels[2] = {1, o->image_channels}, D = o->embed_dim,
            Dd = o->decoder_dim;
    int64_t rows = largest(largest(e->visible[0], e->visible[1]), joint);

    cavmae__rows_layout(&n->rows, e, device, host);
    if (e->backward) {
        cavmae__activations shared[2];
        const int shares = pass->recompute == CAVMAE__RECOMPUTE_LAYERS;
        if (shares) layout_shared(device, pass, o, rows, decoder, shared);
        const cavmae__activations *encoder_slot = shares ? &shared[0] : NULL;
        const cavmae__activations *decoder_slot = shares ? &shared[1] : NULL;
        for (int m = 0; m < 2; m++)
            layout_stack(device, pass, n->encoder_keep[m], o->modality_depth, e->visible[m], D, o->num_heads,
                         encoder_slot);
        layout_stack(device, pass, n->joint_keep, o->joint_depth, joint, D, o->num_heads, encoder_slot);
        layout_stack(device, pass, n->decoder_keep, o->decoder_depth, decoder, Dd, o->decoder_heads, decoder_slot);
    }
    CAVMAE__TAKE(device, n->encoded, encoder * D);
    CAVMAE__TAKE(device, n->joint, joint * D);
    CAVMAE__TAKE(device, n->joint_normed, joint * D);
    for (int s = 0; s < 3; s++)
        if (e->pool & 1 << s) CAVMAE__TAKE(device, n->pooled[s], cavmae__stream_units(e, s) * D);
    for (int m = 0; m < 2; m++)
        if (e->decode) CAVMAE__TAKE(device, n->predicted[m], e->tokens[m] * patch * channels[m]);
    layout_head(n, o, device, host);
    if (e->longest[0] > (o->mel_bins / o->patch_size) * (o->audio_frames / o->patch_size))
        CAVMAE__TAKE(device, n->longer_positions, e->longest[0] * D);
    if (e->decode) {
        CAVMAE__TAKE(device, n->decoder_in, encoder * D);
        CAVMAE__TAKE(device, n->decoder_embedded, encoder * Dd);
        CAVMAE__TAKE(device, n->decoded, decoder * Dd);
        CAVMAE__TAKE(device, n->decoded_normed, decoder * Dd);
        CAVMAE__TAKE(device, n->predictor_in, decoder * Dd);
    }
    if (e->backward) {
        CAVMAE__TAKE(device, n->joint_mean, joint);
        CAVMAE__TAKE(device, n->joint_rstd, joint);
        CAVMAE__TAKE(device, n->decoded_mean, decoder);
        CAVMAE__TAKE(device, n->decoded_rstd, decoder);
        for (int m = 0; m < 2; m++)
            if (e->decode) CAVMAE__TAKE(device, n->d_predicted[m], e->tokens[m] * patch * channels[m]);
        for (int s = 0; s < 3; s++)
            if (e->pool & 1 << s) CAVMAE__TAKE(device, n->d_pooled[s], e->clips * D);
        for (int i = 0; i < 2; i++)
            CAVMAE__TAKE(device, n->gradient[i], largest(largest(encoder, joint) * D, decoder * Dd));
    }
    CAVMAE__TAKE(device, n->scalars, CAVMAE__SCALARS);
    CAVMAE__TAKE(device, n->totals, CAVMAE__TOTALS);

    int64_t narrow = largest(rows * D, decoder * Dd);
    int64_t wide_width = largest(largest(hidden, 4 * D), largest(patch, patch * o->image_channels));
    n->pass.narrow = cavmae__arena_take(device, narrow, size);
    if (e->backward) n->pass.narrow_gradient = cavmae__arena_take(device, narrow, size);
    n->pass.wide =
        cavmae__arena_take(device, largest(rows * wide_width, decoder * largest(decoder_hidden, 4 * Dd)), size);
}

static int64_t largest_weight(const cavmae__parameters *list) {
    int64_t most = 0;
    for (int64_t i = 0; i < list->count; i++)
        if (list->items[i].init == CAVMAE__INIT_MATRIX) most = largest(most, list->items[i].elements);
    return most;
}

static cavmae__limits find_limits(const cavmae__options *o, const cavmae__extent *e, int64_t weight) {
    int64_t hidden = cavmae__hidden(o->embed_dim, o->mlp_ratio),
            decoder_hidden = cavmae__hidden(o->decoder_dim, o->mlp_ratio);
    int64_t patch = o->patch_size * o->patch_size * o->image_channels;
    int64_t tokens = e->tokens[0] + e->tokens[1];
    cavmae__limits limits = {.rows = largest(largest(cavmae__joint_rows(e), (int64_t)e->clips * e->pictures),
                                             largest(e->visible[0] + e->visible[1], e->decode ? tokens : 0)),
                             .width = (int32_t)largest(largest(largest(hidden, 3 * o->embed_dim), o->classes),
                                                       largest(largest(decoder_hidden, 3 * o->decoder_dim), patch)),
                             .weight = weight,
                             .heads = (int32_t)largest(o->num_heads, o->decoder_heads),
                             .longest = e->longest[0] + e->longest[1],
                             .head_dim =
                                 (int32_t)largest(o->embed_dim / o->num_heads, o->decoder_dim / o->decoder_heads),
                             .clips = e->clips * e->pictures,
                             .pairs = e->pairs,
                             .all_pairs = e->all_pairs,
                             .tokens = e->longest[0] + e->longest[1],
                             .backward = e->backward || e->head_backward};
    return limits;
}

static cavmae__pass make_pass(cavmae_context *context, cavmae__backend *backend, const cavmae__options *o) {
    return (cavmae__pass){.context = context,
                          .backend = backend,
                          .dtype = (int32_t)o->dtype,
                          .choices = cavmae__context_choices(context),
                          .eps = (float)o->layer_norm_eps,
                          .mlp_ratio = o->mlp_ratio};
}

/* Lists of what each layer keeps: needed by the walk that only measures, too. */
static cavmae_status allocate_keep(cavmae_context *context, const cavmae__options *o, cavmae__network *n) {
    int64_t layers = 2 * o->modality_depth + o->joint_depth + o->decoder_depth;
    n->keep = cavmae__alloc_zero(context, (size_t)layers * sizeof *n->keep);
    if (!n->keep) return CAVMAE_E_NOMEM;
    n->encoder_keep[0] = n->keep;
    n->encoder_keep[1] = n->encoder_keep[0] + o->modality_depth;
    n->joint_keep = n->encoder_keep[1] + o->modality_depth;
    n->decoder_keep = n->joint_keep + o->joint_depth;
    return CAVMAE_OK;
}

static cavmae_status measure(cavmae__network *n, const cavmae__options *o, int64_t weight, size_t *device_size,
                             size_t *host_size, size_t *workspace) {
    cavmae__arena device = {0}, host = {0};
    /* So many tokens that lists of rows fit 32 bits, and products of rows and widths 64. */
    int countable = n->extent.tokens[0] + n->extent.tokens[1] <= INT32_MAX / 4;
    if (countable) layout(n, o, &device, &host);
    if (!countable || device.used == SIZE_MAX || host.used == SIZE_MAX)
        return cavmae__fail(CAVMAE_E_NOMEM, "network: a batch of %d clips needs more memory than can be addressed",
                            n->extent.clips);
    cavmae__limits limits = find_limits(o, &n->extent, weight);
    *device_size = device.used;
    *host_size = host.used;
    *workspace = n->pass.backend->ops->workspace_size(n->pass.backend, &limits);
    return CAVMAE_OK;
}

cavmae_status cavmae__network_size(cavmae_context *context, const cavmae__options *options,
                                   const cavmae__extent *extent, size_t *activations, size_t *workspace) {
    cavmae__network network = {.extent = *extent};
    cavmae__parameters list;
    cavmae__backend *backend;
    size_t host;
    CAVMAE__TRY(cavmae__context_backend(context, &backend));
    CAVMAE__TRY(cavmae__parameters_create(context, options, &list));
    cavmae_status status = allocate_keep(context, options, &network);
    network.pass = make_pass(context, backend, options);
    network.pass.recompute = (int32_t)options->recompute;
    if (status == CAVMAE_OK) status = measure(&network, options, largest_weight(&list), activations, &host, workspace);
    if (status == CAVMAE_OK) *activations += host;
    cavmae__free(context, network.keep);
    cavmae__parameters_free(context, &list);
    return status;
}

cavmae_status cavmae__network_create(cavmae_model *model, const cavmae__extent *extent, int32_t recompute,
                                     cavmae__network **out) {
    cavmae_context *context = model->context;
    cavmae__backend *backend = model->backend;
    const cavmae__options *o = &model->options;
    cavmae__network *n = cavmae__alloc_zero(context, sizeof *n);
    if (!n) return CAVMAE_E_NOMEM;
    cavmae_status status = CAVMAE_OK;
    size_t device_size, host_size, workspace;
    n->model = model;
    n->extent = *extent;
    n->pass = make_pass(context, backend, o);
    n->pass.recompute = recompute;
    n->pass.list = &model->list;
    n->pass.values = model->values;
    CAVMAE__TRY_OUT(allocate_keep(context, o, n));
    CAVMAE__TRY_OUT(measure(n, o, largest_weight(&model->list), &device_size, &host_size, &workspace));
    CAVMAE__TRY_OUT(backend->ops->alloc(backend, device_size, &n->device_memory));
    n->host_memory = cavmae__alloc(context, host_size);
    if (!n->host_memory) status = CAVMAE_E_NOMEM;
    CAVMAE__TRY_OUT(status);
    CAVMAE__TRY_OUT(backend->ops->alloc(backend, workspace, &n->pass.workspace));
    cavmae__arena device = {.base = n->device_memory}, host = {.base = n->host_memory};
    layout(n, o, &device, &host);
    const int64_t strides[2][3] = {{0, 1, o->mel_bins}, {o->image_size * o->image_size, o->image_size, 1}};
    for (int m = 0; m < 2; m++)
        n->source[m] = (cavmae__patch_source){.offset = n->rows.offset[m],
                                              .columns = n->rows.columns[m],
                                              .channel_stride = strides[m][0],
                                              .row_stride = strides[m][1],
                                              .column_stride = strides[m][2],
                                              .channels = m ? (int32_t)o->image_channels : 1,
                                              .patch = (int32_t)o->patch_size};
    *out = n;
    return CAVMAE_OK;
out:
    cavmae__network_free(n);
    return status;
}

void cavmae__network_free(cavmae__network *n) {
    if (!n) return;
    cavmae_context *context = n->pass.context;
    const cavmae__backend_ops *ops = n->pass.backend->ops;
    if (n->pass.workspace) ops->free(n->pass.backend, n->pass.workspace);
    if (n->device_memory) ops->free(n->pass.backend, n->device_memory);
    cavmae__free(context, n->host_memory);
    cavmae__free(context, n->keep);
    cavmae__free(context, n);
}

/* Clips longer than the model's: the fixed table, made again as long as they are. */
static cavmae_status lengthen_positions(cavmae__network *n, int32_t columns) {
    const cavmae__parameter *p = &n->pass.list->items[n->pass.list->positions[CAVMAE__AUDIO]];
    int64_t elements = (int64_t)p->grid_rows * columns * p->shape[2];
    float *table;
    CAVMAE__TRY(CAVMAE__NEW(n->pass.context, &table, elements));
    cavmae__sincos_2d(p->shape[2], p->grid_rows, columns, table);
    cavmae_status status =
        n->pass.backend->ops->upload(n->pass.backend, n->longer_positions, table, (size_t)elements * sizeof *table);
    cavmae__free(n->pass.context, table);
    return status;
}

cavmae_status cavmae__network_batch(cavmae__network *n, const cavmae__batch_rows *batch) {
    CAVMAE__TRY(cavmae__rows_fill(&n->rows, &n->extent, &n->pass, batch));
    if (n->longer_positions) CAVMAE__TRY(lengthen_positions(n, batch->table_columns[CAVMAE__AUDIO]));
    return CAVMAE_OK;
}
