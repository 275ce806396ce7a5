/* Scores of clips from the logits, or features, of their pictures. */
#ifndef CAVMAE_INFER_SCORES_H
#define CAVMAE_INFER_SCORES_H

#include "model.h"

/* Sums over a clip's pictures, of what is averaged. */
typedef struct cavmae__scores {
    const cavmae__options *options; /* key loss: sigmoid or softmax */
    int32_t average;                /* CAVMAE_AVERAGE_* */
    int64_t width;                  /* of a row that is added: classes, or the head's */
    double *sum;                    /* [clips, width] */
    int64_t *pictures;              /* [clips] added so far */
} cavmae__scores;

/* Room for `clips` clips at a time. */
cavmae_status cavmae__scores_create(cavmae_context *context, const cavmae__options *options, int32_t average,
                                    int32_t clips, cavmae__scores *out);
void cavmae__scores_free(cavmae_context *context, cavmae__scores *scores);

void cavmae__scores_clear(cavmae__scores *scores, int32_t clips);
/* rows [clips * pictures, width]: logits, or features with CAVMAE_AVERAGE_FEATURES. Changes them. */
void cavmae__scores_add(cavmae__scores *scores, int32_t clips, int32_t pictures, float *rows);
/* out [clips, width]: the mean; with CAVMAE_AVERAGE_SCORES scores, otherwise logits or features still. */
void cavmae__scores_mean(const cavmae__scores *scores, int32_t clips, float *out);

/* Logits to scores, in place. rows [count, classes]. */
void cavmae__activate(const cavmae__options *options, int64_t count, float *rows);

#endif
