#include "isa.h"
#include "status.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

#if defined(__clang__)
#define COMPILER "clang-" TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__)
#elif defined(__GNUC__)
#define COMPILER "gcc-" TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__)
#else
#define COMPILER "unknown"
#endif

#ifdef CAVMAE_HAVE_X86
#define BUILT "baseline,avx2,avx512"
#else
#define BUILT "baseline"
#endif

/* "name=version ..." of the libraries this was built with; the build passes it. */
#ifndef CAVMAE_BUILD_LIBRARIES
#define CAVMAE_BUILD_LIBRARIES "libraries=unknown"
#endif

/* One constant text for each machine, so that nothing has to be composed, kept or guarded at run time. */
#define INFO(isa)                                                                                                      \
    "version=" CAVMAE_VERSION_STRING " compiler=" COMPILER " isa_built=" BUILT " isa=" isa " " CAVMAE_BUILD_LIBRARIES

uint32_t cavmae_version(void) { return CAVMAE_VERSION_NUMBER; }

const char *cavmae_version_string(void) { return CAVMAE_VERSION_STRING; }

const char *cavmae_build_info(void) {
    switch (cavmae__isa()) {
    case CAVMAE__ISA_AVX512: return INFO("avx512");
    case CAVMAE__ISA_AVX2: return INFO("avx2");
    default: return INFO("baseline");
    }
}
