/* Worlds: their making and end, and the collectives as the library's own code calls them. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "record.h"
#include "tensor.h"
#include "world_internal.h"

enum { DEFAULT_TIMEOUT = 30, MAX_SIZE = 1 << 16 };

/* ---- Options ---- */

cavmae_status cavmae__world_options_in(const cavmae_world_options *given, int ranked, cavmae_world_options *options) {
    memset(options, 0, sizeof *options);
    if (given) CAVMAE__TRY(cavmae__record_in(options, sizeof *options, given));
    if (ranked && !given) return cavmae__fail(CAVMAE_E_ARG, "the options of a world are NULL: which rank is this?");
    if (ranked && (options->size < 1 || options->size > MAX_SIZE))
        return cavmae__fail(CAVMAE_E_ARG, "a world's size is %d, not in 1 to %d", (int)options->size, MAX_SIZE);
    if (ranked && (options->rank < 0 || options->rank >= options->size))
        return cavmae__fail(CAVMAE_E_ARG, "rank %d is not in a world of %d", (int)options->rank, (int)options->size);
    if (options->reserved != 0)
        return cavmae__fail(CAVMAE_E_ARG, "reserved of a world's options is %d, not 0", (int)options->reserved);
    if (!isfinite(options->timeout) || options->timeout < 0 || options->timeout > 1e6)
        return cavmae__fail(CAVMAE_E_ARG, "a world's timeout is not in 0 to 1000000 seconds");
    if (options->watch_dir && !*options->watch_dir)
        return cavmae__fail(CAVMAE_E_ARG, "watch_dir of a world is empty; NULL means none");
    if (options->timeout == 0) options->timeout = DEFAULT_TIMEOUT;
    return CAVMAE_OK;
}

cavmae_status cavmae__collectives_in(const cavmae_collectives *given, cavmae_collectives *collectives) {
    CAVMAE__TRY(cavmae__record_in(collectives, sizeof *collectives, given));
    if (collectives->version != 1)
        return cavmae__fail(CAVMAE_E_ARG, "version of a world's functions is %d, not 1", (int)collectives->version);
    const char *missing = !collectives->all_reduce       ? "all_reduce"
                          : !collectives->reduce_scatter ? "reduce_scatter"
                          : !collectives->all_gather     ? "all_gather"
                          : !collectives->broadcast      ? "broadcast"
                          : !collectives->barrier        ? "barrier"
                                                         : NULL;
    if (missing) return cavmae__fail(CAVMAE_E_ARG, "%s of a world's functions is NULL", missing);
    if (!collectives->name) collectives->name = "caller";
    return CAVMAE_OK;
}

/* ---- Threads ---- */

static cavmae_status start_thread(cavmae_world *world, pthread_t *thread, void *(*main)(void *), int32_t *started) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the application's threads' business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *started = pthread_create(thread, NULL, main, world) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return *started ? CAVMAE_OK : cavmae__fail(CAVMAE_E_NOMEM, "the system gives no thread to the world");
}

static void create_locks(cavmae_world *world) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->work, NULL);
    pthread_cond_init(&world->idle, &monotonic);
    pthread_cond_init(&world->watch, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* ---- Making ---- */

/* A name for this world's files that no other world has. */
static void make_nonce(const cavmae_world *world, char nonce[17]) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t x = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    x ^= (uint64_t)getpid() << 40 ^ (uintptr_t)world;
    for (int round = 0; round < 2; round++) { /* spreads it over all bits, and is one to one */
        x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
        x ^= x >> 29;
    }
    snprintf(nonce, 17, "%016llx", (unsigned long long)x);
}

/* Rank 0's name for the files to all, which also shows that all are there; then everybody's file. */
static cavmae_status meet(cavmae_world *world) {
    char nonce[17] = "";
    cavmae__collective barrier = {.kind = CAVMAE__BARRIER, .what = "the world's files"};
    if (world->rank == 0) make_nonce(world, nonce);
    CAVMAE__TRY(cavmae_world_broadcast(world, nonce, sizeof nonce - 1, 0));
    if (!world->watch_dir) return CAVMAE_OK;
    for (int i = 0; i < 16; i++)
        if (!strchr("0123456789abcdef", nonce[i]) || !nonce[i])
            return cavmae__fail(CAVMAE_E_PEER, "world: rank 0 sent no name for the files in %s", world->watch_dir);
    pthread_mutex_lock(&world->lock);
    memcpy(world->nonce, nonce, sizeof nonce);
    pthread_mutex_unlock(&world->lock);
    cavmae_status status = cavmae__note_write(world);
    if (status != CAVMAE_OK) {
        cavmae_world_fail(world, cavmae_last_error());
        return status;
    }
    return cavmae__world_run(world, &barrier);
}

