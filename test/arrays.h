/* For tests of the backend's operations: arrays that are known both as the operation's type and in float64, with guards
 * behind them, and how far they are from what is expected. */
#ifndef CAVMAE_TEST_ARRAYS_H
#define CAVMAE_TEST_ARRAYS_H

#include <stdlib.h>
#include <string.h>

#include "check.h"

typedef struct array {
    int64_t count;
    int32_t dtype;
    void *data;    /* what the operation reads or writes; 64 guard bytes follow */
    double *value; /* the same numbers */
} array;

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

static inline uint32_t next_random(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static inline double uniform(double low, double high) { return low + (high - low) * next_random() / 2147483648.0; }

static inline size_t element_size(int32_t dtype) {
    switch (dtype) {
    case CAVMAE_BFLOAT16:
    case CAVMAE_INT16: return 2;
    case CAVMAE_UINT8: return 1;
    case CAVMAE_FLOAT64:
    case CAVMAE_INT64: return 8;
    default: return 4;
    }
}

static inline float read_element(const void *data, int32_t dtype, int64_t i) {
    if (dtype == CAVMAE_FLOAT32) return ((const float *)data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline void write_element(void *data, int32_t dtype, int64_t i, float x) {
    uint32_t bits;
    if (dtype == CAVMAE_FLOAT32) {
        ((float *)data)[i] = x;
        return;
    }
    memcpy(&bits, &x, sizeof bits);
    ((uint16_t *)data)[i] = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/* An output: bytes that are no number an operation would give. */
static inline array make_output(int64_t count, int32_t dtype) {
    array a = {count, dtype, NULL, calloc((size_t)count + 1, sizeof(double))};
    size_t size = (size_t)count * element_size(dtype);
    a.data = aligned_alloc(64, (size + GUARD + 63) / 64 * 64);
    memset(a.data, 0xFF, size);
    memset((char *)a.data + size, GUARD_BYTE, GUARD);
    return a;
}

static inline array make_input(int64_t count, int32_t dtype, double low, double high) {
    array a = make_output(count, dtype);
    for (int64_t i = 0; i < count; i++) {
        write_element(a.data, dtype, i, (float)uniform(low, high));
        a.value[i] = (double)read_element(a.data, dtype, i);
    }
    return a;
}

static inline int guard_holds(const void *data, size_t size) {
    for (int i = 0; i < GUARD; i++)
        if (((const unsigned char *)data)[size + (size_t)i] != GUARD_BYTE) return 0;
    return 1;
}

static inline void free_array(array *a) {
    CHECK(guard_holds(a->data, (size_t)a->count * element_size(a->dtype)));
    free(a->data);
    free(a->value);
}

/* |got - expected| / |expected| as L2 norms, or the first norm itself where nothing is expected; NaN stays NaN. */
static inline double distance(const array *got, const double *expected) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < got->count; i++) {
        double d = (double)read_element(got->data, got->dtype, i) - expected[i];
        difference += d * d;
        size += expected[i] * expected[i];
    }
    return sqrt(difference) / (size > 0 ? sqrt(size) : 1);
}

static inline double tolerance_of(int32_t dtype) { return dtype == CAVMAE_BFLOAT16 ? 4e-3 : 1e-6; }

static inline int check_array(const array *got, const double *expected, double tolerance, const char *text,
                              const char *file, int line) {
    double d = distance(got, expected);
    int good = d <= tolerance;
    if (!check_report(good, file, line)) printf("%s is off by %.3g, more than %.3g\n", text, d, tolerance);
    return good;
}
#define CHECK_ARRAY(got, expected, tolerance) check_array((got), (expected), (tolerance), #got, __FILE__, __LINE__)
#define CHECK_SAME(a, b) CHECK(memcmp((a)->data, (b)->data, (size_t)(a)->count *element_size((a)->dtype)) == 0)

#endif
