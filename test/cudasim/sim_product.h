/* The simulated library's matrix product: float32 sums, cut so that caches and vector units are used. */
#ifndef CUDASIM_SIM_PRODUCT_H
#define CUDASIM_SIM_PRODUCT_H

#include <cstdint>
#include <functional>

namespace cudasim {

constexpr int tile_rows = 256, tile_columns = 256;

/* How a tile's operands are read: to [count of k][stride] floats, zeros beyond `rows`. */
struct operand {
    const void *data;
    int type;                 /* cudaDataType */
    int64_t stride, k_stride; /* elements: from one row to the next, from one k to the next */
    bool tf32;                /* rounded to 10 bits of mantissa */
};

float read_element(const void *data, int type, int64_t at);
void write_element(void *data, int type, int64_t at, float value);

/* sum [tile_columns][tile_rows] = sum over k in [first, last) of a[row + i, k] b[column + j, k], rows and columns of the
 * tile at hand; sums of `block` products at a time. */
void tile_product(const operand &a, const operand &b, int64_t row, int rows, int64_t column, int columns, int64_t first,
                  int64_t last, int block, float *sum);

} // namespace cudasim

#endif
