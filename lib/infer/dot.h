/* Products of queries with rows, and unit rows: the arithmetic that search and retrieval share. */
#ifndef CAVMAE_INFER_DOT_H
#define CAVMAE_INFER_DOT_H

#include "context.h"

/* scores[q * stride + r] = queries[q] . rows[r]. queries [query_count, dim], rows [row_count, dim]. A pair's score has
 * the same bits whatever other queries and rows are in the call. */
typedef void cavmae__dot(const float *queries, int64_t query_count, const float *rows, int64_t row_count, int64_t dim,
                         float *scores, int64_t stride);

/* The one for this machine. */
cavmae__dot *cavmae__dot_choose(void);

/* simd_dot.c, compiled once for each instruction set. */
cavmae__dot cavmae__dot_baseline;
#ifdef CAVMAE_HAVE_X86
cavmae__dot cavmae__dot_avx2;
cavmae__dot cavmae__dot_avx512;
#endif

/* out [count, dim] = rows, each divided by its L2 norm (taken in double precision); out NULL: only looks whether they
 * have length 1 already, but for rounding. ARG where a row has no direction (all zeros, not finite) or not that
 * length; the text names the first such row, counting from `first`. out is then of no use. */
cavmae_status cavmae__unit_rows(cavmae_context *context, const char *what, const float *rows, int64_t first,
                                int64_t count, int64_t dim, float *out);

#endif
