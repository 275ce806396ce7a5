# For the shell tests: good and bad count, `finish NAME` prints the summary and gives the exit code.
passed=0
failed=0

good() { passed=$((passed + 1)); }

bad() {
    failed=$((failed + 1))
    echo "$*"
}

finish() {
    echo "$1: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
