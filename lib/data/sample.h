/* One sample of a loader: read from its files, prepared as the input contract says, augmented. */
#ifndef CAVMAE_DATA_SAMPLE_H
#define CAVMAE_DATA_SAMPLE_H

#include "config.h"
#include "manifest.h"

/* What all samples of a loader share. */
typedef struct cavmae__source {
    cavmae_context *context;
    cavmae__options options;
    cavmae__labels *labels; /* NULL: none */
    cavmae__manifest *manifest;
} cavmae__source;

typedef struct cavmae__sample {
    float *audio; /* [audio_frames, F], the context's memory, the caller's to free; NULL: a model without sound */
    int64_t audio_frames;
    float *image;  /* [C, H, W], the caller's memory; NULL: a model without pictures */
    float *labels; /* [classes] 0 or 1, the caller's memory; NULL: none */
} cavmae__sample;

/* The sample `index` as it is in `epoch`. Any thread, each with its own item. Errors name the entry and its id. */
cavmae_status cavmae__sample_read(const cavmae__source *source, int64_t epoch, int64_t index, cavmae__item *item,
                                  cavmae__sample *out);

/* Which of the clip's frames the sample shows in `epoch`. */
int64_t cavmae__sample_frame(const cavmae__source *source, int64_t epoch, int64_t index);

#endif
