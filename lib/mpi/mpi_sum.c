/* Sums over the ranks. Each element is added by one rank, in the order of the ranks, so it has the same bits everywhere
 * and every time; MPI's own sums may take another order with another number of ranks, elements or machines. */
#include "mpi_ranks.h"

#include <stdio.h>
#include <string.h>

enum { BLOCK = 1024 }; /* elements that are added at once, for every rank */

/* ---- Adding ---- */

/* Row r lies at rows + r stride, but that of rank `own` at `mine`. */
typedef struct rows_to_add {
    const char *rows, *mine;
    int64_t stride;
    int own, size;
} rows_to_add;

static const void *element(const rows_to_add *a, int rank, int64_t begin, size_t width) {
    const char *at = rank == a->own ? a->mine : a->rows + rank * a->stride;
    return at + begin * (int64_t)width;
}

static float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, ties to even. */
static uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0; /* rounding could carry a NaN's bits into the sign */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A block's sum is whole before it is written: `to` may be one of the rows. */
static void add_float32(const rows_to_add *a, int64_t begin, int64_t count, float *to) {
    float sum[BLOCK];
    memcpy(sum, element(a, 0, begin, sizeof *to), (size_t)count * sizeof *to);
    for (int rank = 1; rank < a->size; rank++) {
        const float *from = element(a, rank, begin, sizeof *to);
        for (int64_t i = 0; i < count; i++) sum[i] += from[i];
    }
    memcpy(to + begin, sum, (size_t)count * sizeof *to);
}

static void add_float64(const rows_to_add *a, int64_t begin, int64_t count, double *to) {
    double sum[BLOCK];
    memcpy(sum, element(a, 0, begin, sizeof *to), (size_t)count * sizeof *to);
    for (int rank = 1; rank < a->size; rank++) {
        const double *from = element(a, rank, begin, sizeof *to);
        for (int64_t i = 0; i < count; i++) sum[i] += from[i];
    }
    memcpy(to + begin, sum, (size_t)count * sizeof *to);
}

/* In float32, rounded once. */
static void add_bfloat16(const rows_to_add *a, int64_t begin, int64_t count, uint16_t *to) {
    float sum[BLOCK];
    const uint16_t *from = element(a, 0, begin, sizeof *to);
    for (int64_t i = 0; i < count; i++) sum[i] = widen(from[i]);
    for (int rank = 1; rank < a->size; rank++) {
        from = element(a, rank, begin, sizeof *to);
        for (int64_t i = 0; i < count; i++) sum[i] += widen(from[i]);
    }
    for (int64_t i = 0; i < count; i++) to[begin + i] = narrow(sum[i]);
}

static void add(const rows_to_add *a, int32_t dtype, int64_t count, void *to) {
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t block = count - begin < BLOCK ? count - begin : BLOCK;
        if (dtype == CAVMAE_FLOAT32) add_float32(a, begin, block, to);
        if (dtype == CAVMAE_FLOAT64) add_float64(a, begin, block, to);
        if (dtype == CAVMAE_BFLOAT16) add_bfloat16(a, begin, block, to);
    }
}

/* ---- Over the ranks ---- */

static cavmae_status enter(const cavmae__mpi_call *call, int32_t dtype, int64_t *width) {
    *width = dtype == CAVMAE_FLOAT32 ? 4 : dtype == CAVMAE_FLOAT64 ? 8 : dtype == CAVMAE_BFLOAT16 ? 2 : 0;
    if (*width) return cavmae__mpi_enter(call);
    snprintf(call->error, call->error_size, "MPI: %s: elements of dtype %d are not added", call->name, (int)dtype);
    return CAVMAE_E_ARG;
}

static cavmae_status reduce_small(const cavmae__mpi_call *call, int32_t dtype, int64_t width, void *data,
                                  int64_t count) {
    cavmae__mpi *mpi = call->mpi;
    const rows_to_add a = {mpi->work, data, count * width, mpi->rank, mpi->size};
    cavmae_status status = cavmae__mpi_gather(call, data, mpi->work, count * width);
    if (status == CAVMAE_OK) add(&a, dtype, count, data);
    return status;
}

/* Each rank adds a slice of data [count], and sends its sum to the others. */
static cavmae_status reduce_slices(const cavmae__mpi_call *call, int32_t dtype, int64_t width, char *data,
                                   int64_t count) {
    cavmae__mpi *mpi = call->mpi;
    int64_t slice = (count + mpi->size - 1) / mpi->size * width;
    const cavmae__mpi_rows slices = {data, slice, slice, count * width};
    int64_t mine = cavmae__mpi_length(&slices, mpi->rank);
    char *own = mine ? data + mpi->rank * slice : data;
    const cavmae__mpi_rows parts = {mpi->work, slice, mine, INT64_MAX}, sum = {own, 0, mine, mine};
    const rows_to_add a = {mpi->work, own, slice, mpi->rank, mpi->size};
    cavmae_status status = cavmae__mpi_exchange(call, &slices, &parts);
    if (status != CAVMAE_OK) return status;
    add(&a, dtype, mine / width, own);
    return cavmae__mpi_exchange(call, &sum, &slices);
}

cavmae_status cavmae__mpi_all_reduce(void *user, int32_t dtype, void *data, int64_t count, char *error,
                                     size_t error_size) {
    cavmae__mpi *mpi = user;
    const cavmae__mpi_call call = {mpi, "all-reduce", error, error_size};
    int64_t width;
    cavmae_status status = enter(&call, dtype, &width);
    if (status != CAVMAE_OK) return status;
    if (count <= CAVMAE__MPI_SMALL / width) return reduce_small(&call, dtype, width, data, count);
    int64_t most = mpi->slice / width * mpi->size;
    for (int64_t begin = 0; begin < count && status == CAVMAE_OK; begin += most)
        status = reduce_slices(&call, dtype, width, (char *)data + begin * width,
                               count - begin < most ? count - begin : most);
    return status;
}

cavmae_status cavmae__mpi_reduce_scatter(void *user, int32_t dtype, const void *send, void *receive, int64_t count,
                                         char *error, size_t error_size) {
    cavmae__mpi *mpi = user;
    const cavmae__mpi_call call = {mpi, "reduce-scatter", error, error_size};
    int64_t width;
    cavmae_status status = enter(&call, dtype, &width);
    for (int64_t begin = 0; begin < count && status == CAVMAE_OK; begin += mpi->slice / width) {
        int64_t piece = count - begin < mpi->slice / width ? count - begin : mpi->slice / width;
        char *at = (char *)(uintptr_t)send + begin * width; /* only read */
        const cavmae__mpi_rows from = {at, count * width, piece * width, INT64_MAX},
                               to = {mpi->work, piece * width, piece * width, INT64_MAX};
        const rows_to_add a = {mpi->work, at + mpi->rank * count * width, piece * width, mpi->rank, mpi->size};
        status = cavmae__mpi_exchange(&call, &from, &to);
        if (status == CAVMAE_OK) add(&a, dtype, piece, (char *)receive + begin * width);
    }
    return status;
}
