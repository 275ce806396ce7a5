#include "optimizer.h"

#include <math.h>
#include <string.h>

#include "trainer.h"

static const char head_prefix[] = "mlp_head.";

cavmae_optimizer *cavmae__optimizer_ref(cavmae_optimizer *optimizer) {
    atomic_fetch_add(&optimizer->references, 1);
    return optimizer;
}

void cavmae_optimizer_free(cavmae_optimizer *optimizer) {
    if (!optimizer || atomic_fetch_sub(&optimizer->references, 1) != 1) return;
    cavmae_model *model = optimizer->model;
    if (optimizer->m) model->backend->ops->free(model->backend, optimizer->m);
    if (optimizer->v) model->backend->ops->free(model->backend, optimizer->v);
    cavmae__pieces_free(model->context, &optimizer->pieces);
    cavmae_world_free(optimizer->world);
    cavmae__free(model->context, optimizer->groups);
    cavmae_context *context = cavmae__context_ref(model->context);
    cavmae_model_free(model);
    cavmae__free(context, optimizer);
    cavmae__context_unref(context);
}

static cavmae_status allocate_moments(cavmae__backend *backend, size_t size, float **out) {
    void *memory;
    CAVMAE__TRY(backend->ops->alloc(backend, size, &memory));
    *out = memory;
    return backend->ops->zero(backend, memory, size);
}

cavmae_status cavmae_optimizer_create(cavmae_model *model, const cavmae_config *config, cavmae_optimizer **out) {
    if (!model || !out) return cavmae__fail(CAVMAE_E_ARG, "optimizer: model or out is NULL");
    cavmae__options options;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    cavmae_optimizer *optimizer = cavmae__alloc_zero(model->context, sizeof *optimizer);
    if (!optimizer) return CAVMAE_E_NOMEM;
    cavmae_world *world = cavmae__config_world(config);
    cavmae_status status = CAVMAE_OK;
    atomic_init(&optimizer->references, 1);
    optimizer->model = cavmae__model_ref(model);
    optimizer->options = options;
    optimizer->world = cavmae_world_size(world) > 1 ? cavmae__world_ref(world) : NULL;
    CAVMAE__TRY_OUT(cavmae__pieces_create(model->context, model->list.flat_elements,
                                          (int64_t)(options.bucket_mb * 0x1p20), cavmae_world_rank(world),
                                          cavmae_world_size(world), (int)options.shard_optimizer, &optimizer->pieces));
    const size_t size = (size_t)optimizer->pieces.total * sizeof(float);
    CAVMAE__TRY_OUT(CAVMAE__NEW(model->context, &optimizer->groups, model->list.count));
    for (int64_t i = 0; i < model->list.count; i++) {
        int head = strncmp(model->list.items[i].name, head_prefix, sizeof head_prefix - 1) == 0;
        double factor = head ? options.head_lr_factor : options.freeze_base ? 0 : 1;
        optimizer->groups[i] = (cavmae__group){factor, options.weight_decay};
    }
    CAVMAE__TRY_OUT(allocate_moments(model->backend, size, &optimizer->m));
    CAVMAE__TRY_OUT(allocate_moments(model->backend, size, &optimizer->v));
    *out = optimizer;
    return CAVMAE_OK;
out:
    cavmae_optimizer_free(optimizer);
    return status;
}

cavmae_status cavmae_optimizer_group(cavmae_optimizer *optimizer, const char *prefix, double lr_factor,
                                     double weight_decay) {
    if (!optimizer || !prefix) return cavmae__fail(CAVMAE_E_ARG, "optimizer or prefix is NULL");
    if (optimizer->updates)
        return cavmae__fail(CAVMAE_E_STATE, "optimizer: groups are set before the first step; %lld are done",
                            (long long)optimizer->updates);
    if (!(lr_factor >= 0) || !(weight_decay >= 0) || !isfinite(lr_factor) || !isfinite(weight_decay))
        return cavmae__fail(CAVMAE_E_ARG, "optimizer: lr_factor %g and weight_decay %g must be finite and not negative",
                            lr_factor, weight_decay);
    const cavmae__parameters *list = &optimizer->model->list;
    int64_t found = 0;
    for (int64_t i = 0; i < list->count; i++) {
        if (strncmp(list->items[i].name, prefix, strlen(prefix)) != 0) continue;
        optimizer->groups[i] = (cavmae__group){lr_factor, weight_decay};
        found++;
    }
    optimizer->groups_set++;
    if (!found) return cavmae__fail(CAVMAE_E_NOT_FOUND, "optimizer: no parameter's name starts with '%s'", prefix);
    return CAVMAE_OK;
}

