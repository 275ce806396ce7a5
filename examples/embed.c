/* cavmae-embed: embeddings of a manifest's clips, of media files, or of one sound and one picture, as .npy or
 * .safetensors.
 *
 * kind audio and visual are the coordinated embeddings, of length 1 and comparable with one another; joint is the
 * fused one. --tokens writes all tokens instead of their mean. A .safetensors file also says which clips they are.
 *
 * --windows cuts media files of any length into windows, with the time of each: in a .safetensors file as tensors
 * "file", "start" and "end", beside an .npy file as CSV, in a .csv file before the numbers. With --pool one row for
 * each file, the mean over its windows, remains.
 *
 * --shards makes a folder of .safetensors files of so many clips each, and manifest.json, which cavmae_index_load takes;
 * with --world each rank embeds its part of them. Shards that are there already are left as they are, so that what was
 * ended goes on where it was, with any number of ranks. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embed_manifest.h"
#include "embed_shards.h"
#include "embed_windows.h"
#include "open_world.h"

static int32_t parse_kind(const char *name) {
    static const char *const names[] = {"audio", "visual", "joint"};
    for (int32_t i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) return i;
    die("--kind is audio, visual or joint, not %s", name);
}

/* Windows and where they lie; a file's mean lies nowhere. */
static void save_windows(cavmae_context *context, const char *path, const char *kind, const output *one,
                         const window_list *windows, const words *files, int32_t pool) {
    const int64_t shape[] = {windows->count, one->rows, one->dim}, flat[] = {windows->count, one->dim};
    int32_t deep = one->tokens || one->rows > 1;
    const char *names[] = {kind, "file", "start", "end"};
    cavmae_tensor *tensors[] = {wrap(context, windows->values, CAVMAE_FLOAT32, deep ? 3 : 2, deep ? shape : flat),
                                wrap(context, windows->file, CAVMAE_INT64, 1, shape),
                                wrap(context, windows->start, CAVMAE_FLOAT64, 1, shape),
                                wrap(context, windows->end, CAVMAE_FLOAT64, 1, shape)};
    if (ends_with(path, ".csv")) {
        windows_csv(path, windows, files, one, 1);
    } else if (ends_with(path, ".npy")) {
        char *beside = strdup(path);
        check(cavmae_tensor_save_npy(tensors[0], path));
        if (!beside) die("no memory");
        memcpy(strrchr(beside, '.'), ".csv", 4);
        if (!pool) windows_csv(beside, windows, files, one, 0);
        free(beside);
    } else {
        check(cavmae_safetensors_save(context, path, pool ? 1 : 4, names, (const cavmae_tensor *const *)tensors, 0,
                                      NULL, NULL));
    }
    for (int i = 0; i < 4; i++) cavmae_tensor_free(tensors[i]);
    printf("%s: %lld %s, %s [", path, (long long)windows->count, pool ? "files" : "windows", kind);
    if (deep) printf("%lld, ", (long long)one->rows);
    printf("%lld]\n", (long long)one->dim);
}

/* Pictures of a clip that have rows of their own. */
static output new_framed_output(cavmae_model *model, int32_t kind, int32_t tokens, int64_t clips, int32_t frames) {
    int64_t each = frames && kind != KIND_AUDIO ? frames : 1;
    output o = new_output(model, kind, tokens, clips * each);
    o.rows *= each;
    return o;
}

static double parse_seconds(const char *name, const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end || !(seconds >= 0)) die("%s takes seconds, not %s", name, text);
    return seconds;
}

