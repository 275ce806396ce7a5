/* The operations on rows: layer normalisation, placing, summing, averaging. */
#include "ops.h"

/* ---- LayerNorm ---- */

typedef struct norm_case {
    int32_t width, groups;
    int64_t rows[4];
    array x, gamma, beta, factor, add;
    double *y, *mean, *rstd;
} norm_case;

static const double norm_eps = 1e-3;

static int64_t norm_rows(const norm_case *c) {
    int64_t rows = 0;
    for (int32_t g = 0; g < c->groups; g++) rows += c->rows[g];
    return rows;
}

static void norm_reference(const norm_case *c) {
    int64_t r = 0;
    for (int32_t g = 0; g < c->groups; g++)
        for (int64_t end = r + c->rows[g]; r < end; r++) {
            const double *x = c->x.value + r * c->width;
            double mean = 0, square = 0;
            for (int32_t j = 0; j < c->width; j++) mean += x[j] / c->width;
            for (int32_t j = 0; j < c->width; j++) square += (x[j] - mean) * (x[j] - mean) / c->width;
            c->mean[r] = mean;
            c->rstd[r] = 1 / sqrt(square + norm_eps);
            for (int32_t j = 0; j < c->width; j++)
                c->y[r * c->width + j] =
                    (x[j] - mean) * c->rstd[r] * c->gamma.value[g * c->width + j] + c->beta.value[g * c->width + j];
        }
}

static double norm_loss(void *arg) {
    const norm_case *c = arg;
    double sum = 0;
    norm_reference(c);
    for (int64_t i = 0; i < c->factor.count; i++) sum += c->y[i] * c->factor.value[i];
    for (int64_t i = 0; i < c->add.count; i++) sum += c->x.value[i] * c->add.value[i];
    return sum;
}

static void test_norm(cavmae__backend *backend, int32_t width, int32_t groups, const int64_t *rows, int32_t dtype,
                      int accumulate) {
    norm_case c = {.width = width, .groups = groups};
    memcpy(c.rows, rows, (size_t)groups * sizeof *rows);
    const int64_t all = norm_rows(&c), count = all * width;
    c.x = make_input(count, CAVMAE_FLOAT32, 2, 4); /* far from 0: the variance must not cancel */
    c.gamma = make_input((int64_t)groups * width, CAVMAE_FLOAT32, 0.5, 1.5);
    c.beta = make_input((int64_t)groups * width, CAVMAE_FLOAT32, -1, 1);
    c.factor = make_input(count, dtype, -1, 1);
    c.add = make_input(count, CAVMAE_FLOAT32, -1, 1);
    c.y = calloc((size_t)count, sizeof(double));
    c.mean = calloc((size_t)all, sizeof(double));
    c.rstd = calloc((size_t)all, sizeof(double));
    array y = make_output(count, dtype), mean = make_output(all, CAVMAE_FLOAT32),
          rstd = make_output(all, CAVMAE_FLOAT32);
    array dgamma = make_input(c.gamma.count, CAVMAE_FLOAT32, -1, 1),
          dbeta = make_input(c.gamma.count, CAVMAE_FLOAT32, -1, 1);
    array dx = make_output(count, CAVMAE_FLOAT32);
    cavmae__limits limits = {.rows = all, .width = width, .clips = 1, .tokens = 1, .backward = 1};
    workspace w = make_workspace(backend, &limits);

    cavmae__layernorm op = {.width = width,
                            .group_count = groups,
                            .eps = (float)norm_eps,
                            .y_dtype = dtype,
                            .x = c.x.data,
                            .y = y.data,
                            .mean = mean.data,
                            .rstd = rstd.data,
                            .dy = c.factor.data,
                            .add = c.add.data,
                            .dx = dx.data,
                            .accumulate = accumulate,
                            .workspace = w.memory};
    for (int32_t g = 0; g < groups; g++)
        op.group[g] = (cavmae__norm_group){rows[g], (float *)c.gamma.data + g * width, (float *)c.beta.data + g * width,
                                           (float *)dgamma.data + g * width, (float *)dbeta.data + g * width};
    CHECK_OK(backend->ops->layernorm(backend, &op));
    norm_reference(&c);
    CHECK_ARRAY(&y, c.y, tolerance_of(dtype));
    CHECK_ARRAY(&mean, c.mean, 1e-6);
    CHECK_ARRAY(&rstd, c.rstd, 2e-6);
    array without = make_output(count, dtype);
    op.y = without.data;
    op.mean = op.rstd = NULL;
    CHECK_OK(backend->ops->layernorm(backend, &op));
    CHECK_SAME(&without, &y);

    op.mean = mean.data;
    op.rstd = rstd.data;
    CHECK_OK(backend->ops->layernorm_grad(backend, &op));
    CHECK_GRADIENT(&dx, c.x.value, norm_loss, &c, 2e-5); /* a row of four nearly equal numbers loses some bits */
    CHECK_GRADIENT_ADDED(&dgamma, c.gamma.value, accumulate ? dgamma.value : NULL, norm_loss, &c, 3e-6);
    CHECK_GRADIENT_ADDED(&dbeta, c.beta.value, accumulate ? dbeta.value : NULL, norm_loss, &c, 3e-6);
    array in_place = make_output(count, CAVMAE_FLOAT32); /* dx over add */
    memcpy(in_place.data, c.add.data, (size_t)count * sizeof(float));
    op.add = op.dx = in_place.data;
    CHECK_OK(backend->ops->layernorm_grad(backend, &op));
    CHECK_SAME(&in_place, &dx);

    array *arrays[] = {&c.x,  &c.gamma, &c.beta, &c.factor, &c.add,   &y,       &mean,
                       &rstd, &dgamma,  &dbeta,  &dx,       &without, &in_place};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free_array(arrays[i]);
    free(c.y);
    free(c.mean);
    free(c.rstd);
    free_workspace(&w);
}

