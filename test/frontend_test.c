/* lib/frontend: fbank against a direct transform in double, resize against Pillow's algorithm in its plainest form, and
 * the input contract around them. Golden cases of torchaudio and torchvision are test/golden.c's. */
#define _DEFAULT_SOURCE /* M_PI */
#include <float.h>
#include <math.h>
#include <samplerate.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "contract.h"
#include "failing_allocator.h"
#include "frontend_simd.h"
#include "philox.h"
#include "resample.h"
#include "resize.h"

static float *noise(int64_t count, uint64_t seed, float offset) {
    cavmae__philox stream = cavmae__philox_key(seed, CAVMAE__PURPOSE_NOISE, 0, 0);
    float *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; x && i < count; i++) x[i] = cavmae__philox_uniform(&stream, (uint64_t)i) - 0.5f + offset;
    return x;
}

static uint8_t *random_pixels(size_t count, uint64_t seed) {
    cavmae__philox stream = cavmae__philox_key(seed, CAVMAE__PURPOSE_NOISE, 0, 0);
    uint8_t *x = malloc(count);
    for (size_t i = 0; x && i < count; i++) x[i] = (uint8_t)cavmae__philox_u32(&stream, i);
    return x;
}

/* ---- fbank ---- */

static double mel_of(double hertz) { return 1127.0 * log(1.0 + hertz / 700.0); }

/* One frame of Kaldi's fbank, as its documentation says it. */
static void plain_frame(const float *pcm, double pcm_mean, int rate, int mel_bins, double *out) {
    int window = (int)(rate * 25.0 * 0.001), size = 1;
    while (size < window) size *= 2;
    double *x = calloc((size_t)size, sizeof *x), *turn = malloc((size_t)size * 2 * sizeof *turn);
    double *power = calloc((size_t)size / 2 + 1, sizeof *power), mean = 0;
    for (int i = 0; i < window; i++) mean += (pcm[i] - pcm_mean) / window;
    for (int i = 0; i < window; i++) {
        double now = pcm[i] - pcm_mean - mean, before = pcm[i ? i - 1 : 0] - pcm_mean - mean;
        x[i] = (now - 0.97 * before) * (0.5 - 0.5 * cos(2 * M_PI * i / (window - 1)));
    }
    for (int i = 0; i < size; i++) {
        turn[2 * i] = cos(2 * M_PI * i / size);
        turn[2 * i + 1] = sin(2 * M_PI * i / size);
    }
    for (int k = 0; k < size / 2; k++) {
        double re = 0, im = 0;
        for (int i = 0; i < window; i++) {
            re += x[i] * turn[2 * ((int64_t)k * i % size)];
            im += x[i] * turn[2 * ((int64_t)k * i % size) + 1];
        }
        power[k] = re * re + im * im;
    }
    double low = mel_of(20), step = (mel_of(rate / 2.0) - low) / (mel_bins + 1);
    for (int m = 0; m < mel_bins; m++) {
        double energy = 0, left = low + m * step;
        for (int k = 0; k < size / 2; k++) {
            double at = mel_of((double)k * rate / size), up = (at - left) / step, down = (left + 2 * step - at) / step;
            energy += power[k] * fmax(0, fmin(up, down));
        }
        out[m] = log(fmax(energy, FLT_EPSILON));
    }
    free(x);
    free(turn);
    free(power);
}

static void fbank_case(cavmae_context *context, int32_t rate, int32_t mel_bins, int64_t samples) {
    int64_t frames = cavmae_fbank_frames(samples, rate);
    int32_t shift = (int32_t)(rate * 10.0 * 0.001);
    float *pcm = noise(samples, (uint64_t)rate, 0.25f), *out = malloc((size_t)frames * (size_t)mel_bins * sizeof *out);
    double *expected = malloc((size_t)mel_bins * sizeof *expected), pcm_mean = 0, sum = 0, worst = 0;
    for (int64_t i = 0; i < samples; i++) pcm_mean += pcm[i] / (double)samples;
    if (CHECK_OK(cavmae_fbank(context, pcm, samples, rate, mel_bins, out))) {
        for (int64_t f = 0; f < frames; f++) {
            plain_frame(pcm + f * shift, pcm_mean, rate, mel_bins, expected);
            for (int32_t m = 0; m < mel_bins; m++) {
                double error = fabs(out[f * mel_bins + m] - expected[m]);
                sum += error;
                worst = fmax(worst, error);
            }
        }
        /* The design's tolerances. Filters with one small weight feel its rounding, which is torchaudio's too. */
        if (!(CHECK(sum / (double)(frames * mel_bins) < 5e-5) & CHECK(worst < 1e-2)))
            printf("  at %d Hz, %d mel bins: mean %g, worst %g\n", rate, mel_bins, sum / (double)(frames * mel_bins),
                   worst);
    }
    free(pcm);
    free(out);
    free(expected);
}

