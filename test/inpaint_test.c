/* cavmae_inpaint against the trainer's own predictions, put together pixel by pixel; its masks, errors and units; and
 * models of one modality. */
#include "failing_allocator.h"
#include "tiny.h"

enum {
    CLIPS = 3,
    MEL = 16,
    FRAMES = 32,
    P = 8,
    SIDE = 24,
    C = 3,
    LA = 8,
    LV = 9,
    PATCH_A = P * P,
    PATCH_V = P * P * C
};
enum { AUDIO = CLIPS * FRAMES * MEL, IMAGE = CLIPS * C * SIDE * SIDE };

/* A mean and deviation for each channel that cannot be mixed up. */
#define UNITS " audio_mean=-4 audio_std=3 image_mean=0.5,0.4,0.3 image_std=0.1,0.2,0.3 norm_pix_loss=0"
static const double image_mean[C] = {0.5, 0.4, 0.3}, image_std[C] = {0.1, 0.2, 0.3};

typedef struct bench {
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    tiny_inputs in;
    cavmae_batch batch;
} bench;

static bench setup_in(cavmae_context *context, const char *settings, const int32_t *frames) {
    bench b = {.context = context, .config = tiny_config(context, settings)};
    if (!CHECK_OK(cavmae_model_create(b.config, &b.model))) exit(1);
    b.in = tiny_make(b.config, 0, CLIPS, frames);
    b.batch = tiny_batch(&b.in, CLIPS);
    return b;
}

static bench setup(const char *settings, const int32_t *frames) { return setup_in(tiny_context(2), settings, frames); }

static void teardown(bench *b) {
    tiny_release(&b->in);
    cavmae_model_free(b->model);
    cavmae_config_free(b->config);
    cavmae_context_free(b->context);
}

/* All outputs. */
typedef struct outputs {
    float audio[AUDIO], audio_pasted[AUDIO], image[IMAGE], image_pasted[IMAGE];
    uint8_t mask_a[CLIPS * LA], mask_v[CLIPS * LV];
    cavmae_inpainting record;
} outputs;

static outputs *inpaint(const bench *b, const cavmae_config *config, const cavmae_batch *batch, int64_t draw) {
    outputs *o = calloc(1, sizeof *o);
    int64_t which = 3; /* bits: modalities of the model */
    const char *modalities;
    CHECK_OK(cavmae_config_get_str(b->config, CAVMAE_P_MODALITIES, &modalities));
    if (!strcmp(modalities, "a")) which = 1;
    if (!strcmp(modalities, "v")) which = 2;
    o->record.struct_size = sizeof o->record;
    if (which & 1) {
        o->record.audio = o->audio;
        o->record.audio_pasted = o->audio_pasted;
        o->record.mask_a = o->mask_a;
    }
    if (which & 2) {
        o->record.image = o->image;
        o->record.image_pasted = o->image_pasted;
        o->record.mask_v = o->mask_v;
    }
    CHECK_OK(cavmae_inpaint(b->model, config, batch, draw, &o->record));
    return o;
}

/* ---- What comes out, from what the trainer predicts ---- */

typedef struct predictions {
    float a[CLIPS * LA * PATCH_A], v[CLIPS * LV * PATCH_V];
    uint8_t mask_a[CLIPS * LA], mask_v[CLIPS * LV];
    cavmae_step_result losses;
} predictions;

static void take(cavmae_trainer *trainer, int32_t which, void *to, size_t size) {
    cavmae_tensor *tensor = NULL;
    if (!CHECK_OK(cavmae_trainer_output(trainer, which, &tensor))) return;
    const size_t item = cavmae_tensor_dtype(tensor) == CAVMAE_UINT8 ? 1 : sizeof(float);
    const size_t bytes = (size_t)cavmae_tensor_elements(tensor) * item;
    CHECK(bytes <= size);
    memcpy(to, cavmae_tensor_data(tensor), bytes);
    cavmae_tensor_free(tensor);
}

