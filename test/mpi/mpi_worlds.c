/* Worlds over MPI through the public calls: mpirun -np N mpi_worlds calls|own|single|split|two|fail|late. */
#include "check.h"

#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LONG = 3000001, ROUNDS = 200 };

static cavmae_context *make_context(void) {
    cavmae_context_options options = {.struct_size = sizeof options, .threads = 1};
    cavmae_context *context = NULL;
    if (cavmae_context_create(&options, &context) != CAVMAE_OK) exit(1);
    return context;
}

static cavmae_world *make_world(cavmae_context *context, const void *comm, double timeout) {
    const cavmae_world_options options = {.struct_size = sizeof options, .timeout = timeout};
    cavmae_world *world = NULL;
    if (!CHECK_OK(cavmae_world_create_mpi(context, &options, comm, &world))) exit(check_summary("worlds"));
    return world;
}

static uint64_t hash(const void *data, size_t bytes) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return h;
}

/* ---- Collectives ---- */

static void check_sum(cavmae_world *world, int64_t count) {
    int32_t rank = cavmae_world_rank(world), size = cavmae_world_size(world);
    double *values = malloc((size_t)count * sizeof *values), *expected = malloc((size_t)count * sizeof *values);
    uint64_t mine, all[64] = {0};
    int same = 1;
    if (!values || !expected) exit(1);
    for (int64_t i = 0; i < count; i++) {
        values[i] = 1.0 / (double)(3 + rank + i);
        expected[i] = 1.0 / (double)(3 + i);
        for (int32_t r = 1; r < size; r++) expected[i] += 1.0 / (double)(3 + r + i);
    }
    CHECK_OK(cavmae_world_sum(world, values, count));
    CHECK(memcmp(values, expected, (size_t)count * sizeof *values) == 0);
    mine = hash(values, (size_t)count * sizeof *values);
    CHECK_OK(cavmae_world_gather(world, &mine, all, sizeof mine));
    for (int32_t r = 0; r < size; r++) same &= all[r] == mine;
    CHECK(same);
    free(values);
    free(expected);
}

static void check_calls(cavmae_world *world) {
    char text[16] = "", all[64][16];
    check_sum(world, 1);
    check_sum(world, 513);
    check_sum(world, LONG);
    CHECK_OK(cavmae_world_barrier(world));
    for (int32_t root = 0; root < cavmae_world_size(world); root++) {
        snprintf(text, sizeof text, "of rank %d", (int)cavmae_world_rank(world));
        CHECK_OK(cavmae_world_gather(world, text, all, sizeof text));
        CHECK_OK(cavmae_world_broadcast(world, text, sizeof text, root));
        CHECK(strcmp(text, all[root]) == 0 && strtol(text + 8, NULL, 10) == root);
    }
}

/* ---- Who initialises MPI ---- */

static int initialised(void) {
    int yes, no;
    MPI_Initialized(&yes);
    MPI_Finalized(&no);
    return yes && !no;
}

static void test_calls(cavmae_context *context) {
    CHECK(!initialised());
    cavmae_world *world = make_world(context, NULL, 0);
    CHECK(initialised());
    CHECK(strcmp(cavmae_world_carrier(world), "mpi") == 0);
    check_calls(world);
    cavmae_world_free(world);
    CHECK(!initialised());
    CHECK_STATUS(cavmae_world_create_mpi(context, NULL, NULL, &world), CAVMAE_E_STATE);
    CHECK(strstr(cavmae_last_error(), "finalised"));
}

static void test_own(cavmae_context *context) {
    int level, rank, size;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int time = 0; time < 2; time++) {
        cavmae_world *world = make_world(context, NULL, 0);
        CHECK(cavmae_world_rank(world) == rank && cavmae_world_size(world) == size);
        check_calls(world);
        CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS); /* between ours */
        cavmae_world_free(world);
        CHECK(initialised());
    }
    MPI_Finalize();
}

