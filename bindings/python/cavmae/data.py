"""Data: loaders over manifests, folders and packed files."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Tuple

from . import _records as r
from ._abi import loader as loader_pointer
from ._calls import Progress, call
from ._handles import Handle, made
from ._library import library
from .batch import Batch, from_record
from .config import Config
from .context import Context, Path, context_of, encoded
from .media import ready


@dataclass(frozen=True)
class Item:
    """An entry of a manifest. labels: indices of classes, label_weights: theirs, in [0, 1]."""

    id: str
    audio_path: Optional[str]
    image_path: Optional[str]
    labels: Tuple[int, ...]
    label_weights: Tuple[float, ...]


class Loader(Handle):
    """Batches of a manifest, a folder of media files, or a packed data set, prepared ahead by threads.

    An iteration is an epoch::

        loader = cavmae.Loader(config, "train.json", "labels.csv")
        for epoch in range(25):
            for batch in loader:
                trainer.step(batch)

    and for evaluation every clip once, in the manifest's order, as it is::

        for batch in cavmae.Loader(config.for_evaluation(), "val.json", "labels.csv"):
            scores = model.embed(batch, outputs="scores").scores

    A batch shows the loader's memory, and is valid until the next one; ``batch.copy()`` keeps it. An iteration that is
    left early goes on where it was; ``seek(0)`` goes back. labels: a CSV of classes, None: without. values: keys of the
    configuration to change, ``batch=4``.
    """

    _pointer_type = loader_pointer
    _free = "cavmae_loader_free"

    def __init__(self, config: Config, manifest: Path, labels: Optional[Path] = None, **values: Any) -> None:
        if values:
            config = config.copy(**values)
        self.context = config.context
        self._values = dict(config)
        self._turn = 0  # batches given out and taken back: tells which batch is valid
        pointer = made(
            loader_pointer, library().cavmae_loader_create, config._handle, os.fsencode(manifest), encoded(labels)
        )
        self._adopt(pointer)

    def next(self) -> Optional[Batch]:
        """The next batch; None at the end of an epoch, and the call after that starts the next one."""
        handle = self._handle
        ready(self.context)
        self._turn += 1
        out = r.P(r.cavmae_batch)()
        call(library().cavmae_loader_next, handle, ctypes.byref(out))
        if not out:
            return None
        return from_record(out.contents, self._values, self, (self, self._turn))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self.next()
            if batch is None:
                return
            yield batch

    def __len__(self) -> int:
        """Batches in an epoch without broken samples."""
        return int(library().cavmae_loader_batches(self._handle))

    def seek(self, position: int) -> None:
        """The next batch begins with entry `position` of this epoch's order."""
        handle = self._handle
        self._turn += 1
        call(library().cavmae_loader_seek, handle, position)

    @property
    def count(self) -> int:
        """Entries in the manifest."""
        return int(library().cavmae_loader_count(self._handle))

    @property
    def epoch(self) -> int:
        """Of the last batch, from 0."""
        return int(library().cavmae_loader_epoch(self._handle))

    @property
    def broken(self) -> int:
        """Samples skipped so far, where key broken is "skip"."""
        return int(library().cavmae_loader_broken(self._handle))

    @property
    def class_names(self) -> Tuple[str, ...]:
        """Of the labels file."""
        handle = self._handle
        names = (library().cavmae_loader_class_name(handle, index) for index in range(self.classes))
        return tuple((name or b"").decode("utf-8", "replace") for name in names)

    @property
    def classes(self) -> int:
        """Of the labels file; 0: there is none."""
        return int(library().cavmae_loader_classes(self._handle))

    def item(self, index: int) -> Item:
        """The index-th entry of the manifest, as ``batch.samples`` counts."""
        record = r.new(r.cavmae_loader_item)
        call(library().cavmae_loader_item_at, self._handle, index, ctypes.byref(record))
        count = record.label_count
        weights = tuple(record.label_weights[:count]) if record.label_weights else (1.0,) * count
        return Item(
            (record.id or b"").decode("utf-8", "replace"),
            None if record.audio_path is None else os.fsdecode(record.audio_path),
            None if record.image_path is None else os.fsdecode(record.image_path),
            tuple(record.labels[:count]) if count else (),
            weights,
        )

    def __repr__(self) -> str:
        return "Loader(closed)" if self.closed else f"<Loader, {self.count} clips in {len(self)} batches>"


@dataclass(frozen=True)
class PackReport:
    """What a packed data set holds; audio_mean and audio_std are for the keys of that name."""

    frames: int
    clips: int
    broken: int
    bytes: int
    audio_frames: int
    audio_mean: float
    audio_std: float


def _report_of(record: Any) -> PackReport:
    return PackReport(**{name: getattr(record, name) for name in PackReport.__dataclass_fields__})


def pack(
    config: Config,
    manifest: Path,
    out: Path,
    labels: Optional[Path] = None,
    *,
    progress: Optional[Progress] = None,
) -> PackReport:
    """Writes all that a manifest or folder lists into one file, decoded, that a Loader takes in its place."""
    record = r.new(r.cavmae_pack_report)
    ready(config.context)
    call(
        library().cavmae_pack,
        config._handle,
        os.fsencode(manifest),
        encoded(labels),
        os.fsencode(out),
        ctypes.byref(record),
        progress=progress,
    )
    return _report_of(record)


def pack_info(path: Path, *, context: Optional[Context] = None) -> PackReport:
    """The report of a packed data set."""
    record = r.new(r.cavmae_pack_report)
    call(library().cavmae_pack_info, context_of(context)._handle, os.fsencode(path), ctypes.byref(record))
    return _report_of(record)
