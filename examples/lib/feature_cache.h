/* What the head of a frozen model sees of every clip, computed once: batches of it stand in for those of a loader. */
#ifndef EXAMPLE_FEATURE_CACHE_H
#define EXAMPLE_FEATURE_CACHE_H

#include "cavmae.h"

typedef struct feature_cache {
    int64_t count, width;
    int32_t classes;
    float *features, *labels; /* [count, width], [count, classes] */
    int32_t batch, shuffle, rank, ranks;
    uint64_t seed;
    int64_t batches; /* in an epoch */
    /* the place */
    int64_t epoch, position; /* batches of the epoch so far */
    int64_t *order;          /* [count] of `ordered` */
    int64_t ordered;         /* epoch; -1: none */
    float *batch_features, *batch_labels;
    cavmae_batch current;
} feature_cache;

/* 1: every epoch shows the head the same features: nothing that config says changes from epoch to epoch. */
int32_t can_cache_features(const cavmae_config *config);

/* One pass of the encoder over the manifest, of which each rank of `world` (NULL: none), which config has too, does its
 * share; then batches as config's batch, drop_last, shuffle and seed say, and of them this rank's shares. */
void cache_features(feature_cache *cache, cavmae_model *model, const cavmae_config *config, const char *manifest,
                    const char *labels, cavmae_world *world);
void free_cache(feature_cache *cache);

/* As cavmae_loader_next: NULL at the end of an epoch. cache->epoch is that of the last batch. */
const cavmae_batch *next_of_cache(feature_cache *cache);

/* To where `steps` batches have been taken. */
void seek_cache(feature_cache *cache, int64_t steps);

#endif
