#define _DEFAULT_SOURCE /* M_PI */
#include "mixup.h"

#include <math.h>

#include "fbank.h"
#include "philox.h"

/* ---- Choices ---- */

/* In (0, 1), never at its ends: logarithms are taken of it. */
static double open_uniform(uint32_t bits) { return ((double)bits + 0.5) * 0x1p-32; }

/* Logarithm of a Gamma(alpha, 1) variate, by Marsaglia and Tsang (ACM TOMS 26, 2000): each try takes one block of four
 * numbers, and *block is moved on to the next. Their method wants a shape of 1 or more, so it gets alpha + 1, and the
 * result is taken times U^(1 / alpha). In logarithms because that underflows for small alpha. */
static double log_gamma_variate(const cavmae__philox *random, uint32_t *block, double alpha) {
    double d = alpha + 1 - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        uint32_t four[4];
        cavmae__philox_block(random, (*block)++, four);
        double normal = sqrt(-2 * log(open_uniform(four[0]))) * cos(2 * M_PI * open_uniform(four[1]));
        double v = 1 + c * normal;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(open_uniform(four[2])) < normal * normal / 2 + d * (1 - v + log(v)))
            return log(d * v) + log(open_uniform(four[3])) / alpha;
    }
}

/* x / (x + y) of two gamma variates. */
static double beta_variate(const cavmae__philox *random, double alpha) {
    uint32_t block = 0;
    double x = log_gamma_variate(random, &block, alpha), y = log_gamma_variate(random, &block, alpha);
    return 1 / (1 + exp(y - x));
}

cavmae__mixup cavmae__mixup_draw(double probability, double alpha, int64_t count, const cavmae__draw *draw) {
    cavmae__philox choice =
        cavmae__philox_key(draw->seed, CAVMAE__PURPOSE_MIXUP, (uint64_t)draw->epoch, (uint64_t)draw->number);
    if ((double)cavmae__philox_uniform(&choice, 0) >= probability) return (cavmae__mixup){-1, 1};
    cavmae__philox share =
        cavmae__philox_key(draw->seed, CAVMAE__PURPOSE_MIXUP_LAMBDA, (uint64_t)draw->epoch, (uint64_t)draw->number);
    return (cavmae__mixup){cavmae__philox_below(&choice, 1, (uint32_t)count), beta_variate(&share, alpha)};
}

/* ---- Mixtures ---- */

void cavmae__mix_values(float *own, const float *second, int64_t count, double lambda) {
    float a = (float)lambda, b = (float)(1 - lambda);
    for (int64_t i = 0; i < count; i++) own[i] = a * own[i] + b * second[i];
}

void cavmae__mix_waveforms(float *own, int64_t count, const float *second, int64_t second_count, double lambda) {
    float a = (float)lambda, b = (float)(1 - lambda);
    float mean = (float)cavmae__sound_mean(own, count), second_mean = (float)cavmae__sound_mean(second, second_count);
    int64_t both = count < second_count ? count : second_count;
    for (int64_t i = 0; i < both; i++) own[i] = a * (own[i] - mean) + b * (second[i] - second_mean);
    for (int64_t i = both; i < count; i++) own[i] = a * (own[i] - mean);
}

void cavmae__smooth_labels(float *labels, int32_t classes, double eps, int between) {
    double spread = eps / classes;
    for (int32_t i = 0; i < classes; i++) {
        double y = (double)labels[i];
        labels[i] = (float)(y * (1 - eps) + (between ? 1 - y : 1) * spread);
    }
}
