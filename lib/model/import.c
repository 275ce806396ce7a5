#include "import.h"

#include <stdio.h>
#include <string.h>

#include "infer_config.h"
#include "vision_mae.h"
#include "widen.h"

static const char training_prefix[] = "optimizer."; /* what checkpoints add, and a model does not need */

/* Tensors of published files that no computation reads, and why they are there. */
static const struct {
    int32_t form;
    const char *name;
} useless[] = {
    /* A vision MAE prepends a class token; CAV-MAE has none. */
    {CAVMAE__FORM_VISION_MAE, "cls_token"},
    /* The authors' adapt_vmae_weights.py puts copies of it into the models that it writes (ori_mae_11.pth). */
    {CAVMAE__FORM_CAV_MAE, "cls_token_a"},
    {CAVMAE__FORM_CAV_MAE, "cls_token_v"},
    {CAVMAE__FORM_CAV_MAE, "cls_token_av"},
};

static int is_useless(int32_t form, const char *name) {
    if (strncmp(name, training_prefix, sizeof training_prefix - 1) == 0) return 1;
    for (size_t i = 0; i < sizeof useless / sizeof useless[0]; i++)
        if (useless[i].form == form && strcmp(useless[i].name, name) == 0) return 1;
    return 0;
}

/* LayerNorms that are parameters only because every layer has those of three streams: outside the joint layers only the
 * first is used, and with one modality only that one's. */
static int is_unused(const cavmae__options *o, const char *name) {
    const int single = o->modalities != CAVMAE__MODALITIES_AV;
    const char own = o->modalities == CAVMAE__MODALITIES_A ? 'a' : 'v', *norm = strstr(name, ".norm");
    if (!norm) return single && strncmp(name, "norm.", 5) == 0;
    char stream = norm[6] == '_' ? norm[7] : '\0'; /* ".norm1_a.weight" */
    if (strncmp(name, "blocks_u.", 9) == 0) return single && stream != own;
    return stream != '\0';
}

/* What a vision MAE never has, and adapting makes: its LayerNorms aside, what tells the modalities apart, and sound's
 * positions. */
static int is_made(const char *name) {
    return strstr(name, "modality_") != NULL || strcmp(name, "pos_embed_a") == 0 ||
           strcmp(name, "decoder_pos_embed_a") == 0;
}

enum { MOST_PER_BYTE = 1032 / 2 }; /* deflate makes 1032 bytes of one at the most; a float16 is two */

/* ---- Opening ---- */

static cavmae_status find_config(cavmae__import *import) {
    const cavmae__weights *weights = import->weights;
    const char *json = cavmae__weights_metadata(weights, CAVMAE__CONFIG_KEY);
    if (json) {
        cavmae_status status = cavmae__config_from_json(import->context, json, &import->config);
        if (status == CAVMAE_OK) status = cavmae_config_check(import->config);
        if (status == CAVMAE_E_ARG || status == CAVMAE_E_SHAPE) status = CAVMAE_E_FORMAT; /* the file's fault */
        return status == CAVMAE_OK ? status : cavmae__fail_prefix(status, "%s", cavmae__weights_path(weights));
    }
    if (cavmae__weights_find(weights, "patch_embed_a.proj.weight") ||
        cavmae__weights_find(weights, "patch_embed_v.proj.weight")) {
        import->form = CAVMAE__FORM_CAV_MAE;
        return cavmae__infer_cav_mae(import->context, weights, &import->config);
    }
    if (cavmae__weights_find(weights, "patch_embed.proj.weight")) {
        import->form = CAVMAE__FORM_VISION_MAE;
        CAVMAE__TRY(cavmae__infer_vision_mae(import->context, weights, &import->layers, &import->config));
        return cavmae_config_get_i64(import->config, CAVMAE_P_IMAGE_CHANNELS, &import->channels);
    }
    return cavmae__fail(CAVMAE_E_FORMAT,
                        "%s: no model: neither metadata '" CAVMAE__CONFIG_KEY "' nor a tensor "
                        "'patch_embed_a.proj.weight', 'patch_embed_v.proj.weight' or 'patch_embed.proj.weight'",
                        cavmae__weights_path(weights));
}

cavmae_status cavmae__import_open(cavmae_context *context, const char *path, uint32_t flags, cavmae__import *out) {
    cavmae__import import = {.context = context, .mean_colours = (flags & CAVMAE_LOAD_MEAN_COLOURS) != 0};
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY(cavmae__weights_open(context, path, &import.weights));
    CAVMAE__TRY_OUT(find_config(&import));
    *out = import;
    return CAVMAE_OK;
out:
    cavmae__import_close(&import);
    return status;
}

cavmae_status cavmae__import_of(cavmae_context *context, cavmae_safetensors *file, const char *path,
                                cavmae__import *out) {
    cavmae__import import = {.context = context};
    CAVMAE__TRY(cavmae__weights_of(context, file, path, &import.weights));
    *out = import;
    return CAVMAE_OK;
}

void cavmae__import_close(cavmae__import *import) {
    cavmae_config_free(import->config);
    cavmae__weights_free(import->weights);
}

/* ---- Which belongs to which ---- */

void cavmae__import_origin(const cavmae__import *import, const cavmae__parameter *p, cavmae__origin *origin) {
    char tensor[CAVMAE__TENSOR_NAME];
    *origin = (cavmae__origin){.how = CAVMAE__AS_IT_IS, .dims = p->dims};
    memcpy(origin->shape, p->shape, sizeof origin->shape);
    if (import->form != CAVMAE__FORM_VISION_MAE)
        origin->weight = cavmae__weights_find(import->weights, p->name);
    else if (cavmae__vision_mae_origin(p, import->layers, import->channels, tensor, &origin->how, origin->shape))
        origin->weight = cavmae__weights_find(import->weights, tensor);
}

