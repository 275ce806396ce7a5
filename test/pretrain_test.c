/* The pretraining step around the network: objectives, masks, batches of every shape, what it refuses, and what it
 * leaves behind then. */
#include "failing_allocator.h"
#include "tiny.h"

enum { LA = 8, LV = 9 }; /* tokens of SMALLEST */

/* What a step returned is what the trainer says of it. */
static void check_last(cavmae_trainer *trainer, const cavmae_step_result *result) {
    cavmae_step_result last = {.struct_size = sizeof last};
    CHECK_OK(cavmae_trainer_result(trainer, 1, &last));
    CHECK(last.step == result->step && last.loss == result->loss && last.grad_norm == result->grad_norm);
    CHECK_OK(cavmae_trainer_result(trainer, 0, &last));
    CHECK(last.step == result->step);
    last.struct_size = 0;
    CHECK_STATUS(cavmae_trainer_result(trainer, 0, &last), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_trainer_result(trainer, 0, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_trainer_result(NULL, 0, &last), CAVMAE_E_ARG);
}

/* ---- Everything that can be configured trains ---- */

static void check_trains(const char *settings, int32_t image, int32_t audio) {
    char all[512];
    snprintf(all, sizeof all, SMALLEST " lr=3e-3 %s", settings);
    tiny_training t = tiny_train(2, all);
    tiny_inputs in = tiny_make(t.config, 0, 3, NULL);
    cavmae_batch batch = tiny_batch(&in, 3);
    if (!image) batch.image = NULL;
    if (!audio) batch.audio = NULL;
    cavmae_step_result first = {.struct_size = sizeof first}, last = first;
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 0, &first));
    for (int i = 0; i < 40; i++) CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, &last));
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 0, &last));
    if (!CHECK(last.loss < 0.97 * first.loss)) printf("    %s: %g, then %g\n", settings, first.loss, last.loss);
    int64_t mae = strstr(settings, "mae_weight=0") == NULL,
            contrast = strstr(settings, "contrast_weight=0") == NULL && audio && image;
    CHECK((last.loss_mae_a > 0) == (mae && audio) && (last.loss_mae_v > 0) == (mae && image));
    CHECK((last.loss_c > 0) == contrast && last.pairs == 3 * contrast);
    CHECK_CLOSE(last.loss, last.loss_mae + last.loss_c, 1e-12);
    tiny_release(&in);
    tiny_train_free(&t);
}

static void test_configurations(void) {
    static const char *const both[] = {
        "",
        "contrast_weight=0",                                                  /* AV-MAE */
        "mae_weight=0 contrast_weight=1",                                     /* CAV */
        "modality_depth=0 joint_depth=2 contrast_weight=0",                   /* vanilla AV-MAE, masked by modality */
        "modality_depth=0 joint_depth=2 contrast_weight=0 mask_domain=joint", /* and over both */
        "mask_domain=joint mask_ratio_a=0.94 contrast_weight=0",              /* one token of 17 */
        "mask_mode_a=time mask_mode_v=frequency",
        "mask_mode_a=frequency mask_mode_v=time_frequency",
        "mask_mode_a=time_frequency mask_mode_v=time",
        "contrast_direction=a2v contrast_weight=1 contrast_temperature=0.2",
        "contrast_direction=both norm_pix_loss=0 trainable_pos=1",
        "decoder_depth=0 joint_depth=0",
        "dtype=bfloat16 optimizer=adamw recompute=1 mlp_ratio=1.3",
        "clip_norm=0.1 accumulate=2 mae_weight=3",
    };
    for (size_t i = 0; i < sizeof both / sizeof *both; i++) check_trains(both[i], 1, 1);
    check_trains("modalities=a", 0, 1);
    check_trains("modalities=v", 1, 0);
    check_trains("modalities=v recompute=2 dtype=bfloat16", 1, 0);
}

/* ---- Masks ---- */

static void read_mask(const tiny_training *t, int32_t which, uint8_t *out, int64_t count) {
    cavmae_tensor *tensor;
    if (!CHECK_OK(cavmae_trainer_output(t->trainer, which, &tensor))) exit(1);
    CHECK(cavmae_tensor_dtype(tensor) == CAVMAE_UINT8 && cavmae_tensor_elements(tensor) == count);
    memcpy(out, cavmae_tensor_data(tensor), (size_t)count);
    cavmae_tensor_free(tensor);
}

