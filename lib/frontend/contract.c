/* From decoded sound and pictures to model input: the steps and their order, each done by the file that has its
 * name. */
#include "contract.h"

#include <float.h>
#include <math.h>

#include "fbank.h"
#include "resample.h"
#include "resize.h"

/* ---- Sound ---- */

void cavmae__choose_channel(int32_t channel, const float *pcm, int64_t samples, int32_t channels, float *mono) {
    for (int64_t i = 0; i < samples; i++, pcm += channels) {
        double sum = (double)pcm[0];
        if (channel == CAVMAE__CHANNEL_MEAN) {
            for (int32_t c = 1; c < channels; c++) sum += (double)pcm[c];
            sum /= channels;
        }
        mono[i] = (float)sum;
    }
}

/* The contract's one channel: pcm itself where that is all there is, else a copy in *owned. */
static cavmae_status choose_channel(cavmae_context *context, int32_t channel, const float *pcm, int64_t samples,
                                    int32_t channels, float **owned, const float **mono) {
    if (channels == 1) {
        *mono = pcm;
        return CAVMAE_OK;
    }
    CAVMAE__TRY(CAVMAE__NEW(context, owned, samples));
    cavmae__choose_channel(channel, pcm, samples, channels, *owned);
    *mono = *owned;
    return CAVMAE_OK;
}

cavmae_status cavmae__prepare_waveform(cavmae_context *context, const cavmae__audio_contract *contract,
                                       const float *pcm, int64_t samples, int32_t channels, int32_t rate, float **owned,
                                       const float **out, int64_t *count) {
    if (channels < 1 || rate < 1)
        return cavmae__fail(CAVMAE_E_ARG, "sound with %d channels at %d Hz: both must be at least 1", channels, rate);
    if (samples < 0 || (!pcm && samples > 0))
        return cavmae__fail(CAVMAE_E_ARG, "sound: pcm is NULL, or samples negative");

    cavmae_status status;
    const float *mono;
    float *channel = NULL, *resampled = NULL;
    CAVMAE__TRY_OUT(choose_channel(context, contract->channel, pcm, samples, channels, &channel, &mono));
    CAVMAE__TRY_OUT(cavmae__check_samples(mono, samples));
    int64_t length = samples;
    if (rate != contract->sample_rate) {
        CAVMAE__TRY_OUT(cavmae__resample(context, mono, samples, rate, contract->sample_rate, contract->resampler,
                                         &resampled, &length));
        mono = resampled;
    }
    if (cavmae_fbank_frames(length, contract->sample_rate) == 0) {
        status = cavmae__fail(CAVMAE_E_ARG, "sound of %lld samples at %d Hz is shorter than one window of 25 ms",
                              (long long)samples, rate);
        goto out;
    }
    if (resampled) cavmae__free(context, channel);
    *owned = resampled ? resampled : channel;
    *out = mono;
    *count = length;
    return CAVMAE_OK;
out:
    cavmae__free(context, resampled);
    cavmae__free(context, channel);
    return status;
}

int64_t cavmae__prepared_frames(const cavmae__audio_contract *contract, int64_t count) {
    if (contract->length != CAVMAE__LENGTH_NATIVE) return contract->frames;
    int64_t heard = cavmae_fbank_frames(count, contract->sample_rate);
    return (heard + contract->patch_size - 1) / contract->patch_size * contract->patch_size;
}

cavmae_status cavmae__prepare_rows(cavmae_context *context, const cavmae__audio_contract *contract,
                                   const float *waveform, int64_t count, float **out, int64_t *frames) {
    int64_t heard = cavmae_fbank_frames(count, contract->sample_rate),
            wanted = cavmae__prepared_frames(contract, count);
    if (heard > wanted) heard = wanted;

    size_t bins = (size_t)contract->mel_bins;
    float *rows = cavmae__alloc_array(context, (size_t)wanted, bins * sizeof *rows);
    if (!rows) return CAVMAE_E_NOMEM;
    cavmae_status status = cavmae__fbank_normalised(context, waveform, count, contract->sample_rate, contract->mel_bins,
                                                    heard, contract->mean, contract->std, rows);
    if (status != CAVMAE_OK) {
        cavmae__free(context, rows);
        return status;
    }
    /* The reference appends zeros before it normalises; the log-mel of silence is the floor. */
    float appended = contract->length == CAVMAE__LENGTH_PAD ? 0.0f : logf(FLT_EPSILON);
    appended = (appended - contract->mean) / contract->std;
    for (size_t i = (size_t)heard * bins; i < (size_t)wanted * bins; i++) rows[i] = appended;
    *out = rows;
    *frames = wanted;
    return CAVMAE_OK;
}

cavmae_status cavmae__prepare_audio(cavmae_context *context, const cavmae__audio_contract *contract, const float *pcm,
                                    int64_t samples, int32_t channels, int32_t rate, float **out, int64_t *frames) {
    float *owned = NULL;
    const float *waveform = NULL;
    int64_t count = 0;
    CAVMAE__TRY(cavmae__prepare_waveform(context, contract, pcm, samples, channels, rate, &owned, &waveform, &count));
    cavmae_status status = cavmae__prepare_rows(context, contract, waveform, count, out, frames);
    cavmae__free(context, owned);
    return status;
}

/* ---- Pictures ---- */

/* torchvision CenterCrop: int(round((length - size) / 2.0)), and Python rounds a half to even. */
static int64_t crop_start(int64_t length, int32_t size) {
    int64_t spare = length - size, start = spare / 2;
    return start + (spare % 2 && start % 2);
}

/* To the contract's size; level [channels, 256] says what each level of each channel becomes in out [channels, size,
 * size]. */
