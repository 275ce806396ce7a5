/* CRC-32 (zlib's) of many arrays, on all threads of the context. */
#ifndef CAVMAE_IO_CHECKSUM_H
#define CAVMAE_IO_CHECKSUM_H

#include "context.h"

typedef struct cavmae__checksum {
    const void *data;
    size_t size;
    uint32_t crc; /* result */
} cavmae__checksum;

cavmae_status cavmae__checksums(cavmae_context *context, cavmae__checksum *arrays, int64_t count);

/* Of one small array, on this thread, with `crc` of what comes before it (0: nothing). */
uint32_t cavmae__crc32(uint32_t crc, const void *data, size_t size);

#endif
