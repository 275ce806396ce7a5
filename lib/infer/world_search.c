/* Search over the indices of all ranks: each finds the best k of its own rows, and all of them merge what all found. The
 * best k of all rows are among those, because what is best is a total order, and the order of ids is that of ranks.
 *
 * A rank that fails takes part in the exchange all the same, with its sentence in place of results, so that nobody waits
 * and every rank knows. */
#include <stdio.h>
#include <string.h>

#include "checksum.h"
#include "world.h"

/* Results of as many queries are exchanged at a time as keep all ranks' within these bytes. */
enum { TURN_BYTES = 64 << 20, SENTENCE_SIZE = 496 };

/* How a rank fares. */
typedef struct report {
    int64_t status; /* cavmae_status */
    char sentence[SENTENCE_SIZE];
} report;

/* What a rank is asked for, compared before anything is searched. */
typedef struct request {
    report report;
    int64_t count, k, dim, rows;
    int64_t checksum; /* of the queries */
} request;

typedef struct world_search {
    cavmae_context *context;
    cavmae_world *world;
    int32_t ranks, rank, wanted; /* wanted: the caller's k */
    request *requests;           /* [ranks] */
    int64_t k, turn;             /* k: as many as there are rows at the most; turn: queries in an exchange */
    int64_t *firsts;             /* [ranks] the first row's id */
    int64_t *heads;              /* [threads, ranks] results of each rank that are merged already */
    size_t reply_size;
    char *reply, *replies; /* [ranks] a report, ids [turn, k], scores [turn, k] */
    int64_t *ids;          /* [turn, wanted] the caller's */
    float *scores;
} world_search;

static report report_of(cavmae_status status) {
    report r = {.status = status};
    if (status != CAVMAE_OK) snprintf(r.sentence, sizeof r.sentence, "%s", cavmae_last_error());
    return r;
}

/* This rank's own failure, or else the first of another one. reports lie `stride` bytes apart. */
static cavmae_status judge(const void *reports, size_t stride, int32_t ranks, int32_t rank) {
    report r;
    memcpy(&r, (const char *)reports + stride * (size_t)rank, sizeof r);
    if (r.status != CAVMAE_OK) return cavmae__fail((cavmae_status)r.status, "%s", r.sentence);
    for (int32_t i = 0; i < ranks; i++) {
        memcpy(&r, (const char *)reports + stride * (size_t)i, sizeof r);
        if (r.status != CAVMAE_OK)
            return cavmae__fail(CAVMAE_E_PEER, "search: rank %d: %.*s", (int)i, SENTENCE_SIZE - 1, r.sentence);
    }
    return CAVMAE_OK;
}

/* ---- What is searched for ---- */

static cavmae_status check_arguments(const cavmae_index *index, const float *queries, int64_t count, int32_t k,
                                     const int64_t *ids, const float *scores) {
    if (!index || (count && (!queries || !ids || !scores)))
        return cavmae__fail(CAVMAE_E_ARG, "search: index, queries, ids and scores must not be NULL");
    if (count < 0 || k < 1)
        return cavmae__fail(CAVMAE_E_ARG, "search: %lld queries for the best %d", (long long)count, (int)k);
    return CAVMAE_OK;
}

static cavmae_status compare_requests(const request *all, int32_t ranks) {
    for (int32_t i = 1; i < ranks; i++) {
        const request *a = &all[0], *b = &all[i];
        if (a->count != b->count || a->k != b->k || a->dim != b->dim)
            return cavmae__fail(
                CAVMAE_E_PEER,
                "search: rank %d has %lld queries of width %lld for the best %lld, rank 0 %lld of width "
                "%lld for the best %lld",
                (int)i, (long long)b->count, (long long)b->dim, (long long)b->k, (long long)a->count, (long long)a->dim,
                (long long)a->k);
        if (a->checksum != b->checksum)
            return cavmae__fail(CAVMAE_E_PEER, "search: rank %d has other queries than rank 0", (int)i);
    }
    return CAVMAE_OK;
}

/* Tells all ranks what this one is asked for, or how it failed; a failure then is every rank's. */
static cavmae_status exchange_requests(world_search *s, const request *own) {
    CAVMAE__TRY(cavmae_world_gather(s->world, own, s->requests, sizeof *own));
    CAVMAE__TRY(judge(s->requests, sizeof *own, s->ranks, s->rank));
    return compare_requests(s->requests, s->ranks);
}

/* ---- Merging ---- */

static const char *rank_reply(const world_search *s, int64_t r) { return s->replies + (size_t)r * s->reply_size; }

static const int64_t *ids_of(const char *reply) { return (const int64_t *)(const void *)(reply + sizeof(report)); }

static const float *scores_of(const world_search *s, const char *reply) {
    return (const float *)(const void *)(ids_of(reply) + s->turn * s->k);
}

