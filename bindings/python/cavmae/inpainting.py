"""Inpainting and localisation."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Sequence

import numpy as np

from . import _records as r
from ._arrays import as_array, new_array, pointer
from ._calls import call
from ._library import library
from .batch import BatchLike, as_batch
from .config import Config
from .context import Context, context_of

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What was painted; None of a modality that the model has not.

    audio: float32 [B, T, F] log-mel as fbank gives it; image: [B, C, H, W] in [0, 1]: the output for all patches.
    audio_pasted, image_pasted: painted where a patch was masked, the input elsewhere.
    mask_a, mask_v: uint8 [B, La], [B, Lv], the masks that were used, 1 = removed.
    error_a, error_v: mean squared error over masked patches, in the input's units. loss_a, loss_v: the model's own.
    approximate: a model trained with norm_pix_loss, whose patches' mean and contrast are guessed.
    """

    audio: Any
    audio_pasted: Any
    image: Any
    image_pasted: Any
    mask_a: Any
    mask_v: Any
    approximate: bool
    error_a: float
    error_v: float
    loss_a: float
    loss_v: float


def inpaint(
    model: "Model",
    batch: Optional[BatchLike] = None,
    *,
    config: Optional[Config] = None,
    draw: int = 0,
    audio: Any = None,
    image: Any = None,
    mask_a: Any = None,
    mask_v: Any = None,
    **objective: Any,
) -> Inpainting:
    """Masks clips and paints what is missing.

    Masks are the batch's; those it has not are drawn as the configuration's mask_ratio_a, mask_mode_a, ..., seed and
    `draw` say: the same number, the same masks. objective: keys of the objective to change, ``mask_ratio_v=0.5``.
    """
    clips = as_batch(batch, {"audio": audio, "image": image, "mask_a": mask_a, "mask_v": mask_v})
    if clips.audio_frames is not None:
        raise ValueError("inpainting takes clips as long as configured, without audio_frames")
    if objective:
        config = (config or model.config).copy(**objective)
    shape, p = model._values, int(model._values["patch_size"])
    count, size = clips.count, int(shape["image_size"])
    arrays: dict[str, Any] = {}
    if "a" in shape["modalities"]:
        bins, frames = int(shape["mel_bins"]), int(shape["audio_frames"])
        arrays["audio"] = new_array((count, frames, bins), np.float32)
        arrays["audio_pasted"] = new_array((count, frames, bins), np.float32)
        arrays["mask_a"] = new_array((count, bins // p * (frames // p)), np.uint8)
    if "v" in shape["modalities"]:
        channels = int(shape["image_channels"])
        arrays["image"] = new_array((count, channels, size, size), np.float32)
        arrays["image_pasted"] = new_array((count, channels, size, size), np.float32)
        arrays["mask_v"] = new_array((count, (size // p) ** 2), np.uint8)
    kinds = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.uint8): ctypes.c_uint8}
    record = r.new(r.cavmae_inpainting, **{name: pointer(array, kinds[array.dtype]) for name, array in arrays.items()})
    call(
        library().cavmae_inpaint,
        model._handle,
        None if config is None else config._handle,
        ctypes.byref(clips._record(shape, None)),
        draw,
        ctypes.byref(record),
    )
    found: dict[str, Any] = {name: getattr(record, name) for name in ("error_a", "error_v", "loss_a", "loss_v")}
    for name in ("audio", "audio_pasted", "image", "image_pasted", "mask_a", "mask_v"):
        found[name] = arrays.get(name)
    return Inpainting(**found, approximate=bool(record.approximate))


def localize(model: "Model", batch: Optional[BatchLike] = None, **fields: Any) -> "np.ndarray[Any, Any]":
    """Heat maps of where a sound comes from: float32 [B, H/p, W/p], with several frames [B, frames, H/p, W/p].

    Cosine of each visual token with the sound's mean one. Fields of a batch as keywords: audio=..., image=....
    """
    clips = as_batch(batch, fields)
    side = int(model._values["image_size"]) // int(model._values["patch_size"])
    heat = new_array((clips.count, *((clips.frames,) if clips.frames else ()), side, side), np.float32)
    record = clips._record(model._values, model.context)
    call(library().cavmae_localize, model._handle, ctypes.byref(record), pointer(heat, ctypes.c_float))
    return heat


def heatmap_resize(heat: Any, height: int, width: int) -> "np.ndarray[Any, Any]":
    """A heat map [rows, columns] enlarged to [height, width], bilinear; it covers the picture's centre crop."""
    small = as_array(heat, "heat", np.float32, 2)
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be 1 or more, not {height} and {width}")
    out = new_array((height, width), np.float32)
    call(
        library().cavmae_heatmap_resize,
        pointer(small, ctypes.c_float),
        *small.shape,
        height,
        width,
        pointer(out, ctypes.c_float),
    )
    return out


@dataclass(frozen=True, eq=False)
class LocalizationMetrics:
    """mean_iou over samples; success: share with an IoU of 0.5 or more; auc; iou: float64 [count]."""

    mean_iou: float
    success: float
    auc: float
    iou: Any


def localization_metrics(
    heat: Any,
    boxes: Sequence[Any],
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
    context: Optional[Context] = None,
) -> LocalizationMetrics:
    """Heat maps [count, rows, columns], enlarged to [height, width], against boxes in those pixels.

    boxes: for each sample one box (x0, y0, x1, y1), or several, [boxes, 4], of which the union counts.
    """
    maps = as_array(heat, "heat", np.float32, 3)
    each = [np.atleast_2d(np.asarray(box, np.float64)) for box in boxes]
    if len(each) != maps.shape[0]:
        raise ValueError(f"boxes are of {len(each)} samples, and heat has {maps.shape[0]}")
    for number, box in enumerate(each):
        if box.ndim != 2 or box.shape[1] != 4:
            raise ValueError(f"boxes[{number}] must be [boxes, 4], not {box.shape}")
    flat = np.ascontiguousarray(np.concatenate(each) if each else np.empty((0, 4)))
    counts = np.array([len(box) for box in each], np.int32)
    iou = new_array((len(each),), np.float64)
    record = r.new(r.cavmae_localization_metrics)
    call(
        library().cavmae_localization_from_boxes,
        context_of(context)._handle,
        pointer(maps, ctypes.c_float),
        *maps.shape,
        height,
        width,
        ctypes.cast(flat.ctypes.data, r.P(ctypes.c_double * 4)),
        pointer(counts, ctypes.c_int32),
        threshold,
        pointer(iou, ctypes.c_double),
        ctypes.byref(record),
    )
    return LocalizationMetrics(record.mean_iou, record.success, record.auc, iou)
