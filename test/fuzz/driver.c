/* A main for fuzzing targets that needs no libFuzzer: fuzz_NAME FILE_OR_DIRECTORY... runs every file there and, for a
 * second in all, changed copies of them; which ones follows from the file alone. A file counts as passed when it and
 * its changed copies came back. What ends the process is named and kept beside the program, as fuzz_NAME.crash. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SECONDS = 1, MOST_CHANGED = 4000, MOST_FILES = 1000, MOST_SIZE = 4 << 20, SECONDS_EACH = 30 };

typedef struct input {
    char *name;
    uint8_t *data;
    size_t size;
} input;

static input files[MOST_FILES];
static size_t file_count;

/* ---- What is being run, for when it does not come back ---- */

static char crash_path[4096], running[4200];
static const uint8_t *running_data;
static size_t running_size;

static void report(void) {
    int file = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t done = write(2, running, strlen(running));
    if (file >= 0) done = write(file, running_data, running_size);
    (void)done;
}

static void on_signal(int number) {
    report();
    signal(number, SIG_DFL);
    raise(number);
}

/* The sanitizers' runtime has it. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void catch_ends(const char *program) {
    static const int signals[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    snprintf(crash_path, sizeof crash_path, "%s.crash", program);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(report);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (!__sanitizer_set_death_callback || signals[i] == SIGALRM || signals[i] == SIGABRT)
            signal(signals[i], on_signal);
}

/* From memory of exactly its size. */
static void run(const char *name, size_t change, const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact) exit(1);
    memcpy(exact, data, size);
    snprintf(running, sizeof running, "\n%s, changed copy %zu (0: itself): see %s\n", name, change, crash_path);
    running_data = exact;
    running_size = size;
    alarm(SECONDS_EACH);
    LLVMFuzzerTestOneInput(exact, size);
    alarm(0);
    free(exact);
}

/* ---- Changed copies ---- */

static uint64_t state;

/* [0, below) */
static size_t draw(size_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? (size_t)((state * 0x2545F4914F6CDD1Du >> 32) % below) : 0;
}

/* A number that programs trip over, in 1, 2, 4 or 8 bytes of either order. */
static void put_number(uint8_t *data, size_t size) {
    static const uint64_t numbers[] = {0,      1,       2,          0x7F,       0x80,       0xFF,           0x7FFF,
                                       0x8000, 0xFFFF,  0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -1ull,          64,
                                       4096,   0x10000, 1 << 20,    1ull << 32, 1ull << 62, INT64_MAX >> 1, 1ull << 63};
    size_t count = sizeof numbers / sizeof *numbers, which = draw(count + 3), width = (size_t)1 << draw(4);
    uint64_t number = which < count ? numbers[which] : size + which - count - 1;
    if (width > size) return;
    size_t at = draw(size - width + 1), big = draw(2);
    for (size_t i = 0; i < width; i++) data[at + (big ? width - 1 - i : i)] = (uint8_t)(number >> 8 * i);
}

/* Text of other files, and what their grammars are made of. */
static void put_word(uint8_t *data, size_t size) {
    static const char *const words[] = {"\"",      "{",  "}",     "[",   "]", ",",    "\\u0000",
                                        "\\uD800", "-1", "1e999", "nan", "0", "null", "9223372036854775807",
                                        "\xC3",    ":",  "\n"};
    const char *word = words[draw(sizeof words / sizeof *words)];
    size_t length = strlen(word);
    if (length <= size) memcpy(data + draw(size - length + 1), word, length);
}

/* A piece of one place taken out, or put in again elsewhere. */
static size_t move_piece(uint8_t *data, size_t size, size_t room) {
    size_t length = 1 + draw(size < 64 || draw(4) == 0 ? size : 64), from = draw(size), to = draw(size);
    if (length > size - from) length = size - from;
    if (draw(2)) {
        memmove(data + from, data + from + length, size - from - length);
        return size - length;
    }
    if (length > room - size) length = room - size;
    uint8_t *piece = malloc(length ? length : 1);
    if (!piece) exit(1);
    memcpy(piece, data + from, length);
    memmove(data + to + length, data + to, size - to);
    memcpy(data + to, piece, length);
    free(piece);
    return size + length;
}

/* The start of one file and the end of another. */
static size_t join(uint8_t *data, size_t size, size_t room) {
    const input *other = &files[draw(file_count)];
    size_t keep = draw(size), from = draw(other->size), length = other->size - from;
    if (length > room - keep) length = room - keep;
    memcpy(data + keep, other->data + from, length);
    return keep + length;
}

static size_t change(uint8_t *data, size_t size, size_t room) {
    for (size_t left = 1 + draw(4); left && size; left--) {
        switch (draw(8)) {
        case 0: size = draw(size); break;
        case 1: size = move_piece(data, size, room); break;
        case 2: size = join(data, size, room); break;
        case 3: data[draw(size)] ^= (uint8_t)(1 << draw(8)); break;
        case 4: data[draw(size)] = (uint8_t)draw(256); break;
        case 5: put_word(data, size); break;
        default: put_number(data, size); break;
        }
    }
    return size;
}

/* ---- Files ---- */

static void add_file(const char *path) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(MOST_SIZE);
    if (!file || !data || file_count == MOST_FILES) {
        fprintf(stderr, "%s: cannot open it\n", path);
        exit(1);
    }
    size_t size = fread(data, 1, MOST_SIZE, file);
    fclose(file);
    uint8_t *exact = realloc(data, size ? size : 1);
    files[file_count++] = (input){strdup(path), exact ? exact : data, size};
}

static void add(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) add_file(path);
    for (int i = 0; i < count; i++) {
        char *inner;
        if (entries[i]->d_name[0] != '.' && asprintf(&inner, "%s/%s", path, entries[i]->d_name) > 0) {
            add_file(inner);
            free(inner);
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void run_changed(size_t index, double seconds) {
    const input *file = &files[index];
    size_t room = file->size * 2 + 256;
    uint8_t *data = malloc(room);
    if (!data) exit(1);
    state = 0x9E3779B97F4A7C15u;
    for (size_t i = 0; i < file->size; i++) state = (state ^ file->data[i]) * 0x100000001B3u;
    state |= 1;
    double end = now() + seconds;
    for (size_t i = 1; i <= MOST_CHANGED && now() < end; i++) {
        memcpy(data, file->data, file->size);
        run(file->name, i, data, change(data, file->size, room));
    }
    free(data);
}

int main(int count, char **arguments) {
    const char *name = strrchr(arguments[0], '/') ? strrchr(arguments[0], '/') + 1 : arguments[0];
    for (int i = 1; i < count; i++) add(arguments[i]);
    catch_ends(arguments[0]);
    for (size_t i = 0; i < file_count; i++) {
        run(files[i].name, 0, files[i].data, files[i].size);
        run_changed(i, (double)SECONDS / (double)file_count);
    }
    for (size_t i = 0; i < file_count; i++) {
        free(files[i].name);
        free(files[i].data);
    }
    printf("%s: %zu passed, %d failed\n", name, file_count, file_count == 0);
    return file_count == 0;
}
