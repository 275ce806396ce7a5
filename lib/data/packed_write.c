/* Writes a packed data set: a few clips at a time are decoded on all threads, then written in the manifest's order. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "atomic_file.h"
#include "checksum.h"
#include "clip.h"
#include "fbank.h"
#include "number.h"
#include "packed_format.h"
#include "record.h"
#include "sample.h"

enum { CLIPS_PER_THREAD = 2, ERROR_SIZE = 512, DESCRIPTION_SIZE = 2048 };

/* One clip in the making. */
typedef struct work {
    cavmae_status status;
    char error[ERROR_SIZE];
    cavmae__item item;
    int16_t *sound;
    int64_t samples;
    uint8_t *pictures;  /* [pictures, size, size, 3] */
    uint32_t *crcs;     /* [1 + pictures] */
    int64_t frames;     /* of its spectrogram */
    double sum, square; /* of its log-mel */
} work;

typedef struct packer {
    cavmae_context *context;
    cavmae__options options;
    cavmae_config *config; /* frame is the one that is packed, or below 0 */
    const char *path;
    cavmae__labels *labels;
    cavmae__manifest *manifest;
    cavmae__atomic_file file;
    uint64_t written; /* bytes */
    cavmae__pack_entry *index;
    int64_t count, first_clip; /* entries in the manifest; the first of those in the making */
    int64_t pictures, first_frame;
    size_t picture_size;
    work *works;
    int64_t work_count;
    cavmae_pack_report report;
    double sum, square;
} packer;

/* ---- Making a clip ---- */

static int16_t to_int16(float x) {
    float scaled = rintf(x * 32768.0f);
    return (int16_t)(scaled < -32768.0f ? -32768.0f : scaled > 32767.0f ? 32767.0f : scaled);
}

/* Sums of the log-mel that a loader will make of the packed sound, as far as its model hears it. */
static cavmae_status measure(const packer *p, work *w, float *waveform) {
    const cavmae__options *o = &p->options;
    float *rows;
    for (int64_t i = 0; i < w->samples; i++) waveform[i] = (float)w->sound[i] / 32768.0f;
    w->frames = cavmae_fbank_frames(w->samples, o->audio.sample_rate);
    if (o->audio_length != CAVMAE__LENGTH_NATIVE && w->frames > o->audio_frames) w->frames = o->audio_frames;
    CAVMAE__TRY(CAVMAE__NEW(p->context, &rows, w->frames * o->mel_bins));
    cavmae_status status = cavmae__fbank_normalised(p->context, waveform, w->samples, o->audio.sample_rate,
                                                    o->audio.mel_bins, w->frames, 0.0f, 1.0f, rows);
    for (int64_t i = 0; status == CAVMAE_OK && i < w->frames * o->mel_bins; i++) {
        w->sum += (double)rows[i];
        w->square += (double)rows[i] * (double)rows[i];
    }
    cavmae__free(p->context, rows);
    return status;
}

static cavmae_status make_sound(const packer *p, work *w) {
    float *waveform;
    CAVMAE__TRY(cavmae__clip_waveform(p->context, &p->options, &w->item, &waveform, &w->samples));
    cavmae_status status = CAVMAE__NEW(p->context, &w->sound, w->samples);
    if (status == CAVMAE_OK) {
        for (int64_t i = 0; i < w->samples; i++) w->sound[i] = to_int16(waveform[i]);
        w->crcs[0] = cavmae__crc32(0, w->sound, 2 * (size_t)w->samples);
        status = measure(p, w, waveform);
    }
    cavmae__free(p->context, waveform);
    return status;
}

typedef struct picture_sink {
    const packer *p;
    work *w;
} picture_sink;

static cavmae_status take_picture(void *arg, int32_t number, const uint8_t *rgb, int32_t width, int32_t height,
                                  int64_t stride) {
    const picture_sink *to = arg;
    const packer *p = to->p;
    uint8_t *out = to->w->pictures + (size_t)number * p->picture_size;
    CAVMAE__TRY(cavmae__prepare_pixels(p->context, &p->options.image, rgb, width, height, stride, out));
    to->w->crcs[1 + number] = cavmae__crc32(0, out, p->picture_size);
    return CAVMAE_OK;
}