static cavmae_status run_open(cavmae_world *world) {
    pthread_mutex_lock(&world->lock);
    while (!world->opened) pthread_cond_wait(&world->idle, &world->lock);
    pthread_mutex_unlock(&world->lock);
    if (world->open_status == CAVMAE_OK) {
        world->close_host = 1;
        return CAVMAE_OK;
    }
    world->open_error[sizeof world->open_error - 1] = '\0';
    return cavmae__fail(world->open_status, "%s",
                        world->open_error[0] ? world->open_error : cavmae_status_str(world->open_status));
}

static cavmae_status start(cavmae_world *world, const cavmae__world_setup *setup) {
    if (setup->watch_dir && !(world->watch_dir = cavmae__strdup(world->context, setup->watch_dir)))
        return CAVMAE_E_NOMEM;
    if (!world->on_device && (world->size > 1 || world->open))
        CAVMAE__TRY(start_thread(world, &world->queue_thread, cavmae__world_queue_main, &world->queue_started));
    if (world->open) CAVMAE__TRY(run_open(world));
    if (world->on_device) CAVMAE__TRY(cavmae__world_device_open(world));
    if (world->size == 1) return CAVMAE_OK;
    CAVMAE__TRY(CAVMAE__NEW(world->context, &world->messages, world->size));
    CAVMAE__TRY(start_thread(world, &world->watch_thread, cavmae__world_watch_main, &world->watch_started));
    return setup->one_thread ? CAVMAE_OK : meet(world);
}

cavmae_status cavmae__world_make(cavmae_context *context, const cavmae__world_setup *setup, cavmae_world **out) {
    cavmae_world *world = cavmae__alloc_zero(context, sizeof *world);
    if (!world) {
        if (setup->device) setup->device->ops->close(setup->device);
        return CAVMAE_E_NOMEM;
    }
    atomic_init(&world->references, 1);
    world->context = cavmae__context_ref(context);
    world->rank = setup->rank;
    world->size = setup->size;
    world->timeout = setup->timeout;
    world->name = setup->name;
    world->on_device = setup->on_device;
    world->device = setup->device;
    world->open = setup->open;
    world->open_arg = setup->open_arg;
    world->table = setup->table;
    world->step = 1;
    if (setup->host) world->host = *setup->host;
    create_locks(world);
    cavmae_status status = start(world, setup);
    if (status != CAVMAE_OK) {
        cavmae_world_free(world);
        return status;
    }
    if (setup->host) {
        pthread_mutex_lock(&world->lock);
        world->close_host = 1;
        pthread_mutex_unlock(&world->lock);
    }
    *out = world;
    return CAVMAE_OK;
}

