/* Collectives between GPUs, by NCCL. */
#ifndef CAVMAE_KERNELS_NCCL_CARRIER_H
#define CAVMAE_KERNELS_NCCL_CARRIER_H

#include "carrier.h"
#include "cuda_backend.h"

cavmae_status cavmae__nccl_new_id(cavmae__cuda *cuda, uint8_t *id);
cavmae_status cavmae__nccl_open(cavmae__cuda *cuda, const cavmae__carrier_options *options, void **carrier);

#endif
