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

void free_scores(class_scores *s) {
    free(s->scores);
    free(s->targets);
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
