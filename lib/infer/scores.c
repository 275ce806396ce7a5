#include "scores.h"

#include <math.h>
#include <string.h>

#include "extent.h"

cavmae_status cavmae__scores_create(cavmae_context *context, const cavmae__options *options, int32_t average,
                                    int32_t clips, cavmae__scores *out) {
    cavmae__scores s = {.options = options,
                        .average = average,
                        .width = average == CAVMAE_AVERAGE_FEATURES ? cavmae__head_width(options) : options->classes};
    CAVMAE__TRY(CAVMAE__NEW(context, &s.sum, clips * s.width));
    cavmae_status status = CAVMAE__NEW(context, &s.pictures, clips);
    if (status != CAVMAE_OK) {
        cavmae__free(context, s.sum);
        return status;
    }
    *out = s;
    return CAVMAE_OK;
}

void cavmae__scores_free(cavmae_context *context, cavmae__scores *s) {
    cavmae__free(context, s->sum);
    cavmae__free(context, s->pictures);
}

void cavmae__scores_clear(cavmae__scores *s, int32_t clips) {
    memset(s->sum, 0, (size_t)(clips * s->width) * sizeof *s->sum);
    memset(s->pictures, 0, (size_t)clips * sizeof *s->pictures);
}

void cavmae__scores_add(cavmae__scores *s, int32_t clips, int32_t pictures, float *rows) {
    if (s->average == CAVMAE_AVERAGE_SCORES) cavmae__activate(s->options, (int64_t)clips * pictures, rows);
    for (int32_t i = 0; i < clips; i++) {
        for (int32_t p = 0; p < pictures; p++, rows += s->width)
            for (int64_t k = 0; k < s->width; k++) s->sum[i * s->width + k] += (double)rows[k];
        s->pictures[i] += pictures;
    }
}

void cavmae__scores_mean(const cavmae__scores *s, int32_t clips, float *out) {
    for (int64_t i = 0; i < clips; i++)
        for (int64_t k = 0; k < s->width; k++)
            out[i * s->width + k] = (float)(s->sum[i * s->width + k] / (double)s->pictures[i]);
}

static void softmax(float *row, int64_t count) {
    double most = (double)row[0], sum = 0;
    for (int64_t k = 1; k < count; k++) most = fmax(most, (double)row[k]);
    for (int64_t k = 0; k < count; k++) sum += exp((double)row[k] - most);
    for (int64_t k = 0; k < count; k++) row[k] = (float)(exp((double)row[k] - most) / sum);
}

void cavmae__activate(const cavmae__options *o, int64_t count, float *rows) {
    if (o->loss == CAVMAE__LOSS_CE)
        for (int64_t i = 0; i < count; i++) softmax(rows + i * o->classes, o->classes);
    else
        for (int64_t i = 0; i < count * o->classes; i++) rows[i] = (float)(1 / (1 + exp(-(double)rows[i])));
}
