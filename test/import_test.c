/* Models from files that do not say what they are: the authors' checkpoints, vision MAEs. The golden checkpoints are
 * read where the oracle's folder lies beside the tree. */
#define _GNU_SOURCE
#include "model_files.h"
#include "parameters.h"
#include "widen.h"

#define GOLDEN "../shared/golden/checkpoints/"

/* ---- The authors' files ---- */

static int same_word(const cavmae_config *a, const cavmae_config *b, int32_t key) {
    const char *x = "", *y = "";
    CHECK_OK(cavmae_config_get_str(a, key, &x));
    CHECK_OK(cavmae_config_get_str(b, key, &y));
    if (strcmp(x, y) != 0) printf("key %d is %s, not %s: ", (int)key, x, y);
    return strcmp(x, y) == 0;
}

static void test_inferred(void) {
    static const char *const settings[] = {
        "",
        "modality_depth=2 joint_depth=2 decoder_depth=1",
        "modality_depth=0 joint_depth=3",
        "audio_frames=64 image_size=96",
        "patch_size=8 mlp_ratio=2.25",
        "embed_dim=128 num_heads=2 decoder_dim=64 decoder_heads=2 modality_depth=1",
        "modalities=a",
        "modalities=v",
        "modalities=v patch_size=8 audio_frames=1024",
        "decoder=0",
        "classes=5 decoder=0",
        "classes=5 decoder=0 head=linear",
        "classes=5 decoder=0 head_input=concat",
        "classes=5 decoder=0 modalities=a trainable_pos=1",
        "trainable_pos=1",
        "classes=309 decoder=0 loss=ce", /* VGGSound's */
        "image_channels=1 image_mean=0.449 image_std=0.226",
    };
    static const int32_t keys[] = {
        CAVMAE_P_IMAGE_CHANNELS, CAVMAE_P_MEL_BINS,   CAVMAE_P_PATCH_SIZE,     CAVMAE_P_EMBED_DIM,
        CAVMAE_P_NUM_HEADS,      CAVMAE_P_MLP_RATIO,  CAVMAE_P_MODALITY_DEPTH, CAVMAE_P_JOINT_DEPTH,
        CAVMAE_P_TRAINABLE_POS,  CAVMAE_P_MODALITIES, CAVMAE_P_CLASSES,        CAVMAE_P_DECODER,
        CAVMAE_P_HEAD,           CAVMAE_P_HEAD_INPUT, CAVMAE_P_LAYER_NORM_EPS, CAVMAE_P_LOSS,
    };
    static const int32_t decoder_keys[] = {CAVMAE_P_DECODER_DIM, CAVMAE_P_DECODER_HEADS, CAVMAE_P_DECODER_DEPTH};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        for (int torch = 0; torch < 2; torch++) {
            cavmae_model *saved = make_model(settings[i]);
            const char *path = save_bare(settings[i], torch ? "bare.pth" : "bare");
            cavmae_load_report report;
            cavmae_model *loaded = load(path, 0, &report);
            if (!loaded) exit(1);
            CHECK(report.matched == cavmae_model_parameter_count(saved) && report.missing == 0);
            CHECK(report.unexpected == 0 && report.misshaped == 0 && tiny_hash(loaded) == tiny_hash(saved));
            cavmae_config *expected, *got;
            CHECK_OK(cavmae_model_config(saved, &expected));
            CHECK_OK(cavmae_model_config(loaded, &got));
            for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) CHECK(same_word(got, expected, keys[k]));
            for (size_t k = 0; k < 3 && tiny_value(expected, CAVMAE_P_DECODER); k++)
                CHECK(same_word(got, expected, decoder_keys[k]));
            if (!strstr(settings[i], "modalities=v")) CHECK(same_word(got, expected, CAVMAE_P_AUDIO_FRAMES));
            if (!strstr(settings[i], "modalities=a")) CHECK(same_word(got, expected, CAVMAE_P_IMAGE_SIZE));
            cavmae_config_free(expected);
            cavmae_config_free(got);
            cavmae_model_free(saved);
            cavmae_model_free(loaded);
        }
    }
}

