/* cavmae-pretrain: trains a model on a manifest.
 *
 * Into --out DIR go losses.csv (a line a step), val.csv (a line an epoch), checkpoint.safetensors (every
 * checkpoint_steps and at each epoch's end) and, when all epochs are done, model.safetensors. Ctrl-C finishes the
 * step, writes a checkpoint and ends; --resume goes on from there, bit for bit. A second Ctrl-C ends at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv_log.h"
#include "program.h"

typedef struct run {
    int64_t epochs, checkpoint_steps;
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    cavmae_trainer *trainer;
    cavmae_loader *loader, *validation;
    char checkpoint[4096], final[4096];
    csv_log losses, validation_losses;
    /* for the progress line */
    double started, shown;
    int64_t steps, clips; /* of this process */
} run;

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    if (interrupted) _exit(128 + signal_number);
    interrupted = 1;
}

/* epochs and checkpoint_steps are this program's, every other key the library's. */
static void take_own_keys(run *r, words *settings) {
    struct {
        const char *key;
        int64_t *value;
    } own[] = {{"epochs=", &r->epochs}, {"checkpoint_steps=", &r->checkpoint_steps}};
    int32_t left = 0;
    for (int32_t i = 0; i < settings->count; i++) {
        char *word = settings->word[i], *end;
        size_t k = 0;
        while (k < 2 && strncmp(word, own[k].key, strlen(own[k].key)) != 0) k++;
        if (k == 2) {
            settings->word[left++] = word;
            continue;
        }
        const char *value = word + strlen(own[k].key);
        *own[k].value = strtoll(value, &end, 10);
        if (end == value || *end || *own[k].value < 1) die("%s must be a whole number from 1 on", word);
    }
    settings->count = left;
}

/* ---- What is shown and written ---- */

static void show_progress(run *r, const cavmae_step_result *s, int64_t epoch, int32_t last) {
    double time = now(), seconds = time - r->started;
    int32_t terminal = isatty(STDERR_FILENO);
    if (!last && r->shown > 0 && time - r->shown < (terminal ? 0.1 : 5)) return;
    r->shown = time;
    int64_t total = r->epochs * cavmae_loader_batches(r->loader), left = total > s->step ? total - s->step : 0;
    int64_t wait = (int64_t)((double)left * seconds / (double)r->steps);
    fprintf(stderr,
            "%sepoch %" PRId64 "/%" PRId64 "  step %" PRId64 "/%" PRId64
            "  loss %.4f (audio %.4f, visual %.4f, contrast %.4f, matched %.0f %%)  %.1f clips/s  %" PRId64
            ":%02d:%02d left%s",
            terminal ? "\r" : "", epoch + 1, r->epochs, s->step, total, s->loss, s->loss_mae_a, s->loss_mae_v,
            s->loss_c, 100 * s->accuracy, (double)r->clips / seconds, wait / 3600, (int)(wait / 60 % 60),
            (int)(wait % 60),
            !terminal ? "\n"
            : last    ? "\033[K\n"
                      : "\033[K");
}

static void log_step(run *r, const cavmae_step_result *s, int64_t epoch) {
    csv_line(&r->losses, s->step, "%" PRId64 ",%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g", epoch, s->loss, s->loss_mae_a,
             s->loss_mae_v, s->loss_c, s->accuracy, s->lr, s->grad_norm);
}

/* Means over all clips of the validation set, with the same masks at every epoch. */
static void validate(run *r, int64_t epoch) {
    cavmae_step_result sum = {0};
    const cavmae_batch *batch;
    int64_t clips = 0;
    for (int64_t i = 0;; i++) {
        cavmae_step_result s = {.struct_size = sizeof s};
        check(cavmae_loader_next(r->validation, &batch));
        if (!batch) break;
        check(cavmae_pretrain_evaluate(r->trainer, batch, i, &s));
        clips += batch->count;
        sum.loss += batch->count * s.loss;
        sum.loss_mae_a += batch->count * s.loss_mae_a;
        sum.loss_mae_v += batch->count * s.loss_mae_v;
        sum.loss_c += batch->count * s.loss_c;
        sum.accuracy += batch->count * s.accuracy;
    }
    if (!clips) die("the validation manifest has no clips");
    double n = (double)clips;
    csv_line(&r->validation_losses, epoch, "%.9g,%.9g,%.9g,%.9g,%.9g", sum.loss / n, sum.loss_mae_a / n,
             sum.loss_mae_v / n, sum.loss_c / n, sum.accuracy / n);
    fprintf(stderr,
            "epoch %" PRId64 ": validation loss %.4f (audio %.4f, visual %.4f, contrast %.4f, matched %.0f %%)\n",
            epoch + 1, sum.loss / n, sum.loss_mae_a / n, sum.loss_mae_v / n, sum.loss_c / n, 100 * sum.accuracy / n);
}

/* ---- Training ---- */

