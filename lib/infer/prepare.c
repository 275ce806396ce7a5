/* The public front-end: the input contract of a config, applied. */
#include <string.h>

#include "config.h"
#include "tensor.h"

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
static cavmae_status wrap_owned(cavmae_context *context, void *memory, int32_t dims, const int64_t *shape,
                                cavmae_tensor **out) {
    owned *own;
    cavmae_status status = CAVMAE__NEW(context, &own, 1);
    if (status == CAVMAE_OK) {
        *own = (owned){cavmae__context_ref(context), memory};
        status = cavmae_tensor_wrap(context, memory, CAVMAE_FLOAT32, dims, shape, release_owned, own, out);
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
    return wrap_owned(context, audio, 2, shape, out);
}

cavmae_status cavmae_resample(const cavmae_config *config, const float *pcm, int64_t samples, int32_t channels,
                              int32_t rate, cavmae_tensor **out) {
    cavmae__options o;
    float *memory;
    const float *waveform;
    int64_t count;
    if (!pcm || !out) return cavmae__fail(CAVMAE_E_ARG, "resample: pcm or out is NULL");
    CAVMAE__TRY(cavmae__config_options(config, &o));
    cavmae_context *context = cavmae__config_context(config);
    CAVMAE__TRY(cavmae__prepare_waveform(context, &o.audio, pcm, samples, channels, rate, &memory, &waveform, &count));
    if (!memory) { /* the caller's samples as they are: the tensor has its own */
        CAVMAE__TRY(CAVMAE__NEW(context, &memory, count));
        memcpy(memory, waveform, (size_t)count * sizeof *memory);
    }
    return wrap_owned(context, memory, 1, &count, out);
}

cavmae_status cavmae_prepare_image(const cavmae_config *config, const uint8_t *pixels, int32_t width, int32_t height,
                                   int64_t stride, float *out) {
    cavmae__options o;
    if (!pixels || !out) return cavmae__fail(CAVMAE_E_ARG, "prepare image: pixels or out is NULL");
    CAVMAE__TRY(cavmae__config_options(config, &o));
    return cavmae__prepare_image(cavmae__config_context(config), &o.image, pixels, width, height,
                                 stride ? stride : width * o.image_channels, out);
}

cavmae_status cavmae_resize_image(const cavmae_config *config, const uint8_t *pixels, int32_t width, int32_t height,
                                  int64_t stride, uint8_t *out) {
    cavmae__options o;
    if (!pixels || !out) return cavmae__fail(CAVMAE_E_ARG, "resize image: pixels or out is NULL");
    CAVMAE__TRY(cavmae__config_options(config, &o));
    return cavmae__prepare_pixels(cavmae__config_context(config), &o.image, pixels, width, height,
                                  stride ? stride : width * o.image_channels, out);
}
