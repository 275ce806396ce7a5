/* Gradients of a linear layer's weight and bias. A task makes one tile of dweight from all rows, in order; the tasks
 * of the first column of tiles add up dy's columns for dbias on the way. */
#include "linear_tiles.h"
#include "product.h"
#include "simd_ops.h"

typedef struct weight_grad {
    const cavmae__linear_grad *op;
    int64_t rows_each, columns_each, column_tasks;
} weight_grad;

/* Copies a block of a matrix, as float32: row by row with a distance of to_row. */
static void copy_block(const void *from, int bf16, int64_t row, int64_t rows, int64_t columns, float *to,
                       int64_t to_row) {
    for (int64_t i = 0; i < rows; i++) {
        if (bf16)
            CAVMAE__SIMD(widen)((const uint16_t *)from + i * row, columns, to + i * to_row);
        else
            memcpy(to + i * to_row, (const float *)from + i * row, (size_t)columns * sizeof *to);
    }
}

static const void *element(const void *p, int bf16, int64_t i) {
    return bf16 ? (const void *)((const uint16_t *)p + i) : (const void *)((const float *)p + i);
}

/* total += the sum of a block's rows. */
static void add_columns(const float *block, int64_t row, int64_t rows, int64_t columns, float *total) {
    for (int64_t j = 0; j < columns; j += VEC_WIDTH) {
        vec sum = {0};
        for (int64_t i = 0; i < rows; i++) sum += vec_load(block + i * row + j);
        vec_store(total + j, vec_load(total + j) + sum);
    }
}

static void store(const float *from, int64_t count, int accumulate, float *to) {
    if (!accumulate) {
        memcpy(to, from, (size_t)count * sizeof *to);
        return;
    }
    int64_t i = 0;
    for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store(to + i, vec_load(to + i) + vec_load(from + i));
    for (; i < count; i++) to[i] += from[i];
}

static void weight_task(void *arg, int64_t task, int32_t worker) {
    const weight_grad *w = arg;
    const cavmae__linear_grad *op = w->op;
    const int dy_bf16 = op->dy_dtype == CAVMAE_BFLOAT16, x_bf16 = op->x_dtype == CAVMAE_BFLOAT16;
    int64_t first = task / w->column_tasks * w->rows_each, column = task % w->column_tasks * w->columns_each;
    int64_t outs = cavmae__smaller(w->rows_each, op->out - first),
            ins = cavmae__smaller(w->columns_each, op->in - column);
    float *dy = (float *)op->workspace + worker * (int64_t)CAVMAE__GRAD_SCRATCH;
    float *x = dy + CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_ROWS, *sums = x + CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_COLUMNS;
    float *bias = sums + CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS;
    int want_bias = op->dbias && column == 0;

    if (op->rows == 0) memset(sums, 0, (size_t)(outs * CAVMAE__GRAD_COLUMNS) * sizeof *sums);
    memset(bias, 0, CAVMAE__GRAD_ROWS * sizeof *bias);
    for (int64_t r = 0; r < op->rows; r += CAVMAE__GRAD_DEPTH) {
        int64_t depth = cavmae__smaller(CAVMAE__GRAD_DEPTH, op->rows - r);
        copy_block(element(op->dy, dy_bf16, r * op->out + first), dy_bf16, op->out, depth, outs, dy, CAVMAE__GRAD_ROWS);
        if (want_bias) add_columns(dy, CAVMAE__GRAD_ROWS, depth, outs, bias);
        if (!op->dweight) continue;
        for (int64_t j = 0; j < ins; j += CAVMAE__PANEL)
            copy_block(element(op->x, x_bf16, r * op->in + column + j), x_bf16, op->in, depth,
                       cavmae__smaller(CAVMAE__PANEL, ins - j), x + j * CAVMAE__GRAD_DEPTH, CAVMAE__PANEL);
        cavmae__product product = {.m = outs,
                                   .n = cavmae__round_up(ins, VEC_WIDTH),
                                   .k = depth,
                                   .a = dy,
                                   .a_row = 1,
                                   .a_column = CAVMAE__GRAD_ROWS,
                                   .b = x,
                                   .b_row = CAVMAE__PANEL,
                                   .b_panel = CAVMAE__GRAD_DEPTH * CAVMAE__PANEL,
                                   .c = sums,
                                   .c_row = CAVMAE__GRAD_COLUMNS,
                                   .accumulate = r > 0};
        CAVMAE__SIMD(product)(&product);
    }
    if (op->dweight)
        for (int64_t i = 0; i < outs; i++)
            store(sums + i * CAVMAE__GRAD_COLUMNS, ins, op->accumulate, op->dweight + (first + i) * op->in + column);
    if (want_bias) store(bias, outs, op->accumulate, op->dbias + first);
}

void CAVMAE__SIMD(weight_grad)(cavmae__backend *backend, const cavmae__linear_grad *op) {
    const int64_t wanted = 4 * ((const cavmae__cpu_backend *)backend)->threads;
    weight_grad w = {.op = op, .rows_each = CAVMAE__GRAD_ROWS, .columns_each = CAVMAE__GRAD_COLUMNS};
    while (w.columns_each > 128 &&
           cavmae__blocks(op->out, w.rows_each) * cavmae__blocks(op->in, w.columns_each) < wanted) {
        w.columns_each /= 2;
        w.rows_each /= 2;
    }
    w.column_tasks = op->dweight ? cavmae__blocks(op->in, w.columns_each) : 1;
    cavmae__cpu_run(backend, cavmae__blocks(op->out, w.rows_each) * w.column_tasks,
                    (double)op->rows * op->out * (op->dweight ? op->in : 1) / VEC_WIDTH, weight_task, &w);
}
