/* Embeddings: encoders, joint encoder and head over all tokens, a few clips at a time. */
#include <math.h>
#include <string.h>

#include "extent.h"
#include "network.h"
#include "raw_inputs.h"
#include "record.h"
#include "scores.h"

/* Of a clip with more pictures so many go together, each time with the clip's sound. */
enum { MOST_PICTURES = 10 };

/* One call's work: what it was asked, and buffers for a chunk of clips. */
typedef struct job {
    cavmae_model *model;
    cavmae_batch batch;
    cavmae_embedding out;
    int32_t mode, streams, head; /* head: CAVMAE__NO_HEAD ... */
    int32_t uses[2];             /* modalities that are needed */
    int32_t pictures, group;     /* of each clip; at once */
    int32_t chunk;               /* clips at once */
    int32_t *columns[2];         /* host: grid columns of each clip's sound, of each picture; 0: not needed */
    cavmae__network *network;
    float *input[2]; /* device */
    cavmae__raw_inputs raw;
    float *rows;       /* host: rows on their way out, of the widest kind */
    int64_t tokens[3]; /* token rows written so far */
    cavmae__scores scores;
} job;

/* A part of the batch: clips [first, first + clips), pictures [picture, picture + pictures) of each. */
typedef struct part {
    int32_t first, clips, picture, pictures;
} part;

static cavmae_status check_modality(const job *j, int m) {
    if (!cavmae__has_modality(&j->model->options, m))
        return cavmae__fail(CAVMAE_E_ARG, "embed: the model has no %s encoder", m ? "visual" : "audio");
    if (!cavmae__has_input(&j->batch, m))
        return cavmae__fail(CAVMAE_E_ARG, "embed: %s is NULL, and an output needs it", m ? "image" : "audio");
    return CAVMAE_OK;
}

/* The streams that features, logits and scores need. */
static cavmae_status choose_head(job *j) {
    const cavmae__options *o = &j->model->options;
    const cavmae_embedding *out = &j->out;
    if (out->logits || out->scores) {
        j->head = CAVMAE__LOGITS;
        if (!o->classes) return cavmae__fail(CAVMAE_E_ARG, "embed: the model has no head (key classes) for logits");
    } else if (out->features) {
        j->head = CAVMAE__FEATURES;
    } else {
        return CAVMAE_OK;
    }
    if (out->average < CAVMAE_AVERAGE_SCORES || out->average > CAVMAE_AVERAGE_FEATURES)
        return cavmae__fail(CAVMAE_E_ARG, "embed: there is no average %d", out->average);
    if (j->mode < CAVMAE_MODE_MULTIMODAL || j->mode > CAVMAE_MODE_MISSING_VIDEO_ONLY)
        return cavmae__fail(CAVMAE_E_ARG, "embed: there is no mode %d", j->mode);
    int missing = j->mode >= CAVMAE_MODE_MISSING_AUDIO_ONLY;
    if (missing && (o->modalities != CAVMAE__MODALITIES_AV || o->head_input != CAVMAE__INPUT_JOINT))
        return cavmae__fail(CAVMAE_E_ARG, "embed: the modes for a missing modality need a model of both, and "
                                          "head_input joint");
    int present = cavmae__mode_uses(j->mode, CAVMAE__VISUAL) ? CAVMAE__STREAM_V : CAVMAE__STREAM_A;
    if (missing && (j->streams & ~present))
        return cavmae__fail(CAVMAE_E_ARG, "embed: an output needs a modality that is missing in mode %d", j->mode);
    j->streams |= cavmae__mode_streams(o, j->mode);
    for (int m = 0; m < 2; m++) j->uses[m] |= cavmae__mode_uses(j->mode, m);
    return CAVMAE_OK;
}

static cavmae_status choose_streams(job *j) {
    const cavmae_embedding *out = &j->out;
    int joint = out->joint || out->joint_tokens, audio = out->audio || out->audio_tokens,
        visual = out->visual || out->visual_tokens;
    j->mode = out->mode ? out->mode : (int32_t)j->model->options.mode;
    j->streams = (joint ? CAVMAE__STREAM_BOTH : 0) | (audio ? CAVMAE__STREAM_A : 0) | (visual ? CAVMAE__STREAM_V : 0);
    j->uses[0] = joint || audio;
    j->uses[1] = joint || visual;
    CAVMAE__TRY(choose_head(j));
    if (!j->streams) return cavmae__fail(CAVMAE_E_ARG, "embed: no output is asked for");
    for (int m = 0; m < 2; m++)
        if (j->uses[m]) CAVMAE__TRY(check_modality(j, m));
    if (j->batch.frames < 0) return cavmae__fail(CAVMAE_E_ARG, "embed: %d frames", j->batch.frames);
    CAVMAE__TRY(cavmae__check_raw_inputs(&j->model->options, &j->batch, j->uses, "embed"));
    j->pictures = j->uses[CAVMAE__VISUAL] && j->batch.frames ? j->batch.frames : 1;
    j->group = j->pictures < MOST_PICTURES ? j->pictures : MOST_PICTURES;
    return CAVMAE_OK;
}

