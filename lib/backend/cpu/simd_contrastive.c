/* InfoNCE in float64: next to the layers before it the work is nothing, and its loss is then exact. With p the softmax,
 * ds = (p - identity) / pairs; from there through the product and the division by the norm.
 *
 * Own pairs are first .. first + count - 1. Their scores are two bands of the square of all pairs: `columns`, every audio
 * row with their visual ones, and `rows`, their audio rows with every visual one. Where both are there, the square that
 * the bands share is in both. */
#include <math.h>
#include <string.h>

#include "simd_ops.h"
#include "vec.h"

enum {
    LANES = VEC_WIDTH / 2,
    BLOCK_ROWS = 4,
    BLOCK_VECTORS = VEC_WIDTH >= 16 ? 4 : 2,
    BLOCK_COLUMNS = BLOCK_VECTORS * LANES
};

typedef double wide __attribute__((vector_size(8 * LANES)));
typedef double wide_memory __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

/* As torch.nn.functional.normalize. */
static const double smallest_norm = 1e-12;

typedef struct contrastive {
    const cavmae__contrastive *op;
    double *a, *v, *v_columns; /* normalised [total, width], and v transposed */
    double *norm_a, *norm_v;
    double *columns;    /* [total, count] scores, then ds; NULL in direction a2v */
    double *rows;       /* [count, total] likewise; NULL in direction v2a */
    double *loss, *hit; /* [2, count]: of each own column, then of each own row */
} contrastive;

static contrastive lay_out(const cavmae__contrastive *op) {
    const int64_t count = op->count, total = op->total, width = op->width;
    contrastive c = {.op = op, .a = op->workspace};
    c.v = c.a + total * width;
    c.v_columns = c.v + total * width;
    c.norm_a = c.v_columns + total * width;
    c.norm_v = c.norm_a + total;
    c.loss = c.norm_v + total;
    c.hit = c.loss + 2 * count;
    c.columns = c.rows = c.hit + 2 * count;
    if (op->direction == 0) c.rows = NULL;
    if (op->direction == 1) c.columns = NULL;
    if (op->direction == 2) c.rows += count * total;
    return c;
}

/* ---- Blocks of rows: own ones, and those before and after them, are in blocks of their own ---- */

typedef struct block {
    int64_t first, rows;
    int own;
} block;

static int64_t count_blocks(const cavmae__contrastive *op) {
    return cavmae__blocks(op->first, BLOCK_ROWS) + cavmae__blocks(op->count, BLOCK_ROWS) +
           cavmae__blocks(op->total - op->first - op->count, BLOCK_ROWS);
}

static block find_block(const cavmae__contrastive *op, int64_t number) {
    const int64_t starts[] = {0, op->first, (int64_t)op->first + op->count, op->total};
    for (int part = 0;; part++) {
        const int64_t rows = starts[part + 1] - starts[part], blocks = cavmae__blocks(rows, BLOCK_ROWS);
        if (number < blocks)
            return (block){.first = starts[part] + number * BLOCK_ROWS,
                           .rows = cavmae__smaller(rows - number * BLOCK_ROWS, BLOCK_ROWS),
                           .own = part == 1};
        number -= blocks;
    }
}

/* ---- The product ---- */

/* Element (i, l) of a matrix is at x[i * row + l * column]. */
typedef struct factor {
    const double *x;
    int64_t row, column;
} factor;

/* `rows` rows of c [.., n] = a b, where b's elements of a row are neighbours; every element is a sum in the order of k. */
VEC_INLINE void product_tile(int rows, int vectors, factor a, const double *b, int64_t b_row, int64_t k, double *c,
                             int64_t c_row) {
    wide sum[BLOCK_ROWS][BLOCK_VECTORS] = {{{0}}};
    for (int64_t l = 0; l < k; l++)
        for (int j = 0; j < vectors; j++) {
            const wide right = (wide) * (const wide_memory *)(b + l * b_row + j * LANES);
            for (int i = 0; i < rows; i++) sum[i][j] += a.x[i * a.row + l * a.column] * right;
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(wide_memory *)(c + i * c_row + j * LANES) = sum[i][j];
}

/* Columns that fill no vector. */
static void product_column(int64_t rows, factor a, const double *b, int64_t b_row, int64_t k, double *c,
                           int64_t c_row) {
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t l = 0; l < k; l++) sum += a.x[i * a.row + l * a.column] * b[l * b_row];
        c[i * c_row] = sum;
    }
}

