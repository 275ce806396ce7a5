/* The public API as careless and hostile callers use it: NULL in every place, records of other sizes, odd numbers,
 * handles freed in the wrong order, files that lie. Nothing may crash, and nothing may be written where a call
 * fails. Worth most under `make asan`. */
#define _GNU_SOURCE
#include <unistd.h>

#include "failing_allocator.h"
#include "tiny.h"

static char directory[] = "/tmp/cavmae-api-test-XXXXXX";

static const char *in_directory(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* What out-parameters point to before a call; it must be there after one that fails. */
static char untouched_place;
#define UNTOUCHED ((void *)&untouched_place)

#define CHECK_ARG(call) CHECK_STATUS((call), CAVMAE_E_ARG)

/* A call that fails and leaves *out alone. */
#define CHECK_FAILS(type, call, status)                                                                                \
    do {                                                                                                               \
        type *out = UNTOUCHED;                                                                                         \
        CHECK_STATUS(call, status);                                                                                    \
        CHECK(out == UNTOUCHED);                                                                                       \
    } while (0)

/* ---- A decoder that needs no files: half a second of sound, one grey picture ---- */

static cavmae_status fake_probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                                size_t size) {
    (void)user, (void)source, (void)error, (void)size;
    info->audio_channels = info->still = 1;
    info->audio_rate = 16000;
    info->width = info->height = 40;
    return CAVMAE_OK;
}

static cavmae_status fake_audio(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *sink_arg,
                                char *error, size_t size) {
    static float pcm[8000];
    (void)user, (void)source, (void)error, (void)size;
    for (int i = 0; i < 8000; i++) pcm[i] = (float)(i % 50) / 50 - 0.5f;
    return sink(sink_arg, pcm, 8000, 1, 16000);
}

static cavmae_status fake_frames(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                 cavmae_frame_sink *sink, void *sink_arg, char *error, size_t size) {
    uint8_t rgb[40 * 40 * 3];
    cavmae_status status = CAVMAE_OK;
    (void)user, (void)source, (void)seconds, (void)error, (void)size;
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i % 251);
    for (int32_t i = 0; i < count && status == CAVMAE_OK; i++) status = sink(sink_arg, i, rgb, 40, 40, 120);
    return status;
}

static const cavmae_decoder fake_decoder = {
    .struct_size = sizeof fake_decoder, .version = 1, .probe = fake_probe, .audio = fake_audio, .frames = fake_frames};

/* ---- NULL, everywhere ---- */

static void test_null_values(void) {
    cavmae_context_free(NULL);
    cavmae_config_free(NULL);
    cavmae_tensor_free(NULL);
    cavmae_safetensors_free(NULL);
    cavmae_model_free(NULL);
    cavmae_optimizer_free(NULL);
    cavmae_trainer_free(NULL);
    cavmae_loader_free(NULL);
    cavmae_index_free(NULL);
    CHECK(cavmae_version() == CAVMAE_VERSION_NUMBER && cavmae_version_string() && cavmae_build_info());
    CHECK(cavmae_status_str(12345) && cavmae_status_str(INT32_MIN) && cavmae_last_error());
    CHECK(cavmae_context_device(NULL) == NULL && cavmae_context_threads(NULL) == 0);
    CHECK(cavmae_tensor_data(NULL) == NULL && cavmae_tensor_shape(NULL) == NULL);
    CHECK(cavmae_tensor_dtype(NULL) == 0 && cavmae_tensor_dims(NULL) == 0 && cavmae_tensor_elements(NULL) == 0);
    CHECK(cavmae_safetensors_count(NULL) == 0 && cavmae_safetensors_name(NULL, 0) == NULL);
    CHECK(cavmae_safetensors_metadata(NULL, "key") == NULL);
    CHECK(cavmae_model_parameter_count(NULL) == 0 && cavmae_model_parameter_name(NULL, 0) == NULL);
    CHECK(cavmae_model_elements(NULL, 1) == 0);
    CHECK(cavmae_optimizer_updates(NULL) == 0 && cavmae_optimizer_lr(NULL) == 0);
    CHECK(cavmae_loader_count(NULL) == 0 && cavmae_loader_batches(NULL) == 0 && cavmae_loader_epoch(NULL) == 0);
    CHECK(cavmae_loader_broken(NULL) == 0 && cavmae_loader_classes(NULL) == 0);
    CHECK(cavmae_loader_class_name(NULL, 0) == NULL);
    CHECK(cavmae_index_count(NULL) == 0 && cavmae_index_dim(NULL) == 0);
    CHECK(cavmae_fbank_frames(-1, 16000) == 0 && cavmae_fbank_frames(INT64_MAX, INT32_MIN) == 0);
    CHECK(cavmae_fbank_frames(INT64_MAX, INT32_MAX) > 0);
}

