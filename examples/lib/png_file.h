/* RGB pictures as PNG files. */
#ifndef EXAMPLE_PNG_FILE_H
#define EXAMPLE_PNG_FILE_H

#include "picture.h"

/* End the program where that cannot be done. */
void write_png(const picture *p, const char *path);
picture read_png(const char *path); /* of any kind; what is transparent comes out black */

#endif
