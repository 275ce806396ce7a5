/* Memory of the devices and pinned memory of the host, counted, each piece an allocation of its own; and copies. */
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "block.h"
#include "cudasim.h"
#include "runtime.h"

struct CUmemPoolHandle_st {
    int device;
    uint64_t keep = 0;   /* release threshold */
    size_t used = 0;     /* by allocations */
    size_t reserved = 0; /* of the device: used, and kept for later */
    bool ended = false;
    std::set<int> others; /* devices that may use its memory too */
};

namespace cudasim {

constexpr size_t alignment = 256;

struct allocation {
    size_t size;
    int device; /* negative: pinned memory of the host */
    cudaMemPool_t pool;
    bool freed; /* by a call whose turn in its stream may still come */
};

static std::mutex memory_lock;
static std::map<uintptr_t, allocation> allocations;
static std::map<int, size_t> used; /* of a device, pools' reserves included */
static std::set<cudaMemPool_t> pools;

size_t total_memory() {
    const char *words = getenv("CUDASIM_MEMORY");
    return words ? (size_t)strtoull(words, nullptr, 10) : (size_t)80 << 30;
}

static uintptr_t number(const void *address) { return reinterpret_cast<uintptr_t>(address); }

/* With memory_lock. The allocation that the address lies in. */
static allocation *find(const void *address, uintptr_t *start = nullptr) {
    auto entry = allocations.upper_bound(number(address));
    if (entry == allocations.begin()) return nullptr;
    --entry;
    if (number(address) >= entry->first + entry->second.size) return nullptr;
    if (start) *start = entry->first;
    return &entry->second;
}

/* With CUDASIM_HIDE in the environment the host cannot touch a device's memory, which is pages of its own then, but while
 * queued work is done. For programs of one thread. */
static bool hides() {
    static const bool wanted = getenv("CUDASIM_HIDE") != nullptr;
    return wanted;
}

void show_memory(bool shown) {
    if (!hides()) return;
    std::lock_guard<std::mutex> guard(memory_lock);
    for (const auto &[start, one] : allocations)
        if (one.device >= 0)
            mprotect(reinterpret_cast<void *>(start), one.size, shown ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* With memory_lock. */
static void *allocate(size_t size, int device, cudaMemPool_t pool) {
    void *memory = nullptr;
    if (hides() && device >= 0) {
        memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return nullptr;
    } else if (posix_memalign(&memory, alignment, size) != 0) {
        return nullptr;
    }
    memset(memory, 0xFF, size);
    if (hides() && device >= 0) mprotect(memory, size, PROT_NONE);
    allocations[number(memory)] = {size, device, pool, false};
    return memory;
}

static void set_reserved(cudaMemPool_t pool, size_t reserved) {
    used[pool->device] += reserved - pool->reserved;
    pool->reserved = reserved;
}

static void trim(cudaMemPool_t pool, uint64_t keep) {
    if (pool->reserved > keep) set_reserved(pool, std::max<size_t>(pool->used, (size_t)keep));
    if (pool->ended && !pool->used) {
        set_reserved(pool, 0);
        pools.erase(pool);
        delete pool;
    }
}

void trim_pools() {
    std::lock_guard<std::mutex> guard(memory_lock);
    const std::set<cudaMemPool_t> all = pools;
    for (cudaMemPool_t pool : all) trim(pool, pool->keep);
}

/* With memory_lock. The address is an allocation's start. */
static void release(void *memory) {
    const auto entry = allocations.find(number(memory));
    const allocation one = entry->second;
    allocations.erase(entry);
    if (hides() && one.device >= 0)
        munmap(memory, one.size);
    else
        free(memory);
    if (one.pool) {
        one.pool->used -= one.size;
        trim(one.pool, one.pool->ended ? 0 : UINT64_MAX);
    } else if (one.device >= 0) {
        used[one.device] -= one.size;
    }
}

static cudaError_t check_call(const char *call, int *device) {
    cudaError_t error = use_device(device);
    if (error == cudaSuccess) error = refuse_while_recording(call);
    if (error == cudaSuccess) error = failed(state_of(*device));
    return error;
}

/* With memory_lock: `size` bytes at the address are the device's, of one allocation, and not freed (which may be the case
 * only when the call is made, not when its turn comes). */
static bool on_device(const char *call, const void *address, size_t size, bool now = true) {
    uintptr_t start = 0;
    const allocation *one = find(address, &start);
    const char *fault = !one || one->device < 0                      ? "is not a device's"
                        : now && one->freed                          ? "is freed"
                        : number(address) + size > start + one->size ? "ends before that"
                                                                     : nullptr;
    if (fault) report(text("%s: %zu bytes at %p: the memory %s", call, size, address, fault));
    return !fault;
}

/* The host's bytes do not lie on a device. */
static bool on_host(const char *call, const void *address, size_t size) {
    uintptr_t start = 0;
    const allocation *one = find(address, &start);
    const char *fault = one && one->device >= 0                             ? "is a device's"
                        : one && number(address) + size > start + one->size ? "ends before that"
                                                                            : nullptr;
    if (fault) report(text("%s: %zu bytes at %p: the memory %s", call, size, address, fault));
    return !fault;
}

static cudaError_t check_copy(const char *call, const void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice) {
        report(text("%s: a copy of kind %d", call, (int)kind));
        return cudaErrorInvalidMemcpyDirection;
    }
    const bool to_good = kind == cudaMemcpyDeviceToHost ? on_host(call, to, size) : on_device(call, to, size);
    const bool from_good = kind == cudaMemcpyHostToDevice ? on_host(call, from, size) : on_device(call, from, size);
    return to_good && from_good ? cudaSuccess : cudaErrorInvalidValue;
}

bool check_device_memory(const char *call, const void *address, size_t size, int device, int other) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!on_device(call, address, size, device == other)) return false;
    const allocation *one = find(address);
    if (one->device == device && (device == other || !one->pool || one->pool->others.count(other))) return true;
    report(text("%s: %zu bytes at %p are device %d's, and device %d may not use them", call, size, address, one->device,
                one->device == device ? other : device));
    return false;
}

