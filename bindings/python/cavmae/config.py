"""Config: all options of model, input contract, objective, training and data, by name."""

from __future__ import annotations

import ctypes
import difflib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, MutableMapping, Optional, Tuple, Union

from . import _records as r
from ._abi import config as config_pointer
from ._calls import call
from ._errors import NotFound
from ._handles import Handle, made
from ._library import library
from .context import Context, context_of

if TYPE_CHECKING:
    from .world import World

Value = Union[int, float, str]
_I64, _F64, _STR = (r.constant(f"TYPE_{name}") for name in ("I64", "F64", "STR"))


def _header() -> Optional[Path]:
    """cavmae.h, the manual, which lies in the package, or in the clone that this is part of."""
    folder = Path(__file__).resolve().parent
    places = (folder / "cavmae.h", folder / ".." / ".." / ".." / "include" / "cavmae.h")
    return next((place for place in places if place.exists()), None)


def _meanings() -> dict[str, str]:
    """What the header's comments say of keys: "lr. 5e-5", by name."""
    header = _header()
    text = "" if header is None else header.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"#define CAVMAE_P_\w+\s+\d+\s*/\*\s*(\w+)([:.].*?)\*/", text, flags=re.S)
    return {name: re.sub(r"\s*\n\s*\*?\s*", " ", words).lstrip(":. ").strip() for name, words in found}


@dataclass(frozen=True)
class KeyInfo:
    """What a key may be. min, max: inclusive, of numbers; choices: of words, None where any text goes.

    meaning: what cavmae.h says of it, which ends with the default.
    """

    name: str
    number: int
    type: type
    min: float
    max: float
    choices: Optional[Tuple[str, ...]]
    meaning: str = ""

    def __str__(self) -> str:
        if self.type is str:
            may_be = " | ".join(self.choices) if self.choices else "text"
        else:
            may_be = f"{self.type.__name__} from {self.min:g} to {self.max:g}"
        return f"{self.name}: {may_be}" + (f"; {self.meaning}" if self.meaning else "")


class _Keys:
    """The library's list of keys, read once."""

    lock = threading.Lock()
    known: dict[str, KeyInfo] = {}


def keys() -> dict[str, KeyInfo]:
    """All keys by name, in order of number."""
    with _Keys.lock:
        if not _Keys.known:
            found: dict[str, KeyInfo] = {}
            meanings = _meanings()
            info = r.new(r.cavmae_key_info)
            while library().cavmae_config_key_info(len(found), ctypes.byref(info)) == r.constant("OK"):
                name = info.name.decode()
                kind = {_I64: int, _F64: float, _STR: str}[info.type]
                choices = tuple(info.choices.decode().split("|")) if info.choices else None
                found[name] = KeyInfo(name, info.key, kind, info.min, info.max, choices, meanings.get(name, ""))
            _Keys.known = found
        return _Keys.known


def _key(name: str) -> KeyInfo:
    known = keys().get(name)
    if known is not None:
        return known
    close = difflib.get_close_matches(name, keys(), 3)
    raise NotFound(f"there is no key {name!r}" + (f"; is it {' or '.join(close)}?" if close else ""))


