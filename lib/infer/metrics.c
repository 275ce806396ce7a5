/* How good retrieval and classification are, by the definitions of the paper's tables: recall at 1, 5 and 10 and the
 * median rank; average precision and area under the ROC curve with scikit-learn's treatment of ties; d'. */
#define _GNU_SOURCE /* M_SQRT2 */
#include <math.h>
#include <string.h>

#include "dot.h"
#include "record.h"

/* ---- Retrieval ---- */

/* 1 + the scores that are strictly greater than the match's: equals count for the match. */
static int64_t rank_among(const float *row, int64_t count, float match) {
    int64_t rank = 1;
    for (int64_t i = 0; i < count; i++) rank += row[i] > match;
    return rank;
}

/* Ranks come from an array where there is memory for one, and else from the matrix, again at each pass. */
typedef struct rank_source {
    const int64_t *ranks;
    const float *similarity;
    int64_t count;
} rank_source;

static int64_t rank_of(const rank_source *source, int64_t i) {
    if (source->ranks) return source->ranks[i];
    const float *row = source->similarity + i * source->count;
    return rank_among(row, source->count, row[i]);
}

/* The rank that `order` others do not exceed, counting from 0: a radix selection, one pass for every factor of 1024. */
static int64_t rank_in_order(const rank_source *source, int64_t order) {
    enum { BINS = 1024 };
    int64_t low = 1, span = source->count;
    while (span > 1) {
        int64_t bins[BINS] = {0}, width = (span + BINS - 1) / BINS;
        for (int64_t i = 0; i < source->count; i++) {
            int64_t above = rank_of(source, i) - low;
            if (above >= 0 && above < span) bins[above / width]++;
        }
        int64_t bin = 0;
        while (order >= bins[bin]) order -= bins[bin++];
        low += bin * width;
        span = width < span - bin * width ? width : span - bin * width;
    }
    return low;
}

static cavmae_status retrieval(const rank_source *source, cavmae_retrieval_metrics *out) {
    int64_t within[3] = {0}, count = source->count;
    static const int64_t limit[3] = {1, 5, 10};
    for (int64_t i = 0; i < count; i++) {
        int64_t rank = rank_of(source, i);
        for (int j = 0; j < 3; j++) within[j] += rank <= limit[j];
    }
    int64_t upper = rank_in_order(source, count / 2);
    int64_t lower = count % 2 ? upper : rank_in_order(source, count / 2 - 1);
    cavmae_retrieval_metrics metrics = {.struct_size = sizeof metrics,
                                        .r1 = (double)within[0] / (double)count,
                                        .r5 = (double)within[1] / (double)count,
                                        .r10 = (double)within[2] / (double)count,
                                        .median_rank = 0.5 * (double)(lower + upper)};
    return cavmae__record_out(out, &metrics, sizeof metrics);
}

static cavmae_status check_retrieval(const void *a, const void *b, int64_t count, const cavmae_retrieval_metrics *out) {
    cavmae_retrieval_metrics record;
    if (!a || !b || !out) return cavmae__fail(CAVMAE_E_ARG, "retrieval: an argument is NULL");
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "retrieval: count is %lld, must be at least 1", (long long)count);
    return cavmae__record_in(&record, sizeof record, out);
}

cavmae_status cavmae_retrieval_from_similarity(const float *similarity, int64_t count, cavmae_retrieval_metrics *out) {
    CAVMAE__TRY(check_retrieval(similarity, similarity, count, out));
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < count; j++)
            if (isnan(similarity[i * count + j]))
                return cavmae__fail(CAVMAE_E_ARG, "retrieval: similarity [%lld, %lld] is NaN", (long long)i,
                                    (long long)j);
    return retrieval(&(rank_source){.similarity = similarity, .count = count}, out);
}

/* Queries of a task, and rows of the gallery that they meet at a time. */
enum { GROUP = 64, BLOCK = 256 };

typedef struct ranking {
    cavmae__dot *dot;
    const float *queries, *gallery; /* [count, dim], of length 1 */
    int64_t count, dim, *ranks;
    float *scores; /* [workers, GROUP, BLOCK] */
} ranking;

static void rank_task(void *arg, int64_t i, int32_t worker) {
    ranking *r = arg;
    float match[GROUP], *scores = r->scores + (int64_t)worker * GROUP * BLOCK;
    int64_t first = i * GROUP, queries = r->count - first < GROUP ? r->count - first : GROUP;
    for (int64_t q = 0; q < queries; q++) {
        int64_t at = (first + q) * r->dim;
        r->dot(r->queries + at, 1, r->gallery + at, 1, r->dim, &match[q], 1);
        r->ranks[first + q] = 1;
    }
    for (int64_t row = 0; row < r->count; row += BLOCK) {
        int64_t rows = r->count - row < BLOCK ? r->count - row : BLOCK;
        r->dot(r->queries + first * r->dim, queries, r->gallery + row * r->dim, rows, r->dim, scores, BLOCK);
        for (int64_t q = 0; q < queries; q++) r->ranks[first + q] += rank_among(scores + q * BLOCK, rows, match[q]) - 1;
    }
}

