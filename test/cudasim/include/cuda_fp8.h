/* Stand-in for the toolkit's header: e4m3 (sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity) with the
 * same names and the same bits. */
#ifndef CUDASIM_CUDA_FP8_H
#define CUDASIM_CUDA_FP8_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef unsigned char __nv_fp8_storage_t;
typedef enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE } __nv_saturation_t;
typedef enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 } __nv_fp8_interpretation_t;

/* Nearest, ties to even; beyond 448 saturates to 448; NaN is 0x7F. Only what is used: SATFINITE and E4M3. */
static inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7F;
    if (magnitude >= 0x43E00000u) return (__nv_fp8_storage_t)(sign | 0x7Eu); /* 448 and above */
    if (magnitude < 0x3C800000u) /* below 2^-6: multiples of 2^-9; 8 of them are the first normal number */
        return (__nv_fp8_storage_t)(sign | (uint32_t)nearbyintf(fabsf(x) * 512.0f));
    const uint32_t rounded = magnitude + 0x7FFFFu + (magnitude >> 20 & 1u);
    return (__nv_fp8_storage_t)(sign | ((rounded >> 20) - (120u << 3)));
}

struct __nv_fp8_e4m3 {
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float x) : __x(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)) {}
    explicit operator float() const {
        const int exponent = __x >> 3 & 15, mantissa = __x & 7;
        float y = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
        if ((__x & 0x7F) == 0x7F) y = NAN;
        return __x & 0x80 ? -y : y;
    }
    __nv_fp8_storage_t __x;
};

#endif
