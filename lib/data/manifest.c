#define _GNU_SOURCE /* madvise, O_CLOEXEC */
#include "manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_error.h"
#include "folder.h"
#include "json.h"

/* Pages behind the parser are given back this often, so that opening a manifest takes no more memory than its
 * entries. */
enum { PARSED_WINDOW = 16 << 20 };

/* What cavmae__item_frame adds to a folder and an id: "/frame_K/" and ".jpg". */
enum { FRAME_PATH_EXTRA = 48 };

struct cavmae__manifest {
    cavmae_context *context;
    const cavmae__labels *labels;
    cavmae__folder *folder; /* NULL, as the next, unless it is one; there are then no places */
    cavmae__packed *packed;
    char *path;
    size_t folder_length; /* of path, up to and with the last slash */
    int file;             /* entries are read from it, not mapped: a file cut short is then an error, not a signal */
    int sound;
    int64_t count;
    uint64_t *places; /* [count + 1] where each entry starts in the file; then where the last one ends */
};

/* ---- One entry ---- */

enum { WAV, VIDEO_ID, VIDEO_PATH, VIDEO, LABELS, MEMBERS };

static const char *const member_names[MEMBERS] = {"wav", "video_id", "video_path", "video", "labels"};

typedef struct members {
    cavmae__json_string value[MEMBERS]; /* text NULL: not there */
    int weighted;                       /* LABELS is a whole object, with its brackets */
} members;

static int member_of(const cavmae__json_string *key) {
    int member = 0;
    while (member < MEMBERS && !cavmae__json_is(key, member_names[member])) member++;
    return member;
}

/* {"name": weight, ...}: only where it lies; what is in it waits for put_weighted_labels. */
static cavmae_status take_weighted_labels(cavmae__json *json, members *entry) {
    while (*json->at != '{') json->at++; /* space */
    const char *first = json->at;
    CAVMAE__TRY(cavmae__json_skip(json));
    entry->value[LABELS] = (cavmae__json_string){first, (size_t)(json->at - first), 0};
    entry->weighted = 1;
    return CAVMAE_OK;
}

static cavmae_status take_entry(cavmae__json *json, int sound, members *entry) {
    memset(entry, 0, sizeof *entry);
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string key;
        int more;
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        int member = member_of(&key);
        if (member == MEMBERS)
            CAVMAE__TRY(cavmae__json_skip(json));
        else if (entry->value[member].text)
            return cavmae__fail(CAVMAE_E_FORMAT, "'%s' is given twice", member_names[member]);
        else if (member == LABELS && cavmae__json_peek(json) == CAVMAE__JSON_OBJECT)
            CAVMAE__TRY(take_weighted_labels(json, entry));
        else
            CAVMAE__TRY(cavmae__json_string_value(json, &entry->value[member]));
    }
    const cavmae__json_string *value = entry->value;
    if (!value[VIDEO_ID].text) return cavmae__fail(CAVMAE_E_FORMAT, "'video_id' is missing");
    if (value[WAV].text || value[VIDEO].text) return CAVMAE_OK;
    if (sound) return cavmae__fail(CAVMAE_E_FORMAT, "'wav' is missing, and there is no 'video' either");
    if (!value[VIDEO_PATH].text)
        return cavmae__fail(CAVMAE_E_FORMAT, "'video_path' is missing, and there is no 'video' or 'wav' either");
    return CAVMAE_OK;
}

static cavmae_status reserve_bytes(const cavmae__manifest *manifest, cavmae__item *item, size_t need) {
    if (need <= item->capacity) return CAVMAE_OK;
    char *memory = cavmae__alloc(manifest->context, need * 2);
    if (!memory) return CAVMAE_E_NOMEM;
    cavmae__free(manifest->context, item->memory);
    item->memory = memory;
    item->capacity = need * 2;
    return CAVMAE_OK;
}

/* Room for an entry whose text has `length` bytes: all its strings together are no longer than that, each has a zero
 * at its end, three may get the folder before them, and a frame's path is made of two. The labels are fewer than
 * bytes, and come first, where they are aligned; those with weights, which follow them, take five bytes or more. */
static cavmae_status reserve(const cavmae__manifest *manifest, cavmae__item *item, size_t length, char **strings) {
    size_t labels = (length + 1) * sizeof(int32_t);
    CAVMAE__TRY(
        reserve_bytes(manifest, item, labels + 2 * length + MEMBERS + 4 * manifest->folder_length + FRAME_PATH_EXTRA));
    *strings = item->memory + labels;
    return CAVMAE_OK;
}

static cavmae_status put_string(cavmae__json *json, const cavmae__json_string *string, char **at, const char **out) {
    size_t length;
    CAVMAE__TRY(cavmae__json_unescape(json, string, *at, &length));
    if (out) *out = *at;
    *at += length + 1;
    return CAVMAE_OK;
}

