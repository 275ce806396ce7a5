/* lib/infer without the model: the search index against brute force, and the metrics against their definitions. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "dot.h"
#include "failing_allocator.h"

enum { DIM = 77 }; /* no vector's multiple */

static uint64_t random_state = 1;

static float uniform(void) { /* [-1, 1) */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-23f - 1;
}

static float *random_rows(int64_t count, int64_t dim) {
    float *rows = malloc((size_t)(count * dim) * sizeof *rows);
    for (int64_t i = 0; i < count * dim; i++) rows[i] = uniform();
    return rows;
}

static cavmae_context *context_with(int32_t threads) {
    const cavmae_context_options options = test_options(threads);
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    return context;
}

static char directory[] = "/tmp/cavmae-infer-XXXXXX";

static const char *file_in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- Products ---- */

static void check_dot(cavmae__dot *dot) {
    enum { QUERIES = 11, ROWS = 29 };
    static const int64_t dims[] = {1, 3, 16, 31, 77, 768};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        int64_t dim = dims[d], wrong = 0, depends = 0;
        float *queries = random_rows(QUERIES, dim), *rows = random_rows(ROWS, dim), scores[QUERIES][ROWS];
        dot(queries, QUERIES, rows, ROWS, dim, scores[0], ROWS);
        for (int q = 0; q < QUERIES; q++)
            for (int r = 0; r < ROWS; r++) {
                double sum = 0;
                float alone;
                for (int64_t i = 0; i < dim; i++) sum += (double)queries[q * dim + i] * rows[r * dim + i];
                wrong += !(fabs(sum - scores[q][r]) < 1e-6 * (double)dim);
                dot(queries + q * dim, 1, rows + r * dim, 1, dim, &alone, 1);
                depends += memcmp(&alone, &scores[q][r], sizeof alone) != 0;
            }
        CHECK(wrong == 0);
        CHECK(depends == 0);
        free(queries);
        free(rows);
    }
}

static void test_dot(void) {
    check_dot(cavmae__dot_baseline);
#ifdef CAVMAE_HAVE_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) check_dot(cavmae__dot_avx2);
    if (cavmae__dot_choose() == cavmae__dot_avx512) check_dot(cavmae__dot_avx512);
#endif
    check_dot(cavmae__dot_choose());
}

/* ---- Index ---- */

static double cosine(const float *a, const float *b, int64_t dim) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < dim; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

/* Every result is in order, has the score that it says, and nothing better was left out. */
static void check_results(const float *rows, int64_t count, const float *query, int32_t k, const int64_t *ids,
                          const float *scores) {
    int wrong = 0, unordered = 0, missed = 0;
    char *taken = calloc((size_t)count, 1);
    for (int32_t i = 0; i < k && i < count; i++) {
        if (ids[i] < 0 || ids[i] >= count || taken[ids[i]]) {
            wrong++;
            continue;
        }
        taken[ids[i]] = 1;
        wrong += !(fabs(cosine(query, rows + ids[i] * DIM, DIM) - scores[i]) < 1e-6);
        if (i) unordered += scores[i - 1] < scores[i] || (scores[i - 1] == scores[i] && ids[i - 1] > ids[i]);
    }
    if (k < count)
        for (int64_t i = 0; i < count; i++)
            missed += !taken[i] && cosine(query, rows + i * DIM, DIM) > scores[k - 1] + 1e-6;
    for (int64_t i = count; i < k; i++) wrong += ids[i] != -1 || scores[i] != -2;
    free(taken);
    CHECK(wrong == 0);
    CHECK(unordered == 0);
    CHECK(missed == 0);
}

