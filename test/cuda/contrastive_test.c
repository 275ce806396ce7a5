/* The contrastive loss on the device, in float32, against the CPU's in float64. */
#include "compare.h"

/* Own pairs are first .. first + count - 1 of total; count 0: all. */
typedef struct pairs {
    int32_t total, width, direction;
    double temperature;
    double likeness; /* of a pair, in [0, 1] */
    int no_gradients;
    int zero; /* a row of zeros, whose gradient drowns all others */
    int32_t first, count;
} pairs;

static void run(both *b, const cavmae__contrastive *op, twin *a, twin *v, twin *da, twin *dv, twin *loss,
                twin *accuracy, int device) {
    cavmae__contrastive run = *op;
    run.a = device ? a->device : a->cpu;
    run.v = device ? v->device : v->cpu;
    run.da = !da ? NULL : device ? da->device : da->cpu;
    run.dv = !dv ? NULL : device ? dv->device : dv->cpu;
    run.loss = device ? loss->device : loss->cpu;
    run.accuracy = device ? accuracy->device : accuracy->cpu;
    run.workspace = device ? b->cuda_workspace : b->cpu_workspace;
    cavmae__backend *backend = device ? b->cuda : b->cpu;
    CHECK_OK(backend->ops->contrastive(backend, &run));
}

static double number_on_device(both *b, const twin *t) {
    double x = NAN;
    CHECK_OK(b->cuda->ops->download(b->cuda, &x, t->device, sizeof x));
    return x;
}

static void make_pairs(both *b, const pairs *p, twin *a, twin *v) {
    const int64_t size = (int64_t)p->total * p->width;
    *a = twin_input(b, size, CAVMAE_FLOAT32, -1, 1);
    *v = twin_input(b, size, CAVMAE_FLOAT32, -1, 1);
    for (int64_t i = 0; i < size; i++) {
        const float like = (float)p->likeness;
        ((float *)v->cpu)[i] = like * ((float *)a->cpu)[i] + (1 - like) * ((float *)v->cpu)[i];
    }
    if (p->zero) memset((float *)v->cpu + 3 * p->width, 0, (size_t)p->width * sizeof(float));
    twin_upload(b, v);
}

static void print_pairs(const pairs *p) {
    printf("  %d pairs of %d from %d on, of width %d, direction %d, temperature %g\n", (int)p->count, (int)p->total,
           (int)p->first, (int)p->width, (int)p->direction, p->temperature);
}

static cavmae__limits limits_of(const pairs *p, int32_t count, int32_t room) {
    return (cavmae__limits){.rows = 1,
                            .width = p->width + room,
                            .clips = 1,
                            .pairs = count + room,
                            .all_pairs = p->total + room,
                            .tokens = 1,
                            .backward = 1};
}

static cavmae__contrastive operation_of(const pairs *p, int32_t first, int32_t count) {
    return (cavmae__contrastive){.first = first,
                                 .count = count,
                                 .total = p->total,
                                 .pairs = p->total,
                                 .width = p->width,
                                 .direction = p->direction,
                                 .temperature = p->temperature,
                                 .weight = 0.01};
}

