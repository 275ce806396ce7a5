/* Objects in several threads at once, and handles freed in every order. */
#include <pthread.h>

#include "failing_allocator.h"
#include "tiny.h"

enum { THREADS = 3, STEPS = 6, CLIPS = 3, WIDTH = 16, ROUNDS = 15 };

/* ---- Two contexts train ---- */

typedef struct run {
    const char *settings;
    int32_t threads;
    double loss[STEPS];
    uint64_t hash;
    cavmae_status missing; /* of a call that fails on purpose, and whether its sentence is this thread's */
    int told;
} run;

static void *train(void *arg) {
    run *r = arg;
    tiny_training t = {.context = NULL};
    const cavmae_context_options options = test_options(r->threads);
    cavmae_tensor *tensor = NULL;
    /* CHECK counts without a lock: threads only gather, and main looks. */
    if (cavmae_context_create(&options, &t.context) != CAVMAE_OK) return NULL;
    if (cavmae_config_create(t.context, "tiny", &t.config) != CAVMAE_OK) return NULL;
    if (cavmae_config_set(t.config, "lr", "0.001") != CAVMAE_OK) return NULL;
    if (cavmae_config_set(t.config, "dtype", r->settings) != CAVMAE_OK) return NULL;
    if (cavmae_model_create(t.config, &t.model) != CAVMAE_OK) return NULL;
    if (cavmae_optimizer_create(t.model, t.config, &t.optimizer) != CAVMAE_OK) return NULL;
    if (cavmae_trainer_create(t.model, t.optimizer, t.config, &t.trainer) != CAVMAE_OK) return NULL;
    static const int64_t audio = 128 * 128, image = 3 * 64 * 64;
    float *inputs = malloc((size_t)(CLIPS * (audio + image)) * sizeof *inputs);
    for (int step = 0; step < STEPS; step++) {
        cavmae_step_result result = {.struct_size = sizeof result};
        tiny_fill(inputs, CLIPS * (audio + image), (uint64_t)step);
        const cavmae_batch batch = {
            .struct_size = sizeof batch, .count = CLIPS, .audio = inputs, .image = inputs + CLIPS * audio};
        if (cavmae_pretrain_step(t.trainer, &batch, &result) == CAVMAE_OK) r->loss[step] = result.loss;
        r->missing = cavmae_model_parameter(t.model, r->settings, &tensor);
        r->told += strstr(cavmae_last_error(), r->settings) != NULL;
    }
    free(inputs);
    if (cavmae_model_parameter(t.model, "blocks_u.0.mlp.fc1.weight", &tensor) == CAVMAE_OK) {
        const unsigned char *bytes = cavmae_tensor_data(tensor);
        r->hash = 0xCBF29CE484222325u;
        for (int64_t i = 0; i < 4 * cavmae_tensor_elements(tensor); i++)
            r->hash = (r->hash ^ bytes[i]) * 0x100000001B3u;
        cavmae_tensor_free(tensor);
    }
    tiny_train_free(&t);
    return NULL;
}

static void test_contexts(void) {
    const run settings[THREADS] = {{.settings = "float32", .threads = 2},
                                   {.settings = "bfloat16", .threads = 1},
                                   {.settings = "float32", .threads = 1}};
    run alone[THREADS], together[THREADS];
    pthread_t threads[THREADS];
    memcpy(alone, settings, sizeof alone);
    memcpy(together, settings, sizeof together);
    for (int i = 0; i < THREADS; i++) train(&alone[i]);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, train, &together[i]) != 0) exit(2);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        CHECK(alone[i].loss[0] > 0 && alone[i].loss[STEPS - 1] > 0 && alone[i].hash != 0);
        CHECK(memcmp(alone[i].loss, together[i].loss, sizeof alone[i].loss) == 0);
        CHECK(alone[i].hash == together[i].hash);
        CHECK(together[i].missing == CAVMAE_E_NOT_FOUND && together[i].told == STEPS);
    }
    CHECK(alone[0].hash == alone[2].hash && alone[0].hash != alone[1].hash);
}

/* ---- One model embeds ---- */

typedef struct embedder {
    cavmae_model *model;
    const tiny_inputs *in;
    int32_t first;
    float joint[WIDTH], audio[WIDTH];
    int differences;
} embedder;

