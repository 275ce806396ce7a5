/* Kaldi's log-mel filter bank as torchaudio.compliance.kaldi.fbank computes it with the options that cavmae.h names.
 * Here are the sizes, the tables and the checks; the arithmetic over frames is in simd_fbank.c. Tables are made for
 * each call: that takes a few per cent of a 10 s clip, and there is nothing to share or to lock. */
#define _DEFAULT_SOURCE /* M_PI */
#include "fbank.h"

#include <math.h>
#include <stdbool.h>

#include "frontend_simd.h"

enum {
    MIN_RATE = 100,      /* below, the hop of 10 ms is no sample long */
    MAX_MEL_BINS = 65536 /* far beyond it, float no longer tells neighbouring filters apart */
};

/* torchaudio: int(sample_frequency * milliseconds * 0.001), in double. */
static int32_t milliseconds(int32_t rate, int32_t ms) { return (int32_t)((double)rate * ms * 0.001); }

int64_t cavmae_fbank_frames(int64_t samples, int32_t rate) {
    if (rate < MIN_RATE) return 0;
    int32_t window = milliseconds(rate, 25), shift = milliseconds(rate, 10);
    return samples < window ? 0 : 1 + (samples - window) / shift;
}

/* Far beyond any sound, and a transform's power of it still fits float32. */
static bool is_sound(float x) { return fabsf(x) < 1e9f; }

cavmae_status cavmae__check_samples(const float *pcm, int64_t samples) {
    enum { BLOCK = 1024 }; /* without a way out inside, compilers use vectors */
    int64_t i = 0;
    for (; i + BLOCK <= samples; i += BLOCK) {
        int bad = 0;
        for (int j = 0; j < BLOCK; j++) bad |= !is_sound(pcm[i + j]);
        if (bad) break;
    }
    for (; i < samples; i++)
        if (!is_sound(pcm[i]))
            return cavmae__fail(CAVMAE_E_ARG, "sample %lld of the sound is %g, not a number in [-1, 1)", (long long)i,
                                (double)pcm[i]);
    return CAVMAE_OK;
}

/* In a fixed order, so that every machine subtracts the same number. */
double cavmae__sound_mean(const float *pcm, int64_t samples) {
    enum { SUMS = 8 };
    double sum[SUMS] = {0};
    int64_t i = 0;
    for (; i + SUMS <= samples; i += SUMS)
        for (int j = 0; j < SUMS; j++) sum[j] += (double)pcm[i + j];
    for (; i < samples; i++) sum[0] += (double)pcm[i];
    for (int j = 1; j < SUMS; j++) sum[0] += sum[j];
    return sum[0] / (double)samples;
}

/* The plan, and the memory it points to. */
typedef struct tables {
    cavmae__fbank_plan plan;
    float *hann, *trigonometry, *weights;
    int32_t *place;
    cavmae__mel_filter *mel;
} tables;

/* Where the transform by 4, 4, ..., then perhaps 2, leaves bin k of `length`. */
static int32_t place_of(int32_t k, int32_t length) {
    int32_t place = 0;
    for (; length >= 4; length /= 4, k /= 4) place += k % 4 * (length / 4);
    return place + k;
}

static float mel_scale(float hertz) { return 1127.0f * logf(1.0f + hertz / 700.0f); }

/* torchaudio's get_mel_banks: triangles in mel, from 20 Hz to half the rate. In float, as there: a filter that
 * catches only the foot of one bin owes all it is to these roundings. A bin lies in at most two triangles, so
 * `weights` has room for two for each. */
static void make_mel_filters(int32_t rate, int32_t half, int32_t bins, float *weights, cavmae__mel_filter *mel) {
    double lowest = 1127.0 * log(1.0 + 20.0 / 700.0), highest = 1127.0 * log(1.0 + 0.5 * rate / 700.0);
    float low = (float)lowest, step = (float)((highest - lowest) / (bins + 1.0));
    float bin_width = (float)((double)rate / (2.0 * half));
    int32_t first = 1; /* bin 0 lies below 20 Hz */
    for (int32_t m = 0; m < bins; m++) {
        float left = low + (float)m * step;
        float center = low + ((float)m + 1.0f) * step, right = low + ((float)m + 2.0f) * step;
        while (first < half && mel_scale(bin_width * (float)first) <= left) first++;
        mel[m] = (cavmae__mel_filter){first, 0, weights};
        for (int32_t k = first; k < half; k++) {
            float x = mel_scale(bin_width * (float)k);
            float weight = fminf((x - left) / (center - left), (right - x) / (right - center));
            if (!(weight > 0)) break;
            weights[mel[m].count++] = weight;
        }
        weights += mel[m].count;
    }
}

