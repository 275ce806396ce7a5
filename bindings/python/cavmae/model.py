"""Model: parameters, configuration and input contract; loading, saving, embedding."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

from . import _records as r
from ._abi import model as model_pointer
from ._abi import tensor as tensor_pointer
from ._arrays import as_array, pointer
from ._calls import Progress, call
from ._handles import Handle, made
from ._library import library
from .batch import BatchLike, as_batch
from .config import Config
from .context import Context, Path, context_of
from . import embedding
from .embedding import Embedding, Embeddings, Windows
from .media import Media
from .tensor import Tensor

if TYPE_CHECKING:
    from .inpainting import Inpainting


@dataclass(frozen=True)
class LoadReport:
    """Tensors of a file against a model's; each but the matched is named in the log at level info."""

    matched: int = 0
    missing: int = 0
    unexpected: int = 0
    misshaped: int = 0


def _report_of(record: Any) -> LoadReport:
    return LoadReport(**{name: getattr(record, name) for name in LoadReport.__dataclass_fields__})


class Parameters(Mapping[str, Any]):
    """A model's parameters by the published checkpoints' names, in their order: read-only views of them.

    ``model.parameters[name] = values`` copies values in.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        return self._model.tensor(name).numpy()

    def __setitem__(self, name: str, values: Any) -> None:
        array = as_array(values, "values", np.float32)
        wanted = self._model.tensor(name).shape
        if array.shape != wanted:
            raise ValueError(f"{name} has the shape {wanted}, not {array.shape}")
        call(
            library().cavmae_model_set_parameter,
            self._model._handle,
            name.encode(),
            pointer(array, ctypes.c_float),
            array.size,
        )

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            name = library().cavmae_model_parameter_name(self._model._handle, index)
            if name is None:
                return
            yield name.decode()

    def __len__(self) -> int:
        return int(library().cavmae_model_parameter_count(self._model._handle))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(name == other for other in self)

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"


class Model(Handle):
    """A CAV-MAE model, new with random parameters: ``cavmae.load(path)`` reads one.

    Any number of threads may embed with one model at the same time; a trainer needs it alone.
    """

    _pointer_type = model_pointer
    _free = "cavmae_model_free"

    load_report: LoadReport = LoadReport()

    def __init__(self, config: Optional[Config] = None, *, context: Optional[Context] = None, **values: Any) -> None:
        if config is None:
            config = Config(context=context, **values)
        elif values:
            config = config.copy(**values)
        self._begin(made(model_pointer, library().cavmae_model_create, config._handle), config.context)

    def _begin(self, pointer: Any, context: Context, report: LoadReport = LoadReport()) -> None:
        self.context = context
        self._adopt(pointer)
        self.load_report = report
        self._values: dict[str, Any] = dict(self.config)  # of shapes, which never change

    @classmethod
    def _from(cls, pointer: Any, context: Context, report: LoadReport) -> "Model":
        model = cls.__new__(cls)
        model._begin(pointer, context, report)
        return model

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        allow_missing: bool = False,
        allow_unexpected: bool = False,
        mean_colours: bool = False,
        context: Optional[Context] = None,
    ) -> "Model":
        """A model file or checkpoint of this library, or the authors' or a vision MAE's ``.pth``, which is not trusted.

        allow_missing: parameters that the file lacks are initialised. allow_unexpected: tensors that the model lacks
        are left out. mean_colours: of a vision MAE, see CAVMAE_LOAD_MEAN_COLOURS. ``load_report`` of the model, or of a
        MismatchError, counts them.
        """
        context = context_of(context)
        flags = (
            allow_missing * r.constant("LOAD_ALLOW_MISSING")
            + allow_unexpected * r.constant("LOAD_ALLOW_UNEXPECTED")
            + mean_colours * r.constant("LOAD_MEAN_COLOURS")
        )
        record = r.new(r.cavmae_load_report)
        try:
            loaded = made(
                model_pointer,
                library().cavmae_model_load,
                context._handle,
                os.fsencode(path),
                flags,
                ctypes.byref(record),
            )
        except Exception as error:
            error.load_report = _report_of(record)  # type: ignore[attr-defined]
            raise
        return cls._from(loaded, context, _report_of(record))

    def save(self, path: Path) -> None:
        """Writes safetensors with the configuration and a CRC-32 of every tensor, atomically."""
        call(library().cavmae_model_save, self._handle, os.fsencode(path))

    def adapt(self, config: Optional[Config] = None, **values: Any) -> "Model":
        """A model of another configuration from this one's parameters: a head instead of the decoder, another length...

        config None: this model's, changed by values. What was taken over and what is new: its load_report.
        """
        config = (config or self.config).copy(**values)
        record = r.new(r.cavmae_load_report)
        adapted = made(model_pointer, library().cavmae_model_adapt, config._handle, self._handle, ctypes.byref(record))
        return Model._from(adapted, config.context, _report_of(record))

    # ---- What it is

    @property
    def config(self) -> Config:
        """A copy of the model's configuration, to read or to train with."""
        return Config._from(
            made(Config._pointer_type, library().cavmae_model_config, self._handle), self.context, "base", None
        )

    @property
    def dim(self) -> int:
        """D, the width of embeddings."""
        return int(self._values["embed_dim"])

    @property
    def classes(self) -> int:
        """Of its head; 0: it has none."""
        return int(self._values["classes"])

    @property
    def parameters(self) -> Parameters:
        """By name: read-only views, which can be set as items."""
        return Parameters(self)

    def tensor(self, name: str) -> Tensor:
        """A parameter as a Tensor, which has ``__dlpack__``: a view; of a model on a GPU a copy."""
        made_tensor = made(tensor_pointer, library().cavmae_model_parameter, self._handle, name.encode())
        return Tensor(made_tensor, writeable=False)

    def elements(self, trainable: bool = False) -> int:
        """Numbers in all parameters, or in those that training changes."""
        return int(library().cavmae_model_elements(self._handle, int(trainable)))

    def set_dtype(self, dtype: str) -> "Model":
        """Computes in "float32" or "bfloat16" from now on; parameters stay float32. Before trainers are made."""
        number = r.CONSTANTS.get(str(dtype).upper())
        if number is None:
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {dtype!r}")
        call(library().cavmae_model_set_dtype, self._handle, number)
        return self

    def __repr__(self) -> str:
        if self.closed:
            return "Model(closed)"
        head = f", {self.classes} classes" if self.classes else ""
        values = self._values
        return (
            f"<Model {values['modalities']}, {values['modality_depth']}+{values['joint_depth']} layers of {self.dim}"
            f"{head}, {self.elements():,} parameters>"
        )

    # ---- Embedding

    def embed(
        self,
        batch: Optional[BatchLike] = None,
        *,
        audio: Any = None,
        image: Any = None,
        pcm: Any = None,
        pixels: Any = None,
        audio_frames: Any = None,
        outputs: Optional[Sequence[str]] = None,
        mode: Optional[str] = None,
        average: str = "scores",
        out: Optional[Mapping[str, Any]] = None,
        progress: Optional[Progress] = None,
    ) -> Embedding:
        """Embeds clips that are prepared already, or raw samples and pixels: see Batch for the shapes.

        outputs: names of Embedding's fields; None: audio, visual and joint, as far as the input goes.
        mode: of features, logits and scores: "multimodal", "audioonly", ...; None: the model's.
        average: what of several frames is averaged into scores: "scores", "logits" or "features".
        out: arrays to fill by their outputs' names, which outputs then need not repeat: float32, C-contiguous, of the
        shapes that are returned; like the inputs on the host, or where the model's GPU has them (torch, CuPy).
        """
        if out and outputs is None:
            outputs = tuple(out)
        fields = {"audio": audio, "image": image, "pcm": pcm, "pixels": pixels, "audio_frames": audio_frames}
        clips = as_batch(batch, fields)
        has = (
            clips.audio is not None or clips.pcm is not None,
            clips.image is not None or clips.pixels is not None,
        )
        wanted = embedding.plan(self._values, outputs, has, mode, average)
        for name in out or ():
            if name not in wanted.outputs:
                raise ValueError(f"out has {name!r}, which is not among the outputs {wanted.outputs}")
        return embedding.embed_batch(self, clips, wanted, out or {}, progress)

    def embed_file(
        self,
        media: Media,
        *,
        outputs: Optional[Sequence[str]] = None,
        frames: int = 0,
        mode: Optional[str] = None,
        average: str = "scores",
    ) -> Embedding:
        """Embeds one media file, given by its path or its bytes: ``e.audio``, ``e.visual``, ``e.joint``, each [D].

        outputs None: these three, but for those that need a track which the file has not.
        frames: so many pictures, evenly spread, with a row for each; 0: the middle one.
        """
        return embedding.embed_file(self, media, outputs, frames, mode, average)

    def embed_files(
        self,
        paths: Sequence[Media],
        *,
        outputs: Optional[Sequence[str]] = None,
        frames: int = 0,
        mode: Optional[str] = None,
        average: str = "scores",
        progress: Union[bool, Progress] = False,
        skip_broken: bool = False,
    ) -> Embeddings:
        """Embeds media files: arrays with a row for each, [files, D], and ``paths``.

        outputs None: audio, visual and joint, so that every file must have sound and picture; else
        e.g. ``outputs=("audio",)``. progress True: a line on stderr; or a function of (what, done, total).
        skip_broken: files that cannot be embedded are left out, and are in ``failed`` with their error.
        """
        return embedding.embed_files(self, paths, outputs, frames, mode, average, progress, skip_broken)

    def embed_windows(
        self,
        media: Media,
        *,
        window: float = 0.0,
        hop: float = 0.0,
        pool: bool = False,
        outputs: Optional[Sequence[str]] = None,
        frames: int = 0,
        mode: Optional[str] = None,
        average: str = "scores",
        each: Optional[Callable[[float, float, Embedding], Any]] = None,
        progress: Optional[Progress] = None,
    ) -> Windows:
        """Embeds a file of any length window by window: arrays with a row for each, and their times in seconds.

        window: seconds, 0: what the model hears. hop: from one window's start to the next one's, 0: window.
        pool: the mean over all windows instead of a row for each.
        each: called with (start, end, Embedding) of each window, which is then not kept: memory stays small.
        """
        return embedding.embed_windows(self, media, window, hop, outputs, frames, pool, mode, average, each, progress)

    # ---- Painting, finding

    def inpaint(self, batch: Optional[BatchLike] = None, **options: Any) -> "Inpainting":
        """Masks clips and paints what is missing: see cavmae.inpaint."""
        from .inpainting import inpaint

        return inpaint(self, batch, **options)

    def localize(self, batch: Optional[BatchLike] = None, **fields: Any) -> "np.ndarray[Any, Any]":
        """Where in the picture a sound comes from: see cavmae.localize."""
        from .inpainting import localize

        return localize(self, batch, **fields)


def load(path: Path, **options: Any) -> Model:
    """Reads a model: ``cavmae.load("audio_model.21.pth")``. The same as Model.load."""
    return Model.load(path, **options)


def average_models(paths: Sequence[Path], out: Path, *, context: Optional[Context] = None) -> None:
    """Writes the mean of models' parameters (model files, checkpoints, ``.pth``) as a model file like the first."""
    encoded = [os.fsencode(path) for path in paths]
    names = (ctypes.c_char_p * max(len(encoded), 1))(*encoded)
    call(library().cavmae_average_models, context_of(context)._handle, names, len(encoded), os.fsencode(out))
