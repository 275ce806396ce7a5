/* Mixup (Zhang et al., ICLR 2018) as the reference does it, and label smoothing, which depends on it. */
#ifndef CAVMAE_DATA_MIXUP_H
#define CAVMAE_DATA_MIXUP_H

#include "augment.h"

typedef struct cavmae__mixup {
    int64_t partner; /* the entry that is mixed in; -1: none */
    double lambda;   /* the sample's own share */
} cavmae__mixup;

/* With `probability` a partner, uniform among `count` entries (below 2^32; itself too, as the reference), and lambda of
 * Beta(alpha, alpha). */
cavmae__mixup cavmae__mixup_draw(double probability, double alpha, int64_t count, const cavmae__draw *draw);

/* own = lambda * own + (1 - lambda) * second, both [count]. */
void cavmae__mix_values(float *own, const float *second, int64_t count, double lambda);

/* The same of two sounds, each less its mean; the second cut or filled up with zeros to the first's length. */
void cavmae__mix_waveforms(float *own, int64_t count, const float *second, int64_t second_count, double lambda);

/* labels [classes], y in [0, 1], become y * (1 - eps) + eps / classes; but with `between`, the reference's form for a
 * sample that is not mixed, y * (1 - eps) + (1 - y) * eps / classes. */
void cavmae__smooth_labels(float *labels, int32_t classes, double eps, int between);

#endif
