/* Log-mel energies of many frames at once: one frame in each lane of a vector, so that the window, the transform, the
 * power spectrum, the mel filters and the logarithm need no shuffles, whatever the size of the transform.
 * The steps and their order are those of torchaudio.compliance.kaldi.fbank. */
#include <float.h>

#include "lanes.h"

static lanes_f32 splat(float x) { return x - (lanes_f32){0}; }

/* One complex number of each frame: what two vectors of samples, even and odd, become as they lie in memory. */
typedef struct point {
    lanes_f32 re, im;
} point;

/* Sample i of frame l becomes lane l of vector i, less the mean of the waveform. Returns the sum over each frame. */
static lanes_f32 gather(const cavmae__fbank_plan *plan, const float *const start[LANES], float pcm_mean,
                        lanes_f32 *samples) {
    lanes_f32 sum[2] = {{0}, {0}};
    int32_t i = 0;
    for (; i + LANES <= plan->window; i += LANES) {
        lanes_f32 rows[LANES];
        for (int l = 0; l < LANES; l++) memcpy(&rows[l], start[l] + i, sizeof rows[l]);
        transpose_lanes(rows);
        for (int l = 0; l < LANES; l++) {
            samples[i + l] = rows[l] - pcm_mean;
            sum[l % 2] += samples[i + l];
        }
    }
    for (; i < plan->window; i++) {
        for (int l = 0; l < LANES; l++) samples[i][l] = start[l][i] - pcm_mean;
        sum[0] += samples[i];
    }
    return sum[0] + sum[1];
}

/* Each frame less its own mean, pre-emphasis with the first sample as its own predecessor, window, zero padding. */
static void apply_window(const cavmae__fbank_plan *plan, lanes_f32 mean, lanes_f32 *samples) {
    lanes_f32 last = samples[0] - mean;
    for (int32_t i = 0; i < plan->window; i++) {
        lanes_f32 x = samples[i] - mean;
        samples[i] = (x - 0.97f * last) * plan->hann[i];
        last = x;
    }
    for (int32_t i = plan->window; i < 2 * plan->half; i++) samples[i] = splat(0);
}

static inline point turn(point x, float cosine, float sine) { /* x * exp(-i angle) */
    return (point){x.re * cosine + x.im * sine, x.im * cosine - x.re * sine};
}

/* The butterfly of points j, j + quarter, ...: after it, quarter r of the block holds what makes the bins = r mod 4. */
static inline void radix4(point *z, int32_t quarter, point out[4]) {
    point a = z[0], b = z[quarter], c = z[2 * quarter], d = z[3 * quarter];
    point even = {a.re + c.re, a.im + c.im}, even_less = {a.re - c.re, a.im - c.im};
    point odd = {b.re + d.re, b.im + d.im}, odd_less = {b.re - d.re, b.im - d.im};
    out[0] = (point){even.re + odd.re, even.im + odd.im};
    out[1] = (point){even_less.re + odd_less.im, even_less.im - odd_less.re};
    out[2] = (point){even.re - odd.re, even.im - odd.im};
    out[3] = (point){even_less.re - odd_less.im, even_less.im + odd_less.re};
}

/* In-place decimation in frequency by 4, a last step by 2 where half is no power of 4. Bin k ends at plan->place[k]. */
static void transform(const cavmae__fbank_plan *plan, point *z) {
    int32_t half = plan->half, length = half;
    for (; length >= 4; length /= 4) {
        int32_t quarter = length / 4, stride = 2 * half / length; /* of the table, for one step of this stage's angle */
        for (int32_t block = 0; block < half; block += length) {
            point out[4];
            radix4(z + block, quarter, out);
            for (int r = 0; r < 4; r++) z[block + r * quarter] = out[r];
        }
        for (int32_t j = 1; j < quarter; j++) {
            const float *cosine = plan->cosine, *sine = plan->sine;
            int32_t angle = j * stride;
            for (int32_t block = j; block < half; block += length) {
                point out[4];
                radix4(z + block, quarter, out);
                z[block] = out[0];
                for (int r = 1; r < 4; r++) z[block + r * quarter] = turn(out[r], cosine[r * angle], sine[r * angle]);
            }
        }
    }
    if (length == 2)
        for (int32_t block = 0; block < half; block += 2) {
            point a = z[block], b = z[block + 1];
            z[block] = (point){a.re + b.re, a.im + b.im};
            z[block + 1] = (point){a.re - b.re, a.im - b.im};
        }
}

