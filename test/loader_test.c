/* The loader, over a decoder that makes sound and pictures up from the path. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/stat.h>

#include "failing_allocator.h"
#include "loading.h"

/* ---- Order ---- */

static void test_threads(void) {
    static const char *const threads[] = {"1", "2", "5"}, *const queue[] = {"4", "1", "2"};
    enum { CALLS = 14 };
    uint64_t sums[3][CALLS];
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("threads.json", 18, 1 << 3 | 1 << 11),
               *labels = write_file("labels.csv", labels_csv);
    decode_delay = 3000;
    for (int i = 0; i < 3; i++) {
        cavmae_loader *loader =
            LOADER(context, manifest, labels, "loader_threads", threads[i], "queue", queue[i], "noise", "1", "roll",
                   "1", "frame", "-2", "broken", "skip", "drop_last", "0", "seed", "7");
        for (int call = 0; call < CALLS; call++) sums[i][call] = batch_sum(next(loader));
        CHECK(cavmae_loader_epoch(loader) == 2 && cavmae_loader_broken(loader) >= 4);
        cavmae_loader_free(loader);
    }
    decode_delay = 0;
    CHECK(memcmp(sums[0], sums[1], sizeof sums[0]) == 0 && memcmp(sums[0], sums[2], sizeof sums[0]) == 0);
    CHECK(sums[0][4] == 1 && sums[0][9] == 1 && sums[0][0] != sums[0][5]);
    cavmae_context_free(context);
}

static void test_order(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("ten.json", 10, 0);
    int64_t first[10], second[10], seen = 0;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "drop_last", "0");
    CHECK(cavmae_loader_count(loader) == 10 && cavmae_loader_batches(loader) == 3 && cavmae_loader_epoch(loader) == 0);
    CHECK(take_epoch(loader, first) == 10 && cavmae_loader_epoch(loader) == 0);
    CHECK(take_epoch(loader, second) == 10 && cavmae_loader_epoch(loader) == 1);
    for (int i = 0; i < 10; i++) seen |= (int64_t)1 << first[i];
    CHECK(seen == 1023 && memcmp(first, second, sizeof first) != 0);
    cavmae_loader_free(loader);

    loader = LOADER(context, manifest, NULL, "seed", "1"); /* drop_last is the default */
    CHECK(cavmae_loader_batches(loader) == 2 && take_epoch(loader, second) == 8 && take_epoch(loader, second) == 8);
    CHECK(memcmp(first, second, 8 * sizeof *first) != 0);
    cavmae_loader_free(loader);

    loader = LOADER(context, manifest, NULL, "shuffle", "0", "drop_last", "0", "batch", "5");
    CHECK(cavmae_loader_batches(loader) == 2 && take_epoch(loader, first) == 10);
    for (int i = 0; i < 10; i++) CHECK(first[i] == i);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* Where each of 5 numbers comes to lie over 2000 seeds. */