static predictions *predict(const bench *b, const cavmae_batch *batch, int64_t draw) {
    predictions *p = calloc(1, sizeof *p);
    cavmae_trainer *trainer = NULL;
    p->losses.struct_size = sizeof p->losses;
    CHECK_OK(cavmae_trainer_create(b->model, NULL, b->config, &trainer));
    CHECK_OK(cavmae_pretrain_evaluate(trainer, batch, draw, &p->losses));
    take(trainer, CAVMAE_OUT_PRED_A, p->a, sizeof p->a);
    take(trainer, CAVMAE_OUT_PRED_V, p->v, sizeof p->v);
    take(trainer, CAVMAE_OUT_MASK_A, p->mask_a, sizeof p->mask_a);
    take(trainer, CAVMAE_OUT_MASK_V, p->mask_v, sizeof p->mask_v);
    cavmae_trainer_free(trainer);
    return p;
}

static double clip01(double x) { return fmin(fmax(x, 0), 1); }

/* Largest differences of the four arrays from the predictions; frames [CLIPS]. */
static void check_pixels(const bench *b, const outputs *o, const predictions *p, const int32_t *frames) {
    double worst[4] = {0, 0, 0, 0};
    int64_t at = 0, token = 0;
    for (int i = 0; i < CLIPS; i++) {
        const int columns = frames[i] / P;
        for (int t = 0; t < frames[i]; t++)
            for (int f = 0; f < MEL; f++, at++) {
                const int64_t patch = token + f / P * columns + t / P;
                const double painted = -4 + 3 * (double)p->a[patch * PATCH_A + f % P * P + t % P],
                             seen = -4 + 3 * (double)b->in.audio[at];
                worst[0] = fmax(worst[0], fabs(painted - o->audio[at]));
                worst[1] = fmax(worst[1], fabs((p->mask_a[patch] ? painted : seen) - o->audio_pasted[at]));
            }
        token += columns * (MEL / P);
    }
    for (int64_t k = 0; k < IMAGE; k++) {
        const int64_t x = k % SIDE, y = k / SIDE % SIDE, c = k / SIDE / SIDE % C, clip = k / SIDE / SIDE / C,
                      patch = clip * LV + y / P * (SIDE / P) + x / P;
        const double painted =
                         clip01(image_mean[c] + image_std[c] * p->v[patch * PATCH_V + (y % P * P + x % P) * C + c]),
                     seen = clip01(image_mean[c] + image_std[c] * b->in.image[k]);
        worst[2] = fmax(worst[2], fabs(painted - o->image[k]));
        worst[3] = fmax(worst[3], fabs((p->mask_v[patch] ? painted : seen) - o->image_pasted[k]));
    }
    for (int k = 0; k < 4; k++) CHECK_CLOSE(worst[k], 0, 2e-6);
}

static void check_against_trainer(const int32_t *frames) {
    static const int32_t whole[CLIPS] = {FRAMES, FRAMES, FRAMES};
    bench b = setup(SMALLEST UNITS, frames);
    predictions *p = predict(&b, &b.batch, 5);
    outputs *o = inpaint(&b, NULL, &b.batch, 5);
    check_pixels(&b, o, p, frames ? frames : whole);
    CHECK(!memcmp(o->mask_a, p->mask_a, sizeof p->mask_a) && !memcmp(o->mask_v, p->mask_v, sizeof p->mask_v));
    /* the loss gathers its patches by other code, so the order of pixels is right too */
    CHECK_CLOSE(o->record.error_a, p->losses.loss_mae_a, 1e-6);
    CHECK_CLOSE(o->record.error_v, p->losses.loss_mae_v, 1e-6);
    CHECK_CLOSE(o->record.loss_a, p->losses.loss_mae_a, 1e-6);
    CHECK_CLOSE(o->record.loss_v, p->losses.loss_mae_v, 1e-6);
    CHECK(o->record.error_a > 0.1 && o->record.error_v > 0.1 && !o->record.approximate);
    free(o);
    free(p);
    teardown(&b);
}

/* ---- Masks ---- */

static int same_masks(const outputs *a, const outputs *b) {
    return !memcmp(a->mask_a, b->mask_a, sizeof a->mask_a) && !memcmp(a->mask_v, b->mask_v, sizeof a->mask_v);
}

