/* libcavmae-media.so on files of many kinds, good and bad, from their paths and from memory. test/cases/media/README.md
 * says what is in them. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define CASES "test/cases/media/"

static char directory[] = "/tmp/cavmae-media-files-XXXXXX";
static cavmae_context *context;

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

static bytes read_case(const char *name) {
    char path[256];
    bytes b = {malloc(65536), 0};
    snprintf(path, sizeof path, CASES "%s", name);
    FILE *file = fopen(path, "rb");
    if (!CHECK(file != NULL)) exit(1);
    b.size = fread(b.data, 1, 65536, file);
    fclose(file);
    return b;
}

static cavmae_source in_memory(bytes b, const char *name) {
    return (cavmae_source){.struct_size = sizeof(cavmae_source), .path = name, .data = b.data, .size = b.size};
}

/* ---- What is in them ---- */

enum { RED, GREEN, BLUE, WHITE };

typedef struct expectation {
    const char *name;
    int32_t channels, rate, width, height, still;
    double seconds, frame_rate;
} expectation;

static const expectation expectations[] = {
    {"alac.m4a", 2, 44100, 0, 0, 0, .05, 0},
    {"alpha.png", 0, 0, 64, 48, 1, 0, 0},
    {"anim.gif", 0, 0, 32, 24, 0, 3, 10},
    {"both.mp4", 1, 8000, 32, 24, 0, 3, 10},
    {"both.webm", 1, 48000, 32, 24, 0, 3.008, 10},
    {"cover.mp3", 1, 44100, 0, 0, 0, 1.0449, 0},
    {"deep.png", 0, 0, 64, 48, 1, 0, 0},
    {"double.wav", 2, 22050, 0, 0, 0, .02, 0},
    {"eight_bit.wav", 1, 11025, 0, 0, 0, .1, 0},
    {"gap.mkv", 1, 8000, 0, 0, 0, 3, 0},
    {"late_picture.mkv", 1, 8000, 32, 24, 0, 3.5, 10},
    {"late_sound.mkv", 1, 8000, 32, 24, 0, 3, 10},
    {"oddsize.avi", 0, 0, 37, 21, 1, 0, 0},
    {"offset.mkv", 1, 8000, 32, 24, 0, 3, 10},
    {"opus.webm", 1, 48000, 0, 0, 0, 1.008, 0},
    {"palette.png", 0, 0, 64, 48, 1, 0, 0},
    {"picture.jpg", 0, 0, 64, 48, 1, 0, 0},
    {"picture.png", 0, 0, 64, 48, 1, 0, 0},
    {"raw.h264", 0, 0, 32, 24, 0, 3, 10},
    {"s24.wav", 2, 44100, 0, 0, 0, .02, 0},
    {"still.gif", 0, 0, 64, 48, 1, 0, 0},
    {"surround.flac", 6, 48000, 0, 0, 0, .1, 0},
    {"surround.ogg", 6, 48000, 0, 0, 0, .1, 0},
    {"ten_bit.mp4", 0, 0, 64, 48, 1, 0, 0},
    {"tone.aac", 1, 44100, 0, 0, 0, 1.0449, 0},
    {"turned.jpg", 0, 0, 48, 64, 1, 0, 0},
    {"turned_180.mp4", 0, 0, 64, 48, 0, .5, 10},
    {"turned_270.mp4", 0, 0, 48, 64, 0, .5, 10},
    {"turned_90.mp4", 0, 0, 48, 64, 0, .5, 10},
    {"vfr.mkv", 0, 0, 16, 16, 0, 2.1, 10},
};

static void check_info(const cavmae_source *source, const expectation *e) {
    cavmae_media_info info = {.struct_size = sizeof info};
    if (!CHECK_OK(cavmae_media_probe_source(context, source, &info))) return;
    int good = CHECK(info.audio_channels == e->channels && info.audio_rate == e->rate && info.still == e->still) &&
               CHECK(info.width == e->width && info.height == e->height) &&
               CHECK_CLOSE(info.seconds, e->seconds, 1e-3) && CHECK_CLOSE(info.frame_rate, e->frame_rate, 1e-3);
    if (!good) printf("  in %s\n", e->name);
}

/* Frees both. */
static int same(cavmae_tensor *a, cavmae_tensor *b) {
    size_t each = cavmae_tensor_dtype(a) == CAVMAE_UINT8 ? 1 : 4;
    int64_t elements = cavmae_tensor_elements(a);
    int equal = elements == cavmae_tensor_elements(b) &&
                !memcmp(cavmae_tensor_data(a), cavmae_tensor_data(b), (size_t)elements * each);
    cavmae_tensor_free(a);
    cavmae_tensor_free(b);
    return equal;
}

