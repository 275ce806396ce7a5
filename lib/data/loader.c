/* The loader, as its caller sees it. */
#define _POSIX_C_SOURCE 200809L
#include "loader.h"

#include <string.h>
#include <time.h>

#include "loader_internal.h"
#include "order.h"
#include "record.h"

enum { CANCEL_PERIOD = 50 * 1000 * 1000 }; /* nanoseconds between two questions to the cancel callback */

/* ---- Creating, freeing ---- */

static cavmae_status create_slots(cavmae_loader *loader) {
    cavmae_context *context = loader->source.context;
    loader->slot_count = CAVMAE__SLOTS_PER_THREAD * (int64_t)loader->worker_count;
    loader->slots = cavmae__alloc_zero(context, (size_t)loader->slot_count * sizeof *loader->slots);
    if (!loader->slots) return CAVMAE_E_NOMEM;
    for (int64_t i = 0; i < loader->slot_count; i++) {
        cavmae__sample *sample = &loader->slots[i].sample;
        if (loader->image_size) CAVMAE__TRY(CAVMAE__NEW(context, &sample->image, loader->image_size));
        if (loader->label_count) CAVMAE__TRY(CAVMAE__NEW(context, &sample->labels, loader->label_count));
    }
    return CAVMAE_OK;
}

static cavmae_status new_rows(cavmae_loader *loader, float **out, size_t rows, size_t row) {
    if (row == 0) return CAVMAE_OK;
    *out = cavmae__alloc_array(loader->source.context, rows, row * sizeof **out);
    return *out ? CAVMAE_OK : CAVMAE_E_NOMEM;
}

static cavmae_status create_batches(cavmae_loader *loader) {
    const cavmae__options *options = &loader->source.options;
    cavmae_context *context = loader->source.context;
    size_t batch = (size_t)loader->capacity;
    size_t sound =
        options->modalities == CAVMAE__MODALITIES_V ? 0 : (size_t)(options->audio_frames * options->mel_bins);
    loader->batch_count = options->queue + 1;
    loader->batches = cavmae__alloc_zero(context, (size_t)loader->batch_count * sizeof *loader->batches);
    if (!loader->batches) return CAVMAE_E_NOMEM;
    for (int64_t i = 0; i < loader->batch_count; i++) {
        cavmae__loader_batch *b = &loader->batches[i];
        CAVMAE__TRY(CAVMAE__NEW(context, &b->samples, batch));
        CAVMAE__TRY(new_rows(loader, &b->image, batch, loader->image_size));
        CAVMAE__TRY(new_rows(loader, &b->labels, batch, loader->label_count));
        int native = options->audio.length == CAVMAE__LENGTH_NATIVE;
        size_t clips = native ? 1 : batch; /* room to begin with: a share without clips has sound, too */
        if (sound && native) CAVMAE__TRY(CAVMAE__NEW(context, &b->audio_frames, batch));
        CAVMAE__TRY(new_rows(loader, &b->audio, clips, sound));
        b->audio_capacity = clips * sound;
    }
    return CAVMAE_OK;
}

static cavmae_status check_data_options(const cavmae_loader *loader) {
    const cavmae__options *options = &loader->source.options;
    if (options->frame >= options->clip_frames)
        return cavmae__fail(CAVMAE_E_ARG, "config: frame %lld: a clip has clip_frames = %lld",
                            (long long)options->frame, (long long)options->clip_frames);
    if (loader->image_size && options->image_channels != 3)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "config: image_channels %lld: pictures in files are decoded to 3",
                            (long long)options->image_channels);
    if (loader->count > UINT32_MAX)
        return cavmae__fail(CAVMAE_E_UNSUPPORTED, "the manifest has %lld entries, more than 2^32 - 1",
                            (long long)loader->count);
    if (cavmae_loader_batches(loader) == 0)
        return cavmae__fail(CAVMAE_E_ARG, "config: drop_last leaves nothing of %lld entries with batch %lld",
                            (long long)loader->count, (long long)options->batch);
    if (options->balanced && !loader->source.labels)
        return cavmae__fail(CAVMAE_E_ARG, "config: balanced: classes cannot be counted without a labels file");
    if (options->shuffle_pairs && options->modalities != CAVMAE__MODALITIES_AV)
        return cavmae__fail(CAVMAE_E_ARG, "config: shuffle_pairs: a model of one modality has no pairs");
    if (options->shuffle_pairs && loader->count < 2)
        return cavmae__fail(CAVMAE_E_ARG, "config: shuffle_pairs: the manifest has no second entry");
    return CAVMAE_OK;
}

