/* Stand-in for cuBLASLt: what cublasLtMatmul computes, and what it refuses, for the calls that the library makes. It is
 * stricter than the real one, which takes more shapes: here bfloat16 with addresses or leading dimensions that are not
 * aligned to 16 bytes has fewer epilogues, and with odd ones nothing, so that what the library does then is executed. */
#include <cublasLt.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cudasim.h"
#include "sim_product.h"

struct cublasLtContext {
    uint64_t magic;
    int capability; /* 90 */
};

namespace {

using cudasim::tile_columns;
using cudasim::tile_rows;

constexpr uint64_t handle_magic = 0x63754c744c743031u, algorithm_magic = 0x616c676f4c743031u;

struct layout {
    uint64_t type, rows, columns;
    int64_t ld;
    uint64_t unused[4];
};

struct description {
    uint32_t compute, scale, transpose_a, transpose_b, epilogue;
    int32_t bias_type, a_mode, b_mode;
    void *bias, *aux;
    const void *a_scale, *b_scale;
    int64_t aux_ld;
    uint64_t fast, unused[20];
};

struct preference {
    uint64_t workspace;
    uint32_t reductions, alignment[4];
    uint64_t unused[4];
};

static_assert(sizeof(layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "a layout fits");
static_assert(sizeof(description) <= sizeof(cublasLtMatmulDescOpaque_t), "a description fits");
static_assert(sizeof(preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "a preference fits");

template <typename T, typename Opaque> T read(const Opaque *opaque) {
    T value;
    std::memcpy(&value, opaque, sizeof value);
    return value;
}

template <typename T, typename Opaque> void write(Opaque *opaque, const T &value) {
    std::memcpy(opaque, &value, sizeof value);
}

size_t size_of(uint64_t type) { return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF || type == CUDA_R_16F ? 2 : 1; }

/* ---- What is to be computed ---- */

struct problem {
    description how;
    layout a, b, c, d;
    int64_t m, n, k;
};

bool has_bias(uint32_t epilogue) { return epilogue < 256 && (epilogue & CUBLASLT_EPILOGUE_BIAS); }
bool has_aux(uint32_t epilogue) { return epilogue < 256 && (epilogue & 128); }
bool is_sum(uint32_t epilogue) { return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB; }

bool known_epilogue(uint32_t epilogue) {
    for (uint32_t known : {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU,
                           CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                           CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB})
        if (epilogue == known) return true;
    return false;
}

bool is_fp8(const problem &p) { return p.a.type == CUDA_R_8F_E4M3; }

/* The documentation's table of types. */
cublasStatus_t check_types(const problem &p) {
    const uint64_t in = p.a.type, out = p.d.type;
    if (p.b.type != in || p.c.type != out || p.how.scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool plain = p.how.compute == CUBLAS_COMPUTE_32F;
    const bool good = in == CUDA_R_32F ? out == CUDA_R_32F && (plain || p.how.compute == CUBLAS_COMPUTE_32F_FAST_TF32)
                                       : plain && (out == CUDA_R_32F || out == CUDA_R_16BF);
    if (!good) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!has_bias(p.how.epilogue) && !is_sum(p.how.epilogue)) return CUBLAS_STATUS_SUCCESS;
    const int expected = is_fp8(p) ? (int)CUDA_R_16BF : (int)out, given = p.how.bias_type;
    return (given < 0 ? (int)out : given) == expected ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t check_epilogue(const problem &p) {
    if (!known_epilogue(p.how.epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((has_bias(p.how.epilogue) || is_sum(p.how.epilogue)) && !p.how.bias) return CUBLAS_STATUS_INVALID_VALUE;
    if (!has_aux(p.how.epilogue)) return CUBLAS_STATUS_SUCCESS;
    if (!p.how.aux || p.how.aux_ld % 8 != 0 || p.how.aux_ld < p.m) return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_fp8(const problem &p, int capability) {
    const int outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const bool scaled = p.how.a_scale || p.how.b_scale || p.how.a_mode || p.how.b_mode;
    if (!is_fp8(p)) return scaled ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
    if (capability < 89) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.how.transpose_a != CUBLAS_OP_T || p.how.transpose_b != CUBLAS_OP_N) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.k % 16 || p.m % 16 || p.a.ld % 16 || p.b.ld % 16 || p.d.ld * size_of(p.d.type) % 16)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.how.a_mode != outer || p.how.b_mode != outer || capability != 90) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!p.how.a_scale || !p.how.b_scale) return CUBLAS_STATUS_INVALID_VALUE;
    /* With a second output it is not to be relied on. */
    return has_aux(p.how.epilogue) || is_sum(p.how.epilogue) ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t examine(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, problem *out) {
    if (!handle || handle->magic != handle_magic) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
    problem &p = *out;
    p.how = read<description>(desc);
    p.a = read<layout>(a), p.b = read<layout>(b), p.c = read<layout>(c), p.d = read<layout>(d);
    const bool ta = p.how.transpose_a == CUBLAS_OP_T, tb = p.how.transpose_b == CUBLAS_OP_T;
    p.m = (int64_t)p.d.rows, p.n = (int64_t)p.d.columns;
    p.k = (int64_t)(ta ? p.a.rows : p.a.columns);
    if ((int64_t)(ta ? p.a.columns : p.a.rows) != p.m || (int64_t)(tb ? p.b.rows : p.b.columns) != p.n ||
        (int64_t)(tb ? p.b.columns : p.b.rows) != p.k || p.c.rows != p.d.rows || p.c.columns != p.d.columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const layout &l : {p.a, p.b, p.c, p.d})
        if (l.rows == 0 || l.columns == 0 || l.ld < (int64_t)l.rows) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check_types(p);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_epilogue(p);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_fp8(p, handle->capability);
    return status;
}

/* ---- Algorithms ---- */

struct algorithm {
    uint64_t magic, number, signature, unused[5];
};
static_assert(sizeof(algorithm) == sizeof(cublasLtMatmulAlgo_t), "an algorithm fits");

/* They add up in different orders, so that it shows which one ran. */
struct kind {
    uint32_t reduction;
    int splits, block, alignment;
};
constexpr kind kinds[] = {{CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 4, 256, 16},
                          {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 4, 256, 16},
                          {CUBLASLT_REDUCTION_SCHEME_NONE, 1, 256, 16},
                          {CUBLASLT_REDUCTION_SCHEME_NONE, 1, 64, 16},
                          {CUBLASLT_REDUCTION_SCHEME_NONE, 1, 32, 4}};
constexpr int kind_count = sizeof kinds / sizeof kinds[0];

/* An algorithm is one for certain types, transposes and epilogues. */
uint64_t signature_of(const problem &p) {
    return p.a.type | p.d.type << 8 | (uint64_t)p.how.compute << 16 | (uint64_t)p.how.transpose_a << 24 |
           (uint64_t)p.how.transpose_b << 25 | (uint64_t)p.how.epilogue << 32;
}

size_t workspace_of(const problem &p, const kind &k) {
    return k.splits > 1 ? (size_t)k.splits * (size_t)p.m * (size_t)p.n * sizeof(float) : 0;
}

bool multiple(int64_t elements, uint64_t type, int alignment) {
    return elements * (int64_t)size_of(type) % alignment == 0;
}

/* Whether the layouts and the epilogue suit the algorithm. */
bool suits(const problem &p, const kind &k) {
    if (k.splits > 1 && p.k < 64 * k.splits) return false;
    for (const layout &l : {p.a, p.b, p.c, p.d})
        if (!multiple(l.ld, l.type, k.alignment)) return false;
    if (k.alignment == 16) return !p.how.bias || reinterpret_cast<uintptr_t>(p.how.bias) % 16 == 0;
    return p.a.type == CUDA_R_32F ||
           (!is_fp8(p) && (p.how.epilogue == CUBLASLT_EPILOGUE_DEFAULT || p.how.epilogue == CUBLASLT_EPILOGUE_BIAS));
}

/* ---- Computing ---- */

constexpr int64_t sums_at_once = 64;

struct work {
    problem p;
    kind k;
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
    float *workspace;

    int64_t row_tiles() const { return (p.m + tile_rows - 1) / tile_rows; }
    cudasim::operand left() const {
        const bool t = p.how.transpose_a == CUBLAS_OP_T;
        return {a, (int)p.a.type, t ? p.a.ld : 1, t ? 1 : p.a.ld, tf32()};
    }
    cudasim::operand right() const {
        const bool t = p.how.transpose_b == CUBLAS_OP_T;
        return {b, (int)p.b.type, t ? 1 : p.b.ld, t ? p.b.ld : 1, tf32()};
    }
    bool tf32() const { return p.how.compute == CUBLAS_COMPUTE_32F_FAST_TF32; }
    void tile(uint64_t number) const;
    void split_tile(int64_t row, int rows, int64_t column, int columns, float *sum) const;
    void store(float sum, int64_t i, int64_t j) const;
    void sum_operand(int64_t first, int64_t last) const;
};

/* The tanh form, as the real library has it. */
float gelu(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x))); }

float gelu_slope(float x) {
    const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 0.134145f * x * x);
}

