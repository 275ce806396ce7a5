/* Inputs and outputs of the caller's that lie on the device: what they give is what the host's memory gives, bit for bit. */
#define _GNU_SOURCE
#include "compare.h"
#include "tiny.h"

enum { CLIPS = 3, FRAMES = 2, WIDTH = 16, CLASSES = 5, TOKENS = 8 + 9 };

/* Another program's device memory: of a context of its own. */
typedef struct owner {
    cavmae_context *context;
    cavmae__backend *backend;
    void *held[32];
    int count;
} owner;

static owner open_owner(const char *device) {
    owner o = {0};
    cavmae_context_options options = device_options();
    if (device) options.device = device;
    if (!CHECK_OK(cavmae_context_create(&options, &o.context)) ||
        !CHECK_OK(cavmae__context_backend(o.context, &o.backend)))
        exit(1);
    return o;
}

/* Memory of the device's with these bytes, or with others where there are none. */
static void *on_device(owner *o, const void *host, size_t size) {
    void *memory = NULL;
    if (!CHECK_OK(o->backend->ops->alloc(o->backend, size, &memory))) exit(1);
    if (host) CHECK_OK(o->backend->ops->upload(o->backend, memory, host, size));
    if (!host) CHECK_OK(o->backend->ops->zero(o->backend, memory, size));
    CHECK_OK(o->backend->ops->sync(o->backend));
    o->held[o->count++] = memory;
    return memory;
}

static void close_owner(owner *o) {
    while (o->count) o->backend->ops->free(o->backend, o->held[--o->count]);
    cavmae_context_free(o->context);
}

/* Every output that a model with a head has, in one array, and where each lies in it. */
enum { OUTPUTS = 9 };
typedef struct outputs {
    size_t start[OUTPUTS + 1];
} outputs;

static outputs lay_out(int frames) {
    const int64_t rows = (int64_t)CLIPS * frames;
    const int64_t elements[OUTPUTS] = {
        CLIPS * WIDTH,    rows * WIDTH,          rows * WIDTH, (int64_t)CLIPS * 8 * WIDTH,
        rows * 9 * WIDTH, rows * TOKENS * WIDTH, rows * WIDTH, rows * CLASSES,
        CLIPS * CLASSES};
    outputs o = {{0}};
    for (int i = 0; i < OUTPUTS; i++) o.start[i + 1] = o.start[i] + (size_t)elements[i];
    return o;
}

static cavmae_embedding fields(const outputs *o, float *at, int32_t average) {
    return (cavmae_embedding){.struct_size = sizeof(cavmae_embedding),
                              .audio = at + o->start[0],
                              .visual = at + o->start[1],
                              .joint = at + o->start[2],
                              .audio_tokens = at + o->start[3],
                              .visual_tokens = at + o->start[4],
                              .joint_tokens = at + o->start[5],
                              .features = at + o->start[6],
                              .logits = at + o->start[7],
                              .scores = at + o->start[8],
                              .average = average};
}

/* The batch's inputs, wherever they lie, into the host's memory and into the device's. */
static void check_embed(owner *o, cavmae_model *model, const cavmae_batch *host, const cavmae_batch *device) {
    const outputs all = lay_out(host->frames ? host->frames : 1);
    const size_t count = all.start[OUTPUTS];
    float *expected = malloc(count * sizeof(float)), *got = malloc(count * sizeof(float));
    for (int32_t average = CAVMAE_AVERAGE_SCORES; average <= CAVMAE_AVERAGE_FEATURES; average++) {
        memset(expected, 0, count * sizeof(float));
        const cavmae_embedding plain = fields(&all, expected, average);
        CHECK_OK(cavmae_embed(model, host, &plain));

        memset(got, 0, count * sizeof(float));
        const cavmae_embedding to_host = fields(&all, got, average);
        CHECK_OK(cavmae_embed(model, device, &to_host));
        CHECK(memcmp(expected, got, count * sizeof(float)) == 0);

        float *memory = on_device(o, NULL, count * sizeof(float));
        const cavmae_embedding to_device = fields(&all, memory, average);
        CHECK_OK(cavmae_embed(model, device, &to_device));
        CHECK_OK(o->backend->ops->download(o->backend, got, memory, count * sizeof(float)));
        CHECK(memcmp(expected, got, count * sizeof(float)) == 0);
    }
    free(expected);
    free(got);
}

