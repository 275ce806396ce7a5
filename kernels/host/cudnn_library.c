#include "cudnn_library.h"

#ifdef CAVMAE__CUDNN

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const char file[] = "libcudnn.so.9";

static int resolve(cavmae__cudnn_library *cudnn, char *why, size_t why_size) {
    void *found;
#define RESOLVE(name)                                                                                                  \
    if (!(found = dlsym(cudnn->handle, "cudnn" #name))) {                                                              \
        snprintf(why, why_size, "%s has no function cudnn" #name, file);                                               \
        return 0;                                                                                                      \
    }                                                                                                                  \
    memcpy(&cudnn->name, &found, sizeof found); /* ISO C has no cast from an object's address to a function's */
    CAVMAE__CUDNN_FUNCTIONS(RESOLVE)
#undef RESOLVE
    return 1;
}

cavmae_status cavmae__cudnn_library_open(cavmae__cudnn_library *cudnn, char *why, size_t why_size) {
    memset(cudnn, 0, sizeof *cudnn);
    /* NODELETE: it keeps threads and handlers of its own, which must not lose their code when the backend closes. */
    cudnn->handle = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!cudnn->handle) {
        snprintf(why, why_size, "cuDNN cannot be loaded: %s", dlerror());
        return CAVMAE_E_UNSUPPORTED;
    }
    if (!resolve(cudnn, why, why_size)) {
        cavmae__cudnn_library_close(cudnn);
        return CAVMAE_E_UNSUPPORTED;
    }
    cudnn->version = (int32_t)cudnn->GetVersion();
    if (cudnn->version < CAVMAE__CUDNN_OLDEST) {
        snprintf(why, why_size,
                 "cuDNN %d.%d.%d is too old: before 9.15.1 its attention reads past the end of lengths that are no "
                 "multiples of 128",
                 cudnn->version / 10000, cudnn->version / 100 % 100, cudnn->version % 100);
        cavmae__cudnn_library_close(cudnn);
        return CAVMAE_E_UNSUPPORTED;
    }
    return CAVMAE_OK;
}

void cavmae__cudnn_library_close(cavmae__cudnn_library *cudnn) {
    if (cudnn->handle) dlclose(cudnn->handle);
    cudnn->handle = NULL;
}

#endif
