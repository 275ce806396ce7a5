#include "parameters.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "philox.h"

/* The list is walked twice: once to count (items NULL), once to fill. */
typedef struct builder {
    cavmae__parameters *list;
    const cavmae__options *options;
    char prefix[40];
} builder;

static int64_t add(builder *b, const char *name, int32_t init, int32_t dims, int64_t d0, int64_t d1, int64_t d2,
                   int64_t d3) {
    cavmae__parameters *list = b->list;
    int64_t elements = d0 * (dims > 1 ? d1 : 1) * (dims > 2 ? d2 : 1) * (dims > 3 ? d3 : 1);
    if (list->items) {
        cavmae__parameter *p = &list->items[list->count];
        memset(p, 0, sizeof *p);
        snprintf(p->name, sizeof p->name, "%s%s", b->prefix, name);
        p->dims = dims;
        p->init = init;
        p->shape[0] = d0, p->shape[1] = d1, p->shape[2] = d2, p->shape[3] = d3;
        p->elements = elements;
        p->offset = list->flat_elements;
        p->trainable = init != CAVMAE__INIT_POSITIONS || b->options->trainable_pos;
        if (p->trainable) list->trainable_elements += elements;
        list->elements += elements;
        list->flat_elements += (elements + 15) / 16 * 16;
    }
    return list->count++;
}

static int64_t add_linear(builder *b, const char *name, int64_t in, int64_t out) {
    char full[48];
    snprintf(full, sizeof full, "%s.weight", name);
    int64_t index = add(b, full, CAVMAE__INIT_MATRIX, 2, out, in, 0, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    add(b, full, CAVMAE__INIT_ZERO, 1, out, 0, 0, 0);
    return index;
}

static int64_t add_norm(builder *b, const char *name, int64_t width) {
    char full[48];
    snprintf(full, sizeof full, "%s.weight", name);
    int64_t index = add(b, full, CAVMAE__INIT_ONE, 1, width, 0, 0, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    add(b, full, CAVMAE__INIT_ZERO, 1, width, 0, 0, 0);
    return index;
}

static int64_t add_positions(builder *b, const char *name, int64_t width, int64_t rows, int64_t columns) {
    int64_t index = add(b, name, CAVMAE__INIT_POSITIONS, 3, 1, rows * columns, width, 0);
    if (b->list->items) {
        b->list->items[index].grid_rows = (int32_t)rows;
        b->list->items[index].grid_columns = (int32_t)columns;
    }
    return index;
}

static int64_t add_layers(builder *b, const char *name, int64_t depth, int64_t width) {
    static const char *const norms[] = {"norm1", "norm2", "norm1_a", "norm2_a", "norm1_v", "norm2_v"};
    int64_t first = b->list->count, hidden = cavmae__hidden(width, b->options->mlp_ratio);
    for (int64_t i = 0; i < depth; i++) {
        snprintf(b->prefix, sizeof b->prefix, "%s.%d.", name, (int)i);
        for (int n = 0; n < 6; n++) add_norm(b, norms[n], width);
        add_linear(b, "attn.qkv", width, 3 * width);
        add_linear(b, "attn.proj", width, width);
        add_linear(b, "mlp.fc1", width, hidden);
        add_linear(b, "mlp.fc2", hidden, width);
    }
    b->prefix[0] = 0;
    return first;
}

/* Both modalities' version of something; a single-modality model has -1 for the other. */
#define FOR_MODALITIES(m)                                                                                              \
    for (int m = 0; m < 2; m++)                                                                                        \
        if (has[m])

static void forget_indices(cavmae__parameters *list) {
    for (int m = 0; m < 2; m++)
        list->modality[m] = list->positions[m] = list->patch_embed[m] = list->layers[m] = list->decoder_modality[m] =
            list->decoder_positions[m] = list->decoder_pred[m] = list->norm[1 + m] = -1;
    list->mask_token = list->decoder_embed = list->decoder_layers = list->decoder_norm = -1;
    list->head_norm = list->head = -1;
}

static void walk(builder *b) {
    static const char suffix[] = "av";
    const cavmae__options *o = b->options;
    cavmae__parameters *list = b->list;
    const int has[2] = {o->modalities != CAVMAE__MODALITIES_V, o->modalities != CAVMAE__MODALITIES_A};
    const int decoder = cavmae__has_decoder(o);
    const int64_t rows[2] = {o->mel_bins / o->patch_size, o->image_size / o->patch_size};
    const int64_t columns[2] = {o->audio_frames / o->patch_size, o->image_size / o->patch_size};
    const int64_t channels[2] = {1, o->image_channels}, patch = o->patch_size * o->patch_size;
    char name[32];
#define NAMED(format, m) (snprintf(name, sizeof name, format, suffix[m]), name)

    forget_indices(list);
    FOR_MODALITIES(m) list->modality[m] = add(b, NAMED("modality_%c", m), CAVMAE__INIT_TOKEN, 3, 1, 1, o->embed_dim, 0);
    FOR_MODALITIES(m)
    list->positions[m] = add_positions(b, NAMED("pos_embed_%c", m), o->embed_dim, rows[m], columns[m]);
    if (decoder) {
        list->mask_token = add(b, "mask_token", CAVMAE__INIT_TOKEN, 3, 1, 1, o->decoder_dim, 0);
        FOR_MODALITIES(m)
        list->decoder_modality[m] =
            add(b, NAMED("decoder_modality_%c", m), CAVMAE__INIT_TOKEN, 3, 1, 1, o->decoder_dim, 0);
        FOR_MODALITIES(m)
        list->decoder_positions[m] =
            add_positions(b, NAMED("decoder_pos_embed_%c", m), o->decoder_dim, rows[m], columns[m]);
    }
    FOR_MODALITIES(m) {
        list->patch_embed[m] = add(b, NAMED("patch_embed_%c.proj.weight", m), CAVMAE__INIT_MATRIX, 4, o->embed_dim,
                                   channels[m], o->patch_size, o->patch_size);
        add(b, NAMED("patch_embed_%c.proj.bias", m), CAVMAE__INIT_ZERO, 1, o->embed_dim, 0, 0, 0);
    }
    FOR_MODALITIES(m) list->layers[m] = add_layers(b, NAMED("blocks_%c", m), o->modality_depth, o->embed_dim);
    list->joint_layers = add_layers(b, "blocks_u", o->joint_depth, o->embed_dim);
    FOR_MODALITIES(m) list->norm[1 + m] = add_norm(b, NAMED("norm_%c", m), o->embed_dim);
    list->norm[0] = add_norm(b, "norm", o->embed_dim);
    if (decoder) {
        list->decoder_embed = add_linear(b, "decoder_embed", o->embed_dim, o->decoder_dim);
        list->decoder_layers = add_layers(b, "decoder_blocks", o->decoder_depth, o->decoder_dim);
        list->decoder_norm = add_norm(b, "decoder_norm", o->decoder_dim);
        FOR_MODALITIES(m)
        list->decoder_pred[m] = add_linear(b, NAMED("decoder_pred_%c", m), o->decoder_dim, patch * channels[m]);
    }
    if (!o->classes) return;
    if (o->head == CAVMAE__HEAD_NORM_LINEAR) list->head_norm = add_norm(b, "mlp_head.0", cavmae__head_width(o));
    list->head = add_linear(b, o->head == CAVMAE__HEAD_NORM_LINEAR ? "mlp_head.1" : "mlp_head", cavmae__head_width(o),
                            o->classes);
}

cavmae_status cavmae__parameters_create(cavmae_context *context, const cavmae__options *options,
                                        cavmae__parameters *out) {
    cavmae__parameters list;
    memset(&list, 0, sizeof list);
    builder b = {.list = &list, .options = options};
    walk(&b);
    int64_t count = list.count;
    memset(&list, 0, sizeof list);
    CAVMAE__TRY(CAVMAE__NEW(context, &list.items, count));
    walk(&b);
    *out = list;
    return CAVMAE_OK;
}

void cavmae__parameters_free(cavmae_context *context, cavmae__parameters *parameters) {
    cavmae__free(context, parameters->items);
    parameters->items = NULL;
}

int64_t cavmae__parameters_find(const cavmae__parameters *parameters, const char *name) {
    for (int64_t i = 0; i < parameters->count; i++)
        if (strcmp(parameters->items[i].name, name) == 0) return i;
    return -1;
}

static uint64_t fnv1a64(const char *text) {
    uint64_t h = 0xCBF29CE484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001B3u;
    return h;
}

static void sincos_1d(int64_t width, int64_t position, float *out) {
    for (int64_t i = 0; i < width / 2; i++) {
        double angle = (double)position / pow(10000, (double)i / ((double)width / 2));
        out[i] = (float)sin(angle);
        out[width / 2 + i] = (float)cos(angle);
    }
}

void cavmae__sincos_2d(int64_t width, int64_t rows, int64_t columns, float *out) {
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = 0; column < columns; column++, out += width) {
            sincos_1d(width / 2, column, out);
            sincos_1d(width / 2, row, out + width / 2);
        }
    }
}

