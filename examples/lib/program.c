#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char speaker[24];
static int32_t silent; /* about progress */
static void (*tell_others)(const char *sentence);

void speak_for_rank(int32_t rank, void (*tell)(const char *sentence)) {
    snprintf(speaker, sizeof speaker, "rank %d: ", (int)rank);
    silent = rank > 0;
    tell_others = tell;
}

void die(const char *format, ...) {
    void (*const tell)(const char *) = tell_others;
    char sentence[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    tell_others = NULL; /* it may fail, too */
    fflush(stdout);
    fprintf(stderr, "%s: %s%s\n", program_invocation_short_name, speaker, sentence);
    if (tell) tell(sentence);
    exit(1);
}

void check(cavmae_status status) {
    if (status == CAVMAE_OK) return;
    if (status == CAVMAE_E_PEER) tell_others = NULL;
    die("%s: %s", cavmae_status_str(status), cavmae_last_error());
}

void warn(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: %s", program_invocation_short_name, speaker);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void note(const char *format, ...) {
    va_list args;
    if (silent) return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) die("no memory for %zu elements of %zu bytes", count, size);
    return memory;
}

/* ---- Options ---- */

static void print_help(FILE *to, const char *what, const option *options) {
    fprintf(to, "%s: %s\n", program_invocation_short_name, what);
    for (const option *o = options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s", o->name, o->value && o->name[0] ? " " : "", o->value ? o->value : "",
                 o->list ? " ..." : "");
        fprintf(to, "  %-24s %s\n", left, o->help);
    }
}

static int32_t read_number(const char *name, const char *text) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < 0 || value > INT_MAX)
        die("%s takes a whole number, not %s", name, text);
    return (int32_t)value;
}

/* Joins argv's words to the list; those of two uses need not lie side by side. */
static void add_word(words *list, char *word) {
    char **joined = realloc(list->word, (size_t)(list->count + 1) * sizeof *joined);
    if (!joined) die("no memory");
    joined[list->count++] = word;
    list->word = joined;
}

static const option *find_option(const option *options, const char *word) {
    const option *o = options;
    while (o->name && strcmp(o->name, word) != 0) o++;
    if (o->name || word[0] == '-') return o;
    for (o = options; o->name && o->name[0]; o++) {
    }
    return o;
}

void read_options(int argc, char **argv, const char *what, const option *options) {
    for (int i = 1; i < argc; i++) {
        const option *o = find_option(options, argv[i]);
        if (!strcmp(argv[i], "--help")) {
            print_help(stdout, what, options);
            exit(0);
        }
        if (!o->name) {
            print_help(stderr, what, options);
            die("no such option: %s", argv[i]);
        }
        if (!o->name[0]) {
            add_word(o->list, argv[i]);
            continue;
        }
        if (o->flag) {
            *o->flag = 1;
            continue;
        }
        if (i + 1 == argc) die("%s needs a %s", o->name, o->value);
        i++;
        if (o->text) *o->text = argv[i];
        if (o->number) *o->number = read_number(o->name, argv[i]);
        if (o->list) {
            add_word(o->list, argv[i]);
            while (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) add_word(o->list, argv[++i]);
        }
    }
}

/* ---- The library ---- */

static void print_message(void *user, int32_t level, const char *message) {
    (void)user;
    fprintf(stderr, "%s%s%s\n", speaker,
            level <= CAVMAE_LOG_ERROR     ? "error: "
            : level <= CAVMAE_LOG_WARNING ? "warning: "
                                          : "",
            message);
}

/* Of calls that take their time: a line that changes, or one every ten seconds where it would not. */
static void print_progress(void *user, const char *what, int64_t done, int64_t total) {
    static double shown;
    static int32_t lines;
    int32_t terminal = isatty(STDERR_FILENO);
    double time = now();
    (void)user;
    if (silent) return;
    if (shown == 0) shown = time;
    if (done == total ? !lines : time - shown < (terminal ? 0.5 : 10)) return;
    fprintf(stderr, "%s%s %lld of %lld%s", terminal ? "\r" : "", what, (long long)done, (long long)total,
            !terminal || done == total ? "\n" : "\033[K");
    shown = time;
    lines = done != total;
}

/* "cuda:0,matmul=tf32,...": the device, and how it computes. Takes `text` apart. */
static void read_device(char *text, cavmae_context_options *options) {
    options->device = strtok(text, ",");
    for (char *word; (word = strtok(NULL, ",")) != NULL;) {
        char *value = strchr(word, '=');
        if (value) *value++ = '\0';
        if (!value && !strcmp(word, "exact_gelu"))
            options->exact_gelu = 1;
        else if (value && !strcmp(word, "matmul"))
            options->matmul = value;
        else if (value && !strcmp(word, "attention"))
            options->attention = value;
        else if (value && !strcmp(word, "tuning_file"))
            options->tuning_file = value;
        else
            die("--device: '%s' is none of matmul=, attention=, tuning_file=, exact_gelu", word);
    }
}

cavmae_context *open_context(const char *device, int32_t threads, int32_t (*cancel)(void *user)) {
    cavmae_context_options options = {.struct_size = sizeof options};
    cavmae_context *context;
    char *text = device ? strdup(device) : NULL;
    if (device && !text) die("no memory");
    if (text) read_device(text, &options);
    options.threads = threads;
    options.log = print_message;
    options.progress = print_progress;
    options.cancel = cancel;
    check(cavmae_context_create(&options, &context));
    free(text);
    return context;
}

void apply_settings(cavmae_config *config, const words *settings) {
    for (int32_t i = 0; i < settings->count; i++) {
        char *value = strchr(settings->word[i], '=');
        if (!value) die("--set takes key=value, not %s", settings->word[i]);
        char *key = strndup(settings->word[i], (size_t)(value - settings->word[i]));
        if (!key) die("no memory");
        check(cavmae_config_set(config, key, value + 1));
        free(key);
    }
}

cavmae_config *open_config(cavmae_context *context, const char *preset, const words *settings) {
    cavmae_config *config;
    check(cavmae_config_create(context, preset, &config));
    apply_settings(config, settings);
    return config;
}

int64_t whole_number(const cavmae_config *config, int32_t key) {
    int64_t value;
    check(cavmae_config_get_i64(config, key, &value));
    return value;
}

int32_t ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && !strcmp(text + length - tail, ending);
}

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
