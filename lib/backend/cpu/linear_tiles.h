/* How the linear layers' products are cut into tasks, and the scratch that a task takes. Sizes do not enter into
 * results: product.h says why. */
#ifndef CAVMAE_BACKEND_CPU_LINEAR_TILES_H
#define CAVMAE_BACKEND_CPU_LINEAR_TILES_H

#include "cpu_backend.h"

/* x times weight: TILE_DEPTH by TILE_COLUMNS of the weight, packed, stay in a core's second-level cache while TILE_ROWS
 * of x after TILE_ROWS go by. A task takes at most TASK_ROWS. */
enum { CAVMAE__TILE_ROWS = 192, CAVMAE__TILE_COLUMNS = 128, CAVMAE__TILE_DEPTH = 768, CAVMAE__TASK_ROWS = 1536 };

/* The weight's gradient: a task makes one tile of it, from GRAD_DEPTH rows at a time. */
enum { CAVMAE__GRAD_ROWS = 384, CAVMAE__GRAD_COLUMNS = 384, CAVMAE__GRAD_DEPTH = 128 };

/* Floats of one worker. */
enum {
    CAVMAE__ROWS_SCRATCH =
        CAVMAE__TILE_DEPTH * (CAVMAE__TILE_COLUMNS + CAVMAE__TILE_ROWS) + CAVMAE__TASK_ROWS * CAVMAE__TILE_COLUMNS,
    CAVMAE__GRAD_SCRATCH = (CAVMAE__GRAD_ROWS + CAVMAE__GRAD_COLUMNS) * CAVMAE__GRAD_DEPTH +
                           CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS + CAVMAE__GRAD_ROWS
};

/* By oneDNN: rows by the block, then by the granule, of which the last is filled up with zeros: few sizes, because a
 * primitive is made for each. The rows of x, or of the weight's gradient's sums. */
enum { CAVMAE__BF16_BLOCK = 384, CAVMAE__BF16_GRAD_BLOCK = 1024, CAVMAE__BF16_GRANULE = 32 };

/* How many rows the next product takes where `left` are left; more than that: copies filled up with zeros. */
static inline int64_t cavmae__bf16_rows(int64_t left, int64_t block) {
    if (left >= block) return block;
    return left >= CAVMAE__BF16_GRANULE ? left / CAVMAE__BF16_GRANULE * CAVMAE__BF16_GRANULE : CAVMAE__BF16_GRANULE;
}

/* Bytes of one worker. */
static inline int64_t cavmae__bf16_rows_scratch(int64_t depth) {
    return 2 * cavmae__round_up(depth, 32) * (CAVMAE__TILE_COLUMNS + CAVMAE__BF16_GRANULE) +
           4 * CAVMAE__BF16_BLOCK * CAVMAE__TILE_COLUMNS + CAVMAE__BF16_SCRATCH;
}
enum {
    CAVMAE__BF16_GRAD_SCRATCH = 4 * (2 * CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS +
                                     CAVMAE__GRAD_DEPTH * CAVMAE__GRAD_ROWS + CAVMAE__GRAD_ROWS) +
                                2 * CAVMAE__BF16_GRANULE * (CAVMAE__GRAD_ROWS + CAVMAE__GRAD_COLUMNS) +
                                CAVMAE__BF16_SCRATCH
};

#endif
