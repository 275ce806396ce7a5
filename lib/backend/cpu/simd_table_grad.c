/* Sums of rows into the rows of a table: a task takes some columns and goes through all rows in order. A table of one
 * row is a long sum, taken by blocks of rows. */
#include "simd_ops.h"
#include "vec.h"

enum { COLUMNS_EACH = 2 * 16, BLOCK = 64 };

static const float *row_of(const cavmae__table_grad *op, int64_t k) {
    return op->dy + (op->row ? op->row[k] : k) * op->width;
}

static void sum_rows(const cavmae__table_grad *op, int64_t column, int64_t columns) {
    float total[COLUMNS_EACH] = {0};
    for (int64_t first = 0; first < op->count; first += BLOCK) {
        const int64_t end = cavmae__smaller(first + BLOCK, op->count);
        float sum[COLUMNS_EACH] = {0};
        for (int64_t k = first; k < end; k++) {
            if (op->index && op->index[k] < 0) continue;
            const float *dy = row_of(op, k) + column;
            for (int64_t j = 0; j < columns; j++) sum[j] += dy[j];
        }
        for (int64_t j = 0; j < columns; j++) total[j] += sum[j];
    }
    float *to = op->dtable + column;
    for (int64_t j = 0; j < columns; j++) to[j] = (op->accumulate ? to[j] : 0) + total[j];
}

static void scatter_rows(const cavmae__table_grad *op, int64_t column, int64_t columns) {
    if (!op->accumulate)
        for (int64_t t = 0; t < op->table_rows; t++)
            memset(op->dtable + t * op->width + column, 0, (size_t)columns * sizeof(float));
    for (int64_t k = 0; k < op->count; k++) {
        if (op->index[k] < 0) continue;
        const float *dy = row_of(op, k) + column;
        float *to = op->dtable + (int64_t)op->index[k] * op->width + column;
        for (int64_t j = 0; j < columns; j++) to[j] += dy[j];
    }
}

static void table_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__table_grad *op = arg;
    int64_t column = task * COLUMNS_EACH, columns = cavmae__smaller(COLUMNS_EACH, op->width - column);
    (void)worker;
    if (op->table_rows == 1)
        sum_rows(op, column, columns);
    else
        scatter_rows(op, column, columns);
}

cavmae_status CAVMAE__SIMD(table_grad)(cavmae__backend *backend, const cavmae__table_grad *op) {
    cavmae__table_grad call = *op;
    cavmae__cpu_run(backend, cavmae__blocks(op->width, COLUMNS_EACH), (double)op->count * op->width / VEC_WIDTH,
                    table_task, &call);
    return CAVMAE_OK;
}
