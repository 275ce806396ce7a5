/* Adam and the sum of squares on the device against the CPU's. */
#include "compare.h"

typedef struct adam_twins {
    twin p, m, v, grad, update, sum_squares, guard;
} adam_twins;

static void run(both *b, const cavmae__adam *shape, const adam_twins *t, int shift, int device) {
    cavmae__backend *backend = device ? b->cuda : b->cpu;
    cavmae__adam op = *shape;
    op.p = (float *)twin_at(&t->p, device) + shift;
    op.m = (float *)twin_at(&t->m, device) + shift;
    op.v = (float *)twin_at(&t->v, device) + shift;
    op.grad = (const float *)twin_at(&t->grad, device) + shift;
    op.update = twin_at(&t->update, device);
    op.sum_squares = twin_at(&t->sum_squares, device);
    op.guard = twin_at(&t->guard, device);
    CHECK_OK(backend->ops->adam(backend, &op));
}

static adam_twins make_twins(both *b, int64_t count, double sum_squares) {
    const double guards[] = {1, -2, 3};
    const cavmae__update update = {.lr = 1e-3, .grad_scale = 0.25, .number = 1};
    adam_twins t = {.p = twin_input(b, count, CAVMAE_FLOAT32, -1, 1),
                    .m = twin_input(b, count, CAVMAE_FLOAT32, -1, 1),
                    .v = twin_input(b, count, CAVMAE_FLOAT32, 0, 1),
                    .grad = twin_input(b, count, CAVMAE_FLOAT32, -8, 8),
                    .update = twin_bytes(b, sizeof update, (const uint8_t *)&update),
                    .sum_squares = twin_doubles(b, 1, &sum_squares),
                    .guard = twin_doubles(b, 3, guards)};
    return t;
}

static void free_twins(both *b, adam_twins *t) {
    twin *twins[] = {&t->p, &t->m, &t->v, &t->grad, &t->update, &t->sum_squares, &t->guard};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

static cavmae__adam shape_of(int64_t count) {
    return (cavmae__adam){
        .count = count, .lr_factor = 2, .beta1 = 0.95, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.05, .guards = 3};
}

/* Some updates in a row, Adam and AdamW, all counts that a piece of four leaves, aligned and not. */
static void test_updates(both *b) {
    static const int64_t counts[] = {1, 2, 3, 4, 5, 31, 127, 1023, 1024, 1025, 4099};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int shift = 0; shift < 2; shift++) {
            const int failed = check_failed;
            cavmae__adam op = shape_of(counts[i]);
            op.decoupled = (int32_t)i % 2;
            op.clip_norm = i % 3 == 1 ? 2.0 : 0;
            adam_twins t = make_twins(b, counts[i] + shift, 1e4);
            for (int64_t number = 1; number <= 3; number++) {
                const cavmae__update update = {.lr = 1e-3 * (double)number, .grad_scale = 0.25, .number = number};
                memcpy(t.update.cpu, &update, sizeof update);
                twin_upload(b, &t.update);
                for (int device = 0; device < 2; device++) run(b, &op, &t, shift, device);
            }
            CHECK_TWIN(b, &t.p, 1e-6);
            CHECK_TWIN(b, &t.m, 1e-6);
            CHECK_TWIN(b, &t.v, 1e-6);
            free_twins(b, &t);
            if (check_failed > failed) printf("  %lld elements, shift %d\n", (long long)counts[i], shift);
        }
}

/* More elements than the blocks have threads for at once. */
static void test_many(both *b) {
    enum { COUNT = 4224 * 256 * 4 + 4 * 300 + 3 };
    const cavmae__adam op = shape_of(COUNT);
    adam_twins t = make_twins(b, COUNT, 1);
    for (int device = 0; device < 2; device++) run(b, &op, &t, 0, device);
    CHECK_TWIN(b, &t.p, 1e-6);
    CHECK_TWIN(b, &t.m, 1e-6);
    CHECK_TWIN(b, &t.v, 1e-6);
    free_twins(b, &t);
}

