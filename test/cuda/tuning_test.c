/* The file that remembers which way of multiplying was fastest: written, read again, shared, damaged. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compare.h"
#include "failing_allocator.h"

enum { F = CAVMAE_FLOAT32 };

typedef struct shape {
    int64_t rows;
    int32_t in, out;
} shape;

static cavmae__limits limits_of(shape s) {
    return (cavmae__limits){.rows = s.rows,
                            .width = s.in > s.out ? s.in : s.out,
                            .weight = (int64_t)s.in * s.out,
                            .clips = 1,
                            .tokens = 1,
                            .backward = 1};
}

static char tuning_path[64];
static int warnings;

static void count_warnings(void *user, int32_t level, const char *message) {
    (void)user;
    warnings += level <= CAVMAE_LOG_WARNING && strstr(message, "tuning file") != NULL;
}

/* A backend of a context of its own that uses the file; the CPU's is left as it is. */
static both open_tuned(const both *b) {
    cavmae_context_options options = device_options();
    both tuned = *b;
    options.tuning_file = tuning_path;
    options.log = count_warnings;
    tuned.cuda_workspace = tuned.cuda_workspace_block = tuned.cpu_workspace = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &tuned.cuda_context)) ||
        !CHECK_OK(cavmae__context_backend(tuned.cuda_context, &tuned.cuda)))
        exit(check_summary("tuning"));
    return tuned;
}

/* What a backend gives for a layer with gradients; free() it. */
static float *tuned_results(both *b, shape s, int64_t *count) {
    const cavmae__limits limits = limits_of(s);
    cavmae__linear op = {.rows = s.rows, .in = s.in, .out = s.out, .x_dtype = F, .y_dtype = F};
    cavmae__linear_grad grad = {.rows = s.rows, .in = s.in, .out = s.out, .x_dtype = F, .dy_dtype = F, .dx_dtype = F};
    const int64_t sizes[] = {s.rows * s.in, (int64_t)s.in * s.out, s.out, s.rows * s.out, (int64_t)s.in * s.out};
    twin t[5];
    for (int i = 0; i < 5; i++) {
        t[i] = twin_output(b, sizes[i], F);
        for (int64_t j = 0; j < sizes[i]; j++) ((float *)t[i].cpu)[j] = sinf((float)(j + i));
        twin_upload(b, &t[i]);
    }
    both_workspace(b, &limits);
    op.x = grad.x = t[0].device;
    op.weight = t[1].device;
    op.bias = t[2].device;
    op.residual = t[3].device; /* in place: measuring must not add it twice */
    op.y = t[3].device;
    op.workspace = grad.workspace = b->cuda_workspace;
    CHECK_OK(b->cuda->ops->linear(b->cuda, &op));
    grad.dy = t[3].device;
    grad.dweight = t[4].device;
    grad.dbias = t[2].device;
    grad.accumulate = 1;
    CHECK_OK(b->cuda->ops->linear_grad(b->cuda, &grad));
    *count = sizes[3] + sizes[4] + sizes[2];
    float *all = malloc((size_t)*count * sizeof *all), *at = all;
    for (int i = 2; i < 5; i++) {
        CHECK_OK(b->cuda->ops->download(b->cuda, at, t[i].device, t[i].size));
        at += sizes[i];
    }
    for (int i = 0; i < 5; i++) twin_free(b, &t[i]);
    both_workspace(b, NULL);
    return all;
}

static char *read_file(void) {
    FILE *file = fopen(tuning_path, "rb");
    char *text = calloc(1, 1 << 16);
    if (file) {
        text[fread(text, 1, (1 << 16) - 1, file)] = 0;
        fclose(file);
    }
    return text;
}

static void write_file(const char *text, size_t size) {
    FILE *file = fopen(tuning_path, "wb");
    if (CHECK(file != NULL)) {
        fwrite(text, 1, size, file);
        fclose(file);
    }
}

static int lines_of(const char *text) {
    int lines = 0;
    for (; *text; text++) lines += *text == '\n';
    return lines;
}

static const shape tuned_shape = {72, 64, 48}, other_shape = {40, 64, 80};