static void test_norms(cavmae__backend *backend) {
    static const int32_t widths[] = {4, 20, 24, 40, 72, 130};
    static const int64_t rows[][4] = {{1}, {3, 49}, {131, 1, 64}, {20, 0, 70, 5}};
    for (int i = 0; i < 6; i++)
        for (int g = 1; g <= 4; g++)
            test_norm(backend, widths[i], g, rows[g - 1], (i + g) % 2 ? CAVMAE_FLOAT32 : CAVMAE_BFLOAT16, g == 2);
}

/* ---- Rows ---- */

static void test_place(cavmae__backend *backend, int32_t width) {
    enum { COUNT = 50, ROWS = 60, SOURCES = 20, TABLE = 7 };
    array x = make_input(SOURCES * width, CAVMAE_FLOAT32, -1, 1), fill = make_input(width, CAVMAE_FLOAT32, -1, 1);
    array table = make_input(TABLE * width, CAVMAE_FLOAT32, -1, 1), vector = make_input(width, CAVMAE_FLOAT32, -1, 1);
    array out = make_input(ROWS * width, CAVMAE_FLOAT32, -1, 1);
    int32_t source[COUNT], position[COUNT], row[COUNT];
    for (int32_t k = 0; k < COUNT; k++) {
        source[k] = k % 3 == 0 ? -1 : k % SOURCES;
        position[k] = k % TABLE;
        row[k] = k % 7 == 6 ? -1 : ROWS - 1 - k;
    }
    cavmae__place op = {.count = COUNT,
                        .width = width,
                        .x = x.data,
                        .fill = fill.data,
                        .table = table.data,
                        .vector = vector.data,
                        .source = source,
                        .position = position,
                        .row = row,
                        .out = out.data};
    CHECK_OK(backend->ops->place(backend, &op));
    for (int32_t k = 0; k < COUNT; k++)
        for (int32_t j = 0; j < width && row[k] >= 0; j++)
            out.value[row[k] * width + j] = (source[k] < 0 ? fill.value[j] : x.value[source[k] * width + j]) +
                                            table.value[position[k] * width + j] + vector.value[j];
    CHECK_ARRAY(&out, out.value, 1e-7);

    op = (cavmae__place){.count = SOURCES, .width = width, .x = x.data, .vector = vector.data, .out = x.data};
    CHECK_OK(backend->ops->place(backend, &op));
    for (int32_t i = 0; i < SOURCES * width; i++) x.value[i] += vector.value[i % width];
    CHECK_ARRAY(&x, x.value, 1e-7);
    array *arrays[] = {&x, &fill, &table, &vector, &out};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free_array(arrays[i]);
}

