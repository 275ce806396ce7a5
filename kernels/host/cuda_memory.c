/* Device memory comes from a pool of the context, so that what is freed is had again at once and goes back to the device
 * with the context. Copies pass through a ring of pinned pieces: the host's memory is free when an upload returns, and
 * the next piece is filled while the device fetches the one before. Downloads, which wait for the operations under way,
 * have a piece and a lock of their own: other threads' uploads go on meanwhile. What the caller has on the device already is
 * copied there, after all that its owner queued on the default stream. */
#include "cuda_memory.h"

#include <string.h>

enum { PIECES = 4 };
static const size_t piece_size = (size_t)4 << 20;

struct cavmae__staging {
    pthread_mutex_t lock, download_lock;
    char *memory;                 /* pinned [PIECES + 1, piece_size]; the last is the downloads' */
    cudaEvent_t used[PIECES + 1]; /* when the device has done with a piece */
    cudaEvent_t order;            /* between the streams */
    int next;
};

static cavmae_status open_pool(cavmae__cuda *cuda) {
    const struct cudaMemPoolProps properties = {.allocType = cudaMemAllocationTypePinned,
                                                .location = {.type = cudaMemLocationTypeDevice, .id = cuda->device}};
    uint64_t keep = UINT64_MAX; /* until the context ends */
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, cudaMemPoolCreate(&cuda->pool, &properties), "memory pool"));
    return cavmae__cuda_check(&cuda->base, cudaMemPoolSetAttribute(cuda->pool, cudaMemPoolAttrReleaseThreshold, &keep),
                              "memory pool");
}

cavmae_status cavmae__cuda_memory_open(cavmae__cuda *cuda) {
    cavmae__backend *backend = &cuda->base;
    CAVMAE__TRY(open_pool(cuda));
    cavmae__staging *s = cuda->library->alloc(backend->context, sizeof *s);
    if (!s) return CAVMAE_E_NOMEM;
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->download_lock, NULL);
    cuda->staging = s;
    CAVMAE__TRY(cavmae__cuda_check(backend,
                                   cudaHostAlloc((void **)&s->memory, (PIECES + 1) * piece_size, cudaHostAllocDefault),
                                   "pinned memory for copies"));
    for (int i = 0; i < PIECES + 1; i++)
        CAVMAE__TRY(
            cavmae__cuda_check(backend, cudaEventCreateWithFlags(&s->used[i], cudaEventDisableTiming), "event"));
    return cavmae__cuda_check(backend, cudaEventCreateWithFlags(&s->order, cudaEventDisableTiming), "event");
}

void cavmae__cuda_memory_close(cavmae__cuda *cuda) {
    cavmae__staging *s = cuda->staging;
    if (s) {
        for (int i = 0; i < PIECES + 1; i++)
            if (s->used[i]) cudaEventDestroy(s->used[i]);
        if (s->order) cudaEventDestroy(s->order);
        if (s->memory) cudaFreeHost(s->memory);
        pthread_mutex_destroy(&s->download_lock);
        pthread_mutex_destroy(&s->lock);
        cuda->library->free(cuda->base.context, s);
    }
    if (cuda->pool) cudaMemPoolDestroy(cuda->pool);
}

/* Memory is usable by every stream when this returns, so that an upload that runs ahead need not know of the stream that
 * it came from. */
cavmae_status cavmae__cuda_alloc(cavmae__cuda *cuda, size_t size, void **out) {
    void *memory = NULL;
    cudaError_t error = cudaMallocFromPoolAsync(&memory, size ? size : 1, cuda->pool, cuda->stream);
    if (error == cudaErrorMemoryAllocation) { /* what was freed lies in pieces: the device may make one of them */
        cudaGetLastError();
        error = cudaStreamSynchronize(cuda->stream);
        if (error == cudaSuccess) error = cudaMemPoolTrimTo(cuda->pool, 0);
        if (error == cudaSuccess) error = cudaMallocFromPoolAsync(&memory, size ? size : 1, cuda->pool, cuda->stream);
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(cuda->stream);
    if (error == cudaSuccess) {
        *out = memory;
        return CAVMAE_OK;
    }
    if (error != cudaErrorMemoryAllocation) return cavmae__cuda_check(&cuda->base, error, "allocating memory");
    cudaGetLastError();
    size_t left = 0, all = 0;
    cudaMemGetInfo(&left, &all);
    return cuda->library->fail(CAVMAE_E_NOMEM, "%s: %.3f GB asked for; %.3f of %.3f GB are free", cuda->name,
                               (double)size / 1e9, (double)left / 1e9, (double)all / 1e9);
}

void cavmae__cuda_free(cavmae__cuda *cuda, void *memory) {
    if (memory) cudaFreeAsync(memory, cuda->stream);
}

/* *out: whether the caller's memory is the device's. Managed memory is the host's, too. */
static cavmae_status is_on_device(cavmae__cuda *cuda, const void *memory, int *out) {
    struct cudaPointerAttributes found;
    *out = 0;
    const cudaError_t error = cudaPointerGetAttributes(&found, memory);
    if (error == cudaErrorInvalidValue) { /* the driver does not know it: the host's */
        cudaGetLastError();
        return CAVMAE_OK;
    }
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, error, "asking whose memory it is"));
    if (found.type != cudaMemoryTypeDevice) return CAVMAE_OK;
    if (found.device != cuda->device)
        return cuda->library->fail(CAVMAE_E_ARG, "memory at %p is device %d's, and the context uses device %d", memory,
                                   found.device, cuda->device);
    *out = 1;
    return CAVMAE_OK;
}

