/* Exact cosine search. Rows are stored with length 1, so that a score is a product; every row is compared with every
 * query, and each worker keeps the best k of what it has seen. What is best is a total order (greater score, then
 * smaller id), so the result does not depend on which worker saw which rows.
 *
 * Rows lie in chunks that are never moved: memory does not double when the index grows, and a loaded index's rows
 * stay in the map of its file. On disk: safetensors with one tensor for each chunk, rows.0, rows.1, ... [rows, dim]
 * float32, and the metadata "cavmae.index" = "1" and "cavmae.index.dim". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_search.h"
#include "dot.h"
#include "index_shards.h"
#include "safetensors.h"

/* Rows that a task compares in one go: their scores fit a cache. */
enum { BLOCK = 256 };
/* Queries that go over the rows together: as many as turn a memory-bound search into a compute-bound one. */
enum { GROUP = 64 };
/* Queries are searched for in turns of as many as keep all workers' candidates within these bytes. */
enum { CANDIDATE_BYTES = 64 << 20, TURN_MOST = 16 * GROUP };
/* A new chunk is as large as the index is, between these. */
enum { CHUNK_LEAST = 256 << 10, CHUNK_MOST = 64 << 20 };

typedef cavmae__index_chunk chunk;

cavmae_status cavmae_index_create(cavmae_context *context, int32_t dim, cavmae_index **out) {
    if (!context || !out) return cavmae__fail(CAVMAE_E_ARG, "index: context and out must not be NULL");
    if (dim < 1) return cavmae__fail(CAVMAE_E_ARG, "index: dim is %d, must be at least 1", (int)dim);
    cavmae_index *index = cavmae__alloc_zero(context, sizeof *index);
    if (!index) return CAVMAE_E_NOMEM;
    pthread_mutex_init(&index->lock, NULL);
    index->context = cavmae__context_ref(context);
    index->dim = dim;
    *out = index;
    return CAVMAE_OK;
}

void cavmae_index_free(cavmae_index *index) {
    if (!index) return;
    cavmae_context *context = index->context;
    for (int32_t i = 0; i < index->chunk_count; i++) {
        cavmae__device_rows_free(context, &index->chunks[i]);
        if (!index->chunks[i].mapped) cavmae__free(context, index->chunks[i].rows);
    }
    pthread_mutex_destroy(&index->lock);
    cavmae__free(context, index->chunks);
    cavmae_safetensors_free(index->file);
    cavmae__free(context, index);
    cavmae__context_unref(context);
}

int64_t cavmae_index_count(const cavmae_index *index) { return index ? index->count : 0; }
int32_t cavmae_index_dim(const cavmae_index *index) { return index ? index->dim : 0; }

/* ---- Adding ---- */

static cavmae_status append_chunk(cavmae_index *index, chunk added) {
    if (index->chunk_count == index->chunk_capacity) {
        int32_t more = index->chunk_capacity ? 2 * index->chunk_capacity : 16;
        chunk *chunks = cavmae__realloc(index->context, index->chunks, (size_t)index->chunk_capacity * sizeof *chunks,
                                        (size_t)more * sizeof *chunks);
        if (!chunks) return CAVMAE_E_NOMEM;
        index->chunks = chunks;
        index->chunk_capacity = more;
    }
    index->chunks[index->chunk_count++] = added;
    index->count += added.count;
    return CAVMAE_OK;
}

/* Appends an empty chunk with room for `needed` rows or more. */
static cavmae_status grow(cavmae_index *index, int64_t needed) {
    int64_t row_bytes = (int64_t)index->dim * (int64_t)sizeof(float), capacity = index->count;
    if (capacity > CHUNK_MOST / row_bytes) capacity = CHUNK_MOST / row_bytes;
    if (capacity < CHUNK_LEAST / row_bytes) capacity = CHUNK_LEAST / row_bytes;
    if (capacity < needed) capacity = needed;
    float *rows = cavmae__alloc_array(index->context, (size_t)capacity, (size_t)row_bytes);
    if (!rows) return CAVMAE_E_NOMEM;
    cavmae_status status = append_chunk(index, (chunk){.rows = rows, .capacity = capacity});
    if (status != CAVMAE_OK) cavmae__free(index->context, rows);
    return status;
}

