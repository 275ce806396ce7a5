/* The pre-LN transformer layer, forward and backward:
 *     x2 = x1 + proj(attention(qkv(norm1(x1))));  out = x2 + fc2(gelu(fc1(norm2(x2))))
 * paper section 2.2; with norms of its own for each stream of the joint layer, and all else shared. */
#ifndef CAVMAE_MODEL_LAYER_H
#define CAVMAE_MODEL_LAYER_H

#include "arena.h"
#include "model.h"

/* The key recompute: what a layer computes again going back instead of keeping it. */
enum { CAVMAE__RECOMPUTE_NOTHING, CAVMAE__RECOMPUTE_LAYERS, CAVMAE__RECOMPUTE_GELU };

/* Who is told, on the way back, that the gradients of parameters first .. first + count - 1 are finished. */
typedef struct cavmae__gradient_sink {
    cavmae_status (*finished)(void *arg, int64_t first, int64_t count);
    void *arg;
} cavmae__gradient_sink;

/* What every operation of one forward and backward pass needs. */
typedef struct cavmae__pass {
    cavmae_context *context;
    cavmae__backend *backend;
    const cavmae__parameters *list;
    const float *const *values;
    float *gradients;                  /* flat, NULL in a pass without backward */
    uint8_t *has_gradient;             /* [list->count] host: set where a gradient was written */
    const cavmae__gradient_sink *sink; /* NULL: nobody */
    int32_t accumulate;                /* 1: gradients are added to */
    int32_t dtype;                     /* of activations between products */
    cavmae__device_choices choices;
    float eps;
    double mlp_ratio;
    int32_t recompute;              /* CAVMAE__RECOMPUTE_* */
    void *narrow, *narrow_gradient; /* [rows, width] of dtype */
    void *wide;                     /* [rows, the widest of hidden, qkv + o, patch] of dtype */
    void *workspace;
} cavmae__pass;

/* Rows that take part in a layer, as one call: groups of rows with norms of their own, and segments of attention. */
typedef struct cavmae__streams {
    int64_t rows;
    int32_t groups;
    int32_t stream[3]; /* of each group: 0 default, 1 audio, 2 visual */
    int64_t group_rows[3];
    cavmae__segments segments;
} cavmae__streams;

/* What a layer keeps for its backward. Without backward all but x1 are NULL, and x1, x2 and out are one buffer. */
typedef struct cavmae__activations {
    float *x1, *x2, *mean1, *rstd1, *mean2, *rstd2, *lse;
    void *qkv, *o, *h, *g;
} cavmae__activations;

/* Lays out what is kept of `rows` rows: all but x1. */
void cavmae__layer_keep(cavmae__arena *arena, const cavmae__pass *pass, int64_t rows, int64_t width, int64_t heads,
                        cavmae__activations *keep);

/* first: index of the layer's first parameter. out NULL: everything up to the last product, which is what a backward
 * pass that recomputes needs. */
cavmae_status cavmae__layer_forward(const cavmae__pass *pass, int64_t first, int32_t width, int32_t heads,
                                    const cavmae__streams *streams, const cavmae__activations *keep, float *out);

/* dx [rows, width]: the gradient of out, becomes that of x1. */
cavmae_status cavmae__layer_backward(const cavmae__pass *pass, int64_t first, int32_t width, int32_t heads,
                                     const cavmae__streams *streams, const cavmae__activations *keep, float *dx);

/* A stack of `depth` layers. keep [depth]: what each keeps. In a pass without backward nothing is, and the residual
 * stream stays in the output's buffer from layer to layer. */
typedef struct cavmae__stack {
    int64_t first, depth; /* parameter index of the first layer */
    int32_t width, heads;
    const cavmae__streams *streams;
    const cavmae__activations *keep;
} cavmae__stack;

/* Where the stack's input has to be written. */
float *cavmae__stack_input(const cavmae__pass *pass, const cavmae__stack *stack, float *out);
cavmae_status cavmae__stack_forward(const cavmae__pass *pass, const cavmae__stack *stack, float *out);
cavmae_status cavmae__stack_backward(const cavmae__pass *pass, const cavmae__stack *stack, float *dx);

/* The parts, for what lies outside the layers. index: of the weight; the bias follows. */
cavmae_status cavmae__apply_linear(const cavmae__pass *pass, int64_t index, int64_t rows, const void *x,
                                   int32_t x_dtype, const float *residual, void *y, int32_t y_dtype, void *gelu);
/* x NULL: the gradient of what went in alone. */
cavmae_status cavmae__apply_linear_grad(const cavmae__pass *pass, int64_t index, int64_t rows, const void *x,
                                        int32_t x_dtype, const void *dy, int32_t dy_dtype, void *dx, int32_t dx_dtype,
                                        const void *gelu_input);
/* norms [groups]: index of each group's weight. */
cavmae_status cavmae__apply_norm(const cavmae__pass *pass, const int64_t *norms, const cavmae__streams *streams,
                                 int32_t width, const float *x, void *y, int32_t y_dtype, float *mean, float *rstd);
cavmae_status cavmae__apply_norm_grad(const cavmae__pass *pass, const int64_t *norms, const cavmae__streams *streams,
                                      int32_t width, const float *x, float *mean, float *rstd, const void *dy,
                                      int32_t dy_dtype, const float *add, float *dx);

/* Where the gradient of parameter `index` goes; marks it as there. */
float *cavmae__gradient(const cavmae__pass *pass, int64_t index);

/* Tells pass->sink. */
cavmae_status cavmae__gradients_finished(const cavmae__pass *pass, int64_t first, int64_t count);

#endif
