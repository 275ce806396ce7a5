/* Worlds that break: ranks that do not come, leave, are killed, or whose carrier fails; and what cannot be made at all. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "failing_allocator.h"
#include "socket_world.h"
#include "test_files.h"
#include "world_internal.h"
#include "world_threads.h"

enum { MOST = 4, CALLS = 3, TEXT = 512 };

typedef struct told {
    cavmae_status status[CALLS];
    char error[CALLS][TEXT];
    double seconds[CALLS];
} told;

static void call_sum(cavmae_world *world, told *t, int call) {
    double one = 1, start = cavmae__now();
    t->status[call] = cavmae_world_sum(world, &one, 1);
    t->seconds[call] = cavmae__now() - start;
    snprintf(t->error[call], TEXT, "%s", t->status[call] == CAVMAE_OK ? "" : cavmae_last_error());
}

static int says(const told *t, int call, cavmae_status status, const char *text) {
    int good = t->status[call] == status && strstr(t->error[call], text);
    if (!good) printf("call %d: %s: %s\n", call, cavmae_status_str(t->status[call]), t->error[call]);
    return good;
}

/* ---- Processes ---- */

/* Each child sums once; rank 2 then says so and sleeps; the others sum again when rank 2 is dead. */
static void killed_child(socket_rank *self, const char *folder, int ready, int go, int report) {
    cavmae_context_options context_options = test_options(1);
    const cavmae_world_options options = {
        .struct_size = sizeof options, .rank = self->rank, .size = self->size, .timeout = 1.5, .watch_dir = folder};
    cavmae_collectives record = socket_record(self);
    cavmae_context *context = NULL;
    cavmae_world *world = NULL;
    told t = {.status = {0}};
    char byte = 0;
    if (cavmae_context_create(&context_options, &context) != CAVMAE_OK) _exit(2);
    if (cavmae_world_create(context, &options, &record, &world) != CAVMAE_OK) _exit(3);
    call_sum(world, &t, 0);
    if (write(ready, &byte, 1) != 1) _exit(4);
    if (self->rank == 2)
        for (;;) pause();
    if (read(go, &byte, 1) != 1) _exit(5);
    call_sum(world, &t, 1);
    call_sum(world, &t, 2);
    if (write(report, &t, sizeof t) != (ssize_t)sizeof t) _exit(6);
    if (read(go, &byte, 1) != 1) _exit(5); /* its file is read by the other until then */
    cavmae_world_free(world);
    cavmae_context_free(context);
    _exit(0);
}

/* How many collectives the rank has ended, whose file's name ends so. */
static int64_t ended_by_file(const char *end) {
    char bytes[1024];
    cavmae__note note = {.ended = -1};
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (!strstr(entry->d_name, end)) continue;
        int file = openat(dirfd(dir), entry->d_name, O_RDONLY);
        ssize_t size = read(file, bytes, sizeof bytes);
        if (size < 0 || !cavmae__note_parse(bytes, (size_t)size, &note)) note.ended = -1;
        close(file);
    }
    closedir(dir);
    return note.ended;
}

static void test_killed(void) {
    socket_rank ranks[3];
    pid_t children[3];
    int ready[2], go[2], report[3][2], state;
    char bytes[4] = "";
    socket_ranks(3, ranks);
    if (pipe(ready) != 0 || pipe(go) != 0) exit(1);
    fflush(stdout);
    for (int r = 0; r < 3; r++) {
        if (pipe(report[r]) != 0) exit(1);
        children[r] = fork();
        if (children[r] == 0) killed_child(&ranks[r], directory, ready[1], go[0], report[r][1]);
    }
    for (int r = 0; r < 3; r++) CHECK(read(ready[0], bytes, 1) == 1);
    CHECK(files_in_directory() == 3);
    while (ended_by_file("-rank-0002") < 3) usleep(1000);
    kill(children[2], SIGKILL);
    waitpid(children[2], &state, 0);
    CHECK(write(go[1], bytes, 2) == 2);
    for (int r = 0; r < 2; r++) {
        told t;
        if (!CHECK(read(report[r][0], &t, sizeof t) == (ssize_t)sizeof t)) continue;
        CHECK(says(&t, 0, CAVMAE_OK, ""));
        /* Whose timeout is the first ends the others' connections. */
        CHECK(says(&t, 1, CAVMAE_E_PEER, "world: all-reduce of 1 float64 (the program's), number 4"));
        CHECK(says(&t, 1, CAVMAE_E_PEER, "rank 2 has not been heard of for"));
        CHECK(says(&t, 1, CAVMAE_E_PEER, "it had ended number 3, all-reduce of 1 float64 (the program's)"));
        CHECK(t.seconds[1] < 1.5 * 2 + CAVMAE__WORLD_GRACE);
        CHECK(t.status[2] == CAVMAE_E_PEER && strcmp(t.error[2], t.error[1]) == 0);
    }
    CHECK(write(go[1], bytes, 2) == 2);
    for (int r = 0; r < 2; r++) {
        waitpid(children[r], &state, 0);
        CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    }
    CHECK(files_in_directory() == 1); /* of the one that was killed */
    for (int r = 0; r < 3; r++) {
        close(report[r][0]);
        close(report[r][1]);
    }
    close(ready[0]);
    close(ready[1]);
    close(go[0]);
    close(go[1]);
    socket_ranks_close(3, ranks);
}

