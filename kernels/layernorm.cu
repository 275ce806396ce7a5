/* y = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(variance + eps) with the biased variance, as torch's LayerNorm.
 * Backward, with n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)); dgamma = sum of dy n
 * and dbeta = sum of dy over a group's rows.
 *
 * A warp takes a row and reads it once: up to 1024 columns stay in its registers, four together in a lane. Going
 * back, a block takes many rows, so that each lane adds up its columns' dgamma and dbeta in registers; the block's
 * sums go to the workspace, and a second kernel adds a group's blocks. Other widths and alignments have kernels
 * without pieces of four, which read rows more than once. */
#include "sums.h"
#include "vector.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP, PIECE = 4 * CAVMAE__WARP };
static const int64_t smallest_block = 32, most_blocks = 528; /* rows; blocks */

/* ---- Groups ---- */

static __device__ __forceinline__ int group_of(const cavmae__layernorm &op, int64_t row) {
    int found = 0;
    int64_t first = op.group[0].rows;
#pragma unroll
    for (int g = 1; g < 4; g++) {
        if (g >= op.group_count) break;
        if (row >= first) found = g;
        first += op.group[g].rows;
    }
    return found;
}

/* A member of group g, without indexing the parameters by a variable: that would copy them to memory of the thread. */
template <typename Type>
static __device__ __forceinline__ Type of_group(const cavmae__layernorm &op, int g, Type cavmae__norm_group::*member) {
    Type value = op.group[0].*member;
#pragma unroll
    for (int i = 1; i < 4; i++)
        if (g == i) value = op.group[i].*member;
    return value;
}

static int64_t rows_of(const cavmae__layernorm *op) {
    int64_t rows = 0;
    for (int g = 0; g < op->group_count; g++) rows += op->group[g].rows;
    return rows;
}

/* Groups in blocks of rows; a block's rows are of one group. Fixed by shapes alone. */
typedef struct row_blocks {
    int64_t rows_each;
    int64_t first_row[5], first_block[5]; /* of each group; the last entry: their numbers */
} row_blocks;

static row_blocks block_rows(const cavmae__layernorm *op) {
    row_blocks blocks = {};
    const int64_t each = (rows_of(op) + most_blocks - 1) / most_blocks;
    blocks.rows_each = each < smallest_block ? smallest_block : (each + WARPS - 1) / WARPS * WARPS;
    for (int g = 0; g < 4; g++) {
        const int64_t rows = g < op->group_count ? op->group[g].rows : 0;
        blocks.first_row[g + 1] = blocks.first_row[g] + rows;
        blocks.first_block[g + 1] = blocks.first_block[g] + (rows + blocks.rows_each - 1) / blocks.rows_each;
    }
    return blocks;
}

typedef struct rows_of_block {
    int group;
    int64_t first, end;
} rows_of_block;

static __device__ __forceinline__ rows_of_block find_rows(const row_blocks &blocks, int64_t block) {
    rows_of_block found = {0, 0, 0};
#pragma unroll
    for (int g = 0; g < 4; g++) {
        if (block < blocks.first_block[g] || block >= blocks.first_block[g + 1]) continue;
        found.group = g;
        found.first = blocks.first_row[g] + (block - blocks.first_block[g]) * blocks.rows_each;
        found.end = blocks.first_row[g + 1];
    }
    if (found.end > found.first + blocks.rows_each) found.end = found.first + blocks.rows_each;
    return found;
}

size_t cavmae__cuda_layernorm_workspace(const cavmae__limits *limits) {
    if (!limits->backward) return 0;
    const int64_t blocks = (limits->rows + smallest_block - 1) / smallest_block;
    return (size_t)((blocks < most_blocks ? blocks : most_blocks) + 4) * 2 * (size_t)limits->width * sizeof(float);
}

/* ---- Forward ---- */

template <typename T, int pieces>
static __global__ void __launch_bounds__(THREADS) normalize_rows(cavmae__layernorm op, int64_t rows) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP, width = op.width;
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= rows) return;
    const float *x = op.x + row * width;
    float4 value[pieces];
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int i = 0; i < pieces; i++) {
        const int column = i * PIECE + 4 * lane;
        value[i] = column < width ? cavmae__load_four(x + column) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int i = 0; i < pieces; i++) sum += (value[i].x + value[i].y) + (value[i].z + value[i].w);
    const float mean = cavmae__warp_sum(sum) / (float)width;
