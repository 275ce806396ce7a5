/* What every kernel file starts from: launching, shared memory, sums over warps, and loads and stores of the two types.
 * The files compile with nvcc for devices, and as C++ for the simulator (test/cudasim), which brings headers of the
 * same names; only this header and tensor_core.h tell the two apart. */
#ifndef CAVMAE_KERNELS_CUDA_KERNEL_H
#define CAVMAE_KERNELS_CUDA_KERNEL_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "cuda_backend.h"

enum { CAVMAE__WARP = 32 };

/* All shared memory of a block is one struct, whose size is given at the launch:
 *     CAVMAE__SHARED(norm_shared, shared);  ...  shared->sums[warp] = sum; */
#ifdef __CUDACC__
#define CAVMAE__SHARED(type, name)                                                                                     \
    extern __shared__ __align__(128) unsigned char cavmae__shared_bytes[];                                             \
    type *const name = reinterpret_cast<type *>(cavmae__shared_bytes)
#else
#define CAVMAE__SHARED(type, name) type *const name = static_cast<type *>(cudasim_shared_memory())
#endif

/* Starts `blocks` blocks of `threads` threads; nothing where there are none. `shared`: bytes of shared memory.
 *     return CAVMAE__LAUNCH(backend, norm_kernel<float>, blocks, 256, sizeof(norm_shared), *op); */
#define CAVMAE__LAUNCH(backend, kernel, blocks, threads, shared, ...)                                                  \
    cavmae__launch((backend), #kernel, (kernel), (blocks), (threads), (shared), __VA_ARGS__)

template <typename... Parameters, typename... Arguments>
static inline cavmae_status cavmae__launch(cavmae__backend *backend, const char *name, void (*kernel)(Parameters...),
                                           dim3 blocks, dim3 threads, size_t shared, Arguments... arguments) {
    if ((uint64_t)blocks.x * blocks.y * blocks.z == 0) return CAVMAE_OK;
    const cudaStream_t stream = cavmae__cuda_stream(backend);
    if (shared > 48 * 1024) { /* the most there is: another thread may be launching the same kernel with more */
        const cudaError_t error =
            cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)cavmae__cuda_of(backend)->shared_memory);
        if (error != cudaSuccess) return cavmae__cuda_check(backend, error, name);
    }
#ifdef __CUDACC__
    kernel<<<blocks, threads, shared, stream>>>(static_cast<Parameters>(arguments)...);
#else
    cudasim_launch(name, kernel, blocks, threads, shared, stream, static_cast<Parameters>(arguments)...);
#endif
    return cavmae__cuda_check(backend, cudaGetLastError(), name);
}

static inline unsigned cavmae__blocks_for(int64_t count, int64_t each) { return (unsigned)((count + each - 1) / each); }

/* ---- Within a warp: every lane gets the result, in an order that is always the same. ---- */

static __device__ __forceinline__ float cavmae__warp_sum(float x) {
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

static __device__ __forceinline__ double cavmae__warp_sum(double x) {
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

static __device__ __forceinline__ float cavmae__warp_max(float x) {
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

/* ---- Elements ---- */

static __device__ __forceinline__ float cavmae__to_float(float x) { return x; }
static __device__ __forceinline__ float cavmae__to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T> static __device__ __forceinline__ T cavmae__from_float(float x);
template <> __device__ __forceinline__ float cavmae__from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 cavmae__from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* Calls a launch with the C++ type of a dtype:
 *     return cavmae__by_dtype(op->y_dtype, [&](auto zero) { return CAVMAE__LAUNCH(backend, f<decltype(zero)>, ...); }); */
template <typename Function> static inline cavmae_status cavmae__by_dtype(int32_t dtype, Function function) {
    return dtype == CAVMAE_BFLOAT16 ? function(__nv_bfloat16()) : function(float());
}

#endif
