#include "cudnn_attention.h"

#include <stdio.h>
#include <string.h>

#include "cudnn_attention_graph.h"

int32_t cavmae__attention_runs(const cavmae__attention *op, cavmae__attention_run run[CAVMAE__ATTENTION_RUNS]) {
    const int32_t *start = op->segments.start_host;
    int32_t runs = 0;
    for (int32_t i = 0; i < op->segments.count; i++) {
        const int64_t length = start[i + 1] - start[i];
        if (runs > 0 && run[runs - 1].length == length) {
            run[runs - 1].count++;
            continue;
        }
        if (runs == CAVMAE__ATTENTION_RUNS) return -1;
        run[runs++] = (cavmae__attention_run){.count = 1, .length = length, .first = start[i]};
    }
    return runs;
}

#ifdef CAVMAE__CUDNN

#include "attention.h"
#include "cuda_memory.h"
#include "repeat.h"

enum { RUNS = CAVMAE__ATTENTION_RUNS, LARGEST_HEAD = 128, TIMED = 10, UNIFIED_UNTIL = 92100 };

/* A plan's workspace stays where it is until the backend closes: recorded steps know its address. Plans share the latest
 * one if it is large enough; operations run one after another. */
typedef struct workspace {
    struct workspace *before;
    void *memory;
    int64_t bytes;
} workspace;

typedef struct entry {
    struct entry *next;
    cavmae__cudnn_shape shape;
    cavmae__cudnn_graph graph;
    int32_t chosen;  /* of graph's plans */
    int32_t settled; /* chosen stays: several operations may have the shape, and each is to keep its bits */
    void *memory;    /* its workspace */
} entry;

struct cavmae__cudnn {
    pthread_mutex_t
        lock;       /* of all that follows; held while a call is started, as the handle has one stream at a time */
    int32_t looked; /* for the library, with `status` */
    cavmae_status status;
    char why[400];
    cavmae__cudnn_library library;
    cudnnHandle_t handle;
    entry *entries;
    workspace *latest;
};

/* ---- What cuDNN can do ---- */

static cavmae_status find_runs(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                               cavmae__attention_run run[RUNS], int32_t *count) {
    const cavmae__cuda *cuda = cavmae__cuda_of(backend);
    if (op->dtype != CAVMAE_BFLOAT16)
        return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_UNSUPPORTED, "cuDNN's attention is bfloat16's; this is float32");
    if (op->head_dim % 8 != 0 || op->head_dim > LARGEST_HEAD)
        return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_UNSUPPORTED,
                                 "cuDNN's attention takes heads whose width is a multiple of 8, up to %d; not %d",
                                 LARGEST_HEAD, op->head_dim);
    /* On sm_100 cuDNN repeats its bits only with an engine that has to be named for each version. */
    if (backward && cuda->architecture >= 100 && cuda->architecture < 120)
        return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_UNSUPPORTED,
                                 "cuDNN's attention does not repeat its bits going back on sm_%d", cuda->architecture);
    *count = cavmae__attention_runs(op, run);
    if (*count < 0)
        return CAVMAE__CUDA_FAIL(
            backend, CAVMAE_E_UNSUPPORTED,
            "cuDNN's attention takes segments of one length, or %d runs of such; these %d segments "
            "of up to %d rows are more",
            RUNS, op->segments.count, op->segments.longest);
    for (int32_t i = 0; backward && i < *count; i++)
        if (run[i].length == 1)
            return CAVMAE__CUDA_FAIL(
                backend, CAVMAE_E_UNSUPPORTED,
                "cuDNN's attention does not go back over segments of 1 row, as that at row %lld is",
                (long long)run[i].first);
    return CAVMAE_OK;
}

static cavmae__cudnn_shape shape_of(const cavmae__attention *op, int32_t backward, const cavmae__attention_run *run) {
    return (cavmae__cudnn_shape){.count = run->count,
                                 .length = run->length,
                                 .heads = op->heads,
                                 .head_dim = op->head_dim,
                                 .backward = backward,
                                 .stats = backward || op->lse};
}

static void look(cavmae__cudnn *cudnn) {
    if (!cudnn->looked) cudnn->status = cavmae__cudnn_library_open(&cudnn->library, cudnn->why, sizeof cudnn->why);
    cudnn->looked = 1;
}

