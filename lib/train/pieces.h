/* How the flat buffer of parameters is cut for a world: into buckets, which are sent one by one; and, with the key
 * shard_optimizer, into the pieces that this rank updates, whose moments it alone holds.
 *
 * A bucket is a number of elements, not of parameters, so that ranks get equal parts of it: rank r's is its r-th. What is
 * left of a bucket that does not divide (of the last one) every rank updates, from the same sums to the same bits. */
#ifndef CAVMAE_TRAIN_PIECES_H
#define CAVMAE_TRAIN_PIECES_H

#include "context.h"

/* Elements begin .. begin + count - 1 of the flat buffer; its moments, and its gradient where that is in pieces, too, lie
 * at offset. */
typedef struct cavmae__piece {
    int64_t begin, count, offset;
} cavmae__piece;

typedef struct cavmae__pieces {
    int64_t elements; /* of the flat buffer */
    int64_t bucket;   /* elements of every bucket but the last, which may have fewer */
    int32_t buckets, ranks;
    int32_t sharded;      /* 0: one piece, the whole */
    int32_t count;        /* of items: with shards the part of each bucket, then what is left of each */
    int64_t parts, total; /* elements of the former; of all */
    cavmae__piece *items;
} cavmae__pieces;

static inline int64_t cavmae__bucket_begin(const cavmae__pieces *p, int32_t k) { return k * p->bucket; }
static inline int64_t cavmae__bucket_count(const cavmae__pieces *p, int32_t k) {
    const int64_t left = p->elements - k * p->bucket;
    return left < p->bucket ? left : p->bucket;
}

cavmae_status cavmae__pieces_create(cavmae_context *context, int64_t elements, int64_t bucket_bytes, int32_t rank,
                                    int32_t ranks, int sharded, cavmae__pieces *out);
void cavmae__pieces_free(cavmae_context *context, cavmae__pieces *pieces);

#endif
