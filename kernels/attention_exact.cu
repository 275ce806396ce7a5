/* Attention with every product and sum in float32, for any type, length and head_dim up to 256: what attention.cu and
 * attention_grad.cu, where the equations are, do not do by tensor cores.
 *
 * A block is 16 x 16 threads and works on square tiles of 16 `each` queries and keys. A thread has `each` x `each`
 * scores, of the rows that follow one another and every 16th column, and of products with the tile's rows, `each` rows
 * and every 16th of `dim` columns. Rows are padded with zeros to `dim` = 16, 32, 64, 128 or 256 columns. What may be
 * contracted is written as fmaf; a row's arithmetic depends on its segment's length alone. */
#include "attention_part.h"

enum { EXACT_SIDE = 16, EXACT_THREADS = EXACT_SIDE * EXACT_SIDE };

template <int dim> struct exact_size {
    enum { EACH = dim <= 64 ? 4 : dim <= 128 ? 2 : 1, ROWS = EXACT_SIDE * EACH, COLUMNS = dim / EXACT_SIDE };
};

/* Four floats of padding keep rows that are read together in different banks. */
template <int dim> struct exact_rows { float x[exact_size<dim>::ROWS][dim + 4]; };

template <int dim> struct exact_scores { float x[exact_size<dim>::ROWS][exact_size<dim>::ROWS + 4]; };

static __device__ __forceinline__ int thread_row() { return (int)threadIdx.x / EXACT_SIDE; }
static __device__ __forceinline__ int thread_column() { return (int)threadIdx.x % EXACT_SIDE; }

