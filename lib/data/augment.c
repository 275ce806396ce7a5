#include "augment.h"

#include "philox.h"

void cavmae__augment_noise(float *x, int64_t frames, int64_t bins, uint64_t seed, int64_t epoch, int64_t sample) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_NOISE, (uint64_t)epoch, (uint64_t)sample);
    float level = cavmae__philox_uniform(&random, 0) / 10;
    uint32_t four[4] = {0};
    for (int64_t i = 0; i < frames * bins; i++) {
        if (i % 4 == 0) cavmae__philox_block(&random, (uint32_t)(1 + i / 4), four);
        x[i] += (float)(four[i % 4] >> 8) * 0x1p-24f * level;
    }
}

int64_t cavmae__roll_shift(int64_t frames, uint64_t seed, int64_t epoch, int64_t sample) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_ROLL, (uint64_t)epoch, (uint64_t)sample);
    return (int64_t)cavmae__philox_below(&random, 0, (uint32_t)(2 * frames)) - frames;
}

static void reverse_frames(float *x, int64_t frames, int64_t bins) {
    for (int64_t low = 0, high = frames - 1; low < high; low++, high--) {
        for (int64_t i = 0; i < bins; i++) {
            float kept = x[low * bins + i];
            x[low * bins + i] = x[high * bins + i];
            x[high * bins + i] = kept;
        }
    }
}

/* Turning both parts around and then the whole exchanges them, with no second buffer. */
void cavmae__augment_roll(float *x, int64_t frames, int64_t bins, int64_t shift) {
    int64_t moved = (shift % frames + frames) % frames; /* frames at the end that come to the front */
    reverse_frames(x, frames - moved, bins);
    reverse_frames(x + (frames - moved) * bins, moved, bins);
    reverse_frames(x, frames, bins);
}
