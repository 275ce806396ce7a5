/* What a launcher tells a process, through the environment, about its place among those that it started. */
#ifndef EXAMPLE_WORLD_ENV_H
#define EXAMPLE_WORLD_ENV_H

#include <stddef.h>
#include <stdint.h>

typedef struct world_env {
    const char *launcher; /* "torchrun" (or whoever sets its variables), "PMI", "Open MPI", "Slurm"; NULL: none */
    int32_t mpi;          /* 1: it can bring MPI's processes together */
    int32_t rank, size;   /* 0 of 1 where nothing is said */
    int32_t local_rank;   /* among those on this machine; -1: not said */
    int32_t local_size;   /* how many there are on this machine; 0: not said */
    char address[256];    /* where rank 0 can be reached, a name or a literal address; "": not said */
    int32_t port;         /* 0: not said */
    char job[256];        /* the same for all ranks of one launch, and another for others; "": not said */
} world_env;

/* 1; or 0, and a sentence that names the variable which is not a number, or contradicts another one. */
int32_t read_world_env(world_env *env, char *error, size_t error_size);

/* The first of a list of hosts as Slurm writes it: "node[03-07,9],login" is node03. 0: it is no such list. */
int32_t first_host(const char *list, char *host, size_t size);

/* "127.0.0.1", "::1", "localhost" and their like: ranks that meet there are on one machine. */
int32_t is_loopback(const char *address);

/* FNV-1a, to make numbers of names. */
uint64_t hash_text(const char *text, uint64_t before);

#endif
