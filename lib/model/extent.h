/* What a task on a number of clips has to hold. */
#ifndef CAVMAE_MODEL_EXTENT_H
#define CAVMAE_MODEL_EXTENT_H

#include "rows.h"

/* Pretraining with the configured mask ratios. */
cavmae_status cavmae__pretrain_extent(const cavmae__options *options, int32_t clips, int backward, cavmae__extent *out);

/* Embedding `clips` clips in the wanted streams, of columns[m] grid columns at the most. */
cavmae_status cavmae__embed_extent(const cavmae__options *options, int32_t clips, int32_t streams,
                                   const int32_t columns[2], cavmae__extent *out);

/* How many clips cavmae_embed takes at once: enough rows to keep the machine busy, few enough to stay small. */
int32_t cavmae__embed_clips(const cavmae__options *options, int32_t clips, int32_t streams, const int32_t columns[2]);

#endif
