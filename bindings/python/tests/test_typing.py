"""Types: the package's own, and those that its users see. mypy is asked where it is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import HERE

import cavmae

needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="no mypy")

USER = """
import numpy as np
import cavmae

model: cavmae.Model = cavmae.load("model.safetensors")
e: cavmae.Embedding = model.embed_file("clip.mp4")
index = cavmae.Index(model.embed_files(["a.mp4", "b.mp4"], progress=True))
cosine = float(e.audio @ e.visual)
for match in index.search(e.audio, k=10):
    print(match.score, match.name)
config = cavmae.Config("base", batch=16, lr=1e-4)
config.batch = 4
trainer = cavmae.Trainer(model, config)
losses: list[float] = [trainer.step(batch).loss for batch in cavmae.Loader(config, "train.json")]
loss: float = trainer.evaluate(audio=np.zeros((1, 2, 3), np.float32)).loss
later = trainer.step(wait=False)
if later is not None:
    print(later.loss)
try:
    model.save("x")
except cavmae.FileError as error:
    print(error.status)
"""


def mypy(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / "cache", *arguments],
        env={**os.environ, "MYPYPATH": str(HERE.parent), "PYTHONPATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_is_exported_is_written_out():
    """A list that is computed hides every name from type checkers."""
    tree = ast.parse((HERE.parent / "cavmae" / "__init__.py").read_text())
    imported = [name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names]
    written = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    assert written == sorted(imported) == list(cavmae.__all__)


@needs_mypy
def test_the_package_and_its_examples_are_typed(tmp_path):
    examples = sorted((HERE.parent / "examples").glob("*.py"))
    # An older matplotlib has no types.
    for what in (["-p", "cavmae"], *(["--ignore-missing-imports", example] for example in examples)):
        done = mypy(tmp_path, *what)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_users_see_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    done = mypy(tmp_path, "user.py")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "user.py").write_text(USER + "index.serch(e.audio)\nmodel.embed_file(3)\nlater.loss\n")
    done = mypy(tmp_path, "user.py")
    assert done.stdout.count(": error: ") == 3, done.stdout
