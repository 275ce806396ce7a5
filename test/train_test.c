/* Updates: the same bits whatever the threads, interruptions and recomputation; accumulation, clipping, groups,
 * schedules and both optimizers against their formulas. */
#define _GNU_SOURCE
#include <unistd.h>

#include "tiny.h"

static char directory[] = "/tmp/cavmae-train-test-XXXXXX";

static const char *in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- The same bits ---- */

/* What a run leaves behind: the losses of its steps and all parameters. */
typedef struct trace {
    uint64_t hash;
    double loss[8];
} trace;

static trace run(int32_t threads, const char *settings, int32_t steps) {
    tiny_training t = tiny_train(threads, settings);
    trace out = {0};
    for (int32_t i = 0; i < steps; i++) out.loss[i] = tiny_step(&t, 4 * i, 4).loss;
    out.hash = tiny_hash(t.model);
    tiny_train_free(&t);
    return out;
}

static int same(const trace *a, const trace *b) { return memcmp(a, b, sizeof *a) == 0; }

static void test_threads_and_recompute(void) {
    static const char *const settings[] = {"lr=1e-3", "lr=1e-3 dtype=bfloat16",
                                           "lr=1e-3 trainable_pos=1 contrast_direction=both"};
    char recompute[128];
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        trace one = run(1, settings[i], 3), two = run(2, settings[i], 3), three = run(3, settings[i], 3);
        CHECK(same(&one, &two) && same(&one, &three));
        CHECK(one.loss[0] != one.loss[1] && isfinite(one.loss[2]));
        snprintf(recompute, sizeof recompute, "%s recompute=1", settings[i]);
        trace again = run(2, recompute, 3);
        CHECK(same(&one, &again));
        if (i == 1) continue; /* GELU of what was rounded to bfloat16 has other bits */
        snprintf(recompute, sizeof recompute, "%s recompute=2", settings[i]);
        again = run(3, recompute, 3);
        CHECK(same(&one, &again));
    }
    trace zero = run(2, "lr=1e-3", 2), other = run(2, "lr=1e-3 seed=1", 2);
    CHECK(zero.hash != other.hash);
}

/* Stops after `at` steps, goes on in a new trainer in another context, and ends as if nothing had been. */
static void check_resume(const char *settings, int32_t at, int32_t steps) {
    const char *path = in_directory("checkpoint");
    trace whole = run(2, settings, steps), saved = {0}, resumed = {0};
    tiny_training t = tiny_train(1, settings);
    for (int32_t i = 0; i < at; i++) saved.loss[i] = resumed.loss[i] = tiny_step(&t, 4 * i, 4).loss;
    CHECK_OK(cavmae_checkpoint_save(t.trainer, NULL, path));
    int64_t updates = cavmae_optimizer_updates(t.optimizer);
    for (int32_t i = at; i < steps; i++) saved.loss[i] = tiny_step(&t, 4 * i, 4).loss;
    saved.hash = tiny_hash(t.model);
    tiny_train_free(&t);
    CHECK(same(&whole, &saved)); /* saving leaves no trace */

    t = tiny_train(3, settings);
    tiny_step(&t, 900, 2); /* what it did before is forgotten */
    CHECK_OK(cavmae_checkpoint_load(t.trainer, NULL, path));
    CHECK(cavmae_optimizer_updates(t.optimizer) == updates);
    for (int32_t i = at; i < steps; i++) {
        cavmae_step_result result = tiny_step(&t, 4 * i, 4);
        CHECK(result.step == i + 1);
        resumed.loss[i] = result.loss;
    }
    resumed.hash = tiny_hash(t.model);
    CHECK(same(&whole, &resumed));
    tiny_train_free(&t);
}

