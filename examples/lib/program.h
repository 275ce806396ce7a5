/* What all example programs share: options from the command line, errors that end the program, a context. */
#ifndef EXAMPLE_PROGRAM_H
#define EXAMPLE_PROGRAM_H

#include <stddef.h>

#include "cavmae.h"

/* Ends the program with a sentence: after a failed call of the library, or of its own. */
void check(cavmae_status status);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* A sentence on stderr, and on it goes; what `note` says would be the same of all ranks, and is rank 0's to say. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Of a program that works with others (open_world.h): what it says begins with "rank 2: ", progress is rank 0's to show,
 * and before die() ends it `tell` gets the sentence, but for failures that another rank told of. NULL: nobody. */
void speak_for_rank(int32_t rank, void (*tell)(const char *sentence));

void *allocate(size_t count, size_t size); /* zeros; ends the program where there is no memory */

/* The words after an option that takes several, up to the next that starts with "--". */
typedef struct words {
    char **word;
    int32_t count;
} words;

/* One option; the target that is not NULL says what follows it. */
typedef struct option {
    const char *name;  /* "--out"; "" for the words that follow no option, with list */
    const char *value; /* how the help calls what follows: "FILE"; NULL: nothing does */
    const char *help;
    const char **text;
    int32_t *number;
    int32_t *flag;
    words *list; /* may be given again: lists are joined */
} option;

/* Reads the command line; "--help", and what is wrong, print the help and end the program. Ends with {0}. */
void read_options(int argc, char **argv, const char *what, const option *options);

/* What --device takes. */
#define DEVICE_HELP                                                                                                    \
    "cpu, cuda, cuda:N or auto (cpu); on a GPU also, after commas, matmul=tf32 or fp8, attention=own or cudnn, "       \
    "tuning_file=FILE, exact_gelu"

/* A context that reports to stderr. device NULL: "cpu"; threads 0: all. */
cavmae_context *open_context(const char *device, int32_t threads, int32_t (*cancel)(void *user));

/* A configuration with KEY=VALUE words set. */
cavmae_config *open_config(cavmae_context *context, const char *preset, const words *settings);
void apply_settings(cavmae_config *config, const words *settings);
int64_t whole_number(const cavmae_config *config, int32_t key);

/* 1 if `text` ends with `ending`. */
int32_t ends_with(const char *text, const char *ending);

double now(void); /* seconds */

#endif
