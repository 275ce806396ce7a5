#include "exchange.h"

#include <stdio.h>
#include <string.h>

static int32_t bucket_of(const cavmae__exchange *e, int64_t element) { return (int32_t)(element / e->pieces->bucket); }

static cavmae_status allocate(cavmae__exchange *e) {
    cavmae_context *context = e->model->context;
    cavmae__backend *backend = e->model->backend;
    const cavmae__pieces *p = e->pieces;
    void *memory;
    CAVMAE__TRY(CAVMAE__NEW(context, &e->waiting, p->buckets));
    CAVMAE__TRY(CAVMAE__NEW(context, &e->sent, p->buckets));
    CAVMAE__TRY(CAVMAE__NEW(context, &e->handled, p->buckets));
    CAVMAE__TRY(CAVMAE__NEW(context, &e->order, p->buckets));
    CAVMAE__TRY(CAVMAE__NEW(context, &e->complete, e->model->list.count));
    CAVMAE__TRY(CAVMAE__NEW(context, &e->known_gradients, e->model->list.count));
    if (e->dtype != CAVMAE_FLOAT32)
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)p->elements * cavmae__dtype_size(e->dtype), &e->narrow));
    if (!p->sharded) return CAVMAE_OK;
    CAVMAE__TRY(backend->ops->alloc(backend, (size_t)p->total * sizeof(float), &memory));
    e->own = memory;
    return backend->ops->zero(backend, e->own, (size_t)p->total * sizeof(float));
}

static cavmae_status convert(const cavmae__exchange *e, const void *x, int32_t x_dtype, void *y, int32_t y_dtype,
                             int64_t count) {
    const cavmae__convert op = {.count = count, .x_dtype = x_dtype, .y_dtype = y_dtype, .x = x, .y = y};
    return count ? e->model->backend->ops->convert(e->model->backend, &op) : CAVMAE_OK;
}

/* Element i of the flat gradient as it travels. */
static char *travelling(const cavmae__exchange *e, int64_t i) {
    char *const base = e->narrow ? e->narrow : (void *)e->gradients;
    return base + (size_t)i * cavmae__dtype_size(e->dtype);
}

static cavmae_status begin(const cavmae__exchange *e, int32_t kind, int64_t from, int64_t to, int64_t count,
                           int32_t bucket) {
    cavmae__collective c = {
        .kind = kind, .dtype = e->dtype, .send = travelling(e, from), .data = travelling(e, to), .count = count};
    if (!count) return CAVMAE_OK;
    snprintf(c.what, sizeof c.what, "gradients %d of %d, step %lld", (int)bucket + 1, (int)e->pieces->buckets,
             (long long)e->step);
    return cavmae__world_begin(e->world, &c);
}

/* Buckets without any gradient (of a frozen encoder) stay at home, on every rank. */
static int has_gradients(const cavmae__exchange *e, int32_t bucket) {
    const cavmae__parameters *list = &e->model->list;
    const int64_t first = cavmae__bucket_begin(e->pieces, bucket),
                  end = first + cavmae__bucket_count(e->pieces, bucket);
    for (int64_t i = 0; i < list->count; i++)
        if (e->has_gradient[i] && list->items[i].offset < end &&
            list->items[i].offset + list->items[i].elements > first)
            return 1;
    return 0;
}

static cavmae_status send(cavmae__exchange *e, int32_t k) {
    const cavmae__pieces *p = e->pieces;
    const int64_t first = cavmae__bucket_begin(p, k), count = cavmae__bucket_count(p, k);
    e->handled[k] = 1;
    if (!has_gradients(e, k)) return CAVMAE_OK;
    e->sent[k] = 1;
    if (e->narrow) CAVMAE__TRY(convert(e, e->gradients + first, CAVMAE_FLOAT32, travelling(e, first), e->dtype, count));
    if (!p->sharded) return begin(e, CAVMAE__ALL_REDUCE, first, first, count, k);
    const cavmae__piece *part = &p->items[k], *left = &p->items[p->buckets + k];
    CAVMAE__TRY(begin(e, CAVMAE__REDUCE_SCATTER, first, part->begin, part->count, k));
    return begin(e, CAVMAE__ALL_REDUCE, left->begin, left->begin, left->count, k);
}

