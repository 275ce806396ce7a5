/* cavmae-retrieve: how well sound finds pictures and pictures find sound in a manifest; or, with --query FILE, which of
 * its clips fit a file best. --sheet shows what was found; --page, without a query, all clips and what is near each.
 *
 * --index searches in what cavmae-embed --shards made, its manifest.json, or an index file, instead; with --world each rank
 * holds a part of the shards, and rank 0 tells what all of them found. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clip_input.h"
#include "embed_manifest.h"
#include "open_world.h"
#include "png_file.h"
#include "search_page.h"
#include "sheet.h"

static cavmae_retrieval_metrics print_metrics(cavmae_context *context, const char *direction, const output *queries,
                                              const output *gallery, int64_t count) {
    cavmae_retrieval_metrics m = {.struct_size = sizeof m};
    check(
        cavmae_retrieval_from_embeddings(context, queries->values, gallery->values, count, (int32_t)queries->dim, &m));
    printf("%-18s  R@1 %5.1f %%  R@5 %5.1f %%  R@10 %5.1f %%  median rank %g\n", direction, 100 * m.r1, 100 * m.r5,
           100 * m.r10, m.median_rank);
    return m;
}

/* A search as it goes: everything that its steps need. */
typedef struct searcher {
    cavmae_context *context;
    cavmae_model *model;
    cavmae_loader *loader;
    const output *gallery; /* [2] sounds, pictures */
    const clip_list *clips;
    int32_t k;
} searcher;

/* The k clips of the gallery whose `kind` is nearest to the query, best first; to be freed. */
static int64_t *find_nearest(const searcher *s, const float *query, int32_t kind, float *scores) {
    const output *gallery = &s->gallery[kind];
    cavmae_index *index;
    int64_t *ids = allocate((size_t)s->k, sizeof *ids);
    check(cavmae_index_create(s->context, (int32_t)gallery->dim, &index));
    check(cavmae_index_add(index, gallery->values, s->clips->count));
    check(cavmae_index_search(index, query, 1, s->k, ids, scores));
    cavmae_index_free(index);
    return ids;
}

static cavmae_loader_item item_of(const searcher *s, int64_t id) {
    cavmae_loader_item item = {.struct_size = sizeof item};
    check(cavmae_loader_item_at(s->loader, s->clips->samples[id], &item));
    return item;
}

/* ---- The sheet: a query and what was found, as pictures and spectrograms ---- */

enum { CELL = 200, MOST_COLUMNS = 8, QUERIES = 4 };

static void show_clip(sheet *page, const searcher *s, int row, int column, int32_t kind, const char *path, int frame) {
    clip_input clip =
        read_clip(s->context, s->model, kind == KIND_AUDIO ? path : NULL, kind == KIND_AUDIO ? NULL : path);
    if (kind == KIND_AUDIO) {
        double quiet, loud;
        float *log_mel = clip_log_mel(&clip, &quiet, &loud);
        picture p = spectrogram(&clip, log_mel, quiet, loud, NULL);
        sheet_picture(page, row, column, &p, 1, frame);
        picture_free(&p);
        free(log_mel);
    } else {
        sheet_picture(page, row, column, &clip.frame, 0, frame);
    }
    free_clip(&clip);
}

/* right: the clip that belongs to the query; -1: none does. */
static void show_nearest(sheet *page, const searcher *s, int row, int32_t kind, const char *query, const int64_t *ids,
                         const float *scores, int64_t right) {
    show_clip(page, s, row, 0, !kind, query, FRAME_QUERY);
    for (int32_t i = 0; i + 1 < page->columns && i < s->k && ids[i] >= 0; i++) {
        const cavmae_loader_item item = item_of(s, ids[i]);
        show_clip(page, s, row, i + 1, kind, kind == KIND_AUDIO ? item.audio_path : item.image_path,
                  ids[i] == right ? FRAME_RIGHT : FRAME_NONE);
        sheet_words(page, row, i + 1, "%d: %.3f", (int)i + 1, (double)scores[i]);
    }
}

static sheet open_sheet(const searcher *s, int rows) {
    int heights[SHEET_ROWS], results = s->k < MOST_COLUMNS ? s->k : MOST_COLUMNS;
    if (s->clips->count < results) results = (int)s->clips->count;
    for (int row = 0; row < rows; row++) heights[row] = CELL;
    return new_sheet(1 + results, CELL, rows, heights);
}

