/* Packed data sets that were cut short, changed or forged. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "made_up_media.h"
#include "packed.h"
#include "packed_format.h"

/* ---- Hostile files ---- */

typedef struct contents {
    int32_t labels[8];
    float weights[8], *sound;
    char id[32];
    int64_t samples;
    uint8_t pixels[3 * 3 * 16 * 16];
} contents;

/* All of a pack through its reader. NULL, or an allocated array [2] of what its two clips hold. */
static contents *read_all(cavmae_context *context, const char *path, cavmae_status *status) {
    cavmae__packed *packed;
    contents *all = calloc(2, sizeof *all);
    *status = cavmae__packed_open(context, path, &packed);
    if (*status != CAVMAE_OK) {
        free(all);
        return NULL;
    }
    for (int64_t i = 0; *status == CAVMAE_OK && i < cavmae__packed_count(packed) && i < 2; i++) {
        contents *c = &all[i];
        if (cavmae__packed_label_count(packed, i) > 8 || cavmae__packed_id_size(packed, i) > sizeof c->id) exit(3);
        *status = cavmae__packed_head(packed, i, c->labels, c->weights, c->id);
        if (*status == CAVMAE_OK) *status = cavmae__packed_waveform(packed, i, &c->sound, &c->samples);
        for (int k = 0; *status == CAVMAE_OK && k < 3; k++) {
            const uint8_t *pixels;
            *status = cavmae__packed_pixels(packed, i, k, &pixels);
            if (*status == CAVMAE_OK) memcpy(c->pixels + k * 768, pixels, 768);
        }
    }
    cavmae__packed_free(packed);
    return all;
}

static void free_all(cavmae_context *context, contents *all) {
    for (int i = 0; all && i < 2; i++) cavmae__free(context, all[i].sound);
    free(all);
}

static int same_contents(const contents *a, const contents *b) {
    for (int i = 0; i < 2; i++) {
        contents x = a[i], y = b[i];
        if (x.samples != y.samples || memcmp(x.sound, y.sound, (size_t)x.samples * sizeof(float))) return 0;
        x.sound = y.sound = NULL;
        if (memcmp(&x, &y, sizeof x)) return 0;
    }
    return 1;
}

/* An error that says that the file is at fault, or the contents as they were. */
static int good_outcome(cavmae_context *context, const char *path, const contents *expected) {
    cavmae_status status;
    contents *got = read_all(context, path, &status);
    int good = status == CAVMAE_OK ? same_contents(got, expected)
                                   : status == CAVMAE_E_FORMAT || status == CAVMAE_E_UNSUPPORTED;
    free_all(context, got);
    return good;
}

static const char *write_small_pack(cavmae_context *context) {
    const char *manifest = write_manifest("two.json", 2, 0), *path = in_directory("small.cavmaepack");
    cavmae_config *config = new_config(context, "sample_rate=4000 image_size=16 frame=-2");
    CHECK_OK(cavmae_pack(config, manifest, in_directory("labels.csv"), path, NULL));
    cavmae_config_free(config);
    return path;
}

static void test_mutations(void) {
    cavmae_context *context = new_context(1);
    const char *path = write_small_pack(context);
    cavmae_status status;
    size_t size;
    unsigned char *data = read_bytes(path, &size);
    contents *expected = read_all(context, path, &status);
    CHECK_STATUS(status, CAVMAE_OK);
    CHECK(expected && expected[1].samples > 100 && !strcmp(expected[1].id, "id1") && size < 20000);

    int good = 0;
    const char *cut = in_directory("cut.cavmaepack");
    write_bytes("cut.cavmaepack", data, size);
    for (size_t length = size; length-- > 0;) {
        if (truncate(cut, (off_t)length) != 0) exit(2);
        contents *got = read_all(context, cut, &status);
        good += status == CAVMAE_E_FORMAT;
        free_all(context, got);
    }
    CHECK(good == (int)size);

    good = 0;
    FILE *file = fopen(write_bytes("mutated.cavmaepack", data, size), "r+b");
    setvbuf(file, NULL, _IONBF, 0);
    for (size_t i = 0; i < size; i++) {
        static const unsigned char change[2] = {0xFF, 1};
        for (int k = 0; k < 2; k++) {
            fseek(file, (long)i, SEEK_SET);
            fputc(data[i] ^ change[k], file);
            good += good_outcome(context, in_directory("mutated.cavmaepack"), expected);
        }
        fseek(file, (long)i, SEEK_SET);
        fputc(data[i], file);
    }
    CHECK(good == 2 * (int)size);
    CHECK(good_outcome(context, in_directory("mutated.cavmaepack"), expected));
    fclose(file);
    free_all(context, expected);
    free(data);
    cavmae_context_free(context);
}

/* A forger knows CRC-32 too: numbers that lie, under checksums that are right. */
typedef struct forgery {
    unsigned char *data;
    size_t size;
    cavmae__pack_end *end;
    cavmae__pack_entry *index;
    char *description;
} forgery;

static forgery forge(const unsigned char *data, size_t size) {
    forgery f = {.data = malloc(size), .size = size};
    memcpy(f.data, data, size);
    f.end = malloc(sizeof *f.end);
    memcpy(f.end, f.data + size - sizeof *f.end, sizeof *f.end);
    f.index = (void *)(f.data + f.end->index_place);
    f.description = (char *)f.data + f.end->description_place;
    return f;
}

