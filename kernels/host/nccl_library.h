/* NCCL, which need not be there: opened when first asked for, its functions in a table. */
#ifndef CAVMAE_KERNELS_NCCL_LIBRARY_H
#define CAVMAE_KERNELS_NCCL_LIBRARY_H

#include "device_plugin.h"

/* The lowest version that is used: the first whose non-blocking communicators can be aborted at any time. */
enum { CAVMAE__NCCL_OLDEST = 21800 };

#ifdef CAVMAE_HAVE_NCCL
#include <nccl.h>
#if NCCL_VERSION_CODE >= 21800
#define CAVMAE__NCCL 1
#endif
#endif

#ifdef CAVMAE__NCCL

#define CAVMAE__NCCL_FUNCTIONS(X)                                                                                      \
    X(GetVersion)                                                                                                      \
    X(GetErrorString)                                                                                                  \
    X(GetLastError)                                                                                                    \
    X(GetUniqueId)                                                                                                     \
    X(CommInitRankConfig)                                                                                              \
    X(CommGetAsyncError)                                                                                               \
    X(CommFinalize)                                                                                                    \
    X(CommDestroy)                                                                                                     \
    X(CommAbort)                                                                                                       \
    X(AllReduce)                                                                                                       \
    X(ReduceScatter)                                                                                                   \
    X(AllGather)                                                                                                       \
    X(Broadcast)

typedef struct cavmae__nccl_library {
    void *handle;
    int32_t version; /* 22809 for 2.28.9 */
#define CAVMAE__NCCL_MEMBER(name) __typeof__(nccl##name) *name;
    CAVMAE__NCCL_FUNCTIONS(CAVMAE__NCCL_MEMBER)
#undef CAVMAE__NCCL_MEMBER
} cavmae__nccl_library;

/* BACKEND, with the loader's words, where NCCL is missing or too old. */
cavmae_status cavmae__nccl_library_open(const cavmae__library *library, cavmae__nccl_library *nccl);
void cavmae__nccl_library_close(cavmae__nccl_library *nccl);

#endif
#endif
