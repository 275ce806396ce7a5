/* What of a media file an embedding needs, and how it becomes model input. */
#ifndef CAVMAE_INFER_INPUTS_H
#define CAVMAE_INFER_INPUTS_H

#include "media.h"
#include "model.h"

/* Do the wanted outputs need sound, do they need pictures? */
void cavmae__embed_needs(const cavmae_model *model, const cavmae_embedding *out, int *sound, int *pictures);

/* Pictures of a stretch of `seconds`: *count of them, `frames` where that is given, else 1: the middle one of
 * clip_frames. Picture i is at cavmae__picture_time(...) after the start. ARG: frames below 0, or the model takes no
 * RGB. */
cavmae_status cavmae__picture_count(const cavmae_model *model, int32_t frames, int32_t *count);
double cavmae__picture_time(const cavmae_model *model, int32_t frames, int32_t picture, double seconds);

/* The pictures at `seconds` [count], rising, prepared: images [count, C, H, W]. Where `slots` [count] is not NULL,
 * picture i goes to place slots[i]. */
cavmae_status cavmae__load_pictures(cavmae_model *model, const cavmae_source *source, const double *seconds,
                                    const int32_t *slots, int32_t count, float *images);

#endif
