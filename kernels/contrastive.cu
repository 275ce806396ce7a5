/* InfoNCE, as lib/backend/cpu/simd_contrastive.c but with float32 products. Either direction is the same with the roles
 * changed: each query (v2a: visual) of the own pairs has a softmax over all keys (v2a: audio). Rows of queries go through
 * in parts that keep the scores small, and a part's softmax has all it needs: with p the softmax, the scores become
 * ds = share (p - identity) / pairs, and from there dquery = ds keys, dkeys = ds^T queries, through the norms.
 *
 * Sums over rows are float64 from the start of a row's losses on: there are few of them. */
#include "cuda_kernel.h"
#include "score_product.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP, ALIGNMENT = 256 };

/* As torch.nn.functional.normalize. */
static const double smallest_norm = 1e-12;

/* Side 0 is audio, 1 visual. */
typedef struct contrastive_memory {
    double *norm; /* [2, total] */
    double *loss; /* [2, count]: of each own visual row (v2a), then of each own audio row (a2v) */
    double *hit;  /* [2, count]: likewise, whether the right one was the first of the largest */
    float *unit;  /* [2, total, width] */
    float *scores;
} contrastive_memory;

/* How the workspace is divided; its size. */
static size_t lay_out(int64_t count, int64_t total, int64_t width, void *workspace, contrastive_memory *memory) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(workspace);
    size_t end = 0;
    const auto take = [&](int64_t size) {
        const uintptr_t start = at + end;
        end += ((size_t)size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        return start;
    };
    memory->norm = reinterpret_cast<double *>(take(2 * total * (int64_t)sizeof(double)));
    memory->loss = reinterpret_cast<double *>(take(2 * count * (int64_t)sizeof(double)));
    memory->hit = reinterpret_cast<double *>(take(2 * count * (int64_t)sizeof(double)));
    memory->unit = reinterpret_cast<float *>(take(2 * total * width * (int64_t)sizeof(float)));
    memory->scores = reinterpret_cast<float *>(take(cavmae__score_room(count, total) * (int64_t)sizeof(float)));
    return end;
}

size_t cavmae__cuda_contrastive_workspace(const cavmae__limits *limits) {
    contrastive_memory memory;
    return lay_out(limits->pairs ? limits->pairs : limits->clips, limits->all_pairs ? limits->all_pairs : limits->clips,
                   limits->width, NULL, &memory);
}

/* ---- Norms ---- */

/* A row a warp: first those of audio, then those of visual. */
static __global__ void __launch_bounds__(THREADS) normalize_kernel(cavmae__contrastive op, contrastive_memory memory) {
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= 2 * (int64_t)op.total) return;
    const float *x = row < op.total ? op.a + row * op.width : op.v + (row - op.total) * op.width;
    float *unit = memory.unit + row * op.width;
    double square = 0;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < op.width; j += CAVMAE__WARP) square += (double)x[j] * (double)x[j];
    const double norm = sqrt(cavmae__warp_sum(square));
    const double divisor = norm > smallest_norm || norm != norm ? norm : smallest_norm;
    for (int32_t j = threadIdx.x % CAVMAE__WARP; j < op.width; j += CAVMAE__WARP)
        unit[j] = (float)((double)x[j] / divisor);
    if (threadIdx.x % CAVMAE__WARP == 0) memory.norm[row] = norm;
}

