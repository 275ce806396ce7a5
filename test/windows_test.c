/* cavmae_embed_windows on sources of any length, made up by a decoder of the test's own. */
#define _GNU_SOURCE
#include <stdatomic.h>

#include "failing_allocator.h"
#include "tiny.h"

enum { WIDE = 40, HIGH = 30, MOST = 64 };

/* What the decoder plays: noise that is a function of the sample's number alone, pictures one of time alone. */
typedef struct film {
    double seconds;  /* of the pictures, and what probe says */
    int64_t samples; /* of sound */
    int32_t channels, rate;
    int broken;       /* 1: no sound, 2: no pictures, 3: NaN in the sound, 4: no probe */
    int calls;        /* of `frames` */
    int64_t played;   /* samples that the sink took */
    const char *path; /* of the last source that was shown */
    const void *data;
    size_t size;
} film;

static float sample_of(int64_t i, int32_t channel) {
    uint64_t h = ((uint64_t)i * 8 + (uint64_t)channel + 1) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
    return (float)((h * 0xBF58476D1CE4E5B9u) >> 40) * 0x1p-24f - 0.5f;
}

static void draw(uint8_t rgb[HIGH * WIDE * 3], double seconds) {
    for (int i = 0; i < HIGH * WIDE * 3; i++) rgb[i] = (uint8_t)(i * 7 + i / 90 + (int)(seconds * 1000));
}

static cavmae_status refuse(const cavmae_source *source, const char *what, char *error, size_t error_size) {
    snprintf(error, error_size, "%s: %s", source->path, what);
    return CAVMAE_E_MEDIA;
}

static cavmae_status probe(void *user, const cavmae_source *source, cavmae_media_info *info, char *error,
                           size_t error_size) {
    const film *f = user;
    if (f->broken == 4) return refuse(source, "no probe", error, error_size);
    info->seconds = f->seconds;
    return CAVMAE_OK;
}

static cavmae_status play(void *user, const cavmae_source *source, cavmae_audio_sink *sink, void *arg, char *error,
                          size_t error_size) {
    static _Thread_local float pcm[2 * 9973];
    film *f = user;
    if (f->broken == 1) return refuse(source, "no sound", error, error_size);
    for (int64_t i = 0, count; i < f->samples; i += count) {
        count = f->samples - i < 9973 ? f->samples - i : 9973;
        for (int64_t k = 0; k < count; k++)
            for (int32_t c = 0; c < f->channels; c++) pcm[k * f->channels + c] = sample_of(i + k, c);
        if (f->broken == 3) pcm[0] = NAN;
        cavmae_status status = sink(arg, pcm, count, f->channels, f->rate);
        if (status != CAVMAE_OK) return status;
        f->played += count;
    }
    return CAVMAE_OK;
}

static cavmae_status show(void *user, const cavmae_source *source, const double *seconds, int32_t count,
                          cavmae_frame_sink *sink, void *arg, char *error, size_t error_size) {
    uint8_t rgb[HIGH * WIDE * 3];
    film *f = user;
    cavmae_status status = CAVMAE_OK;
    if (f->broken == 2) return refuse(source, "no pictures", error, error_size);
    f->calls++;
    f->path = source->path;
    f->data = source->data;
    f->size = source->size;
    for (int32_t i = 0; i < count && status == CAVMAE_OK; i++) {
        if (i && seconds[i] < seconds[i - 1]) return refuse(source, "times fall", error, error_size);
        draw(rgb, seconds[i]);
        status = sink(arg, i, rgb, WIDE, HIGH, WIDE * 3);
    }
    return status;
}

/* ---- What comes out ---- */

enum { D = 16, LA = 8, LV = 9, FRAMES = 3 }; /* of SMALLEST */

typedef struct outputs {
    float audio[D], visual[FRAMES * D], joint[FRAMES * D], audio_tokens[LA * D], visual_tokens[FRAMES * LV * D],
        joint_tokens[FRAMES * (LA + LV) * D], features[FRAMES * 2 * D], logits[FRAMES * 5], scores[5];
} outputs;