static int ones(const uint8_t *mask, int count) {
    int sum = 0;
    for (int i = 0; i < count; i++) sum += mask[i];
    return sum;
}

static void test_masks(void) {
    bench b = setup(SMALLEST UNITS, NULL);
    outputs *first = inpaint(&b, NULL, &b.batch, 0), *again = inpaint(&b, NULL, &b.batch, 0),
            *other = inpaint(&b, NULL, &b.batch, 1);
    CHECK(same_masks(first, again) && !same_masks(first, other));
    CHECK(!memcmp(first->audio, again->audio, sizeof first->audio));
    CHECK(ones(first->mask_a, LA) == 4 && ones(first->mask_v, LV) == 5);
    free(again);
    free(other);

    /* another configuration: ratios, modes, seed */
    cavmae_config *config = NULL;
    CHECK_OK(cavmae_config_clone(b.config, &config));
    tiny_set(config, "seed=9 batch=1");
    other = inpaint(&b, config, &b.batch, 0);
    CHECK(!same_masks(first, other));
    free(other);
    tiny_set(config, "mask_ratio_a=0.75 mask_mode_a=frequency mask_ratio_v=0.7 mask_mode_v=time");
    other = inpaint(&b, config, &b.batch, 0);
    for (int i = 0; i < CLIPS; i++) {
        const uint8_t *a = other->mask_a + i * LA, *v = other->mask_v + i * LV;
        CHECK(ones(a, LA) == 6 && (ones(a, 4) == 4 || ones(a + 4, 4) == 4));
        int whole = 0;
        for (int c = 0; c < 3; c++) whole += v[c] && v[3 + c] && v[6 + c];
        CHECK(ones(v, LV) == 7 && whole >= 2);
    }
    free(other);
    tiny_set(config, "mask_mode_a=unstructured mask_mode_v=unstructured mask_domain=joint mask_ratio_a=0.5");
    other = inpaint(&b, config, &b.batch, 0);
    for (int i = 0; i < CLIPS; i++)
        CHECK(ones(other->mask_a + i * LA, LA) + ones(other->mask_v + i * LV, LV) == 17 - 8);
    free(other);
    cavmae_config_free(config);
    free(first);
    teardown(&b);
}

static void test_callers_masks(void) {
    bench b = setup(SMALLEST UNITS, NULL);
    uint8_t a[CLIPS * LA] = {0}, v[CLIPS * LV] = {0};
    a[3] = a[LA + 1] = a[2 * LA] = a[2 * LA + 7] = 1;
    v[4] = v[LV + 8] = v[2 * LV] = 2; /* anything but 0 */
    b.batch.mask_a = a;
    outputs *drawn = inpaint(&b, NULL, &b.batch, 0);
    CHECK(!memcmp(drawn->mask_a, a, sizeof a) && ones(drawn->mask_v, LV) == 5);
    b.batch.mask_v = v;
    outputs *given = inpaint(&b, NULL, &b.batch, 0);
    for (int i = 0; i < CLIPS * LV; i++) CHECK(given->mask_v[i] == (v[i] != 0));
    predictions *p = predict(&b, &b.batch, 77);
    CHECK_CLOSE(given->record.error_v, p->losses.loss_mae_v, 1e-6);
    CHECK_CLOSE(given->record.loss_a, p->losses.loss_mae_a, 1e-6);
    /* a mask over patches that were not seen: what is painted elsewhere does not matter to them */
    for (int k = 0; k < P; k++) b.in.image[8 * SIDE + 8 + k] += 3; /* in patch 4 of clip 0, which is masked */
    outputs *changed = inpaint(&b, NULL, &b.batch, 0);
    CHECK(!memcmp(changed->image_pasted, given->image_pasted, sizeof given->image_pasted));
    CHECK(changed->record.error_v > given->record.error_v);
    free(changed);
    free(p);
    free(given);
    free(drawn);
    teardown(&b);
}

