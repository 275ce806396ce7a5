/* Embeddings of all clips of a manifest, in its order. */
#ifndef EXAMPLE_EMBED_MANIFEST_H
#define EXAMPLE_EMBED_MANIFEST_H

#include "cavmae.h"

enum { KIND_AUDIO, KIND_VISUAL, KIND_JOINT };

/* One kind of embedding: pooled, a row for each clip, or of all its tokens. */
typedef struct output {
    int32_t kind, tokens;
    int64_t rows; /* for each clip; 1 when pooled */
    int64_t dim;
    float *values; /* [clips, rows, dim] */
} output;

typedef struct clip_list {
    int64_t count;
    int64_t *samples; /* [count] index in the manifest */
    int32_t classes;
    uint8_t *labels; /* [count, classes] 0 or 1; NULL without labels */
} clip_list;

/* The sizes of an output of `model`, with memory for `clips`. */
output new_output(cavmae_model *model, int32_t kind, int32_t tokens, int64_t clips);

/* Puts the place of clip `clip` of the output into a request. */
void request(cavmae_embedding *embedding, const output *output, int64_t clip);

/* For reading clips in order, as they are, as `model` wants its input. */
cavmae_config *gallery_config(const cavmae_model *model);

/* Opens the manifest for reading in order, as `model` wants its input. */
cavmae_loader *open_gallery(cavmae_model *model, const char *manifest, const char *labels);

/* Fills outputs [count], each made for cavmae_loader_count(loader) clips. */
clip_list embed_gallery(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count);

void free_clips(clip_list *clips);

#endif