static void test_table_grad(cavmae__backend *backend, int32_t width, int32_t table_rows, int with_index, int with_row,
                            int accumulate) {
    enum { COUNT = 300, ROWS = 400 };
    array dy = make_input(ROWS * width, CAVMAE_FLOAT32, -1, 1),
          table = make_input(table_rows * width, CAVMAE_FLOAT32, -1, 1);
    int32_t index[COUNT], row[COUNT];
    for (int32_t k = 0; k < COUNT; k++) {
        index[k] = (int32_t)(next_random() % (uint32_t)(table_rows + 1)) - 1;
        row[k] = ROWS - 1 - k;
    }
    cavmae__table_grad op = {.count = COUNT,
                             .width = width,
                             .table_rows = table_rows,
                             .accumulate = accumulate,
                             .dy = dy.data,
                             .index = with_index ? index : NULL,
                             .row = with_row ? row : NULL,
                             .dtable = table.data};
    if (!accumulate) memset(table.value, 0, (size_t)table.count * sizeof(double));
    for (int32_t k = 0; k < COUNT; k++)
        for (int32_t j = 0; j < width; j++)
            if (!with_index || index[k] >= 0)
                table.value[(with_index ? index[k] : 0) * width + j] += dy.value[(with_row ? row[k] : k) * width + j];
    CHECK_OK(backend->ops->table_grad(backend, &op));
    CHECK_ARRAY(&table, table.value, 1e-6);
    free_array(&dy);
    free_array(&table);
}

static void test_combine(cavmae__backend *backend, int32_t width) {
    enum { ROWS = 70, SOURCES = 30 };
    array x = make_input(SOURCES * width, CAVMAE_FLOAT32, -1, 1);
    int32_t first[ROWS], second[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        first[r] = r % 4 == 0 ? -1 : r % SOURCES;
        second[r] = r % 3 == 0 ? -1 : (r * 7) % SOURCES;
    }
    for (int both = 0; both < 2; both++) {
        array y = make_output(ROWS * width, CAVMAE_FLOAT32);
        cavmae__combine op = {
            .rows = ROWS, .width = width, .x = x.data, .first = first, .second = both ? second : NULL, .y = y.data};
        CHECK_OK(backend->ops->combine(backend, &op));
        for (int32_t r = 0; r < ROWS; r++)
            for (int32_t j = 0; j < width; j++)
                y.value[r * width + j] = (first[r] < 0 ? 0 : x.value[first[r] * width + j]) +
                                         (!both || second[r] < 0 ? 0 : x.value[second[r] * width + j]);
        CHECK_ARRAY(&y, y.value, 1e-7);
        free_array(&y);
    }
    free_array(&x);
}

static void test_segment_mean(cavmae__backend *backend, int32_t width) {
    static const int32_t start[] = {0, 1, 50, 181, 184};
    const cavmae__segments segments = {.count = 4, .longest = 131, .start_host = start, .start = start};
    array x = make_input(184 * width, CAVMAE_FLOAT32, -1, 1), y = make_output(4 * width, CAVMAE_FLOAT32);
    array dy = make_input(4 * width, CAVMAE_FLOAT32, -1, 1), dx = make_output(184 * width, CAVMAE_FLOAT32);
    for (int32_t s = 0; s < 4; s++)
        for (int32_t r = start[s]; r < start[s + 1]; r++)
            for (int32_t j = 0; j < width; j++) {
                y.value[s * width + j] += x.value[r * width + j] / (start[s + 1] - start[s]);
                dx.value[r * width + j] = dy.value[s * width + j] / (start[s + 1] - start[s]);
            }
    cavmae__segment_mean op = {
        .width = width, .segments = segments, .x = x.data, .y = y.data, .dy = dy.data, .dx = dx.data};
    CHECK_OK(backend->ops->segment_mean(backend, &op));
    CHECK_OK(backend->ops->segment_mean_grad(backend, &op));
    CHECK_ARRAY(&y, y.value, 1e-6);
    CHECK_ARRAY(&dx, dx.value, 1e-7);
    array *arrays[] = {&x, &y, &dy, &dx};
    for (size_t i = 0; i < 4; i++) free_array(arrays[i]);
}

