/* A plain product for the combinations that cuBLASLt does not take, and the epilogues as passes of their own. */
#include "gelu.h"
#include "matmul.h"

#include "cuda_kernel.h"

enum { TILE = 64, DEPTH = 16, THREADS = 256, EACH = 4 };

/* op(a) and op(b) as strides: element (row, column) is at row * row_stride + column * column_stride. */
struct operand {
    int64_t row_stride, column_stride;
};

struct product_shared {
    float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4]; /* 4: columns of a stay aligned to 16 bytes, and banks differ */
};

/* TILE x DEPTH elements of a matrix, which runs along `inner` (the sum's index) or across it; zeros outside. */
template <typename T>
static __device__ __forceinline__ void load_tile(float (*tile)[TILE + 4], const T *x, int64_t across_stride,
                                                 int64_t inner_stride, int64_t across, int64_t across_end,
                                                 int64_t inner, int64_t inner_end) {
    const int t = (int)threadIdx.x;
    for (int s = 0; s < TILE * DEPTH / THREADS; s++) {
        const int i = inner_stride == 1 ? t / DEPTH + s * (THREADS / DEPTH) : t % TILE;
        const int k = inner_stride == 1 ? t % DEPTH : t / TILE + s * (THREADS / TILE);
        const bool inside = across + i < across_end && inner + k < inner_end;
        tile[k][i] = inside ? cavmae__to_float(x[(across + i) * across_stride + (inner + k) * inner_stride]) : 0.0f;
    }
}

template <typename In, typename Out>
static __global__ void __launch_bounds__(THREADS)
    product_kernel(cavmae__matmul op, operand left, operand right, int64_t tiles_across) {
    CAVMAE__SHARED(product_shared, shared);
    const int64_t row = (int64_t)blockIdx.x / tiles_across * TILE, column = (int64_t)blockIdx.x % tiles_across * TILE;
    const int y = (int)threadIdx.x / (TILE / EACH) * EACH, x = (int)threadIdx.x % (TILE / EACH) * EACH;
    float sum[EACH][EACH] = {{0}};
    for (int64_t k = 0; k < op.k; k += DEPTH) {
        load_tile(shared->a, (const In *)op.a, left.row_stride, left.column_stride, row, op.m, k, op.k);
        load_tile(shared->b, (const In *)op.b, right.column_stride, right.row_stride, column, op.n, k, op.k);
        __syncthreads();
        for (int d = 0; d < DEPTH; d++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) sum[i][j] = fmaf(shared->a[d][y + i], shared->b[d][x + j], sum[i][j]);
        __syncthreads();
    }
    const Out *c = (const Out *)op.c;
    Out *d = (Out *)op.d;
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            if (row + y + i >= op.m || column + x + j >= op.n) continue;
            const int64_t at = (row + y + i) * op.d_stride + column + x + j;
            float value = op.alpha * sum[i][j];
            if (op.beta != 0) value += op.beta * cavmae__to_float(c[at]);
            d[at] = cavmae__from_float<Out>(value);
        }
}

extern "C" cavmae_status cavmae__cuda_matmul_plain(cavmae__backend *backend, const cavmae__matmul *op) {
    const operand left = op->a_transposed ? operand{1, op->a_stride} : operand{op->a_stride, 1};
    const operand right = op->b_transposed ? operand{1, op->b_stride} : operand{op->b_stride, 1};
    const int64_t tiles_across = (op->n + TILE - 1) / TILE, blocks = (op->m + TILE - 1) / TILE * tiles_across;
    return cavmae__by_dtype(op->dtype, [&](auto in) {
        return cavmae__by_dtype(op->d_dtype, [&](auto out) {
            return CAVMAE__LAUNCH(backend, (product_kernel<decltype(in), decltype(out)>), (unsigned)blocks, THREADS,
                                  sizeof(product_shared), *op, left, right, tiles_across);
        });
    });
}

template <typename T, typename Bias>
static __global__ void __launch_bounds__(THREADS) finish_kernel(cavmae__matmul op) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / op.n, column = i % op.n;
    if (row >= op.m) return;
    T *d = (T *)op.d + row * op.d_stride + column, *aux = (T *)op.aux + row * op.aux_stride + column;
    float x = cavmae__to_float(*d);
    if (op.bias) x += cavmae__to_float(((const Bias *)op.bias)[column]);
    if (op.activation == CAVMAE__ACTIVATION_GELU) {
        if (op.aux) *aux = cavmae__from_float<T>(x);
        x = tanh_gelu(x);
    }
    if (op.activation == CAVMAE__ACTIVATION_GELU_GRAD) x *= tanh_gelu_slope(cavmae__to_float(*aux));
    *d = cavmae__from_float<T>(x);
}

extern "C" cavmae_status cavmae__cuda_matmul_finish(cavmae__backend *backend, const cavmae__matmul *op) {
    const int32_t bias_dtype = op->dtype == CAVMAE__E4M3 ? (int32_t)CAVMAE_BFLOAT16 : op->d_dtype;
    return cavmae__by_dtype(op->d_dtype, [&](auto type) {
        return cavmae__by_dtype(bias_dtype, [&](auto bias) {
            return CAVMAE__LAUNCH(backend, (finish_kernel<decltype(type), decltype(bias)>),
                                  cavmae__blocks_for(op->m * op->n, THREADS), THREADS, 0, *op);
        });
    });
}
