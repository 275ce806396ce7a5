/* Stand-in for the toolkit's header: CUDA C++ as plain C++, for kernels that keep to what is here. A kernel's threads
 * are fibres (../block.h); collectives are function calls in which a fibre waits for the others. Whatever waits takes
 * the place of its call, so that reports can name it. */
#ifndef CUDASIM_CUDA_RUNTIME_H
#define CUDASIM_CUDA_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(size) alignas(size)

#define CUDASIM_HIDDEN __attribute__((visibility("hidden")))
#define CUDASIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* ---- Where a thread is ---- */

struct cudasim_position {
    uint3 block;
    dim3 block_size, grid_size;
    void *shared;
};

struct cudasim_thread {
    uint3 index;
    const cudasim_position *position;
};

/* The running thread of a kernel; NULL in host code. initial-exec: read everywhere, and too small to trouble dlopen. */
extern __thread cudasim_thread *cudasim_current __attribute__((tls_model("initial-exec"), visibility("hidden")));

#define threadIdx (cudasim_current->index)
#define blockIdx (cudasim_current->position->block)
#define blockDim (cudasim_current->position->block_size)
#define gridDim (cudasim_current->position->grid_size)
static const int warpSize = 32;

static inline void *cudasim_shared_memory() { return cudasim_current->position->shared; }

/* ---- Launching ---- */

/* Checks and queues a launch; `body` is the kernel with its arguments, run once in each thread. */
CUDASIM_HIDDEN void cudasim_launch_body(const char *name, const void *kernel, dim3 blocks, dim3 threads, size_t shared,
                                        cudaStream_t stream, std::function<void()> body);

template <typename... Parameters, typename... Arguments>
static inline void cudasim_launch(const char *name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                                  size_t shared, cudaStream_t stream, Arguments... arguments) {
    static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel's arguments take more than 4 KB");
    static_assert((std::is_trivially_copyable<Parameters>::value && ...), "a kernel's arguments are copied as bytes");
    std::tuple<Parameters...> values(arguments...);
    cudasim_launch_body(name, reinterpret_cast<const void *>(kernel), blocks, threads, shared, stream,
                        [kernel, values] { std::apply(kernel, values); });
}

template <typename T>
static inline cudaError_t cudaFuncSetAttribute(T *function, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(function), attribute, value);
}

/* ---- Collectives of a block ---- */

enum cudasim_barrier_kind { CUDASIM_BARRIER, CUDASIM_BARRIER_OR, CUDASIM_BARRIER_AND, CUDASIM_BARRIER_COUNT };
CUDASIM_HIDDEN int cudasim_barrier(cudasim_barrier_kind kind, int predicate, const char *file, int line);

static inline void __syncthreads(CUDASIM_HERE) { cudasim_barrier(CUDASIM_BARRIER, 0, file, line); }
static inline int __syncthreads_or(int predicate, CUDASIM_HERE) {
    return cudasim_barrier(CUDASIM_BARRIER_OR, predicate, file, line);
}
static inline int __syncthreads_and(int predicate, CUDASIM_HERE) {
    return cudasim_barrier(CUDASIM_BARRIER_AND, predicate, file, line);
}
static inline int __syncthreads_count(int predicate, CUDASIM_HERE) {
    return cudasim_barrier(CUDASIM_BARRIER_COUNT, predicate, file, line);
}

/* ---- Collectives of a warp ---- */

enum cudasim_shuffle_kind { CUDASIM_SHUFFLE, CUDASIM_SHUFFLE_UP, CUDASIM_SHUFFLE_DOWN, CUDASIM_SHUFFLE_XOR };
CUDASIM_HIDDEN uint64_t cudasim_shuffle(cudasim_shuffle_kind kind, unsigned mask, uint64_t value, int operand,
                                        int width, const char *file, int line);
CUDASIM_HIDDEN unsigned cudasim_ballot(unsigned mask, int predicate, const char *file, int line);
CUDASIM_HIDDEN void cudasim_sync_warp(unsigned mask, const char *file, int line);

