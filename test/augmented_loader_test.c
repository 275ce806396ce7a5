/* Augmentation, balancing and the paper's studies through the loader, against the same arithmetic done here. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "failing_allocator.h"
#include "loading.h"
#include "mixup.h"

static cavmae__draw draw_of(uint64_t seed, int64_t epoch, int64_t number) {
    return (cavmae__draw){seed, epoch, number};
}

/* ---- Noise and roll ---- */

/* What the config's keys do to a batch. */
static void test_noise_and_roll(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("eight.json", 8, 0);
    cavmae_loader *plain = LOADER(context, manifest, NULL, "shuffle", "0"),
                  *noisy = LOADER(context, manifest, NULL, "shuffle", "0", "noise", "1");
    cavmae_loader *rolled = LOADER(context, manifest, NULL, "shuffle", "0", "roll", "1", "seed", "9");
    const float *first = next(plain)->audio, *noise = next(noisy)->audio, *roll = next(rolled)->audio;
    int changed = 0, within = 1, same = 1;
    for (int i = 0; i < 4 * SOUND; i++) {
        float added = noise[i] - first[i];
        changed += added > 0;
        within &= added >= -1e-6f && added < 0.1f + 1e-6f;
    }
    CHECK(changed > 4 * SOUND * 9 / 10 && within);
    for (int row = 0; row < 4; row++) {
        int64_t shift = cavmae__roll_shift(FRAMES, &(cavmae__draw){9, 0, row});
        for (int64_t t = 0; t < FRAMES; t++)
            same &= !memcmp(first + row * SOUND + t * BINS, roll + row * SOUND + (t + shift + FRAMES) % FRAMES * BINS,
                            BINS * sizeof(float));
    }
    CHECK(same);
    uint64_t epoch0 = batch_sum(next(noisy));
    while (next(noisy)) continue;
    next(noisy);
    CHECK(batch_sum(next(noisy)) != epoch0); /* the same samples with other noise */
    cavmae_loader_free(plain);
    cavmae_loader_free(noisy);
    cavmae_loader_free(rolled);
    cavmae_context_free(context);
}

/* ---- Masks ---- */

static void test_masks(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("masks.json", 4, 0);
    for (int mean = 0; mean < 2; mean++) {
        cavmae_loader *plain = LOADER(context, manifest, NULL, "shuffle", "0"),
                      *masked = LOADER(context, manifest, NULL, "shuffle", "0", "freq_mask", "48", "time_mask", "60",
                                       "specaug_fill", mean ? "mean" : "zero", "seed", "3");
        const float *x = next(plain)->audio, *y = next(masked)->audio;
        float fill = mean ? 0 : (0 - -5.081f) / 4.4849f;
        int right = 1, count = 0;
        for (int row = 0; row < 4; row++) {
            cavmae__draw draw = draw_of(3, 0, row);
            cavmae__stretch band = cavmae__mask_stretch(BINS, 48, 0, &draw),
                            time = cavmae__mask_stretch(FRAMES, 60, 1, &draw);
            for (int i = 0; i < SOUND; i++) {
                int t = i / BINS, f = i % BINS;
                int in = (f >= band.start && f < band.start + band.width) ||
                         (t >= time.start && t < time.start + time.width);
                right &= y[row * SOUND + i] == (in ? fill : x[row * SOUND + i]);
                count += in;
            }
        }
        CHECK(right && count > 0);
        cavmae_loader_free(plain);
        cavmae_loader_free(masked);
    }
    cavmae_context_free(context);
}

/* ---- Mixup ---- */

/* Entries clip0, clip1long, clip2, ... with sound of two lengths; labels as write_manifest. */
static const char *write_lengths(const char *name, int count) {
    char text[4096] = "{\"data\": [";
    size_t length = strlen(text);
    for (int i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length,
                                   "%s{\"video_id\": \"id%d\", \"wav\": \"clip%d%s.mp4\", \"labels\": \"%s\"}",
                                   i ? "," : "", i, i, i % 2 ? "long" : "", i % 2 ? "/m/b" : "Apple, red,/m/b");
    snprintf(text + length, sizeof text - length, "]}");
    return write_file(name, text);
}

