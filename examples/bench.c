/* cavmae-bench: measures one case, and prints one JSON line: the median of --steps runs after one to warm up.
 *
 *   pretrain      training steps, samples are clips; with --world in the ranks that a launcher started
 *   embed         audio and visual embeddings of pairs, no masking
 *   embed_audio   audio embeddings alone
 *   finetune      fine-tuning steps of a model with a head for 527 classes
 *   frames        joint embeddings of clips with ten frames each, their sound encoded once
 *   frames_apart  the same as ten clips, as the reference does it
 *   fbank         10 s of sound at 16 kHz to log-mel
 *   resize        1280 x 720 pixels to model input
 *   index         --batch queries for the best 10 among --rows rows of embed_dim
 *   op:NAME       single operations of the library whose names start with NAME: they are not in the API, so this is
 *                 build/test/op_bench, which is run in this program's place
 *
 * gflops_per_second counts the products of the model as PyTorch would compute it, so programs that leave out work
 * that nobody needs can be compared with those that do it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "open_world.h"

typedef struct bench {
    cavmae_context *context;
    cavmae_config *config;
    world_options world;
    int32_t batch, steps, rows;
    double flops, bytes; /* of one step; 0: not known */
    double *seconds;     /* [steps] */
} bench;

static int64_t get(const bench *b, int32_t key) {
    int64_t value;
    check(cavmae_config_get_i64(b->config, key, &value));
    return value;
}

static double get_real(const bench *b, int32_t key) {
    double value;
    check(cavmae_config_get_f64(b->config, key, &value));
    return value;
}

static void fill_random(float *x, int64_t count, uint64_t seed) { /* [-1, 1) */
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(seed >> 40) * 0x1p-23f - 1;
    }
}

static float *random_array(int64_t count, uint64_t seed) {
    float *x = allocate((size_t)count, sizeof *x);
    fill_random(x, count, seed);
    return x;
}

/* Runs step(state) once, then `steps` times with the clock. */
static void measure(bench *b, void (*step)(bench *b, void *state), void *state) {
    b->seconds = allocate((size_t)b->steps, sizeof *b->seconds);
    /* A GPU's first steps choose algorithms and are recorded. */
    const int32_t first = strcmp(cavmae_context_device(b->context), "cpu") == 0 ? 1 : 6;
    for (int32_t i = 0; i < first; i++) step(b, state);
    for (int32_t i = 0; i < b->steps; i++) {
        double start = now();
        step(b, state);
        b->seconds[i] = now() - start;
    }
}

/* ---- Products of the model, forward, for one clip ---- */

/* `layers` transformer layers over `tokens` rows, attention within segments whose squared lengths add up to
 * `squares`. */
static double layers_flops(const bench *b, double tokens, double squares, double width, double layers) {
    double hidden = (double)(int64_t)(width * get_real(b, CAVMAE_P_MLP_RATIO));
    return layers * (tokens * (8 * width * width + 4 * width * hidden) + 4 * squares * width);
}

static double pretrain_flops(const bench *b) {
    double patch = (double)(get(b, CAVMAE_P_PATCH_SIZE) * get(b, CAVMAE_P_PATCH_SIZE));
    double la = (double)(get(b, CAVMAE_P_MEL_BINS) * get(b, CAVMAE_P_AUDIO_FRAMES)) / patch;
    double lv = (double)(get(b, CAVMAE_P_IMAGE_SIZE) * get(b, CAVMAE_P_IMAGE_SIZE)) / patch;
    double ka = (double)(int64_t)(la * (1 - get_real(b, CAVMAE_P_MASK_RATIO_A)));
    double kv = (double)(int64_t)(lv * (1 - get_real(b, CAVMAE_P_MASK_RATIO_V)));
    double width = (double)get(b, CAVMAE_P_EMBED_DIM), decoder = (double)get(b, CAVMAE_P_DECODER_DIM);
    double pixels = patch * (double)get(b, CAVMAE_P_IMAGE_CHANNELS), depth = (double)get(b, CAVMAE_P_MODALITY_DEPTH);
    int mae = get_real(b, CAVMAE_P_MAE_WEIGHT) > 0, contrast = get_real(b, CAVMAE_P_CONTRAST_WEIGHT) > 0;
    double joint_tokens = (mae + contrast) * (ka + kv);
    double joint_squares = (mae ? (ka + kv) * (ka + kv) : 0) + (contrast ? ka * ka + kv * kv : 0);
    double both_ways = layers_flops(b, ka + kv, ka * ka + kv * kv, width, depth) +
                       layers_flops(b, joint_tokens, joint_squares, width, (double)get(b, CAVMAE_P_JOINT_DEPTH));
    if (mae)
        both_ways += layers_flops(b, la + lv, (la + lv) * (la + lv), decoder, (double)get(b, CAVMAE_P_DECODER_DEPTH)) +
                     2 * decoder * ((ka + kv) * width + la * patch + lv * pixels);
    /* Going back costs twice as much; the input needs no gradient. */
    return 3 * both_ways + 2 * 2 * width * (la * patch + lv * pixels);
}