cavmae_status cavmae_index_add(cavmae_index *index, const float *rows, int64_t count) {
    if (!index || (!rows && count)) return cavmae__fail(CAVMAE_E_ARG, "index: index and rows must not be NULL");
    if (count < 0 || count > INT64_MAX - index->count)
        return cavmae__fail(CAVMAE_E_ARG, "index: cannot add %lld rows", (long long)count);
    if (!count) return CAVMAE_OK;

    /* The last chunk takes what it has room for, a new one the rest. They count only when all are in. */
    int32_t last = index->chunk_count - 1;
    int64_t room = last < 0 ? 0 : index->chunks[last].capacity - index->chunks[last].count;
    int64_t here = count < room ? count : room, dim = index->dim;
    if (here < count) CAVMAE__TRY(grow(index, count - here));
    if (here) {
        chunk *filled = &index->chunks[last];
        CAVMAE__TRY(cavmae__unit_rows(index->context, "index", rows, 0, here, dim, filled->rows + filled->count * dim));
    }
    if (here < count) {
        chunk *added = &index->chunks[index->chunk_count - 1];
        CAVMAE__TRY(
            cavmae__unit_rows(index->context, "index", rows + here * dim, here, count - here, dim, added->rows));
        added->count = count - here;
    }
    if (here) index->chunks[last].count += here;
    index->count += count;
    return CAVMAE_OK;
}

/* ---- Searching ---- */

typedef struct candidate {
    float score;
    int64_t id;
} candidate;

/* The best of what one worker saw for one query: a heap with the worst of them on top. */
static int better(candidate a, candidate b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

static void sift_down(candidate *heap, int64_t count, candidate item) {
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && better(heap[child], heap[child + 1])) child++;
        if (!better(item, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

static void offer(candidate *heap, int64_t *count, int64_t k, candidate item) {
    if (*count == k) {
        if (better(item, heap[0])) sift_down(heap, k, item);
        return;
    }
    int64_t at = (*count)++;
    for (int64_t parent; at > 0 && better(heap[parent = (at - 1) / 2], item); at = parent) heap[at] = heap[parent];
    heap[at] = item;
}

/* Best first. */
static void sort_heap(candidate *heap, int64_t count) {
    while (count > 1) {
        candidate worst = heap[0], moved = heap[--count];
        sift_down(heap, count, moved);
        heap[count] = worst;
    }
}

typedef struct search {
    const cavmae_index *index;
    cavmae__dot *dot;
    int32_t workers;
    int64_t turn, groups, k; /* queries in this turn; k is at most the index's count */
    float *queries;          /* [turn, dim], of length 1 */
    float *scores;           /* [workers, GROUP, BLOCK] */
    candidate *candidates;   /* [workers, turn, k] */
    int64_t *found;          /* [workers, turn] candidates so far */
    int32_t wanted;          /* the caller's k */
    int64_t *ids;            /* [turn, wanted] */
    float *id_scores;
} search;

static void search_rows(search *s, int64_t group, const float *rows, int64_t first_id, int64_t count, int32_t worker) {
    int64_t dim = s->index->dim, first = group * GROUP;
    int64_t queries = s->turn - first < GROUP ? s->turn - first : GROUP;
    float *scores = s->scores + (int64_t)worker * GROUP * BLOCK;
    s->dot(s->queries + first * dim, queries, rows, count, dim, scores, BLOCK);
    for (int64_t q = 0; q < queries; q++) {
        int64_t slot = worker * s->turn + first + q, *found = &s->found[slot];
        candidate *heap = s->candidates + slot * s->k;
        for (int64_t r = 0; r < count; r++) {
            float score = scores[q * BLOCK + r];
            if (*found == s->k && score < heap[0].score) continue;
            offer(heap, found, s->k, (candidate){score, first_id + r});
        }
    }
}

/* Block `i / groups` of the index's rows, which may lie in several chunks, with group `i % groups` of the queries. */
static void search_task(void *arg, int64_t i, int32_t worker) {
    search *s = arg;
    int64_t from = i / s->groups * BLOCK, to = from + BLOCK, first = 0;
    for (int32_t c = 0; c < s->index->chunk_count && first < to; c++) {
        const chunk *part = &s->index->chunks[c];
        int64_t a = from > first ? from : first, b = first + part->count < to ? first + part->count : to;
        if (a < b) search_rows(s, i % s->groups, part->rows + (a - first) * s->index->dim, a, b - a, worker);
        first += part->count;
    }
}

/* What all workers found for query i becomes its result. */
static void merge_task(void *arg, int64_t i, int32_t worker) {
    (void)worker;
    search *s = arg;
    candidate *best = s->candidates + i * s->k;
    for (int32_t w = 1; w < s->workers; w++) {
        int64_t slot = w * s->turn + i;
        for (int64_t j = 0; j < s->found[slot]; j++) offer(best, &s->found[i], s->k, s->candidates[slot * s->k + j]);
    }
    sort_heap(best, s->k);
    for (int32_t j = 0; j < s->wanted; j++) {
        s->ids[i * s->wanted + j] = j < s->k ? best[j].id : -1;
        s->id_scores[i * s->wanted + j] = j < s->k ? best[j].score : -2;
    }
}

cavmae_status cavmae_index_search(cavmae_index *index, const float *queries, int64_t count, int32_t k, int64_t *ids,
                                  float *scores) {
    if (!index || (count && (!queries || !ids || !scores)))
        return cavmae__fail(CAVMAE_E_ARG, "search: index, queries, ids and scores must not be NULL");
    if (count < 0 || k < 1)
        return cavmae__fail(CAVMAE_E_ARG, "search: %lld queries for the best %d", (long long)count, (int)k);

    cavmae_context *context = index->context;
    cavmae__backend *backend;
    CAVMAE__TRY(cavmae__context_backend(context, &backend));
    if (backend->ops->top_k) return cavmae__device_search(index, backend, queries, count, k, ids, scores);

    search s = {.index = index, .dot = cavmae__dot_choose(), .workers = cavmae__context_threads(context), .wanted = k};
    s.k = k < index->count ? k : index->count;
    int64_t turn = CANDIDATE_BYTES / (int64_t)sizeof(candidate) / s.workers / (s.k ? s.k : 1);
    turn = turn > TURN_MOST ? TURN_MOST : turn < 1 ? 1 : turn;
    if (turn > count) turn = count;

    cavmae_status status;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.queries, turn * index->dim));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.scores, (int64_t)s.workers * GROUP * BLOCK));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.candidates, s.workers * turn * s.k));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.found, s.workers * turn));
    /* All queries are looked at before a result is written. */
    for (int64_t first = 0; first < count; first += turn)
        CAVMAE__TRY_OUT(cavmae__unit_rows(context, "search: queries", queries + first * index->dim, first,
                                          count - first < turn ? count - first : turn, index->dim, s.queries));
    for (int64_t first = 0; first < count; first += turn) {
        CAVMAE__TRY_OUT(cavmae__check_cancel(context));
        s.turn = count - first < turn ? count - first : turn;
        s.groups = (s.turn + GROUP - 1) / GROUP;
        s.ids = ids + first * k;
        s.id_scores = scores + first * k;
        memset(s.found, 0, (size_t)(s.workers * s.turn) * sizeof *s.found);
        CAVMAE__TRY_OUT(cavmae__unit_rows(context, "search: queries", queries + first * index->dim, first, s.turn,
                                          index->dim, s.queries));
        cavmae__parallel(context, (index->count + BLOCK - 1) / BLOCK * s.groups, search_task, &s);
        cavmae__parallel(context, s.turn, merge_task, &s);
    }
    status = CAVMAE_OK;
