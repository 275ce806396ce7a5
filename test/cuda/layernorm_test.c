/* LayerNorm forward and backward on the device against the CPU's. */
#include "compare.h"

typedef struct norm_case {
    int32_t width, groups, dtype, accumulate;
    int64_t rows[4]; /* of each group */
    int add;         /* 0: none, 1: another array, 2: dx itself */
    int shift;       /* elements by which x is off its alignment */
} norm_case;

static int64_t rows_of(const norm_case *c) {
    int64_t rows = 0;
    for (int g = 0; g < c->groups; g++) rows += c->rows[g];
    return rows;
}

typedef struct norm_twins {
    twin x, y, mean, rstd, dy, add, dx, gamma, beta, dgamma, dbeta;
} norm_twins;

static void run(both *b, const norm_case *c, const norm_twins *t, int backward, int statistics, int device) {
    cavmae__backend *backend = device ? b->cuda : b->cpu;
    cavmae__layernorm op = {.width = c->width,
                            .group_count = c->groups,
                            .eps = 1e-6f,
                            .y_dtype = c->dtype,
                            .x = (const float *)twin_at(&t->x, device) + c->shift,
                            .accumulate = c->accumulate,
                            .workspace = device ? b->cuda_workspace : b->cpu_workspace};
    for (int g = 0; g < c->groups; g++) {
        op.group[g] = (cavmae__norm_group){.rows = c->rows[g],
                                           .gamma = (const float *)twin_at(&t->gamma, device) + g * c->width,
                                           .beta = (const float *)twin_at(&t->beta, device) + g * c->width};
        if (!backward) continue;
        op.group[g].dgamma = (float *)twin_at(&t->dgamma, device) + g * c->width;
        op.group[g].dbeta = (float *)twin_at(&t->dbeta, device) + g * c->width;
    }
    if (backward || statistics) {
        op.mean = twin_at(&t->mean, device);
        op.rstd = twin_at(&t->rstd, device);
    }
    if (!backward) {
        op.y = twin_at(&t->y, device);
        CHECK_OK(backend->ops->layernorm(backend, &op));
        return;
    }
    op.dy = twin_at(&t->dy, device);
    op.dx = twin_at(&t->dx, device);
    op.add = !c->add ? NULL : c->add == 1 ? twin_at(&t->add, device) : op.dx;
    CHECK_OK(backend->ops->layernorm_grad(backend, &op));
}

static void check_case(both *b, const norm_case *c) {
    const int failed = check_failed;
    const int64_t rows = rows_of(c), size = rows * c->width, all = (int64_t)c->groups * c->width;
    const double tolerance = c->dtype == CAVMAE_BFLOAT16 ? 1e-3 : 1e-6;
    const cavmae__limits limits = {.rows = rows, .width = c->width, .clips = 1, .tokens = 1, .backward = 1};
    norm_twins t = {.x = twin_input(b, size + c->shift, CAVMAE_FLOAT32, -1, 3),
                    .y = twin_output(b, size, c->dtype),
                    .mean = twin_output(b, rows, CAVMAE_FLOAT32),
                    .rstd = twin_output(b, rows, CAVMAE_FLOAT32),
                    .dy = twin_input(b, size, c->dtype, -1, 2),
                    .add = twin_input(b, size, CAVMAE_FLOAT32, -1, 1),
                    .dx = twin_input(b, size, CAVMAE_FLOAT32, -1, 1),
                    .gamma = twin_input(b, all, CAVMAE_FLOAT32, 0.5, 2),
                    .beta = twin_input(b, all, CAVMAE_FLOAT32, -1, 1),
                    .dgamma = twin_input(b, all, CAVMAE_FLOAT32, -9, 9),
                    .dbeta = twin_input(b, all, CAVMAE_FLOAT32, -9, 9)};
    norm_twins again = t;
    again.y = twin_copy(b, &t.y);
    again.dx = twin_copy(b, &t.dx);
    again.dgamma = twin_copy(b, &t.dgamma);
    again.dbeta = twin_copy(b, &t.dbeta);

    both_workspace(b, &limits);
    for (int device = 0; device < 2; device++) run(b, c, &t, 0, 1, device);
    CHECK_TWIN(b, &t.y, tolerance);
    CHECK_TWIN(b, &t.mean, 1e-6);
    CHECK_TWIN(b, &t.rstd, 1e-6);
    run(b, c, &again, 0, 0, 1); /* without statistics */
    CHECK_DEVICE_SAME(b, &t.y, &again.y);
    for (int device = 0; device < 2; device++) run(b, c, &t, 1, 1, device);
    CHECK_TWIN(b, &t.dx, 1e-6);
    CHECK_TWIN(b, &t.dgamma, 2e-6);
    CHECK_TWIN(b, &t.dbeta, 2e-6);
    both_workspace(b, &limits);
    run(b, c, &again, 1, 1, 1);
    CHECK_DEVICE_SAME(b, &t.dx, &again.dx);
    CHECK_DEVICE_SAME(b, &t.dgamma, &again.dgamma);
    CHECK_DEVICE_SAME(b, &t.dbeta, &again.dbeta);

    twin *twins[] = {&t.x,    &t.y,      &t.mean,  &t.rstd,  &t.dy,     &t.add,        &t.dx,       &t.gamma,
                     &t.beta, &t.dgamma, &t.dbeta, &again.y, &again.dx, &again.dgamma, &again.dbeta};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    if (check_failed > failed)
        printf("  %d groups, %lld rows of width %d, %s, accumulate %d, add %d, shift %d\n", (int)c->groups,
               (long long)rows, (int)c->width, c->dtype == CAVMAE_BFLOAT16 ? "bfloat16" : "float32", (int)c->accumulate,
               c->add, c->shift);
}

