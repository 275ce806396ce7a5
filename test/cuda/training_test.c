/* Training on the device beside training on the CPU, from the same parameters on the same batches: losses and parameters
 * stay together, step for step; and on the device the same training has the same bits every time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

#include "compare.h"
#include "tiny.h"

enum { MOST_STEPS = 12 };

static int32_t is_bf16(const char *settings) { return strstr(settings, "dtype=bfloat16") != NULL; }

static tiny_training train_on_device(const char *settings) {
    const cavmae_context_options options = device_options();
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(check_summary("cuda training"));
    return tiny_train_in(context, settings);
}

static tiny_training train_on_cpu(const char *settings) {
    const cavmae_context_options options = {.struct_size = sizeof options, .threads = 2};
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(check_summary("cuda training"));
    return tiny_train_in(context, settings);
}

/* ---- Comparing ---- */

/* Squares of the difference and of what is expected. The key third of a qkv bias is left out: its gradient is rounding
 * alone, of which Adam makes steps. */
typedef struct squares {
    double difference, size;
} squares;

static squares compare_tensors(const char *name, const cavmae_tensor *got, const cavmae_tensor *expected) {
    const float *a = cavmae_tensor_data(got), *b = cavmae_tensor_data(expected);
    const int64_t count = cavmae_tensor_elements(got);
    const int keys = strstr(name, "attn.qkv.bias") != NULL;
    squares s = {0};
    for (int64_t i = 0; i < count; i++) {
        if (keys && i >= count / 3 && i < 2 * count / 3) continue;
        s.difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s.size += (double)b[i] * b[i];
    }
    return s;
}

static double relative(squares s) { return sqrt(s.difference) / (s.size > 0 ? sqrt(s.size) : 1); }

/* In float32 each parameter by itself. In bfloat16 all as one: biases begin at zero and are but a few of Adam's steps,
 * whose signs follow from gradients that rounding alone may turn. */
static void check_parameters(const tiny_training *device, const tiny_training *cpu, int32_t bf16) {
    const char *name, *worst_name = "";
    const double tolerance = bf16 ? 3e-3 : 3e-4;
    double worst = 0;
    squares all = {0};
    for (int64_t i = 0; (name = cavmae_model_parameter_name(cpu->model, i)) != NULL; i++) {
        cavmae_tensor *got = NULL, *expected = NULL;
        if (!CHECK_OK(cavmae_model_parameter(device->model, name, &got)) ||
            !CHECK_OK(cavmae_model_parameter(cpu->model, name, &expected)))
            return;
        const squares one = compare_tensors(name, got, expected);
        all.difference += one.difference;
        all.size += one.size;
        if (!bf16 && !(relative(one) <= worst)) {
            worst = relative(one);
            worst_name = name;
        }
        cavmae_tensor_free(got);
        cavmae_tensor_free(expected);
    }
    if (bf16) worst = relative(all);
    if (!CHECK(worst <= tolerance)) printf("    %s is off by %.3g, more than %.3g\n", worst_name, worst, tolerance);
}

/* Bounds are those of golden_report.h. In bfloat16 parts of the loss are only compared at the first step, and the
 * accuracy may be a match off. */
static void check_result(const cavmae_step_result *got, const cavmae_step_result *expected, int first, int32_t bf16) {
    const double tolerance = bf16 ? 1e-2 : first ? 1e-6 : 3e-5;
    const double a[] = {got->loss, got->grad_norm, got->loss_mae, got->loss_mae_a, got->loss_mae_v, got->loss_c},
                 b[] = {expected->loss,       expected->grad_norm,  expected->loss_mae,
                        expected->loss_mae_a, expected->loss_mae_v, expected->loss_c};
    for (int i = 0; i < (bf16 && !first ? 2 : 6); i++) {
        const double limit = (i == 1 ? 10 : 1) * tolerance; /* a gradient's norm */
        if (!CHECK(fabs(a[i] - b[i]) <= limit * fabs(b[i]))) printf("    result %d is %.9g, not %.9g\n", i, a[i], b[i]);
    }
    CHECK(fabs(got->accuracy - expected->accuracy) <= (bf16 ? 1.001 / (double)expected->pairs : 1e-9));
    CHECK(got->updated == expected->updated && got->step == expected->step && got->pairs == expected->pairs);
    CHECK(got->lr == expected->lr);
}

