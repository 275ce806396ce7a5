/* Linear layers: y = x W^T and dx = dy W, with what follows applied while the tile is in the cache. */
#include "linear_tiles.h"
#include "product.h"
#include "simd_ops.h"

/* A product of rows with a matrix, in tasks of (columns, rows). */
typedef struct rows_product {
    int64_t rows, depth, columns;
    const void *x; /* [rows, depth] */
    int x_bf16;
    const float *weight;
    int transposed; /* 1: weight is [columns, depth], 0: [depth, columns] */
    int64_t columns_each, rows_each, column_tasks;
    float *scratch;
    void (*finish)(const void *op, const float *sums, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns);
    const void *op;
} rows_product;

/* The task's columns of the weight, as panels, padded with zeros. */
static void pack_weight(const rows_product *p, int64_t first, int64_t columns, float *packed) {
    const int64_t depth = p->depth;
    for (int64_t j = 0; j < columns; j += CAVMAE__PANEL) {
        float *panel = packed + j * depth;
        int64_t width = cavmae__smaller(columns - j, CAVMAE__PANEL);
        if (width < CAVMAE__PANEL) memset(panel, 0, (size_t)(depth * CAVMAE__PANEL) * sizeof *panel);
        if (p->transposed) {
            CAVMAE__SIMD(transpose)(p->weight + (first + j) * depth, depth, width, depth, panel, CAVMAE__PANEL);
        } else {
            const float *from = p->weight + first + j;
            for (int64_t l = 0; l < depth; l++)
                memcpy(panel + l * CAVMAE__PANEL, from + l * p->columns, (size_t)width * sizeof *panel);
        }
    }
}

static void rows_task(void *arg, int64_t task, int32_t worker) {
    const rows_product *p = arg;
    const int64_t depth = p->depth;
    int64_t first_column = task % p->column_tasks * p->columns_each, first_row = task / p->column_tasks * p->rows_each;
    int64_t columns = cavmae__smaller(p->columns_each, p->columns - first_column);
    int64_t end_row = cavmae__smaller(first_row + p->rows_each, p->rows);
    float *packed = p->scratch + worker * cavmae__rows_scratch(depth);
    float *wide = packed + depth * CAVMAE__TILE_COLUMNS, *sums = wide + depth * CAVMAE__TILE_ROWS;
    pack_weight(p, first_column, columns, packed);

    for (int64_t r = first_row; r < end_row; r += CAVMAE__TILE_ROWS) {
        int64_t rows = cavmae__smaller(CAVMAE__TILE_ROWS, end_row - r);
        const float *x = (const float *)p->x + r * depth;
        if (p->x_bf16) {
            CAVMAE__SIMD(widen)((const uint16_t *)p->x + r * depth, rows * depth, wide);
            x = wide;
        }
        for (int64_t l = 0; l < depth; l += CAVMAE__TILE_DEPTH) {
            cavmae__product product = {.m = rows, .n = cavmae__round_up(columns, VEC_WIDTH),
                                       .k = cavmae__smaller(CAVMAE__TILE_DEPTH, depth - l),
                                       .a = x + l, .a_row = depth, .a_column = 1,
                                       .b = packed + l * CAVMAE__PANEL, .b_row = CAVMAE__PANEL, .b_panel = depth * CAVMAE__PANEL,
                                       .c = sums, .c_row = CAVMAE__TILE_COLUMNS, .accumulate = l > 0};
            CAVMAE__SIMD(product)(&product);
        }
        p->finish(p->op, sums, r, rows, first_column, columns);
    }
}

/* Narrow column tasks where that keeps all threads busy, then fewer rows: packing is repeated for each group of rows. */
static void run_rows_product(cavmae__backend *backend, rows_product *p) {
    const int64_t wanted = 4 * ((const cavmae__cpu_backend *)backend)->threads;
    int64_t row_tasks = cavmae__larger(1, p->rows / 512);
    p->columns_each = CAVMAE__TILE_COLUMNS;
    while (p->columns_each > 64 && cavmae__blocks(p->columns, p->columns_each) * row_tasks < wanted) p->columns_each /= 2;
    p->column_tasks = cavmae__blocks(p->columns, p->columns_each);
    row_tasks = cavmae__smaller(cavmae__blocks(p->rows, 96), cavmae__blocks(wanted, p->column_tasks));
    p->rows_each = cavmae__blocks(p->rows, row_tasks);
    row_tasks = cavmae__blocks(p->rows, p->rows_each);
    cavmae__cpu_run(backend, p->column_tasks * row_tasks, (double)p->rows * (double)p->depth * (double)p->columns / VEC_WIDTH, rows_task, p);
}

