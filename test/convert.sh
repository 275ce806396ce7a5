#!/bin/sh
# Models from one form into another and back, averaged and described, each by its program. The case is a vision MAE of
# two layers, float16, in a deflated archive.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
bin=${BUILD:-build}/bin
case=test/cases/vision_mae_float16.pth
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

same() {
    if cmp -s "$work/$1" "$work/$2"; then good; else bad "$1 and $2 differ"; fi
}

says() { # what cavmae-info must say of a file
    file=$1
    shift
    try "$bin/cavmae-info" --model "$file"
    for text in "$@"; do
        if grep -q -e "$text" "$work/out"; then good; else bad "cavmae-info $file does not say '$text'"; fi
    done
}

convert() {
    try "$bin/cavmae-convert" "$@"
}

says "$case" "PyTorch file" "vision MAE" "with a decoder" "modality_depth *1" "audio_frames *1024"
convert "$case" "$work/a.safetensors"
says "$work/a.safetensors" "model file of this library" "sound and pictures, with a decoder"

# There and back: nothing is lost on the way, and what is inferred is what was there.
convert "$work/a.safetensors" "$work/a.pth" --module-prefix
says "$work/a.pth" "PyTorch file" "names and shapes"
convert "$work/a.pth" "$work/back.safetensors"
same a.safetensors back.safetensors
convert "$work/a.safetensors" "$work/narrow.safetensors" --dtype bfloat16
convert "$work/narrow.safetensors" "$work/wide.safetensors"
convert "$work/wide.safetensors" "$work/narrow-again.safetensors" --dtype bfloat16
same narrow.safetensors narrow-again.safetensors
convert "$work/wide.safetensors" "$work/half.pth" --dtype float16
convert "$work/half.pth" "$work/half-wide.safetensors"

# Parts.
convert "$case" "$work/mean.safetensors" --mean-colours
if cmp -s "$work/mean.safetensors" "$work/a.safetensors"; then bad "--mean-colours changes nothing"; else good; fi
convert "$case" "$work/encoder.safetensors" --encoder
says "$work/encoder.safetensors" "encoder only"
convert --modality a "$work/a.safetensors" --audio-frames 512 "$work/sound.pth" --encoder
says "$work/sound.pth" "sound only, encoder only" "audio_frames *512"
convert "$work/a.safetensors" "$work/pictures.safetensors" --modality v
says "$work/pictures.safetensors" "pictures only, with a decoder"

# Means.
try "$bin/cavmae-average" "$work/a.safetensors" "$work/a.pth" --out "$work/average.safetensors"
same a.safetensors average.safetensors
refuse "sound.pth" "$bin/cavmae-average" --out "$work/no.safetensors" "$work/a.safetensors" "$work/sound.pth"
refuse "give --out" "$bin/cavmae-average" "$work/a.safetensors"

refuse "give the file" "$bin/cavmae-convert" "$case"
refuse "ends with neither" "$bin/cavmae-convert" "$case" "$work/no.bin"
refuse "float32, bfloat16 or float16" "$bin/cavmae-convert" "$case" "$work/no.pth" --dtype int8
refuse "is for .pth" "$bin/cavmae-convert" "$case" "$work/no.safetensors" --module-prefix
refuse "audio_frames" "$bin/cavmae-convert" "$case" "$work/no.pth" --audio-frames 100
refuse "modalities" "$bin/cavmae-convert" "$case" "$work/no.pth" --modality x
refuse "no such option" "$bin/cavmae-convert" "$case" --what
if [ -e "$work/no.pth" ] || [ -e "$work/no.safetensors" ] || [ -e "$work/no.bin" ]; then bad "written in spite of an error"; else good; fi

finish convert