/* One modality may be whole: the other is completed from it. */
static void test_one_masked(void) {
    bench b = setup(SMALLEST UNITS, NULL);
    const uint8_t none[CLIPS * LA] = {0};
    b.batch.mask_a = none;
    outputs *o = inpaint(&b, NULL, &b.batch, 0);
    double worst = 0;
    for (int i = 0; i < AUDIO; i++) worst = fmax(worst, fabs(o->audio_pasted[i] - (3 * (double)b.in.audio[i] - 4)));
    CHECK_CLOSE(worst, 0, 2e-6);
    CHECK(o->record.error_a == 0 && o->record.loss_a == 0 && o->record.error_v > 0.1);
    CHECK_CLOSE(o->record.error_v, o->record.loss_v, 1e-6);
    free(o);
    const uint8_t no_v[CLIPS * LV] = {0};
    b.batch.mask_v = no_v;
    cavmae_inpainting record = {.struct_size = sizeof record};
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &b.batch, 0, &record), CAVMAE_E_ARG);
    teardown(&b);
}

/* ---- Patch normalisation ---- */

#define NORMALISED " audio_mean=-4 audio_std=3 image_mean=0.5,0.4,0.3 image_std=0.1,0.2,0.3 norm_pix_loss=1"

/* Mean and deviation of a visual patch of the input. */
static void patch_of(const float *image, int token, double *mean, double *deviation) {
    double sum = 0, square = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < PATCH_V; j++) {
            const int c = j % C, x = token % 3 * P + j / C % P, y = token / 3 * P + j / C / P;
            const double value = (double)image[(c * SIDE + y) * SIDE + x];
            if (pass)
                square += (value - sum / PATCH_V) * (value - sum / PATCH_V);
            else
                sum += value;
        }
    *mean = sum / PATCH_V;
    *deviation = sqrt(square / (PATCH_V - 1) + 1e-6);
}

static void test_normalised(void) {
    bench b = setup(SMALLEST NORMALISED, NULL);
    uint8_t v[CLIPS * LV] = {0};
    for (int i = 0; i < CLIPS; i++) v[i * LV] = v[i * LV + 4] = v[i * LV + 5] = 1;
    b.batch.mask_v = v;
    for (int64_t k = 0; k < IMAGE; k++)
        b.in.image[k] = b.in.image[k] * 0.2f + (float)(k % SIDE / P - k / SIDE % SIDE / P);
    predictions *p = predict(&b, &b.batch, 3);
    outputs *o = inpaint(&b, NULL, &b.batch, 3);
    CHECK(o->record.approximate == 1);
    CHECK_CLOSE(o->record.loss_v, p->losses.loss_mae_v, 1e-6);
    double worst = 0, error = 0;
    for (int i = 0; i < CLIPS; i++) {
        const float *image = b.in.image + i * C * SIDE * SIDE;
        double mean[LV], deviation[LV];
        for (int t = 0; t < LV; t++) patch_of(image, t, &mean[t], &deviation[t]);
        double seen_mean[LV], seen_deviation[LV];
        for (int t = 0; t < LV; t++) {
            double weights = 0;
            seen_mean[t] = v[t] ? 0 : mean[t];
            seen_deviation[t] = v[t] ? 0 : deviation[t];
            for (int n = 0; n < LV && v[t]; n++) {
                if (v[n]) continue;
                const double weight = pow(hypot(t / 3 - n / 3, t % 3 - n % 3), -4);
                weights += weight;
                seen_mean[t] += weight * mean[n];
                seen_deviation[t] += weight * deviation[n];
            }
            if (v[t]) seen_mean[t] /= weights;
            if (v[t]) seen_deviation[t] /= weights;
        }
        for (int k = 0; k < C * SIDE * SIDE; k++) {
            const int x = k % SIDE, y = k / SIDE % SIDE, c = k / SIDE / SIDE, t = y / P * 3 + x / P;
            const double predicted =
                p->v[(i * LV + t) * PATCH_V + (y % P * P + x % P) * C + c] * seen_deviation[t] + seen_mean[t];
            const double d = predicted - (double)image[k];
            worst =
                fmax(worst, fabs(clip01(image_mean[c] + image_std[c] * predicted) - o->image[i * C * SIDE * SIDE + k]));
            if (v[t]) error += d * d / PATCH_V / 3 / CLIPS;
        }
    }
    CHECK_CLOSE(worst, 0, 2e-6);
    CHECK_CLOSE(o->record.error_v, error, 1e-5);
    free(o);
    free(p);

    /* where all patches have the same mean and deviation, nothing has to be guessed */
    for (int64_t k = 0; k < AUDIO; k++) b.in.audio[k] = 1 + 2 * (float)((k % MEL + k / MEL) % 2); /* a chessboard */
    o = inpaint(&b, NULL, &b.batch, 3);
    CHECK_CLOSE(o->record.error_a, o->record.loss_a * (64.0 / 63 + 1e-6), 1e-5);
    free(o);
    teardown(&b);
}

