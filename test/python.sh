#!/bin/sh
# The Python package on the library that was built, with warnings as errors; skipped where NumPy or pytest are missing.
# Arguments are pytest's. PRELOAD: the runtime that a sanitizer's library wants to come first.
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
PYTHON=${PYTHON:-/usr/bin/python3}
[ -x "$PYTHON" ] || PYTHON=python3
if ! "$PYTHON" -c 'import numpy, pytest' 2>/dev/null; then
    echo "skipped: $PYTHON has no NumPy or no pytest"
    echo "python: 0 passed, 0 failed"
    exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
CAVMAE_LIBRARY=$(cd "$BUILD/lib" && pwd)/libcavmae.so.1
export CAVMAE_LIBRARY PYTHONDONTWRITEBYTECODE=1
LD_PRELOAD=${PRELOAD:-} "$PYTHON" -X dev -W error -m pytest -q -p no:cacheprovider --tb=short "$@" bindings/python/tests \
    >"$log" 2>&1
status=$?
cat "$log"

# "1 failed, 200 passed, 2 skipped, 1 error in 20.00s"; none of these where pytest itself failed.
count() { tail -n 1 "$log" | sed -n "s/.*\b\([0-9][0-9]*\) $1.*/\1/p"; }
passed=$(count passed)
failed=$(count failed)
errors=$(count error)
failed=$((${failed:-0} + ${errors:-0}))
[ $status -eq 0 ] || [ $failed -gt 0 ] || failed=1
echo "python: ${passed:-0} passed, $failed failed"
[ $failed -eq 0 ]
