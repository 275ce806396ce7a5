/* Recording a step's operations as a CUDA graph, and playing them back. */
#ifndef CAVMAE_KERNELS_REPEAT_H
#define CAVMAE_KERNELS_REPEAT_H

#include "cuda_backend.h"

/* Whether the calling thread is recording: its operations then go to another stream, which only records. */
int cavmae__cuda_recording(cavmae__cuda *cuda);

cavmae_status cavmae__cuda_repeat(cavmae__cuda *cuda, cavmae__repeat *repeat, uint64_t key, cavmae__repeat_body *body,
                                  void *arg);
void cavmae__cuda_repeat_free(cavmae__cuda *cuda, cavmae__repeat *repeat);

#endif
