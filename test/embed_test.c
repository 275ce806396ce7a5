/* Embeddings: the same bits in any company, what the outputs are of one another, and media through a decoder. */
#include <stdatomic.h>

#include "tiny.h"

#define NAME "clip.tiny"

enum { MOST = 7, WIDTH = 16, LV = 9 };

static cavmae_model *make_model(cavmae_context *context, const char *settings) {
    cavmae_config *config = tiny_config(context, settings);
    cavmae_model *model = NULL;
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    cavmae_config_free(config);
    return model;
}

/* Every output of up to MOST clips of up to 12 grid columns. */
typedef struct outputs {
    float audio[MOST * WIDTH], visual[MOST * WIDTH], joint[MOST * WIDTH];
    float audio_tokens[MOST * 24 * WIDTH], visual_tokens[MOST * LV * WIDTH], joint_tokens[MOST * (24 + LV) * WIDTH];
} outputs;

static cavmae_embedding point_at(outputs *o) {
    return (cavmae_embedding){.struct_size = sizeof(cavmae_embedding),
                              .audio = o->audio,
                              .visual = o->visual,
                              .joint = o->joint,
                              .audio_tokens = o->audio_tokens,
                              .visual_tokens = o->visual_tokens,
                              .joint_tokens = o->joint_tokens};
}

static outputs *embed(cavmae_model *model, const cavmae_batch *batch) {
    outputs *o = calloc(1, sizeof *o);
    const cavmae_embedding out = point_at(o);
    CHECK_OK(cavmae_embed(model, batch, &out));
    return o;
}

static int same(const float *a, const float *b, int64_t count) { return memcmp(a, b, (size_t)count * sizeof *a) == 0; }

/* Clip i of a ragged batch. */
static cavmae_batch clip_of(const tiny_inputs *in, int32_t i) {
    cavmae_batch batch = tiny_batch(in, 1);
    for (int32_t k = 0; k < i; k++) batch.audio += in->frames[k] * 16;
    batch.image += i * 3 * 24 * 24;
    batch.audio_frames += i;
    return batch;
}

/* ---- Company, threads ---- */

static void check_company(const char *settings) {
    static const int32_t frames[MOST] = {32, 8, 96, 16, 32, 64, 24};
    cavmae_context *contexts[3];
    cavmae_model *models[3];
    for (int i = 0; i < 3; i++) {
        contexts[i] = tiny_context(i + 1);
        models[i] = make_model(contexts[i], settings);
    }
    cavmae_config *config = tiny_config(contexts[0], settings);
    tiny_inputs in = tiny_make(config, 0, MOST, frames);
    outputs *alone[MOST];
    for (int32_t i = 0; i < MOST; i++) {
        const cavmae_batch one = clip_of(&in, i);
        alone[i] = embed(models[0], &one);
    }
    for (int32_t count = 1; count <= MOST; count++) {
        const cavmae_batch batch = tiny_batch(&in, count);
        outputs *together = embed(models[count % 3], &batch);
        int64_t token = 0, different = 0;
        for (int32_t i = 0; i < count; i++) {
            int64_t tokens = frames[i] / 4;
            different += !same(together->audio + i * WIDTH, alone[i]->audio, WIDTH);
            different += !same(together->visual + i * WIDTH, alone[i]->visual, WIDTH);
            different += !same(together->joint + i * WIDTH, alone[i]->joint, WIDTH);
            different += !same(together->audio_tokens + token * WIDTH, alone[i]->audio_tokens, tokens * WIDTH);
            different += !same(together->visual_tokens + i * LV * WIDTH, alone[i]->visual_tokens, LV * WIDTH);
            different +=
                !same(together->joint_tokens + (token + i * LV) * WIDTH, alone[i]->joint_tokens, (tokens + LV) * WIDTH);
            token += tokens;
        }
        CHECK(different == 0);
        for (int k = 0; k < 3; k++) {
            outputs *again = embed(models[k], &batch);
            CHECK(memcmp(together, again, sizeof *again) == 0);
            free(again);
        }
        free(together);
    }
    CHECK(!same(alone[0]->audio, alone[4]->audio, WIDTH)); /* two clips of the same length */
    for (int i = 0; i < MOST; i++) free(alone[i]);
    tiny_release(&in);
    cavmae_config_free(config);
    for (int i = 0; i < 3; i++) {
        cavmae_model_free(models[i]);
        cavmae_context_free(contexts[i]);
    }
}

