/* Collectives of several GPUs: ranks are threads, each with a context on a device of its own. In the simulator there are
 * four devices, and a NCCL that can be told to fail (test/cudasim/nccl.cpp); on a machine as many as it has. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "carrier.h"
#include "compare.h"
#include "device_plugin.h"
#include "failing_allocator.h"

enum { MOST = 4 };

static int devices, simulated;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

/* ---- Ranks ---- */

typedef struct rank rank;
struct rank {
    int32_t number, size, claimed; /* claimed: its number, as it says */
    double timeout;
    cavmae_context *context;
    cavmae__backend *backend;
    const uint8_t *id;
    cavmae__carrier *carrier;
    pthread_barrier_t *meet;
    rank *all;
    void (*body)(rank *);
    const void *arg;
    cavmae_status opened;
    char error[600];
    atomic_int flag; /* what tests use it for */
    void *index;     /* device: 0, 1, ... */
    int wrong;
};

/* CHECK is for one thread. */
#define EXPECT(r, condition) expect((r), !!(condition), #condition, __LINE__)
#define EXPECT_OK(r, call) expect((r), (call) == CAVMAE_OK, #call, __LINE__)

static int expect(rank *r, int good, const char *text, int line) {
    if (!good) {
        r->wrong++;
        printf("%s:%d: rank %d of %d: not true: %s (%s)\n", __FILE__, line, (int)r->number, (int)r->size, text,
               cavmae_last_error());
    }
    return good;
}

static cavmae_context *context_on(int32_t number, const cavmae_context_options *given) {
    cavmae_context_options options = given ? *given : device_options();
    cavmae_context *context = NULL;
    char device[32];
    snprintf(device, sizeof device, "cuda:%d", (int)number);
    options.device = device;
    return cavmae_context_create(&options, &context) == CAVMAE_OK ? context : NULL;
}

static cavmae_status open_carrier(rank *r) {
    const cavmae__carrier_options options = {.rank = r->claimed, .size = r->size, .timeout = r->timeout, .id = r->id};
    void *carrier = NULL;
    const cavmae_status status =
        cavmae__context_device_plugin(r->context)->open_carrier(r->backend, &options, &carrier);
    r->carrier = carrier;
    return status;
}

static void *rank_main(void *arg) {
    rank *r = arg;
    r->opened = open_carrier(r);
    snprintf(r->error, sizeof r->error, "%s", r->opened == CAVMAE_OK ? "" : cavmae_last_error());
    if (r->opened == CAVMAE_OK && r->body) r->body(r);
    if (r->carrier) r->carrier->ops->close(r->carrier);
    return NULL;
}

static void new_id(cavmae_context *context, uint8_t id[CAVMAE_NCCL_ID_SIZE]) {
    cavmae__backend *backend;
    CHECK_OK(cavmae__context_backend(context, &backend));
    CHECK_OK(cavmae__context_device_plugin(context)->new_id(backend, id));
}

/* `body` on every rank; `absent` (negative: none) does not come. */
static void run_with(rank ranks[MOST], int32_t size, int32_t absent, double timeout, void (*body)(rank *),
                     const void *arg) {
    pthread_t threads[MOST];
    pthread_barrier_t meet;
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    pthread_barrier_init(&meet, NULL, (unsigned)size);
    for (int32_t i = 0; i < size; i++) {
        const int32_t claimed = ranks[i].claimed;
        ranks[i] = (rank){.number = i,
                          .size = size,
                          .claimed = claimed < 0 ? i : claimed,
                          .timeout = timeout,
                          .id = id,
                          .meet = &meet,
                          .all = ranks,
                          .body = body,
                          .arg = arg};
        ranks[i].context = context_on(i, NULL);
        if (!CHECK(ranks[i].context)) exit(check_summary("cuda nccl"));
        CHECK_OK(cavmae__context_backend(ranks[i].context, &ranks[i].backend));
    }
    new_id(ranks[0].context, id);
    for (int32_t i = 0; i < size; i++)
        if (i != absent && pthread_create(&threads[i], NULL, rank_main, &ranks[i]) != 0) exit(2);
    for (int32_t i = 0; i < size; i++) {
        if (i != absent) pthread_join(threads[i], NULL);
        CHECK(ranks[i].wrong == 0);
    }
    /* Not in the order in which they were opened. */
    for (int32_t i = 0; i < size; i++) cavmae_context_free(ranks[(i + 1) % size].context);
    pthread_barrier_destroy(&meet);
}

