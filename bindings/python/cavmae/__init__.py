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
The GIL is released in every call. cavmae.h is the manual of what all this does.
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

__all__ = sorted(
    name for name, value in list(globals().items()) if not name.startswith("_") and not hasattr(value, "__path__")
)
