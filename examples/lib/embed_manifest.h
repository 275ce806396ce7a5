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

/* A list without clips yet, with room for so many. */
clip_list new_clips(const cavmae_loader *loader, int64_t room);

/* The loader's next batch into the list and outputs [count], which have room for `room` clips in all: what is beyond it is
 * left out. How many clips the batch had; 0 at the end. */
int32_t embed_next(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count, int64_t room,
                   clip_list *clips);

/* Fills outputs [count], each made for cavmae_loader_count(loader) clips. */
clip_list embed_gallery(cavmae_model *model, cavmae_loader *loader, output *outputs, int32_t count);

void free_clips(clip_list *clips);

/* The caller's memory as a tensor. */
cavmae_tensor *wrap(cavmae_context *context, void *data, int32_t dtype, int32_t dims, const int64_t *shape);

/* As .npy, or as .safetensors with which clips they are, and metadata where key is not NULL; and says so on stdout. */
void save_clips(cavmae_context *context, const char *path, const char *kind, const output *output,
                const clip_list *clips, const char *key, const char *value);

#endif
