/* linear and linear_grad on the device against the CPU's: types, shapes, forms of GELU, rough kinds of product. */
#include "compare.h"

enum { F = CAVMAE_FLOAT32, B = CAVMAE_BFLOAT16 };

typedef struct shape {
    int64_t rows;
    int32_t in, out;
} shape;

/* Small and odd ones, then those of the models. */
static const shape odd_shapes[] = {{1, 4, 4},     {3, 20, 24},  {31, 24, 72},  {65, 40, 20},  {7, 72, 200},
                                   {33, 300, 40}, {2, 600, 13}, {130, 33, 17}, {300, 12, 64}, {5, 70, 6}};
static const shape model_shapes[] = {{33, 768, 2304}, {64, 768, 768},  {17, 3072, 768}, {49, 768, 3072},
                                     {65, 512, 1536}, {177, 512, 512}, {31, 2048, 512}, {128, 512, 256},
                                     {66, 256, 768},  {7, 768, 527},   {1, 768, 5},     {40, 12, 768},
                                     {300, 512, 96}};
enum {
    ODD = (int)(sizeof odd_shapes / sizeof odd_shapes[0]),
    MODEL = (int)(sizeof model_shapes / sizeof model_shapes[0])
};

static cavmae__limits limits_of(shape s) {
    return (cavmae__limits){.rows = s.rows,
                            .width = s.in > s.out ? s.in : s.out,
                            .weight = (int64_t)s.in * s.out,
                            .clips = 1,
                            .tokens = 1,
                            .backward = 1};
}

static double worse(int32_t a, int32_t b) {
    return (a == B || b == B ? 6e-3 : 0) + 2e-6; /* a rounding to bfloat16, or sums in another order */
}

/* ---- Forward ---- */

typedef struct layer {
    shape s;
    twin x, weight, bias, residual;
} layer;

static layer make_layer(both *b, shape s, int32_t x_dtype) {
    const double size = 1.5 / sqrt((double)s.in);
    return (layer){.s = s,
                   .x = twin_input(b, s.rows * s.in, x_dtype, -1, 1),
                   .weight = twin_input(b, (int64_t)s.in * s.out, F, -size, size),
                   .bias = twin_input(b, s.out, F, -1, 1),
                   .residual = twin_input(b, s.rows * s.out, F, -1, 1)};
}

static void free_layer(both *b, layer *l) {
    twin_free(b, &l->x);
    twin_free(b, &l->weight);
    twin_free(b, &l->bias);
    twin_free(b, &l->residual);
}

/* NULL: not wanted. */
typedef struct forward {
    const twin *bias, *residual, *y, *gelu;
    int32_t y_dtype, matmul, exact_gelu;
} forward;

static cavmae__linear forward_op(both *b, const layer *l, const forward *f, int device) {
#define AT(t) ((t) ? device ? (t)->device : (t)->cpu : NULL)
    return (cavmae__linear){.rows = l->s.rows,
                            .in = l->s.in,
                            .out = l->s.out,
                            .x_dtype = l->x.dtype,
                            .y_dtype = f->y_dtype,
                            .matmul = f->matmul,
                            .exact_gelu = f->exact_gelu,
                            .x = AT(&l->x),
                            .weight = AT(&l->weight),
                            .bias = AT(f->bias),
                            .residual = AT(f->residual),
                            .y = AT(f->y),
                            .gelu = AT(f->gelu),
                            .workspace = device ? b->cuda_workspace : b->cpu_workspace};
}

static void run_device(both *b, const layer *l, const forward *f) {
    const cavmae__linear op = forward_op(b, l, f, 1);
    CHECK_OK(b->cuda->ops->linear(b->cuda, &op));
}

static void run_both(both *b, const layer *l, const forward *f) {
    const cavmae__linear op = forward_op(b, l, f, 0);
    CHECK_OK(b->cpu->ops->linear(b->cpu, &op));
    run_device(b, l, f);
}

