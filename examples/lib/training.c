#define _GNU_SOURCE
#include "training.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- The run's folder ---- */

static int32_t open_own_folder(run_folder *folder, const char *path, int32_t resume) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST) die("cannot make the directory %s: %s", path, strerror(errno));
    snprintf(folder->losses.path, sizeof folder->losses.path, "%s/losses.csv", path);
    snprintf(folder->validation.path, sizeof folder->validation.path, "%s/val.csv", path);
    int32_t there = access(folder->checkpoint, F_OK) == 0;
    if (there && !resume) die("%s holds a run already: give --resume to go on with it, or another --out", path);
    if (!there && resume) fprintf(stderr, "%s does not exist: starting anew\n", folder->checkpoint);
    folder->losses.keep = folder->validation.keep = there;
    return there;
}

int32_t open_run_folder(run_folder *folder, const char *path, int32_t resume, cavmae_world *world) {
    int32_t there = 0;
    snprintf(folder->checkpoint, sizeof folder->checkpoint, "%s/checkpoint.safetensors", path);
    if (cavmae_world_rank(world) == 0) there = open_own_folder(folder, path, resume);
    if (world) check(cavmae_world_broadcast(world, &there, sizeof there, 0));
    return there;
}

void close_run_folder(run_folder *folder) {
    csv_close(&folder->losses);
    csv_close(&folder->validation);
}

/* ---- Interrupts ---- */

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    if (interrupted) _exit(128 + signal_number);
    interrupted = 1;
}

void catch_interrupts(void) {
    struct sigaction action = {.sa_handler = interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int32_t was_interrupted(void) { return interrupted; }

int32_t any_interrupted(cavmae_world *world, int64_t step, int32_t idle) {
    double count = interrupted;
    if (!world) return interrupted;
    if (!idle && step % 16 != 0 && !strcmp(cavmae_world_carrier(world), "nccl")) return 0;
    check(cavmae_world_sum(world, &count, 1));
    return count > 0;
}

/* ---- Progress ---- */

void show_progress(pace *p, int32_t last, int64_t epoch, int64_t epochs, int64_t step, int64_t total,
                   const char *format, ...) {
    double time = now(), seconds = time - p->started;
    int32_t terminal = isatty(STDERR_FILENO);
    if (!last && p->shown > 0 && time - p->shown < (terminal ? 0.1 : 5)) return;
    p->shown = time;
    int64_t left = total > step ? total - step : 0, wait = (int64_t)((double)left * seconds / (double)p->steps);
    fprintf(stderr, "%sepoch %" PRId64 "/%" PRId64 "  step %" PRId64 "/%" PRId64 "  ", terminal ? "\r" : "", epoch + 1,
            epochs, step, total);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "  %.1f clips/s  %" PRId64 ":%02d:%02d left%s", (double)p->clips / seconds, wait / 3600,
            (int)(wait / 60 % 60), (int)(wait % 60),
            !terminal ? "\n"
            : last    ? "\033[K\n"
                      : "\033[K");
}

/* ---- Settings ---- */

int32_t next_result(cavmae_trainer *trainer, int32_t wait, cavmae_step_result *s) {
    const int64_t before = s->step;
    check(cavmae_trainer_result(trainer, 0, s));
    if (s->step == before && wait) check(cavmae_trainer_result(trainer, 1, s));
    return s->step != before;
}

int64_t take_checkpoint_steps(words *settings) {
    static const char key[] = "checkpoint_steps=";
    int64_t steps = 1000;
    int32_t left = 0;
    for (int32_t i = 0; i < settings->count; i++) {
        char *word = settings->word[i], *end;
        if (strncmp(word, key, strlen(key)) != 0) {
            settings->word[left++] = word;
            continue;
        }
        steps = strtoll(word + strlen(key), &end, 10);
        if (end == word + strlen(key) || *end || steps < 1) die("%s must be a whole number from 1 on", word);
    }
    settings->count = left;
    return steps;
}

void count_milestones_in_epochs(cavmae_config *config, int64_t batches, const words *settings) {
    for (int32_t i = 0; i < settings->count; i++)
        if (!strncmp(settings->word[i], "milestone_unit=", 15)) return;
    int64_t updates = batches / whole_number(config, CAVMAE_P_ACCUMULATE);
    check(cavmae_config_set_i64(config, CAVMAE_P_MILESTONE_UNIT, updates > 1 ? updates : 1));
}

void take_model_keys(cavmae_config *config, const cavmae_model *model) {
    cavmae_config *own;
    cavmae_key_info key = {.struct_size = sizeof key};
    check(cavmae_model_config(model, &own));
    for (int32_t i = 0; cavmae_config_key_info(i, &key) == CAVMAE_OK; i++) {
        const char *value;
        if (key.key >= CAVMAE_P_MAE_WEIGHT) break; /* the objective's first */
        check(cavmae_config_get_str(own, key.key, &value));
        check(cavmae_config_set(config, key.name, value));
    }
    cavmae_config_free(own);
}

/* ---- Measuring ---- */

void take_data_as_it_is(cavmae_config *config) {
    static const int32_t off[] = {CAVMAE_P_SHUFFLE,   CAVMAE_P_DROP_LAST, CAVMAE_P_NOISE,    CAVMAE_P_ROLL,
                                  CAVMAE_P_FREQ_MASK, CAVMAE_P_TIME_MASK, CAVMAE_P_BALANCED, CAVMAE_P_SHUFFLE_PAIRS};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) check(cavmae_config_set_i64(config, off[i], 0));
    check(cavmae_config_set_f64(config, CAVMAE_P_MIXUP, 0));
    check(cavmae_config_set_f64(config, CAVMAE_P_LABEL_SMOOTHING, 0));
    check(cavmae_config_set_i64(config, CAVMAE_P_FRAME, -1));
}

int64_t clips_of(const cavmae_batch *batch) { return batch->world_count ? batch->world_count : batch->count; }

cavmae_step_result mean_losses(cavmae_trainer *trainer, cavmae_loader *loader, int64_t *clips) {
    cavmae_step_result sum = {.struct_size = sizeof sum};
    const cavmae_batch *batch;
    *clips = 0;
    for (int64_t i = 0;; i++) {
        cavmae_step_result s = {.struct_size = sizeof s};
        check(cavmae_loader_next(loader, &batch));
        if (!batch) break;
        check(cavmae_pretrain_evaluate(trainer, batch, i, &s));
        const int64_t count = clips_of(batch);
        *clips += count;
        sum.loss += (double)count * s.loss;
        sum.loss_mae_a += (double)count * s.loss_mae_a;
        sum.loss_mae_v += (double)count * s.loss_mae_v;
        sum.loss_c += (double)count * s.loss_c;
        sum.accuracy += (double)count * s.accuracy;
        if (s.pairs > sum.pairs) sum.pairs = s.pairs;
    }
    if (!*clips) die("the manifest has no clips");
    double n = (double)*clips;
    sum.loss /= n;
    sum.loss_mae_a /= n;
    sum.loss_mae_v /= n;
    sum.loss_c /= n;
    sum.accuracy /= n;
    return sum;
}
