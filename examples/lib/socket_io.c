#define _GNU_SOURCE
#include "socket_io.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"

static void set_up(int socket) {
    const int yes = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
}

int milliseconds_until(double moment) {
    const double left = 1e3 * (moment - now());
    return left <= 0 ? 0 : left > 60e3 ? 60000 : (int)left + 1;
}

void put_number(uint8_t *at, uint64_t number, int32_t bytes) {
    for (int32_t i = 0; i < bytes; i++) at[i] = (uint8_t)(number >> 8 * i);
}

uint64_t get_number(const uint8_t *at, int32_t bytes) {
    uint64_t number = 0;
    for (int32_t i = 0; i < bytes; i++) number |= (uint64_t)at[i] << 8 * i;
    return number;
}

/* ---- Listening ---- */

/* NULL: no such name; *why says so. */
static struct addrinfo *find_addresses(const char *address, int32_t port, int flags, const char **why) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    struct addrinfo *found;
    char number[16];
    snprintf(number, sizeof number, "%d", (int)port);
    const int failure = getaddrinfo(address, number, &hints, &found);
    if (why) *why = failure ? gai_strerror(failure) : NULL;
    return failure ? NULL : found;
}

static int try_listen(const struct sockaddr *address, socklen_t length) {
    const int yes = 1, no = 0;
    const int s = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0) return -1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (address->sa_family == AF_INET6) setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(s, address, length) == 0 && listen(s, 1024) == 0) return s;
    const int fault = errno;
    close(s);
    errno = fault;
    return -1;
}

static int32_t port_of(int socket) {
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    if (getsockname(socket, (struct sockaddr *)&own, &length) != 0) return 0;
    return ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&own)->sin6_port
                                           : ((struct sockaddr_in *)&own)->sin_port);
}

int listen_at(const char *address, int32_t *port, char *error, size_t error_size) {
    const char *host = address && !strcmp(address, "localhost") ? "127.0.0.1" : address;
    struct addrinfo *literal = host ? find_addresses(host, *port, AI_NUMERICHOST, NULL) : NULL;
    int s = -1, everywhere = !literal;
    if (literal) {
        s = try_listen(literal->ai_addr, literal->ai_addrlen);
        everywhere = s < 0 && errno == EADDRNOTAVAIL;
        freeaddrinfo(literal);
    }
    if (everywhere) {
        const struct sockaddr_in6 any6 = {
            .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT, .sin6_port = htons((uint16_t)*port)};
        const struct sockaddr_in any4 = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY), .sin_port = htons((uint16_t)*port)};
        s = try_listen((const struct sockaddr *)&any6, sizeof any6);
        if (s < 0 && errno != EADDRINUSE) s = try_listen((const struct sockaddr *)&any4, sizeof any4);
    }
    const int fault = errno;
    if (s < 0)
        snprintf(error, error_size, "cannot listen at %s port %d: %s", address ? address : "any address", (int)*port,
                 strerror(fault));
    else
        *port = port_of(s);
    errno = fault;
    return s;
}

int accept_from(int listener, char *from, size_t from_size) {
    struct sockaddr_storage other;
    socklen_t length = sizeof other;
    char host[64] = "?", service[16] = "?";
    const int s = accept4(listener, (struct sockaddr *)&other, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s < 0) return -1;
    set_up(s);
    getnameinfo((struct sockaddr *)&other, length, host, sizeof host, service, sizeof service,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(from, from_size, "%s port %s", host, service);
    return s;
}

/* ---- Connecting ---- */

/* A port that nobody listens at can be given to the connection itself, which then talks to itself. */
static int32_t is_own_echo(int socket) {
    struct sockaddr_storage own = {0}, other = {0};
    socklen_t own_length = sizeof own, other_length = sizeof other;
    return getsockname(socket, (struct sockaddr *)&own, &own_length) == 0 &&
           getpeername(socket, (struct sockaddr *)&other, &other_length) == 0 && own_length == other_length &&
           !memcmp(&own, &other, own_length);
}

static int try_connect(const struct addrinfo *to, double until) {
    int s = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), fault = 0;
    socklen_t length = sizeof fault;
    if (s < 0) return -1;
    set_up(s);
    if (connect(s, to->ai_addr, to->ai_addrlen) != 0) {
        struct pollfd ready = {.fd = s, .events = POLLOUT};
        int count = 0;
        fault = errno;
        if (fault == EINPROGRESS || fault == EINTR) {
            do count = poll(&ready, 1, milliseconds_until(until));
            while (count < 0 && errno == EINTR);
            fault = ETIMEDOUT;
            if (count > 0 && getsockopt(s, SOL_SOCKET, SO_ERROR, &fault, &length) != 0) fault = errno;
        }
    }
    if (!fault && is_own_echo(s)) fault = ECONNREFUSED;
    if (!fault) return s;
    close(s);
    errno = fault;
    return -1;
}

int connect_to(const char *address, int32_t port, double until, char *error, size_t error_size) {
    const char *why;
    struct addrinfo *found = find_addresses(address, port, 0, &why);
    int s = -1, fault = 0;
    for (struct addrinfo *to = found; to && s < 0; to = to->ai_next) {
        const double left = until - now(), most = to->ai_next ? left / 2 : left; /* time for the others, too */
        s = try_connect(to, now() + most);
        fault = errno;
    }
    if (found) freeaddrinfo(found);
    if (s < 0) snprintf(error, error_size, "%s", why ? why : strerror(fault));
    return s;
}

/* ---- Moving bytes ---- */

static int32_t transfer(int socket, char *data, size_t bytes, int32_t sends, double until, char *error, size_t size) {
    while (bytes) {
        const ssize_t moved = sends ? send(socket, data, bytes, MSG_NOSIGNAL) : recv(socket, data, bytes, 0);
        if (moved > 0) {
            data += moved;
            bytes -= (size_t)moved;
        } else if (moved == 0 || errno == ECONNRESET || errno == EPIPE) {
            snprintf(error, size, "the connection was closed");
            return 0;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd ready = {.fd = socket, .events = sends ? POLLOUT : POLLIN};
            if (poll(&ready, 1, milliseconds_until(until)) == 0 && now() >= until) {
                snprintf(error, size, "no answer in time");
                return 0;
            }
        } else if (errno != EINTR) {
            snprintf(error, size, "%s", strerror(errno));
            return 0;
        }
    }
    return 1;
}

int32_t send_all(int socket, const void *data, size_t bytes, double until, char *error, size_t error_size) {
    return transfer(socket, (char *)(uintptr_t)data, bytes, 1, until, error, error_size);
}

int32_t receive_all(int socket, void *data, size_t bytes, double until, char *error, size_t error_size) {
    return transfer(socket, data, bytes, 0, until, error, error_size);
}
