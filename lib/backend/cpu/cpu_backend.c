#define _DEFAULT_SOURCE /* madvise */
#include "cpu_backend.h"

#include <string.h>
#include <sys/mman.h>

#include "attention_scratch.h"
#include "isa.h"
#include "linear_tiles.h"

/* Elementary operations that take about as long as waking the other threads. */
static const double work_worth_threads = 20000;

extern const cavmae__backend_ops cavmae__cpu_ops_baseline;
#ifdef CAVMAE_HAVE_X86
extern const cavmae__backend_ops cavmae__cpu_ops_avx2, cavmae__cpu_ops_avx512;
#endif

static const cavmae__backend_ops *ops_of(int isa) {
#ifdef CAVMAE_HAVE_X86
    if (isa == CAVMAE__ISA_AVX512) return &cavmae__cpu_ops_avx512;
    if (isa == CAVMAE__ISA_AVX2) return &cavmae__cpu_ops_avx2;
#endif
    (void)isa;
    return &cavmae__cpu_ops_baseline;
}

void cavmae__cpu_run(cavmae__backend *backend, int64_t count, double work, cavmae__task *task, void *arg) {
    if (work > work_worth_threads && count > 1) {
        cavmae__parallel(backend->context, count, task, arg);
        return;
    }
    for (int64_t i = 0; i < count; i++) task(arg, i, 0);
}

/* ---- Memory ---- */

enum { HUGE_PAGE = 1 << 21 };

/* Without huge pages, a large product spends up to a quarter of its time on the translation of addresses. A wish: where
 * it is not granted, nothing is lost. */
static void prefer_huge_pages(void *memory, size_t size) {
    const size_t before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
    if (size < before + HUGE_PAGE) return;
    madvise((char *)memory + before, (size - before) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
}

cavmae_status cavmae__cpu_alloc(cavmae__backend *backend, size_t size, void **out) {
    void *memory = cavmae__alloc(backend->context, size);
    if (!memory) return CAVMAE_E_NOMEM;
    prefer_huge_pages(memory, size);
    *out = memory;
    return CAVMAE_OK;
}

void cavmae__cpu_free(cavmae__backend *backend, void *memory) { cavmae__free(backend->context, memory); }

cavmae_status cavmae__cpu_copy(cavmae__backend *backend, void *to, const void *from, size_t size) {
    (void)backend;
    if (size > 0) memcpy(to, from, size);
    return CAVMAE_OK;
}

cavmae_status cavmae__cpu_zero(cavmae__backend *backend, void *memory, size_t size) {
    (void)backend;
    if (size > 0) memset(memory, 0, size);
    return CAVMAE_OK;
}

cavmae_status cavmae__cpu_sync(cavmae__backend *backend) {
    (void)backend;
    return CAVMAE_OK;
}

/* Calling is all there is to playing back. */
cavmae_status cavmae__cpu_repeat(cavmae__backend *backend, cavmae__repeat *repeat, uint64_t key,
                                 cavmae__repeat_body *body, void *arg) {
    (void)backend, (void)repeat, (void)key;
    return body(arg);
}

void cavmae__cpu_repeat_free(cavmae__backend *backend, cavmae__repeat *repeat) { (void)backend, (void)repeat; }

const char *cavmae__cpu_info(cavmae__backend *backend) {
    static const char *const names[] = {"cpu (baseline)", "cpu (avx2)", "cpu (avx512)"};
    int isa = 0;
    while (isa < 2 && backend->ops != ops_of(isa)) isa++;
    return names[isa];
}

/* ---- Workspace ---- */

static int64_t linear_bytes(const cavmae__cpu_backend *cpu, const cavmae__limits *limits) {
    int64_t floats =
        limits->backward ? cavmae__larger(CAVMAE__ROWS_SCRATCH, CAVMAE__GRAD_SCRATCH) : CAVMAE__ROWS_SCRATCH;
    int64_t bytes = floats * (int64_t)sizeof(float);
    if (!cpu->bf16) return bytes;
    bytes = cavmae__larger(bytes, cavmae__bf16_rows_scratch(limits->width));
    return limits->backward ? cavmae__larger(bytes, CAVMAE__BF16_GRAD_SCRATCH) : bytes;
}

/* Sums of blocks of rows, at most one block more for each group. */
static int64_t layernorm_floats(const cavmae__limits *limits) {
    return (cavmae__blocks(limits->rows, CAVMAE__NORM_BLOCK) + 4) * 2 * limits->width;
}

static int64_t contrastive_doubles(const cavmae__limits *limits) {
    const int64_t count = limits->pairs ? limits->pairs : limits->clips,
                  total = limits->all_pairs ? limits->all_pairs : limits->clips, width = limits->width;
    return 3 * total * width + 2 * count * total + 2 * total + 4 * count;
}

size_t cavmae__cpu_workspace_size(cavmae__backend *backend, const cavmae__limits *limits) {
    const cavmae__cpu_backend *cpu = (const cavmae__cpu_backend *)backend;
    int64_t bytes = linear_bytes(cpu, limits);
    if (limits->heads > 0)
        bytes = cavmae__larger(bytes, cavmae__attention_scratch(limits->longest, limits->head_dim, limits->backward) *
                                          (int64_t)sizeof(float));
    bytes *= cpu->threads;
    bytes = cavmae__larger(bytes, CAVMAE__SUM_SQUARES_BLOCKS * (int64_t)sizeof(double));
    bytes = cavmae__larger(bytes, (int64_t)cavmae__mae_loss_workspace(cpu, limits));
    bytes = cavmae__larger(bytes, (int64_t)cavmae__class_loss_workspace(limits));
    bytes = cavmae__larger(bytes, (int64_t)cavmae__draw_masks_workspace(cpu, limits));
    bytes = cavmae__larger(bytes, contrastive_doubles(limits) * (int64_t)sizeof(double));
    if (limits->backward) bytes = cavmae__larger(bytes, layernorm_floats(limits) * (int64_t)sizeof(float));
    return (size_t)cavmae__round_up(bytes, 64);
}

/* ---- Life ---- */

void cavmae__cpu_close(cavmae__backend *backend) {
    cavmae__bf16_close(((cavmae__cpu_backend *)backend)->bf16);
    cavmae__free(backend->context, backend);
}

cavmae_status cavmae__cpu_backend_open_as(cavmae_context *context, int isa, int always_bf16, cavmae__backend **out) {
    cavmae__cpu_backend *cpu = cavmae__alloc_zero(context, sizeof *cpu);
    if (!cpu) return CAVMAE_E_NOMEM;
    cpu->base.ops = ops_of(isa);
    cpu->base.context = context;
    cpu->threads = cavmae__context_threads(context);
    cavmae_status status = cavmae__bf16_open(context, always_bf16, &cpu->bf16);
    if (status != CAVMAE_OK) {
        cavmae__free(context, cpu);
        return status;
    }
    *out = &cpu->base;
    return CAVMAE_OK;
}

cavmae_status cavmae__cpu_backend_open(cavmae_context *context, cavmae__backend **out) {
    return cavmae__cpu_backend_open_as(context, cavmae__isa(), 0, out);
}
