#define _GNU_SOURCE
#include "tcp_carrier.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"
#include "socket_io.h"

/* A message is a header and data. Header: a mark, operation, dtype, 0 (4 bytes each), the collective's number, its bytes
 * in all, this message's bytes (8 each). Both ends know which one comes next, so that anything else is a fault; but for
 * FAILURE, whose data is a sentence, after which nothing comes. */
enum { HEADER = 40, SENTENCE = 400, PIECE = 1 << 20, PIECES = 32 };
enum { REDUCE = 1, SCATTER, GATHER, BROADCAST, FAILURE };
static const uint32_t mark = 0x6D766163; /* "cavm" */

/* One message of one connection, as far as it has gone. */
typedef struct message {
    int32_t active;
    size_t done, bytes; /* of header and data */
    uint8_t header[HEADER], expected[HEADER];
    char *data;
} message;

typedef struct carrier {
    int32_t rank, size;
    int *sockets;
    message *in, *out; /* [size] */
    struct pollfd *ready;
    int wake[2]; /* abort() writes, and every wait sees it */
    size_t piece;
    char *pieces, *sum; /* of rank 0: [size, piece], [piece] */
    float *wide;        /* of bfloat16 */
    int32_t operation, dtype;
    uint64_t number, total; /* of the collective under way */
    char failure[SENTENCE]; /* "": none; all calls after it fail with it */
} carrier;

/* ---- Failures ---- */

static void put_header(const carrier *c, uint8_t *header, int32_t operation, size_t bytes) {
    memset(header, 0, HEADER);
    put_number(header, mark, 4);
    put_number(header + 4, (uint64_t)operation, 4);
    put_number(header + 8, (uint64_t)c->dtype, 4);
    put_number(header + 16, c->number, 8);
    put_number(header + 24, c->total, 8);
    put_number(header + 32, bytes, 8);
}

