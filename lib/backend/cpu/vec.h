/* Vectors of float32 for the files simd_*.c, which are compiled once for each instruction set: the widest that the
 * compiler was told of. Written with vector extensions, so that every processor has them; intrinsics only where the
 * compilers find no single instruction. a * b + c becomes one fused operation where the compiler likes to;
 * vec_multiply_add, wherever the set has it. */
#ifndef CAVMAE_BACKEND_CPU_VEC_H
#define CAVMAE_BACKEND_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cavmae.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define VEC_WIDTH 16
#elif defined(__AVX2__)
#define VEC_WIDTH 8
#else
#define VEC_WIDTH 4
#endif

#define VEC_INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * VEC_WIDTH)));
typedef int32_t vec_i __attribute__((vector_size(4 * VEC_WIDTH)));
typedef uint32_t vec_u __attribute__((vector_size(4 * VEC_WIDTH)));
typedef uint16_t vec_h __attribute__((vector_size(2 * VEC_WIDTH)));
typedef float vec_memory __attribute__((vector_size(4 * VEC_WIDTH), aligned(4), may_alias));
typedef uint16_t vec_h_memory __attribute__((vector_size(2 * VEC_WIDTH), aligned(2), may_alias));

VEC_INLINE vec vec_set(float x) { return x - (vec){0}; }
VEC_INLINE vec vec_load(const float *p) { return *(const vec_memory *)p; }
VEC_INLINE void vec_store(float *p, vec x) { *(vec_memory *)p = x; }

/* The first n < VEC_WIDTH elements; the others read as 0. */
VEC_INLINE vec vec_load_part(const float *p, int n) {
    vec x = {0};
    memcpy(&x, p, (size_t)n * sizeof *p);
    return x;
}
VEC_INLINE void vec_store_part(float *p, vec x, int n) { memcpy(p, &x, (size_t)n * sizeof *p); }

/* mask is what a comparison gives: all bits of an element or none. */
VEC_INLINE vec vec_select(vec_i mask, vec a, vec b) { return (vec)(((vec_i)a & mask) | ((vec_i)b & ~mask)); }

VEC_INLINE vec vec_max(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select(a > b, a, b);
#endif
}

/* a * b + c: the same bits wherever it stands, whatever the compiler makes of the code around it. */
VEC_INLINE vec vec_multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA) && defined(__ARM_NEON)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

