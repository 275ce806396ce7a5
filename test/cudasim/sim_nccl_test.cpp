/* The stand-in for NCCL is as strict as it says, and contexts are as the driver keeps them. One thread plays all ranks: no
 * call of a non-blocking communicator waits. */
#include <cstdlib>
#include <cstring>
#include <thread>

#include <cuda.h>
#include <nccl.h>

#include "sim_check.h"

#define CHECK_NCCL(call) CHECK((call) == ncclSuccess)

enum { ranks = 2, count = 4 };

/* How often it had to be asked; negative: it never came through. */
static int settle(ncclComm_t comm, ncclResult_t expected = ncclSuccess) {
    for (int asked = 0; asked < 100; asked++) {
        ncclResult_t now = ncclInternalError;
        CHECK_NCCL(ncclCommGetAsyncError(comm, &now));
        if (now == expected) return asked;
        if (now != ncclInProgress) break;
    }
    return -1;
}

/* A rank on the device of its number. */
struct world {
    ncclComm_t comm[ranks] = {};
    cudaStream_t stream[ranks] = {};
    float *data[ranks] = {};

    world() {
        ncclUniqueId id;
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 0;
        CHECK_NCCL(ncclGetUniqueId(&id));
        for (int rank = 0; rank < ranks; rank++) {
            CHECK_CUDA(cudaSetDevice(rank));
            CHECK_CUDA(cudaStreamCreateWithFlags(&stream[rank], cudaStreamNonBlocking));
            CHECK_CUDA(cudaMalloc((void **)&data[rank], ranks * count * sizeof(float)));
            for (int i = 0; i < ranks * count; i++) data[rank][i] = (float)(rank + 1);
            CHECK(ncclCommInitRankConfig(&comm[rank], ranks, id, rank, &config) == ncclInProgress);
            if (rank == 0) CHECK(settle(comm[rank]) < 0); /* the others are missing */
        }
        for (ncclComm_t one : comm) CHECK(settle(one) >= 0);
    }

    ~world() {
        for (int rank = 0; rank < ranks; rank++) {
            CHECK_CUDA(cudaSetDevice(rank));
            if (comm[rank]) CHECK_NCCL(ncclCommAbort(comm[rank]));
            CHECK_CUDA(cudaStreamDestroy(stream[rank]));
            CHECK_CUDA(cudaFree(data[rank]));
        }
        CHECK_CUDA(cudaSetDevice(0));
    }

    ncclResult_t sum(int rank, float *memory = nullptr) {
        float *const at = memory ? memory : data[rank];
        return ncclAllReduce(at, at, count, ncclFloat32, ncclSum, comm[rank], stream[rank]);
    }
};

static void test_in_stream() {
    world w;
    CHECK(w.sum(0) == ncclInProgress);
    CHECK(settle(w.comm[0]) < 0); /* the first one makes connections */
    CHECK(w.sum(0) == ncclInvalidArgument);
    CHECK_REPORTED("ncclAllReduce: the call before it is still in progress");
    CHECK_CUDA(cudaStreamSynchronize(w.stream[0])); /* nothing is in it yet */
    CHECK(w.sum(1) == ncclInProgress);
    CHECK(settle(w.comm[0]) >= 0 && settle(w.comm[1]) > 0);
    CHECK(w.data[0][0] == 1 && w.data[1][0] == 2);
    CHECK_CUDA(cudaStreamSynchronize(w.stream[1])); /* brings the other's along */
    CHECK(w.data[0][0] == 3 && w.data[1][0] == 3 && w.data[0][count] == 1);

    /* Later ones need not be called by all; who waits for the stream then sleeps. */
    CHECK(w.sum(0) == ncclInProgress);
    CHECK(settle(w.comm[0]) > 0);
    for (int i = 0; i < 10; i++) CHECK(cudaStreamQuery(w.stream[0]) == cudaErrorNotReady);
    std::thread waiting([&w] { CHECK_CUDA(cudaStreamSynchronize(w.stream[0])); });
    CHECK(w.sum(1) == ncclInProgress);
    CHECK(settle(w.comm[1]) > 0);
    waiting.join();
    CHECK(w.data[0][0] == 6);

    for (ncclComm_t &one : w.comm) {
        CHECK(ncclCommDestroy(one) == ncclInvalidUsage);
        CHECK_REPORTED("ncclCommDestroy: not finalized");
        CHECK(ncclCommFinalize(one) == ncclInProgress);
        CHECK(settle(one) > 0);
        CHECK_NCCL(ncclCommDestroy(one));
        one = nullptr;
    }
    CHECK_REPORTED(nullptr);
}