void work::store(float sum, int64_t i, int64_t j) const {
    const uint32_t epilogue = p.how.epilogue;
    float x = alpha * sum;
    if (is_fp8(p)) x *= static_cast<const float *>(p.how.a_scale)[i] * static_cast<const float *>(p.how.b_scale)[j];
    if (beta != 0) x += beta * cudasim::read_element(c, (int)p.c.type, j * p.c.ld + i);
    if (has_bias(epilogue)) x += cudasim::read_element(p.how.bias, is_fp8(p) ? CUDA_R_16BF : (int)p.d.type, i);
    const int64_t aux = j * p.how.aux_ld + i;
    if (epilogue == CUBLASLT_EPILOGUE_DGELU) x *= gelu_slope(cudasim::read_element(p.how.aux, (int)p.d.type, aux));
    if (epilogue < 256 && (epilogue & CUBLASLT_EPILOGUE_GELU)) {
        if (has_aux(epilogue)) cudasim::write_element(p.how.aux, (int)p.d.type, aux, x);
        x = gelu(x);
    }
    cudasim::write_element(d, (int)p.d.type, j * p.d.ld + i, x);
}

/* Parts of the sum over k go to the workspace, and are added there. */
void work::split_tile(int64_t row, int rows, int64_t column, int columns, float *sum) const {
    const bool narrow = k.reduction == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE && p.d.type == CUDA_R_16BF;
    const int64_t each = (p.k + k.splits - 1) / k.splits;
    for (int s = 0; s < k.splits; s++) {
        const int64_t first = s * each, last = first + each < p.k ? first + each : p.k;
        cudasim::tile_product(left(), right(), row, rows, column, columns, first, last, k.block, sum);
        for (int j = 0; j < columns; j++)
            for (int i = 0; i < rows; i++) {
                float part = sum[j * tile_rows + i];
                if (narrow) {
                    uint16_t bits[1];
                    cudasim::write_element(bits, CUDA_R_16BF, 0, part);
                    part = cudasim::read_element(bits, CUDA_R_16BF, 0);
                }
                workspace[((int64_t)s * p.n + column + j) * p.m + row + i] = part;
            }
    }
    for (int j = 0; j < columns; j++)
        for (int i = 0; i < rows; i++) {
            float total = 0;
            for (int s = 0; s < k.splits; s++) total += workspace[((int64_t)s * p.n + column + j) * p.m + row + i];
            sum[j * tile_rows + i] = total;
        }
}

