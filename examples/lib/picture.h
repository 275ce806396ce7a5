/* RGB pictures for the example programs: smooth-edged shapes, and JPEG. */
#ifndef CAVMAE_EXAMPLES_PICTURE_H
#define CAVMAE_EXAMPLES_PICTURE_H

#include <stddef.h>

typedef struct picture {
    int width, height;
    unsigned char *rgb; /* [height, width, 3] */
} picture;

/* Functions that return int give 1, or 0 where memory or disk has no room. */
int picture_create(picture *p, int width, int height);
void picture_free(picture *p);
void picture_fill(picture *p, const unsigned char colour[3]);

/* In pixels; (0, 0) is the upper left corner of the first one. */
void picture_circle(picture *p, double x, double y, double radius, const unsigned char colour[3]);
void picture_polygon(picture *p, const double (*corners)[2], int count, const unsigned char colour[3]);

/* *data is for free(). */
int picture_encode_jpeg(const picture *p, int quality, unsigned char **data, size_t *size);

#endif
