#!/bin/sh
# The README's program is compiled and run, on a model that the README's commands train.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
CC=${CC:-gcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
clip=../shared/media/00W1lcxW-WU_40.000.mp4

sed -n '/^```c$/,/^```$/p' README.md | sed '1d;$d' >"$work/first.c"
try $CC -std=c99 -Wall -Wextra -Werror -Iinclude -o "$work/first" "$work/first.c" -L"$BUILD/lib" -lcavmae \
    -Wl,-rpath,"$(cd "$BUILD/lib" && pwd)" -lm

try "$BUILD/bin/cavmae-scenes" --clips 12 --seed 1 --out "$work/clips"
# As wide as the program expects, and otherwise as small as can be.
try "$BUILD/bin/cavmae-pretrain" --data "$work/clips/train.json" --val "$work/clips/val.json" --out "$work/run" \
    --preset tiny --threads 2 --set embed_dim=768 num_heads=12 modality_depth=0 batch=4 epochs=1 loader_threads=1
try "$BUILD/bin/cavmae-retrieve" --model "$work/run/model.safetensors" --manifest "$work/clips/val.json"
wav=$(find "$work/clips/audio" -name '*.wav' | sort | head -n 1)
try "$BUILD/bin/cavmae-embed" --model "$work/run/model.safetensors" --media "$wav" --kind audio --out "$work/clip.npy"

if [ -f "$clip" ]; then
    try "$work/first" "$work/run/model.safetensors" "$clip"
    if grep -q 'cosine -\{0,1\}0\.[0-9]*$' "$work/out"; then good; else bad "no cosine in: $(cat "$work/out")"; fi
fi
# A sound has no picture: an error that says so, with the file's name.
if "$work/first" "$work/run/model.safetensors" "$wav" >"$work/out" 2>&1; then
    bad "a WAV file got a picture"
elif grep -q "$wav" "$work/out"; then
    good
else
    bad "the error does not name the file: $(cat "$work/out")"
fi
finish readme
