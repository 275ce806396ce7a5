/* A world's collectives for programs, on host memory. Each is a step of its own. */
#include <stdio.h>
#include <string.h>

#include "world_internal.h"

enum { STAGE = 1 << 24 }; /* bytes of a device's memory that such a call takes at most, unless there are more ranks */

/* ---- On a device ---- */

typedef struct staging {
    cavmae_world *world;
    const cavmae__backend_ops *ops;
    unsigned char *send, *data; /* in the backend's memory: [part], and [part] or, for a gather, [size, part] */
    size_t part;
} staging;

static void stage_close(staging *s) {
    if (s->send) s->ops->free(s->world->backend, s->send);
    if (s->data) s->ops->free(s->world->backend, s->data);
}

static cavmae_status stage_open(cavmae_world *world, size_t bytes, size_t rows, staging *s) {
    void *memory;
    *s = (staging){.world = world, .ops = world->backend->ops};
    s->part = STAGE / rows < 8 ? 8 : STAGE / rows / 8 * 8;
    if (s->part > bytes) s->part = bytes;
    cavmae_status status = CAVMAE_OK;
    if (rows > 1) status = s->ops->alloc(world->backend, s->part, &memory);
    if (rows > 1 && status == CAVMAE_OK) s->send = memory;
    if (status == CAVMAE_OK) status = s->ops->alloc(world->backend, rows * s->part, &memory);
    if (status == CAVMAE_OK) s->data = memory;
    return status;
}

/* What the device says, unless the world knows better why. */
static cavmae_status stage_check(cavmae_world *world, cavmae_status status) {
    cavmae_status checked = cavmae__world_result(world);
    return checked != CAVMAE_OK ? checked : status;
}

/* One part of a call's data: up, moved, and down again. */
static cavmae_status stage_move(staging *s, cavmae__collective c, const unsigned char *send, unsigned char *receive,
                                size_t bytes, size_t part) {
    cavmae_world *world = s->world;
    cavmae__backend *backend = world->backend;
    int gather = c.kind == CAVMAE__ALL_GATHER;
    c.send = s->send;
    c.data = s->data;
    c.count = (int64_t)(c.dtype == CAVMAE_FLOAT64 ? part / sizeof(double) : part);
    if (send) CAVMAE__TRY(s->ops->upload(backend, gather ? s->send : s->data, send, part));
    CAVMAE__TRY(cavmae__world_run(world, &c));
    for (int32_t r = 0; r < (gather ? world->size : 1); r++)
        CAVMAE__TRY(s->ops->download(backend, receive + (size_t)r * bytes, s->data + (size_t)r * part, part));
    return CAVMAE_OK;
}

static cavmae_status staged(cavmae_world *world, const cavmae__collective *c, const void *send, void *receive,
                            size_t bytes) {
    staging s;
    char text[CAVMAE__WORLD_TEXT];
    cavmae__world_text(c, text);
    CAVMAE__TRY(cavmae__world_device_gather_texts(world, text)); /* the host waits anyway: ask before, not after */
    CAVMAE__TRY(cavmae__world_wait(world));
    CAVMAE__TRY(cavmae__world_device_compare(world));
    if (c->kind == CAVMAE__BARRIER || bytes == 0) return CAVMAE_OK; /* that was one */
    cavmae_status status = stage_open(world, bytes, c->kind == CAVMAE__ALL_GATHER ? (size_t)world->size : 1, &s);
    for (size_t done = 0; done < bytes && status == CAVMAE_OK; done += s.part) {
        size_t part = bytes - done < s.part ? bytes - done : s.part;
        status = stage_move(&s, *c, send ? (const unsigned char *)send + done : NULL, (unsigned char *)receive + done,
                            bytes, part);
        status = stage_check(world, status);
    }
    if (status != CAVMAE_OK) cavmae_world_fail(world, cavmae_last_error()); /* nothing where all know */
    stage_close(&s);
    return status;
}

/* ---- On hosts ---- */

/* Says of a call that this rank cannot make, what is wrong: to the caller and to the others, who are in it. */
static cavmae_status refuse(cavmae_world *world, const char *sentence) {
    cavmae_world_fail(world, sentence);
    return cavmae__fail(CAVMAE_E_ARG, "%s", sentence);
}

static cavmae_status call(cavmae_world *world, const cavmae__collective *c, const void *send, void *receive,
                          size_t bytes) {
    if (world->on_device) return staged(world, c, send, receive, bytes);
    return cavmae__world_run(world, c);
}

