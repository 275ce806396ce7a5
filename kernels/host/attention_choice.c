#include "attention_choice.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cudnn_attention.h"
#include "repeat.h"
#include "tuning_file.h"

enum { TIMED = 10 };

typedef struct choice {
    struct choice *next;
    int32_t by;
    char name[CAVMAE__TUNING_KEY];
} choice;

struct cavmae__attention_choices {
    pthread_mutex_t lock; /* of all that follows; held while a choice is measured, as a second one would disturb it */
    cavmae__tuning tuning;
    choice *made;
};

/* ---- Names: everything that the faster one may depend on ---- */

/* Letters and digits stay. */
static size_t add_name(char *out, size_t length, size_t size, const char *name) {
    for (; *name && length + 1 < size; name++) {
        const char c = *name;
        const int keep = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.';
        out[length++] = keep ? c : '-';
    }
    out[length] = 0;
    return length;
}

/* 0: cuDNN could not compute it anyway. */
static int name_of(cavmae__backend *backend, const cavmae__attention *op, int32_t backward, char *out, size_t size) {
    const cavmae__cuda *cuda = cavmae__cuda_of(backend);
    const char *model = strchr(cuda->name, '(');
    char library[64];
    cavmae__attention_run run[CAVMAE__ATTENTION_RUNS];
    const int32_t runs = cavmae__attention_runs(op, run);
    if (runs <= 0) return 0;
    cavmae__cudnn_describe(backend, library, sizeof library);
    size_t length = add_name(out, 0, size, "attention.");
    length = add_name(out, length, size, model ? model : cuda->name);
    length = add_name(out, length, size, library);
    length += (size_t)snprintf(out + length, size - length, "/%s/%dx%d",
                               backward  ? "back"
                               : op->lse ? "train"
                                         : "infer",
                               op->heads, op->head_dim);
    for (int32_t i = 0; i < runs && length < size; i++)
        length += (size_t)snprintf(out + length, size - length, "/%" PRId64 "x%" PRId64, run[i].count, run[i].length);
    return length < size;
}

/* ---- Measuring ---- */

static cavmae_status time_own(cavmae__backend *backend, const cavmae__attention *op,
                              cavmae_status (*own)(cavmae__backend *, const cavmae__attention *), cudaEvent_t begin,
                              cudaEvent_t end, float *out) {
    cudaStream_t stream = cavmae__cuda_stream(backend);
    CAVMAE__TRY(own(backend, op));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventRecord(begin, stream), "timing"));
    for (int32_t i = 0; i < TIMED; i++) CAVMAE__TRY(own(backend, op));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventRecord(end, stream), "timing"));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventSynchronize(end), "attention"));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventElapsedTime(out, begin, end), "timing"));
    *out /= TIMED;
    return CAVMAE_OK;
}

/* The faster of the two, and cuDNN's plans. What cuDNN cannot do, whatever the reason, is ours: *measured = 0, as it may be
 * able to another time. */
static cavmae_status measure(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                             cavmae_status (*own)(cavmae__backend *, const cavmae__attention *), int32_t *by,
                             int32_t *plans, int *measured) {
    cudaEvent_t begin = NULL, end = NULL;
    float ours = 0, theirs = 0;
    *by = CAVMAE__ATTENTION_OWN;
    *measured = 0;
    if (cavmae__cudnn_measure_plans(backend, op, backward, plans, &theirs) != CAVMAE_OK) return CAVMAE_OK;
    *measured = 1;
    cavmae_status status = cavmae__cuda_check(backend, cudaEventCreate(&begin), "timing");
    if (status == CAVMAE_OK) status = cavmae__cuda_check(backend, cudaEventCreate(&end), "timing");
    if (status == CAVMAE_OK) status = time_own(backend, op, own, begin, end, &ours);
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    if (status == CAVMAE_OK && theirs < ours) *by = CAVMAE__ATTENTION_CUDNN;
    return status;
}

/* ---- Choosing ---- */

static cavmae_status remember(cavmae__cuda *cuda, const char *name, int32_t by) {
    choice *made = cuda->library->alloc(cuda->base.context, sizeof *made);
    if (!made) return CAVMAE_E_NOMEM;
    made->next = cuda->attention_choices->made;
    made->by = by;
    memcpy(made->name, name, strlen(name) + 1);
    cuda->attention_choices->made = made;
    return CAVMAE_OK;
}

