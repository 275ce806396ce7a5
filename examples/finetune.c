/* cavmae-finetune: trains a head, and with it the model or not, to tell a manifest's classes.
 *
 * Into --out DIR go losses.csv (a line a step), val.csv (a line an epoch), checkpoint.safetensors (every
 * checkpoint_steps and at each epoch's end) and, when all epochs are done, model.safetensors. With --average also
 * epoch-N.safetensors of the epochs from key average_from on, and their mean, model-average.safetensors. Ctrl-C and
 * --resume as of cavmae-pretrain.
 *
 * --world as of cavmae-pretrain; rank 0 writes the files.
 *
 * --probe trains the head alone. Where nothing changes a clip from epoch to epoch (no augmentation, a fixed frame) the
 * encoder sees each clip once, before the first epoch. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "class_scores.h"
#include "feature_cache.h"
#include "open_world.h"
#include "program.h"
#include "training.h"

/* Batches from files, or of features that were computed before. */
typedef struct data_set {
    cavmae_loader *loader;
    feature_cache cache;
    int32_t cached;
} data_set;

typedef struct run {
    const char *out;
    int64_t epochs, checkpoint_steps, average_from; /* average_from 0: none; epochs count from 1 there */
    int32_t classes;
    world_options world;
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    data_set data, validation;
    int32_t validates;
    run_folder folder;
    pace pace;
} run;

/* ---- Data ---- */

static const cavmae_batch *next_batch(data_set *d) {
    const cavmae_batch *batch;
    if (d->cached) return next_of_cache(&d->cache);
    check(cavmae_loader_next(d->loader, &batch));
    return batch;
}

static int64_t epoch_of(const data_set *d) { return d->cached ? d->cache.epoch : cavmae_loader_epoch(d->loader); }

static int64_t batches_of(const data_set *d) { return d->cached ? d->cache.batches : cavmae_loader_batches(d->loader); }

static void free_data(data_set *d) {
    if (d->cached) free_cache(&d->cache);
    cavmae_loader_free(d->loader);
}

static void open_validation(run *r, const char *manifest, const char *labels) {
    cavmae_config *config;
    check(cavmae_config_clone(r->config, &config));
    take_data_as_it_is(config);
    r->validates = 1;
    r->validation.cached = r->data.cached;
    if (r->validation.cached)
        cache_features(&r->validation.cache, r->model, config, manifest, labels, r->world.world);
    else
        check(cavmae_loader_create(config, manifest, labels, &r->validation.loader));
    cavmae_config_free(config);
}

/* ---- What is shown and written ---- */

static void show_step(run *r, const cavmae_step_result *s, int64_t epoch, int32_t last) {
    show_progress(&r->pace, last, epoch, r->epochs, s->step, r->epochs * batches_of(&r->data),
                  "loss %.4f  right %.0f %%", s->loss, 100 * s->accuracy);
}

static void log_step(run *r, const cavmae_step_result *s, int64_t epoch) {
    csv_line(&r->folder.losses, s->step, "%" PRId64 ",%.9g,%.9g,%.9g,%.9g", epoch, s->loss, s->accuracy, s->lr,
             s->grad_norm);
}

/* Sigmoids would leave the order of a class's clips as it is, and round some to ties; softmaxes change it. */
static void softmax_rows(float *rows, int64_t count, int32_t classes) {
    for (float *row = rows; row < rows + count * classes; row += classes) {
        double largest = row[0], sum = 0;
        for (int32_t i = 1; i < classes; i++) largest = fmax(largest, row[i]);
        for (int32_t i = 0; i < classes; i++) sum += exp(row[i] - largest);
        for (int32_t i = 0; i < classes; i++) row[i] = (float)(exp(row[i] - largest) / sum);
    }
}

typedef struct validation {
    double loss;
    class_report report;
} validation;