/* dx from the gradient of x / max(norm, smallest), in place, for rows of one side. */
static __global__ void __launch_bounds__(THREADS)
    normalize_grad_kernel(const float *all_units, const double *norms, float *gradient, int64_t rows, int32_t width,
                          double factor) {
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / CAVMAE__WARP;
    if (row >= rows) return;
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

/* A block for each row of scores, which are cosines: `total` of them, of which number first_right +
 * blockIdx.x is the right one's.
 * In place, each thread its own elements: the scores, e = exp((score - largest) / temperature), and with_gradient the
 * gradient. */
static __global__ void __launch_bounds__(THREADS)
    softmax_kernel(float *all_scores, int32_t first_right, int32_t total, double temperature, float share,
                   int32_t with_gradient, double *loss, double *hit) {
    CAVMAE__SHARED(softmax_shared, shared);
    float *scores = all_scores + (int64_t)blockIdx.x * total;
    const int32_t right = first_right + (int32_t)blockIdx.x;
    const float right_score = scores[right], factor = (float)(1 / temperature);

    float largest = -INFINITY;
    int32_t place = INT32_MAX;
    for (int32_t j = threadIdx.x; j < total; j += THREADS) take_larger(largest, place, scores[j], j);
    block_largest(shared, largest, place);

    double others = 0; /* than the largest, whose own is 1 */
    for (int32_t j = threadIdx.x; j < total; j += THREADS) {
        const float e = expf((scores[j] - largest) * factor);
        scores[j] = e;
        if (j != place) others += e;
    }
    others = block_sum(shared, others);

    if (with_gradient) {
        /* 1 - p of the right one in float64: nothing is lost where p is almost 1. */
        const double left_over = 1 + others - (double)expf((right_score - largest) * factor);
        const float scale = (float)((double)share / (1 + others));
        for (int32_t j = threadIdx.x; j < total; j += THREADS)
            scores[j] = j == right ? (float)(-(double)share * left_over / (1 + others)) : scores[j] * scale;
    }
    if (threadIdx.x == 0) {
        loss[blockIdx.x] = log1p(others) + ((double)largest - (double)right_score) / temperature;
        hit[blockIdx.x] = place == right;
    }
}

static __device__ double block_mean(softmax_shared *shared, const double *x, int32_t count, int64_t pairs) {
    double sum = 0;
    for (int32_t i = threadIdx.x; i < count; i += THREADS) sum += x[i];
    sum = block_sum(shared, sum);
    __syncthreads();
    return sum / (double)pairs;
}

static __global__ void __launch_bounds__(THREADS) mean_kernel(cavmae__contrastive op, contrastive_memory memory) {
    CAVMAE__SHARED(softmax_shared, shared);
    double loss[2] = {0, 0}, accuracy[2] = {0, 0};
    for (int direction = 0; direction < 2; direction++) {
        if (op.direction != 2 && op.direction != direction) continue;
        loss[direction] = block_mean(shared, memory.loss + (int64_t)direction * op.count, op.count, op.pairs);
        accuracy[direction] = block_mean(shared, memory.hit + (int64_t)direction * op.count, op.count, op.pairs);
    }
    if (threadIdx.x != 0) return;
    *op.loss += op.direction == 2 ? (loss[0] + loss[1]) / 2 : loss[op.direction];
    *op.accuracy += op.direction == 2 ? (accuracy[0] + accuracy[1]) / 2 : accuracy[op.direction];
}

/* ---- Products ---- */

/* One direction: rows first .. first + rows - 1 of the own queries. */
static cavmae_status contrast_rows(cavmae__backend *backend, const cavmae__contrastive *op,
                                   const contrastive_memory *memory, int direction, int64_t first, int64_t rows) {
    const int64_t total = op->total, width = op->width, side = total * width, at = op->first + first;
    const float *queries = memory->unit + (direction == 0 ? side : 0) + at * width;
    const float *keys = memory->unit + (direction == 0 ? 0 : side);
    float *dqueries = direction == 0 ? op->dv : op->da, *dkeys = direction == 0 ? op->da : op->dv;
    const float share = (op->direction == 2 ? 0.5f : 1.0f) / (float)op->pairs;
    const int second = op->direction == 2 && direction == 1; /* adds to what the first direction gave */
    CAVMAE__TRY(cavmae__product(backend, {queries, 0}, {keys, 1}, memory->scores, rows, total, width, 0));
    CAVMAE__TRY(CAVMAE__LAUNCH(backend, softmax_kernel, (unsigned)rows, THREADS, sizeof(softmax_shared), memory->scores,
                               at, total, op->temperature, share, dqueries != NULL,
                               memory->loss + direction * (int64_t)op->count + first,
                               memory->hit + direction * (int64_t)op->count + first));
    if (!dqueries) return CAVMAE_OK;
    CAVMAE__TRY(
        cavmae__product(backend, {memory->scores, 0}, {keys, 0}, dqueries + at * width, rows, width, total, second));
    return cavmae__product(backend, {memory->scores, 1}, {queries, 0}, dkeys, total, width, rows, second || first > 0);
}

/* ---- Gradients ---- */

/* Zeros in all rows of a side but the own ones, which are the only queries. */
static cavmae_status zero_others(cavmae__backend *backend, const cavmae__contrastive *op, float *dx) {
    const size_t row = (size_t)op->width * sizeof(float);
    const int64_t end = (int64_t)op->first + op->count;
    CAVMAE__TRY(backend->ops->zero(backend, dx, (size_t)op->first * row));
    return backend->ops->zero(backend, dx + end * op->width, (size_t)(op->total - end) * row);
}

/* Of what no product writes before another one adds to it, or at all: queries of the first direction, keys where there
 * are no queries. */
static cavmae_status zero_gradients(cavmae__backend *backend, const cavmae__contrastive *op) {
    if (!op->da) return CAVMAE_OK;
    if (op->direction != 1 || op->count == 0) CAVMAE__TRY(zero_others(backend, op, op->dv));
    if (op->direction == 1 || op->count == 0) CAVMAE__TRY(zero_others(backend, op, op->da));
    return CAVMAE_OK;
}

/* Through the norms of side 0 or 1, where anything comes from the own pairs: own queries, and all keys. */
static cavmae_status side_grad(cavmae__backend *backend, const cavmae__contrastive *op,
                               const contrastive_memory *memory, int side, float *dx) {
    const int keys = op->direction == 2 || op->direction == side;
    const int64_t first = keys ? 0 : op->first, rows = keys ? op->total : op->count, width = op->width;
    if (!dx || op->count == 0) return CAVMAE_OK;
    return CAVMAE__LAUNCH(backend, normalize_grad_kernel, cavmae__blocks_for(rows, WARPS), THREADS, 0,
                          memory->unit + (side * (int64_t)op->total + first) * width,
                          memory->norm + side * (int64_t)op->total + first, dx + first * width, rows, op->width,
                          op->weight / op->temperature);
}

cavmae_status cavmae__cuda_contrastive(cavmae__backend *backend, const cavmae__contrastive *op) {
    const int64_t count = op->count, total = op->total, at_once = cavmae__score_rows(count, total);
    contrastive_memory memory;
    lay_out(count, total, op->width, op->workspace, &memory);
    CAVMAE__TRY(
        CAVMAE__LAUNCH(backend, normalize_kernel, cavmae__blocks_for(2 * total, WARPS), THREADS, 0, *op, memory));
    CAVMAE__TRY(zero_gradients(backend, op));
    for (int direction = 0; direction < 2; direction++) {
        if (op->direction != 2 && op->direction != direction) continue;
        for (int64_t first = 0; first < count; first += at_once)
            CAVMAE__TRY(contrast_rows(backend, op, &memory, direction, first,
                                      count - first < at_once ? count - first : at_once));
    }
    CAVMAE__TRY(side_grad(backend, op, &memory, 0, op->da));
    CAVMAE__TRY(side_grad(backend, op, &memory, 1, op->dv));
    return CAVMAE__LAUNCH(backend, mean_kernel, 1, THREADS, sizeof(softmax_shared), *op, memory);
}
