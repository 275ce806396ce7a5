/* A libcuda.so.1 for machines without a driver, so that cuDNN builds plans: what it compiles it may load, look up and
 * set; whatever would need a device fails. Nothing can be run with it. */
typedef int result; /* CUresult */

enum { SUCCESS = 0, NO_DEVICE = 100 };

/* A handle only has to be something. */
static int something;

result cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f);
result cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    (void)code, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    *library = &something;
    return SUCCESS;
}

#define GIVES_HANDLE(name)                                                                                             \
    result name(void **handle, const void *of, const void *more);                                                      \
    result name(void **handle, const void *of, const void *more) {                                                     \
        (void)of, (void)more;                                                                                          \
        *handle = &something;                                                                                          \
        return SUCCESS;                                                                                                \
    }
GIVES_HANDLE(cuLibraryGetKernel)
GIVES_HANDLE(cuKernelGetFunction)
GIVES_HANDLE(cuModuleLoadData)
GIVES_HANDLE(cuModuleLoadDataEx)
GIVES_HANDLE(cuModuleGetFunction)

#define GIVES_ZERO(name)                                                                                               \
    result name(int *value);                                                                                           \
    result name(int *value) {                                                                                          \
        *value = 0;                                                                                                    \
        return SUCCESS;                                                                                                \
    }
GIVES_ZERO(cuKernelGetAttribute)
GIVES_ZERO(cuFuncGetAttribute)

#define GIVES(name, value)                                                                                             \
    result name(void);                                                                                                 \
    result name(void) { return value; }
GIVES(cuLibraryUnload, SUCCESS)
GIVES(cuModuleUnload, SUCCESS)
GIVES(cuKernelSetAttribute, SUCCESS)
GIVES(cuFuncSetAttribute, SUCCESS)
GIVES(cuCtxGetCurrent, NO_DEVICE)
GIVES(cuCtxGetLimit, NO_DEVICE)
GIVES(cuCtxPopCurrent, NO_DEVICE)
GIVES(cuCtxPushCurrent, NO_DEVICE)
GIVES(cuDeviceGet, NO_DEVICE)
GIVES(cuDeviceGetCount, NO_DEVICE)
GIVES(cuDriverGetVersion, NO_DEVICE)
GIVES(cuGetErrorName, NO_DEVICE)
GIVES(cuGetErrorString, NO_DEVICE)
GIVES(cuLaunchCooperativeKernel, NO_DEVICE)
GIVES(cuLaunchKernel, NO_DEVICE)
GIVES(cuLaunchKernelEx, NO_DEVICE)
GIVES(cuLibraryLoadFromFile, NO_DEVICE)
GIVES(cuLinkAddData, NO_DEVICE)
GIVES(cuLinkComplete, NO_DEVICE)
GIVES(cuLinkCreate, NO_DEVICE)
GIVES(cuLinkDestroy, NO_DEVICE)
GIVES(cuOccupancyMaxPotentialClusterSize, NO_DEVICE)
GIVES(cuStreamGetCtx, NO_DEVICE)
