#include "resample.h"

#include <limits.h>
#include <math.h>
#include <samplerate.h>

#include "contract.h"

static int converter(int32_t quality) {
    switch (quality) {
    case CAVMAE__RESAMPLE_FASTEST: return SRC_SINC_FASTEST;
    case CAVMAE__RESAMPLE_MEDIUM: return SRC_SINC_MEDIUM_QUALITY;
    default: return SRC_SINC_BEST_QUALITY;
    }
}

cavmae_status cavmae__resample(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate_in,
                               int32_t rate_out, int32_t quality, float **out, int64_t *out_samples) {
    double ratio = (double)rate_out / rate_in;
    if (!src_is_valid_ratio(ratio))
        return cavmae__fail(CAVMAE_E_ARG, "sound cannot be resampled from %d Hz to %d Hz: more than 256-fold", rate_in,
                            rate_out);
    double room = ceil((double)samples * ratio) + 1;
    if (samples > LONG_MAX / 2 || room > (double)(LONG_MAX / 2))
        return cavmae__fail(CAVMAE_E_ARG, "sound of %lld samples at %d Hz is too long to resample", (long long)samples,
                            rate_in);
    float *resampled;
    CAVMAE__TRY(CAVMAE__NEW(context, &resampled, (size_t)room));
    SRC_DATA data = {.data_in = pcm,
                     .data_out = resampled,
                     .input_frames = (long)samples,
                     .output_frames = (long)room,
                     .src_ratio = ratio};
    int error = src_simple(&data, converter(quality), 1);
    if (error) {
        cavmae__free(context, resampled);
        return cavmae__fail(CAVMAE_E_NOMEM, "resampling from %d Hz to %d Hz: %s", rate_in, rate_out,
                            src_strerror(error));
    }
    *out = resampled;
    *out_samples = data.output_frames_gen;
    return CAVMAE_OK;
}