static int64_t ones(const uint8_t *mask, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += mask[i] == 1;
    return sum;
}

static void test_masks(void) {
    tiny_training t = tiny_train(1, SMALLEST " mask_ratio_a=0.4 mask_ratio_v=0.7 mask_mode_a=time");
    uint8_t a[3][3 * LA], v[3][3 * LV];
    for (int step = 0; step < 3; step++) {
        tiny_step(&t, 0, 3);
        read_mask(&t, CAVMAE_OUT_MASK_A, a[step], 3 * LA);
        read_mask(&t, CAVMAE_OUT_MASK_V, v[step], 3 * LV);
        for (int clip = 0; clip < 3; clip++) {
            const uint8_t *mask = a[step] + clip * LA;
            int whole = 0;
            CHECK(ones(mask, LA) == 8 - 4);                /* int(8 * 0.6) stay */
            CHECK(ones(v[step] + clip * LV, LV) == 9 - 2); /* int(9 * 0.3) */
            for (int c = 0; c < 4; c++) whole += mask[c] && mask[4 + c];
            CHECK(whole >= 1); /* int(4 * 0.4) columns */
        }
    }
    CHECK(memcmp(v[0], v[1], sizeof v[0]) && memcmp(v[1], v[2], sizeof v[0]));  /* of every step */
    CHECK(memcmp(v[0], v[0] + LV, LV) || memcmp(v[0] + LV, v[0] + 2 * LV, LV)); /* and clip */
    tiny_training other = tiny_train(1, SMALLEST " mask_ratio_a=0.4 mask_ratio_v=0.7 mask_mode_a=time seed=5");
    tiny_step(&other, 0, 3);
    read_mask(&other, CAVMAE_OUT_MASK_V, v[1], 3 * LV);
    CHECK(memcmp(v[0], v[1], sizeof v[0]));
    tiny_train_free(&other);
    tiny_train_free(&t);

    t = tiny_train(1, SMALLEST " mask_domain=joint mask_ratio_a=0.6 contrast_weight=0");
    int uneven = 0;
    for (int step = 0; step < 3; step++) {
        tiny_step(&t, 0, 3);
        read_mask(&t, CAVMAE_OUT_MASK_A, a[0], 3 * LA);
        read_mask(&t, CAVMAE_OUT_MASK_V, v[0], 3 * LV);
        for (int clip = 0; clip < 3; clip++) {
            CHECK(ones(a[0] + clip * LA, LA) + ones(v[0] + clip * LV, LV) == 17 - 6); /* int(17 * 0.4) */
            uneven += ones(a[0] + clip * LA, LA) != ones(a[0], LA);
        }
    }
    CHECK(uneven > 0);
    tiny_train_free(&t);
}