void work::tile(uint64_t number) const {
    thread_local std::vector<float> sum;
    sum.resize((size_t)tile_rows * tile_columns);
    const int64_t row = (int64_t)number % row_tiles() * tile_rows,
                  column = (int64_t)number / row_tiles() * tile_columns;
    const int rows = (int)(p.m - row < tile_rows ? p.m - row : tile_rows),
              columns = (int)(p.n - column < tile_columns ? p.n - column : tile_columns);
    if (k.splits > 1)
        split_tile(row, rows, column, columns, sum.data());
    else
        cudasim::tile_product(left(), right(), row, rows, column, columns, 0, p.k, k.block, sum.data());
    for (int j = 0; j < columns; j++)
        for (int i = 0; i < rows; i++) store(sum[(size_t)j * tile_rows + (size_t)i], row + i, column + j);
}

/* BGRADA: rows of op(A); BGRADB: columns of op(B). */
void work::sum_operand(int64_t first, int64_t last) const {
    const cudasim::operand x = p.how.epilogue == CUBLASLT_EPILOGUE_BGRADA ? left() : right();
    float sum[sums_at_once] = {0};
    for (int64_t i = 0; i < p.k; i++)
        for (int64_t at = first; at < last; at++)
            sum[at - first] += cudasim::read_element(x.data, x.type, at * x.stride + i * x.k_stride);
    for (int64_t at = first; at < last; at++) cudasim::write_element(p.how.bias, (int)p.d.type, at, sum[at - first]);
}

