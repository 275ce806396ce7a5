/* Options of the metrics: what ties count in retrieval, subsets of classes, the reference's way with empty classes, and
 * accuracy among the first k. The definitions themselves are in infer_test.c and the golden case. */
#include <string.h>

#include "check.h"
#include "failing_allocator.h"

static cavmae_context *context_with(int32_t threads) {
    cavmae_context_options options = {.struct_size = sizeof options, .threads = threads};
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    return context;
}

/* ---- Retrieval ---- */

static cavmae_retrieval_metrics ranked(const float *similarity, int64_t count, int32_t ties) {
    cavmae_retrieval_metrics m = {.struct_size = sizeof m, .ties = ties};
    CHECK_OK(cavmae_retrieval_from_similarity(similarity, count, &m));
    CHECK(m.ties == ties);
    return m;
}

static void test_ties(void) {
    /* Scores above the match, and equal to it: 0 and 1 in the first row, then 2 and 0, 1 and 2, 0 and 3. */
    static const float similarity[16] = {5, 5, 1, 1, 9, 3, 2, 8, 0, -0.0f, 0, 1, 4, 4, 4, 4};
    cavmae_retrieval_metrics m = ranked(similarity, 4, CAVMAE_TIES_FOR_MATCH); /* ranks 1, 3, 2, 1 */
    CHECK(m.r1 == 0.5 && m.median_rank == 1.5 && m.mean_rank == 1.75);
    m = ranked(similarity, 4, CAVMAE_TIES_MEAN); /* 1.5, 3, 3, 2.5 */
    CHECK(m.r1 == 0 && m.r5 == 1 && m.median_rank == 2.75 && m.mean_rank == 2.5);
    m = ranked(similarity, 4, CAVMAE_TIES_AGAINST_MATCH); /* 2, 3, 4, 4 */
    CHECK(m.r1 == 0 && m.median_rank == 3.5 && m.mean_rank == 3.25);
    m.ties = 3;
    CHECK_STATUS(cavmae_retrieval_from_similarity(similarity, 4, &m), CAVMAE_E_ARG);
    CHECK(m.mean_rank == 3.25);

    /* All the same: a match is first, in the middle, last. */
    enum { SAME = 1201 };
    float *equal = calloc(SAME * SAME, sizeof *equal);
    m = ranked(equal, SAME, CAVMAE_TIES_FOR_MATCH);
    CHECK(m.r1 == 1 && m.median_rank == 1 && m.mean_rank == 1);
    m = ranked(equal, SAME, CAVMAE_TIES_MEAN);
    CHECK(m.r10 == 0 && m.median_rank == 601 && m.mean_rank == 601);
    m = ranked(equal, SAME, CAVMAE_TIES_AGAINST_MATCH);
    CHECK(m.r10 == 0 && m.median_rank == SAME && m.mean_rank == SAME);
    free(equal);

    /* A caller that knows the record without what was added at its end. */
    struct {
        cavmae_retrieval_metrics m;
    } old = {{.struct_size = offsetof(cavmae_retrieval_metrics, mean_rank), .mean_rank = -7}};
    CHECK_OK(cavmae_retrieval_from_similarity(similarity, 4, &old.m));
    CHECK(old.m.median_rank == 1.5 && old.m.mean_rank == -7);
}

/* Embeddings along the axes: their cosines are exact, so both ways give the same ranks to the last bit. */
static void test_ties_of_embeddings(void) {
    enum { COUNT = 300, DIM = 9 };
    static float queries[COUNT * DIM], gallery[COUNT * DIM], similarity[COUNT * COUNT];
    for (int i = 0; i < COUNT; i++) {
        queries[i * DIM + i % DIM] = 2;
        gallery[i * DIM + i * i % DIM] = 3;
    }
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++) similarity[i * COUNT + j] = i % DIM == j * j % DIM;
    cavmae_context *context = context_with(3);
    for (int32_t ties = CAVMAE_TIES_FOR_MATCH; ties <= CAVMAE_TIES_AGAINST_MATCH; ties++) {
        cavmae_retrieval_metrics a = {.struct_size = sizeof a, .ties = ties}, b = a;
        CHECK_OK(cavmae_retrieval_from_similarity(similarity, COUNT, &a));
        CHECK_OK(cavmae_retrieval_from_embeddings(context, queries, gallery, COUNT, DIM, &b));
        CHECK(!memcmp(&a, &b, sizeof a) && a.ties == ties && a.mean_rank > 1);
    }
    cavmae_retrieval_metrics wrong = {.struct_size = sizeof wrong, .ties = -1};
    CHECK_STATUS(cavmae_retrieval_from_embeddings(context, queries, gallery, COUNT, DIM, &wrong), CAVMAE_E_ARG);
    cavmae_context_free(context);
}

