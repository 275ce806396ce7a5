#include "chart.h"

#include <math.h>

enum { WIDTH = 420, HEIGHT = 250, LEFT = 46, RIGHT = 12, TOP = 14, BOTTOM = 40 };

/* What lies at the axes' ends. */
typedef struct extent {
    double x, y;
} extent;

static extent extent_of(const chart *c) {
    extent end = {c->mark, c->chance};
    for (int i = 0; i < c->count; i++) {
        for (int64_t k = 0; k < c->lines[i].count; k++) {
            end.x = fmax(end.x, c->lines[i].x[k]);
            end.y = fmax(end.y, c->lines[i].y[k]);
        }
    }
    end.y *= 1.06; /* room above the highest point */
    return end;
}

static double across(extent end, double x) { return LEFT + (WIDTH - LEFT - RIGHT) * x / end.x; }
static double down(extent end, double y) { return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / end.y; }

/* The largest of 1, 2, 5 times a power of ten that still gives four steps or more. */
static double tick_step(double end) {
    double power = pow(10, floor(log10(end / 4)));
    double steps = end / 4 / power;
    return power * (steps >= 5 ? 5 : steps >= 2 ? 2 : 1);
}

static void write_axes(FILE *html, const chart *c, extent end) {
    double step = tick_step(end.y);
    for (int i = 0; i * step <= end.y * 1.0001; i++) {
        double y = down(end, i * step);
        fprintf(html, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT, y,
                WIDTH - RIGHT, LEFT - 6, y + 4);
        fprintf(html, c->percent ? "%.0f%%</text>\n" : "%g</text>\n", i * step * (c->percent ? 100 : 1));
    }
    step = tick_step(end.x);
    for (int i = 0; i * step <= end.x * 1.0001; i++)
        fprintf(html, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", across(end, i * step),
                HEIGHT - BOTTOM + 17, i * step);
    fprintf(html, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
    fprintf(html, "<text class=\"label\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, c->x_label);
    fprintf(html, "<text class=\"label\" transform=\"translate(11 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            (TOP + HEIGHT - BOTTOM) / 2, c->y_label);
}

static void write_marks(FILE *html, const chart *c, extent end) {
    if (c->chance > 0)
        fprintf(html,
                "<path class=\"mark\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">chance</text>\n",
                LEFT, down(end, c->chance), WIDTH - RIGHT, WIDTH - RIGHT, down(end, c->chance) - 5);
    if (c->mark > 0)
        fprintf(html, "<path class=\"mark\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\">resumed</text>\n",
                across(end, c->mark), TOP, HEIGHT - BOTTOM, across(end, c->mark) + 5, TOP + 8);
}

void chart_write(FILE *html, const chart *c) {
    fprintf(html, "<figure class=\"chart\"><figcaption>%s</figcaption>\n", c->title);
    fprintf(html, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, HEIGHT, c->title);
    extent end = extent_of(c);
    write_axes(html, c, end);
    write_marks(html, c, end);
    for (int i = 0; i < c->count; i++) {
        const chart_line *line = &c->lines[i];
        fprintf(html, "<polyline class=\"line-%s\" points=\"", line->name);
        for (int64_t k = 0; k < line->count; k++)
            fprintf(html, "%.1f,%.1f ", across(end, line->x[k]), down(end, line->y[k]));
        fprintf(html, "\"/>\n");
    }
    fprintf(html, "</svg></figure>\n");
}
