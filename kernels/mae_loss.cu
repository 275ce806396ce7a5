/* The masked reconstruction loss, in float64 as on the CPU. A warp takes a token; one that was not removed costs
 * nothing but its zeros in dpred. A removed token's patch is read once, in the order of memory, and turned into (row,
 * column, channel) in shared memory, where the passes for mean, variance and loss find it; patches too large for that
 * are read again. */
#include "sums.h"
#include "vector.h"

enum { THREADS = 256, ROWS_EACH = 32 /* of a block */, LARGEST_STAGED = 40 * 1024 /* bytes */ };

size_t cavmae__cuda_mae_loss_workspace(const cavmae__limits *limits) {
    return (size_t)((limits->rows + ROWS_EACH - 1) / ROWS_EACH) * sizeof(double);
}

/* Where element j of a patch lies in shared memory: a gap after every 16 keeps columns of 16 in different banks. */
static __host__ __device__ __forceinline__ int staged_at(int j) { return j + (j >> 4); }

typedef struct loss_shared {
    cavmae__sum_shared sums;
    float stage[4]; /* and more: [warps][staged_at(width)] */
} loss_shared;

template <int fixed> static __device__ __forceinline__ int patch_of(const cavmae__patch_source &s) {
    return fixed ? fixed : s.patch;
}

/* Element j in the order (row, column, channel). */
template <int fixed>
static __device__ __forceinline__ float element(const cavmae__patch_source &s, const float *corner, int j) {
    const int patch = patch_of<fixed>(s), pixel = j / s.channels;
    return corner[j % s.channels * s.channel_stride + pixel / patch * s.row_stride + pixel % patch * s.column_stride];
}

/* The patch to shared memory, read along what is contiguous: rows, or columns where sound has its mel bins. */
template <int fixed>
static __device__ __forceinline__ void stage_patch(const cavmae__patch_source &s, const float *corner, float *stage) {
    const int patch = patch_of<fixed>(s), plane = patch * patch, count = plane * s.channels;
    const bool turned = s.row_stride == 1 && s.column_stride != 1;
    const int64_t outer_stride = turned ? s.column_stride : s.row_stride, stride = turned ? 1 : s.column_stride;
    const int64_t offset = corner - s.data;
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
    const int inner_step = (turned ? patch : 1) * s.channels, outer_step = (turned ? 1 : patch) * s.channels;
    if (stride == 1 && patch % 4 == 0 && (offset | outer_stride | s.channel_stride) % 4 == 0 &&
        (reinterpret_cast<uintptr_t>(s.data) & 15) == 0) {
#pragma unroll 2
        for (int e = 4 * lane; e < count; e += 4 * CAVMAE__WARP) {
            const int c = e / plane, outer = e % plane / patch, inner = e % patch;
            const float4 value = cavmae__load_four(corner + c * s.channel_stride + outer * outer_stride + inner);
            const int j = inner * inner_step + outer * outer_step + c;
            stage[staged_at(j)] = value.x;
            stage[staged_at(j + inner_step)] = value.y;
            stage[staged_at(j + 2 * inner_step)] = value.z;
            stage[staged_at(j + 3 * inner_step)] = value.w;
        }
    } else {
        for (int e = lane; e < count; e += CAVMAE__WARP) {
            const int c = e / plane, outer = e % plane / patch, inner = e % patch;
            stage[staged_at(inner * inner_step + outer * outer_step + c)] =
                corner[c * s.channel_stride + outer * outer_stride + inner * stride];
        }
    }
}

/* A lane's part of the sum of (pred - target)^2 over row r's elements, and its part of dpred. `at`: element j. */
template <typename At>
static __device__ __forceinline__ double compare_row(const cavmae__mae_loss &op, int64_t r, int width, bool four,
                                                     double slope, At at) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
    double mean = 0, scale = 1, loss = 0;
    if (op.norm_pix) {
        double sum = 0, square = 0;
        for (int j = lane; j < width; j += CAVMAE__WARP) sum += (double)at(j);
        mean = cavmae__warp_sum(sum) / width;
        for (int j = lane; j < width; j += CAVMAE__WARP) square += ((double)at(j) - mean) * ((double)at(j) - mean);
        scale = 1 / sqrt(cavmae__warp_sum(square) / (width - 1) + 1e-6);
    }
    const float *pred = op.pred + r * width;
    float *dpred = op.dpred ? op.dpred + r * width : NULL;
    if (four) {
#pragma unroll 2
        for (int j = 4 * lane; j < width; j += 4 * CAVMAE__WARP) {
            const float4 value = cavmae__load_four(pred + j);
            const double x = (double)value.x - ((double)at(j) - mean) * scale,
                         y = (double)value.y - ((double)at(j + 1) - mean) * scale,
                         z = (double)value.z - ((double)at(j + 2) - mean) * scale,
                         w = (double)value.w - ((double)at(j + 3) - mean) * scale;
            loss += (x * x + y * y) + (z * z + w * w);
            if (dpred)
                cavmae__store_four(dpred + j, make_float4((float)(slope * x), (float)(slope * y), (float)(slope * z),
                                                          (float)(slope * w)));
        }
    } else {
        for (int j = lane; j < width; j += CAVMAE__WARP) {
            const double d = (double)pred[j] - ((double)at(j) - mean) * scale;
            loss += d * d;
            if (dpred) dpred[j] = (float)(slope * d);
        }
    }
    return loss;
}

