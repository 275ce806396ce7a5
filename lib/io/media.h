/* Media files, through the context's decoder: the caller's, or libcavmae-media.so opened on first use. */
#ifndef CAVMAE_IO_MEDIA_H
#define CAVMAE_IO_MEDIA_H

#include "tensor.h"

/* The caller's source in the library's terms: path is not NULL. ARG: neither path nor data. */
cavmae_status cavmae__source_in(cavmae_source *own, const cavmae_source *given);
cavmae_source cavmae__source_at(const char *path);

/* What the decoder gives, checked, to a sink of the library's own: its failures are this call's, their text with the
 * file's name before it. `source` is of cavmae__source_in or _at. */
cavmae_status cavmae__media_sound(cavmae_context *context, const cavmae_source *source, cavmae_audio_sink *sink,
                                  void *arg);
/* seconds [count] finite, rising; each index comes at least once. */
cavmae_status cavmae__media_pictures(cavmae_context *context, const cavmae_source *source, const double *seconds,
                                     int32_t count, cavmae_frame_sink *sink, void *arg);

/* As the public calls, into plain memory of the context that the caller frees. */
cavmae_status cavmae__media_audio(cavmae_context *context, const char *path, float **pcm, int64_t *samples,
                                  int32_t *channels, int32_t *rate);
cavmae_status cavmae__media_audio_source(cavmae_context *context, const cavmae_source *source, float **pcm,
                                         int64_t *samples, int32_t *channels, int32_t *rate);
/* One frame. *rgb [height, width, 3]. */
cavmae_status cavmae__media_frame(cavmae_context *context, const char *path, double seconds, uint8_t **rgb,
                                  int32_t *width, int32_t *height);

#endif
