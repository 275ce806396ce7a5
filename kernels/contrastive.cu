/* InfoNCE, as lib/backend/cpu/simd_contrastive.c but with float32 products. Either direction is the same with the roles
 * changed: each query (v2a: visual) has a softmax over all keys (v2a: audio). Rows of queries go through in parts that
 * keep the scores small, and a part's softmax has all it needs: with p the softmax, the scores become
 * ds = share (p - identity) / count, and from there dquery = ds keys, dkeys = ds^T queries, through the norms.
 *
 * Sums over rows are float64 from the start of a row's losses on: there are few of them. */
#include "cuda_kernel.h"
#include "score_product.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP, ALIGNMENT = 256 };

/* As torch.nn.functional.normalize. */
static const double smallest_norm = 1e-12;

/* Side 0 is audio, 1 visual. */
typedef struct contrastive_memory {
    double *norm; /* [2, count] */
    double *loss; /* [2, count]: of each visual row (v2a), then of each audio row (a2v) */
    double *hit;  /* [2, count]: likewise, whether the right one was the first of the largest */
    float *unit;  /* [2, count, width] */
    float *scores;
} contrastive_memory;

/* How the workspace is divided; its size. */
static size_t lay_out(int64_t count, int64_t width, void *workspace, contrastive_memory *memory) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(workspace);
    size_t end = 0;
    const auto take = [&](int64_t size) {
        const uintptr_t start = at + end;
        end += ((size_t)size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        return start;
    };
    memory->norm = reinterpret_cast<double *>(take(2 * count * (int64_t)sizeof(double)));
    memory->loss = reinterpret_cast<double *>(take(2 * count * (int64_t)sizeof(double)));
    memory->hit = reinterpret_cast<double *>(take(2 * count * (int64_t)sizeof(double)));
    memory->unit = reinterpret_cast<float *>(take(2 * count * width * (int64_t)sizeof(float)));
    memory->scores = reinterpret_cast<float *>(take(cavmae__score_room(count, count) * (int64_t)sizeof(float)));
    return end;
}

size_t cavmae__cuda_contrastive_workspace(const cavmae__limits *limits) {
    contrastive_memory memory;
    return lay_out(limits->clips, limits->width, NULL, &memory);
}

/* ---- Norms ---- */

/* A row a warp: first those of audio, then those of visual. */
static __global__ void __launch_bounds__(THREADS) normalize_kernel(cavmae__contrastive op, contrastive_memory memory) {
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= 2 * (int64_t)op.count) return;
    const float *x = row < op.count ? op.a + row * op.width : op.v + (row - op.count) * op.width;
    float *unit = memory.unit + row * op.width;
    double square = 0;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < op.width; j += CAVMAE__WARP) square += (double)x[j] * (double)x[j];
    const double norm = sqrt(cavmae__warp_sum(square));
    const double divisor = norm > smallest_norm || norm != norm ? norm : smallest_norm;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < op.width; j += CAVMAE__WARP)
        unit[j] = (float)((double)x[j] / divisor);
    if (threadIdx.x % CAVMAE__WARP == 0) memory.norm[row] = norm;
}

/* dx from the gradient of x / max(norm, smallest), in place, for one side. */
static __global__ void __launch_bounds__(THREADS)
    normalize_grad_kernel(const float *all_units, const double *norms, float *gradient, int64_t count, int32_t width,
                          double factor) {
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= count) return;
    const float *unit = all_units + row * width;
    float *dx = gradient + row * width;
    const double norm = norms[row];
    const int moves = norm > smallest_norm; /* with x, and not held at the smallest */
    double along = 0;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < width; j += CAVMAE__WARP) along += (double)unit[j] * (double)dx[j];
    along = moves ? cavmae__warp_sum(along) : 0;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < width; j += CAVMAE__WARP)
        dx[j] = (float)(factor / (moves ? norm : smallest_norm) * ((double)dx[j] - along * (double)unit[j]));
}

/* ---- Softmax ---- */

typedef struct softmax_shared {
    float largest[WARPS];
    int32_t place[WARPS];
    double sum[WARPS];
} softmax_shared;

/* The larger of two, the first of equals. */
static __device__ __forceinline__ void take_larger(float &largest, int32_t &place, float other, int32_t other_place) {
    if (other > largest || (other == largest && other_place < place)) {
        largest = other;
        place = other_place;
    }
}

static __device__ void block_largest(softmax_shared *shared, float &largest, int32_t &place) {
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
        const int32_t other_place = __shfl_xor_sync(0xffffffffu, place, distance);
        take_larger(largest, place, other, other_place);
    }
    if (threadIdx.x % CAVMAE__WARP == 0) {
        shared->largest[threadIdx.x / CAVMAE__WARP] = largest;
        shared->place[threadIdx.x / CAVMAE__WARP] = place;
    }
    __syncthreads();
    largest = shared->largest[0];
    place = shared->place[0];
    for (int w = 1; w < WARPS; w++) take_larger(largest, place, shared->largest[w], shared->place[w]);
}

static __device__ double block_sum(softmax_shared *shared, double x) {
    x = cavmae__warp_sum(x);
    if (threadIdx.x % CAVMAE__WARP == 0) shared->sum[threadIdx.x / CAVMAE__WARP] = x;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < WARPS; w++) sum += shared->sum[w];
    return sum;
}

/* A block for each row of scores, which are cosines; the row of query first + blockIdx.x. Its element of that number is
 * the right one's. In place, each thread its own elements: the scores, e = exp((score - largest) / temperature), and
 * with_gradient the gradient. */
