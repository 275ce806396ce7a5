#!/bin/sh
# constants.sh HEADER: what a header's numbers are, most of which no debug information tells: every constant with its value,
# every record with its size, every field with its place, its size and its type; one a line.
set -eu
header=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CC=${CC:-gcc}

# Constants: every name with a value but versions, which change, and what is for the compiler.
sed -n 's/^#define \([A-Z][A-Z0-9_]*\) .*/\1/p' "$header" | grep -v -e '_API$' -e '_CHECKED$' -e '_VERSION_' >"$work/names"
# Fields: of "typedef struct NAME { ... } NAME;", without comments. A callback's name stands in "(*name)".
"$CC" -E -P "$header" | awk '
    function show(record, name, type) {
        gsub(/ /, "", name)
        gsub(/ +/, " ", type)
        sub(/^ /, "", type)
        sub(/ $/, "", type)
        print record "." name "\t" type
    }
    # A callback, without its parameters names.
    function nameless(declaration, parts, count, i, text) {
        count = split(declaration, parts, /[,)]/)
        text = parts[1] ")"
        for (i = 2; i < count; i++) {
            if (parts[i] ~ /[ *][a-z_0-9]+ *$/ && parts[i] !~ /^[( ]*[a-z_0-9]+ *$/) sub(/[a-z_0-9]+ *$/, "", parts[i])
            sub(/ *$/, "", parts[i])
            text = text parts[i] (i < count - 1 ? "," : ")")
        }
        return text
    }
    { text = text " " $0 }
    END {
        count = split(text, parts, /typedef struct /)
        for (i = 2; i <= count; i++) {
            end = index(parts[i], "}")
            if (!match(parts[i], /^[a-z_0-9]+ *\{/) || !end) continue
            record = substr(parts[i], 1, RLENGTH - 1)
            gsub(/ /, "", record)
            print record
            fields = split(substr(parts[i], RLENGTH + 1, end - RLENGTH - 1), declarations, ";")
            for (j = 1; j <= fields; j++) {
                declaration = declarations[j]
                if (match(declaration, /\( *\* *[a-z_0-9]+ *\)/)) {
                    name = substr(declaration, RSTART, RLENGTH)
                    gsub(/[^a-z_0-9]/, "", name)
                    sub(/\( *\* *[a-z_0-9]+ *\)/, "(*)", declaration)
                    show(record, name, nameless(declaration))
                    continue
                }
                names = split(declaration, list, ",")
                for (k = 1; k <= names; k++) {
                    array = match(list[k], /\[.*/) ? substr(list[k], RSTART) : ""
                    sub(/\[.*/, "", list[k])
                    if (!match(list[k], /[a-z_0-9]+ *$/)) continue
                    name = substr(list[k], RSTART, RLENGTH)
                    type = substr(list[k], 1, RSTART - 1)
                    if (k == 1) {
                        first = type
                        sub(/[ *]*$/, "", first)
                    } else
                        type = first " " type
                    show(record, name, type array)
                }
            }
        }
    }' >"$work/places"

{
    cat <<'END'
#include <stdio.h>
#define NUMBER(name) _Generic((name), char *: 0, default: (name))
#define TEXT(name) _Generic((name), char *: (name), default: NULL)
static void show(const char *name, long long number, const char *text) {
    if (text) printf("%s \"%s\"\n", name, text); else printf("%s %lld\n", name, number);
}
int main(void) {
END
    sed 's/.*/    show("&", NUMBER(&), TEXT(&));/' "$work/names"
    sed -e 's/^\([a-z_0-9]*\)\.\(.*\)	\(.*\)$/    printf("\1.\2 at %zu, %zu bytes: \3\\n", offsetof(\1, \2), sizeof ((\1 *)NULL)->\2);/' \
        -e 's/^\([a-z_0-9]*\)$/    printf("\1 %zu bytes\\n", sizeof(\1));/' "$work/places"
    echo '    return 0; }'
} >"$work/main"
cat "$header" "$work/main" >"$work/numbers.c"
$CC -w -o "$work/numbers" "$work/numbers.c"
"$work/numbers"
