/* The backend's side of cuDNN's attention (cudnn_attention.c, attention_choice.c) on the host: cuDNN is the stand-in, built
 * as libcudnn.so.9; the device, the backend around it and its clock are made up here. */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "attention_choice.h"
#include "check.h"
#include "cuda_memory.h"
#include "cudnn_attention.h"
#include "repeat.h"

/* ---- A backend without a device ---- */

static char said[600];
static int recording, device_memory, allocations_left = -1, own_calls;
static float times[8]; /* what the clock shows next */
static int next_time;
static const char *tuning_path;

static cavmae_status fail(cavmae_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof said, format, arguments);
    va_end(arguments);
    return status;
}

static void *host_alloc(cavmae_context *context, size_t size) {
    (void)context;
    return allocations_left == 0 ? NULL : (allocations_left--, malloc(size));
}

static void host_free(cavmae_context *context, void *memory) {
    (void)context;
    free(memory);
}

static void log_nothing(cavmae_context *context, int32_t level, const char *format, ...) {
    (void)context, (void)level, (void)format;
}

static const char *tuning_file(const cavmae_context *context) {
    (void)context;
    return tuning_path;
}

static const cavmae__library library = {
    .fail = fail, .alloc = host_alloc, .free = host_free, .log = log_nothing, .tuning_file = tuning_file};

cudaStream_t cavmae__cuda_stream(cavmae__backend *backend) { return cavmae__cuda_of(backend)->stream; }
int cavmae__cuda_recording(cavmae__cuda *cuda) { return cuda ? recording : 0; }

cavmae_status cavmae__cuda_check(cavmae__backend *backend, cudaError_t error, const char *what) {
    (void)backend;
    return error == cudaSuccess ? CAVMAE_OK : fail(CAVMAE_E_BACKEND, "%s", what);
}

cavmae_status cavmae__cuda_alloc(cavmae__cuda *cuda, size_t size, void **out) {
    (void)cuda;
    if (allocations_left == 0) return fail(CAVMAE_E_NOMEM, "no memory");
    device_memory++;
    *out = malloc(size);
    return CAVMAE_OK;
}

void cavmae__cuda_free(cavmae__cuda *cuda, void *memory) {
    (void)cuda;
    device_memory--;
    free(memory);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = malloc(1);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return event && !stream ? cudaSuccess : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return event ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = times[next_time++ % 8];
    return begin && end ? cudaSuccess : cudaErrorInvalidValue;
}

cavmae_status cavmae__cuda_lse_by_head(cavmae__backend *backend, const float *x, int64_t count, int64_t length,
                                       int32_t heads, float *y) {
    (void)backend;
    for (int64_t i = 0; i < count; i++)
        for (int64_t row = 0; row < length; row++)
            for (int64_t h = 0; h < heads; h++) y[(i * heads + h) * length + row] = x[(i * length + row) * heads + h];
    return CAVMAE_OK;
}

static cavmae_status own(cavmae__backend *backend, const cavmae__attention *op) {
    (void)backend, (void)op;
    own_calls++;
    return CAVMAE_OK;
}

static cavmae__cuda *open_backend(void) {
    cavmae__cuda *cuda = calloc(1, sizeof *cuda);
    cuda->library = &library;
    cuda->architecture = 90;
    snprintf(cuda->name, sizeof cuda->name, "cuda:0 (Made Up 1)");
    CHECK(cavmae__cudnn_open(cuda) == CAVMAE_OK);
    CHECK(cavmae__attention_choices_open(cuda) == CAVMAE_OK);
    return cuda;
}

static void close_backend(cavmae__cuda *cuda) {
    cavmae__attention_choices_close(cuda);
    cavmae__cudnn_close(cuda);
    CHECK(device_memory == 0);
    free(cuda);
}

/* ---- An attention ---- */

enum { HEADS = 2, DIM = 8, WIDTH = HEADS * DIM, ROWS = 64 };

static uint16_t qkv[ROWS * 3 * WIDTH], o[ROWS * WIDTH], d_o[ROWS * WIDTH], dqkv[ROWS * 3 * WIDTH];
static float lse[ROWS * HEADS];

static cavmae__attention describe(const int32_t *start, int32_t count) {
    return (cavmae__attention){.heads = HEADS,
                               .head_dim = DIM,
                               .dtype = CAVMAE_BFLOAT16,
                               .by = CAVMAE__ATTENTION_CUDNN,
                               .segments = {.count = count, .longest = 9, .start_host = start},
                               .qkv = qkv,
                               .o = o,
                               .lse = lse,
                               .d_o = d_o,
                               .dqkv = dqkv};
}

static const int32_t equal[] = {0, 5, 10, 15}, three[] = {0, 5, 10, 13, 16, 20, 24}, many[] = {0, 1, 3, 6, 10, 15},
                     singles[] = {0, 1, 2}, large[] = {0, 20, 40}, again[] = {0, 5, 10, 15, 18, 21};

