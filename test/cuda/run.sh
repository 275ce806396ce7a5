#!/usr/bin/env bash
# Tests of the CUDA backend: run.sh [ops | device]
#
#   (nothing)  in the simulator, all of them
#   ops        in the simulator, its own tests and those of the backend's operations: what a sanitizer sees most of
#   device     on a device: CAVMAE_TEST_DEVICE and CAVMAE_TEST_PLUGIN_DIR say which and how
#
# The last line is "cuda ...: N passed, N failed"; output of each is kept in $BUILD/test/cuda/.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build}
mode=all
case ${1:-} in ops | device) mode=$1; shift ;; esac
logs=$BUILD/test/cuda
. test/runner.sh

where=simulator
limit=300
[ "$mode" != ops ] || limit=900
if [ "$mode" = device ]; then
    where=${CAVMAE_TEST_DEVICE:?names no device}
    nproc() { echo 1; } # one at a time: some use all of the device's memory
else
    export CAVMAE_TEST_DEVICE=cuda CAVMAE_TEST_PLUGIN_DIR=$BUILD/cudasim
    for test in "$BUILD"/test/cudasim/*_test; do
        [ -x "$test" ] && start "$(basename "$test")" $limit "$test"
    done
fi

if [ "$mode" != ops ]; then
    # The longest first: cases of the paper's size.
    for file in ../shared/golden/*_base.safetensors; do
        [ -f "$file" ] || continue
        name=$(basename "$file" .safetensors)
        start "golden_float32_$name" 900 "$BUILD/test/golden" "$file"
        start "golden_bfloat16_$name" 900 "$BUILD/test/golden" --dtype bfloat16 "$file"
    done
    golden_cases
    start golden_fp8 $limit "$BUILD/test/golden" --dtype bfloat16 --matmul fp8 test/cases/features.safetensors
    start golden_float32 $limit "$BUILD/test/golden" "${floats[@]}"
    start golden_bfloat16 $limit "$BUILD/test/golden" --dtype bfloat16 "${bfloats[@]}"
    # Tests of the public API which hold on any device; some are too slow to simulate.
    names="world_training pretrain finetune embed inpaint localize parallel infer oom loop"
    [ "$mode" = all ] || names="$names train gradient"
    for name in $names; do
        start "${name}_test" $limit "$BUILD/test/${name}_test"
    done
fi

for test in test/cuda/*_test.c; do
    name=$(basename "$test" .c)
    start "$name" $limit "$BUILD/test/cuda/$name"
done

[ "$mode" != all ] || start cudnn_plans $limit sh test/cuda/cudnn_plans.sh

# The simulator that looks for races between barriers is slower.
if [ "$mode" = all ] && [ -f "$BUILD/cudasim-races/libcavmae-cuda.so" ]; then
    for test in test/cuda/*_test.c; do
        name=$(basename "$test" .c)
        case $name in device_test | nccl_test | nccl_world_test | training_test) continue ;; esac # of the host's side
        CAVMAE_TEST_PLUGIN_DIR=$BUILD/cudasim-races start "${name}_races" $limit "$BUILD/test/cuda/$name"
    done
fi

await
echo "cuda ($where): $passed passed, $failed failed"
[ "$failed" -eq 0 ]
