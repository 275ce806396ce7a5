/* For tests of the CUDA backend's operations: a CPU backend and a CUDA one side by side, and arrays that hold the same
 * numbers in the memory of both.
 *
 *     both b;
 *     open_both(&b);
 *     twin x = twin_input(&b, count, dtype, -1, 1), y = twin_output(&b, count, dtype);
 *     both_workspace(&b, &limits);
 *     op.x = x.cpu, op.y = y.cpu, op.workspace = b.cpu_workspace;
 *     CHECK_OK(b.cpu->ops->f(b.cpu, &op));
 *     op.x = x.device, op.y = y.device, op.workspace = b.cuda_workspace;
 *     CHECK_OK(b.cuda->ops->f(b.cuda, &op));
 *     CHECK_TWIN(&b, &y, tolerance_of(dtype));
 *     twin_free(&b, &y);
 *
 * The device is CAVMAE_TEST_DEVICE ("cuda" where that is not set), its plug-in is looked for in CAVMAE_TEST_PLUGIN_DIR
 * (the simulator's directory where that is not set). */
#ifndef CAVMAE_TEST_CUDA_COMPARE_H
#define CAVMAE_TEST_CUDA_COMPARE_H

#include "arrays.h"
#include "backend.h"
#include "context.h"

/* ---- Backends ---- */

typedef struct both {
    cavmae_context *cpu_context, *cuda_context;
    cavmae__backend *cpu, *cuda;
    void *cpu_workspace, *cuda_workspace;
    void *cuda_workspace_block;
    size_t cpu_workspace_size, cuda_workspace_size;
} both;

static inline cavmae_context_options device_options(void) {
    const char *device = getenv("CAVMAE_TEST_DEVICE"), *directory = getenv("CAVMAE_TEST_PLUGIN_DIR");
    return (cavmae_context_options){.struct_size = sizeof(cavmae_context_options),
                                    .threads = 2,
                                    .device = device ? device : "cuda",
                                    .plugin_dir = directory ? directory : TEST_CUDASIM_DIR};
}

static inline void open_both(both *b) {
    const cavmae_context_options cpu = {.struct_size = sizeof cpu, .threads = 2}, cuda = device_options();
    memset(b, 0, sizeof *b);
    if (!CHECK_OK(cavmae_context_create(&cpu, &b->cpu_context)) ||
        !CHECK_OK(cavmae_context_create(&cuda, &b->cuda_context)) ||
        !CHECK_OK(cavmae__context_backend(b->cpu_context, &b->cpu)) ||
        !CHECK_OK(cavmae__context_backend(b->cuda_context, &b->cuda)))
        exit(check_summary("open_both"));
}

/* ---- Device memory ---- */

/* Device memory with nothing but bytes 0xFF (no number, or -1) in it and around it. Where AddressSanitizer guards the
 * simulator's memory, nothing is around it. */
#ifdef __SANITIZE_ADDRESS__
enum { DEVICE_GUARD = 0 };
#else
enum { DEVICE_GUARD = 256 }; /* a multiple of what memory is aligned to */
#endif

static inline void *device_alloc(both *b, size_t size, void **block) {
    void *memory = NULL, *poison = malloc(size + 2 * DEVICE_GUARD + 1);
    memset(poison, 0xFF, size + 2 * DEVICE_GUARD + 1);
    if (!CHECK_OK(b->cuda->ops->alloc(b->cuda, size + 2 * DEVICE_GUARD, &memory)) ||
        !CHECK_OK(b->cuda->ops->upload(b->cuda, memory, poison, size + 2 * DEVICE_GUARD)))
        exit(check_summary("device_alloc"));
    free(poison);
    *block = memory;
    return (char *)memory + DEVICE_GUARD;
}

/* Whether nothing was written around the memory. */
static inline int device_guard_holds(both *b, const void *block, size_t size) {
    unsigned char guards[2 * DEVICE_GUARD + 1];
    if (DEVICE_GUARD == 0) return 1;
    if (!CHECK_OK(b->cuda->ops->download(b->cuda, guards, block, DEVICE_GUARD)) ||
        !CHECK_OK(b->cuda->ops->download(b->cuda, guards + DEVICE_GUARD, (const char *)block + DEVICE_GUARD + size,
                                         DEVICE_GUARD)))
        return 0;
    for (int i = 0; i < 2 * DEVICE_GUARD; i++)
        if (guards[i] != 0xFF) return 0;
    return 1;
}

