/* A model of another configuration from another's parameters. */
#include <string.h>

#include "model.h"
#include "record.h"
#include "weights.h"

/* A trained table [rows * columns, width] for another number of columns, which are time: the first ones, or between
 * neighbours as torch.nn.functional.interpolate(mode="linear") does, whose columns' centres lie at (i + 0.5) / columns
 * of the whole. */
static void change_columns(const cavmae__parameter *from, const float *in, const cavmae__parameter *to, float *out) {
    const int64_t width = to->shape[2], has = from->grid_columns, wants = to->grid_columns;
    for (int64_t row = 0; row < to->grid_rows; row++, in += has * width) {
        for (int64_t column = 0; column < wants; column++, out += width) {
            double at = wants <= has ? (double)column : ((double)column + 0.5) * (double)has / (double)wants - 0.5;
            if (at < 0) at = 0;
            int64_t left = (int64_t)at, right = left + 1 < has ? left + 1 : left;
            const float share = (float)(at - (double)left);
            for (int64_t i = 0; i < width; i++)
                out[i] = (1 - share) * in[left * width + i] + share * in[right * width + i];
        }
    }
}

/* Values of the model's parameter in host memory: the model's own, or a copy, which *owned then is. */
static cavmae_status host_values(const cavmae_model *model, int64_t index, const float **values, float **owned) {
    *owned = NULL;
    *values = model->values[index];
    if (model->backend->ops->host_memory) return CAVMAE_OK;
    const int64_t elements = model->list.items[index].elements;
    float *copy;
    CAVMAE__TRY(CAVMAE__NEW(model->context, &copy, elements));
    cavmae_status status =
        model->backend->ops->download(model->backend, copy, model->values[index], (size_t)elements * sizeof(float));
    if (status != CAVMAE_OK) {
        cavmae__free(model->context, copy);
        return status;
    }
    *values = *owned = copy;
    return CAVMAE_OK;
}

static cavmae_status upload(cavmae_model *to, int64_t index, const float *values) {
    const cavmae__parameter *p = &to->list.items[index];
    return to->backend->ops->upload(to->backend, to->flat + p->offset, values, (size_t)p->elements * sizeof(float));
}

/* The table is trained and of another shape. */
static cavmae_status take_table(const cavmae__parameter *has, const float *values, cavmae_model *to, int64_t index) {
    const cavmae__parameter *wants = &to->list.items[index];
    float *table;
    CAVMAE__TRY(CAVMAE__NEW(to->context, &table, wants->elements));
    change_columns(has, values, wants, table);
    cavmae_status status = upload(to, index, table);
    cavmae__free(to->context, table);
    return status;
}

static int same_shape(const cavmae__parameter *a, const cavmae__parameter *b) {
    return a->dims == b->dims && memcmp(a->shape, b->shape, (size_t)a->dims * sizeof a->shape[0]) == 0;
}

/* Is it sound's table, of as many rows and as wide? */
static int other_length(const cavmae__parameter *has, const cavmae__parameter *wants) {
    return strstr(wants->name, "pos_embed_a") && has->grid_rows == wants->grid_rows && has->shape[2] == wants->shape[2];
}

/* The parameter that one of `to` is made from, or -1. A head of other classes, or that sees something else, is no start
 * for a new one. */
static int64_t find_source(const cavmae_model *from, const cavmae_model *to, const char *name) {
    const cavmae__options *a = &from->options, *b = &to->options;
    int same_head = a->classes == b->classes && a->head == b->head && a->head_input == b->head_input;
    if (strncmp(name, "mlp_head", 8) == 0 && !same_head) return -1;
    return cavmae__parameters_find(&from->list, name);
}

