/* What is done to a prepared spectrogram, in place: SpecAugment's masks, then the reference's noise and roll. */
#ifndef CAVMAE_DATA_AUGMENT_H
#define CAVMAE_DATA_AUGMENT_H

#include <stdint.h>

/* All random choices for a sample are functions of these three, so that they depend neither on threads nor on where a
 * run was resumed. */
typedef struct cavmae__draw {
    uint64_t seed;
    int64_t epoch;
    int64_t number; /* the entry's index; where an entry may come twice in an epoch, the place in its order. Of one that
                     * takes a broken one's place the broken one's, and a multiple of the number of entries */
} cavmae__draw;

typedef struct cavmae__stretch {
    int64_t start, width;
} cavmae__stretch;

/* Where torchaudio.transforms.FrequencyMasking(limit) (axis 0) or TimeMasking (axis 1) masks an axis of `length`: width
 * U[0, limit), start U[0, length - width), of which only the results are rounded down. limit is at most length here. */
cavmae__stretch cavmae__mask_stretch(int64_t length, int64_t limit, int axis, const cavmae__draw *draw);

/* x [frames, bins]: one band of below freq_mask bins and one stretch of below time_mask frames become `fill`. */
void cavmae__augment_masks(float *x, int64_t frames, int64_t bins, int64_t freq_mask, int64_t time_mask, float fill,
                           const cavmae__draw *draw);

/* x [frames, bins] += U[0,1)^(frames, bins) * U[0,1) / 10 */
void cavmae__augment_noise(float *x, int64_t frames, int64_t bins, const cavmae__draw *draw);

/* The roll of this sample: uniform among the integers of [-frames, frames). */
int64_t cavmae__roll_shift(int64_t frames, const cavmae__draw *draw);

/* As torch.roll(x, shift, 0): frame t goes to (t + shift) mod frames. */
void cavmae__augment_roll(float *x, int64_t frames, int64_t bins, int64_t shift);

#endif