/* The pass's word that parameters first .. first + count - 1 are finished; again is nothing new. */
static cavmae_status finish_parameters(void *arg, int64_t first, int64_t count) {
    cavmae__exchange *e = arg;
    for (int64_t i = first; i < first + count; i++) {
        const cavmae__parameter *p = &e->model->list.items[i];
        if (e->complete[i]) continue;
        e->complete[i] = 1;
        for (int32_t k = bucket_of(e, p->offset); k <= bucket_of(e, p->offset + p->elements - 1); k++)
            if (--e->waiting[k] == 0 && e->rehearsing)
                e->order[e->order_count++] = k;
            else if (e->waiting[k] == 0)
                CAVMAE__TRY(send(e, k));
    }
    return CAVMAE_OK;
}

cavmae_status cavmae__exchange_create(cavmae_world *world, cavmae_model *model, const cavmae__pieces *pieces,
                                      int32_t dtype, float *gradients, const uint8_t *has_gradient,
                                      cavmae__exchange **out) {
    cavmae__exchange *e = cavmae__alloc_zero(model->context, sizeof *e);
    if (!e) return CAVMAE_E_NOMEM;
    *e = (cavmae__exchange){.world = world,
                            .model = model,
                            .pieces = pieces,
                            .dtype = dtype,
                            .gradients = gradients,
                            .has_gradient = has_gradient,
                            .sink = {finish_parameters, e}};
    const cavmae_status status = allocate(e);
    if (status != CAVMAE_OK) {
        cavmae__exchange_free(e);
        return status;
    }
    *out = e;
    return CAVMAE_OK;
}

void cavmae__exchange_free(cavmae__exchange *e) {
    if (!e) return;
    cavmae_context *context = e->model->context;
    cavmae__backend *backend = e->model->backend;
    if (e->own) backend->ops->free(backend, e->own);
    if (e->narrow) backend->ops->free(backend, e->narrow);
    cavmae__free(context, e->known_gradients);
    cavmae__free(context, e->complete);
    cavmae__free(context, e->order);
    cavmae__free(context, e->handled);
    cavmae__free(context, e->sent);
    cavmae__free(context, e->waiting);
    cavmae__free(context, e);
}

static void start_pass(cavmae__exchange *e) {
    const cavmae__parameters *list = &e->model->list;
    memset(e->complete, 0, (size_t)list->count);
    memset(e->handled, 0, (size_t)e->pieces->buckets);
    memset(e->sent, 0, (size_t)e->pieces->buckets);
    memset(e->waiting, 0, (size_t)e->pieces->buckets * sizeof *e->waiting);
    for (int64_t i = 0; i < list->count; i++) {
        const cavmae__parameter *p = &list->items[i];
        for (int32_t k = bucket_of(e, p->offset); k <= bucket_of(e, p->offset + p->elements - 1); k++) e->waiting[k]++;
    }
}

void cavmae__exchange_rehearse(cavmae__exchange *e) {
    start_pass(e);
    e->rehearsing = 1;
    e->order_count = 0;
}

void cavmae__exchange_start(cavmae__exchange *e, int64_t step) {
    start_pass(e);
    e->rehearsing = 0;
    e->step = step;
}

cavmae_status cavmae__exchange_without_pass(cavmae__exchange *e) {
    for (int32_t i = 0; i < e->order_count; i++) CAVMAE__TRY(send(e, e->order[i]));
    return CAVMAE_OK;
}

/* Sums of this rank's pieces of a bucket, from where they arrived. */
static cavmae_status take_pieces(const cavmae__exchange *e, int32_t k) {
    const cavmae__pieces *p = e->pieces;
    for (int32_t i = k; i < p->count; i += p->buckets)
        CAVMAE__TRY(convert(e, travelling(e, p->items[i].begin), e->dtype, e->own + p->items[i].offset, CAVMAE_FLOAT32,
                            p->items[i].count));
    return CAVMAE_OK;
}

