/* TCP over IPv4 and IPv6, each call with a moment at which it gives up. Sockets do not block, are closed in programs that
 * this one starts, and send small messages at once. Moments are now()'s (program.h). */
#ifndef EXAMPLE_SOCKET_IO_H
#define EXAMPLE_SOCKET_IO_H

#include <stddef.h>
#include <stdint.h>

/* A socket that listens where others reach this machine by `address`: at a literal address of this machine there only,
 * at all others (a name, an address that something else stands for, NULL) everywhere. *port 0: any free one, which is
 * written there. -1, with a sentence in error, and errno. */
int listen_at(const char *address, int32_t *port, char *error, size_t error_size);

/* -1: nobody wants to come. `from` is where the other is, for messages. */
int accept_from(int listener, char *from, size_t from_size);

/* A connection to any of the addresses that a name has. -1, with a sentence in error. */
int connect_to(const char *address, int32_t port, double until, char *error, size_t error_size);

/* All of it: 1; or 0, with a few words in error ("the connection was closed"). */
int32_t send_all(int socket, const void *data, size_t bytes, double until, char *error, size_t error_size);
int32_t receive_all(int socket, void *data, size_t bytes, double until, char *error, size_t error_size);

/* For poll(), rounded up; at most a minute. */
int milliseconds_until(double moment);

/* Numbers in messages: least significant byte first, on any machine. */
void put_number(uint8_t *at, uint64_t number, int32_t bytes);
uint64_t get_number(const uint8_t *at, int32_t bytes);

#endif
