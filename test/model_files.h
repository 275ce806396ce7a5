/* Model files made tensor by tensor, for tests of what reads them. Each has a directory for them and one context. */
#ifndef CAVMAE_TEST_MODEL_FILES_H
#define CAVMAE_TEST_MODEL_FILES_H

#include <malloc.h>
#include <stdatomic.h>
#include <unistd.h>

#include "failing_allocator.h"
#include "tiny.h"

static char directory[] = "/tmp/cavmae-model-files-test-XXXXXX";
static cavmae_context *context;

static inline const char *in_directory(const char *name) {
    static char paths[16][256];
    static int next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* ---- Files made of tensors ---- */

enum { MOST = 400 };

/* Tensors on their way into a file. */
typedef struct bag {
    char name[MOST][120];
    cavmae_tensor *tensor[MOST];
    int64_t count;
} bag;

static inline float *bag_add(bag *b, const char *name, int32_t dims, const int64_t *shape) {
    if (!CHECK_OK(cavmae_tensor_create(context, CAVMAE_FLOAT32, dims, shape, &b->tensor[b->count]))) exit(1);
    float *data = cavmae_tensor_data(b->tensor[b->count]);
    tiny_fill(data, cavmae_tensor_elements(b->tensor[b->count]), (uint64_t)b->count + 1);
    snprintf(b->name[b->count++], sizeof b->name[0], "%s", name);
    return data;
}

static inline void bag_add_model(bag *b, cavmae_model *model) {
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        if (!CHECK_OK(cavmae_model_parameter(model, name, &b->tensor[b->count]))) exit(1);
        snprintf(b->name[b->count++], sizeof b->name[0], "%s", name);
    }
}

static inline int64_t bag_find(const bag *b, const char *name) {
    for (int64_t i = 0; i < b->count; i++)
        if (strcmp(b->name[i], name) == 0) return i;
    printf("no tensor %s: ", name);
    CHECK(0);
    exit(1);
}

static inline void bag_drop(bag *b, const char *name) {
    int64_t i = bag_find(b, name);
    cavmae_tensor_free(b->tensor[i]);
    b->count--;
    memmove(b->name[i], b->name[i + 1], (size_t)(b->count - i) * sizeof b->name[0]);
    memmove(&b->tensor[i], &b->tensor[i + 1], (size_t)(b->count - i) * sizeof b->tensor[0]);
}

/* All whose names contain `part`. */
static inline void bag_drop_all(bag *b, const char *part) {
    for (int64_t i = b->count - 1; i >= 0; i--)
        if (strstr(b->name[i], part)) bag_drop(b, b->name[i]);
}

static inline void bag_reshape(bag *b, const char *name, int32_t dtype, int32_t dims, const int64_t *shape) {
    int64_t i = bag_find(b, name);
    cavmae_tensor_free(b->tensor[i]);
    if (!CHECK_OK(cavmae_tensor_create(context, dtype, dims, shape, &b->tensor[i]))) exit(1);
}

static inline void bag_save(const bag *b, const char *path) {
    const char *names[MOST];
    for (int64_t i = 0; i < b->count; i++) names[i] = b->name[i];
    size_t length = strlen(path);
    if (strcmp(path + length - 4, ".pth") == 0)
        CHECK_OK(cavmae_torch_save(context, path, b->count, names, (const cavmae_tensor *const *)b->tensor, "module."));
    else
        CHECK_OK(cavmae_safetensors_save(context, path, b->count, names, (const cavmae_tensor *const *)b->tensor, 0,
                                         NULL, NULL));
}

static inline void bag_empty(bag *b) {
    for (int64_t i = 0; i < b->count; i++) cavmae_tensor_free(b->tensor[i]);
    b->count = 0;
}

static bag shared_bag; /* too large for a stack */

/* ---- Memory ---- */

static atomic_long bytes_now, bytes_most;

static inline void *counting_alloc(void *user, size_t size) {
    (void)user;
    void *memory = malloc(size);
    if (!memory) return NULL;
    long now = atomic_fetch_add(&bytes_now, (long)malloc_usable_size(memory)) + (long)malloc_usable_size(memory);
    if (now > atomic_load(&bytes_most)) atomic_store(&bytes_most, now);
    return memory;
}

