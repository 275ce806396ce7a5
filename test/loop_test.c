/* The reference's fine-tuning loop, two epochs of it: losses, learning rates, logits, mAP and parameters as PyTorch has
 * them (test/cases/finetune_loop.py), and the mean of both epochs' checkpoints. */
#define _GNU_SOURCE
#include <unistd.h>

#include "fill_by_hash.h"
#include "tiny.h"

enum { EPOCHS = 2, MOST_HELD = 128 };

typedef struct loop_case {
    cavmae_safetensors *file;
    cavmae_tensor *held[MOST_HELD]; /* what the pointers below look into */
    int held_count;
    const float *audio, *image, *targets, *labels;
    const int64_t *order, *freq_mask, *time_mask;
    float fill;
    int64_t clips, frames, bins, picture, classes, batch;
} loop_case;

/* The numbers of the file's tensor, until close_case; exits where there is none. */
static const void *view(loop_case *c, const char *name, int32_t dtype, int64_t elements) {
    if (!CHECK(c->held_count < MOST_HELD)) exit(1);
    cavmae_tensor **tensor = &c->held[c->held_count];
    if (!CHECK_OK(cavmae_safetensors_get(c->file, name, tensor))) exit(1);
    if (!CHECK(cavmae_tensor_dtype(*tensor) == dtype && cavmae_tensor_elements(*tensor) == elements)) exit(1);
    return cavmae_tensor_data(c->held[c->held_count++]);
}

static void close_case(loop_case *c) {
    while (c->held_count) cavmae_tensor_free(c->held[--c->held_count]);
    cavmae_safetensors_free(c->file);
}

static loop_case open_case(cavmae_context *context, cavmae_config *config) {
    loop_case c = {0};
    if (!CHECK_OK(cavmae_safetensors_open(context, "test/cases/finetune_loop.safetensors", &c.file))) exit(1);
    const char *settings = cavmae_safetensors_metadata(c.file, "settings");
    if (!CHECK(settings)) exit(1);
    tiny_set(config, settings);
    cavmae_tensor *audio;
    if (!CHECK_OK(cavmae_safetensors_get(c.file, "input.audio", &audio))) exit(1);
    c.clips = cavmae_tensor_shape(audio)[0];
    cavmae_tensor_free(audio);
    c.frames = tiny_value(config, CAVMAE_P_AUDIO_FRAMES);
    c.bins = tiny_value(config, CAVMAE_P_MEL_BINS);
    c.picture = 3 * tiny_value(config, CAVMAE_P_IMAGE_SIZE) * tiny_value(config, CAVMAE_P_IMAGE_SIZE);
    c.classes = tiny_value(config, CAVMAE_P_CLASSES);
    c.batch = tiny_value(config, CAVMAE_P_BATCH);
    if (!CHECK(c.clips % c.batch == 0)) exit(1);
    c.audio = view(&c, "input.audio", CAVMAE_FLOAT32, c.clips * c.frames * c.bins);
    c.image = view(&c, "input.image", CAVMAE_FLOAT32, c.clips * c.picture);
    c.targets = view(&c, "input.targets", CAVMAE_FLOAT32, c.clips * c.classes);
    c.labels = view(&c, "input.labels", CAVMAE_FLOAT32, EPOCHS * c.clips * c.classes);
    c.order = view(&c, "input.order", CAVMAE_INT64, EPOCHS * c.clips);
    c.freq_mask = view(&c, "input.freq_mask", CAVMAE_INT64, EPOCHS * c.clips * 2);
    c.time_mask = view(&c, "input.time_mask", CAVMAE_INT64, EPOCHS * c.clips * 2);
    c.fill = *(const float *)view(&c, "input.fill", CAVMAE_FLOAT32, 1);
    return c;
}

/* L2 of the difference / L2 of what is expected, as the golden test has it. */
static double relative(const float *got, const float *expected, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        norm += (double)expected[i] * expected[i];
    }
    return sqrt(difference / norm);
}

/* ---- Training ---- */

/* Clips from place `first` of an epoch's order on, as that epoch masks and mixes them. */
static cavmae_batch make_batch(const loop_case *c, int64_t epoch, int64_t first, float *audio, float *image,
                               float *labels) {
    int64_t sound = c->frames * c->bins;
    for (int64_t i = 0; i < c->batch; i++) {
        int64_t clip = c->order[epoch * c->clips + first + i], at = epoch * c->clips + clip;
        const int64_t *f = c->freq_mask + 2 * at, *t = c->time_mask + 2 * at;
        memcpy(audio + i * sound, c->audio + clip * sound, (size_t)sound * sizeof *audio);
        memcpy(image + i * c->picture, c->image + clip * c->picture, (size_t)c->picture * sizeof *image);
        memcpy(labels + i * c->classes, c->labels + at * c->classes, (size_t)c->classes * sizeof *labels);
        for (int64_t k = 0; k < sound; k++) {
            int64_t frame = k / c->bins, bin = k % c->bins;
            if ((bin >= f[0] && bin < f[0] + f[1]) || (frame >= t[0] && frame < t[0] + t[1]))
                audio[i * sound + k] = c->fill;
        }
    }
    return (cavmae_batch){.struct_size = sizeof(cavmae_batch),
                          .count = (int32_t)c->batch,
                          .audio = audio,
                          .image = image,
                          .labels = labels,
                          .classes = (int32_t)c->classes};
}

