#!/bin/sh
# File names are unique in the tree; files over 700 lines are named (not an error: most of the time two ideas in one file).
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
files=$(find lib include kernels test examples -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cpp')

for file in $files; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 700 ] || [ "$file" = include/cavmae.h ] || echo "note: $file has $lines lines"
done
doubles=$(for file in $files; do basename "$file"; done | sort | uniq -d)
if [ -z "$doubles" ]; then good; else bad "more than one file is called: $doubles"; fi
finish files
