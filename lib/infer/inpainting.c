/* Inpainting: what the decoder paints where the input was masked, in log-mel and pixels. The forward pass is an
 * evaluation of the pretraining objective; here its patches become pictures again. */
#include <math.h>

#include "model.h"
#include "record.h"

typedef struct job {
    cavmae_model *model;
    cavmae_batch batch;
    cavmae_inpainting out;
    cavmae__options options;
    cavmae_trainer *trainer;
    cavmae_step_result losses;
    double
        *guess; /* [2, tokens of the longest clip] mean and deviation of its patches; NULL: patches are as they are */
} job;

/* Where a modality's patches lie in a clip's input, and how its numbers were normalised. */
typedef struct layout {
    int64_t patch, channels, width /* numbers in a patch */, rows, columns;
    int64_t row_stride, column_stride, channel_stride; /* sound is [T, F] and its patches' rows are mel bins */
    float mean[CAVMAE__MAX_IMAGE_CHANNELS], deviation[CAVMAE__MAX_IMAGE_CHANNELS];
} layout;

/* One modality of one clip. */
typedef struct clip {
    const layout *at;
    int64_t tokens;
    const uint8_t *mask;        /* [tokens] */
    const float *input;         /* [tokens * width] */
    float *predicted;           /* [tokens, width] */
    float *painted, *pasted;    /* as input; NULL: not wanted */
    int bounded;                /* painted numbers are pixels, in [0, 1] */
    double *means, *deviations; /* [tokens]; NULL: predictions are not normalised by patch */
} clip;

static layout audio_layout(const cavmae__options *o, int64_t frames) {
    return (layout){.patch = o->patch_size,
                    .channels = 1,
                    .width = o->patch_size * o->patch_size,
                    .rows = o->mel_bins / o->patch_size,
                    .columns = frames / o->patch_size,
                    .row_stride = 1,
                    .column_stride = o->mel_bins,
                    .mean = {o->audio.mean},
                    .deviation = {o->audio.std}};
}

static layout image_layout(const cavmae__options *o) {
    layout l = {.patch = o->patch_size,
                .channels = o->image_channels,
                .width = o->patch_size * o->patch_size * o->image_channels,
                .rows = o->image_size / o->patch_size,
                .columns = o->image_size / o->patch_size,
                .row_stride = o->image_size,
                .column_stride = 1,
                .channel_stride = o->image_size * o->image_size};
    for (int64_t c = 0; c < o->image_channels; c++) {
        l.mean[c] = o->image.mean[c];
        l.deviation[c] = o->image.std[c];
    }
    return l;
}

/* Where number j of a token's patch, in the order (row, column, channel), lies in the clip's input. */
static int64_t place_of(const layout *l, int64_t token, int64_t j) {
    int64_t channel = j % l->channels, x = j / l->channels % l->patch, y = j / l->channels / l->patch;
    return (token / l->columns * l->patch + y) * l->row_stride +
           (token % l->columns * l->patch + x) * l->column_stride + channel * l->channel_stride;
}

/* ---- Patch normalisation (norm_pix_loss), taken back ---- */

/* As the loss has it: unbiased variance + 1e-6. */
static void measure_patch(const clip *c, int64_t token) {
    const layout *l = c->at;
    double sum = 0, square = 0;
    for (int64_t j = 0; j < l->width; j++) sum += (double)c->input[place_of(l, token, j)];
    const double mean = sum / (double)l->width;
    for (int64_t j = 0; j < l->width; j++) {
        const double d = (double)c->input[place_of(l, token, j)] - mean;
        square += d * d;
    }
    c->means[token] = mean;
    c->deviations[token] = sqrt(square / (double)(l->width - 1) + 1e-6);
}

/* Shepard's interpolation: visible patches weigh 1 / distance^4 on the grid, so that the nearest decide. */
static void guess_patch(const clip *c, int64_t token) {
    const layout *l = c->at;
    double weights = 0, mean = 0, deviation = 0;
    for (int64_t t = 0; t < c->tokens; t++) {
        if (c->mask[t]) continue;
        const double down = (double)(t / l->columns - token / l->columns),
                     across = (double)(t % l->columns - token % l->columns), square = down * down + across * across,
                     weight = 1 / (square * square);
        weights += weight;
        mean += weight * c->means[t];
        deviation += weight * c->deviations[t];
    }
    /* a clip that shows nothing: what inputs are on average */
    c->means[token] = weights > 0 ? mean / weights : 0;
    c->deviations[token] = weights > 0 ? deviation / weights : 1;
}

