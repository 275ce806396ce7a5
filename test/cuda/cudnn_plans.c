/* cuDNN's attention without a device: cudnn_plans [DEVICE_JSON]. Without an argument, what the graphs say, computed by a
 * stand-in; with one, whether the cuDNN that is there makes plans of them for the device described. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "cudnn_attention_graph.h"
#include "cudnn_stand_in.h"

/* ---- What the graphs say ---- */

typedef struct problem {
    cavmae__cudnn_shape shape;
    int64_t rows, width, first; /* of all tensors; the segments begin at row first */
    uint16_t *qkv, *o, *d_o, *dqkv;
    float *lse;
    cavmae__attention op;
} problem;

enum { POISON = 0x7FC1 }; /* a NaN that nothing computes */

static float value(const uint16_t *x, int64_t i) {
    const uint32_t bits = (uint32_t)x[i] << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static uint16_t *numbers(int64_t count, uint32_t seed, int poisoned) {
    uint16_t *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        const float number = ((float)(seed >> 8) / (float)(1 << 24) - 0.5f) * 4;
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        x[i] = poisoned ? POISON : (uint16_t)(bits >> 16);
    }
    return x;
}

static problem make_problem(cavmae__cudnn_shape shape, int64_t before, int64_t after) {
    problem p = {.shape = shape, .width = shape.heads * shape.head_dim, .first = before};
    p.rows = before + shape.count * shape.length + after;
    p.qkv = numbers(p.rows * 3 * p.width, 1, 0);
    p.o = numbers(p.rows * p.width, 2, 1);
    p.d_o = numbers(p.rows * p.width, 3, 0);
    p.dqkv = numbers(p.rows * 3 * p.width, 4, 1);
    p.lse = malloc((size_t)(p.rows * shape.heads) * sizeof *p.lse);
    for (int64_t i = 0; i < p.rows * shape.heads; i++) p.lse[i] = -12345;
    p.op = (cavmae__attention){.heads = (int32_t)shape.heads,
                               .head_dim = (int32_t)shape.head_dim,
                               .dtype = CAVMAE_BFLOAT16,
                               .qkv = p.qkv,
                               .o = p.o,
                               .lse = shape.stats ? p.lse : NULL,
                               .d_o = p.d_o,
                               .dqkv = p.dqkv};
    return p;
}

static void free_problem(problem *p) {
    free(p->qkv);
    free(p->o);
    free(p->d_o);
    free(p->dqkv);
    free(p->lse);
}

/* part 0 q, 1 k, 2 v */
static int64_t at(const problem *p, int64_t row, int64_t part, int64_t head, int64_t d) {
    return (row * 3 + part) * p->width + head * p->shape.head_dim + d;
}

/* Scores of one query: p [length]; gives log of the sum of exponentials. */
static double softmax(const problem *p, int64_t segment_start, int64_t query, int64_t head, double *out) {
    const int64_t length = p->shape.length, dim = p->shape.head_dim;
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < length; j++) {
        out[j] = 0;
        for (int64_t d = 0; d < dim; d++)
            out[j] += value(p->qkv, at(p, query, 0, head, d)) *
                      (double)value(p->qkv, at(p, segment_start + j, 1, head, d)) / sqrt((double)dim);
        largest = fmax(largest, out[j]);
    }
    for (int64_t j = 0; j < length; j++) sum += exp(out[j] - largest);
    for (int64_t j = 0; j < length; j++) out[j] = exp(out[j] - largest) / sum;
    return largest + log(sum);
}

/* Largest distance of o and lse from backend.h's equation. */
static void check_forward(const problem *p) {
    const int64_t length = p->shape.length, dim = p->shape.head_dim;
    double *scores = malloc((size_t)length * sizeof *scores), o_off = 0, lse_off = 0;
    for (int64_t s = 0; s < p->shape.count; s++)
        for (int64_t i = 0; i < length; i++)
            for (int64_t h = 0; h < p->shape.heads; h++) {
                const int64_t start = p->first + s * length, row = start + i;
                const double lse = softmax(p, start, row, h, scores);
                if (p->shape.stats) lse_off = fmax(lse_off, fabs(lse - p->lse[row * p->shape.heads + h]));
                for (int64_t d = 0; d < dim; d++) {
                    double sum = 0;
                    for (int64_t j = 0; j < length; j++) sum += scores[j] * value(p->qkv, at(p, start + j, 2, h, d));
                    const float got = value(p->o, row * p->width + h * dim + d);
                    o_off = fmax(o_off, isnan(got) ? INFINITY : fabs(sum - got));
                }
            }
    CHECK(o_off < 0.02); /* bfloat16 of numbers up to 2, and of scores between the composite's products */
    CHECK(lse_off < 1e-5);
    free(scores);
}

