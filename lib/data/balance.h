/* Balanced sampling: entries drawn with replacement, rare classes' more often, as the reference does with
 * torch.utils.data.WeightedRandomSampler. */
#ifndef CAVMAE_DATA_BALANCE_H
#define CAVMAE_DATA_BALANCE_H

#include "manifest.h"

typedef struct cavmae__balance cavmae__balance;

/* Reads all entries of a manifest with `labels` once. ARG: none of them has a label. */
cavmae_status cavmae__balance_create(cavmae_context *context, const cavmae__manifest *manifest,
                                     const cavmae__labels *labels, cavmae__balance **out);
void cavmae__balance_free(cavmae__balance *balance);

/* As many draws as there are entries: a function of (seed, epoch). */
void cavmae__balance_order(const cavmae__balance *balance, uint32_t *order, uint64_t seed, int64_t epoch);

#endif
