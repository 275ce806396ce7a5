#!/bin/sh
# The way from clips to figures: pretraining, fine-tuning with averaged epochs, a linear probe, and their evaluation,
# each by its program. What comes out of different programs for the same thing has to be the same.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
bin=${BUILD:-build}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

same() { # what, a, b
    if [ -n "$2" ] && [ "$2" = "$3" ]; then good; else bad "$1: '$2' and '$3'"; fi
}

value() { sed -n "s/.*\"$1\": \([^,}]*\)[,}].*/\1/p" "$work/out"; }
row() { tail -n 1 "$1" | cut -d, -f"$2"; }

train=$work/clips/train.json
val=$work/clips/val.json
labels=$work/clips/labels.csv
small="audio_frames=64 mel_bins=32 image_size=48 resampler=fastest batch=10 loader_threads=1"
finetune="$bin/cavmae-finetune --data $train --labels $labels --val $val --threads 2"
evaluate="$bin/cavmae-evaluate --threads 2 --json"

try "$bin/cavmae-scenes" --clips 44 --val 14 --seed 1 --out "$work/clips"
# shellcheck disable=SC2086 # the settings are words
{
    try "$bin/cavmae-pretrain" --data "$train" --val "$val" --out "$work/pre" --preset tiny --recipe pretrain-base \
        --threads 2 --set $small epochs=2 contrast_weight=1 lr=1e-3
    try $evaluate --task pretrain --model "$work/pre/model.safetensors" --manifest "$val"
    same "validation loss" "$(value loss)" "$(row "$work/pre/val.csv" 2)"
    try $evaluate --task pretrain --model "$work/pre/model.safetensors" --manifest "$val" \
        --set mask_mode_a=time mask_ratio_v=0.5
    try $evaluate --task retrieval --model "$work/pre/model.safetensors" --manifest "$val"
    rank=$(value mean_rank)
    try $evaluate --task retrieval --model "$work/pre/model.safetensors" --manifest "$val" --set shuffle_pairs=1
    if [ -n "$rank" ] && [ "$rank" != "$(value mean_rank)" ]; then good; else bad "shuffled pairs rank alike"; fi

    # Pretraining goes on from another model's parameters; of a classifier's too, with a new decoder.
    go_on="$bin/cavmae-pretrain --data $train --threads 2"
    try $go_on --model "$work/pre/model.safetensors" --out "$work/on" --set lr=1e-12 epochs=1 batch=10 loader_threads=1
    if grep -q ' taken over, 0 new$' "$work/out"; then good; else bad "not taken over: $(cat "$work/out")"; fi
    try $evaluate --task retrieval --model "$work/on/model.safetensors" --manifest "$val"
    same "rank after no training" "$(value mean_rank)" "$rank"

    # Fine-tuning: a milestone is an epoch; what is averaged is there, and differs from the last epoch.
    try $finetune --model "$work/pre/model.safetensors" --out "$work/fine" --recipe finetune-vggsound --average \
        --set epochs=3 batch=10 milestones=2 average_from=2 freq_mask=8 time_mask=16 balanced=0
    same "learning rate" "$(sed -n 7p "$work/fine/losses.csv" | cut -d, -f5) $(row "$work/fine/losses.csv" 5)" \
        "0.0001 5e-05"
    try $evaluate --task classify --model "$work/fine/model.safetensors" --manifest "$val" --labels "$labels"
    same mAP "$(value map)" "$(row "$work/fine/val.csv" 3)"
    last=$(value map)
    try $evaluate --task classify --model "$work/fine/model-average.safetensors" --manifest "$val" --labels "$labels"
    if [ -n "$last" ] && [ "$last" != "$(value map)" ]; then good; else bad "the average is the last epoch"; fi
    for mode in audioonly videoonly missingaudioonly missingvideoonly; do
        try $evaluate --task classify --model "$work/fine/model.safetensors" --manifest "$val" --labels "$labels" \
            --mode $mode --frames 2 --average logits
    done

    # A probe sees each clip once; resumed it goes on with the same bits.
    probe="$finetune --model $work/pre/model.safetensors --probe --set batch=6 lr=1e-2 loss=ce accumulate=2"
    try $probe epochs=5 --out "$work/probe"
    if grep -q "once for all epochs" "$work/out"; then good; else bad "the probe did not keep features"; fi
    try $probe epochs=2 --out "$work/again"
    try $probe epochs=5 --out "$work/again" --resume
    if cmp -s "$work/probe/losses.csv" "$work/again/losses.csv" && cmp -s "$work/probe/val.csv" "$work/again/val.csv" &&
        cmp -s "$work/probe/model.safetensors" "$work/again/model.safetensors"; then
        good
    else
        bad "a resumed probe is another one"
    fi
    # Without the features, from files: what makes it so never happens.
    try $probe epochs=2 shuffle=0 --out "$work/kept"
    try $probe epochs=2 shuffle=0 modality_dropout=1e-300 --out "$work/read"
    if cmp -s "$work/kept/losses.csv" "$work/read/losses.csv"; then good; else bad "kept features differ"; fi

    # Some frames of each clip, some classes; a table and files.
    printf '0\nSquare, square wave\n\n' >"$work/subset"
    classify="$bin/cavmae-evaluate --threads 2 --task classify --manifest $val --labels $labels --model"
    try $classify "$work/probe/model.safetensors" --frames 3 --average features --subset "$work/subset" \
        --per-class "$work/classes.csv" --scores "$work/scores.npy"
    if grep -q '^classes scored  *2$' "$work/out"; then good; else bad "not 2 classes: $(cat "$work/out")"; fi
    same "classes with figures" "$(grep -c ',[0-9][0-9.]*,[0-9][0-9.]*,[0-9.]*$' "$work/classes.csv")" 2
    same "classes in the file" "$(sed 1d "$work/classes.csv" | wc -l)" 17
    if [ "$(head -c 6 "$work/scores.npy" | tail -c 5)" = NUMPY ]; then good; else bad "no scores"; fi

    # One modality: trained so, or left out in training now and then; what is set holds for model and clips.
    try $finetune --model "$work/pre/model.safetensors" --out "$work/sound" --set modalities=a epochs=1 batch=10
    try $evaluate --task classify --model "$work/sound/model.safetensors" --manifest "$val" --labels "$labels"
    same "mAP by sound" "$(value map)" "$(row "$work/sound/val.csv" 3)"
    same mode "$(value mode)" '"audioonly"'
    try $finetune --model "$work/pre/model.safetensors" --out "$work/dropped" \
        --set modality_dropout=0.5 head_input=concat epochs=1 batch=10
    for mode in audioonly videoonly; do
        try $evaluate --task classify --model "$work/dropped/model.safetensors" --manifest "$val" --labels "$labels" \
            --mode $mode
    done
    try $classify "$work/fine/model.safetensors" --scores "$work/softmax.npy"
    try $classify "$work/fine/model.safetensors" --scores "$work/sigmoid.npy" --set loss=bce
    if cmp -s "$work/softmax.npy" "$work/sigmoid.npy"; then bad "loss=bce changes no score"; else good; fi
    try $go_on --model "$work/fine/model.safetensors" --out "$work/back" --set epochs=1 batch=10
    if grep -q ' taken over, 53 new$' "$work/out"; then good; else bad "not a new decoder: $(cat "$work/out")"; fi
    # A classifier of other classes to start from: all but its head.
    grep -v -e '^16,' "$labels" >"$work/fewer.csv"
    sed 's/,brown"/"/' "$train" >"$work/clips/fewer.json"
    try "$bin/cavmae-finetune" --model "$work/fine/model.safetensors" --data "$work/clips/fewer.json" \
        --labels "$work/fewer.csv" --out "$work/other" --set epochs=1 batch=10
    if grep -q '^16 classes; .*, 4 new$' "$work/out"; then good; else bad "not a new head: $(cat "$work/out")"; fi

    echo ship >"$work/subset"
    refuse "no class 'ship'" $classify "$work/probe/model.safetensors" --subset "$work/subset"
    refuse "no head" $classify "$work/pre/model.safetensors"
    refuse "head for" $classify "$work/other/model.safetensors"
    refuse "frames" $classify "$work/probe/model.safetensors" --frames 11
    refuse "lacks 4 parameters" $classify "$work/probe/model.safetensors" --set classes=3
    refuse "lacks 2 parameters" $classify "$work/probe/model.safetensors" --set head=linear
    refuse "--frames" $classify "$work/probe/model.safetensors" --set frame=-3
    refuse "for --task classify" $evaluate --task retrieval --frames 3 --model "$work/pre/model.safetensors" \
        --manifest "$val"
    refuse "for --task retrieval" $classify "$work/probe/model.safetensors" --ties-against
    refuse "average_from" $finetune --model "$work/pre/model.safetensors" --out "$work/no" --average \
        --set average_from=9 epochs=3
    refuse "resume" $finetune --model "$work/pre/model.safetensors" --out "$work/fine" --set batch=10
}
finish finetune
