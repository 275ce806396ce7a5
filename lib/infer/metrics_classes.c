/* How good scores of classes are: average precision and area under the ROC curve with scikit-learn's treatment of ties,
 * d', and how often the right class is among the first. */
#define _GNU_SOURCE /* M_SQRT2 */
#include <math.h>
#include <string.h>

#include "context.h"
#include "record.h"

/* A score and its target in one number that sorts by falling score: the bits of a float, made to order like an unsigned
 * integer and turned round, then the target. */
static uint64_t sort_key(float score, int positive) {
    uint32_t bits;
    score += 0.0f; /* -0 becomes 0: the two are a tie */
    memcpy(&bits, &score, sizeof bits);
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return (uint64_t)~bits << 1 | (uint64_t)positive;
}

/* Radix sort by the score's 32 bits, a byte at a time; an even number of passes ends in `keys`. */
static void sort_keys(uint64_t *keys, uint64_t *scratch, int64_t count) {
    for (int shift = 1; shift < 33; shift += 8) {
        int64_t start[257] = {0};
        for (int64_t i = 0; i < count; i++) start[(keys[i] >> shift & 255) + 1]++;
        for (int i = 0; i < 256; i++) start[i + 1] += start[i];
        for (int64_t i = 0; i < count; i++) scratch[start[keys[i] >> shift & 255]++] = keys[i];
        uint64_t *other = keys;
        keys = scratch;
        scratch = other;
    }
}

typedef struct class_result {
    double average_precision, auc; /* NaN: the class lacks positives or negatives */
    int64_t positives;
} class_result;

/* keys [count], sorted. Equal scores are one threshold. Average precision is the sum of (recall gained * precision),
 * without interpolation; AUC is the share of (positive, negative) pairs in the right order, equals counting half. */
static class_result score_class(const uint64_t *keys, int64_t count, int64_t positives) {
    int64_t negatives = count - positives, true_positives = 0;
    double precision_sum = 0, pairs = 0;
    for (int64_t i = 0, end; i < count; i = end) {
        int64_t gained = 0;
        for (end = i; end < count && keys[end] >> 1 == keys[i] >> 1; end++) gained += (int64_t)(keys[end] & 1);
        pairs += ((double)true_positives + 0.5 * (double)gained) * (double)(end - i - gained);
        true_positives += gained;
        precision_sum += (double)gained * (double)true_positives / (double)end;
    }
    return (class_result){precision_sum / (double)positives, pairs / ((double)positives * (double)negatives),
                          positives};
}

typedef struct scoring {
    const float *scores, *targets; /* [count, classes] */
    const uint8_t *subset;         /* [classes], or NULL: all */
    int64_t count;
    int32_t classes;
    uint64_t *keys; /* [workers, 2, count] */
    class_result *results;
} scoring;

static int competes(const uint8_t *subset, int64_t class) { return !subset || subset[class]; }

static void class_task(void *arg, int64_t i, int32_t worker) {
    scoring *s = arg;
    uint64_t *keys = s->keys + 2 * s->count * worker;
    int64_t positives = 0;
    s->results[i] = (class_result){(double)NAN, (double)NAN, 0};
    if (!competes(s->subset, i)) return;
    for (int64_t r = 0; r < s->count; r++) {
        int positive = s->targets[r * s->classes + i] > 0.5f;
        positives += positive;
        keys[r] = sort_key(s->scores[r * s->classes + i], positive);
    }
    s->results[i].positives = positives;
    if (!positives || positives == s->count) return;
    sort_keys(keys, keys + s->count, s->count);
    s->results[i] = score_class(keys, s->count, positives);
}

/* x with P(normal < x) = p. Bisection: erfc does the work, and is exact in the tail. */
static double inverse_normal_cdf(double p) {
    if (!(p > 0 && p < 1)) return p == 0 ? (double)-INFINITY : p == 1 ? (double)INFINITY : (double)NAN;
    double low = -40, high = 40, x;
    while ((x = 0.5 * (low + high)) > low && x < high) {
        if (0.5 * erfc(-x * M_SQRT1_2) < p)
            low = x;
        else
            high = x;
    }
    return x;
}

static cavmae_status check_subset(const char *what, const uint8_t *subset, int32_t classes) {
    for (int32_t i = 0; i < classes; i++)
        if (competes(subset, i)) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_ARG, "%s: the subset has none of the %d classes", what, (int)classes);
}

static cavmae_status check_scores(const char *what, const float *scores, int64_t count, int32_t classes) {
    if (count < 1 || classes < 1 || count > INT64_MAX / classes)
        return cavmae__fail(CAVMAE_E_ARG, "%s: %lld rows of %d classes", what, (long long)count, (int)classes);
    for (int64_t i = 0; i < count * classes; i++)
        if (isnan(scores[i]))
            return cavmae__fail(CAVMAE_E_ARG, "%s: row %lld, class %lld is NaN", what, (long long)(i / classes),
                                (long long)(i % classes));
    return CAVMAE_OK;
}

/* Means over the classes with both positives and negatives. As the reference: over all, and one that lacks positives
 * has an average precision of 0 (one without negatives 1), one that lacks either an AUC of -1. */
