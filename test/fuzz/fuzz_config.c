/* Configurations: as the JSON of model files, and as "name=value" lines, as command lines have them. What fits
 * together comes back the same from the JSON that is written of it. */
#define _GNU_SOURCE
#include "config.h"
#include "fuzz.h"

static void check_round_trip(cavmae_context *context, const cavmae_config *config) {
    char *json = NULL, *again = NULL;
    cavmae_config *copy = NULL;
    FUZZ_CHECK(cavmae__config_to_json(config, &json) == CAVMAE_OK);
    FUZZ_CHECK(cavmae__config_from_json(context, json, &copy) == CAVMAE_OK);
    FUZZ_CHECK(cavmae__config_to_json(copy, &again) == CAVMAE_OK);
    FUZZ_CHECK(strcmp(json, again) == 0);
    cavmae__free(context, json);
    cavmae__free(context, again);
    cavmae_config_free(copy);
}

static void use(cavmae_context *context, const cavmae_config *config) {
    cavmae__options options;
    if (fuzz_ok(cavmae_config_check(config))) check_round_trip(context, config);
    cavmae_memory memory = {.struct_size = sizeof memory};
    if (fuzz_ok(cavmae_memory_required(config, CAVMAE_TASK_PRETRAIN, 2, &memory)))
        FUZZ_CHECK(memory.total >= memory.parameters && memory.parameters >= 0 && memory.elements >= 0);
    fuzz_ok(cavmae__config_options(config, &options));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae_config *config = NULL;
    char *text = fuzz_text(data, size), *rest = NULL;
    if (text[0] == '{') {
        if (fuzz_ok(cavmae__config_from_json(context, text, &config))) use(context, config);
    } else {
        FUZZ_CHECK(cavmae_config_create(context, "tiny", &config) == CAVMAE_OK);
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
            char *value = strchr(line, '=');
            if (value) *value++ = '\0';
            fuzz_ok(value ? cavmae_config_set(config, line, value) : cavmae_config_apply(config, line));
        }
        use(context, config);
    }
    free(text);
    cavmae_config_free(config);
    fuzz_end(context);
    return 0;
}
