/* lib/io without media: JSON, mapped and atomic files, safetensors, .npy. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomic_file.h"
#include "check.h"
#include "checksum.h"
#include "failing_allocator.h"
#include "json.h"
#include "mapped_file.h"
#include "safetensors.h"
#include "test_files.h"

static cavmae_context *context;

/* ---- JSON ---- */

static cavmae_status check_json(const char *text, size_t length) {
    char *exact = malloc(length ? length : 1);
    cavmae__json json;
    memcpy(exact, text, length);
    cavmae__json_open(&json, exact, length, "test.json");
    cavmae_status status = cavmae__json_skip(&json);
    if (status == CAVMAE_OK) status = cavmae__json_end(&json);
    if (status == CAVMAE_OK) CHECK(json.depth == 0);
    free(exact);
    return status;
}

static void test_json_grammar(void) {
    static const char *const good[] = {
        "{}",
        "[]",
        " [ ] ",
        "0",
        "-0",
        "-0.0e+1",
        "1e5",
        "1E-2",
        "123.5",
        "true",
        "false",
        "null",
        "\"\"",
        "\"a\\u00e9\\n\\/\"",
        "\"\\ud83d\\ude00\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\xed\x9f\xbf\"",
        "\"\x7f\"",
        "[1,2,[3,{\"a\":[]}]]",
        "{\"a\":1,\"b\":{\"c\":null}}",
        "\t\r\n{ \"a\" : [ 1 , 2 ] }\n",
        "[[],[]]",
        "[{}]",
        "[\"[\",1]",
        "{\"{\":1}",
    };
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "[1}",
        "{\"a\":1]",
        "]",
        "}",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "Infinity",
        "tru",
        "truex",
        "nul",
        "True",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\ud800x\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "\"\x01\"",
        "\"\x80\"",
        "\"\xc0\x80\"",
        "\"\xc3\"",
        "\"\xe0\x80\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xf5\x80\x80\x80\"",
        "'a'",
        "1 2",
        "{} {}",
        "[] x",
        "// c\n1",
        "\xef\xbb\xbf{}",
        "[1]\v",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) CHECK_OK(check_json(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!CHECK_STATUS(check_json(bad[i], strlen(bad[i])), CAVMAE_E_FORMAT)) printf("  for %s\n", bad[i]);
    CHECK_STATUS(check_json("[\"a\0b\"]", 7), CAVMAE_E_FORMAT);
    CHECK_STATUS(check_json("1\0", 2), CAVMAE_E_FORMAT);

    const char *whole = "{\"a\": [1.5e3, \"\\ud83d\\ude00\", true], \"b\": {\"c\": null}}";
    for (size_t length = 0; length < strlen(whole); length++) CHECK_STATUS(check_json(whole, length), CAVMAE_E_FORMAT);

    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    CHECK_OK(check_json(deep + 36, 128));
    CHECK_STATUS(check_json(deep + 35, 130), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "test.json: byte 64: nested more than 64 deep") != NULL);
}

