"""Index: exact cosine search over embeddings."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from ._abi import index as index_pointer
from ._arrays import as_array, new_array, pointer
from ._calls import Progress, call
from ._errors import FormatError
from ._handles import Handle, made
from ._library import library
from .context import Context, Path, context_of
from .embedding import COORDINATED, Embedding, Embeddings
from .files import SafetensorsFile, save_safetensors

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True)
class Match:
    """A row that was found: its number, its cosine, and its name (the path of a file that was embedded), or None."""

    id: int
    score: float
    name: Any = None


@dataclass(frozen=True, eq=False)
class Matches:
    """What a search found: ids int64 and scores float32, falling, [k] for one query, [queries, k] for several.

    Of one query it is a sequence of Match, of several one of Matches. Past the index's end ids are -1, scores -2;
    a sequence of Match ends there.
    """

    ids: Any
    scores: Any
    names: Any = None

    def __len__(self) -> int:
        return int((self.ids >= 0).sum()) if self.ids.ndim == 1 else int(self.ids.shape[0])

    def __getitem__(self, place: Union[int, slice]) -> Any:
        if self.ids.ndim == 2:
            return Matches(self.ids[place], self.scores[place], self.names)
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} matches")
        number = int(self.ids[place])
        name = self.names[number] if self.names is not None and number < len(self.names) else None
        return Match(number, float(self.scores[place]), name)

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        if self.ids.ndim == 2:
            return f"<Matches of {len(self)} queries>"
        return f"Matches({list(self)!r})"


def rows_of(embeddings: Any, kind: str) -> Any:
    """The array to search of what embed_files gave, or the array itself."""
    if not isinstance(embeddings, Embedding):
        return embeddings
    rows = getattr(embeddings, kind, None)
    if rows is None:
        raise ValueError(f"these embeddings have no {kind!r}: embed with outputs=({kind!r},), or give kind=...")
    return rows


_METADATA = ("cavmae.index", "cavmae.index.dim")  # the library's
_NAMES = "cavmae.index.names"  # ours: a list in JSON, with null for a row without name
_KIND = "cavmae.index.kind"  # ours


def _encoded_names(names: Sequence[Any]) -> str:
    plain = [os.fspath(name) if isinstance(name, os.PathLike) else name for name in names]
    for name in plain:
        if name is not None and not isinstance(name, (str, int, float)):
            raise TypeError(f"a file's names are text, numbers, paths or None, not {name!r}")
    return json.dumps(plain)


def _metadata_of(path: Path) -> Any:
    """Of an index file that the library has read and found whole."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > os.fstat(file.fileno()).st_size:
            return {}  # the manifest of shards
        return json.loads(file.read(size)).get("__metadata__", {})