static cavmae_status find_columns(job *j) {
    const cavmae__options *o = &j->model->options;
    int64_t pictures = (int64_t)j->batch.count * j->pictures;
    CAVMAE__TRY(CAVMAE__NEW(j->model->context, &j->columns[0], j->batch.count));
    CAVMAE__TRY(CAVMAE__NEW(j->model->context, &j->columns[1], pictures));
    for (int64_t i = 0; i < pictures; i++) j->columns[1][i] = j->uses[1] ? (int32_t)(o->image_size / o->patch_size) : 0;
    for (int32_t i = 0; i < j->batch.count; i++) {
        int64_t frames = cavmae__batch_frames(o, &j->batch, i);
        j->columns[0][i] = j->uses[0] ? (int32_t)(frames / o->patch_size) : 0;
        if (!j->uses[0]) continue;
        if (frames < o->patch_size || frames % o->patch_size)
            return cavmae__fail(CAVMAE_E_SHAPE, "embed: clip %d has %lld frames, which is no multiple of %lld", i,
                                (long long)frames, (long long)o->patch_size);
        if (frames > o->audio_frames && o->trainable_pos)
            return cavmae__fail(CAVMAE_E_SHAPE,
                                "embed: clip %d has %lld frames; the model's trained positions end at %lld", i,
                                (long long)frames, (long long)o->audio_frames);
    }
    return CAVMAE_OK;
}

/* Buffers for the longest clips of the batch. */
static cavmae_status allocate(job *j) {
    const cavmae__options *o = &j->model->options;
    cavmae_context *context = j->model->context;
    cavmae__backend *backend = j->model->backend;
    cavmae__extent extent;
    int32_t longest[2] = {0, j->columns[1][0]};
    for (int32_t i = 0; i < j->batch.count; i++)
        if (j->columns[0][i] > longest[0]) longest[0] = j->columns[0][i];
    j->chunk = j->group < j->pictures ? 1 : cavmae__embed_clips(o, j->batch.count, j->pictures, j->streams, longest);
    CAVMAE__TRY(cavmae__embed_extent(o, j->chunk, j->group, j->streams, longest, &extent));
    extent.pool = j->streams;
    extent.head = j->head;
    CAVMAE__TRY(cavmae__network_create(j->model, &extent, 0, &j->network));
    void *memory;
    int64_t patch = o->patch_size * o->patch_size,
            elements[2] = {extent.tokens[0] * patch, extent.tokens[1] * patch * o->image_channels};
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)elements[m] * sizeof(float), &memory));
        j->input[m] = memory;
    }
    if (j->out.scores) CAVMAE__TRY(cavmae__scores_create(context, o, j->out.average, j->chunk, &j->scores));
    int64_t width = cavmae__head_width(o) > o->classes ? cavmae__head_width(o) : o->classes;
    return CAVMAE__NEW(context, &j->rows, (int64_t)j->chunk * j->group * width);
}

static void release(job *j) {
    cavmae_context *context = j->model->context;
    cavmae__backend *backend = j->model->backend;
    cavmae__network_free(j->network);
    cavmae__raw_inputs_free(&j->raw, j->model);
    for (int m = 0; m < 2; m++) {
        if (j->input[m]) backend->ops->free(backend, j->input[m]);
        cavmae__free(context, j->columns[m]);
    }
    cavmae__scores_free(context, &j->scores);
    cavmae__free(context, j->rows);
}

/* input: where the part's sound or pictures begin, where they are prepared. */
static cavmae_status put_input(job *j, const part *p, int m, const float *input) {
    const cavmae__options *o = &j->model->options;
    cavmae__backend *backend = j->model->backend;
    if (m == CAVMAE__AUDIO && p->picture > 0) return CAVMAE_OK; /* it came with the clip's first pictures */
    if (cavmae__is_raw(&j->batch, m))
        return cavmae__raw_inputs_put(&j->raw, j->model, &j->batch, m,
                                      m ? (int64_t)p->first * j->pictures + p->picture : p->first,
                                      m ? p->clips * p->pictures : p->clips, j->input[m]);
    int64_t elements = j->network->rows.token_rows[m] * o->patch_size * o->patch_size * (m ? o->image_channels : 1);
    return backend->ops->upload(backend, j->input[m], input, (size_t)elements * sizeof(float));
}