/* NULL: the parameter may become what it has to; else why not. */
static const char *misfit(const cavmae_model *from, const cavmae__parameter *has, const cavmae_model *to,
                          const cavmae__parameter *wants) {
    const int table = wants->init == CAVMAE__INIT_POSITIONS, trained = from->options.trainable_pos != 0;
    if (table && trained && !to->options.trainable_pos)
        return "a trained table, which longer clips would take for a sine-cosine one: set trainable_pos to 1";
    if (same_shape(has, wants) || (table && !trained)) return NULL;
    if (!table) return "only tables may change their shape";
    return other_length(has, wants) ? NULL : "a trained table, of which only the length of sound can change";
}

/* Before anything is allocated for values. */
static cavmae_status compare(const cavmae_model *from, const cavmae_model *to, cavmae_load_report *counts) {
    const cavmae__parameter *first = NULL, *first_has = NULL;
    const char *why = NULL;
    char has_shape[CAVMAE__SHAPE_TEXT], wants_shape[CAVMAE__SHAPE_TEXT];
    for (int64_t i = 0; i < to->list.count; i++) {
        const cavmae__parameter *wants = &to->list.items[i];
        int64_t index = find_source(from, to, wants->name);
        if (index < 0) {
            counts->missing++;
            cavmae__log(to->context, CAVMAE_LOG_INFO, "adapt: parameter '%s' is missing", wants->name);
            continue;
        }
        const cavmae__parameter *has = &from->list.items[index];
        const char *reason = misfit(from, has, to, wants);
        counts->matched += reason == NULL;
        counts->misshaped += reason != NULL;
        if (reason && !first) first = wants, first_has = has, why = reason;
    }
    for (int64_t i = 0; i < from->list.count; i++) {
        const char *name = from->list.items[i].name;
        if (cavmae__parameters_find(&to->list, name) >= 0 && find_source(from, to, name) >= 0) continue;
        counts->unexpected++;
        cavmae__log(to->context, CAVMAE_LOG_INFO, "adapt: parameter '%s' is left out", name);
    }
    if (!first) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_MISMATCH, "adapt: parameter '%s' is %s in the model and %s by the configuration: %s",
                        first->name, cavmae__shape_text(first_has->dims, first_has->shape, has_shape),
                        cavmae__shape_text(first->dims, first->shape, wants_shape), why);
}

static cavmae_status take_values(const cavmae_model *from, cavmae_model *to) {
    for (int64_t i = 0; i < to->list.count; i++) {
        const cavmae__parameter *wants = &to->list.items[i];
        const float *values;
        float *owned;
        CAVMAE__TRY(cavmae__check_cancel(to->context));
        int64_t index = find_source(from, to, wants->name);
        const cavmae__parameter *has = index < 0 ? NULL : &from->list.items[index];
        if (!has || (!same_shape(has, wants) && !from->options.trainable_pos)) {
            CAVMAE__TRY(cavmae__model_init(to, i));
            continue;
        }
        CAVMAE__TRY(host_values(from, index, &values, &owned));
        cavmae_status status = same_shape(has, wants) ? upload(to, i, values) : take_table(has, values, to, i);
        cavmae__free(from->context, owned);
        CAVMAE__TRY(status);
    }
    return CAVMAE_OK;
}

cavmae_status cavmae_model_adapt(const cavmae_config *config, cavmae_model *model, cavmae_load_report *report,
                                 cavmae_model **out) {
    cavmae_load_report counts = {0};
    cavmae_model *made = NULL;
    cavmae_status status = CAVMAE_OK;
    if (!config || !model || !out) return cavmae__fail(CAVMAE_E_ARG, "adapt: config, model or out is NULL");
    if (report) CAVMAE__TRY(cavmae__record_in(&counts, sizeof counts, report));
    counts = (cavmae_load_report){0};
    CAVMAE__TRY(cavmae__model_allocate(config, &made));
    cavmae_status fits = compare(model, made, &counts);
    if (report) CAVMAE__TRY_OUT(cavmae__record_out(report, &counts, sizeof counts));
    CAVMAE__TRY_OUT(fits);
    CAVMAE__TRY_OUT(cavmae__model_own(made));
    CAVMAE__TRY_OUT(take_values(model, made));
    *out = made;
    made = NULL;
out:
    cavmae_model_free(made);
    return status;
}