enum { SOUND = 1, PICTURES = 2, BOTH = 4, HEAD = 8, ALL = 15 };

static cavmae_embedding point_at(outputs *o, int which, int32_t frames) {
    cavmae_embedding e = {.struct_size = sizeof e, .frames = frames};
    if (which & SOUND) e.audio = o->audio, e.audio_tokens = o->audio_tokens;
    if (which & PICTURES) e.visual = o->visual, e.visual_tokens = o->visual_tokens;
    if (which & BOTH) e.joint = o->joint, e.joint_tokens = o->joint_tokens;
    if (which & HEAD) e.features = o->features, e.logits = o->logits, e.scores = o->scores;
    return e;
}

/* A sink's notes. */
typedef struct notes {
    int64_t count, stop_at; /* -1: never */
    cavmae_status status;   /* then */
    const outputs *from;
    double start[MOST], end[MOST];
    outputs windows[MOST];
} notes;

static cavmae_status note(void *user, int64_t index, double start, double end, const cavmae_embedding *embedding) {
    notes *n = user;
    CHECK(index == n->count && index < MOST && embedding->struct_size == sizeof *embedding);
    if (index == n->stop_at) return n->status;
    if (index >= MOST) return CAVMAE_E_INTERNAL;
    n->start[index] = start;
    n->end[index] = end;
    if (n->from) n->windows[index] = *n->from;
    n->count++;
    return CAVMAE_OK;
}

typedef struct cinema {
    cavmae_context *context;
    cavmae_config *config;
    cavmae_model *model;
    film film;
    notes notes;
    outputs window;
} cinema;

static int32_t cancelled(void *user) {
    int *left = user;
    return *left >= 0 && (*left)-- == 0;
}

static atomic_llong told_done, told_total;

static void progress(void *user, const char *what, int64_t done, int64_t total) {
    (void)user;
    if (strcmp(what, "windows embedded") != 0) return;
    CHECK(done == told_done + 1 && total >= done);
    told_done = done;
    told_total = total;
}

static int cancel_after = -1;

static cinema *open_cinema(const char *settings, const cavmae_context_options *given) {
    cinema *c = calloc(1, sizeof *c);
    cavmae_context_options options = {.struct_size = sizeof options};
    if (given) options = *given;
    options.threads = 1;
    options.cancel = cancelled;
    options.cancel_user = &cancel_after;
    options.progress = progress;
    if (!CHECK_OK(cavmae_context_create(&options, &c->context))) exit(1);
    const cavmae_decoder decoder = {sizeof decoder, 1, &c->film, probe, play, show};
    CHECK_OK(cavmae_context_set_decoder(c->context, &decoder));
    c->config = tiny_config(c->context, SMALLEST);
    tiny_set(c->config, settings);
    if (!CHECK_OK(cavmae_model_create(c->config, &c->model))) exit(1);
    return c;
}

static void close_cinema(cinema *c) {
    cavmae_model_free(c->model);
    cavmae_config_free(c->config);
    cavmae_context_free(c->context);
    free(c);
}

static const cavmae_source nowhere = {.struct_size = sizeof nowhere, .path = "film"};

static cavmae_status watch(cinema *c, film f, double window, double hop, int pool, int which, int32_t frames) {
    const cavmae_window_options options = {
        .struct_size = sizeof options, .pool = pool, .window_seconds = window, .hop_seconds = hop};
    const cavmae_embedding out = point_at(&c->window, which, frames);
    c->film = f;
    memset(&c->window, 0, sizeof c->window);
    memset(&c->notes, 0, sizeof c->notes);
    c->notes.stop_at = -1;
    c->notes.from = &c->window;
    told_done = told_total = 0;
    return cavmae_embed_windows(c->model, &nowhere, &options, &out, note, &c->notes);
}

/* ---- Where windows lie ---- */

