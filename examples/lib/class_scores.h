/* Scores of clips beside the classes they have, and how good they are. */
#ifndef EXAMPLE_CLASS_SCORES_H
#define EXAMPLE_CLASS_SCORES_H

#include "cavmae.h"

typedef struct class_scores {
    int64_t count;
    int32_t classes;
    float *scores, *targets; /* [count, classes] */
    int64_t batches, *batch; /* [batches] clips of each over all ranks; for gather_scores alone */
} class_scores;

/* With memory for `most` clips, and none yet. */
class_scores new_scores(int64_t most, int32_t classes);
void add_scores(class_scores *s, const float *scores, const float *targets, int64_t count);
void free_scores(class_scores *s);

/* In a world each rank has added its share of the batches that are counted here (W r / size to W (r + 1) / size of a
 * batch's W clips): afterwards every rank has all clips, in their order. Collective; nothing where there is no world. */
void add_batch(class_scores *s, int64_t clips);
void gather_scores(class_scores *s, cavmae_world *world);

typedef struct class_report {
    cavmae_class_metrics classes;
    cavmae_topk_metrics top1, top5;
    double *average_precision, *auc, *accuracy; /* [classes]; NaN where it cannot be said */
} class_report;

/* A clip's right class is its largest target, the first of equals, as the reference has it; among the subset [classes]
 * (NULL: all). Clips without one do not count for accuracy. as_reference: see cavmae_class_metrics. */
class_report report_scores(cavmae_context *context, const class_scores *s, const uint8_t *subset, int32_t as_reference);
void free_report(class_report *r);

#endif