/* The sound of an entry less its mean, in doubles; zeros follow. */
static int64_t sound_of(cavmae_context *context, cavmae_loader *loader, int64_t index, double out[16000]) {
    cavmae_loader_item item = {.struct_size = sizeof item};
    cavmae_tensor *pcm = NULL;
    int32_t rate;
    double mean = 0;
    CHECK_OK(cavmae_loader_item_at(loader, index, &item));
    CHECK_OK(cavmae_media_audio(context, item.audio_path, &pcm, &rate));
    int64_t count = cavmae_tensor_elements(pcm);
    const float *x = cavmae_tensor_data(pcm);
    for (int64_t i = 0; i < count; i++) mean += (double)x[i] / (double)count;
    for (int64_t i = 0; i < 16000; i++) out[i] = i < count ? (double)x[i] - mean : 0;
    cavmae_tensor_free(pcm);
    return count;
}

/* A batch of a loader with everything on, against waveforms mixed here, the public front-end, and masks set here. */
static void test_mixup(void) {
    enum { N = 12 };
    static const double shares[2][3] = {{1, 1, 0}, {0, 1, 0}}; /* labels of even and odd entries */
    static double own[16000], second[16000];
    static float mixed[16000];
    cavmae_context *context = new_context();
    const char *manifest = write_lengths("mixup.json", N), *labels = write_file("labels.csv", labels_csv);
    cavmae_config *config =
        new_config(context, "shuffle", "0", "batch", "12", "mixup", "0.6", "mixup_alpha", "2", "freq_mask", "20",
                   "time_mask", "30", "label_smoothing", "0.1", "seed", "5", NULL);
    cavmae_loader *loader = NULL, *plain = LOADER(context, manifest, labels, "shuffle", "0", "batch", "12");
    CHECK_OK(cavmae_loader_create(config, manifest, labels, &loader));
    const cavmae_batch *batch = next(loader), *unmixed = next(plain);
    int mixtures = 0, lengths[2] = {0};
    double worst = 0;
    for (int row = 0; row < N; row++) {
        cavmae__draw draw = draw_of(5, 0, row);
        cavmae__mixup mixup = cavmae__mixup_draw(0.6, 2, N, &draw);
        int64_t other = mixup.partner < 0 ? row : mixup.partner;
        double lambda = mixup.lambda;
        int64_t count = sound_of(context, loader, row, own);
        sound_of(context, loader, other, second);
        for (int64_t i = 0; i < count; i++) mixed[i] = (float)(lambda * own[i] + (1 - lambda) * second[i]);
        cavmae_tensor *prepared = NULL;
        CHECK_OK(cavmae_prepare_audio(config, mixed, count, 1, 16000, &prepared));
        float *x = cavmae_tensor_data(prepared);
        cavmae__augment_masks(x, FRAMES, BINS, 20, 30, 5.081f / 4.4849f, &draw);
        for (int i = 0; i < SOUND; i++) worst = fmax(worst, fabs((double)x[i] - (double)batch->audio[row * SOUND + i]));
        cavmae_tensor_free(prepared);
        for (int c = 0; c < 3; c++) {
            double y = lambda * shares[row % 2][c] + (1 - lambda) * shares[other % 2][c];
            double smooth = mixup.partner >= 0 ? y * 0.9 + 0.1 / 3 : y > 0 ? 0.9 : 0.1 / 3;
            CHECK_CLOSE((double)batch->labels[row * 3 + c], smooth, 1e-6);
        }
        for (int i = 0; i < 3 * PIXELS; i += 500) {
            double pixel = lambda * (double)unmixed->image[row * 3 * PIXELS + i] +
                           (1 - lambda) * (double)unmixed->image[other * 3 * PIXELS + i];
            CHECK_CLOSE((double)batch->image[row * 3 * PIXELS + i], pixel, 1e-5);
        }
        mixtures += mixup.partner >= 0;
        if (mixup.partner >= 0 && (other + row) % 2) lengths[row % 2]++;
    }
    CHECK(worst < 2e-3); /* of log-mel in units of 4.5; lambda in double there, in float here */
    CHECK(mixtures > 3 && mixtures < 12 && lengths[0] && lengths[1]);
    cavmae_loader_free(loader);
    cavmae_loader_free(plain);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* Each of the two pictures has its own random frame, in its own folder. */
static void test_mixed_frames(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_file("apart.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a\", \"video_path\": "
                                                    "\"one\"}, {\"video_id\": \"w\", \"wav\": \"b\", "
                                                    "\"video_path\": \"two\"}]}");
    cavmae_loader *loader = LOADER(context, manifest, NULL, "batch", "1", "shuffle", "0", "frame", "-2", "mixup", "1",
                                   "modalities", "v", "clip_frames", "4", "broken", "error");
    int seen[4][4] = {{0}}, total = 0, right = 1;
    for (int epoch = 0; epoch < 1600; epoch++) {
        const cavmae_batch *batch;
        while ((batch = next(loader))) {
            cavmae__draw draw = draw_of(0, epoch, batch->samples[0]);
            cavmae__mixup mixup = cavmae__mixup_draw(1, 10, 2, &draw);
            uint32_t green[2] = {hash_path("x/v.jpg") & 255, hash_path("x/w.jpg") & 255};
            double red = ((double)batch->image[100] * 0.229 + 0.485) * 255, lambda = mixup.lambda;
            double expected = lambda * green[batch->samples[0]] + (1 - lambda) * green[mixup.partner];
            right &= fabs(((double)batch->image[PIXELS + 100] * 0.224 + 0.456) * 255 - expected) < 1e-2;
            if (fabs(lambda - 0.5) < 0.01) continue; /* the two frames cannot be told from their mixture */
            for (int i = 0; i < 16; i++)
                if (fabs(lambda * (i / 4) + (1 - lambda) * (i % 4) - red) < 1e-3) {
                    seen[i / 4][i % 4]++;
                    total++;
                }
        }
    }
    CHECK(right);
    for (int i = 0; i < 16; i++) CHECK_CLOSE(seen[i / 4][i % 4], total / 16.0, 6 * sqrt(total / 16.0));
    CHECK(total > 2500);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_broken_partner(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("partner.json", 8, 1 << 2);
    const cavmae_batch *batch = NULL;
    int64_t broken = 0, samples[64];
    for (int i = 0; i < 8; i++) {
        cavmae__draw draw = draw_of(1, 0, i);
        broken += i == 2 || cavmae__mixup_draw(1, 10, 8, &draw).partner == 2;
    }
    cavmae_loader *loader = LOADER(context, manifest, NULL, "mixup", "1", "broken", "skip", "seed", "1", "drop_last",
                                   "0", "modalities", "a");
    CHECK(broken > 1 && take_epoch(loader, samples) == 8 - broken && cavmae_loader_broken(loader) == broken);
    cavmae_loader_free(loader);
    loader = LOADER(context, manifest, NULL, "mixup", "1", "seed", "1", "batch", "8", "shuffle", "0");
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_MEDIA);
    CHECK(strstr(cavmae_last_error(), "entry 2 (id2): "));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* ---- Labels with weights ---- */

static void test_weighted_labels(void) {
    cavmae_context *context = new_context();
    const char *labels = write_file("labels.csv", labels_csv);
    const char *manifest =
        write_file("weighted.json",
                   "{\"data\": [{\"wav\": \"a\", \"labels\": {\"/m/b\": 0.25, \"Apple, red\": 1, \"2\":0.5}, "
                   "\"video_id\": \"v\"}, {\"video_id\": \"w\", \"wav\": \"b\", \"labels\": {}}, {\"video_id\": \"x\", "
                   "\"wav\": \"c\", \"labels\": {\"\\u0042\" : 1e-1}}, {\"video_id\": \"y\", \"wav\": \"d\", "
                   "\"labels\": \"B\"}]}");
    static const float expected[] = {1, 0.25f, 0.5f, 0, 0, 0, 0, 0.1f, 0, 0, 1, 0};
    cavmae_loader *loader = LOADER(context, manifest, labels, "shuffle", "0");
    CHECK(memcmp(next(loader)->labels, expected, sizeof expected) == 0);
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_OK(cavmae_loader_item_at(loader, 0, &item));
    CHECK(item.label_count == 3 && item.labels[0] == 1 && item.labels[1] == 0 && item.labels[2] == 2);
    CHECK(item.label_weights && item.label_weights[0] == 0.25f && item.label_weights[2] == 0.5f);
    CHECK_OK(cavmae_loader_item_at(loader, 1, &item));
    CHECK(item.label_count == 0);
    CHECK_OK(cavmae_loader_item_at(loader, 3, &item));
    CHECK(item.label_count == 1 && !item.label_weights);
    cavmae_loader_free(loader);
    loader = LOADER(context, manifest, NULL, "shuffle", "0"); /* not asked for */
    CHECK(!next(loader)->labels);
    cavmae_loader_free(loader);

    static const char *const bad[][2] = {
        {"{\"B\": 1.5}", "entry 0 (v): label 'B': weight 1.5 is not in [0, 1]"},
        {"{\"B\": -0.1}", "weight -0.1"},
        {"{\"D\": 0}", "label 'D' is not in the labels file"},
        {"{\"\": 0}", "label '' is not in the labels file"},
        {"{\"B\": \"1\"}", "a number should be here"},
        {"{\"B\": 1e999}", "past the range"},
        {"{\"B\": }", "a value should be here"},
        {"{\"B\\u0000\": 1}", "zero byte"},
        {"{\"B\": 1}, \"labels\": \"B\"", "'labels' is given twice"},
        {"[\"B\"]", "a string should be here"},
    };
    cavmae_config *config = new_config(context, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a\", \"labels\": %s}]}", bad[i][0]);
        CHECK_STATUS(cavmae_loader_create(config, write_file("bad.json", text), labels, &loader), CAVMAE_E_FORMAT);
        if (!CHECK(strstr(cavmae_last_error(), bad[i][1]))) printf("  case %zu: %s\n", i, cavmae_last_error());
    }
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Smoothing ---- */

static void test_smoothing(void) {
    cavmae_context *context = new_context();
    const char *labels = write_file("labels.csv", labels_csv), *manifest = write_manifest("smooth.json", 4, 0);
    cavmae_loader *reference = LOADER(context, manifest, labels, "shuffle", "0", "label_smoothing", "0.3"),
                  *normalised = LOADER(context, manifest, labels, "shuffle", "0", "label_smoothing", "0.3",
                                       "smoothing_form", "normalised");
    const float *x = next(reference)->labels, *y = next(normalised)->labels;
    static const int own[] = {1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0};
    for (int i = 0; i < 12; i++) {
        CHECK_CLOSE((double)x[i], own[i] ? 0.7 : 0.1, 1e-6);
        CHECK_CLOSE((double)y[i], own[i] ? 0.8 : 0.1, 1e-6);
    }
    cavmae_loader_free(reference);
    cavmae_loader_free(normalised);
    cavmae_context_free(context);
}

/* ---- Balanced sampling ---- */

static void test_balanced(void) {
    cavmae_context *context = new_context();
    const char *labels = write_file("labels.csv", labels_csv), *manifest = write_manifest("balanced.json", 20, 0);
    cavmae_config *config =
        new_config(context, "balanced", "1", "drop_last", "0", "modalities", "a", "noise", "1", NULL);
    cavmae_loader *loader = NULL;
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &loader), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "labels file"));
    CHECK_OK(cavmae_loader_create(config, manifest, labels, &loader));
    int64_t even = 0, repeated = 0, equal = 0, batches = 0;
    for (int epoch = 0; epoch < 200; epoch++) {
        const cavmae_batch *batch;
        for (; (batch = next(loader)); batches++)
            for (int32_t i = 0; i < batch->count; i++) {
                even += batch->samples[i] % 2 == 0;
                for (int32_t j = 0; j < i; j++) {
                    if (batch->samples[i] != batch->samples[j]) continue;
                    repeated++;
                    equal += !memcmp(batch->audio + i * SOUND, batch->audio + j * SOUND, SOUND * sizeof(float));
                }
            }
    }
    CHECK(batches == 200 * 5);
    /* Even entries have both classes, of 10 and 20; odd ones the second. */
    double both = 1000 / 10.01 + 1000 / 20.01, one = 1000 / 20.01, share = both / (both + one);
    CHECK_CLOSE(even, 4000 * share, 5 * sqrt(4000 * share * (1 - share)));
    CHECK(repeated > 50 && equal == 0); /* an entry that comes twice comes with other noise */
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Shuffled pairs ---- */

