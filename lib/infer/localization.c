/* Localisation (paper, appendix I): which image tokens a sound is most like; and how well that agrees with boxes. */
#include <math.h>
#include <string.h>

#include "raw_inputs.h"
#include "record.h"

/* ---- Heat maps ---- */

enum { CHUNK = 16 }; /* clips whose tokens are held at once */

static float cosine(const float *unit, const float *token, int64_t width) {
    double product = 0, square = 0;
    for (int64_t k = 0; k < width; k++) {
        product += (double)unit[k] * token[k];
        square += (double)token[k] * token[k];
    }
    return square > 0 ? (float)(product / sqrt(square)) : 0;
}

static cavmae_status check_localize(const cavmae__options *o, const cavmae_batch *batch, const float *heat) {
    if (!heat) return cavmae__fail(CAVMAE_E_ARG, "localize: heat is NULL");
    if (o->modalities != CAVMAE__MODALITIES_AV)
        return cavmae__fail(CAVMAE_E_ARG, "localize: the model has one modality; sound and picture are needed");
    for (int m = 0; m < 2; m++)
        if (!cavmae__has_input(batch, m))
            return cavmae__fail(CAVMAE_E_ARG, "localize: %s is NULL", m ? "image" : "audio");
    if (batch->count < 0) return cavmae__fail(CAVMAE_E_ARG, "localize: %d clips", batch->count);
    return CAVMAE_OK;
}

cavmae_status cavmae_localize(cavmae_model *model, const cavmae_batch *batch, float *heat) {
    cavmae_batch all;
    float *audio = NULL, *tokens = NULL;
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "localize: model is NULL");
    CAVMAE__TRY(cavmae__record_in(&all, sizeof all, batch));
    const cavmae__options *o = &model->options;
    CAVMAE__TRY(check_localize(o, &all, heat));
    const int64_t width = o->embed_dim, side = o->image_size / o->patch_size,
                  pictures = all.frames > 1 ? all.frames : 1, map = pictures * side * side;
    const int32_t most = all.count < CHUNK ? all.count : CHUNK;
    CAVMAE__TRY_OUT(CAVMAE__NEW(model->context, &audio, most * width));
    CAVMAE__TRY_OUT(CAVMAE__NEW(model->context, &tokens, most * map * width));
    cavmae_batch chunk = all;
    chunk.struct_size = sizeof chunk;
    for (int32_t first = 0; first < all.count; first += chunk.count) {
        chunk.count = all.count - first < most ? all.count - first : most;
        const cavmae_embedding out = {.struct_size = sizeof out, .audio = audio, .visual_tokens = tokens};
        CAVMAE__TRY_OUT(cavmae_embed(model, &chunk, &out));
        for (int64_t i = 0; i < chunk.count * map; i++)
            heat[first * map + i] = cosine(audio + i / map * width, tokens + i * width, width);
        cavmae__skip_clips(o, &chunk, chunk.count);
    }
out:
    cavmae__free(model->context, audio);
    cavmae__free(model->context, tokens);
    return status;
}

/* ---- Enlarging: torch's interpolate(mode="bilinear", align_corners=False) ---- */

/* The two cells between which pixel i of `pixels` lies, and the second one's share; past the outer cells' centres the
 * outer cells alone. */
typedef struct between {
    int64_t low, high;
    double share;
} between;

static between cells_at(int64_t i, int64_t pixels, int64_t cells) {
    const double at = fmax(((double)i + 0.5) * (double)cells / (double)pixels - 0.5, 0);
    between b = {.low = (int64_t)at};
    if (b.low > cells - 1) b.low = cells - 1;
    b.high = b.low + 1 < cells ? b.low + 1 : b.low;
    b.share = at - (double)b.low;
    return b;
}

static void enlarge(const float *heat, int32_t rows, int32_t columns, int32_t height, int32_t width, float *out) {
    for (int32_t y = 0; y < height; y++) {
        const between down = cells_at(y, height, rows);
        const float *low = heat + down.low * columns, *high = heat + down.high * columns;
        for (int32_t x = 0; x < width; x++) {
            const between across = cells_at(x, width, columns);
            const double top = (double)low[across.low] + across.share * ((double)low[across.high] - low[across.low]);
            const double bottom =
                (double)high[across.low] + across.share * ((double)high[across.high] - high[across.low]);
            out[(int64_t)y * width + x] = (float)(top + down.share * (bottom - top));
        }
    }
}

enum { MOST_SIDE = 1 << 16 };

static cavmae_status check_sizes(int32_t rows, int32_t columns, int32_t height, int32_t width) {
    const int32_t sides[4] = {rows, columns, height, width};
    for (int i = 0; i < 4; i++)
        if (sides[i] < 1 || sides[i] > MOST_SIDE)
            return cavmae__fail(CAVMAE_E_SHAPE, "heat map: a side of %d; 1 to %d can be", sides[i], MOST_SIDE);
    return CAVMAE_OK;
}

cavmae_status cavmae_heatmap_resize(const float *heat, int32_t rows, int32_t columns, int32_t height, int32_t width,
                                    float *out) {
    if (!heat || !out) return cavmae__fail(CAVMAE_E_ARG, "heat map: heat or out is NULL");
    CAVMAE__TRY(check_sizes(rows, columns, height, width));
    enlarge(heat, rows, columns, height, width, out);
    return CAVMAE_OK;
}

/* ---- Agreement with boxes ---- */

typedef struct scored {
    int32_t rows, columns, height, width;
    double threshold;
    float *map;      /* [height, width] */
    uint8_t *inside; /* [height, width] 1: in a box */
} scored;

