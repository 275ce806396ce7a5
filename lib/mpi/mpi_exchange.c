/* What does not compute: waiting, messages between pairs of ranks, gather, broadcast, barrier. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */
#include "mpi_ranks.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    /* Ranks that one sends to and receives from at once: with more, all would send to the same ones. */
    PEERS = 16,
    /* MPI moves data while it is called, so a long message whose waits are slept through takes twice the time. Whoever
     * computes on the same processor gets it by sched_yield until then. */
    SPIN_MICROSECONDS = 1000,
    FIRST_SLEEP = 20,
    LONGEST_SLEEP = 100,
};

/* ---- Faults ---- */

static cavmae_status fail(const cavmae__mpi_call *call, cavmae_status status, const char *sentence) {
    snprintf(call->error, call->error_size, "MPI: rank %d of %d, %s: %s", call->mpi->rank, call->mpi->size, call->name,
             sentence);
    return status;
}

cavmae_status cavmae__mpi_check(const cavmae__mpi_call *call, const char *function, int code) {
    char words[MPI_MAX_ERROR_STRING] = "", sentence[MPI_MAX_ERROR_STRING + 64];
    int length = 0, class = MPI_ERR_OTHER;
    if (code == MPI_SUCCESS) return CAVMAE_OK;
    call->mpi->broken = 1;
    if (MPI_Error_string(code, words, &length) != MPI_SUCCESS) snprintf(words, sizeof words, "error %d", code);
    if (MPI_Error_class(code, &class) != MPI_SUCCESS) class = MPI_ERR_OTHER;
    snprintf(sentence, sizeof sentence, "%s: %s", function, words);
    return fail(call, class == MPI_ERR_NO_MEM ? CAVMAE_E_NOMEM : CAVMAE_E_PEER, sentence);
}

cavmae_status cavmae__mpi_enter(const cavmae__mpi_call *call) {
    int finalised = 0;
    if (atomic_load(&call->mpi->aborted)) return fail(call, CAVMAE_E_PEER, "the world has been aborted");
    if (call->mpi->broken) return fail(call, CAVMAE_E_PEER, "an earlier call failed");
    cavmae_status status = cavmae__mpi_check(call, "MPI_Finalized", MPI_Finalized(&finalised));
    if (status == CAVMAE_OK && finalised)
        status = fail(call, CAVMAE_E_STATE, "MPI is finalised, by the program or with the world that initialised it");
    return status;
}

/* ---- Waiting ---- */

static int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The next sleep's length. */
static int32_t back_off(int64_t began, int32_t sleep) {
    if (microseconds() - began < SPIN_MICROSECONDS) {
        sched_yield();
        return sleep;
    }
    const struct timespec time = {.tv_nsec = sleep * 1000L};
    nanosleep(&time, NULL);
    return sleep < LONGEST_SLEEP ? sleep + FIRST_SLEEP : LONGEST_SLEEP;
}

/* MPI_ERR_IN_STATUS says no more than that one of several failed. */
static int first_error(int code, const MPI_Status *statuses, int count) {
    int class = code;
    if (MPI_Error_class(code, &class) != MPI_SUCCESS || class != MPI_ERR_IN_STATUS) return code;
    for (int i = 0; i < count; i++)
        if (statuses[i].MPI_ERROR != MPI_SUCCESS && statuses[i].MPI_ERROR != MPI_ERR_PENDING)
            return statuses[i].MPI_ERROR;
    return code;
}

cavmae_status cavmae__mpi_wait(const cavmae__mpi_call *call, const char *function, MPI_Request *requests, int count) {
    MPI_Status statuses[2 * PEERS];
    int64_t began = microseconds();
    int32_t sleep = FIRST_SLEEP;
    for (;;) {
        int done = 0, code = MPI_Testall(count, requests, &done, statuses);
        if (code != MPI_SUCCESS) return cavmae__mpi_check(call, function, first_error(code, statuses, count));
        if (done) return CAVMAE_OK;
        if (atomic_load(&call->mpi->aborted)) return fail(call, CAVMAE_E_PEER, "the world has been aborted");
        sleep = back_off(began, sleep);
    }
}

/* ---- Messages between pairs ---- */

int64_t cavmae__mpi_length(const cavmae__mpi_rows *rows, int rank) {
    int64_t left = rows->end - rank * rows->stride;
    return left < 0 ? 0 : left < rows->bytes ? left : rows->bytes;
}

static char *row(const cavmae__mpi_rows *rows, int rank) { return rows->at + rank * rows->stride; }

