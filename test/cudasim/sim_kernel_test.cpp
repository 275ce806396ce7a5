/* The simulator's threads: kernels that are right give what they must, and each kind of fault is seen and told. With
 * CUDASIM_RACES, races in shared memory too. */
#include <cmath>
#include <sys/wait.h>
#include <unistd.h>

#include "fibre.h"
#include "sim_check.h"

static const unsigned all_lanes = 0xffffffffu;

template <typename... Parameters, typename... Arguments>
static cudaError_t run(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared,
                       Arguments... arguments) {
    cudaError_t error;
    {
        sim_stream stream;
        cudasim_launch("test_kernel", kernel, blocks, threads, shared, stream, static_cast<Parameters>(arguments)...);
        error = cudaGetLastError();
        if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    }
    cudaGetLastError();
    return error;
}

/* The kernel runs and fails, with a report that has these words. */
#define CHECK_FAULT(words, ...)                                                                                        \
    do {                                                                                                               \
        CHECK(run(__VA_ARGS__) == cudaErrorLaunchFailure);                                                             \
        CHECK_REPORTED(words);                                                                                         \
    } while (0)

/* ---- Where threads are ---- */

static __global__ void where_kernel(unsigned *out) {
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = block * 1000 + thread;
}

static void test_places() {
    sim_array<unsigned> out(2 * 3 * 4 * 60);
    CHECK_CUDA(run(where_kernel, dim3(2, 3, 4), dim3(3, 4, 5), 0, out.device));
    out.download();
    size_t wrong = 0;
    for (size_t i = 0; i < out.host.size(); i++) wrong += out.host[i] != i / 60 * 1000 + i % 60;
    CHECK(wrong == 0);
}

/* ---- Sums over a block: shuffles, shared memory, barriers ---- */

struct sum_shared {
    float sums[32];
};

static __global__ void sum_kernel(const float *x, float *sums, int count) {
    sum_shared *const shared = static_cast<sum_shared *>(cudasim_shared_memory());
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0;
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) sum += x[(int)blockIdx.x * count + i];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes, sum, distance);
    if (lane == 0) shared->sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < blockDim.x / 32 ? shared->sums[lane] : 0.0f;
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(all_lanes, sum, distance);
        if (lane == 0) sums[blockIdx.x] = sum;
    }
}

/* The same on one OS thread and on many; many blocks, so that they are shared out. */
static void test_sums() {
    const int count = 1000, blocks = 3000;
    sim_array<float> x((size_t)count * blocks), sums(blocks);
    for (size_t i = 0; i < x.host.size(); i++) x.host[i] = (float)(i % 97);
    x.upload();
    std::vector<float> first;
    for (const char *threads : {"1", "5"}) {
        setenv("CUDASIM_THREADS", threads, 1);
        CHECK_CUDA(run(sum_kernel, blocks, 256, sizeof(sum_shared), x.device, sums.device, count));
        sums.download();
        if (first.empty()) first = sums.host;
        CHECK(first == sums.host);
    }
    unsetenv("CUDASIM_THREADS");
    size_t wrong = 0;
    for (int block = 0; block < blocks; block++) {
        double sum = 0;
        for (int i = 0; i < count; i++) sum += x.host[(size_t)(block * count + i)];
        wrong += sums.host[(size_t)block] != (float)sum;
    }
    CHECK(wrong == 0);
}

/* ---- Each collective by itself ---- */

static __global__ void shuffle_kernel(int *out) {
    const int lane = (int)threadIdx.x;
    int *const row = out + lane * 8;
    row[0] = __shfl_sync(all_lanes, lane, 5);
    row[1] = __shfl_sync(all_lanes, lane, 5, 8);
    row[2] = __shfl_up_sync(all_lanes, lane, 3, 16);
    row[3] = __shfl_down_sync(all_lanes, lane, 3, 16);
    row[4] = __shfl_xor_sync(all_lanes, lane, 9);
    row[5] = (int)__shfl_sync(all_lanes, 1.5 * lane, 31 - lane);
    row[6] = (int)__ballot_sync(all_lanes, lane % 3 == 0);
    row[7] =
        __any_sync(all_lanes, lane == 7) + 2 * __all_sync(all_lanes, lane < 32) + 4 * __all_sync(all_lanes, lane < 31);
}