static void test_embedding(void) {
    owner o = open_owner(NULL);
    cavmae_context *context = tiny_context(1);
    cavmae_config *config = tiny_config(context, SMALLEST " classes=5");
    cavmae_model *model = NULL;
    CHECK_OK(cavmae_model_create(config, &model));

    tiny_inputs in = tiny_make(config, 0, CLIPS * FRAMES, NULL);
    cavmae_batch host = tiny_batch(&in, CLIPS), device = host;
    device.audio = on_device(&o, in.audio, (size_t)in.audio_elements * sizeof(float));
    device.image = on_device(&o, in.image, (size_t)in.image_elements * sizeof(float));
    check_embed(&o, model, &host, &device);
    host.frames = device.frames = FRAMES;
    check_embed(&o, model, &host, &device);

    /* As they are: 32 frames of 10 ms and a window, and pictures that are made smaller. */
    enum { SAMPLES = 31 * 160 + 400, HEIGHT = 30, PIXELS = CLIPS * FRAMES * HEIGHT * 40 * 3 };
    int16_t *pcm = malloc(CLIPS * SAMPLES * sizeof *pcm);
    uint8_t *pixels = malloc(PIXELS);
    for (int i = 0; i < CLIPS * SAMPLES; i++) pcm[i] = (int16_t)(i * 7919 % 20011 - 10000);
    for (int i = 0; i < PIXELS; i++) pixels[i] = (uint8_t)(i * 37 >> 2);
    host.audio = host.image = NULL;
    host.pcm = pcm;
    host.pcm_samples = SAMPLES;
    host.pixels = pixels;
    host.pixel_height = HEIGHT;
    host.pixel_width = 40;
    device = host;
    device.pcm = on_device(&o, pcm, CLIPS * SAMPLES * sizeof *pcm);
    device.pixels = on_device(&o, pixels, PIXELS);
    check_embed(&o, model, &host, &device);

    free(pcm);
    free(pixels);
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    close_owner(&o);
}

/* The caller's memory may have other contents as soon as an upload returns. */
static void test_uploads(void) {
    owner o = open_owner(NULL), other = open_owner(NULL);
    cavmae__backend *backend = other.backend;
    const int32_t numbers[4] = {1, 2, 3, 4};
    for (int ahead = 0; ahead < 2; ahead++) {
        void *from = on_device(&o, numbers, sizeof numbers), *to = on_device(&other, NULL, sizeof numbers);
        int32_t back[4] = {0};
        CHECK_OK((ahead ? backend->ops->upload_ahead : backend->ops->upload)(backend, to, from, sizeof numbers));
        CHECK_OK(o.backend->ops->zero(o.backend, from, sizeof numbers));
        CHECK_OK(o.backend->ops->sync(o.backend));
        CHECK_OK(backend->ops->download(backend, back, to, sizeof back));
        CHECK(memcmp(back, numbers, sizeof back) == 0);
    }
    close_owner(&other);
    close_owner(&o);
}

/* Nobody waits for these steps; the caller's memory has other contents as soon as each returns. */
static void test_training(void) {
    owner o = open_owner(NULL);
    tiny_training host = tiny_train(1, SMALLEST), device = tiny_train(1, SMALLEST);
    tiny_inputs first = tiny_make(host.config, 0, CLIPS, NULL), second = tiny_make(host.config, 9, CLIPS, NULL);
    const size_t sizes[2] = {(size_t)first.audio_elements * sizeof(float),
                             (size_t)first.image_elements * sizeof(float)};
    tiny_inputs there = {.audio = on_device(&o, NULL, sizes[0]), .image = on_device(&o, NULL, sizes[1])};
    for (int step = 0; step < 4; step++) {
        const tiny_inputs *in = step % 2 ? &second : &first;
        const cavmae_batch from_host = tiny_batch(in, CLIPS), from_device = tiny_batch(&there, CLIPS);
        CHECK_OK(o.backend->ops->upload(o.backend, there.audio, in->audio, sizes[0]));
        CHECK_OK(o.backend->ops->upload(o.backend, there.image, in->image, sizes[1]));
        CHECK_OK(o.backend->ops->sync(o.backend));
        CHECK_OK(cavmae_pretrain_step(host.trainer, &from_host, NULL));
        CHECK_OK(cavmae_pretrain_step(device.trainer, &from_device, NULL));
        CHECK_OK(o.backend->ops->zero(o.backend, there.audio, sizes[0]));
        CHECK_OK(o.backend->ops->zero(o.backend, there.image, sizes[1]));
        CHECK_OK(o.backend->ops->sync(o.backend));
    }
    CHECK(tiny_hash(host.model) == tiny_hash(device.model));
    tiny_release(&first);
    tiny_release(&second);
    tiny_train_free(&host);
    tiny_train_free(&device);
    close_owner(&o);
}

/* Where there is a second device: its memory is not the first one's. */
static void test_another_device(void) {
    owner o = {0};
    cavmae_context_options options = device_options();
    options.device = "cuda:1";
    if (cavmae_context_create(&options, &o.context) != CAVMAE_OK) return;
    CHECK_OK(cavmae__context_backend(o.context, &o.backend));
    options.device = "cuda:0";
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model = NULL;
    CHECK_OK(cavmae_model_create(config, &model));
    tiny_inputs in = tiny_make(config, 0, CLIPS, NULL);
    cavmae_batch batch = tiny_batch(&in, CLIPS);
    float joint[CLIPS * WIDTH] = {0};
    cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
    batch.image = on_device(&o, in.image, (size_t)in.image_elements * sizeof(float));
    CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "is device 1's") && joint[0] == 0);
    batch.image = in.image;
    out.joint = on_device(&o, NULL, sizeof joint);
    CHECK_STATUS(cavmae_embed(model, &batch, &out), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "is device 1's"));
    tiny_release(&in);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    close_owner(&o);
}

int main(void) {
    setenv("CUDASIM_DEVICES", "2", 0);
    setenv("CUDASIM_HIDE", "1", 0); /* from the host, as on a device */
    test_embedding();
    test_uploads();
    test_training();
    test_another_device();
    return check_summary("caller_memory");
}
