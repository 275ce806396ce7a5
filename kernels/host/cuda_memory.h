/* Device memory, and copies between it and the host's. */
#ifndef CAVMAE_KERNELS_CUDA_MEMORY_H
#define CAVMAE_KERNELS_CUDA_MEMORY_H

#include "cuda_backend.h"

cavmae_status cavmae__cuda_memory_open(cavmae__cuda *cuda);
void cavmae__cuda_memory_close(cavmae__cuda *cuda);

cavmae_status cavmae__cuda_alloc(cavmae__cuda *cuda, size_t size, void **out);
void cavmae__cuda_free(cavmae__cuda *cuda, void *memory);
/* As backend.h says. ahead: beside the operations under way. */
cavmae_status cavmae__cuda_upload(cavmae__cuda *cuda, void *device, const void *host, size_t size, int ahead);
cavmae_status cavmae__cuda_download(cavmae__cuda *cuda, void *host, const void *device, size_t size);
cavmae_status cavmae__cuda_give(cavmae__cuda *cuda, void *to, const void *host, size_t size);

#endif
