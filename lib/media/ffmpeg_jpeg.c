/* JPEG's pixels to RGB with the arithmetic of libjpeg, because that is what the reference reads pictures with (by
 * way of Pillow): chroma interpolated linearly ("fancy upsampling", jdsample.c), then jdcolor.c's fixed point. Also
 * a good deal quicker than libswscale's accurate way. */
#include <libavutil/mem.h>

#include "ffmpeg_reader.h"

/* One row of chroma to twice its width, from the nearest row and the second nearest. */
static void widen_two_rows(const uint8_t *near, const uint8_t *far, int width, uint8_t *out) {
    int here = 3 * near[0] + far[0], last = here;
    for (int x = 0; x < width; x++) {
        int next = x + 1 < width ? 3 * near[x + 1] + far[x + 1] : here;
        out[2 * x] = (uint8_t)((3 * here + last + 8) >> 4);
        out[2 * x + 1] = (uint8_t)((3 * here + next + 7) >> 4);
        last = here;
        here = next;
    }
}

static void widen_row(const uint8_t *row, int width, uint8_t *out) {
    for (int x = 0; x < width; x++) {
        int last = row[x ? x - 1 : x], next = row[x + 1 < width ? x + 1 : x];
        out[2 * x] = (uint8_t)((3 * row[x] + last + 1) >> 2);
        out[2 * x + 1] = (uint8_t)((3 * row[x] + next + 2) >> 2);
    }
}

static uint8_t clip(int value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

static void convert_row(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int width, uint8_t *rgb) {
    enum {
        HALF = 1 << 15,
        RED = 91881,
        BLUE = 116130,
        GREEN_BLUE = 22554,
        GREEN_RED = 46802
    }; /* 1.402, 1.772, .34414, .71414 */
    for (int x = 0; x < width; x++, rgb += 3) {
        int y = luma[x], b = blue[x] - 128, r = red[x] - 128;
        rgb[0] = clip(y + ((RED * r + HALF) >> 16));
        rgb[1] = clip(y + ((HALF - GREEN_BLUE * b - GREEN_RED * r) >> 16));
        rgb[2] = clip(y + ((BLUE * b + HALF) >> 16));
    }
}

int cavmae__jpeg_to_rgb(const AVFrame *frame, uint8_t *rgb, ptrdiff_t stride) {
    int wide = frame->format == AV_PIX_FMT_YUVJ444P, tall = wide || frame->format == AV_PIX_FMT_YUVJ422P;
    if (!tall && frame->format != AV_PIX_FMT_YUVJ420P) return 0;
    int width = (frame->width + 1) / 2, height = (frame->height + 1) / 2; /* of chroma, where it is halved */
    uint8_t *widened = av_malloc_array((size_t)width, 4);
    if (!widened) return AVERROR(ENOMEM);
    for (int y = 0; y < frame->height; y++) {
        const uint8_t *chroma[2];
        for (int c = 0; c < 2; c++) {
            const uint8_t *plane = frame->data[1 + c];
            ptrdiff_t row = frame->linesize[1 + c];
            uint8_t *out = widened + (ptrdiff_t)c * 2 * width;
            int far = y % 2 ? y / 2 + 1 : y / 2 - 1;
            far = far < 0 ? 0 : far < height ? far : height - 1;
            chroma[c] = wide ? plane + y * row : out;
            if (wide) continue;
            if (tall)
                widen_row(plane + y * row, width, out);
            else
                widen_two_rows(plane + y / 2 * row, plane + far * row, width, out);
        }
        convert_row(frame->data[0] + (ptrdiff_t)y * frame->linesize[0], chroma[0], chroma[1], frame->width,
                    rgb + y * stride);
    }
    av_free(widened);
    return 1;
}