static void check_places(cinema *c, double seconds, double window, double hop, int count, const double *start,
                         const double *end) {
    static const int needs[] = {SOUND, PICTURES, BOTH};
    for (int n = 0; n < 3; n++) {
        film f = {.seconds = seconds, .samples = (int64_t)lround(seconds * 16000), .channels = 1, .rate = 16000};
        CHECK_OK(watch(c, f, window, hop, 0, needs[n], 0));
        if (!CHECK(c->notes.count == count)) printf("%d, not %d windows\n", (int)c->notes.count, count);
        CHECK(told_done == count && told_total == count);
        for (int i = 0; i < count && i < c->notes.count; i++) {
            CHECK_CLOSE(c->notes.start[i], start[i], 1e-12);
            CHECK_CLOSE(c->notes.end[i], end[i], 1e-12);
        }
    }
}

static void test_places(void) {
    cinema *c = open_cinema("", NULL);
    check_places(c, 1.0, 0, 0, 4, (double[]){0, .32, .64, .68}, (double[]){.32, .64, .96, 1});
    check_places(c, .96, 0, 0, 3, (double[]){0, .32, .64}, (double[]){.32, .64, .96});
    check_places(c, .32, 0, 0, 1, (double[]){0}, (double[]){.32});
    check_places(c, .2, 0, 0, 1, (double[]){0}, (double[]){.2});
    check_places(c, .2, .08, .05, 4, (double[]){0, .05, .1, .12}, (double[]){.08, .13, .18, .2});
    check_places(c, 1.0, 0, .5, 3, (double[]){0, .5, .68}, (double[]){.32, .82, 1});
    check_places(c, 1.0, 0, 2, 2, (double[]){0, .68}, (double[]){.32, 1});
    /* A still image has no length. */
    CHECK_OK(watch(c, (film){0}, 0, 0, 0, PICTURES, 0));
    CHECK(c->notes.count == 1 && c->notes.start[0] == 0 && c->notes.end[0] == 0);
    close_cinema(c);
}

/* ---- A window is the clip that is cut there ---- */

static void embed_cut(cinema *c, const float *pcm, double start, double end, int which, int32_t frames, outputs *to) {
    int64_t from = llround(start * 16000), samples = llround(end * 16000) - from;
    static float images[FRAMES * 3 * 24 * 24];
    cavmae_tensor *audio;
    CHECK_OK(cavmae_prepare_audio(c->config, pcm + from, samples, 1, 16000, &audio));
    int32_t count = frames ? frames : 1, rows = (int32_t)cavmae_tensor_shape(audio)[0];
    for (int32_t i = 0; i < count; i++) {
        uint8_t rgb[HIGH * WIDE * 3];
        draw(rgb, start + (end - start) * (frames ? i / (double)frames : 5 / 10.0));
        CHECK_OK(cavmae_prepare_image(c->config, rgb, WIDE, HIGH, 0, images + i * 3 * 24 * 24));
    }
    const cavmae_batch batch = {.struct_size = sizeof batch,
                                .count = 1,
                                .audio = cavmae_tensor_data(audio),
                                .image = images,
                                .audio_frames = &rows,
                                .frames = frames};
    const cavmae_embedding out = point_at(to, which, frames);
    CHECK_OK(cavmae_embed(c->model, &batch, &out));
    cavmae_tensor_free(audio);
}