/* With the manifest's folder before it, unless the path is absolute. NULL for a member that is not there. */
static cavmae_status put_path(const cavmae__manifest *manifest, cavmae__json *json, const cavmae__json_string *string,
                              char **at, const char **out) {
    char *start = *at;
    size_t length;
    *out = NULL;
    if (!string->text) return CAVMAE_OK;
    CAVMAE__TRY(cavmae__json_unescape(json, string, start, &length));
    if (*start != '/') {
        memcpy(start, manifest->path, manifest->folder_length);
        *at += manifest->folder_length;
    }
    CAVMAE__TRY(put_string(json, string, at, NULL));
    *out = start;
    return CAVMAE_OK;
}

/* `at` has room for any of the names. */
static cavmae_status put_weighted_labels(const cavmae__manifest *manifest, const cavmae__json_string *object, char *at,
                                         int32_t *labels, cavmae__item *item) {
    float *weights = (float *)(void *)(labels + object->length / 5 + 1);
    cavmae__json json;
    cavmae__json_open(&json, object->text, object->length, "labels");
    CAVMAE__TRY(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string name;
        size_t length;
        double weight;
        int more;
        CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &name, &more));
        if (!more) break;
        CAVMAE__TRY(cavmae__json_unescape(&json, &name, at, &length));
        CAVMAE__TRY(cavmae__json_f64(&json, &weight));
        int32_t class = cavmae__labels_find(manifest->labels, at, length);
        if (class < 0) return cavmae__fail(CAVMAE_E_FORMAT, "label '%s' is not in the labels file", at);
        if (!(weight >= 0 && weight <= 1))
            return cavmae__fail(CAVMAE_E_FORMAT, "label '%s': weight %g is not in [0, 1]", at, weight);
        labels[item->label_count] = class;
        weights[item->label_count++] = (float)weight;
    }
    item->label_weights = weights;
    return CAVMAE_OK;
}

static cavmae_status put_labels(const cavmae__manifest *manifest, cavmae__json *json, const members *entry, char *at,
                                cavmae__item *item) {
    int32_t *labels = (int32_t *)(void *)item->memory;
    size_t length;
    item->labels = labels;
    item->label_weights = NULL;
    item->label_count = 0;
    if (!manifest->labels || !entry->value[LABELS].text) return CAVMAE_OK;
    if (entry->weighted) return put_weighted_labels(manifest, &entry->value[LABELS], at, labels, item);
    CAVMAE__TRY(cavmae__json_unescape(json, &entry->value[LABELS], at, &length));
    return cavmae__labels_parse(manifest->labels, at, labels, &item->label_count);
}

static cavmae_status put_item(const cavmae__manifest *manifest, cavmae__json *json, const members *entry, char *at,
                              cavmae__item *item) {
    const cavmae__json_string *value = entry->value;
    CAVMAE__TRY(put_labels(manifest, json, entry, at, item));
    CAVMAE__TRY(put_string(json, &value[VIDEO_ID], &at, &item->id));
    CAVMAE__TRY(put_path(manifest, json, &value[VIDEO_PATH], &at, &item->frames));
    CAVMAE__TRY(put_path(manifest, json, &value[VIDEO], &at, &item->video));
    CAVMAE__TRY(put_path(manifest, json, &value[WAV], &at, &item->audio));
    if (!item->video) item->video = item->audio;
    if (!item->audio) item->audio = item->video;
    item->frame_path = at;
    return CAVMAE_OK;
}

/* Prefixes an error with the manifest, the entry's number and, once it is known, its id. */
static cavmae_status entry_error(const cavmae__manifest *manifest, cavmae_status status, int64_t index,
                                 const members *entry) {
    const cavmae__json_string *id = &entry->value[VIDEO_ID];
    if (!id->text) return cavmae__fail_prefix(status, "%s: entry %lld", manifest->path, (long long)index);
    int length = id->length < 100 ? (int)id->length : 100;
    return cavmae__fail_prefix(status, "%s: entry %lld (%.*s)", manifest->path, (long long)index, length, id->text);
}

