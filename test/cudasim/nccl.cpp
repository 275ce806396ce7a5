/* Stand-in for NCCL: communicators of threads in one process, each on a simulated device. A collective is done when the
 * streams of all ranks have come to it, in the order of the ranks. It is as strict as the real one may be:
 *
 *   - only non-blocking communicators; everything but aborting gives ncclInProgress, and has happened (a collective lies in
 *     its stream) only once ncclCommGetAsyncError has been asked often enough; a communicator's first collective, for
 *     which the real one makes connections, not before all ranks have called it; a call in between is refused;
 *   - what is never called by a rank waits for ever in the others' streams, until they abort;
 *   - every rank's memory must be open to the other devices, and bfloat16 is rounded at every addition.
 *
 * Environment: CUDASIM_NCCL_FILE: what is opened in the place of libnccl.so.2 (the simulator itself);
 * CUDASIM_NCCL_VERSION; CUDASIM_NCCL_FAIL="rank:collective": that rank, at its so-manieth collective counted from 0,
 * reports an error of its device, and the others a remote one; CUDASIM_NCCL_MISMATCH=hang: collectives that do not fit
 * one another wait for ever, where they otherwise are reported as ncclInvalidUsage. */
#include <nccl.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <cuda_bf16.h>

#include "runtime.h"

namespace {

enum kind { all_reduce, reduce_scatter, all_gather, broadcast };

struct part {
    const void *send;
    void *receive;
    cudaStream_t stream; /* NULL: not called */
    bool arrived;        /* its stream has come to it */
    bool gone;           /* its communicator was aborted */
};

struct operation {
    uint64_t number;
    kind what;
    size_t count;
    ncclDataType_t type;
    int root, called;
    bool differs, done, never; /* never: a rank is gone, or has failed */
    std::vector<part> parts;
};

struct clique {
    int size, joined;
    bool broken;
    std::vector<ncclComm_t> members;
    std::map<uint64_t, std::shared_ptr<operation>> operations; /* by number; those not done */
};

} // namespace

struct ncclComm {
    std::shared_ptr<clique> all;
    int rank, device;
    ncclResult_t error;            /* that lasts */
    int questions;                 /* still to be asked before `pending` is */
    std::function<bool()> pending; /* NULL: nothing is in progress */
    uint64_t next;                 /* collective's number */
    bool finalized;
    std::set<cudaStream_t> streams;
};

/* Guards all; taken under the simulator's lock of running streams, never the other way. */
static std::mutex nccl_lock;
static std::map<std::string, std::shared_ptr<clique>> cliques;
static std::set<ncclComm_t> comms;

static const int questions_of_call = 3;

/* ---- With nccl_lock ---- */

static bool known(ncclComm_t comm, const char *call) {
    if (comms.count(comm)) return true;
    cudasim::report(std::string(call) + ": no such communicator");
    return false;
}

static ncclResult_t begin(ncclComm_t comm, std::function<bool()> pending) {
    comm->questions = questions_of_call;
    comm->pending = std::move(pending);
    return ncclInProgress;
}

/* A call that must find nothing in progress. */
static ncclResult_t refuse(ncclComm_t comm, const char *call) {
    if (!known(comm, call)) return ncclInvalidArgument;
    if (comm->error != ncclSuccess) return comm->error;
    if (!comm->pending && !comm->finalized) return ncclSuccess;
    cudasim::report(std::string(call) + (comm->pending ? ": the call before it is still in progress" : ": finalized"));
    return ncclInvalidArgument;
}

static void fail_all(clique &all, ncclResult_t error, int except = -1) {
    for (int rank = 0; rank < all.size; rank++)
        if (rank != except && all.members[(size_t)rank] && all.members[(size_t)rank]->error == ncclSuccess)
            all.members[(size_t)rank]->error = error;
}

static bool asked_to_fail(int rank, uint64_t number) {
    const char *words = getenv("CUDASIM_NCCL_FAIL");
    char own[64];
    snprintf(own, sizeof own, "%d:%llu", rank, (unsigned long long)number);
    return words && strcmp(words, own) == 0;
}

/* ---- What the collectives compute ---- */

