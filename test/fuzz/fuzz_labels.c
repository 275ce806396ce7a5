/* Labels files: every class is found by its names. And lists of names: the file's own text, as one. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "labels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae__labels *labels = NULL;
    if (fuzz_ok(cavmae__labels_open(context, fuzz_path(data, size), &labels))) {
        char *text = fuzz_text(data, size);
        int32_t count = 0, classes = cavmae__labels_count(labels);
        for (int32_t i = 0; i < classes; i++) {
            const char *name = cavmae__labels_display_name(labels, i);
            FUZZ_CHECK(cavmae__labels_find(labels, name, strlen(name)) == i);
        }
        size_t commas = 0;
        for (const char *at = text; (at = strchr(at, ',')) != NULL; at++) commas++;
        int32_t *found = malloc((commas + 1) * sizeof *found);
        FUZZ_CHECK(found != NULL);
        if (fuzz_ok(cavmae__labels_parse(labels, text, found, &count)))
            for (int32_t i = 0; i < count; i++) FUZZ_CHECK(found[i] >= 0 && found[i] < classes);
        free(found);
        free(text);
        cavmae__labels_free(labels);
    }
    fuzz_end(context);
    return 0;
}
