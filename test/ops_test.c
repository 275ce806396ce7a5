/* The operations on rows, losses and the optimizer. Linear layers and attention have tests of their own. */
#include "ops.h"
#include "philox.h"

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

/* ---- Patches and the reconstruction loss ---- */

/* Two clips: sound of another number of frames each ([frames, bins], so rows are bins), or pictures. */
typedef struct patch_case {
    cavmae__patch_source source;
    int64_t offset[2];
    int32_t columns[2], rows[2], count;
    int32_t clip[64], token[64];
    array data;
} patch_case;

static void make_sound(patch_case *c, int32_t patch) {
    *c = (patch_case){.offset = {5, 0}, .columns = {3, 2}, .rows = {2, 2}};
    const int64_t bins = 2 * patch;
    c->offset[1] = 5 + 3 * patch * bins;
    c->data = make_input(c->offset[1] + 2 * patch * bins, CAVMAE_FLOAT32, -1, 1);
    c->source = (cavmae__patch_source){
        .channel_stride = 0, .row_stride = 1, .column_stride = bins, .channels = 1, .patch = patch};
}

static void make_pictures(patch_case *c, int32_t patch) {
    *c = (patch_case){.columns = {3, 3}, .rows = {2, 2}};
    const int64_t wide = 3 * patch, high = 2 * patch;
    c->offset[1] = 3 * wide * high;
    c->data = make_input(2 * 3 * wide * high, CAVMAE_FLOAT32, -1, 1);
    c->source = (cavmae__patch_source){
        .channel_stride = wide * high, .row_stride = wide, .column_stride = 1, .channels = 3, .patch = patch};
}

/* Every token, the last first. */
static void list_tokens(patch_case *c) {
    c->source.data = c->data.data;
    c->source.offset = c->offset;
    c->source.columns = c->columns;
    for (int32_t clip = 1; clip >= 0; clip--)
        for (int32_t t = c->rows[clip] * c->columns[clip] - 1; t >= 0; t--) {
            c->clip[c->count] = clip;
            c->token[c->count++] = t;
        }
}

static double pixel(const patch_case *c, int32_t k, int32_t channel, int32_t y, int32_t x) {
    const cavmae__patch_source *s = &c->source;
    int32_t columns = c->columns[c->clip[k]];
    int64_t row = (int64_t)(c->token[k] / columns) * s->patch + y,
            column = (int64_t)(c->token[k] % columns) * s->patch + x;
    return c->data
        .value[c->offset[c->clip[k]] + channel * s->channel_stride + row * s->row_stride + column * s->column_stride];
}

static void test_patches_of(cavmae__backend *backend, const patch_case *c, int32_t dtype) {
    const int32_t patch = c->source.patch, channels = c->source.channels;
    array y = make_output((int64_t)c->count * channels * patch * patch, dtype);
    cavmae__patches op = {
        .source = c->source, .rows = c->count, .clip = c->clip, .token = c->token, .y_dtype = dtype, .y = y.data};
    CHECK_OK(backend->ops->patches(backend, &op));
    double *expected = calloc((size_t)y.count, sizeof *expected), *to = expected;
    for (int32_t k = 0; k < c->count; k++)
        for (int32_t channel = 0; channel < channels; channel++)
            for (int32_t i = 0; i < patch * patch; i++) *to++ = pixel(c, k, channel, i / patch, i % patch);
    CHECK_ARRAY(&y, expected, dtype == CAVMAE_FLOAT32 ? 0 : 4e-3);
    free(expected);
    free_array(&y);
}

typedef struct loss_case {
    patch_case *patches;
    array pred;
    uint8_t mask[64];
    int64_t removed;
    int32_t norm_pix;
    double weight;
} loss_case;

static double mae_reference(const loss_case *c) {
    const int32_t patch = c->patches->source.patch, channels = c->patches->source.channels,
                  width = patch * patch * channels;
    double total = 0, *target = calloc((size_t)width, sizeof *target);
    for (int32_t k = 0; k < c->patches->count; k++) {
        double mean = 0, square = 0, *to = target;
        if (!c->mask[k]) continue;
        for (int32_t i = 0; i < patch * patch; i++)
            for (int32_t channel = 0; channel < channels; channel++)
                *to++ = pixel(c->patches, k, channel, i / patch, i % patch);
        for (int32_t j = 0; j < width; j++) mean += target[j] / width;
        for (int32_t j = 0; j < width; j++) square += (target[j] - mean) * (target[j] - mean) / (width - 1);
        for (int32_t j = 0; j < width; j++) {
            double t = c->norm_pix ? (target[j] - mean) / sqrt(square + 1e-6) : target[j];
            total += (c->pred.value[k * width + j] - t) * (c->pred.value[k * width + j] - t) / width;
        }
    }
    free(target);
    return total / (double)c->removed;
}

