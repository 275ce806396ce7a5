/* Batches of int16 samples and 8-bit pixels: what they give is what the same clips give that were prepared one by one
 * first, to the last bit, and what cannot be prepared is refused. */
#include <math.h>

#include "failing_allocator.h"
#include "tiny.h"

enum { CLIPS = 5, MOST_PICTURES = 12, WIDTH = 16 };

/* Clips as they are, and prepared by the public calls. */
typedef struct raw_case {
    cavmae_config *config;
    int16_t *pcm;
    uint8_t *pixels;
    float *audio, *image;
    int32_t *frames, clips, pictures, height, width;
    int64_t samples, channels, elements; /* elements: of a prepared picture */
} raw_case;

static void make_sound(int16_t *pcm, int64_t samples, int32_t clip) {
    for (int64_t i = 0; i < samples; i++) {
        const double t = (double)i / 16000;
        pcm[i] = (int16_t)(12000 * sin(6.28318 * (200 + 300 * clip + 2000 * t) * t) + (double)(i * 7919 % 301) - 150);
    }
}

static raw_case make_case(const cavmae_config *config, int32_t clips, int64_t samples, int32_t pictures, int32_t height,
                          int32_t width) {
    raw_case c = {.clips = clips, .pictures = pictures, .height = height, .width = width, .samples = samples};
    CHECK_OK(cavmae_config_clone(config, &c.config));
    const int64_t size = tiny_value(config, CAVMAE_P_IMAGE_SIZE);
    c.channels = tiny_value(config, CAVMAE_P_IMAGE_CHANNELS);
    c.elements = c.channels * size * size;
    const int64_t bytes = height * width * c.channels;
    c.pcm = malloc((size_t)(clips * samples) * sizeof *c.pcm);
    c.pixels = malloc((size_t)(clips * pictures * bytes));
    c.image = malloc((size_t)(clips * pictures * c.elements) * sizeof *c.image);
    c.frames = malloc((size_t)clips * sizeof *c.frames);
    float *waveform = malloc((size_t)samples * sizeof *waveform);
    int64_t rows = 0;
    for (int32_t i = 0; i < clips; i++) {
        int16_t *pcm = c.pcm + i * samples;
        cavmae_tensor *tensor = NULL;
        make_sound(pcm, samples, i);
        for (int64_t k = 0; k < samples; k++) waveform[k] = (float)pcm[k] / 32768;
        if (!CHECK_OK(cavmae_prepare_audio(config, waveform, samples, 1, 16000, &tensor))) exit(1);
        const int64_t elements = cavmae_tensor_elements(tensor);
        c.audio = realloc(c.audio, (size_t)(rows + elements) * sizeof *c.audio);
        memcpy(c.audio + rows, cavmae_tensor_data(tensor), (size_t)elements * sizeof *c.audio);
        c.frames[i] = (int32_t)(elements / tiny_value(config, CAVMAE_P_MEL_BINS));
        rows += elements;
        cavmae_tensor_free(tensor);
    }
    for (int64_t i = 0; i < clips * pictures; i++) {
        for (int64_t k = 0; k < bytes; k++) c.pixels[i * bytes + k] = (uint8_t)((k * 37 + k / 50 * 11) * (i + 3) >> 2);
        CHECK_OK(cavmae_prepare_image(config, c.pixels + i * bytes, width, height, 0, c.image + i * c.elements));
    }
    free(waveform);
    return c;
}

static void free_case(raw_case *c) {
    cavmae_config_free(c->config);
    free(c->pcm);
    free(c->pixels);
    free(c->audio);
    free(c->image);
    free(c->frames);
}

/* raw[m]: modality m as samples or pixels. */
static cavmae_batch batch_of(const raw_case *c, int raw_sound, int raw_pictures) {
    cavmae_batch batch = {.struct_size = sizeof batch, .count = c->clips, .frames = c->pictures > 1 ? c->pictures : 0};
    if (raw_sound) {
        batch.pcm = c->pcm;
        batch.pcm_samples = c->samples;
    } else {
        batch.audio = c->audio;
        batch.audio_frames = c->frames;
    }
    if (raw_pictures) {
        batch.pixels = c->pixels;
        batch.pixel_height = c->height;
        batch.pixel_width = c->width;
    } else {
        batch.image = c->image;
    }
    return batch;
}

static cavmae_model *make_model(const cavmae_config *config) {
    cavmae_model *model = NULL;
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    return model;
}

/* ---- Embedding ---- */

typedef struct outputs {
    float audio[CLIPS * WIDTH], visual[CLIPS * MOST_PICTURES * WIDTH], joint[CLIPS * MOST_PICTURES * WIDTH];
} outputs;

static void embed(cavmae_model *model, const cavmae_batch *batch, outputs *o) {
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = o->audio, .visual = o->visual, .joint = o->joint};
    memset(o, 0, sizeof *o);
    CHECK_OK(cavmae_embed(model, batch, &out));
}

