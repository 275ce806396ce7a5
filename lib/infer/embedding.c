/* Embeddings: encoders and joint encoder over all tokens, a few clips at a time. */
#include <math.h>
#include <string.h>

#include "extent.h"
#include "network.h"
#include "record.h"

/* One call's work: what it was asked, and buffers for a chunk of clips. */
typedef struct job {
    cavmae_model *model;
    cavmae_batch batch;
    cavmae_embedding out;
    int32_t streams, chunk;
    int32_t *columns[2]; /* host [count] grid columns of each clip; 0: modality not needed */
    cavmae__network *network;
    float *input[2];    /* device */
    float *pooled;      /* device [3 * chunk, D] */
    float *pooled_host; /* [chunk, D] */
} job;

static const int32_t modality_streams[2] = {CAVMAE__STREAM_BOTH | CAVMAE__STREAM_A,
                                            CAVMAE__STREAM_BOTH | CAVMAE__STREAM_V};

static cavmae_status choose_streams(job *j) {
    static const char *const missing[] = {"embed: the model has no audio encoder",
                                          "embed: the model has no visual encoder"};
    const cavmae_embedding *out = &j->out;
    const cavmae__options *o = &j->model->options;
    const float *inputs[2] = {j->batch.audio, j->batch.image};
    const int64_t lacks[2] = {CAVMAE__MODALITIES_V, CAVMAE__MODALITIES_A};
    j->streams = (out->joint || out->joint_tokens ? CAVMAE__STREAM_BOTH : 0) |
                 (out->audio || out->audio_tokens ? CAVMAE__STREAM_A : 0) |
                 (out->visual || out->visual_tokens ? CAVMAE__STREAM_V : 0);
    if (!j->streams) return cavmae__fail(CAVMAE_E_ARG, "embed: no output is asked for");
    for (int m = 0; m < 2; m++) {
        if (!(j->streams & modality_streams[m])) continue;
        if (o->modalities == lacks[m]) return cavmae__fail(CAVMAE_E_ARG, "%s", missing[m]);
        if (!inputs[m])
            return cavmae__fail(CAVMAE_E_ARG, "embed: %s is NULL, and an output needs it", m ? "image" : "audio");
    }
    return CAVMAE_OK;
}

static cavmae_status find_columns(job *j) {
    const cavmae__options *o = &j->model->options;
    for (int m = 0; m < 2; m++) CAVMAE__TRY(CAVMAE__NEW(j->model->context, &j->columns[m], j->batch.count));
    for (int32_t i = 0; i < j->batch.count; i++) {
        int64_t frames = j->batch.audio_frames ? j->batch.audio_frames[i] : o->audio_frames;
        if (j->streams & modality_streams[0]) {
            if (frames < o->patch_size || frames % o->patch_size)
                return cavmae__fail(CAVMAE_E_SHAPE, "embed: clip %d has %lld frames, which is no multiple of %lld", i,
                                    (long long)frames, (long long)o->patch_size);
            if (frames > o->audio_frames && o->trainable_pos)
                return cavmae__fail(CAVMAE_E_SHAPE,
                                    "embed: clip %d has %lld frames; the model's trained positions end at %lld", i,
                                    (long long)frames, (long long)o->audio_frames);
        }
        j->columns[0][i] = j->streams & modality_streams[0] ? (int32_t)(frames / o->patch_size) : 0;
        j->columns[1][i] = j->streams & modality_streams[1] ? (int32_t)(o->image_size / o->patch_size) : 0;
    }
    return CAVMAE_OK;
}

/* Buffers for the longest clips of the batch. */
static cavmae_status allocate(job *j) {
    const cavmae__options *o = &j->model->options;
    cavmae__backend *backend = j->model->backend;
    cavmae__extent extent;
    int32_t longest[2] = {0, 0};
    for (int m = 0; m < 2; m++)
        for (int32_t i = 0; i < j->batch.count; i++)
            if (j->columns[m][i] > longest[m]) longest[m] = j->columns[m][i];
    j->chunk = cavmae__embed_clips(o, j->batch.count, j->streams, longest);
    CAVMAE__TRY(cavmae__embed_extent(o, j->chunk, j->streams, longest, &extent));
    CAVMAE__TRY(cavmae__network_create(j->model, &extent, 0, &j->network));
    void *memory;
    int64_t patch = o->patch_size * o->patch_size,
            elements[2] = {extent.tokens[0] * patch, extent.tokens[1] * patch * o->image_channels};
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)elements[m] * sizeof(float), &memory));
        j->input[m] = memory;
    }
    CAVMAE__TRY(backend->ops->alloc(backend, (size_t)(3 * j->chunk * o->embed_dim) * sizeof(float), &memory));
    j->pooled = memory;
    return CAVMAE__NEW(j->model->context, &j->pooled_host, j->chunk * o->embed_dim);
}

static void release(job *j) {
    cavmae__backend *backend = j->model->backend;
    cavmae__network_free(j->network);
    for (int m = 0; m < 2; m++) {
        if (j->input[m]) backend->ops->free(backend, j->input[m]);
        cavmae__free(j->model->context, j->columns[m]);
    }
    if (j->pooled) backend->ops->free(backend, j->pooled);
    cavmae__free(j->model->context, j->pooled_host);
}

