/* A file's tensors as a model's parameters: which belongs to which, and what is left over on either side. */
#ifndef CAVMAE_MODEL_IMPORT_H
#define CAVMAE_MODEL_IMPORT_H

#include "parameters.h"
#include "weights.h"

#define CAVMAE__CONFIG_KEY "cavmae.config" /* metadata of model files */

enum { CAVMAE__FORM_OWN, CAVMAE__FORM_CAV_MAE, CAVMAE__FORM_VISION_MAE };

typedef struct cavmae__import {
    cavmae_context *context;
    cavmae__weights *weights;
    cavmae_config *config; /* the file's own, or inferred */
    int32_t form;
    int mean_colours;
    int64_t layers, channels; /* of a vision MAE */
} cavmae__import;

/* Where a parameter's values come from. */
typedef struct cavmae__origin {
    cavmae__weight *weight; /* NULL: the file has none, they are initialised */
    int32_t how;            /* as vision_mae.h lists */
    int32_t dims;
    int64_t shape[4]; /* that the tensor must have */
} cavmae__origin;

/* flags: CAVMAE_LOAD_*. _close releases what the struct holds; a struct of zeros may be closed. */
cavmae_status cavmae__import_open(cavmae_context *context, const char *path, uint32_t flags, cavmae__import *out);
/* Of a checkpoint that is open; without a configuration. */
cavmae_status cavmae__import_of(cavmae_context *context, cavmae_safetensors *file, const char *path,
                                cavmae__import *out);
void cavmae__import_close(cavmae__import *import);

void cavmae__import_origin(const cavmae__import *import, const cavmae__parameter *parameter, cavmae__origin *origin);

/* Counts what fits and what does not, each named in the log, and fails with MISMATCH for what flags do not allow;
 * *counts is filled then, too. The model's parameters are `list`, made with `options`. */
cavmae_status cavmae__import_compare(const cavmae__import *import, const cavmae__options *options,
                                     const cavmae__parameters *list, uint32_t flags, cavmae_load_report *counts);

/* A parameter's values, host memory [elements]; of a list that was compared. */
cavmae_status cavmae__import_read(const cavmae__import *import, const cavmae__origin *origin,
                                  const cavmae__parameter *parameter, float *out);

#endif
