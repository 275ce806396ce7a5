/* The smallest user of an installed library: it is there, it is the one the header belongs to, and it works. Its function
 * has the name of an internal one, which must not matter. */
#include <cavmae.h>
#include <stdio.h>

const char *cavmae__dtype_name(int32_t dtype);
const char *cavmae__dtype_name(int32_t dtype) { return dtype ? NULL : "mine"; }

int main(void) {
    cavmae_context *context;
    cavmae_tensor *tensor;
    int64_t shape[2] = {2, 3};
    if (cavmae_version() != CAVMAE_VERSION_NUMBER) return 1;
    if (cavmae_context_create(NULL, &context) != CAVMAE_OK ||
        cavmae_tensor_create(context, CAVMAE_FLOAT32, 2, shape, &tensor) != CAVMAE_OK) {
        fprintf(stderr, "%s\n", cavmae_last_error());
        return 1;
    }
    cavmae_context_free(context);
    cavmae_tensor_free(tensor);
    printf("%s\n", cavmae_build_info());
    return 0;
}
