/* Gradients of a linear layer's weight and bias. A task makes one tile of dweight from all rows, in order; the tasks
 * of the first column of tiles add up dy's columns for dbias on the way. */
#include "linear_tiles.h"
#include "product.h"
#include "simd_ops.h"

typedef struct weight_grad {
    const cavmae__linear_grad *op;
    int64_t rows_each, columns_each, column_tasks;
    cavmae__bf16 *bf16;           /* NULL: float32 products */
    _Atomic cavmae_status status; /* of the bfloat16 products: the last that failed */
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

/* dweight's tile that starts at (first, column), and what belongs to it. */
typedef struct grad_tile {
    int64_t first, outs, column, ins;
    int want_bias;
} grad_tile;

static grad_tile tile_of(const weight_grad *w, int64_t task) {
    const cavmae__linear_grad *op = w->op;
    const int64_t first = task / w->column_tasks * w->rows_each, column = task % w->column_tasks * w->columns_each;
    return (grad_tile){first, cavmae__smaller(w->rows_each, op->out - first), column,
                       cavmae__smaller(w->columns_each, op->in - column), op->dbias && column == 0};
}

static void store_tile(const cavmae__linear_grad *op, const grad_tile *t, const float *sums) {
    for (int64_t i = 0; i < t->outs; i++)
        store(sums + i * CAVMAE__GRAD_COLUMNS, t->ins, op->accumulate,
              op->dweight + (t->first + i) * op->in + t->column);
}

static void weight_task(void *arg, int64_t task, int32_t worker) {
    const weight_grad *w = arg;
    const cavmae__linear_grad *op = w->op;
    const int dy_bf16 = op->dy_dtype == CAVMAE_BFLOAT16, x_bf16 = op->x_dtype == CAVMAE_BFLOAT16;
    const grad_tile t = tile_of(w, task);
    float *dy = (float *)op->workspace + worker * (int64_t)CAVMAE__GRAD_SCRATCH;
    float *x = dy + CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_ROWS, *sums = x + CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_COLUMNS;
    float *bias = sums + CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS;

    if (op->rows == 0) memset(sums, 0, (size_t)(t.outs * CAVMAE__GRAD_COLUMNS) * sizeof *sums);
    memset(bias, 0, CAVMAE__GRAD_ROWS * sizeof *bias);
    for (int64_t r = 0; r < op->rows; r += CAVMAE__GRAD_DEPTH) {
        const int64_t depth = cavmae__smaller(CAVMAE__GRAD_DEPTH, op->rows - r);
        copy_block(element(op->dy, dy_bf16, r * op->out + t.first), dy_bf16, op->out, depth, t.outs, dy,
                   CAVMAE__GRAD_ROWS);
        if (t.want_bias) add_columns(dy, CAVMAE__GRAD_ROWS, depth, t.outs, bias);
        if (!op->dweight) continue;
        for (int64_t j = 0; j < t.ins; j += CAVMAE__PANEL)
            copy_block(element(op->x, x_bf16, r * op->in + t.column + j), x_bf16, op->in, depth,
                       cavmae__smaller(CAVMAE__PANEL, t.ins - j), x + j * CAVMAE__GRAD_DEPTH, CAVMAE__PANEL);
        const cavmae__product product = {.m = t.outs,
                                         .n = cavmae__round_up(t.ins, VEC_WIDTH),
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
    if (op->dweight) store_tile(op, &t, sums);
    if (t.want_bias) store(bias, t.outs, op->accumulate, op->dbias + t.first);
}

/* ---- By oneDNN ---- */

/* `rows` rows of a matrix, and zeros up to a granule. */
static const uint16_t *pad_rows(const uint16_t *from, int64_t row, int64_t rows, int64_t columns, uint16_t *to) {
    memset(to, 0, (size_t)(CAVMAE__BF16_GRANULE * columns) * sizeof *to);
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * columns, from + i * row, (size_t)columns * sizeof *to);
    return to;
}

/* Sums of a tile over all rows: part by part, added in order. */
static cavmae_status multiply_bf16(const weight_grad *w, const grad_tile *t, float *sums, void *scratch) {
    const cavmae__linear_grad *op = w->op;
    float *part = scratch;
    uint16_t *dy_padded = (void *)(part + CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS);
    uint16_t *x_padded = dy_padded + CAVMAE__BF16_GRANULE * CAVMAE__GRAD_ROWS;
    for (int64_t r = 0, rows; r < op->rows; r += rows) {
        const int64_t k = cavmae__bf16_rows(op->rows - r, CAVMAE__BF16_GRAD_BLOCK);
        rows = cavmae__smaller(k, op->rows - r);
        cavmae__bf16_product product = {.m = t->outs,
                                        .n = t->ins,
                                        .k = k,
                                        .a = (const uint16_t *)op->dy + r * op->out + t->first,
                                        .b = (const uint16_t *)op->x + r * op->in + t->column,
                                        .c = r > 0 ? part : sums,
                                        .a_row = op->out,
                                        .b_row = op->in,
                                        .c_row = CAVMAE__GRAD_COLUMNS,
                                        .a_transposed = 1};
        if (rows < k) {
            product.a = pad_rows(product.a, op->out, rows, t->outs, dy_padded);
            product.b = pad_rows(product.b, op->in, rows, t->ins, x_padded);
            product.a_row = t->outs;
            product.b_row = t->ins;
        }
        CAVMAE__TRY(cavmae__bf16_multiply(w->bf16, &product, x_padded + CAVMAE__BF16_GRANULE * CAVMAE__GRAD_COLUMNS));
        for (int64_t i = 0; r > 0 && i < t->outs; i++)
            store(part + i * CAVMAE__GRAD_COLUMNS, t->ins, 1, sums + i * CAVMAE__GRAD_COLUMNS);
    }
    return CAVMAE_OK;
}

static void bf16_task(void *arg, int64_t task, int32_t worker) {
    weight_grad *w = arg;
    const cavmae__linear_grad *op = w->op;
    const grad_tile t = tile_of(w, task);
    float *dy = (void *)((char *)op->workspace + worker * (int64_t)CAVMAE__BF16_GRAD_SCRATCH);
    float *bias = dy + CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_ROWS, *sums = bias + CAVMAE__GRAD_ROWS;
    if (t.want_bias) {
        memset(bias, 0, CAVMAE__GRAD_ROWS * sizeof *bias);
        for (int64_t r = 0; r < op->rows; r += CAVMAE__GRAD_DEPTH) {
            const int64_t depth = cavmae__smaller(CAVMAE__GRAD_DEPTH, op->rows - r);
            copy_block(element(op->dy, 1, r * op->out + t.first), 1, op->out, depth, t.outs, dy, CAVMAE__GRAD_ROWS);
            add_columns(dy, CAVMAE__GRAD_ROWS, depth, t.outs, bias);
        }
        store(bias, t.outs, op->accumulate, op->dbias + t.first);
    }
    const cavmae_status status = multiply_bf16(w, &t, sums, sums + CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS);
    if (status == CAVMAE_OK)
        store_tile(op, &t, sums);
    else
        w->status = status;
}

/* oneDNN's bits depend on the size of a product: its tiles are the same for any number of threads. */
cavmae_status CAVMAE__SIMD(weight_grad)(cavmae__backend *backend, const cavmae__linear_grad *op) {
    const cavmae__cpu_backend *cpu = (const cavmae__cpu_backend *)backend;
    const int64_t wanted = 4 * cpu->threads;
    weight_grad w = {.op = op, .rows_each = CAVMAE__GRAD_ROWS, .columns_each = CAVMAE__GRAD_COLUMNS};
    if (op->dweight && op->rows > 0 && op->dy_dtype == CAVMAE_BFLOAT16 && op->x_dtype == CAVMAE_BFLOAT16)
        w.bf16 = cpu->bf16;
    if (w.bf16) w.rows_each /= 2;
    while (!w.bf16 && w.columns_each > 96 &&
           cavmae__blocks(op->out, w.rows_each) * cavmae__blocks(op->in, w.columns_each) < wanted) {
        w.rows_each /= 2;
        w.columns_each /= 2;
    }
    w.column_tasks = op->dweight ? cavmae__blocks(op->in, w.columns_each) : 1;
    const int64_t tasks = cavmae__blocks(op->out, w.rows_each) * w.column_tasks;
    if (w.bf16)
        cavmae__parallel(backend->context, tasks, bf16_task, &w);
    else
        cavmae__cpu_run(backend, tasks, (double)op->rows * op->out * (op->dweight ? op->in : 1) / VEC_WIDTH,
                        weight_task, &w);
    return w.status == CAVMAE_OK ? CAVMAE_OK : cavmae__fail(w.status, "a bfloat16 product by oneDNN failed");
}
