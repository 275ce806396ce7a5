/* Masks, and the lists of tokens that follow from them: to the bit those of lib/backend/cpu/masks.c, because everything is
 * a function of Philox's integers. One block a clip.
 *
 * A key is a token's noise (24 bits, and what structured modes add) and, below it, the token: no two are equal, and the
 * `keep` smallest are those below one number, which is found bit by bit, by counting. */
#include "cuda_kernel.h"
#include "philox.h"

enum { NOISE_BITS = 24, REMOVED_BIT = NOISE_BITS + 1, DRAW_THREADS = 1024, INDEX_THREADS = 256 };
/* As much noise lies in shared memory: the 48 KB that a block has without asking. */
enum { SHARED_NOISE = 12 << 10 };

/* ---- Drawing ---- */

/* Numbers that a clip needs: of its tokens, and of its columns or rows. */
static __host__ __device__ __forceinline__ int64_t noise_size(int64_t rows, int64_t columns) {
    return rows * columns + (rows > columns ? rows : columns);
}

size_t cavmae__cuda_draw_masks_workspace(const cavmae__limits *limits) {
    /* A grid has as many columns and rows as tokens at most. */
    return 2 * limits->tokens > SHARED_NOISE ? (size_t)(2 * limits->tokens * limits->clips) * sizeof(uint32_t) : 0;
}

/* The numbers first .. first + count - 1 of the stream. */
static __device__ void fill_noise(const cavmae__philox *stream, int64_t first, int64_t count, uint32_t *noise) {
    for (int64_t block = first / 4 + threadIdx.x; block * 4 < first + count; block += blockDim.x) {
        uint32_t numbers[4];
        cavmae__philox_block(stream, (uint32_t)block, numbers);
        for (int i = 0; i < 4; i++) {
            const int64_t k = block * 4 + i - first;
            if (k >= 0 && k < count) noise[k] = numbers[i] >> (32 - NOISE_BITS);
        }
    }
    __syncthreads();
}

static __device__ __forceinline__ uint64_t key_of(const uint32_t *noise, int64_t i) {
    return (uint64_t)noise[i] << 32 | (uint64_t)i;
}

/* The number that exactly the `chosen` smallest of `count` keys are below: the largest that no more are below. */
static __device__ uint64_t limit_of(const uint32_t *noise, int64_t count, int64_t chosen) {
    const int index_bits = 32 - __clz((int)count);
    uint64_t limit = 0;
    for (int step = REMOVED_BIT + index_bits; step >= 0; step--) {
        const uint64_t trial = limit | (uint64_t)1 << (step < index_bits ? step : step - index_bits + 32);
        int64_t below = 0;
        for (int64_t first = 0; first < count; first += blockDim.x) {
            const int64_t i = first + threadIdx.x;
            below += __syncthreads_count(i < count && key_of(noise, i) < trial);
        }
        if (below <= chosen) limit = trial;
    }
    return limit;
}

/* Adds 2 to the noise of the tokens of `chosen` columns (or rows), once. */
static __device__ void remove_lines(const cavmae__draw_masks &op, const cavmae__philox *stream, int by_column,
                                    int64_t chosen, uint32_t *noise, uint32_t *lines) {
    const int64_t tokens = (int64_t)op.rows * op.columns, across = by_column ? op.columns : op.rows;
    fill_noise(stream, by_column ? tokens : tokens + op.columns, across, lines);
    const uint64_t limit = limit_of(lines, across, chosen);
    for (int64_t t = threadIdx.x; t < tokens; t += blockDim.x) {
        const int64_t line = by_column ? t % op.columns : t / op.columns;
        if (key_of(lines, line) < limit) noise[t] |= (uint32_t)1 << REMOVED_BIT;
    }
    __syncthreads();
}

/* `columns`, `rows`: how many of them are removed first, negative for none. global_noise: NULL where shared memory does. */
static __global__ void __launch_bounds__(DRAW_THREADS)
    draw_masks_kernel(cavmae__draw_masks op, int64_t columns, int64_t rows, uint32_t *global_noise) {
    CAVMAE__SHARED(uint32_t, shared);
    const int64_t clip = blockIdx.x, tokens = (int64_t)op.rows * op.columns;
    const cavmae__philox stream = cavmae__philox_key(op.seed, op.purpose, *op.step, (uint64_t)(op.first + clip));
    uint32_t *noise = global_noise ? global_noise + clip * noise_size(op.rows, op.columns) : shared;
    uint8_t *mask = op.mask + clip * tokens;

    fill_noise(&stream, 0, tokens, noise);
    if (columns >= 0) remove_lines(op, &stream, 1, columns, noise, noise + tokens);
    if (rows >= 0) remove_lines(op, &stream, 0, rows, noise, noise + tokens);
    const uint64_t limit = limit_of(noise, tokens, op.keep);
    for (int64_t t = threadIdx.x; t < tokens; t += blockDim.x) mask[t] = key_of(noise, t) >= limit;
}