static void test_json_values(void) {
    const char *text = "{\"n\": -9223372036854775808, \"m\": 9223372036854775807, \"x\": -1.5e-3, \"s\": "
                       "\"\\\"\\\\\\b\\u00e9\\ud83d\\ude00z\", "
                       "\"\\u0061b\": [9223372036854775808, 1.0, 1e999, \"\\u0000\"]}";
    cavmae__json json;
    cavmae__json_string key, string;
    char out[64];
    size_t length;
    int64_t integer = 5;
    double real;
    int more;
    cavmae__json_open(&json, text, strlen(text), "t");
    CHECK(cavmae__json_peek(&json) == CAVMAE__JSON_OBJECT);
    CHECK_STATUS(cavmae__json_enter(&json, CAVMAE__JSON_ARRAY), CAVMAE_E_FORMAT);
    CHECK_OK(cavmae__json_enter(&json, CAVMAE__JSON_OBJECT));
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK(more && cavmae__json_is(&key, "n") && !cavmae__json_is(&key, "nn") && !cavmae__json_is(&key, ""));
    CHECK(cavmae__json_peek(&json) == CAVMAE__JSON_NUMBER);
    CHECK_OK(cavmae__json_i64(&json, &integer));
    CHECK(integer == INT64_MIN);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK_OK(cavmae__json_i64(&json, &integer));
    CHECK(integer == INT64_MAX);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK_OK(cavmae__json_f64(&json, &real));
    CHECK(real == -1.5e-3);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK_OK(cavmae__json_string_value(&json, &string));
    CHECK(string.escaped && cavmae__json_is(&string, "\"\\\b\xc3\xa9\xf0\x9f\x98\x80z"));
    CHECK(!cavmae__json_is(&string, "\"\\\b\xc3\xa9\xf0\x9f\x98\x80") &&
          !cavmae__json_is(&string, "\"\\\b\xc3\xa9\xf0\x9f\x98\x80zz"));
    CHECK_OK(cavmae__json_unescape(&json, &string, out, &length));
    CHECK(length == 10 && strcmp(out, "\"\\\b\xc3\xa9\xf0\x9f\x98\x80z") == 0);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK(cavmae__json_is(&key, "ab"));
    CHECK_OK(cavmae__json_enter(&json, CAVMAE__JSON_ARRAY));
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_ARRAY, NULL, &more));
    CHECK_STATUS(cavmae__json_i64(&json, &integer), CAVMAE_E_FORMAT);
    CHECK(integer == INT64_MAX);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_ARRAY, NULL, &more));
    CHECK_STATUS(cavmae__json_i64(&json, &integer), CAVMAE_E_FORMAT);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_ARRAY, NULL, &more));
    CHECK_STATUS(cavmae__json_f64(&json, &real), CAVMAE_E_FORMAT);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_ARRAY, NULL, &more));
    CHECK_OK(cavmae__json_string_value(&json, &string));
    CHECK(!cavmae__json_is(&string, ""));
    CHECK_STATUS(cavmae__json_unescape(&json, &string, out, &length), CAVMAE_E_FORMAT);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_ARRAY, NULL, &more));
    CHECK(!more);
    CHECK_OK(cavmae__json_next(&json, CAVMAE__JSON_OBJECT, &key, &more));
    CHECK(!more);
    CHECK_OK(cavmae__json_end(&json));
    CHECK(cavmae__json_peek(&json) == CAVMAE__JSON_END);
}

/* ---- Files ---- */

static void test_mapped_file(void) {
    cavmae__mapped_file *file, *again;
    put_file(in_directory("m"), "abc", 3);
    CHECK_OK(cavmae__mapped_file_open(context, in_directory("m"), &file));
    again = cavmae__mapped_file_ref(file);
    unlink(in_directory("m"));
    cavmae__mapped_file_unref(file);
    CHECK(again->size == 3 && memcmp(again->data, "abc", 3) == 0);
    cavmae__mapped_file_unref(again);
    cavmae__mapped_file_unref(NULL);

    put_file(in_directory("m"), "", 0);
    CHECK_OK(cavmae__mapped_file_open(context, in_directory("m"), &file));
    CHECK(file->size == 0);
    cavmae__mapped_file_unref(file);
    unlink(in_directory("m"));
    CHECK_STATUS(cavmae__mapped_file_open(context, in_directory("m"), &file), CAVMAE_E_IO);
    CHECK(strstr(cavmae_last_error(), "/m: cannot open: No such file") != NULL);
    CHECK_STATUS(cavmae__mapped_file_open(context, directory, &file), CAVMAE_E_IO);
    mkfifo(in_directory("pipe"), 0600);
    CHECK_STATUS(cavmae__mapped_file_open(context, in_directory("pipe"), &file), CAVMAE_E_IO);
    unlink(in_directory("pipe"));
}

