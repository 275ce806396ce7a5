/* Collectives of a warp. A lane leaves its operands in its thread; the last lane of the mask to arrive computes all
 * results, so that a lane that runs ahead cannot change what another has still to read. */
#include <cstring>

#include "block.h"

namespace cudasim {

/* Instructions that all lanes must execute at one place (.aligned); of the others any with the same name will do. */
static bool one_place(wait_kind kind) { return kind == wait_kind::mma || kind == wait_kind::load_tiles; }

/* The second call as numbers, because fields that were written a moment ago one by one are slow to read together. */
static inline bool alike(const call &a, wait_kind waits, unsigned mask, const char *file, int line) {
    return a.waits == waits && a.mask == mask &&
           (!one_place(waits) || (a.line == line && (a.file == file || strcmp(a.file, file) == 0)));
}

static void check_mask(thread &self, unsigned mask) {
    warp &group = *self.own_warp;
    multiprocessor &processor = *self.processor;
    const char *fault = !(mask >> self.lane & 1) ? "without this thread's own lane"
                        : mask & ~group.present  ? "with lanes that the block does not have"
                        : mask & group.exited    ? "with a lane whose thread has ended"
                                                 : nullptr;
    if (!fault) return;
    processor.grid->fail(
        text("%s: %s with mask %08x, %s", processor.place(self).c_str(), name_of(self.waits), mask, fault));
    processor.abandon();
}

/* Waits for all lanes of the mask. true in the last one, which then computes the results and calls `release`. */
static bool arrive(thread &self, wait_kind kind, unsigned mask, const char *file, int line) {
    warp &group = *self.own_warp;
    self.waits = kind;
    self.mask = mask;
    self.file = file;
    self.line = line;
    if (!(mask >> self.lane & 1) || mask & (group.exited | ~group.present)) check_mask(self, mask);

    const unsigned bit = 1u << self.lane;
    bool complete;
    if (group.waiting == group.alike && (!group.alike || alike(group.model, kind, mask, file, line))) {
        if (!group.alike) group.model = {kind, mask, file, line};
        group.alike |= bit;
        complete = group.alike == mask;
    } else { /* parts of the warp wait with masks of their own */
        complete = ((group.waiting | bit) & mask) == mask;
        for (unsigned lanes = mask & ~bit; complete && lanes; lanes &= lanes - 1)
            complete = alike(group.lanes[__builtin_ctz(lanes)], kind, mask, file, line);
    }
    group.waiting |= bit;
    if (complete) return true;
    self.processor->make_waiting(self);
    self.processor->wait(self);
    return false;
}

static void release(thread &self) {
    warp &group = *self.own_warp;
    group.waiting &= ~self.mask;
    group.alike &= ~self.mask;
    for (unsigned lanes = self.mask; lanes; lanes &= lanes - 1)
        group.lanes[__builtin_ctz(lanes)].waits = wait_kind::none;
    self.processor->make_ready(group, self.mask);
}

/* ---- Shuffles and votes ---- */

/* The lane that `one` reads, by the PTX ISA's rules for shfl: its own where the segment has no such lane. */
static unsigned source_of(const thread &one) {
    const int lane = (int)one.lane, width = one.width, segment = lane & ~(width - 1), operand = one.operand;
    int source = lane;
    switch (one.waits) {
    case wait_kind::shuffle_up: source = lane - operand < segment ? lane : lane - operand; break;
    case wait_kind::shuffle_down: source = lane + operand >= segment + width ? lane : lane + operand; break;
    case wait_kind::shuffle_xor: source = (lane ^ operand) >= segment + width ? lane : lane ^ operand; break;
    default: source = segment | (operand & (width - 1));
    }
    return (unsigned)source;
}

static void shuffle(thread &self) {
    uint64_t values[warp_size];
    thread *const all = self.own_warp->lanes;
    for (unsigned lanes = self.mask; lanes; lanes &= lanes - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(lanes), source = source_of(all[lane]) & (warp_size - 1);
        if (!(self.mask >> source & 1)) {
            self.processor->grid->fail(text("%s: %s reads lane %u, which is not in the mask %08x",
                                            self.processor->place(all[lane]).c_str(), name_of(self.waits), source,
                                            self.mask));
            self.processor->abandon();
        }
        values[lane] = all[source].value;
    }
    for (unsigned lanes = self.mask; lanes; lanes &= lanes - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(lanes);
        all[lane].value = values[lane];
    }
}

static void ballot(thread &self) {
    thread *const all = self.own_warp->lanes;
    unsigned votes = 0;
    for (unsigned lanes = self.mask; lanes; lanes &= lanes - 1)
        votes |= (unsigned)all[__builtin_ctz(lanes)].value << __builtin_ctz(lanes);
    for (unsigned lanes = self.mask; lanes; lanes &= lanes - 1) all[__builtin_ctz(lanes)].value = votes;
}

/* ---- Tensor cores ---- */

typedef double row_of_8 __attribute__((vector_size(64)));

/* d += a b. Products of two bfloat16 are exact in double, so a compiler may fuse them with the sum or not. */
static void multiply(row_of_8 (&d)[16], const double (&a)[16][16], const row_of_8 (&b)[16]) {
    for (int row = 0; row < 16; row += 4) {
        row_of_8 sums[4] = {d[row], d[row + 1], d[row + 2], d[row + 3]};
        for (int k = 0; k < 16; k++) {
            sums[0] += a[row][k] * b[k];
            sums[1] += a[row + 1][k] * b[k];
            sums[2] += a[row + 2][k] * b[k];
            sums[3] += a[row + 3][k] * b[k];
        }
        for (int i = 0; i < 4; i++) d[row + i] = sums[i];
    }
}

static double low_half(uint32_t pair) { return cudasim_as<float>(pair << 16); }
static double high_half(uint32_t pair) { return cudasim_as<float>(pair & 0xFFFF0000u); }
static void put_pair(double *to, uint32_t pair) {
    to[0] = low_half(pair);
    to[1] = high_half(pair);
}

static void mma(thread &self) {
    thread *const all = self.own_warp->lanes;
    alignas(64) double a[16][16];
    row_of_8 b[16], d[16];
    for (int lane = 0; lane < 32; lane++) {
        const thread &one = all[lane];
        const int group = lane / 4, pair = lane % 4 * 2;
        const uint32_t *const left = one.left, *const right = one.right;
        const float *const sums = one.sums;
        put_pair(&a[group][pair], left[0]);
        put_pair(&a[group + 8][pair], left[1]);
        put_pair(&a[group][pair + 8], left[2]);
        put_pair(&a[group + 8][pair + 8], left[3]);
        for (int i = 0; i < 2; i++) {
            b[pair + i * 8][group] = low_half(right[i]);
            b[pair + i * 8 + 1][group] = high_half(right[i]);
            d[group + i * 8][pair] = sums[2 * i];
            d[group + i * 8][pair + 1] = sums[2 * i + 1];
        }
    }
    multiply(d, a, b);
    for (int lane = 0; lane < 32; lane++) {
        const int group = lane / 4, pair = lane % 4 * 2;
        float *const sums = all[lane].sums;
        for (int i = 0; i < 2; i++) {
            sums[2 * i] = (float)d[group + i * 8][pair];
            sums[2 * i + 1] = (float)d[group + i * 8][pair + 1];
        }
    }
}

static void load_tiles(thread &self, bool transposed) {
    thread *const all = self.own_warp->lanes;
    for (int tile = 0; tile < 4; tile++) {
        uint16_t rows[8][8];
        for (int row = 0; row < 8; row++) memcpy(rows[row], all[tile * 8 + row].row, sizeof rows[row]);
        for (int lane = 0; lane < 32; lane++) {
            const int row = lane / 4, pair = lane % 4 * 2;
            const uint32_t low = transposed ? rows[pair][row] : rows[row][pair];
            const uint32_t high = transposed ? rows[pair + 1][row] : rows[row][pair + 1];
            all[lane].tiles[tile] = high << 16 | low;
        }
    }
}

/* 16 bytes of shared memory, as ldmatrix and cp.async take them. */
static void check_shared_row(thread &self, const void *row, const char *what) {
    multiprocessor &processor = *self.processor;
    const bool inside = processor.within_shared(row, 16);
    if (inside && reinterpret_cast<uintptr_t>(row) % 16 == 0) return;
    processor.grid->fail(text("%s: %s at an address that is %s", processor.place(self).c_str(), what,
                              inside ? "not a multiple of 16" : "not in the block's shared memory"));
    processor.abandon();
}

} // namespace cudasim

