#include "infer_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "parameters.h"
#include "widen.h"

enum { MAX_LAYERS = 256, HEAD_WIDTH = 64, DECODER_HEAD_WIDTH = 32, NARROW_HEADS = 4 };

typedef struct inference {
    cavmae_context *context;
    const cavmae__weights *weights;
    cavmae_config *config;
    int64_t patch, width;
} inference;

/* ---- Tensors and keys ---- */

static cavmae_status misfit(const inference *in, const cavmae__weight *weight, const char *why) {
    char shape[CAVMAE__SHAPE_TEXT];
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor '%s' is %s: %s", cavmae__weights_path(in->weights), weight->name,
                        cavmae__shape_text(weight->dims, weight->shape, shape), why);
}

/* A tensor that has to be there, with so many dimensions and elements in them. */
static cavmae_status take(const inference *in, const char *name, int32_t dims, const cavmae__weight **out) {
    const cavmae__weight *weight = cavmae__weights_find(in->weights, name);
    if (!weight)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: no tensor '%s', without which the configuration cannot be told",
                            cavmae__weights_path(in->weights), name);
    if (!cavmae__is_floating(weight->dtype)) return misfit(in, weight, "its elements are no floating-point numbers");
    if (weight->dims != dims) return misfit(in, weight, "not the number of dimensions that it has in these models");
    for (int32_t i = 0; i < dims; i++)
        if (weight->shape[i] < 1) return misfit(in, weight, "nothing is in it");
    *out = weight;
    return CAVMAE_OK;
}

/* Sets what `weight` (or a group of tensors, NULL) says. */
static cavmae_status set(const inference *in, const cavmae__weight *weight, int32_t key, int64_t value) {
    cavmae_status status = cavmae_config_set_i64(in->config, key, value);
    if (status == CAVMAE_OK) return status;
    if (weight) cavmae__fail_prefix(status, "tensor '%s'", weight->name);
    return cavmae__fail_prefix(CAVMAE_E_FORMAT, "%s", cavmae__weights_path(in->weights));
}

/* How many layers "stem.0.", "stem.1.", ... there are. */
static cavmae_status count_layers(const inference *in, const char *stem, int64_t *count) {
    uint8_t seen[MAX_LAYERS] = {0};
    const cavmae__weight *last = NULL;
    int64_t highest = -1;
    size_t length = strlen(stem);
    for (int64_t i = 0; i < cavmae__weights_count(in->weights); i++) {
        const cavmae__weight *weight = cavmae__weights_at(in->weights, i);
        if (strncmp(weight->name, stem, length) != 0 || weight->name[length] != '.') continue;
        char *end = NULL;
        const char *digits = weight->name + length + 1;
        long number = *digits >= '0' && *digits <= '9' ? strtol(digits, &end, 10) : MAX_LAYERS;
        if (number >= MAX_LAYERS || *end != '.') return misfit(in, weight, "no layer of these models has that number");
        seen[number] = 1;
        if (number > highest) highest = number, last = weight;
    }
    for (int64_t i = 0; i < highest; i++)
        if (!seen[i])
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: tensor '%s' is there, but none of layer %s.%lld",
                                cavmae__weights_path(in->weights), last->name, stem, (long long)i);
    *count = highest + 1;
    return CAVMAE_OK;
}

static int64_t heads(int64_t width, int64_t each) { return width % each ? NARROW_HEADS : width / each; }

/* ---- Parts of the configuration ---- */

/* The largest ratio that both hidden widths allow: it is at most the one they were made with, so it gives them back. */
static cavmae_status infer_mlp_ratio(const inference *in, const char *const layers[], const int64_t widths[],
                                     int32_t count) {
    const cavmae__weight *fc1 = NULL;
    double ratio = 0;
    char name[64];
    for (int32_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.0.mlp.fc1.weight", layers[i]);
        if (!cavmae__weights_find(in->weights, name)) continue; /* no layers, or one that will be missed */
        CAVMAE__TRY(take(in, name, 2, &fc1));
        double own = (double)fc1->shape[0] / (double)widths[i];
        while (cavmae__hidden(widths[i], own) < fc1->shape[0]) own = nextafter(own, INFINITY);
        if (own <= ratio) continue;
        ratio = own;
        if (cavmae_config_set_f64(in->config, CAVMAE_P_MLP_RATIO, ratio) != CAVMAE_OK)
            return misfit(in, fc1, "no ratio of a hidden width to its layer's that these models have");
    }
    return CAVMAE_OK;
}