cavmae_status cavmae__exchange_finish(cavmae__exchange *e) {
    const cavmae__pieces *p = e->pieces;
    for (int32_t k = 0; k < p->buckets; k++)
        if (!e->handled[k]) CAVMAE__TRY(send(e, k));
    CAVMAE__TRY(cavmae__world_wait(e->world));
    for (int32_t k = 0; k < p->buckets; k++) {
        const int64_t first = cavmae__bucket_begin(p, k);
        if (!e->sent[k]) continue;
        if (p->sharded)
            CAVMAE__TRY(take_pieces(e, k));
        else if (e->narrow)
            CAVMAE__TRY(convert(e, travelling(e, first), e->dtype, e->gradients + first, CAVMAE_FLOAT32,
                                cavmae__bucket_count(p, k)));
    }
    return CAVMAE_OK;
}

const float *cavmae__exchange_sums(const cavmae__exchange *e) { return e->own ? e->own : e->gradients; }

cavmae_status cavmae__exchange_parameters(cavmae__exchange *e) {
    const cavmae__pieces *p = e->pieces;
    if (!p->sharded) return CAVMAE_OK;
    for (int32_t k = 0; k < p->buckets; k++) {
        cavmae__collective c = {.kind = CAVMAE__ALL_GATHER,
                                .dtype = CAVMAE_FLOAT32,
                                .send = e->model->flat + p->items[k].begin,
                                .data = e->model->flat + cavmae__bucket_begin(p, k),
                                .count = p->items[k].count};
        if (!e->sent[k] || !c.count) continue;
        snprintf(c.what, sizeof c.what, "parameters %d of %d, step %lld", (int)k + 1, (int)p->buckets,
                 (long long)e->step);
        CAVMAE__TRY(cavmae__world_begin(e->world, &c));
    }
    return cavmae__world_wait(e->world);
}

/* full NULL: everybody receives, and all but rank 0 into memory that is given up afterwards. */
static cavmae_status collect_bucket(cavmae__exchange *e, const float *x, float *into, int32_t k, const char *what) {
    const cavmae__piece *part = &e->pieces->items[k];
    cavmae__collective c = {.kind = CAVMAE__ALL_GATHER,
                            .dtype = CAVMAE_FLOAT32,
                            .send = x + part->offset,
                            .data = into,
                            .count = part->count};
    if (!c.count) return CAVMAE_OK;
    snprintf(c.what, sizeof c.what, "%s %d of %d", what, (int)k + 1, (int)e->pieces->buckets);
    return cavmae__world_run(e->world, &c);
}

cavmae_status cavmae__exchange_collect(cavmae__exchange *e, const float *x, float *full, const char *what) {
    const cavmae__pieces *p = e->pieces;
    cavmae__backend *backend = e->model->backend;
    cavmae_status status = CAVMAE_OK;
    void *unwanted = NULL;
    if (!full) CAVMAE__TRY(backend->ops->alloc(backend, (size_t)p->bucket * sizeof(float), &unwanted));
    for (int32_t k = 0; k < p->buckets; k++) {
        const cavmae__piece *left = &p->items[p->buckets + k];
        CAVMAE__TRY_OUT(collect_bucket(e, x, full ? full + cavmae__bucket_begin(p, k) : unwanted, k, what));
        if (full)
            CAVMAE__TRY_OUT(
                convert(e, x + left->offset, CAVMAE_FLOAT32, full + left->begin, CAVMAE_FLOAT32, left->count));
    }
out:
    if (unwanted) backend->ops->free(backend, unwanted);
    return status;
}

cavmae_status cavmae__exchange_total(cavmae__exchange *e, float *full) {
    cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE,
                            .dtype = CAVMAE_FLOAT32,
                            .data = full,
                            .count = e->pieces->elements,
                            .what = "gradients so far"};
    CAVMAE__TRY(convert(e, e->gradients, CAVMAE_FLOAT32, full, CAVMAE_FLOAT32, e->pieces->elements));
    return cavmae__world_run(e->world, &c);
}
