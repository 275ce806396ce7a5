/* A real clip, where one lies beside the tree: decoded by FFmpeg, prepared, and compared with what the reference's
 * own tools made of it; then embedded. The resamplers differ, so sound is near and not equal. */
#include <unistd.h>

#include "tiny.h"

#define CLIP "../shared/media/00W1lcxW-WU_40.000.mp4"
#define GOLDEN_AUDIO "../shared/golden/audio_00W1lcxW-WU_40_000.safetensors"
#define GOLDEN_IMAGE "../shared/golden/image_00W1lcxW-WU_40_000.safetensors"

static double mean_difference(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += fabs((double)a[i] - b[i]);
    return sum / (double)count;
}

static cavmae_tensor *golden(cavmae_context *context, const char *path, const char *name) {
    cavmae_safetensors *file;
    cavmae_tensor *tensor;
    if (!CHECK_OK(cavmae_safetensors_open(context, path, &file)) ||
        !CHECK_OK(cavmae_safetensors_get(file, name, &tensor)))
        exit(1);
    cavmae_safetensors_free(file); /* the tensor keeps what it needs */
    return tensor;
}

static void test_sound(cavmae_context *context, const cavmae_config *config) {
    cavmae_tensor *expected = golden(context, GOLDEN_AUDIO, "expect.audio"), *pcm, *audio;
    int32_t rate = 0;
    CHECK_OK(cavmae_media_audio(context, CLIP, &pcm, &rate));
    const int64_t *shape = cavmae_tensor_shape(pcm);
    CHECK_OK(cavmae_prepare_audio(config, cavmae_tensor_data(pcm), shape[0], (int32_t)shape[1], rate, &audio));
    int64_t elements = cavmae_tensor_elements(audio);
    if (CHECK(cavmae_tensor_elements(expected) == elements && cavmae_tensor_dtype(expected) == CAVMAE_FLOAT32)) {
        double difference = 4.4849 * mean_difference(cavmae_tensor_data(audio), cavmae_tensor_data(expected),
                                                     elements); /* of the log-mel */
        printf("log-mel: mean difference %.4f\n", difference);
        CHECK(difference < 0.05);
    }
    cavmae_tensor_free(pcm);
    cavmae_tensor_free(audio);
    cavmae_tensor_free(expected);
}

static void test_picture(cavmae_context *context, const cavmae_config *config) {
    static float image[3 * 224 * 224];
    const double seconds[1] = {5};
    cavmae_tensor *expected = golden(context, GOLDEN_IMAGE, "expect.image"), *frames;
    CHECK_OK(cavmae_media_frames(context, CLIP, seconds, 1, &frames));
    const int64_t *shape = cavmae_tensor_shape(frames);
    CHECK_OK(cavmae_prepare_image(config, cavmae_tensor_data(frames), (int32_t)shape[2], (int32_t)shape[1], 0, image));
    if (CHECK(cavmae_tensor_elements(expected) == 3 * 224 * 224 && cavmae_tensor_dtype(expected) == CAVMAE_FLOAT32)) {
        double difference = mean_difference(image, cavmae_tensor_data(expected), 3 * 224 * 224);
        printf("image: mean difference %.4f\n", difference);
        CHECK(difference < 0.05);
    }
    cavmae_tensor_free(frames);
    cavmae_tensor_free(expected);
}

typedef struct places {
    int64_t count;
    double start[8], end[8];
} places;

static cavmae_status note(void *user, int64_t index, double start, double end, const cavmae_embedding *embedding) {
    places *p = user;
    if (!CHECK(index == p->count && index < 8 && embedding->joint)) return CAVMAE_E_INTERNAL;
    p->start[index] = start;
    p->end[index] = end;
    p->count++;
    return CAVMAE_OK;
}

/* Sound of the clip is resampled once; its last window ends with it. */
static void test_windows(cavmae_model *model, const cavmae_embedding *out) {
    static const double starts[] = {0, 3, 6, 6.024};
    const cavmae_source source = {.struct_size = sizeof source, .path = CLIP};
    const cavmae_window_options options = {.struct_size = sizeof options, .window_seconds = 4, .hop_seconds = 3};
    places p = {0};
    CHECK_OK(cavmae_embed_windows(model, &source, &options, out, note, &p));
    CHECK(p.count == 4);
    for (int i = 0; i < 4; i++) {
        CHECK_CLOSE(p.start[i], starts[i], 1e-4);
        CHECK_CLOSE(p.end[i], starts[i] + 4, 1e-4);
    }
}

static void test_embedding(cavmae_config *config) {
    enum { WIDTH = 96 };
    float rows[3][WIDTH];
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = rows[0], .visual = rows[1], .joint = rows[2]};
    cavmae_model *model;
    tiny_set(config, "embed_dim=96 num_heads=6 modality_depth=1 decoder_dim=32 decoder_heads=4 decoder_depth=1");
    CHECK_OK(cavmae_model_create(config, &model));
    CHECK_OK(cavmae_embed_file(model, CLIP, &out));
    for (int i = 0; i < 3; i++) {
        double square = 0;
        for (int k = 0; k < WIDTH; k++) square += (double)rows[i][k] * rows[i][k];
        CHECK(isfinite(square) && (i == 2 ? square > 0 : fabs(square - 1) < 1e-5));
    }
    test_windows(model, &out);
    cavmae_model_free(model);
}

int main(void) {
    cavmae_context_options options = {.struct_size = sizeof options, .plugin_dir = TEST_LIB_DIR};
    cavmae_context *context;
    cavmae_config *config;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_config_create(context, "base", &config));
    if (access(CLIP, R_OK) == 0 && access(GOLDEN_AUDIO, R_OK) == 0 && access(GOLDEN_IMAGE, R_OK) == 0) {
        test_sound(context, config);
        test_picture(context, config);
        test_embedding(config);
    } else {
        printf("%s and its golden cases are not there: not tested\n", CLIP);
    }
    cavmae_config_free(config);
    cavmae_context_free(context);
    return check_summary("media_clip");
}
