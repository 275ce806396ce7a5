/* attention and attention_grad against float64 and differences. */
#include "ops.h"

enum { MOST_SEGMENTS = 5 };

typedef struct attention_case {
    int32_t heads, dim, segments, start[MOST_SEGMENTS + 1];
    array qkv, factor; /* loss = sum of factor times the output */
    double *o, *lse;
} attention_case;

static int64_t rows_of(const attention_case *c) { return c->start[c->segments]; }

static void reference(const attention_case *c) {
    const int64_t width = (int64_t)c->heads * c->dim;
    for (int32_t s = 0; s < c->segments; s++)
        for (int32_t h = 0; h < c->heads; h++)
            for (int64_t i = c->start[s]; i < c->start[s + 1]; i++) {
                const double *q = c->qkv.value + i * 3 * width + h * c->dim;
                double sum = 0, *o = c->o + i * width + h * c->dim;
                memset(o, 0, (size_t)c->dim * sizeof *o);
                for (int64_t j = c->start[s]; j < c->start[s + 1]; j++) {
                    const double *k = c->qkv.value + j * 3 * width + width + h * c->dim, *v = k + width;
                    double score = 0;
                    for (int32_t d = 0; d < c->dim; d++) score += q[d] * k[d];
                    const double e = exp(score / sqrt(c->dim));
                    sum += e;
                    for (int32_t d = 0; d < c->dim; d++) o[d] += e * v[d];
                }
                for (int32_t d = 0; d < c->dim; d++) o[d] /= sum;
                c->lse[i * c->heads + h] = log(sum);
            }
}

static double loss(void *arg) {
    const attention_case *c = arg;
    double sum = 0;
    reference(c);
    for (int64_t i = 0; i < c->factor.count; i++) sum += c->o[i] * c->factor.value[i];
    return sum;
}

static attention_case make_case(int32_t heads, int32_t dim, int32_t segments, const int32_t *lengths, int32_t dtype) {
    attention_case c = {.heads = heads, .dim = dim, .segments = segments};
    for (int32_t s = 0; s < segments; s++) c.start[s + 1] = c.start[s] + lengths[s];
    int64_t width = (int64_t)heads * dim, rows = rows_of(&c);
    c.qkv = make_input(rows * 3 * width, dtype, -2, 2);
    c.factor = make_input(rows * width, dtype, -1, 1);
    c.o = calloc((size_t)(rows * width), sizeof(double));
    c.lse = calloc((size_t)(rows * heads), sizeof(double));
    return c;
}

static void free_case(attention_case *c) {
    free_array(&c->qkv);
    free_array(&c->factor);
    free(c->o);
    free(c->lse);
}

static cavmae__attention make_op(const attention_case *c, const int32_t *start, int32_t segments) {
    cavmae__attention op = {.heads = c->heads, .head_dim = c->dim, .dtype = c->qkv.dtype, .qkv = c->qkv.data};
    op.segments = (cavmae__segments){.count = segments, .start_host = start, .start = start};
    for (int32_t s = 0; s < segments; s++)
        if (start[s + 1] - start[s] > op.segments.longest) op.segments.longest = start[s + 1] - start[s];
    return op;
}

static cavmae__limits limits_of(const cavmae__attention *op, int32_t backward) {
    int64_t rows = op->segments.start_host[op->segments.count];
    return (cavmae__limits){.rows = rows,
                            .width = 1,
                            .heads = op->heads,
                            .longest = op->segments.longest,
                            .head_dim = op->head_dim,
                            .clips = 1,
                            .tokens = 1,
                            .backward = backward};
}

static void test_case(cavmae__backend *backend, int32_t heads, int32_t dim, int32_t segments, const int32_t *lengths,
                      int32_t dtype) {
    attention_case c = make_case(heads, dim, segments, lengths, dtype);
    cavmae__attention op = make_op(&c, c.start, segments);
    const int64_t width = (int64_t)heads * dim, rows = rows_of(&c);
    array o = make_output(rows * width, dtype), lse = make_output(rows * heads, CAVMAE_FLOAT32),
          dqkv = make_output(rows * 3 * width, dtype);

    cavmae__limits forward = limits_of(&op, 0), backward = limits_of(&op, 1);
    workspace w = make_workspace(backend, &forward);
    op.o = o.data;
    op.workspace = w.memory;
    CHECK_OK(backend->ops->attention(backend, &op));
    array without_lse = o;
    o = make_output(rows * width, dtype);
    op.o = o.data;
    op.lse = lse.data;
    CHECK_OK(backend->ops->attention(backend, &op));
    CHECK_SAME(&o, &without_lse);
    reference(&c);
    CHECK_ARRAY(&o, c.o, tolerance_of(dtype));
    CHECK_ARRAY(&lse, c.lse, 1e-6);
    free_array(&without_lse);
    free_workspace(&w);

    w = make_workspace(backend, &backward);
    op.workspace = w.memory;
    op.d_o = c.factor.data;
    op.dqkv = dqkv.data;
    CHECK_OK(backend->ops->attention_grad(backend, &op));
    CHECK_GRADIENT(&dqkv, c.qkv.value, loss, &c, dtype == CAVMAE_BFLOAT16 ? 1.5e-2 : 1e-5);
    free_workspace(&w);
    free_array(&o);
    free_array(&lse);
    free_array(&dqkv);
    free_case(&c);
}

