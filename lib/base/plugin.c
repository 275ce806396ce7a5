#include "plugin.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REASON_SIZE = 400 };

/* The directory of the shared library (or of the program, when linked statically) that holds this code: as the kernel
 * knows it, because the loader has the path it was given, which may be relative to a directory that is not the
 * current one any more, and a program's own is whatever argv[0] says. */
static int own_directory(char directory[PATH_MAX]) {
    static const char anchor = 0;
    char line[PATH_MAX + 128];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && !found && fgets(line, sizeof line, maps)) {
        uintptr_t begin, end;
        int path = 0; /* "begin-end permissions offset device inode path" */
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %*s %n", &begin, &end, &path) < 2 || !path) continue;
        if ((uintptr_t)&anchor < begin || (uintptr_t)&anchor >= end || line[path] != '/') continue;
        *strrchr(line + path, '/') = '\0'; /* with it goes "(deleted)", of a library that was replaced meanwhile */
        found = snprintf(directory, PATH_MAX, "%s", line[path] ? line + path : "/") < PATH_MAX;
    }
    if (maps) fclose(maps);
    return found;
}

/* Opens directory/file; adds the loader's words to `reason` where that fails. */
static void *open_in(const char *directory, const char *file, char reason[REASON_SIZE]) {
    char path[PATH_MAX];
    size_t used = strlen(reason);
    /* "./" because dlopen searches its path for a name without a slash, which "" as directory would give. */
    const char *format = strchr(directory, '/') ? "%s/%s" : "./%s/%s";
    if (snprintf(path, sizeof path, format, directory, file) >= (int)sizeof path) {
        snprintf(reason + used, REASON_SIZE - used, "; the path of the directory is too long");
        return NULL;
    }
    /* NODELETE: CUDA's runtime leaves destructors with threads, which must find their code when they end. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) snprintf(reason + used, REASON_SIZE - used, "; %s", dlerror());
    return handle;
}

cavmae_status cavmae__plugin_open(cavmae_context *context, const char *file, const char *symbol_name, void **handle,
                                  void **symbol) {
    char directory[PATH_MAX], reason[REASON_SIZE] = "";
    const char *given = cavmae__context_plugin_dir(context);
    void *opened = NULL;
    if (given) {
        opened = open_in(given, file, reason);
    } else {
        int found = own_directory(directory);
        if (found) opened = open_in(directory, file, reason);
        if (!opened && !(found && strcmp(directory, CAVMAE_PLUGIN_DIR) == 0))
            opened = open_in(CAVMAE_PLUGIN_DIR, file, reason);
    }
    if (!opened)
        return cavmae__fail(CAVMAE_E_BACKEND, "plug-in %s cannot be loaded%s; install it there or set plugin_dir", file,
                            reason);

    void *found = dlsym(opened, symbol_name);
    if (!found) {
        cavmae__fail(CAVMAE_E_BACKEND, "plug-in %s: %s", file, dlerror());
        dlclose(opened);
        return CAVMAE_E_BACKEND;
    }
    *handle = opened;
    *symbol = found;
    return CAVMAE_OK;
}

void cavmae__plugin_close(void *handle) {
    if (handle) dlclose(handle);
}