static void test_forward(both *b, shape s, int32_t x_dtype, int32_t y_dtype) {
    const cavmae__limits limits = limits_of(s);
    layer l = make_layer(b, s, x_dtype);
    twin y = twin_output(b, s.rows * s.out, y_dtype), again = twin_output(b, y.count, y_dtype),
         gelu = twin_output(b, y.count, y_dtype), only = twin_output(b, y.count, y_dtype);
    const double tolerance = worse(x_dtype, y_dtype);
    both_workspace(b, &limits);
    run_both(b, &l, &(forward){.y = &y, .y_dtype = y_dtype});
    CHECK_TWIN(b, &y, tolerance);
    run_both(b, &l, &(forward){.y = &y, .bias = &l.bias, .y_dtype = y_dtype});
    CHECK_TWIN(b, &y, tolerance);
    run_device(b, &l, &(forward){.y = &again, .bias = &l.bias, .y_dtype = y_dtype});
    CHECK_DEVICE_SAME(b, &y, &again);
    for (int exact = 0; exact < 2; exact++) {
        const forward f = {.y = &y, .gelu = &gelu, .bias = &l.bias, .y_dtype = y_dtype, .exact_gelu = exact};
        forward alone = f;
        alone.y = NULL;
        alone.gelu = &only;
        run_both(b, &l, &f);
        CHECK_TWIN(b, &y, tolerance);
        CHECK_TWIN(b, &gelu, 2 * tolerance);
        run_both(b, &l, &alone);
        CHECK_TWIN(b, &only, 2 * tolerance);
    }
    run_both(b, &l, &(forward){.gelu = &gelu, .y_dtype = y_dtype}); /* without a bias */
    CHECK_TWIN(b, &gelu, 2 * tolerance);
    if (y_dtype == F) {
        run_both(b, &l, &(forward){.y = &y, .bias = &l.bias, .residual = &l.residual, .y_dtype = F});
        CHECK_TWIN(b, &y, tolerance);
        run_both(b, &l, &(forward){.y = &l.residual, .bias = &l.bias, .residual = &l.residual, .y_dtype = F});
        CHECK_TWIN(b, &l.residual, tolerance);
        CHECK_DEVICE_SAME(b, &l.residual, &y);
    }
    free_layer(b, &l);
    twin_free(b, &y);
    twin_free(b, &again);
    twin_free(b, &gelu);
    twin_free(b, &only);
}

/* ---- Backward ---- */

typedef struct gradient {
    twin x, weight, dy, gelu_input, dx, dweight, dbias;
} gradient;

static cavmae__linear_grad grad_op(both *b, shape s, const gradient *g, int gelu, int accumulate, int exact,
                                   int device) {
    return (cavmae__linear_grad){.rows = s.rows,
                                 .in = s.in,
                                 .out = s.out,
                                 .x_dtype = g->x.dtype,
                                 .dy_dtype = g->dy.dtype,
                                 .dx_dtype = g->dx.dtype,
                                 .accumulate = accumulate,
                                 .exact_gelu = exact,
                                 .x = AT(&g->x),
                                 .weight = AT(&g->weight),
                                 .dy = AT(&g->dy),
                                 .gelu_input = gelu ? AT(&g->gelu_input) : NULL,
                                 .dx = AT(&g->dx),
                                 .dweight = AT(&g->dweight),
                                 .dbias = AT(&g->dbias),
                                 .workspace = device ? b->cuda_workspace : b->cpu_workspace};
}

static gradient make_gradient(both *b, shape s, int32_t x_dtype, int32_t dy_dtype, int32_t dx_dtype) {
    return (gradient){.x = twin_input(b, s.rows * s.in, x_dtype, -1, 1),
                      .weight = twin_input(b, (int64_t)s.in * s.out, F, -0.1, 0.1),
                      .dy = twin_input(b, s.rows * s.out, dy_dtype, -1, 1),
                      .gelu_input = twin_input(b, s.rows * s.in, dx_dtype, -3, 3),
                      .dx = twin_output(b, s.rows * s.in, dx_dtype),
                      .dweight = twin_input(b, (int64_t)s.in * s.out, F, -1, 1),
                      .dbias = twin_input(b, s.out, F, -1, 1)};
}

