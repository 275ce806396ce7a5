/* What the parts of the runtime's stand-in share. */
#ifndef CUDASIM_RUNTIME_H
#define CUDASIM_RUNTIME_H

#include <functional>
#include <string>

#include <cuda_runtime_api.h>

namespace cudasim {

/* Remembered as the calling thread's last error, unless it is success; given back. */
cudaError_t failed(cudaError_t error);

/* Written to stderr and kept for cudasim_take_reports. */
void report(const std::string &words);

/* ---- device.cpp ---- */

int device_count();
int current_device();
/* What a fault has left of the device: cudaSuccess, or the error that every call gives from then on. */
cudaError_t state_of(int device);
void break_device(int device);
void mend_devices();

/* ---- stream.cpp ---- */

/* Queues or records `work`, which gives false where it finds a fault. `always`: done on a broken device too. */
cudaError_t enqueue(cudaStream_t stream, const char *name, std::function<bool()> work, bool always = false);
bool is_capturing(cudaStream_t stream);
/* Runs all that is queued on the device. */
void finish_device(int device);
/* A call that a thread must not make while it records: the recording is spoilt. */
cudaError_t refuse_while_recording(const char *call);
/* The stream exists; its device. */
cudaError_t check_stream(cudaStream_t stream, const char *call, int *device);

/* ---- memory.cpp ---- */

/* After a synchronisation pools give back what they keep beyond their threshold. */
void trim_pools();

} // namespace cudasim

#endif
