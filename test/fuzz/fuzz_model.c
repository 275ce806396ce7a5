/* Model files, and what becomes a model: PyTorch files and safetensors whose configuration is inferred. */
#define _GNU_SOURCE
#include "fuzz.h"

enum { MEMORY = 16 << 20 }; /* a configuration alone can ask for gigabytes of initial values, which take time */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_path(data, size);
    for (uint32_t flags = 0; flags < 8; flags += flags ? 4 : 3) { /* none; what is missing and too much; colours */
        cavmae_context *context = fuzz_context(MEMORY);
        cavmae_load_report report = {.struct_size = sizeof report};
        cavmae_model *model = NULL;
        if (fuzz_ok(cavmae_model_load(context, path, flags, &report, &model))) {
            const char *name;
            int64_t elements = 0;
            FUZZ_CHECK(report.misshaped == 0 && (flags || report.unexpected == 0));
            for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
                cavmae_tensor *tensor = NULL;
                if (!fuzz_ok(cavmae_model_parameter(model, name, &tensor))) continue;
                fuzz_read_tensor(tensor);
                elements += cavmae_tensor_elements(tensor);
                cavmae_tensor_free(tensor);
            }
            FUZZ_CHECK(elements == cavmae_model_elements(model, 0));
            cavmae_model_free(model);
        }
        fuzz_end(context);
    }
    return 0;
}