cavmae_status cavmae_retrieval_from_embeddings(cavmae_context *context, const float *queries, const float *gallery,
                                               int64_t count, int32_t dim, cavmae_retrieval_metrics *out) {
    if (!context) return cavmae__fail(CAVMAE_E_ARG, "retrieval: an argument is NULL");
    CAVMAE__TRY(check_retrieval(queries, gallery, count, out));
    if (dim < 1) return cavmae__fail(CAVMAE_E_ARG, "retrieval: dim is %d, must be at least 1", (int)dim);
    if (count > INT64_MAX / dim)
        return cavmae__fail(CAVMAE_E_ARG, "retrieval: %lld rows of %d are too many", (long long)count, (int)dim);

    float *unit_queries = NULL, *unit_gallery = NULL;
    ranking r = {.dot = cavmae__dot_choose(), .count = count, .dim = dim};
    cavmae_status status;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &unit_queries, count * dim));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &unit_gallery, count * dim));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &r.ranks, count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &r.scores, (int64_t)cavmae__context_threads(context) * GROUP * BLOCK));
    CAVMAE__TRY_OUT(cavmae__unit_rows(context, "retrieval: queries", queries, 0, count, dim, unit_queries));
    CAVMAE__TRY_OUT(cavmae__unit_rows(context, "retrieval: gallery", gallery, 0, count, dim, unit_gallery));
    r.queries = unit_queries;
    r.gallery = unit_gallery;
    cavmae__parallel(context, (count + GROUP - 1) / GROUP, rank_task, &r);
    status = retrieval(&(rank_source){.ranks = r.ranks, .count = count}, out);
out:
    cavmae__free(context, unit_queries);
    cavmae__free(context, unit_gallery);
    cavmae__free(context, r.ranks);
    cavmae__free(context, r.scores);
    return status;
}

/* ---- Classification ---- */

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
    return (class_result){precision_sum / (double)positives, pairs / ((double)positives * (double)negatives)};
}

typedef struct scoring {
    const float *scores, *targets; /* [count, classes] */
    int64_t count;
    int32_t classes;
    uint64_t *keys; /* [workers, 2, count] */
    class_result *results;
} scoring;

static void class_task(void *arg, int64_t i, int32_t worker) {
    scoring *s = arg;
    uint64_t *keys = s->keys + 2 * s->count * worker;
    int64_t positives = 0;
    for (int64_t r = 0; r < s->count; r++) {
        int positive = s->targets[r * s->classes + i] > 0.5f;
        positives += positive;
        keys[r] = sort_key(s->scores[r * s->classes + i], positive);
    }
    s->results[i] = (class_result){(double)NAN, (double)NAN};
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

cavmae_status cavmae_classification_metrics(cavmae_context *context, const float *scores, const float *targets,
                                            int64_t count, int32_t classes, double *average_precision, double *auc,
                                            cavmae_class_metrics *out) {
    cavmae_class_metrics metrics;
    if (!context || !scores || !targets || !out)
        return cavmae__fail(CAVMAE_E_ARG, "classification: an argument is NULL");
    if (count < 1 || classes < 1 || count > INT64_MAX / classes)
        return cavmae__fail(CAVMAE_E_ARG, "classification: %lld rows of %d classes", (long long)count, (int)classes);
    CAVMAE__TRY(cavmae__record_in(&metrics, sizeof metrics, out));
    for (int64_t i = 0; i < count * classes; i++)
        if (isnan(scores[i]) || isnan(targets[i]))
            return cavmae__fail(CAVMAE_E_ARG, "classification: row %lld, class %lld is NaN", (long long)(i / classes),
                                (long long)(i % classes));

    scoring s = {.scores = scores, .targets = targets, .count = count, .classes = classes};
    cavmae_status status;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.results, classes));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.keys, count * 2 * cavmae__context_threads(context)));
    cavmae__parallel(context, classes, class_task, &s);

    double precision_sum = 0, auc_sum = 0;
    int32_t scored = 0;
    for (int32_t i = 0; i < classes; i++) {
        class_result r = s.results[i];
        if (average_precision) average_precision[i] = r.average_precision;
        if (auc) auc[i] = r.auc;
        if (isnan(r.auc)) continue;
        precision_sum += r.average_precision;
        auc_sum += r.auc;
        scored++;
    }
    metrics.scored_classes = scored;
    metrics.mean_average_precision = precision_sum / scored; /* NaN without a class */
    metrics.mean_auc = auc_sum / scored;
    metrics.d_prime = M_SQRT2 * inverse_normal_cdf(metrics.mean_auc);
    status = cavmae__record_out(out, &metrics, sizeof metrics);
out:
    cavmae__free(context, s.results);
    cavmae__free(context, s.keys);
    return status;
}

cavmae_status cavmae_top1_accuracy(const float *scores, const int64_t *target, int64_t count, int32_t classes,
                                   double *out) {
    if (!scores || !target || !out) return cavmae__fail(CAVMAE_E_ARG, "accuracy: an argument is NULL");
    if (count < 1 || classes < 1)
        return cavmae__fail(CAVMAE_E_ARG, "accuracy: %lld rows of %d classes", (long long)count, (int)classes);
    int64_t right = 0;
    for (int64_t r = 0; r < count; r++) {
        const float *row = scores + r * classes;
        if (target[r] < 0 || target[r] >= classes)
            return cavmae__fail(CAVMAE_E_ARG, "accuracy: target of row %lld is %lld, there are %d classes",
                                (long long)r, (long long)target[r], (int)classes);
        int32_t best = 0;
        for (int32_t i = 0; i < classes; i++) {
            if (isnan(row[i]))
                return cavmae__fail(CAVMAE_E_ARG, "accuracy: row %lld, class %d is NaN", (long long)r, (int)i);
            if (row[i] > row[best]) best = i;
        }
        right += best == target[r];
    }
    *out = (double)right / (double)count;
    return CAVMAE_OK;
}
