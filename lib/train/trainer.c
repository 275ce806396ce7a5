/* Making and freeing a trainer: its plan, its memory, and its place in a world. */
#include "trainer.h"

#include <stdio.h>
#include <string.h>

#include "extent.h"

void cavmae_trainer_free(cavmae_trainer *trainer) {
    if (!trainer) return;
    /* The optimizer may live on: what the step under way did to it counts. A failure is nobody's to hear. */
    (void)cavmae__trainer_finish(trainer);
    cavmae_model *model = trainer->model;
    cavmae_context *context = cavmae__context_ref(model->context);
    for (int i = 0; i < CAVMAE__TURNS; i++)
        for (int added = 0; added < 2; added++)
            model->backend->ops->repeat_free(model->backend, &trainer->repeats[i][added]);
    for (int i = 0; i < CAVMAE__TURNS; i++) cavmae__raw_inputs_free(&trainer->raw[i], model);
    cavmae__network_free(trainer->network);
    if (trainer->gradients) model->backend->ops->free(model->backend, trainer->gradients);
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < CAVMAE__TURNS; i++)
            if (trainer->input[i][m]) model->backend->ops->free(model->backend, trainer->input[i][m]);
        cavmae__free(context, trainer->columns[m]);
        cavmae__free(context, trainer->kept[m]);
    }
    cavmae__contrast_free(model, &trainer->contrast);
    cavmae__exchange_free(trainer->exchange);
    cavmae__free(context, trainer->has_gradient);
    cavmae__free(context, trainer->mask_host);
    cavmae__free(context, trainer->shown);
    if (trainer->labels) model->backend->ops->free(model->backend, trainer->labels);
    if (trainer->state) model->backend->ops->free(model->backend, trainer->state);
    cavmae_optimizer_free(trainer->optimizer);
    cavmae_world_free(trainer->world);
    cavmae_model_free(model);
    cavmae__free(context, trainer);
    cavmae__context_unref(context);
}

cavmae_status cavmae__trainer_reserve(cavmae_trainer *trainer, const cavmae__extent *extent) {
    cavmae__network *network;
    /* The old one goes first: both at once may be more than there is. A failure leaves none, and the next batch
     * tries again. */
    cavmae__network_free(trainer->network);
    trainer->network = NULL;
    trainer->generation++;
    CAVMAE__TRY(cavmae__network_create(trainer->model, extent, (int32_t)trainer->options.recompute, &network));
    trainer->network = network;
    trainer->extent = *extent;
    return CAVMAE_OK;
}

cavmae_status cavmae__trainer_reserve_head(cavmae_trainer *trainer) {
    cavmae__extent extent = {.clips = trainer->extent.clips,
                             .pictures = 1,
                             .head = trainer->extent.head,
                             .head_backward = trainer->extent.head_backward};
    trainer->generation++;
    return cavmae__network_create(trainer->model, &extent, 0, &trainer->network);
}

