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
/* The device of the calling thread's context, which it is given where it has none: what a call that needs one does. */
cudaError_t use_device(int *device);
/* What a fault has left of the device: cudaSuccess, or the error that every call gives from then on. */
cudaError_t state_of(int device);
void break_device(int device);
void mend_devices();

/* ---- stream.cpp ---- */

/* Queues or records `work`, which gives false where it finds a fault. `always`: done on a broken device too. `ready`: asked
 * whenever the stream has come to it, until it gives true; where nothing else can go on, who waits for the stream sleeps
 * until another thread has queued something or called progress(). */
cudaError_t enqueue(cudaStream_t stream, const char *name, std::function<bool()> work, bool always = false,
                    std::function<bool()> ready = nullptr);
bool is_capturing(cudaStream_t stream);
/* Runs all that is queued on the device. wait false: as far as it goes. */
void finish_device(int device, bool wait = true);
/* The same of a stream, without waiting. */
void run_stream(cudaStream_t stream);
/* The same until `enough` gives true; from inside a task's `ready`. */
void run_stream_until(cudaStream_t stream, const std::function<bool()> &enough);
/* Something has changed that a `ready` may ask for. */
void progress();
/* A call that a thread must not make while it records: the recording is spoilt. */
cudaError_t refuse_while_recording(const char *call);
/* The stream exists; its device. */
cudaError_t check_stream(cudaStream_t stream, const char *call, int *device);

/* ---- memory.cpp ---- */

size_t total_memory();
/* When a call is made, other = device: `size` bytes at the address are the device's and not freed. When its turn comes:
 * the other device may use them, too. Reported if not. */
bool check_device_memory(const char *call, const void *address, size_t size, int device, int other);
/* After a synchronisation pools give back what they keep beyond their threshold. */
void trim_pools();
/* To the host, where CUDASIM_HIDE hides what lies on devices. */
void show_memory(bool shown);

} // namespace cudasim

#endif