/* inputs: where the part's sound and pictures begin. */
static cavmae_status run_part(job *j, const part *p, const float *const inputs[2]) {
    const cavmae__options *o = &j->model->options;
    cavmae__network *n = j->network;
    cavmae__batch_rows rows = {.clips = p->clips, .pictures = p->pictures};
    rows.columns[0] = j->columns[0] + p->first;
    rows.columns[1] = j->columns[1];
    for (int m = 0; m < 2; m++) {
        rows.grid_rows[m] = (int32_t)((m ? o->image_size : o->mel_bins) / o->patch_size);
        rows.table_columns[m] = (int32_t)((m ? o->image_size : o->audio_frames) / o->patch_size);
    }
    if (n->longer_positions) rows.table_columns[0] = n->extent.longest[0] / rows.grid_rows[0];
    rows.clip_stride[0] = o->patch_size * o->mel_bins;
    rows.clip_stride[1] = o->image_channels * o->image_size * o->patch_size;
    CAVMAE__TRY(cavmae__network_batch(n, &rows));
    CAVMAE__TRY(cavmae__rows_index(&n->rows, &n->extent, &n->pass, 0));
    for (int m = 0; m < 2; m++) {
        n->source[m].data = j->input[m];
        if (n->rows.token_rows[m]) CAVMAE__TRY(put_input(j, p, m, inputs[m]));
    }
    CAVMAE__TRY(cavmae__network_encode(n));
    CAVMAE__TRY(cavmae__network_pool(n));
    if (j->head) CAVMAE__TRY(cavmae__network_put_mode(n, j->mode, NULL));
    if (j->head) CAVMAE__TRY(cavmae__network_features(n));
    return j->head == CAVMAE__LOGITS ? cavmae__network_logits(n) : CAVMAE_OK;
}

/* Rows [count, width] to the host's `rows`: a NaN in any input of a clip is in its rows, too. */
static cavmae_status take_rows(job *j, const part *p, const float *device, int64_t count, int64_t width,
                               const char *what) {
    cavmae__backend *backend = j->model->backend;
    CAVMAE__TRY(backend->ops->download(backend, j->rows, device, (size_t)(count * width) * sizeof(float)));
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int64_t k = 0; k < width; k++) sum += fabs((double)j->rows[i * width + k]);
        if (!isfinite(sum))
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "embed: clip %lld: the %s are not finite",
                                (long long)p->first + i / (count / p->clips), what);
    }
    return CAVMAE_OK;
}

static void divide_by_norm(float *row, int64_t width) {
    double sum = 0;
    for (int64_t k = 0; k < width; k++) sum += (double)row[k] * row[k];
    float scale = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
    for (int64_t k = 0; k < width; k++) row[k] *= scale;
}

/* Rows to the caller, whose array has `each` rows for a clip. */
static cavmae_status give_rows(const job *j, const part *p, int64_t count, int64_t width, float *out) {
    cavmae__backend *backend = j->model->backend;
    int64_t each = count == p->clips ? 1 : j->pictures, first = p->first * each + (each > 1 ? p->picture : 0);
    return out ? backend->ops->give(backend, out + first * width, j->rows, (size_t)(count * width) * sizeof(float))
               : CAVMAE_OK;
}

/* Pooled rows and token rows of the streams, which come in the joint streams' order. */
static cavmae_status take_streams(job *j, const part *p) {
    static const char *const names[] = {"joint embeddings", "audio embeddings", "visual embeddings"};
    cavmae__network *n = j->network;
    cavmae__backend *backend = j->model->backend;
    int64_t width = j->model->options.embed_dim, row = 0;
    float *const pooled[3] = {j->out.joint, j->out.audio, j->out.visual};
    float *const unpooled[3] = {j->out.joint_tokens, j->out.audio_tokens, j->out.visual_tokens};
    for (int s = 0; s < 3; s++) {
        int64_t rows = n->rows.stream_rows[s];
        if (!rows) continue;
        row += rows;
        if (s == 1 && p->picture > 0) continue; /* the clip's sound once more */
        CAVMAE__TRY(take_rows(j, p, n->pooled[s], n->rows.stream[s].count, width, names[s]));
        for (int64_t i = 0; s > 0 && i < n->rows.stream[s].count; i++) divide_by_norm(j->rows + i * width, width);
        CAVMAE__TRY(give_rows(j, p, n->rows.stream[s].count, width, pooled[s]));
        if (unpooled[s])
            CAVMAE__TRY(backend->ops->download(backend, unpooled[s] + j->tokens[s] * width,
                                               n->joint_normed + (row - rows) * width,
                                               (size_t)(rows * width) * sizeof(float)));
        j->tokens[s] += rows;
    }
    return CAVMAE_OK;
}

