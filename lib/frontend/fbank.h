/* The fbank without the checks of the public call, with the contract's normalisation in its last step. */
#ifndef CAVMAE_FRONTEND_FBANK_H
#define CAVMAE_FRONTEND_FBANK_H

#include "context.h"

/* ARG, naming the first sample that is not finite (or too large for a power in float32) and so no sound. */
cavmae_status cavmae__check_samples(const float *pcm, int64_t samples);

/* In double; samples > 0. */
double cavmae__sound_mean(const float *pcm, int64_t samples);

/* out [frames, mel_bins] = (log-mel - offset) / scale of the first `frames` of cavmae_fbank_frames(samples, rate). The
 * mean that is subtracted first is that of all samples. */
cavmae_status cavmae__fbank_normalised(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate,
                                       int32_t mel_bins, int64_t frames, float offset, float scale, float *out);

#endif
