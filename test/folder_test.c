/* Folders of media files in a manifest's place; and sound and pictures as programs store them. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failing_allocator.h"
#include "made_up_media.h"

/* ---- Folders ---- */

static void make_folder(const char *name) {
    if (mkdir(in_directory(name), 0777) != 0 && errno != EEXIST) exit(2);
}

static void test_folder(void) {
    static const char *const files[] = {"media/b.MP4",    "media/a/z.wav",    "media/a.flac",         "media/notes.txt",
                                        "media/.hid.mp4", "media/.git/x.mp4", "media/a/deep/q.m4a",   "media/mp4",
                                        "media/a/x.mp4x", "media/a/y.mp",     "media/c.mp4/inner.mkv"};
    static const char *const expected[] = {"a.flac", "a/deep/q.m4a", "a/z.wav", "b.MP4", "c.mp4/inner.mkv", "link.mp3"};
    static const char *const folders[] = {"media", "media/a", "media/a/deep", "media/.git", "media/c.mp4", "empty"};
    cavmae_context *context = new_context(1);
    cavmae_loader *loader = NULL;
    cavmae_loader_item item = {.struct_size = sizeof item};
    const cavmae_batch *batch;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make_folder(folders[i]);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) write_file(files[i], "x");
    if (symlink("../labels.csv", in_directory("media/link.mp3")) || symlink("..", in_directory("media/a/loop.mp4")) ||
        symlink("nowhere", in_directory("media/dangling.mp4")))
        exit(2);

    for (int slash = 0; slash < 2; slash++) {
        const char *media = in_directory(slash ? "media//" : "media");
        CHECK_OK(open_loader(context, "batch=6", media, NULL, &loader));
        CHECK(cavmae_loader_count(loader) == 6);
        for (int64_t i = 0; i < 6 && i < cavmae_loader_count(loader); i++) {
            char path[512];
            CHECK_OK(cavmae_loader_item_at(loader, i, &item));
            snprintf(path, sizeof path, "%s%s%s", media, slash ? "" : "/", expected[i]);
            if (!CHECK(!strcmp(item.id, expected[i]) && !strcmp(item.audio_path, path) &&
                       !strcmp(item.image_path, path) && item.label_count == 0))
                printf("%s at %s\n", item.id, item.audio_path);
        }
        CHECK_OK(cavmae_loader_next(loader, &batch));
        CHECK(batch && batch->count == 6 && batch->audio && batch->image);
        cavmae_loader_free(loader);
    }
    CHECK_STATUS(open_loader(context, "", in_directory("empty"), NULL, &loader), CAVMAE_E_FORMAT);
    CHECK_STATUS(open_loader(context, "", in_directory("media"), in_directory("labels.csv"), &loader), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "has no labels"));
    CHECK_OK(pack(context, "", in_directory("media"), NULL, in_directory("folder.cavmaepack"), NULL));
    CHECK_OK(open_loader(context, "batch=6", in_directory("folder.cavmaepack"), NULL, &loader));
    CHECK_OK(cavmae_loader_item_at(loader, 4, &item));
    CHECK(!strcmp(item.id, "c.mp4/inner.mkv"));
    cavmae_loader_free(loader);
    if (geteuid() != 0) { /* whom nothing stops */
        chmod(in_directory("media/a/deep"), 0);
        CHECK_STATUS(open_loader(context, "", in_directory("media"), NULL, &loader), CAVMAE_E_IO);
        chmod(in_directory("media/a/deep"), 0777);
    }
    cavmae_context_free(context);
}

static void test_folder_allocations(void) {
    const char *media = in_directory("media");
    failing_allocator allocator = {0};
    for (allocator.fail_at = 1; allocator.fail_at < 1000; allocator.fail_at++) {
        cavmae_context_options options = failing_options(&allocator);
        cavmae_context *context;
        cavmae_loader *loader;
        allocator.calls = -1000000;
        CHECK_OK(cavmae_context_create(&options, &context));
        cavmae_config *config = new_config(context, "");
        allocator.calls = 0;
        cavmae_status status = cavmae_loader_create(config, media, NULL, &loader);
        if (status == CAVMAE_OK) {
            cavmae_loader_item item = {.struct_size = sizeof item};
            status = cavmae_loader_item_at(loader, 0, &item);
            cavmae_loader_free(loader);
        }
        int met = allocator.calls >= allocator.fail_at;
        cavmae_config_free(config);
        cavmae_context_free(context);
        CHECK(allocator.blocks == 0);
        if (!CHECK_STATUS(status, met ? CAVMAE_E_NOMEM : CAVMAE_OK) || !met) break;
    }
    CHECK(allocator.fail_at > 10 && allocator.fail_at < 1000);
}

