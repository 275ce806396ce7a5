/* The loader's threads: they read samples ahead; batches come out the same for any number of them.
 *
 * Samples are numbered 0, 1, ... in the order of the epochs. A thread takes the next number and makes the sample in
 * its slot of a ring, so samples may become ready out of order. They are placed into batches in order, by whichever
 * thread finds the next one ready; only then is it known how many before it were broken, and so which row is theirs.
 * An epoch's end is a number too: a slot without a sample. In a world the numbers are those of this rank's shares; a
 * broken sample's row is filled with another one at once, so that no rank has to know of the others' to know its own
 * share. Batches are a second ring, with room for `queue` of them and the one that the caller holds. */
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

static int64_t entry_at(const cavmae_loader *loader, int64_t position) {
    return loader->order ? (int64_t)loader->order[position] : position;
}

/* The next of this rank's share of the batch at take_position, whose clips are W: those from W r / S to W (r + 1) / S. 0:
 * no batch is left. */
static int take_of_share(cavmae_loader *loader, cavmae__slot *s) {
    const cavmae__options *options = &loader->source.options;
    int64_t left = loader->count - loader->take_position, world = left < options->batch ? left : options->batch;
    if (world == 0 || (world < options->batch && options->drop_last)) return 0;
    int64_t first = world * loader->rank / loader->ranks, end = world * (loader->rank + 1) / loader->ranks;
    s->position = loader->take_position + first + loader->take_row++;
    s->index = first < end ? entry_at(loader, s->position) : CAVMAE__SLOT_NO_CLIP;
    s->world_count = (int32_t)world;
    s->next_position = loader->take_position + world;
    s->last = first + loader->take_row >= end;
    if (s->last) {
        loader->take_position = s->next_position;
        loader->take_row = 0;
    }
    return 1;
}

