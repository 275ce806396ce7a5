/* cavmae-reproduce: measures the models that `make reproduce` has trained, and says for each finding of the paper
 * whether it held on these clips.
 *
 * A linear probe is trained on each frozen model: 17 classes in four groups (kind, size, count, background); its
 * accuracy is the mean over the groups of the share of held-out clips whose best class of the group is the right one.
 * Retrieval is by cosine in both directions; localisation compares heat maps with where the things are. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

enum { PICTURES = 10, GROUPS = 4, CLASSES = 17, PROBE_EPOCHS = 60, PROBE_BATCH = 64, MOST_SEEDS = 16 };

static const int32_t group_start[GROUPS + 1] = {0, 5, 9, 13, 17};

/* Clips of one manifest in memory; the held-out ones with all pictures. */
typedef struct clip_set {
    int64_t count, sound, picture; /* clips; floats of each */
    int32_t pictures;
    float *audio, *image, *labels;
    cavmae_loader *loader;
} clip_set;

enum { PROBE, PROBE_FRAMES, PROBE_AUDIO, PROBE_VISUAL, RETRIEVE_A, RETRIEVE_V, IOU, METRICS };

static const char *const metric_names[METRICS] = {
    "probe", "10 frames", "sound alone", "picture alone", "sound finds picture", "picture finds sound", "IoU"};

typedef struct study {
    const char *name;
    double value[MOST_SEEDS][METRICS];
} study;

/* ---- Data ---- */

static cavmae_config *config_of(cavmae_context *context, const char *model_path, int32_t pictures) {
    cavmae_model *model;
    cavmae_config *config;
    check(cavmae_model_load(context, model_path, 0, NULL, &model));
    check(cavmae_model_config(model, &config));
    cavmae_model_free(model);
    check(cavmae_config_set_i64(config, CAVMAE_P_SHUFFLE, 0));
    check(cavmae_config_set_i64(config, CAVMAE_P_DROP_LAST, 0));
    check(cavmae_config_set_i64(config, CAVMAE_P_ROLL, 0));
    check(cavmae_config_set_i64(config, CAVMAE_P_FRAME, pictures == 1 ? -1 : -3));
    check(cavmae_config_set_i64(config, CAVMAE_P_CLIP_FRAMES, PICTURES));
    return config;
}

static int64_t whole(const cavmae_config *config, int32_t key) {
    int64_t value;
    check(cavmae_config_get_i64(config, key, &value));
    return value;
}

static clip_set read_clips(const cavmae_config *config, const char *folder, const char *name, int32_t pictures) {
    char manifest[4096], labels[4096];
    const cavmae_batch *batch;
    int64_t side = whole(config, CAVMAE_P_IMAGE_SIZE), taken = 0;
    clip_set c = {.pictures = pictures,
                  .sound = whole(config, CAVMAE_P_AUDIO_FRAMES) * whole(config, CAVMAE_P_MEL_BINS),
                  .picture = 3 * side * side};
    snprintf(manifest, sizeof manifest, "%s/%s", folder, name);
    snprintf(labels, sizeof labels, "%s/labels.csv", folder);
    check(cavmae_loader_create(config, manifest, labels, &c.loader));
    if (cavmae_loader_classes(c.loader) != CLASSES) die("%s has not %d classes", labels, CLASSES);
    c.count = cavmae_loader_count(c.loader);
    c.audio = allocate((size_t)(c.count * c.sound), sizeof *c.audio);
    c.image = allocate((size_t)(c.count * pictures * c.picture), sizeof *c.image);
    c.labels = allocate((size_t)(c.count * CLASSES), sizeof *c.labels);
    for (;; taken += batch->count) {
        check(cavmae_loader_next(c.loader, &batch));
        if (!batch) break;
        size_t n = (size_t)batch->count * sizeof(float);
        memcpy(c.audio + taken * c.sound, batch->audio, n * (size_t)c.sound);
        memcpy(c.image + taken * pictures * c.picture, batch->image, n * (size_t)(pictures * c.picture));
        memcpy(c.labels + taken * CLASSES, batch->labels, n * CLASSES);
    }
    return c;
}

static void free_clips(clip_set *c) {
    free(c->audio);
    free(c->image);
    free(c->labels);
    cavmae_loader_free(c->loader);
}

