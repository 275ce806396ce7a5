/* Worlds on a device, with a made-up carrier whose other rank does what it is told, over the CPU's backend. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "failing_allocator.h"
#include "world_internal.h"

enum { SIZE = 2, RANK = 1 };

typedef struct made_up {
    cavmae__carrier carrier;
    atomic_int_least64_t begun, ended;
    atomic_int hold, poll_fails, aborts, closes, orders;
    int64_t begin_fails_at;
    const char *other_text; /* what rank 0 is at; NULL: the same as we */
} made_up;

static cavmae_status made_up_begin(cavmae__carrier *carrier, const cavmae__collective *c) {
    made_up *m = (made_up *)carrier;
    int64_t number = atomic_fetch_add(&m->begun, 1) + 1;
    if (number == m->begin_fails_at) return cavmae__fail(CAVMAE_E_BACKEND, "the stream is dry");
    if (c->kind == CAVMAE__ALL_REDUCE && c->dtype == CAVMAE_FLOAT64) {
        double *data = c->data;
        for (int64_t i = 0; i < c->count; i++) data[i] *= SIZE;
    } else if (c->kind == CAVMAE__ALL_GATHER) {
        for (int r = 0; r < SIZE; r++) memcpy((char *)c->data + r * c->count, c->send, (size_t)c->count);
        cavmae__message *messages = c->data;
        if (m->other_text && c->count == sizeof *messages)
            snprintf(messages[0].text, sizeof messages[0].text, "%s", m->other_text);
    }
    if (!atomic_load(&m->hold)) atomic_store(&m->ended, number);
    return CAVMAE_OK;
}

static cavmae_status made_up_order(cavmae__carrier *carrier) {
    atomic_fetch_add(&((made_up *)carrier)->orders, 1);
    return CAVMAE_OK;
}

static cavmae_status made_up_poll(cavmae__carrier *carrier, int64_t *ended) {
    made_up *m = (made_up *)carrier;
    *ended = atomic_load(&m->ended);
    return atomic_load(&m->poll_fails) ? cavmae__fail(CAVMAE_E_PEER, "the other GPU is on fire") : CAVMAE_OK;
}

static void made_up_abort(cavmae__carrier *carrier) { atomic_fetch_add(&((made_up *)carrier)->aborts, 1); }

static void made_up_close(cavmae__carrier *carrier) { atomic_fetch_add(&((made_up *)carrier)->closes, 1); }

static const cavmae__carrier_ops made_up_ops = {.struct_size = sizeof made_up_ops,
                                                .name = "made up",
                                                .begin = made_up_begin,
                                                .order = made_up_order,
                                                .poll = made_up_poll,
                                                .abort = made_up_abort,
                                                .close = made_up_close};

static cavmae_status make(cavmae_context *context, made_up *m, double timeout, int32_t size, cavmae_world **out) {
    const cavmae__world_setup setup = {.name = "made up",
                                       .rank = size > 1 ? RANK : 0,
                                       .size = size,
                                       .timeout = timeout,
                                       .on_device = 1,
                                       .device = size > 1 ? &m->carrier : NULL};
    m->carrier.ops = &made_up_ops;
    return cavmae__world_make(context, &setup, out);
}

static cavmae_context *context;

static cavmae_world *make_world(made_up *m, double timeout) {
    cavmae_world *world = NULL;
    if (!CHECK_OK(make(context, m, timeout, SIZE, &world))) exit(1);
    return world;
}

static cavmae__collective sum_of(double *data, int64_t count, const char *what) {
    cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT64, .data = data, .count = count};
    snprintf(c.what, sizeof c.what, "%s", what);
    return c;
}

/* Until the watch thread has seen it. */
static cavmae_status broken(cavmae_world *world) {
    cavmae_status status = CAVMAE_OK;
    for (int i = 0; i < 5000 && status == CAVMAE_OK; i++) {
        usleep(1000);
        status = cavmae__world_check(world);
    }
    return status;
}

