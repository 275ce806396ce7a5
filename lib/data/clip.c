#define _POSIX_C_SOURCE 200809L /* access */
#include "clip.h"

#include <math.h>
#include <unistd.h>

#include "media.h"

/* ---- Sound ---- */

cavmae_status cavmae__clip_waveform(cavmae_context *context, const cavmae__options *options, const cavmae__item *item,
                                    float **out, int64_t *count) {
    float *pcm, *owned;
    const float *waveform;
    int64_t samples;
    int32_t channels, rate;
    if (item->packed) return cavmae__packed_waveform(item->packed, item->packed_index, out, count);
    CAVMAE__TRY(cavmae__media_audio(context, item->audio, &pcm, &samples, &channels, &rate));
    cavmae_status status =
        cavmae__prepare_waveform(context, &options->audio, pcm, samples, channels, rate, &owned, &waveform, count);
    if (status == CAVMAE_OK && !owned) {
        *out = pcm;
        return CAVMAE_OK;
    }
    cavmae__free(context, pcm);
    if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "%s", item->audio);
    *out = owned;
    return CAVMAE_OK;
}

/* ---- Pictures ---- */

static cavmae_status packed_frames(const cavmae__options *options, const cavmae__item *item, int64_t first,
                                   int64_t count, cavmae_frame_sink *sink, void *arg) {
    int32_t size = (int32_t)options->image_size;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *pixels;
        CAVMAE__TRY(cavmae__packed_pixels(item->packed, item->packed_index, first + i, &pixels));
        CAVMAE__TRY(sink(arg, (int32_t)i, pixels, size, size, 3 * (int64_t)size));
    }
    return CAVMAE_OK;
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

static cavmae_status read_frame_file(cavmae_context *context, const char *path, int32_t number, cavmae_frame_sink *sink,
                                     void *arg) {
    uint8_t *rgb;
    int32_t width, height;
    CAVMAE__TRY(cavmae__media_frame(context, path, 0, &rgb, &width, &height));
    cavmae_status status = sink(arg, number, rgb, width, height, 3 * (int64_t)width);
    cavmae__free(context, rgb);
    return status == CAVMAE_OK ? CAVMAE_OK : cavmae__fail_prefix(status, "%s", path);
}

/* Frame i of a video is the one at i / clip_frames of its length. */
static cavmae_status read_video_frames(cavmae_context *context, const cavmae__options *options, const char *path,
                                       int64_t first, int64_t count, cavmae_frame_sink *sink, void *arg) {
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_source source = cavmae__source_at(path);
    double *seconds;
    CAVMAE__TRY(cavmae_media_probe(context, path, &info));
    if (!(info.seconds >= 0 && info.seconds < INFINITY))
        return cavmae__fail(CAVMAE_E_MEDIA, "%s: its length is %g seconds", path, info.seconds);
    CAVMAE__TRY(CAVMAE__NEW(context, &seconds, count));
    for (int64_t i = 0; i < count; i++) seconds[i] = info.seconds * (double)(first + i) / (double)options->clip_frames;
    cavmae_status status = cavmae__media_pictures(context, &source, seconds, (int32_t)count, sink, arg);
    cavmae__free(context, seconds);
    return status;
}

cavmae_status cavmae__clip_frames(cavmae_context *context, const cavmae__options *options, const cavmae__item *item,
                                  int64_t first, int64_t count, cavmae_frame_sink *sink, void *arg) {
    if (item->packed) return packed_frames(options, item, first, count, sink, arg);
    if (!item->frames) return read_video_frames(context, options, item->video, first, count, sink, arg);
    for (int64_t i = 0; i < count; i++)
        CAVMAE__TRY(read_frame_file(context, frame_file(item, first + i), (int32_t)i, sink, arg));
    return CAVMAE_OK;
}