/* The next of the epoch. 0: none is left. */
static int take_next(cavmae_loader *loader, cavmae__slot *s) {
    if (loader->take_position == loader->count) return 0;
    s->position = loader->take_position++;
    s->index = entry_at(loader, s->position);
    s->next_position = loader->take_position;
    return 1;
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
    if (!(loader->ranks ? take_of_share(loader, s) : take_next(loader, s))) {
        s->index = CAVMAE__SLOT_END;
        s->position = loader->take_position;
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

static int stopped(cavmae_loader *loader) {
    pthread_mutex_lock(&loader->lock);
    int stop = loader->stop;
    pthread_mutex_unlock(&loader->lock);
    return stop;
}

/* Reads the `turn`-th entry after the slot's own. Each turn draws numbers of its own: a clip that comes twice in an epoch
 * is augmented anew, and not mixed again with what may be what is broken. */
static cavmae_status read_entry(cavmae__loader_worker *self, cavmae__slot *s, int64_t turn) {
    const cavmae_loader *loader = self->loader;
    const cavmae__source *source = &loader->source;
    cavmae__draw draw = {(uint64_t)source->options.seed, s->epoch,
                         (loader->balance ? s->position : s->index) + turn * loader->count};
    s->read = (s->index + turn) % loader->count;
    cavmae__slot_drop_sound(self->loader, s); /* from a try that failed later */
    return cavmae__sample_read(source, &draw, s->read, &self->reader, &s->sample);
}

/* In place of a broken sample the next one in the manifest that can be read. Its error stays, for the log. */
static int32_t replace_sample(cavmae__loader_worker *self, cavmae__slot *s) {
    cavmae_loader *loader = self->loader;
    for (int64_t turn = 1; turn < loader->count && !stopped(loader); turn++) {
        cavmae_status status = read_entry(self, s, turn);
        if (status == CAVMAE_OK) return CAVMAE__SLOT_READY;
        if (cavmae__sample_is_broken(status)) continue;
        set_error(s, status);
        return CAVMAE__SLOT_FAILED;
    }
    set_error(s, cavmae__fail(CAVMAE_E_FORMAT, "%s; and none of the manifest's %lld entries can be read in its place",
                              s->error, (long long)loader->count));
    return CAVMAE__SLOT_FAILED;
}

/* Fills a slot and returns its new state. Without the lock: nobody else looks at a slot in the making. */
static int32_t fill_slot(cavmae__loader_worker *self, cavmae__slot *s) {
    const cavmae_loader *loader = self->loader;
    if (s->index < 0) return CAVMAE__SLOT_READY;
    cavmae_status status = read_entry(self, s, 0);
    if (status == CAVMAE_OK) return CAVMAE__SLOT_READY;
    set_error(s, status);
    if (loader->source.options.broken != CAVMAE__BROKEN_SKIP || !cavmae__sample_is_broken(status))
        return CAVMAE__SLOT_FAILED;
    return loader->ranks ? replace_sample(self, s) : CAVMAE__SLOT_BROKEN;
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
    b->samples[row] = s->read;
    loader->audio_used += audio;
    return CAVMAE_OK;
}

/* Ends the batch in the making; the next sample is at the given place. */
static cavmae__loader_batch *complete_batch(cavmae_loader *loader, const cavmae__slot *s, int64_t next_epoch,
                                            int64_t next_position) {
    cavmae__loader_batch *b = cavmae__loader_batch_of(loader, loader->complete++);
    b->batch = (cavmae_batch){.struct_size = sizeof b->batch,
                              .count = loader->rows,
                              .audio = b->audio,
                              .image = b->image,
                              .audio_frames = b->audio_frames,
                              .samples = b->samples,
                              .labels = b->labels,
                              .classes = (int32_t)loader->label_count,
                              .frames = loader->frames,
                              .world_count = s->world_count};
    b->end = 0;
    b->epoch = s->epoch;
    b->next_epoch = next_epoch;
    b->next_position = next_position;
    b->broken = loader->broken;
    loader->rows = 0;
    loader->audio_used = 0;
    loader->epoch_has_batch = 1;
    return b;
}

static void place_end(cavmae_loader *loader, cavmae__slot *s) {
    if (loader->rows > 0 && !loader->source.options.drop_last) {
        complete_batch(loader, s, s->epoch, s->position);
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
    complete_batch(loader, s, s->epoch + 1, 0)->end = 1;
    loader->epoch_has_batch = 0;
    s->state = CAVMAE__SLOT_EMPTY;
    loader->placed++;
}

/* Logs what was broken, and copies what was read. Without the lock, as copy_sample. */
static cavmae_status place_sample(cavmae_loader *loader, cavmae__slot *s) {
    cavmae_context *context = loader->source.context;
    if (s->state == CAVMAE__SLOT_BROKEN)
        cavmae__log(context, CAVMAE_LOG_WARNING, "skipped: %s", s->error);
    else if (s->read != s->index)
        cavmae__log(context, CAVMAE_LOG_WARNING, "skipped: %s; entry %lld is in its place", s->error,
                    (long long)s->read);
    return s->state == CAVMAE__SLOT_BROKEN ? CAVMAE_OK
                                           : copy_sample(loader, cavmae__loader_batch_of(loader, loader->complete), s);
}

/* Places the next sample. Called with the lock, which it gives up meanwhile. */
static void place_slot(cavmae_loader *loader) {
    cavmae__slot *s = cavmae__slot_of(loader, loader->placed);
    if (s->index == CAVMAE__SLOT_END) {
        place_end(loader, s);
        return;
    }
    cavmae_status status = CAVMAE_OK;
    loader->placing = 1;
    pthread_mutex_unlock(&loader->lock);
    if (s->index != CAVMAE__SLOT_NO_CLIP) status = place_sample(loader, s);
    pthread_mutex_lock(&loader->lock);
    loader->placing = 0;
    if (status != CAVMAE_OK) {
        s->state = CAVMAE__SLOT_FAILED;
        set_error(s, status);
        return;
    }
    if (s->index != CAVMAE__SLOT_NO_CLIP) {
        loader->broken += s->state == CAVMAE__SLOT_BROKEN || s->read != s->index;
        loader->rows += s->state == CAVMAE__SLOT_READY;
    }
    if (s->last || loader->rows == loader->source.options.batch) complete_batch(loader, s, s->epoch, s->next_position);
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
    cavmae__never_cancel_this_thread();
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
