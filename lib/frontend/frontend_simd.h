/* The front-end's hot loops. The files simd_*.c of this directory are compiled once for each instruction set, with
 * CAVMAE_ISA = baseline, avx2 or avx512, which becomes the end of every name here; CAVMAE__PICK chooses at
 * run time. Which set runs changes roundings of the fbank, never a pixel. */
#ifndef CAVMAE_FRONTEND_FRONTEND_SIMD_H
#define CAVMAE_FRONTEND_FRONTEND_SIMD_H

#include <stddef.h>
#include <stdint.h>

#include "isa.h"

#define CAVMAE__JOIN_(name, isa) name##_##isa
#define CAVMAE__JOIN(name, isa) CAVMAE__JOIN_(name, isa)
#define CAVMAE__SIMD(name) CAVMAE__JOIN(name, CAVMAE_ISA)

enum {
    CAVMAE__MAX_LANES = 16, /* floats in the widest vector: frames that are transformed at once */
    CAVMAE__TILE = 16       /* image rows and columns that are transposed at once */
};

/* Triangular mel filter: `count` weights, the first of them for spectrum bin `first`. */
typedef struct cavmae__mel_filter {
    int32_t first, count;
    const float *weights;
} cavmae__mel_filter;

/* All that the fbank of one (rate, mel_bins) needs; built in fbank.c. The transform has `half` complex points: even
 * samples of the padded window are the real, odd ones the imaginary parts. */
typedef struct cavmae__fbank_plan {
    int32_t window, shift, half, mel_bins;
    const float *hann;             /* [window] */
    const float *cosine, *sine;    /* [max(1, 3 half / 2)] of 2 pi k / (2 half) */
    const int32_t *place;          /* [half] where the in-place transform leaves bin k */
    const cavmae__mel_filter *mel; /* [mel_bins] */
} cavmae__fbank_plan;

/* out [frames, mel_bins] = (log-mel - offset) / scale of pcm - pcm_mean. work: 2 * half * MAX_LANES floats, aligned
 * to 64. */
typedef void cavmae__fbank_rows(const cavmae__fbank_plan *plan, const float *pcm, float pcm_mean, int64_t frames,
                                float offset, float scale, float *out, float *work);

/* One axis of a resize, for the output pixels that are wanted: pixel i is the sum of length[i] input pixels from
 * first[i] on, times weights + i * taps. Pillow's fixed point: weights have WEIGHT_BITS fraction bits. */
enum { CAVMAE__WEIGHT_BITS = 32 - 8 - 2 };
typedef struct cavmae__resize_axis {
    int32_t count, taps;
    int32_t *first, *length; /* [count] */
    int32_t *weights;        /* [count, taps] */
} cavmae__resize_axis;

/* Rows [rows <= TILE, columns, channels] uint8, stride bytes apart; axis->first counts from their first column.
 * out: row r, channel c, column x at r * pitch + c * plane + x; pitch is axis->count rounded up to TILE.
 * strip: columns * channels rounded up to TILE, times TILE bytes, aligned to 64. */
typedef void cavmae__resize_columns(const cavmae__resize_axis *axis, const uint8_t *pixels, size_t stride, int32_t rows,
                                    int32_t columns, int32_t channels, uint8_t *out, size_t plane, size_t pitch,
                                    uint8_t *strip);

/* One plane of rows, `pitch` bytes apart; axis->first counts from its first row. Pixel p of the result is level[p].
 * out [axis->count, width]; pitch is width rounded up to TILE. */
typedef void cavmae__resize_rows(const cavmae__resize_axis *axis, const uint8_t *plane, size_t pitch, int32_t width,
                                 const float level[256], float *out);

/* The variant of a function above that this machine runs. */
#ifdef CAVMAE_HAVE_X86
#define CAVMAE__PICK(name)                                                                                             \
    (cavmae__isa() == CAVMAE__ISA_AVX512 ? name##_avx512                                                               \
     : cavmae__isa() == CAVMAE__ISA_AVX2 ? name##_avx2                                                                 \
                                         : name##_baseline)
#else
#define CAVMAE__PICK(name) name##_baseline
#endif

cavmae__fbank_rows cavmae__fbank_rows_baseline, cavmae__fbank_rows_avx2, cavmae__fbank_rows_avx512;
cavmae__resize_columns cavmae__resize_columns_baseline, cavmae__resize_columns_avx2, cavmae__resize_columns_avx512;
cavmae__resize_rows cavmae__resize_rows_baseline, cavmae__resize_rows_avx2, cavmae__resize_rows_avx512;

#endif