static void run(int32_t size, void (*body)(rank *), const void *arg) {
    rank ranks[MOST];
    for (int i = 0; i < MOST; i++) ranks[i].claimed = -1;
    run_with(ranks, size, -1, 20, body, arg);
    for (int32_t i = 0; i < size; i++)
        if (!CHECK(ranks[i].opened == CAVMAE_OK)) printf("    it says: %s\n", ranks[i].error);
}

/* ---- What ranks do ---- */

static void *allocate(rank *r, size_t size, const void *host) {
    void *memory = NULL, *poison = malloc(size + 1);
    memset(poison, 0xFF, size + 1);
    EXPECT_OK(r, r->backend->ops->alloc(r->backend, size, &memory));
    EXPECT_OK(r, r->backend->ops->upload(r->backend, memory, host ? host : poison, size));
    free(poison);
    return memory;
}

static void release(rank *r, void *memory) { r->backend->ops->free(r->backend, memory); }

static cavmae_status begin(rank *r, cavmae__collective op) {
    if (!op.what[0]) snprintf(op.what, sizeof op.what, "collective of kind %d", (int)op.kind);
    return r->carrier->ops->begin(r->carrier, &op);
}

static cavmae_status order(rank *r) { return r->carrier->ops->order(r->carrier); }

static cavmae_status barrier(rank *r) {
    return begin(r, (cavmae__collective){.kind = CAVMAE__BARRIER, .what = "barrier"});
}

static cavmae_status download(rank *r, void *host, const void *device, size_t size) {
    return r->backend->ops->download(r->backend, host, device, size);
}

/* Until `ended` collectives have, or something has failed. */
static cavmae_status poll_until(rank *r, int64_t ended) {
    const double start = seconds();
    int64_t now = -1, before = -1;
    cavmae_status status;
    while ((status = r->carrier->ops->poll(r->carrier, &now)) == CAVMAE_OK && now < ended) {
        EXPECT(r, now >= before);
        before = now;
        if (!EXPECT(r, seconds() < start + 20)) break;
        nap();
    }
    return status;
}

static void meet(rank *r) { pthread_barrier_wait(r->meet); }

/* ---- Every collective, every type ---- */

/* Small whole numbers: exact in every type, whatever the order. */
static double value(int32_t of, int64_t i) { return (double)((of * 7 + i * 3) % 13 - 6); }

static void put(void *data, int32_t dtype, int64_t i, double x) {
    if (dtype == CAVMAE_FLOAT64)
        ((double *)data)[i] = x;
    else if (dtype == CAVMAE_UINT8)
        ((uint8_t *)data)[i] = (uint8_t)(x + 6);
    else
        write_element(data, dtype, i, (float)x);
}

typedef struct one_collective {
    int32_t kind, dtype, in_place, root;
    int64_t count;
} one_collective;

static double expected_at(const one_collective *c, const rank *r, int64_t i) {
    double sum = 0;
    switch (c->kind) {
    case CAVMAE__ALL_GATHER: return value((int32_t)(i / c->count), i % c->count);
    case CAVMAE__BROADCAST: return value(c->root, i);
    case CAVMAE__REDUCE_SCATTER: i += c->count * r->number; break;
    default: break;
    }
    for (int32_t other = 0; other < r->size; other++) sum += value(other, i);
    return sum;
}

