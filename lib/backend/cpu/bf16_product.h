/* Products of bfloat16 matrices with float32 sums, by oneDNN: for processors that are faster with them than with
 * float32. Where there is no cavmae__bf16, bfloat16 is widened and multiplied as float32, which is no less exact. */
#ifndef CAVMAE_BACKEND_CPU_BF16_PRODUCT_H
#define CAVMAE_BACKEND_CPU_BF16_PRODUCT_H

#include "context.h"

typedef struct cavmae__bf16 cavmae__bf16;

/* c[m, n] = a b. Distances are in elements from row to row; transposed: a is stored as [k, m], b as [n, k]. */
typedef struct cavmae__bf16_product {
    int64_t m, n, k;
    const uint16_t *a, *b;
    float *c;
    int64_t a_row, b_row, c_row;
    int64_t a_transposed, b_transposed;
} cavmae__bf16_product;

/* Bytes of scratch for one product. */
enum { CAVMAE__BF16_SCRATCH = 1 << 20 };

/* *out is NULL where float32 is as fast; with `always`, only where the processor knows no bfloat16: for tests. */
cavmae_status cavmae__bf16_open(cavmae_context *context, int always, cavmae__bf16 **out);
void cavmae__bf16_close(cavmae__bf16 *bf16); /* NULL is fine */

/* From any thread whose OpenMP regions have one thread, as those of the pool. */
cavmae_status cavmae__bf16_multiply(cavmae__bf16 *bf16, const cavmae__bf16_product *product, void *scratch);

#endif
