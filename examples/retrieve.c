/* cavmae-retrieve: how well sound finds pictures and pictures find sound in a manifest; or, with --query FILE, which of
 * its clips fit a file best. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "embed_manifest.h"
#include "program.h"

static void print_metrics(cavmae_context *context, const char *direction, const output *queries, const output *gallery,
                          int64_t count) {
    cavmae_retrieval_metrics m = {.struct_size = sizeof m};
    check(
        cavmae_retrieval_from_embeddings(context, queries->values, gallery->values, count, (int32_t)queries->dim, &m));
    printf("%-18s  R@1 %5.1f %%  R@5 %5.1f %%  R@10 %5.1f %%  median rank %g\n", direction, 100 * m.r1, 100 * m.r5,
           100 * m.r10, m.median_rank);
}

/* The k clips of the gallery that are nearest to the query, best first. */
static void print_nearest(cavmae_context *context, cavmae_loader *loader, const char *title, const output *query,
                          const output *gallery, const clip_list *clips, int32_t k) {
    cavmae_index *index;
    int64_t *ids = allocate((size_t)k, sizeof *ids);
    float *scores = allocate((size_t)k, sizeof *scores);
    check(cavmae_index_create(context, (int32_t)gallery->dim, &index));
    check(cavmae_index_add(index, gallery->values, clips->count));
    check(cavmae_index_search(index, query->values, 1, k, ids, scores));
    printf("%s\n", title);
    for (int32_t i = 0; i < k && ids[i] >= 0; i++) {
        cavmae_loader_item item = {.struct_size = sizeof item};
        check(cavmae_loader_item_at(loader, clips->samples[ids[i]], &item));
        printf("%4d  %7.4f  %s\n", (int)i + 1, scores[i], item.id);
    }
    cavmae_index_free(index);
    free(ids);
    free(scores);
}

/* By the query's sound among the pictures, and by its picture among the sounds; by whichever it has. */
static void search(cavmae_context *context, cavmae_model *model, cavmae_loader *loader, const char *path,
                   const output gallery[2], const clip_list *clips, int32_t k) {
    cavmae_media_info info = {.struct_size = sizeof info};
    check(cavmae_media_probe(context, path, &info));
    output query[2] = {new_output(model, KIND_AUDIO, 0, 1), new_output(model, KIND_VISUAL, 0, 1)};
    cavmae_embedding embedding = {.struct_size = sizeof embedding};
    if (info.audio_channels) request(&embedding, &query[0], 0);
    if (info.width) request(&embedding, &query[1], 0);
    check(cavmae_embed_file(model, path, &embedding));
    if (info.audio_channels) print_nearest(context, loader, "pictures for its sound", &query[0], &gallery[1], clips, k);
    if (info.width) print_nearest(context, loader, "sounds for its picture", &query[1], &gallery[0], clips, k);
    free(query[0].values);
    free(query[1].values);
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *manifest = NULL, *query = NULL, *device = NULL;
    int32_t k = 10, threads = 0;
    const option options[] = {
        {.name = "--model", .value = "F", .help = "model file or checkpoint", .text = &model_path},
        {.name = "--manifest", .value = "M.json", .help = "the clips to search in", .text = &manifest},
        {.name = "--query",
         .value = "FILE",
         .help = "search for this file; without it: measure the manifest",
         .text = &query},
        {.name = "-k", .value = "N", .help = "how many results (10)", .number = &k},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = "cpu, cuda, cuda:N or auto (cpu)", .text = &device},
        {0}};
    read_options(argc, argv, "searches a manifest by sound and picture", options);
    if (!model_path || !manifest) die("--model and --manifest are needed");
    if (k < 1) die("-k must be at least 1");

    cavmae_context *context = open_context(device, threads, NULL);
    cavmae_model *model;
    check(cavmae_model_load(context, model_path, 0, NULL, &model));
    cavmae_loader *loader = open_gallery(model, manifest, NULL);
    int64_t count = cavmae_loader_count(loader);
    output gallery[2] = {new_output(model, KIND_AUDIO, 0, count), new_output(model, KIND_VISUAL, 0, count)};
    clip_list clips = embed_gallery(model, loader, gallery, 2);
    if (query) {
        search(context, model, loader, query, gallery, &clips, k);
    } else {
        print_metrics(context, "sound to picture", &gallery[0], &gallery[1], clips.count);
        print_metrics(context, "picture to sound", &gallery[1], &gallery[0], clips.count);
    }

    free_clips(&clips);
    free(gallery[0].values);
    free(gallery[1].values);
    cavmae_loader_free(loader);
    cavmae_model_free(model);
    cavmae_context_free(context);
    return 0;
}
