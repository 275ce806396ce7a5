#!/usr/bin/env bash
# What `make reproduce` runs: small models on synthetic scenes, three random starts each, one for every question that the
# paper asks; then measures them all on held-out clips and writes docs/REPRODUCTION.md. Runs that are done already are
# kept: an interrupted one goes on.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
bin=$build/bin
work=$build/reproduce
report=${REPORT:-docs/REPRODUCTION.md}
seeds=${SEEDS:-1 2 3}
epochs=${EPOCHS:-24}
clips=1200
held_out=240

# The demo's model; both modalities masked by a half.
base="image_size=96 audio_frames=128 mel_bins=64 patch_size=16 embed_dim=96 num_heads=4 modality_depth=3
    decoder_dim=96 decoder_heads=4 decoder_depth=2 norm_pix_loss=0 resampler=fastest
    mask_ratio_a=0.5 mask_ratio_v=0.5 contrast_weight=5 contrast_temperature=0.1 contrast_direction=both
    batch=24 optimizer=adamw beta1=0.9 lr=1e-3 weight_decay=0.05 schedule=cosine warmup_steps=60
    epochs=$epochs total_steps=$((epochs * (clips - held_out) / 24)) frame=-2 roll=1 loader_threads=1"

# name: what differs from the base
studies="cav-mae:
cav: mae_weight=0
av-mae: contrast_weight=0
vanilla-av-mae: contrast_weight=0 modality_depth=0 joint_depth=4 mask_domain=joint
lambda-0.5: contrast_weight=0.5
lambda-50: contrast_weight=50
mask-25: mask_ratio_a=0.25 mask_ratio_v=0.25
mask-75: mask_ratio_a=0.75 mask_ratio_v=0.75
mask-time: mask_mode_a=time
mask-frequency: mask_mode_a=frequency
mask-time-frequency: mask_mode_a=time_frequency"

# One training, by one thread: as many go side by side as there are cores.
train() {
    local folder=$work/$1-$2
    [ ! -f "$folder/model.safetensors" ] || return 0
    # shellcheck disable=SC2086
    "$bin/cavmae-pretrain" --data "$work/clips/train.json" --out "$folder" --threads 1 --resume \
        --set $base $3 seed="$2" >"$folder.log" 2>&1 || { echo "reproduce: $1, seed $2: $(tail -n 1 "$folder.log")" >&2; exit 255; }
    echo "  $1, seed $2"
}
export -f train
export work bin base

begin=$(date +%s)
mkdir -p "$work"
if [ ! -f "$work/clips/val.json" ]; then
    rm -rf "$work/clips"
    "$bin/cavmae-scenes" --out "$work/clips.new" --clips $clips --val $held_out --seed 1
    mv "$work/clips.new" "$work/clips"
fi
echo "Training: $(echo "$studies" | wc -l) models from $(echo "$seeds" | wc -w) random starts, $epochs epochs each"
for seed in $seeds; do
    echo "$studies" | while IFS=: read -r name settings; do printf '%s\0%s\0%s\0' "$name" "$seed" "$settings"; done
done | xargs -0 -n 3 -P "$(nproc)" bash -c 'train "$@"' train

echo "Measuring on $held_out held-out clips"
# shellcheck disable=SC2086
"$bin/cavmae-reproduce" --data "$work/clips" --runs "$work" --seeds $seeds \
    --studies $(echo "$studies" | cut -d: -f1) --epochs "$epochs" --out "$report.new"
mv "$report.new" "$report"
echo "Report: $report   $(($(date +%s) - begin)) s in all"
