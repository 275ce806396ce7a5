#include "raw_inputs.h"

#include <string.h>

/* ---- Either form ---- */

int64_t cavmae__batch_frames(const cavmae__options *options, const cavmae_batch *batch, int32_t clip) {
    if (batch->pcm) return cavmae__prepared_frames(&options->audio, batch->pcm_samples);
    return batch->audio_frames ? batch->audio_frames[clip] : options->audio_frames;
}

static int64_t picture_elements(const cavmae__options *o) { return o->image_channels * o->image_size * o->image_size; }

/* Bytes of a unit as the caller gives it. */
static int64_t raw_size(const cavmae__options *o, const cavmae_batch *batch, int m) {
    return m ? (int64_t)batch->pixel_height * batch->pixel_width * o->image_channels
             : batch->pcm_samples * (int64_t)sizeof *batch->pcm;
}

void cavmae__skip_clips(const cavmae__options *o, cavmae_batch *batch, int32_t clips) {
    const int64_t pictures = (int64_t)clips * (batch->frames > 1 ? batch->frames : 1);
    if (batch->audio)
        for (int32_t i = 0; i < clips; i++) batch->audio += cavmae__batch_frames(o, batch, i) * o->mel_bins;
    if (batch->audio_frames) batch->audio_frames += clips;
    if (batch->pcm) batch->pcm += clips * batch->pcm_samples;
    if (batch->image) batch->image += pictures * picture_elements(o);
    if (batch->pixels) batch->pixels += pictures * raw_size(o, batch, 1);
}

/* ---- Checks ---- */

static cavmae_status check_pcm(const cavmae__options *o, const cavmae_batch *batch, const char *call) {
    if (batch->audio) return cavmae__fail(CAVMAE_E_ARG, "%s: audio and pcm are both given", call);
    if (batch->audio_frames)
        return cavmae__fail(CAVMAE_E_ARG, "%s: audio_frames is given with pcm, whose frames follow from pcm_samples",
                            call);
    if (cavmae_fbank_frames(batch->pcm_samples, (int32_t)o->sample_rate) == 0)
        return cavmae__fail(CAVMAE_E_ARG, "%s: pcm_samples is %lld, less than one window of 25 ms at %lld Hz", call,
                            (long long)batch->pcm_samples, (long long)o->sample_rate);
    int64_t bytes;
    if (batch->pcm_samples > INT64_MAX / 2 || __builtin_mul_overflow(batch->count, raw_size(o, batch, 0), &bytes) ||
        cavmae__prepared_frames(&o->audio, batch->pcm_samples) > INT32_MAX)
        return cavmae__fail(CAVMAE_E_SHAPE, "%s: pcm_samples is %lld, more than a clip can have", call,
                            (long long)batch->pcm_samples);
    return CAVMAE_OK;
}

static cavmae_status check_pixels(const cavmae__options *o, const cavmae_batch *batch, const char *call) {
    if (batch->image) return cavmae__fail(CAVMAE_E_ARG, "%s: image and pixels are both given", call);
    if (batch->pixel_height < 1 || batch->pixel_width < 1)
        return cavmae__fail(CAVMAE_E_ARG, "%s: pixels of %d x %d: both must be at least 1", call, batch->pixel_width,
                            batch->pixel_height);
    int64_t bytes, pictures = (int64_t)batch->count * (batch->frames > 1 ? batch->frames : 1);
    if (__builtin_mul_overflow((int64_t)batch->pixel_height * batch->pixel_width, o->image_channels, &bytes) ||
        __builtin_mul_overflow(bytes, pictures, &bytes))
        return cavmae__fail(CAVMAE_E_SHAPE, "%s: %d x %d pixels of %lld pictures are more than memory can have", call,
                            batch->pixel_width, batch->pixel_height, (long long)pictures);
    return CAVMAE_OK;
}

cavmae_status cavmae__check_raw_inputs(const cavmae__options *options, const cavmae_batch *batch, const int uses[2],
                                       const char *call) {
    if (uses[0] && batch->pcm) CAVMAE__TRY(check_pcm(options, batch, call));
    if (uses[1] && batch->pixels) CAVMAE__TRY(check_pixels(options, batch, call));
    return CAVMAE_OK;
}

/* ---- On the host ---- */

typedef struct host_job {
    cavmae_context *context;
    const cavmae__options *options;
    const cavmae_batch *batch;
    int m;
    int64_t first, elements; /* of a prepared unit */
    float *out;
    _Atomic cavmae_status status;
} host_job;

static cavmae_status prepare_sound(const host_job *j, int64_t unit, float *out) {
    const int64_t samples = j->batch->pcm_samples;
    const int16_t *pcm = j->batch->pcm + unit * samples;
    float *waveform, *rows;
    int64_t frames;
    CAVMAE__TRY(CAVMAE__NEW(j->context, &waveform, samples));
    for (int64_t i = 0; i < samples; i++) waveform[i] = (float)pcm[i] / 32768.0f;
    cavmae_status status = cavmae__prepare_rows(j->context, &j->options->audio, waveform, samples, &rows, &frames);
    cavmae__free(j->context, waveform);
    if (status != CAVMAE_OK) return status;
    memcpy(out, rows, (size_t)j->elements * sizeof *out);
    cavmae__free(j->context, rows);
    return CAVMAE_OK;
}