static void free_tables(cavmae_context *context, tables *t) {
    cavmae__free(context, t->hann);
    cavmae__free(context, t->trigonometry);
    cavmae__free(context, t->weights);
    cavmae__free(context, t->place);
    cavmae__free(context, t->mel);
}

/* *t must be zero; the caller frees it also after a failure. */
static cavmae_status make_tables(cavmae_context *context, int32_t rate, int32_t mel_bins, tables *t) {
    if (mel_bins < 1 || mel_bins > MAX_MEL_BINS)
        return cavmae__fail(CAVMAE_E_ARG, "mel_bins is %d, not 1 to %d", mel_bins, MAX_MEL_BINS);
    int32_t window = milliseconds(rate, 25), half = 1;
    while (2 * half < window) half *= 2;
    int32_t angles = half < 2 ? 1 : half / 2 * 3;
    CAVMAE__TRY(CAVMAE__NEW(context, &t->hann, window));
    CAVMAE__TRY(CAVMAE__NEW(context, &t->trigonometry, 2 * (size_t)angles));
    CAVMAE__TRY(CAVMAE__NEW(context, &t->weights, 2 * (size_t)half));
    CAVMAE__TRY(CAVMAE__NEW(context, &t->place, half));
    CAVMAE__TRY(CAVMAE__NEW(context, &t->mel, mel_bins));
    for (int32_t i = 0; i < window; i++)
        t->hann[i] = (float)(0.5 - 0.5 * cos(2 * M_PI * i / (window - 1))); /* symmetric */
    for (int32_t k = 0; k < angles; k++) {
        t->trigonometry[k] = (float)cos(M_PI * k / half);
        t->trigonometry[angles + k] = (float)sin(M_PI * k / half);
    }
    for (int32_t k = 0; k < half; k++) t->place[k] = place_of(k, half);
    make_mel_filters(rate, half, mel_bins, t->weights, t->mel);
    t->plan = (cavmae__fbank_plan){.window = window,
                                   .shift = milliseconds(rate, 10),
                                   .half = half,
                                   .mel_bins = mel_bins,
                                   .hann = t->hann,
                                   .cosine = t->trigonometry,
                                   .sine = t->trigonometry + angles,
                                   .place = t->place,
                                   .mel = t->mel};
    return CAVMAE_OK;
}

cavmae_status cavmae__fbank_normalised(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate,
                                       int32_t mel_bins, int64_t frames, float offset, float scale, float *out) {
    cavmae_status status;
    cavmae__fbank_rows *rows = CAVMAE__PICK(cavmae__fbank_rows);
    tables t = {0};
    float *work = NULL;
    CAVMAE__TRY_OUT(make_tables(context, rate, mel_bins, &t));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &work, 2 * CAVMAE__MAX_LANES * (size_t)t.plan.half));
    rows(&t.plan, pcm, (float)cavmae__sound_mean(pcm, samples), frames, offset, scale, out, work);
out:
    cavmae__free(context, work);
    free_tables(context, &t);
    return status;
}

cavmae_status cavmae_fbank(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate, int32_t mel_bins,
                           float *out) {
    if (!context) return cavmae__fail(CAVMAE_E_ARG, "cavmae_fbank: context is NULL");
    if (!pcm || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_fbank: %s is NULL", pcm ? "out" : "pcm");
    if (rate < MIN_RATE) return cavmae__fail(CAVMAE_E_ARG, "cavmae_fbank: rate is %d Hz, below %d", rate, MIN_RATE);
    int64_t frames = cavmae_fbank_frames(samples, rate);
    if (frames == 0)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_fbank: %lld samples at %d Hz are less than one window of 25 ms",
                            (long long)samples, rate);
    CAVMAE__TRY(cavmae__check_samples(pcm, samples));
    return cavmae__fbank_normalised(context, pcm, samples, rate, mel_bins, frames, 0.0f, 1.0f, out);
}
