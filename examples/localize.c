/* cavmae-localize: where in a picture its sound comes from, by a model's own tokens, as heat over the frame in a PNG;
 * and, against boxes around what sounds, how often that is right.
 *
 * Boxes are lines "id,x0,y0,x1,y1" of a CSV, in pixels of the picture's file, after one line of names; an id may have
 * several. The model sees the picture's centre square, and heat lies on that. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clip_input.h"
#include "drawing.h"
#include "png_file.h"
#include "program.h"
#include "sheet.h"
#include "training.h"

enum { CELL = 320, COLUMNS = 4 };
static const double threshold = 0.5;

/* ---- Boxes ---- */

typedef struct box {
    char id[256];
    double edge[4]; /* x0, y0, x1, y1 */
} box;

typedef struct box_list {
    int64_t count;
    box *box;
} box_list;

static int parse_box(char *line, box *out) {
    char *rest = line + strcspn(line, ",");
    size_t length = (size_t)(rest - line);
    if (length == 0 || length >= sizeof out->id) return 0;
    memcpy(out->id, line, length);
    out->id[length] = 0;
    for (int i = 0; i < 4; i++) {
        if (*rest != ',') return 0;
        char *number = rest + 1;
        out->edge[i] = strtod(number, &rest);
        if (rest == number || !isfinite(out->edge[i])) return 0;
    }
    return rest[strspn(rest, " \r\n")] == 0 && out->edge[0] < out->edge[2] && out->edge[1] < out->edge[3];
}

static box_list read_boxes(const char *path) {
    box_list list = {0};
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "r");
    if (!file) die("cannot read %s: %s", path, strerror(errno));
    for (int64_t number = 0; getline(&line, &size, file) > 0; number++) {
        box b;
        if (number == 0) continue; /* names of the columns */
        if (!parse_box(line, &b)) die("%s: line %lld is not id,x0,y0,x1,y1", path, (long long)number + 1);
        if ((list.count & (list.count - 1)) == 0) {
            list.box = realloc(list.box, (size_t)(list.count ? 2 * list.count : 1) * sizeof b);
            if (!list.box) die("no memory for boxes");
        }
        list.box[list.count++] = b;
    }
    fclose(file);
    free(line);
    return list;
}

/* ---- Clips ---- */

/* What is kept of a clip: its heat, and its boxes in pixels of the model's picture. */
typedef struct located {
    float *heat; /* [cells, cells] */
    int32_t boxes;
    double (*edges)[4];
} located;

static located locate(cavmae_model *model, const clip_input *clip, const char *id, const box_list *boxes) {
    const int64_t cells = clip->side / clip->patch;
    const double scale = (double)clip->side / clip->crop;
    located l = {.heat = allocate((size_t)(cells * cells), sizeof *l.heat),
                 .edges = allocate((size_t)boxes->count, sizeof *l.edges)};
    const cavmae_batch batch = batch_of_clip(clip);
    check(cavmae_localize(model, &batch, l.heat));
    for (int64_t i = 0; id && i < boxes->count; i++) {
        if (strcmp(boxes->box[i].id, id) != 0) continue;
        for (int k = 0; k < 4; k++)
            l.edges[l.boxes][k] = (boxes->box[i].edge[k] - (k % 2 ? clip->crop_y : clip->crop_x)) * scale;
        l.boxes++;
    }
    return l;
}