static double mae_loss(void *arg) { return ((loss_case *)arg)->weight * mae_reference(arg); }

static void test_loss_of(cavmae__backend *backend, patch_case *patches, int32_t norm_pix) {
    const int32_t width = patches->source.patch * patches->source.patch * patches->source.channels;
    loss_case c = {.patches = patches, .norm_pix = norm_pix, .weight = 0.7};
    cavmae__limits limits = {.rows = patches->count, .width = width, .clips = 2, .tokens = 1, .backward = 1};
    workspace w = make_workspace(backend, &limits);
    c.pred = make_input((int64_t)patches->count * width, CAVMAE_FLOAT32, -1, 1);
    for (int32_t k = 0; k < patches->count; k++) c.removed += c.mask[k] = k % 3 != 1;
    double loss = NAN, again = NAN;
    array dpred = make_output(c.pred.count, CAVMAE_FLOAT32);
    cavmae__mae_loss op = {.source = patches->source,
                           .rows = patches->count,
                           .clip = patches->clip,
                           .token = patches->token,
                           .mask = c.mask,
                           .removed = c.removed,
                           .pred = c.pred.data,
                           .weight = c.weight,
                           .norm_pix = norm_pix,
                           .loss = &loss,
                           .workspace = w.memory};
    CHECK_OK(backend->ops->mae_loss(backend, &op));
    CHECK_CLOSE(loss, mae_reference(&c), 1e-12);
    memcpy(dpred.data, c.pred.data, (size_t)dpred.count * sizeof(float));
    op.pred = op.dpred = dpred.data;
    op.loss = &again;
    CHECK_OK(backend->ops->mae_loss(backend, &op));
    CHECK(again == loss);
    CHECK_GRADIENT(&dpred, c.pred.value, mae_loss, &c, 1e-6);
    free_array(&dpred);
    free_array(&c.pred);
    free_workspace(&w);
}

