#define _POSIX_C_SOURCE 200809L
#include "packed.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "json.h"
#include "mapped_file.h"
#include "packed_format.h"
#include "record.h"

/* So large that no sound is longer, and small enough to add up without a thought. */
enum { MOST_SAMPLES_BITS = 40 };

struct cavmae__packed {
    cavmae_context *context;
    cavmae__mapped_file *map;
    cavmae_config *config;           /* of its keys alone */
    const cavmae__pack_entry *index; /* [count] */
    cavmae_pack_report report;
    int64_t count, classes;
    int64_t pictures, first; /* of each clip; the frame that the first of them is */
    uint64_t picture_size;   /* bytes */
    int32_t sample_rate, sound;
    uint32_t class_crc;
    uintptr_t page_size;
};

int cavmae__packed_starts(const char *bytes, size_t size) {
    size_t magic = sizeof CAVMAE__PACK_MAGIC - 1;
    return size >= magic && memcmp(bytes, CAVMAE__PACK_MAGIC, magic) == 0;
}

static cavmae_status damaged(const cavmae__packed *packed, const char *what) {
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: %s", packed->map->path, what);
}

/* ---- The description ---- */

enum { CONFIG = 1, CLASSES = 2, CLASS_NAMES = 4, MEAN = 8, STD = 16, FRAMES = 32, BROKEN = 64, ALL = 127 };

static const char *const member_names[] = {"config",    "classes",      "class_names", "audio_mean",
                                           "audio_std", "audio_frames", "broken"};

static int member_of(const cavmae__json_string *key) {
    for (size_t i = 0; i < sizeof member_names / sizeof *member_names; i++)
        if (cavmae__json_is(key, member_names[i])) return 1 << i;
    return 0;
}

static cavmae_status take_config(cavmae__packed *packed, cavmae__json *json) {
    const char *start = json->at;
    CAVMAE__TRY(cavmae__json_skip(json));
    size_t length = (size_t)(json->at - start);
    char *text = cavmae__alloc(packed->context, length + 1);
    if (!text) return CAVMAE_E_NOMEM;
    memcpy(text, start, length);
    text[length] = '\0';
    cavmae_status status = cavmae__config_from_json(packed->context, text, &packed->config);
    cavmae__free(packed->context, text);
    return status == CAVMAE_OK ? CAVMAE_OK : cavmae__fail_prefix(status, "%s", packed->map->path);
}

static cavmae_status take_member(cavmae__packed *packed, cavmae__json *json, int member) {
    int64_t crc;
    switch (member) {
    case CONFIG: return take_config(packed, json);
    case CLASSES: return cavmae__json_i64(json, &packed->classes);
    case CLASS_NAMES:
        CAVMAE__TRY(cavmae__json_i64(json, &crc));
        packed->class_crc = (uint32_t)crc;
        return CAVMAE_OK;
    case MEAN: return cavmae__json_f64(json, &packed->report.audio_mean);
    case STD: return cavmae__json_f64(json, &packed->report.audio_std);
    case FRAMES: return cavmae__json_i64(json, &packed->report.audio_frames);
    case BROKEN: return cavmae__json_i64(json, &packed->report.broken);
    default: return cavmae__json_skip(json);
    }
}

static cavmae_status take_description(cavmae__packed *packed, cavmae__json *json) {
    int seen = 0, more;
    CAVMAE__TRY(cavmae__json_enter(json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string key;
        CAVMAE__TRY(cavmae__json_next(json, CAVMAE__JSON_OBJECT, &key, &more));
        if (!more) break;
        int member = member_of(&key);
        if (seen & member) return damaged(packed, "its description says something twice");
        seen |= member;
        CAVMAE__TRY(take_member(packed, json, member));
    }
    CAVMAE__TRY(cavmae__json_end(json));
    return seen == ALL ? CAVMAE_OK : damaged(packed, "its description lacks something");
}

/* What the keys make of a clip. */
static cavmae_status take_layout(cavmae__packed *packed) {
    const char *modalities;
    int64_t rate, size, frames, frame;
    CAVMAE__TRY(cavmae_config_get_str(packed->config, CAVMAE_P_MODALITIES, &modalities));
    CAVMAE__TRY(cavmae_config_get_i64(packed->config, CAVMAE_P_SAMPLE_RATE, &rate));
    CAVMAE__TRY(cavmae_config_get_i64(packed->config, CAVMAE_P_IMAGE_SIZE, &size));
    CAVMAE__TRY(cavmae_config_get_i64(packed->config, CAVMAE_P_CLIP_FRAMES, &frames));
    CAVMAE__TRY(cavmae_config_get_i64(packed->config, CAVMAE_P_FRAME, &frame));
    packed->sound = strcmp(modalities, "v") != 0;
    packed->sample_rate = (int32_t)rate;
    packed->first = frame < 0 ? 0 : frame;
    packed->pictures = strcmp(modalities, "a") == 0 ? 0 : frame < 0 ? frames : 1;
    packed->picture_size = 3 * (uint64_t)size * (uint64_t)size;
    if (packed->classes < 0 || packed->classes > CAVMAE__PACK_MOST_LABELS || packed->report.broken < 0 ||
        packed->report.audio_frames < 0)
        return damaged(packed, "a number in its description is out of range");
    return CAVMAE_OK;
}

/* ---- Opening ---- */

static cavmae_status check_start(const cavmae__packed *packed) {
    cavmae__pack_start start;
    if (packed->map->size < sizeof start + sizeof(cavmae__pack_end))
        return damaged(packed, "too short for a packed data set");
    memcpy(&start, packed->map->data, sizeof start);
    if (memcmp(start.magic, CAVMAE__PACK_MAGIC, sizeof start.magic) != 0)
        return damaged(packed, "not a packed data set");
    if (start.version != CAVMAE__PACK_VERSION)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: packed as version %u; this library reads version %d",
                            packed->map->path, (unsigned)start.version, CAVMAE__PACK_VERSION);
    return CAVMAE_OK;
}