static void test_shuffled_pairs(void) {
    cavmae_context *context = new_context();
    const char *labels = write_file("labels.csv", labels_csv), *manifest = write_manifest("pairs.json", 8, 0);
    cavmae_loader *plain = LOADER(context, manifest, labels, "shuffle", "0", "batch", "8"),
                  *paired = LOADER(context, manifest, labels, "shuffle", "0", "batch", "8", "shuffle_pairs", "1");
    const cavmae_batch *x = next(plain), *y = next(paired);
    int from[8];
    unsigned seen = 0;
    CHECK(memcmp(x->audio, y->audio, 8 * SOUND * sizeof(float)) == 0);
    CHECK(memcmp(x->labels, y->labels, 24 * sizeof(float)) == 0);
    for (int row = 0; row < 8; row++) {
        from[row] = -1;
        for (int i = 0; i < 8; i++)
            if (pixel_value(x, i, 1) == pixel_value(y, row, 1)) from[row] = i;
        CHECK(from[row] >= 0 && from[row] != row);
        seen |= 1u << from[row];
    }
    CHECK(seen == 255);
    CHECK(!next(paired));
    y = next(paired); /* the same pairs again */
    for (int row = 0; row < 8; row++) CHECK(pixel_value(y, row, 1) == pixel_value(x, from[row], 1));
    cavmae_loader_free(plain);
    cavmae_loader_free(paired);

    cavmae_config *config = new_config(context, "shuffle_pairs", "1", "batch", "1", NULL);
    CHECK_STATUS(cavmae_loader_create(config, write_manifest("one.json", 1, 0), NULL, &plain), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "no second entry"));
    CHECK_OK(cavmae_config_set(config, "modalities", "v"));
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &plain), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "one modality"));
    cavmae_config_free(config);
    /* A picture that cannot be read is another entry's. */
    const cavmae_batch *batch = NULL;
    paired =
        LOADER(context, write_manifest("two.json", 2, 2), NULL, "shuffle", "0", "batch", "1", "shuffle_pairs", "1");
    CHECK_STATUS(cavmae_loader_next(paired, &batch), CAVMAE_E_MEDIA);
    CHECK(strstr(cavmae_last_error(), "entry 0 (id0): picture of entry 1 (id1): "));
    cavmae_loader_free(paired);
    cavmae_context_free(context);
}

