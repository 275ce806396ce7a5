#define _POSIX_C_SOURCE 200809L /* access */
#include "sample.h"

#include <string.h>
#include <unistd.h>

#include "augment.h"
#include "media.h"
#include "philox.h"

static cavmae_status read_audio(const cavmae__source *source, const char *path, int64_t epoch, int64_t index,
                                cavmae__sample *out) {
    const cavmae__options *options = &source->options;
    float *pcm, *audio;
    int64_t samples, frames;
    int32_t channels, rate;
    CAVMAE__TRY(cavmae__media_audio(source->context, path, &pcm, &samples, &channels, &rate));
    cavmae_status status =
        cavmae__prepare_audio(source->context, &options->audio, pcm, samples, channels, rate, &audio, &frames);
    cavmae__free(source->context, pcm);
    if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "%s", path);
    if (options->noise) cavmae__augment_noise(audio, frames, options->mel_bins, (uint64_t)options->seed, epoch, index);
    if (options->roll)
        cavmae__augment_roll(audio, frames, options->mel_bins,
                             cavmae__roll_shift(frames, (uint64_t)options->seed, epoch, index));
    out->audio = audio;
    out->audio_frames = frames;
    return CAVMAE_OK;
}

int64_t cavmae__sample_frame(const cavmae__source *source, int64_t epoch, int64_t index) {
    const cavmae__options *options = &source->options;
    if (options->frame >= 0) return options->frame;
    if (options->frame == -1) return options->clip_frames / 2;
    cavmae__philox random =
        cavmae__philox_key((uint64_t)options->seed, CAVMAE__PURPOSE_FRAME, (uint64_t)epoch, (uint64_t)index);
    return cavmae__philox_below(&random, 0, (uint32_t)options->clip_frames);
}

/* As the reference, the nearest lower frame stands in for one that is missing. Where none is there the decoder is asked
 * for the first choice: it may know paths that are no files, and otherwise says what is missing. */
static const char *frame_file(const cavmae__item *item, int64_t frame) {
    for (int64_t lower = frame; lower >= 0; lower--) {
        const char *path = cavmae__item_frame(item, lower);
        if (access(path, F_OK) == 0) return path;
    }
    return cavmae__item_frame(item, frame);
}

/* Frame i of a video is the one at i / clip_frames of its length. */
static cavmae_status frame_time(const cavmae__source *source, const char *path, int64_t frame, double *seconds) {
    cavmae_media_info info = {.struct_size = sizeof info};
    CAVMAE__TRY(cavmae_media_probe(source->context, path, &info));
    *seconds = info.seconds * (double)frame / (double)source->options.clip_frames;
    return CAVMAE_OK;
}

static cavmae_status read_image(const cavmae__source *source, const cavmae__item *item, int64_t frame, float *out) {
    const char *path = item->frames ? frame_file(item, frame) : item->video;
    double seconds = 0;
    uint8_t *rgb;
    int32_t width, height;
    if (!item->frames) CAVMAE__TRY(frame_time(source, path, frame, &seconds));
    CAVMAE__TRY(cavmae__media_frame(source->context, path, seconds, &rgb, &width, &height));
    cavmae_status status =
        cavmae__prepare_image(source->context, &source->options.image, rgb, width, height, (int64_t)width * 3, out);
    cavmae__free(source->context, rgb);
    return status == CAVMAE_OK ? CAVMAE_OK : cavmae__fail_prefix(status, "%s", path);
}

static cavmae_status read_item(const cavmae__source *source, int64_t epoch, int64_t index, const cavmae__item *item,
                               cavmae__sample *out) {
    if (out->image) CAVMAE__TRY(read_image(source, item, cavmae__sample_frame(source, epoch, index), out->image));
    if (out->labels) {
        memset(out->labels, 0, (size_t)cavmae__labels_count(source->labels) * sizeof *out->labels);
        for (int32_t i = 0; i < item->label_count; i++) out->labels[item->labels[i]] = 1;
    }
    out->audio = NULL;
    out->audio_frames = 0;
    if (source->options.modalities == CAVMAE__MODALITIES_V) return CAVMAE_OK;
    return read_audio(source, item->audio, epoch, index, out);
}

cavmae_status cavmae__sample_read(const cavmae__source *source, int64_t epoch, int64_t index, cavmae__item *item,
                                  cavmae__sample *out) {
    CAVMAE__TRY(cavmae__manifest_item(source->manifest, index, item));
    cavmae_status status = read_item(source, epoch, index, item, out);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    return cavmae__fail_prefix(status, "entry %lld (%s)", (long long)index, item->id);
}
