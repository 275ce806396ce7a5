#define _GNU_SOURCE /* sched_getaffinity */
#include "context_internal.h"

#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device_plugin.h"
#include "plugin.h"
#include "record.h"

enum { ALIGNMENT = 64, MAX_THREADS = 1024, MAX_DEVICE_NUMBER = 255, LOG_SIZE = 1024 };

/* ---- Memory ---- */

static void *system_alloc(void *user, size_t size) {
    (void)user;
    return malloc(size);
}

static void system_free(void *user, void *memory) {
    (void)user;
    free(memory);
}

/* The caller's allocator aligns for any type, no further: so a block is taken larger, and the address to give
 * back lies just before the aligned one. */
static void *aligned_alloc_with(const cavmae_context_options *options, size_t size) {
    const size_t extra = ALIGNMENT - 1 + sizeof(void *);
    if (size > PTRDIFF_MAX - extra) return NULL;
    char *raw = options->alloc(options->alloc_user, size + extra);
    if (!raw) return NULL;
    char *first = raw + sizeof(void *);
    char *block = first + (ALIGNMENT - (uintptr_t)first % ALIGNMENT) % ALIGNMENT;
    memcpy(block - sizeof raw, &raw, sizeof raw);
    return block;
}

static void aligned_free_with(const cavmae_context_options *options, void *block) {
    char *raw;
    memcpy(&raw, (char *)block - sizeof raw, sizeof raw);
    options->free(options->alloc_user, raw);
}

void *cavmae__alloc(cavmae_context *context, size_t size) {
    void *block = aligned_alloc_with(&context->options, size);
    if (!block) cavmae__fail(CAVMAE_E_NOMEM, "the allocator has no %zu bytes", size);
    return block;
}

void *cavmae__alloc_zero(cavmae_context *context, size_t size) {
    void *block = cavmae__alloc(context, size);
    if (block) memset(block, 0, size);
    return block;
}

void *cavmae__alloc_array(cavmae_context *context, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        cavmae__fail(CAVMAE_E_NOMEM, "%zu elements of %zu bytes are more than memory can hold", count, size);
        return NULL;
    }
    return cavmae__alloc(context, bytes);
}

void *cavmae__realloc(cavmae_context *context, void *p, size_t old_size, size_t new_size) {
    void *block = cavmae__alloc(context, new_size);
    if (!block || !p) return block;
    memcpy(block, p, old_size < new_size ? old_size : new_size);
    cavmae__free(context, p);
    return block;
}

void cavmae__free(cavmae_context *context, void *p) {
    if (p) aligned_free_with(&context->options, p);
}

char *cavmae__strdup(cavmae_context *context, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = cavmae__alloc(context, size);
    return copy ? memcpy(copy, text, size) : NULL;
}

/* ---- The caller's callbacks ---- */

void cavmae__log(cavmae_context *context, int32_t level, const char *format, ...) {
    char text[LOG_SIZE];
    va_list arguments;
    if (!context->options.log || level > context->options.log_level) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cavmae__no_controls(text);
    context->options.log(context->options.log_user, level, text);
}

/* Of a thread of the library's own. */
static _Thread_local int never_cancelled;

void cavmae__never_cancel_this_thread(void) { never_cancelled = 1; }

cavmae_status cavmae__check_cancel(cavmae_context *context) {
    if (never_cancelled || !context->options.cancel || !context->options.cancel(context->options.cancel_user))
        return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_CANCELLED, "the cancel callback ended the call");
}

void cavmae__progress(cavmae_context *context, const char *what, int64_t done, int64_t total) {
    if (context->options.progress) context->options.progress(context->options.progress_user, what, done, total);
}

/* ---- Threads ---- */

static int32_t usable_processors(void) {
    cpu_set_t set;
    long count;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
    else
        count = sysconf(_SC_NPROCESSORS_ONLN); /* a machine with more processors than cpu_set_t has bits */
    return count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : (int32_t)count;
}

void cavmae__parallel(cavmae_context *context, int64_t count, cavmae__task *task, void *arg) {
    cavmae__pool_run(context->pool, count, task, arg);
}

/* ---- Device ---- */

/* "cuda" and "cuda:N" to a number. */
static int parse_cuda(const char *device, int *number) {
    if (strncmp(device, "cuda", 4) != 0) return 0;
    *number = 0;
    if (device[4] == '\0') return 1;
    if (device[4] != ':' || device[5] == '\0') return 0;
    for (const char *digit = device + 5; *digit; digit++) {
        if (*digit < '0' || *digit > '9') return 0;
        *number = *number * 10 + (*digit - '0');
        if (*number > MAX_DEVICE_NUMBER) return 0;
    }
    return 1;
}