static void check_one(rank *r, const one_collective *c) {
    const int scatter = c->kind == CAVMAE__REDUCE_SCATTER, gather = c->kind == CAVMAE__ALL_GATHER;
    const size_t row = (size_t)c->count * element_size(c->dtype);
    const size_t sent = scatter ? row * (size_t)r->size : row, got = gather ? row * (size_t)r->size : row;
    char *host = malloc(sent), *expected = malloc(got), *back = malloc(got);
    for (int64_t i = 0; i < (scatter ? c->count * r->size : c->count); i++) put(host, c->dtype, i, value(r->number, i));
    for (int64_t i = 0; i < (gather ? c->count * r->size : c->count); i++)
        put(expected, c->dtype, i, expected_at(c, r, i));

    char *send = NULL, *data;
    if (scatter) {
        send = allocate(r, sent, host);
        data = c->in_place ? send + row * (size_t)r->number : allocate(r, got, NULL);
    } else if (gather) {
        data = allocate(r, got, NULL);
        send = c->in_place ? data + row * (size_t)r->number : allocate(r, sent, NULL);
        EXPECT_OK(r, r->backend->ops->upload(r->backend, send, host, sent));
    } else
        data = allocate(r, got, c->kind == CAVMAE__BROADCAST && r->number != c->root ? NULL : host);

    EXPECT_OK(
        r,
        begin(r,
              (cavmae__collective){
                  .kind = c->kind, .dtype = c->dtype, .root = c->root, .send = send, .data = data, .count = c->count}));
    EXPECT_OK(r, order(r));
    EXPECT_OK(r, download(r, back, data, got));
    if (!EXPECT(r, memcmp(back, expected, got) == 0))
        printf("    kind %d, dtype %d, count %lld, in place %d\n", (int)c->kind, (int)c->dtype, (long long)c->count,
               (int)c->in_place);
    if (scatter || (gather && !c->in_place)) release(r, send);
    if (!scatter || !c->in_place) release(r, data);
    free(host);
    free(expected);
    free(back);
}

static void every_collective(rank *r) {
    static const int32_t dtypes[] = {CAVMAE_FLOAT32, CAVMAE_FLOAT64, CAVMAE_BFLOAT16, CAVMAE_UINT8};
    static const int64_t counts[] = {1, 64, 1001};
    int64_t calls = 0, ended = -1;
    for (int32_t kind = CAVMAE__ALL_REDUCE; kind <= CAVMAE__BROADCAST; kind++)
        for (int d = 0; d < 4; d++)
            for (int n = 0; n < 3; n++)
                for (int32_t in_place = 0; in_place < 2; in_place++) {
                    if (dtypes[d] == CAVMAE_UINT8 && (kind == CAVMAE__ALL_REDUCE || kind == CAVMAE__REDUCE_SCATTER))
                        continue;
                    check_one(r, &(one_collective){kind, dtypes[d], in_place, n % r->size, counts[n]});
                    calls++;
                }
    EXPECT_OK(r, barrier(r));
    EXPECT_OK(r, poll_until(r, calls + 1));
    EXPECT_OK(r, r->carrier->ops->poll(r->carrier, &ended));
    EXPECT(r, ended == calls + 1);
    EXPECT(r, strcmp(r->carrier->ops->name, "nccl") == 0);

    /* What is refused leaves the carrier as it was. */
    void *memory = allocate(r, 8, NULL);
    EXPECT(r, begin(r, (cavmae__collective){.dtype = CAVMAE_UINT8, .data = memory, .count = 8}) == CAVMAE_E_INTERNAL);
    EXPECT(r, begin(r, (cavmae__collective){.dtype = CAVMAE_INT32, .data = memory, .count = 2}) == CAVMAE_E_INTERNAL);
    EXPECT_OK(r, barrier(r));
    EXPECT_OK(r, order(r));
    release(r, memory);
}

static void test_collectives(void) {
    for (int32_t size = 1; size <= devices; size++) run(size, every_collective, NULL);
}

/* ---- Order ---- */

enum { ROWS = 40, WIDTH = 64 };
static const size_t block = (size_t)ROWS * WIDTH * sizeof(float);

/* y = x, in the backend's stream. */
static cavmae_status copy_rows(rank *r, const void *x, void *y) {
    const cavmae__combine op = {.rows = ROWS, .width = WIDTH, .x = x, .first = r->index, .y = y};
    return r->backend->ops->combine(r->backend, &op);
}

