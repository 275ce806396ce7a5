/* y = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(variance + eps) with the biased variance, as torch's LayerNorm.
 * Backward, with n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)); dgamma = sum of dy n and
 * dbeta = sum of dy over a group's rows, by blocks of rows, whose sums are then added in order. */
#include "simd_ops.h"
#include "vec.h"

enum { ROWS_EACH = 32 };

typedef struct norm_grad {
    const cavmae__layernorm *op;
    int64_t first_block[5]; /* of each group; the last entry is their number */
} norm_grad;

static int group_of(const cavmae__layernorm *op, int64_t row) {
    int g = 0;
    while (row >= op->group[g].rows) row -= op->group[g++].rows;
    return g;
}

static int64_t rows_of(const cavmae__layernorm *op) {
    int64_t rows = 0;
    for (int g = 0; g < op->group_count; g++) rows += op->group[g].rows;
    return rows;
}

/* ---- Forward ---- */

VEC_INLINE void normalize_row(const cavmae__layernorm *op, const cavmae__norm_group *group, int64_t row, int bf16) {
    const int width = op->width, whole = width - width % VEC_WIDTH, part = width - whole;
    const float *x = op->x + row * width;
    vec sum = {0}, square = {0};
    for (int j = 0; j < whole; j += VEC_WIDTH) sum += vec_load(x + j);
    if (part) sum += vec_load_part(x + whole, part);
    const float mean = vec_sum(sum) / (float)width;
    for (int j = 0; j < whole; j += VEC_WIDTH) {
        vec d = vec_load(x + j) - mean;
        square += d * d;
    }
    float variance = vec_sum(square);
    for (int j = whole; j < width; j++) variance += (x[j] - mean) * (x[j] - mean);
    const float rstd = 1.0f / sqrtf(variance / (float)width + op->eps);
    for (int j = 0; j < whole; j += VEC_WIDTH) {
        vec y = (vec_load(x + j) - mean) * rstd * vec_load(group->gamma + j) + vec_load(group->beta + j);
        vec_store_as(op->y, row * width + j, y, bf16);
    }
    if (part) {
        vec y = (vec_load_part(x + whole, part) - mean) * rstd * vec_load_part(group->gamma + whole, part) +
                vec_load_part(group->beta + whole, part);
        vec_store_part_as(op->y, row * width + whole, y, part, bf16);
    }
    if (op->mean) op->mean[row] = mean;
    if (op->rstd) op->rstd[row] = rstd;
}

static void normalize_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__layernorm *op = arg;
    int64_t end = cavmae__smaller((task + 1) * ROWS_EACH, rows_of(op));
    (void)worker;
    for (int64_t row = task * ROWS_EACH; row < end; row++) {
        const cavmae__norm_group *group = &op->group[group_of(op, row)];
        if (op->y_dtype == CAVMAE_BFLOAT16)
            normalize_row(op, group, row, 1);
        else
            normalize_row(op, group, row, 0);
    }
}

cavmae_status CAVMAE__SIMD(layernorm)(cavmae__backend *backend, const cavmae__layernorm *op) {
    cavmae__layernorm call = *op;
    int64_t rows = rows_of(op);
    cavmae__cpu_run(backend, cavmae__blocks(rows, ROWS_EACH), (double)rows * op->width, normalize_task, &call);
    return CAVMAE_OK;
}

/* ---- Backward ---- */

