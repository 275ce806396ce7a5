/* Vectors as wide as the instruction set that a file is compiled for, in the extension that gcc and clang share, and
 * the transposition that brings one row into each lane. */
#ifndef CAVMAE_FRONTEND_LANES_H
#define CAVMAE_FRONTEND_LANES_H

#include <stdint.h>
#include <string.h>

#include "frontend_simd.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float lanes_f32 __attribute__((vector_size(4 * LANES)));
typedef int32_t lanes_i32 __attribute__((vector_size(4 * LANES)));
typedef uint8_t lanes_u8 __attribute__((vector_size(LANES)));
typedef uint8_t tile_row __attribute__((vector_size(CAVMAE__TILE)));

/* LANES bytes as numbers. In the compilers' own words, __builtin_convertvector, only where gcc makes good code
 * of it. */
static inline lanes_i32 load_bytes(const uint8_t *bytes) {
    lanes_u8 x;
    memcpy(&x, bytes, sizeof x);
#if LANES == 16
    return (lanes_i32)_mm512_cvtepu8_epi32((__m128i)x);
#elif LANES == 8
    return (lanes_i32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
#else
    return __builtin_convertvector(x, lanes_i32);
#endif
}

#define SELECT(mask, yes, no) (((mask) & (yes)) | (~(mask) & (no)))

/* A perfect shuffle of two rows, a0 b0 a1 b1 ...: first and second half. */
#define ZIP16_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP16_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#if LANES == 16
#define ZIP_LOW(a, b) ZIP16_LOW(a, b)
#define ZIP_HIGH(a, b) ZIP16_HIGH(a, b)
#elif LANES == 8
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* log2(n) shuffles of rows i and i + n / 2 into rows 2 i and 2 i + 1 transpose n rows of n. */
static inline void transpose_lanes(lanes_f32 rows[LANES]) {
    for (int step = 1; step < LANES; step *= 2) {
        lanes_f32 next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = ZIP_LOW(rows[i], rows[i + LANES / 2]);
            next[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++) rows[i] = next[i];
    }
}

static inline void transpose_tile(tile_row rows[CAVMAE__TILE]) {
    for (int step = 1; step < CAVMAE__TILE; step *= 2) {
        tile_row next[CAVMAE__TILE];
        for (int i = 0; i < CAVMAE__TILE / 2; i++) {
            next[2 * i] = ZIP16_LOW(rows[i], rows[i + CAVMAE__TILE / 2]);
            next[2 * i + 1] = ZIP16_HIGH(rows[i], rows[i + CAVMAE__TILE / 2]);
        }
        for (int i = 0; i < CAVMAE__TILE; i++) rows[i] = next[i];
    }
}

#endif
