/* lib/base: status, records, context, allocator, pool, plug-ins, tensors, Philox. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "context_internal.h"
#include "dlpack_abi.h"
#include "failing_allocator.h"
#include "philox.h"
#include "plugin.h"
#include "record.h"
#include "tensor.h"

/* ---- Status, version ---- */

static void *fail_elsewhere(void *arg) {
    (void)arg;
    CHECK(strcmp(cavmae_last_error(), "") == 0);
    cavmae__fail(CAVMAE_E_IO, "elsewhere");
    return NULL;
}

static void test_status(void) {
    pthread_t thread;
    char longer[2000];
    CHECK(strcmp(cavmae_last_error(), "") == 0);
    CHECK(cavmae__fail(CAVMAE_E_IO, "file \"%s\"", "x") == CAVMAE_E_IO);
    CHECK(strcmp(cavmae_last_error(), "file \"x\"") == 0);
    CHECK(cavmae__fail_prefix(CAVMAE_E_ARG, "line %d", 7) == CAVMAE_E_ARG);
    CHECK(strcmp(cavmae_last_error(), "line 7: file \"x\"") == 0);
    cavmae__fail(CAVMAE_E_ARG, "again: %s", cavmae_last_error());
    CHECK(strcmp(cavmae_last_error(), "again: line 7: file \"x\"") == 0);
    pthread_create(&thread, NULL, fail_elsewhere, NULL);
    pthread_join(thread, NULL);
    CHECK(strcmp(cavmae_last_error(), "again: line 7: file \"x\"") == 0);
    cavmae__fail(CAVMAE_E_ARG, "tensor %s", "\x1b[2Ja\tb\x7f\xc3\xa9"); /* a file's words do not rule the terminal */
    CHECK(strcmp(cavmae_last_error(), "tensor ?[2Ja?b?\xc3\xa9") == 0);
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    cavmae__fail(CAVMAE_E_ARG, "%s", longer);
    CHECK(strlen(cavmae_last_error()) == 511);

    CHECK(strcmp(cavmae_status_str(CAVMAE_OK), "ok") == 0);
    for (cavmae_status s = CAVMAE_E_STATE; s < CAVMAE_OK; s++)
        CHECK(strcmp(cavmae_status_str(s), cavmae_status_str(1)) != 0);
    CHECK(strcmp(cavmae_status_str(CAVMAE_E_INTERNAL), cavmae_status_str(1)) != 0);
    snprintf(longer, sizeof longer, "%d.%d.%d", CAVMAE_VERSION_MAJOR, CAVMAE_VERSION_MINOR, CAVMAE_VERSION_PATCH);
    CHECK(strcmp(longer, CAVMAE_VERSION_STRING) == 0);
    CHECK(cavmae_version() == CAVMAE_VERSION_NUMBER);
    CHECK(strcmp(cavmae_version_string(), CAVMAE_VERSION_STRING) == 0);
    CHECK(strstr(cavmae_build_info(), "version=" CAVMAE_VERSION_STRING " compiler=") == cavmae_build_info());
}

/* ---- Records ---- */

typedef struct record_v1 {
    uint32_t struct_size;
    int32_t a;
} record_v1;

typedef struct record_v2 {
    uint32_t struct_size;
    int32_t a;
    int64_t b;
} record_v2;

static void test_records(void) {
    record_v1 small = {sizeof small, 3};
    record_v2 large = {sizeof large, 4, 5}, own;
    CHECK_OK(cavmae__record_in(&own, sizeof own, &small));
    CHECK(own.a == 3 && own.b == 0 && own.struct_size == sizeof small);
    CHECK_OK(cavmae__record_in(&small, sizeof small, &large)); /* a newer caller */
    CHECK(small.a == 4);

    record_v1 pair[2] = {{sizeof(record_v1), 1}, {77, 88}};
    own = (record_v2){sizeof own, 6, 7};
    CHECK_OK(cavmae__record_out(&pair[0], &own, sizeof own));
    CHECK(pair[0].struct_size == sizeof(record_v1) && pair[0].a == 6 && pair[1].struct_size == 77 && pair[1].a == 88);
    small = (record_v1){sizeof small, 9};
    CHECK_OK(cavmae__record_out(&large, &small, sizeof small));
    CHECK(large.struct_size == sizeof large && large.a == 9 && large.b == 0);

    small.struct_size = 0;
    CHECK_STATUS(cavmae__record_in(&own, sizeof own, &small), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__record_out(&small, &own, sizeof own), CAVMAE_E_ARG);
    small.struct_size = 4;
    CHECK_STATUS(cavmae__record_in(&own, sizeof own, &small), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae__record_in(&own, sizeof own, NULL), CAVMAE_E_ARG);
}

