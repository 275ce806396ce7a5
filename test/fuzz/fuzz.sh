#!/usr/bin/env bash
# Runs libFuzzer: fuzz.sh SECONDS TARGET... New inputs go into $BUILD/corpus/NAME, where the next run finds them.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build/fuzz}
seconds=$1
shift
passed=0
failed=0
for target in "$@"; do
    name=${target#fuzz_}
    found=$BUILD/corpus/$name log=$BUILD/$target.log
    mkdir -p "$found"
    . test/fuzz/corpora.sh "$name"
    if "$BUILD/libfuzzer/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
        -artifact_prefix="$BUILD/$target-" -print_final_stats=1 "$found" "${corpora[@]}" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf '  ok    %-18s %s inputs\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: //p' "$log")"
    else
        failed=$((failed + 1))
        printf '  FAIL  %-18s %s:\n' "$target" "$log"
        tail -n 40 "$log" | sed 's/^/        /'
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ $failed -eq 0 ]
