# libcavmae. `make help` lists what there is to make.
#
#   CC CFLAGS LDFLAGS     compiler and the user's flags (default -O3 -g)
#   NATIVE=1              for this machine only (-march=native)
#   WITHOUT_ONEDNN=1      without oneDNN, which multiplies bfloat16 where the processor is fast at it
#   CUDA_HOME CUDA_ARCHS  the CUDA toolkit, and what to compile for (default 80 90a 100 120; empty CUDA_HOME: not at all)
#   MPICC                 MPI's compiler, for the MPI plug-in (default mpicc; empty: not at all)
#   WERROR=1              warnings are errors
#   V=1                   show the commands
#   PREFIX LIBDIR INCLUDEDIR BINDIR MANDIR DESTDIR   where `make install` puts things
#   PLUGINDIR             where it puts the plug-ins, and the library looks for them (default LIBDIR)

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
PLUGINDIR ?= $(LIBDIR)

.DEFAULT_GOAL := all

BUILD ?= build
CFLAGS ?= -O3 -g
PKG_CONFIG ?= pkg-config
OBJCOPY ?= objcopy
NM ?= nm
ifeq ($(origin CC),default)
CC := gcc
endif

# Packages that are missing are installed before anything is asked of the compiler: make reads itself again after it
# has made a file that it includes.
$(BUILD)/.setup: .ci/setup.sh
	@mkdir -p $(@D) && WITHOUT_ONEDNN=$(WITHOUT_ONEDNN) ./.ci/setup.sh build && touch $@
$(BUILD)/.setup-check: .ci/setup.sh
	@mkdir -p $(@D) && ./.ci/setup.sh check && touch $@
ifeq ($(filter clean help uninstall dist deb,$(MAKECMDGOALS)),)
include $(BUILD)/.setup
endif

VERSION := $(shell sed -n 's/^#define CAVMAE_VERSION_STRING "\(.*\)"/\1/p' include/cavmae.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))

# ---- What there is ----

