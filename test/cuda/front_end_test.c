/* The front-end on the device against the CPU's: spectrograms within 1e-3 of a normalised log-mel, pictures to the last
 * bit; golden cases of torchaudio and Pillow; and a batch of samples and pixels on its way through a model. */
#include "compare.h"
#include "contract.h"
#include "philox.h"
#include "tiny.h"

static const double pi = 3.14159265358979323846;

/* ---- Sound ---- */

enum { SILENCE, CHIRP, NOISE, STEPS, QUIET, SOUNDS };

static void make_sound(int kind, int32_t rate, int64_t samples, int16_t *pcm) {
    const cavmae__philox stream = cavmae__philox_key(11, CAVMAE__PURPOSE_NOISE, 0, (uint32_t)kind);
    for (int64_t i = 0; i < samples; i++) {
        const double t = (double)i / rate, noise = (double)cavmae__philox_uniform(&stream, (uint64_t)i) - 0.5;
        const double sweep = sin(2 * pi * t * (100 + 0.4 * rate * t));
        const double x = kind == CHIRP   ? 32767 * sweep
                         : kind == NOISE ? 65535 * noise
                         : kind == STEPS ? (i / 777 % 2 ? 32767 : -32768)
                         : kind == QUIET ? 300 + 3 * sweep
                                         : 0;
        pcm[i] = (int16_t)fmax(-32768, fmin(32767, floor(x + 0.5)));
    }
}

/* Clips of all kinds, and so many more samples than frames of them are wanted, or fewer. */
typedef struct sound_case {
    int32_t rate, mel_bins, frames, length; /* CAVMAE__LENGTH_* */
    int64_t samples;
} sound_case;

static const float mean = -5.081f, deviation = 4.4849f;
static double worst_sound, total_sound;
static int64_t count_sound;

/* How far normalised log-mel is off, over what it may be: 1e-3 and, in a frame with a far louder filter, float32's
 * rounding of that one's amplitude, which is as large on either side. */
static double excess(const float *got, const float *expected, int64_t frames, int32_t bins) {
    double worst = 0;
    for (int64_t f = 0; f < frames; f++, got += bins, expected += bins) {
        double loudest = (double)expected[0];
        for (int32_t i = 0; i < bins; i++) loudest = fmax(loudest, (double)expected[i]);
        for (int32_t i = 0; i < bins; i++) {
            const double off = fabs((double)got[i] - (double)expected[i]),
                         amplitudes = exp((loudest - (double)expected[i]) * (double)deviation / 2),
                         share = off / (1e-3 + 2 * 0x1p-23 * amplitudes / (double)deviation);
            if (!(share <= worst)) worst = share;
            worst_sound = fmax(off, worst_sound);
            total_sound += off;
        }
    }
    count_sound += frames * bins;
    return worst;
}