static void undo_normalisation(const clip *c) {
    const int64_t width = c->at->width;
    for (int64_t t = 0; t < c->tokens; t++)
        if (!c->mask[t]) measure_patch(c, t);
    for (int64_t t = 0; t < c->tokens; t++) {
        if (c->mask[t]) guess_patch(c, t);
        for (int64_t j = 0; j < width; j++)
            c->predicted[t * width + j] = (float)((double)c->predicted[t * width + j] * c->deviations[t] + c->means[t]);
    }
}

/* ---- Patches to pictures ---- */

static float natural(const clip *c, int64_t j, float x) {
    const int64_t channel = j % c->at->channels;
    const float value = x * c->at->deviation[channel] + c->at->mean[channel];
    return c->bounded ? fminf(fmaxf(value, 0), 1) : value;
}

/* Mean squared errors of the clip's masked patches, summed. */
static double paint_clip(const clip *c) {
    const layout *l = c->at;
    double total = 0;
    if (c->means) undo_normalisation(c);
    for (int64_t t = 0; t < c->tokens; t++) {
        double square = 0;
        for (int64_t j = 0; j < l->width; j++) {
            const int64_t place = place_of(l, t, j);
            const float predicted = c->predicted[t * l->width + j], input = c->input[place];
            const double d = (double)predicted - (double)input;
            square += d * d;
            if (c->painted) c->painted[place] = natural(c, j, predicted);
            if (c->pasted) c->pasted[place] = natural(c, j, c->mask[t] ? predicted : input);
        }
        if (c->mask[t]) total += square / (double)l->width;
    }
    return total;
}

/* All clips of a modality; *error: mean over the masked patches. */
static cavmae_status paint_modality(job *j, int m, double *error) {
    const cavmae__options *o = &j->options;
    float *const painted = m ? j->out.image : j->out.audio, *const pasted =
                                                                m ? j->out.image_pasted : j->out.audio_pasted;
    uint8_t *masks = m ? j->out.mask_v : j->out.mask_a;
    cavmae_tensor *predicted = NULL, *mask = NULL;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY_OUT(cavmae_trainer_output(j->trainer, m ? CAVMAE_OUT_PRED_V : CAVMAE_OUT_PRED_A, &predicted));
    CAVMAE__TRY_OUT(cavmae_trainer_output(j->trainer, m ? CAVMAE_OUT_MASK_V : CAVMAE_OUT_MASK_A, &mask));
    const float *input = m ? j->batch.image : j->batch.audio;
    const uint8_t *removed = cavmae_tensor_data(mask);
    float *values = cavmae_tensor_data(predicted);
    int64_t token = 0, place = 0, count = 0;
    double total = 0;
    for (int32_t i = 0; i < j->batch.count; i++) {
        const layout l =
            m ? image_layout(o) : audio_layout(o, j->batch.audio_frames ? j->batch.audio_frames[i] : o->audio_frames);
        const clip c = {.at = &l,
                        .tokens = l.rows * l.columns,
                        .mask = removed + token,
                        .input = input + place,
                        .predicted = values + place, /* as many numbers, in another order */
                        .painted = painted ? painted + place : NULL,
                        .pasted = pasted ? pasted + place : NULL,
                        .bounded = m,
                        .means = j->guess,
                        .deviations = j->guess ? j->guess + l.rows * l.columns : NULL};
        total += paint_clip(&c);
        for (int64_t t = 0; t < c.tokens; t++) {
            count += c.mask[t] != 0;
            if (masks) masks[token + t] = c.mask[t] != 0;
        }
        token += c.tokens;
        place += c.tokens * l.width;
    }
    *error = count ? total / (double)count : 0;
out:
    cavmae_tensor_free(predicted);
    cavmae_tensor_free(mask);
    return status;
}

/* ---- The call ---- */