static void check_cuts(const char *settings, film f, double window, double hop, int which, int32_t frames) {
    cinema *c = open_cinema(settings, NULL);
    float *pcm = malloc((size_t)(f.samples * f.channels) * sizeof *pcm);
    cavmae_tensor *resampled;
    outputs *expected = calloc(1, sizeof *expected);
    for (int64_t i = 0; i < f.samples * f.channels; i++) pcm[i] = sample_of(i / f.channels, (int32_t)(i % f.channels));
    CHECK_OK(cavmae_resample(c->config, pcm, f.samples, f.channels, f.rate, &resampled));
    int64_t heard = cavmae_tensor_elements(resampled), end = (int64_t)(f.seconds * 16000);
    float *padded = calloc((size_t)(heard + end), sizeof *padded); /* where pictures go on, sound is silent */
    memcpy(padded, cavmae_tensor_data(resampled), (size_t)heard * sizeof *padded);
    CHECK_OK(watch(c, f, window, hop, 0, which, frames));
    CHECK(c->notes.count > 2);
    for (int64_t i = 0; i < c->notes.count; i++) {
        embed_cut(c, padded, c->notes.start[i], c->notes.end[i], which, frames, expected);
        if (!CHECK(memcmp(expected, &c->notes.windows[i], sizeof *expected) == 0)) printf("window %d\n", (int)i);
    }
    if (which & (PICTURES | BOTH)) { /* few calls of the decoder */
        int group = frames > 1 ? 8 / frames : 8;
        CHECK(c->film.calls == (c->notes.count + group - 1) / group);
    }
    free(expected);
    free(padded);
    free(pcm);
    cavmae_tensor_free(resampled);
    close_cinema(c);
}

static void test_cuts(void) {
    const film plain = {.seconds = 3.17, .samples = 50720, .channels = 1, .rate = 16000},
               stereo = {.seconds = 2, .samples = 88200, .channels = 2, .rate = 44100},
               slow = {.seconds = 2, .samples = 22050, .channels = 1, .rate = 11025},
               quiet = {.seconds = 2.5, .samples = 16000, .channels = 1, .rate = 16000};
    check_cuts("", plain, 0, .1, SOUND | PICTURES | BOTH, 0);
    check_cuts("", plain, 0, 0, SOUND, 0);
    check_cuts("", stereo, 0, .11, SOUND | PICTURES | BOTH, 3);
    check_cuts("audio_channel=mean resampler=fastest classes=5", stereo, 0, 0, ALL, 2);
    check_cuts("resampler=medium", slow, .25, .125, SOUND, 0);
    check_cuts("audio_length=native classes=5 mode=audioonly", slow, 0, .2, SOUND | HEAD, 0);
    check_cuts("", quiet, 0, 0, BOTH, 0);
}

/* ---- A whole file, from a path or from memory ---- */

static void test_source(void) {
    static const char bytes[] = "what a film is made of";
    const cavmae_source memory = {.struct_size = sizeof memory, .data = bytes, .size = sizeof bytes};
    cinema *c = open_cinema("", NULL);
    float pcm[4800];
    outputs *expected = calloc(1, sizeof *expected);
    const cavmae_embedding out = point_at(&c->window, SOUND | PICTURES | BOTH, 3);
    for (int i = 0; i < 4800; i++) pcm[i] = sample_of(i, 0);
    c->film = (film){.seconds = .3, .samples = 4800, .channels = 1, .rate = 16000};
    embed_cut(c, pcm, 0, .3, SOUND | PICTURES | BOTH, 3, expected);
    for (int i = 0; i < 3; i++) {
        memset(&c->window, 0, sizeof c->window);
        if (i == 0) CHECK_OK(cavmae_embed_file(c->model, "film", &out));
        if (i > 0) CHECK_OK(cavmae_embed_source(c->model, i == 1 ? &nowhere : &memory, &out));
        CHECK(memcmp(&c->window, expected, sizeof *expected) == 0);
        CHECK(c->film.data == (i == 2 ? bytes : NULL) && c->film.size == (i == 2 ? sizeof bytes : 0));
        CHECK(!strcmp(c->film.path, i == 2 ? "memory" : "film"));
    }

    /* What no output needs is not asked for. */
    const cavmae_embedding sound = point_at(&c->window, SOUND, 0), pictures = point_at(&c->window, PICTURES, 0);
    c->film.broken = 2;
    CHECK_OK(cavmae_embed_source(c->model, &memory, &sound));
    CHECK_STATUS(cavmae_embed_source(c->model, &memory, &pictures), CAVMAE_E_MEDIA);
    CHECK(!strcmp(cavmae_last_error(), "memory: no pictures"));
    c->film.broken = 1;
    CHECK_OK(cavmae_embed_source(c->model, &memory, &pictures));
    CHECK_STATUS(cavmae_embed_source(c->model, &memory, &sound), CAVMAE_E_MEDIA);

    const cavmae_source empty = {.struct_size = sizeof empty};
    CHECK_STATUS(cavmae_embed_source(NULL, &memory, &sound), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_source(c->model, NULL, &sound), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_source(c->model, &empty, &sound), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_source(c->model, &memory, NULL), CAVMAE_E_ARG);
    const cavmae_embedding negative = point_at(&c->window, PICTURES, -1);
    CHECK_STATUS(cavmae_embed_source(c->model, &memory, &negative), CAVMAE_E_ARG);
    free(expected);
    close_cinema(c);

    /* Which modality the head needs is the mode's to say. */
    c = open_cinema("classes=5", NULL);
    for (int32_t mode = 0; mode <= CAVMAE_MODE_MISSING_VIDEO_ONLY; mode++)
        for (int broken = 1; broken <= 2; broken++) {
            cavmae_embedding head = point_at(&c->window, HEAD, 0);
            head.mode = mode;
            c->film = (film){.seconds = .3, .samples = 4800, .channels = 1, .rate = 16000, .broken = broken};
            int needed = mode < 2 || (broken == 1) == (mode % 2 == 0); /* 2 and 4 need sound */
            CHECK_STATUS(cavmae_embed_source(c->model, &memory, &head), needed ? CAVMAE_E_MEDIA : CAVMAE_OK);
        }
    close_cinema(c);
}