static inline void counting_free(void *user, void *memory) {
    (void)user;
    atomic_fetch_sub(&bytes_now, (long)malloc_usable_size(memory));
    free(memory);
}

/* ---- Models ---- */

/* One whose every parameter is something else than it starts with; fixed tables stay. */
static inline cavmae_model *make_model(const char *settings) {
    cavmae_config *config = tiny_config(context, settings);
    cavmae_model *model = NULL;
    const char *name;
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    const int fixed = tiny_value(config, CAVMAE_P_TRAINABLE_POS) == 0;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        cavmae_tensor *view;
        if (fixed && strstr(name, "pos_embed")) continue;
        CHECK_OK(cavmae_model_parameter(model, name, &view));
        int64_t elements = cavmae_tensor_elements(view);
        float *values = malloc((size_t)elements * sizeof *values);
        tiny_fill(values, elements, (uint64_t)i + 1000);
        CHECK_OK(cavmae_model_set_parameter(model, name, values, elements));
        free(values);
        cavmae_tensor_free(view);
    }
    cavmae_config_free(config);
    return model;
}

/* A model's parameters in a file without configuration. */
static inline const char *save_bare(const char *settings, const char *name) {
    cavmae_model *model = make_model(settings);
    const char *path = in_directory(name);
    bag_add_model(&shared_bag, model);
    bag_save(&shared_bag, path);
    bag_empty(&shared_bag);
    cavmae_model_free(model);
    return path;
}

static inline cavmae_model *load(const char *path, uint32_t flags, cavmae_load_report *report) {
    cavmae_model *model = NULL;
    if (report) *report = (cavmae_load_report){.struct_size = sizeof *report};
    CHECK_OK(cavmae_model_load(context, path, flags, report, &model));
    return model;
}

static inline const float *values_of(cavmae_model *model, const char *name, int64_t *elements) {
    cavmae_tensor *view = NULL;
    if (!CHECK_OK(cavmae_model_parameter(model, name, &view))) exit(1);
    const float *values = cavmae_tensor_data(view);
    if (elements) *elements = cavmae_tensor_elements(view);
    cavmae_tensor_free(view); /* the model keeps them */
    return values;
}

static inline int64_t model_value(const cavmae_model *model, int32_t key) {
    cavmae_config *config = NULL;
    if (!CHECK_OK(cavmae_model_config(model, &config))) exit(1);
    int64_t value = tiny_value(config, key);
    cavmae_config_free(config);
    return value;
}

static inline cavmae_config *config_of(const cavmae_model *model, const char *settings) {
    cavmae_config *config = NULL;
    if (!CHECK_OK(cavmae_model_config(model, &config))) exit(1);
    tiny_set(config, settings);
    return config;
}

/* ---- No memory, at every place ---- */

/* Calls it with each of its allocations failing in turn: NOMEM, and nothing left behind. */
static inline void fail_everywhere(const char *what, cavmae_status (*call)(cavmae_context *, void *), const void *arg) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    options.threads = 1;
    cavmae_context *failing;
    CHECK_OK(cavmae_context_create(&options, &failing));
    const long before = atomic_load(&allocator.blocks);
    int good = 1;
    cavmae_status status = CAVMAE_E_NOMEM;
    union {
        const void *read;
        void *arg;
    } pointer = {.read = arg};
    CHECK_OK(call(failing, pointer.arg)); /* what a context makes once */
    long kept = atomic_load(&allocator.blocks);
    CHECK(kept >= before);
    for (long at = 1; status == CAVMAE_E_NOMEM && at < 10000; at++) {
        allocator.fail_at = atomic_load(&allocator.calls) + at;
        status = call(failing, pointer.arg);
        good &= status == CAVMAE_E_NOMEM || status == CAVMAE_OK;
        good &= atomic_load(&allocator.blocks) == kept;
    }
    allocator.fail_at = 0;
    if (!CHECK(good && status == CAVMAE_OK)) printf("    %s\n", what);
    cavmae_context_free(failing);
    CHECK(atomic_load(&allocator.blocks) == 0);
}

/* ---- */

static inline void open_directory(void) {
    if (!mkdtemp(directory)) exit(1);
    context = tiny_context(1);
}

static inline int close_directory(const char *name) {
    char command[300];
    cavmae_context_free(context);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    CHECK(system(command) == 0);
    return check_summary(name);
}

#endif
