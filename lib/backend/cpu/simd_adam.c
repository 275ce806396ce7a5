/* torch.optim.Adam and AdamW, and the norm of the gradients. Bias corrections are float64, as torch's; the rest is one
 * pass in float32. */
#include "simd_ops.h"
#include "vec.h"

enum { ELEMENTS_EACH = 1 << 15, SQUARES_SMALLEST = 1 << 12, SUMS = 32 };

typedef struct adam {
    const cavmae__adam *op;
    float grad_scale, decay, shrink, beta1, one_minus_beta1, beta2, one_minus_beta2, step, root, eps;
} adam;

VEC_INLINE void update(const adam *a, vec grad, vec *p, vec *m, vec *v) {
    grad = grad * a->grad_scale + *p * a->decay;
    *m = *m * a->beta1 + grad * a->one_minus_beta1;
    *v = *v * a->beta2 + grad * grad * a->one_minus_beta2;
    *p = *p * a->shrink - *m / (vec_sqrt(*v) / a->root + a->eps) * a->step;
}

static void adam_task(void *arg, int64_t task, int32_t worker) {
    const adam *a = arg;
    const cavmae__adam *op = a->op;
    const int64_t end = cavmae__smaller((task + 1) * ELEMENTS_EACH, op->count);
    int64_t i = task * ELEMENTS_EACH;
    (void)worker;
    for (; i + VEC_WIDTH <= end; i += VEC_WIDTH) {
        vec p = vec_load(op->p + i), m = vec_load(op->m + i), v = vec_load(op->v + i);
        update(a, vec_load(op->grad + i), &p, &m, &v);
        vec_store(op->p + i, p);
        vec_store(op->m + i, m);
        vec_store(op->v + i, v);
    }
    if (i < end) {
        const int part = (int)(end - i);
        vec p = vec_load_part(op->p + i, part), m = vec_load_part(op->m + i, part), v = vec_load_part(op->v + i, part);
        update(a, vec_load_part(op->grad + i, part), &p, &m, &v);
        vec_store_part(op->p + i, p, part);
        vec_store_part(op->m + i, m, part);
        vec_store_part(op->v + i, v, part);
    }
}

/* grad_scale, made smaller where the gradient's norm is more than clip_norm. */
static double clipped_scale(const cavmae__adam *op) {
    const double scale = op->update->grad_scale;
    if (!(op->clip_norm > 0)) return scale;
    const double norm = scale * sqrt(*op->sum_squares);
    return norm > op->clip_norm ? scale * (op->clip_norm / norm) : scale;
}

cavmae_status CAVMAE__SIMD(adam)(cavmae__backend *backend, const cavmae__adam *op) {
    for (int32_t i = 0; i < op->guards; i++)
        if (!isfinite(op->guard[i])) return CAVMAE_OK;
    const double number = (double)op->update->number, lr = op->update->lr * op->lr_factor;
    const double correction1 = 1 - pow(op->beta1, number), correction2 = 1 - pow(op->beta2, number);
    adam a = {.op = op,
              .grad_scale = (float)clipped_scale(op),
              .decay = op->decoupled ? 0.0f : (float)op->weight_decay,
              .shrink = op->decoupled ? (float)(1 - lr * op->weight_decay) : 1.0f,
              .beta1 = (float)op->beta1,
              .one_minus_beta1 = (float)(1 - op->beta1),
              .beta2 = (float)op->beta2,
              .one_minus_beta2 = (float)(1 - op->beta2),
              .step = (float)(lr / correction1),
              .root = (float)sqrt(correction2),
              .eps = (float)op->eps};
    cavmae__cpu_run(backend, cavmae__blocks(op->count, ELEMENTS_EACH), (double)op->count, adam_task, &a);
    return CAVMAE_OK;
}

/* ---- Sum of squares: float64 in SUMS parallel sums, blocks added in order ---- */

typedef struct squares {
    const float *x;
    int64_t count, each;
    double *part;
} squares;

static void squares_task(void *arg, int64_t task, int32_t worker) {
    const squares *s = arg;
    const int64_t end = cavmae__smaller((task + 1) * s->each, s->count);
    int64_t i = task * s->each;
    double sums[SUMS] = {0}, total = 0;
    (void)worker;
    for (; i + SUMS <= end; i += SUMS)
        for (int j = 0; j < SUMS; j++) sums[j] += (double)s->x[i + j] * (double)s->x[i + j];
    for (; i < end; i++) total += (double)s->x[i] * (double)s->x[i];
    for (int j = 0; j < SUMS; j++) total += sums[j];
    s->part[task] = total;
}

cavmae_status CAVMAE__SIMD(sum_squares)(cavmae__backend *backend, const cavmae__sum_squares *op) {
    squares s = {.x = op->x, .count = op->count, .part = op->workspace};
    s.each = cavmae__round_up(cavmae__blocks(op->count, CAVMAE__SUM_SQUARES_BLOCKS), SQUARES_SMALLEST);
    const int64_t blocks = op->count > 0 ? cavmae__blocks(op->count, s.each) : 0;
    double total = 0;
    cavmae__cpu_run(backend, blocks, (double)op->count / VEC_WIDTH, squares_task, &s);
    for (int64_t i = 0; i < blocks; i++) total += s.part[i];
    *op->sum = total;
    return CAVMAE_OK;
}
