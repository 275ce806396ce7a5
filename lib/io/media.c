#include "media.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "context_internal.h"
#include "plugin.h"
#include "record.h"

enum { DECODER_VERSION = 1, ERROR_SIZE = 512, FIRST_SAMPLES = 65536 };

/* ---- The decoder ---- */

static cavmae_status take_decoder(cavmae_context *context, const cavmae_decoder *given) {
    cavmae_decoder decoder;
    CAVMAE__TRY(cavmae__record_in(&decoder, sizeof decoder, given));
    if (decoder.version != DECODER_VERSION)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "the media decoder has version %d; this library takes version %d",
                            (int)decoder.version, DECODER_VERSION);
    if (!decoder.probe || !decoder.audio || !decoder.frames)
        return cavmae__fail(CAVMAE_E_ARG, "a function of the media decoder is NULL");
    context->decoder = decoder;
    context->decoder_set = 1;
    return CAVMAE_OK;
}

static cavmae_status open_plugin(cavmae_context *context) {
    void *handle, *symbol;
    const cavmae_decoder *(*entry)(void);
    CAVMAE__TRY(cavmae__plugin_open(context, "libcavmae-media.so", "cavmae_media_plugin", &handle, &symbol));
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from an object's address to a function's */
    cavmae_status status = take_decoder(context, entry());
    if (status != CAVMAE_OK) {
        cavmae__plugin_close(handle);
        return cavmae__fail_prefix(CAVMAE_E_BACKEND, "libcavmae-media.so");
    }
    context->media_plugin = handle;
    return CAVMAE_OK;
}

static cavmae_status get_decoder(cavmae_context *context, cavmae_decoder *out) {
    cavmae_status status = CAVMAE_OK;
    pthread_mutex_lock(&context->lock);
    if (!context->decoder_set) status = open_plugin(context);
    if (status == CAVMAE_OK) *out = context->decoder;
    pthread_mutex_unlock(&context->lock);
    return status;
}

cavmae_status cavmae_context_set_decoder(cavmae_context *context, const cavmae_decoder *decoder) {
    cavmae_status status;
    if (!context) return cavmae__fail(CAVMAE_E_ARG, "cavmae_context_set_decoder: context is NULL");
    pthread_mutex_lock(&context->lock);
    if (context->media_plugin)
        status = cavmae__fail(CAVMAE_E_STATE,
                              "the decoder is set before anything is decoded; libcavmae-media.so is already in use");
    else
        status = take_decoder(context, decoder);
    pthread_mutex_unlock(&context->lock);
    return status;
}

/* ---- Sources ---- */

cavmae_status cavmae__source_in(cavmae_source *own, const cavmae_source *given) {
    CAVMAE__TRY(cavmae__record_in(own, sizeof *own, given));
    if (!own->path && !own->data) return cavmae__fail(CAVMAE_E_ARG, "a media source has neither path nor data");
    if (!own->path) own->path = "memory";
    own->struct_size = sizeof *own;
    return CAVMAE_OK;
}

cavmae_source cavmae__source_at(const char *path) {
    return (cavmae_source){.struct_size = sizeof(cavmae_source), .path = path};
}

/* ---- A call's outcome in the library's terms ---- */

/* A fault that a sink found counts for more than what the decoder makes of it; the sink keeps its text, because a
 * decoder may run in a thread of its own. */
typedef struct fault {
    cavmae_status status;
    char text[ERROR_SIZE];
} fault;

static cavmae_status found_fault(fault *found, cavmae_status status, const char *text) {
    found->status = status;
    snprintf(found->text, sizeof found->text, "%s", text);
    return status;
}

static cavmae_status outcome(cavmae_status status, char error[ERROR_SIZE], const fault *found, const char *path) {
    error[ERROR_SIZE - 1] = '\0';
    if (found && found->status != CAVMAE_OK) return cavmae__fail(found->status, "%s: %s", path, found->text);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    if (status > 0) status = CAVMAE_E_MEDIA;
    if (error[0] == '\0') return cavmae__fail(status, "%s: the decoder failed and did not say why", path);
    return cavmae__fail(status, "%s", error);
}

