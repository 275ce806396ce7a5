/* A packed data set, read: decoded sound and pictures in one mapped file. */
#ifndef CAVMAE_DATA_PACKED_H
#define CAVMAE_DATA_PACKED_H

#include "config.h"
#include "labels.h"

typedef struct cavmae__packed cavmae__packed;

/* 1: a file that starts with these bytes is one, or was meant to be. */
int cavmae__packed_starts(const char *bytes, size_t size);

/* FORMAT: damaged. UNSUPPORTED: of another version. */
cavmae_status cavmae__packed_open(cavmae_context *context, const char *path, cavmae__packed **out);
void cavmae__packed_free(cavmae__packed *packed); /* NULL is fine */

/* Whether a loader of this configuration can read from it; MISMATCH names the key. labels NULL: none wanted. */
cavmae_status cavmae__packed_check(const cavmae__packed *packed, const cavmae_config *config,
                                   const cavmae__labels *labels);

int64_t cavmae__packed_count(const cavmae__packed *packed);

/* The rest is for any thread. FORMAT, with file and clip, where a CRC-32 is not what it was.
 * The head of a clip, its label_count labels and the id with a zero at its end, into the caller's memory, which is
 * cavmae__packed_label_count and cavmae__packed_id_size long. */
int32_t cavmae__packed_label_count(const cavmae__packed *packed, int64_t index);
size_t cavmae__packed_id_size(const cavmae__packed *packed, int64_t index);
cavmae_status cavmae__packed_head(const cavmae__packed *packed, int64_t index, int32_t *labels, float *weights,
                                  char *id);

/* *out [*samples]: one channel at sample_rate, the context's memory, the caller's to free. */
cavmae_status cavmae__packed_waveform(const cavmae__packed *packed, int64_t index, float **out, int64_t *samples);

/* Frame `frame` of the clip: *out [image_size, image_size, 3] in the mapped file. */
cavmae_status cavmae__packed_pixels(const cavmae__packed *packed, int64_t index, int64_t frame, const uint8_t **out);

/* A hash of all classes' names, which a pack and a loader's labels must have in common. */
uint32_t cavmae__packed_class_crc(const cavmae__labels *labels);

#endif
