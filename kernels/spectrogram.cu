/* Sound to the model's input: lib/frontend/fbank.c and contract.c in two kernels, one that makes the tables of a (rate,
 * mel_bins) and one in which each warp takes a frame from int16 samples to normalised log-mel.
 *
 * The transform has `points` complex points, even samples of the padded window the real, odd ones the imaginary parts: 256
 * at 16 kHz, 16 to 8192 at the rates that a contract may name. It is done in shared memory, in place, by 4. */
#include <float.h>

#include "cuda_kernel.h"

enum { WARPS = 8, TABLE_THREADS = 256, SHARED_BYTES = 48 << 10 };

static const double pi = 3.14159265358979323846;

/* ---- Sizes ---- */

/* Pointers are into the workspace. */
typedef struct plan {
    int32_t window, shift, points, mel_bins;
    uint32_t clip_blocks;           /* of frame_kernel, for each clip */
    int64_t frames, heard, samples; /* heard: frames that have samples; those past them are `appended` */
    float low, step, bin_width;     /* in mel, in mel, in Hz */
    float mean, std, appended;
    const int16_t *pcm;
    float *out;
    float2 *turn;            /* [3 points / 2] cosine and sine of pi k / points */
    float *hann;             /* [window] */
    float *rising, *falling; /* [points] weight of a bin in the triangle on whose rising (falling) side it lies */
    int32_t *first;          /* [mel_bins + 2] the first bin above the edge */
} plan;

static int32_t milliseconds(int32_t rate, int32_t ms) { return (int32_t)((double)rate * ms * 0.001); }

static size_t round_up(size_t size) { return (size + 63) / 64 * 64; }

/* `memory` cut into the plan's tables; how much they take. */
static size_t place_tables(plan *p, unsigned char *memory) {
    const size_t sizes[5] = {(size_t)p->points * 3 / 2 * sizeof *p->turn, (size_t)p->window * sizeof *p->hann,
                             (size_t)p->points * sizeof *p->rising, (size_t)p->points * sizeof *p->falling,
                             (size_t)(p->mel_bins + 2) * sizeof *p->first};
    size_t start[6] = {0};
    for (int i = 0; i < 5; i++) start[i + 1] = start[i] + round_up(sizes[i]);
    if (!memory) return start[5];
    p->turn = reinterpret_cast<float2 *>(memory);
    p->hann = reinterpret_cast<float *>(memory + start[1]);
    p->rising = reinterpret_cast<float *>(memory + start[2]);
    p->falling = reinterpret_cast<float *>(memory + start[3]);
    p->first = reinterpret_cast<int32_t *>(memory + start[4]);
    return start[5];
}

static plan make_plan(const cavmae__spectrogram *op) {
    plan p = {};
    p.window = milliseconds(op->sample_rate, 25);
    p.shift = milliseconds(op->sample_rate, 10);
    for (p.points = 1; 2 * p.points < p.window;) p.points *= 2;
    p.mel_bins = op->mel_bins;
    p.frames = op->frames;
    p.samples = op->samples;
    p.heard = op->samples < p.window ? 0 : 1 + (op->samples - p.window) / p.shift;
    if (p.heard > p.frames) p.heard = p.frames;
    const double lowest = 1127.0 * log(1.0 + 20.0 / 700.0), highest = 1127.0 * log(1.0 + 0.5 * op->sample_rate / 700.0);
    p.low = (float)lowest;
    p.step = (float)((highest - lowest) / (op->mel_bins + 1.0));
    p.bin_width = (float)((double)op->sample_rate / (2.0 * p.points));
    p.mean = op->mean;
    p.std = op->std;
    p.appended = ((op->silence ? logf(FLT_EPSILON) : 0.0f) - op->mean) / op->std;
    p.pcm = op->pcm;
    p.out = op->out;
    return p;
}

/* ---- Tables ---- */

/* A product that is rounded before anything is added to it, as on the CPU: nvcc makes one fused operation of a product
 * and a sum, but leaves alone what is fused already. A filter that catches only the foot of one bin owes all it is to
 * these roundings. */
static __device__ float product(float a, float b) { return fmaf(a, b, 0.0f); }

static __device__ float edge(const plan &p, int32_t i) { return p.low + product((float)i, p.step); }

/* 1127 log(1 + f / 700) of a bin's frequency. The logarithm of a float in double, rounded, is what a good logf gives. */
static __device__ float bin_mel(const plan &p, int32_t k) {
    const float ratio = product(p.bin_width, (float)k) / 700.0f;
    return product(1127.0f, (float)log((double)(1.0f + ratio)));
}

/* The weight of a bin at x in filter m. */
static __device__ float weight_at(const plan &p, int32_t m, float x) {
    if (m < 0 || m >= p.mel_bins) return 0;
    const float left = edge(p, m), center = edge(p, m + 1), right = edge(p, m + 2);
    const float weight = fminf((x - left) / (center - left), (right - x) / (right - center));
    return weight > 0 ? weight : 0;
}

/* A bin lies in two triangles at most: with edge(j) < x <= edge(j + 1), on the rising side of filter j and on the
 * falling side of filter j - 1. */