static float *host_rows(float x) {
    float *rows = malloc(block);
    for (int i = 0; i < ROWS * WIDTH; i++) rows[i] = x;
    return rows;
}

static void make_index(rank *r) {
    int32_t index[ROWS];
    for (int i = 0; i < ROWS; i++) index[i] = i;
    r->index = allocate(r, sizeof index, index);
}

static int all_are(const float *rows, float x) {
    for (int i = 0; i < ROWS * WIDTH; i++)
        if (rows[i] != x) return 0;
    return 1;
}

/* After all that the backend was given before, and before all that it is given afterwards. */
static void ordered(rank *r) {
    float *rows = host_rows((float)(r->number + 1)), *back = host_rows(-1);
    const float sum = (float)(r->size * (r->size + 1) / 2);
    void *x = allocate(r, block, rows), *data = allocate(r, block, NULL), *y = allocate(r, block, NULL);
    make_index(r);
    EXPECT_OK(r, barrier(r));
    for (int round = 0; round < 3; round++) {
        EXPECT_OK(r, r->backend->ops->upload_ahead(r->backend, x, rows, block));
        EXPECT_OK(r, copy_rows(r, x, data));
        EXPECT_OK(
            r, begin(r, (cavmae__collective){
                            .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = ROWS * WIDTH}));
        EXPECT_OK(r, order(r));
        EXPECT_OK(r, copy_rows(r, data, y));
        EXPECT_OK(r, r->backend->ops->zero(r->backend, data, block));
        EXPECT_OK(r, download(r, back, y, block));
        EXPECT(r, all_are(back, sum));
        EXPECT_OK(r, download(r, back, data, block));
        EXPECT(r, all_are(back, 0));
    }
    release(r, x);
    release(r, data);
    release(r, y);
    release(r, r->index);
    free(rows);
    free(back);
}

/* What was begun waits for the others beside the backend's own work. */
static void beside(rank *r) {
    float *rows = host_rows(2), *back = host_rows(-1);
    void *data = allocate(r, block, rows), *x = allocate(r, block, rows), *y = allocate(r, block, NULL);
    int64_t ended = -1;
    make_index(r);
    EXPECT_OK(r, barrier(r)); /* the first one waits for the others' calls: connections are made */
    EXPECT_OK(r, poll_until(r, 1));
    meet(r);
    const cavmae__collective sum = {
        .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = ROWS * WIDTH};
    if (r->number == 0) {
        for (int i = 0; i < 3; i++) EXPECT_OK(r, begin(r, sum));
        EXPECT_OK(r, copy_rows(r, x, y));
        EXPECT_OK(r, download(r, back, y, block));
        EXPECT(r, all_are(back, 2));
        for (int i = 0; i < 20; i++) EXPECT_OK(r, r->carrier->ops->poll(r->carrier, &ended));
        EXPECT(r, ended == 1);
        meet(r);
    } else {
        meet(r);
        for (int i = 0; i < 3; i++) EXPECT_OK(r, begin(r, sum));
    }
    EXPECT_OK(r, poll_until(r, 4));
    EXPECT_OK(r, order(r));
    EXPECT_OK(r, download(r, back, data, block));
    EXPECT(r, all_are(back, 2.0f * (float)(r->size * r->size * r->size)));
    release(r, data);
    release(r, x);
    release(r, y);
    release(r, r->index);
    free(rows);
    free(back);
}

/* Many more than may be under way at once. */
static void many(rank *r) {
    float one = 1, back = 0;
    void *data = allocate(r, sizeof one, &one);
    const cavmae__collective copy = {
        .kind = CAVMAE__BROADCAST, .dtype = CAVMAE_FLOAT32, .data = data, .count = 1, .root = r->size - 1};
    for (int i = 0; i < 300; i++) EXPECT_OK(r, begin(r, copy));
    EXPECT_OK(r, order(r));
    EXPECT_OK(r, download(r, &back, data, sizeof back));
    EXPECT(r, back == 1);
    EXPECT_OK(r, poll_until(r, 300));
    release(r, data);
}

