/* cavmae_tensor from the inside: what the public calls do not need to say. */
#ifndef CAVMAE_BASE_TENSOR_H
#define CAVMAE_BASE_TENSOR_H

#include "context.h"

size_t cavmae__dtype_size(int32_t dtype);      /* bytes of one element; 0 for an unknown dtype */
const char *cavmae__dtype_name(int32_t dtype); /* "float32", ... */

/* bytes = product of shape * element size, or CAVMAE_E_SHAPE on a negative size or overflow. */
cavmae_status cavmae__tensor_bytes(int32_t dtype, int32_t dims, const int64_t *shape, size_t *bytes);

#endif
