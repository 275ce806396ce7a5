#!/bin/sh
# cavmae.h stands alone: as C99, C11, C17 and C++, with pedantic warnings as errors, and includes only the two standard
# headers it says.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict="-Wall -Wextra -pedantic -Werror -Iinclude -fsyntax-only"

echo '#include <cavmae.h>' >"$work/header.c"
echo 'int main(void) { return CAVMAE_VERSION_NUMBER == 0; }' >>"$work/header.c"
cp "$work/header.c" "$work/header.cpp"

try() {
    if "$@"; then good; else bad "failed: $*"; fi
}

for compiler in "${CC:-gcc}" clang; do
    command -v "$compiler" >/dev/null || continue
    for standard in c99 c11 c17; do try "$compiler" -std=$standard $strict "$work/header.c"; done
done
for compiler in g++ clang++; do
    command -v $compiler >/dev/null || continue
    for standard in c++11 c++17; do try $compiler -std=$standard $strict "$work/header.cpp"; done
done

includes=$(grep -o '^#include.*' include/cavmae.h | sort | tr '\n' ' ')
if [ "$includes" = "#include <stddef.h> #include <stdint.h> " ]; then good; else bad "cavmae.h has $includes"; fi
finish headers