/* Memory gives what the path gives; a missing track is MEDIA. */
static void check_file(const expectation *e) {
    static const double seconds[] = {0, .3, 1.2, 1.3, 9};
    char path[256];
    bytes b = read_case(e->name);
    snprintf(path, sizeof path, CASES "%s", e->name);
    const cavmae_source file = {.struct_size = sizeof file, .path = path}, memory = in_memory(b, NULL);
    check_info(&file, e);
    check_info(&memory, e);

    cavmae_tensor *one, *other;
    int32_t rate = 0;
    cavmae_status expected = e->channels ? CAVMAE_OK : CAVMAE_E_MEDIA;
    if (CHECK_STATUS(cavmae_media_audio(context, path, &one, &rate), expected) && e->channels) {
        CHECK(rate == e->rate && cavmae_tensor_shape(one)[1] == e->channels);
        if (CHECK_OK(cavmae_media_audio_source(context, &memory, &other, &rate))) CHECK(same(one, other));
    } else {
        CHECK(strstr(cavmae_last_error(), ": no audio track"));
    }
    expected = e->width ? CAVMAE_OK : CAVMAE_E_MEDIA;
    if (CHECK_STATUS(cavmae_media_frames(context, path, seconds, 5, &one), expected) && e->width) {
        CHECK(cavmae_tensor_shape(one)[1] == e->height && cavmae_tensor_shape(one)[2] == e->width);
        if (CHECK_OK(cavmae_media_frames_source(context, &memory, seconds, 5, &other))) CHECK(same(one, other));
    } else {
        CHECK(strstr(cavmae_last_error(), ": no video track"));
    }
    free(b.data);
}

/* ---- Colours ---- */

static int is_colour(const uint8_t *rgb, int colour) {
    static const uint8_t colours[4][3] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}};
    int far = 0;
    for (int c = 0; c < 3; c++) far += abs(rgb[c] - colours[colour][c]) > 12;
    return !far;
}

/* The colour in the middle of each quarter, from left to right, top to bottom, of the first frame. */
static void check_quarters(const char *name, int a, int b, int c, int d) {
    const int colours[4] = {a, b, c, d};
    char path[256];
    const double second = 0;
    cavmae_tensor *tensor;
    snprintf(path, sizeof path, CASES "%s", name);
    if (!CHECK_OK(cavmae_media_frames(context, path, &second, 1, &tensor))) return;
    const int64_t height = cavmae_tensor_shape(tensor)[1], width = cavmae_tensor_shape(tensor)[2];
    const uint8_t *rgb = cavmae_tensor_data(tensor);
    for (int i = 0; i < 4; i++) {
        int64_t y = height * (1 + i / 2 * 2) / 4, x = width * (1 + i % 2 * 2) / 4;
        if (!CHECK(is_colour(rgb + (y * width + x) * 3, colours[i]))) printf("  quarter %d of %s\n", i, name);
    }
    cavmae_tensor_free(tensor);
}

/* The colour at each time. */
static void check_times(const char *name, int count, const double *seconds, const int *colours) {
    char path[256];
    cavmae_tensor *tensor;
    snprintf(path, sizeof path, CASES "%s", name);
    if (!CHECK_OK(cavmae_media_frames(context, path, seconds, count, &tensor))) return;
    const int64_t *shape = cavmae_tensor_shape(tensor);
    const uint8_t *rgb = cavmae_tensor_data(tensor);
    for (int i = 0; i < count; i++)
        if (!CHECK(is_colour(rgb + (i * shape[1] + 2) * shape[2] * 3 + 6, colours[i])))
            printf("  %s at %g\n", name, seconds[i]);
    cavmae_tensor_free(tensor);
}

