/* Tensor cores and the copies that feed them, for sm_80 and later: thin names for PTX instructions. The simulator's
 * twins of the same names are in its own header; both follow the PTX ISA's fragment layouts.
 *
 * mma: d [16, 8] += a [16, 16] b [16, 8], bfloat16 operands, float32 sums. With group = lane / 4, four = lane % 4:
 *     a[0]: row group,     columns 2 four, +1      b[0]: rows 2 four, +1,     column group
 *     a[1]: row group + 8, columns 2 four, +1      b[1]: rows 2 four + 8, +9, column group
 *     a[2]: row group,     columns 2 four + 8, +9  d[0], d[1]: row group,     columns 2 four, +1
 *     a[3]: row group + 8, columns 2 four + 8, +9  d[2], d[3]: row group + 8, columns 2 four, +1
 * the element with the lower index in the lower half of a register.
 *
 * mma and the tiles' loads are a warp's as one: all lanes come to them together, so after a branch that lanes took
 * differently a __syncwarp comes first. */
#ifndef CAVMAE_KERNELS_TENSOR_CORE_H
#define CAVMAE_KERNELS_TENSOR_CORE_H

#include "cuda_kernel.h"

#ifdef __CUDACC__

static __device__ __forceinline__ void cavmae__mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ uint32_t cavmae__shared_address(const void *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* Four 8 x 8 tiles of 16-bit elements: lane l gives the address of row l % 8 of tile l / 8 (16 bytes, aligned to 16);
 * r[i] is lane l's pair of tile i: row l / 4, columns 2 (l % 4) and + 1. transposed: of the tile's transpose. */
static __device__ __forceinline__ void cavmae__load_tiles(uint32_t r[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cavmae__shared_address(shared))
                 : "memory");
}

static __device__ __forceinline__ void cavmae__load_tiles_transposed(uint32_t r[4], const void *shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cavmae__shared_address(shared))
                 : "memory");
}

/* 16 bytes from global to shared memory, both aligned to 16, under way until copy_wait; zeros where `valid` is 0 (the
 * source is then not read). */
static __device__ __forceinline__ void cavmae__copy_async(void *shared, const void *global, int valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cavmae__shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

/* Ends a group of copies; waits until at most `pending` of this thread's groups are under way. */
static __device__ __forceinline__ void cavmae__copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> static __device__ __forceinline__ void cavmae__copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* 2^x, to 2 units in the last place. */
static __device__ __forceinline__ float cavmae__exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

/* Two floats as bfloat16, the first in the lower half. */
static __device__ __forceinline__ uint32_t cavmae__pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

#endif