/* Results in a context of its own. Gives how many entries the file then has. */
static int check_tuned(const both *b, const float *expected) {
    both tuned = open_tuned(b);
    int64_t count;
    float *got = tuned_results(&tuned, tuned_shape, &count);
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        size += (double)expected[i] * expected[i];
    }
    CHECK(sqrt(difference / size) < 2e-6);
    cavmae_context_free(tuned.cuda_context);
    free(got);
    char *text = read_file();
    const int lines = lines_of(text);
    free(text);
    return lines;
}

/* The file's line with this algorithm, with its checksum. */
static void write_line_with(const char *line, uint64_t word) {
    uint64_t words[8] = {word, word, word, word, word, word, word, word};
    char out[2048], key[1024];
    uint32_t hash = 2166136261u;
    if (!CHECK(sscanf(strrchr(line, ' ') + 1, "%1000s", key) == 1)) return;
    for (int i = 0; i < 64; i++) hash = (hash ^ (uint32_t)(words[i / 8] >> (i % 8 * 8) & 0xFF)) * 16777619u;
    for (const char *c = key; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
    int length = snprintf(out, sizeof out, "cavmae-tuning 1");
    for (int i = 0; i < 8; i++)
        length += snprintf(out + length, sizeof out - (size_t)length, " %llx", (unsigned long long)words[i]);
    length += snprintf(out + length, sizeof out - (size_t)length, " %x %s\n", hash, key);
    write_file(out, (size_t)length);
}

static void *tune_other(void *arg) {
    both tuned = open_tuned(arg);
    for (int32_t i = 0; i < 4; i++) {
        shape s = other_shape;
        int64_t count;
        s.out += 16 * i;
        free(tuned_results(&tuned, s, &count));
    }
    cavmae_context_free(tuned.cuda_context);
    return NULL;
}

static void test_tuning(both *b) {
    static const char *const damaged[] = {"", "?", "\n", "cavmae-tuning 1\n", "cavmae-tuning 2 0 0 0 0 0 0 0 0 0 x\n"};
    char folder[] = "/tmp/cavmae-tuning-test-XXXXXX";
    int64_t count;
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    snprintf(tuning_path, sizeof tuning_path, "%s/tuning.txt", folder);
    float *expected = tuned_results(b, tuned_shape, &count);
    const int entries = check_tuned(b, expected);
    CHECK(entries == 2 && warnings == 0); /* forward, weight gradient */

    /* Two contexts with the same file: the same algorithms, so the same bits. */
    char *good = read_file();
    both one = open_tuned(b), two = open_tuned(b);
    float *first = tuned_results(&one, tuned_shape, &count), *second = tuned_results(&two, tuned_shape, &count);
    CHECK(memcmp(first, second, (size_t)count * sizeof *first) == 0);
    char *text = read_file();
    CHECK(strcmp(text, good) == 0); /* nothing was measured again */
    free(text);
    free(first);
    free(second);

    /* Each adds what the other does not know, at the same time, and nothing is lost. */
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, tune_other, b) == 0);
    shape s = other_shape;
    for (int32_t i = 0; i < 4; i++) {
        s.rows = 48 + i;
        free(tuned_results(&one, s, &count));
    }
    CHECK(pthread_join(thread, NULL) == 0);
    text = read_file();
    CHECK(lines_of(text) == entries + 16);
    free(text);
    cavmae_context_free(one.cuda_context);
    cavmae_context_free(two.cuda_context);

    /* Damage: ignored with a warning, and then written anew. */
    const size_t length = strlen(good);
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        warnings = 0;
        write_file(damaged[i], strlen(damaged[i]));
        CHECK(check_tuned(b, expected) == entries);
        CHECK(damaged[i][0] ? warnings > 0 : warnings == 0);
    }
    for (size_t at = 1; at < length; at += length / 9) { /* cut; one byte changed */
        warnings = 0;
        write_file(good, length - at);
        CHECK(check_tuned(b, expected) == entries);
        CHECK(warnings > 0 || good[length - at - 1] == '\n');
        warnings = 0;
        char *changed = strdup(good);
        changed[at] ^= 1;
        write_file(changed, length);
        CHECK(check_tuned(b, expected) == entries);
        CHECK(warnings > 0);
        free(changed);
    }
    warnings = 0;
    write_file("a\0b", 3);
    CHECK(check_tuned(b, expected) == entries && warnings > 0);

    /* An entry that does not work on this device: chosen anew. */
    warnings = 0;
    char *line = strdup(good);
    *strchr(line, '\n') = 0;
    write_line_with(line, 0x1234567890abcdef);
    CHECK(check_tuned(b, expected) == entries && warnings == 0);
    text = read_file();
    CHECK(strstr(text, "1234567890abcdef") == NULL);
    free(text);
    free(line);

    /* A file that cannot be written, and one that is none: a warning, and all works. */
    CHECK(unlink(tuning_path) == 0);
    CHECK(mkdir(tuning_path, 0700) == 0);
    warnings = 0;
    CHECK(check_tuned(b, expected) == 0 && warnings >= 2);
    CHECK(rmdir(tuning_path) == 0);
    CHECK(rmdir(folder) == 0); /* nothing else was left in it */
    free(good);
    free(expected);
}

