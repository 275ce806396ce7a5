/* Who computes an attention: our kernels or cuDNN. */
#ifndef CAVMAE_KERNELS_ATTENTION_CHOICE_H
#define CAVMAE_KERNELS_ATTENTION_CHOICE_H

#include "cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* At the end of opening the backend, at the start of closing it. Sets cuda->attention_choices. close: NULL is fine. */
cavmae_status cavmae__attention_choices_open(cavmae__cuda *cuda);
void cavmae__attention_choices_close(cavmae__cuda *cuda);

/* *by = CAVMAE__ATTENTION_OWN or CAVMAE__ATTENTION_CUDNN. Only bfloat16 is ever cuDNN's. Where op->by leaves it open: own
 * without a tuning file; with one, what the file says, or the faster of the two, which is then measured on op's own
 * tensors and written there (waits for the device). While a step is recorded nothing is measured: own, until another call
 * can. own: our kernels. */
cavmae_status cavmae__attention_choose(cavmae__backend *backend, const cavmae__attention *op, int32_t backward,
                                       cavmae_status (*own)(cavmae__backend *, const cavmae__attention *), int32_t *by);

/* "attention: own ...": by which rule, and what was chosen for each shape seen so far, as far as `out` has room. */
void cavmae__attention_describe(cavmae__cuda *cuda, char *out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