/* Clips at even distances as queries, both ways: not chosen by how well they came out. */
static void show_queries(const searcher *s, const char *path) {
    int64_t queries = s->clips->count < QUERIES ? s->clips->count : QUERIES;
    searcher all = *s; /* finds the right one too */
    all.k = (int32_t)s->clips->count;
    float *scores = allocate((size_t)all.k, sizeof *scores);
    sheet page = open_sheet(s, 2 * (int)queries);
    for (int row = 0; row < 2 * queries; row++) {
        int32_t kind = row < queries ? KIND_VISUAL : KIND_AUDIO; /* that is looked for */
        int64_t query = (2 * (row % queries) + 1) * s->clips->count / (2 * queries);
        const output *queried = &s->gallery[!kind];
        int64_t *ids = find_nearest(&all, queried->values + query * queried->dim, kind, scores), right = 0;
        while (ids[right] != query) right++;
        const cavmae_loader_item item = item_of(s, query);
        /* the item's texts live until the next one is asked for */
        char *file = strdup(kind == KIND_AUDIO ? item.image_path : item.audio_path);
        if (!file) die("no memory");
        show_nearest(&page, &all, row, kind, file, ids, scores, query);
        sheet_words(&page, row, 0, "%s: no. %lld", kind == KIND_AUDIO ? "sound" : "picture", (long long)right + 1);
        free(file);
        free(ids);
    }
    write_png(&page.page, path);
    free_sheet(&page);
    free(scores);
}

/* ---- One query ---- */

/* By the query's sound among the pictures, and by its picture among the sounds; by whichever it has. */
static void search(const searcher *s, const char *path, const char *sheet_path) {
    static const char *const titles[2] = {"sounds for its picture", "pictures for its sound"};
    cavmae_media_info info = {.struct_size = sizeof info};
    check(cavmae_media_probe(s->context, path, &info));
    const int32_t has[2] = {info.audio_channels, info.width};
    output query[2] = {new_output(s->model, KIND_AUDIO, 0, 1), new_output(s->model, KIND_VISUAL, 0, 1)};
    float *scores = allocate((size_t)s->k, sizeof *scores);
    cavmae_embedding embedding = {.struct_size = sizeof embedding};
    for (int32_t kind = 0; kind < 2; kind++)
        if (has[kind]) request(&embedding, &query[kind], 0);
    check(cavmae_embed_file(s->model, path, &embedding));
    sheet page = open_sheet(s, !!has[0] + !!has[1]);
    for (int32_t kind = KIND_VISUAL, row = 0; kind >= KIND_AUDIO; kind--) {
        if (!has[!kind]) continue;
        int64_t *ids = find_nearest(s, query[!kind].values, kind, scores);
        printf("%s\n", titles[kind]);
        for (int32_t i = 0; i < s->k && ids[i] >= 0; i++)
            printf("%4d  %7.4f  %s\n", (int)i + 1, (double)scores[i], item_of(s, ids[i]).id);
        if (sheet_path) {
            show_nearest(&page, s, row, kind, path, ids, scores, -1);
            sheet_words(&page, row++, 0, "its %s?", kind == KIND_AUDIO ? "sound" : "picture");
        }
        free(ids);
    }
    if (sheet_path) write_png(&page.page, sheet_path);
    free_sheet(&page);
    free(scores);
    free(query[0].values);
    free(query[1].values);
}

/* ---- In an index ---- */