/* More clips than one pass takes: 1024 rows hold some 60 of these. */
static void test_many(void) {
    enum { CLIPS = 150 };
    cavmae_context *context = tiny_context(2);
    cavmae_model *model = make_model(context, SMALLEST);
    cavmae_config *config = tiny_config(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, CLIPS, NULL);
    cavmae_batch batch = tiny_batch(&in, CLIPS);
    float *joint = malloc(CLIPS * WIDTH * sizeof *joint), *tokens = malloc(CLIPS * LV * WIDTH * sizeof *tokens);
    cavmae_embedding out = {.struct_size = sizeof out, .joint = joint, .visual_tokens = tokens};
    CHECK_OK(cavmae_embed(model, &batch, &out));
    for (int i = 0; i < CLIPS; i += 29) {
        float one[WIDTH], one_tokens[LV * WIDTH];
        out = (cavmae_embedding){.struct_size = sizeof out, .joint = one, .visual_tokens = one_tokens};
        batch = tiny_batch(&in, 1);
        batch.audio += i * in.audio_elements / CLIPS;
        batch.image += i * in.image_elements / CLIPS;
        CHECK_OK(cavmae_embed(model, &batch, &out));
        CHECK(same(one, joint + i * WIDTH, WIDTH) && same(one_tokens, tokens + i * LV * WIDTH, LV * WIDTH));
    }
    free(joint);
    free(tokens);
    tiny_release(&in);
    cavmae_config_free(config);
    cavmae_model_free(model);
    cavmae_context_free(context);
}

/* ---- What the outputs are ---- */

static void check_mean(const float *tokens, int64_t count, const float *pooled, int unit_length) {
    double mean[WIDTH] = {0}, square = 0, worst = 0;
    for (int64_t t = 0; t < count; t++)
        for (int k = 0; k < WIDTH; k++) mean[k] += tokens[t * WIDTH + k] / (double)count;
    for (int k = 0; k < WIDTH; k++) square += mean[k] * mean[k];
    for (int k = 0; k < WIDTH; k++) worst = fmax(worst, fabs(mean[k] / (unit_length ? sqrt(square) : 1) - pooled[k]));
    CHECK_CLOSE(worst, 0, 1e-6);
}

static void test_outputs(void) {
    cavmae_context *context = tiny_context(2);
    cavmae_model *model = make_model(context, SMALLEST " joint_depth=2");
    cavmae_config *config = tiny_config(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, 2, NULL);
    const cavmae_batch batch = tiny_batch(&in, 2);
    outputs *all = embed(model, &batch), *some = calloc(1, sizeof *some);
    for (int i = 0; i < 2; i++) {
        check_mean(all->audio_tokens + i * 8 * WIDTH, 8, all->audio + i * WIDTH, 1);
        check_mean(all->visual_tokens + i * LV * WIDTH, LV, all->visual + i * WIDTH, 1);
        check_mean(all->joint_tokens + i * (8 + LV) * WIDTH, 8 + LV, all->joint + i * WIDTH, 0);
    }
    double square = 0;
    for (int k = 0; k < WIDTH; k++) square += (double)all->audio[k] * all->audio[k];
    CHECK_CLOSE(square, 1, 1e-6);
    /* One output alone is what it is among all, and needs the inputs of its own modality only. */
    static const size_t offsets[] = {
        offsetof(cavmae_embedding, audio),         offsetof(cavmae_embedding, visual),
        offsetof(cavmae_embedding, joint),         offsetof(cavmae_embedding, audio_tokens),
        offsetof(cavmae_embedding, visual_tokens), offsetof(cavmae_embedding, joint_tokens)};
    const cavmae_embedding every = point_at(some);
    for (int i = 0; i < 6; i++) {
        cavmae_embedding one = {.struct_size = sizeof one};
        memcpy((char *)&one + offsets[i], (const char *)&every + offsets[i], sizeof(float *));
        cavmae_batch needed = batch;
        if (i % 3 != 2) *(i % 3 ? &needed.audio : &needed.image) = NULL;
        CHECK_OK(cavmae_embed(model, &needed, &one));
        needed = batch;
        *(i % 3 == 1 ? &needed.image : &needed.audio) = NULL;
        CHECK_STATUS(cavmae_embed(model, &needed, &one), CAVMAE_E_ARG);
        CHECK(strstr(cavmae_last_error(), i % 3 == 1 ? "image" : "audio"));
    }
    CHECK(memcmp(all, some, sizeof *all) == 0);
    free(all);
    free(some);
    tiny_release(&in);
    cavmae_config_free(config);
    cavmae_model_free(model);
    cavmae_context_free(context);
}