static void test_atomic_file(void) {
    static char data[100000];
    cavmae__atomic_file file;
    struct stat info;
    size_t size;
    const char *path = in_directory("a");
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * 7 + i / 256);

    mode_t mask = umask(027);
    CHECK_OK(cavmae__atomic_file_open(&file, path));
    for (size_t at = 0, piece = 1; at < sizeof data; at += piece, piece = piece * 3 % 30011) {
        if (piece > sizeof data - at) piece = sizeof data - at;
        CHECK_OK(cavmae__atomic_file_write(&file, data + at, piece));
    }
    CHECK(access(path, F_OK) != 0);
    CHECK_OK(cavmae__atomic_file_commit(&file));
    umask(mask);
    char *read = get_file(path, &size);
    CHECK(size == sizeof data && memcmp(read, data, size) == 0);
    free(read);
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0640);

    CHECK_OK(cavmae__atomic_file_open(&file, path));
    CHECK_OK(cavmae__atomic_file_write(&file, "new", 3));
    cavmae__atomic_file_abandon(&file);
    CHECK(stat(path, &info) == 0 && info.st_size == sizeof data);
    CHECK(files_in_directory() == 1);

    /* A disk that is full, as far as this process can tell. */
    struct rlimit limit, small;
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK_OK(cavmae__atomic_file_open(&file, path));
    CHECK_STATUS(cavmae__atomic_file_write(&file, data, sizeof data), CAVMAE_E_IO);
    CHECK(strstr(cavmae_last_error(), "/a: cannot write: File too large") != NULL);
    cavmae__atomic_file_abandon(&file);
    CHECK_OK(cavmae__atomic_file_open(&file, path));
    CHECK_OK(cavmae__atomic_file_write(&file, data, 45000));
    CHECK_OK(cavmae__atomic_file_write(&file, data, 6000));
    CHECK_STATUS(cavmae__atomic_file_commit(&file), CAVMAE_E_IO);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(stat(path, &info) == 0 && info.st_size == sizeof data);
    CHECK(files_in_directory() == 1);
    unlink(path);

    CHECK_STATUS(cavmae__atomic_file_open(&file, in_directory("no/such")), CAVMAE_E_IO);
    CHECK_STATUS(cavmae__atomic_file_open(&file, in_directory("")), CAVMAE_E_IO);
    CHECK_STATUS(cavmae__atomic_file_open(&file, "/dev/null"), CAVMAE_E_IO);
    CHECK_STATUS(cavmae__atomic_file_open(&file, ""), CAVMAE_E_IO);
    CHECK(files_in_directory() == 0);
}

static void test_checksums(void) {
    size_t size = (9u << 20) + 5;
    unsigned char *data = malloc(size);
    for (size_t i = 0; i < size; i++) data[i] = (unsigned char)(i * 31 + i / 1000);
    cavmae__checksum arrays[] = {{NULL, 0, 1}, {data, size, 0}, {"123456789", 9, 0}, {data, 4u << 20, 0}};
    CHECK_OK(cavmae__checksums(context, arrays, 4));
    CHECK(arrays[0].crc == 0);
    CHECK(arrays[1].crc == cavmae__crc32(cavmae__crc32(0, data, 1000), data + 1000, size - 1000));
    CHECK(arrays[2].crc == 0xCBF43926u); /* the standard's check value */
    CHECK(arrays[3].crc == cavmae__crc32(0, data, 4u << 20));
    CHECK_OK(cavmae__checksums(context, arrays, 0));
    free(data);
}

/* ---- safetensors ---- */

enum { TENSORS = 8 };
static const char *const names[TENSORS] = {
    "w", "b\"\\\n\x01", "\xc3\xbc\xf0\x9f\x98\x80", "scalar", "empty", "bytes", "after.bytes", ""};
static const int32_t dtypes[TENSORS] = {CAVMAE_FLOAT32, CAVMAE_BFLOAT16, CAVMAE_INT64, CAVMAE_FLOAT64,
                                        CAVMAE_FLOAT32, CAVMAE_UINT8,    CAVMAE_INT16, CAVMAE_BOOL};
static const int32_t dims[TENSORS] = {2, 1, 3, 0, 2, 1, 1, 1};
static const int64_t shapes[TENSORS][3] = {{2, 3}, {4}, {1, 1, 2}, {0}, {0, 7}, {3}, {2}, {1}};

static void make_tensors(cavmae_tensor **tensors) {
    for (int i = 0; i < TENSORS; i++) {
        CHECK_OK(cavmae_tensor_create(context, dtypes[i], dims[i], shapes[i], &tensors[i]));
        unsigned char *data = cavmae_tensor_data(tensors[i]);
        size_t size;
        CHECK_OK(cavmae__tensor_bytes(dtypes[i], dims[i], shapes[i], &size));
        for (size_t k = 0; k < size; k++) data[k] = (unsigned char)(17 * i + 3 * (int)k + 1);
    }
}

