#include "matmul.h"

#include <cublasLt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tuning_file.h"

enum {
    BUCKETS = 512,
    MOST_PLANS = 4096, /* then all are made anew: clips of many lengths must not fill memory */
    CANDIDATES = 8,    /* that are measured */
    ROUNDS = 3,
    RUNS = 3,                  /* of a candidate in a round */
    WORKSPACE_ALIGNMENT = 256, /* cuBLASLt's wish */
    KNOWN_ALIGNMENT = 64       /* more is not said of an address: all buffers have this, and so one plan serves them */
};

/* What a product is, apart from addresses and numbers. No padding: compared as bytes. */
typedef struct description {
    int64_t m, n, k, a_stride, b_stride, d_stride, aux_stride;
    int32_t a_transposed, b_transposed, dtype, d_dtype, tf32, epilogue, adds;
    int32_t a_aligned, b_aligned, c_aligned, d_aligned, bias_aligned, aux_aligned;
    int32_t reserved;
} description;

enum { PLAN_WHOLE, PLAN_SPLIT, PLAN_PLAIN }; /* epilogue and all; product, then the rest; none by cuBLASLt */

typedef struct plan {
    struct plan *next;
    description key;
    int how, measured;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t left, right, out; /* cuBLASLt's A, B, and C and D */
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct cavmae__matmuls {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    pthread_mutex_t lock;
    plan *bucket[BUCKETS];
    int plans;
    void *memory, *workspace;
    size_t workspace_size;
    cavmae__tuning tuning;
};

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == CAVMAE__TUNING_WORDS * sizeof(uint64_t), "an algorithm in a file");

static cavmae_status fail(cavmae__cuda *cuda, cublasStatus_t status, const char *what) {
    return cuda->library->fail(status == CUBLAS_STATUS_ALLOC_FAILED ? CAVMAE_E_NOMEM : CAVMAE_E_BACKEND, "%s: %s: %s",
                               cuda->name, what, cublasLtGetStatusString(status));
}

/* ---- Describing ---- */

static int32_t alignment_of(const void *address) {
    const uintptr_t bits = (uintptr_t)address;
    int32_t alignment = KNOWN_ALIGNMENT;
    while (bits % (uintptr_t)alignment) alignment /= 2;
    return alignment;
}

static cublasLtEpilogue_t epilogue_of(const cavmae__matmul *op) {
    if (op->a_sums) return CUBLASLT_EPILOGUE_BGRADB; /* cuBLASLt's B is a */
    if (op->activation == CAVMAE__ACTIVATION_GELU_GRAD) return CUBLASLT_EPILOGUE_DGELU;
    if (op->activation == CAVMAE__ACTIVATION_GELU)
        return op->aux    ? op->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX
               : op->bias ? CUBLASLT_EPILOGUE_GELU_BIAS
                          : CUBLASLT_EPILOGUE_GELU;
    return op->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static description describe(const cavmae__matmul *op) {
    const void *vector = op->a_sums ? op->a_sums : op->bias;
    return (description){.m = op->m,
                         .n = op->n,
                         .k = op->k,
                         .a_stride = op->a_stride,
                         .b_stride = op->b_stride,
                         .d_stride = op->d_stride,
                         .aux_stride = op->aux ? op->aux_stride : 0,
                         .a_transposed = op->a_transposed,
                         .b_transposed = op->b_transposed,
                         .dtype = op->dtype,
                         .d_dtype = op->d_dtype,
                         .tf32 = op->tf32,
                         .epilogue = (int32_t)epilogue_of(op),
                         .adds = op->beta != 0,
                         .a_aligned = alignment_of(op->a),
                         .b_aligned = alignment_of(op->b),
                         .c_aligned = alignment_of(op->c),
                         .d_aligned = alignment_of(op->d),
                         .bias_aligned = alignment_of(vector),
                         .aux_aligned = alignment_of(op->aux)};
}

static cudaDataType_t data_type(int32_t dtype) {
    return dtype == CAVMAE__E4M3 ? CUDA_R_8F_E4M3 : dtype == CAVMAE_BFLOAT16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasStatus_t set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void *value,
                          size_t size, cublasStatus_t before) {
    return before != CUBLAS_STATUS_SUCCESS ? before : cublasLtMatmulDescSetAttribute(operation, attribute, value, size);
}

/* The addresses that a call's epilogue and scales take. */
static cublasStatus_t set_addresses(cublasLtMatmulDesc_t operation, const cavmae__matmul *op) {
    const void *vector = op->a_sums ? op->a_sums : op->bias;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    if (vector) s = set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector, sizeof vector, s);
    if (op->aux) s = set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &op->aux, sizeof op->aux, s);
    if (op->dtype == CAVMAE__E4M3) {
        s = set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &op->b_scale, sizeof op->b_scale, s);
        s = set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &op->a_scale, sizeof op->a_scale, s);
    }
    return s;
}

