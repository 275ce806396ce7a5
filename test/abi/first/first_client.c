/* A program of version 1.0, built with that version's header and run with today's library: numbers mean what they meant, zero
 * is the default, and records of that size are neither read nor written past their end, where there is no memory. */
#define _DEFAULT_SOURCE
#include "cavmae-1.0.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int passed, failed;

static void check(int good, const char *words, int line) {
    good ? passed++ : failed++;
    if (!good) printf("first_client.c:%d: not true: %s (%s)\n", line, words, cavmae_last_error());
}
#define CHECK(condition) check(!!(condition), #condition, __LINE__)
#define CHECK_OK(call) CHECK((call) == CAVMAE_OK)

/* Zeros that end where memory ends. */
static void *at_the_edge(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + page, page, PROT_NONE) != 0) exit(1);
    char *at = memory + page - size;
    const uint32_t struct_size = (uint32_t)size;
    memcpy(at, &struct_size, sizeof struct_size);
    return at;
}
#define RECORD(type, name) type *name = at_the_edge(sizeof(type))

static int logged, asked;

static void log_message(void *user, int32_t level, const char *message) {
    (void)user, (void)message;
    if (level >= CAVMAE_LOG_ERROR) logged++;
}

static int32_t cancel(void *user) {
    asked++;
    return *(int32_t *)user;
}

/* Every key's number, with its name: "EMBED_DIM" of CAVMAE_P_EMBED_DIM. */
static const struct {
    int32_t number;
    const char *name;
} keys[] = {
#define KEY(name) {CAVMAE_P_##name, #name},
#include "keys.inc"
};

static void test_numbers(cavmae_context *context) {
    RECORD(cavmae_key_info, info);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        cavmae_status status = CAVMAE_OK;
        info->key = 0;
        for (int32_t k = 0; status == CAVMAE_OK && info->key != keys[i].number; k++)
            status = cavmae_config_key_info(k, info);
        int same = status == CAVMAE_OK && strlen(info->name) == strlen(keys[i].name);
        for (size_t c = 0; same && keys[i].name[c]; c++)
            same = info->name[c] == tolower((unsigned char)keys[i].name[c]);
        check(same, keys[i].name, __LINE__);
    }
    cavmae_model *model;
    cavmae_config *config;
    CHECK(cavmae_model_load(context, "/no such file", 0, NULL, &model) == CAVMAE_E_IO);
    CHECK(cavmae_config_create(context, "no such preset", &config) == CAVMAE_E_NOT_FOUND);
    CHECK(cavmae_version() >= CAVMAE_VERSION_NUMBER && cavmae_version() / 10000 == CAVMAE_VERSION_MAJOR);
    CHECK_OK(cavmae_config_create(context, NULL, &config)); /* the paper's, still */
    int64_t value = 0;
    CHECK(cavmae_config_get_i64(config, CAVMAE_P_EMBED_DIM, &value) == CAVMAE_OK && value == 768);
    double real = 0;
    CHECK(cavmae_config_get_f64(config, CAVMAE_P_CONTRAST_TEMPERATURE, &real) == CAVMAE_OK && fabs(real - 0.05) < 1e-9);
    cavmae_config_free(config);
}

static void test_model(cavmae_context *context, int32_t *stop) {
    cavmae_config *config;
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    RECORD(cavmae_memory, memory);
    RECORD(cavmae_batch, batch);
    RECORD(cavmae_embedding, out);
    RECORD(cavmae_step_result, result);
    RECORD(cavmae_inpainting, paint);
    CHECK_OK(cavmae_config_create(context, "tiny", &config));
    CHECK_OK(cavmae_config_set_i64(config, CAVMAE_P_BATCH, 1));
    CHECK(cavmae_memory_required(config, CAVMAE_TASK_PRETRAIN, 1, memory) == CAVMAE_OK && memory->total > 0);
    CHECK_OK(cavmae_model_create(config, &model));

    int64_t frames = 0, bins = 0, side = 0, dim = 0;
    CHECK_OK(cavmae_config_get_i64(config, CAVMAE_P_AUDIO_FRAMES, &frames));
    CHECK_OK(cavmae_config_get_i64(config, CAVMAE_P_MEL_BINS, &bins));
    CHECK_OK(cavmae_config_get_i64(config, CAVMAE_P_IMAGE_SIZE, &side));
    CHECK_OK(cavmae_config_get_i64(config, CAVMAE_P_EMBED_DIM, &dim));
    float *audio = calloc((size_t)(frames * bins), sizeof *audio),
          *image = calloc((size_t)(3 * side * side), sizeof *image);
    float *embedded = calloc((size_t)dim, sizeof *embedded),
          *painted = calloc((size_t)(frames * bins), sizeof *painted);
    if (!audio || !image || !embedded || !painted) exit(1);
    for (int64_t i = 0; i < frames * bins; i++) audio[i] = (float)(i % 7) - 3;
    for (int64_t i = 0; i < 3 * side * side; i++) image[i] = (float)(i % 5) - 2;
    batch->count = 1;
    batch->audio = audio;
    batch->image = image;
    out->audio = embedded;
    CHECK_OK(cavmae_embed(model, batch, out));
    double norm = 0;
    for (int64_t i = 0; i < dim; i++) norm += (double)embedded[i] * embedded[i];
    CHECK(fabs(norm - 1) < 1e-5);
    *stop = 1;
    CHECK(cavmae_embed(model, batch, out) == CAVMAE_E_CANCELLED && asked > 0);
    *stop = 0;
    paint->audio = painted;
    CHECK(cavmae_inpaint(model, NULL, batch, 0, paint) == CAVMAE_OK && paint->loss_a > 0);

    CHECK_OK(cavmae_optimizer_create(model, config, &optimizer));
    CHECK_OK(cavmae_trainer_create(model, optimizer, config, &trainer));
    CHECK_OK(cavmae_pretrain_step(trainer, batch, result));
    CHECK(result->updated == 1 && result->step == 1 && isfinite(result->loss) && result->loss > 0 &&
          result->pairs == 1);
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
    free(audio), free(image), free(embedded), free(painted);
}