/* Gives b.cpu_workspace and b.cuda_workspace the sizes that the limits ask for, and poisons them. */
static inline void both_workspace(both *b, const cavmae__limits *limits) {
    if (b->cpu_workspace) CHECK(guard_holds(b->cpu_workspace, b->cpu_workspace_size));
    if (b->cuda_workspace) {
        CHECK(device_guard_holds(b, b->cuda_workspace_block, b->cuda_workspace_size));
        b->cuda->ops->free(b->cuda, b->cuda_workspace_block);
    }
    free(b->cpu_workspace);
    b->cpu_workspace = b->cuda_workspace = b->cuda_workspace_block = NULL;
    if (!limits) return;
    b->cpu_workspace_size = b->cpu->ops->workspace_size(b->cpu, limits);
    b->cpu_workspace = aligned_alloc(64, (b->cpu_workspace_size + GUARD + 63) / 64 * 64);
    memset(b->cpu_workspace, 0xFF, b->cpu_workspace_size);
    memset((char *)b->cpu_workspace + b->cpu_workspace_size, GUARD_BYTE, GUARD);
    b->cuda_workspace_size = b->cuda->ops->workspace_size(b->cuda, limits);
    b->cuda_workspace = device_alloc(b, b->cuda_workspace_size, &b->cuda_workspace_block);
}

static inline void close_both(both *b) {
    both_workspace(b, NULL);
    cavmae_context_free(b->cuda_context);
    cavmae_context_free(b->cpu_context);
}

/* ---- Arrays in both memories ---- */

typedef struct twin {
    int64_t count;
    int32_t dtype;
    size_t size;       /* bytes */
    void *cpu;         /* with the guard of arrays.h behind it */
    void *device;      /* with guards around it */
    void *block;       /* that the device's lies in */
    const char *label; /* in reports; NULL: the expression */
} twin;

/* An output of any dtype of CAVMAE_*. */
static inline twin twin_output(both *b, int64_t count, int32_t dtype) {
    array a = make_output(count, dtype);
    twin t = {.count = count, .dtype = dtype, .size = (size_t)count * element_size(dtype), .cpu = a.data};
    free(a.value);
    t.device = device_alloc(b, t.size, &t.block);
    return t;
}

/* What is in t.cpu goes to the device. */
static inline void twin_upload(both *b, const twin *t) {
    CHECK_OK(b->cuda->ops->upload(b->cuda, t->device, t->cpu, t->size));
}

static inline twin twin_of(both *b, int64_t count, int32_t dtype, const void *values) {
    twin t = twin_output(b, count, dtype);
    if (t.size) memcpy(t.cpu, values, t.size);
    twin_upload(b, &t);
    return t;
}

/* Random numbers in [low, high), float32 or bfloat16. */
static inline twin twin_input(both *b, int64_t count, int32_t dtype, double low, double high) {
    twin t = twin_output(b, count, dtype);
    for (int64_t i = 0; i < count; i++) write_element(t.cpu, dtype, i, (float)uniform(low, high));
    twin_upload(b, &t);
    return t;
}

static inline twin twin_ints(both *b, int64_t count, const int32_t *values) {
    return twin_of(b, count, CAVMAE_INT32, values);
}

static inline twin twin_longs(both *b, int64_t count, const int64_t *values) {
    return twin_of(b, count, CAVMAE_INT64, values);
}

static inline twin twin_bytes(both *b, int64_t count, const uint8_t *values) {
    return twin_of(b, count, CAVMAE_UINT8, values);
}

static inline twin twin_doubles(both *b, int64_t count, const double *values) {
    return twin_of(b, count, CAVMAE_FLOAT64, values);
}

/* The same numbers as `t` has now, in memory of their own. */
static inline twin twin_copy(both *b, const twin *t) {
    twin copy = twin_output(b, t->count, t->dtype);
    void *bytes = malloc(t->size + 1);
    memcpy(copy.cpu, t->cpu, t->size);
    CHECK_OK(b->cuda->ops->download(b->cuda, bytes, t->device, t->size));
    CHECK_OK(b->cuda->ops->upload(b->cuda, copy.device, bytes, t->size));
    free(bytes);
    return copy;
}

/* Where it lies for the CPU (0) or the device (1); NULL for NULL. */
static inline void *twin_at(const twin *t, int device) { return !t ? NULL : device ? t->device : t->cpu; }

static inline void twin_free(both *b, twin *t) {
    CHECK(guard_holds(t->cpu, t->size));
    CHECK(device_guard_holds(b, t->block, t->size));
    free(t->cpu);
    b->cuda->ops->free(b->cuda, t->block);
    memset(t, 0, sizeof *t);
}