/* Under mask_domain joint a clip may show nothing of a modality: its patches then are as the average input. */
static void test_nothing_shown(void) {
    bench b = setup(SMALLEST NORMALISED " mask_domain=joint contrast_weight=0", NULL);
    uint8_t a[CLIPS * LA] = {0}, v[CLIPS * LV] = {0};
    memset(a, 1, LA);
    v[1] = 1;
    b.batch.mask_a = a;
    b.batch.mask_v = v;
    predictions *p = predict(&b, &b.batch, 3);
    outputs *o = inpaint(&b, NULL, &b.batch, 3);
    for (int t = 0; t < FRAMES; t += 5)
        CHECK_CLOSE(o->audio[t * MEL + 3], -4 + 3 * (double)p->a[t / P * PATCH_A + 3 * P + t % P], 2e-6);
    free(o);
    free(p);
    teardown(&b);
}

/* ---- One modality, and outputs that are not wanted ---- */

static void test_single(void) {
    bench a = setup(SMALLEST UNITS " modalities=a", NULL), v = setup(SMALLEST UNITS " modalities=v", NULL);
    a.batch.image = NULL;
    v.batch.audio = NULL;
    outputs *sound = inpaint(&a, NULL, &a.batch, 0), *sight = inpaint(&v, NULL, &v.batch, 0);
    CHECK_CLOSE(sound->record.error_a, sound->record.loss_a, 1e-6);
    CHECK_CLOSE(sight->record.error_v, sight->record.loss_v, 1e-6);
    CHECK(sound->record.error_a > 0 && sound->record.error_v == 0 && sound->record.loss_v == 0);
    CHECK(sight->record.error_v > 0 && sight->record.error_a == 0);
    CHECK(ones(sound->mask_a, CLIPS * LA) == CLIPS * 4 && ones(sight->mask_v, CLIPS * LV) == CLIPS * 5);
    for (int i = 0; i < 3; i++) { /* an output that there cannot be */
        cavmae_inpainting out = {.struct_size = sizeof out};
        if (i == 0) out.image = sight->image;
        if (i == 1) out.image_pasted = sight->image;
        if (i == 2) out.mask_v = sight->mask_v;
        CHECK_STATUS(cavmae_inpaint(a.model, NULL, &a.batch, 0, &out), CAVMAE_E_ARG);
    }
    cavmae_inpainting out = {.struct_size = sizeof out, .audio = sound->audio};
    CHECK_STATUS(cavmae_inpaint(v.model, NULL, &v.batch, 0, &out), CAVMAE_E_ARG);
    free(sound);
    free(sight);
    teardown(&a);
    teardown(&v);
}

static void test_unwanted(void) {
    bench b = setup(SMALLEST UNITS, NULL);
    outputs *all = inpaint(&b, NULL, &b.batch, 0);
    uint8_t mask[CLIPS * LV];
    cavmae_inpainting out = {.struct_size = sizeof out, .approximate = 7, .mask_v = mask};
    CHECK_OK(cavmae_inpaint(b.model, NULL, &b.batch, 0, &out));
    CHECK(!memcmp(mask, all->mask_v, sizeof mask) && out.approximate == 0 && out.audio == NULL && out.mask_v == mask);
    CHECK(out.error_a == all->record.error_a && out.loss_v == all->record.loss_v);
    free(all);
    teardown(&b);
}