static void product(int64_t rows, factor a, const double *b, int64_t b_row, int64_t k, int64_t n, double *c,
                    int64_t c_row) {
    int64_t j = 0;
    for (; j + BLOCK_COLUMNS <= n; j += BLOCK_COLUMNS) {
        if (rows == BLOCK_ROWS)
            product_tile(BLOCK_ROWS, BLOCK_VECTORS, a, b + j, b_row, k, c + j, c_row);
        else
            for (int64_t i = 0; i < rows; i++)
                product_tile(1, BLOCK_VECTORS, (factor){a.x + i * a.row, a.row, a.column}, b + j, b_row, k,
                             c + i * c_row + j, c_row);
    }
    for (; j + LANES <= n; j += LANES)
        for (int64_t i = 0; i < rows; i++)
            product_tile(1, 1, (factor){a.x + i * a.row, a.row, a.column}, b + j, b_row, k, c + i * c_row + j, c_row);
    for (; j < n; j++) product_column(rows, a, b + j, b_row, k, c + j, c_row);
}

/* ---- Scores ---- */

static double normalize(const float *x, int64_t width, double *to) {
    double square = 0;
    for (int64_t j = 0; j < width; j++) square += (double)x[j] * (double)x[j];
    const double norm = sqrt(square), divisor = norm > smallest_norm || norm != norm ? norm : smallest_norm;
    for (int64_t j = 0; j < width; j++) to[j] = (double)x[j] / divisor;
    return norm;
}

static void normalize_task(void *arg, int64_t i, int32_t worker) {
    const contrastive *c = arg;
    const int64_t total = c->op->total, width = c->op->width;
    (void)worker;
    c->norm_a[i] = normalize(c->op->a + i * width, width, c->a + i * width);
    c->norm_v[i] = normalize(c->op->v + i * width, width, c->v + i * width);
    for (int64_t j = 0; j < width; j++) c->v_columns[j * total + i] = c->v[i * width + j];
}

static void scores_task(void *arg, int64_t number, int32_t worker) {
    const contrastive *c = arg;
    const int64_t first = c->op->first, count = c->op->count, total = c->op->total, width = c->op->width;
    const block b = find_block(c->op, number);
    const factor a = {c->a + b.first * width, width, 1};
    const double temperature = c->op->temperature;
    (void)worker;
    if (c->rows && b.own) {
        double *s = c->rows + (b.first - first) * total;
        product(b.rows, a, c->v_columns, total, width, total, s, total);
        for (int64_t j = 0; j < b.rows * total; j++) s[j] /= temperature;
        for (int64_t i = 0; c->columns && i < b.rows; i++)
            memcpy(c->columns + (b.first + i) * count, s + i * total + first, (size_t)count * sizeof *s);
    } else if (c->columns) {
        double *s = c->columns + b.first * count;
        product(b.rows, a, c->v_columns + first, total, width, count, s, count);
        for (int64_t j = 0; j < b.rows * count; j++) s[j] /= temperature;
    }
}

/* ---- Softmax ---- */

/* Softmax of all scores of an own pair, `stride` apart, in place; the right one is number `right`. Gives the loss, whether
 * the right one was the first of the largest, and the exponentials, whose sum is returned. */
static double softmax(const contrastive *c, double *s, int64_t stride, int64_t right, double *loss, double *hit) {
    const int64_t total = c->op->total;
    int64_t largest = 0;
    double sum = 1; /* the largest itself */
    for (int64_t j = 1; j < total; j++)
        if (s[j * stride] > s[largest * stride]) largest = j;
    const double most = s[largest * stride], own = s[right * stride];
    for (int64_t j = 0; j < total; j++) {
        const double e = exp(s[j * stride] - most);
        s[j * stride] = e;
        if (j != largest) sum += e;
    }
    *loss = log(sum) + most - own;
    *hit = largest == right;
    return sum;
}

/* What a pair's loss counts for in the whole. */
static double share_of(const cavmae__contrastive *op) { return (op->direction == 2 ? 0.5 : 1.0) / (double)op->pairs; }

static void columns_task(void *arg, int64_t k, int32_t worker) {
    const contrastive *c = arg;
    const int64_t count = c->op->count, right = c->op->first + k;
    const double share = share_of(c->op);
    double *s = c->columns + k;
    (void)worker;
    const double sum = softmax(c, s, count, right, c->loss + k, c->hit + k);
    for (int64_t i = 0; i < c->op->total; i++) s[i * count] = share * (s[i * count] / sum - (i == right ? 1.0 : 0.0));
}

/* After the columns: what they gave to the square in both bands is added, here and there. */
static void rows_task(void *arg, int64_t k, int32_t worker) {
    const contrastive *c = arg;
    const int64_t first = c->op->first, count = c->op->count, total = c->op->total, right = first + k;
    const double share = share_of(c->op);
    double *s = c->rows + k * total, *shared = c->columns ? c->columns + right * count : NULL;
    (void)worker;
    const double sum = softmax(c, s, 1, right, c->loss + count + k, c->hit + count + k);
    for (int64_t j = 0; j < total; j++) {
        const int both = shared && j >= first && j < first + count;
        const double ds = (both ? shared[j - first] : 0) + share * (s[j] / sum - (j == right ? 1.0 : 0.0));
        s[j] = ds;
        if (both) shared[j - first] = ds;
    }
}