/* Ratios that no short number says; 28 * (61 / 28) is less than 61 in double. */
static void test_odd_ratio(void) {
    static const char *const settings[] = {"mlp_ratio=2.7", "mlp_ratio=2.19 embed_dim=28 decoder=0"};
    for (size_t i = 0; i < 2; i++) {
        cavmae_model *loaded = load(save_bare(settings[i], "ratio"), 0, NULL);
        CHECK(loaded != NULL);
        cavmae_model_free(loaded);
    }
}

static void to_dtype(bag *b, int64_t i, int32_t dtype) {
    cavmae_tensor *wide = b->tensor[i], *narrow;
    const float *from = cavmae_tensor_data(wide);
    CHECK_OK(cavmae_tensor_create(context, dtype, cavmae_tensor_dims(wide), cavmae_tensor_shape(wide), &narrow));
    for (int64_t k = 0; k < cavmae_tensor_elements(wide); k++) {
        uint32_t bits;
        memcpy(&bits, &from[k], 4);
        if (dtype == CAVMAE_FLOAT64) ((double *)cavmae_tensor_data(narrow))[k] = (double)from[k];
        if (dtype == CAVMAE_BFLOAT16)
            ((uint16_t *)cavmae_tensor_data(narrow))[k] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    cavmae_tensor_free(wide);
    b->tensor[i] = narrow;
}

/* Numbers of other widths, as files of converted models hold them, with and without a configuration. */
static void test_dtypes(void) {
    static const int32_t dtypes[] = {CAVMAE_FLOAT64, CAVMAE_BFLOAT16};
    cavmae_model *model = make_model("");
    int64_t elements;
    const float *expected = values_of(model, "blocks_u.0.mlp.fc1.weight", &elements);
    for (size_t d = 0; d < 2; d++) {
        bag_add_model(&shared_bag, model);
        for (int64_t i = 0; i < shared_bag.count; i++) to_dtype(&shared_bag, i, dtypes[d]);
        const char *path = in_directory("narrow");
        bag_save(&shared_bag, path);
        bag_empty(&shared_bag);
        cavmae_model *loaded = load(path, 0, NULL);
        if (!loaded) exit(1);
        CHECK(model_value(loaded, CAVMAE_P_TRAINABLE_POS) == 0); /* rounding does not make a table a trained one */
        const float *got = values_of(loaded, "blocks_u.0.mlp.fc1.weight", NULL);
        for (int64_t k = 0; k < elements; k++) {
            double error = fabs((double)got[k] - (double)expected[k]);
            if (error > (dtypes[d] == CAVMAE_FLOAT64 ? 0 : 0x1p-7 * fabs((double)expected[k]))) {
                CHECK(error == 0);
                break;
            }
        }
        cavmae_model_free(loaded);
    }
    cavmae_model_free(model);
}

/* Every float16 there is, against arithmetic. */
static void test_float16(void) {
    int good = 1;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint16_t half = (uint16_t)bits;
        int exponent = bits >> 10 & 31, mantissa = bits & 1023;
        double expected = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                          : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                         : ldexp(mantissa, -24);
        float got;
        if (bits >> 15) expected = -expected;
        cavmae__widen(CAVMAE_FLOAT16, &half, 1, &got);
        if (isnan(expected) ? !isnan(got) : (double)got != expected || !signbit(got) != !(bits >> 15)) good = 0;
    }
    CHECK(good);
    CHECK(cavmae__is_floating(CAVMAE_FLOAT16) && !cavmae__is_floating(CAVMAE_INT32));
}