/* The caller's: taken as they are; more tokens than planned make the plan grow; none is refused. */
static void test_given_masks(void) {
    tiny_training t = tiny_train(1, SMALLEST " lr=1e-3 mask_ratio_a=0.75");
    tiny_inputs in = tiny_make(t.config, 0, 3, NULL);
    cavmae_batch batch = tiny_batch(&in, 3);
    uint8_t a[3 * LA] = {1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1}, v[3 * LV] = {0, 0, 0, 1}, back[3 * LV];
    batch.mask_a = a;
    batch.mask_v = v;
    CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, NULL));
    read_mask(&t, CAVMAE_OUT_MASK_A, back, 3 * LA);
    CHECK(memcmp(back, a, sizeof a) == 0);
    read_mask(&t, CAVMAE_OUT_MASK_V, back, 3 * LV);
    CHECK(memcmp(back, v, sizeof v) == 0);
    batch.mask_a = NULL; /* one given, the other drawn */
    CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, NULL));
    batch.mask_a = a;
    uint64_t hash = tiny_hash(t.model);
    memset(a + LA, 1, LA);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "clip 1") && strstr(cavmae_last_error(), "audio"));
    memset(a, 0, sizeof a);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "mask_ratio_a"));
    cavmae_tensor *tensor;
    CHECK_STATUS(cavmae_trainer_output(t.trainer, CAVMAE_OUT_MASK_A, &tensor), CAVMAE_E_NOT_FOUND); /* it failed */
    CHECK(tiny_hash(t.model) == hash);
    CHECK(tiny_step(&t, 0, 3).step == 3);
    tiny_release(&in);
    tiny_train_free(&t);

    /* A joint mask may leave a modality nothing, of all clips even. */
    t = tiny_train(2, SMALLEST " lr=1e-3 mask_domain=joint contrast_weight=0");
    in = tiny_make(t.config, 0, 3, NULL);
    batch = tiny_batch(&in, 3);
    memset(a, 1, sizeof a);
    batch.mask_a = a;
    batch.mask_v = v;
    cavmae_step_result r = {.struct_size = sizeof r};
    CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, &r));
    check_last(t.trainer, &r);
    CHECK(isfinite(r.loss) && r.loss_mae_a > 0);
    CHECK_OK(cavmae_trainer_gradient(t.trainer, "blocks_a.0.attn.qkv.weight", &tensor));
    const float *gradient = cavmae_tensor_data(tensor);
    float largest = 0;
    for (int i = 0; i < 16 * 48; i++) largest = fmaxf(largest, fabsf(gradient[i]));
    CHECK(largest == 0); /* nothing came through the audio encoder */
    cavmae_tensor_free(tensor);
    tiny_release(&in);
    tiny_train_free(&t);
}

/* ---- Batches ---- */

static float *output_of(const tiny_training *t, int32_t which, int32_t dims, int64_t d0, int64_t d1, int64_t d2) {
    cavmae_tensor *tensor;
    if (!CHECK_OK(cavmae_trainer_output(t->trainer, which, &tensor))) exit(1);
    const int64_t *shape = cavmae_tensor_shape(tensor);
    CHECK(cavmae_tensor_dims(tensor) == dims && shape[0] == d0 && shape[1] == d1 && (dims < 3 || shape[2] == d2));
    size_t size = (size_t)cavmae_tensor_elements(tensor) * sizeof(float);
    float *copy = malloc(size);
    memcpy(copy, cavmae_tensor_data(tensor), size);
    cavmae_tensor_free(tensor);
    return copy;
}