/* A preset's size, as patches of another side allow it: for what a model has no tensors of. */
static cavmae_status fit_preset(const inference *in, int32_t key) {
    int64_t value = 0;
    CAVMAE__TRY(cavmae_config_get_i64(in->config, key, &value));
    return set(in, NULL, key, value < in->patch ? in->patch : value / in->patch * in->patch);
}

/* Another number of colours than three: each gets the mean of the three's numbers. */
static cavmae_status set_colours(const inference *in, const cavmae__weight *embed, int64_t channels) {
    static const struct {
        int32_t key;
        double mean;
    } lists[] = {{CAVMAE_P_IMAGE_MEAN, (0.485 + 0.456 + 0.406) / 3}, {CAVMAE_P_IMAGE_STD, (0.229 + 0.224 + 0.225) / 3}};
    CAVMAE__TRY(set(in, embed, CAVMAE_P_IMAGE_CHANNELS, channels)); /* which bounds it */
    for (int i = 0; i < 2 && channels != 3; i++) {
        char text[CAVMAE__MAX_IMAGE_CHANNELS * 32] = "";
        size_t n = 0;
        for (int64_t c = 0; c < channels; c++) {
            char number[32];
            cavmae__format_f64(number, lists[i].mean);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", c ? "," : "", number);
        }
        CAVMAE__TRY(cavmae_config_set_str(in->config, lists[i].key, text));
    }
    return CAVMAE_OK;
}

/* proj.weight [D, channels, p, p]: the first one sets width and patch, the second must agree. */
static cavmae_status infer_patches(inference *in, const char *name, const cavmae__weight **out) {
    const cavmae__weight *embed = NULL;
    CAVMAE__TRY(take(in, name, 4, &embed));
    if (embed->shape[2] != embed->shape[3]) return misfit(in, embed, "patches are square in these models");
    if (in->patch && (embed->shape[0] != in->width || embed->shape[2] != in->patch))
        return misfit(in, embed, "another width or patch than that for sound");
    in->width = embed->shape[0];
    in->patch = embed->shape[2];
    CAVMAE__TRY(set(in, embed, CAVMAE_P_EMBED_DIM, in->width));
    CAVMAE__TRY(set(in, embed, CAVMAE_P_PATCH_SIZE, in->patch));
    CAVMAE__TRY(set(in, embed, CAVMAE_P_NUM_HEADS, heads(in->width, HEAD_WIDTH)));
    *out = embed;
    return CAVMAE_OK;
}

static cavmae_status infer_audio_grid(const inference *in, const cavmae__weight *table) {
    int64_t mel_bins = 0;
    CAVMAE__TRY(cavmae_config_get_i64(in->config, CAVMAE_P_MEL_BINS, &mel_bins));
    int64_t rows = mel_bins / in->patch, tokens = table->shape[1];
    if (mel_bins % in->patch || tokens % rows)
        return misfit(in, table, "its positions are no grid of patches over 128 mel bins");
    return set(in, table, CAVMAE_P_AUDIO_FRAMES, tokens / rows * in->patch);
}

/* `tokens` of the table are a picture's. */
static cavmae_status infer_image_grid(const inference *in, const cavmae__weight *table, int64_t tokens) {
    int64_t side = (int64_t)sqrt((double)tokens);
    if (side < 1 || side * side != tokens) return misfit(in, table, "its positions are no square of patches");
    return set(in, table, CAVMAE_P_IMAGE_SIZE, side * in->patch);
}

/* Half of the last bit of numbers up to 1, and float32's rounding of sines. */
static double rounding(int32_t dtype) {
    return 1e-6 + (dtype == CAVMAE_FLOAT16 ? 0x1p-12 : dtype == CAVMAE_BFLOAT16 ? 0x1p-9 : 0);
}

/* Is a table [1, skip + rows * columns, width] the sine-cosine one, but for its first rows? */
static cavmae_status is_fixed(const inference *in, const cavmae__weight *table, int64_t skip, int64_t rows,
                              int *fixed) {
    int64_t width = table->shape[2], tokens = table->shape[1] - skip;
    *fixed = 0;
    if (width % 4) return CAVMAE_OK;
    float *found = NULL, *expected = NULL;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY_OUT(cavmae__weights_new(in->weights, table, &found));
    CAVMAE__TRY_OUT(CAVMAE__NEW(in->context, &expected, tokens * width));
    cavmae__sincos_2d(width, rows, tokens / rows, expected);
    *fixed = 1;
    for (int64_t i = 0; i < tokens * width && *fixed; i++)
        *fixed = fabs((double)found[skip * width + i] - (double)expected[i]) <= rounding(table->dtype);
out:
    cavmae__free(in->context, found);
    cavmae__free(in->context, expected);
    return status;
}