/* No handle. */
static void test_null_handles(cavmae_context *context, cavmae_config *config, cavmae_model *model) {
    int64_t shape[1] = {1}, integer = 7, ids[1];
    double real = 7;
    float x[4] = {1, 1, 1, 1};
    const char *text = "";
    cavmae_memory memory = {.struct_size = sizeof memory};
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_loader_item item = {.struct_size = sizeof item};
    cavmae_retrieval_metrics retrieval = {.struct_size = sizeof retrieval};
    cavmae_class_metrics classes = {.struct_size = sizeof classes};
    const cavmae_batch batch = {.struct_size = sizeof batch, .count = 1};
    const cavmae_embedding embedding = {.struct_size = sizeof embedding};
    int32_t rate = 7;
    CHECK_FAILS(cavmae_config, cavmae_config_create(NULL, NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_config, cavmae_config_clone(NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_config_set_i64(NULL, CAVMAE_P_BATCH, 1));
    CHECK_ARG(cavmae_config_set_f64(NULL, CAVMAE_P_LR, 1));
    CHECK_ARG(cavmae_config_set_str(NULL, CAVMAE_P_DTYPE, "float32"));
    CHECK_ARG(cavmae_config_set(NULL, "lr", "1"));
    CHECK_ARG(cavmae_config_get_i64(NULL, CAVMAE_P_BATCH, &integer));
    CHECK_ARG(cavmae_config_get_f64(NULL, CAVMAE_P_LR, &real));
    CHECK_ARG(cavmae_config_get_str(NULL, CAVMAE_P_LR, &text));
    CHECK_ARG(cavmae_config_check(NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_create(NULL, CAVMAE_FLOAT32, 1, shape, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_wrap(NULL, x, CAVMAE_FLOAT32, 1, shape, NULL, NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(struct DLManagedTensor, cavmae_tensor_to_dlpack(NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_from_dlpack(context, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_tensor_save_npy(NULL, in_directory("npy")));
    CHECK_FAILS(cavmae_safetensors, cavmae_safetensors_open(NULL, "x", &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_safetensors_get(NULL, "x", &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_safetensors_save(NULL, in_directory("st"), 0, NULL, NULL, 0, NULL, NULL));
    CHECK_ARG(cavmae_fbank(NULL, x, 4, 16000, 8, x));
    CHECK_FAILS(cavmae_tensor, cavmae_prepare_audio(NULL, x, 4, 1, 16000, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_prepare_image(NULL, (const uint8_t *)x, 1, 1, 0, x));
    CHECK_ARG(cavmae_context_set_decoder(NULL, &fake_decoder));
    CHECK_ARG(cavmae_media_probe(NULL, "x", &info));
    CHECK_FAILS(cavmae_tensor, cavmae_media_audio(NULL, "x", &out, &rate), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_media_frames(NULL, "x", &real, 1, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_model, cavmae_model_create(NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_model, cavmae_model_load(NULL, "x", 0, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_save(NULL, in_directory("m")));
    CHECK_FAILS(cavmae_config, cavmae_model_config(NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_set_dtype(NULL, CAVMAE_FLOAT32));
    CHECK_FAILS(cavmae_tensor, cavmae_model_parameter(NULL, "norm.bias", &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_set_parameter(NULL, "norm.bias", x, 4));
    CHECK_ARG(cavmae_memory_required(NULL, CAVMAE_TASK_EMBED, 1, &memory));
    CHECK_ARG(cavmae_embed(NULL, &batch, &embedding));
    CHECK_ARG(cavmae_embed_file(NULL, "x", &embedding));
    CHECK_FAILS(cavmae_optimizer, cavmae_optimizer_create(NULL, config, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_optimizer, cavmae_optimizer_create(model, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_optimizer_group(NULL, "", 1, 0));
    CHECK_FAILS(cavmae_trainer, cavmae_trainer_create(NULL, NULL, config, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_trainer, cavmae_trainer_create(model, NULL, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_pretrain_step(NULL, &batch, NULL));
    CHECK_ARG(cavmae_pretrain_evaluate(NULL, &batch, 0, NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_output(NULL, CAVMAE_OUT_MASK_A, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_gradient(NULL, "norm.bias", &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_loader, cavmae_loader_create(NULL, "x", NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(const cavmae_batch, cavmae_loader_next(NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_loader_item_at(NULL, 0, &item));
    CHECK_ARG(cavmae_checkpoint_save(NULL, NULL, in_directory("c")));
    CHECK_ARG(cavmae_checkpoint_load(NULL, NULL, in_directory("c")));
    CHECK_FAILS(cavmae_index, cavmae_index_create(NULL, 4, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_index_add(NULL, x, 1));
    CHECK_ARG(cavmae_index_search(NULL, x, 1, 1, ids, x));
    CHECK_ARG(cavmae_index_save(NULL, in_directory("i")));
    CHECK_FAILS(cavmae_index, cavmae_index_load(NULL, "x", &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_retrieval_from_similarity(NULL, 1, &retrieval));
    CHECK_ARG(cavmae_retrieval_from_embeddings(NULL, x, x, 1, 4, &retrieval));
    CHECK_ARG(cavmae_classification_metrics(NULL, x, x, 1, 4, NULL, NULL, &classes));
    CHECK_ARG(cavmae_top1_accuracy(NULL, shape, 1, 4, &real));
    CHECK(integer == 7 && real == 7 && rate == 7 && memory.total == 0 && text[0] == 0);
}

/* No place for the result, or no text, or no data. */
static void test_null_arguments(cavmae_context *context, cavmae_config *config, tiny_training *t) {
    int64_t shape[1] = {4}, ids[1];
    float x[4] = {1, 1, 1, 1};
    cavmae_index *index;
    cavmae_tensor *tensor;
    CHECK_ARG(cavmae_context_create(NULL, NULL));
    CHECK_ARG(cavmae_config_create(context, NULL, NULL));
    CHECK_ARG(cavmae_config_clone(config, NULL));
    CHECK_ARG(cavmae_config_set_str(config, CAVMAE_P_DTYPE, NULL));
    CHECK_ARG(cavmae_config_set(config, NULL, "1"));
    CHECK_ARG(cavmae_config_set(config, "lr", NULL));
    CHECK_ARG(cavmae_config_get_i64(config, CAVMAE_P_BATCH, NULL));
    CHECK_ARG(cavmae_config_get_f64(config, CAVMAE_P_LR, NULL));
    CHECK_ARG(cavmae_config_get_str(config, CAVMAE_P_LR, NULL));
    CHECK_ARG(cavmae_config_key_info(0, NULL));
    CHECK_ARG(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, shape, NULL));
    CHECK_ARG(cavmae_tensor_wrap(context, x, CAVMAE_FLOAT32, 1, shape, NULL, NULL, NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, NULL, &out), CAVMAE_E_ARG);
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, shape, &tensor));
    CHECK_ARG(cavmae_tensor_to_dlpack(tensor, NULL));
    CHECK_ARG(cavmae_tensor_save_npy(tensor, NULL));
    cavmae_tensor_free(tensor);
    CHECK_ARG(cavmae_safetensors_open(context, "x", NULL));
    CHECK_FAILS(cavmae_safetensors, cavmae_safetensors_open(context, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_safetensors_save(context, in_directory("st"), 1, NULL, NULL, 0, NULL, NULL));
    CHECK_ARG(cavmae_safetensors_save(context, in_directory("st"), 0, NULL, NULL, 1, NULL, NULL));
    CHECK_ARG(cavmae_fbank(context, NULL, 400, 16000, 8, x));
    CHECK_ARG(cavmae_fbank(context, x, 400, 16000, 8, NULL));
    CHECK_ARG(cavmae_prepare_audio(config, x, 4, 1, 16000, NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_prepare_audio(config, NULL, 4, 1, 16000, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_prepare_audio(config, x, 4, 0, 16000, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_prepare_image(config, NULL, 1, 1, 0, x));
    CHECK_ARG(cavmae_prepare_image(config, (const uint8_t *)x, 1, 1, 0, NULL));
    CHECK_ARG(cavmae_prepare_image(config, (const uint8_t *)x, 2, 1, -6, x));
    CHECK_ARG(cavmae_context_set_decoder(context, NULL));
    CHECK_ARG(cavmae_media_probe(context, "x", NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_media_audio(context, "x", &out, NULL), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_media_frames(context, "x", NULL, 1, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_media_frames(context, "x", (const double[]){(double)NAN}, 1, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_create(config, NULL));
    CHECK_ARG(cavmae_model_load(context, "x", 0, NULL, NULL));
    CHECK_FAILS(cavmae_model, cavmae_model_load(context, NULL, 0, NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_model, cavmae_model_load(context, "x", 8, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_save(t->model, NULL));
    CHECK_ARG(cavmae_model_config(t->model, NULL));
    CHECK_ARG(cavmae_model_parameter(t->model, "norm.bias", NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_model_parameter(t->model, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_model_set_parameter(t->model, NULL, x, 4));
    CHECK_ARG(cavmae_memory_required(config, CAVMAE_TASK_EMBED, 1, NULL));
    CHECK_ARG(cavmae_embed_file(t->model, NULL, &(cavmae_embedding){.struct_size = sizeof(cavmae_embedding)}));
    CHECK_ARG(cavmae_embed_file(t->model, "x", NULL));
    CHECK_ARG(cavmae_optimizer_create(t->model, config, NULL));
    CHECK_ARG(cavmae_optimizer_group(t->optimizer, NULL, 1, 0));
    CHECK_ARG(cavmae_optimizer_group(t->optimizer, "", (double)NAN, 0));
    CHECK_ARG(cavmae_trainer_create(t->model, NULL, config, NULL));
    CHECK_ARG(cavmae_pretrain_step(t->trainer, NULL, NULL));
    CHECK_ARG(cavmae_pretrain_evaluate(t->trainer, NULL, 0, NULL));
    CHECK_ARG(cavmae_trainer_output(t->trainer, CAVMAE_OUT_MASK_A, NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_output(t->trainer, 0, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_output(t->trainer, CAVMAE_OUT_MASK_A, &out), CAVMAE_E_NOT_FOUND);
    CHECK_ARG(cavmae_trainer_gradient(t->trainer, "norm.bias", NULL));
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_gradient(t->trainer, NULL, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_tensor, cavmae_trainer_gradient(t->trainer, "norm.bias", &out), CAVMAE_E_NOT_FOUND);
    CHECK_ARG(cavmae_loader_create(config, "x", NULL, NULL));
    CHECK_FAILS(cavmae_loader, cavmae_loader_create(config, NULL, NULL, &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_checkpoint_save(t->trainer, NULL, NULL));
    CHECK_ARG(cavmae_checkpoint_load(t->trainer, NULL, NULL));
    CHECK_ARG(cavmae_index_create(context, 4, NULL));
    CHECK_FAILS(cavmae_index, cavmae_index_create(context, 0, &out), CAVMAE_E_ARG);
    CHECK_FAILS(cavmae_index, cavmae_index_load(context, NULL, &out), CAVMAE_E_ARG);
    CHECK_OK(cavmae_index_create(context, 4, &index));
    CHECK_ARG(cavmae_index_add(index, NULL, 1));
    CHECK_STATUS(cavmae_index_add(index, x, INT64_MAX), CAVMAE_E_NOMEM);
    CHECK_ARG(cavmae_index_search(index, x, 1, 1, NULL, x));
    CHECK_ARG(cavmae_index_search(index, x, 1, 0, ids, x));
    CHECK_OK(cavmae_index_search(index, x, 1, 1, ids, x)); /* an empty one */
    CHECK(ids[0] == -1 && x[0] == -2);
    CHECK_OK(cavmae_index_search(index, NULL, 0, 1, NULL, NULL));
    CHECK_ARG(cavmae_index_save(index, NULL));
    cavmae_index_free(index);
    CHECK_ARG(cavmae_retrieval_from_similarity(x, 1, NULL));
    CHECK_ARG(cavmae_classification_metrics(context, x, x, 1, 4, NULL, NULL, NULL));
    CHECK_ARG(cavmae_top1_accuracy(x, ids, 1, 4, NULL));
}

/* ---- Records ---- */

static void test_records(const cavmae_config *config) {
    struct {
        cavmae_memory memory;
        uint8_t later[64]; /* fields of a newer header */
    } newer;
    cavmae_key_info none = {0};
    cavmae_context_options odd[] = {{.struct_size = 7},
                                    {.struct_size = sizeof odd[0], .threads = -1},
                                    {.struct_size = sizeof odd[0], .threads = INT32_MAX},
                                    {.struct_size = sizeof odd[0], .reserved = 1},
                                    {.struct_size = sizeof odd[0], .alloc = failing_alloc},
                                    {.struct_size = sizeof odd[0], .device = "cuda:999"},
                                    {.struct_size = sizeof odd[0], .plugin_dir = ""}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        CHECK_FAILS(cavmae_context, cavmae_context_create(&odd[i], &out), CAVMAE_E_ARG);
    CHECK_ARG(cavmae_config_key_info(0, &none));

    /* A caller of an older version gets what it knows, one of a newer version zeros beyond what the library knows. */
    memset(&newer, 0xAA, sizeof newer);
    newer.memory.struct_size = 16;
    CHECK_OK(cavmae_memory_required(config, CAVMAE_TASK_EMBED, 1, &newer.memory));
    CHECK(newer.memory.struct_size == 16 && newer.memory.parameters > 0);
    CHECK((uint64_t)newer.memory.gradients == 0xAAAAAAAAAAAAAAAAu);
    newer.memory.struct_size = sizeof newer;
    CHECK_OK(cavmae_memory_required(config, CAVMAE_TASK_EMBED, 1, &newer.memory));
    CHECK(newer.memory.struct_size == sizeof newer && newer.memory.total > 0 && !newer.later[0] && !newer.later[63]);
}

/* ---- Odd numbers ---- */

static void test_odd_numbers(cavmae_context *context, tiny_training *t) {
    cavmae_memory memory = {.struct_size = sizeof memory};
    cavmae_embedding embedding = {.struct_size = sizeof embedding};
    tiny_inputs in = tiny_make(t->config, 0, 1, NULL);
    cavmae_batch batch = tiny_batch(&in, 0);
    cavmae_config *huge = tiny_config(context, "image_size=16384 patch_size=1 mlp_ratio=64 embed_dim=16384");
    int64_t shape[3] = {INT64_MAX, 2, 0};

    CHECK_STATUS(cavmae_pretrain_step(t->trainer, &batch, NULL), CAVMAE_E_SHAPE);
    CHECK_OK(cavmae_embed(t->model, &batch, &embedding)); /* no clips: nothing to do */
    batch.count = -1;
    CHECK_STATUS(cavmae_pretrain_step(t->trainer, &batch, NULL), CAVMAE_E_SHAPE);
    CHECK_ARG(cavmae_embed(t->model, &batch, &embedding));
    batch.count = 1;
    CHECK_ARG(cavmae_embed(t->model, &batch, &embedding)); /* no output asked for */
    batch.audio_frames = (const int32_t[]){INT32_MIN};
    embedding.audio = in.audio;
    CHECK_STATUS(cavmae_pretrain_step(t->trainer, &batch, NULL), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_embed(t->model, &batch, &embedding), CAVMAE_E_SHAPE);
    batch.audio_frames = (const int32_t[]){INT32_MAX / 8 * 8};
    CHECK(cavmae_embed(t->model, &batch, &embedding) != CAVMAE_OK);

    CHECK_ARG(cavmae_memory_required(t->config, CAVMAE_TASK_EMBED, 0, &memory));
    CHECK_ARG(cavmae_memory_required(t->config, 0, 1, &memory));
    CHECK_OK(cavmae_memory_required(t->config, CAVMAE_TASK_EMBED, INT32_MAX, &memory));
    CHECK_STATUS(cavmae_memory_required(t->config, CAVMAE_TASK_PRETRAIN, INT32_MAX, &memory), CAVMAE_E_NOMEM);
    CHECK(cavmae_memory_required(huge, CAVMAE_TASK_PRETRAIN, INT32_MAX, &memory) != CAVMAE_OK);
    CHECK(cavmae_memory_required(huge, CAVMAE_TASK_EMBED, INT32_MAX, &memory) != CAVMAE_OK);
    cavmae_config_free(huge);

    CHECK_FAILS(cavmae_tensor, cavmae_tensor_create(context, CAVMAE_UINT8, 3, shape, &out), CAVMAE_E_SHAPE);
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_create(context, CAVMAE_FLOAT64, 1, shape, &out), CAVMAE_E_SHAPE);
    CHECK_FAILS(cavmae_tensor, cavmae_tensor_create(context, 99, 1, shape, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set_f64(t->config, CAVMAE_P_LR, (double)NAN), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set_i64(t->config, INT32_MIN, 1), CAVMAE_E_NOT_FOUND);
    tiny_release(&in);
}

/* ---- Shapes at the edge of what a configuration may say ---- */

static void test_edges(void) {
    static const char *const edges[] = {
        "joint_depth=0",
        "modality_depth=0 joint_depth=0 decoder_depth=0",
        "joint_depth=0 recompute=1",
        "patch_size=1 audio_frames=4 mel_bins=3 image_size=5 norm_pix_loss=0",
        "image_channels=1 image_mean=0.5 image_std=0.5",
        "image_channels=4 image_mean=0.5,0.5,0.5,0.5 image_std=1,1,1,1",
        "num_heads=16 decoder_heads=12",
        "embed_dim=4 num_heads=1 decoder_dim=4 decoder_heads=4 mlp_ratio=0.25",
        "mlp_ratio=0.7 layer_norm_eps=0",
        "modalities=a decoder_depth=0",
        "modalities=v joint_depth=0 modality_depth=0",
        "batch=1 dtype=bfloat16 num_heads=16 decoder_heads=12",
        "audio_frames=8 mel_bins=8 image_size=8 mask_ratio_a=0 mask_ratio_v=0 mae_weight=0",
    };
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        char settings[512];
        snprintf(settings, sizeof settings, "%s %s", SMALLEST, edges[i]);
        tiny_training t = tiny_train(2, settings);
        int32_t clips = (int32_t)tiny_value(t.config, CAVMAE_P_BATCH);
        cavmae_step_result result = tiny_step(&t, 0, clips);
        CHECK(isfinite(result.loss) && result.loss > 0 && result.updated);
        cavmae_model *loaded;
        CHECK_OK(cavmae_model_save(t.model, in_directory("edge")));
        CHECK_OK(cavmae_model_load(t.context, in_directory("edge"), 0, NULL, &loaded));
        tiny_inputs in = tiny_make(t.config, 0, clips, NULL);
        const cavmae_batch batch = tiny_batch(&in, clips);
        float rows[2][3 * 16];
        int visual = strstr(edges[i], "modalities=v") != NULL;
        for (int m = 0; m < 2; m++)
            CHECK_OK(cavmae_embed(m ? loaded : t.model, &batch,
                                  &(cavmae_embedding){.struct_size = sizeof(cavmae_embedding),
                                                      .audio = visual ? NULL : rows[m],
                                                      .visual = visual ? rows[m] : NULL}));
        size_t row = (size_t)tiny_value(t.config, CAVMAE_P_EMBED_DIM) * sizeof(float);
        CHECK(memcmp(rows[0], rows[1], (size_t)clips * row) == 0);
        cavmae_model_free(loaded);
        tiny_release(&in);
        tiny_train_free(&t);
    }
}

/* ---- Lifetimes ---- */

static void test_lifetimes(void) {
    tiny_training t = tiny_train(1, SMALLEST);
    cavmae_model *loaded;
    cavmae_tensor *view, *mapped, *gradient;
    float values[16] = {0};
    CHECK_OK(cavmae_model_save(t.model, in_directory("model")));
    CHECK_OK(cavmae_model_load(t.context, in_directory("model"), 0, NULL, &loaded));
    CHECK_OK(cavmae_model_parameter(loaded, "norm.weight", &mapped));
    CHECK_OK(cavmae_model_set_parameter(loaded, "norm.weight", values, 16)); /* leaves the file that `mapped` shows */
    CHECK(((const float *)cavmae_tensor_data(mapped))[15] == 1);
    CHECK_OK(cavmae_model_parameter(loaded, "norm.weight", &view));
    CHECK(((const float *)cavmae_tensor_data(view))[15] == 0);
    tiny_step(&t, 0, 3);
    CHECK_OK(cavmae_trainer_gradient(t.trainer, "norm.bias", &gradient));

    /* The wrong way round: owners first. */
    cavmae_context_free(t.context);
    cavmae_config_free(t.config);
    cavmae_model_free(t.model);
    cavmae_model_free(loaded);
    cavmae_optimizer_free(t.optimizer);
    CHECK(((const float *)cavmae_tensor_data(mapped))[0] == 1 && ((const float *)cavmae_tensor_data(view))[0] == 0);
    cavmae_tensor_free(mapped);
    CHECK_OK(cavmae_checkpoint_save(t.trainer, NULL, in_directory("checkpoint")));
    CHECK_OK(cavmae_checkpoint_load(t.trainer, NULL, in_directory("checkpoint")));
    cavmae_trainer_free(t.trainer);
    CHECK(isfinite(((const float *)cavmae_tensor_data(gradient))[15]));
    cavmae_tensor_free(gradient);
    cavmae_tensor_free(view);
}

/* ---- Files that lie ---- */

static atomic_size_t largest_block;

static void *noting_alloc(void *user, size_t size) {
    (void)user;
    if (size > atomic_load(&largest_block)) atomic_store(&largest_block, size);
    return malloc(size);
}

static void noting_free(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* A model file with `config` as its configuration and one small tensor. */
static void write_model(cavmae_context *context, const char *path, const char *config) {
    cavmae_tensor *tensor;
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, (const int64_t[]){4}, &tensor));
    CHECK_OK(cavmae_safetensors_save(context, path, 1, (const char *[]){"norm.weight"},
                                     (const cavmae_tensor *[]){tensor}, 1, (const char *[]){"cavmae.config"},
                                     (const char *[]){config}));
    cavmae_tensor_free(tensor);
}

static void test_lying_files(void) {
    static const struct {
        const char *config;
        cavmae_status status;
    } lies[] = {
        {"{\"embed_dim\": 16384, \"num_heads\": 16, \"decoder_dim\": 16384, \"mlp_ratio\": 64, \"modality_depth\": 256,"
         " \"joint_depth\": 256, \"decoder_depth\": 256, \"image_size\": 16384, \"audio_frames\": 1048576}",
         CAVMAE_E_MISMATCH},
        {"{\"embed_dim\": 1e300}", CAVMAE_E_FORMAT},
        {"{\"embed_dim\": [[[]]]}", CAVMAE_E_FORMAT},
        {"{\"image_channels\": 16, \"image_mean\": \"1,2,3\"}", CAVMAE_E_FORMAT},
        {"{\"no_such_key\": 1}", CAVMAE_E_UNSUPPORTED},
        {"{\"lr\": 1", CAVMAE_E_FORMAT},
        {"", CAVMAE_E_FORMAT},
    };
    const cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .alloc = noting_alloc, .free = noting_free};
    cavmae_context *context;
    CHECK_OK(cavmae_context_create(&options, &context));
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        write_model(context, in_directory("lie"), lies[i].config);
        atomic_store(&largest_block, 0);
        CHECK_FAILS(cavmae_model, cavmae_model_load(context, in_directory("lie"), 0, NULL, &out), lies[i].status);
        CHECK(atomic_load(&largest_block) < 32 << 20); /* the list of parameters, at the most */
    }
    cavmae_context_free(context);
}

/* ---- No memory, at every place ---- */

static void test_no_memory_for_a_file(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    options.threads = 1;
    cavmae_context *context;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &fake_decoder));
    tiny_training t = tiny_train_in(context, SMALLEST);
    float audio[16], visual[16];
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = audio, .visual = visual};
    long blocks = atomic_load(&allocator.blocks);
    cavmae_status status = CAVMAE_E_NOMEM;
    for (allocator.fail_at = 1; status != CAVMAE_OK && allocator.fail_at < 1000; allocator.fail_at++) {
        atomic_store(&allocator.calls, 0);
        status = cavmae_embed_file(t.model, "any", &out);
        CHECK((status == CAVMAE_OK || status == CAVMAE_E_NOMEM) && atomic_load(&allocator.blocks) == blocks);
    }
    CHECK_OK(status);
    CHECK(allocator.fail_at > 10);
    allocator.fail_at = 0;
    tiny_train_free(&t);
    CHECK(atomic_load(&allocator.blocks) == 0);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    tiny_training t = tiny_train(2, SMALLEST);
    test_null_values();
    test_null_handles(t.context, t.config, t.model);
    test_null_arguments(t.context, t.config, &t);
    test_records(t.config);
    test_odd_numbers(t.context, &t);
    tiny_train_free(&t);
    test_edges();
    test_lifetimes();
    test_lying_files();
    test_no_memory_for_a_file();
    static const char *const names[] = {"edge", "model", "checkpoint", "lie"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_directory(names[i]));
    CHECK(rmdir(directory) == 0); /* no call that failed left a file behind */
    return check_summary("api");
}
