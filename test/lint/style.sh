#!/bin/sh
# Every file as clang-format writes it.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
for file in $(find include lib kernels test examples bindings -name '*.[ch]' -o -name '*.cu' -o -name '*.[ch]pp' | sort); do
    if clang-format "$file" | cmp -s - "$file"; then good; else bad "$file: run clang-format -i on it"; fi
done
finish style
