/* Opening a device, the table of operations, and closing: everything that a context holds on its device is made and
 * freed here or in a file that this one calls. */
#include "cuda_backend.h"

#include <cublasLt.h>
#include <stdio.h>
#include <string.h>

#include "attention_choice.h"
#include "cuda_memory.h"
#include "cudnn_attention.h"
#include "matmul.h"
#include "nccl_carrier.h"
#include "repeat.h"
#include "thread_context.h"

enum { OLDEST_ARCHITECTURE = 80 };

cudaStream_t cavmae__cuda_stream(cavmae__backend *backend) {
    cavmae__cuda *cuda = cavmae__cuda_of(backend);
    return cavmae__cuda_recording(cuda) ? cuda->recording : cuda->stream;
}

cavmae_status cavmae__cuda_check(cavmae__backend *backend, cudaError_t error, const char *what) {
    const cavmae__cuda *cuda = cavmae__cuda_of(backend);
    if (error == cudaSuccess) return CAVMAE_OK;
    cudaGetLastError(); /* an error that does not last is not the next call's */
    return cuda->library->fail(error == cudaErrorMemoryAllocation ? CAVMAE_E_NOMEM : CAVMAE_E_BACKEND, "%s: %s: %s",
                               cuda->name, what, cudaGetErrorString(error));
}

#define ENTER(backend)                                                                                                 \
    cavmae__cuda *const cuda = cavmae__cuda_of(backend);                                                               \
    const int entered = cavmae__enter(cuda)
#define LEAVE(call)                                                                                                    \
    const cavmae_status status = (call);                                                                               \
    cavmae__leave(cuda, entered);                                                                                      \
    return status

#define OPERATION(name, record)                                                                                        \
    static cavmae_status call_##name(cavmae__backend *backend, const record *op) {                                     \
        ENTER(backend);                                                                                                \
        LEAVE(cavmae__cuda_##name(backend, op));                                                                       \
    }
CAVMAE__CUDA_OPERATIONS(OPERATION)
#undef OPERATION

static cavmae_status call_alloc(cavmae__backend *backend, size_t size, void **out) {
    ENTER(backend);
    LEAVE(cavmae__cuda_alloc(cuda, size, out));
}

static void call_free(cavmae__backend *backend, void *memory) {
    ENTER(backend);
    cavmae__cuda_free(cuda, memory);
    cavmae__leave(cuda, entered);
}

static cavmae_status call_upload(cavmae__backend *backend, void *device, const void *host, size_t size) {
    ENTER(backend);
    LEAVE(cavmae__cuda_upload(cuda, device, host, size, 0));
}

static cavmae_status call_upload_ahead(cavmae__backend *backend, void *device, const void *host, size_t size) {
    ENTER(backend);
    LEAVE(cavmae__cuda_upload(cuda, device, host, size, 1));
}

static cavmae_status call_download(cavmae__backend *backend, void *host, const void *device, size_t size) {
    ENTER(backend);
    LEAVE(cavmae__cuda_download(cuda, host, device, size));
}

static cavmae_status call_give(cavmae__backend *backend, void *to, const void *host, size_t size) {
    ENTER(backend);
    LEAVE(cavmae__cuda_give(cuda, to, host, size));
}

static cavmae_status call_zero(cavmae__backend *backend, void *device, size_t size) {
    ENTER(backend);
    LEAVE(size ? cavmae__cuda_check(backend, cudaMemsetAsync(device, 0, size, cavmae__cuda_stream(backend)), "zero")
               : CAVMAE_OK);
}

static cavmae_status call_sync(cavmae__backend *backend) {
    ENTER(backend);
    LEAVE(cavmae__cuda_check(backend, cudaStreamSynchronize(cuda->stream), "sync"));
}

static cavmae_status call_repeat(cavmae__backend *backend, cavmae__repeat *repeat, uint64_t key,
                                 cavmae__repeat_body *body, void *arg) {
    ENTER(backend);
    LEAVE(cavmae__cuda_repeat(cuda, repeat, key, body, arg));
}

