/* The simulator's host side: lazy streams, events, graphs, memory and its errors. */
#include <cstdlib>
#include <cstring>
#include <thread>

#include "sim_check.h"

static __global__ void add_kernel(float *x, const float *y, int count) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) x[i] += y[i];
}

static __global__ void fail_kernel() {
    if (threadIdx.x == 0) __syncthreads();
}

/* Thread i of `count` adds y to x. */
static void add(float *x, const float *y, int count, cudaStream_t stream) {
    cudasim_launch("add_kernel", add_kernel, (unsigned)(count + 63) / 64, 64, 0, stream, x, y, count);
    CHECK_CUDA(cudaGetLastError());
}

template <typename T> struct pinned {
    T *host = nullptr;
    explicit pinned(size_t count) {
        CHECK_CUDA(cudaHostAlloc((void **)&host, count * sizeof(T), cudaHostAllocDefault));
    }
    ~pinned() { cudaFreeHost(host); }
};

/* ---- Nothing happens before the host waits ---- */

static void test_lazy_streams() {
    sim_stream stream;
    sim_array<float> x(100), y(100);
    pinned<float> from(100), to(100);
    float pageable[100];
    for (int i = 0; i < 100; i++) from.host[i] = pageable[i] = to.host[i] = 1.0f;

    CHECK_CUDA(cudaMemcpyAsync(x.device, from.host, 400, cudaMemcpyHostToDevice, stream));
    CHECK_CUDA(cudaMemcpyAsync(y.device, pageable, 400, cudaMemcpyHostToDevice, stream));
    add(x.device, y.device, 100, stream);
    CHECK_CUDA(cudaMemcpyAsync(to.host, x.device, 400, cudaMemcpyDeviceToHost, stream));
    from.host[3] = 5.0f;       /* too early: the copy sees it */
    pageable[4] = 7.0f;        /* the copy does not */
    CHECK(to.host[0] == 1.0f); /* results before the wait: not there */
    x.download();
    CHECK(x.host[0] != x.host[0]); /* fresh memory is NaN */
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK(to.host[0] == 2.0f && to.host[3] == 6.0f && to.host[4] == 2.0f);

    /* Asking brings it on. */
    CHECK_CUDA(cudaMemsetAsync(x.device, 0, 400, stream));
    add(x.device, y.device, 100, stream);
    int questions = 0;
    while (cudaStreamQuery(stream) == cudaErrorNotReady) questions++;
    CHECK(questions == 2);
    x.download();
    CHECK(x.host[0] == 1.0f);

    int called = 0;
    CHECK_CUDA(cudaLaunchHostFunc(
        stream, [](void *count) { ++*(int *)count; }, &called));
    cudasim_enqueue(stream, "a library's work", [&called] { called += 10; });
    CHECK(called == 0);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK(called == 11);
}

/* ---- Order across streams ---- */