/* From the transform Z of even + i odd samples to the power |X|^2 of the real signal's bins k and half - k, which
 * depend on the same two points: X[k], conj(X[half - k]) = E +- exp(-i pi k / half) O. Power takes the place of the
 * real part. Bin 0 and the highest have weight 0 in every mel filter, and are not computed. */
static void power_spectrum(const cavmae__fbank_plan *plan, point *z) {
    for (int32_t k = 1; k <= plan->half / 2; k++) {
        point *low = &z[plan->place[k]], *high = &z[plan->place[plan->half - k]];
        point even = {low->re + high->re, low->im - high->im}; /* 2 E */
        point odd = {low->im + high->im, high->re - low->re};  /* 2 O */
        odd = turn(odd, plan->cosine[k], plan->sine[k]);
        point sum = {even.re + odd.re, even.im + odd.im}, difference = {even.re - odd.re, even.im - odd.im};
        low->re = 0.25f * (sum.re * sum.re + sum.im * sum.im);
        high->re = 0.25f * (difference.re * difference.re + difference.im * difference.im);
    }
}

static inline lanes_f32 mel_energy(const cavmae__fbank_plan *plan, const cavmae__mel_filter *mel, const point *z) {
    const int32_t *place = plan->place + mel->first;
    lanes_f32 energy = splat(0);
    for (int32_t k = 0; k < mel->count; k++) energy += mel->weights[k] * z[place[k]].re;
    return energy;
}

/* Natural logarithm of max(x, FLT_EPSILON), NaN taken as FLT_EPSILON; within one unit in the last place.
 * x = 2^e (1 + r) with sqrt(1/2) <= 1 + r < sqrt(2); log(1 + r) = r - r^2 / 2 + r^3 P(r), P of least relative error. */
static inline lanes_f32 floored_log(lanes_f32 x) {
    static const float p[] = {0.33333316445350647f, -0.25000810623168945f, 0.2000228613615036f,  -0.16624553501605988f,
                              0.14181190729141235f, -0.1312875598669052f,  0.12881658971309662f, -0.07859621942043304f};
    const int32_t sqrt_half = 0x3f3504f3;
    lanes_i32 above = x > FLT_EPSILON;
    lanes_i32 bits = SELECT(above, (lanes_i32)x, (lanes_i32)splat(FLT_EPSILON)) - sqrt_half;
    lanes_f32 e = __builtin_convertvector(bits >> 23, lanes_f32);
    lanes_f32 r = (lanes_f32)((bits & 0x7fffff) + sqrt_half) - 1.0f;
    lanes_f32 y = splat(p[7]);
    for (int i = 6; i >= 0; i--) y = y * r + p[i];
    /* log 2 in two parts, the first with few enough bits that its product with e is exact. */
    y = r * r * (y * r - 0.5f) + e * -2.12194440e-4f;
    return e * 0.693359375f + (r + y);
}

void CAVMAE__SIMD(cavmae__fbank_rows)(const cavmae__fbank_plan *plan, const float *pcm, float pcm_mean, int64_t frames,
                                      float offset, float scale, float *out, float *work) {
    point *z = (point *)(void *)work;
    for (int64_t frame = 0; frame < frames; frame += LANES) {
        int valid = frames - frame < LANES ? (int)(frames - frame) : LANES;
        const float *start[LANES]; /* lanes without a frame repeat the last one */
        for (int l = 0; l < LANES; l++) start[l] = pcm + (frame + (l < valid ? l : valid - 1)) * plan->shift;
        lanes_f32 sum = gather(plan, start, pcm_mean, (lanes_f32 *)(void *)work);
        apply_window(plan, sum / (float)plan->window, (lanes_f32 *)(void *)work);
        transform(plan, z);
        power_spectrum(plan, z);
        for (int32_t m = 0; m < plan->mel_bins; m += LANES) {
            int count = plan->mel_bins - m < LANES ? plan->mel_bins - m : LANES;
            lanes_f32 rows[LANES] = {{0}};
            for (int i = 0; i < count; i++)
                rows[i] = (floored_log(mel_energy(plan, &plan->mel[m + i], z)) - offset) / scale;
            transpose_lanes(rows);
            for (int l = 0; l < valid; l++)
                memcpy(out + (frame + l) * plan->mel_bins + m, &rows[l], (size_t)count * sizeof *out);
        }
    }
}
