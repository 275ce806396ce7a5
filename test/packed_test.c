/* Packed data sets: written, and read in a manifest's place. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "failing_allocator.h"
#include "made_up_media.h"

/* ---- The same batches ---- */

static int same(const void *a, const void *b, size_t size) { return !a || !b ? a == b : memcmp(a, b, size) == 0; }

static int same_batches(const cavmae_batch *a, const cavmae_batch *b) {
    size_t rows = (size_t)a->count, frames = a->frames ? (size_t)a->frames : 1, sound = 0;
    if (a->count != b->count || a->frames != b->frames || a->classes != b->classes) return 0;
    for (size_t i = 0; i < rows; i++) sound += a->audio_frames ? (size_t)a->audio_frames[i] : 32;
    return same(a->audio_frames, b->audio_frames, rows * sizeof(int32_t)) &&
           same(a->audio, b->audio, sound * 16 * sizeof(float)) &&
           same(a->image, b->image, rows * frames * 3 * 32 * 32 * sizeof(float)) &&
           same(a->labels, b->labels, rows * (size_t)a->classes * sizeof(float)) &&
           same(a->samples, b->samples, rows * sizeof(int64_t));
}

/* Two epochs of both are equal, and nothing was decoded for the second. */
static void compare(const char *settings, const char *manifest, const char *packed, const char *labels) {
    cavmae_context *context = new_context(1);
    cavmae_loader *from[2];
    const cavmae_batch *batches[2];
    int equal = 0, total = 0;
    if (!CHECK_OK(open_loader(context, settings, manifest, labels, &from[0]))) exit(1);
    if (!CHECK_OK(open_loader(context, settings, packed, labels, &from[1]))) exit(1);
    for (int epoch = 0; epoch < 2; epoch++) do {
            for (int i = 0; i < 2; i++) CHECK_OK(cavmae_loader_next(from[i], &batches[i]));
            if (!batches[0]) CHECK(!batches[1]);
            equal += batches[0] && batches[1] && same_batches(batches[0], batches[1]);
            total += batches[0] != NULL;
        } while (batches[0]);
    if (!CHECK(equal == total && total >= 2)) printf("with %s: %d of %d batches\n", settings, equal, total);
    cavmae_loader_free(from[0]); /* its threads decode on until then */
    int before = decoded;
    CHECK_OK(cavmae_loader_next(from[1], &batches[1]));
    CHECK(decoded == before);
    cavmae_loader_free(from[1]);
    cavmae_context_free(context);
}

static void test_same_batches(void) {
    const char *manifest = write_manifest("ten.json", 10, 0), *labels = write_file("labels.csv", labels_csv);
    const char *all = in_directory("all.cavmaepack"), *one = in_directory("one.cavmaepack");
    cavmae_context *context = new_context(3);
    cavmae_pack_report report = {.struct_size = sizeof report}, again = {.struct_size = sizeof again};
    CHECK_OK(pack(context, "frame=-2", manifest, labels, all, &report));
    CHECK(report.clips == 10 && report.frames == 3 && report.broken == 0 && report.struct_size == sizeof report);
    CHECK(progress_done == 10 && progress_total == 10);
    CHECK_OK(cavmae_pack_info(context, all, &again));
    CHECK(memcmp(&report, &again, sizeof report) == 0);
    CHECK_OK(pack(context, "", manifest, labels, one, NULL));
    cavmae_context_free(context);

    compare("", manifest, all, labels);
    compare("frame=2", manifest, all, NULL);
    compare("frame=-3", manifest, all, labels);
    compare("audio_length=native drop_last=0", manifest, all, labels);
    compare("shuffle=1 frame=-2 noise=1 roll=1 freq_mask=4 time_mask=6 loader_threads=3", manifest, all, labels);
    compare("shuffle=1 frame=-2 mixup=0.7 label_smoothing=0.1 drop_last=0", manifest, all, labels);
    compare("balanced=1 shuffle_pairs=1", manifest, all, labels);
    compare("modalities=a mel_bins=16 audio_mean=-3", manifest, all, labels);
    compare("modalities=v image_mean=0,0,0", manifest, all, labels);
    compare("", manifest, one, labels);
    compare("frame=1", manifest, one, labels);

    /* Packed again, from the pack. */
    context = new_context(1);
    CHECK_OK(pack(context, "", all, labels, in_directory("again.cavmaepack"), NULL));
    size_t sizes[2];
    unsigned char *first = read_bytes(one, &sizes[0]),
                  *second = read_bytes(in_directory("again.cavmaepack"), &sizes[1]);
    CHECK(sizes[0] == sizes[1] && memcmp(first, second, sizes[0]) == 0);
    free(first);
    free(second);
    cavmae_context_free(context);
}

