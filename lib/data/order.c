#include "order.h"

#include "philox.h"

/* Fisher and Yates' shuffle from the identity, the place to exchange with drawn among the i + `own` first: with itself
 * among them every permutation is as likely; without it, every cycle (Sattolo 1986). */
static void exchange(uint32_t *order, uint32_t count, uint32_t own, const cavmae__philox *random) {
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = cavmae__philox_below(random, i - 1, i - 1 + own), kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
}

void cavmae__order_shuffle(uint32_t *order, uint32_t count, uint64_t seed, int64_t epoch) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_SHUFFLE, (uint64_t)epoch, 0);
    exchange(order, count, 1, &random);
}

void cavmae__order_pairs(uint32_t *other, uint32_t count, uint64_t seed) {
    cavmae__philox random = cavmae__philox_key(seed, CAVMAE__PURPOSE_PAIRS, 0, 0);
    exchange(other, count, 0, &random);
}
