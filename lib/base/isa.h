/* The instruction set for which code is chosen at run time: one test for all, so that what cavmae_build_info
 * says is what runs. */
#ifndef CAVMAE_BASE_ISA_H
#define CAVMAE_BASE_ISA_H

enum { CAVMAE__ISA_BASELINE, CAVMAE__ISA_AVX2, CAVMAE__ISA_AVX512 };

/* The widest that both this build and this machine have. */
static inline int cavmae__isa(void) {
#ifdef CAVMAE_HAVE_X86
    /* Every processor with AVX2 and FMA has F16C; clang's builtin does not know its name. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return CAVMAE__ISA_AVX512;
        return CAVMAE__ISA_AVX2;
    }
#endif
    return CAVMAE__ISA_BASELINE;
}

#endif