static void test_resume(void) {
    check_resume("lr=1e-3", 2, 4);
    check_resume("lr=1e-3 dtype=bfloat16 optimizer=adamw weight_decay=0.1", 2, 4);
    check_resume("lr=1e-3 accumulate=2", 2, 6);
    check_resume("lr=1e-3 accumulate=2", 3, 6); /* between the two batches of an update */
    check_resume("lr=1e-3 accumulate=3 mae_weight=0 contrast_weight=1", 5, 7);
    /* Three tokens stay of each clip's 13: a modality often has none of a whole batch. */
    check_resume(SMALLEST " lr=1e-2 audio_frames=16 batch=4 mask_domain=joint mask_ratio_a=0.9 contrast_weight=0", 3,
                 8);

    static const char settings[] = SMALLEST " accumulate=3";
    tiny_training t = tiny_train(1, settings), other;
    char path[300];
    snprintf(path, sizeof path, "%s", in_directory("checkpoint"));
    tiny_step(&t, 0, 3);
    tiny_step(&t, 0, 3);
    CHECK_OK(cavmae_checkpoint_save(t.trainer, NULL, path));
    cavmae_model *model;
    cavmae_load_report report = {.struct_size = sizeof report};
    CHECK_OK(cavmae_model_load(t.context, path, 0, &report, &model)); /* a checkpoint is a model file */
    CHECK(report.unexpected == 0 && report.missing == 0 && tiny_hash(model) == tiny_hash(t.model));
    cavmae_model_free(model);
    other = tiny_train(1, SMALLEST " accumulate=2");
    uint64_t before = tiny_hash(other.model);
    CHECK_STATUS(cavmae_checkpoint_load(other.trainer, NULL, path), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), "accumulate") && strstr(cavmae_last_error(), path));
    tiny_train_free(&other);
    other = tiny_train(1, SMALLEST " joint_depth=2");
    CHECK_STATUS(cavmae_checkpoint_load(other.trainer, NULL, path), CAVMAE_E_MISMATCH);
    tiny_train_free(&other);
    other = tiny_train(1, settings);
    CHECK_OK(cavmae_model_save(other.model, path));
    CHECK_STATUS(cavmae_checkpoint_load(other.trainer, NULL, path), CAVMAE_E_FORMAT);
    CHECK_STATUS(cavmae_checkpoint_load(other.trainer, NULL, in_directory("missing")), CAVMAE_E_IO);
    cavmae_trainer *evaluates;
    CHECK_OK(cavmae_trainer_create(other.model, NULL, other.config, &evaluates));
    CHECK_STATUS(cavmae_checkpoint_load(evaluates, NULL, path), CAVMAE_E_STATE);
    CHECK_STATUS(cavmae_checkpoint_save(evaluates, NULL, path), CAVMAE_E_STATE);
    CHECK(tiny_hash(other.model) == before);
    cavmae_trainer_free(evaluates);
    tiny_train_free(&other);
    tiny_train_free(&t);
}

/* ---- Gradients of several batches ---- */

