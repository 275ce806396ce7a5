/* A data set in the authors' layout, as it is written: OUT/audio/ID.wav, OUT/frames/frame_0..9/ID.jpg, and a manifest.
 * Every file is written under another name and then renamed, so that one that is there is whole. What cannot be written
 * ends the program. */
#ifndef EXAMPLE_CLIP_STORE_H
#define EXAMPLE_CLIP_STORE_H

#include <stdint.h>
#include <stdio.h>

#include "picture.h"

enum { STORE_FRAMES = 10, STORE_RATE = 16000 };

void make_folder(const char *path); /* also if it is there already */

/* OUT and the folders in it. */
void make_store(const char *out);

/* pcm [samples] at STORE_RATE, one channel; at most 2^31 - 19, which is what a WAV file can say. */
void store_sound(const char *out, const char *id, const int16_t *pcm, int64_t samples);
void store_frame(const char *out, const char *id, int frame, const picture *p, int quality);

/* When the oldest of a clip's files was written, in seconds since 1970; -1 where one of them is not there. */
int64_t stored_since(const char *out, const char *id);

/* Between these two the file has another name. */
FILE *open_new(const char *path);
void close_new(FILE *file, const char *path);

FILE *open_manifest(const char *path);
void add_to_manifest(FILE *manifest, int first, const char *id, const char *labels);
void close_manifest(FILE *manifest, const char *path);

#endif