VEC_INLINE vec vec_sqrt(vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (vec)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < VEC_WIDTH; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* f(0, h), f(1, h), ... for every element: constant indices of a shuffle. */
#define VEC_FOUR(f, i, h) f(i, h), f((i) + 1, h), f((i) + 2, h), f((i) + 3, h)
#if VEC_WIDTH == 16
#define VEC_ALL(f, h) VEC_FOUR(f, 0, h), VEC_FOUR(f, 4, h), VEC_FOUR(f, 8, h), VEC_FOUR(f, 12, h)
#elif VEC_WIDTH == 8
#define VEC_ALL(f, h) VEC_FOUR(f, 0, h), VEC_FOUR(f, 4, h)
#else
#define VEC_ALL(f, h) VEC_FOUR(f, 0, h)
#endif
#define VEC_OTHER(i, h) ((i) ^ (h))
#define VEC_EXCHANGED(x, h) __builtin_shufflevector((x), (x), VEC_ALL(VEC_OTHER, h))

/* Always the same tree: halves are added until all elements hold the sum. */
VEC_INLINE float vec_sum(vec x) {
#if VEC_WIDTH == 16
    x += VEC_EXCHANGED(x, 8);
#endif
#if VEC_WIDTH >= 8
    x += VEC_EXCHANGED(x, 4);
#endif
    x += VEC_EXCHANGED(x, 2);
    x += VEC_EXCHANGED(x, 1);
    return x[0];
}

VEC_INLINE float vec_largest(vec x) {
#if VEC_WIDTH == 16
    x = vec_max(x, VEC_EXCHANGED(x, 8));
#endif
#if VEC_WIDTH >= 8
    x = vec_max(x, VEC_EXCHANGED(x, 4));
#endif
    x = vec_max(x, VEC_EXCHANGED(x, 2));
    x = vec_max(x, VEC_EXCHANGED(x, 1));
    return x[0];
}

/* ---- bfloat16: the upper half of a float32, rounded to nearest even ---- */

VEC_INLINE vec vec_from_bf16(vec_h x) { return (vec)(__builtin_convertvector(x, vec_u) << 16); }

VEC_INLINE vec_h vec_to_bf16(vec x) {
    vec_u bits = (vec_u)x;
    vec_u rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    vec_u nan = (vec_u)(x != x); /* rounding could carry a NaN's bits over into the sign */
    return __builtin_convertvector((rounded & ~nan) | (0x7FC0 & nan), vec_h);
}

/* Element i of an array of either type; `bf16` is a constant where these are used. */
VEC_INLINE vec vec_load_as(const void *p, int64_t i, int bf16) {
    if (!bf16) return vec_load((const float *)p + i);
    return vec_from_bf16((vec_h) * (const vec_h_memory *)((const uint16_t *)p + i));
}

VEC_INLINE vec vec_load_part_as(const void *p, int64_t i, int n, int bf16) {
    vec_h half = {0};
    if (!bf16) return vec_load_part((const float *)p + i, n);
    memcpy(&half, (const uint16_t *)p + i, (size_t)n * sizeof(uint16_t));
    return vec_from_bf16(half);
}

VEC_INLINE void vec_store_as(void *p, int64_t i, vec x, int bf16) {
    if (bf16)
        *(vec_h_memory *)((uint16_t *)p + i) = vec_to_bf16(x);
    else
        vec_store((float *)p + i, x);
}

VEC_INLINE void vec_store_part_as(void *p, int64_t i, vec x, int n, int bf16) {
    if (!bf16) {
        vec_store_part((float *)p + i, x, n);
        return;
    }
    vec_h half = vec_to_bf16(x);
    memcpy((uint16_t *)p + i, &half, (size_t)n * sizeof(uint16_t));
}

/* ---- Functions ---- */

/* e^x for x up to 88; error under 1 unit in the last place (Cephes' polynomial). 0 below -64: next to the 1 that such
 * numbers are added to they are nothing, and their products would be denormal, which is slow. */
VEC_INLINE vec vec_exp(vec x) {
    const vec magic = vec_set(0x1.8p23f); /* adding it rounds to an integer, which then lies in the lowest bits */
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vec y = p * (r * r) + (r + 1.0f);
    y = (vec)((vec_u)y + ((vec_u)shifted << 23));
    return (vec)((vec_i)y & ~(x < -64.0f));
}

/* The normal distribution beyond |x|: tail = (1 - erf(|x| / sqrt 2)) / 2, bell = e^(-x^2 / 2). tail / bell is a
 * polynomial in 1 / (1 + 0.26 |x|), fitted for the least relative error, 6e-9. */
VEC_INLINE void vec_normal(vec x, vec *tail, vec *bell) {
    vec t = (vec)((vec_u)x & 0x7FFFFFFF);
    vec w = 1.0f / (1.0f + 0.26f * t);
    vec p = w * 0.03392519130437522f - 0.17051344558590303f;
    p = p * w + 0.2909697662197271f;
    p = p * w - 0.2007944685733213f;
    p = p * w + 0.200103282757697f;
    p = p * w + 0.031215512344531276f;
    p = p * w + 0.10947871655909389f;
    p = p * w + 0.10171608265285897f;
    p = p * w + 0.10390652702914849f;
    p = p * w - 7.162017757542202e-06f;
    *bell = vec_exp(t * t * -0.5f);
    *tail = p * *bell;
}

/* x Phi(x), exact GELU. */
VEC_INLINE vec vec_gelu(vec x) {
    vec tail, bell;
    vec_normal(x, &tail, &bell);
    return vec_select(x < 0.0f, x * tail, x - x * tail);
}

/* Phi(x) + x phi(x). */
VEC_INLINE vec vec_gelu_slope(vec x) {
    vec tail, bell;
    vec_normal(x, &tail, &bell);
    return vec_select(x < 0.0f, tail, 1.0f - tail) + x * bell * 0.398942280401432678f;
}

#endif
