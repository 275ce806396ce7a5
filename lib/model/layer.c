#include "layer.h"

#include "tensor.h"

float *cavmae__gradient(const cavmae__pass *pass, int64_t index) {
    pass->has_gradient[index] = 1;
    return pass->gradients + pass->list->items[index].offset;
}

cavmae_status cavmae__gradients_finished(const cavmae__pass *pass, int64_t first, int64_t count) {
    return pass->sink && count > 0 ? pass->sink->finished(pass->sink->arg, first, count) : CAVMAE_OK;
}

cavmae_status cavmae__apply_linear(const cavmae__pass *pass, int64_t index, int64_t rows, const void *x,
                                   int32_t x_dtype, const float *residual, void *y, int32_t y_dtype, void *gelu) {
    const cavmae__parameter *weight = &pass->list->items[index];
    const cavmae__linear linear = {.rows = rows,
                                   .in = (int32_t)(weight->elements / weight->shape[0]),
                                   .out = (int32_t)weight->shape[0],
                                   .x_dtype = x_dtype,
                                   .y_dtype = y_dtype,
                                   .matmul = pass->choices.matmul,
                                   .exact_gelu = pass->choices.exact_gelu,
                                   .x = x,
                                   .weight = pass->values[index],
                                   .bias = pass->values[index + 1],
                                   .residual = residual,
                                   .y = y,
                                   .gelu = gelu,
                                   .workspace = pass->workspace};
    return pass->backend->ops->linear(pass->backend, &linear);
}

cavmae_status cavmae__apply_linear_grad(const cavmae__pass *pass, int64_t index, int64_t rows, const void *x,
                                        int32_t x_dtype, const void *dy, int32_t dy_dtype, void *dx, int32_t dx_dtype,
                                        const void *gelu_input) {
    const cavmae__parameter *weight = &pass->list->items[index];
    const cavmae__linear_grad grad = {.rows = rows,
                                      .in = (int32_t)(weight->elements / weight->shape[0]),
                                      .out = (int32_t)weight->shape[0],
                                      .x_dtype = x_dtype,
                                      .dy_dtype = dy_dtype,
                                      .dx_dtype = dx_dtype,
                                      .accumulate = pass->accumulate,
                                      .matmul = pass->choices.matmul,
                                      .exact_gelu = pass->choices.exact_gelu,
                                      .x = x,
                                      .weight = pass->values[index],
                                      .dy = dy,
                                      .gelu_input = gelu_input,
                                      .dx = dx,
                                      .dweight = x ? cavmae__gradient(pass, index) : NULL,
                                      .dbias = x ? cavmae__gradient(pass, index + 1) : NULL,
                                      .workspace = pass->workspace};
    return pass->backend->ops->linear_grad(pass->backend, &grad);
}

static cavmae__layernorm describe_norm(const cavmae__pass *pass, const int64_t *norms, const cavmae__streams *streams,
                                       int32_t width, const float *x, float *mean, float *rstd) {
    cavmae__layernorm norm = {.width = width,
                              .group_count = streams->groups,
                              .eps = pass->eps,
                              .x = x,
                              .mean = mean,
                              .rstd = rstd,
                              .accumulate = pass->accumulate,
                              .workspace = pass->workspace};
    for (int32_t i = 0; i < streams->groups; i++) {
        norm.group[i].rows = streams->group_rows[i];
        norm.group[i].gamma = pass->values[norms[i]];
        norm.group[i].beta = pass->values[norms[i] + 1];
    }
    return norm;
}

cavmae_status cavmae__apply_norm(const cavmae__pass *pass, const int64_t *norms, const cavmae__streams *streams,
                                 int32_t width, const float *x, void *y, int32_t y_dtype, float *mean, float *rstd) {
    cavmae__layernorm norm = describe_norm(pass, norms, streams, width, x, mean, rstd);
    norm.y = y;
    norm.y_dtype = y_dtype;
    return pass->backend->ops->layernorm(pass->backend, &norm);
}

cavmae_status cavmae__apply_norm_grad(const cavmae__pass *pass, const int64_t *norms, const cavmae__streams *streams,
                                      int32_t width, const float *x, float *mean, float *rstd, const void *dy,
                                      int32_t dy_dtype, const float *add, float *dx) {
    cavmae__layernorm norm = describe_norm(pass, norms, streams, width, x, mean, rstd);
    for (int32_t i = 0; i < streams->groups; i++) {
        norm.group[i].dgamma = cavmae__gradient(pass, norms[i]);
        norm.group[i].dbeta = cavmae__gradient(pass, norms[i] + 1);
    }
    norm.dy = dy;
    norm.y_dtype = dy_dtype;
    norm.add = add;
    norm.dx = dx;
    return pass->backend->ops->layernorm_grad(pass->backend, &norm);
}

