/* A rank's NCCL communicator, a stream of its own that runs the collectives beside the backend's operations, and an event
 * behind each of them, which tells when it is done.
 *
 * The communicator is a non-blocking one: none of its calls waits for another rank (a blocking one would, where no
 * deadline reaches it), but each may return before it has done anything. So every call is settled: asked for until it has
 * come through, or the deadline has. Only then is the collective in its stream, and an event recorded after it.
 *
 * Another thread may abort at any time, which frees the communicator. All calls that use it are made with the lock held,
 * none of them for long: that thread always gets through. */
#include "nccl_carrier.h"

#include "nccl_library.h"

#ifdef CAVMAE__NCCL

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cuda_memory.h"
#include "repeat.h"
#include "thread_context.h"

_Static_assert(CAVMAE_NCCL_ID_SIZE == sizeof(ncclUniqueId), "an id of NCCL's");

enum { RING = 128 }; /* collectives under way, at the most */

typedef struct carrier {
    cavmae__carrier base;
    cavmae__cuda *cuda;
    int32_t rank, size;
    double timeout; /* seconds */
    cavmae__nccl_library nccl;
    cudaStream_t stream;
    cudaEvent_t before;     /* all that the backend has been given when a collective begins */
    cudaEvent_t done[RING]; /* collective i: place i % RING */
    float *nothing;         /* device [1]: what a barrier adds up */
    pthread_mutex_t lock;   /* of what follows, and of the calls of NCCL */
    ncclComm_t comm;        /* NULL: not yet, or aborted */
    int64_t begun, ended;
    cavmae_status failure; /* the first; every later call gives it again */
    char sentence[400];
} carrier;

static carrier *carrier_of(cavmae__carrier *base) { return (carrier *)base; }

#define ENTER(base)                                                                                                    \
    carrier *const c = carrier_of(base);                                                                               \
    const int entered = cavmae__enter(c->cuda)
#define LEAVE(call)                                                                                                    \
    const cavmae_status left = (call);                                                                                 \
    cavmae__leave(c->cuda, entered);                                                                                   \
    return left

/* ---- Failures: the first one stays. With the lock. ---- */

static cavmae_status failed(carrier *c) { return c->cuda->library->fail(c->failure, "%s", c->sentence); }

__attribute__((format(printf, 3, 4))) static cavmae_status fail(carrier *c, cavmae_status status, const char *format,
                                                                ...) {
    if (c->failure == CAVMAE_OK) {
        va_list values;
        const int used = snprintf(c->sentence, sizeof c->sentence, "NCCL: rank %d of %d: ", (int)c->rank, (int)c->size);
        va_start(values, format);
        vsnprintf(c->sentence + used, sizeof c->sentence - (size_t)used, format, values);
        va_end(values);
        c->failure = status;
    }
    return failed(c);
}

static cavmae_status check_cuda(carrier *c, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return CAVMAE_OK;
    cudaGetLastError();
    return fail(c, error == cudaErrorMemoryAllocation ? CAVMAE_E_NOMEM : CAVMAE_E_BACKEND, "%s: %s: %s", c->cuda->name,
                what, cudaGetErrorString(error));
}

/* What has failed elsewhere is told as such. */
static cavmae_status check_nccl(carrier *c, ncclResult_t result, const char *what) {
    if (result == ncclSuccess) return CAVMAE_OK;
    const char *more = c->nccl.GetLastError(NULL);
    return fail(c, result == ncclRemoteError ? CAVMAE_E_PEER : CAVMAE_E_BACKEND, "%s: %s%s%s", what,
                c->nccl.GetErrorString(result), more && *more ? ": " : "", more ? more : "");
}

/* ---- Waiting ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* A call usually comes through within some ten microseconds, less than a sleep takes; who waits for other ranks sleeps. */
static void nap(int *times) {
    const struct timespec time = {.tv_nsec = *times < 100 ? 10000 : 1000000};
    if (++*times < 16)
        sched_yield();
    else
        nanosleep(&time, NULL);
}

/* With the lock: whether the call under way is. */
static ncclResult_t ask(carrier *c) {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = c->nccl.CommGetAsyncError(c->comm, &result);
    return asked == ncclSuccess ? result : asked;
}

