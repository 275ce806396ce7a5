/* Copies, sums and means of rows on the device against the CPU's: exact where at most two or three numbers meet. */
#include "compare.h"

static const int32_t widths[] = {1, 3, 4, 12, 20, 96, 516, 768};
enum { WIDTHS = sizeof widths / sizeof *widths };

static int32_t below(int64_t count) { return (int32_t)(next_random() % (uint32_t)count); }

/* Numbers in [0, count) in random order. */
static int32_t *shuffled(int32_t count) {
    int32_t *list = malloc((size_t)(count + 1) * sizeof *list);
    for (int32_t i = 0; i < count; i++) list[i] = i;
    for (int32_t i = count - 1; i > 0; i--) {
        const int32_t j = below(i + 1), kept = list[i];
        list[i] = list[j];
        list[j] = kept;
    }
    return list;
}

/* ---- Place ---- */

enum { SOURCE = 1, ROW = 2, TABLE = 4, VECTOR = 8, LEFT_OUT = 16, ALL = 31 };

static void check_place(both *b, int32_t count, int32_t width, int parts, int shift) {
    const int failed = check_failed;
    const int32_t rows = count + 5, table_rows = 7;
    int32_t *row = shuffled(rows), *source = shuffled(count), *position = shuffled(count);
    for (int32_t k = 0; k < count; k++) {
        if (k % 3 == 1) source[k] = -1;
        if (k % 5 == 2 && parts & LEFT_OUT) row[k] = -1;
        position[k] %= table_rows;
    }
    twin x = twin_input(b, (int64_t)count * width + shift, CAVMAE_FLOAT32, -1, 1);
    twin fill = twin_input(b, width, CAVMAE_FLOAT32, -1, 1), vector = twin_input(b, width, CAVMAE_FLOAT32, -1, 1);
    twin table = twin_input(b, (int64_t)table_rows * width, CAVMAE_FLOAT32, -1, 1);
    twin out = twin_output(b, (int64_t)rows * width, CAVMAE_FLOAT32);
    twin rows_of = twin_ints(b, rows, row), sources = twin_ints(b, count, source), at = twin_ints(b, count, position);
    const int in_place = !(parts & (SOURCE | ROW));
    for (int device = 0; device < 2; device++) {
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        cavmae__place op = {.count = count,
                            .width = width,
                            .x = (const float *)twin_at(&x, device) + shift,
                            .fill = parts & SOURCE ? twin_at(&fill, device) : NULL,
                            .table = parts & TABLE ? twin_at(&table, device) : NULL,
                            .vector = parts & VECTOR ? twin_at(&vector, device) : NULL,
                            .source = parts & SOURCE ? twin_at(&sources, device) : NULL,
                            .position = parts & TABLE ? twin_at(&at, device) : NULL,
                            .row = parts & ROW ? twin_at(&rows_of, device) : NULL,
                            .out = twin_at(&out, device)};
        if (in_place) op.out = (float *)twin_at(&x, device) + shift;
        CHECK_OK(backend->ops->place(backend, &op));
    }
    CHECK_TWIN_EXACT(b, &x);
    CHECK_TWIN_EXACT(b, &out); /* and what is in no list stays as it was */
    twin *twins[] = {&x, &fill, &vector, &table, &out, &rows_of, &sources, &at};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    free(row);
    free(source);
    free(position);
    if (check_failed > failed)
        printf("  %d rows of width %d, parts %d, shift %d\n", (int)count, (int)width, parts, shift);
}

static void test_place(both *b) {
    static const int32_t counts[] = {0, 1, 7, 8, 9, 33, 65};
    for (int w = 0; w < WIDTHS; w++) {
        check_place(b, 33, widths[w], ALL, 0);
        check_place(b, 9, widths[w], TABLE | VECTOR, 0);
        check_place(b, 9, widths[w], SOURCE, 1);
    }
    for (int i = 0; i < 7; i++) check_place(b, counts[i], 20, ALL, 0);
    for (int parts = 0; parts <= ALL; parts++) check_place(b, 17, 12, parts, 0);
}

/* ---- Combine ---- */

