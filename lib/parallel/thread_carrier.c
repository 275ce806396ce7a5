/* Ranks that are threads of one process. What they share is a table of where each one's data lies: a collective is a meeting
 * at which that becomes known, work on one another's memory, and a meeting after which it is one's own again.
 *
 * Sums are taken in the order of the ranks, each element by one rank: the same bits everywhere, on every run. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tensor.h"
#include "widen.h"
#include "world_internal.h"

enum { BLOCK = 1024 }; /* elements that are added before they are stored */

typedef struct shared {
    cavmae_context *context; /* of rank 0, kept alive */
    int32_t size;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int32_t references;        /* seats that are not closed */
    int32_t arrived, touching; /* at the meeting; ranks that use others' memory */
    uint64_t meetings;
    int32_t gone, ended_by; /* a rank whose world was freed; one that gave up; or -1 */
    cavmae__notes notes;
    const void **send; /* [size] */
    void **data;       /* [size] */
    struct seat {
        struct shared *shared;
        int32_t rank, touches;
    } * seats; /* [size] */
} shared;

typedef struct seat seat;

/* ---- Meetings ---- */

static cavmae_status absent(const shared *s, char *error, size_t error_size) {
    if (s->gone >= 0)
        snprintf(error, error_size, "rank %d has left: its world was freed", (int)s->gone);
    else
        snprintf(error, error_size, "rank %d gave up", (int)s->ended_by);
    return CAVMAE_E_PEER;
}

/* Returns when all ranks are here. With `touch` each then uses the others' memory until its next meeting. Nobody is let
 * go, with success or not, while another uses its memory: what is under way ends by itself. */