cavmae_status cavmae_world_create(cavmae_context *context, const cavmae_world_options *options,
                                  const cavmae_collectives *carrier, cavmae_world **out) {
    cavmae_world_options o;
    cavmae_collectives collectives;
    if (!context || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create: %s is NULL", context ? "out" : "context");
    CAVMAE__TRY(cavmae__world_options_in(options, 1, &o));
    CAVMAE__TRY(cavmae__collectives_in(carrier, &collectives));
    const cavmae__world_setup setup = {.name = collectives.name,
                                       .rank = o.rank,
                                       .size = o.size,
                                       .timeout = o.timeout,
                                       .watch_dir = o.watch_dir,
                                       .host = &collectives};
    return cavmae__world_make(context, &setup, out);
}

/* ---- The end ---- */

/* Ends both threads; 0 where one does not come back. */
static int stop_threads(cavmae_world *world) {
    double until = cavmae__now() + (world->timeout > CAVMAE__WORLD_GRACE ? world->timeout : CAVMAE__WORLD_GRACE);
    pthread_mutex_lock(&world->lock);
    if (world->queue_started) cavmae__world_await(world, 1);
    world->stop = 1;
    pthread_cond_signal(&world->work);
    while (world->queue_started && !world->queue_ended && !(world->broken && world->busy) && cavmae__now() < until)
        cavmae__wait_until(&world->idle, &world->lock, until);
    world->stop_watch = 1;
    pthread_cond_signal(&world->watch);
    until = cavmae__now() + CAVMAE__WORLD_GRACE;
    while (world->watch_started && !world->watch_ended && cavmae__now() < until)
        cavmae__wait_until(&world->idle, &world->lock, until);
    int back = world->queue_started == world->queue_ended && world->watch_started == world->watch_ended;
    pthread_mutex_unlock(&world->lock);
    return back;
}

static void destroy(cavmae_world *world) {
    cavmae_context *context = world->context;
    if (!stop_threads(world)) {
        if (world->queue_started) pthread_detach(world->queue_thread);
        if (world->watch_started) pthread_detach(world->watch_thread);
        cavmae__note_remove(world);
        cavmae__log(context, CAVMAE_LOG_ERROR,
                    "world: a call of %s does not return: it is left behind, with its thread and the world's memory",
                    world->name);
        return;
    }
    if (world->queue_started) pthread_join(world->queue_thread, NULL);
    if (world->watch_started) pthread_join(world->watch_thread, NULL);
    if (!world->queue_started && world->close_host && world->host.close) world->host.close(world->host.user);
    cavmae__note_remove(world);
    cavmae__world_device_close(world);
    cavmae__free(context, world->messages);
    cavmae__free(context, world->watch_dir);
    pthread_cond_destroy(&world->watch);
    pthread_cond_destroy(&world->idle);
    pthread_cond_destroy(&world->work);
    pthread_mutex_destroy(&world->lock);
    cavmae__free(context, world);
    cavmae__context_unref(context);
}

cavmae_world *cavmae__world_ref(cavmae_world *world) {
    if (world) atomic_fetch_add_explicit(&world->references, 1, memory_order_relaxed);
    return world;
}

void cavmae_world_free(cavmae_world *world) {
    if (world && atomic_fetch_sub_explicit(&world->references, 1, memory_order_acq_rel) == 1) destroy(world);
}

/* ---- What it is ---- */

int32_t cavmae_world_rank(const cavmae_world *world) { return world ? world->rank : 0; }

int32_t cavmae_world_size(const cavmae_world *world) { return world ? world->size : 1; }

const char *cavmae_world_carrier(const cavmae_world *world) { return world ? world->name : NULL; }

int cavmae__world_on_device(const cavmae_world *world) { return world && world->on_device; }

cavmae_context *cavmae__world_context(const cavmae_world *world) { return world->context; }

/* ---- Collectives ---- */

/* A world of one: what is gathered or added is this rank's own. */
static cavmae_status copy_alone(cavmae_world *world, const cavmae__collective *c) {
    int moves = c->kind == CAVMAE__ALL_GATHER || c->kind == CAVMAE__REDUCE_SCATTER;
    if (!moves || c->send == c->data || c->count == 0) return CAVMAE_OK;
    size_t size = (size_t)c->count * cavmae__dtype_size(c->dtype);
    if (!cavmae__world_on_device(world)) {
        memcpy(c->data, c->send, size);
        return CAVMAE_OK;
    }
    /* The seam has no copy within the device. */
    const cavmae__backend_ops *ops = world->backend->ops;
    unsigned char *bounce;
    CAVMAE__TRY(CAVMAE__NEW(world->context, &bounce, size));
    cavmae_status status = ops->download(world->backend, bounce, c->send, size);
    if (status == CAVMAE_OK) status = ops->upload(world->backend, c->data, bounce, size);
    cavmae__free(world->context, bounce);
    return status;
}

void cavmae__world_new_step(cavmae_world *world) {
    if (!world) return;
    pthread_mutex_lock(&world->lock);
    world->step++;
    pthread_mutex_unlock(&world->lock);
}

cavmae_status cavmae__world_begin(cavmae_world *world, const cavmae__collective *collective) {
    char text[CAVMAE__WORLD_TEXT];
    if (cavmae_world_size(world) == 1) return copy_alone(world, collective);
    if (world->on_device) return cavmae__world_device_begin(world, collective);
    cavmae__world_text(collective, text);
    return cavmae__world_enqueue(world, collective, text);
}

cavmae_status cavmae__world_wait(cavmae_world *world) {
    if (cavmae_world_size(world) == 1) return CAVMAE_OK;
    cavmae_status status = CAVMAE_OK;
    if (world->on_device) {
        CAVMAE__TRY(cavmae__world_result(world));
        status = world->device->ops->order(world->device);
    } else {
        pthread_mutex_lock(&world->lock);
        cavmae__world_await(world, 1);
        pthread_mutex_unlock(&world->lock);
    }
    cavmae_status failed = cavmae__world_result(world); /* says more than the carrier about what was cut off */
    return failed != CAVMAE_OK ? failed : status;
}

cavmae_status cavmae__world_run(cavmae_world *world, const cavmae__collective *collective) {
    CAVMAE__TRY(cavmae__world_begin(world, collective));
    return cavmae__world_wait(world);
}

cavmae_status cavmae__world_check(cavmae_world *world) {
    if (cavmae_world_size(world) == 1) return CAVMAE_OK;
    CAVMAE__TRY(cavmae__world_result(world));
    return world->on_device ? cavmae__world_device_compare(world) : CAVMAE_OK;
}