/* By the query's sound or its picture, whatever kind of embeddings the index has. loader, or NULL: where names are. */
static void search_index(cavmae_context *context, cavmae_model *model, cavmae_loader *loader, const world_options *w,
                         const char *index_path, const char *path, const char *by, int32_t k) {
    cavmae_index *index;
    output query = new_output(model, !strcmp(by, "sound") ? KIND_AUDIO : KIND_VISUAL, 0, 1);
    cavmae_embedding embedding = {.struct_size = sizeof embedding};
    int64_t *ids = allocate((size_t)k, sizeof *ids);
    float *scores = allocate((size_t)k, sizeof *scores);
    request(&embedding, &query, 0);
    check(cavmae_embed_file(model, path, &embedding));
    check(cavmae_index_load_part(context, index_path, w->rank, w->size, NULL, &index));
    if (cavmae_index_dim(index) != query.dim)
        die("%s has embeddings of width %d, the model %d", index_path, (int)cavmae_index_dim(index), (int)query.dim);
    check(cavmae_index_search_world(index, w->world, query.values, 1, k, ids, scores));
    for (int32_t i = 0; i < k && ids[i] >= 0 && w->rank == 0; i++) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        if (loader) check(cavmae_loader_item_at(loader, ids[i], &item));
        printf("%4d  %7.4f  %lld  %s\n", (int)i + 1, (double)scores[i], (long long)ids[i], item.id ? item.id : "");
    }
    cavmae_index_free(index);
    free(query.values);
    free(ids);
    free(scores);
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *manifest = NULL, *query = NULL, *sheet_path = NULL, *device = NULL;
    const char *index = NULL, *by = "sound", *page_path = NULL;
    world_options w = {0};
    int32_t k = 10, threads = 0;
    const option options[] = {
        {.name = "--model", .value = "F", .help = "model file, checkpoint or .pth", .text = &model_path},
        {.name = "--manifest", .value = "M.json", .help = "the clips to search in", .text = &manifest},
        {.name = "--query",
         .value = "FILE",
         .help = "search for this file; without it: measure the manifest",
         .text = &query},
        {.name = "-k", .value = "N", .help = "how many results (10)", .number = &k},
        {.name = "--sheet",
         .value = "P.png",
         .help = "what was found, as pictures and spectrograms",
         .text = &sheet_path},
        {.name = "--page",
         .value = "P.html",
         .help = "all clips, and what is nearest to each by sound, by picture and by both, as a page",
         .text = &page_path},
        {.name = "--index",
         .value = "I",
         .help = "with --query: search in this index, or manifest.json of shards; clips' names are --manifest's",
         .text = &index},
        {.name = "--by", .value = "B", .help = "with --index: the query's sound or picture (sound)", .text = &by},
        WORLD_OPTIONS(w),
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        {0}};
    read_options(argc, argv, "searches a manifest by sound and picture", options);
    if (!model_path || (!manifest && !index)) die("--model, and --manifest or --index, are needed");
    if (index && (!query || sheet_path)) die("--index goes with --query, without --sheet");
    if (page_path && query) die("--page shows all clips, and goes without --query");
    if (strcmp(by, "sound") != 0 && strcmp(by, "picture") != 0) die("--by is sound or picture, not %s", by);
    if (w.kind && !index) die("--world goes with --index");
    if (k < 1) die("-k must be at least 1");

    cavmae_context *context = open_context_in(&w, device, threads, NULL);
    cavmae_model *model;
    check(cavmae_model_load(context, model_path, 0, NULL, &model));
    if (sheet_path || page_path) need_files(context, manifest);
    cavmae_loader *loader = manifest ? open_gallery(model, manifest, NULL) : NULL;
    if (index) {
        (void)open_world(&w, context, NULL);
        search_index(context, model, loader, &w, index, query, by, k);
        close_world(&w);
        cavmae_loader_free(loader);
        cavmae_model_free(model);
        cavmae_context_free(context);
        return 0;
    }
    int64_t count = cavmae_loader_count(loader);
    if (page_path && count > SEARCH_PAGE_CLIPS)
        die("%s has %lld clips, and a page takes %d: give it a part", manifest, (long long)count, SEARCH_PAGE_CLIPS);
    output gallery[3] = {new_output(model, KIND_AUDIO, 0, count), new_output(model, KIND_VISUAL, 0, count),
                         new_output(model, KIND_JOINT, 0, page_path ? count : 0)};
    clip_list clips = embed_gallery(model, loader, gallery, page_path ? 3 : 2);
    const searcher s = {
        .context = context, .model = model, .loader = loader, .gallery = gallery, .clips = &clips, .k = k};
    if (query) {
        search(&s, query, sheet_path);
    } else {
        const cavmae_retrieval_metrics way[2] = {
            print_metrics(context, "sound to picture", &gallery[0], &gallery[1], clips.count),
            print_metrics(context, "picture to sound", &gallery[1], &gallery[0], clips.count)};
        if (sheet_path) show_queries(&s, sheet_path);
        if (page_path) write_search_page(page_path, context, model, loader, &clips, gallery, way, k);
    }

    free_clips(&clips);
    for (int i = 0; i < 3; i++) free(gallery[i].values);
    cavmae_loader_free(loader);
    cavmae_model_free(model);
    cavmae_context_free(context);
    return 0;
}