static cavmae_status read_end(const cavmae__packed *packed, cavmae__pack_end *end) {
    uint64_t limit = packed->map->size - sizeof *end;
    memcpy(end, packed->map->data + limit, sizeof *end);
    if (memcmp(end->magic, CAVMAE__PACK_MAGIC, sizeof end->magic) != 0 ||
        cavmae__crc32(0, end, offsetof(cavmae__pack_end, crc)) != end->crc)
        return damaged(packed, "its end is not that of a packed data set: cut short, or damaged");
    if (end->description_place > limit || end->description_size > limit - end->description_place ||
        end->description_size > CAVMAE__PACK_MOST_TEXT)
        return damaged(packed, "its description lies outside of it");
    if (end->count == 0 || end->count > UINT32_MAX || end->index_place % CAVMAE__PACK_ALIGN != 0 ||
        end->index_place < sizeof(cavmae__pack_start) || end->index_place > limit ||
        end->count * sizeof(cavmae__pack_entry) > limit - end->index_place)
        return damaged(packed, "its index lies outside of it");
    return CAVMAE_OK;
}

static cavmae_status check_entry(const cavmae__packed *packed, int64_t number, uint64_t limit) {
    const cavmae__pack_entry *entry = &packed->index[number];
    int small = entry->samples >> MOST_SAMPLES_BITS == 0 && entry->label_count <= CAVMAE__PACK_MOST_LABELS &&
                entry->id_size <= CAVMAE__PACK_MOST_TEXT;
    int within = small && entry->place % CAVMAE__PACK_ALIGN == 0 && entry->place >= sizeof(cavmae__pack_start) &&
                 entry->place <= limit &&
                 cavmae__pack_picture_at(entry, packed->pictures, packed->picture_size, packed->pictures) <=
                     limit - entry->place;
    if (!within)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: clip %lld lies outside of it", packed->map->path, (long long)number);
    int heard = cavmae_fbank_frames((int64_t)entry->samples, packed->sample_rate) > 0;
    if (heard != packed->sound)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: clip %lld has %lld samples of sound", packed->map->path,
                            (long long)number, (long long)entry->samples);
    return CAVMAE_OK;
}

static cavmae_status read_parts(cavmae__packed *packed) {
    cavmae__pack_end end;
    cavmae__json json;
    const char *data = packed->map->data;
    CAVMAE__TRY(check_start(packed));
    CAVMAE__TRY(read_end(packed, &end));
    const char *description = data + end.description_place;
    if (cavmae__crc32(0, description, end.description_size) != end.description_crc)
        return damaged(packed, "its description is damaged (CRC-32)");
    cavmae__json_open(&json, description, end.description_size, packed->map->path);
    CAVMAE__TRY(take_description(packed, &json));
    CAVMAE__TRY(take_layout(packed));

    const void *index = data + end.index_place;
    packed->index = index;
    packed->count = (int64_t)end.count;
    if (cavmae__crc32(0, index, end.count * sizeof *packed->index) != end.index_crc)
        return damaged(packed, "its index is damaged (CRC-32)");
    for (int64_t i = 0; i < packed->count; i++) CAVMAE__TRY(check_entry(packed, i, end.index_place));
    packed->report.frames = (int32_t)packed->pictures;
    packed->report.clips = packed->count;
    packed->report.bytes = (int64_t)packed->map->size;
    return CAVMAE_OK;
}

