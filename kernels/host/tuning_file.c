#define _DEFAULT_SOURCE /* flock, mkstemp, and the strerror_r that returns an int */
#include "tuning_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGEST_FILE = 16 << 20, LINE = 32 + 17 * CAVMAE__TUNING_WORDS + 9 + CAVMAE__TUNING_KEY };
static const char line_start[] = "cavmae-tuning 1";

/* FNV-1a */
static uint32_t checksum(const uint64_t *algorithm, const char *key) {
    uint32_t hash = 2166136261u;
    for (int i = 0; i < CAVMAE__TUNING_WORDS * 8; i++)
        hash = (hash ^ (uint32_t)(algorithm[i / 8] >> (i % 8 * 8) & 0xFF)) * 16777619u;
    for (; *key; key++) hash = (hash ^ (unsigned char)*key) * 16777619u;
    return hash;
}

static cavmae__tuning_entry *find(const cavmae__tuning *tuning, const char *key) {
    for (size_t i = 0; i < tuning->count; i++)
        if (strcmp(tuning->entry[i].key, key) == 0) return &tuning->entry[i];
    return NULL;
}

static cavmae_status add(cavmae__tuning *tuning, const cavmae__tuning_entry *entry) {
    if (tuning->count == tuning->capacity) {
        const size_t capacity = tuning->capacity ? 2 * tuning->capacity : 64;
        cavmae__tuning_entry *larger = tuning->library->alloc(tuning->context, capacity * sizeof *larger);
        if (!larger) return CAVMAE_E_NOMEM;
        if (tuning->count) memcpy(larger, tuning->entry, tuning->count * sizeof *larger);
        tuning->library->free(tuning->context, tuning->entry);
        tuning->entry = larger;
        tuning->capacity = capacity;
    }
    tuning->entry[tuning->count++] = *entry;
    return CAVMAE_OK;
}

/* ---- Reading ---- */

/* " " and 1 to 16 digits, then the end or a blank; NULL where that is not what stands there. */
static const char *read_word(const char *text, uint64_t *out) {
    uint64_t value = 0;
    int digits = 0;
    if (*text++ != ' ') return NULL;
    for (; digits < 17; digits++, text++) {
        const char c = *text;
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            break;
    }
    if (digits == 0 || digits > 16) return NULL;
    *out = value;
    return text;
}

static int parse_line(const char *line, cavmae__tuning_entry *out) {
    const size_t start = sizeof line_start - 1;
    uint64_t sum = 0;
    if (strncmp(line, line_start, start) != 0) return 0;
    line += start;
    for (int i = 0; i < CAVMAE__TUNING_WORDS && line; i++) line = read_word(line, &out->algorithm[i]);
    if (line) line = read_word(line, &sum);
    if (!line || *line++ != ' ') return 0;
    const size_t length = strlen(line);
    if (length == 0 || length >= sizeof out->key || strchr(line, ' ')) return 0;
    memcpy(out->key, line, length + 1);
    return sum == checksum(out->algorithm, out->key);
}

/* The file's text, ended by a zero, or *out = NULL: there is none, or none that can be read. */
static cavmae_status read_text(const cavmae__tuning *tuning, char **out) {
    struct stat info;
    size_t got = 0;
    char *text = NULL;
    cavmae_status status = CAVMAE_OK;
    *out = NULL;
    const int file = open(tuning->path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return CAVMAE_OK;
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= LARGEST_FILE) {
        const size_t size = (size_t)info.st_size;
        text = tuning->library->alloc(tuning->context, size + 1);
        if (!text)
            status = CAVMAE_E_NOMEM;
        else {
            while (got < size) {
                const ssize_t part = read(file, text + got, size - got);
                if (part < 0 && errno == EINTR) continue;
                if (part <= 0) break;
                got += (size_t)part;
            }
            text[got] = 0;
            if (strlen(text) != got) text[0] = '?', text[1] = 0; /* a zero inside: no line of ours */
        }
    } else
        tuning->library->log(tuning->context, CAVMAE_LOG_WARNING, "\"%s\" is no tuning file: it is not used",
                             tuning->path);
    close(file);
    *out = text;
    return status;
}

/* Adds the file's entries whose keys are not known. */
static cavmae_status merge(cavmae__tuning *tuning) {
    char *text = NULL;
    const size_t before = tuning->count;
    cavmae_status status = read_text(tuning, &text);
    int good = 1, number = 0;
    for (char *line = text, *next; good && status == CAVMAE_OK && line && *line; line = next) {
        cavmae__tuning_entry entry;
        char *end = strchr(line, '\n');
        number++;
        good = end != NULL;
        if (!good) break;
        *end = 0;
        next = end + 1;
        memset(&entry, 0, sizeof entry);
        good = parse_line(line, &entry);
        if (good && !find(tuning, entry.key)) status = add(tuning, &entry);
    }
    if (!good) {
        tuning->count = before;
        tuning->library->log(tuning->context, CAVMAE_LOG_WARNING,
                             "the tuning file \"%s\" is damaged at line %d: it is not used", tuning->path, number);
    }
    tuning->library->free(tuning->context, text);
    return status;
}

