/* attention and attention_grad: the device's against the CPU's. */
#include "compare.h"

/* Scores are about `shift` away from where they would be: the first column of queries and keys does that. */
typedef struct attention_case {
    int32_t heads, dim, dtype, count;
    const int32_t *lengths;
    double shift;
} attention_case;

/* Who computes it on the device. */
static int32_t by = CAVMAE__ATTENTION_OWN;

typedef struct operands {
    twin_segments segments;
    twin qkv, o, lse, d_o, dqkv;
    cavmae__attention cpu, device;
} operands;

static operands make_operands(both *b, const attention_case *c) {
    operands x = {.segments = make_segments(b, c->count, c->lengths)};
    const int64_t rows = x.segments.cpu.start_host[c->count], width = (int64_t)c->heads * c->dim;
    x.qkv = twin_input(b, rows * 3 * width, c->dtype, -1.5, 1.5);
    x.o = twin_output(b, rows * width, c->dtype);
    x.lse = twin_output(b, rows * c->heads, CAVMAE_FLOAT32);
    x.d_o = twin_input(b, rows * width, c->dtype, -1, 1);
    x.dqkv = twin_output(b, rows * 3 * width, c->dtype);
    if (c->shift != 0) {
        const float size = (float)sqrt(fabs(c->shift) * sqrt(c->dim));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < c->heads; h++) {
                write_element(x.qkv.cpu, c->dtype, (3 * r * c->heads + h) * c->dim, size);
                write_element(x.qkv.cpu, c->dtype, ((3 * r + 1) * c->heads + h) * c->dim, c->shift < 0 ? -size : size);
            }
        twin_upload(b, &x.qkv);
    }
    x.cpu = x.device = (cavmae__attention){.heads = c->heads, .head_dim = c->dim, .dtype = c->dtype};
    x.cpu.segments = x.segments.cpu;
    x.cpu.qkv = x.qkv.cpu;
    x.cpu.o = x.o.cpu;
    x.cpu.lse = x.lse.cpu;
    x.cpu.d_o = x.d_o.cpu;
    x.cpu.dqkv = x.dqkv.cpu;
    x.device.segments = x.segments.device;
    x.device.qkv = x.qkv.device;
    x.device.o = x.o.device;
    x.device.lse = x.lse.device;
    x.device.d_o = x.d_o.device;
    x.device.dqkv = x.dqkv.device;
    x.device.by = by;
    const cavmae__limits limits = {.rows = rows,
                                   .width = 1,
                                   .heads = c->heads,
                                   .longest = x.segments.cpu.longest,
                                   .head_dim = c->dim,
                                   .clips = 1,
                                   .tokens = 1,
                                   .backward = 1};
    both_workspace(b, &limits);
    x.cpu.workspace = b->cpu_workspace;
    x.device.workspace = b->cuda_workspace;
    return x;
}

static void free_operands(both *b, operands *x) {
    twin_free(b, &x->qkv);
    twin_free(b, &x->o);
    twin_free(b, &x->lse);
    twin_free(b, &x->d_o);
    twin_free(b, &x->dqkv);
    free_segments(b, &x->segments);
}

static void run_on_device(both *b, const cavmae__attention *op) {
    CHECK_OK(b->cuda->ops->attention(b->cuda, op));
    CHECK_OK(b->cuda->ops->attention_grad(b->cuda, op));
}

/* Against the CPU. With bfloat16 P and dS are rounded before their products, on the CPU nothing is. */
static void test_case(both *b, const attention_case *c) {
    const int failed = check_failed, bf16 = c->dtype == CAVMAE_BFLOAT16;
    operands x = make_operands(b, c);
    CHECK_OK(b->cpu->ops->attention(b->cpu, &x.cpu));
    CHECK_OK(b->cpu->ops->attention_grad(b->cpu, &x.cpu));
    run_on_device(b, &x.device);
    /* A score of 120 has an error of 1e-5 in float32, which e^score turns into a relative one. */
    const double exact = c->shift != 0 ? 4e-5 : 1e-5;
    CHECK_TWIN(b, &x.o, bf16 ? 5e-3 : exact);
    CHECK_TWIN(b, &x.lse, 1e-6);
    CHECK_TWIN(b, &x.dqkv, bf16 ? 1e-2 : exact);
    if (check_failed > failed)
        printf("  with %d segments from length %d, %d heads of %d, dtype %d, shift %g\n", c->count, c->lengths[0],
               c->heads, c->dim, c->dtype, c->shift);
    free_operands(b, &x);
}

/* Segments of lengths first .. first + count - 1. */
static void test_lengths(both *b, int32_t dim, int32_t dtype, int32_t heads, int32_t first, int32_t count,
                         double shift) {
    int32_t lengths[128];
    for (int32_t i = 0; i < count; i++) lengths[i] = first + i;
    const attention_case c = {heads, dim, dtype, count, lengths, shift};
    test_case(b, &c);
}

