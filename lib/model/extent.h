/* What a task on a number of clips has to hold. */
#ifndef CAVMAE_MODEL_EXTENT_H
#define CAVMAE_MODEL_EXTENT_H

#include "rows.h"

/* Pretraining with the configured mask ratios. */
cavmae_status cavmae__pretrain_extent(const cavmae__options *options, int32_t clips, int backward, cavmae__extent *out);

/* Streams (bits) that a head sees in a mode. */
int32_t cavmae__mode_streams(const cavmae__options *options, int64_t mode);

/* Fine-tuning in the configured mode; with freeze_base without backward pass through the encoders. */
cavmae_status cavmae__finetune_extent(const cavmae__options *options, int32_t clips, int backward, cavmae__extent *out);

/* Embedding `clips` clips with `pictures` pictures each in the wanted streams, of columns[m] grid columns at the most
 * (0: modality not needed). */
cavmae_status cavmae__embed_extent(const cavmae__options *options, int32_t clips, int32_t pictures, int32_t streams,
                                   const int32_t columns[2], cavmae__extent *out);

/* How many clips cavmae_embed takes at once: enough rows to keep the machine busy, few enough to stay small. */
int32_t cavmae__embed_clips(const cavmae__options *options, int32_t clips, int32_t pictures, int32_t streams,
                            const int32_t columns[2]);

#endif