void cavmae__layer_keep(cavmae__arena *arena, const cavmae__pass *pass, int64_t rows, int64_t width, int64_t heads,
                        cavmae__activations *keep) {
    size_t size = cavmae__dtype_size(pass->dtype);
    int64_t hidden = cavmae__hidden(width, pass->mlp_ratio);
    CAVMAE__TAKE(arena, keep->x2, rows * width);
    CAVMAE__TAKE(arena, keep->mean1, rows);
    CAVMAE__TAKE(arena, keep->rstd1, rows);
    CAVMAE__TAKE(arena, keep->mean2, rows);
    CAVMAE__TAKE(arena, keep->rstd2, rows);
    CAVMAE__TAKE(arena, keep->lse, rows * heads);
    keep->qkv = cavmae__arena_take(arena, rows * 3 * width, size);
    keep->o = cavmae__arena_take(arena, rows * width, size);
    keep->h = cavmae__arena_take(arena, rows * hidden, size);
    if (pass->recompute != CAVMAE__RECOMPUTE_GELU) keep->g = cavmae__arena_take(arena, rows * hidden, size);
}

/* Weights of norm1 (which = NORM1) or norm2 for every group. */
static void layer_norms(int64_t first, int64_t which, const cavmae__streams *streams, int64_t norms[3]) {
    for (int32_t i = 0; i < streams->groups; i++)
        norms[i] = first + which + CAVMAE__NORMS_PER_STREAM * streams->stream[i];
}

static cavmae__attention describe_attention(const cavmae__pass *pass, int32_t width, int32_t heads,
                                            const cavmae__streams *streams) {
    return (cavmae__attention){.heads = heads,
                               .head_dim = width / heads,
                               .dtype = pass->dtype,
                               .by = pass->choices.attention,
                               .segments = streams->segments,
                               .workspace = pass->workspace};
}

cavmae_status cavmae__layer_forward(const cavmae__pass *pass, int64_t first, int32_t width, int32_t heads,
                                    const cavmae__streams *streams, const cavmae__activations *keep, float *out) {
    int64_t rows = streams->rows, norms[3];
    int kept = keep->x2 != NULL;
    float *x2 = kept ? keep->x2 : keep->x1;
    char *wide = pass->wide;
    void *qkv = kept ? keep->qkv : wide;
    void *o = kept ? keep->o : wide + (size_t)(rows * 3 * width) * cavmae__dtype_size(pass->dtype);
    void *g = keep->g ? keep->g : wide;
    CAVMAE__TRY(cavmae__check_cancel(pass->context));

    layer_norms(first, CAVMAE__NORM1, streams, norms);
    CAVMAE__TRY(
        cavmae__apply_norm(pass, norms, streams, width, keep->x1, pass->narrow, pass->dtype, keep->mean1, keep->rstd1));
    CAVMAE__TRY(
        cavmae__apply_linear(pass, first + CAVMAE__QKV, rows, pass->narrow, pass->dtype, NULL, qkv, pass->dtype, NULL));
    cavmae__attention attention = describe_attention(pass, width, heads, streams);
    attention.qkv = qkv;
    attention.o = o;
    attention.lse = keep->lse;
    CAVMAE__TRY(pass->backend->ops->attention(pass->backend, &attention));
    CAVMAE__TRY(
        cavmae__apply_linear(pass, first + CAVMAE__PROJ, rows, o, pass->dtype, keep->x1, x2, CAVMAE_FLOAT32, NULL));

    layer_norms(first, CAVMAE__NORM2, streams, norms);
    CAVMAE__TRY(
        cavmae__apply_norm(pass, norms, streams, width, x2, pass->narrow, pass->dtype, keep->mean2, keep->rstd2));
    CAVMAE__TRY(cavmae__apply_linear(pass, first + CAVMAE__FC1, rows, pass->narrow, pass->dtype, NULL, keep->h,
                                     pass->dtype, g));
    if (!out) return CAVMAE_OK;
    return cavmae__apply_linear(pass, first + CAVMAE__FC2, rows, g, pass->dtype, x2, out, CAVMAE_FLOAT32, NULL);
}

