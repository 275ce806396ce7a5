/* A region's tasks are claimed one by one from a counter. One 64-bit word says which region there is, whether
 * workers may still enter it, and how many are inside:
 *
 *     region number << 32 | OPEN | workers inside
 *
 * A worker enters by adding 1 while the region is open. The caller works too, then closes the region and waits
 * for those inside. A worker that wakes late finds it closed and sleeps on, so nobody waits for a thread
 * that the system did not schedule. */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define OPEN ((uint64_t)1 << 31)
#define INSIDE (OPEN - 1)

/* Regions follow one another within microseconds inside a layer: spinning that long is cheaper than the
 * wake-up of a sleeping thread, and still invisible when there is nothing to do. */
enum { SPIN_NANOSECONDS = 30000, SPIN_PAUSES = 32 };

/* oneDNN may be built on OpenMP, whose threads must not multiply with these: inside a task OpenMP has one thread. The
 * setting is a thread's own; a caller gets its back. Declared here because clang has no omp.h for gcc's libgomp. */
#ifndef CAVMAE_WITHOUT_ONEDNN
extern int omp_get_max_threads(void);
extern void omp_set_num_threads(int threads);
#else
static int omp_get_max_threads(void) { return 1; }
static void omp_set_num_threads(int threads) { (void)threads; }
#endif

typedef struct worker {
    struct cavmae__pool *pool;
    pthread_t thread;
    int32_t id; /* 1, 2, ...; the caller is 0 */
} worker;

struct cavmae__pool {
    _Atomic uint64_t state;
    atomic_int sleepers; /* workers that sleep or are about to */
    atomic_int stop;

    /* The open region. Written only while no worker is inside. */
    cavmae__task *task;
    void *arg;
    int64_t count;
    _Atomic int64_t next;

    pthread_mutex_t turn; /* held by the caller whose region runs */
    pthread_mutex_t sleep;
    pthread_cond_t work; /* a region was opened, or stop */
    pthread_cond_t done; /* the last worker left a closed region */
    int started;
    int32_t started_count;
    int32_t worker_count;
    worker workers[];
};

static uint64_t region_of(uint64_t state) { return state >> 32; }

static void pause_processor(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void run_tasks(cavmae__pool *pool, int32_t id) {
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->count)
        pool->task(pool->arg, i, id);
}

/* ---- Workers ---- */

static int nothing_new(cavmae__pool *pool, uint64_t seen) {
    return region_of(atomic_load(&pool->state)) == seen && !atomic_load(&pool->stop);
}

static void wait_for_region(cavmae__pool *pool, uint64_t seen) {
    int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (!nothing_new(pool, seen)) return;
            pause_processor();
        }
    } while (nanoseconds() < end);

    /* Either this thread sees the new region or the caller sees the sleeper: both write before they read. */
    pthread_mutex_lock(&pool->sleep);
    atomic_fetch_add(&pool->sleepers, 1);
    while (nothing_new(pool, seen)) pthread_cond_wait(&pool->work, &pool->sleep);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->sleep);
}

/* Enters the region of *state if it is still open; *state is then its state before. */
static int enter(cavmae__pool *pool, uint64_t *state) {
    *state = atomic_load(&pool->state);
    while (*state & OPEN)
        if (atomic_compare_exchange_weak(&pool->state, state, *state + 1)) return 1;
    return 0;
}

static void leave(cavmae__pool *pool) {
    uint64_t after = atomic_fetch_sub(&pool->state, 1) - 1;
    if (after & (OPEN | INSIDE)) return;
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->sleep);
}

static void *worker_main(void *argument) {
    worker *self = argument;
    cavmae__pool *pool = self->pool;
    uint64_t seen = 0;
    cavmae__never_cancel_this_thread();
    omp_set_num_threads(1);
    for (;;) {
        uint64_t state;
        wait_for_region(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        if (enter(pool, &state)) {
            run_tasks(pool, self->id);
            leave(pool);
        }
        seen = region_of(state);
    }
}

/* Without room for all threads it works with those that started: slower, and right. */
static void start_workers(cavmae__pool *pool) {
    sigset_t all, before;
    pool->started = 1;
    sigfillset(&all); /* signals are the application's threads' business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int32_t i = 0; i < pool->worker_count; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->id = i + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
        pool->started_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- Callers ---- */

static int somebody_inside(cavmae__pool *pool) { return (atomic_load(&pool->state) & INSIDE) != 0; }

static void wait_for_workers(cavmae__pool *pool) {
    int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (!somebody_inside(pool)) return;
            pause_processor();
        }
    } while (nanoseconds() < end);

    pthread_mutex_lock(&pool->sleep);
    while (somebody_inside(pool)) pthread_cond_wait(&pool->done, &pool->sleep);
    pthread_mutex_unlock(&pool->sleep);
}

static void run_region(cavmae__pool *pool, int64_t count, cavmae__task *task, void *arg) {
    pool->task = task;
    pool->arg = arg;
    pool->count = count;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    /* The number wraps after 2^32 regions; a worker would have to sleep through exactly that many to miss one. */
    atomic_store(&pool->state, (region_of(atomic_load(&pool->state)) + 1) << 32 | OPEN);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->sleep);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->sleep);
    }
    run_tasks(pool, 0);
    atomic_fetch_and(&pool->state, ~OPEN);
    wait_for_workers(pool);
}

void cavmae__pool_run(cavmae__pool *pool, int64_t count, cavmae__task *task, void *arg) {
    /* Also a region without workers takes its turn: two with the same worker 0 must not overlap. */
    pthread_mutex_lock(&pool->turn);
    int openmp_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    if (count > 1 && !pool->started) start_workers(pool);
    if (count > 1 && pool->started_count > 0)
        run_region(pool, count, task, arg);
    else
        for (int64_t i = 0; i < count; i++) task(arg, i, 0);
    omp_set_num_threads(openmp_threads);
    pthread_mutex_unlock(&pool->turn);
}

cavmae_status cavmae__pool_create(cavmae_context *context, int32_t threads, cavmae__pool **out) {
    int32_t worker_count = threads - 1;
    cavmae__pool *pool = cavmae__alloc_zero(context, sizeof *pool + (size_t)worker_count * sizeof(worker));
    if (!pool) return CAVMAE_E_NOMEM;
    pool->worker_count = worker_count;
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->sleep, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    *out = pool;
    return CAVMAE_OK;
}

void cavmae__pool_free(cavmae_context *context, cavmae__pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, 1);
    pthread_mutex_lock(&pool->sleep);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->sleep);
    for (int32_t i = 0; i < pool->started_count; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->sleep);
    pthread_mutex_destroy(&pool->turn);
    cavmae__free(context, pool);
}