/* Until the call that gave `result` has come through. `late`: what the others then have not done. */
static cavmae_status settle(carrier *c, ncclResult_t result, double seconds, const char *what, const char *late) {
    const double deadline = now() + seconds;
    cavmae_status status = CAVMAE_OK;
    for (int times = 0; result == ncclInProgress; nap(&times)) {
        pthread_mutex_lock(&c->lock);
        if (c->failure != CAVMAE_OK)
            status = failed(c);
        else if ((result = ask(c)) == ncclInProgress && now() > deadline)
            status = fail(c, CAVMAE_E_PEER, "%s within %.6g s", late, seconds);
        pthread_mutex_unlock(&c->lock);
        if (status != CAVMAE_OK) return status;
    }
    pthread_mutex_lock(&c->lock);
    status = check_nccl(c, result, what);
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* With the lock: counts the collectives that are done. */
static cavmae_status count_ended(carrier *c) {
    while (c->ended < c->begun) {
        const cudaError_t error = cudaEventQuery(c->done[c->ended % RING]);
        if (error == cudaErrorNotReady) {
            cudaGetLastError(); /* an answer, no error */
            return CAVMAE_OK;
        }
        CAVMAE__TRY(check_cuda(c, error, "a collective"));
        c->ended++;
    }
    return CAVMAE_OK;
}

/* ---- Collectives ---- */

static cavmae_status dtype_of(carrier *c, const cavmae__collective *op, ncclDataType_t *type) {
    const int added = op->kind == CAVMAE__ALL_REDUCE || op->kind == CAVMAE__REDUCE_SCATTER;
    switch (op->dtype) {
    case CAVMAE_FLOAT32: *type = ncclFloat32; return CAVMAE_OK;
    case CAVMAE_FLOAT64: *type = ncclFloat64; return CAVMAE_OK;
    case CAVMAE_BFLOAT16: *type = ncclBfloat16; return CAVMAE_OK;
    case CAVMAE_UINT8: *type = ncclUint8; break;
    default: *type = ncclFloat32; break;
    }
    if (op->kind == CAVMAE__BARRIER || (op->dtype == CAVMAE_UINT8 && !added)) return CAVMAE_OK;
    return c->cuda->library->fail(CAVMAE_E_INTERNAL, "NCCL: %s: dtype %d", op->what, (int)op->dtype);
}

/* With the lock. */
static ncclResult_t call(carrier *c, const cavmae__collective *op, ncclDataType_t type) {
    const size_t count = (size_t)op->count;
    switch (op->kind) {
    case CAVMAE__ALL_REDUCE: return c->nccl.AllReduce(op->data, op->data, count, type, ncclSum, c->comm, c->stream);
    case CAVMAE__REDUCE_SCATTER:
        return c->nccl.ReduceScatter(op->send, op->data, count, type, ncclSum, c->comm, c->stream);
    case CAVMAE__ALL_GATHER: return c->nccl.AllGather(op->send, op->data, count, type, c->comm, c->stream);
    case CAVMAE__BROADCAST: return c->nccl.Broadcast(op->data, op->data, count, type, op->root, c->comm, c->stream);
    case CAVMAE__BARRIER: return c->nccl.AllReduce(c->nothing, c->nothing, 1, ncclFloat32, ncclSum, c->comm, c->stream);
    default: return ncclInvalidArgument;
    }
}

/* Until the ring has a place: the device is that far behind. */
static cavmae_status make_room(carrier *c, const cavmae__collective *op, double seconds) {
    const double deadline = now() + seconds;
    for (int times = 0;; nap(&times)) {
        pthread_mutex_lock(&c->lock);
        cavmae_status status = c->failure == CAVMAE_OK ? CAVMAE_OK : failed(c);
        if (status == CAVMAE_OK && c->begun - c->ended == RING) status = count_ended(c);
        const int full = c->begun - c->ended == RING;
        if (status == CAVMAE_OK && full && now() > deadline)
            status = fail(c, CAVMAE_E_PEER, "%s: no collective ended within %.6g s", op->what, seconds);
        pthread_mutex_unlock(&c->lock);
        if (status != CAVMAE_OK || !full) return status;
    }
}

static cavmae_status begin(carrier *c, const cavmae__collective *op) {
    /* Longer than the world's own watch waits, which knows who is late, and aborts: this is for where there is none. */
    const double seconds = 1.5 * c->timeout * (op->patience > 0 ? op->patience : 1);
    ncclDataType_t type = ncclFloat32;
    ncclResult_t result = ncclSuccess;
    char late[sizeof op->what + 40];
    /* A recorded collective would have to be played back by all ranks alike, and could not be aborted alone. */
    if (cavmae__cuda_recording(c->cuda))
        return c->cuda->library->fail(CAVMAE_E_INTERNAL, "NCCL: %s: not while a step is recorded", op->what);
    CAVMAE__TRY(dtype_of(c, op, &type));
    CAVMAE__TRY(make_room(c, op, seconds));

    pthread_mutex_lock(&c->lock);
    cavmae_status status = c->failure == CAVMAE_OK ? CAVMAE_OK : failed(c);
    if (status == CAVMAE_OK)
        status = check_cuda(c, cudaEventRecord(c->before, cavmae__cuda_stream(&c->cuda->base)), "event");
    if (status == CAVMAE_OK) status = check_cuda(c, cudaStreamWaitEvent(c->stream, c->before, 0), "event");
    if (status == CAVMAE_OK) result = call(c, op, type);
    pthread_mutex_unlock(&c->lock);
    CAVMAE__TRY(status);

    /* The first collectives make connections, for which the others have to come. */
    snprintf(late, sizeof late, "%s: the others did not begin it", op->what);
    CAVMAE__TRY(settle(c, result, seconds, op->what, late));

    pthread_mutex_lock(&c->lock);
    status = check_cuda(c, cudaEventRecord(c->done[c->begun % RING], c->stream), "event");
    if (status == CAVMAE_OK) c->begun++;
    pthread_mutex_unlock(&c->lock);
    return status;
}

static cavmae_status order(carrier *c) {
    if (cavmae__cuda_recording(c->cuda))
        return c->cuda->library->fail(CAVMAE_E_INTERNAL, "NCCL: no order while a step is recorded");
    pthread_mutex_lock(&c->lock);
    cavmae_status status = c->failure == CAVMAE_OK ? CAVMAE_OK : failed(c);
    if (status == CAVMAE_OK && c->begun)
        status = check_cuda(
            c, cudaStreamWaitEvent(cavmae__cuda_stream(&c->cuda->base), c->done[(c->begun - 1) % RING], 0), "event");
    pthread_mutex_unlock(&c->lock);
    return status;
}

static cavmae_status poll_ended(carrier *c, int64_t *ended) {
    pthread_mutex_lock(&c->lock);
    cavmae_status status = c->failure == CAVMAE_OK ? CAVMAE_OK : failed(c);
    if (status == CAVMAE_OK) status = count_ended(c);
    if (status == CAVMAE_OK) {
        const ncclResult_t result = ask(c);
        if (result != ncclInProgress) status = check_nccl(c, result, "a collective");
    }
    if (status == CAVMAE_OK) *ended = c->ended;
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* ---- Ending ---- */

/* The communicator is taken first, and aborted without the lock: that waits for its kernels to stop. This thread's error
 * text stays: it is about what led here. */
static void abort_comm(carrier *c) {
    pthread_mutex_lock(&c->lock);
    const ncclComm_t comm = c->comm;
    c->comm = NULL;
    if (c->failure == CAVMAE_OK) {
        snprintf(c->sentence, sizeof c->sentence, "NCCL: rank %d of %d: its collectives were broken off", (int)c->rank,
                 (int)c->size);
        c->failure = CAVMAE_E_PEER;
    }
    pthread_mutex_unlock(&c->lock);
    if (comm) c->nccl.CommAbort(comm);
}

/* Where all is well, after what was begun; it frees the communicator only once that is through. */
static void close_comm(carrier *c) {
    ncclResult_t result = ncclInvalidUsage;
    pthread_mutex_lock(&c->lock);
    if (c->comm && c->failure == CAVMAE_OK) result = c->nccl.CommFinalize(c->comm);
    pthread_mutex_unlock(&c->lock);
    if ((result == ncclSuccess || result == ncclInProgress) &&
        settle(c, result, c->timeout, "closing", "closing: the others did not come") == CAVMAE_OK) {
        c->nccl.CommDestroy(c->comm);
        c->comm = NULL;
    }
    abort_comm(c);
}

static void close_carrier(carrier *c) {
    const cavmae__library *library = c->cuda->library;
    if (c->nccl.handle) close_comm(c);
    for (int i = 0; i < RING; i++)
        if (c->done[i]) cudaEventDestroy(c->done[i]);
    if (c->before) cudaEventDestroy(c->before);
    if (c->stream) cudaStreamDestroy(c->stream);
    cavmae__cuda_free(c->cuda, c->nothing);
    cavmae__nccl_library_close(&c->nccl);
    pthread_mutex_destroy(&c->lock);
    library->free(c->cuda->base.context, c);
}

/* ---- Opening ---- */

static cavmae_status open_parts(carrier *c) {
    cavmae__backend *backend = &c->cuda->base;
    int least = 0, greatest = 0;
    void *nothing = NULL;
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities"));
    /* A collective's few blocks start before those of the backward pass that wait for a multiprocessor: a late rank makes
     * all of them late. */
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest),
                                   "stream"));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventCreateWithFlags(&c->before, cudaEventDisableTiming), "event"));
    for (int i = 0; i < RING; i++)
        CAVMAE__TRY(
            cavmae__cuda_check(backend, cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming), "event"));
    CAVMAE__TRY(cavmae__cuda_alloc(c->cuda, sizeof *c->nothing, &nothing));
    c->nothing = nothing;
    return cavmae__cuda_check(backend, cudaMemsetAsync(c->nothing, 0, sizeof *c->nothing, c->stream), "zero");
}