static cavmae_status take_head(job *j, const part *p) {
    const cavmae__network *n = j->network;
    const cavmae__options *o = &j->model->options;
    int64_t width = cavmae__head_width(o), count = n->head_rows, classes = o->classes;
    int32_t each = (int32_t)(count / p->clips);
    if (!j->head || (p->picture > 0 && !cavmae__mode_uses(j->mode, CAVMAE__VISUAL))) return CAVMAE_OK;
    CAVMAE__TRY(take_rows(j, p, n->features, count, width, "features"));
    CAVMAE__TRY(give_rows(j, p, count, width, j->out.features));
    if (j->out.scores && j->out.average == CAVMAE_AVERAGE_FEATURES)
        cavmae__scores_add(&j->scores, p->clips, each, j->rows);
    if (j->head < CAVMAE__LOGITS) return CAVMAE_OK;
    CAVMAE__TRY(take_rows(j, p, n->logits, count, classes, "logits"));
    CAVMAE__TRY(give_rows(j, p, count, classes, j->out.logits));
    if (j->out.scores && j->out.average != CAVMAE_AVERAGE_FEATURES)
        cavmae__scores_add(&j->scores, p->clips, each, j->rows);
    return CAVMAE_OK;
}

/* The averages of a chunk of clips, all of whose pictures were seen. */
static cavmae_status take_scores(job *j, int32_t first, int32_t clips) {
    cavmae__network *n = j->network;
    cavmae__backend *backend = j->model->backend;
    int64_t classes = j->model->options.classes;
    size_t size = (size_t)(clips * classes) * sizeof(float);
    cavmae__scores_mean(&j->scores, clips, j->rows);
    if (j->out.average == CAVMAE_AVERAGE_FEATURES) {
        n->head_rows = clips;
        CAVMAE__TRY(
            backend->ops->upload(backend, n->features, j->rows, (size_t)(clips * j->scores.width) * sizeof(float)));
        CAVMAE__TRY(cavmae__network_logits(n));
        CAVMAE__TRY(backend->ops->download(backend, j->rows, n->logits, size));
    }
    if (j->out.average != CAVMAE_AVERAGE_SCORES) cavmae__activate(&j->model->options, clips, j->rows);
    return backend->ops->give(backend, j->out.scores + first * classes, j->rows, size);
}

static cavmae_status run_chunk(job *j, int32_t first, int32_t clips, const float *inputs[2]) {
    const cavmae__options *o = &j->model->options;
    int64_t picture = o->image_channels * o->image_size * o->image_size;
    const float *image = inputs[1];
    if (j->out.scores) cavmae__scores_clear(&j->scores, clips);
    for (part p = {first, clips, 0, 0}; p.picture < j->pictures; p.picture += p.pictures) {
        p.pictures = j->pictures - p.picture < j->group ? j->pictures - p.picture : j->group;
        const float *const from[2] = {inputs[0], image};
        CAVMAE__TRY(run_part(j, &p, from));
        CAVMAE__TRY(take_streams(j, &p));
        CAVMAE__TRY(take_head(j, &p));
        if (image) image += (int64_t)clips * p.pictures * picture;
    }
    for (int32_t i = first; inputs[0] && i < first + clips; i++)
        inputs[0] += j->columns[0][i] * o->patch_size * o->mel_bins;
    inputs[1] = image;
    return j->out.scores ? take_scores(j, first, clips) : CAVMAE_OK;
}

cavmae_status cavmae_embed(cavmae_model *model, const cavmae_batch *batch, const cavmae_embedding *out) {
    job j = {.model = model};
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "embed: model is NULL");
    CAVMAE__TRY(cavmae__record_in(&j.batch, sizeof j.batch, batch));
    CAVMAE__TRY(cavmae__record_in(&j.out, sizeof j.out, out));
    if (j.batch.count < 0) return cavmae__fail(CAVMAE_E_ARG, "embed: %d clips", j.batch.count);
    if (j.batch.count == 0) return CAVMAE_OK;
    CAVMAE__TRY(choose_streams(&j));
    const float *inputs[2] = {j.uses[0] ? j.batch.audio : NULL, j.uses[1] ? j.batch.image : NULL};
    CAVMAE__TRY_OUT(find_columns(&j));
    CAVMAE__TRY_OUT(allocate(&j));
    for (int32_t first = 0, clips; first < j.batch.count; first += clips) {
        clips = j.batch.count - first < j.chunk ? j.batch.count - first : j.chunk;
        CAVMAE__TRY_OUT(run_chunk(&j, first, clips, inputs));
        cavmae__progress(model->context, "clips embedded", first + clips, j.batch.count);
    }
out:
    release(&j);
    return status;
}