static void test_order(void) {
    for (int32_t size = 1; size <= devices; size += 2) run(size, ordered, NULL);
    run(devices > 1 ? 2 : 1, many, NULL);
    if (devices > 1) run(2, beside, NULL);
    if (devices > 2) run(3, beside, NULL);
}

/* Refused while a step is recorded, which is then run as it stands. */
typedef struct recorded {
    rank *r;
    int calls, refused;
} recorded;

static cavmae_status body_with_barrier(void *arg) {
    recorded *one = arg;
    one->calls++;
    const cavmae_status status = barrier(one->r);
    if (status == CAVMAE_E_INTERNAL) one->refused++;
    CAVMAE__TRY(status);
    return order(one->r);
}

static void not_recorded(rank *r) {
    cavmae__repeat repeat = {0};
    recorded one = {.r = r};
    for (int i = 0; i < 3; i++) EXPECT_OK(r, r->backend->ops->repeat(r->backend, &repeat, 1, body_with_barrier, &one));
    EXPECT(r, one.refused == 1 && one.calls == 4);
    EXPECT_OK(r, r->backend->ops->sync(r->backend));
    r->backend->ops->repeat_free(r->backend, &repeat);
}

/* ---- Opening ---- */

static void check_words(const char *sentence, const char *first, const char *second) {
    if (!CHECK(strstr(sentence, first) && strstr(sentence, second))) printf("    it says: %s\n", sentence);
}

static void check_no_library(cavmae_context *context, const char *name, const char *set, const char *first,
                             const char *second) {
    const cavmae__device_plugin *plugin = cavmae__context_device_plugin(context);
    const uint8_t none[CAVMAE_NCCL_ID_SIZE] = {0};
    const cavmae__carrier_options options = {.size = 1, .timeout = 1, .id = none};
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    cavmae__backend *backend;
    void *carrier = NULL;
    CHECK_OK(cavmae__context_backend(context, &backend));
    setenv(name, set, 1);
    CHECK_STATUS(plugin->new_id(backend, id), CAVMAE_E_BACKEND);
    check_words(cavmae_last_error(), first, second);
    CHECK_STATUS(plugin->open_carrier(backend, &options, &carrier), CAVMAE_E_BACKEND);
    check_words(cavmae_last_error(), first, second);
    CHECK(!carrier);
    unsetenv(name);
}

static void test_library(void) {
    cavmae_context *context = context_on(0, NULL);
    uint8_t first[CAVMAE_NCCL_ID_SIZE], second[CAVMAE_NCCL_ID_SIZE];
    new_id(context, first);
    new_id(context, second);
    CHECK(memcmp(first, second, sizeof first) != 0);
    if (simulated) {
        check_no_library(context, "CUDASIM_NCCL_FILE", "/nonexistent/libnccl.so.2", "NCCL cannot be loaded",
                         "/nonexistent");
        check_no_library(context, "CUDASIM_NCCL_FILE", TEST_CUDASIM_DIR "/other-version/libcavmae-cuda.so",
                         "libnccl.so.2", "has no function ncclGetVersion");
        check_no_library(context, "CUDASIM_NCCL_VERSION", "21705", "NCCL 2.17.5", "too old");
    }
    cavmae_context_free(context);
}

static void test_opening(void) {
    rank ranks[MOST];
    double start = seconds();
    for (int i = 0; i < MOST; i++) ranks[i].claimed = -1;
    run_with(ranks, 2, 0, 0.5, NULL, NULL);
    CHECK_STATUS(ranks[1].opened, CAVMAE_E_PEER);
    check_words(ranks[1].error, "NCCL: rank 1 of 2", "the others did not come within 0.5 s");
    CHECK(seconds() - start < 10 && seconds() - start >= 0.5);

    /* Two of one number. */
    for (int i = 0; i < MOST; i++) ranks[i].claimed = i == 1 ? 0 : i;
    run_with(ranks, devices < 3 ? 2 : 3, -1, 1, NULL, NULL);
    for (int i = 0; i < (devices < 3 ? 2 : 3); i++) {
        CHECK(ranks[i].opened == CAVMAE_E_PEER || ranks[i].opened == CAVMAE_E_BACKEND);
        check_words(ranks[i].error, "NCCL: rank", i == 2 ? "2 of 3" : "0 of");
    }
}

