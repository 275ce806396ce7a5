/* Manifests, with labels and without: every entry of one that opens can be read. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "manifest.h"

static const char labels_text[] = "index,mid,display_name\n0,/m/a,\"Apple, red\"\n1,/m/b,B\n2,/m/c,C\n";

static const char *labels_path(void) {
    static char path[32];
    if (!path[0]) {
        int file = memfd_create("labels", MFD_CLOEXEC);
        FUZZ_CHECK(file >= 0 && write(file, labels_text, sizeof labels_text - 1) == (ssize_t)sizeof labels_text - 1);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    return path;
}

static void read_string(const char *string) {
    if (string) fuzz_read(string, strlen(string) + 1);
}

static void look(const cavmae__manifest *manifest, int64_t index, int32_t classes, cavmae__item *item) {
    if (!fuzz_ok(cavmae__manifest_item(manifest, index, item))) return;
    read_string(item->id);
    read_string(item->audio);
    read_string(item->video);
    read_string(item->frames);
    if (item->frames) read_string(cavmae__item_frame(item, INT64_MIN));
    for (int32_t i = 0; i < item->label_count; i++) {
        FUZZ_CHECK(item->labels[i] >= 0 && item->labels[i] < classes);
        if (item->label_weights) FUZZ_CHECK(item->label_weights[i] >= 0 && item->label_weights[i] <= 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_path(data, size);
    for (int with = 0; with < 2; with++) {
        cavmae_context *context = fuzz_context(FUZZ_MEMORY);
        cavmae__manifest *manifest = NULL;
        cavmae__labels *labels = NULL;
        cavmae__item item = {0};
        if (with) FUZZ_CHECK(cavmae__labels_open(context, labels_path(), &labels) == CAVMAE_OK);
        if (fuzz_ok(cavmae__manifest_open(context, path, labels, !with, &manifest))) {
            int64_t count = cavmae__manifest_count(manifest);
            for (int64_t i = count; i-- > 0;) look(manifest, i, with ? cavmae__labels_count(labels) : 0, &item);
            cavmae__item_free(manifest, &item);
            cavmae__manifest_free(manifest);
        }
        cavmae__labels_free(labels);
        fuzz_end(context);
    }
    return 0;
}
