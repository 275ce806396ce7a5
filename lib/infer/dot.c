#include "dot.h"

#include <math.h>
#include <stdatomic.h>

#include "isa.h"

cavmae__dot *cavmae__dot_choose(void) {
    switch (cavmae__isa()) {
#ifdef CAVMAE_HAVE_X86
    case CAVMAE__ISA_AVX512: return cavmae__dot_avx512;
    case CAVMAE__ISA_AVX2: return cavmae__dot_avx2;
#endif
    default: return cavmae__dot_baseline;
    }
}

/* ---- Unit rows ---- */

enum { ROWS_A_TASK = 256 };

typedef struct unit_job {
    const float *rows;
    float *out;
    int64_t count, dim;
    atomic_int_least64_t faulty; /* the first row at fault; count: none so far */
} unit_job;

/* Eight sums, so that the additions do not wait for one another. */
static double sum_squares(const float *x, int64_t dim) {
    double sums[8] = {0};
    int64_t k = 0;
    for (; k + 8 <= dim; k += 8)
        for (int j = 0; j < 8; j++) sums[j] += (double)x[k + j] * x[k + j];
    for (; k < dim; k++) sums[0] += (double)x[k] * x[k];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

static void unit_task(void *arg, int64_t i, int32_t worker) {
    (void)worker;
    unit_job *job = arg;
    int64_t end = (i + 1) * ROWS_A_TASK < job->count ? (i + 1) * ROWS_A_TASK : job->count;
    for (int64_t r = i * ROWS_A_TASK; r < end; r++) {
        const float *x = job->rows + r * job->dim;
        double norm = sqrt(sum_squares(x, job->dim));
        if (job->out ? !(norm > 0) || isinf(norm) : !(fabs(norm - 1) < 1e-3)) {
            int_least64_t first = atomic_load(&job->faulty);
            while (r < first && !atomic_compare_exchange_weak(&job->faulty, &first, r)) {
            }
            return; /* this task's later rows come after it */
        }
        if (!job->out) continue;
        double scale = 1 / norm;
        for (int64_t k = 0; k < job->dim; k++) job->out[r * job->dim + k] = (float)(x[k] * scale);
    }
}

cavmae_status cavmae__unit_rows(cavmae_context *context, const char *what, const float *rows, int64_t first,
                                int64_t count, int64_t dim, float *out) {
    unit_job job = {.rows = rows, .out = out, .count = count, .dim = dim};
    atomic_init(&job.faulty, count);
    cavmae__parallel(context, (count + ROWS_A_TASK - 1) / ROWS_A_TASK, unit_task, &job);
    int64_t faulty = atomic_load(&job.faulty);
    if (faulty == count) return CAVMAE_OK;
    return cavmae__fail(CAVMAE_E_ARG, "%s: row %lld %s", what, (long long)(first + faulty),
                        out ? "is all zeros or not finite, and has no direction" : "does not have length 1");
}
