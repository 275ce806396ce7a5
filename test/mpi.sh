#!/usr/bin/env bash
# The MPI plug-in under mpirun: its record, and worlds over it.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
record="$BUILD/test/mpi_record $BUILD/lib/libcavmae-mpi.so"
worlds=$BUILD/test/mpi_worlds
if ! command -v mpirun >/dev/null; then
    echo "no mpirun: the MPI plug-in is not tried"
    finish mpi
    exit
fi

# Open MPI starts nothing as root, and no more ranks than there are processors, unless told.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none

# ranks SIZE SUMMARIES COMMAND...: so many of its ranks come to their end and print what they counted. mpirun's own status
# says nothing: ranks that were left alone leave MPI as it is, which it does not like.
ranks() {
    local size=$1 wanted=$2 sums
    shift 2
    timeout -k 5 60 mpirun -np "$size" "$@" >"$work/out" 2>&1
    sums=$(sed -n 's/^[a-z]*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/out" |
        awk '{ good += $1; bad += $2 } END { print NR, good + 0, bad + 0 }')
    read -r lines more_passed more_failed <<<"$sums"
    passed=$((passed + more_passed))
    failed=$((failed + more_failed))
    if [ "$lines" -eq "$wanted" ]; then good; else bad "$lines of $wanted ranks came to an end:"; fi
    if [ "$lines" -ne "$wanted" ] || [ "$more_failed" -ne 0 ]; then sed "s|^|  $size x $*: |" "$work/out"; fi
}

for size in 1 2 3 4; do ranks $size $size $record all; done
ranks 2 2 $record closed
ranks 2 1 $record abort
ranks 2 1 $record error

for size in 1 2 3; do ranks $size $size "$worlds" calls; done
ranks 2 2 "$worlds" own
ranks 2 2 "$worlds" single
ranks 4 4 "$worlds" split
ranks 2 2 "$worlds" two
ranks 3 3 "$worlds" fail
ranks 2 1 "$worlds" late

# Training: ranks against one process with the whole batch; rank 0 tells of all.
export CAVMAE_TEST_WORLD=mpi CAVMAE_TEST_PLUGIN_DIR=$BUILD/lib
for size in 2 4; do
    timeout -k 5 100 mpirun -np $size "$BUILD/test/world_training_test" >"$work/out" 2>&1
    status=$?
    read -r more_passed more_failed <<<"$(sed -n 's/^world_training over MPI: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/out")"
    passed=$((passed + ${more_passed:-0}))
    failed=$((failed + ${more_failed:-0}))
    if [ $status -eq 0 ] && [ "${more_passed:-0}" -gt 0 ]; then good; else bad "training in $size ranks: $(cat "$work/out")"; fi
done

# A rank that dies takes the others with it.
timeout -k 5 30 mpirun -np 3 $record exit >"$work/out" 2>&1
status=$?
if [ $status -ne 0 ] && [ $status -ne 124 ]; then good; else bad "a rank died; mpirun gave $status: $(cat "$work/out")"; fi

finish mpi
