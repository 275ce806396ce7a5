#!/bin/sh
# Debian's packages of the tree as it is: they build with nothing from outside, each has its files and no other's, needs
# what it should and nothing else, and what they install serves programs in C, C++ and Python.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
VERSION=$(sed -n 's/^#define CAVMAE_VERSION_STRING "\(.*\)"/\1/p' include/cavmae.h)
packaging=pkgconfig/debian
if ! command -v dh >/dev/null || ! command -v dpkg-checkbuilddeps >/dev/null; then
    echo "no dpkg-dev or no debhelper: skipped"
    finish debian
    exit
fi
missing=$(dpkg-checkbuilddeps $packaging/control 2>&1) || case $missing in
*Unmet*)
    echo "skipped: $missing"
    finish debian
    exit
    ;;
*) bad "$missing" ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C

# is WORDS COMMAND...: it succeeds, or the words are what is wrong.
is() {
    words=$1
    shift
    if "$@"; then good; else bad "$words"; fi
}
# same WHAT FILE FILE: the first has what the second wants.
same() {
    if [ -s "$3" ] && cmp -s "$2" "$3"; then good; else bad "$1 (< has, > should have): $(diff "$2" "$3")"; fi
}

# ---- Building ----

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -co --exclude-standard
else
    find . -type f ! -path './build/*' ! -name '*.pyc'
fi | while read -r file; do [ ! -e "$file" ] || echo "$file"; done | sort >"$work/files"
try tar czf "$work/tree.tar.gz" --transform "s,^,libcavmae-$VERSION/," -T "$work/files"
# What is said to the outer make is not for the packages.
DEB_BUILD_OPTIONS=nocheck make --no-print-directory deb BUILD="$work/build" TARBALL="$work/tree.tar.gz" \
    PREFIX=/nowhere CFLAGS='-O1 -DFROM_OUTSIDE' WITHOUT_ONEDNN=1 >"$work/log" 2>&1
status=$?
debs=$work/build/deb
if [ $status -ne 0 ]; then
    bad "make deb failed: $(tail -n 40 "$work/log")"
    finish debian
    exit
fi
good
from_outside() { grep -e FROM_OUTSIDE -e /nowhere -e 'setup: ' "$work/log"; }
is "the packages' build sees what is outside of it" [ -z "$(from_outside)" ]
for flag in -D_FORTIFY_SOURCE= -fstack-protector-strong -ffile-prefix-map= -fPIC; do
    unprotected=$(grep -e ' -c -o build/obj/' "$work/log" | grep -v -e "$flag")
    is "compiled without $flag: $unprotected" [ -z "$unprotected" ]
done
is "the log does not show how it was compiled" [ "$(grep -c -e ' -c -o build/obj/' "$work/log")" -gt 100 ]
is "the changelog is not of $VERSION-1" [ "$(dpkg-parsechangelog -l $packaging/changelog -S Version)" = "$VERSION-1" ]
try dpkg-source --no-check -x "$debs/libcavmae_$VERSION-1.dsc" "$work/source"
is "the source package has no debian/rules" [ -x "$work/source/debian/rules" ]

# ---- What is in them ----

lib=usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
deb() { echo "$debs/$1_$VERSION-1"_*.deb; }
# files PACKAGE: all but what every package has in its documentation, and the HTML pages.
files() {
    dpkg-deb --fsys-tarfile "$(deb "$1")" | tar t | sed -n 's|^\./\(.*[^/]\)$|\1|p' | sort |
        grep -v -e "^usr/share/doc/$1/\(changelog.*\|copyright\|html/.*\)$"
}
has() {
    package=$1
    files "$package" >"$work/has"
    sort >"$work/wanted"
    same "$package" "$work/has" "$work/wanted"
}
programs=$(for file in examples/*.c; do basename "$file" .c; done)
functions=$(sed 's/ .*//' test/abi/symbols.txt)

printf '%s\n' "$lib/libcavmae.so.${VERSION%%.*}" usr/share/doc/libcavmae1/README.Debian | has libcavmae1
echo "$lib/cavmae/libcavmae-media.so" | has libcavmae-media
echo "$lib/cavmae/libcavmae-mpi.so" | has libcavmae-mpi
for program in $programs; do
    echo "usr/bin/cavmae-$program"
    echo "usr/share/man/man1/cavmae-$program.1.gz"
done | has cavmae-tools
for file in bindings/python/cavmae/*.py bindings/python/cavmae/py.typed include/cavmae.h; do
    echo "usr/lib/python3/dist-packages/cavmae/$(basename "$file")"
done >"$work/python"
for file in METADATA RECORD WHEEL; do
    echo "usr/lib/python3/dist-packages/cavmae-$VERSION.dist-info/$file"
done >>"$work/python"
has python3-cavmae <"$work/python"
for file in examples/*.c examples/lib/*.[ch] bindings/*/examples/*.[cp]*; do
    echo "usr/share/doc/cavmae-doc/${file#bindings/*/}"
