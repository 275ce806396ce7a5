/* Models of other configurations made from one, and one made as the mean of several. */
#define _GNU_SOURCE
#include "model_files.h"

/* ---- Adapting ---- */

/* Every parameter that both have and whose shape did not change has the same values. */
static void check_taken(cavmae_model *from, cavmae_model *to, int64_t taken) {
    const char *name;
    int64_t same = 0;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(to, i)) != NULL; i++) {
        cavmae_tensor *had;
        if (cavmae_model_parameter(from, name, &had) != CAVMAE_OK) continue;
        int64_t elements;
        const float *has = values_of(to, name, &elements);
        same += elements == cavmae_tensor_elements(had) &&
                memcmp(has, cavmae_tensor_data(had), (size_t)elements * sizeof *has) == 0;
        cavmae_tensor_free(had);
    }
    CHECK(same == taken);
}

static void test_adapt(void) {
    static const struct {
        const char *from, *to;
        int64_t missing, made; /* of parameters; made: of those matched, with other values */
    } cases[] = {
        {"", "classes=5", 4, 0},
        {"", "classes=5 head=linear", 2, 0},
        {"", "classes=5 head_input=concat", 4, 0},
        {"", "decoder=0", 0, 0},
        {"", "modalities=a", 0, 0},
        {"", "modalities=v classes=3 trainable_pos=1", 4, 0},
        {"", "audio_frames=64", 0, 2},
        {"", "audio_frames=512 image_size=96 classes=5 trainable_pos=1", 4, 2},
        {"trainable_pos=1", "audio_frames=192", 0, 2},
        {"trainable_pos=1", "audio_frames=32 decoder=0", 0, 1},
        {"classes=5 decoder=0", "classes=0", 0, 0},
        {"classes=5 decoder=0", "classes=6", 4, 0},
        {"classes=5 decoder=0", "head_input=sum", 4, 0},
        {"decoder=0", "decoder=1 decoder_dim=16 decoder_heads=4 decoder_depth=1", 33, 0},
        {"modalities=a decoder=0", "modalities=av", 66, 0},
        {"", "num_heads=2 layer_norm_eps=1e-6", 0, 0},
        {"", "modality_depth=2", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cavmae_model *from = make_model(cases[i].from), *to = NULL;
        cavmae_config *config = config_of(from, cases[i].to);
        cavmae_load_report report = {.struct_size = sizeof report};
        if (!CHECK_OK(cavmae_model_adapt(config, from, &report, &to))) exit(1);
        const int64_t count = cavmae_model_parameter_count(to);
        if (!CHECK(report.missing == cases[i].missing && report.matched == count - report.missing))
            printf("    case %d: %lld missing\n", (int)i, (long long)report.missing);
        CHECK(report.unexpected == cavmae_model_parameter_count(from) - report.matched && report.misshaped == 0);
        check_taken(from, to, report.matched - cases[i].made);
        CHECK(model_value(to, CAVMAE_P_AUDIO_FRAMES) == tiny_value(config, CAVMAE_P_AUDIO_FRAMES));
        cavmae_config_free(config);
        cavmae_model_free(from);
        CHECK(tiny_hash(to) != 0); /* it holds nothing of the other's */
        cavmae_model_free(to);
    }
}

/* Tables by hand: 8 rows, 8 columns before, 4 or 12 after. */
static void test_adapt_tables(void) {
    cavmae_model *from = make_model("trainable_pos=1"), *to = NULL;
    int64_t width = model_value(from, CAVMAE_P_EMBED_DIM);
    const float *had = values_of(from, "pos_embed_a", NULL);
    cavmae_config *shorter = config_of(from, "audio_frames=64"), *longer = config_of(from, "audio_frames=192");
    int good = 1;
    CHECK_OK(cavmae_model_adapt(shorter, from, NULL, &to));
    const float *has = values_of(to, "pos_embed_a", NULL);
    for (int64_t row = 0; row < 8; row++)
        good &= memcmp(has + row * 4 * width, had + row * 8 * width, (size_t)(4 * width) * sizeof *has) == 0;
    CHECK(good);
    cavmae_model_free(to);
    to = NULL;

    CHECK_OK(cavmae_model_adapt(longer, from, NULL, &to));
    has = values_of(to, "pos_embed_a", NULL);
    for (int64_t column = 0; column < 12; column++) {
        double at = fmax(((double)column + 0.5) * 8 / 12 - 0.5, 0); /* torch's align_corners=False */
        int64_t left = (int64_t)at, right = left < 7 ? left + 1 : 7;
        double share = at - (double)left;
        for (int64_t row = 0; row < 8; row++) {
            const float *a = had + (row * 8 + left) * width, *b = had + (row * 8 + right) * width;
            for (int64_t k = 0; k < width; k++)
                good &= fabs((1 - share) * (double)a[k] + share * (double)b[k] -
                             (double)has[(row * 12 + column) * width + k]) < 1e-6;
        }
    }
    CHECK(good);
    cavmae_model_free(to);
    cavmae_config_free(shorter);
    cavmae_config_free(longer);
    cavmae_model_free(from);

    from = make_model(""); /* fixed: anew, to the last bit */
    longer = config_of(from, "audio_frames=4096");
    to = NULL;
    CHECK_OK(cavmae_model_adapt(longer, from, NULL, &to));
    cavmae_model *fresh = NULL;
    CHECK_OK(cavmae_model_create(longer, &fresh));
    CHECK(memcmp(values_of(to, "pos_embed_a", NULL), values_of(fresh, "pos_embed_a", NULL),
                 (size_t)(8 * 256 * width) * sizeof(float)) == 0);
    cavmae_config_free(longer);
    cavmae_model_free(fresh);
    cavmae_model_free(to);
    cavmae_model_free(from);
}

static void test_adapt_errors(void) {
    static const struct {
        const char *from, *to, *named;
        cavmae_status status;
    } cases[] = {
        {"", "embed_dim=64", "modality_a", CAVMAE_E_MISMATCH},
        {"", "mlp_ratio=2", "fc1", CAVMAE_E_MISMATCH},
        {"trainable_pos=1", "image_size=96", "pos_embed_v", CAVMAE_E_MISMATCH},
        {"trainable_pos=1", "mel_bins=64", "pos_embed_a", CAVMAE_E_MISMATCH},
        {"trainable_pos=1", "trainable_pos=0", "trainable_pos", CAVMAE_E_MISMATCH},
        {"", "num_heads=3", "num_heads", CAVMAE_E_SHAPE},
    };
    cavmae_model *to = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cavmae_model *from = make_model(cases[i].from);
        cavmae_config *config = config_of(from, cases[i].to);
        cavmae_load_report report = {.struct_size = sizeof report};
        CHECK_STATUS(cavmae_model_adapt(config, from, &report, &to), cases[i].status);
        CHECK(strstr(cavmae_last_error(), cases[i].named) && to == NULL);
        if (cases[i].status == CAVMAE_E_MISMATCH) CHECK(report.misshaped > 0);
        cavmae_config_free(config);
        cavmae_model_free(from);
    }
    cavmae_model *from = make_model("");
    cavmae_config *config = config_of(from, "");
    cavmae_load_report unset = {0};
    CHECK_STATUS(cavmae_model_adapt(NULL, from, NULL, &to), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_model_adapt(config, NULL, NULL, &to), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_model_adapt(config, from, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_model_adapt(config, from, &unset, &to), CAVMAE_E_ARG);
    cavmae_config_free(config);
    cavmae_model_free(from);
}

/* ---- Averaging ---- */

/* The seed makes models differ; settings of make_model's do not. */
static const char *save_seed(const char *settings, int seed, const char *name, int bare) {
    char all[256];
    snprintf(all, sizeof all, "%s seed=%d", settings, seed);
    cavmae_config *config = tiny_config(context, all + (settings[0] == 0));
    cavmae_model *model = NULL;
    const char *path = in_directory(name);
    if (!CHECK_OK(cavmae_model_create(config, &model))) exit(1);
    if (bare) {
        bag_add_model(&shared_bag, model);
        bag_save(&shared_bag, path);
        bag_empty(&shared_bag);
    } else {
        CHECK_OK(cavmae_model_save(model, path));
    }
    cavmae_config_free(config);
    cavmae_model_free(model);
    return path;
}

static void test_average(void) {
    const char *paths[3] = {save_seed("lr=1e-3", 1, "one", 0), save_seed("", 2, "two", 1),
                            save_seed("", 3, "three.pth", 1)};
    const char *mean = in_directory("mean"), *name;
    CHECK_OK(cavmae_average_models(context, paths, 3, mean));
    cavmae_model *models[3], *got = load(mean, 0, NULL);
    for (int i = 0; i < 3; i++) models[i] = load(paths[i], 0, NULL);
    for (int64_t i = 0; (name = cavmae_model_parameter_name(got, i)) != NULL; i++) {
        int64_t elements;
        const float *values = values_of(got, name, &elements);
        int good = 1;
        for (int64_t k = 0; k < elements; k++) {
            double sum = 0;
            for (int m = 0; m < 3; m++) sum += (double)values_of(models[m], name, NULL)[k];
            good &= values[k] == (float)(sum / 3);
            if (k > 40) break; /* each takes three handles */
        }
        if (!CHECK(good)) printf("    %s\n", name);
    }
    cavmae_config *config = config_of(got, "");
    double lr = 0;
    CHECK_OK(cavmae_config_get_f64(config, CAVMAE_P_LR, &lr));
    CHECK(lr == 1e-3); /* the first one's configuration */
    cavmae_config_free(config);
    cavmae_model_free(got);

    CHECK_OK(cavmae_average_models(context, &paths[1], 1, mean)); /* of one: the same */
    got = load(mean, 0, NULL);
    CHECK(tiny_hash(got) == tiny_hash(models[1]));
    cavmae_model_free(got);
    for (int i = 0; i < 3; i++) cavmae_model_free(models[i]);

    /* In place of one of them. */
    CHECK_OK(cavmae_average_models(context, paths, 3, paths[0]));
    cavmae_model_free(load(paths[0], 0, NULL));
}

static void test_average_errors(void) {
    const char *paths[2] = {save_seed("", 1, "one", 0), save_seed("decoder_depth=1", 2, "less", 0)};
    const char *mean = in_directory("no-mean"), *none[2] = {paths[0], NULL};
    CHECK_STATUS(cavmae_average_models(context, paths, 2, mean), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), paths[1]) && strstr(cavmae_last_error(), "decoder_blocks.1."));
    paths[1] = save_seed("image_size=96", 2, "larger", 0);
    CHECK_STATUS(cavmae_average_models(context, paths, 2, mean), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), paths[1]) && strstr(cavmae_last_error(), "pos_embed_v"));
    paths[1] = save_seed("classes=5", 2, "head", 0);
    CHECK_STATUS(cavmae_average_models(context, paths, 2, mean), CAVMAE_E_MISMATCH);
    paths[1] = in_directory("missing");
    CHECK_STATUS(cavmae_average_models(context, paths, 2, mean), CAVMAE_E_IO);
    CHECK(access(mean, F_OK) != 0);
    CHECK_STATUS(cavmae_average_models(context, paths, 1, in_directory("no/such/folder")), CAVMAE_E_IO);
    CHECK_STATUS(cavmae_average_models(context, paths, 0, mean), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_average_models(context, none, 2, mean), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_average_models(context, NULL, 1, mean), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_average_models(context, paths, 1, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_average_models(NULL, paths, 1, mean), CAVMAE_E_ARG);
}