/* Halves of the warp on their own, in turns that the other half knows nothing of. */
static __global__ void halves_kernel(int *out) {
    const int lane = (int)threadIdx.x;
    int sum = lane;
    if (lane < 16)
        for (int distance = 8; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffu, sum, distance);
    else if (lane < 24)
        for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xff0000u, sum, distance);
    else
        __syncwarp(0xff000000u);
    __syncwarp();
    out[lane] = __shfl_sync(all_lanes, sum, lane ^ 1);
}

static __global__ void votes_kernel(int *out) {
    const int thread = (int)threadIdx.x;
    const int count = __syncthreads_count(thread % 5 == 0), any = __syncthreads_or(thread == 99),
              all = __syncthreads_and(thread != 99);
    out[thread] = count * 100 + any * 10 + all;
}

static void test_collectives() {
    sim_array<int> out(32 * 8);
    CHECK_CUDA(run(shuffle_kernel, 1, 32, 0, out.device));
    out.download();
    size_t wrong = 0;
    for (int lane = 0; lane < 32; lane++) {
        const int expected[8] = {5,
                                 lane / 8 * 8 + 5,
                                 lane % 16 < 3 ? lane : lane - 3,
                                 lane % 16 > 12 ? lane : lane + 3,
                                 lane ^ 9,
                                 (int)(1.5 * (31 - lane)),
                                 (int)0x49249249u,
                                 3};
        for (int i = 0; i < 8; i++) wrong += out.host[(size_t)(lane * 8 + i)] != expected[i];
    }
    CHECK(wrong == 0);

    CHECK_CUDA(run(halves_kernel, 1, 32, 0, out.device));
    out.download();
    wrong = 0;
    for (int lane = 0; lane < 32; lane++)
        wrong += out.host[(size_t)lane] != (lane < 16 ? 120 : lane < 24 ? 156 : lane ^ 1);
    CHECK(wrong == 0);

    CHECK_CUDA(run(votes_kernel, 1, 100, 0, out.device));
    out.download();
    for (int thread = 0; thread < 100; thread += 33) CHECK(out.host[(size_t)thread] == 2010);
    CHECK_REPORTED(nullptr);
}

/* ---- A transpose through shared memory, its tiles filled by asynchronous copies ---- */

struct tile_shared {
    alignas(16) float tile[32][36];
};

template <bool waits> static __global__ void transpose_kernel(const float *x, float *y, int rows, int columns) {
    tile_shared *const shared = static_cast<tile_shared *>(cudasim_shared_memory());
    const int row = (int)blockIdx.y * 32, column = (int)blockIdx.x * 32;
    for (int i = (int)threadIdx.x; i < 32 * 8; i += (int)blockDim.x) {
        const bool valid = row + i / 8 < rows && column + i % 8 * 4 < columns;
        cavmae__copy_async(&shared->tile[i / 8][i % 8 * 4],
                           x + (valid ? (row + i / 8) * columns + column + i % 8 * 4 : 0), valid);
    }
    cavmae__copy_commit();
    cavmae__copy_wait<waits ? 0 : 1>();
    __syncthreads();
    for (int i = (int)threadIdx.x; i < 32 * 32; i += (int)blockDim.x)
        if (column + i / 32 < columns && row + i % 32 < rows)
            y[(column + i / 32) * rows + row + i % 32] = shared->tile[i % 32][i / 32];
}