static cavmae_status ready(cavmae__backend *backend) {
    cavmae__cudnn *cudnn = cavmae__cuda_of(backend)->cudnn;
    look(cudnn);
    if (cudnn->status == CAVMAE_OK && !cudnn->handle) {
        const cudnnStatus_t status = cudnn->library.Create(&cudnn->handle);
        if (status != CUDNN_STATUS_SUCCESS) {
            cudnn->handle = NULL;
            return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_BACKEND, "%s: cuDNN gives no handle: %s",
                                     cavmae__cuda_of(backend)->name, cudnn->library.GetErrorString(status));
        }
    }
    return cudnn->status == CAVMAE_OK ? CAVMAE_OK : CAVMAE__CUDA_FAIL(backend, cudnn->status, "%s", cudnn->why);
}

/* ---- Plans ---- */

static int same(const cavmae__cudnn_shape *a, const cavmae__cudnn_shape *b) {
    return a->count == b->count && a->length == b->length && a->heads == b->heads && a->head_dim == b->head_dim &&
           a->backward == b->backward && a->stats == b->stats;
}

static cavmae_status take_workspace(cavmae__cuda *cuda, int64_t bytes, void **out) {
    cavmae__cudnn *cudnn = cuda->cudnn;
    if (!cudnn->latest || cudnn->latest->bytes < bytes) {
        workspace *made = cuda->library->alloc(cuda->base.context, sizeof *made);
        if (!made) return CAVMAE_E_NOMEM;
        *made = (workspace){.before = cudnn->latest, .bytes = bytes};
        const cavmae_status status = cavmae__cuda_alloc(cuda, (size_t)bytes, &made->memory);
        if (status != CAVMAE_OK) {
            cuda->library->free(cuda->base.context, made);
            return status;
        }
        cudnn->latest = made;
    }
    *out = cudnn->latest->memory;
    return CAVMAE_OK;
}

static cavmae_status build(cavmae__cuda *cuda, entry *made) {
    cavmae__cudnn *cudnn = cuda->cudnn;
    const cavmae__cudnn_shape *s = &made->shape;
    cavmae_status status = cavmae__cudnn_attention_plan(&made->graph, &cudnn->library, cudnn->handle, NULL, s,
                                                        cudnn->library.version >= UNIFIED_UNTIL);
    if (status != CAVMAE_OK)
        return cuda->library->fail(status, "%s: attention%s of %lld segments of %lld rows, %lld heads of %lld: %s",
                                   cuda->name, s->backward ? " going back" : "", (long long)s->count,
                                   (long long)s->length, (long long)s->heads, (long long)s->head_dim, made->graph.why);
    return take_workspace(cuda, cavmae__cudnn_attention_bytes(&made->graph, s), &made->memory);
}

/* The shape's entry, made where it is new. The lock is held. */
static cavmae_status find(cavmae__cuda *cuda, const cavmae__cudnn_shape *shape, entry **out) {
    cavmae__cudnn *cudnn = cuda->cudnn;
    for (*out = cudnn->entries; *out; *out = (*out)->next)
        if (same(&(*out)->shape, shape)) return CAVMAE_OK;
    if (cavmae__cuda_recording(cuda))
        return cuda->library->fail(
            CAVMAE_E_STATE,
            "%s: cuDNN's plan for attention over segments of %lld rows is not built, and cannot be "
            "while a step is recorded",
            cuda->name, (long long)shape->length);
    CAVMAE__TRY(ready(&cuda->base));
    entry *made = cuda->library->alloc(cuda->base.context, sizeof *made);
    if (!made) return CAVMAE_E_NOMEM;
    memset(made, 0, sizeof *made);
    made->shape = *shape;
    const cavmae_status status = build(cuda, made);
    if (status != CAVMAE_OK) {
        cavmae__cudnn_graph_end(&made->graph);
        cuda->library->free(cuda->base.context, made);
        return status;
    }
    made->next = cudnn->entries;
    cudnn->entries = made;
    *out = made;
    return CAVMAE_OK;
}

/* The entries of op's runs, all of them before any is started. The lock is held. */
static cavmae_status prepare(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                             cavmae__attention_run run[RUNS], entry *entries[RUNS], int32_t *count) {
    CAVMAE__TRY(find_runs(backend, op, backward, run, count));
    for (int32_t i = 0; i < *count; i++) {
        const cavmae__cudnn_shape shape = shape_of(op, backward, &run[i]);
        CAVMAE__TRY(find(cavmae__cuda_of(backend), &shape, &entries[i]));
    }
    return CAVMAE_OK;
}

/* ---- Running ---- */

