#!/bin/sh
# Installs the Debian packages that are missing: setup.sh build | check. Quick when none is.
set -eu

build="gcc make pkg-config binutils libc6-dev zlib1g-dev libsamplerate0-dev libavformat-dev libavcodec-dev
    libavutil-dev libswscale-dev libjpeg-dev libpng-dev"
[ -n "${WITHOUT_ONEDNN:-}" ] || build="$build libdnnl-dev"
check="g++ clang-format cppcheck cmake abigail-tools valgrind python3-numpy python3-pytest python3-matplotlib
    python3-pip mypy ffmpeg cmark-gfm groff-base debhelper dh-python pybuild-plugin-pyproject chrpath lintian"
# Any MPI will do.
command -v mpicc >/dev/null && command -v mpirun >/dev/null || check="$check libopenmpi-dev openmpi-bin"

case "${1:-}" in
build) wanted=$build ;;
check) wanted=$check ;;
*) echo "usage: setup.sh build|check" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "setup: not a Debian system; the packages for '$1' are up to you: $(echo $wanted)"
    exit 0
fi

# dpkg-query fails for what it does not know; only what is installed matters here, under its own or a provided name.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Provides}\n' $wanted 2>/dev/null |
    sed -n 's/^installed //p' | tr ' ,' '\n\n')
missing=""
for package in $wanted; do
    echo "$installed" | grep -qxF -- "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    root="sudo -n"
else
    echo "setup: packages are missing, and installing them needs root. Run:" >&2
    echo "    apt-get install$missing" >&2
    exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
$root apt-get install -y -qq --no-install-recommends $missing
