/* A decoder that makes sound and pictures up from the path, manifests of such clips, and files for tests to write. */
#ifndef CAVMAE_TEST_MADE_UP_MEDIA_H
#define CAVMAE_TEST_MADE_UP_MEDIA_H

#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny.h"

/* ---- Files ---- */

static char directory[] = "/tmp/cavmae-made-up-XXXXXX";

static inline const char *in_directory(const char *name) {
    static char paths[64][256];
    static int turn;
    char *path = paths[turn++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static inline const char *write_bytes(const char *name, const void *data, size_t size) {
    const char *path = in_directory(name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) exit(2);
    return path;
}

static inline const char *write_file(const char *name, const char *text) {
    return write_bytes(name, text, strlen(text));
}

static inline unsigned char *read_bytes(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) exit(2);
    *size = (size_t)info.st_size;
    unsigned char *data = malloc(*size);
    if (fread(data, 1, *size, file) != *size || fclose(file) != 0) exit(2);
    return data;
}

static const char *const labels_csv = "index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n2,/m/c,C\n";

/* Clips clip<number>.mp4, some with weighted labels; those whose bit is set in `broken` cannot be decoded. */
static inline const char *write_manifest(const char *name, int count, uint64_t broken) {
    static const char *const labels[] = {"\"/m/b\"", "\"A,/m/c\"", "{\"/m/a\": 0.25, \"C\": 1}", "\"\""};
    char text[4096] = "{\"data\": [";
    size_t length = strlen(text);
    for (int i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length,
                                   "%s{\"video_id\": \"id%d\", \"wav\": \"%s%d.mp4\", \"labels\": %s}", i ? ", " : "",
                                   i, broken >> i & 1 ? "broken" : "clip", i, labels[i % 4]);
    snprintf(text + length, sizeof text - length, "]}");
    return write_file(name, text);
}

/* ---- A decoder ---- */

static atomic_int decoded, cancelled;

static inline uint32_t hash_path(const char *path) {
    const char *name = strrchr(path, '/');
    uint32_t h = 2166136261u;
    for (name = name ? name + 1 : path; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

static inline cavmae_status decode_start(const char *path, char *error, size_t error_size) {
    decoded++;
    if (!strstr(path, "broken")) return CAVMAE_OK;
    snprintf(error, error_size, "%s: made to be broken", path);
    return CAVMAE_E_MEDIA;
}

static inline cavmae_status probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                                  size_t error_size) {
    (void)user, (void)source, (void)error, (void)error_size;
    info->seconds = 5;
    return CAVMAE_OK;
}

/* Samples as 16 bits have them, in two channels; 0.1 to 0.4 seconds by path, at the tests' rate. */
static inline cavmae_status decode_audio(void *user, const cavmae_source *source, cavmae_audio_sink *sink,
                                         void *sink_arg, char *error, size_t error_size) {
    static const int rate = 16000;
    float pcm[2 * 6400];
    uint32_t state = hash_path(source->path);
    int samples = 1600 * (1 + (int)(state % 4));
    (void)user;
    cavmae_status status = decode_start(source->path, error, error_size);
    if (status != CAVMAE_OK) return status;
    for (int i = 0; i < 2 * samples; i++) {
        state = state * 1664525u + 1013904223u;
        int32_t sample = i < 4 ? (i < 2 ? 32767 : -32768) : (int32_t)(state >> 16) - 32768;
        pcm[i] = (float)sample / 32768.0f;
    }
    if (strstr(source->path, "loud")) pcm[0] = 1.5f;
    return sink(sink_arg, pcm, samples, 2, rate);
}

/* Noise of a size by path: its seed is path and time. */
static inline cavmae_status decode_frames(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                          cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size) {
    uint8_t rgb[40 * 50 * 3];
    uint32_t hash = hash_path(source->path);
    (void)user;
    cavmae_status status = decode_start(source->path, error, error_size);
    for (int32_t i = 0; status == CAVMAE_OK && i < count; i++) {
        uint32_t state = hash + (uint32_t)lround(seconds[i] * 1000);
        for (size_t k = 0; k < sizeof rgb; k++) {
            state = state * 1664525u + 1013904223u;
            rgb[k] = (uint8_t)(state >> 24);
        }
        status = hash % 3 ? sink(sink_arg, i, rgb, 50, 40, 150) : sink(sink_arg, i, rgb, 32, 32, 96);
    }
    return status;
}

static const cavmae_decoder decoder = {
    .struct_size = sizeof decoder, .version = 1, .probe = probe, .audio = decode_audio, .frames = decode_frames};

/* ---- Contexts, configurations ---- */

static inline int32_t ask_cancelled(void *user) {
    (void)user;
    return cancelled;
}

static int64_t progress_done, progress_total;

static inline void note_progress(void *user, const char *what, int64_t done, int64_t total) {
    (void)user, (void)what;
    progress_done = done;
    progress_total = total;
}

static inline cavmae_context *new_context(int32_t threads) {
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = threads, .cancel = ask_cancelled, .progress = note_progress};
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    return context;
}

/* Pictures of 32 x 32, 3 of each clip. */
#define PACKED                                                                                                         \
    "audio_frames=32 mel_bins=16 patch_size=8 image_size=32 clip_frames=3 batch=4 shuffle=0 "                          \
    "mask_ratio_a=0.5 mask_ratio_v=0.5"

static inline cavmae_config *new_config(cavmae_context *context, const char *more) {
    cavmae_config *config = tiny_config(context, PACKED);
    if (*more) tiny_set(config, more);
    return config;
}

static inline cavmae_status pack(cavmae_context *context, const char *settings, const char *manifest,
                                 const char *labels, const char *path, cavmae_pack_report *report) {
    cavmae_config *config = new_config(context, settings);
    cavmae_status status = cavmae_pack(config, manifest, labels, path, report);
    cavmae_config_free(config);
    return status;
}

static inline cavmae_status open_loader(cavmae_context *context, const char *settings, const char *data,
                                        const char *labels, cavmae_loader **loader) {
    cavmae_config *config = new_config(context, settings);
    cavmae_status status = cavmae_loader_create(config, data, labels, loader);
    cavmae_config_free(config);
    return status;
}

static inline void make_directory(void) {
    if (!mkdtemp(directory)) exit(2);
}

static inline void remove_directory(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", directory);
    if (system(command) != 0) printf("could not remove %s\n", directory);
}

#endif
