/* Labels of files, from a CSV of two columns: path,labels. Either may stand in quotes; without them the labels are the
 * rest of the line, commas and all. A first line "path,labels" is passed over. */
#ifndef EXAMPLE_PATH_LABELS_H
#define EXAMPLE_PATH_LABELS_H

#include <stdint.h>

typedef struct path_labels {
    char *text;
    const char *(*rows)[2]; /* [count] path, labels, in order of path */
    int64_t count;
} path_labels;

path_labels read_path_labels(const char *csv); /* ends the program where it cannot */
void free_path_labels(path_labels *labels);

/* NULL: the file is not listed. */
const char *labels_of_path(const path_labels *labels, const char *path);

#endif
