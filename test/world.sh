#!/usr/bin/env bash
# Several ranks of the programs, over TCP, a file and MPI: what they train is what one process trains; ranks that meet
# between machines (network namespaces); ranks that are interrupted, fail, or are killed at any moment.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
build=$(realpath "${BUILD:-build}")
bin=$build/bin
rendezvous=$build/test/programs/rendezvous_test
work=$(mktemp -d)
spaces=()
trap 'for s in "${spaces[@]}"; do ip netns del "$s" 2>/dev/null; done; rm -rf "$work"' EXIT
seed=${SEED:-$RANDOM}
RANDOM=$seed

# ranks N COMMAND...: N of them; their pids, and what they say in $work/rank.R.
ranks() {
    size=$1
    shift
    pids=()
    for ((r = 0; r < size; r++)); do
        RANK=$r WORLD_SIZE=$size MASTER_ADDR=${address:-127.0.0.1} MASTER_PORT=$port LOCAL_RANK=$r \
            "$@" >"$work/rank.$r" 2>&1 &
        pids+=($!)
    done
}

# await CODE...: each rank ends with its code.
await() {
    local r code
    for ((r = 0; r < size; r++)); do
        wait "${pids[r]}"
        code=$?
        if [ "$code" -eq "$1" ]; then good; else bad "rank $r ended with $code, not $1: $(cat "$work/rank.$r")"; fi
        [ $# -eq 1 ] || shift
    done
}

# said WORDS RANK...
said() {
    local words=$1 r
    shift
    for r; do
        if grep -q -e "$words" "$work/rank.$r"; then good; else bad "rank $r does not say '$words': $(cat "$work/rank.$r")"; fi
    done
}

# alike A B [COLUMNS]: CSV files whose numbers are the same to a relative 1e-5.
alike() {
    if paste -d, "$1" "$2" | awk -F, -v least="$3" '
        NR > 1 {
            if (NF % 2 || NF < 2 * least) exit 1
            for (i = 1; i <= NF / 2; i++) {
                a = $i + 0; b = $(i + NF / 2) + 0; d = a > b ? a - b : b - a
                if (d > 1e-5 * (a < 0 ? -a : a) + 1e-9) { print "line " NR ": " $i " and " $(i + NF / 2); bad = 1; exit 1 }
            }
        }
        END { exit bad || NR < 2 }'; then good; else bad "$1 and $2 differ"; fi
}

same() { # A B...
    local first=$1
    shift
    for other; do if cmp -s "$first" "$other"; then good; else bad "$first and $other differ"; fi; done
}

port=$("$rendezvous" port)
train=$work/clips/train.json
val=$work/clips/val.json
small=(audio_frames=64 mel_bins=32 image_size=48 resampler=fastest batch=8 loader_threads=1 contrast_scope=global
    drop_last=0 contrast_weight=1 lr=1e-3)
pretrain=("$bin/cavmae-pretrain" --data "$train" --preset tiny --threads 1)
try "$bin/cavmae-scenes" --clips 22 --val 7 --seed 1 --out "$work/clips"

# ---- What is trained ----

steps=("${pretrain[@]}" --val "$val" --set "${small[@]}" epochs=3)
try "${steps[@]}" --out "$work/one"

ranks 3 "${steps[@]}" --out "$work/three" --world auto
await 0
said "^3 ranks, over tcp$" 0
for r in 1 2; do if [ -s "$work/rank.$r" ]; then bad "rank $r talks: $(cat "$work/rank.$r")"; else good; fi; done
alike "$work/one/losses.csv" "$work/three/losses.csv" 9
alike "$work/one/val.csv" "$work/three/val.csv" 6
files=$(ls "$work/three" | tr '\n' ' ')
if [ "$files" = "checkpoint.safetensors losses.csv model.safetensors val.csv " ]; then good; else bad "in the folder: $files"; fi

# By a file, and IPv6: the same world gives the same bits.
address=nowhere.invalid ranks 3 "${steps[@]}" --out "$work/file" --world tcp --rendezvous "file:$work/meeting"
await 0
CAVMAE_RENDEZVOUS="[::1]:$((port + 1))" ranks 3 "${steps[@]}" --out "$work/six" --world tcp
await 0
same "$work/three/model.safetensors" "$work/file/model.safetensors" "$work/six/model.safetensors"
if [ -e "$work/meeting" ]; then bad "the file of the rendezvous is left"; else good; fi

# More ranks than the last batch has clips.
ranks 8 "${steps[@]}" --out "$work/eight" --world auto
await 0
alike "$work/one/losses.csv" "$work/eight/losses.csv" 9

# Fine-tuning: validation covers every clip once. A probe's features, too.
finetune=("$bin/cavmae-finetune" --model "$work/one/model.safetensors" --data "$train" --labels "$work/clips/labels.csv"
    --val "$val" --threads 1)
tune=("${finetune[@]}" --recipe finetune-vggsound --average
    --set epochs=2 batch=8 drop_last=0 average_from=1 freq_mask=8 time_mask=16 balanced=0)
probe=("${finetune[@]}" --probe --set epochs=3 batch=5 drop_last=0 loss=ce lr=1e-2)
try "${tune[@]}" --out "$work/tune1"
try "${probe[@]}" --out "$work/probe1"
for kind in tune probe; do
    declare -n command=$kind
    ranks 3 "${command[@]}" --out "$work/${kind}3" --world auto
    await 0
    alike "$work/${kind}1/losses.csv" "$work/${kind}3/losses.csv" 6
    alike "$work/${kind}1/val.csv" "$work/${kind}3/val.csv" 8
done
if [ -s "$work/tune3/model-average.safetensors" ]; then good; else bad "no average"; fi

if command -v mpirun >/dev/null && [ -e "$build/lib/libcavmae-mpi.so" ]; then
    mpi=(env -u RANK OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
        timeout -k 5 100 mpirun -np 2)
    expect "2 ranks, over mpi" "${mpi[@]}" "${steps[@]}" --out "$work/mpi" --world auto
    alike "$work/one/losses.csv" "$work/mpi/losses.csv" 9
    alike "$work/one/val.csv" "$work/mpi/val.csv" 6
else
    echo "no mpirun, or no plug-in: worlds over MPI are not tried"
fi

# ---- Other machines ----

# Two namespaces with addresses of their own.
between_machines() {
    local a=cavmae-$$-a b=cavmae-$$-b place name
    if ! ip netns add "$a" 2>/dev/null; then
        echo "no network namespaces (root and iproute2): machines with addresses of their own are not tried"
        return
    fi
    spaces=("$a" "$b")
    ip netns add "$b"
    ip -n "$a" link add veth0 type veth peer name veth0 netns "$b"
    for name in "$a 1" "$b 2"; do
        set -- $name
        ip -n "$1" addr add "10.97.31.$2/24" dev veth0
        ip -n "$1" addr add "fd97:31::$2/64" dev veth0 nodad
        ip -n "$1" link set lo up
        ip -n "$1" link set veth0 up
    done
    for place in 10.97.31.1 fd97:31::1 "file:$work/between"; do
        pids=()
        size=3
        for r in 2 0 1; do # rank 0 is with one other on the first machine
            ip netns exec "${spaces[r / 2]}" timeout 30 "$rendezvous" meet "$r" 3 "$place" 20011 20 >"$work/rank.$r" 2>&1 &
            pids[r]=$!
        done
        await 0
        said "something to all" 0 1 2
    done
    # late: rank 0 an instant after the others; missing; a duplicate and a stranger before the last one comes
    ip netns exec "$b" "$rendezvous" meet 1 2 10.97.31.1 20012 20 >"$work/rank.1" 2>&1 &
    pids=(0 $!)
    sleep 0.7
    ip netns exec "$a" "$rendezvous" meet 0 2 10.97.31.1 20012 20 >"$work/rank.0" 2>&1 &
    pids[0]=$! size=2
    await 0
    for r in 0 1; do
        ip netns exec "${spaces[r]}" "$rendezvous" meet $r 3 fd97:31::1 20013 2 >"$work/rank.$r" 2>&1 &
        pids[r]=$!
    done
    await 1
    said "rank 2 of 3 did not come within 2 s" 0 1
    for r in 0 1; do
        ip netns exec "${spaces[r]}" "$rendezvous" meet $r 3 fd97:31::1 20014 20 >"$work/rank.$r" 2>&1 &
        pids[r]=$!
    done
    ip netns exec "$b" "$rendezvous" meet 3 4 fd97:31::1 20014 20 >"$work/out" 2>&1
    in_output "it is rank 3 of 4, and this is a world of 3" "a rank of another world"
    size=3
    ip netns exec "$b" "$rendezvous" meet 1 3 fd97:31::1 20014 20 >"$work/out" 2>&1 &
    local second=$!
    wait -n "${pids[1]}" $second # one of the two is sent away
    cat "$work/out" "$work/rank.1" >"$work/both"
    if grep -q "rank 1 is there already" "$work/both"; then good; else bad "no duplicate: $(cat "$work/both")"; fi
    ip netns exec "$b" "$rendezvous" meet 2 3 fd97:31::1 20014 20 >"$work/rank.2" 2>&1 &
    pids[2]=$!
    wait "${pids[1]}" $second
    pids[1]=${pids[0]}
    await 0
    said "something to all" 0 2
}
between_machines

# ---- Ranks that stop ----

long=("${pretrain[@]}" --world auto --timeout 4 --set "${small[@]}" epochs=60 checkpoint_steps=5)
ranks 3 "${long[@]}" --out "$work/whole"
await 0
steps_of() { tail -n 1 "$1/losses.csv" 2>/dev/null | cut -d, -f1; }

# goes_on FOLDER: resumed, it becomes what was never interrupted.
goes_on() {
    local there
    there=$(ls "$1/checkpoint.safetensors" 2>/dev/null)
    ranks 3 "${long[@]}" --out "$1" --resume
    await 0
    [ -z "$there" ] || said "going on from $there, after [0-9]* updates" 0
    same "$work/whole/losses.csv" "$1/losses.csv"
    same "$work/whole/model.safetensors" "$1/model.safetensors"
}

# wait_for_steps FOLDER: until it has begun.
wait_for_steps() { for ((i = 0; i < 1000; i++)); do [ "$(steps_of "$1")" -ge 3 ] 2>/dev/null && return; sleep 0.01; done; }

# One rank is interrupted, and all end after the same step.
ranks 3 "${long[@]}" --out "$work/stopped"
wait_for_steps "$work/stopped"
kill -TERM "${pids[2]}"
await 130
said "interrupted; --resume goes on" 0
goes_on "$work/stopped"

# A rank that fails says why to all, and a rank that does something else is named.
unlike() { ranks 3 sh -c 'last=$1; shift; [ "$RANK" != 1 ] || set -- "$@" "$last"; exec "$@"' sh "$@"; }
unlike lr=2e-3 "${long[@]}" --out "$work/unlike" --set epochs=1
await 1
said "key lr is '0.002' on rank 1 and '0.001' on rank 0" 0 1 2
unlike noise=many "${long[@]}" --out "$work/unlike" --set epochs=1
await 1
said "noise" 1
said "rank 1" 0 2
ranks 3 "${long[@]}" --out "$work/whole"
await 1
said "holds a run already: give --resume" 0 1 2

# A rank that hangs: the others end when the time is up, and say who is behind.
ranks 3 "${long[@]}" --out "$work/hanging" --timeout 2
wait_for_steps "$work/hanging"
kill -STOP "${pids[1]}"
for r in 0 2; do
    wait "${pids[r]}"
    code=$?
    if [ $code -eq 1 ]; then good; else bad "rank $r ended with $code"; fi
    said "rank 1" $r
done
kill -9 "${pids[1]}"
wait "${pids[1]}" 2>/dev/null

# kill -9, 20 times at any moment: the others end soon, and say whom they miss; what is left goes on.
killed=$work/killed
for ((n = 0; n < 20; n++)); do
    ranks 3 "${long[@]}" --out "$killed" --resume
    victim=$((RANDOM % 3))
    sleep "0.$(printf %03d $((RANDOM % 500)))"
    if ! kill -9 "${pids[victim]}" 2>/dev/null; then # done before
        await 0
        same "$work/whole/model.safetensors" "$killed/model.safetensors"
        rm -rf "$killed"
        continue
    fi
    began=${EPOCHREALTIME/./}
    codes=(1 1 1)
    codes[victim]=137
    await "${codes[@]}"
    spent=$(((${EPOCHREALTIME/./} - began) / 1000))
    if [ $spent -lt 6000 ]; then good; else bad "the others of rank $victim took $spent ms to end"; fi
    for r in 0 1 2; do [ $r = $victim ] || said "rank $victim" $r; done
done 2>/dev/null # the shell tells of what is killed
goes_on "$killed"
files=$(ls "$killed" | tr '\n' ' ')
if [ "$files" = "checkpoint.safetensors losses.csv model.safetensors " ]; then good; else bad "in the folder: $files"; fi
[ "$failed" -eq 0 ] || echo "SEED=$seed"
finish world