static cavmae_status start(cavmae__backend *backend, const entry *e, int32_t plan, const cavmae__attention *op,
                           int64_t first) {
    cavmae__cuda *cuda = cavmae__cuda_of(backend);
    cavmae__cudnn *cudnn = cuda->cudnn;
    if (e->shape.backward)
        CAVMAE__TRY(cavmae__cuda_lse_by_head(backend, op->lse + first * op->heads, e->shape.count, e->shape.length,
                                             op->heads, cavmae__cudnn_attention_lse(&e->shape, e->memory)));
    cudnnStatus_t status = cudnn->library.SetStream(cudnn->handle, cavmae__cuda_stream(backend));
    if (status == CUDNN_STATUS_SUCCESS)
        status = cavmae__cudnn_attention_run(&e->graph, plan, cudnn->handle, &e->shape, op, first, e->memory);
    if (status == CUDNN_STATUS_SUCCESS) return CAVMAE_OK;
    char detail[240] = "";
    cudnn->library.GetLastErrorString(detail, sizeof detail);
    return cuda->library->fail(CAVMAE_E_BACKEND, "%s: cuDNN's attention over segments of %lld rows: %s; %s", cuda->name,
                               (long long)e->shape.length, cudnn->library.GetErrorString(status), detail);
}

static cavmae_status compute(cavmae__backend *backend, const cavmae__attention *op, int32_t backward) {
    cavmae__attention_run run[RUNS];
    entry *entries[RUNS];
    int32_t count = 0;
    cavmae_status status = prepare(backend, op, backward, run, entries, &count);
    for (int32_t i = 0; status == CAVMAE_OK && i < count; i++)
        status = start(backend, entries[i], entries[i]->chosen, op, run[i].first);
    return status;
}

/* Milliseconds of one plan, warm. */
static cavmae_status time_plan(cavmae__backend *backend, const entry *e, int32_t plan, const cavmae__attention *op,
                               int64_t first, cudaEvent_t begin, cudaEvent_t end, float *out) {
    cudaStream_t stream = cavmae__cuda_stream(backend);
    CAVMAE__TRY(start(backend, e, plan, op, first));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventRecord(begin, stream), "timing"));
    for (int32_t i = 0; i < TIMED; i++) CAVMAE__TRY(start(backend, e, plan, op, first));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventRecord(end, stream), "timing"));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaEventSynchronize(end), "cuDNN's attention"));
    return cavmae__cuda_check(backend, cudaEventElapsedTime(out, begin, end), "timing");
}

static cavmae_status measure(cavmae__backend *backend, const cavmae__attention *op, int32_t backward, int32_t *plans,
                             float *milliseconds) {
    cavmae__attention_run run[RUNS];
    entry *entries[RUNS];
    int32_t count = 0;
    cudaEvent_t begin = NULL, end = NULL;
    CAVMAE__TRY(prepare(backend, op, backward, run, entries, &count));
    cavmae_status status = cavmae__cuda_check(backend, cudaEventCreate(&begin), "timing");
    if (status == CAVMAE_OK) status = cavmae__cuda_check(backend, cudaEventCreate(&end), "timing");
    *plans = 0;
    *milliseconds = 0;
    for (int32_t i = 0; status == CAVMAE_OK && i < count; i++) {
        entry *e = entries[i];
        float best = 0, time = 0;
        for (int32_t plan = 0; status == CAVMAE_OK && plan < e->graph.plans; plan++) {
            if (e->settled && plan != e->chosen) continue;
            status = time_plan(backend, e, plan, op, run[i].first, begin, end, &time);
            if (status != CAVMAE_OK || (best > 0 && time >= best)) continue;
            best = time;
            e->chosen = plan;
        }
        e->settled = status == CAVMAE_OK;
        *plans = *plans * 10 + e->chosen;
        *milliseconds += best / TIMED;
    }
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    return status;
}

static cavmae_status set_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward, int32_t plans) {
    cavmae__attention_run run[RUNS];
    entry *entries[RUNS];
    int32_t count = 0, rest = plans;
    CAVMAE__TRY(prepare(backend, op, backward, run, entries, &count));
    for (int32_t i = count - 1; i >= 0; i--, rest /= 10)
        if (rest < 0 || rest % 10 >= entries[i]->graph.plans) return CAVMAE_OK;
    if (rest != 0) return CAVMAE_OK;
    for (int32_t i = count - 1; i >= 0; i--, plans /= 10) {
        if (!entries[i]->settled) entries[i]->chosen = plans % 10;
        entries[i]->settled = 1;
    }
    return CAVMAE_OK;
}

/* ---- What others call ---- */

#define LOCKED(backend, call)                                                                                          \
    pthread_mutex_t *const lock = &cavmae__cuda_of(backend)->cudnn->lock;                                              \
    pthread_mutex_lock(lock);                                                                                          \
    const cavmae_status status = (call);                                                                               \
    pthread_mutex_unlock(lock);                                                                                        \
    return status