/* Head's, index's, description's and end's checksums, then what the reader says. */
static void expect_refusal(cavmae_context *context, forgery *f, cavmae_status expected, const char *words) {
    cavmae_status status;
    f->end->index_crc = cavmae__crc32(0, f->index, 2 * sizeof *f->index);
    f->end->description_crc =
        cavmae__crc32(0, f->description, f->end->description_size < 2000 ? f->end->description_size : 0);
    f->end->crc = cavmae__crc32(0, f->end, offsetof(cavmae__pack_end, crc));
    memcpy(f->data + f->size - sizeof *f->end, f->end, sizeof *f->end);
    contents *got = read_all(context, write_bytes("forged.cavmaepack", f->data, f->size), &status);
    CHECK_STATUS(status, expected);
    if (!CHECK(status == CAVMAE_OK || strstr(cavmae_last_error(), words))) printf("%s\n", cavmae_last_error());
    free_all(context, got);
    free(f->data);
    free(f->end);
}

static void replace(forgery *f, const char *old, const char *new) { /* of the same length */
    char *at = memmem(f->description, f->end->description_size, old, strlen(old));
    if (!CHECK(at && strlen(old) == strlen(new))) return;
    memcpy(at, new, strlen(new));
}

static void set_label(forgery *f, uint32_t class, float weight) {
    cavmae__pack_entry *entry = &f->index[1];
    const cavmae__pack_label label = {class, weight};
    memcpy(f->data + entry->place, &label, sizeof label);
    entry->head_crc = cavmae__crc32(0, f->data + entry->place, cavmae__pack_head_size(entry, 3));
}

static void test_forgeries(void) {
    cavmae_context *context = new_context(1);
    size_t size;
    unsigned char *data = read_bytes(write_small_pack(context), &size);
    forgery f;
#define FORGE(change, status, words)                                                                                   \
    f = forge(data, size);                                                                                             \
    change;                                                                                                            \
    expect_refusal(context, &f, status, words)

    FORGE((void)0, CAVMAE_OK, "");
    FORGE(f.data[8] = 2, CAVMAE_E_UNSUPPORTED, "packed as version 2");
    FORGE(f.end->count = 0, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->count = UINT64_MAX / 16, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->count = UINT32_MAX, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->index_place += 1, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->index_place = 0, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->index_place = UINT64_MAX - 63, CAVMAE_E_FORMAT, "index");
    FORGE(f.end->description_place = UINT64_MAX, CAVMAE_E_FORMAT, "description");
    FORGE(f.end->description_size = UINT64_MAX, CAVMAE_E_FORMAT, "description");
    FORGE(f.end->description_size = 0, CAVMAE_E_FORMAT, "an object should be here");
    FORGE(f.index[1].place += 1, CAVMAE_E_FORMAT, "clip 1 lies outside");
    FORGE(f.index[1].place = 0, CAVMAE_E_FORMAT, "clip 1 lies outside");
    FORGE(f.index[1].place = UINT64_MAX - 63, CAVMAE_E_FORMAT, "clip 1 lies outside");
    FORGE(f.index[1].place = f.end->index_place, CAVMAE_E_FORMAT, "clip 1 lies outside");
    FORGE(f.index[0].samples = UINT64_MAX, CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(f.index[0].samples = UINT64_MAX / 2 + 1, CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(f.index[0].samples = 1 << 20, CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(f.index[0].samples = 5, CAVMAE_E_FORMAT, "5 samples");
    FORGE(f.index[0].label_count = UINT32_MAX, CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(f.index[0].label_count = 7, CAVMAE_E_FORMAT, "labels or id are damaged");
    FORGE(f.index[0].id_size = UINT32_MAX, CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(f.index[0].id_size = 1, CAVMAE_E_FORMAT, "labels or id are damaged");
    FORGE(set_label(&f, 3, 1), CAVMAE_E_FORMAT, "a label is out of range");
    FORGE(set_label(&f, UINT32_MAX, 1), CAVMAE_E_FORMAT, "a label is out of range");
    FORGE(set_label(&f, 1, NAN), CAVMAE_E_FORMAT, "a label is out of range");
    FORGE(set_label(&f, 1, 1.5f), CAVMAE_E_FORMAT, "a label is out of range");
    FORGE(replace(&f, "\"image_size\": 16", "\"image_size\": 99"), CAVMAE_E_FORMAT, "clip 0 lies outside");
    FORGE(replace(&f, "\"image_size\": 16", "\"image_size\": -1"), CAVMAE_E_FORMAT, "image_size");
    FORGE(replace(&f, "\"clip_frames\": 3", "\"clip_frames\": 9"), CAVMAE_E_FORMAT, "lies outside");
    FORGE(replace(&f, "\"modalities\": \"av\"", "\"modalities\": \"v\" "), CAVMAE_E_FORMAT, "samples of sound");
    FORGE(replace(&f, "\"clip_frames\"", "\"clip_framez\""), CAVMAE_E_UNSUPPORTED, "clip_framez");
    FORGE(replace(&f, "\"classes\"", "\"klasses\""), CAVMAE_E_FORMAT, "lacks something");
    FORGE(replace(&f, "\"classes\": 3", "\"broken\" : 3"), CAVMAE_E_FORMAT, "twice");
    FORGE(replace(&f, "\"classes\": 3", "\"classes\":-3"), CAVMAE_E_FORMAT, "out of range");
    FORGE(replace(&f, "\"audio_std\"", "\"audio_std,"), CAVMAE_E_FORMAT, "forged");
#undef FORGE
    free(data);
    cavmae_context_free(context);
}

int main(void) {
    make_directory();
    write_file("labels.csv", labels_csv);
    test_mutations();
    test_forgeries();
    remove_directory();
    return check_summary("packed_hostile");
}
