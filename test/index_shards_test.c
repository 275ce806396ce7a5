/* Indices of shards, and search over the indices of a world's ranks, against one index of all rows. */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>

#include "failing_allocator.h"
#include "test_files.h"

enum { DIM = 12, ROWS = 61, QUERIES = 9, MOST_RANKS = 5, SHARD = 13 };

static float rows[ROWS * DIM], queries[QUERIES * DIM];

/* Few different rows, so that there are ties across shards and ranks. */
static void make_rows(void) {
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < DIM; k++)
            rows[i * DIM + k] = (float)((i % 7 * 31 + k * 17 + i % 7 * k * k) % 23 - 11 + (i % 7 == k));
    for (int i = 0; i < QUERIES; i++)
        for (int k = 0; k < DIM; k++) queries[i * DIM + k] = (float)((i * 13 + k * 29) % 19 - 9) + 0.5f;
}

static cavmae_context *new_context(void) {
    cavmae_context_options options = test_options(2);
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    return context;
}

static cavmae_index *index_of(cavmae_context *context, int64_t first, int64_t count) {
    cavmae_index *index = NULL;
    CHECK_OK(cavmae_index_create(context, DIM, &index));
    CHECK_OK(cavmae_index_add(index, rows + first * DIM, count));
    return index;
}

/* ---- Shards ---- */

static const char *write_shard(cavmae_context *context, const char *name, const char *kind, const float *values,
                               int64_t count, int64_t dim) {
    const char *path = in_directory(name);
    cavmae_tensor *tensor;
    CHECK_OK(cavmae_tensor_wrap(context, (void *)(uintptr_t)values, CAVMAE_FLOAT32, 2, (const int64_t[]){count, dim},
                                NULL, NULL, &tensor));
    const cavmae_tensor *const tensors[] = {tensor};
    CHECK_OK(cavmae_safetensors_save(context, path, 1, &kind, tensors, 0, NULL, NULL));
    cavmae_tensor_free(tensor);
    return path;
}

static const char *write_text(const char *name, const char *text) {
    const char *path = in_directory(name);
    put_file(path, text, strlen(text));
    return path;
}

/* All rows in shards of SHARD. */
static const char *write_corpus(cavmae_context *context) {
    char text[2048], name[32];
    int length = snprintf(text, sizeof text,
                          "{\"cavmae.shards\": 1, \"model\": \"0\", \"kind\": \"audio\", \"dim\": %d, "
                          "\"clips\": %d, \"shards\": [",
                          DIM, ROWS);
    for (int first = 0; first < ROWS; first += SHARD) {
        int count = ROWS - first < SHARD ? ROWS - first : SHARD;
        snprintf(name, sizeof name, "shard-%d.safetensors", first / SHARD);
        (void)write_shard(context, name, "audio", rows + first * DIM, count, DIM);
        length += snprintf(text + length, sizeof text - (size_t)length,
                           "%s{\"file\": \"%s\", \"first\": %d, \"count\": %d}", first ? ", " : "", name, first, count);
    }
    snprintf(text + length, sizeof text - (size_t)length, "]}\n");
    return write_text("manifest.json", text);
}

static void check_same_results(cavmae_index *a, cavmae_index *b, int32_t k) {
    int64_t ids[2][QUERIES * (ROWS + 3)];
    float scores[2][QUERIES * (ROWS + 3)];
    size_t results = (size_t)(QUERIES * k);
    CHECK_OK(cavmae_index_search(a, queries, QUERIES, k, ids[0], scores[0]));
    CHECK_OK(cavmae_index_search(b, queries, QUERIES, k, ids[1], scores[1]));
    CHECK(memcmp(ids[0], ids[1], results * sizeof ids[0][0]) == 0);
    CHECK(memcmp(scores[0], scores[1], results * sizeof scores[0][0]) == 0);
}

