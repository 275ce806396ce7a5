/* Patches, masks, losses and the optimizer. */
#include "ops.h"
#include "philox.h"

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
    double removed; /* in all calls together */
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
    return total / c->removed;
}

static double mae_loss(void *arg) { return ((loss_case *)arg)->weight * mae_reference(arg); }

static void test_loss_of(cavmae__backend *backend, patch_case *patches, int32_t norm_pix) {
    const int32_t width = patches->source.patch * patches->source.patch * patches->source.channels;
    loss_case c = {.patches = patches, .norm_pix = norm_pix, .weight = 0.7};
    cavmae__limits limits = {.rows = patches->count, .width = width, .clips = 2, .tokens = 1, .backward = 1};
    workspace w = make_workspace(backend, &limits);
    c.pred = make_input((int64_t)patches->count * width, CAVMAE_FLOAT32, -1, 1);
    for (int32_t k = 0; k < patches->count; k++) c.removed += c.mask[k] = k % 3 != 1;
    double loss = 0, again = 0, parts = 0;
    array dpred = make_output(c.pred.count, CAVMAE_FLOAT32);
    cavmae__mae_loss op = {.source = patches->source,
                           .rows = patches->count,
                           .clip = patches->clip,
                           .token = patches->token,
                           .mask = c.mask,
                           .removed = &c.removed,
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
    /* In three calls, the second of them without rows: losses add up, gradients are the same. */
    const int64_t starts[] = {0, 5, 5, patches->count};
    array dparts = make_output(c.pred.count, CAVMAE_FLOAT32);
    op.loss = &parts;
    for (int i = 0; i < 3; i++) {
        op.rows = starts[i + 1] - starts[i];
        op.clip = patches->clip + starts[i];
        op.token = patches->token + starts[i];
        op.mask = c.mask + starts[i];
        op.pred = (float *)c.pred.data + starts[i] * width;
        op.dpred = (float *)dparts.data + starts[i] * width;
        CHECK_OK(backend->ops->mae_loss(backend, &op));
    }
    CHECK_CLOSE(parts, loss, 1e-12);
    CHECK_SAME(&dparts, &dpred);
    free_array(&dparts);
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

/* ---- Optimizer ---- */

static void test_adam_of(cavmae__backend *backend, int64_t count, int32_t decoupled, double scale) {
    const double lr = 1e-2, beta1 = 0.95, beta2 = 0.999, eps = 1e-8, decay = 5e-2;
    array p = make_input(count, CAVMAE_FLOAT32, -1, 1), m = make_input(count, CAVMAE_FLOAT32, 0, 0),
          v = make_input(count, CAVMAE_FLOAT32, 0, 0);
    for (int64_t update = 1; update <= 3; update++) {
        array grad = make_input(count, CAVMAE_FLOAT32, -1, 1);
        const cavmae__update numbers = {lr, scale, update};
        cavmae__adam op = {.count = count,
                           .update = &numbers,
                           .p = p.data,
                           .m = m.data,
                           .v = v.data,
                           .grad = grad.data,
                           .lr_factor = 1,
                           .beta1 = beta1,
                           .beta2 = beta2,
                           .eps = eps,
                           .weight_decay = decay,
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

/* Clipping is to the norm that sum_squares says, and a number in the guard that is not finite stops it all. */
static void test_adam_guard(cavmae__backend *backend) {
    float p = 1, m = 0, v = 0;
    const float grad = 3;
    const double squares = 16; /* of a longer gradient: norm 4, times 0.5 */
    double guard[2] = {0, NAN};
    const cavmae__update numbers = {.lr = 0.1, .grad_scale = 0.5, .number = 1};
    cavmae__adam op = {.count = 1,
                       .p = &p,
                       .m = &m,
                       .v = &v,
                       .grad = &grad,
                       .lr_factor = 1,
                       .beta1 = 0.5,
                       .beta2 = 0.5,
                       .clip_norm = 1,
                       .guards = 2,
                       .update = &numbers,
                       .sum_squares = &squares,
                       .guard = guard};
    CHECK_OK(backend->ops->adam(backend, &op));
    CHECK(p == 1 && m == 0 && v == 0);
    guard[1] = INFINITY;
    CHECK_OK(backend->ops->adam(backend, &op));
    CHECK(p == 1 && m == 0 && v == 0);
    guard[1] = 1;
    CHECK_OK(backend->ops->adam(backend, &op));
    CHECK_CLOSE(m, 0.5 * 0.75, 1e-7); /* 3 * 0.5 / 2 */
    op.clip_norm = 2.5;               /* more than the norm */
    m = 0;
    CHECK_OK(backend->ops->adam(backend, &op));
    CHECK_CLOSE(m, 0.5 * 1.5, 1e-7);
}

static void test_sum_squares_of(cavmae__backend *backend, int64_t count) {
    array x = make_input(count, CAVMAE_FLOAT32, -1, 1);
    cavmae__limits limits = {.rows = 1, .width = 1, .clips = 1, .tokens = 1};
    workspace w = make_workspace(backend, &limits);
    double expected = 0, sum = NAN;
    const cavmae__sum_squares op = {.count = count, .x = x.data, .sum = &sum, .workspace = w.memory};
    for (int64_t i = 0; i < count; i++) expected += x.value[i] * x.value[i];
    CHECK_OK(backend->ops->sum_squares(backend, &op));
    CHECK_CLOSE(sum, expected, 1e-12 * expected);
    if (count > 0) {
        ((float *)x.data)[count / 2] = 1e30f; /* its square is no float32 */
        CHECK_OK(backend->ops->sum_squares(backend, &op));
        CHECK_CLOSE(sum / 1e60, 1, 1e-6);
        ((float *)x.data)[count - 1] = NAN;
        CHECK_OK(backend->ops->sum_squares(backend, &op));
        CHECK(isnan(sum));
        ((float *)x.data)[count - 1] = -INFINITY;
        CHECK_OK(backend->ops->sum_squares(backend, &op));
        CHECK(isinf(sum));
    }
    free_array(&x);
    free_workspace(&w);
}

static void test_optimizer(cavmae__backend *backend) {
    test_adam_guard(backend);
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
    const cavmae__philox stream = cavmae__philox_key(op->seed, op->purpose, *op->step, (uint64_t)clip);
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
    const uint64_t step = 3;
    cavmae__draw_masks op = {.seed = 7,
                             .step = &step,
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
    const uint64_t step = 0;
    cavmae__draw_masks op = {.seed = 1,
                             .step = &step,
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
        const uint64_t step = 0;
        cavmae__draw_masks op = {.seed = 5,
                                 .step = &step,
                                 .purpose = CAVMAE__PURPOSE_MASK_V,
                                 .mode = mode,
                                 .clips = CLIPS,
                                 .rows = ROWS,
                                 .columns = COLUMNS,
                                 .keep = TOKENS / 4,
                                 .ratio = 0.75,
                                 .mask = mask,
                                 .workspace = w.memory};
        /* (int)(64 * 0.525) = 33 columns and (int)(8 * 0.525) = 4 rows are dropped: 31 x 4 stay, and 31 more */
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
}

int main(void) {
    for_each_isa(test_patches);
    for_each_isa(test_optimizer);
    for_each_isa(test_masks);
    return check_summary("ops_loss");
}
