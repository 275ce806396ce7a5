/* What an entry's files hold: its sound and its pictures, before anything is made of them. */
#ifndef CAVMAE_DATA_CLIP_H
#define CAVMAE_DATA_CLIP_H

#include "config.h"
#include "manifest.h"

/* The contract's one channel at its rate, a window long at least: *out [*count], the context's memory, the caller's to
 * free. Any thread, as the next. */
cavmae_status cavmae__clip_waveform(cavmae_context *context, const cavmae__options *options, const cavmae__item *item,
                                    float **out, int64_t *count);

/* Frames first .. first + count - 1 of clip_frames, as they were decoded, to a sink that counts them from 0. */
cavmae_status cavmae__clip_frames(cavmae_context *context, const cavmae__options *options, const cavmae__item *item,
                                  int64_t first, int64_t count, cavmae_frame_sink *sink, void *arg);

#endif