static void check_embedding(const char *settings, int32_t clips, int64_t samples, int32_t pictures, int32_t height,
                            int32_t width) {
    cavmae_context *context = tiny_context(2);
    cavmae_config *config = tiny_config(context, settings);
    raw_case c = make_case(config, clips, samples, pictures, height, width);
    cavmae_model *model = make_model(config);
    const cavmae_batch prepared = batch_of(&c, 0, 0);
    outputs *expected = malloc(sizeof *expected), *got = malloc(sizeof *got);
    embed(model, &prepared, expected);
    for (int kind = 1; kind < 4; kind++) {
        const cavmae_batch raw = batch_of(&c, kind & 1, kind & 2);
        embed(model, &raw, got);
        if (!CHECK(memcmp(expected, got, sizeof *got) == 0))
            printf("  %s: %d clips, kind %d, %d x %d\n", settings, clips, kind, width, height);
    }
    CHECK(clips < 2 || memcmp(expected->audio, expected->audio + WIDTH, WIDTH * sizeof(float)) != 0);
    free(expected);
    free(got);
    free_case(&c);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

static void test_embedding(void) {
    check_embedding(SMALLEST, CLIPS, 5200, 1, 30, 40);
    check_embedding(SMALLEST, 1, 400, 1, 1, 1);      /* a single frame of sound, a single pixel */
    check_embedding(SMALLEST, 2, 16000, 1, 24, 24);  /* longer than the model hears; no resize */
    check_embedding(SMALLEST, 2, 5200, 12, 17, 100); /* more pictures than go together */
    check_embedding(SMALLEST " audio_length=silence", 2, 1601, 1, 60, 25);
    check_embedding(SMALLEST " audio_length=native", 3, 9001, 1, 25, 60);
    check_embedding(SMALLEST " image_channels=1 image_mean=0.4 image_std=0.3 image_filter=bilinear", 2, 3000, 2, 48,
                    31);
}

static void test_localization(void) {
    enum { MANY = 18, CELLS = 9 }; /* more clips than are held at once */
    cavmae_context *context = tiny_context(2);
    cavmae_config *config = tiny_config(context, SMALLEST " audio_length=native");
    raw_case c = make_case(config, MANY, 2000, 1, 20, 30);
    cavmae_model *model = make_model(config);
    float expected[MANY * CELLS], got[MANY * CELLS];
    const cavmae_batch prepared = batch_of(&c, 0, 0);
    CHECK_OK(cavmae_localize(model, &prepared, expected));
    for (int kind = 1; kind < 4; kind++) {
        const cavmae_batch raw = batch_of(&c, kind & 1, kind & 2);
        memset(got, 0, sizeof got);
        CHECK_OK(cavmae_localize(model, &raw, got));
        CHECK(memcmp(expected, got, sizeof got) == 0);
    }
    free_case(&c);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Training ---- */

/* The losses of two steps and an evaluation, and what became of the parameters. */
static uint64_t train(const char *settings, const raw_case *c, int raw_sound, int raw_pictures, int head,
                      double losses[3]) {
    const float labels[2 * 3] = {1, 0, 0, 0, 0, 1};
    tiny_training t = tiny_train(2, settings);
    cavmae_batch batch = batch_of(c, raw_sound, raw_pictures);
    if (head) {
        batch.labels = labels;
        batch.classes = 3;
    }
    for (int i = 0; i < 3; i++) {
        cavmae_step_result result = {.struct_size = sizeof result};
        if (i < 2)
            CHECK_OK(head ? cavmae_finetune_step(t.trainer, &batch, &result)
                          : cavmae_pretrain_step(t.trainer, &batch, &result));
        else
            CHECK_OK(head ? cavmae_finetune_evaluate(t.trainer, &batch, &result)
                          : cavmae_pretrain_evaluate(t.trainer, &batch, 0, &result));
        losses[i] = result.loss;
    }
    const uint64_t hash = tiny_hash(t.model);
    tiny_train_free(&t);
    return hash;
}

static void check_training(const char *settings, int head) {
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, settings);
    raw_case c = make_case(config, 2, 4000, 1, 30, 41);
    double expected[3], got[3];
    const uint64_t hash = train(settings, &c, 0, 0, head, expected);
    for (int kind = 1; kind < 4; kind++) {
        CHECK(train(settings, &c, kind & 1, kind & 2, head, got) == hash);
        CHECK(memcmp(expected, got, sizeof got) == 0);
    }
    CHECK(expected[0] != 0 && expected[0] != expected[1]);
    free_case(&c);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

static void test_training(void) {
    check_training(SMALLEST, 0);
    check_training(SMALLEST " audio_length=native", 0);
    check_training(SMALLEST " classes=3", 1);
}

/* ---- What is refused ---- */

/* One field after another is put wrong; the sentence names it. */
static void check_refusals(cavmae_status (*call)(void *object, const cavmae_batch *batch), void *object,
                           const raw_case *c) {
    cavmae_batch raw = batch_of(c, 1, 1), bad;
    CHECK_OK(call(object, &raw));
    bad = raw;
    bad.audio = c->audio;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "audio and pcm"));
    bad = raw;
    bad.image = c->image;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "image and pixels"));
    bad = raw;
    bad.audio_frames = c->frames;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "audio_frames"));
    static const int64_t few[] = {399, 0, -1, INT64_MIN};
    for (int i = 0; i < 4; i++) {
        bad = raw;
        bad.pcm_samples = few[i];
        CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
        CHECK(strstr(cavmae_last_error(), "pcm_samples"));
    }
    bad = raw;
    bad.pcm_samples = INT64_MAX / 2;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "pcm_samples"));
    for (int i = 0; i < 4; i++) {
        bad = raw;
        *(i % 2 ? &bad.pixel_width : &bad.pixel_height) = i < 2 ? 0 : -7;
        CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
        CHECK(strstr(cavmae_last_error(), "pixels"));
    }
    bad = raw;
    bad.pixel_width = bad.pixel_height = INT32_MAX;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "pixels"));
    bad = raw;
    bad.pcm = NULL;
    CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "audio"));
    /* a caller that was built before there were such fields */
    bad = raw;
    bad.struct_size = offsetof(cavmae_batch, pcm);
    CHECK_STATUS(call(object, &bad), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "audio"));
}