void run(const work &w) {
    const int64_t column_tiles = (w.p.n + tile_columns - 1) / tile_columns;
    if (is_sum(w.p.how.epilogue)) {
        const int64_t count = w.p.how.epilogue == CUBLASLT_EPILOGUE_BGRADA ? w.p.m : w.p.n;
        cudasim_for_each((uint64_t)((count + sums_at_once - 1) / sums_at_once), [&](uint64_t i) {
            const int64_t first = (int64_t)i * sums_at_once;
            w.sum_operand(first, first + sums_at_once < count ? first + sums_at_once : count);
        });
    }
    cudasim_for_each((uint64_t)(w.row_tiles() * column_tiles), [&](uint64_t i) { w.tile(i); });
}

bool overlap(const void *x, size_t x_size, const void *y, size_t y_size) {
    const uintptr_t a = reinterpret_cast<uintptr_t>(x), b = reinterpret_cast<uintptr_t>(y);
    return a < b + y_size && b < a + x_size;
}

size_t bytes_of(const layout &l) { return ((size_t)l.ld * (l.columns - 1) + l.rows) * size_of(l.type); }

bool aligned(const void *x, int alignment) { return reinterpret_cast<uintptr_t>(x) % (uintptr_t)alignment == 0; }

cublasStatus_t misuse(const char *text) {
    cudasim_report(std::string("cublasLtMatmul: ") + text);
    return CUBLAS_STATUS_INVALID_VALUE;
}

} // namespace

/* ---- The library's calls ---- */

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    int device = 0, major = 0, minor = 0;
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext{handle_magic, major * 10 + minor};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    if (!handle || handle->magic != handle_magic) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->magic = 0;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED: return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
    default: return "an internal operation failed";
    }
}

