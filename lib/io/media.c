#include "media.h"

#include <math.h>
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

/* A call's outcome in the library's terms. A fault that a sink found counts for more than what the decoder makes of
 * it; the sink kept its text, because a decoder may run in a thread of its own. */
typedef struct fault {
    cavmae_status status;
    const char *text;
} fault;

static cavmae_status outcome(cavmae_status status, char error[ERROR_SIZE], const fault *found, const char *path) {
    error[ERROR_SIZE - 1] = '\0';
    if (found->status != CAVMAE_OK) return cavmae__fail(found->status, "%s: %s", path, found->text);
    if (status == CAVMAE_OK) return CAVMAE_OK;
    if (status > 0) status = CAVMAE_E_MEDIA;
    if (error[0] == '\0') return cavmae__fail(status, "%s: the decoder failed and did not say why", path);
    return cavmae__fail(status, "%s", error);
}

static cavmae_status found_fault(fault *found, cavmae_status status, const char *text) {
    *found = (fault){status, text};
    return status;
}

cavmae_status cavmae_media_probe(cavmae_context *context, const char *path, cavmae_media_info *out) {
    cavmae_decoder decoder;
    cavmae_media_info info;
    char error[ERROR_SIZE] = "";
    fault none = {CAVMAE_OK, NULL};
    if (!context || !path) return cavmae__fail(CAVMAE_E_ARG, "cavmae_media_probe: context or path is NULL");
    CAVMAE__TRY(cavmae__record_in(&info, sizeof info, out));
    CAVMAE__TRY(get_decoder(context, &decoder));
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    CAVMAE__TRY(outcome(decoder.probe(decoder.user, path, &info, error, sizeof error), error, &none, path));
    return cavmae__record_out(out, &info, sizeof info);
}

/* ---- Sound ---- */

typedef struct recording {
    cavmae_context *context;
    fault found;
    float *pcm;
    size_t used, capacity; /* floats */
    int32_t channels, rate;
} recording;

static cavmae_status take_samples(void *sink, const float *pcm, int64_t samples, int32_t channels, int32_t rate) {
    recording *r = sink;
    size_t count, needed;
    if (r->found.status != CAVMAE_OK) return r->found.status;
    if (samples == 0) return CAVMAE_OK;
    if (!pcm || samples < 0 || channels < 1 || rate < 1)
        return found_fault(&r->found, CAVMAE_E_MEDIA, "the decoder gave sound without samples, channels or rate");
    if (r->used && (channels != r->channels || rate != r->rate))
        return found_fault(&r->found, CAVMAE_E_MEDIA, "its sound changes channels or rate on the way");
    if (__builtin_mul_overflow((uint64_t)samples, (uint64_t)channels, &count) ||
        __builtin_add_overflow(count, r->used, &needed) || needed > PTRDIFF_MAX / sizeof *pcm / 2)
        return found_fault(&r->found, CAVMAE_E_NOMEM, "its sound is more than memory can hold");

    if (needed > r->capacity) {
        size_t capacity = needed + needed / 2 + FIRST_SAMPLES;
        float *grown = cavmae__realloc(r->context, r->pcm, r->used * sizeof *pcm, capacity * sizeof *pcm);
        if (!grown) return found_fault(&r->found, CAVMAE_E_NOMEM, "no memory for its sound");
        r->pcm = grown;
        r->capacity = capacity;
    }
    memcpy(r->pcm + r->used, pcm, count * sizeof *pcm);
    r->used = needed;
    r->channels = channels;
    r->rate = rate;
    return CAVMAE_OK;
}

