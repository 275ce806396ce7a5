/* One clip as a model takes it, from a file with both sound and picture or from one of each; and what it looks like. */
#ifndef EXAMPLE_CLIP_INPUT_H
#define EXAMPLE_CLIP_INPUT_H

#include "cavmae.h"
#include "picture.h"

typedef struct clip_input {
    int64_t bins, side, patch; /* F; H = W; p */
    int32_t frames;            /* T of this clip; 0: no sound */
    cavmae_tensor *audio;      /* [T, F] */
    float *image;              /* [3, H, W]; NULL: no picture */
    picture frame;             /* the picture as it is in the file */
    int crop_x, crop_y, crop;  /* the square of it that the model sees */
    double audio_mean, audio_std;
} clip_input;

/* sound, sight: files, or NULL; of a video its middle frame, as cavmae_embed_file takes it. */
clip_input read_clip(cavmae_context *context, cavmae_model *model, const char *sound, const char *sight);
void free_clip(clip_input *clip);
/* Ends the program where the manifest is a packed data set: its clips are no files that read_clip could read. */
void need_files(cavmae_context *context, const char *manifest);

cavmae_batch batch_of_clip(const clip_input *clip);

/* Log-mel [T, F] with low sounds at the bottom; black and pale yellow are `quiet` and `loud`. removed [La] or NULL:
 * patches that are shown grey. */
picture spectrogram(const clip_input *clip, const float *log_mel, double quiet, double loud,
                    const unsigned char *removed);
/* The clip's own log-mel, and a range for its colours: all but the most quiet and loud hundredths. */
float *clip_log_mel(const clip_input *clip, double *quiet, double *loud);
/* Pixels [3, H, W] in [0, 1]. removed [Lv] or NULL. */
picture pixels(const clip_input *clip, const float *image, const unsigned char *removed);

#endif
