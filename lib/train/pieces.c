#include "pieces.h"

/* Parts start where vectors do. */
enum { ALIGNMENT = 16 };

static void cut_buckets(cavmae__pieces *p, int32_t rank) {
    for (int32_t k = 0; k < p->buckets; k++) {
        const int64_t begin = cavmae__bucket_begin(p, k), count = cavmae__bucket_count(p, k);
        const int64_t part = count / p->ranks / ALIGNMENT * ALIGNMENT, shared = part * p->ranks;
        p->items[k] = (cavmae__piece){begin + rank * part, part, p->parts};
        p->items[p->buckets + k] = (cavmae__piece){begin + shared, count - shared, 0};
        p->parts += part;
    }
    p->total = p->parts;
    for (int32_t k = p->buckets; k < 2 * p->buckets; k++) {
        p->items[k].offset = p->total;
        p->total += p->items[k].count;
    }
}

cavmae_status cavmae__pieces_create(cavmae_context *context, int64_t elements, int64_t bucket_bytes, int32_t rank,
                                    int32_t ranks, int sharded, cavmae__pieces *out) {
    const int64_t unit = (int64_t)ALIGNMENT * ranks;
    cavmae__pieces p = {.elements = elements, .ranks = ranks, .sharded = sharded && ranks > 1};
    p.bucket = bucket_bytes / (int64_t)sizeof(float) / unit * unit;
    if (p.bucket < unit) p.bucket = unit;
    p.buckets = (int32_t)((elements + p.bucket - 1) / p.bucket);
    p.count = p.sharded ? 2 * p.buckets : 1;
    CAVMAE__TRY(CAVMAE__NEW(context, &p.items, p.count));
    if (p.sharded) {
        cut_buckets(&p, rank);
    } else {
        p.items[0] = (cavmae__piece){0, elements, 0};
        p.parts = p.total = elements;
    }
    *out = p;
    return CAVMAE_OK;
}

void cavmae__pieces_free(cavmae_context *context, cavmae__pieces *pieces) { cavmae__free(context, pieces->items); }