using namespace cudasim;

uint64_t cudasim_shuffle(cudasim_shuffle_kind kind, unsigned mask, uint64_t value, int operand, int width,
                         const char *file, int line) {
    static constexpr wait_kind kinds[] = {wait_kind::shuffle, wait_kind::shuffle_up, wait_kind::shuffle_down,
                                          wait_kind::shuffle_xor};
    thread &self = running();
    self.value = value;
    self.operand = operand;
    self.width = width;
    if (width < 1 || width > 32 || width & (width - 1) ||
        ((kind == CUDASIM_SHUFFLE_UP || kind == CUDASIM_SHUFFLE_DOWN) && (operand < 0 || operand > 32))) {
        self.processor->grid->fail(
            text("%s: %s of %d, width %d", self.processor->place(self).c_str(), name_of(kinds[kind]), operand, width));
        self.processor->abandon();
    }
    if (arrive(self, kinds[kind], mask, file, line)) {
        shuffle(self);
        release(self);
    }
    return self.value;
}

unsigned cudasim_ballot(unsigned mask, int predicate, const char *file, int line) {
    thread &self = running();
    self.value = predicate != 0;
    if (arrive(self, wait_kind::ballot, mask, file, line)) {
        ballot(self);
        release(self);
    }
    return (unsigned)self.value;
}

