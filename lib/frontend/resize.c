/* Pillow's precompute_coeffs and normalize_coeffs_8bpc (src/libImaging/Resample.c), operation by operation: the weights
 * are rounded to fixed point, so one different rounding here is one different pixel there. */
#include "resize.h"

#include <math.h>

#include "contract.h"

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

void cavmae__resize_axis_free(cavmae_context *context, cavmae__resize_axis *axis) {
    cavmae__free(context, axis->first);
    cavmae__free(context, axis->length);
    cavmae__free(context, axis->weights);
}

/* Weights of output pixel i into weights[], by way of exact[]; returns how many, and the first input pixel. */
static int32_t make_weights(int32_t in_size, double scale, double widened, int32_t filter, int64_t i, double *exact,
                            int32_t *weights, int32_t *first) {
    double center = ((double)i + 0.5) * scale, support = (filter == CAVMAE__FILTER_BICUBIC ? 2.0 : 1.0) * widened;
    double sum = 0, shrink = 1.0 / widened;
    int64_t from = (int64_t)(center - support + 0.5), to = (int64_t)(center + support + 0.5);
    if (from < 0) from = 0;
    if (to > in_size) to = in_size;
    int32_t count = (int32_t)(to - from);
    for (int32_t t = 0; t < count; t++) {
        double x = ((double)(t + from) - center + 0.5) * shrink;
        exact[t] = filter == CAVMAE__FILTER_BICUBIC ? bicubic(x) : bilinear(x);
        sum += exact[t];
    }
    for (int32_t t = 0; t < count; t++) {
        double weight = sum != 0.0 ? exact[t] / sum : exact[t];
        weights[t] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << CAVMAE__WEIGHT_BITS));
    }
    *first = (int32_t)from;
    return count;
}

cavmae_status cavmae__resize_axis_create(cavmae_context *context, int32_t in_size, int64_t out_size, int64_t start,
                                         int32_t count, int32_t filter, cavmae__resize_axis *axis, int32_t *origin,
                                         int32_t *extent) {
    cavmae_status status;
    double scale = (double)in_size / (double)out_size;
    double widened = scale < 1.0 ? 1.0 : scale; /* antialias: the filter covers what becomes one pixel */
    double taps = ceil((filter == CAVMAE__FILTER_BICUBIC ? 2.0 : 1.0) * widened) * 2 + 1;
    cavmae__resize_axis a = {.count = count, .taps = taps < in_size ? (int32_t)taps : in_size};
    double *exact = NULL;
    size_t weights;
    if (__builtin_mul_overflow((size_t)count, (size_t)a.taps, &weights))
        return cavmae__fail(CAVMAE_E_NOMEM, "resizing %d pixels to %lld needs too many weights", in_size,
                            (long long)out_size);
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &a.first, count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &a.length, count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &a.weights, weights));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &exact, a.taps));
    for (int32_t i = 0; i < count; i++)
        a.length[i] = make_weights(in_size, scale, widened, filter, start + i, exact,
                                   a.weights + (size_t)i * (size_t)a.taps, &a.first[i]);
    /* Both ends of the pixels' supports only move forward. */
    *origin = a.first[0];
    *extent = a.first[count - 1] + a.length[count - 1] - a.first[0];
    for (int32_t i = count - 1; i >= 0; i--) a.first[i] -= a.first[0];
    *axis = a;
out:
    cavmae__free(context, exact);
    if (status != CAVMAE_OK) cavmae__resize_axis_free(context, &a);
    return status;
}
