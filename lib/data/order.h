/* Orders of a data set's entries, as functions of the seed. */
#ifndef CAVMAE_DATA_ORDER_H
#define CAVMAE_DATA_ORDER_H

#include <stdint.h>

/* A permutation of 0 to count - 1, all equally likely, for each (seed, epoch). */
void cavmae__order_shuffle(uint32_t *order, uint32_t count, uint64_t seed, int64_t epoch);

/* For each entry another one, each taken once: a permutation that is one cycle, all such equally likely. count > 1. */
void cavmae__order_pairs(uint32_t *other, uint32_t count, uint64_t seed);

#endif
