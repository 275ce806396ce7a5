#include "zip_archive.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "checksum.h"
#include "printable.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read as they lie in the file");

/* Sizes of records without their variable parts, from APPNOTE.TXT, and the most that one byte of deflated data can
 * stand for: two bits for a match of 258 bytes. */
enum { LOCAL = 30, CENTRAL = 46, END = 22, LOCATOR = 20, END64 = 56, MAX_COMMENT = 65535, MAX_RATIO = 1032 };
enum { ENCRYPTED = 1 | 1 << 6 | 1 << 13, ZIP64_EXTRA = 1 };

static const char local_signature[] = "PK\3\4", central_signature[] = "PK\1\2", end_signature[] = "PK\5\6",
                  locator_signature[] = "PK\6\7", end64_signature[] = "PK\6\6";

static uint16_t u16(const char *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t u32(const char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static int is(const char *at, const char *signature) { return memcmp(at, signature, 4) == 0; }

int cavmae__zip_is(const cavmae__mapped_file *map) { return map->size >= 4 && is(map->data, local_signature); }

static cavmae_status damaged(const cavmae__zip *zip, const char *what) {
    cavmae__fail(CAVMAE_E_FORMAT, "%s: not a whole zip archive: %s", zip->map->path, what);
    return CAVMAE_E_FORMAT;
}

static cavmae_status bad_member(const cavmae__zip *zip, const cavmae__zip_member *member, const char *what) {
    char name[CAVMAE__PRINTABLE];
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: member %s %s", zip->map->path,
                        cavmae__printable(name, member->name, member->name_length), what);
}

/* ---- The end record: where the central directory is ---- */

typedef struct directory {
    uint64_t offset, size, count;
    size_t limit; /* where the directory must have ended */
} directory;

/* The last place where an end record's comment would end with the file. */
static const char *find_end(const cavmae__mapped_file *map) {
    size_t farthest = (size_t)END + MAX_COMMENT;
    for (size_t back = END; back <= map->size && back <= farthest; back++) {
        const char *at = map->data + map->size - back;
        if (is(at, end_signature) && u16(at + 20) == back - END) return at;
    }
    return NULL;
}

/* A field of the old record is all ones where only the zip64 record has room for it, and must agree otherwise. */
static int agrees(uint64_t old, uint64_t ones, uint64_t wide) { return old == ones || old == wide; }

static cavmae_status read_end64(const cavmae__zip *zip, const char *end, const char *locator, directory *out) {
    const char *data = zip->map->data;
    size_t before = (size_t)(locator - data);
    uint64_t at = u64(locator + 8);
    if (before < END64 || at > before - END64 || !is(data + at, end64_signature))
        return damaged(zip, "the zip64 record is not where its locator says");
    const char *wide = data + at;
    *out = (directory){u64(wide + 48), u64(wide + 40), u64(wide + 32), (size_t)at};
    if (u32(wide + 16) != 0 || u32(wide + 20) != 0 || u64(wide + 24) != out->count)
        return damaged(zip, "it has several parts");
    if (!agrees(u16(end + 10), UINT16_MAX, out->count) || !agrees(u32(end + 12), UINT32_MAX, out->size) ||
        !agrees(u32(end + 16), UINT32_MAX, out->offset))
        return damaged(zip, "the zip64 record contradicts the end record");
    return CAVMAE_OK;
}

static cavmae_status read_end(const cavmae__zip *zip, directory *out) {
    const char *data = zip->map->data, *end = find_end(zip->map);
    if (!end) return damaged(zip, "it has no end record; was the file cut short?");
    size_t before = (size_t)(end - data);
    if (before >= LOCATOR && is(end - LOCATOR, locator_signature)) {
        CAVMAE__TRY(read_end64(zip, end, end - LOCATOR, out));
    } else {
        *out = (directory){u32(end + 16), u32(end + 12), u16(end + 10), before};
        if (u16(end + 4) != 0 || u16(end + 6) != 0 || u16(end + 8) != out->count)
            return damaged(zip, "it has several parts");
    }
    if (out->offset > out->limit || out->size > out->limit - out->offset || out->count > out->size / CENTRAL)
        return damaged(zip, "its central directory is not within the file");
    return CAVMAE_OK;
}

/* ---- The central directory ---- */

typedef struct extent {
    size_t begin, end;
    const cavmae__zip_member *member;
} extent;

/* Values that the central record has no room for, in this order; those that it has are left out. */
static cavmae_status read_zip64_extra(const cavmae__zip *zip, const cavmae__zip_member *member, const char *extra,
                                      size_t length, uint64_t *const values[3]) {
    for (size_t at = 0; length - at >= 4;) {
        size_t size = u16(extra + at + 2);
        const char *field = extra + at + 4;
        if (size > length - at - 4) return bad_member(zip, member, "has extra fields that run past their end");
        at += 4 + size;
        if (u16(field - 4) != ZIP64_EXTRA) continue;
        for (int i = 0; i < 3; i++) {
            if (*values[i] != UINT32_MAX) continue;
            if (size < 8) return bad_member(zip, member, "has a zip64 field that is too short");
            *values[i] = u64(field);
            field += 8;
            size -= 8;
        }
        return CAVMAE_OK;
    }
    return CAVMAE_OK;
}

/* Finds the data behind the member's local header. */
static cavmae_status locate(const cavmae__zip *zip, const directory *d, uint64_t offset, uint64_t stored_size,
                            cavmae__zip_member *member, extent *place) {
    if (offset > d->offset || d->offset - offset < LOCAL)
        return bad_member(zip, member, "does not lie before the central directory");
    const char *local = zip->map->data + offset;
    if (!is(local, local_signature)) return bad_member(zip, member, "has no header where the directory says");
    uint64_t room = d->offset - offset - LOCAL, name_length = u16(local + 26), skipped = name_length + u16(local + 28);
    if (skipped > room || stored_size > room - skipped)
        return bad_member(zip, member, "does not lie before the central directory");
    if (name_length != member->name_length || memcmp(local + LOCAL, member->name, name_length) != 0 ||
        u16(local + 8) != member->method)
        return bad_member(zip, member, "has another name or method in its header");
    member->data = local + LOCAL + skipped;
    member->stored_size = (size_t)stored_size;
    *place = (extent){(size_t)offset, (size_t)(member->data - zip->map->data) + member->stored_size, member};
    return CAVMAE_OK;
}

/* One record at *at, which then is the next one's place. */
static cavmae_status read_record(const cavmae__zip *zip, const directory *d, uint64_t *at, cavmae__zip_member *member,
                                 extent *place) {
    uint64_t left = d->offset + d->size - *at, size, stored_size, offset;
    const char *record = zip->map->data + *at;
    if (left < CENTRAL || !is(record, central_signature)) return damaged(zip, "its central directory is broken");
    size_t name_length = u16(record + 28), extra_length = u16(record + 30);
    size_t length = CENTRAL + name_length + extra_length + u16(record + 32);
    if (length > left) return damaged(zip, "its central directory is broken");
    *at += length;
    *member = (cavmae__zip_member){.name = record + CENTRAL,
                                   .name_length = name_length,
                                   .flags = u16(record + 8),
                                   .method = u16(record + 10),
                                   .crc = u32(record + 16)};
    stored_size = u32(record + 20);
    size = u32(record + 24);
    offset = u32(record + 42);
    CAVMAE__TRY(read_zip64_extra(zip, member, member->name + name_length, extra_length,
                                 (uint64_t *const[]){&size, &stored_size, &offset}));
    CAVMAE__TRY(locate(zip, d, offset, stored_size, member, place));
    if (member->method == CAVMAE__ZIP_STORED && size != stored_size)
        return bad_member(zip, member, "is stored in another size than its own");
    if (member->method == CAVMAE__ZIP_DEFLATED && size / MAX_RATIO > stored_size)
        return bad_member(zip, member, "claims to be larger than deflated data can be");
    member->size = (size_t)size;
    return CAVMAE_OK;
}

static int compare_members(const void *a, const void *b) {
    const cavmae__zip_member *x = *(const cavmae__zip_member *const *)a, *y = *(const cavmae__zip_member *const *)b;
    int order = memcmp(x->name, y->name, x->name_length < y->name_length ? x->name_length : y->name_length);
    return order ? order : (x->name_length > y->name_length) - (x->name_length < y->name_length);
}

static int compare_extents(const void *a, const void *b) {
    const extent *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static cavmae_status read_directory(cavmae__zip *zip, const directory *d, extent *places) {
    uint64_t at = d->offset;
    for (int64_t i = 0; i < zip->count; i++) {
        CAVMAE__TRY(read_record(zip, d, &at, &zip->members[i], &places[i]));
        zip->by_name[i] = &zip->members[i];
    }
    if (at != d->offset + d->size) return damaged(zip, "its central directory has more records than it says");

    qsort(places, (size_t)zip->count, sizeof *places, compare_extents);
    for (int64_t i = 1; i < zip->count; i++)
        if (places[i].begin < places[i - 1].end)
            return bad_member(zip, places[i].member, "overlaps with the one before it");
    qsort(zip->by_name, (size_t)zip->count, sizeof *zip->by_name, compare_members);
    for (int64_t i = 1; i < zip->count; i++)
        if (compare_members(&zip->by_name[i - 1], &zip->by_name[i]) == 0)
            return bad_member(zip, zip->by_name[i], "is there twice");
    return CAVMAE_OK;
}

cavmae_status cavmae__zip_open(cavmae_context *context, cavmae__mapped_file *map, cavmae__zip **out) {
    extent *places = NULL;
    directory d = {0};
    cavmae_status status;
    cavmae__zip *zip = cavmae__alloc_zero(context, sizeof *zip);
    if (!zip) return CAVMAE_E_NOMEM;
    zip->context = cavmae__context_ref(context);
    zip->map = cavmae__mapped_file_ref(map);
    CAVMAE__TRY_OUT(read_end(zip, &d));
    zip->count = (int64_t)d.count;
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &zip->members, zip->count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &zip->by_name, zip->count));
    CAVMAE__TRY_OUT(CAVMAE__NEW(context, &places, zip->count));
    CAVMAE__TRY_OUT(read_directory(zip, &d, places));
    *out = zip;
    zip = NULL;
out:
    cavmae__free(context, places);
    cavmae__zip_free(zip);
    return status;
}