static void test_transpose() {
    const int rows = 70, columns = 100;
    sim_array<float> x(rows * columns), y(rows * columns);
    for (size_t i = 0; i < x.host.size(); i++) x.host[i] = (float)i;
    x.upload();
    for (const bool waits : {true, false}) {
        CHECK_CUDA(run(waits ? transpose_kernel<true> : transpose_kernel<false>, dim3(4, 3), 128, sizeof(tile_shared),
                       x.device, y.device, rows, columns));
        y.download();
        size_t wrong = 0;
        for (int i = 0; i < rows * columns; i++)
            wrong += !(y.host[(size_t)i] == x.host[(size_t)(i % rows * columns + i / rows)]);
        /* Without the wait the tile still has the bytes that it began with. */
        CHECK(waits ? wrong == 0 : wrong == x.host.size() && std::isnan(y.host[0]));
    }
}

/* Groups end in order, and zeros are written where nothing is read. */
static __global__ void groups_kernel(const float *x, float *y) {
    float *const shared = static_cast<float *>(cudasim_shared_memory());
    for (int group = 0; group < 3; group++) {
        cavmae__copy_async(shared + 4 * group, group == 1 ? nullptr : x + 4 * group, group != 1);
        cavmae__copy_commit();
    }
    cavmae__copy_wait<1>();
    for (int i = 0; i < 12; i++) y[i] = shared[i];
    cavmae__copy_wait<0>();
    for (int i = 0; i < 12; i++) y[12 + i] = shared[i];
}

static void test_copy_groups() {
    sim_array<float> x(12), y(24);
    for (size_t i = 0; i < 12; i++) x.host[i] = (float)(i + 1);
    x.upload();
    CHECK_CUDA(run(groups_kernel, 1, 1, 48, x.device, y.device));
    y.download();
    for (size_t i = 0; i < 12; i++) {
        const float loaded = i / 4 == 1 ? 0.0f : x.host[i];
        CHECK(i >= 8 ? std::isnan(y.host[i]) : y.host[i] == loaded);
        CHECK(y.host[12 + i] == loaded);
    }
}

/* ---- Tensor cores: y [16, 8] = x [16, 16] w [16, 8] ---- */

static uint16_t to_bf16(float x) { return (uint16_t)(__float_as_uint(x) >> 16); } /* of small integers: exact */

struct product_shared {
    alignas(16) uint16_t x[16][24], w[16][24]; /* w: columns 8 .. 15 are not used */
};

/* x by ldmatrix, w by ldmatrix.trans, as kernels load row-major operands. */
static __global__ void product_kernel(const uint16_t *x, const uint16_t *w, float *y) {
    product_shared *const shared = static_cast<product_shared *>(cudasim_shared_memory());
    const int lane = (int)threadIdx.x, tile = lane / 8, row = lane % 8;
    for (int i = lane; i < 256; i += 32) {
        shared->x[i / 16][i % 16] = x[i];
        shared->w[i / 16][i % 16] = i % 16 < 8 ? w[i / 16 * 8 + i % 16] : (uint16_t)0;
    }
    __syncwarp();
    uint32_t a[4], b[4];
    cavmae__load_tiles(a, &shared->x[row + tile % 2 * 8][tile / 2 * 8]);
    cavmae__load_tiles_transposed(b, &shared->w[row + tile % 2 * 8][tile / 2 * 8]);
    float d[4] = {1, 2, 3, 4};
    cavmae__mma_bf16(d, a, b);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; i++) y[(group + i / 2 * 8) * 8 + pair + i % 2] = d[i];
}

static __global__ void tiles_kernel(uint32_t *straight, uint32_t *transposed) {
    uint16_t *const shared = static_cast<uint16_t *>(cudasim_shared_memory());
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) shared[i] = (uint16_t)i; /* four tiles, one after the other */
    __syncwarp();
    cavmae__load_tiles(straight + lane * 4, shared + lane * 8);
    cavmae__load_tiles_transposed(transposed + lane * 4, shared + lane * 8);
}

