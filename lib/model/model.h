/* A model: its configuration, its list of parameters, and their values. */
#ifndef CAVMAE_MODEL_MODEL_H
#define CAVMAE_MODEL_MODEL_H

#include <stdatomic.h>

#include "backend.h"
#include "parameters.h"
#include "safetensors.h"
#include "weights.h"

struct cavmae_model {
    atomic_int references;
    cavmae_context *context;
    cavmae__backend *backend;
    cavmae_config *config;
    cavmae__options options;
    cavmae__parameters list;
    const float **values;  /* [list.count] device pointers: into `flat`, or into the mapped file */
    float *flat;           /* device [list.flat_elements], or NULL while the parameters are in the file */
    cavmae__weights *file; /* whose tensors `values` are; NULL with `flat` */
};

cavmae_model *cavmae__model_ref(cavmae_model *model);

/* A model without values yet: `values` all NULL. */
cavmae_status cavmae__model_allocate(const cavmae_config *config, cavmae_model **out);

/* Gives the model its own flat buffer, with the values it has so far; then model->flat may be written. */
cavmae_status cavmae__model_own(cavmae_model *model);

/* Fills parameter `index` with its starting values. */
cavmae_status cavmae__model_init(cavmae_model *model, int64_t index);

/* Writes model and `extra` entries to `path`, with extra metadata. What checkpoints add to a model file. */
cavmae_status cavmae__model_write(const cavmae_model *model, const char *path, const cavmae__entry *extra,
                                  int64_t extra_count, const char *key, const char *value);

/* The model's parameters must be those of `file`, all of them: copies their values in. Tensors whose names start with
 * "optimizer." are not the model's. */
cavmae_status cavmae__model_restore(cavmae_model *model, cavmae_safetensors *file, const char *path);

#endif
