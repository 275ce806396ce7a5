/* The queue thread of a world of hosts: collectives one after another, beside the caller's work. */
#include <stdio.h>
#include <string.h>

#include "tensor.h"
#include "world_internal.h"

/* ---- Doing a collective ---- */

static cavmae_status move_data(cavmae_world *world, const cavmae__collective *c, char *error, size_t error_size) {
    const cavmae_collectives *host = &world->host;
    int64_t bytes = c->count * (int64_t)cavmae__dtype_size(c->dtype);
    switch (c->kind) {
    case CAVMAE__ALL_REDUCE: return host->all_reduce(host->user, c->dtype, c->data, c->count, error, error_size);
    case CAVMAE__REDUCE_SCATTER:
        return host->reduce_scatter(host->user, c->dtype, c->send, c->data, c->count, error, error_size);
    case CAVMAE__ALL_GATHER: return host->all_gather(host->user, c->send, c->data, bytes, error, error_size);
    case CAVMAE__BROADCAST: return host->broadcast(host->user, c->data, bytes, c->root, error, error_size);
    default: return host->barrier(host->user, error, error_size);
    }
}

/* The carrier's own failure: its words, and what the notes know. */
static void tell_carrier_failure(cavmae_world *world, int64_t number, const char *text, const char *words,
                                 char sentence[CAVMAE__WORLD_SENTENCE]) {
    snprintf(sentence, CAVMAE__WORLD_SENTENCE, "world: %s, number %lld: %.200s", text, (long long)number, words);
    cavmae__notes_tell(world, number, text, 0, sentence);
}

/* Under the lock, which it gives up meanwhile. */
static void perform(cavmae_world *world, const cavmae__world_item *item) {
    char words[CAVMAE__WORLD_SENTENCE] = "", sentence[CAVMAE__WORLD_SENTENCE];
    const char *text = item->collective.kind == CAVMAE__WORLD_FAILURE ? "word of its failure" : item->text;
    int64_t number = world->note.begun + 1;
    uint64_t failed_through = 0;
    world->busy = 1;
    world->begun_at = cavmae__now();
    world->patience = item->collective.patience > 1 ? item->collective.patience : 1;
    cavmae__note_begun(world, number, text);
    pthread_mutex_unlock(&world->lock);

    int verdict = cavmae__world_agree(world, item, &failed_through, words);
    if (verdict == CAVMAE__AGREED) {
        cavmae_status status = move_data(world, &item->collective, words, sizeof words);
        words[sizeof words - 1] = '\0';
        if (status != CAVMAE_OK) {
            verdict = CAVMAE__CARRIER_FAILED;
            if (!words[0]) snprintf(words, sizeof words, "%s", cavmae_status_str(status));
        }
    }
    if (verdict == CAVMAE__CARRIER_FAILED) tell_carrier_failure(world, number, text, words, sentence);

    pthread_mutex_lock(&world->lock);
    world->busy = 0;
    if (verdict == CAVMAE__CARRIER_FAILED) {
        cavmae__world_break(world, sentence);
        return;
    }
    cavmae__note_ended(world, number, text);
    if (verdict == CAVMAE__REFUSED && failed_through > world->failed_through) {
        world->failed_through = failed_through;
        memcpy(world->failure, words, sizeof words);
    }
}

/* ---- The thread ---- */

static void run_open(cavmae_world *world) {
    pthread_mutex_unlock(&world->lock);
    cavmae_status status = world->open(world, world->open_arg, world->open_error, sizeof world->open_error);
    pthread_mutex_lock(&world->lock);
    world->open_status = status;
    world->opened = 1;
    pthread_cond_broadcast(&world->idle);
}

void *cavmae__world_queue_main(void *argument) {
    cavmae_world *world = argument;
    pthread_mutex_lock(&world->lock);
    if (world->open) run_open(world);
    for (;;) {
        if (world->done < world->put) {
            const cavmae__world_item *item = &world->items[world->done % CAVMAE__WORLD_QUEUE];
            if (!world->breaking && item->step > world->failed_through) perform(world, item);
            world->done++;
            pthread_cond_broadcast(&world->idle);
        } else if (world->stop) {
            break;
        } else {
            pthread_cond_wait(&world->work, &world->lock);
        }
    }
    int close = world->close_host && world->host.close;
    pthread_mutex_unlock(&world->lock);
    if (close) world->host.close(world->host.user);
    pthread_mutex_lock(&world->lock);
    world->queue_ended = 1;
    pthread_cond_broadcast(&world->idle);
    pthread_mutex_unlock(&world->lock); /* the last that it does with the world */
    return NULL;
}

/* ---- The caller's side ---- */

void cavmae__world_await(cavmae_world *world, int all) {
    /* While it is breaking nothing in the queue is done any more: not even an empty one means that all went well. */
    while (!world->broken &&
           (world->breaking || (all ? world->done < world->put : world->put - world->done == CAVMAE__WORLD_QUEUE))) {
        if (!world->breaking) {
            pthread_cond_wait(&world->idle, &world->lock);
            continue;
        }
        /* The watch thread is in the carrier's abort; if that does not return, nobody must wait for it. */
        double until = world->broke_at + 2 * CAVMAE__WORLD_GRACE;
        if (cavmae__now() >= until)
            world->broken = 1;
        else
            cavmae__wait_until(&world->idle, &world->lock, until);
    }
}

/* Under the lock. */
static cavmae_status result(cavmae_world *world) {
    if (world->broken || (world->on_device && world->breaking))
        return cavmae__fail(CAVMAE_E_PEER, "%s", world->broken_text);
    if (world->step <= world->failed_through) return cavmae__fail(CAVMAE_E_PEER, "%s", world->failure);
    return CAVMAE_OK;
}

cavmae_status cavmae__world_result(cavmae_world *world) {
    pthread_mutex_lock(&world->lock);
    cavmae_status status = result(world);
    pthread_mutex_unlock(&world->lock);
    return status;
}

cavmae_status cavmae__world_enqueue(cavmae_world *world, const cavmae__collective *collective, const char *text) {
    pthread_mutex_lock(&world->lock);
    cavmae__world_await(world, 0);
    cavmae_status status = result(world);
    if (status == CAVMAE_OK) {
        cavmae__world_item *item = &world->items[world->put % CAVMAE__WORLD_QUEUE];
        item->collective = *collective;
        item->step = world->step;
        memcpy(item->text, text, sizeof item->text);
        world->put++;
        pthread_cond_signal(&world->work);
    }
    pthread_mutex_unlock(&world->lock);
    return status;
}
