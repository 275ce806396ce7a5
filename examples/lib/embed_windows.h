/* Embeddings of long media files, window by window, with the time of each. */
#ifndef EXAMPLE_EMBED_WINDOWS_H
#define EXAMPLE_EMBED_WINDOWS_H

#include "embed_manifest.h"
#include "program.h"

typedef struct window_list {
    int64_t count, room;
    int64_t *file;       /* [count] index of the window's file */
    double *start, *end; /* [count] seconds */
    float *values;       /* [count, rows, dim] of an output */
} window_list;

/* All windows of files, one after another. `one` is an output for one clip. */
window_list embed_windows(cavmae_model *model, const words *files, const cavmae_window_options *options, int32_t frames,
                          const output *one);

/* One line a window: file, start, end, and with `values` its row of numbers. */
void windows_csv(const char *path, const window_list *windows, const words *files, const output *one, int32_t values);
void free_windows(window_list *windows);

#endif
