/* The configuration: one table of keys, from which setters, getters, ranges, names, presets and JSON follow. */
#include "config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "record.h"
#include "world.h"

enum { TEXT_SIZE = 512 };

#define NO_FIELD ((size_t)-1)

typedef struct key {
    int32_t number, type;
    const char *name;
    size_t offset;      /* of the field of cavmae__options with the same name */
    const char *preset; /* the value of "base" */
    double min, max;
    const char *choices;
} key;

#define FIELD(name) #name, offsetof(cavmae__options, name)
#define I64(number, name, preset, min, max)                                                                            \
    { number, CAVMAE_TYPE_I64, FIELD(name), preset, min, max, NULL }
#define F64(number, name, preset, min, max)                                                                            \
    { number, CAVMAE_TYPE_F64, FIELD(name), preset, min, max, NULL }
#define WORD(number, name, preset, choices)                                                                            \
    { number, CAVMAE_TYPE_STR, FIELD(name), preset, 0, 0, choices }
#define TEXT(number, name, preset)                                                                                     \
    { number, CAVMAE_TYPE_STR, name, NO_FIELD, preset, 0, 0, NULL }
#define MASK_MODES "unstructured|time|frequency|time_frequency"

static const key keys[] = {
    I64(CAVMAE_P_IMAGE_SIZE, image_size, "224", 1, 1 << 14),
    I64(CAVMAE_P_IMAGE_CHANNELS, image_channels, "3", 1, CAVMAE__MAX_IMAGE_CHANNELS),
    I64(CAVMAE_P_AUDIO_FRAMES, audio_frames, "1024", 1, 1 << 20),
    I64(CAVMAE_P_MEL_BINS, mel_bins, "128", 1, 1 << 12),
    I64(CAVMAE_P_PATCH_SIZE, patch_size, "16", 1, 256),
    I64(CAVMAE_P_EMBED_DIM, embed_dim, "768", 4, 1 << 14),
    I64(CAVMAE_P_NUM_HEADS, num_heads, "12", 1, 1 << 10),
    I64(CAVMAE_P_MODALITY_DEPTH, modality_depth, "11", 0, 256),
    I64(CAVMAE_P_JOINT_DEPTH, joint_depth, "1", 0, 256),
    I64(CAVMAE_P_DECODER_DIM, decoder_dim, "512", 4, 1 << 14),
    I64(CAVMAE_P_DECODER_HEADS, decoder_heads, "16", 1, 1 << 10),
    I64(CAVMAE_P_DECODER_DEPTH, decoder_depth, "8", 0, 256),
    F64(CAVMAE_P_MLP_RATIO, mlp_ratio, "4", 0.01, 64),
    F64(CAVMAE_P_LAYER_NORM_EPS, layer_norm_eps, "1e-5", 0, 1),
    I64(CAVMAE_P_TRAINABLE_POS, trainable_pos, "0", 0, 1),
    WORD(CAVMAE_P_MODALITIES, modalities, "av", "av|a|v"),
    WORD(CAVMAE_P_DTYPE, dtype, "float32", "float32|bfloat16"),
    I64(CAVMAE_P_SEED, seed, "0", 0, 9e15),
    I64(CAVMAE_P_CLASSES, classes, "0", 0, 1 << 20),
    I64(CAVMAE_P_DECODER, decoder, "1", 0, 1),
    WORD(CAVMAE_P_HEAD, head, "norm_linear", "norm_linear|linear"),
    WORD(CAVMAE_P_HEAD_INPUT, head_input, "joint", "joint|sum|concat"),

    I64(CAVMAE_P_SAMPLE_RATE, sample_rate, "16000", 1000, 384000),
    WORD(CAVMAE_P_AUDIO_CHANNEL, audio_channel, "first", "first|mean"),
    WORD(CAVMAE_P_RESAMPLER, resampler, "best", "best|medium|fastest"),
    WORD(CAVMAE_P_AUDIO_LENGTH, audio_length, "pad", "pad|silence|native"),
    F64(CAVMAE_P_AUDIO_MEAN, audio_mean, "-5.081", -1e6, 1e6),
    F64(CAVMAE_P_AUDIO_STD, audio_std, "4.4849", 1e-6, 1e6),
    WORD(CAVMAE_P_IMAGE_FILTER, image_filter, "bicubic", "bicubic|bilinear"),
    TEXT(CAVMAE_P_IMAGE_MEAN, "image_mean", "0.485,0.456,0.406"),
    TEXT(CAVMAE_P_IMAGE_STD, "image_std", "0.229,0.224,0.225"),
    I64(CAVMAE_P_CLIP_FRAMES, clip_frames, "10", 1, 1 << 16),

    F64(CAVMAE_P_MAE_WEIGHT, mae_weight, "1", 0, 1e6),
    F64(CAVMAE_P_CONTRAST_WEIGHT, contrast_weight, "0.01", 0, 1e6),
    F64(CAVMAE_P_CONTRAST_TEMPERATURE, contrast_temperature, "0.05", 1e-4, 1e4),
    WORD(CAVMAE_P_CONTRAST_DIRECTION, contrast_direction, "v2a", "v2a|a2v|both"),
    I64(CAVMAE_P_NORM_PIX_LOSS, norm_pix_loss, "1", 0, 1),
    F64(CAVMAE_P_MASK_RATIO_A, mask_ratio_a, "0.75", 0, 1),
    F64(CAVMAE_P_MASK_RATIO_V, mask_ratio_v, "0.75", 0, 1),
    WORD(CAVMAE_P_MASK_MODE_A, mask_mode_a, "unstructured", MASK_MODES),
    WORD(CAVMAE_P_MASK_MODE_V, mask_mode_v, "unstructured", MASK_MODES),
    WORD(CAVMAE_P_MASK_DOMAIN, mask_domain, "modality", "modality|joint"),

    WORD(CAVMAE_P_LOSS, loss, "bce", "bce|ce"),
    WORD(CAVMAE_P_MODE, mode, "multimodal", "multimodal|audioonly|videoonly|missingaudioonly|missingvideoonly"),
    F64(CAVMAE_P_MODALITY_DROPOUT, modality_dropout, "0", 0, 1),
    WORD(CAVMAE_P_CONTRAST_SCOPE, contrast_scope, "local", "local|global"),
    I64(CAVMAE_P_CONTRAST_SHARDS, contrast_shards, "0", 0, 1 << 16),
    WORD(CAVMAE_P_LOSS_REDUCE, loss_reduce, "mean", "mean|sum"),

    WORD(CAVMAE_P_OPTIMIZER, optimizer, "adam", "adam|adamw"),
    F64(CAVMAE_P_LR, lr, "5e-5", 0, 1e3),
    F64(CAVMAE_P_BETA1, beta1, "0.95", 0, 0.9999999),
    F64(CAVMAE_P_BETA2, beta2, "0.999", 0, 0.9999999),
    F64(CAVMAE_P_ADAM_EPS, adam_eps, "1e-8", 0, 1),
    F64(CAVMAE_P_WEIGHT_DECAY, weight_decay, "5e-7", 0, 1e3),
    F64(CAVMAE_P_CLIP_NORM, clip_norm, "0", 0, 1e9),
    I64(CAVMAE_P_ACCUMULATE, accumulate, "1", 1, 1 << 20),
    I64(CAVMAE_P_RECOMPUTE, recompute, "0", 0, 2),
    WORD(CAVMAE_P_SCHEDULE, schedule, "multistep", "multistep|cosine"),
    TEXT(CAVMAE_P_MILESTONES, "milestones", ""),
    F64(CAVMAE_P_GAMMA, gamma, "0.5", 0, 1),
    I64(CAVMAE_P_WARMUP_STEPS, warmup_steps, "0", 0, 9e15),
    I64(CAVMAE_P_TOTAL_STEPS, total_steps, "0", 0, 9e15),
    F64(CAVMAE_P_MIN_LR, min_lr, "0", 0, 1e3),
    I64(CAVMAE_P_MILESTONE_UNIT, milestone_unit, "1", 1, 9e15),
    F64(CAVMAE_P_HEAD_LR_FACTOR, head_lr_factor, "1", 0, 1e6),
    I64(CAVMAE_P_FREEZE_BASE, freeze_base, "0", 0, 1),
    I64(CAVMAE_P_EPOCHS, epochs, "25", 1, 1 << 20),
    I64(CAVMAE_P_AVERAGE_FROM, average_from, "0", 0, 1 << 20),
    I64(CAVMAE_P_CHUNK, chunk, "0", 0, 1 << 20),
    WORD(CAVMAE_P_REDUCE_DTYPE, reduce_dtype, "float32", "float32|bfloat16"),
    F64(CAVMAE_P_BUCKET_MB, bucket_mb, "25", 0.001, 4096),
    I64(CAVMAE_P_SHARD_OPTIMIZER, shard_optimizer, "0", 0, 1),

    I64(CAVMAE_P_BATCH, batch, "48", 1, 1 << 20),
    I64(CAVMAE_P_SHUFFLE, shuffle, "1", 0, 1),
    I64(CAVMAE_P_DROP_LAST, drop_last, "1", 0, 1),
    I64(CAVMAE_P_NOISE, noise, "0", 0, 1),
    I64(CAVMAE_P_ROLL, roll, "0", 0, 1),
    I64(CAVMAE_P_FRAME, frame, "-1", -3, 1 << 16),
    WORD(CAVMAE_P_BROKEN, broken, "error", "error|skip"),
    I64(CAVMAE_P_LOADER_THREADS, loader_threads, "2", 1, 256),
    I64(CAVMAE_P_QUEUE, queue, "4", 1, 1024),
    F64(CAVMAE_P_MIXUP, mixup, "0", 0, 1),
    F64(CAVMAE_P_MIXUP_ALPHA, mixup_alpha, "10", 1e-3, 1e6),
    I64(CAVMAE_P_FREQ_MASK, freq_mask, "0", 0, 1 << 12),
    I64(CAVMAE_P_TIME_MASK, time_mask, "0", 0, 1 << 20),
    WORD(CAVMAE_P_SPECAUG_FILL, specaug_fill, "zero", "zero|mean"),
    F64(CAVMAE_P_LABEL_SMOOTHING, label_smoothing, "0", 0, 0.999),
    WORD(CAVMAE_P_SMOOTHING_FORM, smoothing_form, "reference", "reference|normalised"),
    I64(CAVMAE_P_BALANCED, balanced, "0", 0, 1),
    I64(CAVMAE_P_SHUFFLE_PAIRS, shuffle_pairs, "0", 0, 1),
};

enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

/* Every value as text, which is what files and command lines hold, and as the number it stands for (words: the
 * index among the choices). */
typedef struct value {
    char text[TEXT_SIZE];
    double number;
    int64_t integer;
} value;

struct cavmae_config {
    cavmae_context *context;
    cavmae_world *world; /* NULL: alone */
    value values[KEY_COUNT];
};

static int find_number(int32_t number) {
    for (int i = 0; i < KEY_COUNT; i++)
        if (keys[i].number == number) return i;
    return -1;
}

static int find_name(const char *name, size_t length) {
    for (int i = 0; i < KEY_COUNT; i++)
        if (strlen(keys[i].name) == length && memcmp(keys[i].name, name, length) == 0) return i;
    return -1;
}

/* Index of `text` among "a|b|c", or -1. */
static int64_t find_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    int64_t index = 0;
    for (const char *at = choices;; index++) {
        const char *bar = strchr(at, '|');
        size_t n = bar ? (size_t)(bar - at) : strlen(at);
        if (n == length && memcmp(at, text, n) == 0) return index;
        if (!bar) return -1;
        at = bar + 1;
    }
}

static cavmae_status set_text(cavmae_config *config, int i, const char *text) {
    const key *k = &keys[i];
    value v;
    memset(&v, 0, sizeof v);
    size_t length = strlen(text);
    if (length >= TEXT_SIZE)
        return cavmae__fail(CAVMAE_E_ARG, "config: %s: value of %zu characters is longer than %d", k->name, length,
                            TEXT_SIZE - 1);
    memcpy(v.text, text, length + 1);
    char *end = NULL;
    errno = 0;
    if (k->type == CAVMAE_TYPE_I64) {
        long long n = strtoll(text, &end, 10);
        if (end == text || *end) return cavmae__fail(CAVMAE_E_ARG, "config: %s: '%s' is not an integer", k->name, text);
        v.integer = n;
        v.number = (double)n;
    } else if (k->type == CAVMAE_TYPE_F64) {
        v.number = cavmae__parse_f64(text, &end);
        if (end == text || *end || !isfinite(v.number))
            return cavmae__fail(CAVMAE_E_ARG, "config: %s: '%s' is not a finite number", k->name, text);
    } else if (k->choices) {
        v.integer = find_choice(k->choices, text);
        if (v.integer < 0)
            return cavmae__fail(CAVMAE_E_ARG, "config: %s: '%s' is none of %s", k->name, text, k->choices);
    }
    if (k->type != CAVMAE_TYPE_STR && (errno == ERANGE || v.number < k->min || v.number > k->max))
        return cavmae__fail(CAVMAE_E_ARG, "config: %s: %s is outside [%g, %g]", k->name, text, k->min, k->max);
    /* One text for a number however it was written: files have it as JSON, and texts are compared. */
    if (k->type == CAVMAE_TYPE_I64) snprintf(v.text, sizeof v.text, "%lld", (long long)v.integer);
    if (k->type == CAVMAE_TYPE_F64) cavmae__format_f64(v.text, v.number);
    config->values[i] = v;
    return CAVMAE_OK;
}