/* Broken with this sentence, for every call, and aborted once. */
static void check_broken(cavmae_world *world, made_up *m, const char *sentence) {
    double one = 1;
    const cavmae__collective c = sum_of(&one, 1, "after");
    if (!CHECK(strstr(cavmae_last_error(), sentence))) printf("  %s\n", cavmae_last_error());
    CHECK_STATUS(cavmae__world_begin(world, &c), CAVMAE_E_PEER);
    CHECK_STATUS(cavmae__world_wait(world), CAVMAE_E_PEER);
    CHECK_STATUS(cavmae__world_check(world), CAVMAE_E_PEER);
    CHECK_STATUS(cavmae_world_sum(world, &one, 1), CAVMAE_E_PEER);
    cavmae__world_new_step(world);
    CHECK_STATUS(cavmae_world_barrier(world), CAVMAE_E_PEER);
    CHECK(strstr(cavmae_last_error(), sentence) && one == 1);
    cavmae_world_free(world);
    CHECK(m->aborts == 1 && m->closes == 1);
}

static void test_calls(void) {
    enum { LARGE = (9 << 20) + 5 };
    made_up m = {.hold = 0};
    cavmae_world *world = make_world(&m, 30);
    double sums[3] = {1, 2, 3};
    char word[] = "word", *large = malloc(LARGE), *all = calloc(SIZE, LARGE);
    for (int i = 0; i < LARGE; i++) large[i] = (char)(i % 251);
    CHECK(cavmae__world_on_device(world) && cavmae__world_context(world) == context);
    CHECK(cavmae_world_rank(world) == RANK && cavmae_world_size(world) == SIZE);
    CHECK_OK(cavmae_world_barrier(world));
    CHECK_OK(cavmae_world_sum(world, sums, 3));
    CHECK(sums[0] == 2 && sums[2] == 6);
    CHECK_OK(cavmae_world_sum(world, sums, 0));
    CHECK_OK(cavmae_world_broadcast(world, word, sizeof word, RANK));
    CHECK(strcmp(word, "word") == 0);
    CHECK_OK(cavmae_world_gather(world, large, all, LARGE)); /* in two parts */
    CHECK(memcmp(large, all, LARGE) == 0 && memcmp(large, all + LARGE, LARGE) == 0);
    m.other_text = "barrier (the program's)";
    CHECK_STATUS(cavmae_world_sum(world, sums, 3), CAVMAE_E_PEER);
    check_broken(world, &m, "world: rank 1 is at 'all-reduce of 3 float64 (the program's)', rank 0 at 'barrier (the");
    free(all);
    free(large);
}

static void test_steps(void) {
    made_up m = {.hold = 0};
    cavmae_world *world = make_world(&m, 30);
    double data[4] = {1, 1, 1, 1};
    const cavmae__collective first = sum_of(data, 4, "step 3 of 8 clips"),
                             later = sum_of(data, 4, "gradients 1 of step 3");
    int64_t before = m.begun;
    for (int step = 0; step < 3; step++) {
        CHECK_OK(cavmae__world_begin(world, &first));
        CHECK_OK(cavmae__world_begin(world, &later));
        CHECK_OK(cavmae__world_wait(world));
    }
    CHECK(m.begun == before + 9 && data[3] == 64 && m.orders >= 3); /* the texts are gathered once a step */
    CHECK_OK(cavmae__world_check(world));
    m.other_text = "all-reduce of 4 float64 (step 4 of 8 clips)";
    CHECK_OK(cavmae__world_begin(world, &later));
    CHECK_OK(cavmae__world_check(world)); /* not compared */
    CHECK_OK(cavmae__world_begin(world, &first));
    CHECK_OK(cavmae__world_wait(world));
    CHECK_STATUS(cavmae__world_check(world), CAVMAE_E_PEER);
    check_broken(world, &m,
                 "world: rank 1 is at 'all-reduce of 4 float64 (step 3 of 8 clips)', rank 0 at 'all-reduce of 4");
}

static void test_hangs(void) {
    made_up m = {.hold = 0};
    cavmae_world *world = make_world(&m, 0.2);
    double data[2] = {1, 1};
    cavmae__collective patient = sum_of(data, 2, "an evaluation"), impatient = sum_of(data, 2, "gradients 2 of step 3");
    patient.patience = 1e3;
    m.hold = 1;
    CHECK_OK(cavmae__world_begin(world, &patient));
    for (double until = cavmae__now() + 0.5; cavmae__now() < until;) usleep(10000);
    CHECK_OK(cavmae__world_check(world));
    m.ended = m.begun;
    CHECK_OK(cavmae__world_begin(world, &impatient));
    CHECK_OK(cavmae__world_begin(world, &patient));
    CHECK_OK(cavmae__world_wait(world)); /* the host does not wait */
    CHECK_STATUS(broken(world), CAVMAE_E_PEER);
    check_broken(
        world, &m,
        "world: all-reduce of 2 float64 (gradients 2 of step 3), number 4, was not done in 0.2 s; which rank is not "
        "known: no watch_dir");
}

