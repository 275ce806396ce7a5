/* Keys, ranges, words, presets, what must fit together, and JSON. */
#define _GNU_SOURCE
#include <locale.h>

#include "config.h"
#include "tiny.h"

static cavmae_context *context;

static cavmae_config *base(void) {
    cavmae_config *config = NULL;
    if (!CHECK_OK(cavmae_config_create(context, NULL, &config))) exit(1);
    return config;
}

/* The last error names this. */
static int says(const char *words) {
    int good = strstr(cavmae_last_error(), words) != NULL;
    if (!good) printf("\"%s\" does not say \"%s\"\n", cavmae_last_error(), words);
    return good;
}

static const char *text_of(const cavmae_config *config, int32_t key) {
    const char *text = NULL;
    CHECK_OK(cavmae_config_get_str(config, key, &text));
    return text ? text : "";
}

/* ---- Every key, as key_info describes it ---- */

static void check_number(cavmae_config *config, const cavmae_key_info *info) {
    char text[64];
    double values[2] = {info->min, info->max}, step = info->type == CAVMAE_TYPE_I64 ? 1 : 1 + fabs(info->max);
    for (int i = 0; i < 2; i++) {
        double outside = i ? values[1] + step : values[0] - step, back = -1;
        int64_t integer = -1;
        snprintf(text, sizeof text, "%.17g", values[i]);
        CHECK_OK(cavmae_config_set(config, info->name, text));
        if (info->type == CAVMAE_TYPE_I64) {
            CHECK_OK(cavmae_config_get_i64(config, info->key, &integer));
            CHECK(integer == (int64_t)values[i]);
            CHECK_STATUS(cavmae_config_get_f64(config, info->key, &back), CAVMAE_E_ARG);
            CHECK_STATUS(cavmae_config_set_i64(config, info->key, (int64_t)outside), CAVMAE_E_ARG);
        } else {
            CHECK_OK(cavmae_config_get_f64(config, info->key, &back));
            CHECK(back == values[i]);
            CHECK_STATUS(cavmae_config_get_i64(config, info->key, &integer), CAVMAE_E_ARG);
            CHECK_STATUS(cavmae_config_set_f64(config, info->key, outside), CAVMAE_E_ARG);
        }
        CHECK(says(info->name) && says("outside"));
        CHECK_STATUS(cavmae_config_set_str(config, info->key, text), CAVMAE_E_ARG);
        CHECK(says(info->name));
        CHECK_STATUS(cavmae_config_set(config, info->name, "seven"), CAVMAE_E_ARG);
        CHECK(says(info->name) && says("'seven'"));
        CHECK_STATUS(cavmae_config_set(config, info->name, ""), CAVMAE_E_ARG);
        CHECK_STATUS(cavmae_config_set(config, info->name, "1e999"), CAVMAE_E_ARG);
        CHECK(strtod(text_of(config, info->key), NULL) == values[i]); /* as before the failures */
    }
}

static void check_words(cavmae_config *config, const cavmae_key_info *info) {
    char choices[128], *rest = NULL;
    snprintf(choices, sizeof choices, "%s", info->choices);
    for (char *word = strtok_r(choices, "|", &rest); word; word = strtok_r(NULL, "|", &rest)) {
        CHECK_OK(cavmae_config_set_str(config, info->key, word));
        CHECK(strcmp(text_of(config, info->key), word) == 0);
        CHECK_OK(cavmae_config_set(config, info->name, word));
    }
    CHECK_STATUS(cavmae_config_set(config, info->name, info->choices), CAVMAE_E_ARG);
    CHECK(says(info->name) && says(info->choices));
    CHECK_STATUS(cavmae_config_set(config, info->name, ""), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set_i64(config, info->key, 0), CAVMAE_E_ARG);
}

