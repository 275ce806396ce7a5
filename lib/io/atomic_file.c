#define _POSIX_C_SOURCE 200809L
#include "atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file_error.h"

enum { ATTEMPTS = 100, CHUNK = 1 << 30 };

/* All further steps are relative to this descriptor, so that neither chdir nor a renamed directory can part the
 * temporary file from its target. */
static cavmae_status open_directory(cavmae__atomic_file *file, const char *path) {
    char directory[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    file->path = path;
    file->name = slash ? slash + 1 : path;
    if (*file->name == '\0') return cavmae__fail(CAVMAE_E_IO, "\"%s\": not the name of a file", path);
    if (slash) {
        size_t length = slash == path ? 1 : (size_t)(slash - path);
        if (length >= sizeof directory) return cavmae__fail(CAVMAE_E_IO, "%.100s...: the path is too long", path);
        memcpy(directory, path, length);
        directory[length] = '\0';
    }
    file->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return file->directory < 0 ? cavmae__file_error(path, "open its directory") : CAVMAE_OK;
}

static cavmae_status open_temporary(cavmae__atomic_file *file) {
    struct stat info;
    struct timespec now;
    if (fstatat(file->directory, file->name, &info, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(info.st_mode) &&
        !S_ISLNK(info.st_mode))
        return cavmae__fail(CAVMAE_E_IO, "%s: there already, and not a regular file", file->path);
    clock_gettime(CLOCK_REALTIME, &now);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        snprintf(file->temporary, sizeof file->temporary, ".cavmae-%lx-%lx-%d.tmp", (unsigned long)getpid(),
                 (unsigned long)now.tv_nsec, attempt);
        file->descriptor = openat(file->directory, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->descriptor >= 0) return CAVMAE_OK;
        if (errno != EEXIST) break;
    }
    return cavmae__file_error(file->path, "create a file beside it");
}

cavmae_status cavmae__atomic_file_open(cavmae__atomic_file *file, const char *path) {
    file->used = 0;
    CAVMAE__TRY(open_directory(file, path));
    cavmae_status status = open_temporary(file);
    if (status != CAVMAE_OK) close(file->directory);
    return status;
}

static cavmae_status write_all(cavmae__atomic_file *file, const char *data, size_t size) {
    while (size) {
        ssize_t written = write(file->descriptor, data, size < CHUNK ? size : CHUNK);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return cavmae__file_error(file->path, "write");
        data += written;
        size -= (size_t)written;
    }
    return CAVMAE_OK;
}

static cavmae_status flush(cavmae__atomic_file *file) {
    size_t size = file->used;
    file->used = 0;
    return write_all(file, file->buffer, size);
}

cavmae_status cavmae__atomic_file_write(cavmae__atomic_file *file, const void *data, size_t size) {
    if (size > sizeof file->buffer - file->used) CAVMAE__TRY(flush(file));
    if (size > sizeof file->buffer) return write_all(file, data, size);
    if (size) memcpy(file->buffer + file->used, data, size);
    file->used += size;
    return CAVMAE_OK;
}

cavmae_status cavmae__atomic_file_overwrite(cavmae__atomic_file *file, size_t offset, const void *data, size_t size) {
    const char *from = data;
    CAVMAE__TRY(flush(file));
    while (size) {
        ssize_t written = pwrite(file->descriptor, from, size < CHUNK ? size : CHUNK, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return cavmae__file_error(file->path, "write");
        from += written;
        offset += (size_t)written;
        size -= (size_t)written;
    }
    return CAVMAE_OK;
}

static cavmae_status sync_descriptor(int descriptor, const char *path) {
    while (fsync(descriptor) != 0) {
        if (errno == EINVAL) return CAVMAE_OK; /* a file system that has nothing to wait for */
        if (errno != EINTR) return cavmae__file_error(path, "make it durable");
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__atomic_file_commit(cavmae__atomic_file *file) {
    cavmae_status status;
    CAVMAE__TRY_OUT(flush(file));
    CAVMAE__TRY_OUT(sync_descriptor(file->descriptor, file->path));
    if (renameat(file->directory, file->temporary, file->directory, file->name) != 0) {
        status = cavmae__file_error(file->path, "rename the new file to it");
        goto out;
    }
    /* From here on the new file is in place; what can still fail is that the directory's entry is durable. */
    status = sync_descriptor(file->directory, file->path);
    close(file->descriptor);
    close(file->directory);
    return status;

out:
    cavmae__atomic_file_abandon(file);
    return status;
}

void cavmae__atomic_file_abandon(cavmae__atomic_file *file) {
    unlinkat(file->directory, file->temporary, 0);
    close(file->descriptor);
    close(file->directory);
}