/* The clips of a manifest, or files, as a folder of shards: this rank's part of them. */
static void make_shards(cavmae_context *context, cavmae_model *model, const char *manifest, const char *labels,
                        const words *media, int32_t frames, const output *one, const shard_folder *folder) {
    corpus all = {.files = media, .frames = frames, .count = media->count};
    if (manifest) {
        cavmae_config *config = gallery_config(model);
        /* A row for each clip, so that rows are numbered as clips are. */
        check(cavmae_config_set(config, "broken", "error"));
        check(cavmae_loader_create(config, manifest, labels, &all.loader));
        cavmae_config_free(config);
        all.count = cavmae_loader_count(all.loader);
    }
    embed_shards(context, model, &all, one, folder);
    cavmae_loader_free(all.loader);
}

/* A sound and a picture from two files: what cavmae_embed_file does for one, step by step. */
static void embed_pair(cavmae_context *context, cavmae_model *model, const char *sound, const char *picture,
                       const output *o) {
    cavmae_batch batch = {.struct_size = sizeof batch, .count = 1};
    cavmae_embedding embedding = {.struct_size = sizeof embedding};
    cavmae_tensor *audio = NULL;
    float *image = NULL;
    int32_t frames;
    cavmae_config *config;
    check(cavmae_model_config(model, &config));
    if (sound) {
        cavmae_tensor *pcm;
        int32_t rate;
        check(cavmae_media_audio(context, sound, &pcm, &rate));
        const int64_t *shape = cavmae_tensor_shape(pcm);
        check(cavmae_prepare_audio(config, cavmae_tensor_data(pcm), shape[0], (int32_t)shape[1], rate, &audio));
        cavmae_tensor_free(pcm);
        frames = (int32_t)cavmae_tensor_shape(audio)[0];
        batch.audio = cavmae_tensor_data(audio);
        batch.audio_frames = &frames;
    }
    if (picture) {
        cavmae_tensor *rgb;
        double start = 0;
        int64_t size;
        check(cavmae_media_frames(context, picture, &start, 1, &rgb));
        check(cavmae_config_get_i64(config, CAVMAE_P_IMAGE_SIZE, &size));
        const int64_t *shape = cavmae_tensor_shape(rgb); /* [1, height, width, 3] */
        image = allocate((size_t)(3 * size * size), sizeof *image);
        check(cavmae_prepare_image(config, cavmae_tensor_data(rgb), (int32_t)shape[2], (int32_t)shape[1], 0, image));
        cavmae_tensor_free(rgb);
        batch.image = image;
    }
    request(&embedding, o, 0);
    check(cavmae_embed(model, &batch, &embedding));
    cavmae_tensor_free(audio);
    free(image);
    cavmae_config_free(config);
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *manifest = NULL, *labels = NULL, *sound = NULL, *picture = NULL,
               *kind_name = "joint";
    const char *out = NULL, *device = NULL, *window = NULL, *hop = NULL, *shards = NULL;
    words media = {0};
    world_options w = {0};
    int32_t tokens = 0, threads = 0, frames = 0, pool = 0, shard_clips = 10000;
    const option options[] = {
        {.name = "--model", .value = "F", .help = "model file, checkpoint or .pth", .text = &model_path},
        {.name = "--manifest", .value = "M.json", .help = "embed its clips", .text = &manifest},
        {.name = "--labels",
         .value = "L.csv",
         .help = "with --manifest: its classes go into a .safetensors file too",
         .text = &labels},
        {.name = "--media", .value = "FILE", .help = "embed these files", .list = &media},
        {.name = "--audio", .value = "A.wav", .help = "embed this sound", .text = &sound},
        {.name = "--image", .value = "I.jpg", .help = "embed this picture", .text = &picture},
        {.name = "--kind", .value = "K", .help = "audio, visual or joint (joint)", .text = &kind_name},
        {.name = "--tokens", .help = "all tokens, not their mean", .flag = &tokens},
        {.name = "--frames",
         .value = "N",
         .help = "with --media: a row for each of N pictures; 0: the middle one (0)",
         .number = &frames},
        {.name = "--windows",
         .value = "SECONDS",
         .help = "with --media: a row for each window; 0: as long as the model hears",
         .text = &window},
        {.name = "--hop", .value = "SECONDS", .help = "from window to window (the window's length)", .text = &hop},
        {.name = "--pool", .help = "with --windows: a file's mean over them", .flag = &pool},
        {.name = "--out", .value = "FILE", .help = ".npy or .safetensors; with --windows also .csv", .text = &out},
        {.name = "--shards",
         .value = "DIR",
         .help = "instead of --out: a folder of .safetensors files and manifest.json; goes on where it was ended",
         .text = &shards},
        {.name = "--shard-clips", .value = "N", .help = "clips of a shard (10000)", .number = &shard_clips},
        WORLD_OPTIONS(w),
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        {0}};
    read_options(argc, argv, "embeds clips", options);
    if (!model_path || !out == !shards) die("--model and either --out or --shards are needed");
    if (shards && ((!manifest && !media.count) || window))
        die("--shards goes with --manifest or --media, without --windows");
    if (w.kind && !shards) die("--world goes with --shards");
    if (shard_clips < 1) die("--shard-clips is at least 1");
    if (out && !ends_with(out, ".npy") && !ends_with(out, ".safetensors") && !(window && ends_with(out, ".csv")))
        die("--out ends with .npy or .safetensors, not as in %s", out);
    if ((window || frames) && !media.count) die("--windows and --frames go with --media");
    if ((hop || pool) && !window) die("--hop and --pool go with --windows");
    if ((manifest != NULL) + (media.count > 0) + (sound || picture) != 1)
        die("give --manifest, --media, or --audio and --image");
    if (labels && (!manifest || (out && ends_with(out, ".npy"))))
        die("--labels goes with --manifest and a .safetensors file");
    int32_t kind = parse_kind(kind_name);

    cavmae_context *context = open_context_in(&w, device, threads, NULL);
    cavmae_model *model;
    output o;
    clip_list clips = {0};
    check(cavmae_model_load(context, model_path, 0, NULL, &model));
    if (shards) {
        (void)open_world(&w, context, NULL); /* for its numbers: ranks need nothing of one another */
        const shard_folder folder = {
            .path = shards, .kind = kind_name, .clips = shard_clips, .rank = w.rank, .ranks = w.size};
        o = new_framed_output(model, kind, tokens, 1, frames);
        make_shards(context, model, manifest, labels, &media, frames, &o, &folder);
        close_world(&w);
    } else if (manifest) {
        cavmae_loader *loader = open_gallery(model, manifest, labels);
        o = new_output(model, kind, tokens, cavmae_loader_count(loader));
        clips = embed_gallery(model, loader, &o, 1);
        cavmae_loader_free(loader);
    } else if (window) {
        const cavmae_window_options windows = {.struct_size = sizeof windows,
                                               .pool = pool,
                                               .window_seconds = parse_seconds("--windows", window),
                                               .hop_seconds = hop ? parse_seconds("--hop", hop) : 0};
        o = new_framed_output(model, kind, tokens, 1, frames);
        window_list list = embed_windows(model, &media, &windows, frames, &o);
        save_windows(context, out, kind_name, &o, &list, &media, pool);
        free_windows(&list);
    } else if (media.count) {
        o = new_framed_output(model, kind, tokens, media.count, frames);
        for (; clips.count < media.count; clips.count++) {
            cavmae_embedding embedding = {.struct_size = sizeof embedding, .frames = frames};
            request(&embedding, &o, clips.count);
            check(cavmae_embed_file(model, media.word[clips.count], &embedding));
        }
    } else {
        o = new_output(model, kind, tokens, 1);
        embed_pair(context, model, sound, picture, &o);
        clips.count = 1;
    }
    if (!window && !shards) save_clips(context, out, kind_name, &o, &clips, NULL, NULL);

    free_clips(&clips);
    free(o.values);
    free(media.word);
    cavmae_model_free(model);
    cavmae_context_free(context);
    return 0;
}