static cavmae_status probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error, size_t size) {
    (void)user, (void)error, (void)size;
    info->seconds = strcmp(source->path, "clip") == 0 ? 5 : 6;
    return CAVMAE_OK;
}

static cavmae_status no_audio(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *arg, char *error,
                              size_t size) {
    (void)user, (void)source, (void)sink, (void)arg, (void)error, (void)size;
    return CAVMAE_E_MEDIA;
}

static cavmae_status no_frames(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                               cavmae_frame_sink *sink, void *arg, char *error, size_t size) {
    (void)user, (void)source, (void)seconds, (void)count, (void)sink, (void)arg, (void)error, (void)size;
    return CAVMAE_E_MEDIA;
}

static void test_rest(cavmae_context *context) {
    RECORD(cavmae_decoder, decoder);
    RECORD(cavmae_media_info, info);
    RECORD(cavmae_source, source);
    decoder->version = 1;
    decoder->probe = probe;
    decoder->audio = no_audio;
    decoder->frames = no_frames;
    CHECK_OK(cavmae_context_set_decoder(context, decoder));
    source->path = "clip";
    CHECK(cavmae_media_probe_source(context, source, info) == CAVMAE_OK && info->seconds == 5);

    RECORD(cavmae_world_options, options);
    cavmae_world *world;
    CHECK_OK(cavmae_world_create_threads(&context, 1, options, &world));
    CHECK_OK(cavmae_world_barrier(world));
    cavmae_world_free(world);

    const float rows[4] = {1, 0, 0, 1}, targets[4] = {1, 0, 0, 1};
    const int64_t labels[2] = {0, 1};
    RECORD(cavmae_retrieval_metrics, retrieval);
    RECORD(cavmae_class_metrics, classes);
    RECORD(cavmae_topk_metrics, topk);
    RECORD(cavmae_localization_metrics, localization);
    const double box[1][4] = {{0, 0, 1, 1}};
    CHECK(cavmae_retrieval_from_similarity(rows, 2, retrieval) == CAVMAE_OK && retrieval->r1 == 1);
    CHECK(cavmae_classification_metrics(context, rows, targets, 2, 2, NULL, NULL, classes) == CAVMAE_OK &&
          classes->mean_average_precision == 1);
    CHECK(cavmae_topk_accuracy(context, rows, labels, 2, 2, 1, NULL, topk) == CAVMAE_OK && topk->accuracy == 1);
    CHECK(cavmae_localization_from_boxes(context, (const float[4]){1, 0, 0, 0}, 1, 2, 2, 2, 2, box, NULL, 0.5, NULL,
                                         localization) == CAVMAE_OK &&
          localization->mean_iou == 1);
    cavmae_tensor *tensor;
    const int64_t shape[2] = {2, 3};
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_INT16, 2, shape, &tensor));
    CHECK(cavmae_tensor_elements(tensor) == 6 && cavmae_tensor_dtype(tensor) == CAVMAE_INT16);
    cavmae_tensor_free(tensor);
}

int main(void) {
    int32_t stop = 0;
    cavmae_context *context;
    RECORD(cavmae_context_options, options);
    options->threads = 1;
    options->log = log_message;
    options->cancel = cancel;
    options->cancel_user = &stop;
    CHECK_OK(cavmae_context_create(options, &context));
    CHECK(strcmp(cavmae_context_device(context), "cpu") == 0 && cavmae_context_threads(context) == 1);
    test_numbers(context);
    test_model(context, &stop);
    test_rest(context);
    cavmae_context_free(context);
    printf("first_client: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
