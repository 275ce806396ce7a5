/* The MPI plug-in's record, without the library: mpirun -np N mpi_record PLUG-IN all|abort|error|closed|exit. Each rank
 * computes what all of them have, and what the sum's bits must be. */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef cavmae_status plugin(const void *comm, cavmae_collectives *out, int32_t *rank, int32_t *size, char *error,
                             size_t error_size);

static cavmae_collectives mpi;
static int32_t rank, size;
static char error[512];

enum { LONG = 3000001, ODD_BYTES = 5000011 };

#define CHECK_CALL(call, expected)                                                                                     \
    do {                                                                                                               \
        if (!CHECK((call) == (expected))) printf("rank %d: %s\n", (int)rank, error);                                   \
    } while (0)

static void *get(size_t bytes) {
    void *memory = malloc(bytes + 1);
    if (!memory) exit(1);
    return memory;
}

static plugin *open_plugin(const char *path) {
    plugin *entry = NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL), *symbol = handle ? dlsym(handle, "cavmae_mpi_plugin") : NULL;
    if (!symbol) {
        printf("%s\n", dlerror());
        exit(1);
    }
    memcpy(&entry, &symbol, sizeof entry);
    return entry;
}

/* ---- Values whose sum depends on the order ---- */

static uint64_t mix(uint64_t place) {
    place = (place + 1) * 0x9e3779b97f4a7c15u;
    place = (place ^ place >> 31) * 0xbf58476d1ce4e5b9u;
    return place ^ place >> 29;
}

/* In -1 .. 1, times a power of 2 from 2^-16 to 2^15. */
static double value(int32_t of, int64_t i) {
    uint64_t bits = mix((uint64_t)of << 32 ^ (uint64_t)i);
    return ldexp((double)(bits >> 11) / 4503599627370496.0 - 1, (int)(bits & 31) - 16);
}

static float bfloat16_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value_;
    memcpy(&value_, &wide, sizeof value_);
    return value_;
}

/* The nearest of the two that the sum lies between; of equally near ones the even one. */
static uint16_t nearest_bfloat16(float exact) {
    uint32_t bits;
    memcpy(&bits, &exact, sizeof bits);
    uint16_t below = (uint16_t)(bits >> 16), above = (uint16_t)(below + 1);
    double down = fabs((double)exact - bfloat16_value(below)), up = fabs(bfloat16_value(above) - (double)exact);
    return down < up || (down == up && below % 2 == 0) ? below : above;
}

static size_t width(int32_t dtype) { return dtype == CAVMAE_FLOAT64 ? 8 : dtype == CAVMAE_FLOAT32 ? 4 : 2; }

static void put(int32_t dtype, void *to, int64_t i, double x) {
    if (dtype == CAVMAE_FLOAT64) ((double *)to)[i] = x;
    if (dtype == CAVMAE_FLOAT32) ((float *)to)[i] = (float)x;
    if (dtype == CAVMAE_BFLOAT16) ((uint16_t *)to)[i] = nearest_bfloat16((float)x);
}

/* What `of` has: elements first .. first + count. */
static void fill(int32_t dtype, void *to, int32_t of, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; i++) put(dtype, to, i, value(of, first + i));
}

/* Their sum, from rank `from` on. */
static void fill_sum(int32_t dtype, void *to, int64_t first, int64_t count, int32_t from) {
    for (int64_t i = 0; i < count; i++) {
        double wide = 0;
        float sum = 0;
        for (int32_t k = 0; k < size; k++) {
            double x = value((from + k) % size, first + i);
            float own = dtype == CAVMAE_BFLOAT16 ? bfloat16_value(nearest_bfloat16((float)x)) : (float)x;
            wide = k ? wide + x : x;
            sum = k ? sum + own : own;
        }
        put(dtype, to, i, dtype == CAVMAE_FLOAT64 ? wide : sum);
    }
}

/* ---- Collectives ---- */

static void test_all_reduce(int32_t dtype, int64_t count) {
    size_t bytes = (size_t)count * width(dtype);
    void *data = get(bytes), *expected = get(bytes);
    fill(dtype, data, rank, 0, count);
    fill_sum(dtype, expected, 0, count, 0);
    CHECK_CALL(mpi.all_reduce(mpi.user, dtype, data, count, error, sizeof error), CAVMAE_OK);
    CHECK(memcmp(data, expected, bytes) == 0);
    if (count == LONG && size > 2) { /* or it would prove nothing */
        fill_sum(dtype, expected, 0, count, 1);
        CHECK(memcmp(data, expected, bytes) != 0);
    }
    free(data);
    free(expected);
}

