/* The packed form of a data set, as it lies in its file (docs/FORMATS.md): a start, the clips one after another, the
 * index, the description, and an end that says where those two are. So it is written in one stream, front to back,
 * and every byte that is read is under a CRC-32. All numbers are little-endian. */
#ifndef CAVMAE_DATA_PACKED_FORMAT_H
#define CAVMAE_DATA_PACKED_FORMAT_H

#include <stdint.h>

#include "cavmae.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are used as they lie in the file");

#define CAVMAE__PACK_MAGIC "CAVMAEPK" /* 8 bytes */

enum {
    CAVMAE__PACK_VERSION = 1,
    CAVMAE__PACK_ALIGN = 64, /* of clips and of each part of one */
    CAVMAE__PACK_MOST_LABELS = 1 << 20,
    CAVMAE__PACK_MOST_TEXT = 1 << 24 /* bytes of an id, and of the description */
};

typedef struct cavmae__pack_start {
    char magic[8];
    uint32_t version, zero[13];
} cavmae__pack_start;

/* A clip is its head, its sound (int16 [samples]), and its pictures (uint8 [size, size, 3]), each from a multiple of
 * CAVMAE__PACK_ALIGN on. The head is: label_count times a class and a weight; the CRC-32 of the sound and of each
 * picture; the id. */
typedef struct cavmae__pack_entry {
    uint64_t place; /* of the clip in the file */
    uint64_t samples;
    uint32_t label_count, id_size; /* the id's bytes, without a zero */
    uint32_t head_crc, zero;
} cavmae__pack_entry;

typedef struct cavmae__pack_label {
    uint32_t class;
    float weight;
} cavmae__pack_label;

typedef struct cavmae__pack_end {
    uint64_t index_place, count;                  /* cavmae__pack_entry [count] */
    uint64_t description_place, description_size; /* JSON */
    uint32_t index_crc, description_crc, zero[3];
    uint32_t crc; /* of all before it */
    char magic[8];
} cavmae__pack_end;

_Static_assert(sizeof(cavmae__pack_start) == 64 && sizeof(cavmae__pack_end) == 64, "no gaps");
_Static_assert(sizeof(cavmae__pack_entry) == 32 && sizeof(cavmae__pack_label) == 8, "no gaps");

static inline uint64_t cavmae__pack_round(uint64_t size) {
    return (size + CAVMAE__PACK_ALIGN - 1) / CAVMAE__PACK_ALIGN * CAVMAE__PACK_ALIGN;
}

/* Parts of a clip, from its place on. Sizes are checked to be so small that none of these sums overflows. */
static inline uint64_t cavmae__pack_head_size(const cavmae__pack_entry *entry, int64_t pictures) {
    return entry->label_count * sizeof(cavmae__pack_label) + 4 * (1 + (uint64_t)pictures) + entry->id_size;
}
static inline uint64_t cavmae__pack_sound_at(const cavmae__pack_entry *entry, int64_t pictures) {
    return cavmae__pack_round(cavmae__pack_head_size(entry, pictures));
}
static inline uint64_t cavmae__pack_picture_at(const cavmae__pack_entry *entry, int64_t pictures, uint64_t picture_size,
                                               int64_t number) {
    return cavmae__pack_sound_at(entry, pictures) + cavmae__pack_round(2 * entry->samples) +
           (uint64_t)number * cavmae__pack_round(picture_size);
}

/* The keys of a configuration that say what a pack's numbers are; where a loader's model takes sound (pictures), those
 * of `part` sound (pictures) have to be its own. The rest is its own affair, or checked otherwise. */
enum { CAVMAE__PACK_SOUND, CAVMAE__PACK_PICTURES, CAVMAE__PACK_REST, CAVMAE__PACK_KEYS = 9 };

typedef struct cavmae__pack_key {
    int32_t key;
    int16_t part, word; /* word: its value is one, and stands in quotes */
    const char *name;
} cavmae__pack_key;

static const cavmae__pack_key cavmae__pack_keys[CAVMAE__PACK_KEYS] = {
    {CAVMAE_P_SAMPLE_RATE, CAVMAE__PACK_SOUND, 0, "sample_rate"},
    {CAVMAE_P_AUDIO_CHANNEL, CAVMAE__PACK_SOUND, 1, "audio_channel"},
    {CAVMAE_P_RESAMPLER, CAVMAE__PACK_SOUND, 1, "resampler"},
    {CAVMAE_P_IMAGE_SIZE, CAVMAE__PACK_PICTURES, 0, "image_size"},
    {CAVMAE_P_IMAGE_FILTER, CAVMAE__PACK_PICTURES, 1, "image_filter"},
    {CAVMAE_P_CLIP_FRAMES, CAVMAE__PACK_PICTURES, 0, "clip_frames"},
    {CAVMAE_P_MODALITIES, CAVMAE__PACK_REST, 1, "modalities"},
    {CAVMAE_P_FRAME, CAVMAE__PACK_REST, 0, "frame"},
    {CAVMAE_P_MEL_BINS, CAVMAE__PACK_REST, 0, "mel_bins"}};

#endif
