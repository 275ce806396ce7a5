/* Streams, events and graphs. A stream is a queue of closures that runs when the host waits for it, an event a mark in
 * a queue, a graph a list of closures. What runs, runs one at a time. A closure may have to wait for what another
 * thread will do (a collective, for the other ranks): whoever runs the stream then sleeps meanwhile. */
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "cudasim.h"
#include "runtime.h"

namespace {

struct task {
    std::string name;
    std::function<bool()> work;
    bool always;
    std::function<bool()> ready; /* NULL: at once */
};

enum class step { ran, empty, blocked };

/* A place in a stream's order. */
struct mark {
    CUstream_st *stream; /* only while not done */
    struct recording *recording;
    std::atomic<bool> done{false};
    std::chrono::steady_clock::time_point when;
};

struct recording {
    CUstream_st *origin;
    std::thread::id thread;
    std::vector<task> tasks;
    std::set<CUstream_st *> joined; /* streams that wait for an event of it, the origin too */
    std::set<CUstream_st *> open;   /* of them, those whose work nothing of the origin's waits for yet */
    bool spoilt = false;
};

} // namespace

struct CUstream_st {
    int device;
    std::deque<task> queue;
    std::shared_ptr<recording> into;
    bool asking; /* whether its first task is ready: what that runs must not come back here */
};

struct CUevent_st {
    int device;
    bool timed;
    std::shared_ptr<mark> last;
    std::shared_ptr<recording> recorded_in;
};

struct CUgraph_st {
    std::vector<task> tasks;
    int device;
};

struct CUgraphExec_st : CUgraph_st {};

namespace cudasim {

/* run_lock: held by whoever runs queued work; taken before state_lock, which guards all that lies in this file. */
static std::mutex run_lock, state_lock;
static std::set<CUstream_st *> streams;
static thread_local recording *recording_here = nullptr; /* begun by this thread, alive while its origin is `into` it */

static std::mutex progress_lock; /* may be taken under all others */
static std::condition_variable progress_made;
static uint64_t progress_count = 0;

void progress() {
    std::lock_guard<std::mutex> guard(progress_lock);
    progress_count++;
    progress_made.notify_all();
}

/* With state_lock. */
static cudaError_t find(cudaStream_t stream, const char *call) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    if (!stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
        report(std::string(call) + ": uses a default stream, which other streams' order depends on");
        return cudaErrorInvalidResourceHandle;
    }
    if (streams.count(stream)) return cudaSuccess;
    report(std::string(call) + ": no such stream");
    return cudaErrorInvalidResourceHandle;
}

cudaError_t check_stream(cudaStream_t stream, const char *call, int *device) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, call);
    if (error != cudaSuccess) return error;
    *device = stream->device;
    return state_of(stream->device);
}

/* With state_lock. */
static cudaError_t push(cudaStream_t stream, task one) {
    if (stream->into) {
        if (stream->into->spoilt) return cudaErrorStreamCaptureInvalidated;
        if (stream != stream->into->origin) stream->into->open.insert(stream);
        stream->into->tasks.push_back(std::move(one));
    } else {
        stream->queue.push_back(std::move(one));
    }
    progress();
    return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, const char *name, std::function<bool()> work, bool always,
                    std::function<bool()> ready) {
    std::lock_guard<std::mutex> guard(state_lock);
    cudaError_t error = find(stream, name);
    if (error != cudaSuccess) return error;
    error = state_of(stream->device);
    if (error != cudaSuccess && !always) return error;
    return push(stream, {name, std::move(work), always, std::move(ready)});
}

bool is_capturing(cudaStream_t stream) {
    std::lock_guard<std::mutex> guard(state_lock);
    return streams.count(stream) && stream->into;
}

/* ---- Running, with run_lock ---- */

static step run_one(CUstream_st *stream) {
    std::function<bool()> ready;
    bool doing = false;
    {
        std::lock_guard<std::mutex> guard(state_lock);
        if (stream->queue.empty()) return step::empty;
        if (stream->asking) return step::blocked;
        doing = stream->queue.front().always || state_of(stream->device) == cudaSuccess;
        if (doing) ready = stream->queue.front().ready;
    }
    if (ready) {
        stream->asking = true;
        const bool go = ready();
        stream->asking = false;
        if (!go) return step::blocked;
    }
    task one;
    {
        std::lock_guard<std::mutex> guard(state_lock);
        one = std::move(stream->queue.front());
        stream->queue.pop_front();
    }
    if (doing) {
        show_memory(true);
        if (!one.work()) break_device(stream->device);
        show_memory(false);
    }
    progress();
    return step::ran;
}

