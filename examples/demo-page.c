/* cavmae-demo-page: what training did, as one HTML page and a table on the terminal.
 *
 * Measures every run on the clips of a manifest, beside the same model before training and beside chance, and shows
 * loss curves, what the first run's model finds, and what it paints where it saw nothing. Ends with 1 if the runs'
 * mean is below R@10 = 10 times chance or R@1 = 5 times chance. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "drawing.h"
#include "held_out.h"
#include "inline_media.h"
#include "page.h"
#include "page_style.h"
#include "program.h"

enum { QUERIES = 6, NEAREST = 5, PAINTED = 4, POINTS = 80 };
static const double goal_r1 = 5, goal_r10 = 10; /* times chance */

typedef struct report {
    const run *runs;
    int count;
    int32_t resumed; /* step after which the first run was; 0: it was not */
    const clip_set *clips;
    scores chance, untrained, trained; /* means */
} report;

/* ---- Pictures ---- */

/* What a pixel of the model's input is in: 1 if its patch was removed. */
static int removed_at(const clip_set *c, const uint8_t *removed, int64_t row, int64_t column, int64_t width) {
    return removed && removed[row / c->patch * (width / c->patch) + column / c->patch];
}

static void write_picture(FILE *html, const clip_set *c, int modality, const float *values, const uint8_t *removed,
                          const char *description) {
    int64_t width = modality == AUDIO ? c->frames : c->side, height = modality == AUDIO ? c->bins : c->side;
    int scale = modality == AUDIO ? 2 : 1;
    picture p;
    if (!picture_create(&p, (int)width * scale, (int)height * scale)) die("no memory for a picture");
    for (int64_t i = 0; i < (int64_t)p.width * p.height; i++) {
        int64_t row = i / p.width / scale, column = i % p.width / scale;
        unsigned char *rgb = p.rgb + 3 * i;
        if (modality == AUDIO) row = height - 1 - row; /* low sounds at the bottom */
        if (removed_at(c, removed, row, column, width))
            memset(rgb, 136, 3);
        else if (modality == AUDIO)
            heat_colour((values[column * height + row] - c->quiet) / (c->loud - c->quiet), rgb);
        else
            for (int k = 0; k < 3; k++)
                rgb[k] = to_byte(values[(k * height + row) * width + column] * c->deviation[k] + c->mean[k]);
    }
    inline_picture(html, &p, modality == AUDIO ? "sound" : "sight", description);
    picture_free(&p);
}

/* ---- Searches ---- */

static void write_words(FILE *html, const clip_set *c, int64_t clip) {
    cavmae_loader_item item = {.struct_size = sizeof item};
    check(cavmae_loader_item_at(c->loader, clip, &item));
    for (int32_t i = 0; i < item.label_count; i++)
        fprintf(html, "%s%s", i ? " &middot; " : "", cavmae_loader_class_name(c->loader, item.labels[i]));
}

/* One clip's sound, with a player, or its picture. */
static void write_clip(FILE *html, const clip_set *c, int modality, int64_t clip, int right, const char *caption) {
    fprintf(html, "<figure%s>", right ? " class=\"right\"" : "");
    write_picture(html, c, modality, input_of(c, modality, clip), NULL, modality == AUDIO ? "spectrogram" : "picture");
    if (modality == AUDIO) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        check(cavmae_loader_item_at(c->loader, clip, &item));
        inline_wav(html, item.audio_path);
    }
    fprintf(html, "<figcaption><b>%s</b><br>", caption);
    write_words(html, c, clip);
    fputs("</figcaption></figure>\n", html);
}

/* A query and what comes nearest; the right answer too where it is not among that. */
static void write_search(FILE *html, cavmae_context *context, const run *r, const clip_set *c, int modality,
                         int64_t query) {
    int64_t *ids = allocate((size_t)c->count, sizeof *ids), right = 0;
    float *cosine = allocate((size_t)c->count, sizeof *cosine);
    cavmae_index *index;
    char caption[64];
    check(cavmae_index_create(context, (int32_t)r->dim, &index));
    check(cavmae_index_add(index, r->embedding[!modality], c->count));
    check(cavmae_index_search(index, r->embedding[modality] + query * r->dim, 1, (int32_t)c->count, ids, cosine));
    while (ids[right] != query) right++;
    fputs("<div class=\"row\">", html);
    write_clip(html, c, modality, query, 0, modality == AUDIO ? "Heard" : "Seen");
    fputs("<div class=\"arrow\">&rarr;</div>\n", html);
    for (int64_t i = 0; i < NEAREST; i++) {
        snprintf(caption, sizeof caption, "%" PRId64 "%s", i + 1, i == right ? " &#10003;" : "");
        write_clip(html, c, !modality, ids[i], i == right, caption);
    }
    if (right >= NEAREST) {
        snprintf(caption, sizeof caption, "came %" PRId64 " of %" PRId64, right + 1, c->count);
        write_clip(html, c, !modality, query, 1, caption);
    }
    fputs("</div>\n", html);
    cavmae_index_free(index);
    free(ids);
    free(cosine);
}

