/* Media of any length, window by window. Sound streams from the decoder through the resampler into a buffer of a window
 * or two; windows that are complete are prepared, and embedded a few at a time, their pictures fetched by one call. */
#include <math.h>
#include <string.h>

#include "inputs.h"
#include "record.h"
#include "resample.h"
#include "window_outputs.h"

enum {
    GROUP_PICTURES = 8, /* pictures, and so windows, at once; at least one window */
    PIECE = 4096        /* samples that are taken at once */
};

typedef struct windows {
    cavmae_model *model;
    cavmae_context *context;
    cavmae_source source;
    cavmae_embedding out;
    cavmae_window_sink *sink;
    void *user;
    int pool;
    int sound, pictures; /* which of them are needed */
    int32_t count;       /* pictures of a window */
    double window, hop;  /* seconds */
    int64_t length;      /* of a window, in samples of the contract's rate: the unit of time in here */
    cavmae_media_info info;

    /* Sound: samples [first, heard) of it are in pcm. */
    cavmae__resampler *resampler; /* NULL: it has the contract's rate already */
    float *mono, *resampled, *pcm;
    int64_t room, capacity; /* of resampled; of pcm */
    int64_t first, heard;

    /* Windows: `next` regular ones are prepared, `done` given to the sink, `filled` wait in the group. */
    int64_t next, done;
    int32_t group, filled;
    double *start, *end;   /* [group] */
    double *seconds;       /* [group * count], rising */
    int32_t *slots;        /* [group * count] where in images the picture of seconds[i] goes */
    float *audio;          /* [group, audio_frames, F] */
    float *images;         /* [group, count, C, H, W] */
    int32_t *audio_frames; /* [group], all the same */
    cavmae__window_outputs *outputs;

    /* The first failure, and its text: the decoder may run in a thread of its own. */
    cavmae_status failed;
    char text[512];
} windows;

static double rate_of(const windows *w) { return w->model->options.audio.sample_rate; }

/* ---- A group of windows, embedded ---- */

/* Pictures of all windows in order of time: windows overlap. */
static void order_pictures(const windows *w) {
    int32_t total = 0;
    for (int32_t i = 0; i < w->filled; i++)
        for (int32_t k = 0; k < w->count; k++) {
            double seconds = w->start[i] + cavmae__picture_time(w->model, w->out.frames, k, w->end[i] - w->start[i]);
            int32_t at = total++;
            for (; at > 0 && w->seconds[at - 1] > seconds; at--) {
                w->seconds[at] = w->seconds[at - 1];
                w->slots[at] = w->slots[at - 1];
            }
            w->seconds[at] = seconds;
            w->slots[at] = i * w->count + k;
        }
}

/* How many windows there will be, by what the file says of its length. */
static int64_t expected(const windows *w) {
    double past = w->info.seconds - w->window;
    int64_t by_length = past > 0 && past / w->hop < 0x1p53 ? (int64_t)ceil(past / w->hop - 1e-9) + 1 : 1;
    return by_length > w->done ? by_length : w->done;
}

static cavmae_status give_windows(windows *w) {
    for (int32_t i = 0; i < w->filled; i++) {
        cavmae__window_outputs_take(w->outputs, i);
        cavmae_status status = w->sink ? w->sink(w->user, w->done, w->start[i], w->end[i], &w->out) : CAVMAE_OK;
        if (status != CAVMAE_OK)
            return cavmae__fail(status, "%s: window %lld: its receiver gave status %d", w->source.path,
                                (long long)w->done, (int)status);
        w->done++;
        cavmae__progress(w->context, "windows embedded", w->done, expected(w));
    }
    w->filled = 0;
    return CAVMAE_OK;
}

static cavmae_status embed_group(windows *w) {
    if (!w->filled) return CAVMAE_OK;
    CAVMAE__TRY(cavmae__check_cancel(w->context));
    if (!w->outputs)
        CAVMAE__TRY(cavmae__window_outputs_create(w->model, &w->out, w->group, w->audio_frames[0], &w->outputs));
    if (w->pictures) {
        order_pictures(w);
        CAVMAE__TRY(cavmae__load_pictures(w->model, &w->source, w->seconds, w->slots, w->filled * w->count, w->images));
    }
    const cavmae_batch batch = {.struct_size = sizeof batch,
                                .count = w->filled,
                                .audio = w->audio,
                                .image = w->images,
                                .audio_frames = w->audio ? w->audio_frames : NULL,
                                .frames = w->out.frames};
    cavmae_status status = cavmae_embed(w->model, &batch, cavmae__window_outputs_group(w->outputs));
    if (status != CAVMAE_OK)
        return cavmae__fail_prefix(status, "%s: windows from %lld", w->source.path, (long long)w->done);
    return give_windows(w);
}

/* ---- Windows out of the sound ---- */

