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
    cavmae__extent e = {.clips = clips, .pictures = 1, .masked = 1, .backward = backward};
    const double ratio[2] = {o->mask_ratio_a, o->mask_ratio_v};
    int64_t grid = o->image_size / o->patch_size;
    int64_t tokens[2] = {(o->mel_bins / o->patch_size) * (o->audio_frames / o->patch_size), grid * grid};
    int both = o->modalities == CAVMAE__MODALITIES_AV, joint = o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT;
    int32_t single = 0;
    for (int m = 0; m < 2; m++) {
        if (!cavmae__has_modality(o, m)) continue;
        CAVMAE__TRY(check_tokens(tokens[m]));
        int64_t kept = joint ? tokens[m] : (int64_t)((double)tokens[m] * (1 - ratio[m]));
        e.longest[m] = (int32_t)tokens[m];
        e.tokens[m] = clips * tokens[m];
        e.visible[m] = clips * kept;
        single |= m == CAVMAE__AUDIO ? CAVMAE__STREAM_A : CAVMAE__STREAM_V;
    }
    e.decode = o->mae_weight > 0;
    if (both && o->contrast_weight > 0) e.pool = single;
    e.streams = (both && e.decode ? CAVMAE__STREAM_BOTH : 0) | (e.pool || !both ? single : 0);
    if (!e.decode && !e.pool)
        return cavmae__fail(CAVMAE_E_ARG, "config: mae_weight and contrast_weight leave nothing to train on");
    if (e.decode && !cavmae__has_decoder(o))
        return cavmae__fail(CAVMAE_E_ARG, "config: mae_weight above 0 needs a model with a decoder (key decoder)");
    /* torch's variance of one number is NaN. */
    if (e.decode && o->norm_pix_loss && o->patch_size == 1 &&
        (cavmae__has_modality(o, CAVMAE__AUDIO) || o->image_channels == 1))
        return cavmae__fail(CAVMAE_E_ARG, "config: norm_pix_loss needs patches of more than one number (patch_size 1)");
    *out = e;
    return CAVMAE_OK;
}

int32_t cavmae__mode_streams(const cavmae__options *o, int64_t mode) {
    switch (mode) {
    case CAVMAE_MODE_AUDIO_ONLY: return CAVMAE__STREAM_A;
    case CAVMAE_MODE_VIDEO_ONLY: return CAVMAE__STREAM_V;
    case CAVMAE_MODE_MISSING_AUDIO_ONLY: return CAVMAE__STREAM_BOTH | CAVMAE__STREAM_A;
    case CAVMAE_MODE_MISSING_VIDEO_ONLY: return CAVMAE__STREAM_BOTH | CAVMAE__STREAM_V;
    default: return o->head_input == CAVMAE__INPUT_JOINT ? CAVMAE__STREAM_BOTH : CAVMAE__STREAM_A | CAVMAE__STREAM_V;
    }
}

/* Every clip may lose a modality, so both single streams are computed for all: the encoders before them are most of the
 * work, and are not computed twice. */
cavmae_status cavmae__finetune_extent(const cavmae__options *o, int32_t clips, int backward, cavmae__extent *out) {
    cavmae__extent e;
    int32_t streams = cavmae__mode_streams(o, o->mode);
    if (o->modality_dropout > 0) streams |= CAVMAE__STREAM_A | CAVMAE__STREAM_V;
    const int32_t columns[2] = {
        cavmae__mode_uses(o->mode, CAVMAE__AUDIO) ? (int32_t)(o->audio_frames / o->patch_size) : 0,
        cavmae__mode_uses(o->mode, CAVMAE__VISUAL) ? (int32_t)(o->image_size / o->patch_size) : 0};
    CAVMAE__TRY(cavmae__embed_extent(o, clips, 1, streams, columns, &e));
    e.pool = streams;
    e.head = CAVMAE__LOGITS;
    e.head_backward = backward;
    e.backward = backward && !o->freeze_base;
    *out = e;
    return CAVMAE_OK;
}

cavmae_status cavmae__embed_extent(const cavmae__options *o, int32_t clips, int32_t pictures, int32_t streams,
                                   const int32_t columns[2], cavmae__extent *out) {
    cavmae__extent e = {.clips = clips, .pictures = pictures, .streams = streams};
    const int64_t rows[2] = {o->mel_bins / o->patch_size, o->image_size / o->patch_size};
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(check_tokens(rows[m] * columns[m] * (m == CAVMAE__VISUAL ? pictures : 1)));
        e.longest[m] = (int32_t)(rows[m] * columns[m]);
        e.tokens[m] = e.visible[m] = (int64_t)cavmae__units(&e, m) * e.longest[m];
    }
    *out = e;
    return CAVMAE_OK;
}

int32_t cavmae__embed_clips(const cavmae__options *o, int32_t clips, int32_t pictures, int32_t streams,
                            const int32_t columns[2]) {
    enum { ROWS = 1024 };
    cavmae__extent one;
    if (cavmae__embed_extent(o, 1, pictures, streams, columns, &one) != CAVMAE_OK) return 1;
    int64_t most = ROWS / (one.tokens[0] + one.tokens[1]);
    return most < 1 ? 1 : most < clips ? (int32_t)most : clips;
}

