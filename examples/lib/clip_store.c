#define _GNU_SOURCE
#include "clip_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "program.h"

enum { PATH_SIZE = 4096 };

/* ---- Files and folders ---- */

void make_folder(const char *path) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST) die("cannot make %s: %s", path, strerror(errno));
}

void make_store(const char *out) {
    char path[PATH_SIZE];
    make_folder(out);
    snprintf(path, sizeof path, "%s/audio", out);
    make_folder(path);
    snprintf(path, sizeof path, "%s/frames", out);
    make_folder(path);
    for (int frame = 0; frame < STORE_FRAMES; frame++) {
        snprintf(path, sizeof path, "%s/frames/frame_%d", out, frame);
        make_folder(path);
    }
}

static void new_name(char name[PATH_SIZE], const char *path) {
    if (snprintf(name, PATH_SIZE, "%s.part", path) >= PATH_SIZE) die("%.100s...: the path is too long", path);
}

FILE *open_new(const char *path) {
    char name[PATH_SIZE];
    new_name(name, path);
    FILE *file = fopen(name, "wb");
    if (!file) die("cannot write %s: %s", name, strerror(errno));
    return file;
}

void close_new(FILE *file, const char *path) {
    char name[PATH_SIZE];
    new_name(name, path);
    int broken = ferror(file);
    if (fclose(file) != 0 || broken || rename(name, path) != 0) die("cannot write %s: %s", path, strerror(errno));
}

/* ---- A clip ---- */

static void sound_path(char path[PATH_SIZE], const char *out, const char *id) {
    snprintf(path, PATH_SIZE, "%s/audio/%s.wav", out, id);
}

static void frame_path(char path[PATH_SIZE], const char *out, const char *id, int frame) {
    snprintf(path, PATH_SIZE, "%s/frames/frame_%d/%s.jpg", out, frame, id);
}

static void put_little(unsigned char *at, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (unsigned char)(value >> 8 * i);
}

void store_sound(const char *out, const char *id, const int16_t *pcm, int64_t samples) {
    unsigned char header[44] = "RIFF....WAVEfmt ....................data", pair[2];
    uint32_t bytes = 2 * (uint32_t)samples;
    char path[PATH_SIZE];
    put_little(header + 4, 36 + bytes, 4);
    put_little(header + 16, 16, 4); /* of the format */
    put_little(header + 20, 1, 2);  /* integers */
    put_little(header + 22, 1, 2);  /* channel */
    put_little(header + 24, STORE_RATE, 4);
    put_little(header + 28, 2 * STORE_RATE, 4);
    put_little(header + 32, 2, 2);
    put_little(header + 34, 16, 2);
    put_little(header + 40, bytes, 4);
    sound_path(path, out, id);
    FILE *file = open_new(path);
    fwrite(header, 1, sizeof header, file);
    for (int64_t i = 0; i < samples; i++) {
        put_little(pair, (uint16_t)pcm[i], 2);
        fwrite(pair, 1, 2, file);
    }
    close_new(file, path);
}

void store_frame(const char *out, const char *id, int frame, const picture *p, int quality) {
    char path[PATH_SIZE];
    unsigned char *data;
    size_t size;
    if (!picture_encode_jpeg(p, quality, &data, &size)) die("no memory for a picture");
    frame_path(path, out, id, frame);
    FILE *file = open_new(path);
    fwrite(data, 1, size, file);
    close_new(file, path);
    free(data);
}

int64_t stored_since(const char *out, const char *id) {
    char path[PATH_SIZE];
    struct stat info;
    sound_path(path, out, id);
    if (stat(path, &info) != 0) return -1;
    int64_t oldest = info.st_mtime;
    for (int frame = 0; frame < STORE_FRAMES; frame++) {
        frame_path(path, out, id, frame);
        if (stat(path, &info) != 0) return -1;
        if (info.st_mtime < oldest) oldest = info.st_mtime;
    }
    return oldest;
}

/* ---- The manifest ---- */

static void put_json_string(FILE *file, const char *text) {
    fputc('"', file);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20) {
            fprintf(file, "\\u%04x", c);
            continue;
        }
        if (c == '"' || c == '\\') fputc('\\', file);
        fputc(c, file);
    }
    fputc('"', file);
}

FILE *open_manifest(const char *path) {
    FILE *file = open_new(path);
    fprintf(file, "{\"data\": [");
    return file;
}

void add_to_manifest(FILE *manifest, int first, const char *id, const char *labels) {
    fprintf(manifest, "%s\n{\"video_id\": \"%s\", \"wav\": \"audio/%s.wav\", \"video_path\": \"frames\", \"labels\": ",
            first ? "" : ",", id, id);
    put_json_string(manifest, labels);
    fputc('}', manifest);
}

void close_manifest(FILE *manifest, const char *path) {
    fprintf(manifest, "\n]}\n");
    close_new(manifest, path);
}