static void free_gradient(both *b, gradient *g) {
    twin *const all[] = {&g->x, &g->weight, &g->dy, &g->gelu_input, &g->dx, &g->dweight, &g->dbias};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) twin_free(b, all[i]);
}

static void grad_both(both *b, const cavmae__linear_grad *cpu, const cavmae__linear_grad *device) {
    CHECK_OK(b->cpu->ops->linear_grad(b->cpu, cpu));
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, device));
}

static void test_grad(both *b, shape s, int32_t x_dtype, int32_t dy_dtype, int32_t dx_dtype, int gelu, int accumulate,
                      int exact) {
    const cavmae__limits limits = limits_of(s);
    gradient g = make_gradient(b, s, x_dtype, dy_dtype, dx_dtype);
    const double tolerance = worse(x_dtype, dx_dtype);
    both_workspace(b, &limits);
    cavmae__linear_grad cpu = grad_op(b, s, &g, gelu, accumulate, exact, 0),
                        device = grad_op(b, s, &g, gelu, accumulate, exact, 1);
    grad_both(b, &cpu, &device);
    CHECK_TWIN(b, &g.dx, 2 * tolerance);
    CHECK_TWIN(b, &g.dweight, tolerance);
    CHECK_TWIN(b, &g.dbias, tolerance);

    /* Each alone; and the same call gives the same bits. */
    twin dx = twin_output(b, g.dx.count, dx_dtype), first = twin_copy(b, &g.dweight), second = twin_copy(b, &g.dweight);
    twin sums = twin_copy(b, &g.dbias);
    cavmae__linear_grad one = device;
    one.dx = dx.device;
    one.dweight = NULL;
    one.dbias = NULL;
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &one));
    CHECK_DEVICE_SAME(b, &dx, &g.dx);
    one.dx = NULL;
    one.dweight = first.device;
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &one));
    one.dweight = second.device;
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &one));
    CHECK_DEVICE_SAME(b, &first, &second);
    one.dweight = NULL;
    one.dbias = sums.device;
    cpu.dx = NULL;
    cpu.dweight = NULL;
    cpu.dbias = sums.cpu;
    grad_both(b, &cpu, &one);
    CHECK_TWIN(b, &sums, tolerance);
    twin_free(b, &dx);
    twin_free(b, &first);
    twin_free(b, &second);
    twin_free(b, &sums);
    free_gradient(b, &g);
}

static void test_shapes(both *b) {
    for (int i = 0; i < ODD; i++)
        for (int dtypes = 0; dtypes < 8; dtypes++) {
            const int32_t x = dtypes & 1 ? B : F, y = dtypes & 2 ? B : F, z = dtypes & 4 ? B : F;
            if (dtypes < 4) test_forward(b, odd_shapes[i], x, y);
            test_grad(b, odd_shapes[i], x, y, z, (i + dtypes) % 2, (i / 2 + dtypes) % 2, i % 3 == 0);
        }
    /* Residual branches, the other layers, patches, heads. */
    for (int i = 0; i < MODEL; i++) {
        test_forward(b, model_shapes[i], i % 3 ? B : F, i % 3 == 1 ? B : F);
        test_grad(b, model_shapes[i], i % 3 ? B : F, i % 2 ? B : F, i % 3 ? B : F, i % 2, i % 2, 0);
    }
}

/* More rows than are held in another type at a time. */
static void test_many_rows(both *b) {
    test_grad(b, (shape){4100, 8, 4096}, F, B, B, 0, 0, 0);
    test_forward(b, (shape){4100, 4, 4100}, F, B);
    test_grad(b, (shape){8200, 8, 4096}, B, F, B, 0, 1, 0);
}

enum { MOVED = 7 };

