/* cavmae-info: what a model file or a configuration is: its options, its size, and the memory that it takes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

static void print_options(const cavmae_config *config) {
    static const struct {
        int32_t from;
        const char *title;
    } sections[] = {{100, "model"}, {200, "input contract"}, {300, "objective"}, {400, "training"}, {500, "data"}};
    cavmae_key_info key = {.struct_size = sizeof key};
    size_t section = 0;
    for (int32_t i = 0; cavmae_config_key_info(i, &key) == CAVMAE_OK; i++) {
        const char *value;
        if (section < sizeof sections / sizeof *sections && key.key >= sections[section].from)
            printf("%s\n", sections[section++].title);
        check(cavmae_config_get_str(config, key.key, &value));
        printf("  %-22s %s\n", key.name, value);
    }
}

/* ---- What a file is ---- */

static int32_t is_vision_mae(const char *name) { return !strcmp(name, "patch_embed.proj.weight"); }

/* Of a file that model_load has read: one of the two opens it. */
static void print_kind(cavmae_context *context, const char *path) {
    cavmae_safetensors *plain;
    cavmae_torch *torch;
    int32_t vision = 0, inferred = 1;
    int64_t count = 0;
    const char *name, *kind = "PyTorch file";
    if (cavmae_safetensors_open(context, path, &plain) == CAVMAE_OK) {
        inferred = !cavmae_safetensors_metadata(plain, "cavmae.config");
        kind = cavmae_safetensors_metadata(plain, "cavmae.training") ? "checkpoint of this library"
               : inferred                                            ? "safetensors without configuration"
                                                                     : "model file of this library";
        for (; (name = cavmae_safetensors_name(plain, count)) != NULL; count++) vision |= is_vision_mae(name);
        cavmae_safetensors_free(plain);
    } else {
        check(cavmae_torch_open(context, path, &torch));
        for (; (name = cavmae_torch_name(torch, count)) != NULL; count++) vision |= is_vision_mae(name);
        cavmae_torch_free(torch);
    }
    printf("file\n  %-22s %s, %lld tensors\n", "kind", kind, (long long)count);
    if (inferred)
        printf("  %-22s inferred from %s\n", "configuration",
               vision ? "a vision MAE's tensors, which become a CAV-MAE's" : "names and shapes of tensors");
}

static void print_model(const cavmae_model *model, const cavmae_config *config) {
    const char *modalities;
    const int64_t classes = whole_number(config, CAVMAE_P_CLASSES);
    check(cavmae_config_get_str(config, CAVMAE_P_MODALITIES, &modalities));
    printf("  %-22s ", "model");
    printf("%s, ", !strcmp(modalities, "av") ? "sound and pictures"
                   : modalities[0] == 'a'    ? "sound only"
                                             : "pictures only");
    if (classes)
        printf("with a head for %lld classes\n", (long long)classes);
    else
        printf("%s\n", whole_number(config, CAVMAE_P_DECODER) ? "with a decoder" : "encoder only");
    printf("  %-22s %.2f M in %lld tensors\n", "parameters", (double)cavmae_model_elements(model, 0) / 1e6,
           (long long)cavmae_model_parameter_count(model));
}

/* Names, ranges and defaults. */
static void print_keys(const cavmae_config *config) {
    cavmae_key_info key = {.struct_size = sizeof key};
    for (int32_t i = 0; cavmae_config_key_info(i, &key) == CAVMAE_OK; i++) {
        const char *value;
        check(cavmae_config_get_str(config, key.key, &value));
        printf("%-22s %-24s ", key.name, value);
        if (key.type == CAVMAE_TYPE_STR)
            printf("%s\n", key.choices ? key.choices : "text");
        else if (key.type == CAVMAE_TYPE_I64)
            printf("whole number %.0f to %.0f\n", key.min, key.max);
        else
            printf("number %.15g to %.15g\n", key.min, key.max);
    }
}

/* Models with a head are not pretrained, others not fine-tuned, and without a decoder nothing is reconstructed. */
static void print_memory(const cavmae_config *config, int32_t batch) {
    static const struct {
        int32_t task;
        const char *name;
    } tasks[] = {
        {CAVMAE_TASK_PRETRAIN, "pretraining"}, {CAVMAE_TASK_FINETUNE, "fine-tuning"}, {CAVMAE_TASK_EMBED, "embedding"}};
    const int64_t classes = whole_number(config, CAVMAE_P_CLASSES), decoder = whole_number(config, CAVMAE_P_DECODER);
    double mae_weight;
    check(cavmae_config_get_f64(config, CAVMAE_P_MAE_WEIGHT, &mae_weight));
    cavmae_memory m = {.struct_size = sizeof m};
    check(cavmae_memory_required(config, CAVMAE_TASK_EMBED, batch, &m));
    printf("parameters\n  %-22s %.2f M, %.2f M of them trainable\n", "elements", (double)m.elements / 1e6,
           (double)m.trainable / 1e6);
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        if (tasks[i].task == CAVMAE_TASK_PRETRAIN && (classes || (!decoder && mae_weight > 0))) continue;
        if (tasks[i].task == CAVMAE_TASK_FINETUNE && !classes) continue;
        check(cavmae_memory_required(config, tasks[i].task, batch, &m));
        printf("memory for %s, batch %d\n  %-22s %.1f MB\n", tasks[i].name, (int)batch, "total", (double)m.total / 1e6);
        printf("  %-22s %.1f MB\n  %-22s %.1f MB\n", "parameters", (double)m.parameters / 1e6, "gradients",
               (double)m.gradients / 1e6);
        printf("  %-22s %.1f MB\n  %-22s %.1f MB\n", "moments", (double)m.moments / 1e6, "activations",
               (double)m.activations / 1e6);
        printf("  %-22s %.1f MB\n", "workspace", (double)m.workspace / 1e6);
    }
}

int main(int argc, char **argv) {
    const char *model_path = NULL, *preset = NULL;
    words settings = {0};
    int32_t keys = 0, batch = 0, version = 0;
    const option options[] = {
        {.name = "--model", .value = "F", .help = "a model file, checkpoint or .pth", .text = &model_path},
        {.name = "--preset", .value = "P", .help = "base, tiny or a recipe (base)", .text = &preset},
        {.name = "--set", .value = "key=value", .help = "changes to the preset", .list = &settings},
        {.name = "--batch", .value = "N", .help = "memory for batches of N (the configuration's)", .number = &batch},
        {.name = "--keys", .help = "lists all keys: default, range or words", .flag = &keys},
        {.name = "--version", .help = "of the library", .flag = &version},
        {0}};
    read_options(argc, argv, "describes a model or a configuration", options);
    if (model_path && (preset || settings.count)) die("give --model, or --preset and --set");
    if (version) {
        printf("%s\n", cavmae_build_info());
        return 0;
    }

    cavmae_context *context = open_context(NULL, 1, NULL);
    cavmae_config *config;
    if (model_path) {
        cavmae_model *model;
        check(cavmae_model_load(context, model_path, 0, NULL, &model));
        check(cavmae_model_config(model, &config));
        if (!keys) {
            print_kind(context, model_path);
            print_model(model, config);
        }
        cavmae_model_free(model);
    } else {
        config = open_config(context, preset, &settings);
    }
    if (keys) {
        print_keys(config);
    } else {
        int64_t configured;
        check(cavmae_config_get_i64(config, CAVMAE_P_BATCH, &configured));
        print_options(config);
        print_memory(config, batch ? batch : (int32_t)configured);
    }
    cavmae_config_free(config);
    cavmae_context_free(context);
    free(settings.word);
    return 0;
}
