/* cavmae-extract: a folder of media files to the authors' layout: OUT/audio/ID.wav (16 kHz, the first channel, 16
 * bits), OUT/frames/frame_K/ID.jpg (frame K at K tenths of the length; the shorter side 224, bilinear, then the middle;
 * JPEG of quality 75) and OUT/manifest.json.
 *
 * Files that fail are left out of the manifest and listed in OUT/failed.txt, with the reason. A second run does only
 * what is not there yet, or is older than its media file. An ID is the file's name without its ending, and with '_' for
 * what is not a letter, a digit or one of "-_."; where several files would get the same one, a number made of the whole
 * path follows, so that an ID does not change with what else lies in the folder but for that. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clip_store.h"
#include "path_labels.h"
#include "program.h"

enum { SIZE = 224, QUALITY = 75, LONGEST_NAME = 180, MOST_SAMPLES = INT32_MAX - 18 };

typedef struct clip {
    char *path, *name, *id; /* name: path in the folder */
    char *reason;           /* why it failed; NULL: it did not */
} clip;

typedef struct job {
    const char *media, *out, *labels;
    clip *clips;
    int64_t count;
    double started;
    pthread_mutex_t lock; /* guards the rest */
    int64_t next, done, failed, kept;
    double shown;
} job;

/* ---- What there is to do ---- */

/* What of the configuration matters here: what the reference's own extraction does. */
static cavmae_config *extraction_config(cavmae_context *context) {
    cavmae_config *config;
    check(cavmae_config_create(context, NULL, &config));
    check(cavmae_config_set_i64(config, CAVMAE_P_IMAGE_SIZE, SIZE));
    check(cavmae_config_set_str(config, CAVMAE_P_IMAGE_FILTER, "bilinear"));
    check(cavmae_config_set_i64(config, CAVMAE_P_SAMPLE_RATE, STORE_RATE));
    check(cavmae_config_set_i64(config, CAVMAE_P_BATCH, 1));
    return config;
}

static char *copy_text(const char *text) {
    char *copy = strdup(text);
    if (!copy) die("no memory");
    return copy;
}

/* The loader knows which files of a folder are media. */
static void list_clips(job *j) {
    cavmae_context *context = open_context(NULL, 1, NULL);
    cavmae_config *config = extraction_config(context);
    cavmae_loader *loader;
    check(cavmae_loader_create(config, j->media, NULL, &loader));
    j->count = cavmae_loader_count(loader);
    j->clips = allocate((size_t)j->count, sizeof *j->clips);
    for (int64_t i = 0; i < j->count; i++) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        check(cavmae_loader_item_at(loader, i, &item));
        j->clips[i].path = copy_text(item.audio_path);
        j->clips[i].name = copy_text(item.id);
    }
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- IDs ---- */

static char *plain_id(const char *name) {
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name, *dot = strrchr(base, '.');
    size_t length = (size_t)(dot - base);
    char *id = allocate(LONGEST_NAME + 32, 1); /* with room for a number */
    if (length > LONGEST_NAME) length = LONGEST_NAME;
    for (size_t i = 0; i < length; i++) {
        char c = base[i];
        int plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || strchr("-_.", c);
        id[i] = plain ? c : '_';
    }
    return id;
}

static int compare_ids(const void *a, const void *b) {
    return strcmp((*(clip *const *)a)->id, (*(clip *const *)b)->id);
}

static void add_number(clip *c) { /* FNV-1a of the path */
    uint64_t hash = 14695981039346656037u;
    for (const char *at = c->name; *at; at++) hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    sprintf(c->id + strlen(c->id), "-%016" PRIx64, hash);
}

static void choose_ids(job *j) {
    clip **sorted = allocate((size_t)j->count, sizeof *sorted);
    for (int64_t i = 0; i < j->count; i++) {
        sorted[i] = &j->clips[i];
        sorted[i]->id = plain_id(sorted[i]->name);
    }
    qsort(sorted, (size_t)j->count, sizeof *sorted, compare_ids);
    for (int64_t i = 0, end; i < j->count; i = end) {
        for (end = i + 1; end < j->count && !strcmp(sorted[i]->id, sorted[end]->id);) end++;
        for (int64_t k = i; end > i + 1 && k < end; k++) add_number(sorted[k]);
    }
    qsort(sorted, (size_t)j->count, sizeof *sorted, compare_ids);
    for (int64_t i = 1; i < j->count; i++)
        if (!strcmp(sorted[i - 1]->id, sorted[i]->id))
            die("%s and %s would both be called %s", sorted[i - 1]->name, sorted[i]->name, sorted[i]->id);
    free(sorted);
}

