/* One block of a grid, run by one OS thread: its threads are fibres, one after another until each waits or is done. */
#ifndef CUDASIM_BLOCK_H
#define CUDASIM_BLOCK_H

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "fibre.h"
#ifdef CUDASIM_RACES
#include "races.h"
#endif

namespace cudasim {

constexpr unsigned warp_size = 32, most_threads = 1024, most_warps = most_threads / warp_size;
constexpr size_t most_shared = 227 << 10, plain_shared = 48 << 10;

/* A grid that runs, seen by all the OS threads that run its blocks. */
struct launch {
    const char *name;
    dim3 blocks, threads;
    size_t shared;
    const std::function<void()> *body;
    std::atomic<bool> failed{false};
    std::mutex lock;
    std::string fault; /* the first one; the others follow from it, or are its like in another block */

    void fail(const std::string &text);
};

enum class wait_kind {
    none,
    exited,
    barrier,
    barrier_or,
    barrier_and,
    barrier_count,
    sync_warp,
    ballot,
    shuffle,
    shuffle_up,
    shuffle_down,
    shuffle_xor,
    mma,
    load_tiles
};

struct async_copy {
    void *shared;
    const void *global;
    bool valid;
    uint64_t group;
};

struct multiprocessor;
struct warp;

/* The collective in which a thread waits. */
struct call {
    wait_kind waits;
    unsigned mask; /* of a warp's */
    const char *file;
    int line;
};

/* A thread, and what it brings to the collective in which it waits. What every collective touches comes first. */
struct alignas(64) thread : cudasim_thread, call {
    unsigned number = 0, lane = 0; /* in the block; in the warp */
    warp *own_warp = nullptr;
    multiprocessor *processor = nullptr;
    bool started = false;
    context state;

    uint64_t value = 0;
    int operand = 0, width = 0;
    float *sums = nullptr;
    const uint32_t *left = nullptr, *right = nullptr;
    uint32_t *tiles = nullptr;
    const void *row = nullptr;

    int stack = -1;
    std::vector<async_copy> copies;
    size_t copies_done = 0;
    uint64_t groups = 0;
};

struct warp {
    unsigned present = 0, ready = 0, exited = 0; /* lanes */
    unsigned waiting = 0;                        /* in a collective of the warp */
    unsigned alike = 0;                          /* of them, those that wait as `model` does */
    call model;
    thread *lanes = nullptr;
#ifdef CUDASIM_RACES
    warp_clock clock;
#endif
};

/* What runs blocks, one at a time: stacks, shared memory, the state of the block. */
struct multiprocessor {
    multiprocessor();
    ~multiprocessor();
    multiprocessor(const multiprocessor &) = delete;
    multiprocessor &operator=(const multiprocessor &) = delete;

    void run(launch &grid, uint3 block);

    /* For the running thread: waits; others run. Its warp's `ready` no longer has it. */
    void wait(thread &self);
    void make_ready(warp &group, unsigned lanes);
    void make_waiting(thread &self);
    /* Ends the block, after launch::fail. The thread's stack is not unwound: nothing on it may own memory. */
    [[noreturn]] void abandon();
    std::string place(const thread &self) const; /* "block (0, 0, 0), thread 3, file:12" */
    bool within_shared(const void *address, size_t size) const;

    launch *grid = nullptr;
    cudasim_position position{};
    std::vector<thread> threads;
    warp warps[most_warps];
    unsigned thread_count = 0, alive = 0;
    unsigned ready_warps = 0;

    unsigned at_barrier = 0;
    const thread *first_at_barrier = nullptr;
    int predicates = 0, barrier_result = 0;
#ifdef CUDASIM_RACES
    race_detector races;
#endif

  private:
    friend void run_thread();
    thread *next(const thread &self);
    void start(thread &other);
    [[noreturn]] void leave(thread &self);
    void check_guards();
    std::string who_waits_where() const;

    context scheduler;
    bool scheduler_known = false;
    unsigned char *stacks = nullptr;
    int stacks_used = 0;
    std::vector<int> free_stacks;
    unsigned char *shared = nullptr;
};

static inline thread &running() { return *static_cast<thread *>(cudasim_current); }
const char *name_of(wait_kind kind);
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs a grid to its end; false where it failed, with a report. */
bool run_grid(const char *name, dim3 blocks, dim3 threads, size_t shared, const std::function<void()> &body);

} // namespace cudasim

#endif