static void free_tensors(cavmae_tensor **tensors) {
    for (int i = 0; i < TENSORS; i++) cavmae_tensor_free(tensors[i]);
}

static cavmae_status save(const char *path, cavmae_tensor **tensors) {
    const char *keys[] = {"format", "k\"\xc3\xbc"}, *values[] = {"pt", "{\"a\": \"\\n\"}\t"};
    return cavmae_safetensors_save(context, path, TENSORS, names, (const cavmae_tensor *const *)tensors, 2, keys,
                                   values);
}

static int same_tensor(const cavmae_tensor *a, const cavmae_tensor *b) {
    size_t size;
    if (cavmae_tensor_dtype(a) != cavmae_tensor_dtype(b) || cavmae_tensor_dims(a) != cavmae_tensor_dims(b)) return 0;
    for (int i = 0; i < cavmae_tensor_dims(a); i++)
        if (cavmae_tensor_shape(a)[i] != cavmae_tensor_shape(b)[i]) return 0;
    return cavmae__tensor_bytes(cavmae_tensor_dtype(a), cavmae_tensor_dims(a), cavmae_tensor_shape(a), &size) ==
               CAVMAE_OK &&
           memcmp(cavmae_tensor_data(a), cavmae_tensor_data(b), size) == 0;
}

