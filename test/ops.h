/* For the tests of the CPU's operations: a backend for every instruction set that this machine has, and derivatives by
 * differences. */
#ifndef CAVMAE_TEST_OPS_H
#define CAVMAE_TEST_OPS_H

#include "arrays.h"
#include "context.h"
#include "cpu_backend.h"
#include "isa.h"

/* ---- Backends ---- */

static const char *const isa_names[] = {"baseline", "avx2", "avx512"};

static inline cavmae_context *make_context(int32_t threads) {
    cavmae_context_options options = {.struct_size = sizeof options, .threads = threads};
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(1);
    return context;
}

/* A backend of its own for a test. */
static inline cavmae__backend *open_backend(cavmae_context *context, int isa, int always_bf16) {
    cavmae__backend *backend = NULL;
    if (!CHECK_OK(cavmae__cpu_backend_open_as(context, isa, always_bf16, &backend))) exit(1);
    return backend;
}

/* Workspace of the size that the limits give, with a guard behind it and no numbers in it. */
typedef struct workspace {
    void *memory;
    size_t size;
} workspace;

static inline workspace make_workspace(cavmae__backend *backend, const cavmae__limits *limits) {
    workspace w = {.size = backend->ops->workspace_size(backend, limits)};
    w.memory = aligned_alloc(64, (w.size + GUARD + 63) / 64 * 64);
    memset(w.memory, 0xFF, w.size);
    memset((char *)w.memory + w.size, GUARD_BYTE, GUARD);
    return w;
}

static inline void free_workspace(workspace *w) {
    CHECK(guard_holds(w->memory, w->size));
    free(w->memory);
}

/* With every instruction set; with the widest also once with bfloat16 products, where the machine has them. */
static inline void for_each_isa(void (*test)(cavmae__backend *)) {
    cavmae_context *context = make_context(2);
    const int widest = cavmae__isa();
    for (int i = 0; i <= widest + 1; i++) {
        const int failed = check_failed, isa = i <= widest ? i : widest;
        cavmae__backend *backend = open_backend(context, isa, i > widest);
        test(backend);
        backend->ops->close(backend);
        if (check_failed > failed) printf("  with %s%s\n", isa_names[isa], i > widest ? " and bfloat16 products" : "");
    }
    cavmae_context_free(context);
}

/* The same call on contexts of 1, 2, 3 and 5 threads; `test` gives an array that must have the same bits each time. */
static inline void for_each_thread_count(array (*test)(cavmae__backend *)) {
    const int32_t threads[] = {1, 2, 3, 5};
    array first = {0};
    for (int i = 0; i < 4; i++) {
        cavmae_context *context = make_context(threads[i]);
        cavmae__backend *backend = open_backend(context, cavmae__isa(), 1);
        array got = test(backend);
        if (i == 0)
            first = got;
        else {
            CHECK_SAME(&got, &first);
            free_array(&got);
        }
        backend->ops->close(backend);
        cavmae_context_free(context);
    }
    free_array(&first);
}

/* ---- Derivatives ---- */

typedef double loss_function(void *arg);

/* Of loss by *x, by central differences. */
static inline double slope(double *x, loss_function *loss, void *arg) {
    const double before = *x, step = 1e-5;
    *x = before + step;
    double above = loss(arg);
    *x = before - step;
    double below = loss(arg);
    *x = before;
    return (above - below) / (2 * step);
}

/* Compares a gradient with differences at up to `samples` places, relative to the largest slope among them. */
static inline int check_gradient(const array *got, double *x, double *added, int samples, loss_function *loss,
                                 void *arg, double tolerance, const char *text, const char *file, int line) {
    double worst = 0, largest = 1e-9;
    int64_t stride = got->count / samples + 1;
    for (int64_t i = (int64_t)(next_random() % (uint32_t)stride); i < got->count; i += stride) {
        double expected = slope(x + i, loss, arg), d;
        if (fabs(expected) > largest) largest = fabs(expected);
        d = fabs((double)read_element(got->data, got->dtype, i) - (added ? added[i] : 0) - expected);
        if (!(d <= worst)) worst = d;
    }
    int good = worst <= tolerance * largest;
    if (!check_report(good, file, line))
        printf("%s is off by %.3g, more than %.3g of %.3g\n", text, worst, tolerance, largest);
    return good;
}
#define CHECK_GRADIENT(got, x, loss, arg, tolerance)                                                                   \
    check_gradient((got), (x), NULL, 24, (loss), (arg), (tolerance), #got, __FILE__, __LINE__)
#define CHECK_GRADIENT_ADDED(got, x, added, loss, arg, tolerance)                                                      \
    check_gradient((got), (x), (added), 24, (loss), (arg), (tolerance), #got, __FILE__, __LINE__)

#endif
