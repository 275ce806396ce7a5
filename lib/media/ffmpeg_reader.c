#include "ffmpeg_reader.h"

#include <libavutil/avstring.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* FFmpeg prints what is up to its process-wide level (at the most 56). Moving this file's messages up by 128 silences
 * them and leaves the level, which is the program's, alone. */
enum { QUIET = 128 };

/* ---- Faults ---- */

cavmae_status cavmae__reader_fail(const cavmae__reader *r, cavmae_status status, const char *format, ...) {
    va_list arguments;
    int used = snprintf(r->error, r->error_size, "%s: ", r->path);
    if (used < 0 || (size_t)used >= r->error_size) return status;
    va_start(arguments, format);
    vsnprintf(r->error + used, r->error_size - (size_t)used, format, arguments);
    va_end(arguments);
    return status;
}

cavmae_status cavmae__reader_fail_code(const cavmae__reader *r, const char *what, int code) {
    char words[AV_ERROR_MAX_STRING_SIZE];
    cavmae_status status = CAVMAE_E_MEDIA;
    av_strerror(code, words, sizeof words);
    if (code == AVERROR(ENOMEM)) status = CAVMAE_E_NOMEM;
    if (code == AVERROR(ENOENT) || code == AVERROR(EACCES) || code == AVERROR(EISDIR) || code == AVERROR(EIO))
        status = CAVMAE_E_IO;
    return cavmae__reader_fail(r, status, "%s: %s", what, words);
}

/* ---- Opening ---- */

/* Media files may name others (play lists, streams in parts): a file that nobody vouches for must not make us open
 * what it likes. */
static int refuse_open(AVFormatContext *format, AVIOContext **io, const char *url, int flags, AVDictionary **options) {
    (void)format;
    (void)io;
    (void)url;
    (void)flags;
    (void)options;
    return AVERROR(EPERM);
}

/* AVFormatContext has no field of its own for the offset of its messages, but its class may say where to find one:
 * `opaque`, which belongs to the user. */
static void make_quiet(cavmae__reader *r) {
    int offset = QUIET;
    r->format_class = *r->format->av_class;
    r->format_class.version = LIBAVUTIL_VERSION_INT; /* of this copy: a newer library's class may have more fields */
    r->format_class.log_level_offset_offset = offsetof(AVFormatContext, opaque);
    memcpy(&r->format->opaque, &offset, sizeof offset);
    r->format->av_class = &r->format_class;
}

int cavmae__reader_is_still(const cavmae__reader *r) {
    const char *name = r->format->iformat->name;
    size_t length = strlen(name);
    const AVStream *stream = cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO);
    if (length > 5 && strcmp(name + length - 5, "_pipe") == 0) return 1; /* jpeg_pipe, png_pipe, ... */
    return stream && stream->nb_frames == 1 && !cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO);
}

/* avformat_find_stream_info decodes up to 20 frames of H.264. These formats say enough in their headers to do
 * without. */
static int header_is_enough(const cavmae__reader *r) {
    static const char *const names[] = {"wav", "mov", "matroska", "flac"};
    if (cavmae__reader_is_still(r)) return 1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (av_match_name(names[i], r->format->iformat->name)) return 1;
    return 0;
}

static int is_described(const cavmae__reader *r) {
    const AVStream *audio = cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO),
                   *video = cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO);
    if (r->format->duration == AV_NOPTS_VALUE || (audio && audio->codecpar->sample_rate < 1)) return 0;
    return !video || (video->codecpar->width > 0 && video->codecpar->height > 0 && video->avg_frame_rate.num > 0);
}

#if LIBAVFORMAT_VERSION_MAJOR >= 59
typedef const AVInputFormat input_format;
#else
typedef AVInputFormat input_format;
#endif

/* "file:", so that "http://..." is but the name of a file. FFmpeg finds out what it is from its contents alone: by
 * name, it would take a picture's for a pattern of names. */
static int open_input(cavmae__reader *r) {
    input_format *type = NULL;
    char *url = av_asprintf("file:%s", r->path);
    int code = url ? avio_open(&r->io, url, AVIO_FLAG_READ) : AVERROR(ENOMEM);
    if (code >= 0) {
        r->format = avformat_alloc_context();
        r->packet = av_packet_alloc();
        if (!r->format || !r->packet) code = AVERROR(ENOMEM);
    }
    if (code >= 0) {
        make_quiet(r);
        r->format->pb = r->io;
        r->format->flags |= AVFMT_FLAG_CUSTOM_IO; /* r->io is ours to close */
        r->format->io_open = refuse_open;
        code = av_probe_input_buffer2(r->io, &type, NULL, r->format, 0, 0);
    }
    if (code >= 0) code = avformat_open_input(&r->format, url, type, NULL); /* frees r->format where it fails */
    av_free(url);
    return code;
}

