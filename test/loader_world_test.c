/* Loaders of a world: their shares of a batch, put together, are the batch that one loader alone gives. */
#define _GNU_SOURCE
#include "loading.h"

enum { MOST_RANKS = 5 };

/* The loaders of all ranks; settings: pairs of name and value up to NULL. */
typedef struct ranks {
    int32_t size;
    cavmae_context *contexts[MOST_RANKS];
    cavmae_loader *loaders[MOST_RANKS];
} ranks;

static cavmae_config *config_of(cavmae_context *context, const char *const *settings) {
    cavmae_config *config = new_config(context, NULL);
    for (; *settings; settings += 2) CHECK_OK(cavmae_config_set(config, settings[0], settings[1]));
    return config;
}

static ranks open_ranks(int32_t size, const char *manifest, const char *labels, const char *const *settings) {
    ranks all = {.size = size};
    cavmae_world *worlds[MOST_RANKS] = {NULL};
    for (int32_t r = 0; r < size; r++) all.contexts[r] = new_context();
    CHECK_OK(cavmae_world_create_threads(all.contexts, size, NULL, worlds));
    for (int32_t r = 0; r < size; r++) {
        cavmae_config *config = config_of(all.contexts[r], settings);
        CHECK_OK(cavmae_config_set_world(config, worlds[r]));
        all.loaders[r] = loader_of(config, manifest, labels);
    }
    for (int32_t r = 0; r < size; r++) cavmae_world_free(worlds[r]);
    return all;
}

static void close_ranks(ranks *all) {
    for (int32_t r = 0; r < all->size; r++) cavmae_loader_free(all->loaders[r]);
    for (int32_t r = 0; r < all->size; r++) cavmae_context_free(all->contexts[r]);
}

/* ---- Comparing ---- */

static int64_t sound_before(const cavmae_batch *batch, int32_t clip) {
    int64_t frames = 0;
    for (int32_t i = 0; i < clip; i++) frames += batch->audio_frames ? batch->audio_frames[i] : FRAMES;
    return frames * BINS;
}

static int same_floats(const float *a, const float *b, int64_t count) {
    return !a == !b && (!a || memcmp(a, b, (size_t)count * sizeof *a) == 0);
}

/* Clips first .. of `whole` are the share's, bit for bit. */
static int is_part(const cavmae_batch *share, const cavmae_batch *whole, int32_t first) {
    int64_t at = sound_before(whole, first), sound = sound_before(whole, first + share->count) - at;
    int64_t picture = (int64_t)(whole->frames ? whole->frames : 1) * 3 * PIXELS, classes = whole->classes;
    size_t count = (size_t)share->count;
    return share->frames == whole->frames && share->classes == whole->classes &&
           memcmp(share->samples, whole->samples + first, count * sizeof *share->samples) == 0 &&
           !share->audio_frames == !whole->audio_frames &&
           (!share->audio_frames ||
            memcmp(share->audio_frames, whole->audio_frames + first, count * sizeof *share->audio_frames) == 0) &&
           same_floats(share->audio, whole->audio ? whole->audio + at : NULL, sound) &&
           same_floats(share->image, whole->image ? whole->image + first * picture : NULL, share->count * picture) &&
           same_floats(share->labels, whole->labels ? whole->labels + first * classes : NULL, share->count * classes);
}

/* The next batch of all ranks is the one that `whole` gives next; 0 at the end of the epoch. */
static int compare_batch(const ranks *all, cavmae_loader *whole) {
    const cavmae_batch *expected = next(whole);
    int64_t epoch[2], position[2], broken[2], world = expected ? expected->count : 0;
    cavmae__loader_state(whole, &epoch[0], &position[0], &broken[0]);
    for (int32_t r = 0; r < all->size; r++) {
        const cavmae_batch *share = next(all->loaders[r]);
        CHECK(!share == !expected && cavmae_loader_epoch(all->loaders[r]) == cavmae_loader_epoch(whole));
        cavmae__loader_state(all->loaders[r], &epoch[1], &position[1], &broken[1]);
        CHECK(epoch[0] == epoch[1] && position[0] == position[1]);
        if (!share || !expected) continue;
        int64_t first = world * r / all->size;
        CHECK(share->world_count == world && share->count == world * (r + 1) / all->size - first);
        CHECK(is_part(share, expected, (int32_t)first));
    }
    return expected != NULL;
}

