/* cavmae-convert: official checkpoints, vision MAEs and this library's models from one form into another. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

/* ---- Narrower numbers, rounded to the nearest, of two equal ones to the even ---- */

static uint16_t to_bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (isnan(number)) return (uint16_t)(bits >> 16 | 0x40); /* rounding could make an infinity of it */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static uint16_t to_float16(float number) {
    uint32_t bits, magnitude;
    memcpy(&bits, &number, sizeof bits);
    magnitude = bits & 0x7FFFFFFF;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (isnan(number)) return sign | 0x7E00;
    if (magnitude >= 0x477FF000) return sign | 0x7C00; /* 65520 and more are nearer to infinity */
    if (magnitude < 0x38800000) {                      /* below 2^-14: multiples of 2^-24, the last bit of 0.5 */
        const float shifted = fabsf(number) + 0.5f;
        memcpy(&magnitude, &shifted, sizeof magnitude);
        return (uint16_t)(sign | (magnitude - 0x3F000000));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13));
}

static cavmae_tensor *narrow(cavmae_context *context, const char *name, cavmae_tensor *wide, int32_t dtype) {
    cavmae_tensor *out;
    const float *from = cavmae_tensor_data(wide);
    check(cavmae_tensor_create(context, dtype, cavmae_tensor_dims(wide), cavmae_tensor_shape(wide), &out));
    uint16_t *to = cavmae_tensor_data(out);
    for (int64_t i = 0; i < cavmae_tensor_elements(wide); i++) {
        to[i] = dtype == CAVMAE_FLOAT16 ? to_float16(from[i]) : to_bfloat16(from[i]);
        if (dtype == CAVMAE_FLOAT16 && (to[i] & 0x7FFF) == 0x7C00 && isfinite(from[i]))
            die("%s has %g, which float16 cannot hold; take bfloat16", name, (double)from[i]);
    }
    cavmae_tensor_free(wide);
    return out;
}

/* ---- Writing ---- */

/* A configuration as model files hold it, in their metadata "cavmae.config". */
static char *config_text(const cavmae_config *config) {
    cavmae_key_info key = {.struct_size = sizeof key};
    size_t size = 3, used = 0;
    char *text = allocate(size, 1);
    for (int32_t i = 0; cavmae_config_key_info(i, &key) == CAVMAE_OK; i++) {
        const char *value;
        check(cavmae_config_get_str(config, key.key, &value));
        if (strpbrk(value, "\"\\\n")) die("%s=%s cannot be written", key.name, value);
        size += strlen(key.name) + strlen(value) + 8;
        text = realloc(text, size);
        if (!text) die("no memory");
        used += (size_t)snprintf(text + used, size - used, "%s\"%s\":\"%s\"", i ? "," : "{", key.name, value);
    }
    snprintf(text + used, size - used, "}");
    return text;
}

static void write_tensors(cavmae_context *context, cavmae_model *model, int32_t dtype, const char *prefix,
                          const char *path) {
    const int64_t count = cavmae_model_parameter_count(model);
    const char **names = allocate((size_t)count, sizeof *names);
    cavmae_tensor **tensors = allocate((size_t)count, sizeof *tensors);
    for (int64_t i = 0; i < count; i++) {
        names[i] = cavmae_model_parameter_name(model, i);
        check(cavmae_model_parameter(model, names[i], &tensors[i]));
        if (dtype != CAVMAE_FLOAT32) tensors[i] = narrow(context, names[i], tensors[i], dtype);
    }
    const cavmae_tensor *const *read = (const cavmae_tensor *const *)tensors;
    if (ends_with(path, ".pth")) {
        check(cavmae_torch_save(context, path, count, names, read, prefix));
    } else {
        cavmae_config *config;
        check(cavmae_model_config(model, &config));
        char *text = config_text(config);
        const char *const keys[] = {"cavmae.config"}, *const values[] = {text};
        check(cavmae_safetensors_save(context, path, count, names, read, 1, keys, values));
        free(text);
        cavmae_config_free(config);
    }
    for (int64_t i = 0; i < count; i++) cavmae_tensor_free(tensors[i]);
    free(tensors);
    free(names);
}

