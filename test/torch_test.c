/* PyTorch files: every form that torch.save has, damage, and writing. The small files of
 * test/cases/torch were made with PyTorch 1.13; element k of the i-th tensor is (i * 31 + k * 7) % 23 - 11. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "failing_allocator.h"
#include "tensor.h"
#include "test_files.h"
#include "torch_file.h"

#define CASES "test/cases/torch/"
#define GOLDEN "../shared/golden/checkpoints/"

static cavmae_context *context;

/* ---- The tensors of the small files ---- */

static const struct {
    const char *name;
    int32_t dims;
    int64_t shape[3];
} usual[] = {
    {"a.weight", 2, {3, 4}}, {"a.bias", 1, {4}}, {"scalar", 0, {0}}, {"empty", 2, {0, 5}}, {"b.deep", 3, {2, 3, 2}},
};
enum { USUAL = (int)(sizeof usual / sizeof *usual) };

static int usual_value(int64_t i, int64_t k) { return (int)((i * 31 + k * 7) % 23) - 11; }

/* An element as a number. */
static double number_at(const cavmae_tensor *tensor, int64_t i) {
    const char *data = cavmae_tensor_data(tensor);
    uint16_t half;
    uint32_t bits;
    float single;
    switch (cavmae_tensor_dtype(tensor)) {
    case CAVMAE_FLOAT32: return ((const float *)(const void *)data)[i];
    case CAVMAE_FLOAT64: return ((const double *)(const void *)data)[i];
    case CAVMAE_INT64: return (double)((const int64_t *)(const void *)data)[i];
    case CAVMAE_INT32: return ((const int32_t *)(const void *)data)[i];
    case CAVMAE_INT16: return ((const int16_t *)(const void *)data)[i];
    case CAVMAE_INT8: return ((const int8_t *)data)[i];
    case CAVMAE_UINT8:
    case CAVMAE_BOOL: return ((const uint8_t *)data)[i];
    case CAVMAE_BFLOAT16:
        memcpy(&half, data + 2 * i, 2);
        bits = (uint32_t)half << 16;
        memcpy(&single, &bits, 4);
        return single;
    default: /* float16, without the infinite ones */
        memcpy(&half, data + 2 * i, 2);
        double fraction = (half & 0x3FF) / 1024.0, sign = half & 0x8000 ? -1 : 1;
        int exponent = half >> 10 & 31;
        return sign * (exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14));
    }
}

static int usual_tensor(const cavmae_tensor *tensor, int i) {
    if (cavmae_tensor_dtype(tensor) != CAVMAE_FLOAT32 || cavmae_tensor_dims(tensor) != usual[i].dims) return 0;
    for (int32_t d = 0; d < usual[i].dims; d++)
        if (cavmae_tensor_shape(tensor)[d] != usual[i].shape[d]) return 0;
    for (int64_t k = 0; k < cavmae_tensor_elements(tensor); k++)
        if (number_at(tensor, k) != usual_value(i, k)) return 0;
    return 1;
}

static cavmae_status open_and_close(const char *path) {
    cavmae_torch *file;
    cavmae_status status = cavmae_torch_open(context, path, &file);
    if (status == CAVMAE_OK) cavmae_torch_free(file);
    return status;
}

/* Opens the file and compares all its tensors with the usual ones; they are used after the file is closed. */
static cavmae_status check_usual(cavmae_context *own, const char *path) {
    cavmae_tensor *tensors[USUAL] = {NULL};
    cavmae_torch *file;
    cavmae_status status = cavmae_torch_open(own, path, &file);
    if (status != CAVMAE_OK) return status;
    CHECK(cavmae_torch_count(file) == USUAL);
    for (int i = 0; i < USUAL && status == CAVMAE_OK; i++) {
        const char *name = cavmae_torch_name(file, i);
        if (!CHECK(name && strcmp(name, usual[i].name) == 0)) break;
        status = cavmae_torch_get(file, name, &tensors[i]);
    }
    cavmae_torch_free(file);
    for (int i = 0; i < USUAL && status == CAVMAE_OK; i++)
        if (!tensors[i] || !CHECK(usual_tensor(tensors[i], i))) status = CAVMAE_E_INTERNAL;
    for (int i = 0; i < USUAL; i++) cavmae_tensor_free(tensors[i]);
    return status;
}

