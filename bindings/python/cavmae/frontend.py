"""Front-end: sound and pictures to what a model takes."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Optional, Tuple

import numpy as np

from . import _records as r
from ._abi import tensor as tensor_pointer
from ._arrays import as_array, new_array, pointer
from ._calls import call
from ._handles import made
from ._library import library
from .context import Context, context_of
from .tensor import Tensor

if TYPE_CHECKING:
    from .config import Config


def fbank_frames(samples: int, rate: int) -> int:
    """Frames of a sound's filter bank: windows of 25 ms every 10 ms; 0 below 25 ms."""
    return int(library().cavmae_fbank_frames(samples, rate))


def fbank(pcm: Any, rate: int, mel_bins: int = 128, *, context: Optional[Context] = None) -> "np.ndarray[Any, Any]":
    """Kaldi's log-mel filter bank as torchaudio's compliance.kaldi.fbank gives it: float32 [frames, mel_bins].

    pcm: float32 [samples] in [-1, 1), mono, at rate Hz.
    """
    sound = as_array(pcm, "pcm", np.float32, 1)
    if mel_bins < 1:
        raise ValueError(f"mel_bins must be 1 or more, not {mel_bins}")
    out = new_array((fbank_frames(sound.size, rate), mel_bins), np.float32)
    call(
        library().cavmae_fbank,
        context_of(context)._handle,
        pointer(sound, ctypes.c_float),
        sound.size,
        rate,
        mel_bins,
        pointer(out, ctypes.c_float),
    )
    return out


def _sound(pcm: Any) -> Tuple[Any, int, int]:
    """pcm with its numbers of samples and channels."""
    sound = as_array(pcm, "pcm", np.float32, (1, 2))
    return sound, sound.shape[0], sound.shape[1] if sound.ndim == 2 else 1


def _from_sound(function: Any, config: "Config", pcm: Any, rate: int) -> "np.ndarray[Any, Any]":
    sound, samples, channels = _sound(pcm)
    handle = config._handle
    return Tensor(
        made(tensor_pointer, function, handle, pointer(sound, ctypes.c_float), samples, channels, rate)
    ).numpy()


def prepare_audio(config: "Config", pcm: Any, rate: int) -> "np.ndarray[Any, Any]":
    """The whole input contract for sound: one channel, resampled, log-mel, cut or filled up, normalised.

    pcm: float32 [samples] or [samples, channels] in [-1, 1), at any rate. Gives float32 [T, F].
    """
    return _from_sound(library().cavmae_prepare_audio, config, pcm, rate)


def resample(config: "Config", pcm: Any, rate: int) -> "np.ndarray[Any, Any]":
    """The contract's one channel at sample_rate: float32 [samples]."""
    return _from_sound(library().cavmae_resample, config, pcm, rate)


def _picture(config: "Config", pixels: Any) -> Tuple[Any, int]:
    """pixels, whose rows may lie apart, and the bytes from one to the next."""
    channels = config["image_channels"]
    if isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.dtype == np.uint8:
        picture = pixels
        inner = pixels.strides[1:] == (pixels.shape[2], 1) and pixels.strides[0] >= pixels.shape[1] * pixels.shape[2]
        if not inner:
            raise ValueError(
                "pixels must have rows of C-contiguous pixels: numpy.ascontiguousarray makes a copy that has"
            )
    else:
        picture = as_array(pixels, "pixels", np.uint8, 3)
    if picture.shape[2] != channels:
        raise ValueError(f"pixels must be [height, width, {channels}], not {picture.shape}")
    return picture, picture.strides[0]


def prepare_image(config: "Config", pixels: Any) -> "np.ndarray[Any, Any]":
    """The whole input contract for a picture: shorter side to image_size, centre crop, normalised.

    pixels: uint8 [height, width, C]. Gives float32 [C, image_size, image_size].
    """
    picture, stride = _picture(config, pixels)
    size = int(config["image_size"])
    out = new_array((int(config["image_channels"]), size, size), np.float32)
    call(
        library().cavmae_prepare_image,
        config._handle,
        ctypes.cast(picture.ctypes.data, r.P(ctypes.c_uint8)),
        picture.shape[1],
        picture.shape[0],
        stride,
        pointer(out, ctypes.c_float),
    )
    return out


def resize_image(config: "Config", pixels: Any) -> "np.ndarray[Any, Any]":
    """Resized and cropped, not normalised: uint8 [image_size, image_size, C]."""
    picture, stride = _picture(config, pixels)
    size = int(config["image_size"])
    out = new_array((size, size, int(config["image_channels"])), np.uint8)
    call(
        library().cavmae_resize_image,
        config._handle,
        ctypes.cast(picture.ctypes.data, r.P(ctypes.c_uint8)),
        picture.shape[1],
        picture.shape[0],
        stride,
        pointer(out, ctypes.c_uint8),
    )
    return out