/* The same parameters in a model that is configured for longer clips give the same. */
static void test_longer(void) {
    cavmae_context *context = tiny_context(1);
    cavmae_model *shorter = make_model(context, SMALLEST), *longer = make_model(context, SMALLEST " audio_frames=96"),
                 *trained = make_model(context, SMALLEST " trainable_pos=1");
    cavmae_config *config = tiny_config(context, SMALLEST " audio_frames=96");
    const int32_t frames[2] = {96, 64};
    tiny_inputs in = tiny_make(config, 0, 2, frames);
    cavmae_batch batch = tiny_batch(&in, 2);
    outputs *a = embed(shorter, &batch), *b = embed(longer, &batch);
    CHECK(memcmp(a, b, sizeof *a) == 0);
    const cavmae_embedding out = point_at(a);
    CHECK_STATUS(cavmae_embed(trained, &batch, &out), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "clip 0") && strstr(cavmae_last_error(), "96 frames"));
    const int32_t bad[2] = {16, 20}, negative[2] = {16, -8};
    batch.audio_frames = bad;
    CHECK_STATUS(cavmae_embed(shorter, &batch, &out), CAVMAE_E_SHAPE);
    CHECK(strstr(cavmae_last_error(), "clip 1") && strstr(cavmae_last_error(), "20 frames"));
    batch.audio_frames = negative;
    CHECK_STATUS(cavmae_embed(shorter, &batch, &out), CAVMAE_E_SHAPE);
    const int32_t enormous[2] = {16, 0x7FFFFFF8};
    batch.audio_frames = enormous;
    CHECK_STATUS(cavmae_embed(shorter, &batch, &out), CAVMAE_E_SHAPE);
    free(a);
    free(b);
    tiny_release(&in);
    cavmae_config_free(config);
    cavmae_model_free(shorter);
    cavmae_model_free(longer);
    cavmae_model_free(trained);
    cavmae_context_free(context);
}

static void test_single_modality(void) {
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, 1, NULL);
    const cavmae_batch batch = tiny_batch(&in, 1);
    for (int m = 0; m < 2; m++) {
        cavmae_model *model = make_model(context, m ? SMALLEST " modalities=v" : SMALLEST " modalities=a");
        outputs o;
        cavmae_embedding out = {.struct_size = sizeof out};
        *(m ? &out.visual : &out.audio) = o.joint;
        *(m ? &out.visual_tokens : &out.audio_tokens) = o.joint_tokens;
        CHECK_OK(cavmae_embed(model, &batch, &out));
        check_mean(o.joint_tokens, m ? LV : 8, o.joint, 1);
        *(m ? &out.audio : &out.visual) = o.audio;
        CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_ARG);
        CHECK(strstr(cavmae_last_error(), m ? "audio encoder" : "visual encoder"));
        cavmae_model_free(model);
    }
    tiny_release(&in);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- What is refused ---- */

static int32_t cancel_second(void *user) { return ++*(int *)user == 2; }

static void test_refusals(void) {
    int asked = 0;
    cavmae_context_options options = test_options(1);
    options.cancel = cancel_second;
    options.cancel_user = &asked;
    cavmae_context *context;
    CHECK_OK(cavmae_context_create(&options, &context));
    asked = 100;
    cavmae_model *model = make_model(context, SMALLEST);
    cavmae_config *config = tiny_config(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, 3, NULL);
    cavmae_batch batch = tiny_batch(&in, 3);
    outputs o;
    cavmae_embedding out = point_at(&o), none = {.struct_size = sizeof none};
    CHECK_STATUS(cavmae_embed(NULL, &batch, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed(model, NULL, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed(model, &batch, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed(model, &batch, &none), CAVMAE_E_ARG);
    batch.count = -1;
    CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_ARG);
    batch.count = 0;
    CHECK_OK(cavmae_embed(model, &batch, &out)); /* nothing to do */
    batch.count = 3;
    asked = 0;
    CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_CANCELLED);
    CHECK_OK(cavmae_embed(model, &batch, &out));
    for (int64_t i = 0; i < in.image_elements / 3; i++) in.image[in.image_elements / 3 + i] = i % 64 == 5 ? NAN : 0;
    float *const wanted[] = {o.visual, o.joint, NULL, NULL};
    float *const tokens[] = {NULL, NULL, o.visual_tokens, NULL};
    for (int i = 0; i < 4; i++) { /* whichever output the NaN would show in */
        out = (cavmae_embedding){.struct_size = sizeof out, .visual_tokens = tokens[i]};
        *(i == 1 ? &out.joint : &out.visual) = wanted[i];
        if (i == 3) out.joint_tokens = o.joint_tokens;
        CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_NOT_FINITE);
        CHECK(strstr(cavmae_last_error(), "clip 1"));
    }
    out = (cavmae_embedding){.struct_size = sizeof out, .audio = o.audio};
    CHECK_OK(cavmae_embed(model, &batch, &out)); /* the image is not looked at */
    tiny_release(&in);
    cavmae_config_free(config);
    cavmae_model_free(model);
    cavmae_context_free(context);
}

