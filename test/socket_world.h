/* A caller's functions for a world, over socket pairs: rank 0 collects what the others send and sends the result back. Made
 * before ranks part, as threads or processes; whoever is silent, or killed, is waited for without end, because everybody
 * holds all ends. */
#ifndef CAVMAE_TEST_SOCKET_WORLD_H
#define CAVMAE_TEST_SOCKET_WORLD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cavmae.h"

enum { SOCKET_RANKS = 4 };

typedef struct socket_rank {
    int32_t rank, size;
    int peer[SOCKET_RANKS]; /* rank 0: of each other rank; others: [0] */
    int64_t calls, fail_at; /* the call that fails, from 1; 0: none */
    int closed;
} socket_rank;

static inline void socket_ranks(int32_t size, socket_rank *ranks) {
    memset(ranks, 0, (size_t)size * sizeof *ranks);
    for (int32_t r = 0; r < size; r++) {
        int ends[2];
        ranks[r].rank = r;
        ranks[r].size = size;
        if (r == 0) continue;
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) exit(1);
        ranks[0].peer[r] = ends[0];
        ranks[r].peer[0] = ends[1];
    }
}

static inline void socket_ranks_close(int32_t size, socket_rank *ranks) {
    for (int32_t r = 1; r < size; r++) {
        close(ranks[0].peer[r]);
        close(ranks[r].peer[0]);
    }
}

static inline int socket_send(int end, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t part = send(end, (const char *)data + done, size - done, MSG_NOSIGNAL);
        if (part <= 0) return 0;
        done += (size_t)part;
    }
    return 1;
}

static inline int socket_receive(int end, void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t part = recv(end, (char *)data + done, size - done, 0);
        if (part <= 0) return 0;
        done += (size_t)part;
    }
    return 1;
}

static inline cavmae_status socket_all_gather(void *user, const void *send, void *receive, int64_t bytes, char *error,
                                              size_t error_size) {
    socket_rank *self = user;
    size_t size = (size_t)bytes;
    char *rows = receive;
    int good = 1;
    if (++self->calls == self->fail_at) {
        snprintf(error, error_size, "the socket is on fire");
        return CAVMAE_E_IO;
    }
    if (self->rank > 0) {
        good = socket_send(self->peer[0], send, size) && socket_receive(self->peer[0], rows, (size_t)self->size * size);
    } else {
        if (rows != send && size) memcpy(rows, send, size);
        for (int32_t r = 1; r < self->size && good; r++)
            good = socket_receive(self->peer[r], rows + (size_t)r * size, size);
        for (int32_t r = 1; r < self->size && good; r++)
            good = socket_send(self->peer[r], rows, (size_t)self->size * size);
    }
    if (!good) snprintf(error, error_size, "the socket is closed");
    return good ? CAVMAE_OK : CAVMAE_E_IO;
}

/* out [count] = sum of rows [size, count]; float32 and float64. */
static inline void socket_sum(int32_t dtype, int32_t size, const void *rows, int64_t stride, int64_t count, void *out) {
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t r = 0; r < size; r++)
            sum += dtype == CAVMAE_FLOAT64 ? ((const double *)rows)[r * stride + i]
                                           : (double)((const float *)rows)[r * stride + i];
        if (dtype == CAVMAE_FLOAT64)
            ((double *)out)[i] = sum;
        else
            ((float *)out)[i] = (float)sum;
    }
}

static inline cavmae_status socket_all_reduce(void *user, int32_t dtype, void *data, int64_t count, char *error,
                                              size_t error_size) {
    const socket_rank *self = user;
    size_t bytes = (size_t)count * (dtype == CAVMAE_FLOAT64 ? 8 : 4);
    void *rows = malloc((size_t)self->size * bytes + 1);
    if (!rows) return CAVMAE_E_NOMEM;
    cavmae_status status = socket_all_gather(user, data, rows, (int64_t)bytes, error, error_size);
    if (status == CAVMAE_OK) socket_sum(dtype, self->size, rows, count, count, data);
    free(rows);
    return status;
}

static inline cavmae_status socket_reduce_scatter(void *user, int32_t dtype, const void *send, void *receive,
                                                  int64_t count, char *error, size_t error_size) {
    const socket_rank *self = user;
    const size_t element = dtype == CAVMAE_FLOAT64 ? 8 : 4;
    const int64_t all = count * self->size;
    char *rows = malloc((size_t)(self->size * all) * element + 1);
    if (!rows) return CAVMAE_E_NOMEM;
    cavmae_status status = socket_all_gather(user, send, rows, (int64_t)((size_t)all * element), error, error_size);
    if (status == CAVMAE_OK)
        socket_sum(dtype, self->size, rows + (size_t)(self->rank * count) * element, all, count, receive);
    free(rows);
    return status;
}

static inline cavmae_status socket_broadcast(void *user, void *data, int64_t bytes, int32_t root, char *error,
                                             size_t error_size) {
    const socket_rank *self = user;
    char *rows = malloc((size_t)(self->size * bytes) + 1);
    if (!rows) return CAVMAE_E_NOMEM;
    cavmae_status status = socket_all_gather(user, data, rows, bytes, error, error_size);
    if (status == CAVMAE_OK && bytes) memcpy(data, rows + root * bytes, (size_t)bytes);
    free(rows);
    return status;
}

static inline cavmae_status socket_barrier(void *user, char *error, size_t error_size) {
    char here = 0, all[SOCKET_RANKS];
    return socket_all_gather(user, &here, all, 1, error, error_size);
}

static inline void socket_abort(void *user) {
    const socket_rank *self = user;
    for (int32_t r = 0; r < (self->rank ? 1 : self->size); r++)
        if (r || self->rank) shutdown(self->peer[r], SHUT_RDWR);
}

static inline void socket_close(void *user) { ((socket_rank *)user)->closed++; }

static inline cavmae_collectives socket_record(socket_rank *rank) {
    return (cavmae_collectives){.struct_size = sizeof(cavmae_collectives),
                                .version = 1,
                                .name = "sockets",
                                .user = rank,
                                .all_reduce = socket_all_reduce,
                                .reduce_scatter = socket_reduce_scatter,
                                .all_gather = socket_all_gather,
                                .broadcast = socket_broadcast,
                                .barrier = socket_barrier,
                                .abort = socket_abort,
                                .close = socket_close};
}

#endif
