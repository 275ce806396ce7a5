#ifdef CUDASIM_RACES
#include "races.h"

#include <algorithm>
#include <cstring>

#include "block.h"

namespace cudasim {

void warp_clock::reset() {
    time = 0;
    memset(met, 0, sizeof met);
}

/* What any of the lanes knows all of them know, and each knows what the others have done up to now. */
void warp_clock::sync(unsigned mask) {
    uint32_t known[32] = {0};
    time++;
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
        const uint32_t *row = met[__builtin_ctz(lanes)];
        for (int i = 0; i < 32; i++) known[i] = std::max(known[i], row[i]);
    }
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) known[__builtin_ctz(lanes)] = time;
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) memcpy(met[__builtin_ctz(lanes)], known, sizeof known);
}

constexpr size_t word = 4;

race_detector::race_detector() : of_word(most_shared / word), of_byte(most_shared), split(most_shared / word) {}

void race_detector::new_block(unsigned char *memory, size_t size) {
    base = reinterpret_cast<uintptr_t>(memory);
    bytes = size;
    epoch++;
}

/* A thread whose access is in no order with this one, or -1. */
int race_detector::conflict(const history &one, const thread &self, bool write) const {
    const warp_clock &clock = self.own_warp->clock;
    const int own_warp = (int)(self.number / warp_size);
    if (one.writer >= 0 && one.writer != (int)self.number &&
        (one.writer / (int)warp_size != own_warp ||
         !clock.in_order(self.lane, (unsigned)one.writer % warp_size, one.written)))
        return one.writer;
    if (!write || one.reader_warp < 0) return -1;
    if (one.reader_warp != own_warp) return one.reader_warp * (int)warp_size + __builtin_ctz(one.readers);
    for (unsigned lanes = one.readers & ~(1u << self.lane); lanes; lanes &= lanes - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(lanes);
        if (!clock.in_order(self.lane, lane, one.read)) return one.reader_warp * (int)warp_size + (int)lane;
    }
    return -1;
}

void race_detector::touch(history &one, thread &self, size_t place, bool write) {
    const warp_clock &clock = self.own_warp->clock;
    const int own_warp = (int)(self.number / warp_size);
    if (one.epoch != epoch) one = {epoch, -1, -1, 0, 0, 0};
    const int other = conflict(one, self, write);
    if (other >= 0 && !self.processor->grid->failed) {
        const bool other_writes = other == one.writer;
        self.processor->grid->fail(
            text("race: byte %zu of shared memory: thread %d %s it, then thread %u %s it, and no "
                 "barrier lies between; the last wait: %s",
                 place, other, other_writes ? "writes" : "reads", self.number, write ? "writes" : "reads",
                 self.processor->place(self).c_str()));
    }
    if (write) {
        one.writer = (int16_t)self.number;
        one.written = clock.time;
        one.reader_warp = -1;
        one.readers = 0;
    } else if (one.reader_warp < 0 || one.reader_warp == own_warp) {
        for (unsigned lanes = one.read == clock.time ? 0 : one.readers; lanes; lanes &= lanes - 1) {
            const unsigned lane = (unsigned)__builtin_ctz(lanes);
            if (clock.in_order(self.lane, lane, one.read)) one.readers &= ~(1u << lane);
        }
        one.reader_warp = (int16_t)own_warp;
        one.readers |= 1u << self.lane;
        one.read = clock.time;
    }
}

/* Whole words have one history, until a part of one is touched. */
void race_detector::access_at(thread &self, size_t first, size_t size, bool write) {
    const size_t end = std::min(bytes, first + size);
    for (size_t i = first; i < end;) {
        const size_t number = i / word;
        if (split[number] != epoch) {
            if (i % word == 0 && end - i >= word) {
                touch(of_word[number], self, i, write);
                i += word;
                continue;
            }
            split[number] = epoch;
            std::fill_n(&of_byte[number * word], word, of_word[number]);
        }
        touch(of_byte[i], self, i, write);
        i++;
    }
}

__attribute__((always_inline)) static inline void seen(const void *address, size_t size, bool write, bool aligned) {
    if (!cudasim_current) return; /* the host */
    thread &self = running();
    if (aligned && reinterpret_cast<uintptr_t>(address) % size != 0)
        self.processor->grid->fail(text("%s (its last wait): %zu bytes at an address that is not a multiple of it",
                                        self.processor->place(self).c_str(), size));
    self.processor->races.access(self, address, size, write);
}

} // namespace cudasim

using cudasim::seen;

/* ---- What the compilers call ---- */

extern "C" {

#define CUDASIM_SIZE(size)                                                                                             \
    void __tsan_read##size(void *address);                                                                             \
    void __tsan_write##size(void *address);                                                                            \
    void __tsan_read_write##size(void *address);                                                                       \
    void __tsan_unaligned_read##size(void *address);                                                                   \
    void __tsan_unaligned_write##size(void *address);                                                                  \
    void __tsan_unaligned_read_write##size(void *address);                                                             \
    void __tsan_read##size(void *address) { seen(address, size, false, true); }                                        \
    void __tsan_write##size(void *address) { seen(address, size, true, true); }                                        \
    void __tsan_read_write##size(void *address) { seen(address, size, true, true); }                                   \
    void __tsan_unaligned_read##size(void *address) { seen(address, size, false, false); }                             \
    void __tsan_unaligned_write##size(void *address) { seen(address, size, true, false); }                             \
    void __tsan_unaligned_read_write##size(void *address) { seen(address, size, true, false); }
CUDASIM_SIZE(1)
CUDASIM_SIZE(2)
CUDASIM_SIZE(4)
CUDASIM_SIZE(8)
CUDASIM_SIZE(16)
#undef CUDASIM_SIZE

void __tsan_read_range(void *address, size_t size);
void __tsan_write_range(void *address, size_t size);
void __tsan_read_range(void *address, size_t size) { seen(address, size, false, false); }
void __tsan_write_range(void *address, size_t size) { seen(address, size, true, false); }

void __tsan_init();
void __tsan_func_entry(void *caller);
void __tsan_func_exit();
void __tsan_vptr_read(void **object);
void __tsan_vptr_update(void **object, void *table);
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void **) {}
void __tsan_vptr_update(void **, void *) {}

/* The kernels' objects have these names in the place of the C library's. */
void *cudasim_memcpy(void *to, const void *from, size_t size);
void *cudasim_memmove(void *to, const void *from, size_t size);
void *cudasim_memset(void *to, int value, size_t size);

void *cudasim_memcpy(void *to, const void *from, size_t size) {
    seen(from, size, false, false);
    seen(to, size, true, false);
    return memcpy(to, from, size);
}

void *cudasim_memmove(void *to, const void *from, size_t size) {
    seen(from, size, false, false);
    seen(to, size, true, false);
    return memmove(to, from, size);
}

void *cudasim_memset(void *to, int value, size_t size) {
    seen(to, size, true, false);
    return memset(to, value, size);
}

} /* extern "C" */

#endif
