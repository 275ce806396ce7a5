/* cuDNN, which need not be there: opened when first asked for, its functions in a table. */
#ifndef CAVMAE_KERNELS_CUDNN_LIBRARY_H
#define CAVMAE_KERNELS_CUDNN_LIBRARY_H

#include "device_plugin.h"

/* The lowest version that is used. Below, attention over a length that is no multiple of 128 reads past its end, most
 * often when a CUDA graph is played back. */
enum { CAVMAE__CUDNN_OLDEST = 91501 };

#ifdef CAVMAE_HAVE_CUDNN
#include <cudnn_version.h>
#if CUDNN_VERSION >= 91501
#define CAVMAE__CUDNN 1
#endif
#endif

#ifdef CAVMAE__CUDNN
#include <cudnn_graph.h>

#define CAVMAE__CUDNN_FUNCTIONS(X)                                                                                     \
    X(GetVersion)                                                                                                      \
    X(GetErrorString)                                                                                                  \
    X(GetLastErrorString)                                                                                              \
    X(Create)                                                                                                          \
    X(Destroy)                                                                                                         \
    X(SetStream)                                                                                                       \
    X(BackendCreateDescriptor)                                                                                         \
    X(BackendDestroyDescriptor)                                                                                        \
    X(BackendSetAttribute)                                                                                             \
    X(BackendGetAttribute)                                                                                             \
    X(BackendFinalize)                                                                                                 \
    X(BackendExecute)

typedef struct cavmae__cudnn_library {
    void *handle;
    int32_t version; /* 91900 for 9.19.0 */
#define CAVMAE__CUDNN_MEMBER(name) __typeof__(cudnn##name) *name;
    CAVMAE__CUDNN_FUNCTIONS(CAVMAE__CUDNN_MEMBER)
#undef CAVMAE__CUDNN_MEMBER
} cavmae__cudnn_library;

/* UNSUPPORTED, with a sentence in `why`, where cuDNN is missing or too old. */
cavmae_status cavmae__cudnn_library_open(cavmae__cudnn_library *cudnn, char *why, size_t why_size);
void cavmae__cudnn_library_close(cavmae__cudnn_library *cudnn);

#endif
#endif
