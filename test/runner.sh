# For the scripts that run tests: every test is a command whose last line is "NAME: N passed, N failed". Output is kept in
# $logs/NAME.log, and shown where a test fails; passed and failed are the sums. Source it with logs set.
passed=0
failed=0
mkdir -p "$logs"

# run NAME SECONDS COMMAND...
run() {
    local name=$1 limit=$2 log=$logs/$1.log status counts began=$SECONDS
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
        printf '  ok    %-24s %d passed, %d s\n' "$name" "$good" $((SECONDS - began))
    else
        [ $status -eq 124 ] && echo "(stopped after $limit s)" >>"$log"
        printf '  FAIL  %-24s %d passed, %d failed, exit %d; %s:\n' "$name" "$good" "$bad" $status "$log"
        tail -n 40 "$log" | sed 's/^/        /'
    fi
}

# start NAME SECONDS COMMAND...: as run, beside others, as many as there are processors. await: until all are done.
start() {
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    rm -f "$logs/$1.counts"
    (
        passed=0 failed=0
        said=$(run "$@"; echo "$passed $failed" >"$logs/$1.counts")
        echo "$said"
    ) &
    started+=("$1")
}
started=()

await() {
    local name good bad
    wait
    for name in "${started[@]}"; do
        read -r good bad 2>/dev/null <"$logs/$name.counts" || good=0 bad=1
        passed=$((passed + good)) failed=$((failed + bad))
    done
    started=()
}

# golden_cases [base]: into floats and bfloats, the golden cases of the kinds that this version computes in each dtype: those
# in the tree, and more where the oracle's folder lies beside it; with "base" those of the paper's size too.
golden_cases() {
    local file name
    floats=()
    bfloats=()
    for file in test/cases/*.safetensors ../shared/golden/*.safetensors; do
        name=$(basename "$file")
        [ "${1:-}" != base ] && [[ $name == *_base.* ]] && continue
        [[ $file == ../* ]] && [ -f "test/cases/$name" ] && continue
        [ -f "$file" ] || continue
        [ "$name" = finetune_loop.safetensors ] && continue # loop_test's
        case $name in
        pretrain_* | features* | finetune_* | linear_probe*) floats+=("$file") bfloats+=("$file") ;;
        audio_* | image_* | metrics*) floats+=("$file") ;;
        esac
    done
}