static void compare_epochs(const char *manifest, const char *labels, const char *const *settings) {
    static const int32_t sizes[] = {1, 2, 3, 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ranks all = open_ranks(sizes[i], manifest, labels, settings);
        cavmae_context *context = new_context();
        cavmae_loader *whole = loader_of(config_of(context, settings), manifest, labels);
        for (int32_t r = 0; r < all.size; r++)
            CHECK(cavmae_loader_count(all.loaders[r]) == cavmae_loader_count(whole) &&
                  cavmae_loader_batches(all.loaders[r]) == cavmae_loader_batches(whole));
        for (int epoch = 0; epoch < 2; epoch++) {
            int64_t batches = 0;
            while (compare_batch(&all, whole)) batches++;
            CHECK(batches == cavmae_loader_batches(whole));
        }
        cavmae_loader_free(whole);
        cavmae_context_free(context);
        close_ranks(&all);
    }
}

/* ---- Tests ---- */

static void test_shares(void) {
    const char *manifest = write_manifest("all.json", 17, 0), *labels = write_file("labels.csv", labels_csv);
    compare_epochs(manifest, NULL, (const char *[]){NULL});
    compare_epochs(manifest, NULL, (const char *[]){"batch", "7", "drop_last", "0", "loader_threads", "3", NULL});
    compare_epochs(manifest, NULL, (const char *[]){"batch", "3", "drop_last", "0", "queue", "1", NULL});
    compare_epochs(manifest, NULL, (const char *[]){"batch", "1", "shuffle", "0", NULL});
    compare_epochs(manifest, labels,
                   (const char *[]){"mixup", "0.5", "noise", "1", "roll", "1", "frame", "-2", "freq_mask", "48",
                                    "time_mask", "50", "drop_last", "0", "batch", "6", NULL});
    compare_epochs(manifest, labels, (const char *[]){"balanced", "1", "mixup", "0.5", "noise", "1", NULL});
    compare_epochs(manifest, NULL,
                   (const char *[]){"shuffle_pairs", "1", "audio_length", "native", "frame", "-3", NULL});
    compare_epochs(manifest, NULL, (const char *[]){"modalities", "v", "drop_last", "0", NULL});
}

/* A rank decodes its share and what it reads ahead of that, sound and picture of each clip, and nothing else. */
static void test_reads_own(void) {
    enum { READ_AHEAD = 2 * 5 + 4 }; /* with one thread, and one batch in the queue beside the one that is made */
    ranks all = open_ranks(5, write_manifest("own.json", 25, 0), NULL,
                           (const char *[]){"batch", "25", "loader_threads", "1", "queue", "1", NULL});
    decoded = 0;
    const cavmae_batch *batch = next(all.loaders[4]);
    CHECK(batch && batch->count == 5);
    close_ranks(&all);
    CHECK(decoded >= 2 * 5 && decoded <= 2 * (5 + READ_AHEAD));
}

/* From each place of one world another one, of another size, goes on. */
static void test_resume(void) {
    static const char *const settings[] = {"batch", "4", "drop_last", "0", "noise", "1", "mixup", "0.5", NULL};
    const char *manifest = write_manifest("resume.json", 11, 0);
    for (int32_t stop = 0; stop < 9; stop++) {
        ranks first = open_ranks(3, manifest, NULL, settings), second = open_ranks(2, manifest, NULL, settings);
        cavmae_context *context = new_context();
        cavmae_loader *whole = loader_of(config_of(context, settings), manifest, NULL);
        int64_t epoch, position, broken;
        (void)next(second.loaders[1]); /* it is somewhere already */
        for (int32_t call = 0; call < stop; call++) (void)compare_batch(&first, whole);
        cavmae__loader_state(first.loaders[0], &epoch, &position, &broken);
        for (int32_t r = 0; r < 2; r++) CHECK_OK(cavmae__loader_set_state(second.loaders[r], epoch, position, broken));
        for (int call = 0; call < 5; call++) (void)compare_batch(&second, whole);
        cavmae_loader_free(whole);
        cavmae_context_free(context);
        close_ranks(&first);
        close_ranks(&second);
    }
}

/* ---- Broken samples ---- */