/* Every allocation of a layer's first call fails once. */
static void test_no_memory(both *b) {
    failing_allocator allocator = {0};
    cavmae_context_options options = device_options();
    char folder[] = "/tmp/cavmae-tuning-test-XXXXXX";
    const shape s = tuned_shape;
    const cavmae__limits limits = limits_of(s);
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    snprintf(tuning_path, sizeof tuning_path, "%s/tuning.txt", folder);
    options.tuning_file = tuning_path;
    options.alloc = failing_alloc;
    options.free = failing_free;
    options.alloc_user = &allocator;
    both tuned = *b;
    tuned.cuda_workspace = tuned.cuda_workspace_block = tuned.cpu_workspace = NULL;
    CHECK_OK(cavmae_context_create(&options, &tuned.cuda_context));
    CHECK_OK(cavmae__context_backend(tuned.cuda_context, &tuned.cuda));
    twin x = twin_input(&tuned, s.rows * s.in, F, -1, 1), weight = twin_input(&tuned, (int64_t)s.in * s.out, F, -1, 1);
    twin y = twin_output(&tuned, s.rows * s.out, F);
    both_workspace(&tuned, &limits);
    cavmae__linear op = {.rows = s.rows, .in = s.in, .out = s.out, .x_dtype = F, .y_dtype = F};
    op.x = x.device;
    op.weight = weight.device;
    op.y = y.device;
    op.workspace = tuned.cuda_workspace;
    int failures = 0;
    for (long at = 1; at < 100; at++) {
        allocator.fail_at = allocator.calls + at;
        const cavmae_status status = tuned.cuda->ops->linear(tuned.cuda, &op);
        const int reached = allocator.calls >= allocator.fail_at;
        allocator.fail_at = 0;
        failures += status != CAVMAE_OK;
        if (status != CAVMAE_OK) CHECK_STATUS(status, CAVMAE_E_NOMEM);
        if (!reached) break;
    }
    CHECK(failures > 0);
    CHECK_OK(tuned.cuda->ops->linear(tuned.cuda, &op));
    op.x = x.cpu;
    op.weight = weight.cpu;
    op.y = y.cpu;
    op.workspace = tuned.cpu_workspace;
    CHECK_OK(b->cpu->ops->linear(b->cpu, &op));
    CHECK_TWIN(&tuned, &y, 2e-6);
    twin_free(&tuned, &x);
    twin_free(&tuned, &weight);
    twin_free(&tuned, &y);
    both_workspace(&tuned, NULL);
    cavmae_context_free(tuned.cuda_context);
    CHECK(allocator.blocks == 0);
    unlink(tuning_path);
    CHECK(rmdir(folder) == 0);
}

int main(void) {
    both b;
    open_both(&b);
    test_tuning(&b);
    test_no_memory(&b);
    close_both(&b);
    return check_summary("tuning");
}
