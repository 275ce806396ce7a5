/* PyTorch files of both forms: every tensor of one that opens can be read to its end, or says why not. */
#define _GNU_SOURCE
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae_torch *file = NULL;
    if (fuzz_ok(cavmae_torch_open(context, fuzz_path(data, size), &file))) {
        const char *name;
        size_t read = 0;
        for (int64_t i = 0; (name = cavmae_torch_name(file, i)) != NULL; i++) {
            cavmae_tensor *tensor = NULL;
            if (!fuzz_ok(cavmae_torch_get(file, name, &tensor))) continue;
            read += (size_t)cavmae_tensor_elements(tensor);
            if (read < FUZZ_MEMORY) fuzz_read_tensor(tensor); /* many tensors may share one large storage */
            cavmae_tensor_free(tensor);
        }
        cavmae_torch_free(file);
    }
    fuzz_end(context);
    return 0;
}
