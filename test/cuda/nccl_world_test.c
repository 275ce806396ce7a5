/* Worlds of GPUs through the public API: what each rank gets, and what all of them are told where one of them fails. In
 * the simulator there are four devices; on a machine as many as it has. */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "world_threads.h"

enum { MOST = 4, BYTES = 70001 };

static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER; /* CHECK is for one thread */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#define RANK_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        const int good = !!(condition);                                                                                \
        pthread_mutex_lock(&check_lock);                                                                               \
        if (!CHECK(good)) printf("    rank %d: %s (%s)\n", (int)rank, #condition, cavmae_last_error());                \
        pthread_mutex_unlock(&check_lock);                                                                             \
    } while (0)

/* ---- All is well ---- */

static void everything(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    const int32_t size = *(const int32_t *)arg;
    double values[1000];
    unsigned char *mine = malloc(BYTES), *all = malloc((size_t)size * BYTES);
    (void)context;
    RANK_CHECK(cavmae_world_rank(world) == rank && cavmae_world_size(world) == size);
    RANK_CHECK(strcmp(cavmae_world_carrier(world), "nccl") == 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 1000; i++) values[i] = rank * 1000 + i;
        RANK_CHECK(cavmae_world_sum(world, values, 1000) == CAVMAE_OK);
        int wrong = 0;
        for (int i = 0; i < 1000; i++) wrong += values[i] != 1000.0 * size * (size - 1) / 2 + (double)size * i;
        memset(mine, rank + 1, BYTES);
        RANK_CHECK(cavmae_world_gather(world, mine, all, BYTES) == CAVMAE_OK);
        for (size_t i = 0; i < (size_t)size * BYTES; i++) wrong += all[i] != i / BYTES + 1;
        RANK_CHECK(cavmae_world_broadcast(world, mine, BYTES, size - 1) == CAVMAE_OK);
        for (int i = 0; i < BYTES; i++) wrong += mine[i] != size;
        RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_OK);
        RANK_CHECK(wrong == 0);
    }
    free(mine);
    free(all);
}

/* ---- One of them fails ---- */

/* This call and all later ones, in time. */
static void check_broken(cavmae_world *world, int32_t rank, const char *words) {
    const double start = seconds();
    double value = 1;
    RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_E_PEER);
    RANK_CHECK(strstr(cavmae_last_error(), words));
    RANK_CHECK(cavmae_world_sum(world, &value, 1) == CAVMAE_E_PEER);
    RANK_CHECK(strstr(cavmae_last_error(), words));
    RANK_CHECK(seconds() - start < 10);
}

static void one_fails(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    (void)context, (void)arg;
    RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_OK);
    if (rank == 1) cavmae_world_fail(world, "the disk is full");
    check_broken(world, rank, rank == 1 ? "rank 1 failed: the disk is full" : "world: ");
}

static void one_stays_away(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    (void)context, (void)arg;
    RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_OK);
    if (rank != 0) check_broken(world, rank, "was not done in 1.5 s");
}

/* Before the first collective, for which NCCL makes its connections. */
static void one_never_comes(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    (void)context, (void)arg;
    if (rank != 0) check_broken(world, rank, "was not done in 1.5 s");
}

static void device_fails(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    (void)context, (void)arg;
    RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_OK);
    for (int i = 0; i < 8 && cavmae_world_barrier(world) == CAVMAE_OK; i++) {
    }
    check_broken(world, rank, rank == 1 ? "unhandled cuda error" : "remote process exited");
}

/* A rank that does something else is found before its memory is touched. */
static void another_call(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    double values[2] = {1, 2};
    (void)context, (void)arg;
    RANK_CHECK(cavmae_world_barrier(world) == CAVMAE_OK);
    RANK_CHECK(cavmae_world_sum(world, values, rank == 1 ? 2 : 1) == CAVMAE_E_PEER);
    RANK_CHECK(strstr(cavmae_last_error(), "rank 1"));
    RANK_CHECK(values[0] == 1 && values[1] == 2);
}

int main(void) {
    const cavmae_world_options impatient = {.timeout = 1.5}, patient = {.timeout = 20};
    int32_t devices = 0;
    int simulated = 0;
    setenv("CAVMAE_TEST_DEVICE", "cuda", 0);
    setenv("CAVMAE_TEST_PLUGIN_DIR", TEST_CUDASIM_DIR, 0);
    setenv("CUDASIM_DEVICES", "4", 0);
    for (cavmae_context *context; devices < MOST && (context = rank_context(devices)); devices++) {
        const char *info = "";
        CHECK_OK(cavmae_context_device_info(context, &info));
        simulated = strstr(info, "imulated") != NULL;
        cavmae_context_free(context);
    }
    if (!CHECK(devices > 0)) return check_summary("cuda worlds");
    for (int32_t size = 1; size <= devices; size++) run_ranks(size, &patient, everything, &size);
    if (devices > 1) {
        run_ranks(devices, &impatient, one_fails, NULL);
        run_ranks(devices, &impatient, one_stays_away, NULL);
        run_ranks(2, &impatient, one_never_comes, NULL);
        run_ranks(devices, &patient, another_call, NULL);
    }
    if (simulated) {
        setenv("CUDASIM_NCCL_FAIL", "1:6", 1);
        run_ranks(3, &patient, device_fails, NULL);
        unsetenv("CUDASIM_NCCL_FAIL");
    }
    return check_summary("cuda worlds");
}
