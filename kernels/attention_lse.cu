/* The log of the sum of exponentials in the order that cuDNN's way back takes it in. */
#include "attention.h"
#include "cuda_kernel.h"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS)
    lse_kernel(const float *lse, int64_t numbers, int64_t length, int32_t heads, float *y) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= numbers) return;
    const int64_t row = i % length, head = i / length % heads, segment = i / length / heads;
    y[i] = lse[(segment * length + row) * heads + head];
}

extern "C" cavmae_status cavmae__cuda_lse_by_head(cavmae__backend *backend, const float *lse, int64_t count,
                                                  int64_t length, int32_t heads, float *y) {
    const int64_t numbers = count * length * heads;
    return CAVMAE__LAUNCH(backend, lse_kernel, cavmae__blocks_for(numbers, THREADS), THREADS, 0, lse, numbers, length,
                          heads, y);
}