static cavmae_status read_at(const cavmae__manifest *manifest, char *text, size_t length, uint64_t place) {
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(manifest->file, text + done, length - done, (off_t)(place + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return cavmae__file_error(manifest->path, "read");
        if (got == 0) return cavmae__fail(CAVMAE_E_IO, "%s: cut short after it was opened", manifest->path);
        done += (size_t)got;
    }
    return CAVMAE_OK;
}

/* A media file: its path in the folder is the id. */
static cavmae_status folder_item(const cavmae__manifest *manifest, int64_t index, cavmae__item *item) {
    const char *name = cavmae__folder_name(manifest->folder, index);
    size_t size = strlen(name) + 1;
    CAVMAE__TRY(reserve_bytes(manifest, item, manifest->folder_length + size));
    memcpy(item->memory, manifest->path, manifest->folder_length);
    memcpy(item->memory + manifest->folder_length, name, size);
    item->audio = item->video = item->memory;
    item->id = item->memory + manifest->folder_length;
    return CAVMAE_OK;
}

static cavmae_status packed_item(const cavmae__manifest *manifest, int64_t index, cavmae__item *item) {
    size_t count = (size_t)cavmae__packed_label_count(manifest->packed, index);
    size_t labels = count * sizeof *item->labels, weights = count * sizeof *item->label_weights;
    CAVMAE__TRY(reserve_bytes(manifest, item, labels + weights + cavmae__packed_id_size(manifest->packed, index)));
    int32_t *classes = (int32_t *)(void *)item->memory;
    float *shares = (float *)(void *)(item->memory + labels);
    char *id = item->memory + labels + weights;
    CAVMAE__TRY(cavmae__packed_head(manifest->packed, index, classes, shares, id));
    item->id = id;
    item->labels = classes;
    item->label_weights = shares;
    item->label_count = manifest->labels ? (int32_t)count : 0;
    item->audio = item->video = manifest->path;
    item->packed = manifest->packed;
    item->packed_index = index;
    return CAVMAE_OK;
}

cavmae_status cavmae__manifest_item(const cavmae__manifest *manifest, int64_t index, cavmae__item *item) {
    if (manifest->folder) return folder_item(manifest, index, item);
    if (manifest->packed) return packed_item(manifest, index, item);
    uint64_t place = manifest->places[index];
    size_t length = (size_t)(manifest->places[index + 1] - place);
    cavmae_status status;
    cavmae__json json;
    members entry = {0};
    char *strings;
    char *text = cavmae__alloc(manifest->context, length);
    if (!text) return CAVMAE_E_NOMEM;
    cavmae__json_open(&json, text, length, "JSON");
    CAVMAE__TRY_OUT(read_at(manifest, text, length, place));
    CAVMAE__TRY_OUT(reserve(manifest, item, length, &strings));
    status = take_entry(&json, manifest->sound, &entry);
    if (status == CAVMAE_OK) status = put_item(manifest, &json, &entry, strings, item);
    if (status != CAVMAE_OK) entry_error(manifest, status, index, &entry);
out:
    cavmae__free(manifest->context, text);
    return status;
}

void cavmae__item_free(const cavmae__manifest *manifest, cavmae__item *item) {
    cavmae__free(manifest->context, item->memory);
    memset(item, 0, sizeof *item);
}

const char *cavmae__item_frame(const cavmae__item *item, int64_t frame) {
    size_t room = (size_t)(item->memory + item->capacity - item->frame_path);
    snprintf(item->frame_path, room, "%s/frame_%lld/%s.jpg", item->frames, (long long)frame, item->id);
    return item->frame_path;
}

/* ---- The whole file ---- */

static cavmae_status add_place(cavmae__manifest *manifest, int64_t *capacity, uint64_t place) {
    if (manifest->count == *capacity) {
        int64_t more = *capacity + *capacity / 2 + 1024;
        uint64_t *places = cavmae__realloc(manifest->context, manifest->places, (size_t)*capacity * sizeof *places,
                                           (size_t)more * sizeof *places);
        if (!places) return CAVMAE_E_NOMEM;
        manifest->places = places;
        *capacity = more;
    }
    manifest->places[manifest->count++] = place;
    return CAVMAE_OK;
}

/* Checks an entry as reading it later will. */
static cavmae_status check_entry(const cavmae__manifest *manifest, cavmae__json *json, cavmae__item *scratch,
                                 members *entry) {
    char *strings;
    CAVMAE__TRY(take_entry(json, manifest->sound, entry));
    CAVMAE__TRY(reserve(manifest, scratch, entry->value[LABELS].length, &strings));
    return put_labels(manifest, json, entry, strings, scratch);
}

static cavmae_status take_entries(cavmae__manifest *manifest, cavmae__json *json, cavmae__item *scratch) {
    int64_t capacity = 0;
    size_t released = 0;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_ARRAY));
    for (;;) {
        int more;
        members entry = {0};
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_ARRAY, NULL, &more));
        size_t parsed = (size_t)(json->at - json->text);
        CAVMAE__TRY(add_place(manifest, &capacity, parsed));
        if (!more) break;
        cavmae_status status = check_entry(manifest, json, scratch, &entry);
        if (status != CAVMAE_OK) return entry_error(manifest, status, manifest->count - 1, &entry);
        for (; parsed - released >= PARSED_WINDOW; released += PARSED_WINDOW)
            madvise((char *)(uintptr_t)json->text + released, PARSED_WINDOW, MADV_DONTNEED);
    }
    manifest->count--; /* the last place is the end */
    return CAVMAE_OK;
}

