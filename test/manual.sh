#!/bin/sh
# The manual is made anew and has all that there is: each exported function, constant, key and field, each program's
# options; links that lead somewhere, man pages without warnings. What there is is not asked of the manual's own reader.
cd "$(dirname "$0")/.." || exit 1
. test/count.sh
BUILD=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8
if ! command -v cmark-gfm >/dev/null || ! command -v python3 >/dev/null || ! command -v groff >/dev/null; then
    echo "cmark-gfm, python3 or groff is missing: the manual is not tested"
    finish manual
    exit
fi
if ! make --no-print-directory manual BUILD="$BUILD" >"$work/out" 2>&1; then
    bad "make manual: $(cat "$work/out")"
    finish manual
    exit 1
fi
html=$BUILD/manual/html
man=$BUILD/manual/man

# every LIST IN WORDS: each line of LIST is a line of the file IN.
every() {
    sort -u "$1" >"$work/wanted"
    sort -u "$2" >"$work/there"
    lacking=$(comm -23 "$work/wanted" "$work/there" | tr '\n' ' ')
    if [ -s "$work/wanted" ] && [ -z "$lacking" ]; then good; else bad "$3: $lacking"; fi
}

# ---- What there is ----

sed 's/ .*//' test/abi/symbols.txt >"$work/functions"
sed -n 's/^#define \(CAVMAE_[A-Z0-9_]*\) .*/\1/p' include/cavmae.h |
    grep -v -e '_API$' -e '_CHECKED$' >"$work/constants"
sh test/abi/constants.sh include/cavmae.h | sed -n 's/^\(cavmae_[a-z0-9_.]*\) .*/\1/p' >"$work/fields"
"$BUILD/bin/cavmae-info" --keys | sed 's/ .*//' >"$work/keys"

# ---- For a browser ----

python3 -B test/manual/links.py --anchors "$html" >"$work/anchors"
grep '^api-' "$work/anchors" | sed 's/.*#//' >"$work/names"
every "$work/functions" "$work/names" "functions without an entry"
every "$work/constants" "$work/names" "constants without an entry"
every "$work/fields" "$work/names" "records and fields without an entry"
tr '>' '\n' <"$html/names.html" | sed -n 's/<\/a$//p' >"$work/indexed"
every "$work/keys" "$work/indexed" "keys that are not in the index"
every "$work/functions" "$work/indexed" "functions that are not in the index"
faults=$(python3 -B test/manual/links.py "$html")
if [ -z "$faults" ]; then good; else bad "$faults"; fi
for page in README.md docs/*.md examples/README.md bindings/python/README.md; do
    title=$(sed -n 's/^# //p' "$page" | head -n 1 | tr -d '`')
    file=$(grep -lF -e ">$title</h1>" "$html"/*.html | head -n 1)
    if grep -qF "href=\"${file##*/}\"" "$html/index.html"; then good; else bad "index.html does not lead to $page"; fi
done

# ---- For man ----

page_of() { # NAME: the file that its page is, or leads to
    target=$(sed -n 's/^\.so //p' "$man/man3/$1.3" 2>/dev/null)
    echo "$man/${target:-man3/$1.3}"
}
for function in $(cat "$work/functions"); do
    page=$(page_of "$function")
    if grep -q "^$function[, ]\|, $function[, ]" "$page" 2>/dev/null && grep -q "[ *]$function(" "$page"; then
        good
    else
        bad "no man page names and declares $function"
    fi
done
cat "$man"/man3/*.3 | sed 's/\\-/-/g; s/\\f[BIPR]//g' >"$work/pages"
grep -o 'CAVMAE_[A-Z0-9_]* = ' "$work/pages" | sed 's/ = //' >"$work/names"
every "$work/constants" "$work/names" "constants that no man page describes"
sed -n 's/^CAVMAE_P_.*, key //p' "$work/pages" >"$work/names"
every "$work/keys" "$work/names" "keys that no man page describes"
lacking=
for field in $(grep -F . "$work/fields"); do
    page=$(page_of "${field%.*}")
    sed -n '/^\.SH FIELDS/,/^\.SH SEE/p' "$page" 2>/dev/null | sed 's/\\f[BIPR]//g' |
        grep -q "[ *(]${field#*.}[][0-9]*[,;)]" || lacking="$lacking $field"
done
if [ -z "$lacking" ]; then good; else bad "fields that no man page describes:$lacking"; fi
for page in "$man"/man?/*; do
    target=$(sed -n 's/^\.so //p' "$page")
    if [ -n "$target" ]; then
        [ -f "$man/$target" ] || bad "$page leads to $target, which is not there"
    else
        groff -ww -man -Tutf8 -z "$page" >>"$work/warnings" 2>&1
    fi
done
if [ -s "$work/warnings" ]; then bad "$(head "$work/warnings")"; else good; fi
# What pages name in SEE ALSO and elsewhere.
cat "$work/pages" "$man"/man1/* | sed 's/\\-/-/g' |
    sed -n 's/^\.BR \(cavmae[a-z0-9_-]*\) (\([13]\)).*/man\2\/\1.\2/p' >"$work/named"
(cd "$man" && ls man1/* man3/*) >"$work/files"
every "$work/named" "$work/files" "man pages that are named, but not there"

# ---- Programs ----

for program in "$BUILD"/bin/cavmae-*; do
    name=${program##*/}
    "$program" --help | sed -n 's/^  \(-[a-z-]*\).*/\1/p' >"$work/options"
    sed 's/\\-/-/g; s/\\f[BIPR]//g' "$man/man1/$name.1" 2>/dev/null | sed -n 's/^\(-[a-z-]*\).*/\1/p' >"$work/names"
    every "$work/options" "$work/names" "options of $name without a place in its man page"
    sed -n "s/^programs.html#$name\(-[a-z-]*\)$/\1/p" "$work/anchors" >"$work/names"
    every "$work/options" "$work/names" "options of $name without a place in programs.html"
done

# ---- The pages in Markdown ----

for page in README.md CHANGELOG.md docs/*.md examples/README.md bindings/python/README.md; do
    missing=
    links=$(sed '/^```/,/^```$/d' "$page" | grep -o '](\([^)# ]*\)' | sed 's/](//' | grep -v '^[a-z]*:' | sort -u)
    for link in $links; do
        [ -e "$(dirname "$page")/$link" ] || missing="$missing $link"
    done
    if [ -z "$missing" ]; then good; else bad "$page links to what is not there:$missing"; fi
done

# ---- Installing ----

try make --no-print-directory install BUILD="$BUILD" DESTDIR="$work/root"
mandir=$(find "$work/root" -name man -type d)
try diff -r "$man" "$mandir"
try make --no-print-directory uninstall BUILD="$BUILD" DESTDIR="$work/root"
left=$(find "$work/root" -path '*/man/*' ! -type d)
if [ -z "$left" ]; then good; else bad "uninstall left $left"; fi
finish manual
