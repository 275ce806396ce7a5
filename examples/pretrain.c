/* cavmae-pretrain: trains a model on a manifest.
 *
 * Into --out DIR go losses.csv (a line a step), val.csv (a line an epoch), checkpoint.safetensors (every
 * checkpoint_steps and at each epoch's end) and, when all epochs are done, model.safetensors. Ctrl-C finishes the
 * step, writes a checkpoint and ends; --resume goes on from there, bit for bit. A second Ctrl-C ends at once.
 *
 * --world auto trains together with the other ranks that torchrun, srun or mpirun started: docs/PARALLEL.md. Rank 0
 * writes the files. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "open_world.h"
#include "program.h"
#include "training.h"

typedef struct run {
    int64_t epochs, checkpoint_steps;
    world_options world;
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    cavmae_loader *loader, *validation;
    run_folder folder;
    pace pace;
} run;

/* ---- What is shown and written ---- */

static void show_step(run *r, const cavmae_step_result *s, int64_t epoch, int32_t last) {
    show_progress(&r->pace, last, epoch, r->epochs, s->step, r->epochs * cavmae_loader_batches(r->loader),
                  "loss %.4f (audio %.4f, visual %.4f, contrast %.4f, matched %.0f %% among %" PRId64 ")", s->loss,
                  s->loss_mae_a, s->loss_mae_v, s->loss_c, 100 * s->accuracy, s->pairs);
}

static void log_step(run *r, const cavmae_step_result *s, int64_t epoch) {
    csv_line(&r->folder.losses, s->step, "%" PRId64 ",%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g", epoch, s->loss,
             s->loss_mae_a, s->loss_mae_v, s->loss_c, s->accuracy, s->lr, s->grad_norm);
}

static void validate(run *r, int64_t epoch) {
    int64_t clips;
    cavmae_step_result s = mean_losses(r->trainer, r->validation, &clips);
    if (r->world.rank > 0) return;
    csv_line(&r->folder.validation, epoch, "%.9g,%.9g,%.9g,%.9g,%.9g", s.loss, s.loss_mae_a, s.loss_mae_v, s.loss_c,
             s.accuracy);
    note("epoch %" PRId64 ": validation loss %.4f (audio %.4f, visual %.4f, contrast %.4f, matched %.0f %%)", epoch + 1,
         s.loss, s.loss_mae_a, s.loss_mae_v, s.loss_c, 100 * s.accuracy);
}

/* ---- Training ---- */

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
    const cavmae_batch *batch;
    check(cavmae_trainer_result(r->trainer, 1, &s));
    int64_t taken = s.step;
    r->pace.started = now();
    for (;;) {
        check(cavmae_loader_next(r->loader, &batch));
        int64_t epoch = cavmae_loader_epoch(r->loader);
        if (batch) {
            if (epoch >= r->epochs) return 1; /* the checkpoint was of a finished run */
            check(cavmae_pretrain_step(r->trainer, batch, NULL));
            r->pace.steps++;
            r->pace.clips += clips_of(batch);
            taken++;
            report_steps(r, epoch, 0, &s);
        } else {
            report_steps(r, epoch, 1, &s);
            if (r->pace.steps && r->world.rank == 0) show_step(r, &s, epoch, 1);
            if (r->validation) validate(r, epoch);
        }
        const int32_t stops = any_interrupted(r->world.world, taken, !batch);
        if (!batch || stops || taken % r->checkpoint_steps == 0) {
            report_steps(r, epoch, 1, &s);
            check(cavmae_checkpoint_save(r->trainer, r->loader, r->folder.checkpoint));
        }
        if (!batch && epoch + 1 >= r->epochs) return 1;
        if (stops) return 0;
    }
}

static void open_validation(run *r, const char *manifest, const char *labels) {
    cavmae_config *config;
    check(cavmae_config_clone(r->config, &config));
    take_data_as_it_is(config);
    check(cavmae_loader_create(config, manifest, labels, &r->validation));
    cavmae_config_free(config);
}

/* A new model; or from another one's parameters, with a new decoder where that has none. */
static void make_model(run *r, cavmae_model *from) {
    cavmae_load_report report = {.struct_size = sizeof report};
    if (!from) {
        check(cavmae_model_create(r->config, &r->model));
        return;
    }
    check(cavmae_model_adapt(r->config, from, &report, &r->model));
    note("%" PRId64 " parameters taken over, %" PRId64 " new", report.matched, report.missing);
    cavmae_model_free(from);
}