/* dq, dk, dv from the o and lse that forward left. */
static void check_backward(const problem *p) {
    const int64_t length = p->shape.length, dim = p->shape.head_dim, heads = p->shape.heads;
    double *scores = malloc((size_t)length * sizeof *scores);
    double *expected = calloc((size_t)(p->rows * 3 * p->width), sizeof *expected), off = 0;
    for (int64_t s = 0; s < p->shape.count; s++)
        for (int64_t i = 0; i < length; i++)
            for (int64_t h = 0; h < heads; h++) {
                const int64_t start = p->first + s * length, row = start + i;
                double row_sum = 0;
                softmax(p, start, row, h, scores);
                for (int64_t d = 0; d < dim; d++)
                    row_sum +=
                        value(p->d_o, row * p->width + h * dim + d) * (double)value(p->o, row * p->width + h * dim + d);
                for (int64_t j = 0; j < length; j++) {
                    double dp = 0;
                    for (int64_t d = 0; d < dim; d++)
                        dp += value(p->d_o, row * p->width + h * dim + d) *
                              (double)value(p->qkv, at(p, start + j, 2, h, d));
                    const double dz = scores[j] * (dp - row_sum) / sqrt((double)dim);
                    for (int64_t d = 0; d < dim; d++) {
                        expected[at(p, row, 0, h, d)] += dz * value(p->qkv, at(p, start + j, 1, h, d));
                        expected[at(p, start + j, 1, h, d)] += dz * value(p->qkv, at(p, row, 0, h, d));
                        expected[at(p, start + j, 2, h, d)] += scores[j] * value(p->d_o, row * p->width + h * dim + d);
                    }
                }
            }
    const int64_t begin = p->first * 3 * p->width, end = begin + p->shape.count * length * 3 * p->width;
    for (int64_t i = begin; i < end; i++) {
        const float got = value(p->dqkv, i);
        off = fmax(off, isnan(got) ? INFINITY : fabs(expected[i] - got) / (1 + fabs(expected[i])));
    }
    CHECK(off < 0.02);
    free(expected);
    free(scores);
}

/* Rows of other segments keep what they held. */
static void check_others(const problem *p) {
    const int64_t end = p->first + p->shape.count * p->shape.length;
    int kept = 1;
    for (int64_t row = 0; row < p->rows; row++) {
        if (row >= p->first && row < end) continue;
        for (int64_t i = 0; i < p->width; i++) kept &= p->o[row * p->width + i] == POISON;
        for (int64_t i = 0; i < 3 * p->width; i++) kept &= p->dqkv[row * 3 * p->width + i] == POISON;
        for (int64_t h = 0; h < p->shape.heads; h++) kept &= p->lse[row * p->shape.heads + h] == -12345;
    }
    CHECK(kept);
}

/* Plans and runs one direction, with guards behind the workspace. */
static void run(const cavmae__cudnn_library *cudnn, const problem *p, int backward, int composite, int plan) {
    static cavmae__cudnn_graph graph;
    cavmae__cudnn_shape shape = p->shape;
    shape.backward = backward;
    CHECK(cavmae__cudnn_attention_plan(&graph, cudnn, NULL, "{}", &shape, composite) == CAVMAE_OK);
    CHECK(graph.plans == STAND_IN_PLANS);
    const int64_t bytes = cavmae__cudnn_attention_bytes(&graph, &shape);
    CHECK(bytes >= STAND_IN_WORKSPACE);
    unsigned char *workspace = malloc((size_t)bytes + 16);
    memset(workspace + bytes, 0x5A, 16);
    float *lse = cavmae__cudnn_attention_lse(&shape, workspace);
    for (int64_t i = 0; backward && i < shape.count * shape.length * shape.heads; i++)
        lse[i] = p->lse[(p->first + i / shape.length / shape.heads * shape.length + i % shape.length) * shape.heads +
                        i / shape.length % shape.heads];
    CHECK(cavmae__cudnn_attention_run(&graph, plan, NULL, &shape, &p->op, p->first, workspace) == CUDNN_STATUS_SUCCESS);
    int kept = 1;
    for (int i = 0; i < 16; i++) kept &= workspace[bytes + i] == 0x5A;
    CHECK(kept);
    free(workspace);
    cavmae__cudnn_graph_end(&graph);
    CHECK(stand_in_descriptors() == 0);
}

static void test_graphs(void) {
    static const cavmae__cudnn_shape shapes[] = {
        {.count = 1, .length = 1, .heads = 1, .head_dim = 8, .stats = 1},
        {.count = 3, .length = 7, .heads = 2, .head_dim = 8, .stats = 1},
        {.count = 2, .length = 17, .heads = 3, .head_dim = 16, .stats = 1},
        {.count = 2, .length = 5, .heads = 2, .head_dim = 32},
    };
    cavmae__cudnn_library cudnn;
    stand_in_open(&cudnn, 0, 0);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int composite = 0; composite < 2; composite++) {
            problem p = make_problem(shapes[i], (int64_t)i, 2);
            run(&cudnn, &p, 0, composite, composite);
            check_forward(&p);
            if (p.shape.stats) {
                run(&cudnn, &p, 1, composite, composite);
                check_backward(&p);
            }
            check_others(&p);
            free_problem(&p);
        }
}