static __device__ void weigh_bin(const plan &p, int32_t k) {
    const float x = bin_mel(p, k), place = (x - p.low) / p.step;
    int32_t j = place < 0 ? -1 : place > (float)p.mel_bins ? p.mel_bins + 1 : (int32_t)place;
    while (j >= 0 && edge(p, j) >= x) j--;
    while (j <= p.mel_bins && edge(p, j + 1) < x) j++;
    p.rising[k] = weight_at(p, j, x);
    p.falling[k] = weight_at(p, j - 1, x);
}

/* Bins rise: halving finds the first one above the edge. Bin 0 lies below all. */
static __device__ int32_t first_above(const plan &p, float x) {
    int32_t low = 1, high = p.points;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (bin_mel(p, middle) > x)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static __global__ void __launch_bounds__(TABLE_THREADS) table_kernel(plan p) {
    const int32_t i = (int32_t)(blockIdx.x * TABLE_THREADS + threadIdx.x);
    if (i < p.points * 3 / 2) {
        const double angle = pi * i / p.points;
        p.turn[i] = make_float2((float)cos(angle), (float)sin(angle));
    }
    if (i < p.window) p.hann[i] = (float)(0.5 - 0.5 * cos(2 * pi * i / (p.window - 1))); /* symmetric */
    if (i < p.points) weigh_bin(p, i);
    if (i < p.mel_bins + 2) p.first[i] = first_above(p, edge(p, i));
}

/* ---- Frames ---- */

/* Where point i of a transform lies in shared memory. A warp takes points side by side, in pieces of 4 or 1 from every
 * 16 or 4 (the last steps), or every 16th and further apart (bins, which end at their digits in reverse); swapping within
 * blocks of 16 puts each of these into different banks. */
static __device__ __forceinline__ int32_t swizzled(int32_t i) { return i ^ ((i >> 4 & 3) * 5) ^ (i >> 6 & 3); }

/* Where the transform by 4, 4, ..., then perhaps 2, leaves bin k. */
static __device__ __forceinline__ int32_t place_of(int32_t k, int32_t points) {
    int32_t place = 0;
    for (; points >= 4; points /= 4, k /= 4) place += k % 4 * (points / 4);
    return place + k;
}

static __device__ __forceinline__ float2 turned(float2 x, float2 by) { /* x exp(-i angle) */
    return make_float2(x.x * by.x + x.y * by.y, x.y * by.x - x.x * by.y);
}

/* The frame less its mean, pre-emphasised with its first sample as that one's own predecessor, times the window, zeros
 * behind it. The sum is exact, so the mean of the whole clip, which the CPU subtracts first, would change nothing. */
static __device__ void gather(const plan &p, const int16_t *pcm, int lane, float2 *z) {
    int32_t sum = 0;
    for (int32_t i = lane; i < p.window; i += CAVMAE__WARP) sum += pcm[i];
    for (int distance = CAVMAE__WARP / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    const float mean = (float)sum / (float)p.window;
    for (int32_t n = lane; n < p.points; n += CAVMAE__WARP) {
        const int32_t i = 2 * n;
        float even = 0, odd = 0;
        if (i < p.window) {
            const float before = (float)pcm[i > 0 ? i - 1 : 0] - mean, now = (float)pcm[i] - mean;
            even = (now - 0.97f * before) * (p.hann[i] * 0x1p-15f);
            if (i + 1 < p.window) odd = ((float)pcm[i + 1] - mean - 0.97f * now) * (p.hann[i + 1] * 0x1p-15f);
        }
        z[swizzled(n)] = make_float2(even, odd);
    }
    __syncwarp(0xffffffffu);
}

/* In place, decimation in frequency by 4; a last step by 2 where points is no power of 4. */
static __device__ void transform(const plan &p, int lane, float2 *z) {
    int32_t length = p.points;
    for (; length >= 4; length /= 4) {
        const int32_t quarter = length / 4, stride = 2 * p.points / length;
        for (int32_t i = lane; i < p.points / 4; i += CAVMAE__WARP) {
            const int32_t j = i & (quarter - 1), at = (i - j) * 4 + j;
            const int32_t place[4] = {swizzled(at), swizzled(at + quarter), swizzled(at + 2 * quarter),
                                      swizzled(at + 3 * quarter)};
            const float2 a = z[place[0]], b = z[place[1]], c = z[place[2]], d = z[place[3]];
            const float2 even = make_float2(a.x + c.x, a.y + c.y), even_less = make_float2(a.x - c.x, a.y - c.y);
            const float2 odd = make_float2(b.x + d.x, b.y + d.y), odd_less = make_float2(b.x - d.x, b.y - d.y);
            const int32_t angle = j * stride;
            z[place[0]] = make_float2(even.x + odd.x, even.y + odd.y);
            z[place[1]] = turned(make_float2(even_less.x + odd_less.y, even_less.y - odd_less.x), p.turn[angle]);
            z[place[2]] = turned(make_float2(even.x - odd.x, even.y - odd.y), p.turn[2 * angle]);
            z[place[3]] = turned(make_float2(even_less.x - odd_less.y, even_less.y + odd_less.x), p.turn[3 * angle]);
        }
        __syncwarp(0xffffffffu);
    }
    if (length == 2) {
        for (int32_t i = lane; i < p.points / 2; i += CAVMAE__WARP) {
            const int32_t first = swizzled(2 * i), second = swizzled(2 * i + 1);
            const float2 a = z[first], b = z[second];
            z[first] = make_float2(a.x + b.x, a.y + b.y);
            z[second] = make_float2(a.x - b.x, a.y - b.y);
        }
        __syncwarp(0xffffffffu);
    }
}

/* |X|^2 of the real signal's bins k and points - k, which depend on the same two points: X[k], conj(X[points - k]) = E +-
 * exp(-i pi k / points) O. Bin 0 has weight 0 in every filter, and is not computed. */
static __device__ void power_spectrum(const plan &p, int lane, const float2 *z, float *power) {
    for (int32_t k = lane; k <= p.points / 2; k += CAVMAE__WARP) {
        if (k == 0) continue;
        const float2 low = z[swizzled(place_of(k, p.points))], high = z[swizzled(place_of(p.points - k, p.points))];
        const float2 even = make_float2(low.x + high.x, low.y - high.y); /* 2 E */
        const float2 odd = turned(make_float2(low.y + high.y, high.x - low.x), p.turn[k]);
        const float2 sum = make_float2(even.x + odd.x, even.y + odd.y);
        const float2 difference = make_float2(even.x - odd.x, even.y - odd.y);
        power[k] = 0.25f * (sum.x * sum.x + sum.y * sum.y);
        power[p.points - k] = 0.25f * (difference.x * difference.x + difference.y * difference.y);
    }
    __syncwarp(0xffffffffu);
}

/* A lane takes every 32nd filter: neighbours are about as wide, so that a warp's lanes end together. */
static __device__ void log_mel(const plan &p, int lane, const float *power, float *out) {
    for (int32_t m = lane; m < p.mel_bins; m += CAVMAE__WARP) {
        const int32_t left = p.first[m], center = p.first[m + 1], right = p.first[m + 2];
        float energy = 0;
        for (int32_t k = left; k < center; k++) energy += p.rising[k] * power[k];
        for (int32_t k = center; k < right; k++) energy += p.falling[k] * power[k];
        out[m] = (logf(fmaxf(energy, FLT_EPSILON)) - p.mean) / p.std;
    }
}

/* Each warp has its points and as many powers of shared memory. */
static __global__ void __launch_bounds__(WARPS *CAVMAE__WARP) frame_kernel(plan p) {
    CAVMAE__SHARED(float2, shared);
    const int lane = threadIdx.x % CAVMAE__WARP, warp = threadIdx.x / CAVMAE__WARP;
    const int64_t clip = blockIdx.x / p.clip_blocks;
    const int64_t frame = (int64_t)(blockIdx.x % p.clip_blocks) * (blockDim.x / CAVMAE__WARP) + warp;
    if (frame >= p.frames) return;
    float *const out = p.out + (clip * p.frames + frame) * p.mel_bins;
    if (frame >= p.heard) {
        for (int32_t m = lane; m < p.mel_bins; m += CAVMAE__WARP) out[m] = p.appended;
        return;
    }
    float2 *const z = shared + (int64_t)warp * p.points;
    float *const power =
        reinterpret_cast<float *>(shared + (int64_t)(blockDim.x / CAVMAE__WARP) * p.points) + (int64_t)warp * p.points;
    gather(p, p.pcm + clip * p.samples + frame * p.shift, lane, z);
    transform(p, lane, z);
    power_spectrum(p, lane, z, power);
    log_mel(p, lane, power, out);
}

/* ---- The operation ---- */

size_t cavmae__cuda_spectrogram_workspace(cavmae__backend *backend, const cavmae__spectrogram *op) {
    plan p = make_plan(op);
    (void)backend;
    return place_tables(&p, NULL);
}

cavmae_status cavmae__cuda_spectrogram(cavmae__backend *backend, const cavmae__spectrogram *op) {
    plan p = make_plan(op);
    place_tables(&p, static_cast<unsigned char *>(op->workspace));
    const int32_t table = p.points * 3 / 2 > p.window ? p.points * 3 / 2 : p.window;
    const cavmae_status status = CAVMAE__LAUNCH(
        backend, table_kernel, cavmae__blocks_for(table > p.mel_bins + 2 ? table : p.mel_bins + 2, TABLE_THREADS),
        TABLE_THREADS, 0, p);
    if (status != CAVMAE_OK) return status;
    const size_t each = (size_t)p.points * (sizeof(float2) + sizeof(float));
    const int32_t fit = (int32_t)(SHARED_BYTES / each), warps = fit < 1 ? 1 : fit < WARPS ? fit : WARPS;
    p.clip_blocks = cavmae__blocks_for(p.frames, warps);
    return CAVMAE__LAUNCH(backend, frame_kernel, p.clip_blocks * (unsigned)op->clips, warps * CAVMAE__WARP,
                          (size_t)warps * each, p);
}