static cavmae_status find_typed(const cavmae_config *config, int32_t number, int32_t type, int *index) {
    static const char *const type_names[] = {"", "an integer", "a number", "a word"};
    if (!config) return cavmae__fail(CAVMAE_E_ARG, "config is NULL");
    int i = find_number(number);
    if (i < 0) return cavmae__fail(CAVMAE_E_NOT_FOUND, "config: no key has number %d", number);
    if (type && keys[i].type != type)
        return cavmae__fail(CAVMAE_E_ARG, "config: %s is %s", keys[i].name, type_names[keys[i].type]);
    *index = i;
    return CAVMAE_OK;
}

cavmae_status cavmae_config_set_i64(cavmae_config *config, int32_t number, int64_t integer) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, CAVMAE_TYPE_I64, &i));
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)integer);
    return set_text(config, i, text);
}

cavmae_status cavmae_config_set_f64(cavmae_config *config, int32_t number, double real) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, CAVMAE_TYPE_F64, &i));
    char text[32];
    cavmae__format_f64(text, real);
    return set_text(config, i, text);
}

cavmae_status cavmae_config_set_str(cavmae_config *config, int32_t number, const char *text) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, CAVMAE_TYPE_STR, &i));
    if (!text) return cavmae__fail(CAVMAE_E_ARG, "config: %s: value is NULL", keys[i].name);
    return set_text(config, i, text);
}