/* ---- Context ---- */

static void count_log(void *user, int32_t level, const char *message) {
    int *counts = user;
    CHECK(message[0] != '\0');
    counts[level / 10]++;
}

static int32_t say_yes(void *user) { return *(int *)user; }

static void keep_progress(void *user, const char *what, int64_t done, int64_t total) {
    CHECK(strcmp(what, "bytes") == 0);
    *(int64_t *)user = done * 1000 + total;
}

static void test_context(void) {
    cavmae_context *context = NULL;
    cavmae_context_options options = {0};
    int logged[5] = {0}, cancel = 0;
    int64_t progress = 0;

    CHECK_OK(cavmae_context_create(NULL, &context));
    CHECK(strcmp(cavmae_context_device(context), "cpu") == 0);
    CHECK(cavmae_context_threads(context) >= 1);
    CHECK(cavmae__context_plugin_dir(context) == NULL);
    cavmae_context_free(context);
    cavmae_context_free(NULL);
    CHECK_STATUS(cavmae_context_create(NULL, NULL), CAVMAE_E_ARG);

    context = NULL;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG); /* struct_size 0 */
    options.struct_size = sizeof options;
    options.threads = -1;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    options.threads = 3;
    options.reserved = 1;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    options.reserved = 0;
    options.alloc = failing_alloc;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    options.alloc = NULL;
    options.plugin_dir = "";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    options.plugin_dir = "/nonexistent";
    static const char *const wrong[] = {"",      "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:256", "cuda:99999999999",
                                        "cuda0", "cpu "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.device = wrong[i];
        CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    }
    options.device = "cuda:1";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_BACKEND);
    CHECK(strstr(cavmae_last_error(), "cuda:1") && strstr(cavmae_last_error(), "/nonexistent/libcavmae-cuda.so"));
    CHECK(context == NULL);

    options.device = "cpu";
    options.matmul = "fp16";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "fp16"));
    options.matmul = "fp8";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_UNSUPPORTED);
    options.matmul = "tf32"; /* a permission */
    options.attention = "cudnn";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_UNSUPPORTED);
    options.attention = "flash";
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "flash"));
    options.attention = "own";
    options.exact_gelu = 2;
    CHECK_STATUS(cavmae_context_create(&options, &context), CAVMAE_E_ARG);
    options.exact_gelu = 1;
    options.tuning_file = "/nonexistent/tuning"; /* a CPU has nothing to choose */

    options.device = "auto";
    options.log = count_log;
    options.log_user = logged;
    options.log_level = CAVMAE_LOG_INFO;
    options.cancel = say_yes;
    options.cancel_user = &cancel;
    options.progress = keep_progress;
    options.progress_user = &progress;
    if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
    CHECK(strcmp(cavmae_context_device(context), "cpu") == 0);
    CHECK(strcmp(cavmae__context_plugin_dir(context), "/nonexistent") == 0);
    CHECK(cavmae_context_threads(context) == 3);
    const cavmae__device_choices choices = cavmae__context_choices(context);
    CHECK(choices.matmul == CAVMAE__MATMUL_TF32 && choices.attention == CAVMAE__ATTENTION_OWN && choices.exact_gelu);
    CHECK(logged[3] == 1);
    cavmae__log(context, CAVMAE_LOG_DEBUG, "not wanted");
    cavmae__log(context, CAVMAE_LOG_ERROR, "wanted: %d", 1);
    CHECK(logged[4] == 0 && logged[1] == 1);
    CHECK_OK(cavmae__check_cancel(context));
    cancel = 1;
    CHECK_STATUS(cavmae__check_cancel(context), CAVMAE_E_CANCELLED);
    cavmae__progress(context, "bytes", 3, 7);
    CHECK(progress == 3007);
    cavmae_context_free(context);
}