/* MPI_Ialltoallv counts and addresses in int, from one address; rows of all parameters lie further apart than that. */
cavmae_status cavmae__mpi_exchange(const cavmae__mpi_call *call, const cavmae__mpi_rows *from,
                                   const cavmae__mpi_rows *to) {
    MPI_Request requests[2 * PEERS];
    MPI_Comm comm = call->mpi->comm;
    int rank = call->mpi->rank, size = call->mpi->size;
    for (int first = 1; first < size; first += PEERS) {
        int count = 0;
        for (int step = first; step < size && step < first + PEERS; step++) {
            int source = (rank + size - step) % size, target = (rank + step) % size;
            int64_t coming = cavmae__mpi_length(to, source), going = cavmae__mpi_length(from, target);
            int code = MPI_SUCCESS;
            if (coming) code = MPI_Irecv(row(to, source), (int)coming, MPI_BYTE, source, 0, comm, &requests[count++]);
            if (code == MPI_SUCCESS && going)
                code = MPI_Isend(row(from, target), (int)going, MPI_BYTE, target, 0, comm, &requests[count++]);
            if (code != MPI_SUCCESS) return cavmae__mpi_check(call, "MPI_Irecv, MPI_Isend", code);
        }
        cavmae_status status = cavmae__mpi_wait(call, "MPI_Testall", requests, count);
        if (status != CAVMAE_OK) return status;
    }
    return CAVMAE_OK;
}

/* ---- MPI's own collectives ---- */

cavmae_status cavmae__mpi_gather(const cavmae__mpi_call *call, const void *from, void *to, int64_t bytes) {
    MPI_Request request;
    const char *own = (char *)to + call->mpi->rank * bytes;
    int code = MPI_Iallgather(from == own ? MPI_IN_PLACE : from, (int)bytes, MPI_BYTE, to, (int)bytes, MPI_BYTE,
                              call->mpi->comm, &request);
    if (code != MPI_SUCCESS) return cavmae__mpi_check(call, "MPI_Iallgather", code);
    return cavmae__mpi_wait(call, "MPI_Iallgather", &request, 1);
}

cavmae_status cavmae__mpi_all_gather(void *user, const void *send, void *receive, int64_t bytes, char *error,
                                     size_t error_size) {
    cavmae__mpi *mpi = user;
    const cavmae__mpi_call call = {mpi, "all-gather", error, error_size};
    cavmae_status status = cavmae__mpi_enter(&call);
    char *own = (char *)receive + mpi->rank * bytes;
    if (status != CAVMAE_OK) return status;
    if (bytes <= CAVMAE__MPI_SMALL) return cavmae__mpi_gather(&call, send, receive, bytes);
    if (send != own) memcpy(own, send, (size_t)bytes);
    for (int64_t begin = 0; begin < bytes && status == CAVMAE_OK; begin += CAVMAE__MPI_MESSAGE) {
        int64_t piece = bytes - begin < CAVMAE__MPI_MESSAGE ? bytes - begin : CAVMAE__MPI_MESSAGE;
        const cavmae__mpi_rows from = {own + begin, 0, piece, piece},
                               to = {(char *)receive + begin, bytes, piece, INT64_MAX};
        status = cavmae__mpi_exchange(&call, &from, &to);
    }
    return status;
}

cavmae_status cavmae__mpi_broadcast(void *user, void *data, int64_t bytes, int32_t root, char *error,
                                    size_t error_size) {
    cavmae__mpi *mpi = user;
    const cavmae__mpi_call call = {mpi, "broadcast", error, error_size};
    cavmae_status status = cavmae__mpi_enter(&call);
    for (int64_t begin = 0; begin < bytes && status == CAVMAE_OK; begin += CAVMAE__MPI_MESSAGE) {
        int64_t piece = bytes - begin < CAVMAE__MPI_MESSAGE ? bytes - begin : CAVMAE__MPI_MESSAGE;
        MPI_Request request;
        int code = MPI_Ibcast((char *)data + begin, (int)piece, MPI_BYTE, root, mpi->comm, &request);
        status = cavmae__mpi_check(&call, "MPI_Ibcast", code);
        if (status == CAVMAE_OK) status = cavmae__mpi_wait(&call, "MPI_Ibcast", &request, 1);
    }
    return status;
}

cavmae_status cavmae__mpi_barrier(void *user, char *error, size_t error_size) {
    cavmae__mpi *mpi = user;
    const cavmae__mpi_call call = {mpi, "barrier", error, error_size};
    MPI_Request request;
    cavmae_status status = cavmae__mpi_enter(&call);
    if (status == CAVMAE_OK) status = cavmae__mpi_check(&call, "MPI_Ibarrier", MPI_Ibarrier(mpi->comm, &request));
    if (status == CAVMAE_OK) status = cavmae__mpi_wait(&call, "MPI_Ibarrier", &request, 1);
    return status;
}
