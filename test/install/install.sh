#!/usr/bin/env bash
# Installs into an empty directory, builds a program against it with pkg-config, shared and static, and runs it.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CC=${CC:-gcc}
PKG_CONFIG=${PKG_CONFIG:-pkg-config}

try() {
    if "$@"; then good; else bad "failed: $*"; fi
}

# LIBDIR as it was built, so that nothing is made again; pkg-config puts the sysroot before each path.
try make --no-print-directory install BUILD="${BUILD:-build}" DESTDIR="$work/root"
libdir=$(dirname "$(find "$work/root" -name libcavmae.a)")
export PKG_CONFIG_PATH="$libdir/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$work/root"

try [ "$($PKG_CONFIG --modversion cavmae)" = "$VERSION" ]
try [ "$(readlink "$libdir/libcavmae.so")" = "libcavmae.so.${VERSION%%.*}" ]
flags=$($PKG_CONFIG --cflags cavmae)
try $CC $flags -o "$work/shared" test/install/consumer.c $($PKG_CONFIG --libs cavmae) -Wl,-rpath,"$libdir"
try "$work/shared"
# Only this library statically: its own dependencies need not exist as archives.
libs=$($PKG_CONFIG --static --libs cavmae | sed "s|-lcavmae|-l:libcavmae.a|")
try $CC $flags -o "$work/static" test/install/consumer.c $libs
try "$work/static"
if ldd "$work/static" | grep cavmae; then bad "the static program needs the shared library"; else good; fi

# "Beside the library" is where it lies, and not where a path that was relative once, or argv[0], leads to now.
place=test/install/plugin_place.c
mkdir -p "$work/run/bin" "$work/other/bin" "$work/other/lib"
echo "no library" | tee "$work/other/bin/libcavmae-media.so" >"$work/other/lib/libcavmae-media.so"
cp -R "$libdir" "$work/run/lib"
try $CC $flags -o "$work/run/bin/place-shared" $place $($PKG_CONFIG --libs cavmae)
try $CC $flags -o "$work/run/bin/place-static" $place $libs
cp "$work/run/bin/place-static" "$work/other/bin"
for name in shared static; do
    (cd "$work/run" && LD_LIBRARY_PATH=lib "bin/place-$name" "$work/other") >"$work/out" 2>&1
    if grep -q "$work/other\|no library\|too short" "$work/out"; then bad "place-$name: $(cat "$work/out")"; else good; fi
done
# The shared one found it: its sentence is about the file.
if (cd "$work/run" && LD_LIBRARY_PATH=lib bin/place-shared "$work/other" | grep -q "^none: "); then good; else bad "no plug-in beside"; fi
if (cd "$work/run" && LD_LIBRARY_PATH=lib bin/place-shared / "$work/run/lib/libcavmae.so.1" | grep -q "^none: "); then
    good
else
    bad "no plug-in beside a library that was removed"
fi
(cd "$work/run" && exec -a "$work/other/bin/x" bin/place-static /) >"$work/out" 2>&1
if grep -q "$work/other" "$work/out"; then bad "argv[0] is believed: $(cat "$work/out")"; else good; fi

try make --no-print-directory uninstall BUILD="${BUILD:-build}" DESTDIR="$work/root"
left=$(find "$work/root" ! -type d)
if [ -z "$left" ]; then good; else bad "uninstall left $left"; fi
finish install