static void check_sound(both *b, const sound_case *s) {
    const cavmae__audio_contract contract = {.sample_rate = s->rate,
                                             .length = s->length,
                                             .mel_bins = s->mel_bins,
                                             .frames = s->frames,
                                             .patch_size = 4,
                                             .mean = mean,
                                             .std = deviation};
    const int64_t frames = cavmae__prepared_frames(&contract, s->samples), rows = frames * s->mel_bins;
    const size_t bytes = (size_t)(SOUNDS * s->samples) * sizeof(int16_t);
    int16_t *pcm = malloc(bytes);
    float *waveform = malloc((size_t)s->samples * sizeof *waveform);
    twin out = twin_output(b, SOUNDS * rows, CAVMAE_FLOAT32), again = twin_output(b, SOUNDS * rows, CAVMAE_FLOAT32);
    for (int kind = 0; kind < SOUNDS; kind++) {
        int16_t *clip = pcm + kind * s->samples;
        float *expected;
        int64_t got;
        make_sound(kind, s->rate, s->samples, clip);
        for (int64_t i = 0; i < s->samples; i++) waveform[i] = (float)clip[i] / 32768.0f;
        CHECK_OK(cavmae__prepare_rows(b->cpu_context, &contract, waveform, s->samples, &expected, &got));
        CHECK(got == frames);
        memcpy((float *)out.cpu + kind * rows, expected, (size_t)rows * sizeof *expected);
        cavmae__free(b->cpu_context, expected);
    }
    twin input = twin_bytes(b, (int64_t)bytes, (const uint8_t *)pcm);
    cavmae__spectrogram op = {.clips = SOUNDS,
                              .frames = (int32_t)frames,
                              .mel_bins = s->mel_bins,
                              .sample_rate = s->rate,
                              .samples = s->samples,
                              .mean = contract.mean,
                              .std = contract.std,
                              .silence = s->length != CAVMAE__LENGTH_PAD,
                              .pcm = input.device,
                              .out = out.device};
    const size_t size = b->cuda->ops->spectrogram_workspace(b->cuda, &op);
    void *block;
    op.workspace = device_alloc(b, size, &block);
    CHECK_OK(b->cuda->ops->spectrogram(b->cuda, &op));
    op.out = again.device;
    CHECK_OK(b->cuda->ops->spectrogram(b->cuda, &op));
    CHECK_DEVICE_SAME(b, &out, &again);
    float *got = twin_download(b, &out);
    for (int kind = 0; kind < SOUNDS; kind++) {
        const double worst = excess(got + kind * rows, (const float *)out.cpu + kind * rows, frames, s->mel_bins);
        if (!CHECK(worst <= 1))
            printf("  sound %d at %d Hz, %d bins, %lld samples: %.3g times what it may be off\n", kind, s->rate,
                   s->mel_bins, (long long)s->samples, worst);
    }
    /* Rows past the end are one number, the same on both. */
    const int64_t heard = cavmae_fbank_frames(s->samples, s->rate) * s->mel_bins;
    if (heard < rows)
        CHECK(memcmp(got + heard, (const float *)out.cpu + heard, (size_t)(rows - heard) * sizeof *got) == 0);
    CHECK(device_guard_holds(b, block, size));
    b->cuda->ops->free(b->cuda, block);
    free(got);
    free(pcm);
    free(waveform);
    twin_free(b, &input);
    twin_free(b, &out);
    twin_free(b, &again);
}