static void test_one_length(both *b, int32_t dim, int32_t dtype, int32_t heads, int32_t length) {
    const attention_case c = {heads, dim, dtype, 1, &length, 0};
    test_case(b, &c);
}

static void test_tensor_cores(both *b) {
    static const int32_t dims[] = {32, 64}, mixed[] = {64, 1, 128, 49, 65};
    for (int i = 0; i < 2; i++) {
        for (int32_t first = 1; first <= 70; first += 10) test_lengths(b, dims[i], CAVMAE_BFLOAT16, 1, first, 10, 0);
        test_lengths(b, dims[i], CAVMAE_BFLOAT16, 1, 127, 3, 0);
        test_lengths(b, dims[i], CAVMAE_BFLOAT16, 1, 191, 7, 0);
        test_one_length(b, dims[i], CAVMAE_BFLOAT16, 2, 177);
        test_one_length(b, dims[i], CAVMAE_BFLOAT16, 1, 512);
        for (int shift = -120; shift <= 120; shift += 240) {
            test_lengths(b, dims[i], CAVMAE_BFLOAT16, 2, 14, 5, shift);
            test_lengths(b, dims[i], CAVMAE_BFLOAT16, 1, 127, 3, shift);
        }
        const attention_case c = {16, dims[i], CAVMAE_BFLOAT16, 5, mixed, 0};
        test_case(b, &c);
    }
    test_one_length(b, 32, CAVMAE_BFLOAT16, 1, 708);
    test_one_length(b, 64, CAVMAE_BFLOAT16, 1, 708);
}

static void test_exact(both *b) {
    static const int32_t dims[] = {1, 4, 5, 8, 16, 20, 32, 40, 64, 96, 128, 160, 256}, mixed[] = {15, 1, 65, 33};
    for (int i = 0; i < 13; i++) {
        const attention_case exact = {2, dims[i], CAVMAE_FLOAT32, 4, mixed, 0};
        test_case(b, &exact);
        if (dims[i] == 32 || dims[i] == 64) continue;
        const attention_case rounded = {3, dims[i], CAVMAE_BFLOAT16, 4, mixed, 0};
        test_case(b, &rounded);
    }
    for (int32_t first = 1; first <= 70; first += 14) test_lengths(b, 8, CAVMAE_FLOAT32, 1, first, 14, 0);
    for (int shift = -120; shift <= 120; shift += 240) {
        test_lengths(b, 32, CAVMAE_FLOAT32, 1, 63, 3, shift);
        test_lengths(b, 64, CAVMAE_FLOAT32, 1, 15, 3, shift);
    }
    test_one_length(b, 64, CAVMAE_FLOAT32, 1, 196);
    test_one_length(b, 32, CAVMAE_FLOAT32, 1, 300);
}

/* The same call twice has the same bits; so has a forward pass that nobody wants lse of; and each segment alone, which
 * is worked on in smaller blocks. */
static void test_bits(both *b, int32_t dim, int32_t dtype) {
    static const int32_t lengths[] = {40, 130, 1, 64};
    const attention_case c = {2, dim, dtype, 4, lengths, 0};
    operands x = make_operands(b, &c);
    run_on_device(b, &x.device);
    twin o = twin_output(b, x.o.count, dtype), lse = twin_output(b, x.lse.count, CAVMAE_FLOAT32),
         dqkv = twin_output(b, x.dqkv.count, dtype);
    cavmae__attention again = x.device;
    again.o = o.device;
    again.lse = lse.device;
    again.dqkv = dqkv.device;
    run_on_device(b, &again);
    CHECK_DEVICE_SAME(b, &o, &x.o);
    CHECK_DEVICE_SAME(b, &lse, &x.lse);
    CHECK_DEVICE_SAME(b, &dqkv, &x.dqkv);
    again.lse = NULL;
    CHECK_OK(b->cuda->ops->attention(b->cuda, &again));
    CHECK_DEVICE_SAME(b, &o, &x.o);

    twin alone_o = twin_output(b, x.o.count, dtype), alone_lse = twin_output(b, x.lse.count, CAVMAE_FLOAT32),
         alone_dqkv = twin_output(b, x.dqkv.count, dtype);
    for (int32_t s = 0; s < c.count; s++) {
        twin start = twin_ints(b, 2, x.segments.cpu.start_host + s);
        cavmae__attention single = x.device;
        single.segments = (cavmae__segments){1, lengths[s], x.segments.cpu.start_host + s, start.device};
        single.o = alone_o.device;
        single.lse = alone_lse.device;
        single.dqkv = alone_dqkv.device;
        run_on_device(b, &single);
        twin_free(b, &start);
    }
    CHECK_DEVICE_SAME(b, &alone_o, &x.o);
    CHECK_DEVICE_SAME(b, &alone_lse, &x.lse);
    CHECK_DEVICE_SAME(b, &alone_dqkv, &x.dqkv);
    twin_free(b, &alone_o);
    twin_free(b, &alone_lse);
    twin_free(b, &alone_dqkv);
    twin_free(b, &o);
    twin_free(b, &lse);
    twin_free(b, &dqkv);
    free_operands(b, &x);
}