/* Over the 16 threads that share rows. */
static __device__ __forceinline__ float row_sum(float x) {
    for (int distance = EXACT_SIDE / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

static __device__ __forceinline__ float row_max(float x) {
    for (int distance = EXACT_SIDE / 2; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

/* A head's rows from `first`, zeros beyond the segment's end and beyond its columns. */
template <int dim, typename T>
static __device__ __forceinline__ void load_rows(exact_rows<dim> *to, const head_rows<const T> &from, int first,
                                                 int length, int columns) {
    for (int i = (int)threadIdx.x; i < exact_size<dim>::ROWS * dim; i += EXACT_THREADS) {
        const int row = i / dim, column = i % dim;
        const bool there = first + row < length && column < columns;
        to->x[row][column] = there ? cavmae__to_float(from.data[(first + row) * from.stride + column]) : 0.0f;
    }
}

/* s = a b^T over the first `columns` columns. */
template <int dim>
static __device__ __forceinline__ void exact_products(float s[exact_size<dim>::EACH][exact_size<dim>::EACH],
                                                      const exact_rows<dim> *a, const exact_rows<dim> *b, int columns) {
    enum { EACH = exact_size<dim>::EACH };
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) s[i][j] = 0.0f;
#pragma unroll 1
    for (int d = 0; d < columns; d += 4) {
        float4 x[EACH], y[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            x[i] = *reinterpret_cast<const float4 *>(&a->x[thread_row() * EACH + i][d]);
            y[i] = *reinterpret_cast<const float4 *>(&b->x[thread_column() + EXACT_SIDE * i][d]);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++)
                s[i][j] =
                    fmaf(x[i].w, y[j].w, fmaf(x[i].z, y[j].z, fmaf(x[i].y, y[j].y, fmaf(x[i].x, y[j].x, s[i][j]))));
    }
}

/* sum += s b over the first `count` of b's rows, zeros up to a multiple of 4. s goes through shared memory, where each
 * half warp reads what it wrote. */
template <int dim>
static __device__ __forceinline__ void exact_add(float sum[exact_size<dim>::EACH][exact_size<dim>::COLUMNS],
                                                 const float s[exact_size<dim>::EACH][exact_size<dim>::EACH],
                                                 exact_scores<dim> *scores, const exact_rows<dim> *b, int count) {
    enum { EACH = exact_size<dim>::EACH, COLUMNS = exact_size<dim>::COLUMNS };
    __syncwarp(0xffffffffu);
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) scores->x[thread_row() * EACH + i][thread_column() + EXACT_SIDE * j] = s[i][j];
    __syncwarp(0xffffffffu);
#pragma unroll 1
    for (int k = 0; k < count; k += 4) {
        float x[EACH][4];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const float4 four = *reinterpret_cast<const float4 *>(&scores->x[thread_row() * EACH + i][k]);
            x[i][0] = four.x, x[i][1] = four.y, x[i][2] = four.z, x[i][3] = four.w;
        }
#pragma unroll
        for (int part = 0; part < 4; part++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float y = b->x[k + part][thread_column() + EXACT_SIDE * c];
#pragma unroll
                for (int i = 0; i < EACH; i++) sum[i][c] = fmaf(x[i][part], y, sum[i][c]);
            }
    }
}

/* The thread's part of the rows from `first`, times a factor for each row. */
template <int dim, typename T>
static __device__ __forceinline__ void exact_store(const head_rows<T> &to, int first, int length, int columns,
                                                   const float sum[exact_size<dim>::EACH][exact_size<dim>::COLUMNS],
                                                   const float factor[exact_size<dim>::EACH]) {
#pragma unroll
    for (int i = 0; i < exact_size<dim>::EACH; i++) {
        const int row = first + thread_row() * exact_size<dim>::EACH + i;
        if (row >= length) continue;
#pragma unroll
        for (int c = 0; c < exact_size<dim>::COLUMNS; c++) {
            const int column = thread_column() + EXACT_SIDE * c;
            if (column < columns) to.data[row * to.stride + column] = cavmae__from_float<T>(sum[i][c] * factor[i]);
        }
    }
}

/* ---- Forward ---- */

template <int dim> struct exact_forward_shared {
    exact_rows<dim> queries, keys, values;
    exact_scores<dim> scores;
};

template <int dim, typename T>
static __global__ void __launch_bounds__(EXACT_THREADS) exact_kernel(cavmae__attention op, float scale) {
    enum { EACH = exact_size<dim>::EACH, ROWS = exact_size<dim>::ROWS };
    CAVMAE__SHARED(exact_forward_shared<dim>, shared);
    attention_part part;
    if (!attention_part_of(op, ROWS, &part)) return;
    const T *qkv = static_cast<const T *>(op.qkv);
    load_rows(&shared->queries, qkv_rows(qkv, op, part, 0), part.first, part.length, op.head_dim);
    float o[EACH][exact_size<dim>::COLUMNS] = {}, most[EACH], sum[EACH], inverse[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        most[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    for (int first = 0; first < part.length; first += ROWS) {
        const int count = part.length - first < ROWS ? part.length - first : ROWS;
        __syncthreads();
        load_rows(&shared->keys, qkv_rows(qkv, op, part, 1), first, part.length, op.head_dim);
        load_rows(&shared->values, qkv_rows(qkv, op, part, 2), first, part.length, op.head_dim);
        __syncthreads();
        float s[EACH][EACH];
        exact_products<dim>(s, &shared->queries, &shared->keys, op.head_dim);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float largest = most[i], more = 0.0f;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                s[i][j] = thread_column() + EXACT_SIDE * j < count ? s[i][j] * scale : -INFINITY;
                largest = fmaxf(largest, s[i][j]);
            }
            largest = row_max(largest);
            const float shrink = expf(most[i] - largest);
            most[i] = largest;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                s[i][j] = expf(s[i][j] - largest);
                more += s[i][j];
            }
            sum[i] = fmaf(sum[i], shrink, more);
#pragma unroll
            for (int c = 0; c < exact_size<dim>::COLUMNS; c++) o[i][c] *= shrink;
        }
        exact_add<dim>(o, s, &shared->scores, &shared->values, count);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = part.first + thread_row() * EACH + i;
        const float all = row_sum(sum[i]);
        inverse[i] = 1.0f / all;
        if (op.lse && thread_column() == 0 && row < part.length)
            op.lse[(part.start + row) * op.heads + part.head] = most[i] + logf(all);
    }
    exact_store<dim>(o_rows(static_cast<T *>(op.o), op, part), part.first, part.length, op.head_dim, o, inverse);
}

/* ---- Backward ---- */

template <int dim> struct exact_grad_shared {
    exact_rows<dim> queries, d_o, keys, values;
    exact_scores<dim> scores;
    query_sums sums[exact_size<dim>::ROWS]; /* of a tile of queries */
};

