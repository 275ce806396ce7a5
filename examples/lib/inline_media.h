/* Pictures and files as data: URIs, so that a page is one file. */
#ifndef EXAMPLE_INLINE_MEDIA_H
#define EXAMPLE_INLINE_MEDIA_H

#include <stdio.h>

#include "picture.h"

/* The data: URI of the picture as JPEG. */
void picture_address(FILE *html, const picture *p, int quality);

/* <img> with the picture as JPEG; `style` goes into its class. */
void inline_picture(FILE *html, const picture *p, const char *style, const char *description);

/* <audio> with the file's bytes. */
void inline_wav(FILE *html, const char *path);

#endif
