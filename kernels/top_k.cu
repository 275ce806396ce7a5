/* The best k of many rows for each query: scores of some rows at a time by one product, then a selection, one block a
 * query, into a list that stays sorted.
 *
 * A score and its row are one key of 64 bits, less for what is better: no two are equal, so what is chosen does not
 * depend on an order of work. Most keys are no better than the list's k-th and cost one comparison. The others wait
 * until there are many, are sorted, and are merged into the list (bitonic networks, Batcher 1968). */
#include "cuda_kernel.h"
#include "score_product.h"

enum { SELECT_THREADS = 256, SELECT_WARPS = SELECT_THREADS / CAVMAE__WARP };
/* Scores that a thread looks at between two barriers, and a block. */
enum { EACH = 4, STEP = EACH * SELECT_THREADS };
/* Longer lists lie in the workspace. */
enum { SHARED_LIST = 4096 };
enum { ALIGNMENT = 256 };

static const uint64_t no_key = UINT64_MAX;

/* Sizes of a block's arrays of keys, powers of two: at least k, and at least two steps and the list. */
static int64_t list_size(int64_t k) {
    int64_t size = CAVMAE__WARP;
    while (size < k) size *= 2;
    return size;
}
static int64_t waiting_size(int64_t k) { return list_size(k) > 2 * STEP ? list_size(k) : 2 * STEP; }

typedef struct top_k_memory {
    uint64_t *best;  /* [queries, k]: between two parts of the rows */
    uint64_t *lists; /* [queries, list and waiting]; NULL: in shared memory */
    float *scores;   /* [queries, rows at once] */
} top_k_memory;

static int64_t rows_at_once(const cavmae__top_k *op) { return cavmae__score_rows(op->rows, op->queries); }

