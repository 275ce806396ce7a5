/* Collectives over TCP between ranks that are threads here. Sums are compared with ours in the order of the ranks, to the
 * bit. */
#define _GNU_SOURCE
#include "tcp_carrier.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "program.h"
#include "rendezvous.h"
#include "socket_io.h"

enum { MOST = 4, TEXT = 512 };

typedef struct rank {
    int32_t rank, size, wrong;
    const char *place; /* of the first wrong thing */
    cavmae_collectives c;
    const meeting *m;
    void (*work)(struct rank *);
    cavmae_status status;
    char error[TEXT];
    double seconds;
    pthread_t thread;
} rank;

static void expect(rank *r, int32_t good, const char *place) {
    if (good) return;
    if (!r->wrong++) r->place = place;
}

static void *run_rank(void *user) {
    rank *r = user;
    int sockets[MOST];
    meeting m = *r->m;
    m.rank = r->rank;
    if (!meet(&m, sockets, r->error, sizeof r->error)) die("%s", r->error);
    r->c = open_tcp_carrier(r->rank, r->size, sockets);
    const double start = now();
    r->work(r);
    r->seconds = now() - start;
    if (r->c.user) r->c.close(r->c.user);
    return NULL;
}

static void run_all(rank *ranks, int32_t size, void (*work)(rank *)) {
    char error[256];
    meeting m = {.size = size, .address = "127.0.0.1", .timeout = 20};
    const int s = listen_at(m.address, &m.port, error, sizeof error);
    if (s < 0) die("%s", error);
    close(s);
    memset(ranks, 0, (size_t)size * sizeof *ranks);
    for (int32_t i = 0; i < size; i++) {
        ranks[i].rank = i;
        ranks[i].size = size;
        ranks[i].m = &m;
        ranks[i].work = work;
        if (pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]) != 0) die("no thread");
    }
    for (int32_t i = 0; i < size; i++) pthread_join(ranks[i].thread, NULL);
}

/* ---- What each rank has, and what their sums are ---- */

static size_t width_of(int32_t dtype) { return dtype == CAVMAE_FLOAT64 ? 8 : dtype == CAVMAE_FLOAT32 ? 4 : 2; }

