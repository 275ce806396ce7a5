/* Worlds as the library's own code uses them: collectives that are begun, go on beside the caller's work, and are waited
 * for. Memory is the host's, or, in a world of GPUs (cavmae__world_on_device), the backend's.
 *
 * Calls come from one thread at a time, collectives in the same order on every rank. On the host each is preceded by a
 * comparison of what the ranks are about to do (their `what`, kind, dtype, count), and carries failures: a rank whose
 * work failed says so with cavmae__world_fail in the next collective's place, whose others then fail with PEER and its
 * sentence; the world goes on afterwards with the next step (on a device it is broken instead). */
#ifndef CAVMAE_PARALLEL_WORLD_H
#define CAVMAE_PARALLEL_WORLD_H

#include "carrier.h"

/* NULL is a world of one, alone: rank 0, size 1. */
cavmae_world *cavmae__world_ref(cavmae_world *world); /* NULL: NULL */
int cavmae__world_on_device(const cavmae_world *world);
/* The context that the world was made with; models in it must be of the same one where it is on a device. */
cavmae_context *cavmae__world_context(const cavmae_world *world);

/* A step's first collective clears what an earlier step's failure left, on hosts. */
void cavmae__world_new_step(cavmae_world *world);

/* Begins a collective: on the host it goes to the world's thread; its memory is the world's until it is waited for. */
cavmae_status cavmae__world_begin(cavmae_world *world, const cavmae__collective *collective);
/* Waits for all that were begun: on a device the backend's later operations do, and the host does not. Fails with the
 * first failure of any. */
cavmae_status cavmae__world_wait(cavmae_world *world);
/* Both. */
cavmae_status cavmae__world_run(cavmae_world *world, const cavmae__collective *collective);
/* On a device: whether all that was begun, and is done by now, went well. To be asked after a download, before what it
 * gave is believed. */
cavmae_status cavmae__world_check(cavmae_world *world);

#endif
