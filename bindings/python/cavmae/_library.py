"""Finds and opens libcavmae.

It is opened when it is first needed: the file that CAVMAE_LIBRARY names; else the one that came with this package
(cavmae/lib); else the system's. RTLD_LOCAL: its symbols, and those of the libraries that it brings, take no part in
anybody else's linking, whether torch was imported before or after.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

from ._abi import FUNCTIONS
from ._errors import BackendError
from ._records import CONSTANTS, status

FILE = f"libcavmae.so.{CONSTANTS['VERSION_MAJOR']}"
OLDEST = CONSTANTS["VERSION_MAJOR"] * 10000 + CONSTANTS["VERSION_MINOR"] * 100  # what this package was written for


class Library:
    """The functions of FUNCTIONS as attributes, each bound when it is first asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        # CDLL, not PyDLL: the GIL is released while a function runs.
        self._library = ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)

    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(f"cavmae.h has no function {name}")
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise BackendError(f"{self.path} is older than this package: it has no {name}") from None
        result, function.argtypes = FUNCTIONS[name]
        function.restype = ctypes.c_int32 if result is status else result
        setattr(self, name, function)
        return function


def candidates() -> list[str]:
    """Where the library may be, in order. One with a slash is a file, the last a name that the system looks up."""
    named = os.environ.get("CAVMAE_LIBRARY")
    if named:
        path = Path(named)
        return [str(path / FILE if path.is_dir() else path.absolute())]
    beside = Path(__file__).resolve().parent / "lib" / FILE
    return ([str(beside)] if beside.exists() else []) + [FILE]


def _open() -> Library:
    reasons = []
    for path in candidates():
        try:
            found = Library(path)
        except OSError as error:
            reasons.append(str(error))
            continue
        try:
            version = found.cavmae_version()
        except BackendError:
            raise BackendError(f"{path} is not libcavmae") from None
        if version // 10000 != CONSTANTS["VERSION_MAJOR"] or version < OLDEST:
            raise BackendError(
                f"{path} is version {found.cavmae_version_string().decode()}, and this package needs "
                f"{CONSTANTS['VERSION_MAJOR']}.{CONSTANTS['VERSION_MINOR']} or newer of the same major version"
            )
        return found
    raise BackendError(
        f"libcavmae was not found ({'; '.join(reasons)}): set CAVMAE_LIBRARY to the path of {FILE}, "
        "or install the package from a clone, which builds it"
    )


_opened: Library | None = None
_lock = threading.Lock()


def library() -> Library:
    """The library, opened on first use. BackendError: not found, or of another major version."""
    global _opened
    if _opened is None:
        with _lock:
            if _opened is None:
                _opened = _open()
    return _opened


def version() -> str:
    """Version of the library that is loaded, "1.0.0"."""
    text: bytes = library().cavmae_version_string()
    return text.decode()


def build_info() -> str:
    """One line of key=value pairs: compiler, instruction sets, versions of the libraries in use."""
    text: bytes = library().cavmae_build_info()
    return text.decode()
