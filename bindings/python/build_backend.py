"""Builds the package (PEP 517, 660) with nothing but Python: pip calls the functions here.

The library comes into the package, as cavmae/lib/libcavmae.so.1 with its plug-ins beside it: from where CAVMAE_LIBRARY
says (the file, or its folder), or by `make` in the clone that this folder is part of. CAVMAE_LIBRARY=system: it stays
outside, and the system's is used.

    python3 build_backend.py wheel FOLDER

makes a wheel for other machines with glibc: the library without oneDNN, with the libraries that it needs beside it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PACKAGE = HERE / "cavmae"
LIBRARY, PLUGINS = "libcavmae.so.1", "libcavmae-*.so"
# What every machine with glibc has.
EVERYWHERE = re.compile(r"(lib(c|m|dl|rt|pthread|util|gcc_s)\.so\.\d+|ld-linux.*|linux-vdso.*)$")


def version() -> str:
    found = re.search(r'^__version__ = "(.*)"$', (PACKAGE / "__init__.py").read_text(), flags=re.M)
    assert found
    return found.group(1)


# ---- The library


def make(build: Path, *more: str) -> Path:
    """The folder with a library that was built just now. more: targets, variables."""
    if not (REPOSITORY / "Makefile").exists():
        raise SystemExit(
            f"cavmae: {HERE} is not in a clone of libcavmae: set CAVMAE_LIBRARY to the path of {LIBRARY}, "
            "or to 'system' for the system's"
        )
    folder = build / "lib"
    targets = [str(folder / LIBRARY), str(folder / "libcavmae-media.so")]
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    # To stderr: pip keeps stdout for itself.
    command = ["make", "-C", str(REPOSITORY), jobs, f"BUILD={build}", *targets, *more]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


def find_library() -> Path | None:
    """The folder to take it from; None: the package has none."""
    named = os.environ.get("CAVMAE_LIBRARY")
    if named == "system":
        return None
    if not named:
        build = Path(os.environ.get("BUILD", "build"))
        folder = make(build if build.is_absolute() else REPOSITORY / build)
        try:  # plug-ins, where this machine has what they need
            make(build if build.is_absolute() else REPOSITORY / build, "cuda", "mpi")
        except subprocess.CalledProcessError:
            print("cavmae: built without a plug-in for CUDA or MPI, see above", file=sys.stderr)
        return folder
    path = Path(named).resolve()
    folder = path if path.is_dir() else path.parent
    if not (folder / LIBRARY).exists():
        raise SystemExit(f"cavmae: CAVMAE_LIBRARY is {named}, and there is no {LIBRARY}")
    return folder


def library_files(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    return {path.name: path.resolve() for path in [folder / LIBRARY, *sorted(folder.glob(PLUGINS))]}


# ---- For other machines


def needed(path: Path) -> dict[str, Path]:
    """The libraries that one needs, and theirs, where they lie here."""
    listed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    return {name: Path(place) for name, place in re.findall(r"^\s*(\S+) => (/\S+)", listed, flags=re.M)}


def bundle(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The library, what it needs but glibc, and the media plug-in, which takes FFmpeg where there is one; stripped."""
    wanted = {name: files[name] for name in (LIBRARY, "libcavmae-media.so") if name in files}
    wanted.update({name: path for name, path in needed(files[LIBRARY]).items() if not EVERYWHERE.match(name)})
    copies = {}
    for name, path in wanted.items():
        copies[name] = folder / name
        shutil.copyfile(path, copies[name])
        subprocess.run(["strip", "--strip-unneeded", copies[name]], check=True)
    return copies


def copyrights(files: dict[str, Path]) -> dict[str, bytes]:
    """What Debian's packages of the libraries that came along say of their licences."""
    found = {}
    for name, path in files.items():
        if EVERYWHERE.match(name) or not shutil.which("dpkg-query"):
            continue
        # Where /lib is a link to /usr/lib packages may list either.
        places = [str(path), str(path.resolve()), str(path).replace("/usr/lib/", "/lib/", 1), f"/usr{path}"]
        listed = subprocess.run(["dpkg-query", "-S", *places], capture_output=True, text=True).stdout
        for package in re.findall(r"^([^:,\s]+)", listed, flags=re.M)[:1]:
            notice = Path("/usr/share/doc") / package / "copyright"
            if notice.exists():
                found[f"LICENSE.{package}"] = notice.read_bytes()
    return found


def glibc_of(files: dict[str, Path]) -> int:
    """The newest 2.N whose symbols they ask for."""
    return max(int(minor) for path in files.values() for minor in re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes()))