static void test_events() {
    sim_stream first, second;
    sim_array<float> x(10), y(10);
    y.host.assign(10, 2.0f);
    y.upload();
    cudaEvent_t event, later;
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventCreate(&later));
    CHECK_CUDA(cudaEventSynchronize(event)); /* never recorded */
    for (const bool waits : {false, true}) {
        CHECK_CUDA(cudaMemset(x.device, 0xFF, 40));
        CHECK_CUDA(cudaMemsetAsync(x.device, 0, 40, first));
        CHECK_CUDA(cudaEventRecord(event, first));
        add(x.device, y.device, 10, first); /* after the event: the second stream need not see it */
        if (waits) CHECK_CUDA(cudaStreamWaitEvent(second, event));
        add(x.device, y.device, 10, second);
        CHECK_CUDA(cudaStreamSynchronize(second));
        x.download();
        CHECK(waits ? x.host[0] == 2.0f : x.host[0] != x.host[0]);
        CHECK_CUDA(cudaStreamSynchronize(first));
    }
    x.download();
    CHECK(x.host[9] == 4.0f);

    CHECK_CUDA(cudaMemsetAsync(x.device, 0, 40, first));
    CHECK_CUDA(cudaEventRecord(event, first));
    CHECK(cudaEventQuery(event) == cudaErrorNotReady); /* the memset was done by it */
    CHECK(cudaEventQuery(event) == cudaErrorNotReady);
    CHECK_CUDA(cudaEventQuery(event));
    add(x.device, y.device, 10, first);
    CHECK_CUDA(cudaEventSynchronize(event));
    x.download();
    CHECK(x.host[0] == 0.0f);

    float milliseconds = -1;
    cudaEvent_t earlier;
    CHECK_CUDA(cudaEventCreate(&earlier));
    CHECK_CUDA(cudaEventRecord(earlier, first));
    CHECK_CUDA(cudaEventRecord(later, first));
    CHECK(cudaEventElapsedTime(&milliseconds, earlier, later) == cudaErrorNotReady);
    CHECK_CUDA(cudaEventSynchronize(later));
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, earlier, later));
    CHECK(milliseconds >= 0);
    CHECK(cudaEventElapsedTime(&milliseconds, event, later) == cudaErrorInvalidResourceHandle);
    for (cudaEvent_t one : {event, earlier, later}) CHECK_CUDA(cudaEventDestroy(one));
    cudaGetLastError();
    CHECK_REPORTED(nullptr);
}

/* ---- Graphs ---- */

static void test_graphs() {
    sim_stream stream, other;
    sim_array<float> x(100), y(100);
    pinned<float> from(100);
    for (int i = 0; i < 100; i++) from.host[i] = 1.0f;
    CHECK_CUDA(cudaMemset(x.device, 0, 400));
    cudaEvent_t forked, joined;
    CHECK_CUDA(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));

    cudaStreamCaptureStatus status;
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_CUDA(cudaStreamIsCapturing(stream, &status));
    CHECK(status == cudaStreamCaptureStatusActive);
    CHECK_CUDA(cudaEventRecord(forked, stream));
    CHECK_CUDA(cudaStreamWaitEvent(other, forked));
    CHECK_CUDA(cudaMemcpyAsync(y.device, from.host, 400, cudaMemcpyHostToDevice, other));
    CHECK_CUDA(cudaEventRecord(joined, other));
    CHECK_CUDA(cudaStreamWaitEvent(stream, joined));
    add(x.device, y.device, 100, stream);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaStreamIsCapturing(other, &status));
    CHECK(status == cudaStreamCaptureStatusNone);
    CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    x.download();
    CHECK(x.host[0] == 0.0f); /* recorded, not run */

    for (int i = 0; i < 3; i++) CHECK_CUDA(cudaGraphLaunch(exec, stream));
    from.host[7] = 3.0f;
    CHECK_CUDA(cudaStreamSynchronize(stream));
    x.download();
    CHECK(x.host[0] == 3.0f && x.host[7] == 9.0f);
    CHECK_CUDA(cudaGraphExecDestroy(exec));

    /* What must not be done meanwhile. */
    void *memory = nullptr;
    struct {
        cudaError_t now, at_end;
        int call;
    } const wrong[] = {{cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated, 0},
                       {cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated, 1},
                       {cudaErrorStreamCaptureUnsupported, cudaErrorStreamCaptureInvalidated, 2},
                       {cudaErrorStreamCaptureIsolation, cudaErrorStreamCaptureInvalidated, 3},
                       {cudaSuccess, cudaErrorStreamCaptureUnjoined, 4},
                       {cudaErrorCapturedEvent, cudaErrorStreamCaptureInvalidated, 5}};
    for (const auto &one : wrong) {
        CHECK_CUDA(cudaMemsetAsync(x.device, 0, 400, other));
        CHECK_CUDA(cudaEventRecord(joined, other));
        CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        CHECK_CUDA(cudaEventRecord(forked, stream));
        cudaError_t error = cudaSuccess;
        switch (one.call) {
        case 0: error = cudaMalloc(&memory, 16); break;
        case 1: error = cudaStreamSynchronize(stream); break;
        case 2: error = cudaDeviceSynchronize(); break;
        case 3: error = cudaStreamWaitEvent(stream, joined); break;
        case 4: error = cudaStreamWaitEvent(other, forked); break;
        case 5: error = cudaEventSynchronize(forked); break;
        }
        CHECK(error == one.now);
        CHECK(cudaStreamEndCapture(stream, &graph) == one.at_end && !graph);
        cudaGetLastError();
        CHECK_CUDA(cudaStreamSynchronize(other));
        cudasim_take_reports();
    }
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
    CHECK_CUDA(cudaEventDestroy(forked));
    CHECK_CUDA(cudaEventDestroy(joined));

    /* Another thread may allocate while this one records. */
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    std::thread([&memory] { CHECK_CUDA(cudaMalloc(&memory, 16)); }).join();
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphDestroy(graph));
    CHECK_CUDA(cudaFree(memory));
    cudaGetLastError();
    CHECK_REPORTED(nullptr);
}