/* All ways through the kernels: rows in 4, 6 and 8 pieces, wider ones, and those that are not fours. */
static void test_widths(both *b) {
    static const int32_t widths[] = {3, 4, 12, 20, 96, 127, 128, 512, 516, 768, 772, 1024, 1028, 1030};
    static const int64_t rows[] = {1, 31, 33, 65};
    int turn = 0;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int bf16 = 0; bf16 < 2; bf16++, turn++)
            check_case(b, &(norm_case){.width = widths[w],
                                       .groups = 1,
                                       .dtype = bf16 ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32,
                                       .accumulate = turn / 2 % 2,
                                       .rows = {rows[turn % 4]},
                                       .add = turn % 3});
}

static void test_alignment(both *b) {
    for (int shift = 1; shift <= 4; shift++)
        check_case(b, &(norm_case){.width = 64,
                                   .groups = 1,
                                   .dtype = shift % 2 ? CAVMAE_FLOAT32 : CAVMAE_BFLOAT16,
                                   .rows = {9},
                                   .add = 1,
                                   .shift = shift});
}

/* Groups that end inside a block of eight rows, empty ones, and more rows than a block of the backward pass has. */
static void test_groups(both *b) {
    static const int64_t rows[][4] = {{5, 3, 0, 0}, {1, 0, 40, 2}, {0, 7, 0, 33}, {100, 65, 1, 0}, {0, 0, 3, 0}};
    for (int i = 0; i < 5; i++)
        for (int32_t width = 12; width <= 1044; width += 1032)
            for (int32_t accumulate = 0; accumulate < 2; accumulate++) {
                norm_case c = {
                    .width = width, .groups = 4, .dtype = CAVMAE_FLOAT32, .accumulate = accumulate, .add = 2};
                memcpy(c.rows, rows[i], sizeof c.rows);
                check_case(b, &c);
            }
}

/* So many rows that blocks have more than the least. */
static void test_many_rows(both *b) {
    check_case(b, &(norm_case){.width = 4, .groups = 2, .dtype = CAVMAE_FLOAT32, .rows = {9000, 8999}, .add = 1});
}

/* Rows of one number have no deviation; what is not finite shows. */
static void test_values(both *b) {
    enum { ROWS = 3, WIDTH = 64 };
    const norm_case c = {.width = WIDTH, .groups = 1, .dtype = CAVMAE_FLOAT32, .rows = {ROWS}};
    norm_twins t = {.x = twin_input(b, ROWS * WIDTH, CAVMAE_FLOAT32, 1, 2),
                    .y = twin_output(b, ROWS * WIDTH, CAVMAE_FLOAT32),
                    .gamma = twin_input(b, WIDTH, CAVMAE_FLOAT32, 1, 2),
                    .beta = twin_input(b, WIDTH, CAVMAE_FLOAT32, 1, 2)};
    for (int j = 0; j < WIDTH; j++) ((float *)t.x.cpu)[j] = 0.5f;
    ((float *)t.x.cpu)[WIDTH + 7] = NAN;
    ((float *)t.x.cpu)[2 * WIDTH + 7] = INFINITY;
    twin_upload(b, &t.x);
    run(b, &c, &t, 0, 0, 1);
    float *y = twin_download(b, &t.y);
    const float *beta = t.beta.cpu;
    for (int j = 0; j < WIDTH; j++) {
        CHECK(y[j] == beta[j]);
        CHECK(y[WIDTH + j] != y[WIDTH + j]);
        CHECK(y[2 * WIDTH + j] != y[2 * WIDTH + j]);
    }
    free(y);
    twin *twins[] = {&t.x, &t.y, &t.gamma, &t.beta};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
}

int main(void) {
    both b;
    open_both(&b);
    test_widths(&b);
    test_alignment(&b);
    test_groups(&b);
    test_many_rows(&b);
    test_values(&b);
    close_both(&b);
    return check_summary("cuda layernorm_test");
}