# ---- Wheels


def metadata() -> str:
    project = (HERE / "pyproject.toml").read_text()
    summary = re.search(r'^description = "(.*)"$', project, flags=re.M)
    assert summary
    lines = [
        "Metadata-Version: 2.1",
        "Name: cavmae",
        f"Version: {version()}",
        f"Summary: {summary.group(1)}",
        "License: MIT",
        "Requires-Python: >=3.9",
        "Requires-Dist: numpy>=1.21",
        "Provides-Extra: examples",
        'Requires-Dist: matplotlib; extra == "examples"',
        "Provides-Extra: test",
        'Requires-Dist: pytest; extra == "test"',
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (HERE / "README.md").read_text()


def write_wheel(folder: Path, tag: str, contents: dict[str, bytes], licences: dict[str, bytes] = {}) -> str:
    """A wheel: a zip file with a list of hashes."""
    info = f"cavmae-{version()}.dist-info"
    contents = {
        **contents,
        f"{info}/METADATA": metadata().encode(),
        f"{info}/WHEEL": (
            f"Wheel-Version: 1.0\nGenerator: cavmae\nRoot-Is-Purelib: {str(tag.endswith('any')).lower()}\nTag: {tag}\n"
        ).encode(),
        f"{info}/LICENSE": licence(),
        **{f"{info}/{name}": text for name, text in licences.items()},
    }
    record = []
    name = f"cavmae-{version()}-{tag}.whl"
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in contents.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}")
            put(wheel, path, data)
        put(wheel, f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]).encode())
    return name


def put(wheel: zipfile.ZipFile, path: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(path)  # of 1980: the same bytes from the same sources
    entry.external_attr = (0o755 if ".so" in path else 0o644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    wheel.writestr(entry, data)


def licence() -> bytes:
    for place in (HERE, REPOSITORY):
        if (place / "LICENSE").exists():
            return (place / "LICENSE").read_bytes()
    return b"MIT\n"


def sources() -> dict[str, bytes]:
    """The package, and the header, which is its manual: in a clone it lies elsewhere."""
    header = REPOSITORY / "include" / "cavmae.h"
    found = sorted([*PACKAGE.glob("*.py"), PACKAGE / "py.typed", header if header.exists() else PACKAGE / "cavmae.h"])
    return {f"cavmae/{path.name}": path.read_bytes() for path in found}


def wheel_of(folder: Path, files: dict[str, Path], platform_tag: str, licences: dict[str, bytes] = {}) -> str:
    contents = {**sources(), **{f"cavmae/lib/{name}": path.read_bytes() for name, path in files.items()}}
    return write_wheel(folder, f"py3-none-{platform_tag}", contents, licences)


def portable_wheel(folder: Path) -> str:
    """`make wheel`. The library finds what lies beside it by its run path."""
    folder.mkdir(parents=True, exist_ok=True)
    build = Path(os.environ.get("BUILD", "build"))
    built = make(
        (build if build.is_absolute() else REPOSITORY / build) / "wheel",
        "WITHOUT_ONEDNN=1",
        "CUDA_HOME=",
        "LDFLAGS=-Wl,-rpath,'$$ORIGIN'",
    )
    with tempfile.TemporaryDirectory() as place:
        files = library_files(built)
        licences = copyrights(needed(files[LIBRARY]))
        files = bundle(files, Path(place))
        return wheel_of(folder, files, f"manylinux_2_{glibc_of(files)}_{platform.machine()}", licences)


# ---- What pip calls


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):  # type: ignore[no-untyped-def]
    files = library_files(find_library())
    return wheel_of(Path(wheel_directory), files, f"linux_{platform.machine()}" if files else "any")


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):  # type: ignore[no-untyped-def]
    files = library_files(find_library())
    (PACKAGE / "lib").mkdir(exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, PACKAGE / "lib" / name)
    return write_wheel(Path(wheel_directory), "py3-none-any", {"cavmae.pth": f"{HERE}\n".encode()})


def build_sdist(sdist_directory, config_settings=None):  # type: ignore[no-untyped-def]
    base = f"cavmae-{version()}"
    files = {name: (HERE / name).read_bytes() for name in ("pyproject.toml", "build_backend.py", "README.md")}
    files.update({**sources(), "LICENSE": licence(), "PKG-INFO": metadata().encode()})
    with tarfile.open(Path(sdist_directory) / f"{base}.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return f"{base}.tar.gz"


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "wheel":
        sys.exit(f"usage: {sys.argv[0]} wheel FOLDER")
    print(Path(sys.argv[2]) / portable_wheel(Path(sys.argv[2])))