static void test_fbank(cavmae_context *context) {
    CHECK(cavmae_fbank_frames(399, 16000) == 0 && cavmae_fbank_frames(400, 16000) == 1);
    CHECK(cavmae_fbank_frames(559, 16000) == 1 && cavmae_fbank_frames(560, 16000) == 2);
    CHECK(cavmae_fbank_frames(160000, 16000) == 998 && cavmae_fbank_frames(44100, 44100) == 98);
    CHECK(cavmae_fbank_frames(-1, 16000) == 0 && cavmae_fbank_frames(1000, 99) == 0);
    CHECK(cavmae_fbank_frames((int64_t)1 << 40, 16000) == 1 + (((int64_t)1 << 40) - 400) / 160);

    fbank_case(context, 16000, 128, 400);  /* one frame */
    fbank_case(context, 16000, 128, 3517); /* more than one group of lanes, the last not full */
    fbank_case(context, 16000, 23, 2961);
    fbank_case(context, 8000, 40, 1501); /* 256 points: radix 4 and one step by 2 */
    fbank_case(context, 22050, 64, 2001);
    fbank_case(context, 44100, 128, 2501);
    fbank_case(context, 48000, 1, 2399);
    fbank_case(context, 1000, 17, 333); /* a window of 25 samples */
    fbank_case(context, 110, 3, 64);    /* two samples */

    static float many[65536]; /* far more filters than bins */
    float silence[1600] = {0}, out[8 * 128], sound[400] = {0};
    int exact = 1;
    CHECK_OK(cavmae_fbank(context, silence, 1600, 16000, 128, out));
    for (int i = 0; i < 8 * 128; i++) exact &= out[i] == logf(FLT_EPSILON);
    CHECK(exact);
    CHECK_OK(cavmae_fbank(context, silence, 400, 16000, 65536, many));
    CHECK_OK(cavmae_fbank(context, silence, 2, 110, 65536, many));

    CHECK_STATUS(cavmae_fbank(context, silence, 399, 16000, 128, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, silence, -1, 16000, 128, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, silence, 1600, 99, 128, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, silence, 1600, 16000, 0, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, silence, 1600, 16000, 65537, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, NULL, 1600, 16000, 128, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(context, silence, 1600, 16000, 128, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_fbank(NULL, silence, 1600, 16000, 128, out), CAVMAE_E_ARG);
    const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sound[17] = bad[i];
        CHECK_STATUS(cavmae_fbank(context, sound, 400, 16000, 128, out), CAVMAE_E_ARG);
        CHECK(strstr(cavmae_last_error(), "sample 17 ") != NULL);
    }
    silence[1100] = NAN; /* past the blocks that are checked at once */
    CHECK_STATUS(cavmae_fbank(context, silence, 1600, 16000, 128, out), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "sample 1100 ") != NULL);
}

/* ---- The contract for sound ---- */

static const cavmae__audio_contract CONTRACT = {
    .sample_rate = 16000, .mel_bins = 32, .frames = 48, .patch_size = 16, .mean = -5.0f, .std = 4.0f};

