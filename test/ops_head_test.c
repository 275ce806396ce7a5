/* What a head is made of: sums of streams, and the losses of classes. */
#include "ops.h"

/* ---- Sums of streams ---- */

/* Row r of a stream is x[r / repeat]; the third stream is absent. */
static void test_mix_of(cavmae__backend *backend, int32_t rows, int32_t width, int32_t parts, int32_t repeat) {
    array x[2] = {make_input(rows / repeat * width, CAVMAE_FLOAT32, -1, 1),
                  make_input((int64_t)rows * width, CAVMAE_FLOAT32, -1, 1)};
    array weight = make_input(3 * (int64_t)parts * rows, CAVMAE_FLOAT32, -1, 1);
    array y = make_output((int64_t)rows * parts * width, CAVMAE_FLOAT32);
    const cavmae__mix op = {.rows = rows,
                            .width = width,
                            .parts = parts,
                            .weight = weight.data,
                            .x = {x[0].data, x[1].data, NULL},
                            .repeat = {repeat, 1, 0},
                            .y = y.data};
    int good = 1;
    CHECK_OK(backend->ops->mix(backend, &op));
    for (int32_t r = 0; r < rows; r++)
        for (int32_t part = 0; part < parts; part++)
            for (int32_t k = 0; k < width; k++) {
                const double *w = weight.value + (part * rows + r) * 3;
                double expected = w[0] * x[0].value[r / repeat * width + k] + w[1] * x[1].value[r * width + k];
                double got = (double)read_element(y.data, CAVMAE_FLOAT32, (r * parts + part) * width + k);
                good = good && fabs(got - expected) < 1e-6;
            }
    CHECK(good);
    free_array(&x[0]);
    free_array(&x[1]);
    free_array(&weight);
    free_array(&y);
}

static void test_mix_grad_of(cavmae__backend *backend, int32_t rows, int32_t width, int32_t parts) {
    array dy = make_input((int64_t)rows * parts * width, CAVMAE_FLOAT32, -1, 1);
    array weight = make_input(3 * (int64_t)parts * rows, CAVMAE_FLOAT32, -1, 1);
    array dx = make_output((int64_t)rows * width, CAVMAE_FLOAT32);
    const cavmae__mix op = {.rows = rows,
                            .width = width,
                            .parts = parts,
                            .weight = weight.data,
                            .dy = dy.data,
                            .dx = {NULL, NULL, dx.data}};
    int good = 1;
    CHECK_OK(backend->ops->mix_grad(backend, &op));
    for (int32_t r = 0; r < rows; r++)
        for (int32_t k = 0; k < width; k++) {
            double expected = 0;
            for (int32_t part = 0; part < parts; part++)
                expected += weight.value[(part * rows + r) * 3 + 2] * dy.value[(r * parts + part) * width + k];
            good = good && fabs((double)read_element(dx.data, CAVMAE_FLOAT32, r * width + k) - expected) < 1e-6;
        }
    CHECK(good);
    free_array(&dy);
    free_array(&weight);
    free_array(&dx);
}

static void test_mix(cavmae__backend *backend) {
    static const int32_t widths[] = {1, 15, 16, 67};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        test_mix_of(backend, 6, widths[i], 1, 3);
        test_mix_of(backend, 5, widths[i], 2, 1);
        test_mix_grad_of(backend, 5, widths[i], 1);
        test_mix_grad_of(backend, 5, widths[i], 2);
    }
}

/* ---- Losses of classes ---- */

static double loss_of(int32_t kind, int64_t rows, int32_t classes, const double *z, const double *y) {
    double total = 0;
    for (int64_t r = 0; r < rows; r++, z += classes, y += classes) {
        double sum = 0, most = z[0];
        for (int32_t k = 0; k < classes; k++) most = fmax(most, z[k]);
        for (int32_t k = 0; k < classes; k++) sum += exp(z[k] - most);
        for (int32_t k = 0; k < classes; k++)
            total += kind ? -y[k] * (z[k] - most - log(sum)) / (double)rows
                          : (fmax(z[k], 0) - z[k] * y[k] + log1p(exp(-fabs(z[k])))) / (double)(rows * classes);
    }
    return total;
}

