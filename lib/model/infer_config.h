/* The configuration of a model whose file does not say it, from its tensors' names and shapes. */
#ifndef CAVMAE_MODEL_INFER_CONFIG_H
#define CAVMAE_MODEL_INFER_CONFIG_H

#include "config.h"
#include "weights.h"

/* Of the authors' models: with or without decoder, with a head, of one modality. What no tensor says is the base
 * preset's: the whole input contract, 128 mel bins, eps; the number of heads is width / 64, of a decoder width / 32,
 * and 4 where that is not whole. Positional tables that are not the sine-cosine ones were trained, and make
 * trainable_pos 1. FORMAT names the tensor that fits no model. */
cavmae_status cavmae__infer_cav_mae(cavmae_context *context, const cavmae__weights *weights, cavmae_config **out);

/* Of what a vision MAE becomes (vision_mae.h): all its layers but the last in each modality, the last for both; sound
 * of the base preset's length. *layers: how many it has. */
cavmae_status cavmae__infer_vision_mae(cavmae_context *context, const cavmae__weights *weights, int64_t *layers,
                                       cavmae_config **out);

#endif