/* The tables of encoder and decoder, which may be absent, for the grid that the configuration has now. */
static cavmae_status infer_trained(const inference *in, const char *const names[2], int64_t skip, int audio) {
    int64_t extent = 0;
    CAVMAE__TRY(cavmae_config_get_i64(in->config, audio ? CAVMAE_P_MEL_BINS : CAVMAE_P_IMAGE_SIZE, &extent));
    for (int i = 0; i < 2; i++) {
        const cavmae__weight *table = NULL;
        int fixed = 0;
        if (!cavmae__weights_find(in->weights, names[i])) continue;
        CAVMAE__TRY(take(in, names[i], 3, &table));
        int64_t rows = extent / in->patch;
        if (table->shape[1] <= skip || (table->shape[1] - skip) % rows)
            return misfit(in, table, "its positions are not those of the encoder");
        CAVMAE__TRY(is_fixed(in, table, skip, rows, &fixed));
        if (!fixed) CAVMAE__TRY(set(in, table, CAVMAE_P_TRAINABLE_POS, 1));
    }
    return CAVMAE_OK;
}

static cavmae_status infer_decoder(const inference *in, const char *layers) {
    const cavmae__weight *embed = NULL;
    int64_t depth = 0;
    const char *const stems[] = {layers, "decoder_blocks"};
    int64_t widths[] = {in->width, 0};
    if (!cavmae__weights_find(in->weights, "decoder_embed.weight")) {
        CAVMAE__TRY(set(in, NULL, CAVMAE_P_DECODER, 0));
        return infer_mlp_ratio(in, stems, widths, 1);
    }
    CAVMAE__TRY(take(in, "decoder_embed.weight", 2, &embed));
    widths[1] = embed->shape[0];
    CAVMAE__TRY(count_layers(in, "decoder_blocks", &depth));
    CAVMAE__TRY(set(in, embed, CAVMAE_P_DECODER_DIM, widths[1]));
    CAVMAE__TRY(set(in, embed, CAVMAE_P_DECODER_HEADS, heads(widths[1], DECODER_HEAD_WIDTH)));
    CAVMAE__TRY(set(in, NULL, CAVMAE_P_DECODER_DEPTH, depth));
    return infer_mlp_ratio(in, stems, widths, 2);
}

/* The data set whose clips have one class each, and whose models have a softmax behind their head. */
enum { VGGSOUND_CLASSES = 309 };

/* mlp_head.0 is a LayerNorm, mlp_head.1 linear; or mlp_head is linear. Its width tells what it sees; that of the sum of
 * both streams is that of the joint one, which is the reference's. */
static cavmae_status infer_head(const inference *in) {
    const cavmae__weight *head = NULL;
    int linear = cavmae__weights_find(in->weights, "mlp_head.weight") != NULL;
    if (!linear && !cavmae__weights_find(in->weights, "mlp_head.1.weight")) return CAVMAE_OK;
    CAVMAE__TRY(take(in, linear ? "mlp_head.weight" : "mlp_head.1.weight", 2, &head));
    CAVMAE__TRY(set(in, head, CAVMAE_P_CLASSES, head->shape[0]));
    if (head->shape[0] == VGGSOUND_CLASSES) CAVMAE__TRY(cavmae_config_set_str(in->config, CAVMAE_P_LOSS, "ce"));
    CAVMAE__TRY(cavmae_config_set_str(in->config, CAVMAE_P_HEAD, linear ? "linear" : "norm_linear"));
    if (head->shape[1] == 2 * in->width) CAVMAE__TRY(cavmae_config_set_str(in->config, CAVMAE_P_HEAD_INPUT, "concat"));
    return CAVMAE_OK;
}

/* ---- The authors' models ---- */

static cavmae_status infer_audio(inference *in, int64_t *depth) {
    const cavmae__weight *embed = NULL, *table = NULL;
    CAVMAE__TRY(infer_patches(in, "patch_embed_a.proj.weight", &embed));
    if (embed->shape[1] != 1) return misfit(in, embed, "sound has one channel");
    CAVMAE__TRY(take(in, "pos_embed_a", 3, &table));
    CAVMAE__TRY(infer_audio_grid(in, table));
    CAVMAE__TRY(infer_trained(in, (const char *const[]){"pos_embed_a", "decoder_pos_embed_a"}, 0, 1));
    return count_layers(in, "blocks_a", depth);
}

