/* Results of a group of windows, on their way to the caller's memory for one; and their mean. */
#ifndef CAVMAE_INFER_WINDOW_OUTPUTS_H
#define CAVMAE_INFER_WINDOW_OUTPUTS_H

#include "model.h"

typedef struct cavmae__window_outputs cavmae__window_outputs;

/* Room for `group` windows of what `out` names, each with audio_frames of sound. */
cavmae_status cavmae__window_outputs_create(const cavmae_model *model, const cavmae_embedding *out, int32_t group,
                                            int64_t audio_frames, cavmae__window_outputs **result);
void cavmae__window_outputs_free(cavmae__window_outputs *outputs); /* NULL is fine */

/* What cavmae_embed is to fill for a group. */
const cavmae_embedding *cavmae__window_outputs_group(const cavmae__window_outputs *outputs);
/* Copies window `index` of the group to the caller's memory, and adds it to the mean. */
void cavmae__window_outputs_take(cavmae__window_outputs *outputs, int32_t index);
/* The mean of all windows taken to the caller's memory; coordinated rows have length 1 again. */
void cavmae__window_outputs_mean(cavmae__window_outputs *outputs);

#endif