/* Tensor by tensor: far from one model, and what more files add are their headers. */
static void test_average_memory(void) {
    enum { FILES = 12 };
    static const char settings[] = "embed_dim=256 num_heads=4";
    const char *paths[FILES], *mean = in_directory("mean");
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .alloc = counting_alloc, .free = counting_free};
    cavmae_context *counting;
    long most[2];
    for (int i = 0; i < FILES; i++) paths[i] = save_seed(settings, 1, "wide", i % 2);
    cavmae_model *model = load(paths[0], 0, NULL);
    const long model_size = (long)cavmae_model_elements(model, 0) * 4;
    cavmae_model_free(model);
    CHECK_OK(cavmae_context_create(&options, &counting));
    for (int i = 0; i < 2; i++) {
        atomic_store(&bytes_most, 0);
        CHECK_OK(cavmae_average_models(counting, paths, i ? FILES : 2, mean));
        most[i] = atomic_load(&bytes_most);
    }
    CHECK(most[0] < model_size / 4);
    CHECK(most[1] - most[0] < (FILES - 2) * model_size / 50);
    cavmae_context_free(counting);
}

static int32_t refuse(void *user) {
    (void)user;
    return 1;
}

static void test_average_cancelled(void) {
    cavmae_context_options options = {.struct_size = sizeof options, .threads = 1, .cancel = refuse};
    cavmae_context *cancelling;
    const char *paths[1] = {save_seed("", 1, "one", 0)}, *mean = in_directory("no-mean");
    CHECK_OK(cavmae_context_create(&options, &cancelling));
    CHECK_STATUS(cavmae_average_models(cancelling, paths, 1, mean), CAVMAE_E_CANCELLED);
    CHECK(access(mean, F_OK) != 0);
    cavmae_context_free(cancelling);
}

