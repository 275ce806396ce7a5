/* Ranks as threads, and those who are none, on loopback. "rendezvous_test meet RANK SIZE PLACE PORT TIMEOUT" is one rank
 * of a meeting between machines; PLACE is an address, or file:PATH. "rendezvous_test port" prints one before a free one, as
 * MASTER_PORT has to be. */
#define _GNU_SOURCE
#include "rendezvous.h"

#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "meeting_file.h"
#include "program.h"
#include "socket_io.h"

enum { MOST = 5 };

typedef struct rank {
    meeting m;
    int sockets[MOST];
    int32_t good;
    double seconds;
    char error[512], told[17];
    pthread_t thread;
    _Atomic int32_t done;
} rank;

static char said[4096]; /* where rank 0's refusals go */

static void *come(void *user) {
    rank *r = user;
    const double start = now();
    r->good = meet(&r->m, r->sockets, r->error, sizeof r->error);
    if (r->good) r->good = tell_all(&r->m, r->sockets, r->told, 16, r->error, sizeof r->error);
    r->seconds = now() - start;
    r->done = 1;
    return NULL;
}

static void start(rank *r, const meeting *m, int32_t number) {
    memset(r, 0, sizeof *r);
    r->m = *m;
    r->m.rank = number;
    if (number == 0) strcpy(r->told, "something to all");
    if (pthread_create(&r->thread, NULL, come, r) != 0) die("no thread");
}

static void finish(rank *r) { pthread_join(r->thread, NULL); }

static void all_good(rank *ranks, int32_t size) {
    for (int32_t i = 0; i < size; i++) {
        finish(&ranks[i]);
        if (!CHECK(ranks[i].good) || !CHECK(!memcmp(ranks[i].told, "something to all", 16)))
            printf("    rank %d: %s\n", (int)i, ranks[i].error);
        int open = 0;
        for (int32_t k = 0; k < size; k++) open += ranks[i].sockets[k] >= 0;
        CHECK(open == (i ? 1 : size - 1));
        close_sockets(ranks[i].sockets, size);
    }
}

static void fails(rank *r, const char *phrase) {
    finish(r);
    if (!CHECK(!r->good) || !CHECK(strstr(r->error, phrase) != NULL))
        printf("    '%s' is not in '%s'\n", phrase, r->error);
    for (int32_t i = 0; i < r->m.size; i++) CHECK(r->sockets[i] < 0);
}

/* A port that nobody has just now. */
static meeting meeting_at(const char *address, int32_t size, double timeout) {
    meeting m = {.size = size, .address = address, .job = 42, .timeout = timeout};
    char error[256];
    const int s = listen_at(address, &m.port, error, sizeof error);
    if (s < 0) die("%s", error);
    close(s);
    return m;
}

static int32_t rank_0_said(const char *phrase) {
    char text[8192] = "";
    FILE *file = fopen(said, "r");
    if (!file || fread(text, 1, sizeof text - 1, file) == 0) text[0] = '\0';
    if (file) fclose(file);
    return strstr(text, phrase) != NULL;
}

/* A machine may be without IPv6, or a name for itself. */
static int is_there(const char *place) {
    char error[256];
    int32_t port = 0;
    struct addrinfo *found = NULL;
    if (getaddrinfo(place, NULL, NULL, &found) != 0) return 0;
    freeaddrinfo(found);
    const int listener = listen_at(place, &port, error, sizeof error);
    if (listener >= 0) close(listener);
    return listener >= 0;
}

static void test_all_come(void) {
    static const char *const places[] = {"127.0.0.1", "::1", "localhost"};
    rank ranks[MOST];
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        if (p > 0 && !is_there(places[p])) {
            printf("%s is not there: no meeting at it\n", places[p]);
            continue;
        }
        for (int32_t size = 2; size <= MOST; size++) {
            const meeting m = meeting_at(places[p], size, 20);
            for (int32_t i = size - 1; i >= 0; i--) start(&ranks[i], &m, i); /* rank 0 last */
            all_good(ranks, size);
        }
    }
}

static void test_late(void) {
    rank ranks[3];
    const meeting m = meeting_at("127.0.0.1", 3, 20);
    start(&ranks[1], &m, 1);
    usleep(400000); /* being late */
    start(&ranks[0], &m, 0);
    usleep(400000);
    start(&ranks[2], &m, 2);
    all_good(ranks, 3);
}

static void test_missing(void) {
    rank ranks[4];
    meeting m = meeting_at("127.0.0.1", 4, 1);
    for (int32_t i = 0; i < 3; i++) start(&ranks[i], &m, i);
    for (int32_t i = 0; i < 3; i++) fails(&ranks[i], "rank 3 of 4 did not come within 1 s");
    CHECK(ranks[0].seconds < 3 && ranks[1].seconds < 3);
    start(&ranks[0], &m, 0);
    fails(&ranks[0], "ranks 1, 2, 3 of 4 did not come");
    m.timeout = 0.5;
    start(&ranks[1], &m, 1);
    fails(&ranks[1], "rank 0 of 4 did not come within 0.5 s: rank 0 cannot be reached at 127.0.0.1");
    CHECK(ranks[1].seconds < 3);
}

