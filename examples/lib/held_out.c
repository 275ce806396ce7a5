#define _GNU_SOURCE
#include "held_out.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embed_manifest.h"
#include "program.h"

/* ---- Clips ---- */

static void read_triple(const cavmae_config *config, int32_t key, double triple[3]) {
    const char *text;
    check(cavmae_config_get_str(config, key, &text));
    if (sscanf(text, "%lf,%lf,%lf", &triple[0], &triple[1], &triple[2]) != 3) die("only RGB pictures can be shown");
}

/* Mean over the channels; values [count, channels, plane]. */
static double variance_of(const float *values, int64_t count, int64_t channels, int64_t plane) {
    double total = 0, n = (double)count * (double)plane;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < count; i++) {
            for (int64_t k = 0; k < plane; k++) {
                double x = values[(i * channels + c) * plane + k];
                sum += x;
                squares += x * x;
            }
        }
        total += squares / n - sum / n * (sum / n);
    }
    return total / (double)channels;
}

clip_set read_clips(cavmae_model *model, const char *manifest, const char *labels) {
    clip_set c = {.loader = open_gallery(model, manifest, labels)};
    cavmae_config *config;
    const cavmae_batch *batch;
    check(cavmae_model_config(model, &config));
    c.frames = whole_number(config, CAVMAE_P_AUDIO_FRAMES);
    c.bins = whole_number(config, CAVMAE_P_MEL_BINS);
    c.side = whole_number(config, CAVMAE_P_IMAGE_SIZE);
    c.patch = whole_number(config, CAVMAE_P_PATCH_SIZE);
    read_triple(config, CAVMAE_P_IMAGE_MEAN, c.mean);
    read_triple(config, CAVMAE_P_IMAGE_STD, c.deviation);
    cavmae_config_free(config);

    int64_t all = cavmae_loader_count(c.loader), sound = c.frames * c.bins, pixels = 3 * c.side * c.side;
    c.audio = allocate((size_t)(all * sound), sizeof *c.audio);
    c.image = allocate((size_t)(all * pixels), sizeof *c.image);
    for (;;) {
        check(cavmae_loader_next(c.loader, &batch));
        if (!batch) break;
        memcpy(c.audio + c.count * sound, batch->audio, (size_t)(batch->count * sound) * sizeof(float));
        memcpy(c.image + c.count * pixels, batch->image, (size_t)(batch->count * pixels) * sizeof(float));
        c.count += batch->count;
    }
    if (c.count < all || !all) die("%s: %" PRId64 " of %" PRId64 " clips can be read", manifest, c.count, all);
    c.quiet = c.loud = c.audio[0];
    for (int64_t i = 0; i < c.count * sound; i++) {
        c.quiet = fminf(c.quiet, c.audio[i]);
        c.loud = fmaxf(c.loud, c.audio[i]);
    }
    c.variance[AUDIO] = variance_of(c.audio, c.count, 1, sound);
    c.variance[VISUAL] = variance_of(c.image, c.count, 3, c.side * c.side);
    return c;
}

void free_clip_set(clip_set *c) {
    free(c->audio);
    free(c->image);
    cavmae_loader_free(c->loader);
}

const float *input_of(const clip_set *c, int modality, int64_t clip) {
    return modality == AUDIO ? c->audio + clip * c->frames * c->bins : c->image + clip * 3 * c->side * c->side;
}

cavmae_batch batch_of(const clip_set *c, int64_t first, int64_t count) {
    return (cavmae_batch){.struct_size = sizeof(cavmae_batch),
                          .count = (int32_t)count,
                          .audio = input_of(c, AUDIO, first),
                          .image = input_of(c, VISUAL, first)};
}

/* ---- Runs ---- */

static csv_table read_table(const char *folder, const char *name) {
    enum { COLUMNS = sizeof *((csv_table *)0)->cell / sizeof(double) };
    char path[4096], *line = NULL;
    size_t size = 0;
    csv_table t = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file) die("cannot read %s: %s", path, strerror(errno));
    if (getline(&line, &size, file) < 0) die("%s is empty", path); /* names */
    while (getline(&line, &size, file) > 0) {
        char *at = line;
        t.cell = realloc(t.cell, (size_t)(t.rows + 1) * sizeof *t.cell);
        if (!t.cell) die("no memory");
        for (int k = 0; k < COLUMNS; k++) {
            t.cell[t.rows][k] = strtod(at, &at);
            if (*at == ',') at++;
        }
        t.rows++;
    }
    if (!t.rows) die("%s has no numbers", path);
    free(line);
    fclose(file);
    return t;
}