/* Tells all that are still there, after what is on its way to them, and ends it with them. `lost`: nobody is there. */
static int32_t fail(carrier *c, int32_t lost, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int32_t fail(carrier *c, int32_t lost, const char *format, ...) {
    uint8_t told[HEADER + SENTENCE];
    char why[64];
    va_list args;
    va_start(args, format);
    vsnprintf(c->failure, sizeof c->failure, format, args);
    va_end(args);
    const size_t length = strlen(c->failure);
    put_header(c, told, FAILURE, length);
    memcpy(told + HEADER, c->failure, length);
    const double until = now() + 2;
    for (int32_t r = 0; r < c->size; r++) {
        message *m = &c->out[r];
        if (c->sockets[r] < 0) continue;
        int32_t whole = r != lost;
        if (whole && m->active && m->done > 0 && m->done < HEADER) {
            whole = send_all(c->sockets[r], m->header + m->done, HEADER - m->done, until, why, sizeof why);
            m->done = HEADER;
        }
        if (whole && m->active && m->done >= HEADER)
            whole = send_all(c->sockets[r], m->data + (m->done - HEADER), m->bytes - m->done, until, why, sizeof why);
        if (whole) send_all(c->sockets[r], told, HEADER + length, until, why, sizeof why);
        shutdown(c->sockets[r], SHUT_WR);
    }
    return 0;
}

static int32_t hear_failure(carrier *c, int32_t from, const uint8_t *header) {
    char sentence[SENTENCE], why[64];
    const uint64_t length = get_number(header + 32, 8);
    if (length >= SENTENCE || !receive_all(c->sockets[from], sentence, length, now() + 2, why, sizeof why))
        return fail(c, from, "rank %d has failed", (int)from);
    sentence[length] = '\0';
    return fail(c, from, "%s", sentence);
}

static const char *name_of(uint64_t operation) {
    static const char *const names[] = {"nothing", "all-reduce", "reduce-scatter", "all-gather", "broadcast"};
    return operation < sizeof names / sizeof *names ? names[operation] : "something unknown";
}

/* 1: it is what has to come. */
static int32_t check_header(carrier *c, int32_t from) {
    const uint8_t *got = c->in[from].header;
    if (!memcmp(got, c->in[from].expected, HEADER)) return 1;
    if (get_number(got, 4) != mark) return fail(c, from, "rank %d does not say what a rank says", (int)from);
    if (get_number(got + 4, 4) == FAILURE) return hear_failure(c, from, got);
    return fail(c, -1,
                "rank %d is at collective %" PRIu64 ", %s of %" PRIu64 " bytes, where rank %d is at collective %" PRIu64
                ", %s of %" PRIu64 " bytes",
                (int)from, get_number(got + 16, 8), name_of(get_number(got + 4, 4)), get_number(got + 24, 8),
                (int)c->rank, c->number, name_of((uint64_t)c->operation), c->total);
}

/* Of what has come already: 1 when that is so many bytes. data NULL: they are thrown away. */
static int32_t take_what_came(int socket, uint8_t *data, uint64_t bytes) {
    uint8_t waste[4096];
    while (bytes) {
        const size_t most = data || bytes < sizeof waste ? (size_t)bytes : sizeof waste;
        const ssize_t got = recv(socket, data ? data : waste, most, 0);
        if (got <= 0) return 0;
        if (data) data += got;
        bytes -= (uint64_t)got;
    }
    return 1;
}

/* What was said before the end may say more than the end: it comes after what was on its way. */
static int32_t lose(carrier *c, int32_t rank) {
    message *m = &c->in[rank];
    const int s = c->sockets[rank];
    size_t have = m->active && m->done < HEADER ? m->done : 0;
    uint64_t rest = m->active && m->done >= HEADER ? m->bytes - m->done : 0;
    while (take_what_came(s, NULL, rest) && take_what_came(s, m->header + have, HEADER - have) &&
           get_number(m->header, 4) == mark) {
        if (get_number(m->header + 4, 4) == FAILURE) return hear_failure(c, rank, m->header);
        rest = get_number(m->header + 32, 8);
        have = 0;
    }
    return fail(c, rank, "rank %d's connection was closed", (int)rank);
}

/* ---- Messages ---- */

static void expect(carrier *c, int32_t from, void *data, size_t bytes) {
    message *m = &c->in[from];
    *m = (message){.active = 1, .bytes = HEADER + bytes, .data = data};
    put_header(c, m->expected, c->operation, bytes);
}

static void give(carrier *c, int32_t to, const void *data, size_t bytes) {
    message *m = &c->out[to];
    *m = (message){.active = 1, .bytes = HEADER + bytes, .data = (char *)(uintptr_t)data};
    put_header(c, m->header, c->operation, bytes);
}

/* As far as it goes without waiting. */
static int32_t advance(carrier *c, int32_t rank, message *m) {
    const int32_t sends = m == &c->out[rank];
    while (m->active && m->done < m->bytes) {
        const int32_t in_header = m->done < HEADER;
        void *at = in_header ? (void *)(m->header + m->done) : m->data + (m->done - HEADER);
        const size_t left = (in_header ? HEADER : m->bytes) - m->done;
        const ssize_t moved =
            sends ? send(c->sockets[rank], at, left, MSG_NOSIGNAL) : recv(c->sockets[rank], at, left, 0);
        if (moved <= 0) {
            if (moved < 0 && errno == EINTR) continue;
            return (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) || lose(c, rank);
        }
        m->done += (size_t)moved;
        if (!sends && in_header && m->done == HEADER && !check_header(c, rank)) return 0;
    }
    m->active = 0;
    return 1;
}

/* Until all messages have been moved. Before a collective's last turn nobody may leave: a rank that has is seen even
 * where nothing is to be had from it just now. */
static int32_t turn(carrier *c, int32_t last) {
    for (;;) {
        int32_t waits = 0;
        for (int32_t r = 0; r < c->size; r++) {
            const int32_t in = c->in[r].active, out = c->out[r].active;
            const short events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0) | (last ? 0 : POLLRDHUP));
            c->ready[r] = (struct pollfd){.fd = in || out || !last ? c->sockets[r] : -1, .events = events};
            waits |= in || out;
        }
        if (!waits) return 1;
        c->ready[c->size] = (struct pollfd){.fd = c->wake[0], .events = POLLIN};
        if (poll(c->ready, (nfds_t)c->size + 1, -1) < 0) continue; /* interrupted */
        if (c->ready[c->size].revents) return fail(c, -1, "rank %d has given up waiting", (int)c->rank);
        for (int32_t r = 0; r < c->size; r++) {
            const short events = c->ready[r].revents;
            if (!events) continue;
            if (!advance(c, r, &c->in[r]) || !advance(c, r, &c->out[r])) return 0;
            /* Rank 0 may be turns ahead, and have left: what it said last is there to be read. */
            const int32_t goes_on = c->rank == 0 || c->out[r].active;
            if (goes_on && !c->in[r].active && events & (POLLRDHUP | POLLHUP | POLLERR)) return lose(c, r);
        }
    }
}

