/* Pictures to the model's input: lib/frontend/resize.c, simd_resize.c and contract.c to the last bit. Pillow's two
 * passes: integer sums of pixel times weight, rounded to 8 bits after each, the weights in fixed point. The first kernel
 * makes the weights of both axes; one pass across takes the rows that the crop needs; one down also normalises. */
#include "cuda_kernel.h"

enum { WEIGHT_BITS = 32 - 8 - 2, BICUBIC = 0 /* contract.h */, THREADS = 256 };

/* ---- Sizes ---- */

/* One axis, for the `size` output pixels that are wanted: those from `start` on of a resize from `in` to `out`. Pixel i
 * is the sum of length[i] input pixels from first[i] on, times weights[t, i]. */
typedef struct axis {
    int32_t in, taps;
    int64_t out, start;
    double scale, widened;
    int32_t *first, *length; /* [size] */
    int32_t *weights;        /* [taps, size] */
} axis;

typedef struct plan {
    cavmae__pictures op;
    axis across, down;
    int32_t top, rows; /* input rows that are needed */
    uint8_t *narrow;   /* [count, rows, size, channels]: after the first pass */
} plan;

/* A product that is rounded before anything is added to it. nvcc may make one fused operation of a product and a sum,
 * and with another rounding a weight could be another one; what is fused already it leaves alone. */
static __host__ __device__ __forceinline__ double product(double a, double b) { return fma(a, b, 0.0); }

/* The input pixels [*from, *to) under output pixel i (of the crop); returns where its centre is. */
static __host__ __device__ __forceinline__ double support_of(const axis &a, int32_t filter, int32_t i, int64_t *from,
                                                             int64_t *to) {
    const double center = product((double)(a.start + i) + 0.5, a.scale);
    const double support = product(filter == BICUBIC ? 2.0 : 1.0, a.widened);
    *from = (int64_t)(center - support + 0.5);
    *to = (int64_t)(center + support + 0.5);
    if (*from < 0) *from = 0;
    if (*to > a.in) *to = a.in;
    return center;
}

/* torchvision CenterCrop: int(round((length - size) / 2.0)), and Python rounds a half to even. */
static int64_t crop_start(int64_t length, int32_t size) {
    const int64_t spare = length - size, start = spare / 2;
    return start + (spare % 2 && start % 2);
}

static axis make_axis(const cavmae__pictures *op, int32_t in, int32_t other) {
    axis a = {};
    /* torchvision Resize(size): the shorter side becomes size, the longer int(size * long / short). */
    a.in = in;
    a.out = in <= other ? op->size : (int64_t)((double)((int64_t)op->size * in) / other);
    a.start = crop_start(a.out, op->size);
    a.scale = (double)in / (double)a.out;
    a.widened = a.scale < 1.0 ? 1.0 : a.scale; /* antialias: the filter covers what becomes one pixel */
    const double taps = ceil(product(op->filter == BICUBIC ? 2.0 : 1.0, a.widened)) * 2 + 1;
    a.taps = taps < in ? (int32_t)taps : in;
    return a;
}

static size_t round_up(size_t size) { return (size + 63) / 64 * 64; }

static int is_resized(const cavmae__pictures *op) { return op->width != op->size || op->height != op->size; }

/* The plan, with the workspace cut into its parts; *bytes: how much they take. */
static plan make_plan(const cavmae__pictures *op, size_t *bytes) {
    plan p = {};
    int64_t from, to, end;
    p.op = *op;
    *bytes = 0;
    if (!is_resized(op)) return p;
    p.across = make_axis(op, op->width, op->height);
    p.down = make_axis(op, op->height, op->width);
    support_of(p.down, op->filter, 0, &from, &to);
    p.top = (int32_t)from; /* both ends of the supports only move forward */
    support_of(p.down, op->filter, op->size - 1, &from, &end);
    p.rows = (int32_t)end - p.top;
    const size_t size = (size_t)op->size * sizeof(int32_t);
    axis *const axes[2] = {&p.across, &p.down};
    unsigned char *const memory = static_cast<unsigned char *>(op->workspace);
    for (int i = 0; i < 2; i++) {
        const size_t start = *bytes, weights = start + round_up(2 * size);
        *bytes = weights + round_up((size_t)axes[i]->taps * size);
        if (!memory) continue;
        axes[i]->first = reinterpret_cast<int32_t *>(memory + start);
        axes[i]->length = axes[i]->first + op->size;
        axes[i]->weights = reinterpret_cast<int32_t *>(memory + weights);
    }
    if (memory) p.narrow = memory + *bytes;
    *bytes += (size_t)op->count * (size_t)p.rows * (size_t)op->size * (size_t)op->channels;
    return p;
}

/* ---- Weights ---- */

static __device__ double filter_at(int32_t filter, double x) {
    x = fabs(x);
    if (filter != BICUBIC) return x < 1.0 ? 1.0 - x : 0.0;
    const double a = -0.5;
    if (x < 1.0) return product(product(product(a + 2.0, x) - (a + 3.0), x), x) + 1;
    if (x < 2.0) return product(product(product(x - 5, x) + 8, x) - 4, a);
    return 0.0;
}

