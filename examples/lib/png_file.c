#include "png_file.h"

#include <png.h>

#include "program.h"

void write_png(const picture *p, const char *path) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)p->width,
                       .height = (png_uint_32)p->height,
                       .format = PNG_FORMAT_RGB};
    if (!png_image_write_to_file(&image, path, 0, p->rgb, 0, NULL)) die("cannot write %s: %s", path, image.message);
}

picture read_png(const char *path) {
    enum { MOST_PIXELS = 1 << 28 };
    static const png_color black = {0, 0, 0};
    png_image image = {.version = PNG_IMAGE_VERSION};
    picture p;
    if (!png_image_begin_read_from_file(&image, path)) die("cannot read %s: %s", path, image.message);
    image.format = PNG_FORMAT_RGB;
    if (image.height > MOST_PIXELS / image.width)
        die("%s: %u x %u pixels are too many", path, (unsigned)image.width, (unsigned)image.height);
    if (!picture_create(&p, (int)image.width, (int)image.height)) die("no memory for %s", path);
    if (!png_image_finish_read(&image, &black, p.rgb, 0, NULL)) die("cannot read %s: %s", path, image.message);
    return p;
}