static void test_evaluate(void) {
    tiny_training t = tiny_train(2, SMALLEST " lr=1e-2");
    cavmae_trainer *evaluates;
    CHECK_OK(cavmae_trainer_create(t.model, NULL, t.config, &evaluates));
    tiny_inputs in = tiny_make(t.config, 0, 2, NULL);
    const cavmae_batch batch = tiny_batch(&in, 2);
    cavmae_step_result r[4];
    memset(r, 0, sizeof r);
    for (int i = 0; i < 4; i++) r[i].struct_size = sizeof r[i];
    tiny_step(&t, 0, 3);
    uint64_t hash = tiny_hash(t.model);
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 7, &r[0]));
    free(output_of(&t, CAVMAE_OUT_PRED_A, 3, 2, LA, 64));
    free(output_of(&t, CAVMAE_OUT_PRED_V, 3, 2, LV, 192));
    free(output_of(&t, CAVMAE_OUT_POOLED_A, 2, 2, 16, 0));
    free(output_of(&t, CAVMAE_OUT_POOLED_V, 2, 2, 16, 0));
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 7, &r[1]));
    CHECK_OK(cavmae_pretrain_evaluate(evaluates, &batch, 7, &r[2]));
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 8, &r[3]));
    CHECK(memcmp(&r[0], &r[1], sizeof r[0]) == 0 && r[0].loss == r[2].loss && r[0].loss != r[3].loss);
    CHECK(r[0].updated == 0 && r[0].grad_norm == 0 && r[0].lr == 0 && r[0].step == 1 && r[0].pairs == 2);
    CHECK(tiny_hash(t.model) == hash);
    CHECK_STATUS(cavmae_pretrain_step(evaluates, &batch, NULL), CAVMAE_E_STATE);
    cavmae_tensor *tensor;
    CHECK_STATUS(cavmae_trainer_output(evaluates, 0, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_trainer_output(evaluates, 9, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_trainer_gradient(evaluates, "norm.bias", &tensor), CAVMAE_E_NOT_FOUND);
    cavmae_trainer_free(evaluates);

    /* Between the batches of one update an evaluation changes nothing either. */
    tiny_training plain = tiny_train(1, SMALLEST " lr=1e-2 accumulate=2"),
                  between = tiny_train(1, SMALLEST " lr=1e-2 accumulate=2");
    tiny_step(&plain, 0, 3);
    tiny_step(&between, 0, 3);
    CHECK_OK(cavmae_pretrain_evaluate(between.trainer, &batch, 0, NULL));
    tiny_step(&plain, 3, 3);
    CHECK(tiny_step(&between, 3, 3).updated == 1);
    CHECK(tiny_hash(plain.model) == tiny_hash(between.model));
    tiny_train_free(&plain);
    tiny_train_free(&between);
    tiny_release(&in);
    tiny_train_free(&t);

    static const char *const settings[] = {SMALLEST " mae_weight=0", SMALLEST " contrast_weight=0"};
    for (int i = 0; i < 2; i++) {
        t = tiny_train(1, settings[i]);
        CHECK_STATUS(cavmae_trainer_output(t.trainer, CAVMAE_OUT_MASK_A, &tensor), CAVMAE_E_NOT_FOUND);
        tiny_step(&t, 0, 3);
        CHECK_STATUS(cavmae_trainer_output(t.trainer, i ? CAVMAE_OUT_POOLED_A : CAVMAE_OUT_PRED_A, &tensor),
                     CAVMAE_E_NOT_FOUND);
        CHECK_STATUS(cavmae_trainer_output(t.trainer, i ? CAVMAE_OUT_POOLED_V : CAVMAE_OUT_PRED_V, &tensor),
                     CAVMAE_E_NOT_FOUND);
        free(output_of(&t, i ? CAVMAE_OUT_PRED_A : CAVMAE_OUT_POOLED_A, i ? 3 : 2, 3, i ? LA : 16, 64));
        tiny_train_free(&t);
    }
}

/* Clips of different length: each one's predictions are those it has alone, to the last bit. */
static void test_ragged(void) {
    enum { MOST = 3 * LA };
    static const int32_t frames[3] = {8, 32, 16};
    tiny_training t = tiny_train(2, SMALLEST " lr=1e-3");
    tiny_inputs in = tiny_make(t.config, 0, 3, frames);
    cavmae_batch batch = tiny_batch(&in, 3);
    static const uint8_t a[14] = {1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1},
                         v[27] = {1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1};
    cavmae_step_result r = {.struct_size = sizeof r};
    batch.mask_a = a;
    batch.mask_v = v;
    CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 0, &r));
    float *together = output_of(&t, CAVMAE_OUT_PRED_A, 3, 1, 2 + 8 + 4, 64),
          *images = output_of(&t, CAVMAE_OUT_PRED_V, 3, 3, LV, 192);
    int64_t token = 0;
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        cavmae_step_result one = {.struct_size = sizeof one};
        int64_t tokens = frames[i] / 8 * 2;
        batch.count = 1;
        batch.audio = in.audio + token * 64;
        batch.image = in.image + i * in.image_elements / 3;
        batch.audio_frames = &frames[i];
        batch.mask_a = a + token;
        batch.mask_v = v + i * LV;
        CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &batch, 0, &one));
        float *alone = output_of(&t, CAVMAE_OUT_PRED_A, 3, 1, tokens, 64),
              *image = output_of(&t, CAVMAE_OUT_PRED_V, 3, 1, LV, 192);
        CHECK(memcmp(alone, together + token * 64, (size_t)tokens * 64 * sizeof *alone) == 0);
        CHECK(memcmp(image, images + i * LV * 192, LV * 192 * sizeof *image) == 0);
        sum += one.loss_mae_a * (double)ones(a + token, tokens);
        token += tokens;
        free(alone);
        free(image);
    }
    CHECK_CLOSE(sum / (double)ones(a, 14), r.loss_mae_a, 1e-9); /* the mean over masked patches of all clips */
    batch = tiny_batch(&in, 3);
    double first = 0;
    for (int i = 0; i < 30; i++) { /* drawn masks */
        CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, &r));
        if (i == 0) first = r.loss;
    }
    CHECK(r.loss < first);
    static const int32_t bad[][3] = {{8, 32, 12}, {8, 40, 16}, {0, 8, 8}, {-8, 8, 8}};
    for (int i = 0; i < 4; i++) {
        batch.audio_frames = bad[i];
        CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_SHAPE);
        CHECK(strstr(cavmae_last_error(), i == 0 ? "clip 2" : i == 1 ? "clip 1" : "clip 0"));
    }
    free(together);
    free(images);
    tiny_release(&in);
    tiny_train_free(&t);
}

