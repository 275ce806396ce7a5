"""Calls into the library: status to exception, exceptions out of callbacks, Ctrl-C, and the end of the process.

A Python callback runs below a C function, through which no exception can travel. Where one raises, the exception is
kept for its thread, the call is ended at its next question to `cancel`, and the exception is raised when it returns.

Signals: Python runs a signal's handler wherever the main thread executes bytecode, which during a long call is in a
callback only, where what it raises would be lost. So during a call handlers are put off: `cancel` runs them, guarded.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any, Callable, Optional, cast

from ._errors import BY_STATUS, BackendError, CavmaeError, InternalError, StateError
from ._library import library
from ._records import CONSTANTS

OK = CONSTANTS["OK"]
Progress = Callable[[str, int, int], Any]


class _Thread(threading.local):
    """What is under way in this thread."""

    def __init__(self) -> None:
        self.depth = 0  # calls of the library, one inside another's callback
        self.in_callback = 0
        self.pending: Optional[BaseException] = None
        self.progress: list[Optional[Progress]] = []
        self.signals: list[tuple[int, Any, Optional[FrameType]]] = []


thread = _Thread()


class _Process:
    """What all threads share."""

    generation = 0  # forks passed: an object of another generation belongs to the parent
    closing = False
    running: set[object] = set()  # a token for each thread that is in a call
    deferred: list[Callable[[], None]] = []


process = _Process()

# ---- Failures


MEDIA_PLUGIN = "libcavmae-media.so"
# It lacks FFmpeg's libraries of the version that it was built for, and FFmpegPrograms its programs.
HOW_TO_DECODE = (
    ". To decode media files install FFmpeg (Debian: apt install ffmpeg), whose programs are used where its libraries are "
    "of another version; or decode with something else: Context.set_decoder, or Model.embed of arrays"
)


def error_of(status: int) -> CavmaeError:
    """The exception for a status, with this thread's last sentence."""
    text = library().cavmae_last_error().decode("utf-8", "replace")
    kind = BY_STATUS.get(status, InternalError)
    if kind is BackendError and MEDIA_PLUGIN in text:
        text += HOW_TO_DECODE
    error = kind(text or library().cavmae_status_str(status).decode())
    error.status = status
    return error


def keep(error: BaseException) -> None:
    """In a callback: raise this when the call returns. The first of several counts."""
    if thread.pending is None:
        thread.pending = error
    elif isinstance(error, (KeyboardInterrupt, SystemExit)):
        error.__context__ = thread.pending
        thread.pending = error


# ---- Signals

# Those whose handlers usually raise: Ctrl-C, kill, and the alarms that time-outs are made of.
PUT_OFF = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def _put_off(replaced: list[tuple[int, Any]]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    caught = thread.signals
    for number in PUT_OFF:
        handler = signal.getsignal(number)
        if not callable(handler):
            continue

        def note(number: int, frame: Optional[FrameType], handler: Any = handler) -> None:
            caught.append((number, handler, frame))

        replaced.append((number, handler))
        signal.signal(number, note)


def _put_back(replaced: list[tuple[int, Any]]) -> None:
    try:
        while replaced:
            signal.signal(*replaced[-1])
            replaced.pop()
    except BaseException:  # from a handler that is back already
        _put_back(replaced)
        raise


def _run_signals() -> None:
    while thread.signals:
        number, handler, frame = thread.signals.pop(0)
        handler(number, frame)


def wants_to_stop() -> bool:
    """In a callback: runs the signal handlers that wait, and says whether the call has to end."""
    try:
        _run_signals()
    except BaseException as error:
        keep(error)
    return thread.pending is not None or _ending()


def _ending() -> bool:
    """The process ends, and this thread is one of those that do not stop for it by themselves."""
    return process.closing and threading.current_thread() is not threading.main_thread()


# ---- Calling


def call(function: Callable[..., int], *arguments: Any, progress: Optional[Progress] = None) -> None:
    """function(*arguments), which returns a status: raises what callbacks raised, and the error of a failure.

    progress: told of this call alone, instead of the context's.
    """
    if process.deferred and not thread.in_callback:
        run_deferred()
    outermost = thread.depth == 0  # else signals are put off already, and what waits is the outer call's
    token = object()
    replaced: list[tuple[int, Any]] = []
    outer, thread.pending = thread.pending, None
    failure, told = None, False
    try:
        process.running.add(token)
        thread.depth += 1
        if _ending():
            raise StateError("the process is ending")
        if outermost:
            _put_off(replaced)
        if progress is not None:
            thread.progress.append(progress)
            told = True
        result = function(*arguments)
        if result != OK:
            failure = error_of(result)
    finally:
        if told:
            thread.progress.pop()
        thread.depth -= 1
        process.running.discard(token)
        pending, thread.pending = thread.pending, outer
        _put_back(replaced)
    if pending is not None:
        raise pending from failure
    if outermost:
        _run_signals()
    if failure is not None:
        raise failure


class callback:
    """with callback(): what a callback does; exceptions are kept. Its `failed` says whether there was one."""

    failed = False

    def __enter__(self) -> "callback":
        thread.in_callback += 1
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> bool:
        thread.in_callback -= 1
        if error is not None:
            self.failed = True
            if thread.depth:
                keep(error)
            else:  # one of the library's own threads: nobody's call returns there
                sys.unraisablehook(cast("Any", _Unraisable(error)))
        return True


class _Unraisable:
    """What sys.unraisablehook takes."""

    def __init__(self, error: BaseException) -> None:
        self.exc_type, self.exc_value, self.exc_traceback = type(error), error, error.__traceback__
        self.err_msg, self.object = "Exception ignored in a callback of libcavmae", None


# ---- Freeing, and the end of the process

PATIENCE = 10.0  # seconds that the end of the process waits for calls of daemon threads, which are told to stop


def free_later(owner: object, name: str, pointer: Any) -> Any:
    """Frees what pointer points to when owner dies, or the process ends: a weakref.finalize."""
    return weakref.finalize(owner, _free, name, pointer, process.generation)


def _free(name: str, pointer: Any, generation: int) -> None:
    if generation != process.generation:
        return  # the parent's, whose threads are not in this process
    if thread.in_callback:  # of a context that this may belong to; a loader's thread would wait for itself
        process.deferred.append(lambda: _free(name, pointer, generation))
        return
    getattr(library(), name)(pointer)


def run_deferred() -> None:
    """Frees what died while a callback ran."""
    while process.deferred:
        try:
            free = process.deferred.pop()
        except IndexError:
            return  # another thread was faster
        free()


def _close() -> None:
    """Before what is left is freed: daemon threads must be out of it."""
    process.closing = True
    until = time.monotonic() + PATIENCE
    while process.running and time.monotonic() < until:
        time.sleep(0.005)
    if process.running:
        process.generation += 1  # they still use it: leave everything to the system
    else:
        run_deferred()


def _forked() -> None:
    process.generation += 1
    process.running.clear()
    process.deferred.clear()


# weakref frees what is left at exit in a function that it registers with its first finalize. Ours has to run before,
# so it is registered after.
weakref.finalize(_Thread, int).atexit = False
atexit.register(_close)
os.register_at_fork(after_in_child=_forked)