static float add(float x, float y) { return x + y; }
static double add(double x, double y) { return x + y; }
static __nv_bfloat16 add(__nv_bfloat16 x, __nv_bfloat16 y) {
    return __float2bfloat16_rn(__bfloat162float(x) + __bfloat162float(y));
}

/* Row `row` of every rank's send, added up. */
template <typename T> static std::vector<T> sum(const operation &op, size_t row) {
    std::vector<T> total(op.count);
    for (size_t rank = 0; rank < op.parts.size(); rank++) {
        const T *from = static_cast<const T *>(op.parts[rank].send) + row * op.count;
        for (size_t i = 0; i < op.count; i++) total[i] = rank ? add(total[i], from[i]) : from[i];
    }
    return total;
}

template <typename T> static void add_up(const operation &op) {
    std::vector<std::vector<T>> sums; /* all before the first is written: a result may lie in a rank's send */
    for (size_t rank = 0; rank < (op.what == all_reduce ? 1 : op.parts.size()); rank++)
        sums.push_back(sum<T>(op, rank));
    for (size_t rank = 0; rank < op.parts.size(); rank++)
        if (op.count) memcpy(op.parts[rank].receive, sums[rank % sums.size()].data(), op.count * sizeof(T));
}

static size_t size_of(ncclDataType_t type) {
    return type == ncclFloat64 ? 8 : type == ncclFloat32 ? 4 : type == ncclBfloat16 ? 2 : 1;
}

static void copy(const operation &op) {
    const size_t size = op.count * size_of(op.type);
    std::vector<unsigned char> sent;
    for (size_t rank = 0; rank < op.parts.size(); rank++) {
        const unsigned char *from = static_cast<const unsigned char *>(op.parts[rank].send);
        if (op.what == all_gather || op.root == (int)rank) sent.insert(sent.end(), from, from + size);
    }
    for (const part &one : op.parts)
        if (size) memcpy(one.receive, sent.data(), sent.size());
}

static bool may_use(const operation &op, const part &one, int device, int other) {
    const size_t size = op.count * size_of(op.type), rows = op.parts.size();
    const size_t sent = size * (op.what == reduce_scatter ? rows : 1), got = size * (op.what == all_gather ? rows : 1);
    return !size || (cudasim::check_device_memory("NCCL", one.send, sent, device, other) &&
                     cudasim::check_device_memory("NCCL", one.receive, got, device, other));
}

/* Every device reads and writes the memory of all of them. */
static bool may_be_done(const operation &op, const clique &all) {
    for (size_t rank = 0; rank < op.parts.size(); rank++)
        for (size_t other = 0; other < op.parts.size(); other++)
            if (other != rank && !may_use(op, op.parts[rank], all.members[rank]->device, all.members[other]->device))
                return false;
    return true;
}

static void compute(const operation &op) {
    if (op.what == all_gather || op.what == broadcast)
        copy(op);
    else if (op.type == ncclFloat64)
        add_up<double>(op);
    else if (op.type == ncclFloat32)
        add_up<float>(op);
    else
        add_up<__nv_bfloat16>(op);
}

/* ---- In the streams ---- */

/* A rank's stream has come to the collective. With nccl_lock. */
static void arrive(clique &all, operation &op, size_t rank) {
    if (op.parts[rank].arrived) return;
    op.parts[rank].arrived = true;
    if (asked_to_fail((int)rank, op.number)) {
        op.never = true;
        if (all.members[rank]) all.members[rank]->error = ncclUnhandledCudaError;
        fail_all(all, ncclRemoteError, (int)rank);
    }
}

static bool all_arrived(const operation &op) {
    for (const part &one : op.parts)
        if (!one.arrived) return false;
    return true;
}

static void finish(clique &all, operation &op) {
    if (op.never || !all_arrived(op)) return;
    const char *mismatch = getenv("CUDASIM_NCCL_MISMATCH");
    if (op.differs) {
        op.never = true;
        if (!mismatch || strcmp(mismatch, "hang") != 0) fail_all(all, ncclInvalidUsage);
    } else if (!may_be_done(op, all)) {
        op.never = true;
        fail_all(all, ncclUnhandledCudaError);
    } else {
        compute(op);
        op.done = true;
        all.operations.erase(op.number);
    }
}

/* Whether the rank's stream may go on. The other ranks' streams are brought to this place where they can be: a device
 * needs nobody to wait for it. */