/* All boxes of the set's clips, in its order. The file has them clip by clip. */
typedef struct box_list {
    double (*box)[4];
    int32_t *counts;
} box_list;

static box_list read_boxes(const char *folder, const clip_set *c) {
    enum { MOST_BOXES = 4 };
    box_list boxes = {allocate((size_t)(MOST_BOXES * c->count), sizeof *boxes.box),
                      allocate((size_t)c->count, sizeof *boxes.counts)};
    char path[4096], id[64];
    double b[4];
    int64_t clip = 0, boxes_read = 0;
    snprintf(path, sizeof path, "%s/boxes.csv", folder);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%*[^\n]") != 0) die("cannot read %s: %s", path, strerror(errno));
    while (fscanf(file, " %63[^,],%lf,%lf,%lf,%lf", id, &b[0], &b[1], &b[2], &b[3]) == 5) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        for (int64_t next = clip; next < c->count; next++) {
            check(cavmae_loader_item_at(c->loader, next, &item));
            if (strcmp(item.id, id) != 0) continue;
            clip = next;
            memcpy(boxes.box[boxes_read++], b, sizeof b);
            if (++boxes.counts[clip] > MOST_BOXES) die("%s: %s has more than %d boxes", path, id, MOST_BOXES);
            break;
        }
    }
    fclose(file);
    return boxes;
}

/* The middle picture of every held-out clip. */
static float *middle_pictures(const clip_set *c) {
    float *middle = allocate((size_t)(c->count * c->picture), sizeof *middle);
    for (int64_t i = 0; i < c->count; i++)
        memcpy(middle + i * c->picture, c->image + (i * c->pictures + c->pictures / 2) * c->picture,
               (size_t)c->picture * sizeof *middle);
    return middle;
}

/* ---- Linear probe ---- */

static cavmae_batch batch_of(const clip_set *c) {
    return (cavmae_batch){.struct_size = sizeof(cavmae_batch),
                          .count = (int32_t)c->count,
                          .audio = c->audio,
                          .image = c->image,
                          .frames = c->pictures};
}

/* The model with a head in the decoder's place. */
static cavmae_model *add_head(cavmae_model *model, cavmae_config **config) {
    static const char *const settings[][2] = {{"classes", "17"},        {"mode", "multimodal"}, {"freeze_base", "1"},
                                              {"loss", "bce"},          {"optimizer", "adamw"}, {"lr", "1e-2"},
                                              {"weight_decay", "1e-3"}, {"batch", "64"},        {"seed", "1"},
                                              {"schedule", "cosine"},   {"total_steps", "900"}, {"warmup_steps", "20"}};
    cavmae_model *probe;
    check(cavmae_model_config(model, config));
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        check(cavmae_config_set(*config, settings[i][0], settings[i][1]));
    check(cavmae_model_adapt(*config, model, NULL, &probe));
    return probe;
}

/* Trains the head on features that were computed once. A fixed order: clip k of a batch is `stride` after the one
 * before it. */
static void train_head(cavmae_model *probe, const cavmae_config *config, const clip_set *train, const float *features,
                       int64_t width) {
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    float *x = allocate((size_t)(PROBE_BATCH * width), sizeof *x), *y = allocate(PROBE_BATCH * CLASSES, sizeof *y);
    const int64_t stride = 379; /* no divisor of the count: every clip comes once before any comes twice */
    check(cavmae_optimizer_create(probe, config, &optimizer));
    check(cavmae_trainer_create(probe, optimizer, config, &trainer));
    int64_t clip = 0;
    for (int64_t step = 0; step < PROBE_EPOCHS * train->count / PROBE_BATCH; step++) {
        for (int64_t i = 0; i < PROBE_BATCH; i++, clip = (clip + stride) % train->count) {
            memcpy(x + i * width, features + clip * width, (size_t)width * sizeof *x);
            memcpy(y + i * CLASSES, train->labels + clip * CLASSES, CLASSES * sizeof *y);
        }
        const cavmae_batch batch = {
            .struct_size = sizeof batch, .count = PROBE_BATCH, .features = x, .labels = y, .classes = CLASSES};
        check(cavmae_finetune_step(trainer, &batch, NULL));
    }
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    free(x);
    free(y);
}