/* ---- All frames ---- */

static void test_all_frames(void) {
    cavmae_context *context = new_context();
    const char *manifest =
        write_file("many.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video_path\": \"many\"},"
                                "{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video\": \"b.mp4\"}]}");
    mkdir(in_directory("many"), 0777);
    static const int there[] = {0, 1, 3};
    for (size_t i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "many/frame_%d", there[i]);
        mkdir(in_directory(name), 0777);
        strcat(name, "/v.jpg");
        write_file(name, "");
    }
    static const int expected[] = {0, 1, 1, 3, 3, 0, 10, 20, 30, 40}; /* the nearest lower; tenths of seconds of 5 */
    cavmae_loader *all =
                      LOADER(context, manifest, NULL, "shuffle", "0", "batch", "2", "frame", "-3", "clip_frames", "5"),
                  *one =
                      LOADER(context, manifest, NULL, "shuffle", "0", "batch", "2", "frame", "4", "clip_frames", "5");
    decoded = 0;
    const cavmae_batch *batch = next(all), *single = next(one);
    CHECK(batch->count == 2 && batch->frames == 5 && single->frames == 0);
    for (int i = 0; i < 10; i++) CHECK(pixel_value(batch, i, 0) == expected[i]);
    CHECK(memcmp(batch->audio, single->audio, 2 * SOUND * sizeof(float)) == 0);
    CHECK(memcmp(batch->image + 9 * 3 * PIXELS, single->image + 3 * PIXELS, 3 * PIXELS * sizeof(float)) == 0);
    cavmae_loader_free(all);
    cavmae_loader_free(one);
    all = LOADER(context, manifest, NULL, "frame", "-3", "modalities", "a", "batch", "2");
    CHECK(next(all)->frames == 0);
    cavmae_loader_free(all);
    all =
        LOADER(context, manifest, NULL, "frame", "-3", "mixup", "1", "clip_frames", "5", "batch", "2"); /* each frame */
    batch = next(all);
    CHECK(batch->frames == 5 && batch->image[9 * 3 * PIXELS] != batch->image[8 * 3 * PIXELS]);
    cavmae_loader_free(all);
    cavmae_context_free(context);
}