static void test_refusals(void) {
    tiny_training t = tiny_train(1, SMALLEST);
    tiny_inputs in = tiny_make(t.config, 0, 4, NULL);
    cavmae_batch batch = tiny_batch(&in, 4);
    cavmae_step_result r = {.struct_size = 0};
    uint64_t hash = tiny_hash(t.model);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "batch"));
    batch.count = 0;
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_SHAPE);
    batch.count = 2;
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, &r), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pretrain_step(NULL, &batch, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pretrain_evaluate(NULL, &batch, 0, NULL), CAVMAE_E_ARG);
    batch.image = NULL;
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, NULL), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "image"));
    CHECK(tiny_hash(t.model) == hash && tiny_step(&t, 0, 2).step == 1);
    cavmae_trainer *trainer = NULL;
    cavmae_optimizer *optimizer;
    cavmae_model *other;
    CHECK_OK(cavmae_model_create(t.config, &other));
    CHECK_OK(cavmae_optimizer_create(other, t.config, &optimizer));
    CHECK_STATUS(cavmae_trainer_create(t.model, optimizer, t.config, &trainer), CAVMAE_E_ARG);
    CHECK_OK(cavmae_config_set(t.config, "joint_depth", "2"));
    CHECK_STATUS(cavmae_trainer_create(t.model, t.optimizer, t.config, &trainer), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), "joint_depth"));
    tiny_set(t.config, "joint_depth=1 mae_weight=0 contrast_weight=0");
    CHECK_STATUS(cavmae_trainer_create(t.model, t.optimizer, t.config, &trainer), CAVMAE_E_ARG);
    CHECK(trainer == NULL);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(other);
    tiny_release(&in);
    tiny_train_free(&t);
}

/* ---- What goes wrong on the way ---- */

static void test_not_finite(void) {
    cavmae_step_result waited_for = {.struct_size = sizeof waited_for};
    static const char name[] = "blocks_v.0.mlp.fc2.weight";
    tiny_training t = tiny_train(1, SMALLEST " lr=1e-2"), clean = tiny_train(1, SMALLEST " lr=1e-2");
    tiny_inputs in = tiny_make(t.config, 0, 3, NULL);
    const cavmae_batch batch = tiny_batch(&in, 3);
    tiny_step(&t, 0, 3);
    tiny_step(&clean, 0, 3);
    uint64_t hash = tiny_hash(t.model);
    for (int i = 0; i < in.audio_elements; i++) in.audio[i] = i % 64 == 7 ? NAN : in.audio[i]; /* in each patch */
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, &waited_for), CAVMAE_E_NOT_FINITE);
    CHECK(strstr(cavmae_last_error(), "step 2") && strstr(cavmae_last_error(), "audio"));
    CHECK_STATUS(cavmae_pretrain_evaluate(t.trainer, &batch, 0, NULL), CAVMAE_E_NOT_FINITE);
    tiny_fill(in.audio, in.audio_elements, 1);
    for (int i = 0; i < in.image_elements; i++) in.image[i] = i % 64 == 9 ? -INFINITY : in.image[i];
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, &waited_for), CAVMAE_E_NOT_FINITE);
    CHECK(strstr(cavmae_last_error(), "step 2") && strstr(cavmae_last_error(), "image"));
    tiny_fill(in.image, in.image_elements, 2);
    CHECK(tiny_hash(t.model) == hash);
    CHECK(tiny_step(&t, 3, 3).loss == tiny_step(&clean, 3, 3).loss && tiny_hash(t.model) == tiny_hash(clean.model));
    float weights[16 * 64] = {0};
    weights[77] = NAN;
    CHECK_OK(cavmae_model_set_parameter(t.model, name, weights, 16 * 64));
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, &waited_for), CAVMAE_E_NOT_FINITE);
    CHECK(strstr(cavmae_last_error(), name) && strstr(cavmae_last_error(), "step 3"));
    tiny_train_free(&t);
    t = tiny_train(1, SMALLEST " accumulate=2"); /* seen with the batch that has it, not only in the update */
    memset(in.audio, 0xFF, (size_t)in.audio_elements * sizeof *in.audio);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &batch, &waited_for), CAVMAE_E_NOT_FINITE);
    CHECK(strstr(cavmae_last_error(), "audio"));
    tiny_release(&in);
    tiny_train_free(&t);
    tiny_train_free(&clean);
}

