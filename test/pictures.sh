#!/bin/sh
# The programs that draw: what they write is a PNG, of the size that its parts make it, and says what was measured; and
# the search page, which a browser must understand whatever the files are called.
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

# A page: each clip with its nearest; elements close as they open; every anchor and file that it leads to is there.
# page FILE CLIPS RESULTS
page() {
    faults=$(LC_ALL=C awk -v clips="$2" -v results="$3" -v folder="$(dirname "$1")" '
        function digit(text) { return index("0123456789ABCDEF", text) - 1 }
        function decoded(text,   out) {
            while (match(text, /%[0-9A-F][0-9A-F]/)) {
                out = out substr(text, 1, RSTART - 1) \
                    sprintf("%c", 16 * digit(substr(text, RSTART + 1, 1)) + digit(substr(text, RSTART + 2, 1)))
                text = substr(text, RSTART + 3)
            }
            return out text
        }
        BEGIN { RS = "<" }
        NR == 1 { if ($0 != "") print "text before the page"; next }
        {
            split($0, part, /[ >\n]/)
            name = part[1]
            if (name !~ /^[!\/a-z][a-zA-Z0-9]*$/ || index($0, ">") == 0) print "no element: <" $0
            if (name ~ /^(!DOCTYPE|meta|img|br)$/) next
            if (name ~ /^\//) {
                if (open[depth--] != substr(name, 2)) print "</" open[depth + 1] "> is missing before <" name ">"
                next
            }
            open[++depth] = name
            tag = substr($0, 1, index($0, ">"))
            if (match(tag, /id="[^"]*"/)) {
                id = substr(tag, RSTART + 4, RLENGTH - 5)
                if (there[id]++) print "twice: " id
            }
            if (match(tag, /href="#[^"]*"/)) leads[substr(tag, RSTART + 7, RLENGTH - 8)]++
            if (match(tag, / src="[^"]*"/)) {
                address = substr(tag, RSTART + 6, RLENGTH - 7)
                if (address !~ /^[-A-Za-z0-9%\/._~]*$/) print "no address: " address
                files[decoded(address)]++
            }
            if (match(tag, / on[a-z]*=/)) print "a handler: " tag
            found += name == "span" && $0 ~ /class="score"/
        }
        END {
            if (depth) print "<" open[depth] "> does not end"
            for (i = 0; i < clips; i++) if (!there["clip-" i] || !there["card-" i]) print "clip " i " has no anchor"
            if (there["clip-" clips]) print "more than " clips " clips"
            for (id in leads) if (!there[id]) print "#" id " leads nowhere"
            for (file in files) { if ((getline line < (folder "/" file)) < 1) print "no file: " file; n++ }
            if (n != clips) print n " files"
            if (found != results) print found " results"
        }' "$1" 2>&1)
    if [ -z "$faults" ]; then good; else bad "$1: $faults"; fi
}
mkdir "$work/pages"
search="$bin/cavmae-retrieve --model $model --threads 2"
expect '^picture to sound' $search --manifest "$val" --page "$work/pages/val.html"
page "$work/pages/val.html" 5 $((5 * (3 * 4 + 2 * 5)))
expect '^picture to sound' $search --manifest "$val" -k 2 --page "$work/val.html"
page "$work/val.html" 5 $((5 * 5 * 2))
# Videos whose names are HTML, quotes, no UTF-8, or would be another address.
mkdir -p "$work/videos/a b" "$work/videos/<script>\"&'"
cp test/cases/media/both.mp4 "$work/videos/a b/100%25 #1?.mp4"
cp test/cases/media/both.mp4 "$work/videos/<script>\"&'/\"'><img src=x onerror=alert(1)>&amp;.mp4"
cp test/cases/media/both.webm "$work/videos/$(printf 'b\377\303\251\300\200\033.webm')"
expect '^picture to sound' $search --manifest "$work/videos" --page "$work/pages/videos.html"
page "$work/pages/videos.html" 3 $((3 * (3 * 2 + 2 * 3)))
replaced=$(printf 'b\357\277\275\303\251\357\277\275\357\277\275\357\277\275.webm')
if grep -q "<h2 id=\"folder-[0-9]*\">&#60;script&#62;&#34;&#38;&#39;</h2>" "$work/pages/videos.html" &&
    grep -q "<h1>$replaced</h1>" "$work/pages/videos.html"; then good; else bad "names in $(cat "$work/pages/videos.html")"; fi
refuse 'without --query' $search --manifest "$val" --query "$sound" --page "$work/no.png"
refuse 'cannot write' $search --manifest "$val" --page "$work/absent/no.html"
i=0
{
    printf '{"data": [{"wav": "a.wav", "video_id": "a"}'
    while [ $((i += 1)) -le 2000 ]; do printf ', {"wav": "a.wav", "video_id": "a"}'; done
    echo ']}'
} >"$work/many.json"
refuse '2001 clips, and a page takes 2000' $search --manifest "$work/many.json" --page "$work/no.png"

# What is drawn are files, which a packed data set has not.
expect '5 clips' "$bin/cavmae-pack" --data "$val" --out "$work/pack" --preset tiny --set image_size=48 resampler=fastest
refuse 'packed data set' "$bin/cavmae-localize" --model "$model" --manifest "$work/pack" --out "$work/no.png"
refuse 'packed data set' "$bin/cavmae-retrieve" --model "$model" --manifest "$work/pack" --sheet "$work/no.png"
refuse 'packed data set' "$bin/cavmae-retrieve" --model "$model" --manifest "$work/pack" --page "$work/no.png"
expect '^sound to picture' "$bin/cavmae-retrieve" --model "$model" --manifest "$work/pack"
if [ -e "$work/no.png" ]; then bad "a refused picture was written"; else good; fi
finish pictures
