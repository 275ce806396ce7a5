"""Arrays in and out without copies: NumPy's, and by DLPack those of torch and others.

What goes in must be C-contiguous host memory of the right type (a batch's inputs may lie on a GPU: _device_arrays); otherwise the error says what to do, and nothing is
copied silently.
"""

from __future__ import annotations

import ctypes
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np

from ._errors import CavmaeError
from ._records import P, constant

NUMPY_TYPES: dict[int, "np.dtype[Any]"] = {
    constant(name): np.dtype(kind)
    for name, kind in (
        ("FLOAT32", np.float32),
        ("FLOAT64", np.float64),
        ("FLOAT16", np.float16),
        ("INT64", np.int64),
        ("INT32", np.int32),
        ("INT16", np.int16),
        ("INT8", np.int8),
        ("UINT8", np.uint8),
        ("BOOL", np.bool_),
    )
}
NUMBERS: dict["np.dtype[Any]", int] = {kind: number for number, kind in NUMPY_TYPES.items()}

CPU, CUDA_HOST = 1, 3  # DLPack's devices whose memory the processor reads
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "CUDA managed", 14: "oneAPI"}


def pointer(array: Any, kind: Any) -> Any:
    """The memory of a NumPy array, or of a DeviceArray, as kind *, NULL for None. The caller keeps the array."""
    if array is None:
        return P(kind)()
    return ctypes.cast(array.ctypes.data if isinstance(array, np.ndarray) else array.address, P(kind))


def elsewhere(name: str, place: str) -> TypeError:
    return TypeError(
        f"{name} lies in {place} memory, and is taken from host memory here: pass {name}.cpu() (torch) or "
        f"{name}.get() (CuPy)"
    )


def _from_dlpack(value: Any, name: str) -> "np.ndarray[Any, Any]":
    from .tensor import Tensor

    device = value.__dlpack_device__()[0] if hasattr(value, "__dlpack_device__") else CPU
    if int(device) not in (CPU, CUDA_HOST):
        raise elsewhere(name, DEVICES.get(int(device), f"device type {int(device)}"))
    try:
        return Tensor.from_dlpack(value).numpy()
    except CavmaeError as error:
        raise type(error)(f"{name}: {error}") from None
    except (BufferError, RuntimeError) as error:  # torch's, for what requires grad or is conjugated
        raise TypeError(f"{name}: {error}") from None


def as_array(
    value: Any, name: str, dtype: Any, dims: Union[int, Tuple[int, ...], None] = None
) -> "np.ndarray[Any, Any]":
    """value as a C-contiguous array of dtype, without a copy; lists and numbers are converted.

    dims: how many dimensions it may have. TypeError and ValueError name the argument.
    """
    wanted = np.dtype(dtype)
    if isinstance(value, np.ndarray):
        array = value
    elif hasattr(value, "__dlpack__"):
        array = _from_dlpack(value, name)
    elif hasattr(value, "__cuda_array_interface__"):
        raise elsewhere(name, "CUDA")
    elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
    else:
        try:
            array = np.asarray(value, dtype=wanted)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array of {wanted.name}: {error}") from None
    if array.dtype == np.bool_ and wanted == np.uint8:
        array = array.view(np.uint8)
    if array.dtype != wanted:
        raise TypeError(
            f"{name} must be {wanted.name}, not {array.dtype.name}: {name}.astype('{wanted.name}') converts"
        )
    allowed = (dims,) if isinstance(dims, int) else dims
    if allowed is not None and array.ndim not in allowed:
        words = " or ".join(str(number) for number in allowed)
        raise ValueError(f"{name} must have {words} dimensions, not {array.ndim} (shape {array.shape})")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: numpy.ascontiguousarray({name}) makes a copy that is")
    return array


def check_shape(array: "np.ndarray[Any, Any]", name: str, shape: Sequence[Optional[int]], what: str) -> None:
    """ValueError unless array has this shape; None takes any size. what: "[B, T, F]"."""
    if array.ndim != len(shape) or any(
        wanted is not None and size != wanted for size, wanted in zip(array.shape, shape)
    ):
        sizes = ", ".join("any" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f"{name} must have the shape {what} = ({sizes}), not {array.shape}")


def view(
    address: Any, shape: Sequence[int], dtype: Any, owner: object, writeable: bool = False
) -> "np.ndarray[Any, Any]":
    """The library's memory as an array that keeps owner alive."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    place = ctypes.cast(address, ctypes.c_void_p).value if not isinstance(address, int) else address
    if size == 0 or not place:
        array: "np.ndarray[Any, Any]" = np.empty(shape, kind)
    else:
        array = np.asarray(_Memory(place, tuple(int(n) for n in shape), kind, owner, writeable))
    if not writeable:
        array.flags.writeable = False
    return array


class _Memory:
    """NumPy's array interface over memory of the library's; the array's base, which holds the owner."""

    def __init__(
        self, address: int, shape: Tuple[int, ...], dtype: "np.dtype[Any]", owner: object, writeable: bool
    ) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, not writeable),
            "shape": shape,
            "typestr": dtype.str,
        }


def new_array(shape: Sequence[int], dtype: Any) -> "np.ndarray[Any, Any]":
    """Memory for results."""
    return np.zeros(shape, dtype)
