#!/bin/sh
# cuDNN's attention without a device: what our graphs say, computed by a stand-in, where cuDNN's headers are; and plans of
# them for an H100, built by cuDNN itself with a stand-in for the driver, where its libraries are.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
home=${CUDA_HOME:-/usr/local/cuda}
libraries=$home/lib64

if [ ! -f "$home/include/cudnn_graph.h" ] || [ ! -f "$home/include/cuda_runtime_api.h" ]; then
    echo "no headers of cuDNN in $home/include: skipped"
    finish cudnn_plans
    exit
fi

compile() { try "${CC:-gcc}" -std=c11 -O1 -g -pthread -Wall -Wextra -Werror -DCAVMAE_HAVE_CUDNN -Iinclude -Ilib/base -Ilib/backend \
    -Ikernels/host -Itest -Itest/cuda -isystem "$home/include" "$@" -ldl -lm; }
graphs="kernels/host/cudnn_library.c kernels/host/cudnn_plan.c kernels/host/cudnn_attention_graph.c"
plans="test/cuda/cudnn_plans.c test/cuda/cudnn_stand_in.c $graphs"
checked="-fsanitize=address,undefined"

# What the graphs say.
compile $checked -o "$work/graphs" $plans
expect ' 0 failed$' "$work/graphs"
cat "$work/out"

# What the backend does with them.
mkdir "$work/stand-in"
compile $checked -shared -fPIC -DSTAND_IN_LIBRARY -Wl,-soname,libcudnn.so.9 -o "$work/stand-in/libcudnn.so.9" test/cuda/cudnn_stand_in.c
compile $checked -o "$work/calls" test/cuda/cudnn_calls.c kernels/host/cudnn_attention.c kernels/host/attention_choice.c \
    kernels/host/tuning_file.c $graphs
expect ' 0 failed$' env LD_LIBRARY_PATH="$work/stand-in" "$work/calls" "$work/tuning"
cat "$work/out"

if [ ! -e "$libraries/libcudnn_graph.so.9" ] || [ ! -e "$libraries/libcudnn_engines_runtime_compiled.so.9" ]; then
    echo "no libraries of cuDNN in $libraries: no plans are built"
    finish cudnn_plans
    exit
fi

# What cuDNN makes of them. Without the sanitizer, which would look into a compiler of 100 MB.
compile -o "$work/plans" $plans
compile -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so.1" test/cuda/libcuda_stand_in.c
expect 'cudnn_plans: .* 0 failed$' env LD_LIBRARY_PATH="$work:$libraries" "$work/plans" test/cuda/h100.json
cat "$work/out"
finish cudnn_plans