/* These go as far as they can, and say whether that was all. */
static bool run_to(const mark &end) {
    while (!end.done && run_one(end.stream) == step::ran) {
    }
    return end.done;
}

static bool run_all(CUstream_st *stream) {
    step last = step::ran;
    while (last == step::ran) last = run_one(stream);
    return last == step::empty;
}

/* `attempt` again and again until it says that all was done, asleep where that waits for another thread. */
static void run_and_wait(std::unique_lock<std::mutex> &running, const std::function<bool()> &attempt) {
    for (;;) {
        uint64_t seen;
        {
            std::lock_guard<std::mutex> guard(progress_lock);
            seen = progress_count;
        }
        if (attempt()) return;
        running.unlock();
        {
            std::unique_lock<std::mutex> waiting(progress_lock);
            progress_made.wait(waiting, [seen] { return progress_count != seen; });
        }
        running.lock();
    }
}

void run_stream(cudaStream_t stream) {
    std::lock_guard<std::mutex> running(run_lock);
    run_stream_until(stream, [] { return false; });
}

void run_stream_until(cudaStream_t stream, const std::function<bool()> &enough) {
    {
        std::lock_guard<std::mutex> guard(state_lock);
        if (!streams.count(stream)) return;
    }
    while (!enough() && run_one(stream) == step::ran) {
    }
}

static bool run_device(int device) {
    std::vector<CUstream_st *> all;
    {
        std::lock_guard<std::mutex> guard(state_lock);
        for (CUstream_st *stream : streams)
            if (stream->device == device && !stream->into) all.push_back(stream);
    }
    bool done = true;
    for (CUstream_st *stream : all) done = run_all(stream) && done;
    return done;
}

void finish_device(int device, bool wait) {
    std::unique_lock<std::mutex> running(run_lock);
    if (wait)
        run_and_wait(running, [device] { return run_device(device); });
    else
        run_device(device);
    trim_pools();
}

/* With state_lock. */
static void spoil(recording &into, const char *call) {
    if (!into.spoilt) report(std::string(call) + ": not while a stream records; the recording is lost");
    into.spoilt = true;
}

cudaError_t refuse_while_recording(const char *call) {
    std::lock_guard<std::mutex> guard(state_lock);
    if (!recording_here) return cudaSuccess;
    spoil(*recording_here, call);
    return failed(cudaErrorStreamCaptureUnsupported);
}

/* The stream is there and does not record: the host may wait for it. */
static cudaError_t check_wait(cudaStream_t stream, const char *call) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, call);
    if (error != cudaSuccess || !stream->into) return error;
    spoil(*stream->into, call);
    return cudaErrorStreamCaptureUnsupported;
}

} // namespace cudasim

using namespace cudasim;

static thread_local bool fault_in_work = false;

void cudasim_report(const std::string &text) {
    report(text);
    fault_in_work = true;
}

void cudasim_enqueue(cudaStream_t stream, const char *name, std::function<void()> work) {
    failed(enqueue(stream, name, [work = std::move(work)] {
        fault_in_work = false;
        work();
        return !fault_in_work;
    }));
}