/* The frame, grey where the model does not look, with the heat over it and the boxes around. */
static picture heat_picture(const clip_input *clip, const located *l) {
    static const unsigned char white[3] = {255, 255, 255};
    const int32_t cells = (int32_t)(clip->side / clip->patch);
    /* so large that heat is smooth also on small frames */
    const int height = clip->frame.height < CELL ? CELL : clip->frame.height;
    const double scale = (double)height / clip->frame.height;
    picture p = scaled_picture(&clip->frame, (int)lround(clip->frame.width * scale), height);
    const int side = (int)(clip->crop * scale), left = (int)(clip->crop_x * scale), top = (int)(clip->crop_y * scale);
    float *heat = allocate((size_t)side * (size_t)side, sizeof *heat);
    check(cavmae_heatmap_resize(l->heat, cells, cells, side, side, heat));
    double least = INFINITY, most = -INFINITY;
    for (int64_t i = 0; i < (int64_t)side * side; i++) {
        least = fmin(least, (double)heat[i]);
        most = fmax(most, (double)heat[i]);
    }
    for (int y = 0; y < p.height; y++)
        for (int x = 0; x < p.width; x++) {
            unsigned char *rgb = p.rgb + 3 * ((size_t)y * (size_t)p.width + (size_t)x), hot[3];
            const int inside = x >= left && x < left + side && y >= top && y < top + side;
            const double grey = (rgb[0] + rgb[1] + rgb[2]) / 3.0;
            if (inside) {
                const double value = (double)heat[(int64_t)(y - top) * side + x - left];
                const double share = most > least ? (value - least) / (most - least) : 0;
                heat_colour(share, hot);
                for (int c = 0; c < 3; c++) rgb[c] = to_byte((0.45 * grey + 0.55 * hot[c]) / 255);
            } else {
                for (int c = 0; c < 3; c++) rgb[c] = to_byte(0.4 * grey / 255);
            }
        }
    const double pixel = side / (double)clip->side;
    for (int32_t i = 0; i < l->boxes; i++) {
        const double *e = l->edges[i];
        draw_rectangle(&p, left + (int)(e[0] * pixel), top + (int)(e[1] * pixel), (int)((e[2] - e[0]) * pixel),
                       (int)((e[3] - e[1]) * pixel), height / 160 > 1 ? height / 160 : 1, white);
    }
    free(heat);
    return p;
}

static double iou_of(cavmae_context *context, const clip_input *clip, const located *l) {
    const int32_t cells = (int32_t)(clip->side / clip->patch), side = (int32_t)clip->side;
    cavmae_localization_metrics m = {.struct_size = sizeof m};
    check(cavmae_localization_from_boxes(context, l->heat, 1, cells, cells, side, side, (const double(*)[4])l->edges,
                                         &l->boxes, threshold, NULL, &m));
    return m.mean_iou;
}

/* ---- A file, or a manifest ---- */

typedef struct job {
    cavmae_context *context;
    cavmae_model *model;
    box_list boxes;
    const char *out;
} job;

static void show_file(const job *j, const char *sound, const char *sight) {
    clip_input clip = read_clip(j->context, j->model, sound, sight);
    located l = locate(j->model, &clip, NULL, &j->boxes);
    const int64_t cells = clip.side / clip.patch;
    int64_t best = 0;
    for (int64_t i = 1; i < cells * cells; i++)
        if (l.heat[i] > l.heat[best]) best = i;
    const double middle = (double)clip.crop / (double)cells;
    printf("warmest at (%.0f, %.0f) of %d x %d pixels, cosine %.3f\n",
           clip.crop_x + ((double)(best % cells) + 0.5) * middle, clip.crop_y + ((double)(best / cells) + 0.5) * middle,
           clip.frame.width, clip.frame.height, (double)l.heat[best]);
    if (j->out) {
        picture p = heat_picture(&clip, &l);
        write_png(&p, j->out);
        picture_free(&p);
    }
    free(l.heat);
    free(l.edges);
    free_clip(&clip);
}

/* Heat maps and boxes of all clips that have some, for one verdict. */
typedef struct samples {
    int64_t count, boxes;
    float *heat;
    double (*edges)[4];
    int32_t *box_counts;
} samples;

static void add_sample(samples *s, const located *l, int64_t cells) {
    /* grown clip by clip: several clips of one name have the same boxes */
    s->edges = realloc(s->edges, (size_t)(s->boxes + l->boxes) * sizeof *s->edges);
    if (!s->edges) die("no memory for boxes");
    memcpy(s->heat + s->count * cells * cells, l->heat, (size_t)(cells * cells) * sizeof *s->heat);
    memcpy(s->edges + s->boxes, l->edges, (size_t)l->boxes * sizeof *s->edges);
    s->box_counts[s->count++] = l->boxes;
    s->boxes += l->boxes;
}

static void print_verdict(const job *j, const samples *s, int32_t cells, int32_t side) {
    cavmae_localization_metrics m = {.struct_size = sizeof m};
    if (!s->count) die("no clip of the manifest has a box");
    check(cavmae_localization_from_boxes(j->context, s->heat, s->count, cells, cells, side, side,
                                         (const double(*)[4])s->edges, s->box_counts, threshold, NULL, &m));
    printf("%lld clips, %lld boxes  mean IoU %.4f  IoU of 0.5 or more %.1f %%  AUC %.4f\n", (long long)s->count,
           (long long)s->boxes, m.mean_iou, 100 * m.success, m.auc);
}