cavmae_status cavmae__media_audio(cavmae_context *context, const char *path, float **pcm, int64_t *samples,
                                  int32_t *channels, int32_t *rate) {
    recording r = {.context = context};
    cavmae_decoder decoder;
    char error[ERROR_SIZE] = "";
    CAVMAE__TRY(get_decoder(context, &decoder));
    cavmae_status status = decoder.audio(decoder.user, path, take_samples, &r, error, sizeof error);
    status = outcome(status, error, &r.found, path);
    if (status == CAVMAE_OK && r.used == 0) status = cavmae__fail(CAVMAE_E_MEDIA, "%s: its sound has no samples", path);
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

cavmae_status cavmae_media_audio(cavmae_context *context, const char *path, cavmae_tensor **out, int32_t *rate) {
    float *pcm;
    int64_t samples;
    int32_t channels, found_rate;
    if (!context || !path || !out || !rate)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_media_audio: an argument is NULL");
    CAVMAE__TRY(cavmae__media_audio(context, path, &pcm, &samples, &channels, &found_rate));
    cavmae_status status = own(context, pcm, CAVMAE_FLOAT32, 2, (int64_t[]){samples, channels}, out);
    if (status != CAVMAE_OK) {
        cavmae__free(context, pcm);
        return status;
    }
    *rate = found_rate;
    return CAVMAE_OK;
}

/* ---- Pictures ---- */

typedef struct album {
    cavmae_context *context;
    fault found;
    uint8_t *pixels; /* [count, height, width, 3], from the first frame on */
    uint8_t *taken;  /* [count] */
    int32_t count, missing, width, height;
} album;

static cavmae_status take_frame(void *sink, int32_t index, const uint8_t *rgb, int32_t width, int32_t height,
                                int64_t stride) {
    album *a = sink;
    if (a->found.status != CAVMAE_OK) return a->found.status;
    if (!rgb || width < 1 || height < 1 || stride / 3 < width)
        return found_fault(&a->found, CAVMAE_E_MEDIA, "the decoder gave a frame without pixels");
    if (index < 0 || index >= a->count)
        return found_fault(&a->found, CAVMAE_E_MEDIA, "the decoder gave a frame that nobody asked for");
    size_t row = (size_t)width * 3, frame, total;
    if (!a->pixels) {
        if (__builtin_mul_overflow(row, (size_t)height, &frame) ||
            __builtin_mul_overflow(frame, (size_t)a->count, &total) || !(a->pixels = cavmae__alloc(a->context, total)))
            return found_fault(&a->found, CAVMAE_E_NOMEM, "no memory for its frames");
        a->width = width;
        a->height = height;
    }
    if (width != a->width || height != a->height)
        return found_fault(&a->found, CAVMAE_E_MEDIA, "its frames change their size on the way");
    uint8_t *to = a->pixels + (size_t)index * (size_t)height * row;
    for (int32_t y = 0; y < height; y++) memcpy(to + (size_t)y * row, rgb + y * stride, row);
    a->missing -= !a->taken[index];
    a->taken[index] = 1;
    return CAVMAE_OK;
}

/* a->pixels is the caller's to free, on success. */
static cavmae_status decode_frames(album *a, const char *path, const double *seconds) {
    cavmae_context *context = a->context;
    cavmae_decoder decoder;
    char error[ERROR_SIZE] = "";
    cavmae_status status;
    CAVMAE__TRY(get_decoder(context, &decoder));
    a->taken = cavmae__alloc_zero(context, (size_t)a->count);
    if (!a->taken) return CAVMAE_E_NOMEM;
    a->missing = a->count;
    status = decoder.frames(decoder.user, path, seconds, a->count, take_frame, a, error, sizeof error);
    status = outcome(status, error, &a->found, path);
    if (status == CAVMAE_OK && a->missing)
        status = cavmae__fail(CAVMAE_E_MEDIA, "%s: the decoder gave %d of %d frames", path,
                              (int)(a->count - a->missing), (int)a->count);
    if (status != CAVMAE_OK) cavmae__free(context, a->pixels);
    cavmae__free(context, a->taken);
    return status;
}

cavmae_status cavmae__media_frame(cavmae_context *context, const char *path, double seconds, uint8_t **rgb,
                                  int32_t *width, int32_t *height) {
    album a = {.context = context, .count = 1};
    CAVMAE__TRY(decode_frames(&a, path, &seconds));
    *rgb = a.pixels;
    *width = a.width;
    *height = a.height;
    return CAVMAE_OK;
}

cavmae_status cavmae_media_frames(cavmae_context *context, const char *path, const double *seconds, int32_t count,
                                  cavmae_tensor **out) {
    album a = {.context = context, .count = count};
    if (!context || !path || !seconds || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_media_frames: an argument is NULL");
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "cavmae_media_frames: count is %d", (int)count);
    for (int32_t i = 0; i < count; i++)
        if (!isfinite(seconds[i]) || (i && seconds[i] < seconds[i - 1]))
            return cavmae__fail(
                CAVMAE_E_ARG, "cavmae_media_frames: seconds[%d] is not a number, or less than the one before", (int)i);
    CAVMAE__TRY(decode_frames(&a, path, seconds));
    cavmae_status status = own(context, a.pixels, CAVMAE_UINT8, 4, (int64_t[]){count, a.height, a.width, 3}, out);
    if (status != CAVMAE_OK) cavmae__free(context, a.pixels);
    return status;
}