static cavmae_status make_parts(const packer *p, work *w) {
    picture_sink sink = {p, w};
    if (p->options.modalities != CAVMAE__MODALITIES_V) CAVMAE__TRY(make_sound(p, w));
    if (p->pictures == 0) return CAVMAE_OK;
    return cavmae__clip_frames(p->context, &p->options, &w->item, p->first_frame, p->pictures, take_picture, &sink);
}

static void make_clip(void *arg, int64_t i, int32_t worker) {
    const packer *p = arg;
    work *w = &p->works[i];
    int64_t number = p->first_clip + i;
    (void)worker;
    cavmae__free(p->context, w->sound); /* of the clip before */
    w->sound = NULL;
    w->samples = w->frames = 0;
    w->sum = w->square = 0;
    w->crcs[0] = 0;
    w->status = cavmae__manifest_item(p->manifest, number, &w->item);
    if (w->status == CAVMAE_OK) {
        w->status = make_parts(p, w);
        if (w->status != CAVMAE_OK)
            w->status = cavmae__fail_prefix(w->status, "entry %lld (%s)", (long long)number, w->item.id);
    }
    if (w->status != CAVMAE_OK) snprintf(w->error, sizeof w->error, "%s", cavmae_last_error());
}

/* ---- Writing ---- */

static cavmae_status put(packer *p, const void *data, uint64_t size) {
    CAVMAE__TRY(cavmae__atomic_file_write(&p->file, data, size));
    p->written += size;
    return CAVMAE_OK;
}

static cavmae_status put_gap(packer *p) {
    static const char zeros[CAVMAE__PACK_ALIGN];
    return put(p, zeros, cavmae__pack_round(p->written) - p->written);
}

/* Writes, and goes on with its CRC-32. */
static cavmae_status put_counted(packer *p, const void *data, uint64_t size, uint32_t *crc) {
    *crc = cavmae__crc32(*crc, data, size);
    return put(p, data, size);
}

static cavmae_status put_head(packer *p, const work *w, cavmae__pack_entry *entry) {
    const cavmae__item *item = &w->item;
    size_t id_size = strlen(item->id);
    if (id_size > CAVMAE__PACK_MOST_TEXT || item->label_count > CAVMAE__PACK_MOST_LABELS)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "clip %.100s: its id or its labels are too long", item->id);
    *entry = (cavmae__pack_entry){.place = p->written,
                                  .samples = (uint64_t)w->samples,
                                  .label_count = (uint32_t)item->label_count,
                                  .id_size = (uint32_t)id_size};
    for (int32_t i = 0; i < item->label_count; i++) {
        const cavmae__pack_label label = {(uint32_t)item->labels[i], item->label_weights ? item->label_weights[i] : 1};
        CAVMAE__TRY(put_counted(p, &label, sizeof label, &entry->head_crc));
    }
    CAVMAE__TRY(put_counted(p, w->crcs, sizeof *w->crcs * (size_t)(1 + p->pictures), &entry->head_crc));
    CAVMAE__TRY(put_counted(p, item->id, id_size, &entry->head_crc));
    return put_gap(p);
}

static cavmae_status put_clip(packer *p, const work *w) {
    CAVMAE__TRY(put_head(p, w, &p->index[p->report.clips]));
    CAVMAE__TRY(put(p, w->sound, 2 * (uint64_t)w->samples));
    CAVMAE__TRY(put_gap(p));
    for (int64_t i = 0; i < p->pictures; i++) {
        CAVMAE__TRY(put(p, w->pictures + (size_t)i * p->picture_size, p->picture_size));
        CAVMAE__TRY(put_gap(p));
    }
    p->report.clips++;
    p->report.audio_frames += w->frames;
    p->sum += w->sum;
    p->square += w->square;
    return CAVMAE_OK;
}

static cavmae_status put_works(packer *p, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const work *w = &p->works[i];
        if (w->status == CAVMAE_OK) {
            CAVMAE__TRY(put_clip(p, w));
        } else if (p->options.broken == CAVMAE__BROKEN_SKIP && cavmae__sample_is_broken(w->status)) {
            cavmae__log(p->context, CAVMAE_LOG_WARNING, "skipped: %s", w->error);
            p->report.broken++;
        } else {
            return cavmae__fail(w->status, "%s", w->error);
        }
    }
    return CAVMAE_OK;
}