/* ---- Forward ---- */

VEC_INLINE void finish_linear_as(const cavmae__linear *op, const float *sums, int64_t first_row, int64_t rows, int64_t first_column,
                                 int64_t columns, int bf16) {
    for (int64_t i = 0; i < rows; i++, sums += CAVMAE__TILE_COLUMNS) {
        const int64_t at = (first_row + i) * op->out + first_column;
        for (int64_t j = 0; j < columns; j += VEC_WIDTH) {
            int part = columns - j < VEC_WIDTH ? (int)(columns - j) : 0;
            vec y = vec_load(sums + j);
            if (op->bias) y += part ? vec_load_part(op->bias + first_column + j, part) : vec_load(op->bias + first_column + j);
            if (op->residual) y += part ? vec_load_part(op->residual + at + j, part) : vec_load(op->residual + at + j);
            if (part) {
                if (op->y) vec_store_part_as(op->y, at + j, y, part, bf16);
                if (op->gelu) vec_store_part_as(op->gelu, at + j, vec_gelu(y), part, bf16);
            } else {
                if (op->y) vec_store_as(op->y, at + j, y, bf16);
                if (op->gelu) vec_store_as(op->gelu, at + j, vec_gelu(y), bf16);
            }
        }
    }
}

static void finish_linear(const void *arg, const float *sums, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns) {
    const cavmae__linear *op = arg;
    if (op->y_dtype == CAVMAE_BFLOAT16)
        finish_linear_as(op, sums, first_row, rows, first_column, columns, 1);
    else
        finish_linear_as(op, sums, first_row, rows, first_column, columns, 0);
}

cavmae_status CAVMAE__SIMD(linear)(cavmae__backend *backend, const cavmae__linear *op) {
    rows_product p = {.rows = op->rows, .depth = op->in, .columns = op->out, .x = op->x, .x_bf16 = op->x_dtype == CAVMAE_BFLOAT16,
                      .weight = op->weight, .transposed = 1, .scratch = op->workspace, .finish = finish_linear, .op = op};
    if (op->rows > 0) run_rows_product(backend, &p);
    return CAVMAE_OK;
}

/* ---- Backward ---- */

VEC_INLINE void finish_grad_as(const cavmae__linear_grad *op, const float *sums, int64_t first_row, int64_t rows, int64_t first_column,
                               int64_t columns, int bf16) {
    for (int64_t i = 0; i < rows; i++, sums += CAVMAE__TILE_COLUMNS) {
        const int64_t at = (first_row + i) * op->in + first_column;
        for (int64_t j = 0; j < columns; j += VEC_WIDTH) {
            int part = columns - j < VEC_WIDTH ? (int)(columns - j) : 0;
            vec dx = vec_load(sums + j);
            if (op->gelu_input)
                dx *= vec_gelu_slope(part ? vec_load_part_as(op->gelu_input, at + j, part, bf16) : vec_load_as(op->gelu_input, at + j, bf16));
            if (part)
                vec_store_part_as(op->dx, at + j, dx, part, bf16);
            else
                vec_store_as(op->dx, at + j, dx, bf16);
        }
    }
}

static void finish_grad(const void *arg, const float *sums, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns) {
    const cavmae__linear_grad *op = arg;
    if (op->dx_dtype == CAVMAE_BFLOAT16)
        finish_grad_as(op, sums, first_row, rows, first_column, columns, 1);
    else
        finish_grad_as(op, sums, first_row, rows, first_column, columns, 0);
}

cavmae_status CAVMAE__SIMD(linear_grad)(cavmae__backend *backend, const cavmae__linear_grad *op) {
    rows_product p = {.rows = op->rows, .depth = op->out, .columns = op->in, .x = op->dy, .x_bf16 = op->dy_dtype == CAVMAE_BFLOAT16,
                      .weight = op->weight, .transposed = 0, .scratch = op->workspace, .finish = finish_grad, .op = op};
    /* The weight's gradient first: dx may lie where x does. */
    if (op->dweight || op->dbias) CAVMAE__SIMD(weight_grad)(backend, op);
    if (op->dx && op->rows > 0) run_rows_product(backend, &p);
    return CAVMAE_OK;
}