/* L2 of the difference over the L2 of b. */
static double distance(const float *a, double scale, const float *b, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += (a[i] * scale - b[i]) * (a[i] * scale - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

static void test_accumulate(void) {
    enum { LA = 64, LV = 16, CLIPS = 4 };
    static const char *const names[] = {"patch_embed_a.proj.weight", "blocks_v.1.mlp.fc1.bias",
                                        "blocks_u.0.norm1.weight", "mask_token", "decoder_pred_v.weight"};
    tiny_training full = tiny_train(1, "lr=0 contrast_weight=0"),
                  halves = tiny_train(1, "lr=0 contrast_weight=0 accumulate=2");
    uint8_t mask_a[CLIPS * LA], mask_v[CLIPS * LV];
    for (int i = 0; i < CLIPS * LA; i++) mask_a[i] = (i * 7 + i / LA) % 4 != 0;
    for (int i = 0; i < CLIPS * LV; i++) mask_v[i] = (i * 3 + i / LV) % 4 != 1;
    tiny_inputs in = tiny_make(full.config, 0, CLIPS, NULL);
    cavmae_batch batch = tiny_batch(&in, CLIPS);
    cavmae_step_result r = {.struct_size = sizeof r}, first = r, second = r;
    batch.mask_a = mask_a;
    batch.mask_v = mask_v;
    CHECK_OK(cavmae_pretrain_step(full.trainer, &batch, &r));
    batch.count = CLIPS / 2;
    CHECK_OK(cavmae_pretrain_step(halves.trainer, &batch, &first));
    batch.audio += in.audio_elements / 2;
    batch.image += in.image_elements / 2;
    batch.mask_a += CLIPS / 2 * LA;
    batch.mask_v += CLIPS / 2 * LV;
    CHECK_OK(cavmae_pretrain_step(halves.trainer, &batch, &second));
    CHECK(r.updated == 1 && first.updated == 0 && second.updated == 1 && first.grad_norm == 0 && second.step == 2);
    CHECK(cavmae_optimizer_updates(halves.optimizer) == 1);
    CHECK_CLOSE((first.loss + second.loss) / 2, r.loss, 1e-6);
    CHECK_CLOSE(second.grad_norm, r.grad_norm, 1e-5 * r.grad_norm);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cavmae_tensor *a, *b;
        CHECK_OK(cavmae_trainer_gradient(halves.trainer, names[i], &a));
        CHECK_OK(cavmae_trainer_gradient(full.trainer, names[i], &b));
        CHECK_CLOSE(distance(cavmae_tensor_data(a), 0.5, cavmae_tensor_data(b), cavmae_tensor_elements(b)), 0, 1e-5);
        cavmae_tensor_free(a);
        cavmae_tensor_free(b);
    }
    tiny_release(&in);
    tiny_train_free(&full);
    tiny_train_free(&halves);
}

/* After any failure what was accumulated is dropped. */
static void test_accumulate_dropped(void) {
    tiny_training t = tiny_train(1, SMALLEST " lr=1e-2 accumulate=2"),
                  clean = tiny_train(1, SMALLEST " lr=1e-2 accumulate=2");
    cavmae_batch bad = {.struct_size = sizeof bad, .count = 99};
    CHECK(tiny_step(&t, 50, 3).updated == 0);
    CHECK_STATUS(cavmae_pretrain_step(t.trainer, &bad, NULL), CAVMAE_E_SHAPE);
    tiny_step(&clean, 50, 3); /* steps are counted alike, as masks follow from them */
    CHECK_STATUS(cavmae_pretrain_step(clean.trainer, NULL, NULL), CAVMAE_E_ARG);
    for (int i = 0; i < 2; i++) {
        CHECK(tiny_step(&t, 3 * i, 3).updated == i);
        CHECK(tiny_step(&clean, 3 * i, 3).updated == i);
    }
    CHECK(tiny_hash(t.model) == tiny_hash(clean.model));
    tiny_train_free(&t);
    tiny_train_free(&clean);
}

/* ---- One update against its formula ---- */

static float *copy_of(cavmae_tensor *tensor) {
    size_t size = (size_t)cavmae_tensor_elements(tensor) * sizeof(float);
    float *copy = malloc(size);
    memcpy(copy, cavmae_tensor_data(tensor), size);
    cavmae_tensor_free(tensor);
    return copy;
}

static float *parameter_of(const tiny_training *t, const char *name) {
    cavmae_tensor *tensor;
    if (!CHECK_OK(cavmae_model_parameter(t->model, name, &tensor))) exit(1);
    return copy_of(tensor);
}

static float *gradient_of(const tiny_training *t, const char *name) {
    cavmae_tensor *tensor;
    if (!CHECK_OK(cavmae_trainer_gradient(t->trainer, name, &tensor))) exit(1);
    return copy_of(tensor);
}

/* The first update: Adam's bias-corrected moments are the gradient itself and its square. */
static double first_update(double p, double g, double lr, double decay, double eps, int decoupled) {
    if (!decoupled) g += decay * p;
    return (decoupled ? p * (1 - lr * decay) : p) - lr * g / (fabs(g) + eps);
}

static void check_first_update(const char *settings, double lr, double decay, double eps, double clip, int decoupled) {
    enum { ELEMENTS = 16 * 48 };
    static const char name[] = "blocks_a.0.attn.qkv.weight";
    tiny_training t = tiny_train(1, settings);
    float *before = parameter_of(&t, name);
    cavmae_step_result r = tiny_step(&t, 0, 3);
    float *after = parameter_of(&t, name), *gradient = gradient_of(&t, name);
    double worst = 0, scale = clip > 0 && r.grad_norm > clip ? clip / r.grad_norm : 1;
    CHECK(r.lr == lr && r.updated == 1 && r.grad_norm > 0.01);
    for (int i = 0; i < ELEMENTS; i++)
        worst = fmax(worst, fabs(after[i] - first_update(before[i], gradient[i] * scale, lr, decay, eps, decoupled)));
    CHECK_CLOSE(worst, 0, 1e-6);
    free(before);
    free(after);
    free(gradient);
    tiny_train_free(&t);
}

static void test_updates(void) {
    check_first_update(SMALLEST " lr=0.125 weight_decay=0.5 adam_eps=0.01", 0.125, 0.5, 0.01, 0, 0);
    check_first_update(SMALLEST " lr=0.125 weight_decay=0.5 adam_eps=0.01 optimizer=adamw", 0.125, 0.5, 0.01, 0, 1);
    check_first_update(SMALLEST " lr=0.125 weight_decay=0 adam_eps=0.01 clip_norm=0.001", 0.125, 0, 0.01, 0.001, 0);
    check_first_update(SMALLEST " lr=0.125 weight_decay=0 adam_eps=0.01 clip_norm=1000", 0.125, 0, 0.01, 1000, 0);
}

/* grad_norm is that of all gradients together. */
static void test_grad_norm(void) {
    tiny_training t = tiny_train(1, SMALLEST " contrast_weight=1");
    cavmae_step_result r = tiny_step(&t, 0, 3);
    double sum = 0;
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(t.model, i)) != NULL; i++) {
        cavmae_tensor *tensor;
        if (cavmae_trainer_gradient(t.trainer, name, &tensor) != CAVMAE_OK) {
            /* Fixed positions have none, and norms of streams that a layer is never used for. */
            CHECK(strstr(name, "pos_embed") || strstr(name, "norm1_") || strstr(name, "norm2_") ||
                  strstr(name, "blocks_u"));
            continue;
        }
        const float *g = cavmae_tensor_data(tensor);
        for (int64_t k = 0; k < cavmae_tensor_elements(tensor); k++) sum += (double)g[k] * g[k];
        cavmae_tensor_free(tensor);
    }
    CHECK_CLOSE(r.grad_norm, sqrt(sum), 1e-6 * r.grad_norm);
    cavmae_tensor *tensor;
    CHECK_STATUS(cavmae_trainer_gradient(t.trainer, "nothing", &tensor), CAVMAE_E_NOT_FOUND);
    CHECK_STATUS(cavmae_trainer_gradient(t.trainer, "pos_embed_a", &tensor), CAVMAE_E_NOT_FOUND);
    tiny_train_free(&t);
}

