/* S = Q K^T / sqrt(head_dim), P = softmax(S), O = P V in each head of each segment, in bfloat16 with float32 sums and
 * statistics; lse = log of the sum of exponentials.
 *
 * A block has 64 or 128 queries, each warp 16 or 32 of them in registers; keys and values come by in tiles of 64, the
 * next one under way while one is worked on. The softmax is online: the sum and O are in units of e^most, most being
 * the largest score so far, and rescaled where it grows. Exponentials are to base 2, with log2(e) in the factor of the
 * scores. P never leaves the registers. A row's arithmetic depends on its segment's length alone: what may be
 * contracted is written as fmaf, so that both tile sizes give the same bits. */
#include "attention_tiles.h"

template <int dim> struct key_stage { row_tile<dim, ATTENTION_ROWS> keys, values; };

template <int dim, int count> struct forward_shared {
    row_tile<dim, 16 * ATTENTION_WARPS * count> queries;
    key_stage<dim> stage[2]; /* the second only where there is a second tile of keys */
};

/* What a lane knows of its rows: two of each 16. */
template <int dim, int count> struct forward_sums {
    float o[count][dim / 8][4];
    float most[count][2]; /* the largest score so far, to base 2 */
    float sum[count][2];  /* of the exponentials of this lane's columns */
};

