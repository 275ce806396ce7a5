/* Attention going back, in bfloat16 with float32 sums. P is computed again from lse:
 *     dV = P^T dO, dP = dO V^T, dS = P (dP - delta), delta = rowsum(dO O),
 *     dQ = dS K / sqrt(head_dim), dK = dS^T Q / sqrt(head_dim).
 *
 * Two kernels, so that every sum is one block's and nothing is added out of order: the first has queries in its
 * blocks and keys coming by, gives dQ, and leaves delta in the workspace; the second has keys in its blocks and queries
 * coming by, works on S^T, and gives dK and dV. P and dS never leave the registers. One kernel that computes S and dP
 * once, for five products and not seven, would have to hand dS from warp to warp through shared memory: by count, not
 * measured, that takes as long as what it saves. */
#include "attention_tiles.h"

template <int dim> struct grad_size {
    enum { COUNT = dim == 32 ? 2 : 1, ROWS = 16 * ATTENTION_WARPS * COUNT };
};

/* dS = P (dP - delta) as a product's left side. The sums of dp began at -delta. */
template <int count>
static __device__ __forceinline__ void scores_grad(uint32_t ds[count][4], const float p[count][2][4],
                                                   float dp[count][2][4]) {
#pragma unroll
    for (int t = 0; t < count; t++) {
#pragma unroll
        for (int e = 0; e < 8; e++) dp[t][e / 4][e % 4] *= p[t][e / 4][e % 4];
        as_left(ds[t], dp[t]);
    }
}

/* ---- dQ ---- */

template <int dim> struct key_stage { row_tile<dim, ATTENTION_ROWS> keys, values; };

template <int dim> struct query_grad_shared {
    row_tile<dim, grad_size<dim>::ROWS> queries, d_o, o;
    key_stage<dim> stage[2];
};

/* delta of a warp's rows row .. row + 15, for the lane's two of them. */
template <int dim, int rows>
static __device__ __forceinline__ void delta_of(float delta[2], row_tile<dim, rows> *o, row_tile<dim, rows> *d_o,
                                                int row) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < dim / 32; c++) {
            const uint4 a = *o->at(row + 8 * half, lane / 4, lane % 4 + 4 * c),
                        b = *d_o->at(row + 8 * half, lane / 4, lane % 4 + 4 * c);
            __nv_bfloat16 x[8], y[8];
            memcpy(x, &a, sizeof x);
            memcpy(y, &b, sizeof y);
#pragma unroll
            for (int i = 0; i < 8; i++) sum = fmaf(__bfloat162float(x[i]), __bfloat162float(y[i]), sum);
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        delta[half] = sum;
    }
}

/* What a lane has of its rows: two of each 16. */
template <int dim, int count> struct query_rows {
    uint32_t query[count][dim / 16][4], d_o[count][dim / 16][4];
    float minus_lse[count][2], delta[count][2];
};

/* dq += of one tile of keys and values, from key `first` of the segment; whole: it has no rows behind the segment's
 * end. */
template <bool whole, int dim, int count>
static __device__ __forceinline__ void add_query_grad(float dq[count][dim / 8][4], const query_rows<dim, count> &rows,
                                                      key_stage<dim> *stage, int first, int length, float factor) {
    const int groups = whole ? ATTENTION_GROUPS : groups_of(first, length), lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll 2
    for (int g = 0; g < groups; g++) {
        float s[count][2][4] = {}, dp[count][2][4];
#pragma unroll
        for (int t = 0; t < count; t++)
#pragma unroll
            for (int e = 0; e < 8; e++) dp[t][e / 4][e % 4] = -rows.delta[t][e % 4 / 2];
        multiply_rows<count>(s, rows.query, &stage->keys, 16 * g);
        multiply_rows<count>(dp, rows.d_o, &stage->values, 16 * g);
#pragma unroll
        for (int t = 0; t < count; t++)
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float p = cavmae__exp2(fmaf(s[t][e / 4][e % 4], factor, rows.minus_lse[t][e % 4 / 2]));
                /* Where there is no key P is 0, not e^-lse, which may be infinite. */
                const bool there = whole || first + 16 * g + e / 4 * 8 + lane % 4 * 2 + e % 2 < length;
                s[t][e / 4][e % 4] = there ? p : 0.0f;
            }
        uint32_t ds[count][4];
        scores_grad<count>(ds, s, dp);
        multiply_columns<count>(dq, ds, &stage->keys, 16 * g);
    }
}

