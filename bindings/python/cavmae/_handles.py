"""What all objects of the library have in common: a pointer that is freed once, in any order, also at exit."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Callable, Optional, Type, TypeVar

from ._calls import Progress, call, free_later, process
from ._errors import StateError
from ._library import library

Self = TypeVar("Self", bound="Handle")


def made(kind: Any, function: Callable[..., int], *arguments: Any, progress: Optional[Progress] = None) -> Any:
    """Calls function(*arguments, kind *out) and returns *out."""
    out = kind()
    try:
        call(function, *arguments, ctypes.byref(out), progress=progress)
    except BaseException:
        # A callback's exception can come with a success, whose object nobody would have.
        name = FREE.get(kind)
        if out and name:
            getattr(library(), name)(out)
        raise
    return out


FREE: dict[Any, str] = {}


class Handle:
    """Base of the library's objects. ``close()`` frees one early; a ``with`` block does so at its end."""

    _pointer_type: Any = None
    _free: str = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls._free:
            FREE[cls._pointer_type] = cls._free

    def _adopt(self, pointer: Any) -> None:
        self._pointer = pointer
        self._generation = process.generation
        self._finalizer = free_later(self, self._free, pointer)

    @property
    def _handle(self) -> Any:
        """The pointer, for a call."""
        pointer = getattr(self, "_pointer", None)
        if pointer is None:
            raise StateError(f"this {type(self).__name__} is closed")
        if self._generation != process.generation:
            raise StateError(
                f"this {type(self).__name__} was made before a fork(), which leaves its threads behind: make it in the "
                "child, or start processes with the 'spawn' method"
            )
        return pointer

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return getattr(self, "_pointer", None) is None

    def close(self) -> None:
        """Frees it now. Objects made from it stay as they are; calling it again does nothing."""
        if getattr(self, "_pointer", None) is not None:
            self._pointer = None
            self._finalizer()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: save it to a file and load it there")
