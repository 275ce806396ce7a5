"""What cavmae.h declares besides functions: constants, handles, callbacks and records, for ctypes.

Names are the header's. tests/test_abi.py compares every name, field, offset and number with the header.
"""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int16,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_void_p,
    sizeof,
)
from typing import Any, Type, TypeVar

P = POINTER
Record = TypeVar("Record", bound=Structure)


class status(c_int32):
    """cavmae_status: marks the functions whose result says whether they succeeded."""


# ---- Constants: the header's, without "CAVMAE_". Keys of a configuration go by name here, so CAVMAE_P_* are not.

CONSTANTS: dict[str, int] = {
    "VERSION_MAJOR": 1,
    "VERSION_MINOR": 0,
    "VERSION_PATCH": 0,
    "OK": 0,
    "E_ARG": -1,
    "E_NOMEM": -2,
    "E_SHAPE": -3,
    "E_IO": -4,
    "E_FORMAT": -5,
    "E_NOT_FOUND": -6,
    "E_MISMATCH": -7,
    "E_UNSUPPORTED": -8,
    "E_MEDIA": -9,
    "E_BACKEND": -10,
    "E_CANCELLED": -11,
    "E_NOT_FINITE": -12,
    "E_STATE": -13,
    "E_PEER": -14,
    "E_INTERNAL": -99,
    "LOG_ERROR": 10,
    "LOG_WARNING": 20,
    "LOG_INFO": 30,
    "LOG_DEBUG": 40,
    "TYPE_I64": 1,
    "TYPE_F64": 2,
    "TYPE_STR": 3,
    "NCCL_ID_SIZE": 128,
    "FLOAT32": 1,
    "FLOAT64": 2,
    "FLOAT16": 3,
    "BFLOAT16": 4,
    "INT64": 5,
    "INT32": 6,
    "INT16": 7,
    "INT8": 8,
    "UINT8": 9,
    "BOOL": 10,
    "MAX_DIMS": 8,
    "LOAD_ALLOW_MISSING": 1,
    "LOAD_ALLOW_UNEXPECTED": 2,
    "LOAD_MEAN_COLOURS": 4,
    "TASK_PRETRAIN": 1,
    "TASK_EMBED": 2,
    "TASK_FINETUNE": 3,
    "MODE_MULTIMODAL": 1,
    "MODE_AUDIO_ONLY": 2,
    "MODE_VIDEO_ONLY": 3,
    "MODE_MISSING_AUDIO_ONLY": 4,
    "MODE_MISSING_VIDEO_ONLY": 5,
    "AVERAGE_SCORES": 0,
    "AVERAGE_LOGITS": 1,
    "AVERAGE_FEATURES": 2,
    "OUT_PRED_A": 1,
    "OUT_PRED_V": 2,
    "OUT_POOLED_A": 3,
    "OUT_POOLED_V": 4,
    "OUT_MASK_A": 5,
    "OUT_MASK_V": 6,
    "OUT_LOGITS": 7,
    "OUT_FEATURES": 8,
    "TIES_FOR_MATCH": 0,
    "TIES_MEAN": 1,
    "TIES_AGAINST_MATCH": 2,
}


def constant(name: str) -> int:
    """CAVMAE_<name>."""
    return CONSTANTS[name]


# ---- Handles: pointers to what only the library knows.


def _opaque(name: str) -> Type[Structure]:
    return type(name, (Structure,), {"__doc__": f"struct {name}, opaque"})


cavmae_context = _opaque("cavmae_context")
cavmae_config = _opaque("cavmae_config")
cavmae_world = _opaque("cavmae_world")
cavmae_tensor = _opaque("cavmae_tensor")
cavmae_safetensors = _opaque("cavmae_safetensors")
cavmae_torch = _opaque("cavmae_torch")
cavmae_model = _opaque("cavmae_model")
cavmae_optimizer = _opaque("cavmae_optimizer")
cavmae_trainer = _opaque("cavmae_trainer")
cavmae_loader = _opaque("cavmae_loader")
cavmae_index = _opaque("cavmae_index")
DLManagedTensor = _opaque("DLManagedTensor")

# ---- Callbacks