static cavmae_status take_data(cavmae__manifest *manifest, cavmae__json *json) {
    cavmae__item scratch = {0};
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string key;
        int more;
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        if (!cavmae__json_is(&key, "data")) {
            CAVMAE__TRY(cavmae__json_skip(json));
            continue;
        }
        if (manifest->places) return cavmae__fail(CAVMAE_E_FORMAT, "%s: 'data' is given twice", manifest->path);
        cavmae_status status = take_entries(manifest, json, &scratch);
        cavmae__item_free(manifest, &scratch);
        if (status != CAVMAE_OK) return status;
    }
    CAVMAE__TRY(cavmae__json_end(json));
    if (manifest->count == 0) return cavmae__fail(CAVMAE_E_FORMAT, "%s: no entries under 'data'", manifest->path);
    return CAVMAE_OK;
}

static cavmae_status open_folder(cavmae__manifest *manifest) {
    size_t length = strlen(manifest->path);
    if (manifest->labels)
        return cavmae__fail(CAVMAE_E_ARG, "%s: a folder of media files has no labels for a labels file to name",
                            manifest->path);
    CAVMAE__TRY(cavmae__folder_open(manifest->context, manifest->path, &manifest->folder));
    manifest->count = cavmae__folder_count(manifest->folder);
    if (manifest->path[length - 1] != '/') { /* there is room for it */
        memcpy(manifest->path + length, "/", 2);
        length++;
    }
    manifest->folder_length = length;
    return CAVMAE_OK;
}

static cavmae_status open_packed(cavmae__manifest *manifest) {
    CAVMAE__TRY(cavmae__packed_open(manifest->context, manifest->path, &manifest->packed));
    manifest->count = cavmae__packed_count(manifest->packed);
    return CAVMAE_OK;
}

static int is_packed(int file) {
    char start[16];
    ssize_t got = pread(file, start, sizeof start, 0);
    return got > 0 && cavmae__packed_starts(start, (size_t)got);
}

static cavmae_status open_kind(cavmae__manifest *manifest) {
    struct stat info;
    if (fstat(manifest->file, &info) != 0) return cavmae__file_error(manifest->path, "ask for its size");
    if (S_ISDIR(info.st_mode)) return open_folder(manifest);
    if (S_ISREG(info.st_mode) && is_packed(manifest->file)) return open_packed(manifest);
    if (!S_ISREG(info.st_mode)) return cavmae__fail(CAVMAE_E_IO, "%s: not a regular file", manifest->path);
    if (info.st_size == 0) return cavmae__fail(CAVMAE_E_FORMAT, "%s: an empty file", manifest->path);
    size_t size = (size_t)info.st_size;
    void *text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, manifest->file, 0);
    if (text == MAP_FAILED) return cavmae__file_error(manifest->path, "map");
    cavmae__json json;
    cavmae__json_open(&json, text, size, manifest->path);
    cavmae_status status = take_data(manifest, &json);
    munmap(text, size);
    return status;
}

cavmae_status cavmae__manifest_open(cavmae_context *context, const char *path, const cavmae__labels *labels, int sound,
                                    cavmae__manifest **out) {
    cavmae_status status;
    cavmae__manifest *manifest = cavmae__alloc_zero(context, sizeof *manifest);
    if (!manifest) return CAVMAE_E_NOMEM;
    manifest->context = cavmae__context_ref(context);
    manifest->labels = labels;
    manifest->sound = sound;
    manifest->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe that nobody writes to must not hold us */
    if (manifest->file < 0) CAVMAE__TRY_OUT(cavmae__file_error(path, "open"));
    size_t length = strlen(path);
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &manifest->path, length + 2)); /* one more for a folder's slash */
    memcpy(manifest->path, path, length + 1);
    const char *slash = strrchr(path, '/');
    manifest->folder_length = slash ? (size_t)(slash + 1 - path) : 0;
    CAVMAE__TRY_OUT(open_kind(manifest));
    *out = manifest;
    return CAVMAE_OK;
out:
    cavmae__manifest_free(manifest);
    return status;
}

void cavmae__manifest_free(cavmae__manifest *manifest) {
    if (!manifest) return;
    cavmae_context *context = manifest->context;
    if (manifest->file >= 0) close(manifest->file);
    cavmae__folder_free(manifest->folder);
    cavmae__packed_free(manifest->packed);
    cavmae__free(context, manifest->places);
    cavmae__free(context, manifest->path);
    cavmae__free(context, manifest);
    cavmae__context_unref(context);
}

int64_t cavmae__manifest_count(const cavmae__manifest *manifest) { return manifest->count; }

cavmae_status cavmae__manifest_check(const cavmae__manifest *manifest, const cavmae_config *config) {
    return manifest->packed ? cavmae__packed_check(manifest->packed, config, manifest->labels) : CAVMAE_OK;
}