/* Clips `shown` at even distances go on the sheet; with boxes, all clips are scored. */
static void show_manifest(const job *j, const char *manifest, int32_t shown) {
    cavmae_config *config;
    cavmae_loader *loader;
    need_files(j->context, manifest);
    check(cavmae_model_config(j->model, &config));
    take_data_as_it_is(config);
    check(cavmae_loader_create(config, manifest, NULL, &loader));
    const int64_t count = cavmae_loader_count(loader), side = whole_number(config, CAVMAE_P_IMAGE_SIZE),
                  cells = side / whole_number(config, CAVMAE_P_PATCH_SIZE);
    if (shown > count) shown = (int32_t)count;
    int heights[SHEET_ROWS], rows = (shown + COLUMNS - 1) / COLUMNS;
    for (int row = 0; row < rows; row++) heights[row] = CELL;
    sheet s = new_sheet(COLUMNS, CELL, rows, heights);
    samples all = {.heat = allocate((size_t)(count * cells * cells), sizeof *all.heat),
                   .box_counts = allocate((size_t)count, sizeof *all.box_counts)};
    int32_t drawn = 0;
    for (int64_t i = 0; i < count; i++) {
        const int draw = j->out && drawn < shown && i == (2 * (int64_t)drawn + 1) * count / (2 * (int64_t)shown);
        cavmae_loader_item item = {.struct_size = sizeof item};
        if (!draw && !j->boxes.count) continue;
        check(cavmae_loader_item_at(loader, i, &item));
        clip_input clip = read_clip(j->context, j->model, item.audio_path, item.image_path);
        located l = locate(j->model, &clip, item.id, &j->boxes);
        if (l.boxes) add_sample(&all, &l, cells);
        if (draw) {
            picture p = heat_picture(&clip, &l);
            sheet_picture(&s, drawn / COLUMNS, drawn % COLUMNS, &p, 0, FRAME_NONE);
            if (l.boxes)
                sheet_words(&s, drawn / COLUMNS, drawn % COLUMNS, "IoU %.2f %s", iou_of(j->context, &clip, &l),
                            item.id);
            else
                sheet_words(&s, drawn / COLUMNS, drawn % COLUMNS, "%s", item.id);
            picture_free(&p);
            drawn++;
        }
        free(l.heat);
        free(l.edges);
        free_clip(&clip);
    }
    if (j->boxes.count) print_verdict(j, &all, (int32_t)cells, (int32_t)side);
    if (j->out) write_png(&s.page, j->out);
    free_sheet(&s);
    free(all.heat);
    free(all.edges);
    free(all.box_counts);
    cavmae_loader_free(loader);
    cavmae_config_free(config);
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *media = NULL, *sound = NULL, *sight = NULL, *manifest = NULL, *boxes = NULL,
               *device = NULL;
    int32_t shown = 12, threads = 0;
    job j = {0};
    const option options[] = {
        {.name = "--model", .value = "F", .help = "model file, checkpoint or .pth", .text = &model_path},
        {.name = "--media", .value = "FILE", .help = "the clip", .text = &media},
        {.name = "--audio", .value = "A.wav", .help = "or its sound", .text = &sound},
        {.name = "--image", .value = "I.jpg", .help = "and its picture", .text = &sight},
        {.name = "--manifest", .value = "M.json", .help = "or many clips", .text = &manifest},
        {.name = "--boxes", .value = "B.csv", .help = "with --manifest: where what sounds is", .text = &boxes},
        {.name = "--out",
         .value = "P.png",
         .help = "heat over the frame; of a manifest, a sheet of them",
         .text = &j.out},
        {.name = "--count", .value = "N", .help = "so many clips on the sheet (12)", .number = &shown},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        {0}};
    read_options(argc, argv, "shows where in a picture its sound comes from", options);
    if (!model_path) die("--model is needed");
    if ((media != NULL) + (manifest != NULL) + (sound && sight) != 1 || (!sound) != (!sight))
        die("give --media, --audio and --image, or --manifest");
    if (boxes && !manifest) die("--boxes goes with --manifest");
    if (!j.out && !boxes && manifest) die("--out or --boxes is needed");
    if (shown < 1 || shown > COLUMNS * SHEET_ROWS) die("--count is 1 to %d", COLUMNS * SHEET_ROWS);

    j.context = open_context(device, threads, NULL);
    check(cavmae_model_load(j.context, model_path, 0, NULL, &j.model));
    if (boxes) j.boxes = read_boxes(boxes);
    if (manifest)
        show_manifest(&j, manifest, shown);
    else
        show_file(&j, media ? media : sound, media ? media : sight);

    free(j.boxes.box);
    cavmae_model_free(j.model);
    cavmae_context_free(j.context);
    return 0;
}