/* Ranks' results of query i are sorted already; of equal scores the lower rank's comes first. */
static void merge_task(void *arg, int64_t i, int32_t worker) {
    world_search *s = arg;
    int64_t *heads = s->heads + (int64_t)worker * s->ranks;
    memset(heads, 0, (size_t)s->ranks * sizeof *heads);
    for (int64_t j = 0; j < s->wanted; j++) {
        int32_t best = -1;
        float best_score = 0;
        for (int32_t r = 0; r < s->ranks && j < s->k; r++) {
            int64_t at = i * s->k + heads[r];
            const char *reply = rank_reply(s, r);
            if (heads[r] == s->k || ids_of(reply)[at] < 0) continue;
            float score = scores_of(s, reply)[at];
            if (best >= 0 && !(score > best_score)) continue;
            best = r;
            best_score = score;
        }
        int64_t *id = &s->ids[i * s->wanted + j];
        *id = -1;
        s->scores[i * s->wanted + j] = -2;
        if (best < 0) continue;
        *id = s->firsts[best] + ids_of(rank_reply(s, best))[i * s->k + heads[best]++];
        s->scores[i * s->wanted + j] = best_score;
    }
}

/* ---- Searching ---- */

static cavmae_status prepare(world_search *s) {
    int64_t rows = 0, count = s->requests->count;
    CAVMAE__TRY(CAVMAE__NEW(s->context, &s->firsts, s->ranks));
    for (int32_t r = 0; r < s->ranks; r++) {
        s->firsts[r] = rows;
        if (s->requests[r].rows > INT64_MAX - rows) return cavmae__fail(CAVMAE_E_SHAPE, "search: more rows than ids");
        rows += s->requests[r].rows;
    }
    s->k = s->wanted < rows ? s->wanted : rows;
    int64_t result = (int64_t)(sizeof(int64_t) + sizeof(float)) * s->k; /* bytes of one query */
    s->turn = TURN_BYTES / s->ranks / (result ? result : 1);
    s->turn = s->turn < 1 ? 1 : s->turn > count ? count : s->turn;
    s->reply_size = (sizeof(report) + (size_t)(s->turn * result) + 7) / 8 * 8; /* the next one's ids are aligned, too */
    CAVMAE__TRY(CAVMAE__NEW(s->context, &s->heads, (int64_t)cavmae__context_threads(s->context) * s->ranks));
    s->reply = cavmae__alloc_zero(s->context, s->reply_size);
    s->replies = cavmae__alloc_array(s->context, (size_t)s->ranks, s->reply_size);
    return s->reply && s->replies ? CAVMAE_OK : CAVMAE_E_NOMEM;
}

/* This rank's part of the results of `count` queries, and with all ranks' the caller's. */
static cavmae_status search_turn(world_search *s, cavmae_index *index, const float *queries, int64_t count) {
    cavmae_status status = CAVMAE_OK;
    int64_t *ids = (int64_t *)(void *)(s->reply + sizeof(report));
    float *scores = (float *)(void *)(ids + s->turn * s->k);
    if (s->k) status = cavmae_index_search(index, queries, count, (int32_t)s->k, ids, scores);
    report own = report_of(status);
    memcpy(s->reply, &own, sizeof own);
    CAVMAE__TRY(cavmae_world_gather(s->world, s->reply, s->replies, s->reply_size));
    CAVMAE__TRY(judge(s->replies, s->reply_size, s->ranks, s->rank));
    cavmae__parallel(s->context, count, merge_task, s);
    return CAVMAE_OK;
}

cavmae_status cavmae_index_search_world(cavmae_index *index, cavmae_world *world, const float *queries, int64_t count,
                                        int32_t k, int64_t *ids, float *scores) {
    if (!world) return cavmae_index_search(index, queries, count, k, ids, scores);
    world_search s = {.context = cavmae__world_context(world),
                      .world = world,
                      .ranks = cavmae_world_size(world),
                      .rank = cavmae_world_rank(world),
                      .wanted = k};
    cavmae_status status = CAVMAE__NEW(s.context, &s.requests, s.ranks);
    if (status != CAVMAE_OK) {
        cavmae__world_new_step(world);                 /* as the gather that the others are in */
        cavmae_world_fail(world, cavmae_last_error()); /* there is no room to hear the others in */
        return status;
    }
    request own = {.count = count, .k = k, .dim = cavmae_index_dim(index), .rows = cavmae_index_count(index)};
    own.report = report_of(check_arguments(index, queries, count, k, ids, scores));
    if (own.report.status == CAVMAE_OK)
        own.checksum = cavmae__crc32(0, queries, (size_t)(count * own.dim) * sizeof *queries);
    CAVMAE__TRY_OUT(exchange_requests(&s, &own));
    own.report = report_of(prepare(&s));
    CAVMAE__TRY_OUT(exchange_requests(&s, &own));
    for (int64_t first = 0; first < count; first += s.turn) {
        s.ids = ids + first * k;
        s.scores = scores + first * k;
        CAVMAE__TRY_OUT(
            search_turn(&s, index, queries + first * own.dim, count - first < s.turn ? count - first : s.turn));
    }
out:
    cavmae__free(s.context, s.requests);
    cavmae__free(s.context, s.firsts);
    cavmae__free(s.context, s.heads);
    cavmae__free(s.context, s.reply);
    cavmae__free(s.context, s.replies);
    return status;
}
