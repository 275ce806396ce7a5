"""Batch: clips for a model, as arrays."""

from __future__ import annotations

import ctypes
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple, Union

import numpy as np

from . import _records as r
from ._arrays import as_array, pointer, view
from ._device_arrays import as_input, ready
from ._errors import StateError

if TYPE_CHECKING:
    from .context import Context
    from .data import Loader

# Of each field: its type, the dimensions that it may have, and the type of C's pointer.
_FIELDS: dict[str, Tuple[Any, Tuple[int, ...], Any]] = {
    "audio": (np.float32, (2, 3), ctypes.c_float),
    "image": (np.float32, (4, 5), ctypes.c_float),
    "audio_frames": (np.int32, (1,), ctypes.c_int32),
    "mask_a": (np.uint8, (1, 2), ctypes.c_uint8),
    "mask_v": (np.uint8, (2,), ctypes.c_uint8),
    "samples": (np.int64, (1,), ctypes.c_int64),
    "labels": (np.float32, (2,), ctypes.c_float),
    "features": (np.float32, (2,), ctypes.c_float),
    "pcm": (np.int16, (2,), ctypes.c_int16),
    "pixels": (np.uint8, (4, 5), ctypes.c_uint8),
}
_ON_DEVICE = ("audio", "image", "pcm", "pixels")


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips, as C-contiguous arrays: NumPy's, or anything with DLPack (torch, CuPy, JAX). Nothing is copied.

    With a model on a GPU audio, image, pcm and pixels may lie there, too (but not for inpainting); else in host memory.

    audio: float32 [B, T, F], prepared as the model's input contract says; with audio_frames [sum of T, F].
    image: float32 [B, C, H, W], or [B, frames, C, H, W].
    audio_frames: int32 [B], the T of each clip where they differ.
    mask_a, mask_v: uint8 or bool [B, La], [B, Lv], 1 = removed; None: drawn. Pretraining and inpainting only.
    samples: int64 [B], indices in a loader's manifest.
    labels: float32 [B, classes] in [0, 1].
    features: float32 [B, width], instead of sound and pictures, for probes.
    pcm: int16 [B, samples], one channel at sample_rate, instead of audio.
    pixels: uint8 [B, height, width, C], or [B, frames, height, width, C], instead of image.
    world_count: clips of this step over all ranks of a world; 0: B times its size.
    """

    audio: Any = None
    image: Any = None
    audio_frames: Any = None
    mask_a: Any = None
    mask_v: Any = None
    samples: Any = None
    labels: Any = None
    features: Any = None
    pcm: Any = None
    pixels: Any = None
    world_count: int = 0
    count: int = -1
    _source: Optional[Tuple["Loader", int]] = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        counted: dict[str, int] = {}
        for name, (dtype, dims, _) in _FIELDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            on_device = name in _ON_DEVICE
            array: Any = as_input(value, name, dtype, dims) if on_device else as_array(value, name, dtype, dims)
            object.__setattr__(self, name, array)
            flat = (name == "audio" and array.ndim == 2) or (name == "mask_a" and array.ndim == 1)
            if flat and self.audio_frames is None:
                raise ValueError(f"{name} has one dimension too few, which needs audio_frames: the length of each clip")
            if not flat:
                counted[name] = array.shape[0]
        if self.audio_frames is not None and self.audio is not None:
            self._check_lengths()
        if self.count < 0:
            object.__setattr__(self, "count", next(iter(counted.values()), 0))
        for name, count in counted.items():
            if count != self.count:
                raise ValueError(f"{name} is of {count} clips, and the batch of {self.count}")

    def _check_lengths(self) -> None:
        rows = self.audio.shape[0] if self.audio.ndim == 2 else self.audio.shape[0] * self.audio.shape[1]
        if self.audio_frames.size and int(self.audio_frames.min()) < 0:
            raise ValueError("audio_frames has a negative length")
        if int(self.audio_frames.sum(dtype=np.int64)) != rows:
            raise ValueError(f"audio_frames adds up to {int(self.audio_frames.sum())} frames, and audio has {rows}")

    @property
    def frames(self) -> int:
        """Pictures of each clip; 0 where an image has no such dimension."""
        for array in (self.image, self.pixels):
            if array is not None and array.ndim == 5:
                return int(array.shape[1])
        return 0

    @property
    def classes(self) -> int:
        """Of labels; 0: there are none."""
        return 0 if self.labels is None else int(self.labels.shape[1])

    def __len__(self) -> int:
        return self.count

    def replace(self, **changes: Any) -> "Batch":
        """The same arrays, but for these."""
        return dataclasses.replace(self, **changes)

    def copy(self) -> "Batch":
        """A batch with memory of its own; a loader's is valid until its next one only."""
        self._check_valid()
        copied: dict[str, Any] = {name: np.array(value) for name, value in self._arrays() if value is not None}
        return Batch(**copied, world_count=self.world_count, count=self.count)

    def _arrays(self) -> Any:
        return ((name, getattr(self, name)) for name in _FIELDS)

    def _check_valid(self) -> None:
        if self._source is not None and self._source[0]._turn != self._source[1]:
            raise StateError("this batch is no longer valid: its loader has gone on; batch.copy() would have kept it")

    def _check_model(self, config: Mapping[str, Any]) -> None:
        """That arrays are as large as the library will read, which it cannot see itself."""
        audio, image, size = self.audio, self.image, config["image_size"]
        if audio is not None and audio.shape[-1] != config["mel_bins"]:
            raise ValueError(f"audio has {audio.shape[-1]} mel bins, and the model {config['mel_bins']}")
        if audio is not None and self.audio_frames is None and audio.shape[1] != config["audio_frames"]:
            raise ValueError(
                f"audio has {audio.shape[1]} frames a clip, and the model {config['audio_frames']}: "
                "pass audio_frames=[...] for clips of other lengths"
            )
        if image is not None and image.shape[-3:] != (config["image_channels"], size, size):
            raise ValueError(
                f"image has pictures of {image.shape[-3:]}, and the model of {(config['image_channels'], size, size)}"
            )
        if self.pixels is not None and self.pixels.shape[-1] != config["image_channels"]:
            raise ValueError(f"pixels has {self.pixels.shape[-1]} channels, and the model {config['image_channels']}")
        width = config["embed_dim"] * (2 if config["head_input"] == "concat" else 1)
        if self.features is not None and self.features.shape[1] != width:
            raise ValueError(f"features has a width of {self.features.shape[1]}, and the model {width}")
        self._check_masks(config)

    def _check_masks(self, config: Mapping[str, Any]) -> None:
        p = config["patch_size"]
        rows = config["mel_bins"] // p
        if self.mask_a is not None:
            if self.audio_frames is None:
                wanted = self.count * rows * (config["audio_frames"] // p)
            else:
                wanted = rows * int((self.audio_frames // p).sum())
            if self.mask_a.size != wanted:
                raise ValueError(f"mask_a has {self.mask_a.size} elements, and the clips {wanted} audio tokens")
        if self.mask_v is not None and self.mask_v.size != self.count * (config["image_size"] // p) ** 2:
            side = config["image_size"] // p
            raise ValueError(
                f"mask_v has {self.mask_v.size // max(self.count, 1)} tokens a clip, and the model {side**2}"
            )

    def _record(self, config: Mapping[str, Any], context: "Optional[Context]") -> Any:
        """The C record, which is valid while this object is, for a call of one of the context's objects; None: which reads it on the host."""
        self._check_valid()
        for name in _ON_DEVICE:
            ready(getattr(self, name), context)
        self._check_model(config)
        record = r.new(
            r.cavmae_batch,
            count=self.count,
            classes=self.classes,
            frames=self.frames,
            world_count=self.world_count,
            **{name: pointer(getattr(self, name), kind) for name, (_, _, kind) in _FIELDS.items()},
        )
        if self.pcm is not None:
            record.pcm_samples = self.pcm.shape[1]
        if self.pixels is not None:
            record.pixel_height, record.pixel_width = self.pixels.shape[-3:-1]
        return record


BatchLike = Union[Batch, Mapping[str, Any]]


def as_batch(batch: Optional[BatchLike], fields: Mapping[str, Any]) -> Batch:
    """A Batch, a mapping of its fields, or the fields themselves."""
    given = {name: value for name, value in fields.items() if value is not None}
    if batch is None:
        return Batch(**given)
    if isinstance(batch, Batch):
        return batch.replace(**given) if given else batch
    return Batch(**{**batch, **given})


def from_record(record: Any, config: Mapping[str, Any], owner: object, source: Tuple["Loader", int]) -> Batch:
    """Views of a loader's batch."""
    count = record.count
    size, channels, bins = config["image_size"], config["image_channels"], config["mel_bins"]

    def of(name: str, *shape: int) -> Any:
        field = getattr(record, name)
        return view(field, shape, _FIELDS[name][0], owner) if field else None

    lengths = of("audio_frames", count)
    audio = of("audio", *((int(lengths.sum()),) if lengths is not None else (count, config["audio_frames"])), bins)
    pictures = (count, record.frames) if record.frames else (count,)
    return Batch(
        audio=audio,
        image=of("image", *pictures, channels, size, size),
        audio_frames=lengths,
        samples=of("samples", count),
        labels=of("labels", count, record.classes),
        world_count=record.world_count,
        count=count,
        _source=source,
    )