extern "C" {

/* ---- Streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    if (state_of(device) != cudaSuccess) return failed(state_of(device));
    if (flags != cudaStreamNonBlocking) {
        report("cudaStreamCreateWithFlags: not cudaStreamNonBlocking: it would wait for the legacy default stream");
        return failed(cudaErrorInvalidValue);
    }
    std::lock_guard<std::mutex> guard(state_lock);
    *stream = new CUstream_st{device, {}, nullptr, false};
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}

/* What is queued still runs, as on a device. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const cudaError_t error = check_wait(stream, "cudaStreamDestroy");
    if (error != cudaSuccess) return failed(error);
    std::lock_guard<std::mutex> running(run_lock);
    while (!run_all(stream)) {
        std::lock_guard<std::mutex> guard(state_lock);
        report("cudaStreamDestroy: " + stream->queue.front().name + " still waits for another thread");
        stream->queue.pop_front();
    }
    const int device = stream->device;
    {
        std::lock_guard<std::mutex> guard(state_lock);
        streams.erase(stream);
        delete stream;
    }
    return failed(state_of(device));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const cudaError_t error = check_wait(stream, "cudaStreamSynchronize");
    if (error != cudaSuccess) return failed(error);
    std::unique_lock<std::mutex> running(run_lock);
    run_and_wait(running, [stream] { return run_all(stream); });
    trim_pools();
    return failed(state_of(stream->device));
}

/* Each question brings the stream one step on: whoever polls gets there. */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const cudaError_t error = check_wait(stream, "cudaStreamQuery");
    if (error != cudaSuccess) return failed(error);
    std::lock_guard<std::mutex> running(run_lock);
    if (run_one(stream) != step::empty) return cudaErrorNotReady;
    return failed(state_of(stream->device));
}

cudaError_t cudaDeviceSynchronize(void) {
    int device = 0;
    cudaError_t error = use_device(&device);
    if (error == cudaSuccess) error = refuse_while_recording("cudaDeviceSynchronize");
    if (error != cudaSuccess) return error;
    finish_device(device);
    return failed(state_of(device));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user_data) {
    return failed(enqueue(stream, "cudaLaunchHostFunc", [=] {
        function(user_data);
        return true;
    }));
}

/* ---- Events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    if (state_of(device) != cudaSuccess) return failed(state_of(device));
    *event = new CUevent_st{device, !(flags & cudaEventDisableTiming), nullptr, nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    const int device = event->device;
    delete event;
    return failed(state_of(device));
}

/* Of the default stream, in which nothing can be queued here, all is done. */
static cudaError_t record_default_stream(cudaEvent_t event) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    if (!event || event->device != device) {
        report("cudaEventRecord: the event is of another device");
        return cudaErrorInvalidResourceHandle;
    }
    event->last = std::make_shared<mark>();
    event->last->stream = nullptr;
    event->recorded_in = nullptr;
    event->last->when = std::chrono::steady_clock::now();
    event->last->done = true;
    return state_of(device);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    std::lock_guard<std::mutex> guard(state_lock);
    if (stream == cudaStreamLegacy) return failed(record_default_stream(event));
    cudaError_t error = find(stream, "cudaEventRecord");
    if (error != cudaSuccess) return failed(error);
    if (!event || event->device != stream->device) {
        report("cudaEventRecord: the event is of another device");
        return failed(cudaErrorInvalidResourceHandle);
    }
    if (state_of(stream->device) != cudaSuccess) return failed(state_of(stream->device));
    event->last = std::make_shared<mark>();
    event->last->stream = stream;
    event->recorded_in = stream->into;
    if (stream->into) return failed(stream->into->spoilt ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
    return failed(push(stream, {"event",
                                [here = event->last] {
                                    here->when = std::chrono::steady_clock::now();
                                    here->done = true;
                                    return true;
                                },
                                true, nullptr}));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, "cudaStreamWaitEvent");
    if (error != cudaSuccess) return failed(error);
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    if (state_of(stream->device) != cudaSuccess) return failed(state_of(stream->device));
    if (!event->last) return cudaSuccess; /* never recorded: nothing to wait for */
    if (event->recorded_in) {
        recording *const into = event->recorded_in.get();
        if (stream->into && stream->into.get() != into) {
            spoil(*stream->into, "cudaStreamWaitEvent for an event of another recording");
            return failed(cudaErrorStreamCaptureMerge);
        }
        if (!into->joined.count(into->origin)) return failed(cudaErrorStreamCaptureInvalidated); /* it has ended */
        stream->into = event->recorded_in;
        into->joined.insert(stream);
        into->open.erase(event->last->stream);
        if (stream != into->origin) into->open.insert(stream);
        return cudaSuccess;
    }
    if (stream->into) {
        if (event->last->done) return cudaSuccess;
        spoil(*stream->into, "cudaStreamWaitEvent for an event that was not recorded with it");
        return failed(cudaErrorStreamCaptureIsolation);
    }
    return failed(push(
        stream, {"wait for an event", [] { return true; }, true, [before = event->last] { return run_to(*before); }}));
}