#pragma unroll
    for (int i = 0; i < pieces; i++) {
        if (i * PIECE + 4 * lane >= width) continue;
        value[i] = make_float4(value[i].x - mean, value[i].y - mean, value[i].z - mean, value[i].w - mean);
        square +=
            (value[i].x * value[i].x + value[i].y * value[i].y) + (value[i].z * value[i].z + value[i].w * value[i].w);
    }
    const float rstd = 1.0f / sqrtf(cavmae__warp_sum(square) / (float)width + op.eps);
    const int group = group_of(op, row);
    const float *gamma = of_group(op, group, &cavmae__norm_group::gamma);
    const float *beta = of_group(op, group, &cavmae__norm_group::beta);
    T *y = static_cast<T *>(op.y) + row * width;
#pragma unroll
    for (int i = 0; i < pieces; i++) {
        const int column = i * PIECE + 4 * lane;
        if (column >= width) continue;
        const float4 scale = cavmae__load_four(gamma + column), shift = cavmae__load_four(beta + column);
        cavmae__store_four(y + column,
                           make_float4(value[i].x * rstd * scale.x + shift.x, value[i].y * rstd * scale.y + shift.y,
                                       value[i].z * rstd * scale.z + shift.z, value[i].w * rstd * scale.w + shift.w));
    }
    if (lane != 0) return;
    if (op.mean) op.mean[row] = mean;
    if (op.rstd) op.rstd[row] = rstd;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) normalize_any_rows(cavmae__layernorm op, int64_t rows) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP, width = op.width;
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= rows) return;
    const float *x = op.x + row * width;
    float sum = 0.0f, square = 0.0f;
    for (int j = lane; j < width; j += CAVMAE__WARP) sum += x[j];
    const float mean = cavmae__warp_sum(sum) / (float)width;
    for (int j = lane; j < width; j += CAVMAE__WARP) square += (x[j] - mean) * (x[j] - mean);
    const float rstd = 1.0f / sqrtf(cavmae__warp_sum(square) / (float)width + op.eps);
    const int group = group_of(op, row);
    const float *gamma = of_group(op, group, &cavmae__norm_group::gamma);
    const float *beta = of_group(op, group, &cavmae__norm_group::beta);
    T *y = static_cast<T *>(op.y) + row * width;
    for (int j = lane; j < width; j += CAVMAE__WARP)
        y[j] = cavmae__from_float<T>((x[j] - mean) * rstd * gamma[j] + beta[j]);
    if (lane != 0) return;
    if (op.mean) op.mean[row] = mean;
    if (op.rstd) op.rstd[row] = rstd;
}

/* ---- Backward ---- */

