/* The loader, over a decoder that makes sound and pictures up from the path. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "augment.h"
#include "check.h"
#include "failing_allocator.h"
#include "loader.h"

/* ---- Files ---- */

static char directory[] = "/tmp/cavmae-loader-XXXXXX";

static const char *in_directory(const char *name) {
    static char paths[64][256];
    static int turn;
    char *path = paths[turn++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static const char *write_file(const char *name, const char *text) {
    const char *path = in_directory(name);
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(2);
    return path;
}

/* Entries 0 to count - 1, each a media file clip<number>.mp4; those whose bit is set in `broken` cannot be decoded. */
static const char *write_manifest(const char *name, int count, uint64_t broken) {
    char text[16384] = "{\"data\": [";
    size_t length = strlen(text);
    for (int i = 0; i < count; i++)
        length +=
            (size_t)snprintf(text + length, sizeof text - length,
                             "%s{\"video_id\": \"id%d\", \"wav\": \"%s%d.mp4\", \"labels\": \"%s\"}", i ? ", " : "", i,
                             broken >> i & 1 ? "broken" : "clip", i, i % 2 ? "/m/b" : "Apple, red,/m/b");
    snprintf(text + length, sizeof text - length, "]}");
    return write_file(name, text);
}

static const char *const labels_csv =
    "index,mid,display_name\n0,/m/a,\"Apple, red\"\r\n2,/m/c,\"say \"\"C\"\"\"\n1,\"/m/b\",B";

/* ---- A decoder ---- */

static atomic_int decode_delay;  /* microseconds at the most, by path */
static atomic_int decode_held;   /* nothing is decoded while set */
static atomic_int decode_mended; /* broken clips are not */
static atomic_int decoded;

static uint32_t hash_path(const char *path) {
    uint32_t h = 2166136261u;
    for (const char *name = strrchr(path, '/') + 1; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

static cavmae_status decode_start(const char *path, char *error, size_t error_size) {
    while (decode_held) usleep(1000);
    if (decode_delay) usleep(hash_path(path) % (uint32_t)decode_delay);
    decoded++;
    if (decode_mended || !strstr(path, "broken")) return CAVMAE_OK;
    snprintf(error, error_size, "%s: made to be broken", path);
    return CAVMAE_E_MEDIA;
}

static cavmae_status probe(void *user, const char *path, cavmae_media_info *info, char *error, size_t error_size) {
    (void)user, (void)path, (void)error, (void)error_size;
    info->seconds = 5;
    return CAVMAE_OK;
}

/* Half a second of a tone; a path with "long": twice that. */
static cavmae_status decode_audio(void *user, const char *path, cavmae_audio_sink *sink, void *sink_arg, char *error,
                                  size_t error_size) {
    static const int rate = 16000;
    float pcm[16000];
    uint32_t h = hash_path(path);
    (void)user;
    CAVMAE__TRY(decode_start(path, error, error_size));
    for (int i = 0; i < rate; i++) pcm[i] = (float)((h >> 8) + (uint32_t)i * (h % 900 + 100) * 4000 % 65536) * 0x1p-26f;
    return sink(sink_arg, pcm, strstr(path, "long") ? rate : rate / 2, 1, rate);
}

/* One colour: red counts tenths of a second or is K of frame_K; green is by path. */
static cavmae_status decode_frames(void *user, const char *path, const double *seconds, int32_t count,
                                   cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size) {
    uint8_t rgb[8 * 8 * 3];
    const char *folder = strstr(path, "frame_");
    (void)user;
    CAVMAE__TRY(decode_start(path, error, error_size));
    for (int i = 0; i < 64; i++) {
        rgb[3 * i] = (uint8_t)(folder ? atoi(folder + 6) : (int)lround(seconds[0] * 10));
        rgb[3 * i + 1] = (uint8_t)hash_path(path);
        rgb[3 * i + 2] = 0;
    }
    return count == 1 ? sink(sink_arg, 0, rgb, 8, 8, 24) : CAVMAE_E_INTERNAL;
}

static const cavmae_decoder decoder = {sizeof decoder, 1, NULL, probe, decode_audio, decode_frames};

/* ---- Context, configuration, batches ---- */

static atomic_int warnings, cancelled;

static void count_warning(void *user, int32_t level, const char *message) {
    (void)user;
    if (level == CAVMAE_LOG_WARNING && strstr(message, "skipped: entry ")) warnings++;
}

static int32_t ask_cancelled(void *user) {
    (void)user;
    return cancelled;
}

static cavmae_context *new_context(void) {
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .log = count_warning, .cancel = ask_cancelled};
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    return context;
}

/* The tiny preset with batches of 4, and pairs of name and value up to NULL. */
static cavmae_config *new_config(cavmae_context *context, ...) {
    cavmae_config *config = NULL;
    const char *name;
    va_list pairs;
    CHECK_OK(cavmae_config_create(context, "tiny", &config));
    CHECK_OK(cavmae_config_set(config, "batch", "4"));
    va_start(pairs, context);
    while ((name = va_arg(pairs, const char *))) CHECK_OK(cavmae_config_set(config, name, va_arg(pairs, const char *)));
    va_end(pairs);
    return config;
}

#define LOADER(context, manifest, labels, ...)                                                                         \
    loader_of(new_config(context, __VA_ARGS__, (char *)NULL), manifest, labels)

static cavmae_loader *loader_of(cavmae_config *config, const char *manifest, const char *labels) {
    cavmae_loader *loader = NULL;
    CHECK_OK(cavmae_loader_create(config, manifest, labels, &loader));
    cavmae_config_free(config);
    return loader;
}

enum { FRAMES = 128, BINS = 128, SOUND = FRAMES * BINS, PIXELS = 64 * 64 };

static uint64_t mix(uint64_t sum, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) sum = (sum ^ bytes[i]) * 1099511628211u;
    return sum;
}

/* All of a batch in one number; 1 for NULL, the end of an epoch. */
static uint64_t batch_sum(const cavmae_batch *batch) {
    uint64_t sum = 14695981039346656037u;
    if (!batch) return 1;
    size_t count = (size_t)batch->count, frames = count * FRAMES;
    sum = mix(sum, batch->samples, count * sizeof *batch->samples);
    if (batch->audio_frames) {
        frames = 0;
        for (size_t i = 0; i < count; i++) frames += (size_t)batch->audio_frames[i];
        sum = mix(sum, batch->audio_frames, count * sizeof *batch->audio_frames);
    }
    if (batch->audio) sum = mix(sum, batch->audio, frames * BINS * sizeof *batch->audio);
    if (batch->image) sum = mix(sum, batch->image, count * 3 * PIXELS * sizeof *batch->image);
    if (batch->labels) sum = mix(sum, batch->labels, count * (size_t)batch->classes * sizeof *batch->labels);
    return sum;
}

static const cavmae_batch *next(cavmae_loader *loader) {
    const cavmae_batch *batch = NULL;
    CHECK_OK(cavmae_loader_next(loader, &batch));
    return batch;
}

/* Samples of one epoch, in their order. */
static int take_epoch(cavmae_loader *loader, int64_t *samples) {
    int count = 0;
    const cavmae_batch *batch;
    while ((batch = next(loader)))
        for (int32_t i = 0; i < batch->count; i++) samples[count++] = batch->samples[i];
    return count;
}

/* The 8-bit value that a prepared pixel of red (channel 0) or green (1) had. */
static int pixel_value(const cavmae_batch *batch, int row, int channel) {
    static const double mean[] = {0.485, 0.456}, std[] = {0.229, 0.224};
    double x = (double)batch->image[(row * 3 + channel) * PIXELS + 100];
    return (int)lround((x * std[channel] + mean[channel]) * 255);
}

/* ---- Augmentation ---- */

/* What the config's keys do to a batch. */
static void test_augmented_batches(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("eight.json", 8, 0);
    cavmae_loader *plain = LOADER(context, manifest, NULL, "shuffle", "0"),
                  *noisy = LOADER(context, manifest, NULL, "shuffle", "0", "noise", "1");
    cavmae_loader *rolled = LOADER(context, manifest, NULL, "shuffle", "0", "roll", "1", "seed", "9");
    const float *first = next(plain)->audio, *noise = next(noisy)->audio, *roll = next(rolled)->audio;
    int changed = 0, within = 1, same = 1;
    for (int i = 0; i < 4 * SOUND; i++) {
        float added = noise[i] - first[i];
        changed += added > 0;
        within &= added >= -1e-6f && added < 0.1f + 1e-6f;
    }
    CHECK(changed > 4 * SOUND * 9 / 10 && within);
    for (int row = 0; row < 4; row++) {
        int64_t shift = cavmae__roll_shift(FRAMES, 9, 0, row);
        for (int64_t t = 0; t < FRAMES; t++)
            same &= !memcmp(first + row * SOUND + t * BINS, roll + row * SOUND + (t + shift + FRAMES) % FRAMES * BINS,
                            BINS * sizeof(float));
    }
    CHECK(same);
    uint64_t epoch0 = batch_sum(next(noisy));
    while (next(noisy)) continue;
    next(noisy);
    CHECK(batch_sum(next(noisy)) != epoch0); /* the same samples with other noise */
    cavmae_loader_free(plain);
    cavmae_loader_free(noisy);
    cavmae_loader_free(rolled);
    cavmae_context_free(context);
}

/* ---- Order ---- */

static void test_threads(void) {
    static const char *const threads[] = {"1", "2", "5"}, *const queue[] = {"4", "1", "2"};
    enum { CALLS = 14 };
    uint64_t sums[3][CALLS];
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("threads.json", 18, 1 << 3 | 1 << 11),
               *labels = write_file("labels.csv", labels_csv);
    decode_delay = 3000;
    for (int i = 0; i < 3; i++) {
        cavmae_loader *loader =
            LOADER(context, manifest, labels, "loader_threads", threads[i], "queue", queue[i], "noise", "1", "roll",
                   "1", "frame", "-2", "broken", "skip", "drop_last", "0", "seed", "7");
        for (int call = 0; call < CALLS; call++) sums[i][call] = batch_sum(next(loader));
        CHECK(cavmae_loader_epoch(loader) == 2 && cavmae_loader_broken(loader) >= 4);
        cavmae_loader_free(loader);
    }
    decode_delay = 0;
    CHECK(memcmp(sums[0], sums[1], sizeof sums[0]) == 0 && memcmp(sums[0], sums[2], sizeof sums[0]) == 0);
    CHECK(sums[0][4] == 1 && sums[0][9] == 1 && sums[0][0] != sums[0][5]);
    cavmae_context_free(context);
}

static void test_order(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("ten.json", 10, 0);
    int64_t first[10], second[10], seen = 0;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "drop_last", "0");
    CHECK(cavmae_loader_count(loader) == 10 && cavmae_loader_batches(loader) == 3 && cavmae_loader_epoch(loader) == 0);
    CHECK(take_epoch(loader, first) == 10 && cavmae_loader_epoch(loader) == 0);
    CHECK(take_epoch(loader, second) == 10 && cavmae_loader_epoch(loader) == 1);
    for (int i = 0; i < 10; i++) seen |= (int64_t)1 << first[i];
    CHECK(seen == 1023 && memcmp(first, second, sizeof first) != 0);
    cavmae_loader_free(loader);

    loader = LOADER(context, manifest, NULL, "seed", "1"); /* drop_last is the default */
    CHECK(cavmae_loader_batches(loader) == 2 && take_epoch(loader, second) == 8 && take_epoch(loader, second) == 8);
    CHECK(memcmp(first, second, 8 * sizeof *first) != 0);
    cavmae_loader_free(loader);

    loader = LOADER(context, manifest, NULL, "shuffle", "0", "drop_last", "0", "batch", "5");
    CHECK(cavmae_loader_batches(loader) == 2 && take_epoch(loader, first) == 10);
    for (int i = 0; i < 10; i++) CHECK(first[i] == i);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* Where each of 5 numbers comes to lie over 2000 seeds. */
static void test_shuffle_uniform(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("five.json", 5, 0);
    int seen[5][5] = {{0}};
    cavmae_loader *loader = LOADER(context, manifest, NULL, "batch", "5", "modalities", "v", "image_size", "32");
    for (int epoch = 0; epoch < 2000; epoch++) {
        int64_t order[5];
        if (take_epoch(loader, order) != 5) break;
        for (int i = 0; i < 5; i++) seen[order[i]][i]++;
    }
    for (int i = 0; i < 25; i++) CHECK_CLOSE(seen[i / 5][i % 5], 400, 5 * sqrt(400 * 0.8));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* From every place, a loader that is put there goes on as the one that was never stopped. */
static void test_resume(void) {
    enum { CALLS = 16 };
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("resume.json", 11, 1 << 2 | 1 << 7 | 1 << 8);
    for (int drop_last = 0; drop_last < 2; drop_last++) {
        uint64_t sums[CALLS];
        int64_t epoch[CALLS + 1] = {0}, position[CALLS + 1] = {0}, broken[CALLS + 1] = {0}, said_epoch[CALLS + 1] = {0};
        cavmae_config *config =
            new_config(context, "broken", "skip", "noise", "1", "batch", "3", "drop_last", drop_last ? "1" : "0", NULL);
        cavmae_loader *whole = NULL, *resumed = NULL;
        CHECK_OK(cavmae_loader_create(config, manifest, NULL, &whole));
        CHECK_OK(cavmae_loader_create(config, manifest, NULL, &resumed));
        for (int call = 0; call < CALLS; call++) {
            sums[call] = batch_sum(next(whole));
            cavmae__loader_state(whole, &epoch[call + 1], &position[call + 1], &broken[call + 1]);
            said_epoch[call + 1] = cavmae_loader_epoch(whole);
            CHECK(broken[call + 1] == cavmae_loader_broken(whole));
        }
        for (int start = CALLS - 1; start >= 0; start--) {
            CHECK_OK(cavmae__loader_set_state(resumed, epoch[start], position[start], broken[start]));
            CHECK(cavmae_loader_epoch(resumed) == said_epoch[start] && cavmae_loader_broken(resumed) == broken[start]);
            for (int call = start; call < CALLS && call < start + 6; call++) {
                int64_t e, p, b;
                CHECK(batch_sum(next(resumed)) == sums[call]);
                cavmae__loader_state(resumed, &e, &p, &b);
                CHECK(e == epoch[call + 1] && p == position[call + 1] && b == broken[call + 1]);
            }
        }
        CHECK_STATUS(cavmae__loader_set_state(resumed, 0, 12, 0), CAVMAE_E_MISMATCH);
        CHECK_STATUS(cavmae__loader_set_state(resumed, -1, 0, 0), CAVMAE_E_MISMATCH);
        cavmae_config_free(config);
        cavmae_loader_free(whole);
        cavmae_loader_free(resumed);
    }
    cavmae_context_free(context);
}

/* ---- Broken samples ---- */

static void test_skip(void) {
    cavmae_context *context = new_context();
    const uint64_t bad = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 12;
    const char *all = write_manifest("all.json", 13, 0), *some = write_manifest("some.json", 13, bad);
    int64_t order[13], left[13];
    cavmae_loader *loader = LOADER(context, all, NULL, "drop_last", "0");
    CHECK(take_epoch(loader, order) == 13);
    cavmae_loader_free(loader);

    warnings = 0;
    loader = LOADER(context, some, NULL, "drop_last", "0", "broken", "skip");
    CHECK(next(loader)->count == 4);
    CHECK(next(loader)->count == 4);
    CHECK(next(loader)->count == 1);
    CHECK(!next(loader));
    CHECK(cavmae_loader_broken(loader) == 4 && warnings >= 4);
    cavmae_loader_free(loader);
    loader = LOADER(context, some, NULL, "drop_last", "0", "broken", "skip");
    CHECK(take_epoch(loader, left) == 9);
    for (int i = 0, at = 0; i < 13; i++)
        if (!(bad >> order[i] & 1)) CHECK(left[at++] == order[i]); /* the same order without the broken */
    cavmae_loader_free(loader);

    const cavmae_batch *batch = NULL;
    loader = LOADER(context, write_manifest("none.json", 5, 31), NULL, "broken", "skip");
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_FORMAT);
    CHECK(!batch && strstr(cavmae_last_error(), "epoch 0 has no batch: 5 samples"));
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_FORMAT);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_error(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("error.json", 8, 1 << 5);
    const cavmae_batch *batch = NULL;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "shuffle", "0");
    CHECK(next(loader)->count == 4);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_MEDIA);
        CHECK(!batch && strstr(cavmae_last_error(), "entry 5 (id5): ") &&
              strstr(cavmae_last_error(), "made to be broken"));
    }
    CHECK(cavmae_loader_broken(loader) == 0);
    decode_mended = 1; /* the same call then goes on where it was */
    cavmae_status status = cavmae_loader_next(loader, &batch);
    if (status != CAVMAE_OK) status = cavmae_loader_next(loader, &batch); /* the thread may have tried in between */
    CHECK(status == CAVMAE_OK && batch->samples[0] == 4 && batch->samples[3] == 7);
    CHECK(!next(loader));
    decode_mended = 0;
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_bad_arguments(void) {
    cavmae_context *context = new_context();
    cavmae_config *config = new_config(context, NULL);
    const char *manifest = write_manifest("three.json", 3, 0);
    cavmae_loader *loader = NULL;
    CHECK_STATUS(cavmae_loader_create(NULL, manifest, NULL, &loader), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, NULL, NULL, &loader), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &loader), CAVMAE_E_ARG); /* drop_last leaves nothing */
    CHECK_OK(cavmae_config_set(config, "drop_last", "0"));
    CHECK_STATUS(cavmae_loader_create(config, in_directory("absent"), NULL, &loader), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_loader_create(config, manifest, in_directory("absent"), &loader), CAVMAE_E_IO);
    CHECK_OK(cavmae_config_set(config, "frame", "10"));
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &loader), CAVMAE_E_ARG);
    CHECK_OK(cavmae_config_set(config, "frame", "9"));
    CHECK_OK(cavmae_loader_create(config, manifest, NULL, &loader));
    CHECK_STATUS(cavmae_loader_next(NULL, &(const cavmae_batch *){NULL}), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_next(loader, NULL), CAVMAE_E_ARG);
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_STATUS(cavmae_loader_item_at(loader, 3, &item), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_item_at(loader, -1, &item), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_item_at(loader, 0, NULL), CAVMAE_E_ARG);
    cavmae_loader_free(loader);
    cavmae_loader_free(NULL);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Contents ---- */

