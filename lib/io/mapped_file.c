#define _POSIX_C_SOURCE 200809L
#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_error.h"

static cavmae_status map(cavmae__mapped_file *file, int descriptor) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return cavmae__file_error(file->path, "ask for its size");
    if (!S_ISREG(info.st_mode)) return cavmae__fail(CAVMAE_E_IO, "%s: not a regular file", file->path);
    if ((uintmax_t)info.st_size > PTRDIFF_MAX)
        return cavmae__fail(CAVMAE_E_IO, "%s: larger than memory can map", file->path);
    file->size = (size_t)info.st_size;
    file->data = "";
    if (file->size == 0) return CAVMAE_OK; /* mmap refuses it */
    void *memory = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) return cavmae__file_error(file->path, "map");
    file->data = file->map = memory;
    return CAVMAE_OK;
}

cavmae_status cavmae__mapped_file_open(cavmae_context *context, const char *path, cavmae__mapped_file **out) {
    cavmae_status status = CAVMAE_E_NOMEM;
    cavmae__mapped_file *file = cavmae__alloc_zero(context, sizeof *file);
    if (!file) return status;
    file->path = cavmae__strdup(context, path);
    if (!file->path) goto out;

    /* Without O_NONBLOCK a pipe that nobody writes to would hold us here. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        status = cavmae__file_error(path, "open");
        goto out;
    }
    status = map(file, descriptor);
    close(descriptor);
    if (status != CAVMAE_OK) goto out;

    file->context = cavmae__context_ref(context);
    atomic_init(&file->references, 1);
    *out = file;
    return CAVMAE_OK;

out:
    cavmae__free(context, file->path);
    cavmae__free(context, file);
    return status;
}

cavmae__mapped_file *cavmae__mapped_file_ref(cavmae__mapped_file *file) {
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
    return file;
}

void cavmae__mapped_file_unref(cavmae__mapped_file *file) {
    if (!file || atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1) return;
    cavmae_context *context = file->context;
    if (file->map) munmap(file->map, file->size);
    cavmae__free(context, file->path);
    cavmae__free(context, file);
    cavmae__context_unref(context);
}
