/* Attention going back, one task for each head of a segment: the probabilities are computed again from lse, a block of
 * queries at a time; with dp = d_o v^T, ds = p (dp - rowsum(d_o o)):
 * dq = ds k / sqrt(head_dim), dk = ds^T q / sqrt(head_dim), dv = p^T d_o, the last two summed over queries in order. */
#include "attention_scratch.h"
#include "attention_head.h"
#include "product.h"
#include "simd_ops.h"

/* ds = p (dp - delta) over dp, p = e^(s - lse) over s; both rows are padded with zeros. */
static void scores_grad(float *s, float *dp, int64_t count, float lse, float delta) {
    const int64_t end = cavmae__round_up(count, VEC_WIDTH);
    for (int64_t j = count; j < end; j++) {
        s[j] = -INFINITY;
        dp[j] = 0.0f;
    }
    for (int64_t j = 0; j < end; j += VEC_WIDTH) {
        vec p = vec_exp(vec_load(s + j) - lse);
        vec_store(s + j, p);
        vec_store(dp + j, p * (vec_load(dp + j) - delta));
    }
}

static void grad_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__attention *op = arg;
    int64_t head = task % op->heads, segment = task / op->heads;
    int64_t start = op->segments.start_host[segment], length = op->segments.start_host[segment + 1] - start;
    const int64_t dim = op->head_dim, wide = cavmae__round_up(dim, VEC_WIDTH),
                  columns = cavmae__round_up(length, CAVMAE__PANEL);
    const int bf16 = op->dtype == CAVMAE_BFLOAT16;
    const float scale = 1.0f / sqrtf((float)dim);

    float *keys = (float *)op->workspace + worker * cavmae__attention_scratch(op->segments.longest, dim, 1);
    float *key_panels = keys + length * wide, *value_panels = key_panels + columns * dim;
    float *dk = value_panels + columns * dim, *dv = dk + length * wide;
    float *q = dv + length * wide, *d_o = q + CAVMAE__QUERY_BLOCK * wide, *o = d_o + CAVMAE__QUERY_BLOCK * wide;
    float *s = o + CAVMAE__QUERY_BLOCK * wide, *dp = s + CAVMAE__QUERY_BLOCK * columns,
          *dq = dp + CAVMAE__QUERY_BLOCK * columns;
    const head_rows query_rows = head_of(op, start, head, 0), key_rows = head_of(op, start, head, 1),
                    value_rows = head_of(op, start, head, 2);
    const int64_t first = start * op->heads * dim + head * dim;
    const head_rows o_rows = {op->o, bf16, op->heads * dim, first, dim},
                    d_o_rows = {op->d_o, bf16, op->heads * dim, first, dim};
    head_copy(&key_rows, 0, length, 1.0f, keys, wide);
    head_panels(&key_rows, length, key_panels);
    head_panels(&value_rows, length, value_panels);

    for (int64_t i = 0; i < length; i += CAVMAE__QUERY_BLOCK) {
        const int64_t count = cavmae__smaller(CAVMAE__QUERY_BLOCK, length - i);
        head_copy(&query_rows, i, count, scale, q, wide);
        head_copy(&d_o_rows, i, count, 1.0f, d_o, wide);
        head_copy(&o_rows, i, count, 1.0f, o, wide);
        cavmae__product scores = {.m = count,
                                  .n = cavmae__round_up(length, VEC_WIDTH),
                                  .k = dim,
                                  .a = q,
                                  .a_row = wide,
                                  .a_column = 1,
                                  .b = key_panels,
                                  .b_row = CAVMAE__PANEL,
                                  .b_panel = CAVMAE__PANEL * dim,
                                  .c = s,
                                  .c_row = columns};
        CAVMAE__SIMD(product)(&scores);
        scores.a = d_o;
        scores.b = value_panels;
        scores.c = dp;
        CAVMAE__SIMD(product)(&scores);
        for (int64_t r = 0; r < count; r++) {
            vec delta = {0};
            for (int64_t j = 0; j < wide; j += VEC_WIDTH)
                delta += vec_load(d_o + r * wide + j) * vec_load(o + r * wide + j);
            scores_grad(s + r * columns, dp + r * columns, length, op->lse[(start + i + r) * op->heads + head],
                        vec_sum(delta));
        }
        const cavmae__product ds_k = {.m = count,
                                      .n = wide,
                                      .k = length,
                                      .a = dp,
                                      .a_row = columns,
                                      .a_column = 1,
                                      .b = keys,
                                      .b_row = wide,
                                      .b_panel = CAVMAE__PANEL,
                                      .c = dq,
                                      .c_row = wide};
        CAVMAE__SIMD(product)(&ds_k);
        for (int64_t r = 0; r < count; r++) head_store(&query_rows, op->dqkv, i + r, dq + r * wide, scale);
        cavmae__product sums = {.m = length,
                                .n = wide,
                                .k = count,
                                .a = s,
                                .a_row = 1,
                                .a_column = columns,
                                .b = d_o,
                                .b_row = wide,
                                .b_panel = CAVMAE__PANEL,
                                .c = dv,
                                .c_row = wide,
                                .accumulate = i > 0};
        CAVMAE__SIMD(product)(&sums);
        sums.a = dp;
        sums.b = q;
        sums.c = dk;
        CAVMAE__SIMD(product)(&sums);
    }
    for (int64_t r = 0; r < length; r++) {
        head_store(&key_rows, op->dqkv, r, dk + r * wide, 1.0f);
        head_store(&value_rows, op->dqkv, r, dv + r * wide, 1.0f);
    }
}

cavmae_status CAVMAE__SIMD(attention_grad)(cavmae__backend *backend, const cavmae__attention *op) {
    cavmae__attention call = *op;
    if (op->segments.count == 0) return CAVMAE_OK;
    int64_t rows = op->segments.start_host[op->segments.count] - op->segments.start_host[0];
    cavmae__cpu_run(backend, (int64_t)op->segments.count * op->heads,
                    (double)rows * op->segments.longest * op->heads * op->head_dim * 5 / VEC_WIDTH, grad_task, &call);
    return CAVMAE_OK;
}