static void test_patches(cavmae__backend *backend) {
    for (int32_t patch = 3; patch <= 16; patch += 13)
        for (int pictures = 0; pictures < 2; pictures++) {
            patch_case c;
            if (pictures)
                make_pictures(&c, patch);
            else
                make_sound(&c, patch);
            list_tokens(&c);
            test_patches_of(backend, &c, CAVMAE_FLOAT32);
            test_patches_of(backend, &c, CAVMAE_BFLOAT16);
            test_loss_of(backend, &c, 0);
            test_loss_of(backend, &c, 1);
            free_array(&c.data);
        }
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

/* ---- The contrastive loss ---- */

typedef struct pair_case {
    int32_t count, width, direction;
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

static double pair_reference(void *arg) {
    pair_case *c = arg;
    const int32_t n = c->count, width = c->width;
    double *s = calloc((size_t)(n * n), sizeof *s), loss[2] = {0}, hits[2] = {0};
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) {
            double dot = 0, a = 0, v = 0;
            for (int32_t l = 0; l < width; l++) {
                dot += c->a.value[i * width + l] * c->v.value[j * width + l];
                a += c->a.value[i * width + l] * c->a.value[i * width + l];
                v += c->v.value[j * width + l] * c->v.value[j * width + l];
            }
            s[i * n + j] = dot / sqrt(a) / sqrt(v) / c->temperature;
        }
    for (int32_t i = 0; i < n; i++) {
        double hit;
        loss[0] += cross_entropy(s + i, n, n, i, &hit) / n;
        hits[0] += hit / n;
        loss[1] += cross_entropy(s + i * n, n, 1, i, &hit) / n;
        hits[1] += hit / n;
    }
    free(s);
    c->accuracy = c->direction == 2 ? (hits[0] + hits[1]) / 2 : hits[c->direction];
    return c->weight * (c->direction == 2 ? (loss[0] + loss[1]) / 2 : loss[c->direction]);
}

static void test_contrastive_of(cavmae__backend *backend, int32_t count, int32_t width, int32_t direction) {
    pair_case c = {.count = count, .width = width, .direction = direction, .temperature = 0.05, .weight = 0.01};
    cavmae__limits limits = {.rows = 1, .width = width, .clips = count, .tokens = 1, .backward = 1};
    workspace w = make_workspace(backend, &limits);
    c.a = make_input((int64_t)count * width, CAVMAE_FLOAT32, -1, 1);
    c.v = make_input((int64_t)count * width, CAVMAE_FLOAT32, -1, 1);
    for (int64_t i = 0; i < c.v.count; i += 2) { /* so that some pairs match */
        c.v.value[i] = c.a.value[i];
        write_element(c.v.data, CAVMAE_FLOAT32, i, (float)c.a.value[i]);
    }
    array da = make_output(c.a.count, CAVMAE_FLOAT32), dv = make_output(c.a.count, CAVMAE_FLOAT32);
    double loss = NAN, accuracy = NAN;
    cavmae__contrastive op = {.count = count,
                              .width = width,
                              .direction = direction,
                              .temperature = c.temperature,
                              .weight = c.weight,
                              .a = c.a.data,
                              .v = c.v.data,
                              .loss = &loss,
                              .accuracy = &accuracy,
                              .workspace = w.memory};
    double expected = pair_reference(&c) / c.weight;
    CHECK_OK(backend->ops->contrastive(backend, &op));
    CHECK_CLOSE(loss, expected, 1e-10 * expected + 1e-15);
    CHECK_CLOSE(accuracy, c.accuracy, 1e-12);
    op.da = da.data;
    op.dv = dv.data;
    CHECK_OK(backend->ops->contrastive(backend, &op));
    CHECK_GRADIENT(&da, c.a.value, pair_reference, &c, 1e-5);
    CHECK_GRADIENT(&dv, c.v.value, pair_reference, &c, 1e-5);
    array *arrays[] = {&c.a, &c.v, &da, &dv};
    for (size_t i = 0; i < 4; i++) free_array(arrays[i]);
    free_workspace(&w);
}

static void test_contrastive(cavmae__backend *backend) {
    for (int32_t direction = 0; direction < 3; direction++) {
        test_contrastive_of(backend, 1, 8, direction);
        test_contrastive_of(backend, 5, 20, direction);
        test_contrastive_of(backend, 33, 40, direction);
    }
}

/* Equal scores: only the first of them is right. */
static void test_contrastive_ties(cavmae__backend *backend) {
    enum { COUNT = 4, WIDTH = 8 };
    float x[COUNT * WIDTH];
    double loss, accuracy;
    cavmae__limits limits = {.rows = 1, .width = WIDTH, .clips = COUNT, .tokens = 1};
    workspace w = make_workspace(backend, &limits);
    for (int i = 0; i < COUNT * WIDTH; i++) x[i] = 1;
    cavmae__contrastive op = {.count = COUNT,
                              .width = WIDTH,
                              .temperature = 1,
                              .weight = 1,
                              .a = x,
                              .v = x,
                              .loss = &loss,
                              .accuracy = &accuracy,
                              .workspace = w.memory};
    CHECK_OK(backend->ops->contrastive(backend, &op));
    CHECK_CLOSE(loss, log(COUNT), 1e-12);
    CHECK_CLOSE(accuracy, 0.25, 0);
    free_workspace(&w);
}

/* ---- Optimizer ---- */

static void test_adam_of(cavmae__backend *backend, int64_t count, int32_t decoupled, double scale) {
    const double lr = 1e-2, beta1 = 0.95, beta2 = 0.999, eps = 1e-8, decay = 5e-2;
    array p = make_input(count, CAVMAE_FLOAT32, -1, 1), m = make_input(count, CAVMAE_FLOAT32, 0, 0),
          v = make_input(count, CAVMAE_FLOAT32, 0, 0);
    for (int64_t update = 1; update <= 3; update++) {
        array grad = make_input(count, CAVMAE_FLOAT32, -1, 1);
        cavmae__adam op = {.count = count,
                           .update = update,
                           .p = p.data,
                           .m = m.data,
                           .v = v.data,
                           .grad = grad.data,
                           .lr = lr,
                           .beta1 = beta1,
                           .beta2 = beta2,
                           .eps = eps,
                           .weight_decay = decay,
                           .grad_scale = scale,
                           .decoupled = decoupled};
        CHECK_OK(backend->ops->adam(backend, &op));
        for (int64_t i = 0; i < count; i++) {
            double g = grad.value[i] * scale + (decoupled ? 0 : decay * p.value[i]);
            if (decoupled) p.value[i] *= 1 - lr * decay;
            m.value[i] = beta1 * m.value[i] + (1 - beta1) * g;
            v.value[i] = beta2 * v.value[i] + (1 - beta2) * g * g;
            p.value[i] -= lr / (1 - pow(beta1, (double)update)) * m.value[i] /
                          (sqrt(v.value[i]) / sqrt(1 - pow(beta2, (double)update)) + eps);
        }
        free_array(&grad);
    }
    CHECK_ARRAY(&p, p.value, 3e-7);
    CHECK_ARRAY(&m, m.value, 3e-7);
    CHECK_ARRAY(&v, v.value, 1e-6);
    free_array(&p);
    free_array(&m);
    free_array(&v);
}

static void test_sum_squares_of(cavmae__backend *backend, int64_t count) {
    array x = make_input(count, CAVMAE_FLOAT32, -1, 1);
    cavmae__limits limits = {.rows = 1, .width = 1, .clips = 1, .tokens = 1};
    workspace w = make_workspace(backend, &limits);
    double expected = 0, sum = NAN;
    for (int64_t i = 0; i < count; i++) expected += x.value[i] * x.value[i];
    CHECK_OK(backend->ops->sum_squares(backend, x.data, count, &sum, w.memory));
    CHECK_CLOSE(sum, expected, 1e-12 * expected);
    if (count > 0) {
        ((float *)x.data)[count / 2] = 1e30f; /* its square is no float32 */
        CHECK_OK(backend->ops->sum_squares(backend, x.data, count, &sum, w.memory));
        CHECK_CLOSE(sum / 1e60, 1, 1e-6);
        ((float *)x.data)[count - 1] = NAN;
        CHECK_OK(backend->ops->sum_squares(backend, x.data, count, &sum, w.memory));
        CHECK(isnan(sum));
        ((float *)x.data)[count - 1] = -INFINITY;
        CHECK_OK(backend->ops->sum_squares(backend, x.data, count, &sum, w.memory));
        CHECK(isinf(sum));
    }
    free_array(&x);
    free_workspace(&w);
}

static void test_optimizer(cavmae__backend *backend) {
    static const int64_t counts[] = {1, 19, 1000, 70001};
    for (int i = 0; i < 4; i++) {
        test_adam_of(backend, counts[i], i % 2, i < 2 ? 1 : 0.25);
        test_sum_squares_of(backend, counts[i]);
    }
    test_sum_squares_of(backend, 0);
    test_sum_squares_of(backend, 5000001);
}

/* ---- Masks ---- */

static int64_t count_removed(const uint8_t *mask, int64_t tokens) {
    int64_t removed = 0;
    for (int64_t t = 0; t < tokens; t++) removed += mask[t];
    return removed;
}

/* The definition, by counting how many come before each token. */
static void check_unstructured(const cavmae__draw_masks *op, int64_t clip) {
    const int64_t tokens = (int64_t)op->rows * op->columns;
    const cavmae__philox stream = cavmae__philox_key(op->seed, op->purpose, op->step, (uint64_t)clip);
    int same = 1;
    for (int64_t t = 0; t < tokens; t++) {
        float noise = cavmae__philox_uniform(&stream, (uint64_t)t);
        int64_t before = 0;
        for (int64_t u = 0; u < tokens; u++) {
            float other = cavmae__philox_uniform(&stream, (uint64_t)u);
            before += other < noise || (other == noise && u < t);
        }
        same &= op->mask[clip * tokens + t] == (before >= op->keep);
    }
    CHECK(same);
}

static void test_unstructured(cavmae__backend *backend) {
    enum { CLIPS = 1000, ROWS = 8, COLUMNS = 13, TOKENS = ROWS * COLUMNS, KEEP = 26 };
    uint8_t *mask = malloc(CLIPS * TOKENS);
    cavmae__limits limits = {.rows = 1, .width = 1, .clips = CLIPS, .tokens = TOKENS};
    limits.clips = 1;
    workspace w = make_workspace(backend, &limits);
    cavmae__draw_masks op = {.seed = 7,
                             .step = 3,
                             .purpose = CAVMAE__PURPOSE_MASK_A,
                             .clips = CLIPS,
                             .rows = ROWS,
                             .columns = COLUMNS,
                             .keep = KEEP,
                             .ratio = 0.75,
                             .mask = mask,
                             .workspace = w.memory};
    CHECK_OK(backend->ops->draw_masks(backend, &op));
    double deviation = 0;
    int counts = 1;
    for (int64_t clip = 0; clip < CLIPS; clip++) counts &= count_removed(mask + clip * TOKENS, TOKENS) == TOKENS - KEEP;
    CHECK(counts);
    for (int t = 0; t < TOKENS;
         t++) { /* each token is removed in three quarters of the clips, +- 6 standard deviations */
        double removed = 0;
        for (int64_t clip = 0; clip < CLIPS; clip++) removed += mask[clip * TOKENS + t];
        deviation = fmax(deviation, fabs(removed - 0.75 * CLIPS));
    }
    CHECK(deviation < 6 * sqrt(CLIPS * 0.75 * 0.25));
    for (int64_t clip = 0; clip < 3; clip++) check_unstructured(&op, clip);
    op.keep = 0;
    CHECK_OK(backend->ops->draw_masks(backend, &op));
    CHECK(count_removed(mask, TOKENS) == TOKENS);
    op.keep = TOKENS;
    CHECK_OK(backend->ops->draw_masks(backend, &op));
    CHECK(count_removed(mask, TOKENS) == 0);
    free(mask);
    free_workspace(&w);
}

/* With 200,000 tokens and 24 bits, there are about a thousand ties: the smaller token stays. */
static void test_ties(cavmae__backend *backend) {
    enum { TOKENS = 200000 };
    uint8_t *mask = malloc(TOKENS);
    const cavmae__philox stream = cavmae__philox_key(1, CAVMAE__PURPOSE_MASK_JOINT, 0, 0);
    cavmae__limits limits = {.rows = 1, .width = 1, .clips = 1, .tokens = TOKENS};
    workspace w = make_workspace(backend, &limits);
    cavmae__draw_masks op = {.seed = 1,
                             .purpose = CAVMAE__PURPOSE_MASK_JOINT,
                             .clips = 1,
                             .rows = 1,
                             .columns = TOKENS,
                             .keep = TOKENS / 4,
                             .ratio = 0.75,
                             .mask = mask,
                             .workspace = w.memory};
    CHECK_OK(backend->ops->draw_masks(backend, &op));
    CHECK(count_removed(mask, TOKENS) == TOKENS - TOKENS / 4);
    float last_kept = 0, first_removed = 1;
    for (int64_t t = 0; t < TOKENS; t++) {
        float noise = cavmae__philox_uniform(&stream, (uint64_t)t);
        if (mask[t])
            first_removed = noise < first_removed ? noise : first_removed;
        else
            last_kept = noise > last_kept ? noise : last_kept;
    }
    CHECK(last_kept <= first_removed);
    free(mask);
    free_workspace(&w);
}

static void test_structured(cavmae__backend *backend) {
    enum { CLIPS = 40, ROWS = 8, COLUMNS = 64, TOKENS = ROWS * COLUMNS };
    static uint8_t mask[CLIPS * TOKENS];
    cavmae__limits limits = {.rows = 1, .width = 1, .clips = CLIPS, .tokens = TOKENS};
    workspace w = make_workspace(backend, &limits);
    int chosen[COLUMNS] = {0};
    for (int32_t mode = 1; mode <= 3; mode++) {
        cavmae__draw_masks op = {.seed = 5,
                                 .purpose = CAVMAE__PURPOSE_MASK_V,
                                 .mode = mode,
                                 .clips = CLIPS,
                                 .rows = ROWS,
                                 .columns = COLUMNS,
                                 .keep = TOKENS / 4,
                                 .ratio = 0.75,
                                 .mask = mask,
                                 .workspace = w.memory};
        /* (int)(64 * 0.525) = 33 columns and (int)(8 * 0.525) = 4 rows are dropped: 31 x 4 tokens stay, and some more */
        if (mode == 3) op.keep = 31 * 5;
        CHECK_OK(backend->ops->draw_masks(backend, &op));
        for (int clip = 0; clip < CLIPS; clip++) {
            const uint8_t *m = mask + clip * TOKENS;
            int full_columns = 0, full_rows = 0;
            for (int c = 0; c < COLUMNS; c++) {
                int removed = 0;
                for (int r = 0; r < ROWS; r++) removed += m[r * COLUMNS + c];
                full_columns += removed == ROWS;
                if (mode == 1) chosen[c] += removed == ROWS;
            }
            for (int r = 0; r < ROWS; r++) full_rows += count_removed(m + r * COLUMNS, COLUMNS) == COLUMNS;
            CHECK(count_removed(m, TOKENS) == TOKENS - op.keep);
            if (mode == 1) CHECK(full_columns == 48);
            if (mode == 2) CHECK(full_rows == 6);
            if (mode == 3) { /* the 31 x 4 tokens outside all lines stay */
                int whole = 0;
                for (int c = 0; c < COLUMNS; c++) {
                    int kept = 0;
                    for (int r = 0; r < ROWS; r++) kept += !m[r * COLUMNS + c];
                    whole += kept >= 4;
                }
                CHECK(whole >= 31);
            }
        }
    }
    for (int c = 0; c < COLUMNS; c++) CHECK(chosen[c] > 10 && chosen[c] <= CLIPS);
    free_workspace(&w);
}

static void test_index_tokens(cavmae__backend *backend) {
    static const int32_t tokens[] = {0, 3, 8, 9}, visible[] = {0, 1, 4, 4};
    static const uint8_t mask[] = {1, 0, 1, 0, 0, 1, 1, 0, 1};
    static const int32_t clips[] = {0, 1, 1, 1}, places[] = {1, 0, 1, 4}, rows[] = {-1, 0, -1, 1, 2, -1, -1, 3, -1};
    static const int32_t columns[] = {1, 2, 1}; /* positions: of tokens 1; 0, 1, 4 of a grid 2 wide in one 7 wide */
    static const int32_t positions[] = {7, 0, 1, 14}, removed[] = {0, -1, 0, -1, -1, 0, 0, -1, 0};
    int32_t clip[9], token[9], row[9], position[9], token_removed[9];
    cavmae__index_tokens op = {.tokens = {.count = 3, .longest = 5, .start_host = tokens, .start = tokens},
                               .visible = {.count = 3, .longest = 3, .start_host = visible, .start = visible},
                               .mask = mask,
                               .columns = columns,
                               .table_columns = 7,
                               .visible_clip = clip,
                               .visible_token = token,
                               .visible_position = position,
                               .token_row = row,
                               .token_removed = token_removed};
    CHECK_OK(backend->ops->index_tokens(backend, &op));
    CHECK(memcmp(clip, clips, sizeof clips) == 0);
    CHECK(memcmp(token, places, sizeof places) == 0);
    CHECK(memcmp(row, rows, sizeof rows) == 0);
    CHECK(memcmp(position, positions, sizeof positions) == 0);
    CHECK(memcmp(token_removed, removed, sizeof removed) == 0);
    op.mask = NULL;
    op.visible = op.tokens;
    CHECK_OK(backend->ops->index_tokens(backend, &op));
    for (int32_t t = 0; t < 9; t++) CHECK(row[t] == t);
    CHECK(clip[7] == 1 && token[7] == 4 && clip[8] == 2 && token[8] == 0);
}

static void test_masks(cavmae__backend *backend) {
    test_unstructured(backend);
    test_ties(backend);
    test_structured(backend);
    test_index_tokens(backend);
    test_contrastive_ties(backend);
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
    CHECK_OK(backend->ops->sum_squares(backend, thread_x.data, ROWS * WIDTH, scalars + 2, w.memory));
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
    CHECK(first->ops->abi == CAVMAE__BACKEND_ABI && first->ops->struct_size == sizeof *first->ops);
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
    for_each_isa(test_patches);
    for_each_isa(test_rows);
    for_each_isa(test_contrastive);
    for_each_isa(test_optimizer);
    for_each_isa(test_masks);
    test_threads();
    return check_summary("ops");
}
