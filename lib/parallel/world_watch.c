/* The watch thread: ends collectives that take too long, and the world with them, and keeps this rank's note.
 *
 * It alone breaks a world: whoever finds a reason leaves it with cavmae__world_break. On hosts those who wait go on only
 * when the carrier's call has returned, because it uses their memory; unless it does not return. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "world_internal.h"

double cavmae__now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void cavmae__wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, double when) {
    struct timespec until = {.tv_sec = (time_t)when, .tv_nsec = (long)((when - floor(when)) * 1e9)};
    pthread_cond_timedwait(condition, lock, &until);
}

void cavmae__world_break(cavmae_world *world, const char *sentence) {
    if (world->breaking) return;
    world->breaking = 1;
    world->broke_at = cavmae__now();
    snprintf(world->broken_text, sizeof world->broken_text, "%s", sentence);
    pthread_cond_signal(&world->watch);
    pthread_cond_broadcast(&world->idle);
}

/* What cavmae__world_break asked for. Under the lock, which it gives up meanwhile. */
static void carry_out(cavmae_world *world) {
    /* On a device nothing on the host is in use, and its abort may take long. */
    if (world->on_device) world->broken = 1;
    pthread_cond_broadcast(&world->idle);
    pthread_mutex_unlock(&world->lock);
    if (world->watch_dir) (void)cavmae__note_write(world); /* a file more or less changes nothing now */
    if (world->on_device)
        world->device->ops->abort(world->device);
    else if (world->host.abort)
        world->host.abort(world->host.user);
    pthread_mutex_lock(&world->lock);
    double until = cavmae__now() + CAVMAE__WORLD_GRACE;
    while (world->busy && world->host.abort && cavmae__now() < until)
        cavmae__wait_until(&world->idle, &world->lock, until);
    world->broken = 1;
    pthread_cond_broadcast(&world->idle);
}

/* Breaks the world over collective `number`, unless it has ended meanwhile. Under the lock, which it gives up. */
static void end_late(cavmae_world *world, int64_t number, const char *text, double seconds) {
    char sentence[CAVMAE__WORLD_SENTENCE], own[CAVMAE__WORLD_TEXT];
    memcpy(own, text, sizeof own);
    pthread_mutex_unlock(&world->lock);
    snprintf(sentence, sizeof sentence, "world: %s, number %lld, was not done in %g s", own, (long long)number,
             seconds);
    cavmae__notes_tell(world, number, own, 1, sentence);
    pthread_mutex_lock(&world->lock);
    if (world->note.ended < number) cavmae__world_break(world, sentence);
}

static void watch_host(cavmae_world *world) {
    double limit = world->timeout * world->patience;
    if (world->busy && cavmae__now() > world->begun_at + limit)
        end_late(world, world->note.begun, world->note.begun_text, limit);
}

static void device_ended(cavmae_world *world, int64_t ended) {
    if (ended <= world->ended) return;
    /* Its text is still in the ring: so many are never begun between two polls. */
    cavmae__note_ended(world, ended, world->device_ring[ended % CAVMAE__WORLD_DEVICE_RING].text);
    world->ended = ended;
    world->ended_at = cavmae__now();
}

static void end_failed(cavmae_world *world, const char *words) {
    char sentence[CAVMAE__WORLD_SENTENCE];
    const int64_t number = world->ended + 1;
    const char *text = world->device_ring[number % CAVMAE__WORLD_DEVICE_RING].text;
    snprintf(sentence, sizeof sentence, "world: %s, number %lld: %.200s",
             number <= world->begun ? text : "between collectives", (long long)number, words);
    pthread_mutex_unlock(&world->lock);
    cavmae__notes_tell(world, number, "", 0, sentence);
    pthread_mutex_lock(&world->lock);
    cavmae__world_break(world, sentence);
}

/* Both under the lock, which they give up meanwhile. */
static void watch_device(cavmae_world *world) {
    int64_t ended = world->ended;
    const int64_t begun = world->begun;
    pthread_mutex_unlock(&world->lock);
    cavmae_status status = world->device->ops->poll(world->device, &ended);
    pthread_mutex_lock(&world->lock);
    device_ended(world, ended);
    if (status != CAVMAE_OK) {
        end_failed(world, cavmae_last_error());
        return;
    }
    if (ended >= begun) world->ended_at = cavmae__now(); /* nothing was under way */
    const int64_t slot = (ended + 1) % CAVMAE__WORLD_DEVICE_RING;
    const double limit = world->timeout * world->device_ring[slot].patience;
    if (ended < begun && cavmae__now() > world->ended_at + limit)
        end_late(world, ended + 1, world->device_ring[slot].text, limit);
}

/* Often enough for the timeout to be kept to an eighth; a device is asked more often, so that the notes are fresh. */
static double period(const cavmae_world *world) {
    double seconds = world->timeout / 8;
    double most = world->on_device ? 0.05 : world->watch_dir ? cavmae__note_period(world) : 1;
    return seconds > most ? most : seconds;
}

void *cavmae__world_watch_main(void *argument) {
    cavmae_world *world = argument;
    pthread_mutex_lock(&world->lock);
    world->ended_at = cavmae__now();
    while (!world->stop_watch || (world->breaking && !world->broken)) { /* the others wait for the abort */
        if (!world->breaking) (world->on_device ? watch_device : watch_host)(world);
        if (world->breaking && !world->broken) {
            carry_out(world);
            continue;
        }
        if (world->nonce[0] && cavmae__now() >= world->beat_at + cavmae__note_period(world)) {
            pthread_mutex_unlock(&world->lock);
            (void)cavmae__note_write(world); /* the next one may succeed */
            pthread_mutex_lock(&world->lock);
        }
        if (!world->stop_watch && !(world->breaking && !world->broken))
            cavmae__wait_until(&world->watch, &world->lock, cavmae__now() + period(world));
    }
    world->watch_ended = 1;
    pthread_cond_broadcast(&world->idle);
    pthread_mutex_unlock(&world->lock);
    return NULL;
}
