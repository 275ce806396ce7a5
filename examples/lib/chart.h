/* Line charts as SVG inside of an HTML page; both axes start at 0. Colours are the page's: classes "grid", "axis",
 * "mark" and "line-NAME". */
#ifndef EXAMPLE_CHART_H
#define EXAMPLE_CHART_H

#include <stdint.h>
#include <stdio.h>

typedef struct chart_line {
    const char *name; /* of its class */
    int64_t count;
    double *x, *y;
} chart_line;

typedef struct chart {
    const char *title, *x_label, *y_label;
    int percent;   /* y is a share */
    double chance; /* a horizontal line; 0: none */
    double mark;   /* a vertical line; 0: none */
    const chart_line *lines;
    int count;
} chart;

void chart_write(FILE *html, const chart *c);

#endif