/* Number of a word among `count`; NULL: the first. */
static cavmae_status choose(const char *what, const char *word, const char *const *words, int32_t count, int32_t *out) {
    for (int32_t i = 0; i < count; i++)
        if (!word || strcmp(word, words[i]) == 0) {
            *out = i;
            return CAVMAE_OK;
        }
    return cavmae__fail(CAVMAE_E_ARG, "%s \"%s\" is none of \"%s\", \"%s\", \"%s\"", what, word, words[0], words[1],
                        words[2]);
}

static cavmae_status read_choices(cavmae_context *context, const cavmae_context_options *options) {
    static const char *const matmuls[] = {"dtype", "tf32", "fp8"}, *const attentions[] = {"auto", "own", "cudnn"};
    CAVMAE__TRY(choose("matmul", options->matmul, matmuls, 3, &context->matmul));
    CAVMAE__TRY(choose("attention", options->attention, attentions, 3, &context->attention));
    context->options.matmul = matmuls[context->matmul];
    context->options.attention = attentions[context->attention];
    return CAVMAE_OK;
}

cavmae__device_choices cavmae__context_choices(const cavmae_context *context) {
    return (cavmae__device_choices){context->matmul, context->attention, context->options.exact_gelu};
}

/* A processor has float32 products and one attention; tf32 is a permission. */
static cavmae_status check_cpu_choices(const cavmae_context *context) {
    if (context->matmul == CAVMAE__MATMUL_FP8)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "matmul \"fp8\": the device is a CPU");
    if (context->attention == CAVMAE__ATTENTION_CUDNN)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "attention \"cudnn\": the device is a CPU");
    return CAVMAE_OK;
}

static const char *tuning_file(const cavmae_context *context) { return context->tuning_file; }

static cavmae_status open_backend(cavmae_context *context, int number) {
    static const cavmae__library library = {.fail = cavmae__fail,
                                            .alloc = cavmae__alloc,
                                            .free = cavmae__free,
                                            .log = cavmae__log,
                                            .last_error = cavmae_last_error,
                                            .tuning_file = tuning_file};
    void *symbol;
    CAVMAE__TRY(
        cavmae__plugin_open(context, "libcavmae-cuda.so", "cavmae_cuda_plugin", &context->device_plugin, &symbol));
    cavmae__device_plugin_get *get;
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from an object's pointer to a function's */
    const cavmae__device_plugin *plugin = get();
    cavmae_status status = CAVMAE_OK;
    if (plugin->struct_size != sizeof *plugin || plugin->library_size != sizeof library ||
        strcmp(plugin->version, cavmae_version_string()) != 0)
        status = cavmae__fail(CAVMAE_E_BACKEND,
                              "libcavmae-cuda.so is of version %s, this library of %s; or they are of different builds",
                              plugin->version, cavmae_version_string());
    if (status == CAVMAE_OK) status = plugin->open(&library, context, number, &context->backend);
    if (status == CAVMAE_OK) {
        context->backend_close = plugin->close;
        context->device_functions = plugin;
    }
    return status;
}

static cavmae_status open_device(cavmae_context *context, const char *device) {
    int number = 0;
    int automatic = strcmp(device, "auto") == 0;
    memcpy(context->device, "cpu", sizeof "cpu");
    if (strcmp(device, "cpu") == 0) return check_cpu_choices(context);
    if (!automatic && !parse_cuda(device, &number))
        return cavmae__fail(CAVMAE_E_ARG,
                            "device \"%s\" is none of \"cpu\", \"cuda\", \"cuda:0\" to \"cuda:%d\", \"auto\"", device,
                            MAX_DEVICE_NUMBER);

    cavmae_status status = open_backend(context, number);
    if (status == CAVMAE_OK) {
        snprintf(context->device, sizeof context->device, "cuda:%d", number);
        return CAVMAE_OK;
    }
    if (!automatic) return cavmae__fail_prefix(status, "device \"%s\"", device);
    if (status == CAVMAE_E_NOMEM) return status;
    cavmae__log(context, CAVMAE_LOG_INFO, "device \"auto\" is the CPU: %s", cavmae_last_error());
    return check_cpu_choices(context);
}

/* ---- Life ---- */

