/* The CUDA backend from the inside: what its host side (C, in host/) and its kernels (CUDA C++, one operation a file)
 * share. Everything a context needs on its device hangs on one struct; there is no other state.
 *
 * All operations of a context run in its one stream, in the order of the calls, and return before they are done: only
 * download and sync wait. Any thread may call. */
#ifndef CAVMAE_KERNELS_CUDA_BACKEND_H
#define CAVMAE_KERNELS_CUDA_BACKEND_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend.h"
#include "device_plugin.h"

typedef struct cavmae__matmuls cavmae__matmuls;                     /* matmul.h */
typedef struct cavmae__staging cavmae__staging;                     /* cuda_memory.c */
typedef struct cavmae__cudnn cavmae__cudnn;                         /* cudnn_attention.h */
typedef struct cavmae__attention_choices cavmae__attention_choices; /* attention_choice.h */
typedef struct cavmae__thread_context cavmae__thread_context;       /* thread_context.c */

typedef struct cavmae__cuda {
    cavmae__backend base;
    const cavmae__library *library;
    int32_t device;       /* number */
    int32_t architecture; /* 90 for sm_90 */
    int32_t multiprocessors;
    size_t shared_memory;   /* that a block may ask for, in bytes */
    char name[288];         /* "cuda:0 (NVIDIA H100 80GB HBM3)": how texts name it */
    cudaStream_t stream;    /* of operations */
    cudaStream_t copies;    /* of uploads that run ahead */
    cudaStream_t recording; /* of operations while a repeat is recorded, on that thread only */
    cudaMemPool_t pool;
    cavmae__thread_context *thread_context;
    cavmae__staging *staging;
    cavmae__matmuls *matmuls;
    cavmae__cudnn *cudnn;
    cavmae__attention_choices *attention_choices;
    pthread_mutex_t record_lock; /* one recording at a time */
    pthread_t recorder;
    int recorder_set; /* atomic: recorder is valid */
    char info[8192];
} cavmae__cuda;

static inline cavmae__cuda *cavmae__cuda_of(cavmae__backend *backend) { return (cavmae__cuda *)backend; }

/* The stream that the calling thread's operations go to. */
cudaStream_t cavmae__cuda_stream(cavmae__backend *backend);

/* OK, or BACKEND (NOMEM where memory is short) with "cuda:0 (...): what: CUDA's words". */
cavmae_status cavmae__cuda_check(cavmae__backend *backend, cudaError_t error, const char *what);

#define CAVMAE__CUDA_FAIL(backend, code, ...) (cavmae__cuda_of(backend)->library->fail((code), __VA_ARGS__))

/* The operations of backend.h that are kernels or cuBLASLt's: X(name, record). The table's entries wrap them, so that
 * the calling thread's current device is the backend's during the call and what it was afterwards. */
#define CAVMAE__CUDA_OPERATIONS(X)                                                                                     \
    X(linear, cavmae__linear)                                                                                          \
    X(linear_grad, cavmae__linear_grad)                                                                                \
    X(gelu, cavmae__gelu)                                                                                              \
    X(convert, cavmae__convert)                                                                                        \
    X(layernorm, cavmae__layernorm)                                                                                    \
    X(layernorm_grad, cavmae__layernorm)                                                                               \
    X(attention, cavmae__attention)                                                                                    \
    X(attention_grad, cavmae__attention)                                                                               \
    X(patches, cavmae__patches)                                                                                        \
    X(place, cavmae__place)                                                                                            \
    X(table_grad, cavmae__table_grad)                                                                                  \
    X(combine, cavmae__combine)                                                                                        \
    X(segment_mean, cavmae__segment_mean)                                                                              \
    X(segment_mean_grad, cavmae__segment_mean)                                                                         \
    X(mix, cavmae__mix)                                                                                                \
    X(mix_grad, cavmae__mix)                                                                                           \
    X(class_loss, cavmae__class_loss)                                                                                  \
    X(mae_loss, cavmae__mae_loss)                                                                                      \
    X(contrastive, cavmae__contrastive)                                                                                \
    X(draw_masks, cavmae__draw_masks)                                                                                  \
    X(index_tokens, cavmae__index_tokens)                                                                              \
    X(sum_squares, cavmae__sum_squares)                                                                                \
    X(adam, cavmae__adam)                                                                                              \
    X(spectrogram, cavmae__spectrogram)                                                                                \
    X(pictures, cavmae__pictures)                                                                                      \
    X(top_k, cavmae__top_k)

#define CAVMAE__CUDA_DECLARE(name, record) cavmae_status cavmae__cuda_##name(cavmae__backend *, const record *);
CAVMAE__CUDA_OPERATIONS(CAVMAE__CUDA_DECLARE)
#undef CAVMAE__CUDA_DECLARE

/* Bytes of workspace that the operation needs, for any call within the limits. An operation uses the workspace from
 * its start; none keeps anything in it. */
size_t cavmae__cuda_linear_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_layernorm_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_attention_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_table_grad_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_class_loss_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_mae_loss_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_contrastive_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_draw_masks_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_sum_squares_workspace(const cavmae__limits *limits);
size_t cavmae__cuda_spectrogram_workspace(cavmae__backend *backend, const cavmae__spectrogram *op);
size_t cavmae__cuda_pictures_workspace(cavmae__backend *backend, const cavmae__pictures *op);
size_t cavmae__cuda_top_k_workspace(cavmae__backend *backend, const cavmae__top_k *op);

/* Parts of other operations, device pointers (convert.cu). */
/* d *= gelu'(x), exact. */
cavmae_status cavmae__cuda_gelu_grad(cavmae__backend *backend, const void *x, void *d, int32_t dtype, int64_t count);
/* sums [columns] = column sums of x [rows, columns], in an order that shapes alone fix; narrow (bfloat16, [rows, columns],
 * NULL: not wanted) = x in the same pass. accumulate 1: added to sums. scratch: column_sums_workspace bytes. */
cavmae_status cavmae__cuda_column_sums(cavmae__backend *backend, const void *x, int32_t dtype, int64_t rows,
                                       int32_t columns, void *narrow, float *sums, int32_t accumulate, void *scratch);
size_t cavmae__cuda_column_sums_workspace(int64_t rows, int32_t columns);

#ifdef __cplusplus
}
#endif

#endif