static void test_load(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_corpus(context);
    cavmae_index *all = index_of(context, 0, ROWS), *loaded = NULL;
    CHECK_OK(cavmae_index_load(context, manifest, &loaded));
    CHECK(cavmae_index_count(loaded) == ROWS && cavmae_index_dim(loaded) == DIM);
    check_same_results(all, loaded, ROWS + 3);
    cavmae_index_free(loaded);
    for (int32_t parts = 1; parts < 8; parts++) {
        int64_t next = 0, first = -1;
        for (int32_t part = 0; part < parts; part++) {
            CHECK_OK(cavmae_index_load_part(context, manifest, part, parts, &first, &loaded));
            int64_t count = cavmae_index_count(loaded);
            CHECK(first == next && cavmae_index_dim(loaded) == DIM);
            CHECK(count <= (5 + parts - 1) / parts * SHARD);
            cavmae_index *same = index_of(context, first, count);
            check_same_results(same, loaded, 5);
            cavmae_index_free(same);
            cavmae_index_free(loaded);
            next += count;
        }
        CHECK(next == ROWS);
    }
    cavmae_index_free(all);
    cavmae_context_free(context);
}

static cavmae_status load_text(cavmae_context *context, const char *text) {
    cavmae_index *index = NULL;
    cavmae_status status = cavmae_index_load(context, write_text("changed.json", text), &index);
    CHECK(!index == (status != CAVMAE_OK));
    cavmae_index_free(index);
    return status;
}

#define MANIFEST(version, kind, dim, clips, shards)                                                                    \
    "{\"cavmae.shards\": " version ", \"kind\": \"" kind "\", \"dim\": " dim ", \"clips\": " clips                     \
    ", \"shards\": [" shards "]}"
#define ITEM(file, first, count) "{\"file\": \"" file "\", \"first\": " first ", \"count\": " count "}"

static void test_bad_manifests(void) {
    static const struct {
        cavmae_status status;
        const char *words, *text;
    } cases[] = {
        {CAVMAE_OK, NULL, MANIFEST("1", "audio", "12", "0", "")},
        {CAVMAE_OK, NULL, " \n" MANIFEST("1", "audio", "12", "13", ITEM("shard-0.safetensors", "0", "13"))},
        {CAVMAE_E_UNSUPPORTED, "cavmae.shards", MANIFEST("2", "audio", "12", "0", "")},
        {CAVMAE_E_FORMAT, "cavmae.shards", MANIFEST("0", "audio", "12", "0", "")},
        {CAVMAE_E_FORMAT, "kind", MANIFEST("1", "", "12", "0", "")},
        {CAVMAE_E_FORMAT, "control", MANIFEST("1", "a\\u001b[2J", "12", "0", "")},
        {CAVMAE_E_FORMAT, "dim 0", MANIFEST("1", "audio", "0", "0", "")},
        {CAVMAE_E_FORMAT, "dim 2147483648", MANIFEST("1", "audio", "2147483648", "0", "")},
        {CAVMAE_E_FORMAT, "1 clips, but shards have 0", MANIFEST("1", "audio", "12", "1", "")},
        {CAVMAE_E_FORMAT, "begin at 0", MANIFEST("1", "audio", "12", "13", ITEM("shard-0.safetensors", "1", "13"))},
        {CAVMAE_E_FORMAT, "begin at 0", MANIFEST("1", "audio", "12", "-1", ITEM("shard-0.safetensors", "0", "-1"))},
        {CAVMAE_E_FORMAT, "begin at 5",
         MANIFEST("1", "audio", "12", "4", ITEM("a", "0", "5") ", " ITEM("b", "5", "9223372036854775807"))},
        {CAVMAE_E_FORMAT, "shard 0 has no file", MANIFEST("1", "audio", "12", "1", ITEM("../x", "0", "1"))},
        {CAVMAE_E_FORMAT, "shard 0 has no file", MANIFEST("1", "audio", "12", "1", "{\"first\": 0, \"count\": 1}")},
        {CAVMAE_E_FORMAT, "", MANIFEST("1", "audio", "12", "1", "7")},
        {CAVMAE_E_FORMAT, "", "{\"cavmae.shards\": 1"},
        {CAVMAE_E_FORMAT, "", "{}{}"},
        {CAVMAE_E_FORMAT, "dim 0", "{\"cavmae.shards\": 1}"},
        {CAVMAE_E_IO, "absent", MANIFEST("1", "audio", "12", "1", ITEM("absent", "0", "1"))},
        {CAVMAE_E_MISMATCH, "shard-0.safetensors: no aligned visual",
         MANIFEST("1", "visual", "12", "13", ITEM("shard-0.safetensors", "0", "13"))},
        {CAVMAE_E_MISMATCH, "shard-0.safetensors: no aligned audio, float32 [12, 12]",
         MANIFEST("1", "audio", "12", "12", ITEM("shard-0.safetensors", "0", "12"))},
        {CAVMAE_E_MISMATCH, "[13, 13]", MANIFEST("1", "audio", "13", "13", ITEM("shard-0.safetensors", "0", "13"))},
        {CAVMAE_E_FORMAT, "zeros.safetensors: index: row 1",
         MANIFEST("1", "audio", "12", "2", ITEM("zeros.safetensors", "0", "2"))},
        {CAVMAE_E_FORMAT, "manifest.json", MANIFEST("1", "audio", "12", "2", ITEM("manifest.json", "0", "2"))},
    };
    cavmae_context *context = new_context();
    float zeros[2 * DIM] = {1};
    (void)write_corpus(context);
    (void)write_shard(context, "zeros.safetensors", "audio", zeros, 2, DIM);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!CHECK_STATUS(load_text(context, cases[i].text), cases[i].status)) printf("  %s\n", cases[i].text);
        if (cases[i].words && !CHECK(strstr(cavmae_last_error(), cases[i].words)))
            printf("  %s, not %s\n", cavmae_last_error(), cases[i].words);
    }
    cavmae_context_free(context);
}