out:
    cavmae__free(context, s.queries);
    cavmae__free(context, s.scores);
    cavmae__free(context, s.candidates);
    cavmae__free(context, s.found);
    return status;
}

/* ---- Files ---- */

static const char VERSION_KEY[] = "cavmae.index", DIM_KEY[] = "cavmae.index.dim", VERSION[] = "1";

typedef struct chunk_name {
    char text[32];
} chunk_name;

static chunk_name name_chunk(int64_t i) {
    chunk_name name;
    snprintf(name.text, sizeof name.text, "rows.%lld", (long long)i);
    return name;
}

cavmae_status cavmae_index_save(const cavmae_index *index, const char *path) {
    if (!index || !path) return cavmae__fail(CAVMAE_E_ARG, "index: index and path must not be NULL");
    cavmae_context *context = index->context;
    cavmae__entry *entries = NULL;
    chunk_name *names = NULL;
    cavmae_status status;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &entries, index->chunk_count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &names, index->chunk_count));
    int64_t count = 0;
    for (int32_t i = 0; i < index->chunk_count; i++) {
        const chunk *c = &index->chunks[i];
        if (!c->count) continue;
        names[count] = name_chunk(count);
        entries[count] = (cavmae__entry){.name = names[count].text,
                                         .data = c->rows,
                                         .shape = {c->count, index->dim},
                                         .dims = 2,
                                         .dtype = CAVMAE_FLOAT32};
        count++;
    }
    char dim[16];
    snprintf(dim, sizeof dim, "%d", (int)index->dim);
    status = cavmae__safetensors_write(context, path, entries, count, (const char *[]){VERSION_KEY, DIM_KEY},
                                       (const char *[]){VERSION, dim}, 2);