static void train_epoch(loop_case *c, cavmae_trainer *trainer, int64_t epoch) {
    int64_t steps = c->clips / c->batch, sound = c->frames * c->bins;
    const float *loss = view(c, "expect.loss", CAVMAE_FLOAT32, EPOCHS * steps),
                *lr = view(c, "expect.lr", CAVMAE_FLOAT32, EPOCHS * steps);
    float *audio = malloc((size_t)(c->batch * sound) * sizeof *audio),
          *image = malloc((size_t)(c->batch * c->picture) * sizeof *image),
          *labels = malloc((size_t)(c->batch * c->classes) * sizeof *labels);
    for (int64_t i = 0; i < steps; i++) {
        cavmae_step_result r = {.struct_size = sizeof r};
        const cavmae_batch batch = make_batch(c, epoch, i * c->batch, audio, image, labels);
        int64_t step = epoch * steps + i;
        CHECK_OK(cavmae_finetune_step(trainer, &batch, &r));
        CHECK(r.step == step + 1 && r.updated == 1);
        CHECK_CLOSE(r.loss, loss[step], (step ? 3e-5 : 1e-6) * loss[step]);
        CHECK_CLOSE(r.lr, lr[step], 1e-9);
    }
    free(audio);
    free(image);
    free(labels);
}

/* On the clips as they are: logits, and the mAP of their sigmoids. */
static void evaluate_epoch(loop_case *c, cavmae_context *context, cavmae_model *model, int64_t epoch) {
    int64_t count = c->clips * c->classes;
    const float *logits = view(c, "expect.logits", CAVMAE_FLOAT32, EPOCHS * count),
                *map = view(c, "expect.map", CAVMAE_FLOAT32, EPOCHS);
    float *got = malloc((size_t)count * sizeof *got), *scores = malloc((size_t)count * sizeof *scores);
    const cavmae_batch all = {
        .struct_size = sizeof all, .count = (int32_t)c->clips, .audio = c->audio, .image = c->image};
    const cavmae_embedding out = {.struct_size = sizeof out, .logits = got, .scores = scores};
    cavmae_class_metrics metrics = {.struct_size = sizeof metrics};
    CHECK_OK(cavmae_embed(model, &all, &out));
    CHECK(relative(got, logits + epoch * count, count) < 3e-4); /* of parameters that are so exact */
    CHECK_OK(cavmae_classification_metrics(context, scores, c->targets, c->clips, (int32_t)c->classes, NULL, NULL,
                                           &metrics));
    CHECK_CLOSE(metrics.mean_average_precision, map[epoch], 1e-6);
    free(got);
    free(scores);
}

/* Parameters that the file has as "PREFIX.NAME". */
static void compare_parameters(loop_case *c, cavmae_model *model, const char *prefix) {
    const char *name;
    int compared = 0;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        char in_file[200];
        int64_t index = 0;
        const char *other;
        snprintf(in_file, sizeof in_file, "%s.%s", prefix, name);
        while ((other = cavmae_safetensors_name(c->file, index)) != NULL && strcmp(other, in_file) != 0) index++;
        if (!other) continue;
        cavmae_tensor *got;
        if (!CHECK_OK(cavmae_model_parameter(model, name, &got))) continue;
        int64_t count = cavmae_tensor_elements(got);
        double error = relative(cavmae_tensor_data(got), view(c, in_file, CAVMAE_FLOAT32, count), count);
        if (!CHECK(error < 3e-4)) printf("    %s: %g\n", in_file, error);
        cavmae_tensor_free(got);
        compared++;
    }
    CHECK(compared == 18);
}

static void test_loop(int32_t threads) {
    char directory[] = "/tmp/cavmae-loop-XXXXXX", path[EPOCHS + 1][64];
    if (!mkdtemp(directory)) exit(1);
    for (int i = 0; i <= EPOCHS; i++) snprintf(path[i], sizeof path[i], "%s/%d.safetensors", directory, i);
    cavmae_context *context = tiny_context(threads);
    cavmae_config *config = tiny_config(context, "");
    cavmae_model *model, *average;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    loop_case c = open_case(context, config);
    if (!CHECK_OK(cavmae_model_create(config, &model)) || !CHECK_OK(fill_by_hash(model)) ||
        !CHECK_OK(cavmae_optimizer_create(model, config, &optimizer)) ||
        !CHECK_OK(cavmae_trainer_create(model, optimizer, config, &trainer)))
        exit(1);
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        train_epoch(&c, trainer, epoch);
        evaluate_epoch(&c, context, model, epoch);
        CHECK_OK(cavmae_checkpoint_save(trainer, NULL, path[epoch]));
    }
    compare_parameters(&c, model, "param");

    const char *const epochs[EPOCHS] = {path[0], path[1]};
    CHECK_OK(cavmae_average_models(context, epochs, EPOCHS, path[EPOCHS]));
    if (CHECK_OK(cavmae_model_load(context, path[EPOCHS], 0, NULL, &average))) {
        compare_parameters(&c, average, "average");
        cavmae_model_free(average);
    }

    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
    close_case(&c);
    cavmae_context_free(context);
    for (int i = 0; i <= EPOCHS; i++) remove(path[i]);
    rmdir(directory);
}

int main(void) {
    test_loop(1);
    test_loop(2);
    return check_summary("loop");
}