/* What may be absent, and what may be there besides. */
static void test_leftovers(void) {
    enum { MISSING = CAVMAE_LOAD_ALLOW_MISSING, UNEXPECTED = CAVMAE_LOAD_ALLOW_UNEXPECTED };
    static const struct {
        const char *settings, *drop, *add;
        uint32_t needs; /* flags without which it is a MISMATCH */
        int64_t missing, unexpected;
    } cases[] = {
        /* the authors' audio-only model, and all that it could leave out */
        {"modalities=a classes=5", "norm.", NULL, 0, 0, 0}, /* norm.weight and norm.bias, see below */
        {"modalities=a classes=5", "norm1_v", NULL, 0, 0, 0},
        {"modalities=a classes=5", "blocks_u.0.norm2.", NULL, 0, 0, 0},
        {"modalities=a classes=5", "blocks_u.0.norm2_a.", NULL, MISSING, 2, 0},
        {"modalities=v decoder=0", "norm1_a", NULL, 0, 0, 0},
        {"modalities=v decoder=0", "norm_v.", NULL, MISSING, 2, 0},
        {"", "blocks_a.0.norm1_v.", NULL, 0, 0, 0},
        {"", "decoder_blocks.1.norm2_a.", NULL, 0, 0, 0},
        {"", "blocks_u.0.norm1_v.", NULL, MISSING, 2, 0},
        {"", "blocks_v.2.norm1.", NULL, MISSING, 2, 0},
        {"", "mask_token", NULL, MISSING, 1, 0},
        {"", NULL, "cls_token_a", 0, 0, 0},
        {"", NULL, "cls_token_av", 0, 0, 0},
        {"", NULL, "optimizer.m.norm.weight", 0, 0, 0},
        {"", NULL, "cls_token", UNEXPECTED, 0, 1},
        {"", NULL, "mlp_head.0.weight", UNEXPECTED, 0, 1},
        {"decoder=0", NULL, "decoder_blocks.0.norm1.weight", UNEXPECTED, 0, 1},
        {"", "mask_token", "register_tokens", MISSING | UNEXPECTED, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cavmae_model *model = make_model(cases[i].settings);
        const char *path = in_directory("leftovers");
        bag_add_model(&shared_bag, model);
        if (cases[i].drop && strcmp(cases[i].drop, "norm.") == 0) {
            bag_drop(&shared_bag, "norm.weight");
            bag_drop(&shared_bag, "norm.bias");
        } else if (cases[i].drop) {
            bag_drop_all(&shared_bag, cases[i].drop);
        }
        if (cases[i].add) bag_add(&shared_bag, cases[i].add, 1, (const int64_t[]){3});
        bag_save(&shared_bag, path);
        bag_empty(&shared_bag);
        for (uint32_t flags = 0; flags < 4; flags++) {
            cavmae_load_report report = {.struct_size = sizeof report};
            cavmae_model *loaded = NULL;
            cavmae_status expected = (cases[i].needs & ~flags) == 0 ? CAVMAE_OK : CAVMAE_E_MISMATCH;
            if (!CHECK_STATUS(cavmae_model_load(context, path, flags, &report, &loaded), expected))
                printf("    case %d, flags %u\n", (int)i, (unsigned)flags);
            CHECK(report.missing == cases[i].missing && report.unexpected == cases[i].unexpected);
            CHECK((loaded != NULL) == (expected == CAVMAE_OK));
            if (!loaded) CHECK(strstr(cavmae_last_error(), cases[i].drop ? cases[i].drop : cases[i].add));
            cavmae_model_free(loaded);
        }
        cavmae_model_free(model);
    }
    /* An absent LayerNorm starts as one. */
    cavmae_model *model = make_model("modalities=a classes=5");
    bag_add_model(&shared_bag, model);
    bag_drop(&shared_bag, "norm.weight");
    bag_save(&shared_bag, in_directory("leftovers"));
    bag_empty(&shared_bag);
    cavmae_model *loaded = load(in_directory("leftovers"), 0, NULL);
    CHECK(values_of(loaded, "norm.weight", NULL)[5] == 1);
    CHECK(values_of(loaded, "norm_a.weight", NULL)[5] == values_of(model, "norm_a.weight", NULL)[5]);
    cavmae_model_free(loaded);
    cavmae_model_free(model);
}

/* ---- Lies ---- */

static void fail_to_load(const char *what, cavmae_status expected, const char *named) {
    cavmae_model *out = NULL;
    const char *path = in_directory("lie");
    bag_save(&shared_bag, path);
    if (!CHECK_STATUS(cavmae_model_load(context, path, 3, NULL, &out), expected)) printf("    %s\n", what);
    if (!CHECK(strstr(cavmae_last_error(), path) && strstr(cavmae_last_error(), named)))
        printf("    %s: %s\n", what, cavmae_last_error());
    CHECK(out == NULL);
    cavmae_model_free(out);
}

static void test_lies(void) {
    static const struct {
        const char *name;
        int32_t dtype, dims;
        int64_t shape[4];
        cavmae_status status;
    } shapes[] = {
        {"patch_embed_a.proj.weight", CAVMAE_FLOAT32, 4, {32, 2, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_a.proj.weight", CAVMAE_FLOAT32, 4, {32, 1, 16, 15}, CAVMAE_E_FORMAT},
        {"patch_embed_a.proj.weight", CAVMAE_FLOAT32, 3, {32, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_a.proj.weight", CAVMAE_FLOAT32, 4, {0, 1, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_a.proj.weight", CAVMAE_INT32, 4, {32, 1, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_a.proj.weight", CAVMAE_UINT8, 4, {1 << 15, 1, 1, 1}, CAVMAE_E_FORMAT},
        {"patch_embed_v.proj.weight", CAVMAE_FLOAT32, 4, {1 << 15, 3, 1, 1}, CAVMAE_E_FORMAT},
        {"patch_embed_v.proj.weight", CAVMAE_FLOAT32, 4, {32, 17, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_v.proj.weight", CAVMAE_FLOAT32, 4, {30, 3, 16, 16}, CAVMAE_E_FORMAT},
        {"patch_embed_v.proj.weight", CAVMAE_FLOAT32, 4, {32, 3, 8, 8}, CAVMAE_E_FORMAT},
        {"pos_embed_a", CAVMAE_FLOAT32, 3, {1, 63, 32}, CAVMAE_E_FORMAT},
        {"pos_embed_a", CAVMAE_FLOAT32, 3, {1, 0, 32}, CAVMAE_E_FORMAT},
        {"pos_embed_a", CAVMAE_FLOAT32, 3, {1, 64, 31}, CAVMAE_E_MISMATCH},
        {"pos_embed_v", CAVMAE_FLOAT32, 3, {1, 15, 32}, CAVMAE_E_FORMAT},
        {"pos_embed_v", CAVMAE_FLOAT32, 2, {16, 32}, CAVMAE_E_FORMAT},
        {"decoder_pos_embed_v", CAVMAE_FLOAT32, 3, {1, 15, 16}, CAVMAE_E_FORMAT},
        {"decoder_pos_embed_v", CAVMAE_FLOAT32, 3, {1, 20, 16}, CAVMAE_E_MISMATCH},
        {"decoder_embed.weight", CAVMAE_FLOAT32, 2, {1 << 15, 1}, CAVMAE_E_FORMAT},
        {"blocks_u.0.mlp.fc1.weight", CAVMAE_FLOAT32, 2, {4096, 32}, CAVMAE_E_FORMAT},
        {"blocks_u.0.mlp.fc1.weight", CAVMAE_FLOAT32, 2, {128, 30}, CAVMAE_E_MISMATCH},
        {"blocks_a.1.attn.qkv.weight", CAVMAE_FLOAT32, 2, {95, 32}, CAVMAE_E_MISMATCH},
        {"blocks_a.1.attn.qkv.bias", CAVMAE_INT64, 1, {96}, CAVMAE_E_MISMATCH},
    };
    static const struct {
        const char *drop, *add;
    } names[] = {
        {"pos_embed_a", NULL},          {"pos_embed_v", NULL},
        {"blocks_a.1.", NULL},          {"decoder_blocks.0.", NULL},
        {NULL, "blocks_u.7.x"},         {NULL, "blocks_v.256.x"},
        {NULL, "blocks_v.-1.x"},        {NULL, "blocks_v.x"},
        {NULL, "blocks_v.1"},           {NULL, "blocks_v.99999999999.x"},
        {NULL, "module.norm_a.weight"},
    };
    cavmae_model *model = make_model("");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bag_add_model(&shared_bag, model);
        bag_reshape(&shared_bag, shapes[i].name, shapes[i].dtype, shapes[i].dims, shapes[i].shape);
        fail_to_load(shapes[i].name, shapes[i].status, shapes[i].name);
        bag_empty(&shared_bag);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *named = names[i].drop ? names[i].drop : names[i].add;
        char stem[32];
        snprintf(stem, sizeof stem, "%.*s", (int)(strlen(named) - (named[strlen(named) - 1] == '.')), named);
        bag_add_model(&shared_bag, model);
        if (names[i].drop) bag_drop_all(&shared_bag, names[i].drop);
        if (names[i].add) bag_add(&shared_bag, names[i].add, 1, (const int64_t[]){3});
        fail_to_load(named, CAVMAE_E_FORMAT, strncmp(named, "module.", 7) == 0 ? named + 7 : stem);
        bag_empty(&shared_bag);
    }
    /* Layers of one modality only. */
    bag_add_model(&shared_bag, model);
    bag_drop_all(&shared_bag, "blocks_v.2.");
    fail_to_load("fewer layers", CAVMAE_E_FORMAT, "blocks_v");
    bag_empty(&shared_bag);
    bag_add(&shared_bag, "x", 1, (const int64_t[]){3});
    fail_to_load("no model", CAVMAE_E_FORMAT, "cavmae.config");
    bag_empty(&shared_bag);
    /* A header of 128 bytes, and so a first byte like a pickle's. */
    FILE *file = fopen(in_directory("pickle-like"), "wb");
    if (!CHECK(file != NULL)) exit(1);
    CHECK(fprintf(file, "\x80%c%c%c%c%c%c%c%-128s1234", 0, 0, 0, 0, 0, 0, 0,
                  "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}") == 140);
    fclose(file);
    cavmae_model *out = NULL;
    CHECK_STATUS(cavmae_model_load(context, in_directory("pickle-like"), 0, NULL, &out), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "cavmae.config"));
    cavmae_model_free(model);
}

/* A model of 5 classes, 16384 wide, whose parameters but the positions are one element with strides of 0: 1 KB that ask
 * for 13 GB. */
static void test_expanded(void) {
    cavmae_context *counting;
    cavmae_context_options options = {
        .struct_size = sizeof options, .threads = 1, .alloc = counting_alloc, .free = counting_free};
    cavmae_model *model = NULL;
    CHECK_OK(cavmae_context_create(&options, &counting));
    atomic_store(&bytes_most, 0);
    CHECK_STATUS(cavmae_model_load(counting, "test/cases/expanded_model.pth", 0, NULL, &model), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "expanded_model.pth") && strstr(cavmae_last_error(), "claim"));
    CHECK(model == NULL && atomic_load(&bytes_most) < 4 << 20);
    cavmae_context_free(counting);
}

/* ---- A vision MAE ---- */

static void add_layers(const char *stem, int depth, int64_t width) {
    const int64_t one[] = {width}, three[] = {3 * width}, four[] = {4 * width}, qkv[] = {3 * width, width},
                  proj[] = {width, width}, fc1[] = {4 * width, width}, fc2[] = {width, 4 * width};
    const struct {
        const char *name;
        int32_t dims;
        const int64_t *shape;
    } parts[] = {{"norm1.weight", 1, one},      {"norm1.bias", 1, one},      {"norm2.weight", 1, one},
                 {"norm2.bias", 1, one},        {"attn.qkv.weight", 2, qkv}, {"attn.qkv.bias", 1, three},
                 {"attn.proj.weight", 2, proj}, {"attn.proj.bias", 1, one},  {"mlp.fc1.weight", 2, fc1},
                 {"mlp.fc1.bias", 1, four},     {"mlp.fc2.weight", 2, fc2},  {"mlp.fc2.bias", 1, one}};
    char name[100];
    for (int layer = 0; layer < depth; layer++) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "%s.%d.%s", stem, layer, parts[i].name);
            bag_add(&shared_bag, name, parts[i].dims, parts[i].shape);
        }
    }
}

enum { WIDTH = 16, DECODER = 8, SIDE = 8, TOKENS = 9, PATCH = SIDE * SIDE };

/* 3 x 3 patches of 8 x 8, three layers; a table of sines as published ones have. */
static void add_vision_mae(int decoder) {
    const struct {
        const char *name;
        int32_t dims;
        int64_t shape[4];
    } parts[] = {
        {"cls_token", 3, {1, 1, WIDTH}},
        {"pos_embed", 3, {1, 1 + TOKENS, WIDTH}},
        {"patch_embed.proj.weight", 4, {WIDTH, 3, SIDE, SIDE}},
        {"patch_embed.proj.bias", 1, {WIDTH}},
        {"norm.weight", 1, {WIDTH}},
        {"norm.bias", 1, {WIDTH}},
        {"mask_token", 3, {1, 1, DECODER}}, /* from here on of the decoder */
        {"decoder_pos_embed", 3, {1, 1 + TOKENS, DECODER}},
        {"decoder_embed.weight", 2, {DECODER, WIDTH}},
        {"decoder_embed.bias", 1, {DECODER}},
        {"decoder_norm.weight", 1, {DECODER}},
        {"decoder_norm.bias", 1, {DECODER}},
        {"decoder_pred.weight", 2, {3 * PATCH, DECODER}},
        {"decoder_pred.bias", 1, {3 * PATCH}},
    };
    for (size_t i = 0; i < (decoder ? sizeof parts / sizeof *parts : 6); i++) {
        float *data = bag_add(&shared_bag, parts[i].name, parts[i].dims, parts[i].shape);
        if (strstr(parts[i].name, "pos_embed")) cavmae__sincos_2d(parts[i].shape[2], 3, 3, data + parts[i].shape[2]);
    }
    add_layers("blocks", 3, WIDTH);
    if (decoder) add_layers("decoder_blocks", 1, DECODER);
}

static const float *in_bag(const char *name) {
    return cavmae_tensor_data(shared_bag.tensor[bag_find(&shared_bag, name)]);
}

static void check_copies(cavmae_model *model) {
    static const char *const copies[][2] = {
        {"blocks_a.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"},
        {"blocks_v.1.mlp.fc2.bias", "blocks.1.mlp.fc2.bias"},
        {"blocks_a.1.norm2.weight", "blocks.1.norm2.weight"},
        {"blocks_u.0.norm1.bias", "blocks.2.norm1.bias"},
        {"blocks_u.0.norm1_a.bias", "blocks.2.norm1.bias"},
        {"blocks_u.0.norm2_v.weight", "blocks.2.norm2.weight"},
        {"blocks_u.0.mlp.fc1.weight", "blocks.2.mlp.fc1.weight"},
        {"norm_a.bias", "norm.bias"},
        {"norm_v.weight", "norm.weight"},
        {"norm.weight", "norm.weight"},
        {"patch_embed_v.proj.weight", "patch_embed.proj.weight"},
        {"patch_embed_a.proj.bias", "patch_embed.proj.bias"},
        {"decoder_pred_v.weight", "decoder_pred.weight"},
        {"decoder_blocks.0.attn.proj.weight", "decoder_blocks.0.attn.proj.weight"},
        {"mask_token", "mask_token"},
        {"decoder_embed.bias", "decoder_embed.bias"},
    };
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        int64_t elements;
        const float *got = values_of(model, copies[i][0], &elements), *expected = in_bag(copies[i][1]);
        if (!CHECK(memcmp(got, expected, (size_t)elements * sizeof *got) == 0)) printf("    %s\n", copies[i][0]);
    }
    CHECK(memcmp(values_of(model, "pos_embed_v", NULL), in_bag("pos_embed") + WIDTH, TOKENS * WIDTH * 4) == 0);
    CHECK(values_of(model, "blocks_a.0.norm1_v.weight", NULL)[3] == 1);
}

static void test_vision_mae(void) {
    const char *path = in_directory("vision");
    cavmae_load_report report;
    add_vision_mae(1);
    bag_save(&shared_bag, path);
    const float *colours = in_bag("patch_embed.proj.weight"), *pred = in_bag("decoder_pred.weight"),
                *bias = in_bag("decoder_pred.bias");
    for (int mean = 0; mean < 2; mean++) {
        cavmae_model *model = load(path, mean ? CAVMAE_LOAD_MEAN_COLOURS : 0, &report);
        if (!model) exit(1);
        check_copies(model);
        /* Modality vectors of encoder and decoder, and positions of sound. */
        CHECK(report.missing == 6 && report.unexpected == 0 && report.misshaped == 0);
        const float *sound = values_of(model, "patch_embed_a.proj.weight", NULL),
                    *pred_a = values_of(model, "decoder_pred_a.weight", NULL),
                    *bias_a = values_of(model, "decoder_pred_a.bias", NULL);
        for (int k = 0; k < 5; k++) { /* of output row 2 and its pixel k */
            const float *at = colours + 2 * 3 * PATCH + k;
            double sum = (double)at[0] + (double)at[PATCH] + (double)at[2 * PATCH];
            CHECK_CLOSE(sound[2 * PATCH + k], mean ? sum / 3 : sum, 1e-6);
            double colour_mean = ((double)pred[3 * k * DECODER + 1] + (double)pred[(3 * k + 1) * DECODER + 1] +
                                  (double)pred[(3 * k + 2) * DECODER + 1]) /
                                 3;
            CHECK_CLOSE(pred_a[k * DECODER + 1], mean ? colour_mean : (double)pred[k * DECODER + 1], 1e-6);
            CHECK_CLOSE(bias_a[k],
                        mean ? ((double)bias[3 * k] + (double)bias[3 * k + 1] + (double)bias[3 * k + 2]) / 3
                             : (double)bias[k],
                        1e-6);
        }
        CHECK(model_value(model, CAVMAE_P_MODALITY_DEPTH) == 2 && model_value(model, CAVMAE_P_JOINT_DEPTH) == 1);
        CHECK(model_value(model, CAVMAE_P_AUDIO_FRAMES) == 1024 && model_value(model, CAVMAE_P_IMAGE_SIZE) == 24);
        CHECK(model_value(model, CAVMAE_P_TRAINABLE_POS) == 0 && model_value(model, CAVMAE_P_DECODER_DEPTH) == 1);
        cavmae_model_free(model);
    }
    /* What is no part of it is told. */
    bag_add(&shared_bag, "fc_norm.weight", 1, (const int64_t[]){WIDTH});
    bag_save(&shared_bag, path);
    cavmae_model *model = NULL;
    CHECK_STATUS(cavmae_model_load(context, path, 0, NULL, &model), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), "fc_norm.weight"));
    cavmae_model_free(load(path, CAVMAE_LOAD_ALLOW_UNEXPECTED, NULL));
    bag_drop(&shared_bag, "fc_norm.weight");
    bag_drop(&shared_bag, "norm.bias");
    bag_save(&shared_bag, path);
    CHECK_STATUS(cavmae_model_load(context, path, 0, NULL, &model), CAVMAE_E_MISMATCH);
    CHECK(strstr(cavmae_last_error(), "norm_a.bias"));
    bag_empty(&shared_bag);

    add_vision_mae(0); /* as the encoders are published, without decoders */
    bag_save(&shared_bag, path);
    model = load(path, 0, &report);
    CHECK(report.missing == 3 && model_value(model, CAVMAE_P_DECODER) == 0);
    cavmae_model_free(model);
    bag_reshape(&shared_bag, "patch_embed.proj.weight", CAVMAE_FLOAT32, 4, (const int64_t[]){WIDTH, 3, 14, 14});
    fail_to_load("patches that 128 mel bins are no multiple of", CAVMAE_E_FORMAT, "patch_size 14");
    bag_drop_all(&shared_bag, "blocks");
    fail_to_load("no layers", CAVMAE_E_FORMAT, "blocks.0");
    bag_empty(&shared_bag);
}