static void *embed_rounds(void *arg) {
    embedder *e = arg;
    for (int round = 0; round < ROUNDS; round++) {
        float joint[WIDTH], audio[WIDTH];
        cavmae_batch batch = tiny_batch(e->in, 1);
        const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint, .audio = audio};
        cavmae_tensor *view = NULL;
        batch.audio += e->first * e->in->audio_elements / THREADS;
        batch.image += e->first * e->in->image_elements / THREADS;
        e->differences += cavmae_embed(e->model, &batch, &out) != CAVMAE_OK || memcmp(joint, e->joint, sizeof joint) ||
                          memcmp(audio, e->audio, sizeof audio);
        e->differences += cavmae_model_parameter(e->model, "norm.bias", &view) != CAVMAE_OK;
        cavmae_tensor_free(view);
    }
    return NULL;
}

static void test_shared_model(void) {
    cavmae_context *context = tiny_context(2);
    cavmae_config *config = tiny_config(context, SMALLEST " modality_depth=3");
    tiny_inputs in = tiny_make(config, 0, THREADS, NULL);
    embedder embedders[THREADS];
    cavmae_model *model;
    pthread_t threads[THREADS];
    float joint[THREADS * WIDTH], audio[THREADS * WIDTH];
    CHECK_OK(cavmae_model_create(config, &model));
    const cavmae_batch batch = tiny_batch(&in, THREADS);
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint, .audio = audio};
    CHECK_OK(cavmae_embed(model, &batch, &out));
    for (int i = 0; i < THREADS; i++) {
        embedders[i] = (embedder){.model = model, .in = &in, .first = i};
        memcpy(embedders[i].joint, joint + i * WIDTH, sizeof embedders[i].joint);
        memcpy(embedders[i].audio, audio + i * WIDTH, sizeof embedders[i].audio);
        if (pthread_create(&threads[i], NULL, embed_rounds, &embedders[i]) != 0) exit(2);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(embedders[i].differences == 0);
    }
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Freed in every order ---- */

enum { HANDLES = 6 };

/* Frees handle order[0], then order[1] and so on. */
static void check_order(const int order[HANDLES]) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context;
    cavmae_tensor *view;
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &context));
    tiny_training t = tiny_train_in(context, SMALLEST);
    CHECK_OK(cavmae_model_parameter(t.model, "norm.weight", &view));
    for (int i = 0; i < HANDLES; i++) {
        if (order[i] == 0) cavmae_context_free(t.context);
        if (order[i] == 1) cavmae_config_free(t.config);
        if (order[i] == 2) cavmae_model_free(t.model);
        if (order[i] == 3) cavmae_optimizer_free(t.optimizer);
        if (order[i] == 4) cavmae_trainer_free(t.trainer);
        if (order[i] == 5) {
            CHECK(*(const float *)cavmae_tensor_data(view) == 1.0f);
            cavmae_tensor_free(view);
        }
    }
    CHECK(allocator.blocks == 0);
}

static void check_orders(int order[HANDLES], int fixed) {
    if (fixed == HANDLES) {
        check_order(order);
        return;
    }
    for (int i = fixed; i < HANDLES; i++) {
        int first = order[fixed];
        order[fixed] = order[i];
        order[i] = first;
        check_orders(order, fixed + 1);
        order[i] = order[fixed];
        order[fixed] = first;
    }
}

/* A trainer goes on when it is the only handle left. */
static void test_last_handle(void) {
    tiny_training t = tiny_train(2, SMALLEST), whole = tiny_train(1, SMALLEST);
    tiny_inputs in = tiny_make(t.config, 0, CLIPS, NULL);
    const cavmae_batch batch = tiny_batch(&in, CLIPS);
    cavmae_step_result a = {.struct_size = sizeof a}, b = a;
    cavmae_context_free(t.context);
    cavmae_config_free(t.config);
    cavmae_model_free(t.model);
    cavmae_optimizer_free(t.optimizer);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, &a));
        CHECK_OK(cavmae_pretrain_step(whole.trainer, &batch, &b));
        CHECK(memcmp(&a, &b, sizeof a) == 0);
    }
    cavmae_trainer_free(t.trainer);
    tiny_release(&in);
    tiny_train_free(&whole);
}

int main(void) {
    int order[HANDLES] = {0, 1, 2, 3, 4, 5};
    test_contexts();
    test_shared_model();
    check_orders(order, 0);
    test_last_handle();
    return check_summary("parallel");
}
