/* The simulator, for the stand-ins of CUDA's libraries and for its own test.
 *
 * Streams are lazy: what is queued runs when the host waits for it, so a wait that is missing shows every time. Device
 * memory is host memory, each allocation one of malloc's (AddressSanitizer sees its ends), filled with 0xFF at first.
 * A fault in a kernel is written to stderr and ends the launch; the device then gives cudaErrorLaunchFailure for good,
 * as a real one does. Environment: CUDASIM_DEVICES (2), CUDASIM_MEMORY (80 GB; bytes of one device), CUDASIM_THREADS
 * (as many as the machine has; they run the blocks of a grid). NCCL's are named in nccl.cpp. */
#ifndef CUDASIM_CUDASIM_H
#define CUDASIM_CUDASIM_H

#include <cstdint>
#include <functional>
#include <string>

#include <cuda_runtime_api.h>

/* Queues `work` in the stream, or in the graph that it records (then run at each launch of the graph). */
void cudasim_enqueue(cudaStream_t stream, const char *name, std::function<void()> work);

/* Calls function(0) .. function(count - 1), on several threads once that pays. */
void cudasim_for_each(uint64_t count, const std::function<void(uint64_t)> &function);

/* A fault that a stand-in has found: reported as the kernel's are. Inside queued work it also fails the device. */
void cudasim_report(const std::string &text);

/* All faults reported since the last call, a line each; and the devices work again. */
std::string cudasim_take_reports();

#endif
