/* How good retrieval is, by the definitions of the paper's tables: recall at 1, 5 and 10, median and mean rank. */
#include <math.h>

#include "dot.h"
#include "record.h"

/* Twice the places that a row's scores put before the match: each strictly greater one counts 2, each equal one (the
 * match itself is one) `tie`: 0, 1 or 2. Twice, because the mean of two ranks may lie between them. */
static int64_t places_before(const float *row, int64_t count, float match, int64_t tie) {
    int64_t greater = 0, equal = 0;
    for (int64_t i = 0; i < count; i++) {
        greater += row[i] > match;
        equal += row[i] == match;
    }
    return 2 * greater + tie * equal;
}

/* Twice the ranks: from an array where there is memory for one, and else from the matrix, again at each pass. */
typedef struct rank_source {
    const int64_t *ranks;
    const float *similarity;
    int64_t count, tie;
} rank_source;

static int64_t rank_of(const rank_source *source, int64_t i) {
    if (source->ranks) return source->ranks[i];
    const float *row = source->similarity + i * source->count;
    return 2 + places_before(row, source->count, row[i], source->tie) - source->tie;
}

/* The doubled rank that `order` others do not exceed, counting from 0: a radix selection, one pass for every factor of
 * 1024. */
static int64_t rank_in_order(const rank_source *source, int64_t order) {
    enum { BINS = 1024 };
    int64_t low = 2, span = 2 * source->count - 1;
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
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t rank = rank_of(source, i);
        for (int j = 0; j < 3; j++) within[j] += rank <= 2 * limit[j];
        sum += (double)rank;
    }
    int64_t upper = rank_in_order(source, count / 2);
    int64_t lower = count % 2 ? upper : rank_in_order(source, count / 2 - 1);
    cavmae_retrieval_metrics metrics = {.struct_size = sizeof metrics,
                                        .ties = (int32_t)source->tie,
                                        .r1 = (double)within[0] / (double)count,
                                        .r5 = (double)within[1] / (double)count,
                                        .r10 = (double)within[2] / (double)count,
                                        .median_rank = 0.25 * (double)(lower + upper),
                                        .mean_rank = 0.5 * sum / (double)count};
    return cavmae__record_out(out, &metrics, sizeof metrics);
}

/* The numbers of CAVMAE_TIES_ are what an equal score counts, in halves of a place. */
static cavmae_status check_retrieval(const void *a, const void *b, int64_t count, const cavmae_retrieval_metrics *out,
                                     int64_t *tie) {
    cavmae_retrieval_metrics record;
    if (!a || !b || !out) return cavmae__fail(CAVMAE_E_ARG, "retrieval: an argument is NULL");
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "retrieval: count is %lld, must be at least 1", (long long)count);
    CAVMAE__TRY(cavmae__record_in(&record, sizeof record, out));
    if (record.ties < CAVMAE_TIES_FOR_MATCH || record.ties > CAVMAE_TIES_AGAINST_MATCH)
        return cavmae__fail(CAVMAE_E_ARG, "retrieval: ties is %d, not one of CAVMAE_TIES_", (int)record.ties);
    *tie = record.ties;
    return CAVMAE_OK;
}

cavmae_status cavmae_retrieval_from_similarity(const float *similarity, int64_t count, cavmae_retrieval_metrics *out) {
    rank_source source = {.similarity = similarity, .count = count};
    CAVMAE__TRY(check_retrieval(similarity, similarity, count, out, &source.tie));
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < count; j++)
            if (isnan(similarity[i * count + j]))
                return cavmae__fail(CAVMAE_E_ARG, "retrieval: similarity [%lld, %lld] is NaN", (long long)i,
                                    (long long)j);
    return retrieval(&source, out);
}

/* Queries of a task, and rows of the gallery that they meet at a time. */
enum { GROUP = 64, BLOCK = 256 };

typedef struct ranking {
    cavmae__dot *dot;
    const float *queries, *gallery; /* [count, dim], of length 1 */
    int64_t count, dim, tie, *ranks;
    float *scores; /* [workers, GROUP, BLOCK] */
} ranking;

static void rank_task(void *arg, int64_t i, int32_t worker) {
    ranking *r = arg;
    float match[GROUP], *scores = r->scores + (int64_t)worker * GROUP * BLOCK;
    int64_t first = i * GROUP, queries = r->count - first < GROUP ? r->count - first : GROUP;
    for (int64_t q = 0; q < queries; q++) {
        int64_t at = (first + q) * r->dim;
        r->dot(r->queries + at, 1, r->gallery + at, 1, r->dim, &match[q], 1);
        r->ranks[first + q] = 2 - r->tie; /* the match will meet itself, to the last bit */
    }
    for (int64_t row = 0; row < r->count; row += BLOCK) {
        int64_t rows = r->count - row < BLOCK ? r->count - row : BLOCK;
        r->dot(r->queries + first * r->dim, queries, r->gallery + row * r->dim, rows, r->dim, scores, BLOCK);
        for (int64_t q = 0; q < queries; q++)
            r->ranks[first + q] += places_before(scores + q * BLOCK, rows, match[q], r->tie);
    }
}

cavmae_status cavmae_retrieval_from_embeddings(cavmae_context *context, const float *queries, const float *gallery,
                                               int64_t count, int32_t dim, cavmae_retrieval_metrics *out) {
    ranking r = {.dot = cavmae__dot_choose(), .count = count, .dim = dim};
    if (!context) return cavmae__fail(CAVMAE_E_ARG, "retrieval: an argument is NULL");
    CAVMAE__TRY(check_retrieval(queries, gallery, count, out, &r.tie));
    if (dim < 1) return cavmae__fail(CAVMAE_E_ARG, "retrieval: dim is %d, must be at least 1", (int)dim);
    if (count > INT64_MAX / dim)
        return cavmae__fail(CAVMAE_E_ARG, "retrieval: %lld rows of %d are too many", (long long)count, (int)dim);

    float *unit_queries = NULL, *unit_gallery = NULL;
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
    status = retrieval(&(rank_source){.ranks = r.ranks, .count = count, .tie = r.tie}, out);
out:
    cavmae__free(context, unit_queries);
    cavmae__free(context, unit_gallery);
    cavmae__free(context, r.ranks);
    cavmae__free(context, r.scores);
    return status;
}
