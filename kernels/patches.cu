/* Patches as rows. A warp takes a patch, 16 bytes a lane where the input's strides allow. A picture's rows of pixels
 * lie in memory as they do in the patch; sound lies the other way round, a frame's mel bins together, and is turned
 * over in shared memory, so that reads and writes both take neighbouring addresses. */
#include "vector.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP, AT_ONCE = 4, LARGEST_TURNED = 32 };

/* One tile [patch][patch + 1] for each warp: with the odd length, a column's elements lie in different banks. */
static size_t tiles_size(int32_t patch) { return (size_t)(WARPS * patch * (patch + 1)) * sizeof(float); }

/* What of the source and of y allows 16 bytes; a patch's own offset is left to the kernel. */
enum { SINGLE, ALONG_ROWS, ALONG_COLUMNS };

static int way_of(const cavmae__patches *op) {
    const cavmae__patch_source *s = &op->source;
    const int64_t outer = s->column_stride == 1 ? s->row_stride : s->column_stride;
    if (s->patch % 4 != 0 || (s->channel_stride | outer) % 4 != 0 ||
        !cavmae__aligned(s->data, static_cast<const char *>(op->y)))
        return SINGLE;
    if (s->column_stride == 1) return ALONG_ROWS;
    return s->row_stride == 1 && s->patch <= LARGEST_TURNED ? ALONG_COLUMNS : SINGLE;
}

/* fixed: the patch's size where it is known, so that divisions are shifts; or 0. */
template <typename T, int fixed>
static __global__ void __launch_bounds__(THREADS) copy_patches(cavmae__patches op, int32_t way) {
    CAVMAE__SHARED(float, tiles);
    const cavmae__patch_source &s = op.source;
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int64_t r = (int64_t)blockIdx.x * WARPS + warp;
    if (r >= op.rows) return;
    const int patch = fixed ? fixed : s.patch, plane = patch * patch, quarter = patch / 4, count = s.channels * plane;
    const int32_t clip = op.clip[r], token = op.token[r], columns = s.columns[clip];
    const float *corner = s.data + s.offset[clip] + (int64_t)(token / columns) * patch * s.row_stride +
                          (int64_t)(token % columns) * patch * s.column_stride;
    T *y = static_cast<T *>(op.y) + r * count;
    if (way == SINGLE || (corner - s.data) % 4 != 0) {
        for (int e = lane; e < count; e += CAVMAE__WARP)
            y[e] = cavmae__from_float<T>(
                corner[e / plane * s.channel_stride + e % plane / patch * s.row_stride + e % patch * s.column_stride]);
    } else if (way == ALONG_ROWS) {
        for (int first = lane; 4 * first < count; first += AT_ONCE * CAVMAE__WARP) {
            float4 value[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int e = 4 * (first + i * CAVMAE__WARP);
                value[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (e >= count) continue;
                value[i] = cavmae__load_four(corner + e / plane * s.channel_stride + e % plane / patch * s.row_stride +
                                             e % patch);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (first + i * CAVMAE__WARP < count / 4)
                    cavmae__store_four(y + 4 * (first + i * CAVMAE__WARP), value[i]);
        }
    } else {
        float *tile = tiles + warp * (patch * (patch + 1));
        for (int c = 0; c < s.channels; c++) {
            __syncwarp(0xffffffffu);
#pragma unroll 2
            for (int i = lane; 4 * i < plane; i += CAVMAE__WARP) {
                const int column = i / quarter, row = i % quarter * 4;
                const float4 value = cavmae__load_four(corner + c * s.channel_stride + column * s.column_stride + row);
                float *to = tile + row * (patch + 1) + column;
                to[0] = value.x;
                to[patch + 1] = value.y;
                to[2 * (patch + 1)] = value.z;
                to[3 * (patch + 1)] = value.w;
            }
            __syncwarp(0xffffffffu);
            for (int i = lane; 4 * i < plane; i += CAVMAE__WARP) {
                const float *from = tile + i / quarter * (patch + 1) + i % quarter * 4;
                cavmae__store_four(y + c * plane + 4 * i, make_float4(from[0], from[1], from[2], from[3]));
            }
        }
    }
}

cavmae_status cavmae__cuda_patches(cavmae__backend *backend, const cavmae__patches *op) {
    const int way = way_of(op);
    const size_t shared = way == ALONG_COLUMNS ? tiles_size(op->source.patch) : 0;
    const unsigned blocks = cavmae__blocks_for(op->rows, WARPS);
    return cavmae__by_dtype(op->y_dtype, [&](auto zero) {
        typedef decltype(zero) T;
        if (op->source.patch == 16)
            return CAVMAE__LAUNCH(backend, (copy_patches<T, 16>), blocks, THREADS, shared, *op, way);
        return CAVMAE__LAUNCH(backend, (copy_patches<T, 0>), blocks, THREADS, shared, *op, way);
    });
}
