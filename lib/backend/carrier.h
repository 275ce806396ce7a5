/* What moves data between the ranks of a world when it lies in a device's memory: the other half of a backend, opened by
 * its plug-in. Worlds on the host have the caller's functions instead (cavmae_collectives); world.h is over both. */
#ifndef CAVMAE_BACKEND_CARRIER_H
#define CAVMAE_BACKEND_CARRIER_H

#include "backend.h"

enum {
    CAVMAE__ALL_REDUCE,     /* data [count] = sum over the ranks */
    CAVMAE__REDUCE_SCATTER, /* data [count] = sum over the ranks of their send [size, count], row `rank` */
    CAVMAE__ALL_GATHER,     /* data [size, count] = each rank's send [count] */
    CAVMAE__BROADCAST,      /* data [count] = root's */
    CAVMAE__BARRIER
};

/* dtype: CAVMAE_FLOAT32, FLOAT64 or BFLOAT16; what is not added may also be CAVMAE_UINT8. send may be the rank's row of
 * data (all-gather), or data the rank's row of send (reduce-scatter). */
typedef struct cavmae__collective {
    int32_t kind, dtype, root;
    const void *send;
    void *data;
    int64_t count;
    char what[64];   /* for messages, equal on all ranks: "gradients 3 of 27 of step 12"; the world compares it */
    double patience; /* so many times the world's timeout; 0: 1 */
} cavmae__collective;

typedef struct cavmae__carrier_options {
    int32_t rank, size;
    double timeout;    /* seconds that opening may take */
    const uint8_t *id; /* [CAVMAE_NCCL_ID_SIZE] */
} cavmae__carrier_options;

/* Of one rank. begin, order come from the thread that uses the world; poll and abort from the thread that watches it,
 * possibly at the same time. */
typedef struct cavmae__carrier cavmae__carrier;
typedef struct cavmae__carrier_ops {
    uint32_t struct_size;
    const char *name;
    /* In a stream of its own, after all operations that the backend has been given so far; returns at once. */
    cavmae_status (*begin)(cavmae__carrier *, const cavmae__collective *);
    /* Operations that the backend is given from now on come after all that was begun. The host does not wait. */
    cavmae_status (*order)(cavmae__carrier *);
    /* *ended: how many of those begun are done. PEER or BACKEND: what the carrier knows to have failed. */
    cavmae_status (*poll)(cavmae__carrier *, int64_t *ended);
    /* Ends all that is under way, so that nothing waits for the device for ever. */
    void (*abort)(cavmae__carrier *);
    void (*close)(cavmae__carrier *);
} cavmae__carrier_ops;

/* First member of every carrier's own struct. */
struct cavmae__carrier {
    const cavmae__carrier_ops *ops;
};

#endif