static void test_safetensors(void) {
    cavmae_tensor *tensors[TENSORS], *read[TENSORS];
    cavmae_safetensors *file;
    const char *path = in_directory("t.safetensors");
    make_tensors(tensors);
    CHECK_OK(save(path, tensors));
    CHECK(files_in_directory() == 1);
    CHECK_OK(cavmae_safetensors_open(context, path, &file));
    CHECK(cavmae_safetensors_count(file) == TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        CHECK(strcmp(cavmae_safetensors_name(file, i), names[i]) == 0);
        CHECK(cavmae__safetensors_find(file, names[i]) == cavmae__safetensors_entry(file, i));
        CHECK_OK(cavmae_safetensors_get(file, names[i], &read[i]));
        CHECK((uintptr_t)cavmae_tensor_data(read[i]) % cavmae__dtype_size(dtypes[i]) == 0);
    }
    CHECK((uintptr_t)cavmae_tensor_data(read[0]) % 64 == 0);
    CHECK(cavmae_safetensors_name(file, TENSORS) == NULL && cavmae_safetensors_name(file, -1) == NULL);
    CHECK(strcmp(cavmae_safetensors_metadata(file, "k\"\xc3\xbc"), "{\"a\": \"\\n\"}\t") == 0);
    CHECK(strcmp(cavmae_safetensors_metadata(file, "format"), "pt") == 0);
    CHECK(strlen(cavmae_safetensors_metadata(file, "crc32")) == 9 * TENSORS - 1);
    CHECK(cavmae_safetensors_metadata(file, "nothing") == NULL);
    CHECK_STATUS(cavmae_safetensors_get(file, "nothing", &read[0]), CAVMAE_E_NOT_FOUND);
    cavmae_safetensors_free(file); /* the tensors keep it alive */
    unlink(path);
    for (int i = 0; i < TENSORS; i++) CHECK(same_tensor(tensors[i], read[i]));
    free_tensors(read);

    CHECK_OK(cavmae_safetensors_save(context, path, 0, NULL, NULL, 0, NULL, NULL));
    CHECK_OK(cavmae_safetensors_open(context, path, &file));
    CHECK(cavmae_safetensors_count(file) == 0);
    cavmae_safetensors_free(file);
    cavmae_safetensors_free(NULL);
    unlink(path);

    const cavmae_tensor *two[] = {tensors[0], tensors[1]};
    const char *twice[] = {"a", "a"}, *reserved[] = {"a", "__metadata__"}, *broken[] = {"a", "\xff"},
               *crc[] = {"crc32"}, *value[] = {""};
    CHECK_STATUS(cavmae_safetensors_save(context, path, 2, twice, two, 0, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_safetensors_save(context, path, 2, reserved, two, 0, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_safetensors_save(context, path, 2, broken, two, 0, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_safetensors_save(context, path, 1, twice, two, 1, crc, value), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_safetensors_save(context, in_directory("no/t"), 1, twice, two, 0, NULL, NULL), CAVMAE_E_IO);
    CHECK(files_in_directory() == 0);
    free_tensors(tensors);
}

static cavmae_status open_and_close(const char *path) {
    cavmae_safetensors *file;
    cavmae_status status = cavmae_safetensors_open(context, path, &file);
    if (status == CAVMAE_OK) cavmae_safetensors_free(file);
    return status;
}

static void flip(int descriptor, size_t bit) {
    unsigned char byte;
    CHECK(pread(descriptor, &byte, 1, (off_t)(bit / 8)) == 1);
    byte ^= (unsigned char)(1 << bit % 8);
    CHECK(pwrite(descriptor, &byte, 1, (off_t)(bit / 8)) == 1);
}

/* Any flipped bit is found, or (in the name of a CRC's key) changes no tensor. */
static void test_safetensors_damage(void) {
    cavmae_tensor *tensors[TENSORS], *read;
    cavmae_safetensors *file;
    struct stat info;
    const char *path = in_directory("t");
    int unnoticed = 0;
    make_tensors(tensors);
    CHECK_OK(save(path, tensors));
    int descriptor = open(path, O_RDWR);
    CHECK(fstat(descriptor, &info) == 0);
    for (size_t bit = 0; bit < (size_t)info.st_size * 8; bit++) {
        flip(descriptor, bit);
        cavmae_status status = cavmae_safetensors_open(context, path, &file);
        if (status == CAVMAE_OK) {
            unnoticed++;
            for (int i = 0; i < TENSORS; i++) {
                if (!CHECK_OK(cavmae_safetensors_get(file, names[i], &read))) continue;
                CHECK(same_tensor(read, tensors[i]));
                cavmae_tensor_free(read);
            }
            cavmae_safetensors_free(file);
        } else {
            CHECK(status == CAVMAE_E_FORMAT);
        }
        flip(descriptor, bit);
    }
    CHECK(unnoticed < 100);
    CHECK_OK(open_and_close(path));
    flip(descriptor, (size_t)info.st_size * 8 - 1);
    CHECK_STATUS(open_and_close(path), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(), "/t: tensor  is damaged: its CRC-32") != NULL);
    for (off_t length = info.st_size - 1; length >= 0; length--) {
        CHECK(ftruncate(descriptor, length) == 0);
        CHECK_STATUS(open_and_close(path), CAVMAE_E_FORMAT);
    }
    close(descriptor);
    unlink(path);
    free_tensors(tensors);
}

/* Opens a file with these contents; closes it again. */
static cavmae_status open_bytes(const char *data, size_t size) {
    put_file(in_directory("bytes"), data, size);
    return open_and_close(in_directory("bytes"));
}

/* A file with this header and so many bytes of data. */
static cavmae_status open_header(const char *header, size_t data_size) {
    static char file[4096];
    uint64_t length = strlen(header);
    memset(file, 0, sizeof file);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    return open_bytes(file, 8 + length + data_size);
}

static void test_safetensors_lies(void) {
#define TENSOR(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    static const char *const good[] = {
        "{}",
        "{}   ",
        "{\"__metadata__\":{}}",
        "{\"a\":" TENSOR("F32", "[2]", "[0,8]") "}",
        "{\"a\":" TENSOR("F32", "[1]", "[4,8]") "}", /* a hole before it */
        "{\"a\":" TENSOR("U8", "[1]", "[0,1]") ",\"b\":" TENSOR("F32", "[1]", "[1,5]") "}",
        "{\"b\":" TENSOR("U8", "[4]", "[4,8]") ",\"a\":" TENSOR("U8", "[4]", "[0,4]") "}",
        "{\"a\":" TENSOR("F32", "[0,5]", "[8,8]") ",\"b\":" TENSOR("F32", "[0]", "[0,0]") "}",
        "{\"a\":{\"data_offsets\":[0,8],\"more\":{\"x\":[1]},\"shape\":[],\"dtype\":\"F64\"}}",
        "{\"\\u0061\":" TENSOR("\\u0046\\u0033\\u0032", "[2]", "[0,8]") "}",
    };
    static const char *const bad[] = {
        "",
        " {}",
        "[]",
        "{}x",
        "1",
        "{\"a\":1}",
        "{\"a\":{}}",
        "{\"a\":[]}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
        "{\"__metadata__\":{\"a\\u0000b\":\"\"}}",
        "{\"a\\u0000b\":" TENSOR("F32", "[2]", "[0,8]") "}",
        "{\"a\":" TENSOR("F32", "[3]", "[0,12]") "}", /* past the end */
        "{\"a\":" TENSOR("F32", "[2]", "[0,4]") "}",  /* too few bytes */
        "{\"a\":" TENSOR("F32", "[1]", "[0,8]") "}",  /* too many */
        "{\"a\":" TENSOR("F32", "[2]", "[8,0]") "}",  /* backwards */
        "{\"a\":" TENSOR("F32", "[-2]", "[0,8]") "}",
        "{\"a\":" TENSOR("F32", "[2]", "[-8,0]") "}",
        "{\"a\":" TENSOR("F32", "[2]", "[0,8,8]") "}",
        "{\"a\":" TENSOR("F32", "[2]", "[0]") "}",
        "{\"a\":" TENSOR("F32", "[2.0]", "[0,8]") "}",
        "{\"a\":" TENSOR("F32", "2", "[0,8]") "}",
        "{\"a\":" TENSOR("F33", "[2]", "[0,8]") "}",
        "{\"a\":" TENSOR("", "[2]", "[0,8]") "}",
        "{\"a\":" TENSOR("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", /* nine dimensions */
        "{\"a\":" TENSOR("U8", "[4294967296,4294967296]", "[0,0]") "}",
        "{\"a\":" TENSOR("F32", "[4611686018427387904]", "[0,0]") "}",
        "{\"a\":" TENSOR("F32", "[9223372036854775807,0]", "[0,0]") "}",
        "{\"a\":" TENSOR("U8", "[8]", "[9223372036854775800,9223372036854775808]") "}",
        "{\"a\":" TENSOR("U8", "[5]", "[0,5]") ",\"b\":" TENSOR("U8", "[4]", "[4,8]") "}", /* overlap */
        "{\"a\":" TENSOR("U8", "[8]", "[0,8]") ",\"b\":" TENSOR("U8", "[2]", "[3,5]") "}",
        "{\"a\":" TENSOR("U8", "[4]", "[0,4]") ",\"a\":" TENSOR("U8", "[4]", "[4,8]") "}", /* twice */
        "{\"a\":" TENSOR("U8", "[4]", "[0,4]") ",\"\\u0061\":" TENSOR("U8", "[4]", "[4,8]") "}",
        "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}",
        "{\"__metadata__\":{\"crc32\":\"00000000\"},\"a\":" TENSOR("U8", "[8]", "[0,8]") "}",
        "{\"__metadata__\":{\"crc32\":\"\"},\"a\":" TENSOR("U8", "[8]", "[0,8]") "}",
        "{\"__metadata__\":{\"crc32\":\"6522df6\"},\"a\":" TENSOR("U8", "[8]", "[0,8]") "}",
        "{\"__metadata__\":{\"crc32\":\"6522df69 6522df69\"},\"a\":" TENSOR("U8", "[8]", "[0,8]") "}",
        "{\"__metadata__\":{\"crc32.header\":\"123\"}}",
        "{\"__metadata__\":{\"crc32.header\":\"12345678\"}}",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!CHECK_OK(open_header(good[i], 8))) printf("  for %s\n", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!CHECK_STATUS(open_header(bad[i], 8), CAVMAE_E_FORMAT)) printf("  for %s\n", bad[i]);
    CHECK_OK(open_header("{\"__metadata__\":{\"crc32\":\"6522df69\"},\"a\":" TENSOR("U8", "[8]", "[0,8]") "}",
                         8)); /* crc32 of 8 zeros */
    CHECK_STATUS(open_header("{\"lay.er\":" TENSOR("F32", "[3]", "[0,12]") "}", 8), CAVMAE_E_FORMAT);
    CHECK(strstr(cavmae_last_error(),
                 "/bytes: tensor lay.er: data_offsets 0 and 12 are not within the 8 bytes of data") != NULL);

    static const uint64_t lengths[] = {UINT64_MAX, INT64_MAX, (uint64_t)1 << 32, 100000001, 9, 3, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char bytes[16] = "........{}      ";
        memcpy(bytes, &lengths[i], 8);
        CHECK_STATUS(open_bytes(bytes, 10), CAVMAE_E_FORMAT);
    }
    unlink(in_directory("bytes"));
}

static void test_safetensors_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_context *own;
    cavmae_tensor *tensors[TENSORS], *one;
    cavmae_safetensors *file;
    const char *path = in_directory("t");
    make_tensors(tensors);
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &own));
    long blocks = atomic_load(&allocator.blocks);

    cavmae_status status = CAVMAE_E_NOMEM;
    for (long at = 1; status == CAVMAE_E_NOMEM && at < 1000; at++) {
        allocator.fail_at = atomic_load(&allocator.calls) + at;
        status =
            cavmae_safetensors_save(own, path, TENSORS, names, (const cavmae_tensor *const *)tensors, 0, NULL, NULL);
        CHECK(status == CAVMAE_OK || (status == CAVMAE_E_NOMEM && files_in_directory() == 0));
        CHECK(atomic_load(&allocator.blocks) == blocks);
    }
    CHECK(status == CAVMAE_OK);
    status = CAVMAE_E_NOMEM;
    for (long at = 1; status == CAVMAE_E_NOMEM && at < 1000; at++) {
        allocator.fail_at = atomic_load(&allocator.calls) + at;
        status = cavmae_safetensors_open(own, path, &file);
        for (int i = 0; i < TENSORS && status == CAVMAE_OK; i++) {
            status = cavmae_safetensors_get(file, names[i], &one);
            if (status == CAVMAE_OK) cavmae_tensor_free(one);
            if (status != CAVMAE_OK || i == TENSORS - 1) cavmae_safetensors_free(file);
        }
        CHECK(status == CAVMAE_OK || status == CAVMAE_E_NOMEM);
        CHECK(atomic_load(&allocator.blocks) == blocks);
    }
    CHECK(status == CAVMAE_OK);
    cavmae_context_free(own);
    CHECK(atomic_load(&allocator.blocks) == 0);
    free_tensors(tensors);
    unlink(path);
}

