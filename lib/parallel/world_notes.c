/* What ranks know of one another when one is late: how far each has come. Ranks of one process share a table; others write
 * a small file each, cavmae-world-NONCE-rank-0003 in watch_dir, again and again, so that its time shows that its writer
 * lives. A file is written in place and always whole, and closed, which is when file systems of networks send it. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "world_internal.h"

enum { FILE_SIZE = 1024, MOST_TOLD = 3 };

static const char first_line[] = "cavmae world note 1\n";

/* ---- This rank's ---- */

cavmae_status cavmae__notes_create(cavmae_context *context, int32_t size, cavmae__notes *notes) {
    cavmae__note *rank = cavmae__alloc_array(context, (size_t)size, sizeof *rank);
    pthread_mutex_init(&notes->lock, NULL);
    notes->rank = rank;
    if (!rank) return CAVMAE_E_NOMEM;
    memset(rank, 0, (size_t)size * sizeof *rank);
    return CAVMAE_OK;
}

void cavmae__notes_destroy(cavmae_context *context, cavmae__notes *notes) {
    pthread_mutex_destroy(&notes->lock);
    cavmae__free(context, notes->rank);
}

static void post(cavmae_world *world) {
    if (!world->table) return;
    pthread_mutex_lock(&world->table->lock);
    world->table->rank[world->rank] = world->note;
    pthread_mutex_unlock(&world->table->lock);
}

static void set_text(char to[CAVMAE__WORLD_TEXT], const char *text) {
    snprintf(to, CAVMAE__WORLD_TEXT, "%s", text);
    cavmae__no_controls(to);
}

void cavmae__note_begun(cavmae_world *world, int64_t number, const char *text) {
    world->note.begun = number;
    set_text(world->note.begun_text, text);
    post(world);
}

void cavmae__note_ended(cavmae_world *world, int64_t number, const char *text) {
    world->note.ended = number;
    set_text(world->note.ended_text, text);
    post(world);
}

void cavmae__note_failure(cavmae_world *world, const char *sentence) {
    set_text(world->note.failure, sentence);
    post(world);
}

/* ---- Files ---- */

double cavmae__note_period(const cavmae_world *world) {
    double seconds = world->timeout / 10;
    return seconds > 3 ? 3 : seconds;
}

static cavmae_status file_name(const cavmae_world *world, int32_t rank, char path[PATH_MAX]) {
    int used = snprintf(path, PATH_MAX, "%s/cavmae-world-%s-rank-%04d", world->watch_dir, world->nonce, (int)rank);
    return used < PATH_MAX ? CAVMAE_OK : cavmae__fail(CAVMAE_E_IO, "watch_dir of the world is too long a path");
}

cavmae_status cavmae__note_write(cavmae_world *world) {
    char path[PATH_MAX], bytes[FILE_SIZE];
    pthread_mutex_lock(&world->lock);
    const cavmae__note note = world->note;
    world->beat_at = cavmae__now();
    int named = world->nonce[0] != '\0';
    pthread_mutex_unlock(&world->lock);
    if (!named) return CAVMAE_OK;
    CAVMAE__TRY(file_name(world, world->rank, path));
    memset(bytes, '\n', sizeof bytes);
    int used = snprintf(bytes, sizeof bytes, "%sbegun %lld %s\nended %lld %s\nfailure %s\n", first_line,
                        (long long)note.begun, note.begun_text, (long long)note.ended, note.ended_text, note.failure);
    bytes[used] = '\n';
    int file = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    ssize_t written = file < 0 ? -1 : pwrite(file, bytes, sizeof bytes, 0);
    int reason = errno;
    if (file >= 0 && close(file) != 0 && written == (ssize_t)sizeof bytes) {
        written = -1;
        reason = errno;
    }
    if (written == (ssize_t)sizeof bytes) return CAVMAE_OK;
    char words[128] = "it is cut short";
    if (written < 0 && strerror_r(reason, words, sizeof words) != 0) words[0] = '\0';
    return cavmae__fail(CAVMAE_E_IO, "%s: cannot be written: %s", path, words);
}

void cavmae__note_remove(cavmae_world *world) {
    char path[PATH_MAX];
    if (world->nonce[0] && file_name(world, world->rank, path) == CAVMAE_OK) unlink(path);
}

/* "begun 12 all-reduce ..." at *at, which then is the next line's start. */
static int parse_line(const char **at, const char *end, const char *word, int64_t *number,
                      char text[CAVMAE__WORLD_TEXT]) {
    size_t length = strlen(word);
    const char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop || (size_t)(stop - line) < length || memcmp(line, word, length) != 0) return 0;
    line += length;
    if (number) {
        *number = 0;
        const char *first = line;
        for (; line < stop && *line >= '0' && *line <= '9'; line++) {
            if (line - first > 17) return 0;
            *number = *number * 10 + (*line - '0');
        }
        if (line == first || line == stop || *line++ != ' ') return 0;
    }
    if (stop - line >= CAVMAE__WORLD_TEXT) return 0;
    memcpy(text, line, (size_t)(stop - line));
    text[stop - line] = '\0';
    *at = stop + 1;
    return !memchr(text, '\0', (size_t)(stop - line));
}