cavmae_status cavmae__packed_open(cavmae_context *context, const char *path, cavmae__packed **out) {
    cavmae_status status;
    cavmae__packed *packed = cavmae__alloc_zero(context, sizeof *packed);
    if (!packed) return CAVMAE_E_NOMEM;
    packed->context = cavmae__context_ref(context);
    packed->page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    CAVMAE__TRY_OUT(cavmae__mapped_file_open(context, path, &packed->map));
    CAVMAE__TRY_OUT(read_parts(packed));
    *out = packed;
    return CAVMAE_OK;
out:
    cavmae__packed_free(packed);
    return status;
}

void cavmae__packed_free(cavmae__packed *packed) {
    if (!packed) return;
    cavmae_context *context = packed->context;
    cavmae_config_free(packed->config);
    cavmae__mapped_file_unref(packed->map);
    cavmae__free(context, packed);
    cavmae__context_unref(context);
}

cavmae_status cavmae_pack_info(cavmae_context *context, const char *path, cavmae_pack_report *out) {
    cavmae_pack_report record;
    cavmae__packed *packed;
    if (!context || !path) return cavmae__fail(CAVMAE_E_ARG, "cavmae_pack_info: context or path is NULL");
    CAVMAE__TRY(cavmae__record_in(&record, sizeof record, out));
    CAVMAE__TRY(cavmae__packed_open(context, path, &packed));
    record = packed->report;
    cavmae__packed_free(packed);
    return cavmae__record_out(out, &record, sizeof record);
}

/* ---- Whether it fits ---- */

static cavmae_status mismatch(const cavmae__packed *packed, const char *key, const char *has, const char *wanted) {
    return cavmae__fail(CAVMAE_E_MISMATCH, "%s: packed with %s %s, the configuration has %s", packed->map->path, key,
                        has, wanted);
}

static cavmae_status check_key(const cavmae__packed *packed, const cavmae_config *config, const cavmae__pack_key *key) {
    const char *has, *wanted;
    CAVMAE__TRY(cavmae_config_get_str(packed->config, key->key, &has));
    CAVMAE__TRY(cavmae_config_get_str(config, key->key, &wanted));
    return strcmp(has, wanted) == 0 ? CAVMAE_OK : mismatch(packed, key->name, has, wanted);
}

/* One of all frames, or the one that there is. */
static cavmae_status check_frame(const cavmae__packed *packed, const cavmae_config *config) {
    const char *has, *wanted;
    int64_t frame, frames;
    CAVMAE__TRY(cavmae_config_get_i64(config, CAVMAE_P_FRAME, &frame));
    CAVMAE__TRY(cavmae_config_get_i64(config, CAVMAE_P_CLIP_FRAMES, &frames));
    if (frame == -1) frame = frames / 2;
    if (packed->pictures == frames || (packed->pictures == 1 && frame == packed->first)) return CAVMAE_OK;
    CAVMAE__TRY(cavmae_config_get_str(packed->config, CAVMAE_P_FRAME, &has));
    CAVMAE__TRY(cavmae_config_get_str(config, CAVMAE_P_FRAME, &wanted));
    return mismatch(packed, "frame", has, wanted);
}

uint32_t cavmae__packed_class_crc(const cavmae__labels *labels) {
    uint32_t crc = 0;
    const char *name;
    for (int32_t i = 0; (name = cavmae__labels_display_name(labels, i)); i++)
        crc = cavmae__crc32(crc, name, strlen(name) + 1);
    return crc;
}

static cavmae_status check_labels(const cavmae__packed *packed, const cavmae__labels *labels) {
    if (!labels) return CAVMAE_OK;
    if (packed->classes == 0) return cavmae__fail(CAVMAE_E_MISMATCH, "%s: packed without labels", packed->map->path);
    if (packed->classes == cavmae__labels_count(labels) && packed->class_crc == cavmae__packed_class_crc(labels))
        return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_MISMATCH,
                        "%s: packed with labels of another file: %lld classes, here %d, or other names",
                        packed->map->path, (long long)packed->classes, (int)cavmae__labels_count(labels));
}

cavmae_status cavmae__packed_check(const cavmae__packed *packed, const cavmae_config *config,
                                   const cavmae__labels *labels) {
    const char *has, *wanted;
    CAVMAE__TRY(cavmae_config_get_str(packed->config, CAVMAE_P_MODALITIES, &has));
    CAVMAE__TRY(cavmae_config_get_str(config, CAVMAE_P_MODALITIES, &wanted));
    if (strcmp(has, "av") != 0 && strcmp(has, wanted) != 0) return mismatch(packed, "modalities", has, wanted);
    int sound = strcmp(wanted, "v") != 0, pictures = strcmp(wanted, "a") != 0;
    for (int i = 0; i < CAVMAE__PACK_KEYS; i++) {
        const cavmae__pack_key *key = &cavmae__pack_keys[i];
        if ((key->part == CAVMAE__PACK_SOUND && sound) || (key->part == CAVMAE__PACK_PICTURES && pictures))
            CAVMAE__TRY(check_key(packed, config, key));
    }
    if (pictures) CAVMAE__TRY(check_frame(packed, config));
    return check_labels(packed, labels);
}

