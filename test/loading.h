/* What tests of the loader share: manifests in a folder of their own, a decoder that makes sound and pictures up from
 * the path, and calls that check. */
#ifndef CAVMAE_TEST_LOADING_H
#define CAVMAE_TEST_LOADING_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "failing_allocator.h"
#include "loader.h"

/* ---- Files ---- */

static char directory[] = "/tmp/cavmae-loader-XXXXXX";

static inline void make_directory(void) {
    if (!mkdtemp(directory)) exit(2);
}

static inline void remove_directory(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK(system(command) == 0);
}

static inline const char *in_directory(const char *name) {
    static char paths[64][256];
    static int turn;
    char *path = paths[turn++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static inline const char *write_file(const char *name, const char *text) {
    const char *path = in_directory(name);
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(2);
    return path;
}

/* Entries 0 to count - 1, each a media file clip<number>.mp4; those whose bit is set in `broken` cannot be decoded. */
static inline const char *write_manifest(const char *name, int count, uint64_t broken) {
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

static inline uint32_t hash_path(const char *path) {
    uint32_t h = 2166136261u;
    for (const char *name = strrchr(path, '/') + 1; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

static inline cavmae_status decode_start(const char *path, char *error, size_t error_size) {
    while (decode_held) usleep(1000);
    if (decode_delay) usleep(hash_path(path) % (uint32_t)decode_delay);
    decoded++;
    if (decode_mended || !strstr(path, "broken")) return CAVMAE_OK;
    snprintf(error, error_size, "%s: made to be broken", path);
    return CAVMAE_E_MEDIA;
}

static inline cavmae_status probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                                  size_t error_size) {
    (void)user, (void)source, (void)error, (void)error_size;
    info->seconds = 5;
    return CAVMAE_OK;
}

/* Half a second of a tone; a path with "long": twice that. */
static inline cavmae_status decode_audio(void *user, const cavmae_source *source, cavmae_audio_sink *sink,
                                         void *sink_arg, char *error, size_t error_size) {
    static const int rate = 16000;
    float pcm[16000];
    uint32_t h = hash_path(source->path);
    (void)user;
    CAVMAE__TRY(decode_start(source->path, error, error_size));
    for (int i = 0; i < rate; i++) pcm[i] = (float)((h >> 8) + (uint32_t)i * (h % 900 + 100) * 4000 % 65536) * 0x1p-26f;
    return sink(sink_arg, pcm, strstr(source->path, "long") ? rate : rate / 2, 1, rate);
}

/* One colour: red counts tenths of a second or is K of frame_K; green is by path. */
static inline cavmae_status decode_frames(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                          cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size) {
    uint8_t rgb[8 * 8 * 3];
    const char *folder = strstr(source->path, "frame_");
    (void)user;
    CAVMAE__TRY(decode_start(source->path, error, error_size));
    for (int32_t frame = 0; frame < count; frame++) {
        for (int i = 0; i < 64; i++) {
            rgb[3 * i] = (uint8_t)(folder ? atoi(folder + 6) : (int)lround(seconds[frame] * 10));
            rgb[3 * i + 1] = (uint8_t)hash_path(source->path);
            rgb[3 * i + 2] = 0;
        }
        CAVMAE__TRY(sink(sink_arg, frame, rgb, 8, 8, 24));
    }
    return CAVMAE_OK;
}

static const cavmae_decoder decoder = {sizeof decoder, 1, NULL, probe, decode_audio, decode_frames};

/* ---- Context, configuration, batches ---- */

static atomic_int warnings, cancelled, asked_elsewhere;
static pthread_t home; /* the thread of the last context */

static inline void count_warning(void *user, int32_t level, const char *message) {
    (void)user;
    if (level == CAVMAE_LOG_WARNING && strstr(message, "skipped: entry ")) warnings++;
}

static inline int32_t ask_cancelled(void *user) {
    (void)user;
    asked_elsewhere += !pthread_equal(pthread_self(), home);
    return cancelled;
}

static inline cavmae_context *new_context(void) {
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .log = count_warning, .cancel = ask_cancelled};
    cavmae_context *context = NULL;
    home = pthread_self();
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    return context;
}

/* The tiny preset with batches of 4, and pairs of name and value up to NULL. */
static inline cavmae_config *new_config(cavmae_context *context, ...) {
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

static inline cavmae_loader *loader_of(cavmae_config *config, const char *manifest, const char *labels) {
    cavmae_loader *loader = NULL;
    CHECK_OK(cavmae_loader_create(config, manifest, labels, &loader));
    cavmae_config_free(config);
    return loader;
}

enum { FRAMES = 128, BINS = 128, SOUND = FRAMES * BINS, PIXELS = 64 * 64 };

static inline uint64_t mix(uint64_t sum, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) sum = (sum ^ bytes[i]) * 1099511628211u;
    return sum;
}

/* All of a batch in one number; 1 for NULL, the end of an epoch. */
static inline uint64_t batch_sum(const cavmae_batch *batch) {
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
    size_t pictures = count * (batch->frames ? (size_t)batch->frames : 1);
    if (batch->image) sum = mix(sum, batch->image, pictures * 3 * PIXELS * sizeof *batch->image);
    if (batch->labels) sum = mix(sum, batch->labels, count * (size_t)batch->classes * sizeof *batch->labels);
    return sum;
}

static inline const cavmae_batch *next(cavmae_loader *loader) {
    const cavmae_batch *batch = NULL;
    CHECK_OK(cavmae_loader_next(loader, &batch));
    return batch;
}

/* Samples of one epoch, in their order. */
static inline int take_epoch(cavmae_loader *loader, int64_t *samples) {
    int count = 0;
    const cavmae_batch *batch;
    while ((batch = next(loader)))
        for (int32_t i = 0; i < batch->count; i++) samples[count++] = batch->samples[i];
    return count;
}

/* The 8-bit value that a prepared pixel of red (channel 0) or green (1) had. */
static inline int pixel_value(const cavmae_batch *batch, int row, int channel) {
    static const double mean[] = {0.485, 0.456}, std[] = {0.229, 0.224};
    double x = (double)batch->image[(row * 3 + channel) * PIXELS + 100];
    return (int)lround((x * std[channel] + mean[channel]) * 255);
}

/* ---- Memory ---- */

/* load(), in a context of its own each time, with every allocation failing in turn: alone, and with all after it. */
static inline void fail_every_allocation(const char *manifest, const char *labels,
                                         cavmae_status (*load)(cavmae_context *, const char *, const char *)) {
    for (int fail_after = 0; fail_after < 2; fail_after++) {
        int ended = 0;
        for (long fail_at = 1; !ended && fail_at < 10000; fail_at++) {
            failing_allocator allocator = {.fail_at = fail_at, .fail_after = fail_after};
            cavmae_context_options options = failing_options(&allocator);
            cavmae_context *context = NULL;
            cavmae_status status = cavmae_context_create(&options, &context);
            if (status == CAVMAE_OK) status = cavmae_context_set_decoder(context, &decoder);
            if (status == CAVMAE_OK) status = load(context, manifest, labels);
            cavmae_context_free(context);
            CHECK(allocator.blocks == 0);
            if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
            ended = status == CAVMAE_OK && allocator.calls < fail_at;
        }
        CHECK(ended);
    }
}

#endif
