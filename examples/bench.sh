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