size_t cublasLtGetVersion(void) { return 130100; }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    if (!out) return CUBLAS_STATUS_INVALID_VALUE;
    *out = new cublasLtMatrixLayoutOpaque_t();
    write(*out, layout{(uint64_t)type, rows, columns, ld, {}});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
    if (!out) return CUBLAS_STATUS_INVALID_VALUE;
    description d = {};
    d.compute = (uint32_t)compute;
    d.scale = (uint32_t)scale;
    d.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    d.bias_type = -1;
    *out = new cublasLtMatmulDescOpaque_t();
    write(*out, d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size) {
    if (!desc || !value) return CUBLAS_STATUS_INVALID_VALUE;
    description d = read<description>(desc);
    void *to = nullptr;
    size_t expected = 4;
    int32_t ignored = 0;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: to = &ignored; break;
    case CUBLASLT_MATMUL_DESC_TRANSA: to = &d.transpose_a; break;
    case CUBLASLT_MATMUL_DESC_TRANSB: to = &d.transpose_b; break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: to = &d.epilogue; break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: to = &d.bias_type; break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: to = &d.a_mode; break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: to = &d.b_mode; break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: to = &d.fast, expected = 1; break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: to = &d.bias, expected = 8; break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: to = &d.aux, expected = 8; break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: to = &d.aux_ld, expected = 8; break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: to = &d.a_scale, expected = 8; break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: to = &d.b_scale, expected = 8; break;
    }
    if (!to || size != expected) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, value, size);
    write(desc, d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    if (!out) return CUBLAS_STATUS_INVALID_VALUE;
    *out = new cublasLtMatmulPreferenceOpaque_t();
    write(*out, preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}, {}});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wanted,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t size) {
    if (!wanted || !value) return CUBLAS_STATUS_INVALID_VALUE;
    preference p = read<preference>(wanted);
    void *to = nullptr;
    size_t expected = 4;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: to = &p.workspace, expected = 8; break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: to = &p.reductions; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: to = &p.alignment[0]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: to = &p.alignment[1]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: to = &p.alignment[2]; break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: to = &p.alignment[3]; break;
    }
    if (!to || size != expected) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, value, size);
    write(wanted, p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wanted, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *returned) {
    problem p;
    if (!wanted || !results || !returned || requested <= 0) return CUBLAS_STATUS_INVALID_VALUE;
    *returned = 0;
    const cublasStatus_t status = examine(handle, desc, a, b, c, d, &p);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const preference limits = read<preference>(wanted);
    for (int i = 0; i < kind_count && *returned < requested; i++) {
        const kind &k = kinds[i];
        bool good = suits(p, k) && workspace_of(p, k) <= limits.workspace &&
                    (k.reduction == CUBLASLT_REDUCTION_SCHEME_NONE || (limits.reductions & k.reduction));
        for (uint32_t alignment : limits.alignment) good = good && alignment >= (uint32_t)k.alignment;
        if (!good) continue;
        cublasLtMatmulHeuristicResult_t &r = results[(*returned)++];
        r = {};
        write(&r.algo, algorithm{algorithm_magic, (uint64_t)i, signature_of(p), {}});
        r.workspaceSize = workspace_of(p, k);
        r.state = CUBLAS_STATUS_SUCCESS;
        r.wavesCount = 1;
    }
    return *returned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result) {
    problem p;
    if (!algo || !result) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasStatus_t status = examine(handle, desc, a, b, c, d, &p);
    const algorithm chosen = read<algorithm>(algo);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (chosen.magic != algorithm_magic || chosen.number >= kind_count || chosen.signature != signature_of(p))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!suits(p, kinds[chosen.number])) return CUBLAS_STATUS_NOT_SUPPORTED;
    result->workspaceSize = workspace_of(p, kinds[chosen.number]);
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_size, cudaStream_t stream) {
    cublasLtMatmulHeuristicResult_t result;
    work w = {};
    if (!alpha || !beta || !a || !b || !d) return CUBLAS_STATUS_INVALID_VALUE;
    if (!algo) return misuse("no algorithm: the real library would ask its heuristic at every call");
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle, desc, a_layout, b_layout, c_layout, d_layout, algo, &result);
    if (status == CUBLAS_STATUS_SUCCESS) status = examine(handle, desc, a_layout, b_layout, c_layout, d_layout, &w.p);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    w.k = kinds[read<algorithm>(algo).number];
    std::memcpy(&w.alpha, alpha, sizeof w.alpha);
    std::memcpy(&w.beta, beta, sizeof w.beta);
    w.a = a, w.b = b, w.c = c, w.d = d;
    w.workspace = static_cast<float *>(workspace);
    if (w.beta != 0 && !c) return CUBLAS_STATUS_INVALID_VALUE;
    if (result.workspaceSize > workspace_size || (result.workspaceSize && !workspace))
        return misuse("the workspace is too small for the algorithm");
    if (!aligned(workspace, 256)) return misuse("the workspace is not aligned to 256 bytes");
    if (!aligned(a, w.k.alignment) || !aligned(b, w.k.alignment) || !aligned(d, w.k.alignment) ||
        (c && !aligned(c, w.k.alignment)))
        return misuse("a matrix is not aligned as the algorithm was promised");
    if (has_aux(w.p.how.epilogue) && !aligned(w.p.how.aux, 16)) return misuse("the auxiliary matrix is not aligned");
    if (overlap(d, bytes_of(w.p.d), a, bytes_of(w.p.a)) || overlap(d, bytes_of(w.p.d), b, bytes_of(w.p.b)))
        return misuse("D lies over A or B");
    if (w.beta != 0 && c != d && overlap(d, bytes_of(w.p.d), c, bytes_of(w.p.c)))
        return misuse("D lies over a part of C");
    cudasim_enqueue(stream, "cublasLtMatmul", [w] { run(w); });
    return CUBLAS_STATUS_SUCCESS;
}

} /* extern "C" */