static const char *const usual_files[] = {
    "plain",   "dataparallel", "legacy", "nested",   "legacy_nested",   "protocol4",        "protocol5", "parameters",
    "strided", "shared",       "zip64",  "deflated", "deflated_shared", "deflated_strided", "python2",
};
enum { USUAL_FILES = (int)(sizeof usual_files / sizeof *usual_files) };

static void test_forms(void) {
    for (int i = 0; i < USUAL_FILES; i++) {
        char path[64];
        snprintf(path, sizeof path, CASES "%s.pth", usual_files[i]);
        if (!CHECK_OK(check_usual(context, path))) printf("  for %s\n", path);
    }
}

static void test_dtypes(void) {
    static const char *const names[] = {"float32", "float64", "float16", "bfloat16", "int64",
                                        "int32",   "int16",   "int8",    "uint8",    "bool"};
    static const char *const paths[] = {CASES "dtypes.pth", CASES "legacy_dtypes.pth"};
    for (int p = 0; p < 2; p++) {
        cavmae_torch *file;
        if (!CHECK_OK(cavmae_torch_open(context, paths[p], &file))) continue;
        CHECK(cavmae_torch_count(file) == 10);
        for (int i = 0; i < 10; i++) {
            cavmae_tensor *tensor;
            if (!CHECK_OK(cavmae_torch_get(file, names[i], &tensor))) continue;
            CHECK(cavmae_tensor_dtype(tensor) == i + 1 && cavmae_tensor_elements(tensor) == 5);
            CHECK((uintptr_t)cavmae_tensor_data(tensor) % cavmae__dtype_size(i + 1) == 0);
            for (int64_t k = 0; k < 5; k++) {
                int v = usual_value(i, k);
                CHECK(number_at(tensor, k) == (i == 8 ? v + 11 : i == 9 ? v > 0 : v));
            }
            cavmae_tensor_free(tensor);
        }
        cavmae_torch_free(file);
    }
}

/* Tensors that lie in order are where the file is mapped; the others are not. */
static void test_views(void) {
    cavmae_tensor *one, *two;
    cavmae_torch *file;
    CHECK_OK(cavmae_torch_open(context, CASES "shared.pth", &file));
    const cavmae__entry *entry = cavmae__torch_find(file, "a.bias");
    CHECK(entry && entry == cavmae__torch_entry(file, 1) && entry->dtype == CAVMAE_FLOAT32 && entry->dims == 1);
    CHECK_OK(cavmae_torch_get(file, "a.bias", &one));
    CHECK_OK(cavmae_torch_get(file, "a.weight", &two));
    CHECK(cavmae_tensor_data(one) == entry->data);
    CHECK((char *)cavmae_tensor_data(one) - (char *)cavmae_tensor_data(two) == 48);
    cavmae_tensor_free(two);
    cavmae_torch_free(file);
    CHECK(usual_tensor(one, 1));
    cavmae_tensor_free(one);

    CHECK_OK(cavmae_torch_open(context, CASES "deflated_shared.pth", &file));
    CHECK(cavmae__torch_find(file, "a.bias")->data == NULL);
    CHECK_OK(cavmae_torch_get(file, "a.bias", &one));
    CHECK_OK(cavmae_torch_get(file, "a.weight", &two));
    CHECK((char *)cavmae_tensor_data(one) - (char *)cavmae_tensor_data(two) == 48);
    cavmae_torch_free(file);
    CHECK(usual_tensor(one, 1) && usual_tensor(two, 0));
    cavmae_tensor_free(one);
    cavmae_tensor_free(two);

    CHECK_OK(cavmae_torch_open(context, CASES "strided.pth", &file));
    CHECK(cavmae__torch_find(file, "a.weight")->data == NULL && cavmae__torch_find(file, "empty")->data == NULL);
    CHECK(cavmae__torch_find(file, "a.weight")->shape[1] == 4 && cavmae__torch_find(file, "scalar")->data != NULL);
    CHECK(!cavmae__torch_find(file, "b") && !cavmae__torch_entry(file, -1) && !cavmae__torch_entry(file, 5));
    cavmae_torch_free(file);
}