static void call_repeat_free(cavmae__backend *backend, cavmae__repeat *repeat) {
    ENTER(backend);
    cavmae__cuda_repeat_free(cuda, repeat);
    cavmae__leave(cuda, entered);
}

/* ---- Workspace and description ---- */

static size_t workspace_size(cavmae__backend *backend, const cavmae__limits *limits) {
    size_t (*const parts[])(const cavmae__limits *) = {
        cavmae__cuda_linear_workspace,      cavmae__cuda_layernorm_workspace,  cavmae__cuda_attention_workspace,
        cavmae__cuda_table_grad_workspace,  cavmae__cuda_class_loss_workspace, cavmae__cuda_mae_loss_workspace,
        cavmae__cuda_contrastive_workspace, cavmae__cuda_draw_masks_workspace, cavmae__cuda_sum_squares_workspace};
    size_t most = 0;
    (void)backend;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i](limits) > most) most = parts[i](limits);
    return (most + 255) / 256 * 256;
}

static const char *info(cavmae__backend *backend) {
    cavmae__cuda *cuda = cavmae__cuda_of(backend);
    int runtime = 0, driver = 0;
    char cudnn[500], attention[sizeof cuda->info - 1000];
    cavmae__cudnn_describe(backend, cudnn, sizeof cudnn);
    cavmae__attention_describe(cuda, attention, sizeof attention);
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    snprintf(cuda->info, sizeof cuda->info,
             "%s, sm_%d, %d multiprocessors; CUDA %d.%d, driver for %d.%d, cuBLASLt %zu, %s\n%s", cuda->name,
             cuda->architecture, cuda->multiprocessors, runtime / 1000, runtime % 1000 / 10, driver / 1000,
             driver % 1000 / 10, cublasLtGetVersion(), cudnn, attention);
    return cuda->info;
}

/* ---- Life ---- */

static void close_cuda(cavmae__backend *backend) {
    ENTER(backend);
    const cavmae__library *library = cuda->library;
    cavmae_context *context = backend->context;
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    if (cuda->copies) cudaStreamSynchronize(cuda->copies);
    cavmae__attention_choices_close(cuda);
    cavmae__cudnn_close(cuda);
    cavmae__matmuls_close(cuda);
    cavmae__cuda_memory_close(cuda);
    if (cuda->recording) cudaStreamDestroy(cuda->recording);
    if (cuda->copies) cudaStreamDestroy(cuda->copies);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    cavmae__leave(cuda, entered);
    cavmae__thread_context_close(cuda);
    pthread_mutex_destroy(&cuda->record_lock);
    library->free(context, cuda);
}

static const cavmae__backend_ops cuda_ops = {
    .struct_size = sizeof(cavmae__backend_ops),
    .name = "cuda",
    .host_memory = 0,
    .alloc = call_alloc,
    .free = call_free,
    .upload = call_upload,
    .upload_ahead = call_upload_ahead,
    .download = call_download,
    .give = call_give,
    .zero = call_zero,
    .sync = call_sync,
    .workspace_size = workspace_size,
#define OPERATION(name, record) .name = call_##name,
    CAVMAE__CUDA_OPERATIONS(OPERATION)
#undef OPERATION
        .repeat = call_repeat,
    .repeat_free = call_repeat_free,
    .spectrogram_workspace = cavmae__cuda_spectrogram_workspace,
    .pictures_workspace = cavmae__cuda_pictures_workspace,
    .top_k_workspace = cavmae__cuda_top_k_workspace,
    .info = info,
    .close = close_cuda,
};