/* Addresses that are aligned to an element only, or to two or four: one of them, or all (which -1). */
static void test_alignment(both *b, shape s, int32_t dtype, int64_t past, int which) {
    const cavmae__limits limits = limits_of(s);
    const shape larger = {s.rows + 1, s.in, s.out + 1}; /* room for what is moved */
    layer l = make_layer(b, larger, dtype);
    gradient g = make_gradient(b, larger, dtype, dtype, dtype);
    twin y = twin_output(b, larger.rows * s.out, dtype);
    twin *const moved[MOVED] = {&l.x, &g.x, &g.dy, &g.dx, &y, &l.weight, &g.weight};
    size_t skip[MOVED];
    both_workspace(b, &limits);
    for (int i = 0; i < MOVED; i++) {
        skip[i] = which < 0 || which == i ? (size_t)past * element_size(moved[i]->dtype) : 0;
        moved[i]->cpu = (char *)moved[i]->cpu + skip[i];
        moved[i]->device = (char *)moved[i]->device + skip[i];
    }
    const forward f = {.y = &y, .bias = &l.bias, .y_dtype = dtype};
    cavmae__linear op[2] = {forward_op(b, &l, &f, 0), forward_op(b, &l, &f, 1)};
    cavmae__linear_grad grad[2] = {grad_op(b, s, &g, 0, 0, 0, 0), grad_op(b, s, &g, 0, 0, 0, 1)};
    op[0].rows = op[1].rows = s.rows;
    op[0].out = op[1].out = s.out;
    CHECK_OK(b->cpu->ops->linear(b->cpu, &op[0]));
    CHECK_OK(b->cuda->ops->linear(b->cuda, &op[1]));
    grad_both(b, &grad[0], &grad[1]);
    for (int i = 3; i < 5; i++) { /* dx, y: as much as was written */
        twin part = *moved[i];
        part.count = s.rows * (i == 3 ? s.in : s.out);
        part.size = (size_t)part.count * element_size(dtype);
        CHECK_TWIN(b, &part, worse(dtype, dtype));
    }
    CHECK_TWIN(b, &g.dweight, worse(dtype, dtype));
    CHECK_TWIN(b, &g.dbias, worse(dtype, dtype));
    for (int i = 0; i < MOVED; i++) {
        moved[i]->cpu = (char *)moved[i]->cpu - skip[i];
        moved[i]->device = (char *)moved[i]->device - skip[i];
    }
    free_layer(b, &l);
    free_gradient(b, &g);
    twin_free(b, &y);
}

/* bfloat16 results are float32 sums, rounded once: where the operands are no rounding away from the CPU's, the bits are
 * those of its float32 results rounded, but for sums beside a tie. */
static void test_one_rounding(both *b) {
    const shape s = {60, 1024, 96};
    const cavmae__limits limits = limits_of(s);
    layer l = make_layer(b, s, B);
    twin wide = twin_output(b, s.rows * s.out, F), y = twin_output(b, wide.count, B);
    for (int i = 0; i < 2; i++) {
        const twin *t = i ? &l.bias : &l.weight;
        for (int64_t at = 0; at < t->count; at++) {
            uint16_t bits;
            write_element(&bits, B, 0, ((float *)t->cpu)[at]);
            ((float *)t->cpu)[at] = read_element(&bits, B, 0);
        }
        twin_upload(b, t);
    }
    both_workspace(b, &limits);
    run_both(b, &l, &(forward){.y = &wide, .bias = &l.bias, .y_dtype = F});
    CHECK_TWIN(b, &wide, 1e-6);
    run_device(b, &l, &(forward){.y = &y, .bias = &l.bias, .y_dtype = B});
    uint16_t *got = twin_download(b, &y), expected;
    int64_t different = 0;
    for (int64_t i = 0; i < y.count; i++) {
        write_element(&expected, B, 0, ((float *)wide.cpu)[i]);
        different += got[i] != expected;
    }
    CHECK(different < y.count / 100);
    free(got);
    free_layer(b, &l);
    twin_free(b, &wide);
    twin_free(b, &y);
}