static void test_arguments(void) {
    cavmae_torch *file = NULL;
    cavmae_tensor *tensor;
    CHECK_STATUS(cavmae_torch_open(NULL, CASES "plain.pth", &file), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_open(context, NULL, &file), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_open(context, CASES "plain.pth", NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_open(context, in_directory("none"), &file), CAVMAE_E_IO);
    CHECK(file == NULL);
    CHECK_OK(cavmae_torch_open(context, CASES "plain.pth", &file));
    CHECK_STATUS(cavmae_torch_get(NULL, "scalar", &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_get(file, NULL, &tensor), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_get(file, "scalar", NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_get(file, "module.scalar", &tensor), CAVMAE_E_NOT_FOUND);
    CHECK(strstr(cavmae_last_error(), "plain.pth: no tensor module.scalar") != NULL);
    CHECK(cavmae_torch_name(file, -1) == NULL && cavmae_torch_name(file, USUAL) == NULL);
    CHECK(cavmae_torch_name(NULL, 0) == NULL && cavmae_torch_count(NULL) == 0);
    cavmae_torch_free(file);
    cavmae_torch_free(NULL);

    CHECK_OK(cavmae_torch_open(context, CASES "expanded.pth", &file));
    CHECK(cavmae_torch_count(file) == 2);
    CHECK_STATUS(cavmae_torch_get(file, "expanded", &tensor), CAVMAE_E_UNSUPPORTED);
    CHECK(strstr(cavmae_last_error(), "tensor expanded is expanded: 1000000000 elements of a storage of 1") != NULL);
    CHECK_OK(cavmae_torch_get(file, "ok", &tensor));
    CHECK(usual_tensor(tensor, 1));
    cavmae_tensor_free(tensor);
    cavmae_torch_free(file);
}

/* ---- Damage ---- */

/* Cut anywhere: an error. */
static void test_truncation(void) {
    static const char *const files[] = {"plain", "legacy", "legacy_nested", "deflated", "zip64", "python2"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[64];
        size_t size;
        snprintf(path, sizeof path, CASES "%s.pth", files[f]);
        char *bytes = get_file(path, &size);
        put_file(in_directory("cut"), bytes, size);
        for (size_t length = size; length-- > 0;) {
            CHECK(truncate(in_directory("cut"), (off_t)length) == 0);
            cavmae_status status = open_and_close(in_directory("cut"));
            if (!CHECK(status == CAVMAE_E_FORMAT || status == CAVMAE_E_UNSUPPORTED))
                printf("  %s at %zu\n", path, length);
        }
        free(bytes);
    }
    unlink(in_directory("cut"));
}

static double touch(cavmae_torch *file) {
    double sum = 0;
    for (int64_t i = 0; i < cavmae_torch_count(file); i++) {
        cavmae_tensor *tensor;
        cavmae_status status = cavmae_torch_get(file, cavmae_torch_name(file, i), &tensor);
        if (status != CAVMAE_OK) {
            CHECK(status == CAVMAE_E_FORMAT || status == CAVMAE_E_UNSUPPORTED);
            continue;
        }
        for (int64_t k = 0; k < cavmae_tensor_elements(tensor); k++) sum += number_at(tensor, k);
        cavmae_tensor_free(tensor);
    }
    return sum;
}

/* Every bit of every byte, one at a time. Archives have CRCs: what is not found out has changed no tensor. */
static void test_flips(void) {
    static const struct {
        const char *name;
        int checked;
    } files[] = {{"plain", 1},  {"zip64", 1},   {"deflated_shared", 1}, {"deflated_strided", 1},
                 {"legacy", 0}, {"python2", 0}, {"legacy_nested", 0}};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[64];
        size_t size;
        long unnoticed = 0;
        snprintf(path, sizeof path, CASES "%s.pth", files[f].name);
        char *bytes = get_file(path, &size);
        put_file(in_directory("flip"), bytes, size);
        int descriptor = open(in_directory("flip"), O_RDWR);
        for (size_t bit = 0; bit < size * 8; bit++) {
            char byte = (char)(bytes[bit / 8] ^ 1 << bit % 8);
            if (pwrite(descriptor, &byte, 1, (off_t)(bit / 8)) != 1) CHECK(0);
            cavmae_torch *file;
            cavmae_status status = cavmae_torch_open(context, in_directory("flip"), &file);
            if (status == CAVMAE_OK) {
                touch(file);
                cavmae_torch_free(file);
                if (files[f].checked) {
                    status = check_usual(context, in_directory("flip"));
                    if (!CHECK(status == CAVMAE_OK || status == CAVMAE_E_FORMAT || status == CAVMAE_E_UNSUPPORTED))
                        printf("  %s bit %zu\n", path, bit);
                }
                unnoticed++;
            } else if (status != CAVMAE_E_FORMAT && status != CAVMAE_E_UNSUPPORTED) {
                if (!CHECK_STATUS(status, CAVMAE_E_FORMAT)) printf("  %s bit %zu\n", path, bit);
            }
            if (pwrite(descriptor, &bytes[bit / 8], 1, (off_t)(bit / 8)) != 1) CHECK(0);
        }
        CHECK(unnoticed < (long)size * 8);
        close(descriptor);
        CHECK_OK(check_usual(context, in_directory("flip")));
        free(bytes);
    }
    unlink(in_directory("flip"));
}

/* ---- Writing ---- */

/* One tensor of each dtype, and of odd shapes. */
enum { WRITTEN = 13 };
static const char *written_names[WRITTEN];

static void make_tensors(cavmae_tensor *tensors[WRITTEN]) {
    static const char *const names[WRITTEN] = {"float32",
                                               "float64",
                                               "float16",
                                               "bfloat16",
                                               "int64",
                                               "int32",
                                               "int16",
                                               "int8",
                                               "uint8",
                                               "bool",
                                               "scalar",
                                               "empty",
                                               "Ma\xc3\x9f \xf0\x9f\x98\x80"};
    static const int64_t shapes[WRITTEN][3] = {[10] = {0}, [11] = {3, 0, 2}, [12] = {1, 300, 2}};
    static const int32_t dims[WRITTEN] = {[11] = 3, [12] = 3};
    for (int i = 0; i < WRITTEN; i++) {
        int64_t plain[2] = {i + 1, 3};
        int32_t dtype = i < 10 ? i + 1 : CAVMAE_FLOAT32;
        written_names[i] = names[i];
        CHECK_OK(cavmae_tensor_create(context, dtype, i < 10 ? 2 : dims[i], i < 10 ? plain : shapes[i], &tensors[i]));
        size_t size = (size_t)cavmae_tensor_elements(tensors[i]) * cavmae__dtype_size(dtype);
        for (size_t k = 0; k < size; k++)
            ((uint8_t *)cavmae_tensor_data(tensors[i]))[k] =
                dtype == CAVMAE_BOOL ? k % 2 : (uint8_t)(k * 37 + (size_t)i);
    }
}

static void free_tensors(cavmae_tensor *tensors[WRITTEN]) {
    for (int i = 0; i < WRITTEN; i++) cavmae_tensor_free(tensors[i]);
}

static int same_tensor(const cavmae_tensor *a, const cavmae_tensor *b) {
    if (cavmae_tensor_dtype(a) != cavmae_tensor_dtype(b) || cavmae_tensor_dims(a) != cavmae_tensor_dims(b)) return 0;
    for (int32_t i = 0; i < cavmae_tensor_dims(a); i++)
        if (cavmae_tensor_shape(a)[i] != cavmae_tensor_shape(b)[i]) return 0;
    size_t size = (size_t)cavmae_tensor_elements(a) * cavmae__dtype_size(cavmae_tensor_dtype(a));
    return size == 0 || memcmp(cavmae_tensor_data(a), cavmae_tensor_data(b), size) == 0;
}

static cavmae_status save(cavmae_context *own, const char *path, cavmae_tensor *const tensors[WRITTEN],
                          const char *prefix) {
    return cavmae_torch_save(own, path, WRITTEN, written_names, (const cavmae_tensor *const *)tensors, prefix);
}

static void test_round_trip(void) {
    static const char *const prefixes[] = {NULL, "module.", "net."};
    cavmae_tensor *tensors[WRITTEN];
    const char *path = in_directory("written.pth");
    make_tensors(tensors);
    for (int p = 0; p < 3; p++) {
        cavmae_torch *file;
        CHECK_OK(save(context, path, tensors, prefixes[p]));
        CHECK_OK(cavmae_torch_open(context, path, &file));
        CHECK(cavmae_torch_count(file) == WRITTEN);
        for (int i = 0; i < WRITTEN; i++) {
            cavmae_tensor *tensor;
            char name[64];
            snprintf(name, sizeof name, "%s%s", p == 2 ? prefixes[p] : "", written_names[i]);
            CHECK(strcmp(cavmae_torch_name(file, i), name) == 0);
            if (!CHECK_OK(cavmae_torch_get(file, name, &tensor))) continue;
            CHECK(same_tensor(tensor, tensors[i]));
            if (i != 11) CHECK(cavmae__torch_find(file, name)->data == cavmae_tensor_data(tensor));
            if (i != 11) CHECK((uintptr_t)cavmae_tensor_data(tensor) % 64 == 0);
            cavmae_tensor_free(tensor);
        }
        cavmae_torch_free(file);
    }

    cavmae_torch *file;
    CHECK_OK(cavmae_torch_save(context, path, 0, NULL, NULL, NULL));
    CHECK_OK(cavmae_torch_open(context, path, &file));
    CHECK(cavmae_torch_count(file) == 0);
    cavmae_torch_free(file);
    CHECK(unlink(path) == 0);
    free_tensors(tensors);
}

/* Equal tensors make equal files, and every flipped bit of one is found, or changes no tensor. */
static void test_written_damage(void) {
    cavmae_tensor *tensors[WRITTEN];
    size_t size, again;
    make_tensors(tensors);
    CHECK_OK(save(context, in_directory("one"), tensors, NULL));
    CHECK_OK(save(context, in_directory("two"), tensors, NULL));
    char *bytes = get_file(in_directory("one"), &size), *other = get_file(in_directory("two"), &again);
    CHECK(size == again && memcmp(bytes, other, size) == 0);
    int descriptor = open(in_directory("one"), O_RDWR);
    for (size_t at = 0; at < size; at++) {
        cavmae_torch *file;
        char byte = (char)(bytes[at] ^ 1 << at % 8);
        if (pwrite(descriptor, &byte, 1, (off_t)at) != 1) CHECK(0);
        if (cavmae_torch_open(context, in_directory("one"), &file) == CAVMAE_OK) {
            for (int i = 0; i < WRITTEN; i++) {
                cavmae_tensor *tensor;
                if (!CHECK_OK(cavmae_torch_get(file, written_names[i], &tensor))) continue;
                if (!CHECK(same_tensor(tensor, tensors[i]))) printf("  byte %zu\n", at);
                cavmae_tensor_free(tensor);
            }
            cavmae_torch_free(file);
        }
        if (pwrite(descriptor, &bytes[at], 1, (off_t)at) != 1) CHECK(0);
    }
    close(descriptor);
    free(bytes);
    free(other);
    CHECK(unlink(in_directory("one")) == 0 && unlink(in_directory("two")) == 0);
    free_tensors(tensors);
}

/* More members than the old records can count. */
static void test_many(void) {
    enum { MANY = 66000 };
    static char names[MANY][12];
    static const char *pointers[MANY];
    static const cavmae_tensor *tensors[MANY];
    static float values[MANY];
    const char *path = in_directory("many");
    for (int i = 0; i < MANY; i++) {
        cavmae_tensor *one;
        values[i] = (float)i;
        snprintf(names[i], sizeof names[i], "%d", i);
        pointers[i] = names[i];
        if (cavmae_tensor_wrap(context, &values[i], CAVMAE_FLOAT32, 0, NULL, NULL, NULL, &one) != CAVMAE_OK) CHECK(0);
        tensors[i] = one;
    }
    CHECK_OK(cavmae_torch_save(context, path, MANY, pointers, tensors, NULL));
    cavmae_torch *file;
    CHECK_OK(cavmae_torch_open(context, path, &file));
    CHECK(cavmae_torch_count(file) == MANY);
    double sum = touch(file);
    CHECK(sum == (double)MANY * (MANY - 1) / 2);
    cavmae_torch_free(file);
    for (int i = 0; i < MANY; i++) cavmae_tensor_free((cavmae_tensor *)(uintptr_t)tensors[i]);
    CHECK(unlink(path) == 0);
}

static void test_save_arguments(void) {
    cavmae_tensor *tensors[WRITTEN];
    const char *path = in_directory("written.pth"), *twice[] = {"a", "a"}, *null[] = {"a", NULL},
               *bad[] = {"a", "\xff"};
    make_tensors(tensors);
    const cavmae_tensor *const *some = (const cavmae_tensor *const *)tensors, *nothing[] = {tensors[0], NULL};
    CHECK_STATUS(cavmae_torch_save(NULL, path, 1, twice, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, NULL, 1, twice, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, -1, twice, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 1, NULL, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 1, twice, NULL, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 2, twice, some, NULL), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "a is there twice") != NULL);
    CHECK_STATUS(cavmae_torch_save(context, path, 2, null, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 2, written_names, nothing, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 2, bad, some, NULL), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, path, 1, twice, some, "\xc3"), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_torch_save(context, in_directory("no/file"), 1, twice, some, NULL), CAVMAE_E_IO);
    CHECK(files_in_directory() == 0);
    free_tensors(tensors);
}

