/* A CSV file that a run and its continuations write a line at a time. The first column is a rising whole number; a
 * continuation drops the lines from its first number on, and a last line that was cut short, so that each number is
 * there once however often the run was killed. */
#ifndef EXAMPLE_CSV_LOG_H
#define EXAMPLE_CSV_LOG_H

#include <stdint.h>
#include <stdio.h>

typedef struct csv_log {
    char path[4096];
    const char *header;
    int32_t keep; /* 1: continues what is there */
    FILE *file;   /* opened by the first line */
} csv_log;

/* Writes "number,FORMATTED\n", and hands it to the system. */
void csv_line(csv_log *log, int64_t number, const char *format, ...) __attribute__((format(printf, 3, 4)));
void csv_close(csv_log *log);

#endif
