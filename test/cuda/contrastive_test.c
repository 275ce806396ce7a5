/* The contrastive loss on the device, in float32, against the CPU's in float64. */
#include "compare.h"

typedef struct pairs {
    int32_t count, width, direction;
    double temperature;
    int da, dv;      /* wanted */
    double likeness; /* of a pair, in [0, 1] */
    int zero;        /* a row of zeros, whose gradient drowns all others */
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

/* room: by how much the workspace is for more than is asked. */
static void check_pairs(both *b, const pairs *p, int32_t room) {
    const int64_t size = (int64_t)p->count * p->width;
    const double none = 0;
    const cavmae__limits limits = {
        .rows = 1, .width = p->width + room, .clips = p->count + room, .tokens = 1, .backward = 1};
    twin a = twin_input(b, size, CAVMAE_FLOAT32, -1, 1), v = twin_input(b, size, CAVMAE_FLOAT32, -1, 1);
    for (int64_t i = 0; i < size; i++) {
        const float like = (float)p->likeness;
        ((float *)v.cpu)[i] = like * ((float *)a.cpu)[i] + (1 - like) * ((float *)v.cpu)[i];
    }
    if (p->zero) memset((float *)v.cpu + 3 * p->width, 0, (size_t)p->width * sizeof(float));
    twin_upload(b, &v);
    twin da = twin_output(b, size, CAVMAE_FLOAT32), dv = twin_output(b, size, CAVMAE_FLOAT32);
    twin loss = twin_doubles(b, 1, &none), accuracy = twin_doubles(b, 1, &none);
    twin da2 = twin_copy(b, &da), dv2 = twin_copy(b, &dv), loss2 = twin_copy(b, &loss);
    const cavmae__contrastive op = {
        .count = p->count, .width = p->width, .direction = p->direction, .temperature = p->temperature, .weight = 0.01};
    const int failed = check_failed;
    both_workspace(b, &limits);
    run(b, &op, &a, &v, p->da ? &da : NULL, p->dv ? &dv : NULL, &loss, &accuracy, 0);
    run(b, &op, &a, &v, p->da ? &da : NULL, p->dv ? &dv : NULL, &loss, &accuracy, 1);
    const double expected = *(double *)loss.cpu;
    /* Where there is almost none it is the exponential of a float32 score. */
    CHECK_CLOSE(number_on_device(b, &loss), expected, 1e-6 * (expected > 1e-3 ? expected : 1e-3));
    CHECK_CLOSE(number_on_device(b, &accuracy), *(double *)accuracy.cpu, 1e-12);
    /* One pair has no gradient, whatever is in it, but for rounding. */
    if (p->da && p->count > 1) CHECK_TWIN(b, &da, 1e-5);
    if (p->dv && p->count > 1) CHECK_TWIN(b, &dv, 1e-5);
    if (!p->da) CHECK_TWIN_EXACT(b, &da);
    if (!p->dv) CHECK_TWIN_EXACT(b, &dv);

    /* Once more, in memory that holds something else by now. */
    run(b, &op, &a, &v, p->da ? &da2 : NULL, p->dv ? &dv2 : NULL, &loss2, &accuracy, 1);
    CHECK_DEVICE_SAME(b, &loss, &loss2);
    CHECK_DEVICE_SAME(b, &da, &da2);
    CHECK_DEVICE_SAME(b, &dv, &dv2);
    if (check_failed > failed)
        printf("  %d pairs of width %d, direction %d, temperature %g\n", (int)p->count, (int)p->width,
               (int)p->direction, p->temperature);
    twin *twins[] = {&a, &v, &da, &dv, &loss, &accuracy, &da2, &dv2, &loss2};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

static void test_sizes(both *b) {
    static const int32_t counts[] = {1, 2, 3, 7, 31, 32, 33, 64, 65, 129, 255, 256, 257, 300},
                         widths[] = {4, 12, 20, 33, 96};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int32_t direction = 0; direction < 3; direction++) {
            const pairs p = {counts[c], widths[(c + (size_t)direction) % 5], direction, 0.05, 1, 1, 0.5, 0};
            check_pairs(b, &p, (int32_t)c);
        }
    for (int32_t direction = 0; direction < 3; direction++)
        check_pairs(b, &(pairs){33, 20, direction, 0.2, 1, 1, 0.5, 1}, 0);
    check_pairs(b, &(pairs){64, 768, 0, 0.05, 1, 1, 0.3, 0}, 0);
    check_pairs(b, &(pairs){65, 768, 2, 1, 1, 1, 0.7, 0}, 0);
}

/* Only what is wanted is written, and is the same as when all is. */
static void test_wanted(both *b) {
    for (int32_t direction = 0; direction < 3; direction++)
        for (int wanted = 0; wanted < 3; wanted++)
            check_pairs(b, &(pairs){33, 20, direction, 0.1, wanted == 1, wanted == 2, 0.4, 0}, 0);
}

/* More scores than the simulator takes at once, so that there are several parts, the last one smaller. */
static void test_parts(both *b) {
    check_pairs(b, &(pairs){2000, 32, 0, 0.05, 1, 1, 0.4, 0}, 0);
    check_pairs(b, &(pairs){601, 12, 1, 0.05, 1, 1, 0.4, 0}, 0);
    check_pairs(b, &(pairs){701, 20, 2, 0.05, 1, 1, 0.4, 0}, 0);
}

/* A pair that agrees: no loss, no gradient to speak of, nothing lost to rounding before the difference. */
static void test_agreement(both *b) {
    const cavmae__limits limits = {.rows = 1, .width = 8, .clips = 4, .tokens = 1, .backward = 1};
    float x[4 * 8] = {0};
    for (int i = 0; i < 4; i++) x[i * 8 + i] = (float)(i + 1);
    twin a = twin_of(b, 32, CAVMAE_FLOAT32, x), da = twin_output(b, 32, CAVMAE_FLOAT32),
         dv = twin_output(b, 32, CAVMAE_FLOAT32), loss = twin_output(b, 1, CAVMAE_FLOAT64),
         accuracy = twin_output(b, 1, CAVMAE_FLOAT64);
    const cavmae__contrastive op = {.count = 4, .width = 8, .direction = 2, .temperature = 0.05, .weight = 1};
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
    twin a = twin_input(b, COUNT * WIDTH, CAVMAE_FLOAT32, -1, 1), v = twin_output(b, COUNT * WIDTH, CAVMAE_FLOAT32),
         loss = twin_output(b, 1, CAVMAE_FLOAT64), accuracy = twin_output(b, 1, CAVMAE_FLOAT64);
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
        const cavmae__contrastive op = {
            .count = COUNT, .width = WIDTH, .direction = direction, .temperature = 0.05, .weight = 1};
        run(b, &op, &a, &v, NULL, NULL, &loss, &accuracy, 0);
        run(b, &op, &a, &v, NULL, NULL, &loss, &accuracy, 1);
        CHECK_CLOSE(*(double *)accuracy.cpu, right[direction] / COUNT, 1e-12);
        CHECK_CLOSE(number_on_device(b, &accuracy), right[direction] / COUNT, 1e-12);
        CHECK_TWIN(b, &loss, 1e-6);
    }
    twin *twins[] = {&a, &v, &loss, &accuracy};
    for (size_t t = 0; t < 4; t++) twin_free(b, twins[t]);
}

