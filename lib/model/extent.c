/* Extents of tasks, and the memory they take. */
#include "extent.h"

#include "network.h"
#include "record.h"

/* Lists of rows are 32-bit. */
static cavmae_status check_tokens(int64_t tokens) {
    if (tokens > INT32_MAX / 8)
        return cavmae__fail(CAVMAE_E_SHAPE, "config: %lld tokens in a clip are too many", (long long)tokens);
    return CAVMAE_OK;
}

cavmae_status cavmae__pretrain_extent(const cavmae__options *o, int32_t clips, int backward, cavmae__extent *out) {
    cavmae__extent e = {.clips = clips, .masked = 1, .backward = backward};
    const int has[2] = {o->modalities != CAVMAE__MODALITIES_V, o->modalities != CAVMAE__MODALITIES_A};
    const double ratio[2] = {o->mask_ratio_a, o->mask_ratio_v};
    int64_t grid = o->image_size / o->patch_size;
    int64_t tokens[2] = {(o->mel_bins / o->patch_size) * (o->audio_frames / o->patch_size), grid * grid};
    int both = has[0] && has[1], joint = o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT;
    for (int m = 0; m < 2; m++) {
        if (!has[m]) continue;
        CAVMAE__TRY(check_tokens(tokens[m]));
        int64_t kept = joint ? tokens[m] : (int64_t)((double)tokens[m] * (1 - ratio[m]));
        e.longest[m] = (int32_t)tokens[m];
        e.tokens[m] = clips * tokens[m];
        e.visible[m] = clips * kept;
    }
    e.decode = o->mae_weight > 0;
    e.pool = both && o->contrast_weight > 0;
    e.streams = (both && e.decode ? CAVMAE__STREAM_BOTH : 0) |
                (e.pool || !both ? (has[0] ? CAVMAE__STREAM_A : 0) | (has[1] ? CAVMAE__STREAM_V : 0) : 0);
    if (!e.decode && !e.pool)
        return cavmae__fail(CAVMAE_E_ARG, "config: mae_weight and contrast_weight leave nothing to train on");
    /* torch's variance of one number is NaN. */
    if (e.decode && o->norm_pix_loss && o->patch_size == 1 && (has[0] || o->image_channels == 1))
        return cavmae__fail(CAVMAE_E_ARG, "config: norm_pix_loss needs patches of more than one number (patch_size 1)");
    *out = e;
    return CAVMAE_OK;
}

cavmae_status cavmae__embed_extent(const cavmae__options *o, int32_t clips, int32_t streams, const int32_t columns[2],
                                   cavmae__extent *out) {
    cavmae__extent e = {.clips = clips, .streams = streams};
    const int64_t rows[2] = {o->mel_bins / o->patch_size, o->image_size / o->patch_size};
    const int32_t uses[2] = {CAVMAE__STREAM_BOTH | CAVMAE__STREAM_A, CAVMAE__STREAM_BOTH | CAVMAE__STREAM_V};
    for (int m = 0; m < 2; m++) {
        if (!(streams & uses[m])) continue;
        CAVMAE__TRY(check_tokens(rows[m] * columns[m]));
        e.longest[m] = (int32_t)(rows[m] * columns[m]);
        e.tokens[m] = e.visible[m] = (int64_t)clips * e.longest[m];
    }
    *out = e;
    return CAVMAE_OK;
}

int32_t cavmae__embed_clips(const cavmae__options *o, int32_t clips, int32_t streams, const int32_t columns[2]) {
    enum { ROWS = 1024 };
    cavmae__extent one;
    if (cavmae__embed_extent(o, 1, streams, columns, &one) != CAVMAE_OK) return 1;
    int64_t most = ROWS / (one.tokens[0] + one.tokens[1]);
    return most < 1 ? 1 : most < clips ? (int32_t)most : clips;
}

/* Handles, a copy of the configuration, lists of layers: little, but the total is an upper bound. */
enum { RECORDS = 64 << 10 };

cavmae_status cavmae_memory_required(const cavmae_config *config, int32_t task, int32_t batch, cavmae_memory *out) {
    cavmae__options o;
    cavmae__extent extent;
    cavmae__parameters list;
    cavmae_memory memory = {0}, unused;
    size_t activations, workspace;
    CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, out));
    CAVMAE__TRY(cavmae__config_options(config, &o));
    if (batch < 1) return cavmae__fail(CAVMAE_E_ARG, "memory: batch %d is not positive", batch);
    const int32_t columns[2] = {(int32_t)(o.audio_frames / o.patch_size), (int32_t)(o.image_size / o.patch_size)};
    const int32_t streams = o.modalities == CAVMAE__MODALITIES_AV
                                ? CAVMAE__STREAM_BOTH | CAVMAE__STREAM_A | CAVMAE__STREAM_V
                            : o.modalities == CAVMAE__MODALITIES_A ? CAVMAE__STREAM_A
                                                                   : CAVMAE__STREAM_V;
    if (task == CAVMAE_TASK_PRETRAIN)
        CAVMAE__TRY(cavmae__pretrain_extent(&o, batch, 1, &extent));
    else if (task == CAVMAE_TASK_EMBED)
        CAVMAE__TRY(
            cavmae__embed_extent(&o, cavmae__embed_clips(&o, batch, streams, columns), streams, columns, &extent));
    else
        return cavmae__fail(CAVMAE_E_ARG, "memory: there is no task %d", task);
    cavmae_context *context = cavmae__config_context(config);
    CAVMAE__TRY(cavmae__network_size(context, &o, &extent, &activations, &workspace));
    CAVMAE__TRY(cavmae__parameters_create(context, &o, &list));
    memory.parameters = list.flat_elements * (int64_t)sizeof(float);
    memory.elements = list.elements;
    memory.trainable = list.trainable_elements;
    int64_t names = list.count * (int64_t)sizeof *list.items;
    cavmae__parameters_free(context, &list);
    if (task == CAVMAE_TASK_PRETRAIN) {
        memory.gradients = memory.parameters;
        memory.moments = 2 * memory.parameters;
    }
    int64_t inputs = extent.tokens[0] * o.patch_size * o.patch_size +
                     extent.tokens[1] * o.patch_size * o.patch_size * o.image_channels;
    if (task == CAVMAE_TASK_EMBED)
        inputs += 4 * extent.clips * o.embed_dim; /* pooled rows: three streams' and one on the host */
    memory.activations = (int64_t)activations + inputs * (int64_t)sizeof(float);
    memory.workspace = (int64_t)workspace + names + RECORDS;
    memory.total = memory.parameters + memory.gradients + memory.moments + memory.activations + memory.workspace;
    return cavmae__record_out(out, &memory, sizeof memory);
}
