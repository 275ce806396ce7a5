#!/bin/sh
# The exported names are those in symbols.txt ("name since"), all of version node CAVMAE_1, and those that cavmae.h declares.
# A name that is in a release never leaves symbols.txt.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
library=$(echo "${BUILD:-build}"/lib/libcavmae.so.[0-9]*)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C

sed 's/ .*//' test/abi/symbols.txt | sort >"$work/listed"
"${NM:-nm}" -D --defined-only --with-symbol-versions "$library" | sed -n 's/^[0-9a-f]* [A-Z] //p' | grep -v '^CAVMAE_1' >"$work/versioned"
sed 's/@.*//' "$work/versioned" | sort >"$work/exported"
sed -n 's/^CAVMAE_API .*[ *]\(cavmae_[a-z0-9_]*\)(.*/\1/p' include/cavmae.h | sort >"$work/declared"

compare() { # FILE FILE WORDS: each line of the first must be in the second
    comm -23 "$1" "$2" | sed "s|\$| $3|" >"$work/only"
    if [ -s "$work/only" ]; then bad "$(cat "$work/only")"; else good; fi
}

compare "$work/listed" "$work/exported" "is in symbols.txt, but $library does not export it"
compare "$work/exported" "$work/listed" "is exported by $library, but not in symbols.txt"
compare "$work/declared" "$work/listed" "is declared in cavmae.h, but not in symbols.txt"
compare "$work/listed" "$work/declared" "is in symbols.txt, but not declared in cavmae.h"
if grep -qv '@@CAVMAE_1$' "$work/versioned"; then bad "exported without version CAVMAE_1"; else good; fi

# The static library too must show no other name: its internal ones are local.
static=${BUILD:-build}/lib/libcavmae.a
if "${NM:-nm}" --defined-only -g "$static" | grep -v ' cavmae_[a-z0-9]' | grep ' [A-Z] '; then
    bad "$static shows these names"
else
    good
fi
finish symbols