static void test_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    options.plugin_dir = "/nonexistent";
    long n = 0;
    do { /* the Nth allocation of a context fails */
        allocator.calls = 0;
        allocator.fail_at = ++n;
    } while (cavmae_context_create(&options, &context) == CAVMAE_E_NOMEM && CHECK(allocator.blocks == 0) && n < 100);
    CHECK(n > 2 && context != NULL);
    if (!context) return;

    allocator.fail_at = 0;
    for (size_t size = 0; size < 300; size += 7) {
        char *block = cavmae__alloc(context, size);
        CHECK(block && (uintptr_t)block % 64 == 0);
        memset(block, 1, size);
        block = cavmae__realloc(context, block, size, size + 100);
        CHECK(block && (uintptr_t)block % 64 == 0 && (size == 0 || block[size - 1] == 1));
        cavmae__free(context, block);
    }
    cavmae__free(context, NULL);
    char *zeros = cavmae__alloc_zero(context, 3), *text = cavmae__strdup(context, "text");
    CHECK(zeros[0] == 0 && zeros[2] == 0 && strcmp(text, "text") == 0);
    cavmae__free(context, text);

    CHECK(cavmae__alloc(context, SIZE_MAX) == NULL);
    CHECK(cavmae__alloc_array(context, SIZE_MAX / 2, 3) == NULL);
    allocator.fail_at = allocator.calls + 1;
    zeros[2] = 5;
    CHECK(cavmae__realloc(context, zeros, 3, 6) == NULL && zeros[2] == 5);
    CHECK(strstr(cavmae_last_error(), "6 bytes"));
    cavmae__free(context, zeros);

    /* What was made from a context keeps it alive. */
    int64_t shape[2] = {2, 3};
    cavmae_tensor *tensor = NULL;
    allocator.fail_at = 0;
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 2, shape, &tensor));
    cavmae_context_free(context);
    CHECK(allocator.blocks > 0);
    cavmae_tensor_free(tensor);
    CHECK(allocator.blocks == 0);
}

/* ---- Pool ---- */

typedef struct job {
    unsigned char *hits;
    atomic_int busy[8];
    atomic_int overlaps, strays;
    int32_t threads;
} job;

static void hit(void *arg, int64_t i, int32_t worker) {
    job *j = arg;
    if (worker < 0 || worker >= j->threads) {
        atomic_fetch_add(&j->strays, 1);
        return;
    }
    if (atomic_fetch_add(&j->busy[worker], 1) != 0) atomic_fetch_add(&j->overlaps, 1);
    j->hits[i]++;
    atomic_fetch_sub(&j->busy[worker], 1);
}

typedef struct user_thread {
    cavmae_context *context;
    int wrong;
} user_thread;

enum { MOST_TASKS = 257, REGIONS = 300 };

static void *run_regions(void *arg) {
    user_thread *user = arg;
    unsigned char hits[MOST_TASKS];
    job j = {.hits = hits, .threads = cavmae_context_threads(user->context)};
    for (int round = 0; round < REGIONS; round++) {
        int count = (round * 7) % (MOST_TASKS + 1);
        if (round % 5 == 0) count %= 4;
        memset(hits, 0, sizeof hits);
        cavmae__parallel(user->context, count, hit, &j);
        for (int i = 0; i < MOST_TASKS; i++) user->wrong += hits[i] != (i < count);
    }
    user->wrong += j.overlaps + j.strays;
    return NULL;
}