/* v is 1 everywhere and q is 0: o is 1, and lse the log of the segment's length. */
static void fill(void) {
    for (int i = 0; i < ROWS * 3 * WIDTH; i++) {
        qkv[i] = i / WIDTH % 3 == 2 ? 0x3F80 : 0;
        dqkv[i] = 0x7FC1;
    }
    for (int i = 0; i < ROWS * WIDTH; i++) o[i] = 0x7FC1, d_o[i] = 0x3F80;
    for (int i = 0; i < ROWS * HEADS; i++) lse[i] = -1;
}

static void test_calls(void) {
    cavmae__cuda *cuda = open_backend();
    cavmae__backend *backend = &cuda->base;
    cavmae__attention op = describe(three, 6);
    char text[500];
    cavmae__cudnn_describe(backend, text, sizeof text);
    CHECK(strcmp(text, "cuDNN 9.19.0") == 0);

    /* Never built while a step is recorded; three runs, each with a plan of its own. */
    recording = 1;
    CHECK(cavmae__cudnn_attention(backend, &op) == CAVMAE_E_STATE);
    CHECK(strstr(said, "5 rows") && strstr(said, "recorded"));
    recording = 0;
    fill();
    CHECK(cavmae__cudnn_can(backend, &op, 0) == CAVMAE_OK);
    CHECK(o[0] == 0x7FC1);
    recording = 1;
    CHECK(cavmae__cudnn_attention(backend, &op) == CAVMAE_OK);
    recording = 0;
    int good = 1;
    for (int row = 0; row < 24; row++)
        for (int i = 0; i < WIDTH; i++) good &= o[row * WIDTH + i] == 0x3F80;
    CHECK(good && o[24 * WIDTH] == 0x7FC1);
    for (int row = 0; row < 24; row++) good &= fabs(lse[row * HEADS + 1] - log(row < 10 ? 5 : row < 16 ? 3 : 4)) < 1e-6;
    CHECK(good && lse[24 * HEADS] == -1);

    /* dv = sum of p^T d_o = 1; all else is 0. */
    CHECK(cavmae__cudnn_attention_grad(backend, &op) == CAVMAE_OK);
    for (int row = 0; row < 24; row++)
        for (int i = 0; i < 3 * WIDTH; i++) {
            const float expected = i < 2 * WIDTH ? 0 : 1;
            const uint32_t bits = (uint32_t)dqkv[row * 3 * WIDTH + i] << 16;
            float got;
            memcpy(&got, &bits, sizeof got);
            good &= fabsf(got - expected) < 0.01f;
        }
    CHECK(good && dqkv[24 * 3 * WIDTH] == 0x7FC1);

    /* Inference has no lse, and another plan. */
    op.lse = NULL;
    CHECK(cavmae__cudnn_attention(backend, &op) == CAVMAE_OK);

    /* One workspace for shapes that need no more; one that needs more leaves the first where it is. */
    CHECK(device_memory == 2); /* forward's and the larger one of going back */
    op = describe(equal, 3);
    CHECK(cavmae__cudnn_attention_grad(backend, &op) == CAVMAE_OK);
    CHECK(device_memory == 2);
    op = describe(large, 2);
    CHECK(cavmae__cudnn_attention_grad(backend, &op) == CAVMAE_OK);
    CHECK(device_memory == 3);
    CHECK(cavmae__cudnn_attention_grad(backend, &op) == CAVMAE_OK);
    op = describe(equal, 3);
    CHECK(cavmae__cudnn_attention_grad(backend, &op) == CAVMAE_OK);
    CHECK(device_memory == 3);
    close_backend(cuda);
}

static void refused(cavmae__cuda *cuda, cavmae__attention op, int32_t backward, const char *words) {
    said[0] = 0;
    CHECK((backward ? cavmae__cudnn_attention_grad : cavmae__cudnn_attention)(&cuda->base, &op) ==
          CAVMAE_E_UNSUPPORTED);
    if (!CHECK(strstr(said, words) != NULL)) printf("said: %s\n", said);
}

static void test_refusals(void) {
    cavmae__cuda *cuda = open_backend();
    cavmae__attention op = describe(equal, 3);
    op.dtype = CAVMAE_FLOAT32;
    refused(cuda, op, 0, "float32");
    op = describe(equal, 3);
    op.head_dim = 12;
    refused(cuda, op, 0, "not 12");
    op.head_dim = 136;
    refused(cuda, op, 0, "not 136");
    refused(cuda, describe(many, 5), 0, "5 segments");
    refused(cuda, describe(singles, 2), 1, "1 row");
    cuda->architecture = 100;
    refused(cuda, describe(equal, 3), 1, "sm_100");
    cuda->architecture = 90;
    op = describe(singles, 2);
    CHECK(cavmae__cudnn_attention(&cuda->base, &op) == CAVMAE_OK);

    /* Each allocation fails once: a status, nothing is left, and the next call is good. */
    op = describe(equal, 3);
    for (allocations_left = 0;; allocations_left++) {
        const int attempt = allocations_left;
        const cavmae_status status = cavmae__cudnn_attention_grad(&cuda->base, &op);
        allocations_left = attempt;
        if (status == CAVMAE_OK) break;
        CHECK(status == CAVMAE_E_NOMEM);
    }
    CHECK(allocations_left == 2 || allocations_left == 3);
    allocations_left = -1;
    close_backend(cuda);

    setenv("STAND_IN_VERSION", "91500", 1);
    cuda = open_backend();
    refused(cuda, describe(equal, 3), 0, "9.15.0 is too old");
    unsetenv("STAND_IN_VERSION");
    close_backend(cuda);
}