static cavmae_status open_comm(carrier *c, const uint8_t *id_bytes) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    config.blocking = 0;
    memcpy(&id, id_bytes, sizeof id);
    pthread_mutex_lock(&c->lock);
    const ncclResult_t result = c->nccl.CommInitRankConfig(&c->comm, c->size, id, c->rank, &config);
    pthread_mutex_unlock(&c->lock);
    return settle(c, result, c->timeout, "opening", "the others did not come");
}

/* Between GPUs of one process NCCL's kernels go straight to the other's memory, which a pool does not allow unasked. Where
 * every rank is a process of its own, no other device is in use, and nothing is mapped anywhere. After the communicator
 * is open: now all ranks of this process have their contexts. */
static cavmae_status open_memory(carrier *c) {
    cavmae__backend *backend = &c->cuda->base;
    int count = 0;
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaGetDeviceCount(&count), "looking for devices"));
    for (int other = 0; other < count; other++) {
        const struct cudaMemAccessDesc access = {.location = {.type = cudaMemLocationTypeDevice, .id = other},
                                                 .flags = cudaMemAccessFlagsProtReadWrite};
        int can = 0;
        if (other == c->cuda->device || !cavmae__device_in_use(c->cuda, other)) continue;
        CAVMAE__TRY(cavmae__cuda_check(backend, cudaDeviceCanAccessPeer(&can, other, c->cuda->device), "peers"));
        if (can) CAVMAE__TRY(cavmae__cuda_check(backend, cudaMemPoolSetAccess(c->cuda->pool, &access, 1), "peers"));
    }
    return CAVMAE_OK;
}

