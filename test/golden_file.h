/* What golden.c reads of a case: tensors, configuration and options, and the parameters that follow from names. */
#ifndef TEST_GOLDEN_FILE_H
#define TEST_GOLDEN_FILE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden_report.h"

/* ---- Tensors of the file ---- */

typedef struct array {
    void *data; /* aligned copy, free() it; NULL: missing, or of another type */
    int64_t count, shape[CAVMAE_MAX_DIMS];
    int32_t dims;
} array;

static array read_array(golden *g, const char *name, int32_t dtype, size_t item) {
    array a = {0};
    cavmae_tensor *tensor;
    if (!ok(g, cavmae_safetensors_get(g->file, name, &tensor))) return a;
    if (cavmae_tensor_dtype(tensor) == dtype) {
        a.count = cavmae_tensor_elements(tensor);
        a.dims = cavmae_tensor_dims(tensor);
        memcpy(a.shape, cavmae_tensor_shape(tensor), (size_t)a.dims * sizeof *a.shape);
        a.data = malloc((size_t)a.count * item + 1);
        if (!a.data) exit(2);
        memcpy(a.data, cavmae_tensor_data(tensor), (size_t)a.count * item);
    } else {
        failure(g, "%s has an unexpected type", name);
    }
    cavmae_tensor_free(tensor);
    return a;
}

static array read_floats(golden *g, const char *name) { return read_array(g, name, CAVMAE_FLOAT32, sizeof(float)); }

/* Index in the file, or -1; marks the tensor as compared. */
static int64_t mark(golden *g, const char *name) {
    const char *other;
    for (int64_t i = 0; (other = cavmae_safetensors_name(g->file, i)) != NULL; i++)
        if (!strcmp(name, other)) {
            if (i < MOST_TENSORS) g->compared[i] = 1;
            return i;
        }
    return -1;
}

static int has(golden *g, const char *name) {
    const char *other;
    for (int64_t i = 0; (other = cavmae_safetensors_name(g->file, i)) != NULL; i++)
        if (!strcmp(name, other)) return 1;
    return 0;
}

/* The key third of a qkv bias has no gradient in exact arithmetic (softmax does not see it), so rounding alone is left
 * there, and Adam makes a step of it. */
static void drop_key_third(const char *name, float *got, float *expected, int64_t count) {
    static const char ending[] = ".attn.qkv.bias";
    size_t length = strlen(name);
    if (length < sizeof ending || strcmp(name + length - (sizeof ending - 1), ending) != 0) return;
    for (int64_t i = count / 3; i < 2 * count / 3; i++) got[i] = expected[i] = 0;
}

/* For devices that round weights to bfloat16, too. Adam's first steps are the learning rate by the gradient's sign; where
 * an element's gradient is less than bfloat16's rounding of the tensor's typical one, rounding decides the sign. */
static void drop_undecided(golden *g, const char *name, float *got, const float *expected, int64_t count) {
    const char *parameter = strstr(name, ".param.");
    char gradient_name[200];
    double sum = 0;
    snprintf(gradient_name, sizeof gradient_name, "grad.%s", parameter ? parameter + strlen(".param.") : "");
    if (!has(g, gradient_name)) return;
    array gradient = read_floats(g, gradient_name);
    const float *values = gradient.data;
    for (int64_t i = 0; i < gradient.count; i++) sum += (double)values[i] * values[i];
    const double least = sqrt(sum / (double)count) / 256;
    for (int64_t i = 0; i < count && gradient.count == count; i++)
        if (fabs(values[i]) < least) got[i] = expected[i];
    free(gradient.data);
}

/* Compares got [count] with the file's tensor `name`, in the group `kind part`. */
static void compare(golden *g, const char *kind, const char *part, const char *name, const float *got, int64_t count) {
    if (mark(g, name) < 0) {
        failure(g, "%s was computed, but is not in the file", name);
        return;
    }
    array expected = read_floats(g, name);
    if (!expected.data) return;
    if (expected.count != count) {
        failure(g, "%s has %lld elements, not %lld", name, (long long)count, (long long)expected.count);
    } else {
        float *copy = malloc((size_t)count * sizeof *copy + 1);
        if (!copy) exit(2);
        memcpy(copy, got, (size_t)count * sizeof *copy);
        if (!strncmp(kind, "grad", 4) || !strcmp(kind, "parameter"))
            if (strcmp(kind, "gradhead") != 0) drop_key_third(name, copy, expected.data, count);
        if (g->bfloat16 && !on_cpu(g->context) && !strcmp(kind, "parameter"))
            drop_undecided(g, name, copy, expected.data, count);
        group *to = group_of(g, kind, part);
        double error = measured(to->rule->measure, copy, expected.data, count);
        add_error(to, name, error);
        if (g->bfloat16 && !strcmp(kind, "grad")) add_error(group_of(g, "grad, median", NULL), name, error);
        free(copy);
    }
    free(expected.data);
}