static void check_same_masks(const tiny_training *device, const tiny_training *cpu) {
    static const int32_t which[] = {CAVMAE_OUT_MASK_A, CAVMAE_OUT_MASK_V};
    for (int i = 0; i < 2; i++) {
        cavmae_tensor *got = NULL, *expected = NULL;
        if (!CHECK_OK(cavmae_trainer_output(device->trainer, which[i], &got)) ||
            !CHECK_OK(cavmae_trainer_output(cpu->trainer, which[i], &expected)))
            return;
        CHECK(cavmae_tensor_elements(got) == cavmae_tensor_elements(expected) &&
              memcmp(cavmae_tensor_data(got), cavmae_tensor_data(expected), (size_t)cavmae_tensor_elements(got)) == 0);
        cavmae_tensor_free(got);
        cavmae_tensor_free(expected);
    }
}

/* ---- Trajectories ---- */

/* So many clips in each step, 0 ends. Recorded on the device when a shape is seen again. */
static const int32_t equal_steps[] = {3, 3, 3, 3, 3, 3, 0}, changing_steps[] = {3, 3, 3, 2, 2, 3, 3, 1, 2, 3, 0};

static void check_trajectory(const char *settings, const int32_t *clips) {
    tiny_training device = train_on_device(settings), cpu = train_on_cpu(settings);
    const int failed = check_failed, bf16 = is_bf16(settings);
    for (int step = 0; clips[step]; step++) {
        const cavmae_step_result got = tiny_step(&device, 3 * step, clips[step]),
                                 expected = tiny_step(&cpu, 3 * step, clips[step]);
        check_result(&got, &expected, step == 0, bf16);
        check_same_masks(&device, &cpu);
    }
    check_parameters(&device, &cpu, bf16);
    if (check_failed > failed) printf("  with %s\n", settings);
    tiny_train_free(&device);
    tiny_train_free(&cpu);
}

static void test_trajectories(void) {
    static const char *const settings[] = {"",
                                           "clip_norm=0.5 contrast_direction=both",
                                           "accumulate=2 optimizer=adamw weight_decay=0.1",
                                           "recompute=1 trainable_pos=1",
                                           "warmup_steps=3 schedule=cosine total_steps=20 min_lr=1e-5",
                                           "dtype=bfloat16",
                                           "dtype=bfloat16 accumulate=2 clip_norm=0.5 recompute=1"};
    char all[512];
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        snprintf(all, sizeof all, SMALLEST " lr=1e-3 %s", settings[i]);
        check_trajectory(all, i == 1 || i == 6 ? changing_steps : equal_steps);
    }
}

/* Masks of every kind that the device draws and counts. */
static void test_masks(void) {
    static const char *const settings[] = {"mask_mode_a=time mask_mode_v=frequency",
                                           "mask_mode_a=time_frequency",
                                           "mask_domain=joint contrast_weight=0",
                                           "mae_weight=0 contrast_weight=1",
                                           "chunk=1 contrast_weight=0.5",
                                           "chunk=2 contrast_weight=0.5 contrast_shards=2 contrast_direction=both"};
    static const int32_t three_steps[] = {3, 3, 3, 0};
    char all[512];
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        snprintf(all, sizeof all, SMALLEST " lr=1e-3 %s", settings[i]);
        check_trajectory(all, three_steps);
    }
}

/* Clips of other lengths in between, whose shapes no recording fits. */
static void test_other_lengths(void) {
    static const int32_t frames[3] = {32, 16, 8}, others[3] = {8, 32, 24};
    static const char settings[] = SMALLEST " lr=1e-3";
    tiny_training device = train_on_device(settings), cpu = train_on_cpu(settings);
    for (int step = 0; step < 7; step++) {
        const int32_t *const lengths = step == 2 || step == 5 ? frames : step == 3 ? others : NULL;
        cavmae_step_result got = {.struct_size = sizeof got}, expected = got;
        tiny_inputs in = tiny_make(cpu.config, 3 * step, 3, lengths);
        const cavmae_batch batch = tiny_batch(&in, 3);
        CHECK_OK(cavmae_pretrain_step(device.trainer, &batch, &got));
        CHECK_OK(cavmae_pretrain_step(cpu.trainer, &batch, &expected));
        check_result(&got, &expected, step == 0, 0);
        check_same_masks(&device, &cpu);
        tiny_release(&in);
    }
    check_parameters(&device, &cpu, 0);
    tiny_train_free(&device);
    tiny_train_free(&cpu);
}

