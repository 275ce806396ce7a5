#include "embed_windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct collector {
    window_list list;
    int64_t file, elements; /* numbers of a window */
    const output *one;
} collector;

static void *grow(void *memory, int64_t room, size_t size) {
    void *grown = realloc(memory, (size_t)room * size);
    if (!grown) die("no memory for %lld windows", (long long)room);
    return grown;
}

static cavmae_status collect(void *user, int64_t index, double start, double end, const cavmae_embedding *embedding) {
    collector *c = user;
    window_list *l = &c->list;
    (void)index, (void)embedding; /* it points to c->one->values */
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->file = grow(l->file, l->room, sizeof *l->file);
        l->start = grow(l->start, l->room, sizeof *l->start);
        l->end = grow(l->end, l->room, sizeof *l->end);
        l->values = grow(l->values, l->room * c->elements, sizeof *l->values);
    }
    l->file[l->count] = c->file;
    l->start[l->count] = start;
    l->end[l->count] = end;
    memcpy(l->values + l->count * c->elements, c->one->values, (size_t)c->elements * sizeof *l->values);
    l->count++;
    return CAVMAE_OK;
}

window_list embed_windows(cavmae_model *model, const words *files, const cavmae_window_options *options, int32_t frames,
                          const output *one) {
    collector c = {.elements = one->rows * one->dim, .one = one};
    cavmae_embedding embedding = {.struct_size = sizeof embedding, .frames = frames};
    request(&embedding, one, 0);
    for (; c.file < files->count; c.file++) {
        const cavmae_source source = {.struct_size = sizeof source, .path = files->word[c.file]};
        check(cavmae_embed_windows(model, &source, options, &embedding, options->pool ? NULL : collect, &c));
        if (options->pool) check(collect(&c, 0, 0, 0, &embedding));
    }
    return c.list;
}

void windows_csv(const char *path, const window_list *l, const words *files, const output *one, int32_t values) {
    FILE *csv = fopen(path, "w");
    int64_t elements = values ? one->rows * one->dim : 0;
    if (!csv) die("cannot write %s", path);
    fprintf(csv, "file,start,end");
    for (int64_t k = 0; k < elements; k++) fprintf(csv, ",%lld", (long long)k);
    fputc('\n', csv);
    for (int64_t i = 0; i < l->count; i++) {
        fputc('"', csv);
        for (const char *c = files->word[l->file[i]]; *c; c++) fprintf(csv, *c == '"' ? "\"\"" : "%c", *c);
        fprintf(csv, "\",%.6f,%.6f", l->start[i], l->end[i]);
        for (int64_t k = 0; k < elements; k++) fprintf(csv, ",%.9g", (double)l->values[i * elements + k]);
        fputc('\n', csv);
    }
    int failed = ferror(csv);
    if (fclose(csv) || failed) die("cannot write %s", path);
}

void free_windows(window_list *l) {
    free(l->file);
    free(l->start);
    free(l->end);
    free(l->values);
}
