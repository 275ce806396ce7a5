/* The contrastive loss, of all pairs and of a rank's share of them, against float64. */
#include "ops.h"

/* Own pairs are first .. first + count - 1 of total. */
typedef struct pair_case {
    int32_t first, count, total, width, direction;
    double temperature, weight, accuracy;
    array a, v;
} pair_case;

static double cross_entropy(const double *s, int32_t count, int64_t stride, int32_t right, double *hit) {
    double sum = 0;
    *hit = 1;
    for (int32_t j = 0; j < count; j++) {
        sum += exp(s[j * stride] - s[right * stride]);
        if (j < right ? s[j * stride] >= s[right * stride] : s[j * stride] > s[right * stride]) *hit = 0;
    }
    return log(sum);
}

static double *scores_of(const pair_case *c) {
    const int32_t n = c->total, width = c->width;
    double *s = calloc((size_t)n * (size_t)n, sizeof *s), *norms = calloc(2 * (size_t)n, sizeof *norms);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t l = 0; l < width; l++) {
            norms[i] += c->a.value[i * width + l] * c->a.value[i * width + l];
            norms[n + i] += c->v.value[i * width + l] * c->v.value[i * width + l];
        }
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) {
            double dot = 0;
            for (int32_t l = 0; l < width; l++) dot += c->a.value[i * width + l] * c->v.value[j * width + l];
            s[(int64_t)i * n + j] = dot / sqrt(norms[i]) / sqrt(norms[n + j]) / c->temperature;
        }
    free(norms);
    return s;
}

/* The own pairs' part of the loss. */
static double pair_reference(void *arg) {
    pair_case *c = arg;
    const int32_t n = c->total;
    double *s = scores_of(c), loss[2] = {0}, hits[2] = {0};
    for (int32_t i = c->first; i < c->first + c->count; i++) {
        double hit;
        loss[0] += cross_entropy(s + i, n, n, i, &hit) / n;
        hits[0] += hit / n;
        loss[1] += cross_entropy(s + (int64_t)i * n, n, 1, i, &hit) / n;
        hits[1] += hit / n;
    }
    free(s);
    c->accuracy = c->direction == 2 ? (hits[0] + hits[1]) / 2 : hits[c->direction];
    return c->weight * (c->direction == 2 ? (loss[0] + loss[1]) / 2 : loss[c->direction]);
}

static pair_case make_pairs(int32_t total, int32_t width, int32_t direction) {
    pair_case c = {.count = total,
                   .total = total,
                   .width = width,
                   .direction = direction,
                   .temperature = 0.05,
                   .weight = 0.01,
                   .a = make_input((int64_t)total * width, CAVMAE_FLOAT32, -1, 1),
                   .v = make_input((int64_t)total * width, CAVMAE_FLOAT32, -1, 1)};
    for (int64_t i = 0; i < c.v.count; i += 2) { /* so that some pairs match */
        c.v.value[i] = c.a.value[i];
        write_element(c.v.data, CAVMAE_FLOAT32, i, (float)c.a.value[i]);
    }
    return c;
}

/* Adds to *loss and *accuracy, in a workspace as large as own pairs need. */
static void run(cavmae__backend *backend, const pair_case *c, array *da, array *dv, double *loss, double *accuracy) {
    const cavmae__limits limits = {.rows = 1,
                                   .width = c->width,
                                   .clips = c->count,
                                   .pairs = c->count,
                                   .all_pairs = c->total,
                                   .tokens = 1,
                                   .backward = 1};
    workspace w = make_workspace(backend, &limits);
    const cavmae__contrastive op = {.first = c->first,
                                    .count = c->count,
                                    .total = c->total,
                                    .pairs = c->total,
                                    .width = c->width,
                                    .direction = c->direction,
                                    .temperature = c->temperature,
                                    .weight = c->weight,
                                    .a = c->a.data,
                                    .v = c->v.data,
                                    .da = da ? da->data : NULL,
                                    .dv = dv ? dv->data : NULL,
                                    .loss = loss,
                                    .accuracy = accuracy,
                                    .workspace = w.memory};
    CHECK_OK(backend->ops->contrastive(backend, &op));
    free_workspace(&w);
}

