#!/bin/sh
# That compare.sh sees a break: nine kinds of them are planted into a small library, one at a time. Eight are seen in the
# header and the binary; the ninth, another meaning, only a program of the first version tells. What is harmless passes.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CC=${CC:-gcc}
if ! command -v abidiff >/dev/null; then
    echo "no abidiff: skipped"
    finish breaks
    exit
fi

# build FOLDER [SONAME]
build() {
    $CC -std=c11 -g -fPIC -fvisibility=hidden -shared -Wl,-soname,"${2:-libtoy.so.1}" -Wl,--version-script="$1/toy.map" \
        -o "$1/libtoy.so.1" "$1/toy.c"
}
copy() {
    rm -rf "$work/now"
    mkdir "$work/now"
    cp test/abi/toy/* "$work/now"
}
copy
try build "$work/now"
try sh test/abi/compare.sh record "$work/first" "$work/now/toy.h" "$work/now/libtoy.so.1"
try $CC -o "$work/client" test/abi/toy/toy_client.c -Itest/abi/toy "$work/now/libtoy.so.1"
# Their arguments are for messages.
check() { sh test/abi/compare.sh check "$work/first" "$work/now/toy.h" "$work/now/libtoy.so.1"; }
client() { LD_LIBRARY_PATH=$work/now "$work/client"; }
try check
try client

# plant SED...: the toy with this edit of header and source, built.
plant() {
    copy
    sed -i "$@" "$work/now/toy.h" "$work/now/toy.c"
    if cat test/abi/toy/toy.[hc] | cmp -s - "$work/now/toy.h" || diff -r test/abi/toy "$work/now" >/dev/null; then
        bad "not planted: $*"
    fi
    try build "$work/now" "${soname:-}"
}
# caught WORDS SED...; passes SED...
caught() {
    words=$1
    shift
    plant "$@"
    refuse "$words" check after "$@"
}
passes() {
    plant "$@"
    try check after "$@"
    try client after "$@"
}

# Eight kinds of break.
caught 'toy_count' -e '/toy_count/d'                                                             # a function removed
caught 'toy_put' -e 's/int32_t value/int64_t value/'                                             # an argument changed
caught 'toy_count' -e 's/int32_t toy_count/int64_t toy_count/' -e 's/(int32_t)box/box/'          # a result changed
caught 'toy_options.most: is gone' -e '/int64_t most;/d'                                         # a field removed
caught 'toy_options.most at' -e '/double scale;/{h;d};/int64_t most;/{G}'                        # fields reordered
caught 'toy_options.most at' -e 's/int64_t most;/int32_t most;/'                                 # a field shrunk
caught 'TOY_MODE_SUM 3, was TOY_MODE_SUM 1' -e 's/TOY_MODE_SUM 1/TOY_MODE_SUM 3/'                # a constant changed
soname=libtoy.so.2
caught 'SONAME' -e 's/opaque/handle/'                                                            # another soname
soname=

# More of the same kinds, each by its own way through the tools.
caught 'toy_options.extra\|toy_options.scale' -e 's/^    double scale;/    double extra, scale;/' # a field in the middle
caught 'toy_options' -e 's/int16_t low, /int16_t low, high, /'                                   # in a hole, which is not zero
caught 'toy_options' -e 's/int64_t most;/double most;/'                                          # of another type, as large
caught 'toy_options' -e 's/(void \*user, const char \*message)/(void *user, const char *message, int32_t level)/' \
    -e 's/"put")/"put", 1)/'                                                                     # a callback's argument
caught 'toy_each\|toy_sink' -e 's/toy_sink(void \*user, int32_t value)/toy_sink(void *user, int64_t value)/'
caught 'toy_options.most at' -e 's/int64_t most;/double most;/' -e 's/^} toy_options;/    int64_t added;\n&/' # beside growth
caught 'TOY_MODE_MEAN: is gone' -e 's/TOY_MODE_MEAN/TOY_MODE_AVERAGE/'                           # a constant renamed
caught 'TOY_NAME' -e 's/"toy"/"tin"/'
caught 'toy_status' -e 's/typedef int32_t toy_status/typedef int64_t toy_status/'

# The ninth: sums where the zero mode was to sum become means. No tool sees that.
plant -e 's/mode == TOY_MODE_MEAN \&\&/mode != TOY_MODE_SUM \&\&/'
try check
if client; then bad "a program of the first version does not tell another meaning"; else good; fi

# Harmless.
passes -e 's/^} toy_options;/    int64_t added;\n} toy_options;/'                                # a record grows at its end
passes -e 's/^TOY_API void toy_free.*/&\nTOY_API int32_t toy_added(void);/' \
    -e 's/^void toy_free(toy_box \*box) {.*/&\nint32_t toy_added(void) { return 1; }/' 
passes -e 's/^#define TOY_MODE_SUM 1/&\n#define TOY_MODE_MOST 7/'                                # a constant added
passes -e 's/int32_t reserved;/int32_t found;/'                                                  # what was reserved
passes -e 's/    int64_t count;/    int64_t count, opaque;/'                                     # a handle's inside
passes -e 's/int32_t value/int32_t number/' -e 's/value \*/number */'                            # a parameter's name

# Without debug information nothing is promised.
copy
$CC -std=c11 -fPIC -fvisibility=hidden -shared -Wl,-soname,libtoy.so.1 -Wl,--version-script="$work/now/toy.map" \
    -o "$work/now/libtoy.so.1" "$work/now/toy.c"
refuse 'no debug information' check
finish breaks