static void test_length(cavmae_context *context) {
    enum { SAMPLES = 4000, HEARD = 23, BINS = 32 };
    float *pcm = noise(SAMPLES, 5, 0), log_mel[HEARD * BINS];
    const float appended[] = {(0.0f + 5.0f) / 4.0f, (logf(FLT_EPSILON) + 5.0f) / 4.0f,
                              (logf(FLT_EPSILON) + 5.0f) / 4.0f};
    const int64_t expected_frames[] = {48, 48, 32}, shorter_frames[] = {16, 16, 32};
    CHECK_OK(cavmae_fbank(context, pcm, SAMPLES, 16000, BINS, log_mel));
    for (int32_t length = CAVMAE__LENGTH_PAD; length <= CAVMAE__LENGTH_NATIVE; length++)
        for (int cut = 0; cut < 2; cut++) {
            cavmae__audio_contract contract = CONTRACT;
            float *out = NULL;
            int64_t frames = -1;
            int same = 1;
            contract.length = length;
            if (cut) contract.frames = 16;
            if (!CHECK_OK(cavmae__prepare_audio(context, &contract, pcm, SAMPLES, 1, 16000, &out, &frames))) continue;
            CHECK(frames == (cut ? shorter_frames : expected_frames)[length]);
            for (int64_t i = 0; i < frames * BINS; i++)
                same &= out[i] == (i < HEARD * BINS ? (log_mel[i] + 5.0f) / 4.0f : appended[length]);
            CHECK(same);
            cavmae__free(context, out);
        }
    free(pcm);
}

static int same_audio(cavmae_context *context, const cavmae__audio_contract *contract, const float *a,
                      int32_t a_channels, const float *b, int64_t samples) {
    float *x = NULL, *y = NULL;
    int64_t frames = 0, other = -1;
    CHECK_OK(cavmae__prepare_audio(context, contract, a, samples, a_channels, 16000, &x, &frames));
    CHECK_OK(cavmae__prepare_audio(context, contract, b, samples, 1, 16000, &y, &other));
    int same = frames == other && memcmp(x, y, (size_t)frames * (size_t)contract->mel_bins * sizeof *x) == 0;
    cavmae__free(context, x);
    cavmae__free(context, y);
    return same;
}

static void test_channels(cavmae_context *context) {
    enum { SAMPLES = 2000 };
    cavmae__audio_contract contract = CONTRACT;
    float *first = noise(SAMPLES, 6, 0), *second = noise(SAMPLES, 7, 0), stereo[2 * SAMPLES], mean[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        stereo[2 * i] = first[i];
        stereo[2 * i + 1] = second[i];
        mean[i] = (float)(((double)first[i] + second[i]) / 2);
    }
    CHECK(same_audio(context, &contract, stereo, 2, first, SAMPLES));
    contract.channel = CAVMAE__CHANNEL_MEAN;
    CHECK(same_audio(context, &contract, stereo, 2, mean, SAMPLES));
    CHECK(same_audio(context, &contract, first, 1, first, SAMPLES));

    float *out = NULL;
    int64_t frames = -1;
    stereo[2 * 33 + 1] = NAN;
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, stereo, SAMPLES, 2, 16000, &out, &frames), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "sample 33 ") != NULL);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, first, 399, 1, 16000, &out, &frames), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "25 ms") != NULL);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, first, 0, 1, 44100, &out, &frames), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, NULL, 0, 1, 16000, &out, &frames), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, NULL, 400, 1, 16000, &out, &frames), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, first, SAMPLES, 0, 16000, &out, &frames), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, first, SAMPLES, 1, 0, &out, &frames), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_audio(context, &contract, first, SAMPLES, 1, 16000 * 257, &out, &frames),
                 CAVMAE_E_ARG);
    CHECK(out == NULL && frames == -1);
    free(first);
    free(second);
}

static int32_t end_after(void *user) { return --*(int *)user < 0; }

/* In pieces, between which the call can be ended, the sound is that of libsamplerate's one call. */
static void test_long_sound(void) {
    enum { SAMPLES = 200000 };
    int questions = 1000;
    const cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .cancel = end_after, .cancel_user = &questions};
    cavmae_context *context;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    float *sound = malloc(SAMPLES * sizeof *sound), *expected = malloc(3 * SAMPLES * sizeof *expected), *got = NULL;
    int64_t samples = 0;
    for (int i = 0; i < SAMPLES; i++) sound[i] = (float)(i * 7919 % 20011) / 20011 - 0.5f;
    const int32_t rates[][2] = {{44100, 16000}, {16000, 44100}, {22050, 16000}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        SRC_DATA whole = {.data_in = sound,
                          .data_out = expected,
                          .input_frames = SAMPLES,
                          .output_frames = 3 * SAMPLES,
                          .src_ratio = (double)rates[i][1] / rates[i][0]};
        CHECK(src_simple(&whole, SRC_SINC_MEDIUM_QUALITY, 1) == 0);
        if (!CHECK_OK(cavmae__resample(context, sound, SAMPLES, rates[i][0], rates[i][1], CAVMAE__RESAMPLE_MEDIUM, &got,
                                       &samples)))
            continue;
        CHECK(samples == whole.output_frames_gen);
        CHECK(memcmp(got, expected, (size_t)samples * sizeof *got) == 0);
        cavmae__free(context, got);
    }
    CHECK(questions < 1000 - 9);
    questions = 2;
    got = NULL;
    CHECK_STATUS(cavmae__resample(context, sound, SAMPLES, 16000, 44100, CAVMAE__RESAMPLE_MEDIUM, &got, &samples),
                 CAVMAE_E_CANCELLED);
    CHECK(got == NULL);
    free(sound);
    free(expected);
    cavmae_context_free(context);
}

