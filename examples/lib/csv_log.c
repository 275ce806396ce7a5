#define _GNU_SOURCE
#include "csv_log.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

/* Copies the lines before `number` into a file that then takes the old one's place. */
static void open_log(csv_log *log, int64_t number) {
    char path[sizeof log->path + 8], *line = NULL;
    size_t size = 0;
    ssize_t length;
    snprintf(path, sizeof path, "%s.new", log->path);
    FILE *old = log->keep ? fopen(log->path, "r") : NULL;
    log->file = fopen(path, "w");
    if (!log->file) die("cannot write %s", path);
    fprintf(log->file, "%s\n", log->header);
    for (int64_t i = 0; old && (length = getline(&line, &size, old)) > 0; i++)
        if (i > 0 && line[length - 1] == '\n' && atoll(line) < number) fputs(line, log->file);
    free(line);
    if (old) fclose(old);
    if (fflush(log->file) != 0 || rename(path, log->path) != 0) die("cannot write %s", log->path);
}

void csv_line(csv_log *log, int64_t number, const char *format, ...) {
    va_list args;
    if (!log->file) open_log(log, number);
    va_start(args, format);
    fprintf(log->file, "%lld,", (long long)number);
    vfprintf(log->file, format, args);
    va_end(args);
    fputc('\n', log->file);
    if (fflush(log->file) != 0) die("cannot write %s", log->path);
}

void csv_close(csv_log *log) {
    if (log->file && fclose(log->file) != 0) die("cannot write %s", log->path);
    log->file = NULL;
}
