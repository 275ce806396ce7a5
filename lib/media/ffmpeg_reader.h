/* One track of one media file, as decoded frames. Nothing here is shared between calls, so any number of readers may
 * be at work in different threads. */
#ifndef CAVMAE_MEDIA_FFMPEG_READER_H
#define CAVMAE_MEDIA_FFMPEG_READER_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "cavmae.h"

enum { CAVMAE__MOST_EARLY = 256 };

/* No timestamp is later, in whatever unit, but a lie: sums of a few do not overflow. */
#define CAVMAE__LATEST (INT64_MAX / 16)

typedef struct cavmae__reader {
    const cavmae_source *source;
    size_t place; /* in the source's memory: what is read next */
    char *error;  /* the caller's, for a sentence */
    size_t error_size;

    AVIOContext *io;
    AVFormatContext *format;
    AVClass format_class; /* of `format`: one that does not write to the terminal */
    AVStream *stream;     /* the track, once cavmae__reader_open_track found one */
    int64_t zero;         /* the start of the file, in the track's time base */
    AVCodecContext *codec;
    AVPacket *packet;
    int packet_waits;                    /* packet was read and not yet sent to the decoder */
    AVPacket *early[CAVMAE__MOST_EARLY]; /* packets that were read to find out when the file starts */
    int early_count, early_next;
    int draining; /* all packets were sent */
    int damage;   /* the last FFmpeg error that was passed over; 0: none */
} cavmae__reader;

/* Puts "name: sentence" into error and returns status. */
cavmae_status cavmae__reader_fail(const cavmae__reader *r, cavmae_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an FFmpeg error, in its words. */
cavmae_status cavmae__reader_fail_code(const cavmae__reader *r, const char *what, int code);

/* `describe` 1: find out rate, channels, size and length even where that means decoding a little. Close in any case. */
cavmae_status cavmae__reader_open(cavmae__reader *r, const cavmae_source *source, int describe, char *error,
                                  size_t error_size);
void cavmae__reader_close(cavmae__reader *r);

/* The first track of a type; cover art is none. NULL if there is none. */
AVStream *cavmae__reader_track(const cavmae__reader *r, enum AVMediaType type);
cavmae_status cavmae__reader_open_track(cavmae__reader *r, enum AVMediaType type);
int cavmae__reader_is_still(const cavmae__reader *r);

/* Reads the track's next packet, unless one waits already. An FFmpeg error code. */
int cavmae__reader_packet(cavmae__reader *r);
/* When the file starts, of AV_TIME_BASE: when the first of its sound and pictures does. Reads ahead where no header
 * says it, and keeps what it reads of `stream`. An FFmpeg error code. */
int cavmae__reader_start(cavmae__reader *r, int64_t *start);
/* The track's next frame: 1; 0 at the end; or the code of an error that cannot be passed over (no memory). What
 * cannot be decoded is left out and its error kept in `damage`. */
int cavmae__reader_frame(cavmae__reader *r, AVFrame *frame);
/* To the last key frame at or before `timestamp`, of the track's time base. An FFmpeg error code: nothing has moved. */
int cavmae__reader_seek(cavmae__reader *r, int64_t timestamp);

/* cavmae_decoder.frames */
cavmae_status cavmae__decode_pictures(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                                      cavmae_frame_sink *sink, void *sink_arg, char *error, size_t error_size);
/* cavmae_decoder.probe */
cavmae_status cavmae__describe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                               size_t error_size);
/* cavmae_decoder.audio */
cavmae_status cavmae__decode_sound(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *sink_arg,
                                   char *error, size_t error_size);
/* A frame of a JPEG picture to rgb. 1; 0 where its pixels are laid out in an unusual way; or an FFmpeg error code. */
int cavmae__jpeg_to_rgb(const AVFrame *frame, uint8_t *rgb, ptrdiff_t stride);

/* 1 when pictures are to be turned by a quarter, which swaps width and height: as the track says, or the frame (may be
 * NULL) by itself. */
int cavmae__is_turned(const AVStream *stream, const AVFrame *frame);

/* FFmpeg 5.1 (libavutil 57.28) put the number of channels into a layout. */
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 28, 100)
#define CAVMAE__CHANNELS(of) ((of)->ch_layout.nb_channels)
#else
#define CAVMAE__CHANNELS(of) ((of)->channels)
#endif

#endif
