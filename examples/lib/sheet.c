#include "sheet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "drawing.h"

enum { GAP = 18, BELOW = 8, FRAME = 4 };

static const unsigned char white[3] = {255, 255, 255}, black[3] = {34, 34, 40};

static int left_of(const sheet *s, int column) { return GAP + column * (s->width + GAP); }

sheet new_sheet(int columns, int width, int rows, const int *heights) {
    sheet s = {.columns = columns, .width = width, .rows = rows};
    int y = GAP;
    for (int row = 0; row < rows; row++) {
        s.top[row] = y;
        s.height[row] = heights[row];
        y += heights[row] + BELOW + LETTER_HEIGHT + GAP;
    }
    s.page = new_picture(left_of(&s, columns), y, white);
    return s;
}

void free_sheet(sheet *s) { picture_free(&s->page); }

void sheet_picture(sheet *s, int row, int column, const picture *p, int stretch, int frame) {
    static const unsigned char frames[3][3] = {{0, 0, 0}, {60, 110, 200}, {30, 150, 70}};
    int width = s->width, height = s->height[row];
    if (!stretch && (long)p->width * height > (long)p->height * width)
        height = (int)((long)p->height * width / p->width);
    else if (!stretch)
        width = (int)((long)p->width * height / p->height);
    picture fitting = scaled_picture(p, width > 0 ? width : 1, height > 0 ? height : 1);
    int x = left_of(s, column) + (s->width - fitting.width) / 2, y = s->top[row] + s->height[row] - fitting.height;
    draw_picture(&s->page, x, y, &fitting);
    if (frame)
        draw_rectangle(&s->page, x - FRAME, y - FRAME, fitting.width + 2 * FRAME, fitting.height + 2 * FRAME, FRAME,
                       frames[frame]);
    picture_free(&fitting);
}

void sheet_words(sheet *s, int row, int column, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t most = (size_t)(s->width / LETTER_WIDTH);
    if (strlen(text) > most && most > 2) {
        text[most] = 0;
        text[most - 1] = text[most - 2] = '.';
    }
    draw_words(&s->page, left_of(s, column), s->top[row] + s->height[row] + BELOW, black, text);
}