/* ---- .npy ---- */

static void test_npy(void) {
    cavmae_tensor *tensors[TENSORS];
    const char *path = in_directory("t.npy");
    size_t size;
    make_tensors(tensors);
    CHECK_OK(cavmae_tensor_save_npy(tensors[0], path));
    char *bytes = get_file(path, &size);
    const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    CHECK(size == 128 + 24);
    CHECK(memcmp(bytes, "\x93NUMPY\x01\x00\x76\x00", 10) == 0);
    CHECK(memcmp(bytes + 10, text, sizeof text - 1) == 0);
    CHECK(bytes[127] == '\n' && bytes[126] == ' ');
    CHECK(memcmp(bytes + 128, cavmae_tensor_data(tensors[0]), 24) == 0);
    free(bytes);
    CHECK_OK(cavmae_tensor_save_npy(tensors[3], path));
    bytes = get_file(path, &size);
    CHECK(strstr(bytes + 10, "'<f8', 'fortran_order': False, 'shape': (), }") != NULL);
    free(bytes);
    CHECK_OK(cavmae_tensor_save_npy(tensors[7], path));
    bytes = get_file(path, &size);
    CHECK(strstr(bytes + 10, "'|b1', 'fortran_order': False, 'shape': (1,), }") != NULL);
    free(bytes);
    CHECK_OK(cavmae_tensor_save_npy(tensors[4], path));
    CHECK_STATUS(cavmae_tensor_save_npy(tensors[1], path), CAVMAE_E_UNSUPPORTED);
    CHECK(strstr(cavmae_last_error(), "bfloat16") != NULL);
    CHECK_STATUS(cavmae_tensor_save_npy(NULL, path), CAVMAE_E_ARG);
    unlink(path);
    free_tensors(tensors);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    CHECK_OK(cavmae_context_create(NULL, &context));
    test_json_grammar();
    test_json_values();
    test_mapped_file();
    test_atomic_file();
    test_checksums();
    test_safetensors();
    test_safetensors_damage();
    test_safetensors_lies();
    test_safetensors_memory();
    test_npy();
    cavmae_context_free(context);
    CHECK(rmdir(directory) == 0);
    return check_summary("io");
}
