/* Passes over arrays that belong to other operations: conversions, GELU by erf, column sums, e4m3 with a scale a row.
 * All are bound by memory: eight elements a thread, in 16-byte accesses where addresses and widths allow. */
#include <cuda_fp8.h>

#include "cuda_kernel.h"
#include "gelu.h"
#include "matmul.h"

enum { EACH = 8, THREADS = 256, WARPS = THREADS / CAVMAE__WARP };

static __device__ __forceinline__ void load8(const float *x, float v[EACH]) {
    const float4 low = *reinterpret_cast<const float4 *>(x), high = *reinterpret_cast<const float4 *>(x + 4);
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

static __device__ __forceinline__ void load8(const __nv_bfloat16 *x, float v[EACH]) {
    const uint4 bits = *reinterpret_cast<const uint4 *>(x);
    const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(word[i] << 16);
        v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
}

static __device__ __forceinline__ void store8(float *y, const float v[EACH]) {
    *reinterpret_cast<float4 *>(y) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(y + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

static __device__ __forceinline__ void store8(__nv_bfloat16 *y, const float v[EACH]) {
    uint32_t word[4];
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        memcpy(&word[i], &pair, sizeof pair);
    }
    *reinterpret_cast<uint4 *>(y) = make_uint4(word[0], word[1], word[2], word[3]);
}

static bool aligned(const void *x) { return reinterpret_cast<uintptr_t>(x) % 16 == 0; }

/* ---- Element by element ---- */

struct same_value {
    static __device__ __forceinline__ float of(float x, float) { return x; }
};

struct gelu_value {
    static __device__ __forceinline__ float of(float x, float) { return exact_gelu(x); }
};

struct tanh_gelu_value {
    static __device__ __forceinline__ float of(float x, float) { return tanh_gelu(x); }
};

struct gelu_slope {
    static __device__ __forceinline__ float of(float x, float y) { return y * exact_gelu_slope(x); }
};

struct sum_value {
    static __device__ __forceinline__ float of(float x, float y) { return x + y; }
};

/* Elements [first, first + 8) of y = f(x, y); y is read where `both`. */
template <typename Value, bool both, typename From, typename To>
static __device__ __forceinline__ void map8(const From *x, To *y, int64_t first, int64_t count, int wide) {
    float v[EACH], w[EACH] = {0};
    if (wide && first + EACH <= count) {
        load8(x + first, v);
        if (both) load8(y + first, w);
        for (int i = 0; i < EACH; i++) v[i] = Value::of(v[i], w[i]);
        store8(y + first, v);
        return;
    }
    for (int64_t i = first; i < first + EACH && i < count; i++)
        y[i] = cavmae__from_float<To>(Value::of(cavmae__to_float(x[i]), both ? cavmae__to_float(y[i]) : 0.0f));
}

template <typename Value, bool both, typename From, typename To>
static __global__ void __launch_bounds__(THREADS) map_kernel(const From *x, To *y, int64_t count, int wide) {
    map8<Value, both>(x, y, ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EACH, count, wide);
}

template <typename Value, bool both, typename From, typename To>
static cavmae_status map(cavmae__backend *backend, const void *x, void *y, int64_t count) {
    return CAVMAE__LAUNCH(backend, (map_kernel<Value, both, From, To>), cavmae__blocks_for(count, THREADS * EACH),
                          THREADS, 0, (const From *)x, (To *)y, count, (int)(aligned(x) && aligned(y)));
}

extern "C" cavmae_status cavmae__cuda_convert(cavmae__backend *backend, const cavmae__convert *op) {
    return cavmae__by_dtype(op->x_dtype, [&](auto from) {
        return cavmae__by_dtype(op->y_dtype, [&](auto to) {
            return map<same_value, false, decltype(from), decltype(to)>(backend, op->x, op->y, op->count);
        });
    });
}

/* The form that linear.c's products take. */
extern "C" cavmae_status cavmae__cuda_gelu(cavmae__backend *backend, const cavmae__gelu *op) {
    if (op->dtype == CAVMAE_BFLOAT16 && !op->exact_gelu)
        return map<tanh_gelu_value, false, __nv_bfloat16, __nv_bfloat16>(backend, op->x, op->y, op->count);
    return cavmae__by_dtype(op->dtype, [&](auto zero) {
        return map<gelu_value, false, decltype(zero), decltype(zero)>(backend, op->x, op->y, op->count);
    });
}

extern "C" cavmae_status cavmae__cuda_gelu_grad(cavmae__backend *backend, const void *x, void *d, int32_t dtype,
                                                int64_t count) {
    return cavmae__by_dtype(
        dtype, [&](auto zero) { return map<gelu_slope, true, decltype(zero), decltype(zero)>(backend, x, d, count); });
}

extern "C" cavmae_status cavmae__cuda_add(cavmae__backend *backend, const float *x, float *y, int64_t count) {
    return map<sum_value, true, float, float>(backend, x, y, count);
}

/* The last blocks take the second array. */
static __global__ void __launch_bounds__(THREADS)
    narrow_kernel(const float *x0, __nv_bfloat16 *y0, int64_t count0, const float *x1, __nv_bfloat16 *y1,
                  int64_t count1, unsigned blocks0, int wide) {
    const bool second = blockIdx.x >= blocks0;
    const int64_t first = ((int64_t)(blockIdx.x - (second ? blocks0 : 0)) * THREADS + threadIdx.x) * EACH;
    map8<same_value, false>(second ? x1 : x0, second ? y1 : y0, first, second ? count1 : count0, wide);
}

extern "C" cavmae_status cavmae__cuda_narrow(cavmae__backend *backend, const float *x0, void *y0, int64_t count0,
                                             const float *x1, void *y1, int64_t count1) {
    const unsigned blocks0 = cavmae__blocks_for(count0, THREADS * EACH);
    return CAVMAE__LAUNCH(backend, narrow_kernel, blocks0 + cavmae__blocks_for(count1, THREADS * EACH), THREADS, 0, x0,
                          (__nv_bfloat16 *)y0, count0, x1, (__nv_bfloat16 *)y1, count1, blocks0,
                          (int)(aligned(x0) && aligned(y0) && aligned(x1) && aligned(y1)));
}

/* ---- Column sums ---- */

enum {
    STRIP = CAVMAE__WARP * EACH, /* columns of a block */
    CHUNK = 64,                  /* fewest rows of a block */
    BLOCKS = 1056 /* about as many blocks as fill the largest devices; a constant: it fixes the order of sums */
};

static int64_t chunks_of(int64_t rows, int32_t columns) {
    const int64_t strips = (columns + STRIP - 1) / STRIP, most = BLOCKS / strips > 1 ? BLOCKS / strips : 1;
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    return chunks < 1 ? 1 : chunks < most ? chunks : most;
}

extern "C" size_t cavmae__cuda_column_sums_workspace(int64_t rows, int32_t columns) {
    return (size_t)chunks_of(rows, columns) * (size_t)columns * sizeof(float);
}

struct column_shared {
    float sum[WARPS][STRIP];
};

/* A block: a strip of columns of a chunk of rows; a warp takes every eighth row. partial [chunks, columns]. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    column_kernel(const T *x, int64_t rows, int32_t columns, int64_t chunk_rows, int64_t chunks, __nv_bfloat16 *narrow,
                  float *partial, int wide) {
    CAVMAE__SHARED(column_shared, shared);
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int64_t chunk = (int64_t)blockIdx.x % chunks, strip = (int64_t)blockIdx.x / chunks * STRIP;
    const int64_t first = chunk * chunk_rows, last = first + chunk_rows < rows ? first + chunk_rows : rows;
    float sum[EACH] = {0};
    if (wide) {
        const int64_t column = strip + lane * EACH;
        if (column < columns)
#pragma unroll 4
            for (int64_t row = first + warp; row < last; row += WARPS) {
                float v[EACH];
                load8(x + row * columns + column, v);
                if (narrow) store8(narrow + row * columns + column, v);
                for (int i = 0; i < EACH; i++) sum[i] += v[i];
            }
        for (int i = 0; i < EACH; i++) shared->sum[warp][lane + CAVMAE__WARP * i] = sum[i];
    } else {
        for (int64_t row = first + warp; row < last; row += WARPS)
            for (int i = 0; i < EACH; i++) {
                const int64_t column = strip + lane + CAVMAE__WARP * i;
                if (column >= columns) continue;
                const float v = cavmae__to_float(x[row * columns + column]);
                if (narrow) narrow[row * columns + column] = __float2bfloat16_rn(v);
                sum[i] += v;
            }
        for (int i = 0; i < EACH; i++) shared->sum[warp][lane + CAVMAE__WARP * i] = sum[i];
    }
    __syncthreads();
    /* Slot s of a strip is column s, or, of wide lanes, column (s % 32) * 8 + s / 32. */
    const int slot = (int)threadIdx.x;
    const int64_t column = strip + (wide ? slot % CAVMAE__WARP * EACH + slot / CAVMAE__WARP : slot);
    if (column >= columns) return;
    float total = 0;
    for (int w = 0; w < WARPS; w++) total += shared->sum[w][slot];
    partial[chunk * columns + column] = total;
}

struct total_shared {
    float sum[WARPS][CAVMAE__WARP];
};

static __global__ void __launch_bounds__(THREADS)
    column_total_kernel(const float *partial, int64_t chunks, int32_t columns, float *sums, int32_t accumulate) {
    CAVMAE__SHARED(total_shared, shared);
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int64_t column = (int64_t)blockIdx.x * CAVMAE__WARP + lane;
    float sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int64_t chunk = warp; chunk < chunks; chunk += WARPS) sum += partial[chunk * columns + column];
    shared->sum[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= columns) return;
    float total = 0;
    for (int w = 0; w < WARPS; w++) total += shared->sum[w][lane];
    sums[column] = accumulate ? sums[column] + total : total;
}