static cavmae_status run_chunk(job *j, int32_t first, int32_t clips, const float *inputs[2]) {
    const cavmae__options *o = &j->model->options;
    cavmae__backend *backend = j->model->backend;
    cavmae__network *n = j->network;
    cavmae__batch_rows rows = {.clips = clips};
    int64_t patch = o->patch_size * o->patch_size;
    for (int m = 0; m < 2; m++) {
        rows.columns[m] = j->columns[m] + first;
        rows.grid_rows[m] = (int32_t)((m ? o->image_size : o->mel_bins) / o->patch_size);
        rows.table_columns[m] = (int32_t)((m ? o->image_size : o->audio_frames) / o->patch_size);
    }
    if (n->longer_positions) rows.table_columns[0] = n->extent.longest[0] / rows.grid_rows[0];
    rows.clip_stride[0] = o->patch_size * o->mel_bins;
    rows.clip_stride[1] = o->image_channels * o->image_size * o->patch_size;
    CAVMAE__TRY(cavmae__network_batch(n, &rows));
    CAVMAE__TRY(cavmae__rows_index(&n->rows, &n->extent, &n->pass, 0));
    for (int m = 0; m < 2; m++) {
        int64_t elements = n->rows.token_rows[m] * patch * (m ? o->image_channels : 1);
        n->source[m].data = j->input[m];
        if (!elements) continue;
        CAVMAE__TRY(backend->ops->upload(backend, j->input[m], inputs[m], (size_t)elements * sizeof(float)));
        inputs[m] += elements;
    }
    CAVMAE__TRY(cavmae__network_encode(n));
    const cavmae__segment_mean mean = {
        .width = (int32_t)o->embed_dim, .segments = n->rows.joint, .x = n->joint_normed, .y = j->pooled};
    return backend->ops->segment_mean(backend, &mean);
}

/* Pooled rows on their way out: a NaN in any input of a clip is in its pooled row, too. out NULL: only looked at. */
static cavmae_status take_pooled(const job *j, int64_t segment, int32_t first, int32_t clips, int unit_length,
                                 const char *what, float *out) {
    cavmae__backend *backend = j->model->backend;
    int64_t width = j->model->options.embed_dim;
    const float *row = j->pooled_host;
    CAVMAE__TRY(backend->ops->download(backend, j->pooled_host, j->pooled + segment * width,
                                       (size_t)(clips * width) * sizeof(float)));
    for (int32_t i = 0; i < clips; i++, row += width) {
        double sum = 0;
        for (int64_t k = 0; k < width; k++) sum += (double)row[k] * row[k];
        if (!isfinite(sum))
            return cavmae__fail(CAVMAE_E_NOT_FINITE, "embed: clip %d: the %s embedding is not finite", first + i, what);
        if (!out) continue;
        float scale = !unit_length ? 1 : sum > 0 ? (float)(1 / sqrt(sum)) : 0;
        for (int64_t k = 0; k < width; k++) out[(first + i) * width + k] = row[k] * scale;
    }
    return CAVMAE_OK;
}

/* Copies the chunk's results out; pooled rows and token rows come in the joint streams' order. tokens [3]: token
 * rows written so far. */
static cavmae_status take_results(job *j, int32_t first, int32_t clips, int64_t tokens[3]) {
    static const char *const names[] = {"joint", "audio", "visual"};
    cavmae__network *n = j->network;
    cavmae__backend *backend = j->model->backend;
    int64_t width = j->model->options.embed_dim, row = 0, segment = 0;
    float *const pooled[3] = {j->out.joint, j->out.audio, j->out.visual};
    float *const unpooled[3] = {j->out.joint_tokens, j->out.audio_tokens, j->out.visual_tokens};
    for (int s = 0; s < 3; s++) {
        int64_t rows = n->rows.stream_rows[s];
        if (!rows) continue;
        CAVMAE__TRY(take_pooled(j, segment, first, clips, s > 0, names[s], pooled[s]));
        if (unpooled[s])
            CAVMAE__TRY(backend->ops->download(backend, unpooled[s] + tokens[s] * width, n->joint_normed + row * width,
                                               (size_t)(rows * width) * sizeof(float)));
        tokens[s] += rows;
        row += rows;
        segment += clips;
    }
    return CAVMAE_OK;
}

cavmae_status cavmae_embed(cavmae_model *model, const cavmae_batch *batch, const cavmae_embedding *out) {
    job j = {.model = model};
    int64_t tokens[3] = {0, 0, 0};
    cavmae_status status = CAVMAE_OK;
    if (!model) return cavmae__fail(CAVMAE_E_ARG, "embed: model is NULL");
    CAVMAE__TRY(cavmae__record_in(&j.batch, sizeof j.batch, batch));
    CAVMAE__TRY(cavmae__record_in(&j.out, sizeof j.out, out));
    if (j.batch.count < 0) return cavmae__fail(CAVMAE_E_ARG, "embed: %d clips", j.batch.count);
    if (j.batch.count == 0) return CAVMAE_OK;
    CAVMAE__TRY(choose_streams(&j));
    const float *inputs[2] = {j.batch.audio, j.batch.image};
    CAVMAE__TRY_OUT(find_columns(&j));
    CAVMAE__TRY_OUT(allocate(&j));
    for (int32_t first = 0, clips; first < j.batch.count; first += clips) {
        clips = j.batch.count - first < j.chunk ? j.batch.count - first : j.chunk;
        CAVMAE__TRY_OUT(run_chunk(&j, first, clips, inputs));
        CAVMAE__TRY_OUT(take_results(&j, first, clips, tokens));
        cavmae__progress(model->context, "clips embedded", first + clips, j.batch.count);
    }
out:
    release(&j);
    return status;
}