/* Model keys must be the model's own; a trainer's config may differ in objective, training and data only. */
static cavmae_status check_same_model(const cavmae__options *model, const cavmae__options *config) {
    static const struct {
        const char *name;
        size_t offset;
    } fields[] = {
#define FIELD(name) {#name, offsetof(cavmae__options, name)}
        FIELD(image_size),    FIELD(image_channels), FIELD(audio_frames),   FIELD(mel_bins),       FIELD(patch_size),
        FIELD(embed_dim),     FIELD(num_heads),      FIELD(modality_depth), FIELD(joint_depth),    FIELD(decoder_dim),
        FIELD(decoder_heads), FIELD(decoder_depth),  FIELD(mlp_ratio),      FIELD(layer_norm_eps), FIELD(trainable_pos),
        FIELD(modalities),    FIELD(dtype),          FIELD(classes),        FIELD(decoder),        FIELD(head),
        FIELD(head_input),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (memcmp((const char *)model + fields[i].offset, (const char *)config + fields[i].offset, 8) != 0)
            return cavmae__fail(CAVMAE_E_MISMATCH, "trainer: the config's %s is not the model's", fields[i].name);
    return CAVMAE_OK;
}

static cavmae_status allocate(cavmae_trainer *t) {
    const cavmae__options *o = &t->options;
    cavmae__backend *backend = t->model->backend;
    cavmae_context *context = t->model->context;
    void *memory;
    int64_t inputs[2] = {o->batch * o->audio_frames * o->mel_bins,
                         o->batch * o->image_channels * o->image_size * o->image_size};
    for (int m = 0; m < 2; m++) {
        CAVMAE__TRY(CAVMAE__NEW(context, &t->columns[m], o->batch));
        CAVMAE__TRY(CAVMAE__NEW(context, &t->kept[m], o->batch));
        if (!t->extent.tokens[m]) continue;
        for (int32_t i = 0; i < t->turns; i++) {
            CAVMAE__TRY(backend->ops->alloc(backend, (size_t)inputs[m] * sizeof(float), &memory));
            t->input[i][m] = memory;
        }
    }
    CAVMAE__TRY(backend->ops->alloc(backend, sizeof *t->state, &memory));
    t->state = memory;
    CAVMAE__TRY(CAVMAE__NEW(context, &t->has_gradient, t->model->list.count));
    memset(t->has_gradient, 0, (size_t)t->model->list.count);
    if (o->classes) {
        CAVMAE__TRY(backend->ops->alloc(backend, (size_t)(o->batch * o->classes) * sizeof(float), &memory));
        t->labels = memory;
    }
    if (o->modality_dropout > 0) CAVMAE__TRY(CAVMAE__NEW(context, &t->shown, o->batch));
    if (!o->classes && o->mask_domain == CAVMAE__MASK_DOMAIN_JOINT)
        CAVMAE__TRY(CAVMAE__NEW(context, &t->mask_host, 2 * o->batch * (t->extent.longest[0] + t->extent.longest[1])));
    if (t->extent.pool && !o->classes)
        CAVMAE__TRY(cavmae__contrast_create(t->model, t->world, o, (int32_t)o->batch, t->chunk < o->batch,
                                            t->optimizer != NULL, &t->contrast));
    if (!t->optimizer) return CAVMAE_OK;
    size_t size = (size_t)t->model->list.flat_elements * sizeof(float);
    CAVMAE__TRY(cavmae__model_own(t->model));
    CAVMAE__TRY(backend->ops->alloc(backend, size, &memory));
    t->gradients = memory;
    CAVMAE__TRY(backend->ops->zero(backend, t->gradients, size)); /* the padding between parameters stays zero */
    return t->world ? cavmae__exchange_create(t->world, t->model, &t->optimizer->pieces, (int32_t)o->reduce_dtype,
                                              t->gradients, t->has_gradient, &t->exchange)
                    : CAVMAE_OK;
}

/* ---- In a world ---- */

enum { CREATION_STEPS = 2 };

cavmae_status cavmae__world_told(cavmae_world *world, cavmae_status status) {
    /* What the numbers themselves are is the same everywhere, and so is what ended them; peers know of their own. */
    if (status != CAVMAE_OK && status != CAVMAE_E_PEER && status != CAVMAE_E_NOT_FINITE)
        cavmae_world_fail(world, cavmae_last_error());
    return status;
}

static cavmae_status check_world(const cavmae_trainer *t) {
    cavmae__backend *backend = t->model->backend;
    if (t->optimizer && t->optimizer->world != t->world)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: the optimizer was made from a config with another world");
    if (!t->world) return CAVMAE_OK;
    if (cavmae__world_on_device(t->world) ? cavmae__world_context(t->world) != t->model->context
                                          : !backend->ops->host_memory)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: a model on %s takes no world of %s%s",
                            cavmae_context_device(t->model->context), cavmae_world_carrier(t->world),
                            cavmae__world_on_device(t->world) ? " of another context" : "");
    return CAVMAE_OK;
}