cavmae_status cavmae__cudnn_can(cavmae__backend *backend, const cavmae__attention *op, int32_t backward) {
    cavmae__attention_run run[RUNS];
    entry *entries[RUNS];
    int32_t count;
    LOCKED(backend, prepare(backend, op, backward, run, entries, &count));
}

cavmae_status cavmae__cudnn_attention(cavmae__backend *backend, const cavmae__attention *op) {
    LOCKED(backend, compute(backend, op, 0));
}

cavmae_status cavmae__cudnn_attention_grad(cavmae__backend *backend, const cavmae__attention *op) {
    LOCKED(backend, compute(backend, op, 1));
}

cavmae_status cavmae__cudnn_measure_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                          int32_t *plans, float *milliseconds) {
    LOCKED(backend, measure(backend, op, backward, plans, milliseconds));
}

cavmae_status cavmae__cudnn_set_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                      int32_t plans) {
    LOCKED(backend, set_plans(backend, op, backward, plans));
}

void cavmae__cudnn_describe(cavmae__backend *backend, char *text, size_t size) {
    cavmae__cudnn *cudnn = cavmae__cuda_of(backend)->cudnn;
    pthread_mutex_lock(&cudnn->lock);
    look(cudnn);
    const int32_t version = cudnn->library.version;
    if (cudnn->status == CAVMAE_OK)
        snprintf(text, size, "cuDNN %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    else
        snprintf(text, size, "no cuDNN: %s", cudnn->why);
    pthread_mutex_unlock(&cudnn->lock);
}

/* ---- Life ---- */

cavmae_status cavmae__cudnn_open(cavmae__cuda *cuda) {
    cavmae__cudnn *cudnn = cuda->library->alloc(cuda->base.context, sizeof *cudnn);
    if (!cudnn) return CAVMAE_E_NOMEM;
    memset(cudnn, 0, sizeof *cudnn);
    pthread_mutex_init(&cudnn->lock, NULL);
    cuda->cudnn = cudnn;
    return CAVMAE_OK;
}

void cavmae__cudnn_close(cavmae__cuda *cuda) {
    cavmae__cudnn *cudnn = cuda->cudnn;
    if (!cudnn) return;
    for (entry *e = cudnn->entries, *next; e; e = next) {
        next = e->next;
        cavmae__cudnn_graph_end(&e->graph);
        cuda->library->free(cuda->base.context, e);
    }
    for (workspace *w = cudnn->latest, *before; w; w = before) {
        before = w->before;
        cavmae__cuda_free(cuda, w->memory);
        cuda->library->free(cuda->base.context, w);
    }
    if (cudnn->handle) cudnn->library.Destroy(cudnn->handle);
    if (cudnn->looked) cavmae__cudnn_library_close(&cudnn->library);
    pthread_mutex_destroy(&cudnn->lock);
    cuda->library->free(cuda->base.context, cudnn);
    cuda->cudnn = NULL;
}

#else

/* Built without cuDNN's headers. */

static const char absent[] = "this build has no cuDNN: it was made without the headers of 9.15.1 or later";

cavmae_status cavmae__cudnn_can(cavmae__backend *backend, const cavmae__attention *op, int32_t backward) {
    (void)op;
    (void)backward;
    return CAVMAE__CUDA_FAIL(backend, CAVMAE_E_UNSUPPORTED, "%s", absent);
}

cavmae_status cavmae__cudnn_attention(cavmae__backend *backend, const cavmae__attention *op) {
    return cavmae__cudnn_can(backend, op, 0);
}

cavmae_status cavmae__cudnn_attention_grad(cavmae__backend *backend, const cavmae__attention *op) {
    return cavmae__cudnn_can(backend, op, 1);
}

cavmae_status cavmae__cudnn_measure_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                          int32_t *plans, float *milliseconds) {
    (void)plans;
    (void)milliseconds;
    return cavmae__cudnn_can(backend, op, backward);
}

cavmae_status cavmae__cudnn_set_plans(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                      int32_t plans) {
    (void)plans;
    return cavmae__cudnn_can(backend, op, backward);
}

void cavmae__cudnn_describe(cavmae__backend *backend, char *text, size_t size) {
    (void)backend;
    snprintf(text, size, "no cuDNN: %s", absent);
}

cavmae_status cavmae__cudnn_open(cavmae__cuda *cuda) {
    (void)cuda;
    return CAVMAE_OK;
}

void cavmae__cudnn_close(cavmae__cuda *cuda) { (void)cuda; }

#endif