class cavmae_context_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("threads", c_int32),
        ("device", c_char_p),
        ("plugin_dir", c_char_p),
        ("alloc", CFUNCTYPE(c_void_p, c_void_p, c_size_t)),
        ("free", CFUNCTYPE(None, c_void_p, c_void_p)),
        ("alloc_user", c_void_p),
        ("log", CFUNCTYPE(None, c_void_p, c_int32, c_char_p)),
        ("log_user", c_void_p),
        ("log_level", c_int32),
        ("reserved", c_int32),
        ("cancel", CFUNCTYPE(c_int32, c_void_p)),
        ("cancel_user", c_void_p),
        ("progress", CFUNCTYPE(None, c_void_p, c_char_p, c_int64, c_int64)),
        ("progress_user", c_void_p),
        ("tuning_file", c_char_p),
        ("matmul", c_char_p),
        ("attention", c_char_p),
        ("exact_gelu", c_int32),
        ("reserved2", c_int32),
    ]


class cavmae_key_info(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("key", c_int32),
        ("type", c_int32),
        ("reserved", c_int32),
        ("name", c_char_p),
        ("min", c_double),
        ("max", c_double),
        ("choices", c_char_p),
    ]


class cavmae_world_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("rank", c_int32),
        ("size", c_int32),
        ("reserved", c_int32),
        ("timeout", c_double),
        ("watch_dir", c_char_p),
    ]


# error [error_size]: callbacks write there, which c_char_p does not allow.
error_text = c_void_p


class cavmae_collectives(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("version", c_int32),
        ("name", c_char_p),
        ("user", c_void_p),
        ("all_reduce", CFUNCTYPE(c_int32, c_void_p, c_int32, c_void_p, c_int64, error_text, c_size_t)),
        ("reduce_scatter", CFUNCTYPE(c_int32, c_void_p, c_int32, c_void_p, c_void_p, c_int64, error_text, c_size_t)),
        ("all_gather", CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_int64, error_text, c_size_t)),
        ("broadcast", CFUNCTYPE(c_int32, c_void_p, c_void_p, c_int64, c_int32, error_text, c_size_t)),
        ("barrier", CFUNCTYPE(c_int32, c_void_p, error_text, c_size_t)),
        ("abort", CFUNCTYPE(None, c_void_p)),
        ("close", CFUNCTYPE(None, c_void_p)),
    ]


release_function = CFUNCTYPE(None, c_void_p)


class cavmae_source(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("path", c_char_p),
        ("data", c_void_p),
        ("size", c_size_t),
    ]


class cavmae_media_info(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("audio_channels", c_int32),
        ("audio_rate", c_int32),
        ("width", c_int32),
        ("height", c_int32),
        ("still", c_int32),
        ("seconds", c_double),
        ("frame_rate", c_double),
    ]


cavmae_audio_sink = CFUNCTYPE(c_int32, c_void_p, P(c_float), c_int64, c_int32, c_int32)
cavmae_frame_sink = CFUNCTYPE(c_int32, c_void_p, c_int32, P(c_uint8), c_int32, c_int32, c_int64)


class cavmae_decoder(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("version", c_int32),
        ("user", c_void_p),
        ("probe", CFUNCTYPE(c_int32, c_void_p, P(cavmae_source), P(cavmae_media_info), error_text, c_size_t)),
        (
            "audio",
            CFUNCTYPE(c_int32, c_void_p, P(cavmae_source), cavmae_audio_sink, c_void_p, error_text, c_size_t),
        ),
        (
            "frames",
            CFUNCTYPE(
                c_int32,
                c_void_p,
                P(cavmae_source),
                P(c_double),
                c_int32,
                cavmae_frame_sink,
                c_void_p,
                error_text,
                c_size_t,
            ),
        ),
    ]


class cavmae_load_report(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("matched", c_int64),
        ("missing", c_int64),
        ("unexpected", c_int64),
        ("misshaped", c_int64),
    ]


class cavmae_memory(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("parameters", c_int64),
        ("gradients", c_int64),
        ("moments", c_int64),
        ("activations", c_int64),
        ("workspace", c_int64),
        ("total", c_int64),
        ("elements", c_int64),
        ("trainable", c_int64),
    ]