template <int dim>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 3)
    query_grad_kernel(cavmae__attention op, int64_t rows, float factor, float scale) {
    enum { COUNT = grad_size<dim>::COUNT };
    CAVMAE__SHARED(query_grad_shared<dim>, shared);
    attention_part part;
    if (!attention_part_of(op, grad_size<dim>::ROWS, &part)) return;
    const __nv_bfloat16 *qkv = static_cast<const __nv_bfloat16 *>(op.qkv);
    const head_rows<const __nv_bfloat16> keys = qkv_rows(qkv, op, part, 1), values = qkv_rows(qkv, op, part, 2);
    copy_rows(&shared->queries, qkv_rows(qkv, op, part, 0), part.first, part.length);
    copy_rows(&shared->d_o, o_rows(static_cast<const __nv_bfloat16 *>(op.d_o), op, part), part.first, part.length);
    copy_rows(&shared->o, o_rows(static_cast<const __nv_bfloat16 *>(op.o), op, part), part.first, part.length);
    copy_rows(&shared->stage[0].keys, keys, 0, part.length);
    copy_rows(&shared->stage[0].values, values, 0, part.length);
    cavmae__copy_commit();

    const int lane = (int)threadIdx.x % CAVMAE__WARP, row = warp_number() * 16 * COUNT;
    const int first_row = part.first + row;
    const bool busy = first_row < part.length;
    query_rows<dim, COUNT> mine;
    float dq[COUNT][dim / 8][4] = {};
    cavmae__copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
        load_left(mine.query[t], &shared->queries, row + 16 * t);
        load_left(mine.d_o[t], &shared->d_o, row + 16 * t);
        delta_of(mine.delta[t], &shared->o, &shared->d_o, row + 16 * t);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = first_row + 16 * t + 8 * half + lane / 4;
            mine.minus_lse[t][half] = 0.0f;
            if (query >= part.length) continue;
            mine.minus_lse[t][half] = -LOG2_E * op.lse[(part.start + query) * op.heads + part.head];
            if (lane % 4 == 0) query_sums_of(op, part, rows)[query] = {mine.minus_lse[t][half], mine.delta[t][half]};
        }
        __syncwarp(0xffffffffu);
    }
    int first = 0, now = 0;
    for (; first + ATTENTION_ROWS <= part.length; first += ATTENTION_ROWS, now ^= 1) {
        if (first + ATTENTION_ROWS < part.length) {
            copy_rows(&shared->stage[now ^ 1].keys, keys, first + ATTENTION_ROWS, part.length);
            copy_rows(&shared->stage[now ^ 1].values, values, first + ATTENTION_ROWS, part.length);
            cavmae__copy_commit();
        }
        if (busy) add_query_grad<true>(dq, mine, &shared->stage[now], first, part.length, factor);
        cavmae__copy_wait<0>();
        __syncthreads();
    }
    if (busy && first < part.length) add_query_grad<false>(dq, mine, &shared->stage[now], first, part.length, factor);
    if (!busy) return;
    float scales[COUNT][2];
#pragma unroll
    for (int t = 0; t < COUNT; t++) scales[t][0] = scales[t][1] = scale;
    store_sums<COUNT>(qkv_rows(static_cast<__nv_bfloat16 *>(op.dqkv), op, part, 0), first_row, part.length, dq, scales,
                      &shared->queries, row);
}

/* ---- dK, dV ---- */

template <int dim> struct query_stage {
    row_tile<dim, ATTENTION_ROWS> queries, d_o;
    query_sums sums[ATTENTION_ROWS];
};

template <int dim> struct key_grad_shared {
    row_tile<dim, grad_size<dim>::ROWS> keys, values;
    query_stage<dim> stage[2];
};

/* Of the query of a tile that this thread looks after: P is 0 behind the end. */
static __device__ __forceinline__ query_sums sums_at(const query_sums *sums, int first, int length) {
    const int query = first + (int)threadIdx.x;
    if ((int)threadIdx.x < ATTENTION_ROWS && query < length) return sums[query];
    return {-INFINITY, 0.0f};
}

/* dk += and dv += of `groups` x 16 queries of one tile. */
template <int dim, int count>
static __device__ __forceinline__ void
add_key_grad(float dk[count][dim / 8][4], float dv[count][dim / 8][4], const uint32_t key[count][dim / 16][4],
             const uint32_t value[count][dim / 16][4], query_stage<dim> *stage, int groups, float factor) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP;
#pragma unroll 2
    for (int g = 0; g < groups; g++) {
        query_sums of[4];
#pragma unroll
        for (int c = 0; c < 4; c++) of[c] = stage->sums[16 * g + c / 2 * 8 + lane % 4 * 2 + c % 2];
        float s[count][2][4] = {}, dp[count][2][4];
#pragma unroll
        for (int t = 0; t < count; t++)
#pragma unroll
            for (int e = 0; e < 8; e++) dp[t][e / 4][e % 4] = -of[e / 4 * 2 + e % 2].delta;
        multiply_rows<count>(s, key, &stage->queries, 16 * g);
        multiply_rows<count>(dp, value, &stage->d_o, 16 * g);
        uint32_t p[count][4], ds[count][4];
#pragma unroll
        for (int t = 0; t < count; t++) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                s[t][e / 4][e % 4] = cavmae__exp2(fmaf(s[t][e / 4][e % 4], factor, of[e / 4 * 2 + e % 2].minus_lse));
            as_left(p[t], s[t]);
        }
        scores_grad<count>(ds, s, dp);
        multiply_columns<count>(dv, p, &stage->d_o, 16 * g);
        multiply_columns<count>(dk, ds, &stage->queries, 16 * g);
    }
}