/* ---- Memory ---- */

/* Fails each allocation in turn of reading files (first the forms, then NULL for writing); nothing may be lost. */
static void test_memory(void) {
    static const char *const files[] = {"plain",  "legacy_nested",   "deflated_strided",
                                        "nested", "deflated_shared", NULL};
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator);
    cavmae_tensor *tensors[WRITTEN];
    cavmae_context *own;
    const char *written = in_directory("written.pth");
    make_tensors(tensors);
    options.threads = 1;
    CHECK_OK(cavmae_context_create(&options, &own));
    long blocks = atomic_load(&allocator.blocks);
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[64];
        cavmae_status status = CAVMAE_E_NOMEM;
        long at = 1;
        snprintf(path, sizeof path, CASES "%s.pth", files[f]);
        for (; status == CAVMAE_E_NOMEM && at < 1000; at++) {
            allocator.fail_at = atomic_load(&allocator.calls) + at;
            status = files[f] ? check_usual(own, path) : save(own, written, tensors, NULL);
            if (!CHECK(status == CAVMAE_OK || status == CAVMAE_E_NOMEM))
                printf("  %s: %s\n", path, cavmae_last_error());
            if (!CHECK(atomic_load(&allocator.blocks) == blocks)) printf("  %s, allocation %ld\n", path, at);
            if (status != CAVMAE_OK) CHECK(files_in_directory() == 0);
        }
        CHECK_OK(status);
        CHECK(at > 5);
    }
    allocator.fail_at = 0;
    cavmae_context_free(own);
    CHECK(atomic_load(&allocator.blocks) == 0);
    CHECK(unlink(written) == 0);
    free_tensors(tensors);
}

