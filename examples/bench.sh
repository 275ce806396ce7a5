#!/usr/bin/env bash
# What `make bench` runs: one JSON line for each case. THREADS, BATCH, STEPS and ROWS change the sizes.
set -eu
cd "$(dirname "$0")/.."
bench=${BUILD:-build}/bin/cavmae-bench
threads=${THREADS:-0}
batch=${BATCH:-4}
steps=${STEPS:-5}

for dtype in float32 bfloat16; do
    for case in pretrain embed embed_audio; do
        "$bench" --case $case --dtype $dtype --batch "$batch" --threads "$threads" --steps "$steps"
    done
done
# The same work in two processes, over MPI where it is there.
if command -v mpirun >/dev/null && [ -e "${BUILD:-build}/lib/libcavmae-mpi.so" ]; then
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -np 2 --bind-to none --oversubscribe \
        "$bench" --case pretrain --batch "$batch" --threads 1 --steps "$steps" --world mpi
fi
"$bench" --case finetune --batch "$batch" --threads "$threads" --steps "$steps"
for case in frames frames_apart; do
    "$bench" --case $case --batch 1 --threads "$threads" --steps "$steps"
done
for case in fbank resize; do
    "$bench" --case $case --batch 100 --threads 1 --steps "$steps"
done
for queries in 1 64; do
    "$bench" --case index --batch $queries --rows "${ROWS:-1000000}" --threads "$threads" --steps "$steps"
done
