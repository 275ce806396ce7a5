/* Search on the device: the operation, and cavmae_index_search on a context with a device. */
#include <pthread.h>

#include "compare.h"
#include "failing_allocator.h"

/* ---- The operation ---- */

/* Vectors whose products are exact in float32: one to four coordinates +-1/2 or 1, length 1. Many scores are equal. */
static void fill_exact(float *rows, int64_t count, int32_t width) {
    memset(rows, 0, (size_t)(count * width) * sizeof *rows);
    for (int64_t r = 0; r < count; r++) {
        const int32_t first = (int32_t)(next_random() % (uint32_t)(width - 3));
        const int four = next_random() % 2;
        for (int i = 0; i < (four ? 4 : 1); i++)
            rows[r * width + first + i] = (float)(next_random() % 2 ? 1 : -1) * (four ? 0.5f : 1);
    }
}

static void fill_unit(float *rows, int64_t count, int32_t width) {
    for (int64_t r = 0; r < count; r++) {
        double square = 0;
        for (int32_t j = 0; j < width; j++) rows[r * width + j] = (float)uniform(-1, 1);
        for (int32_t j = 0; j < width; j++) square += (double)rows[r * width + j] * (double)rows[r * width + j];
        for (int32_t j = 0; j < width; j++) rows[r * width + j] = (float)((double)rows[r * width + j] / sqrt(square));
    }
}

typedef struct found {
    double score;
    int64_t row;
} found;