static cavmae_status prepare_picture(const host_job *j, int64_t unit, float *out) {
    const cavmae_batch *b = j->batch;
    return cavmae__prepare_image(j->context, &j->options->image, b->pixels + unit * raw_size(j->options, b, 1),
                                 b->pixel_width, b->pixel_height, b->pixel_width * j->options->image_channels, out);
}

static void prepare_unit(void *arg, int64_t i, int32_t worker) {
    host_job *j = arg;
    float *out = j->out + i * j->elements;
    (void)worker;
    cavmae_status status = j->m ? prepare_picture(j, j->first + i, out) : prepare_sound(j, j->first + i, out);
    if (status != CAVMAE_OK) j->status = status;
}

static cavmae_status prepare_on_host(cavmae_model *model, const cavmae_batch *batch, int m, int64_t first,
                                     int64_t count, float *out) {
    const cavmae__options *o = &model->options;
    host_job j = {model->context, o, batch, m, first, 0, out, CAVMAE_OK};
    j.elements = m ? picture_elements(o) : cavmae__batch_frames(o, batch, 0) * o->mel_bins;
    cavmae__parallel(model->context, count, prepare_unit, &j);
    /* the sentence is another thread's */
    if (j.status != CAVMAE_OK)
        return cavmae__fail(j.status, "a batch's %s cannot be prepared: %s", m ? "pixels" : "pcm",
                            cavmae_status_str(j.status));
    return CAVMAE_OK;
}

/* ---- On the device ---- */

static cavmae__spectrogram spectrogram_of(const cavmae__options *o, const cavmae_batch *batch, int64_t count) {
    return (cavmae__spectrogram){.clips = (int32_t)count,
                                 .frames = (int32_t)cavmae__batch_frames(o, batch, 0),
                                 .mel_bins = (int32_t)o->mel_bins,
                                 .sample_rate = (int32_t)o->sample_rate,
                                 .samples = batch->pcm_samples,
                                 .mean = o->audio.mean,
                                 .std = o->audio.std,
                                 .silence = o->audio.length != CAVMAE__LENGTH_PAD};
}

static cavmae__pictures pictures_of(const cavmae__options *o, const cavmae_batch *batch, int64_t count) {
    cavmae__pictures op = {.count = (int32_t)count,
                           .height = batch->pixel_height,
                           .width = batch->pixel_width,
                           .channels = (int32_t)o->image_channels,
                           .size = (int32_t)o->image_size,
                           .filter = o->image.filter};
    _Static_assert(sizeof op.mean == sizeof o->image.mean, "CAVMAE__MAX_IMAGE_CHANNELS");
    memcpy(op.mean, o->image.mean, sizeof op.mean);
    memcpy(op.std, o->image.std, sizeof op.std);
    return op;
}

static cavmae_status prepare_on_device(cavmae__raw_inputs *raw, cavmae_model *model, const cavmae_batch *batch, int m,
                                       int64_t first, int64_t count, float *out) {
    const cavmae__options *o = &model->options;
    cavmae__backend *backend = model->backend;
    cavmae__spectrogram sound = spectrogram_of(o, batch, count);
    cavmae__pictures pictures = pictures_of(o, batch, count);
    const size_t unit = (size_t)raw_size(o, batch, m), bytes = (size_t)count * unit, start = (bytes + 63) / 64 * 64,
                 size = start + (m ? backend->ops->pictures_workspace(backend, &pictures)
                                   : backend->ops->spectrogram_workspace(backend, &sound));
    const void *from = m ? (const void *)batch->pixels : batch->pcm;
    if (raw->part[m].size < size) {
        if (raw->part[m].device) backend->ops->free(backend, raw->part[m].device);
        raw->part[m].device = NULL;
        raw->part[m].size = 0;
        CAVMAE__TRY(backend->ops->alloc(backend, size, &raw->part[m].device));
        raw->part[m].size = size;
    }
    unsigned char *device = raw->part[m].device;
    CAVMAE__TRY(backend->ops->upload_ahead(backend, device, (const unsigned char *)from + (size_t)first * unit, bytes));
    if (m) {
        pictures.pixels = device;
        pictures.out = out;
        pictures.workspace = device + start;
        return backend->ops->pictures(backend, &pictures);
    }
    sound.pcm = (const void *)device;
    sound.out = out;
    sound.workspace = device + start;
    return backend->ops->spectrogram(backend, &sound);
}

/* ---- Both ---- */

cavmae_status cavmae__raw_inputs_put(cavmae__raw_inputs *raw, cavmae_model *model, const cavmae_batch *batch, int m,
                                     int64_t first, int64_t count, float *out) {
    return model->backend->ops->host_memory ? prepare_on_host(model, batch, m, first, count, out)
                                            : prepare_on_device(raw, model, batch, m, first, count, out);
}

void cavmae__raw_inputs_free(cavmae__raw_inputs *raw, cavmae_model *model) {
    for (int m = 0; m < 2; m++)
        if (raw->part[m].device) model->backend->ops->free(model->backend, raw->part[m].device);
    memset(raw, 0, sizeof *raw);
}