static cublasStatus_t make_operation(plan *p, const cavmae__matmul *op) {
    const int32_t left = op->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                  right = op->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint32_t epilogue = (uint32_t)p->key.epilogue;
    cublasStatus_t s = cublasLtMatmulDescCreate(
        &p->operation, op->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F);
    s = set(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof left, s);
    s = set(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &right, sizeof right, s);
    s = set(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, s);
    if (op->aux) s = set(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &op->aux_stride, sizeof(int64_t), s);
    if (op->dtype == CAVMAE__E4M3) {
        const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, bias = CUDA_R_16BF;
        const int8_t fast =
            1; /* sums of some products at a time are shorter than float32: e4m3's rounding is far more */
        s = set(p->operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode, s);
        s = set(p->operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode, s);
        s = set(p->operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast, s);
        if (op->bias) s = set(p->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias, s);
    }
    return s == CUBLAS_STATUS_SUCCESS ? set_addresses(p->operation, op) : s;
}

/* Row-major [rows, columns] is column-major [columns, rows]: d^T = op(b)^T op(a)^T. */
static cublasStatus_t make_layouts(plan *p, const cavmae__matmul *op) {
    const uint64_t m = (uint64_t)op->m, n = (uint64_t)op->n, k = (uint64_t)op->k;
    const cudaDataType_t in = data_type(op->dtype);
    cublasStatus_t s =
        cublasLtMatrixLayoutCreate(&p->left, in, op->b_transposed ? k : n, op->b_transposed ? n : k, op->b_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&p->right, in, op->a_transposed ? m : k, op->a_transposed ? k : m, op->a_stride);
    if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatrixLayoutCreate(&p->out, data_type(op->d_dtype), n, m, op->d_stride);
    return s;
}

static void free_plan(cavmae__cuda *cuda, plan *p) {
    if (p->out) cublasLtMatrixLayoutDestroy(p->out);
    if (p->right) cublasLtMatrixLayoutDestroy(p->right);
    if (p->left) cublasLtMatrixLayoutDestroy(p->left);
    if (p->operation) cublasLtMatmulDescDestroy(p->operation);
    cuda->library->free(cuda->base.context, p);
}

static void free_plans(cavmae__cuda *cuda) {
    cavmae__matmuls *all = cuda->matmuls;
    for (int i = 0; i < BUCKETS; i++)
        for (plan *p = all->bucket[i], *next; p; p = next) {
            next = p->next;
            free_plan(cuda, p);
        }
    memset(all->bucket, 0, sizeof all->bucket);
    all->plans = 0;
}

/* ---- Choosing an algorithm ---- */

static cublasStatus_t launch(const cavmae__matmuls *all, const plan *p, const cavmae__matmul *op,
                             const cublasLtMatmulAlgo_t *algorithm, cudaStream_t stream) {
    return cublasLtMatmul(all->handle, p->operation, &op->alpha, op->b, p->left, op->a, p->right, &op->beta, op->c,
                          p->out, op->d, p->out, algorithm, all->workspace, all->workspace_size, stream);
}