/* ---- All at once ---- */

/* Threads and places where a run is taken up again change nothing. */
static void test_same_everywhere(void) {
    enum { CALLS = 15 };
    static const char *const threads[] = {"1", "3", "5"}, *const balanced[] = {"0", "1"};
    cavmae_context *context = new_context();
    const char *labels = write_file("labels.csv", labels_csv),
               *manifest = write_manifest("everywhere.json", 18, 1 << 3 | 1 << 11);
    decode_delay = 1000;
    for (int b = 0; b < 2; b++) {
        uint64_t sums[CALLS] = {0};
        int64_t epoch[CALLS + 1] = {0}, position[CALLS + 1] = {0}, broken[CALLS + 1] = {0};
        for (int i = 0; i < 3; i++) {
            cavmae_loader *loader =
                LOADER(context, manifest, labels, "loader_threads", threads[i], "balanced", balanced[b], "mixup", "0.5",
                       "freq_mask", "48", "time_mask", "50", "noise", "1", "roll", "1", "frame", "-2", "broken", "skip",
                       "drop_last", "0", "seed", "7", "label_smoothing", "0.1", "shuffle_pairs", "1");
            for (int call = 0; call < CALLS; call++) {
                uint64_t sum = batch_sum(next(loader));
                if (i == 0) sums[call] = sum;
                CHECK(sum == sums[call]);
                cavmae__loader_state(loader, &epoch[call + 1], &position[call + 1], &broken[call + 1]);
            }
            for (int start = CALLS - 2; start > 0 && i == 1; start -= 4) {
                CHECK_OK(cavmae__loader_set_state(loader, epoch[start], position[start], broken[start]));
                for (int call = start; call < CALLS; call++) CHECK(batch_sum(next(loader)) == sums[call]);
            }
            cavmae_loader_free(loader);
        }
        CHECK(sums[0] != sums[1]);
    }
    decode_delay = 0;
    cavmae_context_free(context);
}