out:
    cavmae__free(context, entries);
    cavmae__free(context, names);
    return status;
}

/* Chunks stay where the file is mapped. */
static cavmae_status map_chunks(cavmae_index *index, const char *path) {
    int64_t tensors = cavmae_safetensors_count(index->file);
    for (int64_t i = 0; i < tensors; i++) {
        chunk_name name = name_chunk(i);
        const cavmae__entry *entry = cavmae__safetensors_find(index->file, name.text);
        if (!entry)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: an index of %lld tensors without %s", path, (long long)tensors,
                                name.text);
        if (entry->dtype != CAVMAE_FLOAT32 || entry->dims != 2 || entry->shape[1] != index->dim ||
            (uintptr_t)entry->data % sizeof(float) != 0)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: %s is not an aligned float32 [rows, %d]", path, name.text,
                                (int)index->dim);
        /* The map is read-only; the chunk is never written to. */
        float *rows = (float *)(uintptr_t)entry->data;
        cavmae_status status = cavmae__unit_rows(index->context, name.text, rows, 0, entry->shape[0], index->dim, NULL);
        if (status != CAVMAE_OK) return cavmae__fail_prefix(CAVMAE_E_FORMAT, "%s", path);
        CAVMAE__TRY(append_chunk(
            index, (chunk){.rows = rows, .count = entry->shape[0], .capacity = entry->shape[0], .mapped = 1}));
    }
    return CAVMAE_OK;
}

static cavmae_status load_index(cavmae_context *context, const char *path, cavmae_index **out) {
    cavmae_safetensors *file;
    CAVMAE__TRY(cavmae_safetensors_open(context, path, &file));
    cavmae_index *index = NULL;
    cavmae_status status = CAVMAE_E_FORMAT;
    const char *version = cavmae_safetensors_metadata(file, VERSION_KEY),
               *dim = cavmae_safetensors_metadata(file, DIM_KEY);
    char *end = NULL;
    long width = dim ? strtol(dim, &end, 10) : 0;
    if (!version || strcmp(version, VERSION) != 0)
        cavmae__fail(status, "%s: metadata %s is %s, not \"%s\"", path, VERSION_KEY, version ? version : "missing",
                     VERSION);
    else if (width < 1 || width > INT32_MAX || *end)
        cavmae__fail(status, "%s: metadata %s is %s, not a width", path, DIM_KEY, dim ? dim : "missing");
    else
        status = cavmae_index_create(context, (int32_t)width, &index);
    if (status != CAVMAE_OK) {
        cavmae_safetensors_free(file);
        return status;
    }
    index->file = file;
    status = map_chunks(index, path);
    if (status == CAVMAE_OK)
        *out = index;
    else
        cavmae_index_free(index);
    return status;
}

cavmae_status cavmae_index_load_part(cavmae_context *context, const char *path, int32_t part, int32_t parts,
                                     int64_t *first, cavmae_index **out) {
    cavmae__mapped_file *file;
    if (!context || !path || !out) return cavmae__fail(CAVMAE_E_ARG, "index: context, path and out must not be NULL");
    if (part < 0 || part >= parts)
        return cavmae__fail(CAVMAE_E_ARG, "index: part %d of %d; parts count from 0", (int)part, (int)parts);
    CAVMAE__TRY(cavmae__mapped_file_open(context, path, &file));
    int shards = cavmae__is_shard_manifest(file);
    cavmae_status status = CAVMAE_OK;
    if (shards) status = cavmae__index_load_shards(context, file, part, parts, first, out);
    cavmae__mapped_file_unref(file);
    if (shards) return status;
    if (parts > 1) return cavmae__fail(CAVMAE_E_FORMAT, "%s: no manifest of shards, which alone has parts", path);
    CAVMAE__TRY(load_index(context, path, out));
    if (first) *first = 0;
    return CAVMAE_OK;
}

cavmae_status cavmae_index_load(cavmae_context *context, const char *path, cavmae_index **out) {
    return cavmae_index_load_part(context, path, 0, 1, NULL, out);
}