/* ---- The oracle's files, where they are ---- */

static void check_golden(const char *name, double tolerance) {
    char path[128];
    cavmae_safetensors *expected;
    cavmae_torch *file;
    CHECK_OK(cavmae_safetensors_open(context, GOLDEN "expect.safetensors", &expected));
    snprintf(path, sizeof path, GOLDEN "%s.pth", name);
    if (!CHECK_OK(cavmae_torch_open(context, path, &file))) return;
    CHECK(cavmae_torch_count(file) == cavmae_safetensors_count(expected));
    for (int64_t i = 0; i < cavmae_torch_count(file); i++) {
        cavmae_tensor *got, *want;
        double worst = 0;
        if (!CHECK_OK(cavmae_torch_get(file, cavmae_torch_name(file, i), &got))) continue;
        if (CHECK_OK(cavmae_safetensors_get(expected, cavmae_torch_name(file, i), &want))) {
            if (CHECK(cavmae_tensor_elements(got) == cavmae_tensor_elements(want)))
                for (int64_t k = 0; k < cavmae_tensor_elements(got); k++)
                    worst =
                        fmax(worst, fabs(number_at(got, k) - number_at(want, k)) / (fabs(number_at(want, k)) + 1e-4));
            if (!CHECK(worst <= tolerance)) printf("  %s, %s: %g\n", name, cavmae_torch_name(file, i), worst);
            cavmae_tensor_free(want);
        }
        cavmae_tensor_free(got);
    }
    cavmae_torch_free(file);
    cavmae_safetensors_free(expected);
}