static cavmae_status infer_visual(inference *in, int64_t *depth) {
    const cavmae__weight *embed = NULL, *table = NULL;
    CAVMAE__TRY(infer_patches(in, "patch_embed_v.proj.weight", &embed));
    CAVMAE__TRY(set_colours(in, embed, embed->shape[1]));
    CAVMAE__TRY(take(in, "pos_embed_v", 3, &table));
    CAVMAE__TRY(infer_image_grid(in, table, table->shape[1]));
    CAVMAE__TRY(infer_trained(in, (const char *const[]){"pos_embed_v", "decoder_pos_embed_v"}, 0, 0));
    return count_layers(in, "blocks_v", depth);
}

static cavmae_status infer_authors(inference *in) {
    const int audio = cavmae__weights_find(in->weights, "patch_embed_a.proj.weight") != NULL,
              visual = cavmae__weights_find(in->weights, "patch_embed_v.proj.weight") != NULL;
    int64_t depth[2] = {0, 0}, joint = 0;
    if (audio) CAVMAE__TRY(infer_audio(in, &depth[0]));
    if (visual) CAVMAE__TRY(infer_visual(in, &depth[1]));
    if (audio && visual && depth[0] != depth[1])
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: %lld layers 'blocks_a', but %lld 'blocks_v'",
                            cavmae__weights_path(in->weights), (long long)depth[0], (long long)depth[1]);
    if (!audio || !visual) CAVMAE__TRY(cavmae_config_set_str(in->config, CAVMAE_P_MODALITIES, audio ? "a" : "v"));
    if (!audio) {
        CAVMAE__TRY(fit_preset(in, CAVMAE_P_MEL_BINS));
        CAVMAE__TRY(fit_preset(in, CAVMAE_P_AUDIO_FRAMES));
    }
    if (!visual) CAVMAE__TRY(fit_preset(in, CAVMAE_P_IMAGE_SIZE));
    CAVMAE__TRY(count_layers(in, "blocks_u", &joint));
    CAVMAE__TRY(set(in, NULL, CAVMAE_P_MODALITY_DEPTH, audio ? depth[0] : depth[1]));
    CAVMAE__TRY(set(in, NULL, CAVMAE_P_JOINT_DEPTH, joint));
    CAVMAE__TRY(infer_decoder(in, joint ? "blocks_u" : audio ? "blocks_a" : "blocks_v"));
    return infer_head(in);
}

/* ---- A vision MAE ---- */

static cavmae_status infer_vision(inference *in, int64_t *layers) {
    const cavmae__weight *embed = NULL, *table = NULL;
    CAVMAE__TRY(infer_patches(in, "patch_embed.proj.weight", &embed));
    CAVMAE__TRY(set_colours(in, embed, embed->shape[1]));
    CAVMAE__TRY(take(in, "pos_embed", 3, &table));
    CAVMAE__TRY(infer_image_grid(in, table, table->shape[1] - 1)); /* the first is the class token's */
    CAVMAE__TRY(infer_trained(in, (const char *const[]){"pos_embed", "decoder_pos_embed"}, 1, 0));
    CAVMAE__TRY(count_layers(in, "blocks", layers));
    if (*layers < 1)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: no layers 'blocks.0'", cavmae__weights_path(in->weights));
    CAVMAE__TRY(set(in, NULL, CAVMAE_P_MODALITY_DEPTH, *layers - 1));
    CAVMAE__TRY(set(in, NULL, CAVMAE_P_JOINT_DEPTH, 1));
    return infer_decoder(in, "blocks");
}

/* ---- Both ---- */

static cavmae_status finish(const inference *in) {
    if (cavmae_config_check(in->config) == CAVMAE_OK) return CAVMAE_OK;
    return cavmae__fail_prefix(CAVMAE_E_FORMAT, "%s", cavmae__weights_path(in->weights));
}

static cavmae_status infer(cavmae_context *context, const cavmae__weights *weights, int vision, int64_t *layers,
                           cavmae_config **out) {
    inference in = {.context = context, .weights = weights};
    cavmae_status status = cavmae_config_create(context, NULL, &in.config);
    if (status != CAVMAE_OK) return status;
    CAVMAE__TRY_OUT(vision ? infer_vision(&in, layers) : infer_authors(&in));
    CAVMAE__TRY_OUT(finish(&in));
    *out = in.config;
    return CAVMAE_OK;
out:
    cavmae_config_free(in.config);
    return status;
}

cavmae_status cavmae__infer_cav_mae(cavmae_context *context, const cavmae__weights *weights, cavmae_config **out) {
    return infer(context, weights, 0, NULL, out);
}

cavmae_status cavmae__infer_vision_mae(cavmae_context *context, const cavmae__weights *weights, int64_t *layers,
                                       cavmae_config **out) {
    return infer(context, weights, 1, layers, out);
}