static void test_refused(void) {
    rank ranks[3], other;
    const meeting m = meeting_at("127.0.0.1", 3, 20);
    meeting job = m, size = m, none = m;
    job.job = 43;
    size.size = 4;
    none.size = 3;
    start(&ranks[0], &m, 0);
    start(&other, &job, 2);
    fails(&other, "refused: rank 2 of 3 of another job");
    CHECK(rank_0_said("rank 2 of 3 of another job"));
    start(&other, &size, 2);
    fails(&other, "refused: it is rank 2 of 4, and this is a world of 3");
    CHECK(rank_0_said("it is rank 2 of 4"));
    start(&other, &none, 3);
    fails(&other, "refused: there is no rank 3");
    /* the one of the two that comes second */
    start(&ranks[1], &m, 1);
    start(&other, &m, 1);
    while (!ranks[1].done && !other.done) usleep(1000);
    rank *second = ranks[1].done ? &ranks[1] : &other, *first = second == &other ? &ranks[1] : &other;
    fails(second, "refused: rank 1 is there already");
    CHECK(rank_0_said("rank 1 is there already"));
    start(&ranks[2], &m, 2);
    rank *const there[] = {&ranks[0], first, &ranks[2]};
    for (int32_t i = 0; i < 3; i++) {
        finish(there[i]);
        CHECK(there[i]->good);
        close_sockets(there[i]->sockets, 3);
    }
}

/* ---- Who is no rank ---- */

static int visit(const meeting *m, const void *phrase, size_t bytes) {
    char error[256];
    int s;
    while ((s = connect_to(m->address, m->port, now() + 5, error, sizeof error)) < 0) usleep(1000);
    CHECK(send_all(s, phrase, bytes, now() + 5, error, sizeof error));
    return s;
}

/* What rank 0 answers before it closes, without the header. */
static int32_t is_sent_away(int s, const char *phrase) {
    char text[600] = "", error[64];
    size_t length = 0;
    while (length < sizeof text - 1 && receive_all(s, text + length, 1, now() + 10, error, sizeof error)) length++;
    close(s);
    const int32_t there = memmem(text, length, phrase, strlen(phrase)) != NULL;
    if (!there) printf("    no '%s' in %zu bytes\n", phrase, length);
    return there;
}

static void make_hello(uint8_t hello[40], const meeting *m, int32_t number) {
    memset(hello, 0, 40);
    memcpy(hello, "cavmae-r", 8);
    put_number(hello + 8, 1, 4);
    put_number(hello + 12, (uint64_t)number, 4);
    put_number(hello + 16, (uint64_t)m->size, 4);
    put_number(hello + 24, m->job, 8);
}

static void test_strangers(void) {
    rank ranks[4];
    uint8_t hello[40], reply[16];
    char error[64];
    const meeting m = meeting_at("127.0.0.1", 4, 20);
    start(&ranks[0], &m, 0);
    start(&ranks[2], &m, 2);
    CHECK(is_sent_away(visit(&m, "GET / HTTP/1.0\r\n\r\n", 18), "not what a rank says"));
    CHECK(is_sent_away(visit(&m, "cavmae-q", 8), "not what a rank says"));
    make_hello(hello, &m, 1);
    const int half = visit(&m, hello, 20), silent = visit(&m, "", 0), gone = visit(&m, hello, 39);
    shutdown(gone, SHUT_WR);
    CHECK(is_sent_away(gone, "it left before"));
    put_number(hello + 8, 2, 4);
    CHECK(is_sent_away(visit(&m, hello, 40), "version 2"));
    put_number(hello + 8, 1, 4);
    put_number(hello + 12, 0, 4);
    CHECK(is_sent_away(visit(&m, hello, 40), "no rank 0"));
    put_number(hello + 12, 0xFFFFFFFF, 4);
    CHECK(is_sent_away(visit(&m, hello, 40), "no rank 4294967295"));
    CHECK(is_sent_away(half, "in time"));
    CHECK(is_sent_away(silent, "in time"));
    CHECK(rank_0_said("it did not say in time who it is"));
    /* a rank that was there, and was killed: its place is free again */
    put_number(hello + 12, 1, 4);
    const int killed = visit(&m, hello, 40);
    CHECK(receive_all(killed, reply, sizeof reply, now() + 5, error, sizeof error) && reply[8] == 1);
    close(killed);
    for (int i = 0; i < 5000 && !rank_0_said("rank 1 was there, and has left"); i++) usleep(1000);
    CHECK(rank_0_said("rank 1 was there, and has left"));
    /* more than there is room for */
    int crowd[80];
    for (int i = 0; i < 80; i++) crowd[i] = visit(&m, "", 0);
    CHECK(is_sent_away(crowd[0], "too many"));
    start(&ranks[1], &m, 1);
    start(&ranks[3], &m, 3);
    all_good(ranks, 4);
    for (int i = 1; i < 80; i++) close(crowd[i]);
}

