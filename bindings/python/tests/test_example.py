"""The example runs, and the package is what its files say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import HERE, REPOSITORY, run_python

import cavmae

EXAMPLE = HERE.parent / "examples" / "search_and_draw.py"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="no matplotlib")
def test_search_and_draw(data, tmp_path):
    import os

    out = tmp_path / "found.png"
    done = subprocess.run(
        [sys.executable, EXAMPLE, data / "train.json", out, "--epochs", "2"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "3 searches among 8 clips" in done.stdout and out.read_bytes().startswith(b"\x89PNG")


def test_versions_agree():
    header = (REPOSITORY / "include" / "cavmae.h").read_text()
    assert re.search(r'#define CAVMAE_VERSION_STRING "(.*)"', header).group(1) == cavmae.__version__
    assert cavmae.version().split(".")[0] == cavmae.__version__.split(".")[0]


def test_the_listings_of_the_readme(data, tmp_path):
    """The README's training loop, on a small model and few epochs."""
    text = (HERE.parent / "README.md").read_text()
    search, training = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    training = training.replace('"base", recipe="pretrain-scale+", batch=16', '"tiny", batch=4')
    training = training.replace("videos/", str(data / "train.json")).replace("range(25)", "range(2)")
    for name in ("checkpoint", "model"):
        training = training.replace(f'"{name}.safetensors"', repr(str(tmp_path / f"{name}.safetensors")))
    clip = REPOSITORY / "test" / "cases" / "media" / "both.mp4"
    search = search.replace("audio_model.21.pth", str(tmp_path / "model.safetensors")).replace("clip.mp4", str(clip))
    search = search.replace("paths,", f"[{str(clip)!r}],")
    done = run_python("import cavmae\n" + training + search)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert len(lines) == 4 + 1 + 1 and lines[4].endswith("both.mp4")


def test_a_wheel_holds_the_package(tmp_path, monkeypatch):
    sys.path.insert(0, str(HERE.parent))
    import build_backend
    from cavmae._library import library

    monkeypatch.setenv("CAVMAE_LIBRARY", library().path)
    name = build_backend.build_wheel(str(tmp_path))
    wheel = zipfile.ZipFile(tmp_path / name)
    inside = set(wheel.namelist())
    assert {"cavmae/__init__.py", "cavmae/py.typed", "cavmae/lib/libcavmae.so.1"} <= inside
    assert all(path.name in {Path(one).name for one in inside} for path in (HERE.parent / "cavmae").glob("*.py"))
    metadata = wheel.read(f"cavmae-{cavmae.__version__}.dist-info/METADATA").decode()
    assert f"Version: {cavmae.__version__}\n" in metadata
    wheel.extractall(tmp_path / "unpacked")
    code = "import cavmae._library as l; l.library(); print(l.library().path)"
    done = run_python(code, PYTHONPATH=str(tmp_path / "unpacked"), CAVMAE_LIBRARY="")
    assert done.stdout.strip() == str(tmp_path / "unpacked" / "cavmae" / "lib" / "libcavmae.so.1"), done.stderr
    monkeypatch.setenv("CAVMAE_LIBRARY", "system")
    assert build_backend.build_wheel(str(tmp_path)).endswith("py3-none-any.whl")
    monkeypatch.setenv("CAVMAE_LIBRARY", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="no libcavmae.so.1"):
        build_backend.build_wheel(str(tmp_path))
    assert build_backend.build_sdist(str(tmp_path)).endswith(".tar.gz")
