"""Arrays that say that they lie on a GPU: refused in words where none computes, and given to the library as they are where a
simulated one does, whose library takes memory that it does not know for the host's."""

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest

import cavmae
from cavmae import _device_arrays, tensor as tensors

CUDA = 2


class OnDevice:
    """A NumPy array that claims to be on a GPU; notes for which streams it was asked."""

    def __init__(self, array, number=0):
        self.array, self.number, self.streams = array, number, []

    def __dlpack_device__(self):
        return (CUDA, self.number)

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        capsule = cavmae.Tensor.from_dlpack(self.array).__dlpack__()
        found = tensors.capsule_contents(capsule)
        found.device_type, found.device_id = CUDA, self.number
        return capsule


@pytest.fixture(scope="module")
def simulated():
    library = os.environ.get("CAVMAE_LIBRARY", "")
    plugins = Path(library).parent.parent / "cudasim"
    if not (plugins / "libcavmae-cuda.so").is_file():
        pytest.skip("no simulated device was built")
    context = cavmae.Context(device="cuda", plugin_dir=str(plugins), threads=1)
    config = cavmae.Config("tiny", batch=4, classes=0, context=context)
    return config, cavmae.Model(config)


def test_refused_where_the_model_is_on_the_host(model, clips):
    with pytest.raises(TypeError, match=r"audio lies in memory of cuda:0, and this works on cpu.*audio.cpu.*cuda:0"):
        model.embed(audio=OnDevice(clips["audio"]))
    with pytest.raises(TypeError, match="joint lies in memory of cuda:0"):
        model.embed(**clips, out={"joint": OnDevice(np.zeros((4, 32), np.float32))})
    with pytest.raises(TypeError, match="image lies in CUDA memory.*host"):
        model.inpaint(audio=clips["audio"], image=OnDevice(clips["image"]))
    with pytest.raises(TypeError, match="labels lies in CUDA memory"):
        cavmae.Batch(**clips, labels=OnDevice(np.zeros((4, 2), np.float32)))


def test_type_shape_and_strides(clips):
    with pytest.raises(TypeError, match="audio must be float32, not f8"):
        cavmae.Batch(audio=OnDevice(clips["audio"].astype(np.float64)))
    with pytest.raises(ValueError, match="audio must have 2 or 3 dimensions, not 1"):
        cavmae.Batch(audio=OnDevice(np.zeros(4, np.float32)))
    array = _device_arrays.DeviceArray(OnDevice(np.zeros((2, 3), np.float32)), "x")
    array._check_compact((3, 1))
    with pytest.raises(ValueError, match="x must be C-contiguous"):
        array._check_compact((1, 2))
    with pytest.raises(TypeError, match="NumPy cannot read it"):
        cavmae.Batch(audio=OnDevice(clips["audio"]), image=clips["image"]).copy()


def test_embedding_on_a_device(simulated, clips):
    _, model = simulated
    expected = model.embed(**clips)
    there = {name: OnDevice(array) for name, array in clips.items()}
    batch = cavmae.Batch(**there)
    assert len(batch) == 4 and batch.replace(world_count=4).audio is batch.audio
    joint, audio = np.zeros((4, 32), np.float32), OnDevice(np.zeros((4, 32), np.float32))
    found = model.embed(batch, out={"joint": joint, "audio": audio})
    assert found.joint is joint and found.audio is audio and found.visual is None
    np.testing.assert_array_equal(joint, expected.joint)
    np.testing.assert_array_equal(audio.array, expected.audio)
    assert there["audio"].streams == [1, 1]  # when it was given, and for the call
    with pytest.raises(TypeError, match="audio lies in memory of cuda:3, and this works on cuda:0"):
        model.embed(audio=OnDevice(clips["audio"], 3))


def test_training_on_a_device(simulated, clips):
    config, _ = simulated
    losses = []
    for give in (lambda array: array, OnDevice):
        trainer = cavmae.Trainer(cavmae.Model(config), config)
        batch = {name: give(array) for name, array in clips.items()}
        losses.append([trainer.step(batch).loss for _ in range(3)])
    assert losses[0] == losses[1] and losses[0][2] != losses[0][0]


def test_out_on_the_host(model, clips):
    expected = model.embed(**clips).joint
    joint = np.zeros_like(expected)
    assert model.embed(**clips, out={"joint": joint}).joint is joint
    np.testing.assert_array_equal(joint, expected)
    with pytest.raises(ValueError, match=r"out: joint must have the shape \(4, 32\), not \(4, 31\)"):
        model.embed(**clips, out={"joint": np.zeros((4, 31), np.float32)})
    with pytest.raises(ValueError, match="'joint', which is not among"):
        model.embed(**clips, outputs=("audio",), out={"joint": joint})
    with pytest.raises(TypeError, match="out: joint is no array that can be filled"):
        model.embed(**clips, out={"joint": joint.tolist()})
    joint.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        model.embed(**clips, out={"joint": joint})


def test_the_capsule_holds_the_memory(clips):
    released = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    class Owner(OnDevice):
        def __dlpack__(self, stream=None):
            capsule = super().__dlpack__(stream)
            found = tensors.capsule_contents(capsule)
            deleter = kind(ctypes.cast(found.deleter, ctypes.c_void_p).value)
            self.kept = kind(lambda address: (released.append(1), deleter(address))[0])
            found.deleter = self.kept
            return capsule

    owner = Owner(clips["audio"])
    batch = cavmae.Batch(audio=owner)
    assert not released
    del batch
    assert released == [1]
