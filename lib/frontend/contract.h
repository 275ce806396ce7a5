/* The input contract: what must happen to sound and pictures between a decoder and the model. */
#ifndef CAVMAE_FRONTEND_CONTRACT_H
#define CAVMAE_FRONTEND_CONTRACT_H

#include "context.h"

enum { CAVMAE__CHANNEL_FIRST, CAVMAE__CHANNEL_MEAN };
enum { CAVMAE__RESAMPLE_BEST, CAVMAE__RESAMPLE_MEDIUM, CAVMAE__RESAMPLE_FASTEST };
enum { CAVMAE__LENGTH_PAD, CAVMAE__LENGTH_SILENCE, CAVMAE__LENGTH_NATIVE };
enum { CAVMAE__FILTER_BICUBIC, CAVMAE__FILTER_BILINEAR };
enum { CAVMAE__MAX_IMAGE_CHANNELS = 16 };

typedef struct cavmae__audio_contract {
    int32_t sample_rate, channel, resampler, length; /* the enums above */
    int32_t mel_bins, frames, patch_size;            /* F, T, p */
    float mean, std;
} cavmae__audio_contract;

typedef struct cavmae__image_contract {
    int32_t size, channels, filter;
    float mean[CAVMAE__MAX_IMAGE_CHANNELS], std[CAVMAE__MAX_IMAGE_CHANNELS];
} cavmae__image_contract;

/* pcm [samples, channels] interleaved, in [-1, 1). *out [*frames, mel_bins], the context's memory, the caller's to
 * free; *frames is contract->frames, or with CAVMAE__LENGTH_NATIVE the clip's own, rounded up to a patch. */
cavmae_status cavmae__prepare_audio(cavmae_context *context, const cavmae__audio_contract *contract, const float *pcm,
                                    int64_t samples, int32_t channels, int32_t rate, float **out, int64_t *frames);

/* pixels [height, width, channels] uint8, rows stride bytes apart; out [channels, size, size]. */
cavmae_status cavmae__prepare_image(cavmae_context *context, const cavmae__image_contract *contract,
                                    const uint8_t *pixels, int32_t width, int32_t height, int64_t stride, float *out);

#endif