cavmae_model *load_model(cavmae_context *context, const char *folder) {
    char path[4096];
    cavmae_model *model;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    check(cavmae_model_load(context, path, 0, NULL, &model));
    return model;
}

cavmae_trainer *open_evaluation(cavmae_model *model) {
    cavmae_config *config;
    cavmae_trainer *trainer;
    check(cavmae_model_config(model, &config));
    check(cavmae_trainer_create(model, NULL, config, &trainer));
    cavmae_config_free(config);
    return trainer;
}

/* Losses over whole batches, with the masks that cavmae-pretrain validated with. */
static scores measure(cavmae_context *context, cavmae_model *model, const run *r, const clip_set *c) {
    scores s = {.way = {{.struct_size = sizeof s.way[0]}, {.struct_size = sizeof s.way[1]}}};
    cavmae_batch all = batch_of(c, 0, c->count);
    const cavmae_embedding out = {
        .struct_size = sizeof out, .audio = r->embedding[AUDIO], .visual = r->embedding[VISUAL]};
    check(cavmae_embed(model, &all, &out));
    for (int m = 0; m < 2; m++)
        check(cavmae_retrieval_from_embeddings(context, r->embedding[m], r->embedding[!m], c->count, (int32_t)r->dim,
                                               &s.way[m]));
    cavmae_trainer *trainer = open_evaluation(model);
    int64_t batches = c->count / r->batch;
    double share = 1 / (double)batches;
    for (int64_t i = 0; i < batches; i++) {
        cavmae_step_result result = {.struct_size = sizeof result};
        cavmae_batch batch = batch_of(c, i * r->batch, r->batch);
        check(cavmae_pretrain_evaluate(trainer, &batch, i, &result));
        s.mae[AUDIO] += share * result.loss_mae_a;
        s.mae[VISUAL] += share * result.loss_mae_v;
        s.contrast += share * result.loss_c / r->contrast_weight;
        s.accuracy += share * result.accuracy;
    }
    cavmae_trainer_free(trainer);
    return s;
}

run measure_run(cavmae_context *context, const char *folder, cavmae_model *model, const clip_set *c) {
    run r = {.folder = folder, .model = model};
    cavmae_config *config;
    cavmae_model *untrained;
    check(cavmae_model_config(model, &config));
    r.dim = whole_number(config, CAVMAE_P_EMBED_DIM);
    r.batch = whole_number(config, CAVMAE_P_BATCH);
    check(cavmae_config_get_f64(config, CAVMAE_P_CONTRAST_WEIGHT, &r.contrast_weight));
    if (!(r.contrast_weight > 0)) die("%s was not trained to tell which sound belongs to which picture", folder);
    if (c->count < r.batch) die("%" PRId64 " clips are less than one batch of %s", c->count, folder);
    r.losses = read_table(folder, "losses.csv");
    r.validation = read_table(folder, "val.csv");
    for (int m = 0; m < 2; m++) r.embedding[m] = allocate((size_t)(c->count * r.dim), sizeof(float));
    check(cavmae_model_create(config, &untrained));
    r.untrained = measure(context, untrained, &r, c);
    r.trained = measure(context, model, &r, c);
    cavmae_model_free(untrained);
    cavmae_config_free(config);
    return r;
}

void free_run(run *r) {
    for (int m = 0; m < 2; m++) free(r->embedding[m]);
    free(r->losses.cell);
    free(r->validation.cell);
    cavmae_model_free(r->model);
}

/* ---- What they are compared by ---- */

scores mean_of(const run *runs, int count, int trained) {
    scores mean = {0};
    for (int i = 0; i < count; i++) {
        const scores *s = trained ? &runs[i].trained : &runs[i].untrained;
        for (int m = 0; m < 2; m++) {
            mean.way[m].r1 += s->way[m].r1 / count;
            mean.way[m].r5 += s->way[m].r5 / count;
            mean.way[m].r10 += s->way[m].r10 / count;
            mean.way[m].median_rank += s->way[m].median_rank / count;
            mean.mae[m] += s->mae[m] / count;
        }
        mean.contrast += s->contrast / count;
        mean.accuracy += s->accuracy / count;
    }
    return mean;
}

scores chance_of(const run *first, const clip_set *c) {
    double n = (double)c->count, batch = (double)first->batch;
    const cavmae_retrieval_metrics way = {.r1 = 1 / n, .r5 = 5 / n, .r10 = 10 / n, .median_rank = (n + 1) / 2};
    return (scores){.way = {way, way},
                    .mae = {c->variance[AUDIO], c->variance[VISUAL]},
                    .contrast = log(batch),
                    .accuracy = 1 / batch};
}