static void test_batch_labels(void) {
    cavmae_context *context = new_context();
    cavmae_loader *loader =
        LOADER(context, write_manifest("four.json", 4, 0), write_file("labels.csv", labels_csv), "shuffle", "0");
    const cavmae_batch *batch = next(loader);
    static const float expected[] = {1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0};
    CHECK(cavmae_loader_classes(loader) == 3 && strcmp(cavmae_loader_class_name(loader, 1), "B") == 0 &&
          !cavmae_loader_class_name(loader, 3));
    CHECK(batch->classes == 3 && memcmp(batch->labels, expected, sizeof expected) == 0);
    CHECK(batch->struct_size == sizeof *batch && !batch->audio_frames && !batch->mask_a && !batch->mask_v);
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_OK(cavmae_loader_item_at(loader, 2, &item));
    CHECK(strcmp(item.id, "id2") == 0 && item.label_count == 2 && item.labels[0] == 0 && item.labels[1] == 1);
    CHECK(strcmp(item.audio_path, in_directory("clip2.mp4")) == 0 && strcmp(item.image_path, item.audio_path) == 0);
    cavmae_loader_free(loader);
    loader = LOADER(context, in_directory("four.json"), NULL, "shuffle", "0");
    batch = next(loader);
    CHECK(!batch->labels && batch->classes == 0 && cavmae_loader_classes(loader) == 0 &&
          !cavmae_loader_class_name(loader, 0));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* The red value of the first row with config's frame. */
static int red_with_frame(cavmae_context *context, const char *manifest, const char *frame) {
    cavmae_loader *loader = LOADER(context, manifest, NULL, "batch", "1", "frame", frame);
    int red = pixel_value(next(loader), 0, 0);
    cavmae_loader_free(loader);
    return red;
}

static void test_frames(void) {
    cavmae_context *context = new_context();
    const char *folders = write_file(
        "folders.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video_path\": \"frames\"}]}");
    const char *video =
        write_file("video.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video\": \"b.mp4\"}]}");
    mkdir(in_directory("frames"), 0777);
    static const int there[] = {1, 2, 5, 7};
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "frames/frame_%d", there[i]);
        mkdir(in_directory(name), 0777);
        strcat(name, "/v.jpg");
        write_file(name, "");
    }
    CHECK(red_with_frame(context, folders, "5") == 5 && red_with_frame(context, folders, "-1") == 5);
    CHECK(red_with_frame(context, folders, "4") == 2 &&
          red_with_frame(context, folders, "9") == 7); /* the nearest lower */
    CHECK(red_with_frame(context, folders, "0") == 0); /* none: the decoder knows */
    CHECK(red_with_frame(context, video, "0") == 0 && red_with_frame(context, video, "-1") == 25 &&
          red_with_frame(context, video, "9") == 45);

    int seen[10] = {0};
    cavmae_loader *loader =
        LOADER(context, video, NULL, "batch", "1", "frame", "-2", "modalities", "v", "image_size", "64");
    for (int epoch = 0; epoch < 1000; epoch++) {
        int frame = pixel_value(next(loader), 0, 0) / 5;
        if (CHECK(frame >= 0 && frame < 10)) seen[frame]++;
        next(loader);
    }
    for (int i = 0; i < 10; i++) CHECK_CLOSE(seen[i], 100, 5 * sqrt(100 * 0.9));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_modalities(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("five.json", 5, 0);
    cavmae_loader *sound = LOADER(context, manifest, NULL, "modalities", "a"),
                  *pictures = LOADER(context, manifest, NULL, "modalities", "v");
    const cavmae_batch *batch = next(sound);
    CHECK(batch->audio && !batch->image);
    batch = next(pictures);
    CHECK(!batch->audio && batch->image);
    cavmae_loader_free(sound);
    cavmae_loader_free(pictures);

    manifest =
        write_file("lengths.json",
                   "{\"data\": [{\"video_id\": \"a\", \"wav\": \"a\"}, {\"video_id\": \"b\", \"wav\": \"long\"}]}");
    cavmae_loader *native = LOADER(context, manifest, NULL, "audio_length", "native", "batch", "2", "shuffle", "0");
    cavmae_loader *silence = LOADER(context, manifest, NULL, "audio_length", "silence", "batch", "2", "shuffle", "0");
    batch = next(native);
    const cavmae_batch *padded = next(silence);
    CHECK(batch->audio_frames[0] == 48 && batch->audio_frames[1] == 112 &&
          !padded->audio_frames); /* 48 and 98 rounded up to 16 */
    CHECK(memcmp(batch->audio, padded->audio, 48 * BINS * sizeof(float)) == 0);
    CHECK(memcmp(batch->audio + 48 * BINS, padded->audio + SOUND, 98 * BINS * sizeof(float)) == 0);
    cavmae_loader_free(native);
    cavmae_loader_free(silence);
    cavmae_context_free(context);
}

