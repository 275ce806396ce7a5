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

clip_list new_clips(const cavmae_loader *loader, int64_t room) {
    clip_list clips = {.classes = cavmae_loader_classes(loader)};
    clips.samples = allocate((size_t)room, sizeof *clips.samples);
    if (clips.classes) clips.labels = allocate((size_t)(room * clips.classes), 1);
    return clips;
}

int32_t embed_next(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count, int64_t room,
                   clip_list *clips) {
    const cavmae_batch *batch;
    cavmae_embedding request_all = {.struct_size = sizeof request_all};
    check(cavmae_loader_next(loader, &batch));
    if (!batch) return 0;
    cavmae_batch part = *batch;
    if (part.count > room - clips->count) part.count = (int32_t)(room - clips->count);
    for (int32_t i = 0; i < count; i++) request(&request_all, &outputs[i], clips->count);
    check(cavmae_embed(model, &part, &request_all));
    memcpy(clips->samples + clips->count, part.samples, (size_t)part.count * sizeof *clips->samples);
    for (int64_t i = 0; clips->labels && i < (int64_t)part.count * clips->classes; i++)
        clips->labels[clips->count * clips->classes + i] = part.labels[i] > 0.5f;
    clips->count += part.count;
    return batch->count;
}

clip_list embed_gallery(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count) {
    int64_t most = cavmae_loader_count(loader);
    clip_list clips = new_clips(loader, most);
    while (embed_next(model, loader, outputs, count, most, &clips))
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%lld of %lld clips", (long long)clips.count, (long long)most);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    return clips;
}

void free_clips(clip_list *clips) {
    free(clips->samples);
    free(clips->labels);
}

cavmae_tensor *wrap(cavmae_context *context, void *data, int32_t dtype, int32_t dims, const int64_t *shape) {
    cavmae_tensor *tensor;
    check(cavmae_tensor_wrap(context, data, dtype, dims, shape, NULL, NULL, &tensor));
    return tensor;
}

void save_clips(cavmae_context *context, const char *path, const char *kind, const output *o, const clip_list *clips,
                const char *key, const char *value) {
    int64_t rows[] = {clips->count, o->dim}, tokens[] = {clips->count, o->rows, o->dim},
            labels[] = {clips->count, clips->classes};
    int32_t deep = o->tokens || o->rows > 1;
    cavmae_tensor *tensors[3] = {wrap(context, o->values, CAVMAE_FLOAT32, deep ? 3 : 2, deep ? tokens : rows)};
    if (ends_with(path, ".npy")) {
        check(cavmae_tensor_save_npy(tensors[0], path));
    } else {
        const char *names[3] = {kind};
        int64_t count = 1;
        if (clips->samples) {
            names[count] = "samples";
            tensors[count++] = wrap(context, clips->samples, CAVMAE_INT64, 1, &clips->count);
        }
        if (clips->labels) {
            names[count] = "labels";
            tensors[count++] = wrap(context, clips->labels, CAVMAE_UINT8, 2, labels);
        }
        check(cavmae_safetensors_save(context, path, count, names, (const cavmae_tensor *const *)tensors, key != NULL,
                                      &key, &value));
    }
    for (int i = 0; i < 3; i++) cavmae_tensor_free(tensors[i]);
    printf("%s: %lld clips, %s [", path, (long long)clips->count, kind);
    if (deep) printf("%lld, ", (long long)o->rows);
    printf("%lld]\n", (long long)o->dim);
}
