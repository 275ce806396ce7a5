#!/bin/sh
# Every command and listing of the documentation is run: docs.sh [PAGE...], as test/docs/page.py says. Each page has a folder
# of its own, in which lie what its reader is supposed to have: clip.mp4, videos/, model.safetensors, classifier.safetensors,
# checkpoint.pth, and a data set (train.json, val.json, labels.csv, boxes.csv). The library is an installed one.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
PYTHON=${PYTHON:-/usr/bin/python3}
[ -x "$PYTHON" ] || PYTHON=python3
if ! "$PYTHON" -c 'import sys, numpy; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "skipped: $PYTHON has no NumPy, or is older than 3.10"
    finish docs
    exit
fi
repository=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- README.md docs/*.md bindings/python/README.md examples/README.md

# ---- The tools ----

# Where it is built for, below a root, so that nothing is made again.
try make BUILD="$BUILD" DESTDIR="$work/root" install
libdir=$(dirname "$(find "$work/root" -name libcavmae.a)")
mkdir "$work/bin"
ln -s "$(command -v "${CC:-gcc}")" "$work/bin/cc"
ln -s "$(command -v "${CXX:-g++}")" "$work/bin/c++"
ln -s "$(command -v "$PYTHON")" "$work/bin/python3"
cp test/docs/stand-ins/* "$work/bin"
export PATH="$work/bin:$(dirname "$(find "$work/root" -name cavmae-embed)"):$PATH" LD_LIBRARY_PATH="$libdir" \
    PKG_CONFIG_PATH="$libdir/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$work/root" CMAKE_PREFIX_PATH="$(dirname "$libdir")" \
    CAVMAE_LIBRARY="$libdir/libcavmae.so.1" PYTHONPATH="$repository/bindings/python" PYTHONDONTWRITEBYTECODE=1 \
    MPLBACKEND=Agg DOCS_REPOSITORY="$repository" DOCS_MAKE="$(command -v make)" BUILD="$BUILD"
unset MAKEFLAGS MAKELEVEL MFLAGS

# ---- The folder ----

reader=$work/reader
media=test/cases/media
try cavmae-scenes --clips 30 --val 10 --seed 1 --size 64 --out "$reader"
clip=../shared/media/00W1lcxW-WU_40.000.mp4
[ -f "$clip" ] || clip=$media/both.mp4
cp "$clip" "$reader/clip.mp4"
mkdir -p "$reader/videos/speech" "$reader/videos/noise"
cp "$clip" "$reader/videos/speech/talk.mp4"
cp $media/both.mp4 $media/both.webm "$reader/videos/noise"
cp $media/offset.mkv "$reader/videos/speech"
# As wide as the paper's, as the README's program expects it, and otherwise as small as can be.
try cavmae-pretrain --data "$reader/train.json" --out "$work/run" --preset tiny --threads 2 \
    --set embed_dim=768 num_heads=12 modality_depth=0 batch=4 epochs=1 loader_threads=1
cp "$work/run/model.safetensors" "$reader"
try cavmae-convert "$reader/model.safetensors" "$reader/checkpoint.pth"
try cavmae-finetune --model "$reader/model.safetensors" --data "$reader/train.json" --labels "$reader/labels.csv" \
    --out "$work/fine" --threads 2 --set batch=4 epochs=1 loader_threads=1
cp "$work/fine/model.safetensors" "$reader/classifier.safetensors"
ln -s "$repository/bindings" "$reader/bindings"

# ---- The pages ----

for page in "$@"; do
    name=$(echo "$page" | tr / -)
    cp -a "$reader" "$work/$name"
    began=$(date +%s)
    (cd "$work/$name" && "$PYTHON" "$repository/test/docs/page.py" "$repository/$page") >"$work/out" 2>&1
    status=$?
    sed "s|$repository/||" "$work/out"
    counts=$(sed -n 's/^.*\.md: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/out")
    passed=$((passed + ${counts% *} + 0)) failed=$((failed + ${counts#* } + 0))
    if [ -z "$counts" ]; then bad "$page: ended with $status"; fi
    echo "  ($(($(date +%s) - began)) s)"
    rm -rf "${work:?}/$name"
done
finish docs