/* One tile of keys and values, from key `first` of the segment; whole: it has no rows behind the segment's end. */
template <bool whole, int dim, int count>
static __device__ __forceinline__ void attend(forward_sums<dim, count> *sums, const uint32_t query[count][dim / 16][4],
                                              key_stage<dim> *stage, int first, int length, float factor) {
    const int groups = whole ? ATTENTION_GROUPS : groups_of(first, length), four = (int)threadIdx.x % 4;
    float s[ATTENTION_GROUPS][count][2][4] = {};
#pragma unroll
    for (int g = 0; g < ATTENTION_GROUPS; g++)
        if (g < groups) multiply_rows<count>(s[g], query, &stage->keys, 16 * g);
    if (!whole) {
#pragma unroll
        for (int g = 0; g < ATTENTION_GROUPS; g++)
#pragma unroll
            for (int t = 0; t < count; t++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    if (first + 16 * g + e / 4 * 8 + 2 * four + e % 2 >= length) s[g][t][e / 4][e % 4] = -INFINITY;
    }

#pragma unroll
    for (int t = 0; t < count; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = s[0][t][0][2 * half];
#pragma unroll
            for (int g = 0; g < ATTENTION_GROUPS; g++)
#pragma unroll
                for (int n = 0; n < 2; n++) most = fmaxf(most, fmaxf(s[g][t][n][2 * half], s[g][t][n][2 * half + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            most = fmaxf(sums->most[t][half], most * factor);
            const float shrink = cavmae__exp2(sums->most[t][half] - most);
            sums->most[t][half] = most;
            float sum = 0.0f;
#pragma unroll
            for (int g = 0; g < ATTENTION_GROUPS; g++)
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++) {
                        if (g >= groups) continue;
                        s[g][t][n][e] = cavmae__exp2(fmaf(s[g][t][n][e], factor, -most));
                        sum += s[g][t][n][e];
                    }
            sums->sum[t][half] = fmaf(sums->sum[t][half], shrink, sum);
#pragma unroll
            for (int c = 0; c < dim / 8; c++) {
                sums->o[t][c][2 * half] *= shrink;
                sums->o[t][c][2 * half + 1] *= shrink;
            }
        }

#pragma unroll
    for (int g = 0; g < ATTENTION_GROUPS; g++) {
        if (g >= groups) continue;
        uint32_t p[count][4];
#pragma unroll
        for (int t = 0; t < count; t++) as_left(p[t], s[g][t]);
        multiply_columns<count>(sums->o, p, &stage->values, 16 * g);
    }
}

template <int dim, int count>
static __global__ void __launch_bounds__(ATTENTION_THREADS, count *dim <= 32    ? 4
                                                            : count * dim <= 64 ? 3
                                                                                : 2)
    attention_kernel(cavmae__attention op, float factor) {
    typedef forward_shared<dim, count> shared_memory;
    CAVMAE__SHARED(shared_memory, shared);
    attention_part part;
    if (!attention_part_of(op, 16 * ATTENTION_WARPS * count, &part)) return;
    const __nv_bfloat16 *qkv = static_cast<const __nv_bfloat16 *>(op.qkv);
    const head_rows<const __nv_bfloat16> keys = qkv_rows(qkv, op, part, 1), values = qkv_rows(qkv, op, part, 2);
    copy_rows(&shared->queries, qkv_rows(qkv, op, part, 0), part.first, part.length);
    copy_rows(&shared->stage[0].keys, keys, 0, part.length);
    copy_rows(&shared->stage[0].values, values, 0, part.length);
    cavmae__copy_commit();

    /* A warp whose rows lie behind the end only helps to copy. */
    const int row = warp_number() * 16 * count, first_row = part.first + row;
    const bool busy = first_row < part.length;
    uint32_t query[count][dim / 16][4];
    forward_sums<dim, count> sums = {};
#pragma unroll
    for (int t = 0; t < count; t++) sums.most[t][0] = sums.most[t][1] = -INFINITY;
    cavmae__copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < count; t++) load_left(query[t], &shared->queries, row + 16 * t);
    int first = 0, now = 0;
    for (; first + ATTENTION_ROWS <= part.length; first += ATTENTION_ROWS, now ^= 1) {
        if (first + ATTENTION_ROWS < part.length) {
            copy_rows(&shared->stage[now ^ 1].keys, keys, first + ATTENTION_ROWS, part.length);
            copy_rows(&shared->stage[now ^ 1].values, values, first + ATTENTION_ROWS, part.length);
            cavmae__copy_commit();
        }
        if (busy) attend<true>(&sums, query, &shared->stage[now], first, part.length, factor);
        cavmae__copy_wait<0>();
        __syncthreads();
    }
    if (busy && first < part.length) attend<false>(&sums, query, &shared->stage[now], first, part.length, factor);
    if (!busy) return;

    const int lane = (int)threadIdx.x % CAVMAE__WARP;
    float inverse[count][2];
#pragma unroll
    for (int t = 0; t < count; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = sums.sum[t][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            inverse[t][half] = 1.0f / sum;
            const int query_row = first_row + 16 * t + 8 * half + lane / 4;
            if (op.lse && lane % 4 == 0 && query_row < part.length)
                op.lse[(part.start + query_row) * op.heads + part.head] =
                    fmaf(sums.most[t][half], 1.0f / LOG2_E, logf(sum));
        }
    store_sums<count>(o_rows(static_cast<__nv_bfloat16 *>(op.o), op, part), first_row, part.length, sums.o, inverse,
                      &shared->queries, row);
}

template <int dim, int count>
static cavmae_status launch_forward(cavmae__backend *backend, const cavmae__attention *op) {
    typedef forward_shared<dim, count> shared_memory;
    const size_t unused = op->segments.longest > ATTENTION_ROWS ? 0 : sizeof(key_stage<dim>);
    return CAVMAE__LAUNCH(backend, (attention_kernel<dim, count>), attention_blocks(*op, 16 * ATTENTION_WARPS * count),
                          ATTENTION_THREADS, sizeof(shared_memory) - unused, *op, LOG2_E / sqrtf((float)dim));
}

/* Two times 16 rows a warp read each key from shared memory half as often; short segments would leave warps idle. */
template <int dim> static cavmae_status forward(cavmae__backend *backend, const cavmae__attention *op) {
    return op->segments.longest > ATTENTION_ROWS ? launch_forward<dim, 2>(backend, op)
                                                 : launch_forward<dim, 1>(backend, op);
}

extern "C" cavmae_status cavmae__cuda_own_attention(cavmae__backend *backend, const cavmae__attention *op) {
    if (!cavmae__attention_on_tensor_cores(op)) return cavmae__cuda_exact_attention(backend, op);
    return op->head_dim == 32 ? forward<32>(backend, op) : forward<64>(backend, op);
}
