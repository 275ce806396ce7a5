#!/bin/sh
# cppcheck, kept at zero: cppcheck.sh COMPILER_FLAGS (only -I and -D are used). What is suppressed says why.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
flags=""
for flag in "$@"; do
    case $flag in -I* | -D*) flags="$flags $flag" ;; esac
done
if cppcheck --quiet --std=c11 --platform=unix64 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    --suppressions-list=test/lint/cppcheck.supp -DCAVMAE_PLUGIN_DIR='""' -DCAVMAE_ISA=baseline $flags -Ikernels -Ikernels/host lib kernels/host; then
    good
else
    bad "cppcheck has complaints"
fi
finish cppcheck
