/* cavmae-inpaint: hides parts of a clip's sound and picture, lets a model paint them, and shows both as one PNG. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clip_input.h"
#include "drawing.h"
#include "png_file.h"
#include "program.h"
#include "sheet.h"

enum { CELL = 320, SOUND_HEIGHT = 200 };

/* The model's own settings, but for those that are given; value NULL: not given. */
static void set_key(cavmae_config *config, const char *key, const char *value) {
    if (value) check(cavmae_config_set(config, key, value));
}

/* A picture's mask from one that somebody painted on it: a patch goes where half of it or more is light. The mask is
 * cut and scaled like the picture. */
static unsigned char *read_mask(const clip_input *clip, const char *path) {
    int side = (int)clip->side, patch = (int)clip->patch, columns = side / patch;
    picture whole = read_png(path);
    int crop = whole.width < whole.height ? whole.width : whole.height;
    const unsigned char black[3] = {0, 0, 0};
    picture square = new_picture(crop, crop, black);
    draw_picture(&square, -(whole.width - crop) / 2, -(whole.height - crop) / 2, &whole);
    picture scaled = scaled_picture(&square, side, side);
    unsigned char *mask = allocate((size_t)(columns * columns), 1);
    for (int t = 0; t < columns * columns; t++) {
        int light = 0;
        for (int i = 0; i < patch * patch; i++) {
            const unsigned char *rgb =
                scaled.rgb + 3 * ((t / columns * patch + i / patch) * side + t % columns * patch + i % patch);
            light += rgb[0] + rgb[1] + rgb[2] >= 3 * 128;
        }
        mask[t] = 2 * light >= patch * patch;
    }
    picture_free(&whole);
    picture_free(&square);
    picture_free(&scaled);
    return mask;
}

/* One clip's outputs. */
typedef struct painting {
    cavmae_inpainting record;
    unsigned char *mask[2];
    float *pasted[2];
} painting;

static painting paint_clip(cavmae_model *model, const cavmae_config *config, const clip_input *clip,
                           const unsigned char *own_mask, int64_t draw) {
    painting p = {.record = {.struct_size = sizeof p.record}};
    cavmae_batch batch = batch_of_clip(clip);
    const int64_t columns = clip->side / clip->patch, patch = clip->patch;
    batch.mask_v = own_mask;
    if (clip->audio) {
        p.record.mask_a = p.mask[0] = allocate((size_t)(clip->bins / patch * (clip->frames / patch)), 1);
        p.record.audio_pasted = p.pasted[0] = allocate((size_t)(clip->bins * clip->frames), sizeof(float));
    }
    if (clip->image) {
        p.record.mask_v = p.mask[1] = allocate((size_t)(columns * columns), 1);
        p.record.image_pasted = p.pasted[1] = allocate((size_t)(3 * clip->side * clip->side), sizeof(float));
    }
    check(cavmae_inpaint(model, config, &batch, draw, &p.record));
    return p;
}

static void free_painting(painting *p) {
    for (int m = 0; m < 2; m++) {
        free(p->mask[m]);
        free(p->pasted[m]);
    }
}

/* The original, what the model saw of it, what it made of that. */
static void show_row(sheet *s, int row, picture shown[3], int stretch, double error) {
    static const char *const names[2] = {"original", "masked"};
    for (int i = 0; i < 3; i++) {
        sheet_picture(s, row, i, &shown[i], stretch, FRAME_NONE);
        picture_free(&shown[i]);
    }
    for (int i = 0; i < 2; i++) sheet_words(s, row, i, "%s", names[i]);
    sheet_words(s, row, 2, "painted, error %.3f", error);
}

static void write_panel(const char *path, const clip_input *clip, const painting *p) {
    int heights[2], rows = 0;
    if (clip->image) heights[rows++] = CELL;
    if (clip->audio) heights[rows++] = SOUND_HEIGHT;
    sheet s = new_sheet(3, CELL, rows, heights);
    if (clip->image) {
        picture original = new_picture(clip->crop, clip->crop, (const unsigned char[3]){0, 0, 0});
        draw_picture(&original, -clip->crop_x, -clip->crop_y, &clip->frame);
        picture shown[3] = {original, pixels(clip, p->pasted[1], p->mask[1]), pixels(clip, p->pasted[1], NULL)};
        show_row(&s, 0, shown, 0, p->record.error_v);
    }
    if (clip->audio) {
        double quiet, loud;
        float *log_mel = clip_log_mel(clip, &quiet, &loud);
        picture shown[3] = {spectrogram(clip, log_mel, quiet, loud, NULL),
                            spectrogram(clip, log_mel, quiet, loud, p->mask[0]),
                            spectrogram(clip, p->pasted[0], quiet, loud, NULL)};
        show_row(&s, rows - 1, shown, 1, p->record.error_a);
        free(log_mel);
    }
    write_png(&s.page, path);
    free_sheet(&s);
}

