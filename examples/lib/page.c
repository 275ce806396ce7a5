#define _GNU_SOURCE
#include "page.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "page_style.h"
#include "program.h"

FILE *open_page(const char *path, const char *title) {
    FILE *html = fopen(path, "w");
    if (!html) die("cannot write %s: %s", path, strerror(errno));
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
          "content=\"width=device-width,initial-scale=1\"><title>",
          html);
    write_text(html, title);
    fprintf(html, "</title>\n<style>\n%s", page_style);
    return html;
}

void page_body(FILE *html) { fputs("</style></head>\n<body>\n", html); }

void close_page(FILE *html, const char *path) {
    fputs("</body></html>\n", html);
    int broken = ferror(html);
    if (fclose(html) != 0 || broken) die("cannot write %s", path);
}

/* ---- Text ---- */

/* Bytes of the UTF-8 character at `text`; 0: it is none, or a control character, which HTML has no place for. */
static int character(const unsigned char *text) {
    const int bytes = text[0] < 0x80   ? 1
                      : text[0] < 0xC2 ? 0
                      : text[0] < 0xE0 ? 2
                      : text[0] < 0xF0 ? 3
                      : text[0] < 0xF5 ? 4
                                       : 0;
    if (bytes == 1) return text[0] >= 0x20 && text[0] != 0x7F;
    for (int i = 1; i < bytes; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    if ((text[0] == 0xC2 && text[1] < 0xA0) || (text[0] == 0xE0 && text[1] < 0xA0) ||
        (text[0] == 0xED && text[1] > 0x9F) || (text[0] == 0xF0 && text[1] < 0x90) ||
        (text[0] == 0xF4 && text[1] > 0x8F))
        return 0; /* control characters of Latin-1, too long a form, halves of pairs, beyond Unicode */
    return bytes;
}

void write_text(FILE *html, const char *text) {
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        const int bytes = character(at);
        if (bytes == 0)
            fputs("\xEF\xBF\xBD", html); /* the replacement character */
        else if (strchr("<>&\"'", *at))
            fprintf(html, "&#%d;", *at);
        else
            fwrite(at, 1, (size_t)bytes, html);
        at += bytes ? bytes : 1;
    }
}

/* ---- Addresses ---- */

/* The folder of a file that need not be there, without symbolic links, and with '/' at its end; to be freed. */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path + 1)) : strdup("."), *whole, *out;
    if (!folder) die("no memory");
    whole = realpath(folder, NULL);
    if (!whole) die("cannot find %s: %s", folder, strerror(errno));
    if (asprintf(&out, "%s%s", whole, whole[1] ? "/" : "") < 0) die("no memory");
    free(folder);
    free(whole);
    return out;
}

/* All but letters, digits and a few is written as %XX. */
static void write_path(FILE *html, const char *path) {
    for (const unsigned char *at = (const unsigned char *)path; *at; at++) {
        if ((*at >= '0' && *at <= '9') || ((*at | 32) >= 'a' && (*at | 32) <= 'z') || strchr("/-._~", *at))
            fputc(*at, html);
        else
            fprintf(html, "%%%02X", *at);
    }
}

void write_address(FILE *html, const char *path, const char *file) {
    char *from = folder_of(path), *to = folder_of(file);
    const char *name = strrchr(file, '/');
    size_t same = 0; /* bytes of the folders that both lie in */
    for (size_t i = 0; from[i] && from[i] == to[i]; i++)
        if (from[i] == '/') same = i + 1;
    for (const char *up = from + same; *up; up++)
        if (*up == '/') fputs("../", html);
    write_path(html, to + same);
    write_path(html, name ? name + 1 : file);
    free(from);
    free(to);
}
