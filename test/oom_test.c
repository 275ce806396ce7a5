/* Every allocation of every call fails in turn, once or from then on: a status comes back, nothing leaks, and the
 * objects work afterwards as if nothing had been. */
#define _GNU_SOURCE
#include <unistd.h>

#include "failing_allocator.h"
#include "tiny.h"

static char directory[] = "/tmp/cavmae-oom-test-XXXXXX";

enum { CLIPS = 3, WIDTH = 16, SAMPLES = 4000 };

/* Made without failures, and used by the calls that are tested. */
typedef struct bench {
    failing_allocator allocator;
    tiny_training t;
    tiny_inputs in;
    cavmae_batch batch;
    char model_path[300], checkpoint_path[300], written_path[300];
    float pcm[SAMPLES];
    float embedded[CLIPS * WIDTH];
} bench;

static void setup(bench *b) {
    cavmae_context_options options = failing_options(&b->allocator);
    cavmae_context *context;
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &context));
    b->t = tiny_train_in(context, SMALLEST " lr=1e-2 mask_ratio_a=0.75 accumulate=2");
    b->in = tiny_make(b->t.config, 0, CLIPS, NULL);
    b->batch = tiny_batch(&b->in, CLIPS);
    snprintf(b->model_path, sizeof b->model_path, "%s/model", directory);
    snprintf(b->checkpoint_path, sizeof b->checkpoint_path, "%s/checkpoint", directory);
    snprintf(b->written_path, sizeof b->written_path, "%s/written", directory);
    tiny_fill(b->pcm, SAMPLES, 9);
    tiny_step(&b->t, 0, CLIPS);
    CHECK_OK(cavmae_model_save(b->t.model, b->model_path));
    CHECK_OK(cavmae_checkpoint_save(b->t.trainer, NULL, b->checkpoint_path));
}

static void teardown(bench *b) {
    tiny_release(&b->in);
    tiny_train_free(&b->t);
    CHECK(b->allocator.blocks == 0);
}

/* ---- Calls that leave nothing behind ---- */

static cavmae_status try_config(bench *b) {
    cavmae_config *config = NULL, *copy = NULL;
    cavmae_status status = cavmae_config_create(b->t.context, "tiny", &config);
    if (status == CAVMAE_OK) status = cavmae_config_clone(config, &copy);
    cavmae_config_free(config);
    cavmae_config_free(copy);
    return status;
}

static cavmae_status try_create(bench *b) {
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    cavmae_status status = cavmae_model_create(b->t.config, &model);
    if (status == CAVMAE_OK) status = cavmae_optimizer_create(model, b->t.config, &optimizer);
    if (status == CAVMAE_OK) status = cavmae_trainer_create(model, optimizer, b->t.config, &trainer);
    cavmae_model_free(model); /* before what needs it */
    cavmae_optimizer_free(optimizer);
    cavmae_trainer_free(trainer);
    return status;
}

static cavmae_status try_load(bench *b) {
    cavmae_model *model = NULL;
    cavmae_config *config = NULL;
    cavmae_tensor *view = NULL;
    const float values[WIDTH] = {0};
    cavmae_status status = cavmae_model_load(b->t.context, b->model_path, 0, NULL, &model);
    if (status == CAVMAE_OK) status = cavmae_model_config(model, &config);
    if (status == CAVMAE_OK) status = cavmae_model_parameter(model, "norm.bias", &view);
    if (status == CAVMAE_OK)
        status = cavmae_model_set_parameter(model, "norm.bias", values, WIDTH); /* no longer mapped */
    cavmae_tensor_free(view);
    cavmae_config_free(config);
    cavmae_model_free(model);
    return status;
}

static cavmae_status try_memory(bench *b) {
    cavmae_memory memory = {.struct_size = sizeof memory};
    cavmae_status status = cavmae_memory_required(b->t.config, CAVMAE_TASK_PRETRAIN, 2, &memory);
    return status == CAVMAE_OK ? cavmae_memory_required(b->t.config, CAVMAE_TASK_EMBED, 2, &memory) : status;
}

static cavmae_status try_embed(bench *b) {
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = b->embedded};
    memset(b->embedded, 0, sizeof b->embedded);
    return cavmae_embed(b->t.model, &b->batch, &out);
}

static cavmae_status try_longer(bench *b) {
    static const int32_t frames[1] = {96}; /* longer than the model's table of positions */
    float *joint = malloc(WIDTH * sizeof *joint);
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
    cavmae_batch batch = b->batch;
    batch.count = 1;
    batch.audio_frames = frames;
    cavmae_status status = cavmae_embed(b->t.model, &batch, &out);
    free(joint);
    return status;
}

