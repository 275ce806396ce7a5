"""Context: threads, device, messages, progress, cancellation."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from typing import Any, Callable, Optional, Union

from . import _records as r
from ._abi import context as context_pointer
from ._calls import Progress, callback, call, process, thread, wants_to_stop
from ._handles import Handle, made
from ._library import library

Log = Callable[[int, str], Any]
Cancel = Callable[[], Any]
Path = Union[str, "os.PathLike[str]"]

logger = logging.getLogger("cavmae")
_LEVELS = {10: logging.ERROR, 20: logging.WARNING, 30: logging.INFO, 40: logging.DEBUG}
_NAMES = {name: r.constant(f"LOG_{name.upper()}") for name in ("error", "warning", "info", "debug")}


def _to_logger(level: int, message: str) -> None:
    logger.log(_LEVELS.get(level, logging.DEBUG), "%s", message)


def encoded(text: Optional[Path]) -> Optional[bytes]:
    """A path or word as the library takes it."""
    return None if text is None else os.fsencode(text)


def _callbacks(log: Log, cancel: Optional[Cancel], progress: Optional[Progress]) -> dict[str, Any]:
    """The functions that C calls. They know nothing of the context, which they would keep alive."""
    types = r.field_types(r.cavmae_context_options)

    def on_log(user: Any, level: int, message: bytes) -> None:
        with callback():
            log(level, message.decode("utf-8", "replace"))

    def on_cancel(user: Any) -> int:
        if wants_to_stop():
            return 1
        if cancel is None:
            return 0
        with callback() as asked:
            return 1 if cancel() else 0
        return int(asked.failed)

    def on_progress(user: Any, what: bytes, done: int, total: int) -> None:
        told = thread.progress[-1] if thread.progress else progress
        if told is not None:
            with callback():
                told(what.decode("utf-8", "replace"), done, total)

    return {
        "log": types["log"](on_log),
        "cancel": types["cancel"](on_cancel),
        "progress": types["progress"](on_progress),
    }


class Context(Handle):
    """What objects share: working threads, the device, and where messages go.

    threads: working threads, 0 for one for each CPU this process may use.
    device: "cpu" (None), "cuda", "cuda:N", or "auto", which alone falls back.
    plugin_dir: where libcavmae-*.so lie; None: beside the library.
    log: called with (level, message), 10 for errors to 40 for details, from any thread; None: the logger "cavmae".
    log_level: "error", "warning", "info" or "debug".
    progress: called with (what, done, total) during long calls; total 0 is unknown.
    cancel: asked between layers and files; a true answer ends the call with Cancelled. Ctrl-C ends calls by itself.
    tuning_file, matmul, attention, exact_gelu: how a GPU computes, see cavmae.h.

    Exceptions in callbacks end the call, and are raised by it. Most functions take ``context=None`` for the default
    one, which is made when it is first needed.
    """

    _pointer_type = context_pointer
    _free = "cavmae_context_free"

    def __init__(
        self,
        threads: int = 0,
        device: Optional[str] = None,
        *,
        plugin_dir: Optional[Path] = None,
        log: Optional[Log] = None,
        log_level: str = "warning",
        progress: Optional[Progress] = None,
        cancel: Optional[Cancel] = None,
        tuning_file: Optional[Path] = None,
        matmul: Optional[str] = None,
        attention: Optional[str] = None,
        exact_gelu: bool = False,
    ) -> None:
        if log_level not in _NAMES:
            raise ValueError(f"log_level must be one of {', '.join(_NAMES)}, not {log_level!r}")
        self._callbacks = _callbacks(log or _to_logger, cancel, progress)
        self._decoder: Any = None  # for media files: None: nobody has looked for one yet
        self._log, self._log_level = log or _to_logger, _NAMES[log_level]
        options = r.new(
            r.cavmae_context_options,
            threads=threads,
            device=encoded(device),
            plugin_dir=encoded(plugin_dir),
            log_level=_NAMES[log_level],
            tuning_file=encoded(tuning_file),
            matmul=encoded(matmul),
            attention=encoded(attention),
            exact_gelu=int(exact_gelu),
            **self._callbacks,
        )
        self._adopt(made(context_pointer, library().cavmae_context_create, ctypes.byref(options)))

    @property
    def device(self) -> str:
        """The device in use: "cpu", "cuda:0"."""
        text: bytes = library().cavmae_context_device(self._handle)
        return text.decode()

    @property
    def device_info(self) -> str:
        """What the device is and what computes on it, in one or more lines."""
        text = ctypes.c_char_p()
        call(library().cavmae_context_device_info, self._handle, ctypes.byref(text))
        return (text.value or b"").decode()

    @property
    def threads(self) -> int:
        """Working threads, the caller's own included."""
        return int(library().cavmae_context_threads(self._handle))

    def set_decoder(self, decoder: Any) -> None:
        """Decodes media files with a Python object instead of the FFmpeg plug-in: see Decoder."""
        from .decoder import install

        self._decoder = install(self, decoder)

    def _tell(self, level: int, message: str) -> None:
        if level <= self._log_level:
            self._log(level, message)

    def __repr__(self) -> str:
        return "Context(closed)" if self.closed else f"Context(threads={self.threads}, device={self.device!r})"


class _Default:
    context: Optional[Context] = None
    generation = 0
    lock = threading.Lock()


def default_context() -> Context:
    """The context of calls that name none: on the CPU, all threads, messages to the logger "cavmae"."""
    with _Default.lock:
        known = _Default.context
        if known is None or known.closed or _Default.generation != process.generation:
            _Default.context, _Default.generation = Context(), process.generation
        assert _Default.context is not None
        return _Default.context


def set_default_context(context: Optional[Context]) -> None:
    """Makes this the default context; None: a new one when it is next needed."""
    with _Default.lock:
        _Default.context, _Default.generation = context, process.generation


def context_of(context: Optional[Context]) -> Context:
    """The one given, or the default one."""
    return default_context() if context is None else context