static void test_abort() {
    world w;
    for (int rank = 0; rank < ranks; rank++) CHECK(w.sum(rank) == ncclInProgress);
    for (ncclComm_t one : w.comm) CHECK(settle(one) > 0);
    CHECK(w.sum(0) == ncclInProgress);
    CHECK(settle(w.comm[0]) > 0);
    std::thread waiting([&w] { CHECK_CUDA(cudaStreamSynchronize(w.stream[0])); });
    CHECK_NCCL(ncclCommAbort(w.comm[0]));
    waiting.join();
    ncclResult_t error = ncclSuccess;
    CHECK(ncclCommGetAsyncError(w.comm[0], &error) == ncclInvalidArgument);
    CHECK_REPORTED("ncclCommGetAsyncError: no such communicator");
    w.comm[0] = nullptr;
    CHECK(w.sum(1) == ncclInProgress); /* and waits for ever, until it is aborted too */
    CHECK(settle(w.comm[1]) > 0);
    for (int i = 0; i < 10; i++) CHECK(cudaStreamQuery(w.stream[1]) == cudaErrorNotReady);
}

static void test_refused() {
    world w;
    ncclUniqueId id = {};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = nullptr;
    CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidUsage);
    CHECK_REPORTED("a communicator that blocks");
    float host[count];
    CHECK(w.sum(0, host) == ncclInvalidArgument);
    CHECK_REPORTED("NCCL: 16 bytes");
}

/* Memory of a pool is its own device's, until others are let in. */
static void test_pools() {
    world w;
    const cudaMemPoolProps properties = {
        cudaMemAllocationTypePinned, cudaMemHandleTypeNone, {cudaMemLocationTypeDevice, 0}, nullptr, 0, 0, {}};
    const cudaMemAccessDesc access = {{cudaMemLocationTypeDevice, 1}, cudaMemAccessFlagsProtReadWrite};
    cudaMemPool_t pool;
    void *memory = nullptr;
    CHECK_CUDA(cudaSetDevice(0));
    CHECK_CUDA(cudaMemPoolCreate(&pool, &properties));
    CHECK_CUDA(cudaMallocFromPoolAsync(&memory, 256, pool, w.stream[0]));
    for (int round = 0; round < 2; round++) {
        for (int rank = 0; rank < ranks; rank++)
            CHECK(w.sum(rank, rank ? nullptr : static_cast<float *>(memory)) == ncclInProgress);
        for (ncclComm_t one : w.comm) CHECK(settle(one) > 0);
        if (round == 0) {
            CHECK_CUDA(cudaMemPoolSetAccess(pool, &access, 1));
            CHECK_CUDA(cudaStreamSynchronize(w.stream[0]));
            CHECK_REPORTED(nullptr);
            const cudaMemAccessDesc none = {{cudaMemLocationTypeDevice, 1}, cudaMemAccessFlagsProtNone};
            CHECK_CUDA(cudaMemPoolSetAccess(pool, &none, 1));
        } else {
            CHECK(cudaStreamQuery(w.stream[0]) == cudaErrorNotReady);
            CHECK_REPORTED("device 1 may not use them");
            for (ncclComm_t one : w.comm) CHECK(settle(one, ncclUnhandledCudaError) == 0);
        }
    }
    for (ncclComm_t &one : w.comm) {
        CHECK_NCCL(ncclCommAbort(one));
        one = nullptr;
    }
    CHECK_CUDA(cudaFreeAsync(memory, w.stream[0]));
    CHECK_CUDA(cudaStreamSynchronize(w.stream[0]));
    CHECK_CUDA(cudaMemPoolDestroy(pool));
}

/* ---- Contexts ---- */

static int active(int device) {
    unsigned flags = 0;
    int is = -1;
    CHECK(cuDevicePrimaryCtxGetState(device, &flags, &is) == CUDA_SUCCESS);
    return is;
}

/* A thread without a context is given device 0's by the first call that needs one. Comes first: no device is in use. */
static void test_contexts() {
    CUcontext second = nullptr, current = nullptr;
    int device = -1;
    CHECK(active(0) == 0 && active(1) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&second, 1) == CUDA_SUCCESS && active(1) == 1);
    CHECK(cuCtxPushCurrent(second) == CUDA_SUCCESS);
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK(device == 1);
    cudaStream_t stream;
    cudaEvent_t event;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventRecord(event, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK(active(0) == 0);
    CHECK(cuCtxPopCurrent(&current) == CUDA_SUCCESS && current == second);
    CHECK(cuCtxPopCurrent(&current) == CUDA_ERROR_INVALID_CONTEXT);

    std::thread([event] {
        int here = -1;
        CUcontext own = nullptr;
        CHECK_CUDA(cudaGetDevice(&here));
        CHECK(here == 0 && active(0) == 0);
        CHECK_CUDA(cudaEventQuery(event)); /* of device 1's event, even */
        CHECK(cuCtxGetCurrent(&own) == CUDA_SUCCESS && own);
        CHECK(active(0) == 1);
    }).join();

    CHECK_CUDA(cudaSetDevice(1));
    CHECK_CUDA(cudaEventDestroy(event));
    CHECK_CUDA(cudaStreamDestroy(stream));
    CHECK(cuDevicePrimaryCtxRelease(1) == CUDA_SUCCESS && active(1) == 1); /* the runtime keeps it */
    CHECK(cuDevicePrimaryCtxRelease(1) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK_REPORTED("a context that was not retained");
    CHECK_CUDA(cudaSetDevice(0));
}

int main() {
    test_contexts();
    test_in_stream();
    test_abort();
    test_refused();
    test_pools();
    return sim_summary("cudasim nccl");
}