/* ---- Memory ---- */

static size_t in_use() {
    size_t left = 0, total = 0;
    CHECK_CUDA(cudaMemGetInfo(&left, &total));
    return total - left;
}

static void test_memory() {
    const size_t before = in_use();
    void *memory = nullptr, *more = nullptr;
    CHECK_CUDA(cudaMalloc(&memory, 1000));
    CHECK(in_use() == before + 1000);
    CHECK((uintptr_t)memory % 256 == 0 && ((unsigned char *)memory)[999] == 0xFF);

    setenv("CUDASIM_MEMORY", "5000", 1);
    CHECK(cudaMalloc(&more, 4001) == cudaErrorMemoryAllocation && !more);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK_CUDA(cudaMalloc(&more, 4000));
    CHECK_CUDA(cudaFree(more));
    unsetenv("CUDASIM_MEMORY");

    char bytes[1001] = {0};
    CHECK(cudaMemcpy(memory, bytes, 1001, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK_REPORTED("ends before that");
    CHECK(cudaMemcpy(bytes, memory, 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK_REPORTED("is not a device's");
    CHECK(cudaMemcpy(memory, memory, 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK_REPORTED("is a device's");
    CHECK(cudaFree(bytes) == cudaErrorInvalidValue);
    CHECK_REPORTED("is not from cudaMalloc");
    CHECK_CUDA(cudaFree(memory));
    CHECK(cudaFree(memory) == cudaErrorInvalidValue);
    CHECK_REPORTED("is not from cudaMalloc");
    CHECK(in_use() == before);
    cudaGetLastError();
}

static void test_pools() {
    const size_t before = in_use();
    sim_stream stream;
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    cudaMemPool_t pool;
    CHECK_CUDA(cudaMemPoolCreate(&pool, &properties));
    uint64_t keep = 1500, number = 0;
    CHECK_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    void *first = nullptr, *second = nullptr;
    CHECK_CUDA(cudaMallocFromPoolAsync(&first, 1000, pool, stream));
    CHECK_CUDA(cudaMallocFromPoolAsync(&second, 1000, pool, stream));
    CHECK_CUDA(cudaMemsetAsync(first, 1, 1000, stream));
    CHECK_CUDA(cudaFreeAsync(first, stream)); /* after the memset: it must still be there for it */
    CHECK(cudaMemsetAsync(first, 1, 1000, stream) == cudaErrorInvalidValue);
    CHECK_REPORTED("is freed");
    CHECK(in_use() == before + 2000);
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK(in_use() == before + 1500);
    CHECK_CUDA(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &number));
    CHECK(number == 1000);
    CHECK_CUDA(cudaMemPoolTrimTo(pool, 0));
    CHECK(in_use() == before + 1000);
    CHECK_CUDA(cudaMemPoolDestroy(pool)); /* goes with its last allocation */
    CHECK_CUDA(cudaFreeAsync(second, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK(in_use() == before);
    cudaGetLastError();
}

/* ---- Devices and errors ---- */

static void test_devices() {
    int count = 0, device = -1, value = 0;
    CHECK_CUDA(cudaGetDeviceCount(&count));
    CHECK(count == 2);
    setenv("CUDASIM_DEVICES", "0", 1);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
    CHECK(cudaSetDevice(0) == cudaErrorNoDevice);
    setenv("CUDASIM_DEVICES", "3", 1);
    CHECK_CUDA(cudaSetDevice(2));
    CHECK(cudaSetDevice(3) == cudaErrorInvalidDevice);
    CHECK_CUDA(cudaGetDevice(&device));
    CHECK(device == 2);
    void *memory = nullptr;
    CHECK_CUDA(cudaMalloc(&memory, 100));
    CHECK(in_use() == 100);
    CHECK_CUDA(cudaSetDevice(0));
    CHECK(in_use() == 0);
    CHECK_CUDA(cudaFree(memory));
    unsetenv("CUDASIM_DEVICES");

    cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDeviceProperties(&properties, 1));
    CHECK(properties.major == 9 && properties.multiProcessorCount == 132 &&
          properties.sharedMemPerBlockOptin == 232448);
    CHECK_CUDA(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(value == 232448);
    CHECK(!strcmp(cudaGetErrorName(cudaErrorNotReady), "cudaErrorNotReady"));
    CHECK(!strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory"));
    cudaGetLastError();
    CHECK_REPORTED(nullptr);
}

static void test_default_stream() {
    sim_array<float> x(4);
    CHECK(cudaMemsetAsync(x.device, 0, 16, nullptr) == cudaErrorInvalidResourceHandle);
    CHECK_REPORTED("uses a default stream");
    cudasim_launch("fail_kernel", fail_kernel, 1, 1, 0, (cudaStream_t) nullptr);
    CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
    CHECK_REPORTED("uses a default stream");
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamDefault) == cudaErrorInvalidValue);
    CHECK_REPORTED("not cudaStreamNonBlocking");
    cudaGetLastError();
}

/* A kernel's fault shows where the host waits, stays, and leaves the other device alone; memory can still be freed. */
static void test_broken_device() {
    const size_t before = in_use();
    cudaStream_t stream;
    void *memory = nullptr, *other = nullptr;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaMalloc(&memory, 64));
    CHECK_CUDA(cudaMemset(memory, 1, 64));
    cudasim_launch("fail_kernel", fail_kernel, 1, 32, 0, stream);
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaMemsetAsync(memory, 2, 64, stream));
    CHECK(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure);
    CHECK(((unsigned char *)memory)[0] == 1); /* what came after it was not done */
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(cudaMalloc(&other, 64) == cudaErrorLaunchFailure);
    CHECK_CUDA(cudaSetDevice(1));
    CHECK_CUDA(cudaMalloc(&other, 64));
    CHECK_CUDA(cudaFree(other));
    CHECK_CUDA(cudaSetDevice(0));
    CHECK(cudaFree(memory) == cudaErrorLaunchFailure);
    CHECK(cudaStreamDestroy(stream) == cudaErrorLaunchFailure);
    CHECK(in_use() == before);
    CHECK_REPORTED("kernel fail_kernel: block (0, 0, 0): threads wait for each other");

    sim_stream again;
    cudasim_enqueue(again, "a library's work", [] { cudasim_report("a library's fault"); });
    CHECK(cudaStreamSynchronize(again) == cudaErrorLaunchFailure);
    CHECK_REPORTED("a library's fault");
    cudaGetLastError();
}

int main() {
    test_lazy_streams();
    test_events();
    test_graphs();
    test_memory();
    test_pools();
    test_devices();
    test_default_stream();
    test_broken_device();
    return sim_summary("cudasim streams");
}
