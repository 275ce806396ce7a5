/* The reconstruction loss and those of classes on the device against the CPU's, all of them in float64. */
#include "patch_inputs.h"

static double number_of(both *b, const twin *t) {
    double x = NAN;
    CHECK_OK(b->cuda->ops->download(b->cuda, &x, t->device, sizeof x));
    return x;
}

/* Within `tolerance` of the CPU's, or no number or infinite as that is. */
static void check_number(both *b, const twin *t, double tolerance, const char *text, const char *file, int line) {
    const double expected = *(const double *)t->cpu, got = number_of(b, t);
    if (isfinite(expected))
        check_close(got, expected, tolerance * (fabs(expected) + 1e-3), text, file, line);
    else
        check_true(isnan(expected) ? isnan(got) : got == expected, text, file, line);
}
#define CHECK_NUMBER(b, t, tolerance) check_number((b), (t), (tolerance), #t, __FILE__, __LINE__)

/* ---- Masked reconstruction ---- */

static void run_mae(both *b, const input *in, const cavmae__mae_loss *shape, const twin *mask, const twin *pred,
                    const twin *dpred, const twin *loss, const twin *removed, int device) {
    cavmae__backend *backend = device ? b->cuda : b->cpu;
    cavmae__mae_loss op = *shape;
    op.source = source_of(in, device);
    op.rows = in->tokens;
    op.clip = twin_at(&in->clip, device);
    op.token = twin_at(&in->token, device);
    op.mask = twin_at(mask, device);
    op.removed = twin_at(removed, device);
    op.pred = twin_at(pred, device);
    op.dpred = twin_at(dpred, device);
    op.loss = twin_at(loss, device);
    op.workspace = device ? b->cuda_workspace : b->cpu_workspace;
    CHECK_OK(backend->ops->mae_loss(backend, &op));
}

/* way: 0 without dpred, 1 with, 2 where pred is. */
static void check_mae(both *b, const input_shape *shape, int norm_pix, int way) {
    const int failed = check_failed;
    const double zero = 0;
    input in = make_input_clips(b, shape);
    const int64_t width = patch_width(shape), size = in.tokens * width;
    uint8_t *mask = malloc((size_t)in.tokens);
    const cavmae__mae_loss op = {.weight = 0.7, .norm_pix = norm_pix};
    double count = 100; /* that other ranks remove */
    for (int64_t r = 0; r < in.tokens; r++) count += mask[r] = next_random() % 4 != 0 || r == 0;
    /* A patch of one colour, as silence is: its deviation is the 1e-6. */
    for (int64_t i = 0; i < width; i++) ((float *)in.data.cpu)[shape->gap + i] = -1.2345f;
    twin_upload(b, &in.data);
    const cavmae__limits limits = {.rows = in.tokens, .width = (int32_t)width, .clips = 1, .tokens = 1, .backward = 1};
    twin masks = twin_bytes(b, in.tokens, mask), pred = twin_input(b, size, CAVMAE_FLOAT32, -2, 2);
    twin dpred = twin_output(b, size, CAVMAE_FLOAT32), again = twin_copy(b, way == 2 ? &pred : &dpred);
    twin loss = twin_doubles(b, 1, &zero), loss_again = twin_doubles(b, 1, &zero), removed = twin_doubles(b, 1, &count);
    both_workspace(b, &limits);
    for (int device = 0; device < 2; device++)
        run_mae(b, &in, &op, &masks, &pred, way == 0 ? NULL : way == 1 ? &dpred : &pred, &loss, &removed, device);
    CHECK_NUMBER(b, &loss, 1e-12);
    CHECK_TWIN(b, &pred, 1e-7);
    if (way == 1)
        CHECK_TWIN(b, &dpred, 1e-7);
    else
        CHECK_TWIN_EXACT(b, &dpred);
    both_workspace(b, &limits);
    run_mae(b, &in, &op, &masks, way == 2 ? &again : &pred, way == 0 ? NULL : &again, &loss_again, &removed, 1);
    CHECK_DEVICE_SAME(b, &loss, &loss_again);
    if (way) CHECK_DEVICE_SAME(b, &again, way == 1 ? &dpred : &pred);
    /* What it gives is added; of no rows it is nothing. */
    input nothing = in;
    nothing.tokens = 0;
    run_mae(b, &nothing, &op, &masks, &pred, NULL, &loss_again, &removed, 1);
    CHECK_DEVICE_SAME(b, &loss, &loss_again);
    if (way < 2) {
        run_mae(b, &in, &op, &masks, &pred, NULL, &loss_again, &removed, 1);
        CHECK(number_of(b, &loss_again) == 2 * number_of(b, &loss));
    }
    twin *twins[] = {&masks, &pred, &dpred, &again, &loss, &loss_again, &removed};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    free_input_clips(b, &in);
    free(mask);
    if (check_failed > failed) {
        print_input(shape);
        printf("  norm_pix %d, way %d\n", norm_pix, way);
    }
}

