#include "resample.h"

#include <limits.h>
#include <math.h>
#include <samplerate.h>

#include "contract.h"

enum { PIECE = 1 << 16 }; /* samples between two questions whether to go on */

static int converter(int32_t quality) {
    switch (quality) {
    case CAVMAE__RESAMPLE_FASTEST: return SRC_SINC_FASTEST;
    case CAVMAE__RESAMPLE_MEDIUM: return SRC_SINC_MEDIUM_QUALITY;
    default: return SRC_SINC_BEST_QUALITY;
    }
}

static cavmae_status find_ratio(int32_t rate_in, int32_t rate_out, double *ratio) {
    *ratio = (double)rate_out / rate_in;
    if (src_is_valid_ratio(*ratio)) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_ARG, "sound cannot be resampled from %d Hz to %d Hz: more than 256-fold", rate_in,
                        rate_out);
}

static cavmae_status fail(int32_t rate_in, int32_t rate_out, int error) {
    return cavmae__fail(CAVMAE_E_NOMEM, "resampling from %d Hz to %d Hz: %s", rate_in, rate_out, src_strerror(error));
}

/* ---- Piece by piece ---- */

struct cavmae__resampler {
    cavmae_context *context;
    SRC_STATE *state;
    double ratio;
    int32_t rate_in, rate_out;
};

cavmae_status cavmae__resampler_create(cavmae_context *context, int32_t rate_in, int32_t rate_out, int32_t quality,
                                       cavmae__resampler **out) {
    cavmae__resampler *r;
    double ratio;
    int error = 0;
    CAVMAE__TRY(find_ratio(rate_in, rate_out, &ratio));
    CAVMAE__TRY(CAVMAE__NEW(context, &r, 1));
    *r = (cavmae__resampler){context, src_new(converter(quality), 1, &error), ratio, rate_in, rate_out};
    if (!r->state) {
        cavmae__free(context, r);
        return fail(rate_in, rate_out, error);
    }
    *out = r;
    return CAVMAE_OK;
}

void cavmae__resampler_free(cavmae__resampler *resampler) {
    if (!resampler) return;
    src_delete(resampler->state);
    cavmae__free(resampler->context, resampler);
}

cavmae_status cavmae__resampler_run(cavmae__resampler *resampler, const float *pcm, int64_t samples, int last,
                                    int64_t *used, float *out, int64_t room, int64_t *made) {
    static const float nothing[1];
    SRC_DATA data = {.data_in = pcm ? pcm : nothing,
                     .data_out = out,
                     .input_frames = (long)samples,
                     .output_frames = (long)room,
                     .src_ratio = resampler->ratio,
                     .end_of_input = last};
    int error = src_process(resampler->state, &data);
    if (error) return fail(resampler->rate_in, resampler->rate_out, error);
    *used = data.input_frames_used;
    *made = data.output_frames_gen;
    return CAVMAE_OK;
}

/* ---- As a whole ---- */

cavmae_status cavmae__resample(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate_in,
                               int32_t rate_out, int32_t quality, float **out, int64_t *out_samples) {
    double ratio;
    CAVMAE__TRY(find_ratio(rate_in, rate_out, &ratio));
    double room = ceil((double)samples * ratio) + 1;
    if (samples > LONG_MAX / 2 || room > (double)(LONG_MAX / 2))
        return cavmae__fail(CAVMAE_E_ARG, "sound of %lld samples at %d Hz is too long to resample", (long long)samples,
                            rate_in);
    cavmae__resampler *resampler = NULL;
    float *resampled = NULL;
    int64_t used = 0, made = 0, all = 0;
    cavmae_status status = cavmae__resampler_create(context, rate_in, rate_out, quality, &resampler);
    CAVMAE__TRY_OUT(status);
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &resampled, (size_t)room));
    do {
        int64_t piece = (int64_t)room - all < PIECE ? (int64_t)room - all : PIECE;
        CAVMAE__TRY_OUT(cavmae__check_cancel(context));
        CAVMAE__TRY_OUT(cavmae__resampler_run(resampler, pcm, samples, 1, &used, resampled + all, piece, &made));
        pcm += used;
        samples -= used;
        all += made;
    } while (used || made);
    *out = resampled;
    *out_samples = all;
out:
    cavmae__resampler_free(resampler);
    if (status != CAVMAE_OK) cavmae__free(context, resampled);
    return status;
}
