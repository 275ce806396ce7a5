"""Embeddings: of batches, files and windows. Methods of Model; here is how results are laid out."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from . import _records as r
from ._arrays import new_array, pointer
from ._device_arrays import as_input, ready as ready_array
from ._calls import Progress, call, callback, thread
from ._errors import CavmaeError, MediaError, status_of
from ._library import library
from .media import Media, media_probe, ready, source_of

if TYPE_CHECKING:
    from .batch import Batch
    from .model import Model

COORDINATED = ("audio", "visual", "joint")
OUTPUTS = COORDINATED + ("audio_tokens", "visual_tokens", "joint_tokens", "features", "logits", "scores")
MODES = {
    "multimodal": r.constant("MODE_MULTIMODAL"),
    "audioonly": r.constant("MODE_AUDIO_ONLY"),
    "videoonly": r.constant("MODE_VIDEO_ONLY"),
    "missingaudioonly": r.constant("MODE_MISSING_AUDIO_ONLY"),
    "missingvideoonly": r.constant("MODE_MISSING_VIDEO_ONLY"),
}


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a model makes of clips; None for what was not asked for. float32 arrays.

    audio, visual: [B, D] coordinated, of length 1, comparable with one another by their product.
    joint: [B, D] of sound and picture together; not normalised.
    audio_tokens, visual_tokens, joint_tokens: [B, tokens, D]; of clips of different length [all tokens, D].
    features: [B, width] what a head sees. logits, scores: [B, classes].

    Of one file there is no B. With several frames of a clip all but audio, audio_tokens and scores have a row for each:
    [B, frames, ...].
    """

    audio: Any = None
    visual: Any = None
    joint: Any = None
    audio_tokens: Any = None
    visual_tokens: Any = None
    joint_tokens: Any = None
    features: Any = None
    logits: Any = None
    scores: Any = None

    def arrays(self) -> dict[str, Any]:
        """Those that were asked for."""
        return {name: getattr(self, name) for name in OUTPUTS if getattr(self, name) is not None}

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={array.shape}" for name, array in self.arrays().items())
        return f"{type(self).__name__}({inside})"


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings(Embedding):
    """Of several files, a row for each. paths: theirs. failed: what was skipped, with its error."""

    paths: Tuple[Any, ...] = ()
    failed: Mapping[Any, CavmaeError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False, repr=False)
class Windows(Embedding):
    """Of one file's windows, a row for each, or with pool its mean. start, end: float64 [windows], in seconds."""

    start: Any = None
    end: Any = None

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Plan:
    """What is computed, and how large it is for one clip."""

    outputs: Tuple[str, ...]
    mode: int
    average: int
    shapes: Mapping[str, Tuple[int, ...]]
    framed: Mapping[str, bool]  # has a row for each of several frames

    def allocate(self, count: int, frames: int) -> dict[str, Any]:
        return {
            name: new_array(
                (count, *((frames,) if frames and self.framed[name] else ()), *self.shapes[name]), np.float32
            )
            for name in self.outputs
        }

    def record(self, arrays: Mapping[str, Any], frames: int = 0) -> Any:
        floats = {name: pointer(array, ctypes.c_float) for name, array in arrays.items()}
        return r.new(r.cavmae_embedding, mode=self.mode, average=self.average, frames=frames, **floats)