static void check_combine(both *b, int64_t rows, int32_t width, int second) {
    const int failed = check_failed;
    int32_t *lists[2];
    for (int i = 0; i < 2; i++) {
        lists[i] = malloc((size_t)(rows + 1) * sizeof **lists);
        for (int64_t r = 0; r < rows; r++) lists[i][r] = next_random() % 3 ? below(rows) : -1;
    }
    twin x = twin_input(b, rows * width, CAVMAE_FLOAT32, -1, 1), y = twin_output(b, rows * width, CAVMAE_FLOAT32);
    twin first = twin_ints(b, rows, lists[0]), other = twin_ints(b, rows, lists[1]);
    for (int device = 0; device < 2; device++) {
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__combine op = {.rows = rows,
                                    .width = width,
                                    .x = twin_at(&x, device),
                                    .first = twin_at(&first, device),
                                    .second = second ? twin_at(&other, device) : NULL,
                                    .y = twin_at(&y, device)};
        CHECK_OK(backend->ops->combine(backend, &op));
    }
    CHECK_TWIN_EXACT(b, &y);
    twin *twins[] = {&x, &y, &first, &other};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    for (int i = 0; i < 2; i++) free(lists[i]);
    if (check_failed > failed) printf("  %lld rows of width %d\n", (long long)rows, (int)width);
}

static void test_combine(both *b) {
    static const int64_t rows[] = {0, 1, 8, 31, 65};
    for (int w = 0; w < WIDTHS; w++)
        for (int second = 0; second < 2; second++) check_combine(b, rows[(w + 2 * second) % 5], widths[w], second);
}

/* ---- Means ---- */

/* Segments from `skipped` on: a stream's lie in the middle of the joint rows. */
static void check_means(both *b, int32_t count, const int32_t *lengths, int32_t skipped, int32_t width) {
    const int failed = check_failed;
    twin_segments s = make_segments(b, count, lengths);
    const int64_t rows = s.cpu.start_host[count];
    const cavmae__segments segments[2] = {
        {count - skipped, s.cpu.longest, s.cpu.start_host + skipped, s.cpu.start + skipped},
        {count - skipped, s.device.longest, s.device.start_host + skipped, s.device.start + skipped}};
    twin x = twin_input(b, rows * width, CAVMAE_FLOAT32, -1, 1);
    twin y = twin_output(b, (int64_t)(count - skipped) * width, CAVMAE_FLOAT32), y_again = twin_copy(b, &y);
    twin dy = twin_input(b, (int64_t)(count - skipped) * width, CAVMAE_FLOAT32, -1, 1);
    twin dx = twin_output(b, rows * width, CAVMAE_FLOAT32);
    for (int i = 0; i < 3; i++) {
        const int device = i > 0;
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__segment_mean op = {.width = width,
                                         .segments = segments[device],
                                         .x = twin_at(&x, device),
                                         .y = twin_at(i == 2 ? &y_again : &y, device),
                                         .dy = twin_at(&dy, device),
                                         .dx = twin_at(&dx, device)};
        CHECK_OK(backend->ops->segment_mean(backend, &op));
        CHECK_OK(backend->ops->segment_mean_grad(backend, &op));
    }
    CHECK_TWIN(b, &y, 2e-6);
    CHECK_DEVICE_SAME(b, &y, &y_again);
    CHECK_TWIN_EXACT(b, &dx);
    twin *twins[] = {&x, &y, &y_again, &dy, &dx};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    free_segments(b, &s);
    if (check_failed > failed) printf("  %d segments of width %d, %d skipped\n", (int)count, (int)width, (int)skipped);
}

static void test_means(both *b) {
    static const int32_t lengths[] = {1, 2, 7, 15, 16, 17, 49, 63, 64, 65, 128, 177, 196};
    for (int w = 0; w < WIDTHS; w++) check_means(b, w > 5 ? 8 : 13, lengths, w % 3, widths[w]);
    check_means(b, 2, (const int32_t[]){512, 708}, 1, 64);
    check_means(b, 1, (const int32_t[]){1}, 0, 4);
}

/* ---- Mix ---- */

