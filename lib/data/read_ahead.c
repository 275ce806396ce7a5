/* The loader's threads: they read samples ahead; batches come out the same for any number of them.
 *
 * Samples are numbered 0, 1, ... in the order of the epochs. A thread takes the next number and makes the sample in
 * its slot of a ring, so samples may become ready out of order. They are placed into batches in order, by whichever
 * thread finds the next one ready; only then is it known how many before it were broken, and so which row is theirs.
 * An epoch's end is a number too: a slot without a sample. Batches are a second ring, with room for `queue` of them
 * and the one that the caller holds. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <string.h>

#include "loader_internal.h"
#include "order.h"

/* ---- Order ---- */

static void order_epoch(cavmae_loader *loader, int64_t epoch) {
    uint64_t seed = (uint64_t)loader->source.options.seed;
    if (loader->balance)
        cavmae__balance_order(loader->balance, loader->order, seed, epoch);
    else if (loader->order)
        cavmae__order_shuffle(loader->order, (uint32_t)loader->count, seed, epoch);
}

/* The slot to fill next, or NULL when all are full. Under the lock. */
static cavmae__slot *take_slot(cavmae_loader *loader) {
    cavmae__slot *s = cavmae__slot_of(loader, loader->placed);
    if (s->state == CAVMAE__SLOT_AGAIN) {
        s->state = CAVMAE__SLOT_EMPTY;
        return s;
    }
    if (loader->taken - loader->placed == loader->slot_count) return NULL;
    s = cavmae__slot_of(loader, loader->taken++);
    s->epoch = loader->take_epoch;
    s->position = loader->take_position;
    if (s->position < loader->count) {
        s->index = loader->order ? (int64_t)loader->order[s->position] : s->position;
        loader->take_position++;
    } else {
        s->index = -1;
        loader->take_position = 0;
        order_epoch(loader, ++loader->take_epoch);
    }
    return s;
}

/* ---- Making samples ---- */

void cavmae__slot_drop_sound(cavmae_loader *loader, cavmae__slot *s) {
    cavmae__free(loader->source.context, s->sample.audio);
    s->sample.audio = NULL;
}

static void set_error(cavmae__slot *s, cavmae_status status) {
    s->status = status;
    strncpy(s->error, cavmae_last_error(), CAVMAE__SLOT_ERROR_SIZE - 1);
}

/* Fills a slot and returns its new state. Without the lock: nobody else looks at a slot in the making. */
static int32_t fill_slot(cavmae__loader_worker *self, cavmae__slot *s) {
    const cavmae__source *source = &self->loader->source;
    if (s->index < 0) return CAVMAE__SLOT_READY;
    cavmae__slot_drop_sound(self->loader, s); /* from a try that failed later */
    cavmae__draw draw = {(uint64_t)source->options.seed, s->epoch, self->loader->balance ? s->position : s->index};
    cavmae_status status = cavmae__sample_read(source, &draw, s->index, &self->reader, &s->sample);
    if (status == CAVMAE_OK) return CAVMAE__SLOT_READY;
    set_error(s, status);
    return source->options.broken == CAVMAE__BROKEN_SKIP && cavmae__sample_is_broken(status) ? CAVMAE__SLOT_BROKEN
                                                                                             : CAVMAE__SLOT_FAILED;
}

/* ---- Placing samples into batches ---- */

static int can_place(cavmae_loader *loader) {
    int32_t state = cavmae__slot_of(loader, loader->placed)->state;
    return !loader->placing && (state == CAVMAE__SLOT_READY || state == CAVMAE__SLOT_BROKEN) &&
           loader->complete - loader->released < loader->batch_count;
}

/* Clips of native length follow one another, so only the batch itself shows how much room its sound takes. */
static cavmae_status reserve_sound(cavmae_loader *loader, cavmae__loader_batch *b, size_t needed) {
    if (needed <= b->audio_capacity) return CAVMAE_OK;
    size_t capacity = needed + needed / 2;
    float *audio =
        cavmae__realloc(loader->source.context, b->audio, b->audio_capacity * sizeof *audio, capacity * sizeof *audio);
    if (!audio) return CAVMAE_E_NOMEM;
    b->audio = audio;
    b->audio_capacity = capacity;
    return CAVMAE_OK;
}

/* Copies a sample into the next row. Without the lock: `placing` keeps other threads out, and the batch is not
 * complete. */
static cavmae_status copy_sample(cavmae_loader *loader, cavmae__loader_batch *b, cavmae__slot *s) {
    const cavmae__sample *sample = &s->sample;
    size_t row = (size_t)loader->rows, audio = (size_t)(sample->audio_frames * loader->source.options.mel_bins);
    if (sample->audio) {
        CAVMAE__TRY(reserve_sound(loader, b, loader->audio_used + audio));
        memcpy(b->audio + loader->audio_used, sample->audio, audio * sizeof *b->audio);
        cavmae__slot_drop_sound(loader, s);
    }
    if (b->audio_frames) b->audio_frames[row] = (int32_t)sample->audio_frames;
    if (b->image) memcpy(b->image + row * loader->image_size, sample->image, loader->image_size * sizeof *b->image);
    if (b->labels)
        memcpy(b->labels + row * loader->label_count, sample->labels, loader->label_count * sizeof *b->labels);
    b->samples[row] = s->index;
    loader->audio_used += audio;
    return CAVMAE_OK;
}