static void test_shuffle_uniform(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("five.json", 5, 0);
    int seen[5][5] = {{0}};
    cavmae_loader *loader = LOADER(context, manifest, NULL, "batch", "5", "modalities", "v", "image_size", "32");
    for (int epoch = 0; epoch < 2000; epoch++) {
        int64_t order[5];
        if (take_epoch(loader, order) != 5) break;
        for (int i = 0; i < 5; i++) seen[order[i]][i]++;
    }
    for (int i = 0; i < 25; i++) CHECK_CLOSE(seen[i / 5][i % 5], 400, 5 * sqrt(400 * 0.8));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* From every place, a loader that is put there goes on as the one that was never stopped. */
static void test_resume(void) {
    enum { CALLS = 16 };
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("resume.json", 11, 1 << 2 | 1 << 7 | 1 << 8);
    for (int drop_last = 0; drop_last < 2; drop_last++) {
        uint64_t sums[CALLS];
        int64_t epoch[CALLS + 1] = {0}, position[CALLS + 1] = {0}, broken[CALLS + 1] = {0}, said_epoch[CALLS + 1] = {0};
        cavmae_config *config =
            new_config(context, "broken", "skip", "noise", "1", "batch", "3", "drop_last", drop_last ? "1" : "0", NULL);
        cavmae_loader *whole = NULL, *resumed = NULL;
        CHECK_OK(cavmae_loader_create(config, manifest, NULL, &whole));
        CHECK_OK(cavmae_loader_create(config, manifest, NULL, &resumed));
        for (int call = 0; call < CALLS; call++) {
            sums[call] = batch_sum(next(whole));
            cavmae__loader_state(whole, &epoch[call + 1], &position[call + 1], &broken[call + 1]);
            said_epoch[call + 1] = cavmae_loader_epoch(whole);
            CHECK(broken[call + 1] == cavmae_loader_broken(whole));
        }
        for (int start = CALLS - 1; start >= 0; start--) {
            CHECK_OK(cavmae__loader_set_state(resumed, epoch[start], position[start], broken[start]));
            CHECK(cavmae_loader_epoch(resumed) == said_epoch[start] && cavmae_loader_broken(resumed) == broken[start]);
            for (int call = start; call < CALLS && call < start + 6; call++) {
                int64_t e, p, b;
                CHECK(batch_sum(next(resumed)) == sums[call]);
                cavmae__loader_state(resumed, &e, &p, &b);
                CHECK(e == epoch[call + 1] && p == position[call + 1] && b == broken[call + 1]);
            }
        }
        CHECK_STATUS(cavmae__loader_set_state(resumed, 0, 12, 0), CAVMAE_E_MISMATCH);
        CHECK_STATUS(cavmae__loader_set_state(resumed, -1, 0, 0), CAVMAE_E_MISMATCH);
        cavmae_config_free(config);
        cavmae_loader_free(whole);
        cavmae_loader_free(resumed);
    }
    cavmae_context_free(context);
}

static void test_seek(void) {
    cavmae_context *context = new_context();
    cavmae_loader *loader = LOADER(context, write_manifest("seek.json", 11, 0), NULL, "drop_last", "0", "batch", "3");
    int64_t order[11];
    CHECK(take_epoch(loader, order) == 11);
    CHECK_OK(cavmae_loader_seek(loader, 0)); /* of the epoch that comes next */
    CHECK(take_epoch(loader, order) == 11 && cavmae_loader_epoch(loader) == 1);
    for (int64_t position = 11; position >= 0; position--) {
        CHECK_OK(cavmae__loader_set_state(loader, 1, 0, 0));
        CHECK_OK(cavmae_loader_seek(loader, position));
        const cavmae_batch *batch = next(loader);
        CHECK(position < 11 ? batch && batch->samples[0] == order[position] : !batch);
    }
    CHECK_STATUS(cavmae_loader_seek(loader, 12), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_seek(loader, -1), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_seek(NULL, 0), CAVMAE_E_ARG);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* ---- Broken samples ---- */

static void test_skip(void) {
    cavmae_context *context = new_context();
    const uint64_t bad = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 12;
    const char *all = write_manifest("all.json", 13, 0), *some = write_manifest("some.json", 13, bad);
    int64_t order[13], left[13];
    cavmae_loader *loader = LOADER(context, all, NULL, "drop_last", "0");
    CHECK(take_epoch(loader, order) == 13);
    cavmae_loader_free(loader);

    warnings = 0;
    loader = LOADER(context, some, NULL, "drop_last", "0", "broken", "skip");
    CHECK(next(loader)->count == 4);
    CHECK(next(loader)->count == 4);
    CHECK(next(loader)->count == 1);
    CHECK(!next(loader));
    CHECK(cavmae_loader_broken(loader) == 4 && warnings >= 4);
    cavmae_loader_free(loader);
    loader = LOADER(context, some, NULL, "drop_last", "0", "broken", "skip");
    CHECK(take_epoch(loader, left) == 9);
    for (int i = 0, at = 0; i < 13; i++)
        if (!(bad >> order[i] & 1)) CHECK(left[at++] == order[i]); /* the same order without the broken */
    cavmae_loader_free(loader);

    const cavmae_batch *batch = NULL;
    loader = LOADER(context, write_manifest("none.json", 5, 31), NULL, "broken", "skip");
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_FORMAT);
    CHECK(!batch && strstr(cavmae_last_error(), "epoch 0 has no batch: 5 samples"));
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_FORMAT);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_error(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("error.json", 8, 1 << 5);
    const cavmae_batch *batch = NULL;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "shuffle", "0");
    CHECK(next(loader)->count == 4);
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_MEDIA);
        CHECK(!batch && strstr(cavmae_last_error(), "entry 5 (id5): ") &&
              strstr(cavmae_last_error(), "made to be broken"));
    }
    CHECK(cavmae_loader_broken(loader) == 0);
    decode_mended = 1; /* the same call then goes on where it was */
    cavmae_status status = cavmae_loader_next(loader, &batch);
    if (status != CAVMAE_OK) status = cavmae_loader_next(loader, &batch); /* the thread may have tried in between */
    CHECK(status == CAVMAE_OK && batch->samples[0] == 4 && batch->samples[3] == 7);
    CHECK(!next(loader));
    decode_mended = 0;
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_bad_arguments(void) {
    cavmae_context *context = new_context();
    cavmae_config *config = new_config(context, NULL);
    const char *manifest = write_manifest("three.json", 3, 0);
    cavmae_loader *loader = NULL;
    CHECK_STATUS(cavmae_loader_create(NULL, manifest, NULL, &loader), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, NULL, NULL, &loader), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &loader), CAVMAE_E_ARG); /* drop_last leaves nothing */
    CHECK_OK(cavmae_config_set(config, "drop_last", "0"));
    CHECK_STATUS(cavmae_loader_create(config, in_directory("absent"), NULL, &loader), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_loader_create(config, manifest, in_directory("absent"), &loader), CAVMAE_E_IO);
    CHECK_OK(cavmae_config_set(config, "frame", "10"));
    CHECK_STATUS(cavmae_loader_create(config, manifest, NULL, &loader), CAVMAE_E_ARG);
    CHECK_OK(cavmae_config_set(config, "frame", "9"));
    CHECK_OK(cavmae_loader_create(config, manifest, NULL, &loader));
    CHECK_STATUS(cavmae_loader_next(NULL, &(const cavmae_batch *){NULL}), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_next(loader, NULL), CAVMAE_E_ARG);
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_STATUS(cavmae_loader_item_at(loader, 3, &item), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_item_at(loader, -1, &item), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_loader_item_at(loader, 0, NULL), CAVMAE_E_ARG);
    cavmae_loader_free(loader);
    cavmae_loader_free(NULL);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

