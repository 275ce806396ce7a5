#include "contrast.h"

#include <stdio.h>
#include <string.h>

static cavmae_status allocate(const cavmae_model *model, int64_t rows, int64_t width, float **out) {
    void *memory;
    const size_t size = (size_t)(rows * width) * sizeof(float);
    CAVMAE__TRY(model->backend->ops->alloc(model->backend, size, &memory));
    *out = memory;
    return model->backend->ops->zero(model->backend, memory, size); /* gaps are sent, too */
}

static cavmae_status allocate_pair(const cavmae_model *model, int64_t rows, int64_t width, int backward, float *x[2],
                                   float *d[2]) {
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(allocate(model, rows, width, &x[m]));
        if (backward) CAVMAE__TRY(allocate(model, rows, width, &d[m]));
    }
    return CAVMAE_OK;
}

static int is_global(const cavmae__contrast *c) { return c->shards == 0; }

cavmae_status cavmae__contrast_create(cavmae_model *model, cavmae_world *world, const cavmae__options *o,
                                      int32_t capacity, int chunked, int backward, cavmae__contrast *out) {
    const int32_t size = cavmae_world_size(world);
    const int global = o->contrast_scope == CAVMAE__SCOPE_GLOBAL;
    cavmae__contrast c = {.world = world, .capacity = capacity};
    cavmae_status status = CAVMAE_OK;
    c.shards = global ? (size > 1 ? 0 : 1) : o->contrast_shards ? (int32_t)o->contrast_shards : size;
    if (c.shards % size)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: contrast_shards %d is not a multiple of the world's %d ranks",
                            c.shards, size);
    if (chunked || is_global(&c))
        CAVMAE__TRY_OUT(allocate_pair(model, capacity, o->embed_dim, backward, c.own, c.d_own));
    if (is_global(&c))
        CAVMAE__TRY_OUT(
            allocate_pair(model, (int64_t)size * capacity, o->embed_dim, backward, c.gathered, c.d_gathered));
    *out = c;
    return CAVMAE_OK;
out:
    cavmae__contrast_free(model, &c);
    return status;
}

void cavmae__contrast_free(cavmae_model *model, cavmae__contrast *c) {
    void (*free_memory)(cavmae__backend *, void *) = model->backend->ops->free;
    float **const lists[] = {c->own, c->d_own, c->gathered, c->d_gathered, c->dense, c->d_dense};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        for (int m = 0; m < 2; m++)
            if (lists[i][m]) free_memory(model->backend, lists[i][m]);
    if (c->dense_row) free_memory(model->backend, c->dense_row);
    if (c->gathered_row) free_memory(model->backend, c->gathered_row);
    memset(c, 0, sizeof *c);
}

int32_t cavmae__contrast_pairs(const cavmae__contrast *c, int32_t all) {
    return c->shards > 1 ? (all + c->shards - 1) / c->shards : all;
}

float *cavmae__contrast_own(const cavmae__contrast *c, const cavmae__network *n, int m, int gradient) {
    if (c->own[m]) return gradient ? c->d_own[m] : c->own[m];
    return gradient ? n->d_pooled[1 + m] : n->pooled[1 + m];
}

/* ---- Shares that are not equal: rows without gaps, and back ---- */

/* Rows of gathered memory for each rank in a batch of `all`. */
static int32_t block_rows(const cavmae__contrast *c, int32_t all) {
    const int32_t size = cavmae_world_size(c->world);
    return (all + size - 1) / size;
}

static int has_gaps(const cavmae__contrast *c, int32_t all) {
    return is_global(c) && all % cavmae_world_size(c->world) != 0;
}

static void find_rows(const cavmae__contrast *c, int32_t all, int32_t *dense_row, int32_t *gathered_row) {
    const int32_t size = cavmae_world_size(c->world), block = block_rows(c, all);
    for (int32_t rank = 0; rank < size; rank++) {
        const int32_t begin = (int32_t)((int64_t)all * rank / size), end = (int32_t)((int64_t)all * (rank + 1) / size);
        for (int32_t i = 0; i < block; i++) gathered_row[rank * block + i] = begin + i < end ? begin + i : -1;
        for (int32_t i = begin; i < end; i++) dense_row[i] = rank * block + i - begin;
    }
}

static cavmae_status upload_rows(cavmae__contrast *c, const cavmae_model *model, int32_t all) {
    cavmae__backend *backend = model->backend;
    const int64_t most = (int64_t)cavmae_world_size(c->world) * c->capacity;
    const size_t dense = (size_t)all * sizeof(int32_t),
                 gathered = (size_t)cavmae_world_size(c->world) * (size_t)block_rows(c, all) * sizeof(int32_t);
    int32_t *host;
    CAVMAE__TRY(CAVMAE__NEW(model->context, &host, 2 * most));
    find_rows(c, all, host, host + most);
    cavmae_status status = backend->ops->upload(backend, c->dense_row, host, dense);
    if (status == CAVMAE_OK) status = backend->ops->upload(backend, c->gathered_row, host + most, gathered);
    cavmae__free(model->context, host);
    return status;
}