static void test_search(void) {
    enum { ROWS = 3000, QUERIES = 150 };
    static const int32_t ks[] = {1, 10, 700, 4000};
    float *rows = random_rows(ROWS, DIM), *queries = random_rows(QUERIES, DIM);
    memcpy(rows + 2000 * DIM, rows + 17 * DIM, DIM * sizeof *rows); /* ties */
    memcpy(rows + 900 * DIM, rows + 17 * DIM, DIM * sizeof *rows);
    for (int i = 0; i < DIM; i++) queries[i] = 3 * rows[17 * DIM + i];
    cavmae_context *one = context_with(1), *many = context_with(5);
    cavmae_index *index, *other;
    CHECK_OK(cavmae_index_create(one, DIM, &index));
    CHECK_OK(cavmae_index_create(many, DIM, &other));
    for (int64_t at = 0, step = 1; at < ROWS; at += step, step = at < ROWS - 600 ? 2 * step % 601 + 1 : ROWS - at)
        CHECK_OK(cavmae_index_add(index, rows + at * DIM, step)); /* in pieces, across chunks */
    CHECK_OK(cavmae_index_add(other, rows, ROWS));
    CHECK(cavmae_index_count(index) == ROWS && cavmae_index_dim(index) == DIM);

    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        size_t results = (size_t)(QUERIES * ks[i]);
        int64_t *ids = malloc(results * sizeof *ids), *ids2 = malloc(results * sizeof *ids);
        float *scores = malloc(results * sizeof *scores), *scores2 = malloc(results * sizeof *scores);
        CHECK_OK(cavmae_index_search(index, queries, QUERIES, ks[i], ids, scores));
        check_results(rows, ROWS, queries, ks[i], ids, scores);
        check_results(rows, ROWS, queries + 149 * DIM, ks[i], ids + 149 * ks[i], scores + 149 * ks[i]);
        CHECK(ids[0] == 17 && (ks[i] < 3 || (ids[1] == 900 && ids[2] == 2000 && scores[0] == scores[2])));
        /* The same bits with other threads, other chunks, and a query by itself. */
        CHECK_OK(cavmae_index_search(other, queries, QUERIES, ks[i], ids2, scores2));
        CHECK(!memcmp(ids, ids2, results * sizeof *ids) && !memcmp(scores, scores2, results * sizeof *scores));
        CHECK_OK(cavmae_index_search(other, queries + 77 * DIM, 1, ks[i], ids2, scores2));
        CHECK(!memcmp(ids + 77 * ks[i], ids2, (size_t)ks[i] * sizeof *ids));
        CHECK(!memcmp(scores + 77 * ks[i], scores2, (size_t)ks[i] * sizeof *scores));
        free(ids);
        free(ids2);
        free(scores);
        free(scores2);
    }
    cavmae_context_free(one); /* before its index */
    cavmae_index_free(index);
    cavmae_index_free(other);
    cavmae_context_free(many);
    free(rows);
    free(queries);
}

static void test_index_refusals(void) {
    cavmae_context *context = context_with(2);
    cavmae_index *index = NULL;
    float rows[6] = {1, 2, 3, 4, 5, 6}, scores[2];
    int64_t ids[2];
    CHECK_STATUS(cavmae_index_create(NULL, 2, &index), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_create(context, 0, &index), CAVMAE_E_ARG);
    CHECK(index == NULL);
    CHECK_OK(cavmae_index_create(context, 2, &index));
    CHECK_OK(cavmae_index_search(index, rows, 1, 2, ids, scores)); /* empty */
    CHECK(ids[0] == -1 && ids[1] == -1 && scores[0] == -2 && scores[1] == -2);
    CHECK_OK(cavmae_index_add(index, NULL, 0));
    CHECK_OK(cavmae_index_add(index, rows, 1));
    rows[2] = rows[3] = 0;
    CHECK_STATUS(cavmae_index_add(index, rows, 3), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "row 1 ") != NULL);
    rows[2] = (float)NAN;
    CHECK_STATUS(cavmae_index_add(index, rows, 3), CAVMAE_E_ARG);
    rows[2] = (float)INFINITY;
    CHECK_STATUS(cavmae_index_add(index, rows, 3), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_search(index, rows, 3, 1, ids, scores), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_search(index, rows, 1, 0, ids, scores), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_index_add(index, rows, -1), CAVMAE_E_ARG);
    CHECK(cavmae_index_count(index) == 1);
    rows[2] = 1e-30f; /* small, but it has a direction */
    CHECK_OK(cavmae_index_add(index, rows, 3));
    CHECK(cavmae_index_count(index) == 4);
    CHECK_OK(cavmae_index_search(index, rows + 2, 1, 2, ids, scores));
    CHECK(ids[0] == 2 && scores[0] == 1);
    cavmae_index_free(index);
    cavmae_index_free(NULL);
    cavmae_context_free(context);
}