def _names_in(metadata: Any, path: Path, count: int) -> "list[Any]":
    try:
        names = json.loads(metadata.get(_NAMES, "[]"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{os.fspath(path)}: metadata {_NAMES} is no JSON: {error}") from None
    if not isinstance(names, list) or len(names) not in (0, count):
        raise FormatError(f"{os.fspath(path)}: metadata {_NAMES} is not a list of {count} names")
    return names


class Index(Handle):
    """Rows to search by cosine: exact, in float32.

    embeddings: what Model.embed_files gave, with the paths as names, or rows float32 [count, dim].
    kind: which of the embeddings: "visual" (None: where they have it, else "audio"), with which e.audio and e.visual of
    others are comparable; or "joint". names: of the rows, for Match.name. dim: of an index without rows yet.
    ``save`` and ``load`` keep the names, paths as text.
    """

    _pointer_type = index_pointer
    _free = "cavmae_index_free"

    def __init__(
        self,
        embeddings: Any = None,
        *,
        kind: Optional[str] = None,
        names: Optional[Sequence[Any]] = None,
        dim: Optional[int] = None,
        context: Optional[Context] = None,
    ) -> None:
        if embeddings is None and dim is None:
            raise ValueError("give embeddings, or dim of those to come")
        self.context = context_of(context)
        if kind is None:
            kind = "audio" if isinstance(embeddings, Embedding) and embeddings.visual is None else "visual"
        self.kind = kind
        self.names: list[Any] = []
        rows = None if embeddings is None else rows_of(embeddings, kind)
        if dim is None:
            dim = as_array(rows, "embeddings", np.float32, (1, 2)).shape[-1]
        self._adopt(made(index_pointer, library().cavmae_index_create, self.context._handle, dim))
        if embeddings is not None:
            self.add(embeddings, names=names)

    @classmethod
    def _from(cls, pointer: Any, context: Context) -> "Index":
        index = cls.__new__(cls)
        index.context, index.kind, index.names = context, "visual", []
        index._adopt(pointer)
        return index

    @classmethod
    def load(cls, path: Path, *, names: Optional[Sequence[Any]] = None, context: Optional[Context] = None) -> "Index":
        """An index that was saved, by any program, or the manifest.json of cavmae-embed --shards.

        names: of the rows; None: those that ``save`` has put into the file.
        """
        context = context_of(context)
        index = cls._from(made(index_pointer, library().cavmae_index_load, context._handle, os.fsencode(path)), context)
        metadata = _metadata_of(path)
        index.kind = metadata.get(_KIND, "visual")
        if index.kind not in COORDINATED:
            raise FormatError(f"{os.fspath(path)}: metadata {_KIND} is {index.kind!r}, which is no kind")
        index.names = _names_in(metadata, path, index.count) if names is None else list(names)
        if names is not None and len(index.names) != index.count:
            raise ValueError(f"there are {len(index.names)} names for {index.count} rows")
        return index

    @classmethod
    def load_part(cls, path: Path, part: int, parts: int, *, context: Optional[Context] = None) -> "Tuple[Index, int]":
        """The part-th of so many parts of such a manifest, and the clip that its row 0 is."""
        context = context_of(context)
        first = ctypes.c_int64()
        loaded = made(
            index_pointer,
            library().cavmae_index_load_part,
            context._handle,
            os.fsencode(path),
            part,
            parts,
            ctypes.byref(first),
        )
        return cls._from(loaded, context), first.value

    def save(self, path: Path) -> None:
        """Writes rows, names and kind into one file, atomically; the C library and its programs read the rows of it.

        Names must be text, numbers, paths or None, which come back as they are, but for paths, which are text then.
        """
        if not self.names and self.kind == "visual":
            call(library().cavmae_index_save, self._handle, os.fsencode(path))
            return
        more = {_KIND: self.kind}
        if self.names:
            more[_NAMES] = _encoded_names([*self.names, *[None] * (self.count - len(self.names))])
        rows = f"{os.fspath(path)}.{os.getpid()}.{threading.get_ident()}.rows"
        try:
            call(library().cavmae_index_save, self._handle, os.fsencode(rows))
            with SafetensorsFile(rows, context=self.context) as file:
                metadata = {key: file.metadata(key) or "" for key in _METADATA}
                save_safetensors(path, dict(file), {**metadata, **more}, context=self.context)
        finally:
            if os.path.exists(rows):
                os.unlink(rows)

    def add(self, embeddings: Any, *, names: Optional[Sequence[Any]] = None) -> None:
        """Adds rows [count, dim] or one [dim], or what embed_files gave; ids go on from what is there."""
        rows = as_array(rows_of(embeddings, self.kind), "embeddings", np.float32, (1, 2))
        rows = rows.reshape(1, -1) if rows.ndim == 1 else rows
        if rows.shape[1] != self.dim:
            raise ValueError(f"embeddings have a width of {rows.shape[1]}, and the index one of {self.dim}")
        if names is None and isinstance(embeddings, Embeddings):
            names = embeddings.paths
        if names is not None and len(names) != len(rows):
            raise ValueError(f"there are {len(names)} names for {len(rows)} rows")
        first = self.count
        call(library().cavmae_index_add, self._handle, pointer(rows, ctypes.c_float), len(rows))
        if names is not None:
            self.names += [None] * (first - len(self.names)) + list(names)

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        world: "Optional[World]" = None,
        progress: Optional[Progress] = None,
    ) -> Matches:
        """The k rows of the highest cosine to each query, float32 [dim] or [queries, dim].

        world: over the indices of all its ranks, as if one had their rows, rank 0's first; collective.
        """
        asked = as_array(rows_of(queries, self.kind), "queries", np.float32, (1, 2))
        if asked.shape[-1] != self.dim:
            raise ValueError(f"queries have a width of {asked.shape[-1]}, and the index one of {self.dim}")
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        count = 1 if asked.ndim == 1 else asked.shape[0]
        ids, scores = new_array((count, k), np.int64), new_array((count, k), np.float32)
        results = (pointer(ids, ctypes.c_int64), pointer(scores, ctypes.c_float))
        query = pointer(asked, ctypes.c_float)
        if world is None:
            call(library().cavmae_index_search, self._handle, query, count, k, *results, progress=progress)
        else:
            call(library().cavmae_index_search_world, self._handle, world._handle, query, count, k, *results)
        names = self.names if self.names and world is None else None
        return Matches(ids[0], scores[0], names) if asked.ndim == 1 else Matches(ids, scores, names)

    @property
    def count(self) -> int:
        """Rows."""
        return int(library().cavmae_index_count(self._handle))

    def __len__(self) -> int:
        return self.count

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return int(library().cavmae_index_dim(self._handle))

    def __repr__(self) -> str:
        return "Index(closed)" if self.closed else f"<Index of {self.count} rows, {self.dim} wide>"
