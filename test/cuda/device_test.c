/* The life of contexts on a device: what is opened is closed and gives its memory back, what cannot be had is refused
 * with a sentence, and a call that finds no memory leaves everything as it was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include "compare.h"
#include "failing_allocator.h"
#include "tiny.h"

/* Of the simulated device: so little that a test can use it up. */
enum { SIMULATED_MEMORY = 128 << 20 };

static cavmae_context *device_context(void) {
    const cavmae_context_options options = device_options();
    cavmae_context *context = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) exit(check_summary("device"));
    return context;
}

static cavmae__backend *backend_of(cavmae_context *context) {
    cavmae__backend *backend = NULL;
    if (!CHECK_OK(cavmae__context_backend(context, &backend))) exit(check_summary("device"));
    return backend;
}

static int simulated(void) {
    static int known = -1;
    if (known < 0) {
        cavmae_context *context = device_context();
        const char *info = "";
        CHECK_OK(cavmae_context_device_info(context, &info));
        known = strstr(info, "imulated") != NULL;
        cavmae_context_free(context);
    }
    return known;
}

/* The largest block that can be had, to within so many bytes. */
static size_t granularity(void) { return simulated() ? 1 << 14 : (size_t)64 << 20; }

static size_t largest_block(cavmae__backend *backend) {
    size_t had = 0, refused = (size_t)1 << 40;
    while (refused - had > granularity()) {
        const size_t size = had + (refused - had) / 2;
        void *memory;
        if (backend->ops->alloc(backend, size, &memory) == CAVMAE_OK) {
            backend->ops->free(backend, memory);
            had = size;
        } else
            refused = size;
    }
    return had;
}

/* Whether what was free is: on a real device pieces of it may lie apart. */
static int still_has(cavmae__backend *backend, size_t size) {
    void *memory;
    if (!simulated()) return 1;
    if (backend->ops->alloc(backend, size, &memory) != CAVMAE_OK) return 0;
    backend->ops->free(backend, memory);
    return 1;
}

/* Of the whole device, to within a granularity. */
static size_t free_memory(void) {
    cavmae_context *context = device_context();
    const size_t size = largest_block(backend_of(context));
    cavmae_context_free(context);
    return size;
}

/* Everything that takes device memory: embedding and training steps, recorded ones too. */
static cavmae_status work(cavmae_context *context) {
    cavmae_config *config = tiny_config(context, SMALLEST);
    tiny_inputs in = tiny_make(config, 0, 3, NULL);
    const cavmae_batch batch = tiny_batch(&in, 3);
    float joint[3 * 16];
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
    cavmae_model *model = NULL;
    cavmae_optimizer *optimizer = NULL;
    cavmae_trainer *trainer = NULL;
    cavmae_status status = cavmae_model_create(config, &model);
    if (status == CAVMAE_OK) status = cavmae_embed(model, &batch, &out);
    if (status == CAVMAE_OK) status = cavmae_optimizer_create(model, config, &optimizer);
    if (status == CAVMAE_OK) status = cavmae_trainer_create(model, optimizer, config, &trainer);
    for (int step = 0; step < 3 && status == CAVMAE_OK; step++) status = cavmae_pretrain_step(trainer, &batch, NULL);
    if (status == CAVMAE_OK) status = cavmae_embed(model, &batch, &out);
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    tiny_release(&in);
    cavmae_config_free(config);
    return status;
}

/* ---- Opening and closing ---- */

static void test_open_and_close(void) {
    cavmae_context *first = device_context();
    const char *info = NULL, *device = getenv("CAVMAE_TEST_DEVICE");
    CHECK(strncmp(cavmae_context_device(first), "cuda:", 5) == 0);
    if (device && strchr(device, ':')) CHECK(strcmp(cavmae_context_device(first), device) == 0);
    CHECK_OK(cavmae_context_device_info(first, &info));
    CHECK(info && strlen(info) > 10);
    CHECK_STATUS(cavmae_context_device_info(NULL, &info), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_context_device_info(first, NULL), CAVMAE_E_ARG);
    cavmae_context_free(first);

    const size_t before = free_memory();
    CHECK(before > granularity());
    for (int round = 0; round < 3; round++) {
        cavmae_context *contexts[2] = {device_context(), device_context()};
        for (int i = 0; i < 2; i++) CHECK_OK(work(contexts[i]));
        cavmae_context_free(contexts[round % 2]);
        CHECK_OK(work(contexts[!(round % 2)]));
        cavmae_context_free(contexts[!(round % 2)]);
    }
    const size_t after = free_memory();
    CHECK(after + granularity() >= before && before + granularity() >= after);
}

