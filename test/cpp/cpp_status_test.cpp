/* cavmae.hpp with status in the place of exceptions: nothing is thrown, also where the compiler has no exceptions. */
#ifndef CAVMAE_NO_EXCEPTIONS
#define CAVMAE_NO_EXCEPTIONS
#endif
#include "cpp_check.h"

#include <utility>

static void test_results(folder &in) {
    auto none = cavmae::model::load(*cavmae::context::create(), in / "no-such-model");
    CHECK(!none && none.code() == CAVMAE_E_IO && has(none.what(), "no-such-model") && !*none);

    auto context = cavmae::context::create();
    CHECK(context && context.code() == CAVMAE_OK && context.what()[0] == 0 && context->threads() > 0);
    auto config = cavmae::config::create(*context, "tiny");
    if (!CHECK(config)) return;
    for (const auto &pair : small) CHECK(config->set(pair[0], pair[1]));
    const cavmae::result<void> unknown = config->set("no_such_key", "1");
    CHECK(!unknown && unknown.code() == CAVMAE_E_NOT_FOUND && has(unknown.what(), "no_such_key"));
    CHECK(*config->get_i64(CAVMAE_P_EMBED_DIM) == DIM);

    auto made = cavmae::model::create(*config);
    if (!CHECK(made)) return;
    cavmae::model model = *std::move(made); /* out of its result */
    CHECK(model && !*made);
    auto optimizer = cavmae::optimizer::create(model, *config);
    auto trainer = cavmae::trainer::create(model, *optimizer, *config);
    if (!CHECK(optimizer && trainer)) return;
    for (int i = 0; i < 2; i++) {
        const auto step = trainer->pretrain_step(clips(i).input);
        CHECK(step && step->step == i + 1 && step->loss > 0);
    }
    CHECK(trainer->finetune_step(clips(0).input).code() == CAVMAE_E_STATE);

    std::vector<float> heat(4), large(3);
    const auto short_one = cavmae::heatmap_resize(heat, 2, 2, 4, 4, large);
    CHECK(short_one.code() == CAVMAE_E_SHAPE && has(short_one.what(), "heatmap_resize"));
    const std::int64_t shape[] = {3};
    auto tensor = cavmae::tensor::create(*context, CAVMAE_INT64, shape);
    CHECK(tensor && tensor->values<std::int64_t>() && !tensor->values<float>());
    CHECK((*tensor->values<std::int64_t>()).size() == 3);

    std::vector<cavmae::context> contexts;
    contexts.push_back(*std::move(context));
    auto worlds = cavmae::world::create_threads(contexts);
    CHECK(worlds && worlds->size() == 1 && (*worlds)[0].barrier());
}

int main() {
    {
        folder in;
        test_results(in);
    }
    return check_summary("cpp_status_test");
}