/* Whom the choice falls on, with the next times on the clock: cuDNN's two plans, then ours. */
static int32_t choose(cavmae__cuda *cuda, const cavmae__attention *op, float first, float second, float ours) {
    int32_t by = -1;
    const float clock[3] = {first, second, ours};
    memcpy(times, clock, sizeof clock);
    next_time = own_calls = 0;
    CHECK(cavmae__attention_choose(&cuda->base, op, 0, own, &by) == CAVMAE_OK);
    return by;
}

static size_t lines_of(const char *file) {
    FILE *text = fopen(file, "r");
    size_t lines = 0;
    for (int c; text && (c = fgetc(text)) != EOF;) lines += c == '\n';
    if (text) fclose(text);
    return lines;
}

static void test_choices(const char *file) {
    cavmae__attention op = describe(equal, 3);
    cavmae__cuda *cuda = open_backend();
    CHECK(choose(cuda, &op, 1, 1, 9) == CAVMAE__ATTENTION_CUDNN && next_time == 0);
    op.by = CAVMAE__ATTENTION_OWN;
    CHECK(choose(cuda, &op, 1, 1, 9) == CAVMAE__ATTENTION_OWN);
    op.by = CAVMAE__ATTENTION_AUTO; /* without a file */
    CHECK(choose(cuda, &op, 1, 1, 9) == CAVMAE__ATTENTION_OWN && next_time == 0);
    op.dtype = CAVMAE_FLOAT32;
    op.by = CAVMAE__ATTENTION_CUDNN;
    CHECK(choose(cuda, &op, 1, 1, 9) == CAVMAE__ATTENTION_OWN);
    close_backend(cuda);

    tuning_path = file;
    cuda = open_backend();
    op = describe(equal, 3);
    op.by = CAVMAE__ATTENTION_AUTO;
    recording = 1;
    CHECK(choose(cuda, &op, 1, 1, 9) == CAVMAE__ATTENTION_OWN && next_time == 0);
    recording = 0;
    CHECK(choose(cuda, &op, 7, 5, 6) == CAVMAE__ATTENTION_CUDNN && next_time == 3 && own_calls > 1);
    CHECK(choose(cuda, &op, 7, 5, 6) == CAVMAE__ATTENTION_CUDNN && next_time == 0 && own_calls == 0);
    /* The first run's shape was chosen above: its other plan is not tried. */
    cavmae__attention layer = describe(again, 5);
    layer.by = CAVMAE__ATTENTION_AUTO;
    CHECK(choose(cuda, &layer, 9, 5, 6) == CAVMAE__ATTENTION_OWN && next_time == 4);
    cavmae__attention slow = describe(three, 2);
    slow.by = CAVMAE__ATTENTION_AUTO;
    CHECK(choose(cuda, &slow, 7, 5, 4) == CAVMAE__ATTENTION_OWN && next_time == 3);
    cavmae__attention impossible = describe(many, 5);
    impossible.by = CAVMAE__ATTENTION_AUTO;
    CHECK(choose(cuda, &impossible, 1, 1, 9) == CAVMAE__ATTENTION_OWN && next_time == 0);
    /* What cuDNN refuses is ours, and not written down. */
    cavmae__attention odd = op;
    odd.head_dim = 12;
    const size_t written = lines_of(file);
    CHECK(choose(cuda, &odd, 1, 1, 9) == CAVMAE__ATTENTION_OWN && next_time == 0);
    CHECK(lines_of(file) == written && written == 3);
    close_backend(cuda);

    /* Another process finds what was measured. */
    cuda = open_backend();
    CHECK(choose(cuda, &op, 1, 1, 0) == CAVMAE__ATTENTION_CUDNN && next_time == 0);
    CHECK(choose(cuda, &slow, 0, 0, 9) == CAVMAE__ATTENTION_OWN && next_time == 0);
    /* With another cuDNN it is measured again. */
    close_backend(cuda);
    setenv("STAND_IN_VERSION", "92200", 1);
    cuda = open_backend();
    CHECK(choose(cuda, &op, 7, 8, 6) == CAVMAE__ATTENTION_OWN && next_time == 3);
    unsetenv("STAND_IN_VERSION");
    close_backend(cuda);
    tuning_path = NULL;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    test_calls();
    test_refusals();
    test_choices(argv[1]);

    void *stand_in = dlopen("libcudnn.so.9", RTLD_NOW);
    int (*alive)(void) = NULL;
    void *found = stand_in ? dlsym(stand_in, "stand_in_descriptors") : NULL;
    memcpy(&alive, &found, sizeof found);
    CHECK(alive && alive() == 0);
    return check_summary("cudnn_calls");
}
