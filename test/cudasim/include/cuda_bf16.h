/* Stand-in for the toolkit's header: bfloat16 with the same names and the same bits. */
#ifndef CUDASIM_CUDA_BF16_H
#define CUDASIM_CUDA_BF16_H

#include <stdint.h>
#include <string.h>

#include "vector_types.h"

struct __nv_bfloat16;
static inline __nv_bfloat16 __float2bfloat16_rn(float x);
static inline float __bfloat162float(__nv_bfloat16 x);

struct __nv_bfloat16 {
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) { *this = __float2bfloat16_rn(x); }
    explicit operator float() const { return __bfloat162float(*this); }
    uint16_t bits; /* the toolkit has no public name for it; __bfloat16_as_ushort gives it in both */
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y; /* x in the lower half */
};

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 x;
    x.bits = bits;
    return x;
}

/* Nearest, ties to even; every NaN is 0x7FFF, as the device's cvt gives it. */
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return __ushort_as_bfloat16(0x7FFF);
    return __ushort_as_bfloat16((unsigned short)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16));
}

static inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

/* Towards zero. */
static inline __nv_bfloat16 __float2bfloat16_rz(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return __ushort_as_bfloat16(0x7FFF);
    return __ushort_as_bfloat16((unsigned short)(bits >> 16));
}

static inline float __bfloat162float(__nv_bfloat16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) {
    __nv_bfloat162 pair;
    pair.x = low;
    pair.y = high;
    return pair;
}

static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return __halves2bfloat162(x, x); }

static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    return __halves2bfloat162(__float2bfloat16_rn(low), __float2bfloat16_rn(high));
}

static inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return __floats2bfloat162_rn(x.x, x.y); }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
static inline float __low2float(__nv_bfloat162 pair) { return __bfloat162float(pair.x); }
static inline float __high2float(__nv_bfloat162 pair) { return __bfloat162float(pair.y); }

static inline float2 __bfloat1622float2(__nv_bfloat162 pair) {
    float2 y;
    y.x = __low2float(pair);
    y.y = __high2float(pair);
    return y;
}

#endif