/* Pillow's precompute_coeffs and normalize_coeffs_8bpc, a thread for each output pixel of each axis. */
static __global__ void __launch_bounds__(THREADS) weight_kernel(plan p) {
    const axis &a = blockIdx.y == 0 ? p.across : p.down;
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x), size = p.op.size;
    if (i >= size) return;
    int64_t from, to;
    const double center = support_of(a, p.op.filter, i, &from, &to), shrink = 1.0 / a.widened;
    const int32_t count = (int32_t)(to - from);
    double sum = 0;
    for (int32_t t = 0; t < count; t++)
        sum += filter_at(p.op.filter, product((double)(t + from) - center + 0.5, shrink));
    for (int32_t t = 0; t < count; t++) {
        const double exact = filter_at(p.op.filter, product((double)(t + from) - center + 0.5, shrink));
        const double weight = sum != 0.0 ? exact / sum : exact;
        a.weights[(int64_t)t * size + i] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << WEIGHT_BITS));
    }
    a.first[i] = (int32_t)from;
    a.length[i] = count;
}

/* ---- Passes ---- */

/* Fixed point to a pixel: shifted down, clipped to 0..255. */
static __device__ __forceinline__ int32_t to_pixel(int32_t sum) {
    const int32_t x = sum >> WEIGHT_BITS;
    return x < 0 ? 0 : x > 255 ? 255 : x;
}

/* A block for each row. Threads side by side take the channels of a pixel, then the next pixel, and so read bytes that
 * lie together. */
static __global__ void __launch_bounds__(THREADS) across_kernel(plan p) {
    const cavmae__pictures &op = p.op;
    const int64_t picture = blockIdx.x / (uint32_t)p.rows, row = blockIdx.x % (uint32_t)p.rows;
    const uint8_t *const from =
        op.pixels + ((picture * op.height + p.top + row) * (int64_t)op.width) * (int64_t)op.channels;
    uint8_t *const out = p.narrow + (int64_t)blockIdx.x * op.size * op.channels;
    for (int32_t e = (int32_t)threadIdx.x; e < op.size * op.channels; e += THREADS) {
        const int32_t i = e / op.channels, length = p.across.length[i];
        const uint8_t *pixel = from + (int64_t)p.across.first[i] * op.channels + (e - i * op.channels);
        const int32_t *weight = p.across.weights + i;
        int32_t sum = 1 << (WEIGHT_BITS - 1);
        for (int32_t t = 0; t < length; t++, pixel += op.channels, weight += op.size) sum += *pixel * *weight;
        out[e] = (uint8_t)to_pixel(sum);
    }
}

/* ToTensor, Normalize: three roundings, as on the CPU. */
static __device__ __forceinline__ float normalised(const cavmae__pictures &op, int32_t channel, int32_t pixel) {
    return ((float)pixel / 255.0f - op.mean[channel]) / op.std[channel];
}

/* A block for each row of each plane of the result; all its threads have the same weights. */
static __global__ void __launch_bounds__(THREADS) down_kernel(plan p) {
    const cavmae__pictures &op = p.op;
    const uint32_t y = blockIdx.x % (uint32_t)op.size, plane = blockIdx.x / (uint32_t)op.size;
    const int32_t channel = (int32_t)(plane % (uint32_t)op.channels), length = p.down.length[y];
    const int64_t picture = plane / (uint32_t)op.channels, pitch = (int64_t)op.size * op.channels;
    const uint8_t *const from = p.narrow + (picture * p.rows + p.down.first[y] - p.top) * pitch + channel;
    for (int32_t x = (int32_t)threadIdx.x; x < op.size; x += THREADS) {
        const uint8_t *pixel = from + (int64_t)x * op.channels;
        const int32_t *weight = p.down.weights + y;
        int32_t sum = 1 << (WEIGHT_BITS - 1);
        for (int32_t t = 0; t < length; t++, pixel += pitch, weight += op.size) sum += *pixel * *weight;
        op.out[(int64_t)blockIdx.x * op.size + x] = normalised(op, channel, to_pixel(sum));
    }
}

/* Pictures of the right size already, as a packed data set has them: what resizing would come to. */
static __global__ void __launch_bounds__(THREADS) plane_kernel(cavmae__pictures op) {
    const uint32_t y = blockIdx.x % (uint32_t)op.size, plane = blockIdx.x / (uint32_t)op.size;
    const int32_t channel = (int32_t)(plane % (uint32_t)op.channels);
    const int64_t picture = plane / (uint32_t)op.channels;
    const uint8_t *const from = op.pixels + (picture * op.size + y) * op.size * (int64_t)op.channels + channel;
    for (int32_t x = (int32_t)threadIdx.x; x < op.size; x += THREADS)
        op.out[(int64_t)blockIdx.x * op.size + x] = normalised(op, channel, from[(int64_t)x * op.channels]);
}

/* ---- The operation ---- */

size_t cavmae__cuda_pictures_workspace(cavmae__backend *backend, const cavmae__pictures *op) {
    size_t bytes;
    (void)backend;
    make_plan(op, &bytes);
    return bytes;
}

cavmae_status cavmae__cuda_pictures(cavmae__backend *backend, const cavmae__pictures *op) {
    size_t bytes;
    const plan p = make_plan(op, &bytes);
    const unsigned planes = (unsigned)op->count * (unsigned)op->channels * (unsigned)op->size;
    if (!is_resized(op)) return CAVMAE__LAUNCH(backend, plane_kernel, planes, THREADS, 0, *op);
    cavmae_status status =
        CAVMAE__LAUNCH(backend, weight_kernel, dim3(cavmae__blocks_for(op->size, THREADS), 2), THREADS, 0, p);
    if (status == CAVMAE_OK)
        status = CAVMAE__LAUNCH(backend, across_kernel, (unsigned)op->count * (unsigned)p.rows, THREADS, 0, p);
    if (status == CAVMAE_OK) status = CAVMAE__LAUNCH(backend, down_kernel, planes, THREADS, 0, p);
    return status;
}