/* ---- The interface ---- */

static cavmae_status call_begin(cavmae__carrier *base, const cavmae__collective *op) {
    ENTER(base);
    LEAVE(begin(c, op));
}

static cavmae_status call_order(cavmae__carrier *base) {
    ENTER(base);
    LEAVE(order(c));
}

static cavmae_status call_poll(cavmae__carrier *base, int64_t *ended) {
    ENTER(base);
    LEAVE(poll_ended(c, ended));
}

static void call_abort(cavmae__carrier *base) {
    ENTER(base);
    abort_comm(c);
    cavmae__leave(c->cuda, entered);
}

static void call_close(cavmae__carrier *base) {
    ENTER(base);
    const cavmae__cuda *cuda = c->cuda;
    close_carrier(c);
    cavmae__leave(cuda, entered);
}

static const cavmae__carrier_ops carrier_ops = {.struct_size = sizeof(cavmae__carrier_ops),
                                                .name = "nccl",
                                                .begin = call_begin,
                                                .order = call_order,
                                                .poll = call_poll,
                                                .abort = call_abort,
                                                .close = call_close};

cavmae_status cavmae__nccl_new_id(cavmae__cuda *cuda, uint8_t *id) {
    cavmae__nccl_library nccl;
    ncclUniqueId made;
    CAVMAE__TRY(cavmae__nccl_library_open(cuda->library, &nccl));
    const ncclResult_t result = nccl.GetUniqueId(&made);
    if (result != ncclSuccess) {
        cavmae__nccl_library_close(&nccl);
        return cuda->library->fail(CAVMAE_E_BACKEND, "NCCL: making an id: %s", nccl.GetErrorString(result));
    }
    memcpy(id, &made, sizeof made);
    cavmae__nccl_library_close(&nccl);
    return CAVMAE_OK;
}

cavmae_status cavmae__nccl_open(cavmae__cuda *cuda, const cavmae__carrier_options *options, void **out) {
    carrier *c = cuda->library->alloc(cuda->base.context, sizeof *c);
    if (!c) return CAVMAE_E_NOMEM;
    memset(c, 0, sizeof *c);
    c->base.ops = &carrier_ops;
    c->cuda = cuda;
    c->rank = options->rank;
    c->size = options->size;
    c->timeout = options->timeout;
    pthread_mutex_init(&c->lock, NULL);
    cavmae_status status = cavmae__nccl_library_open(cuda->library, &c->nccl);
    if (status == CAVMAE_OK) status = open_parts(c);
    if (status == CAVMAE_OK) status = open_comm(c, options->id);
    if (status == CAVMAE_OK && c->size > 1) status = open_memory(c);
    if (status == CAVMAE_OK)
        *out = &c->base;
    else
        close_carrier(c);
    return status;
}

#else

static cavmae_status refuse(cavmae__cuda *cuda) {
    return cuda->library->fail(CAVMAE_E_BACKEND, "this build of the CUDA plug-in is without NCCL: it found no nccl.h");
}

cavmae_status cavmae__nccl_new_id(cavmae__cuda *cuda, uint8_t *id) {
    (void)id;
    return refuse(cuda);
}

cavmae_status cavmae__nccl_open(cavmae__cuda *cuda, const cavmae__carrier_options *options, void **out) {
    (void)options, (void)out;
    return refuse(cuda);
}

#endif
