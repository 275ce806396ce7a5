#!/usr/bin/env bash
# On a machine with a GPU: builds, tests, and measures beside PyTorch. run.sh [options] [PART...]
#
#   build      the library, the real plug-in for this machine's architecture, the tests
#   tests      test/cuda/run.sh on the device: operations against the CPU's, golden cases in float32 and bfloat16,
#              training, determinism, worlds of as many ranks as there are GPUs (up to 4)
#   sanitize   the programs of test/cuda under compute-sanitizer: memcheck, racecheck, synccheck
#   bench      cavmae-bench beside torch_peer.py, in turns on the same device
#   pack       (only when asked for) what the other parts need into $BUILD/gpu, to be taken to a machine that cannot
#              build: BUILD=build/gpu test/gpu/run.sh --built
#
#   --quick        smallest batches, eager PyTorch only, memcheck only
#   --built        there is nothing to build: $BUILD is as `make` or `pack` left it
#   --minutes N    measurements that would start later are left out, and named (9)
#   --device D     (cuda)
#
# PEER is torch_peer.py's path, where it does not lie in ../shared/peer or shared/peer. Writes $BUILD/gpu_report.txt: the
# machine, the counts of the tests, one table, and the JSON lines that it was made from.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build}
quick=0
built=0
minutes=9
device=cuda
while [[ ${1:-} == --* ]]; do
    case $1 in
    --quick) quick=1 ;;
    --built) built=1 ;;
    --minutes) minutes=$2; shift ;;
    --device) device=$2; shift ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
parts=" ${*:-build tests sanitize bench} "
asked() { [[ $parts == *" $1 "* ]]; }
logs=$BUILD/test/gpu
report=$BUILD/gpu_report.txt
json=$logs/results.jsonl
. test/runner.sh

# Ends with the time that a measurement may still start in.
time_left() { [ $SECONDS -lt $((minutes * 60)) ]; }
say() { echo "$*" | tee -a "$report"; }

# ---- build, pack ----

build() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
    [ "$capability" = 90 ] && capability=90a
    make -j"$(nproc)" BUILD="$BUILD" CUDA_ARCHS="$capability" all cuda cuda-test-files >"$logs/build.log" 2>&1 && return
    tail -n 30 "$logs/build.log"
    say "the build failed: $logs/build.log"
    exit 1
}