template <int fixed, bool staged>
static __global__ void __launch_bounds__(THREADS, staged ? 2 : 1) compare_rows(cavmae__mae_loss op, int32_t four) {
    CAVMAE__SHARED(loss_shared, shared);
    const cavmae__patch_source &s = op.source;
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int warps = (int)blockDim.x / CAVMAE__WARP, patch = patch_of<fixed>(s), width = patch * patch * s.channels;
    const int64_t first = (int64_t)blockIdx.x * ROWS_EACH;
    const int64_t end = first + ROWS_EACH < op.rows ? first + ROWS_EACH : op.rows;
    const double slope = op.weight * 2 / ((double)width * *op.removed);
    float *stage = shared->stage + warp * staged_at(width);
    double loss = 0;
    for (int64_t r = first + warp; r < end; r += warps) {
        if (!op.mask[r]) {
            for (int j = lane; op.dpred && j < width; j += CAVMAE__WARP) op.dpred[r * width + j] = 0.0f;
            continue;
        }
        const int32_t clip = op.clip[r], token = op.token[r], columns = s.columns[clip];
        const float *corner = s.data + s.offset[clip] + (int64_t)(token / columns) * patch * s.row_stride +
                              (int64_t)(token % columns) * patch * s.column_stride;
        if (staged) {
            __syncwarp(0xffffffffu); /* the last patch has been read */
            stage_patch<fixed>(s, corner, stage);
            __syncwarp(0xffffffffu);
            loss += compare_row(op, r, width, four, slope, [&](int j) { return stage[staged_at(j)]; });
        } else {
            loss += compare_row(op, r, width, four, slope, [&](int j) { return element<fixed>(s, corner, j); });
        }
    }
    loss = cavmae__block_sum(&shared->sums, loss);
    if (threadIdx.x == 0) static_cast<double *>(op.workspace)[blockIdx.x] = loss;
}

static __global__ void __launch_bounds__(THREADS) add_blocks(cavmae__mae_loss op, int64_t blocks, int width) {
    CAVMAE__SHARED(cavmae__sum_shared, shared);
    const double sum = cavmae__sum_parts(shared, static_cast<const double *>(op.workspace), blocks);
    if (threadIdx.x == 0) *op.loss += sum / ((double)width * *op.removed);
}

cavmae_status cavmae__cuda_mae_loss(cavmae__backend *backend, const cavmae__mae_loss *op) {
    const int32_t patch = op->source.patch, width = patch * patch * op->source.channels;
    const int32_t four = width % 4 == 0 && cavmae__aligned(op->pred, op->dpred);
    const unsigned blocks = cavmae__blocks_for(op->rows, ROWS_EACH);
    /* As many warps, up to eight, as have their patches in shared memory together. */
    const size_t stage = (size_t)staged_at(width) * sizeof(float);
    const bool staged = stage <= LARGEST_STAGED;
    unsigned threads = THREADS;
    while (staged && threads / CAVMAE__WARP * stage > LARGEST_STAGED) threads /= 2;
    const size_t shared = sizeof(loss_shared) + (staged ? threads / CAVMAE__WARP * stage : 0);
    cavmae_status status;
    if (!staged)
        status = CAVMAE__LAUNCH(backend, (compare_rows<0, false>), blocks, threads, shared, *op, four);
    else if (patch == 16)
        status = CAVMAE__LAUNCH(backend, (compare_rows<16, true>), blocks, threads, shared, *op, four);
    else
        status = CAVMAE__LAUNCH(backend, (compare_rows<0, true>), blocks, threads, shared, *op, four);
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, add_blocks, 1, THREADS, sizeof(cavmae__sum_shared), *op, blocks, width);
}