static bool ready(const std::shared_ptr<clique> &all, const std::shared_ptr<operation> &op, size_t rank) {
    for (size_t other = 0; other < op->parts.size(); other++) {
        cudaStream_t stream = nullptr;
        {
            std::lock_guard<std::mutex> guard(nccl_lock);
            arrive(*all, *op, rank);
            if (op->done || op->parts[rank].gone) return true;
            if (!op->parts[other].arrived && !op->parts[other].gone) stream = op->parts[other].stream;
        }
        if (stream)
            cudasim::run_stream_until(stream, [&op, other] {
                std::lock_guard<std::mutex> guard(nccl_lock);
                return op->parts[other].arrived;
            });
    }
    std::lock_guard<std::mutex> guard(nccl_lock);
    if (!op->done) finish(*all, *op);
    return op->done || op->parts[rank].gone;
}

/* ---- The interface ---- */

static ncclResult_t call(const char *name, kind what, const void *send, void *receive, size_t count,
                         ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
    int device = 0;
    if (cudasim::check_stream(stream, name, &device) != cudaSuccess || cudasim::is_capturing(stream))
        return ncclInvalidUsage;
    std::lock_guard<std::mutex> guard(nccl_lock);
    const ncclResult_t refused = refuse(comm, name);
    if (refused != ncclSuccess) return refused;
    if (device != comm->device || root < 0 || root >= comm->all->size ||
        ((what == all_reduce || what == reduce_scatter) && type == ncclUint8))
        return ncclInvalidArgument;

    const std::shared_ptr<clique> all = comm->all;
    const size_t rank = (size_t)comm->rank;
    std::shared_ptr<operation> &place = all->operations[comm->next];
    if (!place)
        place = std::make_shared<operation>(operation{comm->next, what, count, type, root, 0, false, false, false,
                                                      std::vector<part>((size_t)all->size, part{})});
    const std::shared_ptr<operation> op = place;
    comm->next++;
    comm->streams.insert(stream);
    op->differs = op->differs || op->what != what || op->count != count || op->type != type || op->root != root;
    op->parts[rank].send = send;
    op->parts[rank].receive = receive;
    if (!may_use(*op, op->parts[rank], device, device)) return comm->error = ncclInvalidArgument;
    op->called++;
    return begin(comm, [=] {
        if (op->number == 0 && op->called < all->size) return false;
        op->parts[rank].stream = stream;
        cudasim::enqueue(
            stream, name, [] { return true; }, false, [=] { return ready(all, op, rank); });
        return true;
    });
}

/* With nccl_lock. The communicator is freed; whoever waits for its collectives goes on without their results. */
static void leave(ncclComm_t comm) {
    for (auto &entry : comm->all->operations) {
        entry.second->parts[(size_t)comm->rank].gone = true;
        entry.second->never = true;
    }
    if (comm->all->joined < comm->all->size) comm->all->broken = true; /* once whole, it opens for all of them */
    if (comm->all->members[(size_t)comm->rank] == comm) comm->all->members[(size_t)comm->rank] = nullptr;
    comms.erase(comm);
    delete comm;
}

/* With nccl_lock. */
static void join(ncclComm_t comm, const std::shared_ptr<clique> &all, int size) {
    ncclComm_t &place = all->members[(size_t)comm->rank % all->members.size()];
    if (size != all->size || place) { /* two of one number, or of another world: nobody gets through */
        comm->error = ncclSystemError;
        fail_all(*all, ncclSystemError);
        return;
    }
    place = comm;
    all->joined++;
    for (ncclComm_t other : all->members)
        if (other && other != comm && other->device == comm->device) fail_all(*all, ncclInvalidUsage);
}

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT ncclResult_t ncclGetVersion(int *version) {
    const char *words = getenv("CUDASIM_NCCL_VERSION");
    *version = words ? atoi(words) : NCCL_VERSION_CODE;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static std::atomic<int> made{0};
    memset(id->internal, 0x5A, sizeof id->internal);
    snprintf(id->internal, sizeof id->internal, "simulated %d", ++made);
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank,
                                           ncclConfig_t *config) {
    int device = 0;
    if (cudasim::use_device(&device) != cudaSuccess) return ncclUnhandledCudaError;
    if (config->size != sizeof *config || config->magic != 0xcafebeef || size < 1 || rank < 0 || rank >= size)
        return ncclInvalidArgument;
    if (config->blocking != 0) {
        cudasim::report("ncclCommInitRankConfig: a communicator that blocks");
        return ncclInvalidUsage;
    }
    std::lock_guard<std::mutex> guard(nccl_lock);
    std::shared_ptr<clique> &all = cliques[std::string(id.internal, sizeof id.internal)];
    if (!all) all = std::make_shared<clique>(clique{size, 0, false, std::vector<ncclComm_t>((size_t)size), {}});
    *comm = new ncclComm{all, rank, device, ncclSuccess, 0, nullptr, 0, false, {}};
    comms.insert(*comm);
    join(*comm, all, size);
    return begin(*comm, [whole = all] { return whole->joined == whole->size && !whole->broken; });
}

EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    std::lock_guard<std::mutex> guard(nccl_lock);
    if (!known(comm, "ncclCommGetAsyncError")) return ncclInvalidArgument;
    *error = comm->error;
    if (comm->error != ncclSuccess || !comm->pending) return ncclSuccess;
    if (comm->questions-- > 0 || !comm->pending())
        *error = ncclInProgress;
    else
        comm->pending = nullptr;
    return ncclSuccess;
}

/* Its own collectives are done then; the other ranks need not have come so far. */
EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    std::set<cudaStream_t> streams;
    {
        std::lock_guard<std::mutex> guard(nccl_lock);
        const ncclResult_t refused = refuse(comm, "ncclCommFinalize");
        if (refused != ncclSuccess) return refused;
        streams = comm->streams;
    }
    for (cudaStream_t stream : streams) cudasim::run_stream(stream);
    std::lock_guard<std::mutex> guard(nccl_lock);
    comm->finalized = true;
    return begin(comm, [comm] {
        const auto first = comm->all->operations.begin();
        return first == comm->all->operations.end() || first->first >= comm->next;
    });
}

EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    std::lock_guard<std::mutex> guard(nccl_lock);
    if (!known(comm, "ncclCommDestroy")) return ncclInvalidArgument;
    if (!comm->finalized || comm->pending) {
        cudasim::report("ncclCommDestroy: not finalized: it would wait");
        return ncclInvalidUsage;
    }
    leave(comm);
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
    {
        std::lock_guard<std::mutex> guard(nccl_lock);
        if (!known(comm, "ncclCommAbort")) return ncclInvalidArgument;
        leave(comm);
    }
    cudasim::progress();
    return ncclSuccess;
}

EXPORT const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const words[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return (unsigned)result < sizeof words / sizeof *words ? words[result] : "unknown result code";
}

EXPORT const char *ncclGetLastError(ncclComm_t) { return "the stand-in's last words"; }

EXPORT ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t,
                                  ncclComm_t comm, cudaStream_t stream) {
    return call("ncclAllReduce", all_reduce, send, receive, count, type, 0, comm, stream);
}

EXPORT ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t,
                                      ncclComm_t comm, cudaStream_t stream) {
    return call("ncclReduceScatter", reduce_scatter, send, receive, count, type, 0, comm, stream);
}

EXPORT ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                                  cudaStream_t stream) {
    return call("ncclAllGather", all_gather, send, receive, count, type, 0, comm, stream);
}

EXPORT ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                                  ncclComm_t comm, cudaStream_t stream) {
    return call("ncclBroadcast", broadcast, send, receive, count, type, root, comm, stream);
}

/* The plug-in opens NCCL by its file's name; the linker's --wrap brings that call here. */
void *__real_dlopen(const char *file, int flags);
void *__wrap_dlopen(const char *file, int flags);

void *__wrap_dlopen(const char *file, int flags) {
    const char *other = getenv("CUDASIM_NCCL_FILE");
    Dl_info own;
    if (!file || strcmp(file, "libnccl.so.2") != 0) return __real_dlopen(file, flags);
    if (other) return __real_dlopen(other, flags);
    if (!dladdr(reinterpret_cast<void *>(ncclGetVersion), &own)) return nullptr;
    return __real_dlopen(own.dli_fname, flags);
}

} /* extern "C" */
