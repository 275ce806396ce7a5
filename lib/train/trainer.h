/* A trainer: a model's network with gradients, and what a step needs beside it. */
#ifndef CAVMAE_TRAIN_TRAINER_H
#define CAVMAE_TRAIN_TRAINER_H

#include "contrast.h"
#include "exchange.h"
#include "optimizer.h"
#include "raw_inputs.h"

/* What differs from step to step, on the device: all else of a step can be recorded. */
typedef struct cavmae__step_state {
    uint64_t draw; /* keys the masks */
    cavmae__update update;
} cavmae__step_state;

struct cavmae_trainer {
    cavmae_model *model;
    cavmae_optimizer *optimizer; /* NULL: evaluates only */
    cavmae__options options;     /* objective and training from the trainer's config, model and contract from the model;
                              * batch: clips of this rank's largest share */
    cavmae_world *world;         /* NULL: alone */
    int64_t world_batch;         /* key batch: of all ranks */
    int32_t world_count;         /* clips of the last batch, of all ranks */
    int32_t first;               /* which of them this rank's first one is */
    int32_t chunk;               /* clips that are computed at once */
    cavmae__contrast contrast;
    cavmae__exchange *exchange; /* of gradients; NULL: alone, or without optimizer */
    cavmae__network *network;
    cavmae__extent extent; /* of the network */
    float *gradients;      /* device, flat; NULL without optimizer */
    uint8_t *has_gradient; /* [list.count] */
    /* device: audio, image of a batch. On a GPU one batch is copied while another is trained on: they take turns. */
    float *input[CAVMAE__TURNS][2];
    cavmae__raw_inputs raw[CAVMAE__TURNS]; /* where a batch is of samples or pixels */
    int32_t turns, turn;                   /* how many there are; whose it is */
    int64_t elements[CAVMAE__TURNS][2];    /* of their audio and image */
    int32_t computed;                      /* whose turn the last batch that was computed had */
    cavmae__step_state *state;             /* device */
    int32_t *columns[2];                   /* host [batch] grid columns of each clip */
    int32_t *kept[2];                      /* host [batch] visible tokens of each clip */
    uint8_t *mask_host;                    /* masks on the host where their counts have to be known */
    float *labels;                         /* device [batch, classes] */
    uint8_t *shown;                        /* host [batch] CAVMAE__SHOW_* of each clip; NULL without modality_dropout */
    int64_t step;                          /* batches taken */
    int64_t accumulated;                   /* of them for the coming update */
    int32_t count;                         /* clips of the last batch; 0: none yet */
    /* Recorded steps, [turn][whether gradients are added to], and what makes their addresses others than they were. */
    cavmae__repeat repeats[CAVMAE__TURNS][2];
    uint64_t generation;
    uint64_t rows_key;       /* of the rows on the device */
    int under_way, updating; /* a step whose outcome is not known yet; it updates */
    double lr;               /* of it */
    cavmae_step_result last; /* of the last step whose outcome is known */
};

/* One batch's work, as far as the host knows it. */
typedef struct cavmae__work {
    cavmae_trainer *trainer;
    const cavmae_batch *batch;
    int32_t count; /* clips of this rank */
    int backward, update;
    int rehearsal;       /* nothing but computing: no exchange with other ranks, no update */
    uint64_t evaluation; /* draws an evaluation's masks */
    int drawn[2];        /* masks of a modality are drawn on the device */
    int features;        /* the batch is of features */
    int64_t removed[2];  /* masked tokens */
} cavmae__work;

static inline int32_t cavmae__grid_rows(const cavmae__options *o, int m) {
    return (int32_t)((m ? o->image_size : o->mel_bins) / o->patch_size);
}

/* Whether training looks at modality m. */
static inline int cavmae__trainer_uses(const cavmae__options *o, int m) {
    return o->classes ? cavmae__mode_uses(o->mode, m) : cavmae__has_modality(o, m);
}

/* batch_input.c. Checks a batch against the model and the plan, and that it is this rank's share: fills columns. */
cavmae_status cavmae__trainer_check(cavmae_trainer *trainer, const cavmae_batch *batch);
/* Inputs of a batch to the turn's buffers. */
cavmae_status cavmae__trainer_put_inputs(cavmae_trainer *trainer, const cavmae_batch *batch);
/* Rows of clips from .. from + clips - 1, all tokens visible or as many as visible[m] says. */
cavmae_status cavmae__trainer_put_rows(cavmae_trainer *trainer, int32_t from, int32_t clips,
                                       const int32_t *const visible[2], int backward);

/* draw.c. Visible tokens of each clip, to trainer->kept, and masked ones of the batch. */
cavmae_status cavmae__count_tokens(cavmae_trainer *trainer, const cavmae_batch *batch, int64_t removed[2]);
cavmae_status cavmae__check_counts(const cavmae_trainer *trainer, int32_t clips, const int64_t removed[2],
                                   int backward);
/* Masks of clips from .. from + clips - 1. */
cavmae_status cavmae__draw_modality(const cavmae_trainer *trainer, int m, int32_t from, int32_t clips, uint8_t *mask);

/* What the losses are divided by, as far as this rank knows: added up over the ranks before anything is computed. */
cavmae_status cavmae__trainer_put_totals(const cavmae__work *work, const double totals[CAVMAE__TOTALS]);

/* pretrain_step.c: all else that a batch needs on the device, work->count and backward being set; then everything that is
 * computed from it: forward, and backward where work->backward; losses are then in the network's scalars. Where the batch
 * is not in chunks, and without a world, operations alone. */
cavmae_status cavmae__pretrain_put(cavmae__work *work);
cavmae_status cavmae__pretrain_compute(cavmae__work *work);
/* This rank's part in what the others compute, where its share has no clips. */
cavmae_status cavmae__pretrain_without_clips(const cavmae__work *work);
/* head_step.c: the same for a model with a head: no masks. */
cavmae_status cavmae__head_put(cavmae__work *work, uint64_t draw);
cavmae_status cavmae__head_compute(cavmae__work *work);

/* not_finite.c. Looks for where a NaN came from, from the inputs on: always fails, with the best sentence it has. */
cavmae_status cavmae__explain_not_finite(cavmae_trainer *trainer, const char *what, double value);

/* stand_in.c: a batch of one clip of zeros, and its columns, for a rehearsal; *memory is the caller's to free. */
cavmae_status cavmae__stand_in_create(cavmae_trainer *trainer, cavmae_batch *out, float **memory);

/* take_step.c: for ranks of a world, before their first step. */
cavmae_status cavmae__trainer_rehearse(cavmae_trainer *trainer);

/* A failure of a collective call is told to the other ranks; gives it back. */
cavmae_status cavmae__world_told(cavmae_world *world, cavmae_status status);

/* Waits for the step under way, if there is one; fails as it did. */
cavmae_status cavmae__trainer_finish(cavmae_trainer *trainer);

/* FNV-1a, continued from h. */
uint64_t cavmae__hash(uint64_t h, const void *data, size_t size);

/* Makes the network able to hold `extent`. */
cavmae_status cavmae__trainer_reserve(cavmae_trainer *trainer, const cavmae__extent *extent);
/* Room for a head's batches of features alone; the extent stays that of whole batches. */
cavmae_status cavmae__trainer_reserve_head(cavmae_trainer *trainer);

#endif