/* The candidates, the one thought best first; 0 where there is none. */
static cublasStatus_t candidates(const cavmae__matmuls *all, const plan *p, cublasLtMatmulHeuristicResult_t *out,
                                 int *count) {
    const description *key = &p->key;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t bytes;
    } alignments[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->b_aligned},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->a_aligned},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)key->c_aligned},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->d_aligned}};
    int found = 0, good = 0;
    *count = 0;
    /* A rule that is documented, but not for which call to check. */
    if (key->aux_stride % 8 != 0 || key->aux_aligned < 16 || key->bias_aligned < 16) return CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4; i++) {
        const cublasStatus_t s = cublasLtMatmulPreferenceSetAttribute(all->preference, alignments[i].attribute,
                                                                      &alignments[i].bytes, sizeof(uint32_t));
        if (s != CUBLAS_STATUS_SUCCESS) return s;
    }
    const cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(all->handle, p->operation, p->left, p->right, p->out,
                                                            p->out, all->preference, CANDIDATES, out, &found);
    /* INVALID_VALUE, too, is how some versions answer what they do not take. */
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) return CUBLAS_STATUS_SUCCESS;
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    for (int i = 0; i < found; i++)
        if (out[i].state == CUBLAS_STATUS_SUCCESS && out[i].workspaceSize <= all->workspace_size) out[good++] = out[i];
    *count = good;
    return CUBLAS_STATUS_SUCCESS;
}

static size_t size_of(int32_t dtype) { return dtype == CAVMAE_BFLOAT16 ? 2 : 4; }

/* Scratch in place of what the product writes, in one block of memory. */
static cavmae_status redirect(cavmae__backend *backend, cavmae__matmul *op, void **memory) {
    const size_t d = ((size_t)(op->m * op->d_stride) * size_of(op->d_dtype) + 255) / 256 * 256;
    const size_t aux = op->aux ? ((size_t)(op->m * op->aux_stride) * size_of(op->d_dtype) + 255) / 256 * 256 : 0;
    const size_t sums = op->a_sums ? (size_t)op->m * sizeof(float) : 0;
    CAVMAE__TRY(backend->ops->alloc(backend, d + aux + sums, memory));
    op->d = *memory;
    if (op->aux && op->activation == CAVMAE__ACTIVATION_GELU) op->aux = (char *)*memory + d;
    if (op->a_sums) op->a_sums = (float *)(void *)((char *)*memory + d + aux);
    return CAVMAE_OK;
}

/* The shortest of several times of each candidate; one that does not run is left out. *best: -1 where none runs. */
static cavmae_status race(cavmae__cuda *cuda, const plan *p, const cavmae__matmul *op,
                          const cublasLtMatmulHeuristicResult_t *candidate, int count, cudaEvent_t start,
                          cudaEvent_t stop, int *best) {
    float shortest[CANDIDATES];
    cudaStream_t stream = cuda->stream;
    for (int i = 0; i < count; i++)
        shortest[i] = launch(cuda->matmuls, p, op, &candidate[i].algo, stream) ? -1.0f : 1e30f;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++) {
            float time = 0;
            if (shortest[i] < 0) continue;
            cudaError_t error = cudaEventRecord(start, stream);
            for (int run = 0; run < RUNS; run++)
                if (launch(cuda->matmuls, p, op, &candidate[i].algo, stream) != CUBLAS_STATUS_SUCCESS) shortest[i] = -1;
            if (!error) error = cudaEventRecord(stop, stream);
            if (!error) error = cudaEventSynchronize(stop);
            if (!error) error = cudaEventElapsedTime(&time, start, stop);
            if (error) return cavmae__cuda_check(&cuda->base, error, "measuring a matrix product");
            if (time < shortest[i]) shortest[i] = time;
        }
    *best = -1;
    for (int i = 0; i < count; i++)
        if (shortest[i] >= 0 && (*best < 0 || shortest[i] < shortest[*best])) *best = i;
    return CAVMAE_OK;
}