static void test_pool(void) {
    for (int32_t threads = 1; threads <= 8; threads++) {
        cavmae_context_options options = {.struct_size = sizeof options, .threads = threads};
        cavmae_context *context = NULL;
        if (!CHECK_OK(cavmae_context_create(&options, &context))) return;
        cavmae__parallel(context, 0, hit, NULL);
        user_thread users[3] = {{context, 0}, {context, 0}, {context, 0}};
        pthread_t ids[3];
        for (int i = 1; i < 3; i++) pthread_create(&ids[i], NULL, run_regions, &users[i]);
        run_regions(&users[0]);
        for (int i = 1; i < 3; i++) pthread_join(ids[i], NULL);
        CHECK(users[0].wrong == 0 && users[1].wrong == 0 && users[2].wrong == 0);
        struct timespec nap = {0, 2000000}; /* long enough for the workers to fall asleep */
        nanosleep(&nap, NULL);
        run_regions(&users[0]);
        CHECK(users[0].wrong == 0);
        cavmae_context_free(context);
    }
}

/* ---- Plug-ins ---- */

static void test_plugin(void) {
    cavmae_context *context = NULL;
    void *handle = &context, *symbol = &context;
    CHECK_OK(cavmae_context_create(NULL, &context));
    CHECK_STATUS(cavmae__plugin_open(context, "libcavmae-none.so", "nothing", &handle, &symbol), CAVMAE_E_BACKEND);
    CHECK(strstr(cavmae_last_error(), "/libcavmae-none.so"));
    CHECK(handle == &context && symbol == &context);
    cavmae__plugin_close(NULL);
    cavmae_context_free(context);
}

/* ---- Tensors ---- */

static void count_release(void *user) { ++*(int *)user; }

static void test_tensor(cavmae_context *context) {
    int64_t shape[] = {2, 3, 4}, none[] = {5, 0}, negative[] = {2, -1};
    int64_t large[] = {(int64_t)1 << 40, (int64_t)1 << 40}, hidden[] = {(int64_t)1 << 40, (int64_t)1 << 40, 0};
    int64_t many[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    cavmae_tensor *tensor = NULL;
    float value = 3;
    int released = 0;

    if (!CHECK_OK(cavmae_tensor_create(context, CAVMAE_INT16, 3, shape, &tensor))) return;
    CHECK(cavmae_tensor_dtype(tensor) == CAVMAE_INT16 && cavmae_tensor_dims(tensor) == 3 &&
          cavmae_tensor_elements(tensor) == 24);
    CHECK(memcmp(cavmae_tensor_shape(tensor), shape, sizeof shape) == 0);
    for (int i = 0; i < 24; i++) CHECK(((int16_t *)cavmae_tensor_data(tensor))[i] == 0);
    cavmae_tensor_free(tensor);
    cavmae_tensor_free(NULL);

    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 0, NULL, &tensor));
    CHECK(cavmae_tensor_elements(tensor) == 1);
    cavmae_tensor_free(tensor);
    CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, 2, none, &tensor));
    CHECK(cavmae_tensor_elements(tensor) == 0 && cavmae_tensor_data(tensor) != NULL);
    cavmae_tensor_free(tensor);

    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 2, negative, &tensor), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 2, large, &tensor), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 3, hidden, &tensor), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 9, many, &tensor), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, -1, shape, &tensor), CAVMAE_E_SHAPE);
    CHECK_STATUS(cavmae_tensor_create(context, 0, 1, shape, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_BOOL + 1, 1, shape, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_tensor_create(NULL, CAVMAE_FLOAT32, 1, shape, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, NULL, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_tensor_create(context, CAVMAE_FLOAT32, 1, shape, NULL), CAVMAE_E_ARG);

    CHECK_STATUS(cavmae_tensor_wrap(context, NULL, CAVMAE_FLOAT32, 1, shape, count_release, &released, &tensor),
                 CAVMAE_E_ARG);
    CHECK(released == 0);
    CHECK_OK(cavmae_tensor_wrap(context, &value, CAVMAE_FLOAT32, 0, NULL, count_release, &released, &tensor));
    CHECK(cavmae_tensor_data(tensor) == &value);
    cavmae_tensor_free(tensor);
    CHECK(released == 1);
    CHECK(strcmp(cavmae__dtype_name(CAVMAE_BFLOAT16), "bfloat16") == 0 && cavmae__dtype_size(CAVMAE_FLOAT64) == 8);
    CHECK(cavmae__dtype_size(-1) == 0 && cavmae__dtype_size(99) == 0);
}

static int deleted;

static void count_delete(DLManagedTensor *self) {
    (void)self;
    deleted++;
}

static void test_dlpack(cavmae_context *context) {
    int64_t shape[] = {2, 1, 3}, strides[] = {3, 99, 1}, transposed[] = {1, 99, 2};
    cavmae_tensor *tensor = NULL, *again = NULL;
    DLManagedTensor *managed = NULL;

    for (int32_t dtype = CAVMAE_FLOAT32; dtype <= CAVMAE_BOOL; dtype++) {
        if (!CHECK_OK(cavmae_tensor_create(context, dtype, 3, shape, &tensor))) return;
        CHECK_OK(cavmae_tensor_to_dlpack(tensor, &managed));
        void *data = cavmae_tensor_data(tensor);
        cavmae_tensor_free(tensor); /* the struct keeps the memory */
        CHECK_OK(cavmae_tensor_from_dlpack(context, managed, &again));
        CHECK(cavmae_tensor_dtype(again) == dtype && cavmae_tensor_dims(again) == 3 &&
              cavmae_tensor_data(again) == data);
        CHECK(memcmp(cavmae_tensor_shape(again), shape, sizeof shape) == 0);
        cavmae_tensor_free(again);
    }

    float values[8] = {0};
    DLManagedTensor foreign = {
        {values, {DLPACK_CPU, 0}, 3, {DLPACK_FLOAT, 32, 1}, shape, strides, 8}, NULL, count_delete};
    CHECK_OK(cavmae_tensor_from_dlpack(context, &foreign, &tensor));
    CHECK(cavmae_tensor_data(tensor) == &values[2] && deleted == 0);
    cavmae_tensor_free(tensor);
    CHECK(deleted == 1);

    DLManagedTensor bad = foreign;
    bad.dl_tensor.strides = transposed;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_UNSUPPORTED);
    bad = foreign;
    bad.dl_tensor.device.device_type = 2;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_UNSUPPORTED);
    bad = foreign;
    bad.dl_tensor.dtype.lanes = 4;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_UNSUPPORTED);
    bad = foreign;
    bad.dl_tensor.ndim = 9;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_SHAPE);
    bad = foreign;
    bad.dl_tensor.shape = NULL;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_ARG);
    bad = foreign;
    bad.dl_tensor.data = NULL;
    CHECK_STATUS(cavmae_tensor_from_dlpack(context, &bad, &tensor), CAVMAE_E_ARG);
    CHECK(deleted == 1); /* on failure the caller keeps it */
    CHECK_STATUS(cavmae_tensor_to_dlpack(NULL, &managed), CAVMAE_E_ARG);
}