/* The first pixel whose centre is at or right of `edge`. */
static int32_t first_pixel(double edge, int32_t limit) {
    return edge <= 0.5 ? 0 : edge >= limit ? limit : (int32_t)ceil(edge - 0.5);
}

static void fill_box(const scored *s, const double box[4]) {
    const int32_t left = first_pixel(box[0], s->width), right = first_pixel(box[2], s->width),
                  bottom = first_pixel(box[3], s->height);
    for (int32_t y = first_pixel(box[1], s->height); y < bottom; y++)
        if (left < right) memset(s->inside + (int64_t)y * s->width + left, 1, (size_t)(right - left));
}

/* IoU of where the map, stretched to [0, 1], reaches the threshold, with the boxes' union. */
static double intersection_over_union(const scored *s, const float *heat, const double (*boxes)[4], int32_t count) {
    const int64_t pixels = (int64_t)s->height * s->width;
    int64_t both = 0, either = 0;
    memset(s->inside, 0, (size_t)pixels);
    for (int32_t i = 0; i < count; i++) fill_box(s, boxes[i]);
    enlarge(heat, s->rows, s->columns, s->height, s->width, s->map);
    double least = (double)s->map[0], most = least;
    for (int64_t i = 0; i < pixels; i++) {
        least = fmin(least, (double)s->map[i]);
        most = fmax(most, (double)s->map[i]);
    }
    for (int64_t i = 0; i < pixels; i++) {
        const int hot = most > least && (double)s->map[i] - least >= s->threshold * (most - least);
        both += hot && s->inside[i];
        either += hot || s->inside[i];
    }
    return either ? (double)both / (double)either : 0;
}

static cavmae_status check_samples(const float *heat, int64_t count, int64_t cells, const double (*boxes)[4],
                                   const int32_t *box_counts) {
    for (int64_t i = 0, box = 0; i < count; i++) {
        const int32_t of_sample = box_counts ? box_counts[i] : 1;
        if (of_sample < 1) return cavmae__fail(CAVMAE_E_ARG, "localization: sample %lld has no box", (long long)i);
        for (int64_t end = box + of_sample; box < end; box++)
            if (!(boxes[box][0] < boxes[box][2] && boxes[box][1] < boxes[box][3])) /* also NaN */
                return cavmae__fail(CAVMAE_E_ARG, "localization: box %lld, of sample %lld, is empty: (%g, %g, %g, %g)",
                                    (long long)box, (long long)i, boxes[box][0], boxes[box][1], boxes[box][2],
                                    boxes[box][3]);
        for (int64_t k = i * cells; k < (i + 1) * cells; k++)
            if (!isfinite(heat[k]))
                return cavmae__fail(CAVMAE_E_NOT_FINITE, "localization: the heat map of sample %lld is not finite",
                                    (long long)i);
    }
    return CAVMAE_OK;
}

/* Area under the share of samples that reach 0, 0.05, .. 1, by trapezoids. */
static double area_under_success(const double *iou, int64_t count) {
    enum { STEPS = 20 };
    double area = 0;
    for (int step = 0; step <= STEPS; step++) {
        int64_t reach = 0;
        for (int64_t i = 0; i < count; i++) reach += iou[i] >= (double)step / STEPS;
        area += (step == 0 || step == STEPS ? 0.5 : 1) * (double)reach;
    }
    return area / STEPS / (double)count;
}

cavmae_status cavmae_localization_from_boxes(cavmae_context *context, const float *heat, int64_t count, int32_t rows,
                                             int32_t columns, int32_t height, int32_t width, const double (*boxes)[4],
                                             const int32_t *box_counts, double threshold, double *iou,
                                             cavmae_localization_metrics *out) {
    cavmae_localization_metrics metrics = {0}, unused;
    scored s = {.rows = rows, .columns = columns, .height = height, .width = width, .threshold = threshold};
    double *own = NULL;
    cavmae_status status = CAVMAE_OK;
    if (!context || !heat || !boxes) return cavmae__fail(CAVMAE_E_ARG, "localization: context, heat or boxes is NULL");
    CAVMAE__TRY(cavmae__record_in(&unused, sizeof unused, out));
    CAVMAE__TRY(check_sizes(rows, columns, height, width));
    if (count < 1) return cavmae__fail(CAVMAE_E_ARG, "localization: %lld samples", (long long)count);
    if (!(threshold >= 0 && threshold <= 1))
        return cavmae__fail(CAVMAE_E_ARG, "localization: threshold %g is outside [0, 1]", threshold);
    CAVMAE__TRY(check_samples(heat, count, (int64_t)rows * columns, boxes, box_counts));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.map, (int64_t)height * width));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &s.inside, (int64_t)height * width));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &own, count));
    for (int64_t i = 0, box = 0; i < count; box += box_counts ? box_counts[i] : 1, i++) {
        own[i] = intersection_over_union(&s, heat + i * rows * columns, boxes + box, box_counts ? box_counts[i] : 1);
        metrics.mean_iou += own[i];
        metrics.success += own[i] >= 0.5;
    }
    metrics.mean_iou /= (double)count;
    metrics.success /= (double)count;
    metrics.auc = area_under_success(own, count);
    if (iou) memcpy(iou, own, (size_t)count * sizeof *iou);
    status = cavmae__record_out(out, &metrics, sizeof metrics);
out:
    cavmae__free(context, s.map);
    cavmae__free(context, s.inside);
    cavmae__free(context, own);
    return status;
}
