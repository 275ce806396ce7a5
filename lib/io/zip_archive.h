/* Zip archives in a mapped file: stored and deflated members, zip64. The central directory is believed only where it
 * agrees with the file: every member lies within it, under the name it has there, and no two share a byte. */
#ifndef CAVMAE_IO_ZIP_ARCHIVE_H
#define CAVMAE_IO_ZIP_ARCHIVE_H

#include "mapped_file.h"

enum { CAVMAE__ZIP_STORED = 0, CAVMAE__ZIP_DEFLATED = 8 };

typedef struct cavmae__zip_member {
    const char *name; /* in the map, not zero-terminated */
    const char *data; /* in the map, as it is stored */
    size_t name_length, stored_size, size;
    uint32_t crc;
    uint16_t method, flags;
} cavmae__zip_member;

typedef struct cavmae__zip {
    cavmae_context *context;
    cavmae__mapped_file *map;
    int64_t count;
    cavmae__zip_member *members;        /* in the order of the central directory */
    const cavmae__zip_member **by_name; /* sorted */
} cavmae__zip;

/* Does the file start as an archive does? */
int cavmae__zip_is(const cavmae__mapped_file *map);

/* Keeps the map alive. FORMAT where the archive is damaged or lies. */
cavmae_status cavmae__zip_open(cavmae_context *context, cavmae__mapped_file *map, cavmae__zip **out);
void cavmae__zip_free(cavmae__zip *zip); /* NULL is fine */

/* NULL: no such member. */
const cavmae__zip_member *cavmae__zip_find(const cavmae__zip *zip, const char *name, size_t length);

/* UNSUPPORTED for encrypted members and methods other than the two. */
cavmae_status cavmae__zip_check_readable(const cavmae__zip *zip, const cavmae__zip_member *member);
/* The member's bytes into `out` [member->size], checked against their CRC-32. The caller has bounded the size, which
 * is at most 1032 times what is stored. */
cavmae_status cavmae__zip_read(const cavmae__zip *zip, const cavmae__zip_member *member, void *out);
/* Is this a stored member's CRC-32? A recorded one of 0 agrees with any: PyTorch can be told to write none. */
cavmae_status cavmae__zip_check_crc(const cavmae__zip *zip, const cavmae__zip_member *member, uint32_t crc);

#endif