static void test_port_taken(void) {
    rank ranks[2];
    const meeting m = meeting_at("127.0.0.1", 2, 1);
    int32_t port = m.port;
    char error[256];
    const int taken = listen_at("127.0.0.1", &port, error, sizeof error);
    start(&ranks[0], &m, 0);
    start(&ranks[1], &m, 1);
    fails(&ranks[0], "cannot listen at 127.0.0.1");
    fails(&ranks[1], "rank 0 of 2 did not come within 1 s: ");
    close(taken);
}

/* ---- By a file ---- */

static void test_file(void) {
    char folder[] = "/tmp/rendezvous-XXXXXX", path[64], error[256];
    rank ranks[3], other;
    if (!mkdtemp(folder)) die("no folder");
    snprintf(path, sizeof path, "%s/ranks", folder);
    meeting m = {.size = 3, .file = path, .job = 7, .timeout = 20};
    for (int32_t i = 2; i >= 0; i--) start(&ranks[i], &m, i);
    all_good(ranks, 3);
    CHECK(access(path, F_OK) != 0);

    /* What an earlier run left: where nobody listens now, and where somebody else does; of another job; no such file. */
    meeting_file stale = {.job = 7, .token = 99, .size = 3, .port = meeting_at("127.0.0.1", 2, 1).port, .addresses = 1};
    strcpy(stale.address[0], "127.0.0.1");
    CHECK(write_meeting_file(path, &stale, error, sizeof error));
    start(&ranks[1], &m, 1);
    usleep(200000); /* it has read it */
    start(&ranks[0], &m, 0);
    start(&ranks[2], &m, 2);
    all_good(ranks, 3);

    /* a rank 0 that is still there, of an earlier run, at an address of this file: its word counts for nothing */
    meeting_file now_there;
    meeting old = m;
    old.timeout = 2;
    start(&other, &old, 0);
    while (!read_meeting_file(path, &now_there, error, sizeof error)) usleep(1000);
    now_there.token ^= 1;
    CHECK(write_meeting_file(path, &now_there, error, sizeof error));
    start(&ranks[1], &m, 1);
    while (!rank_0_said("rank 1 has read the file of an earlier run")) usleep(1000);
    start(&ranks[0], &m, 0);
    start(&ranks[2], &m, 2);
    all_good(ranks, 3);
    fails(&other, "ranks 1, 2 of 3 did not come");

    stale.job = 8;
    CHECK(write_meeting_file(path, &stale, error, sizeof error));
    m.timeout = 0.5;
    start(&ranks[1], &m, 1);
    fails(&ranks[1], "is of another job");
    FILE *file = fopen(path, "w");
    fputs("cavmae rendezvous 1\nsize 99999999999999999999\nport -1\naddress x\nend\n", file);
    fclose(file);
    start(&ranks[1], &m, 1);
    fails(&ranks[1], "is no file of a rendezvous");
    unlink(path);
    start(&ranks[1], &m, 1);
    fails(&ranks[1], "No such file");
    m.file = "/nowhere/at/all";
    start(&ranks[0], &m, 0);
    fails(&ranks[0], "cannot write /nowhere/at/all");
    CHECK(rmdir(folder) == 0); /* nothing is left */
}

static int meet_others(char **argv) {
    const char *place = argv[4];
    const int32_t by_file = !strncmp(place, "file:", 5);
    rank r = {.m = {.rank = atoi(argv[2]),
                    .size = atoi(argv[3]),
                    .address = place,
                    .port = atoi(argv[5]),
                    .file = by_file ? place + 5 : NULL,
                    .job = 42,
                    .timeout = atof(argv[6])}};
    if (r.m.size > MOST) return 2;
    if (r.m.rank == 0) strcpy(r.told, "something to all");
    come(&r);
    printf("%.512s\n", r.good ? r.told : r.error);
    return !r.good;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "port")) return printf("%d\n", (int)meeting_at("127.0.0.1", 2, 1).port - 1) < 0;
    if (argc == 7 && !strcmp(argv[1], "meet")) return meet_others(argv);
    strcpy(said, "/tmp/rendezvous-said-XXXXXX");
    const int file = mkstemp(said);
    fflush(stderr);
    dup2(file, STDERR_FILENO);
    test_all_come();
    test_late();
    test_missing();
    test_refused();
    test_strangers();
    test_port_taken();
    test_file();
    close(file);
    unlink(said);
    return check_summary("rendezvous");
}
