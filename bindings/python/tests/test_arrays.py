"""Tensors, DLPack in both directions, files of tensors."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from conftest import CASES, run_python

import cavmae

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="no torch")


class Capsule:
    """Something with DLPack that says where it lies."""

    def __init__(self, tensor, device=(1, 0)):
        self.tensor, self.device = tensor, device

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__()

    def __dlpack_device__(self):
        return self.device


def test_tensors_of_numpy_arrays_share_memory(context):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = cavmae.Tensor.from_dlpack(array, context)
    assert tensor.shape == (2, 3) and tensor.dtype == "float32" and len(tensor) == 2
    tensor.numpy()[1, 2] = 50
    assert array[1, 2] == 50 and np.asarray(tensor)[1, 2] == 50
    assert repr(tensor) == "Tensor(float32, shape=(2, 3))"


def test_capsules_are_used_once(context):
    tensor = cavmae.Tensor.from_dlpack(np.zeros(3, np.int64), context)
    capsule = tensor.__dlpack__()
    other = cavmae.Tensor.from_dlpack(capsule, context)
    assert other.dtype == "int64"
    with pytest.raises(TypeError, match="not used yet"):
        cavmae.Tensor.from_dlpack(capsule, context)
    with pytest.raises(TypeError, match="__dlpack__"):
        cavmae.Tensor.from_dlpack("words", context)


def test_capsules_that_nobody_uses_are_freed(context):
    array = np.zeros(1000, np.float32)
    import sys

    before = sys.getrefcount(array)
    tensor = cavmae.Tensor.from_dlpack(array, context)
    capsule = tensor.__dlpack__()
    tensor.close()
    assert sys.getrefcount(array) == before + 1  # the capsule keeps it
    del capsule
    gc.collect()
    assert sys.getrefcount(array) == before


def test_memory_outlives_the_object_it_came_from(context):
    model = cavmae.Model(cavmae.Config("tiny", context=context))
    view = model.parameters["modality_a"]
    expected = view.copy()
    model.close()
    del model
    gc.collect()
    np.testing.assert_array_equal(view, expected)


def test_device_memory_is_refused_in_words(model, clips):
    tensor = cavmae.Tensor.from_dlpack(clips["audio"])
    for device, name in (((10, 0), "ROCm"), ((99, 0), "device type 99")):
        with pytest.raises(TypeError, match=f"audio lies in {name} memory.*audio.cpu"):
            model.embed(audio=Capsule(tensor, device))
    old = type("Old", (), {"__cuda_array_interface__": {"shape": (4,)}, "__array__": lambda *_: clips["audio"]})()
    with pytest.raises(TypeError, match="audio lies in CUDA memory.*audio.get"):
        model.embed(audio=old)
    assert model.embed(audio=Capsule(tensor, (3, 0))).audio.shape == (4, 32)  # pinned is the host's


def test_wrapped_arrays_are_released(context, tmp_path):
    import sys

    from cavmae import tensor as module

    array = np.ones((2, 2), np.float64)
    before = sys.getrefcount(array)
    wrapped = module.wrap(array, context)
    assert sys.getrefcount(array) == before + 1
    wrapped.close()
    assert sys.getrefcount(array) == before and not module._kept
    with pytest.raises(TypeError, match="complex128"):
        module.wrap(np.zeros(2, complex), context)
    with pytest.raises(ValueError, match="C-contiguous"):
        module.wrap(np.zeros((3, 3)).T[:, :2], context)


def test_safetensors(context, tmp_path):
    arrays = {
        "scalar": np.array(2.5),
        "bytes": np.arange(5, dtype=np.uint8),
        "truth": np.array([True, False]),
        "half": np.ones((2, 2), np.float16),
        "empty": np.zeros((0, 3), np.int32),
    }
    path = tmp_path / "some.safetensors"
    cavmae.save_safetensors(path, arrays, {"who": "a test"}, context=context)
    file = cavmae.SafetensorsFile(path, context=context)
    assert set(file) == set(arrays) and "who" not in file and file.metadata("who") == "a test"
    assert file.metadata("nothing") is None and file.metadata("crc32")
    for name, array in arrays.items():
        assert file[name].numpy().dtype == array.dtype and file[name].shape == array.shape
        np.testing.assert_array_equal(file[name].numpy(), array)
    with pytest.raises(KeyError, match="nothing"):
        file["nothing"]
    with pytest.raises(ValueError):
        file["bytes"].numpy()[0] = 1
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(cavmae.FormatError, match="crc|CRC"):
        cavmae.SafetensorsFile(path, context=context)


def test_npy(context, tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    cavmae.save_npy(tmp_path / "a.npy", array, context=context)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_torch_files_are_read_without_torch(context):
    file = cavmae.TorchFile(CASES / "vision_mae_float16.pth", context=context)
    assert len(file) > 5 and all(file[name].dtype == "float16" for name in list(file)[:3])


@needs_torch
def test_torch_files(context, tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(tensors, tmp_path / "in.pth")
    file = cavmae.TorchFile(tmp_path / "in.pth", context=context)
    assert file["b"].dtype == "bfloat16" and file["b"].numpy().dtype == np.float32 and file["b"].numpy()[1] == 1
    cavmae.save_torch(tmp_path / "out.pth", dict(file), "module.", context=context)
    back = torch.load(tmp_path / "out.pth")
    assert torch.equal(back["module.a"], tensors["a"]) and torch.equal(back["module.b"], tensors["b"])


@needs_torch
def test_torch_tensors_in_and_out(model, clips):
    audio, image = torch.from_numpy(clips["audio"].copy()), torch.from_numpy(clips["image"].copy())
    np.testing.assert_array_equal(model.embed(audio=audio, image=image).joint, model.embed(clips).joint)
    seen = torch.from_dlpack(model.tensor("modality_a"))
    np.testing.assert_array_equal(seen.numpy(), model.parameters["modality_a"])
    assert seen.data_ptr() == model.parameters["modality_a"].ctypes.data
    array = cavmae.Tensor.from_dlpack(audio)
    array.numpy()[0, 0, 0] = 77
    assert audio[0, 0, 0] == 77
    with pytest.raises(cavmae.Unsupported, match="image: .*row-major"):
        model.embed(image=image.permute(0, 1, 3, 2))
    with pytest.raises(TypeError, match="audio: .*require"):
        model.embed(audio=audio.clone().requires_grad_())
    with pytest.raises(TypeError, match="audio must be float32"):
        model.embed(audio=audio.double())


@needs_torch
def test_memory_outlives_in_torch(context):
    tensor = cavmae.Tensor.from_dlpack(np.full(1000, 3.0), context)
    seen = torch.from_dlpack(tensor)
    tensor.close()
    del tensor
    gc.collect()
    assert seen.sum() == 3000


@needs_torch
@pytest.mark.parametrize("order", ["import torch, cavmae", "import cavmae; cavmae.version(); import torch"])
def test_both_compute_at_once(order):
    """Each brings an OpenMP runtime, perhaps the same; what they give does not depend on the other's threads."""
    code = f"""
{order}
import threading
import numpy as np
model = cavmae.Model(cavmae.Config("tiny", dtype="bfloat16", context=cavmae.Context(threads=2)))
torch.set_num_threads(2)
audio, matrix = torch.randn(8, 128, 128), torch.randn(512, 512)
ours, theirs = model.embed(audio=audio).audio, matrix @ matrix
wrong = []
def embed():
    for _ in range(10):
        if not np.array_equal(model.embed(audio=audio).audio, ours):
            wrong.append("cavmae")
def multiply():
    for _ in range(30):
        if not torch.equal(matrix @ matrix, theirs):
            wrong.append("torch")
threads = [threading.Thread(target=work) for work in (embed, multiply, embed, multiply)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("fine" if not wrong else wrong)
"""
    done = run_python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


@needs_torch
@pytest.mark.parametrize(
    "order", ["import torch, cavmae", "import cavmae, torch", "import cavmae; cavmae.version(); import torch"]
)
def test_before_and_after_torch(order):
    code = f"""
{order}
import numpy as np
model = cavmae.Model(cavmae.Config("tiny"))
a = torch.randn(2, 128, 128)
e = model.embed(audio=a, outputs=("audio", "audio_tokens"))
b = torch.from_dlpack(model.tensor("modality_a"))
c = (torch.randn(64, 64) @ torch.randn(64, 64)).sum()
again = model.embed(audio=a)
assert np.array_equal(again.audio, e.audio)
print("fine", cavmae.Trainer(model).step(audio=a, image=torch.randn(2, 3, 64, 64)).step)
kept = torch.from_dlpack(cavmae.Tensor.from_dlpack(np.ones(3)))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("fine 1\n", "", 0)
