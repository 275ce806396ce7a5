#!/bin/sh
# An installation that was moved is found by pkg-config and by CMake, and serves shared and static programs, in C and C++.
# The tarball of `make dist` has every file of the commit, and make in it knows how to build everything.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
CC=${CC:-gcc}
PKG_CONFIG=${PKG_CONFIG:-pkg-config}
VERSION=${VERSION:-$(sed -n 's/^#define CAVMAE_VERSION_STRING "\(.*\)"/\1/p' include/cavmae.h)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

expect 'cavmaeConfig.cmake' make --no-print-directory install BUILD="$BUILD" DESTDIR="$work/first"
mv "$work/first" "$work/moved"
libdir=$(dirname "$(find "$work/moved" -name libcavmae.a)")
for file in pkgconfig/cavmae.pc cmake/cavmae/cavmaeConfig.cmake cmake/cavmae/cavmaeConfigVersion.cmake; do
    if [ -f "$libdir/$file" ]; then good; else bad "$file is not installed"; fi
    if grep -q -e "$work" -e '@[A-Z_]*@' "$libdir/$file"; then bad "$file has paths of the build, or gaps"; else good; fi
done

# ---- pkg-config ----
pkg() { PKG_CONFIG_PATH="$libdir/pkgconfig" $PKG_CONFIG --define-prefix "$@" cavmae; }
# needs PROGRAM WORDS: it runs, and `ldd` says so, or with "!" does not.
needs() {
    try "$1"
    ldd "$1" | grep -q "libcavmae.so" && found=1 || found=0
    if [ $found = "$2" ]; then good; else bad "$1: needs libcavmae.so: $found, not $2"; fi
}
if [ "$(pkg --modversion)" = "$VERSION" ]; then good; else bad "pkg-config says $(pkg --modversion)"; fi
# The shared library brings its own libraries; only a static program names them.
case " $(pkg --libs) " in *" -lz "* | *" -lm "*) bad "--libs has $(pkg --libs)" ;; *) good ;; esac
for library in -lcavmae -lsamplerate -lz -lm; do
    case " $(pkg --static --libs) " in *" $library "*) good ;; *) bad "--static --libs lacks $library" ;; esac
done
try $CC $(pkg --cflags) -o "$work/shared" test/install/consumer.c $(pkg --libs) -Wl,-rpath,"$libdir"
needs "$work/shared" 1
try $CC $(pkg --cflags) -o "$work/static" test/install/consumer.c $(pkg --static --libs | sed 's/-lcavmae/-l:libcavmae.a/')
needs "$work/static" 0

# ---- CMake ----
if command -v cmake >/dev/null && command -v g++ >/dev/null; then
    consumer() { cmake -S test/install -B "$work/cmake" -DCMAKE_PREFIX_PATH="$(dirname "$libdir")" -DCMAKE_C_COMPILER="$CC" "$@"; }
    try consumer
    try cmake --build "$work/cmake"
    needs "$work/cmake/shared" 1
    needs "$work/cmake/static" 0
    needs "$work/cmake/cpp" 1
    # Versions: the same major one, not older than asked for.
    find() {
        printf 'cmake_minimum_required(VERSION 3.19)\nproject(version NONE)\nfind_package(cavmae %s REQUIRED)\n' "$*" >"$work/CMakeLists.txt"
        rm -rf "$work/version"
        cmake -S "$work" -B "$work/version" -DCMAKE_PREFIX_PATH="$(dirname "$libdir")"
    }
    for wanted in 1 1.0 "$VERSION" "$VERSION EXACT" 1.0...3; do try find "$wanted"; done
    for wanted in 0.9 2 1.99 "1.99 EXACT"; do refuse "version: $VERSION" find "$wanted"; done
    rm "$libdir/libcavmae.a"
    refuse "libcavmae.a is not there" find
else
    echo "no cmake or g++: the CMake package is not tested"
fi

# ---- The tarball ----
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    try make --no-print-directory dist BUILD="$work/dist"
    tarball=$work/dist/libcavmae-$VERSION.tar.gz
    git ls-tree -r --name-only HEAD | sed "s|^|libcavmae-$VERSION/|" | LC_ALL=C sort >"$work/tracked"
    tar tzf "$tarball" | grep -v '/$' | LC_ALL=C sort >"$work/packed"
    if cmp -s "$work/tracked" "$work/packed"; then good; else bad "the tarball is not what git has: $(diff "$work/tracked" "$work/packed")"; fi
    try tar xzf "$tarball" -C "$work"
    # Dry: that nothing is missing.
    try make --no-print-directory -C "$work/libcavmae-$VERSION" -n all test-files
fi
finish package
