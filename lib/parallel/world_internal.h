/* What a world is made of. One lock guards what the threads share: the caller's, which begins collectives and waits for
 * them; the queue thread, which does them one after another on hosts (world_queue.c); and the watch thread, which ends
 * what takes too long (world_watch.c). A world of one has no carrier, and its collectives are copies. */
#ifndef CAVMAE_PARALLEL_WORLD_INTERNAL_H
#define CAVMAE_PARALLEL_WORLD_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "world.h"

enum {
    CAVMAE__WORLD_QUEUE = 64,       /* collectives that may be begun before the oldest is done */
    CAVMAE__WORLD_TEXT = 184,       /* bytes of a collective's description */
    CAVMAE__WORLD_SENTENCE = 512,   /* bytes of an error */
    CAVMAE__WORLD_FAILURE = -1,     /* kind of what is queued: no collective, but "this rank failed" */
    CAVMAE__WORLD_DEVICE_RING = 256 /* collectives of a device whose descriptions are kept */
};

/* What each rank says before a collective: see agreement.c. */
typedef struct cavmae__message {
    uint64_t steps;
    char text[CAVMAE__WORLD_TEXT]; /* zeros to its end */
} cavmae__message;

typedef struct cavmae__world_item {
    cavmae__collective collective;
    uint64_t step;
    char text[CAVMAE__WORLD_TEXT];
} cavmae__world_item;

/* How far a rank has come, for the others to read when it is late. Collectives are numbered from 1. */
typedef struct cavmae__note {
    int64_t begun, ended;
    char begun_text[CAVMAE__WORLD_TEXT], ended_text[CAVMAE__WORLD_TEXT];
    char failure[CAVMAE__WORLD_TEXT]; /* what the rank said with cavmae_world_fail, or "" */
} cavmae__note;

/* Notes of the ranks of one process. */
typedef struct cavmae__notes {
    pthread_mutex_t lock;
    cavmae__note *rank; /* [size] */
} cavmae__notes;

struct cavmae_world {
    atomic_int references;
    cavmae_context *context;
    int32_t rank, size;
    double timeout;
    const char *name;

    cavmae_collectives host; /* of a world of hosts */
    int32_t close_host;      /* host.close is ours to call: it is the caller's where the world cannot be made */
    int32_t on_device;
    cavmae__backend *backend; /* on a device */
    cavmae__carrier *device;  /* of a world of GPUs; NULL where it is of one */

    pthread_mutex_t lock;
    pthread_cond_t work, idle, watch; /* of the queue thread; of whoever waits for it; of the watch thread */
    pthread_t queue_thread, watch_thread;
    int32_t queue_started, queue_ended, watch_started, watch_ended;
    int32_t stop, stop_watch;

    /* Runs first in the queue thread, and fills in host, rank and size. */
    cavmae_status (*open)(cavmae_world *world, void *arg, char *error, size_t error_size);
    void *open_arg;
    int32_t opened;
    cavmae_status open_status;
    char open_error[CAVMAE__WORLD_SENTENCE];

    cavmae__world_item items[CAVMAE__WORLD_QUEUE];
    int64_t put, done; /* since the beginning */
    int32_t busy;      /* a collective is under way, since begun_at */
    double begun_at, patience;

    uint64_t step, failed_through; /* steps up to this one fail with `failure` */
    char failure[CAVMAE__WORLD_SENTENCE];
    int32_t breaking, broken; /* to be broken by the watch thread, at broke_at; is broken */
    double broke_at;
    char broken_text[CAVMAE__WORLD_SENTENCE];

    uint64_t common_step;      /* the queue thread's: agreement.c */
    cavmae__message *messages; /* [size] */

    /* A device's: what was begun, and what the last poll that saw a change saw. */
    int64_t begun, ended;
    double ended_at;
    struct {
        double patience;
        char text[CAVMAE__WORLD_TEXT];
    } device_ring[CAVMAE__WORLD_DEVICE_RING];
    void *device_text, *device_texts; /* cavmae__message [1], [size] in the backend's memory */
    int32_t texts_gathered;           /* device_texts is to be compared */

    cavmae__note note;    /* this rank's */
    cavmae__notes *table; /* where it is posted, or NULL */
    char *watch_dir;      /* or NULL */
    char nonce[17];       /* of this world's files there; "" until it is known */
    double beat_at;       /* when the file was last written */
};

