/* libcavmae-media.so: cavmae_decoder over FFmpeg's libraries, versions 4.4 to 7. */
#include "ffmpeg_reader.h"

enum { PIECE = 8192 }; /* floats */

/* FFmpeg 5.1 (libavutil 57.28) put the number of channels into a layout. */
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 28, 100)
#define CHANNELS(of) ((of)->ch_layout.nb_channels)
#else
#define CHANNELS(of) ((of)->channels)
#endif

/* ---- Sound ---- */

/* Samples [first, first + count) of a frame, interleaved, full scale being 1; 0 for an unknown format. */
static int to_float(const AVFrame *frame, int first, int count, float *out) {
    int channels = CHANNELS(frame), planar = av_sample_fmt_is_planar(frame->format);
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

static cavmae_status give_sound(const cavmae__reader *r, const AVFrame *frame, cavmae_audio_sink *sink,
                                void *sink_arg) {
    float piece[PIECE];
    int channels = CHANNELS(frame);
    if (channels < 1 || channels > PIECE)
        return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "its sound has %d channels", channels);
    int most = PIECE / channels;
    for (int first = 0; first < frame->nb_samples; first += most) {
        int count = frame->nb_samples - first < most ? frame->nb_samples - first : most;
        if (!to_float(frame, first, count, piece))
            return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "its samples are of an unknown format");
        cavmae_status status = sink(sink_arg, piece, count, channels, frame->sample_rate);
        if (status != CAVMAE_OK) return cavmae__reader_fail(r, status, "its sound was refused");
    }
    return CAVMAE_OK;
}

static cavmae_status give_all_sound(cavmae__reader *r, AVFrame *frame, cavmae_audio_sink *sink, void *sink_arg) {
    int64_t samples = 0;
    int code;
    while ((code = cavmae__reader_frame(r, frame)) > 0) {
        cavmae_status status = give_sound(r, frame, sink, sink_arg);
        if (status != CAVMAE_OK) return status;
        samples += frame->nb_samples;
        av_frame_unref(frame);
    }
    if (code < 0) return cavmae__reader_fail_code(r, "cannot decode its sound", code);
    if (samples) return CAVMAE_OK;
    return r->damage ? cavmae__reader_fail_code(r, "nothing of its sound can be decoded", r->damage)
                     : cavmae__reader_fail(r, CAVMAE_E_MEDIA, "its audio track is empty");
}

static cavmae_status decode_sound(void *user, const char *path, cavmae_audio_sink *sink, void *sink_arg, char *error,
                                  size_t error_size) {
    cavmae__reader r;
    AVFrame *frame = NULL;
    (void)user;
    cavmae_status status = cavmae__reader_open(&r, path, 0, error, error_size);
    if (status == CAVMAE_OK) status = cavmae__reader_open_track(&r, AVMEDIA_TYPE_AUDIO);
    if (status == CAVMAE_OK && !(frame = av_frame_alloc()))
        status = cavmae__reader_fail_code(&r, "cannot decode", AVERROR(ENOMEM));
    if (status == CAVMAE_OK) status = give_all_sound(&r, frame, sink, sink_arg);
    av_frame_free(&frame);
    cavmae__reader_close(&r);
    return status;
}

/* ---- What is in a file ---- */

static cavmae_status describe(const cavmae__reader *r, cavmae_media_info *info) {
    const AVStream *audio = cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO);
    AVStream *video = cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO);
    if (audio) {
        info->audio_channels = CHANNELS(audio->codecpar);
        info->audio_rate = audio->codecpar->sample_rate;
    }
    if (video) {
        int turned = cavmae__track_is_turned(video);
        info->width = turned ? video->codecpar->height : video->codecpar->width;
        info->height = turned ? video->codecpar->width : video->codecpar->height;
    }
    if (info->audio_channels < 1 && info->width < 1)
        return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "neither sound nor pictures in it");
    info->still = cavmae__reader_is_still(r);
    if (info->still) return CAVMAE_OK;
    if (video) info->frame_rate = av_q2d(av_guess_frame_rate(r->format, video, NULL));
    if (r->format->duration != AV_NOPTS_VALUE) info->seconds = (double)r->format->duration / AV_TIME_BASE;
    return CAVMAE_OK;
}

static cavmae_status probe(void *user, const char *path, cavmae_media_info *info, char *error, size_t error_size) {
    cavmae__reader r;
    (void)user;
    cavmae_status status = cavmae__reader_open(&r, path, 1, error, error_size);
    if (status == CAVMAE_OK) status = describe(&r, info);
    cavmae__reader_close(&r);
    return status;
}

/* ---- The plug-in's one symbol ---- */

CAVMAE_API const cavmae_decoder *cavmae_media_plugin(void);

const cavmae_decoder *cavmae_media_plugin(void) {
    static const cavmae_decoder decoder = {.struct_size = sizeof decoder,
                                           .version = 1,
                                           .probe = probe,
                                           .audio = decode_sound,
                                           .frames = cavmae__decode_pictures};
    return &decoder;
}