/* Says yes when asked for the `at`-th time. */
typedef struct canceller {
    int asked, at;
} canceller;

static int32_t cancel(void *user) {
    canceller *c = user;
    return ++c->asked == c->at;
}

static void test_cancel(void) {
    canceller c = {0};
    cavmae_context_options options = test_options(2);
    options.cancel = cancel;
    options.cancel_user = &c;
    cavmae_context *context;
    CHECK_OK(cavmae_context_create(&options, &context));
    tiny_training t = tiny_train_in(context, SMALLEST " lr=1e-2 recompute=1"),
                  clean = tiny_train(1, SMALLEST " lr=1e-2");
    tiny_inputs in = tiny_make(t.config, 0, 3, NULL);
    const cavmae_batch batch = tiny_batch(&in, 3);
    uint64_t hash = tiny_hash(t.model);
    cavmae_status status = CAVMAE_E_CANCELLED;
    int times = 0;
    for (int at = 1; status == CAVMAE_E_CANCELLED; at++) {
        c = (canceller){.at = at};
        status = cavmae_pretrain_step(t.trainer, &batch, NULL);
        if (status != CAVMAE_E_CANCELLED) break;
        times++;
        CHECK(tiny_hash(t.model) == hash);
    }
    CHECK_OK(status);
    CHECK(times == 4 * 3); /* four layers: forward, again, and backward */
    CHECK_OK(cavmae_pretrain_step(clean.trainer, &batch, NULL));
    CHECK(tiny_hash(t.model) == tiny_hash(clean.model));
    tiny_release(&in);
    tiny_train_free(&t);
    tiny_train_free(&clean);
}

static void test_no_allocation(void) {
    static const char *const settings[] = {"", "accumulate=3 clip_norm=1", "recompute=1 dtype=bfloat16",
                                           "mask_domain=joint contrast_weight=0",
                                           "mask_mode_a=time_frequency contrast_direction=both"};
    static const int32_t frames[3] = {32, 16, 8};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        failing_allocator a = {0};
        cavmae_context_options options = failing_options(&a);
        cavmae_context *context;
        char all[512];
        options.threads = 2;
        CHECK_OK(cavmae_context_create(&options, &context));
        snprintf(all, sizeof all, SMALLEST " %s", settings[i]);
        tiny_training t = tiny_train_in(context, all);
        tiny_inputs in = tiny_make(t.config, 0, 3, frames);
        const cavmae_batch ragged = tiny_batch(&in, 3);
        tiny_step(&t, 0, 3);
        long calls = a.calls;
        /* A device's first products of a shape may take some; with joint masks every step has shapes of its own. */
        for (int round = on_cpu(context); round < 2; round++) {
            calls = a.calls;
            tiny_step(&t, 3, 3);
            tiny_step(&t, 6, 2);
            CHECK_OK(cavmae_pretrain_step(t.trainer, &ragged, NULL));
            CHECK_OK(cavmae_pretrain_evaluate(t.trainer, &ragged, 0, NULL));
        }
        CHECK(a.calls == calls || (!on_cpu(context) && strstr(settings[i], "joint")));
        tiny_release(&in);
        tiny_train_free(&t);
        CHECK(a.blocks == 0);
    }
}

int main(void) {
    test_configurations();
    test_masks();
    test_given_masks();
    test_evaluate();
    test_ragged();
    test_refusals();
    test_not_finite();
    test_cancel();
    test_no_allocation();
    return check_summary("pretrain");
}