/* An evaluation between steps leaves no trace in them; nor does asking for no result. */
static void test_evaluation_between(void) {
    static const char settings[] = SMALLEST " lr=1e-3";
    tiny_training plain = train_on_device(settings), mixed = train_on_device(settings), cpu = train_on_cpu(settings);
    tiny_inputs in = tiny_make(cpu.config, 77, 3, NULL);
    const cavmae_batch batch = tiny_batch(&in, 3);
    for (int step = 0; step < 6; step++) {
        cavmae_step_result got = {.struct_size = sizeof got}, expected = got;
        CHECK_OK(cavmae_pretrain_evaluate(mixed.trainer, &batch, step % 2, &got));
        CHECK_OK(cavmae_pretrain_evaluate(cpu.trainer, &batch, step % 2, &expected));
        check_result(&got, &expected, step == 0, 0);
        const double loss = tiny_step(&plain, 3 * step, 3).loss;
        tiny_step(&cpu, 3 * step, 3);
        tiny_inputs step_in = tiny_make(cpu.config, 3 * step, 3, NULL);
        const cavmae_batch step_batch = tiny_batch(&step_in, 3);
        CHECK_OK(cavmae_pretrain_step(mixed.trainer, &step_batch, step == 3 ? &got : NULL));
        if (step == 3) CHECK(got.loss == loss && got.step == 4);
        tiny_release(&step_in);
    }
    CHECK(tiny_hash(plain.model) == tiny_hash(mixed.model));
    check_parameters(&mixed, &cpu, 0);
    tiny_release(&in);
    tiny_train_free(&plain);
    tiny_train_free(&mixed);
    tiny_train_free(&cpu);
}

/* Parameters and gradients that are read between steps, and parameters that are set, count. */
static void test_reading_and_setting(void) {
    static const char settings[] = SMALLEST " lr=1e-3", name[] = "blocks_a.0.mlp.fc1.weight";
    tiny_training device = train_on_device(settings), cpu = train_on_cpu(settings);
    for (int step = 0; step < 5; step++) {
        cavmae_tensor *got = NULL, *expected = NULL;
        tiny_step(&device, 3 * step, 3);
        tiny_step(&cpu, 3 * step, 3);
        CHECK_OK(cavmae_trainer_gradient(device.trainer, name, &got));
        CHECK_OK(cavmae_trainer_gradient(cpu.trainer, name, &expected));
        CHECK(relative(compare_tensors(name, got, expected)) <= (step ? 3e-4 : 3e-5));
        const int64_t count = cavmae_tensor_elements(got);
        cavmae_tensor_free(got);
        cavmae_tensor_free(expected);
        if (step == 3) {
            float *values = malloc((size_t)count * sizeof *values);
            tiny_fill(values, count, 5);
            for (int64_t i = 0; i < count; i++) values[i] *= 0.1f;
            CHECK_OK(cavmae_model_set_parameter(device.model, name, values, count));
            CHECK_OK(cavmae_model_set_parameter(cpu.model, name, values, count));
            free(values);
        }
        check_parameters(&device, &cpu, 0);
    }
    tiny_train_free(&device);
    tiny_train_free(&cpu);
}

/* A batch that is not finite changes nothing, recorded or not, and the training goes on as if it had not been. Without a
 * result nobody waits for the step: the next call tells of it, and does nothing else. */
