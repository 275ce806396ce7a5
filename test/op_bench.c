/* How fast the operations are at the base model's shapes: build/test/op_bench [--threads N] [NAME...]. One line of JSON
 * for each operation whose name starts with a NAME: GFLOP/s and the share of the peak, which is measured with
 * multiply-adds between registers, or GB/s of what must be read and written. */
#define _POSIX_C_SOURCE 200809L
#ifdef CAVMAE_HAVE_X86
#include <immintrin.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu_backend.h"
#include "isa.h"

typedef struct bench {
    cavmae_context *context;
    cavmae__backend *backend;
    void *workspace;
    double peak; /* GFLOP/s of all threads */
    int names;
    char **name;
} bench;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void *memory(const bench *b, size_t size) {
    void *p;
    if (b->backend->ops->alloc(b->backend, size, &p) != CAVMAE_OK) exit(1);
    memset(p, 0, size);
    return p;
}

static void release(const bench *b, void *p) { b->backend->ops->free(b->backend, p); }

static float *numbers(const bench *b, int64_t count) {
    float *x = memory(b, (size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = (float)(i * 2654435761 % 1000) * 0.002f - 1;
    return x;
}

/* ---- Peak ---- */

enum { PEAK_CHAINS = 16, PEAK_ROUNDS = 2000000 };

#define PEAK_LOOP(isa, vector, add_product, attribute)                                                                 \
    attribute static void peak_##isa(void *arg, int64_t task, int32_t worker) {                                        \
        vector sum[PEAK_CHAINS], factor = {0.5f, 0.5f, 0.5f, 0.5f};                                                    \
        (void)worker;                                                                                                  \
        for (int j = 0; j < PEAK_CHAINS; j++) sum[j] = factor;                                                         \
        for (int i = 0; i < PEAK_ROUNDS; i++)                                                                          \
            for (int j = 0; j < PEAK_CHAINS; j++) sum[j] = add_product(sum[j], factor, factor);                        \
        for (int j = 1; j < PEAK_CHAINS; j++) sum[0] += sum[j];                                                        \
        ((float *)arg)[task * 16] = sum[0][0];                                                                         \
    }
typedef float four __attribute__((vector_size(16)));
#define FOUR(a, b, c) ((a) * (b) + (c))
PEAK_LOOP(baseline, four, FOUR, )
#ifdef CAVMAE_HAVE_X86
PEAK_LOOP(avx2, __m256, _mm256_fmadd_ps, __attribute__((target("avx2,fma"))))
PEAK_LOOP(avx512, __m512, _mm512_fmadd_ps, __attribute__((target("avx512f"))))
#endif

static double measure_peak(const bench *b) {
    int32_t threads = cavmae__context_threads(b->context), width = 4;
    cavmae__task *task = peak_baseline;
    float *result = memory(b, (size_t)threads * 64);
    double best = 0;
#ifdef CAVMAE_HAVE_X86
    if (cavmae__isa() == CAVMAE__ISA_AVX2) task = peak_avx2, width = 8;
    if (cavmae__isa() == CAVMAE__ISA_AVX512) task = peak_avx512, width = 16;
#endif
    for (int i = 0; i < 5; i++) {
        double start = seconds();
        cavmae__parallel(b->context, threads, task, result);
        double rate = 2.0 * PEAK_CHAINS * PEAK_ROUNDS * width * threads / (seconds() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    release(b, result);
    return best;
}

/* ---- Timing ---- */

static int wanted(const bench *b, const char *name) {
    for (int i = 0; i < b->names; i++)
        if (strncmp(name, b->name[i], strlen(b->name[i])) == 0) return 1;
    return b->names == 0;
}

typedef cavmae_status operation(cavmae__backend *, const void *);

/* The best of some calls, about a quarter of a second. */
static void report(const bench *b, const char *name, const char *shape, double flops, double bytes, operation *call,
                   const void *op) {
    double best = 1e9, end = seconds() + 0.25;
    int calls = 0;
    do {
        double start = seconds();
        if (call(b->backend, op) != CAVMAE_OK) exit(1);
        double took = seconds() - start;
        if (took < best) best = took;
    } while (++calls < 4 || seconds() < end);
    printf("{\"op\": \"%s\", \"shape\": \"%s\", \"threads\": %d, \"ms\": %.4f", name, shape,
           (int)cavmae__context_threads(b->context), best * 1e3);
    if (flops > 0) printf(", \"gflops\": %.1f, \"of_peak\": %.3f", flops / best * 1e-9, flops / best * 1e-9 / b->peak);
    if (bytes > 0) printf(", \"gb_per_s\": %.1f", bytes / best * 1e-9);
    printf("}\n");
    fflush(stdout);
}

/* ---- Operations ---- */

static cavmae_status call_linear(cavmae__backend *b, const void *op) { return b->ops->linear(b, op); }
static cavmae_status call_linear_grad(cavmae__backend *b, const void *op) { return b->ops->linear_grad(b, op); }
static cavmae_status call_attention(cavmae__backend *b, const void *op) { return b->ops->attention(b, op); }
static cavmae_status call_attention_grad(cavmae__backend *b, const void *op) { return b->ops->attention_grad(b, op); }
static cavmae_status call_layernorm(cavmae__backend *b, const void *op) { return b->ops->layernorm(b, op); }
static cavmae_status call_layernorm_grad(cavmae__backend *b, const void *op) { return b->ops->layernorm_grad(b, op); }
static cavmae_status call_place(cavmae__backend *b, const void *op) { return b->ops->place(b, op); }
static cavmae_status call_combine(cavmae__backend *b, const void *op) { return b->ops->combine(b, op); }
static cavmae_status call_table_grad(cavmae__backend *b, const void *op) { return b->ops->table_grad(b, op); }
static cavmae_status call_adam(cavmae__backend *b, const void *op) { return b->ops->adam(b, op); }
static cavmae_status call_contrastive(cavmae__backend *b, const void *op) { return b->ops->contrastive(b, op); }
static cavmae_status call_patches(cavmae__backend *b, const void *op) { return b->ops->patches(b, op); }
static cavmae_status call_mae_loss(cavmae__backend *b, const void *op) { return b->ops->mae_loss(b, op); }
static cavmae_status call_draw_masks(cavmae__backend *b, const void *op) { return b->ops->draw_masks(b, op); }

static cavmae_status call_sum_squares(cavmae__backend *b, const void *op) { return b->ops->sum_squares(b, op); }

static void bench_linear(const bench *b, int64_t rows, int32_t in, int32_t out, int32_t dtype) {
    const char *kind = dtype == CAVMAE_BFLOAT16 ? "bf16" : "f32";
    char shape[64];
    float *x = numbers(b, rows * in), *weight = numbers(b, (int64_t)in * out), *bias = numbers(b, out),
          *y = numbers(b, rows * out), *dx = numbers(b, rows * in);
    float *dweight = numbers(b, (int64_t)in * out), *dbias = numbers(b, out), *gelu = numbers(b, rows * out);
    const double flops = 2.0 * (double)rows * in * out;
    cavmae__linear op = {.rows = rows,
                         .in = in,
                         .out = out,
                         .x_dtype = dtype,
                         .y_dtype = dtype,
                         .x = x,
                         .weight = weight,
                         .bias = bias,
                         .y = y,
                         .workspace = b->workspace};
    cavmae__linear_grad grad = {.rows = rows,
                                .in = in,
                                .out = out,
                                .x_dtype = dtype,
                                .dy_dtype = dtype,
                                .dx_dtype = dtype,
                                .x = x,
                                .weight = weight,
                                .dy = y,
                                .workspace = b->workspace};
    if (dtype == CAVMAE_BFLOAT16) { /* the upper halves of numbers are numbers */
        memset(x, 0, (size_t)(rows * in) * 2);
        memset(y, 0, (size_t)(rows * out) * 2);
    }
    snprintf(shape, sizeof shape, "%lldx%d>%d %s", (long long)rows, (int)in, (int)out, kind);
    if (wanted(b, "linear")) {
        report(b, "linear", shape, flops, 0, call_linear, &op);
        if (out == 4 * in) {
            op.gelu = gelu;
            report(b, "linear_gelu", shape, flops, 0, call_linear, &op);
        }
    }
    if (wanted(b, "dx")) {
        grad.dx = dx;
        report(b, "dx", shape, flops, 0, call_linear_grad, &grad);
        if (in == 4 * out) {
            grad.gelu_input = x;
            report(b, "dx_gelu", shape, flops, 0, call_linear_grad, &grad);
        }
    }
    if (wanted(b, "dweight")) {
        grad.dx = NULL;
        grad.dweight = dweight;
        grad.dbias = dbias;
        report(b, "dweight", shape, flops, 0, call_linear_grad, &grad);
    }
    float *all[] = {x, weight, bias, y, dx, dweight, dbias, gelu};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release(b, all[i]);
}

static void bench_linears(const bench *b, int32_t dtype) {
    static const int32_t layers[][2] = {{768, 2304}, {768, 768},  {768, 3072}, {3072, 768},
                                        {512, 1536}, {512, 2048}, {2048, 512}, {96, 384}};
    static const int64_t rows[] = {177, 708, 2832};
    if (!wanted(b, "linear") && !wanted(b, "dx") && !wanted(b, "dweight")) return;
    for (int r = 0; r < 3; r++)
        for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
            bench_linear(b, rows[r], layers[i][0], layers[i][1], dtype);
}

static void bench_attention(const bench *b, int32_t heads, int32_t dim, int32_t clips, int32_t length, int32_t dtype) {
    int32_t start[64];
    for (int32_t i = 0; i <= clips; i++) start[i] = i * length;
    const int64_t rows = start[clips], width = (int64_t)heads * dim;
    char shape[64];
    float *qkv = numbers(b, rows * 3 * width), *o = numbers(b, rows * width), *d_o = numbers(b, rows * width),
          *dqkv = numbers(b, rows * 3 * width);
    float *lse = numbers(b, rows * heads);
    if (dtype == CAVMAE_BFLOAT16)
        memset(qkv, 0, (size_t)(rows * 3 * width) * 2), memset(d_o, 0, (size_t)(rows * width) * 2);
    cavmae__attention op = {.heads = heads,
                            .head_dim = dim,
                            .dtype = dtype,
                            .segments = {.count = clips, .longest = length, .start_host = start, .start = start},
                            .qkv = qkv,
                            .o = o,
                            .lse = lse,
                            .d_o = d_o,
                            .dqkv = dqkv,
                            .workspace = b->workspace};
    double flops = 4.0 * (double)rows * length * (double)width;
    snprintf(shape, sizeof shape, "%dx%d, %d heads of %d %s", (int)clips, (int)length, (int)heads, (int)dim,
             dtype == CAVMAE_BFLOAT16 ? "bf16" : "f32");
    if (wanted(b, "attention")) report(b, "attention", shape, flops, 0, call_attention, &op);
    call_attention(b->backend, &op);
    if (wanted(b, "attention_grad")) report(b, "attention_grad", shape, 2.5 * flops, 0, call_attention_grad, &op);
    float *all[] = {qkv, o, d_o, dqkv, lse};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release(b, all[i]);
}

static void bench_attentions(const bench *b, int32_t dtype) {
    if (!wanted(b, "attention") && !wanted(b, "attention_grad")) return;
    bench_attention(b, 12, 64, 4, 49, dtype);
    bench_attention(b, 12, 64, 4, 128, dtype);
    bench_attention(b, 12, 64, 4, 177, dtype);
    bench_attention(b, 12, 64, 1, 196, dtype);
    bench_attention(b, 12, 64, 1, 512, dtype);
    bench_attention(b, 12, 64, 1, 708, dtype);
    bench_attention(b, 16, 32, 4, 708, dtype);
}

static void bench_rows(const bench *b) {
    enum { ROWS = 2832, WIDTH = 768 };
    const double bytes = (double)ROWS * WIDTH * sizeof(float);
    float *x = numbers(b, ROWS * WIDTH), *y = numbers(b, ROWS * WIDTH), *dx = numbers(b, ROWS * WIDTH),
          *gamma = numbers(b, 4 * WIDTH), *mean = numbers(b, 2 * ROWS);
    int32_t *index = memory(b, ROWS * sizeof *index);
    for (int32_t i = 0; i < ROWS; i++) index[i] = i * 13 % ROWS;
    cavmae__layernorm norm = {.width = WIDTH,
                              .group_count = 1,
                              .group = {{ROWS, gamma, gamma + WIDTH, gamma + 2 * WIDTH, gamma + 3 * WIDTH}},
                              .eps = 1e-5f,
                              .y_dtype = CAVMAE_FLOAT32,
                              .x = x,
                              .y = y,
                              .mean = mean,
                              .rstd = mean + ROWS,
                              .dy = y,
                              .add = dx,
                              .dx = dx,
                              .workspace = b->workspace};
    cavmae__place place = {.count = ROWS,
                           .width = WIDTH,
                           .x = x,
                           .table = y,
                           .vector = gamma,
                           .source = index,
                           .position = index,
                           .row = index,
                           .out = dx};
    cavmae__combine combine = {.rows = ROWS, .width = WIDTH, .x = x, .first = index, .second = index, .y = y};
    cavmae__table_grad table = {
        .count = ROWS, .width = WIDTH, .table_rows = 1, .dy = x, .dtable = gamma, .workspace = b->workspace};
    if (wanted(b, "layernorm")) report(b, "layernorm", "2832x768", 0, 2 * bytes, call_layernorm, &norm);
    if (wanted(b, "layernorm_grad")) report(b, "layernorm_grad", "2832x768", 0, 4 * bytes, call_layernorm_grad, &norm);
    if (wanted(b, "place")) report(b, "place", "2832x768", 0, 3 * bytes, call_place, &place);
    if (wanted(b, "combine")) report(b, "combine", "2832x768", 0, 3 * bytes, call_combine, &combine);
    if (wanted(b, "table_grad")) report(b, "table_grad", "2832x768 to one row", 0, bytes, call_table_grad, &table);
    float *all[] = {x, y, dx, gamma, mean};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release(b, all[i]);
    release(b, index);
}

static void bench_optimizer(const bench *b) {
    enum { COUNT = 1 << 24 };
    if (!wanted(b, "adam") && !wanted(b, "sum_squares")) return;
    float *p = numbers(b, COUNT), *m = numbers(b, COUNT), *v = memory(b, COUNT * sizeof *v), *grad = numbers(b, COUNT);
    double sum;
    const cavmae__update first = {.lr = 1e-4, .grad_scale = 1, .number = 1};
    cavmae__adam adam = {.count = COUNT,
                         .update = &first,
                         .p = p,
                         .m = m,
                         .v = v,
                         .grad = grad,
                         .lr_factor = 1,
                         .beta1 = 0.95,
                         .beta2 = 0.999,
                         .eps = 1e-8,
                         .weight_decay = 5e-7};
    const cavmae__sum_squares norm = {.count = COUNT, .x = grad, .sum = &sum, .workspace = b->workspace};
    if (wanted(b, "adam")) report(b, "adam", "16 M", 0, 7.0 * COUNT * sizeof(float), call_adam, &adam);
    if (wanted(b, "sum_squares"))
        report(b, "sum_squares", "16 M", 0, 1.0 * COUNT * sizeof(float), call_sum_squares, &norm);
    release(b, p);
    release(b, m);
    release(b, v);
    release(b, grad);
}

static void bench_losses(const bench *b) {
    enum { CLIPS = 4, TOKENS = 196, WIDTH = 768, ROWS = CLIPS * TOKENS, PAIRS = 64 };
    float *image = numbers(b, CLIPS * 3 * 224 * 224), *pred = numbers(b, ROWS * WIDTH),
          *dpred = numbers(b, ROWS * WIDTH);
    int64_t offset[CLIPS];
    int32_t columns[CLIPS], clip[ROWS], token[ROWS];
    uint8_t mask[ROWS];
    double loss[2] = {0};
    for (int i = 0; i < ROWS; i++) {
        clip[i] = i / TOKENS;
        token[i] = i % TOKENS;
        mask[i] = i % 4 != 0;
    }
    for (int i = 0; i < CLIPS; i++) {
        offset[i] = (int64_t)i * 3 * 224 * 224;
        columns[i] = 14;
    }
    const cavmae__patch_source source = {.data = image,
                                         .offset = offset,
                                         .columns = columns,
                                         .channel_stride = 224 * 224,
                                         .row_stride = 224,
                                         .column_stride = 1,
                                         .channels = 3,
                                         .patch = 16};
    cavmae__patches patches = {
        .source = source, .rows = ROWS, .clip = clip, .token = token, .y_dtype = CAVMAE_FLOAT32, .y = pred};
    const double removed = ROWS * 3 / 4;
    cavmae__mae_loss mae = {.source = source,
                            .rows = ROWS,
                            .clip = clip,
                            .token = token,
                            .mask = mask,
                            .removed = &removed,
                            .pred = pred,
                            .dpred = dpred,
                            .weight = 1,
                            .norm_pix = 1,
                            .loss = loss,
                            .workspace = b->workspace};
    cavmae__contrastive pairs = {.count = PAIRS,
                                 .total = PAIRS,
                                 .pairs = PAIRS,
                                 .width = WIDTH,
                                 .temperature = 0.05,
                                 .weight = 0.01,
                                 .a = pred,
                                 .v = image,
                                 .da = dpred,
                                 .dv = dpred + PAIRS * WIDTH,
                                 .loss = loss,
                                 .accuracy = loss + 1,
                                 .workspace = b->workspace};
    const uint64_t step = 0;
    cavmae__draw_masks draw = {.seed = 1,
                               .step = &step,
                               .purpose = 2,
                               .clips = 512,
                               .rows = 8,
                               .columns = 64,
                               .keep = 128,
                               .ratio = 0.75,
                               .mask = memory(b, 512 * 512),
                               .workspace = b->workspace};
    const double bytes = (double)ROWS * WIDTH * sizeof(float);
    if (wanted(b, "patches")) report(b, "patches", "784 of 16x16x3", 0, 2 * bytes, call_patches, &patches);
    if (wanted(b, "mae_loss")) report(b, "mae_loss", "784 of 16x16x3", 0, 3 * bytes, call_mae_loss, &mae);
    if (wanted(b, "contrastive"))
        report(b, "contrastive", "64 pairs of 768", 0, 4.0 * PAIRS * WIDTH * sizeof(float), call_contrastive, &pairs);
    if (wanted(b, "draw_masks")) report(b, "draw_masks", "512 of 512", 0, 512 * 512, call_draw_masks, &draw);
    release(b, draw.mask);
    release(b, image);
    release(b, pred);
    release(b, dpred);
}

int main(int argc, char **argv) {
    cavmae_context_options options = {.struct_size = sizeof options, .threads = 1};
    cavmae__limits limits = {.rows = 2832,
                             .width = 3072,
                             .weight = 3072 * 768,
                             .heads = 16,
                             .longest = 708,
                             .head_dim = 64,
                             .clips = 64,
                             .tokens = 708,
                             .backward = 1};
    bench b = {.name = argv + 1, .names = argc - 1};
    if (argc > 2 && strcmp(argv[1], "--threads") == 0) {
        options.threads = (int32_t)strtol(argv[2], NULL, 10);
        b.name += 2;
        b.names -= 2;
    }
    if (cavmae_context_create(&options, &b.context) || cavmae__context_backend(b.context, &b.backend)) {
        fprintf(stderr, "op_bench: %s\n", cavmae_last_error());
        return 1;
    }
    b.workspace = memory(&b, b.backend->ops->workspace_size(b.backend, &limits));
    b.peak = measure_peak(&b);
    printf("{\"op\": \"peak\", \"threads\": %d, \"gflops\": %.1f}\n", (int)options.threads, b.peak);
    bench_linears(&b, CAVMAE_FLOAT32);
    bench_linears(&b, CAVMAE_BFLOAT16);
    bench_attentions(&b, CAVMAE_FLOAT32);
    bench_attentions(&b, CAVMAE_BFLOAT16);
    bench_rows(&b);
    bench_optimizer(&b);
    bench_losses(&b);
    release(&b, b.workspace);
    cavmae_context_free(b.context);
    return 0;
}
