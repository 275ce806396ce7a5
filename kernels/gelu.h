/* GELU and its slope, by erf and in cuBLASLt's tanh form. */
#ifndef CAVMAE_KERNELS_GELU_H
#define CAVMAE_KERNELS_GELU_H

#include "cuda_kernel.h"

/* gelu(x) = x Phi(x); erfc, not 1 + erf: no cancellation where x is far below zero. */
static __device__ __forceinline__ float exact_gelu(float x) { return 0.5f * x * erfcf(x * -0.70710678118654752f); }

/* Phi(x) + x phi(x) */
static __device__ __forceinline__ float exact_gelu_slope(float x) {
    return 0.5f * erfcf(x * -0.70710678118654752f) + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

/* 0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static __device__ __forceinline__ float tanh_gelu(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

static __device__ __forceinline__ float tanh_gelu_slope(float x) {
    const float t = tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
}

#endif
