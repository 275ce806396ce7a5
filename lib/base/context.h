/* The context: allocator, log, cancellation and threads, given by the caller and shared by every handle
 * made from it. Reference-counted, so that handles may be freed in any order. */
#ifndef CAVMAE_BASE_CONTEXT_H
#define CAVMAE_BASE_CONTEXT_H

#include "status.h"

/* Reference counts are atomic: handles of one context may be freed on different threads. */
cavmae_context *cavmae__context_ref(cavmae_context *context);
void cavmae__context_unref(cavmae_context *context);

/* Memory of the context's allocator, aligned to 64 bytes; NULL and an error text when there is none.
 * A size of 0 gives a valid pointer. alloc_array checks count * size for overflow. */
void *cavmae__alloc(cavmae_context *context, size_t size);
void *cavmae__alloc_zero(cavmae_context *context, size_t size);
void *cavmae__alloc_array(cavmae_context *context, size_t count, size_t size);
/* Contents kept up to min(old_size, new_size). On failure the old block stays valid. NULL p: alloc. */
void *cavmae__realloc(cavmae_context *context, void *p, size_t old_size, size_t new_size);
void cavmae__free(cavmae_context *context, void *p); /* NULL is fine */
char *cavmae__strdup(cavmae_context *context, const char *text);

/* The same with a status: for use with TRY_OUT. *out is written only on success. */
#define CAVMAE__NEW(context, out, count)                                                                               \
    ((*(out) = cavmae__alloc_array((context), (size_t)(count), sizeof **(out))) ? CAVMAE_OK : CAVMAE_E_NOMEM)

void cavmae__log(cavmae_context *context, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* CAVMAE_E_CANCELLED (with text) when the caller's cancel callback says so; asked between layers. The callback is asked in
 * threads of the caller's only: what the library's own do is ended by who waits for them. */
cavmae_status cavmae__check_cancel(cavmae_context *context);
void cavmae__never_cancel_this_thread(void);

/* Reports progress to the caller's callback, if any. */
void cavmae__progress(cavmae_context *context, const char *what, int64_t done, int64_t total);

int32_t cavmae__context_threads(const cavmae_context *context); /* >= 1, the calling thread included */
/* How a device is to compute: the options' words as numbers. */
enum { CAVMAE__MATMUL_DTYPE, CAVMAE__MATMUL_TF32, CAVMAE__MATMUL_FP8 };
enum { CAVMAE__ATTENTION_AUTO, CAVMAE__ATTENTION_OWN, CAVMAE__ATTENTION_CUDNN };
typedef struct cavmae__device_choices {
    int32_t matmul, attention, exact_gelu;
} cavmae__device_choices;
cavmae__device_choices cavmae__context_choices(const cavmae_context *context);

const char *cavmae__context_plugin_dir(const cavmae_context *context); /* NULL: beside the library */
/* Of the context's device (device_plugin.h); NULL: it has none, being a CPU. */
const struct cavmae__device_plugin *cavmae__context_device_plugin(const cavmae_context *context);

/* Runs task(arg, i, worker) for i in [0, count) on the context's threads and the caller's; returns when all
 * have ended. worker in [0, threads) is stable within one task: index per-thread scratch with it. Which
 * thread takes which i is not fixed, so a task's result must depend on i alone. Calls from several threads
 * of one context take turns. Must not be called from within a task. */
typedef void cavmae__task(void *arg, int64_t i, int32_t worker);
void cavmae__parallel(cavmae_context *context, int64_t count, cavmae__task *task, void *arg);

#endif