/* ---- Life ---- */

static void test_free_anywhere(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("free.json", 20, 1 << 9);
    decode_delay = 2000;
    for (int calls = 0; calls < 8; calls++) {
        cavmae_loader *loader = LOADER(context, manifest, NULL, "loader_threads", "3", "queue", "2", "broken",
                                       calls % 2 ? "skip" : "error");
        for (int i = 0; i < calls; i++) {
            const cavmae_batch *batch;
            cavmae_status status = cavmae_loader_next(loader, &batch);
            CHECK(status == CAVMAE_OK || (calls % 2 == 0 && status == CAVMAE_E_MEDIA));
        }
        cavmae_loader_free(loader);
    }
    /* A loader outlives the caller's hold of its context and config. */
    cavmae_loader *loader = LOADER(context, manifest, NULL, "broken", "skip");
    cavmae_context_free(context);
    CHECK(next(loader)->count == 4);
    cavmae_loader_free(loader);
    decode_delay = 0;
}

static void *cancel_soon(void *unused) {
    usleep(20000);
    cancelled = 1;
    return unused;
}

static void test_cancel(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("cancel.json", 8, 0);
    const cavmae_batch *batch = NULL;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "shuffle", "0", "loader_threads", "3");
    cancelled = 1;
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_CANCELLED);
    cancelled = 0;
    decode_held = 1;
    CHECK(!batch);
    pthread_t thread;
    pthread_create(&thread, NULL, cancel_soon, NULL);
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_CANCELLED); /* while it waits */
    pthread_join(thread, NULL);
    decode_held = 0;
    cancelled = 0;
    batch = next(loader);
    CHECK(batch && batch->samples[0] == 0 && batch->samples[3] == 3);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* Reading ahead ends when the queue is full, and memory does not grow with the epochs. */