/* How the workspace is divided; its size. */
static size_t lay_out(const cavmae__top_k *op, top_k_memory *memory) {
    const int64_t list = list_size(op->k) + waiting_size(op->k);
    const uintptr_t at = reinterpret_cast<uintptr_t>(op->workspace);
    size_t end = 0;
    const auto take = [&](int64_t size) {
        const uintptr_t start = at + end;
        end += ((size_t)size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        return start;
    };
    memory->scores =
        reinterpret_cast<float *>(take(cavmae__score_room(op->rows, op->queries) * (int64_t)sizeof(float)));
    memory->best = reinterpret_cast<uint64_t *>(take((int64_t)op->queries * op->k * (int64_t)sizeof(uint64_t)));
    memory->lists = list_size(op->k) > SHARED_LIST
                        ? reinterpret_cast<uint64_t *>(take(op->queries * list * (int64_t)sizeof(uint64_t)))
                        : NULL;
    return end;
}

size_t cavmae__cuda_top_k_workspace(cavmae__backend *backend, const cavmae__top_k *op) {
    (void)backend;
    top_k_memory memory;
    return lay_out(op, &memory);
}

/* ---- Keys ---- */

/* Of two floats the greater has the lesser key; zeros of both signs have the same. */
static __device__ __forceinline__ uint64_t key_of(float score, uint32_t row) {
    const uint32_t bits = __float_as_uint(score + 0.0f);
    return (uint64_t)(bits >> 31 ? bits : ~bits & 0x7fffffffu) << 32 | row;
}

static __device__ __forceinline__ float score_of(uint64_t key) {
    const uint32_t bits = (uint32_t)(key >> 32);
    return __uint_as_float(bits >> 31 ? bits : ~bits & 0x7fffffffu);
}

static __device__ __forceinline__ void order(uint64_t *keys, int64_t low, int64_t high, int rising) {
    const uint64_t a = keys[low], b = keys[high];
    if ((a > b) != rising) return;
    keys[low] = b;
    keys[high] = a;
}

/* Ends with a barrier, and begins after one. `size` is a power of two. */
static __device__ void merge_bitonic(uint64_t *keys, int64_t size, int64_t stride, int64_t run) {
    for (; stride > 0; stride /= 2) {
        for (int64_t i = threadIdx.x; i < size / 2; i += SELECT_THREADS) {
            const int64_t low = 2 * i - (i & (stride - 1));
            order(keys, low, low + stride, (low & run) == 0);
        }
        __syncthreads();
    }
}

/* The list becomes the best of itself and of the `count` keys that wait, which are used up. */
static __device__ void merge_waiting(uint64_t *list, int64_t list_length, uint64_t *waiting, int64_t count) {
    int64_t size = CAVMAE__WARP;
    while (size < count) size *= 2;
    for (int64_t i = count + threadIdx.x; i < size; i += SELECT_THREADS) waiting[i] = no_key;
    __syncthreads();
    for (int64_t run = 2; run <= size; run *= 2) merge_bitonic(waiting, size, run / 2, run);
    for (int64_t i = threadIdx.x; i < size && i < list_length; i += SELECT_THREADS) {
        uint64_t *kept = &list[list_length - 1 - i];
        if (waiting[i] < *kept) *kept = waiting[i];
    }
    __syncthreads();
    merge_bitonic(list, list_length, list_length / 2, 2 * list_length);
}

/* ---- Selection ---- */

typedef struct select_shared {
    uint32_t found[SELECT_WARPS];
    uint64_t keys[1]; /* [list and waiting], where they are not in the workspace */
} select_shared;

typedef struct selection {
    int64_t first, rows; /* what the scores are of, [queries, rows] */
    int64_t list_length, waiting_length;
    int32_t known, last; /* keys in memory.best so far; 1: nothing follows */
} selection;

/* Puts a thread's keys that are better than `limit` behind the waiting ones; how many there are then. */
static __device__ int64_t append(select_shared *shared, const uint64_t keys[EACH], uint64_t limit, uint64_t *waiting,
                                 int64_t count) {
    const unsigned lane = threadIdx.x % CAVMAE__WARP, warp = threadIdx.x / CAVMAE__WARP;
    unsigned votes[EACH];
    uint32_t found = 0;
    for (int e = 0; e < EACH; e++) {
        votes[e] = __ballot_sync(0xffffffffu, keys[e] < limit);
        found += (uint32_t)__popc(votes[e]);
    }
    if (lane == 0) shared->found[warp] = found;
    __syncthreads();
    int64_t at = count;
    for (unsigned w = 0; w < SELECT_WARPS; w++) {
        if (w < warp) at += shared->found[w];
        count += shared->found[w];
    }
    for (int e = 0; e < EACH; e++) {
        if (keys[e] < limit) waiting[at + __popc(votes[e] & ((1u << lane) - 1))] = keys[e];
        at += __popc(votes[e]);
    }
    return count;
}

static __global__ void __launch_bounds__(SELECT_THREADS)
    select_kernel(cavmae__top_k op, top_k_memory memory, selection part) {
    CAVMAE__SHARED(select_shared, shared);
    const int64_t query = blockIdx.x;
    const float *scores = memory.scores + query * part.rows;
    uint64_t *best = memory.best + query * op.k;
    uint64_t *list = memory.lists ? memory.lists + query * (part.list_length + part.waiting_length) : shared->keys;
    uint64_t *waiting = list + part.list_length;
    for (int64_t i = threadIdx.x; i < part.list_length; i += SELECT_THREADS)
        list[i] = i < part.known ? best[i] : no_key;
    __syncthreads();

    int64_t count = 0;
    uint64_t limit = list[op.k - 1];
    for (int64_t step = 0; step < part.rows; step += STEP) {
        uint64_t keys[EACH];
        int any = 0;
        for (int e = 0; e < EACH; e++) {
            const int64_t r = step + e * SELECT_THREADS + threadIdx.x;
            keys[e] = r < part.rows ? key_of(scores[r], (uint32_t)(part.first + r)) : no_key;
            any |= keys[e] < limit;
        }
        if (!__syncthreads_or(any)) continue;
        if (count + STEP > part.waiting_length) {
            merge_waiting(list, part.list_length, waiting, count);
            limit = list[op.k - 1];
            count = 0;
        }
        count = append(shared, keys, limit, waiting, count);
    }
    __syncthreads();
    if (count > 0) merge_waiting(list, part.list_length, waiting, count);

    for (int64_t i = threadIdx.x; i < op.k; i += SELECT_THREADS) {
        if (part.last) {
            op.ids[query * op.k + i] = op.first_id + (int64_t)(uint32_t)list[i];
            op.scores[query * op.k + i] = score_of(list[i]);
        } else
            best[i] = list[i];
    }
}

cavmae_status cavmae__cuda_top_k(cavmae__backend *backend, const cavmae__top_k *op) {
    const int64_t at_once = rows_at_once(op);
    selection part = {};
    top_k_memory memory;
    if (op->rows > UINT32_MAX)
        return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_ARG, "top_k: %lld rows at a time, more than 2^32 - 1",
                                 (long long)op->rows);
    lay_out(op, &memory);
    part.list_length = list_size(op->k);
    part.waiting_length = waiting_size(op->k);
    const size_t keys = memory.lists ? 0 : (size_t)(part.list_length + part.waiting_length);
    for (part.first = 0; part.first < op->rows; part.first += at_once) {
        part.rows = op->rows - part.first < at_once ? op->rows - part.first : at_once;
        part.known = (int32_t)(part.first < op->k ? part.first : op->k);
        part.last = part.first + part.rows == op->rows;
        CAVMAE__TRY(cavmae__product(backend, {op->query, 0}, {op->row + part.first * op->width, 1}, memory.scores,
                                    op->queries, part.rows, op->width, 0));
        CAVMAE__TRY(CAVMAE__LAUNCH(backend, select_kernel, (unsigned)op->queries, SELECT_THREADS,
                                   offsetof(select_shared, keys) + keys * sizeof(uint64_t), *op, memory, part));
    }
    return CAVMAE_OK;
}
