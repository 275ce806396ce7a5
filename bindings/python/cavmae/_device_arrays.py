"""Arrays of other libraries in a GPU's memory (torch's, CuPy's), by DLPack: the library reads and fills them where they are.

Their libraries work on streams of their own. Asked for an array for stream 1, CUDA's default one, they have that stream wait
for what is under way; and the library waits for it. When a call of the library's returns it has done with its arrays.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Optional, Tuple, Union

import numpy as np

from ._arrays import elsewhere, as_array
from ._records import P
from .tensor import capsule_contents

if TYPE_CHECKING:
    from .context import Context

CUDA = 2  # DLPack's number
DEFAULT_STREAM = 1
KINDS = {0: "i", 1: "u", 2: "f"}


class DeviceArray:
    """As much of an array as the rest of the package asks of one: its shape, its address, whose it is."""

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name
        self._capsule = value.__dlpack__(stream=DEFAULT_STREAM)  # which holds the memory
        found = capsule_contents(self._capsule)
        self.device = f"cuda:{found.device_id}"
        self.address = int(found.data or 0) + int(found.byte_offset)
        self.shape: Tuple[int, ...] = tuple(ctypes.cast(found.shape, P(ctypes.c_int64))[: found.ndim])
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        known = found.lanes == 1 and found.code in KINDS
        self.dtype = f"{KINDS[found.code]}{found.bits // 8}" if known else f"DLPack's type {found.code}"
        if found.strides and self.size:
            strides = ctypes.cast(found.strides, P(ctypes.c_int64))[: found.ndim]
            self._check_compact(tuple(strides))

    def _check_compact(self, strides: Tuple[int, ...]) -> None:
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(strides)):
            if size > 1 and stride != step:
                raise ValueError(f"{self.name} must be C-contiguous: {self.name}.contiguous() (torch) is")
            step *= size

    def ready(self, device: Optional[str]) -> None:
        """Before a call of an object on this device: what was queued since for the array comes first."""
        if device is None:
            raise elsewhere(self.name, "CUDA")
        if device != self.device:
            raise TypeError(
                f"{self.name} lies in memory of {self.device}, and this works on {device}: pass {self.name}.cpu() (torch) "
                f"or {self.name}.get() (CuPy), or use a model of Context(device={self.device!r})"
            )
        self._capsule = self.value.__dlpack__(stream=DEFAULT_STREAM)

    def __array__(self, *unused: Any, **more: Any) -> Any:
        raise TypeError(f"{self.name} lies in memory of {self.device}, where NumPy cannot read it")


def as_input(value: Any, name: str, dtype: Any, dims: Tuple[int, ...]) -> "Union[np.ndarray[Any, Any], DeviceArray]":
    """As as_array, but CUDA memory may stay where it is."""
    if isinstance(value, DeviceArray):
        return value
    if not hasattr(value, "__dlpack_device__") or int(value.__dlpack_device__()[0]) != CUDA:
        return as_array(value, name, dtype, dims)
    array = DeviceArray(value, name)
    wanted = np.dtype(dtype)
    if array.dtype != wanted.str[1:]:
        raise TypeError(f"{name} must be {wanted.name}, not {array.dtype}")
    if array.ndim not in dims:
        words = " or ".join(str(number) for number in dims)
        raise ValueError(f"{name} must have {words} dimensions, not {array.ndim} (shape {array.shape})")
    return array


def ready(array: Any, context: "Optional[Context]") -> None:
    """Before a call of one of the context's objects; None: of one that takes host memory only."""
    if isinstance(array, DeviceArray):
        array.ready(None if context is None else context.device)