cavmae_status cavmae__reader_open(cavmae__reader *r, const char *path, int describe, char *error, size_t error_size) {
    *r = (cavmae__reader){.path = path, .error = error, .error_size = error_size};
    int code = open_input(r);
    if (code < 0 && !r->io) {
        cavmae__reader_fail_code(r, "cannot open", code);
        return code == AVERROR(ENOMEM) ? CAVMAE_E_NOMEM : CAVMAE_E_IO;
    }
    if (code < 0) return cavmae__reader_fail_code(r, "not a media file that can be read", code);
    if (describe ? !is_described(r) : !header_is_enough(r)) {
        code = avformat_find_stream_info(r->format, NULL);
        if (code < 0) return cavmae__reader_fail_code(r, "cannot find out what is in it", code);
    }
    /* Plain PCM may be DTS in disguise, which FFmpeg looks for in as many bytes as this says, 5 ms a file. */
    r->format->probesize = 32;
    return CAVMAE_OK;
}

void cavmae__reader_close(cavmae__reader *r) {
    avcodec_free_context(&r->codec);
    av_packet_free(&r->packet);
    avformat_close_input(&r->format);
    avio_closep(&r->io);
}

AVStream *cavmae__reader_track(const cavmae__reader *r, enum AVMediaType type) {
    for (unsigned i = 0; i < r->format->nb_streams; i++) {
        AVStream *stream = r->format->streams[i];
        if (stream->codecpar->codec_type == type && !(stream->disposition & AV_DISPOSITION_ATTACHED_PIC)) return stream;
    }
    return NULL;
}

cavmae_status cavmae__reader_open_track(cavmae__reader *r, enum AVMediaType type) {
    const char *what = type == AVMEDIA_TYPE_AUDIO ? "audio" : "video";
    r->stream = cavmae__reader_track(r, type);
    if (!r->stream) return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "no %s track", what);
    for (unsigned i = 0; i < r->format->nb_streams; i++)
        if (r->format->streams[i] != r->stream) r->format->streams[i]->discard = AVDISCARD_ALL;

    enum AVCodecID id = r->stream->codecpar->codec_id;
    const AVCodec *decoder = avcodec_find_decoder(id);
    if (!decoder)
        return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "no decoder for its %s track (%s)", what, avcodec_get_name(id));
    r->codec = avcodec_alloc_context3(decoder);
    if (!r->codec) return cavmae__reader_fail_code(r, "cannot open its decoder", AVERROR(ENOMEM));
    int code = avcodec_parameters_to_context(r->codec, r->stream->codecpar);
    if (code < 0) return cavmae__reader_fail_code(r, "cannot open its decoder", code);
    r->codec->log_level_offset = QUIET;
    r->codec->pkt_timebase = r->stream->time_base;
    r->codec->thread_count = 1; /* who wants more decodes more files at once */
    code = avcodec_open2(r->codec, decoder, NULL);
    return code < 0 ? cavmae__reader_fail_code(r, "cannot open its decoder", code) : CAVMAE_OK;
}

/* ---- Packets and frames ---- */

int cavmae__reader_packet(cavmae__reader *r) {
    while (!r->packet_waits) {
        int code = av_read_frame(r->format, r->packet);
        if (code < 0) return code;
        r->packet_waits = r->packet->stream_index == r->stream->index;
        if (!r->packet_waits) av_packet_unref(r->packet);
    }
    return 0;
}

/* Sends one packet, or at the end of the file says so to the decoder. */
static int send_next(cavmae__reader *r) {
    int code = cavmae__reader_packet(r);
    if (code == AVERROR(ENOMEM)) return code;
    if (code < 0) { /* files that were cut short end in other errors than AVERROR_EOF */
        if (code != AVERROR_EOF) r->damage = code;
        r->draining = 1;
        avcodec_send_packet(r->codec, NULL);
        return 0;
    }
    code = avcodec_send_packet(r->codec, r->packet);
    if (code == AVERROR(EAGAIN)) return 0; /* frames must be taken first: the packet waits */
    av_packet_unref(r->packet);
    r->packet_waits = 0;
    if (code == AVERROR(ENOMEM)) return code;
    if (code < 0) r->damage = code;
    return 0;
}

int cavmae__reader_frame(cavmae__reader *r, AVFrame *frame) {
    for (;;) {
        int code = avcodec_receive_frame(r->codec, frame);
        if (code == 0) return 1;
        if (code == AVERROR_EOF) return 0;
        if (code == AVERROR(ENOMEM)) return code;
        if (code != AVERROR(EAGAIN)) r->damage = code;
        if (r->draining) return 0;
        code = send_next(r);
        if (code < 0) return code;
    }
}

int cavmae__reader_seek(cavmae__reader *r, int64_t timestamp) {
    int code = av_seek_frame(r->format, r->stream->index, timestamp, AVSEEK_FLAG_BACKWARD);
    if (code < 0) return code;
    avcodec_flush_buffers(r->codec);
    av_packet_unref(r->packet);
    r->packet_waits = 0;
    r->draining = 0;
    return 0;
}
