#!/bin/sh
# The index of examples/README.md: every function of the library is in it, beside a file that calls it.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A line "FILE FUNCTION" for each; a file's row is "| [name](path) | `one`, `another` |".
sed -n '/^## Every function/,$p' examples/README.md |
    sed -n 's/^| this page |/| [](README.md) |/; s/^| \[[^]]*\](\([^)]*\)) | /\1 /p' |
    while read -r file names; do
        for name in $(echo "$names" | tr -d '`,|'); do echo "examples/$file cavmae_$name"; done
    done >"$work/index"
while read -r file name; do
    if grep -qw "$name" "$file"; then good; else bad "examples/README.md: no $name in $file"; fi
done <"$work/index"
cut -d ' ' -f 2 "$work/index" | sort >"$work/found"
sed 's/ .*//' test/abi/symbols.txt | sort >"$work/functions"
if cmp -s "$work/found" "$work/functions"; then good; else bad "the index: $(diff "$work/found" "$work/functions")"; fi
for file in examples/*.c examples/lib/*.c; do
    if grep -qF "](${file#examples/})" examples/README.md; then good; else bad "not in the index: $file"; fi
done
finish examples
