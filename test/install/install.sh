#!/bin/sh
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

try make --no-print-directory uninstall BUILD="${BUILD:-build}" DESTDIR="$work/root"
left=$(find "$work/root" ! -type d)
if [ -z "$left" ]; then good; else bad "uninstall left $left"; fi
finish install
