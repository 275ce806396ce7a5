#!/bin/sh
# What is promised of a library, against what was written down of an earlier one:
#     compare.sh record BASE HEADER LIBRARY    writes BASE.abi (abidw's functions and types of the header) and BASE.txt
#                                              (constants.sh's numbers)
#     compare.sh check BASE HEADER LIBRARY     says what has broken, and fails; new functions, new constants, and new
#                                              fields at the end of records with struct_size are none
# The library needs debug information, without which moved fields pass; only what HEADER declares counts.
set -eu
mode=$1 base=$2 header=$3 library=$4
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/include"
cp "$header" "$work/include"
export LC_ALL=C

# Headers are known by their file's name. Parameters' names and the libraries' own needs are no part of it.
abidw --headers-dir "$work/include" --drop-private-types --exported-interfaces-only --no-corpus-path --no-comp-dir-path \
    --no-show-locs --no-parameter-names --no-elf-needed --no-write-default-sizes --type-id-style hash \
    --out-file "$work/now.abi" "$library"
if ! grep -q "<data-member " "$work/now.abi"; then
    echo "$library has no debug information: build it with -g"
    exit 1
fi
# What is reserved may be given a meaning, and a name.
sh "$here/constants.sh" "$header" | grep -v '\.reserved' >"$work/now.txt"

if [ "$mode" = record ]; then
    cp "$work/now.abi" "$base.abi"
    cp "$work/now.txt" "$base.txt"
    exit
fi

broken=0
# A record may grow: its own line is compared by number, all others must be there as they were.
awk 'FNR == NR { now[$1] = $0; size[$1] = $2; next }
    !($1 in now) { print $1 ": is gone, was " $0; next }
    $3 == "bytes" && $1 !~ /\./ { if (size[$1] + 0 < $2 + 0) print $1 ": is of " size[$1] " bytes, was of " $2; next }
    now[$1] != $0 { print now[$1] ", was " $0 }' "$work/now.txt" "$base.txt" >"$work/said"
if [ -s "$work/said" ]; then
    cat "$work/said"
    broken=1
fi

architecture() { sed -n "1s/.*architecture='\([^']*\)'.*/\1/p" "$1"; }
if [ "$(architecture "$base.abi")" = "$(architecture "$work/now.abi")" ]; then
    # What is inside of handles does not count (abidw does not know all of clang's as private). Records may grow, but for
    # others than those that have this would hide changed types of fields.
    {
        sed -n 's/^typedef struct \([a-z_0-9]*\) \1;.*/[suppress_type]\n  type_kind = struct\n  name = \1\n/p' "$header"
        grep -v '^[^ ]*\.' "$base.txt" | grep ' bytes$' | while read -r record size bytes; do
            grep -q "^$record\.struct_size " "$base.txt" && ! grep -qx "$record $size $bytes" "$work/now.txt" || continue
            printf '[suppress_type]\n  type_kind = struct\n  name = %s\n  has_data_member_inserted_at = end\n\n' "$record"
        done
    } >"$work/expected.ini"
    # 0: nothing; 4: a change; 8 and more: a break.
    if ! abidiff --no-added-syms --suppressions "$work/expected.ini" "$base.abi" "$work/now.abi" >"$work/said" 2>&1; then
        cat "$work/said"
        broken=1
    fi
else
    echo "note: types are not compared: $base.abi is of $(architecture "$base.abi")"
fi
exit $broken