/* ---- Clips ---- */

int64_t cavmae__packed_count(const cavmae__packed *packed) { return packed->count; }

int32_t cavmae__packed_label_count(const cavmae__packed *packed, int64_t index) {
    return (int32_t)packed->index[index].label_count;
}

size_t cavmae__packed_id_size(const cavmae__packed *packed, int64_t index) {
    return (size_t)packed->index[index].id_size + 1;
}

static cavmae_status damaged_clip(const cavmae__packed *packed, int64_t index, const char *what) {
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: clip %lld: %s", packed->map->path, (long long)index, what);
}

/* What follows the labels in a head, unaligned: the CRC-32s of the other parts [1 + pictures], and the id. The head's
 * own is in the index; NULL, and an error text, where it is another. */
static const char *behind_labels(const cavmae__packed *packed, int64_t index) {
    const cavmae__pack_entry *entry = &packed->index[index];
    const char *head = packed->map->data + entry->place;
    if (cavmae__crc32(0, head, cavmae__pack_head_size(entry, packed->pictures)) == entry->head_crc)
        return head + entry->label_count * sizeof(cavmae__pack_label);
    damaged_clip(packed, index, "its labels or id are damaged (CRC-32)");
    return NULL;
}

cavmae_status cavmae__packed_head(const cavmae__packed *packed, int64_t index, int32_t *labels, float *weights,
                                  char *id) {
    const cavmae__pack_entry *entry = &packed->index[index];
    const char *crcs = behind_labels(packed, index);
    if (!crcs) return CAVMAE_E_FORMAT;
    for (uint32_t i = 0; i < entry->label_count; i++) {
        cavmae__pack_label label;
        memcpy(&label, packed->map->data + entry->place + i * sizeof label, sizeof label);
        if (label.class >= packed->classes || !(label.weight >= 0 && label.weight <= 1))
            return damaged_clip(packed, index, "a label is out of range");
        labels[i] = (int32_t)label.class;
        weights[i] = label.weight;
    }
    memcpy(id, crcs + 4 * (1 + packed->pictures), entry->id_size);
    id[entry->id_size] = '\0';
    return CAVMAE_OK;
}

/* Part `number` of a clip, sound first, once it was seen to be what was written. The system is told at once how much
 * will be read, which a disk answers faster than page after page. */
static cavmae_status check_part(const cavmae__packed *packed, int64_t index, int64_t number, const char *part,
                                uint64_t size, const char *what) {
    uint32_t expected;
    const char *crcs = behind_labels(packed, index);
    if (!crcs) return CAVMAE_E_FORMAT;
    memcpy(&expected, crcs + 4 * number, sizeof expected);
    uintptr_t before = (uintptr_t)part % packed->page_size;
    posix_madvise((char *)(uintptr_t)part - before, size + before, POSIX_MADV_WILLNEED);
    return cavmae__crc32(0, part, size) == expected ? CAVMAE_OK : damaged_clip(packed, index, what);
}

cavmae_status cavmae__packed_waveform(const cavmae__packed *packed, int64_t index, float **out, int64_t *samples) {
    const cavmae__pack_entry *entry = &packed->index[index];
    const char *part = packed->map->data + entry->place + cavmae__pack_sound_at(entry, packed->pictures);
    const int16_t *sound = (const void *)part;
    CAVMAE__TRY(check_part(packed, index, 0, part, 2 * entry->samples, "its sound is damaged (CRC-32)"));
    CAVMAE__TRY(CAVMAE__NEW(packed->context, out, entry->samples));
    for (uint64_t i = 0; i < entry->samples; i++) (*out)[i] = (float)sound[i] / 32768.0f;
    *samples = (int64_t)entry->samples;
    return CAVMAE_OK;
}

cavmae_status cavmae__packed_pixels(const cavmae__packed *packed, int64_t index, int64_t frame, const uint8_t **out) {
    const cavmae__pack_entry *entry = &packed->index[index];
    int64_t number = frame - packed->first;
    if (number < 0 || number >= packed->pictures)
        return cavmae__fail(CAVMAE_E_ARG, "%s: frame %lld is not packed", packed->map->path, (long long)frame);
    const char *part = packed->map->data + entry->place +
                       cavmae__pack_picture_at(entry, packed->pictures, packed->picture_size, number);
    CAVMAE__TRY(check_part(packed, index, 1 + number, part, packed->picture_size, "a picture is damaged (CRC-32)"));
    *out = (const uint8_t *)part;
    return CAVMAE_OK;
}