/* dQ of a block's queries, keys coming by; and delta. */
template <int dim, typename T>
static __global__ void __launch_bounds__(EXACT_THREADS)
    exact_query_grad_kernel(cavmae__attention op, int64_t rows, float scale) {
    enum { EACH = exact_size<dim>::EACH, ROWS = exact_size<dim>::ROWS };
    CAVMAE__SHARED(exact_grad_shared<dim>, shared);
    attention_part part;
    if (!attention_part_of(op, ROWS, &part)) return;
    const T *qkv = static_cast<const T *>(op.qkv);
    const head_rows<const T> o = o_rows(static_cast<const T *>(op.o), op, part);
    load_rows(&shared->queries, qkv_rows(qkv, op, part, 0), part.first, part.length, op.head_dim);
    load_rows(&shared->d_o, o_rows(static_cast<const T *>(op.d_o), op, part), part.first, part.length, op.head_dim);
    __syncthreads();
    float dq[EACH][exact_size<dim>::COLUMNS] = {}, scales[EACH];
    query_sums of[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = thread_row() * EACH + i;
        const bool there = part.first + row < part.length;
        float delta = 0.0f;
        for (int column = thread_column(); there && column < op.head_dim; column += EXACT_SIDE)
            delta = fmaf(shared->d_o.x[row][column], cavmae__to_float(o.data[(part.first + row) * o.stride + column]),
                         delta);
        of[i].delta = row_sum(delta);
        of[i].minus_lse = there ? -op.lse[(part.start + part.first + row) * op.heads + part.head] : -INFINITY;
        if (there && thread_column() == 0) query_sums_of(op, part, rows)[part.first + row] = of[i];
        scales[i] = scale;
    }
    for (int first = 0; first < part.length; first += ROWS) {
        const int count = part.length - first < ROWS ? part.length - first : ROWS;
        __syncthreads();
        load_rows(&shared->keys, qkv_rows(qkv, op, part, 1), first, part.length, op.head_dim);
        load_rows(&shared->values, qkv_rows(qkv, op, part, 2), first, part.length, op.head_dim);
        __syncthreads();
        float s[EACH][EACH], dp[EACH][EACH];
        exact_products<dim>(s, &shared->queries, &shared->keys, op.head_dim);
        exact_products<dim>(dp, &shared->d_o, &shared->values, op.head_dim);
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                /* Where there is no key P is 0, not e^-lse, which may be infinite. */
                const float p =
                    thread_column() + EXACT_SIDE * j < count ? expf(fmaf(s[i][j], scale, of[i].minus_lse)) : 0.0f;
                s[i][j] = p * (dp[i][j] - of[i].delta);
            }
        exact_add<dim>(dq, s, &shared->scores, &shared->keys, count);
    }
    exact_store<dim>(qkv_rows(static_cast<T *>(op.dqkv), op, part, 0), part.first, part.length, op.head_dim, dq,
                     scales);
}