VEC_INLINE void normalize_row_grad(const cavmae__layernorm *op, const float *gamma, int64_t row, float *dgamma,
                                   float *dbeta, int bf16) {
    const int width = op->width, whole = width - width % VEC_WIDTH, part = width - whole;
    const int64_t at = row * width;
    const float *x = op->x + at, mean = op->mean[row], rstd = op->rstd[row];
    vec sum = {0}, product = {0};
    for (int j = 0; j < whole; j += VEC_WIDTH) {
        vec n = (vec_load(x + j) - mean) * rstd, dy = vec_load_as(op->dy, at + j, bf16), g = dy * vec_load(gamma + j);
        sum += g;
        product += g * n;
        vec_store(dgamma + j, vec_load(dgamma + j) + dy * n);
        vec_store(dbeta + j, vec_load(dbeta + j) + dy);
    }
    if (part) { /* what lies beyond the row reads as 0, dy too */
        vec n = (vec_load_part(x + whole, part) - mean) * rstd, dy = vec_load_part_as(op->dy, at + whole, part, bf16);
        vec g = dy * vec_load_part(gamma + whole, part);
        sum += g;
        product += g * n;
        vec_store_part(dgamma + whole, vec_load_part(dgamma + whole, part) + dy * n, part);
        vec_store_part(dbeta + whole, vec_load_part(dbeta + whole, part) + dy, part);
    }
    const float mean_g = vec_sum(sum) / (float)width, mean_gn = vec_sum(product) / (float)width;
    for (int j = 0; j < whole; j += VEC_WIDTH) {
        vec n = (vec_load(x + j) - mean) * rstd, g = vec_load_as(op->dy, at + j, bf16) * vec_load(gamma + j);
        vec dx = (g - mean_g - n * mean_gn) * rstd;
        if (op->add) dx += vec_load(op->add + at + j);
        vec_store(op->dx + at + j, dx);
    }
    if (part) {
        vec n = (vec_load_part(x + whole, part) - mean) * rstd;
        vec g = vec_load_part_as(op->dy, at + whole, part, bf16) * vec_load_part(gamma + whole, part);
        vec dx = (g - mean_g - n * mean_gn) * rstd;
        if (op->add) dx += vec_load_part(op->add + at + whole, part);
        vec_store_part(op->dx + at + whole, dx, part);
    }
}

static void grad_task(void *arg, int64_t task, int32_t worker) {
    const norm_grad *n = arg;
    const cavmae__layernorm *op = n->op;
    int64_t row = 0;
    int g = 0;
    (void)worker;
    while (task >= n->first_block[g + 1]) row += op->group[g++].rows;
    int64_t end = row + op->group[g].rows;
    row += (task - n->first_block[g]) * CAVMAE__NORM_BLOCK;
    end = cavmae__smaller(end, row + CAVMAE__NORM_BLOCK);

    float *dgamma = (float *)op->workspace + task * 2 * op->width, *dbeta = dgamma + op->width;
    memset(dgamma, 0, 2 * (size_t)op->width * sizeof *dgamma);
    for (; row < end; row++) {
        if (op->y_dtype == CAVMAE_BFLOAT16)
            normalize_row_grad(op, op->group[g].gamma, row, dgamma, dbeta, 1);
        else
            normalize_row_grad(op, op->group[g].gamma, row, dgamma, dbeta, 0);
    }
}

/* The sums of one group's blocks. */
static void add_blocks(const cavmae__layernorm *op, const float *blocks, int64_t count,
                       const cavmae__norm_group *group) {
    const int width = op->width;
    for (int64_t b = 0; b < count; b++, blocks += 2 * width) {
        int keep = b > 0 || op->accumulate;
        for (int j = 0; j < width; j++) {
            group->dgamma[j] = (keep ? group->dgamma[j] : 0) + blocks[j];
            group->dbeta[j] = (keep ? group->dbeta[j] : 0) + blocks[width + j];
        }
    }
    if (count == 0 && !op->accumulate) {
        memset(group->dgamma, 0, (size_t)width * sizeof(float));
        memset(group->dbeta, 0, (size_t)width * sizeof(float));
    }
}

cavmae_status CAVMAE__SIMD(layernorm_grad)(cavmae__backend *backend, const cavmae__layernorm *op) {
    norm_grad n = {.op = op};
    for (int g = 0; g < op->group_count; g++)
        n.first_block[g + 1] = n.first_block[g] + cavmae__blocks(op->group[g].rows, CAVMAE__NORM_BLOCK);
    cavmae__cpu_run(backend, n.first_block[op->group_count], (double)rows_of(op) * op->width * 2, grad_task, &n);
    for (int g = 0; g < op->group_count; g++)
        add_blocks(op, (const float *)op->workspace + n.first_block[g] * 2 * op->width,
                   n.first_block[g + 1] - n.first_block[g], &op->group[g]);
    return CAVMAE_OK;
}
