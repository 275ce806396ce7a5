"""Objects freed in any order, at exit, after a fork, with threads that do not end."""

from __future__ import annotations

import inspect
import itertools
import os
import random

import pytest
from conftest import run_python

import cavmae

EVERYTHING = """
import cavmae, sys, numpy as np
folder = sys.argv[1] if len(sys.argv) > 1 else None
context = cavmae.Context(threads=2, log_level="debug", log=lambda level, text: None)
config = cavmae.Config("tiny", batch=2, context=context)
model = cavmae.Model(config)
optimizer = cavmae.Optimizer(model, config)
trainer = cavmae.Trainer(model, config, optimizer)
index = cavmae.Index(dim=4, context=context)
audio, image = np.zeros((2, 128, 128), np.float32) + 1, np.zeros((2, 3, 64, 64), np.float32)
trainer.step(audio=audio, image=image)
tensor = model.tensor("modality_a")
view = model.parameters["modality_v"]
capsule = tensor.__dlpack__()
world = cavmae.World.threads([context])
"""


def test_any_order():
    names = ("context", "config", "model", "optimizer", "trainer", "index", "tensor", "view", "capsule", "world")
    orders = [names, names[::-1], *(random.Random(seed).sample(names, len(names)) for seed in range(12))]
    lines = [EVERYTHING + "".join(f"del {name}\n" for name in order) for order in orders]
    done = run_python("\n".join(lines) + "\nprint('fine')")
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_closing_in_any_order(config, clips):
    for order in itertools.permutations(range(3)):
        model = cavmae.Model(config)
        optimizer = cavmae.Optimizer(model, config)
        trainer = cavmae.Trainer(model, config, optimizer)
        objects = (model, optimizer, trainer)
        for number in order[:2]:
            objects[number].close()
            objects[number].close()
        if order[2] == 2:
            assert trainer.closed is False and trainer.result().step == 0
        objects[order[2]].close()


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "raise SystemExit(3)", "import gc; gc.disable(); x = [model]; x.append(x)"]
)
def test_exit_with_everything_alive(end):
    done = run_python(EVERYTHING + end)
    assert (done.stdout, done.stderr) == ("", "") and done.returncode == (3 if "3" in end else 0)


def test_exit_in_the_middle_of_a_loader(data):
    code = f"""
import cavmae
config = cavmae.Config("tiny", batch=2, loader_threads=2, context=cavmae.Context(threads=1, log_level="debug"))
loader = cavmae.Loader(config, {str(data / "train.json")!r})
batch = loader.next()
print(len(batch))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def test_a_loader_abandoned_in_the_middle(data):
    """Its iterator, its batch and itself go in any order, its threads being at work; or stay until the end."""
    code = f"""
import cavmae, itertools
config = cavmae.Config("tiny", batch=1, loader_threads=2, queue=2, context=cavmae.Context(threads=1))
for order in itertools.permutations(("loader", "epoch", "batch")):
    loader = cavmae.Loader(config, {str(data / "train.json")!r})
    epoch = iter(loader)
    batch = next(epoch)
    total = batch.audio.sum()
    for name in order:
        if name == "loader" and name != order[-1]:
            loader.close()
            try:
                next(epoch) if "epoch" in globals() else loader.next()
            except cavmae.StateError:
                pass
            else:
                raise SystemExit("a closed loader gives batches")
        del globals()[name]
loader = cavmae.Loader(config, {str(data / "train.json")!r})
for batch in loader:
    break
view = batch.audio
del loader, batch
assert view.sum() == view.copy().sum()  # the array keeps what it shows
epoch = iter(cavmae.Loader(config, {str(data / "train.json")!r}))
next(epoch)
print("fine")
"""
    done = run_python(code, MALLOC_PERTURB_="170")
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_exit_while_a_daemon_thread_embeds():
    code = """
