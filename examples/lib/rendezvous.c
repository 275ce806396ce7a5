#define _GNU_SOURCE
#include "rendezvous.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "meeting_file.h"
#include "program.h"
#include "socket_io.h"

/* A hello is magic [8], version, rank, size, 0 (4 bytes each), job, token (8 each). What rank 0 answers is magic [8], a
 * kind and a number (4 each): WAIT with the milliseconds until its time is up, at last GO; or the others with the length
 * of the sentence that follows. */
enum { HELLO = 40, ANSWER = 16, VERSION = 1, SENTENCE = 512 };
enum {
    WAIT = 1,
    GO,
    REFUSED, /* for good */
    FOREIGN, /* of another launch; whose rank 0 may be elsewhere */
    FAILED   /* a rank is missing */
};
enum { GUESTS = 64 }; /* connections that have not yet said who they are */

static const char magic[8] = {'c', 'a', 'v', 'm', 'a', 'e', '-', 'r'};
static const double hello_time = 3; /* seconds from connecting to the whole hello */

static int32_t fail(char *error, size_t error_size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int32_t fail(char *error, size_t error_size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, error_size, format, args);
    va_end(args);
    return 0;
}

void close_sockets(int *sockets, int32_t size) {
    for (int32_t i = 0; i < size; i++) {
        if (sockets[i] >= 0) close(sockets[i]);
        sockets[i] = -1;
    }
}

/* ---- Rank 0 ---- */

typedef struct guest {
    int socket;
    double until;
    size_t have;
    uint8_t hello[HELLO];
    char from[96];
} guest;

typedef struct host {
    const meeting *m;
    int listener, *sockets;
    int32_t present, guests;
    uint64_t token;
    double until;
    guest guest[GUESTS];
} host;