/* Of all ranks, and the report is rank 0's. */
static validation measure(run *r, cavmae_trainer *trainer) {
    const cavmae_batch *batch;
    const char *loss;
    validation v = {0};
    int64_t most = r->validation.cached ? r->validation.cache.count : cavmae_loader_count(r->validation.loader);
    class_scores scores = new_scores(most, r->classes);
    while ((batch = next_batch(&r->validation)) != NULL) {
        cavmae_step_result s = {.struct_size = sizeof s};
        cavmae_tensor *logits;
        check(cavmae_finetune_evaluate(trainer, batch, &s));
        v.loss += (double)clips_of(batch) * s.loss;
        add_batch(&scores, clips_of(batch));
        if (!batch->count) continue;
        check(cavmae_trainer_output(trainer, CAVMAE_OUT_LOGITS, &logits));
        add_scores(&scores, cavmae_tensor_data(logits), batch->labels, batch->count);
        cavmae_tensor_free(logits);
    }
    gather_scores(&scores, r->world.world);
    if (!scores.count) die("the validation manifest has no clips");
    check(cavmae_config_get_str(r->config, CAVMAE_P_LOSS, &loss));
    if (!strcmp(loss, "ce")) softmax_rows(scores.scores, scores.count, scores.classes);
    v.loss /= (double)scores.count;
    if (r->world.rank == 0) v.report = report_scores(r->context, &scores, NULL, 0);
    free_scores(&scores);
    return v;
}

static void print_validation(const char *what, const validation *v) {
    note("%s: validation loss %.4f  mAP %.4f  AUC %.4f  right %.1f %%, among the first five %.1f %%", what, v->loss,
         v->report.classes.mean_average_precision, v->report.classes.mean_auc, 100 * v->report.top1.accuracy,
         100 * v->report.top5.accuracy);
}

static void validate(run *r, int64_t epoch) {
    char what[40];
    validation v = measure(r, r->trainer);
    if (r->world.rank > 0) return;
    csv_line(&r->folder.validation, epoch, "%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g", v.loss,
             v.report.classes.mean_average_precision, v.report.classes.mean_auc, v.report.classes.d_prime,
             v.report.top1.accuracy, v.report.top5.accuracy, v.report.top1.mean_class_accuracy);
    snprintf(what, sizeof what, "epoch %" PRId64, epoch + 1);
    print_validation(what, &v);
    free_report(&v.report);
}

/* ---- Averaging ---- */

static void epoch_path(const run *r, int64_t epoch, char path[4096]) {
    snprintf(path, 4096, "%s/epoch-%" PRId64 ".safetensors", r->out, epoch);
}

/* The mean of all epochs from average_from on. */
static void average(run *r) {
    int64_t count = r->epochs - r->average_from + 1;
    char path[4096], (*each)[4096] = allocate((size_t)count, sizeof *each);
    const char **paths = allocate((size_t)count, sizeof *paths);
    for (int64_t i = 0; i < count; i++) {
        epoch_path(r, r->average_from + i, each[i]);
        paths[i] = each[i];
    }
    snprintf(path, sizeof path, "%s/model-average.safetensors", r->out);
    if (r->world.rank == 0) check(cavmae_average_models(r->context, paths, count, path));
    note("%s: mean of epochs %" PRId64 " to %" PRId64, path, r->average_from, r->epochs);
    free(each);
    free(paths);
    if (!r->validates) return;
    cavmae_model *model = r->model; /* becomes rank 0's with the trainer */
    cavmae_trainer *trainer;
    if (r->world.rank == 0) check(cavmae_model_load(r->context, path, 0, NULL, &model));
    check(cavmae_trainer_create(model, NULL, r->config, &trainer));
    validation v = measure(r, trainer);
    print_validation("averaged", &v);
    free_report(&v.report);
    cavmae_trainer_free(trainer);
    if (model != r->model) cavmae_model_free(model);
}

/* ---- Training ---- */

static void end_epoch(run *r, int64_t epoch) {
    char path[4096];
    if (r->validates) validate(r, epoch);
    if (!r->average_from || epoch + 1 < r->average_from || r->world.rank > 0) return;
    epoch_path(r, epoch + 1, path);
    check(cavmae_model_save(r->model, path));
}

