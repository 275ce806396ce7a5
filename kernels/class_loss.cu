/* Losses of classes, in float64 as on the CPU: next to the layers before them the work is nothing. A block takes a
 * row; a second kernel adds the rows. */
#include "sums.h"

enum { THREADS = 256, MANY_THREADS = 1024, MANY_CLASSES = 1 << 13 };

size_t cavmae__cuda_class_loss_workspace(const cavmae__limits *limits) {
    return 2 * (size_t)limits->clips * sizeof(double);
}

typedef struct class_shared {
    cavmae__sum_shared sums;
    float most[CAVMAE__WARP];
    int32_t at[CAVMAE__WARP];
} class_shared;

/* The first of the largest elements, as a loop from 0 that takes what is larger finds it: element 0 where that is NaN,
 * and no NaN otherwise. Every thread gets it. */
static __device__ __forceinline__ int32_t largest(class_shared *shared, const float *x, int32_t count) {
    const int warps = (int)blockDim.x / CAVMAE__WARP;
    float most = x[0];
    int32_t at = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < count; i += (int32_t)blockDim.x) {
        if (x[i] > most) {
            most = x[i];
            at = i;
        }
    }
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, most, distance);
        const int32_t other_at = __shfl_xor_sync(0xffffffffu, at, distance);
        if (other > most || (other == most && other_at < at)) {
            most = other;
            at = other_at;
        }
    }
    __syncthreads();
    if (threadIdx.x % CAVMAE__WARP == 0) {
        shared->most[threadIdx.x / CAVMAE__WARP] = most;
        shared->at[threadIdx.x / CAVMAE__WARP] = at;
    }
    __syncthreads();
    most = shared->most[0];
    at = shared->at[0];
    for (int i = 1; i < warps; i++) {
        if (shared->most[i] > most || (shared->most[i] == most && shared->at[i] < at)) {
            most = shared->most[i];
            at = shared->at[i];
        }
    }
    return at;
}

/* max(z, 0) - z y + log(1 + exp(-|z|)), as PyTorch writes it so that nothing overflows. z y keeps a NaN that fmax
 * hides. */
static __device__ __forceinline__ double bce_row(class_shared *shared, const cavmae__class_loss &op, const float *z,
                                                 const float *y, float *dz) {
    const double share = 1 / (*op.total * op.classes);
    double sum = 0;
    for (int32_t k = (int32_t)threadIdx.x; k < op.classes; k += (int32_t)blockDim.x) {
        const double x = (double)z[k], target = (double)y[k], small = exp(-fabs(x));
        sum += fmax(x, 0.0) - x * target + log1p(small);
        if (dz) dz[k] = (float)(share * ((x >= 0 ? 1 : small) / (1 + small) - target));
    }
    return cavmae__block_sum(&shared->sums, sum) / op.classes;
}

/* -sum of y log softmax(z); its slope is softmax(z) times the sum of y, minus y. */
static __device__ __forceinline__ double cross_entropy_row(class_shared *shared, const cavmae__class_loss &op,
                                                           const float *z, const float *y, float *dz, int32_t best) {
    const double most = (double)z[best], total = *op.total;
    double exponentials = 0, targets = 0, sum = 0;
    for (int32_t k = (int32_t)threadIdx.x; k < op.classes; k += (int32_t)blockDim.x) {
        if (k != best) exponentials += exp((double)z[k] - most);
        targets += (double)y[k];
    }
    exponentials = cavmae__block_sum(&shared->sums, exponentials);
    targets = cavmae__block_sum(&shared->sums, targets);
    const double log_sum = most + log(1 /* the largest's own */ + exponentials);
    for (int32_t k = (int32_t)threadIdx.x; k < op.classes; k += (int32_t)blockDim.x) {
        const double x = (double)z[k], target = (double)y[k]; /* before dz is written: it may lie where z does */
        if (target != 0) sum += target * (log_sum - x);
        if (dz) dz[k] = (float)((targets * exp(x - log_sum) - target) / total);
    }
    sum = cavmae__block_sum(&shared->sums, sum);
    return log_sum == log_sum ? sum : log_sum; /* a NaN is in log_sum, whatever the labels */
}

static __global__ void __launch_bounds__(MANY_THREADS) class_rows(cavmae__class_loss op) {
    CAVMAE__SHARED(class_shared, shared);
    const int64_t r = blockIdx.x;
    const float *z = op.logits + r * op.classes, *y = op.labels + r * op.classes;
    float *dz = op.dlogits ? op.dlogits + r * op.classes : NULL;
    const int32_t best = largest(shared, z, op.classes), label = largest(shared, y, op.classes);
    const double loss = op.kind ? cross_entropy_row(shared, op, z, y, dz, best) : bce_row(shared, op, z, y, dz);
    if (threadIdx.x > 0) return;
    double *of_rows = static_cast<double *>(op.workspace);
    of_rows[r] = loss;
    of_rows[op.rows + r] = best == label;
}

static __global__ void __launch_bounds__(THREADS) add_rows(cavmae__class_loss op) {
    CAVMAE__SHARED(cavmae__sum_shared, shared);
    const double *of_rows = static_cast<const double *>(op.workspace);
    const double loss = cavmae__sum_parts(shared, of_rows, op.rows);
    const double hits = cavmae__sum_parts(shared, of_rows + op.rows, op.rows);
    if (threadIdx.x > 0) return;
    *op.loss += loss / *op.total;
    *op.accuracy += hits / *op.total;
}

cavmae_status cavmae__cuda_class_loss(cavmae__backend *backend, const cavmae__class_loss *op) {
    const cavmae_status status =
        CAVMAE__LAUNCH(backend, class_rows, (unsigned)op->rows, op->classes < MANY_CLASSES ? THREADS : MANY_THREADS,
                       sizeof(class_shared), *op);
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, add_rows, 1, THREADS, sizeof(cavmae__sum_shared), *op);
}
