/* Operations that copy, place and average rows; and the types' conversions. */
#include "simd_ops.h"
#include "vec.h"

enum { ROWS_EACH = 16, MEAN_BLOCK = 32, CONVERT_EACH = 1 << 15 };

void CAVMAE__SIMD(widen)(const uint16_t *from, int64_t count, float *to) {
    int64_t i = 0;
    for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store(to + i, vec_load_as(from, i, 1));
    if (i < count) vec_store_part(to + i, vec_load_part_as(from, i, (int)(count - i), 1), (int)(count - i));
}

void CAVMAE__SIMD(narrow)(const float *from, int64_t count, uint16_t *to) {
    int64_t i = 0;
    for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store_as(to, i, vec_load(from + i), 1);
    if (i < count) vec_store_part_as(to, i, vec_load_part(from + i, (int)(count - i)), (int)(count - i), 1);
}

static void convert_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__convert *op = arg;
    const int64_t first = task * CONVERT_EACH, count = cavmae__smaller(op->count - first, CONVERT_EACH);
    (void)worker;
    if (op->x_dtype == op->y_dtype) {
        const size_t size = op->x_dtype == CAVMAE_BFLOAT16 ? sizeof(uint16_t) : sizeof(float);
        memcpy((char *)op->y + (size_t)first * size, (const char *)op->x + (size_t)first * size, (size_t)count * size);
    } else if (op->x_dtype == CAVMAE_BFLOAT16) {
        CAVMAE__SIMD(widen)((const uint16_t *)op->x + first, count, (float *)op->y + first);
    } else {
        CAVMAE__SIMD(narrow)((const float *)op->x + first, count, (uint16_t *)op->y + first);
    }
}

cavmae_status CAVMAE__SIMD(convert)(cavmae__backend *backend, const cavmae__convert *op) {
    cavmae__convert call = *op;
    cavmae__cpu_run(backend, cavmae__blocks(op->count, CONVERT_EACH), (double)op->count / VEC_WIDTH, convert_task,
                    &call);
    return CAVMAE_OK;
}

/* ---- Patches ---- */

static void patch_row(const cavmae__patches *op, int64_t r) {
    const cavmae__patch_source *s = &op->source;
    const int32_t clip = op->clip[r], columns = s->columns[clip], patch = s->patch;
    const int64_t count = (int64_t)s->channels * patch * patch;
    const float *corner = s->data + s->offset[clip] + op->token[r] / columns * patch * s->row_stride +
                          op->token[r] % columns * patch * s->column_stride;
    float *wide = op->y_dtype == CAVMAE_BFLOAT16 ? NULL : (float *)op->y + r * count;
    uint16_t *half = wide ? NULL : (uint16_t *)op->y + r * count;
    for (int32_t c = 0; c < s->channels; c++)
        for (int32_t y = 0; y < patch; y++) {
            const float *from = corner + c * s->channel_stride + y * s->row_stride;
            for (int32_t x = 0; x < patch; x++, from += s->column_stride) {
                if (wide)
                    *wide++ = *from;
                else
                    CAVMAE__SIMD(narrow)(from, 1, half++);
            }
        }
}

static void patches_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__patches *op = arg;
    int64_t end = cavmae__smaller((task + 1) * ROWS_EACH, op->rows);
    (void)worker;
    for (int64_t r = task * ROWS_EACH; r < end; r++) patch_row(op, r);
}

cavmae_status CAVMAE__SIMD(patches)(cavmae__backend *backend, const cavmae__patches *op) {
    cavmae__patches call = *op;
    double elements = (double)op->rows * op->source.channels * op->source.patch * op->source.patch;
    cavmae__cpu_run(backend, cavmae__blocks(op->rows, ROWS_EACH), elements, patches_task, &call);
    return CAVMAE_OK;
}

/* ---- Place and combine ---- */