template <typename T, int pieces>
static __global__ void __launch_bounds__(THREADS, pieces <= 6 ? 2 : 1)
    normalize_rows_grad(cavmae__layernorm op, row_blocks blocks) {
    CAVMAE__SHARED(float4, shared); /* [2][pieces][32]: sums of dy n, and of dy */
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP, width = op.width;
    const rows_of_block own = find_rows(blocks, blockIdx.x);
    const float *gamma = of_group(op, own.group, &cavmae__norm_group::gamma);
    float4 sum_n[pieces], sum_1[pieces];
#pragma unroll
    for (int i = 0; i < pieces; i++) sum_n[i] = sum_1[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int64_t row = own.first + warp; row < own.end; row += WARPS) {
        const float *x = op.x + row * width;
        const T *dy = static_cast<const T *>(op.dy) + row * width;
        const float mean = op.mean[row], rstd = op.rstd[row];
        float4 n[pieces], g[pieces];
#pragma unroll
        for (int i = 0; i < pieces; i++) {
            const int column = i * PIECE + 4 * lane;
            n[i] = g[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (column >= width) continue;
            n[i] = cavmae__load_four(x + column);
            g[i] = cavmae__load_four(dy + column);
        }
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (int i = 0; i < pieces; i++) {
            const int column = i * PIECE + 4 * lane;
            if (column >= width) continue;
            const float4 scale = cavmae__load_four(gamma + column);
            n[i] = make_float4((n[i].x - mean) * rstd, (n[i].y - mean) * rstd, (n[i].z - mean) * rstd,
                               (n[i].w - mean) * rstd);
            sum_n[i] = make_float4(fmaf(g[i].x, n[i].x, sum_n[i].x), fmaf(g[i].y, n[i].y, sum_n[i].y),
                                   fmaf(g[i].z, n[i].z, sum_n[i].z), fmaf(g[i].w, n[i].w, sum_n[i].w));
            sum_1[i] = cavmae__vector<float4>::add(sum_1[i], g[i]);
            g[i] = make_float4(g[i].x * scale.x, g[i].y * scale.y, g[i].z * scale.z, g[i].w * scale.w);
            sum += (g[i].x + g[i].y) + (g[i].z + g[i].w);
            product += (g[i].x * n[i].x + g[i].y * n[i].y) + (g[i].z * n[i].z + g[i].w * n[i].w);
        }
        const float mean_g = cavmae__warp_sum(sum) / (float)width, mean_gn = cavmae__warp_sum(product) / (float)width;
#pragma unroll
        for (int i = 0; i < pieces; i++) {
            const int column = i * PIECE + 4 * lane;
            if (column >= width) continue;
            float4 dx =
                make_float4((g[i].x - mean_g - n[i].x * mean_gn) * rstd, (g[i].y - mean_g - n[i].y * mean_gn) * rstd,
                            (g[i].z - mean_g - n[i].z * mean_gn) * rstd, (g[i].w - mean_g - n[i].w * mean_gn) * rstd);
            if (op.add) dx = cavmae__vector<float4>::add(dx, cavmae__load_four(op.add + row * width + column));
            cavmae__store_four(op.dx + row * width + column, dx);
        }
    }
    /* The warps add theirs one after another. */
    for (int turn = 0; turn < WARPS; turn++) {
        if (warp == turn) {
#pragma unroll
            for (int i = 0; i < pieces; i++) {
                float4 *of_n = shared + i * CAVMAE__WARP + lane, *of_1 = of_n + pieces * CAVMAE__WARP;
                *of_n = turn ? cavmae__vector<float4>::add(*of_n, sum_n[i]) : sum_n[i];
                *of_1 = turn ? cavmae__vector<float4>::add(*of_1, sum_1[i]) : sum_1[i];
            }
        }
        __syncthreads();
    }
    float *part = static_cast<float *>(op.workspace) + (int64_t)blockIdx.x * 2 * width;
    for (int j = (int)threadIdx.x; 4 * j < width; j += THREADS) {
        cavmae__store_four(part + 4 * j, shared[j]);
        cavmae__store_four(part + width + 4 * j, shared[pieces * CAVMAE__WARP + j]);
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) normalize_any_rows_grad(cavmae__layernorm op, int64_t rows) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP, width = op.width;
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= rows) return;
    const float *x = op.x + row * width, *gamma = of_group(op, group_of(op, row), &cavmae__norm_group::gamma);
    const T *dy = static_cast<const T *>(op.dy) + row * width;
    const float mean = op.mean[row], rstd = op.rstd[row];
    float sum = 0.0f, product = 0.0f;
    for (int j = lane; j < width; j += CAVMAE__WARP) {
        const float g = cavmae__to_float(dy[j]) * gamma[j];
        sum += g;
        product += g * ((x[j] - mean) * rstd);
    }
    const float mean_g = cavmae__warp_sum(sum) / (float)width, mean_gn = cavmae__warp_sum(product) / (float)width;
    for (int j = lane; j < width; j += CAVMAE__WARP) {
        float dx = (cavmae__to_float(dy[j]) * gamma[j] - mean_g - (x[j] - mean) * rstd * mean_gn) * rstd;
        if (op.add) dx += op.add[row * width + j];
        op.dx[row * width + j] = dx;
    }
}