/* ---- Philox: the known answers published with Random123 ---- */

static void test_philox(void) {
    static const struct {
        cavmae__philox stream;
        uint32_t block, answer[4];
    } known[] = {
        {{{0, 0}, {0, 0, 0, 0}}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{{0xffffffff, 0xffffffff}, {0, 0xffffffff, 0xffffffff, 0xffffffff}},
         0xffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{{0xa4093822, 0x299f31d0}, {0, 0x85a308d3, 0x13198a2e, 0x03707344}},
         0x243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        cavmae__philox_block(&known[i].stream, known[i].block, out);
        CHECK(memcmp(out, known[i].answer, sizeof out) == 0);
    }
    cavmae__philox stream = cavmae__philox_key(1, CAVMAE__PURPOSE_INIT, 2, 3);
    for (uint64_t i = 0; i < 100; i++) {
        float u = cavmae__philox_uniform(&stream, i);
        CHECK(u >= 0 && u < 1 && cavmae__philox_below(&stream, i, 7) < 7);
    }
}

int main(void) {
    cavmae_context *context = NULL;
    test_status();
    test_records();
    test_context();
    test_memory();
    test_pool();
    test_plugin();
    CHECK_OK(cavmae_context_create(NULL, &context));
    test_tensor(context);
    test_dlpack(context);
    cavmae_context_free(context);
    test_philox();
    return check_summary("base");
}
