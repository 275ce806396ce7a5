/* Linear layers: which product computes what, and in which types. Operands are of x's type: weights are rounded to
 * bfloat16 where x is, and dy is brought to x's type a chunk of rows at a time where it differs. */
#include "matmul.h"

#include <string.h>

/* ---- Workspace ---- */

/* The rows that are held in another type at a time take no more than this. */
static const size_t rows_cap = (size_t)64 << 20;

static size_t padded(size_t size) { return (size + 255) / 256 * 256; }

typedef struct scratch {
    void *weight;           /* bfloat16 or e4m3 */
    void *vector[2];        /* [out]: bias, its gradient; scales */
    void *sums;             /* of column_sums */
    char *rows;             /* dy or x in another type, and dx; its last part is left out */
    int64_t rows_at_a_time; /* rows of `row_bytes` that fit */
} scratch;

static scratch lay_out(void *workspace, int64_t rows, int32_t in, int32_t out, size_t row_bytes) {
    scratch s;
    char *at = workspace;
    s.weight = at;
    at += padded((size_t)in * (size_t)out * 2);
    for (int i = 0; i < 2; i++) {
        s.vector[i] = at;
        at += padded((size_t)out * sizeof(float));
    }
    s.sums = at;
    at += padded(cavmae__cuda_column_sums_workspace(rows, out));
    s.rows = at;
    const int64_t most = row_bytes ? (int64_t)(rows_cap / row_bytes) : rows;
    s.rows_at_a_time = most < rows ? most : rows;
    if (s.rows_at_a_time < 1) s.rows_at_a_time = 1;
    return s;
}

/* Monotonous in every limit, as lay_out's sizes are not quite: column sums take the most at a width of their strips. */
size_t cavmae__cuda_linear_workspace(const cavmae__limits *limits) {
    const size_t width = (size_t)limits->width, row_bytes = 8 * width + sizeof(float);
    const size_t all_rows = (size_t)limits->rows * row_bytes, cap = rows_cap > row_bytes ? rows_cap : row_bytes;
    size_t sums = cavmae__cuda_column_sums_workspace(limits->rows, limits->width);
    for (int32_t strips = 256; strips < limits->width; strips += 256) {
        const size_t size = cavmae__cuda_column_sums_workspace(limits->rows, strips);
        if (size > sums) sums = size;
    }
    return padded((size_t)limits->weight * 2) + 2 * padded(width * sizeof(float)) + padded(sums) +
           (all_rows < cap ? all_rows : cap) + 3 * 256;
}

static size_t size_of(int32_t dtype) { return dtype == CAVMAE_BFLOAT16 ? 2 : 4; }

static const void *rows_from(const void *x, int64_t row, int64_t width, int32_t dtype) {
    return x ? (const char *)x + (size_t)(row * width) * size_of(dtype) : NULL;
}

static void *rows_of(void *x, int64_t row, int64_t width, int32_t dtype) {
    return x ? (char *)x + (size_t)(row * width) * size_of(dtype) : NULL;
}

/* ---- Forward ---- */

static cavmae_status apply_gelu(cavmae__backend *backend, const void *x, void *y, int32_t dtype, int64_t count) {
    const cavmae__gelu gelu = {.count = count, .dtype = dtype, .exact_gelu = 1, .x = x, .y = y};
    return cavmae__cuda_gelu(backend, &gelu);
}

static cavmae_status convert(cavmae__backend *backend, const void *x, int32_t x_dtype, void *y, int32_t y_dtype,
                             int64_t count) {
    const cavmae__convert op = {.count = count, .x_dtype = x_dtype, .y_dtype = y_dtype, .x = x, .y = y};
    return cavmae__cuda_convert(backend, &op);
}

