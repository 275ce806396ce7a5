/* Operations that copy, place and average rows. They wait for memory alone: a warp takes a row, a lane 16 bytes of it
 * at a time, and as many pieces are asked for at once as fit. */
#include "vector.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP, AT_ONCE = 4 };

/* ---- Place and combine ---- */

template <typename Vector>
static __global__ void __launch_bounds__(THREADS) place_rows(cavmae__place op, int32_t pieces) {
    typedef cavmae__vector<Vector> V;
    const int64_t k = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (k >= op.count) return;
    const int64_t row = op.row ? op.row[k] : k, source = op.source ? op.source[k] : k;
    if (row < 0) return;
    const Vector *x = reinterpret_cast<const Vector *>(source < 0 ? op.fill : op.x + source * op.width);
    const Vector *table =
        op.table ? reinterpret_cast<const Vector *>(op.table + (int64_t)op.position[k] * op.width) : NULL;
    const Vector *vector = reinterpret_cast<const Vector *>(op.vector);
    Vector *out = reinterpret_cast<Vector *>(op.out + row * op.width);
    /* All loads before the stores, which may go to where x lies. */
    for (int first = (int)threadIdx.x % CAVMAE__WARP; first < pieces; first += AT_ONCE * CAVMAE__WARP) {
        Vector sum[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int j = first + i * CAVMAE__WARP;
            sum[i] = V::zero();
            if (j >= pieces) continue;
            sum[i] = x[j];
            if (table) sum[i] = V::add(sum[i], table[j]);
            if (vector) sum[i] = V::add(sum[i], vector[j]);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * CAVMAE__WARP < pieces) out[first + i * CAVMAE__WARP] = sum[i];
    }
}

cavmae_status cavmae__cuda_place(cavmae__backend *backend, const cavmae__place *op) {
    const bool four = op->width % 4 == 0 && cavmae__aligned(op->x, op->fill, op->table, op->vector, op->out);
    return cavmae__by_vector(four, [&](auto zero) {
        typedef decltype(zero) Vector;
        return CAVMAE__LAUNCH(backend, place_rows<Vector>, cavmae__blocks_for(op->count, WARPS), THREADS, 0, *op,
                              op->width / cavmae__vector<Vector>::width);
    });
}

