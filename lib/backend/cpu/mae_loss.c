/* The masked reconstruction loss, in float64: it reads each number once, so memory is what it waits for. */
#include <math.h>
#include <string.h>

#include "cpu_backend.h"

enum { ROWS_EACH = 16 };

typedef struct mae_loss {
    const cavmae__mae_loss *op;
    int64_t width;
    double *part;   /* [blocks] */
    double *target; /* [threads, width] */
} mae_loss;

size_t cavmae__mae_loss_workspace(const cavmae__cpu_backend *backend, const cavmae__limits *limits) {
    return (size_t)(cavmae__blocks(limits->rows, ROWS_EACH) + (int64_t)backend->threads * limits->width) *
           sizeof(double);
}

/* The patch in the order (row, column, channel), normalised where asked. */
static void read_target(const mae_loss *m, int64_t r, double *target) {
    const cavmae__patch_source *s = &m->op->source;
    const int32_t clip = m->op->clip[r], token = m->op->token[r], columns = s->columns[clip], patch = s->patch;
    const float *corner = s->data + s->offset[clip] + token / columns * patch * s->row_stride +
                          token % columns * patch * s->column_stride;
    double *to = target, sum = 0, square = 0;
    for (int32_t y = 0; y < patch; y++)
        for (int32_t x = 0; x < patch; x++)
            for (int32_t c = 0; c < s->channels; c++)
                *to++ = (double)corner[c * s->channel_stride + y * s->row_stride + x * s->column_stride];
    if (!m->op->norm_pix) return;
    for (int64_t j = 0; j < m->width; j++) sum += target[j];
    const double mean = sum / (double)m->width;
    for (int64_t j = 0; j < m->width; j++) square += (target[j] - mean) * (target[j] - mean);
    const double deviation = sqrt(square / (double)(m->width - 1) + 1e-6);
    for (int64_t j = 0; j < m->width; j++) target[j] = (target[j] - mean) / deviation;
}

static void loss_task(void *arg, int64_t task, int32_t worker) {
    const mae_loss *m = arg;
    const cavmae__mae_loss *op = m->op;
    const int64_t width = m->width, end = cavmae__smaller((task + 1) * ROWS_EACH, op->rows);
    const double slope = op->weight * 2 / ((double)width * *op->removed);
    double *target = m->target + worker * width, total = 0;
    for (int64_t r = task * ROWS_EACH; r < end; r++) {
        const float *pred = op->pred + r * width;
        float *dpred = op->dpred ? op->dpred + r * width : NULL;
        if (!op->mask[r]) {
            if (dpred) memset(dpred, 0, (size_t)width * sizeof *dpred);
            continue;
        }
        double sum = 0;
        read_target(m, r, target);
        for (int64_t j = 0; j < width; j++) {
            const double d = (double)pred[j] - target[j];
            sum += d * d;
            if (dpred) dpred[j] = (float)(slope * d);
        }
        total += sum / (double)width;
    }
    m->part[task] = total;
}

cavmae_status cavmae__cpu_mae_loss(cavmae__backend *backend, const cavmae__mae_loss *op) {
    const int64_t blocks = cavmae__blocks(op->rows, ROWS_EACH);
    mae_loss m = {
        .op = op, .width = (int64_t)op->source.patch * op->source.patch * op->source.channels, .part = op->workspace};
    double total = 0;
    m.target = m.part + blocks;
    cavmae__cpu_run(backend, blocks, (double)op->rows * (double)m.width * 4, loss_task, &m);
    for (int64_t i = 0; i < blocks; i++) total += m.part[i];
    *op->loss += total / *op->removed;
    return CAVMAE_OK;
}