def _text(value: Any) -> str:
    """As the library reads values: lists with commas, truths as 0 and 1."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (tuple, list)):
        return ",".join(_text(item) for item in value)
    return str(value) if isinstance(value, (int, str)) else repr(float(value))


# Data without what training does to it.
_AS_IT_IS: dict[str, Value] = {
    **dict.fromkeys(("shuffle", "drop_last", "noise", "roll", "freq_mask", "time_mask", "balanced", "shuffle_pairs"), 0),
    **dict.fromkeys(("mixup", "label_smoothing"), 0.0),
    "frame": -1,
}


class Config(Handle, MutableMapping[str, Value]):
    """Options as attributes, as a mapping, or as keyword arguments::

        config = cavmae.Config("base", recipe="pretrain-scale+", batch=16, milestones=[10, 15])
        config.lr = 1e-4
        config["mask_mode_a"] = "time"

    ``dir(config)`` lists the keys, ``print(config.describe("lr"))`` says what one may be and means. A key's range is
    checked when it is set, what must fit together by ``check()`` and by everything that takes the config.

    preset: "base" (the paper's) or "tiny" (for tests). recipe: sets some more keys, such as "finetune-as20k", whose
    milestones are epochs: set ``config.milestone_unit = len(loader)`` before training. values count over both.
    """

    _pointer_type = config_pointer
    _free = "cavmae_config_free"

    def __init__(
        self,
        preset: Optional[str] = None,
        *,
        recipe: Optional[str] = None,
        context: Optional[Context] = None,
        **values: Any,
    ) -> None:
        self.context = context_of(context)
        name = None if preset is None else preset.encode()
        self._preset = preset or "base"
        self._world: Optional["World"] = None
        self._adopt(made(config_pointer, library().cavmae_config_create, self.context._handle, name))
        if recipe is not None:
            self.apply(recipe)
        self.update(values)

    @classmethod
    def _from(cls, pointer: Any, context: Context, preset: str, world: "Optional[World]") -> "Config":
        config = cls.__new__(cls)
        config.context = context
        config._preset = preset
        config._world = world
        config._adopt(pointer)
        return config

    # ---- As a mapping

    def __getitem__(self, name: str) -> Value:
        key = _key(name)
        if key.type is int:
            whole = ctypes.c_int64()
            call(library().cavmae_config_get_i64, self._handle, key.number, ctypes.byref(whole))
            return whole.value
        if key.type is float:
            real = ctypes.c_double()
            call(library().cavmae_config_get_f64, self._handle, key.number, ctypes.byref(real))
            return real.value
        text = ctypes.c_char_p()
        call(library().cavmae_config_get_str, self._handle, key.number, ctypes.byref(text))
        return (text.value or b"").decode()

    def __setitem__(self, name: str, value: Any) -> None:
        key = _key(name)
        if key.type is int and isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise OverflowError(f"{name} = {value} does not fit into 64 bits")
            call(library().cavmae_config_set_i64, self._handle, key.number, int(value))
        elif key.type is float and isinstance(value, (int, float)):
            call(library().cavmae_config_set_f64, self._handle, key.number, float(value))
        elif key.type is not str and not isinstance(value, str) and not hasattr(value, "__float__"):
            raise TypeError(f"{name} is a number, not {value!r}")
        else:
            call(library().cavmae_config_set, self._handle, name.encode(), _text(value).encode())

    def __delitem__(self, name: str) -> None:
        raise TypeError("a configuration always has all of its keys")

    def __iter__(self) -> Iterator[str]:
        return iter(keys())

    def __len__(self) -> int:
        return len(keys())

    def __contains__(self, name: object) -> bool:
        return name in keys()

    # ---- As attributes

    def __getattr__(self, name: str) -> Any:
        # Names of the class and of objects that are not keys come here too, from pickle, NumPy or the debugger.
        if name.startswith("_") or name not in keys():
            close = [] if name.startswith("_") else difflib.get_close_matches(name, keys(), 3)
            raise AttributeError(
                f"there is no key {name!r}" + (f"; is it {' or '.join(close)}?" if close else ""),
            )
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "context":
            object.__setattr__(self, name, value)
        elif name in keys():
            self[name] = value
        else:
            close = difflib.get_close_matches(name, keys(), 3)
            raise AttributeError(f"there is no key {name!r}" + (f"; is it {' or '.join(close)}?" if close else ""))

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *keys()})

    # ---- The rest

    @staticmethod
    def describe(name: str) -> KeyInfo:
        """Type, range and meaning of a key: ``print(config.describe("mixup"))``."""
        return _key(name)

    def apply(self, recipe: str) -> "Config":
        """Sets a recipe's keys on top of what is there: "pretrain-base", "finetune-vggsound", ..."""
        call(library().cavmae_config_apply, self._handle, recipe.encode())
        return self

    def copy(self, *, recipe: Optional[str] = None, **changes: Any) -> "Config":
        """A copy, with a recipe's keys, and then with changes."""
        pointer = made(config_pointer, library().cavmae_config_clone, self._handle)
        copied = Config._from(pointer, self.context, self._preset, self._world)
        if recipe is not None:
            copied.apply(recipe)
        copied.update(changes)
        return copied

    __copy__ = copy

    def for_evaluation(self, **changes: Any) -> "Config":
        """A copy for a Loader that gives all clips once, in the manifest's order, as they are, with the middle picture.

        No shuffling, no last batch left out, no augmentation, smoothing or balance. changes: e.g. ``frame=-3``, all
        clip_frames pictures of each clip.
        """
        keys: dict[str, Any] = {**_AS_IT_IS, **changes}
        return self.copy(**keys)

    def check(self) -> "Config":
        """Everything that must fit together; ShapeError or ArgumentError name the key."""
        call(library().cavmae_config_check, self._handle)
        return self

    @property
    def world(self) -> "Optional[World]":
        """The world that what is made from this configuration works in; None: alone."""
        return self._world

    def set_world(self, world: "Optional[World]") -> "Config":
        """Optimizers, trainers and loaders of this configuration, and of copies, work in this world."""
        pointer = None if world is None else world._handle
        call(library().cavmae_config_set_world, self._handle, pointer)
        self._world = world
        return self

    def changes(self, preset: Optional[str] = None) -> dict[str, Value]:
        """The keys that are not as in a preset; None: in the one that this was made from."""
        with Config(preset or self._preset, context=self.context) as plain:
            return {name: self[name] for name in self if self[name] != plain[name]}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Config) and dict(self) == dict(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.closed:
            return "Config(closed)"
        values = "".join(f", {name}={value!r}" for name, value in self.changes().items())
        return f"Config({self._preset!r}{values})"


@dataclass(frozen=True)
class MemoryRequired:
    """Bytes that a task takes; elements of all parameters, and of those that training changes."""

    parameters: int
    gradients: int
    moments: int
    activations: int
    workspace: int
    total: int
    elements: int
    trainable: int


def memory_required(config: Config, task: str, batch: int) -> MemoryRequired:
    """What a task ("pretrain", "embed" or "finetune") on batch clips will take, before anything is allocated."""
    number = r.CONSTANTS.get(f"TASK_{task.upper()}")
    if number is None:
        raise ValueError(f"task must be 'pretrain', 'embed' or 'finetune', not {task!r}")
    record = r.new(r.cavmae_memory)
    call(library().cavmae_memory_required, config._handle, number, batch, ctypes.byref(record))
    return MemoryRequired(**{name: getattr(record, name) for name in MemoryRequired.__dataclass_fields__})