/* ---- Contents ---- */

static void test_batch_labels(void) {
    cavmae_context *context = new_context();
    cavmae_loader *loader =
        LOADER(context, write_manifest("four.json", 4, 0), write_file("labels.csv", labels_csv), "shuffle", "0");
    const cavmae_batch *batch = next(loader);
    static const float expected[] = {1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0};
    CHECK(cavmae_loader_classes(loader) == 3 && strcmp(cavmae_loader_class_name(loader, 1), "B") == 0 &&
          !cavmae_loader_class_name(loader, 3));
    CHECK(batch->classes == 3 && memcmp(batch->labels, expected, sizeof expected) == 0);
    CHECK(batch->struct_size == sizeof *batch && !batch->audio_frames && !batch->mask_a && !batch->mask_v);
    cavmae_loader_item item = {.struct_size = sizeof item};
    CHECK_OK(cavmae_loader_item_at(loader, 2, &item));
    CHECK(strcmp(item.id, "id2") == 0 && item.label_count == 2 && item.labels[0] == 0 && item.labels[1] == 1);
    CHECK(strcmp(item.audio_path, in_directory("clip2.mp4")) == 0 && strcmp(item.image_path, item.audio_path) == 0);
    cavmae_loader_free(loader);
    loader = LOADER(context, in_directory("four.json"), NULL, "shuffle", "0");
    batch = next(loader);
    CHECK(!batch->labels && batch->classes == 0 && cavmae_loader_classes(loader) == 0 &&
          !cavmae_loader_class_name(loader, 0));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* The red value of the first row with config's frame. */
static int red_with_frame(cavmae_context *context, const char *manifest, const char *frame) {
    cavmae_loader *loader = LOADER(context, manifest, NULL, "batch", "1", "frame", frame);
    int red = pixel_value(next(loader), 0, 0);
    cavmae_loader_free(loader);
    return red;
}

static void test_frames(void) {
    cavmae_context *context = new_context();
    const char *folders = write_file(
        "folders.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video_path\": \"frames\"}]}");
    const char *video =
        write_file("video.json", "{\"data\": [{\"video_id\": \"v\", \"wav\": \"a.wav\", \"video\": \"b.mp4\"}]}");
    mkdir(in_directory("frames"), 0777);
    static const int there[] = {1, 2, 5, 7};
    for (size_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "frames/frame_%d", there[i]);
        mkdir(in_directory(name), 0777);
        strcat(name, "/v.jpg");
        write_file(name, "");
    }
    CHECK(red_with_frame(context, folders, "5") == 5 && red_with_frame(context, folders, "-1") == 5);
    CHECK(red_with_frame(context, folders, "4") == 2 &&
          red_with_frame(context, folders, "9") == 7); /* the nearest lower */
    CHECK(red_with_frame(context, folders, "0") == 0); /* none: the decoder knows */
    CHECK(red_with_frame(context, video, "0") == 0 && red_with_frame(context, video, "-1") == 25 &&
          red_with_frame(context, video, "9") == 45);

    int seen[10] = {0};
    cavmae_loader *loader =
        LOADER(context, video, NULL, "batch", "1", "frame", "-2", "modalities", "v", "image_size", "64");
    for (int epoch = 0; epoch < 1000; epoch++) {
        int frame = pixel_value(next(loader), 0, 0) / 5;
        if (CHECK(frame >= 0 && frame < 10)) seen[frame]++;
        next(loader);
    }
    for (int i = 0; i < 10; i++) CHECK_CLOSE(seen[i], 100, 5 * sqrt(100 * 0.9));
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

static void test_modalities(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("five.json", 5, 0);
    cavmae_loader *sound = LOADER(context, manifest, NULL, "modalities", "a"),
                  *pictures = LOADER(context, manifest, NULL, "modalities", "v");
    const cavmae_batch *batch = next(sound);
    CHECK(batch->audio && !batch->image);
    batch = next(pictures);
    CHECK(!batch->audio && batch->image);
    cavmae_loader_free(sound);
    cavmae_loader_free(pictures);

    manifest =
        write_file("lengths.json",
                   "{\"data\": [{\"video_id\": \"a\", \"wav\": \"a\"}, {\"video_id\": \"b\", \"wav\": \"long\"}]}");
    cavmae_loader *native = LOADER(context, manifest, NULL, "audio_length", "native", "batch", "2", "shuffle", "0");
    cavmae_loader *silence = LOADER(context, manifest, NULL, "audio_length", "silence", "batch", "2", "shuffle", "0");
    batch = next(native);
    const cavmae_batch *padded = next(silence);
    CHECK(batch->audio_frames[0] == 48 && batch->audio_frames[1] == 112 &&
          !padded->audio_frames); /* 48 and 98 rounded up to 16 */
    CHECK(memcmp(batch->audio, padded->audio, 48 * BINS * sizeof(float)) == 0);
    CHECK(memcmp(batch->audio + 48 * BINS, padded->audio + SOUND, 98 * BINS * sizeof(float)) == 0);
    cavmae_loader_free(native);
    cavmae_loader_free(silence);
    cavmae_context_free(context);
}

/* ---- Life ---- */

static void test_free_anywhere(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("free.json", 20, 1 << 9);
    decode_delay = 2000;
    for (int calls = 0; calls < 8; calls++) {
        cavmae_loader *loader = LOADER(context, manifest, NULL, "loader_threads", "3", "queue", "2", "broken",
                                       calls % 2 ? "skip" : "error");
        for (int i = 0; i < calls; i++) {
            const cavmae_batch *batch;
            cavmae_status status = cavmae_loader_next(loader, &batch);
            CHECK(status == CAVMAE_OK || (calls % 2 == 0 && status == CAVMAE_E_MEDIA));
        }
        cavmae_loader_free(loader);
    }
    /* A loader outlives the caller's hold of its context and config. */
    cavmae_loader *loader = LOADER(context, manifest, NULL, "broken", "skip");
    cavmae_context_free(context);
    CHECK(next(loader)->count == 4);
    cavmae_loader_free(loader);
    decode_delay = 0;
}

static void *cancel_soon(void *unused) {
    usleep(20000);
    cancelled = 1;
    return unused;
}

static void test_cancel(void) {
    cavmae_context *context = new_context();
    const char *manifest = write_manifest("cancel.json", 8, 0);
    const cavmae_batch *batch = NULL;
    cavmae_loader *loader = LOADER(context, manifest, NULL, "shuffle", "0", "loader_threads", "3");
    cancelled = 1;
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_CANCELLED);
    cancelled = 0;
    decode_held = 1;
    CHECK(!batch);
    pthread_t thread;
    pthread_create(&thread, NULL, cancel_soon, NULL);
    CHECK_STATUS(cavmae_loader_next(loader, &batch), CAVMAE_E_CANCELLED); /* while it waits */
    pthread_join(thread, NULL);
    /* What the loader's threads do meanwhile goes on: only calls are ended. */
    decode_held = 0;
    usleep(20000);
    cancelled = 0;
    CHECK(asked_elsewhere == 0);
    batch = next(loader);
    CHECK(batch && batch->samples[0] == 0 && batch->samples[3] == 3);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
}

