"""CAV-MAE, the contrastive audio-visual masked autoencoder: embed, search, train, fine-tune, paint, localise.

::

    import cavmae
    model = cavmae.load("audio_model.21.pth")
    e = model.embed_file("clip.mp4")              # e.audio, e.visual, e.joint: NumPy arrays
    index = cavmae.Index(model.embed_files(paths, progress=True))
    for match in index.search(e.audio, k=10):
        print(match.score, match.name)

Letters in shapes: B clips in a batch; T spectrogram frames of 10 ms; F mel bins; C, H, W channels, height and width in
pixels; p patch side; La = (F/p)(T/p) audio tokens; Lv = (H/p)(W/p) visual tokens; D width of embeddings.

Arrays are NumPy's; what goes in may also be torch's or any other's with DLPack, in host memory, and is never copied.
The GIL is released in every call. Where to look:

Config, Model, load        what there is to choose, ``config.describe(key)``; models, their embedding of arrays and files
Loader, Trainer            data; pretraining and fine-tuning, checkpoints (``model.adapt(classes=10)`` makes a head)
Index, *_metrics           search; retrieval, classification, localisation in numbers
Model.inpaint, .localize   what a model paints, and where it sees what it hears
Context                    threads, the device, messages, progress, cancellation
World                      training in several processes

cavmae.h, which lies in the package, is the manual of what all this computes.
"""

from ._errors import (
    ArgumentError,
    BackendError,
    Cancelled,
    CavmaeError,
    FileError,
    FormatError,
    InternalError,
    MediaError,
    MismatchError,
    NotFinite,
    NotFound,
    OutOfMemory,
    PeerError,
    ShapeError,
    StateError,
    Unsupported,
)
from ._library import build_info, version
from .batch import Batch
from .config import Config, KeyInfo, MemoryRequired, memory_required
from .context import Context, default_context, set_default_context
from .data import Item, Loader, PackReport, pack, pack_info
from .decoder import Decoder
from .embedding import Embedding, Embeddings, Windows
from .ffmpeg import FFmpegPrograms
from .files import SafetensorsFile, TorchFile, save_npy, save_safetensors, save_torch
from .frontend import fbank, fbank_frames, prepare_audio, prepare_image, resample, resize_image
from .inpainting import (
    Inpainting,
    LocalizationMetrics,
    heatmap_resize,
    inpaint,
    localization_metrics,
    localize,
)
from .media import MediaInfo, media_audio, media_frames, media_probe
from .metrics import (
    ClassMetrics,
    RetrievalMetrics,
    TopkMetrics,
    classification_metrics,
    retrieval_from_similarity,
    retrieval_metrics,
    top1_accuracy,
    topk_accuracy,
)
from .model import LoadReport, Model, Parameters, average_models, load
from .search import Index, Match, Matches
from .tensor import Tensor
from .training import Optimizer, StepResult, Trainer
from .world import Carrier, World, nccl_id

__version__ = "1.0.0"

__all__ = [
    "ArgumentError",
    "BackendError",
    "Batch",
    "Cancelled",
    "Carrier",
    "CavmaeError",
    "ClassMetrics",
    "Config",
    "Context",
    "Decoder",
    "Embedding",
    "Embeddings",
    "FFmpegPrograms",
    "FileError",
    "FormatError",
    "Index",
    "Inpainting",
    "InternalError",
    "Item",
    "KeyInfo",
    "LoadReport",
    "Loader",
    "LocalizationMetrics",
    "Match",
    "Matches",
    "MediaError",
    "MediaInfo",
    "MemoryRequired",
    "MismatchError",
    "Model",
    "NotFinite",
    "NotFound",
    "Optimizer",
    "OutOfMemory",
    "PackReport",
    "Parameters",
    "PeerError",
    "RetrievalMetrics",
    "SafetensorsFile",
    "ShapeError",
    "StateError",
    "StepResult",
    "Tensor",
    "TopkMetrics",
    "TorchFile",
    "Trainer",
    "Unsupported",
    "Windows",
    "World",
    "average_models",
    "build_info",
    "classification_metrics",
    "default_context",
    "fbank",
    "fbank_frames",
    "heatmap_resize",
    "inpaint",
    "load",
    "localization_metrics",
    "localize",
    "media_audio",
    "media_frames",
    "media_probe",
    "memory_required",
    "nccl_id",
    "pack",
    "pack_info",
    "prepare_audio",
    "prepare_image",
    "resample",
    "resize_image",
    "retrieval_from_similarity",
    "retrieval_metrics",
    "save_npy",
    "save_safetensors",
    "save_torch",
    "set_default_context",
    "top1_accuracy",
    "topk_accuracy",
    "version",
]