static void check_mix(both *b, int32_t clips, int32_t pictures, int32_t parts, int32_t width, int without) {
    const int failed = check_failed;
    const int64_t rows = (int64_t)clips * pictures;
    twin weight = twin_input(b, parts * rows * 3, CAVMAE_FLOAT32, -1, 1);
    twin y = twin_output(b, rows * parts * width, CAVMAE_FLOAT32);
    twin dy = twin_input(b, rows * parts * width, CAVMAE_FLOAT32, -1, 1), x[3], dx[3];
    for (int s = 0; s < 3; s++) {
        x[s] = twin_input(b, (s == 1 ? clips : rows) * width, CAVMAE_FLOAT32, -1, 1);
        dx[s] = twin_output(b, rows * width, CAVMAE_FLOAT32);
    }
    /* What has no weight may be no number. */
    for (int64_t i = 0; i < parts; i++) ((float *)weight.cpu)[i * rows * 3] = 0;
    for (int32_t j = 0; j < width; j++) ((float *)x[0].cpu)[j] = NAN;
    twin_upload(b, &weight);
    twin_upload(b, &x[0]);
    for (int device = 0; device < 2; device++) {
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        cavmae__mix op = {.rows = rows,
                          .width = width,
                          .parts = parts,
                          .weight = twin_at(&weight, device),
                          .repeat = {1, pictures, 1},
                          .y = twin_at(&y, device),
                          .dy = twin_at(&dy, device)};
        for (int s = 0; s < 3; s++) {
            if (s == without) continue;
            op.x[s] = twin_at(&x[s], device);
            op.dx[s] = twin_at(&dx[s], device);
        }
        CHECK_OK(backend->ops->mix(backend, &op));
        for (int s = 0; s < 3; s++) op.repeat[s] = 1;
        CHECK_OK(backend->ops->mix_grad(backend, &op));
    }
    CHECK_TWIN(b, &y, 1e-6);
    for (int s = 0; s < 3; s++) {
        if (s == without)
            CHECK_TWIN_EXACT(b, &dx[s]);
        else
            CHECK_TWIN(b, &dx[s], 1e-6);
        twin_free(b, &x[s]);
        twin_free(b, &dx[s]);
    }
    twin *twins[] = {&weight, &y, &dy};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    if (check_failed > failed)
        printf("  %d clips of %d pictures, %d parts of width %d, without stream %d\n", (int)clips, (int)pictures,
               (int)parts, (int)width, without);
}

static void test_mix(both *b) {
    for (int w = 0; w < WIDTHS; w++)
        check_mix(b, 1 + w * 3, w % 2 ? 1 : 4, 1 + w % 2, widths[w], w % 4 == 0 ? 3 : w % 4 - 1);
}

/* ---- Types ---- */

/* past: elements before the arrays begin, so that addresses are not aligned. The CPU's bits, but for those of a NaN. */
static void test_convert_of(both *b, int32_t from, int32_t to, int64_t count, int64_t past) {
    const float special[] = {INFINITY, -INFINITY, -0.0f, 1.00390625f /* between two bfloat16: to even */,
                             3.4e38f,  1e-40f};
    twin x = twin_input(b, count + past, from, -3, 3), y = twin_output(b, count + past, to);
    for (int64_t i = 0; i < 6 && i < count; i++) write_element(x.cpu, from, past + i, special[i]);
    twin_upload(b, &x);
    for (int device = 0; device < 2; device++) {
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__convert op = {.count = count,
                                    .x_dtype = from,
                                    .y_dtype = to,
                                    .x = (char *)twin_at(&x, device) + (size_t)past * element_size(from),
                                    .y = (char *)twin_at(&y, device) + (size_t)past * element_size(to)};
        CHECK_OK(backend->ops->convert(backend, &op));
    }
    CHECK_TWIN_EXACT(b, &y);
    if (count > 0) {
        const cavmae__convert op = {.count = count, .x_dtype = from, .y_dtype = to, .x = x.device, .y = y.device};
        memset(x.cpu, 0xFF, element_size(from)); /* a NaN in either type */
        twin_upload(b, &x);
        CHECK_OK(b->cuda->ops->convert(b->cuda, &op));
        void *got = twin_download(b, &y);
        CHECK(isnan(read_element(got, to, 0)));
        free(got);
    }
    twin_free(b, &x);
    twin_free(b, &y);
}

static void test_convert(both *b) {
    static const int64_t counts[] = {0, 1, 7, 8, 9, 2048, 2055, 100003};
    for (int i = 0; i < 8; i++)
        for (int64_t past = 0; past < 2; past++) {
            test_convert_of(b, CAVMAE_FLOAT32, CAVMAE_BFLOAT16, counts[i], past);
            test_convert_of(b, CAVMAE_BFLOAT16, CAVMAE_FLOAT32, counts[i], past);
            test_convert_of(b, CAVMAE_FLOAT32, CAVMAE_FLOAT32, counts[i], past);
            test_convert_of(b, CAVMAE_BFLOAT16, CAVMAE_BFLOAT16, counts[i], past);
        }
}

int main(void) {
    both b;
    open_both(&b);
    test_place(&b);
    test_combine(&b);
    test_means(&b);
    test_mix(&b);
    test_convert(&b);
    close_both(&b);
    return check_summary("cuda rows_test");
}