static void test_tensor_cores() {
    sim_array<uint16_t> x(256), w(128);
    sim_array<float> y(128);
    std::vector<float> xf(256), wf(128);
    for (int i = 0; i < 256; i++) x.host[(size_t)i] = to_bf16(xf[(size_t)i] = (float)(i * 7 % 23 - 11));
    for (int i = 0; i < 128; i++) w.host[(size_t)i] = to_bf16(wf[(size_t)i] = (float)(i * 5 % 19 - 9));
    x.upload();
    w.upload();
    CHECK_CUDA(run(product_kernel, 1, 32, sizeof(product_shared), x.device, w.device, y.device));
    y.download();
    size_t wrong = 0;
    for (size_t row = 0; row < 16; row++)
        for (size_t column = 0; column < 8; column++) {
            float sum = (float)(1 + column % 2 + row / 8 * 2);
            for (size_t k = 0; k < 16; k++) sum += xf[row * 16 + k] * wf[k * 8 + column];
            wrong += y.host[row * 8 + column] != sum;
        }
    CHECK(wrong == 0);

    sim_array<uint32_t> straight(128), transposed(128);
    CHECK_CUDA(run(tiles_kernel, 1, 32, 512, straight.device, transposed.device));
    straight.download();
    transposed.download();
    wrong = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned tile = 0; tile < 4; tile++) {
            const unsigned row = lane / 4, column = lane % 4 * 2, start = tile * 64;
            wrong +=
                straight.host[lane * 4 + tile] != ((start + row * 8 + column + 1) << 16 | (start + row * 8 + column));
            wrong += transposed.host[lane * 4 + tile] !=
                     ((start + (column + 1) * 8 + row) << 16 | (start + column * 8 + row));
        }
    CHECK(wrong == 0);
    CHECK_REPORTED(nullptr);
}

/* ---- Numbers and atomics ---- */

static __global__ void atomics_kernel(unsigned *counts, float *sum, int *most) {
    atomicAdd(&counts[threadIdx.x % 4], 1u);
    atomicAdd(sum, 0.5f);
    atomicMax(most, (int)(blockIdx.x * blockDim.x + threadIdx.x));
    __threadfence();
    unsigned expected = counts[4], old;
    while ((old = atomicCAS(&counts[4], expected, expected + 2)) != expected) expected = old;
}

static void test_atomics_and_numbers() {
    sim_array<unsigned> counts(5);
    sim_array<float> sum(1);
    sim_array<int> most(1);
    counts.upload();
    sum.upload();
    most.upload();
    CHECK_CUDA(run(atomics_kernel, 400, 128, 0, counts.device, sum.device, most.device));
    counts.download();
    sum.download();
    most.download();
    CHECK(counts.host[0] == 12800 && counts.host[3] == 12800 && counts.host[4] == 2 * 51200);
    CHECK(sum.host[0] == 25600.0f && most.host[0] == 51199);

    CHECK(__popc(0xF0F0u) == 8 && __ffs(0) == 0 && __ffs(8) == 4 && __clz(0) == 32 && __clz(1) == 31 &&
          __clzll(1) == 63);
    CHECK(__umulhi(0xFFFFFFFFu, 0xFFFFFFFFu) == 0xFFFFFFFEu && __umul64hi(~0ull, ~0ull) == ~0ull - 1);
    CHECK(__brev(1u) == 0x80000000u && __uint_as_float(__float_as_uint(-2.5f)) == -2.5f);
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(-3.5f) == -4 && __float2int_rn(1e20f) == INT32_MAX &&
          __float2int_rn(-1e20f) == INT32_MIN && __float2int_rn(NAN) == 0);
    CHECK(rsqrtf(4.0f) == 0.5f && cavmae__exp2(-3.0f) == 0.125f && fabsf(__expf(1.0f) - 2.7182818f) < 1e-6f);
    CHECK(max(3, 5) == 5 && min(2.0f, 1.0f) == 1.0f && make_float4(1, 2, 3, 4).z == 3.0f);
}

/* ---- Faults ---- */

static __global__ void leaves_kernel(int last) {
    if ((int)threadIdx.x > last) return;
    __syncthreads();
}

static __global__ void two_places_kernel() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

static __global__ void barrier_or_warp_kernel() {
    if (threadIdx.x == 3)
        __syncthreads();
    else
        __syncwarp();
    __syncthreads();
}

