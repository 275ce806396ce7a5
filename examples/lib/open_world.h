/* A program's place among the others that a launcher started with it, and the world (cavmae.h) that they make together.
 *
 *     world_options w = {0};
 *     const option options[] = {..., WORLD_OPTIONS(w), {0}};
 *     read_options(argc, argv, "...", options);
 *     cavmae_context *context = open_context_in(&w, device, threads, NULL);
 *     cavmae_world *world = open_world(&w, context, out_folder);
 *     ...                                   w.rank of w.size
 *     close_world(&w);
 */
#ifndef EXAMPLE_OPEN_WORLD_H
#define EXAMPLE_OPEN_WORLD_H

#include "cavmae.h"
#include "program.h"

typedef struct world_options {
    const char *kind;       /* --world; NULL: none */
    const char *rendezvous; /* --rendezvous; NULL: CAVMAE_RENDEZVOUS, or what the environment says */
    int32_t timeout;        /* --timeout, seconds; 0: 30 */
    /* Set by open_context_in, and again by open_world where MPI knows better. */
    int32_t rank, size; /* 0 of 1 without a world */
    cavmae_world *world;
} world_options;

/* Three entries of a program's options. */
#define WORLD_OPTIONS(w)                                                                                               \
    {.name = "--world",                                                                                                \
     .value = "W",                                                                                                     \
     .help = "none, auto, tcp or mpi: work with the other ranks that torchrun, srun or mpirun started (none)",         \
     .text = &(w).kind},                                                                                               \
        {.name = "--rendezvous",                                                                                       \
         .value = "R",                                                                                                 \
         .help = "where ranks meet: HOST:PORT or file:PATH (as the launcher says)",                                    \
         .text = &(w).rendezvous},                                                                                     \
    {                                                                                                                  \
        .name = "--timeout", .value = "SECONDS", .help = "how long ranks wait for one another (30)",                   \
        .number = &(w).timeout                                                                                         \
    }

/* As open_context, for this rank: device "cuda" is the GPU of the rank's number on its machine, threads 0 the rank's
 * share of the machine's CPUs. From here on messages begin with "rank 2: ", and progress is shown by rank 0 alone. */
cavmae_context *open_context_in(world_options *w, const char *device, int32_t threads, int32_t (*cancel)(void *user));

/* Meets the others; NULL where there are none. Where die() or check() end the program from here on, the others are told
 * why first. watch_dir may be NULL: as cavmae_world_options. */
cavmae_world *open_world(world_options *w, cavmae_context *context, const char *watch_dir);
void close_world(world_options *w);

#endif