static cavmae_status resize(cavmae_context *context, const cavmae__image_contract *contract, const uint8_t *pixels,
                            int32_t width, int32_t height, int64_t stride, const float *level, float *out) {
    int32_t channels = contract->channels, size = contract->size;
    if (!pixels || !out) return cavmae__fail(CAVMAE_E_ARG, "picture: %s is NULL", pixels ? "out" : "pixels");
    if (width < 1 || height < 1)
        return cavmae__fail(CAVMAE_E_ARG, "picture of %d x %d pixels: both must be at least 1", width, height);
    if (stride < (int64_t)width * channels)
        return cavmae__fail(CAVMAE_E_ARG, "picture: rows %lld bytes apart cannot hold %d pixels of %d channels",
                            (long long)stride, width, channels);

    /* torchvision Resize(size): the shorter side becomes size, the longer int(size * long / short). */
    int32_t shorter = width < height ? width : height;
    int64_t scaled_width = width <= height ? size : (int64_t)((double)((int64_t)size * width) / shorter);
    int64_t scaled_height = width <= height ? (int64_t)((double)((int64_t)size * height) / shorter) : size;

    cavmae_status status;
    cavmae__resize_columns *resize_columns = CAVMAE__PICK(cavmae__resize_columns);
    cavmae__resize_rows *resize_rows = CAVMAE__PICK(cavmae__resize_rows);
    cavmae__resize_axis across = {0}, down = {0};
    uint8_t *strip = NULL, *planes = NULL;
    int32_t left, columns, top, rows;
    CAVMAE__TRY_OUT(cavmae__resize_axis_create(context, width, scaled_width, crop_start(scaled_width, size), size,
                                               contract->filter, &across, &left, &columns));
    CAVMAE__TRY_OUT(cavmae__resize_axis_create(context, height, scaled_height, crop_start(scaled_height, size), size,
                                               contract->filter, &down, &top, &rows));
    size_t tile = CAVMAE__TILE, pitch = ((size_t)size + tile - 1) / tile * tile, plane = (size_t)rows * pitch;
    size_t bytes = ((size_t)columns * (size_t)channels + tile - 1) / tile * tile;
    strip = cavmae__alloc_array(context, bytes, tile);
    planes = cavmae__alloc_array(context, plane, (size_t)channels);
    if (!strip || !planes) {
        status = CAVMAE_E_NOMEM;
        goto out;
    }
    for (int32_t y = 0; y < rows; y += CAVMAE__TILE) {
        const uint8_t *from = pixels + ((int64_t)top + y) * stride + (int64_t)left * channels;
        int32_t count = rows - y < CAVMAE__TILE ? rows - y : CAVMAE__TILE;
        resize_columns(&across, from, (size_t)stride, count, columns, channels, planes + (size_t)y * pitch, plane,
                       pitch, strip);
    }
    for (int32_t c = 0; c < channels; c++)
        resize_rows(&down, planes + (size_t)c * plane, pitch, size, level + c * 256,
                    out + (size_t)c * (size_t)size * (size_t)size);
out:
    cavmae__free(context, planes);
    cavmae__free(context, strip);
    cavmae__resize_axis_free(context, &down);
    cavmae__resize_axis_free(context, &across);
    return status;
}

/* ToTensor, Normalize */
static void normalised_levels(const cavmae__image_contract *contract, int32_t channel, float level[256]) {
    for (int p = 0; p < 256; p++) level[p] = ((float)p / 255.0f - contract->mean[channel]) / contract->std[channel];
}

cavmae_status cavmae__prepare_image(cavmae_context *context, const cavmae__image_contract *contract,
                                    const uint8_t *pixels, int32_t width, int32_t height, int64_t stride, float *out) {
    float *level;
    int32_t size = contract->size;
    if (pixels && out && width == size && height == size && stride == (int64_t)size * contract->channels) {
        cavmae__normalise_pixels(contract, pixels, out); /* what resizing would come to */
        return CAVMAE_OK;
    }
    CAVMAE__TRY(CAVMAE__NEW(context, &level, 256 * contract->channels));
    for (int32_t c = 0; c < contract->channels; c++) normalised_levels(contract, c, level + c * 256);
    cavmae_status status = resize(context, contract, pixels, width, height, stride, level, out);
    cavmae__free(context, level);
    return status;
}

cavmae_status cavmae__prepare_pixels(cavmae_context *context, const cavmae__image_contract *contract,
                                     const uint8_t *pixels, int32_t width, int32_t height, int64_t stride,
                                     uint8_t *out) {
    cavmae_status status;
    size_t channels = (size_t)contract->channels, plane = (size_t)contract->size * (size_t)contract->size;
    float *level = NULL, *planes = NULL;
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "picture: out is NULL");
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &level, 256 * channels));
    for (size_t i = 0; i < 256 * channels; i++) level[i] = (float)(i % 256);
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &planes, plane * channels));
    CAVMAE__TRY_OUT(resize(context, contract, pixels, width, height, stride, level, planes));
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < channels; c++) out[i * channels + c] = (uint8_t)planes[c * plane + i];
out:
    cavmae__free(context, planes);
    cavmae__free(context, level);
    return status;
}

void cavmae__normalise_pixels(const cavmae__image_contract *contract, const uint8_t *pixels, float *out) {
    size_t channels = (size_t)contract->channels, plane = (size_t)contract->size * (size_t)contract->size;
    for (size_t c = 0; c < channels; c++, out += plane) {
        float level[256];
        normalised_levels(contract, (int32_t)c, level);
        for (size_t i = 0; i < plane; i++) out[i] = level[pixels[i * channels + c]];
    }
}