/* ---- Their mean ---- */

static void check_mean(const float *got, const outputs *windows, int64_t count, size_t offset, int elements, int row) {
    for (int first = 0; first < elements; first += row ? row : elements) {
        double mean[FRAMES * (LA + LV) * D] = {0}, square = 0;
        int length = row ? row : elements;
        for (int k = 0; k < length; k++) {
            for (int64_t i = 0; i < count; i++)
                mean[k] += (double)((const float *)(const void *)((const char *)&windows[i] + offset))[first + k];
            mean[k] /= (double)count;
            square += mean[k] * mean[k];
        }
        for (int k = 0; k < length; k++) CHECK_CLOSE(got[first + k], row ? mean[k] / sqrt(square) : mean[k], 1e-6);
    }
}

static void test_pool(void) {
    cinema *c = open_cinema("classes=5", NULL);
    const film f = {.seconds = 1, .samples = 16000, .channels = 1, .rate = 16000};
    CHECK_OK(watch(c, f, 0, .15, 1, ALL, 2));
    CHECK(c->notes.count == 6);
    const outputs *all = c->notes.windows, *mean = &c->window;
    check_mean(mean->audio, all, 6, offsetof(outputs, audio), D, D);
    check_mean(mean->visual, all, 6, offsetof(outputs, visual), 2 * D, D);
    check_mean(mean->joint, all, 6, offsetof(outputs, joint), 2 * D, 0);
    check_mean(mean->joint_tokens, all, 6, offsetof(outputs, joint_tokens), 2 * (LA + LV) * D, 0);
    check_mean(mean->features, all, 6, offsetof(outputs, features), 2 * D, 0);
    check_mean(mean->logits, all, 6, offsetof(outputs, logits), 10, 0);
    check_mean(mean->scores, all, 6, offsetof(outputs, scores), 5, 0);

    /* Nobody need listen. */
    outputs *alone = calloc(1, sizeof *alone);
    const cavmae_embedding out = point_at(alone, ALL, 2);
    const cavmae_window_options options = {.struct_size = sizeof options, .pool = 1, .hop_seconds = .15};
    told_done = 0;
    CHECK_OK(cavmae_embed_windows(c->model, &nowhere, &options, &out, NULL, NULL));
    CHECK(memcmp(alone, mean, sizeof *alone) == 0);
    free(alone);
    close_cinema(c);
}

/* ---- What can go wrong ---- */