/* 1: all epochs are done; 0: interrupted. */
static int32_t train(run *r) {
    cavmae_step_result s = {.struct_size = sizeof s};
    const cavmae_batch *batch;
    r->started = now();
    for (;;) {
        check(cavmae_loader_next(r->loader, &batch));
        int64_t epoch = cavmae_loader_epoch(r->loader);
        if (batch) {
            if (epoch >= r->epochs) return 1; /* the checkpoint was of a finished run */
            check(cavmae_pretrain_step(r->trainer, batch, &s));
            r->steps++;
            r->clips += batch->count;
            log_step(r, &s, epoch);
            show_progress(r, &s, epoch, interrupted);
        } else {
            if (r->steps) show_progress(r, &s, epoch, 1);
            if (r->validation) validate(r, epoch);
        }
        if (!batch || interrupted || s.step % r->checkpoint_steps == 0)
            check(cavmae_checkpoint_save(r->trainer, r->loader, r->checkpoint));
        if (!batch && epoch + 1 >= r->epochs) return 1;
        if (interrupted) return 0;
    }
}

static void open_validation(run *r, const char *manifest, const char *labels) {
    static const int32_t off[] = {CAVMAE_P_SHUFFLE, CAVMAE_P_DROP_LAST, CAVMAE_P_NOISE, CAVMAE_P_ROLL};
    cavmae_config *config;
    check(cavmae_config_clone(r->config, &config));
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) check(cavmae_config_set_i64(config, off[i], 0));
    check(cavmae_config_set_i64(config, CAVMAE_P_FRAME, -1));
    check(cavmae_loader_create(config, manifest, labels, &r->validation));
    cavmae_config_free(config);
}

/* A new run, or one that goes on: never over another's files. */
static void start(run *r, const char *out, int32_t resume) {
    if (mkdir(out, 0777) != 0 && errno != EEXIST) die("cannot make the directory %s: %s", out, strerror(errno));
    snprintf(r->checkpoint, sizeof r->checkpoint, "%s/checkpoint.safetensors", out);
    snprintf(r->final, sizeof r->final, "%s/model.safetensors", out);
    snprintf(r->losses.path, sizeof r->losses.path, "%s/losses.csv", out);
    snprintf(r->validation_losses.path, sizeof r->validation_losses.path, "%s/val.csv", out);
    r->losses.header = "step,epoch,loss,loss_mae_a,loss_mae_v,loss_c,accuracy,lr,grad_norm";
    r->validation_losses.header = "epoch,loss,loss_mae_a,loss_mae_v,loss_c,accuracy";

    int32_t there = access(r->checkpoint, F_OK) == 0;
    if (there && !resume) die("%s holds a run already: give --resume to go on with it, or another --out", out);
    if (there) {
        check(cavmae_checkpoint_load(r->trainer, r->loader, r->checkpoint));
        r->losses.keep = r->validation_losses.keep = 1;
        fprintf(stderr, "going on from %s, after %" PRId64 " updates\n", r->checkpoint,
                cavmae_optimizer_updates(r->optimizer));
    } else if (resume) {
        fprintf(stderr, "%s does not exist: starting anew\n", r->checkpoint);
    }
}

int main(int argc, char **argv) {
    run r = {.epochs = 25, .checkpoint_steps = 1000};
    const char *data = NULL, *labels = NULL, *val = NULL, *out = NULL, *preset = "base", *device = NULL;
    int32_t resume = 0, threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--data", .value = "M.json", .help = "training manifest", .text = &data},
        {.name = "--labels",
         .value = "L.csv",
         .help = "the manifest's classes; pretraining does not use them",
         .text = &labels},
        {.name = "--val", .value = "V.json", .help = "validation manifest", .text = &val},
        {.name = "--out", .value = "DIR", .help = "where the run's files go", .text = &out},
        {.name = "--preset", .value = "P", .help = "base or tiny (base)", .text = &preset},
        {.name = "--set",
         .value = "key=value",
         .help = "cavmae-info --keys lists them; also epochs=25, checkpoint_steps=1000",
         .list = &settings},
        {.name = "--resume", .help = "go on from DIR/checkpoint.safetensors", .flag = &resume},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = "cpu, cuda, cuda:N or auto (cpu)", .text = &device},
        {0}};
    read_options(argc, argv, "trains a model on a manifest", options);
    if (!data || !out) die("--data and --out are needed");
    take_own_keys(&r, &settings);

    r.context = open_context(device, threads, NULL);
    r.config = open_config(r.context, preset, &settings);
    check(cavmae_loader_create(r.config, data, labels, &r.loader));
    if (cavmae_loader_batches(r.loader) < 1)
        die("%s has %" PRId64 " clips, less than one batch", data, cavmae_loader_count(r.loader));
    if (val) open_validation(&r, val, labels);
    check(cavmae_model_create(r.config, &r.model));
    check(cavmae_optimizer_create(r.model, r.config, &r.optimizer));
    check(cavmae_trainer_create(r.model, r.optimizer, r.config, &r.trainer));
    start(&r, out, resume);

    struct sigaction action = {.sa_handler = interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int32_t done = train(&r);
    if (done)
        check(cavmae_model_save(r.model, r.final));
    else
        fprintf(stderr, "interrupted; --resume goes on from %s\n", r.checkpoint);
    if (cavmae_loader_broken(r.loader))
        fprintf(stderr, "%" PRId64 " samples could not be read\n", cavmae_loader_broken(r.loader));

    csv_close(&r.losses);
    csv_close(&r.validation_losses);
    cavmae_trainer_free(r.trainer);
    cavmae_optimizer_free(r.optimizer);
    cavmae_model_free(r.model);
    cavmae_loader_free(r.loader);
    cavmae_loader_free(r.validation);
    cavmae_config_free(r.config);
    cavmae_context_free(r.context);
    free(settings.word);
    return done ? 0 : 130;
}
