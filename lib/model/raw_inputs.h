/* A batch's sound and pictures in either form: prepared, or as samples and pixels that are prepared on the way to the
 * device. Modality m: 0 sound, 1 pictures; its units are clips' sounds, or pictures. */
#ifndef CAVMAE_MODEL_RAW_INPUTS_H
#define CAVMAE_MODEL_RAW_INPUTS_H

#include "model.h"

/* Whether the batch has modality m at all; whether it is samples or pixels. */
static inline int cavmae__has_input(const cavmae_batch *batch, int m) {
    return m ? batch->image || batch->pixels : batch->audio || batch->pcm;
}
static inline int cavmae__is_raw(const cavmae_batch *batch, int m) { return m ? !!batch->pixels : !!batch->pcm; }

/* Spectrogram frames of a clip. */
int64_t cavmae__batch_frames(const cavmae__options *options, const cavmae_batch *batch, int32_t clip);

/* Whether samples and pixels of the modalities that are used can be prepared; `call` begins the error. */
cavmae_status cavmae__check_raw_inputs(const cavmae__options *options, const cavmae_batch *batch, const int uses[2],
                                       const char *call);

/* The batch's inputs from its clip `clips` on; its other arrays and its count stay. */
void cavmae__skip_clips(const cavmae__options *options, cavmae_batch *batch, int32_t clips);

/* Memory of a device that prepares, kept from batch to batch; zero-initialised by its owner. */
typedef struct cavmae__raw_inputs {
    struct {
        void *device; /* samples or pixels, and the operation's workspace */
        size_t size;
    } part[2];
} cavmae__raw_inputs;

/* Units first .. first + count - 1 of a batch that was checked and whose modality m is raw, prepared, to the device's
 * out. No operation under way may read `out` or be one of an earlier call's with the same memory. */
cavmae_status cavmae__raw_inputs_put(cavmae__raw_inputs *raw, cavmae_model *model, const cavmae_batch *batch, int m,
                                     int64_t first, int64_t count, float *out);
void cavmae__raw_inputs_free(cavmae__raw_inputs *raw, cavmae_model *model);

#endif