static double embed_flops(const bench *b, int32_t audio, int32_t visual) {
    double patch = (double)(get(b, CAVMAE_P_PATCH_SIZE) * get(b, CAVMAE_P_PATCH_SIZE));
    double la = audio ? (double)(get(b, CAVMAE_P_MEL_BINS) * get(b, CAVMAE_P_AUDIO_FRAMES)) / patch : 0;
    double lv = visual ? (double)(get(b, CAVMAE_P_IMAGE_SIZE) * get(b, CAVMAE_P_IMAGE_SIZE)) / patch : 0;
    double width = (double)get(b, CAVMAE_P_EMBED_DIM);
    double depth = (double)(get(b, CAVMAE_P_MODALITY_DEPTH) + get(b, CAVMAE_P_JOINT_DEPTH));
    return layers_flops(b, la + lv, la * la + lv * lv, width, depth) +
           2 * width * (la * patch + lv * patch * (double)get(b, CAVMAE_P_IMAGE_CHANNELS));
}

/* ---- The cases ---- */

static cavmae_batch random_batch(const bench *b, int32_t audio, int32_t visual) {
    cavmae_batch batch = {.struct_size = sizeof batch, .count = b->batch};
    int64_t size = get(b, CAVMAE_P_IMAGE_SIZE);
    if (audio) batch.audio = random_array(b->batch * get(b, CAVMAE_P_AUDIO_FRAMES) * get(b, CAVMAE_P_MEL_BINS), 1);
    if (visual) batch.image = random_array(b->batch * get(b, CAVMAE_P_IMAGE_CHANNELS) * size * size, 2);
    return batch;
}

static void free_batch(const cavmae_batch *batch) {
    free((void *)(uintptr_t)batch->audio);
    free((void *)(uintptr_t)batch->image);
}

typedef struct pretrain_state {
    cavmae_trainer *trainer;
    cavmae_batch batch;
} pretrain_state;

static void pretrain_step(bench *b, void *state) {
    pretrain_state *s = state;
    (void)b;
    check(cavmae_pretrain_step(s->trainer, &s->batch, NULL));
}