static int fits(const cavmae__origin *origin) {
    const cavmae__weight *weight = origin->weight;
    return cavmae__is_floating(weight->dtype) && weight->dims == origin->dims &&
           memcmp(weight->shape, origin->shape, (size_t)origin->dims * sizeof origin->shape[0]) == 0;
}

/* One comparison: what it has counted, and the sentence about the first that does not fit. */
typedef struct comparison {
    cavmae_context *context;
    const char *path;
    cavmae_load_report counts;
    int64_t made;     /* of those missing: what no file of its form has */
    int64_t elements; /* of those that match */
    char first[256];
} comparison;

static void note(comparison *c, const char *sentence) {
    cavmae__log(c->context, CAVMAE_LOG_INFO, "%s: %s", c->path, sentence);
    if (!c->first[0]) snprintf(c->first, sizeof c->first, "%.255s", sentence);
}

static void compare_parameter(comparison *c, const cavmae__import *import, const cavmae__options *options,
                              const cavmae__parameter *p, const cavmae__origin *origin) {
    char sentence[512], has[CAVMAE__SHAPE_TEXT], wants[CAVMAE__SHAPE_TEXT];
    if (origin->weight && fits(origin)) {
        c->counts.matched++;
        c->elements += p->elements;
    } else if (origin->weight) {
        c->counts.misshaped++;
        snprintf(sentence, sizeof sentence, "tensor '%s' is %s %s; the model's is float32 %s", origin->weight->name,
                 cavmae__dtype_name(origin->weight->dtype),
                 cavmae__shape_text(origin->weight->dims, origin->weight->shape, has),
                 cavmae__shape_text(origin->dims, origin->shape, wants));
        note(c, sentence);
    } else if (import->form == CAVMAE__FORM_OWN || !is_unused(options, p->name)) {
        int made = import->form == CAVMAE__FORM_VISION_MAE && is_made(p->name);
        c->counts.missing++;
        c->made += made;
        snprintf(sentence, sizeof sentence, "parameter '%s' is %s", p->name, made ? "made" : "missing");
        if (made)
            cavmae__log(c->context, CAVMAE_LOG_INFO, "%s: %s", c->path, sentence);
        else
            note(c, sentence);
    }
}

static cavmae_status judge(const comparison *c, int64_t file_size, uint32_t flags) {
    const cavmae_load_report *n = &c->counts;
    /* A few bytes of a PyTorch file can claim any number of elements: memory is asked for no more than there can be. */
    if (file_size && c->elements / MOST_PER_BYTE > file_size)
        return cavmae__fail(CAVMAE_E_FORMAT, "%s: its tensors claim %lld elements, more than %lld bytes can hold",
                            c->path, (long long)c->elements, (long long)file_size);
    if (!n->misshaped && (n->missing == c->made || flags & CAVMAE_LOAD_ALLOW_MISSING) &&
        (!n->unexpected || flags & CAVMAE_LOAD_ALLOW_UNEXPECTED))
        return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_MISMATCH,
                        "%s: %lld tensors match, %lld are missing, %lld unexpected, %lld of another shape; first: %s",
                        c->path, (long long)n->matched, (long long)n->missing, (long long)n->unexpected,
                        (long long)n->misshaped, c->first);
}

cavmae_status cavmae__import_compare(const cavmae__import *import, const cavmae__options *options,
                                     const cavmae__parameters *list, uint32_t flags, cavmae_load_report *counts) {
    const cavmae__weights *weights = import->weights;
    comparison c = {.context = import->context, .path = cavmae__weights_path(weights)};
    int64_t count = cavmae__weights_count(weights);
    uint8_t *known = cavmae__alloc_zero(import->context, (size_t)count); /* the file's tensors that are the model's */
    if (!known) return CAVMAE_E_NOMEM;
    for (int64_t i = 0; i < list->count; i++) {
        cavmae__origin origin;
        cavmae__import_origin(import, &list->items[i], &origin);
        if (origin.weight) known[origin.weight - cavmae__weights_at(weights, 0)] = 1;
        compare_parameter(&c, import, options, &list->items[i], &origin);
    }
    for (int64_t i = 0; i < count; i++) {
        char sentence[256];
        const char *name = cavmae__weights_at(weights, i)->name;
        if (known[i] || is_useless(import->form, name)) continue;
        c.counts.unexpected++;
        snprintf(sentence, sizeof sentence, "tensor '%s' is none of the model's", name);
        note(&c, sentence);
    }
    cavmae__free(import->context, known);
    *counts = c.counts;
    return judge(&c, cavmae__weights_size(weights), flags);
}

/* ---- Values ---- */

cavmae_status cavmae__import_read(const cavmae__import *import, const cavmae__origin *origin,
                                  const cavmae__parameter *parameter, float *out) {
    const cavmae__weight *weight = origin->weight;
    if (origin->how == CAVMAE__AS_IT_IS) return cavmae__weights_read(import->weights, weight, out);
    float *whole;
    CAVMAE__TRY(cavmae__weights_new(import->weights, weight, &whole));
    cavmae__vision_mae_make(parameter, origin->how, import->channels, import->mean_colours, whole, out);
    cavmae__free(import->context, whole);
    return CAVMAE_OK;
}