static void test_class_loss_of(cavmae__backend *backend, int32_t kind, int32_t rows, int32_t classes, double range) {
    array z = make_input((int64_t)rows * classes, CAVMAE_FLOAT32, -range, range),
          y = make_input((int64_t)rows * classes, CAVMAE_FLOAT32, 0, 1),
          dz = make_output((int64_t)rows * classes, CAVMAE_FLOAT32);
    double loss = 0, accuracy = 0, hits = 0, room[64];
    const double total = rows;
    cavmae__class_loss op = {.rows = rows,
                             .classes = classes,
                             .kind = kind,
                             .logits = z.data,
                             .labels = y.data,
                             .total = &total,
                             .dlogits = dz.data,
                             .loss = &loss,
                             .accuracy = &accuracy,
                             .workspace = room};
    CHECK_OK(backend->ops->class_loss(backend, &op));
    double expected = loss_of(kind, rows, classes, z.value, y.value);
    CHECK_CLOSE(loss, expected, 1e-12 * (1 + expected));
    for (int32_t r = 0; r < rows; r++) {
        int32_t first = 0, best = 0;
        for (int32_t k = 1; k < classes; k++) {
            if (z.value[r * classes + k] > z.value[r * classes + first]) first = k;
            if (y.value[r * classes + k] > y.value[r * classes + best]) best = k;
        }
        hits += first == best;
    }
    CHECK(accuracy == hits / rows);
    int good = 1;
    for (int64_t i = 0; i < z.count; i++) {
        const double step = 1e-5, kept = z.value[i];
        z.value[i] = kept + step;
        double up = loss_of(kind, rows, classes, z.value, y.value);
        z.value[i] = kept - step;
        double down = loss_of(kind, rows, classes, z.value, y.value), slope = (up - down) / (2 * step);
        z.value[i] = kept;
        good = good && fabs((double)read_element(dz.data, CAVMAE_FLOAT32, i) - slope) <
                           1e-6 * (1 + fabs(slope)) + 1e-9 * expected;
    }
    CHECK(good);
    /* In three shares, the second of no rows: they add up, and gradients are the same. */
    array parts = make_output(z.count, CAVMAE_FLOAT32);
    const int32_t starts[] = {0, rows / 2, rows / 2, rows};
    for (int i = 0; i < 3; i++) {
        const int64_t first = (int64_t)starts[i] * classes;
        op.rows = starts[i + 1] - starts[i];
        op.logits = (float *)z.data + first;
        op.labels = (float *)y.data + first;
        op.dlogits = (float *)parts.data + first;
        CHECK_OK(backend->ops->class_loss(backend, &op));
    }
    CHECK_CLOSE(loss, 2 * expected, 1e-12 * (1 + expected));
    CHECK_CLOSE(accuracy, 2 * hits / rows, 1e-12);
    CHECK_SAME(&parts, &dz);
    free_array(&parts);
    free_array(&z);
    free_array(&y);
    free_array(&dz);
}

/* Where exponentials would overflow, and where there is a NaN. */
static void test_extremes(cavmae__backend *backend) {
    float z[3] = {1000, -1000, 0}, y[3] = {1, 0, 0}, dz[3];
    double loss = 0, accuracy = 0, room[8];
    const double total = 1;
    cavmae__class_loss op = {.rows = 1,
                             .classes = 3,
                             .logits = z,
                             .labels = y,
                             .total = &total,
                             .dlogits = dz,
                             .loss = &loss,
                             .accuracy = &accuracy,
                             .workspace = room};
    CHECK_OK(backend->ops->class_loss(backend, &op));
    CHECK_CLOSE(loss, log(2) / 3, 1e-12);
    op.kind = 1;
    loss = accuracy = 0;
    CHECK_OK(backend->ops->class_loss(backend, &op));
    CHECK_CLOSE(loss, 0, 1e-12);
    CHECK(accuracy == 1 && dz[0] == 0 && dz[1] == 0);
    z[1] = NAN;
    for (op.kind = 0; op.kind < 2; op.kind++) {
        loss = 0;
        CHECK_OK(backend->ops->class_loss(backend, &op));
        CHECK(isnan(loss));
    }
}

static void test_class_loss(cavmae__backend *backend) {
    for (int32_t kind = 0; kind < 2; kind++) {
        test_class_loss_of(backend, kind, 1, 1, 3);
        test_class_loss_of(backend, kind, 7, 13, 5);
        test_class_loss_of(backend, kind, 3, 527, 20);
    }
    test_extremes(backend);
}

int main(void) {
    for_each_isa(test_mix);
    for_each_isa(test_class_loss);
    return check_summary("ops_head");
}
