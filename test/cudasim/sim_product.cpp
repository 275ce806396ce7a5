#include "sim_product.h"

#include <cstring>
#include <memory>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

/* A sanitizer is not up yet when the choice between clones is made. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&    \
    (!defined(__clang__) || __clang_major__ >= 14)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define CUDASIM_CLONES
#endif
#endif
#ifndef CUDASIM_CLONES
#define CUDASIM_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#endif
#else
#define CUDASIM_CLONES
#endif

namespace cudasim {

namespace {

constexpr int strip_rows = 32, strip_columns = 4, longest_block = 256;
typedef float vector __attribute__((vector_size(64)));

/* sum [4][32] += a [k][32] times b [k][4]. Written out: so all sums stay in registers without the optimizer's help. */
CUDASIM_CLONES void strip_product(const float *a, const float *b, int count, float *sum, int sum_stride) {
    vector s00 = {}, s01 = {}, s10 = {}, s11 = {}, s20 = {}, s21 = {}, s30 = {}, s31 = {}, low, high;
    for (int k = 0; k < count; k++, a += strip_rows, b += strip_columns) {
        std::memcpy(&low, a, sizeof low);
        std::memcpy(&high, a + 16, sizeof high);
        s00 += low * b[0], s01 += high * b[0];
        s10 += low * b[1], s11 += high * b[1];
        s20 += low * b[2], s21 += high * b[2];
        s30 += low * b[3], s31 += high * b[3];
    }
    const vector all[strip_columns][2] = {{s00, s01}, {s10, s11}, {s20, s21}, {s30, s31}};
    for (int j = 0; j < strip_columns; j++)
        for (int i = 0; i < strip_rows; i++) sum[j * sum_stride + i] += all[j][i / 16][i % 16];
}

float to_tf32(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7F800000u) != 0x7F800000u) bits = (bits + 0x1000u) & ~0x1FFFu; /* nearest, ties away from zero */
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <typename Read>
void pack_with(const operand &x, int64_t row, int rows, int64_t k, int count, int width, float *out, Read read) {
    for (int strip = 0; strip < rows; strip += width, out += (int64_t)width * count) {
        const int inside = rows - strip < width ? rows - strip : width;
        const int64_t start = (row + strip) * x.stride + k * x.k_stride;
        if (x.k_stride == 1)
            for (int i = 0; i < inside; i++)
                for (int d = 0; d < count; d++) out[d * width + i] = read(start + i * x.stride + d);
        else
            for (int d = 0; d < count; d++)
                for (int i = 0; i < inside; i++) out[d * width + i] = read(start + i * x.stride + d * x.k_stride);
        for (int d = 0; d < count; d++)
            for (int i = inside; i < width; i++) out[d * width + i] = 0;
    }
}

/* Strips of `width` rows: out [strip][k][width]. */
void pack(const operand &x, int64_t row, int rows, int64_t k, int count, int width, float *out) {
    if (x.type == CUDA_R_32F) {
        const float *data = static_cast<const float *>(x.data);
        if (x.tf32)
            pack_with(x, row, rows, k, count, width, out, [=](int64_t at) { return to_tf32(data[at]); });
        else
            pack_with(x, row, rows, k, count, width, out, [=](int64_t at) { return data[at]; });
    } else if (x.type == CUDA_R_16BF) {
        const __nv_bfloat16 *data = static_cast<const __nv_bfloat16 *>(x.data);
        pack_with(x, row, rows, k, count, width, out, [=](int64_t at) { return __bfloat162float(data[at]); });
    } else {
        pack_with(x, row, rows, k, count, width, out, [&](int64_t at) { return read_element(x.data, x.type, at); });
    }
}

} // namespace

float read_element(const void *data, int type, int64_t at) {
    if (type == CUDA_R_32F) return static_cast<const float *>(data)[at];
    if (type == CUDA_R_16BF) return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[at]);
    return (float)static_cast<const __nv_fp8_e4m3 *>(data)[at];
}

void write_element(void *data, int type, int64_t at, float value) {
    if (type == CUDA_R_32F)
        static_cast<float *>(data)[at] = value;
    else
        static_cast<__nv_bfloat16 *>(data)[at] = __float2bfloat16_rn(value);
}

void tile_product(const operand &a, const operand &b, int64_t row, int rows, int64_t column, int columns, int64_t first,
                  int64_t last, int block, float *sum) {
    thread_local std::unique_ptr<float[]> left, right;
    if (!left) left.reset(new float[tile_rows * longest_block]);
    if (!right) right.reset(new float[tile_columns * longest_block]);
    std::memset(sum, 0, sizeof(float) * tile_rows * tile_columns);
    for (int64_t k = first; k < last; k += block) {
        const int count = (int)(last - k < block ? last - k : block);
        pack(a, row, rows, k, count, strip_rows, left.get());
        pack(b, column, columns, k, count, strip_columns, right.get());
        for (int j = 0; j < columns; j += strip_columns)
            for (int i = 0; i < rows; i += strip_rows)
                strip_product(left.get() + (int64_t)i * count, right.get() + (int64_t)j * count, count,
                              sum + (int64_t)j * tile_rows + i, tile_rows);
    }
}

} // namespace cudasim
