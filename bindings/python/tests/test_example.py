"""The examples run, and the package is what its files say."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CLIP, HERE, MEDIA, REPOSITORY, run_python

import cavmae

EXAMPLES = HERE.parent / "examples"


def run_example(name, *arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "MPLCONFIGDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="no matplotlib")
def test_search_and_draw(data, tmp_path):
    out = tmp_path / "found.png"
    said = run_example("search_and_draw.py", data / "train.json", out, "--epochs", "2", folder=tmp_path)
    assert "3 searches among 8 clips" in said and out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("recipe", [None, "finetune-vggsound"])
def test_finetune(recipe, data, model, tmp_path):
    model.save(tmp_path / "pretrained")
    files = (tmp_path / "pretrained", data / "train.json", data / "train.json", data / "labels.csv", tmp_path / "tuned")
    options = ("--epochs", "5", "--batch", "4", "--lr", "1e-3", *(("--recipe", recipe) if recipe else ()))
    said = run_example("finetune.py", *files, *options, folder=tmp_path).splitlines()
    assert said[0].endswith("parameters taken over, 4 new") and said[5].startswith("epoch 5: loss ")
    assert said[6].startswith("mAP ") and said[6].endswith(" over 3 classes") and len(said) == (8 if recipe else 7)
    rates = [float(line.split()[-1]) for line in said[1:6]]
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5] if recipe else [1e-3] * 5)  # after epochs 2, 3, ..
    # The same numbers as by hand.
    tuned = cavmae.load(tmp_path / "tuned", context=model.context)
    config = tuned.config.for_evaluation(frame=-3, batch=8)
    batch = cavmae.Loader(config, data / "train.json", data / "labels.csv").next()
    scores = tuned.embed(batch, outputs="scores").scores
    metrics = cavmae.classification_metrics(scores, batch.labels, context=model.context)
    assert f"mAP {metrics.mean_average_precision:.4f}" in said[6]
    if recipe:
        assert said[7] == f"accuracy {(scores.argmax(axis=1) == batch.labels.argmax(axis=1)).mean():.4f}"


def test_versions_agree():
    header = (REPOSITORY / "include" / "cavmae.h").read_text()
    assert re.search(r'#define CAVMAE_VERSION_STRING "(.*)"', header).group(1) == cavmae.__version__
    assert cavmae.version().split(".")[0] == cavmae.__version__.split(".")[0]


def test_the_shortest_program(model, tmp_path, monkeypatch, capsys):
    """As it is written in every introduction, with the authors' file and one's own clips."""
    cavmae.save_torch(tmp_path / "audio_model.21.pth", dict(model.parameters), "module.", context=model.context)
    shutil.copy(CLIP, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    names = {"paths": ["clip.mp4", MEDIA / "both.webm"]}
    exec(
        """
import cavmae
model = cavmae.load("audio_model.21.pth")
e = model.embed_file("clip.mp4")              # e.audio, e.visual, e.joint: NumPy arrays
index = cavmae.Index(model.embed_files(paths, progress=True)); found = index.search(e.audio, k=10)
""",
        names,
    )
    e, found = names["e"], names["found"]
    assert e.audio.shape == e.visual.shape == e.joint.shape == (32,) and capsys.readouterr().err == "2/2 files embedded\n"
    assert sorted(str(match.name) for match in found) == sorted(map(str, names["paths"]))
    own = next(match for match in found if match.name == "clip.mp4")
    assert own.score == pytest.approx(float(e.audio @ e.visual), abs=1e-6)


def test_a_wheel_holds_the_package(tmp_path, monkeypatch):
    sys.path.insert(0, str(HERE.parent))
    import build_backend
    from cavmae._library import library

    monkeypatch.setenv("CAVMAE_LIBRARY", library().path)
    name = build_backend.build_wheel(str(tmp_path))
    wheel = zipfile.ZipFile(tmp_path / name)
    inside = set(wheel.namelist())
    assert {"cavmae/__init__.py", "cavmae/py.typed", "cavmae/cavmae.h", "cavmae/lib/libcavmae.so.1"} <= inside
    assert all(path.name in {Path(one).name for one in inside} for path in (HERE.parent / "cavmae").glob("*.py"))
    metadata = wheel.read(f"cavmae-{cavmae.__version__}.dist-info/METADATA").decode()
    assert f"Version: {cavmae.__version__}\n" in metadata
    wheel.extractall(tmp_path / "unpacked")
    code = "import cavmae, cavmae._library as l; assert cavmae.Config.describe('lr').meaning; print(l.library().path)"
    done = run_python(code, PYTHONPATH=str(tmp_path / "unpacked"), CAVMAE_LIBRARY="")
    assert done.stdout.strip() == str(tmp_path / "unpacked" / "cavmae" / "lib" / "libcavmae.so.1"), done.stderr
    monkeypatch.setenv("CAVMAE_LIBRARY", "system")
    assert build_backend.build_wheel(str(tmp_path)).endswith("py3-none-any.whl")
    monkeypatch.setenv("CAVMAE_LIBRARY", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="no libcavmae.so.1"):
        build_backend.build_wheel(str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="no pip")
def test_pip_installs_it(tmp_path):
    """From the folder, and from what build_sdist makes; without a network."""
    from cavmae._library import library

    sys.path.insert(0, str(HERE.parent))
    import build_backend

    # A copy: pip writes beside what it builds.
    sources = tmp_path / "clone" / "bindings" / "python"
    shutil.copytree(HERE.parent, sources, ignore=shutil.ignore_patterns("__pycache__", "lib", "tests"))
    shutil.copytree(REPOSITORY / "include", tmp_path / "clone" / "include")
    archive = build_backend.build_sdist(str(tmp_path))
    environment = {**os.environ, "CAVMAE_LIBRARY": library().path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for number, what in enumerate((sources, tmp_path / archive)):
        target = tmp_path / f"installed{number}"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, what]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        code = "import cavmae; print(cavmae.__file__, cavmae.version(), bool(cavmae.Config.describe('lr').meaning))"
        said = run_python(code, PYTHONPATH=str(target), CAVMAE_LIBRARY="")
        assert said.stdout.split() == [str(target / "cavmae" / "__init__.py"), cavmae.version(), "True"], said.stderr