import cavmae, threading, time, numpy as np
model = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=1)))
audio = np.ones((4000, 128, 128), np.float32)
def work():
    while True:
        try:
            model.embed(audio=audio)
        except cavmae.CavmaeError:
            time.sleep(60)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("ends")
"""
    # What is freed is overwritten: a thread that still used it would fall.
    done = run_python(code, seconds=60, MALLOC_PERTURB_="170")
    assert (done.stdout, done.stderr, done.returncode) == ("ends\n", "", 0)


def test_objects_of_a_parent_are_refused_after_a_fork():
    code = """
import cavmae, os, numpy as np
model = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=2)))
audio = np.ones((1, 128, 128), np.float32)
expected = model.embed(audio=audio).audio
child = os.fork()
if child == 0:
    try:
        model.embed(audio=audio)
    except cavmae.StateError as error:
        assert "fork" in str(error)
        again = cavmae.Model(cavmae.Config("tiny"))
        assert np.array_equal(again.embed(audio=audio).audio, expected)
        raise SystemExit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7
assert np.array_equal(model.embed(audio=audio).audio, expected)
print("fine")
"""
    done = run_python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_objects_of_a_parent_are_not_freed_in_a_child():
    code = """
import cavmae, os
from cavmae import _calls
model = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=2)))
child = os.fork()
if child == 0:
    _calls.library = None  # what is freed now fails, and says so
    raise SystemExit(0)
os.waitpid(child, 0)
print("fine")
"""
    done = run_python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_garbage_is_not_freed_inside_a_callback(clips):
    """What dies in a callback of its own context is freed after it."""
    from cavmae import _calls

    seen = []

    def progress(what, done, total):
        garbage = cavmae.Index(dim=3, context=model.context)
        del garbage
        seen.append(len(_calls.process.deferred))

    model = cavmae.Model(cavmae.Config("tiny", context=cavmae.Context(threads=1)))
    model.embed(clips, progress=progress)
    assert seen and seen[0] >= 1
    model.embed(clips)
    assert not _calls.process.deferred


def test_many_objects_leave_nothing_behind(context):
    import gc
    import weakref

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc")

    def make():
        cavmae.Model(cavmae.Config("tiny", context=context))
        cavmae.Tensor.from_dlpack(cavmae.fbank([0.0] * 16000, 16000, context=context), context).__dlpack__()

    for _ in range(20):
        make()
    gc.collect()
    before = resident()
    for _ in range(200):
        make()
    gc.collect()
    assert resident() - before < 20e6
    own = cavmae.Context(threads=1)
    watch = weakref.ref(own)
    cavmae.Model(cavmae.Config("tiny", context=own))
    del own
    assert watch() is None  # no cycles


def test_without_a_library():
    done = run_python("import cavmae\ncavmae.version()", CAVMAE_LIBRARY="/nowhere/libcavmae.so.1")
    assert "BackendError: libcavmae was not found" in done.stderr and "set CAVMAE_LIBRARY" in done.stderr
    assert (
        run_python("import cavmae, sys; assert 'torch' not in sys.modules", CAVMAE_LIBRARY="/nowhere").returncode == 0
    )


def test_another_library_is_refused():
    import ctypes.util

    path = ctypes.util.find_library("m")
    done = run_python("import cavmae\ncavmae.version()", CAVMAE_LIBRARY=f"/lib/x86_64-linux-gnu/{path}")
    if "was not found" in done.stderr:
        pytest.skip("libm lies elsewhere")
    assert "is not libcavmae" in done.stderr


def test_what_is_exported_is_documented():
    for name in cavmae.__all__:
        value = getattr(cavmae, name)
        assert value.__doc__, name
        if not isinstance(value, type) or issubclass(value, Exception):
            continue
        assert not value.__doc__.startswith(f"{name}("), f"{name}: what dataclasses write"
        for member, what in vars(value).items():
            if not member.startswith("_") and (callable(what) or isinstance(what, property)):
                assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"