/* ---- The halves of the contract ---- */

static void test_halves(void) {
    enum { SAMPLES = 4410, SIZE = 32 };
    cavmae_context *context = new_context(1);
    cavmae_config *config = new_config(context, "image_filter=bilinear");
    float pcm[SAMPLES * 2], mono[SAMPLES];
    uint8_t pixels[50 * 40 * 3], small[SIZE * SIZE * 3];
    float direct[SIZE * SIZE * 3], by_halves[SIZE * SIZE * 3];
    cavmae_tensor *half, *rows[2];
    for (int i = 0; i < SAMPLES; i++) {
        mono[i] = pcm[2 * i] = (float)sin(i * 0.05);
        pcm[2 * i + 1] = 0.5f;
    }
    CHECK_OK(cavmae_resample(config, pcm, SAMPLES, 2, 44100, &half));
    CHECK(cavmae_tensor_dims(half) == 1 && labs((long)cavmae_tensor_elements(half) - 1600) <= 1);
    CHECK_OK(cavmae_prepare_audio(config, pcm, SAMPLES, 2, 44100, &rows[0]));
    CHECK_OK(cavmae_prepare_audio(config, cavmae_tensor_data(half), cavmae_tensor_elements(half), 1, 16000, &rows[1]));
    CHECK(!memcmp(cavmae_tensor_data(rows[0]), cavmae_tensor_data(rows[1]), 32 * 16 * sizeof(float)));
    cavmae_tensor_free(half);
    cavmae_tensor_free(rows[0]);
    cavmae_tensor_free(rows[1]);
    CHECK_OK(cavmae_resample(config, mono, SAMPLES, 1, 16000, &half)); /* a copy of its own */
    CHECK(cavmae_tensor_elements(half) == SAMPLES && !memcmp(cavmae_tensor_data(half), mono, sizeof mono) &&
          cavmae_tensor_data(half) != (void *)mono);
    cavmae_tensor_free(half);
    CHECK_STATUS(cavmae_resample(NULL, mono, SAMPLES, 1, 16000, &half), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resample(config, NULL, SAMPLES, 1, 16000, &half), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resample(config, mono, SAMPLES, 1, 16000, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resample(config, mono, SAMPLES, 0, 16000, &half), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resample(config, mono, 100, 1, 16000, &half), CAVMAE_E_ARG); /* under 25 ms */

    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * i % 251);
    CHECK_OK(cavmae_resize_image(config, pixels, 50, 40, 0, small));
    CHECK_OK(cavmae_prepare_image(config, pixels, 50, 40, 0, direct));
    CHECK_OK(cavmae_prepare_image(config, small, SIZE, SIZE, 0, by_halves));
    CHECK(!memcmp(direct, by_halves, sizeof direct));
    tiny_set(config, "image_mean=0,0,0 image_std=1,1,1");
    CHECK_OK(cavmae_prepare_image(config, pixels, 50, 40, 0, direct));
    int equal = 0;
    for (int i = 0; i < SIZE * SIZE; i++)
        for (int c = 0; c < 3; c++) equal += direct[c * SIZE * SIZE + i] == (float)small[3 * i + c] / 255.0f;
    CHECK(equal == SIZE * SIZE * 3);
    /* A picture of the right size with gaps between its rows goes through the filter, which changes nothing. */
    uint8_t wide[SIZE * 100];
    for (int y = 0; y < SIZE; y++) memcpy(wide + y * 100, small + y * SIZE * 3, SIZE * 3);
    CHECK_OK(cavmae_prepare_image(config, wide, SIZE, SIZE, 100, by_halves));
    CHECK(!memcmp(direct, by_halves, sizeof direct));
    CHECK_STATUS(cavmae_resize_image(NULL, pixels, 50, 40, 0, small), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resize_image(config, NULL, 50, 40, 0, small), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resize_image(config, pixels, 50, 40, 0, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resize_image(config, pixels, 0, 40, 0, small), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_resize_image(config, pixels, 50, 40, 149, small), CAVMAE_E_ARG);
    cavmae_config_free(config);
    cavmae_context_free(context);
}

int main(void) {
    make_directory();
    write_file("labels.csv", labels_csv);
    test_folder();
    test_folder_allocations();
    test_halves();
    remove_directory();
    return check_summary("folder");
}