/* The sums of a block of rows, a thread a column: what normalize_rows_grad leaves. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) affine_grad(cavmae__layernorm op, row_blocks blocks) {
    const int width = op.width, column = (int)(blockIdx.y * THREADS + threadIdx.x);
    const rows_of_block own = find_rows(blocks, blockIdx.x);
    if (column >= width) return;
    float sum_n = 0.0f, sum_1 = 0.0f;
    for (int64_t row = own.first; row < own.end; row++) {
        const float dy = cavmae__to_float(static_cast<const T *>(op.dy)[row * width + column]);
        sum_n += dy * ((op.x[row * width + column] - op.mean[row]) * op.rstd[row]);
        sum_1 += dy;
    }
    float *part = static_cast<float *>(op.workspace) + (int64_t)blockIdx.x * 2 * width + column;
    part[0] = sum_n;
    part[width] = sum_1;
}

/* Adds the blocks of each group. */
static __global__ void __launch_bounds__(CAVMAE__PART_THREADS) add_blocks(cavmae__layernorm op, row_blocks blocks) {
    CAVMAE__SHARED(cavmae__part_shared, shared);
    const int width = op.width, group = (int)blockIdx.y;
    const int column = (int)(blockIdx.x * CAVMAE__PART_COLUMNS + threadIdx.x % CAVMAE__PART_COLUMNS);
    float *dgamma = of_group(op, group, &cavmae__norm_group::dgamma);
    float *dbeta = of_group(op, group, &cavmae__norm_group::dbeta), *to = NULL;
    if (column < 2 * width) to = column < width ? dgamma + column : dbeta + (column - width);
    int64_t first = 0, end = 0;
#pragma unroll
    for (int g = 0; g < 4; g++) {
        if (g != group) continue;
        first = blocks.first_block[g];
        end = blocks.first_block[g + 1];
    }
    const float *part = static_cast<const float *>(op.workspace) + first * 2 * width + column;
    cavmae__add_parts(shared, part, 2 * width, end - first, to, op.accumulate);
}

/* ---- Launches ---- */

template <int number> struct constant { static constexpr int value = number; };

/* Calls a launch with the number of pieces that a row has. */
template <typename Function> static cavmae_status by_pieces(int width, Function function) {
    if (width <= 4 * PIECE) return function(constant<4>());
    if (width <= 6 * PIECE) return function(constant<6>());
    return function(constant<8>());
}

static bool in_pieces(const cavmae__layernorm *op) {
    bool good = op->width % 4 == 0 && op->width <= 8 * PIECE && cavmae__aligned(op->x, op->add, op->dx) &&
                cavmae__aligned(static_cast<const float *>(op->workspace), static_cast<const char *>(op->y),
                                static_cast<const char *>(op->dy));
    for (int g = 0; g < op->group_count; g++) good = good && cavmae__aligned(op->group[g].gamma, op->group[g].beta);
    return good;
}

cavmae_status cavmae__cuda_layernorm(cavmae__backend *backend, const cavmae__layernorm *op) {
    const int64_t rows = rows_of(op);
    const unsigned blocks = cavmae__blocks_for(rows, WARPS);
    return cavmae__by_dtype(op->y_dtype, [&](auto zero) {
        typedef decltype(zero) T;
        if (!in_pieces(op)) return CAVMAE__LAUNCH(backend, normalize_any_rows<T>, blocks, THREADS, 0, *op, rows);
        return by_pieces(op->width, [&](auto pieces) {
            return CAVMAE__LAUNCH(backend, (normalize_rows<T, decltype(pieces)::value>), blocks, THREADS, 0, *op, rows);
        });
    });
}

cavmae_status cavmae__cuda_layernorm_grad(cavmae__backend *backend, const cavmae__layernorm *op) {
    const int64_t rows = rows_of(op);
    const row_blocks blocks = block_rows(op);
    const unsigned count = (unsigned)blocks.first_block[4];
    cavmae_status status = cavmae__by_dtype(op->y_dtype, [&](auto zero) {
        typedef decltype(zero) T;
        if (in_pieces(op))
            return by_pieces(op->width, [&](auto pieces) {
                constexpr int n = decltype(pieces)::value;
                return CAVMAE__LAUNCH(backend, (normalize_rows_grad<T, n>), count, THREADS,
                                      2 * n * CAVMAE__WARP * sizeof(float4), *op, blocks);
            });
        /* First the sums: dx may lie where dy does. */
        const cavmae_status sums = CAVMAE__LAUNCH(
            backend, affine_grad<T>, dim3(count, cavmae__blocks_for(op->width, THREADS)), THREADS, 0, *op, blocks);
        if (sums != CAVMAE_OK) return sums;
        return CAVMAE__LAUNCH(backend, normalize_any_rows_grad<T>, cavmae__blocks_for(rows, WARPS), THREADS, 0, *op,
                              rows);
    });
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, add_blocks,
                          dim3(cavmae__blocks_for(2 * op->width, CAVMAE__PART_COLUMNS), (unsigned)op->group_count),
                          CAVMAE__PART_THREADS, sizeof(cavmae__part_shared), *op, blocks);
}