/* The window's sound as model input, into the group. */
static cavmae_status prepare_sound(windows *w, const float *pcm, int64_t samples) {
    const cavmae__audio_contract *contract = &w->model->options.audio;
    int64_t frames;
    float *rows;
    CAVMAE__TRY(cavmae__prepare_audio(w->context, contract, pcm, samples, 1, contract->sample_rate, &rows, &frames));
    size_t elements = (size_t)(frames * contract->mel_bins);
    if (!w->audio) w->audio = cavmae__alloc_array(w->context, elements * sizeof *w->audio, (size_t)w->group);
    if (w->audio) {
        memcpy(w->audio + (size_t)w->filled * elements, rows, elements * sizeof *rows);
        w->audio_frames[w->filled] = (int32_t)frames;
    }
    cavmae__free(w->context, rows);
    return w->audio ? CAVMAE_OK : CAVMAE_E_NOMEM;
}

static cavmae_status take_window(windows *w, int64_t from, int64_t samples, double start, double end) {
    if (w->sound) {
        cavmae_status status = prepare_sound(w, w->pcm + (from - w->first), samples);
        if (status != CAVMAE_OK)
            return cavmae__fail_prefix(status, "%s: window %lld", w->source.path, (long long)(w->done + w->filled));
    }
    w->start[w->filled] = start;
    w->end[w->filled] = end;
    return ++w->filled < w->group ? CAVMAE_OK : embed_group(w);
}

static int64_t start_of(const windows *w, int64_t window) { return llround((double)window * w->hop * rate_of(w)); }

/* All regular windows that `heard` completes. */
static cavmae_status take_windows(windows *w) {
    while (start_of(w, w->next) <= w->heard - w->length) {
        double start = (double)w->next * w->hop;
        CAVMAE__TRY(take_window(w, start_of(w, w->next), w->length, start, start + w->window));
        w->next++;
    }
    return CAVMAE_OK;
}

/* The end of the media, `seconds`, is at sample `heard`. */
static cavmae_status take_last_window(windows *w, double seconds) {
    if (w->next == 0)
        CAVMAE__TRY(take_window(w, 0, w->heard, 0, seconds));
    else if (start_of(w, w->next - 1) + w->length < w->heard)
        CAVMAE__TRY(take_window(w, w->heard - w->length, w->length, seconds - w->window, seconds));
    return embed_group(w);
}

/* ---- Sound, as it comes ---- */

/* Appends samples (NULL: silence), and drops what no window needs any more: the next regular one and the last one lie
 * within the newest `length` samples. */
static cavmae_status append(windows *w, const float *pcm, int64_t samples) {
    for (int64_t count; samples > 0; samples -= count) {
        if (w->heard - w->first == w->capacity) {
            memmove(w->pcm, w->pcm + (w->capacity - w->length), (size_t)w->length * sizeof *w->pcm);
            w->first = w->heard - w->length;
        }
        count = w->capacity - (w->heard - w->first);
        if (count > samples) count = samples;
        float *to = w->pcm + (w->heard - w->first);
        if (pcm) {
            memcpy(to, pcm, (size_t)count * sizeof *pcm);
            pcm += count;
        } else {
            memset(to, 0, (size_t)count * sizeof *to);
        }
        w->heard += count;
        CAVMAE__TRY(take_windows(w));
    }
    return CAVMAE_OK;
}

static cavmae_status feed(windows *w, const float *mono, int64_t samples, int last) {
    if (!w->resampler) return append(w, mono, samples);
    for (int64_t used, made;;) {
        CAVMAE__TRY(cavmae__resampler_run(w->resampler, mono, samples, last, &used, w->resampled, w->room, &made));
        CAVMAE__TRY(append(w, w->resampled, made));
        if (!used && !made) return CAVMAE_OK;
        mono += used;
        samples -= used;
    }
}

static cavmae_status start_sound(windows *w, int32_t rate) {
    const cavmae__audio_contract *contract = &w->model->options.audio;
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->mono, PIECE));
    if (rate == contract->sample_rate) return CAVMAE_OK;
    w->room = PIECE;
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->resampled, w->room));
    return cavmae__resampler_create(w->context, rate, contract->sample_rate, contract->resampler, &w->resampler);
}

static cavmae_status hear_pieces(windows *w, const float *pcm, int64_t samples, int32_t channels, int32_t rate) {
    if (!w->mono) CAVMAE__TRY(start_sound(w, rate));
    CAVMAE__TRY(cavmae__check_cancel(w->context));
    for (int64_t count; samples > 0; samples -= count, pcm += count * channels) {
        count = samples < PIECE ? samples : PIECE;
        cavmae__choose_channel(w->model->options.audio.channel, pcm, count, channels, w->mono);
        CAVMAE__TRY(feed(w, w->mono, count, 0));
    }
    return CAVMAE_OK;
}

static cavmae_status hear(void *sink, const float *pcm, int64_t samples, int32_t channels, int32_t rate) {
    windows *w = sink;
    if (w->failed != CAVMAE_OK) return w->failed;
    w->failed = hear_pieces(w, pcm, samples, channels, rate);
    if (w->failed != CAVMAE_OK) strncpy(w->text, cavmae_last_error(), sizeof w->text - 1);
    return w->failed;
}

/* ---- The whole ---- */