static void print_errors(const clip_input *clip, const painting *p) {
    static const char *const names[2] = {"sound", "picture"};
    const double errors[2] = {p->record.error_a, p->record.error_v}, losses[2] = {p->record.loss_a, p->record.loss_v};
    const int64_t side = clip->side / clip->patch,
                  tokens[2] = {clip->bins / clip->patch * (clip->frames / clip->patch), side * side};
    for (int m = 0; m < 2; m++) {
        int64_t masked = 0;
        if (!p->mask[m]) continue;
        for (int64_t t = 0; t < tokens[m]; t++) masked += p->mask[m][t];
        printf("%-8s %5lld of %5lld patches masked  squared error %.4f  loss %.4f\n", names[m], (long long)masked,
               (long long)tokens[m], errors[m], losses[m]);
    }
    if (p->record.approximate)
        printf("The model paints patches without their mean and contrast (norm_pix_loss): these are guessed from the "
               "visible patches around.\n");
}

/* Which modalities the model has: bits 1 for sound, 2 for pictures. */
static int modalities_of(const cavmae_config *config) {
    const char *text;
    check(cavmae_config_get_str(config, CAVMAE_P_MODALITIES, &text));
    return !strcmp(text, "a") ? 1 : !strcmp(text, "v") ? 2 : 3;
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *media = NULL, *sound = NULL, *sight = NULL, *out = NULL, *mask_path = NULL,
               *device = NULL;
    const char *ratio[2] = {NULL, NULL}, *mode[2] = {NULL, NULL};
    int32_t draw = 0, threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--model",
         .value = "F",
         .help = "model file, checkpoint or .pth, with its decoder",
         .text = &model_path},
        {.name = "--media", .value = "FILE", .help = "the clip", .text = &media},
        {.name = "--audio", .value = "A.wav", .help = "or its sound", .text = &sound},
        {.name = "--image", .value = "I.jpg", .help = "and its picture", .text = &sight},
        {.name = "--out", .value = "P.png", .help = "where the picture goes", .text = &out},
        {.name = "--mask-a",
         .value = "R",
         .help = "share of the sound that is hidden (the model's)",
         .text = &ratio[0]},
        {.name = "--mask-v", .value = "R", .help = "share of the picture (the model's)", .text = &ratio[1]},
        {.name = "--mode-a",
         .value = "M",
         .help = "unstructured, time, frequency or time_frequency (the model's)",
         .text = &mode[0]},
        {.name = "--mode-v", .value = "M", .help = "the same; time is across (the model's)", .text = &mode[1]},
        {.name = "--mask",
         .value = "M.png",
         .help = "hide what is light in this, as large as the picture, of it",
         .text = &mask_path},
        {.name = "--draw", .value = "N", .help = "another number, another mask (0)", .number = &draw},
        {.name = "--set", .value = "KEY=VALUE", .help = "of the objective, e.g. norm_pix_loss=0", .list = &settings},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        {0}};
    read_options(argc, argv, "hides parts of a clip and lets a model paint them", options);
    if (!model_path || !out) die("--model and --out are needed");
    if (media && (sound || sight)) die("give --media, or --audio and --image");

    cavmae_context *context = open_context(device, threads, NULL);
    cavmae_model *model;
    cavmae_config *config;
    check(cavmae_model_load(context, model_path, 0, NULL, &model));
    check(cavmae_model_config(model, &config));
    set_key(config, "mask_ratio_a", ratio[0]);
    set_key(config, "mask_ratio_v", ratio[1]);
    set_key(config, "mask_mode_a", mode[0]);
    set_key(config, "mask_mode_v", mode[1]);
    apply_settings(config, &settings);
    int has = modalities_of(config);
    if (media && (has & 1)) sound = media;
    if (media && (has & 2)) sight = media;
    if (mask_path && !(has & 2)) die("--mask is for pictures, and the model has none");
    if (!sound == !!(has & 1) || !sight == !!(has & 2))
        die("the model takes %s: give --media, --audio or --image so", has == 3   ? "sound and picture"
                                                                       : has == 1 ? "sound only"
                                                                                  : "pictures only");

    clip_input clip = read_clip(context, model, sound, sight);
    unsigned char *mask = mask_path ? read_mask(&clip, mask_path) : NULL;
    painting p = paint_clip(model, config, &clip, mask, draw);
    print_errors(&clip, &p);
    write_panel(out, &clip, &p);

    free_painting(&p);
    free(mask);
    free_clip(&clip);
    free(settings.word);
    cavmae_config_free(config);
    cavmae_model_free(model);
    cavmae_context_free(context);
    return 0;
}
