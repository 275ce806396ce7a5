#include "sample.h"

#include <string.h>

#include "clip.h"
#include "mixup.h"
#include "philox.h"

/* An entry before it is mixed with another. */
typedef struct clip {
    float *waveform; /* the context's memory; NULL: a model without sound */
    int64_t count;
    float *image, *labels; /* as a sample's */
} clip;

/* ---- Sound ---- */

static cavmae_status prepare_sound(const cavmae__source *source, const cavmae__draw *draw, const clip *from,
                                   cavmae__sample *out) {
    const cavmae__options *options = &source->options;
    int64_t frames, bins = options->mel_bins;
    float *audio;
    CAVMAE__TRY(cavmae__prepare_rows(source->context, &options->audio, from->waveform, from->count, &audio, &frames));
    /* The reference masks before it normalises. */
    float fill = options->specaug_fill == CAVMAE__FILL_ZERO ? (0.0f - options->audio.mean) / options->audio.std : 0.0f;
    cavmae__augment_masks(audio, frames, bins, options->freq_mask, options->time_mask, fill, draw);
    if (options->noise) cavmae__augment_noise(audio, frames, bins, draw);
    if (options->roll) cavmae__augment_roll(audio, frames, bins, cavmae__roll_shift(frames, draw));
    out->audio = audio;
    out->audio_frames = frames;
    return CAVMAE_OK;
}

/* ---- Pictures ---- */

static int64_t picture_count(const cavmae__options *options) {
    return options->frame == CAVMAE__FRAME_ALL ? options->clip_frames : 1;
}

/* The only one, or the first of all. turn 0: of the sample itself, 1: of the one that is mixed in. */
static int64_t first_frame(const cavmae__options *options, const cavmae__draw *draw, int turn) {
    if (options->frame >= 0) return options->frame;
    if (options->frame == CAVMAE__FRAME_ALL) return 0;
    if (options->frame == CAVMAE__FRAME_MIDDLE) return options->clip_frames / 2;
    cavmae__philox random =
        cavmae__philox_key(draw->seed, CAVMAE__PURPOSE_FRAME, (uint64_t)draw->epoch, (uint64_t)draw->number);
    return cavmae__philox_below(&random, (uint64_t)turn, (uint32_t)options->clip_frames);
}

typedef struct picture_sink {
    const cavmae__source *source;
    float *out;     /* of the first */
    size_t picture; /* floats of each */
} picture_sink;

static cavmae_status take_picture(void *arg, int32_t number, const uint8_t *rgb, int32_t width, int32_t height,
                                  int64_t stride) {
    const picture_sink *to = arg;
    return cavmae__prepare_image(to->source->context, &to->source->options.image, rgb, width, height, stride,
                                 to->out + (size_t)number * to->picture);
}

static cavmae_status read_pictures(const cavmae__source *source, const cavmae__item *item, int64_t first, float *out) {
    int64_t count = picture_count(&source->options);
    picture_sink sink = {source, out, cavmae__source_image_size(source) / (size_t)count};
    return cavmae__clip_frames(source->context, &source->options, item, first, count, take_picture, &sink);
}

/* Of the entry itself, or of the one whose pictures it shows. */
static cavmae_status read_image(const cavmae__source *source, int64_t index, int64_t first, cavmae__reader *reader,
                                float *out) {
    if (!source->pictures) return read_pictures(source, &reader->item, first, out);
    int64_t other = source->pictures[index];
    CAVMAE__TRY(cavmae__manifest_item(source->manifest, other, &reader->picture_item));
    cavmae_status status = read_pictures(source, &reader->picture_item, first, out);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    return cavmae__fail_prefix(status, "picture of entry %lld (%s)", (long long)other, reader->picture_item.id);
}

/* ---- A sample ---- */

int cavmae__sample_is_broken(cavmae_status status) {
    return status == CAVMAE_E_IO || status == CAVMAE_E_FORMAT || status == CAVMAE_E_MEDIA || status == CAVMAE_E_ARG ||
           status == CAVMAE_E_SHAPE || status == CAVMAE_E_UNSUPPORTED;
}

size_t cavmae__source_image_size(const cavmae__source *source) {
    const cavmae__options *options = &source->options;
    if (options->modalities == CAVMAE__MODALITIES_A) return 0;
    return (size_t)(picture_count(options) * options->image_channels * options->image_size * options->image_size);
}