class cavmae_batch(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("count", c_int32),
        ("audio", P(c_float)),
        ("image", P(c_float)),
        ("audio_frames", P(c_int32)),
        ("mask_a", P(c_uint8)),
        ("mask_v", P(c_uint8)),
        ("samples", P(c_int64)),
        ("labels", P(c_float)),
        ("classes", c_int32),
        ("frames", c_int32),
        ("features", P(c_float)),
        ("pcm", P(c_int16)),
        ("pcm_samples", c_int64),
        ("pixels", P(c_uint8)),
        ("pixel_height", c_int32),
        ("pixel_width", c_int32),
        ("world_count", c_int32),
        ("reserved", c_int32),
    ]


class cavmae_embedding(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_int32),
        ("audio", P(c_float)),
        ("visual", P(c_float)),
        ("joint", P(c_float)),
        ("audio_tokens", P(c_float)),
        ("visual_tokens", P(c_float)),
        ("joint_tokens", P(c_float)),
        ("features", P(c_float)),
        ("logits", P(c_float)),
        ("scores", P(c_float)),
        ("average", c_int32),
        ("frames", c_int32),
    ]


class cavmae_window_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("pool", c_int32),
        ("window_seconds", c_double),
        ("hop_seconds", c_double),
    ]


cavmae_window_sink = CFUNCTYPE(c_int32, c_void_p, c_int64, c_double, c_double, P(cavmae_embedding))


class cavmae_step_result(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("updated", c_int32),
        ("step", c_int64),
        ("loss", c_double),
        ("loss_mae", c_double),
        ("loss_mae_a", c_double),
        ("loss_mae_v", c_double),
        ("loss_c", c_double),
        ("accuracy", c_double),
        ("grad_norm", c_double),
        ("lr", c_double),
        ("pairs", c_int64),
    ]


class cavmae_loader_item(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("label_count", c_int32),
        ("id", c_char_p),
        ("audio_path", c_char_p),
        ("image_path", c_char_p),
        ("labels", P(c_int32)),
        ("label_weights", P(c_float)),
    ]


class cavmae_pack_report(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("frames", c_int32),
        ("clips", c_int64),
        ("broken", c_int64),
        ("bytes", c_int64),
        ("audio_frames", c_int64),
        ("audio_mean", c_double),
        ("audio_std", c_double),
    ]


class cavmae_inpainting(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("approximate", c_int32),
        ("audio", P(c_float)),
        ("audio_pasted", P(c_float)),
        ("image", P(c_float)),
        ("image_pasted", P(c_float)),
        ("mask_a", P(c_uint8)),
        ("mask_v", P(c_uint8)),
        ("error_a", c_double),
        ("error_v", c_double),
        ("loss_a", c_double),
        ("loss_v", c_double),
    ]


class cavmae_localization_metrics(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("mean_iou", c_double),
        ("success", c_double),
        ("auc", c_double),
    ]


class cavmae_retrieval_metrics(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("ties", c_int32),
        ("r1", c_double),
        ("r5", c_double),
        ("r10", c_double),
        ("median_rank", c_double),
        ("mean_rank", c_double),
    ]


class cavmae_class_metrics(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scored_classes", c_int32),
        ("mean_average_precision", c_double),
        ("mean_auc", c_double),
        ("d_prime", c_double),
        ("subset", P(c_uint8)),
        ("as_reference", c_int32),
        ("lacking_classes", c_int32),
    ]


class cavmae_topk_metrics(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("scored_classes", c_int32),
        ("rows", c_int64),
        ("accuracy", c_double),
        ("mean_class_accuracy", c_double),
        ("subset", P(c_uint8)),
    ]


RECORDS: dict[str, Type[Structure]] = {
    record.__name__: record
    for record in list(globals().values())
    if isinstance(record, type) and issubclass(record, Structure) and getattr(record, "_fields_", None)
}


def new(record: Type[Record], **fields: Any) -> Record:
    """A record of zeros with struct_size set."""
    return record(struct_size=sizeof(record), **fields)


def field_types(record: Type[Structure]) -> dict[str, Any]:
    """The ctypes types of a record's fields."""
    return {field[0]: field[1] for field in record._fields_}