/* Mean over the groups of the share of clips whose best class of the group is the right one. */
static double group_accuracy(cavmae_context *context, const clip_set *c, const float *scores) {
    double sum = 0;
    int64_t *target = allocate((size_t)c->count, sizeof *target);
    for (int g = 0; g < GROUPS; g++) {
        uint8_t subset[CLASSES] = {0};
        cavmae_topk_metrics top = {.struct_size = sizeof top, .subset = subset};
        for (int32_t k = group_start[g]; k < group_start[g + 1]; k++) {
            subset[k] = 1;
            for (int64_t i = 0; i < c->count; i++)
                if (c->labels[i * CLASSES + k] > 0.5f) target[i] = k;
        }
        check(cavmae_topk_accuracy(context, scores, target, c->count, CLASSES, 1, NULL, &top));
        sum += top.accuracy;
    }
    free(target);
    return sum / GROUPS;
}

/* The probe's accuracy with one picture of each held-out clip and, where `frames` is not NULL, with all. */
static double probe(cavmae_context *context, cavmae_model *model, int32_t mode, const clip_set *train,
                    const clip_set *held_out, double *frames) {
    cavmae_config *config;
    cavmae_model *with_head = add_head(model, &config);
    int64_t width = whole(config, CAVMAE_P_EMBED_DIM);
    float *features = allocate((size_t)(train->count * width), sizeof *features);
    float *scores = allocate((size_t)(held_out->count * CLASSES), sizeof *scores);
    float *middle = middle_pictures(held_out);
    cavmae_batch batch = batch_of(train);
    cavmae_embedding out = {.struct_size = sizeof out, .mode = mode, .features = features};
    check(cavmae_embed(model, &batch, &out));
    train_head(with_head, config, train, features, width);
    batch = batch_of(held_out);
    out = (cavmae_embedding){.struct_size = sizeof out, .mode = mode, .scores = scores};
    if (frames) {
        check(cavmae_embed(with_head, &batch, &out));
        *frames = group_accuracy(context, held_out, scores);
    }
    batch.image = middle;
    batch.frames = 1;
    check(cavmae_embed(with_head, &batch, &out));
    double one = group_accuracy(context, held_out, scores);
    free(features);
    free(scores);
    free(middle);
    cavmae_config_free(config);
    cavmae_model_free(with_head);
    return one;
}

/* ---- Retrieval and localisation, on the middle pictures ---- */

static void retrieve(cavmae_context *context, cavmae_model *model, const clip_set *c, const float *middle,
                     int64_t width, double value[METRICS]) {
    float *embedding[2];
    for (int m = 0; m < 2; m++) embedding[m] = allocate((size_t)(c->count * width), sizeof *embedding[m]);
    cavmae_batch batch = batch_of(c);
    const cavmae_embedding out = {.struct_size = sizeof out, .audio = embedding[0], .visual = embedding[1]};
    batch.image = middle;
    batch.frames = 1;
    check(cavmae_embed(model, &batch, &out));
    for (int m = 0; m < 2; m++) {
        cavmae_retrieval_metrics r = {.struct_size = sizeof r, .ties = CAVMAE_TIES_MEAN};
        check(cavmae_retrieval_from_embeddings(context, embedding[m], embedding[1 - m], c->count, (int32_t)width, &r));
        value[m ? RETRIEVE_V : RETRIEVE_A] = r.r10;
    }
    free(embedding[0]);
    free(embedding[1]);
}

static double iou_of(cavmae_context *context, const float *heat, const clip_set *c, const box_list *boxes, int32_t side,
                     int32_t cells, double threshold) {
    cavmae_localization_metrics metrics = {.struct_size = sizeof metrics};
    check(cavmae_localization_from_boxes(context, heat, c->count, cells, cells, side, side,
                                         (const double(*)[4])boxes->box, boxes->counts, threshold, NULL, &metrics));
    return metrics.mean_iou;
}

static double localize(cavmae_context *context, cavmae_model *model, const clip_set *c, const float *middle,
                       const box_list *boxes, int32_t side, int32_t patch) {
    int32_t cells = side / patch;
    float *heat = allocate((size_t)(c->count * cells * cells), sizeof *heat);
    cavmae_batch batch = batch_of(c);
    batch.image = middle;
    batch.frames = 1;
    check(cavmae_localize(model, &batch, heat));
    double iou = iou_of(context, heat, c, boxes, side, cells, 0.5);
    free(heat);
    return iou;
}