/* Keys that say how this machine works, and not what is computed, may differ. */
static int may_differ(int32_t key) { return key == CAVMAE_P_LOADER_THREADS || key == CAVMAE_P_QUEUE; }

/* Numbers by their value: their texts may be written in more than one way. */
static int same_value(const cavmae_config *a, const cavmae_config *b, const cavmae_key_info *key, const char *a_text,
                      const char *b_text) {
    double x = 0, y = 0;
    if (key->type != CAVMAE_TYPE_F64) return strcmp(a_text, b_text) == 0;
    return cavmae_config_get_f64(a, key->key, &x) == CAVMAE_OK && cavmae_config_get_f64(b, key->key, &y) == CAVMAE_OK &&
           x == y;
}

static cavmae_status compare_keys(const cavmae_config *own, const cavmae_config *first, int32_t rank) {
    cavmae_key_info key = {.struct_size = sizeof key};
    for (int32_t i = 0; i < cavmae__config_key_count(); i++) {
        const char *here, *there;
        CAVMAE__TRY(cavmae_config_key_info(i, &key));
        CAVMAE__TRY(cavmae_config_get_str(own, key.key, &here));
        CAVMAE__TRY(cavmae_config_get_str(first, key.key, &there));
        if (!may_differ(key.key) && !same_value(own, first, &key, here, there))
            return cavmae__fail(CAVMAE_E_MISMATCH, "trainer: key %s is '%s' on rank %d and '%s' on rank 0", key.name,
                                here, rank, there);
    }
    return CAVMAE_OK;
}

/* All ranks must train in the same way: rank 0 shows its configuration. */
static cavmae_status compare_configs(cavmae_trainer *t, const cavmae_config *config, int *steps) {
    cavmae_context *context = t->model->context;
    char *own = NULL, *first = NULL;
    cavmae_config *theirs = NULL;
    int64_t size = 0;
    cavmae_status status = cavmae__config_to_json(config, &own);
    CAVMAE__TRY_OUT(status);
    size = (int64_t)strlen(own) + 1;
    CAVMAE__TRY_OUT(cavmae_world_broadcast(t->world, &size, sizeof size, 0));
    ++*steps;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &first, size));
    if (cavmae_world_rank(t->world) == 0) memcpy(first, own, (size_t)size);
    CAVMAE__TRY_OUT(cavmae_world_broadcast(t->world, first, (size_t)size, 0));
    ++*steps;
    CAVMAE__TRY_OUT(cavmae__config_from_json(context, first, &theirs));
    CAVMAE__TRY_OUT(compare_keys(config, theirs, cavmae_world_rank(t->world)));
out:
    cavmae_config_free(theirs);
    cavmae__free(context, first);
    cavmae__free(context, own);
    return status;
}

static cavmae_status share_parameters(const cavmae_trainer *t) {
    const cavmae__collective c = {.kind = CAVMAE__BROADCAST,
                                  .dtype = CAVMAE_FLOAT32,
                                  .data = t->model->flat,
                                  .count = t->model->list.flat_elements,
                                  .what = "parameters of rank 0"};
    return t->optimizer ? cavmae__world_run(t->world, &c) : CAVMAE_OK;
}

/* All of a rank's own work is done before. *steps: of the world, which each of the program's calls is (CREATION_STEPS). */
static cavmae_status join_world(cavmae_trainer *t, const cavmae_config *config, int *steps) {
    const cavmae__collective all = {.kind = CAVMAE__BARRIER, .what = "trainers made"};
    if (!t->world) return CAVMAE_OK;
    CAVMAE__TRY(compare_configs(t, config, steps));
    CAVMAE__TRY(share_parameters(t));
    if (t->exchange) CAVMAE__TRY(cavmae__trainer_rehearse(t));
    CAVMAE__TRY(cavmae__world_run(t->world, &all));
    CAVMAE__TRY(cavmae__world_check(t->world));
    if (t->extent.pool && !t->options.classes && cavmae_world_rank(t->world) == 0)
        cavmae__log(t->model->context, CAVMAE_LOG_INFO, "world of %d ranks over %s: a clip is contrasted with %d",
                    cavmae_world_size(t->world), cavmae_world_carrier(t->world),
                    cavmae__contrast_pairs(&t->contrast, (int32_t)t->world_batch));
    return CAVMAE_OK;
}