static bool is_pinned(const void *address) {
    std::lock_guard<std::mutex> guard(memory_lock);
    return find(address) != nullptr;
}

} // namespace cudasim

using namespace cudasim;

static cudaError_t take_from_pool(void **memory, size_t size, cudaMemPool_t pool, int device) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!size || !pools.count(pool) || pool->ended || pool->device != device) return cudaErrorInvalidValue;
    const size_t reserved = std::max(pool->reserved, pool->used + size);
    if (size > total_memory() || used[device] - pool->reserved + reserved > total_memory())
        return cudaErrorMemoryAllocation;
    *memory = allocate(size, device, pool);
    if (!*memory) return cudaErrorMemoryAllocation;
    pool->used += size;
    set_reserved(pool, reserved);
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    std::lock_guard<std::mutex> guard(memory_lock);
    *total = total_memory();
    *free_bytes = *total - std::min(*total, used[device]);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *memory) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const allocation *one = find(memory);
    void *const address = const_cast<void *>(memory);
    *out = !one              ? cudaPointerAttributes{cudaMemoryTypeUnregistered, -1, nullptr, address}
           : one->device < 0 ? cudaPointerAttributes{cudaMemoryTypeHost, 0, address, address}
                             : cudaPointerAttributes{cudaMemoryTypeDevice, one->device, address, nullptr};
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t size) {
    int device = 0;
    const cudaError_t error = check_call("cudaMalloc", &device);
    if (error != cudaSuccess) return error;
    *memory = nullptr;
    if (!size) return cudaSuccess;
    std::lock_guard<std::mutex> guard(memory_lock);
    if (size > total_memory() - std::min(total_memory(), used[device])) return failed(cudaErrorMemoryAllocation);
    *memory = allocate(size, device, nullptr);
    if (!*memory) return failed(cudaErrorMemoryAllocation);
    used[device] += size;
    return cudaSuccess;
}