/* ---- Classification ---- */

/* Class 0: +, -, +, -: AP 5/6, AUC 3/4. Class 1: no positive. Class 2: no negative. Class 3: AP 1, AUC 1. */
static const float scores[16] = {0.9f, 1, 1, 0, 0.8f, 1, 2, 3, 0.7f, 1, 3, 0, 0.6f, 1, 4, -1};
static const float targets[16] = {1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0};

static void test_classes(void) {
    static const uint8_t first_two[4] = {1, 1, 0, 0}, none[4] = {0};
    cavmae_context *context = context_with(2);
    cavmae_class_metrics m = {.struct_size = sizeof m};
    double ap[4], auc[4];
    CHECK_OK(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m));
    CHECK(m.scored_classes == 2 && m.lacking_classes == 2 && isnan(ap[1]) && isnan(auc[1]) && isnan(ap[2]));
    CHECK_CLOSE(m.mean_average_precision, (5.0 / 6 + 1) / 2, 1e-15);
    CHECK_CLOSE(m.mean_auc, 0.875, 1e-15);

    m.as_reference = 1; /* sklearn's average_precision_score gives 0 and 1; its roc_auc_score raises */
    CHECK_OK(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m));
    CHECK(m.as_reference == 1 && m.scored_classes == 4 && m.lacking_classes == 2);
    CHECK(ap[1] == 0 && ap[2] == 1 && auc[1] == -1 && auc[2] == -1);
    CHECK_CLOSE(m.mean_average_precision, (5.0 / 6 + 0 + 1 + 1) / 4, 1e-15);
    CHECK_CLOSE(m.mean_auc, (0.75 - 1 - 1 + 1) / 4, 1e-15);
    CHECK(isnan(m.d_prime)); /* of a negative AUC */

    m.subset = first_two;
    CHECK_OK(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m));
    CHECK(m.subset == first_two && m.scored_classes == 2 && m.lacking_classes == 1);
    CHECK(isnan(ap[2]) && isnan(ap[3]) && ap[1] == 0);
    CHECK_CLOSE(m.mean_average_precision, 5.0 / 12, 1e-15);
    m.as_reference = 0;
    CHECK_OK(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m));
    CHECK(m.scored_classes == 1 && m.lacking_classes == 1 && isnan(ap[1]) && isnan(ap[3]));
    CHECK_CLOSE(m.d_prime, 0.95387255240893950, 1e-14); /* sqrt(2) * scipy.stats.norm.ppf(0.75) */

    cavmae_class_metrics before = m;
    m.subset = before.subset = none;
    CHECK_STATUS(cavmae_classification_metrics(context, scores, targets, 4, 4, ap, auc, &m), CAVMAE_E_ARG);
    CHECK(!memcmp(&m, &before, sizeof m));
    m.subset = NULL;
    float wrong[16];
    memcpy(wrong, targets, sizeof wrong);
    wrong[6] = (float)NAN;
    CHECK_STATUS(cavmae_classification_metrics(context, scores, wrong, 4, 4, ap, auc, &m), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "targets: row 1, class 2") != NULL);
    CHECK_STATUS(cavmae_classification_metrics(NULL, scores, targets, 4, 4, ap, auc, &m), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_classification_metrics(context, scores, targets, INT64_MAX, 4, ap, auc, &m), CAVMAE_E_ARG);
    cavmae_context_free(context);
}

/* ---- Accuracy ---- */