/* ---- No memory ---- */

static cavmae_status average_once(cavmae_context *failing, void *paths) {
    return cavmae_average_models(failing, paths, 2, in_directory("mean"));
}

static cavmae_status adapt_once(cavmae_context *failing, void *path) {
    cavmae_model *from = NULL, *to = NULL;
    cavmae_config *config = NULL;
    cavmae_status status = cavmae_model_load(failing, path, 0, NULL, &from);
    if (status == CAVMAE_OK) status = cavmae_model_config(from, &config);
    if (status == CAVMAE_OK) status = cavmae_config_set(config, "audio_frames", "48");
    if (status == CAVMAE_OK) status = cavmae_config_set(config, "classes", "3");
    if (status == CAVMAE_OK) status = cavmae_model_adapt(config, from, NULL, &to);
    cavmae_config_free(config);
    cavmae_model_free(from);
    cavmae_model_free(to);
    return status;
}

static void test_no_memory(void) {
    static const char small[] = SMALLEST " mel_bins=128 patch_size=16 image_size=32 modality_depth=1 num_heads=4";
    static const char trained[] =
        SMALLEST " mel_bins=128 patch_size=16 image_size=32 modality_depth=1 num_heads=4 trainable_pos=1";
    const char *paths[2] = {save_bare(small, "bare"), save_bare(small, "bare.pth")};
    fail_everywhere("adapt", adapt_once, paths[0]);
    fail_everywhere("adapt a table", adapt_once, save_bare(trained, "trained"));
    fail_everywhere("average", average_once, paths);
}

int main(void) {
    open_directory();
    test_adapt();
    test_adapt_tables();
    test_adapt_errors();
    test_average();
    test_average_errors();
    test_average_memory();
    test_average_cancelled();
    test_no_memory();
    return close_directory("adapt");
}