static cavmae_status create_orders(cavmae_loader *loader) {
    cavmae__source *source = &loader->source;
    const cavmae__options *options = &source->options;
    if (options->shuffle || options->balanced) CAVMAE__TRY(CAVMAE__NEW(source->context, &loader->order, loader->count));
    if (options->balanced)
        CAVMAE__TRY(cavmae__balance_create(source->context, source->manifest, source->labels, &loader->balance));
    if (!options->shuffle_pairs) return CAVMAE_OK;
    CAVMAE__TRY(CAVMAE__NEW(source->context, &source->pictures, loader->count));
    cavmae__order_pairs(source->pictures, (uint32_t)loader->count, (uint64_t)options->seed);
    return CAVMAE_OK;
}

static cavmae_status create_workers(cavmae_loader *loader) {
    cavmae__source *source = &loader->source;
    loader->worker_count = (int32_t)source->options.loader_threads;
    loader->workers = cavmae__alloc_zero(source->context, (size_t)loader->worker_count * sizeof *loader->workers);
    if (!loader->workers) return CAVMAE_E_NOMEM;
    for (int32_t i = 0; i < loader->worker_count; i++)
        CAVMAE__TRY(cavmae__reader_create(source, &loader->workers[i].reader));
    return CAVMAE_OK;
}

static void create_locks(cavmae_loader *loader) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->ready, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

cavmae_status cavmae_loader_create(const cavmae_config *config, const char *manifest, const char *labels,
                                   cavmae_loader **out) {
    cavmae_status status;
    cavmae__options options;
    CAVMAE__TRY(cavmae__config_options(config, &options));
    if (!manifest || !out)
        return cavmae__fail(CAVMAE_E_ARG, "cavmae_loader_create: %s is NULL", manifest ? "out" : "manifest");
    cavmae_context *context = cavmae__config_context(config);
    cavmae_loader *loader = cavmae__alloc_zero(context, sizeof *loader);
    if (!loader) return CAVMAE_E_NOMEM;
    create_locks(loader);
    cavmae__source *source = &loader->source;
    source->context = cavmae__context_ref(context);
    source->options = options;
    loader->capacity = options.batch;
    cavmae_world *world = cavmae__config_world(config);
    if (world) {
        loader->rank = cavmae_world_rank(world);
        loader->ranks = cavmae_world_size(world);
        loader->capacity = (options.batch + loader->ranks - 1) / loader->ranks;
    }
    if (labels) CAVMAE__TRY_OUT(cavmae__labels_open(context, labels, &source->labels));
    CAVMAE__TRY_OUT(cavmae__manifest_open(context, manifest, source->labels, options.modalities != CAVMAE__MODALITIES_V,
                                          &source->manifest));

    CAVMAE__TRY_OUT(cavmae__manifest_check(source->manifest, config));
    loader->count = cavmae__manifest_count(source->manifest);
    loader->label_count = cavmae__source_label_count(source);
    loader->image_size = cavmae__source_image_size(source);
    if (loader->image_size && options.frame == CAVMAE__FRAME_ALL) loader->frames = (int32_t)options.clip_frames;
    CAVMAE__TRY_OUT(check_data_options(loader));
    CAVMAE__TRY_OUT(create_orders(loader));
    CAVMAE__TRY_OUT(create_workers(loader));
    CAVMAE__TRY_OUT(create_slots(loader));
    CAVMAE__TRY_OUT(create_batches(loader));
    *out = loader;
    return CAVMAE_OK;
out:
    cavmae_loader_free(loader);
    return status;
}