static cavmae_status put_clips(packer *p) {
    for (; p->first_clip < p->count; p->first_clip += p->work_count) {
        int64_t left = p->count - p->first_clip, count = left < p->work_count ? left : p->work_count;
        CAVMAE__TRY(cavmae__check_cancel(p->context));
        cavmae__parallel(p->context, count, make_clip, p);
        CAVMAE__TRY(put_works(p, count));
        cavmae__progress(p->context, "packing", p->first_clip + count, p->count);
    }
    if (p->report.clips > 0) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_FORMAT, "none of the manifest's %lld entries could be packed; the log names each",
                        (long long)p->count);
}

/* ---- Its end ---- */

static void finish_report(packer *p) {
    double values = (double)p->report.audio_frames * (double)p->options.mel_bins;
    p->report.frames = (int32_t)p->pictures;
    if (p->report.audio_frames == 0) return;
    p->report.audio_mean = p->sum / values;
    p->report.audio_std = sqrt(fmax(p->square - p->sum * p->report.audio_mean, 0) / (values - 1)); /* as torch.std */
}

static cavmae_status write_description(const packer *p, char *out, size_t size, size_t *length) {
    char mean[32], deviation[32];
    size_t n = (size_t)snprintf(out, size, "{\"config\": {");
    for (int i = 0; i < CAVMAE__PACK_KEYS; i++) {
        const cavmae__pack_key *key = &cavmae__pack_keys[i];
        const char *value, *quote = key->word ? "\"" : "";
        CAVMAE__TRY(cavmae_config_get_str(p->config, key->key, &value));
        n += (size_t)snprintf(out + n, size - n, "%s\"%s\": %s%s%s", i ? ", " : "", key->name, quote, value, quote);
    }
    cavmae__format_f64(mean, p->report.audio_mean);
    cavmae__format_f64(deviation, p->report.audio_std);
    n += (size_t)snprintf(out + n, size - n,
                          "}, \"audio_mean\": %s, \"audio_std\": %s, \"audio_frames\": %lld, \"broken\": %lld, "
                          "\"classes\": %lld, \"class_names\": %lld}\n",
                          mean, deviation, (long long)p->report.audio_frames, (long long)p->report.broken,
                          (long long)(p->labels ? cavmae__labels_count(p->labels) : 0),
                          (long long)(p->labels ? cavmae__packed_class_crc(p->labels) : 0));
    *length = n;
    return CAVMAE_OK;
}

static cavmae_status put_end(packer *p) {
    char description[DESCRIPTION_SIZE];
    size_t length;
    cavmae__pack_end end = {.index_place = p->written, .count = (uint64_t)p->report.clips, .magic = CAVMAE__PACK_MAGIC};
    CAVMAE__TRY(put_counted(p, p->index, end.count * sizeof *p->index, &end.index_crc));
    CAVMAE__TRY(write_description(p, description, sizeof description, &length));
    end.description_place = p->written;
    end.description_size = length;
    CAVMAE__TRY(put_counted(p, description, length, &end.description_crc));
    end.crc = cavmae__crc32(0, &end, offsetof(cavmae__pack_end, crc));
    return put(p, &end, sizeof end);
}

static cavmae_status write_file(packer *p) {
    const cavmae__pack_start start = {.magic = CAVMAE__PACK_MAGIC, .version = CAVMAE__PACK_VERSION};
    cavmae_status status;
    CAVMAE__TRY(cavmae__atomic_file_open(&p->file, p->path));
    CAVMAE__TRY_OUT(put(p, &start, sizeof start));
    CAVMAE__TRY_OUT(put_clips(p));
    finish_report(p);
    CAVMAE__TRY_OUT(put_end(p));
    p->report.bytes = (int64_t)p->written;
    return cavmae__atomic_file_commit(&p->file);
out:
    cavmae__atomic_file_abandon(&p->file);
    return status;
}

/* ---- The call ---- */

