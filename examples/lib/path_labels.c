#include "path_labels.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

static char *read_text(const char *path) {
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity + 1);
    FILE *file = fopen(path, "rb");
    if (!file) die("cannot read %s: %s", path, strerror(errno));
    for (size_t got; text && (got = fread(text + size, 1, capacity - size, file)) > 0;) {
        size += got;
        if (size == capacity) text = realloc(text, (capacity *= 2) + 1);
    }
    if (!text) die("no memory for %s", path);
    if (ferror(file)) die("cannot read %s: %s", path, strerror(errno));
    fclose(file);
    text[size] = '\0';
    return text;
}

/* Takes a field off *at, up to `stop` or the line's end, unquoted in place; *at is then behind what ended it, and *end
 * what that was. */
static char *take_field(char **at, const char *stop, char *end) {
    char *in = *at, *out = in, *field = in;
    int quoted = *in == '"';
    if (quoted)
        for (in++; *in && (*in != '"' || *++in == '"'); in++) *out++ = *in; /* a doubled quote stands for one */
    in += strcspn(in, stop);
    if (!quoted) out = in > field && *in == '\n' && in[-1] == '\r' ? in - 1 : in;
    *end = *in;
    *at = in + (*in != '\0');
    *out = '\0';
    return field;
}

static int compare_rows(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(x[0], y[0]);
}

path_labels read_path_labels(const char *csv) {
    path_labels labels = {.text = read_text(csv)};
    int64_t lines = 1;
    for (const char *at = labels.text; (at = strchr(at, '\n')); at++) lines++;
    labels.rows = allocate((size_t)lines, sizeof *labels.rows);
    char *at = labels.text;
    for (int64_t line = 1; *at; line++) {
        char end;
        const char *path = take_field(&at, ",\n", &end);
        if (end != ',' && !*path) continue; /* an empty line */
        if (end != ',') die("%s: line %lld: path,labels expected", csv, (long long)line);
        const char *names = take_field(&at, "\n", &end);
        if (line == 1 && !strcmp(path, "path") && !strcmp(names, "labels")) continue;
        labels.rows[labels.count][0] = path;
        labels.rows[labels.count++][1] = names;
    }
    qsort(labels.rows, (size_t)labels.count, sizeof *labels.rows, compare_rows);
    for (int64_t i = 1; i < labels.count; i++)
        if (!strcmp(labels.rows[i - 1][0], labels.rows[i][0])) die("%s: two lines for %s", csv, labels.rows[i][0]);
    return labels;
}

void free_path_labels(path_labels *labels) {
    free(labels->rows);
    free(labels->text);
}

const char *labels_of_path(const path_labels *labels, const char *path) {
    const char *key[2] = {path, NULL};
    if (labels->count == 0) return NULL;
    const char *(*row)[2] = bsearch(key, labels->rows, (size_t)labels->count, sizeof *labels->rows, compare_rows);
    return row ? (*row)[1] : NULL;
}