template <typename T>
static inline T cudasim_shuffle_value(cudasim_shuffle_kind kind, unsigned mask, T value, int operand, int width,
                                      const char *file, int line) {
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "shuffles move up to 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = cudasim_shuffle(kind, mask, bits, operand, width, file, line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDASIM_HERE) {
    return cudasim_shuffle_value(CUDASIM_SHUFFLE, mask, value, lane, width, file, line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDASIM_HERE) {
    return cudasim_shuffle_value(CUDASIM_SHUFFLE_UP, mask, value, (int)delta, width, file, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDASIM_HERE) {
    return cudasim_shuffle_value(CUDASIM_SHUFFLE_DOWN, mask, value, (int)delta, width, file, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDASIM_HERE) {
    return cudasim_shuffle_value(CUDASIM_SHUFFLE_XOR, mask, value, lane_mask, width, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, CUDASIM_HERE) {
    return cudasim_ballot(mask, predicate, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, CUDASIM_HERE) {
    return cudasim_ballot(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, CUDASIM_HERE) {
    return cudasim_ballot(mask, predicate, file, line) == mask;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUDASIM_HERE) { cudasim_sync_warp(mask, file, line); }

/* ---- Memory ---- */

template <typename T> static inline T __ldg(const T *from) { return *from; }
template <typename T> static inline T __ldcg(const T *from) { return *from; }
template <typename T> static inline T __ldcs(const T *from) { return *from; }
template <typename T> static inline void __stcg(T *to, T value) { *to = value; }
template <typename T> static inline void __stcs(T *to, T value) { *to = value; }

CUDASIM_HIDDEN void cudasim_fence();
static inline void __threadfence() { cudasim_fence(); }
static inline void __threadfence_block() { cudasim_fence(); }

/* *to = change(*to, value) at once; the old *to. */
CUDASIM_HIDDEN uint32_t cudasim_atomic(uint32_t *to, uint32_t value, uint32_t (*change)(uint32_t, uint32_t));
CUDASIM_HIDDEN uint64_t cudasim_atomic(uint64_t *to, uint64_t value, uint64_t (*change)(uint64_t, uint64_t));
CUDASIM_HIDDEN uint32_t cudasim_compare_and_swap(uint32_t *to, uint32_t expected, uint32_t value);
CUDASIM_HIDDEN uint64_t cudasim_compare_and_swap(uint64_t *to, uint64_t expected, uint64_t value);

template <typename T> using cudasim_bits = typename std::conditional<sizeof(T) == 8, uint64_t, uint32_t>::type;

template <typename To, typename From> static inline To cudasim_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits as another type");
    To to;
    __builtin_memcpy(&to, &from, sizeof to); /* never a call */
    return to;
}

#define CUDASIM_ATOMIC(name, expression)                                                                               \
    template <typename T> static inline T name(T *to, T value) {                                                       \
        typedef cudasim_bits<T> bits;                                                                                  \
        return cudasim_as<T>(cudasim_atomic(reinterpret_cast<bits *>(to), cudasim_as<bits>(value),                     \
                                            [](bits old_bits, bits value_bits) -> bits {                               \
                                                const T a = cudasim_as<T>(old_bits), b = cudasim_as<T>(value_bits);    \
                                                return cudasim_as<bits>((T)(expression));                              \
                                            }));                                                                       \
    }
CUDASIM_ATOMIC(atomicAdd, a + b)
CUDASIM_ATOMIC(atomicSub, a - b)
CUDASIM_ATOMIC(atomicMax, a < b ? b : a)
CUDASIM_ATOMIC(atomicMin, b < a ? b : a)
CUDASIM_ATOMIC(atomicOr, a | b)
CUDASIM_ATOMIC(atomicAnd, a &b)
CUDASIM_ATOMIC(atomicExch, ((void)a, b))
#undef CUDASIM_ATOMIC

template <typename T> static inline T atomicCAS(T *to, T expected, T value) {
    typedef cudasim_bits<T> bits;
    return cudasim_as<T>(
        cudasim_compare_and_swap(reinterpret_cast<bits *>(to), cudasim_as<bits>(expected), cudasim_as<bits>(value)));
}

/* ---- Bits and numbers ---- */

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

static inline unsigned __float_as_uint(float x) { return cudasim_as<unsigned>(x); }
static inline int __float_as_int(float x) { return cudasim_as<int>(x); }
static inline float __uint_as_float(unsigned x) { return cudasim_as<float>(x); }
static inline float __int_as_float(int x) { return cudasim_as<float>(x); }
static inline long long __double_as_longlong(double x) { return cudasim_as<long long>(x); }
static inline double __longlong_as_double(long long x) { return cudasim_as<double>(x); }

/* rn: to nearest, ties to even, the host's mode; out of range saturates and NaN is 0, as on the device. */
static inline int __float2int_rn(float x) {
    if (!(x > -2147483648.0f)) return x != x ? 0 : INT32_MIN;
    return x < 2147483648.0f ? (int)nearbyintf(x) : INT32_MAX;
}
static inline int __float2int_rd(float x) { return __float2int_rn(floorf(x)); }
static inline int __float2int_ru(float x) { return __float2int_rn(ceilf(x)); }
static inline int __float2int_rz(float x) { return __float2int_rn(truncf(x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

/* Macros: the C library has some of these names for itself. */
static inline float cudasim_rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double cudasim_rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float cudasim_fdividef(float x, float y) { return x / y; }
#define rsqrtf cudasim_rsqrtf
#define rsqrt cudasim_rsqrt
#define __fdividef cudasim_fdividef
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf((x), (y))
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __frsqrt_rn(x) cudasim_rsqrtf(x)

#define CUDASIM_MIN_MAX(type)                                                                                          \
    static inline type min(type a, type b) { return b < a ? b : a; }                                                   \
    static inline type max(type a, type b) { return a < b ? b : a; }
CUDASIM_MIN_MAX(int)
CUDASIM_MIN_MAX(unsigned)
CUDASIM_MIN_MAX(long)
CUDASIM_MIN_MAX(unsigned long)
CUDASIM_MIN_MAX(long long)
CUDASIM_MIN_MAX(unsigned long long)
#undef CUDASIM_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

#include "cudasim_tensor_core.h"

#endif