/* As on a device, what is queued is done first. */
cudaError_t cudaFree(void *memory) {
    if (!memory) return cudaSuccess;
    const cudaError_t error = refuse_while_recording("cudaFree");
    if (error != cudaSuccess) return error;
    int device = -1;
    {
        std::lock_guard<std::mutex> guard(memory_lock);
        uintptr_t start = 0;
        const allocation *one = find(memory, &start);
        if (one && start == number(memory) && !one->pool && !one->freed) device = one->device;
    }
    if (device < 0) {
        report(text("cudaFree: %p is not from cudaMalloc", memory));
        return failed(cudaErrorInvalidValue);
    }
    finish_device(device);
    std::lock_guard<std::mutex> guard(memory_lock);
    release(memory);
    return failed(state_of(device));
}

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned int) {
    int device = 0;
    const cudaError_t error = check_call("cudaHostAlloc", &device);
    if (error != cudaSuccess) return error;
    std::lock_guard<std::mutex> guard(memory_lock);
    *memory = size ? allocate(size, -1, nullptr) : nullptr;
    return size && !*memory ? failed(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t size) { return cudaHostAlloc(memory, size, cudaHostAllocDefault); }

cudaError_t cudaFreeHost(void *memory) {
    if (!memory) return cudaSuccess;
    const cudaError_t error = refuse_while_recording("cudaFreeHost");
    if (error != cudaSuccess) return error;
    int current = 0;
    if (use_device(&current) != cudaSuccess) return cudaErrorNoDevice;
    for (int device = 0; device < device_count(); device++) finish_device(device, device == current);
    std::lock_guard<std::mutex> guard(memory_lock);
    const auto entry = allocations.find(number(memory));
    if (entry == allocations.end() || entry->second.device >= 0) {
        report(text("cudaFreeHost: %p is not from cudaHostAlloc", memory));
        return failed(cudaErrorInvalidValue);
    }
    release(memory);
    return cudaSuccess;
}

/* ---- Copies ---- */

/* At once, in no stream's order: what a stream still has queued is not seen. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind) {
    int device = 0;
    cudaError_t error = check_call("cudaMemcpy", &device);
    if (error != cudaSuccess || !size) return error;
    error = check_copy("cudaMemcpy", to, from, size, kind);
    if (error == cudaSuccess) memcpy(to, from, size);
    return failed(error);
}

/* The host's pageable memory is read now, pinned memory when the copy's turn comes, as on a device. A recorded copy
 * reads its memory at each launch. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    int device = 0;
    cudaError_t error = check_stream(stream, "cudaMemcpyAsync", &device);
    if (error != cudaSuccess || !size) return failed(error);
    error = check_copy("cudaMemcpyAsync", to, from, size, kind);
    if (error != cudaSuccess) return failed(error);
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from) && !is_capturing(stream)) {
        const unsigned char *bytes = static_cast<const unsigned char *>(from);
        return failed(
            enqueue(stream, "cudaMemcpyAsync", [to, staged = std::vector<unsigned char>(bytes, bytes + size)] {
                memcpy(to, staged.data(), staged.size());
                return true;
            }));
    }
    return failed(enqueue(stream, "cudaMemcpyAsync", [=] {
        memmove(to, from, size);
        return true;
    }));
}

cudaError_t cudaMemset(void *memory, int value, size_t size) {
    int device = 0;
    const cudaError_t error = check_call("cudaMemset", &device);
    if (error != cudaSuccess || !size) return error;
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!on_device("cudaMemset", memory, size)) return failed(cudaErrorInvalidValue);
    memset(memory, value, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream) {
    int device = 0;
    const cudaError_t error = check_stream(stream, "cudaMemsetAsync", &device);
    if (error != cudaSuccess || !size) return failed(error);
    {
        std::lock_guard<std::mutex> guard(memory_lock);
        if (!on_device("cudaMemsetAsync", memory, size)) return failed(cudaErrorInvalidValue);
    }
    return failed(enqueue(stream, "cudaMemsetAsync", [=] {
        memset(memory, value, size);
        return true;
    }));
}

/* ---- Pools ---- */

cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const cudaMemPoolProps *properties) {
    if (properties->allocType != cudaMemAllocationTypePinned ||
        properties->location.type != cudaMemLocationTypeDevice || properties->location.id < 0 ||
        properties->location.id >= device_count())
        return failed(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> guard(memory_lock);
    *pool = new CUmemPoolHandle_st();
    (*pool)->device = properties->location.id;
    pools.insert(*pool);
    return cudaSuccess;
}

/* It goes when the last of its allocations does. */
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!pools.count(pool) || pool->ended) return failed(cudaErrorInvalidValue);
    const int device = pool->device;
    pool->ended = true;
    trim(pool, 0);
    return failed(state_of(device));
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!pools.count(pool)) return failed(cudaErrorInvalidValue);
    if (attribute == cudaMemPoolAttrReleaseThreshold) memcpy(&pool->keep, value, sizeof pool->keep);
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!pools.count(pool)) return failed(cudaErrorInvalidValue);
    const uint64_t number = attribute == cudaMemPoolAttrReleaseThreshold     ? pool->keep
                            : attribute == cudaMemPoolAttrReservedMemCurrent ? pool->reserved
                                                                             : pool->used;
    if (attribute != cudaMemPoolAttrReleaseThreshold && attribute != cudaMemPoolAttrReservedMemCurrent &&
        attribute != cudaMemPoolAttrUsedMemCurrent)
        return failed(cudaErrorInvalidValue);
    memcpy(value, &number, sizeof number);
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc *descriptions, size_t count) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!pools.count(pool)) return failed(cudaErrorInvalidValue);
    for (size_t i = 0; i < count; i++) {
        const cudaMemAccessDesc &one = descriptions[i];
        if (one.location.type != cudaMemLocationTypeDevice || one.location.id < 0 || one.location.id >= device_count())
            return failed(cudaErrorInvalidDevice);
        if (one.flags == cudaMemAccessFlagsProtReadWrite)
            pool->others.insert(one.location.id);
        else
            pool->others.erase(one.location.id);
    }
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep) {
    std::lock_guard<std::mutex> guard(memory_lock);
    if (!pools.count(pool)) return failed(cudaErrorInvalidValue);
    trim(pool, keep);
    return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void **memory, size_t size, cudaMemPool_t pool, cudaStream_t stream) {
    int device = 0;
    const cudaError_t error = check_stream(stream, "cudaMallocFromPoolAsync", &device);
    if (error != cudaSuccess) return failed(error);
    if (is_capturing(stream)) return refuse_while_recording("cudaMallocFromPoolAsync");
    cudaError_t got = take_from_pool(memory, size, pool, device);
    /* What was freed earlier in the stream can be had again. */
    if (got == cudaErrorMemoryAllocation && cudaStreamSynchronize(stream) == cudaSuccess)
        got = take_from_pool(memory, size, pool, device);
    return got == cudaSuccess ? cudaSuccess : failed(got);
}

cudaError_t cudaFreeAsync(void *memory, cudaStream_t stream) {
    int device = 0;
    const cudaError_t state = check_stream(stream, "cudaFreeAsync", &device);
    if (state == cudaErrorInvalidResourceHandle) return failed(state);
    if (is_capturing(stream)) return refuse_while_recording("cudaFreeAsync");
    {
        std::lock_guard<std::mutex> guard(memory_lock);
        const auto entry = allocations.find(number(memory));
        if (entry == allocations.end() || !entry->second.pool || entry->second.freed) {
            report(text("cudaFreeAsync: %p is not from a pool, or is freed", memory));
            return failed(cudaErrorInvalidValue);
        }
        entry->second.freed = true;
    }
    const cudaError_t error = enqueue(
        stream, "cudaFreeAsync",
        [memory] {
            std::lock_guard<std::mutex> guard(memory_lock);
            release(memory);
            return true;
        },
        true);
    return failed(error == cudaSuccess ? state : error);
}

} /* extern "C" */
