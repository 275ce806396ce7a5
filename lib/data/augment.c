#include "augment.h"

#include "philox.h"

static cavmae__philox random_for(uint32_t purpose, const cavmae__draw *draw) {
    return cavmae__philox_key(draw->seed, purpose, (uint64_t)draw->epoch, (uint64_t)draw->number);
}

cavmae__stretch cavmae__mask_stretch(int64_t length, int64_t limit, int axis, const cavmae__draw *draw) {
    cavmae__philox random = random_for(CAVMAE__PURPOSE_SPECAUG, draw);
    uint64_t first = 2 * (uint64_t)axis;
    if (limit > length) limit = length;
    double width = (double)cavmae__philox_uniform(&random, first) * (double)limit;
    double start = (double)cavmae__philox_uniform(&random, first + 1) * ((double)length - width);
    return (cavmae__stretch){(int64_t)start, (int64_t)width};
}

void cavmae__augment_masks(float *x, int64_t frames, int64_t bins, int64_t freq_mask, int64_t time_mask, float fill,
                           const cavmae__draw *draw) {
    cavmae__stretch band = cavmae__mask_stretch(bins, freq_mask, 0, draw);
    cavmae__stretch time = cavmae__mask_stretch(frames, time_mask, 1, draw);
    for (int64_t t = 0; t < frames; t++)
        for (int64_t f = band.start; f < band.start + band.width; f++) x[t * bins + f] = fill;
    for (int64_t i = time.start * bins; i < (time.start + time.width) * bins; i++) x[i] = fill;
}

void cavmae__augment_noise(float *x, int64_t frames, int64_t bins, const cavmae__draw *draw) {
    cavmae__philox random = random_for(CAVMAE__PURPOSE_NOISE, draw);
    float level = cavmae__philox_uniform(&random, 0) / 10;
    uint32_t four[4] = {0};
    for (int64_t i = 0; i < frames * bins; i++) {
        if (i % 4 == 0) cavmae__philox_block(&random, (uint32_t)(1 + i / 4), four);
        x[i] += (float)(four[i % 4] >> 8) * 0x1p-24f * level;
    }
}

int64_t cavmae__roll_shift(int64_t frames, const cavmae__draw *draw) {
    cavmae__philox random = random_for(CAVMAE__PURPOSE_ROLL, draw);
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
