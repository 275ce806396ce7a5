#!/bin/sh
# Calls that the library must not make, by the symbols its objects need: banned.sh OBJECT_DIRECTORY.
# What ends or prints for the process, what cannot be bounded, what keeps state for the whole process, what reads numbers
# as the user's locale writes them, and memory past the context's allocator. The plug-ins of media and MPI have
# no context, so they may allocate.
cd "$(dirname "$0")/../.." || exit 1
. test/count.sh
objects=${1:-build/obj}

process="exit _exit _Exit quick_exit abort __assert_fail raise signal sigaction system getenv secure_getenv setenv putenv setlocale"
print="printf vprintf puts putchar fprintf vfprintf fputs fputc perror psignal stdout stderr stdin __printf_chk __fprintf_chk
    __vprintf_chk __vfprintf_chk"
unbounded="gets strcpy strcat stpcpy sprintf vsprintf __strcpy_chk __strcat_chk __sprintf_chk __vsprintf_chk"
state="rand srand rand_r random srandom drand48 srand48 strtok strerror localtime gmtime asctime ctime"
locale="atof strtod strtof strtold"
memory="malloc calloc realloc reallocarray free aligned_alloc posix_memalign memalign strdup strndup asprintf vasprintf
    __asprintf_chk getline getdelim scandir"

pattern() { printf '%s' "$*" | tr -s ' \n' '|'; }
everywhere=$(pattern $process $print $unbounded $state $locale)
here=$(pattern $memory)

# Only objects of files that still exist: the directory may hold older ones.
for source in $(find lib kernels/host -name '*.c' | sort); do
    stem=${source%.c}
    for object in "$objects/$stem".o "$objects/$stem".baseline.o "$objects/cudasim/$stem".o; do
        [ -f "$object" ] || continue
        names="$everywhere|$here"
        case $source in lib/base/context.c | lib/media/* | lib/mpi/*) names=$everywhere ;; esac
        found=$("${NM:-nm}" -u "$object" | awk '{print $2}' | sed 's/@.*//' | grep -Ex "$names" | tr '\n' ' ')
        if [ -z "$found" ]; then good; else bad "$source calls $found"; fi
    done
done
finish banned