/* A folder that one rank cannot write in fails the world on both. */
typedef struct folders {
    socket_rank ranks[2];
    char missing[300];
    cavmae_status status[2];
    char error[2][TEXT];
} folders;

static void watch_nowhere(cavmae_world *threads, cavmae_context *context, int32_t rank, void *arg) {
    folders *f = arg;
    cavmae_world *world = NULL;
    const cavmae_world_options options = {
        .struct_size = sizeof options, .rank = rank, .size = 2, .watch_dir = rank ? f->missing : directory};
    const cavmae_collectives record = socket_record(&f->ranks[rank]);
    (void)threads;
    f->status[rank] = cavmae_world_create(context, &options, &record, &world);
    snprintf(f->error[rank], TEXT, "%s", cavmae_last_error());
    cavmae_world_free(world);
}

static void test_missing_folder(void) {
    folders f = {.status = {0}};
    int before = files_in_directory();
    snprintf(f.missing, sizeof f.missing, "%s/none", directory);
    socket_ranks(2, f.ranks);
    run_ranks(2, NULL, watch_nowhere, &f);
    CHECK(f.status[1] == CAVMAE_E_IO && strstr(f.error[1], "/none/cavmae-world-") &&
          strstr(f.error[1], "-rank-0001: cannot be written: "));
    CHECK(f.status[0] == CAVMAE_E_PEER && strstr(f.error[0], "rank 1 failed: ") && strstr(f.error[0], "/none/"));
    CHECK(f.ranks[0].closed == 0 && f.ranks[1].closed == 0); /* the caller's still */
    CHECK(files_in_directory() == before);
    socket_ranks_close(2, f.ranks);
}

