/* A thread's CUDA calls go to the context that is current to it, and the driver keeps a stack of those: ours is pushed,
 * and popped again. cudaSetDevice would not do. Setting the device that was current before makes a context there since
 * CUDA 12 (half a gigabyte of device 0, in a program that never touches it), a thread that had none would be left with
 * ours, and a context that the program made itself would be lost to it. */
#include "thread_context.h"

#include <cuda.h>
#include <string.h>

/* The functions as they were named then: cuda.h's own declarations. */
enum { CUDA_OF_FUNCTIONS = 12000 };

#define FUNCTIONS(X)                                                                                                   \
    X(cuDeviceGet)                                                                                                     \
    X(cuCtxPushCurrent)                                                                                                \
    X(cuCtxPopCurrent)                                                                                                 \
    X(cuDevicePrimaryCtxGetState)                                                                                      \
    X(cuDevicePrimaryCtxRetain)                                                                                        \
    X(cuDevicePrimaryCtxRelease)

struct cavmae__thread_context {
    CUdevice device;
    CUcontext context; /* the device's primary one, which the runtime uses, too */
#define MEMBER(name) __typeof__(name) *call_##name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

/* The plug-in does not link the driver's library, which is not there where there is no driver. */
static cavmae_status find_function(cavmae__cuda *cuda, const char *name, void *place) {
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    CAVMAE__TRY(cavmae__cuda_check(
        &cuda->base, cudaGetDriverEntryPointByVersion(name, &found, CUDA_OF_FUNCTIONS, cudaEnableDefault, &result),
        name));
    if (result != cudaDriverEntryPointSuccess || !found)
        return cuda->library->fail(CAVMAE_E_BACKEND, "%s: the driver has no function %s", cuda->name, name);
    memcpy(place, &found, sizeof found);
    return CAVMAE_OK;
}

cavmae_status cavmae__thread_context_open(cavmae__cuda *cuda) {
    cavmae__thread_context *thread = cuda->library->alloc(cuda->base.context, sizeof *thread);
    if (!thread) return CAVMAE_E_NOMEM;
    memset(thread, 0, sizeof *thread);
    cuda->thread_context = thread;
#define FIND(name) CAVMAE__TRY(find_function(cuda, #name, &thread->call_##name));
    FUNCTIONS(FIND)
#undef FIND
    /* The runtime holds what it has made itself, so that releasing ours never ends what else the process has there. */
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, cudaInitDevice(cuda->device, 0, 0), "opening it"));
    CUresult result = thread->call_cuDeviceGet(&thread->device, cuda->device);
    if (result == CUDA_SUCCESS) result = thread->call_cuDevicePrimaryCtxRetain(&thread->context, thread->device);
    if (result == CUDA_SUCCESS) return CAVMAE_OK;
    thread->context = NULL;
    return cuda->library->fail(CAVMAE_E_BACKEND, "%s: its context: error %d of the driver", cuda->name, (int)result);
}

void cavmae__thread_context_close(cavmae__cuda *cuda) {
    cavmae__thread_context *thread = cuda->thread_context;
    if (!thread) return;
    if (thread->context) thread->call_cuDevicePrimaryCtxRelease(thread->device);
    cuda->library->free(cuda->base.context, thread);
    cuda->thread_context = NULL;
}

/* A context that cannot be pushed was destroyed (cudaDeviceReset): the calls that follow fail and say so. */
int cavmae__enter(const cavmae__cuda *cuda) {
    const cavmae__thread_context *thread = cuda->thread_context;
    return thread && thread->context && thread->call_cuCtxPushCurrent(thread->context) == CUDA_SUCCESS;
}

void cavmae__leave(const cavmae__cuda *cuda, int entered) {
    CUcontext ours;
    if (entered) cuda->thread_context->call_cuCtxPopCurrent(&ours);
}

int cavmae__device_in_use(const cavmae__cuda *cuda, int number) {
    const cavmae__thread_context *thread = cuda->thread_context;
    CUdevice device = 0;
    unsigned int flags = 0;
    int active = 0;
    return thread->call_cuDeviceGet(&device, number) == CUDA_SUCCESS &&
           thread->call_cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active;
}
