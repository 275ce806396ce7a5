/* InfoNCE in float64: next to the layers before it the work is nothing, and its loss is then exact. With p the softmax,
 * ds = (p - identity) / count; from there through the product and the division by the norm. */
#include <math.h>
#include <string.h>

#include "simd_ops.h"

/* As torch.nn.functional.normalize. */
static const double smallest_norm = 1e-12;

typedef struct contrastive {
    const cavmae__contrastive *op;
    double *a, *v, *v_columns; /* normalised [count, width], and v transposed */
    double *norm_a, *norm_v;
    double *s, *ds;     /* [count, count]; rows are audio */
    double *loss, *hit; /* [2, count]: of each column, then of each row */
} contrastive;

static contrastive lay_out(const cavmae__contrastive *op) {
    const int64_t count = op->count, width = op->width;
    contrastive c = {.op = op, .a = op->workspace};
    c.v = c.a + count * width;
    c.v_columns = c.v + count * width;
    c.s = c.v_columns + count * width;
    c.ds = c.s + count * count;
    c.norm_a = c.ds + count * count;
    c.norm_v = c.norm_a + count;
    c.loss = c.norm_v + count;
    c.hit = c.loss + 2 * count;
    return c;
}

static double normalize(const float *x, int64_t width, double *to) {
    double square = 0;
    for (int64_t j = 0; j < width; j++) square += (double)x[j] * (double)x[j];
    const double norm = sqrt(square), divisor = norm > smallest_norm || norm != norm ? norm : smallest_norm;
    for (int64_t j = 0; j < width; j++) to[j] = (double)x[j] / divisor;
    return norm;
}

static void normalize_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count, width = c->op->width;
    (void)worker;
    c->norm_a[i] = normalize(c->op->a + i * width, width, c->a + i * width);
    c->norm_v[i] = normalize(c->op->v + i * width, width, c->v + i * width);
    for (int64_t j = 0; j < width; j++) c->v_columns[j * count + i] = c->v[i * width + j];
}

static void scores_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count, width = c->op->width;
    double *s = c->s + i * count;
    (void)worker;
    memset(s, 0, (size_t)count * sizeof *s);
    for (int64_t l = 0; l < width; l++)
        for (int64_t j = 0; j < count; j++) s[j] += c->a[i * width + l] * c->v_columns[l * count + j];
    for (int64_t j = 0; j < count; j++) s[j] /= c->op->temperature;
}

/* Softmax of `count` scores, `stride` apart, whose right one is number i: loss, whether it was the first of the
 * largest, and share times the gradient added to ds. */
static void softmax(const contrastive *c, const double *s, double *ds, int64_t stride, int64_t i, double share,
                    double *loss, double *hit) {
    const int64_t count = c->op->count;
    int64_t largest = 0;
    double sum = 1; /* the largest itself */
    for (int64_t j = 1; j < count; j++)
        if (s[j * stride] > s[largest * stride]) largest = j;
    for (int64_t j = 0; j < count; j++)
        if (j != largest) sum += exp(s[j * stride] - s[largest * stride]);
    for (int64_t j = 0; j < count; j++)
        ds[j * stride] +=
            share / (double)count * (exp(s[j * stride] - s[largest * stride]) / sum - (j == i ? 1.0 : 0.0));
    *loss = log(sum) + s[largest * stride] - s[i * stride];
    *hit = largest == i;
}

static void columns_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    (void)worker;
    softmax(c, c->s + i, c->ds + i, c->op->count, i, c->op->direction == 2 ? 0.5 : 1.0, c->loss + i, c->hit + i);
}

static void rows_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count;
    (void)worker;
    softmax(c, c->s + i * count, c->ds + i * count, 1, i, c->op->direction == 2 ? 0.5 : 1.0, c->loss + count + i,
            c->hit + count + i);
}

/* dx from the gradient g of x / max(norm, smallest); g is used up. */
static void normalize_grad(const double *unit, double norm, double *g, int64_t width, double factor, float *dx) {
    double along = 0;
    if (norm > smallest_norm)
        for (int64_t j = 0; j < width; j++) along += unit[j] * g[j];
    else
        norm = smallest_norm;
    for (int64_t j = 0; j < width; j++) dx[j] = (float)(factor / norm * (g[j] - along * unit[j]));
}

/* v_columns is not needed any more: its rows, of `width`, hold the gradients of the unit vectors. */
static void audio_grad_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count, width = c->op->width;
    double *g = c->v_columns + i * width;
    (void)worker;
    memset(g, 0, (size_t)width * sizeof *g);
    for (int64_t j = 0; j < count; j++)
        for (int64_t l = 0; l < width; l++) g[l] += c->ds[i * count + j] * c->v[j * width + l];
    normalize_grad(c->a + i * width, c->norm_a[i], g, width, c->op->weight / c->op->temperature, c->op->da + i * width);
}

static void visual_grad_task(void *arg, int64_t j, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count, width = c->op->width;
    double *g = c->v_columns + j * width;
    (void)worker;
    memset(g, 0, (size_t)width * sizeof *g);
    for (int64_t i = 0; i < count; i++)
        for (int64_t l = 0; l < width; l++) g[l] += c->ds[i * count + j] * c->a[i * width + l];
    normalize_grad(c->v + j * width, c->norm_v[j], g, width, c->op->weight / c->op->temperature, c->op->dv + j * width);
}

static double mean(const double *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i];
    return sum / (double)count;
}

cavmae_status CAVMAE__SIMD(contrastive)(cavmae__backend *backend, const cavmae__contrastive *op) {
    contrastive c = lay_out(op);
    const int64_t count = op->count;
    const double each = (double)count * op->width / 4, square = (double)count * (double)count;
    memset(c.ds, 0, (size_t)(count * count) * sizeof *c.ds);
    cavmae__cpu_run(backend, count, each * 4, normalize_task, &c);
    cavmae__cpu_run(backend, count, each * (double)count, scores_task, &c);
    if (op->direction != 1) cavmae__cpu_run(backend, count, square * 20, columns_task, &c);
    if (op->direction != 0) cavmae__cpu_run(backend, count, square * 20, rows_task, &c);
    if (op->da) cavmae__cpu_run(backend, count, each * (double)count, audio_grad_task, &c);
    if (op->dv) cavmae__cpu_run(backend, count, each * (double)count, visual_grad_task, &c);

    const double *loss = c.loss, *hit = c.hit;
    if (op->direction == 2) {
        *op->loss = (mean(loss, count) + mean(loss + count, count)) / 2;
        *op->accuracy = (mean(hit, count) + mean(hit + count, count)) / 2;
    } else {
        const int64_t from = op->direction == 1 ? count : 0;
        *op->loss = mean(loss + from, count);
        *op->accuracy = mean(hit + from, count);
    }
    return CAVMAE_OK;
}