static void free_slots(cavmae_loader *loader) {
    for (int64_t i = 0; loader->slots && i < loader->slot_count; i++) {
        cavmae__slot_drop_sound(loader, &loader->slots[i]);
        cavmae__free(loader->source.context, loader->slots[i].sample.image);
        cavmae__free(loader->source.context, loader->slots[i].sample.labels);
    }
    cavmae__free(loader->source.context, loader->slots);
}

static void free_batches(cavmae_loader *loader) {
    cavmae_context *context = loader->source.context;
    for (int64_t i = 0; loader->batches && i < loader->batch_count; i++) {
        cavmae__loader_batch *b = &loader->batches[i];
        cavmae__free(context, b->audio);
        cavmae__free(context, b->image);
        cavmae__free(context, b->labels);
        cavmae__free(context, b->audio_frames);
        cavmae__free(context, b->samples);
    }
    cavmae__free(context, loader->batches);
}

void cavmae_loader_free(cavmae_loader *loader) {
    if (!loader) return;
    cavmae_context *context = loader->source.context;
    cavmae__loader_stop(loader);
    free_slots(loader);
    free_batches(loader);
    for (int32_t i = 0; loader->workers && i < loader->worker_count; i++)
        cavmae__reader_free(&loader->source, &loader->workers[i].reader);
    cavmae__free(context, loader->workers);
    cavmae__free(context, loader->item.memory);
    cavmae__free(context, loader->order);
    cavmae__balance_free(loader->balance);
    cavmae__free(context, loader->source.pictures);
    cavmae__manifest_free(loader->source.manifest);
    cavmae__labels_free(loader->source.labels);
    pthread_cond_destroy(&loader->ready);
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->lock);
    cavmae__free(context, loader);
    cavmae__context_unref(context);
}

/* ---- Batches ---- */

static void hand_out(cavmae_loader *loader, const cavmae_batch **out) {
    const cavmae__loader_batch *b = cavmae__loader_batch_of(loader, loader->handed++);
    loader->state_epoch = b->next_epoch;
    loader->state_position = b->next_position;
    loader->state_broken = b->broken;
    loader->epoch = b->epoch;
    *out = b->end ? NULL : &b->batch;
}

static void wait_ready(cavmae_loader *loader) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += CANCEL_PERIOD;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&loader->ready, &loader->lock, &until);
}

cavmae_status cavmae_loader_next(cavmae_loader *loader, const cavmae_batch **out) {
    if (!loader || !out) return cavmae__fail(CAVMAE_E_ARG, "cavmae_loader_next: %s is NULL", loader ? "out" : "loader");
    CAVMAE__TRY(cavmae__check_cancel(loader->source.context));
    CAVMAE__TRY(cavmae__loader_start(loader));
    cavmae_status status = CAVMAE_OK;
    pthread_mutex_lock(&loader->lock);
    loader->released = loader->handed; /* the batch of the call before */
    if (cavmae__slot_of(loader, loader->placed)->state == CAVMAE__SLOT_REPORTED)
        cavmae__slot_of(loader, loader->placed)->state = CAVMAE__SLOT_AGAIN;
    pthread_cond_signal(&loader->work);
    while (status == CAVMAE_OK && loader->handed == loader->complete) {
        cavmae__slot *s = cavmae__slot_of(loader, loader->placed);
        if (s->state == CAVMAE__SLOT_FAILED) {
            status = cavmae__fail(s->status, "%s", s->error);
            s->state = CAVMAE__SLOT_REPORTED;
            break;
        }
        wait_ready(loader);
        pthread_mutex_unlock(&loader->lock);
        status = cavmae__check_cancel(loader->source.context);
        pthread_mutex_lock(&loader->lock);
    }
    if (status == CAVMAE_OK) hand_out(loader, out);
    pthread_mutex_unlock(&loader->lock);
    return status;
}

/* ---- Place ---- */

void cavmae__loader_state(const cavmae_loader *loader, int64_t *epoch, int64_t *position, int64_t *broken) {
    *epoch = loader->state_epoch;
    *position = loader->state_position;
    *broken = loader->state_broken;
}

