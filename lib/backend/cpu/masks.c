/* Masks, and the lists of tokens that follow from them. Noise is an integer, uniform's 24 bits, and every key holds its
 * index: no two are equal, and every device chooses the same. */
#include <string.h>

#include "cpu_backend.h"
#include "philox.h"

enum { UNIFORM_BITS = 24, INDEX_BITS = 32 };

typedef struct draw {
    const cavmae__draw_masks *op;
    int64_t tokens;
    uint64_t *keys; /* [threads, 2 * tokens]: of the tokens, and of the columns or rows */
} draw;

size_t cavmae__draw_masks_workspace(const cavmae__cpu_backend *backend, const cavmae__limits *limits) {
    return (size_t)(2 * (int64_t)backend->threads * limits->tokens) * sizeof(uint64_t);
}

static void fill_keys(const cavmae__philox *stream, int64_t first, int64_t count, uint64_t *keys) {
    uint32_t block[4];
    for (int64_t i = 0; i < count; i++) {
        if (i == 0 || (first + i) % 4 == 0) cavmae__philox_block(stream, (uint32_t)((first + i) / 4), block);
        keys[i] = (uint64_t)(block[(first + i) % 4] >> (32 - UNIFORM_BITS)) << INDEX_BITS | (uint64_t)i;
    }
}

/* Moves the `count` smallest of n distinct keys to the front (Hoare's selection). */
static void select_smallest(uint64_t *keys, int64_t n, int64_t count) {
    int64_t low = 0, high = n - 1;
    while (low < high && count > 0) {
        const uint64_t pivot = keys[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (keys[i] < pivot) i++;
            while (keys[j] > pivot) j--;
            if (i > j) break;
            uint64_t swap = keys[i];
            keys[i++] = keys[j];
            keys[j--] = swap;
        }
        if (count - 1 <= j)
            high = j;
        else if (count - 1 >= i)
            low = i;
        else
            return;
    }
}

/* Adds 2 to the noise of the tokens of `chosen` columns (or rows), once. */
static void remove_lines(const draw *d, const cavmae__philox *stream, int by_column, int64_t chosen, uint64_t *keys,
                         uint64_t *lines) {
    const int64_t columns = d->op->columns, rows = d->op->rows, across = by_column ? columns : rows;
    const uint64_t two = (uint64_t)2 << (UNIFORM_BITS + INDEX_BITS);
    chosen = cavmae__smaller(chosen, across);
    fill_keys(stream, by_column ? d->tokens : d->tokens + columns, across, lines);
    select_smallest(lines, across, chosen);
    for (int64_t k = 0; k < chosen; k++) {
        const int64_t line = (int64_t)(uint32_t)lines[k];
        if (by_column)
            for (int64_t r = 0; r < rows; r++) keys[r * columns + line] |= two;
        else
            for (int64_t c = 0; c < columns; c++) keys[line * columns + c] |= two;
    }
}

static void draw_task(void *arg, int64_t clip, int32_t worker) {
    const draw *d = arg;
    const cavmae__draw_masks *op = d->op;
    const cavmae__philox stream = cavmae__philox_key(op->seed, op->purpose, *op->step, (uint64_t)(op->first + clip));
    const double ratio = op->mode == 3 ? op->ratio * 0.7 : op->ratio;
    uint64_t *keys = d->keys + worker * 2 * d->tokens, *lines = keys + d->tokens;
    uint8_t *mask = op->mask + clip * d->tokens;

    fill_keys(&stream, 0, d->tokens, keys);
    if (op->mode == 1 || op->mode == 3) remove_lines(d, &stream, 1, (int64_t)(op->columns * ratio), keys, lines);
    if (op->mode == 2 || op->mode == 3) remove_lines(d, &stream, 0, (int64_t)(op->rows * ratio), keys, lines);
    select_smallest(keys, d->tokens, op->keep);
    memset(mask, 1, (size_t)d->tokens);
    for (int64_t k = 0; k < op->keep; k++) mask[(uint32_t)keys[k]] = 0;
}

cavmae_status cavmae__cpu_draw_masks(cavmae__backend *backend, const cavmae__draw_masks *op) {
    draw d = {.op = op, .tokens = (int64_t)op->rows * op->columns, .keys = op->workspace};
    cavmae__cpu_run(backend, op->clips, (double)op->clips * (double)d.tokens * 20, draw_task, &d);
    return CAVMAE_OK;
}

/* What is known of every token, visible or not; lists that are not wanted are NULL. */
static void list_token(const cavmae__index_tokens *op, int32_t t, int32_t clip, int32_t token, int32_t position,
                       int32_t row) {
    if (op->token_clip) op->token_clip[t] = clip;
    if (op->token_token) op->token_token[t] = token;
    if (op->token_position) op->token_position[t] = position;
    if (op->token_row) op->token_row[t] = row;
    if (op->token_removed) op->token_removed[t] = row < 0 ? 0 : -1;
}

cavmae_status cavmae__cpu_index_tokens(cavmae__backend *backend, const cavmae__index_tokens *op) {
    (void)backend;
    for (int32_t clip = 0; clip < op->tokens.count; clip++) {
        const int32_t start = op->tokens.start_host[clip], end = op->tokens.start_host[clip + 1];
        const int32_t columns = op->columns[clip];
        int32_t row = op->visible.start_host[clip];
        for (int32_t t = start; t < end; t++) {
            const int32_t token = t - start, position = token / columns * op->table_columns + token % columns;
            const int visible = !op->mask || !op->mask[t];
            list_token(op, t, clip, token, position, visible ? row : -1);
            if (!visible) continue;
            op->visible_clip[row] = clip;
            op->visible_token[row] = token;
            op->visible_position[row++] = position;
        }
    }
    return CAVMAE_OK;
}