/* ---- Media files, by a decoder of the test's own ---- */

enum { RATE = 16000, SAMPLES = 5200, WIDE = 40, HIGH = 30 };

static void draw(uint8_t rgb[HIGH * WIDE * 3], double seconds) {
    for (int i = 0; i < HIGH * WIDE * 3; i++) rgb[i] = (uint8_t)(i * 7 + i / 90 + (int)(seconds * 10));
}

static void play(float pcm[SAMPLES]) { tiny_fill(pcm, SAMPLES, 3); }

static cavmae_status probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                           size_t error_size) {
    (void)user;
    if (strcmp(source->path, NAME) != 0) snprintf(error, error_size, "%s: no such clip", source->path);
    if (strcmp(source->path, NAME) != 0) return CAVMAE_E_IO;
    info->audio_channels = 1;
    info->audio_rate = RATE;
    info->width = WIDE;
    info->height = HIGH;
    info->seconds = 8;
    info->frame_rate = 25;
    return CAVMAE_OK;
}

static cavmae_status sound(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *arg, char *error,
                           size_t error_size) {
    float pcm[SAMPLES];
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_status status = probe(user, source, &info, error, error_size);
    if (status != CAVMAE_OK) return status;
    play(pcm);
    if (*(int *)user) pcm[100] = NAN;
    return sink(arg, pcm, SAMPLES, 1, RATE);
}

static cavmae_status pictures(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                              cavmae_frame_sink *sink, void *arg, char *error, size_t error_size) {
    uint8_t rgb[HIGH * WIDE * 3];
    cavmae_status status = CAVMAE_OK;
    (void)user, (void)source, (void)error, (void)error_size;
    for (int32_t i = 0; i < count && status == CAVMAE_OK; i++) {
        draw(rgb, seconds[i]);
        status = sink(arg, i, rgb, WIDE, HIGH, WIDE * 3);
    }
    return status;
}

/* A file gives what its sound and its middle frame give. */
static void check_file(const char *settings) {
    int broken = 0;
    const cavmae_decoder decoder = {sizeof decoder, 1, &broken, probe, sound, pictures};
    cavmae_context *context = tiny_context(1);
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    cavmae_config *config = tiny_config(context, settings);
    cavmae_model *model = make_model(context, settings);
    outputs *a = calloc(1, sizeof *a), *b;
    const cavmae_embedding out = point_at(a);
    CHECK_OK(cavmae_embed_file(model, NAME, &out));

    static float pcm[SAMPLES], image[3 * 24 * 24];
    uint8_t rgb[HIGH * WIDE * 3];
    cavmae_tensor *audio;
    play(pcm);
    draw(rgb, 8 * 5 / 10.0);
    CHECK_OK(cavmae_prepare_audio(config, pcm, SAMPLES, 1, RATE, &audio));
    CHECK_OK(cavmae_prepare_image(config, rgb, WIDE, HIGH, 0, image));
    int32_t frames = (int32_t)cavmae_tensor_shape(audio)[0];
    CHECK(frames == (strstr(settings, "native") ? 32 : 48)); /* 31 frames of sound */
    const cavmae_batch batch = {.struct_size = sizeof batch,
                                .count = 1,
                                .audio = cavmae_tensor_data(audio),
                                .image = image,
                                .audio_frames = &frames};
    b = embed(model, &batch);
    CHECK(memcmp(a, b, sizeof *a) == 0);

    CHECK_STATUS(cavmae_embed_file(model, "other", &out), CAVMAE_E_IO);
    CHECK(strstr(cavmae_last_error(), "other"));
    CHECK_STATUS(cavmae_embed_file(model, NULL, &out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_file(model, NAME, NULL), CAVMAE_E_ARG);
    const cavmae_embedding none = {.struct_size = sizeof none};
    CHECK_STATUS(cavmae_embed_file(model, NAME, &none), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), NAME));
    broken = 1;
    CHECK_STATUS(cavmae_embed_file(model, NAME, &out), CAVMAE_E_ARG); /* the front-end takes no NaN */
    CHECK(strstr(cavmae_last_error(), NAME));
    free(a);
    free(b);
    cavmae_tensor_free(audio);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

int main(void) {
    check_company(SMALLEST);
    check_company(SMALLEST " dtype=bfloat16 joint_depth=2 mlp_ratio=1.5");
    check_company(SMALLEST " modality_depth=0 joint_depth=0");
    test_many();
    test_outputs();
    test_longer();
    test_single_modality();
    test_refusals();
    check_file(SMALLEST " audio_frames=48");
    check_file(SMALLEST " audio_length=native");
    return check_summary("embed");
}
