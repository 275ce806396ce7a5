/* A key's first call runs the operations one by one, which also makes whatever is made once for a shape; the second
 * records them, in a stream of its own so that other threads' operations do not get in between; from then on one
 * launch plays all of them back. What cannot be recorded is run one by one for good. */
#include "repeat.h"

enum { NEVER = -1, RAN = 1 }; /* of repeat->calls */

int cavmae__cuda_recording(cavmae__cuda *cuda) {
    return __atomic_load_n(&cuda->recorder_set, __ATOMIC_ACQUIRE) && pthread_equal(cuda->recorder, pthread_self());
}

static void set_recorder(cavmae__cuda *cuda, int set) {
    if (set) cuda->recorder = pthread_self();
    __atomic_store_n(&cuda->recorder_set, set, __ATOMIC_RELEASE);
}

static cavmae_status record(cavmae__cuda *cuda, cavmae__repeat_body *body, void *arg, cudaGraphExec_t *out) {
    cavmae__backend *backend = &cuda->base;
    cudaGraph_t graph = NULL;
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaStreamBeginCapture(cuda->recording, cudaStreamCaptureModeThreadLocal),
                                   "beginning to record"));
    set_recorder(cuda, 1);
    cavmae_status status = body(arg);
    set_recorder(cuda, 0);
    const cudaError_t ended = cudaStreamEndCapture(cuda->recording, &graph);
    if (status == CAVMAE_OK) status = cavmae__cuda_check(backend, ended, "recording");
    if (status == CAVMAE_OK) status = cavmae__cuda_check(backend, cudaGraphInstantiate(out, graph, 0), "graph");
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    return status;
}

void cavmae__cuda_repeat_free(cavmae__cuda *cuda, cavmae__repeat *repeat) {
    if (repeat->recorded) {
        cudaStreamSynchronize(cuda->stream); /* it may be playing */
        cudaGraphExecDestroy(repeat->recorded);
    }
    *repeat = (cavmae__repeat){0};
}

cavmae_status cavmae__cuda_repeat(cavmae__cuda *cuda, cavmae__repeat *repeat, uint64_t key, cavmae__repeat_body *body,
                                  void *arg) {
    if (repeat->key != key || !repeat->calls) {
        cavmae__cuda_repeat_free(cuda, repeat);
        CAVMAE__TRY(body(arg));
        *repeat = (cavmae__repeat){.key = key, .calls = RAN};
        return CAVMAE_OK;
    }
    if (repeat->calls == NEVER) return body(arg);
    if (!repeat->recorded) {
        cudaGraphExec_t recorded = NULL;
        pthread_mutex_lock(&cuda->record_lock);
        const cavmae_status status = record(cuda, body, arg, &recorded);
        pthread_mutex_unlock(&cuda->record_lock);
        if (status == CAVMAE_E_CANCELLED) return status;
        if (status != CAVMAE_OK) { /* nothing of it was done: a recording only takes notes */
            cuda->library->log(cuda->base.context, CAVMAE_LOG_WARNING,
                               "%s; a step that cannot be recorded is run operation by operation",
                               cuda->library->last_error());
            repeat->calls = NEVER;
            return body(arg);
        }
        repeat->recorded = recorded;
    }
    return cavmae__cuda_check(&cuda->base, cudaGraphLaunch(repeat->recorded, cuda->stream), "playing a recorded step");
}
