/* Media files, through the context's decoder: the caller's, or libcavmae-media.so opened on first use. */
#ifndef CAVMAE_IO_MEDIA_H
#define CAVMAE_IO_MEDIA_H

#include "tensor.h"

/* As the public calls, into plain memory of the context that the caller frees. */
cavmae_status cavmae__media_audio(cavmae_context *context, const char *path, float **pcm, int64_t *samples,
                                  int32_t *channels, int32_t *rate);
/* One frame. *rgb [height, width, 3]. */
cavmae_status cavmae__media_frame(cavmae_context *context, const char *path, double seconds, uint8_t **rgb,
                                  int32_t *width, int32_t *height);

#endif