static void test_attention(cavmae__backend *backend) {
    static const int32_t dims[] = {4, 8, 10, 12, 20, 32, 64, 128}, mixed[] = {1, 49, 3, 20}, one[] = {131},
                         two[] = {64, 65};
    for (int i = 0; i < 8; i++) {
        test_case(backend, 2, dims[i], 4, mixed, CAVMAE_FLOAT32);
        test_case(backend, 3, dims[i], 4, mixed, CAVMAE_BFLOAT16);
    }
    test_case(backend, 1, 32, 1, one, CAVMAE_FLOAT32);
    test_case(backend, 1, 64, 2, two, CAVMAE_FLOAT32);
}

/* A segment's result has the same bits alone, and scores far from 0 do not overflow. */
static void test_company(cavmae__backend *backend) {
    static const int32_t lengths[] = {100, 1, 230, 57};
    attention_case c = make_case(3, 20, 4, lengths, CAVMAE_FLOAT32);
    for (int64_t i = 0; i < c.qkv.count; i++) ((float *)c.qkv.data)[i] *= 12;
    cavmae__attention op = make_op(&c, c.start, 4);
    const int64_t width = 60, rows = rows_of(&c);
    cavmae__limits limits = limits_of(&op, 1);
    workspace w = make_workspace(backend, &limits);
    array o = make_output(rows * width, CAVMAE_FLOAT32), lse = make_output(rows * 3, CAVMAE_FLOAT32);
    array dqkv = make_output(rows * 3 * width, CAVMAE_FLOAT32), alone = make_output(rows * 3 * width, CAVMAE_FLOAT32);
    op.workspace = w.memory;
    op.o = o.data;
    op.lse = lse.data;
    op.d_o = c.factor.data;
    op.dqkv = dqkv.data;
    CHECK_OK(backend->ops->attention(backend, &op));
    CHECK_OK(backend->ops->attention_grad(backend, &op));
    for (int64_t i = 0; i < o.count; i++) o.value[i] = (double)((float *)o.data)[i];
    CHECK_ARRAY(&o, o.value, 0); /* finite */
    for (int32_t s = 0; s < 4; s++) {
        const int64_t first = c.start[s], count = lengths[s];
        const int32_t start[] = {0, lengths[s]};
        cavmae__attention single = make_op(&c, start, 1);
        single.qkv = (float *)c.qkv.data + first * 3 * width;
        single.workspace = w.memory;
        single.o = alone.data;
        single.lse = lse.data;
        single.d_o = (float *)c.factor.data + first * width;
        CHECK_OK(backend->ops->attention(backend, &single));
        CHECK(memcmp(alone.data, (float *)o.data + first * width, (size_t)(count * width) * sizeof(float)) == 0);
        array d = make_output(count * 3 * width, CAVMAE_FLOAT32);
        single.dqkv = d.data;
        CHECK_OK(backend->ops->attention_grad(backend, &single));
        CHECK(memcmp(d.data, (float *)dqkv.data + first * 3 * width, (size_t)(count * 3 * width) * sizeof(float)) == 0);
        free_array(&d);
    }
    free_array(&o);
    free_array(&lse);
    free_array(&dqkv);
    free_array(&alone);
    free_workspace(&w);
    free_case(&c);
}

static attention_case threads_case;

/* [o, dqkv] */
static array thread_results(cavmae__backend *backend) {
    const attention_case *c = &threads_case;
    cavmae__attention op = make_op(c, c->start, c->segments);
    const int64_t width = (int64_t)c->heads * c->dim, rows = rows_of(c);
    cavmae__limits limits = limits_of(&op, 1);
    workspace w = make_workspace(backend, &limits);
    array all = make_output(rows * 4 * width, CAVMAE_FLOAT32), lse = make_output(rows * c->heads, CAVMAE_FLOAT32);
    op.workspace = w.memory;
    op.o = all.data;
    op.lse = lse.data;
    op.d_o = c->factor.data;
    op.dqkv = (float *)all.data + rows * width;
    CHECK_OK(backend->ops->attention(backend, &op));
    CHECK_OK(backend->ops->attention_grad(backend, &op));
    free_array(&lse);
    free_workspace(&w);
    return all;
}

int main(void) {
    static const int32_t lengths[] = {400, 33};
    for_each_isa(test_attention);
    for_each_isa(test_company);
    threads_case = make_case(2, 32, 2, lengths, CAVMAE_FLOAT32);
    for_each_thread_count(thread_results);
    free_case(&threads_case);
    return check_summary("ops_attention");
}
