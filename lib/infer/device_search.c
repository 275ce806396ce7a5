/* Search on a device. Every chunk of the index has a copy of its rows there, made when it is first searched, and is
 * searched by itself; the host merges what they gave. Ids rise from chunk to chunk, so that of equal scores the
 * earlier chunk's comes first. */
#include <string.h>

#include "device_search.h"
#include "dot.h"

/* Queries are searched for in turns of as many as keep what the chunks give within these bytes. */
enum { FOUND_BYTES = 64 << 20, TURN_MOST = 1024 };

void cavmae__device_rows_free(cavmae_context *context, cavmae__index_chunk *chunk) {
    cavmae__backend *backend;
    if (chunk->device && cavmae__context_backend(context, &backend) == CAVMAE_OK)
        backend->ops->free(backend, chunk->device);
}

static cavmae_status copy_chunk(cavmae__backend *backend, cavmae__index_chunk *chunk, int64_t dim) {
    const size_t row_bytes = (size_t)dim * sizeof(float);
    void *memory;
    if (chunk->copied == chunk->count) return CAVMAE_OK;
    if (!chunk->device) {
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)chunk->capacity * row_bytes, &memory));
        chunk->device = memory;
    }
    CAVMAE__TRY(backend->ops->upload(backend, chunk->device + chunk->copied * dim, chunk->rows + chunk->copied * dim,
                                     (size_t)(chunk->count - chunk->copied) * row_bytes));
    chunk->copied = chunk->count;
    return CAVMAE_OK;
}

static cavmae_status copy_rows(cavmae_index *index, cavmae__backend *backend) {
    cavmae_status status = CAVMAE_OK;
    pthread_mutex_lock(&index->lock);
    for (int32_t c = 0; c < index->chunk_count && status == CAVMAE_OK; c++)
        status = copy_chunk(backend, &index->chunks[c], index->dim);
    pthread_mutex_unlock(&index->lock);
    return status;
}

/* One search's memory; names with device_ are the device's. What chunk c found for query q of a turn begins at turn *
 * start[c] + q * (start[c + 1] - start[c]). */
typedef struct device_search {
    cavmae_index *index;
    cavmae__backend *backend;
    int64_t turn;
    int64_t *start; /* [chunks + 1] sums of how many each chunk gives for a query */
    float *queries; /* [turn, dim], of length 1 */
    int64_t *found_ids;
    float *found_scores;
    int64_t *next; /* [turn, chunks]: of what a chunk found for a query, the best that is not taken yet */
    void *device_queries, *device_ids, *device_scores, *device_workspace;
    int32_t wanted; /* the caller's k */
    int64_t *ids;   /* [turn, wanted] */
    float *scores;
} device_search;

static int64_t given(const device_search *s, int32_t chunk) { return s->start[chunk + 1] - s->start[chunk]; }

static cavmae__top_k operation(const device_search *s, int32_t c, int64_t first_id) {
    const cavmae__index_chunk *chunk = &s->index->chunks[c];
    return (cavmae__top_k){.rows = chunk->count,
                           .queries = (int32_t)s->turn,
                           .width = s->index->dim,
                           .k = (int32_t)given(s, c),
                           .query = s->device_queries,
                           .row = chunk->device,
                           .first_id = first_id,
                           .ids = (int64_t *)s->device_ids + s->turn * s->start[c],
                           .scores = (float *)s->device_scores + s->turn * s->start[c],
                           .workspace = s->device_workspace};
}

/* The largest workspace of any chunk. */
static size_t workspace_size(const device_search *s) {
    size_t size = 0;
    for (int32_t c = 0; c < s->index->chunk_count; c++) {
        if (given(s, c) == 0) continue;
        const cavmae__top_k op = operation(s, c, 0);
        const size_t needed = s->backend->ops->top_k_workspace(s->backend, &op);
        if (needed > size) size = needed;
    }
    return size;
}

static cavmae_status take_memory(device_search *s, int64_t count) {
    const int32_t chunks = s->index->chunk_count;
    cavmae_context *context = s->index->context;
    cavmae__backend *backend = s->backend;
    CAVMAE__TRY(CAVMAE__NEW(context, &s->start, chunks + 1));
    s->start[0] = 0;
    for (int32_t c = 0; c < chunks; c++) {
        const int64_t rows = s->index->chunks[c].count;
        s->start[c + 1] = s->start[c] + (rows < s->wanted ? rows : s->wanted);
    }
    const int64_t found = s->start[chunks], bytes = (int64_t)(sizeof(int64_t) + sizeof(float)) * (found ? found : 1);
    s->turn = bytes < FOUND_BYTES ? FOUND_BYTES / bytes : 1;
    if (s->turn > TURN_MOST) s->turn = TURN_MOST;
    if (s->turn > count) s->turn = count;
    const size_t all = (size_t)(s->turn * found);
    CAVMAE__TRY(CAVMAE__NEW(context, &s->queries, s->turn * s->index->dim));
    CAVMAE__TRY(CAVMAE__NEW(context, &s->found_ids, all));
    CAVMAE__TRY(CAVMAE__NEW(context, &s->found_scores, all));
    CAVMAE__TRY(CAVMAE__NEW(context, &s->next, s->turn * chunks));
    if (!all) return CAVMAE_OK;
    CAVMAE__TRY(backend->ops->alloc(backend, (size_t)(s->turn * s->index->dim) * sizeof(float), &s->device_queries));
    CAVMAE__TRY(backend->ops->alloc(backend, all * sizeof(int64_t), &s->device_ids));
    CAVMAE__TRY(backend->ops->alloc(backend, all * sizeof(float), &s->device_scores));
    return backend->ops->alloc(backend, workspace_size(s), &s->device_workspace);
}