void cavmae__zip_free(cavmae__zip *zip) {
    if (!zip) return;
    cavmae_context *context = zip->context;
    cavmae__mapped_file_unref(zip->map);
    cavmae__free(context, zip->members);
    cavmae__free(context, zip->by_name);
    cavmae__free(context, zip);
    cavmae__context_unref(context);
}

/* ---- Members ---- */

const cavmae__zip_member *cavmae__zip_find(const cavmae__zip *zip, const char *name, size_t length) {
    const cavmae__zip_member wanted = {.name = name, .name_length = length}, *key = &wanted;
    const cavmae__zip_member *const *found =
        bsearch(&key, zip->by_name, (size_t)zip->count, sizeof *zip->by_name, compare_members);
    return found ? *found : NULL;
}

cavmae_status cavmae__zip_check_readable(const cavmae__zip *zip, const cavmae__zip_member *member) {
    char name[CAVMAE__PRINTABLE];
    cavmae__printable(name, member->name, member->name_length);
    if (member->flags & ENCRYPTED)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: member %s is encrypted", zip->map->path, name);
    if (member->method != CAVMAE__ZIP_STORED && member->method != CAVMAE__ZIP_DEFLATED)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "%s: member %s is compressed by method %d, not stored or deflated",
                            zip->map->path, name, member->method);
    return CAVMAE_OK;
}