static void test_reduce_scatter(int32_t dtype, int64_t count, int in_place) {
    size_t row = (size_t)count * width(dtype);
    char *send = get(row * (size_t)size), *apart = get(row), *expected = get(row);
    char *receive = in_place ? send + row * (size_t)rank : apart;
    fill(dtype, send, rank, 0, count * size);
    fill_sum(dtype, expected, count * rank, count, 0);
    CHECK_CALL(mpi.reduce_scatter(mpi.user, dtype, send, receive, count, error, sizeof error), CAVMAE_OK);
    CHECK(memcmp(receive, expected, row) == 0);
    if (rank && count) { /* the other rows are only read */
        fill(dtype, expected, rank, 0, count);
        CHECK(memcmp(send, expected, row) == 0);
    }
    free(send);
    free(apart);
    free(expected);
}

static void fill_bytes(uint8_t *to, int32_t of, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++) to[i] = (uint8_t)mix((uint64_t)of << 40 ^ (uint64_t)i);
}

static void test_all_gather(int64_t bytes, int in_place) {
    uint8_t *receive = get((size_t)(bytes * size)), *apart = get((size_t)bytes), *expected = get((size_t)bytes);
    uint8_t *send = in_place ? receive + bytes * rank : apart;
    int same = 1;
    memset(receive, 0xa5, (size_t)(bytes * size));
    fill_bytes(send, rank, bytes);
    CHECK_CALL(mpi.all_gather(mpi.user, send, receive, bytes, error, sizeof error), CAVMAE_OK);
    for (int32_t of = 0; of < size; of++) {
        fill_bytes(expected, of, bytes);
        same &= memcmp(receive + bytes * of, expected, (size_t)bytes) == 0;
    }
    CHECK(same);
    free(receive);
    free(apart);
    free(expected);
}

static void test_broadcast(int64_t bytes, int32_t root) {
    uint8_t *data = get((size_t)bytes), *expected = get((size_t)bytes);
    fill_bytes(data, rank, bytes);
    fill_bytes(expected, root, bytes);
    CHECK_CALL(mpi.broadcast(mpi.user, data, bytes, root, error, sizeof error), CAVMAE_OK);
    CHECK(memcmp(data, expected, (size_t)bytes) == 0);
    free(data);
    free(expected);
}

/* Nobody leaves before all are there: the last one's time of arrival is nobody's time of departure. */
static void test_barrier(void) {
    for (int32_t last = 0; last < size; last++) {
        struct timespec now, pause = {.tv_nsec = 30000000};
        double arrived, left, all[64];
        if (rank == last) nanosleep(&pause, NULL);
        clock_gettime(CLOCK_REALTIME, &now);
        arrived = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
        CHECK_CALL(mpi.barrier(mpi.user, error, sizeof error), CAVMAE_OK);
        clock_gettime(CLOCK_REALTIME, &now);
        left = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
        CHECK_CALL(mpi.all_gather(mpi.user, &arrived, all, sizeof arrived, error, sizeof error), CAVMAE_OK);
        CHECK(left >= all[last]);
    }
}

/* Numbers that are none, and zeros: what one rank has goes through sums as IEEE 754 says. */
static void test_special(void) {
    float few[4] = {rank ? 1 : NAN, rank == size - 1 ? INFINITY : 1, -0.0f, rank ? -3e38f : 3e38f};
    uint16_t narrow[3] = {rank ? 0x3f80 : 0x7f81, rank ? 0x3f80 : 0xff80, 0x7f7f};
    CHECK_CALL(mpi.all_reduce(mpi.user, CAVMAE_FLOAT32, few, 4, error, sizeof error), CAVMAE_OK);
    CHECK(isnan(few[0]) && isinf(few[1]) && few[2] == 0 && signbit(few[2]));
    CHECK_CALL(mpi.all_reduce(mpi.user, CAVMAE_BFLOAT16, narrow, 3, error, sizeof error), CAVMAE_OK);
    CHECK(isnan(bfloat16_value(narrow[0])) && narrow[1] == 0xff80 && narrow[2] == (size > 1 ? 0x7f80 : 0x7f7f));
}

