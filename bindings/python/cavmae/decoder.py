"""Decoder: media files decoded by Python, in the place of the FFmpeg plug-in."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, Iterable, Optional, Tuple, Union

import numpy as np

from . import _records as r
from ._arrays import as_array, pointer
from ._calls import call, thread
from ._errors import status_of
from ._library import library
from .media import MediaInfo

if TYPE_CHECKING:
    from .context import Context

Source = Union[str, bytes]


class Decoder:
    """For Context.set_decoder: derive from it. Functions may be called from several threads at once.

    FFmpegPrograms is one.

    source: a path, or a file's bytes. What they raise becomes the call's error, with its text: FileError, FormatError,
    Unsupported and MediaError say what the matter is.
    """

    def probe(self, source: Source) -> MediaInfo:
        """What is in the file."""
        raise NotImplementedError

    def audio(self, source: Source) -> "Tuple[np.ndarray[Any, Any], int]":
        """Sound, float32 [samples, channels] in [-1, 1), from time 0 on, and its rate in Hz."""
        raise NotImplementedError

    def frames(self, source: Source, seconds: "np.ndarray[Any, Any]") -> "Iterable[np.ndarray[Any, Any]]":
        """For each of seconds, which rise, the first picture at or after it, uint8 [height, width, 3]."""
        raise NotImplementedError


def _source(record: Any) -> Source:
    source = record.contents
    if source.data is None:
        return os.fsdecode(source.path)
    return ctypes.string_at(source.data, source.size)


class _Stop(Exception):
    """A sink ended the decoding."""

    def __init__(self, status: int) -> None:
        self.status = status


def _guard(error: Optional[int], size: int, work: Any) -> int:
    thread.in_callback += 1
    try:
        work()
        return 0
    except _Stop as stop:
        return stop.status
    except BaseException as raised:
        words = f"{raised or type(raised).__name__}".encode("utf-8", "replace")[: max(size - 1, 0)]
        if error and size:
            ctypes.memmove(error, words + b"\0", len(words) + 1)
        return status_of(raised)
    finally:
        thread.in_callback -= 1


def _record(decoder: Decoder) -> Any:
    def probe(user: Any, source: Any, out: Any, error: Optional[int], size: int) -> int:
        def work() -> None:
            info = decoder.probe(_source(source))
            for name in MediaInfo.__dataclass_fields__:
                setattr(out.contents, name, getattr(info, name))

        return _guard(error, size, work)

    def audio(user: Any, source: Any, sink: Any, argument: Any, error: Optional[int], size: int) -> int:
        def work() -> None:
            pcm, rate = decoder.audio(_source(source))
            sound = as_array(pcm, "pcm", np.float32, 2)
            status = sink(argument, pointer(sound, ctypes.c_float), *sound.shape, rate)
            if status:
                raise _Stop(status)

        return _guard(error, size, work)

    def frames(
        user: Any, source: Any, times: Any, count: int, sink: Any, argument: Any, error: Optional[int], size: int
    ) -> int:
        def work() -> None:
            wanted = np.array(times[:count], np.float64)
            got = 0
            for picture in decoder.frames(_source(source), wanted):
                rgb = as_array(picture, "the picture", np.uint8, 3)
                if rgb.shape[2] != 3 or got == count:
                    raise ValueError(f"frames must give {count} pictures [height, width, 3], not one of {rgb.shape}")
                height, width = rgb.shape[:2]
                status = sink(argument, got, pointer(rgb, ctypes.c_uint8), width, height, rgb.strides[0])
                if status:
                    raise _Stop(status)
                got += 1
            if got != count:
                raise ValueError(f"frames gave {got} pictures of {count}")

        return _guard(error, size, work)

    types = r.field_types(r.cavmae_decoder)
    functions = {
        name: types[name](function) for name, function in (("probe", probe), ("audio", audio), ("frames", frames))
    }
    return r.new(r.cavmae_decoder, version=1, **functions)


def install(context: "Context", decoder: Decoder) -> Any:
    """Context.set_decoder; what it returns lives as long as the context."""
    record = _record(decoder)
    call(library().cavmae_context_set_decoder, context._handle, ctypes.byref(record))
    return record
