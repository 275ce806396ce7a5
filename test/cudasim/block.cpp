#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <sys/mman.h>

__thread cudasim_thread *cudasim_current = nullptr;

namespace cudasim {

/* Tops of stacks lie a few cache lines apart from each other modulo a page, so that they do not share cache sets. */
#ifdef CUDASIM_ASAN
constexpr size_t stack_size = 256 << 10;
#else
constexpr size_t stack_size = 64 << 10;
#endif
constexpr size_t stack_pitch = stack_size + 9 * 64;
constexpr size_t guard_size = 256;
constexpr unsigned char guard_byte = 0xA5;
constexpr size_t shared_space = most_shared + guard_size;

std::string text(const char *format, ...) {
    char buffer[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

const char *name_of(wait_kind kind) {
    switch (kind) {
    case wait_kind::none: return "nothing";
    case wait_kind::exited: return "the end";
    case wait_kind::barrier: return "__syncthreads";
    case wait_kind::barrier_or: return "__syncthreads_or";
    case wait_kind::barrier_and: return "__syncthreads_and";
    case wait_kind::barrier_count: return "__syncthreads_count";
    case wait_kind::sync_warp: return "__syncwarp";
    case wait_kind::ballot: return "a vote";
    case wait_kind::shuffle: return "__shfl_sync";
    case wait_kind::shuffle_up: return "__shfl_up_sync";
    case wait_kind::shuffle_down: return "__shfl_down_sync";
    case wait_kind::shuffle_xor: return "__shfl_xor_sync";
    case wait_kind::mma: return "mma";
    case wait_kind::load_tiles: return "ldmatrix";
    }
    return "?";
}

void launch::fail(const std::string &words) {
    std::lock_guard<std::mutex> guard(lock);
    if (!failed.exchange(true)) fault = words;
}

static unsigned char *map(size_t size) {
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<unsigned char *>(memory);
}

multiprocessor::multiprocessor() : threads(most_threads) {
    stacks = map(stack_pitch * most_threads);
    shared = map(shared_space);
}

multiprocessor::~multiprocessor() {
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(stacks, stack_pitch * most_threads);
    __asan_unpoison_memory_region(shared, shared_space);
#endif
    munmap(stacks, stack_pitch * most_threads);
    munmap(shared, shared_space);
}

std::string multiprocessor::place(const thread &self) const {
    const uint3 block = position.block;
    std::string words = text("block (%u, %u, %u), thread %u", block.x, block.y, block.z, self.number);
    if (self.file) words += text(", %s:%d", self.file, self.line);
    return words;
}

bool multiprocessor::within_shared(const void *address, size_t size) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(address), base = reinterpret_cast<uintptr_t>(shared);
    return first >= base && size <= grid->shared && first - base <= grid->shared - size;
}

/* ---- One thread after another ---- */

void multiprocessor::make_ready(warp &group, unsigned lanes) {
    group.ready |= lanes;
    ready_warps |= 1u << (&group - warps);
}

void multiprocessor::make_waiting(thread &self) {
    warp &group = *self.own_warp;
    group.ready &= ~(1u << self.lane);
    if (!group.ready) ready_warps &= ~(1u << (&group - warps));
}

/* Of the same warp where one can go on. */
thread *multiprocessor::next(const thread &self) {
    warp *group = self.own_warp;
    if (!group->ready) {
        if (!ready_warps) return nullptr;
        group = &warps[__builtin_ctz(ready_warps)];
    }
    return &group->lanes[__builtin_ctz(group->ready)];
}

void run_thread() {
    {
        multiprocessor &processor = *running().processor;
        context fibre;
        entered_context(processor.scheduler_known ? fibre : processor.scheduler);
        processor.scheduler_known = true;
    }
    for (;;) {
        (*running().processor->grid->body)();
        thread &self = running();
        multiprocessor &processor = *self.processor;
        self.waits = wait_kind::exited;
        self.file = nullptr;
        self.own_warp->exited |= 1u << self.lane;
        processor.make_waiting(self);
        processor.alive--;
        thread *const other = processor.next(self);
        if (!other) {
            if (processor.alive > 0) processor.grid->fail(processor.who_waits_where());
            processor.leave(self);
        }
        if (other->started) {
            processor.free_stacks.push_back(self.stack);
            cudasim_current = other;
            switch_context(self.state, other->state, true);
        }
        /* A new thread goes on on this stack: kernels without collectives never switch. */
        other->started = true;
        other->stack = self.stack;
        cudasim_current = other;
    }
}

void multiprocessor::start(thread &one) {
    if (free_stacks.empty()) {
        one.stack = stacks_used++;
    } else {
        one.stack = free_stacks.back();
        free_stacks.pop_back();
    }
    unsigned char *stack = stacks + stack_pitch * (size_t)one.stack;
    memset(stack, guard_byte, guard_size);
    one.state = new_context(stack + guard_size, stack_size - guard_size, run_thread);
    one.started = true;
}

void multiprocessor::wait(thread &self) {
    thread *const other = next(self);
    if (!other) {
        grid->fail(who_waits_where());
        abandon();
    }
    if (!other->started) start(*other);
    cudasim_current = other;
    switch_context(self.state, other->state, false);
}

void multiprocessor::leave(thread &self) {
    cudasim_current = nullptr;
    switch_context(self.state, scheduler, true);
    __builtin_unreachable();
}

void multiprocessor::abandon() { leave(running()); }

/* Nobody can go on: who is where, thread numbers that are alike together. */
std::string multiprocessor::who_waits_where() const {
    const uint3 block = position.block;
    std::string words = text("block (%u, %u, %u): threads wait for each other", block.x, block.y, block.z);
    std::vector<bool> told(thread_count);
    for (unsigned i = 0; i < thread_count; i++) {
        if (told[i]) continue;
        const thread &one = threads[i];
        unsigned others = 0;
        for (unsigned k = i + 1; k < thread_count; k++) {
            const thread &other = threads[k];
            if (one.waits != other.waits || one.file != other.file || one.line != other.line || one.mask != other.mask)
                continue;
            told[k] = true;
            others++;
        }
        words += text("; thread %u", i);
        if (others) words += text(" (and %u more)", others);
        if (one.waits == wait_kind::exited) {
            words += " has ended";
        } else {
            words += text(" at %s, %s:%d", name_of(one.waits), one.file, one.line);
            if (one.waits >= wait_kind::sync_warp) words += text(", mask %08x", one.mask);
        }
    }
    return words;
}

/* ---- A block ---- */

void multiprocessor::run(launch &of, uint3 block) {
    grid = &of;
    position = {block, of.threads, of.blocks, shared};
    thread_count = alive = of.threads.x * of.threads.y * of.threads.z;
    at_barrier = 0;
    predicates = 0;
    first_at_barrier = nullptr;
    stacks_used = 0;
    free_stacks.clear();
    scheduler_known = false;
    ready_warps = 0;
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(shared, shared_space);
#endif
    memset(shared, 0xFF, of.shared);
    memset(shared + of.shared, guard_byte, guard_size);
#ifdef CUDASIM_ASAN
    __asan_poison_memory_region(shared + of.shared, shared_space - of.shared);
#endif
#ifdef CUDASIM_RACES
    races.new_block(shared, of.shared);
#endif

    const unsigned warp_count = (thread_count + warp_size - 1) / warp_size;
    for (unsigned i = 0; i < warp_count; i++) {
        warp &group = warps[i];
        const unsigned lanes = thread_count - i * warp_size;
        group.present = lanes >= warp_size ? ~0u : (1u << lanes) - 1;
        group.exited = group.waiting = group.alike = group.ready = 0;
        group.lanes = &threads[i * warp_size];
        make_ready(group, group.present);
#ifdef CUDASIM_RACES
        group.clock.reset();
#endif
    }
    uint3 index = {0, 0, 0};
    for (unsigned i = 0; i < thread_count; i++) {
        thread &one = threads[i];
        one.index = index;
        one.position = &position;
        one.number = i;
        one.lane = i % warp_size;
        one.own_warp = &warps[i / warp_size];
        one.processor = this;
        one.started = false;
        static_cast<call &>(one) = call();
        one.copies.clear();
        one.copies_done = 0;
        one.groups = 0;
        if (++index.x == of.threads.x) {
            index.x = 0;
            if (++index.y == of.threads.y) {
                index.y = 0;
                index.z++;
            }
        }
    }

    start(threads[0]);
    cudasim_current = &threads[0];
    switch_context(scheduler, threads[0].state, false);
    check_guards();
}

void multiprocessor::check_guards() {
    unsigned char expected[guard_size];
    memset(expected, guard_byte, guard_size);
    const uint3 block = position.block;
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(shared + grid->shared, guard_size);
#endif
    if (memcmp(shared + grid->shared, expected, guard_size) != 0)
        grid->fail(text("block (%u, %u, %u) writes behind its %zu bytes of shared memory", block.x, block.y, block.z,
                        grid->shared));
    for (int i = 0; i < stacks_used; i++) {
        if (memcmp(stacks + stack_pitch * (size_t)i, expected, guard_size) == 0) continue;
        grid->fail(
            text("block (%u, %u, %u): a thread's stack overflows %zu bytes", block.x, block.y, block.z, stack_size));
    }
}

} // namespace cudasim

/* ---- Collectives of a block ---- */

int cudasim_barrier(cudasim_barrier_kind kind, int predicate, const char *file, int line) {
    using namespace cudasim;
    static constexpr wait_kind kinds[] = {wait_kind::barrier, wait_kind::barrier_or, wait_kind::barrier_and,
                                          wait_kind::barrier_count};
    thread &self = running();
    multiprocessor &processor = *self.processor;
    self.waits = kinds[kind];
    self.file = file;
    self.line = line;
    self.mask = 0;
    if (processor.at_barrier++ == 0) {
        processor.first_at_barrier = &self;
        processor.predicates = 0;
    }
    const thread &first = *processor.first_at_barrier;
    if (first.waits != self.waits || first.line != line || (first.file != file && strcmp(first.file, file) != 0)) {
        processor.grid->fail(text("%s: at %s, while thread %u waits at %s, %s:%d", processor.place(self).c_str(),
                                  name_of(self.waits), first.number, name_of(first.waits), first.file, first.line));
        processor.abandon();
    }
    processor.predicates += predicate != 0;
    if (processor.at_barrier < processor.thread_count) {
        processor.make_waiting(self);
        processor.wait(self);
    } else {
        const int all = (int)processor.thread_count, true_ones = processor.predicates;
        processor.barrier_result = kind == CUDASIM_BARRIER_OR    ? true_ones > 0
                                   : kind == CUDASIM_BARRIER_AND ? true_ones == all
                                                                 : true_ones;
        processor.at_barrier = 0;
        const unsigned warp_count = (processor.thread_count + warp_size - 1) / warp_size;
        for (unsigned i = 0; i < warp_count; i++) processor.make_ready(processor.warps[i], processor.warps[i].present);
#ifdef CUDASIM_RACES
        processor.races.barrier();
#endif
    }
    self.waits = wait_kind::none;
    return processor.barrier_result;
}
