/* Rows in pieces of four elements, one float4 a thread, for kernels that stream rows; where widths or pointers do not
 * allow that, the same kernels take single floats. */
#ifndef CAVMAE_KERNELS_VECTOR_H
#define CAVMAE_KERNELS_VECTOR_H

#include "cuda_kernel.h"

/* Whether 16 bytes may be loaded and stored at all of these; NULL is no obstacle. */
template <typename... Types> static inline bool cavmae__aligned(const Types *...pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

/* Calls a launch with float4 or float:
 *     return cavmae__by_vector(aligned, [&](auto zero) { return CAVMAE__LAUNCH(backend, f<decltype(zero)>, ...); }); */
template <typename Function> static inline cavmae_status cavmae__by_vector(bool four, Function function) {
    return four ? function(float4()) : function(float());
}

template <typename Vector> struct cavmae__vector;
template <> struct cavmae__vector<float> {
    enum { width = 1 };
    static __device__ __forceinline__ float zero() { return 0.0f; }
    static __device__ __forceinline__ float add(float a, float b) { return a + b; }
    static __device__ __forceinline__ float multiply_add(float s, float x, float y) { return fmaf(s, x, y); }
    static __device__ __forceinline__ float divide(float x, float by) { return x / by; }
};
template <> struct cavmae__vector<float4> {
    enum { width = 4 };
    static __device__ __forceinline__ float4 zero() { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }
    static __device__ __forceinline__ float4 add(float4 a, float4 b) {
        return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
    static __device__ __forceinline__ float4 multiply_add(float s, float4 x, float4 y) {
        return make_float4(fmaf(s, x.x, y.x), fmaf(s, x.y, y.y), fmaf(s, x.z, y.z), fmaf(s, x.w, y.w));
    }
    static __device__ __forceinline__ float4 divide(float4 x, float by) {
        return make_float4(x.x / by, x.y / by, x.z / by, x.w / by);
    }
};

/* Four elements of either type, aligned to their 16 or 8 bytes, as floats. */
static __device__ __forceinline__ float4 cavmae__load_four(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}
static __device__ __forceinline__ float4 cavmae__load_four(const __nv_bfloat16 *p) {
    const uint2 bits = *reinterpret_cast<const uint2 *>(p); /* bfloat16 is the upper half of a float */
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                       __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}
static __device__ __forceinline__ void cavmae__store_four(float *p, float4 x) { *reinterpret_cast<float4 *>(p) = x; }
static __device__ __forceinline__ void cavmae__store_four(__nv_bfloat16 *p, float4 x) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y), high = __floats2bfloat162_rn(x.z, x.w);
    uint2 bits;
    memcpy(&bits.x, &low, sizeof low);
    memcpy(&bits.y, &high, sizeof high);
    *reinterpret_cast<uint2 *>(p) = bits;
}

#endif