static void test_pictures(void) {
    static const char *const upright[] = {"picture.png", "picture.jpg", "palette.png", "deep.png",
                                          "alpha.png",   "still.gif",   "ten_bit.mp4", "oddsize.avi"};
    for (size_t i = 0; i < sizeof upright / sizeof *upright; i++) check_quarters(upright[i], RED, GREEN, BLUE, WHITE);
    check_quarters("turned_90.mp4", GREEN, WHITE, RED, BLUE);
    check_quarters("turned_180.mp4", WHITE, BLUE, GREEN, RED);
    check_quarters("turned_270.mp4", BLUE, RED, WHITE, GREEN);
    check_quarters("turned.jpg", BLUE, RED, WHITE, GREEN);

    /* The first frame at or after a time. */
    check_times("vfr.mkv", 7, (double[]){0, .05, .1, .11, .5, .6, 2.1}, (int[]){0, 1, 1, 2, 2, 3, 3});
    static const char *const plain[] = {"both.mp4",   "both.webm", "late_sound.mkv",
                                        "offset.mkv", "anim.gif",  "raw.h264"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        for (int first = 0; first < 5; first++) /* whatever was asked for before */
            check_times(plain[i], 5 - first, (double[]){0, .85, 1.05, 1.85, 2.05} + first,
                        (int[]){RED, RED, GREEN, GREEN, BLUE} + first);
    check_times("late_picture.mkv", 5, (double[]){0, 1.35, 1.55, 2.35, 2.55}, (int[]){RED, RED, GREEN, GREEN, BLUE});
}

/* ---- Sound ---- */

static const float *hear(const cavmae_source *source, cavmae_tensor **tensor, int64_t samples, int64_t channels) {
    int32_t rate;
    if (!CHECK_OK(cavmae_media_audio_source(context, source, tensor, &rate))) exit(1);
    const int64_t *shape = cavmae_tensor_shape(*tensor);
    if (!CHECK(shape[0] == samples && shape[1] == channels))
        printf("  %s: %d x %d\n", source->path, (int)shape[0], (int)shape[1]);
    return cavmae_tensor_data(*tensor);
}

/* Channels keep their level from sample `from` to the end. */
static void check_levels(const char *name, int64_t samples, int64_t from, int64_t channels, const double *levels,
                         double tolerance) {
    char path[256];
    cavmae_tensor *tensor;
    double worst = 0;
    snprintf(path, sizeof path, CASES "%s", name);
    const float *pcm =
        hear(&(cavmae_source){.struct_size = sizeof(cavmae_source), .path = path}, &tensor, samples, channels);
    for (int64_t i = from * channels; i < samples * channels; i++)
        worst = fmax(worst, fabs((double)pcm[i] - levels[i % channels]));
    if (!CHECK_CLOSE(worst, 0, tolerance)) printf("  in %s\n", name);
    for (int64_t i = 0; i < from * channels; i++) worst = fmax(worst, fabs((double)pcm[i]));
    if (from > 0 && tolerance == 0) CHECK(worst == 0); /* silence before it */
    cavmae_tensor_free(tensor);
}

static void test_sound(void) {
    static const double surround[] = {.125, .25, -.125, -.25, .5, -.5}, two[] = {.25, -.5};
    check_levels("surround.flac", 4800, 0, 6, surround, 0);
    check_levels("surround.ogg", 4800, 1000, 6, surround, .06);
    check_levels("alac.m4a", 2205, 0, 2, two, 1e-4);
    check_levels("double.wav", 441, 0, 2, two, 0);
    check_levels("s24.wav", 882, 0, 2, two, 1e-6);
    check_levels("eight_bit.wav", 1103, 0, 1, two, 0);
    check_levels("late_sound.mkv", 24000, 4000, 1, two, 0);
    check_levels("late_picture.mkv", 20000, 0, 1, two, 0);
    check_levels("offset.mkv", 20000, 0, 1, two, 0);

    cavmae_tensor *tensor;
    hear(&(cavmae_source){.struct_size = sizeof(cavmae_source), .path = CASES "opus.webm"}, &tensor, 48000,
         1); /* what comes before time 0 is not heard, and no silence in its place */
    cavmae_tensor_free(tensor);
    const float *pcm =
        hear(&(cavmae_source){.struct_size = sizeof(cavmae_source), .path = CASES "gap.mkv"}, &tensor, 24000, 1);
    int wrong = 0;
    for (int i = 0; i < 24000; i++) wrong += pcm[i] != (i >= 8640 && i < 12736 ? 0 : .25f);
    CHECK(wrong == 0);
    cavmae_tensor_free(tensor);
}

/* ---- Files that are not what they say ---- */

/* Replaces the bytes after the first `what` by `with`, of the same size. */
static void patch(bytes b, const char *what, size_t what_size, const void *with, size_t with_size) {
    uint8_t *at = memmem(b.data, b.size, what, what_size);
    if (CHECK(at != NULL)) memcpy(at + what_size, with, with_size);
}

static double length_of(bytes b) {
    cavmae_media_info info = {.struct_size = sizeof info};
    const cavmae_source source = in_memory(b, "changed");
    CHECK_OK(cavmae_media_probe_source(context, &source, &info));
    return info.seconds;
}

static void test_lengths(void) {
    bytes webm = read_case("both.webm"), wav = read_case("eight_bit.wav"), mp4 = read_case("both.mp4");
    /* Matroska's Duration is a big-endian double, of milliseconds: 60000, 500, and Void in its place. */
    patch(webm, "\x44\x89\x88", 3, "\x40\xED\x4C\0\0\0\0\0", 8);
    CHECK_CLOSE(length_of(webm), 3.01, .02);
    patch(webm, "\x44\x89\x88", 3, "\x40\x7F\x40\0\0\0\0\0", 8);
    CHECK_CLOSE(length_of(webm), 3.01, .02);
    uint8_t *claim = memmem(webm.data, webm.size, "\x44\x89\x88", 3);
    memcpy(claim, "\xEC\x89\0\0\0\0\0\0\0\0\0", 11);
    CHECK_CLOSE(length_of(webm), 3.01, .02);
    patch(wav, "data", 4, "\xFF\xFF\xFF\xFF", 4); /* as from a pipe */
    CHECK_CLOSE(length_of(wav), .1, .001);
    wav.size -= 551;
    CHECK_CLOSE(length_of(wav), .05, .001);

    /* Cut short, its index being in front: what is there is given. */
    mp4.size -= 3000;
    double seconds = length_of(mp4);
    CHECK(seconds > 1 && seconds < 2.5);
    const cavmae_source source = in_memory(mp4, "cut.mp4");
    cavmae_tensor *tensor;
    int32_t rate;
    CHECK_OK(cavmae_media_audio_source(context, &source, &tensor, &rate));
    CHECK_CLOSE((double)cavmae_tensor_shape(tensor)[0] / 8000, seconds, .4);
    cavmae_tensor_free(tensor);
    CHECK_OK(cavmae_media_frames_source(context, &source, (double[]){0, 1, 99}, 3, &tensor));
    const uint8_t *rgb = cavmae_tensor_data(tensor);
    CHECK(is_colour(rgb, RED) && is_colour(rgb + 32 * 24 * 3, GREEN));
    cavmae_tensor_free(tensor);
    free(webm.data);
    free(wav.data);
    free(mp4.data);
}

/* A run of wrong bytes in the middle costs what was there, and nothing else. */
static void test_damage(void) {
    bytes b = read_case("surround.flac"), video = read_case("late_sound.mkv");
    cavmae_tensor *tensor;
    int32_t rate;
    for (size_t i = b.size - 60; i < b.size - 40; i++) b.data[i] ^= 0x5A;
    cavmae_source source = in_memory(b, "damaged");
    CHECK_OK(cavmae_media_audio_source(context, &source, &tensor, &rate));
    CHECK(cavmae_tensor_shape(tensor)[1] == 6);
    cavmae_tensor_free(tensor);
    source = in_memory(video, "damaged");
    for (size_t i = 1100; i < 1130; i++) video.data[i] ^= 0x5A;
    CHECK_OK(cavmae_media_frames_source(context, &source, (double[]){0, 99}, 2, &tensor));
    CHECK(is_colour(cavmae_tensor_data(tensor), RED));
    cavmae_tensor_free(tensor);
    free(b.data);
    free(video.data);
}

/* ---- Each way to be bad ---- */

static void check_bad(const cavmae_source *source, cavmae_status expected, const char *words) {
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor = NULL;
    int32_t rate;
    double second = 0;
    CHECK_STATUS(cavmae_media_probe_source(context, source, &info), expected);
    if (!CHECK(strstr(cavmae_last_error(), words))) printf("  %s\n", cavmae_last_error());
    CHECK(strncmp(cavmae_last_error(), source->path, strlen(source->path)) == 0);
    CHECK_STATUS(cavmae_media_audio_source(context, source, &tensor, &rate), expected);
    CHECK_STATUS(cavmae_media_frames_source(context, source, &second, 1, &tensor), expected);
    CHECK(tensor == NULL);
}

static void check_bad_path(const char *path, cavmae_status expected, const char *words) {
    check_bad(&(cavmae_source){.struct_size = sizeof(cavmae_source), .path = path}, expected, words);
}

static void check_bad_text(const char *text, cavmae_status expected, const char *words) {
    check_bad(
        &(cavmae_source){.struct_size = sizeof(cavmae_source), .path = "text", .data = text, .size = strlen(text)},
        expected, words);
}

static void test_bad(void) {
    char path[256];
    snprintf(path, sizeof path, "%s/file.mp4", directory);
    check_bad_path(path, CAVMAE_E_IO, "cannot open: No such file");
    check_bad_path(directory, CAVMAE_E_IO, "it is a directory");
    CHECK(mkfifo(path, 0600) == 0);
    check_bad_path(path, CAVMAE_E_IO, "it is not a regular file");
    unlink(path);
    FILE *file = fopen(path, "wb");
    fclose(file);
    check_bad_path(path, CAVMAE_E_FORMAT, "it is empty");
    if (geteuid() != 0 && chmod(path, 0) == 0) check_bad_path(path, CAVMAE_E_IO, "cannot open: Permission denied");
    unlink(path);

    check_bad_text("", CAVMAE_E_FORMAT, "it is empty");
    check_bad_text("This is a letter, and not a film.\nYours\n", CAVMAE_E_FORMAT, "not a media file");
    check_bad_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n" CASES "tone.aac\n#EXT-X-ENDLIST\n", CAVMAE_E_FORMAT,
                   "names other files");
    check_bad_text("ffconcat version 1.0\nfile " CASES "tone.aac\n", CAVMAE_E_FORMAT, "names other files");

    bytes b = read_case("alac.m4a"); /* its index comes last */
    b.size = b.size * 2 / 3;
    cavmae_source source = in_memory(b, "cut.m4a");
    check_bad(&source, CAVMAE_E_FORMAT, "damaged or cut short");
    free(b.data);

    b = read_case("gap.mkv"); /* nothing after its header */
    b.size = (size_t)((uint8_t *)memmem(b.data, b.size, "\x1F\x43\xB6\x75", 4) - b.data);
    source = in_memory(b, "headless.mkv");
    check_bad(&source, CAVMAE_E_FORMAT, "damaged or cut short");
    free(b.data);

    b = read_case("picture.png");
    b.size = 70;
    source = in_memory(b, "cut.png");
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor;
    CHECK_STATUS(cavmae_media_probe_source(context, &source, &info), CAVMAE_E_MEDIA);
    CHECK_STATUS(cavmae_media_frames_source(context, &source, (double[]){0}, 1, &tensor), CAVMAE_E_MEDIA);
    CHECK(strstr(cavmae_last_error(), "none of its frames can be decoded"));
    free(b.data);

    b = read_case("both.mp4"); /* a codec that nobody has heard of */
    uint8_t *name = memmem(b.data, b.size, "avc1\0\0\0\0\0\0\0\1", 12);
    memcpy(name, "zzz1", 4);
    source = in_memory(b, "strange.mp4");
    CHECK_STATUS(cavmae_media_frames_source(context, &source, (double[]){0}, 1, &tensor), CAVMAE_E_UNSUPPORTED);
    CHECK(strstr(cavmae_last_error(), "strange.mp4: no decoder for its video track"));
    free(b.data);
}

