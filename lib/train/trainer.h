/* A trainer: a model's network with gradients, and what a step needs beside it. */
#ifndef CAVMAE_TRAIN_TRAINER_H
#define CAVMAE_TRAIN_TRAINER_H

#include "network.h"
#include "optimizer.h"

struct cavmae_trainer {
    cavmae_model *model;
    cavmae_optimizer *optimizer; /* NULL: evaluates only */
    cavmae__options options; /* objective and training from the trainer's config, model and contract from the model */
    cavmae__network *network;
    cavmae__extent extent; /* of the network */
    float *gradients;      /* device, flat; NULL without optimizer */
    uint8_t *has_gradient; /* [list.count] */
    float *input[2];       /* device: audio, image of a batch */
    int32_t *columns[2];   /* host [batch] grid columns of each clip */
    int32_t *kept[2];      /* host [batch] visible tokens of each clip */
    uint8_t *mask_host;    /* masks on the host where their counts have to be known */
    float *labels;         /* device [batch, classes] */
    uint8_t *shown;        /* host [batch] CAVMAE__SHOW_* of each clip; NULL without modality_dropout */
    int64_t step;          /* batches taken */
    int64_t accumulated;   /* of them for the coming update */
    int32_t count;         /* clips of the last batch; 0: none yet */
};

/* Whether training looks at modality m. */
static inline int cavmae__trainer_uses(const cavmae__options *o, int m) {
    return o->classes ? cavmae__mode_uses(o->mode, m) : cavmae__has_modality(o, m);
}

/* Checks a batch against the model and the plan: fills columns. */
cavmae_status cavmae__trainer_check(cavmae_trainer *trainer, const cavmae_batch *batch);

/* Masks, forward, and backward where `backward`; losses are then in the network's scalars. draw: keys the masks. */
cavmae_status cavmae__trainer_run(cavmae_trainer *trainer, const cavmae_batch *batch, uint64_t draw, int backward,
                                  double scalars[CAVMAE__SCALARS]);

/* The batch's rows, all tokens visible or as many as visible[m] says; and its inputs, to the device. */
cavmae_status cavmae__trainer_put_rows(cavmae_trainer *trainer, const cavmae_batch *batch,
                                       const int32_t *const visible[2], int backward);
cavmae_status cavmae__trainer_put_inputs(cavmae_trainer *trainer, const cavmae_batch *batch);

/* The same for a model with a head: no masks; draw keys modality dropout. */
cavmae_status cavmae__trainer_run_head(cavmae_trainer *trainer, const cavmae_batch *batch, uint64_t draw, int backward,
                                       double scalars[CAVMAE__SCALARS]);

/* Makes the network able to hold `extent`. */
cavmae_status cavmae__trainer_reserve(cavmae_trainer *trainer, const cavmae__extent *extent);

#endif
