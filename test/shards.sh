#!/bin/sh
# cavmae-embed --shards: shards are the same bytes whoever makes them, a run that was ended goes on, and what is another
# run's is left alone.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
bin=${BUILD:-build}/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

holds() { if eval "$1"; then good; else bad "not so: $1"; fi; }

# The numbers of a safetensors file's first tensor: $2 bytes.
rows() { tail -c +$(($(od -A n -t u8 -N 8 "$1") + 9)) "$1" | head -c "$2"; }

try "$bin/cavmae-scenes" --out "$work/set" --clips 26 --val 6 --size 64
try "$bin/cavmae-pretrain" --data "$work/set/train.json" --out "$work/run" --preset tiny --threads 2 --set batch=4 epochs=1
embed="$bin/cavmae-embed --model $work/run/model.safetensors --threads 2"
corpus="--manifest $work/set/train.json --labels $work/set/labels.csv --kind audio --shard-clips 6"

# One process: rows are those of one file. 20 clips, of 32 numbers, in shards of 6.
expect 'manifest.json: 20 clips in 4 shards' $embed $corpus --shards "$work/one"
try $embed --manifest "$work/set/train.json" --kind audio --out "$work/all.npy"
tail -c 2560 "$work/all.npy" >"$work/all"
for i in 0 1 2 3; do rows "$work/one/shard-0000$i-of-00004.safetensors" $((i < 3 ? 768 : 256)); done >"$work/joined"
holds 'cmp -s "$work/all" "$work/joined"'
holds 'grep -q "\"kind\": \"audio\", \"dim\": 32, \"clips\": 20" "$work/one/manifest.json"'
holds 'grep -q "shard-00003-of-00004.safetensors\", \"first\": 18, \"count\": 2" "$work/one/manifest.json"'

# Ranks: none of them waits for another one, and the last one writes the manifest.
for ranks in 2 3 7; do
    rank=0
    while [ $rank -lt $ranks ]; do
        RANK=$rank WORLD_SIZE=$ranks LOCAL_RANK=$rank LOCAL_WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 \
            $embed $corpus --world tcp --rendezvous "file:$work/meet-$ranks" --shards "$work/ranks-$ranks" \
            >"$work/out-$rank" 2>&1 &
        rank=$((rank + 1))
    done
    wait
    holds 'diff -r "$work/one" "$work/ranks-$ranks" && grep -q "20 clips in 4 shards" "$work"/out-*'
done

# Shards that are there are left alone; one that is missing or damaged is made again.
rm "$work/ranks-3/shard-00001-of-00004.safetensors" "$work/ranks-3/manifest.json"
printf x | dd of="$work/ranks-3/shard-00003-of-00004.safetensors" bs=1 seek=400 conv=notrunc 2>/dev/null
touch -d '2001-01-01' "$work/ranks-3/shard-00000-of-00004.safetensors"
expect 'shard-00003-of-00004.safetensors.* made anew' $embed $corpus --shards "$work/ranks-3"
holds '[ $(grep -c "there already" "$work/out") -eq 2 ]'
holds 'diff -r "$work/one" "$work/ranks-3"'
holds '[ -z "$(find "$work/ranks-3/shard-00000-of-00004.safetensors" -newermt 2002-01-01)" ]'

# Ended at any moment, it goes on: no shard is half there.
for after in 0.02 0.05 0.1 0.2; do
    timeout -s KILL $after $embed $corpus --shards "$work/ended" >/dev/null 2>&1
    for shard in "$work"/ended/shard-*; do
        [ ! -e "$shard" ] || cmp -s "$shard" "$work/one/${shard##*/}" || bad "$shard is not whole after $after s"
    done
done
try $embed $corpus --shards "$work/ended"
rm -f "$work"/ended/.cavmae-*.tmp "$work"/ended/*.tmp
holds 'diff -r "$work/one" "$work/ended"'

# The shards are an index: the sounds that are most like one, itself first, whoever holds which part.
query="$bin/cavmae-retrieve --model $work/run/model.safetensors --threads 2 --query $(find "$work/set/audio" -name '*.wav' | sort | head -1)"
expect '^   1   1.0000  ' $query --index "$work/one/manifest.json" --manifest "$work/set/train.json"
cp "$work/out" "$work/found"
for rank in 0 1 2; do
    RANK=$rank WORLD_SIZE=3 LOCAL_RANK=$rank LOCAL_WORLD_SIZE=3 $query --index "$work/one/manifest.json" \
        --manifest "$work/set/train.json" --world tcp --rendezvous "file:$work/meet" >"$work/out-$rank" 2>"$work/error-$rank" &
done
wait
holds 'cmp -s "$work/found" "$work/out-0" && [ $(wc -l <"$work/found") -eq 10 ] && [ ! -s "$work/out-1" ]'
refuse 'without --sheet' $query --index "$work/one/manifest.json" --sheet "$work/sheet.png"
refuse 'sound or picture' $query --index "$work/one/manifest.json" --by both
refuse 'goes with --index' $query --manifest "$work/set/train.json" --world auto

# Files instead of a manifest.
wav=$(find "$work/set/audio" -name '*.wav' | sort | head -5)
try $embed --kind audio --media $wav --out "$work/files.npy"
expect '5 clips in 2 shards' $embed --kind audio --media $wav --shards "$work/files" --shard-clips 4
tail -c 640 "$work/files.npy" >"$work/all"
for i in 0 1; do rows "$work/files/shard-0000$i-of-00002.safetensors" $((i < 1 ? 512 : 128)); done >"$work/joined"
holds 'cmp -s "$work/all" "$work/joined"'

refuse "is another run's" $embed --manifest "$work/set/train.json" --kind visual --shard-clips 6 --shards "$work/one"
rm "$work/one/manifest.json"
refuse "is another run's: it has .* audio of .* not .* visual of" $embed --manifest "$work/set/train.json" --kind visual \
    --shard-clips 6 --shards "$work/one"
try $embed $corpus --shards "$work/one"
refuse "is another run's" $embed --manifest "$work/set/val.json" --kind audio --shard-clips 2 --shards "$work/one"
refuse "is another run's" $embed --kind audio --media $(echo "$wav" | tac) --shards "$work/files" --shard-clips 4
refuse 'either --out or --shards' $embed --kind audio --media $wav
refuse 'either --out or --shards' $embed --kind audio --media $wav --out "$work/a.npy" --shards "$work/a"
refuse 'without --windows' $embed --kind audio --media $wav --windows 1 --shards "$work/a"
refuse 'world goes with --shards' $embed --kind audio --media $wav --out "$work/a.npy" --world auto
refuse 'at least 1' $embed --kind audio --media $wav --shards "$work/a" --shard-clips 0
echo '{"data": [{"video_id": "x", "wav": "absent.wav", "video_path": "absent"}]}' >"$work/broken.json"
refuse 'absent' $embed --kind audio --manifest "$work/broken.json" --shards "$work/broken"
holds '[ ! -e "$work/broken/manifest.json" ]'
finish shards
