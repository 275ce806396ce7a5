/* torch.optim.Adam and AdamW, and the norm of the gradients. What an update's numbers are is in device memory, so
 * that a recorded step goes on with other ones: each block works out its factors, in float64 as torch does, and then
 * goes through its share of the elements in float32. */
#include "sums.h"
#include "vector.h"

static const int threads = 256;
static const int64_t most_blocks = 4224;

typedef struct adam_shared {
    float grad_scale, decay, shrink, beta1, one_minus_beta1, beta2, one_minus_beta2, step, root, eps;
    int32_t skip; /* something is not finite */
} adam_shared;

/* grad_scale, made smaller where the gradient's norm is more than clip_norm. */
static __device__ __forceinline__ double clipped_scale(const cavmae__adam &op) {
    const double scale = op.update->grad_scale;
    if (!(op.clip_norm > 0)) return scale;
    const double norm = scale * sqrt(*op.sum_squares);
    return norm > op.clip_norm ? scale * (op.clip_norm / norm) : scale;
}

static __device__ __forceinline__ void find_factors(const cavmae__adam &op, adam_shared *a) {
    const double number = (double)op.update->number, lr = op.update->lr * op.lr_factor;
    a->skip = 0;
    for (int32_t i = 0; i < op.guards; i++)
        if (!isfinite(op.guard[i])) a->skip = 1;
    a->grad_scale = (float)clipped_scale(op);
    a->decay = op.decoupled ? 0.0f : (float)op.weight_decay;
    a->shrink = op.decoupled ? (float)(1 - lr * op.weight_decay) : 1.0f;
    a->beta1 = (float)op.beta1;
    a->one_minus_beta1 = (float)(1 - op.beta1);
    a->beta2 = (float)op.beta2;
    a->one_minus_beta2 = (float)(1 - op.beta2);
    a->step = (float)(lr / (1 - pow(op.beta1, number)));
    a->root = (float)sqrt(1 - pow(op.beta2, number));
    a->eps = (float)op.eps;
}

static __device__ __forceinline__ void update(const adam_shared &a, float grad, float *p, float *m, float *v) {
    grad = grad * a.grad_scale + *p * a.decay;
    *m = *m * a.beta1 + grad * a.one_minus_beta1;
    *v = *v * a.beta2 + grad * grad * a.one_minus_beta2;
    *p = *p * a.shrink - *m / (sqrtf(*v) / a.root + a.eps) * a.step;
}

static __device__ __forceinline__ void update(const adam_shared &a, float4 grad, float4 *p, float4 *m, float4 *v) {
    update(a, grad.x, &p->x, &m->x, &v->x);
    update(a, grad.y, &p->y, &m->y, &v->y);
    update(a, grad.z, &p->z, &m->z, &v->z);
    update(a, grad.w, &p->w, &m->w, &v->w);
}

template <typename Vector> static __global__ void __launch_bounds__(256) adam_kernel(cavmae__adam op) {
    CAVMAE__SHARED(adam_shared, shared);
    if (threadIdx.x == 0) find_factors(op, shared);
    __syncthreads();
    const adam_shared a = *shared;
    if (a.skip) return;
    const int64_t pieces = op.count / cavmae__vector<Vector>::width, every = (int64_t)gridDim.x * blockDim.x;
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = thread; i < pieces; i += every) {
        const Vector grad = reinterpret_cast<const Vector *>(op.grad)[i];
        Vector p = reinterpret_cast<const Vector *>(op.p)[i], m = reinterpret_cast<const Vector *>(op.m)[i],
               v = reinterpret_cast<const Vector *>(op.v)[i];
        update(a, grad, &p, &m, &v);
        reinterpret_cast<Vector *>(op.p)[i] = p;
        reinterpret_cast<Vector *>(op.m)[i] = m;
        reinterpret_cast<Vector *>(op.v)[i] = v;
    }
    const int64_t last = pieces * cavmae__vector<Vector>::width + thread; /* up to three are left */
    if (last < op.count) update(a, op.grad[last], op.p + last, op.m + last, op.v + last);
}

cavmae_status cavmae__cuda_adam(cavmae__backend *backend, const cavmae__adam *op) {
    return cavmae__by_vector(cavmae__aligned(op->p, op->m, op->v, op->grad), [&](auto zero) {
        typedef decltype(zero) Vector;
        const int64_t each = (int64_t)threads * cavmae__vector<Vector>::width, blocks = (op->count + each - 1) / each;
        return CAVMAE__LAUNCH(backend, adam_kernel<Vector>, (unsigned)(blocks < most_blocks ? blocks : most_blocks),
                              threads, sizeof(adam_shared), *op);
    });
}

/* ---- Sum of squares: float64; each block's sum to the workspace ---- */

static const int64_t most_sums = 1056, smallest_sum = 4096; /* blocks; elements */

size_t cavmae__cuda_sum_squares_workspace(const cavmae__limits *limits) {
    (void)limits;
    return (size_t)most_sums * sizeof(double);
}

static __device__ __forceinline__ double square(float x) { return (double)x * (double)x; }
static __device__ __forceinline__ double square(float4 x) {
    return (square(x.x) + square(x.y)) + (square(x.z) + square(x.w));
}

template <typename Vector> static __global__ void __launch_bounds__(256) add_squares(cavmae__sum_squares op) {
    CAVMAE__SHARED(cavmae__sum_shared, shared);
    const int64_t pieces = op.count / cavmae__vector<Vector>::width, every = (int64_t)gridDim.x * blockDim.x;
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = thread; i < pieces; i += every) sum += square(reinterpret_cast<const Vector *>(op.x)[i]);
    const int64_t last = pieces * cavmae__vector<Vector>::width + thread; /* up to three are left */
    if (last < op.count) sum += square(op.x[last]);
    sum = cavmae__block_sum(shared, sum);
    if (threadIdx.x == 0) static_cast<double *>(op.workspace)[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(256) add_blocks(cavmae__sum_squares op, int64_t blocks) {
    CAVMAE__SHARED(cavmae__sum_shared, shared);
    const double sum = cavmae__sum_parts(shared, static_cast<const double *>(op.workspace), blocks);
    if (threadIdx.x == 0) *op.sum = sum;
}

cavmae_status cavmae__cuda_sum_squares(cavmae__backend *backend, const cavmae__sum_squares *op) {
    const int64_t wanted = (op->count + smallest_sum - 1) / smallest_sum;
    const int64_t blocks = wanted < most_sums ? wanted : most_sums;
    const cavmae_status status = cavmae__by_vector(cavmae__aligned(op->x), [&](auto zero) {
        return CAVMAE__LAUNCH(backend, add_squares<decltype(zero)>, (unsigned)blocks, threads,
                              sizeof(cavmae__sum_shared), *op);
    });
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, add_blocks, 1, threads, sizeof(cavmae__sum_shared), *op, blocks);
}
