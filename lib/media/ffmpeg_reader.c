#include "ffmpeg_reader.h"

#include <libavutil/avstring.h>
#include <libavutil/common.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/mathematics.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    /* FFmpeg prints what is up to its process-wide level (at the most 56). Moving this file's messages up by 128
     * silences them and leaves the level, which is the program's, alone. */
    QUIET = 128,
    MEMORY_BUFFER = 32768,       /* bytes that FFmpeg asks the source's memory for at once */
    MOST_EARLY_BYTES = 16 << 20, /* read ahead to find out when the file starts */
};

/* ---- Faults ---- */

cavmae_status cavmae__reader_fail(const cavmae__reader *r, cavmae_status status, const char *format, ...) {
    va_list arguments;
    int used = snprintf(r->error, r->error_size, "%s: ", r->source->path);
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
    if (code == AVERROR(EIO)) status = CAVMAE_E_IO;
    return cavmae__reader_fail(r, status, "%s: %s", what, words);
}

/* ---- Opening ---- */

/* Media files may name others (play lists, streams in parts) or hosts: a file that nobody vouches for must not make us
 * open what it likes. Formats that do nothing else are refused by name; where others try, by this. */
static int is_list(const char *format) {
    static const char names[] = "hls,concat,dash,sdp,imf,vobsub";
    return av_match_name(format, names);
}

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

static int read_memory(void *opaque, uint8_t *to, int size) {
    cavmae__reader *r = opaque;
    size_t left = r->place < r->source->size ? r->source->size - r->place : 0;
    size_t count = left < (size_t)size ? left : (size_t)size;
    if (!count) return AVERROR_EOF;
    memcpy(to, (const uint8_t *)r->source->data + r->place, count);
    r->place += count;
    return (int)count;
}

/* As in a file, the place may lie past the end. */
static int64_t seek_memory(void *opaque, int64_t offset, int whence) {
    cavmae__reader *r = opaque;
    int64_t size = (int64_t)r->source->size, to;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) return size;
    int64_t from = whence == SEEK_CUR ? (int64_t)r->place : whence == SEEK_END ? size : 0;
    if (__builtin_add_overflow(from, offset, &to) || to < 0) return AVERROR(EINVAL);
    r->place = (size_t)to;
    return to;
}

static int open_memory(cavmae__reader *r) {
    uint8_t *buffer = av_malloc(MEMORY_BUFFER);
    if (buffer) r->io = avio_alloc_context(buffer, MEMORY_BUFFER, 0, r, read_memory, NULL, seek_memory);
    if (r->io) return 0;
    av_free(buffer);
    return AVERROR(ENOMEM);
}

/* "file:", so that "http://..." is but the name of a file. */
static int open_path(cavmae__reader *r) {
    char *url = av_asprintf("file:%s", r->source->path);
    int code = url ? avio_open(&r->io, url, AVIO_FLAG_READ) : AVERROR(ENOMEM);
    av_free(url);
    return code;
}

static cavmae_status open_io(cavmae__reader *r) {
    struct stat found;
    int is_path = !r->source->data, known = is_path && stat(r->source->path, &found) == 0;
    if (known && S_ISDIR(found.st_mode)) return cavmae__reader_fail(r, CAVMAE_E_IO, "it is a directory");
    if (known && !S_ISREG(found.st_mode)) /* whose end nobody knows, or that nobody writes */
        return cavmae__reader_fail(r, CAVMAE_E_IO, "it is not a regular file");
    int code = is_path ? open_path(r) : open_memory(r);
    if (code < 0) {
        cavmae__reader_fail_code(r, "cannot open", code);
        return code == AVERROR(ENOMEM) ? CAVMAE_E_NOMEM : CAVMAE_E_IO;
    }
    if (is_path ? known && found.st_size == 0 : r->source->size == 0)
        return cavmae__reader_fail(r, CAVMAE_E_FORMAT, "it is empty");
    return CAVMAE_OK;
}

