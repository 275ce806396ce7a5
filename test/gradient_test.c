/* Every gradient of the whole model against central differences of its loss, in configurations that no golden
 * case has. */
#include "tiny.h"

/* The derivative of the loss along `direction`, which has unit length. */
static double slope(tiny_training *t, const cavmae_batch *batch, const char *name, const float *values,
                    const float *direction, int64_t count) {
    const double step = 0.02;
    double loss[2];
    float *moved = malloc((size_t)count * sizeof *moved);
    for (int side = 0; side < 2; side++) {
        cavmae_step_result r = {.struct_size = sizeof r};
        for (int64_t i = 0; i < count; i++) moved[i] = values[i] + (float)(side ? -step : step) * direction[i];
        CHECK_OK(cavmae_model_set_parameter(t->model, name, moved, count));
        CHECK_OK(batch->labels ? cavmae_finetune_evaluate(t->trainer, batch, &r)
                               : cavmae_pretrain_evaluate(t->trainer, batch, 0, &r));
        loss[side] = r.loss;
    }
    CHECK_OK(cavmae_model_set_parameter(t->model, name, values, count));
    free(moved);
    return (loss[0] - loss[1]) / (2 * step);
}

static double dot(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)a[i] * b[i];
    return sum;
}

static void scale(float *x, int64_t count, double by) {
    for (int64_t i = 0; i < count; i++) x[i] = (float)(x[i] * by);
}

/* Along the gradient itself, which shows its length, and along two directions of random signs, which show the rest. */
static void check_parameter(tiny_training *t, const cavmae_batch *batch, const char *name, double total) {
    cavmae_tensor *parameter, *tensor;
    if (cavmae_trainer_gradient(t->trainer, name, &tensor) != CAVMAE_OK) return;
    if (!CHECK_OK(cavmae_model_parameter(t->model, name, &parameter))) return;
    const float *gradient = cavmae_tensor_data(tensor);
    int64_t count = cavmae_tensor_elements(tensor);
    size_t size = (size_t)count * sizeof(float);
    float *values = malloc(size), *direction = malloc(size);
    double length = sqrt(dot(gradient, gradient, count));
    memcpy(values, cavmae_tensor_data(parameter), size);
    for (int k = 0; k < 3; k++) {
        if (k == 0)
            memcpy(direction, gradient, size);
        else
            tiny_fill(direction, count, (uint64_t)k);
        for (int64_t i = 0; i < count && k; i++) direction[i] = direction[i] < 0 ? -1 : 1;
        scale(direction, count, 1 / sqrt(dot(direction, direction, count) + 1e-30));
        double expected = slope(t, batch, name, values, direction, count), got = dot(gradient, direction, count);
        double typical = k ? length / sqrt((double)count) : length;
        if (!CHECK_CLOSE(got, expected, 0.01 * typical + 4e-6 * total))
            printf("    %s, direction %d, length %g\n", name, k, length);
    }
    free(values);
    free(direction);
    cavmae_tensor_free(parameter);
    cavmae_tensor_free(tensor);
}

static void check_parameters(tiny_training *t, const cavmae_batch *batch, double total, int64_t least) {
    int before = check_passed;
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(t->model, i)) != NULL; i++)
        check_parameter(t, batch, name, total);
    CHECK(check_passed - before > least);
}

static void check_head(const char *settings, int64_t least) {
    static const float labels[3 * 4] = {1, 0, 0.5f, 0, 0, 0.25f, 0.25f, 0.4f, 0, 0, 0, 1};
    tiny_training t = tiny_train(2, settings);
    tiny_inputs in = tiny_make(t.config, 0, 3, NULL);
    cavmae_batch batch = tiny_batch(&in, 3);
    cavmae_step_result r = {.struct_size = sizeof r};
    batch.labels = labels;
    batch.classes = 4;
    CHECK_OK(cavmae_finetune_step(t.trainer, &batch, &r));
    check_parameters(&t, &batch, r.grad_norm, least);
    tiny_release(&in);
    tiny_train_free(&t);
}

/* Masks are drawn by a first step, then given. */
static void check_gradients(const char *settings, const int32_t *frames, int64_t least) {
    tiny_training t = tiny_train(2, settings);
    tiny_inputs in = tiny_make(t.config, 0, 3, frames);
    cavmae_batch batch = tiny_batch(&in, 3);
    cavmae_step_result r = {.struct_size = sizeof r};
    cavmae_tensor *masks[2] = {NULL, NULL};
    CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, NULL));
    for (int m = 0; m < 2; m++)
        CHECK_OK(cavmae_trainer_output(t.trainer, m ? CAVMAE_OUT_MASK_V : CAVMAE_OUT_MASK_A, &masks[m]));
    batch.mask_a = cavmae_tensor_data(masks[0]);
    batch.mask_v = cavmae_tensor_data(masks[1]);
    CHECK_OK(cavmae_pretrain_step(t.trainer, &batch, &r));
    check_parameters(&t, &batch, r.grad_norm, least);
    for (int m = 0; m < 2; m++) cavmae_tensor_free(masks[m]);
    tiny_release(&in);
    tiny_train_free(&t);
}

int main(void) {
    static const int32_t frames[3] = {32, 8, 24};
    check_gradients(
        SMALLEST " lr=0 mlp_ratio=2 joint_depth=3 contrast_direction=a2v contrast_weight=0.5 contrast_temperature=0.5 "
                 "mask_mode_a=time mask_mode_v=frequency trainable_pos=1",
        frames, 800);
    check_gradients(SMALLEST " lr=0 mlp_ratio=1.7 modality_depth=2 contrast_direction=both contrast_weight=0.3 "
                             "contrast_temperature=0.3 mask_mode_a=time_frequency norm_pix_loss=0 recompute=1",
                    frames, 800);
    check_gradients(
        SMALLEST
        " lr=0 mask_domain=joint mask_ratio_a=0.7 contrast_weight=0 mae_weight=2 modality_depth=0 joint_depth=2",
        NULL, 400);
    check_head(SMALLEST " lr=0 classes=4 head=linear head_input=sum trainable_pos=1 recompute=2", 200);
    check_head(SMALLEST " lr=0 classes=4 head_input=concat loss=ce recompute=1", 200);
    check_head(SMALLEST " lr=0 classes=4 modalities=v joint_depth=2 loss=ce", 100);
    check_head(SMALLEST " lr=0 classes=4 mode=missingaudioonly joint_depth=2", 100);
    return check_summary("gradient");
}
