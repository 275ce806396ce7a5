/* How the linear layers' products are cut into tasks, and the scratch that a task takes. Sizes do not enter into
 * results: product.h says why. */
#ifndef CAVMAE_BACKEND_CPU_LINEAR_TILES_H
#define CAVMAE_BACKEND_CPU_LINEAR_TILES_H

#include "cpu_backend.h"

/* x times weight: a task packs `columns` of the weight, and takes its rows `TILE_ROWS` at a time, with sums over
 * TILE_DEPTH elements: all that is in use at once fits a core's second-level cache. */
enum { CAVMAE__TILE_ROWS = 192, CAVMAE__TILE_COLUMNS = 256, CAVMAE__TILE_DEPTH = 384 };

/* The weight's gradient: a task makes one tile of it, from GRAD_DEPTH rows at a time. */
enum { CAVMAE__GRAD_ROWS = 384, CAVMAE__GRAD_COLUMNS = 512, CAVMAE__GRAD_DEPTH = 128 };

/* Floats of one worker. */
static inline int64_t cavmae__rows_scratch(int64_t depth) {
    return depth * (CAVMAE__TILE_COLUMNS + CAVMAE__TILE_ROWS) + CAVMAE__TILE_ROWS * CAVMAE__TILE_COLUMNS;
}
static inline int64_t cavmae__weight_grad_scratch(void) {
    return (CAVMAE__GRAD_ROWS + CAVMAE__GRAD_COLUMNS) * CAVMAE__GRAD_DEPTH + CAVMAE__GRAD_ROWS * CAVMAE__GRAD_COLUMNS +
           2 * CAVMAE__GRAD_ROWS;
}

#endif