static void test_not_finite(void) {
    static const char settings[] = SMALLEST " lr=1e-3";
    tiny_training device = train_on_device(settings), clean = train_on_device(settings);
    for (int step = 0; step < 8; step++) {
        cavmae_step_result result = {.struct_size = sizeof result};
        tiny_inputs in = tiny_make(device.config, 900, 3, NULL), good = tiny_make(device.config, 3 * step, 3, NULL);
        for (int64_t i = 0; i < in.image_elements; i++) in.image[i] = i % 64 == 9 ? NAN : in.image[i];
        const cavmae_batch batch = tiny_batch(&in, 3), next = tiny_batch(&good, 3);
        const uint64_t before = tiny_hash(device.model);
        switch (step % 4) {
        case 0: CHECK_STATUS(cavmae_pretrain_step(device.trainer, &batch, &result), CAVMAE_E_NOT_FINITE); break;
        case 1:
            CHECK_OK(cavmae_pretrain_step(device.trainer, &batch, NULL));
            CHECK_STATUS(cavmae_trainer_result(device.trainer, 1, &result), CAVMAE_E_NOT_FINITE);
            break;
        case 2:
            CHECK_OK(cavmae_pretrain_step(device.trainer, &batch, NULL));
            CHECK_STATUS(cavmae_pretrain_step(device.trainer, &next, &result), CAVMAE_E_NOT_FINITE);
            break;
        default:
            CHECK_OK(cavmae_pretrain_step(device.trainer, &batch, NULL));
            CHECK_STATUS(cavmae_pretrain_step(device.trainer, &next, NULL), CAVMAE_E_NOT_FINITE);
        }
        CHECK(strstr(cavmae_last_error(), "image") && strstr(cavmae_last_error(), "step"));
        CHECK(tiny_hash(device.model) == before);
        const cavmae_step_result got = tiny_step(&device, 3 * step, 3), expected = tiny_step(&clean, 3 * step, 3);
        CHECK(got.loss == expected.loss && got.step == expected.step);
        tiny_release(&in);
        tiny_release(&good);
    }
    CHECK(tiny_hash(device.model) == tiny_hash(clean.model));
    tiny_train_free(&device);
    tiny_train_free(&clean);
}

/* Results that were not waited for are had afterwards. */
static void test_results_later(void) {
    static const char settings[] = SMALLEST " lr=1e-3";
    tiny_training device = train_on_device(settings), waiting = train_on_device(settings);
    cavmae_step_result last = {.struct_size = sizeof last};
    CHECK_OK(cavmae_trainer_result(device.trainer, 1, &last));
    CHECK(last.step == 0 && last.loss == 0);
    for (int step = 0; step < 7; step++) {
        tiny_inputs in = tiny_make(device.config, 3 * step, 3, NULL);
        const cavmae_batch batch = tiny_batch(&in, 3);
        const cavmae_step_result before = last, expected = tiny_step(&waiting, 3 * step, 3);
        CHECK_OK(cavmae_pretrain_step(device.trainer, &batch, NULL));
        tiny_release(&in); /* the batch is the caller's again */
        if (step % 2) {
            CHECK_OK(cavmae_trainer_result(device.trainer, 0, &last));
            CHECK(last.step == before.step && last.loss == before.loss);
        }
        CHECK_OK(cavmae_trainer_result(device.trainer, 1, &last));
        CHECK(last.step == step + 1 && last.loss == expected.loss && last.grad_norm == expected.grad_norm);
        CHECK(last.accuracy == expected.accuracy && last.updated == 1 && last.lr == expected.lr);
    }
    CHECK(tiny_hash(device.model) == tiny_hash(waiting.model));
    tiny_train_free(&device);
    tiny_train_free(&waiting);
}

/* ---- Fine-tuning ---- */

static void test_finetuning(void) {
    static const char *const settings[] = {"loss=ce", "loss=bce freeze_base=1 dtype=bfloat16",
                                           "mode=audioonly head_lr_factor=10", "modality_dropout=0.5 clip_norm=1"};
    static const float labels[3 * 5] = {1, 0, 0, 0, 0, 0, 0.5f, 0.5f, 0, 0, 0, 0, 0, 0, 1};
    char all[512];
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        snprintf(all, sizeof all, SMALLEST " lr=1e-3 classes=5 %s", settings[i]);
        tiny_training device = train_on_device(all), cpu = train_on_cpu(all);
        const int failed = check_failed, bf16 = is_bf16(all);
        for (int step = 0; step < 5; step++) {
            cavmae_step_result got = {.struct_size = sizeof got}, expected = got;
            tiny_inputs in = tiny_make(cpu.config, 3 * step, 3, NULL);
            cavmae_batch batch = tiny_batch(&in, 3);
            batch.labels = labels;
            batch.classes = 5;
            CHECK_OK(cavmae_finetune_step(device.trainer, &batch, &got));
            CHECK_OK(cavmae_finetune_step(cpu.trainer, &batch, &expected));
            check_result(&got, &expected, step == 0, bf16);
            tiny_release(&in);
        }
        check_parameters(&device, &cpu, bf16);
        if (check_failed > failed) printf("  with %s\n", all);
        tiny_train_free(&device);
        tiny_train_free(&cpu);
    }
}

