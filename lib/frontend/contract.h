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

/* The contract's one channel of pcm [samples, channels]: mono [samples]. */
void cavmae__choose_channel(int32_t channel, const float *pcm, int64_t samples, int32_t channels, float *mono);

/* The first half of cavmae__prepare_audio: pcm to *out [*count], one channel at the contract's rate, of a window at
 * least. *owned holds it, the caller's to free, or is NULL where pcm itself is already that. */
cavmae_status cavmae__prepare_waveform(cavmae_context *context, const cavmae__audio_contract *contract,
                                       const float *pcm, int64_t samples, int32_t channels, int32_t rate, float **owned,
                                       const float **out, int64_t *count);

/* Rows that a waveform of `count` samples becomes: the contract's, or with CAVMAE__LENGTH_NATIVE the clip's own, rounded
 * up to a patch. */
int64_t cavmae__prepared_frames(const cavmae__audio_contract *contract, int64_t count);

/* The second half: such a waveform to *out, as below. */
cavmae_status cavmae__prepare_rows(cavmae_context *context, const cavmae__audio_contract *contract,
                                   const float *waveform, int64_t count, float **out, int64_t *frames);

/* pcm [samples, channels] interleaved, in [-1, 1). *out [*frames, mel_bins], the context's memory, the caller's to
 * free. */
cavmae_status cavmae__prepare_audio(cavmae_context *context, const cavmae__audio_contract *contract, const float *pcm,
                                    int64_t samples, int32_t channels, int32_t rate, float **out, int64_t *frames);

/* pixels [height, width, channels] uint8, rows stride bytes apart; out [channels, size, size]. */
cavmae_status cavmae__prepare_image(cavmae_context *context, const cavmae__image_contract *contract,
                                    const uint8_t *pixels, int32_t width, int32_t height, int64_t stride, float *out);

/* Its two halves: resized and cropped to out uint8 [size, size, channels]; and such pixels to what it gives. */
cavmae_status cavmae__prepare_pixels(cavmae_context *context, const cavmae__image_contract *contract,
                                     const uint8_t *pixels, int32_t width, int32_t height, int64_t stride,
                                     uint8_t *out);
void cavmae__normalise_pixels(const cavmae__image_contract *contract, const uint8_t *pixels, float *out);

#endif
