/* Devices that are not there, their properties, their errors and their contexts. */
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include <cuda.h>

#include "block.h"
#include "cudasim.h"
#include "runtime.h"

/* A device's primary context, the only kind. */
struct CUctx_st {
    std::atomic<int> retained{0}; /* how many times; active while there are any */
    std::atomic<bool> by_runtime{false};
};

namespace cudasim {

constexpr int most_devices = 16;

static CUctx_st primaries[most_devices];
static thread_local int device_of_thread = 0;        /* that a call makes current where no context is */
static thread_local std::vector<CUcontext> contexts; /* of the thread; the last is current */
static thread_local cudaError_t last_error = cudaSuccess;
static std::atomic<int> states[most_devices];

static std::mutex report_lock;
static std::string reports;

cudaError_t failed(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

void report(const std::string &words) {
    fprintf(stderr, "cudasim: %s\n", words.c_str());
    std::lock_guard<std::mutex> guard(report_lock);
    reports += words + "\n";
}

int device_count() {
    const char *words = getenv("CUDASIM_DEVICES");
    const long number = words ? strtol(words, nullptr, 10) : 2;
    return number < 0 ? 0 : number > most_devices ? most_devices : (int)number;
}

static CUcontext current_context() { return contexts.empty() ? nullptr : contexts.back(); }
static int current_device() { return current_context() ? (int)(current_context() - primaries) : device_of_thread; }

/* The runtime keeps what it has once made. */
static void keep_primary(int device) {
    if (!primaries[device].by_runtime.exchange(true)) primaries[device].retained++;
}

static void make_current(int device) {
    keep_primary(device);
    if (contexts.empty()) contexts.push_back(nullptr);
    contexts.back() = &primaries[device];
}

cudaError_t state_of(int device) { return (cudaError_t)states[device].load(); }
void break_device(int device) { states[device] = cudaErrorLaunchFailure; }
void mend_devices() {
    for (auto &state : states) state = cudaSuccess;
}

static cudaError_t check_device(int device) {
    const int count = device_count();
    return count == 0 ? cudaErrorNoDevice : device < 0 || device >= count ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t use_device(int *device) {
    const cudaError_t error = check_device(current_device());
    if (error != cudaSuccess) return failed(error);
    if (!current_context()) make_current(device_of_thread);
    *device = current_device();
    return cudaSuccess;
}

} // namespace cudasim

using namespace cudasim;

std::string cudasim_take_reports() {
    mend_devices();
    std::lock_guard<std::mutex> guard(report_lock);
    std::string taken;
    taken.swap(reports);
    return taken;
}

extern "C" {

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define CUDASIM_NAME(name, number, text)                                                                               \
    case name: return #name;
        CUDASIM_ERRORS(CUDASIM_NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define CUDASIM_TEXT(name, number, text)                                                                               \
    case name: return text;
        CUDASIM_ERRORS(CUDASIM_TEXT)
    }
    return "unrecognized error code";
}

/* A broken device shows here too, as a launch that failed long ago does. */
cudaError_t cudaPeekAtLastError(void) {
    const cudaError_t state = device_count() ? state_of(current_device()) : cudaSuccess;
    return state != cudaSuccess ? state : last_error;
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count();
    return failed(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
    const cudaError_t error = check_device(current_device());
    if (error == cudaSuccess) *device = current_device();
    return failed(error);
}

cudaError_t cudaSetDevice(int device) {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) make_current(device_of_thread = device);
    return failed(error);
}

cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) keep_primary(device);
    return failed(error);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    cudaError_t error = check_device(device);
    if (error == cudaSuccess) error = check_device(peer);
    if (error == cudaSuccess) *can = device != peer;
    return failed(error);
}

/* The numbers of an H100. */
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    const cudaError_t error = check_device(device);
    if (error != cudaSuccess) return failed(error);
    cudaDeviceProp p = {};
    snprintf(p.name, sizeof p.name, "Simulated sm_90");
    p.totalGlobalMem = total_memory();
    p.sharedMemPerBlock = plain_shared;
    p.sharedMemPerBlockOptin = most_shared;
    p.sharedMemPerMultiprocessor = 228 << 10;
    p.reservedSharedMemPerBlock = 1 << 10;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = (int)warp_size;
    p.maxThreadsPerBlock = (int)most_threads;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7FFFFFFF;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.major = 9;
    p.multiProcessorCount = 132;
    p.concurrentKernels = p.ECCEnabled = p.unifiedAddressing = p.memoryPoolsSupported = 1;
    p.asyncEngineCount = 3;
    p.pciBusID = device + 1;
    p.memoryBusWidth = 5120;
    p.l2CacheSize = 50 << 20;
    *properties = p;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = p.warpSize; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported: *value = p.memoryPoolsSupported; return cudaSuccess;
    }
    return failed(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *words, int length, int device) {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) snprintf(words, (size_t)length, "0000:%02x:00.0", device + 1);
    return failed(error);
}

/* ---- The driver's ---- */

static CUresult check_driver(CUdevice device) {
    return check_device(device) == cudaSuccess ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

/* cuda.h's functions lie beside the plug-in's own symbol, for its tests. */
#define EXPORT __attribute__((visibility("default")))

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return check_driver(ordinal);
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = current_context();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
    if (!context || !context->retained) return CUDA_ERROR_INVALID_CONTEXT;
    contexts.push_back(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent(CUcontext *context) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
    const CUresult result = check_driver(device);
    if (result != CUDA_SUCCESS) return result;
    *flags = 0;
    *active = primaries[device].retained > 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    const CUresult result = check_driver(device);
    if (result != CUDA_SUCCESS) return result;
    primaries[device].retained++;
    *context = &primaries[device];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    const CUresult result = check_driver(device);
    if (result != CUDA_SUCCESS) return result;
    if (primaries[device].retained > primaries[device].by_runtime) {
        primaries[device].retained--;
        return CUDA_SUCCESS;
    }
    report("cuDevicePrimaryCtxRelease: a context that was not retained");
    return CUDA_ERROR_INVALID_CONTEXT;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result) {
    static const struct {
        const char *name;
        void *function;
    } known[] = {{"cuDeviceGet", reinterpret_cast<void *>(cuDeviceGet)},
                 {"cuCtxGetCurrent", reinterpret_cast<void *>(cuCtxGetCurrent)},
                 {"cuCtxPushCurrent", reinterpret_cast<void *>(cuCtxPushCurrent)},
                 {"cuCtxPopCurrent", reinterpret_cast<void *>(cuCtxPopCurrent)},
                 {"cuDevicePrimaryCtxGetState", reinterpret_cast<void *>(cuDevicePrimaryCtxGetState)},
                 {"cuDevicePrimaryCtxRetain", reinterpret_cast<void *>(cuDevicePrimaryCtxRetain)},
                 {"cuDevicePrimaryCtxRelease", reinterpret_cast<void *>(cuDevicePrimaryCtxRelease)}};
    *result = cudaDriverEntryPointSymbolNotFound;
    *function = nullptr;
    for (const auto &one : known)
        if (!strcmp(one.name, symbol)) {
            *function = one.function;
            *result = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}

} /* extern "C" */