/* ---- The same bits ---- */

/* Losses and the parameters' hash after a few steps. */
typedef struct trace {
    double loss[MOST_STEPS];
    uint64_t hash;
} trace;

static trace run_on_device(const char *settings, const int32_t *clips) {
    trace t = {{0}, 0};
    tiny_training device = train_on_device(settings);
    for (int step = 0; clips[step]; step++) t.loss[step] = tiny_step(&device, 3 * step, clips[step]).loss;
    t.hash = tiny_hash(device.model);
    tiny_train_free(&device);
    return t;
}

static void test_same_bits(void) {
    static const char *const settings[] = {SMALLEST " lr=1e-3", SMALLEST " lr=1e-3 dtype=bfloat16",
                                           "lr=1e-3 batch=4 dtype=bfloat16"};
    static const int32_t four_steps[] = {4, 4, 4, 4, 0};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const int32_t *const clips = i == 2 ? four_steps : changing_steps;
        const trace first = run_on_device(settings[i], clips), second = run_on_device(settings[i], clips);
        CHECK(memcmp(&first, &second, sizeof first) == 0);
        CHECK(first.loss[0] > 0 && first.loss[1] > 0 && first.loss[0] != first.loss[1]);
    }
}

/* One thread trains, and records its steps, while another embeds with a model of the same context. */
typedef struct training_thread {
    tiny_training training;
    double loss[MOST_STEPS];
    tiny_inputs in[MOST_STEPS];
    int failures;
} training_thread;

static void *train_alone(void *arg) {
    training_thread *t = arg;
    for (int step = 0; step < MOST_STEPS; step++) { /* CHECK counts without a lock: main looks */
        cavmae_step_result result = {.struct_size = sizeof result};
        const cavmae_batch batch = tiny_batch(&t->in[step], 3);
        t->failures += cavmae_pretrain_step(t->training.trainer, &batch, &result) != CAVMAE_OK;
        t->loss[step] = result.loss;
    }
    return NULL;
}

static void test_beside_others(void) {
    static const char settings[] = SMALLEST " lr=1e-3";
    static training_thread alone, beside;
    training_thread *const both_threads[2] = {&alone, &beside};
    float joint[3 * 16], again[3 * 16];
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
        both_threads[i]->training = train_on_device(settings);
        for (int step = 0; step < MOST_STEPS; step++)
            both_threads[i]->in[step] = tiny_make(both_threads[i]->training.config, 3 * step, 3, NULL);
    }
    train_alone(&alone);
    cavmae_model *model = NULL;
    CHECK_OK(cavmae_model_create(beside.training.config, &model));
    const cavmae_batch batch = tiny_batch(&beside.in[0], 3);
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint},
                           out_again = {.struct_size = sizeof out, .joint = again};
    CHECK_OK(cavmae_embed(model, &batch, &out));
    if (pthread_create(&thread, NULL, train_alone, &beside) != 0) exit(2);
    for (int i = 0; i < 2 * MOST_STEPS; i++) {
        CHECK_OK(cavmae_embed(model, &batch, &out_again));
        CHECK(memcmp(joint, again, sizeof joint) == 0);
    }
    pthread_join(thread, NULL);
    CHECK(alone.failures == 0 && beside.failures == 0);
    CHECK(memcmp(alone.loss, beside.loss, sizeof alone.loss) == 0);
    CHECK(tiny_hash(alone.training.model) == tiny_hash(beside.training.model));
    cavmae_model_free(model);
    for (int i = 0; i < 2; i++) {
        for (int step = 0; step < MOST_STEPS; step++) tiny_release(&both_threads[i]->in[step]);
        tiny_train_free(&both_threads[i]->training);
    }
}

int main(void) {
    test_trajectories();
    test_masks();
    test_other_lengths();
    test_evaluation_between();
    test_reading_and_setting();
    test_not_finite();
    test_results_later();
    test_finetuning();
    test_same_bits();
    test_beside_others();
    return check_summary("cuda training");
}