static void test_bad_arguments(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_corpus(context), *saved = in_directory("index.safetensors");
    cavmae_index *index = index_of(context, 0, 3), *loaded = NULL;
    int64_t first = -1;
    CHECK_OK(cavmae_index_save(index, saved));
    CHECK_OK(cavmae_index_load_part(context, saved, 0, 1, &first, &loaded));
    CHECK(first == 0 && cavmae_index_count(loaded) == 3);
    cavmae_index_free(loaded);
    loaded = NULL;
    CHECK_STATUS(cavmae_index_load_part(context, saved, 0, 2, &first, &loaded), CAVMAE_E_FORMAT);
    CHECK_STATUS(cavmae_index_load_part(context, manifest, 2, 2, &first, &loaded), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_load_part(context, manifest, -1, 2, &first, &loaded), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_load_part(context, manifest, 0, 0, &first, &loaded), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_load_part(NULL, manifest, 0, 1, &first, &loaded), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_load_part(context, NULL, 0, 1, &first, &loaded), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_load_part(context, manifest, 0, 1, &first, NULL), CAVMAE_E_ARG);
    CHECK(!loaded);
    cavmae_index_free(index);
    cavmae_context_free(context);
}

/* ---- A world ---- */

typedef struct rank {
    pthread_t thread;
    cavmae_context *context;
    cavmae_world *world;
    cavmae_index *index;
    int64_t first, rows, count; /* rows of the index; queries */
    int32_t k;
    const float *queries;
    int32_t bare;  /* 1: without an index */
    int32_t turns; /* searches, one after another: a failure leaves the world as it was */
    cavmae_status status;
    char error[512];
    int64_t ids[QUERIES * (ROWS + 3)];
    float scores[QUERIES * (ROWS + 3)];
} rank;

static void *search_main(void *argument) {
    rank *r = argument;
    for (int turn = 0; turn < r->turns; turn++)
        r->status = cavmae_index_search_world(r->index, r->world, r->queries, r->count, r->k, r->ids, r->scores);
    snprintf(r->error, sizeof r->error, "%s", r->status ? cavmae_last_error() : "");
    cavmae_index_free(r->index);
    cavmae_world_free(r->world);
    return NULL;
}