static int compare_found(const void *a, const void *b) {
    const found *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void check_top_k(both *b, int64_t rows, int32_t queries, int32_t width, int32_t k, int exact) {
    const int64_t first_id = (int64_t)7 << 33, size = (int64_t)queries * k;
    twin row = twin_output(b, rows * width, CAVMAE_FLOAT32), query = twin_output(b, queries * width, CAVMAE_FLOAT32),
         ids = twin_output(b, size, CAVMAE_INT64), scores = twin_output(b, size, CAVMAE_FLOAT32),
         ids2 = twin_output(b, size, CAVMAE_INT64), scores2 = twin_output(b, size, CAVMAE_FLOAT32);
    (exact ? fill_exact : fill_unit)(row.cpu, rows, width);
    (exact ? fill_exact : fill_unit)(query.cpu, queries, width);
    twin_upload(b, &row);
    twin_upload(b, &query);
    cavmae__top_k op = {.rows = rows,
                        .queries = queries,
                        .width = width,
                        .k = k,
                        .query = query.device,
                        .row = row.device,
                        .first_id = first_id,
                        .ids = ids.device,
                        .scores = scores.device};
    const size_t workspace = b->cuda->ops->top_k_workspace(b->cuda, &op);
    void *block;
    op.workspace = device_alloc(b, workspace, &block);
    CHECK_OK(b->cuda->ops->top_k(b->cuda, &op));
    op.ids = ids2.device;
    op.scores = scores2.device;
    CHECK_OK(b->cuda->ops->top_k(b->cuda, &op));
    CHECK_DEVICE_SAME(b, &ids, &ids2);
    CHECK_DEVICE_SAME(b, &scores, &scores2);
    CHECK(device_guard_holds(b, block, workspace));
    b->cuda->ops->free(b->cuda, block);

    int64_t *got_ids = twin_download(b, &ids), wrong = 0;
    float *got_scores = twin_download(b, &scores);
    found *all = malloc((size_t)rows * sizeof *all);
    char *taken = malloc((size_t)rows);
    for (int32_t q = 0; q < queries; q++) {
        memset(taken, 0, (size_t)rows);
        for (int64_t r = 0; r < rows; r++) {
            double dot = 0;
            for (int32_t j = 0; j < width; j++)
                dot += (double)((float *)query.cpu)[q * width + j] * (double)((float *)row.cpu)[r * width + j];
            all[r] = (found){dot, r};
        }
        found *sorted = malloc((size_t)rows * sizeof *sorted);
        memcpy(sorted, all, (size_t)rows * sizeof *sorted);
        qsort(sorted, (size_t)rows, sizeof *sorted, compare_found);
        for (int32_t i = 0; i < k; i++) {
            const int64_t id = got_ids[(int64_t)q * k + i] - first_id;
            const double score = (double)got_scores[(int64_t)q * k + i], tolerance = exact ? 0 : 1e-6;
            if (id < 0 || id >= rows || taken[id]++) {
                wrong++;
                continue;
            }
            wrong += exact && id != sorted[i].row;
            wrong += !(fabs(score - sorted[i].score) <= tolerance) || !(fabs(score - all[id].score) <= tolerance);
            wrong += i > 0 && !(got_scores[(int64_t)q * k + i - 1] >= got_scores[(int64_t)q * k + i]);
        }
        free(sorted);
    }
    if (!CHECK(wrong == 0))
        printf("  %lld wrong: %lld rows, %d queries, width %d, k %d\n", (long long)wrong, (long long)rows, (int)queries,
               (int)width, (int)k);
    free(all);
    free(taken);
    free(got_ids);
    free(got_scores);
    twin *twins[] = {&row, &query, &ids, &scores, &ids2, &scores2};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

static void test_operation(both *b) {
    static const int64_t rows[] = {1, 2, 31, 33, 1023, 1025, 2049, 5000};
    static const int32_t ks[] = {1, 2, 10, 33, 1000, 2048, 5000};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
            if (ks[i] <= rows[r])
                for (int exact = 0; exact < 2; exact++)
                    check_top_k(b, rows[r], 1 + (int32_t)((r + i) % 3), i % 2 ? 12 : 20, ks[i], exact);
    check_top_k(b, 40, 3, 768, 40, 0);
    /* More scores than the simulator takes at once. */
    check_top_k(b, 20000, 15, 4, 10, 1);
    check_top_k(b, 6001, 50, 12, 100, 0);
    check_top_k(b, 12000, 25, 8, 4100, 1); /* and a list too long for shared memory */
}

/* ---- The index ---- */

enum { DIM = 24 };

typedef struct indices {
    cavmae_index *cpu, *cuda;
} indices;

static void add_both(const indices *i, const float *rows, int64_t count) {
    CHECK_OK(cavmae_index_add(i->cpu, rows, count));
    CHECK_OK(cavmae_index_add(i->cuda, rows, count));
}

/* Rows and queries are such that their products are exact: both give the same, ids, scores and all. */
static void search_both(const indices *i, const float *queries, int64_t count, int32_t k) {
    const size_t size = (size_t)(count * k);
    int64_t *ids = malloc((size + 1) * sizeof *ids), *expected_ids = malloc((size + 1) * sizeof *ids);
    float *scores = malloc((size + 1) * sizeof *scores), *expected = malloc((size + 1) * sizeof *scores);
    CHECK_OK(cavmae_index_search(i->cpu, queries, count, k, expected_ids, expected));
    CHECK_OK(cavmae_index_search(i->cuda, queries, count, k, ids, scores));
    int64_t wrong = 0;
    for (size_t j = 0; j < size; j++) wrong += ids[j] != expected_ids[j] || !(scores[j] == expected[j]);
    if (!CHECK(wrong == 0)) printf("  %lld wrong: %lld queries, k %d\n", (long long)wrong, (long long)count, (int)k);
    free(ids);
    free(expected_ids);
    free(scores);
    free(expected);
}

static void test_index(both *b) {
    enum { ROWS = 9000, QUERIES = 1100 };
    static const int32_t ks[] = {1, 10, 700, 3000, 9500};
    float *rows = malloc(ROWS * DIM * sizeof *rows), *queries = malloc(QUERIES * DIM * sizeof *queries);
    indices i;
    fill_exact(rows, ROWS, DIM);
    fill_exact(queries, QUERIES, DIM);
    CHECK_OK(cavmae_index_create(b->cpu_context, DIM, &i.cpu));
    CHECK_OK(cavmae_index_create(b->cuda_context, DIM, &i.cuda));
    search_both(&i, queries, 3, 2); /* empty */
    search_both(&i, NULL, 0, 2);
    add_both(&i, rows, 5);
    search_both(&i, queries, 3, 2);
    search_both(&i, queries, 3, 6);
    add_both(&i, rows + 5 * DIM, 1); /* behind what is on the device, and then into a new chunk */
    search_both(&i, queries, 3, 6);
    add_both(&i, rows + 6 * DIM, 4994);
    search_both(&i, queries, 5, 20);
    add_both(&i, rows + 5000 * DIM, 4000);
    for (size_t n = 0; n < sizeof ks / sizeof *ks; n++) search_both(&i, queries + n * DIM, ks[n] > 10 ? 4 : 40, ks[n]);
    search_both(&i, queries, QUERIES, 3); /* in two turns */
    cavmae_index_free(i.cpu);
    cavmae_index_free(i.cuda);
    free(rows);
    free(queries);
}

/* Queries that are refused, by the CPU's words, before a result is written. */
static void test_refusals(both *b) {
    float rows[3 * DIM], scores[3] = {5, 5, 5};
    int64_t ids[3] = {5, 5, 5};
    char expected[600];
    indices i;
    fill_exact(rows, 3, DIM);
    CHECK_OK(cavmae_index_create(b->cpu_context, DIM, &i.cpu));
    CHECK_OK(cavmae_index_create(b->cuda_context, DIM, &i.cuda));
    add_both(&i, rows, 3);
    memset(rows + DIM, 0, DIM * sizeof *rows);
    CHECK_STATUS(cavmae_index_search(i.cpu, rows, 3, 1, ids, scores), CAVMAE_E_ARG);
    snprintf(expected, sizeof expected, "%s", cavmae_last_error());
    CHECK_STATUS(cavmae_index_search(i.cuda, rows, 3, 1, ids, scores), CAVMAE_E_ARG);
    CHECK(strcmp(expected, cavmae_last_error()) == 0 && strstr(expected, "row 1 ") != NULL);
    CHECK_STATUS(cavmae_index_search(i.cuda, rows, 1, 0, ids, scores), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_search(i.cuda, NULL, 1, 1, ids, scores), CAVMAE_E_ARG);
    CHECK(ids[0] == 5 && scores[0] == 5);
    cavmae_index_free(i.cpu);
    cavmae_index_free(i.cuda);
}

/* Searches of several threads at once, the first of which copies the rows. */
typedef struct searcher {
    cavmae_index *index;
    const float *queries;
    int64_t ids[20 * 5];
    float scores[20 * 5];
    cavmae_status status;
} searcher;

static void *search_thread(void *arg) {
    searcher *s = arg;
    s->status = cavmae_index_search(s->index, s->queries, 20, 5, s->ids, s->scores);
    return NULL;
}

static void test_threads(both *b) {
    enum { ROWS = 5000, THREADS = 3 };
    float *rows = malloc(ROWS * DIM * sizeof *rows);
    cavmae_index *index;
    static searcher searchers[THREADS];
    pthread_t threads[THREADS];
    fill_unit(rows, ROWS, DIM);
    CHECK_OK(cavmae_index_create(b->cuda_context, DIM, &index));
    CHECK_OK(cavmae_index_add(index, rows, ROWS));
    for (int t = 0; t < THREADS; t++) {
        searchers[t] = (searcher){.index = index, .queries = rows + 100 * DIM};
        CHECK(pthread_create(&threads[t], NULL, search_thread, &searchers[t]) == 0);
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        CHECK_STATUS(searchers[t].status, CAVMAE_OK);
        for (int q = 0; q < 20; q++) CHECK(searchers[t].ids[q * 5] == 100 + q);
        CHECK(memcmp(searchers[t].ids, searchers[0].ids, sizeof searchers[t].ids) == 0);
        CHECK(memcmp(searchers[t].scores, searchers[0].scores, sizeof searchers[t].scores) == 0);
    }
    cavmae_index_free(index);
    free(rows);
}

/* Whatever allocation fails, the status says so, nothing is lost, and the index can be searched afterwards. */
static void test_out_of_memory(void) {
    float rows[40 * DIM], scores[2 * 3];
    int64_t ids[2 * 3];
    cavmae_status status = CAVMAE_E_NOMEM;
    fill_exact(rows, 40, DIM);
    for (long n = 1; status != CAVMAE_OK && n < 100; n++) {
        failing_allocator allocator = {0};
        cavmae_context_options options = failing_options(&allocator);
        const cavmae_context_options device = device_options();
        cavmae_context *context = NULL;
        cavmae_index *index = NULL;
        options.device = device.device;
        options.plugin_dir = device.plugin_dir;
        options.threads = 2;
        if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
        CHECK_OK(cavmae_index_create(context, DIM, &index));
        CHECK_OK(cavmae_index_add(index, rows, 40));
        allocator.fail_at = allocator.calls + n;
        status = cavmae_index_search(index, rows, 2, 3, ids, scores);
        if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
        allocator.fail_at = 0;
        CHECK_OK(cavmae_index_search(index, rows, 2, 3, ids, scores));
        CHECK(scores[0] == 1 && scores[3] == 1);
        cavmae_index_free(index);
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
    }
    CHECK(status == CAVMAE_OK);
}

int main(void) {
    both b;
    open_both(&b);
    test_operation(&b);
    test_index(&b);
    test_refusals(&b);
    test_threads(&b);
    test_out_of_memory();
    close_both(&b);
    return check_summary("top_k");
}
