#include "picture.h"

#include <math.h>
#include <stdio.h> /* jpeglib.h needs it first */
#include <stdlib.h>

#include <jpeglib.h>

int picture_create(picture *p, int width, int height) {
    p->width = width;
    p->height = height;
    p->rgb = calloc((size_t)width * (size_t)height, 3);
    return p->rgb != NULL;
}

void picture_free(picture *p) {
    free(p->rgb);
    p->rgb = NULL;
}

void picture_fill(picture *p, const unsigned char colour[3]) {
    for (int i = 0; i < p->width * p->height * 3; i++) p->rgb[i] = colour[i % 3];
}

/* ---- Shapes ---- */

/* Mixes the colour into pixel (x, y), whose centre lies `distance` pixels outside of the edge (negative: inside). */
static void paint(picture *p, int x, int y, double distance, const unsigned char colour[3]) {
    double cover = fmin(fmax(0.5 - distance, 0), 1);
    unsigned char *pixel = p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    for (int c = 0; c < 3; c++) pixel[c] = (unsigned char)lround(pixel[c] + cover * (colour[c] - pixel[c]));
}

static int clamp(double value, int limit) { return (int)fmin(fmax(value, 0), limit); }

void picture_circle(picture *p, double x, double y, double radius, const unsigned char colour[3]) {
    int right = clamp(x + radius + 2, p->width), bottom = clamp(y + radius + 2, p->height);
    for (int row = clamp(y - radius - 1, bottom); row < bottom; row++)
        for (int column = clamp(x - radius - 1, right); column < right; column++)
            paint(p, column, row, hypot(column + 0.5 - x, row + 0.5 - y) - radius, colour);
}

/* Distance from a polygon's edge, negative inside: the nearest side, and the parity of sides that a ray crosses. */
static double polygon_distance(const double (*corners)[2], int count, double x, double y) {
    double nearest = INFINITY;
    int inside = 0;
    for (int i = 0, j = count - 1; i < count; j = i++) {
        double side_x = corners[j][0] - corners[i][0], side_y = corners[j][1] - corners[i][1];
        double from_x = x - corners[i][0], from_y = y - corners[i][1];
        double along = (from_x * side_x + from_y * side_y) / (side_x * side_x + side_y * side_y);
        along = fmin(fmax(along, 0), 1);
        nearest = fmin(nearest, hypot(from_x - along * side_x, from_y - along * side_y));
        if ((corners[i][1] > y) != (corners[j][1] > y) && from_x < from_y * side_x / side_y) inside = !inside;
    }
    return inside ? -nearest : nearest;
}

void picture_polygon(picture *p, const double (*corners)[2], int count, const unsigned char colour[3]) {
    double left = INFINITY, top = INFINITY, right = -INFINITY, bottom = -INFINITY;
    for (int i = 0; i < count; i++) {
        left = fmin(left, corners[i][0]);
        right = fmax(right, corners[i][0]);
        top = fmin(top, corners[i][1]);
        bottom = fmax(bottom, corners[i][1]);
    }
    int end_row = clamp(bottom + 2, p->height), end_column = clamp(right + 2, p->width);
    for (int row = clamp(top - 1, end_row); row < end_row; row++)
        for (int column = clamp(left - 1, end_column); column < end_column; column++)
            paint(p, column, row, polygon_distance(corners, count, column + 0.5, row + 0.5), colour);
}

/* ---- JPEG ---- */

/* Into memory nothing but the memory can fail; libjpeg's own handler then ends the program with a message. */
int picture_encode_jpeg(const picture *p, int quality, unsigned char **data, size_t *size) {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned long length = 0;
    *data = NULL;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, data, &length);
    jpeg.image_width = (JDIMENSION)p->width;
    jpeg.image_height = (JDIMENSION)p->height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
        JSAMPROW row = p->rgb + (size_t)jpeg.next_scanline * (size_t)p->width * 3;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    *size = length;
    return *data != NULL;
}