static rank ranks[MOST_RANKS];

/* last: options of the last rank's context, or NULL. */
static void open_ranks_with(int32_t size, int32_t k, const cavmae_context_options *last) {
    cavmae_context *contexts[MOST_RANKS];
    cavmae_world *worlds[MOST_RANKS];
    for (int32_t r = 0; r < size; r++)
        if (last && r == size - 1)
            CHECK_OK(cavmae_context_create(last, &contexts[r]));
        else
            contexts[r] = new_context();
    CHECK_OK(cavmae_world_create_threads(contexts, size, NULL, worlds));
    for (int32_t r = 0; r < size; r++)
        ranks[r] = (rank){.context = contexts[r],
                          .world = worlds[r],
                          .first = ROWS * r / size,
                          .rows = ROWS * (r + 1) / size - ROWS * r / size,
                          .count = QUERIES,
                          .k = k,
                          .queries = queries,
                          .turns = 2};
}

static void open_ranks(int32_t size, int32_t k) { open_ranks_with(size, k, NULL); }

static void run_ranks(int32_t size) {
    for (int32_t r = 0; r < size; r++)
        if (!ranks[r].bare && !ranks[r].index)
            ranks[r].index = index_of(ranks[r].context, ranks[r].first, ranks[r].rows);
    for (int32_t r = 0; r < size; r++) CHECK(pthread_create(&ranks[r].thread, NULL, search_main, &ranks[r]) == 0);
    for (int32_t r = 0; r < size; r++) CHECK(pthread_join(ranks[r].thread, NULL) == 0);
    for (int32_t r = 0; r < size; r++) cavmae_context_free(ranks[r].context);
}

static void check_results(int32_t size, cavmae_index *all) {
    int64_t ids[QUERIES * (ROWS + 3)], count = ranks[0].count, results = count * ranks[0].k;
    float scores[QUERIES * (ROWS + 3)];
    CHECK_OK(cavmae_index_search(all, queries, count, ranks[0].k, ids, scores));
    for (int32_t r = 0; r < size; r++) {
        if (!CHECK_STATUS(ranks[r].status, CAVMAE_OK)) printf("  %s\n", ranks[r].error);
        CHECK(memcmp(ids, ranks[r].ids, (size_t)results * sizeof *ids) == 0);
        CHECK(memcmp(scores, ranks[r].scores, (size_t)results * sizeof *scores) == 0);
    }
}

static void test_world(void) {
    static const int32_t ks[] = {1, 4, ROWS + 3};
    cavmae_context *context = new_context();
    cavmae_index *all = index_of(context, 0, ROWS);
    for (int32_t size = 1; size <= MOST_RANKS; size++)
        for (int i = 0; i < 3; i++) {
            open_ranks(size, ks[i]);
            run_ranks(size);
            check_results(size, all);
        }
    open_ranks(3, 40); /* more than a rank has, and one that has none */
    ranks[1].rows = 0;
    ranks[1].first = 0;
    run_ranks(3);
    cavmae_index *two = index_of(context, 0, ROWS / 3);
    CHECK_OK(cavmae_index_add(two, rows + ROWS * 2 / 3 * DIM, ROWS - ROWS * 2 / 3));
    check_results(3, two);
    cavmae_index_free(two);

    open_ranks(2, 2); /* nothing anywhere */
    ranks[0].rows = ranks[1].rows = 0;
    run_ranks(2);
    CHECK(ranks[1].status == CAVMAE_OK && ranks[1].ids[0] == -1 && ranks[1].ids[1] == -1);
    CHECK_CLOSE((double)ranks[1].scores[2 * QUERIES - 1], -2, 0);
    open_ranks(2, 2);
    ranks[0].count = ranks[1].count = 0;
    run_ranks(2);
    CHECK(ranks[0].status == CAVMAE_OK && ranks[1].status == CAVMAE_OK);

    int64_t ids[2][QUERIES];
    float scores[2][QUERIES];
    CHECK_OK(cavmae_index_search_world(all, NULL, queries, QUERIES, 1, ids[0], scores[0]));
    CHECK_OK(cavmae_index_search(all, queries, QUERIES, 1, ids[1], scores[1]));
    CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0 && memcmp(scores[0], scores[1], sizeof scores[0]) == 0);
    cavmae_index_free(all);
    cavmae_context_free(context);
}

