/* One rank of a world over the system's MPI. All calls but abort come from one thread: no lock, but for one flag. */
#ifndef CAVMAE_MPI_RANKS_H
#define CAVMAE_MPI_RANKS_H

#include <mpi.h>
#include <stdatomic.h>

#include "cavmae.h"

enum {
    /* Bytes that go from one rank to another at once, and are waited for: an MPI counts in int, memory stays bounded, and
     * what comes is still in the cache when it is added. */
    CAVMAE__MPI_MESSAGE = 512 << 10,
    CAVMAE__MPI_SMALL = 4096, /* at most so many go to all by MPI's own all-gather, whose steps may be fewer */
};

typedef struct cavmae__mpi {
    MPI_Comm comm; /* our own: nobody else's messages are on it */
    int rank, size;
    int initialised; /* by us, so it is ours to finalise */
    int broken;      /* a call failed: what was begun is still under way, and no other rank can be relied on */
    atomic_int aborted;
    int64_t slice; /* bytes of a message that are added, fewer with more ranks; >= CAVMAE__MPI_SMALL */
    char *work;    /* [size, slice], what the others sent */
} cavmae__mpi;

/* What is under way, and where its failure is told. */
typedef struct cavmae__mpi_call {
    cavmae__mpi *mpi;
    const char *name; /* "all-reduce" */
    char *error;
    size_t error_size;
} cavmae__mpi_call;

/* A row for each rank, row r [length(r)] at `at` + r stride: `bytes` long, but none goes past `end`, from `at`. */
typedef struct cavmae__mpi_rows {
    char *at;
    int64_t stride, bytes, end;
} cavmae__mpi_rows;

int64_t cavmae__mpi_length(const cavmae__mpi_rows *rows, int rank);

/* Whether a call may begin. PEER: aborted, or one before it failed; STATE: MPI is finalised. */
cavmae_status cavmae__mpi_enter(const cavmae__mpi_call *call);
/* An MPI call's outcome, in its own words: PEER, or NOMEM where that was it. */
cavmae_status cavmae__mpi_check(const cavmae__mpi_call *call, const char *function, int code);
/* Waits until requests [count] are done; PEER once aborted. */
cavmae_status cavmae__mpi_wait(const cavmae__mpi_call *call, const char *function, MPI_Request *requests, int count);
/* Row r of `from` goes to rank r, whose row comes into row r of `to`; a rank's own stays where it is. Lengths of both ends
 * must agree; no row is longer than CAVMAE__MPI_MESSAGE. */
cavmae_status cavmae__mpi_exchange(const cavmae__mpi_call *call, const cavmae__mpi_rows *from,
                                   const cavmae__mpi_rows *to);
/* to [size, bytes] = each rank's from [bytes], which may be its row of `to`. `bytes` <= CAVMAE__MPI_SMALL. */
cavmae_status cavmae__mpi_gather(const cavmae__mpi_call *call, const void *from, void *to, int64_t bytes);

/* Functions of cavmae_collectives. */
cavmae_status cavmae__mpi_all_reduce(void *user, int32_t dtype, void *data, int64_t count, char *error,
                                     size_t error_size);
cavmae_status cavmae__mpi_reduce_scatter(void *user, int32_t dtype, const void *send, void *receive, int64_t count,
                                         char *error, size_t error_size);
cavmae_status cavmae__mpi_all_gather(void *user, const void *send, void *receive, int64_t bytes, char *error,
                                     size_t error_size);
cavmae_status cavmae__mpi_broadcast(void *user, void *data, int64_t bytes, int32_t root, char *error,
                                    size_t error_size);
cavmae_status cavmae__mpi_barrier(void *user, char *error, size_t error_size);

#endif
