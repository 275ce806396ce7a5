/* Collectives over TCP, for a world (cavmae_world_create) of processes on CPUs where there is no MPI: all goes through
 * rank 0, which adds in the order of the ranks, so that the same world gives the same bits. */
#ifndef EXAMPLE_TCP_CARRIER_H
#define EXAMPLE_TCP_CARRIER_H

#include "cavmae.h"

/* sockets [size] as meet() (rendezvous.h) gives them; they are the carrier's from here on. To be given to
 * cavmae_world_create, or else closed by its `close`. */
cavmae_collectives open_tcp_carrier(int32_t rank, int32_t size, const int *sockets);

#endif
