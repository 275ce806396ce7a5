"""What the tests share: small models, a data set made on the spot, golden cases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
CASES = REPOSITORY / "test" / "cases"
MEDIA = CASES / "media"
CLIP = MEDIA / "both.mp4"

sys.path.insert(0, str(HERE.parent))

import cavmae  # noqa: E402


@pytest.fixture(scope="session")
def context():
    return cavmae.Context(threads=2)


@pytest.fixture
def config(context):
    return cavmae.Config("tiny", batch=4, lr=1e-3, context=context)


@pytest.fixture
def model(config):
    return cavmae.Model(config)


@pytest.fixture
def clips():
    """A batch for the tiny preset."""
    random = np.random.default_rng(1)
    return {
        "audio": random.standard_normal((4, 128, 128), np.float32),
        "image": random.standard_normal((4, 3, 64, 64), np.float32),
    }


CLASSES = ("low", "middle", "high")


def write_sound(path: Path, hertz: float, seconds: float = 1.5) -> None:
    time = np.arange(int(16000 * seconds)) / 16000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((8000 * np.sin(2 * np.pi * hertz * time)).astype("<i2").tobytes())


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with train.json, labels.csv, 8 sounds of three classes, and pictures."""
    folder = tmp_path_factory.mktemp("data")
    entries = []
    for frame in range(10):
        (folder / f"frame_{frame}").mkdir()
    for number in range(8):
        name, kind = f"clip{number}", number % 3
        write_sound(folder / f"{name}.wav", 300 * (kind + 1) + 10 * number)
        for frame in range(10):
            shutil.copy(MEDIA / "picture.jpg", folder / f"frame_{frame}" / f"{name}.jpg")
        entries.append({"video_id": name, "wav": f"{name}.wav", "video_path": ".", "labels": f"/m/{CLASSES[kind]}"})
    (folder / "train.json").write_text(json.dumps({"data": entries}))
    rows = [f"{index},/m/{name},{name}" for index, name in enumerate(CLASSES)]
    (folder / "labels.csv").write_text("index,mid,display_name\n" + "\n".join(rows) + "\n")
    return folder


def run_python(code: str, *flags: str, seconds: float = 120, **variables: str) -> subprocess.CompletedProcess:
    """A process of its own, with warnings as errors; what it says and how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), **variables}
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *flags, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd="/",  # where no package of this name lies
    )


def golden_cases(kind: str) -> list[Path]:
    """The cases in the tree, and more where the oracle's folder lies beside it; without those of the paper's size."""
    found = {path.name: path for path in sorted((REPOSITORY.parent / "shared" / "golden").glob("*.safetensors"))}
    found.update({path.name: path for path in sorted(CASES.glob("*.safetensors"))})
    with cavmae.Context(threads=1) as small:
        return [
            path
            for name, path in sorted(found.items())
            if "base" not in name and cavmae.SafetensorsFile(path, context=small).metadata("kind") == kind
        ]


def golden_config(file: "cavmae.SafetensorsFile", context: "cavmae.Context") -> "cavmae.Config":
    """A case's configuration: its metadata has some keys by the reference's names."""
    names = {"num_classes": "classes", "eps": "adam_eps", "tau": "contrast_temperature", "head_lr": "head_lr_factor"}
    config = cavmae.Config("base", context=context)

    def put(values: dict) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                put(value)
            elif key == "betas":
                config.beta1, config.beta2 = value
            elif key == "bidirectional":
                config.contrast_direction = "both" if value else "v2a"
            elif key == "sample_rate":
                config.sample_rate = value
            elif key == "size":
                config.image_size = value
            elif key != "steps":
                config[names.get(key, key)] = value

    put(json.loads(file.metadata("config")))
    put(json.loads(file.metadata("options")))
    return config


def _hash(name: str) -> int:
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return value


def fill_by_hash(model: "cavmae.Model") -> None:
    """Parameters from their names, as test/fill_by_hash.h: golden cases need not hold them."""
    for name, old in model.parameters.items():
        if "pos_embed" in name:
            continue
        with np.errstate(over="ignore"):
            z = np.uint64(_hash(name)) + np.arange(old.size, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
        uniform = ((z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).astype(np.float32)
        norm = ("norm" in name or name.startswith("mlp_head.0")) and name.endswith("weight")
        values = 1 + np.float32(0.1) * uniform if norm else np.float32(0.05) * uniform
        model.parameters[name] = values.astype(np.float32).reshape(old.shape)


def close(got: np.ndarray, expected: np.ndarray, relative: float) -> bool:
    """The largest difference against the largest value, as test/golden_report.h measures."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        return False
    largest = np.abs(expected).max(initial=0)
    return bool(np.abs(got - expected).max(initial=0) <= relative * max(largest, 1e-12))