static void compare_scalar(golden *g, const char *kind, const char *name, double got) {
    float value = (float)got;
    compare(g, kind, NULL, name, &value, 1);
}

/* ---- Metadata: one JSON object of numbers, words, booleans, arrays of numbers and such objects ---- */

typedef struct member {
    char key[64], value[128]; /* a word without its quotes; an array with its brackets */
} member;

/* The next member that is not itself an object; those of inner objects come as if they were the outer's. 1: got one;
 * 0: the end; -1: not such JSON. */
static int next_member(const char **at, member *out) {
    const char *p = *at + strspn(*at, " \t\n,{}");
    if (!*p) return 0;
    const char *key = p + 1, *key_end = strchr(key, '"');
    if (*p != '"' || !key_end || (size_t)(key_end - key) >= sizeof out->key) return -1;
    p = key_end + 1 + strspn(key_end + 1, " \t\n");
    if (*p++ != ':') return -1;
    p += strspn(p, " \t\n");
    if (*p == '{') {
        *at = p;
        return next_member(at, out);
    }
    const char *value = *p == '"' ? p + 1 : p, *stop = *p == '"' ? "\"" : *p == '[' ? "]" : ",} \t\n";
    size_t length = strcspn(value, stop);
    if (!value[length] || length + 1 >= sizeof out->value) return -1;
    length += *p == '[';
    memcpy(out->key, key, (size_t)(key_end - key));
    out->key[key_end - key] = '\0';
    memcpy(out->value, value, length);
    out->value[length] = '\0';
    *at = value + length + (*p == '"');
    return 1;
}

static int set(golden *g, const char *key, const char *value) {
    if (!strcmp(value, "true")) value = "1";
    if (!strcmp(value, "false")) value = "0";
    return ok(g, cavmae_config_set(g->config, key, value));
}

static int apply_config(golden *g, const char *json) {
    member m;
    int more;
    while ((more = next_member(&json, &m)) > 0) {
        if (!set(g, strcmp(m.key, "num_classes") ? m.key : "classes", m.value)) return 0;
        if (!strcmp(m.key, "embed_dim")) g->base = atoi(m.value) >= 512;
    }
    if (more < 0) failure(g, "config is not plain JSON");
    return g->failures == 0;
}

static int apply_options(golden *g, const char *json) {
    static const char *const names[][2] = {{"lr", "lr"},
                                           {"eps", "adam_eps"},
                                           {"weight_decay", "weight_decay"},
                                           {"mae_weight", "mae_weight"},
                                           {"contrast_weight", "contrast_weight"},
                                           {"tau", "contrast_temperature"},
                                           {"mode", "mode"},
                                           {"loss", "loss"},
                                           {"head_lr", "head_lr_factor"},
                                           {"freeze_base", "freeze_base"}};
    member m;
    int more;
    while ((more = next_member(&json, &m)) > 0) {
        size_t i = 0;
        while (i < sizeof names / sizeof *names && strcmp(names[i][0], m.key) != 0) i++;
        if (i < sizeof names / sizeof *names) {
            if (!set(g, names[i][1], m.value)) return 0;
        } else if (!strcmp(m.key, "betas")) {
            char first[32], second[32];
            if (sscanf(m.value, "[%31[^,], %31[^]]]", first, second) != 2)
                failure(g, "betas are %s", m.value);
            else if (!set(g, "beta1", first) || !set(g, "beta2", second))
                return 0;
        } else if (!strcmp(m.key, "bidirectional")) {
            if (!set(g, "contrast_direction", strcmp(m.value, "true") ? "v2a" : "both")) return 0;
        } else if (!strcmp(m.key, "steps")) {
            g->steps = atoll(m.value);
        } else if (!strcmp(m.key, "sample_rate")) {
            g->rate = atoll(m.value);
        } else if (!strcmp(m.key, "size")) {
            g->size = atoll(m.value);
        } else {
            failure(g, "option %s is unknown", m.key);
        }
    }
    if (more < 0) failure(g, "options are not plain JSON");
    return g->failures == 0;
}

#endif