/* Segments of the given lengths, for both. */
typedef struct twin_segments {
    twin start; /* int32 [count + 1] */
    cavmae__segments cpu, device;
} twin_segments;

static inline twin_segments make_segments(both *b, int32_t count, const int32_t *lengths) {
    twin_segments s = {.start = twin_output(b, count + 1, CAVMAE_INT32)};
    int32_t *start = s.start.cpu, longest = 0;
    start[0] = 0;
    for (int32_t i = 0; i < count; i++) {
        start[i + 1] = start[i] + lengths[i];
        if (lengths[i] > longest) longest = lengths[i];
    }
    twin_upload(b, &s.start);
    s.cpu = (cavmae__segments){count, longest, start, start};
    s.device = (cavmae__segments){count, longest, start, s.start.device};
    return s;
}

static inline void free_segments(both *b, twin_segments *s) { twin_free(b, &s->start); }

/* ---- Comparing ---- */

static inline double twin_element(const void *data, int32_t dtype, int64_t i) {
    switch (dtype) {
    case CAVMAE_FLOAT64: return ((const double *)data)[i];
    case CAVMAE_INT64: return (double)((const int64_t *)data)[i];
    case CAVMAE_INT32: return ((const int32_t *)data)[i];
    case CAVMAE_UINT8: return ((const uint8_t *)data)[i];
    default: return (double)read_element(data, dtype, i);
    }
}

/* What is on the device now; free() it. */
static inline void *twin_download(both *b, const twin *t) {
    void *got = malloc(t->size + 1);
    CHECK_OK(b->cuda->ops->download(b->cuda, got, t->device, t->size));
    return got;
}

/* The place where the two differ most, for reports. */
static inline void print_worst(const twin *t, const void *got) {
    int64_t worst = 0;
    double largest = -1;
    for (int64_t i = 0; i < t->count; i++) {
        double d = fabs(twin_element(got, t->dtype, i) - twin_element(t->cpu, t->dtype, i));
        if (d > largest || !(d >= 0)) {
            worst = i;
            largest = d;
            if (!(d >= 0)) break;
        }
    }
    if (t->count)
        printf("; at %lld of %lld: %.9g, not %.9g\n", (long long)worst, (long long)t->count,
               twin_element(got, t->dtype, worst), twin_element(t->cpu, t->dtype, worst));
}

/* The device's result against the CPU's: L2 norm of the difference over the CPU's, or the first where that is 0. */
static inline int check_twin(both *b, const twin *t, double tolerance, const char *text, const char *file, int line) {
    void *got = twin_download(b, t);
    double difference = 0, size = 0, off;
    for (int64_t i = 0; i < t->count; i++) {
        const double expected = twin_element(t->cpu, t->dtype, i), d = twin_element(got, t->dtype, i) - expected;
        difference += d * d;
        size += expected * expected;
    }
    off = sqrt(difference) / (size > 0 ? sqrt(size) : 1);
    const int good = off <= tolerance; /* false for NaN */
    if (!check_report(good, file, line)) {
        printf("%s is off by %.3g, more than %.3g", t->label ? t->label : text, off, tolerance);
        print_worst(t, got);
    }
    free(got);
    return good;
}
#define CHECK_TWIN(b, t, tolerance) check_twin((b), (t), (tolerance), #t, __FILE__, __LINE__)

static inline int check_twin_exact(both *b, const twin *t, const char *text, const char *file, int line) {
    void *got = twin_download(b, t);
    const int good = memcmp(got, t->cpu, t->size) == 0;
    if (!check_report(good, file, line)) {
        printf("%s differs", t->label ? t->label : text);
        print_worst(t, got);
    }
    free(got);
    return good;
}
#define CHECK_TWIN_EXACT(b, t) check_twin_exact((b), (t), #t, __FILE__, __LINE__)

/* Two results of the device have the same bits. */
static inline int check_device_same(both *b, const twin *x, const twin *y, const char *text, const char *file,
                                    int line) {
    void *first = twin_download(b, x), *second = twin_download(b, y);
    const int good = x->size == y->size && memcmp(first, second, x->size) == 0;
    if (!check_report(good, file, line)) printf("not the same bits: %s\n", text);
    free(first);
    free(second);
    return good;
}
#define CHECK_DEVICE_SAME(b, x, y) check_device_same((b), (x), (y), #x " and " #y, __FILE__, __LINE__)

#endif