/* No segments: nothing to do. Heads that are too wide: refused. */
static void test_limits(both *b) {
    static const int32_t one[] = {3};
    const attention_case nothing = {2, 32, CAVMAE_BFLOAT16, 0, one, 0}, wide = {1, 257, CAVMAE_FLOAT32, 1, one, 0};
    operands x = make_operands(b, &nothing);
    run_on_device(b, &x.device);
    free_operands(b, &x);
    x = make_operands(b, &wide);
    CHECK_STATUS(b->cuda->ops->attention(b->cuda, &x.device), CAVMAE_E_UNSUPPORTED);
    CHECK_STATUS(b->cuda->ops->attention_grad(b->cuda, &x.device), CAVMAE_E_UNSUPPORTED);
    free_operands(b, &x);
}

/* ---- cuDNN's, where the device and the build have it; refused with a sentence where not ---- */

static cavmae_status forward_and_back(void *arg) {
    void *const *pair = arg;
    both *b = pair[0];
    const cavmae__attention *op = pair[1];
    const cavmae_status status = b->cuda->ops->attention(b->cuda, op);
    return status == CAVMAE_OK ? b->cuda->ops->attention_grad(b->cuda, op) : status;
}

/* The same bits again, one by one and played back from a recording. */
static void test_cudnn_bits(both *b, const attention_case *c) {
    operands x = make_operands(b, c);
    twin o = twin_output(b, x.o.count, c->dtype), dqkv = twin_output(b, x.dqkv.count, c->dtype);
    cavmae__attention again = x.device;
    cavmae__repeat repeat = {0};
    void *pair[] = {b, &again};
    run_on_device(b, &x.device);
    again.o = o.device;
    again.dqkv = dqkv.device;
    for (int i = 0; i < 4; i++) {
        CHECK_OK(b->cuda->ops->zero(b->cuda, o.device, o.size));
        CHECK_OK(b->cuda->ops->zero(b->cuda, dqkv.device, dqkv.size));
        CHECK_OK(b->cuda->ops->repeat(b->cuda, &repeat, 1, forward_and_back, pair));
        CHECK_DEVICE_SAME(b, &o, &x.o);
        CHECK_DEVICE_SAME(b, &dqkv, &x.dqkv);
    }
    b->cuda->ops->repeat_free(b->cuda, &repeat);
    twin_free(b, &o);
    twin_free(b, &dqkv);
    free_operands(b, &x);
}

static void test_cudnn(both *b) {
    /* Lengths of 64 more than a multiple of 128, and scores far below 0, have been wrong in some versions. */
    static const int32_t lengths[] = {2, 7, 15, 16, 17, 49, 63, 64, 65, 128, 177, 192, 196, 320, 512, 708};
    static const int32_t streams[] = {177, 177, 128, 128, 49, 49};
    by = CAVMAE__ATTENTION_CUDNN;
    const attention_case layer = {12, 64, CAVMAE_BFLOAT16, 6, streams, 0};
    operands x = make_operands(b, &layer);
    const cavmae_status status = b->cuda->ops->attention(b->cuda, &x.device);
    if (status != CAVMAE_OK) {
        CHECK_STATUS(status, CAVMAE_E_UNSUPPORTED);
        CHECK(strstr(cavmae_last_error(), "cuDNN"));
        printf("%s\n", cavmae_last_error());
        CHECK_STATUS(b->cuda->ops->attention_grad(b->cuda, &x.device), CAVMAE_E_UNSUPPORTED);
    }
    free_operands(b, &x);
    for (int i = 0; status == CAVMAE_OK && i < 16; i++)
        for (int shift = -120; shift <= 120; shift += 120)
            for (int32_t dim = 32; dim <= 64; dim += 32) {
                const int32_t two[] = {lengths[i], lengths[i]};
                const attention_case c = {3, dim, CAVMAE_BFLOAT16, 2, two, shift};
                test_case(b, &c);
                if (shift == 0) test_cudnn_bits(b, &c);
            }
    if (status == CAVMAE_OK) {
        test_case(b, &layer);
        test_cudnn_bits(b, &layer);
    }
    by = CAVMAE__ATTENTION_OWN;
}

int main(void) {
    both b;
    open_both(&b);
    test_tensor_cores(&b);
    test_exact(&b);
    test_bits(&b, 32, CAVMAE_BFLOAT16);
    test_bits(&b, 64, CAVMAE_BFLOAT16);
    test_bits(&b, 32, CAVMAE_FLOAT32);
    test_limits(&b);
    test_cudnn(&b);
    close_both(&b);
    return check_summary("attention");
}