static void test_items(void) {
    cavmae_context *context = new_context(1);
    cavmae_loader *loader;
    cavmae_loader_item item = {.struct_size = sizeof item};
    const char *path = in_directory("all.cavmaepack");
    CHECK_OK(open_loader(context, "", path, in_directory("labels.csv"), &loader));
    CHECK(cavmae_loader_count(loader) == 10 && cavmae_loader_classes(loader) == 3);
    CHECK_OK(cavmae_loader_item_at(loader, 6, &item));
    CHECK(!strcmp(item.id, "id6") && !strcmp(item.audio_path, path) && !strcmp(item.image_path, path));
    CHECK(item.label_count == 2 && item.labels[0] == 0 && item.labels[1] == 2);
    CHECK(item.label_weights && item.label_weights[0] == 0.25f && item.label_weights[1] == 1);
    CHECK_OK(cavmae_loader_item_at(loader, 7, &item));
    CHECK(item.label_count == 0);
    cavmae_loader_free(loader);
    CHECK_OK(open_loader(context, "", path, NULL, &loader));
    CHECK_OK(cavmae_loader_item_at(loader, 6, &item));
    CHECK(item.label_count == 0 && cavmae_loader_classes(loader) == 0);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* ---- What does not fit ---- */

static void expect_mismatch(cavmae_context *context, const char *settings, const char *data, const char *labels,
                            const char *word) {
    cavmae_loader *loader;
    CHECK_STATUS(open_loader(context, settings, data, labels, &loader), CAVMAE_E_MISMATCH);
    if (!CHECK(strstr(cavmae_last_error(), data) && strstr(cavmae_last_error(), word)))
        printf("%s: %s\n", word, cavmae_last_error());
}

static void test_mismatch(void) {
    cavmae_context *context = new_context(1);
    const char *all = in_directory("all.cavmaepack"), *one = in_directory("one.cavmaepack"),
               *labels = in_directory("labels.csv"), *manifest = in_directory("ten.json"),
               *sound = in_directory("sound.cavmaepack"), *plain = in_directory("plain.cavmaepack");
    cavmae_loader *loader;
    expect_mismatch(context, "image_size=48", all, NULL, "packed with image_size 32, the configuration has 48");
    expect_mismatch(context, "image_filter=bilinear", all, NULL, "image_filter bicubic");
    expect_mismatch(context, "clip_frames=4", all, NULL, "clip_frames 3");
    expect_mismatch(context, "sample_rate=8000", all, NULL, "sample_rate 16000");
    expect_mismatch(context, "audio_channel=mean", all, NULL, "audio_channel first");
    expect_mismatch(context, "resampler=fastest", all, NULL, "resampler best");
    expect_mismatch(context, "frame=0", one, NULL, "frame 1, the configuration has 0");
    expect_mismatch(context, "frame=-2", one, NULL, "frame 1, the configuration has -2");
    expect_mismatch(context, "frame=-3", one, NULL, "frame 1");
    expect_mismatch(context, "", all, write_file("four.csv", "index,mid,display_name\n0,a,A\n1,b,B\n2,c,C\n3,d,D\n"),
                    "labels of another file: 3 classes, here 4");
    expect_mismatch(context, "", all, write_file("names.csv", "index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n2,/m/c,D\n"),
                    "labels of another file");
    /* Keys of the modality that a model does without do not matter. */
    CHECK_OK(open_loader(context, "modalities=a image_size=48 image_filter=bilinear frame=1", one, NULL, &loader));
    cavmae_loader_free(loader);
    CHECK_OK(open_loader(context, "modalities=v sample_rate=8000 resampler=fastest", one, NULL, &loader));
    cavmae_loader_free(loader);

    cavmae_pack_report report = {.struct_size = sizeof report};
    CHECK_OK(pack(context, "modalities=a", manifest, NULL, sound, &report));
    CHECK(report.frames == 0 && report.audio_frames > 0);
    expect_mismatch(context, "", sound, NULL, "modalities a, the configuration has av");
    expect_mismatch(context, "modalities=v", sound, NULL, "modalities a, the configuration has v");
    expect_mismatch(context, "modalities=a", sound, labels, "packed without labels");
    CHECK_OK(open_loader(context, "modalities=a", sound, NULL, &loader));
    cavmae_loader_free(loader);
    CHECK_OK(pack(context, "modalities=v", manifest, NULL, plain, &report));
    CHECK(report.frames == 1 && report.audio_frames == 0 && report.audio_mean == 0 && report.audio_std == 0);
    expect_mismatch(context, "modalities=a", plain, NULL, "modalities v");
    cavmae_context_free(context);
}

/* ---- Mean and deviation ---- */

static void test_statistics(void) {
    cavmae_context *context = new_context(2);
    const char *manifest = in_directory("ten.json");
    double sum = 0, square = 0, count = 0;
    for (int i = 0; i < 10; i++) { /* in two passes, with the whole in memory */
        float first[6400], *rows;
        cavmae_tensor *pcm;
        char name[32];
        int32_t rate;
        snprintf(name, sizeof name, "clip%d.mp4", i);
        CHECK_OK(cavmae_media_audio(context, in_directory(name), &pcm, &rate));
        int64_t samples = cavmae_tensor_shape(pcm)[0], frames = cavmae_fbank_frames(samples, rate);
        for (int64_t k = 0; k < samples; k++) first[k] = ((const float *)cavmae_tensor_data(pcm))[2 * k];
        rows = malloc((size_t)frames * 16 * sizeof *rows);
        CHECK_OK(cavmae_fbank(context, first, samples, rate, 16, rows));
        if (frames > 32) frames = 32; /* audio_frames */
        for (int64_t k = 0; k < frames * 16; k++) sum += (double)rows[k], square += (double)rows[k] * (double)rows[k];
        count += (double)frames * 16;
        free(rows);
        cavmae_tensor_free(pcm);
    }
    cavmae_pack_report report = {.struct_size = sizeof report};
    CHECK_OK(pack(context, "", manifest, NULL, in_directory("statistics.cavmaepack"), &report));
    CHECK((double)report.audio_frames * 16 == count);
    CHECK_CLOSE(report.audio_mean, sum / count, 1e-9);
    CHECK_CLOSE(report.audio_std, sqrt((square - sum * sum / count) / (count - 1)), 1e-9);
    int64_t cut = report.audio_frames;
    CHECK_OK(pack(context, "audio_length=native", manifest, NULL, in_directory("statistics.cavmaepack"), &report));
    CHECK(report.audio_frames > cut); /* nothing is cut */
    cavmae_context_free(context);
}

/* ---- Faults while packing ---- */

static void test_faults(void) {
    cavmae_context *context = new_context(2);
    cavmae_config *config = new_config(context, "");
    const char *path = in_directory("faults.cavmaepack"), *manifest = in_directory("ten.json"),
               *broken = write_manifest("broken.json", 5, 1 << 1 | 1 << 3), *none = write_manifest("none.json", 2, 3);
    cavmae_pack_report report = {.struct_size = sizeof report};
    CHECK_STATUS(cavmae_pack(NULL, manifest, NULL, path, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack(config, NULL, NULL, path, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack(config, manifest, NULL, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack(config, manifest, NULL, path, &(cavmae_pack_report){0}), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack(config, in_directory("absent"), NULL, path, NULL), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_pack(config, manifest, in_directory("absent"), path, NULL), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_pack(config, manifest, NULL, in_directory("absent/x"), NULL), CAVMAE_E_IO);
    CHECK_STATUS(pack(context, "frame=3", manifest, NULL, path, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(pack(context, "image_channels=1 image_mean=0 image_std=1", manifest, NULL, path, NULL),
                 CAVMAE_E_UNSUPPORTED);
    CHECK_STATUS(pack(context, "image_size=48", in_directory("all.cavmaepack"), NULL, path, NULL), CAVMAE_E_MISMATCH);
    CHECK_STATUS(cavmae_pack_info(NULL, path, &report), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack_info(context, NULL, &report), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack_info(context, in_directory("all.cavmaepack"), NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_pack_info(context, in_directory("absent"), &report), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_pack_info(context, manifest, &report), CAVMAE_E_FORMAT);

    write_file("faults.cavmaepack", "as it was");
    CHECK_STATUS(cavmae_pack(config, broken, NULL, path, &report), CAVMAE_E_MEDIA);
    CHECK(strstr(cavmae_last_error(), "entry 1 (id1)") && strstr(cavmae_last_error(), "made to be broken"));
    CHECK_STATUS(pack(context, "broken=skip", none, NULL, path, NULL), CAVMAE_E_FORMAT);
    cancelled = 1;
    CHECK_STATUS(cavmae_pack(config, manifest, NULL, path, NULL), CAVMAE_E_CANCELLED);
    cancelled = 0;
    size_t size;
    unsigned char *kept = read_bytes(path, &size);
    CHECK(size == 9 && memcmp(kept, "as it was", 9) == 0);
    free(kept);

    CHECK_OK(pack(context, "broken=skip", broken, NULL, path, &report));
    CHECK(report.clips == 3 && report.broken == 2);
    cavmae_loader *loader;
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_OK(open_loader(context, "batch=3", path, NULL, &loader));
    CHECK_OK(cavmae_loader_item_at(loader, 1, &item));
    CHECK(!strcmp(item.id, "id2"));
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* Sound beyond what 16 bits hold is clipped, and the mean of channels rounded: near, and not the same. */
static void test_rounding(void) {
    cavmae_context *context = new_context(1);
    const char *path = in_directory("loud.cavmaepack"), *files[2] = {in_directory("loud.json"), path};
    cavmae_loader *loader;
    const cavmae_batch *batch;
    float rows[2][32 * 16];
    double difference = 0;
    write_file("loud.json", "{\"data\": [{\"video_id\": \"x\", \"wav\": \"loud.mp4\"}]}");
    CHECK_OK(pack(context, "audio_channel=mean", files[0], NULL, path, NULL));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(open_loader(context, "batch=1 audio_channel=mean audio_length=silence", files[i], NULL, &loader));
        CHECK_OK(cavmae_loader_next(loader, &batch));
        memcpy(rows[i], batch->audio, sizeof rows[i]);
        cavmae_loader_free(loader);
    }
    for (int i = 0; i < 32 * 16; i++) difference = fmax(difference, fabs((double)rows[0][i] - (double)rows[1][i]));
    CHECK(difference > 0 && difference < 0.05);
    cavmae_context_free(context);
}

/* ---- Memory ---- */

static void test_allocations(void) {
    const char *manifest = write_manifest("memory.json", 2, 0), *labels = in_directory("labels.csv");
    const char *path = in_directory("memory.cavmaepack");
    failing_allocator allocator = {0};
    long refused = 0;
    for (allocator.fail_at = 1; allocator.fail_at < 2000; allocator.fail_at++) {
        cavmae_context_options options = failing_options(&allocator);
        cavmae_context *context;
        cavmae_config *config;
        cavmae_loader *loader;
        options.threads = 1;
        allocator.calls = -1000000;
        CHECK_OK(cavmae_context_create(&options, &context));
        CHECK_OK(cavmae_context_set_decoder(context, &decoder));
        config = new_config(context, "frame=-2 batch=2");
        allocator.calls = 0;
        cavmae_status status = cavmae_pack(config, manifest, labels, path, NULL);
        if (status == CAVMAE_OK) {
            status = cavmae_loader_create(config, path, labels, &loader);
            if (status == CAVMAE_OK) cavmae_loader_free(loader);
        }
        int met = allocator.calls >= allocator.fail_at;
        cavmae_config_free(config);
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
        if (!met) {
            CHECK_STATUS(status, CAVMAE_OK);
            break;
        }
        refused += status == CAVMAE_E_NOMEM;
        if (!CHECK_STATUS(status, CAVMAE_E_NOMEM)) printf("at allocation %ld\n", allocator.fail_at);
    }
    CHECK(refused > 20 && allocator.fail_at < 2000);
}

int main(void) {
    make_directory();
    test_same_batches();
    test_items();
    test_mismatch();
    test_statistics();
    test_faults();
    test_rounding();
    test_allocations();
    remove_directory();
    return check_summary("packed");
}
