#define _POSIX_C_SOURCE 200809L
#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "file_error.h"

/* Endings of containers that FFmpeg opens and that hold sound, most with moving pictures. */
static const char *const endings[] = {
    "3g2", "3gp",  "aac", "ac3", "aif",  "aiff", "amr",  "asf", "avi", "caf", "divx", "dv",   "eac3", "f4v", "flac",
    "flv", "m2ts", "m2v", "m4a", "m4b",  "m4v",  "mka",  "mkv", "mov", "mp2", "mp3",  "mp4",  "mpeg", "mpg", "mts",
    "mxf", "oga",  "ogg", "ogv", "opus", "rm",   "rmvb", "ts",  "vob", "wav", "weba", "webm", "wma",  "wmv", "wv"};

/* Names lie in blocks that are never moved. */
enum { BLOCK_SIZE = 1 << 20 };

typedef struct block {
    struct block *before;
    char text[BLOCK_SIZE];
} block;

struct cavmae__folder {
    cavmae_context *context;
    block *names;
    size_t used; /* of the newest block */
    const char **list;
    int64_t count, capacity;
};

/* While it is read: where we are. */
typedef struct walk {
    cavmae__folder *folder;
    size_t root_length; /* of the folder's own path, with its slash */
    char path[PATH_MAX];
} walk;

static int is_media(const char *name) {
    const char *ending = strrchr(name, '.');
    if (!ending) return 0;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t c = 0;
        while (endings[i][c] && (ending[1 + c] | 0x20) == endings[i][c]) c++; /* digits have that bit set */
        if (!endings[i][c] && !ending[1 + c]) return 1;
    }
    return 0;
}

static cavmae_status add_name(cavmae__folder *folder, const char *name) {
    size_t size = strlen(name) + 1; /* at most PATH_MAX */
    if (!folder->names || size > BLOCK_SIZE - folder->used) {
        block *newest = cavmae__alloc(folder->context, sizeof *newest);
        if (!newest) return CAVMAE_E_NOMEM;
        newest->before = folder->names;
        folder->names = newest;
        folder->used = 0;
    }
    if (folder->count == folder->capacity) {
        int64_t more = folder->capacity + folder->capacity / 2 + 1024;
        const char **list = cavmae__realloc(folder->context, folder->list, (size_t)folder->capacity * sizeof *list,
                                            (size_t)more * sizeof *list);
        if (!list) return CAVMAE_E_NOMEM;
        folder->list = list;
        folder->capacity = more;
    }
    char *text = folder->names->text + folder->used;
    memcpy(text, name, size);
    folder->used += size;
    folder->list[folder->count++] = text;
    return CAVMAE_OK;
}

static cavmae_status walk_folder(walk *w, size_t length);

/* The file or folder `name` in the folder that is w->path up to `length`. */
static cavmae_status visit(walk *w, size_t length, const char *name) {
    struct stat info;
    size_t size = strlen(name) + 1;
    if (length + size + 1 > sizeof w->path) {
        w->path[length] = '\0';
        return cavmae__fail(CAVMAE_E_IO, "%.100s...: the path of a file in it is too long", w->path);
    }
    memcpy(w->path + length, name, size);
    int media = is_media(name);
    if (lstat(w->path, &info) != 0) return errno == ENOENT ? CAVMAE_OK : cavmae__file_error(w->path, "look at it");
    if (S_ISDIR(info.st_mode)) {
        memcpy(w->path + length + size - 1, "/", 2);
        return walk_folder(w, length + size);
    }
    if (!media) return CAVMAE_OK;
    if (S_ISLNK(info.st_mode) && stat(w->path, &info) != 0) memset(&info, 0, sizeof info); /* it leads nowhere */
    return S_ISREG(info.st_mode) ? add_name(w->folder, w->path + w->root_length) : CAVMAE_OK;
}

/* As deep as a path can be: each folder adds two characters to it at least. */
static cavmae_status walk_folder(walk *w, size_t length) {
    cavmae_status status = CAVMAE_OK;
    DIR *directory = opendir(w->path);
    if (!directory) return cavmae__file_error(w->path, "open");
    while (status == CAVMAE_OK) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (!entry) {
            if (errno) status = cavmae__file_error(w->path, "read");
            break;
        }
        if (entry->d_name[0] == '.') continue;
        status = visit(w, length, entry->d_name);
        w->path[length] = '\0';
    }
    closedir(directory);
    return status;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

cavmae_status cavmae__folder_open(cavmae_context *context, const char *path, cavmae__folder **out) {
    cavmae_status status;
    walk *w = NULL;
    size_t length = strlen(path);
    cavmae__folder *folder = cavmae__alloc_zero(context, sizeof *folder);
    if (!folder) return CAVMAE_E_NOMEM;
    folder->context = cavmae__context_ref(context);
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &w, 1));
    w->folder = folder;
    if (length + 2 > sizeof w->path)
        CAVMAE__TRY_OUT(cavmae__fail(CAVMAE_E_IO, "%.100s...: the path is too long", path));
    memcpy(w->path, path, length + 1);
    if (path[length - 1] != '/') memcpy(w->path + length++, "/", 2);
    w->root_length = length;
    CAVMAE__TRY_OUT(walk_folder(w, length));
    if (folder->count == 0) CAVMAE__TRY_OUT(cavmae__fail(CAVMAE_E_FORMAT, "%s: no media files in this folder", path));
    qsort(folder->list, (size_t)folder->count, sizeof *folder->list, compare_names);
    cavmae__free(context, w);
    *out = folder;
    return CAVMAE_OK;
out:
    cavmae__free(context, w);
    cavmae__folder_free(folder);
    return status;
}

void cavmae__folder_free(cavmae__folder *folder) {
    if (!folder) return;
    cavmae_context *context = folder->context;
    while (folder->names) {
        block *newest = folder->names;
        folder->names = newest->before;
        cavmae__free(context, newest);
    }
    cavmae__free(context, folder->list);
    cavmae__free(context, folder);
    cavmae__context_unref(context);
}

int64_t cavmae__folder_count(const cavmae__folder *folder) { return folder->count; }

const char *cavmae__folder_name(const cavmae__folder *folder, int64_t index) { return folder->list[index]; }
