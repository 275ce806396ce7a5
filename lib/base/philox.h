/* Philox4x32-10 (Salmon et al., SC 2011): random numbers that are a function of (seed, purpose, step,
 * sample, index) alone, so that a resumed run, another thread count and the GPU draw the same ones. */
#ifndef CAVMAE_BASE_PHILOX_H
#define CAVMAE_BASE_PHILOX_H

#include <stdint.h>

/* The CUDA backend's kernels draw with the same functions. */
#ifdef __CUDACC__
#define CAVMAE__PHILOX_INLINE static inline __host__ __device__
#else
#define CAVMAE__PHILOX_INLINE static inline
#endif

/* What a stream of random numbers is for; part of the key, so that no two purposes share numbers. */
enum {
    CAVMAE__PURPOSE_INIT = 1,   /* step = 0, sample = hash of the parameter's name */
    CAVMAE__PURPOSE_MASK_A = 2, /* step = training step, sample = position in the batch */
    CAVMAE__PURPOSE_MASK_V = 3,
    CAVMAE__PURPOSE_SHUFFLE = 4, /* step = epoch, sample = 0 */
    CAVMAE__PURPOSE_FRAME = 5,   /* step = epoch, sample = index in the manifest, as below */
    CAVMAE__PURPOSE_NOISE = 6,
    CAVMAE__PURPOSE_ROLL = 7,
    CAVMAE__PURPOSE_MODALITY = 9,   /* which modality a clip is shown without; as MASK_A */
    CAVMAE__PURPOSE_MASK_JOINT = 8, /* masks over the concatenation of audio and visual tokens */
    CAVMAE__PURPOSE_MIXUP = 20,     /* step = epoch, sample = the draw's number, as the three from FRAME on */
    CAVMAE__PURPOSE_MIXUP_LAMBDA = 21,
    CAVMAE__PURPOSE_SPECAUG = 22,
    CAVMAE__PURPOSE_BALANCE = 23, /* step = epoch, sample = 0 */
    CAVMAE__PURPOSE_PAIRS = 24    /* step = 0, sample = 0 */
};

typedef struct cavmae__philox {
    uint32_t key[2];     /* seed */
    uint32_t counter[4]; /* block index, sample (low 32), step (low 32), purpose | sample high | step high */
} cavmae__philox;

CAVMAE__PHILOX_INLINE cavmae__philox cavmae__philox_key(uint64_t seed, uint32_t purpose, uint64_t step,
                                                        uint64_t sample) {
    cavmae__philox p = {{(uint32_t)seed, (uint32_t)(seed >> 32)},
                        {0, (uint32_t)sample, (uint32_t)step,
                         purpose ^ ((uint32_t)(sample >> 32) << 8) ^ ((uint32_t)(step >> 32) << 20)}};
    return p;
}

/* The four numbers of block `block` of the stream. */
CAVMAE__PHILOX_INLINE void cavmae__philox_block(const cavmae__philox *p, uint32_t block, uint32_t out[4]) {
    uint32_t c0 = block, c1 = p->counter[1], c2 = p->counter[2], c3 = p->counter[3];
    uint32_t k0 = p->key[0], k1 = p->key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t m0 = (uint64_t)0xD2511F53u * c0, m1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(m1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(m0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)m1;
        c3 = (uint32_t)m0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The i-th number of the stream, as 32 bits and as a float in [0, 1) with 24 bits. */
CAVMAE__PHILOX_INLINE uint32_t cavmae__philox_u32(const cavmae__philox *p, uint64_t i) {
    uint32_t out[4];
    cavmae__philox_block(p, (uint32_t)(i >> 2), out);
    return out[i & 3];
}

CAVMAE__PHILOX_INLINE float cavmae__philox_uniform(const cavmae__philox *p, uint64_t i) {
    return (float)(cavmae__philox_u32(p, i) >> 8) * 0x1p-24f;
}

/* A number in [0, n), n < 2^32: multiply-shift; the bias is under n / 2^32. */
CAVMAE__PHILOX_INLINE uint32_t cavmae__philox_below(const cavmae__philox *p, uint64_t i, uint32_t n) {
    return (uint32_t)(((uint64_t)cavmae__philox_u32(p, i) * n) >> 32);
}

#endif
