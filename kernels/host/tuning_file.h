/* The algorithms that were the fastest, kept in a text file that processes share. A line is an entry:
 *     cavmae-tuning 1 ALGORITHM CHECKSUM KEY
 * ALGORITHM: cuBLASLt's own description, as hexadecimal words; CHECKSUM: of ALGORITHM and KEY; KEY: device, version and
 * what was measured, without blanks. Not safe for several threads: the owner's lock guards it. */
#ifndef CAVMAE_KERNELS_TUNING_FILE_H
#define CAVMAE_KERNELS_TUNING_FILE_H

#include "cuda_backend.h"

enum { CAVMAE__TUNING_WORDS = 8, CAVMAE__TUNING_KEY = 400 };

typedef struct cavmae__tuning_entry {
    uint64_t algorithm[CAVMAE__TUNING_WORDS];
    char key[CAVMAE__TUNING_KEY];
} cavmae__tuning_entry;

typedef struct cavmae__tuning {
    const cavmae__library *library;
    cavmae_context *context;
    const char *path; /* NULL: there is no file */
    cavmae__tuning_entry *entry;
    size_t count, capacity;
    int warned; /* that the file cannot be written */
} cavmae__tuning;

/* Reads the file. One that is damaged is as one that is not there, with a warning; NOMEM. */
cavmae_status cavmae__tuning_open(cavmae__tuning *tuning, const cavmae__library *library, cavmae_context *context);
void cavmae__tuning_close(cavmae__tuning *tuning);

/* NULL: not known. */
const uint64_t *cavmae__tuning_find(const cavmae__tuning *tuning, const char *key);

/* Remembers, and writes the file again with what other processes have put into it since. A file that cannot be written
 * gives one warning. NOMEM. */
cavmae_status cavmae__tuning_put(cavmae__tuning *tuning, const char *key,
                                 const uint64_t algorithm[CAVMAE__TUNING_WORDS]);

#endif