/* ---- One clip ---- */

static cavmae_status extract_sound(const job *j, cavmae_context *context, const cavmae_config *config, const clip *c) {
    cavmae_tensor *pcm, *mono;
    int32_t rate;
    cavmae_status status = cavmae_media_audio(context, c->path, &pcm, &rate);
    if (status != CAVMAE_OK) return status;
    const int64_t *shape = cavmae_tensor_shape(pcm);
    status = cavmae_resample(config, cavmae_tensor_data(pcm), shape[0], (int32_t)shape[1], rate, &mono);
    cavmae_tensor_free(pcm);
    if (status != CAVMAE_OK) return status;
    const float *from = cavmae_tensor_data(mono);
    int64_t samples = cavmae_tensor_elements(mono);
    if (samples > MOST_SAMPLES) samples = MOST_SAMPLES; /* 37 hours */
    int16_t *sound = allocate((size_t)samples, sizeof *sound);
    for (int64_t i = 0; i < samples; i++) sound[i] = (int16_t)lrint(fmin(fmax(from[i] * 32768.0, -32768), 32767));
    cavmae_tensor_free(mono);
    store_sound(j->out, c->id, sound, samples);
    free(sound);
    return CAVMAE_OK;
}

static cavmae_status extract_frames(const job *j, cavmae_context *context, const cavmae_config *config, const clip *c) {
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *frames;
    double seconds[STORE_FRAMES];
    picture p;
    cavmae_status status = cavmae_media_probe(context, c->path, &info);
    if (status != CAVMAE_OK) return status;
    for (int i = 0; i < STORE_FRAMES; i++) seconds[i] = info.seconds * i / STORE_FRAMES;
    status = cavmae_media_frames(context, c->path, seconds, STORE_FRAMES, &frames);
    if (status != CAVMAE_OK) return status;
    const int64_t *shape = cavmae_tensor_shape(frames);
    const uint8_t *rgb = cavmae_tensor_data(frames);
    if (!picture_create(&p, SIZE, SIZE)) die("no memory for a picture");
    for (int i = 0; status == CAVMAE_OK && i < STORE_FRAMES; i++, rgb += shape[1] * shape[2] * 3) {
        status = cavmae_resize_image(config, rgb, (int32_t)shape[2], (int32_t)shape[1], 0, p.rgb);
        if (status == CAVMAE_OK) store_frame(j->out, c->id, i, &p, QUALITY);
    }
    picture_free(&p);
    cavmae_tensor_free(frames);
    return status;
}

/* ---- All of them ---- */

static int is_there(const job *j, const clip *c) {
    struct stat info;
    int64_t since = stored_since(j->out, c->id);
    return since >= 0 && stat(c->path, &info) == 0 && info.st_mtime <= since;
}

static void show(job *j) {
    double time = now();
    if (j->done < j->count && time - j->shown < (isatty(STDERR_FILENO) ? 0.2 : 10)) return;
    j->shown = time;
    fprintf(stderr, "%s%" PRId64 "/%" PRId64 " files  %" PRId64 " failed  %.1f files/s%s",
            isatty(STDERR_FILENO) ? "\r" : "", j->done, j->count, j->failed,
            (double)(j->done - j->kept) / fmax(time - j->started, 1e-3),
            !isatty(STDERR_FILENO) || j->done == j->count ? "\n" : "\033[K");
}

/* The library's sentence starts with the file's path, which the list has before it. */
static char *reason_of(const clip *c) {
    const char *text = cavmae_last_error();
    size_t length = strlen(c->path);
    if (!strncmp(text, c->path, length) && !strncmp(text + length, ": ", 2)) text += length + 2;
    return copy_text(text);
}

