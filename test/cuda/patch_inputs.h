/* Clips that patches are cut from, in the memory of both backends: pictures [channels, height, width], or sound [frames,
 * mel bins], with a length of its own for each clip. */
#ifndef CAVMAE_TEST_CUDA_PATCH_INPUTS_H
#define CAVMAE_TEST_CUDA_PATCH_INPUTS_H

#include "compare.h"

typedef struct input_shape {
    int32_t clips, rows, patch, channels; /* rows of patches */
    int sound;
    int32_t gap; /* elements between clips, and before the first: where they are no fours, alignment differs */
} input_shape;

/* And tokens of it: all of clip 0's, then of clip 1's, ... */
typedef struct input {
    input_shape shape;
    int64_t tokens;
    int32_t *clip_list, *token_list;
    twin data, offset, columns, clip, token;
} input;

static inline int64_t patch_width(const input_shape *s) { return (int64_t)s->patch * s->patch * s->channels; }

static inline input make_input_clips(both *b, const input_shape *s) {
    input in = {.shape = *s};
    int64_t *offset = malloc((size_t)s->clips * sizeof *offset), end = s->gap;
    int32_t *columns = malloc((size_t)s->clips * sizeof *columns), most = s->clips + 2;
    in.clip_list = malloc((size_t)(s->clips * most * s->rows) * sizeof(int32_t));
    in.token_list = malloc((size_t)(s->clips * most * s->rows) * sizeof(int32_t));
    for (int32_t i = 0; i < s->clips; i++) {
        columns[i] = s->sound ? 1 + (i + 2) % s->clips : 3; /* a picture's strides are the same for all */
        offset[i] = end;
        end += s->gap + columns[i] * s->rows * patch_width(s);
        for (int32_t t = 0; t < columns[i] * s->rows; t++) {
            in.clip_list[in.tokens] = i;
            in.token_list[in.tokens++] = t;
        }
    }
    in.data = twin_input(b, end, CAVMAE_FLOAT32, -1, 3);
    in.offset = twin_longs(b, s->clips, offset);
    in.columns = twin_ints(b, s->clips, columns);
    in.clip = twin_ints(b, in.tokens, in.clip_list);
    in.token = twin_ints(b, in.tokens, in.token_list);
    free(offset);
    free(columns);
    return in;
}

static inline void free_input_clips(both *b, input *in) {
    twin *twins[] = {&in->data, &in->offset, &in->columns, &in->clip, &in->token};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++) twin_free(b, twins[i]);
    free(in->clip_list);
    free(in->token_list);
}

static inline cavmae__patch_source source_of(const input *in, int device) {
    const input_shape *s = &in->shape;
    const int64_t bins = (int64_t)s->rows * s->patch, width = 3 * s->patch;
    return (cavmae__patch_source){.data = twin_at(&in->data, device),
                                  .offset = twin_at(&in->offset, device),
                                  .columns = twin_at(&in->columns, device),
                                  .channel_stride = s->sound ? 0 : bins * width,
                                  .row_stride = s->sound ? 1 : width,
                                  .column_stride = s->sound ? bins : 1,
                                  .channels = s->channels,
                                  .patch = s->patch};
}

/* What is tried: the usual patches, those of other sizes, and clips that start anywhere. */
static const input_shape input_shapes[] = {
    {3, 8, 16, 1, 1, 0},  {2, 3, 16, 3, 0, 0},  {2, 2, 16, 1, 1, 3}, {2, 2, 16, 3, 0, 1}, {3, 2, 4, 1, 1, 0},
    {3, 2, 4, 3, 0, 4},   {2, 2, 5, 1, 1, 0},   {2, 3, 6, 2, 0, 0},  {1, 1, 8, 16, 0, 0}, {2, 2, 1, 3, 0, 0},
    {2, 2, 20, 1, 1, 0},  {2, 2, 32, 1, 1, 4},  {2, 2, 36, 1, 1, 0}, {1, 2, 32, 3, 0, 0}, {1, 1, 64, 3, 0, 0},
    {1, 1, 112, 1, 1, 0}, {2, 4, 16, 1, 1, 16}, {2, 2, 2, 1, 1, 0}};
enum { INPUT_SHAPES = sizeof input_shapes / sizeof *input_shapes };

static inline void print_input(const input_shape *s) {
    printf("  %s of %d clips, %d rows of patches of %d, %d channels, gap %d\n", s->sound ? "sound" : "pictures",
           (int)s->clips, (int)s->rows, (int)s->patch, (int)s->channels, (int)s->gap);
}

#endif