extern "C" cavmae_status cavmae__cuda_column_sums(cavmae__backend *backend, const void *x, int32_t dtype, int64_t rows,
                                                  int32_t columns, void *narrow, float *sums, int32_t accumulate,
                                                  void *scratch) {
    const int64_t chunks = chunks_of(rows, columns), chunk_rows = (rows + chunks - 1) / chunks;
    const int64_t strips = (columns + STRIP - 1) / STRIP;
    const int wide = columns % EACH == 0 && aligned(x) && aligned(narrow);
    float *partial = static_cast<float *>(scratch);
    const cavmae_status status = cavmae__by_dtype(dtype, [&](auto zero) {
        return CAVMAE__LAUNCH(backend, column_kernel<decltype(zero)>, (unsigned)(chunks * strips), THREADS,
                              sizeof(column_shared), (const decltype(zero) *)x, rows, columns, chunk_rows, chunks,
                              (__nv_bfloat16 *)narrow, partial, wide);
    });
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, column_total_kernel, cavmae__blocks_for(columns, CAVMAE__WARP), THREADS,
                          sizeof(total_shared), (const float *)partial, chunks, columns, sums, accumulate);
}

/* ---- e4m3 ---- */

/* A warp a row, twice over it: its largest magnitude, then its elements. What is not finite stays so. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    scale_kernel(const T *x, int64_t rows, int32_t columns, uint8_t *y, float *scale, int wide) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= rows) return;
    x += row * columns;
    y += row * columns;
    float largest = 0;
    for (int32_t c = lane * EACH; c < columns; c += STRIP) {
        float v[EACH] = {0};
        if (wide)
            load8(x + c, v);
        else
            for (int i = 0; i < EACH && c + i < columns; i++) v[i] = cavmae__to_float(x[c + i]);
        for (int i = 0; i < EACH; i++) largest = fmaxf(largest, fabsf(v[i]));
    }
    largest = cavmae__warp_max(largest);
    const float s = largest > 0 ? fmaxf(largest / 448.0f, 1.17549435e-38f) : 1.0f, inverse = 1.0f / s;
    if (lane == 0) scale[row] = s;
    for (int32_t c = lane * EACH; c < columns; c += STRIP) {
        float v[EACH] = {0};
        uint8_t code[EACH];
        if (wide)
            load8(x + c, v);
        else
            for (int i = 0; i < EACH && c + i < columns; i++) v[i] = cavmae__to_float(x[c + i]);
        for (int i = 0; i < EACH; i++) {
            const __nv_fp8_e4m3 e(v[i] * inverse);
            memcpy(&code[i], &e, 1);
        }
        if (wide) {
            uint2 word;
            memcpy(&word, code, sizeof word);
            *reinterpret_cast<uint2 *>(y + c) = word;
        } else {
            for (int i = 0; i < EACH && c + i < columns; i++) y[c + i] = code[i];
        }
    }
}

extern "C" cavmae_status cavmae__cuda_scale_rows(cavmae__backend *backend, const void *x, int32_t dtype, int64_t rows,
                                                 int32_t columns, void *y, float *scale) {
    const int wide = columns % EACH == 0 && aligned(x) && aligned(y);
    return cavmae__by_dtype(dtype, [&](auto zero) {
        return CAVMAE__LAUNCH(backend, scale_kernel<decltype(zero)>, cavmae__blocks_for(rows, WARPS), THREADS, 0,
                              (const decltype(zero) *)x, rows, columns, (uint8_t *)y, scale, wide);
    });
}
