#include "vision_mae.h"

#include <stdio.h>
#include <string.h>

/* If `name` is "stem.N.rest" gives N and rest. */
static int is_layer(const char *name, const char *stem, int *number, const char **rest) {
    size_t length = strlen(stem);
    if (strncmp(name, stem, length) != 0 || name[length] != '.') return 0;
    name += length + 1;
    *number = 0;
    for (; *name >= '0' && *name <= '9'; name++) *number = *number * 10 + (*name - '0');
    *rest = name + 1;
    return *name == '.';
}

/* "norm1_a.weight" is a stream's own LayerNorm, "norm1.weight" the one that a vision MAE has too. */
static int is_stream_norm(const char *rest) { return strncmp(rest, "norm", 4) == 0 && rest[4] && rest[5] == '_'; }

static int layer_origin(const char *parameter, int64_t layers, char name[CAVMAE__TENSOR_NAME]) {
    int number;
    const char *rest;
    if (is_layer(parameter, "blocks_a", &number, &rest) || is_layer(parameter, "blocks_v", &number, &rest)) {
        snprintf(name, CAVMAE__TENSOR_NAME, "blocks.%d.%s", number, rest);
        return !is_stream_norm(rest);
    }
    if (is_layer(parameter, "blocks_u", &number, &rest)) {
        int stream = is_stream_norm(rest); /* norm1_a.weight: norm1 .weight */
        snprintf(name, CAVMAE__TENSOR_NAME, "blocks.%lld.%.*s%s", (long long)layers - 1, stream ? 5 : 0, rest,
                 stream ? rest + 7 : rest);
        return 1;
    }
    if (is_layer(parameter, "decoder_blocks", &number, &rest)) {
        snprintf(name, CAVMAE__TENSOR_NAME, "%s", parameter);
        return !is_stream_norm(rest);
    }
    return 0;
}

int cavmae__vision_mae_origin(const cavmae__parameter *parameter, int64_t layers, int64_t channels,
                              char name[CAVMAE__TENSOR_NAME], int32_t *how, int64_t shape[4]) {
    static const struct {
        const char *parameter, *tensor;
        int32_t how;
    } origins[] = {
        {"mask_token", "mask_token", CAVMAE__AS_IT_IS},
        {"pos_embed_v", "pos_embed", CAVMAE__WITHOUT_FIRST},
        {"decoder_pos_embed_v", "decoder_pos_embed", CAVMAE__WITHOUT_FIRST},
        {"patch_embed_a.proj.weight", "patch_embed.proj.weight", CAVMAE__OVER_COLOURS},
        {"patch_embed_a.proj.bias", "patch_embed.proj.bias", CAVMAE__AS_IT_IS},
        {"patch_embed_v.proj.weight", "patch_embed.proj.weight", CAVMAE__AS_IT_IS},
        {"patch_embed_v.proj.bias", "patch_embed.proj.bias", CAVMAE__AS_IT_IS},
        {"norm_a.weight", "norm.weight", CAVMAE__AS_IT_IS},
        {"norm_a.bias", "norm.bias", CAVMAE__AS_IT_IS},
        {"norm_v.weight", "norm.weight", CAVMAE__AS_IT_IS},
        {"norm_v.bias", "norm.bias", CAVMAE__AS_IT_IS},
        {"norm.weight", "norm.weight", CAVMAE__AS_IT_IS},
        {"norm.bias", "norm.bias", CAVMAE__AS_IT_IS},
        {"decoder_embed.weight", "decoder_embed.weight", CAVMAE__AS_IT_IS},
        {"decoder_embed.bias", "decoder_embed.bias", CAVMAE__AS_IT_IS},
        {"decoder_norm.weight", "decoder_norm.weight", CAVMAE__AS_IT_IS},
        {"decoder_norm.bias", "decoder_norm.bias", CAVMAE__AS_IT_IS},
        {"decoder_pred_a.weight", "decoder_pred.weight", CAVMAE__FIRST_OF_PREDICTOR},
        {"decoder_pred_a.bias", "decoder_pred.bias", CAVMAE__FIRST_OF_PREDICTOR},
        {"decoder_pred_v.weight", "decoder_pred.weight", CAVMAE__AS_IT_IS},
        {"decoder_pred_v.bias", "decoder_pred.bias", CAVMAE__AS_IT_IS},
    };
    *how = CAVMAE__AS_IT_IS;
    if (layer_origin(parameter->name, layers, name)) return 1;
    size_t i = 0, count = sizeof origins / sizeof origins[0];
    while (i < count && strcmp(origins[i].parameter, parameter->name) != 0) i++;
    if (i == count) return 0;
    snprintf(name, CAVMAE__TENSOR_NAME, "%s", origins[i].tensor);
    *how = origins[i].how;
    if (*how == CAVMAE__OVER_COLOURS) shape[1] *= channels;
    if (*how == CAVMAE__WITHOUT_FIRST) shape[1] += 1;
    if (*how == CAVMAE__FIRST_OF_PREDICTOR) shape[0] *= channels;
    return 1;
}

/* to [outer, inner] = sum over c of from [outer, channels, inner], or its mean. */
static void fold_channels(int64_t outer, int64_t channels, int64_t inner, int mean, const float *from, float *to) {
    for (int64_t o = 0; o < outer; o++, to += inner) {
        memcpy(to, from, (size_t)inner * sizeof *to);
        from += inner;
        for (int64_t c = 1; c < channels; c++, from += inner)
            for (int64_t i = 0; i < inner; i++) to[i] += from[i];
        for (int64_t i = 0; i < inner && mean; i++) to[i] /= (float)channels;
    }
}

void cavmae__vision_mae_make(const cavmae__parameter *parameter, int32_t how, int64_t channels, int mean,
                             const float *from, float *to) {
    const int64_t rows = parameter->shape[0], row = parameter->elements / rows;
    if (how == CAVMAE__WITHOUT_FIRST) from += parameter->shape[2];
    if (how == CAVMAE__OVER_COLOURS || (how == CAVMAE__FIRST_OF_PREDICTOR && mean))
        fold_channels(rows, channels, row, mean, from, to);
    else
        memcpy(to, from, (size_t)parameter->elements * sizeof *to);
}
