/* PyTorch files that lie: tensors, archives, the older form. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "check.h"
#include "checksum.h"
#include "torch_file.h"

static cavmae_context *context;
static char directory[] = "/tmp/cavmae-torch-test-XXXXXX", built[64];

#define P "\x80\x02"
#define PICKLE(text) text, sizeof text - 1

/* ---- Archives made here ---- */

typedef struct builder {
    char data[8192];
    size_t used;
    struct {
        const char *name;
        size_t offset, size;
        uint32_t crc;
    } members[8];
    int count;
    size_t central[8], end; /* of the records */
} builder;

static void put(builder *b, uint64_t number, size_t size) {
    memcpy(b->data + b->used, &number, size);
    b->used += size;
}

static void put_bytes(builder *b, const void *bytes, size_t size) {
    memcpy(b->data + b->used, bytes, size);
    b->used += size;
}

static void add_member(builder *b, const char *name, const void *data, size_t size) {
    uint32_t crc = cavmae__crc32(0, data, size);
    b->members[b->count].name = name;
    b->members[b->count].offset = b->used;
    b->members[b->count].size = size;
    b->members[b->count].crc = crc;
    b->count++;
    put(b, 0x04034b50, 4);
    put(b, 20, 2);
    put(b, 0, 8); /* flags, method, time */
    put(b, crc, 4);
    put(b, size, 4);
    put(b, size, 4);
    put(b, strlen(name), 2);
    put(b, 0, 2);
    put_bytes(b, name, strlen(name));
    put_bytes(b, data, size);
}

static void finish(builder *b) {
    size_t start = b->used;
    for (int i = 0; i < b->count; i++) {
        b->central[i] = b->used;
        put(b, 0x02014b50, 4);
        put(b, 20, 2);
        put(b, 20, 2);
        put(b, 0, 8);
        put(b, b->members[i].crc, 4);
        put(b, b->members[i].size, 4);
        put(b, b->members[i].size, 4);
        put(b, strlen(b->members[i].name), 2);
        put(b, 0, 8); /* extra, comment, disk, attributes */
        put(b, 0, 4);
        put(b, b->members[i].offset, 4);
        put_bytes(b, b->members[i].name, strlen(b->members[i].name));
    }
    b->end = b->used;
    put(b, 0x06054b50, 4);
    put(b, 0, 4);
    put(b, (uint64_t)b->count, 2);
    put(b, (uint64_t)b->count, 2);
    put(b, b->end - start, 4);
    put(b, start, 4);
    put(b, 0, 2);
}

static cavmae_status open_bytes(const void *data, size_t size) {
    cavmae_torch *file;
    FILE *out = fopen(built, "wb");
    CHECK(fwrite(data, 1, size, out) == size);
    fclose(out);
    cavmae_status status = cavmae_torch_open(context, built, &file);
    if (status == CAVMAE_OK) cavmae_torch_free(file);
    return status;
}

static cavmae_status open_built(const builder *b) { return open_bytes(b->data, b->used); }

/* {"t": _rebuild_tensor_v2(id, ...)}; `rest` starts with the storage's id. */
#define TENSOR(rest) P "}X\1\0\0\0tctorch._utils\n_rebuild_tensor_v2\n(" rest "tRs."
#define STORAGE(type, key, count) "(X\7\0\0\0storagectorch\n" type "Storage\nX\1\0\0\0" key "X\3\0\0\0cpu" count "tQ"
#define FLOATS STORAGE("Float", "0", "K\4") /* 16 bytes */

static cavmae_status open_pickle(const char *pickle, size_t size) {
    static const float data[4] = {1, 2, 3, 4};
    builder b = {.used = 0};
    add_member(&b, "x/data.pkl", pickle, size);
    add_member(&b, "x/data/0", data, sizeof data);
    finish(&b);
    return open_built(&b);
}

