#!/bin/sh
# The programs that draw: what they write is a PNG, of the size that its parts make it, and says what was measured.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
bin=${BUILD:-build}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
val=$work/clips/val.json
model=$work/run/model.safetensors

# A PNG that another reader takes; wider than high: 1, or 0.
picture() {
    if ! "$bin/cavmae-embed" --model "$model" --image "$1" --kind visual --out "$work/picture.npy" >"$work/out" 2>&1; then
        bad "$1 is no picture: $(cat "$work/out")"
        return
    fi
    # the header's width and height, big-endian, at byte 16
    set -- "$2" $(od -An -tu1 -j16 -N8 "$1")
    width=$(($2 * 16777216 + $3 * 65536 + $4 * 256 + $5)) height=$(($6 * 16777216 + $7 * 65536 + $8 * 256 + $9))
    if [ $((width > height)) -eq "$1" ] && [ "$height" -gt 100 ]; then good; else bad "a picture of $width x $height"; fi
}

"$bin/cavmae-scenes" --clips 12 --val 5 --seed 3 --out "$work/clips" >"$work/out" 2>&1 || bad "no scenes"
expect 'step 1/1' "$bin/cavmae-pretrain" --data "$work/clips/train.json" --out "$work/run" --preset tiny --threads 2 \
    --set audio_frames=64 mel_bins=32 image_size=48 resampler=fastest batch=6 epochs=1 loader_threads=1
sound=$work/clips/audio/scene000008.wav
sight=$work/clips/frames/frame_5/scene000008.jpg
clip="--model $model --threads 2 --audio $sound --image $sight"
# shellcheck disable=SC2086 # paths without spaces
{
    expect 'picture  *5 of  *9 ' "$bin/cavmae-inpaint" $clip --mask-a 0.5 --mode-a time --mask-v 0.5 --out "$work/p.png"
    picture "$work/p.png" 1
    expect '^sound  *4 of  *8 ' "$bin/cavmae-inpaint" $clip --mask-a 0.5 --mask "$work/p.png" --out "$work/q.png"
    picture "$work/q.png" 1
    expect 'cosine' "$bin/cavmae-localize" $clip --out "$work/h.png"
    picture "$work/h.png" 0
    refuse 'image_size' "$bin/cavmae-inpaint" $clip --set image_size=96 --out "$work/no.png"
}
# Fewer clips than a batch, and than results that could be shown.
expect '^5 clips, [0-9]* boxes  mean IoU 0' "$bin/cavmae-localize" --model "$model" --manifest "$val" --threads 2 \
    --boxes "$work/clips/boxes.csv" --out "$work/l.png"
picture "$work/l.png" 1
expect '^picture to sound' "$bin/cavmae-retrieve" --model "$model" --manifest "$val" --threads 2 --sheet "$work/s.png"
picture "$work/s.png" 0
expect '^pictures for its sound' "$bin/cavmae-retrieve" --model "$model" --manifest "$val" --threads 2 -k 3 \
    --query "$sound" --sheet "$work/s.png"
picture "$work/s.png" 1

# What is drawn are files, which a packed data set has not.
expect '5 clips' "$bin/cavmae-pack" --data "$val" --out "$work/pack" --preset tiny --set image_size=48 resampler=fastest
refuse 'packed data set' "$bin/cavmae-localize" --model "$model" --manifest "$work/pack" --out "$work/no.png"
refuse 'packed data set' "$bin/cavmae-retrieve" --model "$model" --manifest "$work/pack" --sheet "$work/no.png"
expect '^sound to picture' "$bin/cavmae-retrieve" --model "$model" --manifest "$work/pack"
if [ -e "$work/no.png" ]; then bad "a refused picture was written"; else good; fi
finish pictures