/* Every file, cut at many places and with bytes changed: any status, no harm. */
static void test_mutations(void) {
    uint32_t state = 1;
    for (size_t f = 0; f < sizeof expectations / sizeof *expectations; f++) {
        bytes b = read_case(expectations[f].name);
        for (int round = 0; round < 8; round++) {
            bytes copy = {malloc(b.size), round % 2 ? b.size : b.size * (size_t)(round + 1) / 9};
            memcpy(copy.data, b.data, b.size);
            for (int i = 0; i < 6; i++) {
                state = state * 1664525 + 1013904223;
                copy.data[(state >> 8) % b.size] ^= (uint8_t)(1 + state % 255);
            }
            const cavmae_source source = in_memory(copy, "mutated");
            cavmae_media_info info = {.struct_size = sizeof info};
            cavmae_tensor *tensor = NULL;
            int32_t rate;
            cavmae_status status[3] = {cavmae_media_probe_source(context, &source, &info)};
            status[1] = cavmae_media_audio_source(context, &source, &tensor, &rate);
            if (status[1] == CAVMAE_OK) cavmae_tensor_free(tensor);
            status[2] = cavmae_media_frames_source(context, &source, (double[]){0, 1}, 2, &tensor);
            if (status[2] == CAVMAE_OK) cavmae_tensor_free(tensor);
            for (int i = 0; i < 3; i++) CHECK(status[i] == CAVMAE_OK || cavmae_last_error()[0]);
            free(copy.data);
        }
        free(b.data);
    }
}

int main(void) {
    cavmae_context_options options = {.struct_size = sizeof options, .plugin_dir = TEST_LIB_DIR};
    if (!mkdtemp(directory) || !CHECK_OK(cavmae_context_create(&options, &context))) return 1;
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) check_file(&expectations[i]);
    test_pictures();
    test_sound();
    test_lengths();
    test_damage();
    test_bad();
    test_mutations();
    cavmae_context_free(context);
    CHECK(rmdir(directory) == 0);
    return check_summary("media_files");
}
