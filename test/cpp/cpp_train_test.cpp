/* Training through cavmae.hpp: C's losses, the same parameters on every rank of a world, and worlds over the program's own
 * functions. */
#include "cpp_check.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

/* ---- Alone ---- */

static std::vector<double> c_losses() {
    cavmae_context *context = nullptr;
    cavmae_config *config = nullptr;
    cavmae_model *model = nullptr;
    cavmae_optimizer *optimizer = nullptr;
    cavmae_trainer *trainer = nullptr;
    CHECK(cavmae_context_create(nullptr, &context) == CAVMAE_OK &&
          cavmae_config_create(context, "tiny", &config) == CAVMAE_OK);
    for (const auto &pair : small) CHECK(cavmae_config_set(config, pair[0], pair[1]) == CAVMAE_OK);
    CHECK(cavmae_model_create(config, &model) == CAVMAE_OK &&
          cavmae_optimizer_create(model, config, &optimizer) == CAVMAE_OK &&
          cavmae_trainer_create(model, optimizer, config, &trainer) == CAVMAE_OK);
    std::vector<double> losses;
    for (int step = 0; step < 2; step++) {
        cavmae_step_result result = {};
        result.struct_size = sizeof result;
        const clips two(step * CLIPS);
        CHECK(cavmae_pretrain_step(trainer, &two.input, &result) == CAVMAE_OK);
        losses.push_back(result.loss);
    }
    cavmae_trainer_free(trainer);
    cavmae_optimizer_free(optimizer);
    cavmae_model_free(model);
    cavmae_config_free(config);
    cavmae_context_free(context);
    return losses;
}

static void test_training(folder &in) {
    const std::vector<double> expected = c_losses();
    const cavmae::context context = one_thread();
    const cavmae::config config = small_config(context);
    cavmae::model model = cavmae::model::create(config);
    cavmae::optimizer optimizer = cavmae::optimizer::create(model, config);
    cavmae::trainer trainer = cavmae::trainer::create(model, optimizer, config);
    const std::string checkpoint = in / "checkpoint.safetensors";
    CHECK(trainer.pretrain_step(clips(0).input).loss == expected[0]);
    trainer.checkpoint_save(checkpoint);
    CHECK(trainer.pretrain_step(clips(CLIPS).input).loss == expected[1]);
    CHECK(optimizer.updates() == 2 && optimizer.lr() == config.get_f64(CAVMAE_P_LR));
    CHECK(trainer.output(CAVMAE_OUT_MASK_A).shape()[0] == CLIPS);
    CHECK(trainer.gradient(model.parameter_name(model.parameter_count() - 1)).elements() > 0);
    CHECK(fails(CAVMAE_E_STATE, "", [&] { (void)trainer.finetune_step(clips(0).input); }));
    /* From the checkpoint the second step is the same again. */
    trainer.checkpoint_load(checkpoint);
    trainer.pretrain_step_unwaited(clips(CLIPS).input);
    CHECK(trainer.last_result().loss == expected[1] && trainer.last_result(false).step == 2);
    cavmae::trainer judge = cavmae::trainer::create(model, config);
    CHECK(judge.pretrain_evaluate(clips(0).input, 3).loss == judge.pretrain_evaluate(clips(0).input, 3).loss);

    /* A head in the decoder's place. */
    cavmae::config tune = config.clone();
    tune.set_i64(CAVMAE_P_CLASSES, 3);
    cavmae::load_report report;
    cavmae::model head = model.adapt(tune, &report);
    CHECK(report.unexpected > 0);
    cavmae::optimizer slow = cavmae::optimizer::create(head, tune);
    slow.group("mlp_head.", 10, 0);
    cavmae::trainer tuner = cavmae::trainer::create(head, slow, tune);
    const float labels[CLIPS * 3] = {1, 0, 0, 0, 1, 0};
    clips labelled(0);
    labelled.input.labels = labels;
    labelled.input.classes = 3;
    CHECK(tuner.finetune_step(labelled.input).updated == 1 && tuner.finetune_evaluate(labelled.input).loss > 0);
    tuner.finetune_step_unwaited(labelled.input);
}

/* ---- In worlds ---- */