/* All frames for a loader that draws one or takes all; else the one that it takes. */
static cavmae_status choose_frames(packer *p, const cavmae_config *config) {
    const cavmae__options *o = &p->options;
    int64_t frame = o->frame == CAVMAE__FRAME_MIDDLE ? o->clip_frames / 2 : o->frame;
    if (frame >= o->clip_frames)
        return cavmae__fail(CAVMAE_E_ARG, "config: frame %lld: a clip has clip_frames = %lld", (long long)frame,
                            (long long)o->clip_frames);
    CAVMAE__TRY(cavmae_config_clone(config, &p->config));
    CAVMAE__TRY(cavmae_config_set_i64(p->config, CAVMAE_P_FRAME, frame));
    if (o->modalities == CAVMAE__MODALITIES_A) return CAVMAE_OK;
    if (o->image_channels != 3)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "config: image_channels %lld: pictures in files are decoded to 3",
                            (long long)o->image_channels);
    p->pictures = frame < 0 ? o->clip_frames : 1;
    p->first_frame = frame < 0 ? 0 : frame;
    p->picture_size = 3 * (size_t)o->image_size * (size_t)o->image_size;
    return CAVMAE_OK;
}

static cavmae_status create_works(packer *p) {
    p->work_count = CLIPS_PER_THREAD * (int64_t)cavmae__context_threads(p->context);
    p->works = cavmae__alloc_zero(p->context, (size_t)p->work_count * sizeof *p->works);
    if (!p->works) return CAVMAE_E_NOMEM;
    for (int64_t i = 0; i < p->work_count; i++) {
        work *w = &p->works[i];
        CAVMAE__TRY(CAVMAE__NEW(p->context, &w->crcs, 1 + p->pictures));
        w->pictures = cavmae__alloc_array(p->context, (size_t)p->pictures, p->picture_size);
        if (!w->pictures) return CAVMAE_E_NOMEM;
    }
    return CAVMAE_OK;
}

static cavmae_status open_packer(packer *p, const cavmae_config *config, const char *manifest, const char *labels) {
    CAVMAE__TRY(choose_frames(p, config));
    if (labels) CAVMAE__TRY(cavmae__labels_open(p->context, labels, &p->labels));
    CAVMAE__TRY(cavmae__manifest_open(p->context, manifest, p->labels, p->options.modalities != CAVMAE__MODALITIES_V,
                                      &p->manifest));
    CAVMAE__TRY(cavmae__manifest_check(p->manifest, config));
    p->count = cavmae__manifest_count(p->manifest);
    if (p->count > UINT32_MAX)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "the manifest has %lld entries, more than 2^32 - 1",
                            (long long)p->count);
    CAVMAE__TRY(CAVMAE__NEW(p->context, &p->index, p->count));
    return create_works(p);
}

static void close_packer(packer *p) {
    for (int64_t i = 0; p->works && i < p->work_count; i++) {
        cavmae__free(p->context, p->works[i].item.memory);
        cavmae__free(p->context, p->works[i].sound);
        cavmae__free(p->context, p->works[i].pictures);
        cavmae__free(p->context, p->works[i].crcs);
    }
    cavmae__free(p->context, p->works);
    cavmae__free(p->context, p->index);
    cavmae__manifest_free(p->manifest);
    cavmae__labels_free(p->labels);
    cavmae_config_free(p->config);
    cavmae__free(p->context, p);
}

cavmae_status cavmae_pack(const cavmae_config *config, const char *manifest, const char *labels, const char *out_path,
                          cavmae_pack_report *report) {
    cavmae__options options;
    cavmae_pack_report record;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    if (!manifest || !out_path)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_pack: %s is NULL", manifest ? "out_path" : "manifest");
    if (report) CAVMAE__TRY(cavmae__record_in(&record, sizeof record, report));
    cavmae_context *context = cavmae__config_context(config);
    packer *p = cavmae__alloc_zero(context, sizeof *p);
    if (!p) return CAVMAE_E_NOMEM;
    p->context = context; /* the config keeps it */
    p->options = options;
    p->path = out_path;
    cavmae_status status = open_packer(p, config, manifest, labels);
    if (status == CAVMAE_OK) status = write_file(p);
    record = p->report;
    close_packer(p);
    return status == CAVMAE_OK && report ? cavmae__record_out(report, &record, sizeof record) : status;
}
