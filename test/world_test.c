/* Worlds whose ranks all come: the collectives, what ranks say to one another before each, and failures that a world
 * outlives. */
#define _GNU_SOURCE
#include <string.h>

#include "failing_allocator.h"
#include "socket_world.h"
#include "world.h"
#include "world_threads.h"

enum { MOST = 5, TEXT = 512, STEPS = 6 };

/* What each rank was told at each step: ranks only write, and the main thread looks, because CHECK counts without a lock. */
typedef struct told {
    cavmae_status status[MOST][STEPS];
    char error[MOST][STEPS][TEXT];
    int64_t wrong[MOST];
} told;

static void note(told *t, int32_t rank, int step, cavmae_status status) {
    t->status[rank][step] = status;
    snprintf(t->error[rank][step], TEXT, "%s", cavmae_last_error());
}

static int says(const told *t, int32_t rank, int step, cavmae_status status, const char *text) {
    int good = t->status[rank][step] == status && (status == CAVMAE_OK || strstr(t->error[rank][step], text));
    if (!good)
        printf("rank %d, step %d: %s: %s\n", (int)rank, step, cavmae_status_str(t->status[rank][step]),
               t->error[rank][step]);
    return good;
}

/* ---- Collectives ---- */

typedef struct numbers {
    int32_t dtype;
    int64_t count;
    told t;
} numbers;

static size_t element_size(int32_t dtype) { return dtype == CAVMAE_FLOAT64 ? 8 : dtype == CAVMAE_FLOAT32 ? 4 : 2; }

static float rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

static void set(void *data, int32_t dtype, int64_t i, double x) {
    if (dtype == CAVMAE_FLOAT64)
        ((double *)data)[i] = x;
    else if (dtype == CAVMAE_FLOAT32)
        ((float *)data)[i] = (float)x;
    else {
        float upper = (float)x;
        uint32_t bits;
        memcpy(&bits, &upper, sizeof bits);
        ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
    }
}