/* A broken sample's place is taken by the next one that can be read, whatever the world's size. */
static void test_skip(void) {
    enum { COUNT = 13 };
    static const char *const settings[] = {"broken", "skip", "batch", "6", "drop_last", "0", "noise", "1", NULL};
    const uint64_t bad = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 12;
    const char *some = write_manifest("some.json", COUNT, bad);
    int64_t order[COUNT];
    cavmae_context *context = new_context();
    cavmae_loader *loader = LOADER(context, write_manifest("whole.json", COUNT, 0), NULL, "drop_last", "0");
    CHECK(take_epoch(loader, order) == COUNT);
    cavmae_loader_free(loader);
    cavmae_context_free(context);
    for (int32_t size = 1; size <= MOST_RANKS; size += 2) {
        ranks one = open_ranks(1, some, NULL, settings), all = open_ranks(size, some, NULL, settings);
        int64_t at = 0, broken = 0;
        const cavmae_batch *expected;
        warnings = 0;
        while ((expected = next(one.loaders[0]))) {
            CHECK(expected->count == (at < 12 ? 6 : 1));
            for (int32_t i = 0; i < expected->count; i++) {
                int64_t entry = order[at + i];
                while (bad >> entry & 1) entry = (entry + 1) % COUNT;
                CHECK(expected->samples[i] == entry);
            }
            for (int32_t r = 0; r < size; r++) {
                const cavmae_batch *share = next(all.loaders[r]);
                int64_t first = expected->count * r / size;
                CHECK(share && share->world_count == expected->count && is_part(share, expected, (int32_t)first));
            }
            at += expected->count;
        }
        CHECK(at == COUNT && cavmae_loader_broken(one.loaders[0]) == 4);
        for (int32_t r = 0; r < size; r++) {
            CHECK(!next(all.loaders[r]));
            broken += cavmae_loader_broken(all.loaders[r]);
        }
        CHECK(broken == 4 && warnings >= 8);
        close_ranks(&one);
        close_ranks(&all);
    }
}

/* Where what is mixed in is broken, the next entry is not mixed with the same again. */
static void test_skip_mixed(void) {
    static const char *const balanced[] = {"0", "1"};
    const char *manifest = write_manifest("mixed.json", 12, 1 << 2 | 1 << 3),
               *labels = write_file("labels.csv", labels_csv);
    for (int i = 0; i < 2; i++) {
        const char *const settings[] = {"broken", "skip", "mixup",    "1",         "batch", "12",
                                        "noise",  "1",    "balanced", balanced[i], NULL};
        ranks one = open_ranks(1, manifest, labels, settings), all = open_ranks(3, manifest, labels, settings);
        for (int call = 0; call < 16; call++) {
            const cavmae_batch *expected = next(one.loaders[0]);
            CHECK((expected == NULL) == call % 2 && (!expected || expected->count == 12));
            for (int32_t r = 0; r < 3; r++) {
                const cavmae_batch *share = next(all.loaders[r]);
                CHECK(!share == !expected && (!share || is_part(share, expected, 4 * r)));
            }
        }
        CHECK(cavmae_loader_broken(one.loaders[0]) > 0);
        close_ranks(&one);
        close_ranks(&all);
    }
}

static void test_errors(void) {
    const cavmae_batch *batch = NULL;
    ranks all = open_ranks(2, write_manifest("none.json", 5, 31), NULL, (const char *[]){"broken", "skip", NULL});
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(cavmae_loader_next(all.loaders[1], &batch), CAVMAE_E_FORMAT);
        CHECK(!batch && strstr(cavmae_last_error(), "made to be broken") &&
              strstr(cavmae_last_error(), "none of the manifest's 5 entries"));
    }
    close_ranks(&all);

    /* Only the rank whose share has the broken sample fails. */
    all = open_ranks(2, write_manifest("error.json", 8, 1 << 3), NULL, (const char *[]){"shuffle", "0", NULL});
    CHECK(next(all.loaders[0])->count == 2);
    CHECK_STATUS(cavmae_loader_next(all.loaders[1], &batch), CAVMAE_E_MEDIA);
    CHECK(!batch && strstr(cavmae_last_error(), "entry 3 (id3): "));
    decode_mended = 1;
    cavmae_status status = cavmae_loader_next(all.loaders[1], &batch);
    if (status != CAVMAE_OK) status = cavmae_loader_next(all.loaders[1], &batch);
    CHECK(status == CAVMAE_OK && batch && batch->samples[0] == 2 && batch->samples[1] == 3);
    decode_mended = 0;
    close_ranks(&all);
}

int main(void) {
    make_directory();
    test_shares();
    test_reads_own();
    test_resume();
    test_skip();
    test_skip_mixed();
    test_errors();
    remove_directory();
    return check_summary("loader_world");
}
