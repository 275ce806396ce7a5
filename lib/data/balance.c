/* Draws take two random numbers each, from an alias table (Walker 1977): the entries' weights, scaled to a mean of 1,
 * are cut and put together again in as many cells of weight 1, each with its own entry's and at most one other's. */
#include "balance.h"

#include "philox.h"

struct cavmae__balance {
    cavmae_context *context;
    uint32_t count;
    float *keep;     /* [count] the cell's own part */
    uint32_t *other; /* [count] whose the rest is */
};

/* ---- Weights ---- */

typedef struct label {
    int32_t class;
    float weight;
} label;

/* All entries' labels, so that the manifest has to be read but once: weights need the counts of the whole of it. */
typedef struct label_list {
    label *labels;
    size_t used, capacity;
} label_list;

static cavmae_status add_labels(cavmae_context *context, label_list *list, const cavmae__item *item) {
    size_t needed = list->used + (size_t)item->label_count;
    if (needed > list->capacity) {
        size_t capacity = needed + needed / 2 + 1024;
        label *labels = cavmae__realloc(context, list->labels, list->used * sizeof *labels, capacity * sizeof *labels);
        if (!labels) return CAVMAE_E_NOMEM;
        list->labels = labels;
        list->capacity = capacity;
    }
    for (int32_t i = 0; i < item->label_count; i++)
        list->labels[list->used++] = (label){item->labels[i], item->label_weights ? item->label_weights[i] : 1};
    return CAVMAE_OK;
}

/* How many each entry has goes into counts. */
static cavmae_status list_labels(cavmae_context *context, const cavmae__manifest *manifest, label_list *list,
                                 uint32_t *counts) {
    enum { CANCEL_PERIOD = 4096 };
    int64_t count = cavmae__manifest_count(manifest);
    cavmae__item item = {0};
    cavmae_status status = CAVMAE_OK;
    for (int64_t i = 0; i < count && status == CAVMAE_OK; i++) {
        if (i % CANCEL_PERIOD == 0) CAVMAE__TRY_OUT(cavmae__check_cancel(context));
        CAVMAE__TRY_OUT(cavmae__manifest_item(manifest, i, &item));
        counts[i] = (uint32_t)item.label_count;
        status = add_labels(context, list, &item);
    }
out:
    cavmae__item_free(manifest, &item);
    return status;
}

/* keep[i] = sum over the entry's labels of weight * 1000 / (the class's weights in all entries + 0.01), scaled to a
 * mean of 1. The reference's gen_weight_file.py, where all weights are 1. */
static cavmae_status weigh(cavmae__balance *balance, const label_list *list, const uint32_t *counts, int32_t classes) {
    double total = 0, *class_weight = cavmae__alloc_zero(balance->context, (size_t)classes * sizeof *class_weight);
    if (!class_weight) return CAVMAE_E_NOMEM;
    for (size_t i = 0; i < list->used; i++) class_weight[list->labels[i].class] += (double)list->labels[i].weight;
    for (int32_t c = 0; c < classes; c++) class_weight[c] = 1000 / (class_weight[c] + 0.01);
    const label *at = list->labels;
    for (uint32_t i = 0; i < balance->count; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < counts[i]; j++, at++) sum += (double)at->weight * class_weight[at->class];
        total += sum;
        balance->keep[i] = (float)sum;
    }
    cavmae__free(balance->context, class_weight);
    if (total == 0) return cavmae__fail(CAVMAE_E_ARG, "config: balanced: no entry of the manifest has a label");
    for (uint32_t i = 0; i < balance->count; i++)
        balance->keep[i] = (float)((double)balance->keep[i] * balance->count / total);
    return CAVMAE_OK;
}

/* ---- The alias table ---- */

static uint32_t next_light(const cavmae__balance *b, uint32_t i) {
    while (i < b->count && b->keep[i] >= 1) i++;
    return i;
}

static uint32_t next_heavy(const cavmae__balance *b, uint32_t i) {
    while (i < b->count && b->keep[i] < 1) i++;
    return i;
}

/* In place, as Vose (IEEE TSE 17, 1991) but without his two lists: one sweep looks for light entries, whose cells get
 * filled up, another for the heavy ones that fill them. What is left of a heavy entry is light in the end; where the
 * first sweep is already past it, it comes next. */
static void build_table(cavmae__balance *b) {
    uint32_t heaviest = 0;
    for (uint32_t i = 1; i < b->count; i++)
        if (b->keep[i] > b->keep[heaviest]) heaviest = i;
    for (uint32_t i = 0; i < b->count; i++) b->other[i] = heaviest; /* for what rounding leaves light at the end */

    uint32_t light = next_light(b, 0), heavy = next_heavy(b, 0), filled = light;
    double rest = heavy < b->count ? (double)b->keep[heavy] : 0; /* of the heavy one */
    while (filled < b->count && heavy < b->count) {
        b->other[filled] = heavy;
        rest -= 1 - (double)b->keep[filled];
        if (rest >= 1) {
            filled = light = next_light(b, light + 1);
            continue;
        }
        uint32_t spent = heavy;
        b->keep[spent] = (float)rest;
        heavy = next_heavy(b, heavy + 1);
        rest = heavy < b->count ? (double)b->keep[heavy] : 0;
        filled = spent < light ? spent : (light = next_light(b, light + 1));
    }
}

void cavmae__balance_order(const cavmae__balance *balance, uint32_t *order, uint64_t seed, int64_t epoch) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_BALANCE, (uint64_t)epoch, 0);
    for (uint32_t i = 0; i < balance->count; i++) {
        uint32_t four[4];
        cavmae__philox_block(&random, i, four);
        uint32_t cell = (uint32_t)(((uint64_t)four[0] * balance->count) >> 32);
        order[i] = (float)(four[1] >> 8) * 0x1p-24f < balance->keep[cell] ? cell : balance->other[cell];
    }
}

/* ---- Life ---- */

cavmae_status cavmae__balance_create(cavmae_context *context, const cavmae__manifest *manifest,
                                     const cavmae__labels *labels, cavmae__balance **out) {
    cavmae_status status;
    label_list list = {0};
    size_t count = (size_t)cavmae__manifest_count(manifest);
    cavmae__balance *balance = cavmae__alloc_zero(context, sizeof *balance);
    if (!balance) return CAVMAE_E_NOMEM;
    balance->context = cavmae__context_ref(context);
    balance->count = (uint32_t)count;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &balance->keep, count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &balance->other, count));
    CAVMAE__TRY_OUT(list_labels(context, manifest, &list, balance->other)); /* not a table yet */
    CAVMAE__TRY_OUT(weigh(balance, &list, balance->other, cavmae__labels_count(labels)));
    build_table(balance);
    *out = balance;
    balance = NULL;
out:
    cavmae__free(context, list.labels);
    cavmae__balance_free(balance);
    return status;
}

void cavmae__balance_free(cavmae__balance *balance) {
    if (!balance) return;
    cavmae_context *context = balance->context;
    cavmae__free(context, balance->keep);
    cavmae__free(context, balance->other);
    cavmae__free(context, balance);
    cavmae__context_unref(context);
}