static void test_index_files(void) {
    enum { ROWS = 2000, K = 5 };
    cavmae_context *context = context_with(2);
    cavmae_index *index, *loaded;
    float *rows = random_rows(ROWS + 500, DIM), scores[2][K];
    int64_t ids[2][K];
    CHECK_OK(cavmae_index_create(context, DIM, &index));
    const char *path = file_in_directory("index.safetensors");
    CHECK_OK(cavmae_index_save(index, path)); /* empty */
    CHECK_OK(cavmae_index_load(context, path, &loaded));
    CHECK(cavmae_index_count(loaded) == 0 && cavmae_index_dim(loaded) == DIM);
    cavmae_index_free(loaded);
    for (int64_t at = 0; at < ROWS; at += 100) CHECK_OK(cavmae_index_add(index, rows + at * DIM, 100));
    CHECK_OK(cavmae_index_save(index, path));
    CHECK_OK(cavmae_index_load(context, path, &loaded));
    CHECK(cavmae_index_count(loaded) == ROWS);
    CHECK_OK(cavmae_index_add(index, rows + ROWS * DIM, 500));
    CHECK_OK(cavmae_index_add(loaded, rows + ROWS * DIM, 500)); /* after a mapped chunk */
    CHECK_OK(cavmae_index_save(loaded, path));                  /* over the file that is mapped */
    CHECK_OK(cavmae_index_search(index, rows + 2100 * DIM, 1, K, ids[0], scores[0]));
    CHECK_OK(cavmae_index_search(loaded, rows + 2100 * DIM, 1, K, ids[1], scores[1]));
    CHECK(ids[0][0] == 2100 && !memcmp(ids[0], ids[1], sizeof ids[0]) &&
          !memcmp(scores[0], scores[1], sizeof scores[0]));
    cavmae_index_free(loaded);
    CHECK_OK(cavmae_index_load(context, path, &loaded));
    CHECK(cavmae_index_count(loaded) == ROWS + 500);
    cavmae_index_free(loaded);
    cavmae_index_free(index);

    /* Not an index; a width that lies; a row that does not have length 1. */
    static const int64_t shape[2] = {10, DIM};
    static const char *const keys[] = {"cavmae.index", "cavmae.index.dim"}, *const names[] = {"rows.0"};
    static const char *const values[][2] = {{"2", "77"}, {"1", "78"}, {"1", "0"}, {"1", "7x"}, {"1", "77"}};
    cavmae_tensor *tensor;
    CHECK_OK(cavmae_tensor_wrap(context, rows, CAVMAE_FLOAT32, 2, shape, NULL, NULL, &tensor));
    const cavmae_tensor *const tensors[] = {tensor};
    loaded = NULL;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        CHECK_OK(cavmae_safetensors_save(context, path, 1, names, tensors, 2, keys, values[i]));
        CHECK_STATUS(cavmae_index_load(context, path, &loaded), CAVMAE_E_FORMAT);
        CHECK(strstr(cavmae_last_error(), path) != NULL);
    }
    CHECK_OK(cavmae_safetensors_save(context, path, 1, names, tensors, 0, keys, values[0]));
    CHECK_STATUS(cavmae_index_load(context, path, &loaded), CAVMAE_E_FORMAT);
    CHECK_STATUS(cavmae_index_load(context, file_in_directory("missing"), &loaded), CAVMAE_E_IO);
    CHECK(loaded == NULL);
    cavmae_tensor_free(tensor);
    cavmae_context_free(context);
    free(rows);
}

/* ---- Metrics ---- */

