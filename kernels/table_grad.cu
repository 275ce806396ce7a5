/* Sums of rows into the rows of a table.
 *
 * A table of one row is a sum over very many: blocks of rows leave their sums in the workspace, which are then added in
 * order. A larger table has a block for each of its rows, which goes through all of `index` for the rows that are its
 * own, collects them in rising order, and adds them in that order, a thread a column: as many blocks read index at once
 * as the table has rows, but from the cache, while each row of dy is read once. */
#include "sums.h"
#include "vector.h"

enum { THREADS = 256, WARPS = THREADS / CAVMAE__WARP };

/* ---- One row ---- */

static const int64_t smallest_block = 64, most_blocks = 512; /* rows; blocks */
enum { AT_ONCE = 4 };

static int64_t rows_of_block(int64_t count) {
    const int64_t each = (count + most_blocks - 1) / most_blocks;
    return each < smallest_block ? smallest_block : each;
}

size_t cavmae__cuda_table_grad_workspace(const cavmae__limits *limits) {
    if (!limits->backward) return 0;
    const int64_t blocks = (limits->rows + smallest_block - 1) / smallest_block;
    return (size_t)(blocks < most_blocks ? blocks : most_blocks) * (size_t)limits->width * sizeof(float);
}

template <typename Vector> struct sum_shared { Vector sum[WARPS][CAVMAE__WARP]; };

/* A block takes 32 pieces of the columns of `each` rows, a warp every eighth of them. */
template <typename Vector>
static __global__ void __launch_bounds__(THREADS)
    sum_blocks(cavmae__table_grad op, int64_t each, int32_t pieces, int32_t chunks) {
    typedef cavmae__vector<Vector> V;
    CAVMAE__SHARED(sum_shared<Vector>, shared);
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int64_t block = (int64_t)blockIdx.x / chunks, first = block * each;
    const int64_t end = first + each < op.count ? first + each : op.count;
    const int piece = (int)((int64_t)blockIdx.x % chunks) * CAVMAE__WARP + lane;
    const Vector *dy = reinterpret_cast<const Vector *>(op.dy) + piece;
    Vector sum = V::zero();
    if (piece < pieces) {
        for (int64_t k = first + warp; k < end; k += AT_ONCE * WARPS) {
            Vector row[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int64_t own = k + i * WARPS;
                const bool wanted = own < end && !(op.index && op.index[own] < 0);
                row[i] = wanted ? dy[(op.row ? op.row[own] : own) * pieces] : V::zero();
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) sum = V::add(sum, row[i]);
        }
    }
    shared->sum[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || piece >= pieces) return;
    for (int i = 1; i < WARPS; i++) sum = V::add(sum, shared->sum[i][lane]);
    static_cast<Vector *>(op.workspace)[block * pieces + piece] = sum;
}

static __global__ void __launch_bounds__(CAVMAE__PART_THREADS) add_blocks(cavmae__table_grad op, int64_t blocks) {
    CAVMAE__SHARED(cavmae__part_shared, shared);
    const int column = (int)(blockIdx.x * CAVMAE__PART_COLUMNS + threadIdx.x % CAVMAE__PART_COLUMNS);
    cavmae__add_parts(shared, static_cast<const float *>(op.workspace) + column, op.width, blocks,
                      column < op.width ? op.dtable + column : NULL, op.accumulate);
}

static cavmae_status sum_rows(cavmae__backend *backend, const cavmae__table_grad *op) {
    const int64_t each = rows_of_block(op->count), blocks = (op->count + each - 1) / each;
    const bool four = op->width % 4 == 0 && cavmae__aligned(op->dy, static_cast<const char *>(op->workspace));
    const cavmae_status status = cavmae__by_vector(four, [&](auto zero) {
        typedef decltype(zero) Vector;
        const int32_t pieces = op->width / cavmae__vector<Vector>::width;
        const int32_t chunks = (pieces + CAVMAE__WARP - 1) / CAVMAE__WARP;
        return CAVMAE__LAUNCH(backend, sum_blocks<Vector>, cavmae__blocks_for(blocks * chunks, 1), THREADS,
                              sizeof(sum_shared<Vector>), *op, each, pieces, chunks);
    });
    if (status != CAVMAE_OK) return status;
    return CAVMAE__LAUNCH(backend, add_blocks, cavmae__blocks_for(op->width, CAVMAE__PART_COLUMNS),
                          CAVMAE__PART_THREADS, sizeof(cavmae__part_shared), *op, blocks);
}