/* A head on the model, a step through it, one on features alone (whose plan is smaller), scores of several frames. */
static cavmae_status try_head(bench *b) {
    static const float labels[CLIPS * 2] = {1, 0};
    float features[CLIPS * WIDTH], scores[2];
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    const cavmae_embedding seen = {.struct_size = sizeof seen, .features = features};
    const cavmae_embedding scored = {
        .struct_size = sizeof scored, .scores = scores, .average = CAVMAE_AVERAGE_FEATURES};
    cavmae_batch batch = b->batch, cached = {.struct_size = sizeof cached, .count = CLIPS, .features = features};
    cavmae_status status = cavmae_config_clone(b->t.config, &config);
    batch.labels = cached.labels = labels;
    batch.classes = cached.classes = 2;
    if (status == CAVMAE_OK) tiny_set(config, "classes=2 freeze_base=1 accumulate=1");
    if (status == CAVMAE_OK) status = cavmae_model_adapt(config, b->t.model, NULL, &model);
    if (status == CAVMAE_OK) status = cavmae_optimizer_create(model, config, &optimizer);
    if (status == CAVMAE_OK) status = cavmae_trainer_create(model, optimizer, config, &trainer);
    if (status == CAVMAE_OK) status = cavmae_embed(model, &batch, &seen);
    if (status == CAVMAE_OK) status = cavmae_finetune_step(trainer, &cached, NULL);
    if (status == CAVMAE_OK) status = cavmae_finetune_step(trainer, &batch, NULL);
    batch.count = 1; /* whose pictures are those of all clips */
    batch.frames = CLIPS;
    if (status == CAVMAE_OK) status = cavmae_embed(model, &batch, &scored);
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
    return status;
}

static cavmae_status try_prepare(bench *b) {
    cavmae_tensor *audio = NULL;
    float image[3 * 24 * 24];
    static const uint8_t pixels[40 * 30 * 3];
    cavmae_status status = cavmae_prepare_audio(b->t.config, b->pcm, SAMPLES, 1, 16000, &audio);
    cavmae_tensor_free(audio);
    return status == CAVMAE_OK ? cavmae_prepare_image(b->t.config, pixels, 40, 30, 0, image) : status;
}

static cavmae_status try_outputs(bench *b) {
    cavmae_tensor *output = NULL, *gradient = NULL;
    CHECK_OK(cavmae_pretrain_evaluate(b->t.trainer, &b->batch, 0, NULL)); /* takes no memory */
    cavmae_status status = cavmae_trainer_output(b->t.trainer, CAVMAE_OUT_PRED_V, &output);
    if (status == CAVMAE_OK) status = cavmae_trainer_gradient(b->t.trainer, "norm.bias", &gradient);
    cavmae_tensor_free(output);
    cavmae_tensor_free(gradient);
    return status;
}

static cavmae_status try_save(bench *b) {
    cavmae_status status = cavmae_model_save(b->t.model, b->written_path);
    if (status == CAVMAE_OK) status = cavmae_checkpoint_save(b->t.trainer, NULL, b->written_path);
    return status;
}

static cavmae_status try_checkpoint_load(bench *b) {
    return cavmae_checkpoint_load(b->t.trainer, NULL, b->checkpoint_path);
}

typedef cavmae_status attempt(bench *b);

static void check_call(bench *b, const char *name, attempt *call) {
    uint64_t hash = tiny_hash(b->t.model);
    if (!on_cpu(b->t.context)) CHECK_OK(call(b)); /* what a device keeps for each shape of a product */
    for (int after = 0; after < 2; after++) {
        long failures = 0, blocks = b->allocator.blocks;
        for (;;) {
            b->allocator.fail_after = after;
            b->allocator.fail_at = b->allocator.calls + failures + 1;
            cavmae_status status = call(b);
            int reached = b->allocator.calls >= b->allocator.fail_at;
            b->allocator.fail_at = 0;
            if (b->allocator.blocks != blocks) {
                CHECK(b->allocator.blocks == blocks);
                printf("    %s, allocation %ld\n", name, failures + 1);
                break;
            }
            if (!reached) {
                CHECK_OK(status);
                break;
            }
            if (!CHECK_STATUS(status, CAVMAE_E_NOMEM)) printf("    %s, allocation %ld\n", name, failures + 1);
            failures++;
        }
        CHECK(failures > 0);
    }
    CHECK_OK(call(b));
    CHECK(tiny_hash(b->t.model) == hash);
}

