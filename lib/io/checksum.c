#include "checksum.h"

#include <zlib.h>

/* What one thread takes at a time: enough to outweigh handing it out, little enough to share one large array. */
enum { PIECE = 4 << 20 };

uint32_t cavmae__crc32(uint32_t crc, const void *data, size_t size) {
    return size ? (uint32_t)crc32_z(crc, data, size)
                : crc; /* zlib takes an empty array at NULL for a request to start */
}

static void checksum_piece(void *arg, int64_t i, int32_t worker) {
    cavmae__checksum *piece = (cavmae__checksum *)arg + i;
    (void)worker;
    piece->crc = cavmae__crc32(0, piece->data, piece->size);
}

static int64_t pieces_of(const cavmae__checksum *array) { return (int64_t)((array->size + PIECE - 1) / PIECE); }

cavmae_status cavmae__checksums(cavmae_context *context, cavmae__checksum *arrays, int64_t count) {
    cavmae__checksum *pieces, *piece;
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += pieces_of(&arrays[i]);
    CAVMAE__TRY(CAVMAE__NEW(context, &pieces, total));

    piece = pieces;
    for (int64_t i = 0; i < count; i++)
        for (size_t at = 0; at < arrays[i].size; at += PIECE) {
            size_t left = arrays[i].size - at;
            *piece++ = (cavmae__checksum){(const char *)arrays[i].data + at, left < PIECE ? left : PIECE, 0};
        }
    cavmae__parallel(context, total, checksum_piece, pieces);

    piece = pieces;
    for (int64_t i = 0; i < count; i++) {
        arrays[i].crc = 0;
        for (int64_t n = pieces_of(&arrays[i]); n > 0; n--, piece++)
            arrays[i].crc = (uint32_t)crc32_combine(arrays[i].crc, piece->crc, (z_off_t)piece->size);
    }
    cavmae__free(context, pieces);
    return CAVMAE_OK;
}