static double get(const void *data, int32_t dtype, int64_t i) {
    if (dtype == CAVMAE_FLOAT64) return ((const double *)data)[i];
    if (dtype == CAVMAE_FLOAT32) return (double)((const float *)data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* What a rank has at place i; exact in each type, and sums are not. */
static double value(int32_t dtype, int32_t rank, int64_t i) {
    double x = sin((double)(i * 7 + rank * 131 + 1)) * (rank + 1) * (i % 5 ? 1 : 1e4);
    return dtype == CAVMAE_FLOAT64 ? x : dtype == CAVMAE_FLOAT32 ? (double)(float)x : (double)rounded((float)x);
}

/* In the order of the ranks, as the thread carrier promises. */
static double sum_of(int32_t dtype, int32_t size, int64_t i) {
    double wide = value(dtype, 0, i);
    float single = (float)wide;
    for (int32_t r = 1; r < size; r++) {
        wide += value(dtype, r, i);
        single += (float)value(dtype, r, i);
    }
    return dtype == CAVMAE_FLOAT64 ? wide : dtype == CAVMAE_FLOAT32 ? (double)single : (double)rounded(single);
}

static void fill(const numbers *n, void *data, int32_t rank, int64_t count) {
    for (int64_t i = 0; i < count; i++) set(data, n->dtype, i, value(n->dtype, rank, i));
}

static void each_collective(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    numbers *n = arg;
    const int32_t size = cavmae_world_size(world), dtype = n->dtype;
    const int64_t count = n->count, all = count * size;
    const size_t element = element_size(dtype);
    char *send = calloc((size_t)all + 1, element), *data = calloc((size_t)all + 1, element);
    cavmae_status status = CAVMAE_OK;
    int64_t wrong = 0;
    (void)context;
    cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE, .dtype = dtype, .data = data, .count = count, .what = "a"};
    fill(n, data, rank, count);
    if (status == CAVMAE_OK) status = cavmae__world_run(world, &c);
    for (int64_t i = 0; i < count; i++) wrong += get(data, dtype, i) != sum_of(dtype, size, i);

    for (int in_place = 0; in_place < 2; in_place++) {
        char *row = data + (size_t)(rank * count) * element;
        c = (cavmae__collective){.kind = CAVMAE__REDUCE_SCATTER, .dtype = dtype, .count = count, .what = "b"};
        c.send = in_place ? data : send;
        c.data = in_place ? row : data;
        fill(n, in_place ? data : send, rank, all);
        if (status == CAVMAE_OK) status = cavmae__world_run(world, &c);
        for (int64_t i = 0; i < count; i++) wrong += get(c.data, dtype, i) != sum_of(dtype, size, rank * count + i);

        c = (cavmae__collective){.kind = CAVMAE__ALL_GATHER, .dtype = dtype, .count = count, .what = "c"};
        memset(data, 0, (size_t)all * element);
        fill(n, in_place ? row : send, rank, count);
        c.send = in_place ? row : send;
        c.data = data;
        if (status == CAVMAE_OK) status = cavmae__world_run(world, &c);
        for (int64_t i = 0; i < all; i++) wrong += get(data, dtype, i) != value(dtype, (int32_t)(i / count), i % count);
    }
    for (int32_t root = 0; root < size; root++) {
        c = (cavmae__collective){.kind = CAVMAE__BROADCAST, .dtype = dtype, .count = count, .root = root, .what = "d"};
        c.data = data;
        fill(n, data, rank, count);
        if (status == CAVMAE_OK) status = cavmae__world_run(world, &c);
        for (int64_t i = 0; i < count; i++) wrong += get(data, dtype, i) != value(dtype, root, i);
    }
    c = (cavmae__collective){.kind = CAVMAE__BARRIER, .what = "e"};
    if (status == CAVMAE_OK) status = cavmae__world_run(world, &c);
    note(&n->t, rank, 0, status);
    n->t.wrong[rank] = wrong;
    free(send);
    free(data);
}

static void test_collectives(void) {
    static const int32_t dtypes[] = {CAVMAE_FLOAT32, CAVMAE_FLOAT64, CAVMAE_BFLOAT16};
    static const int64_t counts[] = {0, 1, 3, 7, 3077};
    for (int32_t size = 1; size <= MOST; size++)
        for (size_t i = 0; i < 15; i++) {
            numbers n = {.dtype = dtypes[i / 5], .count = counts[i % 5]};
            run_ranks(size, NULL, each_collective, &n);
            for (int32_t r = 0; r < size; r++)
                if (!CHECK(says(&n.t, r, 0, CAVMAE_OK, "") && n.t.wrong[r] == 0))
                    printf("  size %d, dtype %d, %d numbers: %d wrong\n", (int)size, (int)n.dtype, (int)n.count,
                           (int)n.t.wrong[r]);
        }
}

/* More under way than the queue holds, of memory that nobody looks at meanwhile. */
static void many_at_once(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    enum { BUCKETS = 150, EACH = 301 };
    static float data[MOST][BUCKETS][EACH];
    told *t = arg;
    (void)context;
    cavmae_status status = CAVMAE_OK;
    for (int b = 0; b < BUCKETS; b++)
        for (int i = 0; i < EACH; i++) data[rank][b][i] = (float)(rank + b + i);
    for (int b = 0; b < BUCKETS && status == CAVMAE_OK; b++) {
        cavmae__collective c = {
            .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data[rank][b], .count = EACH};
        snprintf(c.what, sizeof c.what, "gradients %d of %d", b, BUCKETS);
        status = cavmae__world_begin(world, &c);
    }
    if (status == CAVMAE_OK) status = cavmae__world_wait(world);
    note(t, rank, 0, status);
    for (int b = 0; b < BUCKETS; b++)
        for (int i = 0; i < EACH; i++) t->wrong[rank] += data[rank][b][i] != (float)(3 + 3 * (b + i));
}

static void test_overlap(void) {
    told t = {0};
    run_ranks(3, NULL, many_at_once, &t);
    for (int32_t r = 0; r < 3; r++) CHECK(says(&t, r, 0, CAVMAE_OK, "") && t.wrong[r] == 0);
}

static void program_calls(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    told *t = arg;
    double sums[2] = {rank, 0.5};
    char own[3] = {(char)('a' + rank), 'x', (char)('0' + rank)}, all[3 * 3] = "", word[4] = "no";
    if (rank == 1) memcpy(word, "yes", 4);
    (void)context;
    note(t, rank, 0, cavmae_world_barrier(world));
    note(t, rank, 1, cavmae_world_sum(world, sums, 2));
    note(t, rank, 2, cavmae_world_gather(world, own, all, sizeof own));
    note(t, rank, 3, cavmae_world_broadcast(world, word, sizeof word, 1));
    note(t, rank, 4, cavmae_world_gather(world, NULL, NULL, 0));
    note(t, rank, 5, cavmae_world_sum(world, rank == 2 ? NULL : sums, 2));
    t->wrong[rank] = sums[0] != 3 || sums[1] != 1.5 || memcmp(all, "ax0bx1cx2", 9) != 0 || strcmp(word, "yes") != 0 ||
                     cavmae_world_rank(world) != rank || cavmae_world_size(world) != 3 ||
                     strcmp(cavmae_world_carrier(world), "threads") != 0;
}

static void test_program_calls(void) {
    told t = {0};
    run_ranks(3, NULL, program_calls, &t);
    for (int32_t r = 0; r < 3; r++) {
        for (int call = 0; call < 5; call++) CHECK(says(&t, r, call, CAVMAE_OK, ""));
        CHECK(says(&t, r, 5, r == 2 ? CAVMAE_E_ARG : CAVMAE_E_PEER, "values is NULL"));
        CHECK(t.wrong[r] == 0);
    }
    /* Without a world each is alone. */
    double sum = 4;
    char from[] = "own", to[4] = "";
    CHECK_OK(cavmae_world_barrier(NULL));
    CHECK_OK(cavmae_world_sum(NULL, &sum, 1));
    CHECK_OK(cavmae_world_gather(NULL, from, to, sizeof from));
    CHECK_OK(cavmae_world_broadcast(NULL, to, sizeof to, 0));
    CHECK(sum == 4 && strcmp(to, "own") == 0);
    CHECK_STATUS(cavmae_world_broadcast(NULL, to, sizeof to, 1), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_world_sum(NULL, &sum, -1), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_world_gather(NULL, NULL, to, 1), CAVMAE_E_ARG);
    CHECK_STATUS(cavmae_world_gather(NULL, from, to, SIZE_MAX), CAVMAE_E_ARG);
    CHECK(cavmae_world_rank(NULL) == 0 && cavmae_world_size(NULL) == 1 && !cavmae_world_carrier(NULL));
    CHECK(cavmae__world_ref(NULL) == NULL);
    cavmae_world_fail(NULL, "nobody hears it");
    cavmae_world_free(NULL);
}

/* ---- Ranks that are not at the same place ---- */

typedef struct difference {
    int32_t size, odd; /* the rank that is elsewhere */
    cavmae__collective most, other;
    const char *sentence;
    told t;
} difference;

static void differ(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    difference *d = arg;
    double data[8 * MOST] = {0}, send[8] = {0};
    cavmae__collective c = rank == d->odd ? d->other : d->most;
    (void)context;
    c.data = data;
    c.send = send;
    cavmae__world_new_step(world);
    note(&d->t, rank, 0, cavmae__world_run(world, &c));
    note(&d->t, rank, 1, cavmae__world_run(world, &d->most)); /* the step has failed: nobody is asked */
    cavmae__world_new_step(world);
    c = d->most;
    c.data = data;
    c.send = send;
    note(&d->t, rank, 2, cavmae__world_run(world, &c));
}

static void test_differences(void) {
    static const cavmae__collective most = {
        .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT64, .count = 3, .what = "step 5 of 16 clips"};
    difference cases[] = {{.size = 3, .odd = 2, .other = {.count = 4, .what = "step 5 of 16 clips"}},
                          {.size = 3, .odd = 0, .other = {.dtype = CAVMAE_FLOAT32, .what = "step 5 of 16 clips"}},
                          {.size = 2, .odd = 0, .other = {.what = "step 6 of 16 clips"}},
                          {.size = 4, .odd = 1, .other = {.kind = CAVMAE__ALL_GATHER, .what = "step 5 of 16 clips"}},
                          {.size = 3, .odd = 1, .other = {.kind = CAVMAE__BARRIER, .what = "the program's"}},
                          {.size = 3, .odd = 1, .other = {.kind = CAVMAE__BROADCAST, .root = 2, .what = "parameters"}}};
    static const char *const sentences[] = {
        "world: rank 2 is at 'all-reduce of 4 float64 (step 5 of 16 clips)', rank 0 at 'all-reduce of 3 float64 (step",
        "world: rank 0 is at 'all-reduce of 3 float32 (step 5 of 16 clips)', rank 1 at 'all-reduce of 3 float64 (step",
        "world: rank 1 is at 'all-reduce of 3 float64 (step 5 of 16 clips)', rank 0 at 'all-reduce of 3 float64 (step",
        "world: rank 1 is at 'all-gather of 3 float64 (step 5 of 16 clips)', rank 0 at",
        "world: rank 1 is at 'barrier (the program's)', rank 0 at",
        "world: rank 1 is at 'broadcast of 3 float64 from rank 2 (parameters)', rank 0 at"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        difference *d = &cases[i];
        d->most = most;
        if (!d->other.dtype) d->other.dtype = most.dtype;
        if (!d->other.count) d->other.count = most.count;
        run_ranks(d->size, NULL, differ, d);
        for (int32_t r = 0; r < d->size; r++) {
            CHECK(says(&d->t, r, 0, CAVMAE_E_PEER, sentences[i]));
            CHECK(says(&d->t, r, 1, CAVMAE_E_PEER, sentences[i]));
            CHECK(says(&d->t, r, 2, CAVMAE_OK, ""));
        }
    }
}

/* ---- Ranks that fail ---- */

/* A program of numbered steps of four collectives each. A rank fails in step 1 when it has begun so many of them. */
typedef struct failing {
    int32_t size;
    int begun[MOST]; /* 4: after the last; -1: not at all */
    told t;
} failing;

enum { PER_STEP = 4 };

static cavmae_status take_step(cavmae_world *world, int step, int32_t rank, int fail_after) {
    double data[PER_STEP][3] = {{0}};
    char sentence[64];
    cavmae_status status = CAVMAE_OK;
    cavmae__world_new_step(world);
    for (int i = 0; i < PER_STEP && status == CAVMAE_OK && i != fail_after; i++) {
        cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT64, .data = data[i], .count = 3};
        for (int k = 0; k < 3; k++) data[i][k] = rank + step + i;
        snprintf(c.what, sizeof c.what, "part %d of step %d", i, step);
        status = cavmae__world_begin(world, &c);
    }
    cavmae_status waited = CAVMAE_OK;
    if (fail_after == PER_STEP || fail_after < 0) waited = cavmae__world_wait(world);
    if (fail_after >= 0) {
        snprintf(sentence, sizeof sentence, "rank %d has no memory", (int)rank);
        cavmae_world_fail(world, sentence);
        cavmae_world_fail(world, "said once");
        waited = cavmae__world_wait(world);
    }
    if (status == CAVMAE_OK) status = waited;
    const int size = cavmae_world_size(world);
    for (int i = 0; i < PER_STEP && status == CAVMAE_OK; i++)
        if (data[i][2] != size * (size - 1) / 2 + size * (step + i))
            status = cavmae__fail(CAVMAE_E_INTERNAL, "wrong sum %g", data[i][2]);
    return status;
}

