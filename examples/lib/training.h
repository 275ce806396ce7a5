/* What the training programs share: the run's folder, ending on Ctrl-C, the progress line, losses on a manifest. */
#ifndef EXAMPLE_TRAINING_H
#define EXAMPLE_TRAINING_H

#include "cavmae.h"
#include "csv_log.h"
#include "program.h"

/* A folder with checkpoint.safetensors, losses.csv (a line a step) and val.csv (a line an epoch). */
typedef struct run_folder {
    char checkpoint[4096];
    csv_log losses, validation; /* the headers are the program's to set */
} run_folder;

/* For a new run or one that goes on: never over another's files. 1: the checkpoint is there, and to be loaded. In a world
 * (NULL: none) rank 0 opens it, and all are told. */
int32_t open_run_folder(run_folder *folder, const char *path, int32_t resume, cavmae_world *world);
void close_run_folder(run_folder *folder);

/* From now on the first Ctrl-C (or SIGTERM) is only noted, a second one ends the program at once. */
void catch_interrupts(void);
int32_t was_interrupted(void);

/* Whether any rank was, the same answer for all, so that they stop after the same step. Collective; ranks on GPUs, which
 * have to wait for it, ask each 16 steps only, and where they are `idle`. */
int32_t any_interrupted(cavmae_world *world, int64_t step, int32_t idle);

/* How fast a process trains. `steps` and `clips` are its own since `started`, without those of the runs before it. */
typedef struct pace {
    double started, shown;
    int64_t steps, clips;
} pace;

/* "epoch 1/25  step 30/1000  FORMATTED  12.1 clips/s  0:01:20 left" on stderr, now and then; `last` at once, and for
 * good. epoch from 0; step of total. */
void show_progress(pace *p, int32_t last, int64_t epoch, int64_t epochs, int64_t step, int64_t total,
                   const char *format, ...) __attribute__((format(printf, 7, 8)));

/* 1: a step's outcome is known that *s was not about yet, and *s is now; `wait`: for all steps. To be called until 0. */
int32_t next_result(cavmae_trainer *trainer, int32_t wait, cavmae_step_result *s);

/* Takes checkpoint_steps=N out: a key of the programs, all others are the library's. 1000 without it. */
int64_t take_checkpoint_steps(words *settings);

/* A recipe's milestones are epochs, of so many batches; unless the settings say what they are. */
void count_milestones_in_epochs(cavmae_config *config, int64_t batches, const words *settings);

/* Sets model and input contract as a model has them, to train on from its parameters. */
void take_model_keys(cavmae_config *config, const cavmae_model *model);

/* Turns off what training does to data: order, augmentation, shuffled pairs, dropping clips; the middle picture. */
void take_data_as_it_is(cavmae_config *config);

/* Clips of a batch over all ranks. */
int64_t clips_of(const cavmae_batch *batch);

/* Pretraining losses, mean over the clips of a pass of the loader, with the same masks each time; *clips: how many. */
cavmae_step_result mean_losses(cavmae_trainer *trainer, cavmae_loader *loader, int64_t *clips);

#endif
