#!/bin/sh
# A folder of media files to training: by way of the authors' layout, of a packed data set, and without either.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
media=$work/media
set_up="audio_frames=64 image_size=32 embed_dim=16 num_heads=2 modality_depth=1 decoder_dim=16 decoder_heads=2
    decoder_depth=1 batch=2 epochs=2 loader_threads=2"

holds() { if eval "$1"; then good; else bad "not so: $1"; fi; }

# Two clips of one name, one of another with a name of its own; one without a picture, one that is none, and what is
# no business of ours.
mkdir -p "$media/deep/er"
cp test/cases/media/both.mp4 test/cases/media/both.webm "$media"
cp test/cases/media/offset.mkv "$media/deep/er/a clip, \"quoted\".mkv"
cp test/cases/media/eight_bit.wav "$media/deep/sound.wav"
echo "no video at all" >"$media/text.mp4"
cp test/cases/media/picture.jpg "$media/picture.jpg"
cat >"$work/paths.csv" <<'CSV'
path,labels
both.mp4,/m/a,/m/b
"deep/er/a clip, ""quoted"".mkv","/m/b"
text.mp4,/m/a
gone.mp4,/m/a
CSV
printf 'index,mid,display_name\n0,/m/a,A\n1,/m/b,"B, the other"\n' >"$work/labels.csv"

extract="$BUILD/bin/cavmae-extract --media $media --out $work/set --labels $work/paths.csv --threads 2"
expect '3 clips, 0 of them there already' $extract
holds '[ $(find "$work/set/audio" -type f | wc -l) -eq 3 ] && [ $(find "$work/set/frames" -type f | wc -l) -eq 30 ]'
holds '[ $(grep -c video_id "$work/set/manifest.json") -eq 3 ] && [ -f "$work/set/audio/a_clip___quoted_.wav" ]'
holds '[ $(ls "$work/set/audio" | grep -c "^both-[0-9a-f]\{16\}.wav$") -eq 2 ]'
holds 'grep -q "\"labels\": \"/m/a,/m/b\"}" "$work/set/manifest.json" && grep -q "\"labels\": \"\"}" "$work/set/manifest.json"'
holds '[ "$(cut -f 1 "$work/set/failed.txt" | tr "\n" " ")" = "deep/sound.wav text.mp4 " ]'
# 16 kHz, one channel, 16 bits.
holds '[ "$(od -A n -t u2 -j 20 -N 16 "$work/set/audio/a_clip___quoted_.wav" | tr -s " \n" " ")" = " 1 1 16000 0 32000 0 2 16 " ]'

# What is there is left alone; what is missing, or older than its media file, is made again.
echo kept >"$work/set/audio/a_clip___quoted_.wav"
expect '3 clips, 3 of them there already' $extract
holds '[ "$(cat "$work/set/audio/a_clip___quoted_.wav")" = kept ]'
rm "$work"/set/frames/frame_7/both-*
expect '3 clips, 1 of them there already' $extract
touch -d '+10 seconds' "$media/deep/er/"*
expect '3 clips, 2 of them there already' $extract
holds '[ $(wc -c <"$work/set/audio/a_clip___quoted_.wav") -gt 1000 ]'
holds '[ -z "$(find "$work/set" -name "*.part")" ]'
refuse 'no media files' "$BUILD/bin/cavmae-extract" --media "$work/set/frames" --out "$work/none"
mkdir "$work/bad" && echo text >"$work/bad/a.mp4"
refuse 'nothing could be extracted' "$BUILD/bin/cavmae-extract" --media "$work/bad" --out "$work/none"
refuse 'line 1: path,labels expected' "$BUILD/bin/cavmae-extract" --media "$media" --out "$work/set" \
    --labels "$work/set/failed.txt"

# Packed, the data set trains as it does in files: losses are the same to the last digit.
data="--preset tiny --set frame=-2 $set_up"
expect '^audio_mean=-[0-9.]* audio_std=[0-9.]*$' "$BUILD/bin/cavmae-pack" --data "$work/set/manifest.json" \
    --labels "$work/labels.csv" --out "$work/set.cavmaepack" $data
expect 'loss' "$BUILD/bin/cavmae-pretrain" --data "$work/set/manifest.json" --out "$work/run1" $data
expect 'loss' "$BUILD/bin/cavmae-pretrain" --data "$work/set.cavmaepack" --labels "$work/labels.csv" --out "$work/run2" $data
holds '[ $(wc -l <"$work/run1/losses.csv") -eq 3 ] && cmp "$work/run1/losses.csv" "$work/run2/losses.csv"'
refuse 'image_size 32, the configuration has 64' "$BUILD/bin/cavmae-pretrain" --data "$work/set.cavmaepack" \
    --out "$work/run3" $data image_size=64

# And from the folder itself.
refuse 'entry [0-9] (\(deep/sound.wav\|text.mp4\))' "$BUILD/bin/cavmae-pretrain" --media "$media" --out "$work/run4" $data
expect '2 samples could not be read' "$BUILD/bin/cavmae-pretrain" --media "$media" --out "$work/run5" $data broken=skip \
    epochs=1
finish extract