/* Numbers of very different size: their sum depends on the order. */
static double number(int32_t from, int64_t i) {
    uint64_t z = (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u + (uint64_t)from * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    return ((double)(z % 2001) - 1000) * (z & 4096 ? 1e-3 : 1e3);
}

static float from_bfloat(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

static uint16_t to_bfloat(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static void put(void *at, int32_t dtype, int64_t i, double x) {
    if (dtype == CAVMAE_FLOAT64)
        ((double *)at)[i] = x;
    else if (dtype == CAVMAE_FLOAT32)
        ((float *)at)[i] = (float)x;
    else
        ((uint16_t *)at)[i] = to_bfloat((float)x);
}

static int32_t is_sum(const void *at, int32_t dtype, int64_t i, int32_t size, int64_t index) {
    float sum = 0;
    double wide = 0;
    uint16_t narrow;
    for (int32_t r = 0; r < size; r++) {
        const double x = number(r, index);
        wide = r ? wide + x : x;
        const float f = dtype == CAVMAE_BFLOAT16 ? from_bfloat(to_bfloat((float)x)) : (float)x;
        sum = r ? sum + f : f;
    }
    narrow = to_bfloat(sum);
    if (dtype == CAVMAE_FLOAT64) return ((const double *)at)[i] == wide;
    if (dtype == CAVMAE_FLOAT32) return ((const float *)at)[i] == sum;
    return !memcmp((const uint16_t *)at + i, &narrow, sizeof narrow);
}

static void try_reduce(rank *r, int32_t dtype, int64_t count) {
    char *data = allocate((size_t)count, 8), error[TEXT];
    int32_t good = 1;
    for (int64_t i = 0; i < count; i++) put(data, dtype, i, number(r->rank, i));
    expect(r, r->c.all_reduce(r->c.user, dtype, data, count, error, sizeof error) == CAVMAE_OK, "all-reduce fails");
    for (int64_t i = 0; i < count; i++) good = good && is_sum(data, dtype, i, r->size, i);
    expect(r, good, "all-reduce");
    free(data);
}

/* Also with the result in its row of what is sent. */
static void try_scatter(rank *r, int32_t dtype, int64_t count, int32_t in_place) {
    const int64_t all = count * r->size;
    char *send = allocate((size_t)all, 8), *apart = allocate((size_t)count, 8), error[TEXT];
    char *receive = in_place ? send + (size_t)(r->rank * count) * width_of(dtype) : apart;
    int32_t good = 1;
    for (int64_t i = 0; i < all; i++) put(send, dtype, i, number(r->rank, i));
    expect(r, r->c.reduce_scatter(r->c.user, dtype, send, receive, count, error, sizeof error) == CAVMAE_OK,
           "reduce-scatter fails");
    for (int64_t i = 0; i < count; i++) good = good && is_sum(receive, dtype, i, r->size, r->rank * count + i);
    expect(r, good, in_place ? "reduce-scatter in place" : "reduce-scatter");
    free(send);
    free(apart);
}

static char byte(int32_t from, int64_t i) { return (char)(from * 31 + i * 7 + i / 251); }

static void try_gather(rank *r, int64_t bytes, int32_t in_place) {
    char *receive = allocate((size_t)(bytes * r->size), 1), *apart = allocate((size_t)bytes, 1), error[TEXT];
    char *send = in_place ? receive + bytes * r->rank : apart;
    int32_t good = 1;
    for (int64_t i = 0; i < bytes; i++) send[i] = byte(r->rank, i);
    expect(r, r->c.all_gather(r->c.user, send, receive, bytes, error, sizeof error) == CAVMAE_OK, "all-gather fails");
    for (int32_t k = 0; k < r->size; k++)
        for (int64_t i = 0; i < bytes; i++) good = good && receive[k * bytes + i] == byte(k, i);
    expect(r, good, in_place ? "all-gather in place" : "all-gather");
    free(receive);
    free(apart);
}

static void try_broadcast(rank *r, int64_t bytes, int32_t root) {
    char *data = allocate((size_t)bytes, 1), error[TEXT];
    int32_t good = 1;
    for (int64_t i = 0; i < bytes && r->rank == root; i++) data[i] = byte(root, i);
    expect(r, r->c.broadcast(r->c.user, data, bytes, root, error, sizeof error) == CAVMAE_OK, "broadcast fails");
    for (int64_t i = 0; i < bytes; i++) good = good && data[i] == byte(root, i);
    expect(r, good, "broadcast");
    free(data);
}

static void do_all(rank *r) {
    static const int64_t counts[] = {0, 1, 7, 4096, 131072, 131073, 400001};
    static const int32_t dtypes[] = {CAVMAE_FLOAT32, CAVMAE_FLOAT64, CAVMAE_BFLOAT16};
    char error[TEXT];
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (int k = 0; k < 3; k++) {
            try_reduce(r, dtypes[k], counts[i]);
            try_scatter(r, dtypes[k], counts[i], 0);
            try_scatter(r, dtypes[k], counts[i], 1);
        }
        for (int32_t root = 0; root < r->size; root++) try_broadcast(r, counts[i] * 4, root);
        try_gather(r, counts[i] * 3, 0);
        try_gather(r, counts[i] * 3, 1);
        expect(r, r->c.barrier(r->c.user, error, sizeof error) == CAVMAE_OK, "barrier");
    }
}

/* A rank leaves as soon as its own last collective is done, whatever the others still do. */
static void gather_and_leave(rank *r) { try_gather(r, 3000000, 0); }
static void scatter_and_leave(rank *r) { try_scatter(r, CAVMAE_FLOAT32, 10, 0); }
static void broadcast_and_leave(rank *r) { try_broadcast(r, 3000000, r->size - 1); }

static void test_exact(void) {
    rank ranks[MOST];
    for (int32_t size = 2; size <= MOST; size++) {
        void (*const works[])(rank *) = {do_all, gather_and_leave, scatter_and_leave, broadcast_and_leave};
        for (int w = 0; w < 16; w++) {
            const int kind = w < 4 ? w : 1 + w % 3;
            run_all(ranks, size, works[kind]);
            for (int32_t i = 0; i < size; i++)
                if (!CHECK(ranks[i].wrong == 0))
                    printf("    rank %d of %d: %d, first %s\n", (int)i, (int)size, (int)ranks[i].wrong, ranks[i].place);
        }
    }
}

/* ---- Failures ---- */

static int32_t leaves;

static void one_leaves(rank *r) {
    float *data = allocate(2000000, sizeof *data);
    if (r->rank == leaves) {
        r->c.close(r->c.user);
        r->c.user = NULL;
    } else {
        r->status = r->c.all_reduce(r->c.user, CAVMAE_FLOAT32, data, 2000000, r->error, sizeof r->error);
        expect(r, r->c.barrier(r->c.user, r->error, sizeof r->error) == CAVMAE_E_PEER, "another call");
    }
    free(data);
}

static void *abort_soon(void *user) {
    const rank *r = user;
    usleep(100000);
    r->c.abort(r->c.user);
    return NULL;
}

/* Who waits for nobody but a rank that is busy sees that another one, of which all has come, has left. */
static _Atomic int32_t seen;

static void one_leaves_while_another_is_busy(rank *r) {
    char data[8] = "", all[32];
    pthread_t thread;
    for (int i = 0; r->rank == 1 && !seen && i < 5000; i++) usleep(1000);
    if (r->rank == 2 && pthread_create(&thread, NULL, abort_soon, r) != 0) die("no thread");
    r->status = r->c.all_gather(r->c.user, data, all, 8, r->error, sizeof r->error);
    if (r->rank == 2) pthread_join(thread, NULL);
    if (r->rank == 0) seen = 1;
}

/* One never comes to the collective; another one's program loses patience. */
static _Atomic int32_t given_up;

static void one_gives_up(rank *r) {
    pthread_t thread;
    double *data = allocate(100, sizeof *data);
    if (r->rank == 0) {
        while (given_up < r->size - 1) usleep(1000);
    } else {
        if (r->rank == 1 && pthread_create(&thread, NULL, abort_soon, r) != 0) die("no thread");
        if (r->rank > 1) given_up++; /* they wait for rank 0 */
        r->status = r->c.all_reduce(r->c.user, CAVMAE_FLOAT64, data, 100, r->error, sizeof r->error);
        if (r->rank == 1) {
            pthread_join(thread, NULL);
            given_up++;
        }
    }
    if (r->rank == 0) r->status = r->c.all_reduce(r->c.user, CAVMAE_FLOAT64, data, 100, r->error, sizeof r->error);
    free(data);
}

static void all_differ(rank *r) {
    double data[40] = {0};
    r->status = r->rank == 1 ? r->c.all_reduce(r->c.user, CAVMAE_FLOAT32, data, 10, r->error, sizeof r->error)
                             : r->c.all_reduce(r->c.user, CAVMAE_FLOAT64, data, 10, r->error, sizeof r->error);
}

static void test_failure(void (*work)(rank *), int32_t size, int32_t except, const char *phrase) {
    rank ranks[MOST];
    run_all(ranks, size, work);
    for (int32_t i = 0; i < size; i++) {
        if (i == except) continue;
        if (!CHECK(ranks[i].status == CAVMAE_E_PEER) || !CHECK(strstr(ranks[i].error, phrase) != NULL) ||
            !CHECK(ranks[i].seconds < 3) || !CHECK(!ranks[i].wrong))
            printf("    rank %d of %d, after %.1f s: %s\n", (int)i, (int)size, ranks[i].seconds, ranks[i].error);
    }
}

int main(void) {
    char phrase[64];
    test_exact();
    for (int32_t size = 2; size <= MOST; size++) {
        for (leaves = 0; leaves < size; leaves++) {
            snprintf(phrase, sizeof phrase, "rank %d's connection was closed", (int)leaves);
            test_failure(one_leaves, size, leaves, phrase);
        }
    }
    test_failure(one_leaves_while_another_is_busy, 3, -1, "rank 2 has given up waiting");
    test_failure(one_gives_up, 4, -1, "rank 1 has given up waiting");
    test_failure(all_differ, 4, -1, "all-reduce of 40 bytes, where rank 0 is at collective 1, all-reduce of 80 bytes");
    return check_summary("tcp_carrier");
}