LIB_DIRS := $(addprefix lib/,base backend backend/cpu frontend io parallel model train infer data)
SOURCES := $(sort $(wildcard $(addsuffix /*.c,$(LIB_DIRS))))
SIMD_SOURCES := $(foreach file,$(SOURCES),$(if $(filter simd_%,$(notdir $(file))),$(file)))
PLAIN_SOURCES := $(filter-out $(SIMD_SOURCES),$(SOURCES))
MEDIA_SOURCES := $(sort $(wildcard lib/media/*.c))
MPI_SOURCES := $(sort $(wildcard lib/mpi/*.c))
PROGRAMS := $(foreach name,scenes pretrain finetune evaluate embed retrieve inpaint localize extract pack convert average info \
    bench reproduce demo-page,$(if $(wildcard examples/$(name).c),$(name)))
PROGRAM_HELPERS := $(sort $(wildcard examples/lib/*.c))
UNIT_TESTS := $(patsubst test/%.c,%,$(sort $(wildcard test/*_test.c)))
PROGRAM_TESTS := $(patsubst test/%.c,%,$(sort $(wildcard test/programs/*_test.c)))
CUDA_TESTS := $(patsubst test/%.c,%,$(sort $(wildcard test/cuda/*_test.c)))
FUZZ_TARGETS := $(patsubst test/fuzz/%.c,%,$(sort $(wildcard test/fuzz/fuzz_*.c)))

# The CUDA plug-in is built where nvcc is.
CUDA_HOME ?= $(firstword $(patsubst %/bin/nvcc,%,$(wildcard /usr/local/cuda/bin/nvcc)) \
    $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc))))
NVCC := $(if $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc))
CUDA_ARCHS ?= 80 90a 100 120
CUDA_KERNELS := $(sort $(wildcard kernels/*.cu))
CUDA_SOURCES := $(sort $(wildcard kernels/host/*.c))

# The MPI plug-in is built where MPI's headers are. MPI's compiler is ours with its flags.
MPICC ?= mpicc
mpi_cc = OMPI_CC='$(CC)' MPICH_CC='$(CC)' I_MPI_CC='$(CC)' $(MPICC)
MPI_FOUND := $(if $(MPICC),$(shell echo '\#include <mpi.h>' | $(mpi_cc) -E - >/dev/null 2>&1 && echo 1))

# ---- Flags ----

WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wundef -Wcast-qual -Wstrict-prototypes -Wpointer-arith
OWN_FLAGS := -std=c11 -fPIC -fvisibility=hidden -pthread $(WARNINGS) $(if $(WERROR),-Werror) $(if $(NATIVE),-march=native) \
             $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
LIB_FLAGS := -Iinclude $(addprefix -I,$(LIB_DIRS))
LIBS := -lsamplerate -lz -lm -lpthread -ldl
ifdef WITHOUT_ONEDNN
LIB_FLAGS += -DCAVMAE_WITHOUT_ONEDNN
else
LIBS := -ldnnl -lgomp $(LIBS)
endif

# Fused multiply-add would give a file's results another rounding with another compiler; only the vector kernels,
# which say where they use it, may.
PLAIN_FLAGS := -ffp-contract=off
SIMD_FLAGS := -ffp-contract=fast

# Files simd_*.c are compiled once for each instruction set; cavmae__isa() chooses at run time.
ISAS := baseline
ifneq ($(filter x86_64-%,$(shell $(CC) -dumpmachine)),)
ISAS += avx2 avx512
LIB_FLAGS += -DCAVMAE_HAVE_X86
endif
ISA_FLAGS_baseline :=
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 := $(ISA_FLAGS_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512

CUDA_FLAGS := -Ikernels -Ikernels/host
# Code for each architecture, and PTX of the newest for those to come.
NVCC_FLAGS = -std=c++17 -O3 -lineinfo $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) \
    -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS)) \
    -Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-Wall,-Wextra,-Wshadow $(if $(WERROR),-Werror all-warnings)
CUDA_LIBS = -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -lstdc++ -lm -lrt -lpthread -ldl

FFMPEG := libavformat libavcodec libavutil libswscale

# Asked for in recipes only: when make starts, the packages may still be missing.
define library_versions
$(strip $(if $(WITHOUT_ONEDNN),,onednn=$(shell printf '%s\n' '#include "oneapi/dnnl/dnnl_version.h"' \
    'DNNL_VERSION_MAJOR.DNNL_VERSION_MINOR.DNNL_VERSION_PATCH' | $(CC) $(CPPFLAGS) -E -P - | tail -n 1 | tr -d ' ')) \
    libsamplerate=$(shell $(PKG_CONFIG) --modversion samplerate) zlib=$(shell $(PKG_CONFIG) --modversion zlib))
endef

# ---- Names of what is made ----

OBJ := $(BUILD)/obj
LIB_OBJECTS := $(PLAIN_SOURCES:%.c=$(OBJ)/%.o) $(foreach isa,$(ISAS),$(SIMD_SOURCES:%.c=$(OBJ)/%.$(isa).o))
MEDIA_OBJECTS := $(MEDIA_SOURCES:%.c=$(OBJ)/%.o)
MPI_OBJECTS := $(MPI_SOURCES:%.c=$(OBJ)/%.o)
CUDA_OBJECTS := $(CUDA_KERNELS:%.cu=$(OBJ)/%.o) $(CUDA_SOURCES:%.c=$(OBJ)/%.o)
HELPER_OBJECTS := $(PROGRAM_HELPERS:%.c=$(OBJ)/%.o)

SHARED := $(BUILD)/lib/libcavmae.so.$(SOVERSION)
STATIC := $(BUILD)/lib/libcavmae.a
MEDIA := $(if $(MEDIA_SOURCES),$(BUILD)/lib/libcavmae-media.so)
CUDA := $(if $(NVCC),$(BUILD)/lib/libcavmae-cuda.so)
MPI := $(if $(MPI_FOUND),$(BUILD)/lib/libcavmae-mpi.so)
PLUGINS := $(MEDIA) $(CUDA) $(MPI)
INTERNAL := $(BUILD)/test/libcavmae-internal.a
HELPERS := $(if $(PROGRAM_HELPERS),$(OBJ)/examples.a)
PROGRAM_FILES := $(PROGRAMS:%=$(BUILD)/bin/cavmae-%)
TEST_FILES := $(addprefix $(BUILD)/test/,$(UNIT_TESTS) $(PROGRAM_TESTS) $(FUZZ_TARGETS)) $(if $(wildcard test/golden.c),$(BUILD)/test/golden)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $@)

.PHONY: all cuda mpi check test-files cuda-test-files mpi-test-files unit asan tsan fuzz fuzz-files lint lint-quick demo bench reproduce manual install uninstall dist deb wheel abi-check abi-baseline clean help FORCE
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:

all: $(SHARED) $(BUILD)/lib/libcavmae.so $(STATIC) $(MEDIA) cuda mpi $(PROGRAM_FILES) $(BUILD)/test/golden $(BUILD)/test/op_bench

# ---- Compiling ----

# A stamp file's time changes when its text does: what depends on it is then made again.
define stamp
$(1): FORCE
	@mkdir -p $$(@D)
	@printf '%s\n' '$$(subst ','\'',$(2))' | cmp -s - $$@ || printf '%s\n' '$$(subst ','\'',$(2))' > $$@
endef
COMPILE_STAMP := $(OBJ)/compile.stamp
LINK_STAMP := $(OBJ)/link.stamp
PLUGINDIR_STAMP := $(OBJ)/plugindir.stamp
$(eval $(call stamp,$(COMPILE_STAMP),$(CC) $(CPPFLAGS) $(CFLAGS) $(OWN_FLAGS) $(LIB_FLAGS)))
$(eval $(call stamp,$(LINK_STAMP),$(LDFLAGS) $(LIBS) $(LIB_OBJECTS) $(MEDIA_OBJECTS) $(MPI_OBJECTS) $(HELPER_OBJECTS)))
CUDA_STAMP := $(OBJ)/cuda.stamp
$(eval $(call stamp,$(CUDA_STAMP),$(NVCC) $(NVCC_FLAGS)))
MPI_STAMP := $(OBJ)/mpi.stamp
$(eval $(call stamp,$(MPI_STAMP),$(realpath $(shell command -v $(MPICC)))))
$(eval $(call stamp,$(PLUGINDIR_STAMP),$(PLUGINDIR)))

compile = $(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) $(OWN_FLAGS) -MMD -MP $(1) -c -o $@ $<

$(OBJ)/lib/%.o: lib/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) $(LIB_FLAGS) $(FILE_FLAGS))

define isa_rule
$(OBJ)/lib/%.$(1).o: lib/%.c $(COMPILE_STAMP)
	$$(call say,CC)
	$$(call compile,$(SIMD_FLAGS) $(LIB_FLAGS) -DCAVMAE_ISA=$(1) $(ISA_FLAGS_$(1)))
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(OBJ)/lib/base/version.o: FILE_FLAGS = -DCAVMAE_BUILD_LIBRARIES='"$(library_versions)"'
$(OBJ)/lib/base/plugin.o: FILE_FLAGS = -DCAVMAE_PLUGIN_DIR='"$(PLUGINDIR)"'
$(OBJ)/lib/base/plugin.o: $(PLUGINDIR_STAMP)

$(OBJ)/lib/media/%.o: lib/media/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,-Iinclude $$($(PKG_CONFIG) --cflags $(FFMPEG)))

$(OBJ)/lib/mpi/%.o $(OBJ)/test/mpi/%.o: private override CC := $(mpi_cc)
$(OBJ)/lib/mpi/%.o: lib/mpi/%.c $(COMPILE_STAMP) $(MPI_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) -Iinclude)

$(OBJ)/kernels/%.o: kernels/%.cu $(COMPILE_STAMP) $(CUDA_STAMP)
	$(call say,NVCC)
	$(Q)mkdir -p $(@D) && $(NVCC) $(NVCC_FLAGS) $(LIB_FLAGS) $(CUDA_FLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

$(OBJ)/kernels/host/%.o: kernels/host/%.c $(COMPILE_STAMP) $(CUDA_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) $(LIB_FLAGS) $(CUDA_FLAGS) -isystem $(CUDA_HOME)/include \
	    $(if $(wildcard $(CUDA_HOME)/include/cudnn_graph.h),-DCAVMAE_HAVE_CUDNN) \
	    $(if $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h),-DCAVMAE_HAVE_NCCL))

$(OBJ)/examples/%.o: examples/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,-Iinclude -Iexamples/lib)

$(OBJ)/test/%.o: test/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) $(LIB_FLAGS) -Itest -DTEST_LIB_DIR='"$(BUILD)/lib"')

# Of what the programs share.
$(OBJ)/test/programs/%.o: test/programs/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,-Iinclude -Iexamples/lib -Itest)

$(OBJ)/test/mpi/%.o: test/mpi/%.c $(COMPILE_STAMP) $(MPI_STAMP)
	$(call say,CC)
	$(call compile,-Iinclude -Itest)

# The CUDA backend's, which find the simulator's plug-in by default.
$(OBJ)/test/cuda/%.o: test/cuda/%.c $(COMPILE_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) $(LIB_FLAGS) -Itest -DTEST_CUDASIM_DIR='"$(BUILD)/cudasim"')

# ---- Linking ----

$(SHARED): $(LIB_OBJECTS) lib/libcavmae.map $(LINK_STAMP)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -shared -Wl,-soname,$(notdir $@) -Wl,-z,defs \
	    -Wl,--version-script=lib/libcavmae.map -o $@ $(LIB_OBJECTS) $(LIBS)

$(BUILD)/lib/libcavmae.so: $(SHARED)
	$(Q)ln -sf $(notdir $<) $@

# One object with all internal names made local: a program's own function of the same name must not take the place
# of the library's.
$(STATIC): $(LIB_OBJECTS) $(LINK_STAMP)
	$(call say,AR)
	$(Q)mkdir -p $(@D) && $(LD) -r -o $(OBJ)/libcavmae.o $(LIB_OBJECTS) && \
	    $(OBJCOPY) --localize-hidden $(OBJ)/libcavmae.o && rm -f $@ && $(AR) rcs $@ $(OBJ)/libcavmae.o

# nodelete: libraries that FFmpeg brings along lose what they allocated when they are unloaded.
$(MEDIA): $(MEDIA_OBJECTS) $(LINK_STAMP)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -shared -Wl,-z,defs -Wl,-z,nodelete -o $@ $(MEDIA_OBJECTS) \
	    $$($(PKG_CONFIG) --libs $(FFMPEG)) -lm

$(CUDA): $(CUDA_OBJECTS) $(LINK_STAMP)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -shared -Wl,-z,defs -Wl,--exclude-libs,ALL -o $@ $(CUDA_OBJECTS) \
	    $(CUDA_LIBS)

# nodelete: what MPI leaves to the end of threads and of the program must find its code.
$(BUILD)/lib/libcavmae-mpi.so: private override CC := $(mpi_cc)
$(BUILD)/lib/libcavmae-mpi.so: $(MPI_OBJECTS) $(LINK_STAMP)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -shared -Wl,-z,defs -Wl,-z,nodelete -o $@ $(MPI_OBJECTS)

mpi: $(MPI)
	@$(if $(MPI),:,echo 'mpi: no mpi.h for $(or $(MPICC),an empty MPICC): the MPI plug-in is not built')

# On devices; the simulator builds the same files with a C++ compiler alone.
cuda: $(CUDA)
	@$(if $(NVCC),:,echo 'cuda: no nvcc in CUDA_HOME, /usr/local/cuda or PATH: the CUDA plug-in is not built')

$(HELPERS): $(HELPER_OBJECTS) $(LINK_STAMP)
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $(HELPER_OBJECTS)

$(BUILD)/bin/cavmae-scenes $(BUILD)/bin/cavmae-extract $(BUILD)/bin/cavmae-demo-page: PROGRAM_LIBS := -ljpeg
$(addprefix $(BUILD)/bin/cavmae-,inpaint localize retrieve): PROGRAM_LIBS := -lpng -ljpeg
$(BUILD)/bin/cavmae-%: $(OBJ)/examples/%.o $(HELPERS) $(BUILD)/lib/libcavmae.so
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -Wl,-rpath,'$$ORIGIN/../lib' -o $@ $< $(HELPERS) \
	    -L$(BUILD)/lib -lcavmae $(PROGRAM_LIBS) -lm

# Unit tests see the internal names; the golden test is a user of the shared library.
$(INTERNAL): $(LIB_OBJECTS) $(LINK_STAMP)
	$(call say,AR)
	$(Q)mkdir -p $(@D) && rm -f $@ && $(AR) rcs $@ $(LIB_OBJECTS)

$(BUILD)/test/%_test: $(OBJ)/test/%_test.o $(INTERNAL)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -o $@ $< $(INTERNAL) $(LIBS)

$(BUILD)/test/programs/%_test: $(OBJ)/test/programs/%_test.o $(HELPERS) $(INTERNAL)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -o $@ $< $(HELPERS) $(INTERNAL) $(LIBS)

# Readers of untrusted bytes, with a main that runs their corpus, or with libFuzzer's. --wrap: test/fuzz/fuzz.h says why.
# The plug-in is linked in where it is fuzzed.
$(BUILD)/test/fuzz_media $(BUILD)/libfuzzer/fuzz_media: FUZZ_OBJECTS := $(MEDIA_OBJECTS)
$(BUILD)/test/fuzz_media $(BUILD)/libfuzzer/fuzz_media: FUZZ_LIBS = $$($(PKG_CONFIG) --libs $(FFMPEG))
$(BUILD)/test/fuzz_media $(BUILD)/libfuzzer/fuzz_media: $(MEDIA_OBJECTS)
fuzz_link = $(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -Wl,--wrap=mmap,--wrap=munmap $(1) -o $@ \
    $(OBJ)/test/fuzz/$(@F).o $(FUZZ_OBJECTS) $(INTERNAL) $(FUZZ_LIBS) $(LIBS)
$(BUILD)/test/fuzz_%: $(OBJ)/test/fuzz/fuzz_%.o $(OBJ)/test/fuzz/driver.o $(INTERNAL)
	$(call say,LINK)
	$(call fuzz_link,$(OBJ)/test/fuzz/driver.o)
$(BUILD)/libfuzzer/fuzz_%: $(OBJ)/test/fuzz/fuzz_%.o $(INTERNAL)
	$(call say,LINK)
	$(call fuzz_link,-fsanitize=fuzzer)

# A plug-in that must be refused.
OTHER_VERSION := $(BUILD)/cudasim/other-version/libcavmae-cuda.so
$(OTHER_VERSION): $(OBJ)/test/cuda/other_version.o
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -shared -o $@ $<

$(BUILD)/test/op_bench: $(OBJ)/test/op_bench.o $(INTERNAL)
	$(call say,LINK)
	$(Q)$(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -o $@ $< $(INTERNAL) $(LIBS)

$(BUILD)/test/golden: $(OBJ)/test/golden.o $(BUILD)/lib/libcavmae.so
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -Wl,-rpath,'$$ORIGIN/../lib' -o $@ $< -L$(BUILD)/lib -lcavmae -lm

# Programs for mpirun: users of the plug-in alone, without MPI of their own, and of the library, with it.
$(BUILD)/test/mpi_record: $(OBJ)/test/mpi/mpi_record.o
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -o $@ $< -ldl
$(BUILD)/test/mpi_worlds: private override CC := $(mpi_cc)
$(BUILD)/test/mpi_worlds: $(OBJ)/test/mpi/mpi_worlds.o $(BUILD)/lib/libcavmae.so
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) $(OWN_FLAGS) $(LDFLAGS) -Wl,-rpath,'$$ORIGIN/../lib' -o $@ $< -L$(BUILD)/lib -lcavmae -lm

# ---- Simulating CUDA ----

# The CUDA plug-in with its kernels as C++, on test/cudasim in the place of the toolkit. cudasim-races is a second one,
# which looks for races in shared memory: the compiler calls us where the kernels read and write (gcc's and clang's calls
# for ThreadSanitizer, whose runtime is not linked).
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),g++)
endif
CXXFLAGS ?= $(patsubst -O3,-O2,$(CFLAGS))
SIM_SOURCES := $(filter-out %_test.cpp,$(sort $(wildcard test/cudasim/*.cpp)))
SIM_INCLUDES := -Itest/cudasim/include -Itest/cudasim
# native: it runs where it is built, and kernels are full of fmaf, which is a call otherwise. no-pass-failed: clang's
# word that a loop was not unrolled.
SIM_CXX_FLAGS := -std=c++17 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -pthread -Wall -Wextra -Wshadow \
                 -Wno-unknown-pragmas -Wno-pass-failed $(if $(WERROR),-Werror) $(if $(filter avx2,$(ISAS)),-march=native) \
                 $(PLAIN_FLAGS)
SIM_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
# clang's programs bring the sanitizers' runtime, its shared libraries do not. wrap: NCCL is opened by its file's name, and
# the simulator brings its own.
SIM_LINK_FLAGS := -shared $(if $(SANITIZE),,-Wl,-z,defs) -Wl,--version-script=test/cudasim/cudasim.map -Wl,--wrap=dlopen
SIM_HOST_OBJECTS := $(CUDA_SOURCES:%.c=$(OBJ)/cudasim/%.o)
SIM_OBJECTS := $(SIM_SOURCES:%.cpp=$(OBJ)/cudasim/%.o)
SIM_RACES_OBJECTS := $(SIM_SOURCES:%.cpp=$(OBJ)/cudasim-races/%.o)
SIM_STAMP := $(OBJ)/cudasim.stamp
$(eval $(call stamp,$(SIM_STAMP),$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(SIM_FLAGS) $(SIM_LINK_FLAGS) $(LDFLAGS) \
    $(CUDA_KERNELS) $(CUDA_SOURCES) $(SIM_SOURCES)))

sim_compile = $(Q)mkdir -p $(@D) && $(CXX) $(CPPFLAGS) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(SIM_INCLUDES) -MMD -MP $(1) -c -o $@
# SCORES_MOST: small matrices of scores have parts, too.
SIM_KERNEL_FLAGS := $(LIB_FLAGS) $(CUDA_FLAGS) -DCAVMAE__SCORES_MOST=262144 -x c++
SIM_RACES_FLAGS := -DCUDASIM_RACES
# Copies stay calls, which are watched too.
SIM_WATCH_FLAGS := -fsanitize=thread -fno-builtin-memcpy -fno-builtin-memmove -fno-builtin-memset
sim_see_copies = $(OBJCOPY) $(foreach name,memcpy memmove memset,--redefine-sym $(name)=cudasim_$(name)) $@

$(OBJ)/cudasim/kernels/host/%.o: kernels/host/%.c $(COMPILE_STAMP) $(SIM_STAMP)
	$(call say,CC)
	$(call compile,$(PLAIN_FLAGS) $(LIB_FLAGS) $(CUDA_FLAGS) $(SIM_INCLUDES) -DCAVMAE_HAVE_NCCL)

$(OBJ)/cudasim/kernels/%.o: kernels/%.cu $(SIM_STAMP)
	$(call say,CXX)
	$(call sim_compile,$(SIM_FLAGS) $(SIM_KERNEL_FLAGS)) $<

$(OBJ)/cudasim/test/cudasim/%.o: test/cudasim/%.cpp $(SIM_STAMP)
	$(call say,CXX)
	$(call sim_compile,$(SIM_FLAGS)) $<

$(OBJ)/cudasim-races/kernels/%.o: kernels/%.cu $(SIM_STAMP)
	$(call say,CXX)
	$(call sim_compile,$(SIM_WATCH_FLAGS) $(SIM_RACES_FLAGS) $(SIM_KERNEL_FLAGS)) $< && $(sim_see_copies)

$(OBJ)/cudasim-races/test/cudasim/%_test.o: test/cudasim/%_test.cpp $(SIM_STAMP)
	$(call say,CXX)
	$(call sim_compile,$(SIM_WATCH_FLAGS) $(SIM_RACES_FLAGS)) $< && $(sim_see_copies)

$(OBJ)/cudasim-races/test/cudasim/%.o: test/cudasim/%.cpp $(SIM_STAMP)
	$(call say,CXX)
	$(call sim_compile,$(SIM_RACES_FLAGS)) $<

$(BUILD)/cudasim/libcavmae-cuda.so: $(CUDA_KERNELS:%.cu=$(OBJ)/cudasim/%.o) $(SIM_HOST_OBJECTS) $(SIM_OBJECTS) \
    test/cudasim/cudasim.map
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CXX) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(SIM_FLAGS) $(LDFLAGS) $(SIM_LINK_FLAGS) -o $@ \
	    $(filter %.o,$^) -lm -ldl

$(BUILD)/cudasim-races/libcavmae-cuda.so: $(CUDA_KERNELS:%.cu=$(OBJ)/cudasim-races/%.o) $(SIM_HOST_OBJECTS) $(SIM_RACES_OBJECTS) \
    test/cudasim/cudasim.map
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CXX) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(LDFLAGS) $(SIM_LINK_FLAGS) -o $@ \
	    $(filter %.o,$^) -lm -ldl

# The simulator's own tests.
SIM_TESTS := $(patsubst %.cpp,%,$(sort $(wildcard test/cudasim/*_test.cpp)))
$(BUILD)/test/cudasim/%_test: $(OBJ)/cudasim/test/cudasim/%_test.o $(SIM_OBJECTS)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CXX) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(SIM_FLAGS) $(LDFLAGS) -Wl,--wrap=dlopen -o $@ $^ -lm -ldl

$(BUILD)/test/cudasim/%_races_test: $(OBJ)/cudasim-races/test/cudasim/%_test.o $(SIM_RACES_OBJECTS)
	$(call say,LINK)
	$(Q)mkdir -p $(@D) && $(CXX) $(CXXFLAGS) $(SIM_CXX_FLAGS) $(LDFLAGS) -Wl,--wrap=dlopen -o $@ $^ -lm -ldl

.PHONY: cudasim cudasim-races check-cuda-sim
cudasim: $(BUILD)/cudasim/libcavmae-cuda.so $(SIM_TESTS:%=$(BUILD)/%) $(CUDA_TESTS:%=$(BUILD)/test/%) $(OTHER_VERSION)
cudasim-races: $(BUILD)/cudasim-races/libcavmae-cuda.so $(BUILD)/test/cudasim/sim_kernel_races_test
check-cuda-sim: all cudasim cudasim-races cuda-test-files
	@bash test/cuda/run.sh

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)

# ---- Testing ----

export CC CFLAGS BUILD NM PKG_CONFIG VERSION

test-files: $(TEST_FILES) $(MEDIA)

# The simulator's part and MPI's are made in a second go: only now is there a C++ compiler, and MPI, for certain, or none.
check: all test-files | $(BUILD)/.setup-check
	@$(MAKE) --no-print-directory mpi-test-files
	@if command -v $(CXX) >/dev/null; then $(MAKE) --no-print-directory cudasim cudasim-races cuda-test-files; \
	    else echo 'check: no C++ compiler ($(CXX)): the CUDA backend is not tested'; fi
	@bash test/run.sh check

mpi-test-files: mpi $(if $(MPI),$(addprefix $(BUILD)/test/,mpi_record mpi_worlds))

# The CUDA backend's tests, which run in the simulator and on devices.
cuda-test-files: $(CUDA_TESTS:%=$(BUILD)/test/%) $(OTHER_VERSION) $(TEST_FILES)

# Only the unit tests and golden cases.
unit: all test-files
	@bash test/run.sh unit

asan: | $(BUILD)/.setup-check
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SANITIZE=address,undefined CFLAGS='-O1 -g' test-files cudasim
	@BUILD=$(BUILD)/asan ASAN_OPTIONS=detect_leaks=1 bash test/run.sh unit
	@BUILD=$(BUILD)/asan ASAN_OPTIONS=detect_leaks=1 bash test/cuda/run.sh ops

# Without the OpenMP runtime and oneDNN on top of it, which ThreadSanitizer cannot see into.
tsan: | $(BUILD)/.setup-check
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SANITIZE=thread WITHOUT_ONEDNN=1 CFLAGS='-O1 -g' test-files \
	    $(BUILD)/tsan/lib/libcavmae.so.$(SOVERSION)
	@BUILD=$(BUILD)/tsan TSAN_OPTIONS=halt_on_error=1 bash test/run.sh unit
	@BUILD=$(BUILD)/tsan TSAN_OPTIONS=halt_on_error=1 PRELOAD="$$($(CC) -print-file-name=libtsan.so)" \
	    sh test/python.sh -k four_threads

# Each reader of untrusted bytes for FUZZ_SECONDS with libFuzzer; FUZZ="fuzz_json ..." for some of them. What is found
# stays in $(BUILD)/fuzz, and belongs into test/fuzz/corpus once it is mended.
FUZZ_SECONDS ?= 10
FUZZ ?= $(FUZZ_TARGETS)
fuzz-files: $(FUZZ:%=$(BUILD)/libfuzzer/%)

fuzz:
	@command -v clang >/dev/null || { echo 'make fuzz: needs clang, for its libFuzzer'; exit 1; }
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CC=clang SANITIZE=address,undefined,fuzzer-no-link \
	    CFLAGS='-O1 -g' fuzz-files
	@BUILD=$(BUILD)/fuzz bash test/fuzz/fuzz.sh $(FUZZ_SECONDS) $(FUZZ)

lint-quick: $(LIB_OBJECTS)
	@sh test/lint/layers.sh
	@sh test/lint/files.sh
	@sh test/lint/banned.sh $(OBJ)

lint: lint-quick | $(BUILD)/.setup-check
	@sh test/lint/style.sh
	@sh test/lint/cppcheck.sh $(LIB_FLAGS)

# ---- Showing ----

demo: all
	@bash examples/demo.sh

bench: all
	@bash examples/bench.sh

# The paper's questions, asked on small models; up to an hour. Writes docs/REPRODUCTION.md.
reproduce: all
	@bash examples/reproduce.sh

# The header, the pages in Markdown and the programs' help as pages for a browser and for man.
manual: $(PROGRAM_FILES)
	@command -v cmark-gfm >/dev/null && command -v python3 >/dev/null || \
	    { echo 'make manual: needs python3 and cmark-gfm, Debian packages of these names'; exit 1; }
	@python3 docs/manual/make_manual.py $(BUILD)/manual $(PROGRAM_FILES)
	@echo '$(BUILD)/manual/html/index.html; man -M $(BUILD)/manual/man cavmae'

# ---- Installing ----

# pkg-config's and CMake's files say where things are relative to the prefix and to themselves, so that what is installed
# may be moved.
CMAKEDIR := $(LIBDIR)/cmake/cavmae
CMAKE_FILES := $(BUILD)/cavmaeConfig.cmake $(BUILD)/cavmaeConfigVersion.cmake
from_prefix = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))
from_cmakedir = $(shell realpath -ms --relative-to='$(CMAKEDIR)' '$(1)')
fill = @mkdir -p $(@D) && sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(call from_prefix,$(LIBDIR))|' \
    -e 's|@INCLUDEDIR@|$(call from_prefix,$(INCLUDEDIR))|' -e 's|@VERSION@|$(VERSION)|' -e 's|@SOVERSION@|$(SOVERSION)|' \
    -e 's|@REQUIRES@|samplerate zlib|' -e 's|@PRIVATE_LIBS@|$(filter-out -lsamplerate -lz,$(LIBS))|' \
    -e 's|@SHARED@|$(notdir $(SHARED))|' -e 's|@LIB_FROM_HERE@|$(call from_cmakedir,$(LIBDIR))|' \
    -e 's|@INCLUDE_FROM_HERE@|$(call from_cmakedir,$(INCLUDEDIR))|' \
    -e 's|@PLUGINS_FROM_HERE@|$(call from_cmakedir,$(PLUGINDIR))|' \
    -e 's|@LIBS@|$(subst $() ,;,$(strip $(LIBS:-l%=%)))|' -e "s|@POINTER_SIZE@|$$(echo __SIZEOF_POINTER__ | $(CC) -E -P -)|" \
    $< > $@.$$$$ && mv $@.$$$$ $@

$(BUILD)/cavmae.pc: pkgconfig/cavmae.pc.in include/cavmae.h FORCE
	$(fill)
$(CMAKE_FILES): $(BUILD)/%: pkgconfig/%.in include/cavmae.h FORCE
	$(fill)

install: all $(BUILD)/cavmae.pc $(CMAKE_FILES)
	install -d '$(DESTDIR)$(INCLUDEDIR)' '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(CMAKEDIR)' '$(DESTDIR)$(BINDIR)' \
	    '$(DESTDIR)$(PLUGINDIR)'
	install -m 644 include/cavmae.h bindings/cpp/cavmae.hpp '$(DESTDIR)$(INCLUDEDIR)'
	install -m 755 $(SHARED) '$(DESTDIR)$(LIBDIR)'
	$(if $(PLUGINS),install -m 755 $(PLUGINS) '$(DESTDIR)$(PLUGINDIR)')
	install -m 644 $(STATIC) '$(DESTDIR)$(LIBDIR)'
	ln -sf $(notdir $(SHARED)) '$(DESTDIR)$(LIBDIR)/libcavmae.so'
	install -m 644 $(BUILD)/cavmae.pc '$(DESTDIR)$(LIBDIR)/pkgconfig'
	install -m 644 $(CMAKE_FILES) '$(DESTDIR)$(CMAKEDIR)'
	$(if $(PROGRAM_FILES),install -m 755 $(PROGRAM_FILES) '$(DESTDIR)$(BINDIR)')
	$(if $(DESTDIR),,@ldconfig 2>/dev/null || true) # for the loader, where that is allowed
	$(if $(wildcard $(BUILD)/manual/man),$(foreach part,man1 man3,install -d '$(DESTDIR)$(MANDIR)/$(part)' && \
	    install -m 644 $(BUILD)/manual/man/$(part)/* '$(DESTDIR)$(MANDIR)/$(part)' &&) :)

uninstall:
	rm -f '$(DESTDIR)$(INCLUDEDIR)/cavmae.h' '$(DESTDIR)$(INCLUDEDIR)/cavmae.hpp' \
	    '$(DESTDIR)$(LIBDIR)/pkgconfig/cavmae.pc' $(CMAKE_FILES:$(BUILD)/%='$(DESTDIR)$(CMAKEDIR)/%') \
	    $(foreach file,$(notdir $(SHARED) $(STATIC)) libcavmae.so,'$(DESTDIR)$(LIBDIR)/$(file)') \
	    $(foreach file,$(notdir $(PLUGINS)),'$(DESTDIR)$(PLUGINDIR)/$(file)') \
	    $(foreach file,$(notdir $(PROGRAM_FILES)),'$(DESTDIR)$(BINDIR)/$(file)')
	rm -f $(foreach page,man3/cavmae.3 man3/libcavmae.3 man3/cavmae_*.3 man1/cavmae-*.1,'$(DESTDIR)$(MANDIR)'/$(page))

# The last commit's files, which build without git.
dist:
	@mkdir -p $(BUILD)
	git archive --prefix=libcavmae-$(VERSION)/ -o $(BUILD)/libcavmae-$(VERSION).tar.gz HEAD

# Debian's packages and their source package, into $(BUILD)/deb, from the last commit, or from another TARBALL like it.
# pkgconfig/debian is what Debian adds to it. No variable of this make reaches the packages' own, and Debian's programs
# build them.
TARBALL ?= $(BUILD)/libcavmae-$(VERSION).tar.gz
DEB_TREE := $(BUILD)/deb/libcavmae-$(VERSION)
deb: $(if $(filter file,$(origin TARBALL)),dist)
	@command -v dpkg-buildpackage >/dev/null && command -v dh >/dev/null || \
	    { echo 'make deb: needs the packages dpkg-dev and debhelper'; exit 1; }
	rm -rf $(BUILD)/deb
	mkdir -p $(BUILD)/deb
	cp $(TARBALL) $(BUILD)/deb/libcavmae_$(VERSION).orig.tar.gz
	tar xzf $(TARBALL) -C $(BUILD)/deb
	cp -R $(DEB_TREE)/pkgconfig/debian $(DEB_TREE)/debian
	cd $(DEB_TREE) && env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$$HOME" LC_ALL=C.UTF-8 \
	    DEB_BUILD_OPTIONS="$$DEB_BUILD_OPTIONS" DEB_BUILD_PROFILES="$$DEB_BUILD_PROFILES" \
	    dpkg-buildpackage -us -uc
	rm -rf $(DEB_TREE)

# For Python, with the library in it, for any glibc machine: bindings/python.
wheel:
	@BUILD=$(BUILD) python3 bindings/python/build_backend.py wheel $(BUILD)/dist

# ---- The ABI ----

# docs/ABI.md says what is promised.
abi-check: $(SHARED) $(STATIC) $(BUILD)/lib/libcavmae.so | $(BUILD)/.setup-check
	@sh test/abi/symbols.sh
	@sh test/abi/check.sh
	@sh test/abi/breaks.sh

# With a release: what later ones are compared with.
abi-baseline: $(SHARED) | $(BUILD)/.setup-check
	@sh test/abi/check.sh baseline

clean:
	rm -rf $(BUILD)

help:
	@echo 'make            the library, its plug-ins and the programs, into $(BUILD)/'
	@echo 'make check      all tests; ends with "N passed, N failed"'
	@echo 'make unit       only the unit tests and golden cases'
	@echo 'make asan tsan  the same under AddressSanitizer and UBSan, and under ThreadSanitizer'
	@echo 'make check-cuda-sim  only the CUDA backend, on a simulated device'
	@echo 'make fuzz       each reader of files under libFuzzer (clang) for FUZZ_SECONDS=10'
	@echo 'make lint       layers, banned calls, names, format, static analysis'
	@echo 'make demo bench train, search and show on synthetic scenes; measure'
	@echo 'make reproduce  ask the questions of the paper on small models: docs/REPRODUCTION.md'
	@echo 'make manual     pages for a browser and for man, into $(BUILD)/manual'
	@echo 'make install    DESTDIR, PREFIX=$(PREFIX), LIBDIR, INCLUDEDIR, BINDIR, MANDIR, PLUGINDIR; also: uninstall'
	@echo 'make abi-check  exported names, records and constants against the last release: docs/ABI.md; also: abi-baseline'
	@echo 'make dist wheel libcavmae-$(VERSION).tar.gz; a Python wheel, into $(BUILD)/dist'
	@echo "make deb        Debian's packages and their source package, into $(BUILD)/deb"
	@echo 'make clean      removes $(BUILD)/'
	@sed -n 's/^#   \([A-Z]\)/  \1/p' Makefile