/* ---- Gradients ---- */

/* dx from the gradient g of x / max(norm, smallest). */
static void normalize_grad(const double *unit, double norm, const double *g, int64_t width, double scale, float *dx) {
    double along = 0;
    if (norm > smallest_norm)
        for (int64_t j = 0; j < width; j++) along += unit[j] * g[j];
    else
        norm = smallest_norm;
    for (int64_t j = 0; j < width; j++) dx[j] = (float)(scale / norm * (g[j] - along * unit[j]));
}

/* A block's gradients: ds times the other side's unit vectors `others`, `terms` of them. v_columns is not needed any more:
 * its rows, of `width`, hold the gradients of the unit vectors. */
static void block_grad(const contrastive *c, block b, factor ds, const double *others, int64_t terms,
                       const double *units, const double *norms, float *dx) {
    const int64_t width = c->op->width;
    double *g = c->v_columns + b.first * width;
    product(b.rows, ds, others, width, terms, width, g, width);
    for (int64_t i = 0; i < b.rows; i++)
        normalize_grad(units + (b.first + i) * width, norms[b.first + i], g + i * width, width,
                       c->op->weight / c->op->temperature, dx + (b.first + i) * width);
}

static void zero_grad(const contrastive *c, block b, float *dx) {
    memset(dx + b.first * c->op->width, 0, (size_t)(b.rows * c->op->width) * sizeof *dx);
}

static void audio_grad_task(void *arg, int64_t number, int32_t worker) {
    const contrastive *c = arg;
    const int64_t first = c->op->first, count = c->op->count, total = c->op->total;
    const block b = find_block(c->op, number);
    (void)worker;
    if (c->rows && b.own)
        block_grad(c, b, (factor){c->rows + (b.first - first) * total, total, 1}, c->v, total, c->a, c->norm_a,
                   c->op->da);
    else if (c->columns && count > 0)
        block_grad(c, b, (factor){c->columns + b.first * count, count, 1}, c->v + first * c->op->width, count, c->a,
                   c->norm_a, c->op->da);
    else
        zero_grad(c, b, c->op->da);
}

static void visual_grad_task(void *arg, int64_t number, int32_t worker) {
    const contrastive *c = arg;
    const int64_t first = c->op->first, count = c->op->count, total = c->op->total;
    const block b = find_block(c->op, number);
    (void)worker;
    if (c->columns && b.own)
        block_grad(c, b, (factor){c->columns + b.first - first, 1, count}, c->a, total, c->v, c->norm_v, c->op->dv);
    else if (c->rows && count > 0)
        block_grad(c, b, (factor){c->rows + b.first, 1, total}, c->a + first * c->op->width, count, c->v, c->norm_v,
                   c->op->dv);
    else
        zero_grad(c, b, c->op->dv);
}

/* ---- The whole ---- */

static double sum_of(const double *x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i];
    return sum;
}

/* Of a number that there is for each own column and each own row. */
static double mean_of(const cavmae__contrastive *op, const double *x) {
    const double pairs = (double)op->pairs;
    if (op->direction == 2) return (sum_of(x, op->count) / pairs + sum_of(x + op->count, op->count) / pairs) / 2;
    return sum_of(x + (op->direction == 1 ? op->count : 0), op->count) / pairs;
}

cavmae_status CAVMAE__SIMD(contrastive)(cavmae__backend *backend, const cavmae__contrastive *op) {
    contrastive c = lay_out(op);
    const int64_t count = op->count, total = op->total, blocks = count_blocks(op);
    const double each = (double)total * op->width / 4, scores = (double)count * (double)total;
    cavmae__cpu_run(backend, total, each * 4, normalize_task, &c);
    cavmae__cpu_run(backend, blocks, each * (double)count, scores_task, &c);
    if (c.columns) cavmae__cpu_run(backend, count, scores * 20, columns_task, &c);
    if (c.rows) cavmae__cpu_run(backend, count, scores * 20, rows_task, &c);
    if (op->da) {
        cavmae__cpu_run(backend, blocks, each * (double)count, audio_grad_task, &c);
        cavmae__cpu_run(backend, blocks, each * (double)count, visual_grad_task, &c);
    }
    *op->loss += mean_of(op, c.loss);
    *op->accuracy += mean_of(op, c.hit);
    return CAVMAE_OK;
}