static void test_bounded(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    cavmae_loader *loader = LOADER(context, write_manifest("bounded.json", 40, 0), NULL, "loader_threads", "2", "queue",
                                   "2", "modalities", "a");
    decoded = 0;
    next(loader);
    usleep(100000);
    CHECK(decoded <= 4 * (1 + 2) + 2 * 4); /* the batch in hand, the queue, the slots of two threads */
    long blocks[2];
    int64_t samples[40];
    for (int i = 0; i < 2; i++) {
        for (int epoch = 0; epoch < 5; epoch++) take_epoch(loader, samples);
        CHECK_OK(cavmae__loader_set_state(loader, 0, 0, 0)); /* at rest */
        blocks[i] = allocator.blocks;
    }
    CHECK(labs(blocks[1] - blocks[0]) <= 2 * 4); /* sound in slots that were never placed */
    cavmae_loader_free(loader);
    cavmae_context_free(context);
    CHECK(allocator.blocks == 0);
}

static cavmae_status load_some(cavmae_context *context, const char *manifest, const char *labels) {
    cavmae_config *config = NULL;
    cavmae_loader *loader = NULL;
    const cavmae_batch *batch;
    cavmae_status status;
    CAVMAE__TRY_OUT(cavmae_config_create(context, "tiny", &config));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "loader_threads", "1"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "queue", "1"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "batch", "2"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "broken", "skip")); /* which must not hide that memory ran out */
    CAVMAE__TRY_OUT(cavmae_config_set(config, "audio_length", "native"));
    CAVMAE__TRY_OUT(cavmae_loader_create(config, manifest, labels, &loader));
    for (int i = 0; i < 4; i++) CAVMAE__TRY_OUT(cavmae_loader_next(loader, &batch));
    CHECK(cavmae_loader_broken(loader) == 0);