cavmae_status cavmae_media_probe_source(cavmae_context *context, const cavmae_source *source, cavmae_media_info *out) {
    cavmae_decoder decoder;
    cavmae_source own;
    cavmae_media_info info;
    char error[ERROR_SIZE] = "";
    if (!context) return cavmae__fail(CAVMAE_E_ARG, "media probe: context is NULL");
    CAVMAE__TRY(cavmae__source_in(&own, source));
    CAVMAE__TRY(cavmae__record_in(&info, sizeof info, out));
    CAVMAE__TRY(get_decoder(context, &decoder));
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    CAVMAE__TRY(outcome(decoder.probe(decoder.user, &own, &info, error, sizeof error), error, NULL, own.path));
    if (!isfinite(info.seconds) || info.seconds < 0)
        return cavmae__fail(CAVMAE_E_MEDIA, "%s: the decoder gave a length of %g seconds", own.path, info.seconds);
    return cavmae__record_out(out, &info, sizeof info);
}

cavmae_status cavmae_media_probe(cavmae_context *context, const char *path, cavmae_media_info *out) {
    const cavmae_source source = cavmae__source_at(path);
    return cavmae_media_probe_source(context, &source, out);
}

/* ---- Sound, piece by piece ---- */

typedef struct listening {
    cavmae_context *context;
    fault found;
    cavmae_audio_sink *sink;
    void *arg;
    int64_t samples;
    int32_t channels, rate;
} listening;

static cavmae_status take_sound(void *sink, const float *pcm, int64_t samples, int32_t channels, int32_t rate) {
    listening *l = sink;
    if (l->found.status != CAVMAE_OK) return l->found.status;
    if (samples == 0) return CAVMAE_OK;
    if (!pcm || samples < 0 || channels < 1 || rate < 1)
        return found_fault(&l->found, CAVMAE_E_MEDIA, "the decoder gave sound without samples, channels or rate");
    if (l->samples && (channels != l->channels || rate != l->rate))
        return found_fault(&l->found, CAVMAE_E_MEDIA, "its sound changes channels or rate on the way");
    if (__builtin_add_overflow(l->samples, samples, &l->samples))
        return found_fault(&l->found, CAVMAE_E_MEDIA, "its sound has no end");
    l->channels = channels;
    l->rate = rate;
    cavmae_status status = cavmae__check_cancel(l->context);
    if (status == CAVMAE_OK) status = l->sink(l->arg, pcm, samples, channels, rate);
    return status == CAVMAE_OK ? status : found_fault(&l->found, status, cavmae_last_error());
}

cavmae_status cavmae__media_sound(cavmae_context *context, const cavmae_source *source, cavmae_audio_sink *sink,
                                  void *arg) {
    listening l = {.context = context, .sink = sink, .arg = arg};
    cavmae_decoder decoder;
    char error[ERROR_SIZE] = "";
    CAVMAE__TRY(get_decoder(context, &decoder));
    cavmae_status status = decoder.audio(decoder.user, source, take_sound, &l, error, sizeof error);
    CAVMAE__TRY(outcome(status, error, &l.found, source->path));
    if (l.samples == 0) return cavmae__fail(CAVMAE_E_MEDIA, "%s: its sound has no samples", source->path);
    return CAVMAE_OK;
}

/* ---- Pictures, one by one ---- */

typedef struct viewing {
    cavmae_context *context;
    fault found;
    cavmae_frame_sink *sink;
    void *arg;
    uint8_t *taken; /* [count] */
    int32_t count, missing;
} viewing;

static cavmae_status take_picture(void *sink, int32_t index, const uint8_t *rgb, int32_t width, int32_t height,
                                  int64_t stride) {
    viewing *v = sink;
    if (v->found.status != CAVMAE_OK) return v->found.status;
    if (!rgb || width < 1 || height < 1 || stride / 3 < width)
        return found_fault(&v->found, CAVMAE_E_MEDIA, "the decoder gave a frame without pixels");
    if (index < 0 || index >= v->count)
        return found_fault(&v->found, CAVMAE_E_MEDIA, "the decoder gave a frame that nobody asked for");
    v->missing -= !v->taken[index];
    v->taken[index] = 1;
    cavmae_status status = cavmae__check_cancel(v->context);
    if (status == CAVMAE_OK) status = v->sink(v->arg, index, rgb, width, height, stride);
    return status == CAVMAE_OK ? status : found_fault(&v->found, status, cavmae_last_error());
}