/* ---- Golden checkpoints ---- */

static void check_values(cavmae_model *model, const char *path, double tolerance) {
    cavmae_safetensors *file;
    const char *name;
    if (!CHECK_OK(cavmae_safetensors_open(context, path, &file))) return;
    for (int64_t i = 0; (name = cavmae_safetensors_name(file, i)) != NULL; i++) {
        cavmae_tensor *expected, *got;
        double worst = 0;
        CHECK_OK(cavmae_safetensors_get(file, name, &expected));
        if (!CHECK_OK(cavmae_model_parameter(model, name, &got))) continue;
        CHECK(cavmae_tensor_elements(got) == cavmae_tensor_elements(expected));
        const float *x = cavmae_tensor_data(got), *y = cavmae_tensor_data(expected);
        for (int64_t k = 0; k < cavmae_tensor_elements(got); k++) worst = fmax(worst, fabs((double)(x[k] - y[k])));
        if (!CHECK(worst <= tolerance)) printf("    %s: %g\n", name, worst);
        cavmae_tensor_free(expected);
        cavmae_tensor_free(got);
    }
    cavmae_safetensors_free(file);
}

static void test_golden(void) {
    static const struct {
        const char *name;
        double tolerance;
    } good[] = {{"plain", 0},    {"dataparallel", 0},   {"legacy", 0},        {"nested_model", 0}, {"strided", 0},
                {"deflated", 0}, {"shared_storage", 0}, {"float16", 0x1p-11}, {"bfloat16", 0x1p-8}};
    static const char *const bad[] = {"hostile_eval",   "hostile_raw",    "hostile_system", "truncated_half",
                                      "truncated_tail", "truncated_head", "truncated_empty"};
    char path[200];
    if (access(GOLDEN, R_OK) != 0) return;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cavmae_load_report report;
        snprintf(path, sizeof path, GOLDEN "%s.pth", good[i].name);
        cavmae_model *model = load(path, 0, &report);
        if (!model) continue;
        CHECK(report.matched == cavmae_model_parameter_count(model) && report.matched == 207);
        CHECK(model_value(model, CAVMAE_P_NUM_HEADS) == 4 && model_value(model, CAVMAE_P_DECODER_HEADS) == 4);
        check_values(model, GOLDEN "expect.safetensors", good[i].tolerance);
        cavmae_model_free(model);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cavmae_model *out = NULL;
        snprintf(path, sizeof path, GOLDEN "%s.pth", bad[i]);
        cavmae_status status = cavmae_model_load(context, path, 3, NULL, &out);
        CHECK(status == CAVMAE_E_FORMAT || status == CAVMAE_E_UNSUPPORTED);
        CHECK(strstr(cavmae_last_error(), path) && out == NULL);
    }
    CHECK(access("cavmae_pickle_was_executed", F_OK) != 0);
    cavmae_model *model = load(GOLDEN "finetuned.pth", 0, NULL);
    CHECK(model_value(model, CAVMAE_P_CLASSES) == 7 && model_value(model, CAVMAE_P_MODALITY_DEPTH) == 3);
    cavmae_model_free(model);
    model = load(GOLDEN "vision_mae.pth", 0, NULL);
    check_values(model, GOLDEN "vision_mae_expect.safetensors", 0);
    CHECK(model_value(model, CAVMAE_P_TRAINABLE_POS) == 1); /* theirs are no sines */
    cavmae_model_free(model);
}

/* ---- No memory ---- */

static cavmae_status load_once(cavmae_context *failing, void *path) {
    cavmae_model *model = NULL;
    cavmae_status status = cavmae_model_load(failing, path, 0, NULL, &model);
    cavmae_model_free(model);
    return status;
}

static void test_no_memory(void) {
    static const char small[] = SMALLEST " mel_bins=128 patch_size=16 image_size=32 modality_depth=1 num_heads=4";
    fail_everywhere("inferred", load_once, save_bare(small, "bare"));
    fail_everywhere("torch", load_once, save_bare(small, "bare.pth"));
    add_vision_mae(1);
    bag_save(&shared_bag, in_directory("vision"));
    bag_empty(&shared_bag);
    fail_everywhere("vision", load_once, in_directory("vision"));
}

int main(void) {
    open_directory();
    test_inferred();
    test_odd_ratio();
    test_dtypes();
    test_float16();
    test_leftovers();
    test_lies();
    test_expanded();
    test_vision_mae();
    test_golden();
    test_no_memory();
    return close_directory("import");
}