/* Clips evenly over the manifest: not chosen by how well they came out. */
static int64_t sample(const clip_set *c, int64_t i, int64_t of) { return (2 * i + 1) * c->count / (2 * of); }

static void write_gallery(FILE *html, cavmae_context *context, const report *r) {
    const run *first = &r->runs[0];
    const clip_set *c = r->clips;
    fprintf(html,
            "<h2>Searching one sense with the other</h2>\n<p>The model has turned each of the %" PRId64
            " held-out sounds and pictures into a point; a search returns the points nearest to the query's. The clip "
            "that really belongs to the query has a <b style=\"color:var(--good)\">green frame</b>; where it is not "
            "among the first %d it is shown at the end of the row. Wrong answers are worth a look: they mostly share "
            "several of the traits named below them. Queries are taken at even distances from the list, not "
            "picked.</p>\n",
            c->count, NEAREST);
    fputs("<h3>A sound finds pictures</h3>\n", html);
    for (int64_t i = 0; i < QUERIES; i++) write_search(html, context, first, c, AUDIO, sample(c, i, QUERIES));
    fputs("<h3>A picture finds sounds</h3>\n", html);
    for (int64_t i = 0; i < QUERIES; i++) write_search(html, context, first, c, VISUAL, sample(c, i, QUERIES));
}

/* ---- Reconstructions ---- */

/* Predictions [tokens, p * p * channels] in place of what was removed. */
static void paint(const clip_set *c, int modality, const float *predicted, const uint8_t *removed, float *values) {
    int64_t p = c->patch, width = modality == AUDIO ? c->frames : c->side,
            height = modality == AUDIO ? c->bins : c->side;
    for (int64_t row = 0; row < height; row++) {
        for (int64_t column = 0; column < width; column++) {
            if (!removed_at(c, removed, row, column, width)) continue;
            int64_t token = row / p * (width / p) + column / p, within = row % p * p + column % p;
            if (modality == AUDIO)
                values[column * height + row] = predicted[token * p * p + within];
            else
                for (int64_t k = 0; k < 3; k++)
                    values[(k * height + row) * width + column] = predicted[(token * p * p + within) * 3 + k];
        }
    }
}

static void write_painted(FILE *html, const clip_set *c, int modality, int64_t clip, const float *predicted,
                          const uint8_t *removed) {
    int64_t elements = modality == AUDIO ? c->frames * c->bins : 3 * c->side * c->side;
    const float *original = input_of(c, modality, clip);
    float *values = allocate((size_t)elements, sizeof *values);
    memcpy(values, original, (size_t)elements * sizeof *values);
    paint(c, modality, predicted, removed, values);
    const struct {
        const char *caption;
        const float *values;
        const uint8_t *removed;
    } shown[3] = {{"original", original, NULL}, {"masked", original, removed}, {"completed", values, NULL}};
    for (int i = 0; i < 3; i++) {
        fputs("<figure>", html);
        write_picture(html, c, modality, shown[i].values, shown[i].removed, shown[i].caption);
        fprintf(html, "<figcaption>%s</figcaption></figure>\n", shown[i].caption);
    }
    free(values);
}

