/* safetensors files: every tensor of one that opens can be read to its end. */
#define _GNU_SOURCE
#include "fuzz.h"
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    cavmae_safetensors *file = NULL;
    if (fuzz_ok(cavmae_safetensors_open(context, fuzz_path(data, size), &file))) {
        const char *name, *value = cavmae_safetensors_metadata(file, "key");
        if (value) fuzz_read(value, strlen(value) + 1);
        for (int64_t i = 0; (name = cavmae_safetensors_name(file, i)) != NULL; i++) {
            const cavmae__entry *entry = cavmae__safetensors_entry(file, i);
            cavmae_tensor *tensor = NULL;
            size_t bytes = 0;
            FUZZ_CHECK(cavmae__safetensors_find(file, name) == entry);
            FUZZ_CHECK(cavmae__tensor_bytes(entry->dtype, entry->dims, entry->shape, &bytes) == CAVMAE_OK);
            fuzz_read(entry->data, bytes);
            if (!fuzz_ok(cavmae_safetensors_get(file, name, &tensor))) continue;
            fuzz_read_tensor(tensor);
            cavmae_tensor_free(tensor);
        }
        cavmae_safetensors_free(file);
    }
    fuzz_end(context);
    return 0;
}