cavmae_status cavmae__media_pictures(cavmae_context *context, const cavmae_source *source, const double *seconds,
                                     int32_t count, cavmae_frame_sink *sink, void *arg) {
    viewing v = {.context = context, .sink = sink, .arg = arg, .count = count, .missing = count};
    cavmae_decoder decoder;
    char error[ERROR_SIZE] = "";
    CAVMAE__TRY(get_decoder(context, &decoder));
    v.taken = cavmae__alloc_zero(context, (size_t)count);
    if (!v.taken) return CAVMAE_E_NOMEM;
    cavmae_status status = decoder.frames(decoder.user, source, seconds, count, take_picture, &v, error, sizeof error);
    status = outcome(status, error, &v.found, source->path);
    if (status == CAVMAE_OK && v.missing)
        status = cavmae__fail(CAVMAE_E_MEDIA, "%s: the decoder gave %d of %d frames", source->path,
                              (int)(count - v.missing), (int)count);
    cavmae__free(context, v.taken);
    return status;
}

/* ---- A whole recording ---- */

typedef struct recording {
    cavmae_context *context;
    float *pcm;
    size_t used, capacity; /* floats */
    int32_t channels, rate;
} recording;

static cavmae_status record(void *sink, const float *pcm, int64_t samples, int32_t channels, int32_t rate) {
    recording *r = sink;
    size_t count, needed;
    if (__builtin_mul_overflow((uint64_t)samples, (uint64_t)channels, &count) ||
        __builtin_add_overflow(count, r->used, &needed) || needed > PTRDIFF_MAX / sizeof *pcm / 2)
        return cavmae__fail(CAVMAE_E_NOMEM, "its sound is more than memory can hold");
    if (needed > r->capacity) {
        size_t capacity = needed + needed / 2 + FIRST_SAMPLES;
        float *grown = cavmae__realloc(r->context, r->pcm, r->used * sizeof *pcm, capacity * sizeof *pcm);
        if (!grown) return CAVMAE_E_NOMEM;
        r->pcm = grown;
        r->capacity = capacity;
    }
    memcpy(r->pcm + r->used, pcm, count * sizeof *pcm);
    r->used = needed;
    r->channels = channels;
    r->rate = rate;
    return CAVMAE_OK;
}

cavmae_status cavmae__media_audio_source(cavmae_context *context, const cavmae_source *source, float **pcm,
                                         int64_t *samples, int32_t *channels, int32_t *rate) {
    recording r = {.context = context};
    cavmae_status status = cavmae__media_sound(context, source, record, &r);
    if (status != CAVMAE_OK) {
        cavmae__free(context, r.pcm);
        return status;
    }
    *pcm = r.pcm;
    *samples = (int64_t)(r.used / (size_t)r.channels);
    *channels = r.channels;
    *rate = r.rate;
    return CAVMAE_OK;
}

cavmae_status cavmae__media_audio(cavmae_context *context, const char *path, float **pcm, int64_t *samples,
                                  int32_t *channels, int32_t *rate) {
    const cavmae_source source = cavmae__source_at(path);
    return cavmae__media_audio_source(context, &source, pcm, samples, channels, rate);
}

/* What a tensor around the context's memory needs to give it back. */
typedef struct owner {
    cavmae_context *context;
    void *memory;
} owner;

static void release(void *user) {
    owner *o = user;
    cavmae_context *context = o->context;
    cavmae__free(context, o->memory);
    cavmae__free(context, o);
    cavmae__context_unref(context);
}

/* A tensor that owns `memory` of the context; on failure the caller still does. */
static cavmae_status own(cavmae_context *context, void *memory, int32_t dtype, int32_t dims, const int64_t *shape,
                         cavmae_tensor **out) {
    owner *o;
    CAVMAE__TRY(CAVMAE__NEW(context, &o, 1));
    *o = (owner){context, memory};
    cavmae_status status = cavmae_tensor_wrap(context, memory, dtype, dims, shape, release, o, out);
    if (status == CAVMAE_OK)
        cavmae__context_ref(context);
    else
        cavmae__free(context, o);
    return status;
}

