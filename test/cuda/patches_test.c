/* Patches as rows on the device against the CPU's, exactly. */
#include "patch_inputs.h"

static void check_patches(both *b, const input_shape *shape, int32_t dtype) {
    const int failed = check_failed;
    input in = make_input_clips(b, shape);
    twin y = twin_output(b, in.tokens * patch_width(shape), dtype);
    for (int device = 0; device < 2; device++) {
        cavmae__backend *backend = device ? b->cuda : b->cpu;
        const cavmae__patches op = {.source = source_of(&in, device),
                                    .rows = in.tokens,
                                    .clip = twin_at(&in.clip, device),
                                    .token = twin_at(&in.token, device),
                                    .y_dtype = dtype,
                                    .y = twin_at(&y, device)};
        CHECK_OK(backend->ops->patches(backend, &op));
    }
    CHECK_TWIN_EXACT(b, &y);
    twin_free(b, &y);
    free_input_clips(b, &in);
    if (check_failed > failed) print_input(shape);
}

int main(void) {
    both b;
    open_both(&b);
    for (int i = 0; i < INPUT_SHAPES; i++) {
        check_patches(&b, &input_shapes[i], CAVMAE_FLOAT32);
        check_patches(&b, &input_shapes[i], CAVMAE_BFLOAT16);
    }
    close_both(&b);
    return check_summary("cuda patches_test");
}