/* All streams, and the head, of one picture a clip. */
static cavmae_status largest_embed_extent(const cavmae__options *o, int32_t batch, cavmae__extent *out) {
    int32_t columns[2] = {(int32_t)(o->audio_frames / o->patch_size), (int32_t)(o->image_size / o->patch_size)};
    int32_t streams = CAVMAE__STREAM_BOTH | CAVMAE__STREAM_A | CAVMAE__STREAM_V;
    for (int m = 0; m < 2; m++)
        if (!cavmae__has_modality(o, m)) {
            columns[m] = 0;
            streams = m == CAVMAE__AUDIO ? CAVMAE__STREAM_V : CAVMAE__STREAM_A;
        }
    CAVMAE__TRY(cavmae__embed_extent(o, cavmae__embed_clips(o, batch, 1, streams, columns), 1, streams, columns, out));
    out->pool = streams;
    out->head = o->classes ? CAVMAE__LOGITS : CAVMAE__FEATURES;
    return CAVMAE_OK;
}

/* What a world adds to gradients and takes from moments: lib/train/exchange.h, pieces.h, contrast.h. */
static void add_world(const cavmae__options *o, const cavmae_world *world, int32_t batch, const cavmae__extent *extent,
                      cavmae_memory *memory) {
    const int64_t size = cavmae_world_size(world), row = 4 * o->embed_dim * (int64_t)sizeof(float);
    const int global = size > 1 && o->contrast_scope == CAVMAE__SCOPE_GLOBAL;
    if (extent->pool && !o->classes && (global || extent->clips < batch)) memory->activations += batch * row;
    if (extent->pool && !o->classes && global) memory->activations += 2 * size * batch * row;
    if (size > 1 && o->reduce_dtype != CAVMAE_FLOAT32) memory->gradients += memory->parameters / 2;
    if (size < 2 || !o->shard_optimizer) return;
    const int64_t part =
        memory->parameters / size + (int64_t)(o->bucket_mb * 0x1p20); /* at most, with what is left over */
    memory->moments = 2 * (part < memory->parameters ? part : memory->parameters);
    memory->gradients += memory->moments / 2;
}

/* Handles, a copy of the configuration, lists of layers: little, but the total is an upper bound. */
enum { RECORDS = 64 << 10 };

cavmae_status cavmae_memory_required(const cavmae_config *config, int32_t task, int32_t batch, cavmae_memory *out) {
    cavmae__options o;
    cavmae__extent extent;
    cavmae__parameters list;
    cavmae_memory memory = {0}, unused;
    size_t activations, workspace;
    cavmae__backend *backend;
    CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, out));
    CAVMAE__TRY(cavmae__config_options(config, &o));
    if (batch < 1) return cavmae__fail(CAVMAE_E_ARG, "memory: batch %d is not positive", batch);
    if (task == CAVMAE_TASK_PRETRAIN)
        CAVMAE__TRY(cavmae__pretrain_extent(&o, o.chunk && o.chunk < batch ? (int32_t)o.chunk : batch, 1, &extent));
    else if (task == CAVMAE_TASK_EMBED)
        CAVMAE__TRY(largest_embed_extent(&o, batch, &extent));
    else if (task == CAVMAE_TASK_FINETUNE && o.classes)
        CAVMAE__TRY(cavmae__finetune_extent(&o, batch, 1, &extent));
    else if (task == CAVMAE_TASK_FINETUNE)
        return cavmae__fail(CAVMAE_E_ARG, "memory: fine-tuning needs a head (key classes)");
    else
        return cavmae__fail(CAVMAE_E_ARG, "memory: there is no task %d", task);
    cavmae_context *context = cavmae__config_context(config);
    const cavmae_world *world = cavmae__config_world(config);
    if (task == CAVMAE_TASK_PRETRAIN) {
        const int64_t all = (int64_t)batch * (o.contrast_scope == CAVMAE__SCOPE_GLOBAL ? cavmae_world_size(world) : 1);
        extent.pairs = batch;
        extent.all_pairs = all < INT32_MAX ? (int32_t)all : INT32_MAX;
    }
    CAVMAE__TRY(cavmae__context_backend(context, &backend));
    CAVMAE__TRY(cavmae__network_size(context, &o, &extent, &activations, &workspace));
    CAVMAE__TRY(cavmae__parameters_create(context, &o, &list));
    memory.parameters = list.flat_elements * (int64_t)sizeof(float);
    memory.elements = list.elements;
    memory.trainable = list.trainable_elements;
    int64_t names = list.count * (int64_t)sizeof *list.items;
    cavmae__parameters_free(context, &list);
    if (task != CAVMAE_TASK_EMBED) {
        memory.gradients = memory.parameters;
        memory.moments = 2 * memory.parameters;
    }
    int64_t inputs = extent.tokens[0] * o.patch_size * o.patch_size +
                     extent.tokens[1] * o.patch_size * o.patch_size * o.image_channels;
    if (task == CAVMAE_TASK_PRETRAIN) inputs = inputs / extent.clips * batch;
    if (task == CAVMAE_TASK_EMBED)
        inputs += extent.clips * (o.embed_dim + o.classes); /* rows on the host */
    else
        inputs *= cavmae__input_turns(backend);
    memory.activations = (int64_t)activations + inputs * (int64_t)sizeof(float);
    memory.workspace = (int64_t)workspace + names + RECORDS;
    if (task != CAVMAE_TASK_EMBED) add_world(&o, world, batch, &extent, &memory);
    memory.total = memory.parameters + memory.gradients + memory.moments + memory.activations + memory.workspace;
    return cavmae__record_out(out, &memory, sizeof memory);
}