cavmae_status cavmae_config_set(cavmae_config *config, const char *name, const char *text) {
    if (!config || !name || !text) return cavmae__fail(CAVMAE_E_ARG, "config: config, name or value is NULL");
    int i = find_name(name, strlen(name));
    if (i < 0) return cavmae__fail(CAVMAE_E_NOT_FOUND, "config: no key is called '%s'", name);
    return set_text(config, i, text);
}

cavmae_status cavmae_config_get_i64(const cavmae_config *config, int32_t number, int64_t *out) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, CAVMAE_TYPE_I64, &i));
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "config: %s: out is NULL", keys[i].name);
    *out = config->values[i].integer;
    return CAVMAE_OK;
}

cavmae_status cavmae_config_get_f64(const cavmae_config *config, int32_t number, double *out) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, CAVMAE_TYPE_F64, &i));
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "config: %s: out is NULL", keys[i].name);
    *out = config->values[i].number;
    return CAVMAE_OK;
}

cavmae_status cavmae_config_get_str(const cavmae_config *config, int32_t number, const char **out) {
    int i = 0;
    CAVMAE__TRY(find_typed(config, number, 0, &i));
    if (!out) return cavmae__fail(CAVMAE_E_ARG, "config: %s: out is NULL", keys[i].name);
    *out = config->values[i].text;
    return CAVMAE_OK;
}

int cavmae__config_key_count(void) { return KEY_COUNT; }