static std::vector<float> all_parameters(cavmae::model &model) {
    std::vector<float> all;
    for (std::int64_t i = 0; i < model.parameter_count(); i++) {
        const cavmae::tensor tensor = model.parameter(model.parameter_name(i));
        for (const float value : tensor.values<float>()) all.push_back(value);
    }
    return all;
}

/* Two steps on shares of the batch give both ranks the same parameters. */
static void test_world() {
    std::vector<cavmae::context> contexts;
    for (int i = 0; i < 2; i++) contexts.push_back(one_thread());
    std::vector<cavmae::world> worlds = cavmae::world::create_threads(contexts);
    std::vector<float> parameters[2];
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < 2; rank++)
        threads.emplace_back([&, rank] {
            cavmae::world &world = worlds[rank];
            double sum[1] = {static_cast<double>(rank) + 1};
            world.sum(sum);
            CHECK(sum[0] == 3 && world.size() == 2 && world.rank() == static_cast<int>(rank));
            int mine = world.rank() + 10, all[2];
            world.gather(&mine, all, sizeof mine);
            world.broadcast(&mine, sizeof mine, 1);
            world.barrier();
            CHECK(all[0] == 10 && all[1] == 11 && mine == 11 && has(world.carrier(), "threads"));
            cavmae::config config = small_config(contexts[rank]);
            config.set_world(world);
            cavmae::model model = cavmae::model::create(config);
            cavmae::optimizer optimizer = cavmae::optimizer::create(model, config);
            cavmae::trainer trainer = cavmae::trainer::create(model, optimizer, config);
            for (int step = 0; step < 2; step++)
                trainer.pretrain_step(clips(step * 2 + static_cast<int>(rank), 1).input);
            parameters[rank] = all_parameters(model);
            if (rank == 1)
                world.fail("rank 1 goes home");
            else
                CHECK(fails(CAVMAE_E_PEER, "goes home", [&] { world.barrier(); }));
        });
    for (std::thread &thread : threads) thread.join();
    CHECK(!parameters[0].empty() && parameters[0] == parameters[1]);
}