static cavmae_status meet(seat *self, int touch, char *error, size_t error_size) {
    shared *s = self->shared;
    cavmae_status status = CAVMAE_OK;
    pthread_mutex_lock(&s->lock);
    s->touching -= self->touches;
    self->touches = 0;
    if (s->touching == 0) pthread_cond_broadcast(&s->moved);
    uint64_t meeting = s->meetings;
    if (s->gone < 0 && s->ended_by < 0) {
        if (++s->arrived == s->size) {
            s->arrived = 0;
            s->meetings++;
            s->touching = touch ? s->size : 0;
            pthread_cond_broadcast(&s->moved);
        }
    }
    while (s->meetings == meeting && s->gone < 0 && s->ended_by < 0) pthread_cond_wait(&s->moved, &s->lock);
    if (s->meetings == meeting) {
        while (s->touching > 0) pthread_cond_wait(&s->moved, &s->lock);
        status = absent(s, error, error_size);
    } else {
        self->touches = touch;
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

static cavmae_status show(seat *self, const void *send, void *data, char *error, size_t error_size) {
    self->shared->send[self->rank] = send;
    self->shared->data[self->rank] = data;
    return meet(self, 1, error, error_size);
}

/* ---- Sums ---- */

/* Rounded to nearest even. */
static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7FC0; /* rounding could carry a NaN's bits over into the sign */
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static void add_float32(const void *const *from, int32_t size, int64_t first, int64_t count, void *to) {
    float sum[BLOCK];
    memcpy(sum, (const float *)from[0] + first, (size_t)count * sizeof *sum);
    for (int32_t r = 1; r < size; r++) {
        const float *x = (const float *)from[r] + first;
        for (int64_t i = 0; i < count; i++) sum[i] += x[i];
    }
    memcpy(to, sum, (size_t)count * sizeof *sum);
}

static void add_float64(const void *const *from, int32_t size, int64_t first, int64_t count, void *to) {
    double sum[BLOCK];
    memcpy(sum, (const double *)from[0] + first, (size_t)count * sizeof *sum);
    for (int32_t r = 1; r < size; r++) {
        const double *x = (const double *)from[r] + first;
        for (int64_t i = 0; i < count; i++) sum[i] += x[i];
    }
    memcpy(to, sum, (size_t)count * sizeof *sum);
}

static void add_bfloat16(const void *const *from, int32_t size, int64_t first, int64_t count, void *to) {
    float sum[BLOCK], x[BLOCK];
    uint16_t *out = to;
    cavmae__widen(CAVMAE_BFLOAT16, (const uint16_t *)from[0] + first, count, sum);
    for (int32_t r = 1; r < size; r++) {
        cavmae__widen(CAVMAE_BFLOAT16, (const uint16_t *)from[r] + first, count, x);
        for (int64_t i = 0; i < count; i++) sum[i] += x[i];
    }
    for (int64_t i = 0; i < count; i++) out[i] = narrow(sum[i]);
}

/* to [count] = sum of elements first .. first + count - 1 of all ranks; `to` may be that place of one of them. */
static void add(const void *const *from, int32_t size, int32_t dtype, int64_t first, int64_t count, void *to) {
    int64_t element = (int64_t)cavmae__dtype_size(dtype);
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t part = count - done < BLOCK ? count - done : BLOCK;
        void *out = (char *)to + done * element;
        if (dtype == CAVMAE_FLOAT32)
            add_float32(from, size, first + done, part, out);
        else if (dtype == CAVMAE_FLOAT64)
            add_float64(from, size, first + done, part, out);
        else
            add_bfloat16(from, size, first + done, part, out);
    }
}

/* ---- Collectives ---- */

static int64_t part_start(int64_t count, int32_t rank, int32_t size) {
    return count / size * rank + count % size * rank / size;
}

/* Each rank adds its own part in place, where nobody else looks meanwhile, and then takes the others' from them. */
static cavmae_status thread_all_reduce(void *user, int32_t dtype, void *data, int64_t count, char *error,
                                       size_t error_size) {
    seat *self = user;
    const shared *s = self->shared;
    size_t element = cavmae__dtype_size(dtype);
    CAVMAE__TRY(show(self, data, data, error, error_size));
    int64_t first = part_start(count, self->rank, s->size), end = part_start(count, self->rank + 1, s->size);
    add(s->send, s->size, dtype, first, end - first, (char *)data + (size_t)first * element);
    CAVMAE__TRY(meet(self, 1, error, error_size));
    for (int32_t r = 0; r < s->size; r++) {
        size_t from = (size_t)part_start(count, r, s->size) * element;
        size_t to = (size_t)part_start(count, r + 1, s->size) * element;
        if (r != self->rank && from < to) memcpy((char *)data + from, (const char *)s->send[r] + from, to - from);
    }
    return meet(self, 0, error, error_size);
}

static cavmae_status thread_reduce_scatter(void *user, int32_t dtype, const void *send, void *receive, int64_t count,
                                           char *error, size_t error_size) {
    seat *self = user;
    CAVMAE__TRY(show(self, send, receive, error, error_size));
    add(self->shared->send, self->shared->size, dtype, self->rank * count, count, receive);
    return meet(self, 0, error, error_size);
}

static cavmae_status thread_all_gather(void *user, const void *send, void *receive, int64_t bytes, char *error,
                                       size_t error_size) {
    seat *self = user;
    const shared *s = self->shared;
    CAVMAE__TRY(show(self, send, receive, error, error_size));
    for (int32_t r = 0; r < s->size; r++) {
        char *row = (char *)receive + r * bytes;
        if (row != s->send[r] && bytes) memcpy(row, s->send[r], (size_t)bytes);
    }
    return meet(self, 0, error, error_size);
}

static cavmae_status thread_broadcast(void *user, void *data, int64_t bytes, int32_t root, char *error,
                                      size_t error_size) {
    seat *self = user;
    CAVMAE__TRY(show(self, data, data, error, error_size));
    if (self->rank != root && bytes) memcpy(data, self->shared->send[root], (size_t)bytes);
    return meet(self, 0, error, error_size);
}

static cavmae_status thread_barrier(void *user, char *error, size_t error_size) {
    return meet(user, 0, error, error_size);
}

static void thread_abort(void *user) {
    seat *self = user;
    shared *s = self->shared;
    pthread_mutex_lock(&s->lock);
    if (s->ended_by < 0) s->ended_by = self->rank;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

/* ---- Life ---- */

static void destroy(shared *s) {
    cavmae_context *context = s->context;
    cavmae__notes_destroy(context, &s->notes);
    pthread_cond_destroy(&s->moved);
    pthread_mutex_destroy(&s->lock);
    cavmae__free(context, s->seats);
    cavmae__free(context, s->data);
    cavmae__free(context, s->send);
    cavmae__free(context, s);
    cavmae__context_unref(context);
}

static void thread_close(void *user) {
    seat *self = user;
    shared *s = self->shared;
    pthread_mutex_lock(&s->lock);
    if (s->gone < 0) s->gone = self->rank;
    int last = --s->references == 0;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    if (last) destroy(s);
}

static cavmae_status create_shared(cavmae_context *context, int32_t size, shared **out) {
    cavmae_status status;
    shared *s = cavmae__alloc_zero(context, sizeof *s);
    if (!s) return CAVMAE_E_NOMEM;
    s->context = cavmae__context_ref(context);
    s->size = size;
    s->gone = s->ended_by = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->moved, NULL);
    status = cavmae__notes_create(context, size, &s->notes);
    if (status == CAVMAE_OK) status = CAVMAE__NEW(context, &s->send, size);
    if (status == CAVMAE_OK) status = CAVMAE__NEW(context, &s->data, size);
    if (status == CAVMAE_OK) status = CAVMAE__NEW(context, &s->seats, size);
    if (status != CAVMAE_OK) {
        destroy(s);
        return status;
    }
    for (int32_t r = 0; r < size; r++) s->seats[r] = (seat){s, r, 0};
    *out = s;
    return CAVMAE_OK;
}

static cavmae_status create_worlds(shared *s, cavmae_context *const *contexts, const cavmae_world_options *options,
                                   cavmae_world **out) {
    cavmae_collectives host = {.struct_size = sizeof host,
                               .version = 1,
                               .name = "threads",
                               .all_reduce = thread_all_reduce,
                               .reduce_scatter = thread_reduce_scatter,
                               .all_gather = thread_all_gather,
                               .broadcast = thread_broadcast,
                               .barrier = thread_barrier,
                               .abort = thread_abort,
                               .close = thread_close};
    for (int32_t r = 0; r < s->size; r++) {
        host.user = &s->seats[r];
        const cavmae__world_setup setup = {.name = host.name,
                                           .rank = r,
                                           .size = s->size,
                                           .timeout = options->timeout,
                                           .host = &host,
                                           .table = &s->notes,
                                           .one_thread = 1};
        cavmae_status status = cavmae__world_make(contexts[r], &setup, &out[r]);
        if (status != CAVMAE_OK) return status;
        s->references++;
    }
    return CAVMAE_OK;
}

cavmae_status cavmae_world_create_threads(cavmae_context *const *contexts, int32_t size,
                                          const cavmae_world_options *options, cavmae_world **out) {
    cavmae_world_options o;
    shared *s = NULL;
    if (!contexts || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_threads: %s is NULL", contexts ? "out" : "contexts");
    if (size < 1 || size > 1024)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_threads: size is %d, not in 1 to 1024", (int)size);
    for (int32_t r = 0; r < size; r++)
        if (!contexts[r])
            return cavmae__fail(CAVMAE_E_ARG, "cavmae_world_create_threads: contexts[%d] is NULL", (int)r);
    CAVMAE__TRY(cavmae__world_options_in(options, 0, &o));
    CAVMAE__TRY(create_shared(contexts[0], size, &s));
    cavmae_world **worlds;
    cavmae_status status = CAVMAE__NEW(s->context, &worlds, size);
    if (status != CAVMAE_OK) {
        destroy(s);
        return status;
    }
    memset(worlds, 0, (size_t)size * sizeof *worlds);
    s->references = 1; /* ours */
    status = create_worlds(s, contexts, &o, worlds);
    if (status == CAVMAE_OK)
        memcpy(out, worlds, (size_t)size * sizeof *worlds);
    else
        for (int32_t r = 0; r < size; r++) cavmae_world_free(worlds[r]);
    cavmae__free(s->context, worlds);
    pthread_mutex_lock(&s->lock);
    int last = --s->references == 0;
    pthread_mutex_unlock(&s->lock);
    if (last) destroy(s);
    return status;
}
