#define _GNU_SOURCE
#include "embed_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program.h"
#include "training.h"

output new_output(cavmae_model *model, int32_t kind, int32_t tokens, int64_t clips) {
    output o = {.kind = kind, .tokens = tokens, .rows = 1};
    int64_t patch, image, frames, bins;
    const char *length;
    cavmae_config *config;
    check(cavmae_model_config(model, &config));
    check(cavmae_config_get_i64(config, CAVMAE_P_EMBED_DIM, &o.dim));
    check(cavmae_config_get_i64(config, CAVMAE_P_PATCH_SIZE, &patch));
    check(cavmae_config_get_i64(config, CAVMAE_P_IMAGE_SIZE, &image));
    check(cavmae_config_get_i64(config, CAVMAE_P_AUDIO_FRAMES, &frames));
    check(cavmae_config_get_i64(config, CAVMAE_P_MEL_BINS, &bins));
    check(cavmae_config_get_str(config, CAVMAE_P_AUDIO_LENGTH, &length));
    if (tokens) {
        if (kind != KIND_VISUAL && !strcmp(length, "native"))
            die("--tokens: with audio_length native each clip has as many tokens as it is long");
        int64_t la = bins / patch * (frames / patch), lv = image / patch * (image / patch);
        o.rows = (kind != KIND_VISUAL ? la : 0) + (kind != KIND_AUDIO ? lv : 0);
    }
    cavmae_config_free(config);
    o.values = allocate((size_t)(clips * o.rows * o.dim), sizeof *o.values);
    return o;
}

void request(cavmae_embedding *e, const output *o, int64_t clip) {
    float **const pooled[] = {&e->audio, &e->visual, &e->joint};
    float **const tokens[] = {&e->audio_tokens, &e->visual_tokens, &e->joint_tokens};
    *(o->tokens ? tokens : pooled)[o->kind] = o->values + clip * o->rows * o->dim;
}

cavmae_config *gallery_config(const cavmae_model *model) {
    cavmae_config *config;
    check(cavmae_model_config(model, &config));
    take_data_as_it_is(config);
    check(cavmae_config_set_i64(config, CAVMAE_P_BATCH, 16));
    return config;
}

cavmae_loader *open_gallery(cavmae_model *model, const char *manifest, const char *labels) {
    cavmae_loader *loader;
    cavmae_config *config = gallery_config(model);
    check(cavmae_loader_create(config, manifest, labels, &loader));
    cavmae_config_free(config);
    return loader;
}

clip_list embed_gallery(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count) {
    int64_t most = cavmae_loader_count(loader);
    clip_list clips = {.classes = cavmae_loader_classes(loader)};
    clips.samples = allocate((size_t)most, sizeof *clips.samples);
    if (clips.classes) clips.labels = allocate((size_t)(most * clips.classes), 1);
    for (;;) {
        const cavmae_batch *batch;
        cavmae_embedding request_all = {.struct_size = sizeof request_all};
        check(cavmae_loader_next(loader, &batch));
        if (!batch) break;
        for (int32_t i = 0; i < count; i++) request(&request_all, &outputs[i], clips.count);
        check(cavmae_embed(model, batch, &request_all));
        memcpy(clips.samples + clips.count, batch->samples, (size_t)batch->count * sizeof *clips.samples);
        for (int64_t i = 0; clips.labels && i < (int64_t)batch->count * clips.classes; i++)
            clips.labels[clips.count * clips.classes + i] = batch->labels[i] > 0.5f;
        clips.count += batch->count;
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%lld of %lld clips", (long long)clips.count, (long long)most);
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    return clips;
}

void free_clips(clip_list *clips) {
    free(clips->samples);
    free(clips->labels);
}