cavmae_status cavmae__zip_check_crc(const cavmae__zip *zip, const cavmae__zip_member *member, uint32_t crc) {
    char name[CAVMAE__PRINTABLE];
    if (crc == member->crc || (member->method == CAVMAE__ZIP_STORED && member->crc == 0)) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_FORMAT, "%s: member %s is damaged: its CRC-32 is %08x, not %08x", zip->map->path,
                        cavmae__printable(name, member->name, member->name_length), (unsigned)crc,
                        (unsigned)member->crc);
}

static voidpf zlib_alloc(voidpf context, uInt count, uInt size) { return cavmae__alloc_array(context, count, size); }

static void zlib_free(voidpf context, voidpf memory) { cavmae__free(context, memory); }

static uInt at_most(size_t size) { return size < UINT_MAX ? (uInt)size : UINT_MAX; }

/* zlib's own status: Z_STREAM_END only where the data makes exactly `size` bytes, no more and no fewer. */
static int inflate_all(z_stream *stream, const cavmae__zip_member *member, unsigned char *out) {
    size_t in_left = member->stored_size, out_left = member->size;
    int result = Z_OK;
    stream->next_in = (Bytef *)(uintptr_t)member->data; /* zlib only reads it */
    stream->next_out = out;
    while (result == Z_OK) {
        uInt in = stream->avail_in = at_most(in_left), room = stream->avail_out = at_most(out_left);
        result = inflate(stream, Z_NO_FLUSH);
        in_left -= in - stream->avail_in;
        out_left -= room - stream->avail_out;
    }
    return result == Z_STREAM_END && (in_left || out_left) ? Z_DATA_ERROR : result;
}

static cavmae_status read_deflated(const cavmae__zip *zip, const cavmae__zip_member *member, void *out) {
    z_stream stream = {.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = zip->context};
    int result = inflateInit2(&stream, -MAX_WBITS); /* without zlib's own header */
    if (result == Z_OK) {
        result = inflate_all(&stream, member, out);
        inflateEnd(&stream);
    }
    if (result == Z_MEM_ERROR) return CAVMAE_E_NOMEM;
    if (result != Z_STREAM_END) return bad_member(zip, member, "is no deflated data of the size it claims");
    return CAVMAE_OK;
}

cavmae_status cavmae__zip_read(const cavmae__zip *zip, const cavmae__zip_member *member, void *out) {
    CAVMAE__TRY(cavmae__zip_check_readable(zip, member));
    if (member->method == CAVMAE__ZIP_DEFLATED)
        CAVMAE__TRY(read_deflated(zip, member, out));
    else if (member->size)
        memcpy(out, member->data, member->size);
    return cavmae__zip_check_crc(zip, member, cavmae__crc32(0, out, member->size));
}
