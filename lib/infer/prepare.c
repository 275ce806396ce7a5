/* The public front-end: the input contract of a config, applied; and media files straight to embeddings. */
#include <string.h>

#include "media.h"
#include "model.h"
#include "record.h"

/* A tensor that frees a context's memory with it. */
typedef struct owned {
    cavmae_context *context;
    void *memory;
} owned;

static void release_owned(void *user) {
    owned *own = user;
    cavmae_context *context = own->context;
    cavmae__free(context, own->memory);
    cavmae__free(context, own);
    cavmae__context_unref(context);
}

/* Takes `memory` over, also when it fails. */
static cavmae_status wrap_owned(cavmae_context *context, void *memory, const int64_t shape[2], cavmae_tensor **out) {
    owned *own;
    cavmae_status status = CAVMAE__NEW(context, &own, 1);
    if (status == CAVMAE_OK) {
        *own = (owned){cavmae__context_ref(context), memory};
        status = cavmae_tensor_wrap(context, memory, CAVMAE_FLOAT32, 2, shape, release_owned, own, out);
        if (status != CAVMAE_OK) release_owned(own);
        return status;
    }
    cavmae__free(context, memory);
    return status;
}

cavmae_status cavmae_prepare_audio(const cavmae_config *config, const float *pcm, int64_t samples, int32_t channels,
                                   int32_t rate, cavmae_tensor **out) {
    cavmae__options o;
    float *audio;
    int64_t frames;
    if (!pcm || !out) return cavmae__fail(CAVMAE_E_ARG, "prepare audio: pcm or out is NULL");
    CAVMAE__TRY(cavmae__config_options(config, &o));
    cavmae_context *context = cavmae__config_context(config);
    CAVMAE__TRY(cavmae__prepare_audio(context, &o.audio, pcm, samples, channels, rate, &audio, &frames));
    const int64_t shape[2] = {frames, o.mel_bins};
    return wrap_owned(context, audio, shape, out);
}

cavmae_status cavmae_prepare_image(const cavmae_config *config, const uint8_t *pixels, int32_t width, int32_t height,
                                   int64_t stride, float *out) {
    cavmae__options o;
    if (!pixels || !out) return cavmae__fail(CAVMAE_E_ARG, "prepare image: pixels or out is NULL");
    CAVMAE__TRY(cavmae__config_options(config, &o));
    return cavmae__prepare_image(cavmae__config_context(config), &o.image, pixels, width, height,
                                 stride ? stride : width * o.image_channels, out);
}

/* Sound of `path` as model input; *audio is the caller's to free. */
static cavmae_status load_audio(cavmae_model *model, const char *path, float **audio, int64_t *frames) {
    float *pcm;
    int64_t samples;
    int32_t channels, rate;
    CAVMAE__TRY(cavmae__media_audio(model->context, path, &pcm, &samples, &channels, &rate));
    cavmae_status status =
        cavmae__prepare_audio(model->context, &model->options.audio, pcm, samples, channels, rate, audio, frames);
    cavmae__free(model->context, pcm);
    return status == CAVMAE_OK ? status : cavmae__fail_prefix(status, "%s", path);
}

/* The middle of clip_frames frames chosen uniformly: frame i is at i / clip_frames of the length. */
static cavmae_status load_image(cavmae_model *model, const char *path, float **image) {
    const cavmae__options *o = &model->options;
    cavmae_media_info info = {.struct_size = sizeof info};
    uint8_t *rgb;
    float *prepared = NULL;
    int32_t width, height;
    if (o->image_channels != 3)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: the model takes %lld channels, a picture has 3", path,
                            (long long)o->image_channels);
    CAVMAE__TRY(cavmae_media_probe(model->context, path, &info));
    double seconds = info.seconds * (double)(o->clip_frames / 2) / (double)o->clip_frames;
    CAVMAE__TRY(cavmae__media_frame(model->context, path, seconds, &rgb, &width, &height));
    cavmae_status status = CAVMAE__NEW(model->context, &prepared, 3 * o->image_size * o->image_size);
    if (status == CAVMAE_OK)
        status = cavmae__prepare_image(model->context, &o->image, rgb, width, height, (int64_t)width * 3, prepared);
    cavmae__free(model->context, rgb);
    if (status != CAVMAE_OK) {
        cavmae__free(model->context, prepared);
        return cavmae__fail_prefix(status, "%s", path);
    }
    *image = prepared;
    return CAVMAE_OK;
}

cavmae_status cavmae_embed_file(cavmae_model *model, const char *path, const cavmae_embedding *out) {
    cavmae_embedding own;
    float *audio = NULL, *image = NULL;
    int64_t frames = 0;
    cavmae_status status = CAVMAE_OK;
    if (!model || !path) return cavmae__fail(CAVMAE_E_ARG, "embed file: model or path is NULL");
    CAVMAE__TRY(cavmae__record_in(&own, sizeof own, out));
    int joint = own.joint || own.joint_tokens;
    if (joint || own.audio || own.audio_tokens) CAVMAE__TRY_OUT(load_audio(model, path, &audio, &frames));
    if (joint || own.visual || own.visual_tokens) CAVMAE__TRY_OUT(load_image(model, path, &image));
    const int32_t audio_frames = (int32_t)frames;
    const cavmae_batch batch = {.struct_size = sizeof batch,
                                .count = 1,
                                .audio = audio,
                                .image = image,
                                .audio_frames = audio ? &audio_frames : NULL};
    own.struct_size = sizeof own;
    status = cavmae_embed(model, &batch, &own);
    if (status != CAVMAE_OK) status = cavmae__fail_prefix(status, "%s", path);
out:
    cavmae__free(model->context, audio);
    cavmae__free(model->context, image);
    return status;
}
