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
    /* What follows the product, for a tile of sums that starts at (row, column) of the result. */
    void (*follow)(const void *op, const float *sums, int64_t sums_row, int64_t row, int64_t rows, int64_t column,
                   int64_t columns);
    const void *op;
    cavmae__bf16 *bf16;           /* NULL: float32 products */
    _Atomic cavmae_status status; /* of the bfloat16 products: the last that failed */
} rows_product;

/* Where in the result a product's tiles belong. */
typedef struct place {
    const rows_product *p;
    int64_t row, column, sums_row;
} place;

static void finish(const void *arg, const float *tile, int64_t i, int64_t rows, int64_t j, int64_t columns) {
    const place *at = arg;
    const int64_t column = at->column + j;
    at->p->follow(at->p->op, tile, at->sums_row, at->row + i, rows, column,
                  cavmae__smaller(columns, at->p->columns - column));
}

/* Depth [from, from + depth) and columns [column, column + columns) of the weight. */
typedef struct block {
    int64_t from, depth, column, columns;
} block;

/* As panels padded with zeros. */
static void pack_weight(const rows_product *p, const block *b, float *packed) {
    for (int64_t j = 0; j < b->columns; j += CAVMAE__PANEL) {
        float *panel = packed + j * b->depth;
        const int64_t width = cavmae__smaller(b->columns - j, CAVMAE__PANEL);
        if (width < CAVMAE__PANEL) memset(panel, 0, (size_t)(b->depth * CAVMAE__PANEL) * sizeof *panel);
        if (p->transposed) {
            CAVMAE__SIMD(transpose)
            (p->weight + (b->column + j) * p->depth + b->from, p->depth, width, b->depth, panel, CAVMAE__PANEL);
            continue;
        }
        for (int64_t l = 0; l < b->depth; l++)
            memcpy(panel + l * CAVMAE__PANEL, p->weight + (b->from + l) * p->columns + b->column + j,
                   (size_t)width * sizeof *panel);
    }
}

/* All rows of the task times one block of the weight. */
static void multiply_block(const rows_product *p, const block *b, int64_t first_row, int64_t end_row, float *scratch) {
    float *packed = scratch, *wide = packed + CAVMAE__TILE_DEPTH * CAVMAE__TILE_COLUMNS,
          *sums = wide + CAVMAE__TILE_DEPTH * CAVMAE__TILE_ROWS;
    pack_weight(p, b, packed);
    for (int64_t r = first_row; r < end_row; r += CAVMAE__TILE_ROWS) {
        const int64_t rows = cavmae__smaller(CAVMAE__TILE_ROWS, end_row - r);
        const place at = {p, r, b->column, CAVMAE__TILE_COLUMNS};
        cavmae__product product = {.m = rows,
                                   .n = cavmae__round_up(b->columns, VEC_WIDTH),
                                   .k = b->depth,
                                   .a_column = 1,
                                   .b = packed,
                                   .b_row = CAVMAE__PANEL,
                                   .b_panel = b->depth * CAVMAE__PANEL,
                                   .c = sums + (r - first_row) * CAVMAE__TILE_COLUMNS,
                                   .c_row = CAVMAE__TILE_COLUMNS,
                                   .accumulate = b->from > 0,
                                   .finish = b->from + b->depth == p->depth ? finish : NULL,
                                   .finish_arg = &at};
        if (p->x_bf16) {
            for (int64_t i = 0; i < rows; i++) CAVMAE__SIMD(widen)
            ((const uint16_t *)p->x + (r + i) * p->depth + b->from, b->depth, wide + i * b->depth);
            product.a = wide;
            product.a_row = b->depth;
        } else {
            product.a = (const float *)p->x + r * p->depth + b->from;
            product.a_row = p->depth;
        }
        CAVMAE__SIMD(product)(&product);
    }
}