static void free_pairs(pair_case *c) {
    free_array(&c->a);
    free_array(&c->v);
}

/* ---- All pairs at once ---- */

static void test_whole_of(cavmae__backend *backend, int32_t total, int32_t width, int32_t direction) {
    pair_case c = make_pairs(total, width, direction);
    array da = make_output(c.a.count, CAVMAE_FLOAT32), dv = make_output(c.a.count, CAVMAE_FLOAT32);
    const double expected = pair_reference(&c) / c.weight;
    double loss = 0, accuracy = 0;
    run(backend, &c, NULL, NULL, &loss, &accuracy);
    CHECK_CLOSE(loss, expected, 1e-10 * expected + 1e-15);
    CHECK_CLOSE(accuracy, c.accuracy, 1e-12);
    const double once = loss;
    run(backend, &c, &da, &dv, &loss, &accuracy);
    CHECK(loss == once + once);
    CHECK_CLOSE(accuracy, 2 * c.accuracy, 1e-12);
    CHECK_GRADIENT(&da, c.a.value, pair_reference, &c, 1e-5);
    CHECK_GRADIENT(&dv, c.v.value, pair_reference, &c, 1e-5);
    free_array(&da);
    free_array(&dv);
    free_pairs(&c);
}

static void test_whole(cavmae__backend *backend) {
    for (int32_t direction = 0; direction < 3; direction++) {
        test_whole_of(backend, 1, 8, direction);
        test_whole_of(backend, 5, 20, direction);
        test_whole_of(backend, 33, 40, direction);
    }
}

/* Equal scores: only the first of them is right. */
static void test_ties(cavmae__backend *backend) {
    pair_case c = make_pairs(4, 8, 0);
    double loss = 0, accuracy = 0;
    for (int i = 0; i < 4 * 8; i++) ((float *)c.a.data)[i] = ((float *)c.v.data)[i] = 1;
    run(backend, &c, NULL, NULL, &loss, &accuracy);
    CHECK_CLOSE(loss, log(4), 1e-12);
    CHECK_CLOSE(accuracy, 0.25, 0);
    c.first = c.count = 2; /* not among them */
    loss = accuracy = 0;
    run(backend, &c, NULL, NULL, &loss, &accuracy);
    CHECK_CLOSE(loss, log(4) / 2, 1e-12);
    CHECK(accuracy == 0);
    free_pairs(&c);
}

/* ---- Shares ---- */

static int all_zero(const array *x, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i++)
        if (((const float *)x->data)[i] != 0) return 0;
    return 1;
}

/* Where nothing comes from: with one direction only, the queries that are not own. */
static void check_zeros(const pair_case *c, const array *da, const array *dv) {
    const int64_t first = (int64_t)c->first * c->width, end = first + (int64_t)c->count * c->width;
    const array *queries = c->direction == 0 ? dv : da;
    if (c->direction == 2 && c->count) return;
    CHECK(all_zero(queries, 0, first) && all_zero(queries, end, queries->count));
    if (!c->count) CHECK(all_zero(da, 0, da->count) && all_zero(dv, 0, dv->count));
}

static void add_to(double *sum, const array *x) {
    for (int64_t i = 0; i < x->count; i++) sum[i] += (double)((const float *)x->data)[i];
}