cavmae_status cavmae_media_audio_source(cavmae_context *context, const cavmae_source *source, cavmae_tensor **out,
                                        int32_t *rate) {
    cavmae_source from;
    float *pcm;
    int64_t samples;
    int32_t channels, found_rate;
    if (!context || !out || !rate) return cavmae__fail(CAVMAE_E_ARG, "media audio: context, out or rate is NULL");
    CAVMAE__TRY(cavmae__source_in(&from, source));
    CAVMAE__TRY(cavmae__media_audio_source(context, &from, &pcm, &samples, &channels, &found_rate));
    cavmae_status status = own(context, pcm, CAVMAE_FLOAT32, 2, (int64_t[]){samples, channels}, out);
    if (status != CAVMAE_OK) {
        cavmae__free(context, pcm);
        return status;
    }
    *rate = found_rate;
    return CAVMAE_OK;
}

cavmae_status cavmae_media_audio(cavmae_context *context, const char *path, cavmae_tensor **out, int32_t *rate) {
    const cavmae_source source = cavmae__source_at(path);
    return cavmae_media_audio_source(context, &source, out, rate);
}

/* ---- Pictures, all of them ---- */

typedef struct album {
    cavmae_context *context;
    uint8_t *pixels; /* [count, height, width, 3], from the first frame on */
    int32_t count, width, height;
} album;

static cavmae_status paste(void *sink, int32_t index, const uint8_t *rgb, int32_t width, int32_t height,
                           int64_t stride) {
    album *a = sink;
    size_t row = (size_t)width * 3, frame;
    if (!a->pixels) {
        if (__builtin_mul_overflow(row, (size_t)height, &frame))
            return cavmae__fail(CAVMAE_E_NOMEM, "its frames are more than memory can hold");
        a->pixels = cavmae__alloc_array(a->context, (size_t)a->count, frame);
        if (!a->pixels) return CAVMAE_E_NOMEM;
        a->width = width;
        a->height = height;
    }
    if (width != a->width || height != a->height)
        return cavmae__fail(CAVMAE_E_MEDIA, "its frames change their size on the way");
    uint8_t *to = a->pixels + (size_t)index * (size_t)height * row;
    for (int32_t y = 0; y < height; y++) memcpy(to + (size_t)y * row, rgb + y * stride, row);
    return CAVMAE_OK;
}

/* a->pixels is the caller's to free, on success. */
static cavmae_status fill_album(album *a, const cavmae_source *source, const double *seconds) {
    cavmae_status status = cavmae__media_pictures(a->context, source, seconds, a->count, paste, a);
    if (status != CAVMAE_OK) cavmae__free(a->context, a->pixels);
    return status;
}

cavmae_status cavmae__media_frame(cavmae_context *context, const char *path, double seconds, uint8_t **rgb,
                                  int32_t *width, int32_t *height) {
    album a = {.context = context, .count = 1};
    const cavmae_source source = cavmae__source_at(path);
    CAVMAE__TRY(fill_album(&a, &source, &seconds));
    *rgb = a.pixels;
    *width = a.width;
    *height = a.height;
    return CAVMAE_OK;
}

cavmae_status cavmae_media_frames_source(cavmae_context *context, const cavmae_source *source, const double *seconds,
                                         int32_t count, cavmae_tensor **out) {
    album a = {.context = context, .count = count};
    cavmae_source from;
    if (!context || !seconds || !out)
        return cavmae__fail(CAVMAE_E_ARG, "media frames: context, seconds or out is NULL");
    CAVMAE__TRY(cavmae__source_in(&from, source));
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "media frames: count is %d", (int)count);
    for (int32_t i = 0; i < count; i++)
        if (!isfinite(seconds[i]) || (i && seconds[i] < seconds[i - 1]))
            return cavmae__fail(CAVMAE_E_ARG, "media frames: seconds[%d] is not a number, or less than the one before",
                                (int)i);
    CAVMAE__TRY(fill_album(&a, &from, seconds));
    cavmae_status status = own(context, a.pixels, CAVMAE_UINT8, 4, (int64_t[]){count, a.height, a.width, 3}, out);
    if (status != CAVMAE_OK) cavmae__free(context, a.pixels);
    return status;
}

cavmae_status cavmae_media_frames(cavmae_context *context, const char *path, const double *seconds, int32_t count,
                                  cavmae_tensor **out) {
    const cavmae_source source = cavmae__source_at(path);
    return cavmae_media_frames_source(context, &source, seconds, count, out);
}