static void place_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__place *op = arg;
    int64_t end = cavmae__smaller((task + 1) * ROWS_EACH, op->count);
    (void)worker;
    for (int64_t k = task * ROWS_EACH; k < end; k++) {
        const int64_t row = op->row ? op->row[k] : k, source = op->source ? op->source[k] : k;
        if (row < 0) continue;
        const float *x = source < 0 ? op->fill : op->x + source * op->width;
        const float *table = op->table ? op->table + (int64_t)op->position[k] * op->width : NULL;
        float *out = op->out + row * op->width;
        for (int32_t j = 0; j < op->width; j++) {
            float sum = x[j];
            if (table) sum += table[j];
            if (op->vector) sum += op->vector[j];
            out[j] = sum;
        }
    }
}

cavmae_status CAVMAE__SIMD(place)(cavmae__backend *backend, const cavmae__place *op) {
    cavmae__place call = *op;
    cavmae__cpu_run(backend, cavmae__blocks(op->count, ROWS_EACH), (double)op->count * op->width / VEC_WIDTH,
                    place_task, &call);
    return CAVMAE_OK;
}

static void combine_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__combine *op = arg;
    int64_t end = cavmae__smaller((task + 1) * ROWS_EACH, op->rows);
    (void)worker;
    for (int64_t r = task * ROWS_EACH; r < end; r++) {
        int64_t first = op->first[r], second = op->second ? op->second[r] : -1;
        float *y = op->y + r * op->width;
        if (first < 0) {
            first = second;
            second = -1;
        }
        if (first < 0)
            memset(y, 0, (size_t)op->width * sizeof *y);
        else if (second < 0)
            memcpy(y, op->x + first * op->width, (size_t)op->width * sizeof *y);
        else
            for (int32_t j = 0; j < op->width; j++) y[j] = op->x[first * op->width + j] + op->x[second * op->width + j];
    }
}

cavmae_status CAVMAE__SIMD(combine)(cavmae__backend *backend, const cavmae__combine *op) {
    cavmae__combine call = *op;
    cavmae__cpu_run(backend, cavmae__blocks(op->rows, ROWS_EACH), (double)op->rows * op->width / VEC_WIDTH,
                    combine_task, &call);
    return CAVMAE_OK;
}

/* ---- Means of segments: by blocks of rows, for the sums' sake ---- */

static void mean_task(void *arg, int64_t segment, int32_t worker) {
    const cavmae__segment_mean *op = arg;
    const int64_t width = op->width, start = op->segments.start_host[segment],
                  length = op->segments.start_host[segment + 1] - start;
    (void)worker;
    for (int64_t j = 0; j < width; j += VEC_WIDTH) {
        const int part = width - j < VEC_WIDTH ? (int)(width - j) : 0;
        vec total = {0};
        for (int64_t r = 0; r < length; r += MEAN_BLOCK) {
            const int64_t end = cavmae__smaller(r + MEAN_BLOCK, length);
            vec sum = {0};
            for (int64_t i = r; i < end; i++) {
                const float *x = op->x + (start + i) * width + j;
                sum += part ? vec_load_part(x, part) : vec_load(x);
            }
            total += sum;
        }
        total /= vec_set((float)length);
        if (part)
            vec_store_part(op->y + segment * width + j, total, part);
        else
            vec_store(op->y + segment * width + j, total);
    }
}

static void mean_grad_task(void *arg, int64_t segment, int32_t worker) {
    const cavmae__segment_mean *op = arg;
    const int64_t width = op->width, start = op->segments.start_host[segment],
                  end = op->segments.start_host[segment + 1];
    const float *dy = op->dy + segment * width;
    const float length = (float)(end - start);
    (void)worker;
    for (int64_t r = start; r < end; r++)
        for (int64_t j = 0; j < width; j++) op->dx[r * width + j] = dy[j] / length;
}

