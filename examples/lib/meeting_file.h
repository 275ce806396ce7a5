/* The file that rank 0 of a rendezvous writes where there is no address that all know: where it listens. */
#ifndef EXAMPLE_MEETING_FILE_H
#define EXAMPLE_MEETING_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { MEETING_ADDRESSES = 16 };

typedef struct meeting_file {
    uint64_t job, token; /* token: a fresh random number of each run */
    double started;      /* seconds since 1970 */
    int32_t size, port, addresses;
    char address[MEETING_ADDRESSES][256]; /* of rank 0's machine; one of them is to be reached */
} meeting_file;

/* All that this machine is called; where it is alone, loopback. */
void list_own_addresses(meeting_file *file);

/* Takes the place of what is there, at once and as a whole. 1; or 0 with a sentence. */
int32_t write_meeting_file(const char *path, const meeting_file *file, char *error, size_t error_size);

/* 1; 0 with a few words in error: it is not there yet, or not such a file. */
int32_t read_meeting_file(const char *path, meeting_file *file, char *error, size_t error_size);

/* Only while it is the one with this token. */
void remove_meeting_file(const char *path, uint64_t token);

#endif
