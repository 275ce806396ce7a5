/* Small models and their inputs, for tests of lib/model, lib/train and lib/infer. */
#ifndef CAVMAE_TEST_TINY_H
#define CAVMAE_TEST_TINY_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device.h"

/* "tiny", made smaller: 2 x 4 audio tokens, 3 x 3 visual ones. */
#define SMALLEST                                                                                                       \
    "audio_frames=32 mel_bins=16 patch_size=8 image_size=24 embed_dim=16 num_heads=2 modality_depth=1 "                \
    "decoder_dim=12 decoder_heads=3 decoder_depth=1 mask_ratio_a=0.5 mask_ratio_v=0.5 batch=3"

static inline cavmae_context *tiny_context(int32_t threads) {
    const cavmae_context_options options = test_options(threads);
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    return context;
}

/* Sets "name=value name=value ..." */
static inline void tiny_set(cavmae_config *config, const char *settings) {
    char text[1024], *rest = NULL;
    snprintf(text, sizeof text, "%s", settings);
    for (char *pair = strtok_r(text, " ", &rest); pair; pair = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(pair, '=');
        *value++ = 0;
        CHECK_OK(cavmae_config_set(config, pair, value));
    }
}

static inline cavmae_config *tiny_config(cavmae_context *context, const char *settings) {
    cavmae_config *config = NULL;
    if (!CHECK_OK(cavmae_config_create(context, "tiny", &config))) exit(1);
    tiny_set(config, settings);
    return config;
}

static inline int64_t tiny_value(const cavmae_config *config, int32_t key) {
    int64_t value = 0;
    CHECK_OK(cavmae_config_get_i64(config, key, &value));
    return value;
}

/* Clips' inputs: a clip's numbers follow from its own number alone. */
typedef struct tiny_inputs {
    float *audio, *image;
    int32_t *frames; /* NULL: all as configured */
    int64_t audio_elements, image_elements;
} tiny_inputs;

static inline void tiny_fill(float *to, int64_t count, uint64_t seed) { /* [-1.7, 1.7) */
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = ((float)(state >> 40) * 0x1p-23f - 1) * 1.7f;
    }
}

/* clips `first` .. `first + count - 1`; frames [count] or NULL. */
static inline tiny_inputs tiny_make(const cavmae_config *config, int32_t first, int32_t count, const int32_t *frames) {
    int64_t mel = tiny_value(config, CAVMAE_P_MEL_BINS), configured = tiny_value(config, CAVMAE_P_AUDIO_FRAMES),
            size = tiny_value(config, CAVMAE_P_IMAGE_SIZE), channels = tiny_value(config, CAVMAE_P_IMAGE_CHANNELS);
    tiny_inputs in = {.image_elements = count * channels * size * size};
    for (int32_t i = 0; i < count; i++) in.audio_elements += (frames ? frames[i] : configured) * mel;
    in.audio = malloc((size_t)in.audio_elements * sizeof(float));
    in.image = malloc((size_t)in.image_elements * sizeof(float));
    if (frames) {
        in.frames = malloc((size_t)count * sizeof *frames);
        memcpy(in.frames, frames, (size_t)count * sizeof *frames);
    }
    float *audio = in.audio;
    for (int32_t i = 0; i < count; i++) {
        int64_t elements = (frames ? frames[i] : configured) * mel;
        tiny_fill(audio, elements, (uint64_t)(2 * (first + i)));
        tiny_fill(in.image + i * channels * size * size, channels * size * size, (uint64_t)(2 * (first + i) + 1));
        audio += elements;
    }
    return in;
}

static inline void tiny_release(tiny_inputs *in) {
    free(in->audio);
    free(in->image);
    free(in->frames);
}

static inline cavmae_batch tiny_batch(const tiny_inputs *in, int32_t count) {
    return (cavmae_batch){.struct_size = sizeof(cavmae_batch),
                          .count = count,
                          .audio = in->audio,
                          .image = in->image,
                          .audio_frames = in->frames};
}

/* A hash of every bit of every parameter. */
static inline uint64_t tiny_hash(cavmae_model *model) {
    uint64_t hash = 0xCBF29CE484222325u;
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        cavmae_tensor *tensor = NULL;
        if (!CHECK_OK(cavmae_model_parameter(model, name, &tensor))) return 0;
        const uint8_t *bytes = cavmae_tensor_data(tensor);
        for (int64_t k = 0; k < cavmae_tensor_elements(tensor) * 4; k++) hash = (hash ^ bytes[k]) * 0x100000001B3u;
        cavmae_tensor_free(tensor);
    }
    return hash;
}

/* A model, its optimizer and its trainer, made from one configuration. */
typedef struct tiny_training {
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
} tiny_training;

static inline tiny_training tiny_train_in(cavmae_context *context, const char *settings) {
    tiny_training t = {.context = context, .config = tiny_config(context, settings)};
    if (!CHECK_OK(cavmae_model_create(t.config, &t.model)) ||
        !CHECK_OK(cavmae_optimizer_create(t.model, t.config, &t.optimizer)) ||
        !CHECK_OK(cavmae_trainer_create(t.model, t.optimizer, t.config, &t.trainer)))
        exit(1);
    return t;
}

static inline tiny_training tiny_train(int32_t threads, const char *settings) {
    return tiny_train_in(tiny_context(threads), settings);
}

static inline void tiny_train_free(tiny_training *t) {
    cavmae_trainer_free(t->trainer);
    cavmae_optimizer_free(t->optimizer);
    cavmae_model_free(t->model);
    cavmae_config_free(t->config);
    cavmae_context_free(t->context);
}

/* One step on `count` clips from `first` on; a failure gives a result of zeros. */
static inline cavmae_step_result tiny_step(tiny_training *t, int32_t first, int32_t count) {
    cavmae_step_result result = {.struct_size = sizeof result};
    tiny_inputs in = tiny_make(t->config, first, count, NULL);
    const cavmae_batch batch = tiny_batch(&in, count);
    CHECK_OK(cavmae_pretrain_step(t->trainer, &batch, &result));
    tiny_release(&in);
    return result;
}

#endif
