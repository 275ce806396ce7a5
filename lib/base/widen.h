/* Floating-point numbers of any width as float32. */
#ifndef CAVMAE_BASE_WIDEN_H
#define CAVMAE_BASE_WIDEN_H

#include <stdint.h>

/* 1 for float32, float64, float16 and bfloat16. */
int cavmae__is_floating(int32_t dtype);

/* data [count], aligned to its type, of a floating dtype; float64 is rounded, the others are exact. */
void cavmae__widen(int32_t dtype, const void *data, int64_t count, float *out);

#endif
