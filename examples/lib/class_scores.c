#include "class_scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

class_scores new_scores(int64_t most, int32_t classes) {
    size_t count = (size_t)most * (size_t)classes;
    return (class_scores){
        .classes = classes, .scores = allocate(count, sizeof(float)), .targets = allocate(count, sizeof(float))};
}

void add_scores(class_scores *s, const float *scores, const float *targets, int64_t count) {
    size_t at = (size_t)s->count * (size_t)s->classes, size = (size_t)count * (size_t)s->classes * sizeof *scores;
    memcpy(s->scores + at, scores, size);
    memcpy(s->targets + at, targets, size);
    s->count += count;
}

void add_batch(class_scores *s, int64_t clips) {
    int64_t *batches = realloc(s->batch, (size_t)(s->batches + 1) * sizeof *batches);
    if (!batches) die("no memory");
    batches[s->batches++] = clips;
    s->batch = batches;
}

void free_scores(class_scores *s) {
    free(s->scores);
    free(s->targets);
    free(s->batch);
}

/* Rows of all ranks' shares [size, most, classes], in the order of the clips. */
static float *in_order(const class_scores *s, const float *shares, int64_t size, int64_t most, int64_t all) {
    const size_t row = (size_t)s->classes;
    float *rows = allocate((size_t)all * row, sizeof *rows), *to = rows;
    int64_t *taken = allocate((size_t)size, sizeof *taken);
    for (int64_t b = 0; b < s->batches; b++) {
        for (int64_t r = 0; r < size; r++) {
            const int64_t clips = s->batch[b] * (r + 1) / size - s->batch[b] * r / size;
            memcpy(to, shares + (size_t)(r * most + taken[r]) * row, (size_t)clips * row * sizeof *to);
            to += (size_t)clips * row;
            taken[r] += clips;
        }
    }
    free(taken);
    return rows;
}

void gather_scores(class_scores *s, cavmae_world *world) {
    const int64_t size = cavmae_world_size(world);
    int64_t most = 0, all = 0;
    if (size == 1) return;
    for (int64_t b = 0; b < s->batches; b++) {
        most += (s->batch[b] + size - 1) / size;
        all += s->batch[b];
    }
    const size_t share = (size_t)most * (size_t)s->classes;
    float *shares = allocate((size_t)size * share, sizeof *shares), *own = allocate(share, sizeof *own);
    for (int i = 0; i < 2; i++) {
        float **rows = i ? &s->targets : &s->scores;
        memcpy(own, *rows, (size_t)s->count * (size_t)s->classes * sizeof *own);
        check(cavmae_world_gather(world, own, shares, share * sizeof *own));
        free(*rows);
        *rows = in_order(s, shares, size, most, all);
    }
    s->count = all;
    free(shares);
    free(own);
}

/* -1: no class of the subset has a target. */
static int64_t largest(const float *targets, int32_t classes, const uint8_t *subset) {
    int64_t best = -1;
    for (int32_t i = 0; i < classes; i++)
        if ((!subset || subset[i]) && targets[i] > (best < 0 ? 0 : targets[best])) best = i;
    return best;
}

/* Clips that have a right class: their scores, one after another, and the class. */
static int64_t clips_with_class(const class_scores *s, const uint8_t *subset, float *scores, int64_t *target) {
    int64_t count = 0, classes = s->classes;
    for (int64_t i = 0; i < s->count; i++) {
        target[count] = largest(s->targets + i * classes, s->classes, subset);
        if (target[count] < 0) continue;
        memcpy(scores + count * classes, s->scores + i * classes, (size_t)classes * sizeof *scores);
        count++;
    }
    return count;
}

class_report report_scores(cavmae_context *context, const class_scores *s, const uint8_t *subset,
                           int32_t as_reference) {
    class_report r = {
        .classes = {.struct_size = sizeof r.classes, .subset = subset, .as_reference = as_reference},
        .top1 = {.struct_size = sizeof r.top1, .accuracy = NAN, .mean_class_accuracy = NAN, .subset = subset},
        .average_precision = allocate((size_t)s->classes, sizeof(double)),
        .auc = allocate((size_t)s->classes, sizeof(double)),
        .accuracy = allocate((size_t)s->classes, sizeof(double))};
    r.top5 = r.top1;
    for (int32_t i = 0; i < s->classes; i++) r.accuracy[i] = NAN;
    if (s->count < 1) die("there are no clips to score");
    check(cavmae_classification_metrics(context, s->scores, s->targets, s->count, s->classes, r.average_precision,
                                        r.auc, &r.classes));
    float *scores = allocate((size_t)s->count * (size_t)s->classes, sizeof *scores);
    int64_t *target = allocate((size_t)s->count, sizeof *target);
    int64_t count = clips_with_class(s, subset, scores, target);
    if (count) {
        check(cavmae_topk_accuracy(context, scores, target, count, s->classes, 1, r.accuracy, &r.top1));
        check(cavmae_topk_accuracy(context, scores, target, count, s->classes, 5, NULL, &r.top5));
    }
    free(scores);
    free(target);
    return r;
}

void free_report(class_report *r) {
    free(r->average_precision);
    free(r->auc);
    free(r->accuracy);
}
