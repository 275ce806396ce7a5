/* A vision MAE's tensors (masked autoencoder, one stream of pictures) as a CAV-MAE's parameters, as the authors'
 * adapting script does: all layers but the last to both modalities' encoders, the last to the joint one with its
 * LayerNorms for all three streams, and what sound needs made from what colours have. */
#ifndef CAVMAE_MODEL_VISION_MAE_H
#define CAVMAE_MODEL_VISION_MAE_H

#include "parameters.h"

/* How the values of a parameter come out of the tensor's. */
enum {
    CAVMAE__AS_IT_IS,
    CAVMAE__OVER_COLOURS,       /* a convolution's weights: sum over the C input channels, or mean */
    CAVMAE__WITHOUT_FIRST,      /* a positional table without the class token's row */
    CAVMAE__FIRST_OF_PREDICTOR, /* the first p * p of p * p * C outputs; or the mean over a pixel's colours, fastest */
};

enum { CAVMAE__TENSOR_NAME = 112 };

/* The tensor that a parameter comes from, in a file of so many layers, and how; 0: there is none. `shape` is the
 * parameter's, and becomes the tensor's. */
int cavmae__vision_mae_origin(const cavmae__parameter *parameter, int64_t layers, int64_t channels,
                              char name[CAVMAE__TENSOR_NAME], int32_t *how, int64_t shape[4]);

/* from: the whole tensor; to [parameter's elements]. `mean`: as CAVMAE_LOAD_MEAN_COLOURS says. */
void cavmae__vision_mae_make(const cavmae__parameter *parameter, int32_t how, int64_t channels, int mean,
                             const float *from, float *to);

#endif