static void test_rows(cavmae__backend *backend) {
    static const int32_t widths[] = {4, 20, 40, 72};
    for (int i = 0; i < 4; i++) {
        test_place(backend, widths[i]);
        test_combine(backend, widths[i]);
        test_segment_mean(backend, widths[i]);
        test_table_grad(backend, widths[i], 9, 1, i % 2, i / 2);
        test_table_grad(backend, widths[i], 1, 1, i / 2, i % 2);
        test_table_grad(backend, widths[i], 1, 0, i % 2, i / 2);
    }
}

/* ---- Types ---- */

static void test_convert_of(cavmae__backend *backend, int32_t from, int32_t to, int64_t count) {
    array x = make_input(count, from, -3, 3), y = make_output(count, to);
    float special[] = {NAN, INFINITY, -INFINITY, -0.0f, 1.00390625f /* between two bfloat16: to even */};
    for (int64_t i = 0; i < 5 && i < count; i++) write_element(x.data, from, i, special[i]);
    if (from == CAVMAE_BFLOAT16 && count > 0) ((uint16_t *)x.data)[0] = 0x7FC1;
    const cavmae__convert op = {.count = count, .x_dtype = from, .y_dtype = to, .x = x.data, .y = y.data};
    CHECK_OK(backend->ops->convert(backend, &op));
    int good = 1;
    for (int64_t i = 0; i < count; i++) {
        const float element = read_element(x.data, from, i);
        float expected = element;
        uint16_t half;
        if (to == CAVMAE_BFLOAT16) {
            write_element(&half, to, 0, element);
            expected = read_element(&half, to, 0);
        }
        const float got = read_element(y.data, to, i);
        good = good && (isnan(element) ? isnan(got) : memcmp(&got, &expected, sizeof got) == 0);
    }
    CHECK(good);
    free_array(&x);
    free_array(&y);
}

static void test_convert(cavmae__backend *backend) {
    static const int64_t counts[] = {0, 1, 5, 16, 19, 1000, 100003};
    for (int i = 0; i < 7; i++) {
        test_convert_of(backend, CAVMAE_FLOAT32, CAVMAE_BFLOAT16, counts[i]);
        test_convert_of(backend, CAVMAE_BFLOAT16, CAVMAE_FLOAT32, counts[i]);
        test_convert_of(backend, CAVMAE_FLOAT32, CAVMAE_FLOAT32, counts[i]);
        test_convert_of(backend, CAVMAE_BFLOAT16, CAVMAE_BFLOAT16, counts[i]);
    }
}

/* ---- Threads ---- */

/* The results of sums over many rows, for any number of threads. */
static array thread_x, thread_dy, thread_gamma;

