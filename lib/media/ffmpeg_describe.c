/* What is in a file, and how long it is. */
#include <libavutil/common.h>
#include <libavutil/mathematics.h>
#include <stdlib.h>

#include "ffmpeg_reader.h"

enum {
    TAIL = AV_TIME_BASE,      /* before the claimed end, where packets are looked at */
    AGREE = AV_TIME_BASE / 10 /* between a claim and the packets, for a last one that does not say how long it lasts */
};

/* What packets tell. */
typedef struct measure {
    int64_t end;     /* of the last packet to end, in AV_TIME_BASE; AV_NOPTS_VALUE: there was none */
    int64_t packets; /* of the first video track */
    /* Of the audio and the video track, in its time base: */
    int64_t last[2];    /* when the last packet starts; AV_NOPTS_VALUE: there was none */
    int64_t untimed[2]; /* when the next packet without timestamp starts */
} measure;

/* How long a packet lasts, in its track's time base, and where the one before it started. Without a look into packets
 * FFmpeg takes some codecs' (Opus) for longer than they are, but sound has no gap between two. */
static int64_t lasts(const cavmae__reader *r, AVStream *track, const AVPacket *packet, int64_t time, int64_t before) {
    AVRational rate = av_guess_frame_rate(r->format, track, NULL);
    int64_t count = packet->duration;
    if (track->codecpar->codec_type == AVMEDIA_TYPE_AUDIO)
        return before != AV_NOPTS_VALUE && time > before ? FFMIN(av_sat_sub64(time, before), count) : count;
    return count > 0 || rate.num < 1 || rate.den < 1 ? count : av_rescale_q(1, av_inv_q(rate), track->time_base);
}

static void add_packet(cavmae__reader *r, AVStream *track, int t, measure *m) {
    const AVPacket *packet = r->packet;
    int64_t time = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
    if (time == AV_NOPTS_VALUE) time = m->untimed[t];
    int64_t end = av_sat_add64(time, lasts(r, track, packet, time, m->last[t]));
    m->last[t] = time;
    m->untimed[t] = end;
    if (packet->flags & AV_PKT_FLAG_DISCARD) return;
    end = av_rescale_q(end, track->time_base, AV_TIME_BASE_Q);
    if (m->end == AV_NOPTS_VALUE || end > m->end) m->end = end;
}

/* Reads on to the end of the file. */
static void read_to_end(cavmae__reader *r, measure *m) {
    AVStream *tracks[2] = {cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO), cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO)};
    *m = (measure){.end = AV_NOPTS_VALUE, .last = {AV_NOPTS_VALUE, AV_NOPTS_VALUE}};
    for (; av_read_frame(r->format, r->packet) >= 0; av_packet_unref(r->packet)) {
        for (int t = 0; t < 2; t++)
            if (tracks[t] && r->packet->stream_index == tracks[t]->index) add_packet(r, tracks[t], t, m);
        m->packets += tracks[1] && r->packet->stream_index == tracks[1]->index;
    }
}

static void listen_to_first_tracks(cavmae__reader *r) {
    for (unsigned i = 0; i < r->format->nb_streams; i++) {
        const AVStream *stream = r->format->streams[i];
        if (stream != cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO) &&
            stream != cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO))
            r->format->streams[i]->discard = AVDISCARD_ALL;
    }
}

/* A header's claim is held against the packets near its end: the file may have been cut short, or written on. Where
 * they do not bear it out, or there is no claim, all packets are read. */
