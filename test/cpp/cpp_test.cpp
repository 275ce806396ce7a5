/* cavmae.hpp with exceptions: handles free once and in any order, callbacks live as long as they are called, errors carry
 * C's words, and what is computed has C's bits. */
#include "cpp_check.h"

#include <memory>
#include <stdexcept>
#include <type_traits>

static_assert(!std::is_copy_constructible_v<cavmae::model> && !std::is_copy_assignable_v<cavmae::model>);
static_assert(std::is_nothrow_move_constructible_v<cavmae::model> && std::is_nothrow_move_assignable_v<cavmae::model>);
static_assert(std::is_nothrow_move_constructible_v<cavmae::context>);

/* ---- Handles ---- */

struct counts {
    std::atomic<long> taken{0}, given{0};
};

static cavmae::context_options counting(const std::shared_ptr<counts> &count) {
    cavmae::context_options options;
    options.threads = 1;
    options.on_alloc = [count](std::size_t size) { return count->taken++, std::malloc(size); };
    options.on_free = [count](void *memory) { count->given++, std::free(memory); };
    return options;
}

static void test_lifetime() {
    auto count = std::make_shared<counts>();
    const std::weak_ptr<counts> alive = count;
    cavmae::tensor last;
    {
        cavmae::context context = cavmae::context::create(counting(count));
        cavmae::config config = small_config(context);
        cavmae::model model = cavmae::model::create(config);
        context = cavmae::context(); /* before what was made of it */
        config = cavmae::config();
        last = model.parameter(model.parameter_name(0));
    }
    /* A view is all that is left: it keeps model, context and allocator. */
    CHECK(count->taken > 0 && count->given < count->taken);
    CHECK(last.elements() > 0 && last.values<float>().size() == static_cast<std::size_t>(last.elements()));
    last = cavmae::tensor();
    CHECK(count->given == count->taken);
    count.reset();
    CHECK(alive.expired());
}

static void test_moves() {
    auto count = std::make_shared<counts>();
    {
        const cavmae::context context = cavmae::context::create(counting(count));
        cavmae::config first = small_config(context);
        cavmae_config *const raw = first.get();
        cavmae::config second = std::move(first);
        CHECK(!first && second && second.get() == raw); // NOLINT: what is moved from is empty
        cavmae::config third = cavmae::config::create(context);
        const long before = count->given;
        third = std::move(second);
        CHECK(third.get() == raw && count->given > before); /* the one it had is free */
        cavmae::config &same = third;
        third = std::move(same);
        CHECK(third.get() == raw);
        const cavmae::config fourth(third.release(), context.calls());
        CHECK(!third && fourth.get() == raw && fourth.get_i64(CAVMAE_P_EMBED_DIM) == DIM);
        std::vector<cavmae::tensor> many;
        const std::int64_t shape[] = {2, 3};
        for (int i = 0; i < 20; i++) many.push_back(cavmae::tensor::create(context, CAVMAE_FLOAT32, shape));
        CHECK(many[19].shape()[1] == 3 && many[0].values<float>()[5] == 0.0f);
    }
    CHECK(count->given == count->taken);
}

static void test_spans() {
    const std::vector<float> numbers = {1, 2, 3};
    float array[2] = {4, 5};
    const cavmae::span<const float> from_vector = numbers, from_array = array;
    const cavmae::span<float> nothing;
    CHECK(from_vector.size() == 3 && from_vector[2] == 3 && from_array.data() == array && nothing.empty());
    float sum = 0;
    for (const float number : from_vector) sum += number;
    CHECK(sum == 6);
    static_assert(!std::is_convertible_v<const std::vector<float> &, cavmae::span<float>>);
    static_assert(!std::is_convertible_v<std::vector<double> &, cavmae::span<float>>);
    const cavmae::embedding record;
    CHECK(record.struct_size == sizeof(cavmae_embedding) && !record.audio && record.frames == 0);
    CHECK(cavmae::version() == CAVMAE_VERSION_NUMBER && has(cavmae::version_string(), "1.") &&
          has(cavmae::build_info(), "version="));
}

/* ---- Errors and callbacks ---- */

