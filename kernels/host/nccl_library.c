#include "nccl_library.h"

#ifdef CAVMAE__NCCL

#include <dlfcn.h>
#include <string.h>

static const char file[] = "libnccl.so.2";

static const char *find_functions(cavmae__nccl_library *nccl) {
    void *found;
#define FIND(name)                                                                                                     \
    if (!(found = dlsym(nccl->handle, "nccl" #name))) return "nccl" #name;                                             \
    memcpy(&nccl->name, &found, sizeof found); /* ISO C has no cast from an object's address to a function's */
    CAVMAE__NCCL_FUNCTIONS(FIND)
#undef FIND
    return NULL;
}

cavmae_status cavmae__nccl_library_open(const cavmae__library *library, cavmae__nccl_library *nccl) {
    memset(nccl, 0, sizeof *nccl);
    /* NODELETE: who has made an id keeps a thread that answers the ranks, which must not lose its code. */
    nccl->handle = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!nccl->handle) return library->fail(CAVMAE_E_BACKEND, "NCCL cannot be loaded: %s", dlerror());
    const char *missing = find_functions(nccl);
    int version = 0;
    if (!missing && nccl->GetVersion(&version) == ncclSuccess && version >= CAVMAE__NCCL_OLDEST) {
        nccl->version = version;
        return CAVMAE_OK;
    }
    cavmae__nccl_library_close(nccl);
    if (missing) return library->fail(CAVMAE_E_BACKEND, "%s has no function %s", file, missing);
    return library->fail(CAVMAE_E_BACKEND,
                         "NCCL %d.%d.%d is too old: before 2.18 a rank that waits for a missing one cannot be ended",
                         version / 10000, version / 100 % 100, version % 100);
}

void cavmae__nccl_library_close(cavmae__nccl_library *nccl) {
    if (nccl->handle) dlclose(nccl->handle);
    nccl->handle = NULL;
}

#endif