static void test_failures(void) {
    cinema *c = open_cinema("", NULL);
    const film f = {.seconds = 8, .samples = 128000, .channels = 1, .rate = 16000};
    film broken = f;
    static const int needs[] = {BOTH, SOUND, PICTURES};
    for (int n = 0; n < 3; n++) {
        /* 25 windows: groups of 8 */
        for (int at = 0; at < 25; at += 5) {
            const cavmae_window_options options = {.struct_size = sizeof options};
            const cavmae_embedding out = point_at(&c->window, needs[n], 0);
            c->film = f;
            c->notes = (notes){.stop_at = at, .status = at % 2 ? 1234 : CAVMAE_E_STATE};
            told_done = 0;
            CHECK_STATUS(cavmae_embed_windows(c->model, &nowhere, &options, &out, note, &c->notes), c->notes.status);
            CHECK(c->notes.count == at && strstr(cavmae_last_error(), "film: window"));
            CHECK(n == 2 || at > 15 || c->film.played < f.samples); /* it does not listen to the end */
        }
        cancel_after = 1;
        CHECK_STATUS(watch(c, f, 0, 0, 0, needs[n], 0), CAVMAE_E_CANCELLED);
        cancel_after = -1;
        broken.broken = 4;
        CHECK_STATUS(watch(c, broken, 0, 0, 0, needs[n], 0), CAVMAE_E_MEDIA);
        broken.broken = 1;
        CHECK_STATUS(watch(c, broken, 0, 0, 0, needs[n], 0), n == 2 ? CAVMAE_OK : CAVMAE_E_MEDIA);
        CHECK(n == 2 || !strcmp(cavmae_last_error(), "film: no sound"));
        broken.broken = 2;
        CHECK_STATUS(watch(c, broken, 0, 0, 0, needs[n], 0), n == 1 ? CAVMAE_OK : CAVMAE_E_MEDIA);
        CHECK(n == 1 || !strcmp(cavmae_last_error(), "film: no pictures"));
        broken.broken = 3;
        CHECK_STATUS(watch(c, broken, 0, 0, 0, needs[n], 0), n == 2 ? CAVMAE_OK : CAVMAE_E_ARG);
        CHECK(n == 2 || strstr(cavmae_last_error(), "film: window 0: sample 0 of the sound is"));
    }
    broken = f;
    broken.samples = 100;
    CHECK_STATUS(watch(c, broken, 0, 0, 0, SOUND, 0), CAVMAE_E_ARG); /* under 25 ms */
    broken.samples = 0;
    CHECK_STATUS(watch(c, broken, 0, 0, 0, SOUND, 0), CAVMAE_E_MEDIA);
    broken = f;
    broken.rate = 16000 * 300;
    CHECK_STATUS(watch(c, broken, 0, 0, 0, SOUND, 0), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "256-fold"));
    broken = f;
    broken.seconds = INFINITY;
    CHECK_STATUS(watch(c, broken, 0, 0, 0, PICTURES, 0), CAVMAE_E_MEDIA);

    static const double bad[] = {-1, .33, 1e9, (double)NAN, (double)INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_STATUS(watch(c, f, bad[i], 0, 0, BOTH, 0), CAVMAE_E_ARG);
    static const double bad_hop[] = {-1, 1e-5, 1e30, (double)NAN, (double)INFINITY};
    for (size_t i = 0; i < sizeof bad_hop / sizeof *bad_hop; i++)
        CHECK_STATUS(watch(c, f, 0, bad_hop[i], 0, BOTH, 0), CAVMAE_E_ARG);
    CHECK_STATUS(watch(c, f, 0, 0, 0, 0, 0), CAVMAE_E_ARG);
    CHECK_STATUS(watch(c, f, 0, 0, 0, PICTURES, -1), CAVMAE_E_ARG);
    CHECK_STATUS(watch(c, f, 0, 0, 0, HEAD, 0), CAVMAE_E_ARG); /* it has none */

    const cavmae_embedding out = point_at(&c->window, BOTH, 0);
    const cavmae_source empty = {.struct_size = sizeof empty};
    const cavmae_window_options wrong = {0};
    CHECK_STATUS(cavmae_embed_windows(NULL, &nowhere, NULL, &out, note, &c->notes), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_windows(c->model, NULL, NULL, &out, note, &c->notes), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_windows(c->model, &empty, NULL, &out, note, &c->notes), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_windows(c->model, &nowhere, NULL, NULL, note, &c->notes), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_windows(c->model, &nowhere, &wrong, &out, note, &c->notes), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_embed_windows(c->model, &nowhere, NULL, &out, NULL, NULL), CAVMAE_E_ARG);
    close_cinema(c);
}

