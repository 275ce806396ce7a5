/* The reference's two augmentations of a spectrogram, in place, as functions of (seed, epoch, sample) alone. */
#ifndef CAVMAE_DATA_AUGMENT_H
#define CAVMAE_DATA_AUGMENT_H

#include <stdint.h>

/* x [frames, bins] += U[0,1)^(frames, bins) * U[0,1) / 10 */
void cavmae__augment_noise(float *x, int64_t frames, int64_t bins, uint64_t seed, int64_t epoch, int64_t sample);

/* The roll of this sample: uniform among the integers of [-frames, frames). */
int64_t cavmae__roll_shift(int64_t frames, uint64_t seed, int64_t epoch, int64_t sample);

/* As torch.roll(x, shift, 0): frame t goes to (t + shift) mod frames. */
void cavmae__augment_roll(float *x, int64_t frames, int64_t bins, int64_t shift);

#endif