static void write_reconstructions(FILE *html, const report *r) {
    static const int32_t outputs[4] = {CAVMAE_OUT_PRED_A, CAVMAE_OUT_MASK_A, CAVMAE_OUT_PRED_V, CAVMAE_OUT_MASK_V};
    cavmae_trainer *trainer = open_evaluation(r->runs[0].model);
    const clip_set *c = r->clips;
    fprintf(
        html,
        "<h2>Completing what was hidden</h2>\n<p>The other half of the training: patches of both the spectrogram and "
        "the picture are removed (grey), and the model fills them in from what is left of <i>both</i>. In "
        "&ldquo;completed&rdquo; the removed patches are the model's own painting and the others are the original's. "
        "It learnt from error averaged over pixels, so where it is unsure it paints a blur.</p>\n");
    for (int64_t i = 0; i < PAINTED; i++) {
        int64_t clip = sample(c, i, PAINTED);
        cavmae_step_result result = {.struct_size = sizeof result};
        cavmae_batch batch = batch_of(c, clip, 1);
        cavmae_tensor *tensor[4];
        check(cavmae_pretrain_evaluate(trainer, &batch, i, &result));
        for (int k = 0; k < 4; k++) check(cavmae_trainer_output(trainer, outputs[k], &tensor[k]));
        fputs("<p class=\"words\">", html);
        write_words(html, c, clip);
        fputs("</p>\n<div class=\"painted\">", html);
        write_painted(html, c, AUDIO, clip, cavmae_tensor_data(tensor[0]), cavmae_tensor_data(tensor[1]));
        fputs("<span></span>\n", html);
        write_painted(html, c, VISUAL, clip, cavmae_tensor_data(tensor[2]), cavmae_tensor_data(tensor[3]));
        fputs("</div>\n", html);
        for (int k = 0; k < 4; k++) cavmae_tensor_free(tensor[k]);
    }
    cavmae_trainer_free(trainer);
}

/* ---- Curves and tables ---- */

enum { STEP = 0, EPOCH = 1, TRAIN_FIRST = 3, HELD_FIRST = 2 }; /* columns: audio, visual, contrast, accuracy follow */

/* Lines have memory for `most` points. */
static chart_line new_line(const char *name, int64_t most) {
    return (chart_line){
        .name = name, .x = allocate((size_t)most, sizeof(double)), .y = allocate((size_t)most, sizeof(double))};
}

static void add_point(chart_line *line, double x, double y) {
    line->x[line->count] = x;
    line->y[line->count++] = y;
}

/* Means over equal stretches of the run. */
static chart_line training_line(const run *r, int column, double scale) {
    const csv_table *t = &r->losses;
    int64_t stretch = (t->rows + POINTS - 1) / POINTS;
    chart_line line = new_line("train", POINTS);
    for (int64_t first = 0, last; first < t->rows; first = last) {
        double x = 0, y = 0;
        last = first + stretch < t->rows ? first + stretch : t->rows;
        for (int64_t k = first; k < last; k++) {
            x += t->cell[k][STEP] / (double)(last - first);
            y += t->cell[k][column] / (double)(last - first);
        }
        add_point(&line, x, y * scale);
    }
    return line;
}

/* A point for each epoch, where its last step was. */
static chart_line held_out_line(const run *r, int column, double scale) {
    const csv_table *t = &r->validation, *steps = &r->losses;
    chart_line line = new_line("held", t->rows);
    for (int64_t i = 0, k = 0; i < t->rows; i++) {
        while (k + 1 < steps->rows && steps->cell[k + 1][EPOCH] <= t->cell[i][0]) k++;
        add_point(&line, steps->cell[k][STEP], t->cell[i][column] * scale);
    }
    return line;
}

/* Chart 0 to 3: error of sound, of pictures, contrast, matches. */
static void write_chart(FILE *html, const report *r, int which) {
    static const char *const titles[4] = {"Completing sounds", "Completing pictures",
                                          "Telling which sound belongs to which picture", "Right matches in a batch"};
    static const char *const units[4] = {"squared error", "squared error", "contrastive loss (nats)", "share of clips"};
    const scores *s = &r->chance;
    const double chance[4] = {s->mae[AUDIO], s->mae[VISUAL], s->contrast, s->accuracy};
    chart_line *lines = allocate((size_t)r->count * 2, sizeof *lines);
    chart c = {.title = titles[which],
               .x_label = "training step",
               .y_label = units[which],
               .percent = which == 3,
               .chance = chance[which],
               .mark = r->resumed,
               .lines = lines,
               .count = 2 * r->count};
    for (int i = 0; i < r->count; i++) {
        double scale = which == 2 ? 1 / r->runs[i].contrast_weight : 1;
        lines[i] = training_line(&r->runs[i], TRAIN_FIRST + which, scale);
        lines[r->count + i] = held_out_line(&r->runs[i], HELD_FIRST + which, scale);
    }
    chart_write(html, &c);
    for (int i = 0; i < c.count; i++) {
        free(lines[i].x);
        free(lines[i].y);
    }
    free(lines);
}

