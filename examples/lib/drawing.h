/* What pictures for people are put together from: colours for numbers, scaled pictures, frames and words. */
#ifndef EXAMPLE_DRAWING_H
#define EXAMPLE_DRAWING_H

#include "picture.h"

/* x in [0, 1], cut there, to a byte. */
unsigned char to_byte(double x);

/* From black over violet and orange to pale yellow, as x goes from 0 to 1. */
void heat_colour(double x, unsigned char rgb[3]);

/* New pictures; where there is no memory the program ends. */
picture new_picture(int width, int height, const unsigned char colour[3]);
/* With a triangle as wide as a pixel of the coarser of both: smooth when enlarged, without ripples when reduced. */
picture scaled_picture(const picture *p, int width, int height);

/* Draw at (x, y), cut off where the page ends. */
void draw_picture(picture *page, int x, int y, const picture *p);
void draw_rectangle(picture *page, int x, int y, int width, int height, int thickness, const unsigned char colour[3]);

/* Words in letters of 10 x 16 pixels, 12 apart; what is not ASCII is a question mark. */
enum { LETTER_WIDTH = 12, LETTER_HEIGHT = 16 };
void draw_words(picture *page, int x, int y, const unsigned char colour[3], const char *text);

#endif
