#!/bin/sh
# check.sh: the library keeps what docs/ABI.md promises: against the last release's baseline, and with a program of the first
# version. check.sh baseline: writes this version's baseline, with a release.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
CC=${CC:-gcc}
VERSION=${VERSION:-$(sed -n 's/^#define CAVMAE_VERSION_STRING "\(.*\)"/\1/p' include/cavmae.h)}
library=$BUILD/lib/libcavmae.so.${VERSION%%.*}

if [ "${1:-}" = baseline ]; then
    # The first header is that of 1.0.0, and stays so.
    [ "$VERSION" != 1.0.0 ] || cp include/cavmae.h test/abi/first/cavmae-1.0.h
    exec sh test/abi/compare.sh record "test/abi/baseline-${VERSION%.*}" include/cavmae.h "$library"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
if [ "$soname" = libcavmae.so.1 ]; then good; else bad "$library calls itself $soname"; fi

base=$(for file in test/abi/baseline-*.abi; do echo "${file%.abi}"; done | sort -V | tail -n 1)
if command -v abidiff >/dev/null; then
    try sh test/abi/compare.sh check "$base" include/cavmae.h "$library"
else
    echo "no abidiff: types are not compared"
fi

sed -n 's/^#define CAVMAE_P_\([A-Z0-9_]*\) .*/KEY(\1)/p' test/abi/first/cavmae-1.0.h >"$work/keys.inc"
try $CC -std=c99 -Wall -Wextra -Werror -I"$work" -o "$work/client" test/abi/first/first_client.c \
    -L"$BUILD/lib" -lcavmae -Wl,-rpath,"$(cd "$BUILD/lib" && pwd)" -lm
try "$work/client"
counts=$(sed -n 's/^first_client: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/out")
passed=$((passed + ${counts% *} + 0)) failed=$((failed + ${counts#* } + 0))
finish abi