cavmae_status cavmae_world_barrier(cavmae_world *world) {
    const cavmae__collective c = {.kind = CAVMAE__BARRIER, .what = "the program's"};
    cavmae__world_new_step(world);
    if (cavmae_world_size(world) == 1) return CAVMAE_OK;
    return call(world, &c, NULL, NULL, 0);
}

cavmae_status cavmae_world_sum(cavmae_world *world, double *values, int64_t count) {
    cavmae__world_new_step(world);
    if (count < 0 || (size_t)count > SIZE_MAX / sizeof *values)
        return refuse(world, "cavmae_world_sum: count is negative, or too large");
    if (!values && count) return refuse(world, "cavmae_world_sum: values is NULL");
    if (cavmae_world_size(world) == 1) return CAVMAE_OK;
    const cavmae__collective c = {
        .kind = CAVMAE__ALL_REDUCE, .dtype = CAVMAE_FLOAT64, .data = values, .count = count, .what = "the program's"};
    return call(world, &c, values, values, (size_t)count * sizeof *values);
}

cavmae_status cavmae_world_gather(cavmae_world *world, const void *send, void *receive, size_t bytes) {
    cavmae__world_new_step(world);
    if (bytes > (size_t)INT64_MAX / (size_t)cavmae_world_size(world))
        return refuse(world, "cavmae_world_gather: bytes is too large");
    if (bytes && (!send || !receive))
        return refuse(world, send ? "cavmae_world_gather: receive is NULL" : "cavmae_world_gather: send is NULL");
    if (cavmae_world_size(world) == 1) {
        if (bytes && send != receive) memcpy(receive, send, bytes);
        return CAVMAE_OK;
    }
    const cavmae__collective c = {.kind = CAVMAE__ALL_GATHER,
                                  .dtype = CAVMAE_UINT8,
                                  .send = send,
                                  .data = receive,
                                  .count = (int64_t)bytes,
                                  .what = "the program's"};
    return call(world, &c, send, receive, bytes);
}

cavmae_status cavmae_world_broadcast(cavmae_world *world, void *data, size_t bytes, int32_t root) {
    cavmae__world_new_step(world);
    if (root < 0 || root >= cavmae_world_size(world))
        return refuse(world, "cavmae_world_broadcast: root is no rank of the world");
    if (bytes > INT64_MAX) return refuse(world, "cavmae_world_broadcast: bytes is too large");
    if (bytes && !data) return refuse(world, "cavmae_world_broadcast: data is NULL");
    if (cavmae_world_size(world) == 1) return CAVMAE_OK;
    const cavmae__collective c = {.kind = CAVMAE__BROADCAST,
                                  .dtype = CAVMAE_UINT8,
                                  .root = root,
                                  .data = data,
                                  .count = (int64_t)bytes,
                                  .what = "the program's"};
    return call(world, &c, world->rank == root ? data : NULL, data, bytes);
}

void cavmae_world_fail(cavmae_world *world, const char *sentence) {
    const cavmae__collective failure = {.kind = CAVMAE__WORLD_FAILURE};
    char text[CAVMAE__WORLD_TEXT] = "!", broken[CAVMAE__WORLD_SENTENCE], error[CAVMAE__WORLD_SENTENCE];
    if (cavmae_world_size(world) == 1) return;
    snprintf(text + 1, sizeof text - 1, "%s", sentence ? sentence : "it did not say why");
    pthread_mutex_lock(&world->lock);
    int known = world->breaking || world->step <= world->failed_through;
    if (!known) cavmae__note_failure(world, text + 1);
    if (!known && world->on_device) {
        snprintf(broken, sizeof broken, "world: rank %d failed: %s", (int)world->rank, text + 1);
        cavmae__world_break(world, broken);
        while (!world->broken) pthread_cond_wait(&world->idle, &world->lock);
    }
    /* Whoever is told of a failure gives memory up that a call of the carrier may still use. */
    if (world->breaking && !world->on_device) cavmae__world_await(world, 1);
    pthread_mutex_unlock(&world->lock);
    if (known || world->on_device) return;
    /* Until the others know: a program that ends now would leave them with a carrier that breaks. */
    snprintf(error, sizeof error, "%s", cavmae_last_error());
    if (cavmae__world_enqueue(world, &failure, text) != CAVMAE_OK) {
        (void)cavmae__fail(CAVMAE_E_PEER, "%s", error); /* the caller's failure stays what this thread says of it */
        return;
    }
    pthread_mutex_lock(&world->lock);
    cavmae__world_await(world, 1);
    pthread_mutex_unlock(&world->lock);
}