static void test_notes(void) {
    static const char good[] = "cavmae world note 1\nbegun 12 all-reduce of 3\nended 11 \nfailure no memory\n\n\n";
    static const char *const bad[] = {"",
                                      "cavmae world note 1\n",
                                      "cavmae world note 2\nbegun 1 a\nended 1 a\nfailure \n",
                                      "cavmae world note 1\nbegun  a\nended 1 a\nfailure \n",
                                      "cavmae world note 1\nbegun 1\nended 1 a\nfailure \n",
                                      "cavmae world note 1\nbegun -1 a\nended 1 a\nfailure \n",
                                      "cavmae world note 1\nbegun 1 a\nended 9999999999999999999 a\nfailure \n",
                                      "cavmae world note 1\nbegun 1 a\nended 1 a\nfailure without an end"};
    cavmae__note n;
    CHECK(cavmae__note_parse(good, sizeof good - 1, &n));
    CHECK(n.begun == 12 && n.ended == 11 && strcmp(n.begun_text, "all-reduce of 3") == 0 && n.ended_text[0] == '\0' &&
          strcmp(n.failure, "no memory") == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(!cavmae__note_parse(bad[i], strlen(bad[i]), &n));
    for (size_t size = 0; size + 3 < sizeof good; size++) CHECK(!cavmae__note_parse(good, size, &n));
    char longer[300];
    int used = snprintf(longer, sizeof longer, "cavmae world note 1\nbegun 1 %0200d\nended 1 a\nfailure \n", 0);
    CHECK(!cavmae__note_parse(longer, (size_t)used, &n));
}

/* ---- Threads ---- */

typedef struct absence {
    told ranks[MOST];
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int32_t done; /* ranks that are through */
} absence;

#define ABSENCE                                                                                                        \
    { .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER }

static void through(absence *a) {
    pthread_mutex_lock(&a->lock);
    a->done++;
    pthread_cond_broadcast(&a->moved);
    pthread_mutex_unlock(&a->lock);
}

static void await(absence *a, int32_t ranks) {
    pthread_mutex_lock(&a->lock);
    while (a->done < ranks) pthread_cond_wait(&a->moved, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

/* Rank 2 sums once, and comes again when the others have given it up. */
static void never_comes(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    absence *a = arg;
    (void)context;
    call_sum(world, &a->ranks[rank], 0);
    if (rank == 2) await(a, 2);
    call_sum(world, &a->ranks[rank], 1);
    call_sum(world, &a->ranks[rank], 2);
    through(a);
    await(a, 3);
}

static void test_never_comes(void) {
    static const cavmae_world_options options = {.struct_size = sizeof options, .timeout = 0.6};
    static const char late[] = "world: all-reduce of 1 float64 (the program's), number 2";
    static const char who[] =
        "; rank 2 has not begun it: it had ended number 1, all-reduce of 1 float64 (the program's)";
    absence a = ABSENCE;
    run_ranks(3, &options, never_comes, &a);
    for (int32_t r = 0; r < 3; r++) {
        const told *t = &a.ranks[r];
        CHECK(says(t, 0, CAVMAE_OK, ""));
        CHECK(says(t, 1, CAVMAE_E_PEER, late));
        if (r < 2) CHECK(says(t, 1, CAVMAE_E_PEER, who));
        CHECK(says(t, 2, CAVMAE_E_PEER, t->error[1]));
    }
    CHECK(says(&a.ranks[2], 1, CAVMAE_E_PEER, "gave up"));
    CHECK(strstr(a.ranks[0].error[1], "was not done in 0.6 s") || strstr(a.ranks[1].error[1], "was not done in 0.6 s"));
    CHECK(fmax(a.ranks[0].seconds[1], a.ranks[1].seconds[1]) > 0.55 && a.ranks[0].seconds[1] < 10);
}

/* A world that is freed while the others need it, before they come and when they wait already. */
static void leaves(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    absence *a = arg;
    (void)context;
    if (rank == 1) return;
    call_sum(world, &a->ranks[rank], 0);
    call_sum(world, &a->ranks[rank], 1);
}

static void test_leaves(void) {
    for (int round = 0; round < 20; round++) {
        absence a = ABSENCE;
        run_ranks(3, NULL, leaves, &a);
        for (int32_t r = 0; r < 3; r += 2) {
            CHECK(says(&a.ranks[r], 0, CAVMAE_E_PEER, "world: all-reduce of 1 float64 (the program's), number 1: "));
            CHECK(says(&a.ranks[r], 1, CAVMAE_E_PEER, a.ranks[r].error[0]));
        }
        CHECK(strstr(a.ranks[0].error[0], "rank 1 has left: its world was freed") ||
              strstr(a.ranks[2].error[0], "rank 1 has left: its world was freed"));
    }
}

/* A rank that is late by more than the timeout, where the others have patience. */
static void late_but_awaited(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    absence *a = arg;
    double number = 1;
    const cavmae__collective c = {.kind = CAVMAE__ALL_REDUCE,
                                  .dtype = CAVMAE_FLOAT64,
                                  .data = &number,
                                  .count = 1,
                                  .what = "an evaluation",
                                  .patience = 1e3};
    (void)context;
    for (double until = cavmae__now() + 0.25; rank == 0 && cavmae__now() < until;) usleep(10000);
    a->ranks[rank].status[0] = cavmae__world_run(world, &c);
    a->ranks[rank].seconds[0] = number;
}

static void test_patience(void) {
    static const cavmae_world_options options = {.struct_size = sizeof options, .timeout = 0.05};
    absence a = ABSENCE;
    run_ranks(2, &options, late_but_awaited, &a);
    for (int32_t r = 0; r < 2; r++) CHECK(a.ranks[r].status[0] == CAVMAE_OK && a.ranks[r].seconds[0] == 2);
}

/* Aborted anywhere in a collective: memory is free as soon as the call has returned, and nobody looks at it then. */
typedef struct cut {
    double after; /* seconds from the collective's beginning */
    cavmae_status status[3];
} cut;

static void cut_off(cavmae_world *world, cavmae_context *context, int32_t rank, void *arg) {
    cut *c = arg;
    enum { COUNT = 1 << 20 };
    float *data = calloc(COUNT, sizeof *data);
    const cavmae__collective sum = {
        .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT32, .data = data, .count = COUNT, .what = "big"};
    (void)context;
    if (!data || cavmae_world_barrier(world) != CAVMAE_OK) exit(1);
    cavmae__world_new_step(world);
    cavmae_status status = cavmae__world_begin(world, &sum);
    for (double until = cavmae__now() + c->after; rank == 1 && cavmae__now() < until;) sched_yield();
    if (rank == 1) {
        pthread_mutex_lock(&world->lock);
        cavmae__world_break(world, "world: on purpose");
        pthread_mutex_unlock(&world->lock);
    }
    c->status[rank] = status == CAVMAE_OK ? cavmae__world_wait(world) : status;
    memset(data, 1, COUNT * sizeof *data);
    free(data);
}

static void test_abort(void) {
    for (int round = 0; round < 16; round++) {
        cut c = {.after = round * 2.5e-4};
        run_ranks(3, NULL, cut_off, &c);
        CHECK(c.status[1] == CAVMAE_E_PEER);
        for (int32_t r = 0; r < 3; r += 2) CHECK(c.status[r] == CAVMAE_OK || c.status[r] == CAVMAE_E_PEER);
    }
}

/* ---- Carriers that fail, and that never return ---- */

typedef struct burning {
    socket_rank ranks[2];
    absence a;
    atomic_int logged;
} burning;

static void carrier_fails(cavmae_world *threads, cavmae_context *context, int32_t rank, void *arg) {
    burning *b = arg;
    const cavmae_world_options options = {.struct_size = sizeof options, .rank = rank, .size = 2};
    const cavmae_collectives record = socket_record(&b->ranks[rank]);
    cavmae_world *world = NULL;
    (void)threads;
    if (cavmae_world_create(context, &options, &record, &world) != CAVMAE_OK) return;
    for (int call = 0; call < CALLS; call++) call_sum(world, &b->a.ranks[rank], call);
    cavmae_world_free(world);
}

static void test_carrier_fails(void) {
    for (int64_t at = 5; at <= 6; at++) { /* the second call's exchange, and the sum itself */
        burning b = {.a = ABSENCE};
        socket_ranks(2, b.ranks);
        b.ranks[1].fail_at = at;
        run_ranks(2, NULL, carrier_fails, &b);
        for (int32_t r = 0; r < 2; r++) {
            const told *t = &b.a.ranks[r];
            CHECK(says(t, 0, CAVMAE_OK, ""));
            CHECK(
                says(t, 1, CAVMAE_E_PEER, "world: all-reduce of 1 float64 (the program's), number 3: the socket is "));
            CHECK(says(t, 2, CAVMAE_E_PEER, t->error[1]));
            CHECK(b.ranks[r].closed == 1);
        }
        CHECK(strstr(b.a.ranks[1].error[1], "the socket is on fire"));
        socket_ranks_close(2, b.ranks);
    }
}

static void count_message(void *user, int32_t level, const char *message) {
    if (level == CAVMAE_LOG_ERROR && strstr(message, "left behind")) atomic_fetch_add((atomic_int *)user, 1);
}

/* Its peer does not come, and it cannot be aborted: the thread stays, the caller goes on. */
static void test_carrier_never_returns(void) {
    static socket_rank ranks[2]; /* the thread that is left behind has them until the end */
    static atomic_int logged;
    cavmae_context_options context_options = test_options(1);
    const cavmae_world_options options = {.struct_size = sizeof options, .size = 2, .timeout = 0.2};
    cavmae_context *context = NULL;
    cavmae_world *world = NULL;
    context_options.log = count_message;
    context_options.log_user = &logged;
    socket_ranks(2, ranks);
    cavmae_collectives record = socket_record(&ranks[0]);
    record.abort = NULL;
    if (!CHECK_OK(cavmae_context_create(&context_options, &context))) return;
    double start = cavmae__now();
    CHECK_STATUS(cavmae_world_create(context, &options, &record, &world), CAVMAE_E_PEER);
    CHECK(strstr(cavmae_last_error(),
                 "world: broadcast of 16 uint8 from rank 0 (the program's), number 1, was not done "
                 "in 0.2 s; which rank is not known: no watch_dir"));
    CHECK(cavmae__now() - start < 10 && logged == 1 && ranks[0].closed == 0 && !world);
    cavmae_context_free(context);
}

/* ---- Alone ---- */

static void test_alone(void) {
    socket_rank self = {.rank = 0, .size = 1, .fail_at = 1};
    cavmae_collectives record = socket_record(&self);
    const cavmae_world_options options = {.struct_size = sizeof options, .size = 1};
    cavmae_context *context = rank_context(0);
    cavmae_world *world = NULL;
    double sum[2] = {1, 2}, to[2] = {0};
    if (!CHECK_OK(cavmae_world_create(context, &options, &record, &world))) return;
    const cavmae__collective gather = {
        .kind = CAVMAE__ALL_GATHER, .dtype = CAVMAE_FLOAT64, .send = sum, .data = to, .count = 2};
    CHECK_OK(cavmae_world_barrier(world));
    CHECK_OK(cavmae_world_sum(world, sum, 2));
    CHECK(sum[0] == 1 && sum[1] == 2);
    cavmae_world_fail(world, "nobody hears it");
    CHECK_OK(cavmae__world_run(world, &gather));
    CHECK(to[1] == 2);
    CHECK_OK(cavmae__world_check(world));
    cavmae_config *config = NULL;
    CHECK_OK(cavmae_config_create(context, "tiny", &config));
    CHECK_OK(cavmae_config_set_world(config, world));
    cavmae_world_free(world);
    CHECK(self.calls == 0 && self.closed == 0); /* the config has it */
    cavmae_config_free(config);
    CHECK(self.calls == 0 && self.closed == 1);
    cavmae_context_free(context);
}

/* ---- What cannot be made ---- */

static void empty_directory(void) {
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.') unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

#define TRY(text, ...)                                                                                                 \
    do {                                                                                                               \
        CHECK_STATUS(__VA_ARGS__, CAVMAE_E_ARG);                                                                       \
        CHECK(strstr(cavmae_last_error(), text));                                                                      \
    } while (0)

static void test_arguments(void) {
    cavmae_context *context = rank_context(0), *contexts[2] = {context, NULL};
    socket_rank self = {.size = 2};
    const cavmae_collectives record = socket_record(&self);
    cavmae_collectives bad;
    const cavmae_world_options good = {.struct_size = sizeof good, .size = 1};
    cavmae_world_options o;
    cavmae_world *world = NULL, *worlds[2];
    TRY("context is NULL", cavmae_world_create(NULL, &good, &record, &world));
    TRY("out is NULL", cavmae_world_create(context, &good, &record, NULL));
    TRY("NULL", cavmae_world_create(context, NULL, &record, &world));
    TRY("NULL", cavmae_world_create(context, &good, NULL, &world));
#define BAD_OPTION(text, field, value)                                                                                 \
    o = good;                                                                                                          \
    o.field = (value);                                                                                                 \
    TRY(text, cavmae_world_create(context, &o, &record, &world))
    BAD_OPTION("struct_size is 0", struct_size, 0);
    BAD_OPTION("size is 0", size, 0);
    BAD_OPTION("size is -3", size, -3);
    BAD_OPTION("rank 1 is not in a world of 1", rank, 1);
    BAD_OPTION("rank -1", rank, -1);
    BAD_OPTION("reserved", reserved, 1);
    BAD_OPTION("timeout", timeout, -1.0);
    BAD_OPTION("timeout", timeout, (double)NAN);
    BAD_OPTION("timeout", timeout, (double)INFINITY);
    BAD_OPTION("watch_dir of a world is empty", watch_dir, "");
#define BAD_FUNCTION(text, field, value)                                                                               \
    bad = record;                                                                                                      \
    bad.field = value;                                                                                                 \
    TRY(text, cavmae_world_create(context, &good, &bad, &world))
    BAD_FUNCTION("struct_size is 7", struct_size, 7);
    BAD_FUNCTION("version of a world's functions is 2", version, 2);
    BAD_FUNCTION("all_reduce", all_reduce, NULL);
    BAD_FUNCTION("reduce_scatter", reduce_scatter, NULL);
    BAD_FUNCTION("all_gather", all_gather, NULL);
    BAD_FUNCTION("broadcast", broadcast, NULL);
    BAD_FUNCTION("barrier", barrier, NULL);
    BAD_FUNCTION("all_reduce", struct_size, 16); /* older than these functions */
    TRY("contexts is NULL", cavmae_world_create_threads(NULL, 1, NULL, worlds));
    TRY("out is NULL", cavmae_world_create_threads(contexts, 1, NULL, NULL));
    TRY("size is 0", cavmae_world_create_threads(contexts, 0, NULL, worlds));
    TRY("contexts[1] is NULL", cavmae_world_create_threads(contexts, 2, NULL, worlds));
    TRY("context is NULL", cavmae_world_create_mpi(NULL, NULL, NULL, &world));
    TRY("out is NULL", cavmae_world_create_mpi(context, NULL, NULL, NULL));
    TRY("id is NULL", cavmae_nccl_id(context, NULL));
    TRY("out is NULL", cavmae_world_create_nccl(context, &good, NULL, NULL));
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    CHECK_STATUS(cavmae_nccl_id(context, id), CAVMAE_E_UNSUPPORTED);
    CHECK_STATUS(cavmae_world_create_nccl(context, &good, NULL, &world), CAVMAE_E_UNSUPPORTED);
    cavmae_context_free(context);

    cavmae_context_options elsewhere = test_options(1);
    elsewhere.plugin_dir = directory;
    if (!CHECK_OK(cavmae_context_create(&elsewhere, &context))) return;
    CHECK_STATUS(cavmae_world_create_mpi(context, NULL, NULL, &world), CAVMAE_E_BACKEND);
    CHECK(strstr(cavmae_last_error(), "libcavmae-mpi.so"));
    cavmae_context_free(context);
}

/* Every allocation fails in turn; what was made is given back. */
static void test_no_memory(void) {
    for (int kind = 0; kind < 2; kind++) {
        failing_allocator a = {.fail_at = 0};
        cavmae_context_options options = failing_options(&a);
        socket_rank self = {.size = 1};
        const cavmae_collectives record = socket_record(&self);
        const cavmae_world_options alone = {
            .struct_size = sizeof alone, .size = 1, .watch_dir = kind ? NULL : directory};
        cavmae_context *contexts[3] = {NULL};
        cavmae_status status = CAVMAE_E_NOMEM;
        int tries = 0;
        options.threads = 1;
        if (!CHECK_OK(cavmae_context_create(&options, &contexts[0]))) return;
        contexts[1] = contexts[2] = contexts[0];
        long blocks = a.blocks;
        for (; status == CAVMAE_E_NOMEM && tries < 50; tries++) {
            cavmae_world *worlds[3] = {NULL};
            a.fail_at = a.calls + 1 + tries;
            status = kind ? cavmae_world_create_threads(contexts, 3, NULL, worlds)
                          : cavmae_world_create(contexts[0], &alone, &record, worlds);
            CHECK(self.closed == 0 && !worlds[0] == (status != CAVMAE_OK));
            a.fail_at = 0;
            for (int r = 2; r >= 0; r--) cavmae_world_free(worlds[r]);
            CHECK(a.blocks == blocks);
        }
        CHECK(status == CAVMAE_OK && tries > (kind ? 10 : 2));
        cavmae_context_free(contexts[0]);
        CHECK(a.blocks == 0);
    }
}

int main(void) {
    if (!mkdtemp(directory)) return 1;
    test_killed(); /* first, while there is one thread */
    test_missing_folder();
    test_notes();
    test_never_comes();
    test_leaves();
    test_patience();
    test_abort();
    test_carrier_fails();
    test_carrier_never_returns();
    test_alone();
    test_arguments();
    test_no_memory();
    empty_directory();
    rmdir(directory);
    return check_summary("world_fault");
}