/* A tone keeps its frequency, height and length there and back again. */
static void test_resample(cavmae_context *context) {
    enum { SAMPLES = 16000 };
    float *tone = malloc(SAMPLES * sizeof *tone);
    for (int i = 0; i < SAMPLES; i++) tone[i] = 0.5f * sinf((float)(2 * M_PI * 440 * i / 16000));
    for (int32_t quality = CAVMAE__RESAMPLE_BEST; quality <= CAVMAE__RESAMPLE_FASTEST; quality++) {
        float *up = NULL, *back = NULL;
        int64_t up_samples = 0, back_samples = 0;
        double worst_up = 0, worst_back = 0;
        if (CHECK_OK(cavmae__resample(context, tone, SAMPLES, 16000, 44100, quality, &up, &up_samples)) &&
            CHECK_OK(cavmae__resample(context, up, up_samples, 44100, 16000, quality, &back, &back_samples))) {
            CHECK_CLOSE((double)up_samples, 44100, 1);
            CHECK_CLOSE((double)back_samples, SAMPLES, 1);
            for (int i = 1000; i < 43000; i++)
                worst_up = fmax(worst_up, fabs(up[i] - 0.5 * sin(2 * M_PI * 440 * i / 44100)));
            for (int i = 1000; i < 15000; i++) worst_back = fmax(worst_back, fabs(back[i] - tone[i]));
            CHECK(worst_up < 1e-3);
            CHECK(worst_back < 2e-3);
        }
        cavmae__free(context, up);
        cavmae__free(context, back);
    }
    free(tone);
}

/* ---- Pictures ---- */