static cavmae_status measure(cavmae__cuda *cuda, plan *p, const cavmae__matmul *op,
                             const cublasLtMatmulHeuristicResult_t *candidate, int count, int *best) {
    cavmae__matmul trial = *op;
    void *memory = NULL;
    cudaEvent_t start = NULL, stop = NULL;
    *best = -1;
    if (redirect(&cuda->base, &trial, &memory) != CAVMAE_OK) return CAVMAE_OK; /* memory is short: not now */
    cavmae_status status =
        cavmae__cuda_check(&cuda->base, cudaEventCreateWithFlags(&start, cudaEventDefault), "an event");
    if (status == CAVMAE_OK)
        status = cavmae__cuda_check(&cuda->base, cudaEventCreateWithFlags(&stop, cudaEventDefault), "an event");
    if (status == CAVMAE_OK && set_addresses(p->operation, &trial) == CUBLAS_STATUS_SUCCESS)
        status = race(cuda, p, &trial, candidate, count, start, stop, best);
    if (start) cudaEventDestroy(start);
    if (stop) cudaEventDestroy(stop);
    cuda->base.ops->free(&cuda->base, memory);
    return status;
}

/* What an entry of the tuning file is called: everything that an algorithm may depend on. */
static void name_plan(const cavmae__cuda *cuda, const description *key, char *out, size_t size) {
    char device[sizeof cuda->name];
    size_t length = 0;
    for (const char *c = strchr(cuda->name, '(') ? strchr(cuda->name, '(') + 1 : cuda->name; *c && *c != ')'; c++)
        device[length++] = (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') ? *c : '-';
    device[length] = 0;
    snprintf(out, size,
             "%s/%zu/m%" PRId64 "n%" PRId64 "k%" PRId64 "/%s%s/%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
             "/%d,%d%s%s/epilogue%d/align%d,%d,%d,%d,%d,%d",
             device, cublasLtGetVersion(), key->m, key->n, key->k, key->a_transposed ? "T" : "N",
             key->b_transposed ? "T" : "N", key->a_stride, key->b_stride, key->d_stride, key->aux_stride, key->dtype,
             key->d_dtype, key->tf32 ? "tf32" : "", key->adds ? "+" : "", key->epilogue, key->a_aligned, key->b_aligned,
             key->c_aligned, key->d_aligned, key->bias_aligned, key->aux_aligned);
}

static int remembered(const cavmae__matmuls *all, plan *p, const char *name) {
    const uint64_t *words = cavmae__tuning_find(&all->tuning, name);
    cublasLtMatmulHeuristicResult_t result;
    if (!words) return 0;
    memcpy(&p->algorithm, words, sizeof p->algorithm);
    memset(&result, 0, sizeof result);
    return cublasLtMatmulAlgoCheck(all->handle, p->operation, p->left, p->right, p->out, p->out, &p->algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= all->workspace_size;
}

/* Without a tuning file: the first candidate, so that every run takes the same one. With it: what the file says, or the
 * fastest; while a graph is recorded nothing can be measured, so that is left to a later call. */
static cavmae_status choose(cavmae__cuda *cuda, plan *p, const cavmae__matmul *op, int recording) {
    cavmae__matmuls *all = cuda->matmuls;
    const int tuned = all->tuning.path != NULL;
    cublasLtMatmulHeuristicResult_t candidate[CANDIDATES];
    char name[CAVMAE__TUNING_KEY];
    int count = 0, best = 0;
    name_plan(cuda, &p->key, name, sizeof name);
    p->measured = tuned && remembered(all, p, name);
    if (p->measured) {
        p->how = PLAN_WHOLE;
        return CAVMAE_OK;
    }
    const cublasStatus_t s = candidates(all, p, candidate, &count);
    if (s != CUBLAS_STATUS_SUCCESS) return fail(cuda, s, "choosing how to multiply matrices");
    p->how = count ? PLAN_WHOLE : p->key.epilogue == CUBLASLT_EPILOGUE_DEFAULT ? PLAN_PLAIN : PLAN_SPLIT;
    p->measured = !tuned || count < 2;
    if (!count) /* a slower way; on a device that should be rare, so it can be seen */
        cuda->library->log(cuda->base.context, CAVMAE_LOG_INFO, "%s: cuBLASLt has no algorithm for %s", cuda->name,
                           name);
    if (count && !p->measured && !recording) {
        CAVMAE__TRY(measure(cuda, p, op, candidate, count, &best));
        if (best >= 0) CAVMAE__TRY(cavmae__tuning_put(&all->tuning, name, candidate[best].algo.data));
        p->measured = 1;
    }
    if (count) p->algorithm = candidate[best < 0 ? 0 : best].algo;
    return CAVMAE_OK;
}

/* ---- Plans ---- */

static plan **place_of(cavmae__matmuls *all, const description *key) {
    uint64_t hash = 14695981039346656037u;
    const unsigned char *bytes = (const unsigned char *)key;
    for (size_t i = 0; i < sizeof *key; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    plan **at = &all->bucket[hash % BUCKETS];
    while (*at && memcmp(&(*at)->key, key, sizeof *key) != 0) at = &(*at)->next;
    return at;
}

static cavmae_status find_plan(cavmae__cuda *cuda, const cavmae__matmul *op, int recording, plan **out) {
    cavmae__matmuls *all = cuda->matmuls;
    const description key = describe(op);
    plan **at = place_of(all, &key), *p = *at;
    if (p && (p->measured || recording)) {
        *out = p;
        return CAVMAE_OK;
    }
    if (!p) {
        if (all->plans >= MOST_PLANS) {
            free_plans(cuda);
            at = place_of(all, &key);
        }
        p = cuda->library->alloc(cuda->base.context, sizeof *p);
        if (!p) return CAVMAE_E_NOMEM;
        memset(p, 0, sizeof *p);
        p->key = key;
        cublasStatus_t s = make_operation(p, op);
        if (s == CUBLAS_STATUS_SUCCESS) s = make_layouts(p, op);
        const cavmae_status status = s ? fail(cuda, s, "describing a matrix product") : choose(cuda, p, op, recording);
        if (status != CAVMAE_OK) {
            free_plan(cuda, p);
            return status;
        }
        *at = p;
        all->plans++;
    } else {
        CAVMAE__TRY(choose(cuda, p, op, recording));
    }
    *out = p;
    return CAVMAE_OK;
}

/* The product with its whole epilogue; *how says whether that was possible: if not, nothing was done. */
static cavmae_status run_plan(cavmae__cuda *cuda, const cavmae__matmul *op, int *how) {
    cavmae__matmuls *all = cuda->matmuls;
    const cudaStream_t stream = cavmae__cuda_stream(&cuda->base);
    plan *p = NULL;
    pthread_mutex_lock(&all->lock);
    cavmae_status status = find_plan(cuda, op, stream != cuda->stream, &p);
    if (status == CAVMAE_OK) {
        *how = p->how;
        if (p->how == PLAN_WHOLE) {
            cublasStatus_t s = set_addresses(p->operation, op);
            if (s == CUBLAS_STATUS_SUCCESS) s = launch(all, p, op, &p->algorithm, stream);
            if (s != CUBLAS_STATUS_SUCCESS) status = fail(cuda, s, "a matrix product");
        }
    }
    pthread_mutex_unlock(&all->lock);
    return status;
}

/* ---- What others call ---- */

static cavmae_status product(cavmae__cuda *cuda, const cavmae__matmul *op) {
    int how = PLAN_WHOLE;
    CAVMAE__TRY(run_plan(cuda, op, &how));
    if (how == PLAN_WHOLE) return CAVMAE_OK;
    if (how == PLAN_PLAIN) {
        if (op->dtype == CAVMAE__E4M3)
            return cuda->library->fail(CAVMAE_E_UNSUPPORTED,
                                       "%s: its cuBLAS has no e4m3 product with scales for rows of this shape",
                                       cuda->name);
        return cavmae__cuda_matmul_plain(&cuda->base, op);
    }
    cavmae__matmul bare = *op;
    bare.bias = bare.aux = NULL;
    bare.activation = CAVMAE__ACTIVATION_NONE;
    bare.a_sums = NULL;
    CAVMAE__TRY(product(cuda, &bare));
    if (op->a_sums)
        return cavmae__cuda_column_sums(&cuda->base, op->a, op->dtype, op->k, (int32_t)op->m, NULL, op->a_sums, 0,
                                        op->scratch);
    return cavmae__cuda_matmul_finish(&cuda->base, op);
}

cavmae_status cavmae__cuda_matmul(cavmae__backend *backend, const cavmae__matmul *op) {
    cavmae__cuda *cuda = cavmae__cuda_of(backend);
    cavmae__matmul whole = *op;
    if (op->m == 0 || op->n == 0) return CAVMAE_OK;
    if (!whole.a_stride) whole.a_stride = op->a_transposed ? op->m : op->k;
    if (!whole.b_stride) whole.b_stride = op->b_transposed ? op->k : op->n;
    if (!whole.d_stride) whole.d_stride = op->n;
    if (!whole.aux_stride) whole.aux_stride = op->n;
    if (!whole.c || whole.beta == 0) whole.c = whole.d; /* not read, but cuBLASLt looks at the address */
    if (op->dtype == CAVMAE__E4M3 && cuda->architecture != 90)
        return cuda->library->fail(
            CAVMAE_E_UNSUPPORTED,
            "matmul \"fp8\": %s does not multiply e4m3 with a scale for each row: that takes compute "
            "capability 9.0, it has %d.%d",
            cuda->name, cuda->architecture / 10, cuda->architecture % 10);
    return product(cuda, &whole);
}

cavmae_status cavmae__matmuls_open(cavmae__cuda *cuda) {
    cavmae__matmuls *all = cuda->library->alloc(cuda->base.context, sizeof *all);
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint64_t size = cuda->architecture == 90 ? 32u << 20 : 4u << 20;
    if (!all) return CAVMAE_E_NOMEM;
    memset(all, 0, sizeof *all);
    if (pthread_mutex_init(&all->lock, NULL) != 0) {
        cuda->library->free(cuda->base.context, all);
        return cuda->library->fail(CAVMAE_E_NOMEM, "%s: no memory for a lock", cuda->name);
    }
    cuda->matmuls = all;
    all->workspace_size = size;
    cublasStatus_t s = cublasLtCreate(&all->handle);
    if (s == CUBLAS_STATUS_SUCCESS) s = cublasLtMatmulPreferenceCreate(&all->preference);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(all->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &size,
                                                 sizeof size);
    /* Parts of a sum that is split over k are kept and added in float32, in a fixed order. */
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(all->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &reductions, sizeof reductions);
    cavmae_status status = s ? fail(cuda, s, "opening cuBLAS") : CAVMAE_OK;
    if (status == CAVMAE_OK)
        status = cuda->base.ops->alloc(&cuda->base, all->workspace_size + WORKSPACE_ALIGNMENT, &all->memory);
    if (status == CAVMAE_OK) {
        const uintptr_t past = (uintptr_t)all->memory % WORKSPACE_ALIGNMENT;
        all->workspace = (char *)all->memory + (past ? WORKSPACE_ALIGNMENT - past : 0);
        status = cavmae__tuning_open(&all->tuning, cuda->library, cuda->base.context);
    }
    if (status != CAVMAE_OK) cavmae__matmuls_close(cuda);
    return status;
}

void cavmae__matmuls_close(cavmae__cuda *cuda) {
    cavmae__matmuls *all = cuda->matmuls;
    if (!all) return;
    free_plans(cuda);
    cavmae__tuning_close(&all->tuning);
    if (all->memory) cuda->base.ops->free(&cuda->base, all->memory);
    if (all->preference) cublasLtMatmulPreferenceDestroy(all->preference);
    if (all->handle) cublasLtDestroy(all->handle);
    pthread_mutex_destroy(&all->lock);
    cuda->library->free(cuda->base.context, all);
    cuda->matmuls = NULL;
}