static __global__ void mask_kernel(int fault) {
    const int lane = (int)threadIdx.x;
    if (fault == 0 && lane == 0) return;
    if (fault == 5 && lane == 31) return;
    if (fault == 1) __shfl_sync(0xffff0000u, lane, 20);
    if (fault == 2) __shfl_sync(lane < 16 ? 0xffffu : 0xffff0000u, lane, 20);
    if (fault == 3) __shfl_xor_sync(all_lanes, lane, 1, 12);
    if (fault == 4) __syncwarp(lane == 0 ? 3u : all_lanes);
    __syncwarp();
}

static __global__ void place_kernel(int fault) {
    unsigned char *const shared = static_cast<unsigned char *>(cudasim_shared_memory());
    uint32_t r[4];
    if (fault == 0) cavmae__load_tiles(r, shared + 16 * threadIdx.x + (threadIdx.x == 7 ? 8 : 0));
    if (fault == 1) cavmae__load_tiles(r, shared + 16 * (threadIdx.x + 1));
    if (fault == 2) cavmae__copy_async(shared + 4, nullptr, 0);
    if (fault == 3) cavmae__copy_async(shared, shared + 8, 1);
    if (fault == 4) cavmae__copy_async(r, shared, 1);
    if (fault == 5 && threadIdx.x == 0) shared[512] = 1;
}

static __global__ void write_kernel(float *x, int count) {
    if ((int)threadIdx.x < count) x[threadIdx.x] = 0.0f;
}

