/* The small files that ranks of a world leave for one another: what is read of one is short, and ends. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "world_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae__note note;
    char *bytes = malloc(size ? size : 1); /* of exactly its size, so that the sanitizer sees a read past the end */
    FUZZ_CHECK(bytes != NULL);
    if (size) memcpy(bytes, data, size);
    if (cavmae__note_parse(bytes, size, &note)) {
        FUZZ_CHECK(note.begun >= 0 && note.ended >= 0);
        FUZZ_CHECK(strlen(note.begun_text) < sizeof note.begun_text && !strchr(note.begun_text, '\n'));
        FUZZ_CHECK(strlen(note.ended_text) < sizeof note.ended_text && !strchr(note.ended_text, '\n'));
        FUZZ_CHECK(strlen(note.failure) < sizeof note.failure && !strchr(note.failure, '\n'));
    }
    free(bytes);
    return 0;
}