/* The caller's options with every default filled in. */
static cavmae_status complete_options(const cavmae_context_options *given, cavmae_context_options *options) {
    if (given)
        CAVMAE__TRY(cavmae__record_in(options, sizeof *options, given));
    else
        memset(options, 0, sizeof *options);

    if (options->threads < 0 || options->threads > MAX_THREADS)
        return cavmae__fail(CAVMAE_E_ARG, "threads is %d, not in 0 to %d", (int)options->threads, MAX_THREADS);
    if (options->reserved != 0)
        return cavmae__fail(CAVMAE_E_ARG, "reserved of the context's options is %d, not 0", (int)options->reserved);
    if (!options->alloc != !options->free)
        return cavmae__fail(CAVMAE_E_ARG, "alloc and free go together; only one is given");

    if (options->reserved2 != 0 || (options->exact_gelu != 0 && options->exact_gelu != 1))
        return cavmae__fail(CAVMAE_E_ARG,
                            "exact_gelu of the context's options is %d, not 0 or 1; reserved2 is %d, not 0",
                            (int)options->exact_gelu, (int)options->reserved2);
    if (options->plugin_dir && !*options->plugin_dir) /* would be the current directory */
        return cavmae__fail(CAVMAE_E_ARG, "plugin_dir is empty; NULL means beside the library");

    if (options->threads == 0) options->threads = usable_processors();
    if (!options->device) options->device = "cpu";
    if (options->log_level == 0) options->log_level = CAVMAE_LOG_WARNING;
    if (!options->alloc) {
        options->alloc = system_alloc;
        options->free = system_free;
    }
    return CAVMAE_OK;
}

static void destroy(cavmae_context *context) {
    cavmae_context_options options = context->options;
    if (context->backend_close) context->backend_close(context->backend);
    cavmae__pool_free(context, context->pool);
    cavmae__plugin_close(context->media_plugin);
    cavmae__plugin_close(context->device_plugin);
    cavmae__free(context, context->plugin_dir);
    cavmae__free(context, context->tuning_file);
    pthread_mutex_destroy(&context->lock);
    aligned_free_with(&options, context);
}

static cavmae_status own_text(cavmae_context *context, const char *given, char **own) {
    if (given && !(*own = cavmae__strdup(context, given))) return CAVMAE_E_NOMEM;
    return CAVMAE_OK;
}

cavmae_status cavmae_context_create(const cavmae_context_options *given, cavmae_context **out) {
    cavmae_context_options options;
    cavmae_status status = CAVMAE_OK;
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_context_create: out is NULL");
    CAVMAE__TRY(complete_options(given, &options));

    cavmae_context *context = aligned_alloc_with(&options, sizeof *context);
    if (!context) return cavmae__fail(CAVMAE_E_NOMEM, "the allocator has no %zu bytes for a context", sizeof *context);
    memset(context, 0, sizeof *context);
    context->options = options;
    atomic_init(&context->references, 1);
    pthread_mutex_init(&context->lock, NULL);

    CAVMAE__TRY_OUT(own_text(context, options.plugin_dir, &context->plugin_dir));
    CAVMAE__TRY_OUT(own_text(context, options.tuning_file, &context->tuning_file));
    CAVMAE__TRY_OUT(read_choices(context, &options));
    CAVMAE__TRY_OUT(open_device(context, options.device));
    CAVMAE__TRY_OUT(cavmae__pool_create(context, options.threads, &context->pool));
    context->options.device = context->device;
    context->options.plugin_dir = context->plugin_dir;
    context->options.tuning_file = context->tuning_file;
    *out = context;
    return CAVMAE_OK;

out:
    destroy(context);
    return status;
}

cavmae_context *cavmae__context_ref(cavmae_context *context) {
    atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
    return context;
}

void cavmae__context_unref(cavmae_context *context) {
    if (context && atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) == 1) destroy(context);
}

void cavmae_context_free(cavmae_context *context) { cavmae__context_unref(context); }

const char *cavmae_context_device(const cavmae_context *context) { return context ? context->device : NULL; }

int32_t cavmae_context_threads(const cavmae_context *context) { return context ? context->options.threads : 0; }

int32_t cavmae__context_threads(const cavmae_context *context) { return context->options.threads; }

const cavmae__device_plugin *cavmae__context_device_plugin(const cavmae_context *context) {
    return context->device_functions;
}

const char *cavmae__context_plugin_dir(const cavmae_context *context) { return context->plugin_dir; }
