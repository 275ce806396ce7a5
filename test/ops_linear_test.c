/* linear and linear_grad against float64 and differences. */
#include "ops.h"

typedef struct shape {
    int64_t rows;
    int32_t in, out;
} shape;

static const shape shapes[] = {{1, 4, 4},    {3, 20, 24},    {49, 24, 72},  {131, 40, 20},
                               {7, 72, 200}, {197, 300, 40}, {2, 600, 130}, {400, 33, 17}};
enum { SHAPES = (int)(sizeof shapes / sizeof shapes[0]) };

static double gelu(double x) { return x * 0.5 * erfc(-x / sqrt(2)); }

typedef struct linear_case {
    shape s;
    array x, weight, bias, residual, factor; /* loss = sum of factor times the output */
    int use_gelu;
} linear_case;

static void reference(const linear_case *c, int bias, int residual, double *y) {
    for (int64_t r = 0; r < c->s.rows; r++)
        for (int32_t o = 0; o < c->s.out; o++) {
            double sum = bias ? c->bias.value[o] : 0;
            for (int32_t i = 0; i < c->s.in; i++)
                sum += c->x.value[r * c->s.in + i] * c->weight.value[(int64_t)o * c->s.in + i];
            y[r * c->s.out + o] = sum + (residual ? c->residual.value[r * c->s.out + o] : 0);
        }
}

static cavmae__limits limits_of(shape s) {
    return (cavmae__limits){.rows = s.rows,
                            .width = s.in > s.out ? s.in : s.out,
                            .weight = (int64_t)s.in * s.out,
                            .clips = 1,
                            .tokens = 1,
                            .backward = 1};
}

static linear_case make_case(shape s, int32_t dtype) {
    linear_case c = {.s = s};
    c.x = make_input(s.rows * s.in, dtype, -1, 1);
    c.weight = make_input((int64_t)s.in * s.out, CAVMAE_FLOAT32, -0.3, 0.3);
    c.bias = make_input(s.out, CAVMAE_FLOAT32, -1, 1);
    c.residual = make_input(s.rows * s.out, CAVMAE_FLOAT32, -1, 1);
    return c;
}

static void free_case(linear_case *c) {
    free_array(&c->x);
    free_array(&c->weight);
    free_array(&c->bias);
    free_array(&c->residual);
}

static void test_forward(cavmae__backend *backend, shape s, int32_t x_dtype, int32_t y_dtype) {
    linear_case c = make_case(s, x_dtype);
    cavmae__limits limits = limits_of(s);
    workspace w = make_workspace(backend, &limits);
    array y = make_output(s.rows * s.out, y_dtype), g = make_output(s.rows * s.out, y_dtype);
    double *expected = calloc((size_t)y.count, sizeof *expected),
           tolerance = tolerance_of(x_dtype) + tolerance_of(y_dtype);
    cavmae__linear op = {.rows = s.rows,
                         .in = s.in,
                         .out = s.out,
                         .x_dtype = x_dtype,
                         .y_dtype = y_dtype,
                         .x = c.x.data,
                         .weight = c.weight.data,
                         .y = y.data,
                         .workspace = w.memory};
    reference(&c, 0, 0, expected);
    CHECK_OK(backend->ops->linear(backend, &op));
    CHECK_ARRAY(&y, expected, tolerance);

    op.bias = c.bias.data;
    op.gelu = g.data;
    reference(&c, 1, 0, expected);
    CHECK_OK(backend->ops->linear(backend, &op));
    CHECK_ARRAY(&y, expected, tolerance);
    for (int64_t i = 0; i < y.count; i++) expected[i] = gelu(expected[i]);
    CHECK_ARRAY(&g, expected, tolerance);
    array only = make_output(s.rows * s.out, y_dtype);
    op.y = NULL;
    op.gelu = only.data;
    CHECK_OK(backend->ops->linear(backend, &op));
    CHECK_SAME(&only, &g);

    if (y_dtype == CAVMAE_FLOAT32) { /* in place on the residual */
        memcpy(y.data, c.residual.data, (size_t)y.count * sizeof(float));
        op.y = y.data;
        op.residual = y.data;
        op.gelu = NULL;
        reference(&c, 1, 1, expected);
        CHECK_OK(backend->ops->linear(backend, &op));
        CHECK_ARRAY(&y, expected, tolerance);
    }
    free(expected);
    free_array(&y);
    free_array(&g);
    free_array(&only);
    free_workspace(&w);
    free_case(&c);
}

/* The layer before this one's: x = gelu(u) where there is a gelu_input u. */
typedef struct grad_case {
    linear_case c;
    array u;
} grad_case;