static void test_tensors(void) {
    static const struct {
        const char *text;
        size_t size;
    } good[] = {
        {PICKLE(TENSOR(FLOATS "K\0K\4\x85K\1\x85\x89}"))},
        {PICKLE(TENSOR(FLOATS "K\0K\2K\2\x86K\1K\2\x86\x89N"))},
        {PICKLE(TENSOR(FLOATS "K\3))\x89}"))},
        {PICKLE(TENSOR(FLOATS "K\xff"
                              "K\0K\xff\x86K\xffK\xff\x86\x89}"))},       /* empty: never read */
        {PICKLE(TENSOR(FLOATS "K\0K\1\x85J\xff\xff\xff\x7f\x85\x89}N"))}, /* one element: no stride */
        {PICKLE(TENSOR(STORAGE("Double", "0", "K\2") "K\1K\1\x85K\1\x85\x89}}"))},
        {PICKLE(P "}.")},
        {PICKLE(P "ccollections\nOrderedDict\n)R.")},
    };
    static const struct {
        const char *text;
        size_t size;
        cavmae_status status;
        const char *words;
    } bad[] = {
        {PICKLE(TENSOR(FLOATS "K\1K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "built: tensor t: it reaches to element 4 of a storage of 4"},
        {PICKLE(TENSOR(FLOATS "K\0K\4\x85K\2\x85\x89}")), CAVMAE_E_FORMAT, "reaches to element 6"},
        {PICKLE(TENSOR(FLOATS "K\4))\x89}")), CAVMAE_E_FORMAT, "reaches to element 4"},
        {PICKLE(TENSOR(FLOATS "J\xff\xff\xff\xffK\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "its offset"},
        {PICKLE(TENSOR(FLOATS "K\0J\xff\xff\xff\xff\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "its size is not of integers"},
        {PICKLE(TENSOR(FLOATS "K\3K\4\x85J\xff\xff\xff\xff\x85\x89}")), CAVMAE_E_FORMAT,
         "its stride is not of integers"},
        {PICKLE(TENSOR(FLOATS "K\0K\2\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x89}")), CAVMAE_E_FORMAT,
         "reaches to element 9223372036854775807"},
        {PICKLE(TENSOR(FLOATS "K\0K\3\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x89}")), CAVMAE_E_FORMAT,
         "its strides lead past any storage"},
        {PICKLE(TENSOR(FLOATS "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\2\x85K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "its strides lead past any storage"},
        {PICKLE(TENSOR(FLOATS "K\0\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x86K\0K\0\x86\x89}")), CAVMAE_E_FORMAT,
         "more bytes than memory has"},
        {PICKLE(TENSOR(FLOATS "K\0K\4\x85K\1K\1\x86\x89}")), CAVMAE_E_FORMAT, "1 sizes and 2 strides"},
        {PICKLE(TENSOR(FLOATS "K\0K\4K\1\x85\x89}")), CAVMAE_E_FORMAT, "its size is an integer"},
        {PICKLE(TENSOR(FLOATS "K\0]K\1\x85\x89}")), CAVMAE_E_FORMAT, "its size is a list"},
        {PICKLE(TENSOR(FLOATS "K\0N\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "its size is not of integers"},
        {PICKLE(TENSOR(FLOATS "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t)\x89}")), CAVMAE_E_UNSUPPORTED, "it has 9 dimensions"},
        {PICKLE(TENSOR(FLOATS "K\0")), CAVMAE_E_FORMAT, "made of 2 arguments"},
        {PICKLE(TENSOR("")), CAVMAE_E_FORMAT, "made of 0 arguments"},
        {PICKLE(TENSOR(FLOATS "K\0K\4\x85K\1\x85\x89}}X\3\0\0\0neg\x88s")), CAVMAE_E_UNSUPPORTED, "negated"},
        {PICKLE(TENSOR(FLOATS "K\0K\4\x85K\1\x85\x89}K\1")), CAVMAE_E_UNSUPPORTED, "negated"},
        {PICKLE(TENSOR("NK\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "a storage is not told by"},
        {PICKLE(TENSOR("NNNNN(tQK\0K\4\x85K\1\x85")), CAVMAE_E_FORMAT, "made of 9 arguments"},
        {PICKLE(TENSOR("(NNNNNtQK\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "a storage is not told by"},
        {PICKLE(TENSOR("(tQK\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "a storage is not told by"},
        {PICKLE(TENSOR(STORAGE("Float", "1", "K\4") "K\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "storage 1 is not in the archive"},
        {PICKLE(TENSOR(STORAGE("Float", "0", "K\5") "K\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "storage 0 has another size in the archive"},
        {PICKLE(TENSOR(STORAGE("Double", "0", "K\4") "K\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT, "another size"},
        {PICKLE(TENSOR(STORAGE("Float", "0", "J\xff\xff\xff\xff") "K\0)K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "a storage of -1 elements"},
        {PICKLE(TENSOR(STORAGE("Float", "0", "\x8a\x08\4\0\0\0\0\0\0\x40") "K\0K\4\x85K\1\x85\x89}")), CAVMAE_E_FORMAT,
         "a storage of 4611686018427387908 elements"}, /* times 4 it would be 16 bytes */
        {PICKLE(TENSOR("(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                       "0X\3\0\0\0cpuK\4}tQK\0))\x89}")),
         CAVMAE_E_UNSUPPORTED, "a view of another"},
        {PICKLE(TENSOR("(X\7\0\0\0storagectorch\nSize\nX\1\0\0\0"
                       "0X\3\0\0\0cpuK\4tQK\0))\x89}")),
         CAVMAE_E_FORMAT, "a storage is not told by"},
        {PICKLE(P "N."), CAVMAE_E_FORMAT, "built: holds None, not a dictionary of tensors"},
        {PICKLE(P "]."), CAVMAE_E_FORMAT, "holds a list"},
        {PICKLE(P "}X\1\0\0\0aK\1s."), CAVMAE_E_FORMAT, "its dictionary has no tensors"},
        {PICKLE(P "}X\5\0\0\0model}s."), CAVMAE_E_FORMAT, "its dictionary has no tensors"},
        {PICKLE(P "}K\1ctorch._utils\n_rebuild_tensor_v2\n)Rs."), CAVMAE_E_FORMAT, "its dictionary has no tensors"},
        {PICKLE(P "}X\2\0\0\0\xc3(ctorch._utils\n_rebuild_tensor_v2\n)Rs."), CAVMAE_E_FORMAT, "name is not UTF-8"},
        {PICKLE(P "}X\2\0\0\0a\0ctorch._utils\n_rebuild_tensor_v2\n)Rs."), CAVMAE_E_FORMAT, "has a zero in it"},
        {PICKLE(P "}X\1\0\0\0actorch._utils\n_rebuild_parameter\n)Rs."), CAVMAE_E_FORMAT, "made of no tensor"},
        {PICKLE(P "}X\1\0\0\0actorch._utils\n_rebuild_parameter\nq\1h\1)R\x85Rs."), CAVMAE_E_FORMAT,
         "made of a parameter"},
        {PICKLE(P "}(X\1\0\0\0tctorch._utils\n_rebuild_tensor_v2\nq\1(" FLOATS "q\2K\0))tRX\1\0\0\0th\1(h\2K\0))tRu."),
         CAVMAE_E_FORMAT, "tensor t is there twice"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!CHECK_OK(open_pickle(good[i].text, good[i].size))) printf("  tensor %zu\n", i);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!CHECK_STATUS(open_pickle(bad[i].text, bad[i].size), bad[i].status) ||
            !CHECK(strstr(cavmae_last_error(), bad[i].words) != NULL))
            printf("  tensor %zu: %s\n", i, cavmae_last_error());
    CHECK(strstr(cavmae_last_error(), "built: tensor t is there twice") != NULL);

    /* Where a dimension is 1, any stride will do for a view. */
    cavmae_torch *file;
    CHECK_OK(open_pickle(PICKLE(TENSOR(FLOATS "K\1K\1K\3\x86K\7K\1\x86\x89}"))));
    CHECK_OK(cavmae_torch_open(context, built, &file));
    CHECK(cavmae__torch_find(file, "t")->data != NULL);
    cavmae_torch_free(file);
}

/* Which dictionary counts. */
static void test_places(void) {
#define EMPTY "ctorch._utils\n_rebuild_tensor_v2\n(" FLOATS "K\0))tR"
    static const struct {
        const char *text;
        size_t size;
        const char *name;
    } good[] = {
        {PICKLE(P "}(X\1\0\0\0a" EMPTY "X\1\0\0\0b}X\1\0\0\0c" EMPTY "su."), "a"},
        {PICKLE(P "}(X\1\0\0\0a" EMPTY "X\5\0\0\0model}X\1\0\0\0c" EMPTY "su."), "c"},
        {PICKLE(P "}(X\5\0\0\0model}X\1\0\0\0a" EMPTY "sX\5\0\0\0model}X\1\0\0\0b" EMPTY "su."), "b"},
        {PICKLE(P "}(X\12\0\0\0state_dict}X\1\0\0\0a" EMPTY "sX\5\0\0\0model}u."), "a"},
        {PICKLE(P "}X\20\0\0\0model_state_dict}X\1\0\0\0a" EMPTY "ss."), "a"},
        {PICKLE(P "}X\10\0\0\0module.a" EMPTY "s."), "a"},
        {PICKLE(P "}X\7\0\0\0module." EMPTY "s."), "module."},
        {PICKLE(P "}q\1(X\1\0\0\0a" EMPTY "X\5\0\0\0modelh\1u."), "a"}, /* a dictionary in itself */
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cavmae_torch *file;
        if (!CHECK_OK(open_pickle(good[i].text, good[i].size))) continue;
        CHECK_OK(cavmae_torch_open(context, built, &file));
        if (!CHECK(cavmae_torch_count(file) == 1 && strcmp(cavmae_torch_name(file, 0), good[i].name) == 0))
            printf("  dictionary %zu\n", i);
        cavmae_torch_free(file);
    }
}

/* ---- Archives that lie ---- */

static const char tensor_pickle[] = TENSOR(FLOATS "K\0K\4\x85K\1\x85\x89}");
static const float four[4] = {1, 2, 3, 4};

static builder whole_archive(void) {
    builder b = {.used = 0};
    add_member(&b, "x/data.pkl", tensor_pickle, sizeof tensor_pickle - 1);
    add_member(&b, "x/data/0", four, sizeof four);
    add_member(&b, "x/version", "3\n", 2);
    finish(&b);
    return b;
}

/* Of a whole archive with `size` bytes at `at` replaced by a number. */
static void check_lie(size_t at, uint64_t number, size_t size, cavmae_status status, const char *words) {
    builder b = whole_archive();
    memcpy(b.data + at, &number, size);
    if (!CHECK_STATUS(open_built(&b), status) || !CHECK(strstr(cavmae_last_error(), words) != NULL))
        printf("  %llx at %zu: %s\n", (unsigned long long)number, at, cavmae_last_error());
}

static void test_lies(void) {
    builder b = whole_archive();
    CHECK_OK(open_built(&b));
    size_t local = b.members[1].offset, central = b.central[1], end = b.end;
    const char *outside = "member x/data/0 does not lie before the central directory", *broken = "directory is broken";
    check_lie(central, 0, 4, CAVMAE_E_FORMAT, broken);
    check_lie(central + 8, 1, 2, CAVMAE_E_UNSUPPORTED, "member x/data/0 is encrypted");
    check_lie(central + 10, 8, 2, CAVMAE_E_FORMAT, "another name or method");
    check_lie(local + 8, 8, 2, CAVMAE_E_FORMAT, "another name or method");
    check_lie(central + 16, 1, 4, CAVMAE_E_FORMAT, "member x/data/0 is damaged: its CRC-32 is");
    check_lie(central + 20, 1000000, 4, CAVMAE_E_FORMAT, outside);
    check_lie(central + 20, UINT32_MAX, 4, CAVMAE_E_FORMAT, outside);
    check_lie(central + 20, 17, 4, CAVMAE_E_FORMAT, "stored in another size");
    check_lie(central + 24, 17, 4, CAVMAE_E_FORMAT, "stored in another size");
    check_lie(central + 24, UINT32_MAX, 4, CAVMAE_E_FORMAT, "stored in another size");
    check_lie(central + 28, UINT16_MAX, 2, CAVMAE_E_FORMAT, broken);
    check_lie(central + 30, 5, 2, CAVMAE_E_FORMAT, "extra fields that run past their end");
    check_lie(central + 32, UINT16_MAX, 2, CAVMAE_E_FORMAT, broken);
    check_lie(central + 42, UINT32_MAX, 4, CAVMAE_E_FORMAT, outside);
    check_lie(central + 42, b.central[0] - 20, 4, CAVMAE_E_FORMAT, outside);
    check_lie(central + 42, local + 1, 4, CAVMAE_E_FORMAT, "has no header");
    check_lie(central + 42, 0, 4, CAVMAE_E_FORMAT, "another name or method");
    check_lie(central + 46, 'X', 1, CAVMAE_E_FORMAT, "another name or method");
    check_lie(local, 0, 4, CAVMAE_E_FORMAT, "has no header");
    check_lie(local + 26, 7, 2, CAVMAE_E_FORMAT, "another name or method");
    check_lie(local + 28, UINT16_MAX, 2, CAVMAE_E_FORMAT, outside);
    check_lie(local + 28, 1, 2, CAVMAE_E_FORMAT, "member x/version overlaps"); /* by one byte */
    check_lie(end + 4, 1, 2, CAVMAE_E_FORMAT, "several parts");
    check_lie(end + 8, 2, 2, CAVMAE_E_FORMAT, "several parts");
    check_lie(end + 8, 0x00020002, 4, CAVMAE_E_FORMAT, "more records than it says");
    check_lie(end + 8, 0x00040004, 4, CAVMAE_E_FORMAT, "not within the file");
    check_lie(end + 8, UINT32_MAX, 4, CAVMAE_E_FORMAT, "not within the file");
    check_lie(end + 12, UINT32_MAX, 4, CAVMAE_E_FORMAT, "not within the file");
    check_lie(end + 16, UINT32_MAX, 4, CAVMAE_E_FORMAT, "not within the file");
    check_lie(end + 16, b.central[0] - 1, 4, CAVMAE_E_FORMAT, broken);
    check_lie(end + 20, 1, 2, CAVMAE_E_FORMAT, "no end record");

    b = whole_archive(); /* a recorded CRC-32 of 0: none */
    memset(b.data + b.central[1] + 16, 0, 4);
    CHECK_OK(open_built(&b));
    b = whole_archive();
    memset(b.data + b.end - 1, 'X', 1); /* "x/versioX" */
    CHECK_STATUS(open_built(&b), CAVMAE_E_FORMAT);

    /* Method 12 is fine where nothing needs it. */
    for (int i = 1; i <= 2; i++) {
        b = whole_archive();
        b.data[b.members[i].offset + 8] = b.data[b.central[i] + 10] = 12;
        CHECK_STATUS(open_built(&b), i == 1 ? CAVMAE_E_UNSUPPORTED : CAVMAE_OK);
        if (i == 1) CHECK(strstr(cavmae_last_error(), "member x/data/0 is compressed by method 12") != NULL);
    }
    CHECK_STATUS(open_bytes("PK\3\4", 4), CAVMAE_E_FORMAT);
    CHECK_STATUS(open_bytes("", 0), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "the file is empty") != NULL);
    CHECK_STATUS(open_bytes("{}", 2), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "neither a zip archive nor a pickle") != NULL);
}

static void test_members(void) {
    builder b = {.used = 0};
    add_member(&b, "x/data.pkl", tensor_pickle, sizeof tensor_pickle - 1);
    add_member(&b, "x/data/0", four, sizeof four);
    add_member(&b, "x/data/0", four, sizeof four);
    finish(&b);
    CHECK_STATUS(open_built(&b), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "member x/data/0 is there twice") != NULL);

    b = (builder){.used = 0}; /* a member in another one's data */
    builder inner = {.used = 0};
    add_member(&inner, "x/version", "3\n", 2);
    add_member(&b, "x/data.pkl", tensor_pickle, sizeof tensor_pickle - 1);
    add_member(&b, "x/data/0", four, sizeof four);
    size_t at = b.used;
    add_member(&b, "x/outer", inner.data, inner.used);
    b.members[3] = inner.members[0];
    b.members[3].offset = at + 30 + 7;
    b.count = 4;
    finish(&b);
    CHECK_STATUS(open_built(&b), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "member x/version overlaps") != NULL);

    static const char *const names[] = {"data.pkl", "y/data.pkl", "x/y/data.pkl", "xdata.pkl", "x/data.pkl2"};
    for (int i = 0; i < 5; i++) {
        b = (builder){.used = 0};
        add_member(&b, names[i], P "}.", 4);
        finish(&b);
        CHECK_STATUS(open_built(&b), i < 2 ? CAVMAE_OK : CAVMAE_E_FORMAT);
        if (i >= 2) CHECK(strstr(cavmae_last_error(), "none of torch.save's: no data.pkl") != NULL);
    }
    static const char *const orders[] = {"little", "big", "", "little\n", "middle endian"};
    for (int i = 0; i < 5; i++) {
        b = (builder){.used = 0};
        add_member(&b, "x/byteorder", orders[i], strlen(orders[i]));
        add_member(&b, "x/data.pkl", P "}.", 4);
        finish(&b);
        CHECK_STATUS(open_built(&b), i == 0 ? CAVMAE_OK : CAVMAE_E_UNSUPPORTED);
    }
}

/* The end of a whole archive, with zip64's records; what lies is at an offset from the first of them. */
static builder wide_archive(void) {
    builder b = whole_archive();
    size_t start = b.central[0];
    b.used = b.end;
    put(&b, 0x06064b50, 4);
    put(&b, 44, 8);
    put(&b, 45, 4);
    put(&b, 0, 8);
    put(&b, 3, 8);
    put(&b, 3, 8);
    put(&b, b.end - start, 8);
    put(&b, start, 8);
    put(&b, 0x07064b50, 4);
    put(&b, 0, 4);
    put(&b, b.end, 8);
    put(&b, 1, 4);
    put(&b, 0x06054b50, 4);
    put(&b, 0, 4);
    put(&b, UINT32_MAX, 4);
    put(&b, UINT64_MAX, 8);
    put(&b, 0, 2);
    return b;
}

static void test_zip64_lies(void) {
    static const struct {
        size_t at, size;
        uint64_t number;
        const char *words;
    } lies[] = {
        {0, 4, 0, "zip64 record is not where"},
        {16, 4, 1, "several parts"},
        {24, 8, 4, "several parts"},
        {40, 8, UINT64_MAX, "not within the file"},
        {40, 8, (uint64_t)1 << 63, "not within the file"},
        {48, 8, UINT64_MAX, "not within the file"},
        {48, 8, 1, "directory is broken"},
        {56 + 8, 8, UINT64_MAX, "zip64 record is not where"},
        {56 + 8, 8, 0, "zip64 record is not where"},
        {56 + 20 + 10, 2, 2, "contradicts"},
        {56 + 20 + 12, 4, 2, "contradicts"},
        {56 + 20 + 16, 4, 2, "contradicts"},
    };
    builder b = wide_archive();
    CHECK_OK(open_built(&b));
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        b = wide_archive();
        memcpy(b.data + b.end + lies[i].at, &lies[i].number, lies[i].size);
        if (!CHECK_STATUS(open_built(&b), CAVMAE_E_FORMAT) ||
            !CHECK(strstr(cavmae_last_error(), lies[i].words) != NULL))
            printf("  lie %zu: %s\n", i, cavmae_last_error());
    }
    b = wide_archive(); /* so many members that memory for them could not be had */
    uint64_t many = (uint64_t)1 << 60;
    memcpy(b.data + b.end + 24, &many, 8);
    memcpy(b.data + b.end + 32, &many, 8);
    CHECK_STATUS(open_built(&b), CAVMAE_E_FORMAT);

    /* One record with sizes in an extra field: whole, too short, past its end. */
    static const struct {
        const char *extra;
        size_t size;
        cavmae_status status;
    } extras[] = {
        {PICKLE("\1\0\20\0\4\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"), CAVMAE_OK},
        {PICKLE("\5\0\1\0x\1\0\20\0\4\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\0"), CAVMAE_OK},
        {PICKLE("\1\0\10\0\4\0\0\0\0\0\0\0"), CAVMAE_E_FORMAT},
        {PICKLE("\1\0\20\0\4\0\0\0\0\0\0\0\4\0\0\0"), CAVMAE_E_FORMAT},
        {PICKLE("\1\0\20\0\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"), CAVMAE_E_FORMAT},
        {PICKLE("\1\0\20\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), CAVMAE_E_FORMAT},
        {PICKLE("\2\0\0\0"), CAVMAE_E_FORMAT},
        {PICKLE(""), CAVMAE_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++) {
        b = (builder){.used = 0};
        add_member(&b, "x/data.pkl", P "}.", 4);
        finish(&b);
        size_t directory_size = b.end - b.central[0] + extras[i].size;
        memset(b.data + b.central[0] + 20, 0xff, 8);
        memcpy(b.data + b.central[0] + 30, &extras[i].size, 2);
        memmove(b.data + b.end + extras[i].size, b.data + b.end, b.used - b.end);
        memcpy(b.data + b.end, extras[i].extra, extras[i].size);
        memcpy(b.data + b.end + extras[i].size + 12, &directory_size, 4);
        b.used += extras[i].size;
        if (!CHECK_STATUS(open_built(&b), extras[i].status)) printf("  extra %zu\n", i);
    }
}

/* ---- Deflated members ---- */

static size_t deflate_raw(const void *data, size_t size, void *out, size_t room) {
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)size, .next_out = out};
    stream.avail_out = (uInt)room;
    CHECK(deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&stream);
    return room - stream.avail_out;
}

/* A storage of 4 MiB of zeros that lies about its size by `more`; cut by `cut`; its last byte but one changed. */
static cavmae_status open_deflated(int64_t more, size_t cut, int damage) {
    static char zeros[4 << 20], packed[6000];
    char pickle[200], head[] = "(X\7\0\0\0storagectorch\nByteStorage\nX\1\0\0\0"
                               "0X\3\0\0\0cpu";
    size_t size = sizeof zeros, claimed = size + (size_t)more, length = deflate_raw(zeros, size, packed, sizeof packed);
    builder b = {.used = 0}, p = {.used = 0};
    cavmae_torch *file;
    cavmae_tensor *tensor;
    if (damage) packed[length / 2] ^= 1;
    put_bytes(&p, PICKLE(P "}X\1\0\0\0tctorch._utils\n_rebuild_tensor_v2\n("));
    put_bytes(&p, head, sizeof head - 1);
    put(&p, 'J', 1);
    put(&p, claimed, 4);
    put_bytes(&p, PICKLE("tQK\0J"));
    put(&p, claimed, 4);
    put_bytes(&p, PICKLE("\x85K\1\x85\x89}tRs."));
    CHECK(p.used < sizeof pickle);
    memcpy(pickle, p.data, p.used);
    add_member(&b, "x/data.pkl", pickle, p.used);
    add_member(&b, "x/data/0", packed, length - cut);
    finish(&b);
    uint32_t crc = cavmae__crc32(0, zeros, size);
    b.data[b.members[1].offset + 8] = b.data[b.central[1] + 10] = 8;
    memcpy(b.data + b.central[1] + 16, &crc, 4);
    memcpy(b.data + b.central[1] + 24, &claimed, 4);
    cavmae_status status = open_built(&b);
    if (status != CAVMAE_OK) return status;
    CHECK_OK(cavmae_torch_open(context, built, &file));
    status = cavmae_torch_get(file, "t", &tensor);
    cavmae_torch_free(file);
    if (status != CAVMAE_OK) return status;
    CHECK(cavmae_tensor_elements(tensor) == (int64_t)size && memcmp(cavmae_tensor_data(tensor), zeros, size) == 0);
    cavmae_tensor_free(tensor);
    return CAVMAE_OK;
}

static void test_deflated(void) {
    CHECK_OK(open_deflated(0, 0, 0));
    CHECK_STATUS(open_deflated(1, 0, 0), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "member x/data/0 is no deflated data of the size it claims") != NULL);
    CHECK_STATUS(open_deflated(-1, 0, 0), CAVMAE_E_FORMAT);
    CHECK_STATUS(open_deflated(0, 1, 0), CAVMAE_E_FORMAT);
    CHECK_STATUS(open_deflated(0, 0, 1), CAVMAE_E_FORMAT);
    CHECK_STATUS(open_deflated(1 << 20, 0, 0), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "claims to be larger than deflated data can be") != NULL);
}

/* ---- The older form ---- */

#define PREAMBLE                                                                                                       \
    "\x80\2\x8a\nl\xfc\x9c"                                                                                            \
    "F\xf9 j\xa8P\x19."                                                                                                \
    "\x80\2M\xe9\3."                                                                                                   \
    "\x80\2}."
#define OLD_STORAGE(count)                                                                                             \
    "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                                                 \
    "0X\3\0\0\0cpu" count "NtQ"
#define OLD TENSOR(OLD_STORAGE("K\1") "K\0K\1\x85K\1\x85\x89}")
#define KEYS                                                                                                           \
    P "]X\1\0\0\0"                                                                                                     \
      "0a."
#define NUMBER "\0\0\x80\x3f"

static void test_older(void) {
    static const struct {
        const char *text;
        size_t size;
        cavmae_status status;
        const char *words;
    } files[] = {
        {PICKLE(PREAMBLE OLD KEYS "\1\0\0\0\0\0\0\0" NUMBER), CAVMAE_OK, ""},
        {PICKLE(PREAMBLE P "}." P "]."), CAVMAE_OK, ""},
        {PICKLE(P "}."), CAVMAE_E_FORMAT, "a pickle, but none of torch.save's"},
        {PICKLE(P "M\xe9\3."), CAVMAE_E_FORMAT, "a pickle, but none of torch.save's"},
        {PICKLE("\x80\2\x8a\nl\xfc\x9c"
                "F\xf9 j\xa8P\x19."
                "\x80\2M\xea\3."),
         CAVMAE_E_UNSUPPORTED, "is not 1001"},
        {PICKLE(PREAMBLE P "cposix\nsystem\n)R."), CAVMAE_E_UNSUPPORTED, "object: byte 2: pickle wants 'posix.system'"},
        {PICKLE(PREAMBLE P "}." P "cposix\nsystem\n)R."), CAVMAE_E_UNSUPPORTED,
         "keys: byte 2: pickle wants 'posix.sys"},
        {PICKLE(PREAMBLE P "}." P "}."), CAVMAE_E_FORMAT, "keys are a dictionary, not a list"},
        {PICKLE(PREAMBLE OLD P "]."
                               "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "storage 0 is not in the file"},
        {PICKLE(PREAMBLE OLD P "]N\x61."
                               "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "one that no tensor is in"},
        {PICKLE(PREAMBLE OLD P "]X\1\0\0\0"
                               "1a."
                               "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "one that no tensor is in"},
        {PICKLE(PREAMBLE OLD P "](X\1\0\0\0"
                               "0X\1\0\0\0"
                               "0e."
                               "\1\0\0\0\0\0\0\0" NUMBER "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "or one twice"},
        {PICKLE(PREAMBLE OLD KEYS "\2\0\0\0\0\0\0\0" NUMBER NUMBER), CAVMAE_E_FORMAT, "storage 0 has another size"},
        {PICKLE(PREAMBLE OLD KEYS "\1\0\0\0\0\0\0\0\0\0\0"), CAVMAE_E_FORMAT, "storage 0 is cut off"},
        {PICKLE(PREAMBLE OLD KEYS "\1\0\0\0\0\0\0"), CAVMAE_E_FORMAT, "storage 0 is cut off"},
        {PICKLE(PREAMBLE TENSOR(OLD_STORAGE("J\xff\xff\xff\xff") "K\0))\x89}") KEYS "\xff\xff\xff\xff\xff\xff\xff\xff"),
         CAVMAE_E_FORMAT, "a storage of -1 elements"},
        {PICKLE(PREAMBLE TENSOR(OLD_STORAGE("\x8a\x08\0\0\0\0\0\0\0\x10") "K\0))\x89}") KEYS "\0\0\0\0\0\0\0\x10"),
         CAVMAE_E_FORMAT, "storage 0 is cut off"},
        {PICKLE(PREAMBLE P "](" OLD_STORAGE("K\1") OLD_STORAGE("K\2") "e." KEYS "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "told with two sizes"},
        {PICKLE(PREAMBLE P "](" OLD_STORAGE("K\1") OLD_STORAGE("K\1") "e." KEYS "\1\0\0\0\0\0\0\0" NUMBER),
         CAVMAE_E_FORMAT, "holds a list"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!CHECK_STATUS(open_bytes(files[i].text, files[i].size), files[i].status) ||
            !CHECK(strstr(files[i].status == CAVMAE_OK ? "" : cavmae_last_error(), files[i].words) != NULL))
            printf("  file %zu: %s\n", i, cavmae_last_error());
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    snprintf(built, sizeof built, "%s/built", directory);
    CHECK_OK(cavmae_context_create(NULL, &context));
    test_tensors();
    test_places();
    test_lies();
    test_members();
    test_zip64_lies();
    test_deflated();
    test_older();
    cavmae_context_free(context);
    unlink(built);
    CHECK(rmdir(directory) == 0);
    return check_summary("torch_hostile");
}
