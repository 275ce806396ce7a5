#!/bin/sh
# cavmae.hpp: it compiles without a warning everywhere, has every function of the library, and its tests and its example
# run, plain, under AddressSanitizer and under valgrind, with whichever C++ compilers there are.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
lib=$(cd "$BUILD/lib" && pwd) || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict="-Wall -Wextra -Wshadow -Wpedantic -Wcast-qual -Werror -Iinclude -Ibindings/cpp"
link="-pthread -L$lib -lcavmae -Wl,-rpath,$lib"
clip=../shared/media/00W1lcxW-WU_40.000.mp4

compilers=""
for compiler in g++ clang++; do
    command -v $compiler >/dev/null && compilers="$compilers $compiler"
done
if [ -z "$compilers" ]; then
    echo "no C++ compiler: skipped"
    finish cpp
    exit
fi

# Two files of one program, one with exceptions and one without.
printf '#include <cavmae.hpp>\nint other();\nint main() { return other(); }\n' >"$work/one.cpp"
printf '#include <cavmae.hpp>\nint other();\nint other() { return 0; }\n' >"$work/other.cpp"
for compiler in $compilers; do
    for standard in c++17 c++20; do
        for way in "" -DCAVMAE_NO_EXCEPTIONS -fno-exceptions; do
            try $compiler -std=$standard $strict $way -fsyntax-only "$work/one.cpp"
        done
    done
    try $compiler -std=c++17 $strict -c -o "$work/one.o" "$work/one.cpp"
    try $compiler -std=c++20 $strict -fno-exceptions -c -o "$work/other.o" "$work/other.cpp"
    try $compiler -o "$work/both" "$work/one.o" "$work/other.o" $link
    try "$work/both"
done

missing=""
for name in $(sed 's/ .*//' test/abi/symbols.txt); do
    grep -qw "$name" bindings/cpp/cavmae.hpp || missing="$missing $name"
done
if [ -z "$missing" ]; then good; else bad "cavmae.hpp does not reach$missing"; fi

# run COMMAND...: a test, whose counts are ours.
run() {
    "$@" >"$work/out" 2>&1
    status=$?
    counts=$(sed -n 's/^.*_test: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/out")
    passed=$((passed + ${counts% *} + 0)) failed=$((failed + ${counts#* } + 0))
    if [ $status -eq 0 ] && [ -n "$counts" ]; then good; else bad "failed: $*: $(cat "$work/out")"; fi
}

sanitize="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
first=${compilers# }
first=${first%% *}
last=${compilers##* }
for test in cpp_test cpp_train_test; do
    try $first -std=c++17 $strict $sanitize -o "$work/$test" test/cpp/$test.cpp $link
    run "$work/$test"
    try $last -std=c++20 $strict -g -o "$work/$test" test/cpp/$test.cpp $link
    run "$work/$test"
    if command -v valgrind >/dev/null; then run valgrind -q --error-exitcode=9 --leak-check=full "$work/$test"; fi
done
try $first -std=c++20 $strict $sanitize -fno-exceptions -o "$work/cpp_status_test" test/cpp/cpp_status_test.cpp $link
run "$work/cpp_status_test"
try $last -std=c++17 $strict -o "$work/cpp_status_test" test/cpp/cpp_status_test.cpp $link
run "$work/cpp_status_test"

# The example, on a model as small as can be.
try $first -std=c++17 $strict -o "$work/embed" bindings/cpp/examples/embed.cpp $link
refuse usage "$work/embed"
refuse "no-such-model" "$work/embed" "$work/no-such-model" clip
if [ -f "$clip" ] && [ -x "$BUILD/bin/cavmae-scenes" ] && [ -x "$BUILD/bin/cavmae-pretrain" ]; then
    try "$BUILD/bin/cavmae-scenes" --clips 8 --seed 1 --out "$work/clips"
    try "$BUILD/bin/cavmae-pretrain" --data "$work/clips/train.json" --out "$work/run" --preset tiny --threads 2 \
        --set modality_depth=0 batch=2 epochs=1 loader_threads=1
    expect 'cosine -\{0,1\}0\.[0-9]*$' "$work/embed" "$work/run/model.safetensors" "$clip"
    if command -v valgrind >/dev/null; then
        expect 'cosine' valgrind -q --error-exitcode=9 --leak-check=full "$work/embed" "$work/run/model.safetensors" "$clip"
    fi
    refuse "no-such-clip" "$work/embed" "$work/run/model.safetensors" "$work/no-such-clip"
fi
finish cpp