/* A handle keeps its context alive. */
static void test_freed_in_any_order(void) {
    cavmae_context *context = device_context();
    cavmae_config *config = tiny_config(context, SMALLEST);
    cavmae_model *model = NULL;
    float joint[3 * 16] = {0};
    cavmae_context_free(context);
    CHECK_OK(cavmae_model_create(config, &model));
    tiny_inputs in = tiny_make(config, 0, 3, NULL);
    cavmae_config_free(config);
    const cavmae_batch batch = tiny_batch(&in, 3);
    const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
    CHECK_OK(cavmae_embed(model, &batch, &out));
    CHECK(joint[0] != 0);
    cavmae_model_free(model);
    tiny_release(&in);
}

/* ---- The calling thread's context ---- */

typedef struct driver {
    cavmae_context *context;
    int (*get_current)(void **context);
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*state)(int device, unsigned *flags, int *active);
    int (*retain)(void **context, int device);
    int (*release)(int device);
    int wrong;
} driver;

/* The simulator's, or the real one's. */
static int find_driver(driver *d) {
    static const struct {
        const char *name;
        size_t place;
    } functions[] = {{"cuCtxGetCurrent", offsetof(driver, get_current)},
                     {"cuCtxPushCurrent", offsetof(driver, push)},
                     {"cuCtxPopCurrent", offsetof(driver, pop)},
                     {"cuDevicePrimaryCtxGetState", offsetof(driver, state)},
                     {"cuDevicePrimaryCtxRetain", offsetof(driver, retain)},
                     {"cuDevicePrimaryCtxRelease", offsetof(driver, release)}};
    char file[600];
    snprintf(file, sizeof file, "%s/libcavmae-cuda.so", device_options().plugin_dir);
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL), *found = NULL;
    if (!library || !dlsym(library, functions[0].name)) library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof functions / sizeof *functions; i++) {
        if (!(found = dlsym(library, functions[i].name))) return 0;
        memcpy((char *)d + functions[i].place, &found, sizeof found);
    }
    return library != NULL;
}

static int active(const driver *d, int device) {
    unsigned flags;
    int is = -1;
    return d->state(device, &flags, &is) == 0 ? is : -1;
}

/* A call of every kind that the library makes on a thread of the caller's. */
static void *use_device(void *arg) {
    driver *d = arg;
    void *before = NULL, *after = NULL, *memory = NULL;
    cavmae__backend *backend;
    float x[16] = {1};
    d->get_current(&before);
    d->wrong += cavmae__context_backend(d->context, &backend) != CAVMAE_OK ||
                backend->ops->alloc(backend, sizeof x, &memory) != CAVMAE_OK ||
                backend->ops->upload(backend, memory, x, sizeof x) != CAVMAE_OK ||
                backend->ops->zero(backend, memory, sizeof x) != CAVMAE_OK ||
                backend->ops->download(backend, x, memory, sizeof x) != CAVMAE_OK || x[0] != 0;
    backend->ops->free(backend, memory);
    d->get_current(&after);
    d->wrong += before != after;
    return NULL;
}

/* A thread's current context is what it was, and a device that nobody uses gets none. Comes first: device 0 is unused. */
static void test_thread_context(void) {
    driver d = {0};
    cavmae_context_options options = device_options();
    pthread_t thread;
    void *own = NULL, *current = NULL;
    options.device = "cuda:1";
    if (cavmae_context_create(&options, &d.context) != CAVMAE_OK) return; /* there is only one */
    if (!CHECK(find_driver(&d))) return;
    CHECK(active(&d, 1) == 1);
    CHECK(active(&d, 0) == 0);
    d.get_current(&current);
    CHECK(!current);
    use_device(&d);
    if (pthread_create(&thread, NULL, use_device, &d) != 0) exit(2);
    pthread_join(thread, NULL);
    CHECK(d.wrong == 0 && active(&d, 0) == 0);

    /* A thread with a context of its own keeps it. */
    CHECK(d.retain(&own, 0) == 0 && d.push(own) == 0);
    use_device(&d);
    CHECK(d.wrong == 0);
    cavmae_context_free(d.context);
    CHECK(d.pop(&current) == 0 && current == own);
    CHECK(d.release(0) == 0 && active(&d, 0) == 0);
    d.get_current(&current);
    CHECK(!current);
}

/* ---- What cannot be had ---- */

static char logged[1024];

static void keep_log(void *user, int32_t level, const char *message) {
    (void)user, (void)level;
    snprintf(logged, sizeof logged, "%s", message);
}

