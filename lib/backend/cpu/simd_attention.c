/* softmax(q k^T / sqrt(head_dim)) v for one head of one segment at a time: scores of a block of queries against all
 * keys lie in the cache between the two products; statistics are float32. */
#include "attention_scratch.h"
#include "attention_head.h"
#include "product.h"
#include "simd_ops.h"

typedef struct forward {
    const cavmae__attention *op;
    int64_t parts, queries_each; /* a long segment's queries may be shared out among tasks */
} forward;

static void forward_task(void *arg, int64_t task, int32_t worker) {
    const forward *f = arg;
    const cavmae__attention *op = f->op;
    int64_t part = task % f->parts, head = task / f->parts % op->heads, segment = task / f->parts / op->heads;
    int64_t start = op->segments.start_host[segment], length = op->segments.start_host[segment + 1] - start;
    int64_t first = part * f->queries_each, end = cavmae__smaller(first + f->queries_each, length);
    if (first >= end) return;

    const int64_t dim = op->head_dim, wide = cavmae__round_up(dim, VEC_WIDTH),
                  columns = cavmae__round_up(length, CAVMAE__PANEL);
    float *keys = (float *)op->workspace + worker * cavmae__attention_scratch(op->segments.longest, dim, 0);
    float *values = keys + columns * dim, *queries = values + length * wide;
    float *scores = queries + CAVMAE__QUERY_BLOCK * dim, *out = scores + CAVMAE__QUERY_BLOCK * columns;
    const head_rows q = head_of(op, start, head, 0), k = head_of(op, start, head, 1), v = head_of(op, start, head, 2);
    head_panels(&k, length, keys);
    head_copy(&v, 0, length, 1.0f, values, wide);

    for (int64_t i = first; i < end; i += CAVMAE__QUERY_BLOCK) {
        int64_t count = cavmae__smaller(CAVMAE__QUERY_BLOCK, end - i);
        head_copy(&q, i, count, 1.0f / sqrtf((float)dim), queries, dim);
        const cavmae__product qk = {.m = count,
                                    .n = cavmae__round_up(length, VEC_WIDTH),
                                    .k = dim,
                                    .a = queries,
                                    .a_row = dim,
                                    .a_column = 1,
                                    .b = keys,
                                    .b_row = CAVMAE__PANEL,
                                    .b_panel = CAVMAE__PANEL * dim,
                                    .c = scores,
                                    .c_row = columns};
        CAVMAE__SIMD(product)(&qk);
        float scale[CAVMAE__QUERY_BLOCK];
        for (int64_t r = 0; r < count; r++) {
            float *lse = op->lse ? op->lse + (start + i + r) * op->heads + head : NULL;
            scale[r] = 1.0f / softmax_row(scores + r * columns, length, lse);
        }
        const cavmae__product pv = {.m = count,
                                    .n = wide,
                                    .k = length,
                                    .a = scores,
                                    .a_row = columns,
                                    .a_column = 1,
                                    .b = values,
                                    .b_row = wide,
                                    .b_panel = CAVMAE__PANEL,
                                    .c = out,
                                    .c_row = wide};
        CAVMAE__SIMD(product)(&pv);
        const head_rows o = {op->o, op->dtype == CAVMAE_BFLOAT16, op->heads * dim,
                             (start + i) * op->heads * dim + head * dim, dim};
        for (int64_t r = 0; r < count; r++) head_store(&o, op->o, r, out + r * wide, scale[r]);
    }
}

cavmae_status CAVMAE__SIMD(attention)(cavmae__backend *backend, const cavmae__attention *op) {
    const int64_t threads = ((const cavmae__cpu_backend *)backend)->threads,
                  count = (int64_t)op->segments.count * op->heads;
    forward f = {.op = op, .parts = 1};
    if (op->segments.count == 0) return CAVMAE_OK;
    if (count < 4 * threads)
        f.parts = cavmae__smaller(cavmae__blocks(4 * threads, count),
                                  cavmae__blocks(op->segments.longest, 2 * CAVMAE__QUERY_BLOCK));
    f.parts = cavmae__larger(f.parts, 1);
    f.queries_each = cavmae__round_up(cavmae__blocks(op->segments.longest, f.parts), CAVMAE__QUERY_BLOCK);
    int64_t rows = op->segments.start_host[op->segments.count] - op->segments.start_host[0];
    cavmae__cpu_run(backend, count * f.parts,
                    (double)rows * op->segments.longest * op->heads * op->head_dim * 2 / VEC_WIDTH, forward_task, &f);
    return CAVMAE_OK;
}