static void test_topk(void) {
    enum { ROWS = 5, CLASSES = 4 };
    static const float of[ROWS * CLASSES] = {1, 2,  3, 4,  /* target 0: fourth */
                                             7, 7,  7, 0,  /* target 2: third, after its equals */
                                             7, 7,  7, 0,  /* target 0: first of equals */
                                             0, -1, 5, 2,  /* target 2: first */
                                             9, 0,  8, 7}; /* target 2: second */
    static const int64_t target[ROWS] = {0, 2, 0, 2, 2};
    static const double share[CLASSES] = {0.4, 0.6, 0.8, 1}; /* of all rows at k = 1, ... */
    static const uint8_t two[CLASSES] = {0, 0, 1, 1}, other[CLASSES] = {0, 1}, none[CLASSES] = {0};
    cavmae_context *context = context_with(1);
    cavmae_topk_metrics m = {.struct_size = sizeof m};
    double per_class[CLASSES], top1;
    CHECK_OK(cavmae_top1_accuracy(of, target, ROWS, CLASSES, &top1));
    for (int32_t k = 1; k <= CLASSES; k++) {
        CHECK_OK(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, k, per_class, &m));
        CHECK_CLOSE(m.accuracy, share[k - 1], 1e-15);
        CHECK(m.rows == ROWS && m.scored_classes == 2 && isnan(per_class[1]) && isnan(per_class[3]));
        CHECK_CLOSE(m.mean_class_accuracy, (per_class[0] + per_class[2]) / 2, 1e-15);
        CHECK_CLOSE(per_class[0], k < 4 ? 0.5 : 1, 1e-15);
        if (k == 1) CHECK(m.accuracy == top1);
    }
    CHECK_OK(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, INT32_MAX, NULL, &m));
    CHECK(m.accuracy == 1);

    m.subset = two; /* without their rivals rows 1, 3 and 4 are right; rows 0 and 2 do not count */
    CHECK_OK(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 1, per_class, &m));
    CHECK(m.accuracy == 1 && m.rows == 3 && m.scored_classes == 1 && m.subset == two && isnan(per_class[0]));
    m.subset = other;
    CHECK_OK(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 1, per_class, &m));
    CHECK(isnan(m.accuracy) && isnan(m.mean_class_accuracy) && m.rows == 0 && m.scored_classes == 0);

    m.subset = none;
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 1, NULL, &m), CAVMAE_E_ARG);
    m.subset = NULL;
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 0, NULL, &m), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, ROWS, 2, 1, NULL, &m), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "row 1 is 2") != NULL);
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, 0, CLASSES, 1, NULL, &m), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_topk_accuracy(context, NULL, target, ROWS, CLASSES, 1, NULL, &m), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 1, NULL, NULL), CAVMAE_E_ARG);
    static const float nothing[2] = {0, NAN};
    CHECK_STATUS(cavmae_topk_accuracy(context, nothing, target, 1, 2, 1, NULL, &m), CAVMAE_E_ARG);
    m.struct_size = 0;
    CHECK_STATUS(cavmae_topk_accuracy(context, of, target, ROWS, CLASSES, 1, NULL, &m), CAVMAE_E_ARG);
    cavmae_context_free(context);
}

/* ---- Memory ---- */

static cavmae_status use_memory(cavmae_context *context) {
    static const int64_t target[4] = {0, 1, 2, 3};
    cavmae_class_metrics classes = {.struct_size = sizeof classes, .as_reference = 1};
    cavmae_topk_metrics topk = {.struct_size = sizeof topk};
    cavmae_retrieval_metrics retrieval = {.struct_size = sizeof retrieval, .ties = CAVMAE_TIES_MEAN};
    cavmae_status status = cavmae_classification_metrics(context, scores, targets, 4, 4, NULL, NULL, &classes);
    if (!status) status = cavmae_topk_accuracy(context, scores, target, 4, 4, 2, NULL, &topk);
    return status ? status : cavmae_retrieval_from_embeddings(context, scores, scores, 4, 4, &retrieval);
}

static void test_out_of_memory(void) {
    cavmae_status status = CAVMAE_E_NOMEM;
    int failures = 0;
    for (long n = 1; status != CAVMAE_OK && n < 100; n++) {
        failing_allocator allocator = {0};
        cavmae_context_options options = failing_options(&allocator);
        cavmae_context *context = NULL;
        options.threads = 2;
        CHECK_OK(cavmae_context_create(&options, &context));
        allocator.fail_at = allocator.calls + n;
        status = use_memory(context);
        if (status != CAVMAE_OK) failures += CHECK_STATUS(status, CAVMAE_E_NOMEM);
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
    }
    CHECK_OK(status);
    CHECK(failures == 7);
}

int main(void) {
    test_ties();
    test_ties_of_embeddings();
    test_classes();
    test_topk();
    test_out_of_memory();
    return check_summary("metrics");
}