static void write_curves(FILE *html, const report *r) {
    fprintf(
        html,
        "<h2>How it learnt</h2>\n<p>%d runs, each from other random numbers. <span class=\"key train\"></span>clips "
        "it trains on, <span class=\"key held\"></span>held-out clips. &ldquo;Chance&rdquo; is who always paints the "
        "average, or picks at random.",
        r->count);
    if (r->resumed)
        fprintf(html,
                " The first run was interrupted at step %d and resumed from its checkpoint (the dashed upright line): "
                "its curves go on as if nothing had happened.",
                (int)r->resumed);
    fputs("</p>\n<div class=\"charts\">\n", html);
    for (int which = 0; which < 4; which++) write_chart(html, r, which);
    fputs("</div>\n", html);
}

static void write_retrieval_row(FILE *html, const char *class, const char *name, int run_number, const scores *s) {
    fprintf(html, "<tr class=\"%s\"><td>%s", class, name);
    if (run_number) fprintf(html, ", run %d", run_number);
    fputs("</td>", html);
    for (int m = 0; m < 2; m++)
        fprintf(html, "<td class=\"start\">%.1f %%</td><td>%.1f %%</td><td>%.1f %%</td><td>%.1f</td>",
                100 * s->way[m].r1, 100 * s->way[m].r5, 100 * s->way[m].r10, s->way[m].median_rank);
    fputs("</tr>\n", html);
}

static void write_retrieval(FILE *html, const report *r) {
    fprintf(
        html,
        "<h2>What it can do with clips it never saw</h2>\n<p>R@K is the share of queries whose own clip is among the "
        "first K of all %" PRId64 " held-out clips; the median rank is where it typically comes.</p>\n"
        "<div class=\"scroll\"><table><tr><th></th><th class=\"group start\" colspan=\"4\">a sound finds its "
        "picture</th><th class=\"group start\" colspan=\"4\">a picture finds its sound</th></tr>\n<tr><th></th>",
        r->clips->count);
    for (int m = 0; m < 2; m++)
        fputs("<th class=\"start\">R@1</th><th>R@5</th><th>R@10</th><th>median rank</th>", html);
    fputs("</tr>\n", html);
    write_retrieval_row(html, "", "chance", 0, &r->chance);
    for (int i = 0; i < r->count; i++) write_retrieval_row(html, "", "untrained", i + 1, &r->runs[i].untrained);
    write_retrieval_row(html, "mean", "untrained, mean", 0, &r->untrained);
    for (int i = 0; i < r->count; i++) write_retrieval_row(html, "", "trained", i + 1, &r->runs[i].trained);
    write_retrieval_row(html, "mean", "trained, mean", 0, &r->trained);
    fputs("</table></div>\n", html);
}

static void write_losses(FILE *html, const report *r) {
    const struct {
        const char *name;
        const scores *s;
    } rows[3] = {{"chance", &r->chance}, {"untrained", &r->untrained}, {"trained", &r->trained}};
    fprintf(html,
            "<p>The losses on the same clips, means over the runs. Errors are squared, of removed patches; chance is "
            "who always "
            "answers with the mean, or picks at random; contrast and matches are among %" PRId64
            " clips at a time.</p>\n<div class=\"scroll\"><table>"
            "<tr><th></th><th>error of sounds</th><th>error of pictures</th><th>contrastive loss</th><th>right "
            "matches</th></tr>\n",
            r->runs[0].batch);
    for (int i = 0; i < 3; i++)
        fprintf(html, "<tr class=\"%s\"><td>%s</td><td>%.3f</td><td>%.3f</td><td>%.2f</td><td>%.1f %%</td></tr>\n",
                i == 2 ? "mean" : "", rows[i].name, rows[i].s->mae[AUDIO], rows[i].s->mae[VISUAL], rows[i].s->contrast,
                100 * rows[i].s->accuracy);
    fputs("</table></div>\n", html);
}

/* ---- The page ---- */

static void write_head(FILE *html, const report *r) {
    static const char *const ways[2] = {"of sounds find their picture among the first 10",
                                        "of pictures find their sound among the first 10"};
    const csv_table *steps = &r->runs[0].losses;
    fputs(
        "<h1>Seeing what you hear</h1>\n<p class=\"lead\">What a small CAV-MAE learns in minutes on two CPU cores, "
        "from "
        "pairs of sound and picture alone.</p>\n"
        "<p>Each clip shows one to four shapes over a background, and you hear them beat. Shape goes with timbre, size "
        "with pitch, number with rhythm, background with noise; place and hue say nothing about the sound. Nobody "
        "tells "
        "the model so. It is given pairs, and practises two things: to complete both when parts of them are hidden "
        "(the "
        "masked autoencoder), and to tell which sound belongs to which picture (the contrast).</p>\n"
        "<div class=\"facts\">",
        html);
    for (int m = 0; m < 2; m++)
        fprintf(html, "<div><b>%.0f %%</b><span>%s; by chance %.1f %%</span></div>", 100 * r->trained.way[m].r10,
                ways[m], 100 * r->chance.way[m].r10);
    fprintf(html,
            "<div><b>%" PRId64 "</b><span>held-out clips, with combinations of traits never trained on</span></div>",
            r->clips->count);
    fprintf(html, "<div><b>%.2f M</b><span>parameters; %d runs of %.0f steps</span></div></div>\n",
            (double)cavmae_model_elements(r->runs[0].model, 0) / 1e6, r->count, steps->cell[steps->rows - 1][STEP]);
}