static void summarise(scoring *s, cavmae_class_metrics *metrics) {
    double precision_sum = 0, auc_sum = 0;
    int32_t scored = 0, lacking = 0;
    for (int32_t i = 0; i < s->classes; i++) {
        class_result *r = &s->results[i];
        if (!competes(s->subset, i)) continue;
        if (isnan(r->auc)) {
            lacking++;
            if (!metrics->as_reference) continue;
            *r = (class_result){r->positives > 0, -1, r->positives};
        }
        precision_sum += r->average_precision;
        auc_sum += r->auc;
        scored++;
    }
    metrics->scored_classes = scored;
    metrics->lacking_classes = lacking;
    metrics->mean_average_precision = precision_sum / scored; /* NaN without a class */
    metrics->mean_auc = auc_sum / scored;
    metrics->d_prime = M_SQRT2 * inverse_normal_cdf(metrics->mean_auc);
}

cavmae_status cavmae_classification_metrics(cavmae_context *context, const float *scores, const float *targets,
                                            int64_t count, int32_t classes, double *average_precision, double *auc,
                                            cavmae_class_metrics *out) {
    static const char what[] = "classification";
    cavmae_class_metrics metrics;
    if (!context || !scores || !targets || !out) return cavmae__fail(CAVMAE_E_ARG, "%s: an argument is NULL", what);
    CAVMAE__TRY(cavmae__record_in(&metrics, sizeof metrics, out));
    CAVMAE__TRY(check_scores(what, scores, count, classes));
    CAVMAE__TRY(check_scores("classification: targets", targets, count, classes));
    CAVMAE__TRY(check_subset(what, metrics.subset, classes));

    scoring s = {.scores = scores, .targets = targets, .subset = metrics.subset, .count = count, .classes = classes};
    cavmae_status status;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.results, classes));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.keys, count * 2 * cavmae__context_threads(context)));
    cavmae__parallel(context, classes, class_task, &s);
    summarise(&s, &metrics);
    for (int32_t i = 0; i < classes; i++) {
        if (average_precision) average_precision[i] = s.results[i].average_precision;
        if (auc) auc[i] = s.results[i].auc;
    }
    status = cavmae__record_out(out, &metrics, sizeof metrics);
out:
    cavmae__free(context, s.results);
    cavmae__free(context, s.keys);
    return status;
}

/* ---- Accuracy ---- */

/* How many competing classes come before the target: those with a greater score, and those before it with an equal one,
 * so that 0 is numpy.argmax. */
static int32_t classes_before(const float *row, int32_t classes, int64_t target, const uint8_t *subset) {
    int32_t before = 0;
    for (int32_t i = 0; i < classes; i++)
        if (competes(subset, i)) before += row[i] > row[target] || (i < target && row[i] == row[target]);
    return before;
}

static cavmae_status check_targets(const int64_t *target, int64_t count, int32_t classes) {
    for (int64_t r = 0; r < count; r++)
        if (target[r] < 0 || target[r] >= classes)
            return cavmae__fail(CAVMAE_E_ARG, "accuracy: target of row %lld is %lld, there are %d classes",
                                (long long)r, (long long)target[r], (int)classes);
    return CAVMAE_OK;
}

cavmae_status cavmae_top1_accuracy(const float *scores, const int64_t *target, int64_t count, int32_t classes,
                                   double *out) {
    if (!scores || !target || !out) return cavmae__fail(CAVMAE_E_ARG, "accuracy: an argument is NULL");
    CAVMAE__TRY(check_scores("accuracy", scores, count, classes));
    CAVMAE__TRY(check_targets(target, count, classes));
    int64_t right = 0;
    for (int64_t r = 0; r < count; r++) right += classes_before(scores + r * classes, classes, target[r], NULL) == 0;
    *out = (double)right / (double)count;
    return CAVMAE_OK;
}

typedef struct tally {
    int64_t rows, right;
} tally;

cavmae_status cavmae_topk_accuracy(cavmae_context *context, const float *scores, const int64_t *target, int64_t count,
                                   int32_t classes, int32_t k, double *per_class, cavmae_topk_metrics *out) {
    cavmae_topk_metrics metrics;
    if (!context || !scores || !target || !out) return cavmae__fail(CAVMAE_E_ARG, "accuracy: an argument is NULL");
    if (k < 1) return cavmae__fail(CAVMAE_E_ARG, "accuracy: k is %d, must be at least 1", (int)k);
    CAVMAE__TRY(cavmae__record_in(&metrics, sizeof metrics, out));
    CAVMAE__TRY(check_scores("accuracy", scores, count, classes));
    CAVMAE__TRY(check_targets(target, count, classes));
    CAVMAE__TRY(check_subset("accuracy", metrics.subset, classes));

    tally *tallies = cavmae__alloc_zero(context, (size_t)classes * sizeof *tallies), all = {0};
    if (!tallies) return CAVMAE_E_NOMEM;
    for (int64_t r = 0; r < count; r++) {
        if (!competes(metrics.subset, target[r])) continue;
        tally *of_class = &tallies[target[r]];
        of_class->rows++;
        of_class->right += classes_before(scores + r * classes, classes, target[r], metrics.subset) < k;
    }
    double sum = 0;
    metrics.scored_classes = 0;
    for (int32_t i = 0; i < classes; i++) {
        double share = (double)tallies[i].right / (double)tallies[i].rows; /* NaN without a row */
        if (per_class) per_class[i] = share;
        if (!tallies[i].rows) continue;
        all.rows += tallies[i].rows;
        all.right += tallies[i].right;
        sum += share;
        metrics.scored_classes++;
    }
    metrics.rows = all.rows;
    metrics.accuracy = (double)all.right / (double)all.rows;
    metrics.mean_class_accuracy = sum / metrics.scored_classes;
    cavmae__free(context, tallies);
    return cavmae__record_out(out, &metrics, sizeof metrics);
}