/* What is not a number is seen in the loss. */
static void test_not_finite(both *b) {
    static const float bad[] = {NAN, INFINITY};
    const cavmae__limits limits = {.rows = 1, .width = 12, .clips = 40, .tokens = 1};
    for (int i = 0; i < 2; i++)
        for (int32_t direction = 0; direction < 3; direction++) {
            twin a = twin_input(b, 40 * 12, CAVMAE_FLOAT32, -1, 1), v = twin_input(b, 40 * 12, CAVMAE_FLOAT32, -1, 1),
                 loss = twin_output(b, 1, CAVMAE_FLOAT64), accuracy = twin_output(b, 1, CAVMAE_FLOAT64);
            const cavmae__contrastive op = {
                .count = 40, .width = 12, .direction = direction, .temperature = 0.1, .weight = 1};
            ((float *)a.cpu)[37 * 12 + 5] = bad[i];
            twin_upload(b, &a);
            CHECK_OK(b->cuda->ops->zero(b->cuda, loss.device, sizeof(double)));
            both_workspace(b, &limits);
            run(b, &op, &a, &v, NULL, NULL, &loss, &accuracy, 1);
            CHECK(isnan(number_on_device(b, &loss)));
            twin *twins[] = {&a, &v, &loss, &accuracy};
            for (size_t t = 0; t < 4; t++) twin_free(b, twins[t]);
        }
}

int main(void) {
    both b;
    open_both(&b);
    test_sizes(&b);
    test_wanted(&b);
    test_parts(&b);
    test_agreement(&b);
    test_ties(&b);
    test_not_finite(&b);
    close_both(&b);
    return check_summary("contrastive");
}