void cudasim_sync_warp(unsigned mask, const char *file, int line) {
    thread &self = running();
    if (arrive(self, wait_kind::sync_warp, mask, file, line)) {
#ifdef CUDASIM_RACES
        self.own_warp->clock.sync(mask);
#endif
        release(self);
    }
}

void cudasim_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, const char *file, int line) {
    thread &self = running();
    self.sums = d;
    self.left = a;
    self.right = b;
    if (arrive(self, wait_kind::mma, 0xffffffffu, file, line)) {
        mma(self);
        release(self);
    }
}

void cudasim_load_tiles(uint32_t *r, const void *shared, int transposed, const char *file, int line) {
    thread &self = running();
    self.file = file;
    self.line = line;
    check_shared_row(self, shared, "ldmatrix");
    self.tiles = r;
    self.row = shared;
#ifdef CUDASIM_RACES
    self.processor->races.access(self, shared, 16, false);
#endif
    if (arrive(self, wait_kind::load_tiles, 0xffffffffu, file, line)) {
        load_tiles(self, transposed);
        release(self);
    }
}

/* ---- Copies that run beside the thread ---- */

void cudasim_copy_async(void *shared, const void *global, int valid, const char *file, int line) {
    thread &self = running();
    self.file = file;
    self.line = line;
    check_shared_row(self, shared, "an asynchronous copy");
    if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) {
        self.processor->grid->fail(text("%s: an asynchronous copy from an address that is not a multiple of 16",
                                        self.processor->place(self).c_str()));
        self.processor->abandon();
    }
    self.copies.push_back({shared, global, valid != 0, self.groups});
}

void cudasim_copy_commit() { running().groups++; }

void cudasim_copy_wait(int pending) {
    thread &self = running();
    while (self.copies_done < self.copies.size()) {
        const async_copy &copy = self.copies[self.copies_done];
        if (copy.group + (uint64_t)pending >= self.groups) return;
#ifdef CUDASIM_RACES
        self.processor->races.access(self, copy.shared, 16, true);
#endif
        if (copy.valid)
            memcpy(copy.shared, copy.global, 16);
        else
            memset(copy.shared, 0, 16);
        self.copies_done++;
    }
    self.copies.clear();
    self.copies_done = 0;
}

/* ---- Memory that blocks share ---- */

void cudasim_fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <typename T> static T change_at_once(T *to, T value, T (*change)(T, T)) {
    T old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(to, &old, change(old, value), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    return old;
}

template <typename T> static T compare_and_swap(T *to, T expected, T value) {
    __atomic_compare_exchange_n(to, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

uint32_t cudasim_atomic(uint32_t *to, uint32_t value, uint32_t (*change)(uint32_t, uint32_t)) {
    return change_at_once(to, value, change);
}
uint64_t cudasim_atomic(uint64_t *to, uint64_t value, uint64_t (*change)(uint64_t, uint64_t)) {
    return change_at_once(to, value, change);
}
uint32_t cudasim_compare_and_swap(uint32_t *to, uint32_t expected, uint32_t value) {
    return compare_and_swap(to, expected, value);
}
uint64_t cudasim_compare_and_swap(uint64_t *to, uint64_t expected, uint64_t value) {
    return compare_and_swap(to, expected, value);
}
