/* The contrastive loss of a batch, which may be more than the clips that are computed at once: those of several chunks, of
 * all ranks (contrast_scope global), or less: one shard after another (contrast_shards). */
#ifndef CAVMAE_TRAIN_CONTRAST_H
#define CAVMAE_TRAIN_CONTRAST_H

#include "network.h"
#include "world.h"

/* Means of the audio and visual streams and their gradients, device [rows, embed_dim]; [2]: audio, visual. What is NULL is
 * not needed. */
typedef struct cavmae__contrast {
    cavmae_world *world;      /* not owned; NULL: alone */
    int32_t shards;           /* of the world's batch; 0: one for all ranks together */
    int32_t capacity;         /* clips of this rank's largest share */
    float *own[2], *d_own[2]; /* [capacity] of all chunks; NULL: the network's are all */
    /* Scope global: [size, largest share of the batch], and the same without gaps where shares are not equal. */
    float *gathered[2], *d_gathered[2], *dense[2], *d_dense[2];
    int32_t *dense_row, *gathered_row; /* of each row of dense that of gathered, and back; -1: a gap */
    int32_t dense_count;               /* the batch that these are of */
} cavmae__contrast;

cavmae_status cavmae__contrast_create(cavmae_model *model, cavmae_world *world, const cavmae__options *options,
                                      int32_t capacity, int chunked, int backward, cavmae__contrast *out);
void cavmae__contrast_free(cavmae_model *model, cavmae__contrast *contrast);

/* Before a batch of `all` clips over all ranks: what depends on their number. Not for recording. */
cavmae_status cavmae__contrast_put(cavmae__contrast *contrast, const cavmae_model *model, int32_t all);

/* Loss, accuracy and, with backward, gradients of this rank's `count` clips, which are first .. of `all`. */
cavmae_status cavmae__contrast_compute(cavmae__contrast *contrast, cavmae__network *network,
                                       const cavmae__options *options, int32_t first, int32_t count, int32_t all,
                                       int backward);

/* The largest of the contrastive loss's groups in a batch of `all` clips. */
int32_t cavmae__contrast_pairs(const cavmae__contrast *contrast, int32_t all);

/* x and its gradient of this rank's clips: contrast->own, or the network's. */
float *cavmae__contrast_own(const cavmae__contrast *contrast, const cavmae__network *network, int m, int gradient);

#endif
