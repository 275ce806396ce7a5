/* The frames of a video at given times, as RGB. */
#include <libavutil/common.h>
#include <libavutil/imgutils.h>
#include <libavutil/mathematics.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <string.h>

#include "ffmpeg_reader.h"

typedef struct viewer {
    cavmae__reader r;
    AVFrame *shown, *ahead;   /* the frame to show, and the one decoded after it */
    int has_shown, has_ahead; /* which of them are filled */
    int ended;                /* nothing comes after `ahead` */
    int still;
    double near; /* seconds ahead up to which decoding on is taken to be quicker than a seek */

    struct SwsContext *scaler;
    uint8_t *rgb; /* `shown`, upright; NULL: not yet converted */
    int width, height, stride;
} viewer;

/* ---- Orientation ---- */

/* A display matrix maps stored to shown positions: x' = a x + c y, y' = b x + d y. Only its signs and which of a and
 * c is the larger are used: the eight ways to lay a picture down. */
typedef struct orientation {
    int turned, flip_x, flip_y; /* x and y swap places; then, does x' run against its source, and y'? */
} orientation;

static orientation orientation_of(const int32_t *matrix) {
    if (!matrix) return (orientation){0, 0, 0};
    int64_t a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
    if (llabs(c) > llabs(a)) return (orientation){1, c < 0, b < 0};
    return (orientation){0, a < 0, d < 0};
}

static const int32_t *track_matrix(const AVStream *stream) {
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 31, 102)
    const AVPacketSideData *side = av_packet_side_data_get(
        stream->codecpar->coded_side_data, stream->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
    return side ? (const int32_t *)side->data : NULL;
#else
    return (const int32_t *)av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, NULL);
#endif
}

/* Pictures carry their own (JPEG's Exif), videos the track's. */
static orientation frame_orientation(const AVStream *stream, const AVFrame *frame) {
    const AVFrameSideData *side = frame ? av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX) : NULL;
    return orientation_of(side ? (const int32_t *)side->data : track_matrix(stream));
}

int cavmae__is_turned(const AVStream *stream, const AVFrame *frame) { return frame_orientation(stream, frame).turned; }

/* Lays the picture [height, width, 3] at v->rgb down as `o` says, in new memory. */
static cavmae_status lay_upright(viewer *v, orientation o) {
    int width = o.turned ? v->height : v->width, height = o.turned ? v->width : v->height;
    uint8_t *upright = av_malloc_array((size_t)width * (size_t)height, 3), *to = upright;
    if (!upright) return cavmae__reader_fail_code(&v->r, "cannot turn a frame", AVERROR(ENOMEM));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, to += 3) {
            int along_x = o.flip_x ? width - 1 - x : x, along_y = o.flip_y ? height - 1 - y : y;
            ptrdiff_t row = o.turned ? along_x : along_y, column = o.turned ? along_y : along_x;
            memcpy(to, v->rgb + row * v->stride + 3 * column, 3);
        }
    av_free(v->rgb);
    v->rgb = upright;
    v->width = width;
    v->height = height;
    v->stride = 3 * width;
    return CAVMAE_OK;
}

/* ---- Colour ---- */

/* The formats that say "full range" in their name are deprecated: the same without. */
static enum AVPixelFormat plain_format(enum AVPixelFormat format, int *full_range) {
    enum AVPixelFormat plain;
    switch (format) {
    case AV_PIX_FMT_YUVJ420P: plain = AV_PIX_FMT_YUV420P; break;
    case AV_PIX_FMT_YUVJ422P: plain = AV_PIX_FMT_YUV422P; break;
    case AV_PIX_FMT_YUVJ444P: plain = AV_PIX_FMT_YUV444P; break;
    case AV_PIX_FMT_YUVJ440P: plain = AV_PIX_FMT_YUV440P; break;
    case AV_PIX_FMT_YUVJ411P: plain = AV_PIX_FMT_YUV411P; break;
    default: return format;
    }
    *full_range = 1;
    return plain;
}

/* Videos as the ffmpeg program and OpenCV convert them, which is what the reference cut its training frames with:
 * quick, 1.3 levels darker than exact on x86, with chroma not interpolated. Still pictures as Pillow reads them, to
 * rounding. */