/* Of who always points at the whole picture: any two values, and no threshold. */
static double whole_picture(cavmae_context *context, const clip_set *c, const box_list *boxes, int32_t side) {
    float *heat = allocate((size_t)(4 * c->count), sizeof *heat);
    for (int64_t i = 0; i < c->count; i++) heat[4 * i] = 1;
    double iou = iou_of(context, heat, c, boxes, side, 2, 0);
    free(heat);
    return iou;
}

static void measure(cavmae_context *context, cavmae_model *model, const clip_set *train, const clip_set *held_out,
                    const box_list *boxes, double value[METRICS]) {
    cavmae_config *config;
    check(cavmae_model_config(model, &config));
    float *middle = middle_pictures(held_out);
    value[PROBE] = probe(context, model, CAVMAE_MODE_MULTIMODAL, train, held_out, &value[PROBE_FRAMES]);
    value[PROBE_AUDIO] = probe(context, model, CAVMAE_MODE_AUDIO_ONLY, train, held_out, NULL);
    value[PROBE_VISUAL] = probe(context, model, CAVMAE_MODE_VIDEO_ONLY, train, held_out, NULL);
    retrieve(context, model, held_out, middle, whole(config, CAVMAE_P_EMBED_DIM), value);
    value[IOU] = localize(context, model, held_out, middle, boxes, (int32_t)whole(config, CAVMAE_P_IMAGE_SIZE),
                          (int32_t)whole(config, CAVMAE_P_PATCH_SIZE));
    free(middle);
    cavmae_config_free(config);
}

/* ---- Report ---- */

typedef struct spread {
    double mean, deviation;
} spread;

static spread spread_of(const double *values, int32_t count) {
    spread s = {0, 0};
    for (int32_t i = 0; i < count; i++) s.mean += values[i] / count;
    for (int32_t i = 0; i < count; i++) s.deviation += (values[i] - s.mean) * (values[i] - s.mean);
    s.deviation = count > 1 ? sqrt(s.deviation / (count - 1)) : 0;
    return s;
}

static spread metric_of(const study *s, int metric, int32_t seeds) {
    double values[MOST_SEEDS];
    for (int32_t i = 0; i < seeds; i++) values[i] = 100 * s->value[i][metric];
    return spread_of(values, seeds);
}

static const study *find_study(const study *studies, int32_t count, const char *name) {
    for (int32_t i = 0; i < count; i++)
        if (!strcmp(studies[i].name, name)) return &studies[i];
    return NULL;
}

/* A finding: `better` has more of a metric than `worse` has of another. */
typedef struct finding {
    const char *text, *better, *worse;
    int metric, against;
} finding;

static const finding findings[] = {
    {"CAV-MAE classifies better than CAV (contrast alone)", "cav-mae", "cav", PROBE, PROBE},
    {"CAV-MAE classifies better than AV-MAE (reconstruction alone)", "cav-mae", "av-mae", PROBE, PROBE},
    {"AV-MAE classifies better than the vanilla AV-MAE", "av-mae", "vanilla-av-mae", PROBE, PROBE},
    {"CAV-MAE on both modalities classifies better than on sound alone", "cav-mae", "cav-mae", PROBE, PROBE_AUDIO},
    {"CAV-MAE on both modalities classifies better than on pictures alone", "cav-mae", "cav-mae", PROBE, PROBE_VISUAL},
    {"Retrieval needs the contrast: sound finds picture", "cav-mae", "av-mae", RETRIEVE_A, RETRIEVE_A},
    {"Retrieval needs the contrast: picture finds sound", "cav-mae", "av-mae", RETRIEVE_V, RETRIEVE_V},
    {"Reconstruction does not cost retrieval: CAV-MAE at least as good as CAV", "cav-mae", "cav", RETRIEVE_V,
     RETRIEVE_V},
    {"More contrast, better retrieval: lambda 5 above 0.5", "cav-mae", "lambda-0.5", RETRIEVE_V, RETRIEVE_V},
    {"More contrast, better retrieval: lambda 50 above 5", "lambda-50", "cav-mae", RETRIEVE_V, RETRIEVE_V},
    {"Less masking, better retrieval: 25 % above 50 %", "mask-25", "cav-mae", RETRIEVE_V, RETRIEVE_V},
    {"Less masking, better retrieval: 50 % above 75 %", "cav-mae", "mask-75", RETRIEVE_V, RETRIEVE_V},
    {"75 % masking classifies better than 50 %", "mask-75", "cav-mae", PROBE, PROBE},
    {"Unstructured masks classify better than time masks", "cav-mae", "mask-time", PROBE, PROBE},
    {"Unstructured masks classify better than frequency masks", "cav-mae", "mask-frequency", PROBE, PROBE},
    {"Unstructured masks classify better than time-frequency masks", "cav-mae", "mask-time-frequency", PROBE, PROBE},
    {"Frequency masks retrieve better than unstructured ones", "mask-frequency", "cav-mae", RETRIEVE_V, RETRIEVE_V},
    {"Time-frequency masks retrieve better than unstructured ones", "mask-time-frequency", "cav-mae", RETRIEVE_V,
     RETRIEVE_V},
    {"Ten frames classify better than the middle one", "cav-mae", "cav-mae", PROBE_FRAMES, PROBE},
    {"Heat maps find what sounds: trained above untrained", "cav-mae", "untrained", IOU, IOU}};