static void bench_pretrain(bench *b) {
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    pretrain_state s;
    check(cavmae_config_set_i64(b->config, CAVMAE_P_BATCH, b->batch));
    check(cavmae_config_set_world(b->config, b->world.world));
    check(cavmae_model_create(b->config, &model));
    check(cavmae_optimizer_create(model, b->config, &optimizer));
    check(cavmae_trainer_create(model, optimizer, b->config, &s.trainer));
    s.batch = random_batch(b, 1, 1);
    s.batch.world_count = b->batch;
    s.batch.count = b->batch * (b->world.rank + 1) / b->world.size - b->batch * b->world.rank / b->world.size;
    b->flops = b->batch * pretrain_flops(b);
    measure(b, pretrain_step, &s);
    free_batch(&s.batch);
    cavmae_trainer_free(s.trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
}

typedef struct embed_state {
    cavmae_model *model;
    cavmae_batch batch;
    cavmae_embedding out;
} embed_state;

static void embed_step(bench *b, void *state) {
    embed_state *s = state;
    (void)b;
    check(cavmae_embed(s->model, &s->batch, &s->out));
}

static void bench_embed(bench *b, int32_t visual) {
    embed_state s = {.out = {.struct_size = sizeof s.out}};
    size_t elements = (size_t)(b->batch * get(b, CAVMAE_P_EMBED_DIM));
    check(cavmae_model_create(b->config, &s.model));
    s.batch = random_batch(b, 1, visual);
    s.out.audio = allocate(elements, sizeof(float));
    if (visual) s.out.visual = allocate(elements, sizeof(float));
    b->flops = b->batch * embed_flops(b, 1, visual);
    measure(b, embed_step, &s);
    free(s.out.audio);
    free(s.out.visual);
    free_batch(&s.batch);
    cavmae_model_free(s.model);
}

enum { FRAMES = 10, AUDIOSET_CLASSES = 527 };

/* A clip as the joint stream sees it: single streams before it, both together in it. */
static double joint_flops(const bench *b) {
    double patch = (double)(get(b, CAVMAE_P_PATCH_SIZE) * get(b, CAVMAE_P_PATCH_SIZE));
    double la = (double)(get(b, CAVMAE_P_MEL_BINS) * get(b, CAVMAE_P_AUDIO_FRAMES)) / patch;
    double lv = (double)(get(b, CAVMAE_P_IMAGE_SIZE) * get(b, CAVMAE_P_IMAGE_SIZE)) / patch;
    double width = (double)get(b, CAVMAE_P_EMBED_DIM);
    return layers_flops(b, la + lv, la * la + lv * lv, width, (double)get(b, CAVMAE_P_MODALITY_DEPTH)) +
           layers_flops(b, la + lv, (la + lv) * (la + lv), width, (double)get(b, CAVMAE_P_JOINT_DEPTH)) +
           2 * width * (la * patch + lv * patch * (double)get(b, CAVMAE_P_IMAGE_CHANNELS));
}

/* FRAMES frames of each of `batch` clips: at once, or each with a copy of the sound. */
static void bench_frames(bench *b, int32_t apart) {
    embed_state s = {.out = {.struct_size = sizeof s.out}};
    int64_t width = get(b, CAVMAE_P_EMBED_DIM);
    int32_t clips = b->batch;
    check(cavmae_model_create(b->config, &s.model));
    b->batch *= FRAMES; /* samples are frames */
    s.batch = random_batch(b, 1, 1);
    if (!apart) {
        s.batch.count = clips;
        s.batch.frames = FRAMES;
    }
    s.out.joint = allocate((size_t)(b->batch * width), sizeof(float));
    b->flops = b->batch * joint_flops(b);
    measure(b, embed_step, &s);
    free(s.out.joint);
    free_batch(&s.batch);
    cavmae_model_free(s.model);
}

static void bench_frames_at_once(bench *b) { bench_frames(b, 0); }
static void bench_frames_apart(bench *b) { bench_frames(b, 1); }

static void finetune_step(bench *b, void *state) {
    pretrain_state *s = state;
    (void)b;
    check(cavmae_finetune_step(s->trainer, &s->batch, NULL));
}

static void bench_finetune(bench *b) {
    cavmae_model *model;
    cavmae_optimizer *optimizer;
    pretrain_state s;
    check(cavmae_config_set_i64(b->config, CAVMAE_P_BATCH, b->batch));
    check(cavmae_config_set_i64(b->config, CAVMAE_P_CLASSES, AUDIOSET_CLASSES));
    check(cavmae_model_create(b->config, &model));
    check(cavmae_optimizer_create(model, b->config, &optimizer));
    check(cavmae_trainer_create(model, optimizer, b->config, &s.trainer));
    s.batch = random_batch(b, 1, 1);
    s.batch.labels = allocate((size_t)(b->batch * AUDIOSET_CLASSES), sizeof(float));
    s.batch.classes = AUDIOSET_CLASSES;
    b->flops = 3 * b->batch * joint_flops(b);
    measure(b, finetune_step, &s);
    free((void *)(uintptr_t)s.batch.labels);
    free_batch(&s.batch);
    cavmae_trainer_free(s.trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
}

static void bench_embed_pair(bench *b) { bench_embed(b, 1); }
static void bench_embed_audio(bench *b) { bench_embed(b, 0); }

enum { SAMPLES = 160000, RATE = 16000, WIDTH = 1280, HEIGHT = 720 };

typedef struct prepare_state {
    float *pcm, *out;
    uint8_t *pixels;
    int32_t bins;
} prepare_state;

static void fbank_step(bench *b, void *state) {
    prepare_state *s = state;
    for (int32_t i = 0; i < b->batch; i++) check(cavmae_fbank(b->context, s->pcm, SAMPLES, RATE, s->bins, s->out));
}

static void bench_fbank(bench *b) {
    prepare_state s = {.bins = (int32_t)get(b, CAVMAE_P_MEL_BINS), .pcm = random_array(SAMPLES, 3)};
    s.out = allocate((size_t)(cavmae_fbank_frames(SAMPLES, RATE) * s.bins), sizeof *s.out);
    measure(b, fbank_step, &s);
    free(s.pcm);
    free(s.out);
}

static void resize_step(bench *b, void *state) {
    prepare_state *s = state;
    for (int32_t i = 0; i < b->batch; i++) check(cavmae_prepare_image(b->config, s->pixels, WIDTH, HEIGHT, 0, s->out));
}

static void bench_resize(bench *b) {
    int64_t channels = get(b, CAVMAE_P_IMAGE_CHANNELS), size = get(b, CAVMAE_P_IMAGE_SIZE);
    prepare_state s = {.pixels = allocate((size_t)(WIDTH * HEIGHT * channels), 1)};
    for (int64_t i = 0; i < WIDTH * HEIGHT * channels; i++) s.pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    s.out = allocate((size_t)(channels * size * size), sizeof *s.out);
    measure(b, resize_step, &s);
    free(s.pixels);
    free(s.out);
}

enum { BEST = 10 };

typedef struct index_state {
    cavmae_index *index;
    float *queries, *scores;
    int64_t *ids;
} index_state;

static void index_step(bench *b, void *state) {
    index_state *s = state;
    check(cavmae_index_search(s->index, s->queries, b->batch, BEST, s->ids, s->scores));
}

static void bench_index(bench *b) {
    enum { PIECE = 10000 };
    index_state s;
    int64_t dim = get(b, CAVMAE_P_EMBED_DIM);
    float *piece = allocate((size_t)(PIECE * dim), sizeof *piece);
    check(cavmae_index_create(b->context, (int32_t)dim, &s.index));
    for (int64_t at = 0; at < b->rows; at += PIECE) {
        fill_random(piece, PIECE * dim, (uint64_t)at);
        check(cavmae_index_add(s.index, piece, b->rows - at < PIECE ? b->rows - at : PIECE));
    }
    free(piece);
    s.queries = random_array(b->batch * dim, 5);
    s.ids = allocate((size_t)(b->batch * BEST), sizeof *s.ids);
    s.scores = allocate((size_t)(b->batch * BEST), sizeof *s.scores);
    b->flops = 2.0 * (double)b->batch * b->rows * (double)dim;
    b->bytes = 4.0 * b->rows * (double)dim;
    measure(b, index_step, &s);
    cavmae_index_free(s.index);
    free(s.queries);
    free(s.ids);
    free(s.scores);
}

/* ---- The program ---- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_result(const bench *b, const char *task) {
    struct rusage usage;
    const char *dtype;
    getrusage(RUSAGE_SELF, &usage);
    check(cavmae_config_get_str(b->config, CAVMAE_P_DTYPE, &dtype));
    qsort(b->seconds, (size_t)b->steps, sizeof *b->seconds, compare_doubles);
    double median = 0.5 * (b->seconds[b->steps / 2] + b->seconds[(b->steps - 1) / 2]);
    printf("{\"library\": \"cavmae %s\", \"task\": \"%s\", \"device\": \"%s\", \"dtype\": \"%s\", \"batch\": %d, "
           "\"threads\": %d, \"ranks\": %d, "
           "\"steps\": %d, \"seconds\": %.6g, \"samples_per_second\": %.6g, \"peak_bytes\": %lld",
           cavmae_version_string(), task, cavmae_context_device(b->context), dtype, (int)b->batch,
           (int)cavmae_context_threads(b->context), (int)b->world.size, (int)b->steps, median, b->batch / median,
           usage.ru_maxrss * 1024LL);
    if (b->flops > 0) printf(", \"gflops_per_second\": %.6g", b->flops / median / 1e9);
    if (b->bytes > 0) printf(", \"gbytes_per_second\": %.6g", b->bytes / median / 1e9);
    printf("}\n");
}

static void run_op_bench(const char *name, int32_t threads) {
    char path[4096], count[16];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
    if (length < 0) die("op:%s: cannot tell where this program lies", name);
    path[length] = 0;
    for (int up = 0; up < 2; up++) *strrchr(path, '/') = 0;
    strcat(path, "/test/op_bench");
    snprintf(count, sizeof count, "%d", (int)(threads ? threads : sysconf(_SC_NPROCESSORS_ONLN)));
    execl(path, path, "--threads", count, name, (char *)NULL);
    die("op:%s: %s cannot be run; `make bench` builds it", name, path);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(bench *);
    } cases[] = {{"pretrain", bench_pretrain}, {"embed", bench_embed_pair},      {"embed_audio", bench_embed_audio},
                 {"finetune", bench_finetune}, {"frames", bench_frames_at_once}, {"frames_apart", bench_frames_apart},
                 {"fbank", bench_fbank},       {"resize", bench_resize},         {"index", bench_index}};
    bench b = {.batch = 4, .steps = 5, .rows = 1000000};
    const char *name = NULL, *preset = "base", *dtype = "float32", *device = NULL;
    int32_t threads = 0;
    words settings = {0};
    const option options[] = {
        {.name = "--case",
         .value = "C",
         .help = "pretrain, finetune, embed, embed_audio, frames, frames_apart, fbank, resize, index or op:NAME",
         .text = &name},
        {.name = "--preset", .value = "P", .help = "base, tiny or a recipe (base)", .text = &preset},
        {.name = "--set", .value = "key=value", .help = "changes to the preset", .list = &settings},
        {.name = "--dtype", .value = "T", .help = "float32 or bfloat16 (float32)", .text = &dtype},
        {.name = "--batch", .value = "N", .help = "samples in a step, of all ranks together (4)", .number = &b.batch},
        {.name = "--steps", .value = "N", .help = "steps measured (5)", .number = &b.steps},
        {.name = "--rows", .value = "N", .help = "of the index (1000000)", .number = &b.rows},
        {.name = "--threads", .value = "N", .help = "0: one for each CPU (0)", .number = &threads},
        {.name = "--device", .value = "D", .help = DEVICE_HELP, .text = &device},
        WORLD_OPTIONS(b.world),
        {0}};
    read_options(argc, argv, "measures one case", options);
    if (!name) die("--case is needed");
    if (!strncmp(name, "op:", 3)) run_op_bench(name + 3, threads);
    size_t i = 0;
    while (i < sizeof cases / sizeof *cases && strcmp(name, cases[i].name) != 0) i++;
    if (i == sizeof cases / sizeof *cases) die("no such case: %s", name);
    if (b.batch < 1 || b.steps < 1 || b.rows < 1) die("--batch, --steps and --rows must be at least 1");

    if (b.world.kind && strcmp(name, "pretrain") != 0) die("--world goes with --case pretrain");

    b.context = open_context_in(&b.world, device, threads, NULL);
    open_world(&b.world, b.context, NULL);
    b.config = open_config(b.context, preset, &settings);
    check(cavmae_config_set_str(b.config, CAVMAE_P_DTYPE, dtype));
    cases[i].run(&b);
    if (b.world.rank == 0) print_result(&b, name);
    free(b.seconds);
    free(settings.word);
    cavmae_config_free(b.config);
    close_world(&b.world);
    cavmae_context_free(b.context);
    return 0;
}