static cavmae_status scale(viewer *v) {
    const AVFrame *frame = v->shown;
    int full_range = frame->color_range == AVCOL_RANGE_JPEG;
    enum AVPixelFormat format = plain_format(frame->format, &full_range);
    uint8_t *const plane[4] = {v->rgb};
    const int stride[4] = {v->stride};
    int flags = v->still ? SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT : SWS_BICUBIC;
    v->scaler = sws_getCachedContext(v->scaler, frame->width, frame->height, format, frame->width, frame->height,
                                     AV_PIX_FMT_RGB24, flags, NULL, NULL, NULL);
    if (!v->scaler) return cavmae__reader_fail(&v->r, CAVMAE_E_MEDIA, "its pixels cannot be converted to RGB");
    /* A stream that does not name its matrix is taken for BT.601, whatever its size: as ffmpeg does. */
    sws_setColorspaceDetails(v->scaler, sws_getCoefficients(frame->colorspace), full_range,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    sws_scale(v->scaler, (const uint8_t *const *)frame->data, frame->linesize, 0, frame->height, plane, stride);
    return CAVMAE_OK;
}

/* `shown` to `rgb`. */
static cavmae_status convert(viewer *v) {
    const AVFrame *frame = v->shown;
    uint8_t *plane[4] = {NULL};
    int stride[4] = {0}, done = 0;
    if (av_image_alloc(plane, stride, frame->width, frame->height, AV_PIX_FMT_RGB24, 64) < 0)
        return cavmae__reader_fail_code(&v->r, "cannot convert a frame", AVERROR(ENOMEM));
    v->rgb = plane[0];
    v->width = frame->width;
    v->height = frame->height;
    v->stride = stride[0];

    if (v->still && v->r.codec->codec_id == AV_CODEC_ID_MJPEG) done = cavmae__jpeg_to_rgb(frame, v->rgb, v->stride);
    if (done < 0) return cavmae__reader_fail_code(&v->r, "cannot convert a frame", done);
    cavmae_status status = done ? CAVMAE_OK : scale(v);
    orientation o = frame_orientation(v->r.stream, frame);
    if (status == CAVMAE_OK && (o.turned || o.flip_x || o.flip_y)) status = lay_upright(v, o);
    return status;
}

/* ---- Time ---- */

static int64_t time_of(const AVFrame *frame) { return frame->best_effort_timestamp; }

/* A frame that does not say when it is shown (raw H.264) follows the one before it. */
static int64_t frame_ticks(const viewer *v) {
    AVRational rate = av_guess_frame_rate(v->r.format, v->r.stream, v->ahead);
    if (rate.num < 1 || rate.den < 1) return 1;
    return av_rescale_q(1, av_inv_q(rate), v->r.stream->time_base);
}

/* Decodes `ahead`. */
static cavmae_status advance(viewer *v) {
    int code = cavmae__reader_frame(&v->r, v->ahead);
    if (code < 0) return cavmae__reader_fail_code(&v->r, "cannot decode its frames", code);
    v->has_ahead = code;
    v->ended = !code;
    if (code && time_of(v->ahead) == AV_NOPTS_VALUE)
        v->ahead->best_effort_timestamp = v->has_shown ? av_sat_add64(time_of(v->shown), frame_ticks(v)) : v->r.zero;
    return CAVMAE_OK;
}

/* Timestamp of the last key frame at or before `target` that the file's index knows. */
static int64_t key_frame_before(const cavmae__reader *r, int64_t target) {
#if LIBAVFORMAT_VERSION_MAJOR >= 59
    const AVIndexEntry *entry = avformat_index_get_entry_from_timestamp(r->stream, target, AVSEEK_FLAG_BACKWARD);
    return entry ? entry->timestamp : AV_NOPTS_VALUE;
#else
    int entry = av_index_search_timestamp(r->stream, target, AVSEEK_FLAG_BACKWARD);
    return entry < 0 ? AV_NOPTS_VALUE : r->stream->index_entries[entry].timestamp;
#endif
}

static int64_t position(const viewer *v) {
    return v->has_ahead ? time_of(v->ahead) : v->has_shown ? time_of(v->shown) : v->r.zero;
}

static int worth_seeking(const viewer *v, int64_t target) {
    int64_t here = position(v);
    if (v->still || v->ended || isinf(v->near) || target <= here) return 0;
    int64_t key = key_frame_before(&v->r, target);
    if (key != AV_NOPTS_VALUE && key > here) return 1;
    return ((double)target - (double)here) * av_q2d(v->r.stream->time_base) > v->near;
}

/* Goes to a key frame from which decoding reaches `target`, and decodes it. Where a key frame is shown after the
 * time by which it was found (B-frames), or cannot be decoded (a file cut short), goes further back. */
static cavmae_status seek(viewer *v, int64_t target) {
    int64_t here = position(v), back = 0, step = (int64_t)(1 / av_q2d(v->r.stream->time_base)) + 1;
    for (;;) {
        int64_t to = target - v->r.zero > back ? target - back : v->r.zero;
        if (cavmae__reader_seek(&v->r, to) < 0) return CAVMAE_OK; /* then forward from where we are */
        av_frame_unref(v->ahead);
        cavmae_status status = advance(v);
        if (status != CAVMAE_OK) return status;
        if (to == v->r.zero || (v->has_ahead && time_of(v->ahead) <= target)) break;
        back = back ? 4 * back : step;
    }
    if (position(v) <= here) v->near *= 2; /* key frames are that far apart: it was no gain */
    return CAVMAE_OK;
}

/* Makes `shown` the first frame at or after `target`, or the last one if there is none. */
static cavmae_status show(viewer *v, int64_t target) {
    cavmae_status status = CAVMAE_OK;
    if (worth_seeking(v, target)) status = seek(v, target);
    while (status == CAVMAE_OK && !(v->has_shown && (v->still || time_of(v->shown) >= target))) {
        if (!v->has_ahead) {
            if (!v->ended) status = advance(v);
            if (!v->has_ahead) break;
        }
        AVFrame *old = v->shown;
        v->shown = v->ahead;
        v->ahead = old;
        av_frame_unref(v->ahead);
        v->has_shown = 1;
        v->has_ahead = 0;
        av_freep(&v->rgb);
    }
    if (status != CAVMAE_OK || v->has_shown) return status;
    return v->r.damage ? cavmae__reader_fail_code(&v->r, "none of its frames can be decoded", v->r.damage)
                       : cavmae__reader_fail(&v->r, CAVMAE_E_MEDIA, "its video track is empty");
}

/* A microsecond of tolerance: sums of frame times are a little off. */
static int64_t timestamp_of(const viewer *v, double seconds) {
    double ticks = ceil((seconds - 1e-6) / av_q2d(v->r.stream->time_base));
    int64_t timestamp;
    if (!(ticks > 0)) return v->r.zero;
    if (!(ticks < 0x1p62) || __builtin_add_overflow(v->r.zero, (int64_t)ticks, &timestamp)) return INT64_MAX / 2;
    return timestamp;
}

/* Do packets say when they are shown? Raw streams' do not. */
static int has_times(const cavmae__reader *r) {
    return !r->early_count || r->early[0]->pts != AV_NOPTS_VALUE || r->early[0]->dts != AV_NOPTS_VALUE;
}

cavmae_status cavmae__decode_pictures(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                      cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size) {
    viewer v = {0};
    (void)user;
    cavmae_status status = cavmae__reader_open(&v.r, source, 0, error, error_size);
    if (status == CAVMAE_OK) status = cavmae__reader_open_track(&v.r, AVMEDIA_TYPE_VIDEO);
    if (status == CAVMAE_OK) {
        v.still = cavmae__reader_is_still(&v.r);
        v.near = has_times(&v.r) ? 1 : INFINITY; /* without, nobody knows where a seek ends */
        v.shown = av_frame_alloc();
        v.ahead = av_frame_alloc();
        if (!v.shown || !v.ahead) status = cavmae__reader_fail_code(&v.r, "cannot decode", AVERROR(ENOMEM));
    }
    for (int32_t i = 0; i < count && status == CAVMAE_OK; i++) {
        status = show(&v, timestamp_of(&v, seconds[i]));
        if (status == CAVMAE_OK && !v.rgb) status = convert(&v);
        if (status != CAVMAE_OK) break;
        status = sink(sink_arg, i, v.rgb, v.width, v.height, v.stride);
        if (status != CAVMAE_OK) cavmae__reader_fail(&v.r, status, "its frames were refused");
    }
    sws_freeContext(v.scaler);
    av_free(v.rgb);
    av_frame_free(&v.shown);
    av_frame_free(&v.ahead);
    cavmae__reader_close(&v.r);
    return status;
}