/* Each thread has a context of its own: objects of one may not be used by several at once. */
static void *extract_clips(void *argument) {
    job *j = argument;
    cavmae_context *context = open_context(NULL, 1, NULL);
    cavmae_config *config = extraction_config(context);
    pthread_mutex_lock(&j->lock);
    while (j->next < j->count) {
        clip *c = &j->clips[j->next++];
        cavmae_status status = CAVMAE_OK;
        pthread_mutex_unlock(&j->lock);
        int there = is_there(j, c);
        if (!there) status = extract_frames(j, context, config, c);
        if (!there && status == CAVMAE_OK) status = extract_sound(j, context, config, c);
        if (status == CAVMAE_E_NOMEM || status == CAVMAE_E_BACKEND) check(status); /* no fault of the file */
        if (status != CAVMAE_OK) c->reason = reason_of(c);
        pthread_mutex_lock(&j->lock);
        j->done++;
        j->kept += there;
        j->failed += status != CAVMAE_OK;
        show(j);
    }
    pthread_mutex_unlock(&j->lock);
    cavmae_config_free(config);
    cavmae_context_free(context);
    return NULL;
}

static void run_threads(job *j, int32_t threads) {
    pthread_t *started = allocate((size_t)threads, sizeof *started);
    int32_t running = 0;
    pthread_mutex_init(&j->lock, NULL);
    j->started = now();
    while (running + 1 < threads && pthread_create(&started[running], NULL, extract_clips, j) == 0) running++;
    extract_clips(j);
    while (running > 0) pthread_join(started[--running], NULL);
    pthread_mutex_destroy(&j->lock);
    free(started);
}

/* ---- The lists ---- */

static void write_manifest(const job *j, const path_labels *labels, const char *path) {
    int64_t listed = 0;
    FILE *manifest = open_manifest(path);
    int first = 1;
    for (int64_t i = 0; i < j->count; i++) {
        const char *names = labels_of_path(labels, j->clips[i].name);
        listed += names != NULL;
        if (j->clips[i].reason) continue;
        add_to_manifest(manifest, first, j->clips[i].id, names ? names : "");
        first = 0;
    }
    close_manifest(manifest, path);
    if (j->labels && listed < j->count)
        fprintf(stderr, "%s has no labels for %" PRId64 " files\n", j->labels, j->count - listed);
    if (listed < labels->count)
        fprintf(stderr, "%" PRId64 " files of %s are not there\n", labels->count - listed, j->labels);
}

static void write_failed(const job *j, const char *path) {
    if (j->failed == 0) {
        if (unlink(path) != 0 && errno != ENOENT) die("cannot remove %s: %s", path, strerror(errno));
        return;
    }
    FILE *file = open_new(path);
    for (int64_t i = 0; i < j->count; i++)
        if (j->clips[i].reason) fprintf(file, "%s\t%s\n", j->clips[i].name, j->clips[i].reason);
    close_new(file, path);
}

int main(int argc, char **argv) {
    job j = {0};
    int32_t threads = 0;
    char path[4096];
    const option options[] = {
        {.name = "--media", .value = "DIR", .help = "folder of media files, and folders in it", .text = &j.media},
        {.name = "--out", .value = "DIR", .help = "where to write the data set", .text = &j.out},
        {.name = "--labels",
         .value = "L.csv",
         .help = "path,labels of the files, paths as in the folder",
         .text = &j.labels},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {0}};
    read_options(argc, argv, "sound and frames of media files, as a data set to train on", options);
    if (!j.media || !j.out) die("--media and --out are needed");
    path_labels labels = {0}; /* read first: a fault in it should not wait for hours */
    if (j.labels) labels = read_path_labels(j.labels);
    list_clips(&j);
    choose_ids(&j);
    make_store(j.out);
    if (threads == 0) threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (threads > j.count) threads = (int32_t)j.count;
    run_threads(&j, threads);

    snprintf(path, sizeof path, "%s/failed.txt", j.out);
    write_failed(&j, path);
    if (j.failed) fprintf(stderr, "%" PRId64 " files failed; %s says why\n", j.failed, path);
    if (j.failed == j.count) die("nothing could be extracted");
    snprintf(path, sizeof path, "%s/manifest.json", j.out);
    write_manifest(&j, &labels, path);
    free_path_labels(&labels);
    printf("%s: %" PRId64 " clips, %" PRId64 " of them there already\n", path, j.count - j.failed, j.kept);
    for (int64_t i = 0; i < j.count; i++) {
        free(j.clips[i].path);
        free(j.clips[i].name);
        free(j.clips[i].id);
        free(j.clips[i].reason);
    }
    free(j.clips);
    return 0;
}