static void test_calls(void) {
    static const struct {
        const char *name;
        attempt *call;
    } calls[] = {
        {"config", try_config},
        {"create", try_create},
        {"load", try_load},
        {"memory", try_memory},
        {"embed", try_embed},
        {"embed longer", try_longer},
        {"prepare", try_prepare},
        {"outputs", try_outputs},
        {"head", try_head},
        {"save", try_save},
        {"checkpoint load", try_checkpoint_load},
    };
    bench b = {0};
    setup(&b);
    float before[CLIPS * WIDTH];
    CHECK_OK(try_embed(&b));
    memcpy(before, b.embedded, sizeof before);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) check_call(&b, calls[i].name, calls[i].call);
    CHECK_OK(try_embed(&b));
    CHECK(memcmp(before, b.embedded, sizeof before) == 0);

    /* The checkpoint that was loaded, over and over, is in the middle of an update; it goes on like the run it is
     * from. */
    tiny_training fresh = tiny_train(1, SMALLEST " lr=1e-2 mask_ratio_a=0.75 accumulate=2");
    tiny_step(&fresh, 0, CLIPS);
    for (int i = 0; i < 3; i++) CHECK(tiny_step(&fresh, i, CLIPS).loss == tiny_step(&b.t, i, CLIPS).loss);
    CHECK(tiny_hash(fresh.model) == tiny_hash(b.t.model));
    tiny_train_free(&fresh);
    remove(b.model_path);
    remove(b.checkpoint_path);
    CHECK(remove(b.written_path) == 0);
    CHECK(rmdir(directory) == 0); /* no temporary file is left either */
    teardown(&b);
}

/* ---- A plan that has to grow ---- */

static void test_growth(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context;
    uint8_t mask[CLIPS * 8];
    for (int i = 0; i < CLIPS * 8; i++) mask[i] = i % 8 == 0;
    CHECK_OK(cavmae_context_create(&options, &context));
    tiny_training t = tiny_train_in(context, SMALLEST " lr=1e-2 mask_ratio_a=0.75"),
                  clean = tiny_train(1, SMALLEST " lr=1e-2 mask_ratio_a=0.75");
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    cavmae_batch batch = tiny_batch(&in, CLIPS);
    batch.mask_a = mask;
    cavmae_status status = CAVMAE_E_NOMEM;
    int failures = 0;
    for (; status == CAVMAE_E_NOMEM && failures < 100; failures++) {
        cavmae_tensor *tensor;
        uint64_t hash = tiny_hash(t.model);
        allocator.fail_at = allocator.calls + failures + 1;
        allocator.fail_after = 1;
        status = cavmae_pretrain_step(t.trainer, &batch, NULL);
        if (status == CAVMAE_OK) break;
        CHECK_STATUS(cavmae_trainer_output(t.trainer, CAVMAE_OUT_MASK_A, &tensor), CAVMAE_E_NOT_FOUND);
        CHECK_STATUS(cavmae_pretrain_evaluate(t.trainer, &batch, 0, NULL), CAVMAE_E_NOMEM); /* there is no plan now */
        allocator.fail_at = 0;
        CHECK(tiny_hash(t.model) == hash);
        CHECK(tiny_step(&t, failures, CLIPS).loss == tiny_step(&clean, failures, CLIPS).loss);
    }
    allocator.fail_at = 0;
    CHECK_OK(status);
    CHECK(failures >= 4);
    CHECK_OK(cavmae_pretrain_step(clean.trainer, &batch, NULL));
    CHECK(tiny_hash(t.model) == tiny_hash(clean.model));
    tiny_release(&in);
    tiny_train_free(&t);
    tiny_train_free(&clean);
    CHECK(allocator.blocks == 0);
}

/* ---- From nothing ---- */

static cavmae_status from_nothing(failing_allocator *allocator) {
    cavmae_context_options options = failing_options(allocator);
    cavmae_context *context = NULL;
    cavmae_config *config = NULL;
    cavmae_model *model = NULL;
    options.threads = 3;
    if (!options.plugin_dir) options.plugin_dir = "/nowhere";
    cavmae_status status = cavmae_context_create(&options, &context);
    if (status == CAVMAE_OK) status = cavmae_config_create(context, "tiny", &config);
    if (status == CAVMAE_OK) status = cavmae_model_create(config, &model);
    cavmae_context_free(context);
    cavmae_config_free(config);
    cavmae_model_free(model);
    return status;
}

static void test_from_nothing(void) {
    for (int after = 0; after < 2; after++) {
        long n = 1;
        for (; n < 10000; n++) {
            failing_allocator allocator = {.fail_at = n, .fail_after = after};
            cavmae_status status = from_nothing(&allocator);
            if (!CHECK(allocator.blocks == 0)) printf("    allocation %ld\n", n);
            if (status == CAVMAE_OK) break;
            CHECK_STATUS(status, CAVMAE_E_NOMEM);
        }
        CHECK(n > 200 && n < 10000);
    }
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_calls();
    test_growth();
    test_from_nothing();
    return check_summary("oom");
}
