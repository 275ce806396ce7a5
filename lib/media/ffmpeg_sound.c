/* The sound of a file from time 0 on, as interleaved float. */
#include <libavutil/mathematics.h>
#include <string.h>

#include "ffmpeg_reader.h"

enum {
    PIECE = 8192,        /* floats */
    LONGEST_JUMP = 10,   /* seconds: in formats whose timestamps may start anew, what is farther is no hole */
    MOST_SILENCE = 3600, /* seconds, of all holes together: a lying file does not fill the memory with nothing */
};

typedef struct listener {
    cavmae__reader r;
    cavmae_audio_sink *sink;
    void *sink_arg;
    int64_t given;  /* samples so far, silence included */
    int64_t silent; /* samples of silence among them */
    int64_t shift;  /* samples by which timestamps run ahead of `given`, after jumps that are no holes */
    int decoded;    /* there was sound */
} listener;

/* Samples [first, first + count) of a frame, interleaved, full scale being 1; 0 for an unknown format. */
static int to_float(const AVFrame *frame, int first, int count, float *out) {
    int channels = CAVMAE__CHANNELS(frame), planar = av_sample_fmt_is_planar(frame->format);
    int planes = planar ? channels : 1, step = planes, width = channels / planes;

#define INTERLEAVE(type, value)                                                                                        \
    for (int plane = 0; plane < planes; plane++) {                                                                     \
        const type *from = (const type *)frame->extended_data[plane] + (ptrdiff_t)first * width;                       \
        for (int i = 0; i < count * width; i++) {                                                                      \
            type x = from[i];                                                                                          \
            out[i * step + plane] = (float)(value);                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    return 1

    switch (av_get_packed_sample_fmt(frame->format)) {
    case AV_SAMPLE_FMT_U8: INTERLEAVE(uint8_t, (float)(x - 128) * 0x1p-7f);
    case AV_SAMPLE_FMT_S16: INTERLEAVE(int16_t, (float)x * 0x1p-15f);
    case AV_SAMPLE_FMT_S32: INTERLEAVE(int32_t, x * 0x1p-31);
    case AV_SAMPLE_FMT_S64: INTERLEAVE(int64_t, (double)x * 0x1p-63);
    case AV_SAMPLE_FMT_FLT: INTERLEAVE(float, x);
    case AV_SAMPLE_FMT_DBL: INTERLEAVE(double, x);
    default: return 0;
    }
#undef INTERLEAVE
}

static cavmae_status give(listener *l, const float *pcm, int64_t samples, const AVFrame *as) {
    cavmae_status status = l->sink(l->sink_arg, pcm, samples, CAVMAE__CHANNELS(as), as->sample_rate);
    l->given += samples;
    return status == CAVMAE_OK ? status : cavmae__reader_fail(&l->r, status, "its sound was refused");
}

/* A track that starts after the file does, or has a hole (packets that were lost), has silence there, so that sound
 * and pictures stay together. Timestamps jitter: a hole within the track is longer than 0.1 s, as for ffmpeg's
 * resampler. Samples of silence to give before `frame`. */
static int64_t hole_before(listener *l, const AVFrame *frame) {
    int64_t time = frame->best_effort_timestamp, rate = frame->sample_rate, length = l->r.format->duration;
    if (time < 0 || time > CAVMAE__LATEST) return 0; /* AV_NOPTS_VALUE is negative, too */
    int64_t due = av_rescale_q(time - l->r.zero, l->r.stream->time_base, (AVRational){1, frame->sample_rate});
    if (due < 0 || due > CAVMAE__LATEST) return 0;
    int64_t hole = due - l->shift - l->given;
    if (!l->decoded ? hole <= 0 : hole <= rate / 10 && hole >= -rate / 10) return 0;
    int starts_anew = l->r.format->iformat->flags & AVFMT_TS_DISCONT;
    if (hole > 0 && l->silent + hole <= MOST_SILENCE * rate && (!starts_anew || hole <= LONGEST_JUMP * rate) &&
        (length == AV_NOPTS_VALUE || due - rate <= av_rescale(length, rate, AV_TIME_BASE))) {
        l->silent += hole;
        return hole;
    }
    l->shift += hole;
    return 0;
}

static cavmae_status give_frame(listener *l, const AVFrame *frame) {
    float piece[PIECE];
    int channels = CAVMAE__CHANNELS(frame);
    if (channels < 1 || channels > PIECE || frame->sample_rate < 1)
        return cavmae__reader_fail(&l->r, CAVMAE_E_MEDIA, "its sound has %d channels at %d Hz", channels,
                                   frame->sample_rate);
    int most = PIECE / channels;
    int64_t silence = hole_before(l, frame);
    if (silence) memset(piece, 0, sizeof piece);
    for (int64_t count; silence > 0; silence -= count) {
        count = silence < most ? silence : most;
        cavmae_status status = give(l, piece, count, frame);
        if (status != CAVMAE_OK) return status;
    }
    for (int first = 0; first < frame->nb_samples; first += most) {
        int count = frame->nb_samples - first < most ? frame->nb_samples - first : most;
        if (!to_float(frame, first, count, piece))
            return cavmae__reader_fail(&l->r, CAVMAE_E_UNSUPPORTED, "its samples are of an unknown format");
        cavmae_status status = give(l, piece, count, frame);
        if (status != CAVMAE_OK) return status;
        l->decoded = 1;
    }
    return CAVMAE_OK;
}

static cavmae_status give_all(listener *l, AVFrame *frame) {
    int code;
    while ((code = cavmae__reader_frame(&l->r, frame)) > 0) {
        cavmae_status status = give_frame(l, frame);
        if (status != CAVMAE_OK) return status;
        av_frame_unref(frame);
    }
    if (code < 0) return cavmae__reader_fail_code(&l->r, "cannot decode its sound", code);
    if (l->decoded) return CAVMAE_OK;
    return l->r.damage ? cavmae__reader_fail_code(&l->r, "nothing of its sound can be decoded", l->r.damage)
                       : cavmae__reader_fail(&l->r, CAVMAE_E_MEDIA, "its audio track is empty");
}

cavmae_status cavmae__decode_sound(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *sink_arg,
                                   char *error, size_t error_size) {
    listener l = {.sink = sink, .sink_arg = sink_arg};
    AVFrame *frame = NULL;
    (void)user;
    cavmae_status status = cavmae__reader_open(&l.r, source, 0, error, error_size);
    if (status == CAVMAE_OK) status = cavmae__reader_open_track(&l.r, AVMEDIA_TYPE_AUDIO);
    if (status == CAVMAE_OK && !(frame = av_frame_alloc()))
        status = cavmae__reader_fail_code(&l.r, "cannot decode", AVERROR(ENOMEM));
    if (status == CAVMAE_OK) status = give_all(&l, frame);
    av_frame_free(&frame);
    cavmae__reader_close(&l.r);
    return status;
}