static void report_steps(run *r, int64_t epoch, int32_t wait, cavmae_step_result *s) {
    while (next_result(r->trainer, wait, s)) {
        if (r->world.rank > 0) continue;
        log_step(r, s, epoch);
        show_step(r, s, epoch, was_interrupted());
    }
}

/* 1: all epochs are done; 0: interrupted. */
static int32_t train(run *r) {
    cavmae_step_result s = {.struct_size = sizeof s};
    check(cavmae_trainer_result(r->trainer, 1, &s));
    int64_t taken = s.step;
    r->pace.started = now();
    for (;;) {
        const cavmae_batch *batch = next_batch(&r->data);
        int64_t epoch = epoch_of(&r->data);
        if (batch) {
            if (epoch >= r->epochs) return 1; /* the checkpoint was of a finished run */
            check(cavmae_finetune_step(r->trainer, batch, NULL));
            r->pace.steps++;
            r->pace.clips += clips_of(batch);
            taken++;
            report_steps(r, epoch, 0, &s);
        } else {
            report_steps(r, epoch, 1, &s);
            if (r->pace.steps && r->world.rank == 0) show_step(r, &s, epoch, 1);
            end_epoch(r, epoch);
        }
        const int32_t stops = any_interrupted(r->world.world, taken, !batch);
        if (!batch || stops || taken % r->checkpoint_steps == 0) {
            report_steps(r, epoch, 1, &s);
            check(cavmae_checkpoint_save(r->trainer, r->data.loader, r->folder.checkpoint));
        }
        if (!batch && epoch + 1 >= r->epochs) return 1;
        if (stops) return 0;
    }
}

/* ---- Starting ---- */

/* Model and input contract as the pretrained model has them; the rest from the recipe, and not from what that model was
 * trained with. */
static cavmae_config *configure(cavmae_context *context, cavmae_model *pretrained, const char *recipe, int32_t probe,
                                const words *settings) {
    cavmae_config *config;
    check(cavmae_config_create(context, NULL, &config));
    take_model_keys(config, pretrained);
    check(cavmae_config_set_i64(config, CAVMAE_P_CLASSES, 1)); /* until the labels are read */
    if (recipe) check(cavmae_config_apply(config, recipe));
    if (probe) check(cavmae_config_set_i64(config, CAVMAE_P_FREEZE_BASE, 1));
    if (probe && !recipe) check(cavmae_config_set_f64(config, CAVMAE_P_LR, 1e-3));
    apply_settings(config, settings);
    return config;
}

static void adapt(run *r, cavmae_model *pretrained) {
    cavmae_load_report report = {.struct_size = sizeof report};
    check(cavmae_model_adapt(r->config, pretrained, &report, &r->model));
    note("%d classes; %" PRId64 " parameters taken over, %" PRId64 " new", (int)r->classes, report.matched,
         report.missing);
}

static void start(run *r, int32_t resume) {
    r->folder.losses.header = "step,epoch,loss,accuracy,lr,grad_norm";
    r->folder.validation.header = "epoch,loss,map,auc,d_prime,top1,top5,mean_class_accuracy";
    if (!open_run_folder(&r->folder, r->out, resume, r->world.world)) return;
    check(cavmae_checkpoint_load(r->trainer, r->data.loader, r->folder.checkpoint));
    if (r->data.cached) { /* without a loader the checkpoint's step says the place */
        cavmae_step_result s = {.struct_size = sizeof s};
        check(cavmae_trainer_result(r->trainer, 1, &s));
        seek_cache(&r->data.cache, s.step);
    }
    note("going on from %s, after %" PRId64 " updates", r->folder.checkpoint, cavmae_optimizer_updates(r->optimizer));
}

