/* What one worker of attention keeps at hand: one head of one segment, repacked as float32, and a block of queries.
 * Widths are padded to the widest vector, for all instruction sets alike. */
#ifndef CAVMAE_BACKEND_CPU_ATTENTION_SCRATCH_H
#define CAVMAE_BACKEND_CPU_ATTENTION_SCRATCH_H

#include "cpu_backend.h"

enum { CAVMAE__QUERY_BLOCK = 72, CAVMAE__ATTENTION_PAD = 64 };

static inline int64_t cavmae__attention_scratch(int64_t length, int64_t head_dim, int backward) {
    int64_t long_pad = cavmae__round_up(length, CAVMAE__ATTENTION_PAD),
            short_pad = cavmae__round_up(head_dim, CAVMAE__ATTENTION_PAD);
    int64_t forward = 2 * long_pad * short_pad + CAVMAE__QUERY_BLOCK * (long_pad + 2 * short_pad);
    return backward ? 5 * long_pad * short_pad + CAVMAE__QUERY_BLOCK * (2 * long_pad + 4 * short_pad) : forward;
}

#endif
