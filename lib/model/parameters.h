/* The list of a model's parameters: names (those of the published checkpoints), shapes, places in one flat
 * buffer, and how each starts. Built from a configuration alone, before anything is allocated for values. */
#ifndef CAVMAE_MODEL_PARAMETERS_H
#define CAVMAE_MODEL_PARAMETERS_H

#include "config.h"

enum { CAVMAE__INIT_MATRIX, CAVMAE__INIT_ZERO, CAVMAE__INIT_ONE, CAVMAE__INIT_TOKEN, CAVMAE__INIT_POSITIONS };

typedef struct cavmae__parameter {
    char name[96];
    int32_t dims, init;
    int64_t shape[4], elements;
    int64_t offset;    /* in elements from the start of the flat buffer; multiples of 16, so that all are aligned */
    int32_t trainable; /* 0: fixed positional embeddings */
    int32_t grid_rows, grid_columns; /* of positional embeddings */
} cavmae__parameter;

/* A transformer layer's parameters, in their order from its first. Each stream ('' = 0, a = 1, v = 2) has LayerNorms
 * of its own. */
enum {
    CAVMAE__NORM1, /* weight, bias; norm2 likewise; then those of a, then of v */
    CAVMAE__NORM2 = 2,
    CAVMAE__NORMS_PER_STREAM = 4,
    CAVMAE__QKV = 12, /* weight, bias; and so on */
    CAVMAE__PROJ = 14,
    CAVMAE__FC1 = 16,
    CAVMAE__FC2 = 18,
    CAVMAE__LAYER_PARAMETERS = 20
};

/* Width of a layer's hidden units, truncated as Python's int() does. */
static inline int64_t cavmae__hidden(int64_t width, double mlp_ratio) { return (int64_t)((double)width * mlp_ratio); }

/* Indices of parameters; -1 where a model of one modality, without decoder or without head, lacks them. [2]: audio,
 * visual. Of a pair of weight and bias the weight; the bias follows it. */
typedef struct cavmae__parameters {
    cavmae__parameter *items;
    int64_t count, elements, trainable_elements;
    int64_t flat_elements; /* length of the flat buffer, padding included */
    int64_t modality[2], positions[2], patch_embed[2], layers[2], joint_layers, norm[3] /* by stream */;
    int64_t mask_token, decoder_modality[2], decoder_positions[2], decoder_embed, decoder_layers, decoder_norm,
        decoder_pred[2];
    int64_t head_norm, head;
} cavmae__parameters;

/* Width of what the head sees. */
static inline int64_t cavmae__head_width(const cavmae__options *o) {
    return o->head_input == CAVMAE__INPUT_CONCAT ? 2 * o->embed_dim : o->embed_dim;
}

cavmae_status cavmae__parameters_create(cavmae_context *context, const cavmae__options *options,
                                        cavmae__parameters *out);
void cavmae__parameters_free(cavmae_context *context, cavmae__parameters *parameters);

/* Index by name, or -1. */
int64_t cavmae__parameters_find(const cavmae__parameters *parameters, const char *name);

/* The starting values of one parameter, host memory [elements]. */
void cavmae__parameter_init(const cavmae__parameter *parameter, uint64_t seed, float *values);

/* 2-D sine-cosine table [rows * columns, width]: the first half of the width encodes the column, the second the row,
 * each half [sin, cos]. In double, rounded once, as the reference's NumPy does. */
void cavmae__sincos_2d(int64_t width, int64_t rows, int64_t columns, float *out);

#endif