static cavmae_status choose(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                            cavmae_status (*own)(cavmae__backend *, const cavmae__attention *), const char *name,
                            int32_t *by) {
    cavmae__cuda *cuda = cavmae__cuda_of(backend);
    cavmae__attention_choices *choices = cuda->attention_choices;
    for (const choice *known = choices->made; known; known = known->next)
        if (strcmp(known->name, name) == 0) {
            *by = known->by;
            return CAVMAE_OK;
        }
    *by = CAVMAE__ATTENTION_OWN;
    if (cavmae__cuda_recording(cuda)) return CAVMAE_OK;
    const uint64_t *word = cavmae__tuning_find(&choices->tuning, name);
    if (!word) {
        int32_t plans = 0;
        int measured;
        CAVMAE__TRY(measure(backend, op, backward, own, by, &plans, &measured));
        const uint64_t words[CAVMAE__TUNING_WORDS] = {(uint64_t)*by, (uint64_t)plans};
        if (measured) CAVMAE__TRY(cavmae__tuning_put(&choices->tuning, name, words));
    } else if (word[0] == CAVMAE__ATTENTION_CUDNN && word[1] <= INT32_MAX &&
               cavmae__cudnn_set_plans(backend, op, backward, (int32_t)word[1]) == CAVMAE_OK) {
        *by = CAVMAE__ATTENTION_CUDNN;
    }
    return remember(cuda, name, *by);
}

cavmae_status cavmae__attention_choose(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                       cavmae_status (*own)(cavmae__backend *, const cavmae__attention *),
                                       int32_t *by) {
    cavmae__attention_choices *choices = cavmae__cuda_of(backend)->attention_choices;
    char name[CAVMAE__TUNING_KEY];
    *by = op->dtype == CAVMAE_BFLOAT16 && op->by == CAVMAE__ATTENTION_CUDNN ? CAVMAE__ATTENTION_CUDNN
                                                                            : CAVMAE__ATTENTION_OWN;
    if (op->dtype != CAVMAE_BFLOAT16 || op->by != CAVMAE__ATTENTION_AUTO || !choices->tuning.path) return CAVMAE_OK;
    if (!name_of(backend, op, backward, name, sizeof name)) return CAVMAE_OK;
    pthread_mutex_lock(&choices->lock);
    const cavmae_status status = choose(backend, op, backward, own, name, by);
    pthread_mutex_unlock(&choices->lock);
    return status;
}

void cavmae__attention_describe(cavmae__cuda *cuda, char *out, size_t size) {
    cavmae__attention_choices *choices = cuda->attention_choices;
    pthread_mutex_lock(&choices->lock);
    size_t length = (size_t)snprintf(out, size, "attention: own unless cudnn is asked for%s",
                                     choices->tuning.path ? " or was faster" : "");
    for (const choice *c = choices->made; c && length < size; c = c->next) {
        const char *shape = strchr(c->name, '/'); /* device and library come before it */
        length += (size_t)snprintf(out + length, size - length, "\n%s %s", shape ? shape + 1 : c->name,
                                   c->by == CAVMAE__ATTENTION_CUDNN ? "cudnn" : "own");
    }
    pthread_mutex_unlock(&choices->lock);
}

/* ---- Life ---- */

cavmae_status cavmae__attention_choices_open(cavmae__cuda *cuda) {
    cavmae__attention_choices *choices = cuda->library->alloc(cuda->base.context, sizeof *choices);
    if (!choices) return CAVMAE_E_NOMEM;
    memset(choices, 0, sizeof *choices);
    pthread_mutex_init(&choices->lock, NULL);
    cuda->attention_choices = choices;
    return cavmae__tuning_open(&choices->tuning, cuda->library, cuda->base.context);
}

void cavmae__attention_choices_close(cavmae__cuda *cuda) {
    cavmae__attention_choices *choices = cuda->attention_choices;
    if (!choices) return;
    for (choice *c = choices->made, *next; c; c = next) {
        next = c->next;
        cuda->library->free(cuda->base.context, c);
    }
    cavmae__tuning_close(&choices->tuning);
    pthread_mutex_destroy(&choices->lock);
    cuda->library->free(cuda->base.context, choices);
    cuda->attention_choices = NULL;
}