/* Ends the batch in the making (without rows: marks the epoch's end); the next sample is at the given place. */
static void complete_batch(cavmae_loader *loader, int64_t epoch, int64_t next_epoch, int64_t next_position) {
    cavmae__loader_batch *b = cavmae__loader_batch_of(loader, loader->complete++);
    b->batch = (cavmae_batch){.struct_size = sizeof b->batch,
                              .count = loader->rows,
                              .audio = b->audio,
                              .image = b->image,
                              .audio_frames = b->audio_frames,
                              .samples = b->samples,
                              .labels = b->labels,
                              .classes = (int32_t)loader->label_count,
                              .frames = loader->frames};
    b->epoch = epoch;
    b->next_epoch = next_epoch;
    b->next_position = next_position;
    b->broken = loader->broken;
    loader->rows = 0;
    loader->audio_used = 0;
    loader->epoch_has_batch = 1;
}

static void place_end(cavmae_loader *loader, cavmae__slot *s) {
    if (loader->rows > 0 && !loader->source.options.drop_last) {
        complete_batch(loader, s->epoch, s->epoch, s->position);
        return; /* the end itself is placed next */
    }
    loader->rows = 0;
    loader->audio_used = 0;
    if (!loader->epoch_has_batch) { /* callers that loop over epochs would loop for ever */
        s->state = CAVMAE__SLOT_FAILED;
        s->status = cavmae__fail(CAVMAE_E_FORMAT,
                                 "epoch %lld has no batch: %lld samples so far could not be read; the log names each",
                                 (long long)s->epoch, (long long)loader->broken);
        set_error(s, s->status);
        return;
    }
    complete_batch(loader, s->epoch, s->epoch + 1, 0);
    loader->epoch_has_batch = 0;
    s->state = CAVMAE__SLOT_EMPTY;
    loader->placed++;
}

/* Places the next sample. Called with the lock, which it gives up meanwhile. */
static void place_slot(cavmae_loader *loader) {
    cavmae__slot *s = cavmae__slot_of(loader, loader->placed);
    if (s->index < 0) {
        place_end(loader, s);
        return;
    }
    cavmae_status status = CAVMAE_OK;
    loader->placing = 1;
    pthread_mutex_unlock(&loader->lock);
    if (s->state == CAVMAE__SLOT_BROKEN)
        cavmae__log(loader->source.context, CAVMAE_LOG_WARNING, "skipped: %s", s->error);
    else
        status = copy_sample(loader, cavmae__loader_batch_of(loader, loader->complete), s);
    pthread_mutex_lock(&loader->lock);
    loader->placing = 0;
    if (status != CAVMAE_OK) {
        s->state = CAVMAE__SLOT_FAILED;
        set_error(s, status);
        return;
    }
    if (s->state == CAVMAE__SLOT_BROKEN)
        loader->broken++;
    else if (++loader->rows == loader->source.options.batch)
        complete_batch(loader, s->epoch, s->epoch, s->position + 1);
    s->state = CAVMAE__SLOT_EMPTY;
    loader->placed++;
}

/* ---- Threads ---- */

/* After each change the thread that made it looks for more to do before it sleeps, so one signal for each slot or batch
 * that becomes free is enough. */
static void *worker_main(void *argument) {
    cavmae__loader_worker *self = argument;
    cavmae_loader *loader = self->loader;
    cavmae__slot *s;
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop) {
        if (can_place(loader)) {
            place_slot(loader);
            pthread_cond_signal(&loader->work);
            pthread_cond_signal(&loader->ready);
        } else if ((s = take_slot(loader))) {
            pthread_mutex_unlock(&loader->lock);
            int32_t state = fill_slot(self, s);
            pthread_mutex_lock(&loader->lock);
            s->state = state;
            pthread_cond_signal(&loader->ready);
        } else {
            pthread_cond_wait(&loader->work, &loader->lock);
        }
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

void cavmae__loader_stop(cavmae_loader *loader) {
    pthread_mutex_lock(&loader->lock);
    loader->stop = 1;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    while (loader->started > 0) pthread_join(loader->workers[--loader->started].thread, NULL);
    loader->stop = 0;
}

cavmae_status cavmae__loader_start(cavmae_loader *loader) {
    sigset_t all, before;
    if (loader->started > 0) return CAVMAE_OK;
    order_epoch(loader, loader->take_epoch);
    sigfillset(&all); /* signals are the application's threads' business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; loader->started < loader->worker_count; loader->started++) {
        cavmae__loader_worker *w = &loader->workers[loader->started];
        w->loader = loader;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return loader->started > 0 ? CAVMAE_OK : cavmae__fail(CAVMAE_E_NOMEM, "the system gives no thread to the loader");
}
