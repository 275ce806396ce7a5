# For the shell tests: good and bad count, `finish NAME` prints the summary and gives the exit code. try, expect and
# refuse run a command, whose output is then in $work/out.
passed=0
failed=0

good() { passed=$((passed + 1)); }

bad() {
    failed=$((failed + 1))
    echo "$*"
}

# try COMMAND...: it succeeds.
try() {
    if "$@" >"$work/out" 2>&1; then good; else bad "failed: $*: $(cat "$work/out")"; fi
}

in_output() {
    if grep -q -e "$1" "$work/out"; then good; else bad "'$1' is not in what $2 says: $(cat "$work/out")"; fi
}

# expect WORDS COMMAND...: it succeeds, and says so.
expect() {
    words=$1
    shift
    if "$@" >"$work/out" 2>&1; then in_output "$words" "$*"; else bad "failed: $*: $(cat "$work/out")"; fi
}

# refuse WORDS COMMAND...: it fails, and says why.
refuse() {
    words=$1
    shift
    if "$@" >"$work/out" 2>&1; then bad "not refused: $*"; else in_output "$words" "$*"; fi
}

finish() {
    echo "$1: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