/* No driver and no device are the user's to mend: the sentence says which. */
static cavmae_status find_device(cavmae__cuda *cuda) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) {
        cudaGetLastError();
        return cuda->library->fail(CAVMAE_E_BACKEND, "%s",
                                   error == cudaErrorNoDevice ? "this machine has no CUDA device"
                                                              : "no NVIDIA driver is loaded, or it is older than "
                                                                "this build's CUDA");
    }
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, error, "looking for devices"));
    if (cuda->device >= count)
        return cuda->library->fail(CAVMAE_E_BACKEND, "there %s %d CUDA device%s, numbered from 0",
                                   count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    return CAVMAE_OK;
}

static cavmae_status describe_device(cavmae__cuda *cuda) {
    struct cudaDeviceProp properties;
    CAVMAE__TRY(cavmae__cuda_check(&cuda->base, cudaGetDeviceProperties(&properties, cuda->device), "its properties"));
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d (%s)", cuda->device, properties.name);
    cuda->architecture = properties.major * 10 + properties.minor;
    cuda->multiprocessors = properties.multiProcessorCount;
    cuda->shared_memory = properties.sharedMemPerBlockOptin;
    if (cuda->architecture < OLDEST_ARCHITECTURE)
        return cuda->library->fail(CAVMAE_E_UNSUPPORTED, "%s: sm_%d; this build is for sm_%d and later", cuda->name,
                                   cuda->architecture, OLDEST_ARCHITECTURE);
    return CAVMAE_OK;
}

static cavmae_status open_parts(cavmae__cuda *cuda) {
    cavmae__backend *backend = &cuda->base;
    CAVMAE__TRY(describe_device(cuda));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "stream"));
    CAVMAE__TRY(cavmae__cuda_check(backend, cudaStreamCreateWithFlags(&cuda->copies, cudaStreamNonBlocking), "stream"));
    CAVMAE__TRY(
        cavmae__cuda_check(backend, cudaStreamCreateWithFlags(&cuda->recording, cudaStreamNonBlocking), "stream"));
    CAVMAE__TRY(cavmae__cuda_memory_open(cuda));
    CAVMAE__TRY(cavmae__matmuls_open(cuda));
    CAVMAE__TRY(cavmae__cudnn_open(cuda));
    return cavmae__attention_choices_open(cuda);
}

static cavmae_status open_cuda(const cavmae__library *library, cavmae_context *context, int32_t number, void **out) {
    cavmae__cuda *cuda = library->alloc(context, sizeof *cuda);
    if (!cuda) return CAVMAE_E_NOMEM;
    memset(cuda, 0, sizeof *cuda);
    cuda->base.ops = &cuda_ops;
    cuda->base.context = context;
    cuda->library = library;
    cuda->device = number;
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d", (int)number);
    pthread_mutex_init(&cuda->record_lock, NULL);
    cavmae_status status = find_device(cuda);
    if (status == CAVMAE_OK) status = cavmae__thread_context_open(cuda);
    const int entered = cavmae__enter(cuda);
    if (status == CAVMAE_OK) status = open_parts(cuda);
    cavmae__leave(cuda, entered);
    if (status == CAVMAE_OK)
        *out = &cuda->base;
    else
        close_cuda(&cuda->base);
    return status;
}

static void close_backend(void *backend) { close_cuda(backend); }

static cavmae_status new_id(void *backend, uint8_t *id) {
    ENTER(backend);
    LEAVE(cavmae__nccl_new_id(cuda, id));
}

static cavmae_status open_carrier(void *backend, const void *options, void **carrier) {
    ENTER(backend);
    LEAVE(cavmae__nccl_open(cuda, options, carrier));
}

CAVMAE_API const cavmae__device_plugin *cavmae_cuda_plugin(void);

/* The plug-in's one symbol. */
const cavmae__device_plugin *cavmae_cuda_plugin(void) {
    static const cavmae__device_plugin plugin = {.struct_size = sizeof plugin,
                                                 .library_size = sizeof(cavmae__library),
                                                 .version = CAVMAE_VERSION_STRING,
                                                 .open = open_cuda,
                                                 .close = close_backend,
                                                 .new_id = new_id,
                                                 .open_carrier = open_carrier};
    return &plugin;
}