static void test_errors(folder &in) {
    cavmae::context context = one_thread();
    CHECK(fails(CAVMAE_E_IO, "no-such-model", [&] { cavmae::model::load(context, in / "no-such-model"); }));
    CHECK(has(cavmae::last_error(), "no-such-model"));
    CHECK(fails(CAVMAE_E_NOT_FOUND, "no_such_key", [&] { cavmae::config::create(context).set("no_such_key", "1"); }));
    CHECK(fails(CAVMAE_E_ARG, "", [&] { cavmae::config::create(cavmae::context()); }));
    CHECK(fails(CAVMAE_E_NOT_FOUND, "", [] { cavmae::config::key_info(100000); }));
    CHECK(has(cavmae::config::key_info(0).name, "image_size"));
    const std::string text = std::string("as ") + "std::string";
    CHECK(fails(CAVMAE_E_NOT_FOUND, "as std::string", [&] { cavmae::config::create(context, text); }));
    cavmae::context_options options;
    options.device = "no device";
    CHECK(fails(CAVMAE_E_ARG, "no device", [&] { cavmae::context::create(options); }));
    CHECK(has(context.device(), "cpu") && has(context.device_info(), "cpu") && context.threads() == 1);
    CHECK(cavmae::memory_required(small_config(context), CAVMAE_TASK_EMBED, 2).total > 0);
}

static void test_callbacks() {
    std::string said;
    int asked = 0;
    bool stop = false;
    cavmae::context_options options;
    options.threads = 1;
    options.log_level = CAVMAE_LOG_DEBUG;
    options.on_log = [&](std::int32_t, const char *message) {
        said += message;
        throw std::runtime_error("out of a log callback");
    };
    options.on_cancel = [&] {
        asked++;
        if (stop) throw 1;
        return false;
    };
    options.on_progress = [](const char *, std::int64_t, std::int64_t) {};
    cavmae::model model;
    {
        const cavmae::context context = cavmae::context::create(options);
        options = cavmae::context_options(); /* the context has its own */
        model = cavmae::model::create(small_config(context));
    }
    clips two(0);
    std::vector<float> audio(CLIPS * DIM);
    cavmae::embedding out;
    out.audio = audio.data();
    model.embed(two.input, out);
    CHECK(asked > 0);
    stop = true;
    CHECK(fails(CAVMAE_E_CANCELLED, "", [&] { model.embed(two.input, out); }));
}

/* ---- Tensors and files ---- */

static void test_tensors(folder &in) {
    const cavmae::context context = one_thread();
    float numbers[] = {1, 2, 3, 4, 5, 6};
    const std::vector<std::int64_t> shape = {2, 3};
    int released = 0;
    {
        cavmae::tensor tensor =
            cavmae::tensor::wrap(context, numbers, CAVMAE_FLOAT32, shape, [&released] { released++; });
        CHECK(tensor.data() == numbers && tensor.dims() == 2 && tensor.dtype() == CAVMAE_FLOAT32);
        CHECK(tensor.values<float>()[5] == 6 && tensor.values<const float>().size() == 6);
        CHECK(fails(CAVMAE_E_SHAPE, "dtype", [&] { tensor.values<double>(); }));
        tensor.save_npy(in / "numbers.npy");

        const std::vector<cavmae::named_tensor> named = {{"x", &tensor}, {"y", &tensor}};
        const std::vector<cavmae::named_text> words = {{"key", "value"}};
        cavmae::safetensors::save(context, in / "numbers.safetensors", named, words);
        cavmae::torch::save(context, in / "numbers.pth", named);

        const cavmae::tensor back = cavmae::tensor::from_dlpack(context, tensor.to_dlpack());
        CHECK(back.data() == numbers);
        tensor = cavmae::tensor();
        CHECK(released == 0); /* back is a view of it */
    }
    CHECK(released == 1);
    const std::vector<std::int64_t> negative = {-1};
    CHECK(fails(CAVMAE_E_SHAPE, "", [&] {
        cavmae::tensor::wrap(context, numbers, CAVMAE_FLOAT32, negative, [&released] { released++; });
    }));
    CHECK(released == 1);

    cavmae::safetensors file = cavmae::safetensors::open(context, in.path + "/numbers.safetensors");
    CHECK(file.count() == 2 && has(file.name(1), "y") && !file.name(2) && has(file.metadata("key"), "value"));
    CHECK(file.get_tensor("y").values<float>()[3] == 4);
    CHECK(fails(CAVMAE_E_NOT_FOUND, "z", [&] { file.get_tensor("z"); }));
    cavmae::torch pickled = cavmae::torch::open(context, in.path + "/numbers.pth");
    CHECK(pickled.count() == 2 && has(pickled.name(0), "x") && pickled.get_tensor("x").values<float>()[5] == 6);
}

/* ---- Embedding ---- */