static void write_page(const char *path, cavmae_context *context, const report *r) {
    FILE *html = open_page(path, "libcavmae: demo");
    fputs(demo_style, html);
    page_body(html);
    write_head(html, r);
    write_retrieval(html, r);
    write_losses(html, r);
    write_gallery(html, context, r);
    write_reconstructions(html, r);
    write_curves(html, r);
    close_page(html, path);
}

/* ---- The terminal ---- */

static void print_row(const char *name, const scores *s) {
    printf("%-16s", name);
    for (int m = 0; m < 2; m++)
        printf(" |%5.1f %5.1f %5.1f %6.1f", 100 * s->way[m].r1, 100 * s->way[m].r5, 100 * s->way[m].r10,
               s->way[m].median_rank);
    printf(" |%6.3f %7.3f %8.2f %6.1f\n", s->mae[AUDIO], s->mae[VISUAL], s->contrast, 100 * s->accuracy);
}

/* 1 if the goals are met. */
static int print_report(const report *r) {
    const char *met = "yes";
    printf("%3" PRId64 " held-out    | sound finds picture      | picture finds sound      | error of       contrast\n"
           "clips, %%         |  R@1   R@5  R@10   rank |  R@1   R@5  R@10   rank | sound picture     loss  match\n",
           r->clips->count);
    print_row("chance", &r->chance);
    for (int i = 0; i < r->count; i++) print_row("untrained", &r->runs[i].untrained);
    print_row("untrained, mean", &r->untrained);
    for (int i = 0; i < r->count; i++) print_row("trained", &r->runs[i].trained);
    print_row("trained, mean", &r->trained);
    for (int m = 0; m < 2; m++)
        if (r->trained.way[m].r1 < goal_r1 * r->chance.way[m].r1 ||
            r->trained.way[m].r10 < goal_r10 * r->chance.way[m].r10)
            met = "NO";
    printf("R@1 at least %g times chance and R@10 at least %g times, both ways: %s\n", goal_r1, goal_r10, met);
    return met[0] == 'y';
}

int main(int argc, char **argv) {
    const char *manifest = NULL, *labels = NULL, *out = NULL;
    int32_t threads = 0, resumed = 0;
    words folders = {0};
    const option options[] = {
        {.name = "--runs", .value = "DIR", .help = "what cavmae-pretrain wrote, with --val", .list = &folders},
        {.name = "--manifest", .value = "M.json", .help = "held-out clips", .text = &manifest},
        {.name = "--labels", .value = "L.csv", .help = "their classes, named below the pictures", .text = &labels},
        {.name = "--resumed", .value = "STEP", .help = "where the first run was resumed", .number = &resumed},
        {.name = "--out", .value = "PAGE.html", .help = "where the page goes", .text = &out},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {0}};
    read_options(argc, argv, "shows what training did", options);
    if (!folders.count || !manifest || !labels || !out) die("--runs, --manifest, --labels and --out are needed");

    cavmae_context *context = open_context(NULL, threads, NULL);
    cavmae_model *model = load_model(context, folders.word[0]);
    clip_set clips = read_clips(model, manifest, labels);
    run *runs = allocate((size_t)folders.count, sizeof *runs);
    for (int i = 0; i < folders.count; i++)
        runs[i] = measure_run(context, folders.word[i], i ? load_model(context, folders.word[i]) : model, &clips);
    const report r = {.runs = runs,
                      .count = folders.count,
                      .resumed = resumed,
                      .clips = &clips,
                      .chance = chance_of(&runs[0], &clips),
                      .untrained = mean_of(runs, folders.count, 0),
                      .trained = mean_of(runs, folders.count, 1)};
    write_page(out, context, &r);
    int met = print_report(&r);

    for (int i = 0; i < folders.count; i++) free_run(&runs[i]);
    free(runs);
    free_clip_set(&clips);
    cavmae_context_free(context);
    free(folders.word);
    return met ? 0 : 1;
}