static void test_carrier_fails(void) {
    made_up polled = {.hold = 0}, begun = {.begin_fails_at = 5}, told = {.hold = 0};
    double data[2] = {1, 1};
    const cavmae__collective c = sum_of(data, 2, "gradients 2 of step 3");
    cavmae_world *world = make_world(&polled, 30);
    polled.hold = 1;
    CHECK_OK(cavmae__world_begin(world, &c));
    polled.poll_fails = 1;
    CHECK_STATUS(broken(world), CAVMAE_E_PEER);
    check_broken(world, &polled,
                 "world: all-reduce of 2 float64 (gradients 2 of step 3), number 3: the other GPU is on fire");

    world = make_world(&begun, 30);
    CHECK_OK(cavmae__world_begin(world, &c));
    CHECK_OK(cavmae__world_begin(world, &c));
    CHECK_STATUS(cavmae__world_begin(world, &c), CAVMAE_E_PEER);
    check_broken(world, &begun, "world: the stream is dry");

    world = make_world(&told, 30);
    CHECK_OK(cavmae__world_begin(world, &c));
    cavmae_world_fail(world, "no memory for it");
    cavmae_world_fail(world, "said once");
    CHECK_STATUS(cavmae__world_check(world), CAVMAE_E_PEER);
    check_broken(world, &told, "world: rank 1 failed: no memory for it");
}

static void test_alone(void) {
    made_up m = {.hold = 0};
    cavmae_world *world = NULL;
    double from[2] = {1, 2}, to[2] = {0};
    const cavmae__collective c = {
        .kind = CAVMAE__ALL_GATHER, .dtype = CAVMAE_FLOAT64, .send = from, .data = to, .count = 2};
    if (!CHECK_OK(make(context, &m, 0.5, 1, &world))) return;
    CHECK(cavmae__world_on_device(world));
    CHECK_OK(cavmae__world_run(world, &c));
    CHECK(to[0] == 1 && to[1] == 2);
    CHECK_OK(cavmae_world_sum(world, from, 2));
    CHECK_OK(cavmae__world_check(world));
    cavmae_world_free(world);
    CHECK(m.begun == 0 && m.closes == 0);
}

/* A world that cannot be made has closed its carrier, too. */
static void test_no_memory(void) {
    failing_allocator a = {.fail_at = 0};
    cavmae_context_options options = failing_options(&a);
    cavmae_context *own = NULL;
    cavmae_world *world = NULL;
    made_up dry = {.begin_fails_at = 1};
    CHECK_STATUS(make(context, &dry, 1, SIZE, &world), CAVMAE_E_PEER);
    CHECK(dry.closes == 1 && !world);
    options.threads = 1;
    options.device = NULL;
    if (!CHECK_OK(cavmae_context_create(&options, &own))) return;
    cavmae__backend *backend;
    CHECK_OK(cavmae__context_backend(own, &backend));
    long blocks = a.blocks;
    cavmae_status status = CAVMAE_E_NOMEM;
    int tries = 0;
    for (; status != CAVMAE_OK && tries < 20; tries++) {
        made_up m = {.hold = 0};
        a.fail_at = a.calls + 1 + tries;
        status = make(own, &m, 1, SIZE, &world);
        a.fail_at = 0;
        if (status == CAVMAE_OK) cavmae_world_free(world);
        CHECK(status == CAVMAE_OK || status == CAVMAE_E_NOMEM);
        CHECK(m.closes == 1 && a.blocks == blocks);
    }
    CHECK(status == CAVMAE_OK && tries > 4);
    cavmae_context_free(own);
    CHECK(a.blocks == 0);
}

int main(void) {
    const cavmae_context_options options = {.struct_size = sizeof options, .threads = 1};
    if (!CHECK_OK(cavmae_context_create(&options, &context))) return 1;
    test_calls();
    test_steps();
    test_hangs();
    test_carrier_fails();
    test_alone();
    test_no_memory();
    cavmae_context_free(context);
    return check_summary("world_device");
}