/* ---- Groups and schedules ---- */

static int changed(const float *a, const float *b, int64_t count) {
    return memcmp(a, b, (size_t)count * sizeof *a) != 0;
}

static void test_groups(void) {
    tiny_training t = tiny_train(1, SMALLEST " lr=0.125 weight_decay=0 adam_eps=0.01");
    static const char *const names[] = {"blocks_a.0.mlp.fc1.weight", "blocks_a.0.norm1.weight",
                                        "blocks_v.0.norm1.weight", "norm.weight"};
    float *before[4];
    CHECK_STATUS(cavmae_optimizer_group(t.optimizer, "block_a", 0, 0), CAVMAE_E_NOT_FOUND);
    CHECK(strstr(cavmae_last_error(), "'block_a'"));
    CHECK_STATUS(cavmae_optimizer_group(t.optimizer, "blocks_a", -1, 0), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_optimizer_group(t.optimizer, "blocks_a", 1, NAN), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_optimizer_group(t.optimizer, NULL, 1, 0), CAVMAE_E_ARG);
    CHECK_OK(cavmae_optimizer_group(t.optimizer, "blocks_", 0, 0));
    CHECK_OK(cavmae_optimizer_group(t.optimizer, "blocks_a.0.norm1.", 0.5, 2)); /* the last that fits counts */
    for (int i = 0; i < 4; i++) before[i] = parameter_of(&t, names[i]);
    tiny_step(&t, 0, 3);
    for (int i = 0; i < 4; i++) {
        float *after = parameter_of(&t, names[i]), *gradient = gradient_of(&t, names[i]);
        CHECK(changed(before[i], after, 16) == (i == 1 || i == 3));
        for (int k = 0; k < 16 && i % 2; k++)
            CHECK_CLOSE(after[k],
                        first_update(before[i][k], gradient[k], i == 1 ? 0.0625 : 0.125, i == 1 ? 2 : 0, 0.01, 0),
                        1e-6);
        free(after);
        free(gradient);
        free(before[i]);
    }
    CHECK_STATUS(cavmae_optimizer_group(t.optimizer, "blocks_a", 1, 0), CAVMAE_E_STATE);
    tiny_train_free(&t);
}

static double multistep(int64_t update) {
    return 0.1 * (update <= 3 ? (double)update / 3 : 1) * (update > 2 ? 0.25 : 1) * (update > 5 ? 0.25 : 1);
}

static double cosine(int64_t update) {
    if (update <= 2) return 0.1 * (double)update / 2;
    double part = update > 6 ? 1 : (double)(update - 2) / 4;
    return 0.01 + 0.09 * (1 + cos(acos(-1) * part)) / 2;
}

static void test_schedules(void) {
    static const char *const settings[] = {
        SMALLEST " lr=0.1 warmup_steps=3 milestones=2,5 gamma=0.25 accumulate=2",
        SMALLEST " lr=0.1 schedule=cosine warmup_steps=2 total_steps=6 min_lr=0.01 accumulate=2"};
    double (*const expected[])(int64_t) = {multistep, cosine};
    for (int s = 0; s < 2; s++) {
        tiny_training t = tiny_train(1, settings[s]);
        for (int64_t update = 1; update <= 8; update++) {
            CHECK_CLOSE(cavmae_optimizer_lr(t.optimizer), expected[s](update), 1e-15);
            CHECK(tiny_step(&t, 0, 2).lr == 0);
            CHECK_CLOSE(tiny_step(&t, 2, 2).lr, expected[s](update), 1e-15);
            CHECK(cavmae_optimizer_updates(t.optimizer) == update);
        }
        tiny_train_free(&t);
    }
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_threads_and_recompute();
    test_resume();
    test_accumulate();
    test_accumulate_dropped();
    test_updates();
    test_grad_norm();
    test_groups();
    test_schedules();
    remove(in_directory("checkpoint"));
    rmdir(directory);
    return check_summary("train");
}