typedef struct cavmae__world_setup {
    const char *name;
    int32_t rank, size;
    double timeout;                 /* seconds */
    const char *watch_dir;          /* or NULL */
    const cavmae_collectives *host; /* NULL where `open` brings it, or on a device */
    cavmae_status (*open)(cavmae_world *world, void *arg, char *error, size_t error_size);
    void *open_arg;
    int32_t on_device;
    cavmae__carrier *device; /* the world's from here on, on failure too */
    cavmae__notes *table;
    int32_t one_thread; /* the ranks are made by one thread: nothing is exchanged */
} cavmae__world_setup;

/* The caller's options, checked, with the defaults filled in; with `ranked`, rank and size too. NULL: defaults. */
cavmae_status cavmae__world_options_in(const cavmae_world_options *given, int ranked, cavmae_world_options *options);
cavmae_status cavmae__collectives_in(const cavmae_collectives *given, cavmae_collectives *collectives);
cavmae_status cavmae__world_make(cavmae_context *context, const cavmae__world_setup *setup, cavmae_world **out);

/* ---- world_queue.c ---- */

void *cavmae__world_queue_main(void *world);
/* Waits for room, or, with `all`, until everything that was begun is done; or the world is broken. Under the lock. */
void cavmae__world_await(cavmae_world *world, int all);
cavmae_status cavmae__world_enqueue(cavmae_world *world, const cavmae__collective *collective, const char *text);
/* Of this step so far: OK, or PEER with its sentence. */
cavmae_status cavmae__world_result(cavmae_world *world);

/* ---- agreement.c ---- */

enum { CAVMAE__AGREED, CAVMAE__REFUSED, CAVMAE__CARRIER_FAILED };
void cavmae__world_text(const cavmae__collective *collective, char text[CAVMAE__WORLD_TEXT]);
/* In the queue thread. sentence: of a refusal, or the carrier's. REFUSED: steps up to *failed_through fail. */
int cavmae__world_agree(cavmae_world *world, const cavmae__world_item *item, uint64_t *failed_through,
                        char sentence[CAVMAE__WORLD_SENTENCE]);
/* Whether the ranks' messages are the same; else a sentence of who differs. The messages become terminated texts. */
int cavmae__messages_agree(cavmae__message *messages, int32_t size, char sentence[CAVMAE__WORLD_SENTENCE]);

/* ---- world_device.c ---- */

cavmae_status cavmae__world_device_open(cavmae_world *world);
void cavmae__world_device_close(cavmae_world *world);
cavmae_status cavmae__world_device_begin(cavmae_world *world, const cavmae__collective *collective);
cavmae_status cavmae__world_device_gather_texts(cavmae_world *world, const char *text);
cavmae_status cavmae__world_device_compare(cavmae_world *world);

/* ---- world_watch.c ---- */

double cavmae__now(void);                                                               /* seconds, monotonic */
void cavmae__wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, double when); /* of a monotonic condition */
void *cavmae__world_watch_main(void *world);
/* Has the watch thread end all that is under way, for good. The first sentence counts. Under the lock. */
void cavmae__world_break(cavmae_world *world, const char *sentence);

enum { CAVMAE__WORLD_GRACE = 5 }; /* seconds that a call may take to return after it was aborted */

/* ---- world_notes.c ---- */

cavmae_status cavmae__notes_create(cavmae_context *context, int32_t size, cavmae__notes *notes);
void cavmae__notes_destroy(cavmae_context *context, cavmae__notes *notes);
/* What this rank begins and ends. Under the lock. */
void cavmae__note_begun(cavmae_world *world, int64_t number, const char *text);
void cavmae__note_ended(cavmae_world *world, int64_t number, const char *text);
void cavmae__note_failure(cavmae_world *world, const char *sentence);
/* Writes this rank's file. Without the lock. */
cavmae_status cavmae__note_write(cavmae_world *world);
void cavmae__note_remove(cavmae_world *world);
double cavmae__note_period(const cavmae_world *world); /* seconds from write to write */
/* Appends which ranks are behind at collective `number`, and how. late: after a timeout, when those that have not begun
 * it are known to be behind even if what is read is a few seconds old. Without the lock. */
void cavmae__notes_tell(cavmae_world *world, int64_t number, const char *text, int late,
                        char sentence[CAVMAE__WORLD_SENTENCE]);
/* A file's bytes; 0 where it is no note. */
int cavmae__note_parse(const char *bytes, size_t size, cavmae__note *note);

#endif