/* ---- GELU ---- */

static double tanh_gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
static double exact_gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2)); }

static double slope_at(double (*f)(double), double x) { return (f(x + 1e-5) - f(x - 1e-5)) / 2e-5; }

/* L2 distance, relative, of the elements whose x lies where the two forms differ most. */
static double tail_distance(both *b, const twin *got, const double *x, const double *expected) {
    void *data = twin_download(b, got);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < got->count; i++) {
        if (!(x[i] > -4 && x[i] < -2)) continue;
        const double d = twin_element(data, got->dtype, i) - expected[i];
        difference += d * d;
        size += expected[i] * expected[i];
    }
    free(data);
    return sqrt(difference / size);
}

/* A layer of one weight, 1: y = x, so that nothing but GELU is looked at. */
static void test_gelu_forms(both *b, int32_t dtype, int exact, int aligned) {
    const shape s = {2000, aligned ? 8 : 7, aligned ? 8 : 7};
    const cavmae__limits limits = limits_of(s);
    gradient g = make_gradient(b, s, dtype, dtype, dtype);
    layer l = make_layer(b, s, dtype);
    twin y = twin_output(b, s.rows * s.out, dtype), gelu = twin_output(b, y.count, dtype);
    double *x = malloc((size_t)y.count * sizeof *x), *value = malloc((size_t)y.count * sizeof *value);
    double (*form)(double) = dtype == B && !exact ? tanh_gelu : exact_gelu;
    for (int64_t i = 0; i < l.weight.count; i++)
        ((float *)l.weight.cpu)[i] = ((float *)g.weight.cpu)[i] = i % (s.in + 1) == 0;
    for (int64_t i = 0; i < y.count; i++) {
        write_element(l.x.cpu, dtype, i, (float)uniform(-4, 4));
        write_element(g.gelu_input.cpu, dtype, i, (float)uniform(-4, 4));
    }
    const twin *const changed[] = {&l.weight, &g.weight, &l.x, &g.gelu_input};
    for (int i = 0; i < 4; i++) twin_upload(b, changed[i]);
    both_workspace(b, &limits);
    for (int with_y = 0; with_y < 2; with_y++) {
        run_device(b, &l, &(forward){.y = with_y ? &y : NULL, .gelu = &gelu, .y_dtype = dtype, .exact_gelu = exact});
        for (int64_t i = 0; i < y.count; i++) value[i] = form(x[i] = twin_element(l.x.cpu, dtype, i));
        CHECK(tail_distance(b, &gelu, x, value) < (dtype == B ? 4e-3 : 1e-6)); /* the forms are 3e-2 apart */
        if (with_y) CHECK(tail_distance(b, &y, x, x) == 0);
    }
    const cavmae__linear_grad op = grad_op(b, s, &g, 1, 0, exact, 1);
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &op));
    for (int64_t i = 0; i < y.count; i++) {
        x[i] = twin_element(g.gelu_input.cpu, dtype, i);
        value[i] = twin_element(g.dy.cpu, dtype, i) * slope_at(form, x[i]);
    }
    CHECK(tail_distance(b, &g.dx, x, value) < (dtype == B ? 4e-3 : 1e-6));
    free(x);
    free(value);
    free_gradient(b, &g);
    free_layer(b, &l);
    twin_free(b, &y);
    twin_free(b, &gelu);
}

/* ---- TF32 and e4m3 ---- */

static double device_distance(both *b, const twin *got, const twin *expected) {
    void *x = twin_download(b, got), *y = twin_download(b, expected);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < got->count; i++) {
        const double e = twin_element(y, expected->dtype, i), d = twin_element(x, got->dtype, i) - e;
        difference += d * d;
        size += e * e;
    }
    free(x);
    free(y);
    return sqrt(difference / size);
}