static cavmae_status call_embed(void *object, const cavmae_batch *batch) {
    float joint[CLIPS * WIDTH];
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
    return cavmae_embed(object, batch, &out);
}

static cavmae_status call_localize(void *object, const cavmae_batch *batch) {
    float heat[CLIPS * 9];
    return cavmae_localize(object, batch, heat);
}

static cavmae_status call_step(void *object, const cavmae_batch *batch) {
    cavmae_step_result result = {.struct_size = sizeof result};
    return cavmae_pretrain_step(object, batch, &result);
}

static void test_refusals(void) {
    tiny_training t = tiny_train(2, SMALLEST);
    raw_case c = make_case(t.config, 3, 5200, 1, 30, 40);
    check_refusals(call_embed, t.model, &c);
    check_refusals(call_localize, t.model, &c);
    check_refusals(call_step, t.trainer, &c);

    cavmae_batch raw = batch_of(&c, 1, 1);
    float joint[CLIPS * WIDTH], painted[3 * 32 * 16];
    /* what is not used is not looked at */
    raw.pcm_samples = -1;
    const cavmae_embedding visual = {.struct_size = sizeof visual, .visual = joint};
    CHECK_OK(cavmae_embed(t.model, &raw, &visual));
    raw = batch_of(&c, 1, 1);
    cavmae_inpainting painting = {.struct_size = sizeof painting, .audio = painted};
    CHECK_STATUS(cavmae_inpaint(t.model, NULL, &raw, 0, &painting), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "pcm and pixels"));
    free_case(&c);
    tiny_train_free(&t);

    /* a native clip longer than the trainer, and than a trained table of positions */
    t = tiny_train(2, SMALLEST " audio_length=native trainable_pos=1");
    c = make_case(t.config, 2, 16000, 1, 24, 24);
    raw = batch_of(&c, 1, 1);
    CHECK_STATUS(call_step(t.trainer, &raw), CAVMAE_E_SHAPE);
    CHECK_STATUS(call_embed(t.model, &raw), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "104 frames"));
    free_case(&c);
    tiny_train_free(&t);
}

/* ---- No memory ---- */

static void test_no_memory(void) {
    failing_allocator allocator = {0};
    const cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
    cavmae_config *config = tiny_config(context, SMALLEST);
    raw_case c = make_case(config, 2, 1000, 1, 30, 40);
    cavmae_model *model = make_model(config);
    const cavmae_batch raw = batch_of(&c, 1, 1);
    CHECK_OK(call_embed(model, &raw));
    const long blocks = allocator.blocks;
    allocator.calls = 0;
    CHECK_OK(call_embed(model, &raw));
    const long calls = allocator.calls;
    for (long i = 1; i <= calls; i++) {
        allocator.calls = 0;
        allocator.fail_at = i;
        if (!CHECK_STATUS(call_embed(model, &raw), CAVMAE_E_NOMEM)) break;
        if (!CHECK(allocator.blocks == blocks && cavmae_last_error()[0])) break;
    }
    allocator.fail_at = 0;
    CHECK_OK(call_embed(model, &raw));
    free_case(&c);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    CHECK(allocator.blocks == 0);
}

int main(void) {
    test_embedding();
    test_localization();
    test_training();
    test_refusals();
    test_no_memory();
    return check_summary("raw_batch");
}