/* y and gelu from a product that still lacks where it goes; its m rows begin at `row` of the layer's. */
static cavmae_status forward_rows(cavmae__backend *backend, const cavmae__linear *op, cavmae__matmul *product,
                                  int64_t row) {
    void *y = rows_of(op->y, row, op->out, op->y_dtype), *gelu = rows_of(op->gelu, row, op->out, op->y_dtype);
    if (op->residual) {
        product->c = rows_from(op->residual, row, op->out, CAVMAE_FLOAT32);
        product->beta = 1;
    }
    product->d_dtype = op->y_dtype;
    product->d = y ? y : gelu;
    if (gelu && op->y_dtype == CAVMAE_BFLOAT16 && !op->exact_gelu) {
        product->d = gelu;
        product->aux = y;
        product->activation = CAVMAE__ACTIVATION_GELU;
        return cavmae__cuda_matmul(backend, product);
    }
    CAVMAE__TRY(cavmae__cuda_matmul(backend, product));
    return gelu ? apply_gelu(backend, product->d, gelu, op->y_dtype, product->m * op->out) : CAVMAE_OK;
}

/* float32 operands, bfloat16 results: through float32 rows in the workspace. */
static cavmae_status forward_narrowed(cavmae__backend *backend, const cavmae__linear *op, cavmae__matmul product) {
    const scratch s = lay_out(op->workspace, op->rows, op->in, op->out, (size_t)op->out * sizeof(float));
    product.d = s.rows;
    for (int64_t row = 0; row < op->rows; row += s.rows_at_a_time) {
        product.m = op->rows - row < s.rows_at_a_time ? op->rows - row : s.rows_at_a_time;
        product.a = rows_from(op->x, row, op->in, op->x_dtype);
        const int64_t count = product.m * op->out;
        CAVMAE__TRY(cavmae__cuda_matmul(backend, &product));
        if (op->y)
            CAVMAE__TRY(convert(backend, s.rows, CAVMAE_FLOAT32, rows_of(op->y, row, op->out, op->y_dtype), op->y_dtype,
                                count));
        if (!op->gelu) continue;
        CAVMAE__TRY(apply_gelu(backend, s.rows, s.rows, CAVMAE_FLOAT32, count));
        CAVMAE__TRY(
            convert(backend, s.rows, CAVMAE_FLOAT32, rows_of(op->gelu, row, op->out, op->y_dtype), op->y_dtype, count));
    }
    return CAVMAE_OK;
}