/* A gradient's norm at the limit, below, above, and one that is no number. */
static void test_clipping(both *b) {
    static const double squares[] = {0, 63.9, 64, 64.1, 1e30, INFINITY, NAN};
    for (int i = 0; i < 7; i++) {
        cavmae__adam op = shape_of(40);
        op.clip_norm = 2; /* 0.25 sqrt(64) */
        adam_twins t = make_twins(b, 40, squares[i]);
        for (int device = 0; device < 2; device++) run(b, &op, &t, 0, device);
        CHECK_TWIN(b, &t.p, 1e-6);
        CHECK_TWIN(b, &t.m, 1e-6);
        CHECK_TWIN(b, &t.v, 1e-6);
        free_twins(b, &t);
    }
}

static void test_guards(both *b) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 4; i++) {
        const cavmae__adam op = shape_of(40);
        adam_twins t = make_twins(b, 40, 1);
        twin before = twin_copy(b, &t.p), m = twin_copy(b, &t.m), v = twin_copy(b, &t.v);
        if (i < 3) ((double *)t.guard.cpu)[i] = bad[i];
        twin_upload(b, &t.guard);
        run(b, &op, &t, 0, 1);
        if (i < 3) {
            CHECK_DEVICE_SAME(b, &t.p, &before);
            CHECK_DEVICE_SAME(b, &t.m, &m);
            CHECK_DEVICE_SAME(b, &t.v, &v);
        } else {
            float *p = twin_download(b, &t.p);
            CHECK(memcmp(p, before.cpu, before.size) != 0);
            free(p);
        }
        free_twins(b, &t);
        twin_free(b, &before);
        twin_free(b, &m);
        twin_free(b, &v);
    }
}

/* ---- Sum of squares ---- */

static double sum_on(both *b, const twin *x, int64_t first, int64_t count, twin *sum, int device) {
    cavmae__backend *backend = device ? b->cuda : b->cpu;
    const cavmae__sum_squares op = {.count = count,
                                    .x = (const float *)twin_at(x, device) + first,
                                    .sum = twin_at(sum, device),
                                    .workspace = device ? b->cuda_workspace : b->cpu_workspace};
    double got = NAN;
    CHECK_OK(backend->ops->sum_squares(backend, &op));
    if (!device) return *(double *)sum->cpu;
    CHECK_OK(backend->ops->download(backend, &got, sum->device, sizeof got));
    return got;
}

static void test_sum_squares(both *b) {
    static const int64_t counts[] = {0, 1, 2, 3, 4, 5, 1000, 4096, 4097, 100003, 1056 * 4096 + 1};
    const cavmae__limits limits = {.rows = 1, .width = 1, .clips = 1, .tokens = 1, .backward = 1};
    const int64_t most = counts[10] + 1;
    const double zero = 0;
    twin x = twin_input(b, most, CAVMAE_FLOAT32, -3, 3), sum = twin_doubles(b, 1, &zero);
    both_workspace(b, &limits);
    for (int i = 0; i < 11; i++)
        for (int64_t first = 0; first < 2; first++) {
            const double expected = sum_on(b, &x, first, counts[i], &sum, 0);
            const double got = sum_on(b, &x, first, counts[i], &sum, 1);
            CHECK_CLOSE(got, expected, 1e-12 * expected);
            if (i < 10) CHECK(got == sum_on(b, &x, first, counts[i], &sum, 1));
        }
    twin_free(b, &x);

    /* Numbers whose squares are beyond float32, and those that are none. */
    static const float special[] = {3e38f, 1e-30f, NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 5; i++) {
        x = twin_input(b, 5000, CAVMAE_FLOAT32, -1, 1);
        ((float *)x.cpu)[4321] = special[i];
        twin_upload(b, &x);
        const double expected = sum_on(b, &x, 0, 5000, &sum, 0), got = sum_on(b, &x, 0, 5000, &sum, 1);
        CHECK(isfinite(got) == (i < 2));
        CHECK(isnan(got) == (i == 2));
        if (i < 2) CHECK_CLOSE(got, expected, 1e-12 * expected);
        twin_free(b, &x);
    }
    twin_free(b, &sum);
}

int main(void) {
    both b;
    open_both(&b);
    test_updates(&b);
    test_many(&b);
    test_clipping(&b);
    test_guards(&b);
    test_sum_squares(&b);
    close_both(&b);
    return check_summary("cuda adam_test");
}