/* Held: more in every run. Mixed: more on the average. */
static void write_finding(FILE *file, const finding *f, const study *studies, int32_t count, int32_t seeds) {
    const study *better = find_study(studies, count, f->better), *worse = find_study(studies, count, f->worse);
    double difference[MOST_SEEDS];
    int32_t more = 0;
    if (!better || !worse) return;
    for (int32_t i = 0; i < seeds; i++) {
        difference[i] = 100 * (better->value[i][f->metric] - worse->value[i][f->against]);
        more += difference[i] > 0;
    }
    spread s = spread_of(difference, seeds), a = metric_of(better, f->metric, seeds),
           b = metric_of(worse, f->against, seeds);
    fprintf(file, "| %s | %.1f | %.1f | %+.1f ± %.1f | %" PRId32 " of %" PRId32 " | %s |\n", f->text, a.mean, b.mean,
            s.mean, s.deviation, more, seeds,
            more == seeds ? "held"
            : s.mean > 0  ? "on the average"
                          : "did not hold");
}

static void write_report(FILE *file, const study *studies, int32_t count, int32_t seeds, const clip_set *train,
                         const clip_set *held_out, int32_t epochs, double everywhere) {
    fprintf(file, "# What of the paper holds on synthetic scenes\n\n");
    fprintf(file,
            "Written by `make reproduce` (examples/reproduce.sh, examples/reproduce.c): models of 1 million "
            "parameters, %" PRId32 " epochs on %" PRId64 " clips of shapes that sound, %" PRId32 " random starts; "
            "measured on %" PRId64 " held-out clips, whose combinations of kind, size, count and background no "
            "training clip has. Means ± standard deviations over the starts, in per cent. The scale is a "
            "thousandth of the paper's: what holds or does not hold here need not there.\n\n",
            epochs, train->count, seeds, held_out->count);
    fprintf(file,
            "* **probe**: linear probe of the frozen joint stream on 17 classes in four groups, accuracy within "
            "the groups (chance 23.75); **10 frames**: its scores averaged over ten frames, sound encoded "
            "once; **sound alone**, **picture alone**: probes of the single streams.\n"
            "* **finds**: recall among the first 10 of %" PRId64 " (chance %.1f).\n"
            "* **IoU**: heat map above one half, stretched to [0, 1], against the boxes of the things; who points "
            "at the whole picture has %.1f.\n\n",
            held_out->count, 1000.0 / (double)held_out->count, 100 * everywhere);
    fprintf(file, "| |");
    for (int m = 0; m < METRICS; m++) fprintf(file, " %s |", metric_names[m]);
    fprintf(file, "\n|---|");
    for (int m = 0; m < METRICS; m++) fprintf(file, "---|");
    for (int32_t i = 0; i < count; i++) {
        fprintf(file, "\n| %s |", studies[i].name);
        for (int m = 0; m < METRICS; m++) {
            spread s = metric_of(&studies[i], m, seeds);
            fprintf(file, " %.1f ± %.1f |", s.mean, s.deviation);
        }
    }
    fprintf(file, "\n\n`cav-mae` is the base: lambda 5, both modalities masked by 50 %%, unstructured; `cav` has no "
                  "reconstruction, `av-mae` no contrast, `vanilla-av-mae` one joint encoder and masks over both "
                  "modalities together.\n\n"
                  "## The paper's findings\n\n"
                  "The difference is taken start by start. \"Held\": in the paper's direction in every start.\n\n"
                  "| finding | this | that | difference | starts | |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof findings / sizeof *findings; i++)
        write_finding(file, &findings[i], studies, count, seeds);
}

/* ---- The program ---- */

static void run_path(char path[4096], const char *runs, const char *name, const char *seed) {
    snprintf(path, 4096, "%s/%s-%s/model.safetensors", runs, name, seed);
}

/* As before training: from the configuration and the seed. */
static cavmae_model *untrained(cavmae_model *trained) {
    cavmae_config *config;
    cavmae_model *model;
    check(cavmae_model_config(trained, &config));
    check(cavmae_model_create(config, &model));
    cavmae_config_free(config);
    return model;
}

int main(int argc, char **argv) {
    const char *data = NULL, *runs = NULL, *out = NULL;
    words seeds = {0}, names = {0};
    int32_t epochs = 0, threads = 0;
    const option options[] = {
        {.name = "--data", .value = "DIR", .help = "what cavmae-scenes wrote", .text = &data},
        {.name = "--runs", .value = "DIR", .help = "where the runs STUDY-SEED are", .text = &runs},
        {.name = "--studies", .value = "NAMES", .help = "the runs' names; the first is the base", .list = &names},
        {.name = "--seeds", .value = "N", .help = "the runs' seeds", .list = &seeds},
        {.name = "--epochs", .value = "N", .help = "of each run, for the report", .number = &epochs},
        {.name = "--out", .value = "FILE.md", .help = "the report", .text = &out},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {0}};
    read_options(argc, argv, "measures the models of `make reproduce`", options);
    if (!data || !runs || !out || !names.count || !seeds.count)
        die("--data, --runs, --studies, --seeds and --out are needed");
    if (seeds.count > MOST_SEEDS) die("more than %d seeds", MOST_SEEDS);

    char path[4096];
    cavmae_context *context = open_context(NULL, threads, NULL);
    run_path(path, runs, names.word[0], seeds.word[0]);
    cavmae_config *config = config_of(context, path, 1), *frames_config = config_of(context, path, PICTURES);
    clip_set train = read_clips(config, data, "train.json", 1),
             held_out = read_clips(frames_config, data, "val.json", PICTURES);
    box_list boxes = read_boxes(data, &held_out);
    study *studies = allocate((size_t)names.count + 1, sizeof *studies);
    int32_t count = names.count + 1;
    studies[count - 1].name = "untrained";
    for (int32_t i = 0; i < names.count; i++) {
        studies[i].name = names.word[i];
        for (int32_t s = 0; s < seeds.count; s++) {
            cavmae_model *model;
            run_path(path, runs, names.word[i], seeds.word[s]);
            check(cavmae_model_load(context, path, 0, NULL, &model));
            measure(context, model, &train, &held_out, &boxes, studies[i].value[s]);
            if (i == 0) {
                cavmae_model *before = untrained(model);
                measure(context, before, &train, &held_out, &boxes, studies[count - 1].value[s]);
                cavmae_model_free(before);
            }
            cavmae_model_free(model);
        }
        printf("  %-20s probe %.1f %%, sound finds picture %.1f %%\n", studies[i].name,
               metric_of(&studies[i], PROBE, seeds.count).mean, metric_of(&studies[i], RETRIEVE_A, seeds.count).mean);
        fflush(stdout);
    }
    FILE *file = fopen(out, "w");
    if (!file) die("cannot write %s: %s", out, strerror(errno));
    write_report(file, studies, count, seeds.count, &train, &held_out, epochs,
                 whole_picture(context, &held_out, &boxes, (int32_t)whole(config, CAVMAE_P_IMAGE_SIZE)));
    if (fclose(file) != 0) die("cannot write %s: %s", out, strerror(errno));
    free(boxes.box);
    free(boxes.counts);
    free(studies);
    free_clips(&train);
    free_clips(&held_out);
    cavmae_config_free(config);
    cavmae_config_free(frames_config);
    cavmae_context_free(context);
    free(seeds.word);
    free(names.word);
    return 0;
}