/* ---- Changing ---- */

/* Only the wanted part of a model, for the wanted length of sound. */
static cavmae_model *reduce(cavmae_model *model, int32_t encoder, const char *modality, int32_t audio_frames) {
    cavmae_config *config;
    cavmae_model *out;
    check(cavmae_model_config(model, &config));
    if (encoder) {
        check(cavmae_config_set_i64(config, CAVMAE_P_DECODER, 0));
        check(cavmae_config_set_i64(config, CAVMAE_P_CLASSES, 0));
        check(cavmae_config_set_i64(config, CAVMAE_P_FREEZE_BASE, 0));
    }
    if (modality) check(cavmae_config_set_str(config, CAVMAE_P_MODALITIES, modality));
    if (audio_frames) check(cavmae_config_set_i64(config, CAVMAE_P_AUDIO_FRAMES, audio_frames));
    check(cavmae_model_adapt(config, model, NULL, &out));
    cavmae_config_free(config);
    cavmae_model_free(model);
    return out;
}

static int32_t read_dtype(const char *word) {
    static const struct {
        const char *word;
        int32_t dtype;
    } dtypes[] = {{"float32", CAVMAE_FLOAT32}, {"bfloat16", CAVMAE_BFLOAT16}, {"float16", CAVMAE_FLOAT16}};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!word || !strcmp(word, dtypes[i].word)) return dtypes[i].dtype;
    die("--dtype takes float32, bfloat16 or float16, not %s", word);
}

int main(int argc, char **argv) {
    const char *dtype_word = NULL, *modality = NULL;
    words files = {0};
    int32_t encoder = 0, audio_frames = 0, mean_colours = 0, module_prefix = 0;
    const option options[] = {
        {.name = "", .value = "IN OUT", .help = "a model in any form; .safetensors or .pth", .list = &files},
        {.name = "--dtype", .value = "T", .help = "float32, bfloat16 or float16 (float32)", .text = &dtype_word},
        {.name = "--encoder", .help = "without decoder or head", .flag = &encoder},
        {.name = "--modality", .value = "M", .help = "a or v: only what that one needs", .text = &modality},
        {.name = "--audio-frames", .value = "T", .help = "another length of sound", .number = &audio_frames},
        {.name = "--mean-colours", .help = "of a vision MAE: sound gets colours' mean, not sum", .flag = &mean_colours},
        {.name = "--module-prefix", .help = ".pth: 'module.' before names, as the authors'", .flag = &module_prefix},
        {0}};
    read_options(argc, argv, "one form of a model into another", options);
    if (files.count != 2) die("give the file to read and the file to write");
    const char *in = files.word[0], *out = files.word[1];
    const int32_t dtype = read_dtype(dtype_word), torch = ends_with(out, ".pth");
    if (!torch && !ends_with(out, ".safetensors")) die("%s ends with neither .safetensors nor .pth", out);
    if (module_prefix && !torch) die("--module-prefix is for .pth files");

    cavmae_context *context = open_context(NULL, 0, NULL);
    cavmae_model *model;
    cavmae_load_report report = {.struct_size = sizeof report};
    check(cavmae_model_load(context, in, mean_colours ? CAVMAE_LOAD_MEAN_COLOURS : 0, &report, &model));
    if (report.missing)
        fprintf(stderr, "%s: %lld tensors that the file lacks start as in a new model\n", in,
                (long long)report.missing);
    if (encoder || modality || audio_frames) model = reduce(model, encoder, modality, audio_frames);
    if (torch || dtype != CAVMAE_FLOAT32)
        write_tensors(context, model, dtype, module_prefix ? "module." : NULL, out);
    else
        check(cavmae_model_save(model, out));
    printf("%s: %.2f M parameters in %lld tensors\n", out, (double)cavmae_model_elements(model, 0) / 1e6,
           (long long)cavmae_model_parameter_count(model));
    cavmae_model_free(model);
    cavmae_context_free(context);
    free(files.word);
    return 0;
}
