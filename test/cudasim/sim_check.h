/* What the simulator's own tests share: checks, a stream, and kernels that must fail. */
#ifndef CUDASIM_SIM_CHECK_H
#define CUDASIM_SIM_CHECK_H

#include <cstdio>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "cudasim.h"

static int sim_passed, sim_failed;

static inline bool sim_check(bool good, const char *words, const char *file, int line) {
    (good ? sim_passed : sim_failed)++;
    if (!good) printf("%s:%d: not true: %s\n", file, line, words);
    return good;
}

#define CHECK(condition) sim_check((condition), #condition, __FILE__, __LINE__)
#define CHECK_CUDA(call) CHECK((call) == cudaSuccess)

static inline int sim_summary(const char *name) {
    printf("%s: %d passed, %d failed\n", name, sim_passed, sim_failed);
    return sim_failed != 0;
}

struct sim_stream {
    cudaStream_t stream = nullptr;
    sim_stream() { CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
    ~sim_stream() { cudaStreamDestroy(stream); }
    operator cudaStream_t() const { return stream; }
};

/* An array on the device, with what the host has of it. */
template <typename T> struct sim_array {
    std::vector<T> host;
    T *device = nullptr;
    explicit sim_array(size_t count) : host(count) { CHECK_CUDA(cudaMalloc((void **)&device, count * sizeof(T))); }
    ~sim_array() { cudaFree(device); }
    size_t bytes() const { return host.size() * sizeof(T); }
    void upload() { CHECK_CUDA(cudaMemcpy(device, host.data(), bytes(), cudaMemcpyHostToDevice)); }
    void download() { CHECK_CUDA(cudaMemcpy(host.data(), device, bytes(), cudaMemcpyDeviceToHost)); }
};

/* The faults since the last question are about this; none, where `words` is NULL. */
static inline bool sim_reported(const char *words, const char *file, int line) {
    const std::string reports = cudasim_take_reports();
    const bool good = words ? reports.find(words) != std::string::npos : reports.empty();
    if (!sim_check(good, words ? words : "nothing reported", file, line)) printf("reported: %s\n", reports.c_str());
    return good;
}
#define CHECK_REPORTED(words) sim_reported((words), __FILE__, __LINE__)

#endif
