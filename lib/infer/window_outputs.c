#include "window_outputs.h"

#include <math.h>
#include <string.h>

enum { OUTPUTS = 9 };

typedef struct output {
    float *to;        /* the caller's, for one window; NULL: not wanted */
    float *group;     /* [group, elements] */
    double *sum;      /* [elements] */
    int64_t elements; /* of a window */
    int64_t row;      /* of rows whose length is 1; 0: of others */
} output;

struct cavmae__window_outputs {
    cavmae_context *context;
    cavmae_embedding embedding; /* into `group` of the outputs */
    output output[OUTPUTS];
    int64_t windows;
};

/* The pointers of an embedding, in the order in which set_sizes knows them. */
static void pointers_of(cavmae_embedding *embedding, float **pointers[OUTPUTS]) {
    float **const all[OUTPUTS] = {&embedding->audio,        &embedding->visual,        &embedding->joint,
                                  &embedding->audio_tokens, &embedding->visual_tokens, &embedding->joint_tokens,
                                  &embedding->features,     &embedding->logits,        &embedding->scores};
    memcpy(pointers, all, sizeof all);
}

/* As cavmae.h says of one clip. */
static void set_sizes(cavmae__window_outputs *w, const cavmae_model *model, int64_t audio_frames) {
    const cavmae__options *o = &model->options;
    int64_t mode = w->embedding.mode ? w->embedding.mode : o->mode, d = o->embed_dim;
    int64_t pictures = w->embedding.frames ? w->embedding.frames : 1;
    int64_t la = o->mel_bins / o->patch_size * (audio_frames / o->patch_size);
    int64_t lv = o->image_size / o->patch_size * (o->image_size / o->patch_size);
    int64_t head_rows = cavmae__mode_uses(mode, 1) ? pictures : 1;
    const int64_t elements[OUTPUTS] = {d,
                                       pictures * d,
                                       pictures * d,
                                       la * d,
                                       pictures * lv * d,
                                       pictures * (la + lv) * d,
                                       head_rows * cavmae__head_width(o),
                                       head_rows * o->classes,
                                       o->classes};
    for (int i = 0; i < OUTPUTS; i++) w->output[i].elements = elements[i];
    w->output[0].row = w->output[1].row = d;
}

cavmae_status cavmae__window_outputs_create(const cavmae_model *model, const cavmae_embedding *out, int32_t group,
                                            int64_t audio_frames, cavmae__window_outputs **result) {
    cavmae__window_outputs *w = cavmae__alloc_zero(model->context, sizeof *w);
    float **pointers[OUTPUTS];
    cavmae_status status = CAVMAE_OK;
    if (!w) return CAVMAE_E_NOMEM;
    w->context = model->context;
    w->embedding = *out;
    set_sizes(w, model, audio_frames);
    pointers_of(&w->embedding, pointers);
    for (int i = 0; i < OUTPUTS; i++) {
        output *o = &w->output[i];
        o->to = *pointers[i];
        if (!o->to) continue;
        CAVMAE__TRY_OUT(CAVMAE__NEW(w->context, &o->group, group * o->elements));
        CAVMAE__TRY_OUT(CAVMAE__NEW(w->context, &o->sum, o->elements));
        for (int64_t k = 0; k < o->elements; k++) o->sum[k] = 0;
        *pointers[i] = o->group;
    }
    *result = w;
    return CAVMAE_OK;
out:
    cavmae__window_outputs_free(w);
    return status;
}

void cavmae__window_outputs_free(cavmae__window_outputs *w) {
    if (!w) return;
    for (int i = 0; i < OUTPUTS; i++) {
        cavmae__free(w->context, w->output[i].group);
        cavmae__free(w->context, w->output[i].sum);
    }
    cavmae__free(w->context, w);
}

const cavmae_embedding *cavmae__window_outputs_group(const cavmae__window_outputs *w) { return &w->embedding; }

void cavmae__window_outputs_take(cavmae__window_outputs *w, int32_t index) {
    for (int i = 0; i < OUTPUTS; i++) {
        const output *o = &w->output[i];
        if (!o->to) continue;
        const float *from = o->group + index * o->elements;
        memcpy(o->to, from, (size_t)o->elements * sizeof *from);
        for (int64_t k = 0; k < o->elements; k++) o->sum[k] += (double)from[k];
    }
    w->windows++;
}

void cavmae__window_outputs_mean(cavmae__window_outputs *w) {
    for (int i = 0; i < OUTPUTS; i++) {
        const output *o = &w->output[i];
        for (int64_t first = 0; o->to && first < o->elements; first += o->row ? o->row : o->elements) {
            int64_t count = o->row ? o->row : o->elements;
            double square = 0;
            for (int64_t k = first; k < first + count; k++) square += o->sum[k] * o->sum[k];
            double scale = !o->row ? 1 / (double)w->windows : square > 0 ? 1 / sqrt(square) : 0;
            for (int64_t k = first; k < first + count; k++) o->to[k] = (float)(o->sum[k] * scale);
        }
    }
}