static double grad_loss(void *arg) {
    grad_case *g = arg;
    linear_case *c = &g->c;
    double loss = 0;
    if (g->u.data)
        for (int64_t i = 0; i < c->x.count; i++) c->x.value[i] = gelu(g->u.value[i]);
    for (int64_t r = 0; r < c->s.rows; r++)
        for (int32_t o = 0; o < c->s.out; o++) {
            double sum = c->bias.value[o];
            for (int32_t i = 0; i < c->s.in; i++)
                sum += c->x.value[r * c->s.in + i] * c->weight.value[(int64_t)o * c->s.in + i];
            loss += sum * c->factor.value[r * c->s.out + o];
        }
    return loss;
}

static void test_grad(cavmae__backend *backend, shape s, int32_t dtype, int with_gelu, int accumulate) {
    grad_case g = {.c = make_case(s, dtype)};
    linear_case *c = &g.c;
    cavmae__limits limits = limits_of(s);
    workspace w = make_workspace(backend, &limits);
    c->factor = make_input(s.rows * s.out, dtype, -1, 1);
    if (with_gelu) {
        g.u = make_input(s.rows * s.in, dtype, -3, 3);
        for (int64_t i = 0; i < g.u.count; i++) {
            write_element(c->x.data, dtype, i, (float)gelu(g.u.value[i]));
            c->x.value[i] = (double)read_element(c->x.data, dtype, i);
        }
    }
    array dx = make_output(s.rows * s.in, dtype);
    array dweight = make_input((int64_t)s.in * s.out, CAVMAE_FLOAT32, -1, 1),
          dbias = make_input(s.out, CAVMAE_FLOAT32, -1, 1);
    cavmae__linear_grad op = {.rows = s.rows,
                              .in = s.in,
                              .out = s.out,
                              .x_dtype = dtype,
                              .dy_dtype = dtype,
                              .dx_dtype = dtype,
                              .accumulate = accumulate,
                              .x = c->x.data,
                              .weight = c->weight.data,
                              .dy = c->factor.data,
                              .gelu_input = g.u.data,
                              .dx = dx.data,
                              .dweight = dweight.data,
                              .dbias = dbias.data,
                              .workspace = w.memory};
    CHECK_OK(backend->ops->linear_grad(backend, &op));
    double tolerance = dtype == CAVMAE_BFLOAT16 ? 1e-2 : 3e-6;
    CHECK_GRADIENT(&dx, g.u.data ? g.u.value : c->x.value, grad_loss, &g, tolerance);
    CHECK_GRADIENT_ADDED(&dweight, c->weight.value, accumulate ? dweight.value : NULL, grad_loss, &g, tolerance);
    CHECK_GRADIENT_ADDED(&dbias, c->bias.value, accumulate ? dbias.value : NULL, grad_loss, &g, tolerance);

    /* Each alone gives the same bits. */
    array alone = make_output(s.rows * s.in, dtype);
    op.dx = alone.data;
    op.dweight = op.dbias = NULL;
    CHECK_OK(backend->ops->linear_grad(backend, &op));
    CHECK_SAME(&alone, &dx);
    if (!accumulate) {
        array bias_alone = make_output(s.out, CAVMAE_FLOAT32);
        op.dx = NULL;
        op.dbias = bias_alone.data;
        CHECK_OK(backend->ops->linear_grad(backend, &op));
        CHECK_SAME(&bias_alone, &dbias);
        free_array(&bias_alone);
    }
    free_array(&alone);
    free_array(&dx);
    free_array(&dweight);
    free_array(&dbias);
    free_array(&c->factor);
    if (g.u.data) free_array(&g.u);
    free_workspace(&w);
    free_case(c);
}

static void test_linear(cavmae__backend *backend) {
    for (int i = 0; i < SHAPES; i++) {
        for (int dtypes = 0; dtypes < 4; dtypes++)
            test_forward(backend, shapes[i], dtypes & 1 ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32,
                         dtypes & 2 ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32);
        test_grad(backend, shapes[i], CAVMAE_FLOAT32, i % 2, i % 3 == 0);
        test_grad(backend, shapes[i], CAVMAE_BFLOAT16, i % 2 == 0, i % 3 == 0);
    }
}