cavmae_status cavmae__contrast_put(cavmae__contrast *c, const cavmae_model *model, int32_t all) {
    const int64_t most = (int64_t)cavmae_world_size(c->world) * c->capacity;
    void *memory;
    if (!has_gaps(c, all) || all == c->dense_count) return CAVMAE_OK;
    c->dense_count = 0;
    if (!c->dense[0])
        CAVMAE__TRY(allocate_pair(model, most, model->options.embed_dim, c->d_own[0] != NULL, c->dense, c->d_dense));
    for (int i = 0; i < 2; i++) {
        int32_t **const list = i ? &c->gathered_row : &c->dense_row;
        if (*list) continue;
        CAVMAE__TRY(model->backend->ops->alloc(model->backend, (size_t)most * sizeof(int32_t), &memory));
        *list = memory;
    }
    CAVMAE__TRY(upload_rows(c, model, all));
    c->dense_count = all;
    return CAVMAE_OK;
}

static cavmae_status take_rows(const cavmae__network *n, int64_t rows, const float *x, const int32_t *row, float *y) {
    const cavmae__combine op = {
        .rows = rows, .width = (int32_t)n->model->options.embed_dim, .x = x, .first = row, .y = y};
    return n->pass.backend->ops->combine(n->pass.backend, &op);
}

/* ---- The loss ---- */

static cavmae__contrastive describe(const cavmae__network *n, const cavmae__options *o, int32_t all) {
    return (cavmae__contrastive){.width = (int32_t)o->embed_dim,
                                 .direction = (int32_t)o->contrast_direction,
                                 .pairs = all,
                                 .temperature = o->contrast_temperature,
                                 .weight = o->contrast_weight,
                                 .loss = n->scalars + CAVMAE__LOSS_C,
                                 .accuracy = n->scalars + CAVMAE__ACCURACY,
                                 .workspace = n->pass.workspace};
}

/* Each of this rank's shards by itself. */
static cavmae_status contrast_shards(const cavmae__contrast *c, const cavmae__network *n, const cavmae__options *o,
                                     int32_t first, int32_t all, int backward) {
    const int32_t size = cavmae_world_size(c->world), rank = cavmae_world_rank(c->world), each = c->shards / size;
    for (int32_t s = rank * each; s < (rank + 1) * each; s++) {
        const int64_t begin = (int64_t)all * s / c->shards - first, end = (int64_t)all * (s + 1) / c->shards - first,
                      at = begin * o->embed_dim;
        if (begin == end) continue;
        cavmae__contrastive op = describe(n, o, all);
        op.count = op.total = (int32_t)(end - begin);
        op.a = cavmae__contrast_own(c, n, 0, 0) + at;
        op.v = cavmae__contrast_own(c, n, 1, 0) + at;
        op.da = backward ? cavmae__contrast_own(c, n, 0, 1) + at : NULL;
        op.dv = backward ? cavmae__contrast_own(c, n, 1, 1) + at : NULL;
        CAVMAE__TRY(n->pass.backend->ops->contrastive(n->pass.backend, &op));
    }
    return CAVMAE_OK;
}

static cavmae_status exchange(const cavmae__contrast *c, const cavmae__options *o, int32_t all, int backward, int m) {
    static const char *const names[] = {"audio", "visual"};
    cavmae__collective op = {.kind = backward ? CAVMAE__REDUCE_SCATTER : CAVMAE__ALL_GATHER,
                             .dtype = CAVMAE_FLOAT32,
                             .send = backward ? c->d_gathered[m] : c->own[m],
                             .data = backward ? c->d_own[m] : c->gathered[m],
                             .count = block_rows(c, all) * o->embed_dim};
    snprintf(op.what, sizeof op.what, "%s of %s embeddings of %d clips", backward ? "gradients" : "means", names[m],
             (int)all);
    return cavmae__world_begin(c->world, &op);
}

/* This rank's pairs against those of all ranks; the gradients that this gives the others' clips go to them. */
static cavmae_status contrast_world(const cavmae__contrast *c, const cavmae__network *n, const cavmae__options *o,
                                    int32_t first, int32_t count, int32_t all, int backward) {
    const int gaps = has_gaps(c, all);
    const int64_t blocks = (int64_t)cavmae_world_size(c->world) * block_rows(c, all);
    cavmae__contrastive op = describe(n, o, all);
    for (int m = 0; m < 2; m++) CAVMAE__TRY(exchange(c, o, all, 0, m));
    CAVMAE__TRY(cavmae__world_wait(c->world));
    for (int m = 0; m < 2 && gaps; m++) CAVMAE__TRY(take_rows(n, all, c->gathered[m], c->dense_row, c->dense[m]));
    op.first = first;
    op.count = count;
    op.total = all;
    op.a = gaps ? c->dense[0] : c->gathered[0];
    op.v = gaps ? c->dense[1] : c->gathered[1];
    if (backward) {
        op.da = gaps ? c->d_dense[0] : c->d_gathered[0];
        op.dv = gaps ? c->d_dense[1] : c->d_gathered[1];
    }
    CAVMAE__TRY(n->pass.backend->ops->contrastive(n->pass.backend, &op));
    if (!backward) return CAVMAE_OK;
    for (int m = 0; m < 2; m++) {
        if (gaps) CAVMAE__TRY(take_rows(n, blocks, c->d_dense[m], c->gathered_row, c->d_gathered[m]));
        CAVMAE__TRY(exchange(c, o, all, 1, m));
    }
    return cavmae__world_wait(c->world);
}

cavmae_status cavmae__contrast_compute(cavmae__contrast *c, cavmae__network *n, const cavmae__options *o, int32_t first,
                                       int32_t count, int32_t all, int backward) {
    return is_global(c) ? contrast_world(c, n, o, first, count, all, backward)
                        : contrast_shards(c, n, o, first, all, backward);
}
