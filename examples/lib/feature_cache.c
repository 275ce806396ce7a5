#define _GNU_SOURCE
#include "feature_cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

int32_t can_cache_features(const cavmae_config *config) {
    static const int32_t changing[] = {CAVMAE_P_NOISE, CAVMAE_P_ROLL, CAVMAE_P_FREQ_MASK, CAVMAE_P_TIME_MASK,
                                       CAVMAE_P_BALANCED};
    double mixup, dropout;
    check(cavmae_config_get_f64(config, CAVMAE_P_MIXUP, &mixup));
    check(cavmae_config_get_f64(config, CAVMAE_P_MODALITY_DROPOUT, &dropout));
    int32_t same = whole_number(config, CAVMAE_P_FREEZE_BASE) && whole_number(config, CAVMAE_P_FRAME) >= -1 &&
                   mixup == 0 && dropout == 0;
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
        same = same && whole_number(config, changing[i]) == 0;
    return same;
}

/* ---- Computing ---- */

static cavmae_loader *open_in_order(const cavmae_config *config, const char *manifest, const char *labels) {
    cavmae_config *in_order;
    cavmae_loader *loader;
    check(cavmae_config_clone(config, &in_order));
    check(cavmae_config_set_i64(in_order, CAVMAE_P_SHUFFLE, 0));
    check(cavmae_config_set_i64(in_order, CAVMAE_P_DROP_LAST, 0));
    check(cavmae_loader_create(in_order, manifest, labels, &loader));
    cavmae_config_free(in_order);
    return loader;
}

/* Each rank has its share of a batch's clips. */
static int64_t share_of(const feature_cache *c, int64_t clips, int32_t rank) { return clips * rank / c->ranks; }

/* What each rank has filled in, the others have zeros for. */
static void add_up(cavmae_world *world, float *values, int64_t count) {
    enum { PIECE = 1 << 18 };
    double *piece = allocate(PIECE, sizeof *piece);
    for (int64_t first = 0; first < count; first += PIECE) {
        const int64_t length = count - first < PIECE ? count - first : PIECE;
        for (int64_t i = 0; i < length; i++) piece[i] = values[first + i];
        check(cavmae_world_sum(world, piece, length));
        for (int64_t i = 0; i < length; i++) values[first + i] = (float)piece[i];
    }
    free(piece);
}

/* The world's clips in the manifest's order, those of a batch side by side. */
static void fill(feature_cache *c, cavmae_model *model, cavmae_loader *loader, cavmae_world *world) {
    int64_t most = cavmae_loader_count(loader);
    const cavmae_batch *batch;
    c->features = allocate((size_t)(most * c->width), sizeof *c->features);
    c->labels = allocate((size_t)most * (size_t)c->classes, sizeof *c->labels);
    for (;;) {
        check(cavmae_loader_next(loader, &batch));
        if (!batch) break;
        const int64_t all = batch->world_count ? batch->world_count : batch->count;
        const int64_t first = c->count + share_of(c, all, c->rank);
        const cavmae_embedding out = {.struct_size = sizeof out, .features = c->features + first * c->width};
        c->count += all;
        if (!batch->count) continue;
        check(cavmae_embed(model, batch, &out));
        memcpy(c->labels + first * c->classes, batch->labels,
               (size_t)batch->count * (size_t)c->classes * sizeof *c->labels);
        if (isatty(STDERR_FILENO) && c->rank == 0)
            fprintf(stderr, "\rfeatures of %" PRId64 " of %" PRId64 " clips\033[K", c->count, most);
    }
    if (isatty(STDERR_FILENO) && c->rank == 0) fprintf(stderr, "\r\033[K");
    if (!world) return;
    add_up(world, c->features, c->count * c->width);
    add_up(world, c->labels, c->count * c->classes);
}

void cache_features(feature_cache *c, cavmae_model *model, const cavmae_config *config, const char *manifest,
                    const char *labels, cavmae_world *world) {
    const char *input;
    cavmae_loader *loader = open_in_order(config, manifest, labels);
    check(cavmae_config_get_str(config, CAVMAE_P_HEAD_INPUT, &input));
    *c = (feature_cache){.classes = cavmae_loader_classes(loader),
                         .batch = (int32_t)whole_number(config, CAVMAE_P_BATCH),
                         .shuffle = (int32_t)whole_number(config, CAVMAE_P_SHUFFLE),
                         .seed = (uint64_t)whole_number(config, CAVMAE_P_SEED),
                         .ordered = -1,
                         .rank = cavmae_world_rank(world),
                         .ranks = cavmae_world_size(world)};
    c->width = whole_number(config, CAVMAE_P_EMBED_DIM) * (strcmp(input, "concat") ? 1 : 2);
    fill(c, model, loader, world);
    cavmae_loader_free(loader);
    int64_t rest = c->count % c->batch != 0 && !whole_number(config, CAVMAE_P_DROP_LAST);
    c->batches = c->count / c->batch + rest;
    c->order = allocate((size_t)c->count, sizeof *c->order);
    c->batch_features = allocate((size_t)(c->batch * c->width), sizeof *c->batch_features);
    c->batch_labels = allocate((size_t)c->batch * (size_t)c->classes, sizeof *c->batch_labels);
}

void free_cache(feature_cache *c) {
    free(c->features);
    free(c->labels);
    free(c->order);
    free(c->batch_features);
    free(c->batch_labels);
}

/* ---- Batches ---- */

static uint64_t random_bits(uint64_t *state) { /* SplitMix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* An epoch's order is a function of seed and epoch alone. */
static void order_epoch(feature_cache *c) {
    uint64_t state = c->seed;
    state = random_bits(&state) ^ (uint64_t)c->epoch;
    for (int64_t i = 0; i < c->count; i++) c->order[i] = i;
    for (int64_t i = c->count - 1; c->shuffle && i > 0; i--) {
        int64_t other = (int64_t)(random_bits(&state) % (uint64_t)(i + 1)), kept = c->order[i];
        c->order[i] = c->order[other];
        c->order[other] = kept;
    }
    c->ordered = c->epoch;
}

const cavmae_batch *next_of_cache(feature_cache *c) {
    if (c->position > c->batches) { /* the end was told */
        c->epoch++;
        c->position = 0;
    }
    int64_t first = c->position++ * c->batch, left = c->count - first, all = left < c->batch ? left : c->batch;
    int64_t own = share_of(c, all, c->rank), end = share_of(c, all, c->rank + 1);
    if (c->position > c->batches) return NULL;
    if (c->ordered != c->epoch) order_epoch(c);
    c->current = (cavmae_batch){.struct_size = sizeof c->current,
                                .count = (int32_t)(end - own),
                                .world_count = (int32_t)all,
                                .labels = c->batch_labels,
                                .classes = c->classes,
                                .features = c->batch_features};
    for (int32_t i = 0; i < c->current.count; i++) {
        int64_t clip = c->order[first + own + i];
        memcpy(c->batch_features + i * c->width, c->features + clip * c->width, (size_t)c->width * sizeof(float));
        memcpy(c->batch_labels + (int64_t)i * c->classes, c->labels + clip * c->classes,
               (size_t)c->classes * sizeof(float));
    }
    return &c->current;
}

/* After an epoch's last batch its end is still to be told. */
void seek_cache(feature_cache *c, int64_t steps) {
    c->epoch = steps ? (steps - 1) / c->batches : 0;
    c->position = steps - c->epoch * c->batches;
}