static void begin(carrier *c, int32_t operation, int32_t dtype, uint64_t total) {
    c->operation = operation;
    c->dtype = dtype;
    c->total = total;
    c->number++;
    for (int32_t r = 0; r < c->size; r++) c->in[r].active = c->out[r].active = 0;
}

static cavmae_status end(const carrier *c, int32_t good, char *error, size_t error_size) {
    if (good) return CAVMAE_OK;
    snprintf(error, error_size, "%s", c->failure);
    return CAVMAE_E_PEER;
}

/* ---- Sums ---- */

static size_t width_of(int32_t dtype) { return dtype == CAVMAE_FLOAT64 ? 8 : dtype == CAVMAE_FLOAT32 ? 4 : 2; }

static float widen(uint16_t narrow) {
    const uint32_t bits = (uint32_t)narrow << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static uint16_t narrow(float wide) { /* to the nearest, of two the even one */
    uint32_t bits;
    memcpy(&bits, &wide, sizeof bits);
    if (wide != wide) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* `own` and what came from the others into c->sum, in the order of the ranks. */
static void add_pieces(carrier *c, int32_t dtype, const void *own, size_t bytes) {
    const size_t count = bytes / width_of(dtype);
    if (dtype == CAVMAE_BFLOAT16)
        for (size_t i = 0; i < count; i++) c->wide[i] = widen(((const uint16_t *)own)[i]);
    else if (bytes)
        memcpy(c->sum, own, bytes);
    for (int32_t r = 1; r < c->size; r++) {
        const void *piece = c->pieces + (size_t)r * c->piece;
        if (dtype == CAVMAE_FLOAT32)
            for (size_t i = 0; i < count; i++) ((float *)(void *)c->sum)[i] += ((const float *)piece)[i];
        else if (dtype == CAVMAE_FLOAT64)
            for (size_t i = 0; i < count; i++) ((double *)(void *)c->sum)[i] += ((const double *)piece)[i];
        else
            for (size_t i = 0; i < count; i++) c->wide[i] += widen(((const uint16_t *)piece)[i]);
    }
    if (dtype == CAVMAE_BFLOAT16)
        for (size_t i = 0; i < count; i++) ((uint16_t *)(void *)c->sum)[i] = narrow(c->wide[i]);
}

/* send [rows, bytes] is added piece by piece, so that rank 0 needs little memory. A row's sum goes to the rank of its
 * number, or, where there is one, to all. While a piece comes in, the sum of the one before goes out; the last turn
 * reaches all ranks. */
static int32_t reduce(carrier *c, int32_t dtype, const char *send, char *receive, int32_t rows, size_t bytes) {
    const size_t each = bytes ? (bytes + c->piece - 1) / c->piece : 1, turns = each * (size_t)rows;
    for (size_t k = 0; k <= turns; k++) {
        const size_t row = k / each, at = k % each * c->piece, left = bytes - at;
        const size_t now_bytes = k == turns ? 0 : left < c->piece ? left : c->piece;
        const char *own = k == turns ? NULL : send + row * bytes + at;
        const size_t sum_row = k ? (k - 1) / each : 0, sum_at = k ? (k - 1) % each * c->piece : 0;
        const size_t sum_bytes = !k ? 0 : bytes - sum_at < c->piece ? bytes - sum_at : c->piece;
        for (int32_t r = 1; r < c->size; r++) {
            const int32_t gets = rows == 1 || sum_row == (size_t)r, me = r == c->rank;
            if (c->rank == 0 && k < turns) expect(c, r, c->pieces + (size_t)r * c->piece, now_bytes);
            if (me && k < turns) give(c, 0, own, now_bytes);
            if (!k || (!gets && k < turns)) continue;
            if (c->rank == 0) give(c, r, c->sum, gets ? sum_bytes : 0);
            if (me) expect(c, 0, receive + sum_at, gets ? sum_bytes : 0);
        }
        if (!turn(c, k == turns)) return 0;
        if (c->rank > 0 || k == turns) continue;
        add_pieces(c, dtype, own, now_bytes);
        if ((rows == 1 || row == 0) && now_bytes) memcpy(receive + at, c->sum, now_bytes);
    }
    return 1;
}

/* ---- The record ---- */

static cavmae_status all_reduce(void *user, int32_t dtype, void *data, int64_t count, char *error, size_t error_size) {
    carrier *c = user;
    const size_t bytes = (size_t)count * width_of(dtype);
    if (c->failure[0]) return end(c, 0, error, error_size);
    begin(c, REDUCE, dtype, bytes);
    return end(c, reduce(c, dtype, data, data, 1, bytes), error, error_size);
}

static cavmae_status reduce_scatter(void *user, int32_t dtype, const void *send, void *receive, int64_t count,
                                    char *error, size_t error_size) {
    carrier *c = user;
    const size_t bytes = (size_t)count * width_of(dtype);
    if (c->failure[0]) return end(c, 0, error, error_size);
    begin(c, SCATTER, dtype, bytes);
    return end(c, reduce(c, dtype, send, receive, c->size, bytes), error, error_size);
}

static size_t piece_at(const carrier *c, size_t at, size_t bytes) {
    return bytes - at < c->piece ? bytes - at : c->piece;
}

static cavmae_status all_gather(void *user, const void *send, void *receive, int64_t count, char *error,
                                size_t error_size) {
    carrier *c = user;
    const size_t bytes = (size_t)count, all = bytes * (size_t)c->size;
    char *rows = receive;
    int32_t good = 1;
    if (c->failure[0]) return end(c, 0, error, error_size);
    begin(c, GATHER, 0, bytes);
    if (c->rank == 0 && bytes) memmove(rows, send, bytes);
    for (size_t at = 0; good && at < bytes; at += c->piece) {
        for (int32_t r = 1; c->rank == 0 && r < c->size; r++)
            expect(c, r, rows + (size_t)r * bytes + at, piece_at(c, at, bytes));
        if (c->rank > 0) give(c, 0, (const char *)send + at, piece_at(c, at, bytes));
        good = turn(c, 0);
    }
    for (size_t at = 0; good && at < all; at += c->piece) {
        for (int32_t r = 1; c->rank == 0 && r < c->size; r++) give(c, r, rows + at, piece_at(c, at, all));
        if (c->rank > 0) expect(c, 0, rows + at, piece_at(c, at, all));
        good = turn(c, at + c->piece >= all);
    }
    return end(c, good, error, error_size);
}

/* Through rank 0, which passes a piece on while the next one comes. The last turn reaches the root, too. */
static cavmae_status broadcast(void *user, void *data, int64_t count, int32_t root, char *error, size_t error_size) {
    carrier *c = user;
    const size_t bytes = (size_t)count, turns = bytes ? (bytes + c->piece - 1) / c->piece : 1;
    int32_t good = 1;
    if (c->failure[0]) return end(c, 0, error, error_size);
    begin(c, BROADCAST, root, bytes);
    for (size_t k = 0; good && k <= turns; k++) {
        char *coming = (char *)data + k * c->piece, *going = coming - (k ? c->piece : 0);
        const size_t to_come = k < turns ? piece_at(c, k * c->piece, bytes) : 0;
        const size_t to_go = k ? piece_at(c, (k - 1) * c->piece, bytes) : 0;
        if (root > 0 && k < turns && c->rank == 0) expect(c, root, coming, to_come);
        if (root > 0 && k < turns && c->rank == root) give(c, 0, coming, to_come);
        for (int32_t r = 1; k && r < c->size; r++) {
            if (r == root && k < turns) continue;
            if (c->rank == 0) give(c, r, going, r == root ? 0 : to_go);
            if (c->rank == r) expect(c, 0, going, r == root ? 0 : to_go);
        }
        good = turn(c, k == turns);
    }
    return end(c, good, error, error_size);
}

static cavmae_status barrier(void *user, char *error, size_t error_size) {
    return all_reduce(user, CAVMAE_FLOAT32, NULL, 0, error, error_size);
}

static void abort_carrier(void *user) {
    const carrier *c = user;
    while (write(c->wake[1], "", 1) < 0 && errno == EINTR) {
    }
}

/* A connection that is closed while something in it is unread forgets what is on its way to the other side: why this one
 * failed. The other side closes when it has heard. */
static void hear_out(int socket, double until) {
    char waste[4096];
    for (;;) {
        const ssize_t got = recv(socket, waste, sizeof waste, 0);
        struct pollfd ready = {.fd = socket, .events = POLLIN};
        if (got > 0 || (got < 0 && errno == EINTR)) continue;
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK) || now() >= until) return;
        poll(&ready, 1, milliseconds_until(until));
    }
}