static cavmae_status run(windows *w) {
    double pictures_end = w->info.seconds, unit = 1 / rate_of(w);
    if (w->sound) {
        cavmae_status status = cavmae__media_sound(w->context, &w->source, hear, w);
        if (w->failed != CAVMAE_OK) return cavmae__fail(w->failed, "%s", w->text);
        if (status != CAVMAE_OK) return status;
        CAVMAE__TRY(feed(w, w->mono, 0, 1));
    }
    if (!w->pictures) return take_last_window(w, (double)w->heard * unit);
    if (!(pictures_end < 0x1p62 * unit))
        return cavmae__fail(CAVMAE_E_MEDIA, "%s: a length of %g seconds", w->source.path, pictures_end);
    int64_t end = llround(pictures_end / unit);
    if (w->heard > end + 1) return take_last_window(w, (double)w->heard * unit);
    if (w->sound) {
        CAVMAE__TRY(append(w, NULL, end - w->heard));
    } else {
        w->heard = end;
        CAVMAE__TRY(take_windows(w));
    }
    return take_last_window(w, pictures_end);
}

static cavmae_status read_options(windows *w, const cavmae_window_options *given) {
    const cavmae__audio_contract *contract = &w->model->options.audio;
    cavmae_window_options options = {.struct_size = sizeof options};
    double longest = contract->frames * 0.01;
    if (given) CAVMAE__TRY(cavmae__record_in(&options, sizeof options, given));
    w->window = options.window_seconds != 0 ? options.window_seconds : longest;
    w->hop = options.hop_seconds != 0 ? options.hop_seconds : w->window;
    if (!(w->window > 0 && w->window <= longest + 1e-9))
        return cavmae__fail(CAVMAE_E_ARG, "embed windows: window_seconds is %g, not above 0 and up to the model's %g",
                            w->window, longest);
    if (!(w->hop > 0 && w->hop < 0x1p31) || w->hop * rate_of(w) < 1)
        return cavmae__fail(CAVMAE_E_ARG, "embed windows: hop_seconds is %g, not a sample's time or more", w->hop);
    w->pool = options.pool != 0;
    if (!w->sink && !w->pool) return cavmae__fail(CAVMAE_E_ARG, "embed windows: sink is NULL, and nothing is pooled");
    w->length = llround(w->window * rate_of(w));
    if (!w->length) return cavmae__fail(CAVMAE_E_ARG, "embed windows: window_seconds is %g", w->window);
    return CAVMAE_OK;
}

static cavmae_status allocate(windows *w) {
    const cavmae__options *o = &w->model->options;
    size_t picture = (size_t)(o->image_channels * o->image_size * o->image_size) * sizeof(float);
    w->count = 1;
    if (w->pictures) CAVMAE__TRY(cavmae__picture_count(w->model, w->out.frames, &w->count));
    w->group = w->count < GROUP_PICTURES ? GROUP_PICTURES / w->count : 1;
    size_t pictures = (size_t)w->group * (size_t)w->count;
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->start, w->group));
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->end, w->group));
    CAVMAE__TRY(CAVMAE__NEW(w->context, &w->audio_frames, w->group));
    w->audio_frames[0] = 0;
    if (w->pictures) {
        CAVMAE__TRY(CAVMAE__NEW(w->context, &w->seconds, pictures));
        CAVMAE__TRY(CAVMAE__NEW(w->context, &w->slots, pictures));
        w->images = cavmae__alloc_array(w->context, pictures, picture);
        if (!w->images) return CAVMAE_E_NOMEM;
    }
    if (!w->sound) return CAVMAE_OK;
    w->capacity = 2 * w->length + PIECE;
    return CAVMAE__NEW(w->context, &w->pcm, w->capacity);
}

cavmae_status cavmae_embed_windows(cavmae_model *model, const cavmae_source *source,
                                   const cavmae_window_options *options, const cavmae_embedding *out,
                                   cavmae_window_sink *sink, void *user) {
    windows w = {.model = model, .sink = sink, .user = user, .info = {.struct_size = sizeof w.info}};
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "embed windows: model is NULL");
    w.context = model->context;
    CAVMAE__TRY(cavmae__source_in(&w.source, source));
    CAVMAE__TRY(cavmae__record_in(&w.out, sizeof w.out, out));
    w.out.struct_size = sizeof w.out;
    CAVMAE__TRY(read_options(&w, options));
    cavmae__embed_needs(model, &w.out, &w.sound, &w.pictures);
    CAVMAE__TRY(cavmae_media_probe_source(w.context, &w.source, &w.info));
    CAVMAE__TRY_OUT(allocate(&w));
    CAVMAE__TRY_OUT(run(&w));
    if (w.pool) cavmae__window_outputs_mean(w.outputs);
out:
    cavmae__window_outputs_free(w.outputs);
    cavmae__resampler_free(w.resampler);
    cavmae__free(w.context, w.mono);
    cavmae__free(w.context, w.resampled);
    cavmae__free(w.context, w.pcm);
    cavmae__free(w.context, w.start);
    cavmae__free(w.context, w.end);
    cavmae__free(w.context, w.seconds);
    cavmae__free(w.context, w.slots);
    cavmae__free(w.context, w.audio);
    cavmae__free(w.context, w.images);
    cavmae__free(w.context, w.audio_frames);
    return status;
}