/* Reading ahead ends when the queue is full, and memory does not grow with the epochs. */
static void test_bounded(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *context = NULL;
    CHECK_OK(cavmae_context_create(&options, &context));
    CHECK_OK(cavmae_context_set_decoder(context, &decoder));
    cavmae_loader *loader = LOADER(context, write_manifest("bounded.json", 40, 0), NULL, "loader_threads", "2", "queue",
                                   "2", "modalities", "a");
    decoded = 0;
    next(loader);
    usleep(100000);
    CHECK(decoded <= 4 * (1 + 2) + 2 * 4); /* the batch in hand, the queue, the slots of two threads */
    long blocks[2];
    int64_t samples[40];
    for (int i = 0; i < 2; i++) {
        for (int epoch = 0; epoch < 5; epoch++) take_epoch(loader, samples);
        CHECK_OK(cavmae__loader_set_state(loader, 0, 0, 0)); /* at rest */
        blocks[i] = allocator.blocks;
    }
    CHECK(labs(blocks[1] - blocks[0]) <= 2 * 4); /* sound in slots that were never placed */
    cavmae_loader_free(loader);
    cavmae_context_free(context);
    CHECK(allocator.blocks == 0);
}

static cavmae_status load_some(cavmae_context *context, const char *manifest, const char *labels) {
    cavmae_config *config = NULL;
    cavmae_loader *loader = NULL;
    const cavmae_batch *batch;
    cavmae_status status;
    CAVMAE__TRY_OUT(cavmae_config_create(context, "tiny", &config));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "loader_threads", "1"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "queue", "1"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "batch", "2"));
    CAVMAE__TRY_OUT(cavmae_config_set(config, "broken", "skip")); /* which must not hide that memory ran out */
    CAVMAE__TRY_OUT(cavmae_config_set(config, "audio_length", "native"));
    CAVMAE__TRY_OUT(cavmae_loader_create(config, manifest, labels, &loader));
    for (int i = 0; i < 4; i++) CAVMAE__TRY_OUT(cavmae_loader_next(loader, &batch));
    CHECK(cavmae_loader_broken(loader) == 0);
out:
    cavmae_loader_free(loader);
    cavmae_config_free(config);
    return status;
}

static void test_out_of_memory(void) {
    fail_every_allocation(write_manifest("memory.json", 6, 0), write_file("labels.csv", labels_csv), load_some);
}

int main(void) {
    make_directory();
    test_threads();
    test_order();
    test_shuffle_uniform();
    test_resume();
    test_seek();
    test_skip();
    test_error();
    test_bad_arguments();
    test_batch_labels();
    test_frames();
    test_modalities();
    test_free_anywhere();
    test_cancel();
    test_bounded();
    test_out_of_memory();
    remove_directory();
    return check_summary("loader");
}
