#ifndef CAVMAE_FRONTEND_RESAMPLE_H
#define CAVMAE_FRONTEND_RESAMPLE_H

#include "context.h"

/* One channel from rate_in to rate_out with libsamplerate; quality is one of CAVMAE__RESAMPLE_*. *out is the context's
 * memory, the caller's to free; *out_samples is samples * rate_out / rate_in, give or take one. */
cavmae_status cavmae__resample(cavmae_context *context, const float *pcm, int64_t samples, int32_t rate_in,
                               int32_t rate_out, int32_t quality, float **out, int64_t *out_samples);

/* The same piece by piece: all pieces together give what the above gives for all of them, to the last bit. */
typedef struct cavmae__resampler cavmae__resampler;
cavmae_status cavmae__resampler_create(cavmae_context *context, int32_t rate_in, int32_t rate_out, int32_t quality,
                                       cavmae__resampler **out);
void cavmae__resampler_free(cavmae__resampler *resampler); /* NULL is fine */
/* Takes *used of pcm [samples] and puts *made into out [room]. To be called again while it uses or makes something;
 * with `last` 1, nothing comes after pcm. */
cavmae_status cavmae__resampler_run(cavmae__resampler *resampler, const float *pcm, int64_t samples, int last,
                                    int64_t *used, float *out, int64_t room, int64_t *made);

#endif