/* Refused with every word of `words` in the sentence; "auto" is the CPU, and says why. */
static void check_refused(cavmae_context_options options, const char *first_word, const char *second_word) {
    cavmae_context *context = NULL;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_BACKEND);
    CHECK(context == NULL);
    if (!CHECK(strstr(cavmae_last_error(), first_word) && strstr(cavmae_last_error(), second_word)))
        printf("    it says: %s\n", cavmae_last_error());
    options.device = "auto";
    options.log = keep_log;
    options.log_level = CAVMAE_LOG_INFO;
    logged[0] = 0;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
    CHECK(strcmp(cavmae_context_device(context), "cpu") == 0);
    CHECK(strstr(logged, "auto") && strstr(logged, second_word));
    cavmae_context_free(context);
}

static void test_refused(void) {
    cavmae_context_options options = device_options();
    cavmae_context *context = NULL;
    char directory[600];

    options.device = "cuda:200"; /* a device of that number; "auto" takes the first one */
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_BACKEND);
    if (!CHECK(strstr(cavmae_last_error(), "cuda:200") && strstr(cavmae_last_error(), "200")))
        printf("    it says: %s\n", cavmae_last_error());
    options.device = "auto";
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK(strcmp(cavmae_context_device(context), "cuda:0") == 0);
    cavmae_context_free(context);

    options = device_options();
    options.plugin_dir = "/nonexistent";
    check_refused(options, "cuda", "/nonexistent");

    if (simulated()) {
        snprintf(directory, sizeof directory, "%s/other-version", TEST_CUDASIM_DIR);
        options.plugin_dir = directory;
        check_refused(options, "0.0.1", cavmae_version_string());

        options = device_options();
        CHECK(setenv("CUDASIM_DEVICES", "0", 1) == 0);
        check_refused(options, "cuda", "no CUDA device");
        CHECK(unsetenv("CUDASIM_DEVICES") == 0);
    }
}

/* ---- No memory ---- */

static void test_too_much_at_once(void) {
    cavmae_context *context = device_context();
    cavmae__backend *backend = backend_of(context);
    const size_t before = largest_block(backend);
    void *memory = NULL;
    CHECK_STATUS(backend->ops->alloc(backend, (size_t)1 << 42, &memory), CAVMAE_E_NOMEM);
    if (!CHECK(memory == NULL && strstr(cavmae_last_error(), "cuda:") && strstr(cavmae_last_error(), "asked for")))
        printf("    it says: %s\n", cavmae_last_error());
    CHECK_OK(backend->ops->alloc(backend, 0, &memory));
    backend->ops->free(backend, memory);
    backend->ops->free(backend, NULL);
    CHECK_OK(backend->ops->alloc(backend, 1, &memory));
    CHECK((uintptr_t)memory % 64 == 0);
    backend->ops->free(backend, memory);
    CHECK(still_has(backend, before));
    cavmae_context_free(context);
}

/* With ever more of the device's memory left: what is refused is refused with NOMEM, and takes nothing along. */
static void test_no_device_memory(void) {
    cavmae_context *context = device_context();
    cavmae__backend *backend = backend_of(context);
    CHECK_OK(work(context)); /* what the backend keeps from now on, it has */
    const size_t before = largest_block(backend), least = granularity();
    cavmae_status status = CAVMAE_E_NOMEM;
    int refused = 0;
    for (size_t left = 0; status == CAVMAE_E_NOMEM && left < before; left += left / 3 + least) {
        void *hog;
        if (!CHECK_OK(backend->ops->alloc(backend, before - left, &hog))) break;
        status = work(context);
        if (status == CAVMAE_E_NOMEM) {
            refused++;
            CHECK(strstr(cavmae_last_error(), "cuda:"));
        }
        backend->ops->free(backend, hog);
        CHECK(still_has(backend, before));
    }
    CHECK_OK(status);
    CHECK(refused > 2 || !simulated());
    CHECK_OK(work(context));
    cavmae_context_free(context);
}

/* Every allocation that opening asks the caller for fails in turn. */
static void test_no_host_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator), device = device_options();
    cavmae_status status = CAVMAE_E_NOMEM;
    options.threads = 1;
    options.device = device.device;
    options.plugin_dir = device.plugin_dir;
    long at = 0;
    for (; status == CAVMAE_E_NOMEM && at < 1000; at++) {
        cavmae_context *context = NULL;
        atomic_store(&allocator.calls, 0);
        allocator.fail_at = at + 1;
        status = cavmae_context_create(&options, &context);
        if (status != CAVMAE_OK) CHECK(context == NULL);
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
    }
    CHECK_OK(status);
    CHECK(at > 2);
}

