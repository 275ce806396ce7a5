/* The loader's place, for checkpoints. */
#ifndef CAVMAE_DATA_LOADER_H
#define CAVMAE_DATA_LOADER_H

#include "context.h"

/* The place right after the last batch handed out: position is the index of the next entry in the epoch's order (not a
 * count of batches, which broken samples would change); broken the samples that this loader skipped until there. In a
 * world epoch and position are the same on every rank. */
void cavmae__loader_state(const cavmae_loader *loader, int64_t *epoch, int64_t *position, int64_t *broken);

/* MISMATCH where that is no place of this manifest. */
cavmae_status cavmae__loader_check_state(const cavmae_loader *loader, int64_t epoch, int64_t position, int64_t broken);

/* Goes to such a place, so that the next batch is exactly the one that came after it. Fails only as the check does. */
cavmae_status cavmae__loader_set_state(cavmae_loader *loader, int64_t epoch, int64_t position, int64_t broken);

#endif
