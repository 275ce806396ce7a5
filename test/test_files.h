/* Files of a test, in a directory of its own. */
#ifndef CAVMAE_TEST_FILES_H
#define CAVMAE_TEST_FILES_H

#include <dirent.h>
#include <stdlib.h>

#include "check.h"

static char directory[] = "/tmp/cavmae-test-XXXXXX"; /* for mkdtemp */

/* The path of a file in the test's directory; valid until the fourth call after it. */
static inline const char *in_directory(const char *name) {
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static inline void put_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL)) exit(1);
    CHECK(fwrite(data, 1, size, file) == size);
    fclose(file);
}

/* The whole file in memory of exactly its size, so that the sanitizer sees a read past the end. */
static inline char *get_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!CHECK(file != NULL)) exit(1);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size ? *size : 1);
    CHECK(fread(data, 1, *size, file) == *size);
    fclose(file);
    return data;
}

static inline int files_in_directory(void) {
    DIR *dir = opendir(directory);
    int count = -2; /* . and .. */
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

#endif