/* A fault before there are tracks is one of the file's form. */
static cavmae_status fail_format(const cavmae__reader *r, const char *what, int code) {
    cavmae_status status = cavmae__reader_fail_code(r, what, code);
    return status == CAVMAE_E_MEDIA ? CAVMAE_E_FORMAT : status;
}

/* FFmpeg finds out what it is from its contents alone: by name, it would take a picture's for a pattern of names. */
static cavmae_status open_format(cavmae__reader *r) {
    input_format *type = NULL;
    char what[128];
    r->format = avformat_alloc_context();
    r->packet = av_packet_alloc();
    if (!r->format || !r->packet) return cavmae__reader_fail_code(r, "cannot open", AVERROR(ENOMEM));
    make_quiet(r);
    r->format->pb = r->io;
    r->format->flags |= AVFMT_FLAG_CUSTOM_IO; /* r->io is ours to close */
    r->format->io_open = refuse_open;
    int code = av_probe_input_buffer2(r->io, &type, NULL, r->format, 0, 0);
    if (code < 0) return fail_format(r, "not a media file of a known kind", code);
    if (is_list(type->name))
        return cavmae__reader_fail(r, CAVMAE_E_FORMAT, "it names other files (%s), and these are not opened",
                                   type->name);
    code = avformat_open_input(&r->format, "", type, NULL); /* frees r->format where it fails */
    snprintf(what, sizeof what, "damaged or cut short: cannot read its header (%s)", type->name);
    return code < 0 ? fail_format(r, what, code) : CAVMAE_OK;
}

cavmae_status cavmae__reader_open(cavmae__reader *r, const cavmae_source *source, int describe, char *error,
                                  size_t error_size) {
    *r = (cavmae__reader){.source = source, .error = error, .error_size = error_size};
    cavmae_status status = open_io(r);
    if (status == CAVMAE_OK) status = open_format(r);
    if (status != CAVMAE_OK) return status;
    if (!cavmae__reader_is_still(r) && (describe ? !is_described(r) : !header_is_enough(r))) {
        int code = avformat_find_stream_info(r->format, NULL);
        if (code < 0) return fail_format(r, "cannot find out what is in it", code);
    }
    /* Plain PCM may be DTS in disguise, which FFmpeg looks for in as many bytes as this says, 5 ms a file. */
    r->format->probesize = 32;
    return CAVMAE_OK;
}

static void drop_early(cavmae__reader *r) {
    while (r->early_count > 0) av_packet_free(&r->early[--r->early_count]);
    r->early_next = 0;
}

void cavmae__reader_close(cavmae__reader *r) {
    avcodec_free_context(&r->codec);
    av_packet_free(&r->packet);
    drop_early(r);
    avformat_close_input(&r->format);
    if (r->io && r->source->data) {
        av_freep(&r->io->buffer);
        avio_context_free(&r->io);
    } else {
        avio_closep(&r->io);
    }
}

AVStream *cavmae__reader_track(const cavmae__reader *r, enum AVMediaType type) {
    for (unsigned i = 0; i < r->format->nb_streams; i++) {
        AVStream *stream = r->format->streams[i];
        if (stream->codecpar->codec_type == type && !(stream->disposition & AV_DISPOSITION_ATTACHED_PIC)) return stream;
    }
    return NULL;
}

#if LIBAVCODEC_VERSION_MAJOR >= 59
typedef size_t side_size;
#else
typedef int side_size;
#endif

static int keep_early(cavmae__reader *r) {
    AVPacket *kept = av_packet_alloc();
    if (!kept) return AVERROR(ENOMEM);
    av_packet_move_ref(kept, r->packet);
    r->early[r->early_count++] = kept;
    return 0;
}

/* When what `packet` holds is heard or seen, of AV_TIME_BASE: the first samples of some codecs are not to be heard.
 * AV_NOPTS_VALUE where it does not say. */