done >"$work/doc"
printf '%s\n' usr/share/doc-base/cavmae-doc.libcavmae usr/share/doc/cavmae-doc/README.Debian >>"$work/doc"
has cavmae-doc <"$work/doc"
dpkg-deb --fsys-tarfile "$(deb cavmae-doc)" | tar t | grep '/html/.*[^/]$' >"$work/out"
is "the HTML manual has no first page" grep -q '/html/index\.html$' "$work/out"
is "pages of the HTML manual are packed" [ -z "$(grep '\.gz$' "$work/out")" ]
files libcavmae-dev | grep -v '^usr/share/man/man3/' >"$work/has"
sort >"$work/wanted" <<END
usr/include/cavmae.h
usr/include/cavmae.hpp
$lib/cmake/cavmae/cavmaeConfig.cmake
$lib/cmake/cavmae/cavmaeConfigVersion.cmake
$lib/libcavmae.a
$lib/libcavmae.so
$lib/pkgconfig/cavmae.pc
END
same libcavmae-dev "$work/has" "$work/wanted"
files libcavmae-dev | sed -n 's|^usr/share/man/man3/\(.*\)\.3\.gz$|\1|p' >"$work/pages"
for name in $functions; do
    is "libcavmae-dev has no manual page of $name" grep -qx "$name" "$work/pages"
done

packages=$(sed -n 's/^Package: //p' $packaging/control)
for package in $packages; do
    files "$package"
done | sort | uniq -d >"$work/twice"
is "in two packages: $(cat "$work/twice")" [ ! -s "$work/twice" ]

# ---- What they need ----

needs() { dpkg-deb -f "$(deb "$1")" Depends; }
# names PACKAGE: of what it depends on, without versions in the names' ends.
names() { needs "$1" | tr ',' '\n' | sed -n 's/^ *\([^ ]*\).*/\1/p' | sed 's/[0-9.-]*\(t64\)\{0,1\}$//' | sort -u; }
needs_these() {
    names "$1" >"$work/has"
    shift
    printf '%s\n' "$@" >"$work/wanted"
    same "needs" "$work/has" "$work/wanted"
}
# A new name here is a new licence to look at: none of these is under the GPL without an exception.
needs_these libcavmae1 libc libdnnl libgomp libsamplerate zlib1g
needs_these libcavmae-media libavcodec libavformat libavutil libc libcavmae libswscale
needs_these cavmae-tools libc libcavmae libjpeg62-turbo libpng
# needs_one PACKAGE WORDS
needs_one() { is "$1 needs $(needs "$1"), not $2" grep -q -e "$2" "$work/needs"; }
for package in libcavmae-media libcavmae-mpi libcavmae-dev; do # of the same build
    needs $package >"$work/needs"
    needs_one $package "libcavmae1 (= $VERSION-1)"
done
needs libcavmae-mpi >"$work/needs"
needs_one libcavmae-mpi 'openmpi\|mpich'
needs libcavmae-dev >"$work/needs"
for name in libdnnl-dev libsamplerate0-dev zlib1g-dev; do needs_one libcavmae-dev $name; done # what cavmae.pc names
needs python3-cavmae >"$work/needs"
for name in libcavmae1 python3-numpy; do needs_one python3-cavmae $name; done

# ---- The library ----

root=$work/root
for package in $packages; do try dpkg-deb -x "$(deb "$package")" "$root"; done
library=$root/$lib/libcavmae.so.1
dpkg-deb -I "$(deb libcavmae1)" symbols | sed -n 's/^ \(cavmae_[a-z0-9_]*\)@CAVMAE_1 \(.*\)$/\1 \2/p' |
    sort >"$work/symbols"
sort test/abi/symbols.txt >"$work/wanted"
same symbols "$work/symbols" "$work/wanted"
"${NM:-nm}" -D --defined-only --with-symbol-versions "$library" | sed -n 's/^.* T \(.*\)@@CAVMAE_1$/\1/p' |
    sort >"$work/exported"
sed 's/ .*//' "$work/wanted" >"$work/names"
same exported "$work/exported" "$work/names"
is "the library does not know /$lib/cavmae" grep -qF "/$lib/cavmae" "$library"
for file in "$root"/usr/bin/* "$library" "$root/$lib"/cavmae/*.so; do
    readelf -d "$file" >"$work/out"
    if grep -q -e RPATH -e RUNPATH "$work/out" || ! grep -q -e BIND_NOW -e 'FLAGS_1.*NOW' "$work/out"; then
        bad "$file has a run path, or binds late: $(cat "$work/out")"
    else
        good
    fi
done

# ---- Using them ----

# Plug-ins are looked for beside the library first.
ln -s cavmae/libcavmae-media.so "$root/$lib/"
export PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
    LIBRARY_PATH="$root/$lib" LD_LIBRARY_PATH="$root/$lib" TMPDIR="$work" PYTHONDONTWRITEBYTECODE=1
PKG_CONFIG_PATH="$root/$lib/pkgconfig:$(${PKG_CONFIG:-pkg-config} --variable pc_path pkg-config)"
export PKG_CONFIG_PATH
expect '; length of the embedding: 1\.0000$' $packaging/tests/build-and-run c
! command -v g++ >/dev/null || expect '; length of the embedding: 1\.0000$' $packaging/tests/build-and-run cpp
if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    export PYTHONPATH="$root/usr/lib/python3/dist-packages"
    expect "^version=$VERSION " /usr/bin/python3 $packaging/tests/embed.py
fi
PATH=$root/usr/bin:$PATH expect 'sound to picture' $packaging/tests/programs

if command -v lintian >/dev/null; then
    # What is not asked: the number of a report in Debian's tracker, which there is once somebody means to upload this.
    try lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs "$debs"/*.changes
else
    echo "no lintian"
fi
finish debian
