/* Checkpoints: a model file with Adam's moments ("optimizer.m.NAME", "optimizer.v.NAME"), and, between updates that
 * accumulate, gradients ("optimizer.grad.NAME"); step, update and the loader's place are in metadata "cavmae.training".
 * Random numbers are functions of seed and step, so that is all of the random state. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "loader.h"
#include "trainer.h"

enum { NAME_SIZE = 112 };

/* More than any training counts to, and far from where adding to it would overflow. */
static const int64_t most = (int64_t)1 << 53;

static const char training_key[] = "cavmae.training";

/* What the metadata says; names in the order of `fields`. */
typedef struct training_state {
    int64_t step, updates, accumulated, epoch, position, broken;
} training_state;

static const char *const field_names[] = {"step", "updates", "accumulated", "epoch", "position", "broken"};
enum { FIELDS = sizeof field_names / sizeof field_names[0] };

/* A set of flat buffers and what their tensors are called. */
typedef struct flat_set {
    const char *prefix;
    float *data;
} flat_set;

static int find_sets(const cavmae_trainer *t, int64_t accumulated, flat_set sets[3]) {
    sets[0] = (flat_set){"optimizer.m.", t->optimizer->m};
    sets[1] = (flat_set){"optimizer.v.", t->optimizer->v};
    sets[2] = (flat_set){"optimizer.grad.", t->gradients};
    return accumulated ? 3 : 2;
}

static int is_saved(const cavmae_trainer *t, const flat_set *set, int64_t i) {
    return set->data == t->gradients ? t->has_gradient[i] : t->model->list.items[i].trainable;
}