/* Each share against differences of its own part of the loss, and all of them together against the whole. */
static void test_shares_of(cavmae__backend *backend, int32_t ranks, const int32_t *counts, int32_t width,
                           int32_t direction, int differences) {
    int32_t total = 0;
    for (int32_t r = 0; r < ranks; r++) total += counts[r];
    pair_case c = make_pairs(total, width, direction);
    if (differences) c.temperature = 0.3; /* so that no share's gradient is nothing */
    array da = make_output(c.a.count, CAVMAE_FLOAT32), dv = make_output(c.a.count, CAVMAE_FLOAT32);
    double *sums = calloc(2 * (size_t)c.a.count, sizeof *sums), loss = 0, accuracy = 0, whole = 0, whole_accuracy = 0;
    for (int32_t r = 0; r < ranks; r++) {
        const double loss_before = loss, accuracy_before = accuracy;
        c.count = counts[r];
        memset(da.data, 0xFF, (size_t)da.count * sizeof(float));
        memset(dv.data, 0xFF, (size_t)dv.count * sizeof(float));
        run(backend, &c, &da, &dv, &loss, &accuracy);
        add_to(sums, &da);
        add_to(sums + c.a.count, &dv);
        check_zeros(&c, &da, &dv);
        if (!c.count) CHECK(loss == loss_before && accuracy == accuracy_before);
        if (differences && c.count) {
            const double expected = pair_reference(&c) / c.weight;
            CHECK_CLOSE(loss - loss_before, expected, 1e-9 * expected + 1e-15);
            CHECK_CLOSE(accuracy - accuracy_before, c.accuracy, 1e-12);
            CHECK_GRADIENT(&da, c.a.value, pair_reference, &c, 1e-5);
            CHECK_GRADIENT(&dv, c.v.value, pair_reference, &c, 1e-5);
        }
        c.first += counts[r];
    }
    c.first = 0;
    c.count = total;
    const double expected = pair_reference(&c) / c.weight;
    CHECK_CLOSE(loss, expected, 1e-10 * expected + 1e-15);
    CHECK_CLOSE(accuracy, c.accuracy, 1e-12);
    run(backend, &c, &da, &dv, &whole, &whole_accuracy);
    CHECK_CLOSE(whole, loss, 1e-12 * loss + 1e-15);
    if (total > 1) { /* one pair has no gradient but for rounding */
        CHECK_ARRAY(&da, sums, 2e-7);
        CHECK_ARRAY(&dv, sums + c.a.count, 2e-7);
    }
    free(sums);
    free_array(&da);
    free_array(&dv);
    free_pairs(&c);
}

static void test_shares(cavmae__backend *backend) {
    for (int32_t direction = 0; direction < 3; direction++) {
        test_shares_of(backend, 3, (const int32_t[]){3, 2, 2}, 20, direction, 1);
        test_shares_of(backend, 4, (const int32_t[]){0, 4, 0, 9}, 33, direction, 1);
        test_shares_of(backend, 5, (const int32_t[]){1, 1, 1, 1, 1}, 7, direction, 1);
        test_shares_of(backend, 2, (const int32_t[]){0, 1}, 12, direction, 0);
        test_shares_of(backend, 3, (const int32_t[]){103, 57, 141}, 40, direction, 0);
        test_shares_of(backend, 2, (const int32_t[]){18, 15}, 131, direction, 0);
    }
    /* Large enough that no other operation's workspace is larger. */
    test_shares_of(backend, 2, (const int32_t[]){301, 280}, 20, 2, 0);
    test_shares_of(backend, 2, (const int32_t[]){64, 67}, 2051, 2, 0);
}

/* What is no number in a row: the ranks' losses together show it, as the whole loss does, and so does the gradient of the
 * row that it is in. */
static void test_not_finite(cavmae__backend *backend) {
    for (int32_t direction = 0; direction < 3; direction++)
        for (int visual = 0; visual < 2; visual++) {
            pair_case c = make_pairs(7, 12, direction);
            array da = make_output(c.a.count, CAVMAE_FLOAT32), dv = make_output(c.a.count, CAVMAE_FLOAT32);
            double loss = 0, accuracy = 0, *sums = calloc((size_t)c.a.count, sizeof *sums);
            ((float *)(visual ? c.v.data : c.a.data))[4 * 12 + 5] = NAN;
            for (c.first = 0; c.first < 7; c.first += c.count) {
                c.count = c.first ? 2 : 3;
                run(backend, &c, &da, &dv, &loss, &accuracy);
                add_to(sums, visual ? &dv : &da);
                check_zeros(&c, &da, &dv);
            }
            CHECK(isnan(loss));
            for (int k = 0; k < 12; k++) CHECK(isnan(sums[4 * 12 + k]));
            free(sums);
            free_array(&da);
            free_array(&dv);
            free_pairs(&c);
        }
}

int main(void) {
    for_each_isa(test_whole);
    for_each_isa(test_ties);
    for_each_isa(test_shares);
    for_each_isa(test_not_finite);
    return check_summary("ops_contrastive");
}