static double plain_filter(double x, int32_t filter) {
    x = fabs(x);
    if (filter == CAVMAE__FILTER_BILINEAR) return x < 1 ? 1 - x : 0;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/* One axis of Pillow's resize: lines of `in` values, `step` apart, to `size` values, likewise. */
static void plain_resize_line(const uint8_t *from, int64_t from_step, int32_t in, uint8_t *to, int64_t to_step,
                              int32_t size, int32_t filter) {
    double scale = (double)in / size, wide = fmax(scale, 1),
           support = (filter == CAVMAE__FILTER_BILINEAR ? 1 : 2) * wide;
    for (int32_t i = 0; i < size; i++) {
        double center = (i + 0.5) * scale, total = 0;
        int32_t first = (int32_t)fmax(0, center - support + 0.5), end = (int32_t)fmin(in, center + support + 0.5);
        int64_t sum = 1 << 21;
        for (int32_t k = first; k < end; k++) total += plain_filter((k - center + 0.5) * (1.0 / wide), filter);
        for (int32_t k = first; k < end; k++) {
            double weight = plain_filter((k - center + 0.5) * (1.0 / wide), filter) / total * (1 << 22);
            sum += from[k * from_step] * (int64_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        sum >>= 22;
        to[i * to_step] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

static cavmae__image_contract image_contract(int32_t size, int32_t channels, int32_t filter) {
    cavmae__image_contract contract = {.size = size, .channels = channels, .filter = filter};
    for (int32_t c = 0; c < channels; c++) {
        contract.mean[c] = 0.4f + 0.01f * (float)c;
        contract.std[c] = 0.2f + 0.01f * (float)c;
    }
    return contract;
}

/* The whole picture is resized, all of it, and then cropped. */
static void image_case(cavmae_context *context, int32_t width, int32_t height, int32_t channels, int32_t size,
                       int32_t filter) {
    cavmae__image_contract contract = image_contract(size, channels, filter);
    int64_t stride = (int64_t)width * channels + 5;
    int32_t wide = width <= height ? size : (int32_t)((double)size * width / height);
    int32_t tall = width <= height ? (int32_t)((double)size * height / width) : size;
    /* exactly as long as the last row needs, for the address sanitizer to see a byte too far */
    uint8_t *pixels =
        random_pixels((size_t)(stride * (height - 1) + (int64_t)width * channels), (uint64_t)(width * height));
    uint8_t *half = malloc((size_t)wide * (size_t)height * (size_t)channels),
            *whole = malloc((size_t)wide * (size_t)tall * (size_t)channels);
    float *out = malloc((size_t)size * (size_t)size * (size_t)channels * sizeof *out);
    int same = 1;
    for (int32_t c = 0; c < channels; c++) {
        for (int32_t y = 0; y < height; y++)
            plain_resize_line(pixels + y * stride + c, channels, width, half + (int64_t)y * wide * channels + c,
                              channels, wide, filter);
        for (int32_t x = 0; x < wide; x++)
            plain_resize_line(half + x * channels + c, (int64_t)wide * channels, height, whole + x * channels + c,
                              (int64_t)wide * channels, tall, filter);
    }
    /* halves to even, as Python's round does */
    int32_t left = (int32_t)nearbyint((wide - size) / 2.0), top = (int32_t)nearbyint((tall - size) / 2.0);
    if (CHECK_OK(cavmae__prepare_image(context, &contract, pixels, width, height, stride, out))) {
        for (int32_t c = 0; c < channels; c++)
            for (int32_t y = 0; y < size; y++)
                for (int32_t x = 0; x < size; x++) {
                    uint8_t p = whole[((int64_t)(top + y) * wide + left + x) * channels + c];
                    same &= out[((int64_t)c * size + y) * size + x] ==
                            ((float)p / 255.0f - contract.mean[c]) / contract.std[c];
                }
        if (!CHECK(same)) printf("  %d x %d x %d to %d, filter %d\n", width, height, channels, size, filter);
    }
    free(pixels);
    free(half);
    free(whole);
    free(out);
}

static void test_images(cavmae_context *context) {
    for (int32_t filter = CAVMAE__FILTER_BICUBIC; filter <= CAVMAE__FILTER_BILINEAR; filter++) {
        image_case(context, 301, 157, 3, 64, filter);
        image_case(context, 157, 301, 3, 64, filter);
        image_case(context, 64, 64, 3, 64, filter); /* identity */
        image_case(context, 67, 64, 3, 64, filter); /* crop only, by 1.5 */
        image_case(context, 64, 69, 3, 64, filter); /* by 2.5 */
        image_case(context, 23, 31, 4, 64, filter); /* larger */
        image_case(context, 640, 33, 1, 33, filter);
        image_case(context, 50, 41, 6, 17, filter);
        image_case(context, 1, 1, 3, 20, filter);
        image_case(context, 1, 9, 3, 16, filter);
        image_case(context, 1000, 700, 2, 3, filter);
        image_case(context, 5, 4, 16, 1, filter);
    }

    cavmae__image_contract contract = image_contract(48, 3, CAVMAE__FILTER_BICUBIC);
    static uint8_t flat[100 * 90 * 3];
    static float out[3 * 48 * 48];
    int constant = 1;
    memset(flat, 200, sizeof flat);
    CHECK_OK(cavmae__prepare_image(context, &contract, flat, 100, 90, 300, out));
    for (int i = 0; i < 3 * 48 * 48; i++)
        constant &= out[i] == (200.0f / 255.0f - contract.mean[i / (48 * 48)]) / contract.std[i / (48 * 48)];
    CHECK(constant);

    CHECK_STATUS(cavmae__prepare_image(context, &contract, NULL, 100, 90, 300, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_image(context, &contract, flat, 100, 90, 300, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_image(context, &contract, flat, 0, 90, 300, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_image(context, &contract, flat, 100, -1, 300, out), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__prepare_image(context, &contract, flat, 100, 90, 299, out), CAVMAE_E_ARG);
}

/* Every instruction set that this machine has gives the same pixels. */
static void test_variants(cavmae_context *context) {
    enum { IN = 90, ROWS = 13, SIZE = 37, PITCH = 48 };
    static const struct {
        int isa;
        cavmae__resize_columns *columns;
        cavmae__resize_rows *rows;
    } variants[] = {
        {CAVMAE__ISA_BASELINE, cavmae__resize_columns_baseline, cavmae__resize_rows_baseline},
#ifdef CAVMAE_HAVE_X86
        {CAVMAE__ISA_AVX2, cavmae__resize_columns_avx2, cavmae__resize_rows_avx2},
        {CAVMAE__ISA_AVX512, cavmae__resize_columns_avx512, cavmae__resize_rows_avx512},
#endif
    };
    cavmae__resize_axis across = {0}, down = {0};
    int32_t origin, extent;
    uint8_t *pixels = random_pixels(ROWS * IN * 3, 8), *planes = NULL, *strip = NULL;
    float *out = malloc(2 * SIZE * SIZE * sizeof *out), level[256];
    for (int i = 0; i < 256; i++) level[i] = (float)i;
    CHECK_OK(cavmae__resize_axis_create(context, IN, SIZE, 0, SIZE, CAVMAE__FILTER_BICUBIC, &across, &origin, &extent));
    CHECK(origin == 0 && extent == IN);
    CHECK_OK(cavmae__resize_axis_create(context, ROWS, SIZE, 0, SIZE, CAVMAE__FILTER_BICUBIC, &down, &origin, &extent));
    CHECK_OK(CAVMAE__NEW(context, &planes, 2 * 3 * ROWS * PITCH));
    CHECK_OK(CAVMAE__NEW(context, &strip, (IN * 3 + 15) / 16 * 16 * 16));
    for (size_t i = 0; i < sizeof variants / sizeof *variants && variants[i].isa <= cavmae__isa(); i++) {
        uint8_t *mine = planes + (i ? 3 * ROWS * PITCH : 0);
        memset(mine, 0, 3 * ROWS * PITCH);
        variants[i].columns(&across, pixels, IN * 3, ROWS, IN, 3, mine, ROWS * PITCH, PITCH, strip);
        variants[i].rows(&down, mine, PITCH, SIZE, level, out + (i ? SIZE * SIZE : 0));
        CHECK(memcmp(mine, planes, 3 * ROWS * PITCH) == 0);
        CHECK(memcmp(out, out + (i ? SIZE * SIZE : 0), SIZE * SIZE * sizeof *out) == 0);
    }
    cavmae__free(context, planes);
    cavmae__free(context, strip);
    cavmae__resize_axis_free(context, &across);
    cavmae__resize_axis_free(context, &down);
    free(pixels);
    free(out);
}

/* ---- Out of memory ---- */

static cavmae_status prepare_all(cavmae_context *context) {
    static const uint8_t pixels[20 * 30 * 3];
    static float picture[3 * 16 * 16], stereo[2 * 3000];
    cavmae__image_contract image = image_contract(16, 3, CAVMAE__FILTER_BICUBIC);
    float *out;
    int64_t frames;
    CAVMAE__TRY(cavmae__prepare_image(context, &image, pixels, 30, 20, 90, picture));
    CAVMAE__TRY(cavmae__prepare_audio(context, &CONTRACT, stereo, 3000, 2, 22050, &out, &frames));
    cavmae__free(context, out);
    return CAVMAE_OK;
}

static void test_out_of_memory(void) {
    for (int after = 0; after < 2; after++) {
        failing_allocator allocator = {.fail_after = after};
        cavmae_context_options options = failing_options(&allocator);
        cavmae_context *context = NULL;
        cavmae_status status = CAVMAE_E_NOMEM;
        if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
        long blocks = allocator.blocks;
        int failures = 0;
        for (long n = 1; status != CAVMAE_OK && n < 100; n++) {
            allocator.fail_at = allocator.calls + n;
            status = prepare_all(context);
            CHECK(status == CAVMAE_OK || status == CAVMAE_E_NOMEM);
            CHECK(allocator.blocks == blocks);
            failures += status != CAVMAE_OK;
        }
        CHECK(status == CAVMAE_OK && failures > 10);
        allocator.fail_at = 0;
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
    }
}

int main(void) {
    cavmae_context *context = NULL;
    if (CHECK_OK(cavmae_context_create(NULL, &context))) {
        test_fbank(context);
        test_length(context);
        test_channels(context);
        test_resample(context);
        test_long_sound();
        test_images(context);
        test_variants(context);
    }
    cavmae_context_free(context);
    test_out_of_memory();
    return check_summary("frontend");
}
