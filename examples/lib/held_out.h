/* How finished runs of cavmae-pretrain do on clips that they were not trained on. */
#ifndef EXAMPLE_HELD_OUT_H
#define EXAMPLE_HELD_OUT_H

#include "cavmae.h"

enum { AUDIO, VISUAL };

/* All clips of a manifest, prepared. */
typedef struct clip_set {
    cavmae_loader *loader;
    int64_t count, frames, bins, side, patch;
    float *audio, *image;         /* [count, frames, bins], [count, 3, side, side] */
    float quiet, loud;            /* of all sounds */
    double mean[3], deviation[3]; /* that pictures were normalised with */
    double variance[2];           /* of sounds and pictures: the squared error of who always answers with their mean */
} clip_set;

typedef struct scores {
    cavmae_retrieval_metrics way[2];   /* by the query's kind: a sound finds its picture, a picture its sound */
    double mae[2], contrast, accuracy; /* the contrastive loss is without its weight */
} scores;

typedef struct csv_table {
    int64_t rows;
    double (*cell)[9];
} csv_table;

typedef struct run {
    const char *folder;
    cavmae_model *model;
    int64_t dim, batch;
    double contrast_weight;
    float *embedding[2]; /* [clips, dim] */
    scores untrained, trained;
    csv_table losses, validation;
} run;

/* A manifest's clips as `model` wants its input. */
clip_set read_clips(cavmae_model *model, const char *manifest, const char *labels);
void free_clip_set(clip_set *c);

/* Clips [first, first + count). */
cavmae_batch batch_of(const clip_set *c, int64_t first, int64_t count);
const float *input_of(const clip_set *c, int modality, int64_t clip);

cavmae_model *load_model(cavmae_context *context, const char *folder);

/* A trainer that only evaluates, with the model's own settings. */
cavmae_trainer *open_evaluation(cavmae_model *model);

/* Takes the model over. The same model before training is made again from its configuration and seed. */
run measure_run(cavmae_context *context, const char *folder, cavmae_model *model, const clip_set *c);
void free_run(run *r);

scores mean_of(const run *runs, int count, int trained);

/* Of who picks at random, and always answers with the mean; batches as in the first run. */
scores chance_of(const run *first, const clip_set *c);

#endif
