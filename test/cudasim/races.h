/* Races in shared memory: two threads touch a byte, one of them writes it, and no barrier lies between (for lanes of a
 * warp: no __syncwarp either). The kernels are compiled with -fsanitize=thread, whose calls come to races.cpp. */
#ifndef CUDASIM_RACES_H
#define CUDASIM_RACES_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cudasim {

struct thread;

/* Which accesses of a warp's lanes __syncwarp has put in order. Its time counts the calls that are complete. */
struct warp_clock {
    uint32_t time;
    uint32_t met[32][32]; /* [lane][other]: what the other did before that time comes before what the lane does now */

    void reset();
    void sync(unsigned mask);
    bool in_order(unsigned lane, unsigned other, uint32_t when) const { return met[lane][other] > when; }
};

class race_detector {
  public:
    race_detector();
    void new_block(unsigned char *memory, size_t size);
    void barrier() { epoch++; }
    void access(thread &self, const void *address, size_t size, bool write) {
        const size_t first = reinterpret_cast<uintptr_t>(address) - base;
        if (first < bytes) access_at(self, first, size, write);
    }

  private:
    /* What was done to a word or byte since the last barrier. Readers: lanes of the first warp that read (no warp comes
     * back to run between two barriers: a write after another warp's read is seen by it), and the last time that one
     * of them did. Whoever comes after a reader in order takes its place. */
    struct history {
        uint32_t epoch;
        int16_t writer, reader_warp; /* negative: none */
        uint32_t written, read;
        unsigned readers;
    };
    void access_at(thread &self, size_t first, size_t size, bool write);
    void touch(history &one, thread &self, size_t place, bool write);
    int conflict(const history &one, const thread &self, bool write) const;

    uint32_t epoch = 0;
    uintptr_t base = 0;
    size_t bytes = 0;
    std::vector<history> of_word, of_byte;
    std::vector<uint32_t> split; /* of a word: the epoch in which its bytes have histories of their own */
};

} // namespace cudasim

#endif
