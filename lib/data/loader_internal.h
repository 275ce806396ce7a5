/* What a loader is made of, for loader.c, the caller's side, and read_ahead.c, the threads'. */
#ifndef CAVMAE_DATA_LOADER_INTERNAL_H
#define CAVMAE_DATA_LOADER_INTERNAL_H

#include <pthread.h>

#include "balance.h"
#include "loader.h"
#include "sample.h"

/* So many for each thread that one slow sample does not hold up the others. */
enum { CAVMAE__SLOTS_PER_THREAD = 4, CAVMAE__SLOT_ERROR_SIZE = 512 };

enum {
    CAVMAE__SLOT_EMPTY,    /* free, or in the making */
    CAVMAE__SLOT_READY,    /* with a sample, or the end of an epoch */
    CAVMAE__SLOT_BROKEN,   /* to be left out */
    CAVMAE__SLOT_FAILED,   /* ends the call that comes to it */
    CAVMAE__SLOT_REPORTED, /* has done so; the next call tries again */
    CAVMAE__SLOT_AGAIN
};

typedef struct cavmae__slot {
    int32_t state;
    cavmae_status status;
    char error[CAVMAE__SLOT_ERROR_SIZE];
    int64_t epoch, position; /* in the whole epoch's order */
    int64_t index;           /* in the manifest, or CAVMAE__SLOT_END or _NO_CLIP */
    int64_t read;            /* the entry that was read: in a world another one where `index` is broken */
    int64_t next_position;   /* of the order, where a batch that ends here is left */
    int32_t world_count;     /* clips of its batch over all ranks; 0: no world */
    int32_t last;            /* of a world: the share's last one */
    cavmae__sample sample;
} cavmae__slot;

/* Instead of a slot's index. */
enum { CAVMAE__SLOT_END = -1 /* of the epoch */, CAVMAE__SLOT_NO_CLIP = -2 /* this rank's share has none */ };

typedef struct cavmae__loader_batch {
    cavmae_batch batch;
    int end; /* no batch: the epoch's end */
    float *audio, *image, *labels;
    int32_t *audio_frames;
    int64_t *samples;
    size_t audio_capacity;
    int64_t epoch;                             /* of the batch */
    int64_t next_epoch, next_position, broken; /* the place after it */
} cavmae__loader_batch;

typedef struct cavmae__loader_worker {
    cavmae_loader *loader;
    pthread_t thread;
    cavmae__reader reader;
} cavmae__loader_worker;

struct cavmae_loader {
    cavmae__source source;
    int64_t count;                  /* of entries in the manifest */
    size_t image_size, label_count; /* floats of a sample */
    int32_t frames;                 /* pictures of a sample; 0: one, or none */
    int64_t capacity;               /* clips that a batch of this loader may have */
    int32_t rank, ranks;            /* of its world; ranks 0: alone */
    uint32_t *order;                /* of the epoch whose samples are being taken; NULL: as in the manifest */
    cavmae__balance *balance;       /* what draws the order; NULL: it is a shuffle */

    pthread_mutex_t lock; /* guards all below, up to the caller's own */
    pthread_cond_t work;  /* for the threads: a slot or a batch became free */
    pthread_cond_t ready; /* for the caller: a batch is complete, or a sample failed */
    int stop;

    cavmae__slot *slots;
    int64_t slot_count;
    int64_t taken, placed;             /* numbers of samples */
    int64_t take_epoch, take_position; /* of the next sample to take; in a world of its whole batch's first */
    int64_t take_row;                  /* in a world: samples taken of this rank's share of that batch */

    cavmae__loader_batch *batches;
    int64_t batch_count;
    int64_t complete, handed, released; /* numbers of batches: made, given to the caller, given back */
    int placing;                        /* a thread places samples */
    int32_t rows;                       /* of the batch in the making */
    size_t audio_used;                  /* floats of its sound */
    int64_t broken;
    int epoch_has_batch;

    /* The caller's own. */
    cavmae__loader_worker *workers;
    int32_t worker_count, started;
    int64_t epoch; /* of the last batch */
    int64_t state_epoch, state_position, state_broken;
    cavmae__item item; /* of cavmae_loader_item_at */
};

static inline cavmae__slot *cavmae__slot_of(cavmae_loader *loader, int64_t number) {
    return &loader->slots[number % loader->slot_count];
}

static inline cavmae__loader_batch *cavmae__loader_batch_of(cavmae_loader *loader, int64_t number) {
    return &loader->batches[number % loader->batch_count];
}

/* Frees the sound of a slot's sample. */
void cavmae__slot_drop_sound(cavmae_loader *loader, cavmae__slot *slot);

/* Starts the threads where they do not run yet; those that start are enough, if there is one. */
cavmae_status cavmae__loader_start(cavmae_loader *loader);

/* Ends them; what they were making is lost. */
void cavmae__loader_stop(cavmae_loader *loader);

#endif