void cavmae__parameter_init(const cavmae__parameter *p, uint64_t seed, float *values) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_INIT, 0, fnv1a64(p->name));
    int64_t n = p->elements;
    switch (p->init) {
    case CAVMAE__INIT_MATRIX: { /* torch.nn.init.xavier_uniform_ on [out, in]; convolutions as [out, C * p * p] */
        float limit = (float)sqrt(6.0 / (double)(p->shape[0] + n / p->shape[0]));
        for (int64_t i = 0; i < n; i += 4) {
            uint32_t bits[4];
            cavmae__philox_block(&random, (uint32_t)(i / 4), bits);
            for (int64_t k = 0; k < 4 && i + k < n; k++)
                values[i + k] = limit * ((float)(bits[k] >> 8) * 0x1p-23f - 1.0f);
        }
        break;
    }
    case CAVMAE__INIT_TOKEN: /* normal(0, 0.02), by Box and Muller */
        for (int64_t i = 0; i < n; i++) {
            double u = 1.0 - (double)cavmae__philox_uniform(&random, (uint64_t)(2 * i)),
                   v = cavmae__philox_uniform(&random, (uint64_t)(2 * i + 1));
            values[i] = (float)(0.02 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        }
        break;
    case CAVMAE__INIT_POSITIONS: cavmae__sincos_2d(p->shape[2], p->grid_rows, p->grid_columns, values); break;
    default:
        for (int64_t i = 0; i < n; i++) values[i] = p->init == CAVMAE__INIT_ONE ? 1.0f : 0.0f;
    }
}
