/* The CPU backend from the inside. Operations that gain from wide vectors lie in simd_*.c, which are compiled once
 * for each instruction set; their external names end in its name. */
#ifndef CAVMAE_BACKEND_CPU_CPU_BACKEND_H
#define CAVMAE_BACKEND_CPU_CPU_BACKEND_H

#include "backend.h"
#include "bf16_product.h"

typedef struct cavmae__cpu_backend {
    cavmae__backend base;
    int32_t threads;
    cavmae__bf16 *bf16; /* NULL: bfloat16 is multiplied as float32 */
} cavmae__cpu_backend;

/* cavmae__NAME_avx512 and so on; CAVMAE_ISA is given on the compiler's command line. */
#define CAVMAE__SIMD_JOIN(name, isa) cavmae__##name##_##isa
#define CAVMAE__SIMD_EXPAND(name, isa) CAVMAE__SIMD_JOIN(name, isa)
#define CAVMAE__SIMD(name) CAVMAE__SIMD_EXPAND(name, CAVMAE_ISA)

/* Runs tasks like cavmae__parallel; on the calling thread alone where all of them together are less work
 * (in elementary operations) than waking the others is worth. */
void cavmae__cpu_run(cavmae__backend *backend, int64_t count, double work, cavmae__task *task, void *arg);

static inline int64_t cavmae__blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }
static inline int64_t cavmae__round_up(int64_t count, int64_t block) { return cavmae__blocks(count, block) * block; }
static inline int64_t cavmae__smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cavmae__larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* With the code of an instruction set of isa.h that the machine has, and with bfloat16 products even where they are
 * slow: for tests. */
cavmae_status cavmae__cpu_backend_open_as(cavmae_context *context, int isa, int always_bf16, cavmae__backend **out);

/* Bytes of workspace, for any call within the limits. */
size_t cavmae__mae_loss_workspace(const cavmae__cpu_backend *backend, const cavmae__limits *limits);
size_t cavmae__class_loss_workspace(const cavmae__limits *limits);
size_t cavmae__draw_masks_workspace(const cavmae__cpu_backend *backend, const cavmae__limits *limits);

/* Sizes that code compiled for each instruction set shares with the workspace's. */
enum { CAVMAE__SUM_SQUARES_BLOCKS = 1024, CAVMAE__NORM_BLOCK = 64 };

/* The operations that are one code for every processor. */
cavmae_status cavmae__cpu_alloc(cavmae__backend *backend, size_t size, void **out);
void cavmae__cpu_free(cavmae__backend *backend, void *memory);
cavmae_status cavmae__cpu_copy(cavmae__backend *backend, void *to, const void *from, size_t size);
cavmae_status cavmae__cpu_zero(cavmae__backend *backend, void *memory, size_t size);
cavmae_status cavmae__cpu_sync(cavmae__backend *backend);
cavmae_status cavmae__cpu_repeat(cavmae__backend *backend, cavmae__repeat *repeat, uint64_t key,
                                 cavmae__repeat_body *body, void *arg);
void cavmae__cpu_repeat_free(cavmae__backend *backend, cavmae__repeat *repeat);
const char *cavmae__cpu_info(cavmae__backend *backend);
size_t cavmae__cpu_workspace_size(cavmae__backend *backend, const cavmae__limits *limits);
void cavmae__cpu_close(cavmae__backend *backend);
cavmae_status cavmae__cpu_mae_loss(cavmae__backend *backend, const cavmae__mae_loss *op);
cavmae_status cavmae__cpu_class_loss(cavmae__backend *backend, const cavmae__class_loss *op);
cavmae_status cavmae__cpu_draw_masks(cavmae__backend *backend, const cavmae__draw_masks *op);
cavmae_status cavmae__cpu_index_tokens(cavmae__backend *backend, const cavmae__index_tokens *op);

#endif