static array thread_results(cavmae__backend *backend) {
    enum { ROWS = 1000, WIDTH = 200, CLIPS = 20 };
    cavmae__limits limits = {.rows = ROWS, .width = WIDTH, .clips = CLIPS, .tokens = 1, .backward = 1};
    workspace w = make_workspace(backend, &limits);
    array all = make_output(ROWS * WIDTH + 3 * WIDTH + 2 * CLIPS * WIDTH + 6, CAVMAE_FLOAT32),
          mean = make_output(2 * ROWS, CAVMAE_FLOAT32);
    float *to = all.data, *rstd = (float *)mean.data + ROWS;
    double *scalars = aligned_alloc(64, 64);
    memset(scalars, 0, 64);
    cavmae__layernorm norm = {
        .width = WIDTH,
        .group_count = 1,
        .group = {{ROWS, thread_gamma.data, thread_gamma.data, to + ROWS * WIDTH, to + ROWS * WIDTH + WIDTH}},
        .eps = 1e-5f,
        .y_dtype = CAVMAE_FLOAT32,
        .x = thread_x.data,
        .y = to,
        .mean = mean.data,
        .rstd = rstd,
        .dy = thread_dy.data,
        .dx = to,
        .workspace = w.memory};
    CHECK_OK(backend->ops->layernorm(backend, &norm));
    CHECK_OK(backend->ops->layernorm_grad(backend, &norm));
    to += ROWS * WIDTH + 2 * WIDTH;
    cavmae__table_grad table = {
        .count = ROWS, .width = WIDTH, .table_rows = 1, .dy = thread_dy.data, .dtable = to, .workspace = w.memory};
    CHECK_OK(backend->ops->table_grad(backend, &table));
    to += WIDTH;
    cavmae__contrastive pairs = {.count = CLIPS,
                                 .total = CLIPS,
                                 .pairs = CLIPS,
                                 .width = WIDTH,
                                 .direction = 2,
                                 .temperature = 0.05,
                                 .weight = 1,
                                 .a = thread_x.data,
                                 .v = thread_dy.data,
                                 .da = to,
                                 .dv = to + CLIPS * WIDTH,
                                 .loss = scalars,
                                 .accuracy = scalars + 1,
                                 .workspace = w.memory};
    CHECK_OK(backend->ops->contrastive(backend, &pairs));
    const cavmae__sum_squares squares = {
        .count = ROWS * WIDTH, .x = thread_x.data, .sum = scalars + 2, .workspace = w.memory};
    CHECK_OK(backend->ops->sum_squares(backend, &squares));
    memcpy(to + 2 * CLIPS * WIDTH, scalars, 3 * sizeof(double));
    free(scalars);
    free_array(&mean);
    free_workspace(&w);
    return all;
}

static void test_threads(void) {
    thread_x = make_input(1000 * 200, CAVMAE_FLOAT32, -1, 1);
    thread_dy = make_input(1000 * 200, CAVMAE_FLOAT32, -1, 1);
    thread_gamma = make_input(200, CAVMAE_FLOAT32, -1, 1);
    for_each_thread_count(thread_results);
    free_array(&thread_x);
    free_array(&thread_dy);
    free_array(&thread_gamma);
}

static void test_context_backend(void) {
    cavmae_context *context = make_context(1);
    cavmae__backend *first, *second;
    void *memory;
    CHECK_OK(cavmae__context_backend(context, &first));
    CHECK_OK(cavmae__context_backend(context, &second));
    CHECK(first == second && first->context == context);
    CHECK(first->ops->struct_size == sizeof *first->ops);
    /* Every entry, but those that the host does itself. */
    const size_t none[] = {offsetof(cavmae__backend_ops, spectrogram),
                           offsetof(cavmae__backend_ops, pictures),
                           offsetof(cavmae__backend_ops, top_k),
                           offsetof(cavmae__backend_ops, spectrogram_workspace),
                           offsetof(cavmae__backend_ops, pictures_workspace),
                           offsetof(cavmae__backend_ops, top_k_workspace)};
    for (size_t at = offsetof(cavmae__backend_ops, alloc); at < sizeof *first->ops; at += sizeof(void *)) {
        void *entry;
        int may_be_none = 0;
        memcpy(&entry, (const char *)first->ops + at, sizeof entry);
        for (size_t i = 0; i < sizeof none / sizeof *none; i++) may_be_none |= at == none[i];
        CHECK(entry || may_be_none);
    }
    CHECK_OK(first->ops->alloc(first, 100, &memory));
    float numbers[] = {1, 2}, back[2];
    CHECK_OK(first->ops->upload(first, memory, numbers, sizeof numbers));
    CHECK_OK(first->ops->zero(first, memory, sizeof *numbers));
    CHECK_OK(first->ops->sync(first));
    CHECK_OK(first->ops->download(first, back, memory, sizeof back));
    CHECK(back[0] == 0 && back[1] == 2);
    first->ops->free(first, memory);
    cavmae_context_free(context);
}

int main(void) {
    test_context_backend();
    for_each_isa(test_norms);
    for_each_isa(test_rows);
    for_each_isa(test_convert);
    test_threads();
    return check_summary("ops");
}
