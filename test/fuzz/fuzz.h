/* What the targets of test/fuzz share. Each target is one file with LLVMFuzzerTestOneInput: under libFuzzer (`make
 * fuzz`), and with driver.c, which runs its corpus in `make check`. Included once in a program. */
#ifndef CAVMAE_TEST_FUZZ_H
#define CAVMAE_TEST_FUZZ_H

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cavmae.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_fault(#condition, __FILE__, __LINE__))

static inline void fuzz_fault(const char *text, const char *file, int line) {
    fprintf(stderr, "%s:%d: not true: %s (last error: %s)\n", file, line, text, cavmae_last_error());
    abort();
}

/* ---- A context for one input, that gives out so much memory and wants all of it back ---- */

enum { FUZZ_MEMORY = 256 << 20 }; /* what a file claims must not be believed without end */

typedef struct fuzz_memory {
    size_t used, blocks, limit;
} fuzz_memory;

static fuzz_memory fuzz_in_use; /* contexts have one thread */

static inline void *fuzz_alloc(void *user, size_t size) {
    fuzz_memory *memory = user;
    if (size > memory->limit - memory->used) return NULL;
    void *block = malloc(size);
    if (!block) return NULL;
    memory->used += malloc_usable_size(block);
    if (memory->used > memory->limit) memory->used = memory->limit;
    memory->blocks++;
    return block;
}

static inline void fuzz_free(void *user, void *block) {
    fuzz_memory *memory = user;
    size_t size = malloc_usable_size(block);
    memory->used -= size < memory->used ? size : memory->used;
    memory->blocks--;
    free(block);
}

static inline cavmae_context *fuzz_context(size_t limit) {
    cavmae_context_options options = {.struct_size = sizeof options,
                                      .threads = 1,
                                      .alloc = fuzz_alloc,
                                      .free = fuzz_free,
                                      .alloc_user = &fuzz_in_use};
    cavmae_context *context = NULL;
    fuzz_in_use = (fuzz_memory){.limit = limit};
    FUZZ_CHECK(cavmae_context_create(&options, &context) == CAVMAE_OK);
    return context;
}

/* Everything made from the context has been freed. */
static inline void fuzz_end(cavmae_context *context) {
    cavmae_context_free(context);
    FUZZ_CHECK(fuzz_in_use.blocks == 0);
}

/* A call that failed says why, in a status that the header lists, none of them a fault of the library, and in words
 * that do nothing to a terminal, whatever names the file has. Gives whether the call went well. */
static inline int fuzz_ok(cavmae_status status) {
    if (status == CAVMAE_OK) return 1;
    FUZZ_CHECK(status != CAVMAE_E_INTERNAL && strcmp(cavmae_status_str(status), "unknown status") != 0);
    FUZZ_CHECK(cavmae_last_error()[0] != '\0');
    for (const char *at = cavmae_last_error(); *at; at++) FUZZ_CHECK((unsigned char)*at >= ' ' && *at != 0x7F);
    return 0;
}

/* ---- Inputs ---- */

/* The input as a file; valid until the next call. */
static inline const char *fuzz_path(const uint8_t *data, size_t size) {
    static char path[32];
    static int file = -1;
    if (file < 0) {
        file = memfd_create("input", MFD_CLOEXEC);
        FUZZ_CHECK(file >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    FUZZ_CHECK(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
    return path;
}

/* The input as a string, up to its first zero, in memory of just that size. */
static inline char *fuzz_text(const uint8_t *data, size_t size) {
    size_t length = strnlen((const char *)data, size);
    char *text = malloc(length + 1);
    FUZZ_CHECK(text != NULL);
    memcpy(text, data, length);
    text[length] = '\0';
    return text;
}

/* Touches every byte, so that the sanitizer sees those that are not there. */
static inline void fuzz_read(const void *bytes, size_t size) {
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    __asm__ volatile("" : : "r"(sum)); /* it is wanted */
}

static inline void fuzz_read_tensor(const cavmae_tensor *tensor) {
    static const uint8_t sizes[] = {0, 4, 8, 2, 2, 8, 4, 2, 1, 1, 1}; /* CAVMAE_FLOAT32 .. CAVMAE_BOOL */
    int32_t dtype = cavmae_tensor_dtype(tensor);
    FUZZ_CHECK(dtype >= 1 && dtype <= CAVMAE_BOOL);
    size_t bytes = (size_t)cavmae_tensor_elements(tensor) * sizes[dtype];
    FUZZ_CHECK(bytes == 0 || cavmae_tensor_data(tensor) != NULL);
    fuzz_read(cavmae_tensor_data(tensor), bytes);
}

/* ---- Maps end where their files do ---- */

/* A mapped file is followed by zeros up to the end of its page, which a reader that goes too far finds without being
 * caught. The programs are linked with --wrap for these two, which tell the sanitizer where the file ends. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define FUZZ_ADDRESS_SANITIZER
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define FUZZ_ADDRESS_SANITIZER
#endif
#ifdef FUZZ_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

void *__real_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);
int __real_munmap(void *address, size_t length);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *address, size_t length);

static inline size_t fuzz_page_rest(size_t length) { return -length % (size_t)sysconf(_SC_PAGESIZE); }

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    void *map = __real_mmap(address, length, protection, flags, file, offset);
    if (file >= 0 && map != MAP_FAILED) ASAN_POISON_MEMORY_REGION((char *)map + length, fuzz_page_rest(length));
    return map;
}

int __wrap_munmap(void *address, size_t length) {
    ASAN_UNPOISON_MEMORY_REGION(address, length + fuzz_page_rest(length));
    return __real_munmap(address, length);
}

#endif
