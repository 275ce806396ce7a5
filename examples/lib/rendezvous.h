/* Ranks find one another: rank 0 listens, at an address that all know or that it writes into a file which all see, and
 * the others come to it, in any order, some late. Who is no rank of this launch (another job or size, a rank that is there
 * already, who says nothing or something else) is sent away, with a sentence on both sides, and disturbs nobody. Where a
 * rank is missing when the time is up, all that are there fail and say which.
 *
 * Whoever can reach rank 0's port, and knows the job, can take a rank's place: for networks that are trusted. */
#ifndef EXAMPLE_RENDEZVOUS_H
#define EXAMPLE_RENDEZVOUS_H

#include <stddef.h>
#include <stdint.h>

typedef struct meeting {
    int32_t rank, size;
    const char *address; /* of rank 0, with `port`; not read where there is a file */
    int32_t port;
    /* A path on a file system that all see. Files of earlier runs are never believed: a file has the job and a fresh
     * number, and rank 0 welcomes only those who know its own. Rank 0 removes it at the end. */
    const char *file;
    uint64_t job;   /* a number that all ranks of this launch have, and others most likely not */
    double timeout; /* seconds from here until all must be there */
} meeting;

/* sockets [size]: of rank 0 one to each other rank, and [0] is -1; of the others one to rank 0, in [0], the rest is -1.
 * They do not block. 1; or 0 with a sentence in error, and nothing open. */
int32_t meet(const meeting *m, int *sockets, char *error, size_t error_size);

/* data [bytes] of rank 0 to all. 1; or 0 with a sentence. */
int32_t tell_all(const meeting *m, const int *sockets, void *data, size_t bytes, char *error, size_t error_size);

void close_sockets(int *sockets, int32_t size);

#endif