size_t cavmae__source_label_count(const cavmae__source *source) {
    return source->labels ? (size_t)cavmae__labels_count(source->labels) : 0;
}

cavmae_status cavmae__reader_create(const cavmae__source *source, cavmae__reader *reader) {
    size_t image = cavmae__source_image_size(source), labels = cavmae__source_label_count(source);
    if (source->options.mixup <= 0) return CAVMAE_OK;
    if (image) CAVMAE__TRY(CAVMAE__NEW(source->context, &reader->image, image));
    if (labels) CAVMAE__TRY(CAVMAE__NEW(source->context, &reader->labels, labels));
    return CAVMAE_OK;
}

void cavmae__reader_free(const cavmae__source *source, cavmae__reader *reader) {
    cavmae__free(source->context, reader->item.memory);
    cavmae__free(source->context, reader->picture_item.memory);
    cavmae__free(source->context, reader->image);
    cavmae__free(source->context, reader->labels);
}

static void set_labels(const cavmae__source *source, const cavmae__item *item, float *out) {
    memset(out, 0, cavmae__source_label_count(source) * sizeof *out);
    for (int32_t i = 0; i < item->label_count; i++)
        out[item->labels[i]] = item->label_weights ? item->label_weights[i] : 1;
}

static cavmae_status read_parts(const cavmae__source *source, int64_t index, int64_t frame, cavmae__reader *reader,
                                clip *out) {
    if (out->image) CAVMAE__TRY(read_image(source, index, frame, reader, out->image));
    if (out->labels) set_labels(source, &reader->item, out->labels);
    if (source->options.modalities == CAVMAE__MODALITIES_V) return CAVMAE_OK;
    return cavmae__clip_waveform(source->context, &source->options, &reader->item, &out->waveform, &out->count);
}

static cavmae_status read_clip(const cavmae__source *source, int64_t index, int64_t frame, cavmae__reader *reader,
                               clip *out) {
    CAVMAE__TRY(cavmae__manifest_item(source->manifest, index, &reader->item));
    cavmae_status status = read_parts(source, index, frame, reader, out);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    return cavmae__fail_prefix(status, "entry %lld (%s)", (long long)index, reader->item.id);
}

static void mix_clips(const cavmae__source *source, clip *own, const clip *second, double lambda) {
    if (own->waveform) cavmae__mix_waveforms(own->waveform, own->count, second->waveform, second->count, lambda);
    if (own->image) cavmae__mix_values(own->image, second->image, (int64_t)cavmae__source_image_size(source), lambda);
    if (own->labels)
        cavmae__mix_values(own->labels, second->labels, (int64_t)cavmae__source_label_count(source), lambda);
}

/* The sample's own clip, and with luck another one in it. */
static cavmae_status read_mixed(const cavmae__source *source, const cavmae__draw *draw, int64_t index,
                                cavmae__reader *reader, clip *own) {
    const cavmae__options *options = &source->options;
    clip second = {.image = reader->image, .labels = reader->labels};
    cavmae__mixup mixup =
        cavmae__mixup_draw(options->mixup, options->mixup_alpha, cavmae__manifest_count(source->manifest), draw);
    CAVMAE__TRY(read_clip(source, index, first_frame(options, draw, 0), reader, own));
    if (mixup.partner >= 0) {
        cavmae_status status = read_clip(source, mixup.partner, first_frame(options, draw, 1), reader, &second);
        if (status != CAVMAE_OK) return cavmae__fail_prefix(status, "entry %lld, mixed with another", (long long)index);
        mix_clips(source, own, &second, mixup.lambda);
        cavmae__free(source->context, second.waveform);
    }
    if (own->labels && options->label_smoothing > 0)
        cavmae__smooth_labels(own->labels, cavmae__labels_count(source->labels), options->label_smoothing,
                              options->smoothing_form == CAVMAE__SMOOTHING_REFERENCE && mixup.partner < 0);
    return CAVMAE_OK;
}

cavmae_status cavmae__sample_read(const cavmae__source *source, const cavmae__draw *draw, int64_t index,
                                  cavmae__reader *reader, cavmae__sample *out) {
    clip own = {.image = out->image, .labels = out->labels};
    out->audio = NULL;
    out->audio_frames = 0;
    cavmae_status status = read_mixed(source, draw, index, reader, &own);
    if (status == CAVMAE_OK && own.waveform) status = prepare_sound(source, draw, &own, out);
    cavmae__free(source->context, own.waveform);
    return status;
}
