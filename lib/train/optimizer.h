/* Adam's moments beside a model's flat buffer, the schedule, and parameter groups. */
#ifndef CAVMAE_TRAIN_OPTIMIZER_H
#define CAVMAE_TRAIN_OPTIMIZER_H

#include "model.h"
#include "pieces.h"

typedef struct cavmae__group {
    double lr_factor, weight_decay;
} cavmae__group;

struct cavmae_optimizer {
    atomic_int references;
    cavmae_model *model;
    cavmae__options options;
    cavmae__group *groups; /* [list.count] */
    int64_t groups_set;    /* times: a step recorded before has others */
    cavmae_world *world;   /* NULL: alone */
    cavmae__pieces pieces; /* that this rank updates */
    float *m, *v;          /* device [pieces.total] */
    int64_t updates;
};

cavmae_optimizer *cavmae__optimizer_ref(cavmae_optimizer *optimizer);

/* Learning rate of update `update` = 1, 2, ..., before group factors. */
double cavmae__schedule(const cavmae__options *options, int64_t update);

/* Of all that the next update makes of a gradient: ranks whose numbers differ would not have the same parameters. */
uint64_t cavmae__optimizer_hash(const cavmae_optimizer *optimizer);

/* One update from a gradient that is laid out as the pieces say; only parameters that have one are touched, as torch does
 * with grad None. What `adam` says of an update's numbers, its guard and its norm holds for all; the caller counts the
 * update. */
cavmae_status cavmae__optimizer_update(cavmae_optimizer *optimizer, const float *gradients, const uint8_t *has_gradient,
                                       const cavmae__adam *adam);

#endif
