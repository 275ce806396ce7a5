"""Worlds: ranks that work together, over threads, MPI, NCCL or functions in Python."""

from __future__ import annotations

import ctypes
from typing import Any, List, Optional, Sequence

import numpy as np

from . import _records as r
from ._abi import context as context_pointer
from ._abi import world as world_pointer
from ._arrays import NUMPY_TYPES, as_array, new_array, pointer
from ._calls import call, thread
from ._errors import CavmaeError, PeerError, status_of
from ._handles import Handle, made
from ._library import library
from .context import Context, Path, encoded

_BFLOAT16 = r.constant("BFLOAT16")


class Carrier:
    """What moves data between ranks, for World: derive from it. Arrays are the library's memory, valid during the call.

    Each function returns when this rank's part is done, and raises where it fails. They are called by one thread of the
    library's, one at a time, in the same order on all ranks. Sums are needed of float32, float64 and bfloat16, which
    comes as uint16 with ``bfloat16`` true.
    """

    name = "python"

    def all_reduce(self, data: Any, bfloat16: bool) -> None:
        """data [count] = sum over the ranks, the same bits on each."""
        raise NotImplementedError

    def reduce_scatter(self, send: Any, receive: Any, bfloat16: bool) -> None:
        """receive [count] = sum over the ranks of their send [size, count], row `rank`; may be that row of send."""
        raise NotImplementedError

    def all_gather(self, send: Any, receive: Any) -> None:
        """receive [size, bytes] = each rank's send [bytes], which may be its row of receive. uint8."""
        raise NotImplementedError

    def broadcast(self, data: Any, root: int) -> None:
        """data [bytes] becomes root's. uint8."""
        raise NotImplementedError

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        raise NotImplementedError

    def abort(self) -> None:
        """From another thread: the call under way and all later ones raise soon."""

    def close(self) -> None:
        """With the world."""


def _memory(address: Optional[int], count: int, dtype: Any) -> "np.ndarray[Any, Any]":
    kind = np.dtype(dtype)
    if not address or not count:
        return np.empty(count, kind)
    buffer = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(memoryview(buffer), kind)


def _put_error(error: BaseException, place: Optional[int], size: int) -> None:
    words = f"{type(error).__name__}: {error}".encode()[: max(size - 1, 0)]
    if place and size:
        ctypes.memmove(place, words + b"\0", len(words) + 1)


class _Collectives:
    """A Carrier as C's record. Holds the carrier, and not the world, which holds it."""

    def __init__(self, carrier: Carrier, size: int) -> None:
        self.carrier, self.size = carrier, size
        self.errors: List[BaseException] = []  # for the cause of the PeerError that comes of them
        types = r.field_types(r.cavmae_collectives)
        self.functions = {
            name: types[name](getattr(self, name))
            for name in ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier", "abort", "close")
        }
        self.record = r.new(r.cavmae_collectives, version=1, name=carrier.name.encode(), **self.functions)

    def _guard(self, place: Optional[int], size: int, function: Any, *arguments: Any) -> int:
        thread.in_callback += 1
        try:
            function(*arguments)
            return 0
        except BaseException as error:
            self.errors.append(error)
            _put_error(error, place, size)
            return status_of(error)
        finally:
            thread.in_callback -= 1

    def all_reduce(self, user: Any, dtype: int, data: int, count: int, place: int, room: int) -> int:
        narrow = dtype == _BFLOAT16
        kind = np.uint16 if narrow else NUMPY_TYPES[dtype]
        return self._guard(place, room, lambda: self.carrier.all_reduce(_memory(data, count, kind), narrow))

    def reduce_scatter(self, user: Any, dtype: int, send: int, receive: int, count: int, place: int, room: int) -> int:
        narrow = dtype == _BFLOAT16
        kind = np.uint16 if narrow else NUMPY_TYPES[dtype]
        rows = _memory(send, count * self.size, kind).reshape(self.size, count)
        return self._guard(place, room, self.carrier.reduce_scatter, rows, _memory(receive, count, kind), narrow)

    def all_gather(self, user: Any, send: int, receive: int, size: int, place: int, room: int) -> int:
        rows = _memory(receive, size * self.size, np.uint8).reshape(self.size, size)
        return self._guard(place, room, self.carrier.all_gather, _memory(send, size, np.uint8), rows)

    def broadcast(self, user: Any, data: int, size: int, root: int, place: int, room: int) -> int:
        return self._guard(place, room, self.carrier.broadcast, _memory(data, size, np.uint8), root)

    def barrier(self, user: Any, place: int, room: int) -> int:
        return self._guard(place, room, self.carrier.barrier)

    def abort(self, user: Any) -> None:
        self._guard(None, 0, self.carrier.abort)

    def close(self, user: Any) -> None:
        self._guard(None, 0, self.carrier.close)


def _options(rank: int, size: int, timeout: float, watch_dir: Optional[Path]) -> Any:
    return r.new(r.cavmae_world_options, rank=rank, size=size, timeout=timeout, watch_dir=encoded(watch_dir))