static void test_mae(both *b) {
    for (int i = 0; i < INPUT_SHAPES; i++)
        for (int norm_pix = 0; norm_pix < 2; norm_pix++) {
            if (norm_pix && patch_width(&input_shapes[i]) == 1) continue;
            check_mae(b, &input_shapes[i], norm_pix, (i + norm_pix) % 3);
        }
    /* More blocks than the kernel that adds them has threads. */
    check_mae(b, &(input_shape){.clips = 40, .rows = 11, .patch = 4, .channels = 1, .sound = 1}, 1, 1);
}

/* ---- Classes ---- */

enum { PLAIN, LARGE, EQUAL, NAN_FIRST, NAN_LATER, INFINITE, NEGATIVE_INFINITE, VALUES };

static void check_classes(both *b, int64_t rows, int32_t classes, int32_t kind, int values, int with_gradient) {
    const int failed = check_failed;
    const double zero = 0;
    const int64_t size = rows * classes;
    const cavmae__limits limits = {.rows = rows, .width = classes, .clips = (int32_t)rows, .tokens = 1, .backward = 1};
    twin logits = twin_input(b, size, CAVMAE_FLOAT32, values == LARGE ? -1e4 : -5, values == LARGE ? 1e4 : 5);
    twin labels = twin_input(b, size, CAVMAE_FLOAT32, 0, 1), dlogits = twin_output(b, size, CAVMAE_FLOAT32);
    float *z = logits.cpu, *y = labels.cpu;
    for (int64_t i = 0; i < size; i++) {
        if (next_random() % 2) y[i] = 0;
        if (values == EQUAL) z[i] = (float)(next_random() % 2), y[i] = (float)(next_random() % 2);
    }
    const int64_t last = size - 1;
    if (values == NAN_FIRST) z[0] = y[last - last % classes] = NAN;
    if (values == NAN_LATER) { /* where no label asks for it */
        z[last] = NAN;
        for (int32_t k = 0; k < classes; k++) y[last - k] = 0;
    }
    if (values == INFINITE) z[last] = INFINITY;
    if (values == NEGATIVE_INFINITE)
        for (int32_t k = 0; k < classes; k++) z[k] = -INFINITY;
    twin_upload(b, &logits);
    twin_upload(b, &labels);
    const double all_rows = (double)rows + 10; /* with those of other ranks */
    twin again = twin_copy(b, &dlogits), total = twin_doubles(b, 1, &all_rows);
    twin loss = twin_doubles(b, 1, &zero), accuracy = twin_doubles(b, 1, &zero);
    both_workspace(b, &limits);
    /* Twice on each side, so that it adds; in between a call of no rows. */
    for (int i = 0; i < 6; i++) {
        const int device = i > 2, no_rows = i % 3 == 1;
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__class_loss op = {.rows = no_rows ? 0 : rows,
                                       .classes = classes,
                                       .kind = kind,
                                       .logits = twin_at(&logits, device),
                                       .labels = twin_at(&labels, device),
                                       .total = twin_at(&total, device),
                                       .dlogits = with_gradient ? twin_at(i == 5 ? &again : &dlogits, device) : NULL,
                                       .loss = twin_at(&loss, device),
                                       .accuracy = twin_at(&accuracy, device),
                                       .workspace = device ? b->cuda_workspace : b->cpu_workspace};
        CHECK_OK(backend->ops->class_loss(backend, &op));
    }
    CHECK_NUMBER(b, &loss, 1e-12);
    CHECK_NUMBER(b, &accuracy, 1e-12);
    CHECK_DEVICE_SAME(b, &dlogits, &again);
    if (!with_gradient)
        CHECK_TWIN_EXACT(b, &dlogits);
    else if (values <= EQUAL)
        CHECK_TWIN(b, &dlogits, 1e-7);
    else {
        float *got = twin_download(b, &dlogits);
        for (int64_t i = 0; i < size; i++) {
            const float expected = ((float *)dlogits.cpu)[i];
            CHECK(isnan(expected) ? isnan(got[i]) : fabsf(got[i] - expected) <= 1e-6f * fabsf(expected) + 1e-30f);
        }
        free(got);
    }
    twin *twins[] = {&logits, &labels, &total, &dlogits, &again, &loss, &accuracy};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    if (check_failed > failed)
        printf("  %lld rows of %d classes, kind %d, values %d, gradient %d\n", (long long)rows, (int)classes, (int)kind,
               values, with_gradient);
}

static void test_classes(both *b) {
    static const int32_t classes[] = {1, 2, 31, 33, 256, 257, 527, 8191, 8192, 20000};
    static const int64_t rows[] = {1, 7, 33, 300};
    for (int32_t kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 10; i++) check_classes(b, rows[i > 6 ? i % 2 : i % 4], classes[i], kind, i % 3, i % 4 != 3);
        for (int values = PLAIN; values < VALUES; values++) {
            check_classes(b, 3, 40, kind, values, 1);
            check_classes(b, 1, 300, kind, values, 1);
        }
    }
    check_classes(b, 1, 1 << 20, 0, PLAIN, 1);
    check_classes(b, 1, 1 << 20, 1, PLAIN, 1);
}

int main(void) {
    both b;
    open_both(&b);
    test_mae(&b);
    test_classes(&b);
    close_both(&b);
    return check_summary("cuda losses_test");
}