cavmae_status cavmae_config_key_info(int32_t index, cavmae_key_info *out) {
    if (index < 0 || index >= KEY_COUNT)
        return cavmae__fail(CAVMAE_E_NOT_FOUND, "config: there are %d keys, no index %d", KEY_COUNT, index);
    const key *k = &keys[index];
    cavmae_key_info info = {0};
    info.key = k->number;
    info.type = k->type;
    info.name = k->name;
    info.min = k->min;
    info.max = k->max;
    info.choices = k->choices;
    return cavmae__record_out(out, &info, sizeof info);
}

cavmae_status cavmae_config_create(cavmae_context *context, const char *preset, cavmae_config **out) {
    if (!context || !out) return cavmae__fail(CAVMAE_E_ARG, "config: context or out is NULL");
    cavmae_config *config;
    CAVMAE__TRY(CAVMAE__NEW(context, &config, 1));
    config->context = cavmae__context_ref(context);
    config->world = NULL;
    cavmae_status status = CAVMAE_OK;
    for (int i = 0; i < KEY_COUNT && status == CAVMAE_OK; i++) status = set_text(config, i, keys[i].preset);
    if (status == CAVMAE_OK && preset && strcmp(preset, "base") != 0) status = cavmae_config_apply(config, preset);
    if (status != CAVMAE_OK) {
        cavmae_config_free(config);
        return status;
    }
    *out = config;
    return CAVMAE_OK;
}

cavmae_status cavmae_config_clone(const cavmae_config *config, cavmae_config **out) {
    if (!config || !out) return cavmae__fail(CAVMAE_E_ARG, "config: config or out is NULL");
    cavmae_config *copy;
    CAVMAE__TRY(CAVMAE__NEW(config->context, &copy, 1));
    *copy = *config;
    cavmae__context_ref(copy->context);
    cavmae__world_ref(copy->world);
    *out = copy;
    return CAVMAE_OK;
}

void cavmae_config_free(cavmae_config *config) {
    if (!config) return;
    cavmae_context *context = config->context;
    cavmae_world_free(config->world);
    cavmae__free(context, config);
    cavmae__context_unref(context);
}

cavmae_context *cavmae__config_context(const cavmae_config *config) { return config->context; }

cavmae_world *cavmae__config_world(const cavmae_config *config) { return config->world; }

cavmae_status cavmae_config_set_world(cavmae_config *config, cavmae_world *world) {
    if (!config) return cavmae__fail(CAVMAE_E_ARG, "config is NULL");
    cavmae_world *before = config->world;
    config->world = cavmae__world_ref(world);
    cavmae_world_free(before);
    return CAVMAE_OK;
}

/* "1,2,3" into out [capacity]; the count must be in [min, capacity]. */
static cavmae_status read_list(const cavmae_config *config, int32_t number, int64_t min, int64_t capacity, double *out,
                               int64_t *count) {
    int i = find_number(number);
    const char *at = config->values[i].text;
    int64_t n = 0;
    while (*at) {
        char *end;
        double x = cavmae__parse_f64(at, &end);
        if (end == at || !isfinite(x) || (*end && *end != ',') || (*end == ',' && !end[1]))
            return cavmae__fail(CAVMAE_E_ARG, "config: %s: '%s' is not a list of numbers joined by commas",
                                keys[i].name, config->values[i].text);
        if (n == capacity)
            return cavmae__fail(CAVMAE_E_ARG, "config: %s: more than %lld numbers", keys[i].name, (long long)capacity);
        out[n++] = x;
        at = *end ? end + 1 : end;
    }
    if (n < min)
        return cavmae__fail(CAVMAE_E_ARG, "config: %s: %lld numbers, %lld needed", keys[i].name, (long long)n,
                            (long long)min);
    *count = n;
    return CAVMAE_OK;
}