template <typename Vector>
static __global__ void __launch_bounds__(THREADS) combine_rows(cavmae__combine op, int32_t pieces) {
    typedef cavmae__vector<Vector> V;
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (r >= op.rows) return;
    int64_t first = op.first[r], second = op.second ? op.second[r] : -1;
    if (first < 0) {
        first = second;
        second = -1;
    }
    const Vector *a = reinterpret_cast<const Vector *>(op.x) + first * pieces;
    const Vector *b = reinterpret_cast<const Vector *>(op.x) + second * pieces;
    Vector *y = reinterpret_cast<Vector *>(op.y) + r * pieces;
    for (int start = (int)threadIdx.x % CAVMAE__WARP; start < pieces; start += AT_ONCE * CAVMAE__WARP) {
        Vector sum[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int j = start + i * CAVMAE__WARP;
            sum[i] = V::zero();
            if (j >= pieces) continue;
            if (first >= 0) sum[i] = a[j];
            if (second >= 0) sum[i] = V::add(sum[i], b[j]);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (start + i * CAVMAE__WARP < pieces) y[start + i * CAVMAE__WARP] = sum[i];
    }
}

cavmae_status cavmae__cuda_combine(cavmae__backend *backend, const cavmae__combine *op) {
    return cavmae__by_vector(op->width % 4 == 0 && cavmae__aligned(op->x, op->y), [&](auto zero) {
        typedef decltype(zero) Vector;
        return CAVMAE__LAUNCH(backend, combine_rows<Vector>, cavmae__blocks_for(op->rows, WARPS), THREADS, 0, *op,
                              op->width / cavmae__vector<Vector>::width);
    });
}

/* ---- Means of segments: a block takes 32 pieces of a segment's columns, each warp every eighth row ---- */

template <typename Vector> struct mean_shared { Vector sum[WARPS][CAVMAE__WARP]; };

template <typename Vector>
static __global__ void __launch_bounds__(THREADS)
    mean_of_segments(cavmae__segment_mean op, int32_t pieces, int32_t chunks) {
    typedef cavmae__vector<Vector> V;
    CAVMAE__SHARED(mean_shared<Vector>, shared);
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int segment = (int)blockIdx.x / chunks, piece = (int)blockIdx.x % chunks * CAVMAE__WARP + lane;
    const int64_t start = op.segments.start[segment], end = op.segments.start[segment + 1];
    const Vector *x = reinterpret_cast<const Vector *>(op.x) + piece;
    Vector sum = V::zero();
    if (piece < pieces) {
#pragma unroll 4
        for (int64_t r = start + warp; r < end; r += WARPS) sum = V::add(sum, x[r * pieces]);
    }
    shared->sum[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || piece >= pieces) return;
    for (int i = 1; i < WARPS; i++) sum = V::add(sum, shared->sum[i][lane]);
    reinterpret_cast<Vector *>(op.y)[(int64_t)segment * pieces + piece] = V::divide(sum, (float)(end - start));
}

cavmae_status cavmae__cuda_segment_mean(cavmae__backend *backend, const cavmae__segment_mean *op) {
    return cavmae__by_vector(op->width % 4 == 0 && cavmae__aligned(op->x, op->y), [&](auto zero) {
        typedef decltype(zero) Vector;
        const int32_t pieces = op->width / cavmae__vector<Vector>::width;
        const int32_t chunks = (pieces + CAVMAE__WARP - 1) / CAVMAE__WARP;
        return CAVMAE__LAUNCH(backend, mean_of_segments<Vector>,
                              cavmae__blocks_for((int64_t)op->segments.count * chunks, 1), THREADS,
                              sizeof(mean_shared<Vector>), *op, pieces, chunks);
    });
}

/* The way back: a block writes up to 64 rows of a segment. */
static const int rows_each = 8 * WARPS;

template <typename Vector>
static __global__ void __launch_bounds__(THREADS)
    mean_grad_of_segments(cavmae__segment_mean op, int32_t pieces, int32_t parts) {
    typedef cavmae__vector<Vector> V;
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int segment = (int)blockIdx.x / parts;
    const int64_t start = op.segments.start[segment], end = op.segments.start[segment + 1];
    const int64_t first = start + (int64_t)((int)blockIdx.x % parts) * rows_each;
    const int64_t last = first + rows_each < end ? first + rows_each : end;
    const float length = (float)(end - start);
    for (int j = lane; j < pieces; j += CAVMAE__WARP) {
        const Vector dy = V::divide(reinterpret_cast<const Vector *>(op.dy)[(int64_t)segment * pieces + j], length);
        for (int64_t r = first + warp; r < last; r += WARPS) reinterpret_cast<Vector *>(op.dx)[r * pieces + j] = dy;
    }
}

cavmae_status cavmae__cuda_segment_mean_grad(cavmae__backend *backend, const cavmae__segment_mean *op) {
    return cavmae__by_vector(op->width % 4 == 0 && cavmae__aligned(op->dy, op->dx), [&](auto zero) {
        typedef decltype(zero) Vector;
        const int32_t parts = (op->segments.longest + rows_each - 1) / rows_each;
        return CAVMAE__LAUNCH(backend, mean_grad_of_segments<Vector>,
                              cavmae__blocks_for((int64_t)op->segments.count * parts, 1), THREADS, 0, *op,
                              op->width / cavmae__vector<Vector>::width, parts);
    });
}

/* ---- Sums of streams: a warp takes one row of one part, or of one stream ---- */

template <typename Vector>
static __global__ void __launch_bounds__(THREADS) mix_streams(cavmae__mix op, int32_t pieces) {
    typedef cavmae__vector<Vector> V;
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (at >= op.rows * op.parts) return;
    const int64_t r = at / op.parts, part = at % op.parts;
    const float *weight = op.weight + (part * op.rows + r) * 3;
    Vector *y = reinterpret_cast<Vector *>(op.y) + at * pieces;
    for (int j = (int)threadIdx.x % CAVMAE__WARP; j < pieces; j += CAVMAE__WARP) {
        Vector sum = V::zero();
#pragma unroll
        for (int s = 0; s < 3; s++) {
            if (!op.x[s] || weight[s] == 0) continue; /* what has no weight may be anything */
            const Vector *x = reinterpret_cast<const Vector *>(op.x[s]) + r / op.repeat[s] * pieces;
            sum = V::multiply_add(weight[s], x[j], sum);
        }
        y[j] = sum;
    }
}

template <typename Vector>
static __global__ void __launch_bounds__(THREADS) mix_streams_grad(cavmae__mix op, int32_t pieces) {
    typedef cavmae__vector<Vector> V;
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (r >= op.rows) return;
#pragma unroll
    for (int s = 0; s < 3; s++) {
        if (!op.dx[s]) continue;
        Vector *dx = reinterpret_cast<Vector *>(op.dx[s]) + r * pieces;
        for (int j = (int)threadIdx.x % CAVMAE__WARP; j < pieces; j += CAVMAE__WARP) {
            Vector sum = V::zero();
            for (int32_t part = 0; part < op.parts; part++) {
                const Vector *dy = reinterpret_cast<const Vector *>(op.dy) + (r * op.parts + part) * pieces;
                sum = V::multiply_add(op.weight[(part * op.rows + r) * 3 + s], dy[j], sum);
            }
            dx[j] = sum;
        }
    }
}

cavmae_status cavmae__cuda_mix(cavmae__backend *backend, const cavmae__mix *op) {
    const bool four = op->width % 4 == 0 && cavmae__aligned(op->x[0], op->x[1], op->x[2], op->y);
    return cavmae__by_vector(four, [&](auto zero) {
        typedef decltype(zero) Vector;
        return CAVMAE__LAUNCH(backend, mix_streams<Vector>, cavmae__blocks_for(op->rows * op->parts, WARPS), THREADS, 0,
                              *op, op->width / cavmae__vector<Vector>::width);
    });
}

cavmae_status cavmae__cuda_mix_grad(cavmae__backend *backend, const cavmae__mix *op) {
    const bool four = op->width % 4 == 0 && cavmae__aligned(op->dy, op->dx[0], op->dx[1], op->dx[2]);
    return cavmae__by_vector(four, [&](auto zero) {
        typedef decltype(zero) Vector;
        return CAVMAE__LAUNCH(backend, mix_streams_grad<Vector>, cavmae__blocks_for(op->rows, WARPS), THREADS, 0, *op,
                              op->width / cavmae__vector<Vector>::width);
    });
}