/* ---- Copies ---- */

static void fill_bytes(unsigned char *bytes, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (unsigned char)(seed >> 56);
    }
}

/* There and back, through blocks that may be smaller than what is copied. The host's memory is free at once. */
static void test_copies(void) {
    static const size_t sizes[] = {1,
                                   3,
                                   63,
                                   64,
                                   65,
                                   4095,
                                   4097,
                                   65535,
                                   1 << 20,
                                   4194303,
                                   4194304,
                                   4194305,
                                   (8 << 20) + 7,
                                   12345678,
                                   (16 << 20) + 1};
    cavmae_context *context = device_context();
    cavmae__backend *backend = backend_of(context);
    const size_t largest = (16 << 20) + 1;
    unsigned char *host = malloc(largest), *back = malloc(largest), *expected = malloc(largest);
    void *device = NULL;
    CHECK_OK(backend->ops->alloc(backend, largest, &device));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int ahead = 0; ahead < 2; ahead++) {
            const size_t size = sizes[i], from = i % 4 * 64 < size ? i % 4 * 64 : 0;
            cavmae_status (*const upload)(cavmae__backend *, void *, const void *, size_t) =
                ahead ? backend->ops->upload_ahead : backend->ops->upload;
            fill_bytes(expected, size, i);
            memcpy(host, expected, size);
            memset(back, 0, size);
            CHECK_OK(upload(backend, device, host, size));
            memset(host, 0xEE, size);
            CHECK_OK(backend->ops->download(backend, back, device, size));
            CHECK(memcmp(back, expected, size) == 0);
            CHECK_OK(backend->ops->zero(backend, (char *)device + from, size - from));
            CHECK_OK(backend->ops->download(backend, back, device, size));
            memset(expected + from, 0, size - from);
            CHECK(memcmp(back, expected, size) == 0);
        }
    CHECK_OK(backend->ops->upload(backend, device, host, 0));
    CHECK_OK(backend->ops->upload_ahead(backend, device, host, 0));
    CHECK_OK(backend->ops->download(backend, back, device, 0));
    CHECK_OK(backend->ops->zero(backend, device, 0));
    CHECK_OK(backend->ops->sync(backend));
    backend->ops->free(backend, device);
    free(host);
    free(back);
    free(expected);
    cavmae_context_free(context);
}

/* y = x, row by row. */
static cavmae_status copy_rows(cavmae__backend *backend, const void *x, const void *first, void *y, int64_t rows,
                               int32_t width) {
    const cavmae__combine op = {.rows = rows, .width = width, .x = x, .first = first, .y = y};
    return backend->ops->combine(backend, &op);
}

/* Uploads overtake operations under way, never those that read them; many more than any ring of blocks has room for. */
static void test_uploads_ahead(void) {
    enum { ROWS = 300, WIDTH = 64, ROUNDS = 40, PLACES = 3 };
    both b;
    int32_t first[ROWS];
    twin x[PLACES], y[ROUNDS];
    open_both(&b);
    for (int32_t i = 0; i < ROWS; i++) first[i] = ROWS - 1 - i;
    twin index = twin_ints(&b, ROWS, first);
    for (int i = 0; i < PLACES; i++) x[i] = twin_output(&b, ROWS * WIDTH, CAVMAE_FLOAT32);
    for (int round = 0; round < ROUNDS; round++) {
        twin *from = &x[round % PLACES];
        y[round] = twin_output(&b, ROWS * WIDTH, CAVMAE_FLOAT32);
        /* Its last reader is done: the contract asks for that. */
        if (round % PLACES == 0) CHECK_OK(b.cuda->ops->sync(b.cuda));
        for (int64_t i = 0; i < from->count; i++) write_element(from->cpu, from->dtype, i, (float)uniform(-1, 1));
        void *host = malloc(from->size);
        memcpy(host, from->cpu, from->size);
        CHECK_OK(b.cuda->ops->upload_ahead(b.cuda, from->device, host, from->size));
        memset(host, 0xFF, from->size);
        free(host);
        CHECK_OK(copy_rows(b.cpu, from->cpu, index.cpu, y[round].cpu, ROWS, WIDTH));
        CHECK_OK(copy_rows(b.cuda, from->device, index.device, y[round].device, ROWS, WIDTH));
    }
    for (int round = 0; round < ROUNDS; round++) {
        CHECK_TWIN_EXACT(&b, &y[round]);
        twin_free(&b, &y[round]);
    }
    for (int i = 0; i < PLACES; i++) twin_free(&b, &x[i]);
    twin_free(&b, &index);
    close_both(&b);
}

