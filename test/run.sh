#!/usr/bin/env bash
# Runs the tests: run.sh unit | check. The last line adds up what they counted: "N passed, N failed". Output is kept in
# $BUILD/test/NAME.log, and shown where a test fails.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
mode=${1:-unit}
logs=$BUILD/test
. test/runner.sh

for test in test/*_test.c; do
    name=$(basename "$test" .c)
    run "$name" 300 "$BUILD/test/$name"
done
# What the programs share.
for test in test/programs/*_test.c; do
    name=$(basename "$test" .c)
    run "$name" 120 "$BUILD/test/programs/$name"
done
# Each reader of untrusted bytes on its corpus, and on changed copies of it.
for target in test/fuzz/fuzz_*.c; do
    name=$(basename "$target" .c)
    . test/fuzz/corpora.sh "${name#fuzz_}"
    run "$name" 120 "$BUILD/test/$name" "${corpora[@]}"
done
# The base-size golden cases are too slow under a sanitizer.
golden_cases "$([ "$mode" = check ] && echo base)"
run golden_float32 300 "$BUILD/test/golden" "${floats[@]}"
run golden_bfloat16 300 "$BUILD/test/golden" --dtype bfloat16 "${bfloats[@]}"

if [ "$mode" = check ]; then
    [ ! -f "$BUILD/cudasim/libcavmae-cuda.so" ] || run cuda 1200 bash test/cuda/run.sh
    [ ! -f "$BUILD/test/mpi_worlds" ] || run mpi 180 bash test/mpi.sh
    run headers 60 sh test/headers.sh
    run symbols 60 sh test/abi/symbols.sh
    run abi 60 sh test/abi/check.sh
    run breaks 120 sh test/abi/breaks.sh
    run install 120 bash test/install/install.sh
    run package 300 sh test/package.sh
    run manual 120 sh test/manual.sh
    start debian 900 sh test/debian.sh
    start cpp 600 sh test/cpp.sh
    start python 400 sh test/python.sh
    start docs 600 sh test/docs.sh
    start examples 30 sh test/examples.sh
    await
    run finetune 120 sh test/finetune.sh
    run world 300 bash test/world.sh
    run extract 120 sh test/extract.sh
    run convert 60 sh test/convert.sh
    run shards 120 sh test/shards.sh
    run pictures 120 sh test/pictures.sh
    run layers 60 sh test/lint/layers.sh
    run files 60 sh test/lint/files.sh
    run banned 60 sh test/lint/banned.sh "$BUILD/obj"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
