/* A page of pictures in rows and columns, with words below each. */
#ifndef EXAMPLE_SHEET_H
#define EXAMPLE_SHEET_H

#include "picture.h"

enum { SHEET_ROWS = 64 };

typedef struct sheet {
    picture page;
    int columns, width;                            /* of a cell's picture, pixels */
    int rows, top[SHEET_ROWS], height[SHEET_ROWS]; /* of the pictures of each row */
} sheet;

/* heights [rows] of each row's pictures; rows <= SHEET_ROWS. */
sheet new_sheet(int columns, int width, int rows, const int *heights);
void free_sheet(sheet *s);

enum { FRAME_NONE, FRAME_QUERY, FRAME_RIGHT };

/* The picture as large as it fits into the cell; with `stretch`, in both directions. Longer words are cut. */
void sheet_picture(sheet *s, int row, int column, const picture *p, int stretch, int frame);
void sheet_words(sheet *s, int row, int column, const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