/* ---- Writing ---- */

static int write_all(int file, const char *text, size_t size) {
    while (size) {
        const ssize_t part = write(file, text, size);
        if (part < 0 && errno == EINTR) continue;
        if (part <= 0) return 0;
        text += part;
        size -= (size_t)part;
    }
    return 1;
}

static int write_entries(const cavmae__tuning *tuning, int file) {
    char line[LINE];
    for (size_t i = 0; i < tuning->count; i++) {
        const cavmae__tuning_entry *entry = &tuning->entry[i];
        int length = snprintf(line, sizeof line, "%s", line_start);
        for (int w = 0; w < CAVMAE__TUNING_WORDS; w++)
            length += snprintf(line + length, sizeof line - (size_t)length, " %" PRIx64, entry->algorithm[w]);
        length += snprintf(line + length, sizeof line - (size_t)length, " %" PRIx32 " %s\n",
                           checksum(entry->algorithm, entry->key), entry->key);
        if (!write_all(file, line, (size_t)length)) return 0;
    }
    return fsync(file) == 0;
}

/* A whole file takes the old one's place: nobody ever reads half of one. */
static cavmae_status write_file(cavmae__tuning *tuning) {
    static const char suffix[] = ".XXXXXX";
    const size_t length = strlen(tuning->path);
    char *name = tuning->library->alloc(tuning->context, length + sizeof suffix);
    if (!name) return CAVMAE_E_NOMEM;
    memcpy(name, tuning->path, length);
    memcpy(name + length, suffix, sizeof suffix);
    const int file = mkstemp(name);
    int error = errno, good = file >= 0;
    if (good) {
        good = write_entries(tuning, file) && fchmod(file, 0644) == 0;
        error = errno;
        if (close(file) != 0 && good) good = 0, error = errno;
        if (good && rename(name, tuning->path) != 0) good = 0, error = errno;
        if (!good) unlink(name);
    }
    if (!good && !tuning->warned) {
        char reason[128];
        if (strerror_r(error, reason, sizeof reason) != 0) reason[0] = '\0';
        tuning->warned = 1;
        tuning->library->log(tuning->context, CAVMAE_LOG_WARNING, "the tuning file \"%s\" cannot be written: %s",
                             tuning->path, reason);
    }
    tuning->library->free(tuning->context, name);
    return CAVMAE_OK;
}

/* Between reading and writing nobody else may write: the directory is locked, so that no second file lies about. Where
 * it cannot be locked, an entry of somebody else may be lost, and is measured again some day. */
static int lock_directory(const cavmae__tuning *tuning) {
    const char *slash = strrchr(tuning->path, '/');
    const size_t length = slash ? (size_t)(slash - tuning->path) + 1 : 1;
    char *name = tuning->library->alloc(tuning->context, length + 1);
    if (!name) return -1;
    memcpy(name, slash ? tuning->path : ".", length);
    name[length] = 0;
    const int directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tuning->library->free(tuning->context, name);
    if (directory >= 0)
        while (flock(directory, LOCK_EX) != 0 && errno == EINTR) {
        }
    return directory;
}

/* ---- What others call ---- */

cavmae_status cavmae__tuning_open(cavmae__tuning *tuning, const cavmae__library *library, cavmae_context *context) {
    *tuning = (cavmae__tuning){.library = library, .context = context, .path = library->tuning_file(context)};
    return tuning->path ? merge(tuning) : CAVMAE_OK;
}

void cavmae__tuning_close(cavmae__tuning *tuning) {
    if (tuning->library) tuning->library->free(tuning->context, tuning->entry);
    tuning->entry = NULL;
    tuning->count = tuning->capacity = 0;
}

const uint64_t *cavmae__tuning_find(const cavmae__tuning *tuning, const char *key) {
    const cavmae__tuning_entry *entry = find(tuning, key);
    return entry ? entry->algorithm : NULL;
}

cavmae_status cavmae__tuning_put(cavmae__tuning *tuning, const char *key,
                                 const uint64_t algorithm[CAVMAE__TUNING_WORDS]) {
    cavmae__tuning_entry *known = find(tuning, key), entry;
    cavmae_status status = CAVMAE_OK;
    memset(&entry, 0, sizeof entry);
    memcpy(entry.algorithm, algorithm, sizeof entry.algorithm);
    memcpy(entry.key, key, strlen(key) + 1);
    if (known)
        *known = entry;
    else
        status = add(tuning, &entry);
    if (status != CAVMAE_OK) return status;
    const int lock = lock_directory(tuning);
    status = merge(tuning);
    if (status == CAVMAE_OK) status = write_file(tuning);
    if (lock >= 0) close(lock);
    return status;
}
