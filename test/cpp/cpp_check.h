/* What the tests of cavmae.hpp share: checks, a folder, and a model so small that steps take no time. */
#ifndef CAVMAE_TEST_CPP_CHECK_H
#define CAVMAE_TEST_CPP_CHECK_H

#include <cavmae.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <unistd.h>

static std::atomic<int> check_passed, check_failed;

static inline bool check_true(bool good, const char *words, const char *file, int line) {
    (good ? check_passed : check_failed)++;
    if (!good) std::printf("%s:%d: not true: %s (last error: %s)\n", file, line, words, cavmae_last_error());
    return good;
}

#define CHECK(condition) check_true(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

static inline int check_summary(const char *name) {
    std::printf("%s: %d passed, %d failed\n", name, check_passed.load(), check_failed.load());
    return check_failed != 0;
}

static inline bool has(const char *text, const std::string &words) { return std::strstr(text, words.c_str()); }

struct folder {
    std::string path = "/tmp/cavmae-cpp-test-XXXXXX";
    std::vector<std::string> files;
    folder() {
        if (!mkdtemp(&path[0])) std::abort();
    }
    ~folder() {
        for (const std::string &file : files) unlink(file.c_str());
        rmdir(path.c_str());
    }
    std::string operator/(const std::string &name) {
        files.push_back(path + "/" + name);
        return files.back();
    }
};

/* 2 x 4 audio tokens, 3 x 3 visual ones; two clips a batch. */
static const char *const small[][2] = {{"audio_frames", "32"},  {"mel_bins", "16"},      {"patch_size", "8"},
                                       {"image_size", "24"},    {"embed_dim", "16"},     {"num_heads", "2"},
                                       {"modality_depth", "1"}, {"decoder_dim", "12"},   {"decoder_heads", "3"},
                                       {"decoder_depth", "1"},  {"mask_ratio_a", "0.5"}, {"mask_ratio_v", "0.5"},
                                       {"batch", "2"}};
enum { CLIPS = 2, FRAMES = 32, BINS = 16, SIDE = 24, DIM = 16 };

/* Inputs [CLIPS, ...]: a clip's numbers follow from its own number alone. */
struct clips {
    std::vector<float> audio, image;
    explicit clips(int first, int count = CLIPS) {
        for (int i = first; i < first + count; i++) {
            std::uint64_t state = static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15u + 1;
            fill(audio, FRAMES * BINS, state);
            fill(image, 3 * SIDE * SIDE, state);
        }
        input.count = count;
        input.audio = audio.data();
        input.image = image.data();
    }
    cavmae::batch input;

  private:
    static void fill(std::vector<float> &to, int count, std::uint64_t &state) {
        for (int i = 0; i < count; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            to.push_back(static_cast<float>(state >> 40) / 8388608.0f - 1.0f);
        }
    }
};

#ifndef CAVMAE_NO_EXCEPTIONS

/* The call throws an error of that status, whose sentence has these words. */
template <class F> bool fails(cavmae_status status, const char *words, F &&call) {
    try {
        call();
    } catch (const cavmae::error &error) {
        if (error.status() == status && has(error.what(), words)) return true;
        std::printf("%s: \"%s\"\n", cavmae::status_str(error.status()), error.what());
        return false;
    }
    std::printf("no error\n");
    return false;
}

static inline cavmae::config small_config(const cavmae::context &context) {
    cavmae::config config = cavmae::config::create(context, "tiny");
    for (const auto &pair : small) config.set(pair[0], pair[1]);
    return config;
}

static inline cavmae::context one_thread() {
    cavmae::context_options options;
    options.threads = 1;
    return cavmae::context::create(options);
}

#endif

#endif