/* ---- Many rows ---- */

/* A warp looks at EACH * 32 entries of index at once, in rising order, a block at TILE. */
enum { EACH = 16, TILE = EACH * THREADS };

typedef struct scatter_shared {
    int32_t row[2 * TILE]; /* of dy: the table row's own that have not been added yet */
    int32_t found[WARPS];
} scatter_shared;

/* Appends those of the tile's rows that are the table row's own; every thread gets how many there are now. */
static __device__ __forceinline__ int collect(scatter_shared *shared, const cavmae__table_grad &op, int64_t tile,
                                              int32_t table_row, int collected) {
    const int lane = (int)threadIdx.x % CAVMAE__WARP, warp = (int)threadIdx.x / CAVMAE__WARP;
    const int64_t first = tile + warp * (EACH * CAVMAE__WARP) + lane;
    uint32_t own[EACH];
    int found = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t k = first + i * CAVMAE__WARP;
        const int32_t index = k < op.count ? op.index[k] : -1;
        own[i] = __ballot_sync(0xffffffffu, index == table_row);
        found += __popc(own[i]);
    }
    __syncthreads(); /* the last call's counts, and rows that have been added, have been read */
    if (lane == 0) shared->found[warp] = found;
    __syncthreads();
    int at = collected;
    for (int i = 0; i < WARPS; i++) {
        if (i < warp) at += shared->found[i];
        collected += shared->found[i];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t k = first + i * CAVMAE__WARP;
        if (own[i] >> lane & 1) shared->row[at + __popc(own[i] & ((1u << lane) - 1))] = op.row ? op.row[k] : (int32_t)k;
        at += __popc(own[i]);
    }
    __syncthreads();
    return collected;
}

template <typename Vector>
static __global__ void __launch_bounds__(THREADS) scatter_rows(cavmae__table_grad op, int32_t pieces, int32_t chunks) {
    typedef cavmae__vector<Vector> V;
    CAVMAE__SHARED(scatter_shared, shared);
    const int32_t table_row = (int32_t)((int64_t)blockIdx.x / chunks);
    const int piece = (int)((int64_t)blockIdx.x % chunks) * THREADS + (int)threadIdx.x;
    const Vector *dy = reinterpret_cast<const Vector *>(op.dy) + piece;
    Vector *to = reinterpret_cast<Vector *>(op.dtable) + (int64_t)table_row * pieces + piece;
    Vector sum = op.accumulate && piece < pieces ? *to : V::zero();
    int collected = 0;
    for (int64_t tile = 0; tile < op.count; tile += TILE) {
        collected = collect(shared, op, tile, table_row, collected);
        if (collected <= TILE && tile + TILE < op.count) continue; /* there is room for another */
        if (piece < pieces) {
#pragma unroll 8
            for (int i = 0; i < collected; i++) sum = V::add(sum, dy[(int64_t)shared->row[i] * pieces]);
        }
        collected = 0;
    }
    if (piece < pieces) *to = sum;
}

cavmae_status cavmae__cuda_table_grad(cavmae__backend *backend, const cavmae__table_grad *op) {
    if (op->table_rows == 1) return sum_rows(backend, op);
    return cavmae__by_vector(op->width % 4 == 0 && cavmae__aligned(op->dy, op->dtable), [&](auto zero) {
        typedef decltype(zero) Vector;
        const int32_t pieces = op->width / cavmae__vector<Vector>::width, chunks = (pieces + THREADS - 1) / THREADS;
        return CAVMAE__LAUNCH(backend, scatter_rows<Vector>, cavmae__blocks_for((int64_t)op->table_rows * chunks, 1),
                              THREADS, sizeof(scatter_shared), *op, pieces, chunks);
    });
}
