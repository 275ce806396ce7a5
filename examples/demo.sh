#!/usr/bin/env bash
# What `make demo` runs: makes clips of things that look and sound, trains a small CAV-MAE on them from three random
# starts, one of which is interrupted and resumed on the way, and shows on held-out clips what it learnt. Ends with an
# error where that is too little.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
bin=$build/bin
demo=$build/demo
seeds="1 2 3"

# A model of 1 million parameters; log-mel patches and pixels as they are, so that it can paint them.
recipe="image_size=96 audio_frames=128 mel_bins=64 patch_size=16 embed_dim=96 num_heads=4 modality_depth=3
    decoder_dim=96 decoder_heads=4 decoder_depth=2 norm_pix_loss=0 resampler=fastest
    mask_ratio_a=0.5 mask_ratio_v=0.2 contrast_weight=5 contrast_temperature=0.1 contrast_direction=both
    batch=24 optimizer=adamw beta1=0.9 lr=1e-3 weight_decay=0.05 schedule=cosine warmup_steps=60 total_steps=960
    epochs=24 frame=-2 roll=1"
cores=$(nproc)
threads=$((cores > 3 ? cores / 3 : 1)) # the runs go side by side
running=

die() {
    echo "demo: $*" >&2
    exit 1
}

# shellcheck disable=SC2317 # called by the trap
end_runs() {
    for process in $running; do kill -KILL "$process" 2>/dev/null || true; done
}
trap end_runs EXIT
trap 'exit 130' INT TERM

# seed, then options of cavmae-pretrain; its messages go into a file beside the run.
pretrain() {
    seed=$1
    shift
    # shellcheck disable=SC2086
    exec "$bin/cavmae-pretrain" --data "$demo/clips/train.json" --val "$demo/clips/val.json" --out "$demo/run$seed" \
        --threads "$threads" --set $recipe seed="$seed" loader_threads=1 "$@" >>"$demo/run$seed.log" 2>&1
}

lines() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }

seconds_since() { echo "$(($(date +%s) - $1)) s"; }

rm -rf "$demo"
mkdir -p "$demo"
begin=$(date +%s)
echo "Clips: real WAV and JPEG files of shapes that sound"
"$bin/cavmae-scenes" --out "$demo/clips" --clips 1200 --val 240 --seed 1
echo "  $(seconds_since "$begin")"

start=$(date +%s)
echo "Training: 3 runs side by side, 24 epochs each"
for seed in $seeds; do
    pretrain "$seed" &
    running="$running $!"
    [ "$seed" != 1 ] || first=$!
done

# The first run is interrupted in its ninth epoch, and resumed.
while [ "$(lines "$demo/run1/val.csv")" -lt 9 ]; do
    kill -0 "$first" 2>/dev/null || die "a run ended early: $(tail -n 1 "$demo/run1.log")"
    sleep 0.1
done
kill -TERM "$first"
status=0
wait "$first" || status=$?
[ "$status" = 130 ] || die "an interrupted run ended with $status"
resumed=$(($(lines "$demo/run1/losses.csv") - 1))
echo "  run 1: interrupted at step $resumed, and resumed from its checkpoint"
running=${running/ $first/}
pretrain 1 --resume &
running="$running $!"

for process in $running; do
    wait "$process" || die "a run failed: $(tail -qn 1 "$demo"/run?.log)"
done
running=
for seed in $seeds; do echo "  run $seed: $(grep 'validation loss' "$demo/run$seed.log" | tail -n 1)"; done
echo "  $(seconds_since "$start")"

start=$(date +%s)
echo "Held-out clips: combinations of shape, size, number and background that were never trained on"
met=0
"$bin/cavmae-demo-page" --runs "$demo"/run? --manifest "$demo/clips/val.json" --labels "$demo/clips/labels.csv" \
    --resumed "$resumed" --out "$demo/index.html" || met=$?
echo "  $(seconds_since "$start")"
echo "Page: $demo/index.html   $(seconds_since "$begin") in all"
exit $met