static void test_tf32(both *b) {
    const shape s = {40, 256, 128};
    const cavmae__limits limits = limits_of(s);
    layer l = make_layer(b, s, F);
    gradient g = make_gradient(b, s, F, F, F);
    twin y = twin_output(b, s.rows * s.out, F), rough = twin_output(b, y.count, F);
    both_workspace(b, &limits);
    run_device(b, &l, &(forward){.y = &y, .bias = &l.bias, .y_dtype = F});
    run_device(b, &l, &(forward){.y = &rough, .bias = &l.bias, .y_dtype = F, .matmul = CAVMAE__MATMUL_TF32});
    const double off = device_distance(b, &rough, &y);
    CHECK(off > 1e-5 && off < 1e-3);
    twin dweight = twin_copy(b, &g.dweight), dx = twin_copy(b, &g.dx);
    cavmae__linear_grad op = grad_op(b, s, &g, 0, 0, 0, 1);
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &op));
    op.matmul = CAVMAE__MATMUL_TF32;
    op.dweight = dweight.device;
    op.dx = dx.device;
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &op));
    const double off_weight = device_distance(b, &dweight, &g.dweight), off_x = device_distance(b, &dx, &g.dx);
    CHECK(off_weight > 1e-5 && off_weight < 1e-3 && off_x > 1e-5 && off_x < 1e-3);
    twin_free(b, &dweight);
    twin_free(b, &dx);
    free_gradient(b, &g);
    free_layer(b, &l);
    twin_free(b, &y);
    twin_free(b, &rough);
}

/* Rows of x, and of the weight, of very different size: each has a scale of its own, so none loses more than others. */
static void test_e4m3(both *b, shape s, int32_t y_dtype, int takes_e4m3) {
    const cavmae__limits limits = limits_of(s);
    layer l = make_layer(b, s, B);
    twin y = twin_output(b, s.rows * s.out, y_dtype), rough = twin_output(b, y.count, y_dtype),
         gelu = twin_output(b, y.count, y_dtype), rough_gelu = twin_output(b, y.count, y_dtype);
    for (int64_t r = 0; r < s.rows; r++)
        for (int32_t i = 0; i < s.in; i++) {
            const int64_t at = r * s.in + i;
            write_element(l.x.cpu, B, at, read_element(l.x.cpu, B, at) * (float)pow(10, (double)(r % 7) - 3));
        }
    for (int64_t at = 0; at < l.weight.count; at++)
        ((float *)l.weight.cpu)[at] *= (float)pow(10, (double)(at / s.in % 5) - 2);
    memset(l.x.cpu, 0, (size_t)s.in * 2); /* a row of zeros */
    twin_upload(b, &l.x);
    twin_upload(b, &l.weight);
    both_workspace(b, &limits);
    run_device(b, &l, &(forward){.y = &y, .y_dtype = y_dtype});
    run_device(b, &l, &(forward){.y = &rough, .y_dtype = y_dtype, .matmul = CAVMAE__MATMUL_FP8});
    void *exact = twin_download(b, &y), *got = twin_download(b, &rough);
    double worst = 0;
    int zero = 1;
    for (int64_t r = 0; r < s.rows; r++) {
        double difference[5] = {0}, size[5] = {0};
        for (int32_t o = 0; o < s.out; o++) {
            const double e = twin_element(exact, y_dtype, r * s.out + o), g = twin_element(got, y_dtype, r * s.out + o);
            if (r == 0) zero &= g == 0;
            difference[o % 5] += (g - e) * (g - e);
            size[o % 5] += e * e;
        }
        for (int i = 0; i < 5 && r; i++)
            if (!(sqrt(difference[i] / size[i]) <= worst)) worst = sqrt(difference[i] / size[i]);
    }
    CHECK(zero);
    if (takes_e4m3)
        CHECK(worst > 5e-3 && worst < 0.1); /* 3 bits of mantissa in both operands */
    else
        CHECK(worst == 0);
    /* With bias, and with GELU. */
    const forward all = {.y = &y, .gelu = &gelu, .bias = &l.bias, .y_dtype = y_dtype};
    forward all_rough = {.y = &rough, .gelu = &rough_gelu, .bias = &l.bias, .y_dtype = y_dtype};
    all_rough.matmul = CAVMAE__MATMUL_FP8;
    run_device(b, &l, &all);
    run_device(b, &l, &all_rough);
    CHECK(device_distance(b, &rough, &y) < 6e-2);
    CHECK(device_distance(b, &rough_gelu, &gelu) < 6e-2);
    all_rough.y = NULL;
    run_device(b, &l, &all_rough);
    CHECK(device_distance(b, &rough_gelu, &gelu) < 6e-2);
    if (y_dtype == F) {
        twin sum = twin_copy(b, &l.residual);
        run_device(b, &l, &(forward){.y = &y, .bias = &l.bias, .residual = &l.residual, .y_dtype = F});
        run_device(
            b, &l,
            &(forward){.y = &sum, .bias = &l.bias, .residual = &sum, .y_dtype = F, .matmul = CAVMAE__MATMUL_FP8});
        CHECK(device_distance(b, &sum, &y) < 6e-2);
        twin_free(b, &sum);
    }
    free(exact);
    free(got);
    free_layer(b, &l);
    twin_free(b, &y);
    twin_free(b, &rough);
    twin_free(b, &gelu);
    twin_free(b, &rough_gelu);
}