static cavmae_status fill_options(const cavmae_config *config, cavmae__options *o) {
    const value *v = config->values;
    memset(o, 0, sizeof *o);
    for (int i = 0; i < KEY_COUNT; i++) {
        if (keys[i].offset == NO_FIELD) continue;
        char *field = (char *)o + keys[i].offset;
        if (keys[i].type == CAVMAE_TYPE_F64)
            memcpy(field, &v[i].number, sizeof(double));
        else
            memcpy(field, &v[i].integer, sizeof(int64_t));
    }
    o->dtype = o->dtype ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32;
    o->reduce_dtype = o->reduce_dtype ? CAVMAE_BFLOAT16 : CAVMAE_FLOAT32;
    o->mode += CAVMAE_MODE_MULTIMODAL;
    if (o->modalities != CAVMAE__MODALITIES_AV && o->mode == CAVMAE_MODE_MULTIMODAL) /* all that there is */
        o->mode = o->modalities == CAVMAE__MODALITIES_A ? CAVMAE_MODE_AUDIO_ONLY : CAVMAE_MODE_VIDEO_ONLY;
    o->audio = (cavmae__audio_contract){.sample_rate = (int32_t)o->sample_rate,
                                        .channel = (int32_t)o->audio_channel,
                                        .resampler = (int32_t)o->resampler,
                                        .length = (int32_t)o->audio_length,
                                        .mel_bins = (int32_t)o->mel_bins,
                                        .frames = (int32_t)o->audio_frames,
                                        .patch_size = (int32_t)o->patch_size,
                                        .mean = (float)o->audio_mean,
                                        .std = (float)o->audio_std};
    o->image.filter = (int32_t)o->image_filter;
    o->image.size = (int32_t)o->image_size;
    o->image.channels = (int32_t)o->image_channels;
    double list[CAVMAE__MAX_MILESTONES];
    int64_t count;
    CAVMAE__TRY(read_list(config, CAVMAE_P_IMAGE_MEAN, o->image_channels, o->image_channels, list, &count));
    for (int64_t i = 0; i < count; i++) o->image.mean[i] = (float)list[i];
    CAVMAE__TRY(read_list(config, CAVMAE_P_IMAGE_STD, o->image_channels, o->image_channels, list, &count));
    for (int64_t i = 0; i < count; i++) {
        o->image.std[i] = (float)list[i];
        if (!(o->image.std[i] > 0)) return cavmae__fail(CAVMAE_E_ARG, "config: image_std: %g is not positive", list[i]);
    }
    CAVMAE__TRY(read_list(config, CAVMAE_P_MILESTONES, 0, CAVMAE__MAX_MILESTONES, list, &o->milestone_count));
    for (int64_t i = 0; i < o->milestone_count; i++) {
        if (list[i] < 0 || list[i] * (double)o->milestone_unit > 9e15 || list[i] != floor(list[i]) ||
            (i && list[i] <= list[i - 1]))
            return cavmae__fail(CAVMAE_E_ARG, "config: milestones: '%s' are not rising update numbers",
                                v[find_number(CAVMAE_P_MILESTONES)].text);
        o->milestones[i] = (int64_t)list[i] * o->milestone_unit;
    }
    return CAVMAE_OK;
}

static cavmae_status check_multiple(const char *name, int64_t n, const char *of, int64_t unit) {
    if (n % unit)
        return cavmae__fail(CAVMAE_E_SHAPE, "config: %s %lld is not a multiple of %s %lld", name, (long long)n, of,
                            (long long)unit);
    return CAVMAE_OK;
}

/* Keeps at least one token, by the reference's truncation: int(L * (1 - ratio)) in double. */
static cavmae_status check_kept(const char *name, int64_t tokens, double ratio) {
    if ((int64_t)((double)tokens * (1 - ratio)) < 1)
        return cavmae__fail(CAVMAE_E_ARG, "config: %s %g leaves none of %lld tokens visible", name, ratio,
                            (long long)tokens);
    return CAVMAE_OK;
}

/* What the head sees must be there. */
static cavmae_status check_head(const cavmae__options *o) {
    static const int64_t only[] = {0, CAVMAE_MODE_AUDIO_ONLY, CAVMAE_MODE_VIDEO_ONLY};
    if (o->modalities != CAVMAE__MODALITIES_AV && o->mode != only[o->modalities])
        return cavmae__fail(CAVMAE_E_ARG, "config: mode is of another modality than modalities");
    if (o->modalities != CAVMAE__MODALITIES_AV && o->head_input != CAVMAE__INPUT_JOINT)
        return cavmae__fail(CAVMAE_E_ARG, "config: head_input sum and concat need modalities av");
    if (o->head_input != CAVMAE__INPUT_JOINT && o->mode >= CAVMAE_MODE_MISSING_AUDIO_ONLY)
        return cavmae__fail(CAVMAE_E_ARG, "config: the modes for a missing modality need head_input joint");
    if (o->modality_dropout > 0 && o->mode != CAVMAE_MODE_MULTIMODAL)
        return cavmae__fail(CAVMAE_E_ARG, "config: modality_dropout needs mode multimodal");
    if (o->freeze_base && !o->classes)
        return cavmae__fail(CAVMAE_E_ARG, "config: freeze_base leaves nothing to train without classes");
    return CAVMAE_OK;
}