/* Few enough bytes to be taken by a socket that nothing was sent on. */
static int32_t answer(int socket, int32_t kind, int32_t number, const char *sentence) {
    uint8_t message[ANSWER + SENTENCE];
    const size_t length = sentence ? strnlen(sentence, SENTENCE) : 0, bytes = ANSWER + length;
    memcpy(message, magic, sizeof magic);
    put_number(message + 8, (uint64_t)kind, 4);
    put_number(message + 12, sentence ? length : (uint64_t)number, 4);
    if (sentence) memcpy(message + ANSWER, sentence, length);
    return send(socket, message, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes;
}

static void forget(host *h, int32_t index) { h->guest[index] = h->guest[--h->guests]; }

static void send_away(host *h, int32_t index, int32_t kind, const char *sentence) {
    guest *g = &h->guest[index];
    warn("refused %s: %s", g->from, sentence);
    answer(g->socket, kind, 0, sentence);
    shutdown(g->socket, SHUT_WR);
    close(g->socket);
    forget(h, index);
}

static void admit(host *h, int32_t index) {
    guest *g = &h->guest[index];
    char sentence[SENTENCE] = "";
    int32_t kind = REFUSED;
    const uint64_t version = get_number(g->hello + 8, 4), rank = get_number(g->hello + 12, 4),
                   size = get_number(g->hello + 16, 4), job = get_number(g->hello + 24, 8),
                   token = get_number(g->hello + 32, 8);
    if (version != VERSION)
        snprintf(sentence, sizeof sentence, "it speaks version %" PRIu64 ", not %d", version, VERSION);
    else if (job != h->m->job)
        snprintf(sentence, sizeof sentence, "rank %" PRIu64 " of %" PRIu64 " of another job", rank, size);
    else if (size != (uint64_t)h->m->size)
        snprintf(sentence, sizeof sentence, "it is rank %" PRIu64 " of %" PRIu64 ", and this is a world of %d", rank,
                 size, (int)h->m->size);
    else if (token != h->token)
        snprintf(sentence, sizeof sentence, "rank %" PRIu64 " has read the file of an earlier run", rank);
    else if (rank < 1 || rank >= size)
        snprintf(sentence, sizeof sentence, "there is no rank %" PRIu64 " to come to a world of %" PRIu64, rank, size);
    else if (h->sockets[rank] >= 0)
        snprintf(sentence, sizeof sentence, "rank %" PRIu64 " is there already", rank);
    if (version != VERSION || job != h->m->job || token != h->token) kind = FOREIGN;
    if (sentence[0]) {
        send_away(h, index, kind, sentence);
        return;
    }
    if (!answer(g->socket, WAIT, milliseconds_until(h->until), NULL)) {
        close(g->socket);
    } else {
        h->sockets[rank] = g->socket;
        h->present++;
    }
    forget(h, index);
}

static void listen_to(host *h, int32_t index) {
    guest *g = &h->guest[index];
    const ssize_t got = recv(g->socket, g->hello + g->have, HELLO - g->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got > 0) g->have += (size_t)got;
    const size_t known = g->have < sizeof magic ? g->have : sizeof magic;
    if (memcmp(g->hello, magic, known) != 0)
        send_away(h, index, FOREIGN, "what it says is not what a rank says");
    else if (got <= 0)
        send_away(h, index, FOREIGN, "it left before it had said who it is");
    else if (g->have == HELLO)
        admit(h, index);
}

static void welcome(host *h) {
    for (;;) {
        guest g = {.until = now() + hello_time};
        g.socket = accept_from(h->listener, g.from, sizeof g.from);
        if (g.socket < 0) return;
        if (h->guests == GUESTS) send_away(h, 0, FOREIGN, "too many come and say nothing");
        h->guest[h->guests++] = g;
    }
}

/* A rank that is there says nothing before it is told to go: what can be read is its end. Another process may take its
 * place then. */
static void let_go(host *h, int32_t rank) {
    warn("rank %d was there, and has left", (int)rank);
    close(h->sockets[rank]);
    h->sockets[rank] = -1;
    h->present--;
}

static void attend(host *h, struct pollfd *ready) {
    const int32_t size = h->m->size, guests = h->guests;
    double until = h->until;
    for (int32_t i = 0; i < guests; i++) {
        ready[i] = (struct pollfd){.fd = h->guest[i].socket, .events = POLLIN};
        if (h->guest[i].until < until) until = h->guest[i].until;
    }
    for (int32_t i = 0; i < size; i++) ready[guests + i] = (struct pollfd){.fd = h->sockets[i], .events = POLLIN};
    ready[guests + size] = (struct pollfd){.fd = h->listener, .events = POLLIN};
    if (poll(ready, (nfds_t)(guests + size + 1), milliseconds_until(until)) < 0) return;
    for (int32_t i = 0; i < size; i++)
        if (ready[guests + i].revents) let_go(h, i);
    for (int32_t i = guests - 1; i >= 0; i--) { /* from the end: forgetting moves the last one */
        if (ready[i].revents)
            listen_to(h, i);
        else if (now() >= h->guest[i].until)
            send_away(h, i, FOREIGN, "it did not say in time who it is");
    }
    if (ready[guests + size].revents) welcome(h);
}

static void name_missing(const host *h, char *error, size_t error_size) {
    const int32_t size = h->m->size, missing = size - 1 - h->present;
    char names[120] = "";
    size_t length = 0;
    int32_t named = 0;
    for (int32_t i = 1; i < size && named < 8; i++)
        if (h->sockets[i] < 0)
            length += (size_t)snprintf(names + length, sizeof names - length, "%s%d", named++ ? ", " : "", (int)i);
    if (missing > named) snprintf(names + length, sizeof names - length, " and %d more", (int)(missing - named));
    snprintf(error, error_size, "rank%s %s of %d did not come within %g s", missing > 1 ? "s" : "", names, (int)size,
             h->m->timeout);
}

static int32_t gather_ranks(host *h, char *error, size_t error_size) {
    const int32_t size = h->m->size;
    struct pollfd *ready = allocate((size_t)(GUESTS + size + 1), sizeof *ready);
    while (h->present < size - 1 && now() < h->until) attend(h, ready);
    free(ready);
    const int32_t complete = h->present == size - 1;
    if (!complete) name_missing(h, error, error_size);
    int32_t good = complete;
    for (int32_t i = 1; i < size; i++) {
        if (h->sockets[i] < 0 || answer(h->sockets[i], complete ? GO : FAILED, 0, complete ? NULL : error)) continue;
        if (good) good = fail(error, error_size, "rank %d left while the others came", (int)i);
    }
    while (h->guests) send_away(h, 0, REFUSED, complete ? "all ranks are there" : error);
    return good;
}

static int32_t be_host(const meeting *m, int *sockets, double until, char *error, size_t error_size) {
    host *h = allocate(1, sizeof *h);
    int32_t port = m->file ? 0 : m->port, good = 0;
    *h = (host){.m = m, .sockets = sockets, .until = until};
    /* The port may still be that of a run that is just being ended. */
    while ((h->listener = listen_at(m->file ? NULL : m->address, &port, error, error_size)) < 0 && now() < until &&
           errno == EADDRINUSE)
        usleep(100000);
    if (h->listener >= 0) {
        if (m->file) {
            meeting_file f = {.job = m->job, .started = (double)time(NULL), .size = m->size, .port = port};
            if (getrandom(&f.token, sizeof f.token, 0) != sizeof f.token) f.token = (uint64_t)(now() * 1e9);
            h->token = f.token;
            list_own_addresses(&f);
            good = write_meeting_file(m->file, &f, error, error_size);
        }
        if (good || !m->file) good = gather_ranks(h, error, error_size);
        if (m->file) remove_meeting_file(m->file, h->token);
        close(h->listener);
    }
    free(h);
    return good;
}

/* ---- The others ---- */

enum { JOINED, LATER, NEVER, ELSEWHERE };

/* LATER: nobody is there, or not yet; ELSEWHERE: a rank 0, but of others. A sentence says why, for the case that it stays
 * so. */
static int32_t knock(const meeting *m, const char *address, int32_t port, uint64_t token, double until, int *socket,
                     char *error, size_t error_size) {
    char why[256], sentence[SENTENCE + 1];
    uint8_t hello[HELLO] = {0}, reply[ANSWER];
    const double soon = now() + 3 < until ? now() + 3 : until;
    double reply_until = soon;
    const int s = connect_to(address, port, soon, why, sizeof why);
    if (s < 0) {
        fail(error, error_size, "rank 0 cannot be reached at %s port %d: %s", address, (int)port, why);
        return LATER;
    }
    memcpy(hello, magic, sizeof magic);
    put_number(hello + 8, VERSION, 4);
    put_number(hello + 12, (uint64_t)m->rank, 4);
    put_number(hello + 16, (uint64_t)m->size, 4);
    put_number(hello + 24, m->job, 8);
    put_number(hello + 32, token, 8);
    int32_t outcome = LATER, waits = 0;
    if (!send_all(s, hello, HELLO, soon, why, sizeof why)) {
        fail(error, error_size, "%s port %d: %s", address, (int)port, why);
        close(s);
        return LATER;
    }
    while (outcome == LATER && receive_all(s, reply, ANSWER, reply_until, why, sizeof why)) {
        const uint64_t kind = get_number(reply + 8, 4), number = get_number(reply + 12, 4);
        if (memcmp(reply, magic, sizeof magic) != 0) {
            snprintf(why, sizeof why, "what answers is not rank 0");
            break;
        }
        if (kind == WAIT) {
            waits = 1;
            reply_until = now() + (double)number * 1e-3 + 5;
        } else if (kind == GO) {
            outcome = JOINED;
        } else {
            const size_t length = number < SENTENCE ? (size_t)number : SENTENCE;
            if (!receive_all(s, sentence, length, now() + 1, why, sizeof why)) break;
            sentence[length] = '\0';
            if (kind == FAILED)
                fail(error, error_size, "%s", sentence);
            else
                fail(error, error_size, "rank 0 at %s port %d refused: %s", address, (int)port, sentence);
            outcome = kind == FOREIGN ? ELSEWHERE : NEVER;
        }
    }
    if (outcome == LATER)
        fail(error, error_size, "%s %s port %d: %s", waits ? "rank 0 had answered at" : "whoever is at", address,
             (int)port, why);
    if (outcome == JOINED)
        *socket = s;
    else
        close(s);
    return outcome;
}

/* One of the addresses is right; who is at another one, or where an older file says, is no matter. */
static int32_t knock_by_file(const meeting *m, double until, int *socket, char *error, size_t error_size) {
    meeting_file f;
    if (!read_meeting_file(m->file, &f, error, error_size)) return LATER;
    if (f.job != m->job || f.size != m->size) {
        fail(error, error_size, "%s is of another job", m->file);
        return LATER;
    }
    for (int32_t i = 0; i < f.addresses; i++) {
        const int32_t outcome = knock(m, f.address[i], f.port, f.token, until, socket, error, error_size);
        if (outcome == JOINED || outcome == NEVER) return outcome;
    }
    return LATER;
}

static int32_t be_guest(const meeting *m, int *socket, double until, char *error, size_t error_size) {
    char why[1024] = "";
    for (useconds_t pause = 20000;; pause = pause < 500000 ? 2 * pause : pause) {
        const int32_t outcome = m->file ? knock_by_file(m, until, socket, why, sizeof why)
                                        : knock(m, m->address, m->port, 0, until, socket, why, sizeof why);
        if (outcome == JOINED) return 1;
        if (outcome == NEVER || outcome == ELSEWHERE) return fail(error, error_size, "%s", why);
        if (now() >= until)
            return fail(error, error_size, "rank 0 of %d did not come within %g s: %s", (int)m->size, m->timeout, why);
        usleep(pause);
    }
}

/* ---- Both ---- */

int32_t meet(const meeting *m, int *sockets, char *error, size_t error_size) {
    const double until = now() + m->timeout;
    for (int32_t i = 0; i < m->size; i++) sockets[i] = -1;
    const int32_t good = m->rank == 0 ? be_host(m, sockets, until, error, error_size)
                                      : be_guest(m, &sockets[0], until, error, error_size);
    if (!good) close_sockets(sockets, m->size);
    return good;
}

int32_t tell_all(const meeting *m, const int *sockets, void *data, size_t bytes, char *error, size_t error_size) {
    const double until = now() + m->timeout;
    char why[256];
    if (m->rank > 0)
        return receive_all(sockets[0], data, bytes, until, why, sizeof why) ||
               fail(error, error_size, "rank 0: %s", why);
    for (int32_t i = 1; i < m->size; i++)
        if (!send_all(sockets[i], data, bytes, until, why, sizeof why))
            return fail(error, error_size, "rank %d: %s", (int)i, why);
    return 1;
}