int64_t cavmae_optimizer_updates(const cavmae_optimizer *optimizer) { return optimizer ? optimizer->updates : 0; }

double cavmae_optimizer_lr(const cavmae_optimizer *optimizer) {
    return optimizer ? cavmae__schedule(&optimizer->options, optimizer->updates + 1) : 0;
}

double cavmae__schedule(const cavmae__options *o, int64_t update) {
    double lr = o->lr;
    if (o->schedule == CAVMAE__MULTISTEP) {
        for (int64_t i = 0; i < o->milestone_count && o->milestones[i] < update; i++) lr *= o->gamma;
    } else if (update > o->warmup_steps) {
        double part = (double)(update - o->warmup_steps) / (double)(o->total_steps - o->warmup_steps);
        lr = o->min_lr + (lr - o->min_lr) * 0.5 * (1 + cos(3.141592653589793 * fmin(part, 1)));
    }
    return update <= o->warmup_steps ? lr * (double)update / (double)o->warmup_steps : lr;
}

uint64_t cavmae__optimizer_hash(const cavmae_optimizer *optimizer) {
    const cavmae__options *o = &optimizer->options;
    const double numbers[] = {cavmae_optimizer_lr(optimizer), o->beta1, o->beta2, o->adam_eps, (double)o->optimizer};
    uint64_t h = cavmae__hash(0xcbf29ce484222325u, &optimizer->updates, sizeof optimizer->updates);
    h = cavmae__hash(h, numbers, sizeof numbers);
    h = cavmae__hash(h, optimizer->groups, (size_t)optimizer->model->list.count * sizeof *optimizer->groups);
    return h ^ h >> 32;
}

static int same_group(const cavmae__group *a, const cavmae__group *b) {
    return a->lr_factor == b->lr_factor && a->weight_decay == b->weight_decay;
}

/* What of elements begin .. end - 1 lies in a piece. */
static cavmae_status update_piece(cavmae_optimizer *optimizer, const cavmae__piece *piece, int64_t begin, int64_t end,
                                  const float *gradients, cavmae__adam *part) {
    cavmae_model *model = optimizer->model;
    if (begin < piece->begin) begin = piece->begin;
    if (end > piece->begin + piece->count) end = piece->begin + piece->count;
    if (begin >= end) return CAVMAE_OK;
    const int64_t at = begin - piece->begin + piece->offset;
    part->count = end - begin;
    part->p = model->flat + begin;
    part->m = optimizer->m + at;
    part->v = optimizer->v + at;
    part->grad = gradients + at;
    return model->backend->ops->adam(model->backend, part);
}

cavmae_status cavmae__optimizer_update(cavmae_optimizer *optimizer, const float *gradients, const uint8_t *has_gradient,
                                       const cavmae__adam *adam) {
    const cavmae__parameters *list = &optimizer->model->list;
    const cavmae__options *o = &optimizer->options;
    for (int64_t i = 0; i < list->count;) {
        const cavmae__group *group = &optimizer->groups[i];
        int64_t first = i++;
        if (!has_gradient[first] || group->lr_factor == 0) continue;
        /* neighbours that are treated alike go in one call */
        while (i < list->count && has_gradient[i] && same_group(group, &optimizer->groups[i])) i++;
        int64_t begin = list->items[first].offset, end = list->items[i - 1].offset + list->items[i - 1].elements;
        cavmae__adam part = *adam;
        part.lr_factor = group->lr_factor;
        part.beta1 = o->beta1;
        part.beta2 = o->beta2;
        part.eps = o->adam_eps;
        part.weight_decay = group->weight_decay;
        part.decoupled = o->optimizer == CAVMAE__ADAMW;
        for (int32_t p = 0; p < optimizer->pieces.count; p++)
            CAVMAE__TRY(update_piece(optimizer, &optimizer->pieces.items[p], begin, end, gradients, &part));
    }
    return CAVMAE_OK;
}