/* ---- Memory ---- */

typedef struct meter {
    atomic_llong now, peak;
} meter;

static void *metered_alloc(void *user, size_t size) {
    meter *m = user;
    size_t *memory = malloc(size + 64);
    if (!memory) return NULL;
    memory[0] = size;
    long long now = atomic_fetch_add(&m->now, (long long)size) + (long long)size;
    if (now > m->peak) m->peak = now;
    return memory + 8;
}

static void metered_free(void *user, void *memory) {
    meter *m = user;
    size_t *block = (size_t *)memory - 8;
    atomic_fetch_sub(&m->now, (long long)block[0]);
    free(block);
}

static cavmae_status ignore(void *user, int64_t index, double start, double end, const cavmae_embedding *embedding) {
    (void)start, (void)end, (void)embedding;
    *(int64_t *)user = index + 1;
    return CAVMAE_OK;
}

/* An hour takes no more than ten minutes. */
static void test_bounded(void) {
    meter m = {0};
    cavmae_context_options metered = {.struct_size = sizeof metered};
    metered.alloc = metered_alloc;
    metered.free = metered_free;
    metered.alloc_user = &m;
    cinema *c = open_cinema("sample_rate=1000 resampler=fastest", &metered);
    const cavmae_window_options options = {.struct_size = sizeof options, .pool = 1, .hop_seconds = 8};
    const cavmae_embedding out = point_at(&c->window, SOUND | BOTH, 0);
    long long peak[2];
    for (int hour = 0; hour < 2; hour++) {
        int64_t minutes = hour ? 60 : 10, windows = 0;
        c->film = (film){.seconds = (double)minutes * 60, .samples = minutes * 60 * 1500, .channels = 1, .rate = 1500};
        m.peak = m.now;
        told_done = 0;
        CHECK_OK(cavmae_embed_windows(c->model, &nowhere, &options, &out, ignore, &windows));
        CHECK(windows == (minutes * 60 - 1) / 8 + 2);
        peak[hour] = m.peak - m.now;
    }
    CHECK(peak[0] == peak[1]);
    printf("peak: %lld and %lld bytes\n", peak[0], peak[1]);
    close_cinema(c);
    CHECK(m.now == 0);
}

static void test_no_memory(void) {
    failing_allocator allocator = {0};
    const cavmae_context_options options = failing_options(&allocator);
    cinema *c = open_cinema("resampler=fastest", &options);
    const film f = {.seconds = 1, .samples = 22050, .channels = 1, .rate = 22050};
    long blocks = atomic_load(&allocator.blocks);
    cavmae_status status = CAVMAE_E_NOMEM;
    int failures = -1;
    for (long at = 1; status == CAVMAE_E_NOMEM && at < 2000; at++, failures++) {
        allocator.fail_at = atomic_load(&allocator.calls) + at;
        status = watch(c, f, 0, 0, 1, SOUND | PICTURES | BOTH, 2);
        CHECK(atomic_load(&allocator.blocks) == blocks);
    }
    CHECK_OK(status);
    CHECK(failures > 20);
    allocator.fail_at = 0;
    close_cinema(c);
    CHECK(atomic_load(&allocator.blocks) == 0);
}

int main(void) {
    test_places();
    test_cuts();
    test_source();
    test_pool();
    test_failures();
    test_bounded();
    test_no_memory();
    return check_summary("windows");
}