/* The largest share of a rank, and how much of it is computed at once. */
static void find_share(cavmae_trainer *t) {
    const int64_t size = cavmae_world_size(t->world);
    t->world_batch = t->options.batch;
    t->options.batch = (t->world_batch + size - 1) / size;
    t->chunk = (int32_t)(t->options.chunk && t->options.chunk < t->options.batch ? t->options.chunk : t->options.batch);
}

/* Of chunks; the contrastive loss is of the whole share. */
static cavmae_status find_extent(cavmae_trainer *t) {
    const int backward = t->optimizer != NULL;
    if (t->options.classes) return cavmae__finetune_extent(&t->options, t->chunk, backward, &t->extent);
    CAVMAE__TRY(cavmae__pretrain_extent(&t->options, t->chunk, backward, &t->extent));
    t->extent.pairs = (int32_t)t->options.batch;
    t->extent.all_pairs = t->options.contrast_scope == CAVMAE__SCOPE_GLOBAL ? (int32_t)t->world_batch : t->extent.pairs;
    return CAVMAE_OK;
}

static cavmae_status create(cavmae_model *model, cavmae_optimizer *optimizer, const cavmae_config *config, int *steps,
                            cavmae_trainer **out) {
    if (!model || !out) return cavmae__fail(CAVMAE_E_ARG, "trainer: model or out is NULL");
    if (optimizer && cavmae__context_choices(model->context).matmul == CAVMAE__MATMUL_FP8)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "trainer: the context's matmul is \"fp8\", which only embeds");
    if (optimizer && optimizer->model != model)
        return cavmae__fail(CAVMAE_E_ARG, "trainer: the optimizer is of another model");
    cavmae__options options;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    CAVMAE__TRY(check_same_model(&model->options, &options));
    cavmae_trainer *trainer = cavmae__alloc_zero(model->context, sizeof *trainer);
    if (!trainer) return CAVMAE_E_NOMEM;
    cavmae_status status = CAVMAE_OK;
    cavmae_world *world = cavmae__config_world(config);
    trainer->model = cavmae__model_ref(model);
    trainer->optimizer = optimizer ? cavmae__optimizer_ref(optimizer) : NULL;
    trainer->options = options;
    trainer->world = cavmae_world_size(world) > 1 ? cavmae__world_ref(world) : NULL;
    find_share(trainer);
    CAVMAE__TRY_OUT(find_extent(trainer));
    trainer->turns = cavmae__input_turns(model->backend);
    CAVMAE__TRY_OUT(check_world(trainer));
    CAVMAE__TRY_OUT(allocate(trainer));
    /* A probe on features never needs the encoders' buffers: they wait for the first batch. */
    if (!options.freeze_base) {
        const cavmae__extent extent = trainer->extent;
        CAVMAE__TRY_OUT(cavmae__trainer_reserve(trainer, &extent));
    }
    CAVMAE__TRY_OUT(join_world(trainer, config, steps));
    *out = trainer;
    return CAVMAE_OK;
out:
    cavmae_trainer_free(trainer);
    return status;
}

cavmae_status cavmae_trainer_create(cavmae_model *model, cavmae_optimizer *optimizer, const cavmae_config *config,
                                    cavmae_trainer **out) {
    cavmae_world *world = config ? cavmae__config_world(config) : NULL;
    int steps = 0;
    const cavmae_status status = create(model, optimizer, config, &steps, out);
    /* The others wait in the next broadcast, or after the last one. */
    if (status != CAVMAE_OK && status != CAVMAE_E_PEER && steps < CREATION_STEPS) cavmae__world_new_step(world);
    return cavmae__world_told(world, status);
}