static __global__ void __launch_bounds__(THREADS)
    softmax_kernel(float *all_scores, int64_t first, int32_t count, double temperature, float share,
                   int32_t with_gradient, double *loss, double *hit) {
    CAVMAE__SHARED(softmax_shared, shared);
    const int64_t query = first + blockIdx.x;
    float *scores = all_scores + (int64_t)blockIdx.x * count;
    const int32_t right = (int32_t)query;
    const float right_score = scores[right], factor = (float)(1 / temperature);

    float largest = -INFINITY;
    int32_t place = INT32_MAX;
    for (int32_t j = threadIdx.x; j < count; j += THREADS) take_larger(largest, place, scores[j], j);
    block_largest(shared, largest, place);

    double others = 0; /* than the largest, whose own is 1 */
    for (int32_t j = threadIdx.x; j < count; j += THREADS) {
        const float e = expf((scores[j] - largest) * factor);
        scores[j] = e;
        if (j != place) others += e;
    }
    others = block_sum(shared, others);

    if (with_gradient) {
        /* 1 - p of the right one in float64: nothing is lost where p is almost 1. */
        const double left_over = 1 + others - (double)expf((right_score - largest) * factor);
        const float scale = (float)((double)share / (1 + others));
        for (int32_t j = threadIdx.x; j < count; j += THREADS)
            scores[j] = j == right ? (float)(-(double)share * left_over / (1 + others)) : scores[j] * scale;
    }
    if (threadIdx.x == 0) {
        loss[query] = log1p(others) + ((double)largest - (double)right_score) / temperature;
        hit[query] = place == right;
    }
}

static __device__ double block_mean(softmax_shared *shared, const double *x, int32_t count) {
    double sum = 0;
    for (int32_t i = threadIdx.x; i < count; i += THREADS) sum += x[i];
    sum = block_sum(shared, sum);
    __syncthreads();
    return sum / count;
}

static __global__ void __launch_bounds__(THREADS) mean_kernel(cavmae__contrastive op, contrastive_memory memory) {
    CAVMAE__SHARED(softmax_shared, shared);
    double loss[2] = {0, 0}, accuracy[2] = {0, 0};
    for (int direction = 0; direction < 2; direction++) {
        if (op.direction != 2 && op.direction != direction) continue;
        loss[direction] = block_mean(shared, memory.loss + (int64_t)direction * op.count, op.count);
        accuracy[direction] = block_mean(shared, memory.hit + (int64_t)direction * op.count, op.count);
    }
    if (threadIdx.x != 0) return;
    *op.loss = op.direction == 2 ? (loss[0] + loss[1]) / 2 : loss[op.direction];
    *op.accuracy = op.direction == 2 ? (accuracy[0] + accuracy[1]) / 2 : accuracy[op.direction];
}

/* ---- Products ---- */

/* One direction: rows first .. first + rows - 1 of the queries. */
static cavmae_status contrast_rows(cavmae__backend *backend, const cavmae__contrastive *op,
                                   const contrastive_memory *memory, int direction, int64_t first, int64_t rows) {
    const int64_t count = op->count, width = op->width, side = count * width;
    const float *queries = memory->unit + (direction == 0 ? side : 0) + first * width;
    const float *keys = memory->unit + (direction == 0 ? 0 : side);
    float *dqueries = direction == 0 ? op->dv : op->da, *dkeys = direction == 0 ? op->da : op->dv;
    const float share = (op->direction == 2 ? 0.5f : 1.0f) / (float)count;
    const int second = op->direction == 2 && direction == 1; /* adds to what the first direction gave */
    CAVMAE__TRY(cavmae__product(backend, {queries, 0}, {keys, 1}, memory->scores, rows, count, width, 0));
    CAVMAE__TRY(CAVMAE__LAUNCH(backend, softmax_kernel, (unsigned)rows, THREADS, sizeof(softmax_shared), memory->scores,
                               first, op->count, op->temperature, share, op->da || op->dv,
                               memory->loss + direction * count, memory->hit + direction * count));
    if (dqueries)
        CAVMAE__TRY(cavmae__product(backend, {memory->scores, 0}, {keys, 0}, dqueries + first * width, rows, width,
                                    count, second));
    if (dkeys)
        CAVMAE__TRY(cavmae__product(backend, {memory->scores, 1}, {queries, 0}, dkeys, count, width, rows,
                                    second || first > 0));
    return CAVMAE_OK;
}

cavmae_status cavmae__cuda_contrastive(cavmae__backend *backend, const cavmae__contrastive *op) {
    const int64_t count = op->count, at_once = cavmae__score_rows(count, count);
    const double factor = op->weight / op->temperature;
    contrastive_memory memory;
    lay_out(count, op->width, op->workspace, &memory);
    CAVMAE__TRY(
        CAVMAE__LAUNCH(backend, normalize_kernel, cavmae__blocks_for(2 * count, WARPS), THREADS, 0, *op, memory));
    for (int direction = 0; direction < 2; direction++) {
        if (op->direction != 2 && op->direction != direction) continue;
        for (int64_t first = 0; first < count; first += at_once)
            CAVMAE__TRY(contrast_rows(backend, op, &memory, direction, first,
                                      count - first < at_once ? count - first : at_once));
    }
    if (op->da)
        CAVMAE__TRY(CAVMAE__LAUNCH(backend, normalize_grad_kernel, cavmae__blocks_for(count, WARPS), THREADS, 0,
                                   memory.unit, memory.norm, op->da, count, op->width, factor));
    if (op->dv)
        CAVMAE__TRY(CAVMAE__LAUNCH(backend, normalize_grad_kernel, cavmae__blocks_for(count, WARPS), THREADS, 0,
                                   memory.unit + count * op->width, memory.norm + count, op->dv, count, op->width,
                                   factor));
    return CAVMAE__LAUNCH(backend, mean_kernel, 1, THREADS, sizeof(softmax_shared), *op, memory);
}
