#include "clip_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "drawing.h"
#include "program.h"

static const unsigned char hidden[3] = {136, 136, 136};

void need_files(cavmae_context *context, const char *manifest) {
    cavmae_pack_report report = {.struct_size = sizeof report};
    if (cavmae_pack_info(context, manifest, &report) == CAVMAE_OK)
        die("%s is a packed data set, without files to show: give the manifest or folder that it was made of",
            manifest);
}

static void read_sound(clip_input *clip, cavmae_context *context, const cavmae_config *config, const char *path) {
    cavmae_tensor *pcm;
    int32_t rate;
    check(cavmae_media_audio(context, path, &pcm, &rate));
    const int64_t *shape = cavmae_tensor_shape(pcm);
    check(cavmae_prepare_audio(config, cavmae_tensor_data(pcm), shape[0], (int32_t)shape[1], rate, &clip->audio));
    cavmae_tensor_free(pcm);
    clip->frames = (int32_t)cavmae_tensor_shape(clip->audio)[0];
}

static void read_sight(clip_input *clip, cavmae_context *context, const cavmae_config *config, const char *path) {
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *rgb;
    const int64_t count = whole_number(config, CAVMAE_P_CLIP_FRAMES);
    check(cavmae_media_probe(context, path, &info));
    const double seconds = info.seconds * (double)(count / 2) / (double)count;
    check(cavmae_media_frames(context, path, &seconds, 1, &rgb));
    const int64_t *shape = cavmae_tensor_shape(rgb); /* [1, height, width, 3] */
    picture *p = &clip->frame;
    *p = new_picture((int)shape[2], (int)shape[1], hidden);
    memcpy(p->rgb, cavmae_tensor_data(rgb), (size_t)p->width * (size_t)p->height * 3);
    cavmae_tensor_free(rgb);
    clip->crop = p->width < p->height ? p->width : p->height;
    clip->crop_x = (p->width - clip->crop) / 2;
    clip->crop_y = (p->height - clip->crop) / 2;
    clip->image = allocate((size_t)(3 * clip->side * clip->side), sizeof *clip->image);
    check(cavmae_prepare_image(config, p->rgb, p->width, p->height, 0, clip->image));
}

clip_input read_clip(cavmae_context *context, cavmae_model *model, const char *sound, const char *sight) {
    clip_input clip = {0};
    cavmae_config *config;
    check(cavmae_model_config(model, &config));
    clip.bins = whole_number(config, CAVMAE_P_MEL_BINS);
    clip.side = whole_number(config, CAVMAE_P_IMAGE_SIZE);
    clip.patch = whole_number(config, CAVMAE_P_PATCH_SIZE);
    check(cavmae_config_get_f64(config, CAVMAE_P_AUDIO_MEAN, &clip.audio_mean));
    check(cavmae_config_get_f64(config, CAVMAE_P_AUDIO_STD, &clip.audio_std));
    if (sound) read_sound(&clip, context, config, sound);
    if (sight) read_sight(&clip, context, config, sight);
    cavmae_config_free(config);
    return clip;
}

void free_clip(clip_input *clip) {
    cavmae_tensor_free(clip->audio);
    free(clip->image);
    picture_free(&clip->frame);
}

cavmae_batch batch_of_clip(const clip_input *clip) {
    return (cavmae_batch){.struct_size = sizeof(cavmae_batch),
                          .count = 1,
                          .audio = cavmae_tensor_data(clip->audio),
                          .audio_frames = clip->audio ? &clip->frames : NULL,
                          .image = clip->image};
}

static int compare(const void *a, const void *b) {
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

float *clip_log_mel(const clip_input *clip, double *quiet, double *loud) {
    const float *normalised = cavmae_tensor_data(clip->audio);
    size_t count = (size_t)(clip->frames * clip->bins);
    float *values = allocate(count, sizeof *values), *sorted = allocate(count, sizeof *sorted);
    for (size_t i = 0; i < count; i++) values[i] = (float)(normalised[i] * clip->audio_std + clip->audio_mean);
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare);
    *quiet = (double)sorted[count / 100];
    *loud = fmax((double)sorted[count - 1 - count / 100], *quiet + 1e-3);
    free(sorted);
    return values;
}

picture spectrogram(const clip_input *clip, const float *log_mel, double quiet, double loud,
                    const unsigned char *removed) {
    int64_t columns = clip->frames / clip->patch;
    picture p = new_picture(clip->frames, (int)clip->bins, hidden);
    for (int64_t bin = 0; bin < clip->bins; bin++)
        for (int64_t frame = 0; frame < clip->frames; frame++)
            if (!removed || !removed[bin / clip->patch * columns + frame / clip->patch])
                heat_colour((log_mel[frame * clip->bins + bin] - quiet) / (loud - quiet),
                            p.rgb + 3 * ((clip->bins - 1 - bin) * clip->frames + frame));
    return p;
}

picture pixels(const clip_input *clip, const float *image, const unsigned char *removed) {
    int64_t side = clip->side, columns = side / clip->patch;
    picture p = new_picture((int)side, (int)side, hidden);
    for (int64_t i = 0; i < side * side; i++)
        for (int c = 0; c < 3; c++)
            if (!removed || !removed[i / side / clip->patch * columns + i % side / clip->patch])
                p.rgb[3 * i + c] = to_byte((double)image[c * side * side + i]);
    return p;
}