/* Two threads that swap bytes: what a carrier can be made of. */
class meeting {
  public:
    /* Both ranks' bytes, rank 0's first; empty once it is broken up. */
    std::vector<char> swap(std::size_t rank, const void *mine, std::size_t bytes) {
        std::unique_lock<std::mutex> lock(mutex_);
        const char *const from = static_cast<const char *>(mine);
        const long round = round_;
        given_[rank].assign(from, from + bytes);
        if (++come_ == 2) {
            both_ = given_[0];
            both_.insert(both_.end(), given_[1].begin(), given_[1].end());
            come_ = 0;
            round_++;
            all_here_.notify_all();
        }
        all_here_.wait(lock, [&] { return round_ != round || over_; });
        return round_ != round ? both_ : std::vector<char>();
    }
    void break_up() {
        const std::lock_guard<std::mutex> lock(mutex_);
        over_ = true;
        all_here_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_here_;
    std::vector<char> given_[2], both_;
    long round_ = 0;
    int come_ = 0;
    bool over_ = false;
};

template <class T> static void add_halves(std::vector<char> &both) {
    const std::size_t count = both.size() / 2 / sizeof(T);
    for (std::size_t i = 0; i < count; i++) {
        T a, b;
        std::memcpy(&a, &both[i * sizeof(T)], sizeof a);
        std::memcpy(&b, &both[(i + count) * sizeof(T)], sizeof b);
        a += b;
        std::memcpy(&both[i * sizeof(T)], &a, sizeof a);
    }
}

/* `closed` counts; where `torn` is set rank 0's all_gather throws. */
static cavmae::collectives carrier(const std::shared_ptr<meeting> &at, std::size_t rank, std::atomic<int> &closed,
                                   const std::atomic<bool> &torn) {
    static const cavmae_status over = CAVMAE_E_PEER;
    const auto sum = [at, rank](std::int32_t dtype, const void *send, std::int64_t count) {
        const bool wide = dtype == CAVMAE_FLOAT64;
        std::vector<char> both =
            at->swap(rank, send, static_cast<std::size_t>(count) * (wide ? sizeof(double) : sizeof(float)));
        wide ? add_halves<double>(both) : add_halves<float>(both);
        return both;
    };
    cavmae::collectives functions;
    functions.name = "meeting";
    functions.all_reduce = [sum](std::int32_t dtype, void *data, std::int64_t count, std::string &) {
        const std::vector<char> both = sum(dtype, data, count);
        if (both.empty()) return over;
        std::memcpy(data, both.data(), both.size() / 2);
        return CAVMAE_OK;
    };
    functions.reduce_scatter = [sum, rank](std::int32_t dtype, const void *send, void *receive, std::int64_t count,
                                           std::string &) {
        const std::vector<char> both = sum(dtype, send, 2 * count);
        if (both.empty()) return over;
        std::memcpy(receive, both.data() + rank * both.size() / 4, both.size() / 4);
        return CAVMAE_OK;
    };
    functions.all_gather = [at, rank, &torn](const void *send, void *receive, std::int64_t bytes, std::string &) {
        if (torn && rank == 0) throw std::runtime_error("the carrier has torn");
        const std::vector<char> both = at->swap(rank, send, static_cast<std::size_t>(bytes));
        if (both.empty()) return over;
        std::memcpy(receive, both.data(), both.size());
        return CAVMAE_OK;
    };
    functions.broadcast = [at, rank](void *data, std::int64_t bytes, std::int32_t root, std::string &) {
        const std::vector<char> both = at->swap(rank, data, static_cast<std::size_t>(bytes));
        if (both.empty()) return over;
        std::memcpy(data, both.data() + static_cast<std::size_t>(root) * both.size() / 2, both.size() / 2);
        return CAVMAE_OK;
    };
    functions.barrier = [at, rank](std::string &sentence) -> cavmae_status {
        if (!at->swap(rank, "", 1).empty()) return CAVMAE_OK;
        return sentence = "the meeting is over", CAVMAE_E_PEER;
    };
    functions.abort = [at] { at->break_up(); };
    functions.close = [&closed] { closed++; };
    return functions;
}

/* Functions of the program's own carry a world's steps; they live as long as a config that has it. */
static void test_collectives() {
    auto at = std::make_shared<meeting>();
    const std::weak_ptr<meeting> watched = at;
    std::atomic<int> closed{0};
    std::atomic<bool> torn{false};
    cavmae::config configs[2];
    std::vector<float> parameters[2];
    std::string sentences[2];
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < 2; rank++)
        threads.emplace_back([&, rank] {
            cavmae::context context = one_thread();
            cavmae::world_options options;
            options.rank = static_cast<int>(rank);
            options.size = 2;
            options.timeout = 60;
            cavmae::world world = cavmae::world::create(context, options, carrier(at, rank, closed, torn));
            CHECK(has(world.carrier(), "meeting") && world.size() == 2);
            configs[rank] = small_config(context);
            configs[rank].set_world(world);
            cavmae::model model = cavmae::model::create(configs[rank]);
            cavmae::optimizer optimizer = cavmae::optimizer::create(model, configs[rank]);
            cavmae::trainer trainer = cavmae::trainer::create(model, optimizer, configs[rank]);
            trainer.pretrain_step(clips(static_cast<int>(rank), 1).input);
            parameters[rank] = all_parameters(model);
            world.barrier();
            torn = true;
            try {
                for (int i = 0; i < 2; i++) {
                    std::int64_t mine = 1, all[2];
                    world.gather(&mine, all, sizeof mine);
                }
            } catch (const cavmae::error &error) {
                sentences[rank] = error.what();
            }
        });
    for (std::thread &thread : threads) thread.join();
    at.reset();
    CHECK(!parameters[0].empty() && parameters[0] == parameters[1]);
    CHECK(has(sentences[0].c_str(), "the carrier has torn"));
    CHECK(!sentences[1].empty());
    CHECK(closed == 0 && !watched.expired());
    for (cavmae::config &config : configs) config = cavmae::config();
    CHECK(closed == 2 && watched.expired());
}

int main() {
    {
        folder in;
        try {
            test_training(in);
            test_world();
            test_collectives();
        } catch (const std::exception &exception) {
            std::printf("an exception that no test expects: %s\n", exception.what());
            check_failed++;
        }
    }
    return check_summary("cpp_train_test");
}