/* What writes or reads the caller's device memory was queued on the default stream, or on one that it waits for. */
static cudaError_t after_default_stream(cudaStream_t stream, cudaEvent_t event) {
    const cudaError_t error = cudaEventRecord(event, cudaStreamLegacy);
    return error == cudaSuccess ? cudaStreamWaitEvent(stream, event, 0) : error;
}

/* The caller may change or read either memory when the stream has come this far. */
static cudaError_t copy_on_device(cudaStream_t stream, cudaEvent_t event, void *to, const void *from, size_t size) {
    const cudaError_t error = after_default_stream(stream, event);
    return error == cudaSuccess ? cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream) : error;
}

/* A pinned piece that nothing uses any more. */
static cudaError_t take_piece(cavmae__staging *s, int *piece) {
    *piece = s->next;
    s->next = (s->next + 1) % PIECES;
    return cudaEventSynchronize(s->used[*piece]);
}

static cudaError_t upload_piece(cavmae__staging *s, cudaStream_t stream, void *device, const void *host, size_t size) {
    int piece = 0;
    cudaError_t error = take_piece(s, &piece);
    char *const pinned = s->memory + (size_t)piece * piece_size;
    if (error != cudaSuccess) return error;
    memcpy(pinned, host, size);
    error = cudaMemcpyAsync(device, pinned, size, cudaMemcpyHostToDevice, stream);
    return error == cudaSuccess ? cudaEventRecord(s->used[piece], stream) : error;
}

cavmae_status cavmae__cuda_upload(cavmae__cuda *cuda, void *device, const void *host, size_t size, int ahead) {
    cavmae__staging *s = cuda->staging;
    const cudaStream_t stream = ahead ? cuda->copies : cuda->stream;
    cudaError_t error = cudaSuccess;
    int there;
    CAVMAE__TRY(is_on_device(cuda, host, &there));
    pthread_mutex_lock(&s->lock);
    if (there) error = copy_on_device(stream, s->order, device, host, size);
    for (size_t done = 0, part; !there && done < size && error == cudaSuccess; done += part) {
        part = size - done < piece_size ? size - done : piece_size;
        error = upload_piece(s, stream, (char *)device + done, (const char *)host + done, part);
    }
    /* Operations called from now on see it. */
    if (ahead && error == cudaSuccess) error = cudaEventRecord(s->order, cuda->copies);
    if (ahead && error == cudaSuccess) error = cudaStreamWaitEvent(cuda->stream, s->order, 0);
    pthread_mutex_unlock(&s->lock);
    if (there && error == cudaSuccess) error = cudaStreamSynchronize(stream);
    return cavmae__cuda_check(&cuda->base, error, "upload");
}

static cudaError_t download_piece(cavmae__cuda *cuda, void *host, const void *device, size_t size) {
    cavmae__staging *s = cuda->staging;
    char *const pinned = s->memory + PIECES * piece_size;
    cudaError_t error = cudaMemcpyAsync(pinned, device, size, cudaMemcpyDeviceToHost, cuda->stream);
    if (error == cudaSuccess) error = cudaEventRecord(s->used[PIECES], cuda->stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(s->used[PIECES]);
    if (error == cudaSuccess) memcpy(host, pinned, size);
    return error;
}

cavmae_status cavmae__cuda_download(cavmae__cuda *cuda, void *host, const void *device, size_t size) {
    cudaError_t error = cudaSuccess;
    int there;
    CAVMAE__TRY(is_on_device(cuda, host, &there));
    pthread_mutex_lock(&cuda->staging->download_lock);
    if (there) error = copy_on_device(cuda->stream, cuda->staging->used[PIECES], host, device, size);
    for (size_t done = 0, part; !there && done < size && error == cudaSuccess; done += part) {
        part = size - done < piece_size ? size - done : piece_size;
        error = download_piece(cuda, (char *)host + done, (const char *)device + done, part);
    }
    pthread_mutex_unlock(&cuda->staging->download_lock);
    if (there && error == cudaSuccess) error = cudaStreamSynchronize(cuda->stream);
    return cavmae__cuda_check(&cuda->base, error, "download");
}

cavmae_status cavmae__cuda_give(cavmae__cuda *cuda, void *to, const void *host, size_t size) {
    int there;
    CAVMAE__TRY(is_on_device(cuda, to, &there));
    if (!there) {
        memcpy(to, host, size);
        return CAVMAE_OK;
    }
    pthread_mutex_lock(&cuda->staging->lock);
    const cudaError_t error = after_default_stream(cuda->stream, cuda->staging->order);
    pthread_mutex_unlock(&cuda->staging->lock);
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, error, "waiting for the default stream"));
    CAVMAE__TRY(cavmae__cuda_upload(cuda, to, host, size, 0));
    return cavmae__cuda_check(&cuda->base, cudaStreamSynchronize(cuda->stream), "upload");
}