def plan(
    config: Mapping[str, Any],
    outputs: Optional[Sequence[str]],
    has: Tuple[bool, bool],
    mode: Optional[str] = None,
    average: str = "scores",
) -> Plan:
    """outputs None: of audio, visual and joint those that the model has and the input is enough for."""
    modalities = str(config["modalities"])
    can = (has[0] and "a" in modalities, has[1] and "v" in modalities)
    if outputs is None:
        enough = {"audio": can[0], "visual": can[1], "joint": can[0] and can[1]}
        outputs = [name for name in COORDINATED if enough[name]]
        if not outputs:
            raise ValueError("nothing to embed: give audio or pcm, image or pixels, as the model has modalities")
    elif isinstance(outputs, str):
        outputs = (outputs,)
    for name in outputs:
        if name not in OUTPUTS:
            raise ValueError(f"there is no output {name!r}; there are {', '.join(OUTPUTS)}")
    named = mode if mode is not None else str(config["mode"])
    if named not in MODES:
        raise ValueError(f"there is no mode {named!r}; there are {', '.join(MODES)}")
    if f"AVERAGE_{average.upper()}" not in r.CONSTANTS:
        raise ValueError(f"average must be 'scores', 'logits' or 'features', not {average!r}")
    p, width = int(config["patch_size"]), int(config["embed_dim"])
    audio = (int(config["mel_bins"]) // p) * (int(config["audio_frames"]) // p) if "a" in modalities else 0
    visual = (int(config["image_size"]) // p) ** 2 if "v" in modalities else 0
    classes = int(config["classes"])
    if not classes and ("logits" in outputs or "scores" in outputs):
        raise ValueError("logits and scores are of a model with a head (key classes), which this one has not")
    # Whether features and logits have a row for each picture; their width does not depend on the mode.
    sees = "v" in modalities and (modalities == "v" or named in ("multimodal", "videoonly", "missingvideoonly"))
    wide = 2 if config["head_input"] == "concat" else 1
    shapes = {
        "audio": (width,),
        "visual": (width,),
        "joint": (width,),
        "audio_tokens": (audio, width),
        "visual_tokens": (visual, width),
        "joint_tokens": (audio + visual, width),
        "features": (width * wide,),
        "logits": (classes,),
        "scores": (classes,),
    }
    framed = {name: name not in ("audio", "audio_tokens", "scores") for name in OUTPUTS}
    framed["features"] = framed["logits"] = sees
    return Plan(
        tuple(outputs), MODES[mode] if mode is not None else 0, r.constant(f"AVERAGE_{average.upper()}"), shapes, framed
    )


def _frames_of_clips(batch: "Batch", config: Mapping[str, Any]) -> "Optional[np.ndarray[Any, Any]]":
    """T of each clip; None: all as configured."""
    if batch.pcm is not None and config["audio_length"] == "native":
        p = config["patch_size"]
        heard = library().cavmae_fbank_frames(batch.pcm.shape[1], config["sample_rate"])
        return np.full(batch.count, (heard + p - 1) // p * p, np.int64)
    lengths: "Optional[np.ndarray[Any, Any]]" = batch.audio_frames
    return lengths


def _fill(arrays: dict[str, Any], out: Mapping[str, Any], model: "Model") -> None:
    """The caller's arrays take the place of those that were allocated, whose shapes they have."""
    for name, value in out.items():
        if not isinstance(value, np.ndarray) and not hasattr(value, "__dlpack__"):
            raise TypeError(f"out: {name} is no array that can be filled")
        array = as_input(value, name, np.float32, (arrays[name].ndim,))
        if array.shape != arrays[name].shape:
            raise ValueError(f"out: {name} must have the shape {arrays[name].shape}, not {array.shape}")
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ValueError(f"out: {name} is not writeable")
        ready_array(array, model.context)
        arrays[name] = array


def embed_batch(
    model: "Model", batch: "Batch", wanted: Plan, out: Mapping[str, Any], progress: Optional[Progress] = None
) -> Embedding:
    """cavmae_embed."""
    config, frames = model._values, batch.frames
    record = batch._record(config, model.context)
    arrays = wanted.allocate(batch.count, frames)
    lengths = _frames_of_clips(batch, config)
    if lengths is not None:
        p, width = config["patch_size"], config["embed_dim"]
        sound = int((lengths // p).sum(dtype=np.int64)) * (config["mel_bins"] // p)
        # A clip's joint tokens are those of its sound, once for each picture, and the picture's.
        pictures = wanted.shapes["visual_tokens"][0] * batch.count
        rows = {"audio_tokens": sound, "joint_tokens": (sound + pictures) * max(frames, 1)}
        arrays.update({name: new_array((rows[name], width), np.float32) for name in rows if name in arrays})
    _fill(arrays, out, model)
    call(
        library().cavmae_embed,
        model._handle,
        ctypes.byref(record),
        ctypes.byref(wanted.record(arrays)),
        progress=progress,
    )
    return Embedding(**{**arrays, **out})


# ---- Files


def _plan_of_file(
    model: "Model", media: Media, outputs: Optional[Sequence[str]], frames: int, mode: Optional[str], average: str
) -> Plan:
    if frames < 0:
        raise ValueError(f"frames must be 0 or more, not {frames}")
    ready(model.context)
    has = (True, True)
    if outputs is None:
        info = media_probe(media, context=model.context)
        has = (info.audio_channels > 0, info.height > 0)
    wanted = plan(model._values, outputs, has, mode, average)
    _check_tokens(model._values, wanted)
    return wanted


def _check_tokens(config: Mapping[str, Any], wanted: Plan) -> None:
    if config["audio_length"] == "native" and {"audio_tokens", "joint_tokens"} & set(wanted.outputs):
        raise ValueError(
            "how many tokens a file has is not known before with audio_length 'native': take media_audio, "
            "prepare_audio, and embed(audio=..., audio_frames=...)"
        )


def embed_file(
    model: "Model",
    media: Media,
    outputs: Optional[Sequence[str]],
    frames: int,
    mode: Optional[str],
    average: str,
    progress: Optional[Progress] = None,
) -> Embedding:
    """cavmae_embed_source."""
    wanted = _plan_of_file(model, media, outputs, frames, mode, average)
    arrays = wanted.allocate(1, frames)
    source, kept = source_of(media)
    call(
        library().cavmae_embed_source,
        model._handle,
        ctypes.byref(source),
        ctypes.byref(wanted.record(arrays, frames)),
        progress=progress,
    )
    del kept
    return Embedding(**{name: array[0] for name, array in arrays.items()})


def embed_files(
    model: "Model",
    paths: Sequence[Media],
    outputs: Optional[Sequence[str]],
    frames: int,
    mode: Optional[str],
    average: str,
    progress: Union[bool, Progress],
    skip_broken: bool,
) -> Embeddings:
    """Many files, one after another: the library works on all threads within each."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError("paths must be a list of files: embed_file embeds one")
    every = list(paths)
    chosen = outputs is not None
    if outputs is None:  # the same of each, so that the rows are alike
        outputs = plan(model._values, None, (True, True), mode, average).outputs
    told = show_progress if progress is True else (progress or None)
    rows: dict[str, list[Any]] = {}
    done, failed = [], {}
    for number, media in enumerate(every):
        try:
            one = embed_file(model, media, outputs, frames, mode, average)
        except CavmaeError as error:
            if not skip_broken or isinstance(error, (MemoryError, NotImplementedError)):
                if isinstance(error, MediaError) and not chosen:
                    raise MediaError(f"{error}; outputs=('audio',) or ('visual',) needs one track alone") from None
                raise
            failed[media if isinstance(media, (str, os.PathLike)) else number] = error
        else:
            done.append(media)
            for name, array in one.arrays().items():
                rows.setdefault(name, []).append(array)
        if told is not None:
            told("files embedded", number + 1, len(every))
    empty = plan(model._values, outputs, (True, True), mode, average).allocate(0, frames)
    return Embeddings(
        **{name: np.stack(rows[name]) if name in rows else array for name, array in empty.items()},
        paths=tuple(done),
        failed=failed,
    )


def show_progress(what: str, done: int, total: int) -> None:
    """What progress=True shows: a line on stderr, written over and over on a terminal."""
    last = total > 0 and done >= total
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if sys.stderr is None or not (terminal or last):
        return
    of = f"/{total}" if total else ""
    sys.stderr.write(f"{chr(13) if terminal else ''}{done}{of} {what}{chr(10) if last else ''}")
    sys.stderr.flush()


# ---- Windows


def embed_windows(
    model: "Model",
    media: Media,
    window: float,
    hop: float,
    outputs: Optional[Sequence[str]],
    frames: int,
    pool: bool,
    mode: Optional[str],
    average: str,
    each: Optional[Callable[[float, float, Embedding], Any]],
    progress: Optional[Progress],
) -> Windows:
    """cavmae_embed_windows."""
    wanted = _plan_of_file(model, media, outputs, frames, mode, average)
    arrays = wanted.allocate(1, frames)
    rows: dict[str, list[Any]] = {name: [] for name in arrays}
    start: list[float] = []
    end: list[float] = []

    def take(user: Any, index: int, begins: float, ends: float, record: Any) -> int:
        with callback() as sink:
            copies = {name: array[0].copy() for name, array in arrays.items()}
            if each is not None:
                each(begins, ends, Embedding(**copies))
            elif not pool:
                for name, copy in copies.items():
                    rows[name].append(copy)
            start.append(begins)
            end.append(ends)
        return status_of(thread.pending) if sink.failed and thread.pending else 0

    options = r.new(r.cavmae_window_options, pool=int(pool), window_seconds=window, hop_seconds=hop)
    source, kept = source_of(media)
    sink_function = r.cavmae_window_sink(take)
    call(
        library().cavmae_embed_windows,
        model._handle,
        ctypes.byref(source),
        ctypes.byref(options),
        ctypes.byref(wanted.record(arrays, frames)),
        sink_function,
        None,
        progress=progress,
    )
    del kept
    if pool:
        found = {name: array[0] for name, array in arrays.items()}
    else:
        found = {name: np.stack(rows[name]) for name in arrays if rows[name]}
    return Windows(**found, start=np.array(start), end=np.array(end))
