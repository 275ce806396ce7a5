#!/usr/bin/env bash
# Runs the tests: run.sh unit | check. Every test is a command whose last line is "NAME: N passed, N failed"; the last
# line here adds them up. Output is kept in $BUILD/test/NAME.log, and shown where a test fails.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
mode=${1:-unit}
logs=$BUILD/test
passed=0
failed=0
mkdir -p "$logs"

# run NAME SECONDS COMMAND...
run() {
    local name=$1 limit=$2 log=$logs/$1.log status counts
    shift 2
    timeout -k 5 "$limit" "$@" >"$log" 2>&1
    status=$?
    counts=$(tail -n 1 "$log" | sed -n 's/^.*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    local good=${counts% *} bad=${counts#* }
    if [ -z "$counts" ]; then
        good=0 bad=1
    elif [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1 # crashed, leaked or ran out of time after its summary
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        printf '  ok    %-24s %d passed\n' "$name" "$good"
    else
        [ $status -eq 124 ] && echo "(stopped after $limit s)" >>"$log"
        printf '  FAIL  %-24s %d passed, %d failed, exit %d; %s:\n' "$name" "$good" "$bad" $status "$log"
        tail -n 40 "$log" | sed 's/^/        /'
    fi
}

for test in test/*_test.c; do
    name=$(basename "$test" .c)
    run "$name" 300 "$BUILD/test/$name"
done
# Each reader of untrusted bytes on its corpus, and on changed copies of it.
for target in test/fuzz/fuzz_*.c; do
    name=$(basename "$target" .c)
    . test/fuzz/corpora.sh "${name#fuzz_}"
    run "$name" 120 "$BUILD/test/$name" "${corpora[@]}"
done
# Golden cases of the kinds that this version computes: those in the tree, and more where the oracle's folder lies beside
# it. The base-size ones are too slow under a sanitizer.
if [ -f test/golden.c ]; then
    floats=()
    bfloats=()
    for file in test/cases/*.safetensors ../shared/golden/*.safetensors; do
        name=$(basename "$file")
        [ "$mode" = unit ] && [[ $name == *_base.* ]] && continue
        [[ $file == ../* ]] && [ -f "test/cases/$name" ] && continue
        [ -f "$file" ] || continue
        [ "$name" = finetune_loop.safetensors ] && continue # loop_test's
        case $name in
        pretrain_* | features* | finetune_* | linear_probe*) floats+=("$file") bfloats+=("$file") ;;
        audio_* | image_* | metrics*) floats+=("$file") ;;
        esac
    done
    [ ${#floats[@]} -eq 0 ] || run golden_float32 300 "$BUILD/test/golden" "${floats[@]}"
    [ ${#bfloats[@]} -eq 0 ] || run golden_bfloat16 300 "$BUILD/test/golden" --dtype bfloat16 "${bfloats[@]}"
fi

if [ "$mode" = check ]; then
    run headers 60 sh test/headers.sh
    run symbols 60 sh test/abi/symbols.sh
    run install 120 sh test/install/install.sh
    run readme 120 sh test/readme.sh
    run finetune 120 sh test/finetune.sh
    run extract 120 sh test/extract.sh
    run convert 60 sh test/convert.sh
    run pictures 120 sh test/pictures.sh
    run layers 60 sh test/lint/layers.sh
    run files 60 sh test/lint/files.sh
    run banned 60 sh test/lint/banned.sh "$BUILD/obj"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