cavmae_status cavmae__cuda_draw_masks(cavmae__backend *backend, const cavmae__draw_masks *op) {
    const int64_t tokens = (int64_t)op->rows * op->columns, size = noise_size(op->rows, op->columns);
    const double ratio = op->mode == 3 ? op->ratio * 0.7 : op->ratio;
    const int64_t columns = op->mode == 1 || op->mode == 3 ? (int64_t)(op->columns * ratio) : -1;
    const int64_t rows = op->mode == 2 || op->mode == 3 ? (int64_t)(op->rows * ratio) : -1;
    const int64_t threads = (tokens + CAVMAE__WARP - 1) / CAVMAE__WARP * CAVMAE__WARP;
    const int in_shared = size <= SHARED_NOISE;
    if (tokens == 0) return CAVMAE_OK;
    return CAVMAE__LAUNCH(backend, draw_masks_kernel, op->clips,
                          threads < DRAW_THREADS ? (unsigned)threads : (unsigned)DRAW_THREADS,
                          in_shared ? (size_t)size * sizeof(uint32_t) : 0, *op, columns, rows,
                          in_shared ? NULL : static_cast<uint32_t *>(op->workspace));
}

/* ---- Lists ---- */

typedef struct index_shared {
    int32_t visible[INDEX_THREADS / CAVMAE__WARP];
} index_shared;

/* What is known of every token, visible or not; lists that are not wanted are NULL. */
static __device__ __forceinline__ void list_token(const cavmae__index_tokens &op, int32_t t, int32_t clip,
                                                  int32_t token, int32_t position, int32_t row) {
    if (op.token_clip) op.token_clip[t] = clip;
    if (op.token_token) op.token_token[t] = token;
    if (op.token_position) op.token_position[t] = position;
    if (op.token_row) op.token_row[t] = row;
    if (op.token_removed) op.token_removed[t] = row < 0 ? 0 : -1;
}

/* A tile of tokens at a time: a visible token's row is what came before it, in earlier tiles, warps and lanes. */
static __global__ void __launch_bounds__(INDEX_THREADS) index_tokens_kernel(cavmae__index_tokens op) {
    CAVMAE__SHARED(index_shared, shared);
    const int32_t clip = (int32_t)blockIdx.x, start = op.tokens.start[clip], end = op.tokens.start[clip + 1];
    const int32_t columns = op.columns[clip];
    const unsigned lane = threadIdx.x % CAVMAE__WARP, warp = threadIdx.x / CAVMAE__WARP;
    int32_t tile_row = op.visible.start[clip];
    for (int32_t tile = start; tile < end; tile += INDEX_THREADS) {
        const int32_t t = tile + (int32_t)threadIdx.x, token = t - start;
        const int visible = t < end && (!op.mask || !op.mask[t]);
        const unsigned votes = __ballot_sync(0xffffffffu, visible);
        if (lane == 0) shared->visible[warp] = __popc(votes);
        __syncthreads();
        int32_t row = tile_row + __popc(votes & ((1u << lane) - 1));
        for (unsigned w = 0; w < INDEX_THREADS / CAVMAE__WARP; w++) {
            if (w < warp) row += shared->visible[w];
            tile_row += shared->visible[w];
        }
        __syncthreads();
        if (t >= end) continue;
        const int32_t position = token / columns * op.table_columns + token % columns;
        list_token(op, t, clip, token, position, visible ? row : -1);
        if (!visible) continue;
        op.visible_clip[row] = clip;
        op.visible_token[row] = token;
        op.visible_position[row] = position;
    }
}

cavmae_status cavmae__cuda_index_tokens(cavmae__backend *backend, const cavmae__index_tokens *op) {
    return CAVMAE__LAUNCH(backend, index_tokens_kernel, op->tokens.count, INDEX_THREADS, sizeof(index_shared), *op);
}