static int64_t packet_start(const AVStream *track, const AVPacket *packet) {
    side_size size = 0;
    int64_t time = packet->pts != AV_NOPTS_VALUE ? packet->pts : track->start_time;
    if (time == AV_NOPTS_VALUE) return time;
    time = av_rescale_q(time, track->time_base, AV_TIME_BASE_Q);
    const uint8_t *skip = av_packet_get_side_data(packet, AV_PKT_DATA_SKIP_SAMPLES, &size);
    if (skip && size >= 4 && track->codecpar->sample_rate > 0)
        time = av_sat_add64(time, av_rescale(AV_RL32(skip), AV_TIME_BASE, track->codecpar->sample_rate));
    return time;
}

/* Headers are silent on this, or tell it of tracks that nobody asked for. The tracks of a file lie side by side, in
 * order of time: one that has not come after so many packets of the other starts later. */
int cavmae__reader_start(cavmae__reader *r, int64_t *start) {
    AVStream *tracks[2] = {cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO), cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO)};
    int seen[2] = {!tracks[0], !tracks[1]}, packets = 0;
    int64_t first = AV_NOPTS_VALUE, bytes = 0;
    while (!(seen[0] && seen[1]) && packets++ < CAVMAE__MOST_EARLY && bytes < MOST_EARLY_BYTES) {
        int code = av_read_frame(r->format, r->packet);
        if (code == AVERROR(ENOMEM)) return code;
        if (code < 0) break;
        bytes += r->packet->size;
        for (int t = 0; t < 2; t++) {
            if (seen[t] || r->packet->stream_index != tracks[t]->index || r->packet->flags & AV_PKT_FLAG_DISCARD)
                continue;
            int64_t time = packet_start(tracks[t], r->packet);
            seen[t] = 1;
            if (time != AV_NOPTS_VALUE && (first == AV_NOPTS_VALUE || time < first)) first = time;
        }
        code = r->stream && r->packet->stream_index == r->stream->index ? keep_early(r) : 0;
        av_packet_unref(r->packet); /* nothing is left of one that was kept */
        if (code < 0) return code;
    }
    /* AV_NOPTS_VALUE is negative; other negative times are before what is to be heard. */
    *start = first > 0 && first < CAVMAE__LATEST ? first : 0;
    return 0;
}

cavmae_status cavmae__reader_open_track(cavmae__reader *r, enum AVMediaType type) {
    const char *what = type == AVMEDIA_TYPE_AUDIO ? "audio" : "video";
    r->stream = cavmae__reader_track(r, type);
    if (!r->stream) return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "no %s track", what);
    if (!cavmae__reader_is_still(r)) {
        int64_t start;
        int code = cavmae__reader_start(r, &start);
        if (code < 0) return cavmae__reader_fail_code(r, "cannot find out when it starts", code);
        r->zero = av_rescale_q(start, AV_TIME_BASE_Q, r->stream->time_base);
        if (r->zero < 0 || r->zero > CAVMAE__LATEST) r->zero = 0;
    }
    for (unsigned i = 0; i < r->format->nb_streams; i++)
        if (r->format->streams[i] != r->stream) r->format->streams[i]->discard = AVDISCARD_ALL;

    enum AVCodecID id = r->stream->codecpar->codec_id;
    const AVCodec *decoder = avcodec_find_decoder(id);
    if (!decoder)
        return cavmae__reader_fail(r, CAVMAE_E_UNSUPPORTED, "no decoder for its %s track (%s)", what,
                                   avcodec_get_name(id));
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
        if (r->early_next < r->early_count) {
            av_packet_move_ref(r->packet, r->early[r->early_next++]);
            r->packet_waits = 1;
            break;
        }
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
    drop_early(r);
    av_packet_unref(r->packet);
    r->packet_waits = 0;
    r->draining = 0;
    return 0;
}
