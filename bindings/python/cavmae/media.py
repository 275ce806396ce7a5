"""Media files: what is in them, their sound and their pictures, through FFmpeg: libcavmae-media.so, or the programs."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np

from . import _records as r
from ._abi import tensor as tensor_pointer
from ._arrays import as_array, pointer
from ._calls import call
from ._handles import made
from ._library import library
from .context import Context, context_of
from .tensor import Tensor

Media = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview]  # a path, or a file's bytes


@dataclass(frozen=True)
class MediaInfo:
    """What a media file has. audio_channels 0: no sound; width 0: no picture; seconds 0: a still image."""

    audio_channels: int = 0
    audio_rate: int = 0
    width: int = 0
    height: int = 0
    still: bool = False
    seconds: float = 0.0
    frame_rate: float = 0.0


def source_of(media: Media, name: Optional[str] = None) -> Tuple[Any, Any]:
    """The C record for a path or a file's bytes, and what has to live as long as it."""
    if isinstance(media, (str, os.PathLike)):
        return r.new(r.cavmae_source, path=os.fsencode(media)), None
    try:
        data = np.frombuffer(media, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise TypeError(f"media must be a path, or a file's bytes: {error}") from None
    path = None if name is None else os.fsencode(name)
    # A pointer even to nothing: data NULL would mean a file at path.
    address = data.ctypes.data if data.size else ctypes.addressof(_NOTHING)
    return r.new(r.cavmae_source, path=path, data=address, size=data.size), data


_NOTHING = ctypes.c_char()


def ready(context: Optional[Context]) -> Context:
    """A context that can decode, if this machine can."""
    from .ffmpeg import ready_decoder

    context = context_of(context)
    ready_decoder(context)
    return context


def media_probe(media: Media, *, context: Optional[Context] = None) -> MediaInfo:
    """What is in a media file. FileError, FormatError, Unsupported, MediaError."""
    source, kept = source_of(media)
    record = r.new(r.cavmae_media_info)
    call(
        library().cavmae_media_probe_source,
        ready(context)._handle,
        ctypes.byref(source),
        ctypes.byref(record),
    )
    del kept
    values = {name: getattr(record, name) for name in MediaInfo.__dataclass_fields__}
    return MediaInfo(**{**values, "still": bool(record.still)})


def media_audio(media: Media, *, context: Optional[Context] = None) -> "Tuple[np.ndarray[Any, Any], int]":
    """Sound, float32 [samples, channels] in [-1, 1), and its rate in Hz."""
    source, kept = source_of(media)
    rate = ctypes.c_int32()

    def read(*arguments: Any) -> int:
        return int(library().cavmae_media_audio_source(*arguments, ctypes.byref(rate)))

    out = made(tensor_pointer, read, ready(context)._handle, ctypes.byref(source))
    del kept
    return Tensor(out).numpy(), rate.value


def media_frames(
    media: Media, seconds: Union[float, Sequence[float]], *, context: Optional[Context] = None
) -> "np.ndarray[Any, Any]":
    """Pictures at these times, which rise: for each the first frame at or after it. uint8 [count, H, W, 3]."""
    times = as_array(np.atleast_1d(np.asarray(seconds, np.float64)), "seconds", np.float64, 1)
    source, kept = source_of(media)
    out = made(
        tensor_pointer,
        library().cavmae_media_frames_source,
        ready(context)._handle,
        ctypes.byref(source),
        pointer(times, ctypes.c_double),
        len(times),
    )
    del kept
    return Tensor(out).numpy()