/* The same by oneDNN, with the weight rounded to bfloat16. */
static cavmae_status multiply_bf16(const rows_product *p, int64_t column, int64_t columns, int64_t first_row,
                                   int64_t end_row, void *scratch) {
    enum { FOLLOW_ROWS = 8 };
    const int64_t depth = p->depth, spaced = cavmae__round_up(depth, CAVMAE__BF16_GRANULE);
    uint16_t *weight = scratch, *padded = weight + spaced * CAVMAE__TILE_COLUMNS;
    float *sums = (void *)(padded + spaced * CAVMAE__BF16_GRANULE);
    if (p->transposed)
        CAVMAE__SIMD(narrow)(p->weight + column * depth, columns * depth, weight);
    else
        for (int64_t l = 0; l < depth; l++)
            CAVMAE__SIMD(narrow)(p->weight + l * p->columns + column, columns, weight + l * columns);
    for (int64_t r = first_row, rows; r < end_row; r += rows) {
        const int64_t m = cavmae__bf16_rows(end_row - r, CAVMAE__BF16_BLOCK);
        const uint16_t *x = (const uint16_t *)p->x + r * depth;
        rows = cavmae__smaller(m, end_row - r);
        if (rows < m) {
            memcpy(padded, x, (size_t)(rows * depth) * sizeof *x);
            memset(padded + rows * depth, 0, (size_t)((m - rows) * depth) * sizeof *x);
            x = padded;
        }
        const cavmae__bf16_product product = {.m = m,
                                              .n = columns,
                                              .k = depth,
                                              .a = x,
                                              .b = weight,
                                              .c = sums,
                                              .a_row = depth,
                                              .b_row = p->transposed ? depth : columns,
                                              .c_row = CAVMAE__TILE_COLUMNS,
                                              .b_transposed = p->transposed};
        CAVMAE__TRY(cavmae__bf16_multiply(p->bf16, &product, sums + CAVMAE__BF16_BLOCK * CAVMAE__TILE_COLUMNS));
        for (int64_t i = 0; i < rows; i += FOLLOW_ROWS)
            p->follow(p->op, sums + i * CAVMAE__TILE_COLUMNS, CAVMAE__TILE_COLUMNS, r + i,
                      cavmae__smaller(FOLLOW_ROWS, rows - i), column, columns);
    }
    return CAVMAE_OK;
}

static void bf16_task(void *arg, int64_t task, int32_t worker) {
    rows_product *p = arg;
    const int64_t first_column = task % p->column_tasks * p->columns_each,
                  first_row = task / p->column_tasks * p->rows_each;
    const int64_t end_column = cavmae__smaller(first_column + p->columns_each, p->columns);
    const int64_t end_row = cavmae__smaller(first_row + p->rows_each, p->rows);
    char *scratch = (char *)p->scratch + worker * cavmae__bf16_rows_scratch(p->depth);
    for (int64_t column = first_column; column < end_column; column += CAVMAE__TILE_COLUMNS) {
        cavmae_status status = multiply_bf16(p, column, cavmae__smaller(CAVMAE__TILE_COLUMNS, end_column - column),
                                             first_row, end_row, scratch);
        if (status != CAVMAE_OK) p->status = status;
    }
}

static void rows_task(void *arg, int64_t task, int32_t worker) {
    const rows_product *p = arg;
    const int64_t first_column = task % p->column_tasks * p->columns_each,
                  first_row = task / p->column_tasks * p->rows_each;
    const int64_t end_column = cavmae__smaller(first_column + p->columns_each, p->columns);
    const int64_t end_row = cavmae__smaller(first_row + p->rows_each, p->rows);
    float *scratch = p->scratch + worker * (int64_t)CAVMAE__ROWS_SCRATCH;
    for (int64_t column = first_column; column < end_column; column += CAVMAE__TILE_COLUMNS)
        for (int64_t from = 0; from < p->depth; from += CAVMAE__TILE_DEPTH) {
            const block b = {from, cavmae__smaller(CAVMAE__TILE_DEPTH, p->depth - from), column,
                             cavmae__smaller(CAVMAE__TILE_COLUMNS, end_column - column)};
            multiply_block(p, &b, first_row, end_row, scratch);
        }
}

/* Narrow column tasks where that keeps all threads busy, then fewer rows: packing is repeated for each group of rows.
 * oneDNN's bits depend on the columns of a product (not on its rows): they are always cut in the same places. */
static cavmae_status run_rows_product(cavmae__backend *backend, rows_product *p) {
    const cavmae__cpu_backend *cpu = (const cavmae__cpu_backend *)backend;
    const int64_t wanted = 4 * cpu->threads;
    int64_t row_tasks = cavmae__blocks(p->rows, CAVMAE__TASK_ROWS);
    if (p->x_bf16) p->bf16 = cpu->bf16;
    p->columns_each = cavmae__round_up(cavmae__blocks(p->columns, cavmae__blocks(wanted, row_tasks)),
                                       p->bf16 ? CAVMAE__TILE_COLUMNS : CAVMAE__TILE_COLUMNS / 2);
    p->column_tasks = cavmae__blocks(p->columns, p->columns_each);
    row_tasks = cavmae__larger(row_tasks, cavmae__smaller(cavmae__blocks(p->rows, CAVMAE__TILE_ROWS),
                                                          cavmae__blocks(wanted, p->column_tasks)));
    p->rows_each = cavmae__blocks(p->rows, row_tasks);
    row_tasks = cavmae__blocks(p->rows, p->rows_each);
    if (p->bf16)
        cavmae__parallel(backend->context, p->column_tasks * row_tasks, bf16_task, p);
    else
        cavmae__cpu_run(backend, p->column_tasks * row_tasks,
                        (double)p->rows * (double)p->depth * (double)p->columns / VEC_WIDTH, rows_task, p);
    return p->status == CAVMAE_OK ? CAVMAE_OK : cavmae__fail(p->status, "a bfloat16 product by oneDNN failed");
}

