/* One sample of a loader: read from its files, mixed with another, prepared as the input contract says, augmented. */
#ifndef CAVMAE_DATA_SAMPLE_H
#define CAVMAE_DATA_SAMPLE_H

#include "augment.h"
#include "config.h"
#include "manifest.h"

/* Values of the key frame that are no frame's number. */
enum { CAVMAE__FRAME_MIDDLE = -1, CAVMAE__FRAME_RANDOM = -2, CAVMAE__FRAME_ALL = -3 };

/* What all samples of a loader share. */
typedef struct cavmae__source {
    cavmae_context *context;
    cavmae__options options;
    cavmae__labels *labels; /* NULL: none */
    cavmae__manifest *manifest;
    uint32_t *pictures; /* [entries] whose pictures each entry shows; NULL: its own */
} cavmae__source;

/* What one thread reads samples with. Start with zeros. */
typedef struct cavmae__reader {
    cavmae__item item, picture_item;
    float *image, *labels; /* of the sample that is mixed in; NULL without mixup */
} cavmae__reader;

typedef struct cavmae__sample {
    float *audio; /* [audio_frames, F], the context's memory, the caller's to free; NULL: a model without sound */
    int64_t audio_frames;
    float *image;  /* [C, H, W], with frame "all" [clip_frames, C, H, W], the caller's memory; NULL: no pictures */
    float *labels; /* [classes] in [0, 1], the caller's memory; NULL: none */
} cavmae__sample;

/* Floats of a sample's pictures and labels; 0: none. */
size_t cavmae__source_image_size(const cavmae__source *source);
size_t cavmae__source_label_count(const cavmae__source *source);

cavmae_status cavmae__reader_create(const cavmae__source *source, cavmae__reader *reader);
void cavmae__reader_free(const cavmae__source *source, cavmae__reader *reader);

/* Entry `index` as `draw` has it. Any thread, each with its own reader. Errors name the entry and its id. */
cavmae_status cavmae__sample_read(const cavmae__source *source, const cavmae__draw *draw, int64_t index,
                                  cavmae__reader *reader, cavmae__sample *out);

/* Of the sample itself; others (no memory, no decoder) would hit any sample, so leaving this one out helps nobody. */
int cavmae__sample_is_broken(cavmae_status status);

#endif
