#ifndef CAVMAE_FRONTEND_RESAMPLE_H
#define CAVMAE_FRONTEND_RESAMPLE_H

#include "context.h"

/* One channel from rate_in to rate_out with libsamplerate; quality is one of CAVMAE__RESAMPLE_*. *out is the context's
 * memory, the caller's to free; *out_samples is samples * rate_out / rate_in, give or take one. */
cavmae_status cavmae__resample(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate_in,
                               int32_t rate_out, int32_t quality, float **out, int64_t *out_samples);

#endif