/* Asks for the lines that the next tile, `rows` further down, will write or read. */
VEC_INLINE void fetch_row(const void *p, int64_t i, int64_t columns, int64_t size, int write) {
    const char *at = (const char *)p + i * size;
    for (int64_t j = 0; j < columns * size; j += 64) {
        if (write)
            __builtin_prefetch(at + j, 1);
        else
            __builtin_prefetch(at + j, 0);
    }
}

/* ---- Forward ---- */

VEC_INLINE void follow_linear_as(const cavmae__linear *op, const float *sums, int64_t sums_row, int64_t row,
                                 int64_t rows, int64_t column, int64_t columns, int bf16) {
    for (int64_t i = 0; i < rows; i++, sums += sums_row) {
        const int64_t at = (row + i) * op->out + column, size = bf16 ? 2 : 4;
        if (op->y) fetch_row(op->y, at + rows * op->out, columns, size, 1);
        if (op->gelu) fetch_row(op->gelu, at + rows * op->out, columns, size, 1);
        if (op->residual) fetch_row(op->residual, at + rows * op->out, columns, size, 0);
        for (int64_t j = 0; j < columns; j += VEC_WIDTH) {
            int part = columns - j < VEC_WIDTH ? (int)(columns - j) : 0;
            vec y = vec_load(sums + j);
            if (op->bias) y += part ? vec_load_part(op->bias + column + j, part) : vec_load(op->bias + column + j);
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

static void follow_linear(const void *arg, const float *sums, int64_t sums_row, int64_t row, int64_t rows,
                          int64_t column, int64_t columns) {
    const cavmae__linear *op = arg;
    if (op->y_dtype == CAVMAE_BFLOAT16)
        follow_linear_as(op, sums, sums_row, row, rows, column, columns, 1);
    else
        follow_linear_as(op, sums, sums_row, row, rows, column, columns, 0);
}

cavmae_status CAVMAE__SIMD(linear)(cavmae__backend *backend, const cavmae__linear *op) {
    rows_product p = {.rows = op->rows,
                      .depth = op->in,
                      .columns = op->out,
                      .x = op->x,
                      .x_bf16 = op->x_dtype == CAVMAE_BFLOAT16,
                      .weight = op->weight,
                      .transposed = 1,
                      .scratch = op->workspace,
                      .follow = follow_linear,
                      .op = op};
    return op->rows > 0 ? run_rows_product(backend, &p) : CAVMAE_OK;
}

/* ---- Backward ---- */

VEC_INLINE void follow_grad_as(const cavmae__linear_grad *op, const float *sums, int64_t sums_row, int64_t row,
                               int64_t rows, int64_t column, int64_t columns, int bf16) {
    for (int64_t i = 0; i < rows; i++, sums += sums_row) {
        const int64_t at = (row + i) * op->in + column, size = bf16 ? 2 : 4;
        fetch_row(op->dx, at + rows * op->in, columns, size, 1);
        if (op->gelu_input) fetch_row(op->gelu_input, at + rows * op->in, columns, size, 0);
        for (int64_t j = 0; j < columns; j += VEC_WIDTH) {
            int part = columns - j < VEC_WIDTH ? (int)(columns - j) : 0;
            vec dx = vec_load(sums + j);
            if (op->gelu_input)
                dx *= vec_gelu_slope(part ? vec_load_part_as(op->gelu_input, at + j, part, bf16)
                                          : vec_load_as(op->gelu_input, at + j, bf16));
            if (part)
                vec_store_part_as(op->dx, at + j, dx, part, bf16);
            else
                vec_store_as(op->dx, at + j, dx, bf16);
        }
    }
}

static void follow_grad(const void *arg, const float *sums, int64_t sums_row, int64_t row, int64_t rows, int64_t column,
                        int64_t columns) {
    const cavmae__linear_grad *op = arg;
    if (op->dx_dtype == CAVMAE_BFLOAT16)
        follow_grad_as(op, sums, sums_row, row, rows, column, columns, 1);
    else
        follow_grad_as(op, sums, sums_row, row, rows, column, columns, 0);
}

cavmae_status CAVMAE__SIMD(linear_grad)(cavmae__backend *backend, const cavmae__linear_grad *op) {
    rows_product p = {.rows = op->rows,
                      .depth = op->out,
                      .columns = op->in,
                      .x = op->dy,
                      .x_bf16 = op->dy_dtype == CAVMAE_BFLOAT16,
                      .weight = op->weight,
                      .transposed = 0,
                      .scratch = op->workspace,
                      .follow = follow_grad,
                      .op = op};
    /* The weight's gradient first: dx may lie where x does. */
    if (op->dweight || op->dbias) CAVMAE__TRY(CAVMAE__SIMD(weight_grad)(backend, op));
    return op->dx && op->rows > 0 ? run_rows_product(backend, &p) : CAVMAE_OK;
}
