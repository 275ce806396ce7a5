/* Losses of classes, in float64: next to the layers before them the work is nothing, and they are then exact. */
#include <math.h>

#include "cpu_backend.h"

typedef struct class_loss {
    const cavmae__class_loss *op;
    double *loss, *hit; /* [rows] */
} class_loss;

size_t cavmae__class_loss_workspace(const cavmae__limits *limits) { return 2 * (size_t)limits->clips * sizeof(double); }

static int32_t largest(const float *x, int32_t count) {
    int32_t at = 0;
    for (int32_t i = 1; i < count; i++)
        if (x[i] > x[at]) at = i;
    return at;
}

/* max(z, 0) - z y + log(1 + exp(-|z|)), as PyTorch writes it so that nothing overflows. */
static double bce_row(const cavmae__class_loss *op, const float *z, const float *y, float *dz) {
    const double share = 1 / (*op->total * op->classes);
    double sum = 0;
    for (int32_t k = 0; k < op->classes; k++) {
        const double x = (double)z[k], target = (double)y[k], small = exp(-fabs(x));
        sum += fmax(x, 0) - x * target + log1p(small);
        if (dz) dz[k] = (float)(share * ((x >= 0 ? 1 : small) / (1 + small) - target));
        if (x != x) sum = x; /* fmax hides it */
    }
    return sum / op->classes;
}

/* -sum of y log softmax(z); its slope is softmax(z) times the sum of y, minus y. */
static double cross_entropy_row(const cavmae__class_loss *op, const float *z, const float *y, float *dz) {
    const int32_t best = largest(z, op->classes);
    const double most = (double)z[best];
    double exponentials = 1 /* the largest's own */, targets = 0, sum = 0;
    for (int32_t k = 0; k < op->classes; k++) {
        if (k != best) exponentials += exp((double)z[k] - most);
        targets += (double)y[k];
    }
    const double log_sum = most + log(exponentials);
    for (int32_t k = 0; k < op->classes; k++) {
        const double target = (double)y[k];
        if (target != 0) sum += target * (log_sum - (double)z[k]);
        if (dz) dz[k] = (float)((targets * exp((double)z[k] - log_sum) - target) / *op->total);
    }
    return log_sum == log_sum ? sum : log_sum; /* a NaN is in log_sum, whatever the labels */
}

static void row_task(void *arg, int64_t r, int32_t worker) {
    const class_loss *c = arg;
    const cavmae__class_loss *op = c->op;
    const float *z = op->logits + r * op->classes, *y = op->labels + r * op->classes;
    float *dz = op->dlogits ? op->dlogits + r * op->classes : NULL;
    (void)worker;
    c->loss[r] = op->kind ? cross_entropy_row(op, z, y, dz) : bce_row(op, z, y, dz);
    c->hit[r] = largest(z, op->classes) == largest(y, op->classes);
}

cavmae_status cavmae__cpu_class_loss(cavmae__backend *backend, const cavmae__class_loss *op) {
    class_loss c = {.op = op, .loss = op->workspace};
    double loss = 0, hits = 0;
    c.hit = c.loss + op->rows;
    cavmae__cpu_run(backend, op->rows, 20.0 * (double)op->rows * op->classes, row_task, &c);
    for (int64_t r = 0; r < op->rows; r++) {
        loss += c.loss[r];
        hits += c.hit[r];
    }
    *op->loss += loss / *op->total;
    *op->accuracy += hits / *op->total;
    return CAVMAE_OK;
}