static void fail_in_step(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    failing *f = arg;
    (void)context;
    for (int step = 0; step < STEPS; step++)
        note(&f->t, rank, step, take_step(world, step, rank, step == 1 ? f->begun[rank] : -1));
}

static void test_failures(void) {
    failing cases[] = {{.size = 3, .begun = {-1, 0, -1}},    /* before anything */
                       {.size = 3, .begun = {-1, 2, -1}},    /* while the others have more */
                       {.size = 3, .begun = {0, -1, 3}},     /* two, in different places */
                       {.size = 4, .begun = {-1, 1, 1, -1}}, /* two at once */
                       {.size = 2, .begun = {2, 3}},         /* all */
                       {.size = 5, .begun = {-1, -1, -1, -1, 3}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        failing *f = &cases[i];
        int32_t first = 0; /* to fail: the smallest count, then the lowest rank */
        for (int32_t r = 0; r < f->size; r++)
            if (f->begun[r] >= 0 && (f->begun[first] < 0 || f->begun[r] < f->begun[first])) first = r;
        char sentence[64];
        snprintf(sentence, sizeof sentence, "world: rank %d failed: rank %d has no memory", (int)first, (int)first);
        run_ranks(f->size, NULL, fail_in_step, f);
        for (int32_t r = 0; r < f->size; r++)
            for (int step = 0; step < STEPS; step++)
                CHECK(says(&f->t, r, step, step == 1 ? CAVMAE_E_PEER : CAVMAE_OK, sentence));
    }
}

/* The others have passed that step: they, and the rank itself, fail in the next. */
static void test_failure_after_the_last(void) {
    static const char sentence[] = "world: rank 1 failed: rank 1 has no memory";
    failing f = {.size = 3, .begun = {-1, PER_STEP, -1}};
    run_ranks(f.size, NULL, fail_in_step, &f);
    for (int32_t r = 0; r < f.size; r++)
        for (int step = 0; step < STEPS; step++)
            CHECK(says(&f.t, r, step, step == 2 || (step == 1 && r == 1) ? CAVMAE_E_PEER : CAVMAE_OK, sentence));
}

/* A rank that leaves a step out, and one that begins more: they part, are told, and meet again. */
static void part(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    told *t = arg;
    (void)context;
    for (int i = 0; i < 3; i++)
        if (rank == 2) cavmae__world_new_step(world);
    note(t, rank, 0, take_step(world, 0, rank, -1)); /* who counts more steps is no other place */
    note(t, rank, 1, rank == 0 ? take_step(world, 7, rank, -1) : take_step(world, 1, rank, -1));
    note(t, rank, 2, take_step(world, 2, rank, -1));
}

static void test_parting(void) {
    told t = {0};
    run_ranks(3, NULL, part, &t);
    for (int32_t r = 0; r < 3; r++) {
        CHECK(says(&t, r, 0, CAVMAE_OK, ""));
        CHECK(says(&t, r, 1, CAVMAE_E_PEER, "rank 0 is at 'all-reduce of 3 float64 (part 0 of step 7)', rank 1 at"));
        CHECK(says(&t, r, 2, CAVMAE_OK, ""));
    }
}

/* ---- The caller's functions ---- */

typedef struct callers {
    socket_rank ranks[SOCKET_RANKS];
    told t;
} callers;

static void over_sockets(cavmae_world *threads, cavmae_context *context, int32_t rank, void *arg) {
    callers *c = arg;
    const cavmae_world_options options = {
        .struct_size = sizeof options, .rank = rank, .size = cavmae_world_size(threads)};
    const cavmae_collectives record = socket_record(&c->ranks[rank]);
    cavmae_world *world = NULL;
    numbers n = {.dtype = CAVMAE_FLOAT64, .count = 21};
    note(&c->t, rank, 0, cavmae_world_create(context, &options, &record, &world));
    if (!world) return;
    each_collective(world, context, rank, &n);
    c->t.status[rank][1] = n.t.status[rank][0];
    c->t.wrong[rank] = n.t.wrong[rank] || strcmp(cavmae_world_carrier(world), "sockets") != 0;
    note(&c->t, rank, 2, take_step(world, 1, rank, rank == 1 ? 2 : -1));
    note(&c->t, rank, 3, take_step(world, 2, rank, -1));
    cavmae_world_free(world);
}

static void test_callers_functions(void) {
    callers c = {.t = {.status = {{0}}}};
    socket_ranks(3, c.ranks);
    run_ranks(3, NULL, over_sockets, &c);
    for (int32_t r = 0; r < 3; r++) {
        CHECK(says(&c.t, r, 0, CAVMAE_OK, "") && says(&c.t, r, 1, CAVMAE_OK, "") && c.t.wrong[r] == 0);
        CHECK(says(&c.t, r, 2, CAVMAE_E_PEER, "rank 1 failed: rank 1 has no memory"));
        CHECK(says(&c.t, r, 3, CAVMAE_OK, ""));
        CHECK(c.ranks[r].closed == 1);
    }
    socket_ranks_close(3, c.ranks);
}

int main(void) {
    test_collectives();
    test_overlap();
    test_program_calls();
    test_differences();
    test_failures();
    test_failure_after_the_last();
    test_parting();
    test_callers_functions();
    return check_summary("world");
}