static cavmae_status find_length(cavmae__reader *r, const cavmae_source *source, cavmae_media_info *info) {
    int64_t claim = r->format->duration, start;
    measure m = {.end = AV_NOPTS_VALUE};
    int code = cavmae__reader_start(r, &start);
    if (code < 0) return cavmae__reader_fail_code(r, "cannot find out when it starts", code);
    int guessed = r->format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE;
    if (guessed || claim < 0 || claim > CAVMAE__LATEST) claim = AV_NOPTS_VALUE;
    listen_to_first_tracks(r);
    if (claim != AV_NOPTS_VALUE) {
        int64_t near_end = start + (claim > TAIL ? claim - TAIL : 0);
        if (avformat_seek_file(r->format, -1, INT64_MIN, near_end, near_end, 0) >= 0) read_to_end(r, &m);
    }
    int borne_out = m.end != AV_NOPTS_VALUE && llabs(av_sat_sub64(m.end, start + claim)) <= AGREE;
    if (!borne_out && (r->io->seekable & AVIO_SEEKABLE_NORMAL)) {
        cavmae__reader_close(r);
        cavmae_status status = cavmae__reader_open(r, source, 1, r->error, r->error_size);
        if (status != CAVMAE_OK) return status;
        listen_to_first_tracks(r);
        read_to_end(r, &m);
        info->still = m.packets == 1 && !info->audio_channels; /* a GIF with one picture in it, say */
        if (info->still) return CAVMAE_OK;
        if (m.end > start) claim = m.end - start;
    }
    info->seconds = claim == AV_NOPTS_VALUE ? 0 : (double)claim / AV_TIME_BASE;
    return CAVMAE_OK;
}

/* A still image is decoded: headers do not say how large it is, nor that it lies on its side (Exif). */
static cavmae_status describe_still(cavmae__reader *r, cavmae_media_info *info) {
    AVFrame *frame = NULL;
    cavmae_status status = cavmae__reader_open_track(r, AVMEDIA_TYPE_VIDEO);
    if (status != CAVMAE_OK) return status;
    if (!(frame = av_frame_alloc())) return cavmae__reader_fail_code(r, "cannot decode it", AVERROR(ENOMEM));
    int code = cavmae__reader_frame(r, frame);
    if (code > 0) {
        int turned = cavmae__is_turned(r->stream, frame);
        info->width = turned ? frame->height : frame->width;
        info->height = turned ? frame->width : frame->height;
        info->still = 1;
    }
    av_frame_free(&frame);
    if (code > 0) return CAVMAE_OK;
    return cavmae__reader_fail_code(r, "the picture cannot be decoded", code ? code : r->damage);
}

static cavmae_status describe(cavmae__reader *r, const cavmae_source *source, cavmae_media_info *info) {
    if (cavmae__reader_is_still(r)) return describe_still(r, info);
    const AVStream *audio = cavmae__reader_track(r, AVMEDIA_TYPE_AUDIO);
    AVStream *video = cavmae__reader_track(r, AVMEDIA_TYPE_VIDEO);
    if (audio) {
        info->audio_channels = CAVMAE__CHANNELS(audio->codecpar);
        /* Headers may tell the rate of what was encoded; Opus always decodes to 48 kHz. */
        info->audio_rate = audio->codecpar->codec_id == AV_CODEC_ID_OPUS ? 48000 : audio->codecpar->sample_rate;
    }
    if (video) {
        int turned = cavmae__is_turned(video, NULL);
        info->width = turned ? video->codecpar->height : video->codecpar->width;
        info->height = turned ? video->codecpar->width : video->codecpar->height;
    }
    if (info->audio_channels < 1) info->audio_channels = info->audio_rate = 0;
    if (info->width < 1 || info->height < 1) info->width = info->height = 0;
    if (!info->audio_channels && !info->width)
        return cavmae__reader_fail(r, CAVMAE_E_MEDIA, "neither sound nor pictures in it");
    AVRational rate = video ? av_guess_frame_rate(r->format, video, NULL) : (AVRational){0, 1};
    cavmae_status status = find_length(r, source, info);
    if (status == CAVMAE_OK && !info->still && rate.num > 0 && rate.den > 0) info->frame_rate = av_q2d(rate);
    return status;
}

cavmae_status cavmae__describe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                               size_t error_size) {
    cavmae__reader r;
    (void)user;
    cavmae_status status = cavmae__reader_open(&r, source, 1, error, error_size);
    if (status == CAVMAE_OK) status = describe(&r, source, info);
    cavmae__reader_close(&r);
    return status;
}