/* ---- Threads ---- */

enum { THREADS = 4, EMBEDDINGS = 6, DIM = 16 };

typedef struct embedder {
    cavmae_model *model;
    cavmae_batch batch;
    float expected[DIM];
    int differences;
} embedder;

static void *embed_again_and_again(void *arg) {
    embedder *e = arg;
    for (int i = 0; i < EMBEDDINGS; i++) {
        float joint[DIM] = {0};
        const cavmae_embedding out = {.struct_size = sizeof out, .joint = joint};
        e->differences +=
            cavmae_embed(e->model, &e->batch, &out) != CAVMAE_OK || memcmp(joint, e->expected, sizeof joint) != 0;
    }
    return NULL;
}

/* Threads that share a model, and one with a context of its own. */
static void test_threads(void) {
    cavmae_context *contexts[2] = {device_context(), device_context()};
    cavmae_config *config[2];
    cavmae_model *model[2];
    embedder embedders[THREADS];
    tiny_inputs in[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < 2; i++) {
        config[i] = tiny_config(contexts[i], SMALLEST);
        CHECK_OK(cavmae_model_create(config[i], &model[i]));
    }
    for (int i = 0; i < THREADS; i++) {
        embedder *e = &embedders[i];
        in[i] = tiny_make(config[0], i, 1, NULL);
        *e = (embedder){.model = model[i == THREADS - 1], .batch = tiny_batch(&in[i], 1)};
        const cavmae_embedding out = {.struct_size = sizeof out, .joint = e->expected};
        CHECK_OK(cavmae_embed(model[0], &e->batch, &out)); /* the two models have the same parameters */
    }
    CHECK(memcmp(embedders[0].expected, embedders[1].expected, sizeof embedders[0].expected) != 0);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, embed_again_and_again, &embedders[i]) != 0) exit(2);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(embedders[i].differences == 0);
        tiny_release(&in[i]);
    }
    for (int i = 0; i < 2; i++) {
        cavmae_model_free(model[i]);
        cavmae_config_free(config[i]);
        cavmae_context_free(contexts[i]);
    }
}

/* With a tuning file, what was chosen for a shape is told. */
static void test_told_choices(void) {
    enum { ROWS = 16, WIDTH = 32 };
    char path[] = "/tmp/cavmae-device-test-XXXXXX";
    const int file = mkstemp(path);
    const int32_t start[] = {0, ROWS / 2, ROWS};
    cavmae_context_options options = device_options();
    cavmae_context *context = NULL;
    const char *info = "";
    void *qkv = NULL, *o = NULL, *starts = NULL;
    if (!CHECK(file >= 0)) return;
    close(file);
    options.tuning_file = path;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
    CHECK_OK(cavmae_context_device_info(context, &info));
    CHECK(strstr(info, "attention: own") && !strstr(info, "1x32"));
    cavmae__backend *backend = backend_of(context);
    CHECK_OK(backend->ops->alloc(backend, ROWS * 3 * WIDTH * 2, &qkv));
    CHECK_OK(backend->ops->alloc(backend, ROWS * WIDTH * 2, &o));
    CHECK_OK(backend->ops->alloc(backend, sizeof start, &starts));
    CHECK_OK(backend->ops->upload(backend, starts, start, sizeof start));
    CHECK_OK(backend->ops->zero(backend, qkv, ROWS * 3 * WIDTH * 2));
    const cavmae__attention op = {.heads = 1,
                                  .head_dim = WIDTH,
                                  .dtype = CAVMAE_BFLOAT16,
                                  .segments = {2, ROWS / 2, start, starts},
                                  .qkv = qkv,
                                  .o = o};
    CHECK_OK(backend->ops->attention(backend, &op));
    CHECK_OK(cavmae_context_device_info(context, &info));
    CHECK(strstr(info, "\ninfer/1x32/2x8 own") || strstr(info, "\ninfer/1x32/2x8 cudnn"));
    backend->ops->free(backend, qkv);
    backend->ops->free(backend, o);
    backend->ops->free(backend, starts);
    cavmae_context_free(context);
    unlink(path);
}

int main(void) {
    char memory[32];
    snprintf(memory, sizeof memory, "%d", SIMULATED_MEMORY);
    setenv("CUDASIM_MEMORY", memory, 1);
    test_thread_context();
    test_open_and_close();
    test_freed_in_any_order();
    test_told_choices();
    test_refused();
    test_too_much_at_once();
    test_no_device_memory();
    test_no_host_memory();
    test_copies();
    test_uploads_ahead();
    test_threads();
    return check_summary("cuda device");
}