#ifdef CUDASIM_ASAN
/* A process that does it ends with AddressSanitizer's report. */
template <typename Function> static bool is_stopped(Function function) {
    const pid_t child = fork();
    if (child == 0) {
        function();
        _exit(0);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != 0;
}
#endif

static void test_faults() {
    CHECK_FAULT("thread 0 (and 39 more) at __syncthreads", leaves_kernel, 1, 64, 0, 39);
    CHECK_FAULT("thread 40 (and 23 more) has ended", leaves_kernel, 2, 64, 0, 39);
    CHECK_FAULT("while thread 0 waits at __syncthreads", two_places_kernel, 1, 64, 0);
    CHECK_FAULT("thread 3 at __syncthreads", barrier_or_warp_kernel, 1, 32, 0);
    CHECK_FAULT("with a lane whose thread has ended", mask_kernel, 1, 64, 0, 0);
    CHECK_FAULT("with lanes that the block does not have", mask_kernel, 1, 20, 0, -1);
    CHECK_FAULT("without this thread's own lane", mask_kernel, 1, 32, 0, 1);
    CHECK_FAULT("reads lane 20, which is not in the mask", mask_kernel, 1, 32, 0, 2);
    CHECK_FAULT("width 12", mask_kernel, 1, 32, 0, 3);
    CHECK_FAULT("threads wait for each other", mask_kernel, 1, 32, 0, 4);
    CHECK_FAULT("thread 31 has ended", mask_kernel, 1, 32, 0, 5);
    CHECK_FAULT("thread 7, ", place_kernel, 1, 32, 1024, 0);
    CHECK_FAULT("ldmatrix at an address that is not in the block's shared memory", place_kernel, 1, 32, 512, 1);
    CHECK_FAULT("not a multiple of 16", place_kernel, 1, 32, 512, 2);
    CHECK_FAULT("copy from an address that is not a multiple of 16", place_kernel, 1, 32, 512, 3);
    CHECK_FAULT("not in the block's shared memory", place_kernel, 1, 32, 512, 4);
    sim_array<float> x(20);
#ifdef CUDASIM_ASAN
    CHECK(is_stopped([] { run(place_kernel, 1, 32, 512, 5); }));
    CHECK(is_stopped([&x] { run(write_kernel, 1, 32, 0, x.device, 21); }));
    CHECK(!is_stopped([&x] { run(write_kernel, 1, 32, 0, x.device, 20); }));
#else
    CHECK_FAULT("writes behind its 512 bytes of shared memory", place_kernel, 1, 32, 512, 5);
    CHECK_CUDA(run(write_kernel, 1, 32, 0, x.device, 20));
#endif
    CHECK_CUDA(run(leaves_kernel, 1, 64, 0, 63)); /* and the device works again */
}

static void test_launches() {
    for (const unsigned threads : {0u, 1025u}) {
        CHECK(run(leaves_kernel, 1, threads, 0, 0) == cudaErrorInvalidValue);
        CHECK_REPORTED("threads in a block");
    }
    CHECK(run(leaves_kernel, dim3(1, 65536), 32, 0, 31) == cudaErrorInvalidValue);
    CHECK_REPORTED("1 x 65536 x 1 blocks");
    CHECK(run(leaves_kernel, 1, 32, 50000, 31) == cudaErrorInvalidValue);
    CHECK_REPORTED("50000 bytes of shared memory, of 49152 allowed");
    CHECK_CUDA(cudaFuncSetAttribute(leaves_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000));
    CHECK_CUDA(run(leaves_kernel, 1, 32, 50000, 31));
    CHECK(cudaFuncSetAttribute(leaves_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 250000) ==
          cudaErrorInvalidValue);
    CHECK_REPORTED("250000 bytes");
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    CHECK_CUDA(cudaGetLastError());
}

/* ---- Races ---- */

struct race_shared {
    float values[256];
    unsigned char bytes[64];
};

/* fault 0: none. Bits: which of the orders is missing. */
static __global__ void race_kernel(int fault, float *out) {
    race_shared *const shared = static_cast<race_shared *>(cudasim_shared_memory());
    const unsigned thread = threadIdx.x, next = (thread + 1) % blockDim.x;
    shared->values[thread] = (float)thread;
    if (fault != 1) __syncthreads();
    out[thread] = shared->values[next]; /* 1: read after another's write */
    if (fault != 2) __syncthreads();
    shared->values[thread] = 1.0f; /* 2: written after another's read */
    if (fault == 3) shared->values[next] = 2.0f;
    __syncthreads();
    shared->values[thread] = 3.0f;
    if (fault != 4) __syncwarp();
    out[thread] = shared->values[thread ^ 1];                  /* 4: of the same warp */
    if (fault == 5) out[thread] = shared->values[thread ^ 32]; /* another warp's, after a __syncwarp */
    __syncwarp();
    shared->values[thread ^ 1] = 4.0f;
    __syncthreads();
    if (thread < 64) shared->bytes[thread] = 1; /* neighbours: no race */
    if (fault == 8) shared->bytes[thread / 32 % 2] = 1;
    const float first = shared->values[thread / 32 * 32];
    __syncwarp();
    if (thread % 32 == 0) shared->values[thread] += first; /* read once more, after the others' reads: no race */
    __syncwarp();
    if (fault == 6) memcpy(&shared->values[0], &shared->values[128], (size_t)fault * 10);
    if (fault == 7) cavmae__copy_async(&shared->values[0], out, 1);
    cavmae__copy_commit();
    cavmae__copy_wait<0>();
}

static void test_races() {
    sim_array<float> out(256);
    CHECK_CUDA(run(race_kernel, 3, 256, sizeof(race_shared), 0, out.device));
    CHECK_REPORTED(nullptr);
#ifdef CUDASIM_RACES
    CHECK_FAULT("byte 4 of shared memory: thread 0 reads it, then thread 1 writes it", race_kernel, 3, 256,
                sizeof(race_shared), 1, out.device);
    for (int fault = 1; fault <= 8; fault++)
        CHECK_FAULT("race: byte ", race_kernel, 3, 256, sizeof(race_shared), fault, out.device);
#endif
}

int main() {
    test_places();
    test_sums();
    test_collectives();
    test_transpose();
    test_copy_groups();
    test_tensor_cores();
    test_atomics_and_numbers();
    test_faults();
    test_launches();
    test_races();
#ifdef CUDASIM_RACES
    return sim_summary("cudasim kernels, races");
#else
    return sim_summary("cudasim kernels");
#endif
}
