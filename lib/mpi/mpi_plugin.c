/* libcavmae-mpi.so: cavmae_collectives over the system's MPI, of standard 3.0 or later. */
#include "mpi_ranks.h"

#include <stdio.h>
#include <stdlib.h>

CAVMAE_API cavmae_status cavmae_mpi_plugin(const void *comm, cavmae_collectives *out, int32_t *rank, int32_t *size,
                                           char *error, size_t error_size);

static cavmae_status fail(const cavmae__mpi_call *call, cavmae_status status, const char *sentence) {
    snprintf(call->error, call->error_size, "MPI: %s", sentence);
    return status;
}

enum { WORK = 8 << 20, SMALLEST_SLICE = 16 << 10 };

/* ---- Initialising ---- */

static cavmae_status check_threads(const cavmae__mpi_call *call, int level) {
    int is_main = 0;
    cavmae_status status = cavmae__mpi_check(call, "MPI_Is_thread_main", MPI_Is_thread_main(&is_main));
    if (status != CAVMAE_OK || level >= MPI_THREAD_SERIALIZED || is_main) return status;
    return fail(call, CAVMAE_E_UNSUPPORTED,
                "the program initialised it for calls of one thread alone, and the world's come from another: it must "
                "ask MPI_Init_thread for MPI_THREAD_SERIALIZED, or MPI_THREAD_MULTIPLE");
}

/* MULTIPLE is asked for because a second world has a thread of its own; a single world does with what there is. */
static cavmae_status initialise(const cavmae__mpi_call *call) {
    int done = 0, level = MPI_THREAD_SINGLE;
    cavmae_status status = cavmae__mpi_check(call, "MPI_Finalized", MPI_Finalized(&done));
    if (status != CAVMAE_OK) return status;
    if (done)
        return fail(call, CAVMAE_E_STATE,
                    "it is already finalised, by the program or with an earlier world, and cannot be used again");
    status = cavmae__mpi_check(call, "MPI_Initialized", MPI_Initialized(&done));
    if (status != CAVMAE_OK) return status;
    if (done) {
        status = cavmae__mpi_check(call, "MPI_Query_thread", MPI_Query_thread(&level));
        return status == CAVMAE_OK ? check_threads(call, level) : status;
    }
    status = cavmae__mpi_check(call, "MPI_Init_thread", MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level));
    if (status != CAVMAE_OK) return status;
    call->mpi->initialised = 1;
    /* Open MPI tells failures of its collectives to this one, whatever their own communicator says. */
    return cavmae__mpi_check(call, "MPI_Comm_set_errhandler",
                             MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
}

static cavmae_status duplicate(const cavmae__mpi_call *call, MPI_Comm given) {
    cavmae__mpi *mpi = call->mpi;
    int between_groups = 0;
    if (given == MPI_COMM_NULL) return fail(call, CAVMAE_E_ARG, "the communicator is MPI_COMM_NULL");
    cavmae_status status = cavmae__mpi_check(call, "MPI_Comm_test_inter", MPI_Comm_test_inter(given, &between_groups));
    if (status != CAVMAE_OK) return status;
    if (between_groups) return fail(call, CAVMAE_E_UNSUPPORTED, "the communicator is one between two groups");
    status = cavmae__mpi_check(call, "MPI_Comm_dup", MPI_Comm_dup(given, &mpi->comm));
    if (status != CAVMAE_OK) return status;
    status = cavmae__mpi_check(call, "MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN));
    if (status != CAVMAE_OK) return status;
    status = cavmae__mpi_check(call, "MPI_Comm_rank", MPI_Comm_rank(mpi->comm, &mpi->rank));
    if (status != CAVMAE_OK) return status;
    return cavmae__mpi_check(call, "MPI_Comm_size", MPI_Comm_size(mpi->comm, &mpi->size));
}

static cavmae_status make_room(const cavmae__mpi_call *call) {
    cavmae__mpi *mpi = call->mpi;
    int64_t slice = WORK / mpi->size;
    mpi->slice = slice > CAVMAE__MPI_MESSAGE ? CAVMAE__MPI_MESSAGE : slice < SMALLEST_SLICE ? SMALLEST_SLICE : slice;
    mpi->slice -= mpi->slice % 64; /* whole elements, and lines of the cache */
    mpi->work = malloc((size_t)(mpi->size * mpi->slice));
    return mpi->work ? CAVMAE_OK : fail(call, CAVMAE_E_NOMEM, "out of memory for what the other ranks send");
}

/* ---- Closing ---- */

static void abort_calls(void *user) {
    cavmae__mpi *mpi = user;
    atomic_store(&mpi->aborted, 1);
}

/* After a failure MPI may still write into memory that it was given, and would wait for ranks that are gone: it is left
 * as it is. */
static void close_ranks(void *user) {
    cavmae__mpi *mpi = user;
    int finalised = 0;
    if (!mpi->broken && !atomic_load(&mpi->aborted)) {
        MPI_Finalized(&finalised);
        if (!finalised && mpi->comm != MPI_COMM_NULL) MPI_Comm_free(&mpi->comm);
        if (!finalised && mpi->initialised) MPI_Finalize();
        free(mpi->work);
    }
    free(mpi);
}

/* The plug-in's one symbol. */
cavmae_status cavmae_mpi_plugin(const void *comm, cavmae_collectives *out, int32_t *rank, int32_t *size, char *error,
                                size_t error_size) {
    cavmae__mpi *mpi = calloc(1, sizeof *mpi);
    const cavmae__mpi_call call = {mpi, "opening", error, error_size};
    if (!mpi) return fail(&call, CAVMAE_E_NOMEM, "out of memory");
    mpi->comm = MPI_COMM_NULL;
    mpi->rank = -1;
    atomic_init(&mpi->aborted, 0);
    cavmae_status status = initialise(&call);
    if (status == CAVMAE_OK) status = duplicate(&call, comm ? *(const MPI_Comm *)comm : MPI_COMM_WORLD);
    if (status == CAVMAE_OK) status = make_room(&call);
    if (status != CAVMAE_OK) {
        close_ranks(mpi);
        return status;
    }
    *out = (cavmae_collectives){.struct_size = sizeof *out,
                                .version = 1,
                                .name = "mpi",
                                .user = mpi,
                                .all_reduce = cavmae__mpi_all_reduce,
                                .reduce_scatter = cavmae__mpi_reduce_scatter,
                                .all_gather = cavmae__mpi_all_gather,
                                .broadcast = cavmae__mpi_broadcast,
                                .barrier = cavmae__mpi_barrier,
                                .abort = abort_calls,
                                .close = close_ranks};
    *rank = mpi->rank;
    *size = mpi->size;
    return CAVMAE_OK;
}