/* Every call fails once, and from then on: a sentence, and nothing is left. One failure among the plans is borne. */
static void test_failures(void) {
    static cavmae__cudnn_graph graph;
    const cavmae__cudnn_shape shape = {.count = 2, .length = 5, .heads = 2, .head_dim = 8, .stats = 1, .backward = 1};
    cavmae__cudnn_library cudnn;
    stand_in_open(&cudnn, 0, 0);
    cavmae__cudnn_attention_plan(&graph, &cudnn, NULL, "{}", &shape, 0);
    cavmae__cudnn_graph_end(&graph);
    const int calls = stand_in_calls();
    int fewer = 0, silent = 0, passed = 0;
    for (int times = 1; times <= calls; times += calls - 1)
        for (int call = 1; call <= calls; call++) {
            stand_in_open(&cudnn, call, times);
            const cavmae_status status = cavmae__cudnn_attention_plan(&graph, &cudnn, NULL, "{}", &shape, 0);
            if (status == CAVMAE_OK && graph.plans == 1) fewer++;
            if (status == CAVMAE_OK && graph.plans == STAND_IN_PLANS) passed++;
            if (status != CAVMAE_OK && !graph.why[0]) silent++;
            cavmae__cudnn_graph_end(&graph);
            if (stand_in_descriptors() != 0) silent++;
        }
    CHECK(silent == 0);
    CHECK(passed == 0);
    /* Five calls make each of two plans; either may fail alone, and the second for good. */
    CHECK(fewer == 15);

    problem p = make_problem(shape, 0, 0);
    stand_in_open(&cudnn, 0, 0);
    CHECK(cavmae__cudnn_attention_plan(&graph, &cudnn, NULL, "{}", &shape, 0) == CAVMAE_OK);
    void *workspace = malloc((size_t)cavmae__cudnn_attention_bytes(&graph, &shape));
    const int before = stand_in_descriptors();
    for (int call = 1; call <= 6; call++) {
        cavmae__cudnn_library failing;
        stand_in_open(&failing, call, 1);
        const cudnnStatus_t status = cavmae__cudnn_attention_run(&graph, 0, NULL, &shape, &p.op, 0, workspace);
        CHECK(status != CUDNN_STATUS_SUCCESS);
        CHECK(stand_in_descriptors() == before);
    }
    free(workspace);
    free_problem(&p);
    cavmae__cudnn_graph_end(&graph);
}

/* ---- What cuDNN makes of them ---- */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void plan(const cavmae__cudnn_library *cudnn, const char *device, cavmae__cudnn_shape shape, int composite) {
    static cavmae__cudnn_graph graph;
    const double start = seconds();
    const cavmae_status status = cavmae__cudnn_attention_plan(&graph, cudnn, NULL, device, &shape, composite);
    const int64_t bytes = status == CAVMAE_OK ? cavmae__cudnn_attention_bytes(&graph, &shape) : 0;
    printf("%s%s of %lld x %lld rows, %lld heads of %lld: %d plans, %lld bytes of workspace, %.1f s %s\n",
           shape.backward ? "back" : "forward", composite && !shape.backward ? ", composite," : "",
           (long long)shape.count, (long long)shape.length, (long long)shape.heads, (long long)shape.head_dim,
           graph.plans, (long long)bytes, seconds() - start, graph.why);
    CHECK(status == CAVMAE_OK);
    CHECK(graph.plans > 0);
    /* A fixed order of sums costs all scores in memory, in tiles of 128 at most; forward keeps nothing. */
    const int64_t tiles = (shape.length + 127) / 128 * 128;
    CHECK(bytes <= (shape.backward ? shape.count * shape.heads * tiles * tiles * 2 : 0) + (16 << 20));
    cavmae__cudnn_graph_end(&graph);
}

static void test_plans(const char *file) {
    static const cavmae__cudnn_shape shapes[] = {
        {.count = 64, .length = 128, .heads = 12, .head_dim = 64, .stats = 1}, /* sound, visible */
        {.count = 64, .length = 177, .heads = 12, .head_dim = 64, .stats = 1}, /* both */
        {.count = 64, .length = 708, .heads = 16, .head_dim = 32, .stats = 1}, /* decoder */
        {.count = 64, .length = 49, .heads = 12, .head_dim = 64, .stats = 1},  /* picture, visible: going back alone */
    };
    static char device[4096];
    char why[400] = "";
    cavmae__cudnn_library cudnn;
    FILE *json = fopen(file, "r");
    if (!CHECK(json != NULL)) return;
    device[fread(device, 1, sizeof device - 1, json)] = 0;
    fclose(json);
    if (!CHECK(cavmae__cudnn_library_open(&cudnn, why, sizeof why) == CAVMAE_OK)) {
        printf("%s\n", why);
        return;
    }
    printf("cuDNN %d\n", cudnn.version);
    for (int i = 0; i < 4; i++) {
        cavmae__cudnn_shape shape = shapes[i];
        if (i < 3) plan(&cudnn, device, shape, cudnn.version >= 92100);
        shape.backward = 1;
        plan(&cudnn, device, shape, 0);
    }
    plan(&cudnn, device, shapes[2], 1);
    cavmae__cudnn_library_close(&cudnn);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        test_plans(argv[1]);
        return check_summary("cudnn_plans");
    }
    test_graphs();
    test_failures();
    return check_summary("cudnn_graphs");
}
