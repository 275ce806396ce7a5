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

static const char training_key[] = "cavmae.training", gradient_prefix[] = "optimizer.grad.";

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
    sets[2] = (flat_set){gradient_prefix, t->gradients};
    return accumulated ? 3 : 2;
}

static int is_gradient_set(const flat_set *set) { return strcmp(set->prefix, gradient_prefix) == 0; }

static int is_saved(const cavmae_trainer *t, const flat_set *set, int64_t i) {
    return is_gradient_set(set) ? t->has_gradient[i] : t->model->list.items[i].trainable;
}

/* What rank 0 writes. With shards each rank has its pieces of the moments, and gradients of an update that is not
 * complete are sums of the rank's own clips: rank 0 gets memory for whole ones. */
static cavmae_status collect_sets(const cavmae_trainer *t, flat_set sets[3], int set_count, float *whole[3]) {
    cavmae__backend *backend = t->model->backend;
    const int first = cavmae_world_rank(t->world) == 0;
    const size_t size = (size_t)t->model->list.flat_elements * sizeof(float);
    void *memory;
    for (int s = 0; s < set_count; s++) {
        const int is_gradient = is_gradient_set(&sets[s]);
        if (!t->world || (!is_gradient && !t->optimizer->pieces.sharded)) continue;
        if (first || is_gradient) {
            CAVMAE__TRY(backend->ops->alloc(backend, size, &memory));
            whole[s] = memory;
            CAVMAE__TRY(backend->ops->zero(backend, whole[s], size));
        }
        CAVMAE__TRY(is_gradient ? cavmae__exchange_total(t->exchange, whole[s])
                                : cavmae__exchange_collect(t->exchange, sets[s].data, whole[s], sets[s].prefix));
        sets[s].data = whole[s];
    }
    return t->world ? cavmae__world_check(t->world) : CAVMAE_OK;
}

static cavmae_status write_checkpoint(const cavmae_trainer *t, const cavmae_loader *loader, const flat_set *sets,
                                      int set_count, const char *path) {
    const cavmae__parameters *list = &t->model->list;
    training_state state = {.step = t->step, .updates = t->optimizer->updates, .accumulated = t->accumulated};
    if (loader) cavmae__loader_state(loader, &state.epoch, &state.position, &state.broken);
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

/* The others wait for rank 0's file for as long as a slow disk takes. */
static cavmae_status wait_for_all(const cavmae_trainer *t, const char *what) {
    cavmae__collective c = {.kind = CAVMAE__BARRIER, .patience = 20};
    if (!t->world) return CAVMAE_OK;
    snprintf(c.what, sizeof c.what, "%s", what);
    CAVMAE__TRY(cavmae__world_run(t->world, &c));
    return cavmae__world_check(t->world);
}

static cavmae_status save(cavmae_trainer *t, const cavmae_loader *loader, const char *path) {
    flat_set sets[3];
    float *whole[3] = {NULL, NULL, NULL};
    cavmae_status status = CAVMAE_OK;
    if (!path) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: path is NULL");
    if (!t->optimizer)
        return cavmae__fail(CAVMAE_E_STATE,
                            "checkpoint: the trainer has no optimizer; cavmae_model_save writes a model");
    CAVMAE__TRY(cavmae__trainer_finish(t));
    const int set_count = find_sets(t, t->accumulated, sets);
    CAVMAE__TRY_OUT(collect_sets(t, sets, set_count, whole));
    if (cavmae_world_rank(t->world) == 0) CAVMAE__TRY_OUT(write_checkpoint(t, loader, sets, set_count, path));
    CAVMAE__TRY_OUT(wait_for_all(t, "checkpoint written"));
out:
    for (int s = 0; s < 3; s++)
        if (whole[s]) t->model->backend->ops->free(t->model->backend, whole[s]);
    return status;
}

cavmae_status cavmae_checkpoint_save(cavmae_trainer *t, const cavmae_loader *loader, const char *path) {
    if (!t) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: trainer is NULL");
    cavmae__world_new_step(t->world);
    return cavmae__world_told(t->world, save(t, loader, path));
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
            if (!entry && (is_gradient_set(&sets[s]) || !list->items[i].trainable)) continue;
            if (!entry) return cavmae__fail(CAVMAE_E_MISMATCH, "%s: tensor '%s' is missing", path, name);
            if (entry->dtype != CAVMAE_FLOAT32 || entry->dims != 1 || entry->shape[0] != list->items[i].elements)
                return cavmae__fail(CAVMAE_E_MISMATCH, "%s: tensor '%s' is not %lld float32 elements", path, name,
                                    (long long)list->items[i].elements);
        }
    }
    return CAVMAE_OK;
}

/* What of a parameter's moments this rank holds. */
static cavmae_status upload_pieces(const cavmae_trainer *t, float *moments, const cavmae__parameter *p,
                                   const float *values) {
    cavmae__backend *backend = t->model->backend;
    const cavmae__pieces *pieces = &t->optimizer->pieces;
    for (int32_t k = 0; k < pieces->count; k++) {
        const cavmae__piece *piece = &pieces->items[k];
        const int64_t begin = piece->begin > p->offset ? piece->begin : p->offset;
        const int64_t piece_end = piece->begin + piece->count, end = p->offset + p->elements;
        const int64_t count = (piece_end < end ? piece_end : end) - begin;
        if (count > 0)
            CAVMAE__TRY(backend->ops->upload(backend, moments + piece->offset + begin - piece->begin,
                                             values + begin - p->offset, (size_t)count * sizeof(float)));
    }
    return CAVMAE_OK;
}

/* Gradients of an update that is not complete are rank 0's from now on, and the others' are zero. */
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
            if (!is_gradient_set(&sets[s])) {
                CAVMAE__TRY(upload_pieces(t, sets[s].data, &list->items[i], entry->data));
                continue;
            }
            t->has_gradient[i] = 1;
            if (cavmae_world_rank(t->world) == 0)
                CAVMAE__TRY(backend->ops->upload(backend, t->gradients + list->items[i].offset, entry->data,
                                                 (size_t)list->items[i].elements * sizeof(float)));
        }
    }
    return CAVMAE_OK;
}

static cavmae_status load(cavmae_trainer *t, cavmae_loader *loader, const char *path) {
    cavmae_safetensors *file;
    training_state state;
    flat_set sets[3];
    if (!path) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: path is NULL");
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
    if (t->exchange) memcpy(t->has_gradient, t->exchange->known_gradients, (size_t)t->model->list.count);
    char what[64];
    /* Ranks may read files of their own: they must be the same, and checksums of the tensors say so. */
    const char *sums = cavmae_safetensors_metadata(file, "crc32");
    const uint64_t hash = cavmae__hash(0xcbf29ce484222325u, sums ? sums : "", sums ? strlen(sums) : 0);
    snprintf(what, sizeof what, "checkpoint of step %" PRId64 " read, %08x", state.step, (unsigned)(hash ^ hash >> 32));
    CAVMAE__TRY_OUT(wait_for_all(t, what));
out:
    cavmae_safetensors_free(file);
    return status;
}

cavmae_status cavmae_checkpoint_load(cavmae_trainer *t, cavmae_loader *loader, const char *path) {
    if (!t) return cavmae__fail(CAVMAE_E_ARG, "checkpoint: trainer is NULL");
    cavmae__world_new_step(t->world);
    return cavmae__world_told(t->world, load(t, loader, path));
}