pack() {
    local to=$BUILD/gpu file
    mkdir -p "$to/bin" "$to/lib" "$to/test/cuda" "$to/libs"
    cp "$BUILD"/bin/cavmae-bench "$to/bin"
    cp -P "$BUILD"/lib/libcavmae.so* "$BUILD"/lib/libcavmae-cuda.so "$to/lib"
    cp "$BUILD"/test/golden "$BUILD"/test/*_test "$to/test"
    cp "$BUILD"/test/cuda/*_test "$to/test/cuda"
    # Libraries of packages that the other machine may lack; never the C library's own.
    ldd "$BUILD"/lib/libcavmae.so "$BUILD"/lib/libcavmae-cuda.so | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
        grep -v -e '/libc\.' -e '/libm\.' -e '/libdl\.' -e '/libpthread\.' -e '/ld-' -e '/libcuda' -e '/librt\.' |
        while read -r file; do cp -L "$file" "$to/libs"; done
    du -sh "$to"
}

# ---- tests, sanitize ----

tests() {
    local gpus
    gpus=$(nvidia-smi --list-gpus | wc -l)
    say "GPUs: $gpus; nccl_test, nccl_world_test: worlds of 1$([ "$gpus" -lt 2 ] || echo " to $((gpus < 4 ? gpus : 4))")"
    bash test/cuda/run.sh device | tee "$logs/tests.log"
    local counts
    counts=$(tail -n 1 "$logs/tests.log" | sed -n 's/^.*: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
    grep -e FAIL -e passed, "$logs/tests.log" | grep -v "^  ok" >>"$report"
}

sanitize() {
    local tools="memcheck racecheck synccheck" tool test name
    command -v compute-sanitizer >/dev/null || { say "compute-sanitizer is not there: left out"; return; }
    [ $quick = 0 ] || tools=memcheck
    for tool in $tools; do
        for test in "$BUILD"/test/cuda/*_test; do
            name=$(basename "$test")
            # Of the host's side: slow, and no other kernels. NCCL's own are looked at in memory alone.
            case $name in
            device_test | nccl_world_test | training_test) continue ;;
            nccl_test) [ "$tool" = memcheck ] || continue ;;
            esac
            time_left || { say "no time left: $tool $name"; continue; }
            run "${tool}_$name" 60 bash -c 'sanitized "$@"' "$0" "$tool" "$test" >"$logs/said"
            tee -a "$logs/sanitize.log" <"$logs/said"
            grep FAIL "$logs/said" >>"$report"
        done
    done
}

# The tool's own output comes after the program's summary: what it found is in the exit code.
sanitized() {
    local out status
    out=$logs/$1_$(basename "$2").out
    compute-sanitizer --tool "$1" --error-exitcode 99 --print-limit 5 "$2" >"$out" 2>&1
    status=$?
    cat "$out"
    grep ' passed, .* failed$' "$out" | tail -n 1
    return $status
}
export -f sanitized
export logs

# ---- bench ----

field() { sed -n "s/.*\"$2\": \"\{0,1\}\([^,\"}]*\).*/\1/p" <<<"$1"; }

# measure WHO TASK BATCH SECONDS COMMAND...: a line "TASK BATCH RATE WHO", and its JSON.
measure() {
    local who=$1 task=$2 batch=$3 limit=$4 line rate
    shift 4
    time_left || { echo "$task $batch - $who: no time left" | tee -a "$logs/measured"; return; }
    line=$(timeout "$limit" "$@" 2>"$logs/measure.err" | grep '^{' | tail -n 1)
    rate=$(field "$line" samples_per_second)
    if [ -n "$rate" ]; then
        echo "$task $batch $rate $who" | tee -a "$logs/measured"
        echo "{\"who\": \"$who\", ${line#\{}" >>"$json"
    else
        echo "$task $batch - $who: failed: $(tail -n 1 "$logs/measure.err" | cut -c1-90)" | tee -a "$logs/measured"
    fi
}

# The median of each one's runs, and how many times as fast the library is.
table() {
    sort -k1,1r -k2,2n -k4 -k3,3g "$logs/measured" | awk '
        function finish() {
            if (!runs) return
            middle = (rate[int((runs + 1) / 2)] + rate[int(runs / 2) + 1]) / 2
            if (who == "cavmae") ours = middle
            printf "%-9s %5s  %-22s %4d %11.1f %8s\n", task, batch, who, runs, middle, who == "cavmae" || !ours ? "" : sprintf("%.2f", ours / middle)
            runs = 0
        }
        BEGIN { printf "%-9s %5s  %-22s %4s %11s %8s\n", "task", "batch", "who", "runs", "samples/s", "cavmae/" }
        {
            now = $0; sub(/^[^ ]+ [^ ]+ [^ ]+ /, "", now)
            if ($1 != task || $2 != batch || now != who) finish()
            if ($1 != task || $2 != batch) ours = 0
            task = $1; batch = $2; who = now
            if ($3 == "-") printf "%-9s %5s  %s\n", task, batch, who
            else rate[++runs] = $3
        }
        END { finish() }'
}

ours() { # NAME TASK BATCH OPTION...
    local name=$1 task=$2 batch=$3
    shift 3
    measure "$name" "$task" "$batch" 60 "$BUILD/bin/cavmae-bench" --device "$device" --dtype bfloat16 --case "$task" \
        --batch "$batch" --steps 20 "$@"
}

peer() { # NAME TASK BATCH SECONDS OPTION...
    local name=$1 task=$2 batch=$3 limit=$4
    shift 4
    [ -z "$peer" ] || measure "$name" "$task" "$batch" "$limit" python3 "$peer" --device "$device" --dtype bfloat16 \
        --task "$task" --batch "$batch" --steps 20 "$@"
}

bench() {
    local task batch cases="pretrain:64 pretrain:256 pretrain:512 embed:256"
    peer=${PEER:-}
    for place in ../shared/peer shared/peer; do
        [ -n "$peer" ] || [ ! -f "$place/torch_peer.py" ] || peer=$place/torch_peer.py
    done
    if [ ! -f "$peer" ]; then
        say "torch_peer.py is not there: nothing to compare with"
        peer=
    elif ! python3 -c 'import torch; torch.zeros(1, device="cuda")' 2>/dev/null; then
        say "python3 has no torch that sees the device: nothing to compare with"
        peer=
    fi
    [ $quick = 0 ] || cases="pretrain:64 embed:64"
    export TORCHINDUCTOR_CACHE_DIR=$PWD/$BUILD/torchinductor
    : >"$logs/measured"
    : >"$json"
    # In turns, so that clocks and heat are the same for both; what takes longest last.
    for one in $cases; do
        task=${one%:*} batch=${one#*:}
        ours cavmae "$task" "$batch"
        peer "torch eager flash" "$task" "$batch" 60 --sdpa flash
        ours cavmae "$task" "$batch"
        peer "torch eager cudnn" "$task" "$batch" 60 --sdpa cudnn
    done
    [ $quick = 1 ] || for one in pretrain:512 pretrain:64 embed:256 pretrain:256; do
        task=${one%:*} batch=${one#*:}
        peer "torch compile cudnn" "$task" "$batch" 170 --compile --sdpa cudnn
        ours cavmae "$task" "$batch"
        peer "torch compile flash" "$task" "$batch" 170 --compile --sdpa flash
    done
    { echo; table; echo; cat "$json"; } | tee -a "$report"
}

# ---- All of it ----

if asked pack; then pack; exit; fi
: >"$report"
[ ! -d "$BUILD/libs" ] || export LD_LIBRARY_PATH=$PWD/$BUILD/libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
command -v nvidia-smi >/dev/null || { say "no GPU on this machine"; exit 2; }
say "$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader | head -n 1)"
[ $built = 1 ] || ! asked build || build
export CAVMAE_TEST_DEVICE=$device CAVMAE_TEST_PLUGIN_DIR=$BUILD/lib
! asked tests || tests
! asked sanitize || sanitize
! asked bench || bench
say "gpu: $passed passed, $failed failed, $SECONDS s; the report is $report"
[ "$failed" -eq 0 ]