static void start(run *r, const char *out, int32_t resume) {
    r->folder.losses.header = "step,epoch,loss,loss_mae_a,loss_mae_v,loss_c,accuracy,lr,grad_norm";
    r->folder.validation.header = "epoch,loss,loss_mae_a,loss_mae_v,loss_c,accuracy";
    if (!open_run_folder(&r->folder, out, resume, r->world.world)) return;
    check(cavmae_checkpoint_load(r->trainer, r->loader, r->folder.checkpoint));
    note("going on from %s, after %" PRId64 " updates", r->folder.checkpoint, cavmae_optimizer_updates(r->optimizer));
}

int main(int argc, char **argv) {
    run r = {0};
    const char *data = NULL, *labels = NULL, *val = NULL, *out = NULL, *preset = "base", *recipe = NULL, *device = NULL,
               *from_path = NULL;
    cavmae_model *from = NULL;
    int32_t resume = 0, threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--data", .value = "M.json", .help = "training manifest, or packed data set", .text = &data},
        {.name = "--media", .value = "DIR", .help = "folder of media files in the manifest's place", .text = &data},
        {.name = "--labels",
         .value = "L.csv",
         .help = "the manifest's classes; pretraining does not use them",
         .text = &labels},
        {.name = "--val", .value = "V.json", .help = "validation manifest", .text = &val},
        {.name = "--out", .value = "DIR", .help = "where the run's files go", .text = &out},
        {.name = "--preset", .value = "P", .help = "base or tiny (base)", .text = &preset},
        {.name = "--model",
         .value = "F",
         .help = "start from this one's parameters: a model in any form, also a vision MAE's .pth",
         .text = &from_path},
        {.name = "--recipe",
         .value = "R",
         .help = "pretrain-base, pretrain-scale+, ...; milestones are epochs then",
         .text = &recipe},
        {.name = "--set",
         .value = "key=value",
         .help = "cavmae-info --keys lists them; also checkpoint_steps=1000",
         .list = &settings},
        {.name = "--resume", .help = "go on from DIR/checkpoint.safetensors", .flag = &resume},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        WORLD_OPTIONS(r.world),
        {0}};
    read_options(argc, argv, "trains a model on a manifest", options);
    if (!data || !out) die("--data or --media, and --out are needed");
    r.checkpoint_steps = take_checkpoint_steps(&settings);

    r.context = open_context_in(&r.world, device, threads, NULL);
    r.config = open_config(r.context, preset, &(words){0});
    open_world(&r.world, r.context, out);
    if (from_path) {
        check(cavmae_model_load(r.context, from_path, 0, NULL, &from));
        take_model_keys(r.config, from);
        check(cavmae_config_set_i64(r.config, CAVMAE_P_CLASSES, 0)); /* a head is not trained here, but a decoder */
        check(cavmae_config_set_i64(r.config, CAVMAE_P_DECODER, 1));
    }
    if (recipe) check(cavmae_config_apply(r.config, recipe));
    apply_settings(r.config, &settings);
    check(cavmae_config_set_world(r.config, r.world.world));
    r.epochs = whole_number(r.config, CAVMAE_P_EPOCHS);
    check(cavmae_loader_create(r.config, data, labels, &r.loader));
    if (cavmae_loader_batches(r.loader) < 1)
        die("%s has %" PRId64 " clips, less than one batch", data, cavmae_loader_count(r.loader));
    if (recipe) count_milestones_in_epochs(r.config, cavmae_loader_batches(r.loader), &settings);
    if (val) open_validation(&r, val, labels);
    make_model(&r, from);
    check(cavmae_optimizer_create(r.model, r.config, &r.optimizer));
    check(cavmae_trainer_create(r.model, r.optimizer, r.config, &r.trainer));
    start(&r, out, resume);

    catch_interrupts();
    char final[4096];
    snprintf(final, sizeof final, "%s/model.safetensors", out);
    int32_t done = train(&r);
    if (done && r.world.rank == 0) check(cavmae_model_save(r.model, final));
    if (!done) note("interrupted; --resume goes on from %s", r.folder.checkpoint);
    if (cavmae_loader_broken(r.loader)) warn("%" PRId64 " samples could not be read", cavmae_loader_broken(r.loader));

    close_run_folder(&r.folder);
    cavmae_trainer_free(r.trainer);
    cavmae_optimizer_free(r.optimizer);
    cavmae_model_free(r.model);
    cavmae_loader_free(r.loader);
    cavmae_loader_free(r.validation);
    cavmae_config_free(r.config);
    close_world(&r.world);
    cavmae_context_free(r.context);
    free(settings.word);
    return done ? 0 : 130;
}