static void test_embedding(folder &in) {
    cavmae::context context = one_thread();
    const std::string path = in / "model.safetensors";
    cavmae::model made = cavmae::model::create(small_config(context));
    made.save(path);
    const clips two(7);

    std::vector<float> audio(CLIPS * DIM), visual(audio), joint(audio), c_audio(audio), c_visual(audio), c_joint(audio);
    cavmae::load_report report;
    const cavmae::model model = cavmae::model::load(context, path, 0, &report);
    CHECK(report.matched == made.parameter_count() && report.missing == 0);
    CHECK(model.configuration().get_i64(CAVMAE_P_EMBED_DIM) == DIM);
    cavmae::embedding out;
    out.audio = audio.data();
    out.visual = visual.data();
    out.joint = joint.data();
    model.embed(two.input, out);

    cavmae_context *c_context = nullptr;
    cavmae_model *c_model = nullptr;
    CHECK(cavmae_context_create(nullptr, &c_context) == CAVMAE_OK &&
          cavmae_model_load(c_context, path.c_str(), 0, nullptr, &c_model) == CAVMAE_OK);
    out.audio = c_audio.data();
    out.visual = c_visual.data();
    out.joint = c_joint.data();
    CHECK(cavmae_embed(c_model, &two.input, &out) == CAVMAE_OK);
    cavmae_model_free(c_model);
    cavmae_context_free(c_context);
    const auto same = [](const std::vector<float> &a, const std::vector<float> &b) {
        return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    CHECK(same(audio, c_audio) && same(visual, c_visual) && same(joint, c_joint));
    CHECK(audio[0] != 0 && !same(audio, visual));

    const std::string average = in / "average.safetensors";
    cavmae::average_models(context, std::vector<std::string>{path, path}, average);
    CHECK(cavmae::model::load(context, average).elements() == made.elements());
    std::vector<float> values(static_cast<std::size_t>(made.parameter(made.parameter_name(0)).elements()), 0.5f);
    made.set_parameter(made.parameter_name(0), values);
    CHECK(made.parameter(made.parameter_name(0)).values<float>()[0] == 0.5f);

    std::vector<float> heat(CLIPS * 3 * 3), painted(CLIPS * FRAMES * BINS), large(24 * 24);
    model.localize(two.input, heat.data());
    cavmae::heatmap_resize(heat, 3, 3, 24, 24, large);
    CHECK(heat[0] <= 1 && large[0] == heat[0]);
    CHECK(fails(CAVMAE_E_SHAPE, "heat", [&] { cavmae::heatmap_resize(heat, 5, 5, 24, 24, large); }));
    cavmae::inpainting paint;
    paint.audio = painted.data();
    model.inpaint(two.input, 0, paint);
    CHECK(painted[0] != 0 && paint.loss_a > 0);
}

/* ---- Media, by a decoder of the caller's ---- */

/* Two seconds of a ramp, and grey pictures. "bad": an exception. */
static cavmae::decoder made_up(const std::shared_ptr<int> &alive) {
    cavmae::decoder media;
    media.probe = [alive](const cavmae_source &from, cavmae_media_info &info, std::string &) -> cavmae_status {
        if (has(from.path, "bad")) throw std::runtime_error("the bad file");
        info.audio_channels = 1;
        info.audio_rate = 16000;
        info.width = info.height = SIDE;
        info.seconds = 2;
        info.frame_rate = 10;
        return CAVMAE_OK;
    };
    media.audio = [](const cavmae_source &, const cavmae::audio_sink &sink, std::string &) {
        std::vector<float> pcm(32000);
        for (std::size_t i = 0; i < pcm.size(); i++) pcm[i] = static_cast<float>(i % 100) / 100.0f - 0.5f;
        return sink(pcm, 1, 16000);
    };
    media.frames = [](const cavmae_source &from, cavmae::span<const double> seconds, const cavmae::frame_sink &sink,
                      std::string &sentence) -> cavmae_status {
        if (has(from.path, "blind")) return sentence = "no pictures in blind", CAVMAE_E_MEDIA;
        const std::vector<std::uint8_t> grey(3 * SIDE * SIDE, 100);
        for (std::size_t i = 0; i < seconds.size(); i++) {
            const cavmae_status status = sink(static_cast<std::int32_t>(i), grey.data(), SIDE, SIDE, 3 * SIDE);
            if (status != CAVMAE_OK) return status;
        }
        return CAVMAE_OK;
    };
    return media;
}

static void test_media() {
    auto alive = std::make_shared<int>(0);
    const std::weak_ptr<int> watched = alive;
    cavmae::context context = one_thread();
    cavmae::model model = cavmae::model::create(small_config(context)); /* before the decoder is there */
    context.set_decoder(made_up(alive));
    alive.reset();
    CHECK(cavmae::media_probe(context, "clip").audio_rate == 16000);
    CHECK(fails(CAVMAE_E_MEDIA, "the bad file", [&] { cavmae::media_probe(context, "bad"); }));
    cavmae::source from;
    from.path = "clip";
    CHECK(cavmae::media_probe(context, from).seconds == 2);
    CHECK(cavmae::media_audio(context, from).samples.elements() == 32000);
    CHECK(cavmae::media_audio(context, "clip").rate == 16000);
    const double seconds[] = {0, 1};
    CHECK(cavmae::media_frames(context, "clip", seconds).values<std::uint8_t>()[0] == 100);
    CHECK(fails(CAVMAE_E_MEDIA, "no pictures in blind", [&] { cavmae::media_frames(context, "blind", seconds); }));
    CHECK(cavmae::media_frames(context, from, seconds).shape()[0] == 2);

    context = cavmae::context(); /* the model keeps the decoder */
    CHECK(!watched.expired());
    std::vector<float> audio(DIM), visual(DIM);
    cavmae::embedding out;
    out.audio = audio.data();
    out.visual = visual.data();
    model.embed_file("clip", out);
    model.embed_source(from, out);
    CHECK(audio[0] != 0 && visual[0] != 0);

    int windows = 0;
    const auto count = [&](std::int64_t index, double start, double end, const cavmae_embedding &filled) {
        CHECK(index == windows && end > start && filled.audio == audio.data());
        windows++;
        return cavmae_status(CAVMAE_OK);
    };
    model.embed_windows(from, cavmae::window_options(), out, count);
    CHECK(windows >= 6); /* of 0.32 s each */
    cavmae::window_options pooled;
    pooled.pool = 1;
    model.embed_windows(from, pooled, out);
    struct own_exception {};
    bool caught = false;
    try {
        model.embed_windows(
            from, cavmae::window_options(), out,
            [](std::int64_t, double, double, const cavmae_embedding &) -> cavmae_status { throw own_exception(); });
    } catch (const own_exception &) {
        caught = true;
    }
    CHECK(caught);
    CHECK(fails(CAVMAE_E_STATE, "", [&] {
        model.embed_windows(from, cavmae::window_options(), out,
                            [](std::int64_t, double, double, const cavmae_embedding &) { return CAVMAE_E_STATE; });
    }));
    model = cavmae::model();
    CHECK(watched.expired());
}

static void test_front_end() {
    const cavmae::context context = one_thread();
    const cavmae::config config = small_config(context);
    std::vector<float> pcm(16000), rows(static_cast<std::size_t>(cavmae::fbank_frames(16000, 16000)) * 16);
    for (std::size_t i = 0; i < pcm.size(); i++) pcm[i] = static_cast<float>(i % 64) / 64.0f - 0.5f;
    cavmae::fbank(context, pcm, 16000, 16, rows);
    CHECK(rows[0] != 0);
    CHECK(fails(CAVMAE_E_SHAPE, "fbank", [&] { cavmae::fbank(context, pcm, 16000, 17, rows); }));
    CHECK(cavmae::prepare_audio(config, pcm, 1, 16000).shape()[0] == FRAMES);
    CHECK(cavmae::resample(config, pcm, 1, 16000).elements() == 16000);
    const std::vector<std::uint8_t> pixels(30 * 40 * 3, 7);
    std::vector<float> picture(3 * SIDE * SIDE);
    std::vector<std::uint8_t> resized(3 * SIDE * SIDE);
    cavmae::prepare_image(config, pixels, 30, 40, 0, picture);
    cavmae::resize_image(config, pixels, 30, 40, 90, resized);
    CHECK(resized[0] == 7 && picture[0] < 0);
    CHECK(fails(CAVMAE_E_SHAPE, "too short", [&] { cavmae::prepare_image(config, pixels, 30, 41, 0, picture); }));
    CHECK(fails(CAVMAE_E_SHAPE, "too short", [&] { cavmae::resize_image(config, pixels, 30, 40, 91, resized); }));
    resized.pop_back();
    CHECK(fails(CAVMAE_E_SHAPE, "too short", [&] { cavmae::resize_image(config, pixels, 30, 40, 0, resized); }));
}

/* ---- Data, search, metrics ---- */

static void test_data(folder &in) {
    const cavmae::context context = one_thread();
    const cavmae::config config = small_config(context);
    const std::string manifest = in / "manifest.json";
    if (FILE *file = std::fopen(manifest.c_str(), "w")) {
        std::fputs("{\"data\": [{\"wav\": \"a.wav\", \"video_id\": \"a\"}, {\"wav\": \"b.wav\", \"video_id\": \"b\"}]}",
                   file);
        std::fclose(file);
    }
    cavmae::loader loader = cavmae::loader::create(config, manifest);
    CHECK(loader.count() == 2 && loader.batches() == 1 && loader.classes() == 0 && loader.broken() == 0);
    CHECK(has(loader.item_at(1).id, "b") && !loader.class_name(0) && loader.epoch() == 0);
    loader.seek(2);
    CHECK(loader.next() == nullptr);
    CHECK(fails(CAVMAE_E_ARG, "manifest", [&] { loader.item_at(2); }));
    CHECK(fails(CAVMAE_E_IO, "a.wav", [&] { cavmae::pack(config, manifest, nullptr, in / "pack"); }));
    CHECK(fails(CAVMAE_E_IO, "none", [&] { cavmae::pack_info(context, in / "none"); }));
}

static void test_search(folder &in) {
    const cavmae::context context = one_thread();
    cavmae::index index = cavmae::index::create(context, 2);
    const std::vector<float> rows = {1, 0, 0, 1, 1, 1};
    std::vector<std::int64_t> ids(2);
    std::vector<float> scores(2);
    index.add(rows);
    CHECK(index.count() == 3 && index.dim() == 2);
    index.search(cavmae::span<const float>(rows.data(), 2), 2, ids, scores);
    CHECK(ids[0] == 0 && ids[1] == 2 && scores[0] == 1);
    index.search_world(cavmae::world(), cavmae::span<const float>(rows.data() + 2, 2), 2, ids, scores);
    CHECK(ids[0] == 1);
    CHECK(fails(CAVMAE_E_SHAPE, "search", [&] { index.search(rows, 2, ids, scores); }));
    CHECK(fails(CAVMAE_E_SHAPE, "add", [&] { index.add(cavmae::span<const float>(rows.data(), 3)); }));
    const std::string path = in / "index";
    index.save(path);
    CHECK(cavmae::index::load(context, path).count() == 3);
    std::int64_t first = -1;
    CHECK(cavmae::index::load_part(context, path, 0, 1, &first).count() == 3 && first == 0);

    const float similarity[] = {3, 2, 1, 1, 2, 3, 1, 2, 3};
    CHECK(cavmae::retrieval_from_similarity(similarity, 3).r1 == 2.0 / 3);
    CHECK(fails(CAVMAE_E_SHAPE, "count", [&] { cavmae::retrieval_from_similarity(similarity, 4); }));
    CHECK(cavmae::retrieval_from_embeddings(context, rows, rows, 2, CAVMAE_TIES_MEAN).mean_rank == 1);
    const float score[] = {0.9f, 0.1f, 0.2f, 0.8f}, target[] = {1, 0, 0, 1};
    std::vector<double> precision(2);
    CHECK(cavmae::classification_metrics(context, score, target, 2, precision).mean_average_precision == 1);
    CHECK(precision[1] == 1);
    const std::int64_t right[] = {0, 0};
    CHECK(cavmae::top1_accuracy(score, right, 2) == 0.5);
    CHECK(cavmae::topk_accuracy(context, score, right, 2, 2).accuracy == 1);
    const float heat[] = {1, 0, 0, 0};
    const std::vector<std::array<double, 4>> boxes = {{0, 0, 1, 1}};
    std::vector<double> iou(1);
    CHECK(cavmae::localization_from_boxes(context, heat, 1, 2, 2, 2, 2, boxes, {}, 0.5, iou).mean_iou == 1);
    CHECK(fails(CAVMAE_E_SHAPE, "boxes",
                [&] { (void)cavmae::localization_from_boxes(context, heat, 1, 2, 2, 2, 2, {}, {}, 0.5); }));
}

int main() {
    folder in;
    try {
        test_lifetime();
        test_moves();
        test_spans();
        test_errors(in);
        test_callbacks();
        test_tensors(in);
        test_embedding(in);
        test_media();
        test_front_end();
        test_data(in);
        test_search(in);
    } catch (const std::exception &exception) {
        std::printf("an exception that no test expects: %s\n", exception.what());
        check_failed++;
    }
    return check_summary("cpp_test");
}