cavmae_status cavmae_checkpoint_save(cavmae_trainer *t, const cavmae_loader *loader, const char *path) {
    if (!t || !path) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: trainer or path is NULL");
    if (!t->optimizer)
        return cavmae__fail(CAVMAE_E_STATE,
                            "checkpoint: the trainer has no optimizer; cavmae_model_save writes a model");
    CAVMAE__TRY(cavmae__trainer_finish(t));
    const cavmae__parameters *list = &t->model->list;
    training_state state = {.step = t->step, .updates = t->optimizer->updates, .accumulated = t->accumulated};
    if (loader) cavmae__loader_state(loader, &state.epoch, &state.position, &state.broken);
    flat_set sets[3];
    int set_count = find_sets(t, t->accumulated, sets);
    cavmae__entry *entries = NULL;
    char(*names)[NAME_SIZE] = NULL, json[256];
    int64_t count = 0;
    cavmae_status status = CAVMAE_OK;
    CAVMAE__TRY_OUT(CAVMAE__NEW(t->model->context, &entries, set_count * list->count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(t->model->context, &names, set_count * list->count));
    for (int s = 0; s < set_count; s++) {
        for (int64_t i = 0; i < list->count; i++) {
            const cavmae__parameter *p = &list->items[i];
            if (!is_saved(t, &sets[s], i)) continue;
            snprintf(names[count], NAME_SIZE, "%s%s", sets[s].prefix, p->name);
            entries[count] = (cavmae__entry){.name = names[count],
                                             .data = sets[s].data + p->offset,
                                             .dtype = CAVMAE_FLOAT32,
                                             .dims = 1,
                                             .shape = {p->elements}};
            count++;
        }
    }
    snprintf(json, sizeof json,
             "{\"step\": %" PRId64 ", \"updates\": %" PRId64 ", \"accumulated\": %" PRId64 ", \"epoch\": %" PRId64
             ", \"position\": %" PRId64 ", \"broken\": %" PRId64 "}",
             state.step, state.updates, state.accumulated, state.epoch, state.position, state.broken);
    CAVMAE__TRY_OUT(cavmae__model_write(t->model, path, entries, count, training_key, json));
out:
    cavmae__free(t->model->context, names);
    cavmae__free(t->model->context, entries);
    return status;
}

static cavmae_status read_state(const char *path, const char *text, training_state *state) {
    int64_t *const fields[FIELDS] = {&state->step,  &state->updates,  &state->accumulated,
                                     &state->epoch, &state->position, &state->broken};
    int seen = 0;
    cavmae__json json;
    cavmae__json_open(&json, text, strlen(text), path);
    CAVMAE__TRY(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
    for (;;) {
        cavmae__json_string name;
        int more, f;
        CAVMAE__TRY(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &name, &more));
        if (!more) break;
        for (f = 0; f < FIELDS && !cavmae__json_is(&name, field_names[f]); f++) {
        }
        if (f == FIELDS) return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: unknown field in '%s'", path, training_key);
        CAVMAE__TRY(cavmae__json_i64(&json, fields[f]));
        if (*fields[f] < 0 || *fields[f] > most)
            return cavmae__fail(CAVMAE_E_FORMAT, "%s: '%s' is %lld, which counts nothing", path, field_names[f],
                                (long long)*fields[f]);
        seen |= 1 << f;
    }
    if (seen != (1 << FIELDS) - 1) return cavmae__fail(CAVMAE_E_FORMAT, "%s: '%s' lacks a field", path, training_key);
    return cavmae__json_end(&json);
}

/* Every tensor of the sets must be there, as large as it has to be, before any is copied. */
static cavmae_status check_sets(const cavmae_trainer *t, const cavmae_safetensors *file, const char *path,
                                const flat_set *sets, int set_count) {
    const cavmae__parameters *list = &t->model->list;
    char name[NAME_SIZE];
    for (int s = 0; s < set_count; s++) {
        for (int64_t i = 0; i < list->count; i++) {
            snprintf(name, sizeof name, "%s%s", sets[s].prefix, list->items[i].name);
            const cavmae__entry *entry = cavmae__safetensors_find(file, name);
            if (!entry && (sets[s].data == t->gradients || !list->items[i].trainable)) continue;
            if (!entry) return cavmae__fail(CAVMAE_E_MISMATCH, "%s: tensor '%s' is missing", path, name);
            if (entry->dtype != CAVMAE_FLOAT32 || entry->dims != 1 || entry->shape[0] != list->items[i].elements)
                return cavmae__fail(CAVMAE_E_MISMATCH, "%s: tensor '%s' is not %lld float32 elements", path, name,
                                    (long long)list->items[i].elements);
        }
    }
    return CAVMAE_OK;
}

static cavmae_status copy_sets(cavmae_trainer *t, const cavmae_safetensors *file, const flat_set *sets, int set_count) {
    const cavmae__parameters *list = &t->model->list;
    cavmae__backend *backend = t->model->backend;
    char name[NAME_SIZE];
    memset(t->has_gradient, 0, (size_t)list->count);
    /* What comes next is added to gradients, also to those that the file does not have. */
    CAVMAE__TRY(backend->ops->zero(backend, t->gradients, (size_t)list->flat_elements * sizeof(float)));
    for (int s = 0; s < set_count; s++) {
        for (int64_t i = 0; i < list->count; i++) {
            snprintf(name, sizeof name, "%s%s", sets[s].prefix, list->items[i].name);
            const cavmae__entry *entry = cavmae__safetensors_find(file, name);
            if (!entry) continue;
            if (sets[s].data == t->gradients) t->has_gradient[i] = 1;
            CAVMAE__TRY(backend->ops->upload(backend, sets[s].data + list->items[i].offset, entry->data,
                                             (size_t)list->items[i].elements * sizeof(float)));
        }
    }
    return CAVMAE_OK;
}

cavmae_status cavmae_checkpoint_load(cavmae_trainer *t, cavmae_loader *loader, const char *path) {
    cavmae_safetensors *file;
    training_state state;
    flat_set sets[3];
    if (!t || !path) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: trainer or path is NULL");
    if (!t->optimizer)
        return cavmae__fail(CAVMAE_E_STATE,
                            "checkpoint: the trainer has no optimizer; cavmae_model_load reads the model");
    CAVMAE__TRY(cavmae__trainer_finish(t));
    CAVMAE__TRY(cavmae_safetensors_open(t->model->context, path, &file));
    cavmae_status status = CAVMAE_OK;
    const char *json = cavmae_safetensors_metadata(file, training_key);
    if (!json)
        CAVMAE__TRY_OUT(
            cavmae__fail(CAVMAE_E_FORMAT, "%s: no metadata '%s': a model file, not a checkpoint", path, training_key));
    CAVMAE__TRY_OUT(read_state(path, json, &state));
    if (state.accumulated >= t->options.accumulate)
        CAVMAE__TRY_OUT(cavmae__fail(CAVMAE_E_MISMATCH,
                                     "%s: saved after %lld batches of an update; key accumulate is %lld", path,
                                     (long long)state.accumulated, (long long)t->options.accumulate));
    int set_count = find_sets(t, state.accumulated, sets);
    if (loader) CAVMAE__TRY_OUT(cavmae__loader_check_state(loader, state.epoch, state.position, state.broken));
    CAVMAE__TRY_OUT(check_sets(t, file, path, sets, set_count));
    CAVMAE__TRY_OUT(cavmae__model_restore(t->model, file, path));
    CAVMAE__TRY_OUT(copy_sets(t, file, sets, set_count));
    if (loader) CAVMAE__TRY_OUT(cavmae__loader_set_state(loader, state.epoch, state.position, state.broken));
    t->step = state.step;
    t->last = (cavmae_step_result){.step = state.step};
    t->accumulated = state.accumulated;
    t->optimizer->updates = state.updates;
    t->count = 0;
    t->generation++; /* what has a gradient is not what it was when steps were recorded */
out:
    cavmae_safetensors_free(file);
    return status;
}
