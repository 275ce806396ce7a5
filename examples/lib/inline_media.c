#define _GNU_SOURCE
#include "inline_media.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

enum { QUALITY = 92 };

static void write_base64(FILE *html, const unsigned char *data, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        size_t have = size - i < 3 ? size - i : 3;
        unsigned bits = 0;
        for (size_t k = 0; k < 3; k++) bits = bits << 8 | (k < have ? data[i + k] : 0);
        for (size_t k = 0; k < 4; k++) fputc(k <= have ? digits[bits >> (18 - 6 * k) & 63] : '=', html);
    }
}

void picture_address(FILE *html, const picture *p, int quality) {
    unsigned char *data;
    size_t size;
    if (!picture_encode_jpeg(p, quality, &data, &size)) die("no memory for a picture");
    fputs("data:image/jpeg;base64,", html);
    write_base64(html, data, size);
    free(data);
}

void inline_picture(FILE *html, const picture *p, const char *style, const char *description) {
    fprintf(html, "<img class=\"%s\" width=\"%d\" height=\"%d\" alt=\"%s\" src=\"", style, p->width, p->height,
            description);
    picture_address(html, p, QUALITY);
    fputs("\">", html);
}

void inline_wav(FILE *html, const char *path) {
    unsigned char part[3 * 4096]; /* a multiple of 3: only the last part may need filling up */
    size_t size;
    FILE *file = fopen(path, "rb");
    if (!file) die("cannot read %s: %s", path, strerror(errno));
    fputs("<audio controls preload=\"none\" src=\"data:audio/wav;base64,", html);
    while ((size = fread(part, 1, sizeof part, file)) > 0) write_base64(html, part, size);
    if (ferror(file)) die("cannot read %s: %s", path, strerror(errno));
    fclose(file);
    fputs("\"></audio>", html);
}