/* A row's result has the same bits wherever it stands, and whatever stands beside it. */
static void test_company(cavmae__backend *backend, int32_t dtype, int32_t in, int32_t out) {
    enum { ROWS = 300 };
    linear_case c = make_case((shape){ROWS, in, out}, dtype);
    cavmae__limits limits = limits_of(c.s);
    workspace w = make_workspace(backend, &limits);
    array all = make_output((int64_t)ROWS * out, CAVMAE_FLOAT32),
          few = make_output((int64_t)ROWS * out, CAVMAE_FLOAT32);
    array dx_all = make_output((int64_t)ROWS * in, CAVMAE_FLOAT32),
          dx_few = make_output((int64_t)ROWS * in, CAVMAE_FLOAT32);
    c.factor = make_input((int64_t)ROWS * out, dtype, -1, 1);
    cavmae__linear op = {.rows = ROWS,
                         .in = in,
                         .out = out,
                         .x_dtype = dtype,
                         .y_dtype = CAVMAE_FLOAT32,
                         .x = c.x.data,
                         .weight = c.weight.data,
                         .bias = c.bias.data,
                         .y = all.data,
                         .workspace = w.memory};
    cavmae__linear_grad grad = {.rows = ROWS,
                                .in = in,
                                .out = out,
                                .x_dtype = dtype,
                                .dy_dtype = dtype,
                                .dx_dtype = CAVMAE_FLOAT32,
                                .weight = c.weight.data,
                                .dy = c.factor.data,
                                .dx = dx_all.data,
                                .workspace = w.memory};
    CHECK_OK(backend->ops->linear(backend, &op));
    CHECK_OK(backend->ops->linear_grad(backend, &grad));
    int same = 1;
    for (int64_t rows = 1; rows <= ROWS; rows += rows < 140 ? 1 : 13) {
        int64_t first = (int64_t)(next_random() % (uint32_t)(ROWS - rows + 1));
        op.rows = grad.rows = rows;
        op.x = (char *)c.x.data + (size_t)(first * in) * element_size(dtype);
        op.y = few.data;
        grad.dy = (char *)c.factor.data + (size_t)(first * out) * element_size(dtype);
        grad.dx = dx_few.data;
        CHECK_OK(backend->ops->linear(backend, &op));
        CHECK_OK(backend->ops->linear_grad(backend, &grad));
        same &= memcmp(few.data, (float *)all.data + first * out, (size_t)(rows * out) * sizeof(float)) == 0;
        same &= memcmp(dx_few.data, (float *)dx_all.data + first * in, (size_t)(rows * in) * sizeof(float)) == 0;
    }
    CHECK(same);
    free_array(&all);
    free_array(&few);
    free_array(&dx_all);
    free_array(&dx_few);
    free_array(&c.factor);
    free_workspace(&w);
    free_case(&c);
}

static void test_companies(cavmae__backend *backend) {
    test_company(backend, CAVMAE_FLOAT32, 96, 100);
    test_company(backend, CAVMAE_BFLOAT16, 500, 72);
}

/* Every result of a large layer, forward and backward, in one array: [y, dx, dweight, dbias]. */
static linear_case threads_case;

static array thread_results(cavmae__backend *backend) {
    linear_case *c = &threads_case;
    const shape s = c->s;
    cavmae__limits limits = limits_of(s);
    workspace w = make_workspace(backend, &limits);
    array all = make_output(s.rows * (s.in + s.out) + (int64_t)s.in * s.out + s.out, CAVMAE_FLOAT32);
    float *y = all.data, *dx = y + s.rows * s.out, *dweight = dx + s.rows * s.in,
          *dbias = dweight + (int64_t)s.in * s.out;
    cavmae__linear op = {.rows = s.rows,
                         .in = s.in,
                         .out = s.out,
                         .x_dtype = c->x.dtype,
                         .y_dtype = CAVMAE_FLOAT32,
                         .x = c->x.data,
                         .weight = c->weight.data,
                         .bias = c->bias.data,
                         .y = y,
                         .workspace = w.memory};
    cavmae__linear_grad grad = {.rows = s.rows,
                                .in = s.in,
                                .out = s.out,
                                .x_dtype = c->x.dtype,
                                .dy_dtype = c->factor.dtype,
                                .dx_dtype = CAVMAE_FLOAT32,
                                .x = c->x.data,
                                .weight = c->weight.data,
                                .dy = c->factor.data,
                                .dx = dx,
                                .dweight = dweight,
                                .dbias = dbias,
                                .workspace = w.memory};
    CHECK_OK(backend->ops->linear(backend, &op));
    CHECK_OK(backend->ops->linear_grad(backend, &grad));
    free_workspace(&w);
    return all;
}

static void test_threads(int32_t dtype) {
    threads_case = make_case((shape){700, 520, 300}, dtype);
    threads_case.factor = make_input(700 * 300, dtype, -1, 1);
    for_each_thread_count(thread_results);
    free_array(&threads_case.factor);
    free_case(&threads_case);
}

static void test_gelu(cavmae__backend *backend) {
    for (int i = 0; i < 4; i++) {
        array x = make_input(i < 2 ? 20001 : 3, i % 2 ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32, -8, 8);
        array y = make_output(x.count, x.dtype);
        const cavmae__gelu op = {.count = x.count, .dtype = x.dtype, .exact_gelu = i % 2, .x = x.data, .y = y.data};
        CHECK_OK(backend->ops->gelu(backend, &op));
        for (int64_t j = 0; j < x.count; j++) x.value[j] = gelu(x.value[j]);
        CHECK_ARRAY(&y, x.value, tolerance_of(x.dtype));
        free_array(&x);
        free_array(&y);
    }
}

int main(void) {
    for_each_isa(test_gelu);
    for_each_isa(test_linear);
    for_each_isa(test_companies);
    test_threads(CAVMAE_FLOAT32);
    test_threads(CAVMAE_BFLOAT16);
    return check_summary("ops_linear");
}
