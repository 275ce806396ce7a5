/* Work that is recorded and played back: results follow what is in device memory, not what was there at the recording;
 * another key is another recording; a body that fails leaves nothing behind; threads record side by side. */
#include <pthread.h>

#include "compare.h"

enum { ROWS = 37, WIDTH = 20, CALLS = 7 };

/* y = x[first] + x[second], z = 0, then y = y[first] twice more by way of `between`. */
typedef struct job {
    cavmae__backend *backend;
    const void *x, *first, *second;
    void *between, *y, *z;
    int64_t rows;
    int called;
    int fail_at; /* the call of the body that fails, from 1; 0: none */
    cavmae_status failure;
} job;

static cavmae_status body(void *arg) {
    job *j = arg;
    const cavmae__backend_ops *ops = j->backend->ops;
    const cavmae__combine sum = {.rows = j->rows,
                                 .width = WIDTH,
                                 .x = j->x,
                                 .first = j->first,
                                 .second = j->second,
                                 .y = j->between},
                          turned = {.rows = j->rows, .width = WIDTH, .x = j->between, .first = j->first, .y = j->y};
    j->called++;
    CAVMAE__TRY(ops->zero(j->backend, j->z, (size_t)j->rows * WIDTH * sizeof(float)));
    CAVMAE__TRY(ops->combine(j->backend, &sum));
    if (j->called == j->fail_at) return cavmae__fail(j->failure, "the body was told to fail");
    return ops->combine(j->backend, &turned);
}

/* The arrays of a job in both memories. */
typedef struct job_arrays {
    twin x, first, second, between, y, z;
    job cpu, cuda;
} job_arrays;

static job_arrays make_job(both *b) {
    int32_t first[ROWS], second[ROWS];
    for (int32_t i = 0; i < ROWS; i++) first[i] = (i * 5 + 3) % ROWS, second[i] = i % 3 ? i : -1;
    job_arrays a = {.x = twin_input(b, ROWS * WIDTH, CAVMAE_FLOAT32, -1, 1),
                    .first = twin_ints(b, ROWS, first),
                    .second = twin_ints(b, ROWS, second),
                    .between = twin_output(b, ROWS * WIDTH, CAVMAE_FLOAT32),
                    .y = twin_output(b, ROWS * WIDTH, CAVMAE_FLOAT32),
                    .z = twin_output(b, ROWS * WIDTH, CAVMAE_FLOAT32)};
    a.cpu = (job){.backend = b->cpu,
                  .x = a.x.cpu,
                  .first = a.first.cpu,
                  .second = a.second.cpu,
                  .between = a.between.cpu,
                  .y = a.y.cpu,
                  .z = a.z.cpu,
                  .rows = ROWS};
    a.cuda = (job){.backend = b->cuda,
                   .x = a.x.device,
                   .first = a.first.device,
                   .second = a.second.device,
                   .between = a.between.device,
                   .y = a.y.device,
                   .z = a.z.device,
                   .rows = ROWS};
    return a;
}

static void free_job(both *b, job_arrays *a) {
    twin_free(b, &a->x);
    twin_free(b, &a->first);
    twin_free(b, &a->second);
    twin_free(b, &a->between);
    twin_free(b, &a->y);
    twin_free(b, &a->z);
}

/* New numbers in x, nothing in the outputs. */
static void refresh(both *b, job_arrays *a) {
    for (int64_t i = 0; i < a->x.count; i++) write_element(a->x.cpu, a->x.dtype, i, (float)uniform(-1, 1));
    memset(a->y.cpu, 0xFF, a->y.size);
    memset(a->z.cpu, 0xFF, a->z.size);
    twin_upload(b, &a->x);
    twin_upload(b, &a->y);
    twin_upload(b, &a->z);
}

static void check_call(both *b, job_arrays *a, cavmae__repeat *cpu, cavmae__repeat *cuda, uint64_t key) {
    refresh(b, a);
    CHECK_OK(b->cpu->ops->repeat(b->cpu, cpu, key, body, &a->cpu));
    CHECK_OK(b->cuda->ops->repeat(b->cuda, cuda, key, body, &a->cuda));
    CHECK_TWIN_EXACT(b, &a->y);
    CHECK_TWIN_EXACT(b, &a->z);
}

/* Where recording fails, the work is done all the same, from then on without it. */
static void test_unrecordable(both *b) {
    cavmae__repeat cpu = {0}, cuda = {0};
    job_arrays a = make_job(b);
    a.cuda.fail_at = 2;
    a.cuda.failure = CAVMAE_E_BACKEND;
    for (int i = 0; i < CALLS; i++) check_call(b, &a, &cpu, &cuda, 1);
    CHECK(a.cuda.called == CALLS + 1 && cuda.recorded == NULL);
    b->cuda->ops->repeat_free(b->cuda, &cuda);
    free_job(b, &a);
}