template <int dim>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 3)
    key_grad_kernel(cavmae__attention op, int64_t rows, float factor, float scale) {
    enum { COUNT = grad_size<dim>::COUNT };
    CAVMAE__SHARED(key_grad_shared<dim>, shared);
    attention_part part;
    if (!attention_part_of(op, grad_size<dim>::ROWS, &part)) return;
    const __nv_bfloat16 *qkv = static_cast<const __nv_bfloat16 *>(op.qkv);
    const head_rows<const __nv_bfloat16> queries = qkv_rows(qkv, op, part, 0),
                                         d_o = o_rows(static_cast<const __nv_bfloat16 *>(op.d_o), op, part);
    const query_sums *sums = query_sums_of(op, part, rows);
    copy_rows(&shared->keys, qkv_rows(qkv, op, part, 1), part.first, part.length);
    copy_rows(&shared->values, qkv_rows(qkv, op, part, 2), part.first, part.length);
    copy_rows(&shared->stage[0].queries, queries, 0, part.length);
    copy_rows(&shared->stage[0].d_o, d_o, 0, part.length);
    cavmae__copy_commit();
    if ((int)threadIdx.x < ATTENTION_ROWS) shared->stage[0].sums[threadIdx.x] = sums_at(sums, 0, part.length);

    const int row = warp_number() * 16 * COUNT, first_row = part.first + row;
    const bool busy = first_row < part.length;
    uint32_t key[COUNT][dim / 16][4], value[COUNT][dim / 16][4];
    float dk[COUNT][dim / 8][4] = {}, dv[COUNT][dim / 8][4] = {};
    cavmae__copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
        load_left(key[t], &shared->keys, row + 16 * t);
        load_left(value[t], &shared->values, row + 16 * t);
    }
    int first = 0, now = 0;
    for (; first + ATTENTION_ROWS <= part.length; first += ATTENTION_ROWS, now ^= 1) {
        if (first + ATTENTION_ROWS < part.length) {
            copy_rows(&shared->stage[now ^ 1].queries, queries, first + ATTENTION_ROWS, part.length);
            copy_rows(&shared->stage[now ^ 1].d_o, d_o, first + ATTENTION_ROWS, part.length);
            cavmae__copy_commit();
        }
        const query_sums next = sums_at(sums, first + ATTENTION_ROWS, part.length); /* under way, too */
        __syncwarp(0xffffffffu);
        if (busy) add_key_grad<dim, COUNT>(dk, dv, key, value, &shared->stage[now], ATTENTION_GROUPS, factor);
        if ((int)threadIdx.x < ATTENTION_ROWS) shared->stage[now ^ 1].sums[threadIdx.x] = next;
        cavmae__copy_wait<0>();
        __syncthreads();
    }
    if (busy && first < part.length)
        add_key_grad<dim, COUNT>(dk, dv, key, value, &shared->stage[now], groups_of(first, part.length), factor);
    if (!busy) return;
    float scales[COUNT][2], ones[COUNT][2];
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
        scales[t][0] = scales[t][1] = scale;
        ones[t][0] = ones[t][1] = 1.0f;
    }
    __nv_bfloat16 *dqkv = static_cast<__nv_bfloat16 *>(op.dqkv);
    store_sums<COUNT>(qkv_rows(dqkv, op, part, 1), first_row, part.length, dk, scales, &shared->keys, row);
    store_sums<COUNT>(qkv_rows(dqkv, op, part, 2), first_row, part.length, dv, ones, &shared->values, row);
}

template <int dim> static cavmae_status backward(cavmae__backend *backend, const cavmae__attention *op) {
    const int64_t rows = op->segments.start_host[op->segments.count];
    const float scale = 1.0f / sqrtf((float)dim);
    const dim3 blocks = attention_blocks(*op, grad_size<dim>::ROWS);
    const cavmae_status status = CAVMAE__LAUNCH(backend, query_grad_kernel<dim>, blocks, ATTENTION_THREADS,
                                                sizeof(query_grad_shared<dim>), *op, rows, LOG2_E * scale, scale);
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, key_grad_kernel<dim>, blocks, ATTENTION_THREADS, sizeof(key_grad_shared<dim>), *op,
                          rows, LOG2_E * scale, scale);
}

extern "C" cavmae_status cavmae__cuda_own_attention_grad(cavmae__backend *backend, const cavmae__attention *op) {
    if (!cavmae__attention_on_tensor_cores(op)) return cavmae__cuda_exact_attention_grad(backend, op);
    return op->head_dim == 32 ? backward<32>(backend, op) : backward<64>(backend, op);
}
