#ifndef CAVMAE_FRONTEND_RESIZE_H
#define CAVMAE_FRONTEND_RESIZE_H

#include "context.h"
#include "frontend_simd.h"

/* Pillow's weights for output pixels start .. start + count - 1 of a resize from in_size to out_size pixels; filter
 * is one of CAVMAE__FILTER_*. *origin and *extent: the input pixels that these need; axis->first counts from origin. */
cavmae_status cavmae__resize_axis_create(cavmae_context *context, int32_t in_size, int64_t out_size, int64_t start,
                                         int32_t count, int32_t filter, cavmae__resize_axis *axis, int32_t *origin,
                                         int32_t *extent);
void cavmae__resize_axis_free(cavmae_context *context, cavmae__resize_axis *axis); /* one of zeros is fine */

#endif