cavmae_status cavmae__loader_check_state(const cavmae_loader *loader, int64_t epoch, int64_t position, int64_t broken) {
    if (epoch < 0 || epoch > INT32_MAX || position < 0 || position > loader->count || broken < 0)
        return cavmae__fail(CAVMAE_E_MISMATCH, "epoch %lld, entry %lld is no place of a manifest with %lld entries",
                            (long long)epoch, (long long)position, (long long)loader->count);
    return CAVMAE_OK;
}

cavmae_status cavmae__loader_set_state(cavmae_loader *loader, int64_t epoch, int64_t position, int64_t broken) {
    CAVMAE__TRY(cavmae__loader_check_state(loader, epoch, position, broken));
    cavmae__loader_stop(loader);
    for (int64_t i = 0; i < loader->slot_count; i++) loader->slots[i].state = CAVMAE__SLOT_EMPTY;
    loader->taken = loader->placed = 0;
    loader->complete = loader->handed = loader->released = 0;
    loader->rows = 0;
    loader->audio_used = 0;
    loader->take_epoch = loader->state_epoch = epoch;
    loader->take_position = loader->state_position = position;
    loader->take_row = 0;
    loader->broken = loader->state_broken = broken;
    loader->epoch_has_batch = position > 0;
    loader->epoch = position > 0 || epoch == 0
                        ? epoch
                        : epoch - 1; /* at the start of an epoch the last batch was the one before's */
    return CAVMAE_OK;
}

cavmae_status cavmae_loader_seek(cavmae_loader *loader, int64_t position) {
    if (!loader) return cavmae__fail(CAVMAE_E_ARG, "cavmae_loader_seek: loader is NULL");
    if (position < 0 || position > loader->count)
        return cavmae__fail(CAVMAE_E_ARG, "position %lld: the manifest has %lld entries", (long long)position,
                            (long long)loader->count);
    return cavmae__loader_set_state(loader, loader->state_epoch, position, loader->state_broken);
}

/* ---- Questions ---- */

int64_t cavmae_loader_count(const cavmae_loader *loader) { return loader ? loader->count : 0; }

int64_t cavmae_loader_batches(const cavmae_loader *loader) {
    if (!loader) return 0;
    int64_t batch = loader->source.options.batch, whole = loader->count / batch;
    return whole + (loader->count % batch && !loader->source.options.drop_last);
}

int64_t cavmae_loader_epoch(const cavmae_loader *loader) { return loader ? loader->epoch : 0; }

int64_t cavmae_loader_broken(const cavmae_loader *loader) { return loader ? loader->state_broken : 0; }

int32_t cavmae_loader_classes(const cavmae_loader *loader) { return loader ? (int32_t)loader->label_count : 0; }

const char *cavmae_loader_class_name(const cavmae_loader *loader, int32_t index) {
    return loader && loader->source.labels ? cavmae__labels_display_name(loader->source.labels, index) : NULL;
}

cavmae_status cavmae_loader_item_at(cavmae_loader *loader, int64_t index, cavmae_loader_item *out) {
    cavmae_loader_item record;
    if (!loader) return cavmae__fail(CAVMAE_E_ARG, "cavmae_loader_item_at: loader is NULL");
    cavmae__item *item = &loader->item;
    CAVMAE__TRY(cavmae__record_in(&record, sizeof record, out));
    if (index < 0 || index >= loader->count)
        return cavmae__fail(CAVMAE_E_ARG, "entry %lld: the manifest has 0 to %lld", (long long)index,
                            (long long)loader->count - 1);
    CAVMAE__TRY(cavmae__manifest_item(loader->source.manifest, index, item));
    int64_t frame = loader->source.options.frame;
    if (frame < 0) frame = loader->source.options.clip_frames / 2; /* stands for a random one too */
    record.id = item->id;
    record.audio_path = item->audio;
    record.image_path = item->frames ? cavmae__item_frame(item, frame) : item->video;
    record.labels = item->labels;
    record.label_weights = item->label_weights;
    record.label_count = item->label_count;
    return cavmae__record_out(out, &record, sizeof record);
}
