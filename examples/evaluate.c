/* cavmae-evaluate: a model on a manifest, by the protocols of the paper's tables.
 *
 *   retrieval   sound finds picture and picture finds sound, by the middle frame: recall at 1, 5, 10, ranks
 *   classify    mAP, AUC, d', accuracy of a model with a head; over several frames of each clip, on a subset of classes
 *   pretrain    losses of a pretraining model with masks that are the same every time, of any mode and ratio
 *
 * Keys can be set for studies: shuffle_pairs=1 gives every sound another clip's picture, clip_frames another frame
 * rate, mask_mode_a, mask_ratio_v, ... other masks; and for what a .pth does not say: loss=ce, num_heads. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "class_scores.h"
#include "embed_manifest.h"
#include "program.h"
#include "training.h"

typedef struct evaluation {
    const char *model_path, *manifest, *labels, *mode, *average, *subset, *per_class, *scores;
    int32_t frames, reference_metrics, against, json;
    words settings;
    cavmae_context *context;
    cavmae_model *model;
    cavmae_config *config; /* the model's, data as it is, and what was set */
} evaluation;

/* ---- Results: a table, or one line of JSON ---- */

static void print_string(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < ' ')
            printf("\\u%04x", (unsigned)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

static void say_text(const evaluation *e, const char *key, const char *label, const char *value) {
    if (e->json) {
        printf(", \"%s\": ", key);
        print_string(value);
    } else {
        printf("%-30s %s\n", label, value);
    }
}

/* A share is shown in percent. JSON has no NaN: null. */
static void say(const evaluation *e, const char *key, const char *label, double value, int32_t share) {
    if (!e->json)
        printf(share ? "%-30s %.2f %%\n" : "%-30s %.6g\n", label, share ? 100 * value : value);
    else if (isfinite(value))
        printf(", \"%s\": %.9g", key, value);
    else
        printf(", \"%s\": null", key);
}

static void begin(const evaluation *e, const char *task, int64_t clips) {
    if (e->json) printf("{\"task\": \"%s\"", task);
    say_text(e, "model", "model", e->model_path);
    say_text(e, "manifest", "manifest", e->manifest);
    say(e, "clips", "clips", (double)clips, 0);
    if (e->json) printf(", \"set\": [");
    for (int32_t i = 0; i < e->settings.count; i++) {
        if (e->json && i) printf(", ");
        if (e->json)
            print_string(e->settings.word[i]);
        else
            printf("%-30s %s\n", "set", e->settings.word[i]);
    }
    if (e->json) printf("]");
}

static void end(const evaluation *e) {
    if (e->json) printf("}\n");
}

/* ---- Retrieval ---- */

static void say_direction(const evaluation *e, const char *key, const char *label, const output *queries,
                          const output *gallery, int64_t count) {
    cavmae_retrieval_metrics m = {.struct_size = sizeof m,
                                  .ties = e->against ? CAVMAE_TIES_AGAINST_MATCH : CAVMAE_TIES_FOR_MATCH};
    check(cavmae_retrieval_from_embeddings(e->context, queries->values, gallery->values, count, (int32_t)queries->dim,
                                           &m));
    if (e->json)
        printf(", \"%s\": {\"r1\": %.9g, \"r5\": %.9g, \"r10\": %.9g, \"median_rank\": %.9g, \"mean_rank\": %.9g}", key,
               m.r1, m.r5, m.r10, m.median_rank, m.mean_rank);
    else
        printf("%-30s R@1 %5.1f %%  R@5 %5.1f %%  R@10 %5.1f %%  median rank %g  mean rank %.1f\n", label, 100 * m.r1,
               100 * m.r5, 100 * m.r10, m.median_rank, m.mean_rank);
}

static cavmae_loader *open_loader(const evaluation *e, const cavmae_config *config) {
    cavmae_loader *loader;
    check(cavmae_loader_create(config, e->manifest, e->labels, &loader));
    return loader;
}

static void evaluate_retrieval(const evaluation *e) {
    cavmae_loader *loader = open_loader(e, e->config);
    int64_t most = cavmae_loader_count(loader);
    output gallery[2] = {new_output(e->model, KIND_AUDIO, 0, most), new_output(e->model, KIND_VISUAL, 0, most)};
    clip_list clips = embed_gallery(e->model, loader, gallery, 2);
    begin(e, "retrieval", clips.count);
    say_direction(e, "sound_to_picture", "sound to picture", &gallery[0], &gallery[1], clips.count);
    say_direction(e, "picture_to_sound", "picture to sound", &gallery[1], &gallery[0], clips.count);
    end(e);
    free_clips(&clips);
    free(gallery[0].values);
    free(gallery[1].values);
    cavmae_loader_free(loader);
}

/* ---- Classification ---- */

/* Which of the choices, from 0. */
static int32_t word_of(const char *name, const char *text, const char *const *choices) {
    for (int32_t i = 0; choices[i]; i++)
        if (!strcmp(text, choices[i])) return i;
    die("%s: %s is not one of those that --help names", name, text);
}

/* A class a line: its index, or its display name. */
static uint8_t *read_subset(const char *path, const cavmae_loader *loader) {
    int32_t classes = cavmae_loader_classes(loader);
    uint8_t *subset = allocate((size_t)classes, 1);
    char *line = NULL, *rest;
    size_t size = 0;
    ssize_t length;
    FILE *file = fopen(path, "r");
    if (!file) die("cannot read %s: %s", path, strerror(errno));
    while ((length = getline(&line, &size, file)) > 0) {
        while (length > 0 && strchr(" \t\r\n", line[length - 1])) line[--length] = 0;
        if (!length) continue;
        long index = strtol(line, &rest, 10);
        if (rest == line || *rest)
            for (index = 0; index < classes && strcmp(cavmae_loader_class_name(loader, (int32_t)index), line); index++)
                ;
        if (index < 0 || index >= classes) die("%s: there is no class '%s'", path, line);
        subset[index] = 1;
    }
    free(line);
    fclose(file);
    return subset;
}

/* The loader gives all clip_frames of a clip; `frames` of them, evenly spread, go into the model. */
static cavmae_batch choose_frames(const evaluation *e, const cavmae_batch *batch, float *chosen, int64_t picture) {
    cavmae_batch few = *batch;
    if (!batch->image || batch->frames <= e->frames) return few;
    for (int64_t clip = 0; clip < batch->count; clip++)
        for (int64_t i = 0; i < e->frames; i++)
            memcpy(chosen + (clip * e->frames + i) * picture,
                   batch->image + (clip * batch->frames + i * batch->frames / e->frames) * picture,
                   (size_t)picture * sizeof *chosen);
    few.image = chosen;
    few.frames = e->frames;
    return few;
}

static class_scores score_clips(const evaluation *e, cavmae_loader *loader, int32_t mode, int32_t average) {
    int64_t side = whole_number(e->config, CAVMAE_P_IMAGE_SIZE), batch = whole_number(e->config, CAVMAE_P_BATCH),
            picture = whole_number(e->config, CAVMAE_P_IMAGE_CHANNELS) * side * side;
    int32_t classes = cavmae_loader_classes(loader);
    int64_t most = cavmae_loader_count(loader);
    class_scores scores = new_scores(most, classes);
    float *some = allocate((size_t)batch * (size_t)classes, sizeof *some),
          *chosen = allocate(e->frames > 1 ? (size_t)(batch * e->frames * picture) : 1, sizeof *chosen);
    const cavmae_batch *next;
    const cavmae_embedding out = {.struct_size = sizeof out, .mode = mode, .average = average, .scores = some};
    for (;;) {
        check(cavmae_loader_next(loader, &next));
        if (!next) break;
        const cavmae_batch few = choose_frames(e, next, chosen, picture);
        check(cavmae_embed(e->model, &few, &out));
        add_scores(&scores, some, next->labels, next->count);
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%" PRId64 " of %" PRId64 " clips\033[K", scores.count, most);
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    free(some);
    free(chosen);
    return scores;
}

static void write_per_class(const char *path, const cavmae_loader *loader, const class_scores *s,
                            const class_report *r) {
    FILE *file = fopen(path, "w");
    if (!file) die("cannot write %s: %s", path, strerror(errno));
    fprintf(file, "index,name,positives,average_precision,auc,accuracy\n");
    for (int32_t c = 0; c < s->classes; c++) {
        int64_t positives = 0;
        for (int64_t i = 0; i < s->count; i++) positives += s->targets[i * s->classes + c] > 0.5f;
        fprintf(file, "%d,\"", (int)c);
        for (const char *name = cavmae_loader_class_name(loader, c); *name; name++)
            fprintf(file, *name == '"' ? "\"%c" : "%c", *name);
        fprintf(file, "\",%" PRId64, positives);
        const double values[] = {r->average_precision[c], r->auc[c], r->accuracy[c]};
        for (int i = 0; i < 3; i++) fprintf(file, isnan(values[i]) ? "," : ",%.9g", values[i]);
        fputc('\n', file);
    }
    if (fclose(file) != 0) die("cannot write %s", path);
}

static void write_scores(const evaluation *e, const class_scores *s) {
    const int64_t shape[2] = {s->count, s->classes};
    cavmae_tensor *tensor;
    check(cavmae_tensor_wrap(e->context, s->scores, CAVMAE_FLOAT32, 2, shape, NULL, NULL, &tensor));
    check(cavmae_tensor_save_npy(tensor, e->scores));
    cavmae_tensor_free(tensor);
}

/* Only what the mode looks at is read; nothing of how it was trained matters to a loader. */
static cavmae_loader *open_clips(const evaluation *e, int32_t mode) {
    cavmae_config *config;
    check(cavmae_config_clone(e->config, &config));
    if (e->frames > 1) check(cavmae_config_set_i64(config, CAVMAE_P_FRAME, -3));
    if (mode != CAVMAE_MODE_MULTIMODAL) {
        check(cavmae_config_set(config, "head_input", "joint"));
        check(cavmae_config_set(config, "modality_dropout", "0"));
    }
    if (mode == CAVMAE_MODE_AUDIO_ONLY || mode == CAVMAE_MODE_MISSING_AUDIO_ONLY) {
        check(cavmae_config_set(config, "modalities", "a"));
        check(cavmae_config_set(config, "mode", "audioonly"));
    } else if (mode != CAVMAE_MODE_MULTIMODAL) {
        check(cavmae_config_set(config, "mode", "videoonly"));
        check(cavmae_config_set(config, "modalities", "v"));
    }
    cavmae_loader *loader = open_loader(e, config);
    cavmae_config_free(config);
    return loader;
}

/* The model's; one of one modality has no other. */
static const char *own_mode(const evaluation *e) {
    const char *mode, *modalities;
    check(cavmae_config_get_str(e->config, CAVMAE_P_MODE, &mode));
    check(cavmae_config_get_str(e->config, CAVMAE_P_MODALITIES, &modalities));
    if (!strcmp(modalities, "av")) return mode;
    return !strcmp(modalities, "a") ? "audioonly" : "videoonly";
}

static void evaluate_classes(const evaluation *e) {
    static const char *const modes[] = {"multimodal",       "audioonly",        "videoonly",
                                        "missingaudioonly", "missingvideoonly", NULL};
    static const char *const averages[] = {"scores", "logits", "features", NULL};
    const char *mode_name = e->mode ? e->mode : own_mode(e);
    if (!e->labels) die("--task classify needs --labels");
    int32_t mode = CAVMAE_MODE_MULTIMODAL + word_of("--mode", mode_name, modes),
            average = word_of("--average", e->average ? e->average : "scores", averages);
    int64_t most_frames = whole_number(e->config, CAVMAE_P_CLIP_FRAMES);
    if (e->frames < 1 || e->frames > most_frames)
        die("--frames is %d; a clip has clip_frames = %" PRId64, (int)e->frames, most_frames);
    int64_t classes = whole_number(e->config, CAVMAE_P_CLASSES);
    if (!classes) die("%s has no head to tell classes by: cavmae-finetune trains one", e->model_path);
    cavmae_loader *loader = open_clips(e, mode);
    if (cavmae_loader_classes(loader) != classes)
        die("%s has a head for %" PRId64 " classes, %s has %d", e->model_path, classes, e->labels,
            (int)cavmae_loader_classes(loader));
    uint8_t *subset = e->subset ? read_subset(e->subset, loader) : NULL;
    class_scores scores = score_clips(e, loader, mode, average);
    class_report r = report_scores(e->context, &scores, subset, e->reference_metrics);

    begin(e, "classify", scores.count);
    say_text(e, "mode", "mode", mode_name);
    say(e, "frames", "frames of a clip", e->frames, 0);
    if (e->frames > 1) say_text(e, "average", "averaged over frames", averages[average]);
    if (subset) say_text(e, "subset", "classes of", e->subset);
    say(e, "scored_classes", "classes scored", r.classes.scored_classes, 0);
    say(e, "lacking_classes", "without positives or negatives", r.classes.lacking_classes, 0);
    say(e, "map", "mAP", r.classes.mean_average_precision, 1);
    say(e, "auc", "AUC", r.classes.mean_auc, 0);
    say(e, "d_prime", "d'", r.classes.d_prime, 0);
    say(e, "top1", "accuracy", r.top1.accuracy, 1);
    say(e, "top5", "among the first five", r.top5.accuracy, 1);
    say(e, "mean_class_accuracy", "accuracy, mean over classes", r.top1.mean_class_accuracy, 1);
    say(e, "accuracy_clips", "clips that accuracy counts", (double)r.top1.rows, 0);
    end(e);
    if (e->per_class) write_per_class(e->per_class, loader, &scores, &r);
    if (e->scores) write_scores(e, &scores);
    free_report(&r);
    free_scores(&scores);
    free(subset);
    cavmae_loader_free(loader);
}

/* ---- Pretraining losses ---- */

static void evaluate_losses(const evaluation *e) {
    cavmae_trainer *trainer;
    cavmae_loader *loader = open_loader(e, e->config);
    int64_t clips;
    check(cavmae_trainer_create(e->model, NULL, e->config, &trainer));
    cavmae_step_result s = mean_losses(trainer, loader, &clips);
    begin(e, "pretrain", clips);
    say(e, "loss", "loss", s.loss, 0);
    say(e, "loss_mae_a", "squared error, sound", s.loss_mae_a, 0);
    say(e, "loss_mae_v", "squared error, picture", s.loss_mae_v, 0);
    say(e, "loss_c", "contrast (weighted)", s.loss_c, 0);
    say(e, "accuracy", "matched", s.accuracy, 1);
    say(e, "pairs", "among pairs", (double)s.pairs, 0);
    end(e);
    cavmae_trainer_free(trainer);
    cavmae_loader_free(loader);
}

/* The contrastive loss is of a batch: of as many clips as in training. */
static void keep_batch(const evaluation *e) {
    cavmae_config *own;
    check(cavmae_model_config(e->model, &own));
    check(cavmae_config_set_i64(e->config, CAVMAE_P_BATCH, whole_number(own, CAVMAE_P_BATCH)));
    cavmae_config_free(own);
}

/* ---- Starting ---- */

/* Says a key of model, input contract or objective something else than the model? */
static int32_t model_is_set(const evaluation *e) {
    cavmae_key_info key = {.struct_size = sizeof key};
    cavmae_config *own;
    int32_t differs = 0;
    check(cavmae_model_config(e->model, &own));
    for (int32_t i = 0; !differs && cavmae_config_key_info(i, &key) == CAVMAE_OK; i++) {
        const char *has, *wants;
        if (key.key >= CAVMAE_P_OPTIMIZER) break; /* training's first */
        check(cavmae_config_get_str(own, key.key, &has));
        check(cavmae_config_get_str(e->config, key.key, &wants));
        differs = strcmp(has, wants) != 0;
    }
    cavmae_config_free(own);
    return differs;
}

/* What was set holds for the model as for the clips: the same parameters, with another loss, length of sound, ... */
static void set_model(evaluation *e) {
    cavmae_load_report report = {.struct_size = sizeof report};
    cavmae_model *as_set;
    if (whole_number(e->config, CAVMAE_P_FRAME) == -3) die("--set frame=-3: --frames says how many are averaged");
    if (!model_is_set(e)) return;
    check(cavmae_model_adapt(e->config, e->model, &report, &as_set));
    if (report.missing) die("--set: %s lacks %" PRId64 " parameters of such a model", e->model_path, report.missing);
    cavmae_model_free(e->model);
    e->model = as_set;
}

static void refuse_options_of_others(const evaluation *e, const char *task) {
    int32_t classify =
        e->frames != 1 || e->average || e->mode || e->subset || e->per_class || e->scores || e->reference_metrics;
    if (classify && strcmp(task, "classify") != 0)
        die("--frames, --average, --mode, --subset, --per-class, --scores and --reference-metrics are for --task "
            "classify");
    if (e->against && strcmp(task, "retrieval") != 0) die("--ties-against is for --task retrieval");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(const evaluation *);
    } tasks[] = {{"retrieval", evaluate_retrieval}, {"classify", evaluate_classes}, {"pretrain", evaluate_losses}};
    evaluation e = {.frames = 1};
    const char *task = NULL, *device = NULL;
    int32_t threads = 0;
    const option options[] = {
        {.name = "--task", .value = "T", .help = "retrieval, classify or pretrain", .text = &task},
        {.name = "--model", .value = "F", .help = "model file, checkpoint or .pth", .text = &e.model_path},
        {.name = "--manifest", .value = "M.json", .help = "the clips", .text = &e.manifest},
        {.name = "--labels", .value = "L.csv", .help = "classify: its classes", .text = &e.labels},
        {.name = "--frames",
         .value = "N",
         .help = "classify: so many frames of each clip's clip_frames, evenly spread; 1: the middle one (1)",
         .number = &e.frames},
        {.name = "--average",
         .value = "A",
         .help = "classify: of several frames: scores, logits or features (scores)",
         .text = &e.average},
        {.name = "--mode",
         .value = "M",
         .help = "classify: multimodal, audioonly, videoonly, missingaudioonly or missingvideoonly (the model's)",
         .text = &e.mode},
        {.name = "--subset",
         .value = "FILE",
         .help = "classify: score these classes alone, one a line",
         .text = &e.subset},
        {.name = "--per-class", .value = "OUT.csv", .help = "classify: what each class has", .text = &e.per_class},
        {.name = "--scores", .value = "OUT.npy", .help = "classify: [clips, classes]", .text = &e.scores},
        {.name = "--reference-metrics",
         .help = "classify: classes without positives count, as in the reference",
         .flag = &e.reference_metrics},
        {.name = "--ties-against", .help = "retrieval: equal scores count against the match", .flag = &e.against},
        {.name = "--set", .value = "key=value", .help = "cavmae-info --keys lists them", .list = &e.settings},
        {.name = "--json", .help = "one line of JSON instead of a table", .flag = &e.json},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        {0}};
    read_options(argc, argv, "measures a model on a manifest", options);
    if (!task || !e.model_path || !e.manifest) die("--task, --model and --manifest are needed");
    size_t i = 0, count = sizeof tasks / sizeof *tasks;
    while (i < count && strcmp(task, tasks[i].name) != 0) i++;
    if (i == count) die("--task is retrieval, classify or pretrain, not %s", task);

    refuse_options_of_others(&e, task);
    e.context = open_context(device, threads, NULL);
    check(cavmae_model_load(e.context, e.model_path, 0, NULL, &e.model));
    e.config = gallery_config(e.model);
    if (tasks[i].run == evaluate_losses) keep_batch(&e);
    apply_settings(e.config, &e.settings);
    set_model(&e);
    tasks[i].run(&e);
    cavmae_config_free(e.config);
    cavmae_model_free(e.model);
    cavmae_context_free(e.context);
    free(e.settings.word);
    return 0;
}