static cavmae_status check_contrast(const cavmae__options *o) {
    if (o->contrast_scope == CAVMAE__SCOPE_GLOBAL && o->contrast_shards)
        return cavmae__fail(CAVMAE_E_ARG, "config: contrast_shards goes with contrast_scope local");
    if (o->chunk && o->classes)
        return cavmae__fail(CAVMAE_E_ARG, "config: chunk is for pretraining, not for models with classes");
    return CAVMAE_OK;
}

static cavmae_status check_options(const cavmae__options *o) {
    CAVMAE__TRY(check_head(o));
    CAVMAE__TRY(check_contrast(o));
    CAVMAE__TRY(check_multiple("image_size", o->image_size, "patch_size", o->patch_size));
    CAVMAE__TRY(check_multiple("audio_frames", o->audio_frames, "patch_size", o->patch_size));
    CAVMAE__TRY(check_multiple("mel_bins", o->mel_bins, "patch_size", o->patch_size));
    CAVMAE__TRY(check_multiple("embed_dim", o->embed_dim, "num_heads", o->num_heads));
    CAVMAE__TRY(check_multiple("embed_dim", o->embed_dim, "a 2-D sine-cosine table's", 4));
    CAVMAE__TRY(check_multiple("decoder_dim", o->decoder_dim, "decoder_heads", o->decoder_heads));
    CAVMAE__TRY(check_multiple("decoder_dim", o->decoder_dim, "a 2-D sine-cosine table's", 4));
    if ((double)o->embed_dim * o->mlp_ratio < 1 || (double)o->decoder_dim * o->mlp_ratio < 1)
        return cavmae__fail(CAVMAE_E_SHAPE, "config: mlp_ratio %g leaves no hidden unit", o->mlp_ratio);
    if (o->schedule == CAVMAE__COSINE && o->total_steps <= o->warmup_steps)
        return cavmae__fail(CAVMAE_E_ARG, "config: schedule cosine needs total_steps above warmup_steps");
    if (o->classes) return CAVMAE_OK; /* no masks */
    int64_t grid = o->image_size / o->patch_size;
    int64_t visual = grid * grid, audio = (o->mel_bins / o->patch_size) * (o->audio_frames / o->patch_size);
    if (o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT) {
        if (o->modalities != CAVMAE__MODALITIES_AV)
            return cavmae__fail(CAVMAE_E_ARG, "config: mask_domain joint needs modalities av");
        if (o->contrast_weight > 0)
            return cavmae__fail(
                CAVMAE_E_ARG,
                "config: mask_domain joint may remove a whole modality of a clip: contrast_weight must be 0");
        CAVMAE__TRY(check_kept("mask_ratio_a", audio + visual, o->mask_ratio_a));
    } else {
        if (o->modalities != CAVMAE__MODALITIES_V) CAVMAE__TRY(check_kept("mask_ratio_a", audio, o->mask_ratio_a));
        if (o->modalities != CAVMAE__MODALITIES_A) CAVMAE__TRY(check_kept("mask_ratio_v", visual, o->mask_ratio_v));
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__config_options(const cavmae_config *config, cavmae__options *out) {
    if (!config) return cavmae__fail(CAVMAE_E_ARG, "config is NULL");
    cavmae__options options;
    CAVMAE__TRY(fill_options(config, &options));
    CAVMAE__TRY(check_options(&options));
    *out = options;
    return CAVMAE_OK;
}

cavmae_status cavmae_config_check(const cavmae_config *config) {
    cavmae__options options;
    return cavmae__config_options(config, &options);
}