class World(Handle):
    """Ranks 0 .. size - 1, each with a context of its own. ``config.set_world(world)`` makes training parallel.

    ``World(context, carrier, rank, size)`` exchanges data by a Carrier in Python; the class methods make other worlds.
    timeout: seconds that a collective may take, 0: 30. watch_dir: a folder that all ranks see, in which each notes how
    far it is, so that an error says which one is behind. What is collective is called by every rank, in the same order.
    """

    _pointer_type = world_pointer
    _free = "cavmae_world_free"

    def __init__(
        self,
        context: Context,
        carrier: Carrier,
        rank: int,
        size: int,
        *,
        timeout: float = 0.0,
        watch_dir: Optional[Path] = None,
    ) -> None:
        collectives = _Collectives(carrier, size)
        options = _options(rank, size, timeout, watch_dir)
        try:
            handle = made(
                world_pointer,
                library().cavmae_world_create,
                context._handle,
                ctypes.byref(options),
                ctypes.byref(collectives.record),
            )
        except CavmaeError as error:
            raise error from (collectives.errors[0] if collectives.errors else None)
        self._begin(handle, context, collectives)

    def _begin(self, handle: Any, context: Context, collectives: Optional[_Collectives]) -> None:
        self.context = context
        self._collectives = collectives
        self._adopt(handle)
        # The library may close the carrier later than this object dies: whoever works in the world keeps it.
        if collectives is not None:
            _carriers.append(collectives)

    @classmethod
    def _from(cls, handle: Any, context: Context) -> "World":
        world = cls.__new__(cls)
        world._begin(handle, context, None)
        return world

    @classmethod
    def threads(cls, contexts: Sequence[Context], *, timeout: float = 0.0) -> "List[World]":
        """A world of threads of this process, one for each context; each thread then uses its own."""
        count = len(contexts)
        handles = (context_pointer * max(count, 1))(*(context._handle for context in contexts))
        out = (world_pointer * max(count, 1))()
        options = _options(0, 0, timeout, None)
        call(library().cavmae_world_create_threads, handles, count, ctypes.byref(options), out)
        # Indexing an array of pointers gives an object that looks into the array; a copy does not.
        return [cls._from(ctypes.cast(out[rank], world_pointer), contexts[rank]) for rank in range(count)]

    @classmethod
    def mpi(
        cls, context: Context, comm: Any = None, *, timeout: float = 0.0, watch_dir: Optional[Path] = None
    ) -> "World":
        """The system's MPI. comm: the address of an MPI_Comm (mpi4py: MPI._addressof(comm)); None: all. Collective."""
        options = _options(0, 0, timeout, watch_dir)
        function = library().cavmae_world_create_mpi
        return cls._from(made(world_pointer, function, context._handle, ctypes.byref(options), comm), context)

    @classmethod
    def nccl(
        cls,
        context: Context,
        rank: int,
        size: int,
        id: bytes,
        *,
        timeout: float = 0.0,
        watch_dir: Optional[Path] = None,
    ) -> "World":
        """NCCL between GPUs. id: nccl_id() of rank 0, which the program brings to the others. Collective."""
        if len(id) != r.constant("NCCL_ID_SIZE"):
            raise ValueError(f"id must be the {r.constant('NCCL_ID_SIZE')} bytes that nccl_id gave, not {len(id)}")
        options = _options(rank, size, timeout, watch_dir)
        bytes_ = (ctypes.c_uint8 * len(id)).from_buffer_copy(id)
        function = library().cavmae_world_create_nccl
        return cls._from(made(world_pointer, function, context._handle, ctypes.byref(options), bytes_), context)

    @property
    def rank(self) -> int:
        """Of this one, from 0."""
        return int(library().cavmae_world_rank(self._handle))

    @property
    def size(self) -> int:
        """Number of ranks."""
        return int(library().cavmae_world_size(self._handle))

    @property
    def carrier(self) -> str:
        """ "threads", "mpi", "nccl", or a Carrier's name."""
        return str(library().cavmae_world_carrier(self._handle).decode())

    # ---- For the program's own needs; collective

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        self._collective(library().cavmae_world_barrier)

    def sum(self, values: Any) -> "np.ndarray[Any, Any]":
        """Sum over the ranks of values, float64 of any shape."""
        total = np.array(values, np.float64, order="C")
        self._collective(library().cavmae_world_sum, pointer(total, ctypes.c_double), total.size)
        return total

    def gather(self, values: Any) -> "np.ndarray[Any, Any]":
        """[size, ...] every rank's values, on all ranks; of the same type and shape everywhere."""
        mine = np.asarray(values, order="C")
        if mine.dtype.hasobject:
            raise TypeError("values must be numbers, not Python objects")
        everybody = new_array((self.size, *mine.shape), mine.dtype)
        self._collective(library().cavmae_world_gather, mine.ctypes.data, everybody.ctypes.data, mine.nbytes)
        return everybody

    def broadcast(self, data: Any, root: int = 0) -> None:
        """The array data becomes root's, in place."""
        array = as_array(data, "data", data.dtype)
        if not array.flags.writeable:
            raise ValueError("data must be writeable")
        self._collective(library().cavmae_world_broadcast, array.ctypes.data, array.nbytes, root)

    def _collective(self, function: Any, *arguments: Any) -> None:
        try:
            call(function, self._handle, *arguments)
        except PeerError as error:
            failed = self._collectives.errors if self._collectives else []
            raise error from (failed[0] if failed else None)

    def fail(self, sentence: str) -> None:
        """Tells the others that this rank cannot go on: what they wait for fails with PeerError and this sentence."""
        library().cavmae_world_fail(self._handle, sentence.encode())

    def __repr__(self) -> str:
        return "World(closed)" if self.closed else f"<World over {self.carrier}, rank {self.rank} of {self.size}>"


# Carriers that the library may still call: their number is that of the worlds a process makes.
_carriers: List[_Collectives] = []


def nccl_id(context: Context) -> bytes:
    """A new id for a world over NCCL; rank 0 makes it."""
    id = (ctypes.c_uint8 * r.constant("NCCL_ID_SIZE"))()
    call(library().cavmae_nccl_id, context._handle, id)
    return bytes(id)