/* Every allocation that opening asks the caller for fails in turn. */
static void test_no_host_memory(void) {
    failing_allocator allocator = {0};
    cavmae_context_options options = failing_options(&allocator), device = device_options();
    options.threads = 1;
    options.plugin_dir = device.plugin_dir;
    cavmae_context *context = context_on(0, &options);
    rank r = {.size = 1, .timeout = 5, .context = context};
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    cavmae_status status = CAVMAE_E_NOMEM;
    long at = 1;
    if (!CHECK(context)) return;
    CHECK_OK(cavmae__context_backend(context, &r.backend));
    new_id(context, id);
    r.id = id;
    const long blocks = allocator.blocks;
    for (; status == CAVMAE_E_NOMEM && at < 100; at++) {
        atomic_store(&allocator.calls, 0);
        allocator.fail_at = at;
        status = open_carrier(&r);
        if (status == CAVMAE_OK)
            r.carrier->ops->close(r.carrier);
        else
            CHECK(!r.carrier);
        CHECK(allocator.blocks == blocks);
    }
    allocator.fail_at = 0;
    CHECK_OK(status);
    CHECK(at > 2);
    cavmae_context_free(context);
}

/* ---- Failures ---- */

static void *abort_main(void *arg) {
    rank *r = arg;
    while (!atomic_load(&r->flag)) nap();
    nap();
    r->carrier->ops->abort(r->carrier);
    return NULL;
}

/* Everything after an abort fails, at once, and in the same way. */
static void check_over(rank *r, const char *words) {
    int64_t ended = 0;
    EXPECT(r, order(r) == CAVMAE_E_PEER && strstr(cavmae_last_error(), words));
    EXPECT(r, barrier(r) == CAVMAE_E_PEER && strstr(cavmae_last_error(), words));
    EXPECT(r, r->carrier->ops->poll(r->carrier, &ended) == CAVMAE_E_PEER && strstr(cavmae_last_error(), words));
}

/* A rank does not come to the second collective. The others wait for it in a download, until they are aborted. */
static void one_stays_away(rank *r) {
    float rows[8] = {1};
    void *data = allocate(r, sizeof rows, rows);
    EXPECT_OK(r, barrier(r));
    EXPECT_OK(r, poll_until(r, 1));
    if (r->number != r->size - 1) {
        const double start = seconds();
        pthread_t watcher;
        if (pthread_create(&watcher, NULL, abort_main, r) != 0) exit(2);
        EXPECT_OK(r, begin(r, (cavmae__collective){
                                  .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = 8}));
        EXPECT_OK(r, order(r));
        atomic_store(&r->flag, 1);
        (void)!download(r, rows, data, sizeof rows);
        pthread_join(watcher, NULL);
        EXPECT(r, seconds() - start < 10);
        check_over(r, "broken off");
        r->carrier->ops->abort(r->carrier); /* again: nothing */
    }
    release(r, data);
}

/* A rank never comes to the first one: already beginning it ends at the deadline. */
static void none_begins(rank *r) {
    if (r->number == 0) return;
    const double start = seconds();
    const cavmae__collective first = {.kind = CAVMAE__BARRIER, .what = "the first barrier", .patience = 0.01};
    EXPECT(r, begin(r, first) == CAVMAE_E_PEER);
    EXPECT(r, strstr(cavmae_last_error(), "the first barrier: the others did not begin it within 0.3 s"));
    EXPECT(r, seconds() - start < 10);
    check_over(r, "the first barrier");
}

/* Abort while begin waits for the others. */
static void aborted_in_begin(rank *r) {
    pthread_t watcher;
    if (r->number == 0) return;
    if (pthread_create(&watcher, NULL, abort_main, r) != 0) exit(2);
    atomic_store(&r->flag, 1);
    EXPECT(r, barrier(r) == CAVMAE_E_PEER && strstr(cavmae_last_error(), "broken off"));
    pthread_join(watcher, NULL);
    check_over(r, "broken off");
}