static void close_carrier(void *user) {
    carrier *c = user;
    const double until = now() + 1;
    for (int32_t r = 0; r < c->size; r++) {
        if (c->sockets[r] < 0) continue;
        if (c->failure[0]) hear_out(c->sockets[r], until);
        close(c->sockets[r]);
    }
    close(c->wake[0]);
    close(c->wake[1]);
    free(c->sockets);
    free(c->in);
    free(c->out);
    free(c->ready);
    free(c->pieces);
    free(c->sum);
    free(c->wide);
    free(c);
}

cavmae_collectives open_tcp_carrier(int32_t rank, int32_t size, const int *sockets) {
    carrier *c = allocate(1, sizeof *c);
    const size_t ranks = (size_t)size;
    *c = (carrier){.rank = rank, .size = size, .piece = PIECE};
    while (c->piece * ranks > (size_t)PIECE * PIECES && c->piece > 65536) c->piece /= 2;
    c->sockets = allocate(ranks, sizeof *c->sockets);
    memcpy(c->sockets, sockets, ranks * sizeof *sockets);
    c->in = allocate(ranks, sizeof *c->in);
    c->out = allocate(ranks, sizeof *c->out);
    c->ready = allocate(ranks + 1, sizeof *c->ready);
    if (rank == 0) {
        c->pieces = allocate(ranks, c->piece);
        c->sum = allocate(1, c->piece);
        c->wide = allocate(c->piece / 2, sizeof *c->wide);
    }
    if (pipe2(c->wake, O_CLOEXEC | O_NONBLOCK) != 0) die("no pipe: %s", strerror(errno));
    return (cavmae_collectives){.struct_size = sizeof(cavmae_collectives),
                                .version = 1,
                                .name = "tcp",
                                .user = c,
                                .all_reduce = all_reduce,
                                .reduce_scatter = reduce_scatter,
                                .all_gather = all_gather,
                                .broadcast = broadcast,
                                .barrier = barrier,
                                .abort = abort_carrier,
                                .close = close_carrier};
}