static cavmae_status check_outputs(const job *j) {
    static const char *const names[] = {"audio", "visual"};
    const void *const wanted[2][3] = {{j->out.audio, j->out.audio_pasted, j->out.mask_a},
                                      {j->out.image, j->out.image_pasted, j->out.mask_v}};
    const cavmae__options *o = &j->options;
    if (!cavmae__has_decoder(o)) return cavmae__fail(CAVMAE_E_ARG, "inpaint: the model has no decoder");
    if (!(o->mae_weight > 0))
        return cavmae__fail(CAVMAE_E_ARG, "inpaint: the model was not trained to reconstruct (mae_weight 0)");
    if (j->batch.count < 1) return cavmae__fail(CAVMAE_E_ARG, "inpaint: %d clips", j->batch.count);
    if (j->batch.pcm || j->batch.pixels)
        return cavmae__fail(CAVMAE_E_ARG, "inpaint: it takes audio and image, not pcm and pixels");
    for (int m = 0; m < 2; m++)
        for (int k = 0; k < 3 && !cavmae__has_modality(o, m); k++)
            if (wanted[m][k])
                return cavmae__fail(CAVMAE_E_ARG, "inpaint: the model has no %s tokens to reconstruct", names[m]);
    return CAVMAE_OK;
}

/* An evaluation of this batch alone. */
static cavmae_status evaluate(job *j, cavmae_config *config, int64_t draw) {
    CAVMAE__TRY(cavmae_config_set_i64(config, CAVMAE_P_BATCH, j->batch.count));
    CAVMAE__TRY(cavmae_trainer_create(j->model, NULL, config, &j->trainer));
    j->losses.struct_size = sizeof j->losses;
    return cavmae_pretrain_evaluate(j->trainer, &j->batch, draw, &j->losses);
}

static cavmae_status allocate_guess(job *j) {
    const cavmae__options *o = &j->options;
    if (!o->norm_pix_loss) return CAVMAE_OK;
    const layout audio = audio_layout(o, o->audio_frames), image = image_layout(o);
    const int64_t most[2] = {audio.rows * audio.columns, image.rows * image.columns};
    j->out.approximate = 1;
    return CAVMAE__NEW(j->model->context, &j->guess, 2 * (most[0] > most[1] ? most[0] : most[1]));
}

cavmae_status cavmae_inpaint(cavmae_model *model, const cavmae_config *config, const cavmae_batch *batch, int64_t draw,
                             cavmae_inpainting *out) {
    job j = {.model = model};
    cavmae_config *own = NULL;
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "inpaint: model is NULL");
    if (draw < 0) return cavmae__fail(CAVMAE_E_ARG, "inpaint: draw %lld is negative", (long long)draw);
    CAVMAE__TRY(cavmae__record_in(&j.batch, sizeof j.batch, batch));
    CAVMAE__TRY(cavmae__record_in(&j.out, sizeof j.out, out));
    j.batch.struct_size = sizeof j.batch;
    j.out.approximate = 0;
    j.out.error_a = j.out.error_v = j.out.loss_a = j.out.loss_v = 0;
    CAVMAE__TRY_OUT(cavmae_config_clone(config ? config : model->config, &own));
    /* without what only the contrastive loss needs */
    CAVMAE__TRY_OUT(cavmae_config_set_f64(own, CAVMAE_P_CONTRAST_WEIGHT, 0));
    CAVMAE__TRY_OUT(cavmae__config_options(own, &j.options));
    CAVMAE__TRY_OUT(check_outputs(&j));
    CAVMAE__TRY_OUT(evaluate(&j, own, draw));
    CAVMAE__TRY_OUT(allocate_guess(&j));
    if (cavmae__has_modality(&j.options, 0)) CAVMAE__TRY_OUT(paint_modality(&j, 0, &j.out.error_a));
    if (cavmae__has_modality(&j.options, 1)) CAVMAE__TRY_OUT(paint_modality(&j, 1, &j.out.error_v));
    j.out.loss_a = j.losses.loss_mae_a;
    j.out.loss_v = j.losses.loss_mae_v;
    status = cavmae__record_out(out, &j.out, sizeof j.out);
out:
    cavmae_trainer_free(j.trainer);
    cavmae_config_free(own);
    cavmae__free(model->context, j.guess);
    return status;
}