/* room: by how much the workspace is for more than is asked. */
static void check_pairs(both *b, const pairs *p, int32_t room) {
    const double none = 0;
    const int32_t count = p->count ? p->count : p->total;
    const cavmae__limits limits = limits_of(p, count, room);
    const cavmae__contrastive op = operation_of(p, p->first, count);
    twin a, v;
    make_pairs(b, p, &a, &v);
    twin da = twin_output(b, a.count, CAVMAE_FLOAT32), dv = twin_output(b, a.count, CAVMAE_FLOAT32);
    twin loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
    twin da2 = twin_copy(b, &da), dv2 = twin_copy(b, &dv), loss2 = twin_copy(b, &loss);
    twin *const to_da = p->no_gradients ? NULL : &da, *const to_dv = p->no_gradients ? NULL : &dv;
    const int failed = check_failed;
    both_workspace(b, &limits);
    run(b, &op, &a, &v, to_da, to_dv, &loss, &accuracy, 0);
    run(b, &op, &a, &v, to_da, to_dv, &loss, &accuracy, 1);
    const double expected = *(double *)loss.cpu, once = number_on_device(b, &loss);
    /* Where there is almost none it is the exponential of a float32 score. */
    CHECK_CLOSE(once, expected, 1e-6 * (expected > 1e-3 ? expected : 1e-3));
    CHECK_CLOSE(number_on_device(b, &accuracy), *(double *)accuracy.cpu, 1e-12);
    if (p->no_gradients) {
        CHECK_TWIN_EXACT(b, &da);
        CHECK_TWIN_EXACT(b, &dv);
    } else if (p->total > 1) { /* one pair has no gradient, whatever is in it, but for rounding */
        CHECK_TWIN(b, &da, 1e-5);
        CHECK_TWIN(b, &dv, 1e-5);
    }

    /* Once more, in memory that holds something else by now; and what it gives is added. */
    run(b, &op, &a, &v, p->no_gradients ? NULL : &da2, p->no_gradients ? NULL : &dv2, &loss2, &accuracy, 1);
    CHECK_DEVICE_SAME(b, &loss, &loss2);
    CHECK_DEVICE_SAME(b, &da, &da2);
    CHECK_DEVICE_SAME(b, &dv, &dv2);
    run(b, &op, &a, &v, NULL, NULL, &loss2, &accuracy, 1);
    CHECK(number_on_device(b, &loss2) == once + once);
    CHECK_CLOSE(number_on_device(b, &accuracy), 3 * *(double *)accuracy.cpu, 1e-12);
    if (check_failed > failed) print_pairs(p);
    twin *twins[] = {&a, &v, &da, &dv, &loss, &accuracy, &da2, &dv2, &loss2};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

static void test_sizes(both *b) {
    static const int32_t counts[] = {1, 2, 3, 7, 31, 32, 33, 64, 65, 129, 255, 256, 257, 300},
                         widths[] = {4, 12, 20, 33, 96};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int32_t direction = 0; direction < 3; direction++) {
            const pairs p = {counts[c], widths[(c + (size_t)direction) % 5], direction, 0.05, .likeness = 0.5};
            check_pairs(b, &p, (int32_t)c);
        }
    for (int32_t direction = 0; direction < 3; direction++) {
        check_pairs(b, &(pairs){33, 20, direction, 0.2, .likeness = 0.5, .zero = 1}, 0);
        check_pairs(b, &(pairs){33, 20, direction, 0.1, .likeness = 0.4, .no_gradients = 1}, 0);
    }
    check_pairs(b, &(pairs){64, 768, 0, 0.05, .likeness = 0.3}, 0);
    check_pairs(b, &(pairs){65, 768, 2, 1, .likeness = 0.7}, 0);
}

/* More scores than the simulator takes at once, so that there are several parts, the last one smaller. */
static void test_parts(both *b) {
    check_pairs(b, &(pairs){2000, 32, 0, 0.05, .likeness = 0.4}, 0);
    check_pairs(b, &(pairs){601, 12, 1, 0.05, .likeness = 0.4}, 0);
    check_pairs(b, &(pairs){701, 20, 2, 0.05, .likeness = 0.4}, 0);
    check_pairs(b, &(pairs){900, 20, 2, 0.05, .likeness = 0.4, .first = 100, .count = 501}, 0);
}

/* ---- Shares ---- */