/* ---- Errors ---- */

static void test_errors(void) {
    bench b = setup(SMALLEST UNITS, NULL);
    uint8_t a[CLIPS * LA] = {0};
    cavmae_inpainting out = {.struct_size = sizeof out};
    cavmae_batch batch = b.batch;
    CHECK_STATUS(cavmae_inpaint(NULL, NULL, &batch, 0, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, NULL, 0, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, -1, &out), CAVMAE_E_ARG);
    out.struct_size = 0;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_ARG);
    out.struct_size = sizeof out;
    batch.count = 0;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_ARG);
    batch = b.batch;
    batch.frames = 2;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_ARG);
    batch = b.batch;
    batch.image = NULL;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_ARG);
    batch = b.batch;
    batch.mask_a = a;
    memset(a + LA, 1, LA);
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_ARG); /* clip 1 keeps nothing */
    const int32_t frames[CLIPS] = {FRAMES, FRAMES + 1, FRAMES};
    batch = b.batch;
    batch.audio_frames = frames;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &batch, 0, &out), CAVMAE_E_SHAPE);
    b.in.audio[7] = NAN;
    CHECK_STATUS(cavmae_inpaint(b.model, NULL, &b.batch, 0, &out), CAVMAE_E_NOT_FINITE);
    b.in.audio[7] = 0;

    cavmae_config *config = NULL;
    CHECK_OK(cavmae_config_clone(b.config, &config));
    tiny_set(config, "decoder_dim=24");
    CHECK_STATUS(cavmae_inpaint(b.model, config, &b.batch, 0, &out), CAVMAE_E_MISMATCH);
    tiny_set(config, "decoder_dim=12 mae_weight=0");
    CHECK_STATUS(cavmae_inpaint(b.model, config, &b.batch, 0, &out), CAVMAE_E_ARG);
    tiny_set(config, "mae_weight=1 mask_ratio_v=1");
    CHECK_STATUS(cavmae_inpaint(b.model, config, &b.batch, 0, &out), CAVMAE_E_ARG);
    cavmae_config_free(config);
    teardown(&b);

    bench encoder = setup(SMALLEST UNITS " decoder=0", NULL), tuned = setup(SMALLEST UNITS " classes=4", NULL);
    CHECK_STATUS(cavmae_inpaint(encoder.model, NULL, &encoder.batch, 0, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_inpaint(tuned.model, NULL, &tuned.batch, 0, &out), CAVMAE_E_ARG);
    teardown(&encoder);
    teardown(&tuned);
}

static void test_no_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &context));
    bench b = setup_in(context, SMALLEST NORMALISED, NULL);
    outputs *before = inpaint(&b, NULL, &b.batch, 0), *after = calloc(1, sizeof *after);
    const long blocks = allocator.blocks;
    long fails = 0;
    for (cavmae_status status = CAVMAE_E_NOMEM; status == CAVMAE_E_NOMEM; fails++) {
        cavmae_inpainting out = {.struct_size = sizeof out, .audio = after->audio, .image_pasted = after->image_pasted};
        allocator.calls = 0;
        allocator.fail_at = fails + 1;
        status = cavmae_inpaint(b.model, NULL, &b.batch, 0, &out);
        if (status != CAVMAE_OK) CHECK(status == CAVMAE_E_NOMEM && out.approximate == 0);
        CHECK(allocator.blocks == blocks);
    }
    allocator.fail_at = 0;
    CHECK(fails > 10);
    CHECK(!memcmp(before->audio, after->audio, sizeof after->audio) &&
          !memcmp(before->image_pasted, after->image_pasted, sizeof after->image_pasted));
    free(before);
    free(after);
    teardown(&b);
    CHECK(allocator.blocks == 0);
}

int main(void) {
    static const int32_t frames[CLIPS] = {16, 32, 24};
    check_against_trainer(NULL);
    check_against_trainer(frames);
    test_masks();
    test_callers_masks();
    test_one_masked();
    test_normalised();
    test_nothing_shown();
    test_single();
    test_unwanted();
    test_errors();
    test_no_memory();
    return check_summary("inpaint");
}
