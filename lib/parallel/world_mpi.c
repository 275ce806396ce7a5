/* The system's MPI, through libcavmae-mpi.so. All of it, from its initialisation to its end, is called in the world's queue
 * thread, so that an MPI that knows one thread only is good enough. The plug-in stays loaded: MPI libraries do not survive
 * being unloaded. */
#include <stdio.h>
#include <string.h>

#include "plugin.h"
#include "world_internal.h"

typedef cavmae_status mpi_plugin(const void *comm, cavmae_collectives *out, int32_t *rank, int32_t *size, char *error,
                                 size_t error_size);

typedef struct mpi_arguments {
    mpi_plugin *open;
    const void *comm;
} mpi_arguments;

/* In the queue thread; the thread that makes the world waits for it. */
static cavmae_status open_mpi(cavmae_world *world, void *arg, char *error, size_t error_size) {
    const mpi_arguments *arguments = arg;
    cavmae_collectives host = {.struct_size = sizeof host};
    int32_t rank = 0, size = 0;
    cavmae_status status = arguments->open(arguments->comm, &host, &rank, &size, error, error_size);
    if (status == CAVMAE_OK && (rank < 0 || rank >= size)) {
        snprintf(error, error_size, "MPI: rank %d of %d", (int)rank, (int)size);
        status = CAVMAE_E_BACKEND;
    }
    if (status != CAVMAE_OK) return status;
    world->host = host;
    world->name = host.name;
    world->rank = rank;
    world->size = size;
    return CAVMAE_OK;
}

cavmae_status cavmae_world_create_mpi(cavmae_context *context, const cavmae_world_options *options, const void *comm,
                                      cavmae_world **out) {
    cavmae_world_options o;
    mpi_arguments arguments = {.comm = comm};
    void *handle, *symbol;
    if (!context || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_mpi: %s is NULL", context ? "out" : "context");
    CAVMAE__TRY(cavmae__world_options_in(options, 0, &o));
    CAVMAE__TRY(cavmae__plugin_open(context, "libcavmae-mpi.so", "cavmae_mpi_plugin", &handle, &symbol));
    memcpy(&arguments.open, &symbol, sizeof symbol); /* ISO C has no cast from an object's pointer to a function's */
    const cavmae__world_setup setup = {.name = "mpi",
                                       .size = 1,
                                       .timeout = o.timeout,
                                       .watch_dir = o.watch_dir,
                                       .open = open_mpi,
                                       .open_arg = &arguments};
    return cavmae__world_make(context, &setup, out);
}