static cavmae_status load_some(cavmae_context *context, const char *manifest, const char *labels) {
    static const char *const pairs[][2] = {{"loader_threads", "1"}, {"queue", "1"},       {"batch", "2"},
                                           {"mixup", "1"},          {"balanced", "1"},    {"shuffle_pairs", "1"},
                                           {"frame", "-3"},         {"clip_frames", "2"}, {"broken", "skip"},
                                           {"freq_mask", "9"},      {"image_size", "32"}};
    cavmae_config *config = NULL;
    cavmae_loader *loader = NULL;
    const cavmae_batch *batch;
    cavmae_status status;
    CAVMAE__TRY_OUT(cavmae_config_create(context, "tiny", &config));
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        CAVMAE__TRY_OUT(cavmae_config_set(config, pairs[i][0], pairs[i][1]));
    CAVMAE__TRY_OUT(cavmae_loader_create(config, manifest, labels, &loader));
    for (int i = 0; i < 2; i++) CAVMAE__TRY_OUT(cavmae_loader_next(loader, &batch));
    CHECK(cavmae_loader_broken(loader) == 0);
out:
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    return status;
}

static void test_out_of_memory(void) {
    fail_every_allocation(write_manifest("memory.json", 4, 0), write_file("labels.csv", labels_csv), load_some);
}

int main(void) {
    make_directory();
    test_noise_and_roll();
    test_masks();
    test_mixup();
    test_mixed_frames();
    test_broken_partner();
    test_weighted_labels();
    test_smoothing();
    test_balanced();
    test_shuffled_pairs();
    test_all_frames();
    test_same_everywhere();
    test_out_of_memory();
    remove_directory();
    return check_summary("augmented_loader");
}
