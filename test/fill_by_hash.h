/* Parameters from their names, as hash_uniform and fill_by_hash of the oracle: golden cases need not hold them. */
#ifndef CAVMAE_TEST_FILL_BY_HASH_H
#define CAVMAE_TEST_FILL_BY_HASH_H

#include <stdlib.h>
#include <string.h>

#include "cavmae.h"

static inline uint64_t hash_name(const char *name) { /* FNV-1a */
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

static inline float hash_uniform(uint64_t name, uint64_t i) { /* splitmix64, in [-1, 1) */
    uint64_t z = name + i + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (float)((double)(z >> 40) * 0x1p-23 - 1);
}

/* Matrices and vectors: 0.05 u; LayerNorm weights: 1 + 0.1 u; positional embeddings are left alone. */
static inline cavmae_status fill_by_hash(cavmae_model *model) {
    const char *name;
    for (int64_t i = 0; (name = cavmae_model_parameter_name(model, i)) != NULL; i++) {
        if (strstr(name, "pos_embed")) continue;
        size_t length = strlen(name);
        int is_norm = (strstr(name, "norm") || !strncmp(name, "mlp_head.0", 10)) && length >= 6 &&
                      !strcmp(name + length - 6, "weight");
        cavmae_tensor *view;
        cavmae_status status = cavmae_model_parameter(model, name, &view);
        if (status != CAVMAE_OK) return status;
        int64_t count = cavmae_tensor_elements(view);
        cavmae_tensor_free(view);
        float *values = malloc((size_t)count * sizeof *values + 1);
        if (!values) exit(2);
        uint64_t hash = hash_name(name);
        for (int64_t k = 0; k < count; k++) {
            float u = hash_uniform(hash, (uint64_t)k);
            values[k] = is_norm ? 1 + 0.1f * u : 0.05f * u;
        }
        status = cavmae_model_set_parameter(model, name, values, count);
        free(values);
        if (status != CAVMAE_OK) return status;
    }
    return CAVMAE_OK;
}

#endif
