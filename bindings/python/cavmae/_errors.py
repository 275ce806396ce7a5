"""Exceptions: one class for each status, with the library's sentence as text."""

from __future__ import annotations

from ._records import CONSTANTS


class CavmaeError(Exception):
    """A call of libcavmae failed. The text is the library's; ``status`` its number (CAVMAE_E_*)."""

    status: int = CONSTANTS["E_INTERNAL"]

    def __str__(self) -> str:
        # KeyError, one of the bases, would show the text's repr.
        return Exception.__str__(self)


class ArgumentError(CavmaeError, ValueError):
    """An argument or option is out of its range."""

    status = CONSTANTS["E_ARG"]


class OutOfMemory(CavmaeError, MemoryError):
    """Memory, of the host or of the device, is not there."""

    status = CONSTANTS["E_NOMEM"]


class ShapeError(CavmaeError, ValueError):
    """Sizes do not fit together."""

    status = CONSTANTS["E_SHAPE"]


class FileError(CavmaeError, OSError):
    """A file cannot be opened, read or written."""

    status = CONSTANTS["E_IO"]


class FormatError(CavmaeError, ValueError):
    """A file's contents are damaged, lying, or of an unknown kind."""

    status = CONSTANTS["E_FORMAT"]


class NotFound(CavmaeError, KeyError):
    """No such key, tensor or preset."""

    status = CONSTANTS["E_NOT_FOUND"]


class MismatchError(CavmaeError, ValueError):
    """A file's tensors are not the model's."""

    status = CONSTANTS["E_MISMATCH"]


class Unsupported(CavmaeError, NotImplementedError):
    """This build, file or machine cannot do that."""

    status = CONSTANTS["E_UNSUPPORTED"]


class MediaError(CavmaeError):
    """A media file has no such track, or cannot be decoded."""

    status = CONSTANTS["E_MEDIA"]


class BackendError(CavmaeError, RuntimeError):
    """A device or plug-in cannot be had; or the library itself was not found."""

    status = CONSTANTS["E_BACKEND"]


class Cancelled(CavmaeError):
    """The context's ``cancel`` ended the call."""

    status = CONSTANTS["E_CANCELLED"]


class NotFinite(CavmaeError, ArithmeticError):
    """A loss, gradient or embedding is NaN or infinite."""

    status = CONSTANTS["E_NOT_FINITE"]


class StateError(CavmaeError, RuntimeError):
    """The call does not fit what the object is doing."""

    status = CONSTANTS["E_STATE"]


class PeerError(CavmaeError, RuntimeError):
    """Another rank of a world failed, is missing, or does something else."""

    status = CONSTANTS["E_PEER"]


class InternalError(CavmaeError, RuntimeError):
    """A fault of the library: please report it."""


BY_STATUS: dict[int, type[CavmaeError]] = {error.status: error for error in CavmaeError.__subclasses__()}

for _error in (CavmaeError, *BY_STATUS.values()):
    _error.__module__ = "cavmae"  # tracebacks name them as programs do


def status_of(error: BaseException) -> int:
    """The status that tells the library of an exception in a callback."""
    if isinstance(error, CavmaeError):
        return error.status
    for kind, name in ((MemoryError, "E_NOMEM"), (OSError, "E_IO"), (ValueError, "E_ARG"), (TypeError, "E_ARG")):
        if isinstance(error, kind):
            return CONSTANTS[name]
    return CONSTANTS["E_INTERNAL"]