static void free_memory(device_search *s) {
    void *const device[] = {s->device_queries, s->device_ids, s->device_scores, s->device_workspace};
    void *const host[] = {s->start, s->queries, s->found_ids, s->found_scores, s->next};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i]) s->backend->ops->free(s->backend, device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) cavmae__free(s->index->context, host[i]);
}

/* What all chunks found for query q becomes its result. */
static void merge_task(void *arg, int64_t q, int32_t worker) {
    const device_search *s = arg;
    const int32_t chunks = s->index->chunk_count;
    int64_t *next = s->next + q * chunks, *ids = s->ids + q * s->wanted;
    float *scores = s->scores + q * s->wanted;
    (void)worker;
    memset(next, 0, (size_t)chunks * sizeof *next);
    for (int32_t j = 0; j < s->wanted; j++) {
        int64_t best = -1;
        int32_t of = 0;
        for (int32_t c = 0; c < chunks; c++) {
            const int64_t at = s->turn * s->start[c] + q * given(s, c) + next[c];
            if (next[c] == given(s, c) || (best >= 0 && s->found_scores[at] <= s->found_scores[best])) continue;
            best = at;
            of = c;
        }
        ids[j] = best < 0 ? -1 : s->found_ids[best];
        scores[j] = best < 0 ? -2 : s->found_scores[best];
        if (best >= 0) next[of]++;
    }
}

/* Turns are of one size except the last: what is on the device is laid out by it. */
static cavmae_status search_turn(device_search *s) {
    const cavmae__backend_ops *ops = s->backend->ops;
    const int32_t chunks = s->index->chunk_count;
    const size_t all = (size_t)(s->turn * s->start[chunks]);
    int64_t first_id = 0;
    if (all) {
        CAVMAE__TRY(
            ops->upload(s->backend, s->device_queries, s->queries, (size_t)(s->turn * s->index->dim) * sizeof(float)));
        for (int32_t c = 0; c < chunks; first_id += s->index->chunks[c++].count) {
            const cavmae__top_k op = operation(s, c, first_id);
            if (op.k) CAVMAE__TRY(ops->top_k(s->backend, &op));
        }
        CAVMAE__TRY(ops->download(s->backend, s->found_ids, s->device_ids, all * sizeof(int64_t)));
        CAVMAE__TRY(ops->download(s->backend, s->found_scores, s->device_scores, all * sizeof(float)));
    }
    cavmae__parallel(s->index->context, s->turn, merge_task, s);
    return CAVMAE_OK;
}

cavmae_status cavmae__device_search(cavmae_index *index, cavmae__backend *backend, const float *queries, int64_t count,
                                    int32_t k, int64_t *ids, float *scores) {
    device_search s = {.index = index, .backend = backend, .wanted = k};
    cavmae_context *context = index->context;
    const int64_t dim = index->dim;
    cavmae_status status;
    CAVMAE__TRY_OUT(take_memory(&s, count));
    const int64_t turn = s.turn;
    /* All queries are looked at before a result is written. */
    for (int64_t first = 0; first < count; first += turn)
        CAVMAE__TRY_OUT(cavmae__unit_rows(context, "search: queries", queries + first * dim, first,
                                          count - first < turn ? count - first : turn, dim, s.queries));
    if (count) CAVMAE__TRY_OUT(copy_rows(index, backend));
    for (int64_t first = 0; first < count; first += turn) {
        CAVMAE__TRY_OUT(cavmae__check_cancel(context));
        s.turn = count - first < turn ? count - first : turn;
        s.ids = ids + first * k;
        s.scores = scores + first * k;
        CAVMAE__TRY_OUT(
            cavmae__unit_rows(context, "search: queries", queries + first * dim, first, s.turn, dim, s.queries));
        CAVMAE__TRY_OUT(search_turn(&s));
    }
    status = CAVMAE_OK;
out:
    free_memory(&s);
    return status;
}
