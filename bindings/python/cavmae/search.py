"""Index: exact cosine search over embeddings."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence, Tuple

import numpy as np

from ._abi import index as index_pointer
from ._arrays import as_array, new_array, pointer
from ._calls import Progress, call
from ._handles import Handle, made
from ._library import library
from .context import Context, Path, context_of
from .embedding import Embedding, Embeddings

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True)
class Match:
    """A row that was found: its number, its cosine, and its name (the path of a file that was embedded)."""

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

    def __getitem__(self, place: int) -> Any:
        if self.ids.ndim == 2:
            return Matches(self.ids[place], self.scores[place], self.names)
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


class Index(Handle):
    """Rows to search by cosine: exact, in float32.

    embeddings: what Model.embed_files gave, with the paths as names, or rows float32 [count, dim].
    kind: which of the embeddings: "visual" (None: where they have it, else "audio"), with which e.audio and e.visual of
    others are comparable; or "joint". names: of the rows, for Match.name. dim: of an index without rows yet.
    Names live in this object, ``save`` writes the rows alone.
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
    def _from(cls, pointer: Any, context: Context, names: Optional[Sequence[Any]]) -> "Index":
        index = cls.__new__(cls)
        index.context, index.kind, index.names = context, "visual", list(names or ())
        index._adopt(pointer)
        return index

    @classmethod
    def load(cls, path: Path, *, names: Optional[Sequence[Any]] = None, context: Optional[Context] = None) -> "Index":
        """An index that was saved, or the manifest.json of cavmae-embed --shards."""
        context = context_of(context)
        loaded = made(index_pointer, library().cavmae_index_load, context._handle, os.fsencode(path))
        return cls._from(loaded, context, names)

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
        return cls._from(loaded, context, None), first.value

    def save(self, path: Path) -> None:
        """Writes the rows, atomically."""
        call(library().cavmae_index_save, self._handle, os.fsencode(path))

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
        return int(library().cavmae_index_count(self._handle))

    def __len__(self) -> int:
        return self.count

    @property
    def dim(self) -> int:
        return int(library().cavmae_index_dim(self._handle))

    def __repr__(self) -> str:
        return "Index(closed)" if self.closed else f"<Index of {self.count} rows, {self.dim} wide>"