static void test_sounds(both *b) {
    static const sound_case cases[] = {
        {16000, 128, 24, CAVMAE__LENGTH_PAD, 8001},    /* more frames than are wanted */
        {16000, 128, 24, CAVMAE__LENGTH_PAD, 400},     /* one window */
        {16000, 128, 24, CAVMAE__LENGTH_SILENCE, 399}, /* not even that: the operation gives silence */
        {16000, 128, 24, CAVMAE__LENGTH_SILENCE, 2000},
        {16000, 80, 24, CAVMAE__LENGTH_NATIVE, 1999},
        {16000, 23, 9, CAVMAE__LENGTH_NATIVE, 3001},
        {8000, 64, 16, CAVMAE__LENGTH_PAD, 1500}, /* 256 points: a last step by 2 */
        {44100, 128, 12, CAVMAE__LENGTH_SILENCE, 5001},
        {1000, 4, 30, CAVMAE__LENGTH_PAD, 301},      /* the shortest window that a contract allows */
        {384000, 128, 4, CAVMAE__LENGTH_PAD, 20000}, /* the longest: a warp has all of a block's memory */
        {16000, 700, 4, CAVMAE__LENGTH_PAD, 900},    /* more filters than bins */
        {11025, 33, 7, CAVMAE__LENGTH_NATIVE, 2222},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_sound(b, &cases[i]);
    printf("front_end: log-mel off by %.3g at most, %.3g on average\n", worst_sound, total_sound / (double)count_sound);
}

/* ---- Pictures ---- */

typedef struct picture_case {
    int32_t width, height, channels, size, filter;
} picture_case;

static void check_picture(both *b, const picture_case *p) {
    enum { COUNT = 2 };
    cavmae__image_contract contract = {.size = p->size, .channels = p->channels, .filter = p->filter};
    const cavmae__philox stream = cavmae__philox_key(12, CAVMAE__PURPOSE_NOISE, 0, 0);
    const int64_t bytes = (int64_t)p->width * p->height * p->channels,
                  elements = (int64_t)p->size * p->size * p->channels;
    uint8_t *pixels = malloc((size_t)(COUNT * bytes));
    for (int64_t i = 0; i < COUNT * bytes; i++) { /* noise, and edges: sums beyond 0 and 255 */
        const uint32_t noise = cavmae__philox_u32(&stream, (uint64_t)i) & 0xff;
        pixels[i] = (uint8_t)(i / p->channels % 16 < 8 ? noise : noise & 1 ? 255 : 0);
    }
    cavmae__pictures op = {.count = COUNT,
                           .height = p->height,
                           .width = p->width,
                           .channels = p->channels,
                           .size = p->size,
                           .filter = p->filter};
    for (int32_t c = 0; c < p->channels; c++) {
        op.mean[c] = contract.mean[c] = 0.485f - 0.03f * (float)c;
        op.std[c] = contract.std[c] = 0.229f - 0.004f * (float)c;
    }
    twin input = twin_bytes(b, COUNT * bytes, pixels), out = twin_output(b, COUNT * elements, CAVMAE_FLOAT32);
    for (int i = 0; i < COUNT; i++)
        CHECK_OK(cavmae__prepare_image(b->cpu_context, &contract, pixels + i * bytes, p->width, p->height,
                                       p->width * p->channels, (float *)out.cpu + i * elements));
    char label[80];
    snprintf(label, sizeof label, "picture of %d x %d x %d to %d, filter %d", p->width, p->height, p->channels, p->size,
             p->filter);
    out.label = label;
    op.pixels = input.device;
    op.out = out.device;
    const size_t size = b->cuda->ops->pictures_workspace(b->cuda, &op);
    void *block;
    op.workspace = device_alloc(b, size, &block);
    CHECK_OK(b->cuda->ops->pictures(b->cuda, &op));
    CHECK_TWIN_EXACT(b, &out);
    CHECK(device_guard_holds(b, block, size));
    b->cuda->ops->free(b->cuda, block);
    free(pixels);
    twin_free(b, &input);
    twin_free(b, &out);
}

static void test_pictures(both *b) {
    enum { CUBIC = CAVMAE__FILTER_BICUBIC, LINEAR = CAVMAE__FILTER_BILINEAR };
    static const picture_case cases[] = {
        {1, 1, 3, 24, CUBIC},      {1, 1, 1, 16, LINEAR},    {17, 300, 3, 32, CUBIC},   {300, 17, 3, 32, CUBIC},
        {5, 7, 3, 40, CUBIC},      {7, 5, 1, 40, LINEAR},    {40, 30, 3, 24, CUBIC},    {30, 40, 3, 24, LINEAR},
        {24, 24, 3, 24, CUBIC},    {24, 24, 16, 24, LINEAR}, {24, 25, 3, 24, CUBIC},    {27, 24, 3, 24, CUBIC},
        {97, 41, 1, 31, CUBIC},    {41, 97, 2, 31, LINEAR},  {640, 480, 3, 224, CUBIC}, {1, 50, 3, 8, CUBIC},
        {1000, 3, 3, 16, CUBIC},   {333, 222, 4, 1, CUBIC},  {120, 90, 3, 64, LINEAR},  {457, 301, 16, 20, CUBIC},
        {1023, 767, 3, 33, LINEAR}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_picture(b, &cases[i]);
}

/* ---- Golden cases, of torchaudio's and torchvision's ---- */

static cavmae_safetensors *open_case(both *b, const char *name) {
    char path[80];
    cavmae_safetensors *file = NULL;
    snprintf(path, sizeof path, "test/cases/%s.safetensors", name);
    if (!CHECK_OK(cavmae_safetensors_open(b->cpu_context, path, &file))) exit(check_summary("front_end"));
    return file;
}

static cavmae_tensor *read_tensor(cavmae_safetensors *file, const char *name) {
    cavmae_tensor *tensor = NULL;
    if (!CHECK_OK(cavmae_safetensors_get(file, name, &tensor))) exit(check_summary("front_end"));
    return tensor;
}

/* tolerance: the cases' samples are floats, and are rounded to 16 bits here. */
static void golden_sound(both *b, const char *name, double tolerance) {
    cavmae_safetensors *file = open_case(b, name);
    cavmae_tensor *input = read_tensor(file, "input.pcm"), *expected = read_tensor(file, "expect.audio");
    const int64_t samples = cavmae_tensor_elements(input), rows = cavmae_tensor_elements(expected);
    const float *pcm = cavmae_tensor_data(input);
    int16_t *rounded = malloc((size_t)samples * sizeof *rounded);
    for (int64_t i = 0; i < samples; i++) rounded[i] = (int16_t)lrintf(pcm[i] * 32768);
    twin from = twin_bytes(b, 2 * samples, (const uint8_t *)rounded), to = twin_output(b, rows, CAVMAE_FLOAT32);
    cavmae__spectrogram op = {.clips = 1,
                              .frames = 1024,
                              .mel_bins = 128,
                              .sample_rate = 16000,
                              .samples = samples,
                              .mean = mean,
                              .std = deviation,
                              .pcm = from.device,
                              .out = to.device};
    void *block;
    op.workspace = device_alloc(b, b->cuda->ops->spectrogram_workspace(b->cuda, &op), &block);
    CHECK_OK(b->cuda->ops->spectrogram(b->cuda, &op));
    memcpy(to.cpu, cavmae_tensor_data(expected), to.size);
    CHECK_TWIN(b, &to, tolerance);
    free(rounded);
    b->cuda->ops->free(b->cuda, block);
    twin_free(b, &from);
    twin_free(b, &to);
    cavmae_tensor_free(input);
    cavmae_tensor_free(expected);
    cavmae_safetensors_free(file);
}

static void golden_picture(both *b, const char *name) {
    cavmae_safetensors *file = open_case(b, name);
    cavmae_tensor *input = read_tensor(file, "input.rgb"), *expected = read_tensor(file, "expect.image");
    const int64_t *shape = cavmae_tensor_shape(input), elements = cavmae_tensor_elements(expected);
    const int32_t size = (int32_t)cavmae_tensor_shape(expected)[1];
    twin from = twin_bytes(b, cavmae_tensor_elements(input), cavmae_tensor_data(input)),
         to = twin_output(b, elements, CAVMAE_FLOAT32);
    cavmae__pictures op = {.count = 1,
                           .height = (int32_t)shape[0],
                           .width = (int32_t)shape[1],
                           .channels = 3,
                           .size = size,
                           .filter = CAVMAE__FILTER_BICUBIC,
                           .mean = {0.485f, 0.456f, 0.406f},
                           .std = {0.229f, 0.224f, 0.225f},
                           .pixels = from.device,
                           .out = to.device};
    void *block;
    op.workspace = device_alloc(b, b->cuda->ops->pictures_workspace(b->cuda, &op), &block);
    CHECK_OK(b->cuda->ops->pictures(b->cuda, &op));
    memcpy(to.cpu, cavmae_tensor_data(expected), to.size);
    CHECK_TWIN(b, &to, 1e-7);
    b->cuda->ops->free(b->cuda, block);
    twin_free(b, &from);
    twin_free(b, &to);
    cavmae_tensor_free(input);
    cavmae_tensor_free(expected);
    cavmae_safetensors_free(file);
}

/* ---- Batches on their way ---- */

enum { CLIPS = 3, SAMPLES = 5200, HEIGHT = 30, WIDE = 41, WIDTH = 16, MOST_PICTURES = 12 };

/* The same clips as samples and pixels, and prepared by the CPU. */
typedef struct clips {
    int16_t pcm[CLIPS * SAMPLES];
    int32_t frames[CLIPS];
    uint8_t *pixels;
    float *audio, *image;
    cavmae_batch raw, prepared;
} clips;

static clips *make_clips(const cavmae_config *config, int32_t pictures, int first_sound) {
    const int64_t bytes = HEIGHT * WIDE * 3, elements = 3 * 24 * 24;
    float waveform[SAMPLES];
    int64_t rows = 0;
    clips *c = calloc(1, sizeof *c);
    c->pixels = malloc((size_t)(CLIPS * pictures * bytes));
    c->image = malloc((size_t)(CLIPS * pictures * elements) * sizeof *c->image);
    for (int32_t i = 0; i < CLIPS; i++) {
        cavmae_tensor *tensor = NULL;
        make_sound((first_sound + i) % SOUNDS, 16000, SAMPLES, c->pcm + i * SAMPLES);
        for (int k = 0; k < SAMPLES; k++) waveform[k] = (float)c->pcm[i * SAMPLES + k] / 32768;
        if (!CHECK_OK(cavmae_prepare_audio(config, waveform, SAMPLES, 1, 16000, &tensor))) exit(1);
        const int64_t count = cavmae_tensor_elements(tensor);
        c->audio = realloc(c->audio, (size_t)(rows + count) * sizeof *c->audio);
        memcpy(c->audio + rows, cavmae_tensor_data(tensor), (size_t)count * sizeof *c->audio);
        rows += count;
        c->frames[i] = (int32_t)cavmae_tensor_shape(tensor)[0];
        cavmae_tensor_free(tensor);
    }
    for (int64_t i = 0; i < CLIPS * pictures; i++) {
        uint8_t *picture = c->pixels + i * bytes;
        for (int64_t k = 0; k < bytes; k++)
            picture[k] = (uint8_t)((k * 37 + k / 50 * 11) * (i + 3 + 5 * first_sound) >> 2);
        CHECK_OK(cavmae_prepare_image(config, picture, WIDE, HEIGHT, 0, c->image + i * elements));
    }
    const cavmae_batch batch = {.struct_size = sizeof batch, .count = CLIPS, .frames = pictures > 1 ? pictures : 0};
    c->raw = c->prepared = batch;
    c->prepared.audio = c->audio;
    c->prepared.image = c->image;
    c->prepared.audio_frames = c->frames;
    c->raw.pcm = c->pcm;
    c->raw.pcm_samples = SAMPLES;
    c->raw.pixels = c->pixels;
    c->raw.pixel_height = HEIGHT;
    c->raw.pixel_width = WIDE;
    return c;
}

static void free_clips(clips *c) {
    free(c->pixels);
    free(c->audio);
    free(c->image);
    free(c);
}

static void test_embedding(both *b, const char *settings, int32_t pictures) {
    enum { VISUAL = CLIPS * WIDTH, JOINT = VISUAL + CLIPS * MOST_PICTURES * WIDTH, ALL = 2 * JOINT - VISUAL };
    cavmae_config *config = tiny_config(b->cuda_context, settings);
    cavmae_model *model = NULL;
    clips *c = make_clips(config, pictures, CHIRP);
    float results[2][ALL] = {{0}};
    double worst = 0;
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    for (int k = 0; k < 2; k++) {
        const cavmae_embedding out = {
            .struct_size = sizeof out, .audio = results[k], .visual = results[k] + VISUAL, .joint = results[k] + JOINT};
        CHECK_OK(cavmae_embed(model, k ? &c->raw : &c->prepared, &out));
    }
    for (int i = 0; i < ALL; i++) {
        const double d = fabs((double)results[0][i] - (double)results[1][i]);
        if (!(d <= worst)) worst = d;
    }
    CHECK_CLOSE(worst, 0, 1e-3);
    /* pictures are the same to the last bit, and so is what follows from them alone */
    CHECK(memcmp(results[0] + VISUAL, results[1] + VISUAL, (JOINT - VISUAL) * sizeof(float)) == 0);
    free_clips(c);
    cavmae_model_free(model);
    cavmae_config_free(config);
}

/* One batch is copied while another is trained on: two kinds in turn, without waiting for the step's result. */
static void test_training(both *b) {
    enum { STEPS_TAKEN = 6 };
    double loss[2];
    for (int k = 0; k < 2; k++) {
        tiny_training t = tiny_train_in(b->cuda_context, SMALLEST);
        clips *turn[2] = {make_clips(t.config, 1, CHIRP), make_clips(t.config, 1, STEPS)};
        cavmae_step_result result = {.struct_size = sizeof result};
        for (int i = 0; i < STEPS_TAKEN; i++)
            CHECK_OK(cavmae_pretrain_step(t.trainer, k ? &turn[i % 2]->raw : &turn[i % 2]->prepared,
                                          i + 1 < STEPS_TAKEN ? NULL : &result));
        loss[k] = result.loss;
        for (int i = 0; i < 2; i++) free_clips(turn[i]);
        cavmae_trainer_free(t.trainer);
        cavmae_optimizer_free(t.optimizer);
        cavmae_model_free(t.model);
        cavmae_config_free(t.config);
    }
    CHECK_CLOSE(loss[1], loss[0], 1e-3 * loss[0]);
    CHECK(loss[0] > 0);
}

int main(void) {
    both b;
    open_both(&b);
    if (!CHECK(b.cuda->ops->spectrogram && b.cuda->ops->pictures)) return check_summary("front_end");
    test_sounds(&b);
    test_pictures(&b);
    golden_sound(&b, "audio_chirp", 5e-4);
    golden_sound(&b, "audio_silence", 1e-7);
    golden_picture(&b, "image_small_target");
    test_embedding(&b, SMALLEST, 1);
    test_embedding(&b, SMALLEST " audio_length=native", 12); /* more pictures than go together */
    test_training(&b);
    close_both(&b);
    return check_summary("front_end");
}
