/* The inner kernel of search: products of a few queries with a few rows at a time, in registers.
 *
 * Every pair has one vector accumulator that runs along the row, a last partial vector filled up with zeros, and one
 * order in which its lanes are summed. So a pair's bits do not depend on the tile that it falls into, and tiles may
 * be chosen for speed alone: one query against eight rows, where memory is the limit (eight independent chains hide
 * the latency of the multiply-add), and four against TILE, as many as registers hold, where arithmetic is.
 *
 * Compiled once for each instruction set, with CAVMAE_ISA = baseline, avx2 or avx512. */
#include "dot.h"

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
static inline float sum8(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
#endif

#if defined(__AVX512DQ__)
typedef __m512 vec;
enum { LANES = 16, TILE = 6 };
static inline vec load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec multiply_add(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline float sum(vec v) { return sum8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))); }
#elif defined(__AVX2__)
typedef __m256 vec;
enum { LANES = 8, TILE = 3 };
static inline vec load(const float *p) { return _mm256_loadu_ps(p); }
static inline vec multiply_add(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline float sum(vec v) { return sum8(v); }
#else
typedef float vec __attribute__((vector_size(16)));
enum { LANES = 4, TILE = 2 };
static inline vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vec multiply_add(vec a, vec b, vec c) { return a * b + c; }
static inline float sum(vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#endif

static inline vec load_part(const float *p, int64_t count) {
    float lanes[LANES] = {0};
    memcpy(lanes, p, (size_t)count * sizeof *p);
    return load(lanes);
}

/* The loops over Q and R have constant bounds where this is inlined, and unroll into registers. */
static inline __attribute__((always_inline)) void tile(const int Q, const int R, const float *queries,
                                                       const float *rows, int64_t dim, float *scores, int64_t stride) {
    vec acc[4 * 6] = {{0}};
    int64_t whole = dim - dim % LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        vec x[8];
        for (int r = 0; r < R; r++) x[r] = load(rows + r * dim + i);
        for (int q = 0; q < Q; q++) {
            vec y = load(queries + q * dim + i);
            for (int r = 0; r < R; r++) acc[q * R + r] = multiply_add(y, x[r], acc[q * R + r]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int r = 0; r < R; r++) {
            vec v = acc[q * R + r];
            if (whole < dim)
                v = multiply_add(load_part(queries + q * dim + whole, dim - whole),
                                 load_part(rows + r * dim + whole, dim - whole), v);
            scores[q * stride + r] = sum(v);
        }
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

void JOIN(cavmae__dot_, CAVMAE_ISA)(const float *queries, int64_t query_count, const float *rows, int64_t row_count,
                                    int64_t dim, float *scores, int64_t stride) {
    int64_t fours = query_count - query_count % 4;
    /* A tile's rows stay in the first-level cache while the queries go by. */
    for (int64_t r = 0; r < row_count; r += TILE)
        for (int64_t q = 0; q < fours; q += 4) {
            const float *y = queries + q * dim, *x = rows + r * dim;
            float *s = scores + q * stride + r;
            if (row_count - r >= TILE)
                tile(4, TILE, y, x, dim, s, stride);
            else
                for (int64_t i = 0; i < row_count - r; i++) tile(4, 1, y, x + i * dim, dim, s + i, stride);
        }
    for (int64_t q = fours; q < query_count; q++) {
        const float *y = queries + q * dim;
        int64_t r = 0;
        for (; r + 8 <= row_count; r += 8) tile(1, 8, y, rows + r * dim, dim, scores + q * stride + r, stride);
        for (; r < row_count; r++) tile(1, 1, y, rows + r * dim, dim, scores + q * stride + r, stride);
    }
}