out:
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    return status;
}

static void test_out_of_memory(void) {
    const char *manifest = write_manifest("memory.json", 6, 0), *labels = write_file("labels.csv", labels_csv);
    for (int fail_after = 0; fail_after < 2; fail_after++) {
        int ended = 0;
        for (long fail_at = 1; !ended && fail_at < 10000; fail_at++) {
            failing_allocator allocator = {.fail_at = fail_at, .fail_after = fail_after};
            cavmae_context_options options = failing_options(&allocator);
            cavmae_context *context = NULL;
            cavmae_status status = cavmae_context_create(&options, &context);
            if (status == CAVMAE_OK) status = cavmae_context_set_decoder(context, &decoder);
            if (status == CAVMAE_OK) status = load_some(context, manifest, labels);
            cavmae_context_free(context);
            CHECK(allocator.blocks == 0);
            if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
            ended = status == CAVMAE_OK && allocator.calls < fail_at;
        }
        CHECK(ended);
    }
}

int main(void) {
    if (!mkdtemp(directory)) return 2;
    test_augmented_batches();
    test_threads();
    test_order();
    test_shuffle_uniform();
    test_resume();
    test_skip();
    test_error();
    test_bad_arguments();
    test_batch_labels();
    test_frames();
    test_modalities();
    test_free_anywhere();
    test_cancel();
    test_bounded();
    test_out_of_memory();
    char remove[64];
    snprintf(remove, sizeof remove, "rm -r %s", directory);
    CHECK(system(remove) == 0);
    return check_summary("loader");
}