/* Through fc2 and GELU: pass->wide gets the gradient of h. Where gelu(h) was not kept, it is there first. */
static cavmae_status second_linear_backward(const cavmae__pass *pass, int64_t fc2, int64_t rows,
                                            const cavmae__activations *keep, const float *dy) {
    const int32_t dtype = pass->dtype;
    if (keep->g)
        return cavmae__apply_linear_grad(pass, fc2, rows, keep->g, dtype, dy, CAVMAE_FLOAT32, pass->wide, dtype,
                                         keep->h);
    const cavmae__parameter *weight = &pass->list->items[fc2];
    const cavmae__gelu gelu = {.count = rows * (weight->elements / weight->shape[0]),
                               .dtype = dtype,
                               .exact_gelu = pass->choices.exact_gelu,
                               .x = keep->h,
                               .y = pass->wide};
    CAVMAE__TRY(pass->backend->ops->gelu(pass->backend, &gelu));
    CAVMAE__TRY(cavmae__apply_linear_grad(pass, fc2, rows, pass->wide, dtype, dy, CAVMAE_FLOAT32, NULL, dtype, NULL));
    return cavmae__apply_linear_grad(pass, fc2, rows, NULL, dtype, dy, CAVMAE_FLOAT32, pass->wide, dtype, keep->h);
}

cavmae_status cavmae__layer_backward(const cavmae__pass *pass, int64_t first, int32_t width, int32_t heads,
                                     const cavmae__streams *streams, const cavmae__activations *keep, float *dx) {
    int64_t rows = streams->rows, norms[3];
    int32_t dtype = pass->dtype;
    void *y = pass->narrow, *dy = pass->narrow_gradient;
    CAVMAE__TRY(cavmae__check_cancel(pass->context));

    /* Norms' outputs are not kept: computing them again costs less than holding them. */
    layer_norms(first, CAVMAE__NORM2, streams, norms);
    CAVMAE__TRY(second_linear_backward(pass, first + CAVMAE__FC2, rows, keep, dx));
    CAVMAE__TRY(cavmae__apply_norm(pass, norms, streams, width, keep->x2, y, dtype, NULL, NULL));
    CAVMAE__TRY(
        cavmae__apply_linear_grad(pass, first + CAVMAE__FC1, rows, y, dtype, pass->wide, dtype, dy, dtype, NULL));
    CAVMAE__TRY(
        cavmae__apply_norm_grad(pass, norms, streams, width, keep->x2, keep->mean2, keep->rstd2, dy, dtype, dx, dx));

    layer_norms(first, CAVMAE__NORM1, streams, norms);
    CAVMAE__TRY(cavmae__apply_linear_grad(pass, first + CAVMAE__PROJ, rows, keep->o, dtype, dx, CAVMAE_FLOAT32, dy,
                                          dtype, NULL));
    cavmae__attention attention = describe_attention(pass, width, heads, streams);
    attention.qkv = keep->qkv;
    attention.o = keep->o;
    attention.lse = keep->lse;
    attention.d_o = dy;
    attention.dqkv = pass->wide;
    CAVMAE__TRY(pass->backend->ops->attention_grad(pass->backend, &attention));
    CAVMAE__TRY(cavmae__apply_norm(pass, norms, streams, width, keep->x1, y, dtype, NULL, NULL));
    CAVMAE__TRY(
        cavmae__apply_linear_grad(pass, first + CAVMAE__QKV, rows, y, dtype, pass->wide, dtype, dy, dtype, NULL));
    return cavmae__apply_norm_grad(pass, norms, streams, width, keep->x1, keep->mean1, keep->rstd1, dy, dtype, dx, dx);
}

float *cavmae__stack_input(const cavmae__pass *pass, const cavmae__stack *stack, float *out) {
    return pass->gradients && stack->depth ? stack->keep[0].x1 : out;
}

cavmae_status cavmae__stack_forward(const cavmae__pass *pass, const cavmae__stack *stack, float *out) {
    const cavmae__activations in_place = {.x1 = out};
    for (int64_t i = 0; i < stack->depth; i++) {
        const cavmae__activations *keep = pass->gradients ? &stack->keep[i] : &in_place;
        float *next = pass->gradients && i + 1 < stack->depth ? stack->keep[i + 1].x1 : out;
        CAVMAE__TRY(cavmae__layer_forward(pass, stack->first + i * CAVMAE__LAYER_PARAMETERS, stack->width, stack->heads,
                                          stack->streams, keep, next));
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__stack_backward(const cavmae__pass *pass, const cavmae__stack *stack, float *dx) {
    for (int64_t i = stack->depth; i-- > 0;) {
        int64_t first = stack->first + i * CAVMAE__LAYER_PARAMETERS;
        if (pass->recompute == CAVMAE__RECOMPUTE_LAYERS)
            CAVMAE__TRY(
                cavmae__layer_forward(pass, first, stack->width, stack->heads, stack->streams, &stack->keep[i], NULL));
        CAVMAE__TRY(
            cavmae__layer_backward(pass, first, stack->width, stack->heads, stack->streams, &stack->keep[i], dx));
        CAVMAE__TRY(cavmae__gradients_finished(pass, first, CAVMAE__LAYER_PARAMETERS));
    }
    return CAVMAE_OK;
}
