/* Gradients between the ranks of a world: each bucket is sent as soon as a backward pass has finished all parameters in
 * it, while the pass goes on; then every rank has the sums, or those of its own pieces. */
#ifndef CAVMAE_TRAIN_EXCHANGE_H
#define CAVMAE_TRAIN_EXCHANGE_H

#include "layer.h"
#include "pieces.h"
#include "world.h"

typedef struct cavmae__exchange {
    cavmae_world *world; /* not owned, as all that is given to _create */
    cavmae_model *model;
    const cavmae__pieces *pieces;
    float *gradients; /* flat */
    const uint8_t *has_gradient;
    int32_t dtype;           /* on the way */
    void *narrow;            /* device [elements] of dtype; NULL: float32 */
    float *own;              /* device [pieces->total] this rank's pieces; NULL: not sharded */
    int32_t *waiting;        /* [buckets] parameters that this pass has not finished */
    uint8_t *complete;       /* [parameters] of this pass */
    uint8_t *handled, *sent; /* [buckets] in this pass; sent: to the others, not without a gradient */
    int32_t *order;          /* [buckets] in which a pass finishes them; those that it does not tell are left out */
    int32_t order_count;
    uint8_t *known_gradients;   /* [parameters] that have one in every pass */
    int rehearsing;             /* this pass is to show the order, and sends nothing */
    int64_t step;               /* of the pass, for messages */
    cavmae__gradient_sink sink; /* what the pass tells */
} cavmae__exchange;

cavmae_status cavmae__exchange_create(cavmae_world *world, cavmae_model *model, const cavmae__pieces *pieces,
                                      int32_t dtype, float *gradients, const uint8_t *has_gradient,
                                      cavmae__exchange **out);
void cavmae__exchange_free(cavmae__exchange *exchange);

/* What a pass is to tell; NULL: nothing. */
static inline const cavmae__gradient_sink *cavmae__exchange_sink(const cavmae__exchange *exchange) {
    return exchange ? &exchange->sink : NULL;
}

/* Before the pass that shows in which order buckets are finished: once, before any other. */
void cavmae__exchange_rehearse(cavmae__exchange *exchange);
/* Before a pass whose gradients are to be sent. */
void cavmae__exchange_start(cavmae__exchange *exchange, int64_t step);
/* In the place of a pass that does not take place: all ranks send in the same order. */
cavmae_status cavmae__exchange_without_pass(cavmae__exchange *exchange);
/* After it: sends what is left, and waits. Then cavmae__exchange_sums has the world's sums, laid out as the pieces say. */
cavmae_status cavmae__exchange_finish(cavmae__exchange *exchange);
const float *cavmae__exchange_sums(const cavmae__exchange *exchange);

/* After an update of the pieces: everybody's parameters to everybody. Nothing without shards. */
cavmae_status cavmae__exchange_parameters(cavmae__exchange *exchange);

/* x, in pieces (a moment), whole on rank 0: full [elements] there, NULL elsewhere. Collective. */
cavmae_status cavmae__exchange_collect(cavmae__exchange *exchange, const float *x, float *full, const char *what);

/* full [elements] = sum of all ranks' flat gradients, which stay as they are. Collective. */
cavmae_status cavmae__exchange_total(cavmae__exchange *exchange, float *full);

#endif