static void test_all(void) {
    static const int32_t dtypes[] = {CAVMAE_FLOAT32, CAVMAE_FLOAT64, CAVMAE_BFLOAT16};
    static const int64_t counts[] = {0, 1, 3, 511, 512, 513, 1025, 2049, 4099, LONG},
                         rows[] = {0, 1, 1000, 1025, LONG / 4}, bytes[] = {0, 1, 4096, 4097, ODD_BYTES};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) test_all_reduce(dtypes[d], counts[i]);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            test_reduce_scatter(dtypes[d], rows[i], 0);
            test_reduce_scatter(dtypes[d], rows[i], 1);
        }
    }
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        test_all_gather(bytes[i], 0);
        test_all_gather(bytes[i], 1);
        for (int32_t root = 0; root < size; root++) test_broadcast(bytes[i], root);
    }
    test_barrier();
    test_special();
    CHECK_CALL(mpi.all_reduce(mpi.user, CAVMAE_INT32, &size, 1, error, sizeof error), CAVMAE_E_ARG);
    CHECK(strstr(error, "all-reduce") && strstr(error, "dtype"));
}

/* ---- Failures ---- */

static void *abort_soon(void *unused) {
    struct timespec pause = {.tv_nsec = 100000000};
    (void)unused;
    nanosleep(&pause, NULL);
    mpi.abort(mpi.user);
    return NULL;
}

/* Rank 0 waits for ranks that never come; they end with it, by mpirun's hand. */
static void test_abort(void) {
    pthread_t thread;
    double value_ = 1;
    static float much[LONG];
    if (rank) pause();
    if (pthread_create(&thread, NULL, abort_soon, NULL)) exit(1);
    CHECK_CALL(mpi.all_reduce(mpi.user, CAVMAE_FLOAT32, much, LONG, error, sizeof error), CAVMAE_E_PEER);
    CHECK(strstr(error, "rank 0 of 2") && strstr(error, "all-reduce") && strstr(error, "aborted"));
    pthread_join(thread, NULL);
    CHECK_CALL(mpi.all_reduce(mpi.user, CAVMAE_FLOAT64, &value_, 1, error, sizeof error), CAVMAE_E_PEER);
    CHECK_CALL(mpi.barrier(mpi.user, error, sizeof error), CAVMAE_E_PEER);
    CHECK_CALL(mpi.broadcast(mpi.user, &value_, sizeof value_, 0, error, sizeof error), CAVMAE_E_PEER);
}

/* A message longer than what the other waits for: MPI's own words. */
static void test_error(void) {
    float few[64] = {0};
    if (!rank) {
        CHECK_CALL(mpi.broadcast(mpi.user, few, sizeof few, 0, error, sizeof error), CAVMAE_OK);
        pause();
    }
    CHECK_CALL(mpi.broadcast(mpi.user, few, sizeof few - 8, 0, error, sizeof error), CAVMAE_E_PEER);
    CHECK(strstr(error, "rank 1 of 2") && strstr(error, "broadcast") && strstr(error, "truncate"));
    CHECK_CALL(mpi.barrier(mpi.user, error, sizeof error), CAVMAE_E_PEER);
    CHECK(strstr(error, "earlier"));
}

/* MPI is finalised with the world that initialised it, and what comes after says so. */
static void test_closed(plugin *entry) {
    cavmae_collectives second;
    CHECK_CALL(entry(NULL, &second, &rank, &size, error, sizeof error), CAVMAE_OK);
    mpi.close(mpi.user);
    CHECK_CALL(second.barrier(second.user, error, sizeof error), CAVMAE_E_STATE);
    CHECK(strstr(error, "finalised"));
    second.close(second.user);
    CHECK_CALL(entry(NULL, &mpi, &rank, &size, error, sizeof error), CAVMAE_E_STATE);
    CHECK(strstr(error, "already finalised"));
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const char *mode = argv[2];
    plugin *entry = open_plugin(argv[1]);
    cavmae_status status = entry(NULL, &mpi, &rank, &size, error, sizeof error);
    if (status != CAVMAE_OK) {
        printf("%s\n", error);
        return 1;
    }
    if (strcmp(mode, "exit") == 0 && rank == size - 1) _exit(3);
    if (strcmp(mode, "exit") == 0) return mpi.barrier(mpi.user, error, sizeof error) != CAVMAE_OK;
    if (strcmp(mode, "all") == 0) test_all();
    if (strcmp(mode, "abort") == 0) test_abort();
    if (strcmp(mode, "error") == 0) test_error();
    if (strcmp(mode, "closed") == 0)
        test_closed(entry);
    else
        mpi.close(mpi.user);
    return check_summary("record");
}