static void test_played_back(both *b) {
    cavmae__repeat cpu = {0}, cuda = {0};
    job_arrays a = make_job(b);
    for (int i = 0; i < CALLS; i++) check_call(b, &a, &cpu, &cuda, 1);
    CHECK(a.cpu.called == CALLS);
    CHECK(a.cuda.called >= 1 && a.cuda.called < CALLS);
    /* Another key is other work: fewer rows. */
    const int before = a.cuda.called;
    a.cpu.rows = a.cuda.rows = 11;
    for (int i = 0; i < CALLS; i++) check_call(b, &a, &cpu, &cuda, 2);
    CHECK(a.cuda.called > before && a.cuda.called < before + CALLS);
    a.cpu.rows = a.cuda.rows = ROWS;
    for (int i = 0; i < 2; i++) check_call(b, &a, &cpu, &cuda, 1);
    b->cpu->ops->repeat_free(b->cpu, &cpu);
    b->cuda->ops->repeat_free(b->cuda, &cuda);
    CHECK(cuda.recorded == NULL);
    /* Freed, it may start again. */
    cuda = cpu = (cavmae__repeat){0};
    for (int i = 0; i < 3; i++) check_call(b, &a, &cpu, &cuda, 1);
    b->cpu->ops->repeat_free(b->cpu, &cpu);
    b->cuda->ops->repeat_free(b->cuda, &cuda);
    b->cuda->ops->repeat_free(b->cuda, &(cavmae__repeat){0});
    free_job(b, &a);
}

static void test_alternating(both *b) {
    cavmae__repeat cpu[2] = {{0}, {0}}, cuda[2] = {{0}, {0}};
    job_arrays a[2] = {make_job(b), make_job(b)};
    for (int i = 0; i < 2 * CALLS; i++) check_call(b, &a[i % 2], &cpu[i % 2], &cuda[i % 2], 5);
    for (int i = 0; i < 2; i++) {
        CHECK(a[i].cuda.called < CALLS);
        b->cuda->ops->repeat_free(b->cuda, &cuda[i]);
        free_job(b, &a[i]);
    }
}

/* Whichever call of the body fails, its status comes back, and the next call works. */
static void test_failing_body(both *b) {
    for (int at = 1; at <= 3; at++) {
        cavmae__repeat cpu = {0}, cuda = {0};
        job_arrays a = make_job(b);
        int failed = 0;
        a.cuda.fail_at = at;
        a.cuda.failure = CAVMAE_E_CANCELLED;
        for (int i = 0; i < CALLS; i++) {
            refresh(b, &a);
            CHECK_OK(b->cpu->ops->repeat(b->cpu, &cpu, 3, body, &a.cpu));
            const cavmae_status status = b->cuda->ops->repeat(b->cuda, &cuda, 3, body, &a.cuda);
            if (status != CAVMAE_OK) {
                CHECK(status == CAVMAE_E_CANCELLED && strstr(cavmae_last_error(), "told to fail"));
                CHECK(a.cuda.called == at);
                failed++;
                continue;
            }
            CHECK_TWIN_EXACT(b, &a.y);
            CHECK_TWIN_EXACT(b, &a.z);
        }
        CHECK(failed == (a.cuda.called >= at));
        b->cuda->ops->repeat_free(b->cuda, &cuda);
        free_job(b, &a);
    }
}

/* ---- Threads ---- */

enum { THREADS = 3 };

typedef struct recorder {
    both *b;
    job_arrays arrays;
    cavmae__repeat repeat;
    int failures;
} recorder;

static void *record_and_play(void *arg) {
    recorder *r = arg;
    for (uint64_t i = 0; i < 4 * CALLS; i++) {
        float got[ROWS * WIDTH];
        cavmae__backend *cuda = r->b->cuda;
        r->failures += cuda->ops->repeat(cuda, &r->repeat, i / CALLS, body, &r->arrays.cuda) != CAVMAE_OK;
        r->failures += cuda->ops->download(cuda, got, r->arrays.y.device, sizeof got) != CAVMAE_OK;
        r->failures += memcmp(got, r->arrays.y.cpu, sizeof got) != 0;
        r->failures += cuda->ops->zero(cuda, r->arrays.y.device, sizeof got) != CAVMAE_OK;
    }
    return NULL;
}

static void test_threads(both *b) {
    recorder recorders[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        recorders[i] = (recorder){.b = b, .arrays = make_job(b)};
        CHECK_OK(body(&recorders[i].arrays.cpu));
    }
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, record_and_play, &recorders[i]) != 0) exit(2);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(recorders[i].failures == 0);
        b->cuda->ops->repeat_free(b->cuda, &recorders[i].repeat);
        free_job(b, &recorders[i].arrays);
    }
}

int main(void) {
    both b;
    open_both(&b);
    test_played_back(&b);
    test_unrecordable(&b);
    test_alternating(&b);
    test_failing_body(&b);
    test_threads(&b);
    close_both(&b);
    return check_summary("cuda repeat");
}
