/* Grids: launches are checked, queued, and run block by block, on several OS threads where that pays. */
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <thread>

#include "block.h"
#include "cudasim.h"
#include "runtime.h"

namespace cudasim {

/* Alone for so long first: starting threads costs about a tenth of it. */
constexpr auto alone = std::chrono::microseconds(300);

static unsigned os_threads() {
    const char *words = getenv("CUDASIM_THREADS");
    const long number = words ? strtol(words, nullptr, 10) : (long)std::thread::hardware_concurrency();
    return number < 1 ? 1 : number > 256 ? 256 : (unsigned)number;
}

/* Multiprocessors are kept: their stacks are then in memory already. */
static std::mutex idle_lock;
static std::vector<std::unique_ptr<multiprocessor>> idle;

static std::unique_ptr<multiprocessor> take_multiprocessor() {
    {
        std::lock_guard<std::mutex> guard(idle_lock);
        if (!idle.empty()) {
            std::unique_ptr<multiprocessor> one = std::move(idle.back());
            idle.pop_back();
            return one;
        }
    }
    return std::make_unique<multiprocessor>();
}

static void keep_multiprocessor(std::unique_ptr<multiprocessor> one) {
    std::lock_guard<std::mutex> guard(idle_lock);
    idle.push_back(std::move(one));
}

/* make_worker() gives each OS thread a function of its own, which is called with numbers below count. */
template <typename MakeWorker> static void share_out(uint64_t count, MakeWorker make_worker) {
    std::atomic<uint64_t> next{0};
    const auto help = [&] {
        auto worker = make_worker();
        for (uint64_t i; (i = next.fetch_add(1)) < count;) worker(i);
    };
    std::vector<std::thread> helpers;
    auto worker = make_worker();
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t i; (i = next.fetch_add(1)) < count;) {
        worker(i);
        if (!helpers.empty() || std::chrono::steady_clock::now() - start < alone) continue;
        const uint64_t left = count - std::min(count, next.load());
        for (unsigned k = 1; k < os_threads() && k <= left; k++) helpers.emplace_back(help);
    }
    for (std::thread &helper : helpers) helper.join();
}

bool run_grid(const char *name, dim3 blocks, dim3 threads, size_t shared, const std::function<void()> &body) {
    launch grid;
    grid.name = name;
    grid.blocks = blocks;
    grid.threads = threads;
    grid.shared = shared;
    grid.body = &body;
    share_out((uint64_t)blocks.x * blocks.y * blocks.z, [&] {
        std::shared_ptr<multiprocessor> processor(take_multiprocessor().release(), [](multiprocessor *one) {
            keep_multiprocessor(std::unique_ptr<multiprocessor>(one));
        });
        return [&grid, blocks, processor](uint64_t number) {
            if (grid.failed.load(std::memory_order_relaxed)) return;
            const uint64_t plane = (uint64_t)blocks.x * blocks.y, within = number % plane;
            processor->run(grid,
                           {(unsigned)(within % blocks.x), (unsigned)(within / blocks.x), (unsigned)(number / plane)});
        };
    });
    if (grid.failed) report(text("kernel %s: ", name) + grid.fault);
    return !grid.failed;
}

/* ---- Shared memory beyond 48 KB must be asked for ---- */

static std::mutex allowed_lock;
static std::map<const void *, size_t> allowed_shared;

static cudaError_t check_launch(const char *name, const void *kernel, dim3 blocks, dim3 threads, size_t shared) {
    const uint64_t count = (uint64_t)threads.x * threads.y * threads.z;
    std::string fault;
    if (count == 0 || count > most_threads || threads.x > 1024 || threads.y > 1024 || threads.z > 64)
        fault = text("%u x %u x %u threads in a block", threads.x, threads.y, threads.z);
    else if (!blocks.x || !blocks.y || !blocks.z || blocks.x > 0x7FFFFFFF || blocks.y > 65535 || blocks.z > 65535)
        fault = text("%u x %u x %u blocks", blocks.x, blocks.y, blocks.z);
    else {
        std::lock_guard<std::mutex> guard(allowed_lock);
        const auto entry = allowed_shared.find(kernel);
        const size_t allowed = entry == allowed_shared.end() ? plain_shared : entry->second;
        if (shared > allowed) fault = text("%zu bytes of shared memory, of %zu allowed", shared, allowed);
    }
    if (fault.empty()) return cudaSuccess;
    report(text("kernel %s: not launched: ", name) + fault);
    return cudaErrorInvalidValue;
}

} // namespace cudasim

using namespace cudasim;

void cudasim_for_each(uint64_t count, const std::function<void(uint64_t)> &function) {
    share_out(count, [&] { return [&](uint64_t i) { function(i); }; });
}

void cudasim_launch_body(const char *name, const void *kernel, dim3 blocks, dim3 threads, size_t shared,
                         cudaStream_t stream, std::function<void()> body) {
    const cudaError_t error = check_launch(name, kernel, blocks, threads, shared);
    if (error != cudaSuccess) {
        failed(error);
        return;
    }
    failed(enqueue(stream, name,
                   [=, words = std::string(name)] { return run_grid(words.c_str(), blocks, threads, shared, body); }));
}

extern "C" cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (!function || value < 0 || (size_t)value > most_shared) {
        report(
            text("cudaFuncSetAttribute: %d bytes of shared memory, of %zu that a block can have", value, most_shared));
        return failed(cudaErrorInvalidValue);
    }
    std::lock_guard<std::mutex> guard(allowed_lock);
    size_t &allowed = allowed_shared[function];
    allowed = std::max<size_t>(plain_shared, (size_t)value);
    return cudaSuccess;
}