static void test_golden(void) {
    static const char *const exact[] = {"plain",   "dataparallel",   "legacy",  "nested_model",
                                        "strided", "shared_storage", "deflated"};
    static const struct {
        const char *name, *words;
    } refused[] = {
        {"hostile_system", "pickle wants 'posix.system'"}, {"hostile_eval", "pickle wants '__builtin__.eval'"},
        {"hostile_raw", "pickle wants 'posix.system'"},    {"truncated_empty", "the file is empty"},
        {"truncated_half", "was the file cut short"},      {"truncated_head", "was the file cut short"},
        {"truncated_tail", "was the file cut short"}};
    if (access(GOLDEN "plain.pth", R_OK) != 0) return;
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) check_golden(exact[i], 0);
    check_golden("float16", 1.0 / 1024);
    check_golden("bfloat16", 1.0 / 128);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char path[128];
        snprintf(path, sizeof path, GOLDEN "%s.pth", refused[i].name);
        cavmae_status status = open_and_close(path);
        CHECK(status == (strstr(path, "hostile") ? CAVMAE_E_UNSUPPORTED : CAVMAE_E_FORMAT));
        if (!CHECK(strstr(cavmae_last_error(), refused[i].words) != NULL)) printf("  %s\n", cavmae_last_error());
    }
    CHECK(access("cavmae_pickle_was_executed", F_OK) != 0);
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    CHECK_OK(cavmae_context_create(NULL, &context));
    test_forms();
    test_dtypes();
    test_views();
    test_arguments();
    test_truncation();
    test_flips();
    test_round_trip();
    test_written_damage();
    test_many();
    test_save_arguments();
    test_memory();
    test_golden();
    cavmae_context_free(context);
    CHECK(rmdir(directory) == 0);
    return check_summary("torch");
}