static void test_retrieval(void) {
    enum { COUNT = 301 };
    cavmae_retrieval_metrics a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
    float small[16] = {5, 5, 1, 1,  /* a tie counts for the match: 1 */
                       9, 3, 3, 8,  /* 3 */
                       1, 2, 0, 0,  /* 3 */
                       4, 4, 4, 3}; /* 4 */
    CHECK_OK(cavmae_retrieval_from_similarity(small, 4, &a));
    CHECK(a.r1 == 0.25 && a.r5 == 1 && a.r10 == 1 && a.median_rank == 3);
    CHECK_OK(cavmae_retrieval_from_similarity(small, 1, &a));
    CHECK(a.r1 == 1 && a.median_rank == 1);
    small[6] = (float)NAN;
    CHECK_STATUS(cavmae_retrieval_from_similarity(small, 4, &a), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_retrieval_from_similarity(small, 0, &a), CAVMAE_E_ARG);

    cavmae_context *one = context_with(1), *many = context_with(3);
    float *queries = random_rows(COUNT, DIM), *gallery = random_rows(COUNT, DIM),
          *similarity = malloc(COUNT * COUNT * sizeof(float));
    for (int i = 0; i < COUNT * DIM; i++) gallery[i] += 0.2f * queries[i];
    memcpy(gallery + 9 * DIM, gallery + 200 * DIM, DIM * sizeof(float)); /* two that tie to the last bit */
    memcpy(queries + 9 * DIM, gallery + 200 * DIM, DIM * sizeof(float));
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++)
            similarity[i * COUNT + j] = (float)cosine(queries + i * DIM, gallery + j * DIM, DIM);
    CHECK_OK(cavmae_retrieval_from_similarity(similarity, COUNT, &a));
    CHECK_OK(cavmae_retrieval_from_embeddings(one, queries, gallery, COUNT, DIM, &b));
    CHECK(!memcmp(&a, &b, sizeof a));
    CHECK(a.r1 > 0.02 && a.r1 < a.r5 && a.r10 < 1 && a.median_rank > 1);
    CHECK_OK(cavmae_retrieval_from_embeddings(many, queries, gallery, COUNT, DIM, &b));
    CHECK(!memcmp(&a, &b, sizeof a));
    memset(gallery + 44 * DIM, 0, DIM * sizeof(float));
    CHECK_STATUS(cavmae_retrieval_from_embeddings(many, queries, gallery, COUNT, DIM, &b), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "gallery: row 44 ") != NULL);
    b.struct_size = 0;
    CHECK_STATUS(cavmae_retrieval_from_embeddings(many, queries, gallery, COUNT, DIM, &b), CAVMAE_E_ARG);
    cavmae_context_free(one);
    cavmae_context_free(many);
    free(queries);
    free(gallery);
    free(similarity);
}

/* More rows than one pass of the median's selection tells apart: rank of row i is i + 1. */
static void test_median(void) {
    enum { COUNT = 1500 };
    float *similarity = malloc(COUNT * COUNT * sizeof(float));
    cavmae_retrieval_metrics m = {.struct_size = sizeof m};
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++) similarity[i * COUNT + j] = (float)-j;
    CHECK_OK(cavmae_retrieval_from_similarity(similarity, COUNT, &m));
    CHECK(m.median_rank == 750.5 && m.r10 == 10.0 / COUNT);
    free(similarity);
}

static void test_classification(void) {
    /* Expected by hand: class 0 sorted +, -, +, - : AP (1 + 2/3) / 2, AUC 3/4; class 1 all tied: AP 1/4, AUC 1/2;
     * class 2 has no positives; class 3: one positive above all, zeros of both signs tie. */
    static const float scores[16] = {0.9f, 1, 1, 0.0f, 0.8f, 1, 2, 1, 0.7f, 1, 3, -0.0f, 0.6f, 1, 4, -1};
    static const float targets[16] = {1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0};
    cavmae_context *context = context_with(2);
    cavmae_class_metrics m = {.struct_size = sizeof m};
    double ap[4], auc[4];
    CHECK_OK(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m));
    CHECK(m.scored_classes == 3);
    CHECK_CLOSE(ap[0], 5.0 / 6, 1e-15);
    CHECK_CLOSE(auc[0], 0.75, 0);
    CHECK_CLOSE(ap[1], 0.25, 0);
    CHECK_CLOSE(auc[1], 0.5, 0);
    CHECK(isnan(ap[2]) && isnan(auc[2]));
    CHECK_CLOSE(ap[3], 1, 0);
    CHECK_CLOSE(auc[3], 1, 0);
    CHECK_CLOSE(m.mean_average_precision, (5.0 / 6 + 0.25 + 1) / 3, 1e-15);
    CHECK_CLOSE(m.mean_auc, 0.75, 1e-15);
    CHECK_CLOSE(m.d_prime, 0.95387255240893950, 1e-14); /* sqrt(2) * scipy.stats.norm.ppf(0.75) */
    CHECK_OK(cavmae_classification_metrics(context, scores + 3, targets + 3, 1, 1, NULL, NULL, &m));
    CHECK(m.scored_classes == 0 && isnan(m.mean_average_precision) && isnan(m.mean_auc) && isnan(m.d_prime));
    CHECK_STATUS(cavmae_classification_metrics(context, scores, targets, 0, 4, NULL, NULL, &m), CAVMAE_E_ARG);

    enum { ROWS = 400 }; /* against the definitions, with ties */
    float random_scores[ROWS], random_targets[ROWS];
    for (int i = 0; i < ROWS; i++) {
        random_targets[i] = uniform() > 0.5f;
        random_scores[i] = roundf(8 * (uniform() + 0.4f * random_targets[i]));
    }
    double pairs = 0, precision = 0, positives = 0;
    for (int i = 0; i < ROWS; i++) {
        if (random_targets[i] == 0) continue;
        double at_least = 0, right = 0;
        positives++;
        for (int j = 0; j < ROWS; j++) {
            if (random_targets[j] == 0)
                pairs += random_scores[i] > random_scores[j] ? 1 : random_scores[i] == random_scores[j] ? 0.5 : 0;
            at_least += random_scores[j] >= random_scores[i];
            right += random_scores[j] >= random_scores[i] && random_targets[j] != 0;
        }
        precision += right / at_least;
    }
    CHECK_OK(cavmae_classification_metrics(context, random_scores, random_targets, ROWS, 1, ap, auc, &m));
    CHECK_CLOSE(auc[0], pairs / positives / (ROWS - positives), 1e-14);
    CHECK_CLOSE(ap[0], precision / positives, 1e-14);
    random_scores[5] = (float)NAN;
    CHECK_STATUS(cavmae_classification_metrics(context, random_scores, random_targets, ROWS, 1, ap, auc, &m),
                 CAVMAE_E_ARG);
    cavmae_context_free(context);
}

