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

#endif