static void test_single(cavmae_context *context) {
    cavmae_world *world;
    MPI_Init(NULL, NULL);
    CHECK_STATUS(cavmae_world_create_mpi(context, NULL, NULL, &world), CAVMAE_E_UNSUPPORTED);
    CHECK(strstr(cavmae_last_error(), "MPI_THREAD_SERIALIZED"));
    MPI_Finalize();
}

static void test_split(cavmae_context *context) {
    MPI_Comm half, none = MPI_COMM_NULL;
    int level, rank, size;
    cavmae_world *world;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
    world = make_world(context, &half, 0);
    MPI_Comm_free(&half); /* the world has its own */
    CHECK(cavmae_world_size(world) == (size + 1 - rank % 2) / 2);
    CHECK(cavmae_world_rank(world) == (size - 1 - rank) / 2);
    check_calls(world);
    cavmae_world_free(world);
    CHECK_STATUS(cavmae_world_create_mpi(context, NULL, &none, &world), CAVMAE_E_ARG);
    CHECK(strstr(cavmae_last_error(), "MPI_COMM_NULL"));
    MPI_Finalize();
}

/* ---- Two at once ---- */

static void *work(void *arg) {
    cavmae_world *world = arg;
    double values[300];
    for (int i = 0; i < ROUNDS; i++) {
        int count = 1 + i * 7 % 300;
        for (int k = 0; k < count; k++) values[k] = cavmae_world_rank(world) + i;
        if (cavmae_world_sum(world, values, count) != CAVMAE_OK) return NULL;
        int32_t size = cavmae_world_size(world);
        for (int k = 0; k < count; k++)
            if (values[k] != size * (size - 1) / 2 + size * i) return NULL;
    }
    return world;
}

/* The first one initialised MPI: it is freed last. */
static void test_two(cavmae_context *context) {
    cavmae_world *first = make_world(context, NULL, 0), *second = make_world(context, NULL, 0);
    pthread_t thread;
    void *good = NULL;
    if (pthread_create(&thread, NULL, work, second)) exit(1);
    CHECK(work(first));
    pthread_join(thread, &good);
    CHECK(good);
    cavmae_world_free(second);
    check_sum(first, 100);
    cavmae_world_free(first);
}

/* ---- Failures ---- */

static void test_fail(cavmae_context *context) {
    cavmae_world *world = make_world(context, NULL, 0);
    double value = 1;
    if (cavmae_world_rank(world) == 1) {
        cavmae_world_fail(world, "no room on the disk");
    } else {
        CHECK_STATUS(cavmae_world_sum(world, &value, 1), CAVMAE_E_PEER);
        CHECK(strstr(cavmae_last_error(), "rank 1") && strstr(cavmae_last_error(), "no room on the disk"));
    }
    cavmae_world_free(world);
}

/* The last rank stays away; mpirun ends it. */
static void test_late(cavmae_context *context) {
    cavmae_world *world = make_world(context, NULL, 1);
    struct timespec begin, end;
    double value = 1;
    CHECK_OK(cavmae_world_barrier(world));
    if (cavmae_world_rank(world) == cavmae_world_size(world) - 1) pause();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    CHECK_STATUS(cavmae_world_sum(world, &value, 1), CAVMAE_E_PEER);
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - begin.tv_sec < 10);
    CHECK_STATUS(cavmae_world_barrier(world), CAVMAE_E_PEER);
    cavmae_world_free(world);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*test)(cavmae_context *context);
    } tests[] = {{"calls", test_calls}, {"own", test_own},   {"single", test_single}, {"split", test_split},
                 {"two", test_two},     {"fail", test_fail}, {"late", test_late}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (argc == 2 && strcmp(argv[1], tests[i].name) == 0) {
            cavmae_context *context = make_context();
            tests[i].test(context);
            cavmae_context_free(context);
            return check_summary("worlds");
        }
    return 2;
}