/* Rank 1's device fails in its second collective; the others are told of it. */
static void device_fails(rank *r) {
    EXPECT_OK(r, barrier(r));
    EXPECT_OK(r, poll_until(r, 1));
    meet(r);
    cavmae_status status = barrier(r); /* another rank may have come to it before this call is through */
    if (status == CAVMAE_OK) status = poll_until(r, 2);
    EXPECT(r, status == (r->number == 1 ? CAVMAE_E_BACKEND : CAVMAE_E_PEER));
    EXPECT(r, strstr(cavmae_last_error(), r->number == 1 ? "unhandled cuda error" : "remote process exited"));
    EXPECT(r, order(r) == status && barrier(r) == status);
    meet(r); /* none is aborted before all have seen it */
    r->carrier->ops->abort(r->carrier);
    EXPECT_OK(r, r->backend->ops->sync(r->backend));
}

/* Counts that differ; arg: whether it is reported. */
static void counts_differ(rank *r) {
    float rows[8] = {1};
    int64_t ended = 0;
    void *data = allocate(r, sizeof rows, rows);
    const double start = seconds();
    cavmae_status status =
        begin(r, (cavmae__collective){
                     .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = 7 + (r->number == 0)});
    while (status == CAVMAE_OK && seconds() < start + (r->arg ? 20 : 0.1)) {
        status = r->carrier->ops->poll(r->carrier, &ended);
        nap();
    }
    EXPECT(r, ended == 0);
    EXPECT(r, status == (r->arg ? CAVMAE_E_BACKEND : CAVMAE_OK));
    EXPECT(r, !r->arg || strstr(cavmae_last_error(), "invalid usage"));
    meet(r);
    r->carrier->ops->abort(r->carrier);
    EXPECT(r, order(r) == (r->arg ? CAVMAE_E_BACKEND : CAVMAE_E_PEER)); /* the first failure stays */
    release(r, data);
}

/* Closed with work under way, by each when it is through, in any order. */
static void closed_early(rank *r) {
    float rows[8] = {1};
    void *data = allocate(r, sizeof rows, rows);
    for (int i = 0; i < 5; i++)
        EXPECT_OK(r, begin(r, (cavmae__collective){
                                  .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = 8}));
    EXPECT_OK(r, order(r));
    if (r->number == 0) {
        EXPECT_OK(r, download(r, rows, data, sizeof rows));
        EXPECT(r, rows[0] == 32);
    }
    release(r, data);
}

static void test_failures(void) {
    run(2, one_stays_away, NULL);
    run(devices, one_stays_away, NULL);
    run(2, none_begins, NULL);
    run(2, aborted_in_begin, NULL);
    run(2, closed_early, NULL);
    if (!simulated) return;
    setenv("CUDASIM_NCCL_FAIL", "1:1", 1);
    run(3, device_fails, NULL);
    unsetenv("CUDASIM_NCCL_FAIL");
    run(2, counts_differ, "reported");
    setenv("CUDASIM_NCCL_MISMATCH", "hang", 1);
    run(3, counts_differ, NULL);
    unsetenv("CUDASIM_NCCL_MISMATCH");
}

int main(void) {
    setenv("CUDASIM_DEVICES", "4", 0);
    setenv("CUDASIM_MEMORY", "134217728", 0);
    for (cavmae_context *context; devices < MOST && (context = context_on(devices, NULL)); devices++) {
        const char *info = "";
        CHECK_OK(cavmae_context_device_info(context, &info));
        simulated = strstr(info, "imulated") != NULL;
        cavmae_context_free(context);
    }
    if (!CHECK(devices > 0)) return check_summary("cuda nccl");
    test_library();
    test_collectives();
    test_order();
    run(1, not_recorded, NULL);
    test_no_host_memory();
    if (devices > 1) test_opening();
    if (devices > 1) test_failures();
    return check_summary("cuda nccl");
}
