"""Tensor: an array of the library's, and DLPack in both directions."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int64, c_void_p, py_object
from typing import Any, Optional, Tuple, Union

import numpy as np

from . import _records as r
from ._abi import tensor as tensor_pointer
from ._arrays import CPU, NUMBERS, NUMPY_TYPES, view
from ._calls import call
from ._handles import Handle, made
from ._library import library

_BFLOAT16 = r.constant("BFLOAT16")
_UNUSED, _USED = b"dltensor", b"used_dltensor"

# Capsules, by Python's own C functions, which take and give objects: they run with the GIL (PyDLL).
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = py_object, (c_void_p, c_char_p, c_void_p)
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.restype, _is_capsule.argtypes = ctypes.c_int, (py_object, c_char_p)
_in_capsule = ctypes.pythonapi.PyCapsule_GetPointer
_in_capsule.restype, _in_capsule.argtypes = c_void_p, (py_object, c_char_p)
_rename_capsule = ctypes.pythonapi.PyCapsule_SetName
_rename_capsule.restype, _rename_capsule.argtypes = ctypes.c_int, (py_object, c_char_p)


class _Managed(ctypes.Structure):
    """struct DLManagedTensor of dlpack.h, as far as the deleter."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
    ]


def _drop(capsule: int) -> None:
    """Of a capsule that nobody consumed. Given the object's address, for it has no references any more."""
    if _is_unused(capsule, _UNUSED):
        address = _address_in(capsule, _UNUSED)
        ctypes.cast(address, r.P(_Managed)).contents.deleter(address)


_drop_capsule = ctypes.PYFUNCTYPE(None, c_void_p)(_drop)

# The same two functions of a bare address.
_is_unused = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_address_in = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


def capsule_contents(capsule: Any) -> Any:
    """The struct in a capsule that was not used yet; valid while the capsule is."""
    if not _is_capsule(capsule, _UNUSED):
        raise TypeError("__dlpack__ gave no capsule 'dltensor'")
    return ctypes.cast(_in_capsule(capsule, _UNUSED), r.P(_Managed)).contents


class Tensor(Handle):
    """An array that the library owns, or a view of one of its objects.

    ``numpy()`` shows it to NumPy, ``torch.from_dlpack(tensor)`` to torch, both without a copy.
    """

    _pointer_type = tensor_pointer
    _free = "cavmae_tensor_free"

    def __init__(self, pointer: Any, writeable: bool = True) -> None:
        self._adopt(pointer)
        self._writeable = writeable

    @classmethod
    def from_dlpack(cls, value: Any, context: Any = None) -> "Tensor":
        """An array of any library that has ``__dlpack__``, or a capsule: compact host memory, which is shared.

        Unsupported: on a device, or not C-contiguous.
        """
        from .context import context_of

        capsule = value.__dlpack__() if hasattr(value, "__dlpack__") else value
        if not _is_capsule(capsule, _UNUSED):
            raise TypeError(
                "from_dlpack takes an object with __dlpack__, or a capsule 'dltensor' that was not used yet"
            )
        managed = ctypes.cast(_in_capsule(capsule, _UNUSED), r.P(r.DLManagedTensor))
        pointer = made(tensor_pointer, library().cavmae_tensor_from_dlpack, context_of(context)._handle, managed)
        _rename_capsule(capsule, _USED)  # the library's now
        return cls(pointer)

    @property
    def shape(self) -> Tuple[int, ...]:
        """Sizes, () of a scalar."""
        dims = library().cavmae_tensor_dims(self._handle)
        sizes = library().cavmae_tensor_shape(self._handle)
        return tuple(sizes[i] for i in range(dims))

    @property
    def dtype(self) -> str:
        """Its type's name: "float32", "bfloat16", ..."""
        number = library().cavmae_tensor_dtype(self._handle)
        return "bfloat16" if number == _BFLOAT16 else NUMPY_TYPES[number].name

    def __len__(self) -> int:
        shape = self.shape
        if not shape:
            raise TypeError("a scalar has no length")
        return shape[0]

    def numpy(self) -> "np.ndarray[Any, Any]":
        """A NumPy array of the same memory. bfloat16, which NumPy has not, becomes a copy in float32."""
        number = library().cavmae_tensor_dtype(self._handle)
        narrow = number == _BFLOAT16
        kind = np.dtype(np.uint16) if narrow else NUMPY_TYPES[number]
        array = view(library().cavmae_tensor_data(self._handle) or 0, self.shape, kind, self, self._writeable)
        return (array.astype(np.uint32) << 16).view(np.float32) if narrow else array

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> "np.ndarray[Any, Any]":
        array = self.numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"a tensor of {array.dtype} is not one of {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack_device__(self) -> Tuple[int, int]:
        return (CPU, 0)

    def __dlpack__(self, *, stream: Any = None, **unused: Any) -> Any:
        """A capsule with a DLManagedTensor that shares the memory, and keeps it alive."""
        managed = r.P(r.DLManagedTensor)()
        call(library().cavmae_tensor_to_dlpack, self._handle, ctypes.byref(managed))
        return _new_capsule(ctypes.cast(managed, c_void_p), _UNUSED, ctypes.cast(_drop_capsule, c_void_p))

    def save_npy(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes NumPy's .npy format, atomically."""
        call(library().cavmae_tensor_save_npy, self._handle, os.fsencode(path))

    def __repr__(self) -> str:
        return "Tensor(closed)" if self.closed else f"Tensor({self.dtype}, shape={self.shape})"


# What a wrapped array's tensor keeps, by the number that the library gives back when it is done with it.
_kept: dict[int, Any] = {}


def _forget(user: Optional[int]) -> None:
    _kept.pop(user or 0, None)


_release = r.release_function(_forget)


def wrap(array: "np.ndarray[Any, Any]", context: Any = None) -> Tensor:
    """A tensor of a C-contiguous array's memory, which stays alive as long as the library needs it."""
    from .context import context_of

    number = NUMBERS.get(array.dtype)
    if number is None:
        raise TypeError(f"there are no tensors of {array.dtype.name}")
    if not array.flags.c_contiguous:
        raise ValueError("the array must be C-contiguous: numpy.ascontiguousarray makes a copy that is")
    key = id(array)
    while key in _kept:
        key += 1
    _kept[key] = array
    shape = (c_int64 * max(array.ndim, 1))(*array.shape)
    try:
        pointer = made(
            tensor_pointer,
            library().cavmae_tensor_wrap,
            context_of(context)._handle,
            array.ctypes.data,
            number,
            array.ndim,
            shape,
            _release,
            key,
        )
    except BaseException:
        _kept.pop(key, None)
        raise
    return Tensor(pointer, writeable=array.flags.writeable)
