"""Files of tensors: safetensors, and PyTorch's without Python's pickle."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Iterator, Mapping, Optional

import numpy as np

from ._abi import safetensors as safetensors_pointer
from ._abi import tensor as tensor_pointer
from ._abi import torch as torch_pointer
from ._calls import call
from ._handles import Handle, made
from ._library import library
from .context import Context, Path, context_of
from .tensor import Tensor, wrap


class _TensorFile(Handle, Mapping[str, Tensor]):
    """Tensors by name: views of the mapped file, which may be replaced by rename meanwhile, not written over."""

    _functions = ""

    def __init__(self, path: Path, *, context: Optional[Context] = None) -> None:
        self.context = context_of(context)
        self.path = os.fspath(path)
        self._adopt(made(self._pointer_type, self._function("open"), self.context._handle, os.fsencode(path)))

    def _function(self, name: str) -> Any:
        return getattr(library(), f"{self._functions}_{name}")

    def __getitem__(self, name: str) -> Tensor:
        return Tensor(made(tensor_pointer, self._function("get"), self._handle, name.encode()), writeable=False)

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self._function("name")(self._handle, index).decode("utf-8", "replace")

    def __len__(self) -> int:
        return int(self._function("count")(self._handle))

    def __contains__(self, name: object) -> bool:
        return any(name == other for other in self)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


class SafetensorsFile(_TensorFile):
    """A safetensors file; CRC-32s in its metadata are checked."""

    _pointer_type = safetensors_pointer
    _free = "cavmae_safetensors_free"
    _functions = "cavmae_safetensors"

    def metadata(self, key: str) -> Optional[str]:
        """A value of __metadata__; None: there is none."""
        value = library().cavmae_safetensors_metadata(self._handle, key.encode())
        return None if value is None else value.decode("utf-8", "replace")


class TorchFile(_TensorFile):
    """A file of torch.save with a dictionary of tensors. What it says is never executed."""

    _pointer_type = torch_pointer
    _free = "cavmae_torch_free"
    _functions = "cavmae_torch"


def _lists(tensors: Mapping[str, Any], context: Optional[Context]) -> Any:
    """Names and tensors as C's arrays, and what they need alive."""
    kept = [
        value if isinstance(value, Tensor) else wrap(np.asarray(value, order="C"), context)
        for value in tensors.values()
    ]
    names = (ctypes.c_char_p * max(len(kept), 1))(*(name.encode() for name in tensors))
    pointers = (tensor_pointer * max(len(kept), 1))(*(value._handle for value in kept))
    return names, pointers, kept


def save_safetensors(
    path: Path,
    tensors: Mapping[str, Any],
    metadata: Optional[Mapping[str, str]] = None,
    *,
    context: Optional[Context] = None,
) -> None:
    """Writes arrays or Tensors, and pairs of words, with a CRC-32 of every tensor. Atomic."""
    names, pointers, kept = _lists(tensors, context)
    pairs = dict(metadata or {})
    keys = (ctypes.c_char_p * max(len(pairs), 1))(*(key.encode() for key in pairs))
    values = (ctypes.c_char_p * max(len(pairs), 1))(*(value.encode() for value in pairs.values()))
    handle = context_of(context)._handle
    function = library().cavmae_safetensors_save
    call(function, handle, os.fsencode(path), len(tensors), names, pointers, len(pairs), keys, values)
    del kept


def save_torch(
    path: Path, tensors: Mapping[str, Any], prefix: Optional[str] = None, *, context: Optional[Context] = None
) -> None:
    """Writes a dictionary that torch.load reads with weights_only=True. prefix: goes before every name. Atomic."""
    names, pointers, kept = _lists(tensors, context)
    before = None if prefix is None else prefix.encode()
    handle = context_of(context)._handle
    call(library().cavmae_torch_save, handle, os.fsencode(path), len(tensors), names, pointers, before)
    del kept


def save_npy(path: Path, array: Any, *, context: Optional[Context] = None) -> None:
    """Writes an array in NumPy's format, atomically."""
    (array if isinstance(array, Tensor) else wrap(np.asarray(array, order="C"), context)).save_npy(path)