/* dK and dV of a block's keys, queries coming by: s is S^T. */
template <int dim, typename T>
static __global__ void __launch_bounds__(EXACT_THREADS)
    exact_key_grad_kernel(cavmae__attention op, int64_t rows, float scale) {
    enum { EACH = exact_size<dim>::EACH, ROWS = exact_size<dim>::ROWS };
    CAVMAE__SHARED(exact_grad_shared<dim>, shared);
    attention_part part;
    if (!attention_part_of(op, ROWS, &part)) return;
    const T *qkv = static_cast<const T *>(op.qkv);
    load_rows(&shared->keys, qkv_rows(qkv, op, part, 1), part.first, part.length, op.head_dim);
    load_rows(&shared->values, qkv_rows(qkv, op, part, 2), part.first, part.length, op.head_dim);
    float dk[EACH][exact_size<dim>::COLUMNS] = {}, dv[EACH][exact_size<dim>::COLUMNS] = {}, scales[EACH], ones[EACH];
    for (int first = 0; first < part.length; first += ROWS) {
        const int count = part.length - first < ROWS ? part.length - first : ROWS, query = (int)threadIdx.x;
        __syncthreads();
        load_rows(&shared->queries, qkv_rows(qkv, op, part, 0), first, part.length, op.head_dim);
        load_rows(&shared->d_o, o_rows(static_cast<const T *>(op.d_o), op, part), first, part.length, op.head_dim);
        if (query < ROWS) {
            query_sums behind = {-INFINITY, 0.0f};
            shared->sums[query] = query < count ? query_sums_of(op, part, rows)[first + query] : behind;
        }
        __syncthreads();
        float s[EACH][EACH], dp[EACH][EACH];
        exact_products<dim>(s, &shared->keys, &shared->queries, op.head_dim);
        exact_products<dim>(dp, &shared->values, &shared->d_o, op.head_dim);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const query_sums of = shared->sums[thread_column() + EXACT_SIDE * j];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                s[i][j] = expf(fmaf(s[i][j], scale, of.minus_lse));
                dp[i][j] = s[i][j] * (dp[i][j] - of.delta);
            }
        }
        exact_add<dim>(dv, s, &shared->scores, &shared->d_o, count);
        exact_add<dim>(dk, dp, &shared->scores, &shared->queries, count);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        scales[i] = scale;
        ones[i] = 1.0f;
    }
    T *dqkv = static_cast<T *>(op.dqkv);
    exact_store<dim>(qkv_rows(dqkv, op, part, 1), part.first, part.length, op.head_dim, dk, scales);
    exact_store<dim>(qkv_rows(dqkv, op, part, 2), part.first, part.length, op.head_dim, dv, ones);
}

/* ---- Launches ---- */

template <int value> struct constant {
    enum { DIM = value };
};

/* Calls a launch with the padded head_dim and the type of the elements. */
template <typename Function>
static cavmae_status by_shape(cavmae__backend *backend, const cavmae__attention *op, Function function) {
    if (op->head_dim > CAVMAE__ATTENTION_DIM)
        return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_UNSUPPORTED,
                                 "%s: attention: heads of %d columns, at most %d are possible",
                                 cavmae__cuda_of(backend)->name, (int)op->head_dim, (int)CAVMAE__ATTENTION_DIM);
    return cavmae__by_dtype(op->dtype, [&](auto zero) {
        if (op->head_dim <= 16) return function(constant<16>(), zero);
        if (op->head_dim <= 32) return function(constant<32>(), zero);
        if (op->head_dim <= 64) return function(constant<64>(), zero);
        if (op->head_dim <= 128) return function(constant<128>(), zero);
        return function(constant<CAVMAE__ATTENTION_DIM>(), zero);
    });
}

extern "C" cavmae_status cavmae__cuda_exact_attention(cavmae__backend *backend, const cavmae__attention *op) {
    const float scale = 1.0f / sqrtf((float)op->head_dim);
    return by_shape(backend, op, [&](auto size, auto zero) {
        enum { DIM = decltype(size)::DIM };
        return CAVMAE__LAUNCH(backend, (exact_kernel<DIM, decltype(zero)>),
                              attention_blocks(*op, exact_size<DIM>::ROWS), EXACT_THREADS,
                              sizeof(exact_forward_shared<DIM>), *op, scale);
    });
}

extern "C" cavmae_status cavmae__cuda_exact_attention_grad(cavmae__backend *backend, const cavmae__attention *op) {
    const float scale = 1.0f / sqrtf((float)op->head_dim);
    const int64_t rows = op->segments.start_host[op->segments.count];
    return by_shape(backend, op, [&](auto size, auto zero) {
        enum { DIM = decltype(size)::DIM };
        const dim3 blocks = attention_blocks(*op, exact_size<DIM>::ROWS);
        const size_t shared = sizeof(exact_grad_shared<DIM>);
        const cavmae_status status = CAVMAE__LAUNCH(backend, (exact_query_grad_kernel<DIM, decltype(zero)>), blocks,
                                                    EXACT_THREADS, shared, *op, rows, scale);
        if (status != CAVMAE_OK) return status;
        return CAVMAE__LAUNCH(backend, (exact_key_grad_kernel<DIM, decltype(zero)>), blocks, EXACT_THREADS, shared, *op,
                              rows, scale);
    });
}
