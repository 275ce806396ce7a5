/* Whose device the calling thread's CUDA calls go to: the backend's between enter and leave, afterwards whatever it was. */
#ifndef CAVMAE_KERNELS_THREAD_CONTEXT_H
#define CAVMAE_KERNELS_THREAD_CONTEXT_H

#include "cuda_backend.h"

cavmae_status cavmae__thread_context_open(cavmae__cuda *cuda);
void cavmae__thread_context_close(cavmae__cuda *cuda);

/* In pairs, on one thread; they may be nested. enter gives what leave is to be told. */
int cavmae__enter(const cavmae__cuda *cuda);
void cavmae__leave(const cavmae__cuda *cuda, int entered);

/* Whether this process works on the device of that number. */
int cavmae__device_in_use(const cavmae__cuda *cuda, int number);

#endif