static void test_keys(void) {
    cavmae_config *config = base();
    cavmae_key_info info = {.struct_size = sizeof info};
    int32_t count = 0, last = 0;
    for (; cavmae_config_key_info(count, &info) == CAVMAE_OK; count++) {
        CHECK(info.key > last && info.struct_size == sizeof info && info.reserved == 0);
        last = info.key;
        const char *preset = text_of(config, info.key);
        char kept[512];
        snprintf(kept, sizeof kept, "%s", preset);
        if (info.type != CAVMAE_TYPE_STR)
            check_number(config, &info);
        else if (info.choices)
            check_words(config, &info);
        CHECK_OK(cavmae_config_set(config, info.name, kept));
    }
    CHECK(count == 90);
    CHECK(says("90 keys"));
    CHECK_STATUS(cavmae_config_key_info(-1, &info), CAVMAE_E_NOT_FOUND);
    CHECK_STATUS(cavmae_config_key_info(0, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set(config, "mask_ratio", "0"), CAVMAE_E_NOT_FOUND);
    CHECK(says("'mask_ratio'"));
    CHECK_STATUS(cavmae_config_set_i64(config, 99, 0), CAVMAE_E_NOT_FOUND);
    CHECK(says("99"));
    CHECK_STATUS(cavmae_config_set(config, "lr", NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set(NULL, "lr", "1"), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set_f64(config, CAVMAE_P_LR, NAN), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set(config, "batch", "3.5"), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_set(config, "batch", "99999999999999999999"), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_config_get_str(config, CAVMAE_P_LR, NULL), CAVMAE_E_ARG);
    char long_text[600];
    memset(long_text, '1', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    CHECK_STATUS(cavmae_config_set(config, "milestones", long_text), CAVMAE_E_ARG);
    CHECK(says("milestones"));
    cavmae_config_free(config);
}

/* A program built against an older or a newer header. */
static void test_record_sizes(void) {
    union {
        cavmae_key_info info;
        unsigned char bytes[sizeof(cavmae_key_info) + 32];
    } u;
    memset(&u, 0xAB, sizeof u);
    u.info.struct_size = offsetof(cavmae_key_info, name);
    CHECK_OK(cavmae_config_key_info(0, &u.info));
    CHECK(u.info.key == CAVMAE_P_IMAGE_SIZE && u.info.type == CAVMAE_TYPE_I64);
    CHECK(u.bytes[offsetof(cavmae_key_info, name)] == 0xAB); /* nothing is written past the caller's struct */
    memset(&u, 0xAB, sizeof u);
    u.info.struct_size = sizeof u;
    CHECK_OK(cavmae_config_key_info(0, &u.info));
    CHECK(u.info.struct_size == sizeof u && strcmp(u.info.name, "image_size") == 0);
    CHECK(u.bytes[sizeof u - 1] == 0); /* what this library does not know is zero */
    u.info.struct_size = 0;
    CHECK_STATUS(cavmae_config_key_info(0, &u.info), CAVMAE_E_ARG);
}

static void test_presets(void) {
    cavmae_config *config = base(), *other = NULL;
    cavmae__options o;
    CHECK_OK(cavmae_config_check(config));
    CHECK_OK(cavmae__config_options(config, &o));
    CHECK(o.image_size == 224 && o.audio_frames == 1024 && o.mel_bins == 128 && o.patch_size == 16);
    CHECK(o.embed_dim == 768 && o.num_heads == 12 && o.modality_depth == 11 && o.joint_depth == 1);
    CHECK(o.decoder_dim == 512 && o.decoder_heads == 16 && o.decoder_depth == 8 && o.mlp_ratio == 4);
    CHECK(o.layer_norm_eps == 1e-5 && o.dtype == CAVMAE_FLOAT32 && o.modalities == CAVMAE__MODALITIES_AV);
    CHECK(o.audio_mean == -5.081 && o.audio_std == 4.4849 && o.audio.mean == -5.081f && o.image.std[2] == 0.225f);
    CHECK(o.lr == 5e-5 && o.beta1 == 0.95 && o.beta2 == 0.999 && o.adam_eps == 1e-8 && o.weight_decay == 5e-7);
    CHECK(o.mae_weight == 1 && o.contrast_weight == 0.01 && o.contrast_temperature == 0.05 && o.norm_pix_loss == 1);
    CHECK(o.mask_ratio_a == 0.75 && o.mask_ratio_v == 0.75 && o.batch == 48 && o.gamma == 0.5 && o.frame == -1);
    CHECK_OK(cavmae_config_set(config, "lr", "0.125"));
    CHECK_OK(cavmae_config_clone(config, &other));
    CHECK_OK(cavmae_config_set(config, "lr", "0.25"));
    CHECK(strcmp(text_of(other, CAVMAE_P_LR), "0.125") == 0); /* a copy of its own */
    cavmae_config_free(other);
    CHECK_OK(cavmae_config_create(context, "tiny", &other));
    CHECK_OK(cavmae__config_options(other, &o));
    CHECK(o.audio_frames == 128 && o.image_size == 64 && o.embed_dim == 32 && o.num_heads == 4);
    CHECK(o.modality_depth == 3 && o.joint_depth == 1 && o.decoder_dim == 16 && o.decoder_depth == 2);
    cavmae_config_free(other);
    other = NULL;
    CHECK_STATUS(cavmae_config_create(context, "huge", &other), CAVMAE_E_NOT_FOUND);
    CHECK(says("'huge'") && other == NULL);
    CHECK_STATUS(cavmae_config_create(NULL, NULL, &other), CAVMAE_E_ARG);
    cavmae_config_free(config);
    cavmae_config_free(NULL);
}

/* ---- What must fit together ---- */

static void test_check(void) {
    static const struct {
        const char *settings, *says;
        cavmae_status status;
    } bad[] = {
        {"image_size=220", "image_size 220", CAVMAE_E_SHAPE},
        {"audio_frames=1000", "audio_frames 1000", CAVMAE_E_SHAPE},
        {"mel_bins=100", "mel_bins 100", CAVMAE_E_SHAPE},
        {"num_heads=7", "num_heads 7", CAVMAE_E_SHAPE},
        {"embed_dim=774 num_heads=3", "embed_dim 774", CAVMAE_E_SHAPE},
        {"decoder_heads=3", "decoder_heads 3", CAVMAE_E_SHAPE},
        {"decoder_dim=510 decoder_heads=10", "decoder_dim 510", CAVMAE_E_SHAPE},
        {"embed_dim=12 mlp_ratio=0.05", "mlp_ratio", CAVMAE_E_SHAPE},
        {"mask_ratio_a=0.9981", "mask_ratio_a", CAVMAE_E_ARG},
        {"mask_ratio_v=1", "mask_ratio_v", CAVMAE_E_ARG},
        {"mask_domain=joint", "contrast_weight", CAVMAE_E_ARG},
        {"mask_domain=joint modalities=a", "mask_domain", CAVMAE_E_ARG},
        {"mask_domain=joint contrast_weight=0 mask_ratio_a=1", "mask_ratio_a", CAVMAE_E_ARG},
        {"schedule=cosine", "total_steps", CAVMAE_E_ARG},
        {"schedule=cosine total_steps=10 warmup_steps=10", "warmup_steps", CAVMAE_E_ARG},
        {"schedule=cosine mask_domain=joint contrast_weight=0", "total_steps", CAVMAE_E_ARG},
        {"image_channels=1", "image_mean", CAVMAE_E_ARG},
        {"image_mean=1,2", "image_mean", CAVMAE_E_ARG},
        {"image_mean=1,2,x", "image_mean", CAVMAE_E_ARG},
        {"image_mean=1,2,3,", "image_mean", CAVMAE_E_ARG},
        {"image_mean=1,2,nan", "image_mean", CAVMAE_E_ARG},
        {"image_std=1,0,1", "image_std", CAVMAE_E_ARG},
        {"milestones=5,5", "milestones", CAVMAE_E_ARG},
        {"milestones=1.5", "milestones", CAVMAE_E_ARG},
        {"milestones=-1", "milestones", CAVMAE_E_ARG},
    };
    static const char *const good[] = {
        "mask_ratio_a=0.998", /* one of 512 tokens stays */
        "modalities=v mask_ratio_a=1",
        "modalities=a mask_ratio_v=1",
        "mask_domain=joint contrast_weight=0",
        "schedule=cosine total_steps=11 warmup_steps=10",
        "image_channels=1 image_mean=0.5 image_std=0.5",
        "milestones=1,2,1000000000000",
        "modality_depth=0 joint_depth=12",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cavmae_config *config = base();
        cavmae_model *model = NULL;
        tiny_set(config, bad[i].settings);
        CHECK_STATUS(cavmae_config_check(config), bad[i].status);
        CHECK(says(bad[i].says));
        CHECK_STATUS(cavmae_model_create(config, &model), bad[i].status);
        CHECK(model == NULL);
        cavmae_config_free(config);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cavmae_config *config = base();
        tiny_set(config, good[i]);
        CHECK_OK(cavmae_config_check(config));
        cavmae_config_free(config);
    }
    CHECK_STATUS(cavmae_config_check(NULL), CAVMAE_E_ARG);
}

/* ---- JSON ---- */

/* Every key away from its preset, there and back. */
static void test_json(void) {
    cavmae_config *config = base(), *back = NULL;
    cavmae_key_info info = {.struct_size = sizeof info};
    char *json = NULL;
    for (int32_t i = 0; cavmae_config_key_info(i, &info) == CAVMAE_OK; i++) {
        if (info.type == CAVMAE_TYPE_I64) CHECK_OK(cavmae_config_set_i64(config, info.key, (int64_t)info.max));
        if (info.type == CAVMAE_TYPE_F64)
            CHECK_OK(cavmae_config_set_f64(config, info.key, info.min + (info.max - info.min) / 3));
        if (info.choices) CHECK_OK(cavmae_config_set(config, info.name, strrchr(info.choices, '|') + 1));
    }
    CHECK_OK(cavmae_config_set(config, "milestones", "1,\"\\\x01\t2"));
    CHECK_OK(cavmae_config_set(config, "image_mean", "\xC3\xA9"));
    CHECK_OK(cavmae__config_to_json(config, &json));
    CHECK_OK(cavmae__config_from_json(context, json, &back));
    for (int32_t i = 0; back && cavmae_config_key_info(i, &info) == CAVMAE_OK; i++) {
        double x[2] = {0, 1};
        if (info.type == CAVMAE_TYPE_F64) {
            CHECK_OK(cavmae_config_get_f64(config, info.key, &x[0]));
            CHECK_OK(cavmae_config_get_f64(back, info.key, &x[1]));
            CHECK(x[0] == x[1]); /* to the last bit */
        } else {
            CHECK(strcmp(text_of(config, info.key), text_of(back, info.key)) == 0);
        }
    }
    cavmae__free(context, json);
    cavmae_config_free(back);
    cavmae_config_free(config);

    static const char *const bad[][2] = {
        {"", "configuration"},       {"[]", "configuration"},         {"{\"lr\": 1", "configuration"},
        {"{\"lr\": \"x\"}", "lr"},   {"{\"lr\": {}}", "lr"},          {"{\"dtype\": \"int8\"}", "dtype"},
        {"{\"batch\": 0}", "batch"}, {"{\"new_key\": 1}", "new_key"}, {"{\"lr\": 1} x", "configuration"},
        {"{\"lr\": null}", "lr"},    {"{\"batch\": 1.5}", "batch"},
    };
    back = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(cavmae__config_from_json(context, bad[i][0], &back) != CAVMAE_OK);
        CHECK(says(bad[i][1]) && back == NULL);
    }
    CHECK_OK(cavmae__config_from_json(context, " { \"lr\" : 0.5 } ", &back)); /* the rest: base */
    CHECK(strcmp(text_of(back, CAVMAE_P_LR), "0.5") == 0 && strcmp(text_of(back, CAVMAE_P_BATCH), "48") == 0);
    cavmae_config_free(back);
}

/* Where a program has set a locale with a decimal comma. */
static void test_locale(void) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "pt_BR.UTF-8"};
    size_t i = 0;
    while (i < sizeof names / sizeof *names && !setlocale(LC_ALL, names[i])) i++;
    if (i == sizeof names / sizeof *names) {
        printf("no locale with a decimal comma is installed: not tested\n");
        return;
    }
    char comma[16];
    snprintf(comma, sizeof comma, "%.1f", 0.5);
    CHECK(strcmp(comma, "0,5") == 0);
    cavmae_config *config = base(), *back = NULL;
    char *json = NULL;
    double lr = 0;
    CHECK_OK(cavmae_config_set(config, "lr", "0.125"));
    CHECK_STATUS(cavmae_config_set(config, "lr", "0,125"), CAVMAE_E_ARG);
    CHECK_OK(cavmae_config_get_f64(config, CAVMAE_P_LR, &lr));
    CHECK(lr == 0.125);
    CHECK_OK(cavmae_config_set_f64(config, CAVMAE_P_LR, 0.375));
    CHECK(strcmp(text_of(config, CAVMAE_P_LR), "0.375") == 0);
    CHECK_OK(cavmae_config_set(config, "milestones", "1,2"));
    CHECK_OK(cavmae_config_check(config)); /* image_mean is a list of fractions */
    CHECK_OK(cavmae__config_to_json(config, &json));
    CHECK_OK(cavmae__config_from_json(context, json, &back));
    CHECK_OK(cavmae_config_get_f64(back, CAVMAE_P_LR, &lr));
    CHECK(lr == 0.375);
    cavmae__free(context, json);
    cavmae_config_free(back);
    cavmae_config_free(config);
    setlocale(LC_ALL, "C");
}

int main(void) {
    context = tiny_context(1);
    test_keys();
    test_record_sizes();
    test_presets();
    test_check();
    test_json();
    test_locale();
    cavmae_context_free(context);
    return check_summary("config");
}