static cavmae_status run_segments(cavmae__backend *backend, const cavmae__segment_mean *op, cavmae__task *task) {
    cavmae__segment_mean call = *op;
    const int32_t count = op->segments.count;
    int64_t rows = count > 0 ? op->segments.start_host[count] - op->segments.start_host[0] : 0;
    cavmae__cpu_run(backend, count, (double)rows * op->width / VEC_WIDTH, task, &call);
    return CAVMAE_OK;
}

cavmae_status CAVMAE__SIMD(segment_mean)(cavmae__backend *backend, const cavmae__segment_mean *op) {
    return run_segments(backend, op, mean_task);
}

cavmae_status CAVMAE__SIMD(segment_mean_grad)(cavmae__backend *backend, const cavmae__segment_mean *op) {
    return run_segments(backend, op, mean_grad_task);
}

/* ---- Sums of streams ---- */

static void mix_task(void *arg, int64_t r, int32_t worker) {
    const cavmae__mix *op = arg;
    (void)worker;
    for (int32_t part = 0; part < op->parts; part++) {
        const float *weight = op->weight + (part * op->rows + r) * 3;
        float *y = op->y + (r * op->parts + part) * op->width;
        memset(y, 0, (size_t)op->width * sizeof *y);
        for (int s = 0; s < 3; s++) {
            if (!op->x[s] || weight[s] == 0) continue;
            const float *x = op->x[s] + r / op->repeat[s] * op->width;
            for (int32_t j = 0; j < op->width; j++) y[j] += weight[s] * x[j];
        }
    }
}

static void mix_grad_task(void *arg, int64_t r, int32_t worker) {
    const cavmae__mix *op = arg;
    (void)worker;
    for (int s = 0; s < 3; s++) {
        if (!op->dx[s]) continue;
        float *dx = op->dx[s] + r * op->width;
        memset(dx, 0, (size_t)op->width * sizeof *dx);
        for (int32_t part = 0; part < op->parts; part++) {
            const float weight = op->weight[(part * op->rows + r) * 3 + s];
            const float *dy = op->dy + (r * op->parts + part) * op->width;
            for (int32_t j = 0; j < op->width; j++) dx[j] += weight * dy[j];
        }
    }
}

static cavmae_status run_mix(cavmae__backend *backend, const cavmae__mix *op, cavmae__task *task) {
    cavmae__mix call = *op;
    cavmae__cpu_run(backend, op->rows, 3.0 * (double)op->rows * op->parts * op->width / VEC_WIDTH, task, &call);
    return CAVMAE_OK;
}

cavmae_status CAVMAE__SIMD(mix)(cavmae__backend *backend, const cavmae__mix *op) {
    return run_mix(backend, op, mix_task);
}

cavmae_status CAVMAE__SIMD(mix_grad)(cavmae__backend *backend, const cavmae__mix *op) {
    return run_mix(backend, op, mix_grad_task);
}

/* ---- GELU ---- */

enum { GELU_EACH = 1 << 14 };

static void gelu_task(void *arg, int64_t task, int32_t worker) {
    const cavmae__gelu *op = arg;
    const int bf16 = op->dtype == CAVMAE_BFLOAT16;
    const int64_t end = cavmae__smaller((task + 1) * GELU_EACH, op->count);
    (void)worker;
    for (int64_t i = task * GELU_EACH; i < end; i += VEC_WIDTH) {
        const int part = (int)cavmae__smaller(end - i, VEC_WIDTH);
        if (part == VEC_WIDTH)
            vec_store_as(op->y, i, vec_gelu(vec_load_as(op->x, i, bf16)), bf16);
        else
            vec_store_part_as(op->y, i, vec_gelu(vec_load_part_as(op->x, i, part, bf16)), part, bf16);
    }
}

cavmae_status CAVMAE__SIMD(gelu)(cavmae__backend *backend, const cavmae__gelu *op) {
    cavmae__gelu call = *op;
    cavmae__cpu_run(backend, cavmae__blocks(op->count, GELU_EACH), (double)op->count * 20 / VEC_WIDTH, gelu_task,
                    &call);
    return CAVMAE_OK;
}