/* e4m3: x[r] / s[r] times W[o] / t[o], times s[r] t[o]. */
static cavmae_status forward_e4m3(cavmae__backend *backend, const cavmae__linear *op, cavmae__matmul product) {
    const size_t row_bytes = (size_t)op->in + sizeof(float);
    const scratch s = lay_out(op->workspace, op->rows, op->in, op->out, row_bytes);
    float *row_scale = (float *)(void *)(s.rows + padded((size_t)(s.rows_at_a_time * op->in)));
    float *weight_scale = s.vector[1];
    product.dtype = CAVMAE__E4M3;
    CAVMAE__TRY(cavmae__cuda_scale_rows(backend, op->weight, CAVMAE_FLOAT32, op->out, op->in, s.weight, weight_scale));
    if (op->bias) {
        CAVMAE__TRY(convert(backend, op->bias, CAVMAE_FLOAT32, s.vector[0], CAVMAE_BFLOAT16, op->out));
        product.bias = s.vector[0];
    }
    product.b = s.weight;
    product.b_scale = weight_scale;
    for (int64_t row = 0; row < op->rows; row += s.rows_at_a_time) {
        cavmae__matmul part = product;
        part.m = op->rows - row < s.rows_at_a_time ? op->rows - row : s.rows_at_a_time;
        CAVMAE__TRY(cavmae__cuda_scale_rows(backend, rows_from(op->x, row, op->in, op->x_dtype), op->x_dtype, part.m,
                                            op->in, s.rows, row_scale));
        part.a = s.rows;
        part.a_scale = row_scale;
        CAVMAE__TRY(forward_rows(backend, op, &part, row));
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__cuda_linear(cavmae__backend *backend, const cavmae__linear *op) {
    cavmae__matmul product = {.m = op->rows,
                              .n = op->out,
                              .k = op->in,
                              .b_transposed = 1,
                              .dtype = op->x_dtype,
                              .d_dtype = op->x_dtype,
                              .alpha = 1,
                              .a = op->x,
                              .b = op->weight,
                              .bias = op->bias};
    if (op->rows == 0) return CAVMAE_OK;
    if (op->x_dtype == CAVMAE_FLOAT32) {
        product.tf32 = op->matmul == CAVMAE__MATMUL_TF32;
        return op->y_dtype == CAVMAE_FLOAT32 ? forward_rows(backend, op, &product, 0)
                                             : forward_narrowed(backend, op, product);
    }
    if (op->matmul == CAVMAE__MATMUL_FP8 && op->in % 16 == 0 && op->out % 16 == 0)
        return forward_e4m3(backend, op, product);
    const scratch s = lay_out(op->workspace, op->rows, op->in, op->out, 0);
    const int narrow_bias = op->bias && op->y_dtype == CAVMAE_BFLOAT16; /* cuBLASLt: a bias is of d's type */
    CAVMAE__TRY(cavmae__cuda_narrow(backend, op->weight, s.weight, (int64_t)op->in * op->out,
                                    narrow_bias ? op->bias : NULL, s.vector[0], narrow_bias ? op->out : 0));
    product.b = s.weight;
    if (narrow_bias) product.bias = s.vector[0];
    return forward_rows(backend, op, &product, 0);
}

/* ---- Backward ---- */

/* Rows of the gradients: dy is the operands' type, `wide_dx` float32 scratch where dx cannot be written as it is. */
typedef struct grad_rows {
    int64_t row, count;
    const void *dy;
    void *wide_dx;
    int32_t add; /* to dweight and dbias */
    int32_t dbias_done;
} grad_rows;

/* dweight [out, in] = dy^T x, and dbias, which is dy^T times ones, in the same product. */
static cavmae_status weight_gradient(cavmae__backend *backend, const cavmae__linear_grad *op, const scratch *s,
                                     const grad_rows *rows) {
    float *dbias = rows->dbias_done ? NULL : op->dbias, *sums = dbias && rows->add ? s->vector[0] : dbias;
    const cavmae__matmul product = {.m = op->out,
                                    .n = op->in,
                                    .k = rows->count,
                                    .a_transposed = 1,
                                    .dtype = op->x_dtype,
                                    .d_dtype = CAVMAE_FLOAT32,
                                    .tf32 = op->x_dtype == CAVMAE_FLOAT32 && op->matmul == CAVMAE__MATMUL_TF32,
                                    .alpha = 1,
                                    .beta = rows->add ? 1 : 0,
                                    .a = rows->dy,
                                    .b = rows_from(op->x, rows->row, op->in, op->x_dtype),
                                    .d = op->dweight,
                                    .a_sums = sums,
                                    .scratch = s->sums};
    if (!op->dweight)
        return dbias ? cavmae__cuda_column_sums(backend, rows->dy, op->x_dtype, rows->count, op->out, NULL, dbias,
                                                rows->add, s->sums)
                     : CAVMAE_OK;
    CAVMAE__TRY(cavmae__cuda_matmul(backend, &product));
    return sums != dbias ? cavmae__cuda_add(backend, sums, dbias, op->out) : CAVMAE_OK;
}

/* dx = dy W, times gelu'(gelu_input). */
static cavmae_status input_gradient(cavmae__backend *backend, const cavmae__linear_grad *op, const void *weight,
                                    const grad_rows *rows) {
    void *dx = rows_of(op->dx, rows->row, op->in, op->dx_dtype);
    const void *gelu_input = rows_from(op->gelu_input, rows->row, op->in, op->dx_dtype);
    const int64_t count = rows->count * op->in;
    const int tanh_form =
        gelu_input && op->x_dtype == CAVMAE_BFLOAT16 && op->dx_dtype == CAVMAE_BFLOAT16 && !op->exact_gelu;
    cavmae__matmul product = {.m = rows->count,
                              .n = op->in,
                              .k = op->out,
                              .dtype = op->x_dtype,
                              .d_dtype = rows->wide_dx ? (int32_t)CAVMAE_FLOAT32 : op->dx_dtype,
                              .tf32 = op->x_dtype == CAVMAE_FLOAT32 && op->matmul == CAVMAE__MATMUL_TF32,
                              .alpha = 1,
                              .a = rows->dy,
                              .b = weight,
                              .d = rows->wide_dx ? rows->wide_dx : dx};
    if (tanh_form) {
        product.activation = CAVMAE__ACTIVATION_GELU_GRAD;
        memcpy(&product.aux, &gelu_input, sizeof product.aux); /* only read */
    }
    CAVMAE__TRY(cavmae__cuda_matmul(backend, &product));
    if (rows->wide_dx) CAVMAE__TRY(convert(backend, rows->wide_dx, CAVMAE_FLOAT32, dx, op->dx_dtype, count));
    return gelu_input && !tanh_form ? cavmae__cuda_gelu_grad(backend, gelu_input, dx, op->dx_dtype, count) : CAVMAE_OK;
}

/* dy's rows in the operands' type; where that makes them narrower, dbias in the same pass. */
static cavmae_status convert_dy(cavmae__backend *backend, const cavmae__linear_grad *op, const scratch *s,
                                grad_rows *rows) {
    const void *dy = rows_from(op->dy, rows->row, op->out, op->dy_dtype);
    rows->dy = s->rows;
    if (op->dbias && op->x_dtype == CAVMAE_BFLOAT16) {
        rows->dbias_done = 1;
        return cavmae__cuda_column_sums(backend, dy, op->dy_dtype, rows->count, op->out, s->rows, op->dbias, rows->add,
                                        s->sums);
    }
    return convert(backend, dy, op->dy_dtype, s->rows, op->x_dtype, rows->count * op->out);
}

static cavmae_status no_rows(cavmae__backend *backend, const cavmae__linear_grad *op) {
    if (op->accumulate) return CAVMAE_OK;
    if (op->dweight)
        CAVMAE__TRY(backend->ops->zero(backend, op->dweight, (size_t)op->in * (size_t)op->out * sizeof(float)));
    return op->dbias ? backend->ops->zero(backend, op->dbias, (size_t)op->out * sizeof(float)) : CAVMAE_OK;
}

cavmae_status cavmae__cuda_linear_grad(cavmae__backend *backend, const cavmae__linear_grad *op) {
    const int convert = op->dy_dtype != op->x_dtype;
    const int widen = op->dx && op->x_dtype == CAVMAE_FLOAT32 && op->dx_dtype != CAVMAE_FLOAT32;
    const size_t dy_bytes = convert ? (size_t)op->out * size_of(op->x_dtype) : 0;
    const size_t dx_bytes = widen ? (size_t)op->in * sizeof(float) : 0;
    const scratch s = lay_out(op->workspace, op->rows, op->in, op->out, dy_bytes + dx_bytes);
    const void *weight = op->weight;
    if (op->rows == 0) return no_rows(backend, op);
    if (op->dx && op->x_dtype == CAVMAE_BFLOAT16) {
        CAVMAE__TRY(cavmae__cuda_narrow(backend, op->weight, s.weight, (int64_t)op->in * op->out, NULL, NULL, 0));
        weight = s.weight;
    }
    for (int64_t row = 0; row < op->rows; row += s.rows_at_a_time) {
        grad_rows rows = {.row = row,
                          .count = op->rows - row < s.rows_at_a_time ? op->rows - row : s.rows_at_a_time,
                          .dy = rows_from(op->dy, row, op->out, op->dy_dtype),
                          .wide_dx = widen ? s.rows + padded((size_t)s.rows_at_a_time * dy_bytes) : NULL,
                          .add = op->accumulate || row > 0};
        if (convert) CAVMAE__TRY(convert_dy(backend, op, &s, &rows));
        CAVMAE__TRY(weight_gradient(backend, op, &s, &rows));
        if (op->dx) CAVMAE__TRY(input_gradient(backend, op, weight, &rows));
    }
    return CAVMAE_OK;
}