/* Each rank's share against the CPU's, and what they give together against the whole. */
static void check_shares(both *b, const pairs *p, int32_t ranks, const int32_t *counts) {
    const double none = 0;
    const int failed = check_failed;
    twin a, v;
    make_pairs(b, p, &a, &v);
    const size_t size = (size_t)a.count;
    twin loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
    twin whole_loss = twin_doubles(b, 1, &none), whole_accuracy = twin_doubles(b, 1, &none);
    twin whole_da = twin_output(b, a.count, CAVMAE_FLOAT32), whole_dv = twin_output(b, a.count, CAVMAE_FLOAT32);
    double *sums = calloc(2 * size, sizeof *sums), off[2] = {0}, norm[2] = {0};
    int32_t first = 0;
    for (int32_t r = 0; r < ranks; first += counts[r++]) {
        const cavmae__limits limits = limits_of(p, counts[r], 0);
        const cavmae__contrastive op = operation_of(p, first, counts[r]);
        twin d[2] = {twin_output(b, a.count, CAVMAE_FLOAT32), twin_output(b, a.count, CAVMAE_FLOAT32)};
        both_workspace(b, &limits);
        run(b, &op, &a, &v, &d[0], &d[1], &loss, &accuracy, 0);
        run(b, &op, &a, &v, &d[0], &d[1], &loss, &accuracy, 1);
        for (int side = 0; side < 2; side++) {
            float *got = twin_download(b, &d[side]);
            int zeros = 1; /* where nothing comes from this share */
            for (size_t i = 0; i < size; i++) {
                sums[side * size + i] += (double)got[i];
                if (((float *)d[side].cpu)[i] == 0) zeros = zeros && got[i] == 0;
            }
            CHECK(zeros);
            free(got);
            CHECK_TWIN(b, &d[side], 1e-5);
            twin_free(b, &d[side]);
        }
        CHECK_TWIN(b, &loss, 1e-6);
        CHECK_TWIN(b, &accuracy, 1e-12);
    }
    const cavmae__limits limits = limits_of(p, p->total, 0);
    const cavmae__contrastive op = operation_of(p, 0, p->total);
    both_workspace(b, &limits);
    run(b, &op, &a, &v, &whole_da, &whole_dv, &whole_loss, &whole_accuracy, 0);
    for (size_t i = 0; i < 2 * size; i++) {
        const double expected = (double)((float *)(i < size ? whole_da : whole_dv).cpu)[i % size];
        off[i >= size] += (sums[i] - expected) * (sums[i] - expected);
        norm[i >= size] += expected * expected;
    }
    for (int side = 0; side < 2; side++) CHECK_CLOSE(sqrt(off[side]), 0, 1e-5 * sqrt(norm[side]));
    const double expected = *(double *)whole_loss.cpu;
    CHECK_CLOSE(number_on_device(b, &loss), expected, 1e-6 * expected);
    CHECK_CLOSE(number_on_device(b, &accuracy), *(double *)whole_accuracy.cpu, 1e-12);
    if (check_failed > failed) print_pairs(p);
    free(sums);
    twin *twins[] = {&a, &v, &loss, &accuracy, &whole_loss, &whole_accuracy, &whole_da, &whole_dv};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

static void test_shares(both *b) {
    for (int32_t direction = 0; direction < 3; direction++) {
        check_shares(b, &(pairs){7, 20, direction, 0.2, .likeness = 0.3}, 3, (const int32_t[]){3, 2, 2});
        check_shares(b, &(pairs){13, 33, direction, 0.2, .likeness = 0.3}, 4, (const int32_t[]){0, 4, 0, 9});
        check_shares(b, &(pairs){5, 12, direction, 0.3, .likeness = 0.2}, 5, (const int32_t[]){1, 1, 1, 1, 1});
        check_shares(b, &(pairs){301, 40, direction, 0.05, .likeness = 0.4}, 3, (const int32_t[]){103, 57, 141});
        check_shares(b, &(pairs){33, 768, direction, 0.05, .likeness = 0.3}, 2, (const int32_t[]){18, 15});
    }
}

/* A pair that agrees: no loss, no gradient to speak of, nothing lost to rounding before the difference. */
static void test_agreement(both *b) {
    const cavmae__limits limits = {.rows = 1, .width = 8, .clips = 4, .tokens = 1, .backward = 1};
    float x[4 * 8] = {0};
    for (int i = 0; i < 4; i++) x[i * 8 + i] = (float)(i + 1);
    const double none = 0;
    twin a = twin_of(b, 32, CAVMAE_FLOAT32, x), da = twin_output(b, 32, CAVMAE_FLOAT32),
         dv = twin_output(b, 32, CAVMAE_FLOAT32), loss = twin_doubles(b, 1, &none),
         accuracy = twin_doubles(b, 1, &none);
    const cavmae__contrastive op = {
        .count = 4, .total = 4, .pairs = 4, .width = 8, .direction = 2, .temperature = 0.05, .weight = 1};
    both_workspace(b, &limits);
    run(b, &op, &a, &a, &da, &dv, &loss, &accuracy, 0);
    run(b, &op, &a, &a, &da, &dv, &loss, &accuracy, 1);
    CHECK_CLOSE(number_on_device(b, &loss), log1p(3 * exp(-20)), 1e-6 * 3 * exp(-20));
    CHECK_TWIN_EXACT(b, &accuracy);
    CHECK_TWIN(b, &da, 1e-5);
    CHECK_TWIN(b, &dv, 1e-5);
    twin *twins[] = {&a, &da, &dv, &loss, &accuracy};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

/* Rows that are there several times: only the first of equals is right. Their gradients are what is left of a difference,
 * and not compared. */
static void test_ties(both *b) {
    enum { COUNT = 261, WIDTH = 20 };
    static const double right[] = {60, 65, 62.5};
    const cavmae__limits limits = {.rows = 1, .width = WIDTH, .clips = COUNT, .tokens = 1};
    twin a = twin_input(b, COUNT * WIDTH, CAVMAE_FLOAT32, -1, 1), v = twin_output(b, COUNT * WIDTH, CAVMAE_FLOAT32);
    for (int i = 0; i < COUNT; i++)
        memcpy((float *)a.cpu + i * WIDTH, (float *)a.cpu + i % 70 * WIDTH, WIDTH * sizeof(float));
    memcpy(v.cpu, a.cpu, a.size);
    /* Some of the first ones are wrong, so that it matters who is first among the keys. */
    for (int j = 0; j < 10 * WIDTH; j++) ((float *)v.cpu)[j] *= -1;
    for (int j = 10 * WIDTH; j < 15 * WIDTH; j++) ((float *)a.cpu)[j] *= -1;
    twin_upload(b, &a);
    twin_upload(b, &v);
    both_workspace(b, &limits);
    for (int32_t direction = 0; direction < 3; direction++) {
        const double none = 0;
        twin loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
        const cavmae__contrastive op = {.count = COUNT,
                                        .total = COUNT,
                                        .pairs = COUNT,
                                        .width = WIDTH,
                                        .direction = direction,
                                        .temperature = 0.05,
                                        .weight = 1};
        run(b, &op, &a, &v, NULL, NULL, &loss, &accuracy, 0);
        run(b, &op, &a, &v, NULL, NULL, &loss, &accuracy, 1);
        CHECK_CLOSE(*(double *)accuracy.cpu, right[direction] / COUNT, 1e-12);
        CHECK_CLOSE(number_on_device(b, &accuracy), right[direction] / COUNT, 1e-12);
        CHECK_TWIN(b, &loss, 1e-6);
        twin_free(b, &loss);
        twin_free(b, &accuracy);
    }
    twin_free(b, &a);
    twin_free(b, &v);
}

/* What is not a number is seen in the loss, and in the gradient of the row that it is in; also where that is not among the
 * own pairs, which have it among their keys. */
static void test_not_finite(both *b) {
    static const float bad[] = {NAN, INFINITY};
    const double none = 0;
    for (int i = 0; i < 2; i++)
        for (int32_t direction = 0; direction < 3; direction++)
            for (int other = 0; other < 2; other++) {
                const pairs p = {40, 12, direction, 0.1, .likeness = 0.2};
                const cavmae__limits limits = limits_of(&p, other ? 15 : 40, 0);
                const cavmae__contrastive op = operation_of(&p, 0, other ? 15 : 40);
                twin a, v, da = twin_output(b, 40 * 12, CAVMAE_FLOAT32), dv = twin_output(b, 40 * 12, CAVMAE_FLOAT32),
                           loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
                make_pairs(b, &p, &a, &v);
                ((float *)(direction == 1 ? v : a).cpu)[37 * 12 + 5] = bad[i];
                twin_upload(b, direction == 1 ? &v : &a);
                both_workspace(b, &limits);
                run(b, &op, &a, &v, &da, &dv, &loss, &accuracy, 1);
                CHECK(isnan(number_on_device(b, &loss)));
                float *got = twin_download(b, direction == 1 ? &dv : &da);
                for (int k = 0; k < 12; k++) CHECK(isnan(got[37 * 12 + k]));
                free(got);
                twin *twins[] = {&a, &v, &da, &dv, &loss, &accuracy};
                for (size_t t = 0; t < 6; t++) twin_free(b, twins[t]);
            }
}

/* A query of another rank is nothing to this one, whatever is in it. */
static void test_not_finite_elsewhere(both *b) {
    const double none = 0;
    for (int32_t direction = 0; direction < 2; direction++) {
        const pairs p = {40, 12, direction, 0.1, .likeness = 0.2};
        const cavmae__limits limits = limits_of(&p, 15, 0);
        const cavmae__contrastive op = operation_of(&p, 0, 15);
        twin a, v, da = twin_output(b, 40 * 12, CAVMAE_FLOAT32), dv = twin_output(b, 40 * 12, CAVMAE_FLOAT32),
                   loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
        twin *const query = direction ? &a : &v, *const dquery = direction ? &da : &dv;
        make_pairs(b, &p, &a, &v);
        ((float *)query->cpu)[37 * 12 + 5] = NAN;
        twin_upload(b, query);
        both_workspace(b, &limits);
        run(b, &op, &a, &v, &da, &dv, &loss, &accuracy, 1);
        CHECK(isfinite(number_on_device(b, &loss)));
        float *got = twin_download(b, dquery);
        for (int k = 0; k < 12; k++) CHECK(got[37 * 12 + k] == 0);
        free(got);
        twin *twins[] = {&a, &v, &da, &dv, &loss, &accuracy};
        for (size_t t = 0; t < 6; t++) twin_free(b, twins[t]);
    }
}

int main(void) {
    both b;
    open_both(&b);
    test_sizes(&b);
    test_parts(&b);
    test_shares(&b);
    test_agreement(&b);
    test_ties(&b);
    test_not_finite(&b);
    test_not_finite_elsewhere(&b);
    close_both(&b);
    return check_summary("contrastive");
}