/* What one rank does differently is told to all of them. */
static void test_world_faults(void) {
    static float other[QUERIES * DIM], wrong[QUERIES * DIM];
    memcpy(other, queries, sizeof other);
    other[QUERIES * DIM - 1] += 1;
    memcpy(wrong, queries, sizeof wrong);
    wrong[7] = NAN;
    for (int fault = 0; fault < 5; fault++) {
        static const char *const words[] = {
            "rank 2 has 9 queries of width 12 for the best 3, rank 0 9 of width 12 for the best 4",
            "rank 2 has 8 queries", "rank 2 has other queries than rank 0", "rank 2: search: index, queries",
            "search: queries: row 0"};
        open_ranks(3, 4);
        if (fault == 0) ranks[2].k = 3;
        if (fault == 1) ranks[2].count = 8;
        if (fault == 2) ranks[2].queries = other;
        if (fault == 3) ranks[2].bare = 1;
        for (int32_t r = 0; r < 3 && fault == 4; r++) ranks[r].queries = wrong;
        run_ranks(3);
        for (int32_t r = 0; r < 3; r++) {
            int own = fault == 4 || (fault == 3 && r == 2);
            CHECK_STATUS(ranks[r].status, own ? CAVMAE_E_ARG : CAVMAE_E_PEER);
            if (!CHECK(strstr(ranks[r].error, words[fault] + (own && fault == 3 ? 8 : 0))))
                printf("  %s\n", ranks[r].error);
        }
    }
}

/* ---- Memory ---- */

static void test_no_memory(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_corpus(context);
    int ended = 0;
    for (long fail_at = 1; !ended && fail_at < 1000; fail_at++) {
        failing_allocator allocator = {.fail_at = fail_at};
        cavmae_context_options options = failing_options(&allocator);
        cavmae_context *failing = NULL;
        cavmae_index *index = NULL;
        cavmae_status status = cavmae_context_create(&options, &failing);
        if (status == CAVMAE_OK) status = cavmae_index_load(failing, manifest, &index);
        if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
        CHECK(!index == (status != CAVMAE_OK));
        cavmae_index_free(index);
        cavmae_context_free(failing);
        CHECK(allocator.blocks == 0);
        ended = status == CAVMAE_OK && allocator.calls < fail_at;
    }
    CHECK(ended);
    cavmae_context_free(context);
}

/* A rank without memory says so, and the others do not wait for it. */
static void test_world_memory(void) {
    int ended = 0;
    for (long fail_at = 1; !ended && fail_at < 100; fail_at++) {
        failing_allocator allocator = {0};
        cavmae_context_options options = failing_options(&allocator);
        open_ranks_with(2, 4, &options);
        ranks[1].index = index_of(ranks[1].context, 0, ROWS);
        allocator.fail_at = allocator.calls + fail_at;
        ranks[0].turns = ranks[1].turns = 1;
        run_ranks(2);
        ended = ranks[1].status == CAVMAE_OK;
        CHECK(allocator.blocks == 0 && (ended || ranks[1].status == CAVMAE_E_NOMEM));
        CHECK_STATUS(ranks[0].status, ended ? CAVMAE_OK : CAVMAE_E_PEER);
        CHECK(ended || strstr(ranks[0].error, "rank 1"));
    }
    CHECK(ended);
}

int main(void) {
    make_rows();
    if (!mkdtemp(directory)) return 2;
    test_load();
    test_bad_manifests();
    test_bad_arguments();
    test_world();
    test_world_faults();
    test_no_memory();
    test_world_memory();
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK(system(command) == 0);
    return check_summary("index_shards");
}
