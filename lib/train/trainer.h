/* A trainer: a model's network with gradients, and what a step needs beside it. */
#ifndef CAVMAE_TRAIN_TRAINER_H
#define CAVMAE_TRAIN_TRAINER_H

#include "network.h"
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
    cavmae__options options; /* objective and training from the trainer's config, model and contract from the model */
    cavmae__network *network;
    cavmae__extent extent; /* of the network */
    float *gradients;      /* device, flat; NULL without optimizer */
    uint8_t *has_gradient; /* [list.count] */
    /* device: audio, image of a batch. On a GPU one batch is copied while another is trained on: they take turns. */
    float *input[CAVMAE__TURNS][2];
    cavmae__raw_inputs raw[CAVMAE__TURNS]; /* where a batch is of samples or pixels */
    int32_t turns, turn;                   /* how many there are; whose it is */
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
    int32_t count;
    int backward, update;
    int drawn[2];       /* masks of a modality are drawn on the device */
    int features;       /* the batch is of features */
    int64_t removed[2]; /* masked tokens */
} cavmae__work;

/* Whether training looks at modality m. */
static inline int cavmae__trainer_uses(const cavmae__options *o, int m) {
    return o->classes ? cavmae__mode_uses(o->mode, m) : cavmae__has_modality(o, m);
}

/* Checks a batch against the model and the plan: fills columns. */
cavmae_status cavmae__trainer_check(cavmae_trainer *trainer, const cavmae_batch *batch);

/* Inputs of a batch to the turn's buffers. */
cavmae_status cavmae__trainer_put_inputs(cavmae_trainer *trainer, const cavmae_batch *batch);
/* The batch's rows, all tokens visible or as many as visible[m] says. */
cavmae_status cavmae__trainer_put_rows(cavmae_trainer *trainer, const cavmae_batch *batch,
                                       const int32_t *const visible[2], int backward);

/* All else that a batch needs on the device, work->count and backward being set; then everything that is computed from
 * it, operations alone: forward, and backward where work->backward; losses are then in the network's scalars. */
cavmae_status cavmae__pretrain_put(cavmae__work *work, const cavmae_batch *batch);
cavmae_status cavmae__pretrain_compute(const cavmae__work *work);
/* The same for a model with a head: no masks. */
cavmae_status cavmae__head_put(cavmae__work *work, const cavmae_batch *batch, uint64_t draw);
cavmae_status cavmae__head_compute(const cavmae__work *work);

/* Waits for the step under way, if there is one; fails as it did. */
cavmae_status cavmae__trainer_finish(cavmae_trainer *trainer);

/* FNV-1a, continued from h. */
uint64_t cavmae__hash(uint64_t h, const void *data, size_t size);

/* Makes the network able to hold `extent`. */
cavmae_status cavmae__trainer_reserve(cavmae_trainer *trainer, const cavmae__extent *extent);

#endif