/* The operation that makes gelu(y) again gives what the product gave beside y. */
static void test_gelu_again(both *b, int32_t dtype, int32_t exact) {
    const shape s = {37, 64, 48};
    const int64_t count = s.rows * s.out;
    twin x = twin_input(b, s.rows * s.in, dtype, -2, 2), weight = twin_input(b, (int64_t)s.in * s.out, F, -0.4, 0.4),
         y = twin_output(b, count, dtype), g = twin_output(b, count, dtype), again = twin_output(b, count, dtype);
    const cavmae__limits limits = {.rows = s.rows, .width = 64, .weight = 64 * 48, .clips = 1, .tokens = 1};
    both_workspace(b, &limits);
    const cavmae__linear product = {.rows = s.rows,
                                    .in = s.in,
                                    .out = s.out,
                                    .x_dtype = dtype,
                                    .y_dtype = dtype,
                                    .exact_gelu = exact,
                                    .x = x.device,
                                    .weight = weight.device,
                                    .y = y.device,
                                    .gelu = g.device,
                                    .workspace = b->cuda_workspace};
    const cavmae__gelu gelu = {.count = count, .dtype = dtype, .exact_gelu = exact, .x = y.device, .y = again.device};
    CHECK_OK(b->cuda->ops->linear(b->cuda, &product));
    CHECK_OK(b->cuda->ops->gelu(b->cuda, &gelu));
    CHECK_OK(b->cuda->ops->download(b->cuda, again.cpu, g.device, again.size));
    /* bfloat16: the product's epilogue sees y before it is rounded */
    CHECK_TWIN(b, &again, dtype == F ? 1e-7 : 4e-3);
    for (twin *t = (twin[]){x, weight, y, g, again}, *end = t + 5; t < end; t++) twin_free(b, t);
}

int main(void) {
    both b;
    open_both(&b);
    test_shapes(&b);
    test_many_rows(&b);
    for (int past = 1; past <= 4; past *= 2) {
        for (int which = -1; which < MOVED; which++) {
            test_alignment(&b, (shape){37, 64, 48}, F, past, which);
            test_alignment(&b, (shape){37, 64, 48}, B, past, which);
        }
    }
    test_one_rounding(&b);
    for (int i = 0; i < 4; i++) test_gelu_again(&b, i & 1 ? B : F, i & 2);
    for (int i = 0; i < 8; i++) test_gelu_forms(&b, i & 1 ? B : F, i & 2, i & 4);
    test_tf32(&b);
    test_e4m3(&b, (shape){50, 256, 80}, B, 1);
    test_e4m3(&b, (shape){33, 768, 160}, F, 1);
    test_e4m3(&b, (shape){20, 40, 20}, B, 0);
    close_both(&b);
    return check_summary("linear");
}