int main(int argc, char **argv) {
    run r = {0};
    const char *pretrained_path = NULL, *data = NULL, *labels = NULL, *val = NULL, *recipe = NULL, *device = NULL;
    int32_t resume = 0, probe = 0, averages = 0, threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--model",
         .value = "F",
         .help = "pretrained: model file, checkpoint or .pth",
         .text = &pretrained_path},
        {.name = "--data", .value = "M.json", .help = "training manifest", .text = &data},
        {.name = "--labels", .value = "L.csv", .help = "its classes: index,mid,display_name", .text = &labels},
        {.name = "--val", .value = "V.json", .help = "validation manifest", .text = &val},
        {.name = "--out", .value = "DIR", .help = "where the run's files go", .text = &r.out},
        {.name = "--recipe",
         .value = "R",
         .help = "finetune-as20k, finetune-as2m or finetune-vggsound (finetune-as20k; with --probe none: no "
                 "augmentation, lr=1e-3)",
         .text = &recipe},
        {.name = "--set",
         .value = "key=value",
         .help = "cavmae-info --keys lists them; also checkpoint_steps=1000",
         .list = &settings},
        {.name = "--probe", .help = "linear probe: train the head alone", .flag = &probe},
        {.name = "--average", .help = "average the epochs from key average_from on", .flag = &averages},
        {.name = "--resume", .help = "go on from DIR/checkpoint.safetensors", .flag = &resume},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        WORLD_OPTIONS(r.world),
        {0}};
    read_options(argc, argv, "fine-tunes a pretrained model on a manifest's classes", options);
    if (!pretrained_path || !data || !labels || !r.out) die("--model, --data, --labels and --out are needed");
    r.checkpoint_steps = take_checkpoint_steps(&settings);
    if (!recipe && !probe) recipe = "finetune-as20k";

    cavmae_model *pretrained;
    r.context = open_context_in(&r.world, device, threads, NULL);
    open_world(&r.world, r.context, r.out);
    check(cavmae_model_load(r.context, pretrained_path, 0, NULL, &pretrained));
    r.config = configure(r.context, pretrained, recipe, probe, &settings);
    check(cavmae_config_set_world(r.config, r.world.world));
    r.epochs = whole_number(r.config, CAVMAE_P_EPOCHS);
    if (averages) r.average_from = whole_number(r.config, CAVMAE_P_AVERAGE_FROM);
    if (averages && (r.average_from < 1 || r.average_from > r.epochs))
        die("--average: average_from is %" PRId64 ", and there are epochs 1 to %" PRId64, r.average_from, r.epochs);
    check(cavmae_loader_create(r.config, data, labels, &r.data.loader));
    r.classes = cavmae_loader_classes(r.data.loader);
    check(cavmae_config_set_i64(r.config, CAVMAE_P_CLASSES, r.classes));
    if (recipe) count_milestones_in_epochs(r.config, batches_of(&r.data), &settings);
    adapt(&r, pretrained);
    cavmae_model_free(pretrained);
    r.data.cached = can_cache_features(r.config);
    if (r.data.cached) {
        cavmae_loader_free(r.data.loader);
        r.data.loader = NULL;
        cache_features(&r.data.cache, r.model, r.config, data, labels, r.world.world);
        note("features of %" PRId64 " clips, once for all epochs", r.data.cache.count);
    }
    if (batches_of(&r.data) < 1) die("%s has less than one batch of clips", data);
    if (val) open_validation(&r, val, labels);
    check(cavmae_optimizer_create(r.model, r.config, &r.optimizer));
    check(cavmae_trainer_create(r.model, r.optimizer, r.config, &r.trainer));
    start(&r, resume);

    catch_interrupts();
    int32_t done = train(&r);
    if (done) {
        char final[4096];
        snprintf(final, sizeof final, "%s/model.safetensors", r.out);
        if (r.world.rank == 0) check(cavmae_model_save(r.model, final));
        if (averages) average(&r);
    } else {
        note("interrupted; --resume goes on from %s", r.folder.checkpoint);
    }
    if (r.data.loader && cavmae_loader_broken(r.data.loader))
        warn("%" PRId64 " samples could not be read", cavmae_loader_broken(r.data.loader));

    close_run_folder(&r.folder);
    cavmae_trainer_free(r.trainer);
    cavmae_optimizer_free(r.optimizer);
    cavmae_model_free(r.model);
    free_data(&r.data);
    free_data(&r.validation);
    cavmae_config_free(r.config);
    close_world(&r.world);
    cavmae_context_free(r.context);
    free(settings.word);
    return done ? 0 : 130;
}