int cavmae__note_parse(const char *bytes, size_t size, cavmae__note *note) {
    const char *at = bytes, *end = bytes + size;
    memset(note, 0, sizeof *note);
    if (size < sizeof first_line || memcmp(at, first_line, sizeof first_line - 1) != 0) return 0;
    at += sizeof first_line - 1;
    return parse_line(&at, end, "begun ", &note->begun, note->begun_text) &&
           parse_line(&at, end, "ended ", &note->ended, note->ended_text) &&
           parse_line(&at, end, "failure ", NULL, note->failure);
}

/* Seconds, by the file system's clock: ours may be another one's. */
static int read_file(const cavmae_world *world, int32_t rank, cavmae__note *note, double *time) {
    char path[PATH_MAX], bytes[FILE_SIZE];
    struct stat stat;
    if (file_name(world, rank, path) != CAVMAE_OK) return 0;
    int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return 0;
    ssize_t size = pread(file, bytes, sizeof bytes, 0);
    int known = fstat(file, &stat) == 0;
    close(file);
    if (!known || size < 0 || !cavmae__note_parse(bytes, (size_t)size, note)) return 0;
    *time = (double)stat.st_mtim.tv_sec + (double)stat.st_mtim.tv_nsec * 1e-9;
    return 1;
}

/* ---- Who is behind ---- */

static void append(char sentence[CAVMAE__WORLD_SENTENCE], const char *text) {
    size_t used = strlen(sentence);
    snprintf(sentence + used, CAVMAE__WORLD_SENTENCE - used, "%s", text);
}

static void tell_last(const cavmae__note *note, char *out, size_t size) {
    if (note->ended > 0)
        snprintf(out, size, "it had ended number %lld, %.120s", (long long)note->ended, note->ended_text);
    else
        snprintf(out, size, "it had ended none");
}

/* What is to be said of a rank, or nothing. silent: seconds since it was heard of. */
static int tell_rank(int32_t rank, const cavmae__note *note, double silent, double period, int precise, int64_t number,
                     const char *text, char *out, size_t size) {
    char last[CAVMAE__WORLD_TEXT];
    tell_last(note, last, sizeof last);
    if (silent > 3 * period)
        return snprintf(out, size, "; rank %d has not been heard of for %.1f s: %s", (int)rank, silent, last);
    if (note->failure[0]) return snprintf(out, size, "; rank %d failed: %.160s", (int)rank, note->failure);
    if (note->begun < number && precise) return snprintf(out, size, "; rank %d has not begun it: %s", (int)rank, last);
    if (note->begun == number && *text && strcmp(note->begun_text, text) != 0)
        return snprintf(out, size, "; rank %d is at %.120s", (int)rank, note->begun_text);
    return 0;
}

void cavmae__notes_tell(cavmae_world *world, int64_t number, const char *text, int late,
                        char sentence[CAVMAE__WORLD_SENTENCE]) {
    char words[CAVMAE__WORLD_SENTENCE];
    cavmae__note note;
    double now = 0, time = 0;
    int told = 0;
    pthread_mutex_lock(&world->lock);
    int files = world->nonce[0] != '\0';
    pthread_mutex_unlock(&world->lock);
    if (files && (cavmae__note_write(world) != CAVMAE_OK || !read_file(world, world->rank, &note, &now))) files = 0;
    if (!files && !world->table) {
        if (late)
            append(sentence,
                   world->watch_dir ? "; which rank is not known" : "; which rank is not known: no watch_dir");
        return;
    }
    for (int32_t r = 0; r < world->size; r++) {
        if (r == world->rank) continue;
        int said;
        if (world->table) {
            pthread_mutex_lock(&world->table->lock);
            note = world->table->rank[r];
            pthread_mutex_unlock(&world->table->lock);
            said = tell_rank(r, &note, 0, 1, 1, number, text, words, sizeof words);
        } else if (read_file(world, r, &note, &time)) {
            said = tell_rank(r, &note, now - time, cavmae__note_period(world), late, number, text, words, sizeof words);
        } else {
            said = snprintf(words, sizeof words, "; rank %d has no file in watch_dir: it has left", (int)r);
        }
        if (said && ++told <= MOST_TOLD) append(sentence, words);
    }
    if (told > MOST_TOLD) {
        snprintf(words, sizeof words, "; and %d more", told - MOST_TOLD);
        append(sentence, words);
    }
    if (!told && late) append(sentence, "; every rank has begun it");
}