static void test_accuracy(void) {
    static const float scores[6] = {1, 1, 0, 0, 2, 3};
    int64_t target[2] = {0, 1};
    double accuracy = -1;
    CHECK_OK(cavmae_top1_accuracy(scores, target, 2, 3, &accuracy));
    CHECK(accuracy == 0.5);
    target[1] = 3;
    CHECK_STATUS(cavmae_top1_accuracy(scores, target, 2, 3, &accuracy), CAVMAE_E_ARG);
    CHECK(accuracy == 0.5);
}

/* ---- Memory ---- */

/* Everything that allocates, in one go; stops at the first failure. */
static cavmae_status use_memory(cavmae_context *context, const float *rows, const char *path) {
    enum { ROWS = 300, K = 3 };
    cavmae_index *index = NULL, *loaded = NULL;
    int64_t ids[2 * K];
    float scores[2 * K];
    cavmae_retrieval_metrics retrieval = {.struct_size = sizeof retrieval};
    cavmae_class_metrics classes = {.struct_size = sizeof classes};
    cavmae_status status = cavmae_index_create(context, DIM, &index);
    for (int64_t at = 0; !status && at < 3 * ROWS; at += ROWS) {
        status = cavmae_index_add(index, rows, ROWS);
        CHECK(cavmae_index_count(index) == (status ? at : at + ROWS));
    }
    if (!status) status = cavmae_index_search(index, rows, 2, K, ids, scores);
    if (!status) status = cavmae_index_save(index, path);
    if (!status) status = cavmae_index_load(context, path, &loaded);
    if (!status) status = cavmae_retrieval_from_embeddings(context, rows, rows, ROWS, DIM, &retrieval);
    if (!status) status = cavmae_classification_metrics(context, rows, rows, ROWS, DIM, NULL, NULL, &classes);
    cavmae_index_free(index);
    cavmae_index_free(loaded);
    return status;
}

static void test_out_of_memory(void) {
    float *rows = random_rows(300, DIM);
    const char *path = file_in_directory("memory.safetensors");
    for (int after = 0; after < 2; after++) {
        cavmae_status status = CAVMAE_E_NOMEM;
        for (long n = 1; status != CAVMAE_OK && n < 1000; n++) {
            failing_allocator allocator = {0};
            cavmae_context_options options = failing_options(&allocator);
            cavmae_context *context = NULL;
            options.threads = 2;
            CHECK_OK(cavmae_context_create(&options, &context));
            allocator.fail_at = allocator.calls + n;
            allocator.fail_after = after;
            status = use_memory(context, rows, path);
            if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
            cavmae_context_free(context);
            CHECK(allocator.blocks == 0);
        }
        CHECK_OK(status);
    }
    free(rows);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_dot();
    test_search();
    test_index_refusals();
    test_index_files();
    test_retrieval();
    test_median();
    test_classification();
    test_accuracy();
    test_out_of_memory();
    remove(file_in_directory("index.safetensors"));
    remove(file_in_directory("memory.safetensors"));
    rmdir(directory);
    return check_summary("infer");
}