/* Its last mark, NULL where it was never recorded. */
static cudaError_t last_mark(cudaEvent_t event, std::shared_ptr<mark> *last) {
    int device = 0;
    const cudaError_t error = use_device(&device);
    if (error != cudaSuccess) return error;
    std::lock_guard<std::mutex> guard(state_lock);
    if (!event) return cudaErrorInvalidResourceHandle;
    if (event->recorded_in) {
        if (event->recorded_in->joined.count(event->recorded_in->origin))
            spoil(*event->recorded_in, "waiting for an event that a recording stream has recorded");
        return cudaErrorCapturedEvent;
    }
    *last = event->last;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    std::shared_ptr<mark> last;
    const cudaError_t error = last_mark(event, &last);
    if (error != cudaSuccess) return failed(error);
    std::unique_lock<std::mutex> running(run_lock);
    if (last) run_and_wait(running, [&last] { return run_to(*last); });
    trim_pools();
    return failed(state_of(event->device));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    std::shared_ptr<mark> last;
    const cudaError_t error = last_mark(event, &last);
    if (error != cudaSuccess) return failed(error);
    std::lock_guard<std::mutex> running(run_lock);
    if (last && !last->done && run_one(last->stream) != step::empty) return cudaErrorNotReady;
    return failed(state_of(event->device));
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    std::shared_ptr<mark> from, to;
    cudaError_t error = last_mark(start, &from);
    if (error == cudaSuccess) error = last_mark(end, &to);
    if (error != cudaSuccess) return failed(error);
    if (!from || !to || !start->timed || !end->timed) return failed(cudaErrorInvalidResourceHandle);
    if (!from->done || !to->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(to->when - from->when).count();
    return cudaSuccess;
}

/* ---- Graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, "cudaStreamBeginCapture");
    if (error != cudaSuccess) return failed(error);
    if (state_of(stream->device) != cudaSuccess) return failed(state_of(stream->device));
    if (stream->into || recording_here) return failed(cudaErrorIllegalState);
    if (mode != cudaStreamCaptureModeThreadLocal) {
        report("cudaStreamBeginCapture: not cudaStreamCaptureModeThreadLocal: other threads' calls could spoil it");
        return failed(cudaErrorInvalidValue);
    }
    stream->into = std::make_shared<recording>();
    stream->into->origin = stream;
    stream->into->thread = std::this_thread::get_id();
    stream->into->joined.insert(stream);
    recording_here = stream->into.get();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, "cudaStreamEndCapture");
    *graph = nullptr;
    if (error != cudaSuccess) return failed(error);
    const std::shared_ptr<recording> into = stream->into;
    if (!into) return failed(cudaErrorIllegalState);
    if (into->origin != stream) return failed(cudaErrorStreamCaptureUnmatched);
    if (into->thread != std::this_thread::get_id()) return failed(cudaErrorStreamCaptureWrongThread);
    for (CUstream_st *one : into->joined) one->into = nullptr;
    into->joined.clear();
    recording_here = nullptr;
    if (into->spoilt) return failed(cudaErrorStreamCaptureInvalidated);
    if (!into->open.empty()) return failed(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st{std::move(into->tasks), stream->device};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    std::lock_guard<std::mutex> guard(state_lock);
    const cudaError_t error = find(stream, "cudaStreamIsCapturing");
    if (error != cudaSuccess) return failed(error);
    *status = !stream->into          ? cudaStreamCaptureStatusNone
              : stream->into->spoilt ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    if (!graph) return failed(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{{graph->tasks, graph->device}};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    std::lock_guard<std::mutex> guard(state_lock);
    cudaError_t error = find(stream, "cudaGraphLaunch");
    if (error != cudaSuccess) return failed(error);
    if (!exec || exec->device != stream->device) return failed(cudaErrorInvalidValue);
    if (state_of(stream->device) != cudaSuccess) return failed(state_of(stream->device));
    for (const task &one : exec->tasks)
        if (error == cudaSuccess) error = push(stream, one);
    return failed(error);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

} /* extern "C" */
