/* A stand-in for cuDNN: a table of functions that keeps what is set, and computes a graph operation by operation on the
 * host, as the words of cuDNN's manual have it. It shows what a graph says, not what cuDNN makes of it. */
#ifndef CAVMAE_TEST_CUDNN_STAND_IN_H
#define CAVMAE_TEST_CUDNN_STAND_IN_H

#include "cudnn_library.h"

enum { STAND_IN_PLANS = 2, STAND_IN_WORKSPACE = 48 };

/* Functions of the stand-in; its calls give cuDNN's errors from the fail_at-th on, if that is not 0, `fail_for` times. */
void stand_in_open(cavmae__cudnn_library *cudnn, int fail_at, int fail_for);

int stand_in_calls(void);       /* since it was opened */
int stand_in_descriptors(void); /* alive */

float stand_in_bf16(float x); /* x rounded to bfloat16 */

#endif
