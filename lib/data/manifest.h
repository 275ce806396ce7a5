/* A manifest in the authors' JSON format, or what can stand in its place: a folder of media files, or a packed data
 * set. Millions of entries are the rule, so an entry is only its place in the
 * file: it is checked once when the manifest is opened, and read again from there when it is needed. */
#ifndef CAVMAE_DATA_MANIFEST_H
#define CAVMAE_DATA_MANIFEST_H

#include "packed.h"

typedef struct cavmae__manifest cavmae__manifest;

/* One entry, in memory that the next entry read into it takes over. Start with zeros. */
typedef struct cavmae__item {
    const char *id;     /* video_id */
    const char *audio;  /* file with the sound; NULL: the entry has none, which only opening without `sound` allows */
    const char *frames; /* folder of frame_K/id.jpg; NULL: the picture is a frame of `video` */
    const char *video;  /* media file; NULL: the entry has none */
    const int32_t *labels;
    const float *label_weights; /* NULL: all 1 */
    int32_t label_count;
    const cavmae__packed *packed; /* NULL: in files of its own. Otherwise audio and video are the pack's path */
    int64_t packed_index;
    /* Behind those: */
    char *memory;
    size_t capacity;
    char *frame_path; /* room for cavmae__item_frame */
} cavmae__item;

/* labels NULL: the entries' are ignored; otherwise they live as long as the manifest. sound: entries without are an
 * error. A folder's entries are its media files, in order of path, with their path in it as id, and have no labels. */
cavmae_status cavmae__manifest_open(cavmae_context *context, const char *path, const cavmae__labels *labels, int sound,
                                    cavmae__manifest **out);
void cavmae__manifest_free(cavmae__manifest *manifest);
int64_t cavmae__manifest_count(const cavmae__manifest *manifest);

/* MISMATCH where it is a packed data set that was made for other inputs than this configuration's. */
cavmae_status cavmae__manifest_check(const cavmae__manifest *manifest, const cavmae_config *config);

/* Any thread. Errors name the manifest, entry and id. */
cavmae_status cavmae__manifest_item(const cavmae__manifest *manifest, int64_t index, cavmae__item *item);
void cavmae__item_free(const cavmae__manifest *manifest, cavmae__item *item);

/* Path of frame_K of an item with `frames`; valid until the next call or the next entry. */
const char *cavmae__item_frame(const cavmae__item *item, int64_t frame);

#endif
